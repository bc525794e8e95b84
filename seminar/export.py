"""Take a finished training elsewhere: a plain state dict, or ONNX."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from seminar import schema
from seminar.predict import Predictor, predictor
from seminar.spec import InputError
from seminar.store import Store, write_atomic
from seminar.views import IMAGENET_MEAN, IMAGENET_STD, normalise

MINIMUM = 32
"""The smallest height and width in pixels that an exported network takes."""
TOLERANCE = 1e-3
"""How far the logits of the two may lie apart, as a share of the largest."""


class Deployed(nn.Module):
    """`image` (B, 3, H, W) float32, RGB in 0..255 -> `logits` (B, classes, H, W)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(normalise(image))
        return logits


def export(store: Store, key: str, out: Path | None, onnx: bool, teacher: bool = False) -> list[str]:
    """Write the network of a finished training and, beside it, `.json` with what is needed to use it; returns what to
    tell. `out`: default `<key>.onnx` or `<key>.pt`. Raises `InputError` where there are no weights, or an exported
    network does not do what the original does."""
    predict = predictor(store, key, "cpu", teacher)
    suffix = ".onnx" if onnx else ".pt"
    target = out or Path(key + suffix)
    if target.suffix != suffix:
        raise InputError(f"--out {target}: must end in {suffix}{'' if onnx else ', or give --onnx for ONNX'}")
    sidecar = target.with_suffix(".json")
    if not target.parent.is_dir():
        raise InputError(f"{target.parent}: no such folder")
    for path in (target, sidecar):
        if path.exists() and not _exported(sidecar):
            raise InputError(f"{path}: exists already, and is not of `seminar export`; name another file with --out")
    stage = store.stage(key)
    about = {
        "key": key,
        "what": stage.title,
        "network": "teacher" if teacher else "student",
        "backbone": stage.backbone,
        "output_stride": stage.output_stride,
        "classes": list(predict.classes),
        "short_side": stage.crop,
        "input": f"image: (batch, 3, height, width) float32, RGB in 0..255, height and width from {MINIMUM}"
        if onnx
        else f"(batch, 3, height, width) float32, RGB / 255, less {IMAGENET_MEAN}, over {IMAGENET_STD}",
        "output": "logits: (batch, classes, height, width) float32; the class is the arg-max over axis 1",
    }
    lines = [_write_onnx(predict, target, about)] if onnx else [_write_weights(predict, target)]
    write_atomic(sidecar, lambda file: file.write((json.dumps(about, indent=2, ensure_ascii=False) + "\n").encode()))
    return [*lines, f"wrote {target} and {sidecar}"]


def _exported(sidecar: Path) -> bool:
    """Return whether a file is what `export` writes beside a network."""
    try:
        about = schema.parse(sidecar.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and {"key", "network", "classes", "output"} <= about.keys()


def _write_weights(predict: Predictor, target: Path) -> str:
    weights = predict.net.state_dict()
    write_atomic(target, lambda file: torch.save(weights, file))
    return f"{sum(value.numel() for value in weights.values()):,} numbers of {len(weights)} tensors"


def _write_onnx(predict: Predictor, target: Path, about: dict[str, Any]) -> str:
    """Export, and compare with the original at another batch size and shape than the exporter saw."""
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  the exporter needs it
    except ImportError as error:
        raise InputError(f"{error.name} is not installed; pip install 'seminar-learning[export]'") from None
    net = Deployed(predict.net).eval()
    sizes = {"height": torch.export.Dim("height", min=MINIMUM), "width": torch.export.Dim("width", min=MINIMUM)}
    with _quietly():
        program = torch.onnx.export(
            net,
            (torch.zeros(2, 3, 2 * MINIMUM, 3 * MINIMUM),),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch"), 2: sizes["height"], 3: sizes["width"]},),
            input_names=["image"],
            output_names=["logits"],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    for name, value in about.items():
        model.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    content = model.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    image = 255 * torch.rand((1, 3, 5 * MINIMUM + 3, 4 * MINIMUM + 1), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        original = net(image)
    found = torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
    apart = float((found - original).abs().max() / original.abs().max().clamp_min(1e-12))
    if not apart <= TOLERANCE:
        raise InputError(f"{target}: not written: its logits are {apart:.1%} off those of the original")
    write_atomic(target, lambda file: file.write(content))
    return f"checked with onnxruntime {onnxruntime.__version__}: logits within {apart:.1e} of the largest"


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the exporter's advice to its developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)
