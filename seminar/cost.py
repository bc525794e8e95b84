"""What a training will cost here: seconds of an epoch and GPU memory, measured on a few steps before it starts.

On a GPU a child process measures and then ends. Otherwise the planning process would hold GPU memory for the whole
sweep.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

import torch
from tqdm import tqdm

from seminar import machine, networks
from seminar.catalogue import Host
from seminar.recipes import pick_device
from seminar.spec import InputError, Stage
from seminar.store import reason
from seminar.train import Trainer

IMPORTED = time.process_time()
"""CPU seconds that this process had taken when everything was imported: a worker takes as many before it begins."""
STEPS = 4
"""Steps that are measured; the first one pays for caches and allocations."""
CONTEXT_MB = 600
"""What CUDA itself and its libraries take of a card in every process, beside torch's tensors; a guess."""


@dataclass(frozen=True)
class Cost:
    """Seconds of an epoch of a training, and the most memory, in MB of 2^20 bytes, that torch reserves on a GPU for it
    (None on a CPU). `beside`: seconds of a training beside its epochs, to make its networks, to evaluate and to write
    at the end."""

    seconds: float
    memory_mb: int | None = None
    beside: float = 0.0

    def of(self, epochs: int) -> float:
        """Return the seconds of a training of so many epochs."""
        return self.seconds * epochs + self.beside


@dataclass(frozen=True)
class Card:
    """A GPU: its name, its memory, and how much of that is free now, in MB of 2^20 bytes."""

    name: str
    memory_mb: int
    free_mb: int


@dataclass(frozen=True)
class Survey:
    """The cost of every shape of training on this machine, by `shape`, and the GPU, if there is one."""

    costs: Mapping[str, Cost]
    card: Card | None = None

    def of(self, stage: Stage) -> Cost:
        return self.costs[shape(stage)]

    @property
    def memory_mb(self) -> int:
        """What a process needs of the GPU, with CUDA itself, for the largest of the trainings."""
        return CONTEXT_MB + max((cost.memory_mb or 0 for cost in self.costs.values()), default=0)


def shape(stage: Stage) -> str:
    """Return a text that is equal for stages of equal cost; seeds, learning rates and the like do not matter."""
    terms = tuple((term.name, term.settings) for term in stage.losses)
    network = (stage.backbone, stage.output_stride, stage.freeze, stage.precision, stage.compile)
    images = (stage.data, stage.crop, stage.batch_size, stage.eval_every)
    return repr((network, images, terms, stage.has_teacher, stage.ancillary is not None))


def survey(wanted: Sequence[tuple[Stage, Host]], known: Mapping[tuple[str, str], Cost]) -> Survey:
    """Return the cost of every shape among the `wanted` stages. Of several GPUs the first one is measured.

    `known`: costs by name of the machine (`machine.name`) and shape; what is not among them is measured now. Raises
    `InputError` for stages on different devices, and for a training that does not fit on the GPU, with what would.
    """
    stages = {shape(stage): (stage, host) for stage, host in wanted}
    if not stages:
        return Survey({})
    devices = sorted({host.device for _, host in wanted})
    if len(devices) > 1:
        raise InputError(f"device={','.join(devices)}: one plan is for one device; device=cuda takes all GPUs")
    device = pick_device(devices[0])
    if device.type == "cpu":
        return survey_here(device, stages, known)
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_send_survey, args=(writer, str(device), stages, known))
    # Ctrl-C is for this process, which then ends the child; ignoring a signal is inherited.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    process.start()
    signal.signal(signal.SIGINT, interrupt)
    writer.close()
    try:
        found = reader.recv()
        process.join(timeout=30)
    except EOFError:
        process.join()
        raise InputError(
            f"device={device}: measuring the speed of a training ended with exit code {process.exitcode} (-9: out of "
            "memory, most likely); `seminar train` with the same settings shows the cause"
        ) from None
    finally:
        process.kill()
        process.join()
        reader.close()
    if isinstance(found, Survey):
        return found
    raise InputError(found)


def _send_survey(
    writer: connection.Connection,
    device: str,
    stages: Mapping[str, tuple[Stage, Host]],
    known: Mapping[tuple[str, str], Cost],
) -> None:
    """`survey_here` in a process of its own: sends what it returns, or why it failed."""
    try:
        writer.send(survey_here(torch.device(device), stages, known))
    except Exception as error:
        if not isinstance(error, InputError):
            traceback.print_exc()
        writer.send(reason(error))


def survey_here(
    device: torch.device, stages: Mapping[str, tuple[Stage, Host]], known: Mapping[tuple[str, str], Cost]
) -> Survey:
    """`survey` of `stages` by shape, in this process."""
    name = machine.name(device)
    costs = {each: known[name, each] for each in stages if (name, each) in known}
    missing = [each for each in stages if each not in costs]
    for each in tqdm(missing, desc=f"measuring on {name}", disable=not sys.stderr.isatty() or not missing, leave=False):
        stage, host = stages[each]
        measured = _measure(stage, host)
        if measured is None:
            raise InputError(_too_large(stage, host, card(device) if device.type == "cuda" else None))
        costs[each] = measured
    return Survey(costs, card(device) if device.type == "cuda" else None)


def card(device: torch.device) -> Card:
    """Return the GPU `device`, after handing back what this process does not use of it."""
    machine.free_memory(device)
    free, total = torch.cuda.mem_get_info(device)
    return Card(torch.cuda.get_device_name(device), total >> 20, free >> 20)


def _too_large(stage: Stage, host: Host, card: Card | None) -> str:
    """Return one line on a training that does not fit, with settings that would: each is tried."""
    fits = []
    for setting, values in _smaller(stage, pick_device(host.device)):
        for value in values:
            cost = _measure(stage.model_copy(update={setting: value}), host)
            if cost is not None:
                needed = "" if cost.memory_mb is None else f" ({gigabytes(cost.memory_mb + CONTEXT_MB)})"
                fits.append(f"{setting}={value}{needed}")
                break
    place = "into the memory of this machine"
    if card is not None:
        others = card.memory_mb - card.free_mb
        shared = f", {gigabytes(others)} of it in use by others" if others > 2 * CONTEXT_MB else ""
        place = f"on {card.name} ({gigabytes(card.memory_mb)}{shared})"
    return (
        f"losses={stage.label} backbone={stage.backbone} batch_size={stage.batch_size} crop={stage.crop} "
        f"precision={stage.precision}: does not fit {place}; "
        + (f"these would: {', '.join(fits)}" if fits else "nor does any smaller setting that was tried")
    )


def _smaller(stage: Stage, device: torch.device) -> Iterator[tuple[str, list[Any]]]:
    """Yield settings that make a training smaller, with values to try one after the other."""
    if stage.precision != "bf16" and machine.has(device, "bf16"):
        yield "precision", ["bf16"]
    yield "batch_size", [size for size in (stage.batch_size * 2 // 3, stage.batch_size // 3) if size >= 2]
    # Crops of the form 16 n + 1, as 513 is, keep the pixels of all strides aligned.
    yield "crop", [16 * (stage.crop * part // 64) + 1 for part in (3, 2, 1) if stage.crop > 64]


def gigabytes(megabytes: int) -> str:
    """Format megabytes of 2^20 bytes as gigabytes of 2^30: '10.4 GB'."""
    return f"{megabytes / 1024:.1f} GB"


def _measure(stage: Stage, host: Host) -> Cost | None:
    """Return the cost of a stage, extrapolated from a few steps that train nothing that is kept; None: memory ran
    out."""
    try:
        cost = measure_epoch(stage, host)
    except Exception as error:
        if not machine.is_out_of_memory(error):
            raise
        cost = None
    machine.free_memory(pick_device(host.device))
    return cost


def measure_epoch(stage: Stage, host: Host) -> Cost:
    """Return the cost of a stage; evaluation counts as forward passes."""
    began = time.monotonic()
    # Compiling is no part of an epoch, and weights that may have to be downloaded change no time.
    trainer = untrained(stage.model_copy(update={"compile": False, "pretrained": "none"}), host)
    beside = time.monotonic() - began
    trainer.student.train()
    times = []
    for step, views in zip(range(STEPS), trainer.loader(0)):
        started = time.monotonic()
        float(trainer.step(views, 0, step)["loss"])  # waits for a GPU
        times.append(time.monotonic() - started)
    step_seconds = min(times[1:] or times)
    # A forward pass takes about a third of a step.
    evaluation = step_seconds / 3 * len(trainer.val_examples) / stage.batch_size * (2 if trainer.teacher else 1)
    seconds = step_seconds * trainer.steps_per_epoch + evaluation / stage.eval_every
    memory = machine.peak_memory_mb(trainer.device) if trainer.device.type == "cuda" else None
    # At the end everything is evaluated once more, at its own size.
    return Cost(seconds, memory, beside + evaluation)


def untrained(stage: Stage, host: Host) -> Trainer:
    """Return a trainer to measure by, with an untrained ancillary where the stage needs one."""
    trainer = Trainer(stage, host, None)
    if stage.ancillary is not None:
        ancillary = networks.build(stage.ancillary.backbone, trainer.classes, stage.output_stride).eval()
        ancillary.to(trainer.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        trainer.ancillary = ancillary.requires_grad_(False)
    return trainer
