"""Scribbles as label maps: which pixels a line covers, and that a view moves the lines as it moves the pixels."""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from seminar.data import PADDING, UNLABELLED, Annotation, Click, Example, Scribble
from seminar.data.augment import TrainView
from seminar.data.creatures import make
from seminar.data.strokes import draw_scribbles, trace

U = UNLABELLED


def drawn(scribbles: tuple[Scribble, ...], size: int, height: int, width: int) -> Tensor:
    points = torch.tensor([point for scribble in scribbles for point in scribble.points]).reshape(-1, 2)
    lengths, classes = [len(scribble.points) for scribble in scribbles], [scribble.cls for scribble in scribbles]
    labels = draw_scribbles(points, lengths, classes, height, width, size)
    assert labels.dtype == torch.uint8 and labels.shape == (height, width) and labels.is_contiguous()
    return labels


def rows(*scribbles: Scribble, size: int = 1, height: int = 5, width: int = 7) -> list[str]:
    """The drawing as text: `.` is unlabelled."""
    labels = drawn(scribbles, size, height, width).tolist()
    return ["".join("." if label == U else str(label) for label in row) for row in labels]


def random_scribbles(seed: int, height: int, width: int, count: int = 6, beyond: float = 20) -> tuple[Scribble, ...]:
    """Polylines of 1 to 5 corners, some of them up to `beyond` pixels outside the image."""
    rng = np.random.default_rng(seed)
    return tuple(
        Scribble(
            tuple(
                (rng.uniform(-beyond, width + beyond), rng.uniform(-beyond, height + beyond)) for _ in range(k % 5 + 1)
            ),
            int(rng.integers(21)),
        )
        for k in range(count)
    )


def pixels(scribble: Scribble) -> list[tuple[int, int]]:
    """The pixels under a scribble, with fractions instead of the integer arithmetic of `trace`."""
    corners = [(math.floor(x), math.floor(y)) for x, y in scribble.points]
    found = corners[:1]
    for (x0, y0), (x1, y1) in pairwise(corners):
        steps = max(abs(x1 - x0), abs(y1 - y0))
        for step in range(1, steps + 1):
            at: list[int] = []
            for start, way in ((x0, x1 - x0), (y0, y1 - y0)):
                along = Fraction(abs(way) * step, steps)
                nearest = math.floor(along) + (
                    along - math.floor(along) >= Fraction(1, 2)
                )  # a tie: away from the start
                at.append(start + nearest * (1 if way > 0 else -1))
            found.append((at[0], at[1]))
    return found


# ---- drawing


def test_lines_one_pixel_wide() -> None:
    assert rows(Scribble(((1.0, 2.9), (5.99, 2.0)), 3)) == [".......", ".......", ".33333.", ".......", "......."]
    assert rows(Scribble(((6.5, 4.5), (6.5, 1.5)), 0)) == [".......", "......0", "......0", "......0", "......0"]
    assert rows(Scribble(((0.5, 4.5), (4.5, 0.5)), 9)) == ["....9..", "...9...", "..9....", ".9.....", "9......"]
    assert rows(Scribble(((0.5, 0.5), (2.5, 0.5), (2.5, 3.5)), 1)) == [
        "111....",
        "..1....",
        "..1....",
        "..1....",
        ".......",
    ]


def test_a_tie_goes_away_from_the_start() -> None:
    """From (0, 1) to (2, 2), and from (2, 2) to (0, 1): the middle lies between two pixels."""
    assert rows(Scribble(((0.5, 1.5), (2.5, 2.5)), 4))[1:3] == ["4......", ".44...."]
    assert rows(Scribble(((2.5, 2.5), (0.5, 1.5)), 4))[1:3] == ["44.....", "..4...."]


def test_a_square_brush_follows_the_line() -> None:
    line = Scribble(((2.5, 2.5), (4.5, 2.5)), 5)
    assert rows(line, size=3) == [".......", ".55555.", ".55555.", ".55555.", "......."]
    assert rows(line, size=5) == ["5555555"] * 5
    assert rows(Scribble(((1.5, 1.5), (2.5, 2.5)), 5), size=3) == [
        "555....",
        "5555...",
        "5555...",
        ".555...",
        ".......",
    ]


def test_one_corner_is_a_dot_and_a_repeated_corner_changes_nothing() -> None:
    assert rows(Scribble(((0.5, 0.5),), 2), size=3) == ["22.....", "22.....", ".......", ".......", "......."]
    assert rows(Scribble(((0.5, 0.5), (0.9, 0.1)), 2), size=3) == rows(Scribble(((0.5, 0.5),), 2), size=3)
    twice = Scribble(((1.5, 1.5), (1.5, 1.5), (5.5, 3.5), (5.5, 3.5)), 2)
    assert rows(twice) == rows(Scribble(((1.5, 1.5), (5.5, 3.5)), 2))
    assert (drawn((), 3, 4, 5) == U).all()


def test_foreground_wins_over_background_and_later_over_earlier() -> None:
    across, down = ((0.5, 2.5), (6.5, 2.5)), ((3.5, 0.5), (3.5, 4.5))
    assert rows(Scribble(across, 3), Scribble(down, 4)) == ["...4...", "...4...", "3334333", "...4...", "...4..."]
    assert rows(Scribble(down, 4), Scribble(across, 3))[1:4] == ["...4...", "3333333", "...4..."]
    assert rows(Scribble(across, 3), Scribble(down, 0))[1:4] == ["...0...", "3333333", "...0..."]
    wide = rows(Scribble(across, 3), Scribble(down, 4), Scribble(((0.5, 1.5), (6.5, 1.5)), 0), size=3)
    assert wide == ["0044400", "3344433", "3344433", "3344433", "..444.."]


@pytest.mark.parametrize("size", [1, 3, 5])
def test_any_line_is_the_union_of_squares_on_its_pixels(size: int) -> None:
    for seed in range(40):
        (scribble,) = random_scribbles(seed, 30, 40, count=5)[-1:]
        expected = torch.full((30, 40), U, dtype=torch.uint8)
        for x, y in pixels(scribble):
            square = (slice(max(at - size // 2, 0), max(at + size // 2 + 1, 0)) for at in (y, x))
            expected[tuple(square)] = scribble.cls
        assert torch.equal(drawn((scribble,), size, 30, 40), expected), seed


def test_the_pixels_of_a_line_touch() -> None:
    for seed in range(20):
        path = np.array(pixels(random_scribbles(seed, 30, 40, count=5)[-1]))
        assert np.abs(np.diff(path, axis=0)).max() == 1
        ends = trace(path[:1], path[-1:])[0]
        assert (ends[0] == path[0]).all() and (ends[-1] == path[-1]).all()
        assert np.abs(np.diff(ends, axis=0)).max() == 1


def test_a_line_that_crosses_the_canvas_with_both_ends_outside() -> None:
    assert rows(Scribble(((-93.5, 2.5), (106.5, 2.5)), 6)) == [".......", ".......", "6666666", ".......", "......."]
    assert rows(Scribble(((-1.5, -1.5), (8.5, 8.5)), 6)) == ["6......", ".6.....", "..6....", "...6...", "....6.."]
    assert rows(Scribble(((-5.5, -0.5), (15.5, -0.5)), 6), size=3) == ["6666666", *["......."] * 4]
    assert rows(Scribble(((-5.5, -1.5), (15.5, -1.5)), 6), size=3) == ["......."] * 5


@pytest.mark.parametrize("size", [1, 3, 5])
def test_a_canvas_is_a_window_on_an_endless_one(size: int) -> None:
    def moved(scribbles: tuple[Scribble, ...], by: int) -> tuple[Scribble, ...]:
        return tuple(replace(line, points=tuple((x + by, y + by) for x, y in line.points)) for line in scribbles)

    seen = 0
    for seed in range(30):
        scribbles = random_scribbles(seed, 90, 120)
        everything = drawn(moved(scribbles, 50), size, 190, 220)
        window = drawn(moved(scribbles, -seed), size, 40, 30)
        assert torch.equal(window, everything[50 + seed : 90 + seed, 50 + seed : 80 + seed]), seed
        seen += int((window != U).any())
    assert seen > 15


@pytest.mark.parametrize("size", [1, 3])
def test_the_mirror_image_of_a_line_is_the_line_of_the_mirrored_corners(size: int) -> None:
    for seed in range(30):
        scribbles = random_scribbles(seed, 30, 40)
        centres = [[(math.floor(x) + 0.5, math.floor(y) + 0.5) for x, y in line.points] for line in scribbles]
        for axis, mirror in ((1, lambda x, y: (40 - x, y)), (0, lambda x, y: (x, 30 - y))):
            mirrored = tuple(
                Scribble(tuple(mirror(x, y) for x, y in points), line.cls)
                for line, points in zip(scribbles, centres, strict=True)
            )
            assert torch.equal(drawn(mirrored, size, 30, 40), drawn(scribbles, size, 30, 40).flip(axis)), seed


# ---- views


def view(annotation: Annotation | None = "scribbles", **changes: Any) -> TrainView:
    settings: dict[str, Any] = {"crop": 64, "scale_min": 0.5, "scale_max": 2.0, "flip": True, "noise": "none"}
    settings |= {"click_size": 1, "click_order": "geometry_first"} | changes
    return TrainView(**settings, annotation=annotation)


def seeded(train_view: TrainView, example: Example, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return train_view(example)


def scribbled(mask: Tensor, *scribbles: Scribble, clicks: tuple[Click, ...] = ()) -> Example:
    return Example("s", mask.expand(3, -1, -1), mask, clicks, scribbles)


def quadrants(height: int, width: int) -> Tensor:
    """Each quadrant is one class: 0 1 / 2 3."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[:, width // 2 :] += 1
    mask[height // 2 :] += 2
    return mask


@pytest.mark.parametrize("size", [1, 3, 5])
@pytest.mark.parametrize("order", ["geometry_first", "raster_first"])
@pytest.mark.parametrize(("height", "width", "scale"), [(64, 150, 1.0), (150, 64, 1.0), (32, 40, 0.5), (32, 90, 0.5)])
def test_at_scale_1_a_view_of_the_lines_is_a_view_of_the_drawing(
    size: int, order: str, height: int, width: int, scale: float
) -> None:
    """The drawing itself is the mask: cropped, mirrored and padded (0.5: the image is half a crop high) like one."""
    train_view = view(scale_min=scale, scale_max=scale, click_size=size, click_order=order)
    seen = 0
    for seed in range(12):
        scribbles = random_scribbles(seed, height, width)
        result = seeded(train_view, scribbled(drawn(scribbles, size, height, width), *scribbles), seed)
        assert torch.equal(result["labels"], result["masks"]), seed
        seen += int((result["labels"] < PADDING).any())
    assert seen > 8


@pytest.mark.parametrize("size", [1, 3])
def test_raster_first_resamples_the_drawing_at_every_scale(size: int) -> None:
    train_view = view(click_size=size, click_order="raster_first")
    for seed in range(30):
        scribbles = random_scribbles(seed, 50, 70)
        result = seeded(train_view, scribbled(drawn(scribbles, size, 50, 70), *scribbles), seed)
        assert torch.equal(result["labels"], result["masks"]), seed


def test_geometry_first_draws_thin_lines_at_every_scale_and_raster_first_thick_ones() -> None:
    """20 pixels of a row, enlarged 4 times: from the centre of one end to the other 4 * 19 steps; or 20 4x4 squares."""
    example = scribbled(quadrants(32, 32), Scribble(((6.5, 9.5), (25.5, 9.5)), 7))
    enlarged = {"crop": 128, "scale_min": 1.0, "scale_max": 1.0}
    for seed in range(6):  # both ways round
        thin = seeded(view(**enlarged), example, seed)["labels"] == 7
        thick = seeded(view(**enlarged, click_order="raster_first"), example, seed)["labels"] == 7
        assert thin.sum() == 4 * 19 + 1 and thin.any(1).sum() == 1
        assert thick.sum() == 20 * 16
        assert (thick | ~thin).all()


@pytest.mark.parametrize("order", ["geometry_first", "raster_first"])
@pytest.mark.parametrize("column", [0.0, 0.99, 19.99])
def test_a_line_stays_on_its_object_when_enlarged(order: str, column: float) -> None:
    """Along the first and last pixel columns of every quadrant: half a pixel off would show."""
    lines = [
        Scribble(tuple((column + 20 * (cls % 2), y + 20 * (cls // 2)) for y in (0.0, 8.5, 19.99)), cls)
        for cls in range(4)
    ]
    example = scribbled(quadrants(40, 40), *lines)
    train_view, seen = view(scale_min=0.64, click_order=order), 0
    for seed in range(60):
        result = seeded(train_view, example, seed)
        labelled = result["labels"] < PADDING
        assert torch.equal(result["labels"][labelled], result["masks"][labelled]), seed
        seen += int(labelled.sum())
    assert seen > 60 * 20


def test_a_slanted_line_keeps_its_place_when_enlarged() -> None:
    """Every labelled pixel of the enlarged view lies within a pixel (of the image) of the line; all of it is there."""
    (x0, y0), (x1, y1) = (5.5, 8.5), (26.5, 19.5)
    example = scribbled(quadrants(32, 32), Scribble(((x0, y0), (x1, y1)), 7))
    for seed in range(8):
        labels = seeded(view(crop=96, scale_min=1.0, scale_max=1.0, flip=False), example, seed)["labels"]
        at = (torch.nonzero(labels == 7).flip(-1) + 0.5) / 3
        along = torch.tensor([x1 - x0, y1 - y0]) / math.hypot(x1 - x0, y1 - y0)
        offset = at - torch.tensor([x0, y0])
        assert (offset[:, 0] * along[1] - offset[:, 1] * along[0]).abs().max() < 0.5
        assert at[:, 0].min() < x0 + 0.4 and at[:, 0].max() > x1 - 0.4
        assert len(at) == 3 * 21 + 1


@pytest.mark.parametrize("order", ["geometry_first", "raster_first"])
def test_generated_scribbles_stay_on_their_objects_in_enlarged_views(order: str) -> None:
    train_view, seen = view(scale_min=1.0, click_order=order), 0
    for index in range(40):
        result = seeded(train_view, make(0, index), index)
        labelled = result["labels"] < PADDING
        assert torch.equal(result["labels"][labelled], result["masks"][labelled]), index
        seen += int(labelled.sum())
    assert seen > 40 * 30


def test_the_annotation_says_what_the_labels_are() -> None:
    example = scribbled(quadrants(64, 64), Scribble(((1.5, 1.5), (9.5, 1.5)), 3), clicks=(Click(40.0, 40.0, 5),))
    fixed = {"scale_min": 1.0, "scale_max": 1.0}
    for seed in range(4):
        labels = {kind: seeded(view(kind, **fixed), example, seed)["labels"] for kind in ("clicks", "scribbles")}
        assert {kind: label[label != U].tolist() for kind, label in labels.items()} == {
            "clicks": [5],
            "scribbles": [3] * 9,
        }
    settings = (64, 1.0, 1.0, True, "none", 1, "geometry_first")
    torch.manual_seed(3)
    assert torch.equal(TrainView(*settings)(example)["labels"], labels["clicks"])  # the default
    assert "labels" not in view(None)(example)
    assert "labels" not in view("scribbles", click_size=None, click_order=None)(example)
    assert (view()(replace(example, scribbles=()))["labels"] >= PADDING).all()


def test_the_annotation_does_not_change_the_geometry() -> None:
    example = replace(make(0, 0), scribbles=random_scribbles(0, 64, 64))
    for seed in range(10):
        clicks, lines, nothing = (
            seeded(view(kind, noise="noise"), example, seed) for kind in ("clicks", "scribbles", None)
        )
        for name in ("image", "masks", "inside"):
            assert torch.equal(clicks[name], lines[name]) and torch.equal(clicks[name], nothing[name])
        assert not torch.equal(clicks["labels"], lines["labels"])
