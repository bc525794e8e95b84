"""From records to rows: one row per cell of a sweep, and one per evaluated epoch for curves."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pandas as pd

from seminar.spec import Scalar, Stage

PROTOCOL = "crop"
"""The reported score: short side to the crop size, centre crop (the paper's). `full` is stored beside it."""

MISSING = float("nan")

_COSTS = ("seconds", "steps", "peak_memory_mb")
_CURVES = ("student_miou", "teacher_miou", "agreement", "loss", "lr")
_SCORES = ("miou", "background_recall", "foreground_recall", "miou_bias", "background_bias")
_TEXT = ("key", "status", "error", "losses", "backbone", "commit", "torch", "device", "cpu", "notes")


class Cell(Protocol):
    """What is read of `seminar.recipes.Cell`."""

    @property
    def point(self) -> Mapping[str, Scalar]: ...

    @property
    def stage(self) -> Stage: ...


class Source(Protocol):
    """Where records come from: `seminar.store.Store`, or anything that answers these four questions."""

    def record(self, key: str) -> Mapping[str, Any] | None: ...

    def failure(self, key: str) -> Mapping[str, Any] | None: ...

    def curve(self, key: str) -> Sequence[Mapping[str, Any]]: ...

    def status(self, key: str) -> str: ...


class Once:
    """A source that is asked each question once: many exhibits look at the same records."""

    def __init__(self, source: Source) -> None:
        self.record = functools.cache(source.record)
        self.failure = functools.cache(source.failure)
        self.curve = functools.cache(source.curve)
        self.status = functools.cache(source.status)


def frame(source: Source, cells: Sequence[Cell], protocol: str = PROTOCOL) -> pd.DataFrame:
    """One row per cell, also for the cells that have no record yet. A missing number is NaN, never 0.

    Scores without a prefix (`background_recall`, `foreground_recall`, `miou_bias`, `background_bias`) are the
    student's. `seed` is the sweep's seed (the replicate), on which rows are paired. `word_<name>` holds the grid
    point. `seconds` is this training alone, without its ancillaries.
    """
    return pd.DataFrame([_row(source, cell, protocol) for cell in cells], columns=_columns(cells))


@dataclass(frozen=True)
class _Training:
    """A training that no point of the grid names: an ancillary."""

    stage: Stage
    point: Mapping[str, Scalar] = field(default_factory=dict)


def ancillaries(cells: Sequence[Cell]) -> list[Cell]:
    """The cells' ancillaries as cells of their own, each once."""
    stages = {cell.stage.ancillary.key: cell.stage.ancillary for cell in cells if cell.stage.ancillary is not None}
    return [_Training(stage) for stage in stages.values()]


def trainings(source: Source, cells: Sequence[Cell], protocol: str = PROTOCOL) -> pd.DataFrame:
    """One row per distinct training behind the cells, their ancillaries included: what was paid for."""
    stages = {stage.key: stage for cell in cells for stage in cell.stage.chain}
    return frame(source, [_Training(stage) for stage in stages.values()], protocol)


def _columns(cells: Sequence[Cell]) -> list[str]:
    words = sorted({word for cell in cells for word in cell.point})
    scores = ["student_miou", "teacher_miou", "ancillary_miou", *_SCORES[1:]]
    scores += [f"best_{network}_{what}" for network in ("student", "teacher") for what in ("miou", "epoch")]
    stage = ["seed", "modules", "has_teacher"]
    return [*_TEXT[:5], *stage, *scores, *_COSTS, *_TEXT[5:], *(f"word_{word}" for word in words)]


def _row(source: Source, cell: Cell, protocol: str) -> dict[str, object]:
    stage, status, record = cell.stage, source.status(cell.stage.key), None
    if status == "done":
        record = source.record(stage.key)
    failure = source.failure(stage.key) if status == "failed" else None
    row: dict[str, object] = {
        "key": stage.key,
        "status": status,
        "error": str((failure or {}).get("error", "")),
        "losses": stage.label,
        "backbone": stage.backbone,
        "seed": stage.replicate,
        "modules": stage.modules,
        "has_teacher": stage.has_teacher,
    }
    content: Mapping[str, Any] = record or {}
    metrics, best = content.get("metrics", {}), content.get("best", {})
    student = metrics.get("student", {}).get(protocol, {})
    row["student_miou"] = _number(student.get("miou"))
    row["teacher_miou"] = _number(metrics.get("teacher", {}).get(protocol, {}).get("miou"))
    row |= {name: _number(student.get(name)) for name in _SCORES[1:]}
    # Of the same seeds as the row: the ancillary of a row that is not there counts for nothing.
    before = source.record(stage.ancillary.key) if record is not None and stage.ancillary is not None else None
    row["ancillary_miou"] = _number((before or {}).get("metrics", {}).get("student", {}).get(protocol, {}).get("miou"))
    for network in ("student", "teacher"):
        for what in ("miou", "epoch"):
            row[f"best_{network}_{what}"] = _number((best.get(network) or {}).get(what))
    row |= {name: _number(content.get(name)) for name in _COSTS}
    environment = content.get("environment", {})
    row |= {name: str(environment.get(name) or "") for name in _TEXT[5:-1]}
    row["notes"] = "\n".join(content.get("notes", ()))
    return row | {f"word_{word}": value for word, value in cell.point.items()}


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else MISSING


def curves(source: Source, cells: Sequence[Cell]) -> pd.DataFrame:
    """Long form: one row per cell and evaluated epoch (`key, status, losses, seed, epoch, student_miou, ...`).

    Epochs count from 1. A run that was interrupted may hold an epoch twice; the later line counts.
    """
    rows: list[dict[str, object]] = []
    for cell in cells:
        stage = cell.stage
        status = source.status(stage.key)
        lines = {line["epoch"]: line for line in source.curve(stage.key)}
        for epoch in sorted(lines):
            if "student_miou" not in lines[epoch]:
                continue
            scores = {name: _number(lines[epoch].get(name)) for name in _CURVES}
            known = {"key": stage.key, "status": status, "losses": stage.label, "seed": stage.replicate}
            rows.append({**known, "epoch": int(epoch), **scores})
    columns = ["key", "status", "losses", "seed", "epoch", *_CURVES]
    return pd.DataFrame(rows, columns=columns)
