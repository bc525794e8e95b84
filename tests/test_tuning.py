"""Searches (method random and bayes): what is tried, kept, ended early, and what reports the winner."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import wandb
import yaml
from optuna.artifacts import get_all_artifact_meta

from analysis import exhibits
from analysis.report import Report
from seminar import catalogue, jobs, presets, provenance, recipes, search, sweep
from seminar.parts import Registry
from seminar.spec import InputError, Scalar, Stage
from seminar.store import Interrupted, Store
from seminar.sweep import Halving, Range
from seminar.trials import Trial, Tuning
from tests.conftest import ROOT, Said, seminar_here, until_checkpoint
from tests.records import finish, line, no_training

SPACE = {
    "alpha": {"values": [0.25, 0.5, 0.75]},
    "lambda_pcons": {"min": 1.0, "max": 1000.0, "distribution": "log_uniform_values"},
}
LOSSES = "pce+pcons"


def write(folder: Path, run_cap: int = 4, parameters: dict[str, Any] | None = None, **keys: Any) -> Path:
    fixed = {"profile": "toy", "split": "tuning", "losses": LOSSES, "seed": 0}
    content = {
        "name": "find",
        "description": "a search",
        "method": "bayes",
        "run_cap": run_cap,
        "parameters": {**{word: {"value": value} for word, value in fixed.items()}, **(parameters or SPACE)},
        **keys,
    }
    path = folder / "find.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def command(path: Path, runs: Path, *arguments: str) -> list[str]:
    options = ["--runs", str(runs), "--wandb", "disabled"]
    return [sys.executable, "-m", "seminar", "sweep", str(path), *arguments, *options]


def call(path: Path, runs: Path, *arguments: str, code: int = 0) -> Said:
    """Call a search that trains in this process."""
    return seminar_here(*command(path, runs, "--workers", "0", *arguments)[3:], code=code)


def tuning(path: Path, runs: Path, **settings: tuple[Scalar, ...]) -> Tuning:
    (planned,) = recipes.suite([sweep.load(path)], settings)
    found = Tuning.requested(planned.sweep, planned.cells[0], settings, runs, recipes.cells)
    catalogue.write(runs, [planned, catalogue.Planned(planned.sweep, found.reported())])
    return found


def finished(runs: Path) -> dict[str, int]:
    """Modification times of records by key."""
    return {path.parent.name: path.stat().st_mtime_ns for path in runs.glob("*/record.json")}


# -- sweep files ---------------------------------------------------------------------------------------------------


def test_a_search_file_is_read(tmp_path: Path) -> None:
    early = {"type": "hyperband", "max_iter": 27, "s": 2, "eta": 3}
    found = sweep.load(write(tmp_path, parameters={**SPACE, "crop": {"min": 16, "max": 64}}, early_terminate=early))
    assert found.is_search
    assert found.halving == Halving(3, 3)
    assert found.space == {
        "alpha": (0.25, 0.5, 0.75),
        "crop": Range(16, 64, whole=True),
        "lambda_pcons": Range(1, 1000, log=True),
    }
    (point,) = found.points
    assert [point[word] for word in found.space] == ["default"] * 3
    assert found.capped(9).run_cap == 9
    fewer = found.override({"alpha": (0.5,), "crop": (16, 32), "seed": (0, 1)})
    assert fewer.space == {"crop": (16, 32), "lambda_pcons": Range(1, 1000, log=True)}, "seeds are not searched"
    (at,) = fewer.at({"crop": 32, "lambda_pcons": 2.5}).points
    assert (at["crop"], at["lambda_pcons"], at["alpha"], at["seed"]) == (32, 2.5, 0.5, 0)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "bayesian"}, "method='bayesian': did you mean 'bayes'?"),
        ({"run_cap": None}, "run_cap=None: a whole number, at least 1"),
        ({"run_cap": 0}, "run_cap=0"),
        ({"run_cap": True}, "run_cap=True"),
        ({"method": "grid"}, "run_cap: only for method random or bayes"),
        ({"parameters": {"losses": {"value": "pce"}}}, "no parameter has a range or several 'values'"),
        ({"parameters": {"alpha": {"min": "1e-4", "max": 0.5}}}, "has the bound '1e-4': no number (write 1.0e-4"),
        ({"parameters": {"alpha": {"min": 0, "max": 0.5}}}, "both whole numbers, or both with a dot"),
        ({"parameters": {"alpha": {"min": 0.5, "max": 0.5}}}, "min must be below max"),
        ({"parameters": {"alpha": {"min": 0.5, "max": float("inf")}}}, "min must be below max"),
        ({"parameters": {"alpha": {"min": 0.0, "max": 0.5, "distribution": "log_uniform_values"}}}, "above 0"),
        ({"parameters": {"alpha": {"min": 0.1, "max": 0.5, "distribution": "normal"}}}, "choose min, max and dist"),
        ({"parameters": {"alpha": {"min": 0.1, "max": 0.5, "q": 0.1}}}, "choose min, max and distribution"),
        ({"parameters": {"alpha": {"min": 0.1, "max": 0.5, "distribution": "int_uniform"}}}, "needs whole numbers"),
        ({"parameters": {"alpha": {"values": []}}}, "parameter 'alpha' has no 'values'"),
        ({"early_terminate": {"type": "median"}}, "choose type: hyperband"),
        ({"early_terminate": {"type": "hyperband"}}, "choose min_iter, or max_iter and s, and eta"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 0}}, "early_terminate.min_iter=0"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 1}}, "early_terminate.eta=1"),
    ],
)
def test_a_bad_search_file_is_named(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"method": "bayes", "run_cap": 3, "parameters": SPACE, **keys}))
    with pytest.raises(InputError, match=re.escape(message)) as printed:
        sweep.load(path)
    assert str(path) in str(printed.value)
    assert "\n" not in str(printed.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({**SPACE, "split": {"value": "reporting"}}, "find: a search needs split=tuning"),
        ({**SPACE, "data_seed": {"value": 3}}, "find: split=tuning has the very images that are reported"),
        ({**SPACE, "data_seed": {"values": [3, 4]}}, "find: data_seed: a search has one value of it"),
        ({**SPACE, "profile": {"values": ["toy", "creatures"]}}, "find: profile: a search has one value of it"),
        ({"alpha": {"min": 0.5, "max": 1.0}}, "alpha=1.0: Input should be less than 1"),
        ({"alpha": {"values": [0.5, "x"]}}, "alpha='x'"),
        ({**SPACE, "seed": {"value": -1}}, "seed=-1"),
        ({**SPACE, "seed": {"min": 0, "max": 9}}, "'seed': a search does not choose it"),
    ],
)
def test_what_cannot_be_searched_is_told_before_anything_is_trained(
    tmp_path: Path, parameters: dict[str, Any], message: str
) -> None:
    result = call(write(tmp_path, parameters=parameters), tmp_path / "runs", code=2)
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_the_tuning_split_has_other_images_and_nothing_else(cell: Any) -> None:
    reported, chosen = cell(losses=LOSSES), cell(losses=LOSSES, split="tuning")
    assert reported.stage == cell(losses=LOSSES, split="reporting").stage
    differing = {
        name
        for name in type(reported.stage).model_fields
        if getattr(reported.stage, name) != getattr(chosen.stage, name)
    }
    assert differing == {"data", "data_fingerprint"}
    with pytest.raises(InputError, match="split='tunning': did you mean 'tuning'"):
        cell(split="tunning")


def test_a_profile_without_tuning_words_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cell: Any) -> None:
    (tmp_path / "toy.yaml").write_text("data: creatures\nbackbone: small_resnet\n")
    monkeypatch.setattr(presets, "_folder", lambda: tmp_path)
    presets.preset.cache_clear()
    with pytest.raises(InputError, match="split='tuning': profile 'toy' has no 'tuning' settings"):
        cell(split="tuning")
    presets.preset.cache_clear()


def test_every_profile_has_a_tuning_split() -> None:
    for name in presets.profiles():
        assert presets.preset(name, "tuning") != presets.preset(name, "reporting"), name


# -- running -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_search_runs_its_trials_and_reports_the_winner_elsewhere(tmp_path: Path) -> None:
    path, runs = write(tmp_path), tmp_path / "runs"
    dry = call(path, runs, "--dry-run", "--seeds", "2")
    assert "bayes (sampler tpe) over alpha, lambda_pcons: 4 trials of a training each" in dry.stdout
    assert not list(runs.glob("*/stage.json"))
    call(path, runs, "--workers", "2", "--seeds", "2")
    found = tuning(path, runs, seed=(0, 1))
    trials = found.trials()
    assert [trial.state for trial in trials] == ["done"] * 4
    assert trials[0].point == {"alpha": 0.5, "lambda_pcons": 200.0}, "the profile's own values come first"
    assert len({json.dumps(trial.point) for trial in trials}) == 4
    assert found.importances().keys() <= set(found.space)
    store = Store(runs)
    best = found.best(store.record)
    assert best is not None
    scores = {trial.key: store.record(trial.key)["metrics"]["student"]["crop"]["miou"] for trial in trials}  # type: ignore[index]
    assert scores[best.key] == max(scores.values())
    reported = {cell.stage.key for cell in (*found.reported(), *found.reported(best.point))}
    assert finished(runs).keys() == reported | set(scores)
    assert not reported & set(scores), "nothing is chosen by what is reported"
    assert {cell.stage.seed for cell in found.reported()} == {0, 1}

    before = finished(runs)
    again = call(path, runs, "--workers", "2", "--seeds", "2")
    assert "4 done, 0 to do" in again.stdout
    assert finished(runs) == before

    # A deleted journal loses nothing: the next trials go on from all that are kept.
    for journal in runs.glob("studies/*.journal"):
        journal.unlink()
    call(path, runs, "--seeds", "1", "--trials", "6")
    assert len(found.trials()) == 6
    assert {key: finished(runs)[key] for key in before} == before
    storage = optuna.storages.JournalStorage(
        optuna.storages.journal.JournalFileBackend(str(runs / "studies" / f"{found.name}.journal"))
    )
    values = {t.user_attrs["key"]: t.value for t in optuna.load_study(study_name=found.name, storage=storage).trials}
    assert values.keys() == {trial.key for trial in found.trials()}
    assert all(values[key] == score for key, score in scores.items())


class FakeRun:
    """A W&B run that takes everything."""

    offline = True

    def __init__(self, folder: Path) -> None:
        self.dir, self.step, self.summary = str(folder), 0, dict[str, Any]()

    def log(self, *_: object, **__: object) -> None: ...

    define_metric = save = finish = log


def test_a_gaussian_process_searches_and_the_study_says_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole small search, with a score in place of trainings. The first 10 trials of a `GPSampler` are drawn."""
    path, runs, job_types = write(tmp_path, 13), tmp_path / "runs", list[tuple[str, str]]()

    def train(host: Any, watches: Any, stage: Stage, folder: Path, ancillary: Path | None) -> dict[str, Any]:
        weight = {term.name: term.weight for term in stage.losses}["pcons"]
        miou = 90 - 10 * abs(math.log10(weight) - 1.5) - 20 * abs((stage.alpha or 0) - 0.25)
        body = no_training(stage, folder, metrics={"student": {"crop": {"miou": miou}}})
        (folder / "metrics.jsonl").write_text(line(stage.epochs, miou))
        (folder / "samples").mkdir()
        (folder / "samples" / "0.png").write_bytes(stage.key.encode())
        for watch in watches:
            watch.begin(stage, folder, stage.epochs)
            watch.end(stage, body)
        return body

    def init(**options: Any) -> FakeRun:
        job_types.append((options["config"]["key"], options["job_type"]))
        return FakeRun(tmp_path / "run")

    optimised: list[object] = []
    optimise = optuna.samplers.GPSampler._optimize_acqf

    def spy(self: Any, *rest: Any, **named: Any) -> Any:
        optimised.append(rest)
        return optimise(self, *rest, **named)

    monkeypatch.setattr(jobs, "_train", train)
    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setattr(optuna.samplers.GPSampler, "_optimize_acqf", spy)
    line_of = ["sweep", str(path), "--sampler", "gp", "--seeds", "1", "--workers", "0", "--runs", str(runs)]
    said = seminar_here(*line_of, "--wandb", "offline")
    assert "best of 13 trials" in said.stdout
    found, store = tuning(path, runs, seed=(0,)), Store(runs)
    trials = found.trials()
    assert [trial.state for trial in trials] == ["done"] * 13
    assert len(optimised) == 3, "those after the first 10, of which the first has the profile's own values"
    best = found.best(store.record)
    assert best is not None
    assert {cell.stage.key for cell in found.reported(best.point)} <= finished(runs).keys()
    tried = {trial.key for trial in trials}
    assert set(job_types) == {(key, "trial" if key in tried else "ancillary") for key in finished(runs)}

    study = search.StudyLocation(found.name, runs / "studies").open().study
    assert study.metric_names == ["student_miou"]
    data = f"{found.own.stage.data.name}: {found.own.stage.data_fingerprint}"
    assert study.user_attrs == {"sweep": "find", "commit": provenance.COMMIT, "data": [data]}
    for trial in study.trials:
        (meta,) = get_all_artifact_meta(study_or_trial=trial, storage=study._storage)
        assert (meta.filename, meta.mimetype) == ("0.png", "image/png")
        assert (runs / "studies" / "artifacts" / meta.artifact_id).read_text() == trial.user_attrs["key"]


def test_an_old_study_learns_what_it_is_and_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tuning(write(tmp_path), tmp_path)
    found.folder.mkdir(parents=True)
    queue = search.StudyLocation(found.name, found.folder.parent)
    study = queue.open().study  # as earlier versions have left it
    study.enqueue_trial(found.own_point or {}, user_attrs={"queued": True})
    with search.search_study(found, Store(tmp_path), None) as (_, opened):
        assert opened.study.metric_names == ["student_miou"]
        assert opened.study.user_attrs["sweep"] == "find"
        assert len(opened.trials()) == 1
    before = queue.journal.read_bytes()
    with search.search_study(found, Store(tmp_path), None):
        pass
    assert sorted(queue.journal.read_text().count(name) for name in ('"sweep"', "student_miou")) == [1, 1]
    assert queue.journal.read_bytes().count(b"\n") <= before.count(b"\n") + 1, "Optuna asks for the study by its name"
    monkeypatch.setattr(provenance, "COMMIT", "another")
    with search.search_study(found, Store(tmp_path), None) as (_, opened):
        assert opened.study.user_attrs["commit"] == "another"


def test_pictures_that_cannot_be_kept_stop_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    path, runs = write(tmp_path, 1), tmp_path / "runs"
    monkeypatch.setattr(search.FileSystemArtifactStore, "write", full)
    with pytest.warns(RuntimeWarning, match="pictures for Optuna's dashboard: .*No space left on device; left out"):
        call(path, runs, "--seeds", "1", "epochs=1", "data_train=4", "data_val=2")
    (trial,) = tuning(path, runs, seed=(0,), epochs=(1,), data_train=(4,), data_val=(2,)).trials()
    assert trial.state == "done"


@pytest.mark.slow
def test_bad_trials_are_ended_early_and_good_ones_are_not(tmp_path: Path) -> None:
    early = {"type": "hyperband", "min_iter": 1, "eta": 2}
    path, runs = write(tmp_path, 8, early_terminate=early), tmp_path / "runs"
    call(path, runs, "--seeds", "1", "epochs=4")
    found, store = tuning(path, runs, seed=(0,), epochs=(4,)), Store(runs)
    ended = {trial.key: trial.state for trial in found.trials()}
    assert sorted(set(ended.values())) == ["done", "pruned"]
    for key, state in ended.items():
        assert (store.record(key) is None) == (state == "pruned")
        epochs = [line["epoch"] for line in store.curve(key)]
        assert next(trial.epoch for trial in found.trials() if trial.key == key) == epochs[-1]
        assert epochs[-1] == 4 if state == "done" else epochs[-1] in (1, 2), "rungs at 1, 2 and 4 evaluations"
    best = found.best(store.record)
    assert best is not None
    assert best.state == "done"


class FakeTrial:
    def __init__(self, prune_at: int) -> None:
        self.printed: list[tuple[float, int]] = []
        self.prune_at = prune_at

    def report(self, value: float, step: int) -> None:
        self.printed.append((value, step))

    def should_prune(self) -> bool:
        return len(self.printed) >= self.prune_at


def test_the_pruner_hears_of_evaluations_of_its_own_training_only(tmp_path: Path, cell: Any) -> None:
    primary = cell(epochs=6, eval_every=2).stage
    fake: Any = FakeTrial(prune_at=2)
    halt = jobs.PruneWatch(fake, primary.key)
    (tmp_path / "metrics.jsonl").write_text(line(1) + line(2, 20.0))
    halt.begin(primary, tmp_path, 2)
    halt.epoch(primary.chain[0], {"epoch": 2, "student_miou": 99.0})
    halt.epoch(primary, {"epoch": 3})
    assert fake.printed == [(20.0, 1)]
    with pytest.raises(Interrupted):
        halt.epoch(primary, {"epoch": 4, "student_miou": 21.0})
    assert fake.printed[-1] == (21.0, 2)
    halt.epoch(primary, {"epoch": 6, "student_miou": 3.0})  # it is over: nothing to end early


def test_a_diverging_trial_is_a_result(tmp_path: Path) -> None:
    space = {"lambda_pcons": {"min": 1e29, "max": 1e30}}
    path, runs = write(tmp_path, 2, space), tmp_path / "runs"
    result = call(path, runs, "--seeds", "1")
    assert "diverged" in result.stderr
    assert "lie outside what is searched" in result.stdout
    found = tuning(path, runs, seed=(0,))
    assert [trial.state for trial in found.trials()] == ["failed", "failed"]
    assert all("FloatingPointError: loss" in trial.error for trial in found.trials())
    assert found.best(Store(runs).record) is None
    assert finished(runs).keys() == {cell.stage.key for cell in found.reported()}
    call(path, runs, "--seeds", "1")
    assert len(found.trials()) == 2


@pytest.mark.slow
def test_a_killed_trial_goes_on_at_its_point(tmp_path: Path) -> None:
    path, runs = write(tmp_path, 1), tmp_path / "runs"
    process = subprocess.Popen(
        command(path, runs, "--workers", "1", "--seeds", "1", "epochs=60"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    until_checkpoint(process, runs)
    workers = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True).stdout
    for pid in (process.pid, *map(int, workers.split())):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    found = tuning(path, runs, seed=(0,), epochs=(60,))
    assert found.trials() == []
    call(path, runs, "--seeds", "1", "epochs=60")
    (trial,) = found.trials()
    record = Store(runs).record(trial.key)
    assert record is not None
    assert record["sessions"] == 2, "begun before the kill, and continued"


def test_stopped_and_dead_trials_are_handed_out_again(tmp_path: Path) -> None:
    found = tuning(write(tmp_path, 3), tmp_path)
    store = Store(tmp_path)
    queue, begun = search.prepare_search(found, store, None)
    assert begun == 0
    study = queue.open().study
    source = jobs.SearchTrials(found, 0, "tpe", "none")
    cell = source.cell(study.ask(source.distributions))
    assert cell.stage == found.own.stage, "the first one has the profile's own values"
    search.prepare_search(found, store, None)
    trials = queue.open().study.trials
    assert [t.state.name for t in trials] == ["FAIL", "WAITING", "WAITING", "WAITING"]
    assert trials[3].system_attrs["fixed_params"] == {"alpha": 0.5, "lambda_pcons": 200.0}
    assert "repeats" not in trials[3].user_attrs, "the own values"
    search.prepare_search(found, store, None)
    assert len(queue.open().study.trials) == 4, "what waits is not handed out twice"


def test_another_space_or_profile_is_another_study_but_more_trials_are_not(tmp_path: Path) -> None:
    found = tuning(write(tmp_path), tmp_path)
    assert tuning(write(tmp_path, 99), tmp_path).name == found.name
    assert tuning(write(tmp_path), tmp_path, seed=(0, 1)).name == found.name
    assert tuning(write(tmp_path), tmp_path, epochs=(3,)).name != found.name
    assert tuning(write(tmp_path), tmp_path, alpha=(0.5, 0.25)).name != found.name


def test_a_damaged_trial_is_named(tmp_path: Path) -> None:
    found = tuning(write(tmp_path), tmp_path)
    good = Trial(0, "0123456789abcdef", "done", {"alpha": 0.5, "lambda_pcons": 2.0})
    found.keep(good)
    assert found.trials() == [good]
    content = json.loads((found.folder / good.file).read_text())
    changes: list[dict[str, Any]] = [
        *({"state": "odd"}, {"point": {}}, {"point": {"alpha": 0.4, "lambda_pcons": 2.0}}, {"number": 1}),
        *({"key": "../../x"}, {"point": {"alpha": 0.5, "lambda_pcons": "x"}}, {"more": 1}),
    ]
    for text in ("{", "[]", '{"number": 0}', *(json.dumps(content | change) for change in changes)):
        (found.folder / "0000.json").write_text(text)
        with pytest.raises(InputError, match=re.escape(f"{found.folder / '0000.json'}: damaged")):
            found.trials()


def test_a_point_that_was_tried_is_not_trained_again(tmp_path: Path) -> None:
    path, runs = write(tmp_path, 6, {"alpha": {"values": [0.25, 0.5]}}, method="random"), tmp_path / "runs"
    call(path, runs, "--seeds", "1")
    found = tuning(path, runs, seed=(0,))
    assert [trial.state for trial in found.trials()] == ["done"] * 6
    keys = {trial.key for trial in found.trials()}
    assert len(keys) == 2
    best = found.best(Store(runs).record)
    assert best is not None
    assert best.number == min(trial.number for trial in found.trials() if trial.key == best.key), "of equals the first"


def test_a_trial_that_lost_its_record_is_done_again(tmp_path: Path) -> None:
    path, runs = write(tmp_path, 2), tmp_path / "runs"
    call(path, runs, "--seeds", "1")
    found = tuning(path, runs, seed=(0,))
    lost = found.trials()[1]
    shutil.rmtree(runs / lost.key)
    assert found.left(Store(runs).record) == 1
    again = call(path, runs, "--seeds", "1")
    assert "1 done, 1 to do" in again.stdout
    assert {trial.key for trial in found.trials()} >= {lost.key}
    assert len(found.trials()) == 2
    assert found.left(Store(runs).record) == 0


def test_a_fault_is_a_failure_and_its_point_is_tried_again(tmp_path: Path) -> None:
    path, runs = write(tmp_path, 1), tmp_path / "runs"
    found = tuning(path, runs, seed=(0,))
    (runs / found.own.stage.key).write_text("in the way")
    failed = call(path, runs, "--seeds", "1", code=1)
    assert "NotADirectoryError" in failed.stderr
    assert found.trials() == []
    (runs / found.own.stage.key).unlink()
    call(path, runs, "--seeds", "1")
    assert [trial.point for trial in found.trials()] == [found.own_point]


def test_nothing_is_reported_while_another_call_is_at_it(tmp_path: Path) -> None:
    path, runs = write(tmp_path, 1), tmp_path / "runs"
    found = tuning(path, runs, seed=(0,))
    queue, _ = search.prepare_search(found, Store(runs), None)
    queue.open().study.ask()
    printed = call(path, runs, "--seeds", "1", code=1)
    assert "1 trials are not done yet" in printed.stderr
    assert finished(runs) == {}


def test_numbers_of_trials_stay_what_they_were_without_the_journal(tmp_path: Path) -> None:
    found, store = tuning(write(tmp_path, 4), tmp_path), Store(tmp_path)
    for number, alpha in ((0, 0.25), (2, 0.75)):
        point: dict[str, Scalar] = {"alpha": alpha, "lambda_pcons": 2.0}
        cell = found.trial_cell(point)
        found.keep(Trial(number, cell.stage.key, "done", point, 2))
        finish(cell.stage, 40.0 + number, runs=tmp_path)
    queue, begun = search.prepare_search(found, store, None)
    trials = queue.open().study.trials
    assert begun == 3
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE", "WAITING", "WAITING"]
    assert [trial.value for trial in trials[:3]] == [40.0, None, 42.0]
    assert trials[0].intermediate_values == {1: 31.0, 2: 40.0}


# -- what others have trained --------------------------------------------------------------------------------------


def train_by_hand(found: Tuning, store: Store, point: dict[str, Scalar], **settings: tuple[Scalar, ...]) -> str:
    """Train at a point as `wandb agent` does; returns the key."""
    (cell,) = recipes.cells(found.sweep.at(point, **settings))
    store.ensure(cell.stage, no_training, cell=cell.facts)
    return cell.stage.key


def test_trainings_of_a_search_that_others_chose_become_trials(tmp_path: Path) -> None:
    path = write(tmp_path, 5)
    found, store = tuning(path, tmp_path), Store(tmp_path)
    points: list[dict[str, Scalar]] = [{"alpha": a, "lambda_pcons": x} for a, x in ((0.25, 2.0), (0.75, 31.7))]
    keys = {train_by_hand(found, store, point) for point in points}
    for settings in ({"split": ("reporting",)}, {"seed": (1,)}, {"epochs": (1,)}):  # others than the search's
        train_by_hand(found, store, points[0], **settings)
    train_by_hand(found, store, {"alpha": 0.25, "lambda_pcons": 1000.5})  # outside the ranges
    damaged = train_by_hand(found, store, {"alpha": 0.5, "lambda_pcons": 3.0})
    (tmp_path / damaged / "record.json").write_text("{")
    assert {trial.key for trial in found.elsewhere(store.keys(), store.record)} == keys

    shown = exhibits.build(exhibits.find([str(path)])[0], {}, tmp_path)
    assert "3 of 5 trials are to do." in shown.gaps
    assert found.trials() == [], "a report writes nothing"
    table = next(table for table in shown.more if table.title.startswith("Trials"))
    assert {row[-1] for row in table.rows} == {f"`{key[:8]}`" for key in keys}
    assert [row[-2] for row in table.rows] == ["elsewhere"] * 2
    assert any("2 of 2 points were chosen elsewhere" in note for note in table.notes)
    assert [row[-1] for row in shown.data["find_trials"].rows] == ["true"] * 2

    plan = seminar_here(*command(path, tmp_path, "--dry-run")[3:])
    assert "2 done, 3 to do" in plan.stdout
    assert found.trials() == [], "nor does a plan"
    queue, _ = search.prepare_search(found, store, None)
    states = ["COMPLETE", "COMPLETE", "WAITING", "WAITING", "WAITING"]
    assert [trial.state.name for trial in queue.open().study.trials] == states
    kept = found.trials()
    assert [(trial.number, trial.state, trial.elsewhere) for trial in kept] == [(0, "done", True), (1, "done", True)]
    assert {trial.key for trial in kept} == keys
    assert sorted((trial.point for trial in kept), key=lambda point: point["alpha"]) == points
    search.prepare_search(found, store, None)
    assert found.trials() == kept, "each becomes one trial"
    assert len(queue.open().study.trials) == 5
    queue.journal.unlink()
    search.prepare_search(found, store, None)
    assert found.trials() == kept
    assert [trial.state.name for trial in queue.open().study.trials] == states


def test_a_trial_that_has_just_ended_is_none_of_others(tmp_path: Path) -> None:
    found, store = tuning(write(tmp_path, 2), tmp_path), Store(tmp_path)
    queue, _ = search.prepare_search(found, store, None)
    source = jobs.SearchTrials(found, 0, "tpe", "none")
    trial = queue.open().study.ask(source.distributions)
    cell = source.cell(trial)
    store.ensure(cell.stage, no_training, cell=cell.facts)
    with search.search_study(found, store, None):
        assert found.trials() == [], "its worker keeps it in a moment"
    source.record_outcome(trial, "done", cell.stage.key, cell.stage.epochs)
    assert [one.elsewhere for one in found.trials()] == [False]


def test_a_call_that_died_while_it_made_trials_of_trainings_makes_no_second_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, store = tuning(write(tmp_path, 2), tmp_path), Store(tmp_path)
    key = train_by_hand(found, store, {"alpha": 0.25, "lambda_pcons": 2.0})
    with monkeypatch.context() as patch:
        patch.setattr(Tuning, "keep", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            search.prepare_search(found, store, None)
    with search.search_study(found, store, None) as (_, opened):
        assert [trial.user_attrs["key"] for trial in opened.trials()] == [key]
    assert [(trial.number, trial.key) for trial in found.trials()] == [(0, key)]


def test_samplers(tmp_path: Path) -> None:
    found = tuning(write(tmp_path), tmp_path)
    kinds = {
        "random": optuna.samplers.RandomSampler,
        "tpe": optuna.samplers.TPESampler,
        "gp": optuna.samplers.GPSampler,
    }
    assert kinds.keys() == {*search.samplers}
    drawn = []
    for name, kind in kinds.items():
        sampler = jobs.SearchTrials(found, 0, name, "none").make_sampler(0)
        assert isinstance(sampler, kind)
    for number, started in ((0, 0), (0, 0), (1, 0), (0, 1)):
        study = optuna.create_study(sampler=jobs.SearchTrials(found, started, "random", "none").make_sampler(number))
        drawn.append(study.ask().suggest_float("x", 0, 1))
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) == 3, "workers differ, and so do later calls"


def test_samplers_and_pruners_are_chosen_by_name(tmp_path: Path) -> None:
    early = {"early_terminate": {"type": "hyperband", "min_iter": 1, "eta": 2}}
    plain, ended = sweep.load(write(tmp_path)), sweep.load(write(tmp_path, **early))
    random = sweep.load(write(tmp_path, method="random"))
    assert search.chosen(plain, None, None) == ("tpe", "none")
    assert search.chosen(random, None, None) == ("random", "none")
    assert search.chosen(random, "gp", "median") == ("gp", "median")
    assert search.chosen(ended, None, None) == ("tpe", "hyperband")
    assert search.chosen(ended, None, "none") == ("tpe", "none")
    with pytest.raises(InputError, match="the sweep file sets its numbers; write early_terminate there"):
        search.chosen(plain, None, "hyperband")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--sampler", "gq", "sampler='gq': choose from gp, random, tpe"),
        ("--pruner", "media", "pruner='media': did you mean 'median'"),
    ],
)
def test_an_unknown_sampler_or_pruner_is_refused(tmp_path: Path, option: str, value: str, message: str) -> None:
    said = call(write(tmp_path), tmp_path / "runs", option, value, code=2)
    assert message in said.stderr
    grid = seminar_here("sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy", option, value, code=2)
    assert f"{option} {value}: no file here is a search" in grid.stderr


def test_a_missing_library_of_a_sampler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    said = call(write(tmp_path), tmp_path / "runs", "--sampler", "gp", code=2)
    assert said.stderr == "seminar: --sampler gp: the library 'scipy' is missing; install it (pip install scipy)\n"


def test_a_new_sampler_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known: Registry[Any] = Registry("sampler")
    known.add("random", search.random)
    monkeypatch.setattr(search, "samplers", known)

    @known.register("highest")
    def highest(seed: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.PartialFixedSampler({"alpha": 0.75}, optuna.samplers.RandomSampler(seed=seed))

    path, runs = write(tmp_path, 2), tmp_path / "runs"
    said = call(path, runs, "--sampler", "highest", "--seeds", "1")
    assert "bayes (sampler highest) over" in said.stdout
    own, other = tuning(path, runs, seed=(0,)).trials()
    assert own.point["alpha"] == 0.5, "the profile's own values come first"
    assert other.point["alpha"] == 0.75


def test_seeds_by_hand_are_those_of_the_report(tmp_path: Path) -> None:
    found = tuning(write(tmp_path), tmp_path, seed=(5, 6))
    assert found.own.stage.replicate == 0
    assert [cell.stage.replicate for cell in found.reported()] == [5, 6]
    several = tuning(write(tmp_path, parameters={**SPACE, "seed": {"values": [7, 8]}}), tmp_path)
    assert several.own.stage.replicate == 7
    assert [cell.stage.replicate for cell in several.reported()] == [7, 8]


# -- the report ----------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweeps").mkdir()
    shutil.copy(ROOT / "sweeps" / "tune.yaml", tmp_path / "sweeps")
    monkeypatch.chdir(tmp_path)
    return tmp_path


WORDS: dict[str, tuple[Scalar, ...]] = {"profile": ("toy",), "seed": (0, 1, 2)}


def report(name: str = "tune") -> Report:
    (entry,) = exhibits.find([name])
    return exhibits.build(entry, WORDS, Path("runs"))


def points(count: int) -> list[dict[str, Scalar]]:
    values = (0.8, 0.9, 0.95, 0.97)
    return [{"alpha": values[n % 4], "lambda_crf": 1.0 + n, "lambda_pcons": 10.0 * (count - n)} for n in range(count)]


def search_records(found: Tuning, count: int, gain: float) -> None:
    """`count` trials of rising score, the second ended early, and the best point `gain` above the profile's own."""
    for number, point in enumerate(points(count)):
        cell = found.trial_cell(point)
        found.keep(Trial(number, cell.stage.key, "pruned" if number == 1 else "done", point, 1 if number == 1 else 2))
        for stage in cell.stage.chain:
            finish(stage, 40.0 + number)
        if number == 1:
            (Path("runs") / cell.stage.key / "record.json").unlink()
    best = found.best(Store(Path("runs")).record)
    assert best is not None
    for score, cells in ((30.0, found.reported()), (30.0 + gain, found.reported(best.point))):
        for cell in cells:
            for stage in cell.stage.chain:
                finish(stage, score + stage.replicate + (0.1 * stage.replicate if score > 30 else 0))


def test_the_report_of_a_search(place: Path) -> None:
    found = tuning(Path("sweeps/tune.yaml"), Path("runs"), **WORDS)
    search_records(found, 24, gain=2.0)
    found.keep_importances({"alpha": 0.25, "lambda_crf": 0.5, "lambda_pcons": 0.25})
    built = report()
    assert built.gaps == ()
    own, best = built.main[0].rows
    assert own[0] == "the profile's own values"
    assert own[1:5] == ("0.5", "1", "200", "31.0 ± 1.0 (3)")
    assert best[1:4] == ("0.97", "24", "10")
    assert best[4:6] == ("33.1 ± 1.1 (3)", "+2.10 [1.85, 2.35]")
    assert best[8] == 63.0, "the score that chose it"
    assert built.claims["toy, small_resnet"].rows[0][3] == "holds"
    matters, trials = built.more
    assert [row[2] for row in matters.rows] == [25, 50, 25]
    assert matters.rows[1][3] == "+1.00"
    assert matters.rows[2][3] == "−1.00"
    assert "over the 23 trials" in matters.notes[1]
    assert trials.rows[0][0] == 24
    assert trials.rows[-1][0] == 2, "what was ended early stands last"
    assert trials.rows[-1][4:7] == (32.0, 1, "ended early"), "the score at which it was ended"
    assert built.figures["tune"]["png"][:4] == b"\x89PNG"
    assert len(built.data["tune_trials"].rows) == 24


def test_a_search_that_chose_the_own_values_says_so(place: Path) -> None:
    path = Path("sweeps/tune.yaml")
    content = yaml.safe_load(path.read_text())
    content["parameters"]["alpha"] = {"values": [0.5, 0.9]}  # toy's own is 0.5
    path.write_text(yaml.safe_dump(content))
    found = tuning(path, Path("runs"), **WORDS)
    assert found.own_point is not None
    cell = found.trial_cell(found.own_point)
    assert cell.stage == found.own.stage
    found.keep(Trial(0, cell.stage.key, "done", found.own_point))
    finish(cell.stage, 44.0)
    built = report()
    assert [row[0] for row in built.main[0].rows] == ["the profile's own values"]
    assert built.main[0].rows[0][8] == 44.0
    assert any("No trial was better" in note for note in built.main[0].notes)
    assert built.gaps[0] == "23 of 24 trials are to do."
    assert "seeds 0, 1, 2: missing" in built.gaps[1]
    assert built.claims["toy, small_resnet"].rows[0][3] == "inconclusive"


def test_a_search_of_ones_own_has_the_same_report(place: Path) -> None:
    one = {"lambda_pcons": {"min": 1, "max": 1000, "distribution": "log_uniform_values"}}
    path = write(place / "sweeps", 3, one, method="random")
    found = tuning(path, Path("runs"), **WORDS)
    for number, point in enumerate(({"lambda_pcons": 5.0}, {"lambda_pcons": 50.0})):
        cell = found.trial_cell(point)
        found.keep(
            Trial(number, cell.stage.key, "done" if number else "failed", point, 0, "" if number else "odd | `x`")
        )
        if number:
            finish(cell.stage, 20.0)
    built = report("sweeps/find.yaml")
    assert built.title == "a search"
    assert built.name == "find"
    assert built.figures["find"]["png"][:4] == b"\x89PNG"
    assert [row[-2] for row in built.more[1].rows] == ["done", "failed: odd | 'x'"]
