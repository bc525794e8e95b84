"""Train what a plan asks for: what each worker does, whoever runs it, and what is left to do after all ended.

    Call          how this call trains: store, executor, W&B, database
     +- Job       what a worker needs to know, sent to it as one object
         +- TrialSource   what a trial stands for: a cell of a grid (`GridTrials`), or a point of a search
         |                that a sampler chooses (`SearchTrials`)
         +- Worker        takes trials from Optuna's study one after another and trains the cell of each

The store and the files of the trials alone decide what is done, so a deleted study loses nothing and a killed worker
leaves nothing to clean up.
"""

from __future__ import annotations

import functools
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol
from uuid import uuid4

import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from seminar import catalogue, checked, search, train
from seminar.catalogue import Cell, Host
from seminar.data.files import Unusable
from seminar.display import Display
from seminar.growing import SeedCount
from seminar.plan import Plan, SearchPlan, make_plan
from seminar.pool import Executor
from seminar.recipes import pick_device
from seminar.spec import InputError, Scalar, Stage
from seminar.store import Interrupted, Record, StageFailed, Store, read_curve, reason, score
from seminar.text import printable
from seminar.tracking import Mode, WandbWatch
from seminar.trials import State, Trial, Tuning
from seminar.views import mix
from seminar.watch import StopWhen, Watch


@dataclass(frozen=True)
class Call:
    """How a call trains what its plans ask for.

    `storage`: the URL of a database for Optuna's studies; None: a journal file in the store. `command`: the command
    line that does the same work as one worker. `artifacts`: whether W&B keeps the weights. `on_seed` is called each
    time that all cells of another seed of a sweep are done, except for the last seed.
    """

    store: Store
    executor: Executor
    tracking: Mode
    storage: str | None = field(default=None, repr=False)
    command: tuple[str, ...] = ()
    artifacts: bool = False
    on_seed: Callable[[], None] = lambda: None


def run(plan: Plan, call: Call) -> list[str]:
    """Train everything in the plan; returns one line for each cell that failed. Raises `KeyboardInterrupt` on Ctrl-C
    after the workers have saved and stopped."""
    if not plan.todo:
        return []
    store, todo = call.store, {stage.key for stage in plan.todo}
    queue = search.prepare_grid(plan.sweep.name, plan.cells, plan.order, todo, store, call.storage)
    source = GridTrials(tuple(plan.cells), _titles(plan))
    job = _job(call, queue, source, plan.sweep.name, plan.cells[0].host)
    count = min(plan.workers, len(plan.todo))
    seeds = SeedCount(plan.cells, lambda key: store.status(key) == "done")

    def on_done() -> None:
        if seeds.update() and seeds.complete < seeds.total:
            call.on_seed()

    failed = _run_workers(job, call, count, Display(plan.seconds, len(plan.todo), count, on_done=on_done))
    states = {cell.stage.key: store.status(cell.stage.key) for cell in plan.cells}
    named = {key for key in states if any(key in line for line in failed)}
    unexplained = {
        cell.stage.key: cell.stage
        for cell in plan.cells
        if states[cell.stage.key] != "done" and cell.stage.key not in named
    }
    same = [key for key, stage in unexplained.items() if checked.failure(stage, store, job.call) is not None]
    if same:
        failed.append(f"{len(same)} more cells need the same data and were not trained")
    rest = [key for key in unexplained if key not in same]
    for key in rest:
        if states[key] == "failed":
            failure = store.failure(key) or {"error": "unknown"}
            failed.append(f"{source.names.get(key, key)} ({key}) failed in another call: {failure['error']}")
    if rest and not failed:
        failed.append(f"not done yet, running in another call or left by one that died just now: {', '.join(rest)}")
    return failed


def run_search(plan: SearchPlan, call: Call) -> list[str]:
    """Run the trials that are left, then train the best point and the profile's own values on the reporting split.

    Returns one line for each failure and raises, as `run` does. A trial whose loss diverges is a result, no failure.
    """
    tuning, reporting, store = plan.tuning, plan.reporting, call.store
    failed: list[str] = []
    if plan.left:
        queue, started = search.prepare_search(tuning, store, call.storage)
        source = SearchTrials(tuning, started, plan.sampler, plan.pruner)
        job = _job(call, queue, source, tuning.sweep.name, tuning.own.host)
        count, chain = min(reporting.workers, plan.left), len(tuning.own.stage.chain)
        display = Display({}, plan.left * chain, count, sum(plan.seconds.values()) / chain)
        failed = _run_workers(job, call, count, display)
        left = tuning.left(store.record)
        if left > 0 and not failed:
            failed.append(f"{left} trials are not done yet, running in another call or left by one that died just now")
    if failed:
        return failed
    with search.search_study(tuning, store, call.storage) as (_, opened):
        tuning.keep_importances(search.importances(opened.study))
    best = tuning.best(store.record)
    cells = [*tuning.reported(), *(tuning.reported(best.point) if best is not None else [])]
    catalogue.write(store.root, [catalogue.Planned(tuning.sweep, cells)])
    distinct = list({cell.stage.key: cell for cell in cells}.values())
    final = make_plan(tuning.sweep, distinct, store, reporting.workers, call.executor.elsewhere)
    if best is not None:
        point = ", ".join(f"{name}={_short(best.point[name])}" for name in tuning.space)
        print(printable(f"best of {len(tuning.trials())} trials: {point}"), flush=True)
    return run(final, call)


def _job(call: Call, queue: search.StudyLocation, source: TrialSource, group: str, host: Host) -> Job:
    spread = pick_device(host.device).type == "cuda" and host.device in ("auto", "cuda")
    devices = tuple(f"cuda:{number}" for number in range(torch.cuda.device_count())) if spread else ()
    of_call = (call.command, call.artifacts)
    return Job(queue, source, call.store.root, call.tracking, group, uuid4().hex, devices, *of_call)


def _run_workers(job: Job, call: Call, count: int, display: Display) -> list[str]:
    """Run workers to their end; returns one line for each failure."""
    try:
        died = call.executor.run(job, count, display)
    finally:
        display.close()
    return [*display.failed, *died]


class TrialSource(Protocol):
    """Where the trials of a study come from: the cells of a grid, or the points of a search."""

    is_search: ClassVar[bool]
    """Whether a loss that diverges is a result; else it is a failure."""

    def make_sampler(self, number: int) -> BaseSampler:
        """Make the sampler of worker `number` (0-based): workers of a search must not draw the same points."""

    def make_pruner(self) -> BasePruner:
        """Make what ends bad trials early."""
        ...

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What the parameters of a trial are drawn from when it is handed out."""

    def cell(self, trial: optuna.Trial) -> Cell:
        """Return the cell of a trial that was handed out."""

    def titles(self, cell: Cell) -> Mapping[str, str]:
        """Return what to call the stages of a cell, by key."""

    def extra_watches(self, trial: optuna.Trial, cell: Cell) -> Sequence[Watch]:
        """Return the watches of a trial beside those that every training has."""
        ...

    def earlier_outcome(self, cell: Cell) -> State | None:
        """Return how an earlier trial with the very training of `cell` ended; None where there is none."""

    def record_outcome(self, trial: optuna.Trial, state: State, key: str = "", epoch: int = 0, error: str = "") -> None:
        """Keep what must be kept of a trial that is over, before Optuna gets its result."""


@dataclass(frozen=True)
class GridTrials:
    """The cells of a grid: a trial names its cell. `names`: what to call the trainings, by key."""

    is_search: ClassVar[bool] = False
    cells: tuple[Cell, ...]
    names: Mapping[str, str]

    def make_sampler(self, number: int) -> BaseSampler:
        return search.sampler("random", 0)  # it has nothing to choose: every trial of the queue has its point

    def make_pruner(self) -> BasePruner:
        return search.pruners["none"].make(None)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {}  # they depend on the cell

    @functools.cached_property
    def _by_key(self) -> dict[str, Cell]:
        return {cell.stage.key: cell for cell in self.cells}

    @functools.cached_property
    def _spaces(self) -> dict[str, list[Any]]:
        return search.spaces(self.cells)

    def cell(self, trial: optuna.Trial) -> Cell:
        cell = self._by_key[trial.user_attrs["key"]]
        for name in cell.point:
            trial.suggest_categorical(name, self._spaces[name])  # the value that it was queued with
        return cell

    def titles(self, cell: Cell) -> Mapping[str, str]:
        return {stage.key: self.names.get(stage.key, stage.title) for stage in cell.stage.chain}

    def extra_watches(self, trial: optuna.Trial, cell: Cell) -> Sequence[Watch]:
        return ()

    def earlier_outcome(self, cell: Cell) -> State | None:
        return None

    def record_outcome(self, trial: optuna.Trial, state: State, key: str = "", epoch: int = 0, error: str = "") -> None:
        pass


@dataclass(frozen=True)
class SearchTrials:
    """The trials of a search: a sampler chooses the point of each, and a pruner ends bad ones. `known`: how many there
    were before this call."""

    is_search: ClassVar[bool] = True
    tuning: Tuning
    known: int
    sampler_name: str
    pruner_name: str

    def make_sampler(self, number: int) -> BaseSampler:
        # Each worker draws for itself, and a later call must not repeat the draws of an earlier one.
        return search.sampler(self.sampler_name, mix(number, self.known) % 2**32)

    def make_pruner(self) -> BasePruner:
        return search.pruners[self.pruner_name].make(self.tuning.sweep.halving)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return search.distributions(self.tuning.sweep)

    def cell(self, trial: optuna.Trial) -> Cell:
        cell = self.tuning.trial_cell(trial.params)
        trial.set_user_attr("key", cell.stage.key)
        trial.set_user_attr("chain", [stage.key for stage in cell.stage.chain])
        return cell

    def titles(self, cell: Cell) -> Mapping[str, str]:
        point = "".join(f" {name}={_short(cell.point[name])}" for name in self.tuning.space)
        return {stage.key: stage.title + point for stage in cell.stage.chain}

    def extra_watches(self, trial: optuna.Trial, cell: Cell) -> Sequence[Watch]:
        return [PruneWatch(trial, cell.stage.key)]

    def earlier_outcome(self, cell: Cell) -> State | None:
        return next((trial.state for trial in self.tuning.trials() if trial.key == cell.stage.key), None)

    def record_outcome(self, trial: optuna.Trial, state: State, key: str = "", epoch: int = 0, error: str = "") -> None:
        repeats = trial.user_attrs.get("repeats")
        if not any(kept.number == repeats for kept in self.tuning.trials()):  # else its first owner was alive after all
            self.tuning.keep(Trial(trial.number, key, state, dict(trial.params), epoch, error))
        with search.tolerant():
            trial.set_user_attr("kept", True)


class _Pruned(Interrupted):
    """A trial was ended early, after `epoch`."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch


@dataclass
class PruneWatch:
    """A watch that reports every evaluation of the training `key` to the pruner, and ends it where the pruner says so.

    `reported`: how many evaluations so far.
    """

    trial: optuna.Trial
    key: str
    reported: int = 0

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        """Report the evaluations of earlier calls again: the trial may be another one than theirs."""
        if stage.key == self.key:
            for line in read_curve(folder / "metrics.jsonl"):
                self._report(line)

    def step(self, stage: Stage, done: int, total: int) -> None: ...

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        # After the last epoch there is nothing left to save by ending it.
        over = line["epoch"] == stage.epochs
        if stage.key == self.key and self._report(line) and not over and self._worse():
            raise _Pruned(line["epoch"])

    def end(self, stage: Stage, body: Record | None) -> None: ...

    def _worse(self) -> bool:
        with search.tolerant():
            return bool(self.trial.should_prune())
        return False

    def _report(self, line: Mapping[str, Any]) -> bool:
        """Return whether the epoch of `line` was evaluated."""
        if line.get("student_miou") is None:
            return False
        self.reported += 1
        with search.tolerant():
            self.trial.report(line["student_miou"], self.reported)
        return True


@dataclass(frozen=True)
class Job:
    """All that a worker needs to know; see `pool.Job`. `devices`: GPUs to spread the workers over; () for none."""

    queue: search.StudyLocation
    source: TrialSource
    runs: Path
    tracking: Mode
    group: str
    call: str
    devices: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    artifacts: bool = False

    def work(self, number: int, stopped: Callable[[], bool], send: Callable[[tuple[Any, ...]], None]) -> None:
        """Take trials until none is left, or until it is requested to stop."""
        device = self.devices[number % len(self.devices)] if self.devices else None
        mirror = WandbWatch(self.tracking, self.runs, self.group, self.source.is_search, artifacts=self.artifacts)
        worker = Worker(self, device, stopped, Reporter(number, send), mirror)
        with warnings.catch_warnings():
            warnings.simplefilter("default", RuntimeWarning)
            try:
                opened = self.queue.open(self.source.make_sampler(number), self.source.make_pruner())
                while not stopped() and worker.serve(opened):
                    pass
            except Interrupted:
                pass
            except (OSError, InputError, *search.AWAY) as error:  # the study is gone
                worker.reporter.report("failed", "", f"worker {number + 1}: {reason(error)}")


@dataclass(frozen=True)
class Worker:
    """What tries the trials of a job; `device`: the GPU that was given to it, if any."""

    job: Job
    device: str | None
    stopped: Callable[[], bool]
    reporter: Reporter
    mirror: WandbWatch

    def serve(self, opened: search.OpenStudy) -> bool:
        """Take a trial and try it; returns whether there was one."""
        distributions = self.job.source.distributions
        trial = search.patiently(lambda: opened.ask(distributions), self.stopped)
        if trial is None:
            return False
        with opened.heartbeat(trial):
            try:
                state, value = self.attempt(trial)
            except Interrupted:
                with search.tolerant():
                    opened.hand_out_again(trial)
                raise
        # A trial whose result does not arrive stays open; whoever gets it next finds the training finished.
        with search.tolerant():
            opened.study.tell(trial, value, state=state, skip_if_finished=True)
        return True

    def attempt(self, trial: optuna.Trial) -> tuple[TrialState | None, float | None]:
        """Train what a trial requests; returns its state (None: by its value) and its value. Raises `Interrupted`."""
        source, store, key = self.job.source, Store(self.job.runs), ""
        try:
            cell = source.cell(trial)
            key, self.mirror.cell = cell.stage.key, cell
            self.reporter.titles = source.titles(cell)
            before = source.earlier_outcome(cell)
            if before == "pruned":
                raise _Pruned(store.curve(key)[-1]["epoch"])
            if before == "failed":
                raise FloatingPointError("as in an earlier trial of this point")
            if store.record(key) is None and self._data_failed(cell.stage, store):
                return TrialState.FAIL, None
            host = cell.host if self.device is None else cell.host.model_copy(update={"device": self.device})
            watches: list[Watch] = [StopWhen(self.stopped), self.reporter, self.mirror]
            record = store.ensure(
                cell.stage,
                functools.partial(_train, host, [*watches, *source.extra_watches(trial, cell)]),
                on_wait=self._wait,
                call=self.job.call,
                on_record=self._record_written,
                cell=cell.facts,
            )
            search.keep_pictures(trial, store.folder(key) / "samples", self.job.queue.folder)
            source.record_outcome(trial, "done", key, cell.stage.epochs)
            value = score(record)
            return (TrialState.FAIL if value is None else None), value  # Optuna knows no missing value
        except _Pruned as pruned:
            source.record_outcome(trial, "pruned", key, pruned.epoch)
            self.reporter.report("ended", key, f"ended early after epoch {pruned.epoch}, worse than others")
            return TrialState.PRUNED, None
        except Interrupted:
            raise
        except Exception as error:
            with search.tolerant():
                trial.set_user_attr("error", reason(error))
            if isinstance(error, Unusable):
                if not self._data_failed(cell.stage, store):  # else another worker met it just now
                    checked.keep_failure(cell.stage, store, self.job.call, reason(error))
                    self.reporter.report("failed", key, reason(error))
                return TrialState.FAIL, None
            refused = not key and isinstance(error, InputError)
            result = source.is_search and (refused or _diverged(error))
            if result:
                source.record_outcome(trial, "failed", key, len(store.curve(key)) if key else 0, reason(error))
            self.reporter.report("ended" if result else "failed", key, reason(error))
            return TrialState.FAIL, None

    def _record_written(self, stage: Stage) -> None:
        self.reporter.record_written(stage)  # first: W&B may take its time
        self.mirror.record_written(stage)

    def _data_failed(self, stage: Stage, store: Store) -> bool:
        """Return whether a worker of this call has met an example of the same data that cannot be used."""
        return checked.failure(stage, store, self.job.call) is not None

    def _wait(self, stage: Stage) -> None:
        if self.stopped():
            raise Interrupted
        self.reporter.report("wait", stage.key)


def _diverged(error: Exception) -> bool:
    """Return whether a loss of the training, or of one that it needs, was no number any more."""
    return isinstance(error, FloatingPointError) or (
        isinstance(error, StageFailed) and "FloatingPointError" in str(error)
    )


def _train(host: Host, watches: Sequence[Watch], stage: Stage, folder: Path, ancillary: Path | None) -> Record:
    return train.train(stage, host, folder, ancillary, watches)


@dataclass
class Reporter:
    """A watch that sends events for `Display.show`, of steps a few a second at most.

    `titles`: what to call the stages of the running cell, by key.
    """

    number: int
    send: Callable[[tuple[Any, ...]], None]
    titles: Mapping[str, str] = field(default_factory=dict)
    _last: float = 0.0
    _score: float | None = None

    def report(self, kind: str, key: str, *facts: Any) -> None:
        """Send one event about the stage `key`. `facts`: the share that is done (`begin`, `step`), the score (`done`),
        why it ended or failed (`ended`, `failed`), nothing (`wait`)."""
        self.send((kind, self.number, key, self.titles.get(key, key), *facts))

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        self.report("begin", stage.key, epoch / stage.epochs)

    def step(self, stage: Stage, done: int, total: int) -> None:
        if time.monotonic() - self._last > 0.3:
            self._last = time.monotonic()
            self.report("step", stage.key, done / total)

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        pass

    def end(self, stage: Stage, body: Record | None) -> None:
        self._score = None if body is None else score(body)

    def record_written(self, stage: Stage) -> None:
        """Send `done`: whoever looks then finds the record in the store."""
        self.report("done", stage.key, self._score)


def _titles(plan: Plan) -> dict[str, str]:
    """Return what to call the stages of a plan, by key: the title, and the settings in which its cells differ."""
    titles = {stage.key: stage.title for stage in plan.todo}
    shown = {"losses", "seed", "backbone", "modules", "profile"}
    varied = [
        name for name, values in sorted(search.spaces(plan.cells).items()) if len(values) > 1 and name not in shown
    ]
    for cell in plan.cells:
        point = "".join(f" {name}={_short(cell.point[name])}" for name in varied if name in cell.point)
        titles[cell.stage.key] = cell.stage.title + point
    return titles


def _short(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
