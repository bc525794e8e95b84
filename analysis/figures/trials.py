"""The trials of a search. Drawn from the kept records: no study, no database and no optuna is needed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analysis.figures.style import colour, saved, set_up
from seminar.spec import Scalar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Tried:
    """A trial of a search.

    `number`: its place in the order of the trials, from 0. `point`: its settings. `score`: mIoU in % after `epoch`,
    None where there is none. `state`: `done`, `pruned` or `failed`; `error` says why.
    """

    number: int
    point: Mapping[str, Scalar]
    score: float | None
    state: str
    epoch: int
    error: str = ""


@dataclass(frozen=True)
class Axis:
    """A searched setting as an axis: evenly spaced `choices`, or numbers from `low` to `high` (`log`: by logarithm)."""

    setting: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Scalar, ...] = ()

    def place(self, value: Scalar) -> float:
        """Return where the value stands on the axis."""
        if self.choices:
            return float(self.choices.index(value))
        return math.log10(float(value)) if self.log else float(value)

    @property
    def ends(self) -> tuple[float, float]:
        """Return the places of the lowest and the highest value that was searched."""
        return (0.0, len(self.choices) - 1.0) if self.choices else (self.place(self.low), self.place(self.high))


@saved
def search(
    figure: Figure, tried: Sequence[Tried], axes: Sequence[Axis], marks: Mapping[str, int | None], title: str
) -> None:
    """Draw the scores of a search in the order of its trials, and over every pair of its first three settings.

    Contours are interpolated between the trials that were not ended early. `marks`: text -> number of a trial that is
    pointed out, if it is there.
    """
    pairs = list(itertools.combinations(axes[:3], 2))
    panels = 1 + max(len(pairs), 1)
    unseen = [axis.setting for axis in axes[3:]]
    head = f"{title}\nNot drawn: {', '.join(unseen)}" if unseen else title
    set_up(figure, 9.6, 3.7 * -(-panels // 2), head)
    grid = figure.subplots(-(-panels // 2), 2, squeeze=False).ravel().tolist()
    _in_order(grid[0], tried, marks)
    if pairs:
        scores = [score for _, score in _scored(tried, "done")]
        span = (min(scores), max(scores)) if scores else (0.0, 100.0)
        shown = [
            _over_two_settings(panel, tried, *pair, span, marks) for panel, pair in zip(grid[1:], pairs, strict=False)
        ]
        figure.colorbar(shown[0], ax=grid[1 : 1 + len(pairs)], label="mIoU (%)", shrink=0.8)
    else:
        _along(grid[1], tried, axes[0], marks)
    for panel in grid[panels:]:
        panel.set_visible(False)
    handles = {text: mark for panel in grid for mark, text in zip(*panel.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)


_ENDS = {"done": ("o", "trial"), "pruned": ("x", "ended early"), "failed": ("+", "failed")}
_POINTED = ("s", "*", "D")


def _scored(tried: Sequence[Tried], state: str) -> list[tuple[Tried, float]]:
    return [(one, one.score) for one in tried if one.state == state and one.score is not None]


def _marks(axes: Axes, state: str, places: Sequence[tuple[float, float]]) -> None:
    """Draw the trials that ended in one way."""
    marker, name = _ENDS[state]
    if places:
        look: dict[str, Any] = {"marker": marker, "color": "0.35", "linewidths": 1, "label": name, "zorder": 3}
        axes.scatter([x for x, _ in places], [y for _, y in places], s=26, **look)


def _point_out(axes: Axes, marks: Mapping[str, int | None], places: Mapping[int, tuple[float, float]]) -> None:
    for (text, number), marker in zip(marks.items(), _POINTED, strict=False):
        if number is not None and number in places:
            look: dict[str, Any] = {"facecolors": "none", "edgecolors": colour(4), "linewidths": 1.6, "zorder": 5}
            axes.scatter(*places[number], s=150, marker=marker, label=text, **look)


def _in_order(axes: Axes, tried: Sequence[Tried], marks: Mapping[str, int | None]) -> None:
    """Draw the scores over the number of the trial, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    for state in _ENDS:
        _marks(axes, state, [(one.number + 1, score) for one, score in _scored(tried, state)])
    done = _scored(tried, "done")
    if done:
        best = list(itertools.accumulate((score for _, score in done), max))
        ends = [*(one.number + 1 for one, _ in done), max(one.number for one in tried) + 1]
        axes.plot(ends, [*best, best[-1]], drawstyle="steps-post", lw=1.2, color=colour(6), label="best so far")
    _point_out(axes, marks, {one.number: (one.number + 1, one.score) for one in tried if one.score is not None})
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial")
    axes.set_ylabel("mIoU on the tuning split (%)")
    axes.grid(axis="y", color="0.9", lw=0.7)


def _over_two_settings(
    axes: Axes,
    tried: Sequence[Tried],
    across: Axis,
    up: Axis,
    span: tuple[float, float],
    marks: Mapping[str, int | None],
) -> Any:
    """Draw the scores over two settings; return what the colour bar is about."""
    from matplotlib.tri import Triangulation

    places = {one.number: (across.place(one.point[across.setting]), up.place(one.point[up.setting])) for one in tried}
    done = _scored(tried, "done")
    xs, ys = [places[one.number][0] for one, _ in done], [places[one.number][1] for one, _ in done]
    scores = [score for _, score in done]
    look: dict[str, Any] = {"cmap": "cividis", "vmin": span[0], "vmax": max(span[1], span[0] + 0.1)}
    with suppress(ValueError, RuntimeError):  # fewer than three places, or all on one line: points alone
        axes.tricontourf(Triangulation(xs, ys), scores, levels=12, alpha=0.55, **look)
    shown = axes.scatter(xs, ys, c=scores, s=34, edgecolors="0.2", linewidths=0.7, zorder=3, **look)
    for state in ("pruned", "failed"):
        _marks(axes, state, [places[one.number] for one in tried if one.state == state])
    _point_out(axes, marks, places)
    for axis, set_label, chosen in ((axes.xaxis, axes.set_xlabel, across), (axes.yaxis, axes.set_ylabel, up)):
        _ticks(axis, chosen)
        set_label(chosen.setting)
    return shown


def _along(axes: Axes, tried: Sequence[Tried], across: Axis, marks: Mapping[str, int | None]) -> None:
    """Draw the scores over one setting."""
    places = {n.number: (across.place(n.point[across.setting]), n.score) for n in tried if n.score is not None}
    for state in _ENDS:
        _marks(axes, state, [places[one.number] for one, _ in _scored(tried, state)])
    _point_out(axes, marks, places)
    _ticks(axes.xaxis, across)
    axes.set_xlabel(across.setting)
    axes.set_ylabel("mIoU on the tuning split (%)")
    axes.grid(axis="y", color="0.9", lw=0.7)


def _ticks(axis: Any, chosen: Axis) -> None:
    """Show the whole range that was searched, so that a best trial at its edge is seen to be there."""
    low, high = chosen.ends
    if chosen.choices:
        axis.set_ticks(range(len(chosen.choices)), [str(choice) for choice in chosen.choices])
    elif chosen.log:
        every = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 3)]
        inside = [number for number in every if low - 1e-9 <= math.log10(number) <= high + 1e-9]
        axis.set_ticks([math.log10(number) for number in inside], [f"{number:g}" for number in inside])
    margin = 0.04 * (high - low)
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(low - margin, high + margin)
