"""The values that settings have unless somebody gives others: the paper's, and those of the built-in profiles.

Imports no torch, so that reports can compare a training with its profile.
"""

from __future__ import annotations

import functools
import hashlib
import json
from importlib import resources
from typing import Any

import yaml

from seminar.spec import InputError, Scalar, unknown
from seminar.sweep import is_value, parse_yaml
from seminar.text import brief, plain

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
    "strong_view": "none",
    "pseudo_from": "student",
    "epochs": 60,
    "batch_size": 12,
    "lr": 0.007,
    "head_lr_factor": 10.0,
    "warmup_steps": 0,
    "poly_power": 0.9,
    "poly_horizon": 1.0,
    "optimizer": "sgd",
    "schedule": "poly",
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
    "metrics": "miou",
    "seed": 0,
}
"""The paper's values, or those of the implementation it builds on where the paper is silent. Settings of losses, data
sets and other parts have their defaults at the parts themselves."""

PROFILE = "creatures"
"""The profile where none is given."""
SPLITS = ("reporting", "tuning")
"""`tuning`: the profile's `tuning` settings replace its others, so that settings are chosen on other images than those
that are reported."""


def profiles() -> list[str]:
    """Return the names of the built-in profiles, sorted."""
    return sorted(path.name.removesuffix(".yaml") for path in _folder().iterdir() if path.name.endswith(".yaml"))


@functools.cache
def preset(profile: str, split: str = SPLITS[0]) -> dict[str, Scalar]:
    """Return the settings of a profile alone, without the paper's.

    Raises `InputError` for an unknown profile or split, and for a profile without images to tune on.
    """
    if profile not in profiles():
        raise unknown("profile", profile, profiles())
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    settings = _file(profile)
    tuning = settings.pop("tuning", None)
    if split == "tuning":
        if not tuning:
            raise InputError(f"split='tuning': profile {profile!r} has no 'tuning' settings that lead to other images")
        settings |= tuning
    return {str(name): value for name, value in settings.items()}


def digest(profile: str, split: str = SPLITS[0]) -> str:
    """Return 8 hexadecimal digits that change when a value of the paper or of the profile changes."""
    text = json.dumps({**PAPER, **preset(profile, split)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _file(name: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Read a profile's file; `like: NAME` takes the values of another profile for all that it does not set. `above`:
    the profiles that are like this one. Raises `InputError` for a file that cannot be used."""
    path = _folder() / f"{name}.yaml"
    try:
        own = parse_yaml(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"profile {path}: not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(own, dict):
        raise InputError(f"profile {path}: write one setting a line, for example epochs: 10")
    like, tuning = own.pop("like", None), own.get("tuning") or {}
    if not isinstance(tuning, dict):
        raise InputError(f"profile {path}: tuning={brief(tuning)}: write settings below it, one a line")
    for setting, value in [*own.items(), *tuning.items()]:
        if setting != "tuning" and not is_value(value):
            raise InputError(
                f"profile {path}: {plain(setting)}={brief(value)}: must be one number, one text, true or false"
            )
    if like is None:
        return own
    if like not in profiles() or like in (name, *above):
        others = [other for other in profiles() if other not in (name, *above)]
        raise InputError(f"profile {path}: {unknown('like', like, others)}")
    return _file(like, (name, *above)) | own


def _folder() -> Any:
    return resources.files("seminar") / "profiles"
