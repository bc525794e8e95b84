"""What file systems, and those who look into folders, do to a folder of runs."""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from optuna.storages.journal import JournalFileBackend

from seminar import catalogue, pool, train
from seminar.catalogue import Catalogue, Cell
from seminar.display import Display
from seminar.search import StudyLocation
from seminar.spec import Stage
from seminar.store import Interrupted, Record, Store, write_atomic
from seminar.sweep import Sweep
from seminar.text import system_error
from seminar.watch import StopWhen
from tests.conftest import ROOT, seminar_here
from tests.records import finish, no_training

MakeCell = Callable[..., Cell]


def fail_with(code: int) -> Callable[..., None]:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOLCK])
def test_what_cannot_be_locked_can_be_looked_at(
    code: int, tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    finish(cell(losses="pce").stage, 40.0)
    stopped = cell(losses="pce", seed=1).stage
    (Path("runs") / stopped.key).mkdir()
    (Path("runs") / stopped.key / "stage.json").write_text(stopped.canonical())
    monkeypatch.setattr(FileLock, "acquire", fail_with(code))
    assert "1 done, 1 stopped" in seminar_here("status").stdout
    if code != errno.ENOLCK:  # there a plan could be written, but not safely
        line = ["sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy", "losses=pce", "--seeds", "2"]
        assert "1 done, 1 to do" in seminar_here(*line, "--dry-run").stdout


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file in place of a lock would keep the training of a killed process locked for ever."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcntl.flock", fail_with(code))
    errors = seminar_here("train", "profile=toy", "losses=pce", "--wandb", "disabled", code=2).stderr
    assert "its file system has no file locks" in errors
    assert "--runs" in errors
    assert len(errors.splitlines()) == 1
    assert not list(Path("runs").rglob("record.json"))


def test_a_full_disk_is_named_where_a_lock_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FileLock, "acquire", fail_with(errno.ENOSPC))
    errors = seminar_here("train", "profile=toy", "losses=pce", "--wandb", "disabled", code=2).stderr
    assert re.fullmatch(r"seminar: runs/\S+: No space left on device; free some space and call again\n", errors)


def test_a_read_only_file_system_is_named_with_the_file_that_was_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a system also refuses to delete the file that could not be begun."""
    for name in ("open", "unlink"):
        monkeypatch.setattr(Path, name, fail_with(errno.EROFS))
    with pytest.raises(OSError, match="Read-only") as raised:
        write_atomic(tmp_path / "a.json", lambda file: file.write(b"{}"))
    assert system_error(raised.value) == f"{tmp_path / 'a.json'}: Read-only file system; name another folder"


def test_what_others_put_into_a_folder_stays(tmp_path: Path, cell: MakeCell) -> None:
    stage, store = cell(losses="pce").stage, Store(tmp_path)
    folder = store.folder(stage.key)
    (folder / ".ipynb_checkpoints" / "deep").mkdir(parents=True)
    for name in (".DS_Store", ".nfs000000012", ".student.pt.12.34"):
        (folder / name).write_text("")
    store.ensure(stage, no_training)
    assert {path.name for path in folder.glob(".*")} == {".ipynb_checkpoints", ".DS_Store", ".nfs000000012"}


def test_what_others_put_beside_plans_and_trainings_is_none_of_them(
    tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS puts `._NAME` beside NAME on file systems of others; in it are no JSON and no text."""
    monkeypatch.chdir(tmp_path)
    made = cell(losses="pce")
    finish(made.stage, 40.0)
    catalogue.write(Path("runs"), [catalogue.Planned(Sweep("losses", "", {}), [made])])
    for path in [path for path in Path("runs").rglob("*.json*") if path.is_file()]:
        (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\xff")
        (path.parent / ".ipynb_checkpoints").mkdir(exist_ok=True)
    assert Catalogue(Store(Path("runs"))).sweeps == {"losses"}
    assert "1 done" in seminar_here("status").stdout


@pytest.mark.parametrize("damage", ["deleted", "emptied", "cut", "torn"])
def test_a_lost_curve_is_written_anew_from_the_checkpoint(damage: str, tmp_path: Path, cell: MakeCell) -> None:
    trained, store = cell(losses="pce", epochs=4, data_train=4, data_val=2), Store(tmp_path)
    key = trained.stage.key
    path = store.folder(key) / "metrics.jsonl"

    def run(epochs: int) -> Record:
        def make(stage: Stage, folder: Path, ancillary: Path | None) -> Record:
            return train.train(
                stage, trained.host, folder, ancillary, [StopWhen(lambda: len(store.curve(key)) >= epochs)]
            )

        return store.ensure(trained.stage, make)

    with pytest.raises(Interrupted):
        run(2)
    before = store.curve(key)
    text = path.read_text()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_text({"emptied": "", "cut": text.split("\n")[1] + "\n", "torn": text[:-9]}[damage])
    with pytest.raises(Interrupted):
        run(3)
    assert [line["epoch"] for line in store.curve(key)] == [1, 2, 3]
    assert store.curve(key)[:2] == before
    assert run(9)["sessions"] == 3
    assert [line["epoch"] for line in store.curve(key)] == [1, 2, 3, 4]


@dataclass
class DeleteCurve:
    """A watch that deletes the curve after an epoch, as somebody who tidies up a folder does."""

    path: Path
    after: int

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None: ...

    def step(self, stage: Stage, done: int, total: int) -> None: ...

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        if line["epoch"] == self.after:
            self.path.unlink()

    def end(self, stage: Stage, body: Record | None) -> None: ...


@pytest.mark.parametrize("after", [2, 4])
def test_a_curve_that_is_lost_while_it_is_trained_is_whole_at_the_end(
    after: int, tmp_path: Path, cell: MakeCell
) -> None:
    trained, store = cell(losses="pce", epochs=4, data_train=4, data_val=2), Store(tmp_path)
    watch = DeleteCurve(store.folder(trained.stage.key) / "metrics.jsonl", after)
    store.ensure(trained.stage, lambda stage, folder, below: train.train(stage, trained.host, folder, below, [watch]))
    assert [line["epoch"] for line in store.curve(trained.stage.key)] == [1, 2, 3, 4]
    assert store.record(trained.stage.key) is not None


def test_a_full_disk_is_named_by_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(JournalFileBackend, "append_logs", fail_with(errno.ENOSPC))
    with pytest.raises(OSError, match=r"No space left on device: '.*losses-1\.journal'"):
        StudyLocation("losses-1", tmp_path).open()


def test_no_damaged_journal_is_written_over(tmp_path: Path) -> None:
    queue = StudyLocation("losses-1", tmp_path)
    for text in ("one", "two", "three"):
        queue.journal.write_text(text)
        with pytest.warns(RuntimeWarning, match="damaged, now losses-1.damaged"), queue.prepared():
            pass
    kept = sorted(path.name for path in tmp_path.glob("*.damaged*"))
    assert kept == ["losses-1.damaged", "losses-1.damaged-2", "losses-1.damaged-3"]
    assert [(tmp_path / name).read_text() for name in kept] == ["one", "two", "three"]


@dataclass
class Saving:
    """A job that needs longer to save than a worker gets to end; `begun` and `saved` tell how far it is."""

    folder: Path
    seconds: float
    command: tuple[str, ...] = ()

    def work(self, number: int, stopped: Callable[[], bool], send: Callable[[tuple[Any, ...]], None]) -> None:
        (self.folder / "begun").write_text("")
        while not stopped():
            time.sleep(0.05)
        (self.folder / "stopping").write_text("")
        time.sleep(self.seconds)
        (self.folder / "saved").write_text("")


def interrupt(folder: Path, *names: str) -> None:
    """Press Ctrl-C each time that a file appears."""
    for name in names:
        while not (folder / name).exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("presses", "patience", "seconds", "saved"),
    [(("begun",), 0.1, 2, True), (("begun", "stopping"), 600, 90, False)],
    ids=["once", "twice"],
)
def test_a_worker_may_save_until_ctrl_c_is_pressed_again(
    presses: tuple[str, ...],
    patience: float,
    seconds: float,
    saved: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Once: the worker is waited for beyond all patience. Twice: it is killed, however long the patience."""
    monkeypatch.setattr(pool, "PATIENCE", patience)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    hands = threading.Thread(target=interrupt, args=(tmp_path, *presses), daemon=True)
    hands.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            pool.executor("local", 1, None).run(Saving(tmp_path, seconds), 1, Display({}, 1, 1))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "saved").exists() == saved
