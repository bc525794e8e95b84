"""The one analysis of a table of scores, chosen before any number was seen: a randomised block design.

The score of row i with seed j is m_i + b_j + e_ij: a level for each row, a shift for each seed, and residuals that
share one variance. All cells estimate that variance together: (R - 1)(S - 1) degrees of freedom for R rows and S seeds,
where the paired t interval of two rows has S - 1. Tables with missing cells are fitted by least squares.

Two things are checked, since they are wrong for some tables. Rows that are known not to share the variance (full
supervision) are left out of it. And where Levene's test on the residuals rejects at `SPREAD_LEVEL`, no row shares it.
Both are compared by Welch's interval instead, from the spread of their own seeds.

What is concluded is read from intervals alone, with Holm's correction over the claims of one exhibit (`decide`).
`tests/simulate_statistics.py` measures how often that is wrong; analysis/README.md has its numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from analysis.summary import Estimate, Row, satterthwaite

LEVEL = 0.05
"""Chance of a wrong conclusion among the claims of one exhibit."""
SPREAD_LEVEL = 0.1
"""Level of the check for a common variance. With 3 or 4 seeds such a test sees little, so it rejects earlier than at
0.05; the price is a wider interval in a sixth of the tables whose rows are equal (4 seeds)."""
MARGIN = 1.0
"""Points of mIoU within which two rows count as equal: the paper has one run per number, and calls less nothing."""
POWER = 0.8
"""Chance with which the seeds that `seeds_needed` names decide a claim, if the measured difference is the true one."""
MOST_SEEDS = 100
LOOKS = (2, 4, 8, 16)
"""Numbers of seeds after which `SEEDS=auto` looks whether every claim is decided."""

Verdict = Literal["holds", "reversed", "equal", "inconclusive"]
Scores = Mapping[str, Mapping[int, float]]
"""Score by label of the row and seed. NaN: missing."""


@dataclass(frozen=True)
class Contrast:
    """The difference of two rows, in points.

    `n`: seeds that both rows have. `mean`, `error`: the difference and its standard error; None where there is none.
    `freedom`: degrees of freedom of `error`. `rows`: the number of rows that estimate it together; 0: Welch's.
    """

    n: int
    mean: float | None = None
    error: float | None = None
    freedom: float = 0.0
    rows: int = 0

    def half(self, level: float = LEVEL) -> float | None:
        """Return half the width of the interval with error `level`."""
        if self.error is None:
            return None
        return float(special.stdtrit(self.freedom, 1 - level / 2)) * self.error

    def estimate(self, level: float = LEVEL) -> Estimate:
        """Return the difference with its interval at error `level`. It has no standard deviation of its own."""
        half = self.half(level)
        if self.mean is None or half is None:
            return Estimate(self.n, self.mean)
        return Estimate(self.n, self.mean, None, self.mean - half, self.mean + half)

    def p_value(self, distance: float) -> float:
        """Return the error level at which the interval reaches `distance` (points) from its middle; 1: at none."""
        if self.error is None or distance <= 0:
            return 1.0
        return 2 * float(special.stdtr(self.freedom, -distance / self.error)) if self.error else 0.0


@dataclass(frozen=True)
class Design:
    """The fitted table. Use `fit` to make one.

    `spread`: standard deviation of the residuals in points; None with too few cells. `freedom`: its degrees of
    freedom. `ratio`: largest by smallest standard deviation of a row's residuals. `p_spread`: of Levene's test
    for equal ones; None where it cannot be computed. `shared`: the rows that share `spread`. `names`: the row that
    stands for another one, which shows the same trainings.
    """

    scores: Scores
    spread: float | None
    freedom: int
    ratio: float | None
    p_spread: float | None
    shared: tuple[str, ...]
    names: Mapping[str, str]
    _levels: Mapping[str, float]
    _weights: Mapping[str, NDArray[np.float64]]
    _blocks: NDArray[np.float64]

    def row(self, label: str) -> Mapping[int, float]:
        """Return the scores of a row by seed; none of a row that is not there."""
        return self.scores.get(self.names.get(label, label), {})

    def contrast(self, upper: str, lower: str) -> Contrast:
        """Return upper - lower. There is no interval with fewer than 2 seeds that both rows have."""
        upper, lower = self.names.get(upper, upper), self.names.get(lower, lower)
        one, other = self.scores.get(upper, {}), self.scores.get(lower, {})
        n = len(one.keys() & other.keys())
        if n == 0:
            return Contrast(0)
        if upper == lower:
            return Contrast(n, 0.0, 0.0, 1.0)
        if n == 1:
            (seed,) = one.keys() & other.keys()
            return Contrast(1, one[seed] - other[seed])
        if not {upper, lower} <= set(self.shared) or self.spread is None:
            return _welch(n, list(one.values()), list(other.values()))
        apart = self._weights[upper] - self._weights[lower]
        scale = 1 / len(one) + 1 / len(other) + float(apart @ self._blocks @ apart)
        mean = self._levels[upper] - self._levels[lower]
        return Contrast(n, _clean(mean), self.spread * math.sqrt(scale), self.freedom, len(self.shared))


def of_rows(rows: Sequence[Row], apart: Collection[str] = (), more: Scores | None = None) -> Design:
    """Fit the rows of a table, and `more` scores. Rows that show the same trainings count once."""
    first: dict[tuple[str, ...], str] = {}
    names = {row.label: first.setdefault(tuple(row.runs["key"]), row.label) for row in rows}
    scores = {row.label: row.by_seed() for row in rows if names[row.label] == row.label}
    return fit({**scores, **(more or {})}, apart, {name: other for name, other in names.items() if name != other})


def fit(scores: Scores, apart: Collection[str] = (), names: Mapping[str, str] | None = None) -> Design:
    """Fit the scores (mIoU in %). Rows in `apart` are known not to share the variance of the others."""
    known = {label: {seed: s for seed, s in row.items() if not math.isnan(s)} for label, row in scores.items()}
    rows = {label: row for label, row in known.items() if row and label not in apart}
    seeds = sorted({seed for row in rows.values() for seed in row})
    there = np.array([[seed in row for seed in seeds] for row in rows.values()], float).reshape(len(rows), len(seeds))
    values = np.array([[row.get(seed, 0.0) for seed in seeds] for row in rows.values()], float).reshape(there.shape)
    counts = there.sum(1, keepdims=True)
    weights = there / np.maximum(counts, 1)  # (R, S)
    means = (weights * values).sum(1, keepdims=True)
    # Normal equations of the seeds after the rows are eliminated: (S, S), small also where there are many rows.
    normal = np.diag(there.sum(0)) - there.T @ weights
    inverse = np.linalg.pinv(normal, rcond=1e-9, hermitian=True) if seeds else normal
    shifts = inverse @ (there * (values - means)).sum(0)
    levels = means[:, 0] - weights @ shifts
    residuals = there * (values - levels[:, None] - shifts)
    residuals[np.abs(residuals) < 1e-9] = 0.0
    rank = round(float(np.trace(inverse @ normal)))
    freedom = int(there.sum()) - len(rows) - rank
    spread = math.sqrt(float((residuals**2).sum()) / freedom) if freedom > 0 else None
    p_spread = _levene([line[mask > 0] for line, mask in zip(residuals, there)]) if spread is not None else None
    shared = () if p_spread is not None and p_spread < SPREAD_LEVEL else tuple(rows)
    deviations = [float(line[mask > 0].std()) for line, mask in zip(residuals, there) if mask.sum() > 1]
    ratio = max(deviations) / min(deviations) if len(deviations) > 1 and min(deviations) > 0 else None
    by_label = {label: float(level) for label, level in zip(rows, levels)}
    by_row = dict(zip(rows, weights))
    return Design(known, spread, freedom, ratio, p_spread, shared, names or {}, by_label, by_row, inverse)


def _welch(n: int, upper: Sequence[float], lower: Sequence[float]) -> Contrast:
    """Return the difference of two means with Welch's error and Satterthwaite's degrees of freedom."""
    parts = [(float(np.var(values, ddof=1)) / len(values), len(values)) for values in (upper, lower)]
    error = math.sqrt(sum(part for part, _ in parts))
    freedom = satterthwaite(parts) or float(n - 1)
    return Contrast(n, _clean(float(np.mean(upper)) - float(np.mean(lower))), error, freedom)


def _clean(value: float) -> float:
    """Return a difference of scores without the rounding of sums, so that equal rows differ by 0."""
    return 0.0 if abs(value) < 1e-9 else value


def _levene(parts: Sequence[NDArray[np.float64]]) -> float | None:
    """Return the p value of Levene's test for equal spreads of residuals, whose mean is 0 in each group; a group has at
    least 2 values."""
    sizes = [np.abs(part) for part in parts if len(part) > 1]
    freedom = sum(map(len, sizes)) - len(sizes)
    if len(sizes) < 2 or freedom < 1:
        return None
    every = np.concatenate(sizes)
    within = sum(float(((part - part.mean()) ** 2).sum()) for part in sizes)
    between = sum(len(part) * float(part.mean() - every.mean()) ** 2 for part in sizes)
    if between < 1e-12:
        return 1.0
    if within < 1e-12:
        # Two rows, or two seeds: all deviations of a row are equal, and the test has nothing to compare with.
        return None
    return float(special.fdtrc(len(sizes) - 1, freedom, (between / (len(sizes) - 1)) / (within / freedom)))


# -- conclusions ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Decision:
    """What is concluded of a claim, and the interval from which it is read; `level`: the error of that interval."""

    verdict: Verdict
    change: Estimate
    level: float


def decide(
    contrasts: Sequence[Contrast],
    same: Sequence[bool],
    margin: float = MARGIN,
    level: float = LEVEL,
    spend: Callable[[float], float] = float,
) -> list[Decision]:
    """Return the decisions on the claims of one exhibit, by Holm's procedure.

    A claim that a row gains `holds` where the interval lies above 0, is `reversed` below 0, and else `equal` where the
    interval lies within `margin` points of 0. A claim that nothing changes (`same`) `holds` where the interval lies
    within `margin`, and is `reversed` wholly beyond it. With k claims, the clearest one is judged by its interval with
    error `level` / k, the next by that with `level` / (k - 1), and so on; the first that is not decided ends it, and
    the others are judged by its level. Claims without an interval count among the k. `spend(level)`:
    the part of a level that this look at the data may use, see `share`.
    """
    levels = [_decided_at(contrast, kind, margin) for contrast, kind in zip(contrasts, same)]
    order = sorted(range(len(levels)), key=lambda place: levels[place])
    steps: dict[int, float] = {}
    step, stopped = level, False
    for rank, place in enumerate(order):
        if not stopped:
            step = spend(level / (len(order) - rank))
            stopped = levels[place] > step
        steps[place] = step
    result = []
    for place, (contrast, kind) in enumerate(zip(contrasts, same)):
        change = contrast.estimate(steps[place])
        result.append(Decision(verdict(change, kind, margin), change, steps[place]))
    return result


def share(level: float, looks: Sequence[int], seeds: int) -> float:
    """Return the part of an error level that the look at so many seeds may use; `looks`: the planned numbers of seeds.

    O'Brien and Fleming's type of spending by Lan and DeMets (Biometrika 1983): 2 - 2 Phi(z / sqrt(t)) is spent at the
    fraction t of the seeds, z being the quantile of `level` / 2. A look uses what was added since the one before; the
    parts sum to `level`, so that the chance of any error is at most that, however the looks depend on each other. A
    number of seeds that was not planned counts as the planned look before it.
    """
    if not looks:
        return level
    place = max((place for place, look in enumerate(looks) if look <= seeds), default=0)
    quantile = -float(special.ndtri(level / 2))
    spent = [2 * float(special.ndtr(-quantile / math.sqrt(look / looks[-1]))) for look in looks[: place + 1]]
    return spent[-1] - (spent[-2] if place else 0.0)


def verdict(change: Estimate, same: bool, margin: float = MARGIN) -> Verdict:
    """Return what the interval of a difference says of a claim; see `decide`."""
    if change.low is None or change.high is None:
        return "inconclusive"
    within = -margin < change.low and change.high < margin
    if same:
        if within:
            return "holds"
        return "reversed" if change.low > margin or change.high < -margin else "inconclusive"
    if change.low > 0:
        return "holds"
    if change.high < 0:
        return "reversed"
    return "equal" if within else "inconclusive"


def _decided_at(contrast: Contrast, same: bool, margin: float) -> float:
    """Return the smallest error level at which the interval decides the claim; 1: at none."""
    if contrast.mean is None:
        return 1.0
    distance = abs(contrast.mean)
    return min(contrast.p_value(margin - distance), contrast.p_value(distance - margin if same else distance))


def seeds_needed(contrast: Contrast, same: bool, margin: float = MARGIN, level: float = LEVEL) -> int | None:
    """Return with how many seeds in all the interval with error `level` decides the claim with chance `POWER`, if the
    difference and the spread are as measured; None: more than `MOST_SEEDS`, or nothing is known of the spread."""
    if contrast.mean is None or not contrast.error:
        return None
    distance = abs(contrast.mean)
    reach = max(margin - distance, distance - margin if same else distance)
    for seeds in range(contrast.n + 1, MOST_SEEDS + 1):
        error = contrast.error * math.sqrt(contrast.n / seeds)
        freedom = contrast.freedom * (seeds - 1) / (contrast.n - 1)
        if (float(special.stdtrit(freedom, 1 - level / 2)) + float(special.ndtri(POWER))) * error <= reach:
            return seeds
    return None
