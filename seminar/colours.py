"""Colours of classes, for whatever draws labels."""

from __future__ import annotations


def palette(classes: int = 256) -> list[tuple[int, int, int]]:
    """Return PASCAL VOC's colour map: the colour of label k, made of the bits of k."""
    colours: list[tuple[int, int, int]] = []
    for label in range(classes):
        rgb = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                rgb[channel] |= (label >> (3 * bit + channel) & 1) << (7 - bit)
        colours.append((rgb[0], rgb[1], rgb[2]))
    return colours
