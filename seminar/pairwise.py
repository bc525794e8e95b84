"""Regularisers over pairs of near pixels: Potts relaxations on a grid, and the gated CRF's window. In plain torch.

Both visit pairs offset by offset: a map and its shifted copy, each pair once, so memory is that of a few maps.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

GRIDS = {4: ((0, 1), (1, 0)), 8: ((0, 1), (1, 0), (1, 1), (1, -1))}
"""Half of the neighbours of a pixel by their number: offsets down and to the right."""


def potts(p: Tensor, image: Tensor, inside: Tensor, *, neighbours: int, sigma_rgb: float, quadratic: bool) -> Tensor:
    """Return the mean over neighbouring pairs (i, j), both `inside`, of w_ij r(p_i, p_j), for each image: (B,).

        w_ij = exp(-|I_i - I_j|^2 / (2 sigma_rgb^2)) / distance(i, j)
        r = |p_i - p_j|^2 / 2 (`quadratic`), or 1 - p_i . p_j (bilinear)

    `p` (B, C, H, W) probabilities, `image` (B, 3, H, W) RGB in 0..255, `inside` (B, H, W). `sigma_rgb` in grey levels;
    0: sigma_rgb^2 is the mean of |I_i - I_j|^2 over the pairs of the image, its contrast.
    """
    total = count = p.new_zeros(len(p))
    squares = [(_differences(image, offset), _both(inside, offset)) for offset in GRIDS[neighbours]]
    if sigma_rgb:
        variance = p.new_full((len(p),), sigma_rgb**2)
    else:
        contrast = torch.stack([(square * pair).sum((1, 2)) for square, pair in squares]).sum(0)
        pairs = torch.stack([pair.sum((1, 2)) for _, pair in squares]).sum(0)
        variance = contrast / pairs.clamp(min=1)
    variance = variance.clamp(min=1e-6)[:, None, None]
    for offset, (square, pair) in zip(GRIDS[neighbours], squares):
        weight = torch.exp(-square / (2 * variance)) / math.hypot(*offset) * pair
        one, other = _pair(p, offset)
        apart = (one - other).square().sum(1) / 2 if quadratic else 1 - (one * other).sum(1)
        total = total + (weight * apart).sum((1, 2))
        count = count + pair.sum((1, 2))
    return total / count.clamp(min=1)


def gated_crf(
    p: Tensor,
    image: Tensor,
    source: Tensor,
    destination: Tensor,
    *,
    radius: int,
    sigma_rgb: float,
    sigma_xy: float,
) -> Tensor:
    """Return, for each image, the mean over `source` pixels i of the sum over the window of w_ij (1 - p_i . p_j): (B,).

        w_ij = exp(-|x_i - x_j|^2 / (2 sigma_xy^2) - |I_i - I_j|^2 / (2 sigma_rgb^2)),  j a `destination` pixel != i

    The window reaches `radius` pixels to each side. `p` (B, C, H, W); `image` (B, 3, H, W) in 0..1; `source`,
    `destination` (B, H, W) bool: the gates. `sigma_rgb` in units of the image, `sigma_xy` in pixels of this map.
    """
    total = p.new_zeros(len(p))
    for offset in _half_window(radius):
        near = math.exp(-(offset[0] ** 2 + offset[1] ** 2) / (2 * sigma_xy**2))
        # Each pair twice: either of the two may be the source.
        (from_one, from_other), (to_one, to_other) = _pair(source[:, None], offset), _pair(destination[:, None], offset)
        times = (from_one & to_other).to(p.dtype) + (from_other & to_one).to(p.dtype)
        weight = near * torch.exp(-_differences(image, offset) / (2 * sigma_rgb**2)) * times[:, 0]
        one, other = _pair(p, offset)
        total = total + (weight * (1 - (one * other).sum(1))).sum((1, 2))
    return total / source.sum((1, 2)).clamp(min=1)


def _half_window(radius: int) -> Iterator[tuple[int, int]]:
    """Yield half of the offsets within a square window, so that each pair is visited once."""
    for down in range(radius + 1):
        for right in range(-radius, radius + 1):
            if (down, right) > (0, 0):
                yield down, right


def _pair(maps: Tensor, offset: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return two views of maps (B, K, H, W): the pixels i that have a neighbour j at `offset`, and these neighbours."""
    down, right = offset
    height, width = maps.shape[-2:]
    rows, later = slice(0, max(0, height - down)), slice(down, height)
    if right >= 0:
        columns, shifted = slice(0, max(0, width - right)), slice(right, width)
    else:
        columns, shifted = slice(-right, width), slice(0, max(0, width + right))
    return maps[..., rows, columns], maps[..., later, shifted]


def _differences(image: Tensor, offset: tuple[int, int]) -> Tensor:
    """Return (B, h, w): the squared distance of the colours of each pair."""
    one, other = _pair(image, offset)
    return (one - other).square().sum(1)


def _both(inside: Tensor, offset: tuple[int, int]) -> Tensor:
    """Return (B, h, w): 1 where both pixels of a pair are inside, else 0."""
    one, other = _pair(inside[:, None], offset)
    return (one & other)[:, 0].float()
