"""The rolling checkpoint of a training, `checkpoint.pt`: what a killed training goes on from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from seminar import parallel
from seminar.spec import InputError
from seminar.store import append_line, write_atomic

if TYPE_CHECKING:
    from seminar.train import Trainer


def save(trainer: Trainer, folder: Path, line: Mapping[str, Any]) -> None:
    """Append the epoch's line, then replace the checkpoint: a kill between the two repeats that epoch."""
    if not parallel.leads():
        return
    append_line(folder / "metrics.jsonl", line)
    trainer.curve.append(dict(line))
    state = {
        "key": trainer.stage.key,
        "epochs_done": trainer.epochs_done,
        "starts": trainer.starts,
        "curve": trainer.curve,
        "seconds": trainer.seconds,
        "student": trainer.student.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "teacher": None if trainer.teacher is None else trainer.teacher.net.state_dict(),
        "teacher_t": 0 if trainer.teacher is None else trainer.teacher.t,
    }
    write_atomic(folder / "checkpoint.pt", lambda file: torch.save(state, file))


def resume(trainer: Trainer, folder: Path) -> None:
    """Go on from `checkpoint.pt`, if there is one, and write the curve anew as the checkpoint holds it.

    Raises `InputError` for a checkpoint that cannot be read, or that is of another training.
    """
    path = folder / "checkpoint.pt"
    if path.exists():
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")  # no second copy on a GPU
        except (OSError, MemoryError) as error:  # the file may be whole
            raise InputError(
                f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'out of memory'})"
            ) from None
        except Exception:  # torch's reader lets through whatever it meets in a damaged file
            raise InputError(f"{path}: damaged; delete it to train from the start") from None
        if state.get("key") != trainer.stage.key:
            whose = f"is of the training {state['key']}" if "key" in state else "does not say of which training it is"
            raise InputError(f"{path}: {whose}; delete it to train {trainer.stage.key} from the start")
        trainer.student.load_state_dict(state["student"])
        trainer.optimizer.load_state_dict(state["optimizer"])
        if trainer.teacher is not None:
            trainer.teacher.net.load_state_dict(state["teacher"])
            trainer.teacher.t = state["teacher_t"]
        trainer.epochs_done, trainer.seconds = state["epochs_done"], state["seconds"]
        trainer.starts = [*state["starts"], {**trainer.starts[-1], "epoch": trainer.epochs_done}]
        trainer.curve = state["curve"]
    write_curve(trainer, folder)


def write_curve(trainer: Trainer, folder: Path) -> None:
    """Write `metrics.jsonl` as the trainer knows it, whatever happened to the file meanwhile."""
    if parallel.leads():
        text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in trainer.curve)
        write_atomic(folder / "metrics.jsonl", lambda file: file.write(text.encode()))
