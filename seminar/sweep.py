"""Sweep files: W&B's sweep YAML, read and enumerated without W&B and without torch.

Only what every executor understands the same way is accepted. `method: grid` holds `value` and `values` under
`parameters` and is enumerated in W&B's own order (names sorted, the last name fastest). `method: random` and `bayes`
search: `run_cap` trials, each at a point that a sampler chooses from `values` and from ranges.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import yaml

from seminar.spec import InputError, Scalar, unknown
from seminar.text import brief, plain

_KEYS = {"name", "description", "program", "method", "metric", "parameters", "command", "project", "entity"}
_SEARCH_KEYS = {"run_cap", "early_terminate"}
Point = dict[str, Scalar]
Method = Literal["grid", "random", "bayes"]

LARGEST = 10**6
"""Signs of the longest sweep file that is read."""
DIGITS = 18
"""Of the longest whole number that a setting may have."""
DEFAULT = "default"
"""As the value of a setting: as if it was not given, so the profile or the paper decides."""
PAIRED = "seed"
"""The setting over which rows are paired. A search does not choose it: its trials take the first value."""


class LeftOut(InputError):
    """What cannot be part of a request. Where several sweeps are requested, the others go on without it."""


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, both included: whole ones only, or evenly spread over their logarithm."""

    low: float
    high: float
    whole: bool = False
    log: bool = False

    @property
    def ends(self) -> tuple[Scalar, Scalar]:
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        return self.low <= value <= self.high and (isinstance(value, int) or not self.whole)


@dataclass(frozen=True)
class Halving:
    """Early termination: of the trials at `min_iter` evaluations the best 1 / `eta` go on, to `eta` times as many."""

    min_iter: int
    eta: int


@dataclass(frozen=True)
class Sweep:
    """A sweep file: `name`, the question it answers (`description`), what it varies and what it fixes.

    A grid has `parameters` alone. A search also has `ranges` and `run_cap`, the number of its trials, and may end bad
    trials early (`halving`).
    """

    name: str
    description: str
    parameters: Mapping[str, tuple[Scalar, ...]]
    method: Method = "grid"
    ranges: Mapping[str, Range] = dataclasses.field(default_factory=dict)
    run_cap: int = 0
    halving: Halving | None = None

    def override(self, settings: Mapping[str, tuple[Scalar, ...]]) -> Sweep:
        """Return the same sweep with some settings replaced or added; several values make a setting a dimension.

        The seeds of a search stay those of its file: other seeds are for the report of its winner.
        """
        given = {name: values for name, values in settings.items() if not (self.is_search and name == PAIRED)}
        return dataclasses.replace(
            self,
            parameters={**self.parameters, **given},
            ranges={name: span for name, span in self.ranges.items() if name not in given},
        )

    def capped(self, trials: int | None) -> Sweep:
        """Return a search with another number of trials; a grid has none to change."""
        return dataclasses.replace(self, run_cap=trials) if trials and self.is_search else self

    def check(self) -> None:
        """Raise `LeftOut` for a search that has nothing to search or would choose by what is reported."""
        if not self.is_search:
            return
        if not self.space:
            raise LeftOut(f"{self.name}: nothing is left to search, every setting has one value")
        for name in self.space:
            if name in ("profile", "variant", "split", "data") or name.startswith("data_"):
                raise LeftOut(f"{self.name}: {name}: a search has one value of it")
        if self.parameters.get("split") != ("tuning",):
            raise LeftOut(f"{self.name}: a search needs split=tuning, to choose by other images than are reported")

    @property
    def is_search(self) -> bool:
        return self.method != "grid"

    @property
    def space(self) -> dict[str, Range | tuple[Scalar, ...]]:
        """What a search chooses from, by setting in sorted order; empty for a grid."""
        if not self.is_search:
            return {}
        space: dict[str, Range | tuple[Scalar, ...]] = dict(self.ranges)
        space |= {name: values for name, values in self.parameters.items() if len(values) > 1 and name != PAIRED}
        return {name: space[name] for name in sorted(space)}

    def at(self, point: Mapping[str, Scalar], **settings: tuple[Scalar, ...]) -> Sweep:
        """Return the grid of one point of a search, with other `settings` in place of its own."""
        first = {name: values[:1] for name, values in self.parameters.items()}
        chosen = {name: (value,) for name, value in point.items()}
        return Sweep(self.name, self.description, {**first, **chosen, **settings})

    @property
    def points(self) -> list[Point]:
        """Every cell of the grid as `{name: value}`, in W&B's order. Of a search: the one cell that has the profile's
        own values for all that is searched."""
        if self.is_search:
            return self.at(dict.fromkeys(self.space, DEFAULT)).points
        names = sorted(self.parameters)
        return [dict(zip(names, values)) for values in itertools.product(*(self.parameters[n] for n in names))]


def together(parts: Sequence[Sweep]) -> Sweep:
    """Return one sweep to show for several; its grid is not theirs, the cells are planned sweep by sweep."""
    if len(parts) == 1:
        return parts[0]
    parameters: dict[str, tuple[Scalar, ...]] = {}
    for part in parts:
        for name, values in part.parameters.items():
            parameters[name] = tuple(dict.fromkeys((*parameters.get(name, ()), *values)))
    return Sweep("suite", ", ".join(part.name for part in parts), parameters)


def load(path: Path) -> Sweep:
    """Read a sweep file. Raises `InputError` with the file's name and the reason where it cannot be used."""
    try:
        text = path.read_text(encoding="utf-8")
        if len(text) > LARGEST:
            raise InputError(f"sweep file {path}: {len(text):,} signs, more than the {LARGEST:,} of any sweep file")
        raw = parse_yaml(text)
    except FileNotFoundError:
        raise InputError(f"sweep file {path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"sweep file {path}: cannot be read ({why})") from None
    except (yaml.YAMLError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"sweep file {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(raw, dict):
        raise InputError(f"sweep file {path}: expected a mapping with 'method' and 'parameters'")
    method = raw.get("method")
    if method not in get_args(Method):
        raise InputError(f"sweep file {path}: {unknown('method', method, get_args(Method))}")
    search = method != "grid"
    for name in raw:
        if name in _SEARCH_KEYS and not search:
            raise InputError(f"sweep file {path}: {name}: only for method random or bayes, a grid trains every cell")
        if name not in _KEYS | _SEARCH_KEYS:
            raise InputError(f"sweep file {path}: {unknown('key', name, _KEYS | _SEARCH_KEYS)}")
    command = raw.get("command")
    if command is not None and not (isinstance(command, list) and "${args_json}" in command):
        raise InputError(
            f"sweep file {path}: command={brief(command)}: `seminar cell` takes its settings as one JSON object; write "
            '["${env}", "${program}", cell, "${args_json}"], or leave the command out'
        )
    parameters = raw.get("parameters")
    if not isinstance(parameters, dict) or not parameters:
        raise InputError(f"sweep file {path}: 'parameters' must map each setting to 'value' or 'values'")
    metric = raw.get("metric") or {"name": "student_miou"}
    if not isinstance(metric, dict) or metric.get("name") != "student_miou" or metric.get("goal") == "minimize":
        raise InputError(f"sweep file {path}: metric={brief(metric)}: choose {{name: student_miou, goal: maximize}}")
    for key in ("name", "description"):
        if not isinstance(raw.get(key), str | int | float | None):
            raise InputError(f"sweep file {path}: {key}={brief(raw[key])}: must be text; put it in quotes")
    read: dict[str, tuple[Scalar, ...] | Range] = {}
    for name, spec in parameters.items():
        try:
            read[str(name)] = _values(spec, search)
        except InputError as error:
            raise InputError(f"sweep file {path}: parameter {brief(str(name))} {error}") from None
    found = Sweep(
        name=" ".join(str(raw.get("name") or path.stem).split()),  # one line, as is all that is printed of a sweep
        description=" ".join(str(raw.get("description") or "").split()),
        parameters={name: values for name, values in read.items() if not isinstance(values, Range)},
        method=cast(Method, method),
        ranges={name: span for name, span in read.items() if isinstance(span, Range)},
        run_cap=_whole(path, "run_cap", raw.get("run_cap"), 1) if search else 0,
        halving=_halving(path, raw["early_terminate"]) if "early_terminate" in raw else None,
    )
    if search and not found.space:
        raise InputError(f"sweep file {path}: method={method!r}: no parameter has a range or several 'values'")
    if PAIRED in found.ranges:
        raise InputError(f"sweep file {path}: parameter {PAIRED!r}: a search does not choose it; give it one 'value'")
    return found


WRITTEN = "written by `seminar sweep --save-as`"
"""By which a sweep file is known that may be written anew."""


def rewrite(path: Path, settings: Mapping[str, tuple[Scalar, ...]], trials: int | None = None) -> str:
    """Return the text of a sweep file with some settings replaced or added, and with `trials` as its `run_cap`: for
    `wandb sweep`, which takes a file and nothing else. Raises `InputError` as `load` does."""
    sweep = load(path)
    raw: Any = parse_yaml(path.read_text(encoding="utf-8"))
    for name, values in settings.items():
        raw["parameters"][name] = {"value": values[0]} if len(values) == 1 else {"values": list(values)}
    if trials and sweep.is_search:
        raw["run_cap"] = trials
    given = plain(" ".join(f"{name}={','.join(map(str, values))}" for name, values in settings.items()))
    head = f"# {path} with {given or 'no other settings'}, {WRITTEN}\n"
    return head + yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def parse_yaml(text: str) -> object:
    """Return the value of a YAML text. Raises `yaml.YAMLError` or `ValueError`, also for aliases (a few lines of them
    make gigabytes), for a key that stands twice (the first would be lost), for a text that is nested too deep, and for
    a path that YAML reads as something else."""
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"it has the alias *{event.anchor}; write the value out")
        _check(yaml.compose(text, Loader=yaml.SafeLoader))
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _check(node: yaml.Node | None, path: bool = False) -> None:
    """Raise `ValueError` for a key that stands twice, and (`path`) for values that do not stay the text they are."""
    if isinstance(node, yaml.ScalarNode) and path:
        read = yaml.safe_load(node.value) if node.style is None else node.value
        other = not isinstance(read, bool | int | float | str | None)  # a date
        if other or (type(read) is int and str(read) != node.value):
            raise ValueError(f"{plain(node.value)} is read as {plain(read)}; write it in quotes to keep it as it is")
    elif isinstance(node, yaml.SequenceNode):
        for part in node.value:
            _check(part, path)
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError("a key is a list or a mapping; write a name")
            if key.value in seen:
                raise ValueError(f"the key {brief(key.value)} stands twice; the first one would be lost")
            seen.add(key.value)
            _check(value, path or may_be_path(key.value))


def may_be_path(name: str) -> bool:
    """Return whether a setting may hold a path, which must stay the text it is: which settings of a data set do is
    known to the data set alone."""
    return name == "weights" or name.startswith("data_")


def _scalars(name: str, text: str) -> list[Any]:
    """Return the values of a setting of the command line. What may be a path stays the text it is, unless it is a
    number and no file or folder has that name; a comma separates values only where none has the whole name."""
    if not may_be_path(name):
        return [parse_yaml(part) for part in text.split(",")]
    parts = [text] if Path(text).exists() else text.split(",")
    values: list[Any] = []
    for part in parts:
        try:
            value = parse_yaml(part)
        except (yaml.YAMLError, ValueError):
            value = part
        number = isinstance(value, int | float) and not isinstance(value, bool)
        values.append(value if number and (str(value) == part or not Path(part).exists()) else part)
    return values


_DISTRIBUTIONS = ("uniform", "int_uniform", "log_uniform_values")


def _values(spec: object, search: bool) -> tuple[Scalar, ...] | Range:
    """Return the values of a parameter, or its range. Raises `InputError` with the end of a sentence about the
    parameter."""
    if search and isinstance(spec, dict) and {"min", "max"} <= spec.keys():
        return _range(spec)
    if not isinstance(spec, dict) or len(spec) != 1 or next(iter(spec)) not in ("value", "values"):
        ranges = ", or 'min' and 'max'" if search else ""
        raise InputError(f"must hold either 'value' or 'values'{ranges}, got {brief(spec)}")
    values = spec["values"] if "values" in spec else [spec["value"]]
    if not isinstance(values, list) or not values:
        raise InputError("has no 'values': a list with at least one entry")
    for value in values:
        if not is_value(value):
            raise InputError(
                f"has the value {brief(value)}: must be one number of up to {DIGITS} digits, one text, true or false"
            )
    return tuple(values)


def is_value(value: object) -> bool:
    """Return whether a setting may have a value: a number, a text or a truth value. No whole number is so long that
    computing with it fails."""
    return isinstance(value, bool | float | str) or (isinstance(value, int) and abs(value) < 10**DIGITS)


def _range(spec: Mapping[str, object]) -> Range:
    low, high = spec["min"], spec["max"]
    for bound in (low, high):
        # YAML 1.1 reads 1e-4 as text, and W&B does not say so.
        if isinstance(bound, bool) or not isinstance(bound, int | float):
            raise InputError(f"has the bound {brief(bound)}: no number (write 1.0e-4, with a dot)")
    assert isinstance(low, int | float) and isinstance(high, int | float)
    if isinstance(low, int) != isinstance(high, int):
        raise InputError(f"has the bounds {low!r} and {high!r}: both whole numbers, or both with a dot")
    if not low < high or not max(abs(low), abs(high)) < 1e300:
        raise InputError(f"has the bounds {brief(low)} and {brief(high)}: min must be below max")
    kind = spec.get("distribution", "int_uniform" if isinstance(low, int) else "uniform")
    if spec.keys() - {"min", "max", "distribution"} or kind not in _DISTRIBUTIONS:
        raise InputError(f"is {brief(spec)}: choose min, max and distribution from {', '.join(_DISTRIBUTIONS)}")
    if kind == "log_uniform_values" and low <= 0:
        raise InputError(f"has min={low!r}: a logarithm needs a number above 0")
    if kind == "int_uniform" and not isinstance(low, int):
        raise InputError(f"has the bounds {low!r} and {high!r}: int_uniform needs whole numbers")
    return Range(float(low), float(high), whole=kind == "int_uniform", log=kind == "log_uniform_values")


def _halving(path: Path, spec: object) -> Halving:
    """Return W&B's `early_terminate`, in either of its forms."""
    if not isinstance(spec, dict) or spec.get("type") != "hyperband":
        raise InputError(f"sweep file {path}: early_terminate={brief(spec)}: choose type: hyperband")
    eta = _whole(path, "early_terminate.eta", spec.get("eta", 3), 2)
    if spec.keys() == {"type", "max_iter", "s"} | (spec.keys() & {"eta"}):
        most = _whole(path, "early_terminate.max_iter", spec["max_iter"], 2)
        return Halving(max(1, most // eta ** _whole(path, "early_terminate.s", spec["s"], 1)), eta)
    if spec.keys() == {"type", "min_iter"} | (spec.keys() & {"eta"}):
        return Halving(_whole(path, "early_terminate.min_iter", spec["min_iter"], 1), eta)
    raise InputError(f"sweep file {path}: early_terminate={brief(spec)}: choose min_iter, or max_iter and s, and eta")


def _whole(path: Path, name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"sweep file {path}: {name}={brief(value)}: a whole number, at least {least}")
    return value


def parse_settings(arguments: list[str], seeds: int | None = None) -> dict[str, tuple[Scalar, ...]]:
    """`["alpha=0.9,0.99", "losses=pce"]` to `{"alpha": (0.9, 0.99), "losses": ("pce",)}`.

    Values are read as YAML scalars; a comma separates several. Paths stay as they are. `seeds=N` is short for
    `seed=0,1,...,N-1`.
    Raises `InputError` for anything else.
    """
    settings: dict[str, tuple[Scalar, ...]] = {}
    for argument in arguments:
        name, equals, text = argument.partition("=")
        if not equals or not name or not text:
            raise InputError(f"{brief(argument)}: write name=value, for example alpha=0.99 or seed=0,1,2")
        if name in settings:
            raise InputError(f"{brief(argument)}: {brief(name)} is given twice")
        try:
            values = tuple(_scalars(name, text))
        except (yaml.YAMLError, ValueError):
            raise InputError(f"{brief(argument)}: the value is not a plain number, text or truth value") from None
        if not all(map(is_value, values)):
            raise InputError(f"{brief(argument)}: the value is not a plain number, text or truth value")
        if len(set(map(repr, values))) < len(values):
            raise InputError(f"{brief(argument)}: a value is given twice")
        settings[name] = values
    if seeds is not None:
        if "seed" in settings:
            raise InputError(f"--seeds {seeds}: seed= is given as well; give one of the two")
        if seeds < 1:
            raise InputError(f"--seeds {seeds}: the number of seeds is at least 1")
        settings["seed"] = tuple(range(seeds))
    return settings
