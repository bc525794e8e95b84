"""Sweeps with worker processes: nothing twice, nothing lost."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from torch import Tensor

from seminar import cost, jobs, machine, recipes, search, sweep
from seminar.catalogue import Cell
from seminar.plan import Plan, make_plan, schedule
from seminar.store import Store
from seminar.train import Trainer
from tests.conftest import ROOT, Said, seminar_here
from tests.records import finish, line, no_training

MakeCell = Callable[..., Cell]
TOY = ["sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy"]
LONG = [*TOY, "losses=pce+pcons,pce+pcons+pseudo", "seed=0", "epochs=40", "data_val=2"]


def command(*arguments: str, runs: Path) -> list[str]:
    tracking = ["--wandb", "disabled"] if arguments[0] == "sweep" else []
    return [sys.executable, "-m", "seminar", *arguments, "--runs", str(runs), *tracking]


def here(*arguments: str, runs: Path, code: int = 0) -> Said:
    """What a command says that runs in this process."""
    return seminar_here(*command(*arguments, runs=runs)[3:], code=code)


def trained(runs: Path) -> dict[str, int]:
    """Sessions of every finished training: 1 means trained in one go, once."""
    store = Store(runs)
    records = {key: store.record(key) for key in store.keys()}  # noqa: SIM118
    return {key: record["sessions"] for key, record in records.items() if record is not None}


def stamps(runs: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/record.json")}


@pytest.mark.slow
def test_two_workers_train_table_3_once(tmp_path: Path) -> None:
    plan = here(*TOY, "seed=0", "--workers", "2", "--dry-run", runs=tmp_path)
    assert "6 cells, 6 trainings (training each cell's chain by itself would be 7)" in plan.stdout
    assert "0 done, 6 to do" in plan.stdout
    assert not list(tmp_path.glob("*/stage.json")), "a dry run trains nothing"
    first = here(*TOY, "seed=0", "--workers", "2", runs=tmp_path)
    assert first.stderr.count("mIoU") == 6
    assert list(trained(tmp_path).values()) == [1] * 6
    before = stamps(tmp_path)
    second = here(*TOY, "seed=0", "--workers", "2", runs=tmp_path)
    assert "6 done, 0 to do" in second.stdout
    assert stamps(tmp_path) == before
    more = here(*TOY, "seed=0,1", "losses=pce", "--workers", "0", runs=tmp_path)
    assert "1 done, 1 to do" in more.stdout
    assert len(trained(tmp_path)) == 7

    (journal,) = tmp_path.glob("studies/*.journal") if len(list(tmp_path.glob("studies/*"))) == 1 else [None]
    assert journal is None, "another grid is another study"
    path = max(tmp_path.glob("studies/*.journal"), key=lambda path: path.stat().st_size)  # that of the 6 cells
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
    study = optuna.load_study(study_name=None, storage=storage)
    # Of two workers that look at an empty queue at once one may get a trial that nobody asked for.
    requested = [trial for trial in study.trials if "key" in trial.user_attrs]
    values = {trial.user_attrs["key"]: trial.value for trial in requested}
    assert len(requested) == len(values) == 6
    store = Store(tmp_path)
    for key, value in values.items():
        record = store.record(key)
        assert record is not None
        assert value == record["metrics"]["student"]["crop"]["miou"]


def start(runs: Path, epoch: int) -> subprocess.Popen[str]:
    """Start the sweep of one long training and its primary; returns once it has saved `epoch` epochs of one of them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so would this
    process = subprocess.Popen(
        command(*LONG, "--workers", "2", runs=runs),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    store, deadline = Store(runs), time.monotonic() + 120
    while max((len(store.curve(key)) for key in store.keys()), default=0) < epoch:  # noqa: SIM118
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def workers_of(parent: int) -> list[int]:
    children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, check=False)
    return [int(pid) for pid in children.stdout.split()]


@pytest.mark.slow
def test_a_sweep_that_is_stopped_and_killed_goes_on_every_time(tmp_path: Path) -> None:
    """By Ctrl-C, by a cluster before the time is up, and by kill -9 of everything."""
    store = Store(tmp_path)
    saved = 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path, saved + 2)
        try:
            if number is signal.SIGKILL:
                victims = [process.pid, *workers_of(process.pid)]
                assert len(victims) >= 3
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
            else:
                os.killpg(process.pid, number)
            _, errors = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if number is not signal.SIGKILL:
            assert process.returncode == 130
            assert "Traceback" not in errors
            assert "the same command goes on" in errors
        assert {store.status(key) for key in store.keys()} == {"stopped"}  # noqa: SIM118
        saved = max(len(store.curve(key)) for key in store.keys())  # noqa: SIM118
    here(*LONG, "--workers", "0", runs=tmp_path)
    sessions = trained(tmp_path)
    assert sorted(sessions.values()) == [1, 4], "continued each time, and not begun anew"
    for key in sessions:
        assert [line["epoch"] for line in store.curve(key)] == list(range(1, 41))


def test_a_failing_cell_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    settings = ["losses=pce,pce+pcons,pce+pcons+pseudo", "seed=0", "lambda_pcons=1e30", "data_val=2"]
    result = here(*TOY, *settings, "--workers", "0", runs=tmp_path, code=1)
    assert len(trained(tmp_path)) == 1
    assert "pce+pcons creatures small_resnet seed 0" in result.stderr
    assert "FloatingPointError: loss" in result.stderr
    assert re.search(r"pseudo K=1 creatures small_resnet seed 0 \(\w+\) failed: \w+ failed: Floating", result.stderr)
    status = here("status", runs=tmp_path)
    assert "failed" in status.stdout
    assert "diverged" in status.stdout
    assert "1 done, 2 failed" in status.stdout


def prepare(plan: Plan, store: Store) -> search.StudyLocation:
    todo = {stage.key for stage in plan.todo}
    return search.prepare_grid(plan.sweep.name, plan.cells, plan.order, todo, store, None)


def test_trials_of_dead_workers_are_handed_out_again(tmp_path: Path, losses_sweep: sweep.Sweep) -> None:
    request = losses_sweep.override({"profile": ("toy",), "losses": ("pce",), "seed": (0, 1)})
    cells, store = recipes.cells(request), Store(tmp_path)
    plan = make_plan(request, cells, store, 1)
    queue = prepare(plan, store)
    assert queue.journal.is_absolute(), "Optuna's lock is a link to this path"
    dead = queue.open().study.ask()
    dead.set_user_attr("host", "elsewhere")
    prepare(plan, store)
    trials = queue.open().study.trials
    assert [trial.state.name for trial in trials] == ["FAIL", "WAITING", "WAITING"]
    assert {trial.user_attrs["key"] for trial in trials[1:]} == {cell.stage.key for cell in cells}


def test_a_training_without_a_score_is_no_value_for_optuna(
    tmp_path: Path, cell: MakeCell, losses_sweep: sweep.Sweep
) -> None:
    """As where no image has a mask."""
    request = losses_sweep.override({"profile": ("toy",), "losses": ("pce",), "seed": (0, 1)})
    cells, store = recipes.cells(request), Store(tmp_path)
    finish(cells[0].stage, None, runs=tmp_path)
    queue = prepare(make_plan(request, cells, store, 1), store)
    assert [trial.state.name for trial in queue.open().study.trials] == ["WAITING"]


def test_other_trainings_are_another_study(tmp_path: Path, losses_sweep: sweep.Sweep) -> None:
    """The same words can mean other trainings once a profile, the data or RECIPE has changed."""
    request = losses_sweep.override({"profile": ("toy",), "losses": ("pce",), "seed": (0,)})
    (cell,) = recipes.cells(request)
    store = Store(tmp_path)
    other = dataclasses.replace(cell, stage=cell.stage.model_copy(update={"epochs": 3}))
    names = {prepare(make_plan(request, [c], store, 1), store).name for c in (cell, other)}
    assert len(names) == 2


def test_a_finished_primary_needs_no_ancillary(tmp_path: Path, cell: MakeCell, losses_sweep: sweep.Sweep) -> None:
    primary = cell()
    store = Store(tmp_path)
    store.ensure(primary.stage, no_training)
    (store.folder(primary.stage.chain[0].key) / "record.json").unlink()
    assert make_plan(losses_sweep, [primary], store, 1).todo == ()


def test_schedule_keeps_workers_busy_and_ancillaries_first(losses_sweep: sweep.Sweep) -> None:
    cells = recipes.cells(losses_sweep, {"profile": ("toy",), "seed": (0, 1, 2)})
    seconds = {stage.key: 10.0 * len(stage.losses) for cell in cells for stage in cell.stage.chain}
    order, end = schedule(cells, seconds, 2)
    assert sorted(map(repr, order)) == sorted(map(repr, cells))
    seen: set[str] = set()
    for cell in order:
        assert all(stage.key in seen for stage in cell.stage.chain[:-1])
        seen.add(cell.stage.key)
    # 3 seeds x (10 + 20 + 20 + 30 + 40 + 10) seconds of work on two workers cannot end before 195.
    assert 195 <= end <= 215
    assert schedule(cells, {}, 2)[1] == 0
    assert schedule(cells, seconds, 1)[1] == pytest.approx(390)


def test_schedule_waits_for_an_ancillary_that_runs_elsewhere(cell: MakeCell) -> None:
    primary, ancillary = cell(), cell(losses="pce+crf+pcons")
    seconds = {stage.key: 1.0 for stage in primary.stage.chain}
    assert schedule([primary, ancillary], seconds, 2) == ([ancillary, primary], 2.0)
    assert schedule([primary, ancillary], {}, 2)[0] == [ancillary, primary]


def test_plan_counts_what_is_left(
    tmp_path: Path, cell: MakeCell, losses_sweep: sweep.Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "measure_epoch", lambda *_: cost.Cost(1.0))
    primary, store = cell(epochs=5), Store(tmp_path)
    store.ensure(primary.stage.chain[0], functools.partial(no_training, seconds=50.0))
    folder = store.folder(primary.stage.key)
    folder.mkdir()
    (folder / "metrics.jsonl").write_text(line(1) + line(2))
    plan = make_plan(losses_sweep, [primary], store, 1)
    assert plan.todo == (primary.stage,)
    assert plan.seconds == {primary.stage.key: 3.0}


@pytest.mark.parametrize("settings", [{"freeze": "bn"}, {"crop": 48}, {"batch_size": 4}, {"modules": 0}])
def test_speed_is_only_taken_from_equal_shapes(cell: MakeCell, settings: dict[str, Any]) -> None:
    assert cost.shape(cell().stage) != cost.shape(cell(**settings).stage)
    assert cost.shape(cell(seed=5, lr=0.2).stage) == cost.shape(cell().stage)


def test_one_cell_trains_its_whole_chain(cell: MakeCell) -> None:
    chain = cell(modules=2)
    seconds = {stage.key: 1.0 for stage in chain.stage.chain}
    assert schedule([chain], seconds, 4) == ([chain], 3.0)


def test_plan_uses_the_measured_speed_of_equal_shapes(tmp_path: Path, losses_sweep: sweep.Sweep) -> None:
    request = losses_sweep.override({"profile": ("toy",), "losses": ("pce",), "seed": (0, 1)})
    cells = recipes.cells(request)
    store = Store(tmp_path)
    here = {"torch": "2.11.0", "device": "cpu", "cpu": machine.name(torch.device("cpu"))}
    store.ensure(cells[0].stage, functools.partial(no_training, seconds=50.0, environment=here))
    plan = make_plan(request, cells, store, 2)
    assert plan.seconds == {cells[1].stage.key: pytest.approx(50.0)}
    assert "1 done, 1 to do" in plan.lines()[2]


@pytest.mark.parametrize("other", [{"device": "cpu", "cpu": "another"}, {"device": "a card", "cpu": "chip"}])
def test_the_speed_of_another_machine_says_nothing(
    tmp_path: Path, losses_sweep: sweep.Sweep, monkeypatch: pytest.MonkeyPatch, other: dict[str, str]
) -> None:
    monkeypatch.setattr(cost, "measure_epoch", lambda *_: cost.Cost(1.0))
    request = losses_sweep.override({"profile": ("toy",), "losses": ("pce",), "seed": (0, 1)})
    cells, store = recipes.cells(request), Store(tmp_path)
    environment = {"torch": "2.11.0", **other}
    store.ensure(
        cells[0].stage, functools.partial(no_training, seconds=50.0, peak_memory_mb=9, environment=environment)
    )
    assert make_plan(request, cells, store, 2).seconds == {cells[1].stage.key: 2.0}  # two epochs


def test_records_are_the_truth_not_the_journal(tmp_path: Path) -> None:
    settings = ["losses=pce", "seed=0,1"]
    here(*TOY, *settings, "--workers", "0", runs=tmp_path)
    key = next(iter(trained(tmp_path)))
    record = tmp_path / key / "record.json"
    value = json.loads(record.read_text())["metrics"]
    record.unlink()
    here(*TOY, *settings, "--workers", "0", runs=tmp_path)
    assert json.loads(record.read_text())["metrics"] == value


def test_a_cell_that_runs_out_of_memory_leaves_the_others_to_be_trained(
    tmp_path: Path, losses_sweep: sweep.Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = losses_sweep.override({"profile": ("toy",), "losses": ("pce", "ce"), "seed": (0,), "epochs": (1,)})
    cells, store = recipes.cells(request), Store(tmp_path)
    plan = make_plan(request, cells, store, 1)
    first, second = plan.order
    step = Trainer.step

    def hungry(self: Trainer, *rest: Any) -> dict[str, Tensor]:
        if self.stage.key == first.stage.key:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ...")
        return step(self, *rest)

    monkeypatch.setattr(Trainer, "step", hungry)
    job = jobs.Job(prepare(plan, store), jobs.GridTrials(plan.cells, {}), tmp_path, "disabled", "sweep", "call")
    events: list[tuple[Any, ...]] = []
    job.work(0, lambda: False, events.append)
    assert [store.status(each.stage.key) for each in (first, second)] == ["failed", "done"]
    (failed,) = (event for event in events if event[0] == "failed")
    assert "ran out of memory at a step that needs another 2.00 GiB" in failed[-1]
