"""What a sweep requests, what of it is done, and what the rest will cost: the part that is shown before training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime

import torch

from seminar import checked, cost
from seminar.catalogue import Cell, Host
from seminar.display import clock
from seminar.recipes import pick_device
from seminar.spec import InputError, Stage
from seminar.store import Store
from seminar.sweep import DEFAULT, Range, Sweep
from seminar.trials import Tuning


@dataclass(frozen=True)
class Plan:
    """What a sweep requests, what of it is done, and what the rest will cost."""

    sweep: Sweep
    cells: tuple[Cell, ...]
    stages: tuple[Stage, ...]
    todo: tuple[Stage, ...]
    seconds: Mapping[str, float]
    """Estimated seconds of one process for each stage in `todo`, by key; empty where nothing was measured."""
    workers: int
    device: str
    costs: cost.Survey
    start: float = 0.0
    """Seconds that a worker needs before it begins."""

    @property
    def order(self) -> list[Cell]:
        """Return the cells with trainings to do, in the order in which workers take them (see `schedule`)."""
        wanted = {stage.key for stage in self.todo}
        todo = [cell for cell in self.cells if cell.stage.key in wanted]
        return schedule(todo, self.seconds, self.workers)[0]

    @property
    def wall_seconds(self) -> float:
        """Estimated seconds until all is done, with `workers` processes; 0 where nothing was measured."""
        wall = schedule(self.cells, self.seconds, self.workers)[1]
        return wall + self.start if wall else 0.0

    def lines(self) -> list[str]:
        """Return the plan for people, line by line."""
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
            wall = _about(self.wall_seconds)
            lines.append(f"  {steps} epochs on {processes}{wall}")
            compiled = sum(stage.compile for stage in self.todo)
            if compiled:
                lines.append(f"  and torch.compile, a minute or more at every start of {compiled} of the trainings")
            lines += memory_lines(self.costs)
        return lines


def make_plan(
    sweep: Sweep,
    cells: Sequence[Cell],
    store: Store,
    workers: int | None,
    elsewhere: bool = False,
    start: float = 0.0,
) -> Plan:
    """Look up what is done, check the data of the rest, and estimate its cost from measured speed.

    The speed is that of finished trainings of the same shape, else of a few steps run now; nothing is measured for
    workers `elsewhere`, on other machines than this one. `start`: seconds that a worker needs before it begins. Raises
    `InputError` where data cannot be used, and where a training, or the workers of a GPU together, need more memory
    than it has.
    """
    stages = {stage.key: stage for cell in cells for stage in cell.stage.chain}
    done = {key for key in stages if store.record(key) is not None}
    # Only for cells that are not done: a finished primary needs no ancillary any more.
    needed = {stage.key for cell in cells if cell.stage.key not in done for stage in cell.stage.chain}
    todo = [stage for key, stage in stages.items() if key in needed - done]
    hosts = {stage.key: cell.host for cell in cells for stage in cell.stage.chain}
    checked.check([(stage, hosts[stage.key]) for stage in todo], store)
    count, device = _processes_here(cells[0].host, workers)
    if elsewhere:
        return Plan(sweep, tuple(cells), tuple(stages.values()), tuple(todo), {}, count, "remote", cost.Survey({}))
    costs = _costs(todo, hosts, store)
    _check_memory(costs, min(count, len(todo)), cells[0].host)
    seconds = {stage.key: costs.of(stage).of(max(stage.epochs - len(store.curve(stage.key)), 1)) for stage in todo}
    return Plan(sweep, tuple(cells), tuple(stages.values()), tuple(todo), seconds, count, device, costs, start)


def memory_lines(costs: cost.Survey) -> list[str]:
    """Return the plan's line on GPU memory; none on a CPU."""
    if costs.card is None:
        return []
    card = costs.card
    used = "" if card.memory_mb - card.free_mb < 2 * cost.CONTEXT_MB else f", {cost.gigabytes(card.free_mb)} of it free"
    need, has = cost.gigabytes(costs.memory_mb), cost.gigabytes(card.memory_mb)
    return [f"  about {need} of GPU memory a process; {card.name} has {has}{used}"]


def _processes_here(host: Host, workers: int | None) -> tuple[int, str]:
    """Return how many processes to run, and on what: one for each core or GPU unless `workers` says otherwise."""
    device = pick_device(host.device)
    if workers is None:
        workers = torch.cuda.device_count() if device.type == "cuda" and device.index is None else cores()
        if device.type == "cuda" and device.index is not None:
            workers = 1
    return workers, device.type


def _processes(workers: int, device: str) -> str:
    return f"{workers} {device} process{'' if workers == 1 else 'es'}"


def _costs(stages: Iterable[Stage], hosts: Mapping[str, Host], store: Store) -> cost.Survey:
    """Return what stages cost here: as trainings of the same shape took on this machine, else measured now."""
    known: dict[tuple[str, str], cost.Cost] = {}
    for key in store.keys():  # noqa: SIM118 - a store is no dictionary
        with suppress(InputError, KeyError):
            record = store.record(key)
            # What several processes trained together (torchrun) says nothing of one.
            if record is not None and record["environment"].get("processes", 1) == 1:
                found = record["environment"]
                on_gpu = found["device"] != "cpu"
                machine = found["device"] if on_gpu else found["cpu"]
                seconds = record["seconds"] / record["stage"]["epochs"]
                memory = record["peak_memory_mb"] if on_gpu else None
                beside = 0.0
                if record.get("sessions") == 1 and "started" in record and "finished" in record:
                    began, ended = (datetime.fromisoformat(record[name]) for name in ("started", "finished"))
                    beside = max(0.0, (ended - began).total_seconds() - record["seconds"])
                known[machine, cost.shape(store.stage(key))] = cost.Cost(seconds, memory, beside)
    return cost.survey([(stage, hosts[stage.key]) for stage in stages], known)


def _check_memory(costs: cost.Survey, workers: int, host: Host) -> None:
    """Raise `InputError` where the workers of one GPU need more memory than it has."""
    if costs.card is None:
        return
    cards = torch.cuda.device_count() if pick_device(host.device).index is None else 1
    each = -(-workers // cards)
    if each > 1 and each * costs.memory_mb > costs.card.memory_mb:  # one fits: it was measured
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
    sampler: str
    pruner: str
    left: int
    """Trials to do."""
    seconds: Mapping[str, float]
    """Estimated seconds of each stage of one trial, by key of the profile's own values; empty where not measured."""
    reporting: Plan
    """The profile's own values on the reporting split; the winner costs as much again."""
    costs: cost.Survey
    """Of the stages of one trial."""

    def lines(self) -> list[str]:
        """Return the plan for people, line by line."""
        sweep, chain, reporting = self.tuning.sweep, len(self.tuning.own.stage.chain), self.reporting
        many = "a training" if chain == 1 else f"{chain} trainings"
        lines = [
            f"search {sweep.name}: {sweep.description or 'no description'}",
            f"  {sweep.method} (sampler {self.sampler}) over {', '.join(self.tuning.space)}: "
            f"{sweep.run_cap} trials of {many} each",
            f"  {sweep.run_cap - self.left} done, {self.left} to do",
        ]
        if self.left and self.tuning.own_point is None:
            lines.append("  the profile's own values lie outside what is searched, so no trial begins with them")
        processes = _processes(reporting.workers, reporting.device)
        if self.left:
            wall = sum(self.seconds.values()) * -(-self.left // reporting.workers)
            wall += reporting.start if wall else 0.0
            lines.append(f"  at most {self.left * chain} trainings on {processes}{_about(wall)}")
            lines += memory_lines(self.costs)
        seeds = f"{len(self.tuning.seeds)} seed{'' if len(self.tuning.seeds) == 1 else 's'}"
        if len(reporting.todo):
            wall = reporting.wall_seconds
            lines.append(f"  then the profile's own values on the reporting split, {seeds}{_about(wall)}")
        lines.append(f"  then the best point on the reporting split, {seeds}")
        return lines


def plan_search(
    tuning: Tuning,
    sampler: str,
    pruner: str,
    store: Store,
    workers: int | None,
    elsewhere: bool = False,
    start: float = 0.0,
) -> SearchPlan:
    """Look up what is tried and estimate the rest, as `make_plan` does."""
    for name, span in tuning.sweep.space.items():  # a value that cannot be is refused before anything is trained
        for value in span.ends if isinstance(span, Range) else span:
            tuning.trial_cell({**dict.fromkeys(tuning.space, DEFAULT), name: value})
    others = tuning.elsewhere(store.keys(), store.record)  # the call makes them trials, a plan writes nothing
    chain, left = tuning.own.stage.chain, replace(tuning, others=tuple(others)).left(store.record)
    if left:
        checked.check([(stage, tuning.own.host) for stage in chain], store)
    reporting = make_plan(tuning.sweep, tuning.reported(), store, workers, elsewhere, start)
    if elsewhere:
        return SearchPlan(tuning, sampler, pruner, left, {}, reporting, cost.Survey({}))
    costs = _costs(chain, {stage.key: tuning.own.host for stage in chain}, store)
    seconds = {stage.key: costs.of(stage).of(stage.epochs) for stage in chain}
    _check_memory(costs, min(reporting.workers, left), tuning.own.host)
    return SearchPlan(tuning, sampler, pruner, left, seconds, reporting, costs)


def schedule(cells: Iterable[Cell], seconds: Mapping[str, float], workers: int) -> tuple[list[Cell], float]:
    """Return the order and the end time of `cells` when each free worker takes, of the ready cells of the first seed
    that has one, the cell with the longest work behind it.

    Seed by seed, so that a first complete table is there early.

    A cell is ready once its ancillary is done, so no worker waits for a training that another is at. `seconds` holds
    the cost of the stages to do; stages that it does not hold cost nothing.
    """
    waiting = {cell.stage.key: cell for cell in cells}
    seeds = list(dict.fromkeys(cell.stage.replicate for cell in waiting.values()))
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
        # When the free worker could start: now, or once an ancillary that another worker trains ends.
        ready = {
            key: max([now, *(ends[s.key] for s in cell.stage.chain if s.key in ends)])
            for key, cell in waiting.items()
            if not any(s.key in waiting for s in cell.stage.chain[:-1])  # also where costs are equal or unknown
        }
        chosen = waiting.pop(
            min(ready, key=lambda key: (ready[key], seeds.index(waiting[key].stage.replicate), -behind[key]))
        )
        start = ready[chosen.stage.key]
        for stage in chosen.stage.chain:
            if stage.key not in ends:
                start += seconds.get(stage.key, 0.0)
                ends[stage.key] = start
        free[free.index(now)] = start
        order.append(chosen)
    return order, max(free)


def _about(seconds: float) -> str:
    return f": about {clock(seconds)}" if seconds else ""


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
