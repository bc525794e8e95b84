"""Polylines on the pixel grid: which pixels a segment passes, and scribbles drawn as label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seminar.data import UNLABELLED

OVERSHOOT = 0.1
"""How far a line may run out of its image, as a fraction of the longer side. ScribbleSup's do, a little."""


def in_reach(point: tuple[float, float], width: int, height: int) -> bool:
    """Return whether a point x, y lies in an image, or no further outside than `OVERSHOOT` allows."""
    reach = OVERSHOOT * max(width, height)
    return -reach <= point[0] < width + reach and -reach <= point[1] < height + reach


def trace(starts: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return (n, steps, 2): the pixels of n segments from pixel `starts` to pixel `ends`, each (n, 2) x, y; both
    included.

    One pixel per column or row, whichever the segment crosses more of, so the pixels touch, if only at their corners.
    A segment shorter than the longest repeats its last pixel. A tie between two pixels goes to the one further from
    the start: so, unlike with rounding up, the mirror image of a segment has the mirrored pixels.
    """
    way = ends - starts
    length = np.abs(way).max(axis=1, initial=0)[:, None]
    at = np.minimum(np.arange(length.max(initial=0) + 1), length)
    covered = (2 * np.abs(way)[:, None] * at[..., None] + length[..., None]) // np.maximum(2 * length, 1)[..., None]
    pixels: NDArray[np.intp] = starts[:, None] + np.sign(way)[:, None] * covered
    return pixels


def draw_scribbles(
    points: Tensor,
    lengths: Sequence[int],
    classes: Sequence[int],
    height: int,
    width: int,
    size: int,
    background: int | None = 0,
) -> Tensor:
    """Return (height, width) uint8: every scribble as a line of its class, 255 elsewhere.

    `points` (n, 2): x, y in continuous pixels (pixel = floor), on the canvas or not: `lengths[0]` >= 1 corners of the
    first scribble, then those of the second; `classes`: one for each scribble; `size`: side of the square brush that
    follows the line, odd. Foreground wins over the class `background` (None: there is none), later over earlier. The
    canvas is a window: it shows what an endless one would show there.
    """
    corners = np.floor(points.numpy()).astype(np.intp)
    strokes = zip(np.split(corners, np.cumsum(lengths, dtype=np.intp))[:-1], classes, strict=True)
    half = size // 2
    # Twice half a brush around the canvas: a line that passes this close outside still leaves whole squares
    frame = np.full((height + 4 * half, width + 4 * half), UNLABELLED, dtype=np.uint8)
    down, right = np.mgrid[half : half + size, half : half + size].reshape(2, -1)
    # The sort is stable: the order within a kind stays.
    for line, cls in sorted(strokes, key=lambda stroke: stroke[1] != background):
        last = len(line) - 1
        x, y = trace(line[: max(last, 1)], line[min(last, 1) :]).reshape(-1, 2).T
        near = (x >= -half) & (x < width + half) & (y >= -half) & (y < height + half)
        frame[y[near, None] + down, x[near, None] + right] = cls
    return torch.from_numpy(frame[2 * half : 2 * half + height, 2 * half : 2 * half + width].copy())
