"""From records to rows: one row per cell of a sweep, and one per epoch for curves."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import pandas as pd

from analysis import origins
from seminar.catalogue import Cell
from seminar.spec import InputError, Stage

PROTOCOL = "crop"
"""The reported score: short side to the crop size, centre crop (the paper's). `full` is stored beside it."""

MISSING = float("nan")

_COSTS = ("seconds", "steps", "peak_memory_mb")
_CURVES = ("student_miou", "teacher_miou", "agreement", "loss", "lr")
_SCORES = ("background_recall", "foreground_recall", "miou_bias", "background_bias")
_ENVIRONMENT = ("commit", "torch", "device", "cpu")
_FIRST = ("key", "status", "error", "losses", "backbone", "seed", "modules", "has_teacher")
_BEST = tuple(f"best_{network}_{what}" for network in ("student", "teacher") for what in ("miou", "epoch"))
_FIXED = (*_FIRST, "student_miou", "teacher_miou", "ancillary_miou", *_SCORES, *_BEST, *_COSTS, *_ENVIRONMENT, "notes")
_MEASURED = {"teacher_miou", "ancillary_miou", *_SCORES, *_BEST, *_COSTS}


class Source(Protocol):
    """Where records come from: `seminar.store.Store`, or anything that answers these four questions."""

    def record(self, key: str) -> Mapping[str, Any] | None: ...

    def failure(self, key: str) -> Mapping[str, Any] | None: ...

    def curve(self, key: str, containing: str = "") -> Sequence[Mapping[str, Any]]: ...

    def status(self, key: str) -> str: ...


class Once:
    """A source that reads each answer once: many exhibits look at the same records.

    A record that cannot be used stops no report: its training counts as failed, and a gap says why.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._damaged: dict[str, str] = {}
        self.record = functools.cache(self._record)
        self.failure = functools.cache(self._failure)
        self.curve = functools.cache(source.curve)
        self.status = functools.cache(self._status)
        self.rows: dict[tuple[str, str], dict[str, object]] = {}
        """Rows of frames by key and protocol."""

    def _record(self, key: str) -> Mapping[str, Any] | None:
        try:
            return self._source.record(key)
        except InputError as error:
            self._damaged[key] = str(error)
            return None

    def _failure(self, key: str) -> Mapping[str, Any] | None:
        return {"error": self._damaged[key]} if key in self._damaged else self._source.failure(key)

    def _status(self, key: str) -> str:
        status = self._source.status(key)
        return "failed" if status == "done" and self.record(key) is None else status


def frame(source: Source, cells: Sequence[Cell], protocol: str = PROTOCOL) -> pd.DataFrame:
    """Return one row per cell, also for the cells that have no record yet. A missing number is NaN, never 0.

    Scores without a prefix (`background_recall`, `foreground_recall`, `miou_bias`, `background_bias`) are the
    student's, and so are further metrics of the records (`student_NAME`); all in %. `seed` is the sweep's seed (the
    replicate), on which rows are paired. `seconds` is this training alone, without its ancillaries. Every other column
    is a setting with the value that it has in the training; `profile`, `split` and `variant` are those of the sweep.
    """
    rows = [_row(source, cell, protocol) for cell in cells]
    # Rows of one kind have the same names, and there may be many thousand rows.
    kinds = dict.fromkeys(tuple(row) for row in rows)
    others = list(dict.fromkeys(name for kind in kinds for name in kind if name not in _FIXED))
    return pd.DataFrame(rows, columns=[*_FIXED, *others])


def ancillaries(cells: Sequence[Cell]) -> list[Cell]:
    """Return the cells' ancillaries as cells of their own, each once."""
    stages = {cell.stage.ancillary.key: cell.stage.ancillary for cell in cells if cell.stage.ancillary is not None}
    return [Cell({}, stage) for stage in stages.values()]


def trainings(source: Source, cells: Sequence[Cell], protocol: str = PROTOCOL) -> pd.DataFrame:
    """Return one row per distinct training behind the cells, their ancillaries included: what was paid for."""
    stages = {stage.key: stage for cell in cells for stage in cell.stage.chain}
    return frame(source, [Cell({}, stage) for stage in stages.values()], protocol)


def setting_columns(data: pd.DataFrame) -> list[str]:
    """Return the columns of a frame that are settings, except those that every frame has."""
    return [str(name) for name in data.columns if name not in _FIXED and not measured(str(name))]


def measured(name: str) -> bool:
    """Return whether a column is measured and not chosen."""
    return name in _MEASURED or name.startswith("student_")


def extra_metric_columns(data: pd.DataFrame) -> list[str]:
    """Return the columns of further metrics that the records have beside mIoU, the recalls and the bias."""
    return [str(name) for name in data.columns if str(name).startswith("student_") and name not in _FIXED]


def _row(source: Source, cell: Cell, protocol: str) -> dict[str, object]:
    known = source.rows if isinstance(source, Once) else {}
    place = (cell.stage.key, protocol)
    if place not in known:
        known[place] = _training(source, cell.stage, protocol)
    return known[place] | {name: cell.point[name] for name in ("profile", "split", "variant") if name in cell.point}


def _training(source: Source, stage: Stage, protocol: str) -> dict[str, object]:
    status, record = source.status(stage.key), None
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
    row["ancillary_miou"] = _ancillary_miou(source, stage, protocol) if record is not None else MISSING
    row |= {name: _number(student.get(name)) for name in _SCORES}
    others = {name: value for name, value in student.items() if isinstance(value, float) and name not in _SCORES}
    row |= {f"student_{name}": _number(value) for name, value in others.items()}
    for network in ("student", "teacher"):
        for what in ("miou", "epoch"):
            row[f"best_{network}_{what}"] = _number((best.get(network) or {}).get(what))
    row |= {name: _number(content.get(name)) for name in _COSTS}
    environment = content.get("environment", {})
    row |= {name: str(environment.get(name) or "") for name in _ENVIRONMENT}
    row["commit"] = origins.commits(content)
    row["notes"] = "\n".join(content.get("notes", ()))
    return row | {name: value for name, value in stage.settings.items() if name not in row}


def _ancillary_miou(source: Source, stage: Stage, protocol: str) -> float:
    """Return the mIoU of the ancillary of a finished training, so of the same seeds as its row."""
    before = source.record(stage.ancillary.key) if stage.ancillary is not None else None
    return _number((before or {}).get("metrics", {}).get("student", {}).get(protocol, {}).get("miou"))


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else MISSING


def curves(source: Source, cells: Sequence[Cell]) -> pd.DataFrame:
    """Return the long form: one row per cell and evaluated epoch (`key, status, losses, seed, epoch, student_miou`).

    Epochs count from 1. A training that was interrupted may hold an epoch twice; the later line counts.
    """
    rows: list[dict[str, object]] = []
    for cell in cells:
        stage = cell.stage
        known = {"key": stage.key, "status": source.status(stage.key), "losses": stage.label, "seed": stage.replicate}
        # Most epochs are not evaluated; with thousands of trainings it pays not to parse their lines.
        lines = {line["epoch"]: line for line in source.curve(stage.key, '"student_miou"')}
        for epoch in sorted(lines):
            rows.append({**known, **{name: _number(lines[epoch].get(name)) for name in _CURVES}, "epoch": int(epoch)})
    return pd.DataFrame(rows, columns=["key", "status", "losses", "seed", "epoch", *_CURVES])
