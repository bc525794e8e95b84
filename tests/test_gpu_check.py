"""The check of a card, rehearsed without one."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import gpu_check
from tests.conftest import ROOT
from tests.gpu_check import CHECKS, SYNC, Check, Outcome, Run

CPU = ["--device", "cpu", "--quick"]


def checks_of(out: Path) -> dict[str, dict[str, Any]]:
    found = json.loads((out / "rehearsal-on-a-cpu.json").read_text())
    return {each["name"]: each for each in found["checks"]}


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
    assert list(steps) == list(gpu_check.LOSSES)
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


def test_trackers_are_not_imported() -> None:
    code = "import sys, tests.gpu_check; print(*{'optuna', 'wandb', 'pandas', 'matplotlib'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not done.stdout.split()
