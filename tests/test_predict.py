"""Labels for one's own pictures from a finished training."""

from __future__ import annotations

import csv
import os
import shutil
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from seminar import predict
from seminar.__main__ import main
from seminar.colours import palette
from seminar.data.pictures import legend
from seminar.predict import Predictor, pictures
from seminar.spec import InputError
from seminar.store import Store, locked, write_json
from tests.conftest import ROOT

WORDS = ["profile=toy", "losses=pce+pcons", "seed=2"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished training."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *WORDS, "--runs", str(folder), "--wandb", "disabled"]) == 0
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.jpg", (50, 90)), ("deep/ö.png", (200, 33)), ("c.png", (8, 8))):
        Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_a_folder_is_labelled(runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (key,) = Store(runs).keys()
    (photos / "broken.jpg").write_bytes(b"")
    out = tmp_path / "out"
    assert main(["predict", key[:5], str(photos), "--runs", str(runs), "--out", str(out)]) == 1
    printed = capsys.readouterr()
    assert "broken.jpg: unreadable image" in printed.err
    assert printed.out == f"3 pictures labelled by {key} (pce+pcons creatures small_resnet seed 2) in {out}\n"
    rows = list(csv.DictReader((out / "areas.csv").read_text(encoding="utf-8").splitlines()))
    for name, path in (("a", "a.jpg"), ("deep/ö", "deep/ö.png"), ("c", "c.png")):
        with Image.open(photos / path) as photo, Image.open(out / f"{name}.png") as mask:
            assert mask.mode == "P"
            assert mask.size == photo.size
            labels = np.array(mask)
        with Image.open(out / f"{name}_overlay.jpg") as overlay:
            assert overlay.width == labels.shape[1]
            assert overlay.height > labels.shape[0], "a legend below"
        mine = [row for row in rows if row["image"] == name]
        assert sum(int(row["pixels"]) for row in mine) == labels.size
        assert sum(float(row["percent"]) for row in mine) == pytest.approx(100, abs=0.01)
        assert len(mine) == len(np.unique(labels))


@pytest.mark.parametrize("name", [" ".join(WORDS), "best of losses profile=toy losses=pce,pce+pcons seed=1,2"])
@pytest.mark.parametrize("more", [[], ["--teacher"], ["--sliding"], ["--short", "64"]])
def test_a_training_by_its_words(runs: Path, photos: Path, tmp_path: Path, name: str, more: list[str]) -> None:
    out = tmp_path / "out"
    assert main(["predict", name, str(photos / "a.jpg"), "--runs", str(runs), "--out", str(out), *more]) == 0
    assert (out / "a.png").exists()


@pytest.mark.parametrize(
    ("more", "weights", "short", "window"),
    [
        ([], "student.pt", 32, None),
        (["--teacher"], "teacher.pt", 32, None),
        (["--short", "64"], "student.pt", 64, None),
        (["--sliding"], "student.pt", 32, 32),
    ],
)
def test_what_is_asked_for_is_used(
    runs: Path,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: list[str],
    weights: str,
    short: int,
    window: int | None,
) -> None:
    (key,) = Store(runs).keys()
    used: list[Predictor] = []
    monkeypatch.setattr(predict, "label", lambda net, images, out: used.append(net) or [])
    assert main(["predict", key, str(photos), "--runs", str(runs), "--out", str(photos / "out"), *more]) == 0
    ((net, requested),) = ((one.net, (one.short, one.window)) for one in used)
    assert requested == (short, window)
    saved = torch.load(Store(runs).folder(key) / weights, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in net.state_dict().items())


def test_without_a_teacher_there_is_none_to_take(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = "profile=toy losses=pce data_train=8 epochs=1"
    runs, out = ["--runs", str(tmp_path / "runs")], tmp_path / "net"
    assert main(["train", *settings.split(), *runs, "--wandb", "disabled"]) == 0
    capsys.readouterr()
    for command in (["predict", settings, str(photos), "--out", str(out)], ["export", settings, "--out", f"{out}.pt"]):
        assert main([*command, "--teacher", *runs]) == 2
        assert capsys.readouterr().err.endswith(": was trained without a teacher\n")
    assert not [*tmp_path.glob("net*")]


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["ffff", "photos"], "'ffff': no training begins so in"),
        (["profile=toy losses=pce", "photos"], "is not finished (missing): nothing was trained with exactly these"),
        (["best of losses profile=toy seed=5", "photos"], "none of its 6 trainings is finished in"),
        (["best of ", "photos"], "the best of which sweep?"),
        (["best of profile=toy", "photos"], "the best of which sweep?"),
        (["losses='pce", "photos"], "No closing quotation"),
        (["", "photos"], "'': name a training by its key"),
        (["best of los", "photos"], "sweep='los': did you mean 'losses'?"),
        (["best of mine.yaml", "photos"], "sweep='mine.yaml': "),
        (["profile=toy losses=pce seed=0,1", "photos"], "seed=0,1: one value each"),
        ([" ".join(WORDS), "none.jpg"], "none.jpg: no such file or folder"),
        ([" ".join(WORDS), "empty"], "empty: no image here"),
        ([" ".join(WORDS), "photos", "empty/a.png"], "a.jpg; rename one of the two, or label them with two calls"),
        ([" ".join(WORDS), "photos", "--short", "0"], "--short 0: from 1 to 20000 pixels"),
        ([" ".join(WORDS), "photos", "--short", "1" + 20 * "0"], "--short 1"),
    ],
)
def test_bad_input_is_one_line(
    runs: Path, photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    (photos.parent / "empty").mkdir()
    if "empty/a.png" in arguments:
        shutil.copy(photos / "c.png", photos.parent / "empty" / "a.png")
    name, *places = arguments
    given = [item if item.startswith("-") or item.isdigit() else str(photos.parent / item) for item in places]
    assert main(["predict", name, *given, "--runs", str(runs), "--out", str(photos.parent / "out")]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("seminar: ")
    assert printed.count("\n") == 1
    assert why in printed
    assert not (photos.parent / "out").exists()


def test_more_than_memory_holds(
    runs: Path, photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict.tvf, "resize", lambda *_, **__: torch.empty(2**55))
    given = [str(photos / "a.jpg"), "--runs", str(runs), "--out", str(tmp_path / "out"), "--short", "9999"]
    assert main(["predict", " ".join(WORDS), *given]) == 1
    printed = f"{photos}/a.jpg: at a short side of 9999 pixels memory does not suffice; see --short"
    assert capsys.readouterr().err == f"seminar: {printed}\n"


def test_the_best_of_which_sweep(
    runs: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings, out = "profile=toy losses=pce,pce+pcons seed=1,2", ["--runs", str(runs), "--out"]
    shutil.copytree(ROOT / "sweeps", tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    assert main(["predict", f"best of losses {settings}", str(photos / "a.jpg"), *out, "o"]) == 2
    assert "no folder sweeps here; go where it is, or write 'best of FILE.yaml'" in capsys.readouterr().err
    assert main(["predict", f"best of elsewhere/losses.yaml {settings}", str(photos / "a.jpg"), *out, "o"]) == 0
    (tmp_path / "elsewhere").rename("sweeps")
    assert main(["predict", f"best of losses.yaml {settings}", str(photos / "a.jpg"), *out, "o"]) == 0


def test_where_no_folder_can_be_made(
    runs: Path, photos: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    given = [str(photos), "--runs", str(runs), "--out", str(tmp_path / "file" / "out")]
    assert main(["predict", " ".join(WORDS), *given]) == 2
    assert capsys.readouterr().err == f"seminar: --out {tmp_path}/file/out: cannot be made (Not a directory)\n"
    path = photos / (os.fsdecode(b"\xff") + ".png")
    shutil.copy(photos / "c.png", path)
    for place in (photos, path):
        assert main(["predict", " ".join(WORDS), str(place), "--runs", str(runs), "--out", str(tmp_path / "o")]) == 2
        assert "\\udcff.png: the name is not in UTF-8" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_no_file_of_others_is_replaced(runs: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos.parent / "notes").write_text("mine")
    before = {path: path.read_bytes() for path in photos.parent.rglob("*") if path.is_file()}
    for places, out in (
        ([photos], photos),
        ([photos], photos.parent / "notes"),
        ([photos / "a.jpg"], photos),
        ([photos / "a.jpg"], photos / "deep"),
    ):
        given = [*map(str, places), "--runs", str(runs), "--out", str(out)]
        assert main(["predict", " ".join(WORDS), *given]) == 2
        assert (
            capsys.readouterr().err
            == f"seminar: --out {out}: holds something else than predictions; name a new folder\n"
        )
    assert {path: path.read_bytes() for path in photos.parent.rglob("*") if path.is_file()} == before


def test_where_results_may_lie(photos: Path) -> None:
    out = photos / "deep"
    with pytest.raises(InputError, match="holds something else than predictions"):
        pictures([photos], out)
    (out / "predictions.json").touch()
    assert pictures([photos], out) == {name[0]: photos / name for name in ("a.jpg", "c.png")}, "no result of before"
    (out / "deeper").mkdir()
    (out / "ö.png").rename(out / "deeper" / "ö.png")
    assert list(pictures([photos], out)) == ["a", "c"]
    with pytest.raises(InputError, match="lies in"):
        pictures([out / "deeper" / "ö.png"], out)
    with pytest.raises(InputError, match="deep: no image here"):
        pictures([out], out)
    (photos / "empty").mkdir()
    assert list(pictures([photos / "a.jpg", out], photos / "empty")) == ["a", "deeper/ö"]


def test_of_a_folder_to_train_on_its_images_are_labelled(photos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for part in ("images", "masks"):
        shutil.copytree(photos / "deep", folder / part)
    shutil.copy(photos / "c.png", folder / "contact-sheet.png")
    assert pictures([folder], tmp_path / "out") == {"ö": folder / "images" / "ö.png"}


def test_neither_masks_nor_results_are_labelled(runs: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = photos.parent / "my photos", photos.parent / "my photos" / "labelled"
    for part in ("images", "masks"):
        shutil.copytree(photos, folder / part)
    again = ["predict", " ".join(WORDS), str(folder), "--runs", str(runs), "--out", str(out)]
    for _ in range(2):
        assert main(again) == 0
        assert capsys.readouterr().out.startswith("3 pictures labelled")
    shutil.rmtree(folder / "images")
    shutil.copytree(photos, folder, dirs_exist_ok=True)
    assert main(again) == 0
    assert capsys.readouterr().out.startswith("3 pictures labelled"), "beside masks and results"
    assert main([*again[:2], str(out / "a.png"), *again[3:]]) == 2
    assert "lies in" in capsys.readouterr().err


def test_the_best_of_trainings_without_a_score(
    runs: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That of one needs none; of several there is none."""
    here = tmp_path / "runs"
    shutil.copytree(runs, here)
    monkeypatch.setattr("seminar.__main__.score", lambda record: None)
    best = "best of losses profile=toy losses=pce,pce+pcons seed=1,2"
    line = ["predict", best, str(photos / "a.jpg"), "--runs", str(here), "--out", str(tmp_path / "out")]
    assert main(line) == 0
    assert main(["train", "profile=toy", "losses=pce", "seed=1", "--runs", str(here), "--wandb", "disabled"]) == 0
    assert main(line) == 2
    assert f"2 of its 4 trainings are finished in {here} and none has a score" in capsys.readouterr().err


class Bright(nn.Module):
    """Class 1 where a pixel is bright, else 0; another class is never likely."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        grey = image.mean(1, keepdim=True)
        return torch.cat([-grey, grey, torch.full_like(grey, -9)], dim=1)


@pytest.mark.parametrize("window", [None, 32, 64])
@pytest.mark.parametrize("size", [(40, 100), (100, 40), (64, 64), (8, 90)])
def test_labels_lie_where_they_belong(window: int | None, size: tuple[int, int]) -> None:
    image = np.zeros((*size, 3), np.uint8)
    image[size[0] // 2 :, size[1] // 4 :] = 255
    labels = Predictor(Bright(), ("a", "b", "c"), 0, torch.device("cpu"), min(size), window)(image)
    np.testing.assert_array_equal(labels, (image[..., 0] > 0).astype(np.uint8))


def test_a_tie_goes_to_the_first_class() -> None:
    """As an arg-max has it."""
    labels = Predictor(Steps([5.0]), ("a", "b"), 0, torch.device("cpu"), 4)(np.zeros((4, 4, 3), np.uint8))
    assert not labels.any()


def test_what_is_written_for_a_turned_photo(tmp_path: Path) -> None:
    """Its right quarter is bright, and with its EXIF data it is seen turned, that quarter below."""
    stored = np.zeros((40, 80, 3), np.uint8)
    stored[:, 60:] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    Image.fromarray(stored).save(tmp_path / "photo.png", exif=exif)
    bright = Predictor(Bright(), ("background", "box", "lid"), 0, torch.device("cpu"), 40)
    out = tmp_path / "out"
    assert list(predict.label(bright, {"deep/photo": tmp_path / "photo.png"}, out)) == []
    expected = np.zeros((80, 40), np.uint8)
    expected[60:] = 1
    with Image.open(out / "deep" / "photo.png") as mask:
        np.testing.assert_array_equal(np.array(mask), expected)
        assert tuple(mask.getpalette()[3:6]) == palette()[1]
    with Image.open(out / "deep" / "photo_overlay.jpg") as overlay:
        assert overlay.size == (40, 80 + 15)
        swatch = np.array(overlay.crop((4, 84, 10, 90)), float).reshape(-1, 3).mean(0)
        assert np.abs(swatch - palette()[1]).max() < 30, "the legend names the class that is not the background"
        assert overlay.getpixel((20, 30)) == (0, 0, 0), "the background as it is"
        mixed = np.array(overlay.getpixel((20, 70)))
        assert np.abs(mixed - (255 + np.array(palette()[1])) / 2).max() < 4, "half photo, half colour of the class"
    assert (out / "classes.txt").read_text() == "background\nbox\nlid\n"
    assert (out / "areas.csv").read_text().splitlines() == [
        "image,class,pixels,percent",
        "deep/photo,background,2400,75.000",
        "deep/photo,box,800,25.000",
    ]


def test_masks_of_two_networks_do_not_lie_among_each_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{name}.png")
    first = Predictor(Bright(), ("background", "box", "lid"), 0, torch.device("cpu"), 30, origin="student of 1")
    out = tmp_path / "out"
    assert list(predict.label(first, {"a": tmp_path / "a.png"}, out)) == []
    before = {path: path.read_bytes() for path in out.iterdir()}
    for other, why in (
        (replace(first, origin="teacher of 1"), "holds the masks of 'student of 1'; name another folder"),
        (replace(first, short=20), "holds the masks of 'student of 1', seen in another way (--short, --sliding)"),
    ):
        with pytest.raises(InputError) as raised:
            list(predict.label(other, {"a": tmp_path / "a.png"}, out))
        assert why in str(raised.value)
    assert {path: path.read_bytes() for path in out.iterdir()} == before
    assert list(predict.label(first, {"b": tmp_path / "b.png"}, out)) == []
    rows = [line.split(",")[0] for line in (out / "areas.csv").read_text().splitlines()]
    assert rows == ["image", "a", "b"], "those of the call before stay"
    (out / "predictions.json").write_text("[[")
    with pytest.raises(InputError, match="holds the masks of"):
        list(predict.label(first, {"b": tmp_path / "b.png"}, out))


def test_no_mask_of_another_picture_of_that_name_is_overwritten(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Cameras give one name again and again."""
    later = tmp_path / "later"
    later.mkdir()
    shutil.copy(photos / "c.png", later / "a.png")
    line = ["predict", " ".join(WORDS), "--runs", str(runs), "--out", str(tmp_path / "out")]
    assert main([*line, str(photos), str(photos / "a.jpg")]) == 0, "a picture named twice is labelled once"
    assert capsys.readouterr().out.startswith("3 pictures labelled by")
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert main([*line, str(later)]) == 2
    assert capsys.readouterr().err == (
        f"seminar: {later}/a.png: {tmp_path}/out/a.png is the mask of {photos}/a.jpg and would be overwritten; name "
        "another folder with --out\n"
    )
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    assert main([*line, str(photos / "a.jpg")]) == 0, "the same picture may be labelled again"
    assert capsys.readouterr().out.startswith("1 picture labelled by")
    (later / "a.png").rename(later / "d.png")
    assert main([*line, str(later)]) == 0


def test_links_to_folders_are_named(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "more").symlink_to(photos / "deep")
    line = ["predict", " ".join(WORDS), "--runs", str(runs), "--out", str(tmp_path / "out")]
    assert main([*line, str(photos)]) == 0
    assert f"note: {photos}/more: a link to a folder is not looked into" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "number"),
    [
        ("image,class,pixels,percent\na,box,1,100.000\ntorn\n", 3),
        ("image;class;pixels;percent\na;box;1;100.000\n", 1),
        ("\na,box,1,100.000\n", 2),
        ("image,class,pixels,percent\n\na,box,1,100.000\n\n", None),
        ("", None),
    ],
)
def test_a_table_of_areas_that_was_changed(content: str, number: int | None, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "b.png")
    first = Predictor(Bright(), ("background", "box", "lid"), 0, torch.device("cpu"), 30)
    images, out = {"b": tmp_path / "b.png"}, tmp_path / "out"
    list(predict.label(first, images, out))
    (out / "areas.csv").write_text(content)
    if number is None:
        assert list(predict.label(first, images, out)) == []
        kept = [line for line in content.splitlines()[1:] if line]
        written = (out / "areas.csv").read_text().splitlines()
        assert written == ["image,class,pixels,percent", *kept, "b,background,1200,100.000"]
        return
    with pytest.raises(InputError, match=rf"areas\.csv: line {number} does not hold image,class,pixels,percent"):
        list(predict.label(first, images, out))
    assert (out / "areas.csv").read_text() == content


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("stopped", "is not finished (stopped after 1 epochs); the command that trained it goes on"),
        ("failed", "is not finished (failed: a disk is full); the command that trained it tries again"),
        ("running", "is not finished (running): wait for its end"),
    ],
)
def test_a_training_that_is_not_finished_says_why(
    state: str, why: str, runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    (key,) = Store(runs).keys()
    folder = tmp_path / "runs" / key
    (folder / "record.json").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text(lines[0])
    if state == "failed":
        write_json(folder / "failure.json", {"error": "a disk is full", "time": "", "call": None, "traceback": ""})
    with locked(folder / "lock") if state == "running" else nullcontext():
        assert main(["predict", key, str(photos), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err == f"seminar: {folder}: {why}\n"
    assert not (tmp_path / "o").exists()


def test_areas_are_written_of_what_was_labelled_before_a_stop(tmp_path: Path) -> None:
    class Stopping(Bright):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if image.shape[-1] != 40:
                raise KeyboardInterrupt
            return super().forward(image)

    for name, width in (("a", 40), ("b", 50)):
        Image.new("RGB", (width, 30)).save(tmp_path / f"{name}.png")
    stopping = Predictor(Stopping(), ("background", "box", "lid"), 0, torch.device("cpu"), 30)
    with pytest.raises(KeyboardInterrupt):
        list(predict.label(stopping, {name: tmp_path / f"{name}.png" for name in "ab"}, tmp_path / "out"))
    assert (tmp_path / "out" / "areas.csv").read_text().splitlines()[1:] == ["a,background,1200,100.000"]


def test_formats_that_cannot_be_read_are_named(
    runs: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "IMG_1.HEIC").write_bytes(b"ftypheic")
    line = ["predict", " ".join(WORDS), str(photos), "--runs", str(runs), "--out", str(tmp_path / "out")]
    assert main(line) == 1
    printed = capsys.readouterr()
    assert "IMG_1.HEIC: HEIC pictures cannot be read; convert it to JPEG or PNG" in printed.err
    assert printed.out.startswith("3 pictures labelled")
    for path in photos.rglob("*.[jp][pn]g"):
        path.unlink()
    assert main(line) == 2
    assert "IMG_1.HEIC: HEIC pictures cannot be read; convert it" in capsys.readouterr().err


def test_a_legend_breaks_its_lines() -> None:
    names = [(f"class number {number}", (number, 0, 0)) for number in range(1, 5)]
    narrow, wide = legend(names, 130, 100), legend(names[:2], 1200, 100)
    assert narrow.size == (130, 4 * 15), "letters of 10 pixels, a line for each"
    assert wide.size == (1200, 60), "letters of 40 pixels, both in a line"
    assert legend([], 50, 50).size == (50, 0)


class Steps(nn.Module):
    """Answers the n-th call with the n-th number, for both classes."""

    def __init__(self, answers: list[float]) -> None:
        super().__init__()
        self.answers, self.seen = answers, list[torch.Size]()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.seen.append(image.shape)
        return torch.full((1, 2, *image.shape[2:]), self.answers[len(self.seen) - 1])


@pytest.mark.parametrize(("short", "seen"), [(16, (1, 3, 16, 40)), (80, (1, 3, 80, 200))])
def test_a_picture_is_seen_at_the_size_asked_for(short: int, seen: tuple[int, ...]) -> None:
    net = Steps([0.0])
    labels = Predictor(net, ("a", "b"), 0, torch.device("cpu"), short)(np.zeros((40, 100, 3), np.uint8))
    assert net.seen == [seen]
    assert labels.shape == (40, 100)


def test_where_windows_overlap_their_mean_counts() -> None:
    slide = Predictor(Steps([2.0, 6.0]), ("a", "b"), 0, torch.device("cpu"), 3, 3)._slide
    logits = slide(torch.zeros(1, 3, 3, 5, dtype=torch.uint8))
    assert torch.equal(logits, torch.tensor([2.0, 2.0, 4.0, 6.0, 6.0]).expand(1, 2, 3, 5))


def test_windows_cover_everything() -> None:
    for length in (1, 32, 33, 100, 257):
        starts = predict._starts(length, 32)
        covered = {at for start in starts for at in range(start, min(length, start + 32))}
        assert covered == set(range(length))
        assert all(after - before <= 22 for before, after in pairwise(starts)), "with a third in common"
