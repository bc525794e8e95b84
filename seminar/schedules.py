"""Learning rate and loss weights over time."""

from __future__ import annotations


def poly_lr(step: int, steps: int, power: float, warmup: int = 0) -> float:
    """Factor of the learning rate at `step` of `steps` (0-based): (1 - step / steps)^power, after a linear warm-up
    over the first `warmup` steps."""
    return float((1 - step / steps) ** power) * min(1.0, (step + 1) / (warmup + 1))


def ramped(weight: float, epoch: int, epochs: int, ramp: float) -> float:
    """Weight of a loss in `epoch` (0-based): linear from 0 over the first `ramp` (fraction) of the epochs.

    lambda(e) = weight * min(e / (ramp * epochs), 1), once per epoch; the paper's ramp is 40 of 60 epochs.
    """
    return weight if ramp == 0 else weight * min(epoch / (ramp * epochs), 1.0)
