"""The analysis of a table of scores, against independent computations: least squares with every dummy, and scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from analysis import statistics
from analysis.statistics import Contrast, Scores, decide, fit, seeds_needed, verdict
from analysis.summary import Estimate
from tests.simulate_statistics import Scenario, simulate

NAN = float("nan")


def table(*rows: Sequence[float]) -> dict[str, dict[int, float]]:
    """Rows a, b, ... with the scores of seeds 0, 1, ..."""
    return {"abcdefgh"[place]: dict(enumerate(row)) for place, row in enumerate(rows)}


def drawn(
    rows: int, seeds: int, seed: int = 0, missing: float = 0.0, shift: float = 1.0
) -> dict[str, dict[int, float]]:
    """Scores with equal spreads; the same for the same arguments."""
    generator = np.random.default_rng(seed)
    scores = 40 + shift * generator.standard_normal(seeds) + generator.standard_normal((rows, seeds))
    scores[generator.random(scores.shape) < missing] = NAN
    return table(*scores.tolist())


def least_squares(scores: Scores, upper: str, lower: str) -> tuple[float, float, int]:
    """Difference, standard error and degrees of freedom of the model m_i + b_j, by a dummy for each row and seed."""
    cells = [(row, seed, s) for row, line in scores.items() for seed, s in line.items() if not math.isnan(s)]
    rows, seeds = list(scores), sorted({seed for _, seed, _ in cells})
    x = np.array([[row == r for r in rows] + [seed == s for s in seeds] for row, seed, _ in cells], float)
    y = np.array([score for _, _, score in cells])
    beta, _, rank, _ = np.linalg.lstsq(x, y, rcond=None)
    freedom = len(y) - int(rank)
    c = np.array([(r == upper) - float(r == lower) for r in rows] + [0.0] * len(seeds))
    variance = float(((y - x @ beta) ** 2).sum()) / freedom
    return float(c @ beta), math.sqrt(variance * float(c @ np.linalg.pinv(x.T @ x) @ c)), freedom


@pytest.mark.parametrize("missing", [0.0, 0.15, 0.3])
@pytest.mark.parametrize(("rows", "seeds"), [(6, 4), (4, 5), (2, 9), (8, 12)])
def test_a_difference_is_that_of_least_squares_with_every_dummy(rows: int, seeds: int, missing: float) -> None:
    scores = drawn(rows, seeds, seed=rows + seeds, missing=missing)
    design = fit(scores)
    compared = 0
    for upper in scores:
        for lower in scores:
            found = design.contrast(upper, lower)
            if upper == lower or found.error is None:
                continue
            assert found.rows == rows
            assert (found.mean, found.error, found.freedom) == pytest.approx(least_squares(scores, upper, lower))
            compared += 1
    assert compared
    if not missing:
        assert design.freedom == (rows - 1) * (seeds - 1)


def test_a_whole_table_by_hand() -> None:
    # Row means 2, 4, 6; seed means 3, 5; the mean of all is 4. Residuals: 1.5-2+1=.5, 2.5-2-1=-.5; 3-3=0, 5-5=0;
    # 4.5-5=-.5, 7.5-7=.5. Sum of squares 1, degrees of freedom 2 x 1, so the spread is sqrt(.5).
    design = fit(table([1.5, 2.5], [3.0, 5.0], [4.5, 7.5]))
    assert (design.spread, design.freedom) == (pytest.approx(math.sqrt(0.5)), 2)
    found = design.contrast("b", "a")
    assert (found.n, found.mean) == (2, pytest.approx(2.0))
    # sqrt(.5 (1/2 + 1/2)), and t(2) = 4.303.
    assert found.error == pytest.approx(math.sqrt(0.5))
    assert found.half() == pytest.approx(4.303 * math.sqrt(0.5), abs=1e-3)


def test_two_rows_alone_are_the_paired_t_interval() -> None:
    scores = drawn(2, 5, seed=3)
    found = fit(scores).contrast("b", "a").estimate()
    paired = stats.ttest_rel(list(scores["b"].values()), list(scores["a"].values())).confidence_interval()
    assert (found.low, found.high) == pytest.approx((paired.low, paired.high))


def test_a_row_of_another_spread_is_compared_by_welch_and_leaves_the_others_alone() -> None:
    scores = drawn(5, 4, seed=1)
    wild = {**scores, "wild": {0: 10.0, 1: 90.0, 2: 30.0, 3: 70.0}}
    design, without = fit(wild, apart=("wild",)), fit(scores)
    assert design.contrast("b", "a") == without.contrast("b", "a")
    found = design.contrast("wild", "a")
    welch = stats.ttest_ind(list(wild["wild"].values()), list(wild["a"].values()), equal_var=False)
    assert found.freedom == pytest.approx(welch.df)
    assert (found.estimate().low, found.estimate().high) == pytest.approx(tuple(welch.confidence_interval()))


def test_the_check_of_spreads_is_levenes_test_on_the_residuals() -> None:
    scores = drawn(5, 6, seed=3)
    values = np.array([list(row.values()) for row in scores.values()])
    residuals = values - values.mean(1, keepdims=True) - values.mean(0) + values.mean()
    design = fit(scores)
    assert design.p_spread == pytest.approx(stats.levene(*residuals, center="mean").pvalue)
    assert design.ratio == pytest.approx(residuals.std(1).max() / residuals.std(1).min())
    assert design.shared == tuple(scores)


def test_where_the_check_rejects_no_row_shares_a_spverdict() -> None:
    scores = drawn(4, 8, seed=4)
    scores["d"] = {seed: 40 + 30 * (score - 40) for seed, score in scores["d"].items()}
    design = fit(scores)
    assert design.p_spread is not None
    assert design.p_spread < statistics.SPREAD_LEVEL
    assert design.shared == ()
    welch = stats.ttest_ind(list(scores["b"].values()), list(scores["a"].values()), equal_var=False)
    assert design.contrast("b", "a").error == pytest.approx(
        (welch.confidence_interval().high - welch.confidence_interval().low) / 2 / stats.t.ppf(0.975, welch.df)
    )


def test_no_interval_where_two_rows_have_fewer_than_two_seeds_in_common() -> None:
    design = fit({"a": {0: 1.0, 1: 2.0}, "b": {1: 5.0, 2: 6.0}, "c": {3: 1.0}, "d": {0: NAN}, "e": {0: 2.0, 1: 2.5}})
    assert design.contrast("b", "a") == Contrast(1, 3.0)
    assert design.contrast("c", "a") == design.contrast("d", "a") == design.contrast("no such row", "a") == Contrast(0)
    assert fit({}).contrast("a", "b") == Contrast(0)
    assert fit(table([1.0], [2.0])).contrast("b", "a") == Contrast(1, 1.0)


def test_equal_rows_differ_by_exactly_nothing() -> None:
    design = fit(table([40.1, 41.2, 42.3], [40.1, 41.2, 42.3], [50.1, 51.2, 52.3]))
    found = design.contrast("b", "a").estimate()
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    assert verdict(found, same=False) == "equal"


def test_rows_of_the_same_trainings_add_no_freedom() -> None:
    scores = drawn(3, 4)
    design = fit(scores, names={"copy of a": "a"})
    assert design.freedom == 6
    assert design.contrast("b", "copy of a") == design.contrast("b", "a")
    assert design.contrast("copy of a", "a").estimate() == Estimate(4, 0.0, None, 0.0, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "gain", "same"),
    [
        (0.1, 5.0, "holds", "inconclusive"),
        (-5.0, -0.1, "reversed", "inconclusive"),
        (-0.9, 0.9, "equal", "holds"),
        (0.1, 0.9, "holds", "holds"),
        (-0.5, 1.5, "inconclusive", "inconclusive"),
        (1.1, 2.0, "holds", "reversed"),
        (-2.0, -1.1, "reversed", "reversed"),
        (-1.0, 0.5, "inconclusive", "inconclusive"),
        (None, None, "inconclusive", "inconclusive"),
    ],
)
def test_what_an_interval_says(low: float | None, high: float | None, gain: str, same: str) -> None:
    change = Estimate(3, 0.0, 1.0, low, high)
    assert (verdict(change, same=False), verdict(change, same=True)) == (gain, same)


def test_the_margin_is_a_setting() -> None:
    change = Estimate(3, 0.0, 1.0, -1.5, 1.5)
    assert verdict(change, same=False, margin=1.0) == "inconclusive"
    assert verdict(change, same=False, margin=2.0) == "equal"


def of_p(p: float, mean: float = 1000.0) -> Contrast:
    """A difference far from the margin, whose two-sided p value is `p` with 10 degrees of freedom."""
    return Contrast(4, mean, mean / float(stats.t.ppf(1 - p / 2, 10)), 10.0, 6)


def test_holm_by_hand() -> None:
    # Sorted: .01 <= .05 / 4; .016 <= .05 / 3; .03 > .05 / 2, so the third and the fourth are not decided.
    found = decide([of_p(0.03), of_p(0.01), of_p(0.04), of_p(0.016)], [False] * 4)
    assert [decision.verdict for decision in found] == ["inconclusive", "holds", "inconclusive", "holds"]
    assert [decision.level for decision in found] == pytest.approx([0.05 / 2, 0.05 / 4, 0.05 / 2, 0.05 / 3])


def test_a_claim_without_an_interval_counts() -> None:
    assert decide([of_p(0.03)], [False])[0].verdict == "holds"
    one, other = decide([of_p(0.03), Contrast(0)], [False] * 2)
    assert (one.verdict, other.verdict, other.change) == ("inconclusive", "inconclusive", Estimate(0))


def test_the_verdict_is_read_from_the_interval_that_is_shown() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        size = int(generator.integers(1, 6))
        same = generator.random(size) < 0.5
        contrasts = [
            Contrast(4, float(mean), float(error), 9.0, 4)
            for mean, error in zip(2 * generator.standard_normal(size), generator.random(size))
        ]
        found = decide(contrasts, same.tolist())
        for contrast, kind, decision in zip(contrasts, same, found):
            half = float(stats.t.ppf(1 - decision.level / 2, 9)) * (contrast.error or 0)
            mean = contrast.mean or 0
            assert (decision.change.low, decision.change.high) == pytest.approx((mean - half, mean + half))
            assert decision.verdict == verdict(decision.change, bool(kind))
            assert decision.level <= statistics.LEVEL


@pytest.mark.parametrize("same", [False, True])
@pytest.mark.parametrize("mean", [0.0, 0.4, 1.8, -2.0])
def test_seeds_needed_are_the_fewest_that_are_enough(mean: float, same: bool) -> None:
    contrast = Contrast(4, mean, 0.7, 15.0, 6)
    needed = seeds_needed(contrast, same)

    def enough(seeds: int) -> bool:
        error = 0.7 * math.sqrt(4 / seeds)
        half = float(stats.t.ppf(0.975, 5 * (seeds - 1))) * error
        reach = abs(mean) - float(stats.norm.ppf(0.8)) * error  # what four of five tables exceed
        room = 1 - abs(mean) - float(stats.norm.ppf(0.8)) * error
        return room >= half or (reach - 1 >= half if same else reach >= half)

    assert needed is not None
    assert enough(needed)
    assert needed == 5 or not enough(needed - 1)


def test_what_no_number_of_seeds_decides() -> None:
    assert seeds_needed(Contrast(4, 1.0, 0.7, 15.0, 6), same=True) is None
    assert seeds_needed(Contrast(1, 1.0), same=False) is None
    assert seeds_needed(Contrast(4, 0.1, 7.0, 15.0, 6), same=False) is None


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("no row differs"),
        Scenario("cells are missing", missing=1 / 6),
        Scenario("seeds shift much", shift=3.0, seeds=3),
        Scenario("unequal", spreads=(2.0, 1.0, 1.0, 1.0, 1.0, 1.0)),
    ],
    ids=lambda scenario: scenario.name,
)
def test_wrong_conclusions_are_as_rare_as_said(scenario: Scenario) -> None:
    """600 tables, always the same ones. 5 % of them are 30, with a standard error of 5."""
    found = simulate(scenario, 600, np.random.default_rng(1))
    assert found.holds <= 5.0
    assert found.wrong <= 7.0
    assert 93.0 <= found.covered <= 97.5
    assert found.as_judged > found.covered


def test_a_true_difference_is_told() -> None:
    """Five standard deviations between the first two rows: nearly always decided with 4 seeds."""
    scenario = Scenario("true", levels=(0.0, 5.0, 0.0, 0.0, 0.0, 9.0))
    assert simulate(scenario, 200, np.random.default_rng(2)).told > 98.0
