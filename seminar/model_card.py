"""The model card of an exported network: what somebody must know who gets it without this package.

Markdown with a head of YAML, as model hubs read it (Mitchell et al., Model cards for model reporting, 2019).
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from seminar.colours import palette
from seminar.schema import background
from seminar.spec import InputError
from seminar.store import Record, Store, score

_TORCH = """```python
import numpy as np, torch
from PIL import Image, ImageOps

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
scale = {short} / min(photo.size)  # the short side that it was trained on
seen = photo.resize([max({smallest}, round(side * scale)) for side in photo.size], Image.Resampling.BILINEAR)
image = torch.from_numpy(np.array(seen)).permute(2, 0, 1)[None].float()  # RGB in 0..255
logits = torch.export.load("model.pt2").module()(image)
labels = torch.nn.functional.interpolate(logits, photo.size[::-1], mode="bilinear").argmax(1)[0]
classes = open("classes.txt", encoding="utf-8").read().splitlines()
print({{classes[label]: int((labels == label).sum()) for label in labels.unique()}})  # pixels of each class
```"""
_ONNX = """```python
import numpy as np, onnxruntime
from PIL import Image, ImageOps

photo = ImageOps.exif_transpose(Image.open("photo.jpg")).convert("RGB")
scale = {short} / min(photo.size)  # the short side that it was trained on
seen = photo.resize([max({smallest}, round(side * scale)) for side in photo.size], Image.Resampling.BILINEAR)
image = np.asarray(seen, np.float32).transpose(2, 0, 1)[None]  # RGB in 0..255
(logits,) = onnxruntime.InferenceSession("model.onnx").run(None, {{"image": image}})
labels = np.asarray(Image.fromarray(logits[0].argmax(0).astype(np.uint8)).resize(photo.size, Image.Resampling.NEAREST))
classes = open("classes.txt", encoding="utf-8").read().splitlines()
print({{classes[label]: int((labels == label).sum()) for label in np.unique(labels)}})  # pixels of each class
```"""


def repeats(store: Store, record: Mapping[str, Any]) -> list[float]:
    """Return the mIoUs (%) of all finished trainings that differ from a record in their seeds alone, its own among
    them, in ascending order. Trainings without a score are left out."""
    found: list[float] = []
    keys = store.keys()
    for key in keys:
        try:
            other = store.record(key)
        except InputError:  # a damaged record is no reason to keep a good network here
            continue
        if other is not None and _without_seeds(other["stage"]) == _without_seeds(record["stage"]):
            miou = score(other)
            found += [] if miou is None else [miou]
    return sorted(found)


def _without_seeds(stage: Any) -> Any:
    """Return a stage and its ancillaries without their seeds."""
    if not isinstance(stage, Mapping):
        return stage
    return {
        name: _without_seeds(value) if name in ("ancillary", "continues") else value
        for name, value in stage.items()
        if name != "seed"
    }


def render(about: Mapping[str, Any], record: Record, mious: Sequence[float], onnx: bool) -> str:
    """Return the text of the card. `about`: what `config.json` holds; `mious`: what `repeats` returns."""
    scores = record["metrics"].get(about["network"], {}).get("crop", {})
    onnx_lines = _ONNX.format(short=about["short_side"], smallest=about["smallest_side"])
    parts = [
        _head(about, scores, record),
        f"# {_plain(about['what'])}",
        "A network for semantic segmentation that learned from "
        f"{_labels(record)}, written by `seminar export`. Training `{about['key']}`, {about['network']}.",
        "## Classes",
        _classes(about),
        "## Scores",
        _scores(about, record, scores, mious),
        "## How to load it",
        "With torch alone (`pip install torch numpy pillow`):",
        _TORCH.format(short=about["short_side"], smallest=about["smallest_side"]),
        *(["With onnxruntime (`pip install onnxruntime numpy pillow`):", onnx_lines] if onnx else []),
        f"`weights.pt` is the plain state dict of the {about['backbone']} DeepLab-v3+ network; its input is "
        f"{about['weights_input']}. `sha256sum -c SHA256SUMS` checks the files.",
        "## How it was trained",
        _training(record),
        "## What it is not for",
        _limits(about, record, scores),
    ]
    return "\n\n".join(parts) + "\n"


def _head(about: Mapping[str, Any], scores: Mapping[str, Any], record: Record) -> str:
    head: dict[str, Any] = {
        "pipeline_tag": "image-segmentation",
        "library_name": "pytorch",
        "tags": ["semantic-segmentation", "weakly-supervised", "click-supervision", "seminar-learning"],
    }
    if scores.get("miou") is not None:
        data = str(record["settings"].get("data", "unknown")) if "settings" in record else "unknown"
        metric = {"type": "mean_iou", "name": "mIoU (%)", "value": round(scores["miou"], 2)}
        result = {"task": {"type": "image-segmentation"}, "dataset": {"type": data, "name": data}, "metrics": [metric]}
        head["model-index"] = [{"name": str(about["what"]), "results": [result]}]
    return f"---\n{yaml.safe_dump(head, sort_keys=False, allow_unicode=True).strip()}\n---"


def _labels(record: Record) -> str:
    settings = record.get("settings", {})
    losses = str(settings.get("losses", "")).split("+")
    if losses == ["ce"]:
        return "dense masks"
    kind = settings.get("annotation", "clicks")
    size = settings.get("click_size")
    if kind == "grown":
        kind = f"{settings.get('grown_source', 'clicks')}, grown to dense labels before training"
    wide = f" of {size} x {size} pixels" if kind == "clicks" and isinstance(size, int) else ""
    return f"{kind}{wide} (losses: {' + '.join(map(_plain, losses))})"


def _classes(about: Mapping[str, Any]) -> str:
    colours = palette(about["background"])
    rows = ["| index | class | colour in masks |", "|---:|---|---|"]
    for index, name in enumerate(about["classes"]):
        what = " (no object)" if index == about["background"] else ""
        rows.append(f"| {index} | {_plain(name)}{what} | `#{''.join(f'{value:02x}' for value in colours[index])}` |")
    return "\n".join(rows)


def _scores(about: Mapping[str, Any], record: Record, scores: Mapping[str, Any], mious: Sequence[float]) -> str:
    images = record.get("data", {}).get("val_images")
    if scores.get("miou") is None:
        return "None: no validation image had a mask. How good it is was not measured."
    lines = [
        f"mIoU {scores['miou']:.2f} % on {'some' if images is None else images} validation images "
        f"(short side {about['short_side']}, centre crop; last epoch, not chosen by this score)."
    ]
    if about["network"] == "student":
        if len(mious) > 1:
            lines.append(
                f"Of {len(mious)} trainings that differ in the seed alone the mean is {statistics.mean(mious):.2f} % "
                f"({mious[0]:.2f} to {mious[-1]:.2f}), standard deviation {statistics.stdev(mious):.2f} points."
            )
        else:
            lines.append("One training: how far its score depends on the seed is not known.")
    ious, recalls = scores.get("iou"), scores.get("recall")
    if isinstance(ious, list):
        rows = ["| class | IoU (%) | recall (%) |", "|---|---:|---:|"]
        for index, name in enumerate(about["classes"]):
            recall = recalls[index] if isinstance(recalls, list) else None
            rows.append(f"| {_plain(name)} | {_number(ious[index])} | {_number(recall)} |")
        lines.append("\n".join([*rows, "", "–: not among the validation images, or not recorded."]))
    return "\n\n".join(lines)


def _training(record: Record) -> str:
    data, start = record.get("data", {}), (record.get("starts") or [{}])[-1]
    environment = record["environment"]
    facts = {
        "training images": data.get("train_images"),
        "steps": record["steps"],
        "seconds": record["seconds"],
        "device": environment.get("device"),
        "torch": environment.get("torch"),
        "commit of the code": start.get("commit") or environment.get("commit"),
        "recipe": record["recipe"],
        "fingerprint of the data": record["stage"].get("data_fingerprint"),
        "finished": record.get("finished"),
    }
    rows = [
        "| | |",
        "|---|---|",
        *(f"| {name} | {_plain(value)} |" for name, value in facts.items() if value is not None),
    ]
    settings = " ".join(f"{name}={value}" for name, value in record.get("settings", {}).items())
    notes = [f"- {_plain(note)}" for note in record.get("notes", [])]
    whole = f"All settings:\n\n```\n{settings.replace('```', '')}\n```"
    return "\n\n".join(["\n".join(rows), *(["\n".join(notes)] if notes else []), whole])


def _limits(about: Mapping[str, Any], record: Record, scores: Mapping[str, Any]) -> str:
    lines = [
        f"- It gives every pixel one of its {len(about['classes'])} classes, also where none of them is.",
        "- Pictures of another kind than those that it was trained on were not tried.",
        "- Its labels come without a measure of doubt; do not let it decide alone where a mistake harms somebody.",
    ]
    weak = [name for name, iou in zip(about["classes"], scores.get("iou") or []) if iou is not None and iou < 30]
    if weak:
        lines.append(f"- Below 30 % IoU on the validation images: {', '.join(map(_plain, weak))}.")
    if background(record) is not None and about["background"] is not None and scores.get("background_recall") is None:
        lines.append("- How well it knows the background was not measured.")
    lines.append("- Nothing is said here about the rights to its training images: ask whoever trained it.")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _plain(value: object) -> str:
    """Return a text of others for Markdown: nothing in it marks up, and it stays in its cell and its line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", " ".join(str(value).split()))
