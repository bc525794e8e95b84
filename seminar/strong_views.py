"""Strong views for consistency: what a student sees in place of the teacher's view, as in UniMatch (Yang et al., CVPR
2023). The paper's two networks see the same view."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import ColorJitter
from torchvision.transforms.v2.functional import rgb_to_grayscale

StrongView = Literal["none", "colour", "cutmix", "both"]
Mix = Callable[[Tensor], Tensor]
JITTERED, GREY, CUT = 0.8, 0.2, 0.5
"""Shares of the images whose colours change, that become grey, and that get a box of another image."""
AREA, RATIO = (0.02, 0.4), (0.3, 1 / 0.3)
"""Range of the area of a box, in parts of the image, and of its height by its width."""


def strong_view(image: Tensor, kind: StrongView) -> tuple[Tensor, Mix]:
    """Return the strong view of images (B, 3, H, W) in 0..255, and what mixes other maps (B, ..., H, W) in the same
    way: the identity without boxes.

    `colour`: brightness, contrast and saturation by a factor of 0.5 to 1.5, hue by up to a quarter of the circle; some
    become grey. `cutmix`: a box of the next image of the batch is pasted. Random by torch's global generator.
    """
    if kind in ("colour", "both"):
        image = torch.stack([_jittered(each) for each in image])
    if kind not in ("cutmix", "both"):
        return image, lambda maps: maps
    boxes = torch.stack([_box(*image.shape[-2:]) for _ in image]).to(image.device)

    def mix(maps: Tensor) -> Tensor:
        box = boxes.reshape(len(boxes), *[1] * (maps.dim() - 3), *boxes.shape[-2:])
        return torch.where(box, maps.roll(1, 0), maps)

    return mix(image), mix


_JITTER = ColorJitter(brightness=0.5, contrast=0.5, saturation=0.5, hue=0.25)


def _jittered(image: Tensor) -> Tensor:
    changed, grey = torch.rand(2).tolist()
    result = image / 255
    if changed < JITTERED:
        result = _JITTER(result)
    if grey < GREY:
        result = rgb_to_grayscale(result, num_output_channels=3)
    return 255 * result


def _box(height: int, width: int) -> Tensor:
    """Return (H, W) bool: True inside a random box, or nowhere."""
    box = torch.zeros(height, width, dtype=torch.bool)
    cut, area, ratio, top, left = torch.rand(5, dtype=torch.float64).tolist()
    if cut < CUT:
        size = (AREA[0] + area * (AREA[1] - AREA[0])) * height * width
        shape = math.exp(math.log(RATIO[0]) + ratio * (math.log(RATIO[1]) - math.log(RATIO[0])))
        tall, wide = (
            min(edge, max(1, round(math.sqrt(size * by)))) for edge, by in ((height, shape), (width, 1 / shape))
        )
        y, x = int(top * (height - tall + 1)), int(left * (width - wide + 1))
        box[y : y + tall, x : x + wide] = True
    return box
