"""Sums over pixels that are fast on a CPU: piece by piece, with the gradient made on the way."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

PIECE = 2**17
"""So many logits are worked on at a time on a CPU: what is made of them stays in its cache."""


def pixel_sum(function: Callable[..., Tensor], logits: Tensor, *maps: Tensor) -> Tensor:
    """Return `function(logits, *maps)`, which must be a sum over pixels, of logits (B, C, H, W) and of maps (B, ..., H,
    W) without gradient."""
    total: Tensor = _PixelSum.apply(function, logits, *(each.detach() for each in maps))
    return total


class _PixelSum(torch.autograd.Function):
    """Takes the sum and its gradient piece by piece.

    On a CPU a piece stays in the cache from the softmax to the gradient. The gradient has the layout of the logits, as
    those of the other losses have; torch's own is laid out otherwise, and adding the two costs more than the loss.
    """

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], logits: Tensor, *maps: Tensor) -> Tensor:
        images, classes, rows, width = logits.shape
        if logits.device.type == "cpu":
            images, rows = max(1, PIECE // logits[0].numel()), max(1, PIECE // (classes * width))
        gradient = torch.empty_like(logits) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), device=logits.device)
        for first, top in itertools.product(range(0, len(logits), images), range(0, logits.shape[2], rows)):
            part = (slice(first, first + images), ..., slice(top, top + rows), slice(None))
            with torch.enable_grad():
                piece = logits[part].detach().requires_grad_(gradient is not None)
                value = function(piece, *(each[part] for each in maps))
            total += value.detach()
            if gradient is not None:
                (gradient[part],) = torch.autograd.grad(value, piece)
        ctx.gradient, ctx.maps = gradient, len(maps)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, ctx.gradient * grad, *[None] * ctx.maps
