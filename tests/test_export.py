"""A finished training taken elsewhere: ONNX that answers as the original does, and a plain state dict."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from seminar import export, networks
from seminar.__main__ import main
from seminar.predict import predictor
from seminar.spec import InputError
from seminar.store import Store
from seminar.views import normalise

WORDS = ["profile=toy", "losses=pce+pcons", "seed=3", "data_train=8", "epochs=1"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One finished training."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["train", *WORDS, "--runs", str(folder), "--wandb", "disabled"]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(runs: Path) -> Path:
    (key,) = Store(runs).keys()
    path = runs / "net.onnx"
    printed = export.export(Store(runs), key, path, onnx=True)
    assert (
        printed[0].startswith("checked with onnxruntime")
        and printed[1] == f"wrote {path} and {path.with_suffix('.json')}"
    )
    return path


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 32, 32), (3, 64, 40), (1, 97, 211), (1, 700, 1100)])
def test_onnx_answers_as_the_original(runs: Path, exported: Path, shape: tuple[int, int, int]) -> None:
    """At any batch, height and width; the largest is further from square than anything it was trained on."""
    (key,) = Store(runs).keys()
    batch, height, width = shape
    image = np.random.default_rng(0).uniform(0, 255, (batch, 3, height, width)).astype(np.float32)
    session = onnxruntime.InferenceSession(exported, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": image})
    with torch.inference_mode():
        original = predictor(Store(runs), key, "cpu").net(normalise(torch.from_numpy(image))).numpy()
    assert found.shape == original.shape == (batch, 7, height, width)
    np.testing.assert_allclose(found, original, atol=1e-4 * float(np.abs(original).max()))
    assert (found.argmax(1) == original.argmax(1)).mean() > 0.9999


def test_it_says_what_it_is(runs: Path, exported: Path) -> None:
    (key,) = Store(runs).keys()
    about = json.loads(exported.with_suffix(".json").read_text())
    assert about["key"] == key and about["backbone"] == "small_resnet" and about["network"] == "student"
    assert (about["output_stride"], about["short_side"]) == (8, 32), "as the profile `toy` has them"
    assert about["classes"][0] == "background" and len(about["classes"]) == 7
    inside = {entry.key: entry.value for entry in onnx.load(exported).metadata_props}
    assert json.loads(inside["classes"]) == about["classes"]
    assert inside["input"].startswith("image: (batch, 3, height, width) float32, RGB in 0..255")


@pytest.mark.slow
def test_a_network_that_answers_otherwise_is_not_written(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (key,) = Store(runs).keys()
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    with pytest.raises(InputError, match="off those of the original"):
        export.export(Store(runs), key, tmp_path / "net.onnx", onnx=True)
    assert not list(tmp_path.iterdir())


def test_plain_state_dict(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (key,) = Store(runs).keys()
    path = tmp_path / "teacher.pt"
    assert main(["export", " ".join(WORDS), "--teacher", "--out", str(path), "--runs", str(runs)]) == 0
    assert capsys.readouterr().out.endswith(f"wrote {path} and {tmp_path}/teacher.json\n")
    about = json.loads(path.with_suffix(".json").read_text())
    assert about["network"] == "teacher"
    assert about["input"].endswith("RGB / 255, less (0.485, 0.456, 0.406), over (0.229, 0.224, 0.225)"), "ImageNet's"
    net = networks.build(about["backbone"], len(about["classes"]), about["output_stride"])
    net.load_state_dict(torch.load(path, weights_only=True))
    image = torch.rand(2, 3, 48, 40)
    for teacher in (True, False):
        original = predictor(Store(runs), key, "cpu", teacher).net(image)
        assert torch.allclose(net.eval()(image), original, rtol=1e-3, atol=1e-4) is teacher


@pytest.mark.parametrize("content", [b"[1]", b"no JSON", b"\xff", b'{"key": "a", "network": "b", "classes": []}'])
def test_a_file_of_another_program_stays(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (key,) = Store(runs).keys()
    path = tmp_path / "net.json"
    path.write_bytes(content)
    assert main(["export", key, "--out", str(tmp_path / "net.pt"), "--runs", str(runs)]) == 2
    assert capsys.readouterr().err.startswith(f"seminar: {path}: exists already, and is not of `seminar export`")
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]


def test_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (key,) = Store(runs).keys()
    assert main(["export", key, "--out", "no/where.pt", "--runs", str(runs)]) == 2
    assert capsys.readouterr().err == "seminar: no: no such folder\n"
    for more in (["--out", "net.json"], ["--out", "net.onnx"], ["--out", "net.pt", "--onnx"]):
        assert main(["export", key, *more, "--runs", str(runs)]) == 2
        assert f"--out {more[1]}: must end in " in capsys.readouterr().err
    for name in ("clicks.json", "net.pt"):
        Path(name).write_text('{"a": []}')
        assert main(["export", key, "--out", str(Path(name).with_suffix(".pt")), "--runs", str(runs)]) == 2
        printed = capsys.readouterr().err
        assert (
            printed
            == f"seminar: {name}: exists already, and is not of `seminar export`; name another file with --out\n"
        )
        assert Path(name).read_text() == '{"a": []}'
        Path(name).unlink()
    for _ in range(2):
        assert main(["export", key, "--out", "net.pt", "--runs", str(runs)]) == 0, "its own may be replaced"
    capsys.readouterr()
    Path("net.pt").unlink()
    Path("net.json").unlink()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["export", key, "--onnx", "--runs", str(runs)]) == 2
    assert "onnxruntime is not installed; pip install 'seminar-learning[export]'" in capsys.readouterr().err
    assert main(["export", "losses=ce profile=toy", "--runs", str(runs)]) == 2
    assert "is not finished" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
