"""The training view and the evaluation view, on images whose right answer is known by construction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from seminar.data import PADDING, UNLABELLED, Click, Example
from seminar.data.augment import TrainView, draw_clicks, eval_view

U, P = UNLABELLED, PADDING
COLOURS = torch.tensor([[0, 0, 0], [250, 0, 0], [0, 250, 0], [0, 0, 250]], dtype=torch.uint8)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in a loader process; on a busy machine several threads are many times slower for images this small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quadrants(height: int, width: int, clicks: tuple[Click, ...] = ()) -> Example:
    """Each quadrant is one class and one colour: 0 1 / 2 3."""
    mask = torch.zeros(height, width, dtype=torch.uint8)
    mask[:, width // 2 :] += 1
    mask[height // 2 :] += 2
    return Example("q", COLOURS[mask.int()].permute(2, 0, 1), mask, clicks)


def one_click_per_quadrant(height: int, width: int, column: float) -> tuple[Click, ...]:
    """`column` counts from the left edge of a quadrant."""
    return tuple(
        Click(column + (cls % 2) * (width // 2), 0.3 * height + (cls // 2) * (height // 2), cls) for cls in range(4)
    )


def view(**changes: Any) -> TrainView:
    settings: dict[str, Any] = {"crop": 64, "scale_min": 0.5, "scale_max": 2.0, "flip": True, "noise": "none"}
    return TrainView(**(settings | {"click_size": 1, "click_order": "geometry_first"} | changes))


def seeded(train_view: TrainView, example: Example, seed: int) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    return train_view(example)


def drawn(clicks: list[tuple[float, float, int]], size: int, height: int = 4, width: int = 5) -> list[list[int]]:
    points = torch.tensor([(x, y) for x, y, _ in clicks]).reshape(len(clicks), 2)
    labels = draw_clicks(points, torch.tensor([cls for *_, cls in clicks]), height, width, size)
    assert labels.dtype == torch.uint8
    return labels.tolist()


def test_draw_clicks_fills_the_pixel_that_holds_the_point() -> None:
    assert drawn([(1.99, 2.0, 7)], size=1) == [[U] * 5, [U] * 5, [U, 7, U, U, U], [U] * 5]


def test_draw_clicks_clips_the_square_at_the_border() -> None:
    assert drawn([(0.5, 3.5, 7)], size=3) == [[U] * 5, [U] * 5, [7, 7, U, U, U], [7, 7, U, U, U]]
    assert drawn([(4.5, 0.5, 7)], size=5) == [[U, U, 7, 7, 7]] * 3 + [[U] * 5]


def test_draw_clicks_foreground_wins_and_later_wins_over_earlier() -> None:
    clicks = [(0.5, 1.5, 3), (1.5, 1.5, 4), (2.5, 1.5, 0)]
    assert drawn(clicks, size=3)[:3] == [[4, 4, 4, 0, U]] * 3
    assert drawn(clicks[1:2] + clicks[:1], size=3)[1] == [3, 3, 4, U, U]


def test_draw_clicks_later_background_covers_nothing_else() -> None:
    assert drawn([(1.5, 1.5, 9), (1.5, 1.5, 0)], size=1)[1] == [U, 9, U, U, U]


@pytest.mark.parametrize(
    ("background", "expected"), [(0, [7, 7, 7, 4, U]), (7, [0, 0, 4, 4, U]), (None, [0, 0, 7, 4, U])]
)
def test_draw_clicks_covers_the_background_and_no_other_class(background: int | None, expected: list[int]) -> None:
    """Three squares of 3 pixels: of class 4, over it 7, over it 0, where neither is the background."""
    points = torch.tensor([(2.5, 1.5), (1.5, 1.5), (0.5, 1.5)])
    labels = draw_clicks(points, torch.tensor([4, 7, 0]), 4, 5, 3, background)
    assert labels[1].tolist() == expected


@pytest.mark.parametrize("point", [(-0.1, 1.0), (5.0, 1.0), (1.0, -0.1), (1.0, 4.0)])
def test_draw_clicks_leaves_out_points_outside(point: tuple[float, float]) -> None:
    assert drawn([(*point, 3)], size=5) == [[U] * 5] * 4


def test_draw_clicks_without_clicks() -> None:
    assert drawn([], size=3) == [[U] * 5] * 4


@pytest.mark.parametrize("order", ["geometry_first", "raster_first"])
@pytest.mark.parametrize("column", [0.0, 1.0, 19.99])
def test_a_click_stays_on_its_object_when_enlarged(order: str, column: float) -> None:
    """Clicks on the first and last pixel columns of every quadrant: half a pixel off would show."""
    example = quadrants(40, 40, one_click_per_quadrant(40, 40, column))
    train_view, seen = view(scale_min=0.64, click_order=order), 0
    for seed in range(150):
        result = seeded(train_view, example, seed)
        labelled = result["labels"] < PADDING
        assert torch.equal(result["labels"][labelled], result["masks"][labelled]), seed
        seen += int(labelled.sum())
    assert seen > 150


@pytest.mark.parametrize("order", ["geometry_first", "raster_first"])
def test_a_click_stays_on_its_pixel_when_enlarged(order: str) -> None:
    """Every pixel is an object of its own kind: neighbours, diagonal ones too, differ."""
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(30), indexing="ij")
    mask = (rows * 5 + columns * 7).remainder(21).to(torch.uint8)
    clicks = tuple(Click(x + 0.7, float(y), int(mask[y, x])) for y in range(0, 24, 2) for x in range(0, 30, 3))
    example = Example("p", torch.zeros(3, 24, 30, dtype=torch.uint8), mask, clicks)
    for seed in range(60):
        result = seeded(view(scale_min=24 / 64, scale_max=1.5, click_order=order), example, seed)
        labelled = result["labels"] < PADDING
        assert torch.equal(result["labels"][labelled], result["masks"][labelled]), seed
        assert labelled.sum() > 10


def test_a_click_in_the_middle_stays_on_its_object_at_every_scale() -> None:
    example = quadrants(90, 120, one_click_per_quadrant(90, 120, 30))
    for seed in range(150):
        result = seeded(view(), example, seed)
        labelled = result["labels"] < PADDING
        assert torch.equal(result["labels"][labelled], result["masks"][labelled]), seed


def test_image_and_mask_move_together() -> None:
    example = quadrants(90, 120)
    for seed in range(100):
        result = seeded(view(), example, seed)
        exact = result["inside"] & (result["image"] % 250 == 0).all(0)  # not blended with a neighbour
        assert exact.sum() > 0.8 * result["inside"].sum()
        assert torch.equal(result["image"].permute(1, 2, 0)[exact], COLOURS[result["masks"][exact].int()]), seed


def test_an_unscaled_view_is_a_crop_of_the_example_or_of_its_mirror_image() -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    clicks = (Click(3.0, 5.9, 1), Click(31.99, 0.0, 2))
    example = Example("r", image, image[0] % 21, clicks)
    train_view = view(crop=32, scale_min=1.0, scale_max=1.0)
    labels = torch.full((32, 32), U, dtype=torch.uint8)
    labels[5, 3], labels[0, 31] = 1, 2
    plain = mirrored = 0
    for seed in range(20):
        result = seeded(train_view, example, seed)
        plain += torch.equal(result["image"], image) and torch.equal(result["labels"], labels)
        mirrored += torch.equal(result["image"], image.flip(-1)) and torch.equal(result["labels"], labels.flip(-1))
    assert plain + mirrored == 20 and plain > 3 and mirrored > 3


def test_padding_is_on_the_right_and_at_the_bottom_and_has_its_code() -> None:
    # 40 x 60 -> 32 x 48 in a crop of 64; a 5 x 5 click in the corner would reach into the padding
    example = quadrants(40, 60, (Click(59.5, 39.5, 3), Click(0.5, 39.5, 2)))
    for order in ("geometry_first", "raster_first"):
        train_view = view(scale_max=0.5, click_size=5, click_order=order, noise="blur")
        for seed in range(8):
            result = seeded(train_view, example, seed)
            inside = torch.zeros(64, 64, dtype=torch.bool)
            inside[:32, :48] = True
            assert torch.equal(result["inside"], inside)
            assert torch.equal(result["masks"] == PADDING, ~inside)
            assert torch.equal(result["labels"] == PADDING, ~inside)
            assert not result["image"][:, 36:].any() and not result["image"][:, :, 52:].any()  # but for the blur's edge
            assert (result["labels"] < PADDING).sum() >= 6  # and the clicks are there


def test_a_click_outside_the_crop_is_dropped() -> None:
    example = quadrants(64, 200, (Click(199.0, 32.0, 1),))
    train_view = view(scale_min=1.0, scale_max=1.0, flip=False)
    counts = {int((seeded(train_view, example, seed)["labels"] < PADDING).sum()) for seed in range(600)}
    assert counts == {0, 1}


def test_geometry_first_labels_one_pixel_per_click_and_raster_first_many() -> None:
    example = quadrants(32, 32, one_click_per_quadrant(32, 32, 8))
    enlarged = {"crop": 64, "scale_min": 2.0, "scale_max": 2.0}  # 4 times, a click pixel becomes 4 x 4
    for seed in range(20):
        points = (seeded(view(**enlarged), example, seed)["labels"] < PADDING).sum()
        raster = (seeded(view(**enlarged, click_order="raster_first"), example, seed)["labels"] < PADDING).sum()
        assert points <= 4 and raster == 16 * points
    whole = seeded(view(crop=128, scale_min=1.0, scale_max=1.0), example, 0)["labels"]
    assert (whole < PADDING).sum() == 4


def test_the_short_side_covers_the_whole_range() -> None:
    train_view = view(crop=20, scale_max=1.0)
    widths = {int(seeded(train_view, quadrants(40, 40), seed)["inside"][0].sum()) for seed in range(200)}
    assert widths == set(range(10, 21))


@pytest.mark.parametrize("upright", [True, False])
def test_the_crop_covers_every_place(upright: bool) -> None:
    steps = torch.arange(24, dtype=torch.uint8).expand(20, 24)
    mask = steps.T if upright else steps
    example = Example("s", mask.expand(3, -1, -1), mask, ())
    train_view = view(crop=20, scale_min=1.0, scale_max=1.0, flip=False)
    assert {int(seeded(train_view, example, seed)["masks"][0, 0]) for seed in range(60)} == set(range(5))


@pytest.mark.parametrize("noise", ["blur", "noise"])
def test_one_half_of_the_images_is_disturbed_and_nothing_else_is(noise: str) -> None:
    torch.manual_seed(0)
    image = torch.randint(0, 256, (3, 90, 120), dtype=torch.uint8)
    example = replace(quadrants(90, 120, one_click_per_quadrant(90, 120, 30)), image=image)
    disturbed = 0
    for seed in range(200):
        clean, result = seeded(view(), example, seed), seeded(view(noise=noise), example, seed)
        disturbed += not torch.equal(clean.pop("image"), result.pop("image"))
        assert all(torch.equal(clean[name], result[name]) for name in clean)
    assert 50 <= disturbed <= 115  # a very small sigma changes no value


def test_a_seed_fixes_the_view() -> None:
    example = quadrants(90, 120, one_click_per_quadrant(90, 120, 30))
    first, again, other = (seeded(view(noise="noise"), example, seed) for seed in (5, 5, 6))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["image"], other["image"])


def test_shapes_types_and_names() -> None:
    example = quadrants(50, 33, (Click(1.0, 1.0, 0),))
    result = view()(example)
    assert {name: (value.dtype, tuple(value.shape)) for name, value in result.items()} == {
        "image": (torch.uint8, (3, 64, 64)),
        "masks": (torch.uint8, (64, 64)),
        "inside": (torch.bool, (64, 64)),
        "labels": (torch.uint8, (64, 64)),
    }
    assert all(value.is_contiguous() for value in result.values())
    assert set(view(click_size=None, click_order=None)(example)) == {"image", "masks", "inside"}
    assert (view()(replace(example, clicks=()))["labels"] >= P).all()


def test_a_view_shares_no_memory_with_its_example() -> None:
    example = quadrants(64, 64)
    result = view(scale_min=1.0, scale_max=1.0, flip=False)(example)
    assert torch.equal(result["image"], example.image) and torch.equal(result["masks"], example.mask)
    result["image"].zero_()
    result["masks"].zero_()
    assert example.image.any() and example.mask.any()


@pytest.mark.parametrize(("height", "width"), [(40, 40), (60, 100), (100, 60), (21, 64)])
def test_eval_view_shows_the_centre(height: int, width: int) -> None:
    example = quadrants(height // 2 * 2, width)
    image, mask = eval_view(example, 20)
    assert image.dtype == mask.dtype == torch.uint8
    assert image.shape == (3, 20, 20) and torch.equal(mask, quadrants(20, 20).mask)
    assert (image.permute(1, 2, 0) == COLOURS[mask.int()]).all(-1).float().mean() > 0.7
