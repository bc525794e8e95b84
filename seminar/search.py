"""Running a sweep: Optuna hands out the cells, worker processes train them, the store keeps every training once.

Optuna's journal file tells who does what next and is what `optuna-dashboard` shows. What is done is decided by the
store alone, so a deleted journal loses nothing and a killed worker leaves nothing to clean up.
"""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from tqdm import tqdm

from seminar import train
from seminar.recipes import Cell, Host, pick_device
from seminar.spec import InputError, Stage
from seminar.store import Interrupted, Record, Store, now, reason
from seminar.sweep import Sweep
from seminar.tracking import Mode, WandbWatch


@dataclass(frozen=True)
class Plan:
    """What a sweep asks for, what of it is done, and what the rest will cost."""

    sweep: Sweep
    cells: tuple[Cell, ...]
    stages: tuple[Stage, ...]
    todo: tuple[Stage, ...]
    seconds: Mapping[str, float]
    """Estimated seconds of one process for each stage in `todo`, by key."""
    workers: int
    device: str

    @property
    def order(self) -> list[Cell]:
        """Cells in the order in which to hand them out (see `schedule`)."""
        wanted = {stage.key for stage in self.todo}
        todo = [cell for cell in self.cells if cell.stage.key in wanted]
        return schedule(todo, self.seconds, self.workers)[0]

    @property
    def wall_seconds(self) -> float:
        """Estimated seconds until all is done, with `workers` processes."""
        return schedule(self.cells, self.seconds, self.workers)[1]

    def lines(self) -> list[str]:
        """The plan for people."""
        separate = sum(len(stage.chain) for stage in {cell.stage for cell in self.cells})
        shared = f" (training each cell's chain by itself would be {separate})" if separate > len(self.stages) else ""
        done = len(self.stages) - len(self.todo)
        lines = [
            f"sweep {self.sweep.name}: {self.sweep.description or 'no description'}",
            f"  {len(self.cells)} cells, {len(self.stages)} trainings{shared}",
            f"  {done} done, {len(self.todo)} to do",
        ]
        if self.todo:
            steps = sum(s.epochs for s in self.todo)
            processes = f"{self.workers} {self.device} process{'' if self.workers == 1 else 'es'}"
            lines.append(f"  {steps} epochs on {processes}: about {clock(self.wall_seconds)} of training")
        return lines


def make_plan(sweep: Sweep, cells: Sequence[Cell], store: Store, workers: int | None) -> Plan:
    """Look up what is done and estimate the rest from measured speed.

    The speed is that of finished trainings of the same shape, else of a few steps run now.
    """
    stages = {stage.key: stage for cell in cells for stage in cell.stage.chain}
    done = {key for key in stages if store.record(key) is not None}
    # Only for cells that are not done: a finished primary needs no ancillary any more.
    asked = {stage.key for cell in cells if cell.stage.key not in done for stage in cell.stage.chain}
    todo = [stage for key, stage in stages.items() if key in asked - done]
    hosts = {stage.key: cell.host for cell in cells for stage in cell.stage.chain}
    device = pick_device(cells[0].host.device)
    if workers is None:
        workers = torch.cuda.device_count() if device.type == "cuda" and device.index is None else cores()
        if device.type == "cuda" and device.index is not None:
            workers = 1
    measured: dict[str, float] = {}
    for key in store.keys():  # noqa: SIM118 - a store is no dictionary
        with suppress(InputError):
            record = store.record(key)
            if record is not None:
                measured[shape(store.stage(key))] = record["seconds"] / record["stage"]["epochs"]
    seconds: dict[str, float] = {}
    for stage in todo:
        if shape(stage) not in measured:
            measured[shape(stage)] = train.measure_epoch(stage, hosts[stage.key])
        left = stage.epochs - len(store.curve(stage.key))
        seconds[stage.key] = measured[shape(stage)] * max(left, 1)
    return Plan(sweep, tuple(cells), tuple(stages.values()), tuple(todo), seconds, workers, device.type)


def shape(stage: Stage) -> str:
    """What the speed of a stage depends on; seeds, learning rates and the like do not."""
    terms = tuple((term.name, term.settings) for term in stage.losses)
    parts = (stage.data, stage.backbone, stage.output_stride, stage.crop, stage.batch_size, stage.precision)
    return repr((parts, terms, stage.has_teacher, stage.ancillary is not None, stage.eval_every, stage.freeze))


def schedule(cells: Iterable[Cell], seconds: Mapping[str, float], workers: int) -> tuple[list[Cell], float]:
    """Order and end time of `cells` when each free worker takes the ready cell with the longest work behind it.

    A cell is ready once its ancillary is done, so nobody waits for a training that somebody else is at. `seconds` holds
    the cost of the stages to do; stages that it does not hold cost nothing.
    """
    waiting = {cell.stage.key: cell for cell in cells}
    behind: dict[str, float] = {}
    for cell in waiting.values():
        total = 0.0
        for stage in reversed(cell.stage.chain):
            total += seconds.get(stage.key, 0.0)
            behind[stage.key] = max(behind.get(stage.key, 0.0), total)
    ends: dict[str, float] = {}
    free = [0.0] * max(1, workers)
    order: list[Cell] = []
    while waiting:
        now = min(free)
        # When the free worker could begin: now, or once an ancillary in work elsewhere ends.
        ready = {
            key: max([now, *(ends[s.key] for s in cell.stage.chain if s.key in ends)])
            for key, cell in waiting.items()
            if not any(s.key in waiting for s in cell.stage.chain[:-1])  # also where costs are equal or unknown
        }
        chosen = waiting.pop(min(ready, key=lambda key: (ready[key], -behind[key])))
        begin = ready[chosen.stage.key]
        for stage in chosen.stage.chain:
            if stage.key not in ends:
                begin += seconds.get(stage.key, 0.0)
                ends[stage.key] = begin
        free[free.index(now)] = begin
        order.append(chosen)
    return order, max(free)


def run(plan: Plan, store: Store, tracking: Mode) -> list[str]:
    """Train everything in the plan; returns one line for each cell that failed. Raises `KeyboardInterrupt` on Ctrl-C
    after the workers have saved and stopped."""
    if not plan.todo:
        return []
    journal, name = _prepare_study(plan, store)
    context = multiprocessing.get_context("spawn")
    job = _Job(journal, name, tuple(plan.cells), store.root, tracking, plan.sweep.name, now())
    count = min(plan.workers, len(plan.todo))
    processes, readers = [], []
    # Until a worker has its own handlers Ctrl-C must not reach it; ignoring a signal is inherited.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    spread = plan.device == "cuda" and plan.cells[0].host.device in ("auto", "cuda")
    for number in range(count):
        device = f"cuda:{number % torch.cuda.device_count()}" if spread else None
        # A pipe for each worker: one that is killed in the middle of a message cannot block the others.
        reader, writer = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(number, job, device, os.getpid(), writer))
        process.start()
        writer.close()
        processes.append(process)
        readers.append(reader)
    display = _Display(plan, count)
    try:
        signal.signal(signal.SIGINT, interrupt)
        while readers:
            for ready in connection.wait(readers):
                assert isinstance(ready, connection.Connection)
                try:
                    display.show(ready.recv())
                except (EOFError, OSError):
                    readers.remove(ready)
    except KeyboardInterrupt:
        display.note("stopping: each worker finishes its step; the next call goes on from the last epoch")
        for process in processes:
            process.terminate()
        raise
    finally:
        for process in processes:
            process.join(timeout=60)
            if process.is_alive():
                process.kill()
                process.join()
        display.close()
    crashed = [p.exitcode for p in processes if p.exitcode not in (0, None)]
    if crashed:
        display.failed.append(f"{len(crashed)} worker(s) died (exit codes {crashed}); call again to go on")
    open_cells = [cell.stage for cell in plan.cells if store.status(cell.stage.key) not in ("done", "failed")]
    if open_cells and not display.failed:
        keys = ", ".join(stage.key for stage in open_cells)
        display.failed.append(f"not done yet, in work by another call or left by one that died just now: {keys}")
    return display.failed


def clock(seconds: float) -> str:
    """A duration for people."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Job:
    """What a worker process needs to know."""

    journal: Path
    study: str
    cells: tuple[Cell, ...]
    runs: Path
    tracking: Mode
    group: str
    started: str


def _prepare_study(plan: Plan, store: Store) -> tuple[Path, str]:
    """Open the study of these very trainings, heal what dead workers left, and enqueue what the store lacks."""
    spaces = _spaces(plan.cells)
    cells = {cell.stage.key: cell for cell in plan.cells}
    identity = json.dumps([sorted(cells), spaces], sort_keys=True)
    name = f"{plan.sweep.name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    # An absolute path: Optuna's lock is a link to the journal, and a relative one would dangle and never time out.
    journal = (store.root / "studies" / f"{name}.journal").resolve()
    journal.parent.mkdir(parents=True, exist_ok=True)
    study = _open_study(journal, name)
    taken: dict[str, TrialState] = {}
    for trial in study.get_trials(deepcopy=False):
        key = trial.user_attrs.get("key", "")
        if trial.state == TrialState.RUNNING and key in cells and not _in_work(cells[key].stage, store):
            study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
        elif trial.state in (TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING):
            taken[key] = trial.state
    todo = {stage.key for stage in plan.todo}
    for cell in plan.cells:
        key = cell.stage.key
        record = None if key in todo else store.record(key)
        if record is not None and taken.get(key) != TrialState.COMPLETE:
            study.add_trial(
                optuna.trial.create_trial(
                    params=dict(cell.point),
                    distributions={word: CategoricalDistribution(spaces[word]) for word in cell.point},
                    value=_value(record),
                    user_attrs={"key": key},
                )
            )
    for cell in plan.order:
        # A trial that was completed although the store has no record: the record was deleted, train it again.
        if taken.get(cell.stage.key) in (None, TrialState.COMPLETE):
            study.enqueue_trial(dict(cell.point), user_attrs={"key": cell.stage.key, "queued": True})
    return journal, name


def _open_study(journal: Path, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=name,
        direction="maximize",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=optuna.pruners.NopPruner(),
    )


def _spaces(cells: Sequence[Cell]) -> dict[str, list[Any]]:
    spaces: dict[str, list[Any]] = {}
    for cell in cells:
        for word, value in cell.point.items():
            if value not in spaces.setdefault(word, []):
                spaces[word].append(value)
    return spaces


def _in_work(stage: Stage, store: Store) -> bool:
    """Whether somebody holds the lock of a stage of this chain: locks end with their process, on every host."""
    return any(store.status(member.key) == "running" for member in stage.chain)


def _value(record: Record) -> float:
    """The reported number: mIoU of the student, last epoch, protocol `crop`."""
    value = record["metrics"]["student"]["crop"]["miou"]
    return float("nan") if value is None else float(value)


def _work(number: int, job: _Job, device: str | None, parent: int, events: connection.Connection) -> None:
    """A worker process: take cells until none is left."""
    # Ctrl-C in the terminal is for the parent alone; it then asks its workers to stop.
    with suppress(OSError):
        os.setsid()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    warnings.simplefilter("default", RuntimeWarning)
    store = Store(job.runs)
    cells = {cell.stage.key: cell for cell in job.cells}
    spaces = _spaces(job.cells)
    study = _open_study(job.journal, job.study)

    def asked_to_stop() -> bool:
        return stop.is_set() or os.getppid() != parent

    teller = _Teller(number, events)
    watches: list[train.Watch] = [
        train.StopWhen(asked_to_stop),
        teller,
        WandbWatch(job.tracking, job.runs, job.group),
    ]
    while not asked_to_stop():
        if not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            break
        trial = study.ask()
        if not trial.user_attrs.get("queued"):  # Another worker took the last one in between.
            study.tell(trial, state=TrialState.FAIL)
            break
        trial.set_user_attr("host", socket.gethostname())
        cell = cells[trial.user_attrs["key"]]
        for word in cell.point:
            trial.suggest_categorical(word, spaces[word])  # the value that it was enqueued with
        host = cell.host if device is None else cell.host.model_copy(update={"device": device})
        try:
            record = store.ensure(
                cell.stage,
                functools.partial(_train, host, watches),
                on_wait=functools.partial(_wait, asked_to_stop, teller),
                since=job.started,
            )
        except Interrupted:
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            break
        except Exception as error:
            trial.set_user_attr("error", reason(error))
            study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            teller.tell("failed", cell.stage.key, reason(error))
        else:
            study.tell(trial, _value(record), skip_if_finished=True)


def _train(host: Host, watches: Sequence[train.Watch], stage: Stage, folder: Path, ancillary: Path | None) -> Record:
    return train.train(stage, host, folder, ancillary, watches)


def _wait(asked_to_stop: Callable[[], bool], teller: _Teller, stage: Stage) -> None:
    if asked_to_stop():
        raise Interrupted
    teller.tell("wait", stage.key)


@dataclass
class _Teller:
    """A watch that tells the parent process how far this worker is, a few times a second at most."""

    number: int
    events: connection.Connection
    _last: float = 0.0

    def tell(self, kind: str, key: str, *facts: Any) -> None:
        with suppress(OSError):  # The parent is gone: the worker will notice and stop, and that is no failure.
            self.events.send((kind, self.number, key, *facts))

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        self.tell("begin", stage.key, epoch)

    def step(self, stage: Stage, done: int, total: int) -> None:
        if time.monotonic() - self._last > 0.3:
            self._last = time.monotonic()
            self.tell("step", stage.key, done / total)

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        pass

    def end(self, stage: Stage, body: Record | None) -> None:
        if body is not None:
            self.tell("done", stage.key, body["metrics"]["student"]["crop"]["miou"])


class _Display:
    """Progress for people: bars on a terminal, elsewhere one line for each finished training."""

    def __init__(self, plan: Plan, workers: int) -> None:
        self.failed: list[str] = []
        self._stages = {stage.key: stage for stage in plan.todo}
        self._titles = {stage.key: stage.title for stage in plan.todo}
        shown = {"losses", "seed", "backbone", "modules", "profile"}
        varied = sorted(w for w, values in plan.sweep.parameters.items() if len(values) > 1 and w not in shown)
        for cell in plan.cells:
            words = "".join(f" {word}={cell.point[word]}" for word in varied if word in cell.point)
            self._titles[cell.stage.key] = cell.stage.title + words
        self._seconds = dict(plan.seconds)
        self._fraction: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._terminal = sys.stderr.isatty()
        self._finished = 0
        self._began = time.monotonic()
        total = sum(self._seconds.values())
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed} < {remaining} left"
        self._bar = tqdm(total=total, desc="all", disable=not self._terminal, bar_format=shape, smoothing=0.05)
        row = "{desc:<52.52} {percentage:3.0f}%|{bar:20}|"
        self._rows = [
            tqdm(total=1.0, disable=not self._terminal, position=i + 1, bar_format=row, leave=False)
            for i in range(workers)
        ]

    def show(self, event: tuple[Any, ...]) -> None:
        """Take in `(kind, worker number, key, fact ...)`, see `_Teller`."""
        kind, number, key, *rest = event
        stage = self._stages.get(key)
        name = self._titles.get(key, key)
        title = f"{number + 1}: {name}"
        row = self._rows[number]
        if kind == "begin" and stage is not None:
            self._first[key] = self._fraction[key] = rest[0] / stage.epochs
            row.reset()
            row.set_description_str(title)
        elif kind == "step":
            row.n = rest[0]
            row.refresh()
            self._advance(key, rest[0])
        elif kind == "wait":
            row.set_description_str(f"{title}: waiting for another process")
        elif kind == "done":
            self._advance(key, 1.0)
            self._finished += 1
            self.note(f"[{self._finished}/{len(self._stages)}] {name}: mIoU {_percent(rest[0])}{self._left()}")
        elif kind == "failed":
            line = f"{name} ({key}) failed: {rest[0]}"
            self.failed.append(line)
            self.note(line)

    def note(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        for row in self._rows:
            row.close()
        self._bar.close()

    def _advance(self, key: str, fraction: float) -> None:
        """The main bar counts estimated seconds, so that a stage of four losses weighs more than one of one."""
        before = self._fraction.get(key, self._first.get(key, 0.0))
        self._fraction[key] = fraction
        share = self._share(key, fraction) - self._share(key, before)
        self._bar.update(share * self._seconds.get(key, 0.0))

    def _share(self, key: str, fraction: float) -> float:
        """How much of what was left of a stage when this call began is done."""
        first = self._first.get(key, 0.0)
        return (fraction - first) / max(1e-9, 1 - first)

    def _left(self) -> str:
        if self._finished == len(self._stages) or (not self._bar.n and self._terminal):
            return ""
        passed = time.monotonic() - self._began
        share = 0.0
        for key, fraction in self._fraction.items():
            share += self._share(key, fraction) * self._seconds.get(key, 0.0)
        share /= max(1e-9, sum(self._seconds.values()))
        return f", about {clock(passed / share - passed)} left" if share > 0.02 else ""


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} %"
