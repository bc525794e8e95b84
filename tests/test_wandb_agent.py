"""The real W&B client against a stand-in for its server: agents, and tables back from W&B."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from seminar import recipes, sweep, tracking, wandb_pull
from seminar.spec import RECIPE, InputError
from seminar.store import Store
from seminar.wandb_pull import pull
from tests import wandb_server
from tests.conftest import ROOT, seminar_here, until_checkpoint
from tests.records import line, no_training

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
# The agent asks for work every 5 seconds; the tests need not wait for that.
AGENT = "import wandb.wandb_agent as agent; agent.Agent.POLL_INTERVAL = 0.3; from wandb.cli.cli import cli; cli()"


class Site:
    """A server, and a folder to call programs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server, self.state = wandb_server.start(data=folder / "server")
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("WANDB_")},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "WANDB_BASE_URL": f"http://127.0.0.1:{self.server.server_address[1]}",
            "WANDB_API_KEY": "a" * 40,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB_FINISH_TIMEOUT": "60",
            "WANDB_CONFIG_DIR": str(folder / "config"),
            "WANDB_CACHE_DIR": str(folder / "cache"),
            "WANDB_DATA_DIR": str(folder / "data"),
        }

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def start(self, *command: str, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, *command],
            cwd=self.folder,
            env={**self.environment, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def call(self, *command: str, code: int = 0, **environment: str) -> str:
        process = self.start(*command, **environment)
        out, _ = process.communicate(timeout=240)
        assert process.returncode == code, out
        return out

    def sweep(self, name: str, settings: dict[str, list[Any]], **keys: Any) -> str:
        """Register a sweep file of the repository with other words, as `wandb sweep` does; returns its id."""
        content = yaml.safe_load((ROOT / "sweeps" / f"{name}.yaml").read_text(encoding="utf-8"))
        content["parameters"] |= {word: {"values": values} for word, values in settings.items()}
        (self.folder / "sweep.yaml").write_text(yaml.safe_dump({**content, **keys}))
        self.call("-m", "wandb", "sweep", "sweep.yaml", "--project", "paper")
        return str(list(self.state.sweeps)[-1])

    def agent(self, sweep_id: str, **environment: str) -> subprocess.Popen[str]:
        return self.start("-c", AGENT, "agent", f"local/paper/{sweep_id}", **environment)

    def runs(self) -> list[dict[str, Any]]:
        return [run for run in self.state.runs.values() if run["project"] == "paper"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    here = Site(tmp_path)
    yield here
    here.close()


def axes(run: dict[str, Any]) -> dict[str, str]:
    """The x axis of each pattern of metrics, as the client tells its server (by numbers of its protocol)."""
    defined = run["config"]["_wandb"]["value"]["m"]
    return {entry["2"]: defined[entry["5"] - 1]["1"] for entry in defined if "2" in entry}


def history(run: dict[str, Any]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run["history"]]


@pytest.mark.slow
def test_agents_train_each_cell_once_and_its_tables_come_back(site: Site) -> None:
    settings: dict[str, list[Any]] = {
        "profile": ["toy"],
        "losses": ["pce", "pce+pcons", "pce+pcons+pseudo"],
        "seed": [0],
    }
    sweep_id = site.sweep("losses", settings)
    agents = [site.agent(sweep_id), site.agent(sweep_id)]
    for agent in agents:
        out, _ = agent.communicate(timeout=240)
        assert agent.returncode == 0, out
    cells = recipes.cells(sweep.load(site.folder / "sweep.yaml"))
    store = Store(site.folder / "runs")
    stages = {stage.key: stage for cell in cells for stage in cell.stage.chain}
    assert set(store.keys()) == set(stages)
    records = {key: store.record(key) for key in stages}
    assert all(record is not None and record["sessions"] == 1 for record in records.values()), "trained twice"

    runs = {run["config"]["key"]["value"]: run for run in site.runs()}
    assert len(site.runs()) == len(runs) == 3
    for cell in cells:
        run, record = runs[cell.stage.key], records[cell.stage.key]
        assert record is not None
        assert run["state"] == "finished"
        assert run["config"]["stage"]["value"] == cell.stage.model_dump(mode="json"), "what the words became here"
        assert {word: run["config"][word]["value"] for word in cell.point} == cell.point
        assert run["summary"]["student_miou"] == record["metrics"]["student"]["crop"]["miou"]
        curve_of = [line["student_miou"] for line in store.curve(cell.stage.key)]
        assert run["summary"]["best/student_miou"] == max(curve_of)
        assert run["jobType"] == ("primary" if cell.stage.ancillary else "ancillary")
        assert axes(run) == {
            "*": "epoch",
            **{f"student{n}/*": f"student{n}/epoch" for n in range(1, 2 + cell.stage.modules)},
        }
        printed = [row["student_miou"] for row in history(run) if "student_miou" in row]
        assert printed == [line["student_miou"] for line in store.curve(cell.stage.key)], "once for each evaluation"
        for place, stage in enumerate(cell.stage.chain, 1):
            name = f"student{place}/student_miou"
            assert [row[name] for row in history(run) if name in row] == [
                line["student_miou"] for line in store.curve(stage.key)
            ]
    assert "unknown" not in (site.folder / "server" / "requests.jsonl").read_text(), "an operation of a newer client"

    # The same tables from the records, from the project, and from the folders of offline runs.
    given = ["profile=toy", "losses=pce,pce+pcons,pce+pcons+pseudo", "--seeds", "1"]
    (site.folder / "sweeps").mkdir()
    (site.folder / "sweeps" / "losses.yaml").write_text((ROOT / "sweeps" / "losses.yaml").read_text())
    pulled = site.call("-m", "seminar", "pull", "local/paper", "--runs", "back")
    assert "3 trainings are new in back, 1 were there already" in pulled, "an ancillary is in two runs"
    offline = ["--runs", "alone", "--wandb", "offline"]
    site.call("-m", "seminar", "sweep", "sweeps/losses.yaml", *given, "--workers", "0", *offline)
    assert "3 trainings are new in again" in site.call("-m", "seminar", "pull", "alone/wandb", "--runs", "again")
    tables = []
    for folder in ("runs", "back", "again"):
        site.call("-m", "analysis", "sweeps/losses.yaml", *given, "--runs", folder, "--out", f"out-{folder}")
        tables.append((site.folder / f"out-{folder}" / "table3.csv").read_text())
        assert tables[-1].count("1 done") == 3
    assert tables[0] == tables[1] == tables[2]
    send_report(site, given)


def send_report(site: Site, given: list[str]) -> None:
    """The report of a sweep as a run: what the agents trained, at the end of the test of them."""
    said = site.call(
        *("-m", "analysis", "sweeps/losses.yaml", *given, "--runs", "runs", "--out", "shown", "--wandb", "online"),
        WANDB_PROJECT="paper",
    )
    assert "as the run 'report shown'" in said
    run = site.runs()[-1]
    assert (run["jobType"], run["displayName"], run["state"]) == ("report", "report shown", "finished")
    names = {path.name for path in (site.folder / "shown").iterdir()}
    assert {name.removeprefix("report/") for name in run["files"] if name.startswith("report/")} == names
    assert {"table3.csv", "table3.png", "table3.md"} <= names
    logged = {name for row in history(run) for name in row if not name.startswith("_")}
    csv_files = {f"tables/{name[:-4]}" for name in names if name.endswith(".csv")}
    assert logged == csv_files | {f"figures/{name[:-4]}" for name in names if name.endswith(".png")}
    with (site.folder / "shown" / "table3.csv").open(newline="") as file:
        head, first = list(csv.reader(file))[:2]
    place = re.compile(r"/files/media/table/tables/table3_\d+_")
    (blob,) = (body for path, body in site.state.blobs.items() if place.search(path))
    table = json.loads(blob)
    assert table["columns"] == head
    row = dict(zip(table["columns"], table["data"][0], strict=True))
    assert row["losses"] == "pce"
    assert row["miou_mean"] == float(first[head.index("miou_mean")])
    assert row["difference_mean"] is None
    pulled = site.call("-m", "seminar", "pull", "local/paper", "--runs", "back")
    assert "1 runs have no finished training (or are reports)" in pulled


def test_a_report_that_cannot_be_sent_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    (tmp_path / "a.csv").write_text("x\n1\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.csv").write_text("x\n1\n")
    for files, why in (
        ([tmp_path / "a.csv"], "W&B: WANDB_MODE is disabled; the report was not sent"),
        ([tmp_path / "none"], "not there"),
        ([tmp_path / "a.csv", tmp_path / "b"], "a.csv: several of these files have this name"),
    ):
        said = seminar_here("report", *map(str, files), "--runs", str(tmp_path / "runs"), code=2)
        assert why in said.stderr
        assert said.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])  # the agent's, and what the server leads to
def test_a_stopped_trial_ends_by_its_signal_and_is_continued(site: Site, number: signal.Signals) -> None:
    settings = json.dumps({"profile": "toy", "losses": "pce", "epochs": 60, "seed": 0})
    process = site.start("-m", "seminar", "cell", settings, WANDB_PROJECT="paper")
    until_checkpoint(process, site.folder / "runs")
    process.send_signal(number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == -number, "the agent counts anything else as a failure"
    assert "Traceback" not in out
    (run,) = site.runs()
    assert run["state"] != "finished"
    assert len(history(run)) >= 1
    (key,) = Store(site.folder / "runs").keys()
    assert Store(site.folder / "runs").status(key) == "stopped"
    seminar_here("cell", settings, "--runs", str(site.folder / "runs"), "--wandb", "disabled")
    record = Store(site.folder / "runs").record(key)
    assert record is not None
    assert record["sessions"] == 2


SHORT = ("-m", "seminar", "train", "profile=toy", "losses=pce", "epochs=2", "data_train=4", "data_val=2")


@pytest.mark.slow
def test_what_the_environment_says_about_a_run_wins_and_tags_are_joined(site: Site) -> None:
    site.call(*SHORT, "--wandb", "online", "--runs", "plain")
    (run,) = [run for run in site.state.runs.values() if run["project"] == tracking.PROJECT]
    (key,) = Store(site.folder / "plain").keys()
    title = Store(site.folder / "plain").stage(key).title
    assert (run["displayName"], run["group"], run["jobType"], run["notes"]) == (title, "train", "ancillary", None)
    tags = ["creatures", "small_resnet", "K=0", "pce"]
    assert run["tags"] == tags
    assert axes(run) == {"*": "epoch"}
    given = {"NAME": "mine", "RUN_GROUP": "friday", "JOB_TYPE": "try", "NOTES": "see the board", "TAGS": "new, pce"}
    environment = {"WANDB_PROJECT": "other", **{f"WANDB_{name}": value for name, value in given.items()}}
    cell = json.dumps(dict(item.split("=") for item in SHORT[3:]))
    for runs, command in (("own", SHORT), ("cell", ("-m", "seminar", "cell", cell))):
        site.call(*command, "--wandb", "online", "--runs", runs, **environment)
        run = list(site.state.runs.values())[-1]
        found = (run["displayName"], run["group"], run["jobType"], run["notes"])
        assert found == ("mine", "friday", "try", "see the board")
        assert run["project"] == "other"
        assert run["tags"] == [*tags, "new"]
    assert len(site.state.runs) == 3
    said = site.call(*SHORT, "--wandb", "online", "--runs", "empty", WANDB_TAGS="a,,b")
    assert "run_tags=['a', '', 'b'] (WANDB_TAGS?): Value error, Tag at index 1 is empty" in said
    assert "the training goes on without it" in said


CHAIN = (*SHORT[:4], "losses=pce+pseudo", "modules=1", *SHORT[5:])


def models(site: Site) -> dict[str, dict[str, Any]]:
    """The artifacts with weights, by the key of their training."""
    found = [each for each in site.state.artifacts.values() if each["artifactTypeName"] == "model"]
    by_key = {each["artifactCollectionName"].removeprefix(tracking.MODEL): each for each in found}
    assert len(by_key) == len(found), "one version of each"
    return by_key


@pytest.mark.slow
def test_weights_come_back_and_can_be_predicted_with_and_trained_on(site: Site) -> None:
    site.call(*CHAIN, "--wandb", "online", "--artifacts", "--runs", "runs")
    here, back = Store(site.folder / "runs"), Store(site.folder / "back")
    runs = {run["config"]["key"]["value"]: run["name"] for run in site.state.runs.values()}
    (ancillary,), (primary,) = ([key for key in runs if here.stage(key).modules == k] for k in (0, 1))
    kept = models(site)
    assert kept.keys() == {ancillary, primary}
    assert kept[ancillary]["logged_by"] == [runs[ancillary]]
    assert kept[ancillary]["used_by"] == [runs[primary]], "what the primary learned from"
    assert (kept[primary]["logged_by"], kept[primary]["used_by"]) == ([runs[primary]], [])

    project = f"local/{tracking.PROJECT}"
    said = site.call("-m", "seminar", "pull", project, "--runs", "back")
    assert "2 trainings are new in back" in said
    assert "the weights of 2 came with them" in said
    for key in (ancillary, primary):
        for role in ("student", "teacher"):
            theirs, ours = here.folder(key) / f"{role}.pt", back.folder(key) / f"{role}.pt"
            assert theirs.exists() == ours.exists()
            assert not ours.exists() or ours.read_bytes() == theirs.read_bytes()
    picture = np.full((40, 50, 3), 90, np.uint8)
    Image.fromarray(picture).save(site.folder / "one.png")
    site.call("-m", "seminar", "predict", primary, "one.png", "--runs", "back", "--out", "labelled")
    on_top = (*CHAIN[:5], "modules=2", *CHAIN[6:])
    site.call(*on_top, "--wandb", "disabled", "--runs", "back")
    assert len(back.keys()) == 3, "trained on top of those that were pulled"

    # What was pulled before, without its weights, gets them; other weights are refused.
    (back.folder(primary) / "student.pt").unlink()
    assert "the weights of 1 came with them" in site.call("-m", "seminar", "pull", project, "--runs", "back")
    for path, content in site.state.blobs.items():
        if path.endswith("student.pt") and content == (here.folder(primary) / "student.pt").read_bytes():
            site.state.blobs[path] = content[:-1] + b"?"
    (back.folder(primary) / "student.pt").unlink()
    said = site.call("-m", "seminar", "pull", project, "--runs", "back")
    assert f"weights of {primary}" in said
    assert not (back.folder(primary) / "student.pt").exists()
    assert "unknown" not in (site.folder / "server" / "requests.jsonl").read_text(), "an operation of a newer client"


@pytest.mark.slow
def test_a_cell_keeps_what_it_trained_and_names_what_it_used(site: Site) -> None:
    cell = {name: int(value) if value.isdigit() else value for name, value in (item.split("=") for item in CHAIN[3:])}
    given = ("--wandb", "online", "--artifacts", "--runs", "runs")
    site.call("-m", "seminar", "cell", json.dumps({**cell, "modules": 1}), *given, WANDB_PROJECT="paper")
    site.call("-m", "seminar", "cell", json.dumps({**cell, "modules": 2}), *given, WANDB_PROJECT="paper")
    store = Store(site.folder / "runs")
    first, second = (run["name"] for run in site.runs())
    kept = {store.stage(key).modules: each for key, each in models(site).items()}
    assert (kept[0]["logged_by"], kept[0]["used_by"]) == ([first], [second])
    assert (kept[1]["logged_by"], kept[1]["used_by"]) == ([first], [second])
    assert (kept[2]["logged_by"], kept[2]["used_by"]) == ([second], [])


@pytest.mark.slow
@pytest.mark.parametrize("artifacts", [False, True])
def test_artifacts_wait_no_longer_than_they_may_for_a_server(site: Site, artifacts: bool) -> None:
    given = ["--wandb", "online", "--runs", "runs", *(["--artifacts"] if artifacts else [])]
    process = site.start(*LONG, *given, WANDB_FINISH_TIMEOUT="3")
    until_checkpoint(process, site.folder / "runs")
    site.close()
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    limit = "were not sent within 3 s (WANDB_FINISH_TIMEOUT); `wandb sync` sends all but these; the training goes on"
    assert limit in out
    assert ("and the weights of" in out) is artifacts
    (key,) = Store(site.folder / "runs").keys()
    assert len(list((site.folder / "runs" / "wandb").glob(f"run-*/files/trainings/{key}/record.json"))) == 1
    (folder,) = (site.folder / "runs" / "wandb").glob("run-*")
    second = Site(site.folder / "second")
    second.call("-m", "wandb", "sync", "--no-skip-online", "--project", "paper", "--entity", "local", str(folder))
    (run,) = second.runs()
    assert f"trainings/{key}/record.json" in run["files"]
    second.close()


@pytest.mark.slow
def test_offline_weights_are_sent_by_a_sync(site: Site) -> None:
    """Without what they were made from: W&B knows no use of artifacts offline."""
    site.call(*CHAIN, "--wandb", "offline", "--artifacts", "--runs", "runs")
    folders = [str(path) for path in (site.folder / "runs" / "wandb").glob("offline-run-*")]
    site.call("-m", "wandb", "sync", *folders)
    assert set(models(site)) == set(Store(site.folder / "runs").keys())
    said = site.call("-m", "seminar", "pull", f"local/{tracking.PROJECT}", "--runs", "back")
    assert "the weights of 2 came with them" in said


def test_weights_are_not_kept_where_wandb_is_off() -> None:
    said = seminar_here("train", "profile=toy", "losses=pce", "--wandb", "disabled", "--artifacts", code=2)
    assert said.stderr.startswith("seminar: --artifacts: ")
    assert said.stderr.count("\n") == 1


LONG = ("-m", "seminar", "train", "profile=toy", "losses=pce", "epochs=60", "data_val=2")


def interrupt(site: Site, *command: str, runs: str) -> None:
    """Stop a training after its first epoch."""
    process = site.start(*command, "--runs", runs)
    until_checkpoint(process, site.folder / runs)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130, out


def evaluated(site: Site) -> dict[str, list[tuple[int, float]]]:
    """Epochs and scores that the server has, by the id of the run."""
    runs = [run for run in site.state.runs.values() if run["project"] == tracking.PROJECT]
    return {
        run["name"]: [(row["epoch"], row["student_miou"]) for row in history(run) if "student_miou" in row]
        for run in runs
    }


def curve(site: Site, runs: str) -> list[tuple[int, float]]:
    store = Store(site.folder / runs)
    return [(line["epoch"], line["student_miou"]) for line in store.curve(store.keys()[0]) if "student_miou" in line]


@pytest.mark.slow
def test_a_continued_training_has_its_whole_curve_on_the_server(site: Site) -> None:
    """Offline there is a folder for each session; the last one is enough, and the others do it no harm."""
    interrupt(site, *LONG, "--wandb", "offline", runs="runs")
    site.call(*LONG, "--wandb", "offline", "--runs", "runs")
    folders = sorted((site.folder / "runs" / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    assert len(folders) == 2
    site.call("-m", "wandb", "sync", str(folders[1]))
    assert list(evaluated(site).values()) == [curve(site, "runs")]
    site.call("-m", "wandb", "sync", str(folders[0]))
    whole, earlier = evaluated(site).values()
    assert whole == curve(site, "runs")
    assert earlier
    assert earlier == whole[: len(earlier)]


@pytest.mark.slow
def test_a_training_never_writes_over_a_run_of_somebody_else(site: Site) -> None:
    """Both train the same key; one is stopped and goes on."""
    site.call(*LONG[:-2], "epochs=60", "data_val=2", "--wandb", "online", "--runs", "theirs")
    (theirs,) = evaluated(site)
    interrupt(site, *LONG, "--wandb", "online", runs="mine")
    assert evaluated(site)[theirs] == curve(site, "theirs")
    site.call(*LONG, "--wandb", "online", "--runs", "mine")
    found = evaluated(site)
    assert len(found) == 2
    mine = next(name for name in found if name != theirs)
    assert found[theirs] == curve(site, "theirs")
    assert found[mine] == curve(site, "mine"), "once for each evaluation, those before the stop among them"


@pytest.mark.slow
def test_the_server_ends_a_bad_trial_early_where_the_file_asks(site: Site) -> None:
    """By W&B's hyperband: at its 30th evaluation a trial must be among the best third."""
    settings: dict[str, list[Any]] = {"profile": ["toy"], "losses": ["pce"], "epochs": [180], "lr": [0.05, 1e-9]}
    rule = {"type": "hyperband", "min_iter": 30, "eta": 3}
    sweep_id = site.sweep("losses", settings | {"seed": [0]}, early_terminate=rule)
    agent = site.agent(sweep_id, WANDB_X_FILE_STREAM_TRANSMIT_INTERVAL="1")
    out, _ = agent.communicate(timeout=240)
    assert agent.returncode == 0, out
    store = Store(site.folder / "runs")
    ended = {store.stage(key).lr: (store.status(key), len(store.curve(key))) for key in store.keys()}  # noqa: SIM118
    assert ended[0.05] == ("done", 180)
    status, epochs = ended[1e-9]
    assert status == "stopped", "to be continued by whoever wants it, and no failure"
    assert 30 <= epochs < 180
    assert {run["config"]["lr"]["value"]: run["state"] for run in site.runs()} == {0.05: "finished", 1e-9: "killed"}


@pytest.mark.slow
def test_trials_of_an_agent_count_in_the_search(site: Site) -> None:
    """The points of `method: bayes` are W&B's own there."""
    settings: dict[str, list[Any]] = {"profile": ["toy"], "losses": ["pce+crf+pcons"], "alpha": [0.25, 0.5]}
    sweep_id = site.sweep("tune", settings, run_cap=2, early_terminate={"type": "hyperband", "min_iter": 99, "eta": 2})
    agent = site.agent(sweep_id)
    out, _ = agent.communicate(timeout=240)
    assert agent.returncode == 0, out
    points = [{name: run["config"][name]["value"] for name in ("alpha", "lambda_crf")} for run in site.runs()]
    assert len(points) == 2
    here = ("sweep", "sweep.yaml", "--workers", "0", "--wandb", "disabled", "--seeds", "1")
    assert "2 done, 0 to do" in site.call("-m", "seminar", *here)
    files = sorted((site.folder / "runs" / "studies").glob("tune-*/0*.json"))
    trials = [json.loads(path.read_text()) for path in files]
    assert [trial["elsewhere"] for trial in trials] == [True, True]
    tried = [{name: trial["point"][name] for name in points[0]} for trial in trials]
    assert sorted(tried, key=str) == sorted(points, key=str)


def test_a_bad_cell_fails_fast_with_one_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site.folder)
    for name in ("WANDB_BASE_URL", "WANDB_API_KEY"):
        monkeypatch.setenv(name, site.environment[name])
    for settings in ('{"losses": "pce+crff"}', "{", "[]", '{"alpha": null}', '{"losses": "pce", "alpha": 0.5}'):
        said = seminar_here("cell", settings, code=2)
        assert said.stderr.startswith("seminar: ")
        assert said.stdout == ""
        assert said.stderr.count("\n") == 1
    assert not (site.folder / "runs").exists()
    assert site.runs() == []


@pytest.mark.slow
def test_training_goes_on_without_the_server(site: Site) -> None:
    settings = json.dumps({"profile": "toy", "losses": "pce", "epochs": 30, "seed": 0})
    process = site.start("-m", "seminar", "cell", settings, WANDB_PROJECT="paper", WANDB_FINISH_TIMEOUT="3")
    until_checkpoint(process, site.folder / "runs")
    site.close()
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    (key,) = Store(site.folder / "runs").keys()
    assert Store(site.folder / "runs").record(key) is not None
    # All of it lies in the run's own file, for `wandb sync`.
    (folder,) = (site.folder / "runs" / "wandb").glob("run-*")
    second = Site(site.folder / "second")
    second.call("-m", "wandb", "sync", "--no-skip-online", "--project", "paper", "--entity", "local", str(folder))
    (run,) = second.runs()
    printed = [row["student_miou"] for row in history(run) if "student_miou" in row]
    assert printed == [line["student_miou"] for line in Store(site.folder / "runs").curve(key)]
    second.close()


def test_what_cannot_be_pulled_is_named(tmp_path: Path, cell: Any) -> None:
    store = Store(tmp_path / "runs")
    with pytest.raises(InputError, match="no W&B run below this folder"):
        pull(str(tmp_path), store)
    with pytest.raises(InputError, match="neither a folder nor a W&B project"):
        pull("nowhere", store)
    for name in ("trainings/../../record.json", "trainings/0123456789abcdef/../stage.json", "record.json"):
        assert wandb_pull._KEPT.fullmatch(name) is None, "a server cannot write elsewhere"


def test_of_runs_that_differ_the_first_counts(tmp_path: Path, cell: Any) -> None:
    stage = cell(losses="pce").stage
    for place, (finished, miou) in enumerate([("2026-01-02", 50.0), ("2026-01-01", 40.0), ("2026-01-03", 40.0)]):
        folder = tmp_path / "wandb" / f"offline-run-{place}-x" / "files" / "trainings" / stage.key
        folder.mkdir(parents=True)
        (folder / "stage.json").write_text(stage.canonical())
        body = no_training(stage, folder, metrics={"student": {"crop": {"miou": miou}}})
        (folder / "metrics.jsonl").write_text(line(stage.epochs, miou))
        record = {"key": stage.key, **json.loads(stage.canonical()), "finished": finished, **body}
        (folder / "record.json").write_text(json.dumps(record))
    (tmp_path / "wandb" / "offline-run-9-x" / "files").mkdir(parents=True)
    store = Store(tmp_path / "runs")
    found = pull(str(tmp_path / "wandb"), store)
    assert found.refused == ()
    assert (found.new, found.known, found.differs, found.unfinished) == (
        (stage.key,),
        (stage.key,) * 2,
        (stage.key,),
        1,
    )
    kept = store.record(stage.key)
    assert kept is not None
    assert kept["metrics"]["student"]["crop"]["miou"] == 40.0
    assert store.status(stage.key) == "done"
    moved = tmp_path / "wandb" / "offline-run-0-x" / "files" / "trainings"
    (moved / stage.key).rename(moved / "0123456789abcdef")
    old = moved / "fedcba9876543210"
    old.mkdir()
    (old / "stage.json").write_text(
        stage.canonical().replace(f'"recipe": {RECIPE}', '"recipe": 1').replace("crop", "size")
    )
    (old / "record.json").write_text("{}")
    again = pull(str(tmp_path / "wandb"), Store(tmp_path / "other"))
    assert again.new == (stage.key,), "what cannot be used stops nothing"
    assert len(again.refused) == 2
    assert any(f"was written by recipe 1; this version is recipe {RECIPE}" in line for line in again.refused)
