"""Any data set of images with dense masks, of any classes: simulated or real clicks on it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from seminar.data import PADDING, datasets
from seminar.data.files import IMAGES, existing, find_images, read_text
from seminar.data.listed import Listed, OutsideClicks, divide, read_clicks, read_ids, refuse_shared
from seminar.spec import InputError

NO_BACKGROUND = "none"
FOLDERS = (("images", "JPEGImages"), ("masks", "annotations", "SegmentationClass"))
"""What the folders of images and of masks are called."""


@datasets.register("masks")
class Masks(Listed):
    """A folder with `images/` (or `JPEGImages/`) and `masks/` (or `annotations/`, `SegmentationClass/`), `classes.txt`,
    and which images are which: lists `<name>.txt` of ids, there or in `ImageSets/Segmentation/`, or else folders
    `images/<name>/` with `masks/<name>/`, as ADE20K has them.

    An id is the path of an image below `images/` without its suffix, and the mask has the same path below `masks/`: a
    PNG of class indices in the order of `classes.txt`, 255 = void. `root`: that folder; `train_list`, `val_list`: names
    of the two lists or folders. `background`: the name of the class that is no object, or `none`.

    `labels`: a JSON file `{id: [{"x", "y", "cls"}, ...]}`, `clicks.json` in `root` if there is one; without it one
    click is simulated for each object (a connected piece of a class but the background, at least 0.3 % of the image),
    and `background_clicks` on the background, from `simulated_seed` and the id. `clicks_outside`: what a click outside
    its image is. `held_out`: n > 0 validates on every n-th training image and trains on the others, to choose settings
    by; the validation list is then unused. `boxes`: a table image,x0,y0,x1,y1,class, or a folder of VOC's `<id>.xml`;
    without it boxes are those of the objects of the masks.
    """

    def __init__(
        self,
        *,
        root: Path,
        labels: Path | None = None,
        boxes: Path | None = None,
        train_list: str = "train",
        val_list: str = "val",
        background: str = "background",
        background_clicks: Annotated[int, Field(ge=0)] = 3,
        simulated_seed: Annotated[int, Field(ge=0)] = 0,
        clicks_outside: OutsideClicks = "error",
        held_out: Annotated[int, Field(ge=0)] = 0,
    ) -> None:
        existing([root], "; data_root=DIR names the folder")
        images, masks = (existing([root / name for name in names]) for names in FOLDERS)
        self.classes = _read_classes(root / "classes.txt")
        self.background = None if background == NO_BACKGROUND else _find(root, background, self.classes)
        every = _ids(root, images, train_list)
        ids = divide(every, None if held_out else _ids(root, images, val_list), held_out)
        refuse_shared(root, ids, train_list, val_list)
        wanted = sorted({*ids["train"], *ids["val"]})
        known = {path.relative_to(images).with_suffix("").as_posix(): path for path in find_images(images)}
        self._files: dict[str, tuple[Path, Path]] = {}
        for id in wanted:
            if id not in known:
                raise InputError(f"{images / id}: no image of that name ({', '.join(IMAGES)})")
            self._files[id] = known[id], existing([masks / f"{id}.png"], ": every image needs a mask")
        given = labels or next((path for path in (root / "clicks.json",) if path.exists()), None)
        found = {} if given is None else {given: read_clicks(given, wanted, len(self.classes))}
        if given is not None and not any(found[given].get(id) for id in ids["train"]):
            raise InputError(f"{given}: no image to train on has a click here, for example {ids['train'][0]!r}")
        simulated = (simulated_seed, background_clicks) if given is None else None
        super().__init__(ids, images, found, clicks_outside, simulated, boxes)

    def files(self, id: str) -> tuple[Path, Path]:
        return self._files[id]

    def _identity(self) -> list[object]:
        return [self.classes, *super()._identity()]


def _read_classes(path: Path) -> tuple[str, ...]:
    names = [line.strip() for line in read_text(existing([path])).splitlines() if line.strip()]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"{path}: class {twice[0]!r} is in it twice")
    if not 2 <= len(names) <= PADDING:
        raise InputError(f"{path}: {len(names)} class(es); write 2 to {PADDING} names, one a line")
    strange = [name for name in names if not name.isprintable()]
    if strange:
        raise InputError(f"{path}: class {strange[0]!r} holds what cannot be printed")
    return tuple(names)


def _find(root: Path, background: str, classes: tuple[str, ...]) -> int:
    if background not in classes:
        raise InputError(
            f"{root / 'classes.txt'}: no class {background!r}; data_background=NAME names the class "
            f"that is no object, data_background={NO_BACKGROUND} says that there is none"
        )
    return classes.index(background)


def _ids(root: Path, images: Path, name: str) -> list[str]:
    found = read_ids((root, root / "ImageSets" / "Segmentation"), name)
    if found is None and (images / name).is_dir():
        found = [path.relative_to(images).with_suffix("").as_posix() for path in find_images(images / name)]
    if not found:
        raise InputError(f"{root / name}.txt: not found, and no picture in a folder {images / name} either")
    return found
