"""The EMA teacher, Eq. 1."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import nn

BatchNormMode = Literal["own", "copy", "ema"]
Mode = Literal["train", "eval"]
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Teacher:
    """Exponential moving average of a student.

    `net` starts as a deep copy. After optimiser step t = 1, 2, ...

        keep = min(alpha, 1 - 1/t);  teacher = keep * teacher + (1 - keep) * student,

    so the first update copies the student, and the teacher is the plain average of all students until
    t = 1 / (1 - alpha).

    `bn`: where BatchNorm's running statistics come from. `own`: the teacher gathers them itself, in train mode. `copy`:
    they are copied from the student. `ema`: they are averaged like the weights. Integer buffers are copied in the last
    two, never averaged.

    `mode`: how the teacher runs while the student trains. `train`: dropout, and BatchNorm by the statistics of the
    batch. `eval`: no dropout, and BatchNorm by the running statistics, which must then not be the teacher's own.
    """

    def __init__(self, student: nn.Module, alpha: float, bn: BatchNormMode, mode: Mode = "train") -> None:
        if (bn, mode) == ("own", "eval"):
            raise ValueError("a teacher in eval mode gathers no BatchNorm statistics of its own")
        self.alpha, self.bn, self.t = alpha, bn, 0
        self.net = copy.deepcopy(student).requires_grad_(False)
        self._weights = tuple(self.net.parameters())
        self.net.train(mode == "train")
        if bn != "own":
            for layer in self.net.modules():
                if isinstance(layer, BATCH_NORMS):
                    layer.momentum = 0.0  # a forward pass in train mode must not move statistics of the student

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
