"""Sweep files: W&B's sweep YAML, read and enumerated without W&B and without torch.

Only what every executor understands the same way is accepted: `value` and `values` under `parameters`. The grid is
enumerated in W&B's own order (names sorted, the last name fastest).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from seminar.spec import InputError, Scalar, unknown

_KEYS = {"name", "description", "program", "method", "metric", "parameters", "command", "project", "entity"}
Point = dict[str, Scalar]


@dataclass(frozen=True)
class Sweep:
    """A sweep file: `name`, the question it answers (`description`), what it varies and what it fixes."""

    name: str
    description: str
    parameters: Mapping[str, tuple[Scalar, ...]]

    def override(self, words: Mapping[str, tuple[Scalar, ...]]) -> Sweep:
        """The same sweep with some words replaced or added; several values make the word a dimension."""
        return Sweep(self.name, self.description, {**self.parameters, **words})

    @property
    def points(self) -> list[Point]:
        """Every cell of the grid as `{word: value}`, in W&B's order."""
        names = sorted(self.parameters)
        return [dict(zip(names, values)) for values in itertools.product(*(self.parameters[n] for n in names))]


def together(parts: Sequence[Sweep]) -> Sweep:
    """One sweep to show for several; its grid is not theirs, the cells are planned sweep by sweep."""
    if len(parts) == 1:
        return parts[0]
    parameters: dict[str, tuple[Scalar, ...]] = {}
    for part in parts:
        for word, values in part.parameters.items():
            parameters[word] = tuple(dict.fromkeys((*parameters.get(word, ()), *values)))
    return Sweep("suite", ", ".join(part.name for part in parts), parameters)


def load(path: Path) -> Sweep:
    """Read a sweep file. Raises `InputError` with the file's name and the reason where it cannot be used."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"sweep file {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"sweep file {path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise InputError(f"sweep file {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise InputError(f"sweep file {path}: expected a mapping with 'method' and 'parameters'")
    for name in raw:
        if name not in _KEYS:
            raise InputError(f"sweep file {path}: {unknown('key', name, _KEYS)}")
    if raw.get("method") != "grid":
        raise InputError(f"sweep file {path}: method={raw.get('method')!r}: choose from grid")
    parameters = raw.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise InputError(f"sweep file {path}: 'parameters' must map each word to 'value' or 'values'")
    metric = raw.get("metric") or {"name": "student_miou"}
    if not isinstance(metric, dict) or metric.get("name") != "student_miou" or metric.get("goal") == "minimize":
        raise InputError(f"sweep file {path}: metric={metric!r}: choose {{name: student_miou, goal: maximize}}")
    return Sweep(
        name=str(raw.get("name") or path.stem),
        description=str(raw.get("description") or "").strip(),
        parameters={str(word): _values(path, str(word), spec) for word, spec in parameters.items()},
    )


def _values(path: Path, word: str, spec: object) -> tuple[Scalar, ...]:
    if not isinstance(spec, dict) or len(spec) != 1 or next(iter(spec)) not in ("value", "values"):
        raise InputError(f"sweep file {path}: parameter {word!r} must hold either 'value' or 'values', got {spec!r}")
    values = spec["values"] if "values" in spec else [spec["value"]]
    if not isinstance(values, list) or not values:
        raise InputError(f"sweep file {path}: parameter {word!r}: 'values' must be a list with at least one entry")
    for value in values:
        if not isinstance(value, bool | int | float | str):
            raise InputError(f"sweep file {path}: parameter {word!r}: {value!r} is no number, word or truth value")
    return tuple(values)


def parse_words(arguments: list[str], seeds: int | None = None) -> dict[str, tuple[Scalar, ...]]:
    """`["alpha=0.9,0.99", "losses=pce"]` to `{"alpha": (0.9, 0.99), "losses": ("pce",)}`.

    Values are read as YAML scalars; a comma separates several. `seeds=N` is short for `seed=0,1,...,N-1`.
    Raises `InputError` for anything else.
    """
    words: dict[str, tuple[Scalar, ...]] = {}
    for argument in arguments:
        word, equals, text = argument.partition("=")
        if not equals or not word or not text:
            raise InputError(f"{argument!r}: write word=value, for example alpha=0.99 or seed=0,1,2")
        if word in words:
            raise InputError(f"{argument!r}: {word!r} is given twice")
        try:
            values = tuple(yaml.safe_load(item) for item in text.split(","))
        except yaml.YAMLError:
            raise InputError(f"{argument!r}: the value is not a plain number, word or truth value") from None
        if not all(isinstance(value, bool | int | float | str) for value in values):
            raise InputError(f"{argument!r}: the value is not a plain number, word or truth value")
        if len(set(map(repr, values))) < len(values):
            raise InputError(f"{argument!r}: a value is given twice")
        words[word] = values
    if seeds is not None:
        if "seed" in words:
            raise InputError(f"--seeds {seeds}: seed= is given as well; give one of the two")
        if seeds < 1:
            raise InputError(f"--seeds {seeds}: the number of seeds is at least 1")
        words["seed"] = tuple(range(seeds))
    return words
