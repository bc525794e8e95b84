"""Every number that a report prints, computed from the rows of `frame`; nothing here renders."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
from scipy import special

CONFIDENCE = 0.95
Order = Literal["yes", "no", "inconclusive"]
STATUSES = ("done", "running", "stopped", "failed", "missing")


@dataclass(frozen=True)
class Estimate:
    """Mean, sample standard deviation and 95 % t interval of the mean over `n` seeds; None where n is too small."""

    n: int
    mean: float | None = None
    std: float | None = None
    low: float | None = None
    high: float | None = None


def estimate(values: Iterable[float]) -> Estimate:
    """Return the `Estimate` of the values that exist: NaN means missing and is left out."""
    known = [float(value) for value in values if not math.isnan(value)]
    n = len(known)
    if n == 0:
        return Estimate(0)
    mean = math.fsum(known) / n
    if n == 1:
        return Estimate(1, mean)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (n - 1))
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * std / math.sqrt(n)
    return Estimate(n, mean, std, mean - half, mean + half)


def paired(upper: Mapping[int, float], lower: Mapping[int, float]) -> Estimate:
    """Return the `Estimate` of upper - lower over the seeds that both have."""
    return estimate(upper[seed] - lower[seed] for seed in sorted(upper.keys() & lower.keys()))


def below(lower: Estimate, upper: Estimate) -> Order:
    """Return whether the whole interval of `lower` lies under that of `upper`."""
    if lower.high is None or upper.low is None:
        return "inconclusive"
    return "yes" if lower.high < upper.low else "no"


@dataclass(frozen=True)
class Row:
    """One row of a table: the cells that differ only in the seed."""

    label: str
    runs: pd.DataFrame

    def setting(self, name: str) -> Any:
        """Return the value of a setting that all cells of the row share; None where they differ or have none."""
        values = list(dict.fromkeys(self.runs[name])) if name in self.runs else []
        return values[0] if len(values) == 1 and not pd.isna(values[0]) else None

    def over_seeds(self, metric: str = "student_miou") -> Estimate:
        """Return `Estimate` of a column of the frame over this row's seeds."""
        return estimate(self.runs[metric])

    def by_seed(self, metric: str = "student_miou") -> dict[int, float]:
        """Return the column's value for each seed."""
        return dict(zip(self.runs["seed"].astype(int), self.runs[metric].astype(float)))

    def count(self, status: str) -> int:
        """Return how many cells are in this state."""
        return int((self.runs["status"] == status).sum())

    @property
    def status(self) -> str:
        """The states of the cells in words: `3 done`, `2 done, 1 missing`."""
        counted = [(self.count(status), status) for status in STATUSES]
        return ", ".join(f"{count} {status}" for count, status in counted if count)


def rows(frame: pd.DataFrame, by: str = "losses") -> list[Row]:
    """Return the rows of a table in the order of first appearance; a training that is requested twice counts once."""
    return [
        Row(str(label), part.drop_duplicates("key").reset_index(drop=True))
        for label, part in frame.groupby(by, sort=False)
    ]


Against = Literal["inside the spread of seeds", "above it", "below it", "inconclusive"]


def against(here: Estimate, reference: Estimate) -> Against:
    """Compare a mean with that of other seeds: whether the 95 % interval of their difference (Welch) holds 0.

    A single seed is compared with the interval in which the reference's next seed would lie. Without any spread the
    comparison is inconclusive.
    """
    if here.mean is None or reference.mean is None:
        return "inconclusive"
    parts = [(e.std**2 / e.n, e.n) for e in (here, reference) if e.std is not None]
    lone = [e for e in (here, reference) if e.std is None]
    if not parts or len(lone) > 1:
        return "inconclusive"
    if lone:
        (other,) = (e for e in (here, reference) if e.std is not None)
        assert other.std is not None
        parts.append((other.std**2, 0))
        freedom = float(other.n - 1)
    else:
        freedom = satterthwaite(parts) or float(parts[0][1] - 1)
    half = float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(sum(part for part, _ in parts))
    difference = here.mean - reference.mean
    if abs(difference) <= half:
        return "inside the spread of seeds"
    return "above it" if difference > 0 else "below it"


def satterthwaite(parts: Sequence[tuple[float, int]]) -> float:
    """Return the degrees of freedom of Welch's error: `parts` are (variance of a mean, its number of values). 0 where
    nothing varies."""
    total = sum(part for part, _ in parts)
    return total**2 / sum(part**2 / (n - 1) for part, n in parts) if total else 0.0


def minus(upper: Row, lower: Row, metric: str = "student_miou") -> Estimate:
    """Return the paired difference of two rows."""
    return paired(upper.by_seed(metric), lower.by_seed(metric))
