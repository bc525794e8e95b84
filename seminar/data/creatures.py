"""The data set that needs no download: generated images of six kinds of object, exact masks, clicks and scribbles.

Each object is 4 to 8 soft primitives. Its body carries the texture of its class; its other parts are painted from one
palette that all classes and the background clutter share, so neither a colour nor a single part tells the class.
Objects may overlap and may be cut by the border; the mask is what is visible.

Frames: an image is (3, size, size). An object is designed in units of its scale, x to the right (the side it faces),
y down, within about 1.3 units of its centre; painting uses the same turned frame in pixels.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Annotated, Any, NamedTuple, overload

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from pydantic import Field

from seminar.data import Box, Click, Example, Scribble, Split, datasets
from seminar.data.strokes import trace

GENERATOR = 1
"""Raised whenever an unchanged (seed, index, size, background_clicks) yields another image, mask, click or scribble."""

Floats = NDArray[np.floating[Any]]
Colour = NDArray[np.float32]
"""RGB, shape (3,), about 0 to 1; clipped only in the finished image."""
Point = tuple[float, float]
Shape = Callable[[Floats, Floats], Floats]
"""Signed distance of the points (x, y), in units of the frame: negative inside."""

VALIDATION = 500_000
"""Index of the first validation image. It is fixed, so that the validation images stay the same whatever the number of
training images is."""
BACKGROUND_SCRIBBLES = 2


class Paint(NamedTuple):
    """A texture field by name and the colours where the field is 0 and 1."""

    field: str
    low: Colour
    high: Colour


class Part(NamedTuple):
    """A shape of a creature and how it is painted."""

    shape: Shape
    paint: Paint


# ---- texture fields


@lru_cache(maxsize=4)
def texture_bank(size: int) -> dict[str, Floats]:
    """Return the 14 texture fields, each (3 size, 3 size) in 0..1 and periodic; at 64 px they are 192 x 192."""
    side, rng = 3 * size, np.random.default_rng(20)
    y, x = np.mgrid[0:side, 0:side] * (192 / side)

    def fractal(slope: float, stretch: float = 1.0) -> Floats:
        """Return noise of spectrum 1 / f^slope, mean 0.5, std 0.22, drawn out along x by `stretch`."""
        fy, fx = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None] * stretch
        frequency = np.maximum(np.hypot(fy, fx), 1 / side)
        noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * frequency**-slope, s=(side, side))
        scaled: Floats = np.clip(0.5 + 0.22 * (noise - noise.mean()) / noise.std(), 0, 1)
        return scaled

    def wave(along: Floats, cycles: int, wobble: float) -> Floats:
        phase = 2 * np.pi * (along * cycles / 192 + wobble * fractal(1.8))
        return 0.5 + np.clip(1.5 * np.sin(phase), -0.5, 0.5)

    def dots(cells: int, radius: float) -> Floats:
        """Return one dot in each cell of a grid, off its centre at random; `radius` as a fraction of the cell."""
        cy, cx = y * cells / 192, x * cells / 192
        row, column = cy.astype(int), cx.astype(int)
        shift = rng.uniform(-0.18, 0.18, (2, cells, cells))
        distance = np.hypot(cy - row - 0.5 - shift[0, row, column], cx - column - 0.5 - shift[1, row, column])
        inside: Floats = np.clip(0.5 + (radius - distance) * 6, 0, 1)
        return inside

    fields = {
        "smooth": fractal(2.2),
        "cloud": fractal(1.6),
        "rough": fractal(1.0),
        "fleck": fractal(0.4),
        "grain": rng.uniform(0, 1, (side, side)),
        "streaks": fractal(1.1, stretch=6),
        "fur": fractal(0.8, stretch=3),
        "stripes": wave(x, 34, 0.9),
        "bands": wave(y, 40, 0.25),
        "spots": dots(36, 0.30),
        "leaves": dots(26, 0.36),
        "checks": (((x // 4) + (y // 4)) % 2) * 0.85 + 0.15 * fractal(0.8),
        "veins": np.clip(np.abs(fractal(1.4) - 0.5) * 6, 0, 1),
        "patches": np.clip((fractal(1.5) - 0.52) * 14 + 0.5, 0, 1),
    }
    return {name: field.astype(np.float32) for name, field in fields.items()}


# ---- paints

ACCESSORIES = (
    (0.82, 0.62, 0.50), (0.55, 0.38, 0.22), (0.76, 0.63, 0.40), (0.84, 0.84, 0.82), (0.50, 0.50, 0.53),
    (0.15, 0.15, 0.17), (0.35, 0.45, 0.64), (0.28, 0.55, 0.28), (0.42, 0.42, 0.18), (0.86, 0.56, 0.22),
    (0.66, 0.30, 0.24), (0.42, 0.74, 0.64),
)  # fmt: skip
"""Base colours of limbs, heads, pots, wheels and clutter, and of one body in ten."""
BACKDROPS = (
    (0.30, 0.42, 0.60), (0.58, 0.66, 0.74), (0.30, 0.50, 0.26), (0.18, 0.30, 0.20), (0.68, 0.60, 0.46),
    (0.40, 0.30, 0.22), (0.50, 0.50, 0.52), (0.62, 0.40, 0.32), (0.26, 0.56, 0.44),
)  # fmt: skip


def _pick(rng: Generator, colours: Sequence[tuple[float, float, float]], jitter: float = 0.06) -> Colour:
    return np.array(colours[int(rng.integers(len(colours)))], np.float32) + rng.normal(0, jitter, 3).astype(np.float32)


def _hue(rng: Generator, low: float, high: float, saturation: float, value: float) -> Colour:
    """Return a colour whose hue lies between `low` and `high` turns."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(low, high) % 1, saturation, value), np.float32)


def _accessory(rng: Generator) -> Paint:
    base = _pick(rng, ACCESSORIES)
    return Paint(rng.choice(("smooth", "cloud", "rough", "fleck", "grain", "fur", "veins")), base * 0.72, base * 1.2)


def _body(rng: Generator, field: str, low: Colour, high: Colour) -> Paint:
    """Return the paint of a body: the pattern is always of its class, faint or strong; the ground nine times in ten."""
    ground = _pick(rng, ACCESSORIES) if rng.random() < 0.1 else high + rng.normal(0, 0.05, 3).astype(np.float32)
    return Paint(field, low + np.float32(rng.uniform(0, 0.4)) * (ground - low), ground)


def _backdrop(rng: Generator) -> Paint:
    base = _pick(rng, BACKDROPS)
    return Paint(rng.choice(("streaks", "streaks", "fur", "rough", "fleck", "cloud")), base * 0.5, base * 1.4)


# ---- shapes


def _capsule(a: Point, b: Point, radius: float) -> Shape:
    (ax, ay), (dx, dy) = a, (b[0] - a[0], b[1] - a[1])

    def distance(x: Floats, y: Floats) -> Floats:
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        return np.hypot(x - ax - t * dx, y - ay - t * dy) - radius

    return distance


def _ellipse(centre: Point, rx: float, ry: float) -> Shape:
    # (|p / r| - 1) min(r) is no distance far away, but has the right zero set and about the right slope beside it.
    return lambda x, y: (np.hypot((x - centre[0]) / rx, (y - centre[1]) / ry) - 1) * min(rx, ry)


def _box(centre: Point, hx: float, hy: float) -> Shape:
    return lambda x, y: np.maximum(np.abs(x - centre[0]) - hx, np.abs(y - centre[1]) - hy)


def _polygon(*points: Point) -> Shape:
    """Return a convex polygon, its corners clockwise as seen (y down): the largest distance from its edges' lines."""

    def distance(x: Floats, y: Floats) -> Floats:
        result = np.full_like(x, -np.inf)
        for (ax, ay), (bx, by) in zip(points, (*points[1:], points[0]), strict=True):
            nx, ny = (by - ay) / math.dist((ax, ay), (bx, by)), (ax - bx) / math.dist((ax, ay), (bx, by))
            np.maximum(result, (x - ax) * nx + (y - ay) * ny, out=result)
        return result

    return distance


def _horizon(level: float, height: float, waves: float) -> Shape:
    """Return all that lies below a wavy line."""
    return lambda x, y: level + height * np.sin(waves * x) - y


# ---- the six classes: parts from back to front


def _quadruped(rng: Generator) -> list[Part]:
    pattern = rng.choice(("stripes", "patches"))
    coat = _body(rng, pattern, np.array((0.16, 0.10, 0.07), np.float32), _hue(rng, 0.05, 0.16, 0.55, 0.66))
    limb, head = _accessory(rng), _accessory(rng)
    neck_x, neck_y = rng.uniform(0.75, 0.95), rng.uniform(-0.7, -0.3)
    legs = [
        Part(_capsule((x, 0.2), (x + rng.normal(0, 0.12), rng.uniform(0.85, 1.0)), 0.10), limb)
        for x in (-0.55, -0.3, 0.35, 0.6)
    ]
    return [
        *legs,
        Part(_capsule((-0.7, -0.1), (-1.15, rng.uniform(-0.7, 0.4)), 0.06), head),
        Part(_capsule((0.6, -0.1), (neck_x, neck_y), 0.13), limb),
        Part(_ellipse((neck_x + 0.1, neck_y), 0.26, 0.17), head),
        Part(_ellipse((0.0, 0.0), 0.78, rng.uniform(0.3, 0.42)), coat),
    ]


def _bird(rng: Generator) -> list[Part]:
    plumage = _body(rng, "spots", _hue(rng, 0.55, 0.72, 0.5, 0.42), _hue(rng, 0.5, 0.7, 0.08, 0.78))
    limb, head, tail = _accessory(rng), _accessory(rng), _accessory(rng)
    head_x, head_y = rng.uniform(0.6, 0.75), rng.uniform(-0.7, -0.45)
    drop = rng.uniform(-0.1, 0.5)
    legs = [
        Part(_capsule((x, 0.3), (x + rng.normal(0, 0.08), rng.uniform(0.85, 1.0)), 0.055), limb) for x in (-0.05, 0.2)
    ]
    return [
        *legs,
        Part(_polygon((-0.4, -0.22), (-0.3, 0.2), (-1.25, drop + 0.12), (-1.25, drop)), tail),
        Part(_polygon((head_x, head_y - 0.13), (head_x + 0.6, head_y + 0.05), (head_x, head_y + 0.13)), limb),
        Part(_ellipse((0.0, 0.0), 0.6, rng.uniform(0.34, 0.46)), plumage),
        Part(_ellipse((head_x, head_y), 0.27, 0.25), head),
        Part(_ellipse((-0.15, -0.05), 0.34, 0.15), tail),
    ]


def _vehicle(rng: Generator) -> list[Part]:
    colour = _hue(rng, 0, 1, rng.uniform(0.2, 0.65), 0.5)  # any: only the sheen is of the class
    lacquer = _body(rng, "smooth", colour, colour * 1.6)
    cab_x, cab = rng.uniform(-0.45, 0.45), _accessory(rng)
    tyre = Paint("grain", *np.outer((0.06, 0.26), np.ones(3)).astype(np.float32))
    wheels = ((-0.6, 0.6), (-0.65, 0.0, 0.65))[int(rng.integers(2))]
    return [
        Part(_box((cab_x, -0.4), rng.uniform(0.28, 0.42), 0.28), cab),
        Part(_box((cab_x + 0.08, -0.38), 0.16, 0.12), _accessory(rng)),
        Part(_box((0.0, 0.1), rng.uniform(0.9, 1.05), rng.uniform(0.25, 0.32)), lacquer),
        *(Part(_ellipse((x, 0.4), 0.21, 0.21), tyre) for x in wheels),
    ]


def _aircraft(rng: Generator) -> list[Part]:
    hull = _body(rng, "bands", _hue(rng, -0.05, 0.03, 0.75, 0.72), np.array((0.88, 0.87, 0.85), np.float32))
    wing, tail = _accessory(rng), _accessory(rng)
    sweep, span = rng.uniform(0.3, 0.65), rng.uniform(0.75, 0.95)
    return [
        Part(_capsule((-0.85, 0.0), (-1.1, -0.4), 0.1), tail),
        Part(_capsule((-0.85, 0.0), (-1.1, 0.4), 0.1), tail),
        Part(_capsule((0.15, 0.0), (0.15 - sweep, -span), 0.13), wing),
        Part(_capsule((0.15, 0.0), (0.15 - sweep, span), 0.13), wing),
        Part(_capsule((-1.0, 0.0), (1.0, 0.0), rng.uniform(0.15, 0.2)), hull),
    ]


def _plant(rng: Generator) -> list[Part]:
    leaf = _body(rng, "leaves", _hue(rng, 0.25, 0.38, 0.7, 0.26), _hue(rng, 0.2, 0.36, 0.55, 0.55))
    lean = rng.normal(0, 0.12)
    crown = []
    for _ in range(rng.integers(2, 5)):
        centre, (rx, ry) = (lean + rng.normal(0, 0.24), rng.uniform(-0.9, -0.25)), rng.uniform(0.3, 0.46, 2).tolist()
        crown.append(Part(_ellipse(centre, rx, ry), leaf))
    return [
        Part(_capsule((0.0, 0.7), (lean, -0.4), 0.09), _accessory(rng)),
        Part(_box((0.0, 0.8), rng.uniform(0.3, 0.42), 0.22), _accessory(rng)),
        *crown,
    ]


def _person(rng: Generator) -> list[Part]:
    shirt = _body(rng, "checks", _hue(rng, 0.58, 0.78, 0.65, 0.5), _hue(rng, 0.85, 1.02, 0.6, 0.72))
    skin, trousers = _accessory(rng), _accessory(rng)
    limbs = [
        Part(_capsule((0.13 * side, 0.25), (0.2 * side + rng.normal(0, 0.12), 1.1), 0.13), trousers) for side in (-1, 1)
    ]
    for side in (-1, 1):
        swing = rng.uniform(-0.3, 1.3)  # radians from hanging down
        hand = (side * (0.3 + 0.75 * math.sin(swing)), -0.32 + 0.75 * math.cos(swing))
        limbs.append(Part(_capsule((side * 0.3, -0.32), hand, 0.09), skin))
    return [
        *limbs,
        Part(_box((0.0, -0.6), 0.08, 0.15), skin),
        Part(_box((0.0, -0.08), 0.33, 0.4), shirt),
        Part(_ellipse((rng.normal(0, 0.05), -0.85), 0.23, 0.26), _accessory(rng)),
    ]


OBJECTS: dict[str, tuple[Callable[[Generator], list[Part]], float]] = {
    "quadruped": (_quadruped, 0.2),
    "bird": (_bird, 0.2),
    "vehicle": (_vehicle, 0.15),
    "aircraft": (_aircraft, 0.4),
    "plant": (_plant, 0.15),
    "person": (_person, 0.2),
}
"""Name -> (its parts, standard deviation of its turn in radians). Class index = position + 1."""


# ---- one image


class Canvas:
    """An image under way: `image` (3, size, size) float RGB, `owner` (size, size): 0 background, i the i-th object."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.image = np.zeros((3, size, size), np.float32)
        self.owner = np.zeros((size, size), np.uint8)

    def window(self, cx: float, cy: float, reach: float) -> tuple[slice, slice]:
        """Return rows and columns within `reach` of a centre; all in pixels."""
        rows, columns = (slice(max(int(c - reach), 0), min(int(c + reach) + 1, self.size)) for c in (cy, cx))
        return rows, columns

    def place(
        self, rng: Generator, parts: Sequence[Part], centre: Point, scale: float, turn: float, owner: int
    ) -> None:
        """Draw parts whose frame has its origin at `centre` and `scale` pixels to a unit, mirrored half the time."""
        rows, columns = self.window(*centre, 1.5 * scale)
        x = np.arange(columns.start, columns.stop, dtype=np.float32)[None] + (0.5 - centre[0])
        y = np.arange(rows.start, rows.stop, dtype=np.float32)[:, None] + (0.5 - centre[1])
        cos, sin = math.cos(turn), math.sin(turn)
        along, across = cos * x + sin * y, cos * y - sin * x
        if rng.random() < 0.5:
            along = -along
        unit_x, unit_y = along / scale, across / scale
        image, owners, bank = self.image[:, rows, columns], self.owner[rows, columns], texture_bank(self.size)
        side = 3 * self.size
        start = rng.integers(side, 2 * side, 2).astype(np.float32)  # beyond 0, where the cast would round both ways
        index = (across + start[0]).astype(np.intp) * side + (along + start[1]).astype(np.intp)
        for part in parts:
            cover = np.clip(0.5 - part.shape(unit_x, unit_y) * scale, 0, 1)
            value = bank[part.paint.field].take(index, mode="wrap")
            paint = part.paint.low[:, None, None] + value * (part.paint.high - part.paint.low)[:, None, None]
            image += cover * (paint - image)
            owners[cover >= 0.5] = owner


def _clutter(rng: Generator) -> Part:
    """Return one piece within about one unit of its centre."""
    slim, wide = rng.uniform(0.15, 0.3), rng.uniform(0.45, 0.8)
    shapes = (
        _capsule((-1.0, 0.0), (1.0, 0.0), slim),
        _ellipse((0.0, 0.0), 0.7, wide),
        _box((0.0, 0.0), 0.7, wide),
        _polygon((-0.8, 0.6), (0.0, -0.9), (0.8, 0.6)),
    )
    return Part(shapes[rng.choice(4, p=(0.4, 0.25, 0.25, 0.1))], _accessory(rng))


def draw(rng: Generator, size: int) -> tuple[Floats, NDArray[np.uint8], list[int]]:
    """Return one picture: image (3, size, size) float RGB in 0..1; owner (size, size), 0 background and i the i-th
    object; the class of each owner (`classes[0]` = 0)."""
    canvas = Canvas(size)
    centre, everywhere = (size / 2, size / 2), _box((0.0, 0.0), 9.0, 9.0)
    canvas.place(rng, [Part(everywhere, _backdrop(rng))], centre, size / 2, rng.uniform(-1, 1), 0)
    horizon = _horizon(rng.uniform(-0.4, 0.5), rng.uniform(0.02, 0.08), rng.uniform(2, 7))
    canvas.place(rng, [Part(horizon, _backdrop(rng))], centre, size / 2, rng.normal(0, 0.25), 0)
    for _ in range(rng.integers(3, 9)):
        at = (rng.uniform(0, size), rng.uniform(0, size))
        canvas.place(rng, [_clutter(rng)], at, size * rng.uniform(0.08, 0.24), rng.uniform(-3, 3), 0)
    classes = [0]
    for owner in range(1, 2 + rng.choice(3, p=(0.25, 0.4, 0.35))):
        classes.append(int(rng.integers(len(OBJECTS))) + 1)
        parts, unrest = list(OBJECTS.values())[classes[-1] - 1]
        at = (size * rng.uniform(0.15, 0.85), size * rng.uniform(0.15, 0.85))
        canvas.place(rng, parts(rng), at, size * rng.uniform(0.26, 0.44), rng.normal(0, unrest), owner)
    ramp = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    slope = rng.uniform(-0.5, 0.5, 2).astype(np.float32)
    light = np.float32(rng.uniform(0.8, 1.15)) + slope[0] * ramp[:, None] + slope[1] * ramp
    noise = rng.standard_normal((3, size, size), dtype=np.float32) * np.float32(rng.uniform(0.01, 0.03))
    return np.clip(canvas.image * light + noise, 0, 1), canvas.owner, classes


@lru_cache(maxsize=4)
def _blur(size: int) -> Floats:
    """Return K (size, size): `K @ mask @ K` sums a mask over a window of size / 8, twice. In whole numbers, so
    exact."""
    at = np.arange(size)
    band: Floats = (np.abs(at[:, None] - at) <= size // 16).astype(np.float64)
    return band @ band


def _worth_a_label(visible: NDArray[np.bool_]) -> bool:
    """Return whether an object shows at least 12 pixels (of 64 x 64)."""
    return bool(visible.sum() * 64**2 >= 12 * len(visible) ** 2)


def _inwards(rng: Generator, visible: NDArray[np.bool_], among: NDArray[np.bool_]) -> int:
    """Return the flat index of a pixel of `among`, rather from the middle of `visible` than from its edge."""
    blur = _blur(len(visible))
    weight = np.cumsum((among * (blur @ visible @ blur)) ** 4)
    return int(np.searchsorted(weight, rng.random() * weight[-1], side="right"))


def place_clicks(
    rng: Generator, owner: NDArray[np.uint8], classes: Sequence[int], background_clicks: int
) -> tuple[Click, ...]:
    """Return one click for each object of at least 12 visible pixels (of 64 x 64), towards the middle of what is
    visible, then background clicks, uniform and all different. All at pixel centres."""
    size = len(owner)
    chosen: list[tuple[int, int]] = []
    for instance in range(1, len(classes)):
        visible = owner == instance
        if _worth_a_label(visible):
            chosen.append((_inwards(rng, visible, visible), classes[instance]))
    free = np.flatnonzero(owner == 0)
    chosen += [(int(at), 0) for at in rng.choice(free, min(background_clicks, len(free)), replace=False)]
    return tuple(Click(x=at % size + 0.5, y=at // size + 0.5, cls=cls) for at, cls in chosen)


def _wander(
    rng: Generator, home: NDArray[np.intp], starts: NDArray[np.intp], lengths: Floats
) -> list[list[NDArray[np.intp]]]:
    """Return lines of at most `lengths` (n,) pixels through the pixels `starts` (n, 2) x, y, as their corner pixels.

    A line bends by at most 60 degrees at a time and stays, as `trace` draws it, on pixels with its start's value in
    `home` (size, size). All n grow at once, in half the time.
    """
    homes = home[starts[:, 1], starts[:, 0]]
    pools = [np.argwhere(home == value)[:, ::-1] for value in homes]
    counts = np.array([len(pool) for pool in pools])[:, None]
    pool, offsets = np.concatenate(pools), np.cumsum(counts)[:, None] - counts
    lines, left = [[start] for start in starts], lengths.copy()
    for at, beside in ((-1, -2), (0, 1)) * 2:
        tip = np.array([line[at] for line in lines])
        before = tip - np.array([line[beside if len(line) > 1 else at] for line in lines])
        there = pool[(rng.random((len(lines), 32)) * counts).astype(np.intp) + offsets]
        way = there - tip[:, None]
        far, ahead = (way**2).sum(-1), (way * before[:, None]).sum(-1)
        fits = (far > 0) & (far <= np.minimum(left, 0.4 * lengths)[:, None] ** 2)
        fits &= (ahead >= 0) & (4 * ahead**2 >= far * (before**2).sum(-1, keepdims=True))
        which = np.nonzero(fits)[0]
        # The way it will be drawn, along the line: the other way, a tie between two pixels goes to the other one
        path = trace(there[fits], tip[which]) if at == 0 else trace(tip[which], there[fits])
        far[~fits] = 0
        far[fits] *= (home[path[..., 1], path[..., 0]] == homes[which, None]).all(1)
        for k, best in enumerate(far.argmax(1)):
            if far[k, best]:
                lines[k].insert(len(lines[k]) if at else 0, there[k, best])
                left[k] -= math.sqrt(far[k, best])
    return lines


def place_scribbles(rng: Generator, owner: NDArray[np.uint8], classes: Sequence[int]) -> tuple[Scribble, ...]:
    """Return one scribble, at most as long as what is visible is wide or high, for each object that would get a click,
    then those on the background, at most half as long as the image. All corners at pixel centres.

    Every pixel of a scribble, as `trace` joins the corners, belongs to its object. Where that is thick enough anywhere,
    the scribble keeps one pixel away from all others, so that 3 pixels wide or enlarged it stays on the object too. On
    less than that it may be a dot.
    """
    size = len(owner)
    padded = np.pad(owner, 1, mode="edge")
    neighbours = [padded[y : y + size, x : x + size] for y in range(3) for x in range(3)]
    home = np.where(np.logical_and.reduce([neighbour == owner for neighbour in neighbours]), owner.astype(np.intp), -1)
    starts: list[int] = []
    lengths: list[float] = []
    found: list[int] = []
    for instance, cls in enumerate(classes):
        visible = owner == instance
        if not (home == instance).any():
            home[visible] = instance
        if instance and _worth_a_label(visible):
            starts.append(_inwards(rng, visible, home == instance))
            lengths.append(max(int(np.ptp(at)) + 1 for at in np.nonzero(visible)))
            found.append(cls)
    free = np.flatnonzero(home == 0)
    background = rng.choice(free, min(BACKGROUND_SCRIBBLES, len(free)), replace=False).tolist()
    starts, lengths = starts + background, lengths + [size / 2] * len(background)
    at = np.array(starts, np.intp)
    lines = _wander(rng, home, np.stack((at % size, at // size), 1), np.array(lengths, np.float64))
    return tuple(
        Scribble(tuple((int(x) + 0.5, int(y) + 0.5) for x, y in line), cls)
        for line, cls in zip(lines, found + [0] * len(background), strict=True)
    )


def place_boxes(owner: NDArray[np.uint8], classes: Sequence[int]) -> tuple[Box, ...]:
    """Return the box around what is visible of each object that would get a click."""
    found: list[Box] = []
    for instance, cls in enumerate(classes):
        visible = owner == instance
        if instance and _worth_a_label(visible):
            y, x = np.nonzero(visible)
            found.append(Box(int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1, cls))
    return tuple(found)


def make(seed: int, index: int, size: int = 64, background_clicks: int = 2) -> Example:
    """Image `index` of the endless series `seed`; no other image is drawn on the way."""
    rng = np.random.default_rng((seed, index))
    image, owner, classes = draw(rng, size)
    clicks = place_clicks(rng, owner, classes, background_clicks)
    return Example(
        id=f"creatures-{seed}-{index:06d}",
        image=torch.from_numpy(np.round(image * 255).astype(np.uint8)),
        mask=torch.from_numpy(np.array(classes, np.uint8)[owner]),
        clicks=clicks,
        # A generator of their own: a change here leaves images, masks and clicks as they are
        scribbles=place_scribbles(np.random.default_rng((seed, index, 1)), owner, classes),
        boxes=place_boxes(owner, classes),
    )


_made = lru_cache(maxsize=8192)(make)
"""Shared by all instances, so that later epochs and trainings of a process do not draw again. 16 kB each at 64 px."""


class _Series(Sequence[Example]):
    """The images `indices` of a data set's series, made at the first use. Shared: do not write into the tensors."""

    def __init__(self, data: Creatures, indices: range) -> None:
        self.data, self.indices = data, indices

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, at: int) -> Example: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Example]: ...
    def __getitem__(self, at: int | slice) -> Example | Sequence[Example]:
        if isinstance(at, slice):
            return _Series(self.data, self.indices[at])
        return _made(self.data.seed, self.indices[at], self.data.size, self.data.background_clicks)


@datasets.register("creatures")
class Creatures:
    """The generated data set: 6 classes, `train` + `val` images of `size` x `size` pixels from one `seed`."""

    classes = ("background", *OBJECTS)
    background: int | None = 0
    dense = True

    def __init__(
        self,
        *,
        seed: Annotated[int, Field(ge=0)] = 0,
        train: Annotated[int, Field(ge=1, le=VALIDATION)] = 320,
        val: Annotated[int, Field(ge=1, le=VALIDATION)] = 160,
        size: Annotated[int, Field(ge=32, le=10_000)] = 64,
        background_clicks: Annotated[int, Field(ge=0)] = 2,
    ) -> None:
        self.seed, self.train, self.val = seed, train, val
        self.size, self.background_clicks = size, background_clicks

    def fingerprint(self) -> str:
        return (
            f"creatures {GENERATOR}: seed={self.seed} train={self.train} val={self.val}"
            f" size={self.size} background_clicks={self.background_clicks}"
        )

    def split(self, split: Split) -> Sequence[Example]:
        start, count = {"train": (0, self.train), "val": (VALIDATION, self.val)}[split]
        return _Series(self, range(start, start + count))
