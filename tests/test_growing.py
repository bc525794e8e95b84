"""The report that grows while a sweep runs, seed by seed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from analysis.page import page
from seminar import growing, jobs, recipes, sweep
from seminar.__main__ import main
from seminar.catalogue import Cell
from seminar.growing import GrowingReport, SeedCount
from seminar.plan import schedule
from tests.conftest import ROOT

MakeCell = Callable[..., Cell]

LOSSES = str(ROOT / "sweeps" / "losses.yaml")


def test_a_seed_is_complete_once_all_its_cells_are_done(cell: MakeCell) -> None:
    cells = [cell(losses=losses, seed=seed) for seed in (3, 4) for losses in ("pce", "pce+crf+pcons+pseudo")]
    done = {cells[0].stage.key}
    seeds = SeedCount(cells, done.__contains__)
    assert (seeds.complete, seeds.total) == (0, 2), "the second student of a chain is of the seed of the first"
    assert not seeds.update()
    done.add(cells[1].stage.key)
    assert seeds.update()
    assert not seeds.update(), "it is news once"
    assert seeds.complete == 1
    done |= {each.stage.key for each in cells}
    assert seeds.update()
    assert seeds.complete == 2
    assert SeedCount(cells, done.__contains__).complete == 2, "of earlier calls"


def test_cells_are_handed_out_seed_by_seed(losses_sweep: sweep.Sweep) -> None:
    cells = recipes.cells(losses_sweep, {"profile": ("toy",), "seed": (0, 1, 2)})
    seconds = {stage.key: 10.0 * len(stage.losses) for cell in cells for stage in cell.stage.chain}
    order, _ = schedule(cells, seconds, 1)
    assert [cell.stage.replicate for cell in order] == [0] * 6 + [1] * 6 + [2] * 6
    order, _ = schedule(cells, seconds, 2)
    last = {seed: max(place for place, cell in enumerate(order) if cell.stage.replicate == seed) for seed in (0, 1)}
    assert last[0] <= 7, "all but what waits for an ancillary comes first"
    assert last[1] <= 13


def test_a_sweep_prints_a_table_after_each_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    grown: list[threading.Thread] = []
    start = GrowingReport.grow

    def grow(self: GrowingReport) -> None:
        start(self)
        assert self._thread is not None
        self._thread.join()  # else the next seed is done before the report has looked
        grown.append(self._thread)

    monkeypatch.setattr(GrowingReport, "grow", grow)
    monkeypatch.setattr(growing, "SHARE", 1.0)
    settings = ["profile=toy", "losses=pce,ce", "--seeds", "3", "--workers", "0", "--wandb", "disabled"]
    out = tmp_path / "out"
    assert main(["sweep", LOSSES, *settings, "--runs", str(tmp_path / "runs"), "--report", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert len(grown) == 2, "the last seed's is the last report"
    assert "losses: 1 of 3 seeds done" in printed
    assert "losses: 2 of 3 seeds done" in printed
    assert printed.index("1 of 3") < printed.index("2 of 3") < printed.index("# Table 3")
    assert (out / "table3.md").read_text(encoding="utf-8").count("3 done") >= 2


def test_stopped_early_the_report_is_of_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(jobs, "run", stopped)
    settings = ["profile=toy", "losses=pce", "--seeds", "1", "--workers", "0", "--wandb", "disabled", "--report"]
    assert main(["sweep", LOSSES, *settings, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 130
    assert "1 missing" in (tmp_path / "out" / "table3.md").read_text(encoding="utf-8")


def test_reports_take_a_small_part_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    now = [0.0]

    def run(command: list[str], **_: object) -> object:
        made.append(command[3:])
        now[0] += 10.0
        return type("Made", (), {"stdout": "", "returncode": 3})

    monkeypatch.setattr(growing.subprocess, "run", run)
    monkeypatch.setattr(growing.time, "monotonic", lambda: now[0])
    report = GrowingReport(["a.yaml"], ["--wandb=online"])

    def grow(at: float) -> None:
        now[0] = at
        report.grow()
        assert report._thread is not None
        report._thread.join()

    grow(0.0)
    grow(150.0)
    assert made == [["a.yaml", "--running"]], "ten seconds are more than a twentieth of 150"
    grow(201.0)
    assert len(made) == 2
    assert report.finish() == 3
    assert made[2] == ["a.yaml", "--wandb=online"]


def test_the_page_of_a_running_sweep_loads_itself_again() -> None:
    running = page("t", [], [], ["losses: 1 of 4 seeds done", "ema: 2 of 3 seeds done"], running=True)
    assert '<meta http-equiv="refresh" content="20">' in running
    assert "losses: 1 of 4 seeds done; ema: 2 of 3 seeds done." in running
    ended = page("t", [], [], ["losses: 4 of 4 seeds done"])
    assert "refresh" not in ended
    assert "4 of 4 seeds done" in ended
