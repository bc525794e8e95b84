"""Files of the COCO data set, which many tools write: instances and key points."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from seminar.data.files import MOST_PIXELS
from seminar.data.labels import Drawn, Labels, Source, finite, formats, pairs, runs, size, unrolled
from seminar.text import brief


@formats.register("coco")
class Coco:
    """Visible key points are clicks of their category, segmentations are areas."""

    single = False
    what = "COCO key points and instances (.json)"

    def knows(self, source: Source) -> bool:
        content = source.json
        return isinstance(content, dict) and all(
            isinstance(content.get(name), list) for name in ("images", "annotations", "categories")
        )

    def read(self, source: Source) -> Iterator[Drawn]:
        content, path = source.json, source.path
        assert isinstance(content, dict)
        try:
            names = {one["id"]: one["name"] for one in content["categories"]}
            images = {one["id"]: one for one in content["images"]}
            files = {id: str(one["file_name"]) for id, one in images.items()}
        except (KeyError, TypeError):
            source.wrong(f"{path}: a category without id and name, or an image without id and file_name")
            return
        for what in ("categories", "images"):
            twice = [id for id, count in Counter(one["id"] for one in content[what]).items() if count > 1]
            if twice:
                source.wrong(
                    f"{path}: id {twice[0]!r} stands for several of the {what}, as in files that were joined by hand; "
                    "give each an id of its own"
                )
                return
        nameless = [id for id, name in names.items() if not isinstance(name, str | int)]
        if nameless:
            source.wrong(f"{path}: category {nameless[0]!r} has the name {brief(names[nameless[0]])}; write a text")
            return
        drawn = {id: Labels() for id in images}
        boxes: Counter[str] = Counter()
        for annotation in content["annotations"]:
            given = annotation if isinstance(annotation, dict) else {}
            where = f"{path}: annotation {given.get('id')}"
            try:
                image, name = given["image_id"], str(names[given["category_id"]])
                here = image in images
            except (KeyError, TypeError):
                here = False
            if not here:
                source.wrong(f"{where}: of an image or a category that the file does not have")
                continue
            try:
                if not _add(drawn[image], name, given, images[image]):
                    boxes[files[image]] += 1
            except (IndexError, KeyError, TypeError, ValueError):
                source.wrong(f"{where} ({name}): key points or a segmentation that cannot be read")
        for id, found in drawn.items():
            found.sizes[path] = _size(images[id])
            yield (files[id],), found
        if boxes:  # beside others they are what detectors learn from
            nothing = source.meant and all(found.empty for found in drawn.values())
            (source.wrong if nothing else source.note)(
                f"{path}: {boxes.total()} boxes alone in {len(boxes)} images, first {next(iter(boxes))}, are left out; "
                "a box says neither which pixels an object has nor where to click"
            )


def _add(found: Labels, name: str, annotation: Mapping[str, Any], image: Mapping[str, Any]) -> bool:
    """Add an annotation; return whether it has more than a box. Raises `ValueError` and others where it is broken."""
    before = len(found.clicks)
    given = annotation.get("keypoints") or ()
    for x, y, visible in zip(given[::3], given[1::3], given[2::3], strict=True):
        if finite(visible) > 0:
            found.clicks.append((finite(x), finite(y), name))
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        height, width = (int(finite(side)) for side in segmentation["size"])
        if not 0 < height * width <= MOST_PIXELS or _size(image) not in (None, (width, height)):
            raise ValueError
        counts = segmentation["counts"]
        flat = unrolled(_counts(counts) if isinstance(counts, str) else counts, height * width)
        found.areas.append((name, "runs", runs(flat.reshape(width, height).T, 0, 0)))  # by columns
        return True
    for polygon in segmentation or ():
        points = pairs(polygon)
        if len(points) < 3:
            raise ValueError
        found.areas.append((name, "polygon", points))
    return len(found.clicks) > before or bool(segmentation)


def _size(image: Mapping[str, Any]) -> tuple[int, int] | None:
    return size(image.get("width"), image.get("height"))


def _counts(text: str) -> list[int]:
    """Return the counts of a compressed mask, as pycocotools writes them: five bits to a letter, the lowest first, and
    a bit that says whether more follow; from the fourth count on the difference to the one before the last. Raises
    `ValueError`."""
    counts: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64:
            raise ValueError
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # the sign
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
