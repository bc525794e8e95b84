"""Labels that are grown before training: sure pixels of an image, propagated to the others by a random walker.

A grower is one function, registered under the value of `annotation` that it serves; its keyword-only parameters are the
settings `NAME_...` of a training. It returns labels (H, W) uint8: classes, 255 where it is unsure.

~/.cache/seminar-learning/grown/<64 digits>.png    the labels of one image
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field
from scipy import ndimage
from skimage.segmentation import random_walker
from torch import Tensor
from torch.nn.functional import interpolate

from seminar.data import PADDING, UNLABELLED, Box, Example
from seminar.data.augment import draw_clicks, key_points
from seminar.data.contents import cache, remember
from seminar.data.files import UNREADABLE
from seminar.data.simulated import SMALLEST
from seminar.data.strokes import draw_scribbles
from seminar.parts import Entry, Registry
from seminar.spec import Settings

VERSION = 1
"""To be raised when the same image and sure pixels grow to other labels."""
SIDE = 256
"""Images with a longer side than this are walked on at this size: time and memory grow faster than the pixels. An image
of VOC takes about a second so, and five without."""

Labels = NDArray[np.uint8]
Grower = Callable[..., Labels]
growers: Registry[Grower] = Registry("annotation")

Beta = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


@growers.register("grown")
def grown(
    example: Example,
    size: int,
    background: int | None,
    *,
    source: Literal["clicks", "scribbles"] = "clicks",
    beta: Beta = 130.0,
    share: Share = 0.3,
) -> Labels:
    """Grow clicks or scribbles (`source`), drawn `size` pixels wide: what ScribbleSup (Lin et al., CVPR 2016) does in
    its first round, before there is a network.

    `beta`, `share`: see `walk`.
    """
    height, width = example.mask.shape
    if source == "clicks":
        points = key_points([(click.x, click.y) for click in example.clicks], height, width)
        classes = torch.tensor([click.cls for click in example.clicks])
        sure = draw_clicks(points.as_subclass(Tensor), classes, height, width, size, background)
    else:
        lines = example.scribbles
        corners = key_points([point for line in lines for point in line.points], height, width).as_subclass(Tensor)
        lengths, kinds = [len(line.points) for line in lines], [line.cls for line in lines]
        sure = draw_scribbles(corners, lengths, kinds, height, width, size, background)
    return _walked(example.image, sure.numpy(), beta, share=share)


@growers.register("boxes")
def boxes(
    example: Example,
    size: int | None,
    background: int | None,
    *,
    core: Share = 0.4,
    beta: Beta = 130.0,
    confidence: Annotated[float, Field(ge=0, lt=1)] = 0.7,
) -> Labels:
    """Grow boxes around objects: all outside is background for sure, and so is the middle of a box of its class, `core`
    times as wide and high; the rest of a box is grown, to its class or to the background. A smaller box lies before a
    larger one.

    An example whose `boxes` are None has those of the pieces of its mask. One without any box teaches nothing. Where
    the data have no `background`, nothing is sure outside. `size` is not read. `beta`, `confidence`: see `walk`.
    """
    mask: Labels = example.mask.numpy()
    drawn = boxes_of(mask, background) if example.boxes is None else example.boxes
    if not drawn:
        return np.full_like(mask, UNLABELLED)
    sure = np.full_like(mask, UNLABELLED if background is None else background)
    possible = {box.cls: np.zeros(mask.shape, bool) for box in drawn}
    by_size = sorted(drawn, key=lambda box: (box.x0 - box.x1) * (box.y1 - box.y0))
    for box in by_size:
        sure[_pixels(box, 1.0)] = UNLABELLED
        possible[box.cls][_pixels(box, 1.0)] = True
    for box in by_size:
        sure[_pixels(box, core)] = box.cls
    return _walked(example.image, sure, beta, confidence=confidence, possible=possible)


def walk(
    image: NDArray[np.uint8],
    sure: Labels,
    beta: float,
    share: float = 1.0,
    confidence: float = 0.0,
    possible: dict[int, NDArray[np.bool_]] | None = None,
) -> Labels:
    """Propagate `sure` labels (H, W; 255: unknown) over an image (H, W, 3) by a random walker (Grady, PAMI 2006).

    A pixel gets the class whose sure pixels a walker from there most probably meets first, or 255 where that is less
    probable than `confidence`, or not among the `share` of the pixels of its class that are most probable: so the
    classes keep their proportions (Zou et al., ECCV 2018), where one threshold for all would leave hardly any objects.
    `beta`: how much less readily a walker crosses an edge; the weight between neighbours is
    exp(-beta sum_c d_c^2 / (10 s sqrt 3)) with their difference d in each channel of 0..1 and the standard deviation s
    of the image, as scikit-image scales it. `possible`: (H, W) for some classes,
    where they can be at all; elsewhere their probability is 0. Where there is nothing to decide or to decide by (sure
    pixels of less than two classes, no others, an image of one colour), `sure` is returned as it is.
    """
    classes = np.unique(sure[sure < PADDING])
    if len(classes) < 2 or (sure < PADDING).all() or image.min() == image.max():
        return sure
    height, width = sure.shape
    small, seeds = image, sure
    if max(height, width) > SIDE:
        shape = tuple(max(1, round(SIDE * side / max(height, width))) for side in (height, width))
        small = np.array(Image.fromarray(image).resize(shape[::-1], Image.Resampling.BOX))
        seeds = _shrunk(sure, shape)
        classes = np.unique(seeds[seeds < PADDING])
        if len(classes) < 2 or (seeds < PADDING).all() or small.min() == small.max():
            return sure
    numbers = np.zeros(seeds.shape, np.int32)
    for number, cls in enumerate(classes, 1):
        numbers[seeds == cls] = number
    # "bf", a direct solver: on these sizes faster than the others, and exact
    odds = random_walker(small / 255, numbers, beta=beta, mode="bf", channel_axis=-1, return_full_prob=True)
    if odds.shape[1:] != sure.shape:
        odds = interpolate(torch.from_numpy(odds)[None], (height, width), mode="bilinear")[0].numpy()
    for number, cls in enumerate(classes.tolist()):
        if possible is not None and cls in possible:
            odds[number][~possible[cls]] = 0
    best, won = odds.max(0), odds.argmax(0)
    for number in np.unique(won) if share < 1 else ():
        own = won == number
        best[own & (best < np.quantile(best[own], 1 - share))] = -1
    labels = np.where(best < confidence, UNLABELLED, classes[won]).astype(np.uint8)
    return np.where(sure < PADDING, sure, labels)


def boxes_of(mask: Labels, background: int | None) -> tuple[Box, ...]:
    """Return the box of each object of a mask (H, W): a connected piece of a class but the `background`, of at least
    `SMALLEST` of the image."""
    found: list[Box] = []
    for cls in sorted(set(np.unique(mask[mask < PADDING]).tolist()) - {background}):
        pieces, _ = ndimage.label(mask == cls)
        sizes = np.bincount(pieces.ravel())
        found += [
            Box(x.start, y.start, x.stop, y.stop, cls)
            for piece, (y, x) in enumerate(ndimage.find_objects(pieces), 1)
            if sizes[piece] >= SMALLEST * mask.size
        ]
    return tuple(found)


def grower(annotation: str | None) -> Entry[Grower] | None:
    """Return what grows the labels of a value of `annotation`; None: they are drawn as they are."""
    return growers[annotation] if annotation is not None and annotation in set(growers) else None


def labels_of(
    example: Example, annotation: str, settings: Settings, size: int | None, background: int | None
) -> Tensor:
    """Return the grown labels (H, W) uint8 of an example: classes, 255 where unsure."""
    return torch.from_numpy(growers[annotation].make(example, size, background, **dict(settings)))


def _walked(
    image: Tensor,
    sure: Labels,
    beta: float,
    share: float = 1.0,
    confidence: float = 0.0,
    possible: dict[int, NDArray[np.bool_]] | None = None,
) -> Labels:
    """Return the result of `walk`, remembered: an image is read in every epoch, and walked on once."""
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    areas = dict(sorted((possible or {}).items()))
    head = repr((VERSION, SIDE, sure.shape, beta, share, confidence, list(areas))).encode()
    place = cache() / "grown" / f"{_digest(head, pixels, sure, *areas.values())}.png"
    with suppress(*UNREADABLE), Image.open(place, formats=("PNG",)) as file:
        known = np.array(file)
        if known.shape == sure.shape and known.dtype == np.uint8:
            return known
    labels = walk(pixels, sure, beta, share, confidence, possible)
    remember(place, lambda file: Image.fromarray(labels).save(file, "PNG"))
    return labels


def _digest(head: bytes, *arrays: NDArray[Any]) -> str:
    found = hashlib.sha256(head)
    for array in arrays:
        found.update(array.tobytes())
    return found.hexdigest()


def _shrunk(sure: Labels, shape: tuple[int, ...]) -> Labels:
    """Return sure labels on a smaller grid: a cell has the class of its sure pixels, the last one where they are of
    several, so that no click is lost."""
    small = np.full(shape, UNLABELLED, np.uint8)
    y, x = np.nonzero(sure < PADDING)
    small[y * shape[0] // sure.shape[0], x * shape[1] // sure.shape[1]] = sure[y, x]
    return small


def _pixels(box: Box, share: float) -> tuple[slice, slice]:
    """Return the pixels whose centres lie in a box, reduced to a `share` of its width and height; at least one, the one
    in the middle."""
    spans = []
    for low, high in ((box.y0, box.y1), (box.x0, box.x1)):
        middle, half = (low + high) / 2, (high - low) / 2 * share
        first, last = int(np.ceil(middle - half - 0.5)), int(np.ceil(middle + half - 0.5))
        spans.append(slice(first, last) if last > first else slice(int(middle), int(middle) + 1))
    return spans[0], spans[1]
