"""Optimisers by name: one decorated function each.

An optimiser takes the parameter groups, then those of `lr`, `momentum` and `weight_decay` that it reads, and its own
settings as keyword-only parameters with defaults (`adamw_beta2=0.99`). A new one is one function here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch.optim import Optimizer

from seminar.parts import Registry

Groups = list[dict[str, Any]]
Beta = Annotated[float, Field(ge=0, lt=1)]

optimizers: Registry[Callable[..., Optimizer]] = Registry("optimizer")


@optimizers.register("sgd")
def sgd(groups: Groups, lr: float, momentum: float, weight_decay: float) -> Optimizer:
    """Stochastic gradient descent with momentum, the paper's."""
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, weight_decay=weight_decay)


@optimizers.register("adamw")
def adamw(groups: Groups, lr: float, weight_decay: float, *, beta1: Beta = 0.9, beta2: Beta = 0.999) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""
    return torch.optim.AdamW(groups, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)
