"""Scores of student and teacher on the validation set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from seminar import parallel
from seminar.data import Example
from seminar.metrics import Scores, metrics
from seminar.spec import Stage
from seminar.views import EvaluationViews, loaded, normalise

FULL_BATCH = 1
"""Images of their own size cannot be stacked."""


@contextmanager
def evaluating(nets: Mapping[str, nn.Module]) -> Iterator[None]:
    """Keep networks in eval mode and without gradients as long as the context lasts."""
    modes = {role: net.training for role, net in nets.items()}
    for net in nets.values():
        net.eval()
    with torch.inference_mode():
        yield
    for role, net in nets.items():
        net.train(modes[role])


def evaluate(
    nets: Mapping[str, nn.Module],
    examples: Sequence[Example],
    stage: Stage,
    classes: int,
    background: int | None,
    *,
    protocol: str,
    device: torch.device,
    workers: int,
    features: Callable[[Tensor], Any],
) -> dict[str, Scores]:
    """Return the scores over `examples` by role (`student`, and `teacher` where there is one), in %.

    Protocol `crop`: short side to the training crop, centre crop (the paper's). `full`: every image at its own size.
    The teacher's scores hold its `agreement` with the student, in % of all pixels, which needs no mask. `features`
    computes what the networks share of a batch, or None; `workers`: loader processes. `background`: the class that is
    no object, or None.
    """
    views = EvaluationViews(examples, stage.crop if protocol == "crop" else None)
    own = Subset(views, parallel.own_share(range(len(views))))
    size = stage.batch_size if protocol == "crop" else FULL_BATCH
    counted = {role: [metrics[name].make(classes, background) for name in stage.metrics.split("+")] for role in nets}
    alike = torch.zeros(2, dtype=torch.int64)
    with evaluating(nets):
        for images, masks in loaded(DataLoader(own, batch_size=size, num_workers=workers)):
            network_input = normalise(images.to(device).float())
            with torch.autocast(device.type, torch.bfloat16, enabled=stage.precision == "bf16"):
                shared = features(network_input)
                logits = {role: net(network_input, shared) for role, net in nets.items()}
            for role in nets:
                for metric in counted[role]:
                    metric.add(logits[role], masks.to(device))
            if "teacher" in logits:
                labels, others = (logits[role].argmax(1) for role in ("student", "teacher"))
                alike += torch.tensor([int((labels == others).sum()), labels.numel()])
    scores: dict[str, Scores] = {}
    for role, several in counted.items():
        for metric in several:
            parallel.total(metric.counts)
        scores[role] = {name: value for metric in several for name, value in metric.scores().items()}
    if "teacher" in scores:
        equal, pixels = parallel.total(alike).tolist()
        scores["teacher"]["agreement"] = 100 * equal / pixels
    return scores
