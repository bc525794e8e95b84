"""The folder of trainings: every stage once, done only when its record lies there.

runs/<key>/stage.json       the canonical stage, written first
           metrics.jsonl    one line per epoch
           checkpoint.pt    rolling, to continue a killed training; gone when done
           student.pt       final weights (teacher.pt beside it where there is a teacher)
           samples/         predictions on a few validation images: pictures, and arrays for figures
           wandb-run-id     the id of its run on the server of W&B, if it has one
           failure.json     why the last attempt failed
           record.json      written last, by atomic rename: its presence is the only meaning of done
     replaced/<key>-<n>/    a training that was put aside, to be trained again
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Literal

from filelock import FileLock, Timeout

from seminar import schema
from seminar.spec import RECIPE, InputError, Stage, hash_of, key_of
from seminar.text import system_error

AGAIN = "move its folder away, and the next call trains it again"
ASK = "ask whoever trained it for another copy"
REPLACED = "replaced"
"""The folder, below that of the runs, of trainings that were put aside."""
ROLES = ("student", "teacher")
"""Networks whose weights a training leaves; the file of each is `<role>.pt`."""
Status = Literal["done", "running", "failed", "stopped", "missing"]
Record = dict[str, Any]
TrainStage = Callable[[Stage, Path, Path | None], Record]
"""`train(stage, folder, ancillary_folder) -> record body`; writes weights and metrics into `folder`."""


class Interrupted(Exception):
    """A training was requested to stop; it can be continued."""


class StageFailed(Exception):
    """A stage failed a moment ago, here or in another process, and was not tried again."""


class Store:
    """Trainings below `root`, by key. Safe to use from many processes at once.

    `remedy`: what messages about damaged trainings say is to be done.
    """

    def __init__(self, root: Path, remedy: str = AGAIN) -> None:
        self.root, self.remedy = root, remedy
        # A key is a hash of its stage, so what it names never changes, whatever happens to the files.
        self._named: dict[str, tuple[object, object]] = {}

    def folder(self, key: str) -> Path:
        return self.root / key

    def keys(self) -> list[str]:
        """Return the keys of all stages that were ever started, sorted."""
        return sorted(path.parent.name for path in self.root.glob("*/stage.json"))

    def find(self, prefix: str) -> str:
        """Return the only key that begins with `prefix`. Raises `InputError` for none, and for several."""
        if not prefix:
            raise InputError("'': name a training by its key, or the beginning of it (see `seminar status`)")
        found = [key for key in self.keys() if key.startswith(prefix.lower())]
        if len(found) != 1:
            several = (
                f"{len(found)} trainings begin so: {', '.join(found[:4])}, ..." if found else "no training begins so"
            )
            raise InputError(f"{prefix!r}: {several} in {self.root} (see `seminar status`)")
        return found[0]

    def stage(self, key: str) -> Stage:
        """Return the stage behind a key. Raises `InputError` for one missing, damaged or of another recipe."""
        path = self.folder(key) / "stage.json"
        recipe: Any = None
        try:
            text = path.read_text(encoding="utf-8")
            content = schema.parse(text)
            recipe = content["recipe"]
            stage = Stage.model_validate(content["stage"])
        except (OSError, ValueError, KeyError, TypeError):
            if recipe not in (None, RECIPE):
                raise InputError(f"{path}: was written by recipe {recipe}; this version is recipe {RECIPE}") from None
            raise InputError(f"{path}: missing or damaged; {self.remedy}") from None
        # The text as it was written is what the key is a hash of: that is cheaper than writing it once more.
        if recipe == RECIPE and hash_of(text) != key and stage.key != key:
            raise InputError(f"{path}: does not describe the training {key}; {self.remedy}")
        return stage.known_as(key)

    def record(self, key: str) -> Record | None:
        """Return the record of a finished training, None if it is not finished.

        Raises `InputError` for a record that cannot be read, that belongs to another training, or that contradicts its
        curve.
        """
        path = self.folder(key) / "record.json"
        record = schema.read(path, schema.RECORD, self.remedy)
        if record is None:
            return None
        if not (record["key"] == key and self.names(key, record["recipe"], record["stage"])):
            raise InputError(f"{path}: is not the record of {key}; {self.remedy}")
        wrong = schema.disagreement(record, schema.last_line(self.folder(key) / "metrics.jsonl"))
        if wrong is not None:
            raise InputError(f"{path}: {wrong}; {self.remedy}")
        return record

    def names(self, key: str, recipe: object, stage: object) -> bool:
        """Return whether `key` is that of a stage in JSON. Plan and record of a training show the same stage, and
        hashing it costs more than comparing it with one that was hashed before."""
        if self._named.get(key) == (recipe, stage):
            return True
        if key_of(recipe, stage) != key:
            return False
        self._named[key] = recipe, stage
        return True

    def failure(self, key: str) -> dict[str, Any] | None:
        """Return `{"error": one line, "time", "call", "traceback"}` of the last attempt if it failed."""
        return schema.read(self.folder(key) / "failure.json", schema.FAILURE, "delete it")

    def curve(self, key: str, containing: str = "") -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl`, one per epoch, that contain a text; a torn last line is left out."""
        return schema.lines(self.folder(key) / "metrics.jsonl", self.remedy, containing)

    def status(self, key: str) -> Status:
        folder = self.folder(key)
        if (folder / "record.json").exists():
            return "done"
        if not (folder / "stage.json").exists():
            return "missing"
        # Where nothing can be written (a read-only file system, say) nothing can be locked, and nobody can train.
        try:
            with FileLock(folder / "lock", timeout=0, fallback_to_soft=False):
                pass
        except Timeout:
            return "running"
        except OSError:
            pass
        return "failed" if (folder / "failure.json").exists() else "stopped"

    def ensure(
        self,
        stage: Stage,
        train: TrainStage,
        on_wait: Callable[[Stage], None] = lambda _: None,
        call: str | None = None,
        on_record: Callable[[Stage], None] = lambda _: None,
        cell: Mapping[str, Any] | None = None,
    ) -> Record:
        """Return the record of `stage`; train it now if there is none yet, its chain first.

        A stage that another process is training is waited for, never trained twice; meanwhile `on_wait` is called twice
        a second and may raise `Interrupted`. `on_record` is called for each stage that was trained here, once its
        record is there. An exception from `train` is kept in `failure.json`, also in that of every stage that needs the
        failed one, and raised on; `Interrupted` and Ctrl-C leave the stage to be continued. A stage that failed in the
        same `call`, whoever it was, is not tried again but raises `StageFailed`. `cell` is kept in the records: which
        cell of a sweep needs these trainings (`catalogue.Cell.facts`).
        """
        record = self.record(stage.key)
        if record is not None:
            return record
        if stage.ancillary is not None:
            try:
                self.ensure(stage.ancillary, train, on_wait, call, on_record, cell)
            except Interrupted:
                raise
            except StageFailed as error:
                self._keep_failure_of_ancillary(stage, reason(error), call)
                raise
            except Exception as error:
                self._keep_failure_of_ancillary(stage, f"ancillary {stage.ancillary.key} failed: {reason(error)}", call)
                raise
        folder = self.folder(stage.key)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock", lambda: on_wait(stage)):
            record = self.record(stage.key)
            if record is not None:
                return record
            failure = self.failure(stage.key)
            if failure is not None and call is not None and failure.get("call") == call:
                raise StageFailed(f"{stage.key} failed: {failure['error']}")
            for part in folder.iterdir():
                if _PART.fullmatch(part.name) and part.is_file():  # what a killed process was writing
                    part.unlink()
            self._write_stage(stage)
            started = now()
            try:
                body = train(stage, folder, self.folder(stage.ancillary.key) if stage.ancillary else None)
            except Interrupted:
                raise
            except Exception as error:
                self._keep_failure(folder, reason(error), call)
                raise
            what = {"key": stage.key, **json.loads(stage.canonical()), "settings": stage.settings, "cell": cell}
            record = {**what, "started": started, "finished": now(), **body}
            write_json(folder / "record.json", record)
            (folder / "checkpoint.pt").unlink(missing_ok=True)
            on_record(stage)
            return record

    def put_aside(self, key: str) -> Path:
        """Move the folder of a training to `replaced/`, so that it will be trained again; returns where it lies now."""
        folder = self.folder(key)
        with locked(folder / "lock"):
            (self.root / REPLACED).mkdir(exist_ok=True)
            taken = {path.name for path in (self.root / REPLACED).iterdir()}
            number = next(n for n in itertools.count(1) if f"{key}-{n}" not in taken)
            return folder.rename(self.root / REPLACED / f"{key}-{number}")

    def take_over(self, other: Path) -> bool:
        """Take over the small files of a training that was finished elsewhere, from its folder `other`.

        Returns whether it was taken; one that is finished here stays. Its weights are not among the files: until they
        come (`take_weights`) nothing can be trained on top of it. Raises `InputError` where `other` is not what its
        name says, where its record contradicts its curve, and where the training was started here and can still be
        continued.
        """
        elsewhere, key = Store(other.parent, ASK), other.name
        try:
            stage, record, curve = elsewhere.stage(key), elsewhere.record(key), elsewhere.curve(key)
        except OSError as error:  # one in writing is another matter: it stops a pull
            raise InputError(f"{error.filename}: {error.strerror}; {ASK}") from None
        if record is None:
            raise InputError(
                f"{other}: no record.json, so this training is not finished; finish it there and pull again"
            )
        if stage.key != key:
            raise InputError(f"{other}: holds the training {stage.key}, not {key} as its name says; {ASK}")
        wrong = schema.best_disagreement(record, curve)
        if wrong is not None:
            raise InputError(f"{other / 'record.json'}: {wrong}; {ASK}")
        folder = self.folder(stage.key)
        folder.mkdir(parents=True, exist_ok=True)

        def refuse() -> None:
            raise InputError(f"{stage.key}: is running here, and stays as it is")

        with locked(folder / "lock", refuse):
            if self.record(stage.key) is not None:
                return False
            if (folder / "checkpoint.pt").exists():
                raise InputError(
                    f"{stage.key}: was started here and has a checkpoint, so it stays as it is; finish it, or move "
                    f"{folder} away and pull again"
                )
            self._write_stage(stage)
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in curve)
            write_atomic(folder / "metrics.jsonl", lambda file: file.write(text.encode()))
            write_json(folder / "record.json", record)
        return True

    def lacks(self, key: str) -> dict[str, str]:
        """Return the SHA-256 of the weights that the record of a finished training names and that are not here, by
        role."""
        named = (self.record(key) or {}).get("weights_sha256", {})
        roles = [role for role in ROLES if role in named and not (self.folder(key) / f"{role}.pt").exists()]
        return {role: named[role] for role in roles}

    def take_weights(self, key: str, role: str, path: Path) -> None:
        """Take over weights of a finished training. Raises `InputError` for a file that its record does not name."""
        named = (self.record(key) or {}).get("weights_sha256", {})
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != named.get(role):
                raise InputError(f"{key}: {role}.pt is not the file that its record names (its SHA-256 is another)")
            file.seek(0)
            write_atomic(self.folder(key) / f"{role}.pt", lambda target: shutil.copyfileobj(file, target))

    def _keep_failure(self, folder: Path, why: str, call: str | None) -> None:
        failure = {"error": why, "time": now(), "call": call, "traceback": traceback.format_exc()}
        with suppress(OSError):  # what must be raised is the failure itself
            write_json(folder / "failure.json", failure)

    def _keep_failure_of_ancillary(self, stage: Stage, why: str, call: str | None) -> None:
        """Write that `stage` cannot be trained because of its ancillary."""
        folder = self.folder(stage.key)
        folder.mkdir(parents=True, exist_ok=True)
        self._write_stage(stage)
        self._keep_failure(folder, why, call)

    def _write_stage(self, stage: Stage) -> None:
        path = self.folder(stage.key) / "stage.json"
        if not path.exists():
            write_atomic(path, lambda file: file.write(stage.canonical().encode()))
        elif path.read_text(encoding="utf-8") != stage.canonical():
            raise InputError(f"{path}: does not describe the training {stage.key}; move the folder away to train it")
        (self.folder(stage.key) / "failure.json").unlink(missing_ok=True)


@contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Keep every other process out that locks the file `path`; `on_wait` is called twice a second while one has it.

    The system ends a lock with its process, on every host that shares the file system. Raises `InputError` for a file
    system that cannot do this: a file that only stands for a lock would stay behind a process that was killed, for
    ever. Raises `OSError` with the name of the file, for example when the disk is full.
    """
    lock = FileLock(path, fallback_to_soft=False)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            on_wait()
        except OSError as error:
            if error.errno in _NO_LOCKS:
                raise InputError(
                    f"{path}: its file system has no file locks ({error.strerror}), by which processes keep out of "
                    "each other's way; name a folder on another one with --runs, or have it mounted with locks (flock)"
                ) from None
            raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        yield
    finally:
        lock.release()


_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP}
_PART = re.compile(r"\..+\.\d+\.\d+")
"""Names of files that `write_atomic` has begun."""


def write_atomic(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that it appears whole or not at all, also when the machine stops.

    Raises `OSError` with the name of the file, for example when the disk is full.
    """
    # Not tempfile.mkstemp: its files are private to the user, and a store may be shared by a group.
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with suppress(OSError):  # a read-only file system refuses to delete even what is not there
            part.unlink()
        cause: BaseException | None = error if isinstance(error, Exception) else None
        while cause is not None:  # torch hides "disk full" inside another error
            if isinstance(cause, OSError) and cause.errno is not None:
                raise OSError(cause.errno, cause.strerror, str(path)) from error
            cause = cause.__context__
        raise


def append_line(path: Path, value: object) -> None:
    """Append a line to a JSON-lines file. Raises `OSError` with its name; `read_curve` leaves out what it tears."""
    text = json.dumps(value, allow_nan=False) + "\n"
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_json(path: Path, value: object) -> None:
    """`write_atomic` of JSON; NaN and infinity are refused, they are not JSON."""
    text = json.dumps(value, indent=1, allow_nan=False)
    write_atomic(path, lambda file: file.write(text.encode()))


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `metrics.jsonl`, one dictionary an epoch. A torn last line is left out."""
    return schema.lines(path, AGAIN)


def score(record: Mapping[str, Any] | None) -> float | None:
    """Return the reported number of a training: mIoU in % of the student, last epoch, protocol `crop`. None where there
    is no record, or no mask to score by."""
    value: float | None = None if record is None else record["metrics"]["student"]["crop"]["miou"]
    return value


def reason(error: Exception) -> str:
    """Return one line for people: the message, with the type before it unless the message was written for them."""
    if isinstance(error, InputError | StageFailed):
        return str(error)
    text = system_error(error) if isinstance(error, OSError) else str(error)
    return f"{type(error).__name__}: {text}".splitlines()[0]


def now() -> str:
    """Return the time in UTC to the second; such texts sort by time."""
    return datetime.now(UTC).isoformat(timespec="seconds")
