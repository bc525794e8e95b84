"""Pretrained weights of backbones: their name in a training's key, whether they are at hand, and how they come into a
network. One class for each library that has such weights."""

from __future__ import annotations

import hashlib
import io
import sys
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import torch
from torch import Tensor

from seminar import networks, timm_models
from seminar.networks import BACKBONES, DeepLabV3Plus
from seminar.spec import InputError, unknown

CHANGED = "has changed since this training was planned; start the command again to plan with the file as it is now"


class Source(Protocol):
    """Where the pretrained weights of one backbone come from."""

    def identity(self, weights: Path | None, name: str) -> str:
        """Return the name of the weights in a training's key. `name`: which of the library's, where it has several;
        "imagenet": the usual ones. Downloads nothing. Raises `InputError` where there are none."""

    def at_hand(self, identity: str) -> bool:
        """Return whether the library's weights are known to be on this machine."""

    def load(self, net: DeepLabV3Plus, weights: Path | None, identity: str | None) -> str:
        """Load the weights into the backbone, in place, from a file, or (None) the library's; returns their SHA-256.
        Raises `InputError` for weights that do not fit, or are not what `identity` names."""


def identity(backbone: str, weights: Path | None, name: str = "imagenet") -> str:
    """Return the name of the pretrained weights of a backbone in a training's key, see `Source.identity`."""
    return _source(backbone).identity(weights, name)


def check(backbone: str, weights: Path | None, identity: str, download: bool) -> None:
    """Raise `InputError` where pretrained weights cannot be had or do not fit the backbone. Without `download`, weights
    that are not here yet are not looked at."""
    if download or weights is not None or _source(backbone).at_hand(identity):
        load(networks.build(backbone, 2, 16), weights, identity)


def load(net: DeepLabV3Plus, weights: Path | None, identity: str | None = None) -> str:
    """Load pretrained weights into the backbone of a network, see `Source.load`."""
    return _source(net.backbone).load(net, weights, identity)


def _source(backbone: str) -> Source:
    if backbone.startswith(timm_models.PREFIX):
        return Timm(backbone.removeprefix(timm_models.PREFIX))
    return Torchvision(backbone)


@dataclass(frozen=True)
class Timm:
    """timm's weights of its network `name`."""

    name: str

    def identity(self, weights: Path | None, name: str) -> str:
        if name != "imagenet":
            raise unknown("pretrained", name, ("none", "imagenet"))
        return timm_models.identity(self.name, weights)

    def at_hand(self, identity: str) -> bool:
        return False

    def load(self, net: DeepLabV3Plus, weights: Path | None, identity: str | None) -> str:
        if weights is not None and identity not in (None, timm_models.identity(self.name, weights)):
            raise InputError(f"weights={weights}: {CHANGED}")
        assert isinstance(net.encoder.body, timm_models.Features)
        return timm_models.load(net.encoder.body, self.name, net.output_stride, weights)


@dataclass(frozen=True)
class Torchvision:
    """torchvision's ImageNet weights of a backbone.

    torchvision ends its file names with the first 8 digits of the SHA-256, so a copy of its file has its identity:
    `mobilenet_v2-b0353104`.
    """

    backbone: str

    def identity(self, weights: Path | None, name: str) -> str:
        published = PurePosixPath(self._member(name).url).stem
        if weights is None:
            return published
        try:
            digits = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
        except OSError as error:
            raise InputError(f"weights={weights}: {error.strerror}") from None
        if name != "imagenet" and not published.endswith(digits):
            raise InputError(
                f"weights={weights}: is not {name}, whose file is {published}.pth; leave out one of the two"
            )
        return f"{self.backbone}-{digits}"

    def at_hand(self, identity: str) -> bool:
        return _cached(self._url(identity)).exists()

    def load(self, net: DeepLabV3Plus, weights: Path | None, identity: str | None) -> str:
        """Every layer of the backbone must be there in its shape, and nothing else but torchvision's classifier."""
        entry, source = networks.find(self.backbone), f"weights={weights}" if weights else "torchvision's weights"
        given, sha256 = self._read(weights, identity)
        if not isinstance(given, dict) or not all(map(_plain, given.values())):
            raise InputError(f"{source}: is no state dict (names with tensors)")
        given = {name: value for name, value in given.items() if not str(name).startswith(entry.unused)}
        wanted = {entry.prefix + name: value for name, value in net.encoder.body.state_dict().items()}
        wrong = [f"{name} is unexpected" for name in given if name not in wanted]
        for name, value in wanted.items():
            if name in given and given[name].shape != value.shape:
                wrong.append(f"{name} is {tuple(given[name].shape)} instead of {tuple(value.shape)}")
            # Files older than this counter lack it, and BatchNorm with a momentum does not read it.
            elif name not in given and not name.endswith("num_batches_tracked"):
                wrong.append(f"{name} is missing")
            elif name in given and not given[name].to(value.dtype).isfinite().all():
                wrong.append(f"{name} is not finite")
        if wrong:
            shown = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
            raise InputError(f"{source}: {len(wrong)} layers do not fit {self.backbone}: {shown}")
        net.encoder.body.load_state_dict(
            {name.removeprefix(entry.prefix): value for name, value in given.items()}, strict=False
        )
        return sha256

    def _member(self, name: str = "imagenet") -> Any:
        """Return a member of torchvision's enum of the backbone's weights: the paper's, or that of a name."""
        weights = networks.find(self.backbone).imagenet
        if name != "imagenet":
            members = {} if weights is None else type(weights).__members__
            if name not in members or name == "DEFAULT":  # which it is changes with torchvision
                raise unknown(
                    "pretrained", name, ("none", "imagenet", *(each for each in members if each != "DEFAULT"))
                )
            return members[name]
        if weights is None:
            names = ", ".join(sorted(name for name, entry in BACKBONES.items() if entry.imagenet is not None))
            raise InputError(f"backbone={self.backbone!r}: there are no ImageNet weights for it, only for {names}")
        return weights

    def _url(self, identity: str | None) -> str:
        """Return where the weights of this identity are, or else the paper's."""
        paper = self._member()
        named = [member for member in type(paper) if PurePosixPath(member.url).stem == identity]
        return str((named[0] if named else paper).url)

    def _read(self, weights: Path | None, identity: str | None) -> tuple[Any, str]:
        """Return the state dict in the file `weights`, or torchvision's (from its cache or by download), and the
        SHA-256 of the file. Raises `InputError` for a file that is not what `identity` names."""
        self._member()
        path = weights if weights is not None else _downloaded(self._url(identity))
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"weights={path}: {error.strerror}") from None
        sha256 = hashlib.sha256(content).hexdigest()
        if identity is not None and not identity.endswith(f"-{sha256[:8]}"):
            if weights is not None:
                raise InputError(f"weights={path}: {CHANGED}")
            raise InputError(
                f"weights={path}: is not {identity} (its SHA-256 begins with {sha256[:8]}); delete it to download it "
                "again"
            )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # guesses about what such a file may be
                return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"), sha256
        except Exception:  # its unpickler lets through whatever it meets in a file of something else
            raise InputError(f"weights={path}: is no state dict that torch.load(weights_only=True) can read") from None


def _cached(url: str) -> Path:
    """Return where torch keeps what it has downloaded from there."""
    return Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(url).name


def _downloaded(url: str) -> Path:
    """Return a file of torchvision's in torch's cache, after downloading it where it is not there."""
    path = _cached(url)
    if not path.exists():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(
                url, str(path), hash_prefix=path.stem.rpartition("-")[2], progress=sys.stderr.isatty()
            )
        except (OSError, HTTPException, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{url}: cannot be downloaded ({reason}); pass weights=PATH of a local copy") from None
    return path


def _plain(value: object) -> bool:
    """Return whether it is a tensor of real numbers that can be read one by one."""
    if not isinstance(value, Tensor) or value.is_complex():
        return False
    return value.layout == torch.strided and not value.is_quantized and not value.is_meta
