"""Pictures for people: an image with its clicks, the truth and the predictions side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from seminar.colours import palette
from seminar.data import Example

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
_SMALLEST = 128
_GAP = 4


def colour(labels: Tensor, background: int | None) -> Image.Image:
    """Return (H, W) labels as an RGB picture; the class `background` is black."""
    picture = Image.fromarray(np.asarray(labels, dtype=np.uint8)).convert("P")
    picture.putpalette([value for rgb in palette(background) for value in rgb])
    return picture.convert("RGB")


def legend(names: Sequence[tuple[str, tuple[int, int, int]]], width: int, height: int) -> Image.Image:
    """Return a white picture of this width with the name of each class beside its colour, to stand below a picture of
    `width` x `height` pixels; text is a thirtieth of its longer side, at least 10 pixels."""
    from matplotlib import get_data_path  # its font has more letters than PIL's

    size = max(10, max(width, height) // 30)
    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
    line, gap = round(1.5 * size), size // 2
    places: list[tuple[int, int]] = []
    x = y = 0
    for name, _ in names:
        wide = size + gap + round(font.getlength(name)) + 2 * gap
        if x and x + wide > width:
            x, y = 0, y + line
        places.append((x, y))
        x += wide
    picture = Image.new("RGB", (width, y + line if names else 0), "white")
    draw = ImageDraw.Draw(picture)
    for (name, colour_of), (x, y) in zip(names, places):
        top = y + (line - size) // 2
        draw.rectangle((x + gap // 2, top, x + gap // 2 + size - 1, top + size - 1), fill=colour_of, outline="black")
        draw.text((x + size + gap, y + line // 2), name, fill="black", font=font, anchor="lm")
    return picture


def enlargement(height: int, width: int) -> int:
    """Return the whole factor by which a picture of this size is shown: more than 1 where it is small."""
    return max(1, -(-_SMALLEST // min(height, width)))


def clicked(pixels: Pixels, clicks: Iterable[tuple[float, float, int]], background: int | None) -> Image.Image:
    """Return (H, W, 3) pixels, enlarged where they are few, with a disc at each click (x, y, class)."""
    height, width = pixels.shape[:2]
    factor = enlargement(height, width)
    picture = Image.fromarray(pixels).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    draw, colours = ImageDraw.Draw(picture), palette(background)
    radius = max(3, min(height, width) * factor // 80)
    for x, y, cls in clicks:
        box = (x * factor - radius, y * factor - radius, x * factor + radius, y * factor + radius)
        draw.ellipse(box, fill=colours[cls], outline="white")
    return picture


def strip(example: Example, predictions: Sequence[Tensor], background: int | None) -> Image.Image:
    """Return the image with clicks | truth | each prediction (H, W), enlarged by a whole factor where the image is
    small."""
    _, height, width = example.image.shape
    factor = enlargement(height, width)
    panels = [colour(labels, background) for labels in (example.mask, *predictions)]
    panels = [panel.resize((width * factor, height * factor), Image.Resampling.NEAREST) for panel in panels]
    clicks = [(click.x, click.y, click.cls) for click in example.clicks]
    panels.insert(0, clicked(example.image.permute(1, 2, 0).numpy(), clicks, background))
    sheet = Image.new("RGB", (len(panels) * (width * factor + _GAP) - _GAP, height * factor), "white")
    for number, panel in enumerate(panels):
        sheet.paste(panel, (number * (width * factor + _GAP), 0))
    return sheet
