"""What data sets in folders share: finding files, reading them, and keeping what was read. All errors name the file."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import ImageFile
from tqdm import tqdm

from seminar.data import Example
from seminar.spec import InputError
from seminar.text import plain

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
OTHERS = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".psd", ".svg", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw")
"""Ends of the names of pictures that cannot be read here; convert them to JPEG or PNG."""
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
"""What is tried to read a picture. PIL knows 40 more by their content, and would start Ghostscript for a PostScript
program in a file photo.jpg."""
MOST_PIXELS = 150_000_000
"""Pixels of the largest picture that is read: some twice those of the largest cameras. A file of a few kilobytes can
claim more than fits into memory."""
LONGEST_SIDE = 32_767
LONGEST_SHAPE = 500
"""How many times as long as the other a side may be: images are scaled by their short side, so a line of pixels would
become a picture of gigabytes."""
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What PIL raises for a picture that it cannot read; SyntaxError is for a broken PNG chunk."""
CACHE_BYTES = 10**9
"""Decoded images and masks are kept in memory when all of them together need fewer bytes than this."""

CONFIRMED = 10
"""So many of the problems that a glance finds are confirmed by reading the example; reading all could take minutes."""


class Unusable(InputError):
    """An example that cannot be used. Every training on its data set meets it."""

    def __init__(self, text: str) -> None:
        # Where a loader worker of torch raises it, torch makes it again with the worker's traceback before the message.
        super().__init__(text.strip().split("\n")[-1].removeprefix(f"{__name__}.{type(self).__name__}: "))


class Examples(Sequence[Example]):
    """The examples `ids`, read by `read` when indexed, and kept where `small()`. Raises `Unusable`."""

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
        try:
            example = self._read(id)
            if self._keep:
                self._kept[id] = example
        except InputError as error:
            raise Unusable(str(error)) from None
        return example

    @cached_property
    def _keep(self) -> bool:
        return self._small()


def fit_into_memory(images: Iterable[Path]) -> bool:
    """Return whether these images and their masks, decoded, fit into `CACHE_BYTES`. Reads headers, until they do
    not."""
    total = 0
    for path in images:
        try:
            with open_picture(path) as image:
                total += image.width * image.height * 4
        except UNREADABLE as error:
            raise _unreadable(path, error) from None
        if total >= CACHE_BYTES:
            return False
    return True


def find_unusable(
    ids: Sequence[str], read: Callable[[str], object], glance: Callable[[str], object], small: Callable[[], bool]
) -> list[str]:
    """Return a line for each of the examples `ids` that cannot be used.

    `read` each one where all are `small()`, as training will: that takes seconds. Else only `glance` at each, which
    finds what headers, ends of files and labels show: a file that is no image or is cut off, a mask of another size, a
    click outside its image. It does not find damage in the middle of a picture, nor a wrong value in a mask. For 10,000
    images of VOC's size it took 2 seconds, files in memory; decoding them takes a minute or more.
    """
    try:
        whole = small()
    except InputError:  # of an unreadable header, which a glance finds as well
        whole = False
    found: list[str] = []

    def look(id: str) -> None:
        try:
            glance(id)
        except InputError:
            if len(found) >= CONFIRMED:
                raise
            read(id)  # the header alone can mislead, see `image_size`

    for id in tqdm(ids, desc="checking the data", unit="image", disable=not sys.stderr.isatty(), leave=False):
        try:
            (read if whole else look)(id)
        except InputError as error:
            found.append(str(error))
    return found


def existing(paths: Sequence[Path], hint: str = "") -> Path:
    """Return the first of `paths` that exists. Raises `InputError` where none does; `hint` ends the message."""
    for path in paths:
        if path.exists():
            return path
    others = "".join(f" (nor {path.name})" for path in paths[1:])
    raise InputError(f"{paths[0]}: not found{others}{hint}")


def is_there(path: Path) -> bool:
    """Return whether something of that name exists, or a link that leads nowhere: reading it will show which."""
    return path.exists() or path.is_symlink()


def find_images(folder: Path) -> list[Path]:
    """Return the pictures in a folder and in those below it, but for a folder `masks`; sorted."""
    inside = (path for path in folder.rglob("*") if path.relative_to(folder).parts[0] != "masks")
    pictures = (path for path in inside if path.suffix.lower() in IMAGES and not is_resource_fork(path))
    return sorted(check_name(path) for path in pictures if path.is_file() or not path.exists())  # see `is_there`


def is_resource_fork(path: Path) -> bool:
    """Return whether a file is what macOS writes beside a file on other file systems: `._photo.jpg`, no picture."""
    return path.name.startswith("._")


def find_unreadable(folder: Path) -> list[Path]:
    """Return the pictures in a folder and in those below it that are in a format that nothing here reads; sorted."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in OTHERS and not is_resource_fork(path))


def find_linked(folder: Path) -> list[Path]:
    """Return the links to folders in a folder and in those below it; sorted. They are not followed, for one may lead
    back to where it lies."""
    return sorted(path for path in folder.rglob("*") if path.is_symlink() and path.is_dir())


def check_name(path: Path) -> Path:
    """Return the path itself. Raises `InputError` for one whose name is no text."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InputError(f"{path}: the name is not in UTF-8 (of an old archive?); rename it") from None
    if "\n" in str(path):  # what follows could pass for another line of ours
        raise InputError(f"{plain(path)}: the name holds a line break; rename it")
    return path


def read_text(path: Path) -> str:
    """Return a text in UTF-8, with or without a mark at its beginning."""
    try:
        return read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}: is no text in UTF-8 (byte 0x{error.object[error.start]:02x} in line {line}); save it in UTF-8: "
            "in Excel as CSV UTF-8, elsewhere where the encoding is asked for"
        ) from None


def read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None


def open_picture(path: Path) -> ImageFile:
    """Open a picture without decoding it; only the formats of `FORMATS` are tried. Raises `ValueError` for one of a
    size that cannot be meant, and what PIL raises (`UNREADABLE`)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of a limit that is another than ours
        image = Image.open(path, formats=FORMATS)
    width, height = image.size
    if width * height > MOST_PIXELS or max(width, height) > LONGEST_SIDE:
        image.close()
        raise ValueError(
            f"{width}x{height} pixels are more than a photo has; the most are {MOST_PIXELS:,} pixels and "
            f"{LONGEST_SIDE:,} a side: scale it down"
        )
    if max(width, height) > LONGEST_SHAPE * min(width, height):
        image.close()
        raise ValueError(f"{width}x{height} pixels are no photo: one side is more than {LONGEST_SHAPE} times the other")
    return image


def read_image(path: Path, upright: bool = False) -> NDArray[np.uint8]:
    """Return (H, W, 3) RGB of any picture that PIL reads, 16 bits and CMYK too; `upright`: turned as its EXIF data
    say."""
    try:
        with open_picture(path) as file:
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


def image_size(path: Path, upright: bool = False) -> tuple[int, int]:
    """Return width and height by the header of a picture; `upright`: turned as its EXIF data say. Raises `InputError`
    for one that is no image, and one that looks cut off."""
    try:
        with open_picture(path) as image:
            width, height = image.size
            # PIL decodes a whole PNG to look for EXIF data behind the picture.
            known = upright and (image.format != "PNG" or "exif" in image.info)
            turned = known and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            end = _ENDS.get(image.format or "")
        if end is not None and not _ends_with(path, end):
            raise OSError("it is cut off")
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    return (height, width) if turned else (width, height)


def is_turned(path: Path) -> bool:
    """Return whether the EXIF data of a picture say that it is to be turned or mirrored."""
    try:
        with open_picture(path) as image:
            return image.getexif().get(ExifTags.Base.Orientation, 1) not in (0, 1)
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def turned_hint(path: Path, size: tuple[int, int], has: tuple[int, int]) -> str:
    """Return the end of a message that what belongs to the picture `path` has `size` (width, height), and the picture,
    upright, `has`: the cause where its EXIF data turn it, else nothing."""
    if size != has[::-1] or not is_turned(path):
        return ""
    return f"; the EXIF data of {path.name} turn it: turn this as the picture is seen, or remove its orientation"


_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
"""What marks the end of a picture in a file of a format."""


def _ends_with(path: Path, mark: bytes) -> bool:
    """Return whether `mark` is near the end of a file; in its second half is enough, for phones append films."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for length in (min(size, 2**16), size // 2):
            file.seek(-length, 2)
            if mark in file.read():
                return True
    return False


def read_mask(path: Path) -> NDArray[np.uint8]:
    """Return (H, W) values of a palette or grey 8-bit picture, as stored."""
    try:
        with open_picture(path) as image:
            if image.mode in ("P", "L"):
                return np.array(image)
            mode = image.mode
    except UNREADABLE as error:
        raise _unreadable(path, error) from None
    raise InputError(f"{path}: a mask is a palette or grey 8-bit PNG, this one has mode {mode}")


def _unreadable(path: Path, error: Exception) -> InputError:
    # PIL's message for an unknown format repeats the path
    reason: object = error
    if isinstance(error, UnidentifiedImageError):
        empty = path.stat().st_size == 0
        reason = "the file is empty" if empty else f"no known image format: it is none of {', '.join(FORMATS)}"
    if isinstance(error, Image.DecompressionBombError):  # PIL's own limit comes first; its message speaks of an attack
        reason = f"it has more than the {MOST_PIXELS:,} pixels of the largest photo; scale it down"
    elif isinstance(error, OSError) and error.strerror:  # its text would repeat the path
        reason = error.strerror
    return InputError(f"{path}: unreadable image ({reason})")
