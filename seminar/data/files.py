"""What data sets in folders share: finding files, reading them, and keeping what was read. All errors name the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from seminar.data import Example
from seminar.spec import InputError

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises for a picture that it cannot read; SyntaxError is for a broken PNG chunk."""
CACHE_BYTES = 10**9
"""Decoded images and masks are kept in memory when all of them together need fewer bytes than this."""


class Examples(Sequence[Example]):
    """The examples `ids`, read by `read` when indexed, and kept where `small()`."""

    def __init__(self, ids: Sequence[str], read: Callable[[str], Example], small: Callable[[], bool]) -> None:
        self._ids, self._read, self._small = ids, read, small
        self._kept: dict[str, Example] = {}

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        id = self._ids[index]
        if id in self._kept:
            return self._kept[id]
        example = self._read(id)
        if self._keep:
            self._kept[id] = example
        return example

    @cached_property
    def _keep(self) -> bool:
        return self._small()


def fit_into_memory(images: Iterable[Path]) -> bool:
    """Whether these images and their masks, decoded, fit into `CACHE_BYTES`. Reads headers, until they do not."""
    total = 0
    for path in images:
        try:
            with Image.open(path) as image:
                total += image.width * image.height * 4
        except UNREADABLE as error:
            raise _unreadable(path, error) from None
        if total >= CACHE_BYTES:
            return False
    return True


def existing(paths: Sequence[Path], hint: str = "") -> Path:
    """The first of `paths` that exists."""
    for path in paths:
        if path.exists():
            return path
    others = "".join(f" (nor {path.name})" for path in paths[1:])
    raise InputError(f"{paths[0]}: not found{others}{hint}")


def is_there(path: Path) -> bool:
    """Whether there is something of that name, be it a link that leads nowhere: reading it will tell."""
    return path.exists() or path.is_symlink()


def find_images(folder: Path) -> list[Path]:
    """The pictures in a folder and in those below it, but for a folder `masks`; sorted."""
    inside = (path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "masks")
    pictures = (path for path in inside if path.suffix.lower() in IMAGES)
    return sorted(check_name(path) for path in pictures if path.is_file() or not path.exists())  # see `is_there`


def check_name(path: Path) -> Path:
    """The path itself. Raises `InputError` for one whose name is no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the name is not in UTF-8 (of an old archive?); rename it") from None
    return path


def size_in_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_text(path: Path) -> str:
    """A text in UTF-8, with or without a mark at its beginning."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: is no text in UTF-8; save it as such") from None


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def read_image(path: Path, upright: bool = False) -> NDArray[np.uint8]:
    """(H, W, 3) RGB of any picture that PIL reads, 16 bits and CMYK too; `upright`: turned as its EXIF data say."""
    try:
        with Image.open(path) as file:
            image: Image.Image = file
            if upright:
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "F":
                raise ValueError("floating-point numbers of unknown range; save it with 8 or 16 bits")
            if image.mode.startswith("I"):  # 16 bits, which PIL would cut off at 255
                image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
            return np.array(image.convert("RGB"))
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def read_mask(path: Path) -> NDArray[np.uint8]:
    """(H, W) values of a palette or grey 8-bit picture, as stored."""
    try:
        with Image.open(path) as image:
            if image.mode in ("P", "L"):
                return np.array(image)
            mode = image.mode
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    raise InputError(f"{path}: a mask is a palette or grey 8-bit PNG, this one has mode {mode}")


def _unreadable(path: Path, error: Exception) -> InputError:
    # PIL's message for an unknown format repeats the path
    reason = "no known image format" if isinstance(error, UnidentifiedImageError) else error
    return InputError(f"{path}: unreadable image ({reason})")
