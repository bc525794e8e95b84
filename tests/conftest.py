"""What several tests need: one thread, the toy sweep, stages without a sweep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seminar import recipes, sweep
from seminar.recipes import Cell
from seminar.spec import Scalar

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)


@pytest.fixture
def cell() -> Callable[..., Cell]:
    """`cell(losses="pce", seed=1)`: the one cell of these words on the toy profile."""

    def make(**words: Scalar) -> Cell:
        request = sweep.Sweep("test", "", {"profile": ("toy",)})
        (only,) = recipes.cells(request, {word: (value,) for word, value in words.items()})
        return only

    return make


@pytest.fixture
def losses_sweep() -> sweep.Sweep:
    return sweep.load(ROOT / "sweeps" / "losses.yaml")
