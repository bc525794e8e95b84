"""Files of labelme (Wada): one JSON for each picture, written beside it."""

from __future__ import annotations

import base64
import binascii
import io
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from PIL import Image

from seminar.data.files import MOST_PIXELS
from seminar.data.labels import Drawn, Labels, Points, Source, finite, formats, runs, size

TURNED = ("rectangle", "oriented_rectangle", "rotation")
"""What a rectangle of four corners is called; X-AnyLabeling, which writes files of labelme too, has `rotation`."""


@formats.register("labelme")
class Labelme:
    """Points are clicks, lines scribbles; polygons, rectangles, circles and masks are areas."""

    single = True
    what = "labelme (.json, one for each picture)"

    def knows(self, source: Source) -> bool:
        content = source.json
        return isinstance(content, dict) and isinstance(content.get("shapes"), list)

    def read(self, source: Source) -> Iterator[Drawn]:
        content, path = source.json, source.path
        assert isinstance(content, dict)
        found = Labels(sizes={path: size(content.get("imageWidth"), content.get("imageHeight"))})
        for shape in content["shapes"]:
            self._shape(source, shape, found)
        yield (str(content.get("imagePath") or path.stem),), found

    def _shape(self, source: Source, shape: Any, found: Labels) -> None:
        path = source.path
        try:
            if not isinstance(shape["label"], str | int):
                raise TypeError
            name, kind = str(shape["label"]), str(shape.get("shape_type") or "polygon")
            points = tuple((finite(x), finite(y)) for x, y in shape["points"])
        except (AttributeError, KeyError, TypeError, ValueError):
            source.wrong(f"{path}: a shape without a label and points of two numbers: {reprlib.repr(shape)}")
            return
        if kind in ("point", "points"):
            found.clicks += [(x, y, name) for x, y in points]
        elif kind in ("line", "linestrip") and points:
            found.scribbles.append((points, name))
        elif (kind, len(points)) in (("rectangle", 2), ("circle", 2)) or (kind == "polygon" and len(points) > 2):
            found.areas.append((name, kind, points))
        elif kind in TURNED and len(points) == 4:
            found.areas.append((name, "polygon", points))
        elif (kind, len(points)) == ("mask", 2):
            pixels = _mask(shape, points)
            if pixels is None:
                source.wrong(f"{path}: {name}: a mask that is no picture of the size of its box; draw it again")
            elif pixels:
                found.areas.append((name, "runs", pixels))
        else:
            source.wrong(
                f"{path}: {name}: a {kind} of {len(points)} points; read are point, line, linestrip, polygon (3 or "
                "more points), rectangle (2 or 4), oriented_rectangle (4), circle (2) and mask (2)"
            )


def _mask(shape: Mapping[str, Any], box: Points) -> Points | None:
    """Return the pixels of a mask that an AI tool drew: a PNG in base64, for the box from the first point to the
    second, both included. Where the box was moved by parts of a pixel, the size is that of the picture, as labelme has
    it. None: it is none."""
    (left, top), (right, bottom) = ((round(x), round(y)) for x, y in box)
    whole = all(value == round(value) for point in box for value in point)
    expected = (right - left + 1, bottom - top + 1)
    try:
        content = base64.b64decode(shape.get("mask") or "", validate=True)
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            if (whole and picture.size != expected) or picture.size[0] * picture.size[1] > MOST_PIXELS:
                return None
            return runs(np.asarray(picture.convert("L")) > 0, left, top)
    except (binascii.Error, TypeError, ValueError, OSError, SyntaxError, Image.DecompressionBombError):
        return None
