"""Executors: the seam between what a sweep trains and who runs it."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from seminar import checkpoint, pool
from seminar.display import Display
from seminar.parts import Registry
from seminar.spec import InputError
from seminar.store import Store
from seminar.train import Trainer
from tests.conftest import ROOT, seminar_here

TOY = ("sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy", "losses=pce,pce+pcons", "seed=0")
DATABASE = "postgresql://me@host/db"


class Noted:
    """A job that writes down who worked."""

    command: Sequence[str] = ("program", "a word", "--storage=a;b")

    def __init__(self, runs: Path = Path()) -> None:
        self.runs = runs
        self.workers: list[int] = []

    def work(self, number: int, stopped: Callable[[], bool], send: Callable[[tuple[Any, ...]], None]) -> None:
        self.workers.append(number)
        send(("failed", number, "", "", "of no consequence"))


def test_inline_is_one_worker_of_this_process() -> None:
    job, display = Noted(), Display({}, 1, 1)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    assert pool.executor(None, 0, None).run(job, 1, display) == []
    assert job.workers == [0]
    assert display.failed == ["of no consequence"]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


@pytest.mark.parametrize(
    ("name", "workers", "storage", "message"),
    [
        ("inline", 2, None, "--workers 2: --executor inline has one worker"),
        ("local", 0, None, "--workers 0: --executor local needs at least 1"),
        (None, -1, None, "--workers -1: "),
        ("slurm", None, DATABASE, "--executor slurm: give the number of tasks"),
        ("slurm", 2, None, "--executor slurm: sbatch is not here"),
        ("slurm", 2, DATABASE, "--executor slurm: sbatch is not here"),
        ("slrum", 2, None, "'slurm'"),
    ],
)
def test_what_an_executor_cannot_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, name: str | None, workers: int | None, storage: str | None, message: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(InputError, match=message) as caught:
        pool.executor(name, workers, storage)
    assert "\n" not in str(caught.value)


def test_which_executor_is_meant() -> None:
    assert isinstance(pool.executor(None, None, None), pool.Local)
    assert isinstance(pool.executor(None, 3, None), pool.Local)
    assert isinstance(pool.executor("inline", None, None), pool.Inline)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a stand-in for `sbatch`, which notes its arguments and ends with the code in `code`."""
    program = tmp_path / "bin" / "sbatch"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/given\nexit $(cat {tmp_path}/code)\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "sweeps").mkdir()
    shutil.copy(ROOT / "sweeps" / "slurm.sh", tmp_path / "sweeps")
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("code", [0, 1, 9])
def test_slurm_gets_an_array_of_workers(cluster: Path, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    (cluster / "code").write_text(str(code))
    executor = pool.executor("slurm", 3, DATABASE)
    assert executor.elsewhere
    assert executor.workers == 3
    failed = executor.run(Noted(), 2, Display({}, 2, 2))
    # 1 is how a sweep ends that has failures or leaves cells to others; the store knows of those.
    assert failed == (["sbatch ended with exit code 9; the tasks' logs may say why"] if code == 9 else [])
    said = capsys.readouterr()
    assert ("or sbatch refused the job" in said.out + said.err) == (code == 1)
    given = ["--wait", "--array=0-1", "sweeps/slurm.sh", "program", "a word", "--storage=a;b"]
    assert (cluster / "given").read_text().splitlines() == given, "as arguments, for no shell to read"


def test_slurm_needs_its_script(cluster: Path) -> None:
    (cluster / "sweeps" / "slurm.sh").unlink()
    with pytest.raises(InputError, match=r"no file sweeps/slurm\.sh here; call this in the project's folder"):
        pool.executor("slurm", 3, DATABASE)


def test_the_tasks_of_slurm_are_told_of_a_file_that_stays_locked(cluster: Path) -> None:
    """The stand-in for sbatch tries to take the lock, as a task on another machine does."""
    check = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from seminar import pool; pool._require_shared_locks()"
    script = f'#!/bin/sh\necho "$SEMINAR_LOCK_PROBE" > {cluster}/probe\n{sys.executable} -c "{check}"\n'
    (cluster / "bin" / "sbatch").write_text(script)
    runs = cluster / "runs"
    runs.mkdir()
    assert pool.executor("slurm", 1, None).run(Noted(runs), 1, Display({}, 1, 1)) == [], "it is kept out"
    probe = Path((cluster / "probe").read_text().strip())
    assert probe.parent == runs
    assert not probe.exists(), "nothing is left"


def test_a_file_system_that_keeps_locks_to_one_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a task finds the file, and can lock it."""
    (tmp_path / "slurm-1.lock").touch()
    monkeypatch.setenv(pool.PROBE, str(tmp_path / "slurm-1.lock"))
    job = Noted(tmp_path)
    with pytest.raises(InputError, match="its file system keeps locks to one machine, so two would train the same"):
        pool.executor("inline", None, None).run(job, 1, Display({}, 1, 1))
    assert job.workers == []
    monkeypatch.setenv(pool.PROBE, str(tmp_path / "gone.lock"))
    pool.executor("inline", None, None).run(job, 1, Display({}, 1, 1))
    assert job.workers == [0], "the call that submitted it has ended"


WORKER = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (print("saved", flush=True), sys.exit(3)))
print("ready", *sys.argv[1:], flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)])
def test_a_task_saves_and_queues_again_when_its_time_is_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, again: bool
) -> None:
    """Slurm sends USR1 before the end of the time; scancel sends TERM, and that is the end of it."""
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    line = ["bash", str(ROOT / "sweeps" / "slurm.sh"), sys.executable, "-c", WORKER, "a b", "c;d"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as task:
        assert task.stdout is not None
        assert task.stdout.readline() == "ready a b c;d\n", "as arguments, for no shell to read"
        task.send_signal(number)
        assert task.stdout.readline() == "saved\n"
        assert task.wait(timeout=60) == 3, "the code of the worker"
    assert (tmp_path / "called").exists() is again
    if again:
        assert (tmp_path / "called").read_text() == "requeue 4711\n"


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize("code", [0, 1, 9])
def test_a_task_ends_as_its_worker_does(code: int) -> None:
    line = ["bash", str(ROOT / "sweeps" / "slurm.sh"), sys.executable, "-c", f"raise SystemExit({code})"]
    assert subprocess.run(line, check=False).returncode == code


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_a_task_without_a_command_is_no_success() -> None:
    """As with `sbatch sweeps/slurm.sh` by hand."""
    done = subprocess.run(["bash", ROOT / "sweeps" / "slurm.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("seminar: no command; submit this with `seminar sweep FILE ...")


def test_a_new_executor_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: Registry[type[pool.Executor]] = Registry("executor")
    monkeypatch.setattr(pool, "executors", known)
    commands: list[Sequence[str]] = []

    @known.register("twice")
    class Twice:
        """Two workers, one after the other."""

        elsewhere: ClassVar[bool] = False
        spawns: ClassVar[bool] = False

        def __init__(self, workers: int | None, storage: str | None) -> None:
            self.workers = workers

        def run(self, job: pool.Job, count: int, display: Display) -> list[str]:
            commands.append(job.command)
            for number in range(count):
                job.work(number, lambda: False, display.show)
            return []

    rest = ("--executor", "twice", "--workers", "2", "--runs", str(tmp_path), "--wandb", "disabled")
    said = seminar_here(*TOY, *rest)
    assert "2 cpu processes" in said.stdout
    store = Store(tmp_path)
    assert [store.status(key) for key in store.keys()] == ["done", "done"]  # noqa: SIM118
    (command,) = commands
    assert command[1:4] == ("-m", "seminar", "sweep")
    # What that command line asks for is trained already.
    seminar_here(*command[3:], "--workers", "2", "--executor", "twice")
    assert len(commands) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_call_without_further_processes_saves_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    save, saved = checkpoint.save, []

    def stopped_after_the_third_epoch(self: Trainer, *rest: Any) -> None:
        save(self, *rest)
        saved.append(self.stage.key)
        if len(saved) == 3:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(checkpoint, "save", stopped_after_the_third_epoch)
    call = (*TOY, "epochs=4", "--workers", "0", "--runs", str(tmp_path), "--wandb", "disabled")
    said = seminar_here(*call, code=130)
    assert "the same command goes on" in said.stderr
    store = Store(tmp_path)
    assert [store.status(key) for key in store.keys()] == ["stopped"]  # noqa: SIM118
    seminar_here(*call)
    records = [store.record(key) for key in store.keys()]  # noqa: SIM118
    assert sorted(record["sessions"] for record in records if record) == [1, 2]
    assert len(saved) == 8, "no epoch twice"
