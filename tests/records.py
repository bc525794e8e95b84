"""Sweep files and records of finished trainings, made up: what tests of the analysis look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from seminar import catalogue, recipes, sweep
from seminar.catalogue import Cell
from seminar.spec import Scalar, Stage

CLASSES = ["background", "cat"]
ERROR = "FloatingPointError: loss_pce is nan in epoch 3 | `x`"


def write_sweep(name: str, **given: Sequence[Scalar]) -> Path:
    parameters = {word: {"values": list(values)} for word, values in given.items()}
    content = {"name": name, "description": f"about {name}", "method": "grid", "parameters": parameters}
    path = Path("sweeps") / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def planned(name: str = "losses", **settings: tuple[Scalar, ...]) -> list[Cell]:
    """Plan a sweep as `seminar sweep` does; returns its cells."""
    (found,) = recipes.suite([sweep.load(Path("sweeps") / f"{name}.yaml")], settings)
    catalogue.write(Path("runs"), [found])
    return found.cells


def plan_all(**settings: tuple[Scalar, ...]) -> None:
    """Plan every sweep file, as `make paper` does."""
    files = [sweep.load(path) for path in sorted(Path("sweeps").glob("*.yaml"))]
    catalogue.write(Path("runs"), recipes.suite(files, settings))


def line(epoch: int, miou: float | None = None, **numbers: float) -> str:
    """Return a line of a curve."""
    content = {"epoch": epoch, "step": 2 * epoch, "lr": 0.1, "loss": 1.0, "seconds": 3.0, **numbers}
    return json.dumps(content if miou is None else content | {"student_miou": miou}) + "\n"


def no_training(stage: Stage, folder: Path, ancillary: Path | None = None, **parts: Any) -> dict[str, Any]:
    """Do as `train.train` does, and train nothing: write the end of a curve, return the body of a record with these
    `parts`."""
    (folder / "metrics.jsonl").write_text(line(stage.epochs, 50.0))
    environment = {"commit": "abc", "torch": "2.11.0", "device": "cpu", "cpu": "chip"}
    metrics = {"student": {"crop": {"miou": 50.0}}}
    body = {"seconds": 1.0, "steps": 4, "classes": CLASSES, "metrics": metrics, "environment": environment}
    return body | parts


def finish(stage: Stage, miou: float | None, commit: str = "abc", runs: Path = Path("runs")) -> None:
    """Write the folder of a finished training; `miou` None: there is no mask to score by."""
    folder = runs / stage.key
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stage.json").write_text(stage.canonical())
    if miou is None:
        body = no_training(stage, folder, metrics={"student": {"crop": {"miou": None}}})
        (folder / "metrics.jsonl").write_text(line(stage.epochs))
        (folder / "record.json").write_text(json.dumps({"key": stage.key, **json.loads(stage.canonical()), **body}))
        return
    student = {"miou": miou, "iou": [miou], "background_recall": 85.0, "foreground_recall": 64.0}
    metrics: dict[str, Any] = {"student": {"crop": {**student, "miou_bias": miou + 1, "background_bias": -0.4}}}
    last = json.loads(line(stage.epochs, miou))
    if stage.has_teacher:
        metrics["teacher"] = {"crop": {"miou": miou + 0.5}}
        last["teacher_miou"] = miou + 0.5
    early = {**last, "epoch": 1, "student_miou": miou - 9}
    lines = (early, last) if stage.epochs > 1 else (last,)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    record = {
        "key": stage.key,
        **json.loads(stage.canonical()),
        "seconds": 30.0,
        "steps": 4,
        "classes": CLASSES,
        "metrics": metrics,
        "best": {"student": {"epoch": 2, "miou": miou}},
        "environment": {"commit": commit, "torch": "2.11.0", "device": "cpu", "cpu": "chip"},
    }
    (folder / "record.json").write_text(json.dumps(record))


def fail(stage: Stage, error: str = ERROR) -> None:
    folder = Path("runs") / stage.key
    folder.mkdir(parents=True)
    (folder / "stage.json").write_text(stage.canonical())
    (folder / "failure.json").write_text(json.dumps({"error": error}))
