"""Labels painted on pictures: PNG files in which few pixels have a class, and all others none."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from seminar.data.files import read_mask
from seminar.data.labels import Drawn, Labels, Points, Source, formats, runs
from seminar.spec import InputError

DOT = 49
"""Pixels of the largest spot that is a click; a larger one is a stroke of a brush."""


@formats.register("png")
class Painted:
    """Spots are clicks, at their middle; strokes are scribbles: lines through all pixels of what was painted but its
    edge. The value of a pixel is the index of its class, 255 is no class."""

    single = True
    what = "label pictures (.png, named like their images; say what pixels without a label are)"

    def knows(self, source: Source) -> bool:
        return source.suffix == ".png"

    def read(self, source: Source) -> Iterator[Drawn]:
        path = source.path
        if source.unlabelled is None:
            # Raised, not reported: the same holds for every other picture of labels.
            raise InputError(
                f"{path}: what value have pixels without a label, 0 or 255? Say it: data_unlabelled=, --unlabelled"
            )
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
                for line in lines(runs(middle if middle.any() else inside, left, top)):
                    found.scribbles.append((tuple((x + 0.5, y + 0.5) for x, y in line), str(cls)))
        yield (path.stem,), found


def lines(rows: Points) -> list[list[tuple[float, float]]]:
    """Return lines that pass all pixels of `rows`, as `runs` returns them, and no others: to and fro, row by row. A
    photo of 12 million pixels can have as many painted ones as would fill the memory as single dots."""
    found: list[list[tuple[float, float]]] = []
    above: list[tuple[float, float, list[tuple[float, float]]]] = []  # first, last and line of a row to go on from
    here: list[tuple[float, float, list[tuple[float, float]]]] = []
    at = -1.0
    for (first, y), (last, _) in zip(rows[::2], rows[1::2]):
        if y != at:
            above, here, at = here if y == at + 1 else [], [], y
        over = next((row for row in above if row[0] <= last and first <= row[1]), None)
        if over is None:
            line: list[tuple[float, float]] = []
            found.append(line)
            way = [(first, y), (last, y)]
        else:
            above.remove(over)
            line = over[2]
            to_left = line[-1][0] == over[1]
            down = min(over[1], last) if to_left else max(over[0], first)  # a column that both rows have
            way = [(down, y - 1), (down, y), *([(last, y), (first, y)] if to_left else [(first, y), (last, y)])]
        for point in way:
            if line[-1:] != [point]:
                line.append(point)
        here.append((first, last, line))
    return found


def _middle(inside: np.ndarray[tuple[int, int], np.dtype[np.bool_]]) -> tuple[int, int]:
    """Return the pixel of a spot that is nearest to its middle."""
    places = np.argwhere(inside)
    y, x = places[((places - places.mean(0)) ** 2).sum(1).argmin()].tolist()
    return y, x
