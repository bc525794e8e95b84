"""Who looks on at a training: a progress bar, an experiment tracker, whoever may stop it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from seminar.spec import Stage
from seminar.store import Interrupted, Record


class Watch(Protocol):
    """What the loop reports to. It knows nothing else of progress bars and trackers."""

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        """A training starts, or goes on after `epoch` finished epochs."""

    def step(self, stage: Stage, done: int, total: int) -> None:
        """`done` of `total` optimiser steps are over. May raise `Interrupted`."""

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        """An epoch is over and saved; `line` is its line of metrics.jsonl."""

    def end(self, stage: Stage, body: Record | None) -> None:
        """The training is finished (`body` of the record), or it stopped or failed (None)."""


@dataclass(frozen=True)
class StopWhen:
    """A watch that raises `Interrupted` at the next step once `requested()` is true."""

    requested: Callable[[], bool]

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None: ...

    def step(self, stage: Stage, done: int, total: int) -> None:
        if self.requested():
            raise Interrupted

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None: ...

    def end(self, stage: Stage, body: Record | None) -> None: ...
