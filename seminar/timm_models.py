"""Backbones of timm under the suite's DeepLab-v3+ head: `backbone=timm/NAME`. The only module that knows timm.

timm is an extra (`pip install 'seminar-learning[timm]'`) and imported only where such a backbone is named.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seminar.colours import IMAGENET_MEAN, IMAGENET_STD
from seminar.spec import InputError, unknown

PREFIX = "timm/"
"""What the name of a backbone of timm begins with."""
LOW = 4
"""Stride of the low-level features that the decoder reads."""


class Features(nn.Module):
    """An image (B, 3, H, W), normalised as torchvision's networks want it -> timm's feature maps at two strides.

    timm's weights know images that were normalised with `mean` and `std` (a third of its networks with others than
    torchvision's), so the image is normalised once more where they differ.
    """

    scale: Tensor
    shift: Tensor

    def __init__(self, net: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.net = net
        self.same = (mean, std) == (IMAGENET_MEAN, IMAGENET_STD)
        given, wanted = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]), torch.tensor([mean, std])
        # Not in the state dict: they belong to the name of the network.
        self.register_buffer("scale", (given[1] / wanted[1])[:, None, None], persistent=False)
        self.register_buffer("shift", ((given[0] - wanted[0]) / wanted[1])[:, None, None], persistent=False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        low, high = self.net(image if self.same else image * self.scale + self.shift)
        return low, high

    def channels(self) -> tuple[int, int]:
        """Return the channels of the low-level and of the high-level features."""
        low, high = self.net.feature_info.channels()  # type: ignore[operator, union-attr]
        return int(low), int(high)


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
    if "." in name:  # names its weights, too
        network = name.partition(".")[0]
        tagged = timm.list_pretrained(f"{network}.*")
        if name not in tagged:
            raise unknown("backbone", PREFIX + name, [PREFIX + each for each in (network, *tagged)])
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


def body(name: str, output_stride: int, **more: Any) -> Features:
    """Return the network that gives low-level features, at stride 4, and high-level ones, at `output_stride`. Its
    random weights come from torch's global generator. `more`: for `timm.create_model`.

    Raises `InputError` for networks without feature maps at these strides: vision transformers, among others.
    """
    strides = _strides(name, output_stride)
    used = strides.index(LOW), len(strides) - 1
    net = _timm().create_model(name, features_only=True, output_stride=output_stride, out_indices=used, **more)
    found = _timm().get_pretrained_cfg(name)
    return Features(net, *((IMAGENET_MEAN, IMAGENET_STD) if found is None else (found.mean, found.std)))


def synchronised(layer: nn.Module) -> nn.Module:
    """Return the form of timm's BatchNorm on GPUs whose statistics several processes share."""
    shared: nn.Module = _timm().layers.convert_sync_batchnorm(layer)
    return shared


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


def load(net: Features, name: str, output_stride: int, weights: Path | None) -> str:
    """Load pretrained weights into a `body`, in place: from a file of timm's (PyTorch or safetensors), or (None)
    timm's own, which it downloads once. Returns the SHA-256 of the file, or of the tensors that were downloaded.

    Raises `InputError` for a file that does not fit or lacks a layer, and where nothing can be downloaded.
    """
    source = f"weights={weights}" if weights is not None else f"timm's weights of {name}"
    with _quiet(), torch.random.fork_rng([]):
        if weights is None:
            state = _loaded(source, name, output_stride, {})
        else:
            given = _read(source, weights)
            state = _loaded(source, name, output_stride, {"state_dict": dict(given)})
            # timm takes what fits, without a word of what is missing: only that is the same with other numbers.
            other = {key: (value == 0).to(value.dtype) for key, value in given.items()}
            same = _loaded(source, name, output_stride, {"state_dict": other})
            lacking = [key for key, value in state.items() if torch.equal(value, same[key])]
            # Files older than this counter lack it, and BatchNorm with a momentum does not read it.
            lacking = [key for key in lacking if not key.endswith("num_batches_tracked")]
            if lacking:
                raise InputError(f"{source}: lacks {len(lacking)} layers of {PREFIX}{name}, {lacking[0]} first")
    for key, value in state.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{source}: {key} is not finite")
    net.net.load_state_dict(state)
    if weights is not None:
        return hashlib.sha256(weights.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode() + state[key].numpy().tobytes())
    return digest.hexdigest()


def _read(source: str, weights: Path) -> dict[str, Tensor]:
    """Return the state dict in a file, as data: older versions of timm, by default, run code that a file brings."""
    try:
        given: dict[str, Tensor] = _timm().models.load_state_dict(str(weights), weights_only=True)
    except Exception as error:  # of torch's and of safetensors' readers
        raise InputError(f"{source}: cannot be read as weights: {_reason(error)}") from None
    if not given or not all(isinstance(value, Tensor) and not value.is_complex() for value in given.values()):
        raise InputError(f"{source}: is no state dict (names with tensors)")
    return given


def _loaded(source: str, name: str, output_stride: int, overlay: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of a `body` that timm has loaded, from what `overlay` says or by download."""
    torch.manual_seed(0)
    try:
        net = body(name, output_stride, pretrained=True, pretrained_cfg_overlay=dict(overlay))
    except Exception as error:  # of the network, of the file, of the shapes
        advice = "" if overlay else "; pass weights=PATH of a local copy"
        raise InputError(f"{source}: cannot be loaded into {PREFIX}{name}: {_reason(error)}{advice}") from None
    state: dict[str, Tensor] = net.net.state_dict()
    return state


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Without timm's warning that the classifier is left out, and a line for every try of a download."""
    logs = [logging.getLogger(name) for name in ("timm", "huggingface_hub")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
