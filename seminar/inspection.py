"""What is in a data set, before anything is trained on it: counts, doubts, and a contact sheet."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy import ndimage
from torch import Tensor
from tqdm import tqdm

from seminar import views
from seminar.colours import palette
from seminar.data import NO_SCORE, PADDING, Example, Split, datasets
from seminar.data.pictures import colour
from seminar.recipes import one, open_data
from seminar.spec import InputError, Scalar

SHOWN = 20
"""Images of one kind that are named."""
SHEET = 24
"""Training images on a contact sheet."""
_THUMB, _GAP, _NAME = 180, 6, 14


@dataclass
class Contents:
    """What the images of a data set hold; counts of labels are by class index, and only of training images."""

    classes: tuple[str, ...]
    background: int | None = 0
    """Index of the class that is no object, or None."""
    fingerprint: str = ""
    wrong: list[str] = field(default_factory=list)
    """What cannot be used, a line each; where there is any, the counts are not all of it."""
    images: Counter[Split] = field(default_factory=Counter)
    masked: Counter[Split] = field(default_factory=Counter)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    clicks: Counter[int] = field(default_factory=Counter)
    clicked: Counter[int] = field(default_factory=Counter)
    misplaced: Counter[int] = field(default_factory=Counter)
    scribbles: Counter[int] = field(default_factory=Counter)
    boxes: Counter[int] = field(default_factory=Counter)
    """Boxes of a file."""
    pixels: Counter[int] = field(default_factory=Counter)
    without_click: int = 0
    without_foreground: int = 0
    without_background: list[str] = field(default_factory=list)
    """Names of the images without a click on the background, where there is one."""
    drawn: list[int] = field(default_factory=list)
    """Labelled pixels of each training view that was drawn."""
    sheet: list[Image.Image] = field(default_factory=list)
    annotation: str = "clicks"
    """What the training views hold."""
    doubted: list[str] = field(default_factory=list)
    """What the data set itself doubts."""

    def lines(self) -> list[str]:
        """Return the contents as `data check` prints them: sizes, a line for each class, and how much is labelled."""
        widths, heights = zip(*self.sizes)
        lines = [
            *(f"{self.images[split]} images {what}, {self.masked[split]} of them with a mask" for split, what in _USES),
            f"sizes, as they are used: {min(widths)} to {max(widths)} x {min(heights)} to {max(heights)} pixels",
            "",
            f"{'class':<20} {'images':>7} {'clicks':>7} {'on another':>11} {'scribbles':>10} {'% of masks':>11}",
        ]
        for cls, name in enumerate(self.classes):
            share = f"{100 * self.pixels[cls] / self.pixels.total():.1f}" if self.pixels else "-"
            wrong = self.misplaced[cls] if self.masked["train"] else "-"
            counts = f"{self.clicked[cls]:>7} {self.clicks[cls]:>7} {wrong:>11} {self.scribbles[cls]:>10} {share:>11}"
            lines.append(f"{name:<20.20} {counts}")
        empty = sum(count == 0 for count in self.drawn)
        mean = sum(self.drawn) / max(1, len(self.drawn))
        before = self.clicks.total() / max(1, self.images["train"])
        each = f"labelled pixels of an image before augmentation, one for each click: {before:.2f} on average"
        return [
            *lines,
            "",
            *self._grounds(),
            *([f"boxes: {self.boxes.total()}"] if self.boxes else []),
            *([each] if self.annotation == "clicks" else []),
            f"labelled pixels of a training view, drawn as in an epoch: {mean:.2f} on average; {empty} of "
            f"{len(self.drawn)} views have none ({100 * empty / max(1, len(self.drawn)):.1f} %)",
            f"fingerprint: {self.fingerprint}",
        ]

    def _grounds(self) -> list[str]:
        """Return how many clicks are on objects and on the background, and how many images have none."""
        if self.background is None:
            return [
                f"clicks: {self.clicks.total()}; every class is an object, there is no background",
                f"images to train on without a click: {self.without_click}",
            ]
        below = self.clicks[self.background]
        return [
            f"clicks: {self.clicks.total() - below} on objects, {below} on the background",
            f"images to train on without a click on an object: {self.without_foreground}, on the background: "
            f"{len(self.without_background)}",
        ]

    def doubts(self) -> list[str]:
        """Return what can be trained on but may not be meant."""
        found = [
            *self.doubted,
            *(
                f"class {name!r} has no label to learn from"
                for cls, name in enumerate(self.classes)
                if not self.clicks[cls] and not self.scribbles[cls] and not self.boxes[cls]
                if cls != self.background or not self.boxes  # what is outside all boxes
            ),
        ]
        if not self.masked["val"] and NO_SCORE not in found:
            found.append(NO_SCORE)
        if self.drawn and not any(self.drawn):
            found.append(views.no_label(len(self.drawn)))
        if self.without_background and self.clicks[self.background or 0]:
            names = ", ".join(self.without_background[:SHOWN])
            more = f" and {len(self.without_background) - SHOWN} more" if self.without_background[SHOWN:] else ""
            found.append(f"images to train on without a click on the background: {names}{more}")
        if self.masked["train"] and self.misplaced.total() > 0.1 * self.clicks.total():
            found.append(f"{self.misplaced.total()} clicks lie on another class than their own: are x and y swapped?")
        return found


_USES: tuple[tuple[Split, str], ...] = (("train", "to train on"), ("val", "to validate on"))


def _every_problem(given_settings: Mapping[str, Scalar]) -> list[str]:
    """Return everything that cannot be used in a data set that can list it; [] for others."""
    name = str(given_settings.get("data", given_settings.get("profile")))  # the profile of such a data set has its name
    lists_all = getattr(datasets[name].make, "problems", None) if name in [*datasets] else None
    if lists_all is None:
        return []
    entry = datasets[name]
    given = {name.removeprefix("data_"): value for name, value in given_settings.items() if name.startswith("data_")}
    paths = {name: Path(str(value)) for name, value in given.items() if name in entry.paths}
    if any(required and name not in paths for name, required in entry.paths.items()):
        return []
    settings = entry.coerce("data_", {name: value for name, value in given.items() if name not in paths})
    found: list[str] = lists_all(**dict(settings), **paths)
    return found


def contents(given_settings: Mapping[str, Scalar]) -> Contents:
    """Read every image of the data set that a training with these settings uses, and draw one epoch of its views."""
    try:
        cell = one({"losses": "pce", **given_settings})
    except InputError as error:
        return Contents((), wrong=_every_problem(given_settings) or [str(error)])
    dataset = open_data(cell.stage, cell.host)
    found = Contents(dataset.classes, dataset.background, fingerprint=dataset.fingerprint())
    found.annotation = cell.stage.annotation or found.annotation
    found.doubted = getattr(dataset, "doubts", list)()
    view = views.training_view(cell.stage, dataset.background)
    last = len(dataset.split("train")) - 1
    chosen = {round(number * last / (SHEET - 1)) for number in range(SHEET)}
    for split, place, example in _examples(dataset, found.wrong):
        found.images[split] += 1
        known = example.mask < PADDING
        found.masked[split] += bool(known.any())
        found.sizes.append((example.image.shape[2], example.image.shape[1]))
        if split == "val":
            continue
        found.pixels.update(_counted(example.mask[known]))
        found.clicks.update(click.cls for click in example.clicks)
        found.clicked.update({click.cls for click in example.clicks})
        found.scribbles += _strokes(example)
        if "boxes" in dict(cell.host.data_paths):
            found.boxes.update(box.cls for box in example.boxes or ())
        for click in example.clicks:
            truth = int(example.mask[int(click.y), int(click.x)])
            found.misplaced[click.cls] += truth < PADDING and truth != click.cls
        found.without_click += not example.clicks
        found.without_foreground += not any(click.cls != found.background for click in example.clicks)
        if found.background is not None and not any(click.cls == found.background for click in example.clicks):
            found.without_background.append(example.id)
        torch.manual_seed(views.mix(cell.stage.seed, 0, place))
        drawn = view(example)
        if "labels" in drawn:
            found.drawn.append(int((drawn["labels"] < PADDING).sum()))
        if place in chosen:
            found.sheet.append(_thumbnail(example, found.background))
    if found.wrong:
        # Once each: what is found while measuring the whole is found again with every image
        found.wrong = _every_problem(given_settings) or list(dict.fromkeys(found.wrong))
    return found


def _examples(dataset: Any, wrong: list[str]) -> Iterator[tuple[Split, int, Example]]:
    """Yield the examples that can be read; `wrong` gets a line for each other one."""
    total = sum(len(dataset.split(split)) for split, _ in _USES)
    with tqdm(total=total, desc="reading", unit="image", disable=not sys.stderr.isatty()) as bar:
        for split, _ in _USES:
            examples = dataset.split(split)
            for place in range(len(examples)):
                try:
                    yield split, place, examples[place]
                except InputError as error:
                    wrong.append(str(error))
                bar.update()


def _strokes(example: Example) -> Counter[int]:
    """Return scribbles by class. Those that were drawn as pixels come as dots, of which all that touch are one."""
    found = Counter(scribble.cls for scribble in example.scribbles if len(scribble.points) > 1)
    dots = [(*scribble.points[0], scribble.cls) for scribble in example.scribbles if len(scribble.points) == 1]
    for cls in {cls for *_, cls in dots}:
        pixels = np.array([(int(y), int(x)) for x, y, other in dots if other == cls])
        pixels -= pixels.min(0)
        drawn = np.zeros(pixels.max(0) + 1, bool)
        drawn[tuple(pixels.T)] = True
        found[cls] += ndimage.label(drawn, np.ones((3, 3)))[1]
    return found


def _counted(labels: Tensor) -> dict[int, int]:
    return {cls: count for cls, count in enumerate(labels.long().bincount().tolist()) if count}


def _thumbnail(example: Example, background: int | None) -> Image.Image:
    """Return the image with its clicks and scribbles, beside it the mask where there is one, below it its name."""
    picture = Image.fromarray(example.image.permute(1, 2, 0).numpy())
    scale = _THUMB / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    picture = picture.resize(size)
    draw, colours = ImageDraw.Draw(picture), palette(background)
    for scribble in example.scribbles:
        if len(scribble.points) == 1:
            ((x, y),) = scribble.points
            draw.rectangle((x * scale - 1, y * scale - 1, x * scale + 1, y * scale + 1), fill=colours[scribble.cls])
        draw.line([(x * scale, y * scale) for x, y in scribble.points], fill=colours[scribble.cls], width=3)
    for click in example.clicks:
        x, y = click.x * scale, click.y * scale
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=colours[click.cls], outline="white")
    masked = bool((example.mask < PADDING).any())
    whole = Image.new("RGB", ((1 + masked) * size[0], size[1] + _NAME), "white")
    whole.paste(picture, (0, 0))
    if masked:
        whole.paste(colour(example.mask, background).resize(size, Image.Resampling.NEAREST), (size[0], 0))
    draw, name = ImageDraw.Draw(whole), "".join(sign if sign.isprintable() else "?" for sign in example.id)
    while len(name) > 1 and draw.textlength(name) > whole.width:
        name = "…" + name[2:]  # names of one folder differ at their end
    draw.text((0, size[1]), name, fill="black")
    return whole


def contact_sheet(found: Contents) -> Image.Image:
    """Return training images, evenly spaced, and below them the colours of the classes."""
    wide = max(picture.width for picture in found.sheet) + _GAP
    columns = max(1, 1100 // wide)
    rows = -(-len(found.sheet) // columns)
    per_line = max(1, columns * wide // 150)
    legend = 18 * -(-len(found.classes) // per_line) + _GAP
    high = _THUMB + _NAME + _GAP
    sheet = Image.new("RGB", (columns * wide, rows * high + legend), "white")
    for number, picture in enumerate(found.sheet):
        sheet.paste(picture, (number % columns * wide, number // columns * high))
    draw = ImageDraw.Draw(sheet)
    for cls, name in enumerate(found.classes):
        x, y = cls % per_line * 150, rows * high + cls // per_line * 18
        draw.rectangle((x, y + 3, x + 11, y + 14), fill=palette(found.background)[cls], outline="black")
        draw.text((x + 16, y + 2), name, fill="black")
    return sheet
