"""Labels from the files of other tools, rewritten in the two forms that are easiest to read and to mend: a table of
clicks, or files of labelme."""

from __future__ import annotations

import base64
import io
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from csv import writer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seminar.data.files import existing, image_size, turned_hint
from seminar.data.labels import Area, Labels, Source, known
from seminar.data.labels.table import COLUMNS
from seminar.data.named import Named, label_files
from seminar.data.strokes import in_reach
from seminar.spec import InputError
from seminar.store import write_atomic, write_json


def convert(places: Sequence[Path], images: Path, out: Path, unlabelled: int | None) -> list[str]:
    """Read labels from files, or from all files in folders, and write them to `out`: a table `*.csv` of clicks, or a
    folder of labelme's files, which hold lines and areas as well. Returns lines for the user.

    `unlabelled`: the value of pixels without a label, in pictures of labels. Raises `InputError` with a line for each
    thing that cannot be used; then nothing is written.
    """
    wrong: list[str] = []
    notes: list[str] = []
    others: list[Path] = []
    folder = existing([images / "images"] if (images / "images").is_dir() else [images])
    named = Named(folder, wrong.append)
    drawn: dict[str, Labels] = {}
    for path, meant in _files(places):
        found = named.labels(Source(path, wrong.append, notes.append, unlabelled, meant))
        others += [path] if found is None else []
        for id, labels in found or ():
            drawn.setdefault(id, Labels()).add(labels)
    if others:
        notes.append(f"{len(others)} files in no form that is known are left out, for example {others[0]}")
    drawn = {id: labels for id, labels in drawn.items() if not labels.empty}
    wrong += _of_another_size(named, drawn) or _far_outside(named, drawn)
    if wrong:
        raise InputError("\n".join(wrong))
    if not drawn:
        forms = "; ".join(what for _, what in known())
        unknown = f", and {len(others)} files are in no form that is known, as {others[0].name}" if others else ""
        raise InputError(f"{places[0]}: nothing is drawn on any picture of {folder}{unknown}. Read are: {forms}")
    more = sum(len(labels.scribbles) + len(labels.areas) for labels in drawn.values())
    if out.suffix.lower() == ".csv":
        if more:
            raise InputError(
                f"--out {out}: a table holds clicks alone, and there are {more} lines and areas; name a folder "
                "for files of labelme"
            )
        _write_table(out, drawn)
    else:
        _write_labelme(out, named, drawn)
    return [*_counts(drawn), *(f"note: {note}" for note in notes), f"wrote {out}"]


def _files(places: Iterable[Path]) -> list[tuple[Path, bool]]:
    """Return pairs (file, named). `named`: the file was given by itself; else it was found in a folder that was given,
    and may hold no labels at all. Raises `InputError` for a folder without any, a missing path, and a ZIP archive."""
    found: list[tuple[Path, bool]] = []
    for place in places:
        inside = (label_files(place) or sorted(place.rglob("*.png"))) if place.is_dir() else [existing([place])]
        if not inside:
            raise InputError(
                f"{place}: holds no annotation file (.json, .xml, .csv, .geojson) and no label picture (.png); "
                "name the file, or the folder that holds it"
            )
        if place.suffix.lower() == ".zip":
            raise InputError(f"{place}: a ZIP archive is not read; unpack it, and name what is in it")
        found += [(path, not place.is_dir()) for path in inside]
    return found


def _of_another_size(named: Named, drawn: Mapping[str, Labels]) -> list[str]:
    """Return a line for each picture that was drawn on at another size than it has."""
    wrong: list[str] = []
    for id, labels in drawn.items():
        size = image_size(named.paths[id], upright=True)
        for path, other in labels.sizes.items():
            if other is not None and other != size:
                hint = turned_hint(named.paths[id], other, size)
                drawn_on, has = ("x".join(map(str, pair)) for pair in (other, size))
                wrong.append(f"{path}: drawn on {drawn_on} pixels, but {named.paths[id]} has {has}{hint}")
    return wrong


def _far_outside(named: Named, drawn: Mapping[str, Labels]) -> list[str]:
    """Return a line for each area that is not of its picture. (Clicks and lines that lie outside stay as they are: a
    setting of the data set says what becomes of them.)"""
    wrong: list[str] = []
    for id, labels in drawn.items():
        width, height = image_size(named.paths[id], upright=True)
        for name, kind, points in labels.areas:
            if not all(in_reach(point, width, height) for point in points):
                wrong.append(
                    f"{id}: a {'mask' if kind == 'runs' else kind} ({name}) goes far outside the {width}x{height} image"
                )
    return wrong


def _counts(drawn: Mapping[str, Labels]) -> list[str]:
    """Return what was read, by class."""
    kinds: tuple[Counter[str], ...] = (Counter(), Counter(), Counter())
    for labels in drawn.values():
        kinds[0].update(name for *_, name in labels.clicks)
        kinds[1].update(name for _, name in labels.scribbles)
        kinds[2].update(name for name, _, _ in labels.areas)
    names = sorted({*kinds[0], *kinds[1], *kinds[2]})
    head = f"{'class':<24} {'clicks':>7} {'lines':>7} {'areas':>7}"
    rows = [f"{name:<24.24} {kinds[0][name]:>7} {kinds[1][name]:>7} {kinds[2][name]:>7}" for name in names]
    return [f"{len(drawn)} pictures with labels", "", head, *rows, ""]


def _write_table(out: Path, drawn: Mapping[str, Labels]) -> None:
    if not out.parent.is_dir():
        raise InputError(f"--out {out}: no folder {out.parent}")
    _refuse([out])
    table = io.StringIO()
    rows = writer(table, lineterminator="\n")
    rows.writerow(COLUMNS)
    for id, labels in sorted(drawn.items()):
        rows.writerows([id, repr(x), repr(y), name] for x, y, name in labels.clicks)
    write_atomic(out, lambda file: file.write(table.getvalue().encode()))


def _write_labelme(out: Path, named: Named, drawn: Mapping[str, Labels]) -> None:
    if out.is_file():
        raise InputError(f"--out {out}: is a file; name a folder for files of labelme, or a table *.csv for clicks")
    targets = {id: out / f"{id}.json" for id in drawn}
    _refuse(targets.values())
    for id, path in targets.items():
        image = named.paths[id]
        width, height = image_size(image, upright=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, object] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": [*_shapes(drawn[id])],
            "imagePath": Path(os.path.relpath(image, path.parent)).as_posix(),
            "imageData": None,
            "imageHeight": height,
            "imageWidth": width,
        }
        write_json(path, content)


def _refuse(targets: Iterable[Path]) -> None:
    """Raise `InputError` where something would be overwritten."""
    there = [path for path in targets if path.exists() or path.is_symlink()]
    if there:
        more = f" and {len(there) - 1} more" if there[1:] else ""
        raise InputError(f"--out: {there[0]}{more} would be overwritten; move it away, or name another place")


def _shapes(labels: Labels) -> Iterable[dict[str, Any]]:
    """Yield what is drawn as labelme has it."""
    for x, y, name in labels.clicks:
        yield _shape(name, "point", [(x, y)])
    for points, name in labels.scribbles:
        yield _shape(name, "linestrip" if len(points) > 1 else "line", points if len(points) > 1 else points * 2)
    for area in labels.areas:
        yield _area(area)


def _shape(name: str, kind: str, points: Iterable[tuple[float, float]]) -> dict[str, Any]:
    return {
        "label": name,
        "points": [list(point) for point in points],
        "group_id": None,
        "description": "",
        "shape_type": kind,
        "flags": {},
    }


def _area(area: Area) -> dict[str, Any]:
    name, kind, points = area
    if kind != "runs":
        return _shape(name, kind, points)
    corners = np.array(points, int)
    (left, top), (right, bottom) = corners.min(0).tolist(), corners.max(0).tolist()
    mask = np.zeros((bottom - top + 1, right - left + 1), bool)
    for (x0, y), (x1, _) in zip(points[::2], points[1::2]):
        mask[int(y) - top, int(x0) - left : int(x1) - left + 1] = True
    picture = io.BytesIO()
    Image.fromarray(mask).save(picture, "PNG")
    encoded = base64.b64encode(picture.getvalue()).decode()
    return {**_shape(name, "mask", [(left, top), (right, bottom)]), "mask": encoded}
