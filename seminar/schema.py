"""What records, curves, plans and failures look like as JSON: the one check of everything that is read from a folder of
runs, whoever has written it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from pydantic_core import from_json
from typing_extensions import TypedDict  # that of Python 3.11 itself is none to pydantic

from seminar.spec import InputError

Json = dict[str, Any]
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Percent = Annotated[float, Field(ge=0, le=100)]
Whole = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]
"""JSON's whole numbers have no bound, and one of 400 digits is too large for a float and for every table."""
Positive = Annotated[Whole, Field(ge=1)]
Finite = Annotated[float, Field(ge=-1e100, le=1e100)]
"""A float whose square is one as well: what is averaged has a standard deviation."""
Value = bool | Whole | float | str
"""The value of a setting."""
TOLERANCE = 0.1
"""Points of mIoU by which a record may differ from the last line of its curve: a training that was stopped between the
two, and went on on another processor, has evaluated its last epoch twice."""
LONGEST = 1 << 16
"""Bytes of the longest line of a curve."""

# Versions to come may add fields; `strict`: "12" is no number.
_OPEN = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


@with_config(_OPEN)
class Scores(TypedDict):
    """Scores of a network. None: there is no mask to score by."""

    miou: Percent | None
    background_recall: NotRequired[Percent | None]
    foreground_recall: NotRequired[Percent | None]
    miou_bias: NotRequired[Percent | None]
    background_bias: NotRequired[Finite | None]
    iou: NotRequired[list[Percent | None]]
    recall: NotRequired[list[Percent | None]]
    confusion: NotRequired[list[list[Whole]]]
    boundary_iou: NotRequired[Percent | None]
    agreement: NotRequired[Percent | None]


def _holding(name: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Return a check that a dictionary has this key."""

    def check(content: dict[str, Any]) -> dict[str, Any]:
        if name not in content:
            raise ValueError(f"{name} is missing")
        return content

    return check


Protocols = Annotated[dict[str, Scores], AfterValidator(_holding("crop"))]
"""Scores by protocol; `crop` is the one that is reported."""
Networks = Annotated[dict[str, Protocols], AfterValidator(_holding("student"))]
"""Scores by role and protocol. No dictionary with a few known names: every role and protocol is looked at."""


@with_config(_OPEN)
class Best(TypedDict):
    epoch: Positive
    miou: Percent


@with_config(_OPEN)
class Environment(TypedDict):
    """Where a training ran."""

    torch: str
    device: str
    cpu: str
    commit: NotRequired[str | None]
    processes: NotRequired[Positive]


@with_config(_OPEN)
class Start(TypedDict):
    """When, where and by which code a training was started, or went on after `epoch` epochs."""

    commit: NotRequired[str | None]
    parts: dict[str, str]


@with_config(_OPEN)
class CellFacts(TypedDict):
    """The cell of a sweep that needed a training."""

    key: Key
    point: dict[str, Value]
    own: dict[str, Value]


@with_config(_OPEN)
class Described(TypedDict):
    """The stage of a record: of any recipe, so only what every recipe has."""

    epochs: Positive


@with_config(_OPEN)
class RecordFile(TypedDict):
    """`record.json`."""

    key: Key
    recipe: Whole
    stage: Described
    seconds: Annotated[Finite, Field(ge=0)]
    steps: Positive
    metrics: Networks
    environment: Environment
    classes: list[str]
    background: NotRequired[Whole | None]
    settings: NotRequired[dict[str, Value]]
    cell: NotRequired[CellFacts | None]
    started: NotRequired[str]
    finished: NotRequired[str]
    peak_memory_mb: NotRequired[Whole | None]
    sessions: NotRequired[Positive]
    starts: NotRequired[list[Start]]
    best: NotRequired[dict[str, Best | None]]
    data: NotRequired[dict[str, Whole]]
    notes: NotRequired[list[str]]
    weights_sha256: NotRequired[dict[str, Sha256]]
    pretrained_sha256: NotRequired[Sha256]
    ancillary_sha256: NotRequired[Sha256]


def background(record: Mapping[str, Any]) -> int | None:
    """Return the index of the class of a record that is no object, or None where every class is one. Records without
    the field are of data sets whose first class is the background."""
    found: int | None = record.get("background", 0)
    return found


@with_config(_OPEN)
class FailureFile(TypedDict):
    """`failure.json`."""

    error: str
    call: NotRequired[str | None]


@with_config(_OPEN)
class PlannedCell(TypedDict):
    point: dict[str, Value]
    key: Key
    own: dict[str, Value]
    host: list[str]
    preset: str
    planned: str


@with_config(_OPEN)
class PlannedStage(TypedDict):
    """A stage with the key of its ancillary in place of the ancillary."""

    ancillary: Key | None


@with_config(_OPEN)
class PlanFile(TypedDict):
    """`plans/<sweep>.json`."""

    recipe: Whole
    sweep: str
    left_out: dict[str, list[str]]
    cells: list[PlannedCell]
    stages: dict[Key, PlannedStage]


RECORD: TypeAdapter[Any] = TypeAdapter(RecordFile)
FAILURE: TypeAdapter[Any] = TypeAdapter(FailureFile)
PLAN: TypeAdapter[Any] = TypeAdapter(PlanFile)
LINE: TypeAdapter[dict[str, Whole | float | None]] = TypeAdapter(
    dict[str, Whole | float | None], config=ConfigDict(strict=True, allow_inf_nan=False)
)
"""A line of `metrics.jsonl`: `epoch` (from 1), `step`, `seconds`, and every number that was logged."""


def parse(text: str | bytes) -> Any:
    """Return the value of a JSON text. Raises `ValueError` for anything else, also for one that is nested too deep."""
    return from_json(text, allow_inf_nan=False)


def read(path: Path, kind: TypeAdapter[Any], remedy: str) -> Json | None:
    """Return the content of a file of this kind; None if there is none. Raises `InputError` that says what is wrong
    with it and the `remedy`."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        value: Json = kind.validate_json(content)
    except ValidationError as error:
        raise InputError(f"{path}: damaged ({_first(error)}); {remedy}") from None
    return value


def lines(path: Path, remedy: str, containing: str = "") -> list[Json]:
    """Return the lines of a curve that contain the text `containing`; [] if there is no file.

    A torn last line is left out. Raises `InputError` for any other line that is none of a curve.
    """
    try:
        texts = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    found: list[Json] = []
    sign = containing.encode()
    for number, text in enumerate(texts[:-1], 1):
        if text and sign in text:
            try:
                found.append(_line(text))
            except ValueError:
                raise InputError(
                    f"{path}: damaged: line {number} is no line of metrics (JSON with epoch, step, ...); {remedy}"
                ) from None
    return found


def last_line(path: Path) -> Json | None:
    """Return the last whole line of a curve without reading all of it; None where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST))
            texts = file.read().split(b"\n")
        return _line(texts[-2]) if len(texts) > 1 else None
    except (FileNotFoundError, ValueError):
        return None


def _line(text: bytes) -> Json:
    """Return a line of a curve. Raises `ValueError` for anything else."""
    line = LINE.validate_json(text)
    epoch = line.get("epoch")
    if not (isinstance(epoch, int) and epoch >= 1 and line.get("seconds") is not None):
        raise ValueError("without an epoch or its seconds")
    return line


def disagreement(record: Mapping[str, Any], last: Json | None) -> str | None:
    """Return where a record contradicts the last line of its curve; None where it does not."""
    if last is None:
        return "metrics.jsonl is missing or damaged, so the record cannot be checked against its curve"
    epochs = record["stage"]["epochs"]
    if last["epoch"] != epochs:
        return f"the record is of {epochs} epochs and metrics.jsonl ends with epoch {last['epoch']}"
    for role, protocols in record["metrics"].items():
        said, seen = protocols["crop"]["miou"], last.get(f"{role}_miou")
        if (said is None) != (seen is None) or (said is not None and abs(said - float(seen or 0)) > TOLERANCE):
            return f"the record says {role} mIoU {_shown(said)}, and metrics.jsonl ends with {_shown(seen)}"
    return None


def best_disagreement(record: Mapping[str, Any], curve: Sequence[Json]) -> str | None:
    """Return where the best epochs of a record contradict its curve; None where they do not."""
    for role, best in record.get("best", {}).items():
        if best is not None:
            seen = {line["epoch"]: line.get(f"{role}_miou") for line in curve}.get(best["epoch"])
            if seen is None or abs(best["miou"] - seen) > TOLERANCE:
                return (
                    f"the record says {role} mIoU {_shown(best['miou'])} after its best epoch, {best['epoch']}, and "
                    f"metrics.jsonl says {_shown(seen)}"
                )
    return None


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"


def _first(error: ValidationError) -> str:
    """Return the first problem in a few words; never the whole value, which may be long."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(map(str, problem["loc"]))
    return f"{place}: {problem['msg']}" if place else str(problem["msg"])
