"""Scores of rows: beside one another, along an axis, and against what annotating costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from analysis.figures.style import COLOURS, MARKERS, colour, legend, nothing, saved, set_up
from analysis.summary import Estimate, Row
from seminar.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@saved
def dots(figure: Figure, rows: Sequence[Row], title: str, names: Mapping[str, str] = MappingProxyType({})) -> None:
    """Draw the scores of rows that are no points on an axis; `names`: what to call a row, by its label."""
    set_up(figure, 6.4, 1.3 + 0.36 * max(len(rows), 3), title)
    draw_scores(figure.subplots(), rows, names, {})


@saved
def scores_along_axis(
    figure: Figure,
    rows: Sequence[Row],
    places: Mapping[str, tuple[str, str]],
    title: str,
    axis: str,
    own: Collection[str] = (),
) -> None:
    """Draw scores along an axis, one line for each first part of `places[row label]` (line, place on the axis).

    The places are evenly spaced, numbers in their order. Bars are 95 % intervals of the mean, small marks the seeds.
    With one line, its ancillary and its teacher are drawn beside it where they have scores. `own`: the rows with the
    profile's own value, marked on the axis.
    """
    ticks = sorted(dict.fromkeys(places[row.label][1] for row in rows), key=_numbers_in_order)
    lines = list(dict.fromkeys(places[row.label][0] for row in rows))
    series = [(line, "student_miou") for line in lines]
    if len(lines) == 1:
        series += [("ancillary", "ancillary_miou"), ("teacher", "teacher_miou")]
    set_up(figure, 6.4, 3.6, title)
    axes = figure.subplots()
    for number, (name, metric) in enumerate(series):
        chosen = [row for row in rows if len(lines) == 1 or places[row.label][0] == name]
        shift = 0.08 * (number - (len(series) - 1) / 2)
        # A line joins its points in the order of the axis, whatever the order of the rows.
        chosen.sort(key=lambda row: ticks.index(places[row.label][1]))
        found = [(ticks.index(places[r.label][1]) + shift, r.over_seeds(metric), r.by_seed(metric)) for r in chosen]
        known = [(x, value, seeds) for x, value, seeds in found if value.mean is not None]
        if not known:
            continue
        look = {"color": colour(number), "zorder": 3}
        xs = [x for x, _, _ in known]
        marker = MARKERS[number % len(MARKERS)]
        means = [value.mean for _, value, _ in known]
        axes.plot(xs, means, marker=marker, ms=5, lw=1.4, label=name, **look)  # type: ignore[arg-type]
        for x, value, by_seed in known:
            if value.low is not None and value.high is not None:
                axes.plot([x, x], [value.low, value.high], lw=1.4, **look)  # type: ignore[arg-type]
            scores = [score for score in by_seed.values() if score == score]
            axes.scatter([x] * len(scores), scores, s=9, color=colour(number), alpha=0.45, linewidths=0, zorder=2)
    mine = {places[row.label][1] for row in rows if row.label in own}
    axes.set_xticks(
        range(len(ticks)), [f"{tick}\n(profile)" if tick in mine else tick for tick in map(printable, ticks)]
    )
    axes.set_xlabel(axis)
    axes.set_ylabel("mIoU (%)")
    axes.grid(axis="y", color="0.9", lw=0.7)
    legend(axes)
    axes.set_title(_heading(rows))


Mark = tuple[str, float, Estimate]
"""Name of a point of `cost`, its seconds per image, its score."""


@saved
def cost(
    figure: Figure,
    published: Sequence[Mark],
    ours: Mapping[str, Sequence[Mark]],
    title: str,
    comparable: bool = False,
) -> None:
    """Draw scores against the seconds that annotating an image takes; `ours` has several series by name.

    `comparable`: published scores and ours are of the same data, so they share one panel. Else they stand in two, each
    with a scale of scores of its own.
    """
    series = {_PUBLISHED: published, **ours}
    panels = {"": series} if comparable else {_PUBLISHED: {_PUBLISHED: published}, "ours": ours}
    set_up(figure, 6.4 if comparable else 9.6, 3.8, title)
    grid = figure.subplots(1, len(panels), sharex=True, squeeze=False)[0]
    for axes, (head, shown) in zip(grid, panels.items()):
        for name, marks in shown.items():
            _draw_marks(axes, name, marks, list(series).index(name))
        axes.set_title(head)
        axes.set_xlabel("annotation time (seconds per image)")
        axes.set_ylabel("mIoU (%)")
        # Dense masks take ten times as long as tags: on a plain axis the other levels would lie on top of one another.
        axes.set_xscale("log")
        axes.set_xticks([20, 30, 50, 100, 200], ["20", "30", "50", "100", "200"], minor=False)
        axes.set_xticks([], minor=True)
        axes.margins(x=0.2 if comparable else 0.3, y=0.15)
        axes.grid(color="0.9", lw=0.7)
        if not axes.get_legend_handles_labels()[0]:
            nothing(axes)
            axes.set_yticks([])
        elif head != _PUBLISHED:
            axes.legend(fontsize=8, frameon=False, loc="lower right")


_PUBLISHED = "published, VOC"


@saved
def gains(
    figure: Figure,
    panels: Mapping[str, Sequence[tuple[str, Estimate]]],
    quoted: Mapping[str, Sequence[tuple[str, float | None]]],
    title: str,
) -> None:
    """Draw what each claim gained, a panel for each data set, with a last one for `quoted` gains, by network. The
    panels share the claims and not the scale: sizes of gains do not compare between data sets."""
    claims = [text for text, _ in next(iter(panels.values()))]
    set_up(figure, 2.2 + 2.1 * (len(panels) + 1), 1.3 + 0.42 * len(claims), title)
    grid = figure.subplots(1, len(panels) + 1, sharey=True, squeeze=False)[0]
    for axes, (name, lines) in zip(grid, panels.items()):
        axes.set_title(name)
        for place, (_, value) in enumerate(lines):
            if value.mean is None:
                continue
            if value.low is not None and value.high is not None:
                axes.plot([value.low, value.high], [place, place], color=colour(0), lw=1.4)
            axes.scatter([value.mean], [place], s=30, color=colour(0), zorder=3)
    grid[-1].set_title("VOC, the paper")
    for number, (name, gained) in enumerate(quoted.items()):
        known = [(gain, place) for place, (_, gain) in enumerate(gained) if gain is not None]
        grid[-1].scatter(
            [gain for gain, _ in known],
            [place for _, place in known],
            s=30,
            facecolors="none",
            edgecolors=colour(number),
            marker=MARKERS[number % len(MARKERS)],
            label=name,
        )
    for axes in grid:
        axes.axvline(0, color="0.6", lw=0.8)
        axes.set_xlabel("mIoU gained")
        axes.grid(axis="x", color="0.9", lw=0.7)
        axes.margins(x=0.12)
    grid[0].set_yticks(range(len(claims)), list(map(printable, claims)))
    grid[0].set_ylim(len(claims) - 0.5, -0.5)
    legend(grid[-1])


def _draw_marks(axes: Axes, series: str, marks: Sequence[Mark], index: int) -> None:
    known = [(name, seconds, value, value.mean) for name, seconds, value in marks if value.mean is not None]
    for place, (name, seconds, value, mean) in enumerate(known):
        if value.low is not None and value.high is not None:
            axes.plot([seconds, seconds], [value.low, value.high], color=colour(index), lw=1.4)
        marker = MARKERS[index % len(MARKERS)]
        label = None if place else series
        axes.scatter([seconds], [mean], s=36, color=colour(index), marker=marker, label=label, zorder=3)
        # Above the nearest neighbour or below it, so that their names stay apart; on the left where the panel ends.
        others = [(abs(x - seconds), other) for n, x, _, other in known if n != name]
        last = seconds > 2 * min(x for _, x, _, _ in known)
        offset = (-5 if last else 5, 5 if mean >= min(others, default=(0, 0.0))[1] else -11)
        side = "right" if last else "left"
        axes.annotate(name, (seconds, mean), xytext=offset, textcoords="offset points", fontsize=7.5, ha=side)


def draw_scores(axes: Axes, rows: Sequence[Row], names: Mapping[str, str], paper: Mapping[str, float]) -> None:
    """Draw one line for each row: the mean, its 95 % interval, the seeds, and the paper's value where it is given."""
    axes.set_title(_heading(rows))
    for index, row in enumerate(rows):
        value = row.over_seeds()
        if value.mean is None:
            axes.annotate(
                "no score" if (row.runs["status"] == "done").any() else "no run yet",
                (0.5, index),
                xycoords=("axes fraction", "data"),
                ha="center",
                va="center",
                color="0.55",
                style="italic",
            )
        else:
            axes.annotate(
                f"{value.mean:.1f}",
                (1.01, index),
                xycoords=("axes fraction", "data"),
                va="center",
                annotation_clip=False,
            )
        seeds = [score for _, score in sorted(row.by_seed().items()) if score == score]
        # Offsets by rank of the seed, not random: the same records give the same picture.
        step = 0.26 / max(len(seeds) - 1, 1)
        heights = [index + 0.31 + step * (place - (len(seeds) - 1) / 2) for place in range(len(seeds))]
        axes.scatter(seeds, heights, s=13, color=colour(index), alpha=0.65, linewidths=0, zorder=2)
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [index, index], color=colour(index), lw=1.6, zorder=3)
            for end in (value.low, value.high):
                axes.plot([end, end], [index - 0.09, index + 0.09], color=colour(index), lw=1.6, zorder=3)
        if value.mean is not None:
            axes.scatter(
                [value.mean],
                [index],
                s=42,
                marker=_marker(index),
                color=colour(index),
                edgecolors="white",
                linewidths=0.7,
                zorder=4,
            )
        if row.label in paper:
            axes.scatter(
                [paper[row.label]],
                [index - 0.22],
                s=40,
                marker="D",
                facecolors="none",
                edgecolors="0.25",
                linewidths=1.1,
                zorder=4,
                label="paper (one run)",
            )
    axes.set_yticks(range(len(rows)), [printable(names.get(row.label, row.label)) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="0.9", lw=0.7)
    axes.set_xlabel("mIoU (%)")
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles[:1], labels[:1], loc="upper right", frameon=True, fontsize=8, edgecolor="0.85")
    if not any(row.over_seeds().n for row in rows):
        axes.set_xlim(0, 100)


def _marker(index: int) -> str:
    return MARKERS[index // len(COLOURS) % len(MARKERS)]


def _numbers_in_order(tick: str) -> float:
    try:
        return float(tick)
    except ValueError:
        return float("-inf")  # "no teacher" stands before all values


def _heading(rows: Sequence[Row]) -> str:
    """Return what the marks of the figure are; one seed has no interval."""
    numbers = [row.over_seeds().n for row in rows]
    least, most = min(numbers), max(numbers)
    if most < 2:
        return "One seed" if most else "No score yet"
    return f"Mean, 95 % interval and {most if least == most else f'{least} to {most}'} seeds"
