"""Use a finished training: label your own pictures."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchvision.transforms.v2.functional as tvf
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from seminar import machine, schema
from seminar.colours import palette
from seminar.data.files import IMAGES, check_name, find_images, find_linked, find_unreadable, read_image, read_text
from seminar.data.pictures import colour, legend
from seminar.recipes import pick_device
from seminar.spec import InputError
from seminar.store import Store, write_atomic, write_json
from seminar.text import brief, spreadsheet
from seminar.views import normalise
from seminar.weights import finished_network

OVERLAP = 1 / 3
"""Share of a window that sliding windows have in common with the next."""
AREAS = "areas.csv"
COLUMNS = ("image", "class", "pixels", "percent")
CLASSES = "classes.txt"
ORIGIN = "predictions.json"
"""Says which network made what lies in a folder, how, and from which pictures."""
SOURCES = "pictures"
"""The key of the pictures in it."""


@dataclass(frozen=True)
class Predictor:
    """A trained network on `device`. `background`: the class that is no object, or None. `short`: the short side in
    pixels at which it sees a picture. `window`: side of the windows that are slid over it; None: it sees the whole at
    once."""

    net: nn.Module
    classes: tuple[str, ...]
    background: int | None
    device: torch.device
    short: int
    window: int | None = None
    origin: str = ""
    """Which network of which training it is."""

    @property
    def identity(self) -> dict[str, object]:
        """Return what decides its predictions, but for the picture."""
        return {"network": self.origin, "classes": list(self.classes), "short": self.short, "window": self.window}

    @torch.inference_mode()
    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """(H, W) classes of an (H, W, 3) RGB picture of any size, at its own size."""
        whole = torch.from_numpy(image).permute(2, 0, 1)
        small = tvf.resize(whole, [self.short], antialias=True)[None].to(self.device)
        logits = self._slide(small) if self.window is not None else self._logits(small)
        # Class by class: all logits at the size of a large photo would need gigabytes.
        size = image.shape[:2]
        best = torch.full((1, 1, *size), -torch.inf)
        labels = torch.zeros((1, 1, *size), dtype=torch.uint8)
        for cls in range(len(self.classes)):
            here = F.interpolate(logits[:, cls : cls + 1], size=size, mode="bilinear", align_corners=False).cpu()
            better = here > best
            labels[better] = cls
            best = torch.where(better, here, best)
        return labels[0, 0].numpy()

    def _logits(self, view: Tensor) -> Tensor:
        logits: Tensor = self.net(normalise(view.float()))
        return logits.float()

    def _slide(self, small: Tensor) -> Tensor:
        """Return the mean of the logits of all windows that hold a pixel."""
        assert self.window is not None
        height, width = small.shape[-2:]
        total = torch.zeros((1, len(self.classes), height, width), device=self.device)
        count = torch.zeros((1, 1, height, width), device=self.device)
        for top in _starts(height, self.window):
            for left in _starts(width, self.window):
                part = (..., slice(top, top + self.window), slice(left, left + self.window))
                total[part] += self._logits(small[part])
                count[part] += 1
        return total / count


def _starts(length: int, window: int) -> list[int]:
    """Return where windows begin that cover `length`, the last one flush with its end."""
    if length <= window:
        return [0]
    step = max(1, round(window * (1 - OVERLAP)))
    return [*range(0, length - window, step), length - window]


def predictor(
    store: Store, key: str, device: str = "auto", teacher: bool = False, short: int | None = None, sliding: bool = False
) -> Predictor:
    """Return the network of a finished training. Raises `InputError` where it is not finished, or has no weights or no
    teacher."""
    record = store.record(key)
    if record is None:
        raise InputError(f"{store.folder(key)}: is not finished ({_why_unfinished(store, key)}")
    stage = store.stage(key)
    if teacher and not stage.has_teacher:
        raise InputError(f"{store.folder(key)}: was trained without a teacher")
    classes = tuple(record["classes"])
    here = pick_device(device)
    if here.type == "cuda":
        machine.prepare(here, "fp32")  # whatever it was trained in: every digit, on every card
    role: Literal["teacher", "student"] = "teacher" if teacher else "student"
    net = finished_network(stage, len(classes), store.folder(key), role, here)
    origin = f"{role} of {key}, weights {record.get('weights_sha256', {}).get(role, 'unknown')[:12]}"
    window = stage.crop if sliding else None
    return Predictor(net, classes, schema.background(record), here, short or stage.crop, window, origin)


def _why_unfinished(store: Store, key: str) -> str:
    """Return the end of a message about a training that is not finished, from within a bracket on."""
    status = store.status(key)
    if status == "missing":
        return (
            f"missing): nothing was trained with exactly these settings in {store.root}; `seminar status` lists what "
            "was, `seminar train` trains it"
        )
    if status == "running":
        return "running): wait for its end"
    if status == "failed":
        failure = store.failure(key)
        return f"failed: {failure['error'] if failure else 'unknown'}); the command that trained it tries again"
    return f"stopped after {len(store.curve(key))} epochs); the command that trained it goes on"


def pictures(places: Sequence[Path], out: Path) -> dict[str, Path]:
    """Return the pictures named or lying in the folders named, by the name of their results in `out`. Of a folder as
    one trains on it these are its `images/`; neither its masks nor what lies in `out` is labelled. Raises `InputError`
    where there is none, or where results would lie among other files."""
    if out.exists() and not (out.is_dir() and (ORIGIN in (there := os.listdir(out)) or not there)):
        raise InputError(f"--out {out}: holds something else than predictions; name a new folder")
    found: dict[str, Path] = {}
    for place in places:
        if place.is_dir():
            folder = place / "images" if (place / "images").is_dir() else place
            inside = [path for path in find_images(folder) if not path.resolve().is_relative_to(out.resolve())]
            if not inside and unreadable([place]):
                raise InputError(unreadable([place])[0])
            if not inside:
                raise InputError(f"{folder}: no image here ({', '.join(IMAGES)})")
        elif place.resolve().is_relative_to(out.resolve()):
            raise InputError(f"{place}: lies in {out}, where the results go; name another folder with --out")
        elif place.exists():
            folder, inside = place.parent, [check_name(place)]
        else:
            raise InputError(f"{place}: no such file or folder")
        for path in inside:
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found and found[name].resolve() != path.resolve():
                raise InputError(
                    f"{path}: its results would have the name of those of {found[name]}; rename one of the two, or "
                    "label them with two calls and another --out"
                )
            found.setdefault(name, path)
    return found


def unreadable(places: Sequence[Path]) -> list[str]:
    """Return a line for each picture in these folders whose format nothing here reads."""
    return [
        f"{path}: {path.suffix[1:].upper()} pictures cannot be read; convert it to JPEG or PNG"
        for folder in _folders(places)
        for path in find_unreadable(folder)
    ]


def linked(places: Sequence[Path]) -> list[str]:
    """Return a line for each link to a folder in these folders, which is not followed."""
    return [
        f"note: {path}: a link to a folder is not looked into; name it as well to label what it holds"
        for folder in _folders(places)
        for path in find_linked(folder)
    ]


def _folders(places: Sequence[Path]) -> list[Path]:
    """Return the folders among these places, of those one trains on their `images/`."""
    return [place / "images" if (place / "images").is_dir() else place for place in places if place.is_dir()]


def prepare_output_folder(predict: Predictor, images: Mapping[str, Path], out: Path) -> dict[str, str]:
    """Make the folder for masks and note in it which network they are of; returns the pictures of the masks that are
    there, by name, as `_source` writes them.

    Raises `InputError` where it holds masks of another network, or of the same one used in another way (`--short`,
    `--sliding`): the two would be mixed up; and where a mask of another picture would be overwritten, as cameras give
    one name again and again.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out}: cannot be made ({error.strerror})") from None
    path = out / ORIGIN
    sources: dict[str, str] = {}
    if path.exists():
        try:
            known = schema.parse(path.read_bytes())
        except (OSError, ValueError):
            known = None
        noted = known.pop(SOURCES, {}) if isinstance(known, dict) else {}
        if known != predict.identity:
            other = known.get("network", "?") if isinstance(known, dict) else "?"
            how = "" if other != predict.origin else ", seen in another way (--short, --sliding)"
            raise InputError(
                f"--out {out}: holds the masks of {brief(str(other))}{how}; name another folder, or move it away"
            )
        sources = {str(name): str(source) for name, source in noted.items()} if isinstance(noted, dict) else {}
    for name, image in images.items():
        before = Path(os.path.normpath(out.resolve() / sources.get(name, _source(image, out))))
        if before != image.resolve() and before.exists():  # else it was moved here, as far as one can know
            raise InputError(
                f"{image}: {out / name}.png is the mask of {before} and would be overwritten; name another folder with "
                "--out"
            )
    write_json(path, {**predict.identity, SOURCES: sources})
    write_atomic(out / CLASSES, lambda file: file.write(("\n".join(predict.classes) + "\n").encode()))
    return sources


def _source(image: Path, out: Path) -> str:
    """Return where a picture lies, seen from the folder of its results, so that both can be moved together."""
    return Path(os.path.relpath(image.resolve(), out.resolve())).as_posix()


def label(predict: Predictor, images: dict[str, Path], out: Path) -> Iterator[str]:
    """Write `NAME.png` (palette mask), `NAME_overlay.jpg` with a legend and, for all, `areas.csv` and `classes.txt` to
    `out`; yields a line for each picture that could not be read. Raises as `prepare_output_folder` does."""
    sources = prepare_output_folder(predict, images, out)
    rows = _areas(out / AREAS)
    try:
        for name, path in tqdm(images.items(), desc="pictures", disable=not sys.stderr.isatty()):
            try:
                image = read_image(path, upright=True)
            except InputError as error:
                yield str(error)
                continue
            try:
                labels = predict(image)
            except RuntimeError as error:
                if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
                    raise
                yield f"{path}: at a short side of {predict.short} pixels memory does not suffice; see --short"
                continue
            rows[spreadsheet(name)] = _write(predict, out, name, image, labels)
            sources[name] = _source(path, out)
    finally:  # also of what was labelled before somebody stopped it
        write_json(out / ORIGIN, {**predict.identity, SOURCES: sources})
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([COLUMNS, *(row for lines in rows.values() for row in lines)])
        write_atomic(out / AREAS, lambda file: file.write(table.getvalue().encode()))


def _write(
    predict: Predictor, out: Path, name: str, image: NDArray[np.uint8], labels: NDArray[np.uint8]
) -> list[list[str]]:
    """Write the mask and the overlay of one picture; return its rows of `areas.csv`."""
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(labels).convert("P")
    mask.putpalette([value for rgb in palette(predict.background) for value in rgb])
    mixed = _overlay(predict, image, labels)
    write_atomic(out / f"{name}.png", lambda file: mask.save(file, "PNG"))
    write_atomic(out / f"{name}_overlay.jpg", lambda file: mixed.save(file, "JPEG"))
    counts = np.bincount(labels.ravel(), minlength=len(predict.classes)).tolist()
    return [
        [spreadsheet(name), spreadsheet(predict.classes[cls]), str(count), f"{100 * count / labels.size:.3f}"]
        for cls, count in enumerate(counts)
        if count
    ]


def _overlay(predict: Predictor, image: NDArray[np.uint8], labels: NDArray[np.uint8]) -> Image.Image:
    """Return the photo with the colours of its classes, and below it a legend of them. The background stays as it
    is."""
    photo = Image.fromarray(image)
    mixed = Image.blend(photo, colour(torch.from_numpy(labels), predict.background), 0.5)
    if predict.background is not None:
        mixed.paste(photo, mask=Image.fromarray(np.where(labels == predict.background, 255, 0).astype(np.uint8)))
    colours = palette(predict.background)
    found = [cls for cls in np.unique(labels).tolist() if cls != predict.background]
    below = legend([(predict.classes[cls], colours[cls]) for cls in found], mixed.width, mixed.height)
    whole = Image.new("RGB", (mixed.width, mixed.height + below.height), "white")
    whole.paste(mixed, (0, 0))
    whole.paste(below, (0, mixed.height))
    return whole


def _areas(path: Path) -> dict[str, list[list[str]]]:
    """Return the rows of an earlier call by image: other pictures of the same network may lie in the folder. Raises
    `InputError` for a table that is no longer one of these columns, such as one saved with semicolons: its rows would
    be lost."""
    rows: dict[str, list[list[str]]] = {}
    if path.exists():
        lines = csv.reader(io.StringIO(read_text(path)))
        filled = [(lines.line_num, row) for row in lines if row]
        for place, (number, row) in enumerate(filled):
            if len(row) != len(COLUMNS) or (place == 0 and tuple(row) != COLUMNS):
                raise InputError(
                    f"{path}: line {number} does not hold {','.join(COLUMNS)} (was it saved by another program?); move "
                    "this file away, or name another folder with --out"
                )
            if place:
                rows.setdefault(row[0], []).append(row)
    return rows
