"""What people draw on images, in the files of the tools that they draw with. One format each, in a module of its own,
registered with `@formats.register(name)`.

A format says which files are its own, by what is in them, and yields what was drawn on each image. It reports what
cannot be used line by line, and goes on: `seminar data check` lists all of it.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from seminar.data.files import read_bytes, read_text
from seminar.parts import Registry
from seminar.spec import InputError
from seminar.text import plain

Points = tuple[tuple[float, float], ...]
Area = tuple[str, str, Points]
"""Name of the class, kind of shape, points: corners of a `polygon`, two opposite corners of a `rectangle`, centre and a
point on the edge of a `circle`, or of `runs`: first and last pixel of each row of pixels, one after the other."""


@dataclass
class Labels:
    """What somebody drew on one image, classes by name, in its pixels; `sizes`: (width, height) that it was drawn on,
    by file, None where that does not record it; `upright`: whether the tool turns an image as its EXIF data say."""

    clicks: list[tuple[float, float, str]] = field(default_factory=list)
    scribbles: list[tuple[Points, str]] = field(default_factory=list)
    areas: list[Area] = field(default_factory=list)
    sizes: dict[Path, tuple[int, int] | None] = field(default_factory=dict)
    upright: bool = True

    @property
    def empty(self) -> bool:
        """Whether nothing is drawn."""
        return not (self.clicks or self.scribbles or self.areas)

    @property
    def size(self) -> tuple[int, int] | None:
        """Image size given by the last file that records one."""
        return next((size for size in reversed(self.sizes.values()) if size), None)

    @property
    def names(self) -> set[str]:
        """Return the classes."""
        drawn = {name for *_, name in self.clicks} | {name for _, name in self.scribbles}
        return drawn | {name for name, _, _ in self.areas}

    def stripped(self) -> Labels:
        """Return the same without blanks around the names of classes: typed by hand, `cat ` is meant as `cat`."""
        clicks = [(x, y, name.strip()) for x, y, name in self.clicks]
        scribbles = [(points, name.strip()) for points, name in self.scribbles]
        areas = [(name.strip(), kind, points) for name, kind, points in self.areas]
        return replace(self, clicks=clicks, scribbles=scribbles, areas=areas)

    def add(self, other: Labels) -> None:
        """Take over what another file has for the same image; what is in both (an export, and what was made of it)
        counts once."""
        clicks, scribbles, areas = set(self.clicks), set(self.scribbles), set(self.areas)
        self.clicks += [click for click in other.clicks if click not in clicks]
        self.scribbles += [scribble for scribble in other.scribbles if scribble not in scribbles]
        self.areas += [area for area in other.areas if area not in areas]
        self.sizes |= other.sizes


@dataclass
class Source:
    """One file of labels. `wrong`, `note`: what is called with a line for each thing that cannot be used, or that is
    left out for a reason; `unlabelled`: the value of pixels without a label, in pictures of labels."""

    path: Path
    wrong: Callable[[str], None]
    note: Callable[[str], None]
    unlabelled: int | None = None
    meant: bool = True
    """Whether somebody says that it is one; False: it lies in a folder, and may be anything."""

    def __post_init__(self) -> None:
        # Names of pictures and classes are quoted in messages, and may hold anything.
        self.wrong, self.note = _in_one_line(self.wrong), _in_one_line(self.note)

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower()

    @cached_property
    def text(self) -> str:
        """The text of the file. Raises `InputError`."""
        return read_text(self.path)

    @cached_property
    def json(self) -> object:
        """The content of a file of JSON, None of any other. Raises `InputError` for broken JSON."""
        if self.suffix not in (".json", ".geojson", ".pnt"):
            return None
        try:
            return json.loads(self.text, object_pairs_hook=_once)
        except InputError:  # of the text, which names the file
            raise
        except (ValueError, RecursionError) as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from None

    @cached_property
    def xml(self) -> ElementTree.Element | None:
        """The root of a file of XML, None of any other. Raises `InputError` for broken XML."""
        return parse_xml(self.path) if self.suffix == ".xml" else None

    @cached_property
    def header(self) -> list[str]:
        """The names of the columns of a table, [] of any other file. Raises `InputError`."""
        try:
            return list(self._rows.fieldnames or ()) if self.suffix == ".csv" else []
        except csv.Error as error:
            raise InputError(f"{self.path}: cannot be read ({error})") from None

    @cached_property
    def separator(self) -> str:
        """What separates the fields of a table."""
        return max(",;\t", key=self.text.partition("\n")[0].count)

    @cached_property
    def _rows(self) -> csv.DictReader[str]:
        content = io.StringIO(self.text, newline=None)  # whatever ends the lines
        return csv.DictReader(content, delimiter=self.separator, skipinitialspace=True)

    def rows(self) -> Iterator[tuple[int, dict[str | None, str | None]]]:
        """Yield the rows of a table, each with the number of its line; fields beyond the columns are under None. Rows
        of blanks alone, which spreadsheets leave at the end, are left out. A column that is there twice is reported,
        and no row follows: the first of the two would be lost."""
        twice = sorted(name for name, count in Counter(self.header).items() if name.strip() and count > 1)
        if twice:
            self.wrong(f"{self.path}: column {twice[0]!r} is in the first line twice; rename or delete one of the two")
            return
        try:
            for row in self._rows:
                if None in row or any((value or "").strip() for value in row.values()):
                    yield self._rows.line_num, dict(row)
        except csv.Error as error:
            self.wrong(f"{self.path}: cannot be read ({error})")


def _in_one_line(report: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: report(plain(text, 4000))


def _once(items: list[tuple[str, object]]) -> dict[str, object]:
    """Return an object of JSON. Raises `ValueError` for a key that stands twice: the first would be lost."""
    found = dict(items)
    if len(found) < len(items):
        names = [name for name, _ in items]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} is in it twice")
    return found


Drawn = tuple[tuple[str, ...], Labels]
"""What an image may be called, the likeliest name first, and what was drawn on it."""


class Format(Protocol):
    """Files of one kind."""

    what: str
    """For people: the tool, and which of its files."""
    single: bool
    """Whether a file is of one image; one that lies beside a picture of its name is of that picture."""

    def knows(self, source: Source) -> bool:
        """Return whether a file is one of these."""

    def read(self, source: Source) -> Iterator[Drawn]:
        """Yield what was drawn on each image."""


formats: Registry[Callable[[], Format]] = Registry("format")


def find(source: Source) -> Format | None:
    """Return the format of a file, None where it has none that is known. Raises `InputError` for a file that cannot be
    read, or is broken."""
    _load()
    made = (formats[name].make() for name in formats)
    return next((one for one in made if one.knows(source)), None)


def known() -> list[tuple[str, str]]:
    """Return name and description of every format."""
    _load()
    return [(name, formats[name].make().what) for name in formats]


def _load() -> None:
    # Every module of this package registers its formats when it is imported: adding one is adding a file.
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


class _NoDoctype(ElementTree.TreeBuilder):
    """Builds no document with a type declaration: that is where entities are declared, which can expand to gigabytes
    or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it has a document type declaration, which is refused")


def parse_xml(path: Path) -> ElementTree.Element:
    """Return the root of a file of XML. Raises `InputError` for one that is broken, or declares a document type."""
    text = read_bytes(path)
    try:
        # S314 is about entities: none can be declared here
        return ElementTree.fromstring(text, ElementTree.XMLParser(target=_NoDoctype()))  # noqa: S314
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last two: encodings
        raise InputError(f"{path}: not XML that can be read ({error})") from None


def finite(given: object) -> float:
    """Raises `ValueError` for what is no finite number, or no number at all."""
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError
    try:
        value = float(given)
    except OverflowError:
        raise ValueError from None
    if not math.isfinite(value):
        raise ValueError
    return value


def number(given: object) -> float | None:
    """Return a finite number, None for anything else."""
    try:
        return finite(given)
    except ValueError:
        return None


def pairs(values: Iterable[object]) -> Points:
    """Return x, y, x, y, ... as points. Raises `ValueError` for an odd count, and for what is no finite number."""
    flat = [finite(value) for value in values]
    return tuple(zip(flat[::2], flat[1::2], strict=True))


def polygon_of(x: float, y: float, rx: float, ry: float, degrees: float = 0.0) -> Points:
    """Return an ellipse as a polygon of 64 corners; turned clockwise, as it is seen, about its centre."""
    angles = np.arange(64) * (2 * np.pi / 64)
    return turned(tuple(zip(x + rx * np.cos(angles), y + ry * np.sin(angles))), (x, y), degrees)


def turned(points: Iterable[tuple[float, float]], centre: tuple[float, float], degrees: float) -> Points:
    """Return points turned clockwise, as it is seen, about a centre."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    away = [(x - centre[0], y - centre[1]) for x, y in points]
    return tuple((float(centre[0] + cos * x - sin * y), float(centre[1] + sin * x + cos * y)) for x, y in away)


def side(given: object) -> int | None:
    """Return the width or the height of a picture, None for what is none."""
    value = number(given)
    return int(value) if value is not None and value == int(value) > 0 else None


def size(width: object, height: object) -> tuple[int, int] | None:
    """Return the size of a picture, None where it is not known."""
    sides = side(width), side(height)
    return None if sides[0] is None or sides[1] is None else (sides[0], sides[1])


def runs(mask: NDArray[np.bool_], left: int, top: int) -> Points:
    """Return the pixels of a mask (H, W), whose corner lies at `left`, `top`, as the points of an area of `runs`."""
    padded = np.pad(mask.astype(np.int8), ((0, 0), (1, 1)))
    change = np.diff(padded, axis=1)
    rows, starts = np.nonzero(change == 1)
    _, ends = np.nonzero(change == -1)
    points: list[tuple[float, float]] = []
    for y, first, after in zip(rows.tolist(), starts.tolist(), ends.tolist()):
        points += [(float(left + first), float(top + y)), (float(left + after - 1), float(top + y))]
    return tuple(points)


def unrolled(counts: Iterable[object], pixels: int) -> NDArray[np.bool_]:
    """Return `pixels` flat pixels of a run-length code, which begins with a count of pixels outside. Raises
    `ValueError` where the counts are no counts, or do not add up."""
    lengths = [int(finite(count)) for count in counts]
    if min(lengths, default=0) < 0 or sum(lengths) != pixels:
        raise ValueError
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
