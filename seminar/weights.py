"""Networks of finished trainings: `student.pt` and `teacher.pt`, with their SHA-256 in the record."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from seminar import networks, schema
from seminar.spec import InputError, Stage
from seminar.store import AGAIN, write_atomic

Role = Literal["student", "teacher"]


def write(net: nn.Module, folder: Path, role: str) -> str:
    """Write the weights of a network as `<role>.pt`; returns the SHA-256 of the file."""
    content = io.BytesIO()
    torch.save(net.state_dict(), content)
    write_atomic(folder / f"{role}.pt", lambda file: file.write(content.getbuffer()))
    return hashlib.sha256(content.getbuffer()).hexdigest()


def digest(folder: Path, role: Role) -> str | None:
    """Return the SHA-256 of the weights of a finished training by its record; None where the record is older than
    these digests."""
    record = schema.read(folder / "record.json", schema.RECORD, AGAIN) or {}
    found: str | None = record.get("weights_sha256", {}).get(role)
    return found


def read(folder: Path, role: Role) -> dict[str, Tensor]:
    """Return the weights of a finished training.

    Raises `InputError` where there are none (as after `seminar pull`), where they are not those that its record names,
    and where they cannot be read.
    """
    path = folder / f"{role}.pt"
    again = f"move the folder {folder} away to train it again"
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: not there; {again}") from None
    expected = digest(folder, role)
    if expected is not None and hashlib.sha256(content).hexdigest() != expected:
        raise InputError(f"{path}: is not the file that this training wrote (its SHA-256 is another); {again}")
    try:
        state: dict[str, Tensor] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    except Exception:  # torch's reader lets through whatever it meets in a damaged file
        raise InputError(f"{path}: damaged; {again}") from None
    return state


def finished_network(stage: Stage, classes: int, folder: Path, role: Role, device: torch.device) -> nn.Module:
    """Return the network of a finished stage in eval mode, without gradients. Raises `InputError` as `read` does, and
    for weights of another network."""
    net = networks.build(stage.backbone, classes, stage.output_stride)
    state = read(folder, role)
    try:
        net.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError):
        raise InputError(
            f"{folder / f'{role}.pt'}: are not the weights of a {stage.backbone} for {classes} classes; "
            f"move the folder {folder} away to train it again"
        ) from None
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval().requires_grad_(False)
