"""W&B mirrors the records; it never decides anything and never stops a training."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb

from seminar import train
from seminar.catalogue import Cell
from seminar.colours import palette
from seminar.store import Store
from seminar.tracking import CellRun, WandbWatch
from tests.records import line

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
        cell.stage, lambda s, f, a: train.train(s, cell.host, f, a, [watch]), on_record=watch.record_written
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
    pictures = list((folder / "files" / "media" / "images").rglob("*.png"))
    masks = {path for path in pictures if path.name.endswith(".mask.png")}
    assert len(pictures) - len(masks) == 8, "one picture for each validation image of the toy profile"
    assert len(masks) <= 8 * 3
    written = [json.loads(path.read_text()) for path in folder.rglob("*.table.json")]
    assert len(written) == 2
    contents = {tuple(each["columns"]): each for each in written}
    pairs = contents.pop(("Actual", "Predicted", "nPredictions"))["data"]
    confusion = record["metrics"]["student"]["crop"]["confusion"]
    names = record["classes"]
    assert [row[:2] for row in pairs] == [[true, predicted] for true in names for predicted in names]
    assert [row[2] for row in pairs] == [count for counts in confusion for count in counts]
    assert sum(row[2] for row in pairs) == 8 * 32 * 32, "every pixel of the validation images"
    (content,) = contents.values()
    student, teacher = (record["metrics"][role]["crop"] for role in ("student", "teacher"))
    assert content["columns"] == ["class", "student IoU", "student recall", "teacher IoU", "teacher recall"]
    columns = (record["classes"], student["iou"], student["recall"], teacher["iou"], teacher["recall"])
    assert content["data"] == [list(row) for row in zip(*columns, strict=True)]


def test_sample_pictures_have_truth_and_predictions_as_masks(tmp_path: Path, cell: MakeCell) -> None:
    """At the size at which people see them: a 4 x 2 image is shown 64 times as large."""
    stage = cell(losses="pce+pcons").stage
    samples = tmp_path / stage.key / "samples"
    samples.mkdir(parents=True)
    truth = np.array([[0, 1], [1, 255], [0, 0], [0, 0]], np.uint8)
    student, teacher = np.ones_like(truth), np.zeros_like(truth)
    arrays = {"image": np.full((4, 2, 3), 7, np.uint8), "truth": truth, "student": student, "teacher": teacher}
    arrays["clicks"] = np.array([[0.5, 3.5, 1]], np.float32)
    np.savez(samples / "final.npz", **{f"0_{name}": value for name, value in arrays.items()})
    body = {"classes": ["sea", "ship"], "background": 0, "metrics": {}}
    (found,) = WandbWatch("offline", tmp_path)._pictures(stage, body).values()
    masks = {name: mask._val for name, mask in found._masks.items()}
    assert masks.keys() == {"truth", "student", "teacher"}
    for name, labels in (("truth", truth), ("student", student), ("teacher", teacher)):
        assert (masks[name]["mask_data"] == np.kron(labels, np.ones((64, 64), np.uint8))).all()
        assert masks[name]["class_labels"] == {0: "sea", 1: "ship", 255: "no label"}
    pixels = np.asarray(found.image)
    assert pixels.shape == (256, 128, 3)
    assert tuple(pixels[0, 0]) == (7, 7, 7)
    assert tuple(pixels[224, 32]) == palette(0)[1], "the click, in the colour of its class"
    (samples / "final.npz").unlink()
    assert WandbWatch("offline", tmp_path)._pictures(stage, body) == {}, "a training that was pulled has none"


def test_a_broken_wandb_stops_nothing(tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise wandb.Error("no room\nmore")

    monkeypatch.setattr(wandb, "init", broken)
    with pytest.warns(RuntimeWarning, match="W&B: no room; the training goes on without it"):
        record = ensure(cell(losses="pce"), tmp_path, WandbWatch("offline", tmp_path, "losses"))
    assert record["steps"] == 4


@pytest.mark.slow
def test_a_mode_that_wandb_does_not_know_is_named(
    tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    with pytest.warns(RuntimeWarning, match=r"W&B: mode='ofline' \(WANDB_MODE\?\): Input should be 'online'"):
        ensure(cell(losses="pce"), tmp_path, WandbWatch("auto", tmp_path, "losses"))


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
        tracked.stage, lambda s, f, a: train.train(s, tracked.host, f, a, [mirror]), on_record=mirror.record_written
    )
    assert not (tmp_path / "wandb").exists()


class FakeRun:
    """A run on a server that holds `step` epochs."""

    def __init__(self, step: int) -> None:
        self.step, self.logged = step, list[int]()
        self.summary: dict[str, Any] = {}

    def define_metric(self, name: str, **_: object) -> None: ...

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append(step)


@pytest.mark.parametrize(
    ("mode", "known", "epoch", "held", "resumed", "logged"),
    [
        ("online", False, 0, 0, False, []),
        ("online", False, 3, 0, False, [1, 2, 3]),  # it was begun offline
        ("online", True, 3, 2, True, [2, 3]),  # the server got one epoch before the kill; step 2 comes next
        ("online", True, 3, 4, True, []),
        ("online", True, 0, 4, False, []),  # its checkpoint was deleted: the run holds the epochs of another start
        ("offline", True, 3, 0, False, [1, 2, 3]),
    ],
)
def test_a_training_goes_on_in_its_run_or_has_another_with_the_whole_curve(
    mode: Any, known: bool, epoch: int, held: int, resumed: bool, logged: list[int], tmp_path: Path, cell: MakeCell
) -> None:
    stage = cell(losses="pce").stage
    folder = tmp_path / stage.key
    folder.mkdir()
    lines = "".join(line(number + 1, 30.0 - number) for number in range(epoch))
    (folder / "metrics.jsonl").write_text(lines)
    if known:
        (folder / "wandb-run-id").write_text("earlier")
    found = FakeRun(held)
    requested: dict[str, Any] = {}

    def init(**options: Any) -> FakeRun:
        requested.update(options)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wandb, "init", init)
        WandbWatch(mode, tmp_path, "losses").begin(stage, folder, epoch)
    assert found.logged == logged
    assert found.summary == ({"best/student_miou": 30.0} if epoch else {}), "also of what the server has already"
    assert requested["resume"] == ("allow" if resumed else None)
    assert (requested["id"] == "earlier") is resumed
    if not resumed:
        assert requested["id"].startswith(f"{stage.key}-"), "and never the key alone: others have that, too"
    if mode == "online":
        assert (folder / "wandb-run-id").read_text() == requested["id"], "the next start goes on in it"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"losses": "pce"}, "ancillary"),
        ({"losses": "pce+pseudo", "modules": 1}, "primary"),
        ({"losses": "pce", "split": "tuning"}, "trial"),  # what a W&B search asks for
    ],
)
def test_the_run_of_a_cell_says_what_it_is(
    settings: dict[str, Any], expected: str, tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    requested: dict[str, Any] = {}

    def init(**options: Any) -> FakeRun:
        requested.update(options)
        return FakeRun(0)

    monkeypatch.setattr(wandb, "init", init)
    CellRun("offline", tmp_path).start(cell(**settings))
    assert requested["job_type"] == expected
