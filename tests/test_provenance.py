"""Which code, weights and checkpoint made a training: seminar.provenance, weights, checkpoint, outdated."""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from seminar import outdated, provenance, train, weights
from seminar.catalogue import Cell
from seminar.spec import InputError, Stage
from seminar.store import Interrupted, Record, Store
from seminar.watch import StopWhen
from tests.conftest import seminar_here

TOY = ("profile=toy", "losses=pce", "epochs=2", "data_train=4", "data_val=2", "--wandb", "disabled")


def git(folder: Path, *arguments: str) -> str:
    line = ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A package in a repository; returns the folder of the package."""
    package = tmp_path / "work" / "package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package.parent / ".gitignore").write_text("scratch_*\n*.pyc\n")
    git(package.parent, "init", "--quiet")
    git(package, "add", "-A", "..")
    git(package, "commit", "--quiet", "-m", "one")
    return package


def test_the_commit_of_a_clean_checkout(checkout: Path) -> None:
    assert provenance.commit_of(checkout) == git(checkout, "rev-parse", "HEAD")[:12]
    (checkout / "__pycache__").mkdir()
    (checkout / "__pycache__" / "part.pyc").write_bytes(b"")
    (checkout.parent / "notes.py").write_text("not of the package")
    assert provenance.commit_of(checkout) == git(checkout, "rev-parse", "HEAD")[:12]


@pytest.mark.parametrize("name", ["__init__.py", "new.py", "scratch_loss.py", "profiles/mine.yaml"])
def test_source_that_is_not_committed_is_marked(checkout: Path, name: str) -> None:
    (checkout / name).parent.mkdir(exist_ok=True)
    (checkout / name).write_text("x = 1")
    assert provenance.commit_of(checkout) == git(checkout, "rev-parse", "HEAD")[:12] + "+"


def test_another_projects_commit_is_not_taken_for_ours(checkout: Path, tmp_path: Path) -> None:
    installed = checkout.parent / "scratch_venv" / "seminar"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    assert provenance.commit_of(installed) is None
    outside = tmp_path / "outside"
    outside.mkdir()
    assert provenance.commit_of(outside) is None


PART = '''\
from seminar.schedules import ramped

SCALE = 2.0
OTHER = 5.0


def helper(x):
    return x * SCALE


def unused(x):
    return x * OTHER


def part(x, *, power: float = 2.0):
    """Return it."""
    if x < 0:
        raise ValueError(f"{x}: below 0")
    return helper(x) ** power + ramped(1.0, 0, 1, 0.0)
'''


NUMBERS = itertools.count()


def load(folder: Path, text: str) -> ModuleType:
    """Import a module of this text under a name of its own."""
    name = f"part_{next(NUMBERS)}"
    path = folder / f"{name}.py"
    path.write_text(text)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same_digest(folder: Path, old: str, new: str) -> bool:
    assert PART.count(old) == 1
    texts = (PART, PART.replace(old, new))
    first, second = (provenance.digest(load(folder, text).part) for text in texts)
    return first == second


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""Return it."""', '"""Return something else."""'),
        ("    return helper(x) **", "    # why\n    return helper(x) **"),
        (
            "helper(x) ** power + ramped(1.0, 0, 1, 0.0)",
            "(\n        helper(x)**power + ramped(1.0, 0, 1, 0.0)  # sum\n    )",
        ),
        ("x, *, power: float", "x: float, *, power: int"),
        ("below 0", "is negative"),
        ("x * OTHER", "x + OTHER"),
        ("OTHER = 5.0", "OTHER = 6.0"),
    ],
)
def test_what_changes_no_number_changes_no_digest(tmp_path: Path, old: str, new: str) -> None:
    assert same_digest(tmp_path, old, new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("** power", "* power"),
        ("power: float = 2.0", "power: float = 3.0"),
        ("x * SCALE", "x + SCALE"),
        ("SCALE = 2.0", "SCALE = 3.0"),
        ("x < 0", "x < 1"),
        ("import ramped", "import poly as ramped"),
        ("    return helper", "        return helper"),
    ],
)
def test_what_can_change_a_number_changes_the_digest(tmp_path: Path, old: str, new: str) -> None:
    assert not same_digest(tmp_path, old, new)


def test_where_something_is_kept_changes_no_digest(tmp_path: Path) -> None:
    """Labels that are grown once are remembered in files: how a file is written belongs to no number."""
    text = PART.replace("import ramped", "import ramped\nfrom seminar.store import write_atomic as keep")
    text = text.replace("    if x < 0", "    keep(None, None)\n    if x < 0")
    parts = [load(tmp_path, each).part for each in (text, text.replace("write_atomic as", "write_json as"))]
    assert len({*map(provenance.digest, parts)}) == 1


def test_every_part_of_a_training_has_a_digest(cell: Callable[..., Cell]) -> None:
    found = train.versions(cell(losses="pce+crf+pcons", metrics="miou+boundary").stage)
    names = {"loss pce", "loss crf", "loss pcons", "data creatures", "network small_resnet", "optimizer sgd"}
    assert found.keys() == {*names, "schedule poly", "metric miou", "metric boundary", "training step", "teacher"}
    assert len(set(found.values())) == len(found)
    other = train.versions(cell(losses="pce", seed=3, lr=0.1).stage)
    assert other.items() <= found.items(), "one part has one digest, whatever else a training uses"


def trained(stage: Stage, store: Store, cell: Cell, stop_after: int | None = None) -> Record:
    """Train a stage; stop (and raise `Interrupted`) before the epoch `stop_after`."""

    def run(stage: Stage, folder: Path, ancillary: Path | None) -> Record:
        def stop() -> bool:
            lines = store.curve(stage.key)
            return stop_after is not None and len(lines) >= stop_after

        return train.train(stage, cell.host, folder, ancillary, [StopWhen(stop)])

    return store.ensure(stage, run)


@pytest.fixture
def small(cell: Callable[..., Cell]) -> Cell:
    return cell(losses="pce", epochs=2, data_train=4, data_val=2)


def test_a_record_holds_the_commit_of_every_start(small: Cell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    monkeypatch.setattr(provenance, "COMMIT", "aaaa")
    with pytest.raises(Interrupted):
        trained(small.stage, store, small, stop_after=1)
    monkeypatch.setattr(provenance, "COMMIT", "bbbb+")
    record = trained(small.stage, store, small)
    assert [(start["commit"], start["epoch"]) for start in record["starts"]] == [("aaaa", 0), ("bbbb+", 1)]
    assert record["sessions"] == 2
    assert record["starts"][0]["parts"] == train.versions(small.stage)


def test_a_checkpoint_of_another_training_is_refused(small: Cell, tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = small.stage.model_copy(update={"seed": 7})
    for stage in (small.stage, other):
        with pytest.raises(Interrupted):
            trained(stage, store, small, stop_after=1)
    path = store.folder(small.stage.key) / "checkpoint.pt"
    path.write_bytes((store.folder(other.key) / "checkpoint.pt").read_bytes())
    with pytest.raises(InputError, match=f"is of the training {other.key}; delete it to train {small.stage.key}"):
        trained(small.stage, store, small)
    state = torch.load(path, weights_only=True)
    del state["key"]
    torch.save(state, path)
    with pytest.raises(InputError, match="does not say of which training it is; delete it"):
        trained(small.stage, store, small)


def test_weights_that_the_training_did_not_write_are_refused(small: Cell, tmp_path: Path) -> None:
    store = Store(tmp_path)
    record = trained(small.stage, store, small)
    folder = store.folder(small.stage.key)
    path = folder / "student.pt"
    assert weights.digest(folder, "student") == record["weights_sha256"]["student"]
    whole = path.read_bytes()
    for content in (whole[:-100], whole[: len(whole) // 2] + bytes(1) + whole[len(whole) // 2 + 1 :], b""):
        path.write_bytes(content)
        with pytest.raises(
            InputError, match=r"student\.pt: is not the file that this training wrote .*move the folder"
        ):
            weights.read(folder, "student")
    # Records of earlier versions hold no digest.
    del record["weights_sha256"]
    (folder / "record.json").write_text(json.dumps(record))
    path.write_bytes(whole[:-100])
    with pytest.raises(InputError, match=r"student\.pt: damaged; move the folder"):
        weights.read(folder, "student")
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="are not the weights of a small_resnet for 7 classes"):
        weights.finished_network(small.stage, 7, folder, "student", torch.device("cpu"))


def test_a_primary_learns_from_nothing_but_its_ancillary(cell: Callable[..., Cell], tmp_path: Path) -> None:
    primary = cell(losses="pce+pseudo", epochs=1, data_train=4, data_val=2)
    assert primary.stage.ancillary is not None
    store = Store(tmp_path)
    before = trained(primary.stage.ancillary, store, primary)
    record = trained(primary.stage, store, primary)
    assert record["ancillary_sha256"] == before["weights_sha256"]["student"]
    assert not outdated.find([primary.stage], store)
    store.put_aside(primary.stage.key)
    other = store.folder(primary.stage.ancillary.key) / "student.pt"
    state = torch.load(other, weights_only=True)
    torch.save({name: value + 1 for name, value in state.items()}, other)
    with pytest.raises(InputError, match="is not the file that this training wrote"):
        trained(primary.stage, store, primary)


def change_version(store: Store, key: str, part: str) -> None:
    """Make a finished training one that another version of `part` has made."""
    record: dict[str, Any] = store.record(key) or {}
    record["starts"][0]["parts"][part] = "0" * 12
    (store.folder(key) / "record.json").write_text(json.dumps(record))


def test_another_version_is_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seminar_here("train", *TOY)
    store = Store(Path("runs"))
    (key,) = store.keys()
    first = store.record(key)
    seminar_here("train", *TOY)
    assert store.record(key) == first
    change_version(store, key, "loss pce")
    line = seminar_here("train", *TOY, code=2).stderr
    assert line == (
        f"seminar: 1 finished training was made by another version of loss pce (1): {key}; "
        "--retrain (make: RETRAIN=1) trains them again, --keep (KEEP=1) takes them as they are\n"
    )
    assert "kept as they are" in seminar_here("train", *TOY, "--keep").stderr
    assert (store.record(key) or {})["starts"][0]["parts"]["loss pce"] == "0" * 12
    cell = {"profile": "toy", "losses": "pce", "epochs": 2, "data_train": 4, "data_val": 2}
    assert "kept as they are" in seminar_here("cell", json.dumps(cell), "--wandb", "disabled").stderr
    assert f"put aside in {Path('runs/replaced')}" in seminar_here("train", *TOY, "--retrain").stderr
    assert (store.record(key) or {})["starts"][0]["parts"] == (first or {})["starts"][0]["parts"]
    assert [path.name for path in Path("runs/replaced").iterdir()] == [f"{key}-1"]
    assert store.keys() == [key]
    seminar_here("train", *TOY)


def swept() -> tuple[tuple[str, ...], Store, str]:
    """Train a sweep of an ancillary and a primary here; returns its command, where it lies, and the ancillary's key."""
    Path("mine.yaml").write_text(
        "name: mine\nmethod: grid\nparameters:\n  losses: {values: [pce, pce+pseudo]}\n  seed: {values: [0]}\n"
    )
    sweep = ("sweep", "mine.yaml", "profile=toy", *TOY[2:], "--workers", "0")
    seminar_here(*sweep)
    store = Store(Path("runs"))
    return sweep, store, next(key for key in store.keys() if not store.stage(key).modules)  # noqa: SIM118


def test_a_sweep_asks_before_it_plans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sweep, store, ancillary = swept()
    change_version(store, ancillary, "training step")
    line = seminar_here(*sweep, code=2).stderr
    assert "another version of training step (1), an outdated ancillary (1)" in line
    assert len(line.splitlines()) == 1
    plan = seminar_here(*sweep, "--dry-run")
    assert "2 done, 0 to do" in plan.stdout
    assert "2 finished trainings were made by another version" in plan.stderr
    assert "leave out one" in seminar_here(*sweep, "--dry-run", "--retrain", code=2).stderr
    assert "2 done, 0 to do" in seminar_here(*sweep, "--keep").stdout
    assert "0 done, 2 to do" in seminar_here(*sweep, "--retrain").stdout
    assert "2 done, 0 to do" in seminar_here(*sweep).stdout


def test_weights_that_others_need_are_missed_while_planning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a copy of the records alone: a sweep would meet the gap once for each cell, an hour later."""
    monkeypatch.chdir(tmp_path)
    sweep, store, ancillary = swept()
    primary = next(key for key in store.keys() if store.stage(key).modules)  # noqa: SIM118
    (store.folder(ancillary) / "student.pt").unlink()
    assert "2 done, 0 to do" in seminar_here(*sweep).stdout, "nobody needs the weights"
    store.put_aside(primary)
    for more in ((), ("--keep",)):
        line = seminar_here(*sweep, *more, code=2).stderr
        assert line == (
            "seminar: a finished training, from which others are to learn, without weights here (records that were "
            f"pulled or copied alone?): {ancillary}; bring their student.pt and teacher.pt, or train them again with "
            "--retrain (make: RETRAIN=1)\n"
        )
    assert "without weights here" in seminar_here(*sweep, "--dry-run").stderr
    again = seminar_here(*sweep, "--retrain")
    assert "a training whose weights are gone (1)" in again.stderr
    assert "0 done, 2 to do" in again.stdout
    assert "2 done, 0 to do" in seminar_here(*sweep).stdout


def test_an_ancillary_that_was_trained_again_outdates_its_primary(cell: Callable[..., Cell], tmp_path: Path) -> None:
    primary = cell(losses="pce+pseudo", epochs=1, data_train=4, data_val=2)
    assert primary.stage.ancillary is not None
    store = Store(tmp_path)
    trained(primary.stage, store, primary)
    folder = store.folder(primary.stage.ancillary.key)
    record = store.record(primary.stage.ancillary.key) or {}
    record["weights_sha256"]["student"] = "1" * 64
    (folder / "record.json").write_text(json.dumps(record))
    assert outdated.find([primary.stage], store) == {primary.stage.key: ["an ancillary that was trained again since"]}
