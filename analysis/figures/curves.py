"""Numbers over the epochs: scores while training, and whatever else a training logs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from analysis.figures.scores import draw_scores
from analysis.figures.style import COLOURS, DASHES, DOTS, MARKERS, colour, legend, nothing, saved, set_up
from analysis.summary import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D


@saved
def scores_and_curves(
    figure: Figure,
    rows: Sequence[Row],
    curves: pd.DataFrame,
    title: str,
    names: Mapping[str, str],
    paper: Mapping[str, float] | None = None,
) -> None:
    """Draw the scores of the rows (left) and the curves that led to them (right).

    `names[label]` is shown for a row. `paper[label]`: the paper's values, only where they can be compared.
    """
    # Rows have a fixed height, so many rows make a taller figure instead of smaller text.
    set_up(figure, 9.6, 1.9 + 0.36 * max(len(rows), 5), title)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
    draw_scores(left, rows, names, paper or {})
    _draw_training(right, rows, curves, names)


@saved
def two_budgets(figure: Figure, rows: Sequence[Row], curves: pd.DataFrame, before: pd.DataFrame, title: str) -> None:
    """Draw the validation mIoU of the ancillary's training and then of each row, which continues it (Fig. 4)."""
    from matplotlib.ticker import MaxNLocator

    set_up(figure, 7.6, 3.8, title)
    axes = figure.subplots()
    shown = [("ancillary", before, before[before["status"] == "done"]["key"], 0)]
    half = int(before["epoch"].max()) if len(before) else 0
    shown += [(row.label, curves, row.runs.loc[row.runs["status"] == "done", "key"], half) for row in rows]
    for index, (name, data, keys, start) in enumerate(shown):
        over = _over_epochs(data[data["key"].isin(keys)].drop_duplicates(["key", "epoch"]), "student_miou")
        if not len(over):
            continue
        over.index += start
        marker = MARKERS[index % len(MARKERS)]
        axes.plot(over.index, over["mean"], color=colour(index), lw=1.4, marker=marker, ms=4, label=name)
        _draw_band(axes, over, index)
    if half:
        axes.axvline(half, color="0.5", lw=0.8, ls=(0, (2, 2)))
    axes.set_xlabel("epoch (the ancillary's first, then each row's own)")
    axes.set_ylabel("mIoU (%)")
    head = "Validation mIoU of the student"
    axes.set_title(f"{head}: mean, band from lowest to highest seed" if _several_seeds(rows) else head)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="0.9", lw=0.7)
    legend(axes)


@saved
def facts(figure: Figure, curves: pd.DataFrame, rows: Sequence[str], names: Mapping[str, str], title: str) -> None:
    """Draw every logged quantity over the epochs, one panel each: the mean over the seeds of each row, and a band from
    the lowest to the highest seed.

    `curves`: one line per row of the table, seed and epoch (columns `row`, `seed`, `epoch`); every other column of
    numbers is a quantity, NaN where a row does not log it. `rows`: the labels of the rows in the order of the table,
    which sets their colours. `names[label]` is shown for a row. A quantity that is 0 throughout in a row is not drawn
    for that row; the text below names it.
    """
    from matplotlib.lines import Line2D

    found, zero = _quantities(curves, rows)
    # An empty figure keeps one place, for the text that says why.
    places = max(len(found), 1)
    columns = min(places, 2 if places == 4 else 3 if places <= 9 else 4)
    lines = math.ceil(places / columns)
    set_up(figure, 2.5 * columns + 1.9, max(1.75 * lines, 0.2 * len(rows)) + 1.0, title)
    grid = figure.subplots(lines, columns, sharex=True, squeeze=False).ravel()
    for axes, (quantity, by_row) in zip(grid, found.items(), strict=False):
        _draw_quantity(axes, quantity, by_row)
    for axes in grid[len(found) :]:
        axes.set_axis_off()
    if not found and not zero:
        nothing(grid[0])
    for place in range(max(len(found) - columns, 0), len(found)):  # nothing stands below these
        grid[place].tick_params(labelbottom=True)
        if place // columns == lines - 1:
            grid[place].set_xlabel("epoch", fontsize=8)
    shown = {rows[index]: index for index in sorted({index for by_row in found.values() for index in by_row})}
    handles = [
        Line2D([], [], color=colour(index), ls=_dashes(index), lw=1.4, label=names.get(label, label))
        for label, index in shown.items()
    ]
    figure.legend(handles=handles, loc="outside right center", fontsize=8, frameon=False)
    several = bool(found) and curves.groupby("row")["seed"].nunique().max() > 1
    notes = ["Mean over the seeds; band: lowest to highest seed."] if several else []
    if zero:
        where = {
            quantity: "every row" if len(labels) == len(rows) > 1 else ", ".join(names.get(n, n) for n in labels)
            for quantity, labels in zero.items()
        }
        notes.append(f"0 throughout: {'; '.join(f'{quantity} in {text}' for quantity, text in where.items())}")
    width = int(14 * figure.get_figwidth())
    text = "\n".join(textwrap.fill(note, width, break_long_words=False, break_on_hyphens=False) for note in notes)
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color="0.3")


def _quantities(
    curves: pd.DataFrame, rows: Sequence[str]
) -> tuple[dict[str, dict[int, pd.DataFrame]], dict[str, list[str]]]:
    """Return what is drawn (quantity -> index of the row -> `_over_epochs`), and the rows in which a quantity is 0
    throughout."""
    found: dict[str, dict[int, pd.DataFrame]] = {}
    zero: dict[str, list[str]] = {}
    for quantity in map(str, curves.select_dtypes("number").columns.difference(["seed", "epoch"], sort=False)):
        for index, label in enumerate(rows):
            over = _over_epochs(curves[curves["row"] == label], quantity)
            if over["min"].any() or over["max"].any():
                found.setdefault(quantity, {})[index] = over
            elif len(over):
                zero.setdefault(quantity, []).append(label)
    return found, zero


def _draw_quantity(axes: Axes, quantity: str, by_row: Mapping[int, pd.DataFrame]) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, over in by_row.items():
        marker = "o" if len(over) == 1 else None
        axes.plot(over.index, over["mean"], color=colour(index), ls=_dashes(index), lw=1.3, marker=marker, ms=3)
        _draw_band(axes, over, index)
    axes.set_title(quantity, fontsize=8.5)
    axes.tick_params(labelsize=7.5)
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    axes.grid(color="0.9", lw=0.7)


def _several_seeds(rows: Sequence[Row]) -> bool:
    return any(row.count("done") > 1 for row in rows)


def _dashes(index: int) -> str | tuple[int, tuple[int, int]]:
    """Return a second cue beside the colour, for when the colours begin again."""
    return ("-", DASHES, DOTS)[index // len(COLOURS) % 3]


def _over_epochs(part: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return `mean`, `min` and `max` over the seeds by epoch, of the numbers that are finite."""
    known = part[np.isfinite(part[quantity].astype(float))]
    return known.groupby("epoch")[quantity].agg(["mean", "min", "max"])


def _draw_band(axes: Axes, over: pd.DataFrame, index: int) -> None:
    axes.fill_between(over.index, over["min"], over["max"], color=colour(index), alpha=0.13, lw=0)


def _draw_training(axes: Axes, rows: Sequence[Row], curves: pd.DataFrame, names: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    # Without masks there is no mIoU, but teacher and student can be compared.
    scored = bool(curves[["student_miou", "teacher_miou"]].notna().any(axis=None))
    measures = (("student_miou", "-"), ("teacher_miou", DASHES)) if scored else (("agreement", "-"),)
    name = "Validation mIoU while training" if scored else "How far teacher and student agree"
    axes.set_title(f"{name} (band: lowest to highest seed)" if _several_seeds(rows) else name)
    drawn: list[Line2D] = []
    for index, row in enumerate(rows):
        # Only finished runs: a mean over fewer seeds towards the end would jump.
        keys = row.runs.loc[row.runs["status"] == "done", "key"]
        part = curves[curves["key"].isin(keys)].drop_duplicates(["key", "epoch"])
        for measure, dashes in measures:
            over = _over_epochs(part, measure)
            if not len(over):
                continue
            marker = "o" if len(over) == 1 else None
            line = axes.plot(over.index, over["mean"], color=colour(index), ls=dashes, lw=1.4, marker=marker, ms=3)[0]
            if measure != "teacher_miou":
                _draw_band(axes, over, index)
                line.set_label(names.get(row.label, row.label))
                drawn.append(line)
    axes.grid(color="0.9", lw=0.7)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mIoU (%)" if scored else "pixels with the same class (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not drawn:
        nothing(axes)
        axes.set(xlim=(0, 1), ylim=(0, 100), xticks=[])
        return
    teacher = bool(curves["teacher_miou"].notna().any())
    style = [Line2D([], [], color="0.35", lw=1.4, label="student")] if scored else []
    style += [Line2D([], [], color="0.35", lw=1.4, ls=DASHES, label="teacher")] if teacher else []
    axes.legend(handles=[*drawn, *style], fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
