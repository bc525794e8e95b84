"""Pictures: images with labels, and the pipeline as boxes and arrows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from analysis.figures.style import colour, saved, set_up
from seminar.colours import palette
from seminar.spec import Stage

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Panels = Sequence[tuple[str, "NDArray[np.generic]"]]

_LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}


@saved
def gallery(
    figure: Figure,
    rows: Sequence[tuple[str, Panels, NDArray[np.generic]]],
    title: str,
    classes: Sequence[str] = (),
    background: int | None = 0,
) -> None:
    """Draw rows of pictures: (name of the row, titled panels, clicks (k, 3) as x, y, class for the first panel).

    A panel is an image (H, W, 3) uint8 or labels (H, W) uint8 in the colours of PASCAL VOC. `classes`:
    the names of the classes; with them, a legend names the colours that occur. `background`: the class that is black,
    or None.
    """
    colours = np.array(palette(background), np.uint8)
    columns = max((len(panels) for _, panels, _ in rows), default=1)
    width, height = 1.25 * columns + 0.5, 1.55 * max(len(rows), 1) + 0.6
    found = _occurring(rows) if classes else []
    names = dict(enumerate(classes)) | _NO_CLASS
    per_line = max(1, int(width / (0.45 + 0.075 * max((len(names.get(label, "")) for label in found), default=0))))
    set_up(figure, width, height + 0.2 * -(-len(found) // per_line), title)
    grid = figure.subplots(max(len(rows), 1), columns, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for line, (name, panels, clicks) in zip(grid, rows):
        for axes, (head, picture) in zip(line, panels):
            axes.imshow(picture if picture.ndim == 3 else colours[picture.astype(np.intp)], interpolation="nearest")
            axes.set_title(head, fontsize=6.5, loc="center")
        line[0].text(-0.08, 0.5, name, transform=line[0].transAxes, rotation=90, va="center", ha="right", fontsize=8)
        # Clicks are continuous; in a picture the centre of the first pixel is at 0.
        x, y = clicks[:, :2].astype(np.float64).T - 0.5
        look = {"s": 14, "edgecolors": "white", "linewidths": 0.6}
        line[0].scatter(x, y, c=colours[clicks[:, 2].astype(np.intp)] / 255, **look)
    if found:
        from matplotlib.patches import Patch

        swatches = [
            Patch(facecolor=colours[label] / 255, edgecolor="0.4", lw=0.5, label=names.get(label, f"class {label}"))
            for label in found
        ]
        look = {"fontsize": 7.5, "frameon": False, "handlelength": 1.2, "handleheight": 1.0, "columnspacing": 1.2}
        figure.legend(handles=swatches, loc="outside lower left", ncols=min(per_line, len(found)), **look)


_NO_CLASS = {254: "outside the image", 255: "no label"}
"""Labels that are none of a class (`seminar.data.PADDING` and `UNLABELLED`)."""


def _occurring(rows: Sequence[tuple[str, Panels, NDArray[np.generic]]]) -> list[int]:
    """Return the labels in the pictures and under the clicks, in their order."""
    found: set[int] = set()
    for _, panels, clicks in rows:
        found.update(int(cls) for cls in clicks[:, 2])
        for _, picture in panels:
            if picture.ndim == 2:
                found.update(np.unique(picture).tolist())
    return sorted(found)


@saved
def pipeline(figure: Figure, stage: Stage, title: str) -> None:
    """Draw the chain of trainings of `stage` as boxes and arrows: what each student learns from, and by which loss."""
    from matplotlib.patches import FancyBboxPatch

    set_up(figure, 8.4, 1.0 + 2.5 * len(stage.chain), title)
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
