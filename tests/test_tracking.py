"""W&B mirrors the records; it never decides anything and never stops a training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import wandb

from seminar import train
from seminar.catalogue import Cell
from seminar.store import Store
from seminar.tracking import WandbWatch

MakeCell = Callable[..., Cell]


@pytest.fixture(autouse=True)
def _offline_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)


def inspect(path: Path) -> dict[str, Any]:
    """What W&B itself reads from an offline run."""
    out = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--summary", "--json", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    result: dict[str, Any] = json.loads(out.stdout)
    return result


def ensure(cell: Cell, root: Path, watch: WandbWatch) -> dict[str, Any]:
    return Store(root).ensure(
        cell.stage, lambda s, f, a: train.train(s, cell.host, f, a, [watch]), on_record=watch.recorded
    )


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_offline_run_equals_the_record(tmp_path: Path, cell: MakeCell) -> None:
    tracked = cell(losses="pce+pcons", seed=4)
    record = ensure(tracked, tmp_path, WandbWatch("auto", tmp_path, "losses"))
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    assert tracked.stage.key in folder.name
    (log,) = folder.glob("*.wandb")
    text = json.dumps(inspect(log))
    curve = Store(tmp_path).curve(tracked.stage.key)
    for expected in (
        tracked.stage.key,
        '"losses"',  # the group
        '"losses"',
        str(curve[-1]["loss_pcons"]),
        str(curve[-1]["student_miou"]),
        str(curve[-1]["teacher_miou"]),
        str(record["metrics"]["teacher"]["crop"]["foreground_recall"]),
        "small_resnet",
    ):
        assert expected in text, expected
    assert len(list(folder.rglob("*.png"))) == 8, "one picture for each validation image of the toy profile"


def test_a_broken_wandb_stops_nothing(tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise wandb.Error("no room\nmore")

    monkeypatch.setattr(wandb, "init", broken)
    with pytest.warns(RuntimeWarning, match="W&B: no room; the training goes on without it"):
        record = ensure(cell(losses="pce"), tmp_path, WandbWatch("offline", tmp_path, "losses"))
    assert record["steps"] == 4


@pytest.mark.slow
def test_disabled_never_imports_wandb(tmp_path: Path) -> None:
    line = ["train", "profile=toy", "losses=pce", "epochs=1", "data_train=4", "data_val=2"]
    line += ["--runs", str(tmp_path), "--wandb", "disabled"]
    code = (
        f"import sys; from seminar.__main__ import main;code = main({line!r});sys.exit(code or 'wandb' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
    assert not (tmp_path / "wandb").exists()


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_disabled_is_silent_and_never_asks_wandb(tmp_path: Path, cell: MakeCell) -> None:
    tracked = cell(losses="pce")
    mirror = WandbWatch("disabled", tmp_path, "losses")
    assert mirror.group == "losses"
    Store(tmp_path).ensure(
        tracked.stage, lambda s, f, a: train.train(s, tracked.host, f, a, [mirror]), on_record=mirror.recorded
    )
    assert not (tmp_path / "wandb").exists()
