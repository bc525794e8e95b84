"""`compile=true`: the networks of the training step through torch.compile."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from seminar import __main__ as command
from seminar import cost, networks, parallel, recipes, views
from seminar.catalogue import Cell
from seminar.cost import shape
from seminar.spec import Stage
from tests.conftest import ROOT

MakeCell = Callable[..., Cell]
WHOLE = {"losses": "pce+pcons+pseudo", "lr": 0.001, "seed": 3}


@pytest.fixture
def cell(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeCell]:
    """`cell` of conftest with the smallest backbone: compiling takes a time that grows with the layers."""

    def tiny(output_stride: networks.OutputStride) -> networks.Anatomy:
        layers = [nn.Conv2d(3, 4, 3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, output_stride // 4, 1)]
        return networks.Anatomy(
            nn.Sequential(*layers), tap="2", low=4, high=4, width=4, rates=(2,), low_width=4, dropout=(0.1, 0.1, 0.0)
        )

    monkeypatch.setitem(networks.BACKBONES, "tiny", networks.Backbone(tiny))

    def make(**settings: Any) -> Cell:
        return recipes.one({"profile": "toy", "backbone": "tiny", **settings})

    yield make
    torch.compiler.reset()


def curve(cell: Cell, epochs: int) -> list[dict[str, Any]]:
    torch.manual_seed(5)  # the weights of the untrained ancillary
    trainer = cost.untrained(cell.stage, cell.host)
    return [trainer.run_epoch(epoch) for epoch in range(epochs)]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_the_compiled_step_differs_by_rounding(cell: MakeCell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # no matter what was compiled here before
    settings = {**WHOLE, "losses": "pce"}  # one network; which ones are compiled is the next test
    plain, compiled = (curve(cell(**settings, **more), 2) for more in ({}, {"compile": True}))
    assert list(tmp_path.rglob("*.cpp")), "compiled in earnest"
    for one, other in zip(plain, compiled):
        assert other["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert other["student_miou"] == pytest.approx(one["student_miou"], abs=0.5)


def counted(monkeypatch: pytest.MonkeyPatch, backend: Any = "eager") -> list[torch.nn.Module]:
    """The networks that are compiled from now on, which `backend` then runs."""
    found: list[torch.nn.Module] = []
    whole = torch.compile

    def compiled(net: torch.nn.Module, **_: Any) -> Any:
        found.append(net)
        return whole(net, backend=backend)

    monkeypatch.setattr(torch, "compile", compiled)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("freeze", ["none", "bn"])
def test_every_network_of_the_step_is_compiled_once(
    cell: MakeCell, monkeypatch: pytest.MonkeyPatch, freeze: str
) -> None:
    found = counted(monkeypatch)
    one = cell(**WHOLE, freeze=freeze, compile=True)
    trainer = cost.untrained(one.stage, one.host)
    for epoch in range(2):
        trainer.run_epoch(epoch)
    assert trainer.teacher is not None
    assert found == [trainer.student, trainer.teacher.net, trainer.ancillary]
    found.clear()
    assert curve(cell(**WHOLE), 1)
    assert not found, "only where it is asked for"


@pytest.mark.slow
def test_each_training_of_a_process_has_torchs_limit_of_variants_for_itself(
    cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[Any] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    counted(monkeypatch, backend)
    for trainings in (1, 2):
        assert curve(cell(losses="pce+pcons", compile=True), 1)
        assert len(graphs) == 2 * trainings


def test_it_is_part_of_the_training_where_it_is_on(cell: MakeCell) -> None:
    off, plain, on = cell(compile=False).stage, cell().stage, cell(compile=True).stage
    assert off == plain
    assert off.key == plain.key
    assert "compile" not in off.canonical(), "keys from before there was this setting"
    for stage in on.chain:
        assert json.loads(stage.canonical())["stage"]["compile"] is True
    assert not {stage.key for stage in on.chain} & {stage.key for stage in off.chain}
    for stage in (off, on):
        assert Stage.model_validate_json(stage.model_dump_json()) == stage
    assert shape(on) != shape(off), "the plan measures it by itself"


def test_where_torch_cannot_compile_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def backend(*_: Any) -> Any:
        raise RuntimeError("no compiler found")

    monkeypatch.chdir(tmp_path)
    counted(monkeypatch, backend)
    assert command.main(["train", "profile=toy", "losses=pce", "compile=true", "--wandb", "disabled"]) == 2
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert "compile=true: torch.compile does not work here (" in printed
    assert "no compiler found" in printed
    assert printed.endswith("); leave it out")


def test_several_processes_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parallel, "requested", lambda: (0, 2, 0))
    settings = ["train", "profile=toy", "losses=pce", "compile=true", "--wandb", "disabled"]
    assert command.main([*settings, "--runs", str(tmp_path / "runs")]) == 2
    assert capsys.readouterr().err == "seminar: compile=true: one process only; leave it out with torchrun\n"
    assert not (tmp_path / "runs").exists()


def test_the_smaller_batch_that_ends_an_epoch_is_not_compiled(cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        sizes.extend({len(each) for each in inputs if each.dim() == 4 and each.shape[1:] == (3, 32, 32)})
        return graph.forward

    counted(monkeypatch, backend)
    one = cell(losses="pce+pcons", compile=True, batch_size=6)
    trainer = cost.untrained(one.stage, one.host)
    assert [len(batch) for batch in views.batches(16, 6, 0, 0)] == [6, 6, 4]
    trainer.run_epoch(0)
    assert sizes == [6, 6], "student and teacher"


def test_a_plan_tells_of_compiling_and_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = counted(monkeypatch)
    settings = [
        str(ROOT / "sweeps" / "losses.yaml"),
        "profile=toy",
        "losses=pce,pce+crf",
        "compile=false,true",
        "seed=0",
    ]
    assert command.main(["sweep", *settings, "--dry-run", "--runs", str(tmp_path)]) == 0
    assert "and torch.compile, a minute or more at every start of 2 of the trainings" in capsys.readouterr().out
    assert not found
