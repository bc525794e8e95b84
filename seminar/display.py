"""What a sweep shows while it runs: bars on a terminal, elsewhere one line for each finished training."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from tqdm import tqdm

from seminar.text import printable


class Display:
    """Progress for people. `seconds`: what each training is estimated to take, by key (`each`: one that is not among
    them); `count`: how many are to do. `on_done` is called whenever a training is done."""

    def __init__(
        self,
        seconds: Mapping[str, float],
        count: int,
        workers: int,
        each: float = 0.0,
        on_done: Callable[[], None] = lambda: None,
    ) -> None:
        self.failed: list[str] = []
        self._on_done = on_done
        self._seconds, self._each, self._count = dict(seconds), each, count
        self._fraction: dict[str, float] = {}
        self._before: dict[str, float] = {}
        self._terminal = sys.stderr.isatty()
        self._finished = 0
        self._start = time.monotonic()
        self._total = sum(self._seconds.values()) + each * (count - len(self._seconds))
        shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed} < {remaining} left"
        self._bar = tqdm(total=self._total, desc="all", disable=not self._terminal, bar_format=shape, smoothing=0.05)
        row = "{desc:<52.52} {percentage:3.0f}%|{bar:20}|"
        self._rows = [
            tqdm(total=1.0, disable=not self._terminal, position=i + 1, bar_format=row, leave=False)
            for i in range(workers)
        ]

    def show(self, event: tuple[Any, ...]) -> None:
        """Take in `(kind, worker number, key, title, fact ...)`, see `jobs.Reporter`."""
        shown: list[Any] = [printable(part) if isinstance(part, str) else part for part in event]
        kind, number, key, name, *rest = shown
        title = f"{number + 1}: {name}"
        row = self._rows[number]
        if kind == "begin":
            self._before[key] = self._fraction[key] = rest[0]
            row.reset()
            row.set_description_str(title)
        elif kind == "step":
            row.n = rest[0]
            row.refresh()
            self._advance(key, rest[0])
        elif kind == "wait":
            row.set_description_str(f"{title}: waiting for another process")
        elif kind == "done":
            self._advance(key, 1.0)
            self._finished += 1
            self.note(f"[{self._finished}/{self._count}] {name}: mIoU {_percent(rest[0])}{self._left()}")
            self._on_done()
        elif kind == "ended":
            self._advance(key, 1.0)
            self._finished += 1
            self.note(f"[{self._finished}/{self._count}] {name}: {rest[0]}{self._left()}")
        elif kind == "failed":
            line = f"{name} ({key}) failed: {rest[0]}" if key else str(rest[0])
            self.failed.append(line)
            self.note(line)

    def note(self, line: str) -> None:
        tqdm.write(line, file=sys.stderr)

    def close(self) -> None:
        for row in self._rows:
            row.close()
        self._bar.close()

    def _advance(self, key: str, fraction: float) -> None:
        """The main bar counts estimated seconds, so that a stage of four losses weighs more than one of one."""
        before = self._fraction.get(key, self._before.get(key, 0.0))
        self._fraction[key] = fraction
        share = self._share(key, fraction) - self._share(key, before)
        self._bar.update(share * self._seconds.get(key, self._each))

    def _share(self, key: str, fraction: float) -> float:
        """Return how much is done of what was left of a stage when this call started."""
        first = self._before.get(key, 0.0)
        return (fraction - first) / max(1e-9, 1 - first)

    def _left(self) -> str:
        if self._finished == self._count or (not self._bar.n and self._terminal):
            return ""
        passed = time.monotonic() - self._start
        share = 0.0
        for key, fraction in self._fraction.items():
            share += self._share(key, fraction) * self._seconds.get(key, self._each)
        share /= max(1e-9, self._total)
        return f", about {clock(passed / share - passed)} left" if share > 0.02 else ""


def clock(seconds: float) -> str:
    """Format a duration for people: `41 s`, `95 min`, `2.3 h`."""
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _percent(value: float | None) -> str:
    return "none" if value is None else f"{value:.1f} %"
