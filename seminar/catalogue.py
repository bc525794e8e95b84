"""What planning resolved: which training answers each point of a sweep.

runs/plans/<sweep>.json   the cells of every plan of this sweep; a later plan of a point replaces the earlier one

Reports look points up here. So they need neither torch, nor the data, nor the machine that trained. A point that no
plan holds is compared with the settings of the trainings themselves.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from seminar import presets, schema
from seminar.spec import RECIPE, InputError, Scalar, Stage
from seminar.store import Store, locked, now, write_json
from seminar.sweep import DEFAULT, Point, Sweep, parse_settings
from seminar.text import file_name


class Host(BaseModel):
    """How trainings run here. Nothing of it changes what a training *is*, so nothing of it is in the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "auto"
    loader_workers: int = Field(default=0, ge=0)
    weights: Path | None = None
    data_paths: tuple[tuple[str, Path], ...] = ()

    @property
    def settings(self) -> set[str]:
        """The names of the settings that say where and how a training runs."""
        return HOST | {f"data_{name}" for name, _ in self.data_paths}


HOST = {name for name in Host.model_fields if name != "data_paths"}
"""Settings of `Host`, except the paths of data sets: each data set has its own."""


@dataclass(frozen=True)
class Cell:
    """One point of a sweep and the training (with its chain) that answers it.

    `own`: the value that each setting of the point has in the profile alone, for the settings that the training reads.
    """

    point: Point
    stage: Stage
    host: Host = field(default_factory=Host)
    own: Mapping[str, Scalar] = field(default_factory=dict)

    @property
    def facts(self) -> dict[str, Any]:
        """What records and W&B keep of the cell, as JSON values."""
        plain = {name: value for name, value in self.point.items() if name not in self.host.settings}
        return {"key": self.stage.key, "profile": profile_of(self.point), "point": plain, "own": dict(self.own)}


class Planned(NamedTuple):
    """A sweep with the settings of the request that it reads, its cells, and why others were left out (a line each)."""

    sweep: Sweep
    cells: list[Cell]
    left_out: tuple[str, ...] = ()


def profile_of(point: Mapping[str, Scalar]) -> str:
    """Return the profile of a point."""
    return str(point.get("profile", presets.PROFILE))


def write(runs: Path, planned: Iterable[Planned]) -> None:
    """Add what was planned to the files below `runs`/plans."""
    folder = runs / "plans"
    for sweep, cells, left_out in planned:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{file_name(sweep.name)}.json"
        with locked(folder / "lock"):
            content = _read(path)
            entries = {_identity(entry["point"]): entry for entry in content["cells"]}
            stages = content["stages"]
            for cell in cells:
                for stage in cell.stage.chain:
                    stages[stage.key] = flat(stage)
                entries[_identity(cell.point)] = {
                    "point": cell.point,
                    "key": cell.stage.key,
                    "own": dict(cell.own),
                    "host": sorted(cell.host.settings & cell.point.keys()),
                    "preset": presets.digest(*_home(cell.point)),
                    "planned": now(),
                }
            used = {key for entry in entries.values() for key in _chain(entry["key"], stages)}
            content = {
                "recipe": RECIPE,
                "sweep": sweep.name,
                "description": sweep.description,
                "left_out": {**content["left_out"], _profiles(sweep): list(left_out)},
                "cells": list(entries.values()),
                "stages": {key: stages[key] for key in sorted(used)},
            }
            write_json(path, content)


def _profiles(sweep: Sweep) -> str:
    return ",".join(map(str, sweep.parameters.get("profile", (presets.PROFILE,))))


def flat(stage: Stage) -> dict[str, Any]:
    """Return a stage as JSON values, with the key of its ancillary in place of the ancillary."""
    content = stage.model_copy(update={"ancillary": None}).model_dump(mode="json")
    return content | {"ancillary": None if stage.ancillary is None else stage.ancillary.key}


def _chain(key: str | None, stages: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    while key is not None:
        yield key
        key = stages[key]["ancillary"]


def _identity(point: Mapping[str, object]) -> str:
    return json.dumps(point, sort_keys=True)


_DAMAGED = "damaged; delete it, and the next plan of this sweep writes it again"


def _read(path: Path) -> dict[str, Any]:
    """Read a plan file; one of another recipe, or none, is an empty one. Raises `InputError` for a damaged one."""
    empty: dict[str, Any] = {"recipe": RECIPE, "left_out": {}, "cells": [], "stages": {}}
    try:
        content = schema.parse(path.read_bytes())
        if isinstance(content, dict) and content.get("recipe", RECIPE) != RECIPE:
            return empty
        plan: dict[str, Any] = schema.PLAN.validate_python(content)
        if path.stem != file_name(plan["sweep"]):
            raise ValueError("the plan of another sweep")
        for entry in plan["cells"]:
            if not entry["point"].keys() >= set(entry["host"]):
                raise KeyError("a setting that the point does not have")
            chain = list(itertools.islice(_chain(entry["key"], plan["stages"]), len(plan["stages"]) + 1))
            if len(chain) > len(plan["stages"]):
                raise KeyError("a circle of ancillaries")
    except FileNotFoundError:
        return empty
    except (OSError, ValueError, KeyError):
        raise InputError(f"{path}: {_DAMAGED}") from None
    return plan


@dataclass(frozen=True)
class _Known:
    """A training that may answer a point. `point`, `own`: where it was planned for one, else None."""

    stage: Stage
    time: str
    point: Point | None = None
    own: Mapping[str, Scalar] = field(default_factory=dict)
    host: Point = field(default_factory=dict)

    @functools.cached_property
    def settings(self) -> dict[str, Scalar]:
        return self.stage.settings

    @functools.cached_property
    def spelled_out(self) -> dict[str, Scalar]:
        """The settings that its point gives a value."""
        return _spelled_out(self.point or {})


class _Plans(NamedTuple):
    """What lies in the folder of plans: `files` by the name of the sweep, all that they plan, and why files cannot be
    used, by their name."""

    files: dict[str, dict[str, Any]]
    known: list[_Known]
    damaged: dict[str, str]


class Unknown(NamedTuple):
    """A point that no training answers, and why."""

    point: Point
    reason: str


class Catalogue:
    """Looks up the trainings of the points of sweeps, in the plans and records below a folder."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def resolve(self, sweep: Sweep) -> tuple[list[Cell], list[Unknown]]:
        """Return the cells of the points of a sweep that a training answers, and the points that none does. Raises
        `InputError` where the plan of the sweep is damaged."""
        name = file_name(sweep.name)
        if name in self.damaged:
            raise InputError(self.damaged[name])
        cells: list[Cell] = []
        unknown: list[Unknown] = []
        for point in sweep.points:
            found = self._find(point)
            if isinstance(found, Unknown):
                unknown.append(found)
            else:
                cells.append(Cell(point, found.stage, own=self._own(point, found)))
        return cells, unknown

    def cells(self, sweep: Sweep) -> list[Cell]:
        """Return the cells of the points that a training answers."""
        return self.resolve(sweep)[0]

    def left_out(self, sweep: Sweep) -> list[str]:
        """Return why the latest plan of a sweep on its profile left out cells, a line each."""
        reasons: dict[str, list[str]] = self._files.get(sweep.name, {}).get("left_out", {})
        return reasons.get(_profiles(sweep), [])

    @functools.cached_property
    def host(self) -> set[str]:
        """The names of the settings that only say where and how a training runs."""
        entries = [entry for content in self._files.values() for entry in content["cells"]]
        return HOST.union(*(entry["host"] for entry in entries))

    @property
    def sweeps(self) -> set[str]:
        """The names of the sweeps that were planned here."""
        return set(self._files)

    @property
    def damaged(self) -> Mapping[str, str]:
        """Why plans cannot be used, by the name of their file: that of the sweep, as `text.file_name` writes it."""
        return self._plans.damaged

    def planned_seeds(self, sweep: str) -> set[Scalar]:
        """Return the seeds at which any point of the sweep of this name was planned here."""
        cells = self._files.get(sweep, {}).get("cells", ())
        return {entry["point"]["seed"] for entry in cells if "seed" in entry["point"]}

    @functools.cached_property
    def seeds(self) -> set[int]:
        """The first seeds of all trainings that are planned or done here."""
        return {seed for seed, _ in self._trained}

    @functools.cached_property
    def settings(self) -> set[str]:
        """The names of the settings of all trainings that are planned here, or else done."""
        known = self._planned or self._trained
        return {name for several in known.values() for one in several for name in one.settings}

    @property
    def _files(self) -> dict[str, dict[str, Any]]:
        return self._plans.files

    @functools.cached_property
    def _plans(self) -> _Plans:
        plans = _Plans({}, [], {})
        for path in sorted((self.store.root / "plans").glob("[!.]*.json")):  # not `._NAME`, of macOS
            try:
                content = _read(path)
                known = self._known(content)
            except ValueError:
                plans.damaged[path.stem] = f"{path}: {_DAMAGED}"
                continue
            if content["cells"]:
                plans.files[content["sweep"]] = content
                plans.known.extend(known)
        return plans

    def _known(self, content: Mapping[str, Any]) -> list[_Known]:
        """Return the trainings of a plan. Raises `ValueError` for a stage that is none, or not that of its key."""
        known: list[_Known] = []
        stages: dict[str, Stage] = {}
        whole: dict[str, dict[str, Any]] = {}
        digest = functools.cache(presets.digest)
        for entry in content["cells"]:
            point = entry["point"]
            try:
                current = digest(*_home(point))
            except InputError:
                continue  # a profile of somebody else's
            if entry["preset"] != current:
                continue  # the profile has other values now
            for key in reversed(list(_chain(entry["key"], content["stages"]))):
                if key not in stages:
                    value = dict(content["stages"][key])
                    before = value["ancillary"]
                    whole[key] = {**value, "ancillary": None if before is None else whole[before]}
                    value["ancillary"] = None if before is None else stages[before]
                    if not self.store.names(key, RECIPE, whole[key]):
                        raise ValueError(key)
                    stages[key] = Stage.model_validate(value).known_as(key)
            host = {name: point[name] for name in entry["host"]}
            known.append(_Known(stages[entry["key"]], entry["planned"], point, entry["own"], host))
        return known

    @functools.cached_property
    def _planned(self) -> dict[str, list[_Known]]:
        """What was planned, by `_asks` of the point; the latest plan last."""
        found: dict[str, list[_Known]] = {}
        for one in sorted(self._plans.known, key=lambda one: one.time):
            assert one.point is not None
            found.setdefault(self._asks(one.point), []).append(one)
        return found

    @functools.cached_property
    def _trained(self) -> dict[tuple[int, str], list[_Known]]:
        """Every training in the store and every planned one, by its first seed and its loss terms in sorted order."""
        known = [one for several in self._planned.values() for one in several]
        planned = {one.stage.key for one in known}
        for key in self.store.keys():  # noqa: SIM118 - a store is no dictionary
            if key in planned:
                continue
            try:
                stage, record = self.store.stage(key), self.store.record(key) or {}
            except InputError:
                continue  # of another recipe, or damaged: `seminar status` names it
            cell = record.get("cell") or {}
            time = str(record.get("finished", ""))
            if cell.get("key") == key:
                known.append(_Known(stage, time, cell["point"], cell["own"]))
            else:
                known.append(_Known(stage, time))
        found: dict[tuple[int, str], list[_Known]] = {}
        for one in known:
            terms = "+".join(term.name for term in one.stage.losses)
            found.setdefault((one.stage.replicate, terms), []).append(one)
        return found

    def _asks(self, point: Mapping[str, Scalar]) -> str:
        """Return what a point requests, as a text: without settings that only say where a training runs."""
        plain: dict[str, Scalar] = {"profile": presets.PROFILE, "split": presets.SPLITS[0]}
        plain |= {name: value for name, value in point.items() if value != DEFAULT and name not in self.host}
        values: dict[str, object] = {name: _number(value) for name, value in plain.items()}
        return _identity(values)

    def _find(self, point: Point) -> _Known | Unknown:
        exact = self._planned.get(self._asks(point))
        if exact:
            requested = {name: value for name, value in point.items() if name in self.host}
            same = [one for one in exact if one.host.items() >= requested.items()]
            return (same or exact)[-1]
        wanted = _spelled_out(point)
        every = _without_silent_terms({**presets.PAPER, **presets.preset(*_home(point)), **wanted})
        alike = self._trained.get((int(every["seed"]), str(every["losses"])), ())
        fitting = [one for one in alike if self._answers(one, point, wanted, every)]
        if not fitting:
            return Unknown(point, "not planned here")
        # Where a training was planned for a point of its own, that says which settings were changed by hand.
        certain = [one for one in fitting if one.point is not None] or fitting
        apart = _differences([one.settings for one in certain])
        if apart:
            return Unknown(point, f"several trainings answer it; they differ in {apart}")
        return max(certain, key=lambda one: one.time)

    def _answers(self, one: _Known, point: Point, wanted: Mapping[str, Scalar], every: Mapping[str, Scalar]) -> bool:
        """Return whether a training has the settings that a point requests: `wanted`, and with the profile's `every`
        one."""
        if one.point is None:
            if _home(point)[1] != "tuning" and _tunes(one, profile_of(point)):
                return False
            required = every
        else:
            if _home(one.point) != _home(point):
                return False
            changed = one.spelled_out.keys() - wanted.keys() - self.host - {"losses"}
            if any(name in one.own and not _same(one.settings.get(name), one.own[name]) for name in changed):
                return False
            required = wanted
        have = one.settings
        return all(_fits(name, have, value) for name, value in required.items() if name in have and name != "losses")

    def _own(self, point: Point, found: _Known) -> Mapping[str, Scalar]:
        """Return the profile's own values of the settings of a point."""
        if found.own.keys() >= point.keys() & found.settings.keys() - self.host:
            return found.own
        base: dict[str, Scalar] = {**found.own, **presets.PAPER, **presets.preset(*_home(point))}
        base |= {name: found.settings[name] for name in found.settings if point.get(name) == DEFAULT}
        return {name: base[name] for name in base.keys() & point.keys() & found.settings.keys()}


def _tunes(one: _Known, name: str) -> bool:
    """Return whether a training used the tuning split of profile `name`: it has every setting in which that split
    differs from the profile. False where the profile has no tuning split."""
    plain = presets.preset(name)
    try:
        tuning = presets.preset(name, "tuning")
    except InputError:
        return False
    changed = {n: value for n, value in tuning.items() if not _same(plain.get(n), value)}
    return all(_same(one.settings.get(n), value) for n, value in changed.items())


def _home(point: Mapping[str, Scalar]) -> tuple[str, str]:
    return profile_of(point), str(point.get("split", presets.SPLITS[0]))


def _spelled_out(point: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the settings that a point gives a value (not `default`), with those of its variant."""
    variant = str(point.get("variant", DEFAULT))
    changed = (
        {} if variant == DEFAULT else {name: values[0] for name, values in parse_settings(variant.split()).items()}
    )
    plain = {**point, **changed}
    return {n: v for n, v in plain.items() if v != DEFAULT and n not in ("profile", "split", "variant")}


def _without_silent_terms(required: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return the settings with the loss terms of weight 0 left out, as planning leaves them out."""
    names = str(required["losses"]).split("+")
    kept = [name for name in names if required.get(f"lambda_{name}", 1) != 0]
    if required.get("modules") == 0:
        kept = [name for name in kept if not name.endswith("pseudo")]  # they need an ancillary
    return {**required, "losses": "+".join(sorted(kept))}


def _fits(name: str, have: Mapping[str, Scalar], value: Scalar) -> bool:
    if name == "pretrained":  # a stage names the weights by their content
        return (have[name] == "none") == (value == "none")
    return _same(have[name], value)


def _same(one: Scalar | None, other: Scalar | None) -> bool:
    return _number(one) == _number(other)


def _number(value: Scalar | None) -> object:
    """Return something that is equal for 200 and 200.0, and not for True and 1."""
    return (
        str(value).lower()
        if isinstance(value, bool) or value is None
        else float(value)
        if isinstance(value, int)
        else value
    )


def _differences(several: Sequence[Mapping[str, Scalar]]) -> str:
    """Name the settings in which trainings differ, with their values."""
    names = sorted({name for one in several for name in one})
    values = {name: list(dict.fromkeys(str(one.get(name, "none")) for one in several)) for name in names}
    return ", ".join(f"{name} ({', '.join(found)})" for name, found in values.items() if len(found) > 1)
