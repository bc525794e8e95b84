"""The EMA teacher, Eq. 1."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import nn

BatchNormMode = Literal["own", "copy", "ema"]


class Teacher:
    """Exponential moving average of a student.

    `net` starts as a deep copy. After optimiser step t = 1, 2, ...

        keep = min(alpha, 1 - 1/t);  teacher = keep * teacher + (1 - keep) * student,

    so the first update copies the student, and the teacher is the plain average of all students until
    t = 1 / (1 - alpha). BatchNorm's running statistics: `own` the teacher runs in train mode and gathers its own,
    `copy` they are copied from the student, `ema` they are averaged like the weights. Integer buffers are copied in
    the last two modes, never averaged.
    """

    def __init__(self, student: nn.Module, alpha: float, bn: BatchNormMode) -> None:
        self.alpha, self.bn, self.t = alpha, bn, 0
        self.net = copy.deepcopy(student).requires_grad_(False)
        self._weights = tuple(self.net.parameters())
        # With `copy` and `ema` the statistics come from the student, so a train-mode forward must not move them.
        self.net.train(bn == "own")

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """Eq. 1, to be called after each optimiser step."""
        self.t += 1
        keep = min(self.alpha, 1 - 1 / self.t)
        torch._foreach_lerp_(self._weights, tuple(student.parameters()), 1 - keep)
        if self.bn == "own":
            return
        for mine, theirs in zip(self.net.buffers(), student.buffers(), strict=True):
            if self.bn == "ema" and mine.is_floating_point():
                mine.lerp_(theirs, 1 - keep)
            else:
                mine.copy_(theirs)
