"""Which training answers a point: from plans, and from the trainings alone where nothing was planned."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis import exhibits
from analysis.__main__ import main
from seminar import catalogue, presets, recipes, sweep
from seminar.catalogue import Catalogue, Cell
from seminar.spec import InputError, Scalar
from seminar.store import Store
from tests.conftest import ROOT
from tests.records import finish

Points = dict[str, tuple[Scalar, ...]]


def plan(runs: Path, **settings: tuple[Scalar, ...]) -> list[Cell]:
    """Plan a sweep of these settings on the smallest profile, below `runs`."""
    request = sweep.Sweep("mine", "", {"profile": ("toy",), **settings})
    (planned,) = recipes.suite([request], {})
    catalogue.write(runs, [planned])
    return planned.cells


def resolve(runs: Path, **settings: tuple[Scalar, ...]) -> tuple[list[str], list[str]]:
    """The keys of the trainings that answer, and the reasons for the points that none does."""
    request = sweep.Sweep("other", "", {"profile": ("toy",), **settings})
    cells, unknown = Catalogue(Store(runs)).resolve(request)
    return [cell.stage.key for cell in cells], [reason for _, reason in unknown]


def keys(cells: list[Cell]) -> list[str]:
    return [cell.stage.key for cell in cells]


def record(runs: Path, cell: Cell, facts: bool = True) -> None:
    """A finished training, with or without the cell that needed it."""
    for stage in cell.stage.chain:
        finish(stage, 40.0, runs=runs)
        path = runs / stage.key / "record.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | ({"cell": cell.facts} if facts else {})))


def test_a_plan_gives_back_the_very_stages(tmp_path: Path) -> None:
    planned = plan(tmp_path, losses=("pce+pcons+pseudo",), modules=(1, 2), seed=(0, 1))
    found, unknown = Catalogue(Store(tmp_path)).resolve(
        sweep.Sweep(
            "mine", "", {"profile": ("toy",), "losses": ("pce+pcons+pseudo",), "modules": (1, 2), "seed": (0, 1)}
        )
    )
    assert [cell.stage for cell in found] == [cell.stage for cell in planned]
    assert not unknown
    assert found[0].own["modules"] == 1
    assert found[0].own["seed"] == 0


@pytest.mark.parametrize("how", ["plan", "records", "old records"])
def test_another_sweep_finds_the_same_trainings(tmp_path: Path, how: str) -> None:
    """A setting that is left out, `default`, and the profile's own value are one; toy has alpha 0.5 and K = 1."""
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    cells = plan(runs if how == "plan" else elsewhere, losses=("pce", "pce+pcons+pseudo"), seed=(0,))
    for cell in cells if how != "plan" else ():
        record(runs, cell, facts=how == "records")
    pce, full = keys(cells)
    same: list[Points] = [{}, {"alpha": ("default",)}, {"alpha": (0.5,)}, {"modules": (1,)}, {"modules": (1.0,)}]
    for settings in same:
        assert resolve(runs, losses=("pce+pcons+pseudo",), seed=(0,), **settings) == ([full], []), settings
    # pCE reads neither; a weight of 0 leaves a term out
    assert resolve(runs, losses=("pce",), seed=(0,), alpha=(0.9,)) == ([pce], [])
    assert resolve(runs, losses=("pce+crf",), seed=(0,), lambda_crf=(0,)) == ([pce], [])
    assert resolve(runs, variant=("losses=pce",), seed=(0,)) == ([pce], [])
    others: list[Points] = [{"alpha": (0.9,)}, {"modules": (2,)}, {"split": ("tuning",)}, {"pcons_classes": ("sum",)}]
    for settings in others:
        assert resolve(runs, losses=("pce+pcons+pseudo",), seed=(0,), **settings) == ([], ["not planned here"]), (
            settings
        )
    assert resolve(runs, losses=("pce",), seed=(1,)) == ([], ["not planned here"])


def test_records_say_which_setting_was_changed_by_hand(tmp_path: Path) -> None:
    """`classes=sum` is no value of the profile: only the record knows that it is not the loss's own."""
    settings: Points = {"losses": ("pce+pcons",), "seed": (0,)}
    (plain,) = plan(tmp_path / "elsewhere", **settings)
    (changed,) = plan(tmp_path / "elsewhere", **settings, pcons_classes=("sum",))
    for facts in (True, False):
        runs = tmp_path / str(facts)
        for cell in (plain, changed):
            record(runs, cell, facts)
        found, reasons = resolve(runs, **settings)
        if facts:
            assert found == [plain.stage.key]
        else:
            assert found == []
            assert reasons == ["several trainings answer it; they differ in pcons_classes (mean, sum)"] or reasons == [
                "several trainings answer it; they differ in pcons_classes (sum, mean)"
            ]
        assert resolve(runs, **settings, pcons_classes=("sum",)) == ([changed.stage.key], [])


def test_a_training_that_was_planned_for_the_point_comes_before_one_that_only_fits(tmp_path: Path) -> None:
    settings: Points = {"losses": ("pce+pcons",), "seed": (0,)}
    (plain,) = plan(tmp_path / "elsewhere", **settings)
    (changed,) = plan(tmp_path / "elsewhere", **settings, pcons_classes=("sum",))
    record(tmp_path / "runs", plain)
    record(tmp_path / "runs", changed, facts=False)
    assert resolve(tmp_path / "runs", **settings) == ([plain.stage.key], [])


def test_a_later_plan_of_a_point_replaces_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Points = {"losses": ("pce",), "seed": (0,)}
    (before,) = plan(tmp_path, **settings)
    changed = before.stage.model_copy(update={"data_fingerprint": "new"})
    planned = catalogue.Planned(sweep.Sweep("mine", "", {}), [Cell(before.point, changed)])
    catalogue.write(tmp_path, [planned])
    assert resolve(tmp_path, **settings) == ([changed.key], [])
    stages = json.loads((tmp_path / "plans" / "mine.json").read_text())["stages"]
    assert list(stages) == [changed.key], "what no cell needs any more is gone"


def test_what_a_plan_left_out_is_that_of_the_latest_plan_on_the_profile(tmp_path: Path) -> None:
    def write(profile: str, *reasons: str) -> sweep.Sweep:
        request = sweep.Sweep("mine", "", {"profile": (profile,)})
        catalogue.write(tmp_path, [catalogue.Planned(request, [], reasons)])
        return request

    plan(tmp_path, losses=("pce",), seed=(0,))
    photos, toy = write("folder", "no scribbles"), write("toy", "no masks")
    assert Catalogue(Store(tmp_path)).left_out(photos) == ["no scribbles"]
    assert Catalogue(Store(tmp_path)).left_out(toy) == ["no masks"]
    write("folder")
    assert Catalogue(Store(tmp_path)).left_out(photos) == []


def test_any_name_of_a_sweep_makes_a_file(tmp_path: Path) -> None:
    for name in ("a/b", "../up", "my sweep.v2", "größe"):
        (planned,) = recipes.suite([sweep.Sweep(name, "", {"profile": ("toy",), "losses": ("pce",)})], {})
        catalogue.write(tmp_path / "runs", [planned])
    assert len(list((tmp_path / "runs" / "plans").glob("*.json"))) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "nowhere else"
    assert Catalogue(Store(tmp_path / "runs")).sweeps == {"a/b", "../up", "my sweep.v2", "größe"}


def test_a_plan_for_other_values_of_the_profile_counts_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Points = {"losses": ("pce",), "seed": (0,)}
    plan(tmp_path, **settings)
    edited = {**presets.preset("toy"), "lr": 0.5}
    monkeypatch.setattr(presets, "preset", lambda *_: edited)
    assert resolve(tmp_path, **settings) == ([], ["not planned here"])


def test_where_data_lie_decides_only_between_several(tmp_path: Path) -> None:
    """The same point on two machines' paths: the path as it is given, else the latest plan."""
    (cell,) = plan(tmp_path / "x", losses=("pce",), seed=(0,))
    here, there = (cell.stage.model_copy(update={"data_fingerprint": name}) for name in ("here", "there"))
    for stage, root in ((here, "a"), (there, "b")):
        host = catalogue.Host(data_paths=(("root", Path(root)),))
        point = {**cell.point, "data_root": root}
        catalogue.write(tmp_path, [catalogue.Planned(sweep.Sweep("mine", "", {}), [Cell(point, stage, host)])])
    settings: Points = {"losses": ("pce",), "seed": (0,)}
    assert resolve(tmp_path, **settings, data_root=("a",))[0] == [here.key]
    assert resolve(tmp_path, **settings, data_root=("b",))[0] == [there.key]
    assert resolve(tmp_path, **settings)[0] == [there.key]


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"recipe": 6}', '{"recipe": 6, "left_out": {}, "cells": [{}], "stages": {}}']
)
def test_a_damaged_plan_is_named(tmp_path: Path, text: str) -> None:
    plan(tmp_path, losses=("pce",), seed=(0,))
    path = tmp_path / "plans" / "mine.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"mine\.json: damaged; delete it"):
        Catalogue(Store(tmp_path)).resolve(sweep.Sweep("mine", "", {"profile": ("toy",)}))
    assert resolve(tmp_path, losses=("pce",), seed=(0,)) == ([], ["not planned here"]), "other sweeps go on"


def test_the_settings_of_a_stage_give_the_stage_again(cell: Any) -> None:
    """Every setting that has an effect is named, with a value that leads back to the same training."""
    stage = cell(losses="pce+crf+pcons+pseudo", lambda_crf=3, crf_sigma_rgb=9, modules=2, seed=4, data_seed=3).stage
    again = {name: value for name, value in stage.settings.items() if name != "pretrained"}
    assert cell(**again).stage == stage
    assert {"lambda_crf", "crf_sigma_rgb", "modules", "alpha", "data_seed", "lr"} <= again.keys()
    assert "alpha" not in cell(losses="pce").stage.settings


def test_reports_need_neither_torch_nor_data_nor_the_machine(tmp_path: Path) -> None:
    """A folder of logged runs alone: the paths of data, weights and device are those of another machine."""
    shutil.copytree(ROOT / "sweeps", tmp_path / "sweeps")
    runs = tmp_path / "runs"
    request = sweep.load(ROOT / "sweeps" / "losses.yaml").override({"profile": ("voc",), "seed": (0,)})
    (toy,) = plan(tmp_path / "x", losses=("pce",), seed=(0,))
    host = catalogue.Host(data_paths=(("root", Path("gone")),), weights=Path("gone.pth"), device="cuda:7")
    given = {"data_root": "gone", "weights": "gone.pth", "device": "cuda:7"}
    cells = [Cell({**point, **given}, toy.stage, host) for point in request.points if point["losses"] == "pce"]
    catalogue.write(runs, [catalogue.Planned(request, cells)])
    finish(toy.stage, 41.0, runs=runs)
    arguments = ["table3", "profile=voc", "seed=0", "data_root=gone", "device=cuda:7", "--runs", str(runs)]
    heavy = ("torch", "torchvision", "optuna", "wandb", "scipy.stats")
    code = (
        f"import sys\nfrom analysis.__main__ import main\ncode = main({arguments!r})\n"
        f"print(code, [name for name in {heavy!r} if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert shown.stdout.splitlines()[-1] == "0 []"
    assert "41.0 (1)" in (tmp_path / "reports" / "voc" / "table3.md").read_text()


def test_what_was_not_planned_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    shutil.copy(ROOT / "sweeps" / "losses.yaml", "sweeps")
    for cell in recipes.cells(sweep.load(Path("sweeps/losses.yaml")), {"profile": ("toy",), "seed": (0,)}):
        record(Path("runs"), cell, facts=False)
    (entry,) = exhibits.find(["table3"])
    report = exhibits.build(entry, {"profile": ("toy",), "seed": (0, 1)}, Path("runs"))
    assert [row[-1] for row in report.main[0].rows] == ["1 done"] * 6
    assert "toy: losses=pce+crf, seed 1: not planned here." in report.gaps
    assert main(["profile=toy", "seed=0", "--out", "out", "--quiet"]) == 0
