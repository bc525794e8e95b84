"""Files of the VGG Image Annotator, version 2 (Dutta and Zisserman, 2019)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from seminar.data.labels import Drawn, Labels, Source, finite, formats, polygon_of
from seminar.text import brief

CLASS = ("class", "label", "category", "type", "name")
"""Attributes that may hold the class, where a region has several."""


@formats.register("via")
class Via:
    """A project, or its annotations exported to JSON: by picture its regions, each with a shape and attributes."""

    single = False
    what = "VGG Image Annotator 2: projects and annotations (.json)"

    def knows(self, source: Source) -> bool:
        return bool(self._pictures(source.json))

    def _pictures(self, content: object) -> list[Mapping[str, Any]]:
        if isinstance(content, dict) and isinstance(content.get("_via_img_metadata"), dict):
            content = content["_via_img_metadata"]
        if not isinstance(content, dict):
            return []
        pictures = list(content.values())
        return (
            pictures if all(isinstance(one, dict) and {"filename", "regions"} <= one.keys() for one in pictures) else []
        )

    def read(self, source: Source) -> Iterator[Drawn]:
        for picture in self._pictures(source.json):
            found, name = Labels(), str(picture["filename"])
            regions = picture["regions"]
            if not isinstance(regions, dict | list):
                source.wrong(f"{source.path}: {name}: expected regions, got {brief(regions)}")
                continue
            for region in regions.values() if isinstance(regions, dict) else regions:  # version 1 has them by number
                given = region if isinstance(region, dict) else {}
                shape, attributes = given.get("shape_attributes"), given.get("region_attributes")
                _read_region(source, f"{source.path}: {name}", shape, attributes, found)
            yield (name,), found


@formats.register("viacsv")
class ViaCsv:
    """Annotations of the VGG Image Annotator 2, as it exports them to CSV: shapes and classes are JSON in a field."""

    single = False
    what = "VGG Image Annotator (.csv)"
    NAMES = ("filename", "#filename")
    """Of the first column, in version 2 and in version 1."""
    SHAPE, ATTRIBUTES = "region_shape_attributes", "region_attributes"

    def knows(self, source: Source) -> bool:
        columns = source.header
        return {self.SHAPE, self.ATTRIBUTES} <= {*columns} and any(name in columns for name in self.NAMES)

    def read(self, source: Source) -> Iterator[Drawn]:
        drawn: dict[str, Labels] = {}
        named = next(name for name in self.NAMES if name in source.header)
        for line, row in source.rows():
            if None in row:  # VIA writes names without quotes
                source.wrong(f"{source.path}: line {line}: a comma in the name of a picture; export JSON instead")
                continue
            name, shape_text, attributes_text = (
                (row[column] or "").strip() for column in (named, self.SHAPE, self.ATTRIBUTES)
            )
            try:
                shape, attributes = json.loads(shape_text or "{}"), json.loads(attributes_text or "{}")
            except (ValueError, RecursionError):
                source.wrong(f"{source.path}: line {line}: no JSON in {brief(shape_text)} or {brief(attributes_text)}")
                continue
            if not shape:
                continue  # a picture on which nothing was drawn
            found = drawn.setdefault(name, Labels())
            _read_region(source, f"{source.path}: line {line}", shape, attributes, found)
        for name, found in drawn.items():
            yield (name,), found


def _read_region(source: Source, where: str, shape: object, attributes: object, found: Labels) -> None:
    """Add one region to what was found, or report why not."""
    name = _class(attributes)
    if name is None:
        source.wrong(
            f"{where}: no attribute says the class of a region, or several may; name the attribute class, not "
            f"{brief(attributes)}"
        )
        return
    given: Mapping[str, Any] = shape if isinstance(shape, dict) else {}
    kind = str(given.get("name"))

    def value(key: str, default: float | None = None) -> float:
        return finite(given.get(key, default))

    try:
        if kind == "point":
            found.clicks.append((value("cx"), value("cy"), name))
        elif kind in ("polyline", "polygon"):
            points = tuple(
                (finite(x), finite(y)) for x, y in zip(given["all_points_x"], given["all_points_y"], strict=True)
            )
            if kind == "polyline" and points:
                found.scribbles.append((points, name))
            elif len(points) > 2:
                found.areas.append((name, "polygon", points))
            else:
                source.wrong(f"{where}: {name}: a polygon of {len(points)} points")
        elif kind == "rect":
            x, y = value("x"), value("y")
            found.areas.append((name, "rectangle", ((x, y), (x + value("width"), y + value("height")))))
        elif kind == "circle":
            x, y = value("cx"), value("cy")
            found.areas.append((name, "circle", ((x, y), (x + value("r"), y))))
        elif kind == "ellipse":
            turn = value("theta", 0.0) * 57.29577951308232  # from radians
            found.areas.append((name, "polygon", polygon_of(value("cx"), value("cy"), value("rx"), value("ry"), turn)))
        else:
            source.wrong(f"{where}: {name}: a region of kind {kind!r}, which is not read")
    except (KeyError, TypeError, ValueError):
        source.wrong(f"{where}: {name}: a {kind} without its numbers: {brief(shape)}")


def _class(attributes: object) -> str | None:
    """Return the class that attributes name, None where none or several could."""
    given = attributes if isinstance(attributes, dict) else {}
    key = next((name for name in CLASS if name in given), next(iter(given), None) if len(given) == 1 else None)
    value = given.get(key) if key is not None else None
    if isinstance(value, dict):  # a box to tick for each class
        ticked = [name for name, on in value.items() if on]
        value = ticked[0] if len(ticked) == 1 else None
    text = str(value).strip() if isinstance(value, str | int) else ""
    return text or None
