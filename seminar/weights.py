"""Networks of finished trainings."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from seminar import networks
from seminar.spec import InputError, Stage


def read(path: Path) -> dict[str, Tensor]:
    """Weights of a finished training. Raises `InputError` where there are none, as after `seminar pull`."""
    if not path.exists():
        raise InputError(f"{path}: not there; move the folder {path.parent} away to train it again")
    state: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def finished_network(stage: Stage, classes: int, weights: Path, device: torch.device) -> nn.Module:
    """The network of a finished stage in eval mode, without gradients. Raises `InputError` where its weights are not
    there."""
    net = networks.build(stage.backbone, classes, stage.output_stride)
    net.load_state_dict(read(weights))
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval().requires_grad_(False)
