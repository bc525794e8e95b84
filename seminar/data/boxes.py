"""Boxes around objects, as people keep them: a table of all images, or VOC's annotations of one image each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from seminar.data import Box
from seminar.data.files import existing
from seminar.data.labels import Source, number, parse_xml
from seminar.spec import InputError, unknown

COLUMNS = ("image", "x0", "y0", "x1", "y1", "class")
EDGES = COLUMNS[1:5]

NamedBox = tuple[tuple[float, ...], str]
"""x0, y0, x1, y1 in the pixels of `Click`, and the name of the class."""


def read_boxes(path: Path, ids: Iterable[str], find: Callable[[str], str | None]) -> dict[str, list[NamedBox]]:
    """Return the boxes of each of the images `ids` that has some, by its id.

    `path`: a table (.csv) with the columns image,x0,y0,x1,y1,class, or a folder of VOC's `<id>.xml`, whose pixels are
    counted from 1. `find` returns the id of an image by the name that the table has for it, None for other images.
    Raises `InputError` for what is malformed.
    """
    existing([path], "; data_boxes=FILE names the table, or the folder of VOC's annotations")
    if path.is_dir():
        files = {id: path / f"{id}.xml" for id in ids}
        read = {id: list(_of_voc(file)) for id, file in files.items() if file.exists()}
        return {id: found for id, found in read.items() if found}
    wanted, boxes = {*ids}, dict[str, list[NamedBox]]()
    for image, box in _of_table(path):
        id = find(image)
        if id in wanted:
            boxes.setdefault(id, []).append(box)
    return boxes


def placed(
    where: object, named: Sequence[NamedBox], width: int, height: int, index: Callable[[str], int]
) -> tuple[Box, ...]:
    """Return boxes on an image, cut off at its edges; `index` returns the class of a name. Raises `InputError` for one
    that lies outside: `where` names the file and the image."""
    found: list[Box] = []
    for (x0, y0, x1, y1), name in named:
        left, top, right, bottom = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
        if left >= right or top >= bottom:
            raise InputError(
                f"{where}: box {x0:g},{y0:g} to {x1:g},{y1:g} ({name}) is outside the {width}x{height} image"
            )
        found.append(Box(left, top, right, bottom, index(name)))
    return tuple(found)


def class_index(where: object, name: str, classes: Sequence[str] | Mapping[str, int]) -> int:
    """Return the index of a class by its name, or by its number as text. Raises `InputError`."""
    known = classes if isinstance(classes, Mapping) else {name: index for index, name in enumerate(classes)}
    if name in known:
        return known[name]
    if name.isdecimal() and int(name) in known.values():
        return int(name)
    raise unknown(f"{where}: class", name, known)


def _of_table(path: Path) -> Iterator[tuple[str, NamedBox]]:
    def wrong(text: str) -> None:
        raise InputError(text)

    source = Source(path, wrong, wrong)
    if source.suffix != ".csv":
        raise InputError(f"{path}: boxes are read from a table (.csv) or from a folder of VOC's annotations (.xml)")
    missing = [name for name in COLUMNS if name not in source.header]
    if missing:
        first = source.text.partition("\n")[0].strip()
        source.wrong(f"{path}: no column {missing[0]!r}; the first line must be {','.join(COLUMNS)}, not {first!r}")
    for line, row in source.rows():
        image, cls = (row["image"] or "").strip(), (row["class"] or "").strip()
        edges = [number(row[name]) for name in EDGES]
        known = tuple(edge for edge in edges if edge is not None)
        if None in row or len(known) < len(EDGES) or not image or not cls:
            source.wrong(f"{path}: line {line}: expected image, four numbers (decimals with a point) and a class")
        yield image, (_ordered(f"{path}: line {line}", known), cls)


def _of_voc(path: Path) -> Iterator[NamedBox]:
    root = parse_xml(path)
    for entry in root.findall("object"):
        name = entry.findtext("name", "").strip()
        edges = [number(entry.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        known = tuple(edge for edge in edges if edge is not None)
        if len(known) < len(edges) or not name:
            raise InputError(f"{path}: expected an <object> with <name> and a <bndbox> of four numbers")
        x0, y0, x1, y1 = known
        yield _ordered(path, (x0 - 1, y0 - 1, x1, y1)), name  # both ends are pixels of the box, counted from 1


def _ordered(where: object, edges: tuple[float, ...]) -> tuple[float, ...]:
    x0, y0, x1, y1 = edges
    if not (x0 < x1 and y0 < y1):
        raise InputError(f"{where}: box {x0:g},{y0:g} to {x1:g},{y1:g} is empty; x0 < x1 and y0 < y1 are needed")
    return edges
