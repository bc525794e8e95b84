"""Exports of Label Studio: JSON, with coordinates in per cent of the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from seminar.data.labels import Drawn, Labels, Source, finite, formats, polygon_of, turned
from seminar.text import brief

_UPLOADED = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of a picture that is uploaded."""


@formats.register("labelstudio")
class LabelStudio:
    """Key points are clicks; polygons, rectangles and ellipses are areas."""

    single = False
    what = "Label Studio, exported as JSON (.json)"

    def knows(self, source: Source) -> bool:
        content = source.json
        return (
            isinstance(content, list)
            and bool(content)
            and all(isinstance(task, dict) for task in content)
            and any("annotations" in task or "annotation_id" in task for task in content)
        )

    def read(self, source: Source) -> Iterator[Drawn]:
        tasks, path = source.json, source.path
        assert isinstance(tasks, list)
        if not any("annotations" in task for task in tasks):
            source.wrong(f'{path}: the form "JSON-MIN" of Label Studio; export the project as "JSON"')
            return
        cancelled = guessed = several = 0
        for task in tasks:
            annotations = [one for one in task.get("annotations") or () if isinstance(one, dict)]
            kept = [one for one in annotations if not one.get("was_cancelled")]
            cancelled += len(annotations) - len(kept)
            guessed += len(task.get("predictions") or ())
            several += len(kept) > 1
            found, names = Labels(), _names(task)
            if not names:
                source.wrong(f"{path}: task {task.get('id')}: no picture in its data")
                continue
            for annotation in kept:
                for result in annotation.get("result") or ():
                    _add(source, f"{path}: {names[0]}", result if isinstance(result, dict) else {}, found)
            yield names, found
        for count, what in (
            (cancelled, "annotations that were cancelled are left out"),
            (guessed, "predictions of a model are left out"),
            (several, "pictures have several annotations, all of which count"),
        ):
            if count:
                source.note(f"{path}: {count} {what}")


def _names(task: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what the picture of a task may be called: the path in its address, then its name alone, without what an
    upload put before it."""
    data = task.get("data")
    values = [value for value in data.values() if isinstance(value, str)] if isinstance(data, dict) else []
    uploaded = task.get("file_upload")
    found: list[str] = []
    for value in [*values, *([uploaded] if isinstance(uploaded, str) else [])]:
        try:
            address = urlsplit(value)
        except ValueError:
            continue
        local = parse_qs(address.query).get("d", [""])[0]  # /data/local-files/?d=photos/a.jpg
        whole = (local or unquote(address.path)).strip("/")
        last = PurePosixPath(whole).name
        found += [whole, last, _UPLOADED.sub("", last, count=1)]
    return tuple(dict.fromkeys(name for name in found if name))


def _add(source: Source, where: str, result: Mapping[str, Any], found: Labels) -> None:
    """Add one region to what was found, or report why not."""
    kind, value = str(result.get("type")), result.get("value")
    given: Mapping[str, Any] = value if isinstance(value, dict) else {}
    if kind in ("choices", "textarea", "rating", "number", "taxonomy", "relation", "pairwise", "datetime"):
        return  # of the whole picture, or of other regions
    if kind.startswith("brush"):
        source.wrong(f'{where}: a brush is not read; export "Brush labels to PNG", and put the masks into masks/')
        return
    names = given.get(kind) or given.get("labels")
    if not isinstance(names, list) or len(names) != 1:
        source.wrong(f"{where}: a region of type {brief(kind)} with {len(names or ())} classes; one is needed")
        return
    name = str(names[0])
    try:
        if finite(result.get("image_rotation", 0)):
            source.wrong(f"{where}: {name}: drawn on a picture that was turned in Label Studio; turn the file instead")
            return
        width, height = (finite(result.get(f"original_{side}")) for side in ("width", "height"))
        found.sizes[source.path] = (int(width), int(height))

        def at(x: object, y: object) -> tuple[float, float]:
            return finite(x) * width / 100, finite(y) * height / 100

        if "points" in given:
            points = tuple(at(*point) for point in given["points"])
            if len(points) < 3:
                raise ValueError
            found.areas.append((name, "polygon", points))
        elif "radiusX" in given:
            (x, y), (rx, ry) = at(given["x"], given["y"]), at(given["radiusX"], given["radiusY"])
            found.areas.append((name, "polygon", polygon_of(x, y, rx, ry, finite(given.get("rotation", 0)))))
        elif kind.startswith("rectangle") or "height" in given:
            (x, y), (wide, high) = at(given["x"], given["y"]), at(given["width"], given["height"])
            degrees = finite(given.get("rotation", 0))
            corners = ((x, y), (x + wide, y), (x + wide, y + high), (x, y + high))
            if degrees:  # about the upper left corner
                found.areas.append((name, "polygon", turned(corners, (x, y), degrees)))
            else:
                found.areas.append((name, "rectangle", (corners[0], corners[2])))
        elif kind.startswith("keypoint") or kind == "labels":
            found.clicks.append((*at(given["x"], given["y"]), name))
        else:
            source.wrong(f"{where}: {name}: a region of type {brief(kind)}, which is not read")
    except (KeyError, TypeError, ValueError):
        source.wrong(f"{where}: {name}: a region of type {brief(kind)} without the numbers that it needs")
