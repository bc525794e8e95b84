"""The VOC folder: what is read, every error message, and the real images and clicks where they are present."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seminar import recipes, sweep
from seminar.data import Click, Scribble, datasets, files
from seminar.data.strokes import draw_scribbles
from seminar.data.voc import CLASSES, Voc
from seminar.spec import InputError

TEST_DATA = Path(os.environ.get("SEMINAR_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
real = pytest.mark.skipif(
    not (TEST_DATA / "voc145").is_dir(), reason="the folder voc145 is not in SEMINAR_TEST_DATA (nor ../shared/data)"
)
FG = {
    "a": [{"x": 0.5, "y": 1, "cls": 3, "rank": 1}, {"x": 7.99, "y": 5.99, "cls": 20, "rank": 1}],
    "c": [{"x": 2.0, "y": 2.0, "cls": 1}],
}
BG = {"a": [{"x": 3.25, "y": 4.5, "cls": 0}]}
UNKNOWN = "unreadable image (no known image format: it is none of JPEG, PNG, WEBP, BMP, TIFF, GIF)"


def save_mask(path: Path, values: np.ndarray[Any, Any], mode: str = "P") -> None:
    image = Image.fromarray(values.astype(np.uint8))
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    image.convert(mode).save(path) if mode != "P" else image.save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Images a, b (train) and c (val) of 6 x 8 pixels; b has no clicks and is a grey JPEG."""
    root = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (root / folder).mkdir(parents=True)
    for k, id in enumerate("abc"):
        pixels = Image.new("RGB", (8, 6), (10 * k, 200, 50))
        (pixels.convert("L") if id == "b" else pixels).save(root / "JPEGImages" / f"{id}.jpg", quality=95)
        mask = np.full((6, 8), k)
        mask[0], mask[1] = 255, 20
        save_mask(root / "SegmentationClassAug" / f"{id}.png", mask)
    (root / "train.txt").write_text("b\na\n")
    (root / "val.txt").write_text("c\n")
    (root / "clicks_fg.json").write_text(json.dumps(FG))
    (root / "clicks_bg.json").write_text(json.dumps(BG))
    return root


def test_held_out_images_are_validated_on_and_not_learnt_from(root: Path) -> None:
    (root / "val.txt").unlink()  # it must not be looked at
    (root / "train.txt").write_text("c\nb\na\n")
    data = Voc(root=root, held_out=3)
    assert [example.id for example in data.split("train")] == ["b", "c"]
    assert [example.id for example in data.split("val")] == ["a"]
    assert error(lambda: Voc(root=root, held_out=1)) == "data_held_out=1: all 3 training images are held out"


def error(make: Any) -> str:
    with pytest.raises(InputError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_reads_images_masks_and_clicks(root: Path) -> None:
    data = Voc(root=root)
    train, val = data.split("train"), data.split("val")
    assert [example.id for example in train] == ["a", "b"] and [example.id for example in val] == ["c"]
    first = train[0]
    assert first.image.shape == (3, 6, 8) and first.image.dtype == torch.uint8
    assert (first.image[:, 3, 3].int() - torch.tensor([0, 200, 50])).abs().max() <= 3
    assert first.mask.dtype == torch.uint8 and first.mask[:3, 0].tolist() == [255, 20, 0]
    assert first.clicks == (Click(0.5, 1.0, 3), Click(7.99, 5.99, 20), Click(3.25, 4.5, 0))
    assert train[1].clicks == () and val[-1].clicks == (Click(2.0, 2.0, 1),)
    assert train[1].image.shape == (3, 6, 8)  # grey
    assert [example.id for example in train[1:]] == ["b"]
    assert len(data.classes) == 21 and data.classes[0] == "background" and data.classes[20] == "tvmonitor"
    with pytest.raises(IndexError):
        train[2]


def test_reads_a_cmyk_image_as_rgb(root: Path) -> None:
    Image.new("CMYK", (8, 6), (0, 0, 0, 0)).save(root / "JPEGImages" / "a.jpg")
    assert (Voc(root=root).split("train")[0].image >= 250).all()


def test_reads_the_original_layout(root: Path) -> None:
    expected = Voc(root=root).split("train")[0]
    (root / "SegmentationClassAug").rename(root / "SegmentationClass")
    (root / "ImageSets" / "Segmentation").mkdir(parents=True)
    (root / "ImageSets" / "SegmentationAug").mkdir()
    (root / "train.txt").rename(root / "ImageSets" / "SegmentationAug" / "trainaug.txt")
    (root / "val.txt").rename(root / "ImageSets" / "Segmentation" / "val.txt")
    (root / "clicks_fg.json").rename(root / "voc_whats_the_point.json")
    (root / "clicks_bg.json").rename(root / "voc_whats_the_point_bg_from_scribbles.json")
    found = Voc(root=root, train_list="trainaug").split("train")[0]
    assert torch.equal(found.mask, expected.mask) and found.clicks == expected.clicks
    assert len(Voc(root=root, train_list="val", val_list="trainaug").split("train")) == 1


def test_takes_the_click_files_named(root: Path, tmp_path: Path) -> None:
    (tmp_path / "other.json").write_text(json.dumps({"b": [{"x": 1, "y": 1, "cls": 5}]}))
    train = Voc(root=root, clicks_fg=tmp_path / "other.json").split("train")
    assert [example.clicks for example in train] == [(Click(3.25, 4.5, 0),), (Click(1.0, 1.0, 5),)]


def test_caches_a_small_data_set_only(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = Voc(root=root).split("train")
    assert train[0] is train[0] and train[-2] is train[0]
    monkeypatch.setattr(files, "CACHE_BYTES", 3 * 6 * 8 * 4)  # what the three images need: no longer "fewer"
    train = Voc(root=root).split("train")
    assert train[0] is not train[0]


def test_reads_lazily_and_travels_to_loader_processes(root: Path) -> None:
    train = pickle.loads(pickle.dumps(Voc(root=root))).split("train")
    (root / "JPEGImages" / "b.jpg").write_bytes(b"no image")
    with pytest.raises(InputError):
        train[1]


def test_registered_with_its_paths_and_settings() -> None:
    entry = datasets["voc"]
    assert entry.paths == {"root": True, "clicks_fg": False, "clicks_bg": False, "scribbles": False, "boxes": False}
    assert entry.coerce("data_", {"train_list": "trainaug"}) == (
        ("clicks_outside", "error"),
        ("held_out", 0),
        ("train_list", "trainaug"),
        ("val_list", "val"),
    )


def test_fingerprint_ignores_place_time_and_list_order(root: Path, tmp_path: Path) -> None:
    expected = Voc(root=root).fingerprint()
    shutil.copytree(root, tmp_path / "copy")
    (tmp_path / "copy" / "train.txt").write_text("a\n\nb")
    os.utime(tmp_path / "copy" / "JPEGImages" / "a.jpg", (0, 0))
    assert Voc(root=tmp_path / "copy").fingerprint() == expected
    (tmp_path / "copy" / "clicks_fg.json").write_text(json.dumps(FG | {"not listed": [], "c": []}))
    assert Voc(root=tmp_path / "copy").fingerprint() == expected  # the clicks of validation images train nothing


@pytest.mark.parametrize("change", ["click", "image", "mask", "split", "list"])
def test_fingerprint_changes_with(change: str, root: Path) -> None:
    before = Voc(root=root).fingerprint()
    if change == "click":
        (root / "clicks_bg.json").write_text(json.dumps({"a": [{"x": 3.5, "y": 4.5, "cls": 0}]}))
    elif change == "image":
        Image.new("RGB", (8, 6)).save(root / "JPEGImages" / "c.jpg", quality=20)
    elif change == "mask":
        save_mask(root / "SegmentationClassAug" / "a.png", np.arange(48).reshape(6, 8) % 21)
    elif change == "split":
        (root / "train.txt").write_text("a\n")
        (root / "val.txt").write_text("b\nc\n")
    else:
        (root / "train.txt").write_text("a\n")
    assert Voc(root=root).fingerprint() != before


@pytest.mark.parametrize("name", ["", "JPEGImages", "SegmentationClassAug", "clicks_fg.json", "clicks_bg.json"])
def test_error_missing(name: str, root: Path) -> None:
    (root / name).rename(root.parent / "elsewhere")
    assert error(lambda: Voc(root=root)).startswith(f"{root / name}: not found")


def test_error_missing_says_what_else_was_tried(root: Path) -> None:
    (root / "clicks_bg.json").unlink()
    assert error(lambda: Voc(root=root)) == (
        f"{root}/clicks_bg.json: not found (nor voc_whats_the_point_bg_from_scribbles.json); "
        "data_clicks_bg can name another file"
    )
    assert error(lambda: Voc(root=root, val_list="nope")) == (
        f"{root}/nope.txt: not found (nor in ImageSets/Segmentation or ImageSets/SegmentationAug)"
    )


def test_error_missing_click_file_that_was_named(root: Path) -> None:
    missing = root / "nope.json"
    expected = f"{missing}: cannot be read (No such file or directory)"
    assert error(lambda: Voc(root=root, clicks_fg=missing)) == expected
    assert error(lambda: Voc(root=root, clicks_bg=missing)) == expected


def test_error_in_an_id_list(root: Path) -> None:
    path = root / "train.txt"
    path.write_text("\n")
    assert error(lambda: Voc(root=root)) == f"{path}: the list is empty"
    path.write_text("b\na\nb\n")
    assert error(lambda: Voc(root=root)) == f"{path}: b is listed twice"


def test_error_listed_id_without_a_file(root: Path) -> None:
    (root / "SegmentationClassAug" / "c.png").unlink()
    assert error(lambda: Voc(root=root)) == f"{root}/SegmentationClassAug/c.png: no such file"
    (root / "train.txt").write_text("a\nx\ny\nz\n")
    expected = f"{root}/JPEGImages/x.jpg: no such file, and 2 more of the listed ids"
    assert error(lambda: Voc(root=root)) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[]", "expected an object {image id: [click, ...]}, got a list"),
        ('{"a": 3}', "a: expected a list of clicks, got 3"),
        ('{"a": [7]}', "a: expected a click with numbers x, y and cls, got 7"),
        ('{"a": [{"y": 1, "cls": 1}]}', "a: expected a click with numbers x, y and cls, got {'cls': 1, 'y': 1}"),
        ('{"a": [{"x": 1, "cls": 1}]}', "a: expected a click with numbers x, y and cls, got {'cls': 1, 'x': 1}"),
        ('{"a": [{"x": 1, "y": 2}]}', "a: expected a click with numbers x, y and cls, got {'x': 1, 'y': 2}"),
        ('{"a": [{"x": 1, "y": 2, "cls": 21}]}', "a: click with cls 21, expected 0..20"),
        ('{"a": [{"x": 1, "y": 2, "cls": -1}]}', "a: click with cls -1, expected 0..20"),
    ],
)
@pytest.mark.parametrize("name", ["clicks_fg.json", "clicks_bg.json"])
def test_error_in_a_click_file(name: str, text: str, problem: str, root: Path) -> None:
    (root / name).write_text(text)
    assert error(lambda: Voc(root=root)) == f"{root / name}: {problem}"


def test_error_click_file_of_another_data_set(root: Path) -> None:
    for name in ("clicks_fg.json", "clicks_bg.json"):
        (root / name).write_text('{"other": [{"x": 1, "y": 2, "cls": 1}]}')
    assert error(lambda: Voc(root=root)) == (
        f"{root}/clicks_fg.json: none of the images in list 'train' has a click in it or in {root}/clicks_bg.json; are "
        "the files of this data set, and are its ids written the same way?"
    )


@pytest.mark.parametrize(("x", "y"), [(8, 1), (1, 6.0), (-0.5, 1), (1, float("nan"))])
def test_error_click_outside_the_image(x: float, y: float, root: Path) -> None:
    (root / "clicks_bg.json").write_text(json.dumps({"b": [{"x": x, "y": y, "cls": 0}]}))
    train = Voc(root=root).split("train")
    message = error(lambda: train[1])
    assert message == (
        f"{root}/clicks_bg.json: b: click x={float(x)} y={float(y)} is outside the 8x6 image; "
        "data_clicks_outside=drop leaves such clicks out"
    )
    assert Voc(root=root, clicks_outside="drop").split("train")[1].clicks == ()


@pytest.mark.parametrize("name", ["JPEGImages/a.jpg", "SegmentationClassAug/a.png"])
def test_error_unreadable_image(name: str, root: Path) -> None:
    path = root / name
    train = Voc(root=root).split("train")
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    assert error(lambda: train[0]).startswith(f"{path}: unreadable image (")
    path.write_bytes(b"no image at all")
    assert error(lambda: train[0]) == f"{path}: {UNKNOWN}"
    path.unlink()
    assert error(lambda: train[0]).startswith(f"{path}: unreadable image (")


def test_error_unreadable_image_found_while_measuring_the_data_set(root: Path) -> None:
    path = root / "JPEGImages" / "c.jpg"
    path.write_bytes(b"")
    assert error(lambda: Voc(root=root).split("train")[0]) == f"{path}: unreadable image (the file is empty)"


def test_error_in_a_mask(root: Path) -> None:
    path = root / "SegmentationClassAug" / "a.png"
    train = Voc(root=root).split("train")
    save_mask(path, np.zeros((8, 6)))
    assert error(lambda: train[0]) == f"{path}: the mask has 6x8 pixels, its image 8x6"
    for value in (21, 254):
        save_mask(path, np.array([[0] * 7 + [value]] * 6))
        assert error(lambda: train[0]) == f"{path}: value {value} is neither a class 0..20 nor 255 (void)"
    save_mask(path, np.zeros((6, 8)), mode="RGB")
    assert error(lambda: train[0]) == f"{path}: a mask is a palette or grey 8-bit PNG, this one has mode RGB"
    save_mask(path, np.full((6, 8), 7), mode="L")
    assert (train[0].mask == 7).all()


# ---- scribbles


def polygon(tag: str, *points: tuple[object, object]) -> str:
    corners = "".join(f"<point><X>{x}</X><Y>{y}</Y></point>" for x, y in points)
    return f"<polygon><tag>{tag}</tag>{corners}</polygon>"


@pytest.fixture
def scribbles(root: Path) -> Path:
    """Scribbles on a (train) and c (val), none on b, and a file for an image that is not listed."""
    folder = root.parent / "pascal_2012"
    folder.mkdir()
    header = "<annotation>\n<size><width>8</width><height>6</height></size><segmented>1</segmented>"
    body = (
        polygon("background", (0, 1), (3, 1), (7, 5))
        + "\n"
        + polygon("plane", (2, 2))
        + polygon("tvmonitor", (1, 1), (2, 3))
    )
    (folder / "a.xml").write_text(f"{header}\n{body}\n</annotation>")
    (folder / "c.xml").write_text(f"<annotation>{polygon('cat', (4, 4))}</annotation>")
    (folder / "other.xml").write_text("not XML")
    return folder


def test_reads_scribbles(root: Path, scribbles: Path) -> None:
    data = Voc(root=root, scribbles=scribbles)
    (a, b), (c,) = data.split("train"), data.split("val")
    assert a.scribbles == (
        Scribble(((0.0, 1.0), (3.0, 1.0), (7.0, 5.0)), 0),
        Scribble(((2.0, 2.0),), 1),
        Scribble(((1.0, 1.0), (2.0, 3.0)), 20),
    )
    assert b.scribbles == ()  # no file
    assert c.scribbles == (Scribble(((4.0, 4.0),), 8),)
    assert a.clicks == Voc(root=root).split("train")[0].clicks and Voc(root=root).split("train")[0].scribbles == ()
    assert pickle.loads(pickle.dumps(data)).split("train")[0].scribbles == a.scribbles


def test_every_class_is_known_by_its_name_and_the_published_short_one(root: Path, scribbles: Path) -> None:
    short = {"plane": 1, "bike": 2, "table": 11, "plant": 16, "monitor": 20}
    names = {name: cls for cls, name in enumerate(CLASSES)} | short
    polygons = "".join(polygon(f" {name}\n", (1, 1)) for name in names)
    (scribbles / "a.xml").write_text(f"<annotation>{polygons}{polygon('dog')}</annotation>")  # the last: no point
    found = Voc(root=root, scribbles=scribbles).split("train")[0].scribbles
    assert [scribble.cls for scribble in found] == list(names.values())


def test_scribbles_enter_the_fingerprint(root: Path, scribbles: Path) -> None:
    prints = [Voc(root=root).fingerprint(), Voc(root=root, scribbles=scribbles).fingerprint()]
    (scribbles / "c.xml").write_text(f"<annotation>{polygon('dog', (4, 4))}</annotation>")  # validation: trains nothing
    scribbles = scribbles.rename(scribbles.parent / "elsewhere")
    assert Voc(root=root, scribbles=scribbles).fingerprint() == prints[1]
    (scribbles / "b.xml").write_text((scribbles / "a.xml").read_text())
    prints.append(Voc(root=root, scribbles=scribbles).fingerprint())
    (scribbles / "b.xml").write_text((scribbles / "a.xml").read_text().replace("<X>7<", "<X>6<"))
    prints.append(Voc(root=root, scribbles=scribbles).fingerprint())
    (scribbles / "a.xml").unlink()
    prints.append(Voc(root=root, scribbles=scribbles).fingerprint())
    assert len(set(prints)) == 5


def test_files_of_labels_that_nothing_reads_change_no_training(root: Path, scribbles: Path) -> None:
    settings = {"profile": ("toy",), "data": ("voc",), "data_root": (str(root),), "annotation": ("clicks", "scribbles")}
    request = sweep.Sweep("test", "", {**settings, "losses": ("pce", "ce")})

    def keys(**more: tuple[str, ...]) -> dict[tuple[object, object], str]:
        found = recipes.cells(request, {"data_scribbles": (str(scribbles),), **more})
        return {(cell.point["annotation"], cell.point["losses"]): cell.stage.key for cell in found}

    given = keys()
    without = recipes.cells(request, {"annotation": ("clicks",)})
    assert {given["clicks", "pce"], given["clicks", "ce"]} == {cell.stage.key for cell in without}
    assert given["clicks", "ce"] == given["scribbles", "ce"], "dense masks are read, whatever else was drawn"
    assert given["clicks", "pce"] != given["scribbles", "pce"]
    with pytest.raises(InputError, match=r"data_scribbles=.*: has no effect on anything in this request"):
        keys(annotation=("clicks",))


def test_scribbles_drawn_on_a_mask_are_drawn_alike_again(root: Path, tmp_path: Path) -> None:
    """Lines 3 pixels wide come back exactly (but for the outermost pixel of their ends), thin ones 3 pixels wide."""
    folder = tmp_path / "drawn"
    folder.mkdir()
    mask = np.full((6, 8), 255)
    mask[0:3, 1:7] = 8  # a line of 3 pixels
    mask[5, 2:7] = 0  # a thin one
    save_mask(folder / "a.png", mask)
    example = Voc(root=root, scribbles=folder).split("train")[0]
    assert {scribble.cls for scribble in example.scribbles} == {0, 8}
    points = torch.tensor([scribble.points[0] for scribble in example.scribbles])
    classes = [scribble.cls for scribble in example.scribbles]
    drawn = draw_scribbles(points, [1] * len(points), classes, 6, 8, 3).numpy()
    assert (drawn[0:3, 1:7] == 8).all()
    assert (drawn[4:6, 1:8] == 0).all() and (drawn == 0).sum() == 14
    assert (drawn == 8).sum() == 18
    mask[4, 4] = 21
    save_mask(folder / "a.png", mask)
    printed = error(lambda: Voc(root=root, scribbles=folder).split("train")[0])
    assert printed == f"{folder}/a.png: value 21 is neither a class 0..20 nor 255 (no line)"
    save_mask(folder / "a.png", mask[:5])
    printed = error(lambda: Voc(root=root, scribbles=folder).split("train")[0])
    assert printed == f"{folder}/a.png: has 8x5 pixels, its image 8x6"


def test_error_no_scribbles(root: Path, scribbles: Path) -> None:
    nowhere = scribbles / "nope"
    expected = f"{nowhere}: not a folder that can be read (No such file or directory)"
    assert error(lambda: Voc(root=root, scribbles=nowhere)) == expected
    expected = f"{scribbles / 'a.xml'}: not a folder that can be read (Not a directory)"
    assert error(lambda: Voc(root=root, scribbles=scribbles / "a.xml")) == expected
    (scribbles / "a.xml").unlink()
    assert error(lambda: Voc(root=root, scribbles=scribbles)) == (
        f"{scribbles}: no id of the list 'train' has scribbles (a file <id>.xml or <id>.png) here"
    )


DOCTYPE = '<!DOCTYPE a [<!ENTITY e "eeee"><!ENTITY f "&e;&e;">]>'


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("<annotation><polygon>", "not XML that can be read (no element found: line 1, column 21)"),
        ("", "not XML that can be read (no element found: line 1, column 0)"),
        ('<?xml version="1.0" encoding="none"?><a/>', "not XML that can be read (unknown encoding: none)"),
        (
            f"{DOCTYPE}<annotation>&f;</annotation>",
            "not XML that can be read (it has a document type declaration, which is refused)",
        ),
        (
            "<annotation><object/></annotation>",
            "no <polygon> in <annotation>, so these are no scribbles of ScribbleSup",
        ),
        (polygon("cat", (1, "")), "no <polygon> in <polygon>, so these are no scribbles of ScribbleSup"),
        (f"<a>{polygon('cat', (1, ''))}</a>", "cat: expected a point with numbers X and Y, got '1' and ''"),
        (
            f"<a>{polygon('cat', (1, 1), ('left', 2))}</a>",
            "cat: expected a point with numbers X and Y, got 'left' and '2'",
        ),
        (
            "<a><polygon><tag>cat</tag><point><X>3</X></point></polygon></a>",
            "cat: expected a point with numbers X and Y, got '3' and ''",
        ),
    ],
)
def test_error_in_a_scribble_file(text: str, problem: str, root: Path, scribbles: Path) -> None:
    train = Voc(root=root, scribbles=scribbles).split("train")
    (scribbles / "a.xml").write_text(text)
    assert error(lambda: train[0]) == f"{scribbles / 'a.xml'}: {problem}"


def test_error_entities_in_another_encoding(root: Path, scribbles: Path) -> None:
    text = f'<?xml version="1.0" encoding="utf-16"?>{DOCTYPE}<annotation>&f;</annotation>'
    (scribbles / "a.xml").write_bytes(text.encode("utf-16"))
    assert "document type declaration" in error(lambda: Voc(root=root, scribbles=scribbles).split("train")[0])


def test_error_unknown_class_of_a_scribble(root: Path, scribbles: Path) -> None:
    path = scribbles / "a.xml"
    for tag, guess in (("tvmonitr", "did you mean 'tvmonitor'? "), ("sky", ""), ("", "")):
        path.write_text(f"<a>{polygon(tag, (1, 1))}</a>")
        message = error(lambda: Voc(root=root, scribbles=scribbles).split("train")[0])
        assert message.startswith(f"{path}: tag={tag!r}: {guess}choose from aeroplane, background, ")
    path.write_text("<a><polygon><point><X>1</X><Y>1</Y></point></polygon></a>")
    assert error(lambda: Voc(root=root, scribbles=scribbles).split("train")[0]).startswith(f"{path}: tag='': choose")


def test_error_scribble_file_that_is_gone(root: Path, scribbles: Path) -> None:
    data = Voc(root=root, scribbles=scribbles)
    (scribbles / "a.xml").unlink()
    expected = f"{scribbles / 'a.xml'}: cannot be read (No such file or directory)"
    assert error(lambda: data.split("train")[0]) == expected
    assert error(data.fingerprint) == expected


@pytest.mark.parametrize(("x", "y"), [(8.8, 1), (-0.81, 1), (1, 6.8), (1, -0.81), ("nan", 1), (1, "inf")])
def test_scribble_that_runs_far_out_of_the_image(x: object, y: object, root: Path, scribbles: Path) -> None:
    """A tenth of the longer side of 8 x 6 pixels may be outside; where a point is left out the line falls in two."""
    line = polygon("cat", (1, 1), (8.7, -0.8), (2, 2), (x, y), (-0.8, 6.7), (5, 5))
    (scribbles / "a.xml").write_text(f"<a>{line}{polygon('dog', (x, y))}</a>")
    train = Voc(root=root, scribbles=scribbles).split("train")
    assert error(lambda: train[0]) == (
        f"{scribbles / 'a.xml'}: scribble point x={float(str(x))} y={float(str(y))} is far outside the 8x6 image; "
        "data_clicks_outside=drop leaves such points out"
    )
    assert Voc(root=root, scribbles=scribbles, clicks_outside="drop").split("train")[0].scribbles == (
        Scribble(((1.0, 1.0), (8.7, -0.8), (2.0, 2.0)), 8),
        Scribble(((-0.8, 6.7), (5.0, 5.0)), 8),
    )


@real
@pytest.mark.parametrize(("split", "fg", "bg"), [("train", (182, 201), (197, 204)), ("val", (167, 184), (179, 180))])
def test_real_clicks_lie_on_their_class(split: Any, fg: tuple[int, int], bg: tuple[int, int]) -> None:
    """The misses are void borders and human error; swapped or shifted coordinates would miss far more.

    The data's README has (184, 198; 170, 179): those are the counts with coordinates rounded, not floored.
    """
    hits = {True: [0, 0], False: [0, 0]}
    for example in Voc(root=TEST_DATA / "voc145").split(split):
        for click in example.clicks:
            on = int(example.mask[int(click.y), int(click.x)]) == click.cls
            hits[click.cls > 0] = [hits[click.cls > 0][0] + on, hits[click.cls > 0][1] + 1]
    assert (tuple(hits[True]), tuple(hits[False])) == (fg, bg)


@real
def test_real_folder() -> None:
    data = Voc(root=TEST_DATA / "voc145")
    assert len(data.split("train")) == 75 and len(data.split("val")) == 70
    assert data.split("train")[3] is data.split("train")[3], "small enough to be kept"
    assert len(data.fingerprint()) == 16


def test_error_an_image_in_both_lists(root: Path) -> None:
    with pytest.raises(
        InputError, match=r"1 image\(s\), first 'c', are in both lists, 'val' for training and 'val' for"
    ):
        Voc(root=root, train_list="val", val_list="val")


def test_error_scribbles_asked_for_and_no_folder_named(root: Path, scribbles: Path) -> None:
    settings: dict[str, tuple[Any, ...]] = {
        "profile": ("voc-mini",), "data_root": (str(root),), "pretrained": ("none",), "freeze": ("none",),
        "losses": ("pce",), "annotation": ("scribbles",), "seed": (0,),
    }  # fmt: skip
    with pytest.raises(InputError, match=r"^data_scribbles is missing: annotation=scribbles needs it"):
        recipes.cells(sweep.Sweep("test", "", {}), settings)
    (cell,) = recipes.cells(sweep.Sweep("test", "", {}), {**settings, "data_scribbles": (str(scribbles),)})
    assert cell.stage.annotation == "scribbles"


def test_what_has_no_labels_is_left_out_of_several_sweeps(root: Path) -> None:
    settings: dict[str, tuple[Any, ...]] = {"profile": ("voc-mini",), "data_root": (str(root),), "seed": (0,)}
    settings |= {"backbone": ("mobilenet_v2",), "pretrained": ("none",), "freeze": ("none",)}
    variants = ("default", "annotation=scribbles")
    both = sweep.Sweep("both", "", {"losses": ("pce+pcons",), "variant": variants, "alpha": (0.5,)})
    drawn = sweep.Sweep("drawn", "", {"losses": ("pce+pcons",), "annotation": ("scribbles",)})
    some, none = recipes.suite([both, drawn], settings)
    assert [cell.stage.annotation for cell in some.cells] == ["clicks"]
    assert some.left_out == ("both: variant='annotation=scribbles': " + none.left_out[0].removeprefix("drawn: "),)
    assert none.cells == []
    assert none.left_out[0].startswith("drawn: data_scribbles is missing")
    with pytest.raises(InputError, match=r"^data_scribbles is missing"):
        recipes.suite([drawn], settings)
