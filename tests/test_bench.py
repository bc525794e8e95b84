"""The benchmark measures what it says, and leaves everything as it was."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from seminar.losses import losses
from tests import bench


@pytest.mark.slow
def test_the_parts_of_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.Bench, "groups", lambda _: {"toy": {"profile": "toy"}})
    monkeypatch.setattr(bench, "peak_memory", lambda *_: 1)
    monkeypatch.setattr(bench, "SHORT_STEP", math.inf)  # else a slow machine measures fewer rounds
    before = torch.Tensor.backward, {name: losses[name].make for name in losses}
    monkeypatch.setattr("sys.argv", ["bench", "step", "--rounds", "1", "--out", str(tmp_path)])
    assert bench.main() == 0
    assert (torch.Tensor.backward, {name: losses[name].make for name in losses}) == before
    found = json.loads((tmp_path / "cpu.json").read_text())["step"]["toy"]
    assert list(found) == list(bench.LOSSES)
    for names, case in found.items():
        parts = set(case["parts"]) - {"other"}
        expected = {"data", "student", "backward", "optimiser", *names.split("+")}
        expected |= {"teacher", "EMA"} if "pcons" in names else set()
        expected |= {"ancillary"} if "pseudo" in names else set()
        assert parts == expected
        assert len(case["seconds"]) == bench.SHORT
        assert all(seconds >= 0 for seconds in case["parts"].values()), "nothing is counted twice"
    table = (tmp_path / "cpu.md").read_text()
    assert "| toy | pce | " in table and "| 1.00 | 1 |" in table
    assert (tmp_path / "cpu.png").stat().st_size > 10_000
    assert (
        table.split("**Training step**")[1]
        in "**Training step**" + capsys.readouterr().out.split("**Training step**")[1]
    )


def test_a_clock_adds_up() -> None:
    clock = bench.Clock("cpu")
    ticks = iter(range(100))
    clock.now = lambda: float(next(ticks))  # type: ignore[method-assign]

    class Thing:
        def work(self, amount: int) -> int:
            [next(ticks) for _ in range(amount)]
            return amount

    thing = Thing()
    undo = clock.wrap(thing, "work", "work")
    assert [thing.work(3), thing.work(0)] == [3, 0]
    undo()
    thing.work(5)
    assert clock.seconds == {"work": 4 + 1}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--rounds", "0"], "--rounds 0: at least 1 is needed"),
        (["steps"], "steps: choose from step, evaluation"),
        (["--out", "/dev/null/x"], "Not a directory"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", *arguments])
    with pytest.raises(SystemExit, match="2"):
        bench.main()
    assert why in capsys.readouterr().err.splitlines()[-1]


def test_a_part_replaces_no_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(bench.PARTS, "start", lambda _: ([], {}))
    monkeypatch.setattr("sys.argv", ["bench", "start"])
    assert bench.main() == 0
    assert not [*tmp_path.iterdir()]
