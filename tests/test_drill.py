"""A short drill; `make drill` is the long one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import drill


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the drill finds its processes in /proc")
def test_killed_at_random_a_sweep_ends_as_if_undisturbed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drill, "WORDS", {"profile": "toy", "losses": "pce,pce+pcons", "seed": "0"})
    numbers = drill.run(kills=1, epochs=30, seed=0, storage=None, folder=tmp_path)
    assert drill.failures(numbers) == []
    assert sum(numbers["kills"].values()) == 2, "and everything at the end"
    assert numbers["trainings"] == 2


def test_a_drill_sees_what_is_lost_repeated_or_changed() -> None:
    good = {"lost": 0, "epochs saved twice": 0, "differs": [], "calls to finish": 1}
    assert drill.failures(good) == []
    for name, value in (("lost", 1), ("epochs saved twice", 2), ("differs", ["table3.csv"]), ("calls to finish", 2)):
        assert drill.failures({**good, name: value}) == [f"{name}: {value}"]
