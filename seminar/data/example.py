"""A folder as somebody might have clicked it together, to try the commands on: drawn, not photographed."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from seminar.data import Example
from seminar.data.creatures import Creatures, make
from seminar.spec import InputError

TRAIN, LABELME, VAL = 90, 10, 20
"""Images clicked in a table, clicked with labelme, and left to evaluate by, with masks and without clicks."""
SIZE = 96
"""Side of an image in pixels."""


def write(root: Path) -> str:
    """Write `TRAIN` + `LABELME` + `VAL` creatures to the new folder `root`; returns what to print. Raises `InputError`
    where something is there already."""
    if root.exists():
        raise InputError(f"{root}: exists already; name a new folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as scratch:
        part = Path(scratch) / root.name
        _write(part)
        part.rename(root)
    return (
        f"{root}: {TRAIN} images with clicks in clicks.csv, {LABELME} in labelme/, {VAL} with a mask to evaluate by\n"
        f"seminar data check {root}\n"
        f"make ablation-losses PROFILE=creatures SEEDS=1 data=folder data_root={root}"
    )


def _write(part: Path) -> None:
    for folder in ("images", "masks", "labelme"):
        (part / folder).mkdir(parents=True)
    rows: list[tuple[str, float, float, str]] = []
    for number in range(TRAIN + LABELME + VAL):
        example, name = make(1, number, SIZE), f"creature-{number:03d}"
        Image.fromarray(example.image.permute(1, 2, 0).numpy()).save(part / "images" / f"{name}.png")
        if number < TRAIN:
            rows += [(name, click.x, click.y, Creatures.classes[click.cls]) for click in example.clicks]
        elif number < TRAIN + LABELME:
            text = json.dumps(_labelme(name, example), indent=1)
            (part / "labelme" / f"{name}.json").write_text(text, encoding="utf-8")
        else:
            Image.fromarray(example.mask.numpy()).save(part / "masks" / f"{name}.png")
    with (part / "clicks.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("image", "x", "y", "class"), *rows])
    (part / "classes.txt").write_text("\n".join(Creatures.classes) + "\n", encoding="utf-8")


def _labelme(name: str, example: Example) -> dict[str, object]:
    """Return what labelme saves for points."""
    shapes = [
        {"label": Creatures.classes[click.cls], "points": [[click.x, click.y]], "shape_type": "point"}
        for click in example.clicks
    ]
    return {"shapes": shapes, "imagePath": f"../images/{name}.png", "imageHeight": SIZE, "imageWidth": SIZE}
