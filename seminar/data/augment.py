"""From an example to what the network sees: the random training view and the fixed view for evaluation.

Image, mask and clicks or scribbles go through the same torchvision v2 functionals. Labels are resampled by
NEAREST_EXACT: like the bilinear resize of the image, and like the scaling of a point, it takes a pixel to be a square
with its centre at 0.5 (plain NEAREST is up to one source pixel off).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F
from torchvision.tv_tensors import KeyPoints

from seminar.data import PADDING, UNLABELLED, Annotation, Example
from seminar.data.strokes import draw_scribbles

NOISE_MAX = 0.1
"""Largest standard deviation of the additive noise, as a fraction of the range of a pixel (0.1 = 25.5 of 255)."""


def draw_clicks(
    points: Tensor, classes: Tensor, height: int, width: int, size: int, background: int | None = 0
) -> Tensor:
    """Return (height, width) uint8: every click as a square of its class, clipped at the border; 255 elsewhere.

    `points` (n, 2): x, y in continuous pixels (pixel = floor); `classes` (n,); `size`: side of the square, odd.
    Foreground wins over the class `background` (None: there is none), later over earlier. A point outside the canvas
    draws nothing.
    """
    labels = torch.full((height, width), UNLABELLED, dtype=torch.uint8)
    canvas, half = labels.numpy(), size // 2
    clicks = zip(points.floor().int().tolist(), classes.tolist(), strict=True)
    # The sort is stable: the order within a kind stays.
    for (x, y), cls in sorted(clicks, key=lambda click: click[1] != background):
        if 0 <= x < width and 0 <= y < height:
            canvas[max(y - half, 0) : y + half + 1, max(x - half, 0) : x + half + 1] = cls
    return labels


def key_points(points: Sequence[tuple[float, float]], height: int, width: int) -> KeyPoints:
    """Return (n, 2) float32: the centres of the pixels that hold the n points, x before y.

    Not the points themselves: a click at a whole number lies on the edge between two pixels, and a flip would move it
    to the wrong one. From its centre, a clicked pixel is found again at every scale >= 1.
    """
    centres = [(math.floor(x) + 0.5, math.floor(y) + 0.5) for x, y in points]
    return KeyPoints(torch.tensor(centres).reshape(len(centres), 2), canvas_size=(height, width))


class TrainView:
    """The random training view: scale, pad, crop, flip and blur (or noise) of image, mask and labels together.

    `crop`: side of the result in pixels. `scale_min`, `scale_max`: range of the short side in crops. `flip`: mirror
    one half of the views. `noise`: what one half of the images gets: Gaussian blur (sigma uniform in 0..1 pixels),
    additive Gaussian noise (sigma uniform in 0..`NOISE_MAX`) or nothing. `click_size`: side of a click's square or
    width of a scribble, odd, or None: no `labels`. `click_order`: `geometry_first` moves the points and draws them
    last, `raster_first` draws them on the full image and resamples that like the mask; None with `click_size` None.
    `annotation`: what the labels are drawn from, or None: no `labels`. `background`: the class that others are drawn
    over, or None. `grow`: returns the dense labels (H, W) uint8 of an example, which are resampled like the mask; then
    nothing is drawn, and neither `click_size` nor `click_order` has an effect.

    Called with an `Example`, it returns a dictionary of tensors: see `__call__`. All randomness comes from torch's
    global generator. A seed gives one geometry, whatever `noise`, `click_*` and
    `annotation` are.
    """

    def __init__(
        self,
        crop: int,
        scale_min: float,
        scale_max: float,
        flip: bool,
        noise: Literal["blur", "noise", "none"],
        click_size: int | None,
        click_order: Literal["geometry_first", "raster_first"] | None,
        annotation: Annotation | None = "clicks",
        background: int | None = 0,
        grow: Callable[[Example], Tensor] | None = None,
    ) -> None:
        self.crop, self.flip, self.noise, self.grow = crop, flip, noise, grow
        drawn = annotation is not None and grow is None
        self.click_size, self.click_order = (click_size, click_order) if drawn else (None, None)
        self.scribbles, self.background = annotation == "scribbles", background
        self.short_min = max(1, int(scale_min * crop))
        self.short_max = max(self.short_min, int(scale_max * crop))

    def __call__(self, example: Example) -> dict[str, Tensor]:
        """`image` (3, crop, crop) uint8; `masks` (crop, crop) uint8, 255 = void, 254 = padding; `inside` (crop, crop)
        bool, False on padding; unless turned off also `labels` (crop, crop) uint8, 255 = unlabelled, 254 = padding.

        The tensors are the caller's own: no memory is shared with the example.
        """
        u_flip, u_short, u_top, u_left, u_noise, u_sigma = torch.rand(6, dtype=torch.float64).tolist()
        flip = self.flip and u_flip < 0.5
        short = self.short_min + int(u_short * (self.short_max - self.short_min + 1))
        full_height, full_width = example.mask.shape
        if self.scribbles:
            pixels = [point for scribble in example.scribbles for point in scribble.points]
        else:
            pixels = [(click.x, click.y) for click in example.clicks]
        points = key_points(pixels, full_height, full_width)

        image = F.resize(example.image, [short], antialias=True)
        height, width = min(image.shape[-2], self.crop), min(image.shape[-1], self.crop)
        top = int(u_top * (image.shape[-2] - height + 1))
        left = int(u_left * (image.shape[-1] - width + 1))

        # The flip comes after the crop (of a random place, so nothing changes) and before the padding: least work.
        def place(item: Any) -> Any:
            item = F.crop(item, top, left, height, width)
            return F.horizontal_flip(item) if flip else item

        def pad(item: Tensor, fill: int) -> Tensor:
            padded: Tensor = F.pad(item, [0, 0, self.crop - width, self.crop - height], fill=[fill])
            return padded.contiguous()

        def draw(points: Tensor, height: int, width: int, size: int) -> Tensor:
            if not self.scribbles:
                classes = torch.tensor([click.cls for click in example.clicks])
                return draw_clicks(points, classes, height, width, size, self.background)[None]
            lengths = [len(scribble.points) for scribble in example.scribbles]
            lines = [line.cls for line in example.scribbles]
            return draw_scribbles(points, lengths, lines, height, width, size, self.background)[None]

        maps = example.mask[None]
        if self.grow is not None:
            maps = torch.cat((maps, self.grow(example)[None]))
        if self.click_size is not None and self.click_order == "raster_first":
            maps = torch.cat((maps, draw(points, full_height, full_width, self.click_size)))
        maps = place(F.resize(maps, [short], interpolation=InterpolationMode.NEAREST_EXACT))
        if self.click_size is not None and self.click_order == "geometry_first":
            points = place(F.resize(points, [short])).as_subclass(Tensor)
            if flip:
                points[:, 0] += 1  # torchvision mirrors indices (W - 1 - x), these are continuous (W - x)
            maps = torch.cat((maps, draw(points, height, width, self.click_size)))
        maps = pad(maps, PADDING)

        image = pad(place(image), 0)
        if self.noise == "blur" and u_noise < 0.5:
            sigma = 1 - u_sigma  # in (0, 1]: torchvision refuses 0
            image = F.gaussian_blur(image, [2 * math.ceil(3 * sigma) + 1] * 2, [sigma])
        elif self.noise == "noise" and u_noise < 0.5:
            image = F.gaussian_noise(image, sigma=u_sigma * NOISE_MAX)
        view = {"image": image, "masks": maps[0], "inside": maps[0] != PADDING}
        return view | {"labels": maps[1]} if len(maps) > 1 else view


def eval_view(example: Example, crop: int) -> tuple[Tensor, Tensor]:
    """The paper's `crop513` protocol: short side to `crop` pixels, centre crop.

    Returns the image (3, crop, crop) uint8 and the mask (crop, crop) uint8, 255 = void; there is no padding.
    """
    image = F.resize(example.image, [crop], antialias=True)
    mask = F.resize(example.mask[None], [crop], interpolation=InterpolationMode.NEAREST_EXACT)
    return F.center_crop(image, [crop]).contiguous(), F.center_crop(mask, [crop])[0].contiguous()
