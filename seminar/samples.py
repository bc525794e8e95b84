"""Predictions on a few validation images, kept with every training: arrays for figures, pictures for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from seminar.data import Example
from seminar.data.pictures import strip
from seminar.evaluation import evaluating
from seminar.spec import Stage
from seminar.store import write_atomic
from seminar.views import normalise

SAMPLES = 12
"""Validation images, evenly spaced, whose predictions are kept."""


def early_epoch(stage: Stage) -> int:
    """Return the epoch after which early predictions are kept: the paper's Fig. 3 shows the tenth of 60."""
    return max(1, round(stage.epochs / 6))


def write_samples(
    nets: Mapping[str, nn.Module],
    examples: Sequence[Example],
    background: int | None,
    folder: Path,
    when: Literal["early", "final"],
    device: torch.device,
) -> None:
    """Write what each network predicts for the sample images: `when`.npz, and at the end a picture of each.

    Arrays by number of the sample n and name: `n_image` (H, W, 3) uint8 RGB, `n_truth` (H, W) uint8, `n_clicks` (k, 3)
    float x, y, class; `n_student`, and where there is one `n_teacher` and `n_ancillary`, (H, W) uint8.
    """
    folder.mkdir(exist_ok=True)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    count = min(SAMPLES, len(examples))
    with evaluating(nets):
        for number in range(count):
            example = examples[number * len(examples) // count]
            network_input = normalise(example.image[None].to(device).float())
            labels = {role: net(network_input).argmax(1)[0].to(torch.uint8).cpu() for role, net in nets.items()}
            arrays |= {f"{number}_{role}": predicted.numpy() for role, predicted in labels.items()}
            arrays[f"{number}_image"] = example.image.permute(1, 2, 0).numpy()
            arrays[f"{number}_truth"] = example.mask.numpy()
            clicks = [(click.x, click.y, click.cls) for click in example.clicks]
            arrays[f"{number}_clicks"] = np.array(clicks, np.float32).reshape(-1, 3)
            if when == "final":
                shown = [labels[role] for role in ("student", "teacher") if role in labels]
                picture = strip(example, shown, background)
                write_atomic(folder / f"{number}.png", lambda file, p=picture: p.save(file, "PNG"))  # type: ignore[misc]
    write_atomic(folder / f"{when}.npz", lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]
