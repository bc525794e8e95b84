"""Backbones of timm under the suite's head."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seminar import networks, train, weights
from seminar.__main__ import main
from seminar.catalogue import Cell
from seminar.spec import InputError
from seminar.store import Store

timm = pytest.importorskip("timm", reason="timm is not installed (pip install 'seminar-learning[timm]')")
MakeCell = Callable[..., Cell]
SMALL = "timm/mobilenetv3_small_050"


@pytest.mark.parametrize("name", [SMALL, "timm/resnet10t", "timm/convnext_atto"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_features_have_the_strides_of_the_head(name: str, output_stride: networks.OutputStride) -> None:
    torch.manual_seed(0)
    net = networks.build(name, 5, output_stride)
    torch.manual_seed(0)
    again = networks.build(name, 5, output_stride)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values()))
    low, high = net.encoder(torch.randn(2, 3, 48, 64))
    assert low.shape[2:] == (12, 16)
    assert high.shape[2:] == (48 // output_stride, 64 // output_stride)
    assert net(torch.randn(2, 3, 50, 66)).shape == (2, 5, 50, 66)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet18x", "did you mean 'timm/resnet18'"),
        ("timm/vit_tiny_patch16_224", "take a convolutional network"),
        ("timm/hrnet_w18_small", "gives no feature maps at stride 4 and 16 for it (AssertionError)"),
        ("timm/", "unknown"),
        ("resnet", "timm/NAME"),
    ],
)
def test_what_cannot_be_used_is_named(name: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "profile=toy", f"backbone={name}", "--wandb", "disabled"]) == 2
    said = capsys.readouterr().err
    assert message in said or (name == "timm/" and "backbone" in said)
    assert said.count("\n") == 1


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from seminar import timm_models

    timm_models._timm.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["train", "profile=toy", f"backbone={SMALL}", "--wandb", "disabled"]) == 2
    assert "pip install 'seminar-learning[timm]'" in capsys.readouterr().err
    timm_models._timm.cache_clear()


def test_it_trains_and_is_read_back(cell: MakeCell, tmp_path: Path) -> None:
    found = cell(losses="pce", backbone=SMALL, output_stride=16)
    store = Store(tmp_path)
    record = store.ensure(found.stage, lambda stage, folder, path: train.train(stage, found.host, folder, path, []))
    assert record["stage"]["backbone"] == SMALL
    net = weights.finished_network(
        found.stage, len(record["classes"]), store.folder(found.stage.key), "student", torch.device("cpu")
    )
    assert net(torch.zeros(1, 3, 32, 32)).shape == (1, len(record["classes"]), 32, 32)


def test_pretrained_weights_of_a_file(cell: MakeCell, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file as timm writes it, of the whole classifier."""
    torch.manual_seed(5)
    whole = timm.create_model("mobilenetv3_small_050", num_classes=1000)
    path = tmp_path / "whole.pth"
    torch.save(whole.state_dict(), path)
    found = cell(losses="pce", backbone=SMALL, pretrained="imagenet", weights=str(path))
    assert found.stage.pretrained.startswith("mobilenetv3_small_050-")
    net = networks.build(SMALL, 3, 16)
    before = net.encoder.body.state_dict()["conv_stem.weight"].clone()
    sha256 = networks.load_pretrained(net, path, found.stage.pretrained)
    assert sha256.startswith(found.stage.pretrained[-8:])
    assert torch.equal(net.encoder.body.state_dict()["conv_stem.weight"], whole.state_dict()["conv_stem.weight"])
    assert not torch.equal(net.encoder.body.state_dict()["conv_stem.weight"], before)
    whole.conv_stem.weight.data[0] = float("nan")
    torch.save(whole.state_dict(), path)
    with pytest.raises(InputError, match="has changed since this training was planned"):
        networks.load_pretrained(net, path, found.stage.pretrained)
    with pytest.raises(InputError, match="not finite"):
        networks.load_pretrained(net, path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"lacks \d+ layers of timm/mobilenetv3_small_050, conv_stem.weight first"):
        networks.load_pretrained(net, path)
    path.write_text("nothing")
    with pytest.raises(InputError, match="cannot be loaded into timm/mobilenetv3_small_050"):
        networks.load_pretrained(net, path)
    assert not caplog.records, "timm's warnings name the classifier, which is left out on purpose"


def test_timms_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: what timm downloads is put in its place."""
    assert networks.pretrained_identity(SMALL, None) == "timm-mobilenetv3_small_050.lamb_in1k"
    with pytest.raises(InputError, match="pretrained='IMAGENET1K_V2'"):
        networks.pretrained_identity(SMALL, None, "IMAGENET1K_V2")
    create = timm.create_model

    def downloaded(*arguments: object, pretrained: bool = False, **named: object) -> object:
        net = create(*arguments, **named)
        if pretrained:
            for parameter in net.parameters():
                parameter.data.fill_(0.25)
        return net

    monkeypatch.setattr(timm, "create_model", downloaded)
    net = networks.build(SMALL, 3, 16)
    assert len(networks.load_pretrained(net, None, "timm-mobilenetv3_small_050.lamb_in1k")) == 64
    assert float(net.encoder.body.state_dict()["conv_stem.weight"].mean()) == 0.25


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "1",
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
    }.items():
        monkeypatch.setenv(name, value)
    assert main(["train", "profile=toy", f"backbone={SMALL}", "--wandb", "disabled"]) == 2
    assert "leave out torchrun" in capsys.readouterr().err
