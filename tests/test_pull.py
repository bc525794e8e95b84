"""What comes from a server or from a colleague is checked, and changes nothing that is here."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import wandb
from filelock import FileLock

from analysis import __main__ as reports
from analysis.__main__ import main as analysis
from seminar import catalogue, recipes, schema, sweep, wandb_pull
from seminar.catalogue import Catalogue, Cell
from seminar.spec import InputError, Stage
from seminar.store import Store
from seminar.wandb_pull import pull
from tests.conftest import ROOT, seminar_here
from tests.records import finish, line

MakeCell = Callable[..., Cell]
DEEP = "[" * 100_000 + "]" * 100_000


def sent(folder: Path, stage: Stage, miou: float = 40.0) -> Path:
    """Write a training as W&B keeps it; returns its folder."""
    runs = folder / f"offline-run-{len(list(folder.glob('*')))}-x" / "files" / "trainings"
    finish(stage, miou, runs=runs)
    return runs / stage.key


def change(path: Path, **parts: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **parts}))


BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "three fields": (
        lambda folder: (folder / "record.json").write_text(json.dumps({"key": folder.name, "recipe": 6, "stage": {}})),
        r"record\.json: damaged \(stage\.epochs: Field required\)",
    ),
    "a record as a list": (lambda folder: (folder / "record.json").write_text("[]"), r"record\.json: damaged"),
    "deep JSON": (lambda folder: (folder / "record.json").write_text(DEEP), r"record\.json: damaged"),
    "a deep stage": (lambda folder: (folder / "stage.json").write_text(DEEP), r"stage\.json: missing or damaged"),
    "a deep line": (lambda folder: (folder / "metrics.jsonl").write_text(DEEP + "\n"), r"cannot be checked against"),
    "no curve": (lambda folder: (folder / "metrics.jsonl").unlink(), r"metrics\.jsonl is missing"),
    "no stage": (lambda folder: (folder / "stage.json").unlink(), r"stage\.json: missing"),
    "an edited score": (
        lambda folder: change(folder / "record.json", metrics={"student": {"crop": {"miou": 99.0}}}),
        r"the record says student mIoU 99\.00, and metrics\.jsonl ends with 40\.00",
    ),
    "a score beyond 100": (
        lambda folder: change(folder / "record.json", metrics={"student": {"crop": {"miou": 4000.0}}}),
        r"record\.json: damaged \(metrics\.student\.crop\.miou: .*100\)",
    ),
    "a score as text": (
        lambda folder: change(folder / "record.json", metrics={"student": {"crop": {"miou": "40"}}}),
        r"damaged \(metrics\.student\.crop\.miou: .*number\)",
    ),
    "a score of another kind as text": (
        lambda folder: change(folder / "record.json", metrics={"student": {"crop": {"miou": 40.0, "miou_bias": "x"}}}),
        r"record\.json: damaged \(metrics\.student\.crop\.miou_bias: .*number\)",
    ),
    "a number beyond every table": (
        lambda folder: change(folder / "record.json", peak_memory_mb=10**400),
        r"record\.json: damaged \(peak_memory_mb: ",
    ),
    "a number in the curve beyond every table": (
        lambda folder: (folder / "metrics.jsonl").write_text(line(2, 40.0, loss=10**400)),
        r"metrics\.jsonl is missing or damaged",
    ),
    "a network without scores": (
        lambda folder: change(folder / "record.json", metrics={"student": {"crop": {"miou": 40.0}}, "other": {}}),
        r"record\.json: damaged \(metrics\.other: .*crop is missing\)",
    ),
    "a protocol that is none": (
        lambda folder: change(folder / "record.json", metrics={"student": {"crop": {"miou": 40.0}, "tiled": 3}}),
        r"record\.json: damaged \(metrics\.student\.tiled: ",
    ),
    "a stage without epochs": (
        lambda folder: change(folder / "record.json", stage={"epochs": None}),
        r"record\.json: damaged \(stage\.epochs: ",
    ),
    "half a curve": (
        lambda folder: (folder / "metrics.jsonl").write_text(line(1, 40.0)),
        r"the record is of 2 epochs and metrics\.jsonl ends with epoch 1",
    ),
    "a line that is none": (
        lambda folder: (folder / "metrics.jsonl").write_text('{"epoch": "one"}\n' + line(2, 40.0)),
        r"metrics\.jsonl: damaged: line 1 is no line of metrics",
    ),
    "an edited best epoch": (
        lambda folder: change(folder / "record.json", best={"student": {"epoch": 1, "miou": 99.0}}),
        r"the record says student mIoU 99\.00 after its best epoch, 1, and metrics\.jsonl says 31\.00; ask whoever",
    ),
    "a best epoch that is none": (
        lambda folder: change(folder / "record.json", best={"student": {"epoch": 3, "miou": 40.0}}),
        r"the record says student mIoU 40\.00 after its best epoch, 3, and metrics\.jsonl says none",
    ),
    "a folder as a record": (
        lambda folder: ((folder / "record.json").unlink(), (folder / "record.json").mkdir()),
        r"record\.json: is no file",
    ),
    "a device as a curve": (
        lambda folder: ((folder / "metrics.jsonl").unlink(), (folder / "metrics.jsonl").symlink_to(os.devnull)),
        r"metrics\.jsonl: is no file",  # others, and pipes, would be read for ever
    ),
    "a huge record": (
        lambda folder: os.truncate(folder / "record.json", wandb_pull.LARGEST + 1),
        r"record\.json: has 67,108,865 bytes, more than the 67,108,864 allowed; ask whoever",
    ),
    "another key": (lambda folder: change(folder / "record.json", key="0" * 16), "is not the record of"),
    "another stage": (
        lambda folder: (folder / "stage.json").write_text((folder / "stage.json").read_text().replace("0.05", "0.06")),
        "does not describe the training",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_is_no_record_is_refused_and_the_rest_is_taken(kind: str, tmp_path: Path, cell: MakeCell) -> None:
    source, store = tmp_path / "wandb", Store(tmp_path / "runs")
    spoil, message = BAD[kind]
    spoil(sent(source, cell(losses="pce", lr=0.05).stage))
    good = cell(losses="pce", seed=1).stage
    sent(source, good)
    found = pull(str(source), store)
    assert found.new == (good.key,)
    (refused,) = found.refused
    assert re.search(message, refused), refused
    assert len(refused) < 400
    assert "ask whoever trained it for another copy" in refused
    assert store.keys() == [good.key]
    assert "1 done" in seminar_here("status", "--runs", str(store.root)).stdout


UNREAD = {"no stage", "a deep stage", "another stage", "a line that is none"}
"""What a plan need not read of a finished training; `seminar status` does."""
UNREAD_HERE = {
    *("an edited best epoch", "a best epoch that is none"),
    *("a folder as a record", "a device as a curve", "a huge record"),
}
"""What only a pull looks for, as it reads the whole curve, and files of anybody."""


@pytest.mark.parametrize("kind", sorted(BAD.keys() - UNREAD - UNREAD_HERE))
def test_what_is_no_record_is_named_by_every_command(
    kind: str, tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stage = cell(losses="pce", lr=0.05).stage
    finish(stage, 40.0)
    BAD[kind][0](Path("runs") / stage.key)
    assert "1 damaged" in seminar_here("status").stdout
    command = ("sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy", "losses=pce", "seed=0", "lr=0.05")
    errors = seminar_here(*command, "--dry-run", code=2).stderr
    assert re.search(BAD[kind][1], errors), errors
    assert len(errors.splitlines()) == 1
    assert "move its folder away" in errors


@pytest.mark.parametrize(("apart", "refused"), [(0.05, False), (-0.05, False), (0.2, True), (-0.2, True)])
def test_a_record_may_be_off_its_curve_by_rounding(apart: float, refused: bool, tmp_path: Path, cell: MakeCell) -> None:
    """Its last epoch may have been evaluated twice, on two processors."""
    folder = sent(tmp_path / "wandb", cell(losses="pce").stage)
    change(folder / "record.json", metrics={"student": {"crop": {"miou": 40.0 + apart}}}, an_unknown_key={"a": [1]})
    assert len(pull(str(tmp_path / "wandb"), Store(tmp_path / "runs")).refused) == refused


def test_a_report_goes_on_without_what_is_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    losses = sweep.load(ROOT / "sweeps" / "losses.yaml")
    (planned,) = recipes.suite([losses], {"profile": ("toy",), "losses": ("pce", "ce"), "seed": (0, 1)})
    catalogue.write(Path("runs"), [planned])
    for cell in planned.cells:
        finish(cell.stage, 40.0)
    damaged = planned.cells[0].stage
    BAD["an edited score"][0](Path("runs") / damaged.key)
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "losses.yaml").write_text((ROOT / "sweeps" / "losses.yaml").read_text())
    assert analysis(["table3", "profile=toy", "losses=pce,ce", "seed=0,1", "--out", "out"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 done, 1 failed" in shown
    assert "the record says student mIoU 99.00, and metrics.jsonl ends with 40.00; move its folder away" in shown
    assert "99.0 " not in Path("out/table3.md").read_text().split("**Gaps**")[0]


def test_a_training_that_was_started_here_keeps_its_checkpoint(tmp_path: Path, cell: MakeCell) -> None:
    stage, store = cell(losses="pce").stage, Store(tmp_path / "runs")
    sent(tmp_path / "wandb", stage)
    folder = store.folder(stage.key)
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(stage.canonical())
    (folder / "metrics.jsonl").write_text(line(1, 7.0))
    (folder / "checkpoint.pt").write_bytes(b"hours of work")
    found = pull(str(tmp_path / "wandb"), store)
    assert found.new == ()
    assert f"{stage.key}: was started here and has a checkpoint, so it stays as it is" in found.refused[0]
    assert (folder / "checkpoint.pt").read_bytes() == b"hours of work"
    assert (folder / "metrics.jsonl").read_text() == line(1, 7.0)
    with FileLock(folder / "lock"):
        assert "is running here" in pull(str(tmp_path / "wandb"), store).refused[0]
    (folder / "checkpoint.pt").unlink()
    assert pull(str(tmp_path / "wandb"), store).new == (stage.key,)


class Server:
    """What of `wandb.Api` a pull asks for."""

    def __init__(self, *runs: Any) -> None:
        self._runs = runs

    def runs(self, source: str) -> tuple[Any, ...]:
        return self._runs


class Weights:
    """An artifact on a server, with a file of `content` for each of the `files`."""

    type = "model"

    def __init__(self, key: str, content: bytes, files: Sequence[str] = ("student.pt",), **facts: Any) -> None:
        self.name = f"training-{key}:v0"
        self.metadata = {"student": hashlib.sha256(WEIGHTS).hexdigest()}
        self._content, self._files = content, files
        self._facts = {"ref": None, "size": len(content), **facts}

    def get_entry(self, name: str) -> Any:
        if name not in self._files:
            raise KeyError(name)

        def download(root: str, skip_cache: bool) -> str:
            path = Path(root) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(self._content)
            return str(path)

        return SimpleNamespace(download=download, **self._facts)


WEIGHTS = b"numbers"


def run(name: str, folder: Path | None, size: int = 100, artifacts: Sequence[Weights] = ()) -> Any:
    """A run on a server with the files of the training in `folder`; None: a server that does not answer."""

    def files() -> list[Any]:
        if folder is None:
            raise wandb.Error("503")
        prefix = f"trainings/{folder.name}"
        names = [f"{prefix}/{path.name}" for path in folder.iterdir()] + [f"{prefix}/../../../x.json", "../x.json"]

        def download(name: str) -> Callable[..., None]:
            def write(root: str) -> None:
                path = Path(root) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((folder / path.name).read_bytes() if (folder / path.name).exists() else b"evil")

            return write

        return [SimpleNamespace(name=name, size=size, download=download(name)) for name in names]

    return SimpleNamespace(id=name, files=files, logged_artifacts=lambda: artifacts)


def test_ids_and_names_from_a_server_lead_nowhere_else(
    tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = [cell(losses="pce", seed=seed).stage for seed in range(4)]
    folders = [sent(tmp_path / "wandb", stage) for stage in stages]
    (folders[1] / "metrics.jsonl").unlink()
    server = Server(
        run("../../../evil", folders[0]),
        run("without a curve", folders[1]),
        run("no answer", None),
        run("huge", folders[2], size=1 << 40),
        run("../../../evil", folders[3]),
    )
    monkeypatch.setattr(wandb, "Api", lambda: server)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    before = set(tmp_path.rglob("*"))
    store = Store(tmp_path / "runs")
    found = pull("entity/project", store)
    assert set(found.new) == {stages[0].key, stages[3].key}
    key = stages[1].key
    assert any(
        reason.startswith(f"run without a curve: trainings/{key}/record.json: metrics.jsonl is missing")
        for reason in found.refused
    ), "and not a folder that is gone by now"
    assert "run no answer: 503" in found.refused
    assert any("more than the 67,108,864 allowed" in reason for reason in found.refused)
    outside = {path for path in set(tmp_path.rglob("*")) - before if not path.is_relative_to(store.root)}
    assert not outside


@pytest.mark.parametrize(
    ("content", "facts", "message"),
    [
        (b"others!", {}, "student.pt is not the file that its record names (its SHA-256 is another)"),
        (WEIGHTS, {"size": wandb_pull.LARGEST_WEIGHTS + 1}, "student.pt has more than the 2,147,483,648 bytes allowed"),
        (WEIGHTS, {"size": None}, "student.pt has more than the 2,147,483,648 bytes allowed"),
        (WEIGHTS, {"ref": "file:///etc/passwd"}, "student.pt is only a reference to a file elsewhere"),
        (WEIGHTS, {"files": ("../student.pt",)}, "'student.pt'"),
    ],
)
def test_weights_of_others_are_only_those_that_the_record_names(
    content: bytes, facts: dict[str, Any], message: str, tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = cell(losses="pce").stage
    folder = sent(tmp_path / "wandb", stage)
    named = {"student": hashlib.sha256(WEIGHTS).hexdigest(), "../../evil": "0" * 64}
    change(folder / "record.json", weights_sha256=named)
    other = Weights(cell(losses="pce", seed=1).stage.key, WEIGHTS)
    store = Store(tmp_path / "runs")
    monkeypatch.setattr(
        wandb, "Api", lambda: Server(run("a", folder, artifacts=[Weights(stage.key, content, **facts)]))
    )
    found = pull("entity/project", store)
    assert (found.new, found.weights) == ((stage.key,), ()), "the training itself is taken"
    (refused,) = found.refused
    assert message in refused
    monkeypatch.setattr(wandb, "Api", lambda: Server(run("a", folder, artifacts=[other])))
    assert pull("entity/project", store).weights == (), "the artifact of another training"
    assert store.lacks(stage.key) == {"student": named["student"]}
    runs = [run("a", folder, artifacts=[other, Weights(stage.key, WEIGHTS)]), run("b", folder)]
    monkeypatch.setattr(wandb, "Api", lambda: Server(*runs))
    assert pull("entity/project", store).weights == (stage.key,)
    assert (store.folder(stage.key) / "student.pt").read_bytes() == WEIGHTS
    assert not list(tmp_path.rglob("evil*"))


def test_what_cannot_be_written_stops_a_pull_with_one_line(tmp_path: Path, cell: MakeCell) -> None:
    """It is no fault of the trainings, and is not reported for each of them."""
    stages = [cell(losses="pce", seed=seed).stage for seed in range(2)]
    for stage in stages:
        sent(tmp_path / "wandb", stage)
    (tmp_path / "runs").write_text("a file")
    errors = seminar_here("pull", str(tmp_path / "wandb"), "--runs", str(tmp_path / "runs"), code=2).stderr
    assert errors.splitlines() == [f"seminar: {tmp_path / 'runs' / stages[0].key}: Not a directory"]


def test_a_plan_of_somebody_else_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    losses = sweep.load(ROOT / "sweeps" / "losses.yaml")
    (planned,) = recipes.suite([losses], {"profile": ("toy",), "losses": ("pce", "pce+pseudo"), "seed": (0,)})
    catalogue.write(Path("runs"), [planned])
    path = Path("runs/plans/losses.json")
    whole = json.loads(path.read_text())
    catalogue_here = Catalogue(Store(Path("runs")))
    assert len(catalogue_here.cells(planned.sweep)) == 2
    first, second = (entry["key"] for entry in whole["cells"])

    def swapped(content: dict[str, Any]) -> None:
        for entry in content["cells"]:
            entry["key"] = second if entry["key"] == first else first
        content["stages"][first], content["stages"][second] = content["stages"][second], content["stages"][first]

    def circle(content: dict[str, Any]) -> None:
        content["stages"][second]["ancillary"] = second

    def a_list(content: dict[str, Any]) -> None:
        content["cells"] = {"a": 1}

    def nowhere(content: dict[str, Any]) -> None:
        content["cells"][0]["key"] = "0" * 16

    def path_as_key(content: dict[str, Any]) -> None:
        content["stages"]["../../x"] = content["stages"][first]

    def a_list_as_ancillary(content: dict[str, Any]) -> None:
        content["stages"][second]["ancillary"] = [first]

    def no_setting(content: dict[str, Any]) -> None:
        content["cells"][0]["host"] = ["device"]  # the point has none

    def huge(content: dict[str, Any]) -> None:
        content["cells"][0]["point"]["seed"] = 10**400  # too large for a float

    def of_another_sweep(content: dict[str, Any]) -> None:
        content["sweep"] = "tune"

    spoilt = (swapped, circle, a_list, nowhere, path_as_key, a_list_as_ancillary, no_setting, huge, of_another_sweep)
    for spoil in spoilt:
        content = json.loads(json.dumps(whole))
        spoil(content)
        path.write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"losses\.json: damaged; delete it"):
            Catalogue(Store(Path("runs"))).cells(planned.sweep)
        assert Catalogue(Store(Path("runs"))).sweeps == set(), spoil.__name__
    path.write_text(DEEP)
    with pytest.raises(InputError, match=r"losses\.json: damaged; delete it"):
        Catalogue(Store(Path("runs"))).cells(planned.sweep)


def test_a_plan_with_a_profile_of_somebody_else_counts_as_one_of_other_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    losses = sweep.load(ROOT / "sweeps" / "losses.yaml")
    (planned,) = recipes.suite([losses], {"profile": ("toy",), "losses": ("pce", "ce"), "seed": (0,)})
    catalogue.write(Path("runs"), [planned])
    path = Path("runs/plans/losses.json")
    content = json.loads(path.read_text())
    content["cells"][0]["point"]["profile"] = "theirs"
    path.write_text(json.dumps(content))
    cells, unknown = Catalogue(Store(Path("runs"))).resolve(planned.sweep)
    assert [cell.stage for cell in cells] == [planned.cells[1].stage]
    assert [reason for _, reason in unknown] == ["not planned here"]


def test_a_damaged_plan_stops_the_reports_of_no_other_sweep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweeps").mkdir()
    for name in ("losses", "ema"):
        file = tmp_path / "sweeps" / f"{name}.yaml"
        file.write_text((ROOT / "sweeps" / f"{name}.yaml").read_text())
        (planned,) = recipes.suite([sweep.load(file)], {"profile": ("toy",), "seed": (0,)})
        catalogue.write(Path("runs"), [planned])
    for damaged in ("ema", "theirs"):  # that of a sweep here, and of one of which only the plan is here
        Path(f"runs/plans/{damaged}.json").write_text(DEEP)

    assert analysis(["table3", "fig5b", "profile=toy", "seed=0", "--out", "out"]) == 0
    assert Path("out/table3.md").exists()
    lines = capsys.readouterr().out.splitlines()
    assert [re.sub(r": damaged; delete it.*", "", line) for line in lines if line.startswith("left out")] == [
        "left out: Fig. 5b: EMA alpha: runs/plans/ema.json",
        "left out: runs/plans/theirs.json",
    ]
    Path("runs/plans/losses.json").unlink()
    assert analysis(["fig5b", "profile=toy", "seed=0", "--out", "out"]) == 2
    assert "runs/plans/ema.json: damaged; delete it" in capsys.readouterr().err


@pytest.mark.parametrize("text", [DEEP, "3", '{"kept.md": 1}', '[1, null, ["kept.md"]]', '["../kept.md"]'])
def test_a_list_of_reports_of_somebody_else_removes_nothing(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for path in (folder / "kept.md", tmp_path / "kept.md"):
        path.write_text("mine")
    (folder / reports._FILES).write_text(text)
    reports._forget(folder, ["table3.md"])
    assert (folder / "kept.md").exists()
    assert (tmp_path / "kept.md").exists()
    assert json.loads((folder / reports._FILES).read_text()) == ["table3.md"]


def test_a_failure_of_somebody_else_is_checked(tmp_path: Path, cell: MakeCell) -> None:
    stage, store = cell(losses="pce").stage, Store(tmp_path)
    folder = store.folder(stage.key)
    folder.mkdir()
    (folder / "stage.json").write_text(stage.canonical())
    for text in ("{}", "[]", DEEP, '{"error": 3}'):
        (folder / "failure.json").write_text(text)
        assert "1 damaged" in seminar_here("status", "--runs", str(tmp_path)).stdout


def test_nested_text_is_an_error_and_no_crash() -> None:
    for text in (DEEP, '{"a":' * 100_000, "NaN", "1 2"):
        with pytest.raises(ValueError, match=r"(?i)recursion|expected|trailing|NaN"):
            schema.parse(text)
