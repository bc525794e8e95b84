"""Files of CVAT: XML "for images", version 1.1."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from seminar.data.files import MOST_PIXELS
from seminar.data.labels import (
    Drawn,
    Labels,
    Points,
    Source,
    finite,
    formats,
    pairs,
    polygon_of,
    runs,
    size,
    turned,
    unrolled,
)
from seminar.text import brief


@formats.register("cvat")
class Cvat:
    """Points are clicks, polylines scribbles; polygons, boxes, ellipses and masks are areas."""

    single = False
    what = "CVAT for images 1.1 (.xml)"

    def knows(self, source: Source) -> bool:
        root = source.xml
        return root is not None and root.tag == "annotations" and root.find("polygon") is None

    def read(self, source: Source) -> Iterator[Drawn]:
        root, path = source.xml, source.path
        assert root is not None
        if root.find("track") is not None:
            source.wrong(f'{path}: tracks of a video; export the task as "CVAT for images 1.1"')
            return
        tags = 0
        for image in root.iter("image"):
            name, found = image.get("name", "").strip(), Labels()
            if not name:
                source.wrong(f"{path}: the image with id {brief(image.get('id'))} has no name; export the task again")
                continue
            for shape in image:
                if shape.tag == "tag":
                    tags += 1
                    continue
                # The points of a skeleton are its children, each with a label of its own.
                for one in shape.findall("points") if shape.tag == "skeleton" else [shape]:
                    self._shape(source, name, one, found)
            found.sizes[path] = size(image.get("width"), image.get("height"))
            yield (name,), found
        if tags:
            source.note(f"{path}: {tags} tags of whole images are left out: they lie nowhere")

    def _shape(self, source: Source, image: str, shape: Element, found: Labels) -> None:
        label, kind = (shape.get("label") or "").strip(), shape.tag
        where = f"{source.path}: {image}: {label or 'a shape without a label'}"
        if not label:
            source.wrong(f"{where}: {brief(kind)}")
            return
        if shape.get("outside") == "1":
            return  # a point of a skeleton that is not in the picture
        try:
            if kind == "points":
                found.clicks += [(x, y, label) for x, y in _points(shape)]
            elif kind == "polyline":
                found.scribbles.append((_points(shape), label))
            elif kind == "polygon":
                points = _points(shape)
                if len(points) < 3:
                    raise ValueError
                found.areas.append((label, "polygon", points))
            elif kind == "box":
                found.areas.append((label, *_box(shape)))
            elif kind == "ellipse":
                x, y, rx, ry = (finite(shape.get(name)) for name in ("cx", "cy", "rx", "ry"))
                found.areas.append((label, "polygon", polygon_of(x, y, rx, ry, finite(shape.get("rotation", "0")))))
            elif kind == "mask":
                pixels = _mask(shape)
                if pixels:
                    found.areas.append((label, "runs", pixels))
            else:
                source.wrong(f"{where}: a {kind}, which is not read")
        except ValueError:
            source.wrong(f"{where}: {kind}: numbers are missing, or are none that it can have")


def _points(shape: Element) -> Points:
    """Return the points of `points="12.5,7;13,8"`."""
    text = shape.get("points", "")
    return pairs(value for point in text.split(";") for value in point.split(","))


def _box(shape: Element) -> tuple[str, Points]:
    """Return a box, and where it is turned, the polygon that it is."""
    left, top, right, bottom = (finite(shape.get(name)) for name in ("xtl", "ytl", "xbr", "ybr"))
    degrees = finite(shape.get("rotation", "0"))
    if not degrees:
        return "rectangle", ((left, top), (right, bottom))
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    return "polygon", turned(corners, ((left + right) / 2, (top + bottom) / 2), degrees)


def _mask(shape: Element) -> Points:
    """Return the pixels of a mask: lengths of runs within its box, by rows, the first of them outside the mask."""
    left, top, width, height = (int(finite(shape.get(name))) for name in ("left", "top", "width", "height"))
    if width < 1 or height < 1 or width * height > MOST_PIXELS:
        raise ValueError
    flat = unrolled(shape.get("rle", "").split(","), width * height)
    return runs(flat.reshape(height, width), left, top)
