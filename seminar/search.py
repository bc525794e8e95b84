"""All that is Optuna's: studies and where they are kept, which trials wait in them, samplers and pruners by name.

The default place of a study is a journal file beside the trainings. For many machines it is a database, whose
heartbeats show which workers died elsewhere. Either may be deleted between two calls: the store and the files of the
trials alone decide what is done. A training never depends on its study (`tolerant`).

What a call makes of a trial that it finds (`prepare_grid`, `prepare_search`), by its state in the study:

state      what is there beside it           a grid                  a search
none       a cell or trial is to do          queues it               queues it
WAITING                                      leaves it               leaves it
RUNNING    its worker is alive (`alive`)     leaves it               leaves it
RUNNING    its worker is dead                FAIL, queues it again   FAIL, queues its point again
COMPLETE   the record of its training        leaves it               leaves it
COMPLETE   that record is gone               queues it again         drops its file, queues its point again
PRUNED     its file                          (has none)              leaves it
FAIL       its file: diverged or refused     (has none)              leaves it
FAIL       no file: stopped or dead          queues it again         queues its point again, once
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import itertools
import json
import socket
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import optuna
import sqlalchemy
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from seminar import provenance
from seminar.catalogue import Cell
from seminar.parts import Registry
from seminar.spec import InputError, Scalar
from seminar.store import Interrupted, Store, locked, score, write_atomic
from seminar.sweep import Halving, Range, Sweep
from seminar.text import file_name
from seminar.trials import Trial, Tuning

DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""Databases that can be shared, and the driver of each where the URL names none."""
HEARTBEAT, GRACE = 60, 300
"""Seconds between two heartbeats of a trial in a database, and how many seconds without one count as dead."""
AWAY = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
"""What Optuna raises where a database cannot be reached."""
T = TypeVar("T")
METRIC = "student_miou"
"""What the value of a trial is: mIoU in % of the student, last epoch; the name that curves and W&B have for it."""
ARTIFACTS = "artifacts"
"""The folder, beside the studies, with the sample pictures of trials for `optuna-dashboard --artifact-dir`."""
RETRIES = 2
"""How often a trial whose worker died is handed out again without a new call."""
SAMPLER = {"random": "random", "bayes": "tpe"}
"""The sampler of each `method` of a search where no other is requested."""

samplers: Registry[Callable[[int], BaseSampler]] = Registry("sampler")
"""What chooses the points of a search: `make(seed)`. Each worker has one of its own."""
pruners: Registry[Callable[[Halving | None], BasePruner]] = Registry("pruner")
"""What ends bad trials early: `make(halving)`, with the `early_terminate` of the sweep file (None: it has none)."""


@samplers.register("random")
def random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


@samplers.register("tpe")
def tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


@samplers.register("gp")
def gp(seed: int) -> BaseSampler:
    import scipy  # noqa: F401 - GPSampler itself would notice only at its first trial that it is missing

    return GPSampler(seed=seed)


def sampler(name: str, seed: int) -> BaseSampler:
    """Make the sampler `name`. Raises `InputError` for a name that is not registered, or a missing library."""
    try:
        with _experimental():
            return samplers[name].make(seed)
    except ImportError as error:
        raise InputError(
            f"--sampler {name}: the library {error.name!r} is missing; install it (pip install {error.name})"
        ) from None


def chosen(sweep: Sweep, sampler_name: str | None, pruner_name: str | None) -> tuple[str, str]:
    """Return the names of the sampler and the pruner of a search; None: those of its file. Raises
    `InputError` for one that cannot be used."""
    sampled = sampler_name or SAMPLER[sweep.method]
    pruned = pruner_name or ("none" if sweep.halving is None else "hyperband")
    sampler(sampled, 0)
    pruners[pruned].make(sweep.halving)
    return sampled, pruned


@pruners.register("none")
def none(halving: Halving | None) -> BasePruner:
    return NopPruner()


@pruners.register("hyperband")
def hyperband(halving: Halving | None) -> BasePruner:
    """End trials as W&B's `hyperband` of one bracket does, which is successive halving."""
    if halving is None:
        raise InputError("--pruner hyperband: the sweep file sets its numbers; write early_terminate there")
    return SuccessiveHalvingPruner(min_resource=halving.min_iter, reduction_factor=halving.eta)


@pruners.register("median")
def median(halving: Halving | None) -> BasePruner:
    """End a trial that is below the median of the others at the same evaluation, once 5 trials have ended."""
    return MedianPruner()


def storage_url(text: str) -> str:
    """Return the URL of a database for many workers, with its driver. Raises `InputError` for any other text."""
    url, shown = _parsed(text), without_password(text)
    if url is None:
        raise InputError("--storage: that is no URL; write postgresql://USER@HOST/DATABASE or mysql://...")
    if _is_ambiguous(text):
        raise InputError("--storage: the password holds @; write %40 for @, %2F for / and %3F for ? in it")
    kind = url.get_backend_name()
    if kind == "sqlite":
        raise InputError(
            f"--storage {shown}: SQLite hands one trial to two workers; leave --storage away (a journal file in the "
            "folder of runs), or take postgresql:// or mysql://"
        )
    if kind not in DRIVERS:
        raise InputError(f"--storage {shown}: {kind!r} is none of {', '.join(DRIVERS)}")
    if "+" not in url.drivername:
        url = url.set(drivername=f"{url.drivername}+{DRIVERS[kind]}")
    return url.render_as_string(hide_password=False)


def without_password(text: str) -> str:
    """Return a URL that may be shown and recorded: also without its options, which may hold passwords."""
    url = _parsed(text)
    if url is None or _is_ambiguous(text):
        return "***"
    return url.set(query={}).render_as_string(hide_password=True)


def _is_ambiguous(text: str) -> bool:
    """Return whether a part of a password may be taken for the host, the database or an option: only one `@` is the
    one before the host."""
    return text.count("@") > 1


def _parsed(text: str) -> sqlalchemy.engine.URL | None:
    try:
        return sqlalchemy.engine.make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None


@dataclass(frozen=True)
class OpenStudy:
    """A study that this process has opened, and the database that holds it (None: a journal file)."""

    study: optuna.Study
    database: RDBStorage | None

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in these states (none given: all), by number."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def describe(self, sweep: str, cells: Iterable[Cell]) -> None:
        """Write into the study what it is about, for dashboards and for whoever reads it without this project."""
        data = {f"{cell.stage.data.name}: {cell.stage.data_fingerprint}" for cell in cells}
        facts = {"sweep": sweep, "commit": provenance.COMMIT, "data": sorted(data)}
        known = self.study.user_attrs
        for name, value in facts.items():  # every call opens the study, and a journal keeps all that was ever written
            if known.get(name) != value:
                self.study.set_user_attr(name, value)
        if self.study.metric_names != [METRIC]:
            with _experimental():
                self.study.set_metric_names([METRIC])

    def heal(self) -> None:
        """Hand out again the trials whose heartbeats in a database have stopped."""
        with _experimental():
            optuna.storages.fail_stale_trials(self.study)

    def ask(self, given: Mapping[str, BaseDistribution]) -> optuna.Trial | None:
        """Return the next trial that waits, with parameters from the `given` distributions; None where none waits."""
        self.heal()
        while self.trials(TrialState.WAITING):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="Heartbeat of storage")  # `heartbeat` sends it
                trial = self.study.ask(dict(given))
            self.beat(trial)  # before `host` is set: from then on only heartbeats show that it is alive
            if trial.user_attrs.get("queued"):
                trial.set_user_attr("host", socket.gethostname())
                return trial
            # Another worker took the last waiting trial in between, so Optuna made a new one.
            self.study.tell(trial, state=TrialState.FAIL)
        return None

    @contextmanager
    def heartbeat(self, trial: optuna.Trial) -> Iterator[None]:
        """Send a heartbeat of a trial every `HEARTBEAT` seconds to a database; a journal has none.

        `Study.optimize` of optuna 5.0.0 cannot do it here: its thread ends with the first heartbeat that fails, and it
        raises `AssertionError` where the trial was given to another worker meanwhile.
        """
        if self.database is None:
            yield
            return
        ended = threading.Event()

        def beats() -> None:
            while not ended.wait(HEARTBEAT):
                with suppress(*AWAY):
                    self.beat(trial)

        thread = threading.Thread(target=beats, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def beat(self, trial: optuna.Trial) -> None:
        """Send one heartbeat of a trial."""
        if self.database is not None:
            study = self.database.get_study_id_from_name(self.study.study_name)
            self.database.record_heartbeat(self.database.get_trial_id_from_study_id_trial_number(study, trial.number))

    def hand_out_again(self, trial: optuna.Trial) -> None:
        """Leave a trial, whose worker was requested to stop, to others; nothing where another worker has it already."""
        found = self.trials()[trial.number]
        if found.state == TrialState.RUNNING:
            self.study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
            _repeat(self.study, found)


class _Journal(JournalFileBackend):
    """Optuna's journal file. Its errors name the file, for example when the disk is full."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        try:
            super().append_logs(logs)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._path) from error


@dataclass(frozen=True)
class StudyLocation:
    """A study by name, and where it is kept: `storage` is the URL of a database; None: a journal file in `folder`.

    Every process opens it for itself. In a database the study belongs to this folder alone, wherever it is mounted.
    """

    name: str
    folder: Path
    storage: str | None = field(default=None, repr=False)

    @property
    def journal(self) -> Path:
        # An absolute path: Optuna's lock is a link to the journal, and a relative one would dangle and never time out.
        return (self.folder / f"{self.name}.journal").resolve()

    @property
    def study_name(self) -> str:
        return self.name if self.storage is None else f"{self.name}-{self._id.read_text(encoding='ascii')}"

    @property
    def _id(self) -> Path:
        return self.folder / "id"

    def open(self, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> OpenStudy:
        """Open the study, or make it. Raises `InputError` where the database cannot be reached."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        database = None if self.storage is None else _database(self.storage)
        study = optuna.create_study(
            storage=database or JournalStorage(_Journal(str(self.journal))),
            study_name=self.study_name,
            direction="maximize",
            load_if_exists=True,
            sampler=sampler or RandomSampler(seed=0),
            pruner=pruner or NopPruner(),
        )
        return OpenStudy(study, database)

    @contextmanager
    def prepared(self) -> Iterator[OpenStudy]:
        """Open the study under a lock, so that two calls never prepare it at once. Trials whose worker died are handed
        out again first."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # One lock for all studies: two that make the tables of a new database at once would be in each other's way.
        with locked(self.folder / "lock"):
            self._set_damaged_journal_aside()
            if self.storage is not None and not self._id.exists():
                write_atomic(self._id, lambda file: file.write(uuid4().hex[:8].encode()))
            opened = self.open()
            opened.heal()
            yield opened

    def alive(self, trial: FrozenTrial, keys: Collection[str], store: Store) -> bool:
        """Return whether a worker is at a trial that was handed out and whose trainings are `keys`."""
        if self.storage is not None and trial.user_attrs.get("host") not in (None, socket.gethostname()):
            return True  # else its heartbeats would have stopped, see `heal`
        # Locks end with their process, on every host that shares the folder.
        return any(store.status(key) == "running" for key in keys)

    def _set_damaged_journal_aside(self) -> None:
        """A full disk tears a line of the journal, and Optuna cannot read on behind it."""
        if self.storage is not None or not self.journal.exists():
            return
        lock = JournalFileSymlinkLock(str(self.journal))  # a line that is being written is not torn
        lock.acquire()
        try:
            text = self.journal.read_bytes()
            try:
                whole = not text or (text.endswith(b"\n") and all(map(json.loads, text.splitlines())))
            except ValueError:
                whole = False
            if not whole:
                taken = {path.name for path in self.folder.iterdir()}
                names = (f"{self.name}.damaged{f'-{n}' if n > 1 else ''}" for n in itertools.count(1))
                aside = self.journal.with_name(next(name for name in names if name not in taken))
                self.journal.replace(aside)
                warnings.warn(
                    f"{self.journal}: damaged, now {aside.name}; no result is lost", RuntimeWarning, stacklevel=2
                )
        finally:
            lock.release()


def _database(url: str) -> RDBStorage:
    """Connect to a database. Raises `InputError` where its driver is missing or it cannot be reached."""
    shown = without_password(url)
    try:
        with _experimental():
            return RDBStorage(
                url,
                # Trials are rare and workers many: none keeps a connection open in between, or stumbles over one that
                # a restart of the database has cut.
                engine_kwargs={"poolclass": sqlalchemy.pool.NullPool},
                heartbeat_interval=HEARTBEAT,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=_repeat_dead,
            )
    except ImportError:
        driver = sqlalchemy.engine.make_url(url).get_driver_name()
        raise InputError(
            f"--storage {shown}: the driver {driver!r} is missing (pip install 'seminar-learning[cluster]' brings "
            f"{', '.join(sorted(set(DRIVERS.values())))})"
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, RuntimeError) as error:
        why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
        raise InputError(f"--storage {shown}: the database cannot be reached or used: {why}") from None


@contextmanager
def _experimental() -> Iterator[None]:
    """Use what Optuna calls experimental, knowingly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


@contextmanager
def tolerant() -> Iterator[None]:
    """Ignore Optuna's errors while a training is running: its database is away, or the trial was given to another
    worker because no heartbeat came through. The training must not depend on either."""
    with suppress(UpdateFinishedTrialError, *AWAY):
        yield


def keep_pictures(trial: optuna.Trial, samples: Path, studies: Path) -> None:
    """Keep the sample pictures of a finished training with its trial, for the dashboard. A training depends on neither
    its study nor the room for them."""
    try:
        folder = studies / ARTIFACTS
        folder.mkdir(parents=True, exist_ok=True)
        kept = FileSystemArtifactStore(folder)
        with tolerant():
            for path in sorted(samples.glob("*.png")):
                upload_artifact(artifact_store=kept, file_path=str(path), study_or_trial=trial)
    except OSError as error:
        warnings.warn(f"pictures for Optuna's dashboard: {error}; left out", RuntimeWarning, stacklevel=2)


def patiently(call: Callable[[], T], stopped: Callable[[], bool]) -> T:
    """Return the result of `call`; try it again for some minutes where a database is away."""
    for pause in (1, 4, 15, 30, 60, 60, 60, 60):
        try:
            return call()
        except AWAY as error:
            why = str(error).splitlines()[0]
            warnings.warn(f"Optuna's database: {why}; trying again in {pause} s", RuntimeWarning, stacklevel=2)
        for _ in range(2 * pause):
            if stopped():
                raise Interrupted
            time.sleep(0.5)
    return call()


def _repeat_dead(study: optuna.Study, trial: FrozenTrial) -> None:
    """Queue a trial again after its worker died, at most `RETRIES` times. Do nothing if its result was kept already, or
    if it was not queued by this suite."""
    if trial.user_attrs.get("queued") and "kept" not in trial.user_attrs:
        _repeat(study, trial, RETRIES)


def _repeat(study: optuna.Study, trial: FrozenTrial, limit: int | None = None) -> None:
    """Queue a trial again at its point. `limit`: not if it was repeated so often already, for whatever reason."""
    new = copy.deepcopy(trial)
    kept = {name: value for name, value in trial.user_attrs.items() if name in ("queued", "key")}
    new.user_attrs = {**kept, "repeats": trial.number}
    with _experimental():
        RetryHeartbeatStaleTrialCallback(max_retry=limit)(study, new)


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Return what a search chooses from, as Optuna's distributions."""
    return {name: _distribution(span) for name, span in sweep.space.items()}


def _distribution(span: Range | tuple[Scalar, ...]) -> BaseDistribution:
    if not isinstance(span, Range):
        return CategoricalDistribution(span)
    if span.whole:
        return IntDistribution(int(span.low), int(span.high))
    return FloatDistribution(span.low, span.high, log=span.log)


def prepare_search(tuning: Tuning, store: Store, storage: str | None) -> tuple[StudyLocation, int]:
    """Heal the study of a search and queue as many trials as are left: the profile's own values, the trials of stopped
    or dead workers, the trials that lost their record, and new ones.

    Returns the queue, and the number of trials that the study had before.
    """
    with search_study(tuning, store, storage) as (queue, opened):
        trials = opened.trials()
        lost, left = tuning.lost(store.record), tuning.left(store.record)
        for gone in lost:
            tuning.drop(gone)
        again: list[tuple[dict[str, Any], FrozenTrial | None]] = [(dict(gone.point), None) for gone in lost]
        if tuning.own_point is not None:
            again.append((tuning.own_point, None))
        running: list[dict[str, Any]] = []
        repeated = {trial.user_attrs.get("repeats") for trial in trials}
        for trial in trials:
            if trial.state == TrialState.WAITING or (
                trial.state == TrialState.RUNNING and (_fresh(trial) or queue.alive(trial, _chain(trial), store))
            ):
                running.append(trial.params or trial.system_attrs.get("fixed_params", {}))
                continue
            if trial.state == TrialState.RUNNING:
                opened.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            elif trial.state != TrialState.FAIL:
                continue
            queued = trial.user_attrs.get("queued") and set(trial.params) == set(tuning.space)
            if queued and "kept" not in trial.user_attrs and trial.number not in repeated:
                again.append((dict(trial.params), trial))
        known = [*running, *(trial.point for trial in tuning.trials())]
        chosen: list[tuple[dict[str, Any], FrozenTrial | None]] = []
        for point, died in again:
            if point not in known:
                known.append(point)
                chosen.append((point, died))
        chosen += [({}, None)] * left
        for point, died in chosen[: max(0, left - len(running))]:
            if died is None:
                opened.study.enqueue_trial(point, user_attrs={"queued": True})
            else:
                _repeat(opened.study, died)
    return queue, len(trials)


@contextmanager
def search_study(tuning: Tuning, store: Store, storage: str | None) -> Iterator[tuple[StudyLocation, OpenStudy]]:
    """Open the study of a search under a lock, and add to it every trial that is kept in a file. A finished training
    of the search that has no trial becomes one (`Tuning.elsewhere`)."""
    queue = StudyLocation(tuning.name, tuning.folder.parent, storage)
    with queue.prepared() as opened:
        opened.describe(tuning.sweep.name, [tuning.own])
        count = len(opened.trials())
        for trial in tuning.trials():
            if trial.number < count:
                continue
            for _ in range(count, trial.number):  # numbers of trials stay what they were
                opened.study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"kept": True}))
            _add_kept(trial, tuning, opened.study, store)
            count = trial.number + 1
        _adopt(tuning, opened, store)
        yield queue, opened


def _adopt(tuning: Tuning, opened: OpenStudy, store: Store) -> None:
    """Make trials of the finished trainings of a search that have none. A training that a trial of the study made, and
    whose worker has died before it kept the trial, is left to `prepare_search`."""
    found = tuning.elsewhere(store.keys(), store.record)
    made = {trial.user_attrs.get("key") for trial in opened.trials() if not trial.user_attrs.get("elsewhere")}
    added = {trial.user_attrs.get("key") for trial in opened.trials()}
    for one in found:
        if one.key in made:
            continue
        if one.key not in added:
            _add_kept(one, tuning, opened.study, store)
        # Workers of another call may have taken numbers meanwhile.
        number = next(trial.number for trial in opened.trials() if trial.user_attrs.get("key") == one.key)
        tuning.keep(dataclasses.replace(one, number=number))


def _add_kept(trial: Trial, tuning: Tuning, study: optuna.Study, store: Store) -> None:
    """Add a kept trial to a study that lacks it."""
    value = score(store.record(trial.key)) if trial.state == "done" else None
    states = {"done": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}
    lines = [line for line in store.curve(trial.key) if line["epoch"] <= trial.epoch] if trial.key else []
    scores = [line["student_miou"] for line in lines if line.get("student_miou") is not None]
    study.add_trial(
        optuna.trial.create_trial(
            state=states[trial.state] if trial.state != "done" or value is not None else TrialState.FAIL,
            params=dict(trial.point),
            distributions=distributions(tuning.sweep),
            value=value,
            intermediate_values=dict(enumerate(scores, 1)),
            user_attrs={"key": trial.key, "kept": True, "elsewhere": trial.elsewhere},
        )
    )


def _chain(trial: FrozenTrial) -> Sequence[str]:
    """Return the keys of the trainings of a trial of a search; empty until its worker has written them down."""
    chain: Sequence[str] = trial.user_attrs.get("chain", ())
    return chain


def _fresh(trial: FrozenTrial) -> bool:
    """Return whether a trial was handed out so lately that its worker has not written down its trainings yet."""
    start = trial.datetime_start  # of a clock that may have been set since
    return not _chain(trial) and start is not None and abs(time.time() - start.timestamp()) < 60


def importances(study: optuna.Study) -> dict[str, float]:
    """Return shares by PED-ANOVA over the trials that were not ended early; empty for too few, or all alike."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in done}) < 2:
        return {}
    with _experimental():
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def prepare_grid(
    sweep: str, cells: Sequence[Cell], order: Sequence[Cell], todo: Collection[str], store: Store, storage: str | None
) -> StudyLocation:
    """Open the study of these very `cells`, hand out again what dead workers left, and queue the cells of `order`.

    `todo`: the keys of the trainings that the store lacks; the others are added to the study as complete.
    """
    choices = spaces(cells)
    by_key = {cell.stage.key: cell for cell in cells}
    identity = json.dumps([sorted(by_key), choices], sort_keys=True)
    name = f"{file_name(sweep)}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    queue = StudyLocation(name, store.root / "studies", storage)
    with queue.prepared() as opened:
        opened.describe(sweep, cells)
        taken: dict[str, TrialState] = {}
        for trial in opened.trials():
            key = trial.user_attrs.get("key", "")
            running = trial.state == TrialState.RUNNING and key in by_key
            if running and not queue.alive(trial, [stage.key for stage in by_key[key].stage.chain], store):
                opened.study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            elif trial.state in (TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING):
                taken[key] = trial.state
        for key, cell in by_key.items():
            value = None if key in todo else score(store.record(key))  # Optuna knows no missing value
            if value is not None and taken.get(key) != TrialState.COMPLETE:
                opened.study.add_trial(
                    optuna.trial.create_trial(
                        params=dict(cell.point),
                        distributions={name: CategoricalDistribution(choices[name]) for name in cell.point},
                        value=value,
                        user_attrs={"key": key},
                    )
                )
        for cell in order:
            # A trial that was completed although the store has no record: the record was deleted, train it again.
            if taken.get(cell.stage.key) in (None, TrialState.COMPLETE):
                opened.study.enqueue_trial(dict(cell.point), user_attrs={"key": cell.stage.key, "queued": True})
    return queue


def spaces(cells: Sequence[Cell]) -> dict[str, list[Any]]:
    """Return the values that each setting has among the points of the cells."""
    found: dict[str, list[Any]] = {}
    for cell in cells:
        for name, value in cell.point.items():
            if value not in found.setdefault(name, []):
                found[name].append(value)
    return found
