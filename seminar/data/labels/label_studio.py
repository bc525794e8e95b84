"""Exports of Label Studio: JSON, with coordinates in per cent of the picture."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from numpy.typing import NDArray

from seminar.data.files import IMAGES, MOST_PIXELS, OTHERS
from seminar.data.labels import Drawn, Labels, Source, finite, formats, polygon_of, runs, turned
from seminar.text import brief

_UPLOADED = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of a picture that is uploaded."""
ELSEWHERE = ("choices", "textarea", "rating", "number", "taxonomy", "relation", "pairwise", "datetime")
"""Answers that are about the whole picture, or about other regions."""


@formats.register("labelstudio")
class LabelStudio:
    """Key points are clicks; polygons, rectangles, ellipses and what a brush painted are areas."""

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
        cancelled = guessed = several = elsewhere = 0
        for task in tasks:
            listed = _list(task.get("annotations"))
            annotations = [one for one in listed if isinstance(one, dict)]
            if len(annotations) < len(listed):
                source.wrong(
                    f"{path}: task {task.get('id')}: {len(listed) - len(annotations)} annotations as numbers, without "
                    'what was drawn; export the project as "JSON"'
                )
            kept = [one for one in annotations if not one.get("was_cancelled")]
            cancelled += len(annotations) - len(kept)
            guessed += len(_list(task.get("predictions")))
            several += len(kept) > 1
            pictures = _pictures(task)
            if not pictures:
                source.wrong(f"{path}: task {task.get('id')}: no picture in its data")
                continue
            drawn = {key: Labels() for key in pictures}
            for annotation in kept:
                results = [one for one in _list(annotation.get("result")) if isinstance(one, dict)]
                # With a tag for shapes and another for labels, a region comes twice: bare, and with its labels.
                labelled = {str(one.get("id")) for one in results if _classes(one)}
                for result in results:
                    if result.get("type") in ELSEWHERE:
                        elsewhere += 1
                        continue
                    if not _classes(result) and str(result.get("id")) in labelled:
                        continue
                    key = next(iter(pictures)) if len(pictures) == 1 else result.get("to_name")
                    if not isinstance(key, str) or key not in pictures:
                        source.wrong(
                            f"{path}: task {task.get('id')}: on which of its pictures ({', '.join(pictures)}) is a "
                            f"region of {brief(key)}? Name the tag of a picture like its data"
                        )
                        continue
                    _add(source, f"{path}: {pictures[key][0]}", result, drawn[key])
            for key, names in pictures.items():
                yield names, drawn[key]
        for count, what in (
            (cancelled, "annotations that were cancelled are left out"),
            (guessed, "predictions of a model are left out"),
            (several, "pictures have several annotations, all of which count"),
            (elsewhere, "answers that lie nowhere (choices, texts, relations, ...) are left out"),
        ):
            if count:
                source.note(f"{path}: {count} {what}")


def _list(given: object) -> list[Any]:
    return given if isinstance(given, list) else []


def _pictures(task: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Return the pictures of a task by their names in its data, and what each may be called."""
    data = task.get("data")
    texts = {key: value for key, value in data.items() if isinstance(value, str)} if isinstance(data, dict) else {}
    found = {key: _paths(value) for key, value in texts.items()}
    ends = (*IMAGES, *OTHERS)
    pictures = {key: names for key, names in found.items() if names and names[0].lower().endswith(ends)}
    if not pictures and len(found) == 1:
        pictures = found
    uploaded = task.get("file_upload")
    if isinstance(uploaded, str) and len(pictures) < 2:
        key = next(iter(pictures), "")
        pictures = {key: (*pictures.get(key, ()), *_paths(uploaded))}
    return {key: names for key, names in pictures.items() if names}


def _paths(address: str) -> tuple[str, ...]:
    """Return the path in an address, and the same without what an upload puts before the name."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ()
    local = parse_qs(parts.query).get("d", [""])[0]  # /data/local-files/?d=photos/a.jpg
    whole = (local or unquote(parts.path)).replace("\\", "/").strip("/")
    folder, slash, name = whole.rpartition("/")
    return tuple(dict.fromkeys(text for text in (whole, folder + slash + _UPLOADED.sub("", name, count=1)) if text))


def _classes(result: Mapping[str, Any]) -> list[Any]:
    """Return the classes of a region."""
    value = result.get("value")
    given: Mapping[str, Any] = value if isinstance(value, dict) else {}
    return _list(given.get(str(result.get("type")))) or _list(given.get("labels"))


def _add(source: Source, where: str, result: Mapping[str, Any], found: Labels) -> None:
    """Add one region to what was found, or report why not."""
    kind, value = str(result.get("type")), result.get("value")
    given: Mapping[str, Any] = value if isinstance(value, dict) else {}
    names = _classes(result)
    if len(names) != 1:
        source.wrong(f"{where}: a region of type {brief(kind)} with {len(names)} classes; one is needed")
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

        if "rle" in given:
            painted = runs(_painted(given["rle"], int(width), int(height)), 0, 0)
            if painted:
                found.areas.append((name, "runs", painted))
        elif kind.startswith("keypoint"):  # first, for some models give points a height
            found.clicks.append((*at(given["x"], given["y"]), name))
        elif "points" in given:
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
        elif kind == "labels":
            found.clicks.append((*at(given["x"], given["y"]), name))
        else:
            source.wrong(f"{where}: {name}: a region of type {brief(kind)}, which is not read")
    except (KeyError, TypeError, ValueError):
        source.wrong(f"{where}: {name}: a region of type {brief(kind)} without the numbers that it needs")


def _painted(code: Any, width: int, height: int) -> NDArray[np.bool_]:
    """Return the pixels (H, W) that a brush painted at half strength or more. The code is that of the library rle-pack
    (thi.ng): a stream of bits with the channels of all pixels, red, green, blue and strength, as runs of one value and
    stretches of many. Raises `ValueError` and others for one that is broken."""
    bits = "".join(f"{byte:08b}" for byte in bytes(code))
    at = 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        if at > len(bits):
            raise ValueError
        return int(bits[at - count : at], 2)

    total, depth = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    if depth != 8 or total != 4 * width * height or not 0 < width * height <= MOST_PIXELS:
        raise ValueError
    values: list[int] = []
    counts: list[int] = []
    done = 0
    while done < total:
        same = take(1)
        length = take(sizes[take(2)]) + 1
        values += [take(8) for _ in range(1 if same else length)]
        counts += [length] if same else [1] * length
        done += length
    if done != total:
        raise ValueError
    channels = np.repeat(np.array(values, np.uint8), counts).reshape(height, width, 4)
    strength: NDArray[np.bool_] = channels[..., 3] >= 128
    return strength
