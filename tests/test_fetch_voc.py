"""VOC and SBD brought together: from archives, from folders, and from what is damaged or half there."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import SBDataset
from torchvision.datasets.voc import DATASET_YEAR_DICT

from seminar.__main__ import main
from seminar.data import Scribble, fetch_voc
from seminar.data.fetch_voc import fetch
from seminar.data.voc import CLICK_FILES, Voc
from seminar.spec import InputError
from tests.conftest import ROOT

CLICKS = ROOT.parent / "shared" / "data" / "clicks"
VOC_TRAIN, VOC_VAL = ["2007_000032", "2007_000039"], ["2007_000033", "2007_000042"]
SBD_TRAIN, SBD_VAL = ["2008_000008", "2007_000033"], ["2007_000039", "2008_000015"]
"""One of SBD's is in VOC's validation list, and one in VOC's training list."""
EVERY = sorted({*VOC_TRAIN, *VOC_VAL, *SBD_TRAIN, *SBD_VAL})


def png(values: np.ndarray[Any, Any]) -> bytes:
    content, image = io.BytesIO(), Image.fromarray(values.astype(np.uint8))
    image.putpalette(bytes(range(256)) * 3)
    image.save(content, "PNG")
    return content.getvalue()


def jpg(id: str) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (12, 10), (EVERY.index(id) * 30, 90, 90)).save(content, "JPEG")
    return content.getvalue()


def mat(cls: int) -> bytes:
    mask, content = np.zeros((10, 12), np.uint8), io.BytesIO()
    mask[2:5, 2:5] = cls
    savemat(content, {"GTcls": {"Boundaries": [], "Segmentation": mask, "CategoriesPresent": [cls]}})
    return content.getvalue()


def pack(path: Path, mode: Any, files: dict[str, bytes]) -> str:
    """Write a tar file; returns its MD5."""
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return hashlib.md5(path.read_bytes()).hexdigest()


def clicks(cls: Callable[[int], int]) -> bytes:
    return json.dumps({id: [{"x": 3, "y": 3, "cls": cls(k)}] for k, id in enumerate(EVERY)}).encode()


class Quiet(SimpleHTTPRequestHandler):
    address: ClassVar[str] = ""

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder served in the place of the sources: the archives and label files, tiny."""
    web = tmp_path / "web"
    web.mkdir()
    with HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(web))) as server:
        monkeypatch.setattr(Quiet, "address", f"http://127.0.0.1:{server.server_port}/")
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        publish(web, monkeypatch)
        yield web
        server.shutdown()


def publish(web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.full((10, 12), 255)
    mask[1:] = 7
    base = "VOCdevkit/VOC2012"
    voc = {f"{base}/JPEGImages/{id}.jpg": jpg(id) for id in EVERY}
    voc |= {f"{base}/SegmentationClass/{id}.png": png(mask) for id in (*VOC_TRAIN, *VOC_VAL)}
    for name, ids in (("train", VOC_TRAIN), ("val", VOC_VAL)):
        voc[f"{base}/ImageSets/Segmentation/{name}.txt"] = ("\n".join(ids) + "\n").encode()
    sbd = {f"benchmark_RELEASE/dataset/cls/{id}.mat": mat(15) for id in (*SBD_TRAIN, *SBD_VAL)}
    for name, ids in (("train", SBD_TRAIN), ("val", SBD_VAL)):
        sbd[f"benchmark_RELEASE/dataset/{name}.txt"] = ("\n".join(ids) + "\n").encode()
    published = dict(DATASET_YEAR_DICT["2012"])
    published["md5"] = pack(web / published["filename"], "w", voc)
    published["url"] = Quiet.address + published["filename"]
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", published)
    monkeypatch.setattr(SBDataset, "md5", pack(web / SBDataset.filename, "w:gz", sbd))
    monkeypatch.setattr(SBDataset, "url", Quiet.address + SBDataset.filename)
    hashes = []
    for name, cls in (("voc_whats_the_point", lambda k: 15), ("voc_whats_the_point_bg_from_scribbles", lambda k: 0)):
        (web / f"{name}.json").write_bytes(clicks(cls))
        hashes.append(hashlib.sha256((web / f"{name}.json").read_bytes()).hexdigest())
    monkeypatch.setattr(fetch_voc, "SHA256", tuple(hashes))
    monkeypatch.setattr(fetch_voc, "_LABELS", Quiet.address)
    with zipfile.ZipFile(web / "voc_scribbles.zip", "w") as archive:
        line = "<point><X>2</X><Y>2</Y></point><point><X>4</X><Y>4</Y></point>"
        archive.writestr(
            "pascal_2012/2008_000008.xml",
            f"<annotation><polygon><tag>person</tag>{line}</polygon></annotation>",
        )
        archive.writestr("__MACOSX/._2008_000008.xml", "no annotation")


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(InputError) as caught:
        fetch(*arguments, **options)
    return str(caught.value)


def test_everything_is_downloaded_and_merged(web: Path, tmp_path: Path) -> None:
    merged = fetch(tmp_path / "data")
    assert merged.root == tmp_path / "data" / "VOCdevkit" / "VOC2012"
    assert merged.notes == [
        "train_aug.txt lists 4 images; as published there are 10582",
        "val.txt lists 2 images; as published there are 1449",
    ]
    data = Voc(root=merged.root, train_list="train_aug", scribbles=merged.scribbles)
    train, val = data.split("train"), data.split("val")
    assert [example.id for example in train] == ["2007_000032", "2007_000039", "2008_000008", "2008_000015"]
    assert [example.id for example in val] == VOC_VAL
    for example in (train[0], train[1], *val):
        assert example.mask[0].eq(255).all() and example.mask[1:].eq(7).all(), "VOC's mask, also where SBD has one"
    for example in train[2:]:
        assert example.mask.sum() == 9 * 15 and example.mask[2:5, 2:5].eq(15).all(), "SBD's, turned the right way"
    assert [click.cls for click in train[3].clicks] == [15, 0]
    assert train[2].scribbles == (Scribble(((2.0, 2.0), (4.0, 4.0)), 15),)
    assert merged.scribbles is not None
    assert [path.name for path in merged.scribbles.iterdir()] == ["2008_000008.xml"], "not what macOS adds"


def test_a_second_call_does_nothing_and_needs_nothing(web: Path, tmp_path: Path) -> None:
    merged = fetch(tmp_path / "data")
    times = {path: path.stat().st_mtime_ns for path in merged.root.rglob("*")}
    shutil.rmtree(web)
    for path in (tmp_path / "data").glob("*.t*"):
        path.unlink()  # the archives
    shutil.rmtree(tmp_path / "data" / "benchmark_RELEASE")
    assert fetch(tmp_path / "data") == merged
    assert fetch(merged.root, download=False) == merged, "VOC's folder by itself"
    assert {path: path.stat().st_mtime_ns for path in merged.root.rglob("*")} == times


def test_goes_on_where_it_was_stopped(web: Path, tmp_path: Path) -> None:
    merged = fetch(tmp_path / "data")
    masks = merged.root / "SegmentationClassAug"
    whole = {path.name: path.read_bytes() for path in masks.iterdir()}
    for name in ("2008_000015.png", "2007_000032.png"):
        (masks / name).unlink()
    (masks / "2008_000008.png").write_bytes(b"somebody's own")
    assert fetch(tmp_path / "data", download=False) == merged
    now = {path.name: path.read_bytes() for path in masks.iterdir()}
    assert now == {**whole, "2008_000008.png": b"somebody's own"}, "what is there stays"
    (merged.root / "JPEGImages" / "2007_000033.jpg").unlink()
    assert fetch(tmp_path / "data", download=False) == merged, "unpacked once more"
    assert (merged.root / "JPEGImages" / "2007_000033.jpg").exists()
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        (merged.root / folder / "2007_000042.png").unlink()
        assert fetch(tmp_path / "data", download=False) == merged
        assert (merged.root / folder / "2007_000042.png").exists(), "one to validate by"


def test_what_a_stopped_download_left_is_not_taken(web: Path, tmp_path: Path) -> None:
    for name in ("VOCtrainval_11-May-2012.tar", "VOCdevkit/VOC2012/voc_scribbles.zip"):
        part = tmp_path / "data" / f"{name}.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b"half of it")
    assert fetch(tmp_path / "data").scribbles is not None
    assert not [*tmp_path.rglob("*.part")]


@pytest.mark.parametrize("name", ["voc_whats_the_point", "voc_whats_the_point_bg_from_scribbles"])
def test_clicks_that_arrive_otherwise_are_not_used(web: Path, tmp_path: Path, name: str) -> None:
    (web / f"{name}.json").write_bytes(clicks(lambda k: 2))
    printed = refused(tmp_path / "data")
    path = tmp_path / "data" / "VOCdevkit" / "VOC2012" / f"{name}.json"
    assert printed.startswith(f"{path}.part: what {Quiet.address}{name}.json gave is damaged or incomplete (SHA-256 ")
    assert not path.exists()
    printed = refused(tmp_path / "data", download=False)
    assert printed.startswith(f"{path}: not found; its source is {Quiet.address}{name}.json")
    other = "voc_whats_the_point_bg_from_scribbles.json"
    assert printed.endswith(f"; not here either: {other} ({Quiet.address}{other})") == (name != other[:-5])


def test_without_downloads_all_that_is_missing_is_named(web: Path, tmp_path: Path) -> None:
    printed = refused(tmp_path / "data", download=False)
    for name in ("VOCtrainval_11-May-2012.tar", "benchmark.tgz", *(names[1] for names in CLICK_FILES)):
        assert printed.count(f"{Quiet.address}{name}") == 1, name
    assert "benchmark.tgz" not in refused(tmp_path / "data", download=False, clicks=web).partition("either")[0]
    assert "voc_whats" not in refused(tmp_path / "data", download=False, clicks=web)


def test_a_slip_of_the_pen_is_told_before_anything_is_downloaded(web: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path / "file") == f"--root {tmp_path / 'file'}: {tmp_path / 'file'} is no folder"
    assert refused(tmp_path / "file" / "x" / "y").endswith(f"y: {tmp_path / 'file'} is no folder")
    assert refused(tmp_path / "data", clicks=tmp_path).endswith("clicks_fg.json)")
    none = tmp_path / "none"
    assert refused(tmp_path / "data", clicks=none) == f"--clicks {none}: no such file or folder"
    assert refused(tmp_path / "data", scribbles=none) == f"--scribbles {none}: no such file or folder"
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("way", ["..", "out"])
def test_an_archive_writes_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    """Neither by a name with `..` nor through a link to another folder."""
    root, outside = tmp_path / "data", tmp_path / "outside"
    published = dict(DATASET_YEAR_DICT["2012"])
    for folder in (root, outside):
        folder.mkdir()
    with tarfile.open(root / published["filename"], "w") as archive:
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        if way == "out":
            archive.addfile(link)
        archive.addfile(tarfile.TarInfo(f"{way}/evil.txt"))
    published["md5"] = hashlib.md5((root / published["filename"]).read_bytes()).hexdigest()
    monkeypatch.setitem(DATASET_YEAR_DICT, "2012", published)
    assert refused(root, download=False).startswith(f"{root / published['filename']}: cannot be unpacked (")
    assert not [*tmp_path.rglob("evil.txt")]


def test_labels_that_are_at_hand(web: Path, tmp_path: Path) -> None:
    fetch(tmp_path / "data")
    own = tmp_path / "own"
    own.mkdir()
    (own / "clicks_fg.json").write_bytes(clicks(lambda k: 3))
    shutil.copy(web / "voc_whats_the_point_bg_from_scribbles.json", own)
    (own / "2007_000032.xml").write_text("<annotation/>")
    merged = fetch(tmp_path / "data", clicks=own, scribbles=own)
    assert merged.scribbles == own
    assert merged.notes[2:] == [
        f"{merged.root}/clicks_fg.json: is not the published file of clicks (another SHA-256)",
    ]
    data = Voc(root=merged.root, train_list="train_aug")
    assert {click.cls for example in data.split("train") for click in example.clicks} == {3, 0}, "they are read"
    assert refused(tmp_path / "data", clicks=tmp_path).endswith("clicks_fg.json)")
    assert fetch(tmp_path / "data", clicks=own, scribbles=own) == merged
    (own / "clicks_fg.json").write_bytes(clicks(lambda k: 4))
    printed = refused(tmp_path / "data", clicks=own)
    assert printed.startswith(f"{merged.root}/clicks_fg.json: is there already, and is not {own}/clicks_fg.json;")
    assert (merged.root / "clicks_fg.json").read_bytes() == clicks(lambda k: 3), "somebody's work"
    assert refused(tmp_path / "data", scribbles=tmp_path / "no.zip") == (
        f"--scribbles {tmp_path}/no.zip: no such file or folder"
    )


def test_without_scribbles_there_is_a_note(web: Path, tmp_path: Path) -> None:
    (web / "voc_scribbles.zip").unlink()
    merged = fetch(tmp_path / "data")
    assert merged.scribbles is None
    assert "only sweeps/scribbles.yaml needs" in merged.notes[2]
    merged = fetch(tmp_path / "data", download=False)
    assert merged.scribbles is None
    assert merged.notes[2:] == ["no scribbles: sweeps/scribbles.yaml needs them, nothing else does"]


def test_sbd_may_lie_in_a_folder_of_its_name(web: Path, tmp_path: Path) -> None:
    root = tmp_path / "data"
    merged = fetch(root)
    masks = merged.root / "SegmentationClassAug"
    (root / "benchmark_RELEASE" / "dataset").rename(root / "SBD")
    (root / "benchmark.tgz").unlink()
    shutil.rmtree(masks)
    assert fetch(root, download=False) == merged
    shutil.rmtree(masks)
    (root / "SBD" / "cls" / "2008_000015.mat").unlink()
    assert refused(root, download=False).startswith(f"{root}/benchmark.tgz: not found")


@pytest.mark.parametrize("archive", ["VOCtrainval_11-May-2012.tar", "benchmark.tgz"])
@pytest.mark.parametrize("state", ["absent", "cut", "cut here", "offline"])
def test_archives_that_cannot_be_used(web: Path, tmp_path: Path, archive: str, state: str) -> None:
    root = tmp_path / "data"
    root.mkdir()
    whole = (web / archive).read_bytes()
    if state == "cut here":  # and whole on the web: mended
        (root / archive).write_bytes(whole[:-50])
        fetch(root)
        assert (root / archive).read_bytes() == whole
        assert not [*root.glob("*.part")]
        return
    if state == "offline":
        (root / archive).write_bytes(whole[:-50])
        (web / archive).unlink()
        printed = refused(root)
        assert printed.startswith(
            f"{root / archive}: is damaged or incomplete; {Quiet.address}{archive} cannot be downl"
        )
        other = "VOCtrainval_11-May-2012.tar"
        shutil.copy(web / other, root) if archive != other else None
        assert "MD5" in refused(root, download=False) and archive in refused(root, download=False)
        return
    (web / archive).write_bytes(whole[:-50]) if state == "cut" else (web / archive).unlink()
    printed = refused(root)
    assert printed.startswith(f"{root / archive}")
    assert ("gave is damaged or incomplete" if state == "cut" else "cannot be downloaded") in printed
    assert "put the file there by hand" in printed or state == "cut"


def test_folders_that_are_not_complete(web: Path, tmp_path: Path) -> None:
    fetch(tmp_path / "data")
    voc = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    for id in VOC_VAL:
        (voc / "JPEGImages" / f"{id}.jpg").unlink()
    printed = refused(voc)
    assert printed == f"{voc}/JPEGImages/2007_000033.jpg: not found, and 1 more files; {voc} is no complete VOC 2012"


def test_an_image_of_sbd_that_voc_does_not_have(web: Path, tmp_path: Path) -> None:
    fetch(tmp_path / "data")
    voc = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    (voc / "ImageSets" / "Segmentation" / "train_aug.txt").unlink()
    (voc / "JPEGImages" / "2008_000015.jpg").unlink()
    assert refused(tmp_path / "data") == f"{voc}/JPEGImages/2008_000015.jpg: not found; SBD's images are VOC 2012's"


@pytest.mark.parametrize("what", ["cut", "no mask", "another class", "other numbers"])
def test_a_damaged_mask_of_sbd(web: Path, tmp_path: Path, what: str) -> None:
    fetch(tmp_path / "data")
    voc, sbd = tmp_path / "data" / "VOCdevkit" / "VOC2012", tmp_path / "data" / "benchmark_RELEASE" / "dataset"
    path = sbd / "cls" / "2008_000008.mat"
    if what == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif what == "no mask":
        savemat(path, {"GTinst": 3})
    elif what == "other numbers":
        savemat(path, {"GTcls": {"Segmentation": np.full((10, 12), 0.5)}})
    else:
        path.write_bytes(mat(21))
    (voc / "SegmentationClassAug" / "2008_000008.png").unlink()
    assert refused(tmp_path / "data").startswith(f"{path}: ")
    assert not (voc / "SegmentationClassAug" / "2008_000008.png").exists()


@pytest.mark.parametrize("content", [b"PK no zip", b""])
def test_scribbles_that_are_no_zip_file(web: Path, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.zip"
    path.write_bytes(content)
    assert refused(tmp_path / "data", scribbles=path).startswith(f"{path}: no zip file that can be read")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../evil.txt", "x")
    assert refused(tmp_path / "data", scribbles=path) == f"{path}: no scribbles in it (<id>.xml or <id>.png)"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../2008_000008.xml", "<annotation/>")
    merged = fetch(tmp_path / "data", scribbles=path)
    assert [found.relative_to(merged.root) for found in tmp_path.rglob("*08.xml")] == [
        Path("scribbles/2008_000008.xml")
    ]
    assert fetch(tmp_path / "data", scribbles=path) == merged, "the same ones once more"
    (merged.root / "scribbles" / "2008_000008.xml").write_text("somebody's own")
    printed = refused(tmp_path / "data", scribbles=path)
    assert printed.startswith(f"{merged.root}/scribbles: is there already, with another 2008_000008.xml or none")
    assert (merged.root / "scribbles" / "2008_000008.xml").read_text() == "somebody's own"
    (merged.root / "scribbles" / "2008_000008.xml").write_text("<annotation/>")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("2008_000015.png", b"")
    printed = refused(tmp_path / "data", scribbles=path)
    assert printed.startswith(f"{merged.root}/scribbles: is there already, with another 2008_000015.png or none")


def test_scribbles_behind_a_password(web: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("2008_000008.xml", "<annotation/>")
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1  # "encrypted"
    path.write_bytes(content)
    assert refused(tmp_path / "data", scribbles=path).startswith(f"{path}: no zip file that can be read (")
    left = {entry.name for entry in (tmp_path / "data" / "VOCdevkit" / "VOC2012").iterdir()}
    assert not [name for name in left if "scribbles" in name and "whats" not in name]


def test_what_is_no_text(web: Path, tmp_path: Path) -> None:
    merged = fetch(tmp_path / "data")
    path = merged.root / "ImageSets" / "Segmentation" / "train_aug.txt"
    path.write_bytes(b"2007_000032\n\xff\xfe")
    assert refused(tmp_path / "data").startswith(f"{path}: is no text in UTF-8 (byte 0x")
    with pytest.raises(InputError, match="is no text in UTF-8"):
        Voc(root=merged.root, train_list="train_aug")


@pytest.mark.slow
def test_the_command(web: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "data"
    assert main(["data", "voc", "--root", str(root)]) == 0
    printed = capsys.readouterr().out
    voc = root / "VOCdevkit" / "VOC2012"
    assert "4 images to train on, 4 of them with a mask\n2 images to validate on" in printed
    assert "note: train_aug.txt lists 4 images; as published there are 10582\n" in printed
    assert printed.endswith(
        f"ready:\nmake ablation-losses PROFILE=voc data_root={voc}\n"
        f"make ablation-scribbles PROFILE=voc data_root={voc} data_scribbles={voc}/scribbles\n"
    )
    assert (voc / "contact-sheet-scribbles.png").exists()
    assert (voc / "contact-sheet.png").exists() and printed.startswith(
        (voc / "contact-sheet.txt").read_text().partition("\n\n")[2]
    )
    (voc / "JPEGImages" / "2008_000015.jpg").write_bytes(b"\xff\xd8cut")
    (voc / "SegmentationClassAug" / "2007_000042.png").write_bytes(png(np.zeros((9, 12))))
    again = [sys.executable, "-m", "seminar", "data", "voc", "--root", str(root), "--no-download"]
    process = subprocess.run(again, capture_output=True, text=True, check=False)
    lines = process.stderr.splitlines()
    assert process.returncode == 2
    assert len(lines) == 2, "all that is wrong, a line each"
    assert "2008_000015.jpg: unreadable image" in lines[0] and "12x9 pixels, its image 12x10" in lines[1]


@pytest.mark.skipif(not CLICKS.is_dir(), reason="needs the folder clicks of ../shared/data")
def test_the_published_click_files() -> None:
    """They hold the 12,031 images; of which 10,582 are trained on, VOC's list says, which is not here."""
    names = ("voc_whats_the_point.json", "voc_whats_the_point_bg_from_scribbles.json")
    contents = [(CLICKS / name).read_bytes() for name in names]
    assert tuple(hashlib.sha256(content).hexdigest() for content in contents) == fetch_voc.SHA256
    fg, bg = (json.loads(content) for content in contents)
    assert len(bg) == fetch_voc.TRAIN + fetch_voc.VAL and set(bg) <= set(fg)
    assert "2007_000032" in bg
    assert (sum(len(fg[id]) for id in bg), sum(map(len, bg.values()))) == (32_452, 32_614)


VAL_LIST = ROOT / "data" / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "val.txt"


@pytest.mark.skipif(
    not (CLICKS.is_dir() and VAL_LIST.exists()),
    reason="needs the folder clicks of ../shared/data, and VOC 2012 in data/VOCdevkit",
)
def test_the_clicks_that_are_trained_on() -> None:
    names = ("voc_whats_the_point.json", "voc_whats_the_point_bg_from_scribbles.json")
    fg, bg = (json.loads((CLICKS / name).read_bytes()) for name in names)
    train = set(bg) - set(VAL_LIST.read_text().split())
    assert len(train) == fetch_voc.TRAIN
    assert [sum(len(clicks[id]) for id in train) for clicks in (fg, bg)] == [29_070, 28_784]
    assert [sum(not clicks[id] for id in train) for clicks in (fg, bg)] == [17, 21]
    assert all(fg[id] or bg[id] for id in train)
