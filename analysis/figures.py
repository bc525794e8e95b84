"""Figures from rows. Drawn without pyplot, so no display, no backend and no global state is involved."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.summary import Estimate, Row
from seminar.spec import Scalar, Stage

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

DPI = 160

# Okabe and Ito: told apart with every common colour blindness. Yellow comes last, it is weak on white.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
_DASHES = (0, (4, 2))
_MARKERS = "osD^vP"  # a second cue beside the colour; it changes when the colours begin again

_STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same bytes on every machine
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType: text stays text, as most publishers ask
}


def colour(index: int) -> str:
    """The colour of the table's row `index`."""
    return COLOURS[index % len(COLOURS)]


def table3(
    rows: Sequence[Row],
    curves: pd.DataFrame,
    title: str,
    names: Mapping[str, str],
    paper: Mapping[str, float] | None = None,
) -> dict[str, bytes]:
    """Scores of the rows (left) and how they came about (right), as `{"png": ..., "pdf": ...}`.

    `names[label]` is shown for a row. `paper[label]`: the paper's values, only where they can be compared.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):  # "default" first: a user's matplotlibrc must not change a report
        # Rows have a fixed height, so many rows make a taller figure instead of smaller text.
        figure = Figure(figsize=(9.6, 1.9 + 0.36 * max(len(rows), 5)), layout="constrained")
        _head(figure, title)
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        _scores(left, rows, names, paper or {})
        _training(right, rows, curves, names)
        return _files(figure)


def dots(rows: Sequence[Row], title: str) -> dict[str, bytes]:
    """Scores of rows that are no points on an axis."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(6.4, 1.3 + 0.36 * max(len(rows), 3)), layout="constrained")
        _head(figure, title)
        _scores(figure.subplots(), rows, {}, {})
        return _files(figure)


def points(
    rows: Sequence[Row],
    places: Mapping[str, tuple[str, str]],
    title: str,
    axis: str,
    own: Collection[str] = (),
) -> dict[str, bytes]:
    """Scores along an axis, one line for each first part of `places[row label]` (line, place on the axis).

    The places are evenly spaced, numbers in their order. Bars are 95 % intervals of the mean, small marks the seeds.
    With one line, its ancillary and its teacher are drawn beside it where they have scores. `own`: the rows with the
    profile's own value, marked on the axis.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    ticks = sorted(dict.fromkeys(places[row.label][1] for row in rows), key=_numbers_in_order)
    lines = list(dict.fromkeys(places[row.label][0] for row in rows))
    series = [(line, "student_miou") for line in lines]
    if len(lines) == 1:
        series += [("ancillary", "ancillary_miou"), ("teacher", "teacher_miou")]
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        _head(figure, title)
        axes = figure.subplots()
        for number, (name, metric) in enumerate(series):
            chosen = [row for row in rows if len(lines) == 1 or places[row.label][0] == name]
            shift = 0.08 * (number - (len(series) - 1) / 2)
            found = [(ticks.index(places[r.label][1]) + shift, r.over_seeds(metric), r.by_seed(metric)) for r in chosen]
            known = [(x, value, seeds) for x, value, seeds in found if value.mean is not None]
            if not known:
                continue
            look = {"color": colour(number), "zorder": 3}
            xs = [x for x, _, _ in known]
            marker = _MARKERS[number % len(_MARKERS)]
            means = [value.mean for _, value, _ in known]
            axes.plot(xs, means, marker=marker, ms=5, lw=1.4, label=name, **look)  # type: ignore[arg-type]
            for x, value, by_seed in known:
                if value.low is not None and value.high is not None:
                    axes.plot([x, x], [value.low, value.high], lw=1.4, **look)  # type: ignore[arg-type]
                scores = [score for score in by_seed.values() if score == score]
                axes.scatter([x] * len(scores), scores, s=9, color=colour(number), alpha=0.45, linewidths=0, zorder=2)
        mine = {places[row.label][1] for row in rows if row.label in own}
        axes.set_xticks(range(len(ticks)), [f"{tick}\n(profile)" if tick in mine else tick for tick in ticks])
        axes.set_xlabel(axis)
        axes.set_ylabel("mIoU (%)")
        axes.grid(axis="y", color="0.9", lw=0.7)
        _legend(axes)
        axes.set_title(f"Mean, 95 % interval of the mean, and each seed ({_counted(rows)})")
        return _files(figure)


def two_budgets(rows: Sequence[Row], curves: pd.DataFrame, before: pd.DataFrame, title: str) -> dict[str, bytes]:
    """Validation mIoU over the ancillary's training and then that of each row, which goes on from it (Fig. 4)."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(7.6, 3.8), layout="constrained")
        _head(figure, title)
        axes = figure.subplots()
        shown = [("ancillary", before, before[before["status"] == "done"]["key"], 0)]
        half = int(before["epoch"].max()) if len(before) else 0
        shown += [(row.label, curves, row.runs.loc[row.runs["status"] == "done", "key"], half) for row in rows]
        for index, (name, data, keys, begun) in enumerate(shown):
            part = data[data["key"].isin(keys)].drop_duplicates(["key", "epoch"]).dropna(subset=["student_miou"])
            if not len(part):
                continue
            over = part.groupby("epoch")["student_miou"].agg(["mean", "min", "max"])
            marker = _MARKERS[index % len(_MARKERS)]
            axes.plot(over.index + begun, over["mean"], color=colour(index), lw=1.4, marker=marker, ms=4, label=name)
            axes.fill_between(over.index + begun, over["min"], over["max"], color=colour(index), alpha=0.13, lw=0)
        if half:
            axes.axvline(half, color="0.5", lw=0.8, ls=(0, (2, 2)))
        axes.set_xlabel("epoch (the ancillary's first, then each row's own)")
        axes.set_ylabel("mIoU (%)")
        axes.set_title("Validation mIoU of the student: mean, band from lowest to highest seed")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color="0.9", lw=0.7)
        _legend(axes)
        return _files(figure)


def _numbers_in_order(tick: str) -> float:
    try:
        return float(tick)
    except ValueError:
        return float("-inf")  # "no teacher" stands before all values


def _head(figure: Figure, title: str) -> None:
    """The title of a figure, in as many lines as its width needs."""
    width = int(10.5 * figure.get_figwidth())
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, width)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, fontweight="bold")


def _counted(rows: Sequence[Row]) -> str:
    """How many seeds the means are over: `3 seeds`, `2 to 4 seeds`."""
    numbers = [row.over_seeds().n for row in rows]
    least, most = min(numbers), max(numbers)
    return f"{most} seeds" if least == most else f"{least} to {most} seeds"


def _legend(axes: Axes) -> None:
    """The legend beside the axes, or that there is nothing to see yet."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        _nothing(axes)


def _nothing(axes: Axes) -> None:
    axes.annotate(
        "no finished run yet", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.55", style="italic"
    )


def _scores(axes: Axes, rows: Sequence[Row], names: Mapping[str, str], paper: Mapping[str, float]) -> None:
    axes.set_title(f"Mean, its 95 % interval, and {_counted(rows)}")
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
    axes.set_yticks(range(len(rows)), [names.get(row.label, row.label) for row in rows])
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
    return _MARKERS[index // len(COLOURS) % len(_MARKERS)]


def _training(axes: Axes, rows: Sequence[Row], curves: pd.DataFrame, names: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    # Without masks there is no mIoU, but teacher and student can be compared.
    scored = bool(curves[["student_miou", "teacher_miou"]].notna().any(axis=None))
    measures = (("student_miou", "-"), ("teacher_miou", _DASHES)) if scored else (("agreement", "-"),)
    name = "Validation mIoU while training" if scored else "How far teacher and student agree"
    axes.set_title(f"{name} (band: lowest to highest seed)")
    drawn: list[Line2D] = []
    for index, row in enumerate(rows):
        # Only finished runs: a mean over fewer seeds towards the end would jump.
        keys = row.runs.loc[row.runs["status"] == "done", "key"]
        part = curves[curves["key"].isin(keys)].drop_duplicates(["key", "epoch"])
        for measure, dashes in measures:
            grouped = part.dropna(subset=[measure]).groupby("epoch")[measure]
            if grouped.ngroups == 0:
                continue
            over = grouped.agg(["mean", "min", "max"])
            marker = "o" if len(over) == 1 else None
            line = axes.plot(over.index, over["mean"], color=colour(index), ls=dashes, lw=1.4, marker=marker, ms=3)[0]
            if measure != "teacher_miou":
                axes.fill_between(over.index, over["min"], over["max"], color=colour(index), alpha=0.13, lw=0)
                line.set_label(names.get(row.label, row.label))
                drawn.append(line)
    axes.grid(color="0.9", lw=0.7)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mIoU (%)" if scored else "pixels with the same class (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not drawn:
        _nothing(axes)
        axes.set(xlim=(0, 1), ylim=(0, 100), xticks=[])
        return
    teacher = bool(curves["teacher_miou"].notna().any())
    style = [Line2D([], [], color="0.35", lw=1.4, label="student")] if scored else []
    style += [Line2D([], [], color="0.35", lw=1.4, ls=_DASHES, label="teacher")] if teacher else []
    axes.legend(handles=[*drawn, *style], fontsize=7.5, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _files(figure: Figure) -> dict[str, bytes]:
    """PNG and PDF without dates or versions in them: equal records give equal bytes."""
    files: dict[str, bytes] = {}
    no_dates: dict[str, dict[str, str | None]] = {
        "png": {"Software": None},
        "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    }
    for kind, metadata in no_dates.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out now, and that is half the work
        files[kind] = buffer.getvalue()
    return files


def cost(marks: Mapping[str, Sequence[tuple[str, float, Estimate]]], title: str) -> dict[str, bytes]:
    """Scores against seconds of annotation per image: series -> (name, seconds, score)."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        _head(figure, title)
        axes = figure.subplots()
        for index, (series, found) in enumerate(marks.items()):
            for place, (name, seconds, value) in enumerate(found):
                if value.mean is None:
                    continue
                if value.low is not None and value.high is not None:
                    axes.plot([seconds, seconds], [value.low, value.high], color=colour(index), lw=1.4)
                label = series if place == 0 else None
                marker = _MARKERS[index % len(_MARKERS)]
                axes.scatter([seconds], [value.mean], s=36, color=colour(index), marker=marker, label=label, zorder=3)
                # Above the nearest neighbour or below it, so that their names stay apart.
                others = [(abs(x - seconds), y.mean) for n, x, y in found if n != name and y.mean is not None]
                offset = (5, 5 if value.mean >= min(others, default=(0, 0.0))[1] else -11)
                axes.annotate(name, (seconds, value.mean), xytext=offset, textcoords="offset points", fontsize=7.5)
        axes.set_xlabel("annotation time (seconds per image, as the paper gives it)")
        axes.set_ylabel("mIoU (%)")
        axes.margins(x=0.2, y=0.15)
        axes.grid(color="0.9", lw=0.7)
        axes.legend(fontsize=8, frameon=False, loc="lower right")
        return _files(figure)


Panels = Sequence[tuple[str, "NDArray[np.generic]"]]


def gallery(rows: Sequence[tuple[str, Panels, NDArray[np.generic]]], title: str) -> dict[str, bytes]:
    """Rows of pictures: (name of the row, titled panels, clicks (k, 3) as x, y, class for the first panel).

    A panel is an image (H, W, 3) uint8 or labels (H, W) uint8 in the colours of PASCAL VOC.
    """
    import numpy as np
    from matplotlib import style
    from matplotlib.figure import Figure

    from seminar.data.pictures import palette

    colours = np.array(palette(), np.uint8)
    with style.context(["default", _STYLE]):
        columns = max((len(panels) for _, panels, _ in rows), default=1)
        figure = Figure(figsize=(1.25 * columns + 0.5, 1.55 * max(len(rows), 1) + 0.6), layout="constrained")
        _head(figure, title)
        grid = figure.subplots(max(len(rows), 1), columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for line, (name, panels, clicks) in zip(grid, rows):
            for axes, (head, picture) in zip(line, panels):
                axes.imshow(picture if picture.ndim == 3 else colours[picture.astype(np.intp)], interpolation="nearest")
                axes.set_title(head, fontsize=6.5, loc="center")
            line[0].text(
                -0.08, 0.5, name, transform=line[0].transAxes, rotation=90, va="center", ha="right", fontsize=8
            )
            # Clicks are continuous; in a picture the centre of the first pixel is at 0.
            x, y = clicks[:, :2].astype(np.float64).T - 0.5
            look = {"s": 14, "edgecolors": "white", "linewidths": 0.6}
            line[0].scatter(x, y, c=colours[clicks[:, 2].astype(np.intp)] / 255, **look)
        return _files(figure)


def pipeline(stage: Stage, title: str) -> dict[str, bytes]:
    """The chain of trainings of `stage` as boxes and arrows: what each student learns from, and by which loss."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(8.4, 1.0 + 2.5 * len(stage.chain)), layout="constrained")
        _head(figure, title)
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set(xlim=(0, 10), ylim=(-2.5 * len(stage.chain) + 0.2, 0.5))

        def box(x: float, y: float, text: str, fill: str) -> None:
            shape = FancyBboxPatch((x - 1.1, y - 0.33), 2.2, 0.66, boxstyle="round,pad=0.06", fc=fill, ec="0.25", lw=1)
            axes.add_patch(shape)
            axes.text(x, y, text, ha="center", va="center", fontsize=8)

        def arrow(start: tuple[float, float], end: tuple[float, float], text: str, index: int, dashed: bool) -> None:
            look = {"arrowstyle": "-|>", "color": colour(index), "lw": 1.5, "ls": "--" if dashed else "-"}
            axes.annotate("", xy=end, xytext=start, arrowprops=look)
            middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
            axes.text(*middle, text, ha="center", va="center", fontsize=7.5, color="0.1", bbox=_LABEL)

        for number, member in enumerate(stage.chain):
            top = -2.5 * number
            role = "primary" if number == len(stage.chain) - 1 else "ancillary"
            weights = {term.name: term.weight for term in member.losses}
            box(1.3, top, "images", "#F2F2F2")
            if member.annotation:
                box(1.3, top - 1.2, f"{member.annotation}, {member.click_size} px", "#F2F2F2")
            box(5, top - 0.6, f"{role} student\n{member.backbone}, seed {member.seed}", "#DCEBF7")
            plain = [f"{name} ({weights[name]:g})" for name in ("crf",) if name in weights]
            arrow((2.5, top), (3.8, top - 0.45), ", ".join(plain) or "input", 3, dashed=False)
            labelled = [f"{name} ({weights[name]:g})" for name in ("pce", "ce") if name in weights]
            if member.annotation:
                arrow((2.5, top - 1.2), (3.8, top - 0.75), ", ".join(labelled), 4, dashed=False)
            if member.alpha is not None:
                box(8.7, top - 0.6, f"{role} teacher\nEMA, alpha {member.alpha:g}", "#FBE9D0")
                arrow((6.2, top - 0.42), (7.5, top - 0.42), "weights", 0, dashed=True)
                arrow((7.5, top - 0.8), (6.2, top - 0.8), f"pcons ({weights.get('pcons', 0):g})", 5, dashed=False)
            if number:
                arrow(
                    (5, top + 1.5),
                    (5, top - 0.2),
                    f"pseudo ({weights.get('pseudo', 0):g}): its arg-max, frozen",
                    6,
                    False,
                )
        return _files(figure)


_LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}


@dataclass(frozen=True)
class Tried:
    """A trial of a search: its place in their order, its point, its score in % (None: it has none) after `epoch`, and
    how it ended (`done`, `pruned`, `failed`, and why)."""

    number: int
    point: Mapping[str, Scalar]
    score: float | None
    state: str
    epoch: int
    error: str = ""


@dataclass(frozen=True)
class Axis:
    """A searched word as an axis: evenly spaced `choices`, or numbers from `low` to `high` (`log`: their logarithm)."""

    word: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    choices: tuple[Scalar, ...] = ()

    def place(self, value: Scalar) -> float:
        if self.choices:
            return float(self.choices.index(value))
        return math.log10(float(value)) if self.log else float(value)

    @property
    def ends(self) -> tuple[float, float]:
        return (0.0, len(self.choices) - 1.0) if self.choices else (self.place(self.low), self.place(self.high))


def search(
    tried: Sequence[Tried], axes: Sequence[Axis], marks: Mapping[str, int | None], title: str
) -> dict[str, bytes]:
    """The scores of a search in the order of its trials, and over every pair of its first three words.

    Contours are interpolated between the trials that were not ended early. `marks`: text -> number of a trial that is
    pointed out, if it is there.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    pairs = list(itertools.combinations(axes[:3], 2))
    panels = 1 + max(len(pairs), 1)
    with style.context(["default", _STYLE]):
        figure = Figure(figsize=(9.6, 3.7 * -(-panels // 2)), layout="constrained")
        unseen = [axis.word for axis in axes[3:]]
        _head(figure, f"{title}\nNot drawn: {', '.join(unseen)}" if unseen else title)
        grid = figure.subplots(-(-panels // 2), 2, squeeze=False).ravel().tolist()
        _in_order(grid[0], tried, marks)
        if pairs:
            scores = [score for _, score in _scored(tried, "done")]
            span = (min(scores), max(scores)) if scores else (0.0, 100.0)
            shown = [_over(panel, tried, *pair, span, marks) for panel, pair in zip(grid[1:], pairs, strict=False)]
            figure.colorbar(shown[0], ax=grid[1 : 1 + len(pairs)], label="mIoU (%)", shrink=0.8)
        else:
            _along(grid[1], tried, axes[0], marks)
        for panel in grid[panels:]:
            panel.set_visible(False)
        handles = {text: mark for panel in grid for mark, text in zip(*panel.get_legend_handles_labels(), strict=True)}
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
        return _files(figure)


_ENDS = {"done": ("o", "trial"), "pruned": ("x", "ended early"), "failed": ("+", "failed")}
_POINTED = ("s", "*", "D")


def _scored(tried: Sequence[Tried], state: str) -> list[tuple[Tried, float]]:
    return [(one, one.score) for one in tried if one.state == state and one.score is not None]


def _marks(axes: Axes, state: str, places: Sequence[tuple[float, float]]) -> None:
    """Trials that ended in one way."""
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
    """Scores over the number of the trial, and the best so far."""
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


def _over(
    axes: Axes,
    tried: Sequence[Tried],
    across: Axis,
    up: Axis,
    span: tuple[float, float],
    marks: Mapping[str, int | None],
) -> Any:
    """Scores over two words; returns what the colour bar is about."""
    from matplotlib.tri import Triangulation

    places = {one.number: (across.place(one.point[across.word]), up.place(one.point[up.word])) for one in tried}
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
        set_label(chosen.word)
    return shown


def _along(axes: Axes, tried: Sequence[Tried], across: Axis, marks: Mapping[str, int | None]) -> None:
    """Scores over one word."""
    places = {n.number: (across.place(n.point[across.word]), n.score) for n in tried if n.score is not None}
    for state in _ENDS:
        _marks(axes, state, [places[one.number] for one, _ in _scored(tried, state)])
    _point_out(axes, marks, places)
    _ticks(axes.xaxis, across)
    axes.set_xlabel(across.word)
    axes.set_ylabel("mIoU on the tuning split (%)")
    axes.grid(axis="y", color="0.9", lw=0.7)


def _ticks(axis: Any, chosen: Axis) -> None:
    """The whole of what was searched, so that a best trial at its edge is seen to be there."""
    low, high = chosen.ends
    if chosen.choices:
        axis.set_ticks(range(len(chosen.choices)), [str(choice) for choice in chosen.choices])
    elif chosen.log:
        every = [digit * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for digit in (1, 3)]
        inside = [number for number in every if low - 1e-9 <= math.log10(number) <= high + 1e-9]
        axis.set_ticks([math.log10(number) for number in inside], [f"{number:g}" for number in inside])
    margin = 0.04 * (high - low)
    (axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim)(low - margin, high + margin)
