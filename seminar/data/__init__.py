"""Data sets. One class each, registered with `@datasets.register(name)`.

A data set class takes keyword-only settings (each with a default; they enter the key of a stage) and keyword-only
paths (typed `Path`; they do not, the fingerprint does), and offers what `Dataset` lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor

from seminar.parts import Registry

UNLABELLED = 255
"""Label of a pixel that nobody labelled, and of VOC's void border."""
PADDING = 254
"""Label of a pixel outside the image; it takes part in nothing."""

NO_SCORE = (
    "no validation image has a mask: there will be no mIoU and nothing to choose a best training by, but pictures, and "
    "the agreement of teacher and student; name a training by its settings or its key"
)
"""What is noted, before anything is trained, about a data set without masks to evaluate by."""

Split = Literal["train", "val"]
Annotation = Literal["clicks", "scribbles", "grown", "boxes"]
"""What the network learns from: clicks or scribbles of an example as they are drawn, clicks or scribbles grown to dense
labels before training, or boxes, grown as well (`seminar.data.grown`)."""


@dataclass(frozen=True)
class Click:
    """One click. `x`, `y`: zero-based fractional pixels, 0 <= x < width, pixel column floor(x). `cls`: class index."""

    x: float
    y: float
    cls: int


@dataclass(frozen=True)
class Scribble:
    """One line drawn by hand. `points`: x, y of the corners of a polyline (one corner: a dot) in the pixels of `Click`;
    one may lie a little outside the image. `cls`: class index."""

    points: tuple[tuple[float, float], ...]
    cls: int


@dataclass(frozen=True)
class Box:
    """One box around an object: its edges in the pixels of `Click`, 0 <= x0 < x1 <= width, 0 <= y0 < y1 <= height.
    `cls`: class index."""

    x0: float
    y0: float
    x1: float
    y1: float
    cls: int


@dataclass(frozen=True)
class Example:
    """One image: `image` (3, H, W) uint8 RGB; `mask` (H, W) uint8, classes and 255 = void; what was clicked and
    scribbled on it, and the boxes around its objects, None where nobody drew any."""

    id: str
    image: Tensor
    mask: Tensor
    clicks: tuple[Click, ...]
    scribbles: tuple[Scribble, ...] = ()
    boxes: tuple[Box, ...] | None = None


class Dataset(Protocol):
    """What the rest of the suite needs of a data set."""

    classes: tuple[str, ...]
    """Names by class index."""
    background: int | None
    """Index of the class that is no object, or None where every class is one, as in street scenes. Clicks on objects
    are drawn over clicks on it, and it has a recall and a bias of its own."""
    dense: bool
    """Whether there are images to train on with a dense mask, for full supervision."""

    def __init__(self, **settings: Any) -> None: ...

    def fingerprint(self) -> str:
        """Return a short text that changes whenever images, masks, labels or splits change. Cheap: no decoding of
        images."""
        ...

    def split(self, split: Split) -> Sequence[Example]:
        """Return the examples of a split, made or read when indexed."""
        ...


datasets: Registry[type[Dataset]] = Registry("data")
