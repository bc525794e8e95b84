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

ERROR = "FloatingPointError: loss_pce is nan in epoch 3 | `x`"


def write_sweep(name: str, **words: Sequence[Scalar]) -> Path:
    parameters = {word: {"values": list(values)} for word, values in words.items()}
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


def finish(stage: Stage, miou: float, commit: str = "abc", runs: Path = Path("runs")) -> None:
    """Write the folder of a finished training."""
    folder = runs / stage.key
    folder.mkdir(parents=True, exist_ok=True)
    student = {"miou": miou, "iou": [miou], "background_recall": 85.0, "foreground_recall": 64.0}
    metrics: dict[str, Any] = {"student": {"crop": {**student, "miou_bias": miou + 1, "background_bias": -0.4}}}
    line: dict[str, Any] = {"epoch": 2, "step": 4, "lr": 0.1, "loss": 1.0, "seconds": 3.0, "student_miou": miou}
    if stage.has_teacher:
        metrics["teacher"] = {"crop": {"miou": miou + 0.5}}
        line["teacher_miou"] = miou + 0.5
    early = {**line, "epoch": 1, "student_miou": miou - 9}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in (early, line)))
    (folder / "stage.json").write_text(stage.canonical())
    record = {
        "key": stage.key,
        **json.loads(stage.canonical()),
        "seconds": 30.0,
        "steps": 4,
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
