"""PASCAL VOC 2012 (with or without the SBD masks), its clicks and its scribbles, read from folders."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import Annotated, Literal
from xml.etree import ElementTree

import numpy as np
import torch
from pydantic import Field
from scipy import ndimage

from seminar.data import UNLABELLED, Click, Example, Scribble, Split, datasets
from seminar.data.contents import digests
from seminar.data.files import (
    Examples,
    existing,
    find_unusable,
    fit_into_memory,
    image_size,
    read_bytes,
    read_image,
    read_mask,
    read_text,
)
from seminar.data.strokes import in_reach
from seminar.spec import InputError, unknown

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
TAGS = {name: cls for cls, name in enumerate(CLASSES)} | {
    name: CLASSES.index(long)
    for name, long in (
        *(("plane", "aeroplane"), ("bike", "bicycle"), ("table", "diningtable")),
        *(("plant", "pottedplant"), ("monitor", "tvmonitor")),
    )
}
"""Class index by the names that scribbles go by: VOC's and the shorter ones in the published files."""
CLICK_FILES = (
    ("clicks_fg.json", "voc_whats_the_point.json"),
    ("clicks_bg.json", "voc_whats_the_point_bg_from_scribbles.json"),
)
"""Names of the files of clicks on objects and on the background: ours, and as they were published."""


@datasets.register("voc")
class Voc:
    """A folder with `JPEGImages/<id>.jpg`, `SegmentationClassAug/` or else `SegmentationClass/<id>.png` (palette or
    grey PNG: 0..20, 255 = void) and id lists `<name>.txt`, there or in `ImageSets/Segmentation[Aug]/`.

    `root`: that folder, for example `VOCdevkit/VOC2012`. `clicks_fg`, `clicks_bg`: JSON files
    `{id: [{"x", "y", "cls"}, ...]}`, by default looked for in `root` under either of their usual names; an id without
    an entry has no clicks. `scribbles`: a folder of ScribbleSup annotations `<id>.xml`, or of lines drawn on a mask
    `<id>.png` (255: no line); without it there are none, and an id without a file has none. `train_list`, `val_list`:
    names of the id lists. Examples are in the order of their ids, so the order of a list has no effect.
    `clicks_outside`: what a click outside its image is, or a scribble's point out of reach (`in_reach`); the
    published files hold about 60 such clicks (x up to 1198, where no VOC image is wider than 500), which the paper's
    base code leaves out unseen. A scribble that loses a point falls in two.
    `held_out`: n > 0 validates on every n-th training image and trains on the others, to choose settings by; the
    validation list is then unused.

    Raises `InputError` for whatever is missing or malformed: here what needs no decoding, when an example is read what
    does.
    """

    classes: tuple[str, ...] = CLASSES
    dense = True

    def __init__(
        self,
        *,
        root: Path,
        clicks_fg: Path | None = None,
        clicks_bg: Path | None = None,
        scribbles: Path | None = None,
        train_list: str = "train",
        val_list: str = "val",
        clicks_outside: Literal["error", "drop"] = "error",
        held_out: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        self._drop_outside = clicks_outside == "drop"
        folder = existing([root], "; data_root=DIR names the folder, `seminar data voc` makes one")
        self._images = existing([folder / "JPEGImages"])
        self._masks = existing([root / "SegmentationClassAug", root / "SegmentationClass"])
        every = _read_ids(root, train_list)
        if held_out:
            learnt = [id for place, id in enumerate(every) if place % held_out]
            self._ids: dict[Split, list[str]] = {"train": learnt, "val": every[::held_out]}
            if not learnt:
                raise InputError(f"data_held_out={held_out}: all {len(every)} training images are held out")
        else:
            self._ids = {"train": every, "val": _read_ids(root, val_list)}
        shared = sorted(set(self._ids["train"]) & set(self._ids["val"]))
        if shared:
            raise InputError(
                f"{root}: {len(shared)} id(s), first {shared[0]!r}, are in both lists, {train_list!r} for training and"
                f" {val_list!r} for validation"
            )
        for folder, suffix in ((self._images, ".jpg"), (self._masks, ".png")):
            present = {path.name for path in folder.iterdir()}
            missing = [id for id in self._all_ids if id + suffix not in present]
            if missing:
                more = f", and {len(missing) - 1} more of the listed ids" if missing[1:] else ""
                raise InputError(f"{folder / (missing[0] + suffix)}: no such file{more}")
        fg, bg = (
            given or existing([root / name for name in names], f"; {setting} can name another file")
            for given, names, setting in zip((clicks_fg, clicks_bg), CLICK_FILES, ("data_clicks_fg", "data_clicks_bg"))
        )
        self._clicks = {path: _read_clicks(path, self._all_ids) for path in (fg, bg)}
        if not any(clicks.get(id) for clicks in self._clicks.values() for id in self._ids["train"]):
            raise InputError(f"{fg}: no id of the list {train_list!r} has a click, neither here nor in {bg}")
        self._scribbles = None if scribbles is None else _find_scribbles(scribbles, self._all_ids)
        if self._scribbles is not None and not any(id in self._scribbles for id in self._ids["train"]):
            raise InputError(
                f"{scribbles}: no id of the list {train_list!r} has scribbles (a file <id>.xml or <id>.png) here"
            )
        self._splits = {split: Examples(ids, self.read, self._small) for split, ids in self._ids.items()}

    def split(self, split: Split) -> Sequence[Example]:
        """Return the examples of a split, read when indexed; raises `InputError` for a file that cannot be used."""
        return self._splits[split]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits over ids, clicks of the training images, the contents of all images and masks
        and, where a folder of scribbles is named, of its files for the training images."""
        clicks = [
            [(click.x, click.y, click.cls) for clicks in self._clicks.values() for click in clicks.get(id, ())]
            for id in self._ids["train"]
        ]
        files = [path for id in self._all_ids for path in self._files(id)]
        data: list[object] = [self._ids, clicks, digests(files, self._images)]
        if self._scribbles is not None:
            drawn = {id: self._scribbles[id] for id in self._ids["train"] if id in self._scribbles}
            data.append(dict(zip(drawn, digests(drawn.values(), self._images.with_name("scribbles")))))
        return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]

    def unusable(self) -> list[str]:
        """Return a line for each example that cannot be used, as `find_unusable` finds them."""
        return find_unusable(self._all_ids, self.read, self._glance, self._small)

    def _glance(self, id: str) -> None:
        """Check the headers of an example and its clicks; `read` checks all. Scribbles are not looked at: those that
        were drawn as a picture would have to be decoded."""
        image, mask = self._files(id)
        width, height = image_size(image)
        _check_mask_size(mask, image_size(mask), width, height)
        self._inside(id, width, height)

    def read(self, id: str) -> Example:
        """Decode and check one example."""
        image_path, mask_path = self._files(id)
        image, mask = read_image(image_path), read_mask(mask_path)
        height, width = image.shape[:2]
        _check_mask_size(mask_path, (mask.shape[1], mask.shape[0]), width, height)
        wrong = (mask >= len(CLASSES)) & (mask != UNLABELLED)
        if wrong.any():
            raise InputError(f"{mask_path}: value {mask[wrong].min()} is neither a class 0..20 nor 255 (void)")
        inside = self._inside(id, width, height)
        scribbles: list[Scribble] = []
        if self._scribbles is not None and id in self._scribbles:
            for whole in _read_scribbles(self._scribbles[id], (height, width)):
                # A line is cut where it leaves what is in reach, and where it comes back.
                for near, run in groupby(whole.points, lambda point: in_reach(point, width, height)):
                    if near:
                        scribbles.append(Scribble(tuple(run), whole.cls))
                    elif not self._drop_outside:
                        x, y = next(run)
                        raise InputError(
                            f"{self._scribbles[id]}: scribble point x={x} y={y} is far outside"
                            f" the {width}x{height} image; data_clicks_outside=drop leaves such points out"
                        )
        # permute makes no copy: channels stay innermost in memory, and torchvision resizes that several times faster.
        return Example(
            id=id,
            image=torch.from_numpy(image).permute(2, 0, 1),
            mask=torch.from_numpy(mask),
            clicks=tuple(inside),
            scribbles=tuple(scribbles),
        )

    def _inside(self, id: str, width: int, height: int) -> list[Click]:
        """Return the clicks of an example. Raises `InputError` for one outside the image, unless those are dropped."""
        inside: list[Click] = []
        for path, clicks in self._clicks.items():
            for click in clicks.get(id, ()):
                if 0 <= click.x < width and 0 <= click.y < height:
                    inside.append(click)
                elif not self._drop_outside:
                    raise InputError(
                        f"{path}: {id}: click x={click.x} y={click.y} is outside the {width}x{height} image; "
                        "data_clicks_outside=drop leaves such clicks out"
                    )
        return inside

    @cached_property
    def _all_ids(self) -> list[str]:
        return sorted({*self._ids["train"], *self._ids["val"]})

    def _small(self) -> bool:
        return fit_into_memory(self._files(id)[0] for id in self._all_ids)

    def _files(self, id: str) -> tuple[Path, Path]:
        return self._images / f"{id}.jpg", self._masks / f"{id}.png"


def _check_mask_size(path: Path, size: tuple[int, int], width: int, height: int) -> None:
    if size != (width, height):
        raise InputError(f"{path}: the mask has {size[0]}x{size[1]} pixels, its image {width}x{height}")


def _read_ids(root: Path, name: str) -> list[str]:
    folders = (root, root / "ImageSets" / "Segmentation", root / "ImageSets" / "SegmentationAug")
    path = next((folder / f"{name}.txt" for folder in folders if (folder / f"{name}.txt").exists()), None)
    if path is None:
        raise InputError(f"{root / name}.txt: not found (nor in ImageSets/Segmentation or ImageSets/SegmentationAug)")
    ids = sorted(read_text(path).split())
    if not ids:
        raise InputError(f"{path}: the list is empty")
    for before, id in pairwise(ids):
        if before == id:
            raise InputError(f"{path}: {id} is listed twice")
    return ids


def _read_clicks(path: Path, ids: Iterable[str]) -> dict[str, tuple[Click, ...]]:
    """Return the clicks of the given ids that have an entry."""
    try:
        entries = json.loads(read_text(path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise InputError(f"{path}: expected an object {{image id: [click, ...]}}, got a {type(entries).__name__}")
    return {id: tuple(_clicks(f"{path}: {id}", entries[id])) for id in ids if id in entries}


def _clicks(where: str, entry: object) -> Iterator[Click]:
    if not isinstance(entry, list):
        raise InputError(f"{where}: expected a list of clicks, got {reprlib.repr(entry)}")
    for click in entry:
        match click:
            case {"x": int() | float() as x, "y": int() | float() as y, "cls": int() as cls}:
                if not 0 <= cls < len(CLASSES):
                    raise InputError(f"{where}: click with cls {cls}, expected 0..20")
                yield Click(float(x), float(y), cls)
            case _:
                raise InputError(f"{where}: expected a click with numbers x, y and cls, got {reprlib.repr(click)}")


def _find_scribbles(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """Return the annotation file of each of the given ids that has one."""
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"{folder}: not a folder that can be read ({error.strerror})") from None
    return {id: folder / (id + end) for id in ids for end in (".png", ".xml") if id + end in present}


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds no document with a type declaration: that is where entities are declared, which can expand to gigabytes
    or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type declaration, which is refused")


def _read_scribbles(path: Path, size: tuple[int, int]) -> Iterator[Scribble]:
    return _drawn_scribbles(path, size) if path.suffix == ".png" else _listed_scribbles(path)


def _drawn_scribbles(path: Path, size: tuple[int, int]) -> Iterator[Scribble]:
    """Yield the lines on a mask as dots along their middle, to be drawn with a brush of 3 pixels again: what is left of
    one when a pixel is taken off on each side. Where nothing is left of a piece, it was thin, and all of it stays."""
    drawn = read_mask(path)
    if drawn.shape != size:
        raise InputError(f"{path}: has {drawn.shape[1]}x{drawn.shape[0]} pixels, its image {size[1]}x{size[0]}")
    for cls in sorted(set(np.unique(drawn).tolist()) - {UNLABELLED}):
        if cls >= len(CLASSES):
            raise InputError(f"{path}: value {cls} is neither a class 0..20 nor 255 (no line)")
        pieces, count = ndimage.label(drawn == cls, np.ones((3, 3)))
        middle = ndimage.binary_erosion(drawn == cls, np.ones((3, 3)))
        kept = set(np.unique(pieces[middle]).tolist())
        thin = np.isin(pieces, [piece for piece in range(1, count + 1) if piece not in kept])
        for y, x in np.argwhere(middle | thin).tolist():
            yield Scribble(((x + 0.5, y + 0.5),), cls)


def _listed_scribbles(path: Path) -> Iterator[Scribble]:
    """Yield the scribbles of `<annotation><polygon><tag>class</tag><point><X>1</X><Y>2</Y></point>...</polygon>...`;
    points are zero-based pixels. A polygon without points is none."""
    text = read_bytes(path)
    try:
        # S314 is about entities: none can be declared here
        root = ElementTree.fromstring(text, ElementTree.XMLParser(target=_NoDoctype()))  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: encodings
        raise InputError(f"{path}: not XML that can be read ({error})") from None
    polygons = root.findall("polygon")
    if not polygons:
        raise InputError(f"{path}: no <polygon> in <{root.tag}>, so these are no scribbles of ScribbleSup")
    for polygon in polygons:
        tag = polygon.findtext("tag", "").strip()
        if tag not in TAGS:
            raise unknown(f"{path}: tag", tag, TAGS)
        points: list[tuple[float, float]] = []
        for point in polygon.findall("point"):
            x, y = point.findtext("X", ""), point.findtext("Y", "")
            try:
                points.append((float(x), float(y)))
            except ValueError:
                raise InputError(f"{path}: {tag}: expected a point with numbers X and Y, got {x!r} and {y!r}") from None
        if points:
            yield Scribble(tuple(points), TAGS[tag])
