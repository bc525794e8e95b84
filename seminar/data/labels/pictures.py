"""Labels painted on pictures: PNG files in which few pixels have a class, and all others none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from seminar.data.files import read_mask
from seminar.data.labels import Drawn, Labels, Source, formats
from seminar.spec import InputError

DOT = 49
"""Pixels of the largest spot that is a click; a larger one is a stroke of a brush."""


@formats.register("png")
class Painted:
    """Spots are clicks, at their middle; strokes are scribbles: dots along the middle of what was painted. The value
    of a pixel is the index of its class."""

    single = True
    what = "label pictures (.png, named like their images; say what pixels without a label are)"

    def knows(self, source: Source) -> bool:
        return source.suffix == ".png"

    def read(self, source: Source) -> Iterator[Drawn]:
        path = source.path
        if source.unlabelled is None:
            source.wrong(
                f"{path}: what value have pixels without a label, 0 or 255? Say it: data_unlabelled=, --unlabelled"
            )
            return
        try:
            drawn = read_mask(path)
        except InputError as error:
            source.wrong(str(error))
            return
        found = Labels(sizes={path: (drawn.shape[1], drawn.shape[0])})
        for cls in sorted(set(np.unique(drawn).tolist()) - {source.unlabelled, 255}):
            pieces, _ = ndimage.label(drawn == cls, np.ones((3, 3)))
            for piece, box in enumerate(ndimage.find_objects(pieces), 1):
                inside = pieces[box] == piece
                top, left = box[0].start, box[1].start
                if inside.sum() <= DOT:
                    y, x = _middle(inside)
                    found.clicks.append((left + x + 0.5, top + y + 0.5, str(cls)))
                    continue
                middle = ndimage.binary_erosion(inside, np.ones((3, 3)))
                for y, x in np.argwhere(middle if middle.any() else inside).tolist():
                    found.scribbles.append((((left + x + 0.5, top + y + 0.5),), str(cls)))
        yield (path.stem,), found


def _middle(inside: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> tuple[int, int]:
    """Return the pixel of a spot that is nearest to its middle."""
    places = np.argwhere(inside)
    y, x = places[((places - places.mean(0)) ** 2).sum(1).argmin()].tolist()
    return y, x
