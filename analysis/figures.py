"""Figures from rows. Drawn without pyplot, so no display, no backend and no global state is involved."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from analysis.summary import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160

# Okabe and Ito: told apart with every common colour blindness. Yellow comes last, it is weak on white.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
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
        figure.suptitle(title, x=0.01, ha="left", fontsize=10, fontweight="bold")
        left, right = figure.subplots(1, 2, width_ratios=(1, 1.1))
        _scores(left, rows, names, paper or {})
        _training(right, rows, curves, names)
        return _files(figure)


def _scores(axes: Axes, rows: Sequence[Row], names: Mapping[str, str], paper: Mapping[str, float]) -> None:
    axes.set_title("Seeds, mean and 95 % interval of the mean")
    for index, row in enumerate(rows):
        value = row.over_seeds()
        if value.mean is None:
            axes.annotate(
                "no run yet",
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

    axes.set_title("Validation mIoU while training (band: lowest to highest seed)")
    drawn: list[Line2D] = []
    for index, row in enumerate(rows):
        # Only finished runs: a mean over fewer seeds towards the end would jump.
        keys = row.runs.loc[row.runs["status"] == "done", "key"]
        part = curves[curves["key"].isin(keys)].drop_duplicates(["key", "epoch"])
        for network, dashes in (("student", "-"), ("teacher", (0, (4, 2)))):
            grouped = part.dropna(subset=[f"{network}_miou"]).groupby("epoch")[f"{network}_miou"]
            if grouped.ngroups == 0:
                continue
            over = grouped.agg(["mean", "min", "max"])
            marker = "o" if len(over) == 1 else None
            line = axes.plot(over.index, over["mean"], color=colour(index), ls=dashes, lw=1.4, marker=marker, ms=3)[0]
            if network == "student":
                axes.fill_between(over.index, over["min"], over["max"], color=colour(index), alpha=0.13, lw=0)
                line.set_label(names.get(row.label, row.label))
                drawn.append(line)
    axes.grid(color="0.9", lw=0.7)
    axes.set_xlabel("epoch")
    axes.set_ylabel("mIoU (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if not drawn:
        axes.annotate(
            "no finished run yet", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.55", style="italic"
        )
        axes.set(xlim=(0, 1), ylim=(0, 100), xticks=[])
        return
    teacher = bool(curves["teacher_miou"].notna().any())
    style = [Line2D([], [], color="0.35", lw=1.4, label="student")]
    style += [Line2D([], [], color="0.35", lw=1.4, ls=(0, (4, 2)), label="teacher")] if teacher else []
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
        files[kind] = buffer.getvalue()
    return files
