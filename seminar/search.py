"""Running a sweep: Optuna hands out the cells, worker processes train them, the store keeps every training once.

Of a grid the cells are known and Optuna is a queue; in a search (`method: random` or `bayes`) it also chooses the
points. Its study (`seminar.studies`) tells who does what next and is what `optuna-dashboard` shows. What is done is
decided by the store and the files of the trials alone, so a deleted study loses nothing and a killed worker leaves
nothing to clean up.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any, ClassVar, Protocol
from uuid import uuid4

import optuna
import torch
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState
from tqdm import tqdm

from seminar import catalogue, cost, studies, train
from seminar.catalogue import Cell, Host
from seminar.recipes import pick_device
from seminar.spec import InputError, Scalar, Stage
from seminar.store import Interrupted, Record, StageFailed, Store, read_lines, reason, score
from seminar.sweep import DEFAULT, Range, Sweep
from seminar.tracking import Mode, WandbWatch
from seminar.tuning import State, Trial, Tuning


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
    costs: cost.Survey

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
            processes = _processes(self.workers, self.device)
            lines.append(f"  {steps} epochs on {processes}: about {clock(self.wall_seconds)} of training")
            compiled = sum(stage.compile for stage in self.todo)
            if compiled:
                lines.append(f"  and torch.compile, a minute or more at every start of {compiled} of the trainings")
            lines += memory_lines(self.costs)
        return lines


def make_plan(sweep: Sweep, cells: Sequence[Cell], store: Store, workers: int | None) -> Plan:
    """Look up what is done and estimate the rest from measured speed.

    The speed is that of finished trainings of the same shape, else of a few steps run now. Raises `InputError` where a
    training, or the workers of a GPU together, need more memory than it has.
    """
    stages = {stage.key: stage for cell in cells for stage in cell.stage.chain}
    done = {key for key in stages if store.record(key) is not None}
    # Only for cells that are not done: a finished primary needs no ancillary any more.
    asked = {stage.key for cell in cells if cell.stage.key not in done for stage in cell.stage.chain}
    todo = [stage for key, stage in stages.items() if key in asked - done]
    hosts = {stage.key: cell.host for cell in cells for stage in cell.stage.chain}
    count, device = _processes_here(cells[0].host, workers)
    costs = _costs(todo, hosts, store)
    _check_memory(costs, min(count, len(todo)), cells[0].host)
    seconds = {
        stage.key: costs.of(stage).seconds * max(stage.epochs - len(store.curve(stage.key)), 1) for stage in todo
    }
    return Plan(sweep, tuple(cells), tuple(stages.values()), tuple(todo), seconds, count, device, costs)


def memory_lines(costs: cost.Survey) -> list[str]:
    """Return the plan's line on GPU memory; none on a CPU."""
    if costs.card is None:
        return []
    card = costs.card
    used = "" if card.memory_mb - card.free_mb < 2 * cost.CONTEXT_MB else f", {cost.gigabytes(card.free_mb)} of it free"
    need, has = cost.gigabytes(costs.memory_mb), cost.gigabytes(card.memory_mb)
    return [f"  about {need} of GPU memory a process; {card.name} has {has}{used}"]


def _processes_here(host: Host, workers: int | None) -> tuple[int, str]:
    """How many processes to run, and on what: one for each core or GPU unless `workers` says otherwise."""
    device = pick_device(host.device)
    if workers is None:
        workers = torch.cuda.device_count() if device.type == "cuda" and device.index is None else cores()
        if device.type == "cuda" and device.index is not None:
            workers = 1
    return workers, device.type


def _processes(workers: int, device: str) -> str:
    return f"{workers} {device} process{'' if workers == 1 else 'es'}"


def _costs(stages: Iterable[Stage], hosts: Mapping[str, Host], store: Store) -> cost.Survey:
    """What stages cost here: as finished trainings of the same shape on the same machine did, else measured now."""
    known: dict[tuple[str, str], cost.Cost] = {}
    for key in store.keys():  # noqa: SIM118 - a store is no dictionary
        with suppress(InputError, KeyError):
            record = store.record(key)
            # What several processes trained together (torchrun) says nothing of one.
            if record is not None and record["environment"].get("processes", 1) == 1:
                found = record["environment"]
                on_gpu = found["device"] != "cpu"
                name = found["device"] if on_gpu else found["cpu"]
                seconds = record["seconds"] / record["stage"]["epochs"]
                memory = record["peak_memory_mb"] if on_gpu else None
                known[name, cost.shape(store.stage(key))] = cost.Cost(seconds, memory)
    return cost.survey([(stage, hosts[stage.key]) for stage in stages], known)


def _check_memory(costs: cost.Survey, workers: int, host: Host) -> None:
    """Raise `InputError` where the workers of one GPU need more memory than it has."""
    if costs.card is None:
        return
    cards = torch.cuda.device_count() if pick_device(host.device).index is None else 1
    each = -(-workers // cards)
    if each > 1 and each * costs.memory_mb > costs.card.memory_mb:  # that one fits is known: it was measured
        fit = max(1, costs.card.memory_mb // costs.memory_mb) * cards
        raise InputError(
            f"--workers {workers}: {each} processes on one {costs.card.name} need {each} x "
            f"{cost.gigabytes(costs.memory_mb)}, and it has {cost.gigabytes(costs.card.memory_mb)}; "
            f"take --workers {fit}"
        )


@dataclass(frozen=True)
class SearchPlan:
    """What a search still has to try, and what that and the report of its winner will cost at most."""

    tuning: Tuning
    left: int
    """Trials to do."""
    seconds: Mapping[str, float]
    """Estimated seconds of each stage of one trial, by key of the profile's own values."""
    report: Plan
    """The profile's own values on the reporting split; the winner costs as much again."""
    costs: cost.Survey
    """Of the stages of one trial."""

    def lines(self) -> list[str]:
        """The plan for people."""
        sweep, chain, report = self.tuning.sweep, len(self.seconds), self.report
        many = "a training" if chain == 1 else f"{chain} trainings"
        lines = [
            f"search {sweep.name}: {sweep.description or 'no description'}",
            f"  {sweep.method} over {', '.join(self.tuning.space)}: {sweep.run_cap} trials of {many} each",
            f"  {sweep.run_cap - self.left} done, {self.left} to do",
        ]
        if self.left and self.tuning.own_point is None:
            lines.append("  the profile's own values lie outside what is searched, so no trial begins with them")
        processes = _processes(report.workers, report.device)
        if self.left:
            wall = sum(self.seconds.values()) * -(-self.left // report.workers)
            lines.append(f"  at most {self.left * chain} trainings on {processes}: about {clock(wall)}")
            lines += memory_lines(self.costs)
        wall = report.wall_seconds
        seeds = f"{len(self.tuning.seeds)} seed{'' if len(self.tuning.seeds) == 1 else 's'}"
        if len(report.todo):
            lines.append(f"  then the profile's own values on the reporting split, {seeds}: about {clock(wall)}")
        lines.append(f"  then the best point on the reporting split, {seeds}")
        return lines


def plan_search(tuning: Tuning, store: Store, workers: int | None) -> SearchPlan:
    """Look up what is tried and estimate the rest."""
    for word, span in tuning.sweep.space.items():  # what the words may not be is told before anything is trained
        for value in span.ends if isinstance(span, Range) else span:
            tuning.trial_cell({**dict.fromkeys(tuning.space, DEFAULT), word: value})
    chain = tuning.own.stage.chain
    costs = _costs(chain, {stage.key: tuning.own.host for stage in chain}, store)
    seconds = {stage.key: costs.of(stage).seconds * stage.epochs for stage in chain}
    report = make_plan(tuning.sweep, tuning.reported(), store, workers)
    left = tuning.left(store.record)
    _check_memory(costs, min(report.workers, left), tuning.own.host)
    return SearchPlan(tuning, left, seconds, report, costs)


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


def run(plan: Plan, store: Store, tracking: Mode, storage: str | None = None) -> list[str]:
    """Train everything in the plan; returns one line for each cell that failed. Raises `KeyboardInterrupt` on Ctrl-C
    after the workers have saved and stopped.

    `storage`: the URL of a database for Optuna's study, None: a journal file in the store.
    """
    if not plan.todo:
        return []
    todo = {stage.key for stage in plan.todo}
    queue = studies.prepare_grid(plan.sweep.name, plan.cells, plan.order, todo, store, storage)
    task = _Grid(tuple(plan.cells), _titles(plan))
    job = _Job(queue, task, store.root, tracking, plan.sweep.name, uuid4().hex)
    count = min(plan.workers, len(plan.todo))
    failed = _supervise(job, plan.cells[0].host, count, _Display(plan.seconds, len(plan.todo), count))
    states = {cell.stage.key: store.status(cell.stage.key) for cell in plan.cells}
    for key, state in states.items():
        if state == "failed" and not any(key in line for line in failed):
            failure = store.failure(key) or {"error": "unknown"}
            failed.append(f"{task.names.get(key, key)} ({key}) failed in another call: {failure['error']}")
    open_keys = [key for key, state in states.items() if state not in ("done", "failed")]
    if open_keys and not failed:
        told = ", ".join(open_keys)
        failed.append(f"not done yet, in work by another call or left by one that died just now: {told}")
    return failed


def run_search(plan: SearchPlan, store: Store, tracking: Mode, storage: str | None = None) -> list[str]:
    """Run the trials that are left, then train the best point and the profile's own values on the reporting split.

    Returns one line for each failure and raises, as `run` does. A trial whose loss diverges is a result, no failure.
    """
    tuning, report = plan.tuning, plan.report
    failed: list[str] = []
    if plan.left:
        queue, begun = studies.prepare_search(tuning, store, storage)
        job = _Job(queue, _Trials(tuning, begun), store.root, tracking, tuning.sweep.name, uuid4().hex)
        count = min(report.workers, plan.left)
        each = sum(plan.seconds.values()) / len(plan.seconds)
        failed = _supervise(job, tuning.own.host, count, _Display({}, plan.left * len(plan.seconds), count, each))
        left = tuning.left(store.record)
        if left > 0 and not failed:
            failed.append(f"{left} trials are not done yet, in work by another call or left by one that died just now")
    if failed:
        return failed
    with studies.search_study(tuning, store, storage) as (_, study):
        tuning.keep_importances(studies.importances(study))
    best = tuning.best(store.record)
    cells = [*tuning.reported(), *(tuning.reported(best.point) if best is not None else [])]
    catalogue.write(store.root, [catalogue.Planned(tuning.sweep, cells)])
    final = make_plan(tuning.sweep, list({cell.stage.key: cell for cell in cells}.values()), store, report.workers)
    if best is not None:
        told = ", ".join(f"{word}={_short(best.point[word])}" for word in tuning.space)
        print(f"best of {len(tuning.trials())} trials: {told}", flush=True)
    return run(final, store, tracking, storage)


def _supervise(job: _Job, host: Host, count: int, display: _Display) -> list[str]:
    """Run `count` worker processes to their end; returns one line for each failure."""
    context = multiprocessing.get_context("spawn")
    processes, readers = [], []
    # Until a worker has its own handlers Ctrl-C must not reach it; ignoring a signal is inherited.
    interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
    spread = pick_device(host.device).type == "cuda" and host.device in ("auto", "cuda")
    try:
        for number in range(count):
            device = f"cuda:{number % torch.cuda.device_count()}" if spread else None
            # A pipe for each worker: one that is killed in the middle of a message cannot block the others.
            reader, writer = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(number, job, device, os.getpid(), writer))
            process.start()
            writer.close()
            processes.append(process)
            readers.append(reader)
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


class _Task(Protocol):
    """What worker processes do for a study: the cells of a grid, or the trials of a search. In a search a loss that
    diverges is a result."""

    is_search: ClassVar[bool]

    def sampler(self, number: int) -> BaseSampler:
        """That of worker `number`."""

    def pruner(self) -> BasePruner: ...

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """What a trial is given when it is handed out."""

    def cell(self, trial: optuna.Trial) -> Cell:
        """The cell of a trial that was handed out."""

    def titles(self, cell: Cell) -> Mapping[str, str]:
        """What to call the stages of a cell, by key."""

    def watches(self, trial: optuna.Trial, cell: Cell) -> Sequence[train.Watch]: ...

    def before(self, cell: Cell) -> State | None:
        """How an earlier trial of the very training of `cell` ended."""

    def ended(self, trial: optuna.Trial, state: State, key: str = "", epoch: int = 0, error: str = "") -> None:
        """A trial is over; what must be kept of it is kept before Optuna is told."""


@dataclass(frozen=True)
class _Job:
    """What a worker process needs to know."""

    queue: studies.Queue
    task: _Task
    runs: Path
    tracking: Mode
    group: str
    call: str


@dataclass(frozen=True)
class _Grid:
    """The cells of a grid: a trial names the cell that it is."""

    is_search: ClassVar[bool] = False
    cells: tuple[Cell, ...]
    names: Mapping[str, str]

    def sampler(self, number: int) -> BaseSampler:
        return RandomSampler(seed=0)

    def pruner(self) -> BasePruner:
        return NopPruner()

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {}  # they depend on the cell

    @functools.cached_property
    def _by_key(self) -> dict[str, Cell]:
        return {cell.stage.key: cell for cell in self.cells}

    @functools.cached_property
    def _spaces(self) -> dict[str, list[Any]]:
        return studies.spaces(self.cells)

    def cell(self, trial: optuna.Trial) -> Cell:
        cell = self._by_key[trial.user_attrs["key"]]
        for word in cell.point:
            trial.suggest_categorical(word, self._spaces[word])  # the value that it was enqueued with
        return cell

    def titles(self, cell: Cell) -> Mapping[str, str]:
        return {stage.key: self.names.get(stage.key, stage.title) for stage in cell.stage.chain}

    def watches(self, trial: optuna.Trial, cell: Cell) -> Sequence[train.Watch]:
        return ()

    def before(self, cell: Cell) -> State | None:
        return None

    def ended(self, trial: optuna.Trial, state: State, key: str = "", epoch: int = 0, error: str = "") -> None:
        pass


@dataclass(frozen=True)
class _Trials:
    """The trials of a search: the sampler chooses the point of each. `begun`: how many there were before."""

    is_search: ClassVar[bool] = True
    tuning: Tuning
    begun: int

    def sampler(self, number: int) -> BaseSampler:
        # Each worker draws for itself, and a later call must not repeat the draws of an earlier one.
        seed = train.mix(number, self.begun) % 2**32
        return TPESampler(seed=seed) if self.tuning.sweep.method == "bayes" else RandomSampler(seed=seed)

    def pruner(self) -> BasePruner:
        halving = self.tuning.sweep.halving
        if halving is None:
            return NopPruner()
        return SuccessiveHalvingPruner(min_resource=halving.min_iter, reduction_factor=halving.eta)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return studies.distributions(self.tuning.sweep)

    def cell(self, trial: optuna.Trial) -> Cell:
        cell = self.tuning.trial_cell(trial.params)
        trial.set_user_attr("key", cell.stage.key)
        trial.set_user_attr("chain", [stage.key for stage in cell.stage.chain])
        return cell

    def titles(self, cell: Cell) -> Mapping[str, str]:
        point = "".join(f" {word}={_short(cell.point[word])}" for word in self.tuning.space)
        return {stage.key: stage.title + point for stage in cell.stage.chain}

    def watches(self, trial: optuna.Trial, cell: Cell) -> Sequence[train.Watch]:
        return [_Halt(trial, cell.stage.key)]

    def before(self, cell: Cell) -> State | None:
        return next((trial.state for trial in self.tuning.trials() if trial.key == cell.stage.key), None)

    def ended(self, trial: optuna.Trial, state: State, key: str = "", epoch: int = 0, error: str = "") -> None:
        repeats = trial.user_attrs.get("repeats")
        if not any(kept.number == repeats for kept in self.tuning.trials()):  # else its first owner was alive after all
            self.tuning.keep(Trial(trial.number, key, state, dict(trial.params), epoch, error))
        with studies.tolerant():
            trial.set_user_attr("kept", True)


class _Pruned(Interrupted):
    """A trial was ended early, after `epoch`."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch = epoch


@dataclass
class _Halt:
    """A watch that tells the pruner of every evaluation of the training `key` and ends it where the pruner says so."""

    trial: optuna.Trial
    key: str
    told: int = 0

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        if stage.key == self.key:
            for line in read_lines(folder / "metrics.jsonl"):  # of an earlier call
                self._tell(line)

    def step(self, stage: Stage, done: int, total: int) -> None: ...

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        # After the last epoch there is nothing left to save by ending it.
        over = line["epoch"] == stage.epochs
        if stage.key == self.key and self._tell(line) and not over and self._worse():
            raise _Pruned(line["epoch"])

    def end(self, stage: Stage, body: Record | None) -> None: ...

    def _worse(self) -> bool:
        with studies.tolerant():
            return bool(self.trial.should_prune())
        return False

    def _tell(self, line: Mapping[str, Any]) -> bool:
        if line.get("student_miou") is None:
            return False
        self.told += 1
        with studies.tolerant():
            self.trial.report(line["student_miou"], self.told)
        return True


def _short(value: Scalar) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _work(number: int, job: _Job, device: str | None, parent: int, events: connection.Connection) -> None:
    """A worker process: take cells until none is left."""
    # Ctrl-C in the terminal is for the parent alone; it then asks its workers to stop.
    with suppress(OSError):
        os.setsid()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    warnings.simplefilter("default", RuntimeWarning)

    def asked_to_stop() -> bool:
        return stop.is_set() or os.getppid() != parent

    worker = _Worker(job, device, asked_to_stop, _Teller(number, events), WandbWatch(job.tracking, job.runs, job.group))
    try:
        study = job.queue.open(job.task.sampler(number), job.task.pruner())
        while not asked_to_stop() and worker.serve(study):
            pass
    except Interrupted:
        pass
    except (OSError, InputError, *studies.AWAY) as error:  # the study is gone
        worker.teller.tell("failed", "", f"worker {number + 1}: {reason(error)}")


@dataclass(frozen=True)
class _Worker:
    """What tries the trials of a worker process; `device`: the one that was given to it, if any."""

    job: _Job
    device: str | None
    asked_to_stop: Callable[[], bool]
    teller: _Teller
    mirror: WandbWatch

    def serve(self, study: optuna.Study) -> bool:
        """Take a trial and try it; returns whether there was one."""
        distributions, stopped = self.job.task.distributions, self.asked_to_stop
        trial = studies.patiently(lambda: studies.ask(study, distributions), stopped)
        if trial is None:
            return False
        with self.job.queue.heartbeat(study, trial):
            try:
                state, value = self.attempt(trial)
            except Interrupted:
                with studies.tolerant():
                    studies.hand_out_again(study, trial)
                raise
        # One that cannot be told stays open, and whoever gets it next finds the training finished.
        with studies.tolerant():
            study.tell(trial, value, state=state, skip_if_finished=True)
        return True

    def attempt(self, trial: optuna.Trial) -> tuple[TrialState | None, float | None]:
        """Train what a trial asks for; returns its state (None: by its value) and its value. Raises `Interrupted`."""
        task, store, key = self.job.task, Store(self.job.runs), ""
        try:
            cell = task.cell(trial)
            key = cell.stage.key
            self.teller.titles = task.titles(cell)
            before = task.before(cell)
            if before == "pruned":
                raise _Pruned(store.curve(key)[-1]["epoch"])
            if before == "failed":
                raise FloatingPointError("as in an earlier trial of this point")
            host = cell.host if self.device is None else cell.host.model_copy(update={"device": self.device})
            watches: list[train.Watch] = [train.StopWhen(self.asked_to_stop), self.teller, self.mirror]
            record = store.ensure(
                cell.stage,
                functools.partial(_train, host, [*watches, *task.watches(trial, cell)]),
                on_wait=self._wait,
                call=self.job.call,
                on_record=self.mirror.recorded,
                cell=cell.facts,
            )
            task.ended(trial, "done", key, cell.stage.epochs)
            value = score(record)
            return (TrialState.FAIL if value is None else None), value  # Optuna knows no missing value
        except _Pruned as pruned:
            task.ended(trial, "pruned", key, pruned.epoch)
            self.teller.tell("ended", key, f"ended early after epoch {pruned.epoch}, worse than others")
            return TrialState.PRUNED, None
        except Interrupted:
            raise
        except Exception as error:
            with studies.tolerant():
                trial.set_user_attr("error", reason(error))
            refused = not key and isinstance(error, InputError)
            result = task.is_search and (refused or _diverged(error))
            if result:
                task.ended(trial, "failed", key, len(store.curve(key)) if key else 0, reason(error))
            self.teller.tell("ended" if result else "failed", key, reason(error))
            return TrialState.FAIL, None

    def _wait(self, stage: Stage) -> None:
        if self.asked_to_stop():
            raise Interrupted
        self.teller.tell("wait", stage.key)


def _diverged(error: Exception) -> bool:
    """Whether a loss of the training, or of one that it needs, was no number any more."""
    return isinstance(error, FloatingPointError) or (
        isinstance(error, StageFailed) and "FloatingPointError" in str(error)
    )


def _train(host: Host, watches: Sequence[train.Watch], stage: Stage, folder: Path, ancillary: Path | None) -> Record:
    return train.train(stage, host, folder, ancillary, watches)


@dataclass
class _Teller:
    """A watch that tells the parent process how far this worker is, a few times a second at most.

    `titles`: what to call the stages of the cell in work, by key.
    """

    number: int
    events: connection.Connection
    titles: Mapping[str, str] = field(default_factory=dict)
    _last: float = 0.0

    def tell(self, kind: str, key: str, *facts: Any) -> None:
        with suppress(OSError):  # The parent is gone: the worker will notice and stop, and that is no failure.
            self.events.send((kind, self.number, key, self.titles.get(key, key), *facts))

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        self.tell("begin", stage.key, epoch / stage.epochs)

    def step(self, stage: Stage, done: int, total: int) -> None:
        if time.monotonic() - self._last > 0.3:
            self._last = time.monotonic()
            self.tell("step", stage.key, done / total)

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        pass

    def end(self, stage: Stage, body: Record | None) -> None:
        if body is not None:
            self.tell("done", stage.key, score(body))


class _Display:
    """Progress for people: bars on a terminal, elsewhere one line for each finished training.

    `seconds`: what each training is estimated to take, by key (`each`: one that is not among them); `count`: how many
    are to do.
    """

    def __init__(self, seconds: Mapping[str, float], count: int, workers: int, each: float = 0.0) -> None:
        self.failed: list[str] = []
        self._seconds, self._each, self._count = dict(seconds), each, count
        self._fraction: dict[str, float] = {}
        self._first: dict[str, float] = {}
        self._terminal = sys.stderr.isatty()
        self._finished = 0
        self._began = time.monotonic()
        self._total = sum(self._seconds.values()) + each * (count - len(self._seconds))
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed} < {remaining} left"
        self._bar = tqdm(total=self._total, desc="all", disable=not self._terminal, bar_format=shape, smoothing=0.05)
        row = "{desc:<52.52} {percentage:3.0f}%|{bar:20}|"
        self._rows = [
            tqdm(total=1.0, disable=not self._terminal, position=i + 1, bar_format=row, leave=False)
            for i in range(workers)
        ]

    def show(self, event: tuple[Any, ...]) -> None:
        """Take in `(kind, worker number, key, title, fact ...)`, see `_Teller`."""
        kind, number, key, name, *rest = event
        title = f"{number + 1}: {name}"
        row = self._rows[number]
        if kind == "begin":
            self._first[key] = self._fraction[key] = rest[0]
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
            self.note(f"[{self._finished}/{self._count}] {name}: mIoU {_percent(rest[0])}{self._left()}")
        elif kind == "ended":
            self._advance(key, 1.0)
            self._finished += 1
            self.note(f"[{self._finished}/{self._count}] {name}: {rest[0]}{self._left()}")
        elif kind == "failed":
            line = f"{name} ({key}) failed: {rest[0]}" if key else str(rest[0])
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
        self._bar.update(share * self._seconds.get(key, self._each))

    def _share(self, key: str, fraction: float) -> float:
        """How much of what was left of a stage when this call began is done."""
        first = self._first.get(key, 0.0)
        return (fraction - first) / max(1e-9, 1 - first)

    def _left(self) -> str:
        if self._finished == self._count or (not self._bar.n and self._terminal):
            return ""
        passed = time.monotonic() - self._began
        share = 0.0
        for key, fraction in self._fraction.items():
            share += self._share(key, fraction) * self._seconds.get(key, self._each)
        share /= max(1e-9, self._total)
        return f", about {clock(passed / share - passed)} left" if share > 0.02 else ""


def _titles(plan: Plan) -> dict[str, str]:
    """What to call the stages of a plan: the title, and the words by which cells that share it differ."""
    titles = {stage.key: stage.title for stage in plan.todo}
    shown = {"losses", "seed", "backbone", "modules", "profile"}
    varied = [
        word for word, values in sorted(studies.spaces(plan.cells).items()) if len(values) > 1 and word not in shown
    ]
    for cell in plan.cells:
        words = "".join(f" {word}={_short(cell.point[word])}" for word in varied if word in cell.point)
        titles[cell.stage.key] = cell.stage.title + words
    return titles


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} %"
