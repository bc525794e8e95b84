"""`SEEDS=auto`: when it stops, what it says, and what reports make of it. Nothing is trained."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from analysis import auto, exhibits, figures, statistics
from analysis.__main__ import main as report
from tests.records import finish, planned, write_sweep

LOSSES = ("pce", "pce+crf", "pce+pcons", "pce+crf+pcons", "pce+crf+pcons+pseudo", "ce")
Score = Callable[[str, int], float]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with the sweep of Table 3 for the smallest profile; figures cost no time."""
    monkeypatch.chdir(tmp_path)
    Path("sweeps").mkdir()
    write_sweep("losses", profile=["toy"], losses=list(LOSSES), seed=[0, 1, 2])
    for name in ("scores_and_curves", "facts", "gallery"):
        monkeypatch.setattr(figures, name, lambda *arguments, **options: {"png": b"png"})
    return tmp_path


@pytest.fixture
def trained(place: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of seeds that were to be trained; each row is 3 points above the one before, spread 1."""
    return stand_in(monkeypatch, lambda label, seed: 40 + 3 * LOSSES.index(label) + noise(label, seed))


def noise(label: str, seed: int) -> float:
    return float(np.random.default_rng([LOSSES.index(label), seed]).standard_normal())


def stand_in(monkeypatch: pytest.MonkeyPatch, score: Score, name: str = "losses") -> list[int]:
    """Put records where a sweep would train; returns the list of seeds that it was called with."""
    called: list[int] = []

    def train(options: argparse.Namespace, seeds: int, passed_on: Sequence[str]) -> int:
        called.append(seeds)
        for cell in planned(name, seed=tuple(range(seeds))):
            finish(cell.stage, score(cell.stage.label, cell.stage.replicate))
        return 0

    monkeypatch.setattr(auto, "_train", train)
    return called


def verdicts() -> tuple[list[str], str, list[int]]:
    """The verdicts of Table 3 as a report without settings gives them, its notes, and the seeds of each claim."""
    (entry,) = exhibits.find(["table3"])
    (claims,) = exhibits.build(entry, {}, Path("runs")).claims.values()
    return [str(row[3]) for row in claims.rows], "\n".join(claims.notes), [int(str(row[2])) for row in claims.rows]


def test_it_stops_at_the_look_that_decides_every_claim(trained: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert auto.main(["sweeps/losses.yaml"]) == 0
    out = capsys.readouterr().out
    assert trained == [2, 4, 8]
    assert "2 seeds: 4 of 4 claims are not decided; going on to 4\n" in out
    assert out.endswith("stopped after 8 seeds: every claim is decided\n")
    found, notes, seeds = verdicts()
    assert "inconclusive" not in found
    assert seeds == [8] * 4
    # 2 - 2 Phi(1.96 / sqrt(1 / 2)) less the same at 1 / 4.
    spent = 200 * (stats.norm.sf(1.95996 / 0.5**0.5) - stats.norm.sf(1.95996 / 0.25**0.5))
    assert f"this one, at 8, has {spent:.2g} %. Stopped after 8: every claim is decided." in notes
    assert report(["table3", "--out", "out", "--quiet"]) == 0
    assert "Looked at after 2, 4, 8, 16 seeds" in " ".join(Path("out/table3.md").read_text().split())


def test_an_interval_at_a_look_is_wider_than_without_looks(trained: list[int]) -> None:
    assert auto.main(["sweeps/losses.yaml", "--looks", "2,4"]) == 0
    assert auto.main(["sweeps/losses.yaml", "--looks", "4,40", "--minutes", "1e-9"]) == 0
    early, notes, _ = verdicts()
    assert set(early) == {"inconclusive"}
    assert "To decide" not in notes, "more seeds are added by the looks"
    next(Path("runs/looks").iterdir()).unlink()
    (entry,) = exhibits.find(["table3"])
    (claims,) = exhibits.build(entry, {"seed": (0, 1, 2, 3)}, Path("runs")).claims.values()
    assert "holds" in [row[3] for row in claims.rows]


def test_it_ends_with_the_last_look(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = stand_in(monkeypatch, lambda label, seed: 40 + 2 * noise(label, seed + 100))
    assert auto.main(["sweeps/losses.yaml", "--looks", "2,3"]) == 0
    assert called == [2, 3]
    assert "stopped after 3 seeds: the last planned look, with 4 of 4 claims not decided" in capsys.readouterr().out
    assert "Stopped after 3: the last planned look, with 4 of 4 claims not decided." in verdicts()[1]


def test_claims_about_rows_that_are_left_out_are_not_waited_for(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_sweep("losses", profile=["toy"], losses=["pce", "pce+crf"], seed=[0])
    stand_in(monkeypatch, lambda label, seed: 40 + 9 * LOSSES.index(label) + 0.1 * noise(label, seed))
    assert auto.main(["sweeps/losses.yaml"]) == 0
    assert "stopped after 4 seeds: every claim is decided" in capsys.readouterr().out


def test_a_budget_ends_it_before_the_look_that_would_not_fit(
    trained: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(0, 100_000, 60))  # a minute passes whenever somebody looks
    monkeypatch.setattr(auto.time, "monotonic", lambda: next(clock))
    # Start 0, before training 1, after it 2: half a minute a seed. At the end it is 3; two seeds more would make 4.
    assert auto.main(["sweeps/losses.yaml", "--minutes", "3.9"]) == 0
    assert trained == [2]
    assert "the next look would not fit 3.9 minutes, with 4 of 4 claims not decided" in capsys.readouterr().out


def test_a_sweep_that_fails_ends_it(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "_train", lambda *arguments: 2)
    assert auto.main(["sweeps/losses.yaml"]) == 2
    assert not Path("runs/looks").exists()


def test_a_dry_run_plans_the_last_look_alone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[list[str]] = []

    class Done:
        returncode = 0

    monkeypatch.setattr(auto.subprocess, "run", lambda command, check: called.append(command[2:]) or Done())
    assert auto.main(["sweeps/losses.yaml", "alpha=0.9", "--looks", "2,5", "--", "--dry-run", "--workers", "2"]) == 0
    assert called == [
        [
            "seminar",
            "sweep",
            "sweeps/losses.yaml",
            "alpha=0.9",
            "--seeds",
            "5",
            "--runs",
            "runs",
            "--dry-run",
            "--workers",
            "2",
        ]
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweeps/losses.yaml", "seed=1"], "seed= is given as well"),
        (["sweeps/mine.yaml"], "nothing is claimed about it"),
        (["sweeps/none.yaml"], "none.yaml"),
        (["sweeps/losses.yaml", "--margin", "nan"], "--margin 'nan': points of mIoU between 0 and 100"),
    ],
)
def test_wrong_input_is_one_line(
    trained: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    write_sweep("mine", profile=["toy"], losses=["pce", "ce"], seed=[0])
    if arguments[0].endswith("mine.yaml"):
        stand_in(monkeypatch, lambda label, seed: 40.0 + seed, "mine")
    assert auto.main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert not list(Path("runs").glob("looks/*"))


@pytest.mark.parametrize("option", [["--looks", "4,2"], ["--looks", "1,2"], ["--looks", "x"], ["--minutes", "0"]])
def test_wrong_looks_and_minutes_are_refused(place: Path, option: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        auto.main(["sweeps/losses.yaml", *option])
    assert stopped.value.code == 2


def test_other_settings_are_not_of_these_looks(trained: list[int]) -> None:
    assert auto.main(["sweeps/losses.yaml"]) == 0
    planned(seed=(0, 1), alpha=(0.9,))
    (entry,) = exhibits.find(["table3"])
    (claims,) = exhibits.build(entry, {"alpha": (0.9,), "seed": (0, 1)}, Path("runs")).claims.values()
    assert "Looked at" not in "\n".join(claims.notes)


def test_the_looks_share_the_level() -> None:
    looks = (2, 4, 8, 16)
    parts = [statistics.share(0.05, looks, seeds) for seeds in looks]
    assert sum(parts) == pytest.approx(0.05)
    assert parts == sorted(parts)
    # 2 (1 - Phi(1.96 / sqrt(1 / 8))) = 2 (1 - Phi(5.54)).
    assert parts[0] == pytest.approx(2 * stats.norm.sf(1.959964 * 8**0.5), rel=1e-4)
    assert statistics.share(0.05, looks, 5) == parts[1]
    assert statistics.share(0.05, looks, 99) == parts[3]
    assert statistics.share(0.05, (), 4) == 0.05
