"""Take a finished training elsewhere: a folder with its network, a model card and checksums, for people without this
package.

README.md      the model card: what it is, how good it was measured to be, how to load it
model.pt2      the network as a program of torch.export: needs torch alone
weights.pt     its weights as a plain state dict
model.onnx     the network for onnxruntime and others, with --onnx
config.json    what is needed to use it, for programs
classes.txt    names by class index
SHA256SUMS     for `sha256sum -c SHA256SUMS`
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch
from torch import Tensor, nn

from seminar import model_card, schema
from seminar.colours import IMAGENET_MEAN, IMAGENET_STD
from seminar.data.files import read_text
from seminar.predict import predictor
from seminar.spec import InputError
from seminar.store import Store, write_atomic
from seminar.views import normalise

MINIMUM = 32
"""The smallest height and width in pixels that an exported network takes."""
TOLERANCE = 1e-3
"""How far the logits of the two may lie apart, as a share of the largest."""
CONFIG = "config.json"
SUMS = "SHA256SUMS"
Program = torch.export.ExportedProgram


class Deployed(nn.Module):
    """`image` (B, 3, H, W) float32, RGB in 0..255 -> `logits` (B, classes, H, W)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.net(normalise(image))
        return logits


def export(store: Store, key: str, out: Path | None, onnx: bool, teacher: bool = False) -> list[str]:
    """Write the folder `out` (default: `<key>`) of a finished training; returns lines for the user.

    A folder that this has written before is replaced as a whole. Raises `InputError` where there are no weights, where
    an exported network does not do what the original does, or where something else would be overwritten; then nothing
    is written.
    """
    out = out or Path(key)
    if not out.resolve().parent.is_dir():
        raise InputError(f"{out.parent}: no such folder; make it first, or name another place with --out")
    if (out.exists() or out.is_symlink()) and not _exported(out):
        raise InputError(f"{out}: exists already, and is not of `seminar export`; name another folder with --out")
    changed = _changed(out)
    if changed:
        raise InputError(
            f"{out / changed[0]}: was changed after `seminar export` wrote it, and would be overwritten; name another "
            f"folder with --out, or move {out} away"
        )
    if onnx:
        _require_onnx()
    predict = predictor(store, key, "cpu", teacher)
    stage, record = store.stage(key), store.record(key)
    assert record is not None
    about: dict[str, Any] = {
        "key": key,
        "what": stage.title,
        "network": "teacher" if teacher else "student",
        "backbone": stage.backbone,
        "output_stride": stage.output_stride,
        "classes": list(predict.classes),
        "background": predict.background,
        "short_side": stage.crop,
        "smallest_side": MINIMUM,
        "input": f"image: (batch, 3, height, width) float32, RGB in 0..255, height and width from {MINIMUM}",
        "weights_input": f"(batch, 3, height, width) float32, RGB / 255, less {IMAGENET_MEAN}, over {IMAGENET_STD}",
        "output": "logits: (batch, classes, height, width) float32; the class is the arg-max over axis 1",
    }
    target = out.resolve()  # of a link what it leads to, so that the link stays
    made = target.with_name(f".{target.name}-{uuid4().hex[:8]}")
    try:
        made.mkdir()
        lines = _write_networks(predict.net, made, about, onnx)
        card = model_card.render(about, record, model_card.repeats(store, record), onnx)
        texts = {
            "README.md": card,
            CONFIG: json.dumps(about, indent=2, ensure_ascii=False) + "\n",
            "classes.txt": "\n".join(predict.classes) + "\n",
        }
        for name, text in texts.items():
            (made / name).write_text(text, encoding="utf-8")
        sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(made.iterdir())}
        (made / SUMS).write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()), encoding="utf-8")
        _put(made, target)
    except BaseException as error:
        shutil.rmtree(made, ignore_errors=True)
        if isinstance(error, OSError) and error.errno is not None:  # the names in it are gone by now, or none of ours
            raise OSError(error.errno, error.strerror, str(out)) from error
        raise
    return [*lines, f"wrote {out}: {', '.join([*sums, SUMS])}"]


def _exported(folder: Path) -> bool:
    """Return whether a folder is one that `export` writes, with nothing else in it."""
    names = {"README.md", "model.pt2", "weights.pt", "model.onnx", CONFIG, "classes.txt", SUMS}
    try:
        about = schema.parse((folder / CONFIG).read_bytes())
        only = {path.name for path in folder.iterdir()} <= names
    except (OSError, ValueError):
        return False
    return only and isinstance(about, dict) and {"key", "network", "classes", "output"} <= about.keys()


def _changed(folder: Path) -> list[str]:
    """Return the files in a folder of `export` whose contents are not those of its checksums: somebody has edited them,
    or it was not copied as a whole. [] where there is no such folder."""
    if not folder.exists():
        return []
    lines = read_text(folder / SUMS).splitlines() if (folder / SUMS).exists() else []
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    return [
        path.name
        for path in sorted(folder.iterdir())
        if path.name != SUMS and hashlib.sha256(path.read_bytes()).hexdigest() != sums.get(path.name)
    ]


def _put(made: Path, out: Path) -> None:
    """Move a finished folder to its place, and what was there away."""
    before = made.with_name(f"{made.name}-before")
    if out.exists():
        os.replace(out, before)
    try:
        os.replace(made, out)
    except BaseException:
        if before.exists():
            os.replace(before, out)
        raise
    shutil.rmtree(before, ignore_errors=True)


def _write_networks(net: nn.Module, folder: Path, about: dict[str, Any], onnx: bool) -> list[str]:
    """Write the network in each form, and compare it with the original at another batch size and shape than the
    exporter saw."""
    weights = net.state_dict()
    write_atomic(
        folder / "weights.pt", lambda file: torch.save(weights, file)
    )  # names a full disk, torch alone does not
    deployed = Deployed(net).eval()
    sizes = {"height": torch.export.Dim("height", min=MINIMUM), "width": torch.export.Dim("width", min=MINIMUM)}
    shapes = ({0: torch.export.Dim("batch"), 2: sizes["height"], 3: sizes["width"]},)
    example = (torch.zeros(2, 3, 2 * MINIMUM, 3 * MINIMUM),)
    image = 255 * torch.rand((1, 3, 5 * MINIMUM + 3, 4 * MINIMUM + 1), generator=torch.Generator().manual_seed(0))
    with _quietly():
        try:
            program = torch.export.export(deployed, example, dynamic_shapes=shapes)
            content = io.BytesIO()
            torch.export.save(program, content)
        except (RuntimeError, AssertionError, ValueError) as error:
            raise InputError(
                f"{about['backbone']}: torch.export cannot write this network for pictures of any size "
                f"({' '.join(str(error).split())[:200]}); its weights are student.pt and teacher.pt of the training; "
                "`seminar predict` takes them"
            ) from None
    (folder / "model.pt2").write_bytes(content.getbuffer())
    with torch.inference_mode():
        original = deployed(image)
        found = torch.export.load(folder / "model.pt2").module()(image)
    lines = [
        f"{sum(value.numel() for value in weights.values()):,} numbers of {len(weights)} tensors",
        f"model.pt2: checked with torch {torch.__version__}: {_apart(found, original, 'model.pt2')}",
    ]
    if onnx:
        lines.append(_write_onnx(program, folder / "model.onnx", about, image, original))
    return lines


def _apart(found: Tensor, original: Tensor, name: str) -> str:
    """Return how far logits are from those of the original. Raises `InputError` where it is too far."""
    apart = float((found - original).abs().max() / original.abs().max().clamp_min(1e-12))
    if not apart <= TOLERANCE:
        raise InputError(f"{name}: not written: its logits are {apart:.1%} off those of the original")
    return f"logits within {apart:.1e} of the largest"


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  the exporter needs it
    except ImportError as error:
        what = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) else f"--onnx: {error}"
        raise InputError(f"{what}; pip install 'seminar-learning[export]'") from None


def _write_onnx(program: Program, target: Path, about: dict[str, Any], image: Tensor, original: Tensor) -> str:
    import onnx
    import onnxruntime

    with _quietly():
        exported = torch.onnx.export(
            program, dynamo=True, input_names=["image"], output_names=["logits"], verbose=False
        )
    assert exported is not None
    model = exported.model_proto
    for name, value in about.items():
        model.metadata_props.add(key=name, value=value if isinstance(value, str) else json.dumps(value))
    content = model.SerializeToString()
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(["logits"], {"image": image.numpy()})[0])
    apart = _apart(found, original, target.name)
    target.write_bytes(content)
    return f"model.onnx: checked with onnxruntime {onnxruntime.__version__}: {apart}"


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence what torch's exporters log and warn of: it is meant for their developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
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
