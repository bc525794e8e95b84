"""Cityscapes in the layout of its official downloads: 19 classes of street scenes, none of them a background."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from seminar.data import UNLABELLED, datasets
from seminar.data.files import existing, read_mask
from seminar.data.listed import Listed, OutsideClicks, divide, read_clicks
from seminar.spec import InputError

CLASSES = (
    *("road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation"),
    *("terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"),
)
"""The classes that are evaluated, in the order of their train ids (Cordts et al., CVPR 2016)."""
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""What the masks have for each of them; their other values are void."""
HIGHEST = 33
"""The highest value in the official masks."""
IMAGE = "_leftImg8bit.png"
MASKS = ("_gtFine_labelIds.png", "_gtFine_labelTrainIds.png")


@datasets.register("cityscapes")
class Cityscapes(Listed):
    """A folder with `leftImg8bit/<split>/<city>/<id>_leftImg8bit.png` and `gtFine/<split>/<city>/` with the masks
    `<id>_gtFine_labelIds.png`, as they are downloaded, or else `<id>_gtFine_labelTrainIds.png`, as the official scripts
    write them. An id is for example `aachen_000000_000019`.

    `root`: that folder. `labels`: a JSON file `{id: [{"x", "y", "cls"}, ...]}`, `cls` a train id 0..18; without it one
    click is simulated on each segment (a connected piece of a class, at least 0.3 % of the image), from
    `simulated_seed` and the id. `clicks_outside`: what a click outside its image is. `held_out`: n > 0 validates on
    every n-th training image and trains on the others, to choose settings by.
    """

    classes: tuple[str, ...] = CLASSES
    background: int | None = None

    def __init__(
        self,
        *,
        root: Path,
        labels: Path | None = None,
        simulated_seed: Annotated[int, Field(ge=0)] = 0,
        clicks_outside: OutsideClicks = "error",
        held_out: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        images = existing([root / "leftImg8bit"], "; data_root=DIR names the folder that holds it and gtFine")
        existing([root / "gtFine"], "; it is a download of its own (gtFine_trainvaltest)")
        self._files: dict[str, tuple[Path, Path]] = {}
        every = {split: self._find(root, split) for split in (("train",) if held_out else ("train", "val"))}
        ids = divide(every["train"], every.get("val"), held_out)
        found = {} if labels is None else {labels: read_clicks(labels, self._files, len(self.classes))}
        if labels is not None and not any(found[labels].get(id) for id in ids["train"]):
            raise InputError(f"{labels}: no image to train on has a click here, for example {ids['train'][0]!r}")
        super().__init__(ids, images, found, clicks_outside, (simulated_seed, 0) if labels is None else None)

    def _find(self, root: Path, split: str) -> list[str]:
        """Return the ids of a split, and remember their files."""
        folder = existing([root / "leftImg8bit" / split])
        ids: list[str] = []
        for path in sorted(folder.glob(f"*/*{IMAGE}")):
            id = path.name.removesuffix(IMAGE)
            beside = root / "gtFine" / split / path.parent.name
            self._files[id] = path, existing([beside / (id + ending) for ending in MASKS])
            ids.append(id)
        if not ids:
            raise InputError(f"{folder}: no image here (<city>/<id>{IMAGE})")
        return ids

    def files(self, id: str) -> tuple[Path, Path]:
        return self._files[id]

    def mask(self, id: str) -> NDArray[np.uint8]:
        path = self._files[id][1]
        if path.name.endswith(MASKS[1]):
            return super().mask(id)
        mask = read_mask(path)
        wrong = (mask > HIGHEST) & (mask != UNLABELLED)
        if wrong.any():
            raise InputError(f"{path}: value {mask[wrong].min()} is no id of Cityscapes, which end with {HIGHEST}")
        names = np.full(256, UNLABELLED, np.uint8)
        names[list(LABEL_IDS)] = np.arange(len(CLASSES))
        return names[mask]
