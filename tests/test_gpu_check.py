"""The check of a card, rehearsed without one."""

from __future__ import annotations

import itertools
import json
import math
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from seminar import cost
from seminar.spec import InputError
from tests import gpu_check
from tests.conftest import ROOT
from tests.gpu_check import CHECKS, SYNC, Check, Outcome, Run

CPU = ["--device", "cpu", "--quick"]


def checks_of(out: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((out / "rehearsal-on-a-cpu.json").read_text())
    return {each["name"]: each for each in found["checks"]}


@pytest.mark.slow
def test_a_rehearsal_on_the_cpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["environment", "losses", "syncs", "repeat", "torchrun", "steps-mobilenet_v2-fp32", "plan"]
    assert gpu_check.main([*CPU, "--only", *names, "--out", str(tmp_path)]) == 0
    found = checks_of(tmp_path)
    assert list(found) == names
    states = ["measured", "ok", "skipped", "ok", "skipped", "measured", "measured"]
    assert [each["state"] for each in found.values()] == states
    printed = capsys.readouterr().out.splitlines()
    table = (tmp_path / "rehearsal-on-a-cpu.md").read_text()
    for name, each in found.items():
        assert any(line.split()[:2] == [name, each["state"]] for line in printed)
        assert f"| {name} | {each['state']} | " in table
    assert found["syncs"]["number"] == "needs CUDA"
    assert found["repeat"]["number"].startswith("bit for bit")
    assert {case["loss"] for case in found["losses"]["data"]} >= {"pce", "ce", "pcons", "crf operator=exact", "pseudo"}
    steps = found["steps-mobilenet_v2-fp32"]["data"]
    assert list(steps) == list(gpu_check.PAPER)
    assert all(len(case["step"]) == 3 and min(case["step"]) > 0 for case in steps.values())
    assert ["crf" in case for case in steps.values()] == ["crf" in names for names in steps]
    groups = {name: group["trainings"] for name, group in found["plan"]["data"].items()}
    assert groups["Table 3, both backbones"] == 12
    assert 12 < groups["Table 3 and Figs. 4 and 5"] < groups["all grids"]


def a_check(name: str, number: float, limit: float) -> Check:
    return Check(name, lambda _: gpu_check.within(number, limit, "off by"))


def broken(_: Run) -> Outcome:
    raise RuntimeError("two\nlines")


def test_what_fails_leaves_the_others_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = [Check("broken", broken), a_check("far", 2, 1), a_check("lost", float("nan"), 1), a_check("near", 0.5, 1)]
    monkeypatch.setattr(gpu_check, "CHECKS", {each.name: each for each in checks})
    assert gpu_check.main([*CPU, "--out", str(tmp_path)]) == 1
    found = checks_of(tmp_path)
    assert [each["state"] for each in found.values()] == ["FAILED", "FAILED", "FAILED", "ok"]
    assert found["broken"]["number"] == "RuntimeError: two lines"
    assert "in broken" in found["broken"]["traceback"]
    assert "off by 2 (limit 1)" in capsys.readouterr().out


def test_a_kill_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: Run) -> Outcome:
        raise KeyboardInterrupt

    checks = [a_check("near", 0.5, 1), Check("killed", killed)]
    monkeypatch.setattr(gpu_check, "CHECKS", {each.name: each for each in checks})
    with pytest.raises(KeyboardInterrupt):
        gpu_check.main([*CPU, "--out", str(tmp_path)])
    assert list(checks_of(tmp_path)) == ["near"]


def test_what_the_budget_does_not_hold_is_not_passed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def slow(_: Run) -> Outcome:
        now[0] += 400
        return Outcome("ok", "")

    checks = [Check("first", slow), Check("dear", slow, least=300), Check("second", slow), Check("third", slow)]
    monkeypatch.setattr(gpu_check, "CHECKS", {each.name: each for each in checks})
    monkeypatch.setattr(gpu_check.time, "monotonic", lambda: now[0])
    assert gpu_check.main([*CPU, "--out", str(tmp_path)]) == 0
    found = checks_of(tmp_path)
    assert [each["state"] for each in found.values()] == ["ok", "not run", "ok", "not run"]
    assert found["third"]["number"] == "time is up"


def test_without_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)
    assert gpu_check.main([]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("gpu-check: there is no CUDA card here")
    assert len(captured.err.splitlines()) == 1
    assert not captured.out
    assert not list(tmp_path.iterdir())


def test_some_checks_replace_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert gpu_check.main([*CPU, "--only", "torchrun"]) == 0
    assert not list(tmp_path.iterdir())


def test_names_of_checks(capsys: pytest.CaptureFixture[str]) -> None:
    assert [each.name for each in gpu_check.chosen_checks(["plan", "steps"])] == [
        *(name for name in CHECKS if name.startswith("steps-")),
        "plan",
    ]
    with pytest.raises(SystemExit, match="2"):
        gpu_check.main(["--only", "loss"])
    assert "loss: choose from environment, losses" in capsys.readouterr().err


def test_syncs_are_counted() -> None:
    before = warnings.showwarning

    def wait_twice() -> None:
        for _ in range(2):
            warnings.warn(SYNC, UserWarning, stacklevel=1)
        warnings.warn("something else", UserWarning, stacklevel=1)

    places = gpu_check.places_of_syncs(wait_twice)
    assert len(places) == 2
    assert "test_gpu_check.py" in places[0]
    assert warnings.showwarning is before


def test_a_step_that_was_not_measured_is_added_up() -> None:
    times = {"pce": 10.0, "pce+crf": 12.0, "pce+pcons": 15.0, "pce+crf+pcons": 18.0, "pce+crf+pcons+pseudo": 22.0}
    data = {names: {"step": [middle]} for names, middle in times.items()}
    assert gpu_check.step_ms(data, {"crf", "pce"}) == 12
    assert gpu_check.step_ms(data, {"ce"}) == 10
    assert gpu_check.step_ms(data, {"pce", "crf", "pseudo"}) == 10 + 2 + 4


def test_curves_are_compared_by_epoch() -> None:
    one = [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}]
    assert gpu_check.apart(one, one) == 0
    assert gpu_check.apart(one, [one[0], {"epoch": 2, "loss": 2.0}]) == 0.5
    assert gpu_check.apart(one, one[:1]) == float("inf")
    assert gpu_check.apart([one[0], one[0]], [one[0], one[0]]) == float("inf")


@pytest.mark.slow
def test_trackers_are_not_imported() -> None:
    code = "import sys, tests.gpu_check; print(*{'optuna', 'wandb', 'pandas', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not done.stdout.split()


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run as if on a card: what a check finds there is put in its place by each test."""
    monkeypatch.setattr(Run, "cuda", True)
    for name, value in {
        "synchronize": None,
        "set_sync_debug_mode": None,
        "set_per_process_memory_fraction": None,
        "current_device": 0,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *_: SimpleNamespace(total_memory=2**33))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a card")
    return Run(tmp_path, torch.device("cpu"), True, math.inf)


@pytest.mark.parametrize(
    ("wrong", "kinds", "total", "state"),
    [
        ([], {"pce: student": "float32"}, 10, "ok"),
        (["aspp"], {}, 10, "FAILED"),
        ([], {"pce: student": "bfloat16"}, 10, "FAILED"),
        ([], {}, 0, "FAILED"),
    ],
)
def test_layout_fails_at_one_wrong_output(
    card: Run, monkeypatch: pytest.MonkeyPatch, wrong: list[str], kinds: dict[str, str], total: int, state: str
) -> None:
    monkeypatch.setattr(gpu_check, "with_trainer", lambda *_: (total, wrong, kinds))
    assert gpu_check.layout(card).state == state


@pytest.mark.parametrize(("found", "seen", "state"), [([], 1, "ok"), (["crf.py:1"], 1, "FAILED"), ([], 0, "FAILED")])
def test_waits_fail_and_so_does_a_counter_that_counts_nothing(
    card: Run, monkeypatch: pytest.MonkeyPatch, found: list[str], seen: int, state: str
) -> None:
    monkeypatch.setattr(gpu_check, "with_trainer", lambda *_: found)
    monkeypatch.setattr(gpu_check, "places_of_syncs", lambda _: ["here"] * seen)
    assert gpu_check.syncs(card).state == state


@pytest.mark.parametrize(
    ("reported", "state"),
    [
        ("pce: does not fit on a card; these would: crop=65", "ok"),
        ("pce: does not fit on a card; nor does any smaller setting that was tried", "FAILED"),
        (None, "FAILED"),
    ],
)
def test_memory_wants_a_refusal_with_settings_that_fit(
    card: Run, monkeypatch: pytest.MonkeyPatch, reported: str | None, state: str
) -> None:
    def survey(*_: object) -> None:
        if reported is not None:
            raise InputError(reported)

    monkeypatch.setattr(cost, "survey_here", survey)
    assert gpu_check.memory(card).state == state


def test_a_sweep_that_trained_nothing_fails(card: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "call", lambda *_: None)
    outcome = gpu_check.whole_sweep(card)
    assert (outcome.state, outcome.limit) == ("FAILED", "6 done")


@pytest.mark.parametrize(("off", "state"), [(1.0, "ok"), (1.01, "FAILED"), (math.nan, "FAILED")])
def test_curves_and_repetitions_that_differ_fail(
    card: Run, monkeypatch: pytest.MonkeyPatch, off: float, state: str
) -> None:
    monkeypatch.setattr(gpu_check, "curve", lambda *_: [2.0] * 8)
    found = itertools.cycle([[2.0] * 8, [2.0 * off] * 8])
    monkeypatch.setattr(gpu_check, "with_trainer", lambda *_: next(found))
    assert gpu_check.repeat(card).state == state
    monkeypatch.setattr(gpu_check, "with_trainer", lambda *_: [2.0 * off] * 8)
    assert gpu_check.curves(card).state == state


@pytest.mark.parametrize(("value", "gradient"), [(1.001, 1.0), (1.0, 1.1), (math.nan, 1.0), (1.0, math.nan)])
def test_a_loss_that_is_off_on_the_device_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float, gradient: float
) -> None:
    calls, plain = itertools.count(), gpu_check.value_and_gradient

    def found(entry: Any, *rest: Any) -> tuple[float, torch.Tensor]:
        one, other = plain(entry, *rest)
        there = next(calls) % 2 and entry.name == "pcons"  # the CPU is asked first
        return (one * value, other * gradient) if there else (one, other)

    monkeypatch.setattr(gpu_check, "value_and_gradient", found)
    outcome = gpu_check.loss_terms(Run(tmp_path, torch.device("cpu"), True, math.inf))
    assert outcome.state == "FAILED"
    assert "pcons" in outcome.number


def test_distances_are_relative() -> None:
    one, other = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert gpu_check.far(other, one) == pytest.approx(0.1)
    assert gpu_check.relative(1.1, 1.0) == pytest.approx(0.1)
    assert gpu_check.largest(0.0, math.nan) == gpu_check.largest(math.nan, 0.0) == math.inf
