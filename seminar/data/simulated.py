"""Clicks as a person might set them, drawn from a dense mask.

~/.cache/seminar-learning/clicks/<64 digits>.json    the clicks on one large mask, drawn once
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter
from scipy import ndimage

from seminar.data import UNLABELLED, Click
from seminar.data.contents import cache, remember

SMALLEST = 0.003
"""Share of an image that an object must have to get a simulated click."""
LARGE = 1 << 19
"""Pixels of a mask from which on clicks are remembered."""
VERSION = 1
"""To be raised when `simulate` draws other clicks from the same mask."""
_CLICKS = TypeAdapter(list[tuple[float, float, int]])


def simulate(mask: NDArray[np.uint8], background: int | None, count: int, rng: np.random.Generator) -> list[Click]:
    """Return clicks on a mask (H, W): one for each object, rather in its middle, and `count` anywhere on the class
    `background`. An object is a connected piece of another class, at least `SMALLEST` of the image."""
    clicks: list[Click] = []
    for cls in sorted(set(np.unique(mask).tolist()) - {background, UNLABELLED}):
        pieces, _ = ndimage.label(mask == cls)
        sizes = np.bincount(pieces.ravel())
        for piece, box in enumerate(ndimage.find_objects(pieces), 1):
            if sizes[piece] >= SMALLEST * mask.size:
                inside = np.pad(pieces[box] == piece, 1)
                weights = ndimage.distance_transform_edt(inside)[1:-1, 1:-1] ** 4
                clicks.append(_draw(weights, cls, rng, box[1].start, box[0].start))
    if background is None:
        return clicks
    free = (mask == background).astype(np.float64)
    return clicks + [_draw(free, background, rng) for _ in range(count if free.any() else 0)]


def simulate_clicks_cached(
    mask: NDArray[np.uint8], background: int | None, count: int, seed: int, id: str
) -> list[Click]:
    """Return `simulate`d clicks that depend on `seed` and the id of the image: they stay when others are added.

    Those on a mask of `LARGE` pixels or more are remembered: a street scene of 2048 x 1024 takes about a second, and
    it is read in every epoch.
    """
    place = cache() / "clicks" / f"{_identity(mask, background, count, seed, id)}.json"
    with suppress(OSError, ValueError):
        if mask.size >= LARGE:
            return [Click(*click) for click in _CLICKS.validate_json(place.read_bytes())]
    rng = np.random.default_rng([seed, *hashlib.sha256(id.encode()).digest()[:8]])
    clicks = simulate(mask, background, count, rng)
    if mask.size >= LARGE:
        content = json.dumps([(click.x, click.y, click.cls) for click in clicks]).encode()
        remember(place, lambda file: file.write(content))
    return clicks


def _identity(mask: NDArray[np.uint8], *settings: object) -> str:
    """Return 64 hexadecimal digits over all that simulated clicks depend on."""
    head = repr((VERSION, SMALLEST, mask.shape, settings)).encode()
    return hashlib.sha256(head + mask.tobytes()).hexdigest()


def _draw(weights: NDArray[np.float64], cls: int, rng: np.random.Generator, left: int = 0, top: int = 0) -> Click:
    """Return a click on a pixel drawn with these weights, of a part of an image that begins at `left`, `top`."""
    ends = np.cumsum(weights)
    at = int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))
    return Click(left + at % weights.shape[1] + 0.5, top + at // weights.shape[1] + 0.5, cls)
