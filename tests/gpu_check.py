"""Prove on one CUDA card, within ten minutes, that the suite is right and fast there.

    make gpu-check                                      # every check; table and JSON in reports/bench-local
    python -m tests.gpu_check --only losses steps       # some checks, or groups of them; only printed without --out
    python -m tests.gpu_check --quick                   # everything on toy sizes
    python -m tests.gpu_check --device cpu --quick      # a rehearsal without a card

Each check prints one line when it ends. `ok` and `FAILED` compare a number with its limit, `measured` has no limit that
must hold, `skipped` gives a reason, and `not run` means that the time was up before the check could start. The files
are rewritten after each check. The exit code is 0 if no check failed, 1 if one did, 2 if there is no such device.

Pictures are drawn and weights are random; nothing is downloaded.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seminar import catalogue, cost, machine, recipes, sweep, views
from seminar.data import PADDING, UNLABELLED, Example
from seminar.data.creatures import Creatures, make
from seminar.losses import losses
from seminar.parts import Entry
from seminar.spec import InputError, Scalar, Stage
from seminar.store import Store, write_atomic
from seminar.train import Trainer
from tests import bench_crf
from tests.bench import PAPER, ROOT, Table, Words, build, endless, photos, spread

BUDGET = 600.0
"""Seconds after which no check starts any more."""
WHOLE, THREE = PAPER[-1], PAPER[-2]
VOC_IMAGES, VOC_VALIDATION, VOC_EPOCHS, VOC_BATCH = 10_582, 1_449, 60, 12
"""The paper's training: images of VOC 2012 + SBD to train on and to validate on, epochs, images per batch."""
GOAL_STEP, GOAL_CRF, GOAL_RATIO, GOAL_HOURS = 110.0, 4.0, 1.45, 24.0
"""On an H100: ms of a ResNet-101 step with all losses in bf16, ms of the CRF in it, (pce+crf+pcons) / pce, GPU-hours of
the trainings of the paper's table and figures."""
SYNC = "called a synchronizing CUDA operation"
"""How torch's warning about a host synchronisation begins."""

State = Literal["ok", "FAILED", "measured", "skipped", "not run"]


@dataclass
class Outcome:
    """What a check found: its number and its limit in words, tables for people, `data` for the JSON."""

    state: State
    number: str
    limit: str = ""
    tables: list[Table] = field(default_factory=list)
    data: Any = None
    seconds: float = 0.0
    traceback: str | None = None


class Skipped(Exception):
    """Raised by a check that cannot be made here, with the reason."""


@dataclass
class Run:
    """The device, the time that is left, and what earlier checks measured.

    `small`: toy sizes. `found`: `Outcome.data` by the name of the check.
    """

    folder: Path
    device: torch.device
    small: bool
    deadline: float
    found: dict[str, Any] = field(default_factory=dict)
    _batches: dict[tuple[int, int], dict[str, Tensor]] = field(default_factory=dict)

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        """Seconds until no check starts any more."""
        return self.deadline - time.monotonic()

    def photo_words(self) -> Words:
        """Settings that train on drawn photos of VOC's usual size with 21 classes."""
        root = self.folder / "photos"
        if not root.exists():
            shape = (96, 72) if self.small else (500, 375)
            photos(root, 16 if self.small else 32, 64 if self.small else 128, 21, shape)
        return {"data": "folder", "data_root": str(root), "device": str(self.device), "pretrained": "none"}

    def paper(self, backbone: str, precision: str, **given: Scalar) -> Words:
        """The paper's setting (513 px, batch 12); where sizes are small, a small network at 48 px and batch 4."""
        small: Words = {"crop": 48, "batch_size": 4, "output_stride": 8} if self.small else {}
        backbone = "small_resnet" if self.small else backbone
        return {**self.photo_words(), "profile": "voc", "backbone": backbone, "precision": precision, **small, **given}

    def batch(self, owner: Trainer) -> dict[str, Tensor]:
        """One full batch of training views, in pinned memory for a GPU; drawn once for each size."""
        size = owner.stage.crop, owner.stage.batch_size
        if size not in self._batches:
            views = next(endless(owner))
            self._batches[size] = {name: view.pin_memory() if self.cuda else view for name, view in views.items()}
        return self._batches[size]


@dataclass(frozen=True)
class Check:
    """A named check. `least`: seconds that must be left for it to start."""

    name: str
    function: Callable[[Run], Outcome]
    least: float = 0.0


CHECKS: dict[str, Check] = {}


def check(name: str, least: float = 0.0) -> Callable[[Callable[[Run], Outcome]], Callable[[Run], Outcome]]:
    """Decorator: register the function below as check `name`. Checks run in the order of registration."""

    def register(function: Callable[[Run], Outcome]) -> Callable[[Run], Outcome]:
        CHECKS[name] = Check(name, function, least)
        return function

    return register


def within(value: float, limit: float, what: str, **rest: Any) -> Outcome:
    """`ok` where `value` is at most `limit`; NaN fails."""
    return Outcome("ok" if value <= limit else "FAILED", f"{what} {value:.2g}", f"{limit:g}", **rest)


def relative(value: float, reference: float) -> float:
    return abs(value - reference) / max(abs(reference), 1e-12)


def largest(*values: float) -> float:
    """The largest value; NaN counts as infinite."""
    return max(math.inf if math.isnan(value) else value for value in values)


def far(one: Tensor, other: Tensor) -> float:
    """Relative L2 distance of a tensor from a reference, on the CPU in float64."""
    mine, truth = one.detach().cpu().double(), other.detach().cpu().double()
    return float((mine - truth).norm() / truth.norm().clamp(min=1e-30))


def free() -> None:
    """Hand back the GPU memory of everything that is no longer referred to."""
    machine.free_memory(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


@contextmanager
def tensor_float_32(on: bool) -> Iterator[None]:
    """Allow or forbid TF32 in matrix products."""
    matmul: Any = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if on else "ieee"
    try:
        yield
    finally:
        matmul.fp32_precision = before


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use up to `count` threads on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(min(count, os.cpu_count() or 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def has_module(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


# ---- right


@check("environment")
def environment(run: Run) -> Outcome:
    """The card and the software."""
    found: dict[str, Any] = dict(machine.environment(run.device))
    found.pop("command")  # the report is to be committed, and paths of this machine say nothing to others
    found |= {"cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()}
    found |= {"cudnn.benchmark": torch.backends.cudnn.benchmark}
    for name, backend in (("cuda.matmul", torch.backends.cuda.matmul), ("cudnn.conv", torch.backends.cudnn.conv)):
        found[f"{name}.fp32_precision"] = getattr(backend, "fp32_precision", "unknown")
    if run.cuda:
        properties = torch.cuda.get_device_properties(run.device)
        found |= {"cards": torch.cuda.device_count(), "driver": driver()}
        found["capability"] = f"{properties.major}.{properties.minor}"
    table = Table("Environment (flags as before the first training)", ("what", "value"))
    table.rows = [(name, str(value)) for name, value in found.items()]
    number = f"{found['device']}, torch {torch.__version__}, commit {found['commit']}"
    return Outcome("measured", number, tables=[table], data=found)


def driver() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.splitlines()[0].strip() if done.stdout else "unknown"


def loss_inputs(bf16: bool) -> dict[str, Tensor]:
    """Random inputs for every loss on the CPU: 4 images, 7 classes, 48 x 40 pixels. One image has padding on two sides,
    one has no click, and the masks have void pixels. `bf16`: logits in bfloat16."""
    generator = torch.Generator().manual_seed(4)
    shape = (4, 48, 40)

    def classes() -> Tensor:
        return torch.randint(0, 7, shape, generator=generator)

    def share(part: float) -> Tensor:
        return torch.rand(shape, generator=generator) < part

    inside = torch.ones(shape, dtype=torch.bool)
    inside[2, 30:], inside[2, :, 25:] = False, False
    labels = torch.where(share(0.02), classes(), UNLABELLED)
    labels[3] = UNLABELLED
    masks = torch.where(share(0.9), classes(), UNLABELLED)
    labels, masks, pseudo = (torch.where(inside, each, PADDING) for each in (labels, masks, classes()))
    image = torch.stack([make(5, number, 48).image[:, :, :40] for number in range(4)]).float() * inside[:, None]
    logits = [3 * torch.randn(4, 7, *shape[1:], generator=generator) for _ in range(2)]
    logits.append(3 * torch.randn(4, 7, *shape[1:], generator=generator))
    student, teacher, ancillary = (each.bfloat16() if bf16 else each for each in logits)
    return {
        "student": student,
        "teacher": teacher,
        "labels": labels,
        "masks": masks,
        "pseudo": pseudo,
        "ancillary": ancillary,
        "image": image,
        "inside": inside,
    }


def variants(entry: Entry[Any]) -> Iterator[dict[str, Scalar]]:
    """The default settings of a loss, then every other choice of each setting that is a list of choices."""
    yield {}
    for name, (adapter, default) in entry.settings.items():
        schema = adapter.json_schema()
        found = [
            value for part in (schema, *schema.get("anyOf", ())) for value in part.get("enum", [part.get("const")])
        ]
        for value in found:
            if value is not None and value != default:
                yield {name: value}


def value_and_gradient(
    entry: Entry[Any], inputs: Mapping[str, Tensor], settings: Mapping[str, Scalar], device: torch.device
) -> tuple[float, Tensor]:
    here = {name: value.to(device) for name, value in inputs.items()}
    logits = here["student"].detach().clone().requires_grad_()
    result = entry.make(*({**here, "student": logits}[name] for name in entry.inputs), **settings)
    value = result[0] if isinstance(result, tuple) else result
    (gradient,) = torch.autograd.grad(value, logits)
    return float(value.detach()), gradient.float().cpu()


@check("losses")
def loss_terms(run: Run) -> Outcome:
    """Value and gradient of every loss, on the device against float32 on the CPU."""
    table = Table(
        "Losses: the device against the CPU in float32",
        ("loss", "arithmetic", "value, relative", "limit", "gradient, relative L2", "limit"),
    )
    shares: dict[str, float] = {}
    data: list[dict[str, Any]] = []
    for kind, tf32, gradient_limit in (
        ("fp32", False, 1e-4),
        ("TF32 allowed", True, 1e-4),
        ("bf16 logits", False, 2e-2),
    ):
        inputs = loss_inputs(kind == "bf16 logits")
        wide = {name: value.float() if value.dtype == torch.bfloat16 else value for name, value in inputs.items()}
        for name in losses:
            for settings in variants(losses[name]):
                value, gradient = value_and_gradient(losses[name], wide, settings, torch.device("cpu"))
                with tensor_float_32(tf32):
                    here, gradient_here = value_and_gradient(losses[name], inputs, settings, run.device)
                off, gradient_off = relative(here, value), far(gradient_here, gradient)
                printed = " ".join([name, *(f"{word}={choice}" for word, choice in settings.items())])
                numbers = f"{off:.1e}", "0.0001", f"{gradient_off:.1e}", f"{gradient_limit:g}"
                table.rows.append((printed, kind, *numbers))
                data.append({"loss": printed, "arithmetic": kind, "value": off, "gradient": gradient_off})
                shares[f"{printed}, {kind}"] = largest(off / 1e-4, gradient_off / gradient_limit)
    worst = max(shares, key=lambda case: shares[case])
    what = f"{len(shares)} cases, error as a share of its limit at worst ({worst})"
    return within(shares[worst], 1.0, what, tables=[table], data=data)


@check("crf")
def crf_operators(run: Run) -> Outcome:
    """The CRF on a map of 128 x 128: the exact kernel on the device against the CPU, and `auto` against exact."""
    crop = 96 if run.small else 256
    table = Table(
        f"CRF on maps of {crop // 2} x {crop // 2}",
        ("image, softmax", "compared", "loss, relative", "limit", "gradient, relative L2", "limit", "landmarks"),
    )
    worst = 0.0
    for number, case in enumerate(bench_crf.cases(Creatures(seed=7, train=2, val=1, size=crop), crop, 0.5, 2)):
        here = case.to(run.device)
        for stage in ("early", "mid"):
            loss, gradient, _ = bench_crf.run(here, here.maps[stage], "exact")
            fast_loss, fast_gradient, facts = bench_crf.run(here, here.maps[stage], "auto")
            count = f"{float(facts.landmarks[0]):.0f}"
            compared = [("auto, exact", fast_loss, fast_gradient, loss, gradient, 1.5e-2, 5e-2, count)]
            if stage == "mid":
                with threads(8):
                    truth, true_gradient, _ = bench_crf.run(case, case.maps[stage], "exact")
                compared.append(("exact: device, CPU", loss, gradient, truth, true_gradient, 1e-4, 1e-4, ""))
            for name, value, mine, reference, its, limit, gradient_limit, landmarks in compared:
                off, gradient_off = relative(value, reference), far(mine, its)
                numbers = f"{off:.1e}", f"{limit:g}", f"{gradient_off:.1e}", f"{gradient_limit:g}", landmarks
                table.rows.append((f"{number}, {stage}", name, *numbers))
                worst = largest(worst, off / limit, gradient_off / gradient_limit)
    return within(worst, 1.0, "error as a share of its limit at worst", tables=[table], data=table.rows)


def curve(owner: Trainer, batches: Sequence[Mapping[str, Tensor]]) -> list[float]:
    """The total loss of one step for each batch, without dropout."""
    for net in (owner.student, *([owner.teacher.net] if owner.teacher is not None else [])):
        for part in net.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
    owner.student.train()
    last = owner.stage.epochs - 1  # past every ramp
    found = [owner.step(views, last, number)["loss"] for number, views in enumerate(batches)]
    return [float(value) for value in found]


@check("curves")
def curves(run: Run) -> Outcome:
    """20 steps with small learning rate and without dropout: losses on the device against those on the CPU."""
    first, steps = 5, 8 if run.small else 20
    common: Words = {"losses": THREE, "lr": 0.001, "epochs": 60, "warmup_steps": 0}
    settings: dict[str, Words] = {"toy": {"profile": "toy", **common}}
    if not run.small:
        # With this crf_scale both devices use the exact CRF. freeze=bn and the learning rate keep rounding small: with
        # random weights, BatchNorm by the statistics of 4 images raises it from 1e-7 to 1e-4 in one forward pass and to
        # 0.1 in one step, also between one and two threads of a CPU.
        rest: Words = {"crop": 129, "batch_size": 4, "crf_scale": 0.25, "freeze": "bn"}
        settings["MobileNetV2, freeze=bn, 129 px, batch 4"] = {
            **run.paper("mobilenet_v2", "fp32", **rest),
            **common,
            "lr": 0.00002,
        }
    table = Table(
        "Curves: relative difference of the loss from the CPU's in float32",
        ("setting", "precision", f"first {first} steps", "limit", f"all {steps} steps", "by step"),
    )
    data: dict[str, Any] = {}
    worst = 0.0
    for name, given in settings.items():
        owner = build({**given, "device": "cpu"})
        views = endless(owner)
        batches = [next(views) for _ in range(steps)]
        with threads(1 if name == "toy" else 8):  # on small networks several threads only wait for each other
            truth = curve(owner, batches)
        del owner, views
        data[name] = {"cpu": truth}
        for precision in ("fp32", "tf32", "bf16"):
            if not run.cuda and precision != "fp32":
                continue
            here: Words = {**given, "device": str(run.device), "precision": precision}
            found = with_trainer(here, functools.partial(curve, batches=batches))
            off = [relative(one, other) for one, other in zip(found, truth)]
            beginning = largest(*off[:first])
            shown = " ".join(f"{x:.0e}" for x in off)
            limit = "0.001" if precision == "fp32" else ""
            table.rows.append((name, precision, f"{beginning:.1e}", limit, f"{largest(*off):.1e}", shown))
            data[name][precision] = found
            worst = max(worst, beginning) if precision == "fp32" else worst
    return within(worst, 1e-3, f"fp32, largest of the first {first} steps:", tables=[table], data=data)


def with_trainer(given: Words, action: Callable[[Trainer], Any]) -> Any:
    """Return what `action` makes of a new trainer, and free that trainer."""
    try:
        return action(build(given))
    finally:
        free()


def places_of_syncs(action: Callable[[], object]) -> list[str]:
    """Where `action` makes the host wait for the GPU, one line for each time."""
    places: list[str] = []

    def note(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        if SYNC not in str(message):
            return
        frames = [frame for frame in traceback.extract_stack() if frame.filename.startswith(str(ROOT / "seminar"))]
        chain = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-3:]))
        places.append(chain or f"{filename}:{lineno}")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = note  # type: ignore[assignment]
        action()
    return places


@check("syncs")
def syncs(run: Run) -> Outcome:
    """Times that the host waits for the GPU within a training step after warm-up."""
    if not run.cuda:
        raise Skipped("needs CUDA")
    table = Table("Host synchronisations within one step of the whole method", ("precision", "number", "where"))
    data: dict[str, list[str]] = {}

    def count(owner: Trainer) -> list[str]:
        batch, last = run.batch(owner), owner.stage.epochs - 1
        owner.student.train()
        for number in range(2):
            owner.step(batch, last, number)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            return places_of_syncs(lambda: owner.step(batch, last, 2))
        finally:
            torch.cuda.set_sync_debug_mode("default")

    for precision in ("fp32", "bf16"):
        found = with_trainer(run.paper("resnet101", precision, losses=WHOLE), count)
        data[precision] = found
        table.rows.append((precision, str(len(found)), "; ".join(dict.fromkeys(found))))
    # The counter is proved to count: one deliberate wait must be seen.
    torch.cuda.set_sync_debug_mode("warn")
    try:
        seen = len(places_of_syncs(lambda: float(torch.ones((), device=run.device))))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    table.rows.append(("a deliberate one", str(seen), "gpu_check.py"))
    worst = max(map(len, data.values()))
    where = "; ".join(dict.fromkeys(itertools.chain(*data.values())))
    state: State = "ok" if worst == 0 and seen >= 1 else "FAILED"
    number = (
        f"{worst} per step" + (f" at {where}" if where else "") + ("" if seen else "; a deliberate wait is not seen")
    )
    return Outcome(state, number, "0", [table], data)


@check("layout")
def layout(run: Run) -> Outcome:
    """In bf16 every convolution keeps channels-last, and the losses get float32 logits."""

    def look(owner: Trainer) -> tuple[int, list[str], dict[str, str]]:
        total, wrong = 0, []
        kinds: dict[str, str] = {}

        def watch(name: str) -> Callable[..., None]:
            def hook(_: nn.Module, __: Any, output: Tensor) -> None:
                nonlocal total
                if output.shape[-2:] == (1, 1):
                    return
                total += 1
                if not output.is_contiguous(memory_format=torch.channels_last):
                    wrong.append(name)

            return hook

        convolutions = [(name, part) for name, part in owner.student.named_modules() if isinstance(part, nn.Conv2d)]
        handles = [part.register_forward_hook(watch(name)) for name, part in convolutions]
        undo: list[Callable[[], None]] = []
        for term in owner.stage.losses:
            entry = losses[term.name]

            def noted(*arguments: Any, entry: Entry[Any] = entry, plain: Any = entry.make, **settings: Any) -> Any:
                for name, value in zip(entry.inputs, arguments):
                    if name in ("student", "teacher"):
                        kinds[f"{entry.name}: {name}"] = str(value.dtype).removeprefix("torch.")
                return plain(*arguments, **settings)

            undo.append(lambda entry=entry, plain=entry.make: setattr(entry, "make", plain))  # type: ignore[misc]
            entry.make = noted
        try:
            owner.student.train()
            owner.step(run.batch(owner), owner.stage.epochs - 1, 0)
        finally:
            for each in (*undo, *(handle.remove for handle in handles)):
                each()
        return total, wrong, kinds

    table = Table("Layout in bf16", ("network", "outputs of convolutions", "not channels-last", "logits of the losses"))
    data: dict[str, Any] = {}
    bad, outputs = 0, 0
    for backbone in ("resnet101",) if run.small else ("resnet101", "mobilenet_v2"):
        given = run.paper(backbone, "bf16", losses=WHOLE)
        total, wrong, kinds = with_trainer(given, look)
        narrow = [name for name, kind in kinds.items() if kind != "float32"]
        printed = "float32" if not narrow else ", ".join(f"{name} {kinds[name]}" for name in narrow)
        table.rows.append((str(given["backbone"]), str(total), ", ".join(wrong) or "0", printed))
        data[str(given["backbone"])] = {"outputs": total, "not channels-last": wrong, "logits": kinds}
        bad, outputs = bad + len(wrong) + len(narrow), outputs + total
    state: State = "ok" if bad == 0 and outputs else "FAILED"
    return Outcome(state, f"{bad} of {outputs} outputs wrong", "0", [table], data)


@check("repeat")
def repeat(run: Run) -> Outcome:
    """Two runs of 3 steps from the same seed."""
    size: Words = {} if run.small else {"crop": 257, "batch_size": 4}
    table = Table("Repeated: two runs of 3 steps", ("precision", "bit for bit", "relative difference by step"))
    data: dict[str, Any] = {}
    worst = 0.0

    def three(owner: Trainer) -> list[float]:
        owner.student.train()
        batch = run.batch(owner)
        torch.manual_seed(0)  # for dropout
        found = [owner.step(batch, owner.stage.epochs - 1, number)["loss"] for number in range(3)]
        return [float(value) for value in found]

    for precision in ("fp32", "bf16") if run.cuda else ("fp32",):
        given = run.paper("mobilenet_v2", precision, losses=WHOLE, **size)
        one, other = (with_trainer(given, three) for _ in range(2))
        off = [relative(mine, yours) for mine, yours in zip(one, other)]
        table.rows.append((precision, "yes" if one == other else "no", " ".join(f"{x:.1e}" for x in off)))
        data[precision] = [one, other]
        worst = largest(worst, off[0])
    same = "bit for bit" if all(one == other for one, other in data.values()) else "not bit for bit"
    return within(worst, 1e-3, f"{same}; first step:", tables=[table], data=data)


# ---- whole programs


def command(run: Run, *arguments: str, processes: int = 1) -> list[str]:
    torchrun = (
        [] if processes == 1 else ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    )
    return [sys.executable, *torchrun, "-m", "seminar", *arguments, f"device={run.device.type}"]


def surroundings() -> dict[str, str]:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def call(run: Run, given: Sequence[str]) -> None:
    """Run a program to its end. Raises `RuntimeError` with the end of what it printed where it fails."""
    limit = max(60.0, run.left())
    try:
        done = subprocess.run(
            given, cwd=ROOT, env=surroundings(), capture_output=True, text=True, check=False, timeout=limit
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"did not end in {limit:.0f} s: {' '.join(given[1:])}") from None
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:]}")


@check("sweep")
def whole_sweep(run: Run) -> Outcome:
    """`seminar sweep` of Table 3 on toy images, two workers on one card."""
    absent = [name for name in ("optuna", "sqlalchemy") if not has_module(name)]
    if absent:
        raise Skipped(f"{' and '.join(absent)} cannot be imported")
    runs = run.folder / "sweep"
    rest = ["--workers", "2", "--wandb", "disabled", "--runs", str(runs)]
    free()
    call(run, command(run, "sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy", "seed=0", *rest))
    given: dict[str, tuple[Scalar, ...]] = {"profile": ("toy",), "seed": (0,), "device": ("cpu",)}
    wanted = stages_of(recipes.cells(sweep.load(ROOT / "sweeps" / "losses.yaml"), given))
    store = Store(runs)
    records = {key: store.record(key) for key in wanted}
    card = torch.cuda.get_device_name(run.device) if run.cuda else "cpu"
    done = [key for key, record in records.items() if record is not None]
    elsewhere = [key for key in done if records[key]["environment"]["device"] != card]  # type: ignore[index]
    state: State = "ok" if len(done) == len(wanted) and not elsewhere else "FAILED"
    number = f"{len(done)} trainings done, {len(elsewhere)} of them not on {card}"
    data = {
        key: {name: record[name] for name in ("seconds", "peak_memory_mb")} for key, record in records.items() if record
    }
    return Outcome(state, number, f"{len(wanted)} done", data=data)


def stages_of(cells: Sequence[catalogue.Cell]) -> dict[str, Stage]:
    """Every training behind the cells, by key."""
    return {stage.key: stage for cell in cells for stage in cell.stage.chain}


def curve_of(runs: Path) -> list[dict[str, Any]]:
    """The lines of the only training in a folder of runs."""
    store = Store(runs)
    (key,) = store.keys()
    if store.record(key) is None:
        raise RuntimeError(f"{runs}: the training is not finished")
    return store.curve(key)


def apart(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> float:
    """The largest relative difference between the total losses of two curves, over all epochs; infinite where an epoch
    is missing or there twice."""
    epochs = [line["epoch"] for line in other]
    if not epochs or epochs != list(range(1, len(other) + 1)) or epochs != [line["epoch"] for line in one]:
        return math.inf
    return largest(*(relative(mine["loss"], yours["loss"]) for mine, yours in zip(one, other)))


@check("kill")
def kill(run: Run) -> Outcome:
    """A training that is killed and started again, against one that is not."""
    epochs = 20 if run.small else 40
    given = ["profile=toy", f"losses={THREE}", "lr=0.001", f"epochs={epochs}", f"eval_every={epochs}"]

    def training(runs: Path) -> list[str]:
        return command(run, "train", *given, "--runs", str(runs), "--wandb", "disabled")

    whole, broken = run.folder / "unkilled", run.folder / "killed"
    limit = time.monotonic() + max(60.0, run.left())
    started: list[subprocess.Popen[bytes]] = []
    free()
    try:
        with (run.folder / "kill.log").open("wb") as log:
            for runs in (whole, broken):
                options: dict[str, Any] = {"cwd": ROOT, "env": surroundings(), "stdout": log, "stderr": log}
                started.append(subprocess.Popen(training(runs), **options))
        unkilled, victim = started
        while not list(broken.glob("*/checkpoint.pt")):
            if victim.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"no checkpoint: {(run.folder / 'kill.log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.01)
        victim.send_signal(signal.SIGKILL)
        if victim.wait(30) != -signal.SIGKILL:
            raise RuntimeError("the training ended before it could be killed")
        (key,) = Store(broken).keys()
        kept = len(Store(broken).curve(key))
        call(run, training(broken))
        if unkilled.wait(max(30.0, limit - time.monotonic())):
            raise RuntimeError((run.folder / "kill.log").read_text(errors="replace")[-2000:])
    finally:
        for process in started:
            process.kill()
            process.wait()
    off = apart(curve_of(whole), curve_of(broken))
    record = Store(broken).record(key)
    assert record is not None
    data = {"difference": off, "epochs before the kill": kept, "sessions": record["sessions"]}
    if record["sessions"] != 2:
        return Outcome("FAILED", f"{record['sessions']} sessions instead of 2", data=data)
    what = f"killed after {kept} of {epochs} epochs; losses differ by"
    return within(off, 2e-2, what, data=data)


@check("memory")
def memory(run: Run) -> Outcome:
    """A training that does not fit on the card is refused while planning, with settings that would fit."""
    if not run.cuda:
        raise Skipped("needs CUDA")
    cell = recipes.one({"loader_workers": 0, "seed": 0, **run.paper("resnet101", "bf16", losses="pce+pcons")})
    gigabytes = 0.1 if run.small else 6.0
    here = torch.cuda.current_device()
    total = torch.cuda.get_device_properties(here).total_memory
    torch.cuda.set_per_process_memory_fraction(gigabytes * 2**30 / total, here)
    try:
        cost.survey_here(run.device, {cost.shape(cell.stage): (cell.stage, cell.host)}, {})
    except InputError as error:
        printed = str(error)
    else:
        return Outcome("FAILED", f"the training was planned with {gigabytes:g} GB")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, here)
    right = "does not fit" in printed and "these would: " in printed
    return Outcome("ok" if right else "FAILED", f"with {gigabytes:g} GB: {printed}", "a line with settings that fit")


@check("torchrun")
def torchrun(run: Run) -> Outcome:
    """A training on two cards against the same on one."""
    cards = torch.cuda.device_count() if run.cuda else 0
    if cards < 2:
        raise Skipped("one card" if cards else "no card")
    given = ["profile=toy", f"losses={THREE}", "lr=0.001", "epochs=3", "eval_every=3", "--wandb", "disabled"]
    found = []
    for processes in (1, 2):
        runs = run.folder / f"processes-{processes}"
        call(run, command(run, "train", *given, "--runs", str(runs), processes=processes))
        found.append(curve_of(runs))
    return within(apart(*found), 1e-2, "2 processes; losses differ by", data=found)


# ---- fast


def clocked(device: torch.device, action: Callable[[int], object], count: int) -> list[float]:
    """Milliseconds of each of `count` calls, by CUDA events on a GPU; calls are not waited for in between."""
    if device.type != "cuda":
        marks = [time.perf_counter()]
        for number in range(count):
            action(number)
            marks.append(time.perf_counter())
        return [1e3 * (after - before) for before, after in itertools.pairwise(marks)]
    torch.cuda.synchronize(device)
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for number in range(count):
        action(number)
        events[number + 1].record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in itertools.pairwise(events)]


def measured(run: Run, owner: Trainer) -> dict[str, Any]:
    """Times in ms and memory of the steps of a trainer on one loaded batch: `step`, `memory`, `crf` (loss and gradient
    of that term alone), `forward` (of one network on a batch, as in evaluation)."""
    warm_up, count = (1, 3) if run.small else (3, 10)
    batch, last = run.batch(owner), owner.stage.epochs - 1
    names = {term.name: term for term in owner.stage.losses}
    owner.student.train()
    free()
    if run.cuda:
        torch.cuda.reset_peak_memory_stats(run.device)
    values: list[Tensor] = []

    def step(number: int) -> None:
        values.append(owner.step(batch, last, number % owner.total_steps)["loss"])

    first = clocked(run.device, step, warm_up)
    found: dict[str, Any] = {"warm_up": first, "step": clocked(run.device, step, count), "loss": float(values[-1])}
    if run.cuda:
        found["cudnn.benchmark"] = torch.backends.cudnn.benchmark
        found["cudnn.allow_tf32"] = torch.backends.cudnn.allow_tf32
        found["memory"] = torch.cuda.max_memory_allocated(run.device) >> 20
        found["reserved"] = torch.cuda.max_memory_reserved(run.device) >> 20
    if "crf" in names:
        with torch.no_grad():
            inputs = owner.inputs(batch, 0)
        inputs["student"] = inputs["student"].detach().requires_grad_()
        entry, settings = losses["crf"], dict(names["crf"].settings)

        def crf(_: int) -> None:
            value, _facts = entry.make(*(inputs[name] for name in entry.inputs), **settings)  # type: ignore[misc]
            torch.autograd.grad(value, inputs["student"])

        clocked(run.device, crf, warm_up)
        found["crf"] = clocked(run.device, crf, count)
        del inputs
    if set(names) >= {"pseudo"}:
        network_input = views.normalise(batch["image"].to(run.device).float())
        bf16 = torch.autocast(run.device.type, torch.bfloat16, enabled=owner.stage.precision == "bf16")
        owner.student.eval()
        with torch.inference_mode(), bf16:
            clocked(run.device, lambda _: owner.student(network_input), warm_up)
            found["forward"] = clocked(run.device, lambda _: owner.student(network_input), count)
    return found


STEP_COLUMNS = (
    "losses",
    "ms per step (quartiles)",
    "images/s",
    "to pce alone",
    "CRF alone, ms",
    "peak memory MB (reserved)",
)


def step_row(names: str, found: Mapping[str, Any], alone: float | None, images: int) -> tuple[str, ...]:
    middle = statistics.median(found["step"])
    return (
        names,
        spread(found["step"], digits=1),
        f"{1e3 * images / middle:,.0f}",
        "" if alone is None else f"{middle / alone:.2f}",
        spread(found["crf"], digits=2) if "crf" in found else "",
        f"{found['memory']:,} ({found['reserved']:,})" if "memory" in found else "",
    )


def paper_steps(
    run: Run, backbone: str, precision: str, combinations: Sequence[str] = PAPER, **given: Scalar
) -> Outcome:
    """Time and memory of the paper's step, by losses."""
    if precision == "tf32" and not run.cuda:
        raise Skipped("needs CUDA")
    data: dict[str, Any] = {}
    table = Table("", STEP_COLUMNS)
    for names in combinations:
        printed: str | None = None
        setting = run.paper(backbone, precision, losses=names, **given)
        if run.left() < 0:
            table.rows.append((names, "not run: time is up", *[""] * 4))
            continue
        try:
            data[names] = with_trainer(setting, lambda owner: measured(run, owner))
        except torch.OutOfMemoryError:
            printed = "out of memory"
        free()  # after the error, whose traceback holds the networks
        alone = statistics.median(data["pce"]["step"]) if "pce" in data else None
        images = recipes.one(setting).stage.batch_size
        table.rows.append((names, printed, *[""] * 4) if printed else step_row(names, data[names], alone, images))
    stage = recipes.one(setting).stage
    compiled = ", compiled" if stage.compile else ""
    table.title = f"Step: {stage.backbone}, {stage.crop} px, batch {stage.batch_size}, {precision}{compiled}"
    return Outcome("measured", *step_words(run, data, table), [table], data)


def step_words(run: Run, data: Mapping[str, Any], table: Table) -> tuple[str, str]:
    """The number and the goal of one setting."""
    if WHOLE not in data:
        return f"whole method: {table.rows[-1][1]}", ""
    whole = statistics.median(data[WHOLE]["step"])
    crf = statistics.median(data[WHOLE]["crf"])
    parts = [f"whole method {whole:.1f} ms", f"CRF {crf:.2f} ms"]
    goals = [(whole, GOAL_STEP, "step"), (crf, GOAL_CRF, "CRF")]
    if "pce" in data and THREE in data:
        ratio = statistics.median(data[THREE]["step"]) / statistics.median(data["pce"]["step"])
        parts.append(f"{THREE} / pce {ratio:.2f}")
        goals.append((ratio, GOAL_RATIO, "ratio"))
    title = table.title
    goal = ""
    if not run.small and "resnet101" in title and "bf16" in title:
        printed = [f"{what} <= {limit:g} {'met' if value <= limit else 'missed'}" for value, limit, what in goals]
        goal = f"goals on an H100: {', '.join(printed)}"
    return ", ".join(parts), goal


def register_steps() -> None:
    for backbone in ("resnet101", "mobilenet_v2"):
        for precision in ("bf16", "tf32", "fp32"):

            def steps(run: Run, backbone: str = backbone, precision: str = precision) -> Outcome:
                return paper_steps(run, backbone, precision)

            check(f"steps-{backbone}-{precision}")(steps)


register_steps()


def steps_found(run: Run) -> dict[tuple[str, str], Mapping[str, Any]]:
    """What the checks of the steps measured, by backbone and precision, where pce and the whole method are among it."""
    found = {}
    for name, data in run.found.items():
        if name.startswith("steps-") and data and {"pce", WHOLE} <= data.keys():
            backbone, _, precision = name.removeprefix("steps-").rpartition("-")
            found[backbone, precision] = data
    return found


class Again(Sequence[Example]):
    """The same examples over and over, as if there were `count`."""

    def __init__(self, examples: Sequence[Example], count: int) -> None:
        self.examples, self.count = examples, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: Any) -> Any:
        return self.examples[index % len(self.examples)]


@check("loader", least=20)
def loader(run: Run) -> Outcome:
    """Images per second of training views from photos of 500 x 375, against what the step needs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    counts = (1,) if run.small else tuple(sorted({4, 8, max(1, cores - 1)}))
    seconds = 0.5 if run.small else 6.0
    owner = build(run.paper("mobilenet_v2", "fp32", losses=THREE))
    batch = owner.stage.batch_size
    owner.train_examples = Again(owner.train_examples, batch * 2000)
    rates: dict[int, float] = {}
    for workers in counts:
        owner.host = owner.host.model_copy(update={"loader_workers": workers})
        views = owner.loader(0)
        for _ in range(2 * workers + 1):  # what the workers prepared before they could be slow
            next(views)
        started, images = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            images += len(next(views)["image"])
        rates[workers] = images / (time.perf_counter() - started)
        views.close()  # type: ignore[attr-defined]
    del owner
    free()
    needs = {
        f"{backbone}, {precision}": 1e3 * batch / statistics.median(data[WHOLE]["step"])
        for (backbone, precision), data in steps_found(run).items()
    }
    table = Table(f"Training views, images/s on {cores} cores", ("loader workers", "images/s", "enough for"))
    for workers, rate in rates.items():
        enough = [name for name, need in needs.items() if rate >= need]
        table.rows.append(
            (str(workers), f"{rate:.0f}", "; ".join(enough) or "none" if needs else "no step is measured")
        )
    table.rows += [(f"the step needs: {name}", f"{need:.0f}", "") for name, need in needs.items()]
    best = max(rates, key=lambda workers: rates[workers])
    number = f"{rates[best]:.0f} images/s with {best} workers"
    most = max(needs.values(), default=None)
    limit = (
        "" if most is None else f"goal: {most:.0f}, as the fastest step, {'met' if rates[best] >= most else 'missed'}"
    )
    return Outcome("measured", number, limit, [table], {"rates": rates, "needs": needs})


def step_ms(data: Mapping[str, Any], terms: set[str]) -> float:
    """Milliseconds of a step with these losses: as measured, else pce plus what each other term adds. `ce` counts as
    pce."""
    middle = {names: statistics.median(found["step"]) for names, found in data.items()}
    wanted = {"pce" if name == "ce" else name for name in terms}
    for names, value in middle.items():
        if set(names.split("+")) == wanted:
            return value
    adds = {"crf": ("pce+crf", "pce"), "pcons": ("pce+pcons", "pce"), "pseudo": (WHOLE, THREE)}
    known = [adds[name] for name in wanted - {"pce"} if name in adds]
    return middle["pce"] + sum(middle[more] - middle[less] for more, less in known if {more, less} <= middle.keys())


def training_hours(stage: Stage, data: Mapping[str, Any]) -> float:
    """GPU-hours of one training of the paper from measured steps; the last evaluation at full size is left out."""
    steps = math.ceil(VOC_IMAGES / VOC_BATCH)
    forward = statistics.median(data[WHOLE]["forward"]) * math.ceil(VOC_VALIDATION / VOC_BATCH)
    evaluation = forward * (2 if stage.has_teacher else 1) / stage.eval_every
    terms = {term.name for term in stage.losses}
    return VOC_EPOCHS * (steps * step_ms(data, terms) + evaluation) / 3.6e6


def paper_plan(run: Run) -> dict[str, dict[str, Stage]]:
    """The trainings of the paper with one seed, by key, in groups that each hold the ones before."""
    sweeps = [sweep.load(path) for path in sorted((ROOT / "sweeps").glob("*.yaml"))]
    grids = [each for each in sweeps if not each.is_search]
    given = {name: (value,) for name, value in run.paper("resnet101", "fp32").items()}
    if run.small:
        given |= {"backbone": ("resnet101",)}
    given |= {"seed": (0,), "device": ("cpu",)}
    given.pop("precision")
    both = {**given, "backbone": ("resnet101", "mobilenet_v2")}
    (table3,) = recipes.suite([each for each in grids if each.name == "losses"], both)
    planned = recipes.suite(grids, given)
    figures = [each for each in planned if re.match(r"Fig\.", each.sweep.description)]
    groups = {
        "Table 3, both backbones": [table3],
        "Table 3 and Figs. 4 and 5": [table3, *figures],
        "all grids": [table3, *planned],
    }
    return {name: stages_of([cell for each in parts for cell in each.cells]) for name, parts in groups.items()}


@check("plan")
def plan(run: Run) -> Outcome:
    """GPU-hours of the paper's trainings, from the measured steps."""
    found = {} if run.small else steps_found(run)  # steps of toy sizes say nothing of the paper's
    precisions = [
        precision
        for precision in ("bf16", "tf32", "fp32")
        if all((backbone, precision) in found for backbone in ("resnet101", "mobilenet_v2"))
    ]
    groups = paper_plan(run)
    table = Table(
        f"GPU-hours of the paper, one seed ({VOC_EPOCHS} epochs of {VOC_IMAGES:,} images, an evaluation every epoch)",
        ("what", "trainings", *precisions),
    )
    data: dict[str, Any] = {}
    for name, stages in groups.items():
        hours = {
            precision: sum(training_hours(stage, found[stage.backbone, precision]) for stage in stages.values())
            for precision in precisions
        }
        table.rows.append((name, str(len(stages)), *(f"{hours[precision]:.1f}" for precision in precisions)))
        data[name] = {"trainings": len(stages), "hours": hours}
    wanted = data["Table 3 and Figs. 4 and 5"]
    count = f"{wanted['trainings']} trainings (Table 3 with both backbones, Figs. 4 and 5)"
    if not precisions:
        return Outcome("measured", f"{count}; no step is measured for both backbones", tables=[table], data=data)
    printed = ", ".join(f"{precision} {hours:.1f} h" for precision, hours in wanted["hours"].items())
    verdicts = [f"{name} {'met' if hours <= GOAL_HOURS else 'missed'}" for name, hours in wanted["hours"].items()]
    goal = "" if run.small else f"goal on an H100: <= {GOAL_HOURS:g} h, {', '.join(verdicts)}"
    return Outcome("measured", f"{count}: {printed}", goal, [table], data)


@check("compiled", least=60)
def compiled(run: Run) -> Outcome:
    """The whole method in bf16 with `compile=true`."""
    if not run.cuda:
        raise Skipped("needs CUDA")
    try:
        outcome = paper_steps(run, "resnet101", "bf16", [WHOLE], compile=True)
    except InputError as error:
        raise Skipped(str(error)) from None
    if WHOLE in (outcome.data or {}):
        seconds = sum(outcome.data[WHOLE]["warm_up"]) / 1e3
        outcome.number += f", after {seconds:.0f} s of compiling and warm-up"
    return outcome


# ---- all together


@dataclass
class Report:
    """The outcomes so far. Both files are rewritten after each check."""

    title: str
    target: Path | None
    """Where to write, without suffix; None: nowhere."""
    budget: float
    outcomes: dict[str, Outcome] = field(default_factory=dict)

    def add(self, name: str, outcome: Outcome) -> None:
        self.outcomes[name] = outcome
        limit = f" (limit {outcome.limit})" if outcome.state in ("ok", "FAILED") and outcome.limit else ""
        limit = f" ({outcome.limit})" if outcome.state == "measured" and outcome.limit else limit
        print(f"{name:<23} {outcome.state:<8} {outcome.number}{limit}  {outcome.seconds:.1f} s", flush=True)
        self.write()

    def lines(self) -> list[str]:
        table = Table("Checks", ("check", "state", "number", "limit or goal", "seconds"))
        for name, found in self.outcomes.items():
            row = (name, found.state, found.number, found.limit, f"{found.seconds:.1f}")
            table.rows.append(tuple(cell.replace("|", "\\|").replace("\n", " ") for cell in row))
        lines = [f"# GPU check: {self.title}", "", self.summary(), "", *table.lines(), ""]
        for found in self.outcomes.values():
            for each in found.tables:
                lines += [*each.lines(), ""]
        return lines

    def summary(self) -> str:
        states = [found.state for found in self.outcomes.values()]
        counts = [f"{states.count(state)} {state}" for state in ("ok", "FAILED", "measured", "skipped", "not run")]
        seconds = sum(found.seconds for found in self.outcomes.values())
        return f"{len(states)} checks: {', '.join(counts)}; {seconds:.0f} s of at most {self.budget:.0f}."

    def write(self) -> None:
        if self.target is None:
            return
        checks = [
            {
                "name": name,
                "state": found.state,
                "number": found.number,
                "limit": found.limit,
                "seconds": round(found.seconds, 2),
                "tables": [vars(table) for table in found.tables],
                "data": found.data,
                "traceback": found.traceback,
            }
            for name, found in self.outcomes.items()
        ]
        body = json.dumps({"device": self.title, "checks": checks}, indent=1, default=str) + "\n"
        for suffix, text in ((".md", "\n".join(self.lines())), (".json", body)):
            path = self.target.parent / (self.target.name + suffix)
            write_atomic(path, lambda file, text=text: file.write(text.encode()))  # type: ignore[misc]


def perform(chosen: Check, run: Run) -> Outcome:
    """Make one check. An error in it is its failure."""
    if run.left() <= chosen.least:
        return Outcome("not run", "time is up")
    started = time.monotonic()
    try:
        outcome = chosen.function(run)
    except Skipped as reason:
        outcome = Outcome("skipped", str(reason))
    except Exception as error:
        printed = " ".join(f"{type(error).__name__}: {error}".split())
        outcome = Outcome("FAILED", printed if len(printed) <= 300 else f"{printed[:150]} ... {printed[-145:]}")
        outcome.traceback = traceback.format_exc().replace(str(ROOT), "")
    free()
    outcome.seconds = time.monotonic() - started
    run.found[chosen.name] = outcome.data
    return outcome


def slug(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def chosen_checks(only: Sequence[str] | None) -> list[Check]:
    """The checks of these names, in their usual order; `steps` stands for all `steps-...`. Raises `ValueError`."""
    if only is None:
        return list(CHECKS.values())
    for name in only:
        if not any(known == name or known.startswith(f"{name}-") for known in CHECKS):
            raise ValueError(f"{name}: choose from {', '.join(CHECKS)}")
    return [found for name, found in CHECKS.items() if any(name == o or name.startswith(f"{o}-") for o in only)]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_check", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: reports/bench-local, for all checks")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=", ".join(CHECKS))
    parser.add_argument("--quick", action="store_true", help="toy sizes; without --out nothing is written")
    parser.add_argument("--budget", type=float, default=BUDGET, metavar="SECONDS", help="default: %(default)g")
    options = parser.parse_args(arguments)
    try:
        checks = chosen_checks(options.only)
    except ValueError as error:
        parser.error(str(error))
    if options.device == "cuda" and not torch.cuda.is_available():
        print("gpu-check: there is no CUDA card here; --device cpu rehearses the checks on the CPU", file=sys.stderr)
        return 2
    device = torch.device(options.device)
    small = options.quick or device.type == "cpu"
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else "rehearsal on a CPU"
    out = options.out or (None if options.only or small else ROOT / "reports" / "bench-local")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    report = Report(card + (", toy sizes" if small else ""), None if out is None else out / slug(card), options.budget)
    folder = Path(tempfile.mkdtemp(prefix="gpu-check-"))
    try:
        run = Run(folder, device, small, started + options.budget)
        for each in checks:
            report.add(each.name, perform(each, run))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(["", *report.lines()[2:]]) if report.target is None else report.summary())
    if report.target is not None:
        print(f"wrote {report.target}.md and .json, {time.monotonic() - started:.0f} s in all")
    states = {found.state for found in report.outcomes.values()}
    return int("FAILED" in states or states == {"not run"})


if __name__ == "__main__":
    sys.exit(main())
