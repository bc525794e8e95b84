"""Polylines on the pixel grid: which pixels a segment passes, and scribbles drawn as label maps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seminar.data import UNLABELLED


def trace(starts: NDArray[np.intp], ends: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n, steps, 2): the pixels of n segments from pixel `starts` to pixel `ends`, each (n, 2) x, y; both included.

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


def draw_scribbles(lines: Sequence[Tensor], classes: Sequence[int], height: int, width: int, size: int) -> Tensor:
    """(height, width) uint8: every scribble as a line of its class, 255 elsewhere.

    `lines`: each (n, 2), n >= 1: x, y in continuous pixels (pixel = floor), also outside the canvas; `classes`: one for
    each line, 0 = background; `size`: side of the square brush that follows the line, odd. Foreground wins over
    background, later over earlier. The canvas is a window: it shows what an endless one would show there.
    """
    half = size // 2
    # Twice half a brush around the canvas: a line that passes this close outside still leaves whole squares
    frame = np.full((height + 4 * half, width + 4 * half), UNLABELLED, dtype=np.uint8)
    down, right = np.mgrid[half : half + size, half : half + size].reshape(2, -1)
    strokes = zip(lines, classes, strict=True)
    for line, cls in sorted(strokes, key=lambda stroke: stroke[1] != 0):  # stable: the order within a kind stays
        stops = line.as_subclass(Tensor).floor().long().numpy()  # type: ignore[no-untyped-call]
        last = len(stops) - 1
        x, y = trace(stops[: max(last, 1)], stops[min(last, 1) :]).reshape(-1, 2).T
        near = (x >= -half) & (x < width + half) & (y >= -half) & (y < height + half)
        frame[y[near, None] + down, x[near, None] + right] = cls
    return torch.from_numpy(frame[2 * half : 2 * half + height, 2 * half : 2 * half + width].copy())
