"""The segmentation network: DeepLabV3+ on a registered backbone.

Shapes are written (B, C, H, W); "/4" means at stride 4. Sizes need not be multiples of the stride: a layer of stride 2
makes ceil(n / 2) of n, and the logits come back at the size of the image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.models import (
    MobileNet_V2_Weights,
    ResNet101_Weights,
    mobilenet_v2,
    resnet101,
)
from torchvision.models.resnet import BasicBlock

from seminar import timm_models
from seminar.spec import unknown

OutputStride = Literal[8, 16]
Freeze = Literal["none", "bn", "backbone"]
DROPOUT = (0.5, 0.5, 0.1)
"""DeepLab-v3+'s dropout rates, for heads of 256 channels."""


@dataclass(frozen=True)
class Anatomy:
    """What a backbone gives, and the size of the head that suits it.

    `body` maps the image to the high-level features (`high` channels); the output of its child `tap` is the low-level
    features (`low` channels, /4, or /2 in `small_resnet_fine`). Without a `tap` it returns the two. `width`: channels
    of ASPP and decoder; `rates`: dilations of the ASPP's 3x3 convolutions; `low_width`: channels to which the decoder
    reduces the low-level features; `dropout`: rates behind the ASPP and behind the decoder's two 3x3 convolutions.
    """

    body: nn.Module
    tap: str | None
    low: int
    high: int
    width: int
    rates: tuple[int, ...]
    low_width: int
    dropout: tuple[float, float, float]


Make = Callable[[OutputStride], Anatomy]


@dataclass(frozen=True)
class Backbone:
    """A registered backbone. `imagenet`: torchvision's weights, if there are any.

    Their layers are named `prefix` + the name in the body; those under `unused` only feed torchvision's classifier.
    """

    make: Make
    imagenet: Any = None
    prefix: str = ""
    unused: tuple[str, ...] = ()


BACKBONES: dict[str, Backbone] = {}
LIBRARIES: dict[str, Callable[[str], Backbone]] = {}
"""Libraries of networks, by what the names of their backbones begin with: from the rest of a name to its backbone."""


def _backbone(name: str, **rest: Any) -> Callable[[Make], Make]:
    """Decorator: make the function below known as backbone `name`; `rest` are the other fields of `Backbone`."""

    def register(make: Make) -> Make:
        BACKBONES[name] = Backbone(make, **rest)
        return make

    return register


def find(name: str) -> Backbone:
    """Return the backbone of a name, or a library's for `LIBRARY/NAME`. Raises `InputError` for an unknown name."""
    for prefix, backbone in LIBRARIES.items():
        if name.startswith(prefix):
            return backbone(name.removeprefix(prefix))
    if name not in BACKBONES:
        raise unknown("backbone", name, (*BACKBONES, *(f"{prefix}NAME" for prefix in LIBRARIES)))
    return BACKBONES[name]


def _library(prefix: str) -> Callable[[Callable[[str], Backbone]], Callable[[str], Backbone]]:
    """Decorator: make the function below give the backbones whose names begin with `prefix`. By a decorator, so that
    the digests of other networks (see `seminar.provenance`) do not depend on it."""

    def register(backbone: Callable[[str], Backbone]) -> Callable[[str], Backbone]:
        LIBRARIES[prefix] = backbone
        return backbone

    return register


@_library(timm_models.PREFIX)
def _timm_backbone(name: str) -> Backbone:
    timm_models.check_name(name)
    # Wrapped, so that its digest is that of the function.
    return Backbone(functools.update_wrapper(functools.partial(_timm_network, name), _timm_network))


def _timm_network(name: str, output_stride: OutputStride) -> Anatomy:
    body = timm_models.body(name, output_stride)
    low, high = body.channels()
    rates = _rates(output_stride)
    return Anatomy(body, tap=None, low=low, high=high, width=256, rates=rates, low_width=48, dropout=DROPOUT)


@_backbone("small_resnet")
def _small_resnet(output_stride: OutputStride) -> Anatomy:
    """For small images, trained from scratch: 0.31 M parameters with its head."""
    stages = [_block(16, 32, 2), _block(32, 64, 2), _block(64, 96, output_stride // 8)]
    if output_stride == 8:
        _dilate(stages[-1], 2)
    body = nn.Sequential(_conv_bn_relu(3, 16, 3, stride=2), *stages)
    _initialise(body)
    return Anatomy(body, tap="1", low=32, high=96, width=32, rates=(2, 4), low_width=16, dropout=(0.1, 0.1, 0.0))


@_backbone("small_resnet_fine")
def _small_resnet_fine(output_stride: OutputStride) -> Anatomy:
    """As small, with low-level features at stride 2 for the decoder, so that objects of a few pixels keep their
    outlines: 0.23 M parameters with its head."""
    stages = [_block(16, 16, 1), _block(16, 48, 2), _block(48, 96, output_stride // 4)]
    body = nn.Sequential(_conv_bn_relu(3, 16, 3, stride=2), *stages)
    _initialise(body)
    return Anatomy(body, tap="1", low=16, high=96, width=24, rates=(2, 4), low_width=16, dropout=(0.1, 0.1, 0.0))


def _block(inputs: int, outputs: int, stride: int) -> BasicBlock:
    same = stride == 1 and inputs == outputs
    shortcut = None if same else nn.Sequential(_conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))
    return BasicBlock(inputs, outputs, stride, shortcut)


def _mobilenet_backbone(name: str) -> Callable[[Make], Make]:
    weights = MobileNet_V2_Weights.IMAGENET1K_V1
    return _backbone(name, imagenet=weights, prefix="features.", unused=("classifier.", "features.18."))


@_mobilenet_backbone("mobilenet_v2")
def _mobilenet_v2(output_stride: OutputStride) -> Anatomy:
    """torchvision's, without the 1x1 convolution to 1280 channels that only feeds its classifier."""
    body = mobilenet_v2(weights=None).features[:18]
    dilation = 1
    for first, stop, stride in ((7, 14, 16), (14, 18, 32)):  # blocks [first, stop) are at /stride in torchvision's
        if stride > output_stride:
            # As in torchvision's ResNet, the block that loses its stride keeps the dilation of the blocks before it.
            _dilate(body[first], dilation)
            dilation *= 2
            _dilate(body[first + 1 : stop], dilation)
    return Anatomy(
        body, tap="3", low=24, high=320, width=256, rates=_rates(output_stride), low_width=48, dropout=DROPOUT
    )


@_mobilenet_backbone("mobilenet_v2_light")
def _mobilenet_v2_light(output_stride: OutputStride) -> Anatomy:
    """The same encoder under a head of 64 channels: on a CPU most of the time is spent in the head of 256."""
    return replace(_mobilenet_v2(output_stride), width=64, low_width=24, dropout=(0.1, 0.1, 0.0))


@_backbone("resnet101", imagenet=ResNet101_Weights.IMAGENET1K_V1, unused=("fc.",))
def _resnet101(output_stride: OutputStride) -> Anatomy:
    net = resnet101(weights=None, replace_stride_with_dilation=[False, output_stride == 8, True])
    body = nn.Sequential()
    for name, part in net.named_children():
        if name not in ("avgpool", "fc"):
            body.add_module(name, part)
    rates = _rates(output_stride)
    return Anatomy(body, tap="layer1", low=256, high=2048, width=256, rates=rates, low_width=48, dropout=DROPOUT)


def _rates(output_stride: OutputStride) -> tuple[int, ...]:
    return (6, 12, 18) if output_stride == 16 else (12, 24, 36)


def _conv(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, dilation * (size // 2), dilation, bias=False)


def _conv_bn_relu(inputs: int, outputs: int, size: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    conv = _conv(inputs, outputs, size, stride, dilation)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def _dilate(blocks: nn.Module, dilation: int) -> None:
    """Give every 3x3 convolution stride 1 and this dilation."""
    for part in blocks.modules():
        if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3):
            part.stride, part.dilation, part.padding = (1, 1), (dilation, dilation), (dilation, dilation)


def _initialise(net: nn.Module) -> None:
    """Kaiming-normal convolutions without bias, from torch's global generator (BatchNorm is 1 and 0 from the start)."""
    for part in net.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def _resize(x: Tensor, size: torch.Size) -> Tensor:
    return F.interpolate(x, size=list(size), mode="bilinear", align_corners=False)


class Encoder(nn.Module):
    """The backbone: image (B, 3, H, W) -> low-level features (B, low, /4), high-level features (B, high, /8 or /16)."""

    def __init__(self, anatomy: Anatomy) -> None:
        super().__init__()
        self.body, self.tap = anatomy.body, anatomy.tap

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        if self.tap is None:
            low, high = self.body(image)
            return low, high
        low = x = image
        for name, part in self.body.named_children():
            x = part(x)
            if name == self.tap:
                low = x
        return low, x


class ASPP(nn.Module):
    """High-level features (B, high, h, w) -> (B, width, h, w).

    The image-pooling branch has one value per image and channel, so its BatchNorm needs at least two images to train.
    """

    def __init__(self, inputs: int, width: int, rates: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        convs = [_conv_bn_relu(inputs, width, 3, dilation=rate) for rate in rates]
        self.branches = nn.ModuleList([_conv_bn_relu(inputs, width, 1), *convs])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), _conv_bn_relu(inputs, width, 1))
        self.project = nn.Sequential(_conv_bn_relu(width * (len(rates) + 2), width, 1), nn.Dropout(dropout))

    def forward(self, x: Tensor) -> Tensor:
        # First, so that its gradient is added last: the sum of the gradients takes its layout from the first of them,
        # and that of a mean is NCHW.
        pooled = self.pool(x)
        parts = [branch(x) for branch in self.branches]
        # A copy in the layout of the other branches: joined with a stride-0 view they would all fall back to NCHW.
        parts.append(torch.empty_like(parts[0]).copy_(pooled.expand_as(parts[0])))
        out: Tensor = self.project(torch.cat(parts, dim=1))
        return out


class Decoder(nn.Module):
    """Low-level features (B, low, /4) and ASPP output (B, width, h, w) -> logits (B, classes, /4).

    The logits are computed in float32 also under autocast: bfloat16 would round a logit of 10 to steps of 0.06.
    """

    def __init__(self, low: int, low_width: int, width: int, dropout: tuple[float, float], classes: int) -> None:
        super().__init__()
        self.reduce = _conv_bn_relu(low, low_width, 1)
        self.refine = nn.Sequential(
            _conv_bn_relu(low_width + width, width, 3),
            nn.Dropout(dropout[0]),
            _conv_bn_relu(width, width, 3),
            nn.Dropout(dropout[1]),
        )
        self.classify = nn.Conv2d(width, classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        refined = self.refine(torch.cat([_resize(high, low.shape[2:]), self.reduce(low)], dim=1))
        with torch.autocast(low.device.type, enabled=False):
            out: Tensor = self.classify(refined.float())
        return out


class DeepLabV3Plus(nn.Module):
    """Normalised image (B, 3, H, W), H and W >= 16 -> logits (B, classes, H, W) in float32; to train, B >= 2.

    `freeze`: what stays as it is also in `train()`. `bn`: the running statistics of the backbone's BatchNorm layers are
    used and kept; their weight and bias still train, as is usual. `backbone`: nothing of the backbone trains. ASPP and
    decoder always do.
    """

    def __init__(self, backbone: str, classes: int, output_stride: OutputStride, freeze: Freeze = "none") -> None:
        super().__init__()
        anatomy = find(backbone).make(output_stride)
        self.backbone, self.freeze, self.output_stride = backbone, freeze, output_stride
        self.encoder = Encoder(anatomy)
        self.aspp = ASPP(anatomy.high, anatomy.width, anatomy.rates, anatomy.dropout[0])
        self.decoder = Decoder(anatomy.low, anatomy.low_width, anatomy.width, anatomy.dropout[1:], classes)
        _initialise(self.aspp)
        _initialise(self.decoder)
        if freeze == "backbone":
            self.encoder.requires_grad_(False)
        self.train()

    def forward(self, image: Tensor, features: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """`features`: what the encoder makes of `image`, where it is known already."""
        low, high = self.encoder(image) if features is None else features
        logits = self.decoder(low, self.aspp(high))
        return _resize(logits, image.shape[2:])

    def train(self, mode: bool = True) -> DeepLabV3Plus:
        super().train(mode)
        if self.freeze != "none":
            for part in self.encoder.modules():
                if isinstance(part, _BatchNorm):  # also where several processes share it
                    part.eval()
        return self


def build(backbone: str, classes: int, output_stride: OutputStride, freeze: Freeze = "none") -> DeepLabV3Plus:
    """Return a new network in train mode; its random weights come from torch's global generator, which the caller
    seeds."""
    return DeepLabV3Plus(backbone, classes, output_stride, freeze)


def parameter_groups(net: DeepLabV3Plus, lr: float, head_lr_factor: float) -> list[dict[str, Any]]:
    """For an optimiser: the backbone at `lr`, ASPP and decoder at `lr * head_lr_factor`."""
    head = [*net.aspp.parameters(), *net.decoder.parameters()]
    return [{"params": list(net.encoder.parameters()), "lr": lr}, {"params": head, "lr": lr * head_lr_factor}]
