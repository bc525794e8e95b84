"""What data sets with a list of images, and a mask for each, have in common: VOC and others of its kind."""

from __future__ import annotations

import hashlib
import json
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from seminar.data import UNLABELLED, Box, Click, Example, Scribble, Split
from seminar.data.boxes import class_index, placed, read_boxes
from seminar.data.contents import digests
from seminar.data.files import (
    IMAGES,
    Examples,
    find_unusable,
    fit_into_memory,
    image_size,
    read_image,
    read_mask,
    read_text,
)
from seminar.data.simulated import simulate_clicks_cached
from seminar.spec import InputError

OutsideClicks = Literal["error", "drop"]
"""What a click outside its image is."""
Clicks = Mapping[str, tuple[Click, ...]]
"""Clicks by the id of their image."""


class Listed(ABC):
    """Images with a mask each, by id.

    `ids`: those of each split; `folder`: the one that all images lie in. `clicks`: those of each file of clicks; where
    there is no file, `simulated` is (seed, clicks on the background of each image), and the other clicks are one on
    each object of the mask. `boxes`: a table of boxes, or a folder of VOC's (see `read_boxes`); `class_names`: the
    index of each name that a class has there, by default `classes`. A subclass says which files belong to an id
    (`files`), and may say how a mask is read (`mask`) and which scribbles an image has (`scribbles`).

    Raises `InputError` for whatever is missing or malformed: here what needs no decoding, when an example is read what
    does.
    """

    classes: tuple[str, ...]
    background: int | None
    dense = True

    def __init__(
        self,
        ids: Mapping[Split, Sequence[str]],
        folder: Path,
        clicks: Mapping[Path, Clicks],
        clicks_outside: OutsideClicks,
        simulated: tuple[int, int] | None = None,
        boxes: Path | None = None,
        class_names: Mapping[str, int] | None = None,
    ) -> None:
        self._ids = {split: list(names) for split, names in ids.items()}
        self._folder, self._clicks, self._simulated = folder, clicks, simulated
        self._drop_outside = clicks_outside == "drop"
        self._box_file, self._class_names = boxes, class_names
        self._boxes = {} if boxes is None else read_boxes(boxes, self._ids["train"], _without_suffix)
        if boxes is not None and not self._boxes:
            raise InputError(f"{boxes}: no image to train on has a box here, for example {self._ids['train'][0]!r}")
        self._splits = {split: Examples(names, self.read, self._small) for split, names in self._ids.items()}

    @abstractmethod
    def files(self, id: str) -> tuple[Path, Path]:
        """Return the image and the mask of an id."""

    def mask(self, id: str) -> NDArray[np.uint8]:
        """Return (H, W) class indices, 255: void."""
        path = self.files(id)[1]
        mask = read_mask(path)
        wrong = (mask >= len(self.classes)) & (mask != UNLABELLED)
        if wrong.any():
            raise InputError(
                f"{path}: value {mask[wrong].min()} is neither a class 0..{len(self.classes) - 1} nor 255 (void)"
            )
        return mask

    def scribbles(self, id: str, width: int, height: int) -> Iterable[Scribble]:
        """Return the scribbles of an id; of most data sets there are none."""
        return ()

    def split(self, split: Split) -> Sequence[Example]:
        """Return the examples of a split, read when indexed; raises `InputError` for a file that cannot be used."""
        return self._splits[split]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits over ids, clicks of the training images, and the contents of all images and
        masks."""
        return hashlib.sha256(json.dumps(self._identity()).encode()).hexdigest()[:16]

    def _identity(self) -> list[object]:
        """Return what the fingerprint is made of; also the boxes of the training images, where a file is named."""
        clicks = [
            [(click.x, click.y, click.cls) for clicks in self._clicks.values() for click in clicks.get(id, ())]
            for id in self._ids["train"]
        ]
        files = [path for id in self._all_ids for path in self.files(id)]
        boxes = [] if self._box_file is None else [sorted(self._boxes.items())]
        return [self._ids, clicks, digests(files, self._folder), *boxes]

    def unusable(self) -> list[str]:
        """Return a line for each example that cannot be used, as `find_unusable` finds them."""
        return find_unusable(self._all_ids, self.read, self._glance, self._small)

    def _glance(self, id: str) -> None:
        """Check the headers of an example and its clicks; `read` checks all. Scribbles are not looked at: those that
        were drawn as a picture would have to be decoded."""
        image, mask = self.files(id)
        width, height = image_size(image)
        _check_mask_size(mask, image_size(mask), width, height)
        self._inside(id, width, height)
        self._placed(id, width, height)

    def read(self, id: str) -> Example:
        """Decode and check one example."""
        image_path, mask_path = self.files(id)
        image, mask = read_image(image_path), self.mask(id)
        height, width = image.shape[:2]
        _check_mask_size(mask_path, (mask.shape[1], mask.shape[0]), width, height)
        clicks = self._inside(id, width, height)
        if self._simulated is not None:
            seed, count = self._simulated
            clicks = simulate_clicks_cached(mask, self.background, count, seed, id)
        # permute makes no copy: channels stay innermost in memory, and torchvision resizes that several times faster.
        return Example(
            id=id,
            image=torch.from_numpy(image).permute(2, 0, 1),
            mask=torch.from_numpy(mask),
            clicks=tuple(clicks),
            scribbles=tuple(self.scribbles(id, width, height)),
            boxes=self._placed(id, width, height),
        )

    def _placed(self, id: str, width: int, height: int) -> tuple[Box, ...] | None:
        """Return the boxes of an example, None where no file of boxes is named. Raises `InputError`."""
        if self._box_file is None:
            return None
        where, names = f"{self._box_file}: {id}", self._class_names or self.classes
        return placed(where, self._boxes.get(id, ()), width, height, lambda name: class_index(where, name, names))

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
        return fit_into_memory(self.files(id)[0] for id in self._all_ids)


def divide(train: Sequence[str], val: Sequence[str] | None, held_out: int) -> dict[Split, list[str]]:
    """Return the ids of each split. `held_out`: n > 0 validates on every n-th training image and trains on the others,
    to choose settings by; `val` is then unused."""
    if not held_out:
        return {"train": list(train), "val": list(val or ())}
    learnt = [id for place, id in enumerate(train) if place % held_out]
    if not learnt:
        raise InputError(f"data_held_out={held_out}: all {len(train)} training images are held out")
    return {"train": learnt, "val": list(train[::held_out])}


def refuse_shared(root: Path, ids: Mapping[Split, Sequence[str]], train_list: str, val_list: str) -> None:
    """Raise `InputError` where an image is to train on and to validate on."""
    shared = sorted(set(ids["train"]) & set(ids["val"]))
    if shared:
        raise InputError(
            f"{root}: {len(shared)} image(s), first {shared[0]!r}, are in both lists, {train_list!r} for training and "
            f"{val_list!r} for validation; take them out of one"
        )


def read_ids(folders: Sequence[Path], name: str) -> list[str] | None:
    """Return the sorted ids of a list `<name>.txt` in the first of these folders that has it; None: none has."""
    path = next((folder / f"{name}.txt" for folder in folders if (folder / f"{name}.txt").exists()), None)
    if path is None:
        return None
    ids = sorted(line.strip() for line in read_text(path).splitlines() if line.strip())
    if not ids:
        raise InputError(f"{path}: the list is empty")
    for before, id in pairwise(ids):
        if before == id:
            raise InputError(f"{path}: {id} is listed twice")
    return ids


def _without_suffix(name: str) -> str:
    """Return the id of an image by its name, with or without its suffix."""
    return Path(name).with_suffix("").as_posix() if Path(name).suffix.lower() in IMAGES else name


def read_clicks(path: Path, ids: Iterable[str], classes: int) -> Clicks:
    """Return the clicks of the given ids that have an entry in a file `{id: [{"x", "y", "cls"}, ...]}`."""
    try:
        entries = json.loads(read_text(path))
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from None
    if not isinstance(entries, dict):
        raise InputError(f"{path}: expected an object {{image id: [click, ...]}}, got a {type(entries).__name__}")
    return {id: tuple(_entry(f"{path}: {id}", entries[id], classes)) for id in ids if id in entries}


def _entry(where: str, entry: object, classes: int) -> Iterator[Click]:
    if not isinstance(entry, list):
        raise InputError(f"{where}: expected a list of clicks, got {reprlib.repr(entry)}")
    for click in entry:
        match click:
            case {"x": int() | float() as x, "y": int() | float() as y, "cls": int() as cls}:
                if not 0 <= cls < classes:
                    raise InputError(f"{where}: click with cls {cls}, expected 0..{classes - 1}")
                yield Click(float(x), float(y), cls)
            case _:
                raise InputError(f"{where}: expected a click with numbers x, y and cls, got {reprlib.repr(click)}")


def _check_mask_size(path: Path, size: tuple[int, int], width: int, height: int) -> None:
    if size != (width, height):
        raise InputError(f"{path}: the mask has {size[0]}x{size[1]} pixels, its image {width}x{height}")
