"""What a finished training leaves: weights, sample pictures, and the body of its record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seminar import machine, parallel, weights
from seminar.losses import defaults as loss_defaults
from seminar.spec import InputError, Stage
from seminar.store import Record

if TYPE_CHECKING:
    from seminar.train import Trainer


CONFUSED = 40
"""Classes up to which a record holds the confusion matrix of what is reported; their pairs would fill it."""


def finish(trainer: Trainer, folder: Path, ancillary: Path | None) -> Record:
    """Evaluate both protocols, write weights and sample pictures, and return the body of the record."""
    crop = trainer.crop_scores or trainer.evaluate("crop")
    same = all(
        trainer.val_examples[i].image.shape[-2:] == (trainer.stage.crop,) * 2 for i in range(len(trainer.val_examples))
    )
    full = crop if same else trainer.evaluate("full")
    metrics = {role: {"crop": dict(crop[role]), "full": dict(full[role])} for role in crop}
    for role, protocols in metrics.items():
        for protocol, scores in protocols.items():
            if (role, protocol) != ("student", "crop") or len(trainer.dataset.classes) > CONFUSED:
                scores.pop("confusion", None)
    curve = trainer.curve
    saved: dict[str, str] = {}
    if parallel.leads():
        saved = {role: weights.write(net, folder, role) for role, net in trainer.nets.items()}
    trainer.predictions(folder / "samples", "final")
    learned_from = {
        "pretrained": trainer.pretrained_sha256,
        "ancillary": None if ancillary is None else weights.digest(ancillary, "student"),
    }
    return {
        "seconds": round(trainer.seconds, 3),
        "peak_memory_mb": machine.peak_memory_mb(trainer.device),
        "steps": trainer.total_steps,
        "sessions": len(trainer.starts),
        "starts": trainer.starts,
        "weights_sha256": saved,
        **{f"{name}_sha256": value for name, value in learned_from.items() if value is not None},
        "classes": list(trainer.dataset.classes),
        "background": trainer.dataset.background,
        "metrics": metrics,
        "best": {role: _best(curve, role) for role in crop},
        "data": {"train_images": len(trainer.train_examples), "val_images": len(trainer.val_examples)},
        "environment": machine.environment(trainer.device),
        "notes": [*notes(trainer.stage, trainer.total_steps, curve), *_changed_data(trainer)],
    }


def _changed_data(trainer: Trainer) -> list[str]:
    try:
        same = trainer.dataset.fingerprint() == trainer.stage.data_fingerprint
    except InputError:  # a file is gone
        same = False
    return [] if same else [f"the files of data {trainer.stage.data.name!r} have changed since this training started"]


def notes(stage: Stage, steps: int, curve: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader of the result must know, of a training of `steps` and of its losses by its curve."""
    alpha, steps = stage.alpha, steps * (1 + stage.budgets)
    found: list[str | None] = []
    if alpha is not None and alpha > 1 - 1 / steps:
        horizon = f"{1 / (1 - alpha):,.0f}"
        found.append(
            f"alpha={alpha:g} has no effect of its own: the teacher is a plain average for the first {horizon} "
            f"steps and the training has {steps:,}"
        )
    notes = [loss_defaults[term.name].note for term in stage.losses]
    return [text for text in (*found, *(note(curve) for note in notes if note is not None)) if text is not None]


def _best(curve: Sequence[Mapping[str, Any]], role: str) -> dict[str, Any] | None:
    """Return the best evaluated epoch. For information only: what is reported is always the last epoch."""
    evaluated = [line for line in curve if line.get(f"{role}_miou") is not None]
    if not evaluated:
        return None
    line = max(evaluated, key=lambda line: float(line[f"{role}_miou"]))
    return {"epoch": line["epoch"], "miou": line[f"{role}_miou"]}
