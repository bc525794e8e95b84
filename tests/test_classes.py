"""Data sets of any classes: without a background, or with it at any index."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seminar.colours import palette
from seminar.data import Click, simulated
from seminar.data.cityscapes import CLASSES, LABEL_IDS, Cityscapes
from seminar.data.folder import Folder
from seminar.data.masks import Masks
from seminar.spec import InputError
from seminar.store import Store
from tests.conftest import ROOT, seminar_here

STREETS = ("road", "car", "sky")


def picture(path: Path, mask: Path, value: Any, seed: int, names: tuple[int, ...] = (0, 1, 2)) -> None:
    """Write a picture of three bands (sky above, road below, a car between), and its mask with the values `names`."""
    pixels = np.random.default_rng(seed).integers(0, 60, (32, 48, 3)).astype(np.uint8)
    classes = np.zeros((32, 48), np.uint8)
    classes[:12], classes[12:22, 10:30] = 2, 1
    for cls, channel in ((0, 0), (1, 1), (2, 2)):
        pixels[classes == cls, channel] += 120
    labels = np.array(names, np.uint8)[classes]
    labels[0, 0] = value
    for target, content in ((path, pixels), (mask, labels)):
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(content).save(target)


@pytest.fixture
def streets(tmp_path: Path) -> Path:
    root = tmp_path / "streets"
    for number in range(6):
        picture(root / "images" / f"s{number}.png", root / "masks" / f"s{number}.png", 255, number)
    (root / "classes.txt").write_text("\n".join(STREETS))
    (root / "train.txt").write_text("s0\ns1\ns2\ns3\n")
    (root / "val.txt").write_text("s4\ns5\n")
    return root


@pytest.fixture
def city(tmp_path: Path) -> Path:
    root = tmp_path / "city"
    for split, count in (("train", 3), ("val", 2)):
        for number in range(count):
            name = f"bonn_{number:06}_000019"
            image = root / "leftImg8bit" / split / "bonn" / f"{name}_leftImg8bit.png"
            mask = root / "gtFine" / split / "bonn" / f"{name}_gtFine_labelIds.png"
            picture(image, mask, 4, number, (7, 26, 23))  # 4: static, which is void
    return root


def refusal(make: Any) -> str:
    with pytest.raises(InputError) as raised:
        make()
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_colours_keep_black_for_the_background() -> None:
    voc = palette()
    assert voc[:3] == [(0, 0, 0), (128, 0, 0), (0, 128, 0)]
    assert palette(2)[:4] == [voc[1], voc[2], (0, 0, 0), voc[3]]
    assert palette(None)[:3] == voc[1:4]
    for background in (0, 2, 253, None):
        colours = palette(background)
        assert len(colours) == 256
        assert colours[254:] == voc[254:], "no class"
        assert ((0, 0, 0) in colours) is (background is not None)


def test_a_folder_without_a_background(streets: Path) -> None:
    (streets / "clicks.csv").write_text("image,x,y,class\ns0,3,30,road\ns0,20,15,1\ns1,5,5,sky\n")
    (streets / "train.txt").write_text("s0\ns1\n")
    assert "no class 'background'; data_background=NAME" in refusal(lambda: Folder(root=streets))
    data = Folder(root=streets, background="none")
    assert (data.classes, data.background) == (STREETS, None)
    assert [click.cls for example in data.split("train") for click in example.clicks] == [0, 1, 2]
    drawn = Folder(root=streets, background="none", simulated=5)
    for example in drawn.split("train"):
        assert sorted(click.cls for click in example.clicks) == [0, 1, 2], "each class is one segment; nothing more"
        assert all(example.mask[int(click.y), int(click.x)] == click.cls for click in example.clicks)


def test_the_background_of_a_folder_is_found_by_its_name(streets: Path) -> None:
    (streets / "clicks.csv").write_text("image,x,y,class\ns0,3,30,road\ns0,20,15,car\ns1,5,5,sky\n")
    (streets / "train.txt").write_text("s0\ns1\n")
    data = Folder(root=streets, background="sky")
    assert (data.classes, data.background) == (STREETS, 2)
    (streets / "classes.txt").write_text("road\ncar\nBG\n")
    assert "s1: class='sky'" in refusal(lambda: list(Folder(root=streets).split("train")))
    (streets / "clicks.csv").write_text("image,x,y,class\ns0,3,30,road\ns1,5,5,_background_\n")
    data = Folder(root=streets)
    assert (data.classes, data.background) == (("road", "car", "background"), 2)
    assert data.split("train")[1].clicks == (Click(5.0, 5.0, 2),)


def test_what_no_polygon_covers(tmp_path: Path) -> None:
    """It is background, wherever that is among the classes, and void where there is none."""
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (20, 10)).save(tmp_path / "images" / f"{name}.png")
        area = {"label": "car", "shape_type": "rectangle", "points": [[2, 2], [8, 8]]}
        click = {"label": "car", "shape_type": "point", "points": [[4, 4]]}
        other = {"label": "road", "shape_type": "point", "points": [[15, 4]]}
        content = {"shapes": [area, click, other], "imagePath": f"{name}.png"}
        (tmp_path / "images" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "train.txt").write_text("a")
    (tmp_path / "val.txt").write_text("b")
    for names, background, beside in (
        (("road", "car"), "none", 255),
        (("car", "road"), "road", 1),
        (("car", "road", "background"), "background", 2),
    ):
        (tmp_path / "classes.txt").write_text("\n".join(names))
        (example,) = Folder(root=tmp_path, background=background).split("train")
        assert example.mask[0, 0] == beside
        assert example.mask[5, 5] == names.index("car")


def test_masks_of_any_classes_get_a_click_on_each_object(streets: Path) -> None:
    data = Masks(root=streets, background="none")
    assert (data.classes, data.background, data.unusable()) == (STREETS, None, [])
    train = data.split("train")
    assert [example.id for example in train] == ["s0", "s1", "s2", "s3"]
    for example in train:
        assert sorted(click.cls for click in example.clicks) == [0, 1, 2]
        assert all(example.mask[int(click.y), int(click.x)] == click.cls for click in example.clicks)
    assert train[0].mask[0, 0] == 255
    assert train[0].clicks == Masks(root=streets, background="none").split("train")[0].clicks
    other = Masks(root=streets, background="none", simulated_seed=1)
    assert train[0].clicks != other.split("train")[0].clicks
    sky = Masks(root=streets, background="sky", background_clicks=2).split("train")[0]
    assert sorted(click.cls for click in sky.clicks) == [0, 1, 2, 2]


def test_masks_with_a_file_of_clicks(streets: Path) -> None:
    (streets / "clicks.json").write_text(json.dumps({"s0": [{"x": 1, "y": 2, "cls": 2}], "s9": []}))
    train = Masks(root=streets, background="none").split("train")
    assert [example.clicks for example in train] == [(Click(1.0, 2.0, 2),), (), (), ()]
    (streets / "clicks.json").write_text(json.dumps({"s0": [{"x": 48, "y": 2, "cls": 2}]}))
    assert "outside the 48x32 image" in refusal(lambda: Masks(root=streets, background="none").split("train")[0])
    dropped = Masks(root=streets, background="none", clicks_outside="drop")
    assert dropped.split("train")[0].clicks == ()
    (streets / "clicks.json").write_text(json.dumps({"s0": [{"x": 1, "y": 2, "cls": 3}]}))
    assert "click with cls 3, expected 0..2" in refusal(lambda: Masks(root=streets, background="none"))
    (streets / "clicks.json").write_text(json.dumps({"other": []}))
    assert "no image to train on has a click here, for example 's0'" in refusal(
        lambda: Masks(root=streets, background="none")
    )


def test_masks_in_folders_as_ade20k_has_them(streets: Path) -> None:
    for name in ("images", "masks"):
        for split, numbers in (("training", (0, 1, 2, 3)), ("validation", (4, 5))):
            (streets / name / split).mkdir()
            for number in numbers:
                (streets / name / f"s{number}.png").rename(streets / name / split / f"s{number}.png")
    (streets / "masks").rename(streets / "annotations")
    (streets / "train.txt").unlink()
    (streets / "val.txt").unlink()
    data = Masks(root=streets, background="none", train_list="training", val_list="validation")
    assert [len(data.split("train")), len(data.split("val"))] == [4, 2]
    assert data.split("val")[0].id == "validation/s4"
    held = Masks(root=streets, background="none", train_list="training", held_out=2)
    assert [example.id for example in held.split("val")] == ["training/s0", "training/s2"]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda root: (root / "classes.txt").unlink(), "classes.txt: not found"),
        (lambda root: (root / "classes.txt").write_text("sky\nsky"), "class 'sky' is in it twice"),
        (lambda root: (root / "classes.txt").write_text("sky"), "1 class(es); write 2 to 254 names"),
        (lambda root: (root / "masks" / "s1.png").unlink(), "s1.png: not found: every image needs a mask"),
        (lambda root: (root / "images" / "s1.png").unlink(), "s1: no image of that name"),
        (
            lambda root: (root / "val.txt").write_text("s0"),
            "1 image(s), first 's0', are in both lists, 'train' for training and 'val' for validation",
        ),
        (lambda root: (root / "val.txt").unlink(), "val.txt: not found, and no picture in a folder"),
        (lambda root: (root / "val.txt").write_text("\n"), "val.txt: the list is empty"),
    ],
)
def test_what_is_wrong_with_masks(change: Any, why: str, streets: Path) -> None:
    change(streets)
    assert why in refusal(lambda: Masks(root=streets, background="none"))


def test_a_value_of_a_mask_that_is_no_class(streets: Path) -> None:
    (streets / "classes.txt").write_text("road\ncar\n")
    (first, *others) = Masks(root=streets, background="none").unusable()
    assert first.endswith("s0.png: value 2 is neither a class 0..1 nor 255 (void)")
    assert len(others) == 5


def test_a_background_that_is_no_class(streets: Path) -> None:
    why = refusal(lambda: Masks(root=streets))
    assert "classes.txt: no class 'background'; " in why
    assert "data_background=NAME names the class that is no object, data_background=none says" in why


def test_masks_change_their_fingerprint(streets: Path) -> None:
    prints = [Masks(root=streets, background="none").fingerprint()]
    (streets / "classes.txt").write_text("road\ncar\nheaven\n")
    prints.append(Masks(root=streets, background="none").fingerprint())
    mask = np.array(Image.open(streets / "masks" / "s0.png"))
    mask[5, 5] = 1
    Image.fromarray(mask).save(streets / "masks" / "s0.png")
    prints.append(Masks(root=streets, background="none").fingerprint())
    (streets / "clicks.json").write_text(json.dumps({"s0": [{"x": 1, "y": 2, "cls": 2}]}))
    prints.append(Masks(root=streets, background="none").fingerprint())
    assert len(set(prints)) == 4


def test_cityscapes_as_it_is_downloaded(city: Path) -> None:
    data = Cityscapes(root=city)
    assert len(data.classes) == 19 and data.classes[0] == "road" and data.classes[18] == "bicycle"
    assert len(LABEL_IDS) == len(set(LABEL_IDS)) == 19
    assert data.background is None
    train = data.split("train")
    assert [example.id for example in train] == [f"bonn_{number:06}_000019" for number in range(3)]
    road, car, sky = (CLASSES.index(name) for name in ("road", "car", "sky"))
    assert train[0].mask[0].tolist() == [255, *[sky] * 47], "static is void"
    assert train[0].mask[31, 0] == road and train[0].mask[15, 15] == car
    assert sorted(click.cls for click in train[0].clicks) == [road, sky, car]
    assert data.unusable() == []


def test_cityscapes_as_the_official_scripts_convert_it(city: Path) -> None:
    expected = Cityscapes(root=city).split("val")[0].mask
    names = np.full(256, 255, np.uint8)
    names[list(LABEL_IDS)] = np.arange(19)
    for path in city.glob("gtFine/*/*/*_labelIds.png"):
        converted = path.with_name(path.name.replace("labelIds", "labelTrainIds"))
        Image.fromarray(names[np.asarray(Image.open(path))]).save(converted)
        path.unlink()
    assert (Cityscapes(root=city).split("val")[0].mask == expected).all()


def test_cityscapes_with_a_file_of_clicks_and_held_out_images(city: Path, tmp_path: Path) -> None:
    path = tmp_path / "clicks.json"
    path.write_text(json.dumps({"bonn_000001_000019": [{"x": 20.5, "y": 15, "cls": 13}]}))
    data = Cityscapes(root=city, labels=path)
    assert [example.clicks for example in data.split("train")] == [(), (Click(20.5, 15.0, 13),), ()]
    assert [len(Cityscapes(root=city, held_out=2).split(split)) for split in ("train", "val")] == [1, 2]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda root: (root / "gtFine").rename(root / "gt"), "gtFine: not found; it is a download of its own"),
        (lambda root: (root / "leftImg8bit" / "val").rename(root / "val"), "val: not found"),
        (
            lambda root: (root / "gtFine/val/bonn/bonn_000000_000019_gtFine_labelIds.png").unlink(),
            "labelIds.png: not found (nor bonn_000000_000019_gtFine_labelTrainIds.png)",
        ),
    ],
)
def test_what_is_wrong_with_cityscapes(change: Any, why: str, city: Path) -> None:
    change(city)
    assert why in refusal(lambda: Cityscapes(root=city))


def test_an_id_that_cityscapes_does_not_have(city: Path) -> None:
    path = city / "gtFine/val/bonn/bonn_000000_000019_gtFine_labelIds.png"
    Image.fromarray(np.full((32, 48), 77, np.uint8)).save(path)
    (found,) = Cityscapes(root=city).unusable()
    assert found == f"{path}: value 77 is no id of Cityscapes, which end with 33"


@pytest.mark.slow
def test_a_data_set_without_a_background_is_checked_trained_reported_and_predicted(
    streets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    runs = tmp_path / "runs"
    settings = ["profile=toy", "data=masks", f"data_root={streets}", "data_background=none"]
    shown = seminar_here("data", "check", *settings, "--sheet", str(tmp_path / "sheet.png")).stdout
    assert "clicks: 12; every class is an object, there is no background" in shown
    words = [*settings, "losses=pce,pce+crf+pcons", "seed=0", "--runs", str(runs)]
    seminar_here("sweep", "sweeps/losses.yaml", *words, "--workers", "0", "--wandb", "disabled")
    store = Store(runs)
    (key, other) = store.keys()
    for record in (store.record(key), store.record(other)):
        assert record is not None
        scores = record["metrics"]["student"]["crop"]
        assert record["background"] is None and len(scores["recall"]) == 3
        assert not {name for name in scores if "ground" in name}
    from analysis.__main__ import main as analyse

    assert (
        analyse(["sweeps/losses.yaml", *words[:-2], "--runs", str(runs), "--out", str(tmp_path / "out"), "--quiet"])
        == 0
    )
    table = (tmp_path / "out" / "table3.md").read_text()
    assert "bg/fg" not in table and "+bias" not in table and "background recall" not in table
    assert "Every class of this data set is an object" in table
    seminar_here("predict", key, str(streets), "--out", str(tmp_path / "labelled"), "--runs", str(runs))
    mask = Image.open(tmp_path / "labelled" / "s0.png")
    assert mask.getpalette()[:3] == list(palette()[1]), "no class is black"


def test_clicks_on_a_large_mask_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:15, 5:25] = 1
    monkeypatch.setattr(simulated, "LARGE", mask.size)
    first = simulated.simulate_clicks_cached(mask, 0, 2, 7, "a")
    assert [click.cls for click in first] == [1, 0, 0]

    def refuse(*_: object) -> list[Click]:
        raise AssertionError("drawn again")

    monkeypatch.setattr(simulated, "simulate", refuse)
    assert simulated.simulate_clicks_cached(mask, 0, 2, 7, "a") == first
    moved = np.roll(mask, 1)
    for change in (
        (moved, 0, 2, 7, "a"),
        (mask, 1, 2, 7, "a"),
        (mask, 0, 3, 7, "a"),
        (mask, 0, 2, 8, "a"),
        (mask, 0, 2, 7, "b"),
    ):
        with pytest.raises(AssertionError, match="drawn again"):
            simulated.simulate_clicks_cached(*change)
    for path in (simulated.cache() / "clicks").iterdir():
        path.write_text("[[1")
    with pytest.raises(AssertionError, match="drawn again"):
        simulated.simulate_clicks_cached(mask, 0, 2, 7, "a")
