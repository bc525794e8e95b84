"""PASCAL VOC 2012 (with or without the SBD masks), its clicks and its scribbles, read from folders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field
from scipy import ndimage

from seminar.data import UNLABELLED, Scribble, datasets
from seminar.data.contents import digests
from seminar.data.files import existing, read_mask
from seminar.data.labels import parse_xml
from seminar.data.listed import Listed, OutsideClicks, divide, read_clicks, read_ids, refuse_shared
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
class Voc(Listed):
    """A folder with `JPEGImages/<id>.jpg`, `SegmentationClassAug/` or else `SegmentationClass/<id>.png` (palette or
    grey PNG: 0..20, 255 = void) and id lists `<name>.txt`, there or in `ImageSets/Segmentation[Aug]/`.

    `root`: that folder, for example `VOCdevkit/VOC2012`. `clicks_fg`, `clicks_bg`: JSON files
    `{id: [{"x", "y", "cls"}, ...]}`, by default looked for in `root` under either of their usual names; an id without
    an entry has no clicks. `scribbles`: a folder of ScribbleSup annotations `<id>.xml`, or of lines drawn on a mask
    `<id>.png` (255: no line); without it there are none, and an id without a file has none. `boxes`: VOC's folder
    `Annotations`, or a table image,x0,y0,x1,y1,class; without it boxes are those of the pieces of the masks.
    `train_list`, `val_list`:
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
    background: int | None = 0

    def __init__(
        self,
        *,
        root: Path,
        clicks_fg: Path | None = None,
        clicks_bg: Path | None = None,
        scribbles: Path | None = None,
        boxes: Path | None = None,
        train_list: str = "train",
        val_list: str = "val",
        clicks_outside: OutsideClicks = "error",
        held_out: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        folder = existing([root], "; data_root=DIR names the folder, `seminar data voc` makes one")
        self._images = existing([folder / "JPEGImages"])
        self._masks = existing([root / "SegmentationClassAug", root / "SegmentationClass"])
        every = _read_ids(root, train_list)
        ids = divide(every, None if held_out else _read_ids(root, val_list), held_out)
        refuse_shared(root, ids, train_list, val_list)
        wanted = sorted({*ids["train"], *ids["val"]})
        for folder, suffix in ((self._images, ".jpg"), (self._masks, ".png")):
            present = {path.name for path in folder.iterdir()}
            missing = [id for id in wanted if id + suffix not in present]
            if missing:
                more = f", and {len(missing) - 1} more of the listed ids" if missing[1:] else ""
                raise InputError(f"{folder / (missing[0] + suffix)}: no such file{more}")
        fg, bg = (
            given or existing([root / name for name in names], f"; {setting} can name another file")
            for given, names, setting in zip((clicks_fg, clicks_bg), CLICK_FILES, ("data_clicks_fg", "data_clicks_bg"))
        )
        clicks = {path: read_clicks(path, wanted, len(CLASSES)) for path in (fg, bg)}
        if not any(found.get(id) for found in clicks.values() for id in ids["train"]):
            raise InputError(
                f"{fg}: none of the images in list {train_list!r} has a click in it or in {bg}; are the files of this "
                "data set, and are its ids written the same way?"
            )
        self._scribbles = None if scribbles is None else _find_scribbles(scribbles, wanted)
        if self._scribbles is not None and not any(id in self._scribbles for id in ids["train"]):
            raise InputError(
                f"{scribbles}: no id of the list {train_list!r} has scribbles (a file <id>.xml or <id>.png) here"
            )
        super().__init__(ids, self._images, clicks, clicks_outside, boxes=boxes, class_names=TAGS)

    def files(self, id: str) -> tuple[Path, Path]:
        return self._images / f"{id}.jpg", self._masks / f"{id}.png"

    def _identity(self) -> list[object]:
        """Return what the fingerprint is made of; also, where a folder of scribbles is named, its files for the
        training images."""
        data = super()._identity()
        if self._scribbles is not None:
            drawn = {id: self._scribbles[id] for id in self._ids["train"] if id in self._scribbles}
            data.append(dict(zip(drawn, digests(drawn.values(), self._images.with_name("scribbles")))))
        return data

    def scribbles(self, id: str, width: int, height: int) -> Iterator[Scribble]:
        if self._scribbles is None or id not in self._scribbles:
            return
        for whole in _read_scribbles(self._scribbles[id], (height, width)):
            # A line is cut where it leaves what is in reach, and where it comes back.
            for near, run in groupby(whole.points, lambda point: in_reach(point, width, height)):
                if near:
                    yield Scribble(tuple(run), whole.cls)
                elif not self._drop_outside:
                    x, y = next(run)
                    raise InputError(
                        f"{self._scribbles[id]}: scribble point x={x} y={y} is far outside"
                        f" the {width}x{height} image; data_clicks_outside=drop leaves such points out"
                    )


def _read_ids(root: Path, name: str) -> list[str]:
    folders = (root, root / "ImageSets" / "Segmentation", root / "ImageSets" / "SegmentationAug")
    found = read_ids(folders, name)
    if found is None:
        raise InputError(f"{root / name}.txt: not found (nor in ImageSets/Segmentation or ImageSets/SegmentationAug)")
    return found


def _find_scribbles(folder: Path, ids: Iterable[str]) -> dict[str, Path]:
    """Return the annotation file of each of the given ids that has one."""
    try:
        present = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise InputError(f"{folder}: not a folder that can be read ({error.strerror})") from None
    return {id: folder / (id + end) for id in ids for end in (".png", ".xml") if id + end in present}


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
    root = parse_xml(path)
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
