"""The kept trials of a search (`method: random` or `bayes`): the best of them, and the trainings that report it.

Optuna chooses the points (`seminar.search`), but reading this needs neither Optuna nor its journal nor torch:

runs/studies/<name>/<number>.json      one trial: its point, the key of its training, and how it ended
                    importances.json   how much each setting matters, by Optuna's PED-ANOVA
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from seminar import schema
from seminar.catalogue import Cell
from seminar.spec import InputError, Scalar
from seminar.store import score, write_json
from seminar.sweep import DEFAULT, PAIRED, LeftOut, Point, Sweep
from seminar.text import file_name

SEEDS = (0, 1, 2, 3)
"""Seeds of the reported trainings where neither the command line nor the sweep file gives several."""
State = Literal["done", "pruned", "failed"]
_KEY = re.compile("([0-9a-f]{16})?")


@dataclass(frozen=True)
class Trial:
    """One trial that ended. `key`: its training, empty where its point cannot be trained. `epoch`: where it ended.
    State `pruned`: it was worse than others there; `failed`: its loss diverged, or its point was refused (`error`).
    `elsewhere`: the search did not choose its point (`Tuning.elsewhere`)."""

    number: int
    key: str
    state: State
    point: Point
    epoch: int = 0
    error: str = ""
    elsewhere: bool = False

    @property
    def file(self) -> str:
        return f"{self.number:04d}.json"


@dataclass(frozen=True)
class Tuning:
    """A search as it stands below `runs`. Raises `LeftOut` for one that would choose by what is reported.

    `sweep`: with the settings of the command line. `own`: the cell of the profile's own values, on the tuning split.
    `seeds`: those of the trainings that report the winner; the trials have the first seed of the sweep. `resolve`:
    returns the cells of a sweep, as `recipes.cells` does. `others`: trials that have no file yet, for who may write
    none.
    """

    sweep: Sweep
    own: Cell
    runs: Path
    seeds: tuple[Scalar, ...]
    resolve: Callable[[Sweep], list[Cell]]
    others: tuple[Trial, ...] = ()

    @classmethod
    def requested(
        cls,
        sweep: Sweep,
        own: Cell,
        settings: Mapping[str, tuple[Scalar, ...]],
        runs: Path,
        resolve: Callable[[Sweep], list[Cell]],
    ) -> Tuning:
        """Build the tuning job of a planned search. Seeds for the final report come from the `settings` of the command
        line, else from the sweep file where it has several, else they are `SEEDS`."""
        file = sweep.parameters.get(PAIRED, ())
        return cls(sweep, own, runs, settings.get(PAIRED, file if len(file) > 1 else SEEDS), resolve)

    def __post_init__(self) -> None:
        for cell in self.reported():
            if cell.stage.data_fingerprint == self.own.stage.data_fingerprint:
                name = self.own.stage.data.name
                raise LeftOut(
                    f"{self.sweep.name}: split=tuning has the very images that are reported; leave out the settings "
                    f"of data {name!r} that decide it (the profile's `tuning`)"
                )

    @property
    def space(self) -> list[str]:
        """The settings that are searched, sorted."""
        return list(self.sweep.space)

    @property
    def own_point(self) -> Point | None:
        """The profile's own values, where they are among what is searched."""
        values = self.own.stage.settings
        inside = all(name in values and values[name] in span for name, span in self.sweep.space.items())
        return {name: values[name] for name in self.space} if inside else None

    @cached_property
    def name(self) -> str:
        """The sweep's name and 8 digits for what is trained and searched. The number of trials has no part in it, nor
        has the sampler: all samplers of a search add to the same trials."""
        identity = repr((self.own.stage.key, self.sweep.method, self.sweep.halving, self.sweep.space))
        return f"{file_name(self.sweep.name)}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"

    @property
    def folder(self) -> Path:
        return self.runs / "studies" / self.name

    def trials(self) -> list[Trial]:
        """Return the trials that ended, in the order in which they started. Raises `InputError` for a damaged file."""
        return [*(self._trial(path) for path in sorted(self.folder.glob("[0-9]*.json"))), *self.others]

    def elsewhere(self, keys: Iterable[str], record: Callable[[str], Mapping[str, Any] | None]) -> list[Trial]:
        """Return the finished trainings of this search that none of its trials made, as trials with the next numbers,
        in the order in which they ended: those of `wandb agent`, where W&B's own engine chose the points, and those
        that a person trained one by one. `keys`: of all trainings; `record` looks up the record of a key."""
        trials = self.trials()
        known, found = {trial.key for trial in trials}, list[tuple[str, str, Point, int]]()
        for key in keys:
            content = None if key in known else _record(record, key)
            cell = (content or {}).get("cell") or {}
            point = {name: cell["point"].get(name) for name in self.space} if cell.get("key") == key else {}
            if content is None or not point or not all(value in self.sweep.space[n] for n, value in point.items()):
                continue
            if self._trains(point, key):
                found.append((str(content.get("finished", "")), key, point, content["stage"]["epochs"]))
        first = max((trial.number for trial in trials), default=-1) + 1
        return [
            Trial(number, key, "done", point, epochs, elsewhere=True)
            for number, (_, key, point, epochs) in enumerate(sorted(found, key=lambda one: one[:2]), first)
        ]

    def _trains(self, point: Point, key: str) -> bool:
        """Return whether the trial at a point is the training `key`."""
        try:
            return [cell.stage.key for cell in self.resolve(self.sweep.at(point))] == [key]
        except InputError:  # a point that is refused by now
            return False

    def lost(self, record: Callable[[str], object]) -> list[Trial]:
        """Return the trials that were finished and have lost the record of their training: they are to do again."""
        return [trial for trial in self.trials() if trial.state == "done" and record(trial.key) is None]

    def left(self, record: Callable[[str], object]) -> int:
        """Return how many trials are to do."""
        return max(0, self.sweep.run_cap - len(self.trials()) + len(self.lost(record)))

    def keep(self, trial: Trial) -> None:
        """Write the file of a trial."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / trial.file, dataclasses.asdict(trial))

    def drop(self, trial: Trial) -> None:
        """Forget a trial."""
        (self.folder / trial.file).unlink(missing_ok=True)

    def _trial(self, path: Path) -> Trial:
        content = _json(path)
        try:
            trial = Trial(**content)
            point = {name: trial.point[name] in span for name, span in self.sweep.space.items()}
            right = isinstance(trial.number, int) and trial.file == path.name and trial.state in get_args(State)
            right = right and isinstance(trial.elsewhere, bool)
            if right and all(point.values()) and point.keys() == trial.point.keys() and _KEY.fullmatch(trial.key):
                return trial
        except (KeyError, TypeError, ValueError):
            pass
        raise _damaged(path)

    def keep_importances(self, values: Mapping[str, float]) -> None:
        """Write how much each setting matters."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "importances.json", dict(values))

    def importances(self) -> dict[str, float]:
        """Return how much each setting matters, as shares that sum to 1; empty while there are none."""
        path = self.folder / "importances.json"
        shares = _json(path) if path.exists() else {}
        if not all(isinstance(share, int | float) for share in shares.values()):
            raise _damaged(path)
        return shares

    def best(self, record: Callable[[str], Mapping[str, Any] | None]) -> Trial | None:
        """Return the trial with the highest mIoU of the student after the last epoch, on the tuning split; of equal
        ones the first. `record` looks up the record of a key."""
        scored: list[tuple[float, Trial]] = []
        for trial in self.trials():
            value = score(record(trial.key)) if trial.state == "done" else None
            if value is not None:
                scored.append((value, trial))
        return max(scored, key=lambda pair: (pair[0], -pair[1].number))[1] if scored else None

    def trial_cell(self, point: Mapping[str, Scalar]) -> Cell:
        """Return the cell of a trial at `point`."""
        (cell,) = self.resolve(self.sweep.at(point))
        return cell

    def reported(self, point: Mapping[str, Scalar] | None = None) -> list[Cell]:
        """Return the cells that report a point, or the profile's own values: the reporting split, one a seed."""
        chosen = point or dict.fromkeys(self.space, DEFAULT)
        return self.resolve(self.sweep.at(chosen, **{"split": ("reporting",), PAIRED: self.seeds}))


def _record(record: Callable[[str], Mapping[str, Any] | None], key: str) -> Mapping[str, Any] | None:
    try:
        return record(key)
    except InputError:  # damaged, or of another recipe: `seminar status` names it
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = schema.parse(path.read_bytes())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        raise _damaged(path)
    return content


def _damaged(path: Path) -> InputError:
    return InputError(f"{path}: damaged; delete it, and the next call of the search does the trial again")
