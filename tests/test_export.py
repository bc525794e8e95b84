"""A finished training taken elsewhere: programs that answer as the original does, a model card, checksums."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from PIL import Image

from seminar import export, model_card, networks
from seminar.__main__ import main
from seminar.predict import label, predictor
from seminar.spec import InputError
from seminar.store import Store
from seminar.views import normalise
from tests.test_golden import GOLDEN

WORDS = ["profile=toy", "losses=pce+pcons", "seed=3", "data_train=8", "epochs=1"]
FILES = {"README.md", "model.pt2", "weights.pt", "config.json", "classes.txt", "SHA256SUMS"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished training."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *WORDS, "--runs", str(folder), "--wandb", "disabled"]) == 0
    return folder


@pytest.fixture(scope="module")
def key(runs: Path) -> str:
    (found,) = Store(runs).keys()
    return found


@pytest.fixture(scope="module")
def exported(runs: Path, key: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of that training, with ONNX."""
    out = tmp_path_factory.mktemp("exported") / "net"
    printed = export.export(Store(runs), key, out, onnx=True)
    assert [line.partition(":")[0] for line in printed[1:]] == ["model.pt2", "model.onnx", f"wrote {out}"]
    return out


def record_of(runs: Path, key: str) -> Any:
    return Store(runs).record(key)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 40), (1, 97, 211), (1, 700, 1100)])
def test_programs_answer_as_the_original(runs: Path, key: str, exported: Path, shape: tuple[int, int, int]) -> None:
    """At any batch, height and width; the largest is further from square than anything it was trained on."""
    batch, height, width = shape
    image = np.random.default_rng(0).uniform(0, 255, (batch, 3, height, width)).astype(np.float32)
    session = onnxruntime.InferenceSession(exported / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        original = predictor(Store(runs), key, "cpu").net(normalise(torch.from_numpy(image))).numpy()
        program = torch.export.load(exported / "model.pt2").module()(torch.from_numpy(image)).numpy()
    for found in (session.run(None, {"image": image})[0], program):
        assert found.shape == original.shape == (batch, 7, height, width)
        np.testing.assert_allclose(found, original, atol=1e-4 * float(np.abs(original).max()))
        assert (found.argmax(1) == original.argmax(1)).mean() > 0.9999


def test_it_says_what_it_is(key: str, exported: Path) -> None:
    assert {path.name for path in exported.iterdir()} == {*FILES, "model.onnx"}
    about = json.loads((exported / "config.json").read_text())
    assert about["key"] == key and about["backbone"] == "small_resnet" and about["network"] == "student"
    assert (about["output_stride"], about["short_side"]) == (8, 32), "as the profile `toy` has them"
    assert about["classes"][0] == "background" and len(about["classes"]) == 7 and about["background"] == 0
    assert (exported / "classes.txt").read_text().splitlines() == about["classes"]
    inside = {entry.key: entry.value for entry in onnx.load(exported / "model.onnx").metadata_props}
    assert json.loads(inside["classes"]) == about["classes"]
    assert inside["input"].startswith("image: (batch, 3, height, width) float32, RGB in 0..255")
    sums = dict(line.split("  ")[::-1] for line in (exported / "SHA256SUMS").read_text().splitlines())
    assert sums == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in exported.iterdir()
        if path.name != "SHA256SUMS"
    }


@pytest.mark.slow
def test_the_lines_of_the_card_load_it_without_this_package(
    runs: Path, key: str, exported: Path, tmp_path: Path
) -> None:
    """Both snippets, in a process that cannot import the package, on a photo that is not square."""
    lines = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    assert len(lines) == 2
    pixels = np.random.default_rng(1).integers(0, 255, (9, 14, 3), dtype=np.uint8)
    photo = tmp_path / "photo.jpg"
    Image.fromarray(pixels).resize((90, 61), Image.Resampling.BICUBIC).save(photo)
    assert list(label(predictor(Store(runs), key, "cpu"), {"photo": photo}, tmp_path / "out")) == []
    rows = [line.split(",") for line in (tmp_path / "out" / "areas.csv").read_text().splitlines()[1:]]
    expected = {row[1]: int(row[2]) for row in rows}
    assert len(expected) > 1, "a photo of one class proves little"
    shutil.copy(photo, exported / "photo.jpg")
    try:
        for code in lines:
            alone = f"import sys; sys.modules['seminar'] = None\n{code}"
            done = subprocess.run(
                [sys.executable, "-I", "-c", alone], cwd=exported, capture_output=True, text=True, check=True
            )
            found = yaml.safe_load(done.stdout.splitlines()[-1])
            apart = sum(abs(found.get(name, 0) - expected.get(name, 0)) for name in {*found, *expected})
            assert apart <= 0.06 * 90 * 61, (found, expected)
    finally:
        (exported / "photo.jpg").unlink()


def test_the_card(runs: Path, key: str, exported: Path) -> None:
    text = (exported / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["pipeline_tag"] == "image-segmentation"
    miou = record_of(runs, key)["metrics"]["student"]["crop"]["miou"]
    assert head["model-index"][0]["results"][0]["metrics"][0]["value"] == round(miou, 2)
    assert f"mIoU {miou:.2f} % on 8 validation images" in text
    assert "One training: how far its score depends on the seed is not known." in text
    assert "| 0 | background (no object) | `#000000` |" in text
    assert "learned from clicks of 1 x 1 pixels (losses: pce + pcons)" in text
    assert "lambda\\_" not in text.split("```")[-2], "settings stand as they are typed"


def card(runs: Path, key: str, mious: list[float], **changes: Any) -> str:
    about = {
        "key": key,
        "what": "what",
        "network": "student",
        "backbone": "small_resnet",
        "short_side": 32,
        "smallest_side": 32,
        "classes": ["background", "cat"],
        "background": 0,
        "weights_input": "x",
    }
    record = record_of(runs, key)
    scores = {"miou": 50.0, "iou": [70.0, 25.0], "recall": [80.0, None]}
    record["metrics"]["student"]["crop"] = changes.pop("scores", scores)
    return model_card.render({**about, **changes}, record, mious, onnx=False)


def test_the_card_gives_the_spread_over_seeds_and_what_is_weak(runs: Path, key: str) -> None:
    text = card(runs, key, [48.0, 50.0, 52.0])
    assert (
        "Of 3 trainings that differ in the seed alone the mean is 50.00 % (48.00 to 52.00), standard deviation 2.00"
        in text
    )
    assert "| background | 70.0 | 80.0 |\n| cat | 25.0 | – |" in text
    assert "- Below 30 % IoU on the validation images: cat." in text
    assert "onnxruntime" not in text


def test_a_missing_score_is_no_0(runs: Path, key: str) -> None:
    text = card(runs, key, [], scores={"miou": None})
    assert "None: no validation image had a mask. How good it is was not measured." in text
    assert "model-index" not in text
    assert " 0.0" not in text.split("## How to load")[0]


def test_names_of_others_mark_nothing_up(runs: Path, key: str) -> None:
    text = card(runs, key, [50.0], classes=["background", "<b>|*x*\n# y"], what="a: [b](c)\n---")
    assert "| 1 | \\<b\\>\\|\\*x\\* \\# y | `#800000` |" in text
    assert "# a: \\[b\\](c) ---" in text
    assert yaml.safe_load(text.split("---\n")[1])["model-index"][0]["name"] == "a: [b](c)\n---"


def test_trainings_that_differ_in_the_seed_alone(tmp_path: Path) -> None:
    """Of the committed records, two seeds of each row of Table 3."""
    shutil.copytree(GOLDEN / "runs", tmp_path / "runs")
    store = Store(tmp_path / "runs")
    rows: dict[str, list[Any]] = {}
    keys = store.keys()
    for key in keys:
        record: Any = store.record(key)
        rows.setdefault("+".join(term["name"] for term in record["stage"]["losses"]), []).append(record)
    for label_of, row in rows.items():
        mious = sorted(record["metrics"]["student"]["crop"]["miou"] for record in row)
        assert len(mious) == 2, label_of
        assert [model_card.repeats(store, record) for record in row] == [mious, mious]
    own, other = rows["pce"]
    (store.folder(other["key"]) / "record.json").write_text("damaged")
    assert model_card.repeats(store, own) == [own["metrics"]["student"]["crop"]["miou"]]


@pytest.mark.slow
def test_a_network_that_answers_otherwise_is_not_written(
    runs: Path, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(InputError, match="off those of the original"):
        export.export(Store(runs), key, tmp_path / "net", onnx=True)
    assert not list(tmp_path.iterdir())


def test_plain_state_dict_of_the_teacher(
    runs: Path, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "teacher"
    assert main(["export", " ".join(WORDS), "--teacher", "--out", str(out), "--runs", str(runs)]) == 0
    assert (
        f"wrote {out}: README.md, classes.txt, config.json, model.pt2, weights.pt, SHA256SUMS"
        in capsys.readouterr().out
    )
    about = json.loads((out / "config.json").read_text())
    assert about["network"] == "teacher"
    assert about["weights_input"].endswith("RGB / 255, less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)")
    net = networks.build(about["backbone"], len(about["classes"]), about["output_stride"])
    net.load_state_dict(torch.load(out / "weights.pt", weights_only=True))
    image = torch.rand(2, 3, 48, 40)
    for teacher in (True, False):
        original = predictor(Store(runs), key, "cpu", teacher).net(image)
        assert torch.allclose(net.eval()(image), original, rtol=1e-3, atol=1e-4) is teacher
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    assert main(["export", key, "--out", str(out), "--runs", str(runs)]) == 0, "its own may be replaced"
    assert json.loads((out / "config.json").read_text())["network"] == "student"
    assert {path.name for path in out.iterdir()} == set(before)
    assert list(tmp_path.iterdir()) == [out], "nothing is left beside it"


@pytest.mark.parametrize("content", [b"[1]", b"no JSON", b"\xff", b'{"key": "a", "network": "b", "classes": []}'])
def test_a_folder_of_another_program_stays(
    runs: Path, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    out = tmp_path / "net"
    out.mkdir()
    (out / "config.json").write_bytes(content)
    assert main(["export", key, "--out", str(out), "--runs", str(runs)]) == 2
    assert capsys.readouterr().err.startswith(f"seminar: {out}: exists already, and is not of `seminar export`")
    assert (out / "config.json").read_bytes() == content
    assert list(tmp_path.iterdir()) == [out]


def test_an_edited_model_card_stays(
    runs: Path, key: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The card asks for what only people know, so they will write it there."""
    out = tmp_path / "net"
    shutil.copytree(exported, out)
    with (out / "README.md").open("a") as card:
        card.write("The photos are ours.")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert main(["export", key, "--out", str(out), "--runs", str(runs)]) == 2
    assert capsys.readouterr().err.startswith(f"seminar: {out}/README.md: was changed after `seminar export` wrote it")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    (out / "SHA256SUMS").unlink()
    assert main(["export", key, "--out", str(out), "--runs", str(runs)]) == 2, "nothing says that they are ours"


def test_a_link_to_a_folder_stays_one(runs: Path, key: str, exported: Path, tmp_path: Path) -> None:
    shutil.copytree(exported, tmp_path / "net")
    (tmp_path / "link").symlink_to("net")
    assert main(["export", key, "--out", str(tmp_path / "link"), "--runs", str(runs)]) == 0
    assert (tmp_path / "link").is_symlink()
    assert not (tmp_path / "net" / "model.onnx").exists(), "what it leads to was replaced"
    assert sorted(os.listdir(tmp_path)) == ["link", "net"]


@pytest.mark.parametrize("fails", ["Path.mkdir", "Path.write_bytes", "Path.write_text", "os.replace"])
def test_a_disk_that_is_full_is_named(
    fails: str,
    runs: Path,
    key: str,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "net"
    shutil.copytree(exported, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    replace = os.replace
    monkeypatch.setattr(f"seminar.export.{fails}", refuse)
    if fails == "os.replace":  # of the finished folder, when the one before is moved away already
        monkeypatch.setattr(
            fails, lambda old, new: refuse() if new == out and "before" not in old.name else replace(old, new)
        )
    assert main(["export", key, "--out", str(out), "--runs", str(runs)]) == 2
    monkeypatch.undo()
    assert capsys.readouterr().err == f"seminar: {out}: No space left on device; free some space and call again\n"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert os.listdir(tmp_path) == ["net"], "nothing is left beside it"


@pytest.mark.parametrize("name", ["weights.pt", "model.pt2"])
def test_a_disk_that_is_full_in_the_middle_of_a_file_is_named(
    name: str, runs: Path, key: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit on the size of files, below that of the file `name` alone, stands for the disk."""
    room = (exported / name).stat().st_size - 1000
    assert room > (exported / "weights.pt").stat().st_size or name == "weights.pt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        assert main(["export", key, "--out", str(tmp_path / "net"), "--runs", str(runs)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert capsys.readouterr().err == f"seminar: {tmp_path}/net: File too large\n"
    assert not os.listdir(tmp_path)


def test_refused(
    runs: Path,
    key: str,
    exported: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", key, "--out", "no/where", "--runs", str(runs)]) == 2
    assert capsys.readouterr().err == "seminar: no: no such folder; make it first, or name another place with --out\n"
    shutil.copytree(exported, "mine")
    Path("mine/notes.txt").write_text("kept")
    Path("file").write_text("kept")
    for name in ("mine", "file"):
        assert main(["export", key, "--out", name, "--runs", str(runs)]) == 2
        assert "exists already, and is not of `seminar export`" in capsys.readouterr().err, "something else lies in it"
    assert Path("mine/notes.txt").read_text() == Path("file").read_text() == "kept"
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", key, "--onnx", "--runs", str(runs)]) == 2
    assert "onnxruntime is not installed; pip install 'seminar-learning[export]'" in capsys.readouterr().err
    Path("onnxscript.py").write_text("raise ImportError('a library of another system')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxscript", raising=False)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    assert main(["export", key, "--onnx", "--runs", str(runs)]) == 2
    assert capsys.readouterr().err.startswith("seminar: --onnx: a library of another system; pip install")
    Path("onnxscript.py").unlink()
    shutil.rmtree("__pycache__", ignore_errors=True)
    assert main(["export", "losses=ce profile=toy", "--runs", str(runs)]) == 2
    assert "is not finished" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["file", "mine"]
