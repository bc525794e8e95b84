"""The committed reference beside a newcomer's results, and a folder of reports that is of one set of records."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from analysis import exhibits, figures, summary
from analysis.__main__ import main
from analysis.summary import Estimate
from seminar.spec import InputError
from tests.conftest import ROOT
from tests.records import finish, planned

LOSSES = ("pce", "ce")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweeps").mkdir()
    for name in ("losses", "ema"):
        shutil.copy(ROOT / "sweeps" / f"{name}.yaml", tmp_path / "sweeps")
    monkeypatch.chdir(tmp_path)
    for name in ("scores_and_curves", "facts", "scores_along_axis", "gallery"):
        monkeypatch.setattr(figures, name, lambda *arguments, **options: {"png": b"png"})
    return tmp_path


def train(pce: float | None, **settings: tuple[str | int | float, ...]) -> None:
    """Table 3 with pCE at `pce`, +0, +1, +2 over three seeds; None: without masks."""
    for cell in planned("losses", profile=("toy",), losses=LOSSES, seed=(0, 1, 2), **settings):
        finish(cell.stage, None if pce is None else pce + cell.stage.replicate + 10 * (cell.stage.label == "ce"))


def test_a_mean_is_inside_the_spread_of_seeds_where_the_interval_of_the_difference_holds_0() -> None:
    # Two means of 3 seeds with deviation 1: Welch's error is sqrt(2 / 3), with 4 degrees of freedom; t(4) = 2.776.
    limit = 2.776 * (2 / 3) ** 0.5
    here = Estimate(3, 40.0, 1.0, 0.0, 0.0)
    assert summary.against(here, Estimate(3, 40.0 + limit - 0.01, 1.0)) == "inside the spread of seeds"
    assert summary.against(here, Estimate(3, 40.0 + limit + 0.01, 1.0)) == "below it"
    assert summary.against(here, Estimate(3, 40.0 - limit - 0.01, 1.0)) == "above it"
    # One seed against 3: the interval of a further seed, t(2) sqrt(1 + 1 / 3) deviations; t(2) = 4.303.
    limit = 4.303 * (4 / 3) ** 0.5
    assert summary.against(Estimate(1, 40.0 + limit - 0.01), here) == "inside the spread of seeds"
    assert summary.against(Estimate(1, 40.0 + limit + 0.02), here) == "above it"
    assert summary.against(Estimate(1, 40.0), Estimate(1, 40.0)) == "inconclusive"
    assert summary.against(Estimate(0), here) == "inconclusive"


def test_a_report_compares_with_the_reference_of_its_profile(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(40.0)
    given = ["table3", "profile=toy", f"losses={','.join(LOSSES)}", "--seeds", "3"]
    (entry,) = exhibits.find(["table3"])
    settings = {"profile": ("toy",), "seed": (0, 1, 2)}
    assert len(exhibits.build(entry, settings, Path("runs")).main) == 1, "there is no reference yet"
    assert main(["table3", "profile=toy", "--seeds", "3", "--out", "reports/reference/toy", "--quiet"]) == 0

    def against(pce: float) -> list[tuple[object, ...]]:
        train(pce)
        _, table = exhibits.build(entry, settings, Path("runs")).main
        return [row[1:] for row in table.rows]

    same = against(40.0)
    assert same[0] == ("pce", "41.0 ± 1.0 (3)", "41.0 ± 1.0 (3)", "+0.00", "inside the spread of seeds", "same keys")
    assert against(48.0)[0][3:5] == ("+8.00", "above it")
    # Another setting is another experiment, and another recipe has other keys.
    assert main([*given, "epochs=3", "--quiet"]) == 2
    train(40.0, epochs=(3,))
    report = exhibits.build(entry, {**settings, "epochs": (3,)}, Path("runs"))
    assert len(report.main) == 1
    runs = Path("reports/reference/toy/table3_runs.csv")
    pd.read_csv(runs).assign(key="other").to_csv(runs, index=False)
    assert against(40.0)[0][5] == "same settings, other keys"
    capsys.readouterr()


def test_the_steps_of_table_3_stand_beside_those_on_other_data(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the other data CRF gains 3 as here, pCons loses 3 where it gains 3 here, and pseudo-labels gain nothing
    where they gain 3 here."""
    drawn: list[tuple[Any, ...]] = []
    monkeypatch.setattr(figures, "gains", lambda *given: (drawn.append(given), {"png": b"gains"})[1])
    losses = ("pce", "pce+crf", "pce+pcons", "pce+crf+pcons", "pce+crf+pcons+pseudo")

    def train_all(level: dict[str, float], wobble: float) -> None:
        for cell in planned("losses", profile=("toy",), losses=losses, seed=(0, 1, 2)):
            name, seed = cell.stage.label, cell.stage.replicate
            finish(cell.stage, level[name] + wobble * ((len(name) * (seed + 1)) % 5))

    (entry,) = exhibits.find(["transfer"])
    settings = {"profile": ("toy",), "seed": (0, 1, 2)}
    level = {"pce": 40.0, "pce+crf": 43.0, "pce+pcons": 37.0, "pce+crf+pcons": 43.0, "pce+crf+pcons+pseudo": 43.5}
    train_all(level, 0.1)
    with pytest.raises(InputError, match="there are no results on other data in reports/reference/"):
        exhibits.build(entry, settings, Path("runs"))
    given = ["table3", "profile=toy", "--seeds", "3", "--quiet"]
    assert main([*given, "--out", "reports/reference/other"]) == 0
    train_all({**level, "pce+pcons": 43.0, "pce+crf+pcons": 46.0, "pce+crf+pcons+pseudo": 49.0}, 0.1)
    report = exhibits.build(entry, settings, Path("runs"))
    steps, sets = report.main
    found = {(str(row[0]), str(row[1])): row[2:] for row in steps.rows}
    assert {key: row[2] for key, row in found.items() if key[0] == "pCons gains on pCE"} == {
        ("pCons gains on pCE", "toy"): "holds",
        ("pCons gains on pCE", "other"): "reversed",
        ("pCons gains on pCE", "VOC, the paper"): None,
    }
    assert found["CRF gains on pCE", "other"][2] == "holds"
    assert found["CRF gains on pCE", "VOC, the paper"][0] == "MobileNet −2.10, R-101 +0.93"
    assert [row[:2] for row in sets.rows] == [("toy", 15), ("other", 15)]
    (agreement,) = report.more
    # pCE + CRF + pCons gains on pCE + pCons on both; the last step is equal within a point there, and holds here.
    assert agreement.rows == (("other", 4, 4, 2, 2, "3 of 4"),)
    ((panels, quoted, _),) = drawn
    assert list(panels) == ["toy", "other"]
    assert list(quoted) == ["MobileNet", "R-101"]
    assert panels["other"][1][1].high < 0
    # With other settings than the profile's the results on other data are none to stand beside.
    train(40.0, epochs=(3,))
    with pytest.raises(InputError, match="the settings are not those of the profile"):
        exhibits.build(entry, {**settings, "epochs": (3,)}, Path("runs"))


def test_a_folder_of_reports_is_of_one_set_of_records(place: Path) -> None:
    """What an earlier call wrote of other records is gone; what the user put there stays."""
    train(40.0)
    for cell in planned("ema", profile=("toy",), seed=(0,)):
        finish(cell.stage, 30.0)
    out = Path("reports/toy")
    assert main(["profile=toy", "--quiet"]) == 0
    assert (out / "fig5b.csv").exists()
    (out / "mine.txt").write_text("x")
    shutil.rmtree("runs")
    train(45.0)
    assert main(["sweeps/losses.yaml", "profile=toy", f"losses={','.join(LOSSES)}", "--seeds", "3", "--quiet"]) == 0
    assert main(["table3", "profile=toy", "--quiet"]) == 0
    assert not (out / "fig5b.csv").exists()
    assert (out / "mine.txt").exists()
    assert "46.0 ± 1.0 (3)" in (out / "index.html").read_text()
    assert "41.0 ± 1.0" not in (out / "index.html").read_text()


def test_one_named_exhibit_rebuilds_the_page_of_all(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(40.0)
    assert main(["table3", "profile=toy"]) == 0
    printed = capsys.readouterr().out
    assert "# Table 3" in printed
    assert "# Figs. 1, 6" not in printed, "only what was named is printed"
    assert (Path("reports/toy") / "logged.csv").exists()
    assert main(["table3", "profile=toy", "--out", "alone", "--quiet"]) == 0
    assert {path.stem for path in Path("alone").iterdir()} == {"table3", "table3_claims", "table3_runs"}


def test_what_was_never_planned_is_left_out_with_the_command(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(40.0)
    assert main(["profile=toy"]) == 0
    assert "left out: Fig. 5b: EMA alpha: not planned in runs/; `make ablation-ema`" in capsys.readouterr().out
    assert not (Path("reports/toy") / "fig5b.md").exists()


def test_photos_without_masks(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No score anywhere: tables of scores are left out with the reason, what was logged is shown."""
    train(None)
    assert main(["profile=toy", f"losses={','.join(LOSSES)}", "seed=0,1,2"]) == 0
    printed = capsys.readouterr().out
    reason = "no validation image has a mask, so nothing can be scored"
    assert f"left out: Table 3: the contribution of each loss term: {reason}" in printed
    assert "# Beyond the paper: what each loss term did while training" in printed
    assert not list(Path("reports/toy").rglob("table3*"))


def test_the_committed_tables_are_those_of_the_committed_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records, curves and plans of the reference are committed as well, so anybody can rebuild its numbers."""
    monkeypatch.chdir(ROOT)
    folder = ROOT / "reports" / "reference" / "creatures"
    names = ("table1", "table2", "table3", "rivals", "pseudo", "fig4", "fig5a", "fig5b", "fig5c")
    names = (*names, "supp_table1", "supp_table2", "conventions", "crf")
    assert main([*names, "--runs", str(folder / "runs"), "--out", str(tmp_path), "--quiet"]) == 0
    written = sorted(path.name for path in folder.glob("*.csv") if path.name.split(".")[0].split("_runs")[0] in names)
    assert len(written) == 2 * len(names)
    for name in (*written, "table3_claims.csv", "table1_claims.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes(), name


@pytest.mark.parametrize("page", ["README.md", "reports/README.md"])
def test_the_pages_quote_the_committed_table_3(page: str) -> None:
    """Each row of the table, to the digits shown: mean and spread, difference with its interval, oracle bias."""
    text = (ROOT / page).read_text()
    head = "| losses | mIoU (n) | difference | + oracle background bias |\n"
    assert text.count(head) == 1
    quoted = [line.split("|")[2:5] for line in text.split(head)[1].split("\n\n")[0].splitlines()[1:]]
    rows = pd.read_csv(ROOT / "reports" / "reference" / "creatures" / "table3.csv").to_dict("records")
    assert len(quoted) == len(rows)
    for (score, difference, bias), row in zip(quoted, rows):
        assert score.strip() == f"{row['miou_mean']:.1f} ± {row['miou_std']:.1f} ({row['miou_n']})"
        gain = f"{row['difference_mean']:+.1f} [{row['difference_low']:.1f}, {row['difference_high']:.1f}]"
        assert difference.split(" to ")[0].strip() == (gain if row["difference_n"] else "")
        assert bias.strip() == f"{row['miou_bias']:.1f}"
