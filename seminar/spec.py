"""What one training *is*: the frozen value `Stage`, and the key that names it.

Imports no torch, so that status and tables start at once.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from seminar.text import brief

RECIPE = 6
"""Raised whenever the training code changes what an unchanged `Stage` yields: old records then stop matching."""

Scalar = bool | int | float | str
T = TypeVar("T")
Later = Annotated[T, "later"]
"""A field, or a setting of a part, that is younger than keys in use. At its default it is absent from the key, so those
keys stay valid."""


def is_later(metadata: Iterable[object]) -> bool:
    """Return whether an annotation is `Later[...]`."""
    return "later" in metadata


Settings = tuple[tuple[str, Scalar], ...]


class InputError(ValueError):
    """Something the user wrote cannot be used. The message is one line: the thing, the value, the choices."""


LISTED = 60
"""Choices that a message lists."""


def unknown(thing: str, value: object, choices: Iterable[str]) -> InputError:
    """Return the error for a name that is none of `choices`, with the nearest choice as a guess. Of very many choices
    it lists those that are most like the name."""
    names = sorted(choices)
    near = difflib.get_close_matches(str(value)[:100], names, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    alike = names
    if len(names) > LISTED:
        alike = sorted(difflib.get_close_matches(str(value)[:100], names, n=LISTED, cutoff=0.0))
    more = f" and {len(names) - len(alike)} others" if len(names) > len(alike) else ""
    return InputError(f"{thing}={brief(value)}: {guess}choose from {', '.join(alike)}{more}")


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class Part(_Value):
    """A registered part (a loss term, a data set) by name, with all settings that it reads, sorted by name."""

    name: str
    settings: Settings = ()

    @model_validator(mode="after")
    def _sorted(self) -> Part:
        names = [name for name, _ in self.settings]
        if names != sorted(set(names)):
            raise ValueError(f"settings of {self.name!r} must be sorted and unique, got {names}")
        return self


class Term(Part):
    """One loss term: its weight (lambda) and the fraction of the epochs over which the weight rises from 0."""

    weight: Annotated[float, Field(gt=0)]
    ramp: Annotated[float, Field(ge=0, le=1)] = 0.0


class Stage(_Value):
    """One training to its end.

    A stage with an `ancillary` is a primary: the frozen ancillary student writes its pseudo-labels. A chain of K
    student-student modules is K + 1 nested stages. With `self_generation` the primary is no second student but the
    ancillary itself, trained on with pseudo-labels of its own frozen copy: `reset` begins a new schedule of the
    learning rate, `unchange` goes on in that of the ancillary and stays at its last value once it is over (Fig. 4).
    `poly_horizon` is the length of the schedule, in lengths of the training. `pseudo_from`: which network of the
    ancillary writes the pseudo-labels. `strong_view`: what the student sees where its output is compared with the
    teacher's, see `seminar.strong_views`.

    A setting that has no effect on a stage is None in it (`alpha` where nothing needs a teacher, `click_size` where
    nothing reads clicks), so equal trainings are equal values. `click_size` is the side of a click, or the width of a
    scribble, in pixels. `annotation_settings` are those of labels that are grown before training.
    `metrics` changes no training, but what its record holds. Where and how a stage runs (device, loader processes,
    paths) is no part of it: see `catalogue.Host`.
    """

    data: Part
    data_fingerprint: str
    annotation: Literal["clicks", "scribbles", "grown", "boxes"] | None
    annotation_settings: Later[Settings] = ()
    click_size: Literal[1, 3, 5] | None
    click_order: Literal["geometry_first", "raster_first"] | None

    backbone: str
    output_stride: Literal[8, 16]
    pretrained: str
    freeze: Literal["none", "bn", "backbone"]

    losses: Annotated[tuple[Term, ...], Field(min_length=1)]
    alpha: Annotated[float, Field(ge=0, lt=1)] | None
    teacher_bn: Literal["own", "copy", "ema"] | None
    teacher_mode: Literal["train", "eval"] | None
    strong_view: Later[Literal["none", "colour", "cutmix", "both"]] = "none"

    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=2)]
    lr: Annotated[float, Field(gt=0)]
    head_lr_factor: Annotated[float, Field(gt=0)]
    warmup_steps: Annotated[int, Field(ge=0)]
    poly_power: Annotated[float, Field(ge=0)] | None
    poly_horizon: Annotated[float, Field(ge=1)]
    momentum: Annotated[float, Field(ge=0, lt=1)] | None
    weight_decay: Annotated[float, Field(ge=0)] | None
    optimizer: Later[Part] = Part(name="sgd")
    schedule: Later[str] = "poly"
    precision: Literal["fp32", "tf32", "bf16"]
    compile: Later[bool] = False

    crop: Annotated[int, Field(ge=16, le=10_000)]
    scale_min: Annotated[float, Field(gt=0)]
    scale_max: Annotated[float, Field(gt=0, le=10)]
    flip: bool
    augment_noise: Literal["blur", "noise", "none"]

    eval_every: Annotated[int, Field(ge=1)]
    metrics: Later[str] = "miou"
    seed: Annotated[int, Field(ge=0)]
    self_generation: Literal["none", "reset", "unchange"] = "none"
    ancillary: Stage | None = None
    pseudo_from: Later[Literal["student", "teacher"]] = "student"

    @model_serializer(mode="wrap")
    def _serialized(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is `Later` and at its default."""
        fields = type(self).model_fields
        absent = {name for name, f in fields.items() if is_later(f.metadata) and getattr(self, name) == f.default}
        return {name: value for name, value in plain(self).items() if name not in absent}

    @model_validator(mode="after")
    def _consistent(self) -> Stage:
        names = [term.name for term in self.losses]
        if names != sorted(set(names)):
            raise ValueError(f"losses must be sorted and unique, got {names}")
        if len({self.alpha is None, self.teacher_bn is None, self.teacher_mode is None}) > 1:
            raise ValueError("alpha, teacher_bn and teacher_mode are all given (there is a teacher) or all None")
        if (self.teacher_bn, self.teacher_mode) == ("own", "eval"):
            raise ValueError(
                "teacher_bn=own with teacher_mode=eval: a teacher in eval mode gathers no BatchNorm statistics of its "
                "own; take teacher_bn=copy or ema"
            )
        sized, placed = self.annotation not in (None, "boxes"), self.annotation in ("clicks", "scribbles")
        if (self.click_size is not None, self.click_order is not None) != (sized, placed):
            raise ValueError(
                "click_size is given where clicks or scribbles are read, click_order where they are drawn on a view; "
                "else they are None"
            )
        if bool(self.annotation_settings) == (placed or self.annotation is None):
            raise ValueError(f"annotation={self.annotation!r} with annotation_settings={self.annotation_settings}")
        if self.freeze == "backbone" and self.pretrained == "none":
            raise ValueError("freeze=backbone with pretrained=none would keep a random backbone")
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min={self.scale_min} is above scale_max={self.scale_max}")
        if self.self_generation != "none" and (self.ancillary is None or self.ancillary.network != self.network):
            raise ValueError(f"self_generation={self.self_generation!r}: there is no ancillary of the same network")
        if self.pseudo_from == "teacher" and (self.ancillary is None or not self.ancillary.has_teacher):
            raise ValueError("pseudo_from=teacher: the ancillary has no teacher; add pcons to its losses")
        if self.strong_view != "none" and not self.has_teacher:
            raise ValueError(f"strong_view={self.strong_view}: there is no teacher to compare with")
        if self.ancillary is not None:
            # The two students must be different networks: with one seed the primary would repeat its ancillary.
            if self.seed in {stage.seed for stage in self.ancillary.chain}:
                raise ValueError(f"seed={self.seed}: the primary and an ancillary have the same seed")
            if self.ancillary.data != self.data or self.ancillary.data_fingerprint != self.data_fingerprint:
                raise ValueError("the primary and its ancillary must be trained on the same data")
        return self

    @property
    def chain(self) -> tuple[Stage, ...]:
        """All trainings this one needs, itself last: `(ancillary of ancillary, ..., self)`."""
        before = self.ancillary.chain if self.ancillary is not None else ()
        return (*before, self)

    @property
    def network(self) -> tuple[str, int]:
        """What the shapes of the weights depend on, but for the classes."""
        return self.backbone, self.output_stride

    @property
    def modules(self) -> int:
        """K, the number of student-student modules: 0 for a stage without ancillary."""
        return len(self.chain) - 1

    @property
    def budgets(self) -> int:
        """How many whole trainings these networks have behind them when this one begins (self-generation)."""
        if self.self_generation == "none" or self.ancillary is None:
            return 0
        return 1 + self.ancillary.budgets

    @property
    def replicate(self) -> int:
        """The seed that a sweep gives: the seed at the root of the chain."""
        return self.chain[0].seed

    @property
    def has_teacher(self) -> bool:
        return self.alpha is not None

    @property
    def label(self) -> str:
        """The loss combination in the paper's order, for people: `pce+crf+pcons+pseudo`."""
        return "+".join(sorted((term.name for term in self.losses), key=_paper_order))

    @functools.cached_property
    def settings(self) -> dict[str, Scalar]:
        """Every setting that has an effect on this training, by the name that a user writes: `lambda_crf`, `data_seed`.

        `pretrained` names the weights by their content. The data are named by their settings alone.
        """
        found: dict[str, Scalar] = {"losses": self.label, "data": self.data.name, "seed": self.replicate}
        found |= {f"data_{name}": value for name, value in self.data.settings}
        for term in self.losses:
            found |= {f"lambda_{term.name}": term.weight, f"{term.name}_ramp": term.ramp}
            found |= {f"{term.name}_{name}": value for name, value in term.settings}
        if self.ancillary is not None:
            found |= {"modules": self.modules, "self_generation": self.self_generation}
        found |= {f"{self.annotation}_{name}": value for name, value in self.annotation_settings}
        found |= {"optimizer": self.optimizer.name}
        found |= {f"{self.optimizer.name}_{name}": value for name, value in self.optimizer.settings}
        shown = {"data", "data_fingerprint", "losses", "optimizer", "seed", "ancillary", "self_generation"}
        shown |= {"annotation_settings"}
        values = {name: getattr(self, name) for name in type(self).model_fields if name not in shown}
        return found | {name: value for name, value in values.items() if value is not None}

    @property
    def title(self) -> str:
        """The training in a few words, for people; stages that differ in anything else share it."""
        chain = f" K={self.modules}" if self.modules else ""
        if self.self_generation != "none":
            chain += f" self-generation {self.self_generation}"
        if self.annotation not in (None, "clicks"):
            chain += f" {self.annotation}"
        return f"{self.label}{chain} {self.data.name} {self.backbone} seed {self.replicate}"

    def canonical(self) -> str:
        """Return the whole value as JSON with sorted keys: the text that is hashed and that `stage.json` holds."""
        return _canonical(RECIPE, self.model_dump(mode="json"))

    @functools.cached_property
    def key(self) -> str:
        """16 hexadecimal digits of SHA-256 of `canonical()`: the name of the training and of its folder."""
        return hash_of(self.canonical())

    def known_as(self, key: str) -> Self:
        """Return this stage with a key that was computed before: hashing thousands of stages takes seconds."""
        self.__dict__["key"] = key
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values, which has a key of its own."""
        copy = super().model_copy(update=update, deep=deep)
        for name in ("key", "settings"):
            copy.__dict__.pop(name, None)
        return copy


def key_of(recipe: object, stage: object) -> str:
    """Return the key of a stage as it is kept in JSON, of this recipe or another."""
    return hash_of(_canonical(recipe, stage))


def hash_of(canonical: str) -> str:
    """Return the key of the stage whose `canonical()` this is."""
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _canonical(recipe: object, stage: object) -> str:
    return _indented_json({"recipe": recipe, "stage": stage}, "\n")


def _indented_json(value: object, margin: str) -> str:
    """Return `json.dumps(value, sort_keys=True, indent=1)` of a value that was read from JSON, in half its time: with
    `indent`, json does without its C code. `margin`: the line break before the closing bracket."""
    kind, inner = type(value), margin + " "
    if isinstance(value, str):
        return _quoted(value)
    if kind is int or kind is float:
        return repr(value)
    if isinstance(value, dict) and value:
        parts = [f"{_quoted(name)}: {_indented_json(value[name], inner)}" for name in sorted(value)]
        return f"{{{inner}{f',{inner}'.join(parts)}{margin}}}"
    if isinstance(value, list) and value:
        return f"[{inner}{f',{inner}'.join([_indented_json(part, inner) for part in value])}{margin}]"
    return json.dumps(value)


_quoted = json.encoder.encode_basestring_ascii


def _paper_order(term: str) -> tuple[int, str]:
    order = ("pce", "ce", "crf", "pcons", "pseudo")
    return (order.index(term) if term in order else len(order), term)


def one_line(error: ValidationError) -> str:
    """Return the first problem of a pydantic error as `name=value: reason`."""
    first: dict[str, Any] = dict(error.errors(include_url=False)[0])
    name = ".".join(str(part) for part in first["loc"]) or "stage"
    reason = str(first["msg"]).removeprefix("Value error, ")
    shown = "" if isinstance(first["input"], dict) else f"{name}={brief(first['input'])}: "
    return f"{shown}{reason}"
