"""How often the analysis of tables is wrong: `python -m tests.simulate_statistics [--tables 10000]`.

Each scenario draws tables of scores with known levels of the rows, analyses them as reports do, and counts conclusions
that are wrong. Six rows as in Table 3 with its four claims; standard deviations and shifts of a seed are in points.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis import statistics
from analysis.statistics import Contrast, Decision

ROWS = ("pce", "crf", "pcons", "both", "pseudo", "ce")
CLAIMS = (("crf", "pce"), ("pcons", "pce"), ("both", "pcons"), ("pseudo", "both"))


@dataclass(frozen=True)
class Scenario:
    """`levels`: of the rows. `spreads`: standard deviation of each. `shift`: that of a seed, the same for all rows.
    `missing`: share of cells that are not there. `looks`: numbers of seeds after which it may stop; `seeds` is not read
    then."""

    name: str
    levels: tuple[float, ...] = (0.0,) * 6
    spreads: tuple[float, ...] = (1.0,) * 5 + (2.0,)
    shift: float = 0.5
    seeds: int = 4
    missing: float = 0.0
    looks: tuple[int, ...] = ()


SCENARIOS = (
    Scenario("no row differs, 3 seeds", seeds=3),
    Scenario("no row differs, 4 seeds"),
    Scenario("no row differs, 8 seeds", seeds=8),
    Scenario("no row differs, seeds shift nothing", shift=0.0),
    Scenario("no row differs, seeds shift much", shift=3.0),
    Scenario("no row differs, a sixth of the cells missing", missing=1 / 6),
    Scenario("one of four claims is true", levels=(0, 3, 0, 0, 0, 9)),
    Scenario("steps of just the margin", levels=(0, 1, -1, -2, -3, 9), spreads=(0.4,) * 5 + (1.0,)),
    Scenario("spreads of the reference", spreads=(1.1, 0.7, 1.4, 1.4, 0.2, 0.6)),
    Scenario("one row spreads twice as much", spreads=(2.0, 1.0, 1.0, 1.0, 1.0, 1.0)),
    Scenario("two rows spread four times as much", spreads=(2.0, 2.0, 0.5, 0.5, 0.5, 0.5)),
    Scenario("the same, 8 seeds", spreads=(2.0, 2.0, 0.5, 0.5, 0.5, 0.5), seeds=8),
    Scenario("`SEEDS=auto`, no row differs", looks=statistics.LOOKS),
    Scenario("`SEEDS=auto`, steps of 2 points", levels=(0, 2, 0, 2, 2, 9), looks=statistics.LOOKS),
    Scenario("`SEEDS=auto`, steps of just the margin", levels=(0, 1, -1, -2, -3, 9), looks=statistics.LOOKS),
    Scenario("`SEEDS=auto`, spreads of the reference", spreads=(1.1, 0.7, 1.4, 1.4, 0.2, 0.6), looks=statistics.LOOKS),
)


@dataclass(frozen=True)
class Result:
    """Shares of tables, in %.

    `holds`: with a claim that `holds` and is false. `wrong`: with any wrong conclusion (`reversed` and `equal`
    included). `covered`: 95 % intervals of differences that hold the true one. `as_judged`: the same of the intervals
    from which the claims were judged. `told`: tables whose first claim was decided.
    """

    holds: float
    wrong: float
    covered: float
    as_judged: float
    told: float


def simulate(scenario: Scenario, tables: int, generator: np.random.Generator) -> Result:
    """Return how often the analysis is wrong in a scenario."""
    level = dict(zip(ROWS, scenario.levels))
    truth = [level[upper] - level[lower] for upper, lower in CLAIMS]
    counts = dict.fromkeys(("holds", "wrong", "covered", "as_judged", "told"), 0)
    intervals = 0
    for _ in range(tables):
        contrasts, decisions = analyse(scenario, draw(scenario, generator))
        bad = [
            (found.verdict == "holds" and true <= 0)
            or (found.verdict == "reversed" and true >= 0)
            or (found.verdict == "equal" and abs(true) >= statistics.MARGIN)
            for found, true in zip(decisions, truth)
        ]
        counts["wrong"] += any(bad)
        counts["holds"] += any(b and found.verdict == "holds" for b, found in zip(bad, decisions))
        counts["told"] += decisions[0].verdict != "inconclusive"
        for contrast, found, true in zip(contrasts, decisions, truth):
            plain = contrast.estimate()
            if plain.low is None or plain.high is None or found.change.low is None or found.change.high is None:
                continue
            intervals += 1
            counts["covered"] += plain.low <= true <= plain.high
            counts["as_judged"] += found.change.low <= true <= found.change.high
    shares = {name: 100 * count / tables for name, count in counts.items()}
    shares |= {name: 100 * counts[name] / intervals for name in ("covered", "as_judged")}
    return Result(**shares)


def analyse(scenario: Scenario, scores: statistics.Scores) -> tuple[list[Contrast], list[Decision]]:
    """Return the differences and the decisions on the claims at the look at which it stops."""
    for seeds in scenario.looks or (scenario.seeds,):
        seen = {row: {seed: score for seed, score in line.items() if seed < seeds} for row, line in scores.items()}
        design = statistics.fit(seen, apart=("ce",))
        contrasts = [design.contrast(upper, lower) for upper, lower in CLAIMS]
        spend = functools.partial(statistics.share, looks=scenario.looks, seeds=seeds)
        decisions = statistics.decide(contrasts, [False] * len(CLAIMS), spend=spend)
        if all(found.verdict != "inconclusive" for found in decisions):
            break
    return contrasts, decisions


def draw(scenario: Scenario, generator: np.random.Generator) -> dict[str, dict[int, float]]:
    """Return a table of scores by row and seed; a missing one is NaN."""
    seeds = scenario.looks[-1] if scenario.looks else scenario.seeds
    shifts = scenario.shift * generator.standard_normal(seeds)
    noise = np.array(scenario.spreads)[:, None] * generator.standard_normal((len(ROWS), seeds))
    scores = np.array(scenario.levels)[:, None] + shifts + noise
    scores[generator.random(scores.shape) < scenario.missing] = np.nan
    return {row: dict(enumerate(map(float, line))) for row, line in zip(ROWS, scores)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a Markdown table of all scenarios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tables", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", metavar="TEXT", help="scenarios whose name holds this text")
    options = parser.parse_args(arguments)
    print("| tables in which ... | false `holds` | any wrong | 95 % interval covers | interval of the verdict covers |")
    print("|---|---:|---:|---:|---:|")
    for scenario in (scenario for scenario in SCENARIOS if options.only in scenario.name):
        found = simulate(scenario, options.tables, np.random.default_rng(options.seed))
        shown = (found.holds, found.wrong, found.covered, found.as_judged)
        print(f"| {scenario.name} | {' | '.join(f'{share:.1f} %' for share in shown)} |", flush=True)


if __name__ == "__main__":
    main()
