"""A committed sweep replayed: tables from records that were trained once must not change by themselves.

After a change on purpose (keys, RECIPE, columns): `python -m tests.test_golden` trains the sweep anew (a minute),
rebuilds the tables, and leaves the difference to `git diff`.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from analysis.__main__ import main
from seminar import __main__ as command
from tests.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
WORDS = ["profile=toy", "seed=0,1"]
TABLES = ("table3.csv", "table3_claims.csv", "table3_runs.csv")
KEPT = ("stage.json", "record.json", "metrics.jsonl")


def rebuild(runs: Path, out: Path) -> None:
    assert main(["sweeps/losses.yaml", *WORDS, "--runs", str(runs), "--out", str(out), "--quiet"]) == 0


def test_tables_of_the_committed_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    rebuild(GOLDEN / "runs", tmp_path)
    for name in TABLES:
        found = (tmp_path / name).read_text()
        assert not re.search(r"\d missing|not planned", found), "the keys have changed: python -m tests.test_golden"
        assert found == (GOLDEN / name).read_text(), name


def remake() -> None:
    """Train the sweep and write what the test reads."""
    with tempfile.TemporaryDirectory() as folder:
        runs, out = Path(folder) / "runs", Path(folder) / "out"
        if command.main(["sweep", "sweeps/losses.yaml", *WORDS, "--runs", str(runs), "--wandb", "disabled"]):
            sys.exit("the sweep failed")
        shutil.rmtree(GOLDEN, ignore_errors=True)
        for record in sorted(runs.glob("*/record.json")):
            target = GOLDEN / "runs" / record.parent.name
            target.mkdir(parents=True)
            for name in KEPT:
                shutil.copy(record.parent / name, target / name)
        rebuild(GOLDEN / "runs", out)
        for name in TABLES:
            shutil.copy(out / name, GOLDEN / name)


if __name__ == "__main__":
    remake()
