"""What `seminar data check` tells of a data set before anything is trained on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seminar import inspection
from seminar.__main__ import main
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
    assert (found.without_foreground, found.without_background) == (0, 0)
    assert len(found.drawn) == 5
    assert found.doubts() == ["class 'lid' has no label to learn from"]
    text = "\n".join(found.lines())
    assert "5 images to train on, 5 of them with a mask" in text
    assert "clicks: 6 on objects, 5 on the background" in text
    sheet = inspection.contact_sheet(found)
    assert len(found.sheet) == 5
    assert sheet.width > 300


def test_swapped_coordinates_are_doubted(photos: Path) -> None:
    path = photos / "clicks.csv"
    path.write_text(path.read_text().replace("10,15,box", "30,15,box"))
    found = inspection.contents({"profile": "toy", "data": "folder", "data_root": str(photos)})
    assert "6 clicks lie on another class than their own: are x and y swapped?" in found.doubts()


def test_a_good_folder_gets_a_sheet(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = photos / "sheet.png"
    words = ["data", "check", str(photos), "profile=toy", "data=folder", f"data_root={photos}", "--sheet", str(sheet)]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "note: class 'lid' has no label" in told.out
    assert told.out.endswith(f"wrote {sheet} and {sheet.with_suffix('.txt')}\n")
    assert told.out.startswith(sheet.with_suffix(".txt").read_text())
    with Image.open(sheet) as picture:
        assert picture.width > 300
    assert main(["data", "check", str(photos), "--sheet", str(sheet)]) == 0, "the profile `folder` is meant"
    assert capsys.readouterr().out.count("\n") > 8


def test_all_that_is_wrong_is_told_at_once(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (photos / "clicks.csv").open("a") as file:
        file.write("\n1,99,1,box\n9,1,1,box\n2,one,1,box\n3,1,1,boxx\n")
    (photos / "images" / "5.jpg").write_bytes(b"\xff\xd8broken")
    Image.fromarray(np.zeros((30, 41), np.uint8)).save(photos / "masks" / "4.png")
    assert main(["data", "check", str(photos), "--sheet", str(photos / "sheet.png")]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    lines = told.err.splitlines()
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
    ("words", "why"),
    [
        (["nowhere"], "nowhere: not found; data_root=DIR names the folder"),
        (["one", "two"], "one two: one folder"),
        (["profile=folderr"], "did you mean 'folder'"),
        (["nowhere", "data_sizee=3"], "nowhere"),
    ],
)
def test_bad_words(capsys: pytest.CaptureFixture[str], words: list[str], why: str) -> None:
    assert main(["data", "check", *words]) == 2
    assert why in capsys.readouterr().err


@pytest.mark.skipif(not (TEST_DATA / "voc145").is_dir(), reason="needs ../shared/data/voc145")
def test_real_photos() -> None:
    words = {"profile": "voc-mini", "data_root": str(TEST_DATA / "voc145"), "pretrained": "none", "freeze": "none"}
    found = inspection.contents(words)
    assert found.images == {"train": 75, "val": 70}
    assert found.clicks.total() - found.clicks[0] == 201
    assert found.clicks[0] == 204
