"""Optuna's studies: where they are kept, and what is handed out.

The default is a journal file beside the trainings. For many machines it is a database, whose heartbeats tell of workers
that died elsewhere. Either may be deleted between two calls: what is done is decided by the store and the files of the
trials alone. That a study cannot be told of a training is no reason to lose the training (`tolerant`).
"""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from seminar.catalogue import Cell
from seminar.spec import InputError, Scalar
from seminar.store import Interrupted, Store, score, write_atomic
from seminar.sweep import Range, Sweep
from seminar.tuning import Trial, Tuning

DRIVERS = {"postgresql": "psycopg", "mysql": "pymysql", "mariadb": "pymysql"}
"""Databases that can be shared, and the driver of each where the URL names none."""
HEARTBEAT, GRACE = 60, 300
"""Seconds between two signs of life in a database, and after how many without one a trial is given to somebody else."""
AWAY = (StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
"""What a database that cannot be reached leads to."""
T = TypeVar("T")
RETRIES = 2
"""How often a trial whose worker died is handed out again without a new call."""


def storage_url(text: str) -> str:
    """The URL of a database for many workers, with its driver. Raises `InputError` for one that is none."""
    url, shown = _parsed(text), without_password(text)
    if url is None:
        raise InputError("--storage: that is no URL; write postgresql://USER@HOST/DATABASE or mysql://...")
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
    """A URL as it may be shown and recorded: without its options, in which there can be passwords as well."""
    url = _parsed(text)
    if url is None or "@" in (url.host or ""):  # where a password is not where it should be
        return "***"
    return url.set(query={}).render_as_string(hide_password=True)


def _parsed(text: str) -> sqlalchemy.engine.URL | None:
    try:
        return sqlalchemy.engine.make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None


@dataclass(frozen=True)
class Queue:
    """A study by name, and where it is kept: `storage` is the URL of a database; None: a journal file in `folder`.

    Every process opens it for itself. In a database it is a study of this folder alone, however it is mounted.
    """

    name: str
    folder: Path
    storage: str | None = None

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

    def open(self, sampler: BaseSampler | None = None, pruner: BasePruner | None = None) -> optuna.Study:
        """The study. Raises `InputError` where the database cannot be reached."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(
            storage=self._storage(),
            study_name=self.study_name,
            direction="maximize",
            load_if_exists=True,
            sampler=sampler or RandomSampler(seed=0),
            pruner=pruner or NopPruner(),
        )

    @contextmanager
    def prepared(self) -> Iterator[optuna.Study]:
        """The study, with nobody else preparing it meanwhile; what died elsewhere has been handed out again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # One lock for all studies: two that make the tables of a new database at once would be in each other's way.
        with FileLock(self.folder / "lock"):
            self._set_damaged_journal_aside()
            if self.storage is not None and not self._id.exists():
                write_atomic(self._id, lambda file: file.write(uuid4().hex[:8].encode()))
            study = self.open()
            heal(study)
            yield study

    def alive(self, trial: FrozenTrial, keys: Collection[str], store: Store) -> bool:
        """Whether somebody is at a trial that was handed out and whose trainings are `keys`."""
        if self.storage is not None and trial.user_attrs.get("host") not in (None, socket.gethostname()):
            return True  # else its heartbeats would have stopped, see `heal`
        # Locks end with their process, on every host that shares the folder.
        return any(store.status(key) == "running" for key in keys)

    @contextmanager
    def heartbeat(self, study: optuna.Study, trial: optuna.Trial) -> Iterator[None]:
        """Tell the database every `HEARTBEAT` seconds that somebody is at a trial; a journal needs no telling."""
        if self.storage is None:
            yield
            return
        ended = threading.Event()

        def beats() -> None:
            while not ended.wait(HEARTBEAT):
                with suppress(*AWAY):
                    _beat(study, trial)

        thread = threading.Thread(target=beats, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

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
                aside = self.journal.with_suffix(".damaged")
                self.journal.replace(aside)
                warnings.warn(
                    f"{self.journal}: damaged, now {aside.name}; no result is lost", RuntimeWarning, stacklevel=2
                )
        finally:
            lock.release()

    def _storage(self) -> BaseStorage:
        if self.storage is None:
            return JournalStorage(JournalFileBackend(str(self.journal)))
        shown = without_password(self.storage)
        try:
            with _experimental():
                return RDBStorage(
                    self.storage,
                    # Trials are rare and workers many: none keeps a connection open in between, or stumbles over one
                    # that a restart of the database has cut.
                    engine_kwargs={"poolclass": sqlalchemy.pool.NullPool},
                    heartbeat_interval=HEARTBEAT,
                    grace_period=GRACE,
                    heartbeat_stale_trial_callback=_again,
                )
        except ImportError:
            driver = sqlalchemy.engine.make_url(self.storage).get_driver_name()
            raise InputError(
                f"--storage {shown}: the driver {driver!r} is missing (pip install 'seminar-learning[cluster]' brings "
                f"{', '.join(sorted(set(DRIVERS.values())))})"
            ) from None
        except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError, RuntimeError) as error:
            why = str(getattr(error, "orig", None) or error).strip().splitlines()[0]
            raise InputError(f"--storage {shown}: {why}") from None


@contextmanager
def _experimental() -> Iterator[None]:
    """Use what Optuna calls experimental, knowingly."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def heal(study: optuna.Study) -> None:
    """Hand out again what workers had begun whose heartbeats in a database have stopped."""
    with _experimental():
        optuna.storages.fail_stale_trials(study)


def ask(study: optuna.Study, given: Mapping[str, BaseDistribution]) -> optuna.Trial | None:
    """The next trial of the queue, with what it is `given`; None where nothing waits."""
    heal(study)
    while study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Heartbeat of storage")  # `Queue.heartbeat` tells of it
            trial = study.ask(dict(given))
        _beat(study, trial)  # before it says whose it is: from then on only its heartbeats tell that it is alive
        if trial.user_attrs.get("queued"):
            trial.set_user_attr("host", socket.gethostname())
            return trial
        study.tell(trial, state=TrialState.FAIL)  # somebody took the last one in between, and this is a new one
    return None


def _beat(study: optuna.Study, trial: optuna.Trial) -> None:
    # There is no public way to the storage of a study; `Study.optimize` does it so. A journal knows no heartbeats.
    if hasattr(study._storage, "record_heartbeat"):
        study._storage.record_heartbeat(trial._trial_id)


@contextmanager
def tolerant() -> Iterator[None]:
    """What a study cannot be told of a training in work is left out: a database is away, or the trial was given to
    somebody else because no sign of life came through."""
    with suppress(UpdateFinishedTrialError, *AWAY):
        yield


def patiently(call: Callable[[], T], asked_to_stop: Callable[[], bool]) -> T:
    """The result of `call`, which is tried again for some minutes where a database is away."""
    for pause in (1, 4, 15, 30, 60, 60, 60, 60):
        try:
            return call()
        except AWAY as error:
            why = str(error).splitlines()[0]
            warnings.warn(f"Optuna's database: {why}; trying again in {pause} s", RuntimeWarning, stacklevel=2)
        for _ in range(2 * pause):
            if asked_to_stop():
                raise Interrupted
            time.sleep(0.5)
    return call()


def hand_out_again(study: optuna.Study, trial: optuna.Trial) -> None:
    """Leave a trial, whose worker is asked to stop, to others; nothing where it is another's already."""
    if study.get_trials(deepcopy=False)[trial.number].state == TrialState.RUNNING:
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        _enqueue(study, trial.number, trial.params, trial.user_attrs)


def _again(study: optuna.Study, trial: FrozenTrial) -> None:
    """Hand out a trial again whose worker died; one that had ended, or that nobody asked for, is none."""
    died = trial.user_attrs.get("died", 0) + 1
    if died <= RETRIES and "kept" not in trial.user_attrs and trial.user_attrs.get("queued"):
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        _enqueue(study, trial.number, params, {**trial.user_attrs, "died": died})


def _enqueue(study: optuna.Study, number: int, params: dict[str, Any], attributes: Mapping[str, Any]) -> None:
    kept = {name: value for name, value in attributes.items() if name != "host"}
    study.enqueue_trial(params, user_attrs={**kept, "repeats": number})


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """What a search chooses from, for Optuna."""
    return {word: _distribution(span) for word, span in sweep.space.items()}


def _distribution(span: Range | tuple[Scalar, ...]) -> BaseDistribution:
    if not isinstance(span, Range):
        return CategoricalDistribution(span)
    if span.whole:
        return IntDistribution(int(span.low), int(span.high))
    return FloatDistribution(span.low, span.high, log=span.log)


def prepare_search(tuning: Tuning, store: Store, storage: str | None) -> tuple[Queue, int]:
    """Heal the study of a search and enqueue as many trials as are left: the profile's own values, what stopped or dead
    workers had begun, what lost its record, and free ones.

    Returns it and the number of its trials so far.
    """
    with search_study(tuning, store, storage) as (queue, study):
        trials = study.get_trials(deepcopy=False)
        lost, left = tuning.lost(store.record), tuning.left(store.record)
        for gone in lost:
            tuning.drop(gone)
        again: list[tuple[dict[str, Any], int | None]] = [(dict(gone.point), None) for gone in lost]
        if tuning.own_point is not None:
            again.append((tuning.own_point, None))
        in_work: list[dict[str, Any]] = []
        repeated = {trial.user_attrs.get("repeats") for trial in trials}
        for trial in trials:
            if trial.state == TrialState.WAITING or (
                trial.state == TrialState.RUNNING and (_fresh(trial) or queue.alive(trial, _chain(trial), store))
            ):
                in_work.append(trial.params or trial.system_attrs.get("fixed_params", {}))
                continue
            if trial.state == TrialState.RUNNING:
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            elif trial.state != TrialState.FAIL:
                continue
            asked = trial.user_attrs.get("queued") and set(trial.params) == set(tuning.space)
            if asked and "kept" not in trial.user_attrs and trial.number not in repeated:
                again.append((dict(trial.params), trial.number))
        known = [*in_work, *(trial.point for trial in tuning.trials())]
        chosen: list[tuple[dict[str, Any], int | None]] = []
        for point, number in again:
            if point not in known:
                known.append(point)
                chosen.append((point, number))
        chosen += [({}, None)] * left
        for point, number in chosen[: max(0, left - len(in_work))]:
            study.enqueue_trial(point, user_attrs={"queued": True, "repeats": number})
    return queue, len(trials)


@contextmanager
def search_study(tuning: Tuning, store: Store, storage: str | None) -> Iterator[tuple[Queue, optuna.Study]]:
    """The study of a search, told of every trial that is kept, with nobody else at it."""
    queue = Queue(tuning.name, tuning.folder.parent, storage)
    with queue.prepared() as study:
        count = len(study.get_trials(deepcopy=False))
        for trial in tuning.trials():
            if trial.number < count:
                continue
            for _ in range(count, trial.number):  # numbers of trials stay what they were
                study.add_trial(optuna.trial.create_trial(state=TrialState.FAIL, user_attrs={"kept": True}))
            _tell_of(trial, tuning, study, store)
            count = trial.number + 1
        yield queue, study


def _tell_of(trial: Trial, tuning: Tuning, study: optuna.Study, store: Store) -> None:
    """Tell Optuna of a kept trial that its study lacks."""
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
            user_attrs={"key": trial.key, "kept": True},
        )
    )


def _chain(trial: FrozenTrial) -> Sequence[str]:
    """The keys of the trainings of a trial of a search, once it has told them."""
    chain: Sequence[str] = trial.user_attrs.get("chain", ())
    return chain


def _fresh(trial: FrozenTrial) -> bool:
    """Whether a trial was handed out so lately that it has not told its trainings yet."""
    begun = trial.datetime_start  # of a clock that may have been set since
    return not _chain(trial) and begun is not None and abs(time.time() - begun.timestamp()) < 60


def importances(study: optuna.Study) -> dict[str, float]:
    """Shares by PED-ANOVA, over the trials that were not ended early; empty where these are too few or all alike."""
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in done}) < 2:
        return {}
    with _experimental():
        return get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())


def prepare_grid(
    sweep: str, cells: Sequence[Cell], order: Sequence[Cell], todo: Collection[str], store: Store, storage: str | None
) -> Queue:
    """Open the study of these very `cells`, heal what dead workers left, and enqueue those of `order`.

    `todo`: the keys of the trainings that the store lacks; Optuna is told of the others.
    """
    choices = spaces(cells)
    by_key = {cell.stage.key: cell for cell in cells}
    identity = json.dumps([sorted(by_key), choices], sort_keys=True)
    name = f"{sweep}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"
    queue = Queue(name, store.root / "studies", storage)
    with queue.prepared() as study:
        taken: dict[str, TrialState] = {}
        for trial in study.get_trials(deepcopy=False):
            key = trial.user_attrs.get("key", "")
            running = trial.state == TrialState.RUNNING and key in by_key
            if running and not queue.alive(trial, [stage.key for stage in by_key[key].stage.chain], store):
                study.tell(trial.number, state=TrialState.FAIL, skip_if_finished=True)
            elif trial.state in (TrialState.COMPLETE, TrialState.WAITING, TrialState.RUNNING):
                taken[key] = trial.state
        for key, cell in by_key.items():
            value = None if key in todo else score(store.record(key))  # Optuna knows no missing value
            if value is not None and taken.get(key) != TrialState.COMPLETE:
                study.add_trial(
                    optuna.trial.create_trial(
                        params=dict(cell.point),
                        distributions={word: CategoricalDistribution(choices[word]) for word in cell.point},
                        value=value,
                        user_attrs={"key": key},
                    )
                )
        for cell in order:
            # A trial that was completed although the store has no record: the record was deleted, train it again.
            if taken.get(cell.stage.key) in (None, TrialState.COMPLETE):
                study.enqueue_trial(dict(cell.point), user_attrs={"key": cell.stage.key, "queued": True})
    return queue


def spaces(cells: Sequence[Cell]) -> dict[str, list[Any]]:
    """The values that each word has among the cells."""
    found: dict[str, list[Any]] = {}
    for cell in cells:
        for word, value in cell.point.items():
            if value not in found.setdefault(word, []):
                found[word].append(value)
    return found
