"""What `seminar data check` tells of a data set before anything is trained on it."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seminar import inspection
from seminar.__main__ import main
from seminar.colours import palette
from seminar.data import NO_SCORE, Click, Example, Scribble
from seminar.inspection import Contents
from tests.conftest import ROOT

TEST_DATA = ROOT.parent / "shared" / "data"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Six pictures of 40 x 30 pixels: a box on the left half, clicked in the middle of each half."""
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    rows = ["image,x,y,class"]
    for number in range(6):
        Image.fromarray(np.full((30, 40, 3), 40 * number, np.uint8)).save(tmp_path / "images" / f"{number}.jpg")
        mask = np.zeros((30, 40), np.uint8)
        mask[:, :20] = 1
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        if number:
            rows += [f"{number},10,15,box", f"{number},30,15,background"]
    rows.append("1,35,15,box")
    (tmp_path / "classes.txt").write_text("background\nbox\nlid\n")
    (tmp_path / "clicks.csv").write_text("\n".join(rows))
    return tmp_path


def test_counts_and_doubts(photos: Path) -> None:
    found = inspection.contents({"profile": "toy", "data": "folder", "data_root": str(photos)})
    assert found.images == {"train": 5, "val": 1}, "the one without a click is for validation"
    assert found.masked == {"train": 5, "val": 1}
    assert found.clicks == {0: 5, 1: 6}
    assert found.clicked == {0: 5, 1: 5}
    assert +found.misplaced == {1: 1}
    assert found.pixels == {0: 5 * 600, 1: 5 * 600}
    assert (found.without_foreground, found.without_background) == (0, [])
    assert len(found.drawn) == 5
    assert found.doubts() == ["class 'lid' has no label to learn from"]
    text = "\n".join(found.lines())
    assert "5 images to train on, 5 of them with a mask" in text
    assert "clicks: 6 on objects, 5 on the background" in text
    assert "sizes, as they are used: 40 to 40 x 30 to 30 pixels" in text
    assert "one for each click: 2.20 on average" in text, "of those to train on"
    sheet = inspection.contact_sheet(found)
    assert len(found.sheet) == 5
    assert sheet.width > 300


def test_swapped_coordinates_are_doubted(photos: Path) -> None:
    path = photos / "clicks.csv"
    path.write_text(path.read_text().replace("10,15,box", "30,15,box"))
    found = inspection.contents({"profile": "toy", "data": "folder", "data_root": str(photos)})
    assert "6 clicks lie on another class than their own: are x and y swapped?" in found.doubts()


def test_images_without_a_kind_of_click(photos: Path) -> None:
    rows = ["1,10,15,box", "2,10,15,box", "3,30,15,background", "4,10,15,box", "4,30,15,background"]
    (photos / "clicks.csv").write_text("\n".join(["image,x,y,class", *rows]))
    found = inspection.contents({"profile": "toy", "data": "folder", "data_root": str(photos)})
    assert (found.without_foreground, found.without_background) == (1, ["1", "2"])
    assert "without a click on an object: 1, on the background: 2" in "\n".join(found.lines())


def test_scribbles_are_counted(photos: Path) -> None:
    line = {"label": "lid", "shape_type": "line", "points": [[1, 1], [9, 1]]}
    for name, lines in ((1, [line, line]), (2, [line])):
        (photos / f"{name}.json").write_text(json.dumps({"shapes": lines, "imagePath": f"{name}.jpg"}))
    found = inspection.contents({"profile": "toy", "data": "folder", "data_root": str(photos)})
    assert +found.scribbles == {2: 3}
    assert found.doubts() == ["class 'lid' has no pixel in any mask"]


def test_void_is_no_class(photos: Path) -> None:
    """Neither in the share of a class, nor as what a click lies on."""
    Image.fromarray(np.full((30, 40), 255, np.uint8)).save(photos / "masks" / "1.png")
    found = inspection.contents({"profile": "toy", "data": "folder", "data_root": str(photos)})
    assert found.pixels == {0: 4 * 600, 1: 4 * 600}
    assert found.misplaced.total() == 0
    assert found.masked == {"train": 4, "val": 1}


def test_padding_is_no_label(photos: Path) -> None:
    settings = {"profile": "toy", "data": "folder", "data_root": str(photos), "scale_min": 0.5, "scale_max": 0.5}
    found = inspection.contents({**settings, "click_size": 1})
    assert len(found.drawn) == 5
    assert max(found.drawn) <= 3, "one for each click, in views of which most is padding"


def test_what_the_lines_say() -> None:
    classes = ("background", "box", "lid")
    found = Contents(classes, drawn=[0, 3, 5, 0, 2], sizes=[(4, 3), (50, 20)])
    found.images.update({"train": 5, "val": 2})
    found.clicks.update({0: 4, 1: 6})
    found.pixels.update({0: 300, 1: 100})
    lines = found.lines()
    assert "sizes, as they are used: 4 to 50 x 3 to 20 pixels" in lines
    assert "labelled pixels of an image before augmentation, one for each click: 2.00 on average" in lines
    shares = [line.split()[-1] for line in lines if line.startswith(classes)]
    assert shares == ["75.0", "25.0", "0.0"]
    views = "labelled pixels of a training view, drawn as in an epoch"
    assert f"{views}: 2.00 on average; 2 of 5 views have none (40.0 %)" in lines
    assert not [line for line in replace(found, annotation="scribbles").lines() if "for each click" in line]


def test_what_is_doubted() -> None:
    found = Contents(("background", "box", "lid"), clicks=Counter({0: 10, 1: 10}), scribbles=Counter({2: 1}))
    found.masked.update({"train": 1, "val": 1})
    found.misplaced.update({1: 2})
    assert found.doubts() == [], "a scribble is a label, and a few clicks may be off"
    found.misplaced.update({0: 1})
    assert found.doubts() == ["3 clicks lie on another class than their own: are x and y swapped?"]
    found.masked.clear()
    assert found.doubts() == [NO_SCORE]


def test_a_good_folder_gets_a_sheet(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = photos / "sheet.png"
    settings = [
        "data",
        "check",
        str(photos),
        "profile=toy",
        "data=folder",
        f"data_root={photos}",
        "--sheet",
        str(sheet),
    ]
    assert main(settings) == 0
    printed = capsys.readouterr()
    assert "note: class 'lid' has no label" in printed.out
    assert printed.out.endswith(f"wrote {sheet} and {sheet.with_suffix('.txt')}\n")
    head, _, text = sheet.with_suffix(".txt").read_text().partition("\n\n")
    assert head == f"seminar data check profile=toy data_root={photos} data=folder"
    assert printed.out.startswith(text)
    with Image.open(sheet) as picture:
        assert picture.width > 300
    assert main(["data", "check", str(photos), "--sheet", str(sheet)]) == 0, "the profile `folder` is meant"
    assert capsys.readouterr().out.count("\n") > 8
    assert main(["data", "check", str(photos), "--sheet", str(photos / "other.PNG")]) == 0


def test_all_that_is_wrong_is_told_at_once(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (photos / "clicks.csv").open("a") as file:
        file.write("\n1,99,1,box\n9,1,1,box\n2,one,1,box\n3,1,1,boxx\n")
    (photos / "images" / "5.jpg").write_bytes(b"\xff\xd8broken")
    Image.fromarray(np.zeros((30, 41), np.uint8)).save(photos / "masks" / "4.png")
    assert main(["data", "check", str(photos), "--sheet", str(photos / "sheet.png")]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("seminar: ") for line in lines)
    for part in (
        "no image goes by the name '9'",
        "line 15: expected",
        "x=99",
        "class='boxx'",
        "5.jpg: unread",
        "41x30",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert not (photos / "sheet.png").exists()


@pytest.mark.parametrize(
    ("sheet", "why"),
    [
        ("images/s.png", "would lie among the pictures of"),
        ("images/deep/s.png", "would lie among the pictures of"),
        ("s.jpg", "must end in .png"),
        ("no/s.png", "no folder"),
        ("classes.png", "would overwrite it or classes.txt, which this command did not write"),
        ("mine.png", "would overwrite it or mine.txt, which this command did not write"),
    ],
)
def test_the_sheet_replaces_nothing(
    photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, sheet: str, why: str
) -> None:
    (photos / "mine.png").write_bytes(b"mine")
    before = {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()}
    monkeypatch.setattr(inspection, "contents", None)  # told before anything is read
    assert main(["data", "check", str(photos), "--sheet", str(photos / sheet)]) == 2
    assert why in capsys.readouterr().err
    assert {path: path.read_bytes() for path in photos.rglob("*") if path.is_file()} == before


def test_beside_pictures_the_sheet_would_be_one_of_them(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photos / "images")
    assert main(["data", "check", "."]) == 2
    assert "--sheet contact-sheet.png: would lie among the pictures of ." in capsys.readouterr().err


def test_what_is_not_used_is_doubted(photos: Path) -> None:
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(photos / "images" / "6.png")
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(photos / "masks" / "6.bmp")
    (photos / "masks" / "5.png").rename(photos / "masks" / "5.PNG")
    (photos / "labelme").mkdir()
    shape = {"label": "box", "shape_type": "point", "points": [[3, 3]]}
    for name in "ab":
        (photos / "labelme" / f"{name}.json").write_text(json.dumps({"shapes": [shape], "imagePath": "2.jpg"}))
    found = inspection.contents({"profile": "toy", "data": "folder", "data_root": str(photos)})
    assert found.doubts() == [
        "images that are neither trained nor validated on: 1, for example 6",
        "no masks, which are PNG files: 1, for example 6.bmp",
        "images with several files of labels, all of which count: 1, for example 2",
        "class 'lid' has no label to learn from",
    ]
    assert found.masked["train"] == 5, "also where the suffix is in capitals"


def test_drawn_scribbles_are_counted_by_the_line() -> None:
    lines = [Scribble(((1.0, 2.0), (5.0, 2.0)), 1)]
    dots = [Scribble(((x + 0.5, y + 0.5),), cls) for x, y, cls in ((1, 1, 1), (2, 2, 1), (8, 2, 1), (3, 3, 2))]
    blank = torch.zeros(3, 10, 20, dtype=torch.uint8)
    example = Example("a", blank, torch.full((10, 20), 255, dtype=torch.uint8), (), (*lines, *dots))
    assert inspection._strokes(example) == {1: 3, 2: 1}
    drawn = np.asarray(inspection._thumbnail(replace(example, scribbles=tuple(dots)), 0))
    scale = drawn.shape[1] / 20
    for x, y, cls in ((8.5, 2.5, 1), (3.5, 3.5, 2)):
        assert tuple(drawn[int(y * scale), int(x * scale)]) == palette()[cls]


def test_the_sheet_is_evenly_spaced(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "SHEET", 3)
    monkeypatch.setattr(inspection, "_thumbnail", lambda example, background: example.id)
    found = inspection.contents({"profile": "toy", "data": "folder", "data_root": str(photos)})
    assert found.sheet == ["1", "3", "5"]


def test_a_picture_of_the_sheet_has_its_clicks_and_its_mask_beside_it() -> None:
    mask = torch.full((90, 180), 255, dtype=torch.uint8)
    mask[:30, :60] = 2
    example = Example("a", torch.full((3, 90, 180), 9, dtype=torch.uint8), mask, (Click(120.0, 30.0, 1),))
    drawn = np.asarray(inspection._thumbnail(example, 0))
    assert drawn.shape == (90 + 14, 360, 3)
    assert (drawn[90:] < 128).any(), "its name"
    assert inspection._thumbnail(replace(example, id="a\nb"), 0).size == (360, 104)
    longer = inspection._thumbnail(replace(example, id="holidays/" * 20 + "a"), 0)
    assert longer.size == (360, 104)
    assert (np.asarray(longer)[90:, -20:] < 128).any(), "the end of it"
    for x, y, colour in (
        (120, 30, palette()[1]),
        (30, 80, (9, 9, 9)),
        (180 + 20, 20, palette()[2]),
        (180 + 20, 70, palette()[255]),
        (180 + 70, 20, palette()[255]),
    ):
        assert tuple(drawn[y, x]) == colour, (x, y)
    nothing = replace(example, mask=torch.full_like(mask, 255))
    assert inspection._thumbnail(nothing, 0).size == (180, 104), "no mask"


def test_the_sheet_is_read_line_by_line_above_the_colours_of_the_classes() -> None:
    pictures = [Image.new("RGB", (180, 180), (number, 0, 0)) for number in range(1, 8)]
    sheet = np.asarray(inspection.contact_sheet(Contents(("background", "box", "lid"), sheet=pictures)))
    assert [[sheet[90 + 200 * row, 90 + 186 * column, 0] for column in range(5)] for row in range(2)] == [
        [1, 2, 3, 4, 5],
        [6, 7, 255, 255, 255],
    ]
    assert [tuple(sheet[2 * 200 + 9, 150 * cls + 5]) for cls in range(3)] == palette()[:3]


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (["nowhere"], "nowhere: not found; data_root=DIR names the folder"),
        (["one", "two"], "one two: one folder"),
        (["profile=folder"], "data/photos: not found"),
        (["data=folder"], "data_root is missing"),
        (["profile=folderr"], "did you mean 'folder'"),
        (["nowhere", "data_sizee=3"], "nowhere"),
    ],
)
def test_bad_words(capsys: pytest.CaptureFixture[str], settings: list[str], why: str) -> None:
    assert main(["data", "check", *settings]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.skipif(not (TEST_DATA / "voc145").is_dir(), reason="needs ../shared/data/voc145")
def test_real_photos() -> None:
    settings = {"profile": "voc-mini", "data_root": str(TEST_DATA / "voc145"), "pretrained": "none", "freeze": "none"}
    found = inspection.contents(settings)
    assert found.images == {"train": 75, "val": 70}
    assert found.clicks.total() - found.clicks[0] == 201
    assert found.clicks[0] == 204
