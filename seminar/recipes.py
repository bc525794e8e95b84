"""From settings to stages: what a user writes (`losses=pce+crf alpha=0.99 seed=1`) becomes frozen `Stage` values.

A profile gives values, a sweep point or the command line gives others, the paper's values fill the rest. A setting that
was given by hand and that no stage of a request reads is refused, since somebody expected it to have an effect.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import torch
from pydantic import ValidationError

from seminar import data as data_package
from seminar import losses as loss_terms
from seminar import networks, parallel, presets, pretrained
from seminar.catalogue import HOST, Cell, Host, Planned, profile_of
from seminar.data import Annotation, Dataset, datasets
from seminar.data.grown import grower, growers
from seminar.losses import losses
from seminar.metrics import metrics
from seminar.optimizers import optimizers
from seminar.parts import Entry
from seminar.schedules import schedules
from seminar.spec import InputError, Part, Scalar, Settings, Stage, Term, one_line, unknown
from seminar.sweep import DEFAULT, LeftOut, Point, Sweep, parse_settings
from seminar.text import brief, plain

# Every module of seminar.data registers its data sets when it is imported: adding one is adding a file.
for _module in pkgutil.iter_modules(data_package.__path__):
    importlib.import_module(f"{data_package.__name__}.{_module.name}")

MODULE_SEED = 1000
"""The k-th model of a chain trains with seed + 1000 k: every model of a chain differs, and seeds 0..999 never meet."""
MOST_MODULES = 50
"""K of the longest chain: the cost of planning grows faster than it, and 200 nested stages take minutes."""
_SWEPT = {"profile", "variant", "split"}
"""Settings that choose other settings."""


def pick_device(name: str) -> torch.device:
    """Return the device of this process: with `auto` the GPU if there is one, and with torchrun the own one of each
    process. Raises `InputError` for a device that this machine does not have."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    _, together, local = parallel.requested()
    if name == "cuda" and together > 1:
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device={brief(name)}: choose from auto, cpu, cuda, cuda:0, cuda:1, ...") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={brief(name)}: choose from auto, cpu, cuda, cuda:0, cuda:1, ...")
    if together > 1 and device.index not in (None, local):
        raise InputError(f"device={brief(name)}: each process of torchrun takes its own GPU; write device=cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        built = "" if torch.version.cuda is not None else " (this torch is built without CUDA)"
        raise InputError(
            f"device={brief(name)}: this machine has {torch.cuda.device_count()} CUDA device(s){built}; "
            "take device=cpu or auto"
        )
    return device


def cells(sweep: Sweep, settings: Mapping[str, tuple[Scalar, ...]] | None = None) -> list[Cell]:
    """Return every cell of the sweep, with `settings` in place of its own.

    Raises `InputError` for unknown settings, bad values, settings that no cell reads, and whatever is wrong with the
    data.
    """
    (planned,) = suite([sweep], settings or {})
    return planned.cells


def one(settings: Mapping[str, Scalar]) -> Cell:
    """Return the cell of these settings alone. Raises `InputError` as `cells` does."""
    (cell,) = cells(Sweep("one", "", {name: (value,) for name, value in settings.items()}))
    return cell


def suite(sweeps: Sequence[Sweep], settings: Mapping[str, tuple[Scalar, ...]]) -> list[Planned]:
    """Plan several sweeps, with `settings` in place of their own.

    One sweep that reads a setting is enough. Cells that the data have no labels for are left out, and so is a search
    with nothing to search. Raises `InputError` as `cells` does, and for a single sweep of which nothing is left; with
    several sweeps the message begins with the name of the one at fault.
    """
    known = {*_SWEPT, *known_settings()}
    result: list[Planned] = []
    unread = dict(settings)
    for sweep in sweeps:
        try:
            planned, read = _plan(sweep, settings, known, leave_out=len(sweeps) > 1)
        except InputError as error:
            raise error if len(sweeps) == 1 else InputError(f"{sweep.name}: {error}") from None
        unread = {name: values for name, values in unread.items() if name not in read}
        result.append(planned)
    _refuse(unread)
    return result


def _plan(
    sweep: Sweep, settings: Mapping[str, tuple[Scalar, ...]], known: set[str], leave_out: bool
) -> tuple[Planned, set[str]]:
    """Return one sweep as planned, and the names of the settings that its cells read.

    `settings`: those of the command line, which replace the file's. `known`: every setting there is. `leave_out`: leave
    out cells that cannot be trained, with the reason, instead of raising `InputError`. A setting that no cell reads
    stays out of the planned sweep, so that it does not make cells that differ in nothing.
    """
    whole = sweep.override(settings)
    for name in whole.parameters:
        if name not in known:
            raise unknown("setting", name, known)
    used = set(_SWEPT)
    try:
        whole.check()
    except LeftOut as error:
        if not leave_out:
            raise
        return Planned(whole, [], (str(error),)), set(whole.parameters)
    found, left_out = _cells(whole, used, known, leave_out)
    _refuse({name: values for name, values in sweep.parameters.items() if name not in {*used, *settings}})
    read = sweep.override({name: values for name, values in settings.items() if name in used})
    if not settings.keys() <= used:
        found, left_out = _cells(read, set(), known, leave_out)
    return Planned(read, found, left_out), used


def _cells(sweep: Sweep, used: set[str], known: set[str], leave_out: bool) -> tuple[list[Cell], tuple[str, ...]]:
    """Return the cells of a sweep and why others are left out; add the settings that they read to `used`."""
    found: list[Cell] = []
    reasons: list[LeftOut] = []
    for point in sweep.points:
        try:
            found.append(_point_cell(point, used, known))
        except LeftOut as error:
            reasons.append(error)
    if reasons and not found and not leave_out:
        raise reasons[0]
    return found, tuple(dict.fromkeys(f"{sweep.name}: {error}" for error in reasons))


def _refuse(unread: Mapping[str, tuple[Scalar, ...]]) -> None:
    for name, values in unread.items():
        given = plain(",".join(map(str, values)))
        raise InputError(f"{name}={given}: has no effect on anything in this request; leave it out")


@functools.cache
def known_settings() -> frozenset[str]:
    """Return the names of all settings."""
    names = {*presets.PAPER, "data", "backbone", *HOST}
    for name in datasets:
        names |= {f"data_{setting}" for setting in (*datasets[name].settings, *datasets[name].paths)}
    for name in losses:
        names |= {f"lambda_{name}", f"{name}_ramp", *(f"{name}_{setting}" for setting in losses[name].settings)}
    for registry in (optimizers, growers):
        names |= {f"{name}_{setting}" for name in registry for setting in registry[name].settings}
    return frozenset(names)


class _Reader:
    """Hands out the values of settings, and remembers which were read (`used`).

    `given` come before those of the profile, and these before the paper's. `own`: the value that each setting that was
    read has without those given.
    """

    def __init__(self, given: Point, preset: Mapping[str, Scalar], used: set[str]) -> None:
        self._base = {**presets.PAPER, **preset}
        self._values, self._used = {**self._base, **given}, used
        self.own: dict[str, Scalar] = {}

    def take(self, name: str, default: Scalar | None = None) -> Any:
        """Return the value of a setting. Raises `InputError` where it has none."""
        self._used.add(name)
        value = self._values.get(name, default)
        if value is None:
            raise InputError(f"setting {name!r} is missing: the profile must give it")
        self.own[name] = self._base.get(name, value if default is None else default)
        return value

    def given(self, prefix: str, names: Iterable[str]) -> dict[str, Scalar]:
        """Return the settings `prefix + name` that have a value, by name."""
        return self._given(prefix, names, self._values)

    def part(self, prefix: str, entry: Entry[Any]) -> Settings:
        """Return all settings of a part: the values of `prefix + name`, or the part's defaults."""
        own = entry.coerce(prefix, self._given(prefix, entry.settings, self._base))
        self.own |= {prefix + name: value for name, value in own}
        return entry.coerce(prefix, self.given(prefix, entry.settings))

    def _given(self, prefix: str, names: Iterable[str], values: Mapping[str, Scalar]) -> dict[str, Scalar]:
        self._used |= {prefix + name for name in names}
        return {name: values[prefix + name] for name in names if prefix + name in values}


def _point_cell(point: Point, used: set[str], known: set[str]) -> Cell:
    """Return the cell of a point; add the settings that it reads to `used`.

    The setting `variant` holds settings of its own (`teacher_bn=copy lambda_crf=2`) that come before the others: a list
    of variants changes one thing at a time, where a grid would try every combination.
    """
    variant = str(point.get("variant", DEFAULT))
    plain = {name: value for name, value in point.items() if name != "variant"}
    read: set[str] = set()
    changes: Mapping[str, tuple[Scalar, ...]] = {}
    try:
        changes = {} if variant == DEFAULT else parse_settings(variant.split())
        allowed = known - {*_SWEPT, "seed"}
        for name, values in changes.items():
            if name not in allowed:
                raise unknown("setting", name, allowed)
            if len(values) > 1:
                raise InputError(f"one value for {name!r}")
        changed = plain | {name: values[0] for name, values in changes.items()}
        cell = _cell({name: value for name, value in changed.items() if value != DEFAULT}, read, known)
        for name in changes:
            if name not in read:
                raise InputError(f"{name}: has no effect on anything in this request; leave it out")
    except InputError as error:
        raise error if variant == DEFAULT else type(error)(f"variant={brief(variant)}: {error}") from None
    finally:
        used |= read - changes.keys()  # The value that the point gives to a changed setting was not read.
    own = {name: value for name, value in cell.own.items() if name in point or name in changes}
    return dataclasses.replace(cell, point=point, own=own)


def _cell(point: Point, used: set[str], known: set[str]) -> Cell:
    name, split = profile_of(point), str(point.get("split", presets.SPLITS[0]))
    preset = presets.preset(name, split)
    for setting in preset:
        if setting not in known:
            raise InputError(f"profile {name!r}: {unknown('setting', setting, known)}")
    reader = _Reader(point, preset, used)

    entry = datasets[str(reader.take("data"))]
    data = Part(name=entry.name, settings=reader.part("data_", entry))
    terms = _terms(reader)
    annotation = reader.take("annotation") if _reads("labels", terms) else None
    grow = grower(annotation)
    grown = reader.part(f"{grow.name}_", grow) if grow is not None else ()
    # The files of labels that nothing reads are no part of the data: without them the training is the same.
    source = dict(grown).get("source", annotation)
    read = [name for name in entry.paths if name == source or name not in get_args(Annotation)]
    paths = {name: Path(str(path)) for name, path in reader.given("data_", read).items()}
    for name, required in entry.paths.items():
        if required and name not in paths:
            raise InputError(f"data_{name} is missing: data={entry.name} needs it, for example data_{name}=DIR")
    read_weights = reader.take("pretrained") != "none"
    here = reader.given("", [name for name in HOST if name != "weights" or read_weights])
    try:
        host = Host.model_validate({**here, "data_paths": tuple(sorted(paths.items()))})
    except ValidationError as error:
        raise InputError(one_line(error)) from None
    pick_device(host.device)

    chain_length = 1
    if any(loss_terms.needs_ancillary(losses[term.name]) for term in terms):
        modules = reader.take("modules")
        if not isinstance(modules, int) or isinstance(modules, bool) or not 0 <= modules <= MOST_MODULES:
            raise InputError(
                f"modules={brief(modules)}: K, the number of student-student modules, is a whole number from 0 to "
                f"{MOST_MODULES}"
            )
        chain_length = modules + 1
    common = {**_common(reader, data, paths, host), "annotation_settings": grown}
    seed = reader.take("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < MODULE_SEED:
        raise InputError(f"seed={brief(seed)}: a seed is a whole number from 0 to {MODULE_SEED - 1}")
    stage: Stage | None = None
    for module in range(chain_length):
        own_terms = tuple(t for t in terms if module or not loss_terms.needs_ancillary(losses[t.name]))
        if not own_terms:
            raise InputError(f"losses={brief(reader.take('losses'))}: the ancillary would have no loss to learn from")
        stage = _stage(reader, common, own_terms, seed + MODULE_SEED * module, stage)
    assert stage is not None
    boxed = source == "boxes" and source not in paths
    if source in entry.paths and source not in paths and not boxed:
        folder = f"data_{source}"
        raise LeftOut(f"{folder} is missing: annotation={annotation} needs it, for example {folder}=DIR")
    if (boxed or _reads("masks", terms)) and not _open(data, tuple(sorted(paths.items()))).dense:
        what = "annotation=boxes takes the boxes" if boxed else f"losses={reader.take('losses')} learns"
        file = "; data_boxes=FILE gives boxes" if boxed and source in entry.paths else ""
        raise LeftOut(f"{what} from masks, and no image to train on has one{file}")
    return Cell(point, stage, host, reader.own)


def _reads(name: str, terms: Iterable[Term]) -> bool:
    """Return whether one of the loss terms has the input `name`."""
    return any(loss_terms.needs(name, losses[term.name]) for term in terms)


def _terms(reader: _Reader) -> tuple[Term, ...]:
    text = str(reader.take("losses"))
    names = text.split("+")
    if len(set(names)) != len(names):
        raise InputError(f"losses={brief(text)}: a term is named twice")
    terms: list[Term] = []
    for name in sorted(names):
        if name not in losses:
            raise InputError(f"losses={brief(text)}: {unknown('term', name, losses)}")
        weight = reader.take(f"lambda_{name}", loss_terms.defaults[name].weight)
        if weight == 0:
            continue  # A term of weight 0 is no term: the row is then the same training as the one without it.
        ramp = reader.take(f"{name}_ramp", loss_terms.defaults[name].ramp)
        entry = losses[name]
        settings = reader.part(f"{name}_", entry)
        try:
            terms.append(Term(name=name, weight=weight, ramp=ramp, settings=settings))
        except ValidationError as error:
            wrong = str(error.errors()[0]["loc"][0])
            setting = f"lambda_{name}" if wrong == "weight" else f"{name}_{wrong}"
            raise InputError(f"{setting}={brief(error.errors()[0]['input'])}: {error.errors()[0]['msg']}") from None
    if not terms:
        raise InputError(f"losses={brief(text)}: all weights are 0, there is nothing to learn from")
    return tuple(terms)


def _common(reader: _Reader, data: Part, paths: Mapping[str, Path], host: Host) -> dict[str, Any]:
    """Return the fields that all stages of a chain share."""
    backbone = str(reader.take("backbone"))
    networks.find(backbone)  # raises for a name that is none
    named_weights = str(reader.take("pretrained"))
    names = set(Stage.model_fields) & set(presets.PAPER)
    special = {"losses", "seed", "pretrained", "alpha", "teacher_bn", "teacher_mode", "self_generation"}
    special |= {"annotation", "click_size", "click_order", "strong_view", "pseudo_from"}
    special |= {"optimizer", "momentum", "weight_decay", "schedule", "poly_power", "metrics"}
    optimizer, schedule = optimizers[str(reader.take("optimizer"))], schedules[str(reader.take("schedule"))]
    measured = str(reader.take("metrics"))
    for name in measured.split("+"):
        metrics[name]  # raises for a name that is none
    if "miou" not in measured.split("+"):
        raise InputError(
            f"metrics={brief(measured)}: miou is what reports compare by; write metrics=miou+{plain(measured)}"
        )
    return {
        "data": data,
        "data_fingerprint": _fingerprint(data, tuple(sorted(paths.items()))),
        "backbone": backbone,
        "pretrained": "none" if named_weights == "none" else _pretrained(backbone, host.weights, named_weights),
        "optimizer": Part(name=optimizer.name, settings=reader.part(f"{optimizer.name}_", optimizer)),
        **{name: reader.take(name) if name in optimizer.inputs else None for name in ("momentum", "weight_decay")},
        "schedule": schedule.name,
        "poly_power": reader.take("poly_power") if "poly_power" in schedule.inputs else None,
        "metrics": measured,
        **{name: reader.take(name) for name in sorted(names - special)},
    }


def _stage(
    reader: _Reader, common: Mapping[str, Any], terms: tuple[Term, ...], seed: int, ancillary: Stage | None
) -> Stage:
    teacher = _reads("teacher", terms)
    annotation = reader.take("annotation") if _reads("labels", terms) else None
    fields = {
        **common,
        "losses": terms,
        "annotation": annotation,
        "annotation_settings": common["annotation_settings"] if annotation is not None else (),
        "click_size": reader.take("click_size") if annotation not in (None, "boxes") else None,
        "click_order": reader.take("click_order") if annotation in ("clicks", "scribbles") else None,
        "alpha": reader.take("alpha") if teacher else None,
        "teacher_bn": reader.take("teacher_bn") if teacher else None,
        "teacher_mode": reader.take("teacher_mode") if teacher else None,
        "strong_view": reader.take("strong_view") if teacher else "none",
        "pseudo_from": reader.take("pseudo_from") if ancillary is not None else "student",
        "seed": seed,
        "self_generation": reader.take("self_generation") if ancillary is not None else "none",
        "ancillary": ancillary,
    }
    try:
        return Stage.model_validate(fields)
    except ValidationError as error:
        raise InputError(one_line(error)) from None


@functools.lru_cache(maxsize=16)
def _open(data: Part, paths: tuple[tuple[str, Path], ...]) -> Dataset:
    return datasets[data.name].make(**dict(data.settings), **dict(paths))


# A plan has many cells on one data set and one file of weights: these read files, so once for each is enough.
@functools.cache
def _fingerprint(data: Part, paths: tuple[tuple[str, Path], ...]) -> str:
    return _open(data, paths).fingerprint()


@functools.cache
def _pretrained(backbone: str, weights: Path | None, name: str) -> str:
    return pretrained.identity(backbone, weights, name)


def open_data(stage: Stage, host: Host) -> Dataset:
    """Return the data set of a stage. Raises `InputError` if what lies there is no longer what the stage was planned
    with."""
    dataset = _open(stage.data, host.data_paths)
    if dataset.fingerprint() != stage.data_fingerprint:
        raise InputError(f"data {stage.data.name!r} has changed since this stage was planned; plan it again")
    return dataset
