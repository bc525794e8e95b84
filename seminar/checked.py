"""Whether data can be trained on: looked at once, before anything is trained, and remembered.

runs/checked/<16 digits>.json    one data set as it was planned with: `{"error": null}`, or what a training met in it
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from seminar import pretrained, schema, views
from seminar.catalogue import Host
from seminar.data import PADDING, Dataset
from seminar.recipes import open_data
from seminar.spec import InputError, Stage
from seminar.store import Store, write_json
from seminar.text import printable

SHOWN = 10
"""How many problems of a data set are shown."""
VIEWS = 32
"""Training views that are drawn to see whether any holds a label; mostly the first one does."""


def check(trainings: Iterable[tuple[Stage, Host]], store: Store) -> None:
    """Look once at each data set that these trainings need, and each time at some views of it. Raises `InputError` with
    a line for each example that cannot be used; of many the first ones. Prints what can be used but may not be meant.

    A data set with files has a method `unusable`, which says what it looks at and what it cannot find, and one
    `doubts`.
    """
    trainings = list(trainings)
    for path, (stage, host) in {_file(stage, store): (stage, host) for stage, host in trainings}.items():
        if _error(path) == (True, None, None):
            _show(stage, _notes(path))
            continue
        find = getattr(open_data(stage, host), "unusable", None)
        if find is None:
            continue
        found = find()
        if found:
            more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
            head = [f"data {stage.data.name!r}: {len(found)} examples cannot be used"] if len(found) > 1 else []
            raise InputError("\n".join([*head, *found[:SHOWN], *more]))
        notes = list(getattr(open_data(stage, host), "doubts", list)())
        _show(stage, notes)
        _remember(path, None, None, notes)
    for stage, host in {_view(stage, store): (stage, host) for stage, host in trainings}.values():
        dataset = open_data(stage, host)
        count = _views_without_label(stage, dataset) if hasattr(dataset, "unusable") else 0
        _show(stage, [views.no_label(count)] if count else [])


def _view(stage: Stage, store: Store) -> tuple[object, ...]:
    """Return what decides whether views of a data set hold labels."""
    return (
        _file(stage, store),
        stage.crop,
        stage.scale_min,
        stage.scale_max,
        stage.annotation,
        stage.annotation_settings,
    )


def _views_without_label(stage: Stage, dataset: Dataset) -> int:
    """Return how many training views were drawn, if none of them holds a label; 0 as soon as one does, or where the
    stage learns from none."""
    view = views.training_view(stage, dataset.background)
    examples = dataset.split("train")
    places = range(0, len(examples), max(1, len(examples) // VIEWS))[:VIEWS]
    for place in places:
        torch.manual_seed(views.mix(stage.seed, 0, place))
        drawn = view(examples[place])
        if "labels" not in drawn or bool((drawn["labels"] < PADDING).any()):
            return 0
    return len(places)


def check_weights(trainings: Iterable[tuple[Stage, Host]], download: bool) -> None:
    """Raise `InputError` where ImageNet weights that one of these trainings begins with cannot be had or do not fit;
    without `download`, weights that are not here yet are not looked at."""
    wanted = {(stage.backbone, host.weights, stage.pretrained) for stage, host in trainings}
    for backbone, weights, identity in sorted(wanted, key=str):
        if identity != "none":
            pretrained.check(backbone, weights, identity, download)


def _show(stage: Stage, notes: Iterable[str]) -> None:
    for note in notes:
        print(printable(f"note: data {stage.data.name!r}: {note}"), file=sys.stderr)


def _notes(path: Path) -> list[str]:
    """Return what was noted when a data set was looked at."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        return [str(note) for note in schema.parse(path.read_bytes())["notes"]]
    return []


def failure(stage: Stage, store: Store, call: str) -> str | None:
    """Return what a training of this `call` met in the data of `stage`; None: nothing."""
    _, error, by = _error(_file(stage, store))
    return error if by == call else None


def keep_failure(stage: Stage, store: Store, call: str, why: str) -> None:
    """Remember what a training met in the data of `stage`: the other trainings of the `call` would meet it too, and the
    next call looks at the data again."""
    _remember(_file(stage, store), why, call)


def _file(stage: Stage, store: Store) -> Path:
    """Return the file that remembers what was found in the data set of `stage`. Its name is a hash of the settings and
    of the fingerprint: `clicks_outside=drop` makes other examples of the same files."""
    identity = repr((stage.data, stage.data_fingerprint)).encode()
    return store.root / "checked" / f"{hashlib.sha256(identity).hexdigest()[:16]}.json"


def _error(path: Path) -> tuple[bool, str | None, str | None]:
    """Return whether a data set was looked at, the problem that a training met in it, and in which call."""
    try:
        content = schema.parse(path.read_bytes())
        return True, content["error"], content["call"]
    except (OSError, ValueError, KeyError, TypeError):  # at worst it is looked at once more
        return False, None, None


def _remember(path: Path, why: str | None, call: str | None, notes: Sequence[str] = ()) -> None:
    with suppress(OSError):  # a full disk, say: at worst it is looked at once more
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"error": why, "call": call, "notes": list(notes)})
