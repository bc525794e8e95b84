"""How every figure looks, and how it is saved. Drawn without pyplot: no display, no backend, no global state."""

from __future__ import annotations

import functools
import io
import os
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from seminar.text import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Parameters = ParamSpec("Parameters")
Files = dict[str, bytes]
"""A saved figure: `{"png": ..., "pdf": ...}`."""

DPI = 160

# Okabe and Ito: distinct with every common colour blindness. Yellow comes last, it is weak on white.
COLOURS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#F0E442")
DASHES = (0, (4, 2))
DOTS = (0, (1, 2))
MARKERS = "osD^vP"
"""A second cue beside the colour."""

STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same bytes on every machine
    "font.size": 9,
    "text.parse_math": False,  # a name with one `$` is no formula
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "pdf.fonttype": 42,  # TrueType: text stays text, as most publishers ask
}

# Without dates or versions: equal records give equal bytes.
_METADATA: dict[str, dict[str, str | None]] = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}


def saved(draw: Callable[Concatenate[Figure, Parameters], None]) -> Callable[Parameters, Files]:
    """Decorate a function that draws on a figure: call it with a new figure in our style, return the saved files.

    The decorated function takes the same arguments without the figure.
    """

    @functools.wraps(draw)
    def drawn(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Files:
        # Jupyter sets a backend for its children, which need not be installed here; we draw without any.
        os.environ.pop("MPLBACKEND", None)
        from matplotlib import style
        from matplotlib.figure import Figure
        from matplotlib.text import Text

        with style.context(["default", STYLE]):  # "default" first: a user's matplotlibrc must not change a report
            figure = Figure(layout="constrained")
            draw(figure, *args, **kwargs)
            for text in figure.findobj(Text):
                if isinstance(text, Text):
                    text.set_text(printable(text.get_text()))
            return _save(figure)

    return drawn


def _save(figure: Figure) -> Files:
    files: Files = {}
    for kind, metadata in _METADATA.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=kind, dpi=DPI, metadata=metadata)
        figure.set_layout_engine("none")  # it is laid out now, and that is half the work
        files[kind] = buffer.getvalue()
    return files


def set_up(figure: Figure, width: float, height: float, title: str) -> None:
    """Set the size in inches, and the title in as many lines as the width needs."""
    figure.set_size_inches(width, height)
    lines = [part for line in title.split("\n") for part in textwrap.wrap(line, int(10.5 * width))]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10, fontweight="bold")


def colour(index: int) -> str:
    """Return the colour of row `index` of the table."""
    return COLOURS[index % len(COLOURS)]


def legend(axes: Axes) -> None:
    """Put the legend beside the axes, or say that no run is finished."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    else:
        nothing(axes)


def nothing(axes: Axes) -> None:
    """Say in the axes that no run is finished."""
    axes.annotate(
        "no finished run yet", (0.5, 0.5), xycoords="axes fraction", ha="center", color="0.55", style="italic"
    )
