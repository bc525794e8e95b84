"""Speed and its growth, side by side in one run, as tables, JSON and a figure.

    make bench                            # everything: a quarter of an hour on two CPU cores
    make bench DEVICE=cuda                # on a GPU; the paper's step there: make gpu-check
    python -m tests.bench step loading    # parts of it: step, evaluation, loading, size, start, overhead, growth,
                                          # reports; only printed, unless --out names a folder

Cases that are compared take turns, step by step, after two rounds of warm-up; medians, and the quartiles beside them.
Ratios are medians of the ratios of each round.
Pictures are drawn (21 classes, 384 px) and weights are random: neither changes what a step costs, but for the CRF,
which looks at the colours.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.models import mobilenet_v2

from seminar import cost, machine, recipes
from seminar.__main__ import main as seminar
from seminar.data.creatures import make
from seminar.losses import losses
from seminar.spec import InputError, Scalar
from seminar.train import Trainer
from tests import records

ROOT = Path(__file__).parents[1]
PAPER = ("pce", "pce+crf", "pce+pcons", "pce+crf+pcons", "pce+crf+pcons+pseudo")
OTHERS = tuple(f"pce+{name}" for name in losses if name not in ("pce", "ce", "crf", "pcons", "pseudo"))
LOSSES = PAPER + OTHERS
"""The paper's rows, and every other registered term beside pCE."""
WARM_UP = 2
SHORT, SHORT_STEP = 5, 0.1
"""So many times more rounds where a step takes fewer seconds: the shorter, the less steady."""
Words = dict[str, Scalar]


@dataclass
class Table:
    """Rows for people; `Results` keeps the numbers."""

    title: str
    columns: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def lines(self) -> list[str]:
        rule = "|" + "---|" * len(self.columns)
        return [f"**{self.title}**", "", *("| " + " | ".join(row) + " |" for row in (self.columns,)), rule] + [
            "| " + " | ".join(row) + " |" for row in self.rows
        ]


def spread(values: Sequence[float], scale: float = 1.0, digits: int = 0) -> str:
    """Median (lower to upper quartile)."""
    low, middle, high = np.percentile(np.asarray(values) * scale, [25, 50, 75])
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


# ---- what is measured on


def photos(root: Path, images: int, size: int, classes: int, shape: tuple[int, int] | None = None) -> Path:
    """Draw a folder of pictures of side `size` with clicks and masks; a quarter is to validate on.

    `shape` (width, height): stretch the drawings to this size and add a little noise. That is much faster than drawing
    them as large, and the files are as large as those of photos.
    """
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    rows = ["image,x,y,class"]
    width, height = shape or (size, size)
    for number in range(images):
        example = make(3, number, size)
        picture = Image.fromarray(example.image.permute(1, 2, 0).numpy())
        mask = Image.fromarray(example.mask.numpy() % classes)
        if shape is not None:
            grain = np.random.default_rng(number).normal(0, 4, (height, width, 3))
            large = np.asarray(picture.resize(shape, Image.Resampling.BICUBIC)) + grain
            picture = Image.fromarray(large.clip(0, 255).astype(np.uint8))
            mask = mask.resize(shape, Image.Resampling.NEAREST)
        picture.save(root / "images" / f"{number}.jpg", quality=90)
        mask.save(root / "masks" / f"{number}.png")
        for click in example.clicks:
            x, y = (click.x, click.y) if shape is None else (click.x * width // size, click.y * height // size)
            rows.append(f"{number},{x},{y},{click.cls % classes}")
    (root / "clicks.csv").write_text("\n".join(rows))
    (root / "classes.txt").write_text("\n".join(["background", *(f"class {number}" for number in range(1, classes))]))
    (root / "val.txt").write_text("\n".join(str(number) for number in range(images // 4)))
    return root


@dataclass
class Bench:
    """Where this run keeps what it measures on, and its device."""

    folder: Path
    device: str
    rounds: int

    def photo_words(self, classes: int = 21) -> Words:
        root = self.folder / f"photos-{classes}"
        if not root.exists():
            photos(root, 48, 384, classes)
        return {"data": "folder", "data_root": str(root), "device": self.device}

    def groups(self) -> dict[str, Words]:
        """Settings whose losses are compared with each other."""
        weights = self.folder / "mobilenet.pth"
        if not weights.exists():
            torch.save(mobilenet_v2(weights=None).state_dict(), weights)
        scratch: Words = {**self.photo_words(), "pretrained": "none"}
        found: dict[str, Words] = {
            "creatures: small_resnet, 64 px, batch 12": {"profile": "creatures", "device": self.device},
            "voc-mini: MobileNetV2 frozen, light head, 257 px, batch 8": {
                **self.photo_words(),
                "profile": "folder",
                "weights": str(weights),
            },
            "MobileNetV2 whole, 257 px, batch 4": {
                **scratch,
                "profile": "voc",
                "backbone": "mobilenet_v2",
                "crop": 257,
                "batch_size": 4,
            },
        }
        for settings in found.values():
            settings.pop("loader_workers", None)
        return found


def trainer(settings: Mapping[str, Scalar]) -> Trainer:
    owner = build(settings)
    for split in (owner.train_examples, owner.val_examples):
        deque(split, maxlen=0)  # whatever is drawn or read once is not part of a step
    return owner


def build(settings: Mapping[str, Scalar]) -> Trainer:
    """Build a trainer whose data have not been read yet."""
    cell = recipes.one({"loader_workers": 0, "seed": 0, **settings})
    return cost.untrained(cell.stage, cell.host)


def endless(owner: Trainer) -> Iterator[dict[str, torch.Tensor]]:
    """Full batches of one epoch after the other."""
    epoch = 0
    while True:
        for views in owner.loader(epoch):
            if len(views["image"]) == owner.stage.batch_size:
                yield views
        epoch += 1


# ---- the step and its parts


class Clock:
    """Adds up the seconds spent in what it wraps, by name."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, defaultdict[str, float](float)

    def now(self) -> float:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        started = self.now()
        yield
        self.seconds[name] += self.now() - started

    def wrap(self, owner: Any, attribute: str, name: str | Callable[..., str]) -> Callable[[], None]:
        """Time every call of `owner.attribute` under `name`, or what that makes of its arguments; returns what undoes
        it."""
        plain = getattr(owner, attribute)

        def timed(*arguments: Any, **options: Any) -> Any:
            with self.at(name if isinstance(name, str) else name(*arguments)):
                return plain(*arguments, **options)

        setattr(owner, attribute, timed)
        return lambda: setattr(owner, attribute, plain)

    @contextmanager
    def inside(self, owner: Trainer) -> Iterator[None]:
        """Time the parts of the steps of a trainer."""
        undo = [self.wrap(torch.Tensor, "backward", "backward"), self.wrap(owner.optimizer, "step", "optimiser")]
        undo += [self.wrap(losses[term.name], "make", term.name) for term in owner.stage.losses]
        nets: dict[nn.Module | None, str] = {owner.student.encoder: "frozen backbone", owner.learner: "student"}
        if owner.teacher is not None:
            undo.append(self.wrap(owner.teacher, "update", "EMA"))
            nets[owner.teacher.net] = "teacher"
        nets[owner.ancillary] = "ancillary"
        undo.append(self.wrap(owner.compiled, "run", lambda net, *_: nets[net]))
        yield
        for each in reversed(undo):
            each()


def step(bench: Bench) -> tuple[list[Table], dict[str, Any]]:
    """Time of a training step, by losses and by part."""
    table = Table(
        "Training step",
        ("setting", "losses", "ms per step (quartiles)", "images/s", "to pce alone", "peak memory MB"),
    )
    parts = Table("Where the milliseconds of a step go", ("setting", "losses", "parts"))
    data: dict[str, Any] = {}
    for group, settings in bench.groups().items():
        owners = {names: trainer({**settings, "losses": names}) for names in LOSSES}
        views = {names: endless(owner) for names, owner in owners.items()}
        whole: dict[str, list[float]] = defaultdict(list)
        split: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for number in range(WARM_UP + bench.rounds * SHORT):
            if number == WARM_UP + bench.rounds and statistics.median(whole["pce"]) > SHORT_STEP:
                break
            for names, owner in owners.items():
                clock = Clock(bench.device)
                owner.student.train()
                with clock.at("data"):
                    batch = next(views[names])
                place = owner.stage.epochs - 1, number % owner.total_steps
                started = clock.now()
                with clock.inside(owner):
                    owner.step(batch, *place)
                split_up = took = clock.now() - started
                if bench.device == "cuda":  # where the clock waits for every part, which training does not
                    started = clock.now()
                    owner.step(batch, *place)
                    took = clock.now() - started
                if number < WARM_UP:
                    continue
                whole[names].append(took)
                seconds = dict(clock.seconds)
                seconds["other"] = split_up - sum(value for name, value in seconds.items() if name != "data")
                for name, value in seconds.items():
                    split[names][name].append(value)
        batch_size = owners["pce"].stage.batch_size
        del owners, views
        machine.free_memory(torch.device(bench.device))
        data[group] = {}
        for names in LOSSES:
            middle = statistics.median(whole[names])
            middles = {name: statistics.median(values) for name, values in split[names].items()}
            memory = peak_memory(bench, {**settings, "losses": names})
            # Round by round, so that a machine that is slower for a while is so for both.
            ratio = statistics.median(one / alone for one, alone in zip(whole[names], whole["pce"]))
            rate = f"{batch_size / middle:,.1f}"
            table.rows.append((group, names, spread(whole[names], 1e3), rate, f"{ratio:.2f}", str(memory)))
            shown = sorted(middles.items(), key=lambda item: -item[1])
            text = ", ".join(f"{name} {1e3 * value:.1f}" for name, value in shown if value > 5e-4 * middle)
            parts.rows.append((group, names, text))
            data[group][names] = {"seconds": whole[names], "parts": middles, "peak_memory_mb": memory}
    return [table, parts], data


def peak_memory(bench: Bench, settings: Words) -> int | None:
    """MB of 2^20 bytes at three steps, of tensors on a GPU, of the whole process on a CPU; in a process of its own."""
    code = (
        "import json, sys; from tests import bench; from seminar import machine\n"
        "owner = bench.trainer(json.loads(sys.argv[1])); views = bench.endless(owner); owner.student.train()\n"
        "for number in range(3): owner.step(next(views), owner.stage.epochs - 1, number)\n"
        "print(machine.peak_memory_mb(owner.device))"
    )
    command = [sys.executable, "-c", code, json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    last = done.stdout.split()[-1]
    return None if last == "None" else int(last)


# ---- around the step


def timed(action: Callable[[], Any], repeats: int = 3) -> list[float]:
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        found.append(time.perf_counter() - started)
    return found


def evaluation(bench: Bench) -> tuple[list[Table], dict[str, Any]]:
    table = Table("Evaluation", ("setting", "networks", "images/s (quartiles)"))
    data: dict[str, Any] = {}
    for group, settings in bench.groups().items():
        for names, networks in (("pce", "student"), ("pce+pcons", "student and teacher")):
            owner = trainer({**settings, "losses": names})
            owner.evaluate("crop")
            rates = [len(owner.val_examples) / seconds for seconds in timed(lambda owner=owner: owner.evaluate("crop"))]
            table.rows.append((group, networks, spread(rates, digits=1)))
            data[f"{group}, {networks}"] = rates
    return [table], data


def loading(bench: Bench) -> tuple[list[Table], dict[str, Any]]:
    table = Table(
        "Training views, whole epochs with the start of the workers",
        ("setting", "images of an epoch", "loader workers", "images/s (quartiles)"),
    )
    data: dict[str, Any] = {}
    for group, settings in bench.groups().items():
        for workers in (0, 1, 2):
            owner = trainer({**settings, "losses": "pce+crf+pcons", "loader_workers": workers})
            rates = []
            for epoch in range(4):
                started = time.perf_counter()
                count = sum(len(batch["image"]) for batch in owner.loader(epoch))
                rates.append(count / (time.perf_counter() - started))
            table.rows.append((group, str(count), str(workers), spread(rates[1:])))
            data[f"{group}, {workers}"] = rates[1:]
    return [table], data


def size(bench: Bench) -> tuple[list[Table], dict[str, Any]]:
    """How the step grows with crop and classes."""
    table = Table("Step (pce+crf+pcons, MobileNetV2 whole, batch 4)", ("crop", "classes", "ms per step (quartiles)"))
    data: dict[str, Any] = {}
    cases = [(crop, 21) for crop in (129, 257, 385)] + [(129, classes) for classes in (7, 60)]
    for crop, classes in cases:
        settings = {**bench.photo_words(classes), "profile": "voc", "pretrained": "none", "backbone": "mobilenet_v2"}
        owner = trainer({**settings, "crop": crop, "batch_size": 4, "losses": "pce+crf+pcons"})
        views, clock = endless(owner), Clock(bench.device)
        owner.student.train()
        seconds = []
        for number in range(WARM_UP + max(3, bench.rounds // 2)):
            batch = next(views)
            started = clock.now()
            owner.step(batch, 0, number)
            seconds.append(clock.now() - started)
        table.rows.append((str(crop), str(classes), spread(seconds[WARM_UP:], 1e3)))
        data[f"{crop} px, {classes} classes"] = seconds[WARM_UP:]
    return [table], data


def start(bench: Bench) -> tuple[list[Table], dict[str, Any]]:
    table = Table("Start-up of a process", ("what", "seconds (quartiles)"))
    data: dict[str, Any] = {}
    for name, code in (
        ("python", "pass"),
        ("import torch, torchvision", "import torch, torchvision"),
        ("import seminar.train", "import seminar.train"),
        ("seminar status", "from seminar.__main__ import main; main(['status', '--runs', 'nowhere'])"),
    ):
        command = [sys.executable, "-c", code]
        seconds = timed(lambda command=command: subprocess.run(command, check=True, cwd=ROOT, capture_output=True), 5)
        table.rows.append((name, spread(seconds, digits=2)))
        data[name] = seconds
    return [table], data


def overhead(bench: Bench) -> tuple[list[Table], dict[str, Any]]:
    """What the suite adds to the default training: record, checkpoints, weights, pictures, W&B offline, Optuna."""
    runs, names, seeds = bench.folder / "overhead", "pce+crf+pcons", 2
    command = [sys.executable, "-m", "seminar", "sweep", "sweeps/losses.yaml", f"losses={names}", "--workers", "1"]
    command += ["--seeds", str(seeds), "--runs", str(runs), "--wandb", "offline", f"device={bench.device}"]
    started = time.time()
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True, env={**os.environ, "WANDB_SILENT": "true"})
    wall = time.time() - started
    found = []
    for path in runs.glob("*/record.json"):
        record, first = json.loads(path.read_text()), (path.parent / "stage.json").stat().st_mtime
        found.append((path.stat().st_mtime - first, float(record["seconds"])))
    inside, training = sum(whole for whole, _ in found), sum(seconds for _, seconds in found)
    table = Table(
        f"Overhead of the suite: `seminar sweep`, {len(found)} default trainings ({names}) in one worker, W&B offline",
        ("what", "seconds", "share"),
        [
            ("training and evaluating", f"{training:.1f}", f"{training / wall:.1%}"),
            ("around each training (in sum)", f"{inside - training:.1f}", f"{(inside - training) / wall:.1%}"),
            ("once per call: start, plan, end", f"{wall - inside:.1f}", f"{(wall - inside) / wall:.1%}"),
        ],
    )
    return [table], {"wall": wall, "inside": inside, "training": training}


# ---- growth


def growth(bench: Bench) -> tuple[list[Table], dict[str, Any]]:
    table = Table("Growth", ("what", "seconds (quartiles)"))
    data: dict[str, Any] = {}

    def tell(name: str, action: Callable[[], Any]) -> None:
        data[name] = timed(action)
        table.rows.append((name, spread(data[name], digits=2)))

    folder = bench.folder / "growth"
    shutil.copytree(ROOT / "sweeps", folder / "sweeps")
    here = Path.cwd()
    os.chdir(folder)
    try:
        keys: set[str] = set()
        for path in sorted((folder / "sweeps").glob("*.yaml")):
            if path.stem in ("tune", "scribbles", "supervision"):
                continue
            for cell in records.planned(path.stem, seed=tuple(range(1000))[: 230 if len(keys) < 10_000 else 0] or (0,)):
                for stage in cell.stage.chain:
                    if stage.key not in keys:
                        keys.add(stage.key)
                        records.finish(stage, 40.0)
        tell(f"seminar status, {len(keys):,} trainings", lambda: quiet(["status"]))
        command = [sys.executable, "-m", "analysis", "sweeps/losses.yaml", "--out", "report"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        tell(
            f"make report of Table 3 beside {len(keys):,} trainings, start included",
            lambda: subprocess.run(command, check=True, capture_output=True, env=environment),
        )
    finally:
        os.chdir(here)
    root = folder / "photos"
    (root / "images").mkdir(parents=True)
    content = io.BytesIO()
    Image.new("RGB", (500, 375)).save(content, "JPEG")
    rows = ["image,x,y,class"]
    for number in range(12_000):
        (root / "images" / f"{number}.jpg").write_bytes(content.getvalue())
        rows += [f"{number},{x},9,{name}" for x, name in ((5, "background"), (50, "cat"), (90, "dog"))]
    (root / "clicks.csv").write_text("\n".join(rows))
    folder_class = recipes.datasets["folder"].make
    tell("open a folder of 12,000 images and 36,000 clicks", lambda: folder_class(root=root).fingerprint())
    code = "import json; from tests import bench; print(json.dumps(bench.memory_by_epoch()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    memory: dict[str, int] = json.loads(done.stdout)
    data["resident MB after epochs"] = memory
    table.rows += [(f"memory after {epochs} epochs (toy)", f"{megabytes} MB") for epochs, megabytes in memory.items()]
    return [table], data


def reports(bench: Bench) -> tuple[list[Table], dict[str, Any]]:
    """How the reports of one sweep grow with its records: CPU seconds of the whole process, start included."""
    table = Table("One report and its page", ("records", "CPU seconds (quartiles)"))
    data: dict[str, Any] = {}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    here = Path.cwd()
    for count in (1_000, 3_000, 10_000):
        folder = bench.folder / f"reports-{count}"
        shutil.copytree(ROOT / "sweeps", folder / "sweeps")
        os.chdir(folder)
        try:
            seeds = math.ceil(count / 12)  # Table 3 has six rows, and each is trained at two learning rates
            cells = records.planned("losses", seed=tuple(range(seeds)), lr=(0.05, 0.1))
            stages = {stage.key: stage for cell in cells for stage in cell.stage.chain}
            for stage in stages.values():
                records.finish(stage, 40.0 + stage.seed % 7)
            command = [sys.executable, "-m", "analysis", "table3", "lr=0.05,0.1", "--seeds", str(seeds)]
            data[f"{len(stages)}"] = [cpu_seconds(command, environment) for _ in range(3)]
        finally:
            os.chdir(here)
        table.rows.append((f"{len(stages):,}", spread(data[f"{len(stages)}"], digits=2)))
    return [table], data


def cpu_seconds(command: list[str], environment: Mapping[str, str]) -> float:
    """Run a command; return the seconds that CPUs worked for it."""
    before = os.times()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def quiet(arguments: list[str]) -> None:
    with redirect_stdout(io.StringIO()):
        assert seminar(arguments) == 0


def memory_by_epoch() -> dict[int, int]:
    """Resident memory in MB after so many epochs of one training, of a process that has done nothing else."""
    owner = trainer({"profile": "toy", "losses": "pce+crf+pcons", "epochs": 200})
    found = {}
    for epoch in range(200):
        owner.run_epoch(epoch)
        if epoch + 1 in (5, 50, 200):
            lines = Path("/proc/self/status").read_text().splitlines()
            found[epoch + 1] = int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) >> 10
    return found


# ---- all together


def figure(data: Mapping[str, Any], path: Path) -> None:
    """Stacked bars: where the time of a step goes."""
    from matplotlib.figure import Figure

    bars = [(group, names, found["parts"]) for group, cases in data.items() for names, found in cases.items()]
    used = {part for *_, parts in bars for part in parts}
    order = (
        "data",
        "frozen backbone",
        "student",
        "teacher",
        "ancillary",
        *losses,
        "backward",
        "optimiser",
        "EMA",
        "other",
    )
    shown = [name for name in order if name in used]
    canvas = Figure(figsize=(10, 1 + 0.32 * len(bars) + 0.5 * len(data)), layout="constrained")
    axes = canvas.subplots(len(data), 1, squeeze=False)[:, 0]
    for plot, (group, cases) in zip(axes, data.items()):
        for place, (_, found) in enumerate(cases.items()):
            left = 0.0
            for number, name in enumerate(shown):
                width = 1e3 * found["parts"].get(name, 0.0)
                label = name if place == 0 else None
                plot.barh(
                    place, width, left=left, color=f"C{number % 10}", alpha=1 if number < 10 else 0.5, label=label
                )
                left += width
        plot.set_yticks(range(len(cases)), list(cases))
        plot.invert_yaxis()
        plot.set_title(group, loc="left", fontsize=10)
        plot.spines[["top", "right"]].set_visible(False)
    axes[-1].set_xlabel("ms per step")
    handles, labels = axes[0].get_legend_handles_labels()
    canvas.legend(handles, labels, loc="outside right upper", frameon=False, fontsize=8)
    canvas.savefig(path, dpi=120)


PARTS: dict[str, Callable[[Bench], tuple[list[Table], dict[str, Any]]]] = {
    "step": step,
    "evaluation": evaluation,
    "loading": loading,
    "size": size,
    "start": start,
    "overhead": overhead,
    "growth": growth,
    "reports": reports,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="steps of each case (default: 15)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="default: reports/bench-local, for all parts")
    options = parser.parse_args()
    strange = set(options.parts) - set(PARTS)
    if strange:
        parser.error(f"{', '.join(sorted(strange))}: choose from {', '.join(PARTS)}")
    if options.rounds < 1:
        parser.error(f"--rounds {options.rounds}: at least 1 is needed")
    out = options.out or (None if options.parts else Path("reports/bench-local"))
    try:
        recipes.pick_device(options.device)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
    except (InputError, OSError) as error:
        parser.error(str(error))
    torch.set_num_threads(1)
    environment = machine.environment(torch.device(options.device))
    environment = {name: environment[name] for name in ("python", "torch", "device", "cpu", "threads", "commit")}
    environment["cores"] = os.cpu_count()
    environment["load at the start"] = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    lines = ["# Speed", "", *(f"- {name}: {value}" for name, value in environment.items()), ""]
    data: dict[str, Any] = {"environment": environment}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.device, options.rounds)
        for part in options.parts or PARTS:
            print(f"{part} ...", file=sys.stderr, flush=True)
            tables, data[part] = PARTS[part](bench)
            for table in tables:
                lines += [*table.lines(), ""]
                print("\n".join([*table.lines(), ""]), flush=True)
    if out is None:
        return 0
    target = out / f"{options.device}.md"
    target.write_text("\n".join(lines), encoding="utf-8")
    target.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if "step" in data:
        figure(data["step"], target.with_suffix(".png"))
    print(f"wrote {target}, .json" + (" and .png" if "step" in data else ""))
    return 0


if __name__ == "__main__":
    sys.exit(main())
