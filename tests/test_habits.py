"""What people bring, in the forms that their tools and habits give it: used as it is meant, or named with its cause."""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seminar import recipes, sweep
from seminar.data.folder import Folder
from seminar.spec import InputError
from tests.conftest import ROOT, seminar_here


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four clicked pictures, three of them with masks."""
    return make(tmp_path / "photos")


def make(root: Path) -> Path:
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number, name in enumerate(("p0", "p1", "p2", "p3")):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 36, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"{name}.png")
        mask = np.zeros((24, 36), np.uint8)
        mask[5:15, 15:30] = 1
        if number:
            Image.fromarray(mask).save(root / "masks" / f"{name}.png")
    rows = [f"p{n},{x},8,{cls}" for n in range(4) for x, cls in ((3, "background"), (20, "cell"))]
    (root / "clicks.csv").write_text("\n".join(["image,x,y,class", *rows]) + "\n")
    (root / "classes.txt").write_text("background\ncell\n")
    return root


def notes(root: Path) -> list[str]:
    """What `seminar data check` notes."""
    shown = seminar_here("data", "check", str(root), "--sheet", str(root.parent / "sheet.png")).stdout
    return [line.removeprefix("note: ") for line in shown.splitlines() if line.startswith("note: ")]


def refusal(root: Path) -> list[str]:
    shown = seminar_here("data", "check", str(root), "--sheet", str(root.parent / "sheet.png"), code=2).stderr
    return shown.splitlines()


def test_a_good_folder_has_no_notes(photos: Path) -> None:
    assert notes(photos) == []


def test_masks_of_0_and_255_are_noted_and_said_again_before_training(photos: Path, tmp_path: Path) -> None:
    for path in (photos / "masks").iterdir():
        Image.fromarray(np.asarray(Image.open(path)) * 255).save(path)
    (note,) = notes(photos)
    assert note.startswith("class 'cell' has no pixel in any mask; ")
    assert "% of the pixels are 255, which means void" in note
    line = ["sweep", str(ROOT / "sweeps" / "losses.yaml"), "profile=toy", "data=folder", f"data_root={photos}"]
    for _ in range(2):
        said = seminar_here(*line, "losses=pce", "seed=0", "--dry-run", "--runs", str(tmp_path / "runs"))
        assert f"note: data 'folder': {note}" in said.stderr


def test_clicks_that_are_shares_of_the_size_are_noted(photos: Path) -> None:
    rows = [f"p{n},{x},0.3,{cls}" for n in range(4) for x, cls in ((0.1, "background"), (0.6, "cell"))]
    (photos / "clicks.csv").write_text("\n".join(["image,x,y,class", *rows]))
    assert any(
        "all 8 clicks lie in the first pixel, x and y in 0..1: are they shares" in note for note in notes(photos)
    )


def test_views_without_any_label_are_noted_and_said_again_before_training(photos: Path, tmp_path: Path) -> None:
    """Views of 32 of 640 x 320 pixels hardly ever hold a click in the corner; half of the height holds the middle."""
    for name in ("p0", "p1", "p2", "p3"):
        Image.new("RGB", (1600, 800)).save(photos / "images" / f"{name}.png")
        (photos / "masks" / f"{name}.png").unlink(missing_ok=True)

    middle = tmp_path / "middle"
    shutil.copytree(photos, middle)
    for folder, x, y in ((photos, 3, 8), (middle, 800, 400)):
        rows = [f"p{n},{x + n},{y},{cls}" for n in range(4) for cls in ("background", "cell")]
        (folder / "clicks.csv").write_text("\n".join(["image,x,y,class", *rows]))
    data = ["profile=toy", "data=folder", f"data_root={photos}", "data_max_side=0"]
    far, near = (["scale_min=10", "scale_max=10"], ["scale_min=1", "scale_max=1", f"data_root={middle}"])
    note = "none of 4 training views holds a label: crops are small against the images"
    assert note in seminar_here("data", "check", *data, *far, "--sheet", str(tmp_path / "sheet.png")).stdout
    line = ["sweep", str(ROOT / "sweeps" / "losses.yaml"), *data, "seed=0", "losses=pce", "--dry-run"]
    for _ in range(2):
        assert seminar_here(*line, *far, "--runs", str(tmp_path / "runs")).stderr.count(note) == 1
    line.remove(f"data_root={photos}")
    assert "training views" not in seminar_here(*line, *near, "--runs", str(tmp_path / "runs")).stderr


def test_images_without_a_click_on_the_background_are_named(photos: Path) -> None:
    rows = ["p0,3,8,background", *(f"p{n},20,8,cell" for n in range(4))]
    (photos / "clicks.csv").write_text("\n".join(["image,x,y,class", *rows]))
    (photos / "train.txt").write_text("p0\np1\np2\n")
    (photos / "val.txt").write_text("p3\n")
    assert "images to train on without a click on the background: p1, p2" in notes(photos)


@pytest.mark.parametrize("told", ["../elsewhere/p0.png", "old name.png", "p1.png", "day2/p0.png"])
def test_labels_beside_a_picture_are_of_that_picture(told: str, tmp_path: Path) -> None:
    """Whatever imagePath says: folders are copied and pictures renamed."""
    root = tmp_path / "data"
    for day in ("day1", "day2"):
        (root / "images" / day).mkdir(parents=True)
        for name in ("p0", "p1"):
            Image.new("RGB", (24, 16)).save(root / "images" / day / f"{name}.png")
    for name, path in (("p0", told), ("p1", "p1.png")):
        shape = {"label": "cat", "shape_type": "point", "points": [[3, 4]]}
        content = {"shapes": [shape], "imagePath": path}
        (root / "images" / "day1" / f"{name}.json").write_text(json.dumps(content))
    data = Folder(root=root)
    labelled = {example.id for split in ("train", "val") for example in data.split(split) if example.clicks}  # type: ignore[arg-type]
    assert labelled == {"day1/p0", "day1/p1"}


def labelme(root: Path, shape: dict[str, object]) -> None:
    (root / "labelme").mkdir()
    (root / "labelme" / "p0.json").write_text(json.dumps({"shapes": [shape], "imagePath": "../images/p0.png"}))


def test_a_rectangle_of_four_points_is_one(photos: Path) -> None:
    corners = [[15, 5], [30, 5], [30, 15], [15, 15]]
    labelme(photos, {"label": "cell", "shape_type": "rectangle", "points": corners})
    data = Folder(root=photos)
    (example,) = (one for split in ("train", "val") for one in data.split(split) if one.id == "p0")  # type: ignore[arg-type]
    assert example.mask[10, 20] == 1
    assert example.mask[2, 2] != 1


def test_an_ai_mask_is_an_area(photos: Path) -> None:
    """A PNG in base64, for the box from the first point to the second."""
    mask = np.zeros((5, 9), bool)
    mask[1:4, 2:7] = True
    content = io.BytesIO()
    Image.fromarray(mask).save(content, "PNG")
    shape: dict[str, object] = {"label": "cell", "shape_type": "mask", "points": [[10, 3], [18, 7]]}
    (photos / "masks" / "p1.png").unlink()
    (photos / "labelme").mkdir()
    file = photos / "labelme" / "p1.json"
    text = base64.b64encode(content.getvalue()).decode()
    file.write_text(json.dumps({"shapes": [{**shape, "mask": text}], "imagePath": "../images/p1.png"}))
    data = Folder(root=photos)
    (example,) = [one for split in ("train", "val") for one in data.split(split) if one.id == "p1"]  # type: ignore[arg-type]
    expected = np.zeros((24, 36), np.uint8)
    expected[4:7, 12:17] = 1
    np.testing.assert_array_equal(example.mask.numpy(), expected)
    for broken in ("iVBORw0KGgo=", "no base64!", None, text[:40]):
        file.write_text(json.dumps({"shapes": [{**shape, "mask": broken}], "imagePath": "../images/p1.png"}))
        assert "cell: a mask that is no picture of the size of its box" in refusal(photos)[0]


def test_what_macos_adds_is_passed_over(photos: Path) -> None:
    for path in [*photos.rglob("*.png"), photos / "clicks.csv"]:
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    (photos / "._a.json").write_bytes(b"\x00\x05\x16\x07")
    assert notes(photos) == []


def test_a_heic_picture_is_named_with_the_way_out(photos: Path) -> None:
    (photos / "images" / "IMG_7.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic")
    (note,) = notes(photos)
    assert "cannot be read, and are left out; convert them to JPEG or PNG: 1, for example IMG_7.HEIC" in note
    for name in ("IMG_7", "IMG_7.HEIC"):
        clicks = make(photos.parent / f"clicked {name}")
        (clicks / "images" / "IMG_7.HEIC").write_bytes(b"\x00\x00\x00\x18ftypheic")
        (clicks / "clicks.csv").write_text((clicks / "clicks.csv").read_text() + f"{name},3,4,cell\n")
        (line,) = refusal(clicks)
        assert "IMG_7.HEIC: HEIC pictures cannot be read; convert it to JPEG or PNG" in line


def test_files_that_nothing_reads_are_named(photos: Path) -> None:
    (photos / "annotations.xml").write_text("<a/>")
    (photos / "labels.txt").write_text("cell")
    assert notes(photos) == ["files that nothing reads: 2, for example annotations.xml, labels.txt"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ("image;x;y;class\np0;12,5;3,7;cell\np1;1,5;2,5;cell\n", "line 2 and 1 more lines: a decimal comma"),
        ("image,x,y,class\np0,12,5,3,7,cell\np1,1,5,2,5,cell\n", "more than the 4 fields of the first line; write dec"),
        ("image,x,y,class\np0,12,5,cell,\n", "line 2: more than the 4 fields"),
    ],
)
def test_decimal_commas_are_named(rows: str, expected: str, photos: Path) -> None:
    (photos / "clicks.csv").write_text(rows)
    (line,) = refusal(photos)
    assert expected in line
    assert "12.5" in line


@pytest.mark.parametrize("name", ["scan.2", "p0.1", "p0.txt", "p0.5.png"])
def test_a_dot_in_a_name_is_part_of_it(name: str, photos: Path) -> None:
    (photos / "clicks.csv").write_text((photos / "clicks.csv").read_text() + f"{name},3,4,cell\n")
    (line,) = refusal(photos)
    assert f"no image goes by the name {name!r}" in line


def test_a_name_with_dots_goes_by_itself(photos: Path) -> None:
    (photos / "images" / "p0.png").rename(photos / "images" / "p0.v2.png")
    text = (photos / "clicks.csv").read_text().replace("p0,3", "p0.v2,3").replace("p0,20", "p0.v2.png,20")
    (photos / "clicks.csv").write_text(text)
    assert notes(photos) == []


def test_a_key_of_json_that_stands_twice_is_named(photos: Path) -> None:
    (photos / "clicks.json").write_text('{"p0": [{"x": 1, "y": 1, "class": "cell"}], "p0": []}')
    assert "clicks.json: cannot be read ('p0' is in it twice)" in refusal(photos)[0]


FOLDERS = [
    "2024_01",
    "0123",
    "1_000",
    "2024-01-05",
    "photos,2024",
    "photos #2",
    "true",
    "1e5",
    "1.10",
    "a: b",
    "a=b",
    "'q'",
]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_path_stays_the_text_it_is(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path(name))
    for other in ("photos", "202401", "83", "1000", "True", "100000.0", "1.1"):
        Path(other).mkdir(exist_ok=True)
    seminar_here("data", "check", "profile=folder", f"data_root={name}")
    assert sweep.parse_settings([f"data_root={name}", "data_max_side=320,640"]) == {
        "data_root": (name,),
        "data_max_side": (320, 640),
    }


def test_several_folders_and_numbers_are_several_values() -> None:
    settings = sweep.parse_settings(["data_root=one,two", "data_val_share=0.50", "weights=w 1.pth", "lr=0.1,1e-3"])
    assert settings["data_root"] == ("one", "two")
    assert settings["data_val_share"] == (0.5,)
    assert settings["weights"] == ("w 1.pth",)
    assert settings["lr"] == (0.1, "1e-3"), "as ever: YAML 1.1 wants 1.0e-3, and what reads the setting takes both"


def test_a_path_in_a_sweep_file_that_yaml_changes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    body = "method: grid\nparameters:\n  data: {value: folder}\n  data_root: {value: NAME}\n"
    for name in ("2024_01", "0123", "2024-01-05"):
        path.write_text(body.replace("NAME", name))
        with pytest.raises(InputError, match=f"{name} is read as .*; write it in quotes"):
            sweep.load(path)
        path.write_text(body.replace("NAME", f"'{name}'"))
        assert sweep.load(path).parameters["data_root"] == (name,)


SWEEP = "method: grid\nparameters:\n  losses: {values: [pce, pce+crf]}\n  alpha: {value: 0.9}\n"
TWICE = "the key {!r} stands twice; the first one would be lost"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SWEEP + "  losses: {value: pce}\n", TWICE.format("losses")),
        (SWEEP + "method: grid\n", TWICE.format("method")),
        (SWEEP.replace("{value: 0.9}", "{value: 0.9, value: 0.8}"), TWICE.format("value")),
        (
            'command: ["${env}", "${program}", cell, "${args_no_hyphens}"]\n' + SWEEP,
            'write ["${env}", "${program}", cell,',
        ),
        ('command: ["${env}", python, train.py, "${args}"]\n' + SWEEP, "takes its settings as one JSON object"),
        ("command: seminar cell\n" + SWEEP, "takes its settings as one JSON object"),
    ],
)
def test_a_sweep_file_in_another_form_is_refused_while_planning(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(text)
    said = seminar_here("sweep", str(tmp_path / "mine.yaml"), "profile=toy", "--dry-run", code=2)
    assert expected in said.stderr
    assert len(said.stderr.splitlines()) == 1


@pytest.mark.parametrize("name", ["my runs", "a (1)", "it's", 'say "hi"', "$HOME", "a;b", "#2", "back\\slash", "*"])
def test_make_passes_a_value_on_as_it_is(name: str, tmp_path: Path) -> None:
    """Blanks, brackets, quotes: what a folder may be called."""
    program = tmp_path / "bin" / "seminar"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > "{tmp_path}/given"\n')
    program.chmod(0o755)
    (tmp_path / "ready").touch()
    line = ["make", f"READY={tmp_path}/ready", f"BIN={program.parent}", "ablation-losses", "DRY_RUN=1"]
    line += [f"RUNS={name}", f"data_root={name}", "alpha=0.9,0.99"]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "MAKEFLAGS": ""})
    given = (tmp_path / "given").read_text().splitlines()
    assert f"data_root={name}" in given
    assert given[given.index("--runs") + 1] == name
    assert "alpha=0.9,0.99" in given


def test_a_damaged_picture_is_one_line_with_loader_workers_too(photos: Path, tmp_path: Path) -> None:
    settings: dict[str, bool | int | float | str] = {"profile": "toy", "data": "folder", "data_root": str(photos)}
    cell = recipes.one({**settings, "losses": "pce", "batch_size": 2, "loader_workers": 1})
    damaged = photos / "images" / f"{recipes.open_data(cell.stage, cell.host).split('train')[0].id}.png"
    line = ["train", *(f"{name}={value}" for name, value in settings.items()), "losses=pce", "loader_workers=1"]
    damaged.write_bytes(damaged.read_bytes()[:-200])
    recipes._fingerprint.cache_clear()
    recipes._open.cache_clear()
    said = seminar_here(*line, "batch_size=2", "--runs", str(tmp_path / "runs"), "--wandb", "disabled", code=2)
    assert len(said.stderr.splitlines()) == 1
    assert damaged.name in said.stderr


@pytest.mark.slow
def test_the_surroundings_do_not_leak_in(photos: Path, tmp_path: Path) -> None:
    """A backend that Jupyter has set for its children, and an output that is not UTF-8."""
    code = "import sys; from analysis.__main__ import main; sys.exit(main(sys.argv[1:]))"
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "losses.yaml").write_text((ROOT / "sweeps" / "losses.yaml").read_text())
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "latin-1"}
    environment["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    root = photos.rename(tmp_path / "\u6c34 photos")
    (root / "classes.txt").write_text("background\n\u6c34\n")
    (root / "clicks.csv").write_text((root / "clicks.csv").read_text().replace("cell", "\u6c34"))
    settings = ["profile=toy", "losses=pce,ce", "seed=0"]
    for line in (
        ["-m", "seminar", "data", "check", str(root)],
        ["-m", "seminar", "sweep", "sweeps/losses.yaml", *settings, "--workers", "0", "--wandb", "disabled"],
        ["-c", code, "table3", *settings],
    ):
        done = subprocess.run([sys.executable, *line], cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        assert b"Traceback" not in done.stderr
    assert len(list((tmp_path / "reports").rglob("table3.png"))) == 1
    assert (tmp_path / "contact-sheet.png").exists()


def test_make_expands_nothing_in_a_value() -> None:
    line = ["make", "-n", "report", "RUNS=a$(x)b"]
    assert "--runs 'a$(x)b'" in subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True).stdout
