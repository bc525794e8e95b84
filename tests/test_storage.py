"""Studies in a database that many machines share: a real PostgreSQL, started here where it is installed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from seminar import jobs, recipes, search, sweep
from seminar.catalogue import Cell
from seminar.search import StudyLocation
from seminar.spec import InputError
from seminar.store import Store
from seminar.trials import Tuning
from tests.conftest import ROOT, Said, seminar_here, until_checkpoint

LOSSES = ROOT / "sweeps" / "losses.yaml"
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs; Debian keeps them out of the PATH."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return folders[-1] if folders and (folders[-1] / "initdb").exists() else None


class Database:
    """A PostgreSQL of its own, on a socket in its folder."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        # It refuses to run as root.
        self.user: dict[str, Any] = {}
        if os.getuid() == 0:
            self.user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(folder, "nobody", "nogroup")
        self.run("initdb", "--auth=trust", "--username=seminar", "--no-sync", "-D", str(folder / "data"))
        self.start()
        self.url = f"postgresql://seminar:secret@/postgres?host={folder}"

    def run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.programs / program, *arguments], cwd=self.folder, capture_output=True, text=True, **self.user
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        options = f"-c listen_addresses='' -c fsync=off -k {self.folder}"
        log = str(self.folder / "log")
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-l", log, "-w", "-o", options, "start")

    def stop(self) -> None:
        self.run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "-w", "stop")

    def execute(self, text: str) -> list[Any]:
        """The first column of what a statement gives."""
        engine = sqlalchemy.create_engine(search.storage_url(self.url))
        with engine.begin() as connection:
            result = connection.execute(sqlalchemy.text(text))
            rows = [row[0] for row in result] if result.returns_rows else []
        engine.dispose()
        return rows


@pytest.fixture(scope="module")
def server() -> Iterator[Database]:
    programs = binaries()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    with tempfile.TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # a socket's path must be short
        found = Database(Path(folder), programs)
        yield found
        found.stop()


@pytest.fixture
def database(server: Database) -> Database:
    server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    return server


def arguments(*settings: str, runs: Path, storage: str, file: Path = LOSSES) -> list[str]:
    rest = ["--runs", str(runs), "--storage", storage, "--wandb", "disabled"]
    return ["sweep", str(file), "profile=toy", *settings, *rest]


def here(*settings: str, runs: Path, storage: str, file: Path = LOSSES, code: int = 0) -> Said:
    """A sweep that trains in this process."""
    return seminar_here(*arguments(*settings, "--workers", "0", runs=runs, storage=storage, file=file), code=code)


def start(*settings: str, runs: Path, storage: str, file: Path = LOSSES) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "seminar", *arguments(*settings, runs=runs, storage=storage, file=file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def states(queue: StudyLocation) -> list[str]:
    return [trial.state.name for trial in queue.open().study.trials]


def test_urls() -> None:
    assert search.storage_url("postgresql://me@host/db") == "postgresql+psycopg://me@host/db"
    assert search.storage_url("postgresql+psycopg2://me@host/db") == "postgresql+psycopg2://me@host/db"
    assert search.storage_url("mysql://me:secret@host/db") == "mysql+pymysql://me:secret@host/db"
    for text, why in {
        "sqlite:///a.db": "hands one trial to two workers",
        "runs/studies": "that is no URL; write postgresql://",
        "me:secret@host/db": "that is no URL",
        "postgresql://me:secret@host:port/db": "that is no URL",
        "oracle://me:secret@host/db": "'oracle' is none of postgresql, mysql, mariadb",
    }.items():
        with pytest.raises(InputError, match=why) as printed:
            search.storage_url(text)
        assert "secret" not in str(printed.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me@/db?host=/tmp/x&password=secret", "postgresql://me@/db"),
        ("postgresql://me:p@secret@host/db", "***"),
        ("me:secret@host/db", "***"),
        ("postgresql://me:secret@host:port/db", "***"),
    ],
)
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert search.without_password(url) == shown


@pytest.mark.slow
def test_a_database_that_is_not_there_is_named(tmp_path: Path) -> None:
    errors = here("losses=pce", runs=tmp_path, storage="postgresql://me:secret@localhost:1/db", code=2).stderr
    assert errors.startswith("seminar: --storage postgresql+psycopg://me:***@localhost:1/db: ")
    assert errors.count("\n") == 1
    assert not list(tmp_path.glob("*/stage.json"))


@pytest.mark.slow
def test_two_calls_share_a_study_and_train_nothing_twice(tmp_path: Path, database: Database) -> None:
    settings = ["losses=pce,pce+pcons,pce+pcons+pseudo", "--seeds", "2", "--workers", "1"]
    calls = [start(*settings, runs=tmp_path, storage=database.url) for _ in range(2)]
    for call in calls:
        _, errors = call.communicate(timeout=240)
        # Whoever finds the queue empty ends; what runs elsewhere is named.
        assert call.returncode in (0, 1), errors
        assert call.returncode == 0 or "running in another call" in errors, errors
    assert any(call.returncode == 0 for call in calls)
    store = Store(tmp_path)
    records = [store.record(key) for key in store.keys()]  # noqa: SIM118
    assert [record and record["sessions"] for record in records] == [1] * 6
    assert not list((tmp_path / "studies").glob("*.journal"))
    assert "secret" not in json.dumps(records), "no password in a record"
    assert "postgresql://seminar:***@" in json.dumps(records)
    (name,) = database.execute("SELECT study_name FROM studies")
    name, _, folder = name.rpartition("-")
    assert folder == (tmp_path / "studies" / "id").read_text()
    trials = StudyLocation(name, tmp_path / "studies", search.storage_url(database.url)).open().study.trials
    found = [trial for trial in trials if "queued" in trial.user_attrs]
    assert {trial.state.name for trial in found} == {"COMPLETE"}
    assert {trial.user_attrs["key"] for trial in found} == set(store.keys())


@pytest.mark.slow
def test_killed_workers_leave_nothing_to_clean_up(tmp_path: Path, database: Database) -> None:
    settings = ["losses=pce", "seed=0", "epochs=40", "data_val=2"]
    process = start(*settings, "--workers", "1", runs=tmp_path, storage=database.url)
    until_checkpoint(process, tmp_path)
    os.killpg(process.pid, signal.SIGKILL)
    children = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True, check=False).stdout
    for pid in children.split():
        os.kill(int(pid), signal.SIGKILL)
    process.communicate()
    here(*settings, runs=tmp_path, storage=database.url)
    (key,) = Store(tmp_path).keys()
    record = Store(tmp_path).record(key)
    assert record is not None
    assert record["sessions"] == 2


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.slow
def test_training_goes_on_while_the_database_is_away(tmp_path: Path, database: Database) -> None:
    settings = ["losses=pce", "seed=0,1", "epochs=40", "data_val=2", "--workers", "1"]
    process = start(*settings, runs=tmp_path, storage=database.url)
    until_checkpoint(process, tmp_path)
    database.stop()
    try:
        until(lambda: bool(list(tmp_path.glob("*/record.json"))))
        time.sleep(2)
    finally:
        database.start()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "Optuna's database" in errors
    store = Store(tmp_path)
    records = [store.record(key) for key in store.keys()]  # noqa: SIM118
    assert [record and record["sessions"] for record in records] == [1, 1], "the one behind it as well"


@pytest.fixture
def search_file(tmp_path: Path) -> Path:
    """A search that ends trials early."""
    content = {
        "method": "random",
        "metric": {"name": "student_miou", "goal": "maximize"},
        "run_cap": 2,
        "early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 2},
        "parameters": {
            "losses": {"value": "pce+pcons"},
            "profile": {"value": "toy"},
            "split": {"value": "tuning"},
            "seed": {"value": 0},
            "alpha": {"min": 0.1, "max": 0.9},
        },
    }
    path = tmp_path / "small.yaml"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.slow
@pytest.mark.parametrize("away", [True, False])
def test_a_searched_training_goes_on_without_its_study(
    tmp_path: Path, database: Database, search_file: Path, away: bool
) -> None:
    """While the database is away, and where its trial was taken for that of a dead worker."""
    runs = tmp_path / "runs"
    settings = ["epochs=60", "--workers", "0", "--seeds", "1", "--trials", "1"]
    process = start(*settings, runs=runs, storage=database.url, file=search_file)
    until_checkpoint(process, runs)
    if away:
        database.stop()
        time.sleep(3)
        database.start()
    else:
        database.execute("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'")
        (name,) = database.execute("SELECT study_name FROM studies")
        StudyLocation(name.rpartition("-")[0], runs / "studies", search.storage_url(database.url)).open().heal()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    store = Store(runs)
    records = [store.record(key) for key in store.keys()]  # noqa: SIM118
    assert all(record is not None and record["sessions"] == 1 for record in records)
    assert len(list(runs.glob("studies/small-*/[0-9]*.json"))) == 1


Prepare = Callable[[], StudyLocation]


def begin(queue: StudyLocation) -> None:
    """What another host does before it falls silent."""
    opened = queue.open()
    trial = opened.ask({})
    assert trial is not None
    trial.set_user_attr("host", "elsewhere")
    with opened.heartbeat(trial):
        pass


@pytest.fixture
def prepare(tmp_path: Path, database: Database, cell: Callable[..., Cell]) -> Prepare:
    """Prepares a grid of one cell."""
    cells = [cell(losses="pce")]
    storage = search.storage_url(database.url)
    todo = [cells[0].stage.key]
    return lambda: search.prepare_grid("losses", cells, cells, todo, Store(tmp_path), storage)


def test_what_another_host_is_at_is_left_to_it(prepare: Prepare) -> None:
    begin(prepare())
    assert states(prepare()) == ["RUNNING"]


@pytest.mark.slow
def test_what_dead_hosts_had_begun_is_handed_out_again(prepare: Prepare, database: Database) -> None:
    queue = prepare()
    for count in range(search.RETRIES + 1):
        assert states(queue) == ["FAIL"] * count + ["WAITING"]
        begin(queue)
        queue.open().heal()
        assert states(queue) == ["FAIL"] * count + ["RUNNING"], "it has just given a sign of life"
        database.execute("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'")
        queue.open().heal()
    assert states(queue) == ["FAIL"] * (search.RETRIES + 1), "what kills its worker every time is left"
    assert states(prepare())[-1] == "WAITING", "until the next call"
    assert {trial.user_attrs["key"] for trial in queue.open().study.trials} == {
        prepare().open().study.trials[0].user_attrs["key"]
    }


def test_what_a_stopped_worker_had_begun_is_handed_out_at_once(prepare: Prepare) -> None:
    queue = prepare()
    opened = queue.open()
    trial = opened.ask({})
    assert trial is not None
    opened.hand_out_again(trial)
    assert states(queue) == ["FAIL", "WAITING"]
    assert "host" not in queue.open().study.trials[1].user_attrs
    opened.hand_out_again(trial)
    assert states(queue) == ["FAIL", "WAITING"], "it is another's already"


def test_a_trial_that_nobody_asked_for_is_never_repeated(prepare: Prepare, database: Database) -> None:
    queue = prepare()
    opened = queue.open()
    assert opened.ask({}) is not None
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        phantom = opened.study.ask()
    opened.beat(phantom)
    database.execute("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'")
    opened.heal()
    assert states(queue) == ["FAIL", "FAIL", "WAITING"]


def test_two_folders_are_two_studies(tmp_path: Path, database: Database, cell: Callable[..., Cell]) -> None:
    cells, storage = [cell(losses="pce")], search.storage_url(database.url)
    for folder in ("one", "two"):
        queue = search.prepare_grid("losses", cells, cells, [cells[0].stage.key], Store(tmp_path / folder), storage)
        assert states(queue) == ["WAITING"]


@pytest.mark.slow
def test_a_search_repeats_a_dead_trial_at_its_point(tmp_path: Path, database: Database, search_file: Path) -> None:
    path = search_file
    storage = search.storage_url(database.url)
    request = sweep.load(path)
    (part,) = recipes.suite([request], {})
    found, store = (
        Tuning.requested(part.sweep, part.cells[0], {}, tmp_path / "runs", recipes.cells),
        Store(tmp_path / "runs"),
    )
    queue, _ = search.prepare_search(found, store, storage)
    opened, source = queue.open(), jobs.SearchTrials(found, 0, "random", "hyperband")
    trial = opened.ask(source.distributions)
    assert trial is not None
    source.cell(trial)
    trial.set_user_attr("host", "elsewhere")
    with opened.heartbeat(trial):
        pass
    search.prepare_search(found, store, storage)
    assert states(queue) == ["RUNNING", "WAITING"], "another host is at it"
    database.execute("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'")
    search.prepare_search(found, store, storage)
    trials = queue.open().study.trials
    assert [t.state.name for t in trials] == ["FAIL", "WAITING", "WAITING"]
    assert trials[2].params == trial.params
    here("--seeds", "1", runs=tmp_path / "runs", storage=database.url, file=path)
    assert [t.number for t in found.trials()] == [1, 2]
    assert found.trials()[1].point == trial.params
