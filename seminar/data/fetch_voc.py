"""PASCAL VOC 2012 and SBD, downloaded or taken from where they are, and merged to what the paper trains on.

The 10,582 training images are those of SBD and of VOC's own training list without VOC's 1,449 validation images. Where
both have a mask, VOC's is taken: it is the finer one, with a void border.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.error import HTTPError

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.datasets import SBDataset
from torchvision.datasets.utils import check_integrity, download_url
from torchvision.datasets.voc import DATASET_YEAR_DICT
from tqdm import tqdm

from seminar.colours import palette
from seminar.data.files import existing, is_there, read_text
from seminar.data.voc import CLASSES, CLICK_FILES
from seminar.spec import InputError
from seminar.store import write_atomic

TRAIN, VAL = 10_582, 1_449
"""How many images the published lists give."""
LISTS = Path("ImageSets") / "Segmentation"
UNPACKED = Path("benchmark_RELEASE") / "dataset"
"""Where SBD's archive puts it."""
_LABELS = (
    "https://raw.githubusercontent.com/Farbdrucker/GatedCRFLoss/9b57667885b19e1c6a0e9115fa9ac2c17c8ed645/datasets/"
)
"""Where the authors of the Gated CRF loss have put clicks and scribbles; a commit, so nobody changes them."""
SHA256 = (
    "0ad942dc53197a1d7ce549000414adea39ac688d6c4ae7a1af27830469c73dc6",
    "45fdf2eff36a0ffc56a889efab2ca40788f074f8372dde4e8f81951bc7c79952",
)
"""Of the two click files (on objects, on the background)."""


@dataclass
class Merged:
    """What lies ready. `root`: the folder to train on (`data_root`); `notes`: what is not as published."""

    root: Path
    scribbles: Path | None
    notes: list[str]


def fetch(root: Path, *, clicks: Path | None = None, scribbles: Path | None = None, download: bool = True) -> Merged:
    """Bring everything together below `root`, or in `root` where that is VOC's folder itself. Does only what is not
    done yet, so it can be stopped and called again.

    `clicks`: a folder with the two click files; `scribbles`: a folder or a zip file of ScribbleSup's annotations. What
    is not given and not there is downloaded, unless `download` is false. Raises `InputError` for what is missing,
    damaged or cannot be reached.
    """
    for path in (root, *root.parents):
        if is_there(path) and not path.is_dir():
            raise InputError(f"--root {root}: {path} is no folder")
    for option, given in (("--clicks", clicks), ("--scribbles", scribbles)):
        if given is not None and not given.exists():
            raise InputError(f"{option} {given}: no such file or folder")
    if clicks is not None:
        for names in CLICK_FILES:
            _given(clicks, names)
    voc = root if (root / "JPEGImages").is_dir() else root / "VOCdevkit" / "VOC2012"
    try:
        return _together(root, voc, clicks, scribbles, download)
    except InputError as error:
        others = (
            [] if download else [each for each in _not_here(root, voc, clicks) if each.split()[0] not in str(error)]
        )
        if not others:
            raise
        raise InputError(f"{error}; not here either: {', '.join(others)}") from None


def _together(root: Path, voc: Path, clicks: Path | None, scribbles: Path | None, download: bool) -> Merged:
    notes: list[str] = []
    missing = _missing(voc)
    if missing:
        if voc == root:
            raise InputError(f"{missing[0]}: not found{_more(missing)}; {root} is no complete VOC 2012")
        published = DATASET_YEAR_DICT["2012"]
        _unpack(root, published["url"], published["filename"], published["md5"], download)
        missing = _missing(voc)
        if missing:
            raise InputError(f"{missing[0]}: not found{_more(missing)}, though its archive is unpacked")
    merged = voc / LISTS / "train_aug.txt"
    if not _is_merged(voc, merged):
        _merge(voc, _sbd(root, download), merged)
    for name, expected in (("train_aug", TRAIN), ("val", VAL)):
        count = len(_ids(voc / LISTS / f"{name}.txt"))
        if count != expected:
            notes.append(f"{name}.txt lists {count} images; as published there are {expected}")
    for names, sha256 in zip(CLICK_FILES, SHA256):
        path = _click_file(voc, names, sha256, clicks, download)
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            notes.append(f"{path}: is not the published file of clicks (another SHA-256)")
    return Merged(voc, _scribbles(voc, scribbles, download, notes), notes)


def _ids(path: Path) -> list[str]:
    return read_text(path).split()


def _more(missing: Sequence[Path]) -> str:
    return f", and {len(missing) - 1} more files" if missing[1:] else ""


def _missing(voc: Path) -> list[Path]:
    """Return the files of VOC's own training and validation that are not there."""
    lists = [voc / LISTS / f"{name}.txt" for name in ("train", "val")]
    if absent := [path for path in lists if not path.exists()]:
        return absent
    ids = [id for path in lists for id in _ids(path)]
    folders = (("JPEGImages", ".jpg"), ("SegmentationClass", ".png"))
    there = {folder: _names(voc / folder) for folder, _ in folders}
    return [voc / folder / (id + end) for folder, end in folders for id in ids if id + end not in there[folder]]


def _not_here(root: Path, voc: Path, clicks: Path | None) -> list[str]:
    """Return archives and click files that are needed and not there, with their source."""
    published, absent = DATASET_YEAR_DICT["2012"], []
    if voc != root and _missing(voc) and not (root / published["filename"]).exists():
        absent.append(f"{published['filename']} ({published['url']})")
    merged = voc / LISTS / "train_aug.txt"
    if not _is_merged(voc, merged) and not _sbd_here(root) and not (root / SBDataset.filename).exists():
        absent.append(f"{SBDataset.filename} ({SBDataset.url})")
    if clicks is None:
        absent += [f"{n[1]} ({_LABELS}{n[1]})" for n in CLICK_FILES if not any((voc / name).exists() for name in n)]
    return absent


def _is_merged(voc: Path, merged: Path) -> bool:
    """Return whether there is a mask of every image of the list `merged`, and of every one to validate on."""
    lists, masks = (merged, voc / LISTS / "val.txt"), _names(voc / "SegmentationClassAug")
    return all(path.exists() for path in lists) and all(f"{id}.png" in masks for path in lists for id in _ids(path))


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def _unpack(root: Path, url: str, name: str, md5: str, download: bool) -> None:
    """Unpack an archive below `root`, downloaded first where it is not there as published."""
    archive = root / name
    if archive.exists():
        print(f"checking {archive}", file=sys.stderr, flush=True)
    if not check_integrity(str(archive), md5):
        state = "is damaged or incomplete" if archive.exists() else "not found"
        if not download:
            raise InputError(f"{archive}: {state} (MD5 {md5} is expected); its source is {url}")
        print(f"downloading {url}", file=sys.stderr, flush=True)
        fresh = _download(url, archive, f"{archive}: {state}; ")
        if not check_integrity(str(fresh), md5):
            raise InputError(f"{fresh}: what {url} gave is damaged or incomplete (MD5 {md5} is expected)")
        fresh.replace(archive)
    print(f"unpacking {archive}", file=sys.stderr, flush=True)
    try:
        with tarfile.open(archive) as content:
            content.extractall(root, filter="data")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise InputError(f"{archive}: cannot be unpacked ({error})") from None


def _download(url: str, target: Path, because: str = "") -> Path:
    """Returns the new file, whose name is that of `target` with `.part` behind it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(target.name + ".part")
    fresh.unlink(missing_ok=True)  # torchvision takes any file that is there for the right one
    try:
        download_url(url, str(fresh.parent), fresh.name)
    except (OSError, RuntimeError) as error:  # urllib's errors are OSErrors
        if isinstance(error, HTTPError):
            error.close()  # it holds the connection
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise InputError(f"{because}{url} cannot be downloaded ({reason}); put the file there by hand") from None
    return fresh


def _sbd(root: Path, download: bool) -> Path:
    """Return the folder of SBD with `cls/`, `train.txt` and `val.txt`, complete."""
    if here := _sbd_here(root):
        return here
    _unpack(root, SBDataset.url, SBDataset.filename, SBDataset.md5, download)
    unpacked = root / UNPACKED
    absent = _absent(unpacked)
    if absent:
        raise InputError(f"{absent[0]}: not found{_more(absent)}, though its archive is unpacked")
    return unpacked


def _sbd_here(root: Path) -> Path | None:
    """Return the folder of SBD, where it is complete."""
    return next((place for place in (root / "SBD", root / UNPACKED) if not _absent(place)), None)


def _absent(sbd: Path) -> list[Path]:
    lists = [sbd / "train.txt", sbd / "val.txt"]
    masks = _names(sbd / "cls")
    return [path for path in lists if not path.exists()] or [
        sbd / "cls" / f"{id}.mat" for path in lists for id in _ids(path) if f"{id}.mat" not in masks
    ]


def _merge(voc: Path, sbd: Path, merged: Path) -> None:
    """Fill `SegmentationClassAug` and, last, write the list of training images."""
    own, val = _ids(voc / LISTS / "train.txt"), _ids(voc / LISTS / "val.txt")
    train = sorted({*_ids(sbd / "train.txt"), *_ids(sbd / "val.txt"), *own} - set(val))
    images = _names(voc / "JPEGImages")
    lost = [voc / "JPEGImages" / f"{id}.jpg" for id in train if f"{id}.jpg" not in images]
    if lost:
        raise InputError(f"{lost[0]}: not found{_more(lost)}; SBD's images are VOC 2012's")
    target = voc / "SegmentationClassAug"
    target.mkdir(exist_ok=True)
    there, detailed = _names(target), {*own, *val}
    for id in tqdm([*train, *val], desc="masks", unit="image", disable=not sys.stderr.isatty()):
        if f"{id}.png" in there:
            continue
        if id in detailed:
            content = (voc / "SegmentationClass" / f"{id}.png").read_bytes()
        else:
            content = _png(_sbd_mask(sbd / "cls" / f"{id}.mat"))
        write_atomic(target / f"{id}.png", lambda file, content=content: file.write(content))  # type: ignore[misc]
    write_atomic(merged, lambda file: file.write(("\n".join(train) + "\n").encode()))


def _sbd_mask(path: Path) -> NDArray[np.uint8]:
    """Return (H, W) classes of one of SBD's MATLAB files. Raises `InputError` for a damaged one."""
    from scipy.io import loadmat  # here alone: every training imports this file

    try:
        mask = np.asarray(loadmat(path)["GTcls"]["Segmentation"][0, 0])
    except Exception as error:  # loadmat has no error of its own: it lets through whatever its parsing meets
        raise InputError(f"{path}: no mask of SBD that can be read ({type(error).__name__}: {error})") from None
    if mask.ndim != 2 or mask.dtype != np.uint8 or mask.max(initial=0) >= len(CLASSES):
        raise InputError(f"{path}: expected (height, width) classes 0..20, got {mask.dtype} {mask.shape}")
    return mask


def _png(mask: NDArray[np.uint8]) -> bytes:
    image, content = Image.fromarray(mask), io.BytesIO()
    image.putpalette([value for rgb in palette() for value in rgb])
    image.save(content, "PNG")
    return content.getvalue()


def _click_file(voc: Path, names: tuple[str, str], sha256: str, given: Path | None, download: bool) -> Path:
    """Return a click file below `voc`, copied or downloaded to there; `names`: what it may be called, as the reader
    looks."""
    if given is not None:
        source = _given(given, names)
        target, content = voc / names[0], source.read_bytes()
        if not target.exists():
            write_atomic(target, lambda file: file.write(content))
        elif target.read_bytes() != content:
            raise InputError(f"{target}: is there already, and is not {source}; move it away or leave out --clicks")
        return target
    there = next((voc / name for name in names if (voc / name).exists()), None)
    if there is not None:
        return there
    path = voc / names[1]
    if not download:
        raise InputError(f"{path}: not found; its source is {_LABELS}{names[1]}")
    fresh = _download(_LABELS + names[1], path)
    if hashlib.sha256(fresh.read_bytes()).hexdigest() != sha256:
        raise InputError(f"{fresh}: what {_LABELS}{names[1]} gave is damaged or incomplete (SHA-256 {sha256} expected)")
    return fresh.replace(path)


def _given(folder: Path, names: tuple[str, str]) -> Path:
    """Return the click file in a folder that somebody has named."""
    return existing([folder / name for name in reversed(names)])


def _scribbles(voc: Path, given: Path | None, download: bool, notes: list[str]) -> Path | None:
    """Return the folder of scribbles; None, with a note, where there are none: most sweeps do without."""
    if given is not None and given.is_dir():
        return given
    target = voc / "scribbles"
    if given is None and target.is_dir():
        return target
    archive = given or voc / "voc_scribbles.zip"
    if not archive.exists():
        if given is not None:
            raise InputError(f"{given}: no such file or folder")
        if not download:
            notes.append("no scribbles: sweeps/scribbles.yaml needs them, nothing else does")
            return None
        try:
            _download(_LABELS + archive.name, archive).replace(archive)
        except InputError as error:
            notes.append(f"no scribbles, which only sweeps/scribbles.yaml needs: {error}")
            return None
    if target.is_dir():
        for name, content in _members(archive):
            if not (target / name).exists() or (target / name).read_bytes() != content:
                raise InputError(
                    f"{target}: is there already, with another {name} or none; move it, or leave out {given}"
                )
        return target
    with TemporaryDirectory(dir=voc, prefix=".scribbles-") as scratch:
        part = Path(scratch) / target.name
        part.mkdir()
        for name, content in _members(archive):
            (part / name).write_bytes(content)
        return part.replace(target)


def _members(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the annotations in a zip file, by their bare names."""
    found = False
    try:
        with zipfile.ZipFile(archive) as content:
            for entry in content.infolist():
                name = Path(entry.filename).name
                if name.endswith((".xml", ".png")) and not name.startswith("."):
                    found = True
                    yield name, content.read(entry)
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last: a password, or a method unknown to it
        raise InputError(f"{archive}: no zip file that can be read ({error}); delete it or give another") from None
    if not found:
        raise InputError(f"{archive}: no scribbles in it (<id>.xml or <id>.png)")
