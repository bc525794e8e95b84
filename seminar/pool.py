"""Who runs the workers of a sweep, and where: executors by name. A new one is one class here.

This knows nothing of trainings: a job says what one worker does, an executor runs some of them to their end.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path
from typing import Any, ClassVar, Protocol

from filelock import FileLock, Timeout

from seminar.display import Display
from seminar.parts import Registry
from seminar.spec import InputError
from seminar.store import locked
from seminar.text import one_line_warnings

SLURM_SCRIPT = Path("sweeps/slurm.sh")
"""The batch script of a Slurm task. It holds what a cluster wants to know of it."""


class Job(Protocol):
    """What the workers of a sweep do; it can be sent to another process."""

    @property
    def runs(self) -> Path:
        """The folder of trainings, which all workers share."""

    @property
    def command(self) -> Sequence[str]:
        """The command line of one worker that is called by itself, on this or another machine."""

    def work(self, number: int, stopped: Callable[[], bool], send: Callable[[tuple[Any, ...]], None]) -> None:
        """Be worker `number` until nothing waits or `stopped()`. `send` takes events for `Display.show`."""


class Executor(Protocol):
    """Runs workers. Made with `--workers` and `--storage` of the command line (None: not given); raises `InputError`
    where these do not suit it, or it cannot be used here."""

    workers: int | None
    """How many workers to plan for; None: one for each core or GPU."""
    elsewhere: ClassVar[bool]
    """Whether the workers run on other machines, so that measuring this one says nothing of them."""
    spawns: ClassVar[bool]
    """Whether the workers are new processes, which import everything before they begin."""

    def __init__(self, workers: int | None, storage: str | None) -> None: ...

    def run(self, job: Job, count: int, display: Display) -> list[str]:
        """Run `count` workers to their end; returns a line for each worker that died (trainings that fail are events of
        `display`). Raises `KeyboardInterrupt`
        on Ctrl-C, after the workers of this machine have saved and stopped."""
        ...


executors: Registry[type[Executor]] = Registry("executor")


def executor(name: str | None, workers: int | None, storage: str | None) -> Executor:
    """Make the executor `name`; None: processes of this machine, or no further process for 0 workers."""
    return executors[name or ("inline" if workers == 0 else "local")].make(workers, storage)


@executors.register("inline")
class Inline:
    """One worker in this process."""

    elsewhere: ClassVar[bool] = False
    spawns: ClassVar[bool] = False

    def __init__(self, workers: int | None, storage: str | None) -> None:
        if workers not in (None, 0, 1):
            raise InputError(f"--workers {workers}: --executor inline has one worker; leave --workers out")
        self.workers: int | None = 1

    def run(self, job: Job, count: int, display: Display) -> list[str]:
        _require_shared_locks()
        with _stop_signals() as stop:
            job.work(0, stop.is_set, display.show)
        if stop.is_set():
            raise KeyboardInterrupt
        return []


@executors.register("local")
class Local:
    """Processes of this machine."""

    elsewhere: ClassVar[bool] = False
    spawns: ClassVar[bool] = True

    def __init__(self, workers: int | None, storage: str | None) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"--workers {workers}: --executor local needs at least 1")
        self.workers = workers

    def run(self, job: Job, count: int, display: Display) -> list[str]:
        context = multiprocessing.get_context("spawn")
        processes, readers = [], []
        # Until a worker has its own handlers Ctrl-C must not reach it; ignoring a signal is inherited.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for number in range(count):
                # A pipe for each worker: one that is killed in the middle of a message cannot block the others.
                reader, writer = context.Pipe(duplex=False)
                process = context.Process(target=_work, args=(job, number, os.getpid(), writer))
                process.start()
                writer.close()
                processes.append(process)
                readers.append(reader)
            signal.signal(signal.SIGINT, interrupt)
            while readers:
                for ready in connection.wait(readers):
                    assert isinstance(ready, connection.Connection)
                    try:
                        display.show(ready.recv())
                    except (EOFError, OSError):
                        readers.remove(ready)
        except KeyboardInterrupt:
            display.note(
                "stopping: each worker finishes its step, or its evaluation to save the epoch, and the next call goes "
                "on from there; once more ends it at once"
            )
            for process in processes:
                process.terminate()
            try:
                for process in processes:
                    process.join()
            except KeyboardInterrupt:
                for process in processes:
                    process.kill()
            raise
        finally:
            for process in processes:
                process.join(timeout=PATIENCE)
                if process.is_alive():
                    process.kill()
                    process.join()
        crashed = [process.exitcode for process in processes if process.exitcode not in (0, None)]
        return [f"{len(crashed)} worker(s) died (exit codes {crashed}); call again to go on"] if crashed else []


PATIENCE = 60
"""Seconds for a worker to end after it has closed its pipe."""
STORAGE = "SEMINAR_STORAGE"
"""The environment variable that holds the URL of a database where --storage is not given."""


PROBE = "SEMINAR_LOCK_PROBE"
"""The environment variable that names the file which the call that submits Slurm's tasks keeps locked."""


@executors.register("slurm")
class Slurm:
    """Tasks of an array job on a Slurm cluster; each calls the same sweep as its one worker."""

    elsewhere: ClassVar[bool] = True
    spawns: ClassVar[bool] = True

    def __init__(self, workers: int | None, storage: str | None) -> None:
        if workers is None or workers < 1:
            raise InputError("--executor slurm: give the number of tasks, for example --workers 8")
        if shutil.which("sbatch") is None:
            raise InputError("--executor slurm: sbatch is not here; call this on a machine that submits Slurm jobs")
        if not SLURM_SCRIPT.is_file():
            raise InputError(f"--executor slurm: no file {SLURM_SCRIPT} here; call this in the project's folder")
        self.workers: int | None = workers
        # Slurm hands it on; its queue shows every command line.
        self._environment = {**os.environ, **({} if storage is None else {STORAGE: storage})}

    def run(self, job: Job, count: int, display: Display) -> list[str]:
        submit = ["sbatch", "--wait", f"--array=0-{count - 1}", str(SLURM_SCRIPT), *job.command]
        try:
            with _held(job.runs / f"slurm-{os.getpid()}.lock") as probe:
                done = subprocess.run(submit, check=False, env={**self._environment, PROBE: str(probe)})
            code = done.returncode  # of the array: the highest of its tasks
        except KeyboardInterrupt:
            display.note("the tasks go on without this call; `scancel --name=seminar` stops them")
            raise
        # 1: a task says that a training failed, or is not done yet; the store knows which. Or sbatch took no job.
        if code == 1:
            display.note(
                "sbatch ended with exit code 1: a task has failures or left trainings to others (slurm-*.out say more) "
                "or sbatch refused the job, and its own line above says why"
            )
        return [] if code in (0, 1) else [f"sbatch ended with exit code {code}; the tasks' logs may say why"]


@contextmanager
def _held(path: Path) -> Iterator[Path]:
    """Hold a lock on a file; yields its absolute path.

    Tasks on other machines try the lock: where they get it, locks do not work between the machines.
    """
    path = path.resolve()
    with locked(path):
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def _require_shared_locks() -> None:
    """Raise `InputError` where this is a task on another machine, and the lock of the call that has submitted it does
    not keep this machine out: then nothing would keep two of them from the same training."""
    path = Path(os.environ.get(PROBE, ""))
    if not path.is_file():
        return
    lock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return
    lock.release()
    raise InputError(
        f"{path}: locked on the machine that has submitted this, and free here: its file system keeps locks to one "
        "machine, so two would train the same; have it mounted with shared locks (NFS 4, Lustre with flock), or name a "
        "folder on another one with --runs"
    )


def _work(job: Job, number: int, parent: int, events: connection.Connection) -> None:
    """A worker process."""
    # Ctrl-C in the terminal is for the parent alone; it then asks its workers to stop.
    with suppress(OSError):
        os.setsid()
    one_line_warnings()

    def send(event: tuple[Any, ...]) -> None:
        with suppress(OSError):  # The parent is gone: the worker will notice and stop, and that is no failure.
            events.send(event)

    stop = threading.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, lambda *_: stop.set())
    job.work(number, lambda: stop.is_set() or os.getppid() != parent, send)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C or SIGTERM sets; a second one ends this process at once."""
    stop = threading.Event()

    def take(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)
        with suppress(OSError):  # no print, which this may have interrupted; and nobody may be reading any more
            os.write(2, b"\nseminar: stopping after this step; once more ends it at once\n")

    before = {number: signal.signal(number, take) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
