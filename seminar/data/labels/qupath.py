"""Objects of the pathology viewer QuPath, exported as GeoJSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from seminar.data.files import MOST_PIXELS
from seminar.data.labels import Area, Drawn, Labels, Points, Source, finite, formats, runs
from seminar.text import brief


@formats.register("qupath")
class QuPath:
    """Points are clicks, lines scribbles, polygons areas; the classification is the class."""

    single = True
    what = "QuPath, exported as GeoJSON (.geojson, .json; named like its image)"

    def knows(self, source: Source) -> bool:
        features = self._features(source.json)  # GeoJSON that merely lies in a folder may be a map
        return bool(features) and (source.meant or any(_class(feature) for feature in features))

    def _features(self, content: object) -> list[Mapping[str, Any]]:
        if isinstance(content, dict) and content.get("type") == "FeatureCollection":
            content = content.get("features")
        found: list[Any] = content if isinstance(content, list) else [content]
        return found if all(isinstance(one, dict) and one.get("type") == "Feature" for one in found) else []

    def read(self, source: Source) -> Iterator[Drawn]:
        found, nameless = Labels(), 0
        for feature in self._features(source.json):
            geometry, name = feature.get("geometry"), _class(feature)
            given = geometry if isinstance(geometry, dict) else {}
            if name is None:
                nameless += 1
                continue
            try:
                _add(found, name, str(given.get("type")), given["coordinates"])
            except (KeyError, TypeError, ValueError):
                source.wrong(f"{source.path}: {name}: a {brief(given.get('type'))} that cannot be read")
        if nameless:
            source.wrong(
                f"{source.path}: {nameless} objects without a classification; give them one in QuPath, or export the "
                "others alone"
            )
        yield (source.path.stem,), found


def _class(feature: Mapping[str, Any]) -> str | None:
    properties = feature.get("properties")
    given = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(given, dict):
        names = given.get("names")
        given = ": ".join(map(str, names)) if isinstance(names, list) else given.get("name")
    return given if isinstance(given, str) and given.strip() else None


def _add(found: Labels, name: str, kind: str, coordinates: Any) -> None:
    """Add a geometry. Raises `ValueError` and others for one that cannot be read."""
    if kind == "Point":
        found.clicks.append((*_point(coordinates), name))
    elif kind == "MultiPoint":
        found.clicks += [(*_point(point), name) for point in coordinates]
    elif kind == "LineString":
        found.scribbles.append((_line(coordinates), name))
    elif kind == "MultiLineString":
        found.scribbles += [(_line(line), name) for line in coordinates]
    elif kind == "Polygon":
        found.areas.append(_polygon(name, coordinates))
    elif kind == "MultiPolygon":
        found.areas += [_polygon(name, polygon) for polygon in coordinates]
    else:
        raise ValueError


def _point(given: Any) -> tuple[float, float]:
    x, y = given[:2]
    return finite(x), finite(y)


def _line(given: Any) -> Points:
    points = tuple(_point(point) for point in given)
    if not points:
        raise ValueError
    return points


def _polygon(name: str, rings: Any) -> Area:
    """Return a polygon; one with holes as the pixels that it has."""
    outer, *holes = (_line(ring) for ring in rings)
    if len(outer) < 3:
        raise ValueError
    if not holes:
        return name, "polygon", outer
    left, top = (math.floor(min(point[axis] for point in outer)) for axis in (0, 1))
    width, height = (
        math.ceil(max(point[axis] for point in outer)) + 1 - start for axis, start in ((0, left), (1, top))
    )
    if width * height > MOST_PIXELS:
        raise ValueError
    canvas = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(canvas)
    for ring, value in ((outer, 1), *((hole, 0) for hole in holes)):
        draw.polygon([(x - left, y - top) for x, y in ring], fill=value)
    return name, "runs", runs(np.asarray(canvas) > 0, left, top)
