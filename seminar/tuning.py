"""What is kept of a search (`method: random` or `bayes`), and what follows from it: its trials, the best of them, and
the trainings that report it.

Optuna chooses the points (`seminar.search`), but neither it nor its journal is needed to read this:

runs/studies/<name>/<number>-<key>.json   one trial: its point, the key of its training, and how it ended
                    importances.json      what each word matters, by Optuna's PED-ANOVA
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from seminar import recipes
from seminar.recipes import Cell
from seminar.spec import InputError, Scalar
from seminar.store import write_json
from seminar.sweep import DEFAULT, PAIRED, Point, Sweep

SEEDS = (0, 1, 2, 3)
"""Seeds of the reported trainings where none are given by hand."""
State = Literal["done", "pruned", "failed"]


@dataclass(frozen=True)
class Trial:
    """One trial that ended. `pruned`: it was worse than others early on; `failed`: its loss diverged."""

    number: int
    key: str
    state: State
    point: Point

    @property
    def file(self) -> str:
        return f"{self.number:04d}-{self.key}.json"


@dataclass(frozen=True)
class Tuning:
    """A search as it stands below `runs`. Raises `InputError` for one that would choose by what is reported.

    `sweep`: with the words put over it. `own`: the cell of the profile's own values, on the tuning split. `seeds`: of
    the trainings that report the winner; the trials have the first seed of the sweep.
    """

    sweep: Sweep
    own: Cell
    runs: Path
    seeds: tuple[Scalar, ...]

    @classmethod
    def asked(cls, sweep: Sweep, own: Cell, words: Mapping[str, tuple[Scalar, ...]], runs: Path) -> Tuning:
        """That of a search as `recipes.suite` answers it; seeds among the `words` are those of the report."""
        return cls(sweep, own, runs, words.get(PAIRED, SEEDS))

    def __post_init__(self) -> None:
        for word in ("profile", "variant"):
            if word in self.sweep.space:
                raise InputError(f"{self.sweep.name}: {word}: a search has one value of it")
        if self.own.point.get("split") != "tuning" or "split" in self.sweep.space:
            raise InputError(f"{self.sweep.name}: split={self.own.point.get('split')!r}: a search needs split=tuning")

    @property
    def space(self) -> list[str]:
        """The words that are searched, sorted."""
        return list(self.sweep.space)

    @property
    def own_point(self) -> Point | None:
        """The profile's own values, where they are among what is searched."""
        words = self.own.words
        inside = all(word in words and words[word] in span for word, span in self.sweep.space.items())
        return {word: words[word] for word in self.space} if inside else None

    @cached_property
    def name(self) -> str:
        """The sweep's name and 8 digits for what is trained and searched; the number of trials is no part of it."""
        identity = repr((self.own.stage.key, self.sweep.method, self.sweep.halving, self.sweep.space))
        return f"{self.sweep.name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> Path:
        return self.runs / "studies" / self.name

    def trials(self) -> list[Trial]:
        """The trials that ended, in the order in which they began. Raises `InputError` for a damaged file."""
        return [_trial(path) for path in sorted(self.folder.glob("[0-9]*.json"))]

    def keep(self, trial: Trial) -> None:
        """Write the file of a trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"number": trial.number, "key": trial.key, "state": trial.state, "point": trial.point}
        write_json(self.folder / trial.file, content)

    def keep_importances(self, values: Mapping[str, float]) -> None:
        write_json(self.folder / "importances.json", dict(values))

    def importances(self) -> dict[str, float]:
        """Shares of what the words matter, summing to 1; empty while there are none."""
        path = self.folder / "importances.json"
        return {word: float(share) for word, share in _json(path).items()} if path.exists() else {}

    def best(self, record: Callable[[str], Mapping[str, Any] | None]) -> Trial | None:
        """The trial with the highest mIoU of the student after the last epoch, on the tuning split; of equal ones the
        first. `record` looks up the record of a key."""
        scored: list[tuple[float, Trial]] = []
        for trial in self.trials():
            found = record(trial.key) if trial.state == "done" else None
            score = found["metrics"]["student"]["crop"]["miou"] if found is not None else None
            if score is not None:
                scored.append((score, trial))
        return max(scored, key=lambda pair: (pair[0], -pair[1].number))[1] if scored else None

    def trial_cell(self, point: Mapping[str, Scalar]) -> Cell:
        """The cell of a trial."""
        (cell,) = recipes.cells(self.sweep.at(point))
        return cell

    def reported(self, point: Mapping[str, Scalar] | None = None) -> list[Cell]:
        """The cells that report a point, or the profile's own values: the reporting split, one for each seed."""
        chosen = point or dict.fromkeys(self.space, DEFAULT)
        return recipes.cells(self.sweep.at(chosen, **{"split": ("reporting",), PAIRED: self.seeds}))


def _trial(path: Path) -> Trial:
    content = _json(path)
    try:
        state = content["state"]
        if state not in get_args(State):
            raise ValueError
        return Trial(int(content["number"]), str(content["key"]), state, dict(content["point"]))
    except (KeyError, TypeError, ValueError):
        raise InputError(f"{path}: damaged; delete it, and the search makes up for that trial") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            return content
    except (OSError, ValueError):
        pass
    raise InputError(f"{path}: damaged; delete it, and the search makes up for that trial")
