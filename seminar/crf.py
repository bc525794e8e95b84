"""The dense CRF loss of Eq. 4 with the exact kernel.

    L = 5.0 * mean over all ordered pixel pairs (i, j) of W_ij (1 - p_i . p_j)
    W_ij = exp(-|f_i - f_j|^2 / 2),  f = (x / sigma_xy, y / sigma_xy, r / sigma_rgb, g / sigma_rgb, b / sigma_rgb)

mean over the images of the batch; padding is in no pair. This is Eq. 4 divided by the squared number of pixels: it is
>= 0 and does not change with the crop when sigma_xy is scaled with it. The factor 5.0 gives lambda_CRF = 1 the average
gradient strength of the base implementation at its published setting: weight 2e-9, 0.584 of the true sum returned by
its filter, 256^2 pixels: 2e-9 x 0.584 x (256^2)^2 = 5.0.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRENGTH = 5.0
# Rows of W held at once: 2^22 float32 entries are 16 MB, whatever the size of the map.
_CHUNK_ENTRIES = 2**22


def dense_crf_loss(p: Tensor, image: Tensor, inside: Tensor, *, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """L_CRF of softmax maps `p` (B, C, H, W) on `image` (B, 3, H, W), RGB in 0..255, pixels where `inside` (B, H, W).

    `sigma_rgb` in grey levels, `sigma_xy` in pixels of this map. Returns a scalar >= 0 with gradient to `p` only.
    An image without a pixel inside counts 0. Cost: O((H W)^2) time, O(H W) memory.
    """
    precise = torch.promote_types(p.dtype, torch.float32)
    with torch.autocast(p.device.type, enabled=False):
        maps = p.to(precise).flatten(2) * inside.flatten(1)[:, None]
        weights = inside.flatten(1).to(precise)
        features = _features(image.detach().to(precise), sigma_rgb, sigma_xy)
        filtered_weights, filtered_maps = _filter(features, weights, maps.detach())
        # sum_k p_k' W (1 - p_k) = w'Ww - sum_k p_k'W p_k, and the gradient of the quadratic form is 2 W p_k since W is
        # symmetric. With W p_k held constant autograd would give half of that: hence twice the product, less its value.
        product = (maps * filtered_maps).sum((1, 2))
        overlap = 2 * product - product.detach()
        pairs = weights.sum(1).square().clamp(min=1)
        return STRENGTH * (((weights * filtered_weights).sum(1) - overlap) / pairs).mean()


def _features(image: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """(B, 5, N) features, centred so that squares stay small in float32."""
    batch, _, height, width = image.shape
    ys = torch.arange(height, device=image.device, dtype=image.dtype) - (height - 1) / 2
    xs = torch.arange(width, device=image.device, dtype=image.dtype) - (width - 1) / 2
    grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")).expand(batch, 2, height, width) / sigma_xy
    return torch.cat([grid, (image - 127.5) / sigma_rgb], dim=1).flatten(2)


@torch.no_grad()
def _filter(features: Tensor, weights: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """W w (B, N) and W p (B, C, N) for `weights` w (B, N) and `maps` p (B, C, N), in chunks of rows of W."""
    batch, _, pixels = features.shape
    values = torch.cat([weights[:, None], maps], dim=1)
    squares = features.square().sum(1) / 2
    result = torch.empty_like(values)
    step = max(1, _CHUNK_ENTRIES // (pixels * batch))
    for start in range(0, pixels, step):
        part = slice(start, start + step)
        exponent = torch.baddbmm(-squares[:, None, :], features[:, :, part].transpose(1, 2), features)
        exponent -= squares[:, part, None]
        # exp below -60 is a denormal float, which is many times slower on CPU and adds nothing.
        kernel = exponent.clamp_(-60, 0).exp_()
        result[:, :, part] = torch.bmm(values, kernel.transpose(1, 2))
    return result[:, 0], result[:, 1:]
