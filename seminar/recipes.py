"""Words to stages: what a user writes (`losses=pce+crf alpha=0.99 seed=1`) becomes the frozen `Stage` values.

A profile sets words, a sweep point or the command line sets more, the paper's values fill the rest. A word that no
stage of a request reads is refused when it was given by hand, since somebody expected it to do something.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seminar import data as data_package
from seminar import losses as loss_terms
from seminar import networks, parallel
from seminar.data import Annotation, Dataset, datasets
from seminar.losses import losses
from seminar.parts import Entry
from seminar.spec import InputError, Part, Scalar, Settings, Stage, Term, one_line, unknown
from seminar.sweep import DEFAULT, LeftOut, Point, Sweep, parse_words

# Every module of seminar.data registers its data sets when it is imported: adding one is adding a file.
for _module in pkgutil.iter_modules(data_package.__path__):
    importlib.import_module(f"{data_package.__name__}.{_module.name}")

PAPER: dict[str, Scalar] = {
    "losses": "pce+crf+pcons+pseudo",
    "modules": 1,
    "self_generation": "none",
    "annotation": "clicks",
    "click_size": 1,
    "click_order": "geometry_first",
    "output_stride": 16,
    "pretrained": "none",
    "freeze": "none",
    "alpha": 0.999,
    "teacher_bn": "own",
    "teacher_mode": "train",
    "epochs": 60,
    "batch_size": 12,
    "lr": 0.007,
    "head_lr_factor": 10.0,
    "warmup_steps": 0,
    "poly_power": 0.9,
    "poly_horizon": 1.0,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "precision": "fp32",
    "compile": False,
    "crop": 513,
    "scale_min": 0.5,
    "scale_max": 2.0,
    "flip": True,
    "augment_noise": "blur",
    "eval_every": 1,
    "seed": 0,
}
"""The paper's setting, or that of the implementation it builds on where the paper is silent. Settings of losses and
data sets have their defaults at the parts themselves."""

SPLITS = ("reporting", "tuning")
"""`tuning`: the profile's `tuning` words are put over its others, so that what is chosen is chosen on other images than
those that are reported."""

MODULE_SEED = 1000
"""The k-th model of a chain trains with seed + 1000 k: every model of a chain differs, and seeds 0..999 never meet."""


class Host(BaseModel):
    """How stages run here. Nothing of it changes what a stage *is*, so nothing of it is in the key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str = "auto"
    loader_workers: int = Field(default=0, ge=0)
    weights: Path | None = None
    data_paths: tuple[tuple[str, Path], ...] = ()


def pick_device(name: str) -> torch.device:
    """`auto` is the GPU if there is one, and that of this process where several train together. Raises `InputError` for
    a device that is not here."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    _, together, local = parallel.asked()
    if name == "cuda" and together > 1:
        name = f"cuda:{local}"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device={name!r}: choose from auto, cpu, cuda, cuda:0, cuda:1, ...") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"device={name!r}: choose from auto, cpu, cuda, cuda:0, cuda:1, ...")
    if together > 1 and device.index not in (None, local):
        raise InputError(f"device={name!r}: each process of torchrun takes its own GPU; write device=cuda")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        built = "" if torch.version.cuda is not None else " (this torch is built without CUDA)"
        raise InputError(
            f"device={name!r}: this machine has {torch.cuda.device_count()} CUDA device(s){built}; "
            "take device=cpu or auto"
        )
    return device


@dataclass(frozen=True)
class Cell:
    """One point of a sweep and the stage (with its chain) that answers it.

    `words` holds every word that the stage reads with the value that it has there, whoever set it.
    """

    point: Point
    stage: Stage
    host: Host
    words: Mapping[str, Scalar] = field(default_factory=dict)


def profiles() -> list[str]:
    """Names of the built-in profiles."""
    return sorted(
        path.name.removesuffix(".yaml") for path in _profile_folder().iterdir() if path.name.endswith(".yaml")
    )


def cells(sweep: Sweep, words: Mapping[str, tuple[Scalar, ...]] | None = None) -> list[Cell]:
    """Every cell of the sweep with `words` put over it.

    Raises `InputError` for unknown words, bad values, words that no cell reads, and whatever is wrong with the data.
    """
    (planned,) = suite([sweep], words or {})
    return planned.cells


def one(words: Mapping[str, Scalar]) -> Cell:
    """The cell of these words alone. Raises `InputError` as `cells` does."""
    (cell,) = cells(Sweep("one", "", {word: (value,) for word, value in words.items()}))
    return cell


class Planned(NamedTuple):
    """A sweep with the words put over it that it reads, its cells, and why some were left out (a line each)."""

    sweep: Sweep
    cells: list[Cell]
    left_out: tuple[str, ...] = ()


def suite(sweeps: Sequence[Sweep], words: Mapping[str, tuple[Scalar, ...]]) -> list[Planned]:
    """Several sweeps with `words` put over them.

    A word need only be read by one of them, and what cannot be there is left out: cells for whose kind of labels the
    data have none, a search with nothing to search. Raises `InputError` as `cells` does, where there is only one sweep
    and nothing of it can be there also for that; where there are several it begins with the name of the one at fault.
    """
    known = {"profile", "variant", "split", *known_words()}
    result: list[Planned] = []
    unread = dict(words)
    for sweep in sweeps:
        try:
            planned, read = _plan(sweep, words, known, leave_out=len(sweeps) > 1)
        except InputError as error:
            raise error if len(sweeps) == 1 else InputError(f"{sweep.name}: {error}") from None
        unread = {word: values for word, values in unread.items() if word not in read}
        result.append(planned)
    _refuse(unread)
    return result


def _plan(
    sweep: Sweep, words: Mapping[str, tuple[Scalar, ...]], known: set[str], leave_out: bool
) -> tuple[Planned, set[str]]:
    """One sweep, and the words that its cells read."""
    asked = sweep.override(words)
    for word in asked.parameters:
        if word not in known:
            raise unknown("word", word, known)
    used: set[str] = {"profile", "variant", "split"}
    try:
        asked.check()
    except LeftOut as error:
        if not leave_out:
            raise
        return Planned(asked, [], (str(error),)), set(asked.parameters)
    found, left_out = _cells(asked, used, known, leave_out)
    _refuse({word: values for word, values in sweep.parameters.items() if word not in {*used, *words}})
    read = sweep.override({word: values for word, values in words.items() if word in used})
    if not words.keys() <= used:
        found, left_out = _cells(read, set(), known, leave_out)
    return Planned(read, found, left_out), used


def _cells(sweep: Sweep, used: set[str], known: set[str], leave_out: bool) -> tuple[list[Cell], tuple[str, ...]]:
    found: list[Cell] = []
    reasons: list[LeftOut] = []
    for point in sweep.points:
        try:
            found.append(_read(point, used, known))
        except LeftOut as error:
            reasons.append(error)
    if reasons and not found and not leave_out:
        raise reasons[0]
    return found, tuple(dict.fromkeys(f"{sweep.name}: {error}" for error in reasons))


def _refuse(unread: Mapping[str, tuple[Scalar, ...]]) -> None:
    for word, values in unread.items():
        told = ",".join(map(str, values))
        raise InputError(f"{word}={told}: nothing in this request reads {word!r}; leave it out")


@functools.cache
def known_words() -> frozenset[str]:
    """Every word there is."""
    words = {*PAPER, "data", "backbone", "device", "loader_workers", "weights"}
    for name in datasets:
        words |= {f"data_{setting}" for setting in (*datasets[name].settings, *datasets[name].paths)}
    for name in losses:
        words |= {f"lambda_{name}", f"{name}_ramp", *(f"{name}_{setting}" for setting in losses[name].settings)}
    return frozenset(words)


class _Words:
    """Words with a memory: `used`, those that were read, and `told`, the values that they turned out to have."""

    def __init__(self, values: Mapping[str, Scalar], used: set[str]) -> None:
        self._values, self._used = values, used
        self.told: dict[str, Scalar] = {}

    def take(self, word: str, default: Scalar | None = None) -> Any:
        self._used.add(word)
        value = self._values.get(word, default)
        if value is None:
            raise InputError(f"word {word!r} is missing: the profile must set it")
        self.told[word] = value
        return value

    def given(self, prefix: str, names: Iterable[str]) -> dict[str, Scalar]:
        """The words `prefix + name` that have a value, by name."""
        self._used |= {prefix + name for name in names}
        return {name: self._values[prefix + name] for name in names if prefix + name in self._values}

    def settings(self, prefix: str, entry: Entry[Any]) -> Settings:
        """All settings of a part, from the words `prefix + name` or their defaults."""
        settings = entry.coerce(prefix, self.given(prefix, entry.settings))
        self.told |= {prefix + name: value for name, value in settings}
        return settings


def _read(point: Point, used: set[str], known: set[str]) -> Cell:
    """The cell of a point. Its word `variant` holds words of its own (`teacher_bn=copy lambda_crf=2`), put over the
    others: a list of variants changes one thing at a time, where a grid would try every combination."""
    variant = str(point.get("variant", DEFAULT))
    words = {word: value for word, value in point.items() if word != "variant"}
    read: set[str] = set()
    changes: Mapping[str, tuple[Scalar, ...]] = {}
    try:
        changes = {} if variant == DEFAULT else parse_words(variant.split())
        allowed = known - {"variant", "profile", "split", "seed"}
        for word, values in changes.items():
            if word not in allowed:
                raise unknown("word", word, allowed)
            if len(values) > 1:
                raise InputError(f"one value for {word!r}")
        cell = _cell(_given(words | {word: values[0] for word, values in changes.items()}), read, known)
        for word in changes:
            if word not in read:
                raise InputError(f"nothing in this request reads {word!r}; leave it out")
    except InputError as error:
        raise error if variant == DEFAULT else type(error)(f"variant={variant!r}: {error}") from None
    finally:
        used |= read - changes.keys()  # The value that the point gives to a changed word was not read.
    return dataclasses.replace(cell, point=point)


def _given(point: Point) -> Point:
    return {word: value for word, value in point.items() if value != DEFAULT}


def _cell(point: Point, used: set[str], known: set[str]) -> Cell:
    profile = str(point.get("profile", "creatures"))
    preset = _profile(profile, str(point.get("split", SPLITS[0])))
    for word in preset:
        if word not in known:
            raise InputError(f"profile {profile!r}: {unknown('word', word, known)}")
    words = _Words({**PAPER, **preset, **point}, used)

    entry = datasets[str(words.take("data"))]
    data = Part(name=entry.name, settings=words.settings("data_", entry))
    terms = _terms(words)
    annotation = words.take("annotation") if _reads("labels", terms) else None
    # The files of labels that nothing reads are no part of the data: without them the training is the same.
    read = [name for name in entry.paths if name == annotation or name not in get_args(Annotation)]
    paths = {name: Path(str(path)) for name, path in words.given("data_", read).items()}
    for name, required in entry.paths.items():
        if required and name not in paths:
            raise InputError(f"data_{name} is missing: data={entry.name} needs it, for example data_{name}=DIR")
    read_weights = words.take("pretrained") != "none"
    host_words = words.given("", ("device", "loader_workers", *(["weights"] if read_weights else [])))
    try:
        host = Host.model_validate({**host_words, "data_paths": tuple(sorted(paths.items()))})
    except ValidationError as error:
        raise InputError(one_line(error)) from None
    pick_device(host.device)

    chain_length = 1
    if _reads("pseudo", terms):
        modules = words.take("modules")
        if not isinstance(modules, int) or isinstance(modules, bool) or modules < 0:
            raise InputError(f"modules={modules!r}: K, the number of student-student modules, is a whole number >= 0")
        chain_length = modules + 1
    common = _common(words, data, paths, host)
    seed = words.take("seed")
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < MODULE_SEED:
        raise InputError(f"seed={seed!r}: a seed is a whole number from 0 to {MODULE_SEED - 1}")
    stage: Stage | None = None
    for module in range(chain_length):
        here = tuple(t for t in terms if module or not loss_terms.needs("pseudo", losses[t.name]))
        if not here:
            raise InputError(f"losses={words.take('losses')!r}: the ancillary would have no loss to learn from")
        stage = _stage(words, common, here, seed + MODULE_SEED * module, stage)
    assert stage is not None
    if annotation in entry.paths and annotation not in paths:
        folder = f"data_{annotation}"
        raise LeftOut(f"{folder} is missing: annotation={annotation} needs it, for example {folder}=DIR")
    if _reads("masks", terms) and not _open(data, tuple(sorted(paths.items()))).dense:
        raise LeftOut(f"losses={words.take('losses')} learns from masks, and no image to train on has one")
    return Cell(point, stage, host, words.told)


def _reads(name: str, terms: Iterable[Term]) -> bool:
    """Whether one of the loss terms has the input `name`."""
    return any(loss_terms.needs(name, losses[term.name]) for term in terms)


def _terms(words: _Words) -> tuple[Term, ...]:
    text = str(words.take("losses"))
    names = text.split("+")
    if len(set(names)) != len(names):
        raise InputError(f"losses={text!r}: a term is named twice")
    terms: list[Term] = []
    for name in sorted(names):
        if name not in losses:
            raise InputError(f"losses={text!r}: no term {name!r}; {unknown('term', name, losses)}")
        weight = words.take(f"lambda_{name}", loss_terms.defaults[name].weight)
        if weight == 0:
            continue  # A term of weight 0 is no term: the row is then the same training as the one without it.
        ramp = words.take(f"{name}_ramp", loss_terms.defaults[name].ramp)
        entry = losses[name]
        settings = words.settings(f"{name}_", entry)
        try:
            terms.append(Term(name=name, weight=weight, ramp=ramp, settings=settings))
        except ValidationError as error:
            wrong = str(error.errors()[0]["loc"][0])
            word = f"lambda_{name}" if wrong == "weight" else f"{name}_{wrong}"
            raise InputError(f"{word}={error.errors()[0]['input']!r}: {error.errors()[0]['msg']}") from None
    if not terms:
        raise InputError(f"losses={text!r}: all weights are 0, there is nothing to learn from")
    return tuple(terms)


def _common(words: _Words, data: Part, paths: Mapping[str, Path], host: Host) -> dict[str, Any]:
    """The fields that all stages of a chain share."""
    backbone = str(words.take("backbone"))
    if backbone not in networks.BACKBONES:
        raise unknown("backbone", backbone, networks.BACKBONES)
    pretrained = str(words.take("pretrained"))
    names = set(Stage.model_fields) & set(PAPER)
    special = {"losses", "seed", "pretrained", "alpha", "teacher_bn", "teacher_mode", "self_generation"}
    special |= {"annotation", "click_size", "click_order"}
    return {
        "data": data,
        "data_fingerprint": _fingerprint(data, tuple(sorted(paths.items()))),
        "backbone": backbone,
        "pretrained": "none" if pretrained == "none" else _pretrained(backbone, host.weights, pretrained),
        **{name: words.take(name) for name in sorted(names - special)},
    }


def _stage(
    words: _Words, common: Mapping[str, Any], terms: tuple[Term, ...], seed: int, ancillary: Stage | None
) -> Stage:
    clicks, teacher = _reads("labels", terms), _reads("teacher", terms)
    fields = {
        **common,
        "losses": terms,
        "annotation": words.take("annotation") if clicks else None,
        "click_size": words.take("click_size") if clicks else None,
        "click_order": words.take("click_order") if clicks else None,
        "alpha": words.take("alpha") if teacher else None,
        "teacher_bn": words.take("teacher_bn") if teacher else None,
        "teacher_mode": words.take("teacher_mode") if teacher else None,
        "seed": seed,
        "self_generation": words.take("self_generation") if ancillary is not None else "none",
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
    return networks.pretrained_identity(backbone, weights, name)


def open_data(stage: Stage, host: Host) -> Dataset:
    """The data set of a stage. Raises `InputError` if what lies there is no longer what the stage was planned with."""
    dataset = _open(stage.data, host.data_paths)
    if dataset.fingerprint() != stage.data_fingerprint:
        raise InputError(f"data {stage.data.name!r} has changed since this stage was planned; plan it again")
    return dataset


@functools.cache
def _profile(name: str, split: str) -> dict[str, Scalar]:
    if name not in profiles():
        raise unknown("profile", name, profiles())
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    preset = _profile_file(name)
    tuning = preset.pop("tuning", None)
    if split == "tuning":
        if not tuning:
            raise InputError(f"split='tuning': profile {name!r} has no 'tuning' words that lead to other images")
        preset |= tuning
    return {str(word): value for word, value in preset.items()}


def _profile_file(name: str) -> dict[str, Any]:
    """What a profile's file says; `like: NAME` puts it over that of another profile."""
    own: dict[str, Any] = yaml.safe_load((_profile_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    like = own.pop("like", None)
    return own if like is None else _profile_file(like) | own


def _profile_folder() -> Any:
    return resources.files("seminar") / "profiles"
