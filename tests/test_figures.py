"""Figures: what they show, read from the axes, legends and texts before they are saved."""

import subprocess
import sys

import matplotlib as mpl
import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from analysis import figures
from analysis.figures.style import STYLE, colour
from analysis.summary import Estimate, Row
from seminar.colours import palette

EPOCHS = (1, 2, 3)


def drawn(function, *arguments, **options):
    """The figure that a function draws, before it is saved."""
    with mpl.style.context(["default", STYLE]):
        figure = Figure(layout="constrained")
        function.__wrapped__(figure, *arguments, **options)
        figure.draw_without_rendering()
    return figure


def panels(figure):
    """The visible axes by title."""
    return {axes.get_title(loc="left"): axes for axes in figure.axes if axes.axison}


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def row(label, *scores):
    seeds = range(len(scores))
    scores = [float(score) for score in scores]
    runs = {"key": [f"{label}{seed}" for seed in seeds], "status": "done", "seed": seeds, "student_miou": scores}
    return Row(label, pd.DataFrame({**runs, "ancillary_miou": float("nan"), "teacher_miou": float("nan")}))


def curves_of(rows):
    lines = [
        {"key": key, "status": "done", "seed": seed, "epoch": epoch, "student_miou": score - 5 + epoch}
        for one in rows
        for key, seed, score in zip(one.runs["key"], one.runs["seed"], one.runs["student_miou"])
        for epoch in EPOCHS
    ]
    return pd.DataFrame(lines).assign(teacher_miou=float("nan"), agreement=float("nan"))


# -- what is logged ------------------------------------------------------------------------------------------------


def logged(value, rows=("pce", "pce+crf"), seeds=2):
    """A frame for `facts`: `value(row, seed, epoch)` is a dict of quantities."""
    return pd.DataFrame(
        [
            {"row": label, "seed": seed, "epoch": epoch, **value(label, seed, epoch)}
            for label in rows
            for seed in range(seeds)
            for epoch in EPOCHS
        ]
    )


def terms(label, seed, epoch):
    own = {"loss_crf": 0.5 * epoch} if "crf" in label else {}
    weight = {"weight_pcons": 0.0 if label == "pce" else 3.0}
    return {"loss_pce": 10.0 * epoch + 2 * seed, "loss_pcons": 0.0, **own, **weight}


def test_every_logged_quantity_has_a_panel_with_a_line_for_each_row_that_has_it():
    shown = panels(drawn(figures.facts, logged(terms), ["pce", "pce+crf"], {}, "Facts"))
    assert set(shown) == {"loss_pce", "loss_crf", "weight_pcons"}
    first, second = shown["loss_pce"].lines
    # Seeds 0 and 1 add 0 and 2, so the mean adds 1; both rows log the same.
    assert first.get_xdata().tolist() == [1, 2, 3]
    assert first.get_ydata().tolist() == second.get_ydata().tolist() == [11.0, 21.0, 31.0]
    band = shown["loss_pce"].collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (10.0, 32.0)
    (crf,) = shown["loss_crf"].lines
    assert crf.get_ydata().tolist() == [0.5, 1.0, 1.5]
    # A row keeps its colour where it is the only one in a panel.
    assert to_rgb(crf.get_color()) == to_rgb(second.get_color()) == to_rgb(colour(1))
    (weight,) = shown["weight_pcons"].lines
    assert weight.get_ydata().tolist() == [3.0] * 3


def test_what_is_0_throughout_is_named_instead_of_drawn():
    figure = drawn(figures.facts, logged(terms), ["pce", "pce+crf"], {"pce": "clicks alone"}, "Facts")
    lines = figure.get_supxlabel().splitlines()
    assert lines[1:] == ["0 throughout: loss_pcons in every row; weight_pcons in clicks alone"]
    assert legend_texts(figure) == ["clicks alone", "pce+crf"]
    # A row that logs nothing is not 0.
    more = drawn(figures.facts, logged(terms), ["pce", "pce+crf", "ce"], {}, "Facts")
    assert "0 throughout: loss_pcons in pce, pce+crf; weight_pcons in pce" in more.get_supxlabel()
    alone = drawn(figures.facts, logged(terms, rows=["pce"]), ["pce"], {}, "Facts")
    assert "0 throughout: loss_pcons in pce; weight_pcons in pce" in alone.get_supxlabel()


def test_a_band_is_explained_where_there_is_one():
    texts = [
        drawn(figures.facts, logged(lambda *_: {"x": 1.0}, seeds=seeds), ["pce"], {}, "").get_supxlabel()
        for seeds in (1, 2)
    ]
    assert texts == ["", "Mean over the seeds; band: lowest to highest seed."]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9, 10, 16])
def test_any_number_of_quantities_is_readable(count):
    data = logged(lambda *_: {f"quantity_{number}": number + 1.0 for number in range(count)})
    figure = drawn(figures.facts, data, ["pce", "pce+crf"], {}, "Facts")
    shown = panels(figure)
    assert list(shown) == [f"quantity_{number}" for number in range(count)]
    dpi = figure.get_dpi()
    boxes = [axes.get_tightbbox() for axes in shown.values()]
    assert all(box.width / dpi > 1.2 and box.height / dpi > 0.9 for box in boxes), "inches"
    (legend,) = figure.legends
    boxes.append(legend.get_window_extent())
    assert not any(one.overlaps(other) for n, one in enumerate(boxes) for other in boxes[:n])
    numbered = [axes for axes in shown.values() if axes.xaxis.get_tick_params()["labelbottom"]]
    columns = len({round(axes.get_position().x0, 3) for axes in shown.values()})
    assert len(numbered) == columns, "the lowest panel of each column has the epochs below it"


def test_numbers_that_are_not_finite_and_rows_that_log_nothing_are_left_out():
    data = logged(lambda label, seed, epoch: {"loss": float("inf") if epoch == 2 else 1.0, "none": float("nan")})
    shown = panels(drawn(figures.facts, data, ["pce", "pce+crf", "not there"], {}, ""))
    assert list(shown) == ["loss"]
    assert [line.get_xdata().tolist() for line in shown["loss"].lines] == [[1, 3]] * 2
    empty = drawn(figures.facts, pd.DataFrame(columns=["row", "seed", "epoch"]), [], {}, "Facts")
    assert [text.get_text() for text in empty.axes[0].texts] == ["no finished run yet"]


# -- headings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "heading", "band"),
    [
        (((40,), (41,)), "One seed", False),
        (((40,), ()), "One seed", False),
        (((40, 41, 42, 43), (41, 42, 43, 44)), "Mean, 95 % interval and 4 seeds", True),
        (((40,), (41, 42, 43)), "Mean, 95 % interval and 1 to 3 seeds", True),
        (((float("nan"),), (float("nan"),)), "No score yet", False),
    ],
)
def test_headings_say_what_is_drawn(scores, heading, band):
    rows = [row(label, *values) for label, values in zip("ab", scores)]
    assert list(panels(drawn(figures.dots, rows, ""))) == [heading]
    places = {"a": ("line", "1"), "b": ("line", "2")}
    assert list(panels(drawn(figures.scores_along_axis, rows, places, "", "size"))) == [heading]
    left, right = panels(drawn(figures.scores_and_curves, rows, curves_of(rows), "", {}))
    assert left == heading
    assert ("band" in right) == band
    (title,) = panels(drawn(figures.two_budgets, rows, curves_of(rows), curves_of(rows[:1]), ""))
    assert ("band" in title) == band


def test_a_line_joins_its_points_in_the_order_of_the_axis():
    """A sweep file can name the profile's own value anywhere, and rows come in its order."""
    rows = [row("a", 48.0), row("own", 49.0), row("b", 45.0)]
    places = {"a": ("line", "0.97"), "own": ("line", "0.9"), "b": ("line", "0.99")}
    (axes,) = panels(drawn(figures.scores_along_axis, rows, places, "", "alpha")).values()
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["0.9", "0.97", "0.99"]
    assert axes.lines[0].get_ydata().tolist() == [49.0, 48.0, 45.0]
    assert axes.lines[0].get_xdata().tolist() == sorted(axes.lines[0].get_xdata())


# -- costs ---------------------------------------------------------------------------------------------------------

PUBLISHED = [("A, clicks", 22.1, Estimate(1, 60.0)), ("B, boxes", 38.1, Estimate(1, 65.0))]
OURS = {"ours (toy)": [("clicks", 22.1, Estimate(3, 40.0, 1.0, 38.0, 42.0)), ("none", 30.0, Estimate(0))]}


def marks(axes):
    return [tuple(point) for points in axes.collections for point in points.get_offsets().tolist()]


def test_published_costs_stand_beside_ours_with_a_scale_of_their_own():
    shown = panels(drawn(figures.cost, PUBLISHED, OURS, "Costs"))
    assert {title: marks(axes) for title, axes in shown.items()} == {
        "published, VOC": [(22.1, 60.0), (38.1, 65.0)],
        "ours": [(22.1, 40.0)],
    }
    published, ours = shown.values()
    assert published.get_xlim() == ours.get_xlim()
    assert published.get_ylim() != ours.get_ylim()
    assert ours.get_ylim()[1] < 60


def test_comparable_costs_share_a_panel_and_a_legend():
    ((_, axes),) = panels(drawn(figures.cost, PUBLISHED, OURS, "Costs", comparable=True)).items()
    assert marks(axes) == [(22.1, 60.0), (38.1, 65.0), (22.1, 40.0)]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["published, VOC", "ours (toy)"]


def test_costs_without_a_run_say_so():
    shown = panels(drawn(figures.cost, PUBLISHED, {}, "Costs"))
    assert [text.get_text() for text in shown["ours"].texts] == ["no finished run yet"]


# -- pictures ------------------------------------------------------------------------------------------------------


def pictures(labels, clicked=1):
    image = np.zeros((4, 6, 3), np.uint8)
    clicks = np.array([[1.5, 2.5, clicked]])
    return [("worst", [("clicks", image), ("truth", np.array(labels, np.uint8))], clicks)]


def test_a_legend_names_the_classes_that_occur():
    rows = pictures([[0, 0, 3], [255, 3, 3]], clicked=2)
    figure = drawn(figures.gallery, rows, "", ["background", "cat", "dog", "owl"])
    # Class 1 is in no picture; class 2 has a click alone.
    assert legend_texts(figure) == ["background", "dog", "owl", "no label"]
    swatches = [patch.get_facecolor()[:3] for patch in figure.legends[0].get_patches()]
    expected = [tuple(value / 255 for value in palette()[label]) for label in (0, 2, 3, 255)]
    assert np.allclose(swatches, expected)


def test_a_legend_of_21_classes_fits_the_figure():
    names = [f"a long name {number}" for number in range(21)]
    figure = drawn(figures.gallery, pictures([list(range(21))]), "", names)
    assert legend_texts(figure) == names
    (legend,) = figure.legends
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
    assert not any(box.overlaps(axes.get_window_extent()) for axes in figure.axes)


def test_without_names_there_is_no_legend():
    assert not drawn(figures.gallery, pictures([[0, 1]]), "").legends


# -- style and saving ----------------------------------------------------------------------------------------------


def test_settings_of_the_user_change_nothing_and_are_left_alone():
    plain = figures.dots([row("a", 40, 41)], "Dots")
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "red"}):
        assert figures.dots([row("a", 40, 41)], "Dots") == plain
        assert mpl.rcParams["font.size"] == 30
    assert plain["png"].startswith(b"\x89PNG") and plain["pdf"].startswith(b"%PDF")


def test_drawing_needs_neither_torch_nor_optuna_nor_pyplot():
    code = """
import sys
import numpy as np
from analysis import figures, page
labels = np.zeros((4, 6), np.uint8)
figures.gallery([("worst", [("truth", labels)], np.zeros((1, 3)))], "title", ["background"])
tried = [figures.Tried(number, {"alpha": 0.9 + number / 100}, 40.0, "done", 5) for number in range(3)]
figures.search(tried, [figures.Axis("alpha", 0.9, 0.99)], {}, "title")
print([name in sys.modules for name in ("matplotlib", "torch", "optuna", "matplotlib.pyplot")])
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[True, False, False, False]"
