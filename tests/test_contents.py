"""What a training learns from is known by its contents, and only pictures are opened as pictures."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seminar import recipes, train
from seminar.data import contents, files
from seminar.data.contents import digests
from seminar.data.folder import Folder
from seminar.data.voc import Voc
from seminar.spec import InputError, Stage
from seminar.store import Record, Store

OLD = 1_000_000_000 * 10**9
"""A time long ago, in nanoseconds."""


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """A cache of its own, files that count as settled, and the files that are read to be hashed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(contents, "SETTLED", 0)
    seen: list[Path] = []
    whole = contents.hashlib.file_digest

    def counted(file: io.BufferedReader, name: str) -> object:
        seen.append(Path(file.name))
        return whole(file, name)

    monkeypatch.setattr(contents.hashlib, "file_digest", counted)
    return seen


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "files"
    place.mkdir()
    for name in "abc":
        (place / name).write_text(name * 100)
    return place


def test_files_are_read_once(reads: list[Path], folder: Path) -> None:
    paths = sorted(folder.iterdir())
    first = digests(paths, folder)
    assert reads == paths
    assert digests(paths, folder) == first
    assert digests(reversed(paths), folder) == first[::-1]
    assert reads == paths
    assert len(set(first)) == 3
    (folder / "d").write_text("d")
    assert digests([folder / "a", folder / "d"], folder)[0] == first[0]
    assert reads[3:] == [folder / "d"]


def test_a_change_that_keeps_size_and_time_is_seen(reads: list[Path], folder: Path) -> None:
    path = folder / "a"
    os.utime(path, ns=(OLD, OLD))
    first = digests([path], folder)
    path.write_text("x" * 100)
    os.utime(path, ns=(OLD, OLD))
    assert path.stat().st_mtime_ns == OLD
    assert digests([path], folder) != first


def test_what_changed_just_now_is_read_again(reads: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SETTLED", 3600 * 10**9)
    for _ in range(2):
        digests([folder / "a"], folder)
    assert len(reads) == 2


@pytest.mark.parametrize("damage", ["deleted", "damaged", "a list", "other values", "unwritable"])
def test_the_cache_can_be_lost(damage: str, reads: list[Path], folder: Path, tmp_path: Path) -> None:
    paths = sorted(folder.iterdir())
    if damage == "unwritable":
        (tmp_path / "cache").write_text("a file where the folder should be")
    first = digests(paths, folder)
    for place in (tmp_path / "cache").rglob("*.json"):
        if damage == "deleted":
            place.unlink()
        else:
            place.write_text({"damaged": '{"a', "a list": "[]", "other values": '{"a": 3}'}[damage])
    assert digests(paths, folder) == first
    assert len(reads) == 6


def test_a_missing_file_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: cannot be read \(No such file"):
        digests([folder / "nowhere"], folder)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures in formats whose sizes in bytes say nothing about them, masks, and clicks."""
    root = tmp_path / "photos"
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for name in "abc":
        Image.new("RGB", (12, 8), "white").save(root / "images" / f"{name}.bmp")
        Image.fromarray(np.zeros((8, 12), np.uint8)).save(root / "masks" / f"{name}.png", compress_level=0)
    (root / "clicks.csv").write_text("image,x,y,class\na,1,2,cat\nb,1,2,cat\nc,1,2,cat\n")
    (root / "classes.txt").write_text("background\ncat\n")
    (root / "val.txt").write_text("c\n")
    return root


def red(root: Path) -> None:
    Image.new("RGB", (12, 8), "red").save(root / "images" / "a.bmp")


def relabelled(root: Path) -> None:
    Image.fromarray(np.ones((8, 12), np.uint8)).save(root / "masks" / "c.png", compress_level=0)


def turned(root: Path) -> None:
    """By one byte: the orientation in the EXIF data."""
    path = root / "images" / "a.jpg"
    content = path.read_bytes()
    at = content.index(b"\x01\x12\x00\x03\x00\x00\x00\x01\x00") + 9
    path.write_bytes(content[:at] + b"\x06" + content[at + 1 :])


@pytest.mark.parametrize("change", [red, relabelled, turned])
def test_contents_of_the_same_size_are_other_data(change: Callable[[Path], None], photos: Path) -> None:
    if change is turned:
        exif = Image.Exif()
        exif[0x0112] = 1
        Image.new("RGB", (12, 8)).save(photos / "images" / "a.jpg", exif=exif.tobytes())
        (photos / "images" / "a.bmp").unlink()
    before = Folder(root=photos).fingerprint()
    sizes = {path: path.stat().st_size for path in photos.rglob("*")}
    change(photos)
    assert sizes == {path: path.stat().st_size for path in photos.rglob("*")}
    assert Folder(root=photos).fingerprint() != before


def test_voc_is_known_by_contents_too(tmp_path: Path) -> None:
    for name in ("JPEGImages", "SegmentationClass"):
        (tmp_path / name).mkdir()
    for id in "abc":
        Image.new("RGB", (12, 8), "white").save(tmp_path / "JPEGImages" / f"{id}.jpg", "BMP")
        Image.fromarray(np.zeros((8, 12), np.uint8)).save(tmp_path / "SegmentationClass" / f"{id}.png")
    (tmp_path / "train.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("c\n")
    (tmp_path / "clicks_fg.json").write_text(json.dumps({"a": [{"x": 1, "y": 2, "cls": 3}]}))
    (tmp_path / "clicks_bg.json").write_text("{}")
    before = Voc(root=tmp_path).fingerprint()
    Image.new("RGB", (12, 8), "red").save(tmp_path / "JPEGImages" / "c.jpg", "BMP")
    assert Voc(root=tmp_path).fingerprint() != before


class Relabel:
    """A watch that changes a mask after the first epoch."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None: ...

    def step(self, stage: Stage, done: int, total: int) -> None: ...

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        relabelled(self.root)

    def end(self, stage: Stage, body: Record | None) -> None: ...


def test_data_that_change_while_they_are_trained_on_are_noted(photos: Path, tmp_path: Path) -> None:
    settings = {"profile": "folder", "data_root": str(photos), "losses": "pce", "epochs": 1, "crop": 32}
    settings |= {"batch_size": 2, "backbone": "small_resnet", "pretrained": "none", "freeze": "none"}
    cell = recipes.one(settings)
    for changed in (False, True):
        watches = [Relabel(photos)] if changed else []
        store = Store(tmp_path / f"runs-{changed}")
        record = store.ensure(cell.stage, lambda s, f, a, watches=watches: train.train(s, cell.host, f, a, watches))
        assert any("have changed since this training started" in note for note in record["notes"]) == changed


def png(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 12 8\n%%EndComments\nshowpage\n%%EOF\n"
PICTURES = {
    "a PostScript program": (POSTSCRIPT, "no known image format: it is none of JPEG, PNG, WEBP, BMP, TIFF, GIF"),
    "another format of PIL's": (b"P6\n12 8\n255\n" + bytes(288), "no known image format"),
    "an empty file": (b"", "(the file is empty)"),
    "400 million pixels": (png(20_000, 20_000), "more than the 150,000,000 pixels of the largest photo"),
    "169 million pixels": (png(13_000, 13_000), "13000x13000 pixels are more than a photo has"),
    "a line of pixels": (png(30_000, 2), "30000x2 pixels are no photo: one side is more than 500 times the other"),
    "a long side": (png(40_000, 500), "40000x500 pixels are more than a photo has"),
}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("read", [files.read_image, files.image_size, files.read_mask])
def test_only_pictures_of_a_size_that_can_be_meant_are_opened(
    kind: str, read: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(Image.Image, "convert", refuse)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", refuse)
    path = tmp_path / "photo.jpg"
    content, message = PICTURES[kind]
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"photo\.jpg: unreadable image") as caught:
        read(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_link_that_leads_nowhere_is_named_once(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.symlink_to("gone.jpg")
    with pytest.raises(InputError) as caught:
        files.read_image(path)
    assert str(caught.value) == f"{path}: unreadable image (No such file or directory)"


@pytest.mark.parametrize("kind", [*files.FORMATS, "MPO"])
def test_promised_formats_are_read(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"photo.{kind.lower()}"
    picture = Image.new("RGB", (12, 8), "white")
    if kind == "MPO":  # what phones write as .jpg
        picture.save(path, kind, save_all=True, append_images=[picture])
    else:
        picture.save(path, kind)
    assert files.read_image(path).shape == (8, 12, 3)
