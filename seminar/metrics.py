"""Segmentation metrics by name, one decorated class each. All values in percent; None where a value does not exist.

A metric is made with the number of classes and the index of the background (None: every class is an object). What it
returns is kept in the record under its names, and a number among it becomes a column of the tables.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from seminar.parts import Registry

Scores = dict[str, Any]


class Metric(Protocol):
    """Counts that add up over images and processes, and the scores that follow from them."""

    counts: Tensor

    def __init__(self, classes: int, background: int | None) -> None: ...

    def add(self, logits: Tensor, mask: Tensor) -> None:
        """Count `logits` (B, C, H, W) against `mask` (B, H, W); values of the mask >= C are left out."""

    def scores(self) -> Scores: ...


metrics: Registry[type[Metric]] = Registry("metrics")

# Background logit biases that the oracle may choose from; outer bins catch everything beyond.
_BIASES = torch.arange(-60, 61) / 10


@metrics.register("miou")
class MeanIoU:
    """Mean IoU, and IoU and recall by class, from confusion counts: those for every additive bias on the background
    logit at once.

    A pixel is background under bias b exactly where max_fg - bg < b, or <= b where the background comes first among
    the classes that are equal (arg-max takes the first of equals). So it is enough to count, by ground truth and best
    foreground class, how many pixels fall between two neighbouring biases.
    """

    def __init__(self, classes: int, background: int | None) -> None:
        self.classes, self.background = classes, background
        self._gaps = 1 if background is None else len(_BIASES) + 1
        self.counts = torch.zeros(classes, classes, self._gaps, dtype=torch.int64)

    def add(self, logits: Tensor, mask: Tensor) -> None:
        known = mask < self.classes
        truth = mask[known].long()
        pixels = logits.float().movedim(1, -1)[known]
        gap = torch.zeros_like(truth)
        if self.background is None:
            predicted = pixels.argmax(1)
        else:
            ground = pixels[:, self.background].clone()
            pixels[:, self.background] = -torch.inf
            best, predicted = pixels.max(1)
            biases = _BIASES.to(best.device)
            gap = torch.bucketize(best - ground, biases)
            if self.background > 0:  # to win over a class that comes before it, the bias must be larger than the gap
                larger = torch.bucketize(best - ground, biases, right=True)
                gap = torch.where(predicted < self.background, larger, gap)
        flat = (truth * self.classes + predicted) * self._gaps + gap
        self.counts += torch.bincount(flat, minlength=self.counts.numel()).view_as(self.counts).cpu()

    def scores(self) -> Scores:
        """Return `miou`, by class `iou` and `recall`, and `confusion`: pixels by true and predicted class, a list for
        each true class.

        Where there is a background, also `background_recall`, `foreground_recall` (mean over the other classes), and
        `miou_bias`: the mIoU with the one background bias that is best on these very pixels (`background_bias`).
        """
        plain = self._at(_BIASES.tolist().index(0.0))
        iou, recall = _iou(plain), _recall(plain)
        found: Scores = {"miou": mean(iou), "iou": iou, "recall": recall, "confusion": plain.tolist()}
        if self.background is None:
            return found
        biased = [(mean(_iou(self._at(index))), bias) for index, bias in enumerate(_BIASES.tolist())]
        best, bias = max(biased, key=lambda pair: (-1.0 if pair[0] is None else pair[0], -abs(pair[1])))
        return found | {
            "background_recall": recall[self.background],
            "foreground_recall": mean([value for cls, value in enumerate(recall) if cls != self.background]),
            "miou_bias": best,
            "background_bias": None if best is None else round(bias, 1),
        }

    def _at(self, index: int) -> Tensor:
        """Return (C, C) counts, truth by prediction, under the bias `_BIASES[index]` of the background."""
        if self.background is None:
            return self.counts[:, :, 0]
        result = self.counts[:, :, index + 1 :].sum(2)
        result[:, self.background] = self.counts[:, :, : index + 1].sum((1, 2))
        return result


@metrics.register("boundary")
class BoundaryIoU:
    """Boundary IoU (Cheng et al., CVPR 2021): IoU of the inner borders of masks, by class over the data set.

    The inner border of a mask is all of it that is within d pixels of its outside, by the larger of the distances along
    x and y; d is 2 % of the image's diagonal, and what lies outside the image is outside the mask. Void pixels count
    nowhere, and belong to no mask.
    """

    DISTANCE = 0.02

    def __init__(self, classes: int, background: int | None) -> None:
        self.classes = classes
        self.counts = torch.zeros(2, classes, dtype=torch.int64)

    def add(self, logits: Tensor, mask: Tensor) -> None:
        height, width = mask.shape[-2:]
        distance = max(1, round(self.DISTANCE * math.hypot(height, width)))
        known, predicted = mask < self.classes, logits.argmax(1)
        for cls in range(self.classes):
            true, found = (self._border((labels == cls) & known, distance) for labels in (mask, predicted))
            self.counts[0, cls] += (true & found).sum().cpu()
            self.counts[1, cls] += (true | found).sum().cpu()

    @staticmethod
    def _border(masks: Tensor, distance: int) -> Tensor:
        outside = F.pad((~masks).float(), [distance] * 4, value=1.0)
        # A pixel is on the border where its square of 2 d + 1 pixels holds one outside: a maximum, by rows and columns.
        side = 2 * distance + 1
        near = F.max_pool2d(F.max_pool2d(outside[:, None], (side, 1), 1), (1, side), 1)[:, 0] > 0
        return masks & near

    def scores(self) -> Scores:
        """Return `boundary_iou`, the mean over the classes that are in the truth or predicted."""
        overlap, union = self.counts.double()
        return {"boundary_iou": mean([100 * float(o / u) if u else None for o, u in zip(overlap, union)])}


def _iou(counts: Tensor) -> list[float | None]:
    """Return IoU per class; None for a class that is neither in the truth nor predicted."""
    hits = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - hits
    return [100 * float(h / u) if u else None for h, u in zip(hits, union)]


def _recall(counts: Tensor) -> list[float | None]:
    return [100 * float(h / n) if n else None for h, n in zip(counts.diagonal().double(), counts.sum(1))]


def mean(values: list[float | None]) -> float | None:
    """Return the mean of the values that exist; None if there is none."""
    existing = [value for value in values if value is not None]
    return math.fsum(existing) / len(existing) if existing else None
