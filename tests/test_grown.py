"""Labels grown before training: the walker, clicks and scribbles, boxes, the cache, settings, files of boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from seminar import inspection, model_card, recipes
from seminar.catalogue import Cell
from seminar.data import PADDING, UNLABELLED, Box, Click, Example, Scribble, grown
from seminar.data.augment import TrainView
from seminar.data.boxes import read_boxes
from seminar.data.creatures import draw, make
from seminar.data.folder import Folder
from seminar.data.masks import Masks
from seminar.spec import InputError, Stage
from seminar.sweep import LeftOut
from seminar.train import Trainer, versions
from tests.conftest import seminar_here

MakeCell = Callable[..., Cell]
U = UNLABELLED


def two_tone(height: int, width: int, border: int) -> np.ndarray:
    """Dark up to the column `border`, bright from there on."""
    image = np.full((height, width, 3), 40, np.uint8)
    image[:, border:] = 200
    return image


def sure(height: int, width: int, **marks: tuple[int, int]) -> np.ndarray:
    """`c3=(y, x)`: class 3 is sure there."""
    labels = np.full((height, width), U, np.uint8)
    for name, at in marks.items():
        labels[at] = int(name[1:])
    return labels


# ---- the walker


def dense_walk(image: np.ndarray, labels: np.ndarray, beta: float, confidence: float) -> np.ndarray:
    """Grady's equations, pixel by pixel: the odds of an unknown pixel are the weighted mean of its neighbours'."""
    height, width = labels.shape
    pixels = image / 255
    scale = beta / (10 * pixels.std() * np.sqrt(3))
    classes = sorted({*labels[labels < PADDING].tolist()})
    size = height * width
    matrix, right = np.zeros((size, size)), np.zeros((size, len(classes)))
    for y in range(height):
        for x in range(width):
            at = y * width + x
            if labels[y, x] < PADDING:
                matrix[at, at], right[at, classes.index(int(labels[y, x]))] = 1, 1
                continue
            for down, along in ((0, 1), (0, -1), (1, 0), (-1, 0)):
                if 0 <= y + down < height and 0 <= x + along < width:
                    apart = ((pixels[y, x] - pixels[y + down, x + along]) ** 2).sum()
                    weight = np.exp(-scale * apart)
                    matrix[at, at] += weight
                    matrix[at, (y + down) * width + x + along] -= weight
    odds = np.linalg.solve(matrix, right)
    found = np.where(odds.max(1) < confidence, U, np.array(classes)[odds.argmax(1)])
    return found.reshape(height, width).astype(np.uint8)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 0.7])
def test_the_walker_solves_gradys_equations(confidence: float) -> None:
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(5):
        image = rng.integers(0, 256, (7, 9, 3)).astype(np.uint8)
        labels = sure(7, 9, c0=(1, 1), c4=(5, 7), c2=(0, 8))
        found = grown.walk(image, labels, 8.0, confidence=confidence)
        assert np.array_equal(found, dense_walk(image, labels, 8.0, confidence))
        seen |= {*found.ravel().tolist()}
    assert seen == ({0, 2, 4} if confidence == 0 else {0, 2, 4, U})


def test_each_class_keeps_a_share_of_its_pixels() -> None:
    """On two bands of unlike size; nearer to the sure pixels is surer."""
    image = two_tone(10, 60, 40)
    labels = sure(10, 60, c1=(5, 5), c2=(5, 55))
    whole, part = (grown.walk(image, labels, 300.0, share) for share in (1.0, 0.25))
    assert {cls: int((whole == cls).sum()) for cls in (1, 2)} == {1: 400, 2: 200}
    assert {cls: int((part == cls).sum()) for cls in (1, 2)} == {1: 100, 2: 50}
    assert (whole[part != U] == part[part != U]).all() and part[5, 5] == 1 and part[5, 6] == 1 and part[0, 39] == U


def test_labels_stop_at_edges_and_sure_pixels_stay() -> None:
    image = two_tone(8, 12, 5)
    labels = sure(8, 12, c1=(0, 0), c2=(7, 11))
    expected = np.repeat([[1] * 5 + [2] * 7], 8, axis=0)
    assert np.array_equal(grown.walk(image, labels, 300.0, confidence=0.9), expected)
    labels[4, 11] = 1  # sure, though it looks like the others
    found = grown.walk(image, labels, 300.0, confidence=0.9)
    assert found[4, 11] == 1 and found[7, 11] == 2 and (found == U).any()


def test_a_large_image_is_walked_on_at_a_smaller_size() -> None:
    height, width = 200, 2 * grown.SIDE
    image = two_tone(height, width, width // 2)
    labels = sure(height, width, c1=(3, 3), c2=(190, width - 7))
    found = grown.walk(image, labels, 300.0, confidence=0.7)
    assert (found[:, : width // 2 - 2] == 1).all() and (found[:, width // 2 + 2 :] == 2).all()
    labels[3, 4] = 2  # falls into the same cell of the smaller image
    crowded = grown.walk(image, labels, 300.0, confidence=0.7)
    assert crowded[3, 3] == 1 and crowded[3, 4] == 2


def test_where_there_is_nothing_to_decide_only_the_sure_pixels_are_left() -> None:
    one = sure(6, 6, c3=(2, 2))
    assert np.array_equal(grown.walk(two_tone(6, 6, 3), one, 30.0, confidence=0.5), one)
    two = sure(6, 6, c3=(2, 2), c1=(4, 4))
    assert np.array_equal(grown.walk(np.full((6, 6, 3), 9, np.uint8), two, 30.0, confidence=0.5), two)
    whole = np.repeat([[1, 2, 1]], 3, axis=0).astype(np.uint8)
    assert np.array_equal(grown.walk(two_tone(3, 3, 1), whole, 30.0, confidence=0.5), whole)


def test_a_class_is_only_where_it_can_be() -> None:
    labels = sure(6, 10, c1=(0, 0), c2=(5, 9))
    image = two_tone(6, 10, 9)
    free = grown.walk(image, labels, 1.0)
    held = grown.walk(image, labels, 1.0, possible={1: np.indices((6, 10))[1] < 3})
    assert (free[:, 3:] == 1).any() and not (held[:, 3:] == 1).any()
    assert np.array_equal(held[:, :3], free[:, :3])


# ---- clicks and scribbles


def example(image: np.ndarray, **more: Any) -> Example:
    pixels = torch.from_numpy(image).permute(2, 0, 1)
    return Example("e", pixels, torch.zeros(image.shape[:2], dtype=torch.uint8), more.pop("clicks", ()), **more)


def test_clicks_and_scribbles_are_what_is_sure() -> None:
    image = two_tone(20, 30, 12)
    clicks = (Click(2.5, 2.5, 1), Click(25.0, 10.9, 2))
    lines = (Scribble(((1.5, 1.5), (1.5, 18.5)), 2), Scribble(((20.5, 3.5), (28.5, 3.5)), 1))
    both = example(image, clicks=clicks, scribbles=lines)
    left, right = np.s_[:, :12], np.s_[:, 12:]
    settings = {"beta": 300.0, "share": 1.0}
    of_clicks = grown.growers["grown"].make(both, 1, 0, **settings)
    assert (of_clicks[left] == 1).all() and (of_clicks[right] == 2).all()
    of_lines = grown.growers["grown"].make(both, 1, 0, source="scribbles", **settings)
    assert (of_lines[left] == 2).all() and (of_lines[right] == 1).all()


def test_size_is_that_of_what_is_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grown, "_walked", lambda image, sure, *_, **__: sure)
    both = example(
        two_tone(20, 30, 12), clicks=(Click(8.5, 8.5, 1),), scribbles=(Scribble(((4.5, 4.5), (13.5, 4.5)), 2),)
    )
    counts = [
        int((grown.growers["grown"].make(both, size, 0, source=source) != U).sum())
        for source in ("clicks", "scribbles")
        for size in (1, 3)
    ]
    assert counts == [1, 9, 10, 3 * 12]


# ---- boxes


def test_what_boxes_make_sure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside the background, in the middle the class of the box, the smaller box before the larger."""
    monkeypatch.setattr(grown, "_walked", lambda image, sure, beta, confidence, possible: (sure, possible))
    large, small = Box(2, 2, 12, 12, 1), Box(6, 6, 10, 10, 2)
    boxed = example(two_tone(14, 16, 8), boxes=(small, large))
    found, possible = grown.growers["boxes"].make(boxed, None, 0, core=0.5)
    expected = np.zeros((14, 16), np.uint8)
    expected[2:12, 2:12] = U
    expected[5:10, 5:10] = 1  # 4.5 to 9.5: the pixels whose centres lie within
    expected[7:9, 7:9] = 2
    # Pixel centres at 4.5 count and those at 9.5 do not, as in any half-open interval.
    expected[4, 4:9] = expected[4:9, 4] = 1
    expected[9, :] = np.where(expected[9] == 1, U, expected[9])
    expected[:, 9] = np.where(expected[:, 9] == 1, U, expected[:, 9])
    assert np.array_equal(found, expected)
    assert {cls: int(area.sum()) for cls, area in possible.items()} == {1: 100, 2: 16}
    nowhere, _ = grown.growers["boxes"].make(boxed, None, None, core=0.5)
    assert np.array_equal(nowhere, np.where(expected == 0, U, expected))


def test_boxes_are_grown_inside_and_nowhere_else() -> None:
    image = np.full((24, 24, 3), 40, np.uint8)
    image[8:16, 6:18] = 200  # the object, in a box that is a little too large
    boxed = example(image, boxes=(Box(5, 7, 19, 17, 3),))
    found = grown.growers["boxes"].make(boxed, None, 0, core=0.3, beta=300.0, confidence=0.6)
    expected = np.zeros((24, 24), np.uint8)
    expected[8:16, 6:18] = 3
    assert np.array_equal(found, expected)


def test_an_image_without_a_box_teaches_nothing() -> None:
    for boxed in (example(two_tone(8, 8, 4), boxes=()), example(two_tone(8, 8, 4))):
        assert (grown.growers["boxes"].make(boxed, None, 0) == U).all()


def test_without_a_file_the_boxes_are_those_of_the_pieces_of_the_mask() -> None:
    mask = np.zeros((40, 50), np.uint8)
    mask[3:9, 4:20], mask[20:35, 30:45], mask[20:24, 5:9] = 2, 1, 2
    mask[39, 49] = 1  # below 0.3 % of the image
    mask[9, 4:20] = U
    pieces = (Box(30, 20, 45, 35, 1), Box(4, 3, 20, 9, 2), Box(5, 20, 9, 24, 2))
    assert grown.boxes_of(mask, 0) == pieces
    drawn = replace(example(two_tone(40, 50, 25)), mask=torch.from_numpy(mask))
    given = replace(drawn, boxes=pieces)
    made = [grown.growers["boxes"].make(one, None, 0) for one in (drawn, given)]
    assert np.array_equal(*made) and len(np.unique(made[0])) > 2


def test_boxes_of_creatures_are_those_of_instances() -> None:
    several = 0
    for index in range(12):
        _, owner, classes = draw(np.random.default_rng((7, index)), 64)
        expected = []
        for instance in range(1, len(classes)):
            inside = [(y, x) for y in range(64) for x in range(64) if owner[y, x] == instance]
            if len(inside) >= 12:
                (top, left), (bottom, right) = np.min(inside, axis=0), np.max(inside, axis=0)
                expected.append(Box(left, top, right + 1, bottom + 1, classes[instance]))
        assert make(7, index).boxes == tuple(expected)
        several += len(expected) > 1
    assert several > 3


# ---- the cache


def test_an_image_is_walked_on_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    walks: list[tuple[float, float]] = []
    real = grown.walk
    monkeypatch.setattr(grown, "walk", lambda *given: (walks.append(given[2:4]), real(*given))[1])
    one = example(two_tone(9, 12, 5), clicks=(Click(1, 1, 1), Click(10, 7, 2)), boxes=(Box(3, 3, 7, 7, 1),))
    twice = [grown.labels_of(one, "grown", (("beta", 20.0),), 1, 0) for _ in range(2)]
    assert torch.equal(*twice) and len(walks) == 1 and (twice[0] != U).sum() > 2
    (file,) = (tmp_path / "seminar-learning" / "grown").iterdir()
    file.write_bytes(file.read_bytes()[:40])  # torn
    assert torch.equal(grown.labels_of(one, "grown", (("beta", 20.0),), 1, 0), twice[0]) and len(walks) == 2
    others: list[tuple[Example, str, tuple[tuple[str, Any], ...], int]] = [
        (one, "grown", (("beta", 21.0),), 1),
        (one, "grown", (("beta", 20.0), ("share", 0.6)), 1),
        (one, "grown", (("beta", 20.0),), 3),
        (replace(one, image=one.image + 1), "grown", (("beta", 20.0),), 1),
        (replace(one, clicks=(one.clicks[0], Click(10, 6, 2))), "grown", (("beta", 20.0),), 1),
        (one, "boxes", (("beta", 20.0),), 1),
        (replace(one, boxes=(Box(3, 3, 7, 7, 2),)), "boxes", (("beta", 20.0),), 1),
    ]
    for count, (given, kind, settings, size) in enumerate(others, 3):
        grown.labels_of(given, kind, settings, size, 0)
        assert len(walks) == count


def test_another_place_where_a_class_can_be_is_another_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    walked = grown._walked
    labels = sure(6, 10, c1=(0, 0), c2=(5, 9))
    image = torch.from_numpy(two_tone(6, 10, 9)).permute(2, 0, 1)
    columns = np.indices((6, 10))[1]
    counts = [(walked(image, labels, 1.0, possible={1: columns < end}) == 1).sum() for end in (2, 9, 2)]
    assert counts[0] == counts[2] < counts[1]


# ---- views and the loop


def test_grown_labels_are_resampled_like_the_mask() -> None:
    settings = (32, 0.5, 2.0, True, "none", 1, None)
    view = TrainView(*settings, annotation="grown", grow=lambda one: one.mask)
    plain = TrainView(*settings, annotation=None)
    for seed in range(12):
        torch.manual_seed(seed)
        seen = view(make(0, seed))
        torch.manual_seed(seed)
        without = plain(make(0, seed))
        assert torch.equal(seen["labels"], seen["masks"]) and "labels" not in without
        assert torch.equal(seen["image"], without["image"]) and torch.equal(seen["masks"], without["masks"])


def labels(cell: Cell) -> Tensor:
    views = next(Trainer(cell.stage, cell.host, None).loader(0))
    assert views.keys() == {"image", "inside", "labels"}
    return views["labels"]


def test_grown_labels_reach_the_loop(cell: MakeCell) -> None:
    counts = {
        name: int((labels(cell(losses="pce", **settings)) < PADDING).sum())
        for name, settings in {
            "clicks": {"annotation": "clicks"},
            "grown": {"annotation": "grown", "grown_share": 0.6},
            "scribbles": {"annotation": "grown", "grown_share": 0.6, "grown_source": "scribbles"},
            "unsure": {"annotation": "grown", "grown_share": 0.1},
            "boxes": {"annotation": "boxes"},
        }.items()
    }
    assert counts["clicks"] < counts["unsure"] < counts["grown"]
    assert counts["grown"] > 20 * counts["clicks"] and counts["boxes"] > 20 * counts["clicks"]
    assert counts["scribbles"] not in (counts["grown"], counts["clicks"])


# ---- settings and keys


def stage(**settings: Any) -> Stage:
    return recipes.one({"profile": "toy", "losses": "pce", **settings}).stage


def test_settings_of_grown_labels_are_part_of_the_key() -> None:
    plain = stage(annotation="grown")
    assert "annotation_settings" not in stage().canonical()
    assert [name for name, _ in plain.annotation_settings] == ["beta", "share", "source"]
    assert (plain.click_size, plain.click_order) == (1, None)
    own = dict(plain.annotation_settings)
    assert stage(annotation="grown", grown_beta=own["beta"]).key == plain.key
    others = [{"grown_beta": 31}, {"grown_share": 0.55}, {"grown_source": "scribbles"}, {"click_size": 3}]
    keys = {stage(annotation="grown", **more).key for more in others}
    assert len(keys | {plain.key, stage().key, stage(annotation="boxes").key}) == 7
    assert stage(annotation="grown", grown_beta=31).settings["grown_beta"] == 31.0
    boxed = stage(annotation="boxes", boxes_core=0.3)
    assert (boxed.click_size, boxed.click_order, boxed.settings["boxes_core"]) == (None, None, 0.3)
    assert [name for name in boxed.settings if name == "annotation_settings"] == []
    assert "grown" in plain.title and "boxes" in boxed.title
    assert Stage.model_validate_json(json.dumps(plain.model_dump(mode="json"))).key == plain.key
    assert stage(losses="ce") == stage(losses="ce").model_copy()
    assert stage(losses="ce").annotation_settings == ()


def test_a_chain_grows_its_labels_in_every_student() -> None:
    chain = stage(losses="pce+pseudo", annotation="grown").chain
    assert [one.annotation for one in chain] == ["grown", "grown"]
    assert chain[0].annotation_settings == chain[1].annotation_settings != ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grown_beta": 30}, "grown_beta=30: has no effect"),
        ({"annotation": "grown", "boxes_core": 0.5}, "boxes_core=0.5: has no effect"),
        ({"annotation": "grown", "click_order": "raster_first"}, "click_order=raster_first: has no effect"),
        ({"annotation": "boxes", "click_size": 3}, "click_size=3: has no effect"),
        ({"losses": "ce", "annotation": "grown"}, "annotation=grown: has no effect"),
        ({"annotation": "grown", "grown_beta": 0}, "grown_beta=0: Input should be greater than 0"),
        ({"annotation": "grown", "grown_share": 0}, "grown_share=0: Input should be greater than 0"),
        ({"annotation": "boxes", "boxes_confidence": 1}, "boxes_confidence=1: Input should be less than 1"),
        ({"annotation": "grown", "grown_source": "boxes"}, "grown_source='boxes': Input should be 'clicks' or"),
        ({"annotation": "grwon"}, "annotation='grwon': Input should be 'clicks', 'scribbles', 'grown' or 'boxes'"),
        ({"annotation": "grown", "grown_beat": 3}, "did you mean 'grown_beta'"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as raised:
        recipes.cells(
            recipes.Sweep("one", "", {n: (v,) for n, v in ({"profile": "toy", "losses": "pce"} | settings).items()})
        )
    assert message in str(raised.value) and "\n" not in str(raised.value)


def test_stages_that_contradict_themselves_are_refused() -> None:
    plain, grew = stage(), stage(annotation="grown")
    for one, wrong in (
        (plain, {"annotation_settings": (("beta", 1.0),)}),
        (plain, {"click_order": None}),
        (grew, {"annotation_settings": ()}),
        (grew, {"click_order": "raster_first"}),
        (grew, {"annotation": None}),
    ):
        with pytest.raises(ValueError, match=r"annotation|click_order"):
            Stage.model_validate(one.model_dump() | wrong)


def test_a_record_names_the_code_that_grew_its_labels() -> None:
    assert "annotation grown" in versions(stage(annotation="grown"))
    assert not [part for part in versions(stage()) if part.startswith("annotation")]


# ---- files of boxes


TABLE = "image,x0,y0,x1,y1,class\n"


def pictures(root: Path, **masks: Any) -> Path:
    """Four photos of 20 x 16 pixels, masks with a square of class 1, lists and names."""
    for number in range(4):
        mask = np.zeros((16, 20), np.uint8)
        mask[4:12, 5 : 10 + number] = 1
        for folder, content in (("images", two_tone(16, 20, 5 + number)), ("masks", mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(root / folder / f"p{number}.png")
    (root / "classes.txt").write_text("background\ncat\n")
    (root / "train.txt").write_text("p0\np1\np2\n")
    (root / "val.txt").write_text("p3\n")
    return root


def test_boxes_of_a_table(tmp_path: Path) -> None:
    root, table = pictures(tmp_path / "set"), tmp_path / "boxes.csv"
    table.write_text(TABLE + "p0,1.5,2,8,9,cat\np1.png,0,0,30,4.5,1\np3,1,1,2,2,cat\np9,1,1,2,2,dog\n")
    plain, boxed = Masks(root=root), Masks(root=root, boxes=table)
    assert [one.boxes for one in plain.split("train")] == [None] * 3
    assert [one.boxes for one in boxed.split("train")] == [(Box(1.5, 2, 8, 9, 1),), (Box(0, 0, 20, 4.5, 1),), ()]
    prints = {boxed.fingerprint(), plain.fingerprint()}
    table.write_text(table.read_text().replace("8,9", "8,10"))
    assert len({Masks(root=root, boxes=table).fingerprint(), *prints}) == 3
    table.write_text(table.read_text().replace("p3,1,1,2,2", "p3,1,1,5,5").replace("8,10", "8,9"))
    assert Masks(root=root, boxes=table).fingerprint() in prints, "boxes of validation images train nothing"


def voc_xml(*objects: tuple[str, int, int, int, int]) -> str:
    boxes = "".join(
        f"<object><name>{name}</name><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part><bndbox>"
        f"<xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox></object>"
        for name, x0, y0, x1, y1 in objects
    )
    return f"<annotation><size><width>20</width></size>{boxes}</annotation>"


def test_boxes_of_vocs_annotations(tmp_path: Path) -> None:
    root, folder = pictures(tmp_path / "set"), tmp_path / "Annotations"
    folder.mkdir()
    (folder / "p0.xml").write_text(voc_xml(("cat", 1, 1, 20, 16), ("cat", 3, 2, 3, 5)))
    (folder / "other.xml").write_text("<broken")
    (first, second, _) = Masks(root=root, boxes=folder).split("train")
    assert first.boxes == (Box(0, 0, 20, 16, 1), Box(2, 1, 3, 5, 1)) and second.boxes == ()


def test_boxes_of_a_folder_are_scaled_with_its_photos(tmp_path: Path) -> None:
    root, table = pictures(tmp_path / "photos"), tmp_path / "photos" / "boxes.csv"
    for name in ("train.txt", "val.txt", "classes.txt"):
        (root / name).unlink()
    (root / "masks").rename(tmp_path / "masks")
    table.write_text(TABLE + "p0,2,4,20,16,cat\np1.png,0,0,10,8,dog\n")
    data = Folder(root=root, boxes=table, max_side=10)
    assert data.classes == ("background", "cat", "dog")
    assert [one.boxes for one in data.split("train")] == [(Box(1, 2, 10, 8, 1),), (Box(0, 0, 5, 4, 2),)]
    assert not [line for line in data.doubts() if "boxes.csv" in line]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("image,x,y,class\n", "no column 'x0'; the first line must be image,x0,y0,x1,y1,class"),
        (TABLE + "p0,1,2,3,cat\n", "line 2: expected image, four numbers"),
        (TABLE + "p0,1,2,3,x,cat\n", "line 2: expected image, four numbers"),
        (TABLE + "p0,5,2,3,4,cat\n", "line 2: box 5,2 to 3,4 is empty"),
        (TABLE + "p0,50,2,53,4,cat\n", "p0: box 50,2 to 53,4 (cat) is outside the 20x16 image"),
        (TABLE + "p0,5,2,9,4,cta\n", "class='cta': did you mean 'cat'?"),
        (TABLE + "q0,5,2,9,4,cat\n", "no image to train on has a box here, for example 'p0'"),
    ],
)
def test_what_is_wrong_with_a_table_of_boxes(tmp_path: Path, content: str, message: str) -> None:
    root, table = pictures(tmp_path / "set"), tmp_path / "boxes.csv"
    table.write_text(content)
    with pytest.raises(InputError) as raised:
        list(Masks(root=root, boxes=table).split("train"))
    assert message in str(raised.value) and str(raised.value).startswith(str(table))


def test_files_that_hold_no_boxes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TABLE)
    (tmp_path / "p0.xml").write_text("<annotation><object><name>cat</name></object></annotation>")
    for path, message in (
        (tmp_path / "none.csv", "not found; data_boxes=FILE names the table"),
        (tmp_path / "a.txt", "boxes are read from a table"),
        (tmp_path, "expected an <object> with <name> and a <bndbox> of four numbers"),
    ):
        with pytest.raises(InputError, match=message):
            read_boxes(path, ["p0"], lambda name: name)


def test_only_boxes_read_the_file_of_boxes(tmp_path: Path) -> None:
    root, table = pictures(tmp_path / "set"), tmp_path / "boxes.csv"
    table.write_text(TABLE + "p0,1.5,2,8,9,cat\n")
    given = {"data": "masks", "data_root": str(root), "data_boxes": str(table)}
    with pytest.raises(InputError, match=r"data_boxes=.*has no effect"):
        stage(**given)
    assert stage(**given, annotation="boxes").key != stage(data="masks", data_root=str(root), annotation="boxes").key
    seen = labels(recipes.one({"profile": "toy", "losses": "pce", "batch_size": 3, **given, "annotation": "boxes"}))
    assert ((seen < PADDING).sum((1, 2)) > 0).sum() == 1, "only p0 has a box"


def test_boxes_need_masks_or_a_file(tmp_path: Path) -> None:
    root = pictures(tmp_path / "photos")
    (root / "masks").rename(tmp_path / "masks")
    (root / "clicks.csv").write_text("image,x,y,class\np0,1,2,cat\np1,3,3,cat\n")
    given = {"data": "folder", "data_root": str(root)}
    with pytest.raises(LeftOut, match=r"annotation=boxes takes the boxes from masks.*; data_boxes=FILE gives boxes"):
        stage(**given, annotation="boxes")
    said = seminar_here(
        "train", "profile=toy", "losses=pce", f"data_root={root}", "data=folder", "annotation=boxes", code=2
    )
    assert "Traceback" not in said.stderr and "data_boxes=FILE" in said.stderr


def test_grown_scribbles_need_their_files(tmp_path: Path) -> None:
    root = tmp_path / "voc"
    for folder in ("JPEGImages", "SegmentationClass", "lines"):
        (root / folder).mkdir(parents=True)
    for number, list_name in enumerate(("train", "train", "val")):
        with (root / f"{list_name}.txt").open("a") as file:
            file.write(f"p{number}\n")
        Image.fromarray(two_tone(16, 20, 5)).save(root / "JPEGImages" / f"p{number}.jpg")
        Image.fromarray(np.zeros((16, 20), np.uint8)).save(root / "SegmentationClass" / f"p{number}.png")
        (root / "lines" / f"p{number}.xml").write_text(
            "<annotation><polygon><tag>cat</tag><point><X>3</X><Y>3</Y></point></polygon></annotation>"
        )
    (root / "clicks_fg.json").write_text('{"p0": [{"x": 1, "y": 2, "cls": 8}]}')
    (root / "clicks_bg.json").write_text("{}")
    given = {"data": "voc", "data_root": str(root)}
    with pytest.raises(LeftOut, match="data_scribbles is missing: annotation=grown needs it"):
        stage(**given, annotation="grown", grown_source="scribbles")
    lines = {"data_scribbles": str(root / "lines")}
    assert stage(**given, **lines, annotation="grown", grown_source="scribbles").data_fingerprint != (
        stage(**given, annotation="grown").data_fingerprint
    )
    with pytest.raises(InputError, match=r"data_scribbles=.*has no effect"):
        stage(**given, **lines, annotation="grown")
    boxes = root / "boxes.csv"
    boxes.write_text(TABLE + "p0,1,2,9,9,tvmonitor\np1,1,2,9,9,monitor\n")
    names = recipes.one({"profile": "toy", "losses": "pce", **given, "annotation": "boxes", "data_boxes": str(boxes)})
    assert [one.boxes for one in recipes.open_data(names.stage, names.host).split("train")] == (
        [(Box(1, 2, 9, 9, 20),)] * 2
    )


def test_data_check_counts_boxes(tmp_path: Path) -> None:
    root, table = pictures(tmp_path / "set"), tmp_path / "boxes.csv"
    table.write_text(TABLE + "p0,1.5,2,8,9,cat\np0,1,2,8,9,cat\np1,0,0,5,5,cat\n")
    (root / "clicks.json").write_text('{"p0": [{"x": 1, "y": 1, "cls": 0}]}')
    given = {"profile": "toy", "data": "masks", "data_root": str(root)}
    boxed = inspection.contents({**given, "annotation": "boxes", "data_boxes": str(table)})
    assert dict(boxed.boxes) == {1: 3} and "boxes: 3" in boxed.lines()
    assert not [line for line in boxed.doubts() if "no label to learn from" in line]
    plain = inspection.contents(given)
    assert not plain.boxes and "class 'cat' has no label to learn from" in plain.doubts()


def test_a_model_card_says_what_was_grown() -> None:
    settings = {"losses": "pce", "annotation": "grown", "grown_source": "scribbles", "click_size": 1}
    assert model_card._labels({"settings": settings}).startswith("scribbles, grown to dense labels before training (")
