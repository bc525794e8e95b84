"""Your own photos: a folder of images, and what was clicked on them."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydantic import Field
from tqdm import tqdm

from seminar.data import NO_SCORE, PADDING, UNLABELLED, Box, Click, Example, Scribble, Split, datasets
from seminar.data.boxes import placed, read_boxes
from seminar.data.contents import digests
from seminar.data.files import (
    IMAGES,
    OTHERS,
    Examples,
    check_name,
    existing,
    find_linked,
    find_unreadable,
    find_unusable,
    fit_into_memory,
    image_size,
    is_resource_fork,
    is_there,
    read_image,
    read_mask,
    read_text,
    turned_hint,
)
from seminar.data.labels import Labels, Source
from seminar.data.named import Named, composed, label_files, name_of
from seminar.data.simulated import simulate_clicks_cached
from seminar.data.strokes import in_reach
from seminar.spec import InputError, Later, unknown

BACKGROUND = ("background", "bg", "_background_")
"""What the class `background` may be called."""
NO_BACKGROUND = "none"
VOID = ("void", "ignore", "__ignore__")
"""What a polygon may be called whose pixels are not evaluated."""

LOOKED_AT = 24
"""Images that stand in for validation images where there is no mask."""


class _NothingLeft(InputError):
    """No image to train on, none to validate on, or a single class."""


@datasets.register("folder")
class Folder:
    """A folder with

        images/       pictures of any size, also in folders below; without it those in the folder itself
        clicks.csv    image,x,y,class           and/or clicks.json: {image: [{"x", "y", "class"}, ...]}
        *.json        labelme's files, beside the images or in labelme/: points are clicks, lines scribbles, polygons,
                      rectangles and circles dense masks
        masks/        <image>.png, class indices (255: void)      to evaluate by, optional
        classes.txt   names, one a line, in the order of their numbers   needed with masks/ or where classes are numbers
        train.txt, val.txt   which images are which                optional

    An image goes by its path below the folder of images, with or without its suffix; x and y are pixels of the picture
    as it is seen, turned as its EXIF data say. Without lists the images with a mask and no label are for validation; if
    there are none, a share `val_share` of those with a mask. Which ones is decided by a hash of their names, so that it
    stays when others are added. Without any mask nothing can be scored, so all labelled images are trained on, and
    pictures are drawn of `LOOKED_AT` images without a label or, where all have one, of those that are trained on.
    Images without a label are not trained on.

    `root`: that folder; `labels`: another file or folder of labels, in any form of `seminar.data.labels`; `unlabelled`:
    in pictures of labels, the value of pixels without one; `masks`: another folder of masks; `boxes`: a table
    image,x0,y0,x1,y1,class, or a folder of VOC's `<image>.xml`, without which boxes are those of the objects of masks.
    `max_side`: images are made smaller until the longer side is no longer than this, 0: they stay as they are.
    `simulated`: n > 0: no labels are read, and every object of a mask (a connected piece of at least `SMALLEST` of the
    image) gets one click, every background n; drawn from `simulated_seed` and the name of the image. `clicks_outside`:
    what a click outside its image is. `background`: the name of the class that is no object, or `none` where every
    class is one, as in street scenes; the objects of `simulated` are then of all classes, and what no polygon covers is
    void. `held_out`: n > 0 validates on every n-th training image and trains on the
    others, to choose settings by.

    Raises `InputError` for whatever cannot be used; `seminar data check` lists all of it. A point of a line or an area
    may lie a little outside its image, as `in_reach` has it.
    """

    classes: tuple[str, ...]
    background: int | None

    def __init__(
        self,
        *,
        root: Path,
        labels: Path | None = None,
        masks: Path | None = None,
        boxes: Path | None = None,
        max_side: Annotated[int, Field(ge=0)] = 640,
        val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2,
        simulated: Annotated[int, Field(ge=0)] = 0,
        simulated_seed: Annotated[int, Field(ge=0)] = 0,
        clicks_outside: Literal["error", "drop"] = "error",
        held_out: Annotated[int, Field(ge=0)] = 0,
        background: Later[str] = BACKGROUND[0],
        unlabelled: Later[Literal["unknown", 0, 255]] = "unknown",
    ) -> None:
        self._max_side, self._drop_outside = max_side, clicks_outside == "drop"
        self._simulated, self._simulated_seed = simulated, simulated_seed
        existing([root], "; data_root=DIR names the folder")
        self._folder = root / "images" if (root / "images").is_dir() else root
        self._named = Named(self._folder, self.wrong)
        self._images = self._named.paths
        self._not_masks: list[Path] = []
        self._masks = self._find_masks(root, masks)
        self._labels: dict[str, Labels] = {}
        self._root = root
        self._label_files: list[Path] = []
        self._notes: list[str] = []
        self._unlabelled = None if unlabelled == "unknown" else unlabelled
        if not simulated:
            for path, meant in _label_files(root, labels):
                self._read_labels(check_name(path), meant)
        self._box_file = boxes
        self._boxes = {} if boxes is None else read_boxes(boxes, self._images, self._named.id)
        self._background = composed(background.strip())
        self.classes = self._name_classes(root)
        self.background = None if self._background == NO_BACKGROUND else self.classes.index(self._background)
        self._ids = self._divide(root, val_share, held_out)
        if len(self.classes) < 2:
            path, more = root, "click on objects as well" if self.background == 0 else "click on another class as well"
            if is_there(root / "classes.txt"):
                path, more = root / "classes.txt", "write the others as well, one a line"
            raise _NothingLeft(f"{path}: a single class, {self.classes[0]!r}; two are needed: {more}")
        self.dense = any(id in self._masks or self._labels.get(id, Labels()).areas for id in self._ids["train"])
        self._splits = {split: Examples(ids, self.read, self._small) for split, ids in self._ids.items()}

    @classmethod
    def problems(cls, **settings: Any) -> list[str]:
        """Return all that cannot be used, a line each. Reads every image."""
        found: list[str] = []

        class Lenient(cls):  # type: ignore[misc,valid-type]
            def wrong(self, text: str) -> None:
                found.append(text)

        try:
            data = Lenient(**settings)
        except InputError as error:
            # That nothing is left may only be what comes of the rest.
            return found if found and isinstance(error, _NothingLeft) else [*found, str(error)]
        for id in tqdm(data._images, desc="reading", unit="image", disable=not sys.stderr.isatty()):
            try:
                data.read(id)
            except InputError as error:
                found.append(str(error))
        return found

    def doubts(self) -> list[str]:
        """Return what can be used but may not be meant, a line each."""
        found: list[str] = []
        unused = sorted(set(self._images) - set(self._all_ids))
        if unused:
            found.append(f"images that are neither trained nor validated on: {_some(unused)}")
        unreadable = find_unreadable(self._folder)
        if unreadable:
            names = _some(path.name for path in unreadable)
            found.append(f"pictures that cannot be read, and are left out; convert them to JPEG or PNG: {names}")
        tiny = [click for labels in self._labels.values() for click in labels.clicks if max(click[:2]) <= 1]
        if len(tiny) > 3 and len(tiny) == sum(len(labels.clicks) for labels in self._labels.values()):
            found.append(
                f"all {len(tiny)} clicks lie in the first pixel, x and y in 0..1: are they shares of the width and "
                "height? Multiply them by the size of the image, they are pixels here"
            )
        alike = [list(same) for _, same in groupby(sorted(self.classes, key=str.casefold), str.casefold)]
        found += [
            f"classes {' and '.join(map(repr, same))} differ in case alone; if they are one, write them alike"
            for same in alike
            if len(same) > 1
        ]
        found += self._contradictions()
        linked = find_linked(self._root)
        if linked:
            names = _some(path.relative_to(self._root).as_posix() for path in linked)
            found.append(f"links to folders, which are not followed: {names}; move the folders here")
        found += self._unseen()
        if not any(id in self._masks or self._labels.get(id, Labels()).areas for id in self._ids["val"]):
            found.append(NO_SCORE)
        others = self._unused_files()
        if others:
            found.append(f"files that nothing reads: {_some(others)}")
        if self._not_masks:
            found.append(f"no masks, which are PNG files: {_some(path.name for path in self._not_masks)}")
        # A table of clicks beside a file of scribbles is nothing special; two files of one kind may be one by mistake.
        kinds = {id: [path.suffix.lower() for path in labels.sizes] for id, labels in self._labels.items()}
        twice = [id for id, suffixes in kinds.items() if len(set(suffixes)) < len(suffixes)]
        if twice:
            found.append(f"images with several files of labels, all of which count: {_some(twice)}")
        boxes = sum(kind == "rectangle" for labels in self._labels.values() for _, kind, _ in labels.areas)
        if boxes:
            found.append(f"{boxes} rectangles count as masks: every pixel in them is taken to be of their class")
        return [*found, *self._notes]

    def _contradictions(self) -> list[str]:
        """Return a line for each pixel that is clicked as several classes."""
        clicked: dict[tuple[str, int, int], set[int]] = {}
        for id, labels in sorted(self._labels.items()):
            for x, y, name in labels.clicks:
                with suppress(InputError):  # outside its image a click may be of any class
                    clicked.setdefault((id, int(x), int(y)), set()).add(self._class(id, name))
        several = [(*place, [self.classes[cls] for cls in sorted(found)]) for place, found in clicked.items()]
        return [
            f"pixel x={x} y={y} of {id} is clicked as {' and as '.join(names)}; delete the wrong click"
            for id, x, y, names in several
            if len(names) > 1
        ]

    def _unseen(self) -> list[str]:
        """Return a line for each class that has labels and is in no mask; [] where masks would have to be read from
        disk for it."""
        masked = [id for id in self._all_ids if id in self._masks]
        if not masked or not self._small():
            return []
        counts = np.zeros(256, np.int64)
        for id in masked:
            with suppress(InputError):  # named by `unusable`
                counts += np.bincount(read_mask(self._masks[id]).ravel(), minlength=256)
        void = 100 * counts[UNLABELLED] / max(1, counts.sum())
        hint = f"; {void:.0f} % of the pixels are 255, which means void: classes are 1, 2, ..." if void >= 1 else ""
        labelled = {self._class(id, name) for id, labels in self._labels.items() for name in _names(labels)}
        unseen = [self.classes[index] for index in sorted(labelled) if not counts[index]]
        return [f"class {name!r} has no pixel in any mask{hint}" for name in unseen]

    def _unused_files(self) -> list[str]:
        """Return the names of files below the folder that are no part of the data set and no picture or mask."""
        known = {self._root / name for name in ("classes.txt", "train.txt", "val.txt", "clicks.csv", "clicks.json")}
        known |= {*self._images.values(), *self._masks.values(), *self._not_masks, *self._label_files}
        known |= set() if self._box_file is None else {self._box_file}
        pictures = (*IMAGES, *OTHERS)
        return [
            path.relative_to(self._root).as_posix()
            for path in sorted(self._root.rglob("*"))
            if path.is_file()
            and path not in known
            and not path.name.startswith((".", "contact-sheet", "Thumbs.db", "desktop.ini", "README"))
            and path.suffix.lower() not in pictures
        ]

    def unusable(self) -> list[str]:
        """Return a line for each example that cannot be used, as `find_unusable` finds them."""
        return find_unusable(self._all_ids, self.read, self._glance, self._small)

    def wrong(self, text: str) -> None:
        """What is done about something that cannot be used."""
        raise InputError(text)

    def split(self, split: Split) -> Sequence[Example]:
        """Return the examples of a split, read when indexed; raises `InputError` for a file that cannot be used."""
        return self._splits[split]

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits over classes, ids, labels, and the contents of all images and masks."""
        labels = [
            [label.clicks, label.scribbles, label.areas, label.size]
            for label in (self._labels.get(id, Labels()) for id in self._all_ids)
        ]
        files = [path for id in self._all_ids for path in (self._images[id], self._masks.get(id)) if path]
        data: list[object] = [self.classes, self._ids, labels, digests(files, self._folder)]
        if self._box_file is not None:
            data.append(sorted(self._boxes.items()))
        return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]

    def read(self, id: str) -> Example:
        """Decode and check one example, at the size that it is used at."""
        image = read_image(self._images[id], upright=True)
        height, width = image.shape[:2]
        labels = self._labels.get(id, Labels())
        self._check_sizes(id, labels, width, height)
        mask = self._mask(id, labels, width, height)
        clicks = list(self._clicks(id, labels, width, height))
        if self._simulated:
            clicks = simulate_clicks_cached(mask, self.background, self._simulated, self._simulated_seed, id)
        scribbles = list(self._scribbles(id, labels, width, height))
        boxes = self._placed(id, width, height)
        scale = min(1.0, self._max_side / max(width, height)) if self._max_side else 1.0
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            image = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0))
            mask = np.array(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST))
            fx, fy = size[0] / width, size[1] / height
            # Rounding may bring a click near the edge onto it, which is outside.
            right, bottom = np.nextafter(size[0], 0), np.nextafter(size[1], 0)
            clicks = [
                Click(float(min(click.x * fx, right)), float(min(click.y * fy, bottom)), click.cls) for click in clicks
            ]
            scribbles = [Scribble(tuple((x * fx, y * fy) for x, y in s.points), s.cls) for s in scribbles]
            if boxes is not None:
                boxes = tuple(Box(b.x0 * fx, b.y0 * fy, b.x1 * fx, b.y1 * fy, b.cls) for b in boxes)
        return Example(
            id=id,
            image=torch.from_numpy(image).permute(2, 0, 1),
            mask=torch.from_numpy(mask),
            clicks=tuple(clicks),
            scribbles=tuple(scribbles),
            boxes=boxes,
        )

    def _placed(self, id: str, width: int, height: int) -> tuple[Box, ...] | None:
        """Return the boxes of an image, None where no file of boxes is named."""
        if self._box_file is None:
            return None
        where = f"{self._box_file}: {id}"
        try:
            return placed(where, self._boxes.get(id, ()), width, height, lambda name: self._class(where, name))
        except InputError as error:
            self.wrong(str(error))
            return ()

    def _glance(self, id: str) -> None:
        """Check what the headers and the labels of an example show; `read` checks all."""
        width, height = image_size(self._images[id], upright=True)
        labels = self._labels.get(id, Labels())
        self._check_sizes(id, labels, width, height)
        if id in self._masks:
            self._check_mask_size(id, image_size(self._masks[id]), width, height)
        self._placed(id, width, height)
        for _ in (*self._clicks(id, labels, width, height), *self._scribbles(id, labels, width, height)):
            pass

    def _check_sizes(self, id: str, labels: Labels, width: int, height: int) -> None:
        for path, size in labels.sizes.items():
            if size is not None and size != (width, height):
                hint = turned_hint(self._images[id], size, (width, height))
                drawn = "x".join(map(str, size))
                self.wrong(f"{path}: drawn on {drawn} pixels, but {self._images[id]} has {width}x{height}{hint}")

    def _check_mask_size(self, id: str, size: tuple[int, int], width: int, height: int) -> bool:
        if size != (width, height):
            hint = turned_hint(self._images[id], size, (width, height))
            self.wrong(f"{self._masks[id]}: has {size[0]}x{size[1]} pixels, its image {width}x{height}{hint}")
        return size == (width, height)

    def _find_masks(self, root: Path, folder: Path | None) -> dict[str, Path]:
        if folder is not None and not existing([folder]).is_dir():
            raise InputError(f"{folder}: is no folder of masks")
        folder = folder or root / "masks"
        if is_there(folder) and not folder.is_dir():
            self.wrong(f"{folder}: is no folder of masks")
        found: dict[str, Path] = {}
        for path in sorted(map(check_name, folder.rglob("*"))):
            if is_resource_fork(path):
                continue
            if path.suffix.lower() != ".png":
                self._not_masks += [path] if path.suffix.lower() in IMAGES else []
                continue
            name = name_of(path, folder)
            id = self._named.id(name)
            if id is None:
                self.wrong(self._named.missing(path, name))
                continue
            if id in found:
                self.wrong(f"{path}: {found[id].name} has the same name, with its accents or suffix written otherwise")
            found[id] = path
        return found

    def _read_labels(self, path: Path, meant: bool) -> None:
        """Take over what a file has for each image; a file in no form that is known is left to `_unused_files`."""
        source = Source(path, self.wrong, self._notes.append, self._unlabelled, meant)
        found = self._named.labels(source)
        if found is None:
            return
        self._label_files.append(path)
        for id, labels in found:
            self._labels.setdefault(id, Labels()).add(labels)

    def _name_classes(self, root: Path) -> tuple[str, ...]:
        path = root / "classes.txt"
        used = {composed(name) for labels in self._labels.values() for name in _names(labels)}
        used |= {composed(name) for boxes in self._boxes.values() for _, name in boxes}
        ground = [] if self._background == NO_BACKGROUND else [self._background]
        if not is_there(path):
            numbers = sorted(name for name in used if name.isdecimal())
            if numbers or self._masks:
                why = f"class {numbers[0]} is a number" if numbers else f"the masks in {root} hold numbers"
                raise InputError(
                    f"{path}: not found, but {why}; write the names, one a line, in the order of their numbers"
                )
            path, names = root, [*ground, *sorted(name for name in used if not self._is_background(name))]
        else:
            names = [composed(line.strip()) for line in read_text(path).splitlines() if line.strip()]
            same = [place for place, name in enumerate(names) if self._is_background(name)]
            if ground and not same:
                raise InputError(
                    f"{path}: no class {ground[0]!r}; data_background=NAME names the class that is no object, "
                    "data_background=none says that there is none"
                )
            for place in same[:1]:
                names[place] = ground[0]
            twice = [names[place] for place in same[1:]] + [name for name in names if names.count(name) > 1]
            if twice:
                raise InputError(f"{path}: class {twice[0]!r} is in it twice; delete one of the two lines")
        if len(names) > PADDING:
            raise InputError(
                f"{path}: {len(names)} classes, but a mask can hold {PADDING}; keep the classes that are clicked on"
            )
        strange = [name for name in names if not name.isprintable()]
        if strange:
            raise InputError(
                f"{path}: class {strange[0]!r} holds a character that cannot be printed; type the name again"
            )
        return tuple(names)

    def _is_background(self, name: str) -> bool:
        """Return whether a name is that of the background; the usual one has several forms."""
        usual = self._background == BACKGROUND[0] and name.lower() in BACKGROUND
        return usual or (name == self._background != NO_BACKGROUND)

    def _class(self, id: str, name: str) -> int:
        name = composed(name)
        if self.background is not None and self._is_background(name):
            return self.background
        if name in self.classes:
            return self.classes.index(name)
        if name.isdecimal() and len(name) <= len(str(PADDING)) and int(name) < len(self.classes):
            return int(name)
        raise unknown(f"{id}: class", name, self.classes)

    def _divide(self, root: Path, val_share: float, held_out: int) -> dict[Split, list[str]]:
        lists = {split: self._list(root / f"{split}.txt") for split in ("train", "val")}
        labelled = {
            id: None  # a set that keeps its order
            for id in self._images
            if (self._simulated and id in self._masks)
            or (id in self._labels and (self._labels[id].clicks or self._labels[id].scribbles))
            or id in self._boxes
        }
        train, val = lists["train"], lists["val"]
        masked = {id for id in self._images if id in self._masks or self._labels.get(id, Labels()).areas}
        both = sorted(set(train or ()) & set(val or ()))
        if both:
            raise InputError(f"{root}: {both[0]!r} is in train.txt and in val.txt")
        if val is None and masked:
            free = _shuffled(masked - set(train or ()))
            val = sorted(set(free) - set(labelled)) or sorted(free[: max(1, round(val_share * len(free)))])
        if train is None:
            reserved = set(val or ())
            train = [id for id in labelled if id not in reserved]
        if val is None:
            val = sorted(_shuffled(set(self._images) - set(labelled) or set(train))[:LOOKED_AT])
        train = [id for id in train if id in labelled]
        if held_out and train:
            train, val = [id for place, id in enumerate(train) if place % held_out], train[::held_out]
            if not train:
                raise _NothingLeft(f"{root}: data_held_out={held_out} leaves no image to train on")
        if lists["train"] == []:
            raise _NothingLeft(f"{root / 'train.txt'}: names no image")
        if not train and labelled and lists["train"] is None:
            raise _NothingLeft(
                f"{root}: every image with a click or a scribble ({len(labelled)}) is to validate on, none to train on"
            )
        if not train or not val:
            missing = "to train on has a click or a scribble" if not train else "is left to validate on"
            others = [] if labelled else self._unused_files()
            missing += f"; nothing reads these files: {_some(others)}" if others else ""
            raise _NothingLeft(f"{root}: none of {len(self._images)} images {missing}")
        return {"train": train, "val": val}

    def _list(self, path: Path) -> list[str] | None:
        if not is_there(path):
            return None
        ids: set[str] = set()
        for name in read_text(path).splitlines():
            if not name.strip():
                continue
            id = self._named.id(name.strip())
            if id is None:
                self.wrong(self._named.missing(path, name.strip()))
            elif id in ids:
                self.wrong(f"{path}: {id} is listed twice")
            else:
                ids.add(id)
        return sorted(ids)

    def _mask(self, id: str, labels: Labels, width: int, height: int) -> NDArray[np.uint8]:
        """Return the dense mask of an image: its file, else its areas, else nothing but void."""
        if id in self._masks:
            mask = read_mask(self._masks[id])
            if not self._check_mask_size(id, (mask.shape[1], mask.shape[0]), width, height):
                return np.full((height, width), UNLABELLED, np.uint8)
            strange = (mask >= len(self.classes)) & (mask != UNLABELLED)
            if strange.any():
                top = len(self.classes) - 1
                self.wrong(f"{self._masks[id]}: value {mask[strange].min()} is neither a class 0..{top} nor 255 (void)")
            return mask
        if not labels.areas:
            return np.full((height, width), UNLABELLED, np.uint8)
        canvas = Image.new("L", (width, height), UNLABELLED if self.background is None else self.background)
        draw = ImageDraw.Draw(canvas)
        for name, kind, points in labels.areas:
            value = UNLABELLED if name.lower() in VOID else self._class(id, name)
            if not all(in_reach(point, width, height) for point in points):
                self.wrong(
                    f"{id}: a {'mask' if kind == 'runs' else kind} ({name}) goes far outside the {width}x{height} image"
                )
                continue
            if kind == "polygon":
                draw.polygon(points, fill=value)
            elif kind == "runs":
                for first, last in zip(points[::2], points[1::2]):
                    draw.line((first, last), fill=value)
            else:
                (x0, y0), (x1, y1) = points
                if kind == "circle":
                    radius = float(np.hypot(x1 - x0, y1 - y0))
                    x0, y0, x1, y1 = x0 - radius, y0 - radius, x0 + radius, y0 + radius
                box = (min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1))
                (draw.ellipse if kind == "circle" else draw.rectangle)(box, fill=value)
        return np.array(canvas)

    def _clicks(self, id: str, labels: Labels, width: int, height: int) -> Iterator[Click]:
        for x, y, name in labels.clicks:
            if 0 <= x < width and 0 <= y < height:
                yield Click(x, y, self._class(id, name))
            elif not self._drop_outside:
                stored = 0 <= x < height and 0 <= y < width
                hint = turned_hint(self._images[id], (height, width), (width, height)) if stored else ""
                self.wrong(
                    f"{id}: click x={x:g} y={y:g} ({name}) is outside the {width}x{height} image{hint}; "
                    "data_clicks_outside=drop leaves such clicks out"
                )

    def _scribbles(self, id: str, labels: Labels, width: int, height: int) -> Iterator[Scribble]:
        for points, name in labels.scribbles:
            for near, run in groupby(points, lambda point: in_reach(point, width, height)):
                if near:
                    yield Scribble(tuple(run), self._class(id, name))
                elif not self._drop_outside:
                    x, y = next(run)
                    self.wrong(
                        f"{id}: scribble point x={x:g} y={y:g} ({name}) is far outside the {width}x{height} image; "
                        "data_clicks_outside=drop leaves such points out"
                    )

    @cached_property
    def _all_ids(self) -> list[str]:
        return sorted({*self._ids["train"], *self._ids["val"]})

    def _small(self) -> bool:
        return fit_into_memory(self._images[id] for id in self._all_ids)


def _label_files(root: Path, given: Path | None) -> Iterable[tuple[Path, bool]]:
    """Return the files that may hold labels, and whether somebody says that they do."""
    if given is not None:
        inside = label_files(given) or sorted(given.rglob("*.png")) if given.is_dir() else [existing([given])]
        return [(path, True) for path in inside]
    named = [path for path in (root / "clicks.csv", root / "clicks.json") if is_there(path)]
    others = [path for path in label_files(root) if path not in named]
    return [*((path, True) for path in named), *((path, False) for path in others)]


def _shuffled(ids: Iterable[str]) -> list[str]:
    """Return ids in an order that stays when others are added."""
    return sorted(ids, key=lambda id: hashlib.sha256(id.encode()).digest())


def _names(labels: Labels) -> set[str]:
    """Return the classes of which something is drawn."""
    drawn = [name for *_, name in labels.clicks] + [name for _, name in labels.scribbles]
    return {*drawn, *(name for name, _, _ in labels.areas if name.lower() not in VOID)}


def _some(names: Iterable[str]) -> str:
    """Return how many they are, and the first of them."""
    known = sorted(names)
    return f"{len(known)}, for example {', '.join(known[:3])}"
