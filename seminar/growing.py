"""The report of a sweep that still runs, made again each time all trainings of another seed are done."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence

from tqdm import tqdm

from seminar.catalogue import Cell
from seminar.spec import InputError

SHARE = 0.05
"""The largest part of the time that reports may take: on a small machine they wait for the trainings, not the trainings
for them. The first one is always made."""


def margin(text: str) -> float:
    """Return what the option --margin gives. Raises `InputError` for no number of points."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 100:
        raise InputError(f"--margin {text!r}: points of mIoU between 0 and 100, as 1 or 0.5")
    return value


class SeedCount:
    """Counts the seeds of which every cell is done. `done(key)`: whether a training is done."""

    def __init__(self, cells: Iterable[Cell], done: Callable[[str], bool]) -> None:
        self._done = done
        self._open: dict[int, set[str]] = {}
        for cell in cells:
            self._open.setdefault(cell.stage.replicate, set()).add(cell.stage.key)
        self.total = len(self._open)
        self.complete = 0
        self.update()

    def update(self) -> bool:
        """Look again; returns whether another seed became complete. Trainings of other calls count as well."""
        before = self.complete
        for seed, keys in [*self._open.items()]:
            keys -= {key for key in keys if self._done(key)}
            if not keys:
                del self._open[seed]
        self.complete = self.total - len(self._open)
        return self.complete > before


class GrowingReport:
    """Runs `python -m analysis` with `arguments` in a process of its own; with those `at_the_end` for the last report.

    What it prints appears above the progress bars.
    """

    def __init__(self, arguments: Sequence[str], at_the_end: Sequence[str]) -> None:
        self._command = [sys.executable, "-m", "analysis", *arguments]
        self._at_the_end = at_the_end
        self._start = time.monotonic()
        self._spent = 0.0
        self._thread: threading.Thread | None = None

    def grow(self) -> None:
        """Begin a report of what is done so far, unless one is being made or reports have taken their `SHARE`."""
        running = self._thread is not None and self._thread.is_alive()
        if running or self._spent > SHARE * (time.monotonic() - self._start):
            return
        self._thread = threading.Thread(target=self._make, args=(["--running"],), daemon=True)
        self._thread.start()

    def finish(self) -> int:
        """Make the report of a sweep that has ended; returns the exit status of the program."""
        if self._thread is not None:
            self._thread.join()
        return self._make(self._at_the_end)

    def _make(self, more: Sequence[str]) -> int:
        begin = time.monotonic()
        # A session of its own: Ctrl-C is for the sweep, which makes the last report itself.
        made = subprocess.run(
            [*self._command, *more],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            check=False,
        )
        self._spent += time.monotonic() - begin
        tqdm.write(made.stdout.rstrip() + "\n", file=sys.stdout)
        sys.stdout.flush()
        return made.returncode
