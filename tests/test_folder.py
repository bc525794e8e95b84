"""A folder of one's own photos: what is read, and what is told about what cannot be."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from analysis import figures, frame, summary
from analysis.__main__ import main as analyse
from seminar import recipes, sweep
from seminar.__main__ import main
from seminar.data import NO_SCORE, Click, Scribble, creatures, example, files
from seminar.data.convert import convert
from seminar.data.creatures import Creatures, make
from seminar.data.folder import Folder
from seminar.data.simulated import simulate
from seminar.spec import InputError
from seminar.store import Store
from seminar.sweep import Sweep

Build = Callable[..., Path]


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """`build(csv, names)`: a folder of pictures of 12 x 8 pixels with these clicks."""

    def make(csv: str | None = "image,x,y,class\na,1,2,cat\nb,3,4,dog\nc,5,6,cat\n", names: str = "a b c") -> Path:
        (tmp_path / "images").mkdir(exist_ok=True)
        for place, name in enumerate(names.split()):
            picture = np.full((8, 12, 3), place * 10, np.uint8)
            path = tmp_path / "images" / (name if "." in name else f"{name}.png")
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(picture).save(path)
        if csv is not None:
            (tmp_path / "clicks.csv").write_text(csv, encoding="utf-8")
        return tmp_path

    return make


def lists(root: Path, train: str, val: str) -> None:
    (root / "train.txt").write_text(train.replace(" ", "\n"))
    (root / "val.txt").write_text(val.replace(" ", "\n"))


def message(root: Path, **settings: object) -> str:
    with pytest.raises(InputError) as printed:
        list(Folder(root=root, **settings).split("train"))  # type: ignore[arg-type]
    assert "\n" not in str(printed.value)
    return str(printed.value)


def test_clicks_of_a_table(build: Build) -> None:
    root = build("class;y;x;image;who\ncat;2;1.5;a.png;me\nbackground;0;11;a;me\ndog;7.9;0;b;me\n")
    lists(root, "a b", "c")
    data = Folder(root=root)
    assert data.classes == ("background", "cat", "dog")
    a, b = data.split("train")
    assert (a.id, a.clicks) == ("a", (Click(1.5, 2.0, 1), Click(11.0, 0.0, 0)))
    assert b.clicks == (Click(0.0, 7.9, 2),)
    assert a.image.shape == (3, 8, 12)
    assert (a.mask == 255).all(), "without a mask every pixel is void"
    assert [example.id for example in data.split("val")] == ["c"]


def test_clicks_of_json_with_names_and_numbers(build: Build) -> None:
    root = build(None, "a ö b")
    (root / "clicks.json").write_text(
        json.dumps({"a": [{"x": 1, "y": 2, "cls": 2}], "ö.png": [{"x": 1, "y": 2, "class": "cat"}]}), encoding="utf-8"
    )
    lists(root, "a ö", "b")
    assert "classes.txt: not found, but class 2 is a number" in message(root)
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    data = Folder(root=root)
    assert data.classes == ("background", "cat", "dog")
    assert [(example.id, example.clicks[0].cls) for example in data.split("train")] == [("a", 2), ("ö", 1)]


@pytest.mark.parametrize("place", ["images", "labelme", "images/deep"])
def test_labelme_points_lines_and_areas(build: Build, place: str) -> None:
    root = build(None, "deep/a.jpg b c" if place == "images/deep" else "a.jpg b c")
    id = "deep/a" if place == "images/deep" else "a"
    shapes = [
        {"label": "cat", "shape_type": "point", "points": [[3.5, 2.5]]},
        {"label": "_background_", "shape_type": "linestrip", "points": [[0.5, 0.5], [4.5, 0.5]]},
        {"label": "cat", "shape_type": "rectangle", "points": [[2, 2], [5, 4]]},
        {"label": "dog", "shape_type": "polygon", "points": [[8, 1], [11, 1], [11, 6], [8, 6]]},
        {"label": "void", "shape_type": "circle", "points": [[2, 6], [3, 6]]},
    ]
    content = {"shapes": shapes, "imagePath": "a.jpg", "imageWidth": 12, "imageHeight": 8}
    (root / place).mkdir(exist_ok=True)
    (root / place / "a.json").write_text(json.dumps(content))
    lists(root, id, "b")
    data = Folder(root=root)
    assert data.classes == ("background", "cat", "dog")
    (example,) = data.split("train")
    assert example.clicks == (Click(3.5, 2.5, 1),)
    assert example.scribbles == (Scribble(((0.5, 0.5), (4.5, 0.5)), 0),)
    mask = example.mask.numpy()
    assert (mask[2:5, 2:6] == 1).all()
    assert (mask[1:7, 8:12] == 2).all()
    assert mask[6, 2] == 255
    assert mask[0, 0] == 0
    content["imageWidth"] = 13
    (root / place / "a.json").write_text(json.dumps(content))
    assert "a.json: drawn on 13x8 pixels, but" in message(root)


def test_labels_and_masks_may_lie_elsewhere(build: Build) -> None:
    """Those in the folder itself are not read then."""
    root = build(names="a b c")
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    for folder in ("masks", "others", "labels/deep"):
        (root / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(root / "masks" / "b.png")
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(root / "others" / "c.png")
    shape = {"label": "dog", "shape_type": "point", "points": [[7, 7]]}
    (root / "labels" / "deep" / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
    (root / "own.csv").write_text("image,x,y,class\na,5,5,dog\n")
    for labels, place in (("labels", 7.0), ("own.csv", 5.0)):
        data = Folder(root=root, labels=root / labels, masks=root / "others")
        assert [(one.id, one.clicks) for one in data.split("train")] == [("a", (Click(place, place, 2),))]
        assert [one.id for one in data.split("val")] == ["c"]


def test_the_labels_of_several_files_add_up(build: Build) -> None:
    root = build("image\tx\ty\tclass\na\t1\t2\tcat\nb\t1\t1\tcat\n")
    lists(root, "a b", "c")
    for name, x in (("1", 4), ("2", 6)):
        shapes = [
            {"label": "cat", "shape_type": "points", "points": [[x, 1], [x, 2]]},
            {"label": "cat", "shape_type": "line", "points": [[x, 3], [x, 4]]},
        ]
        (root / f"{name}.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    one = Folder(root=root).split("train")[0]
    assert [(click.x, click.y) for click in one.clicks] == [(1, 2), (4, 1), (4, 2), (6, 1), (6, 2)]
    assert [scribble.points for scribble in one.scribbles] == [((4, 3), (4, 4)), ((6, 3), (6, 4))]
    (root / "1.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png", "imageWidth": 13, "imageHeight": 8}))
    assert "1.json: drawn on 13x8 pixels, but" in message(root), "also where another file does not tell"
    (root / "2.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png", "imageWidth": 12, "imageHeight": 8}))
    assert "1.json: drawn on 13x8 pixels, but" in message(root), "or tells another"


@pytest.mark.parametrize("path", ["..\\images\\deep\\a.png", "../images/deep/a.png"])
def test_labelme_finds_pictures_of_the_same_name_by_their_path(build: Build, path: str) -> None:
    root = build(None, "a deep/a b")
    (root / "labelme").mkdir()
    shape = {"label": "cat", "shape_type": "point", "points": [[1, 1]]}
    content = {"shapes": [shape], "imagePath": path, "imageWidth": 99, "imageHeight": None}
    (root / "labelme" / "1.json").write_text(json.dumps(content))
    lists(root, "deep/a", "b")
    assert [one.id for one in Folder(root=root).split("train")] == ["deep/a"]


def test_what_nobody_labelled_is_not_trained_on(build: Build) -> None:
    root = build("image,x,y,class\na,1,1,cat\n", "a b c d e f")
    lists(root, "a b d e f", "c")
    data = Folder(root=root)
    assert [one.id for one in data.split("train")] == ["a"]
    assert data.doubts() == ["images that are neither trained nor validated on: 4, for example b, d, e", NO_SCORE]


def test_masks_are_for_validation(build: Build) -> None:
    root = build(names="a b c d e")
    (root / "masks").mkdir()
    mask = np.full((8, 12), 2, np.uint8)
    mask[0, :3] = 255
    for name in "de":
        Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    assert "classes.txt: not found, but the masks in" in message(root)
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    data = Folder(root=root)
    assert [example.id for example in data.split("val")] == ["d", "e"], "nobody clicked on them"
    assert [example.id for example in data.split("train")] == ["a", "b", "c"]
    np.testing.assert_array_equal(data.split("val")[0].mask.numpy(), mask)


def test_without_lists_a_share_is_for_validation_and_stays(build: Build) -> None:
    names = [f"i{n}" for n in range(20)]
    rows = "".join(f"{name},1,1,cat\n" for name in names)
    root = build(f"image,x,y,class\n{rows}", " ".join(names))
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("background\ncat\n")
    for name in (*names, "more"):
        Image.new("L", (12, 8), 1).save(root / "masks" / f"{name}.png")
    build(f"image,x,y,class\n{rows}more,1,1,cat\n", "more")
    (root / "images" / "more.png").rename(root / "more.png")
    (root / "masks" / "more.png").rename(root / "more mask.png")
    (root / "clicks.csv").write_text(f"image,x,y,class\n{rows}")
    first = Folder(root=root, val_share=0.25)
    assert (len(first.split("train")), len(first.split("val"))) == (15, 5)
    (root / "more.png").rename(root / "images" / "more.png")
    (root / "more mask.png").rename(root / "masks" / "more.png")
    (root / "clicks.csv").write_text(f"image,x,y,class\n{rows}more,1,1,cat\n")
    second = Folder(root=root, val_share=0.25)
    before, after = ({example.id for example in data.split("val")} for data in (first, second))
    assert len(before - after) <= 1
    assert first.fingerprint() != second.fingerprint()
    assert len(Folder(root=root, val_share=0.5).split("val")) == 10
    held = Folder(root=root, held_out=3)
    assert not {e.id for e in held.split("val")} & {e.id for e in Folder(root=root).split("val")}


def test_without_masks_all_labels_are_trained_on(build: Build) -> None:
    """Nothing can be scored, so nothing is held out; there are images to look at."""
    names = [f"i{n}" for n in range(25)]
    root = build("image,x,y,class\n" + "".join(f"{name},1,1,cat\n" for name in names), " ".join(names))
    data = Folder(root=root)
    assert len(data.split("train")) == 25
    looked_at = {example.id for example in data.split("val")}
    assert len(looked_at) == 24
    assert NO_SCORE in data.doubts()
    build(None, "other")
    data = Folder(root=root)
    assert [example.id for example in data.split("val")] == ["other"], "an image without a label, where there is one"
    assert len(data.split("train")) == 25
    build(None, "another")
    (root / "val.txt").write_text("i3\n")
    data = Folder(root=root)
    assert [example.id for example in data.split("val")] == ["i3"]
    assert len(data.split("train")) == 24, "who names images to validate on gets them"


def test_every_nth_of_those_to_train_on_is_held_out(build: Build) -> None:
    rows = "".join(f"{name},1,1,cat\n" for name in "abcdefg")
    root = build(f"image,x,y,class\n{rows}", "a b c d e f g h")
    lists(root, "a b c d e f g", "h")
    data = Folder(root=root, held_out=3)
    assert ["".join(one.id for one in data.split(split)) for split in ("train", "val")] == ["bcef", "adg"]


def test_a_share_of_those_with_a_mask_is_for_validation(build: Build) -> None:
    root = build("image,x,y,class\n" + "".join(f"{name},1,1,cat\n" for name in "abcdefgh"), "a b c d e f g h")
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("background\ncat\n")
    for name in "abcdef":
        Image.fromarray(np.zeros((8, 12), np.uint8)).save(root / "masks" / f"{name}.png")
    data = Folder(root=root, val_share=0.5)
    train, val = ({one.id for one in data.split(split)} for split in ("train", "val"))
    assert len(val) == 3 and val < set("abcdef") and train == set("abcdefgh") - val
    (root / "train.txt").write_text("\n".join(sorted(val)))
    kept = {one.id for one in Folder(root=root, val_share=0.5).split("val")}
    assert len(kept) == 2 and kept < set("abcdef") - val, "none of those that are listed to train on"


def test_the_fingerprint_is_of_all_that_is_learned_and_evaluated(build: Build) -> None:
    root = build()
    lists(root, "a b", "c")
    (root / "classes.txt").write_text("background\ncat\ndog\nowl\n")
    (root / "masks").mkdir()
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(root / "masks" / "c.png")
    line = {"label": "cat", "shape_type": "line", "points": [[1, 1], [5, 1]]}
    area = {"label": "cat", "shape_type": "rectangle", "points": [[1, 1], [5, 5]]}
    (root / "a.json").write_text(json.dumps({"shapes": [line, area], "imagePath": "a.png"}))
    prints = [Folder(root=root).fingerprint()]
    for name, before, after in (
        ("classes.txt", b"owl", b"cow"),
        ("clicks.csv", b"a,1,2", b"a,1,3"),
        ("clicks.csv", b"a,1,3,cat", b"a,1,3,dog"),
        ("a.json", b"[5, 1]", b"[6, 1]"),
        ("a.json", b"[5, 5]", b"[6, 5]"),
        ("train.txt", b"a\nb", b"a"),
        ("images/a.png", b"IEND", b"IEND and more"),
        ("images/c.png", b"IEND", b"IEND and more"),
        ("masks/c.png", b"IEND", b"IEND and more"),
    ):
        content = (root / name).read_bytes()
        assert before in content
        (root / name).write_bytes(content.replace(before, after))
        prints.append(Folder(root=root).fingerprint())
        assert prints[-1] not in prints[:-1], (name, after)
    assert Folder(root=root).fingerprint() == prints[-1]


def test_what_a_circle_and_names_of_any_case_mean(build: Build) -> None:
    """Its centre and any point of its rim are given."""
    root = build(None)
    lists(root, "a", "b")
    for rim in ([8, 4], [5, 7], [5, 1]):
        shapes = [
            {"label": "Cat", "shape_type": "circle", "points": [[5, 4], rim]},
            {"label": "Background", "shape_type": "point", "points": [[0, 0]]},
            {"label": "Void", "shape_type": "rectangle", "points": [[11, 7], [11, 0]]},
        ]
        (root / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
        data = Folder(root=root)
        assert data.classes == ("background", "Cat")
        (one,) = data.split("train")
        assert [click.cls for click in one.clicks] == [0]
        mask = one.mask.numpy()
        assert mask[4].tolist() == [0, 0, *[1] * 7, 0, 0, 255]
        assert mask[:, 5].tolist() == [0, *[1] * 7]
        assert mask[1, 2] == mask[1, 8] == mask[7, 2] == mask[7, 8] == 0, "round"


def test_the_background_comes_first_by_whatever_name(build: Build) -> None:
    root = build("image,x,y,class\na,1,2,2\nb,3,4,BG\nb,1,1,_background_\n")
    lists(root, "a b", "c")
    (root / "classes.txt").write_text("bg\ncat\ndog\n")
    data = Folder(root=root)
    assert data.classes == ("background", "cat", "dog")
    assert [[click.cls for click in one.clicks] for one in data.split("train")] == [[2], [0, 0]]
    (root / "clicks.csv").write_text("image,x,y,class\na,1,2,3\nb,3,4,BG\n")
    assert "a: class='3': choose from background, cat, dog" in message(root)
    (root / "classes.txt").write_text("bg\n" + "\n".join(f"class {n}" for n in range(253)))
    assert len(Folder(root=root).classes) == 254, "as many as there are values below those of void and padding"


def test_large_images_are_made_smaller_with_all_that_lies_on_them(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    picture = np.zeros((300, 600, 3), np.uint8)
    picture[151:, 302:] = 200
    Image.fromarray(picture).save(tmp_path / "images" / "a.png")
    Image.fromarray(picture).save(tmp_path / "images" / "b.png")
    mask = 2 * (picture[..., 0] > 0).astype(np.uint8)
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "b.png")
    (tmp_path / "classes.txt").write_text("bg\nbox\nlid\n")
    line = {"label": "box", "shape_type": "line", "points": [[60, 30], [599.9, 240]]}
    (tmp_path / "a.json").write_text(json.dumps({"shapes": [line], "imagePath": "a.png"}))
    (tmp_path / "clicks.csv").write_text("image,x,y,class\na,450,225,box\na,599.9,299.9,box\n")
    data = Folder(root=tmp_path, max_side=100)
    a, b = data.split("train")[0], data.split("val")[0]
    assert a.image.shape == (3, 50, 100)
    assert a.clicks[0] == Click(75.0, 37.5, 1)
    assert a.clicks[1].x < 100
    assert a.image[0, 40, 90] == 200
    assert np.allclose(a.scribbles[0].points, ((10, 5), (599.9 / 6, 40)))
    np.testing.assert_array_equal(b.mask.numpy(), mask[3::6, 3::6])
    assert Folder(root=tmp_path, max_side=0).split("train")[0].image.shape == (3, 300, 600)


def test_a_thin_image_keeps_a_row(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((2, 600, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    shapes = [
        {"label": "cat", "shape_type": "point", "points": [[300, 1]]},
        {"label": "cat", "shape_type": "line", "points": [[60, 1], [120, 2]]},
    ]
    (tmp_path / "a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    lists(tmp_path, "a", "b")
    (one,) = Folder(root=tmp_path, max_side=100).split("train")
    assert one.image.shape == (3, 1, 100) and one.mask.shape == (1, 100)
    assert one.clicks == (Click(50.0, 0.5, 1),)
    assert np.allclose(one.scribbles[0].points, ((10, 0.5), (20, 1)))


def test_pictures_of_all_kinds(tmp_path: Path) -> None:
    """Turned by EXIF, CMYK, 16 bits, grey, with transparency, a palette."""
    (tmp_path / "images").mkdir()
    grey = np.zeros((8, 12), np.uint8)
    grey[:, 6:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    plain = Image.fromarray(grey)
    plain.save(tmp_path / "images" / "turned.png", exif=exif)
    plain.convert("CMYK").save(tmp_path / "images" / "cmyk.tif")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "images" / "deep.png")
    plain.convert("LA").save(tmp_path / "images" / "clear.png")
    plain.convert("P").save(tmp_path / "images" / "palette.gif")
    names = ["clear", "cmyk", "deep", "palette", "turned"]
    (tmp_path / "clicks.csv").write_text("image,x,y,class\n" + "".join(f"{name},1,11,x\n" for name in names[4:]))
    lists(tmp_path, "turned", " ".join(names[:4]))
    data = Folder(root=tmp_path)
    for one in data.split("val"):
        np.testing.assert_array_equal(one.image.numpy(), np.stack([grey] * 3), one.id)
    (turned,) = data.split("train")
    assert turned.image.shape == (3, 12, 8)
    assert turned.clicks == (Click(1.0, 11.0, 1),)
    assert (turned.image[:, 6:] == 255).all()


def test_simulated_clicks_lie_on_their_objects(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    (tmp_path / "classes.txt").write_text("\n".join(creatures.Creatures.classes))
    for n in range(6):
        example = creatures.make(0, n)
        Image.fromarray(example.image.permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{n}.png")
        Image.fromarray(example.mask.numpy()).save(tmp_path / "masks" / f"{n}.png")
    data = Folder(root=tmp_path, simulated=3)
    for example in [*data.split("train"), *data.split("val")]:
        assert [click.cls for click in example.clicks].count(0) == 3
        assert {click.cls for click in example.clicks} == set(np.unique(example.mask.numpy()))
        for click in example.clicks:
            assert example.mask[int(click.y), int(click.x)] == click.cls
    again, other = (Folder(root=tmp_path, simulated=3, simulated_seed=seed) for seed in (0, 1))
    assert [e.clicks for e in again.split("train")] == [e.clicks for e in data.split("train")]
    assert [e.clicks for e in other.split("train")] != [e.clicks for e in data.split("train")]


def test_a_simulated_click_is_rather_in_the_middle_and_specks_get_none() -> None:
    mask = np.zeros((101, 101), np.uint8)
    mask[20:81, 20:81] = 1
    mask[0, 0] = 2
    drawn = [simulate(mask, 0, 0, np.random.default_rng(n)) for n in range(200)]
    assert all(len(clicks) == 1 for clicks in drawn)
    away = [max(abs(click.x - 50.5), abs(click.y - 50.5)) for (click,) in drawn]
    assert np.mean(away) < 10, "evenly drawn it would be 20"


@pytest.mark.parametrize(("rows", "clicked"), [(3, True), (2, False)])
def test_how_large_an_object_must_be_for_a_simulated_click(rows: int, clicked: bool) -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[50 : 50 + rows, 20:30] = 3
    assert bool(simulate(mask, 0, 0, np.random.default_rng(0))) is clicked, "0.3 % of the pixels are needed"


def test_a_simulated_click_lies_on_its_object_whatever_is_drawn() -> None:
    class Lowest:
        def random(self) -> float:
            return 0.0

    mask = np.full((10, 10), 255, np.uint8)
    mask[4:8, 6:9] = 2
    mask[9, 5:] = 0
    found = simulate(mask, 0, 1, Lowest())  # type: ignore[arg-type]
    assert found == [Click(6.5, 4.5, 2), Click(5.5, 9.5, 0)]


def test_an_object_at_the_edge_is_clicked_in_its_middle() -> None:
    mask = np.zeros((20, 41), np.uint8)
    mask[:, :21] = 1
    drawn = [click for n in range(100) for click in simulate(mask, 0, 0, np.random.default_rng(n))]
    assert 9 < np.mean([click.x for click in drawn]) < 12


def test_simulated_clicks_take_the_place_of_what_was_clicked(build: Build) -> None:
    root = build()
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    for name in "ab":
        Image.fromarray(np.full((8, 12), 2, np.uint8)).save(root / "masks" / f"{name}.png")
    data = Folder(root=root, simulated=1)
    drawn = [one.clicks for split in ("train", "val") for one in data.split(split)]
    assert [[click.cls for click in clicks] for clicks in drawn] == [[2], [2]]
    assert drawn[0] != drawn[1], "each image has its own"


@pytest.mark.parametrize(
    ("csv", "why"),
    [
        ("image,x,y,class,x\na,1,2,cat,3\n", "column 'x' is in the first line twice; rename or delete one of the two"),
        ("image,x,y,class\na,1,2,bg\n", "a single class, 'background'; two are needed: click on objects as well"),
        ("image,x,y\na,1,2\n", "no column 'class'"),
        ("image,x,y,class\na,1,two,cat\n", "line 2: expected image, two numbers and a class"),
        ("image,x,y,class\na,1,nan,cat\n", "line 2: expected"),
        ("image,x,y,class\nd,1,2,cat\n", "clicks.csv: no image goes by the name 'd'"),
        ("image,x,y,class\na,12,2,cat\nb,1,1,cat\n", "a: click x=12 y=2 (cat) is outside the 12x8 image"),
        ("", "no column 'image'"),
    ],
)
def test_what_is_wrong_with_a_table_is_named(build: Build, csv: str, why: str) -> None:
    root = build(csv)
    lists(root, "a b", "c")
    assert why in message(root)


def test_a_wrong_class_is_named_with_the_nearest(build: Build) -> None:
    root = build("image,x,y,class\na,1,2,catt\nb,1,2,dog\n")
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    lists(root, "a b", "c")
    assert "class='catt'" in message(root)
    assert "did you mean 'cat'" in message(root)
    for text, why in (
        ("cat\ndog\n", "no class 'background'; data_background=NAME names the class that is no object"),
        (
            "background\n",
            "classes.txt: a single class, 'background'; two are needed: write the others as well, one a l",
        ),
        ("background\ncat\ncat\n", "class 'cat' is in it twice"),
        ("background\ncat\nbg\n", "class 'bg' is in it twice"),
    ):
        (root / "classes.txt").write_text(text)
        assert why in message(root)


def test_what_is_wrong_with_files_is_named(build: Build, tmp_path: Path) -> None:
    assert message(tmp_path / "none") == f"{tmp_path / 'none'}: not found; data_root=DIR names the folder"
    assert "no picture in this folder or below it (read are .jpg" in message(tmp_path)
    root = build()
    lists(root, "a b", "c")
    (root / "images" / "a.jpg").write_bytes(b"")
    assert "a.png: a.jpg has the same name" in message(root)
    (root / "images" / "a.jpg").unlink()
    (root / "images" / "a.png").write_bytes(b"")
    assert "a.png: unreadable image (the file is empty)" in message(root)
    build()
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    Image.fromarray(np.zeros((8, 11), np.uint8)).save(root / "masks" / "a.png")
    assert "a.png: has 11x8 pixels, its image 12x8" in message(root)
    Image.fromarray(np.zeros((12, 8), np.uint8)).save(root / "masks" / "a.png")
    assert "a.png: has 8x12 pixels, its image 12x8" in message(root)
    Image.fromarray(np.full((8, 12), 3, np.uint8)).save(root / "masks" / "a.png")
    assert "a.png: value 3 is neither a class 0..2 nor 255 (void)" in message(root)
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(root / "masks" / "a.png")
    assert "this one has mode RGB" in message(root)
    (root / "masks" / "a.png").rename(root / "masks" / "z.png")
    assert "z.png: no image goes by the name 'z'" in message(root)
    (root / "masks" / "z.png").unlink()
    (root / "clicks.json").write_text("{")
    assert "clicks.json: cannot be read" in message(root)
    (root / "clicks.json").write_text("[1]")
    assert "clicks.json: in no form that is known. Read are: " in message(root)
    (root / "clicks.json").unlink()
    lists(root, "a b", "a")
    assert "'a' is in train.txt and in val.txt" in message(root)
    lists(root, "a a", "b")
    assert "a is listed twice" in message(root)
    lists(root, "a", "x")
    assert "val.txt: no image goes by the name 'x'" in message(root)
    build(None, "holiday")
    lists(root, "a", "holidays")
    assert "val.txt: no image goes by the name 'holidays'; did you mean 'holiday'?" in message(root)


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"shape_type": "point", "points": [["nan", 1]]}, "a shape without a label and points of two numbers"),
        ({"shape_type": "point", "points": [[float("inf"), 1]]}, "a shape without a label and points of two numbers"),
        ({"shape_type": "point", "points": [[10**400, 1]]}, "a shape without a label and points of two numbers"),
        ({"shape_type": "point", "points": [[True, 1]]}, "a shape without a label and points of two numbers"),
        ({"shape_type": "linestrip", "points": []}, "cat: a linestrip of 0 points; read are"),
        ({"shape_type": "linestrip", "points": [[1, 1], [1e9, 1]]}, "a: scribble point x=1e+09 y=1 (cat) is far outs"),
        ({"shape_type": "polygon", "points": [[1, 1], [1e9, 1], [3, 3]]}, "a: a polygon (cat) goes far outside the 12"),
        (None, "a shape without a label and points"),
        ([], "a shape without a label and points"),
    ],
)
def test_what_labelme_cannot_have_meant(build: Build, shape: Any, why: str) -> None:
    root = build(None)
    lists(root, "a", "b")
    drawn = {"label": "cat", **shape} if isinstance(shape, dict) else shape
    good = {"label": "cat", "shape_type": "point", "points": [[1, 1]]}
    (root / "a.json").write_text(json.dumps({"shapes": [good, drawn], "imagePath": "a.png"}))
    assert why in message(root)


def test_a_line_is_cut_where_it_leaves_its_image(build: Build) -> None:
    root = build(None)
    lists(root, "a", "b")
    points = [[1, 1], [12.5, 1], [99, 1], [5, 5]]
    shape = {"label": "cat", "shape_type": "linestrip", "points": points}
    (root / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "a.png"}))
    (example,) = Folder(root=root, clicks_outside="drop").split("train")
    assert [scribble.points for scribble in example.scribbles] == [((1.0, 1.0), (12.5, 1.0)), ((5.0, 5.0),)]


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("clicks.csv", "image,x,y,class\n".encode("utf-16"), "clicks.csv: is no text in UTF-8"),
        ("clicks.csv", b"image,x,y,class\na,1,1,c\xe9\n", "clicks.csv: is no text in UTF-8 (byte 0xe9 in line 2)"),
        ("clicks.csv", b"image,x,y,class\na,1,1," + b"x" * 200_000, "clicks.csv: cannot be read (field larger"),
        ("clicks.csv", "image,x,y,class\na,1,1,²\n".encode(), "a: class='²': choose from background, cat, dog"),
        ("clicks.json", b"[" * 100_000, "clicks.json: cannot be read ("),
        ("clicks.json", b'{"a": [{"x": 1' + b"0" * 400 + b', "y": 1, "class": "cat"}]}', "a: expected x, y and class"),
        ("clicks.json", b'{"a": [{"x": NaN, "y": 1, "class": "cat"}]}', "clicks.json: a: expected x, y and class"),
        ("clicks.json", b'{"a": [{"x": [1], "y": 1, "class": "cat"}]}', "clicks.json: a: expected x, y and class"),
        ("classes.txt", b"background\nc\xe9", "classes.txt: is no text in UTF-8"),
        (
            "classes.txt",
            b"background\n" + b"\n".join(b"%d" % n for n in range(254)),
            "255 classes, but a mask can hold 254",
        ),
        (
            "classes.txt",
            b"background\n\x1b[31mcat",
            "classes.txt: class '\\x1b[31mcat' holds a character that cannot be printed",
        ),
        ("train.txt", b"\xff\xfea", "train.txt: is no text in UTF-8"),
    ],
)
def test_what_is_wrong_with_a_text_is_named(build: Build, name: str, content: bytes, why: str) -> None:
    root = build()
    lists(root, "a b", "c")
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    (root / name).write_bytes(content)
    assert why in message(root)


def test_tables_end_their_lines_in_any_way(build: Build) -> None:
    for end in ("\n", "\r\n", "\r"):
        root = build()
        (root / "clicks.csv").write_bytes(end.join(["\ufeffimage,x,y,class", "a,1,2,cat", "b,3,4,dog"]).encode())
        lists(root, "a b", "c")
        assert [one.clicks for one in Folder(root=root).split("train")] == [(Click(1, 2, 1),), (Click(3, 4, 2),)]


def test_a_picture_that_would_fill_the_memory(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    root = build()
    lists(root, "a b", "c")
    monkeypatch.setattr(files, "MOST_PIXELS", 90)
    assert "unreadable image (12x8 pixels are more than a photo has; the most are 90 pixels" in message(root)


def test_a_click_at_the_very_edge_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in "ab":
        Image.fromarray(np.zeros((30, 333, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    edge = f"{np.nextafter(333, 0)!r},{np.nextafter(30, 0)!r}".replace("np.float64(", "").replace(")", "")
    (tmp_path / "clicks.csv").write_text(f"image,x,y,class\na,{edge},cat\nb,1,1,cat\n")
    lists(tmp_path, "a", "b")
    for side in range(10, 333):
        (click,) = Folder(root=tmp_path, max_side=side).split("train")[0].clicks
        height, width = Folder(root=tmp_path, max_side=side).split("train")[0].image.shape[1:]
        assert click.x < width and click.y < height, side


def test_an_outside_click_may_be_dropped(build: Build) -> None:
    root = build("image,x,y,class\na,12,2,cat\na,1,1,cat\nb,1,1,dog\n")
    lists(root, "a b", "c")
    data = Folder(root=root, clicks_outside="drop")
    assert [len(example.clicks) for example in data.split("train")] == [1, 1]


def test_nothing_clicked_is_nothing_to_train_on(build: Build) -> None:
    root = build("image,x,y,class\n")
    lists(root, "a b", "c")
    assert "none of 3 images to train on has a click or a scribble" in message(root)


@pytest.mark.slow
def test_full_supervision_without_masks_to_train_on_is_left_out(tmp_path: Path) -> None:
    """It would learn from nothing, and be reported."""
    example.write(tmp_path / "photos")
    given: dict[str, tuple[Any, ...]] = {"profile": ("toy",), "data": ("folder",)}
    given["data_root"] = (str(tmp_path / "photos"),)
    both = Sweep("both", "", {"losses": ("pce", "ce"), "seed": (0,)})
    (planned,) = recipes.suite([both], given)
    assert [cell.point["losses"] for cell in planned.cells] == ["pce"]
    reason = "losses=ce learns from masks, and no image to train on has one"
    assert planned.left_out == (f"both: {reason}",)
    with pytest.raises(InputError, match=f"^{reason}$"):
        recipes.one({"losses": "ce", **{word: values[0] for word, values in given.items()}})
    assert Folder(root=tmp_path / "photos", simulated=1).dense


@pytest.mark.slow
def test_the_example_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "photos"
    assert main(["data", "example", str(root)]) == 0
    assert main(["data", "check", str(root), "--sheet", str(tmp_path / "sheet.png")]) == 0
    printed = capsys.readouterr().out
    assert "100 images to train on, 0 of them with a mask\n20 images to validate on, 20 of them with a mask" in printed
    assert "note: " not in printed
    data = Folder(root=root)
    assert data.classes == Creatures.classes
    drawn = [make(1, number, example.SIZE) for number in range(120)]
    assert [one.clicks for one in data.split("train")] == [one.clicks for one in drawn[:100]], "CSV and labelme"
    assert all(torch.equal(one.mask, other.mask) for one, other in zip(data.split("val"), drawn[100:]))
    assert main(["data", "example", str(root)]) == 2
    assert capsys.readouterr().err == f"seminar: {root}: exists already; name a new folder\n"


@pytest.mark.slow
def test_a_report_without_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No score is there, none is asked for, and how far teacher and student agree is drawn in its place."""
    example.write(tmp_path / "photos")
    shutil.rmtree(tmp_path / "photos" / "masks")
    given = ["profile=toy", "data=folder", f"data_root={tmp_path / 'photos'}", "losses=pce+pcons", "seed=0"]
    runs = ["--runs", str(tmp_path / "runs")]
    assert main(["train", *given, *runs, "--wandb", "disabled"]) == 0
    assert analyse(["sweeps/losses.yaml", *given, *runs, "--out", str(tmp_path / "report")]) == 0
    printed = capsys.readouterr().out
    assert "no validation image has a mask" in printed and "Fill with" not in printed
    cells = recipes.cells(Sweep("one", "", sweep.parse_settings(given)))
    store = Store(tmp_path / "runs")
    rows, curves = summary.rows(frame.frame(store, cells)), frame.curves(store, cells)
    assert curves["student_miou"].isna().all() and curves["agreement"].between(0, 100).all()
    drawn, blank = (
        figures.scores_and_curves(rows, data, "", {}) for data in (curves, curves.assign(agreement=float("nan")))
    )
    assert drawn["png"] != blank["png"]


NOT_UTF8 = os.fsdecode(b"\xff")


def test_a_name_that_is_no_text_is_told_at_once(build: Build) -> None:
    root = build()
    os.rename(root / "images" / "c.png", root / "images" / f"{NOT_UTF8}.png")
    printed = message(root)
    assert printed == f"{root}/images/{NOT_UTF8}.png: the name is not in UTF-8 (of an old archive?); rename it"
    assert Folder.problems(root=root) == [printed]


def test_names_are_the_same_however_their_accents_are_written(build: Build) -> None:
    apart, together = (unicodedata.normalize(form, "Müller/é") for form in ("NFD", "NFC"))
    assert apart != together
    root = build(f"image,x,y,class\n{together}.png,1,2,cat\nb,3,4,cat\nc,3,4,cat\n", f"{apart}.png b c")
    (root / "masks" / apart).parent.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 12), np.uint8)).save(root / "masks" / f"{apart}.png")
    (root / "classes.txt").write_text("background\ncat\n")
    lists(root, f"{together} b", "c")
    (found,) = (each for each in Folder(root=root).split("train") if each.clicks == (Click(1.0, 2.0, 1),))
    assert found.id == together
    assert not (found.mask != 0).any(), "its mask is found"
    assert Folder.problems(root=root) == []


def test_pictures_of_floating_point_numbers_are_refused(build: Build) -> None:
    root = build()
    (root / "images" / "a.png").unlink()
    Image.fromarray(np.full((8, 12), 0.5, np.float32)).save(root / "images" / "a.tif")
    lists(root, "a b", "c")
    assert message(root) == (
        f"{root}/images/a.tif: unreadable image (floating-point numbers of unknown range; save it with 8 or 16 bits)"
    )


@pytest.mark.parametrize(
    ("names", "val", "settings", "why"),
    [
        ("a", "a", {}, ": every image with a click or a scribble (1) is to validate on, none to train on"),
        ("a b c", "", {"held_out": 1}, ": data_held_out=1 leaves no image to train on"),
    ],
)
def test_why_nothing_is_left_to_train_on(
    build: Build, names: str, val: str, settings: dict[str, int], why: str
) -> None:
    rows = "".join(f"{name},1,2,cat\n" for name in names.split())
    root = build(f"image,x,y,class\n{rows}", names)
    if val:
        (root / "val.txt").write_text(val)
    assert message(root, **settings) == f"{root}{why}"


def test_what_only_follows_from_something_wrong_is_not_told(build: Build) -> None:
    root = build("picture,x,y,class\na,1,2,cat\n")
    (printed,) = Folder.problems(root=root)
    assert "no column 'image'" in printed
    (root / "clicks.csv").unlink()
    (root / "clicks.csv").symlink_to("clicks.csv")
    (printed,) = Folder.problems(root=root)
    assert printed.startswith(f"{root}/clicks.csv: cannot be read (")


def test_links_that_lead_nowhere_and_a_file_of_masks_are_told(build: Build) -> None:
    root = build("image,x,y,class\na,1,2,cat\nb,3,4,cat\nc,3,4,cat\n")
    (root / "images" / "d.png").symlink_to("gone.png")
    (root / "masks").write_text("")
    printed = Folder.problems(root=root)
    assert len(printed) == 2
    assert printed[0] == f"{root}/masks: is no folder of masks"
    assert printed[1].startswith(f"{root}/images/d.png: unreadable image (")
    (root / "masks").unlink()
    lists(root, "a b", "d")
    with pytest.raises(InputError, match=r"d\.png: cannot be read"):
        Folder(root=root).fingerprint()


@pytest.mark.parametrize("name", ["train.txt", "val.txt", "classes.txt"])
def test_a_list_that_leads_nowhere_is_told(build: Build, name: str) -> None:
    root = build()
    (root / name).symlink_to("gone.txt")
    assert message(root).startswith(f"{root}/{name}: cannot be read (")


def test_an_empty_list_is_told(build: Build) -> None:
    root = build()
    (root / "train.txt").touch()
    assert message(root) == f"{root}/train.txt: names no image"


def test_classes_and_files_whose_accents_are_written_otherwise(build: Build) -> None:
    apart, together = (unicodedata.normalize(form, "é") for form in ("NFD", "NFC"))
    root = build(f"image,x,y,class\na,1,2,{apart}\nb,3,4,{together}\n")
    assert Folder(root=root).classes == ("background", together)
    (root / "classes.txt").write_text(f"background\n{apart}\n")
    (root / "masks").mkdir()
    assert Folder.problems(root=root) == []
    for form in (apart, together):
        for folder in ("images", "masks"):
            shutil.copy(root / "images" / "a.png", root / folder / f"{form}.png")
    images, masks = Folder.problems(root=root)[:2]
    assert "has the same name; their accents are written otherwise" in images
    assert "has the same name, with its accents or suffix written otherwise" in masks


def test_every_name_is_text(build: Build) -> None:
    for place in (f"masks/{NOT_UTF8}.jpg", f"labelme/{NOT_UTF8}.json"):
        root = build()
        (root / place).parent.mkdir()
        (root / place).write_text("{}")
        assert message(root) == f"{root}/{place}: the name is not in UTF-8 (of an old archive?); rename it"
        (root / place).unlink()


def test_a_number_of_many_digits_is_no_class(build: Build) -> None:
    root = build(f"image,x,y,class\na,1,2,{'1' * 5000}\nb,3,4,1\n")
    (root / "classes.txt").write_text("background\ncat\n")
    lists(root, "a b", "c")
    assert message(root).startswith("a: class='111")


def test_rows_of_blanks_are_no_clicks(build: Build) -> None:
    root = build("image;x;y;class\r\na;1;2;cat\r\nb;3;4;dog\r\n;;;\r\n ; ;;\r\n")
    lists(root, "a b", "c")
    assert [one.clicks for one in Folder(root=root).split("train")] == [(Click(1, 2, 1),), (Click(3, 4, 2),)]


def test_a_mask_may_have_the_whole_name_of_its_picture(build: Build) -> None:
    root = build()
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    Image.fromarray(np.full((8, 12), 2, np.uint8)).save(root / "masks" / "a.png.png")
    (example,) = Folder(root=root).split("val")
    assert (example.id, example.mask.unique().tolist()) == ("a", [2])
    (root / "masks" / "a.png.png").rename(root / "masks" / "a_mask.png")
    build(None, "mask_a")
    assert message(root).endswith("a_mask.png: no image goes by the name 'a_mask'; did you mean 'mask_a'?")


def test_a_photo_that_is_turned_is_the_cause(build: Build) -> None:
    root = build("image,x,y,class\na,10,2,cat\nb,3,4,dog\n", "b")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (12, 8)).save(root / "images" / "a.jpg", exif=exif)
    why = "the EXIF data of a.jpg turn it: turn this as the picture is seen, or remove its orientation"
    (printed,) = Folder.problems(root=root)
    assert printed == (
        f"a: click x=10 y=2 (cat) is outside the 8x12 image; {why}; data_clicks_outside=drop leaves such clicks out"
    )
    (root / "clicks.csv").write_text("image,x,y,class\na,1,2,cat\nb,3,4,dog\n")
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("background\ncat\ndog\n")
    Image.new("L", (12, 8)).save(root / "masks" / "a.png")
    assert Folder.problems(root=root) == [f"{root}/masks/a.png: has 12x8 pixels, its image 8x12; {why}"]
    (root / "masks" / "a.png").unlink()
    shape = {"label": "cat", "shape_type": "point", "points": [[1, 1]]}
    drawn = {"shapes": [shape], "imagePath": "a.jpg", "imageWidth": 12, "imageHeight": 8}
    (root / "images" / "a.json").write_text(json.dumps(drawn))
    pixels = f"{root}/images/a.json: drawn on 12x8 pixels, but {root}/images/a.jpg has 8x12; {why}"
    assert Folder.problems(root=root) == [pixels]
    with pytest.raises(InputError) as printed_too:
        convert([root / "images" / "a.json"], root, root / "out.csv", None)
    assert str(printed_too.value) == pixels


def test_what_may_not_be_meant_is_noted(build: Build, tmp_path: Path) -> None:
    root = build("image,x,y,class\na,1,2,cat\na,1.5,2,Cat\nb,3,4,bg\nb,3,4,background\n")
    outside = tmp_path / "elsewhere"
    outside.mkdir()
    (root / "images" / "more").symlink_to(outside)
    (root / "images" / "round").symlink_to(root / "images")
    notes = Folder(root=root).doubts()
    assert "classes 'Cat' and 'cat' differ in case alone; if they are one, write them alike" in notes
    assert [note for note in notes if note.startswith("pixel ")] == [
        "pixel x=1 y=2 of a is clicked as Cat and as cat; delete the wrong click"
    ]
    assert (
        "links to folders, which are not followed: 2, for example images/more, images/round; move the folders here"
        in notes
    )
    for name in "abc":
        (root / "images" / f"{name}.png").unlink()
    assert message(root).endswith(
        f"; {root}/images/more is a link to a folder, which is not followed: move the folder here"
    )


def test_files_that_nothing_reads_are_named_where_nothing_is_clicked(build: Build) -> None:
    root = build(None)
    (root / "old.json").write_text('[{"data": {"image": "a.png"}, "completions": []}]')
    assert message(root) == (
        f"{root}: none of 3 images to train on has a click or a scribble; nothing reads these files: 1, for example "
        "old.json"
    )


def test_an_unreadable_file_of_json_is_named_once(build: Build) -> None:
    root = build()
    (root / "x.json").symlink_to("x.json")
    assert message(root) == f"{root}/x.json: cannot be read (Too many levels of symbolic links)"


KEY: dict[str, Any] = {"image_id": 1, "category_id": 1, "keypoints": [1, 2, 2]}
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [KEY],
}


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            COCO | {"images": COCO["images"] + [{"id": 1, "file_name": "b.png"}]},
            "id 1 stands for several of the images",
        ),
        (
            COCO | {"categories": COCO["categories"] + [{"id": 1, "name": "dog"}]},
            "id 1 stands for several of the categories",
        ),
        (COCO | {"categories": [{"id": 1, "name": None}]}, "category 1 has the name None; write a text"),
        ({"shapes": [{"label": None, "points": [[1, 1]]}], "imagePath": "a.png"}, "a shape without a label and points"),
        ([{"id": 7, "data": {"image": "a.png"}, "annotations": [3, 4]}], "task 7: 2 annotations as numbers, without"),
        (
            {"/data/upload/1/my_photo_2.jpg": [{"x": 1, "y": 1, "class": "cat"}]},
            "no image goes by the name '/data/upload/1/my_photo_2.jpg'; did you mean 'my photo (2)'?",
        ),
    ],
)
def test_nothing_of_a_file_of_labels_is_lost_or_made_up(build: Build, content: object, why: str) -> None:
    root = build()
    Image.new("RGB", (12, 8)).save(root / "images" / "my photo (2).png")
    (root / "labels.json").write_text(json.dumps(content))
    (printed,) = Folder.problems(root=root)
    assert printed.startswith(f"{root}/labels.json: ")
    assert why in printed
