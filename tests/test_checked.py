"""Data that cannot be used: found before anything is trained, once, in a line for each problem."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seminar import checked, cost, recipes
from seminar.catalogue import Cell
from seminar.data import files
from seminar.data.files import image_size, read_image
from seminar.data.folder import Folder
from seminar.spec import InputError
from seminar.store import Store
from tests.conftest import ROOT, Said, seminar_here

IMAGES = 24
"""All of them clicked; the first four have a mask and validate."""


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small clicked photos, whose training needs no measuring."""
    root = tmp_path / "photos"
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        picture = rng.integers(0, 256, (20, 30, 3), np.uint8)
        Image.fromarray(picture).save(root / "images" / f"{number:02d}.jpg", exif=_exif(1))
    for number in range(4):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(root / "masks" / f"{number:02d}.png")
    (root / "classes.txt").write_text("background\ncat\n")
    (root / "val.txt").write_text("00\n01\n02\n03\n")
    clicks(root, {})
    monkeypatch.setattr(cost, "measure_epoch", lambda *_: cost.Cost(1.0))
    return root


def _exif(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def clicks(root: Path, moved: dict[int, int]) -> None:
    """One click on each image, at x = 5 or where it is `moved` to."""
    lines = [f"{number:02d},{moved.get(number, 5)},6,cat" for number in range(IMAGES)]
    (root / "clicks.csv").write_text("\n".join(["image,x,y,class", *lines]))


def cut(root: Path, number: int) -> Path:
    """Cut an image off behind its header."""
    path = root / "images" / f"{number:02d}.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    return path


def damage(root: Path, number: int) -> Path:
    """Make an image one whose damage only decoding shows."""
    jpeg = root / "images" / f"{number:02d}.jpg"
    path = jpeg.with_suffix(".png")
    Image.open(jpeg).save(path)
    jpeg.unlink()
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes(100) + content[middle + 100 :])
    assert image_size(path, upright=True) == (30, 20)
    with pytest.raises(InputError):
        read_image(path)
    return path


def settings(root: Path) -> list[str]:
    return ["profile=toy", "data=folder", f"data_root={root}", "seed=0"]


def sweep(root: Path, code: int = 0, losses: str = "pce,pce+pcons,pce+crf") -> Said:
    runs = ["--runs", str(root.parent / "runs"), "--wandb", "disabled", "--workers", "0"]
    return seminar_here(
        "sweep", str(ROOT / "sweeps" / "losses.yaml"), *settings(root), f"losses={losses}", *runs, code=code
    )


def planned(root: Path, **more: Any) -> Cell:
    return recipes.one({"profile": "toy", "losses": "pce", "data": "folder", "data_root": str(root), **more})


def only_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a folder that is too large to be read before training."""
    monkeypatch.setattr(files, "CACHE_BYTES", 1)


@pytest.mark.parametrize("small", [True, False])
def test_a_damaged_image_ends_the_plan(photos: Path, monkeypatch: pytest.MonkeyPatch, small: bool) -> None:
    path = (damage if small else cut)(photos, 7)
    if not small:
        only_headers(monkeypatch)
    said = sweep(photos, code=2)
    assert said.stderr.startswith(f"seminar: {path}: unreadable image (")
    assert said.stderr.count("\n") == 1
    assert not list((photos.parent / "runs").glob("*/stage.json"))
    train = ["train", *settings(photos), "losses=pce", "--runs", str(photos.parent / "runs"), "--wandb", "disabled"]
    assert seminar_here(*train, code=2).stderr == said.stderr


def test_every_problem_has_a_line_and_of_many_the_first(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Inside are the 30 columns 0 to 29.
    clicks(photos, dict.fromkeys(range(5, 17), 30))
    lines = sweep(photos, code=2).stderr.splitlines()
    assert lines[0] == "seminar: data 'folder': 12 examples cannot be used"
    assert [line[:21] for line in lines[1:-1]] == [f"{number:02d}: click x=30 y=6 (c" for number in range(5, 15)]
    assert lines[-1] == "and 2 more"
    only_headers(monkeypatch)
    recipes._open.cache_clear()
    assert sweep(photos, code=2).stderr.splitlines() == lines, "the headers show the sizes as well"


def test_what_is_sound_is_looked_at_once(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []
    unusable = Folder.unusable

    def noted(self: Folder) -> list[str]:
        looks.append(self.fingerprint())
        return unusable(self)

    monkeypatch.setattr(Folder, "unusable", noted)
    store = Store(photos.parent / "runs")
    cell = planned(photos)
    for _ in range(2):
        checked.check([(cell.stage, cell.host), (planned(photos, seed=1).stage, cell.host)], store)
    assert len(looks) == 1
    other = planned(photos, data_clicks_outside="drop")
    checked.check([(other.stage, other.host)], store)
    assert len(looks) == 2, "another setting of the data makes other examples"


def test_what_only_a_training_finds_stops_the_cells_of_the_same_data(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = damage(photos, 7)
    only_headers(monkeypatch)
    said = sweep(photos, code=1)
    named = [line for line in said.stderr.splitlines() if str(path) in line]
    # Once when it happens, and once among the failures at the end.
    assert len(named) == 2
    assert named[1].endswith(named[0].removeprefix("seminar: "))
    assert said.stderr.splitlines()[-1] == "seminar: 2 more cells need the same data and were not trained"
    store = Store(photos.parent / "runs")
    assert [store.status(key) for key in store.keys()] == ["failed"], "the others were not started"  # noqa: SIM118
    sound = photos / "images" / "08.jpg"
    path.write_bytes(sound.read_bytes())
    recipes._open.cache_clear()
    recipes._fingerprint.cache_clear()
    sweep(photos)


def test_a_process_that_loads_names_the_example_in_one_line() -> None:
    """torch puts a traceback before the message."""
    text = f"Caught Unusable in DataLoader worker process 0.\nTraceback\n{files.__name__}.Unusable: a.jpg: cut off\n"
    assert str(files.Unusable(text)) == "a.jpg: cut off"


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_header_gives_the_size_as_the_picture_is_seen(tmp_path: Path, suffix: str, orientation: int) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (5, 9)).save(path, exif=_exif(orientation))
    height, width = read_image(path, upright=True).shape[:2]
    assert image_size(path, upright=True) == (width, height)
    assert image_size(path) == (5, 9)
