"""Backbones of timm under the suite's DeepLab-v3+ head: `backbone=timm/NAME`. The only module that knows timm.

timm is an extra (`pip install 'seminar-learning[timm]'`) and imported only where such a backbone is named.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seminar.spec import InputError, unknown

PREFIX = "timm/"
"""What the name of a backbone of timm begins with."""
LOW = 4
"""Stride of the low-level features that the decoder reads."""


@functools.cache
def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError(
            f"backbone={PREFIX}...: the library {error.name!r} is missing; pip install 'seminar-learning[timm]'"
        ) from None
    return timm


def check_name(name: str) -> None:
    """Raise `InputError` for a name that timm does not know, or whose network gives no feature maps."""
    timm = _timm()
    if not timm.is_model(name):
        raise unknown("backbone", PREFIX + name, [PREFIX + each for each in timm.list_models()])
    _strides(name, 16)


@functools.cache
def _strides(name: str, output_stride: int) -> tuple[int, ...]:
    """Return the strides of the network's feature maps, the last of which is `output_stride`; one of them is 4."""
    try:
        with torch.device("meta"):  # without memory for its weights
            net = _timm().create_model(name, features_only=True, output_stride=output_stride)
    except (TypeError, AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"backbone={PREFIX}{name}: timm gives no feature maps at stride {LOW} and {output_stride} for it "
            f"({reason}); take a convolutional network, for example {PREFIX}resnet18 or {PREFIX}convnext_atto"
        ) from None
    strides: tuple[int, ...] = tuple(net.feature_info.reduction())
    if LOW not in strides or strides[-1] != output_stride:
        raise InputError(
            f"backbone={PREFIX}{name}: its feature maps have the strides {', '.join(map(str, strides))}, and the head "
            f"needs {LOW} and {output_stride}; take another output_stride, or another network"
        )
    return strides


def body(name: str, output_stride: int, **more: Any) -> nn.Module:
    """Return the network that maps an image (B, 3, H, W) to its low-level features, at stride 4, and its high-level
    ones, at `output_stride`. Its random weights come from torch's global generator. `more`: for `timm.create_model`.

    Raises `InputError` for networks without feature maps at these strides: vision transformers, among others.
    """
    strides = _strides(name, output_stride)
    used = strides.index(LOW), len(strides) - 1
    net: nn.Module = _timm().create_model(
        name, features_only=True, output_stride=output_stride, out_indices=used, **more
    )
    return net


def channels(net: nn.Module) -> tuple[int, int]:
    """Return the channels of the low-level and of the high-level features of a `body`."""
    low, high = net.feature_info.channels()  # type: ignore[operator, union-attr]
    return int(low), int(high)


def identity(name: str, weights: Path | None) -> str:
    """Return the name of ImageNet weights in a training's key: that of timm's default weights, or the network and the
    first 8 digits of the SHA-256 of a file. Raises `InputError` where there are none, or the file cannot be read."""
    if weights is not None:
        try:
            return f"{name}-{hashlib.sha256(weights.read_bytes()).hexdigest()[:8]}"
        except OSError as error:
            raise InputError(f"weights={weights}: {error.strerror}") from None
    found = _timm().get_pretrained_cfg(name)
    if found is None or not found.has_weights:
        raise InputError(f"backbone={PREFIX}{name}: timm has no pretrained weights for it; take pretrained=none")
    return f"timm-{found.architecture}.{found.tag}" if found.tag else f"timm-{found.architecture}"


def _loaded(seed: int, name: str, output_stride: int, overlay: Mapping[str, Any]) -> nn.Module:
    torch.manual_seed(seed)
    return body(name, output_stride, pretrained=True, **overlay)


def load(net: nn.Module, name: str, output_stride: int, weights: Path | None) -> str:
    """Load pretrained weights into a `body`, in place: from a file of timm's (PyTorch or safetensors), or (None)
    timm's own, which it downloads once. Returns the SHA-256 of the file, or of the tensors that were downloaded.

    Raises `InputError` for a file that does not fit, and where nothing can be downloaded.
    """
    source = f"weights={weights}" if weights is not None else f"timm's weights of {name}"
    overlay = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
    log = logging.getLogger("timm")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that the classifier is left out
    try:
        with torch.random.fork_rng([]):
            full, again = (_loaded(seed, name, output_stride, overlay) for seed in (1, 2))
    except Exception as error:  # of torch's and of safetensors' readers, of the network, of the shapes
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{source}: cannot be loaded into {PREFIX}{name}: {reason}") from None
    finally:
        log.setLevel(level)
    state: dict[str, Tensor] = full.state_dict()
    # timm takes what fits, without a word of what is missing: that stays random, and so differs between two networks.
    other = again.state_dict()
    lacking = [key for key, value in state.items() if not torch.equal(value.nan_to_num(), other[key].nan_to_num())]
    if lacking:
        raise InputError(f"{source}: lacks {len(lacking)} layers of {PREFIX}{name}, {lacking[0]} first")
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{source}: {key} is not finite")
    net.load_state_dict(state)
    if weights is not None:
        return hashlib.sha256(weights.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].numpy().tobytes())
    return digest.hexdigest()
