"""What several tests need: one thread, the toy sweep, stages without a sweep."""

from __future__ import annotations

import io
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from seminar import recipes, sweep
from seminar.__main__ import main
from seminar.catalogue import Cell
from seminar.spec import Scalar

ROOT = Path(__file__).resolve().parent.parent
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests, and the programs they start, keep digests of files elsewhere than the user does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def cell() -> Callable[..., Cell]:
    """`cell(losses="pce", seed=1)`: the one cell of these words on the toy profile."""

    def make(**settings: Scalar) -> Cell:
        return recipes.one({"profile": "toy", **settings})

    return make


class Said(NamedTuple):
    """What a command wrote."""

    stdout: str
    stderr: str


def seminar_here(*arguments: str, code: int = 0) -> Said:
    """Run a command in this process, without a new interpreter; it must end with `code`."""
    result: object
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    out, errors = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(errors):
            result = main(arguments)
    except SystemExit as ended:  # by argparse
        result = ended.code
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert result == code, out.getvalue() + errors.getvalue()
    return Said(out.getvalue(), errors.getvalue())


def until_checkpoint(process: subprocess.Popen[str], runs: Path) -> None:
    """Wait until a program has finished and saved an epoch; it must not end before."""
    deadline = time.monotonic() + 120
    while not list(runs.glob("*/checkpoint.pt")):  # written after the epoch's line, by rename
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def losses_sweep() -> sweep.Sweep:
    return sweep.load(ROOT / "sweeps" / "losses.yaml")
