"""What is reported: one entry per exhibit. A sweep file without an entry is reported as a `Study` of its own.

To add a table or figure, write an entry in a module of `analysis.entries` (every module there is read): a `Study`, or
a function that takes a `Request` per sweep file and returns a `Report`.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from analysis import blocks, entries, frame, looks
from analysis.report import Report
from analysis.statistics import MARGIN
from seminar import presets
from seminar import sweep as sweeps
from seminar.catalogue import Catalogue, Cell, Unknown, profile_of
from seminar.spec import InputError, Scalar, unknown
from seminar.store import Store
from seminar.text import file_name
from seminar.trials import Tuning

SWEEPS = Path("sweeps")
Settings = Mapping[str, tuple[Scalar, ...]]


class NotShown(InputError):
    """An exhibit that has nothing to show; the message says why. Where several are built the others go on."""


@dataclass(frozen=True)
class Request:
    """What an exhibit is built from: a sweep with the given settings, its cells, and where their records are.

    `settings`: those given by hand that the sweep reads. `unknown`: points for which no training is known. `host`:
    names of settings that only say where and how a training runs.
    """

    path: Path
    sweep: sweeps.Sweep
    settings: Settings
    cells: Sequence[Cell]
    source: frame.Source
    runs: Path = Path("runs")
    unknown: Sequence[Unknown] = ()
    host: frozenset[str] = frozenset()
    search: Tuning | None = None
    """Of a search: its trials and what reports its winner. `cells` then holds the trainings of both."""
    reference_itself: bool = False
    """The report is the reference that others are compared with."""
    margin: float = MARGIN
    """Points of mIoU within which two rows count as equal."""
    looks: looks.Looks | None = None
    """How seeds were added until the claims were decided (`SEEDS=auto`); None: their number was given."""

    @property
    def changed(self) -> bool:
        """Whether the settings given by hand make another experiment than the profile's."""
        return bool(self.settings.keys() - self.host - {"profile", "seed"})

    @property
    def profiles(self) -> tuple[str, ...]:
        """The profiles of the cells, in their order."""
        return tuple(dict.fromkeys(profile_of(cell.point) for cell in self.cells))

    @property
    def command(self) -> str:
        """The command that trains what is missing and writes this report anew."""
        return self._command(self.settings)

    def command_for(self, seeds: Sequence[int]) -> str:
        """Return `command` with other seeds."""
        return self._command({**self.settings, "seed": tuple(seeds)})

    def _command(self, settings: Settings) -> str:
        chosen = ",".join(self.profiles)
        others = {name: values for name, values in settings.items() if name != "profile"}
        if self.path.parent.resolve() != SWEEPS.resolve():
            options = [] if self.runs == Path("runs") else ["--runs", str(self.runs)]
            line = [str(self.path), f"profile={chosen}", *_arguments(others), *options]
            return " && ".join(
                shlex.join([*tool, *line]) for tool in (("seminar", "sweep"), ("python", "-m", "analysis"))
            )
        seeds = others.get("seed", ())
        first = len(seeds) > 0 and list(seeds) == list(range(len(seeds)))
        if first:
            del others["seed"]
        options = [*_arguments(others), *([f"SEEDS={len(seeds)}"] if first else [])]
        options += [] if self.runs == Path("runs") else [f"RUNS={self.runs}"]
        return shlex.join(["make", f"ablation-{self.path.stem}", f"PROFILE={chosen}", *options])


Build = Callable[..., Report]


@dataclass(frozen=True)
class Exhibit:
    """A registered exhibit; `build` takes one `Request` per entry of `sweep_files`, in their order."""

    name: str
    title: str
    sweep_files: tuple[str, ...]
    build: Build


BEYOND = "Beyond the paper"
"""What the titles of exhibits begin with that are none of the paper's, as others do with `Table 3`."""

EXHIBITS: dict[str, Exhibit] = {}


def exhibit(name: str, title: str, *sweep_files: str) -> Callable[[Build], Build]:
    """Decorator: make the function below known as exhibit `name`, built from files in `sweeps/`."""

    def register(build: Build) -> Build:
        if name in EXHIBITS:
            raise ValueError(f"exhibit {name!r} is registered twice")
        EXHIBITS[name] = Exhibit(name, title, sweep_files, build)
        return build

    return register


@functools.cache
def registered() -> Mapping[str, Exhibit]:
    """Return every exhibit by name, in the order of the paper."""
    for module in pkgutil.iter_modules(entries.__path__):
        importlib.import_module(f"{entries.__name__}.{module.name}")
    kinds = ("Table", "Fig", "Supplement")

    def place(entry: Exhibit) -> tuple[int, str]:
        return next((n for n, kind in enumerate(kinds) if entry.title.startswith(kind)), len(kinds)), entry.name

    return {entry.name: entry for entry in sorted(EXHIBITS.values(), key=place)}


def find(names: Sequence[str]) -> list[Exhibit]:
    """Return the exhibits of these names or sweep files.

    None named: all whose sweep files are there, and one for every other sweep file.
    """
    if not names:
        others = sorted(SWEEPS.glob("*.yaml"))
        used = {file for entry in registered().values() for file in entry.sweep_files}
        there = [entry for entry in registered().values() if not absent(entry)]
        return [*there, *(_own(path) for path in others if path.name not in used)]
    found = [entry for name in names for entry in _named(name)]
    return list({entry.name: entry for entry in found}.values())


def absent(entry: Exhibit) -> list[str]:
    """Return the sweep files of an exhibit that are not there."""
    return [file for file in entry.sweep_files if not (SWEEPS / file).exists()]


def _named(name: str) -> list[Exhibit]:
    if name in registered():
        return [registered()[name]]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"exhibit {name!r}: choose from {', '.join(sorted(registered()))}, or give a sweep file (.yaml)"
        )
    if path.parent.resolve() == SWEEPS.resolve():
        known = [entry for entry in registered().values() if path.name in entry.sweep_files]
        if known:
            return known
    return [_own(path)]


def _own(path: Path) -> Exhibit:
    """Return the exhibit of a sweep file without an entry."""

    def build(request: Request) -> Report:
        from analysis import study

        if request.search is not None:
            return registered()["tune"].build(request)
        return study.build(study.of_sweep(request), request)

    return Exhibit(path.stem, path.stem, (str(path.resolve()),), build)


def build(entry: Exhibit, settings: Settings, runs: Path) -> Report:
    """Look up the exhibit's trainings and build its report. Raises `InputError`."""
    return build_all([entry], settings, Catalogue(Store(runs))).reports[0]


class Built(NamedTuple):
    """The reports of several exhibits, their requests, each sweep file once, and what was left out and why."""

    reports: list[Report]
    requests: list[Request]
    left_out: list[str]


def build_all(
    chosen: Sequence[Exhibit],
    settings: Settings,
    catalogue: Catalogue,
    reference_itself: bool = False,
    extra: int = 0,
    margin: float = MARGIN,
) -> Built:
    """Build several exhibits from plans and records, without torch, data or network.

    What has nothing to show is left out with the reason, unless nothing else was requested. The last `extra` exhibits
    were not requested: they are left out silently. `margin`: points within which two rows count as equal.
    """
    runs, source = catalogue.store.root, frame.Once(catalogue.store)
    files = {file: sweeps.load(SWEEPS / file) for entry in chosen for file in entry.sweep_files}
    _refuse_unknown(settings, catalogue)
    requests: dict[str, Request] = {}
    reasons: dict[str, str] = {}
    for file, sweep in files.items():
        if (name := file_name(sweep.name)) in catalogue.damaged:
            reasons[file] = catalogue.damaged[name]
            continue
        try:
            found = _request(SWEEPS / file, sweep, settings, catalogue, source)
            found = replace(found, reference_itself=reference_itself, margin=margin)
        except sweeps.LeftOut as error:
            reasons[file] = str(error)
            continue
        if found.cells:
            requests[file] = found
        else:
            reasons[file] = (
                f"nothing of it is planned or trained in {runs}/; `{_plan_command(file, settings)}` plans it"
            )
    reports: list[Report] = []
    left_out: list[str] = [
        reason for sweep in files.values() for reason in catalogue.left_out(sweep.override(settings))
    ]
    for place, entry in enumerate(chosen):
        lacking = [reasons[file] for file in entry.sweep_files if file in reasons]
        try:
            if not lacking:
                reports.append(entry.build(*(requests[file] for file in entry.sweep_files)))
                continue
        except NotShown as error:
            lacking = [str(error)]
        if place < len(chosen) - extra:
            left_out.append(f"{entry.title}: {lacking[0]}")
    if not reports:
        raise InputError(left_out[-1])
    left_out += [reason for reason in catalogue.damaged.values() if reason not in reasons.values()]
    return Built(reports, list(requests.values()), left_out)


def folder(built: Built, settings: Settings) -> Path:
    """Return where reports go by default: `reports/PROFILE`, and a folder below it where settings were changed."""
    host = frozenset().union(*(request.host for request in built.requests))
    changed = {name: values for name, values in settings.items() if name not in host | {"profile", "seed"}}
    name = "+".join(f"{name}={','.join(map(blocks.text, values))}" for name, values in sorted(changed.items()))
    profiles = dict.fromkeys(profile for request in built.requests for profile in request.profiles)
    return Path("reports") / blocks.slug("+".join(profiles)) / blocks.slug(name)


def command(entry: Exhibit) -> str:
    """Return the command that plans and trains what an exhibit shows."""
    return " && ".join(_plan_command(file, {}) for file in entry.sweep_files)


def planned(catalogue: Catalogue, entry: Exhibit) -> bool:
    """Return whether every sweep of an exhibit was planned here (its plan may be damaged), or nothing was (a pulled
    project)."""
    names = {sweeps.load(SWEEPS / file).name for file in entry.sweep_files}
    here = {*map(file_name, catalogue.sweeps), *catalogue.damaged}
    return not here or here >= {*map(file_name, names)}


def _request(
    path: Path, sweep: sweeps.Sweep, settings: Settings, catalogue: Catalogue, source: frame.Source
) -> Request:
    store = catalogue.store
    looked = looks.read(looks.path(store.root, sweep.override(settings), settings, catalogue.host))
    if looked is not None and "seed" not in settings:
        settings = {**settings, "seed": tuple(range(looked.seeds))}
    elif "seed" not in settings and (seeds := _seeds(sweep.override(settings), catalogue, source)):
        settings = {**settings, "seed": seeds}
    whole = sweep.override(settings)
    whole.check()
    cells, unanswered = catalogue.resolve(whole)
    always = catalogue.host | {"profile", "seed", "split", "variant"}
    read = {name for cell in cells for name in cell.stage.settings} | always | sweep.parameters.keys()
    if cells and not settings.keys() <= read:
        whole = sweep.override({name: values for name, values in settings.items() if name in read})
        cells, unanswered = catalogue.resolve(whole)
    given = {name: values for name, values in settings.items() if name in whole.parameters}
    search: Tuning | None = None
    if whole.is_search and cells:
        search = Tuning.requested(whole, cells[0], settings, store.root, catalogue.cells)
        # Reports write nothing into a study: what the next call of the search makes a trial is shown as one.
        search = replace(search, others=tuple(search.elsewhere(store.keys(), source.record)))
        best = search.best(source.record)
        started = [trial for trial in search.trials() if (store.folder(trial.key) / "stage.json").exists()]
        trials = [Cell(trial.point, store.stage(trial.key)) for trial in started]
        cells = [*trials, *search.reported(), *(search.reported(best.point) if best else ())]
    host = frozenset(catalogue.host)
    return Request(path, whole, given, cells, source, store.root, unanswered, host, search, looks=looked)


def _seeds(sweep: sweeps.Sweep, catalogue: Catalogue, source: frame.Source) -> tuple[Scalar, ...]:
    """Return the seeds of a grid's report that names none, where they are not those of its file: of these the planned
    ones, and every further one at which all of it is done. So nothing that was trained is dropped from a report."""
    if sweep.is_search or "seed" not in sweep.parameters:
        return ()
    own = sweep.parameters["seed"]
    planned = catalogue.planned_seeds(sweep.name)
    found = [seed for seed in own if seed in planned] or [*own]
    for seed in sorted(catalogue.seeds - {*own}):
        cells, unanswered = catalogue.resolve(sweep.override({"seed": (seed,)}))
        if cells and not unanswered and all(source.status(cell.stage.key) == "done" for cell in cells):
            found.append(seed)
    return tuple(found) if found != [*own] else ()


def _refuse_unknown(settings: Settings, catalogue: Catalogue) -> None:
    """Raise `InputError` for a setting that no training, profile or sweep knows."""
    known = {"profile", "variant", "split", "data", "backbone", *presets.PAPER, *catalogue.host, *catalogue.settings}
    for name in presets.profiles():
        known |= presets.preset(name).keys()
    for name in settings:
        if name not in known and not name.startswith("data_"):
            raise unknown("setting", name, known)


def _plan_command(file: str, settings: Settings) -> str:
    """Return the command that plans and trains a sweep."""
    path = SWEEPS / file
    if path.parent.resolve() != SWEEPS.resolve():
        return shlex.join(["seminar", "sweep", str(path), *_arguments(settings)])
    others = {name: values for name, values in settings.items() if name != "profile"}
    chosen = [f"PROFILE={','.join(map(str, settings['profile']))}"] if "profile" in settings else []
    return shlex.join(["make", f"ablation-{path.stem}", *chosen, *_arguments(others)])


def _arguments(settings: Settings) -> list[str]:
    """Return settings as arguments of a command."""
    return [f"{name}={','.join(map(blocks.text, values))}" for name, values in sorted(settings.items())]
