"""Colours: of classes, for whatever draws labels, and of ImageNet's photos, by which images are normalised."""

from __future__ import annotations

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in 0..1."""


def palette(background: int | None = 0) -> list[tuple[int, int, int]]:
    """Return the colours of labels 0..255: PASCAL VOC's, which makes the colour of label k of the bits of k.

    Black is the colour of the class `background`, and of none where there is none: the classes before it take VOC's
    colours from the first that is not black. 254 (outside the image) and 255 (no label) keep VOC's colours.
    """
    colours = _voc()
    if background is None:
        return [*colours[1:255], *colours[254:]]
    return [*colours[1 : background + 1], colours[0], *colours[background + 1 :]]


def _voc() -> list[tuple[int, int, int]]:
    colours: list[tuple[int, int, int]] = []
    for label in range(256):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours
