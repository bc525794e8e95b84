"""What a training will cost: the memory of a GPU, and settings that would fit."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seminar import cost, machine, recipes, sweep
from seminar import plan as planning
from seminar.catalogue import Cell, Host
from seminar.cost import Card, Cost, Survey, shape
from seminar.spec import InputError, Stage
from seminar.store import Store
from tests.records import finish, no_training
from tests.test_tuning import tuning, write

MakeCell = Callable[..., Cell]
CARD = Card("a card", 24_576, 24_000)


def needs(stage: Stage) -> float:
    """Made-up memory in MB: in proportion to the pixels of a batch, half of it in bfloat16."""
    return stage.batch_size * stage.crop**2 / 100 * (0.5 if stage.precision == "bf16" else 1)


def small(limit: float) -> Callable[..., Cost]:
    """A stand-in for `measure_epoch` on a GPU with so many MB."""

    def measure(stage: Stage, host: Host) -> Cost:
        if needs(stage) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB.")
        return Cost(1.0, round(needs(stage)))

    return measure


@pytest.mark.slow
def test_a_training_that_does_not_fit_is_told_with_what_would(cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = cell(losses="pce", batch_size=12, crop=513).stage
    monkeypatch.setattr(cost, "measure_epoch", small(needs(stage) * 0.4))
    line = cost._too_large(stage, Host(), CARD)
    settings = "losses=pce backbone=small_resnet batch_size=12 crop=513 precision=fp32"
    assert line.startswith(f"{settings}: does not fit on a card (24.0 GB); ")
    # 12 * 0.4 = 4.8 images fit: of 8 and 4 the second. 513 * sqrt(0.4) = 324 pixels: of 385 and 257 the second.
    four, smaller = (
        f"{(round(needs(stage) * share) + cost.CONTEXT_MB) / 1024:.1f} GB" for share in (4 / 12, (257 / 513) ** 2)
    )
    assert line.endswith(f"these would: batch_size=4 ({four}), crop=257 ({smaller})")
    assert "\n" not in line
    monkeypatch.setattr(cost, "measure_epoch", small(needs(stage) * 0.6))
    assert "these would: precision=bf16 (" in cost._too_large(stage, Host(), CARD)
    monkeypatch.setattr(machine, "has", lambda *_: False)
    assert "precision=bf16 (" not in cost._too_large(stage, Host(), CARD), "a card without it"
    monkeypatch.setattr(cost, "measure_epoch", small(0))
    assert cost._too_large(stage, Host(), CARD).endswith("; nor does any smaller setting that was tried")


def test_memory_that_others_use_is_told(cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure_epoch", small(0))
    line = cost._too_large(cell(losses="pce").stage, Host(), Card("a card", 24_576, 4_096))
    assert "(24.0 GB, 20.0 GB of it in use by others)" in line


def test_other_errors_than_memory_are_not_taken_for_it(cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Cost:
        raise RuntimeError("something else")

    monkeypatch.setattr(cost, "measure_epoch", fail)
    with pytest.raises(RuntimeError, match="something else"):
        cost.survey([(cell(losses="pce").stage, Host())], {})


def test_the_plan_knows_memory(tmp_path: Path, losses_sweep: sweep.Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    request = losses_sweep.override({"profile": ("toy",), "losses": ("pce", "ce"), "seed": (0,)})
    cells = recipes.cells(request)
    sizes = {shape(cells[0].stage): 9_000, shape(cells[1].stage): 10_000}
    found = Survey({each: Cost(1.0, size) for each, size in sizes.items()}, CARD)
    monkeypatch.setattr(cost, "survey", lambda *_: found)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    plan = planning.make_plan(request, cells, Store(tmp_path), 2)
    assert "  about 10.4 GB of GPU memory a process; a card has 24.0 GB" in plan.lines()
    shared = dataclasses.replace(plan, costs=Survey(found.costs, Card("a card", 24_576, 12_288)))
    assert shared.lines()[-1] == "  about 10.4 GB of GPU memory a process; a card has 24.0 GB, 12.0 GB of it free"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory: you tried"),
        MemoryError(),
    ],
)
def test_every_kind_of_full_memory_is_known(error: Exception) -> None:
    assert machine.is_out_of_memory(error)
    assert not machine.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_card_that_one_process_fills_takes_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate may lie above the card by what CUDA takes, but one process was just measured to fit."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    full = Survey({"x": Cost(1.0, 24_200)}, CARD)
    planning._check_memory(full, 1, Host(device="cpu"))
    with pytest.raises(InputError, match=r"take --workers 1$"):
        planning._check_memory(full, 2, Host(device="cpu"))


def test_one_plan_is_for_one_device(cell: MakeCell) -> None:
    one, other = cell(losses="pce").stage, cell(losses="ce").stage
    with pytest.raises(InputError, match="device=auto,cpu: one plan is for one device"):
        cost.survey([(one, Host(device="cpu")), (other, Host())], {})


def test_what_several_processes_trained_says_nothing_of_one(
    tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cost, "measure_epoch", lambda *_: Cost(1.0))
    known, requested = cell(losses="pce", seed=1), cell(losses="pce", seed=2)
    here = {"torch": "2.11.0", "device": "cpu", "cpu": machine.name(torch.device("cpu"))}
    for processes, expected in ((2, Cost(1.0)), (1, Cost(50.0 / known.stage.epochs))):
        store = Store(tmp_path / str(processes))
        environment = {**here, "processes": processes}
        store.ensure(known.stage, functools.partial(no_training, seconds=50.0, environment=environment))
        found = planning._costs([requested.stage], {requested.stage.key: requested.host}, store)
        assert found.of(requested.stage) == expected


@pytest.mark.parametrize(("workers", "cards", "fits"), [(2, 1, True), (3, 1, False), (4, 2, True), (5, 2, False)])
def test_workers_that_do_not_fit_on_a_card_are_refused(
    monkeypatch: pytest.MonkeyPatch, workers: int, cards: int, fits: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cards)
    costs = Survey({"x": Cost(1.0, 10_000)}, CARD)  # with CUDA itself 10.4 GB: two on a card of 24
    if fits:
        planning._check_memory(costs, workers, Host(device="cpu"))
        return
    with pytest.raises(InputError) as caught:
        planning._check_memory(costs, workers, Host(device="cpu"))
    assert str(caught.value) == (
        f"--workers {workers}: 3 processes on one a card need 3 x 10.4 GB, and it has 24.0 GB; "
        f"take --workers {2 * cards}"
    )


def test_memory_that_runs_out_on_a_cpu_is_told_in_a_line(cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> cost.Cost:
        raise MemoryError

    monkeypatch.setattr(cost, "measure_epoch", fail)
    with pytest.raises(InputError, match=r"losses=pce .* does not fit into the memory of this machine"):
        cost.survey([(cell(losses="pce").stage, Host(device="cpu"))], {})


def test_workers_of_one_named_card_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(planning, "pick_device", torch.device)
    costs = Survey({"x": Cost(1.0, 10_000)}, CARD)
    planning._check_memory(costs, 3, Host(device="cuda"))
    with pytest.raises(InputError, match=r"3 processes on one a card .* take --workers 2$"):
        planning._check_memory(costs, 3, Host(device="cuda:1"))


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> None:
    """One card on which two trainings fit."""
    costs = Survey({}, CARD)
    monkeypatch.setattr(Survey, "of", lambda *_: Cost(1.0, 10_000))
    monkeypatch.setattr(Survey, "memory_mb", 10_600)
    monkeypatch.setattr(cost, "survey", lambda *_: costs)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(planning, "_processes_here", lambda _, workers: (workers, "cuda"))


def test_a_plan_refuses_workers_that_do_not_fit(card: None, tmp_path: Path, losses_sweep: sweep.Sweep) -> None:
    request = losses_sweep.override({"profile": ("toy",), "losses": ("pce",), "seed": (0, 1, 2)})
    cells, store = recipes.cells(request), Store(tmp_path)
    with pytest.raises(InputError, match=r"^--workers 3: 3 processes on one a card"):
        planning.make_plan(request, cells, store, 3)
    planning.make_plan(request, cells[:2], store, 3)  # no more processes than trainings


def test_the_plan_of_a_search_knows_memory(card: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = tuning(write(tmp_path), tmp_path)
    plan = planning.plan_search(requested, "tpe", "none", Store(tmp_path), 2)
    assert "  about 10.4 GB of GPU memory a process; a card has 24.0 GB" in plan.lines()
    report = dataclasses.replace(plan.reporting, workers=3)
    monkeypatch.setattr(planning, "make_plan", lambda *_: report)
    with pytest.raises(InputError, match=r"^--workers 3: "):
        planning.plan_search(requested, "tpe", "none", Store(tmp_path), 3)


@pytest.mark.parametrize(
    ("error", "printed"),
    [(InputError("too: large"), "^too: large$"), (SystemExit(3), "^device=cuda: .* ended with exit code 3 ")],
)
def test_why_measuring_failed_is_told_in_a_line(
    cell: MakeCell, monkeypatch: pytest.MonkeyPatch, error: BaseException, printed: str
) -> None:
    def fail(*_: object) -> Survey:
        raise error

    context = multiprocessing.get_context("fork")  # the child then has the same stand-ins
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: context)
    monkeypatch.setattr(cost, "pick_device", torch.device)
    monkeypatch.setattr(cost, "survey_here", fail)
    with pytest.raises(InputError, match=printed):
        cost.survey([(cell(losses="pce").stage, Host(device="cuda"))], {})


def test_a_training_that_does_not_fit_is_not_planned(cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "measure_epoch", small(0))
    monkeypatch.setattr(cost, "card", lambda _: CARD)
    monkeypatch.setattr(machine, "name", lambda _: CARD.name)
    stage = cell(losses="pce").stage
    with pytest.raises(InputError, match="does not fit on a card"):
        cost.survey_here(torch.device("cuda"), {cost.shape(stage): (stage, Host(device="cpu"))}, {})


def test_a_plan_counts_what_a_training_takes_beside_its_epochs(
    tmp_path: Path, losses_sweep: sweep.Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making networks, the last evaluation, and for new processes the imports."""
    monkeypatch.setattr(cost, "measure_epoch", lambda *_: Cost(10.0, None, 3.0))
    cells = recipes.cells(losses_sweep, {"profile": ("toy",), "seed": (0,), "losses": ("pce", "ce")})
    for start, expected in ((0.0, 2 * (2 * 10.0 + 3.0)), (5.0, 2 * (2 * 10.0 + 3.0) + 5.0)):
        plan = planning.make_plan(losses_sweep, cells, Store(tmp_path), 1, start=start)
        assert plan.wall_seconds == expected
    store = Store(tmp_path)
    for cell in cells:
        finish(cell.stage, 40.0, runs=tmp_path)
    assert planning.make_plan(losses_sweep, cells, store, 1, start=5.0).wall_seconds == 0
