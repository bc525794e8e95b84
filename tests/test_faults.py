"""What a bad disk, a bad clock or a curious hand can do to a folder of runs: named clearly, nothing reused or lost."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seminar import search, train
from seminar.catalogue import Cell
from seminar.spec import InputError, Stage
from seminar.store import Record, StageFailed, Store
from tests.conftest import ROOT

LOSSES = ROOT / "sweeps" / "losses.yaml"
MakeCell = Callable[..., Cell]
SWEEP = f"seminar sweep {LOSSES} profile=toy losses=pce,pce+pcons --workers 0"
REST = "--wandb disabled --runs disk/runs"
RUN = """
import shlex, subprocess, sys
from analysis.__main__ import main as analysis
from seminar.__main__ import main as seminar
sys.stderr = sys.stdout
for line in sys.stdin.read().splitlines():
    program, *arguments = shlex.split(line)
    print("$", line, flush=True)
    if program in ("seminar", "analysis"):
        print("exit", {"seminar": seminar, "analysis": analysis}[program](arguments), flush=True)
    else:
        subprocess.run([program, *arguments], check=True)
"""


def mounted(folder: Path, *commands: str) -> list[str]:
    """What each command prints. They run one after the other, those of the suite in one process, and may mount file
    systems, which nobody else sees."""
    (folder / "disk").mkdir(exist_ok=True)
    try:
        allowed = subprocess.run(["unshare", "--user", "--map-root-user", "--mount", "true"], capture_output=True)
    except FileNotFoundError:
        pytest.skip("unshare is not installed (Debian: util-linux)")
    if allowed.returncode:
        pytest.skip(f"this system does not allow mounts: {allowed.stderr.decode().strip()}")
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", RUN],
        input="\n".join(commands),
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "Traceback" not in done.stdout
    return [text.partition("\n")[2] for text in f"\n{done.stdout}".split("\n$ ")[1:]]


def trained(requested: Cell, runs: Path) -> Record:
    def make(stage: Stage, folder: Path, ancillary: Path | None) -> Record:
        return train.train(stage, requested.host, folder, ancillary)

    return Store(runs).ensure(requested.stage, make)


@pytest.mark.slow
def test_shared_memory_that_is_too_small_is_named(tmp_path: Path) -> None:
    """As in a container that nobody has given more."""
    settings = "profile=toy losses=pce data_size=96 crop=96 batch_size=16 loader_workers=1"
    train_line = f"seminar train {settings} --runs runs --wandb disabled"
    mount, printed = mounted(tmp_path, "mount -t tmpfs -o size=256k tmpfs /dev/shm", train_line)
    assert not mount
    lines = printed.splitlines()
    assert lines[-1] == "exit 2"
    assert any("loader_workers=1: /dev/shm is too small to hand batches over between processes" in x for x in lines)


@pytest.mark.slow
@pytest.mark.parametrize(("size", "file"), [("3m", "checkpoint.pt"), ("12k", "")])
def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path, cell: MakeCell, size: str, file: str) -> None:
    """`file`: the first one that there is no room for; "": which it is depends on which of the workers is faster."""
    _, first, _, second, hidden, _ = mounted(
        tmp_path,
        f"mount -t tmpfs -o size={size} none disk",
        f"{SWEEP} seed=0 {REST}",
        "mount -o remount,size=200m disk",
        f"{SWEEP} seed=0 {REST}",
        "find disk -name '.*'",
        "cp -r disk/runs kept",
    )
    printed = [line for line in first.splitlines() if line.startswith("seminar: ")]
    assert len(printed) == 2
    for line in printed:
        assert re.search(
            r"OSError: [^:]*disk/runs/[^:]+: No space left on device; free some space and call again$", line
        )
        assert f"{file}: No space" in line
    assert first.endswith("exit 1")
    assert "0 done, 2 to do" in second
    assert second.endswith("exit 0")
    assert hidden == "", "nothing half-written is left"
    for losses in ("pce", "pce+pcons"):
        requested = cell(losses=losses)
        record = Store(tmp_path / "kept").record(requested.stage.key)
        undisturbed = trained(requested, tmp_path / "undisturbed")
        assert record is not None
        assert record["metrics"] == undisturbed["metrics"], "as on a good disk"
        assert len(Store(tmp_path / "kept").curve(requested.stage.key)) == requested.stage.epochs


@pytest.mark.slow
def test_a_folder_that_cannot_be_written_to_can_be_read(tmp_path: Path, cell: MakeCell) -> None:
    trained(cell(losses="pce"), tmp_path / "disk" / "runs")
    commands = {
        "seminar status --runs disk/runs": 0,
        f"seminar train profile=toy losses=pce {REST}": 0,
        f"seminar train profile=toy losses=pce+pcons {REST}": 2,
        f"{SWEEP} seed=0 {REST}": 2,
        f"analysis {LOSSES} profile=toy losses=pce seed=0 --runs disk/runs --out out": 0,
    }
    mounts = ("mount --bind disk disk", "mount -o remount,ro,bind disk")
    said = mounted(tmp_path, *mounts, *commands)[len(mounts) :]
    for (command, code), printed in zip(commands.items(), said, strict=True):
        assert printed.rstrip("\n").endswith(f"exit {code}"), (command, printed)
        assert bool(
            re.search(r"^seminar: disk/runs/[^.][^:]*: Read-only file system; name another folder$", printed, re.M)
        ) == (code == 2)


def test_a_torn_journal_is_set_aside(tmp_path: Path, cell: MakeCell) -> None:
    cells, store = [cell(losses="pce")], Store(tmp_path)

    def prepare() -> search.StudyLocation:
        return search.prepare_grid("losses", cells, cells, [cells[0].stage.key], store, None)

    queue = prepare()
    whole = queue.journal.read_bytes()
    prepare()
    assert queue.journal.read_bytes().startswith(whole), "a whole one is kept"
    for torn in (whole[:-20], whole + b'{"op_code": 5, "wor', whole + b"{\n" + whole):
        queue.journal.write_bytes(torn)
        with pytest.warns(RuntimeWarning, match=rf"{queue.name}\.journal: damaged, now {queue.name}\.damaged"):
            prepare()
        assert torn in [path.read_bytes() for path in queue.folder.glob("*.damaged*")]
        assert [trial.state.name for trial in queue.open().study.trials] == ["WAITING"]


def test_a_stage_that_is_not_what_its_key_says_is_never_reused(tmp_path: Path, cell: MakeCell) -> None:
    """Neither an edited file nor another stage that came to lie under the key."""
    requested, other = cell(losses="pce"), cell(losses="pce", seed=1)
    folder = tmp_path / requested.stage.key
    for found in (requested.stage.canonical().replace('"epochs": 2', '"epochs": 1'), other.stage.canonical()):
        assert found != requested.stage.canonical()
        folder.mkdir()
        (folder / "stage.json").write_text(found)
        (folder / "checkpoint.pt").write_text("of that one")
        with pytest.raises(InputError, match=r"stage\.json: does not describe the training"):
            trained(requested, tmp_path)
        assert (folder / "stage.json").read_text() == found
        assert (folder / "checkpoint.pt").read_text() == "of that one"
        shutil.rmtree(folder)
    trained(requested, tmp_path)
    store = Store(tmp_path)
    (folder / "stage.json").write_text(other.stage.canonical())
    with pytest.raises(InputError, match=r"stage\.json: does not describe the training"):
        store.stage(requested.stage.key)
    record = json.loads((folder / "record.json").read_text())
    for change in ({"key": other.stage.key}, {"stage": json.loads(other.stage.canonical())["stage"]}, {"recipe": 0}):
        (folder / "record.json").write_text(json.dumps({**record, **change}))
        with pytest.raises(InputError, match=r"record\.json: is not the record of"):
            trained(requested, tmp_path)


def test_a_clock_that_was_set_back_changes_nothing(tmp_path: Path, cell: MakeCell) -> None:
    requested, store = cell(losses="pce"), Store(tmp_path)

    def fail(*_: object) -> Record:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError):
        store.ensure(requested.stage, fail, call="one")
    path = store.folder(requested.stage.key) / "failure.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "time": "2999-01-01T00:00:00+00:00"}))
    with pytest.raises(StageFailed):
        store.ensure(requested.stage, fail, call="one")
    assert store.ensure(requested.stage, lambda *_: {"metrics": {}}, call="two")["metrics"] == {}
