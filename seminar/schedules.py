"""Learning rate and loss weights over time.

A schedule maps the progress of the training, from 0 up to but not including 1, to a factor of the learning rate; it
takes the progress and, where it reads it, `poly_power`. A new one is one function here.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from seminar.parts import Registry

schedules: Registry[Callable[..., float]] = Registry("schedule")


@schedules.register("poly")
def poly(progress: float, poly_power: float) -> float:
    """(1 - progress)^power, the paper's."""
    return float((1 - progress) ** poly_power)


@schedules.register("cosine")
def cosine(progress: float) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter, 2017)."""
    return (1 + math.cos(math.pi * progress)) / 2


def lr_factor(schedule: str, step: int, steps: int, warmup: int = 0, poly_power: float | None = None) -> float:
    """Return the factor of the learning rate at `step` of `steps` (0-based): the schedule's, times a linear warm-up
    over the first `warmup` steps."""
    entry = schedules[schedule]
    shape = entry.make(step / steps, *(() if poly_power is None else (poly_power,)))
    return shape * min(1.0, (step + 1) / (warmup + 1))


def ramped(weight: float, epoch: int, epochs: int, ramp: float) -> float:
    """Return the weight of a loss in `epoch` (0-based): linear from 0 over the first `ramp` (fraction) of the epochs.

    lambda(e) = weight * min(e / (ramp * epochs), 1), once per epoch; the paper's ramp is 40 of 60 epochs.
    """
    return weight if ramp == 0 else weight * min(epoch / (ramp * epochs), 1.0)
