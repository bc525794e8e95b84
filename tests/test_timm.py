"""Backbones of timm under the suite's head."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seminar import networks, parallel, pretrained, train, weights
from seminar.__main__ import main
from seminar.catalogue import Cell
from seminar.colours import IMAGENET_MEAN, IMAGENET_STD
from seminar.spec import InputError
from seminar.store import Store
from tests.test_parallel import call

timm = pytest.importorskip("timm", reason="timm is not installed (pip install 'seminar-learning[timm]')")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors comes with timm")
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
        ("timm/resnet18.a1_in2k", "did you mean 'timm/resnet18.a1_in1k'"),
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


def test_what_torch_cannot_export_is_named(cell: MakeCell, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Padding as TensorFlow's depends on the size of the picture, by an operation that torch.export cannot write."""
    found = cell(losses="pce", backbone="timm/tf_mobilenetv3_small_minimal_100")
    store = Store(tmp_path / "runs")
    store.ensure(found.stage, lambda stage, folder, path: train.train(stage, found.host, folder, path, []))
    out = tmp_path / "out"
    assert main(["export", found.stage.key, "--runs", str(tmp_path / "runs"), "--out", str(out)]) == 2
    said = capsys.readouterr().err
    assert "timm/tf_mobilenetv3_small_minimal_100: torch.export cannot write this network" in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_pretrained_weights_of_a_file(cell: MakeCell, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file as timm writes it, of the whole classifier."""
    torch.manual_seed(5)
    whole = timm.create_model("mobilenetv3_small_050", num_classes=1000)
    path = tmp_path / "whole.pth"
    torch.save(whole.state_dict(), path)
    found = cell(losses="pce", backbone=SMALL, pretrained="imagenet", weights=str(path))
    assert found.stage.pretrained.startswith("mobilenetv3_small_050-")
    net = networks.build(SMALL, 3, 16)
    before = net.encoder.body.net.state_dict()["conv_stem.weight"].clone()
    sha256 = pretrained.load(net, path, found.stage.pretrained)
    body = net.encoder.body.net
    assert sha256.startswith(found.stage.pretrained[-8:])
    assert not torch.equal(body.conv_stem.weight, before)
    for name, value in body.state_dict().items():
        assert torch.equal(value, whole.state_dict()[name]), name
    safe = tmp_path / "whole.safetensors"
    safetensors.save_file(whole.state_dict(), safe)
    other = networks.build(SMALL, 3, 16)
    pretrained.load(other, safe)
    assert torch.equal(other.encoder.body.net.conv_stem.weight, body.conv_stem.weight)
    torch.save({name: value for name, value in whole.state_dict().items() if name != "bn1.running_var"}, path)
    with pytest.raises(InputError, match=r"lacks 1 layers of timm/mobilenetv3_small_050, bn1.running_var first"):
        pretrained.load(net, path)  # which no seed would show: every new network has 1 there
    whole.conv_stem.weight.data[0] = float("nan")
    torch.save(whole.state_dict(), path)
    with pytest.raises(InputError, match="has changed since this training was planned"):
        pretrained.load(net, path, found.stage.pretrained)
    with pytest.raises(InputError, match="not finite"):
        pretrained.load(net, path)
    torch.save({"a": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"lacks \d+ layers of timm/mobilenetv3_small_050, conv_stem.weight first"):
        pretrained.load(net, path)
    torch.save({**whole.state_dict(), "conv_stem.weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match="cannot be loaded into timm/mobilenetv3_small_050"):
        pretrained.load(net, path)
    for content in ({"a": 1}, {}, 3):
        torch.save(content, path)
        with pytest.raises(InputError, match=r"is no state dict|cannot be read as weights"):
            pretrained.load(net, path)
    path.write_text("nothing")
    with pytest.raises(InputError, match="cannot be read as weights"):
        pretrained.load(net, path)
    assert not caplog.records, "timm's warnings name the classifier, which is left out on purpose"


class Harm:
    """What runs code where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object]]:
        return Path.touch, (self.path,)


def test_a_file_with_code_is_refused_and_not_run(tmp_path: Path) -> None:
    path, trace = tmp_path / "harm.pth", tmp_path / "trace"
    torch.save({"conv_stem.weight": Harm(trace)}, path)
    with pytest.raises(InputError, match="cannot be read as weights"):
        pretrained.load(networks.build(SMALL, 3, 16), path)
    assert not trace.exists()


def test_the_image_is_normalised_as_the_weights_know_it() -> None:
    """timm's own normalisation of a photo gives the same features."""
    name = "tf_mobilenetv3_small_minimal_100"
    mean, std = (torch.tensor(value)[:, None, None] for value in (IMAGENET_MEAN, IMAGENET_STD))
    wanted = timm.get_pretrained_cfg(name)
    assert wanted.mean != IMAGENET_MEAN
    torch.manual_seed(0)
    photo = torch.rand(2, 3, 32, 32)
    encoder = networks.build(f"timm/{name}", 3, 16).encoder.eval()
    theirs = (photo - torch.tensor(wanted.mean)[:, None, None]) / torch.tensor(wanted.std)[:, None, None]
    expected = encoder.body.net(theirs)
    torch.testing.assert_close(list(encoder((photo - mean) / std)), expected, rtol=1e-4, atol=1e-5)
    assert {key.partition(".")[0] for key in encoder.body.state_dict()} == {"net"}
    plain = networks.build(SMALL, 3, 16).encoder.eval()
    torch.testing.assert_close(list(plain(photo)), plain.body.net(photo), rtol=0, atol=0)


def test_one_digest_for_every_network_of_timm(cell: MakeCell) -> None:
    one, other, ours = (
        train.versions(cell(losses="pce", backbone=name).stage)[f"network {name}"]
        for name in (SMALL, "timm/resnet10t", "small_resnet")
    )
    assert one == other != ours


def test_timms_own_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network: what timm downloads is put in its place."""
    assert pretrained.identity(SMALL, None) == "timm-mobilenetv3_small_050.lamb_in1k"
    with pytest.raises(InputError, match="pretrained='IMAGENET1K_V2'"):
        pretrained.identity(SMALL, None, "IMAGENET1K_V2")
    create = timm.create_model

    def downloaded(*arguments: object, pretrained: bool = False, **named: object) -> object:
        net = create(*arguments, **named)
        if pretrained:
            for parameter in net.parameters():
                parameter.data.fill_(0.25)
        return net

    monkeypatch.setattr(timm, "create_model", downloaded)
    net = networks.build(SMALL, 3, 16)
    assert len(pretrained.load(net, None, "timm-mobilenetv3_small_050.lamb_in1k")) == 64
    assert float(net.encoder.body.net.conv_stem.weight.detach().mean()) == 0.25


def test_what_cannot_be_downloaded_says_what_else_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    net = networks.build(SMALL, 3, 16)

    def offline(*arguments: object, **named: object) -> object:
        raise OSError("no\nconnection")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(InputError, match=r"no connection; pass weights=PATH of a local copy$"):
        pretrained.load(net, None, "timm-mobilenetv3_small_050.lamb_in1k")


def test_shared_layers_keep_the_activation() -> None:
    """timm's BatchNorm holds its activation, which torch's own conversion loses."""
    torch.manual_seed(0)
    x = torch.randn(4, 5, 3, 3)
    theirs = timm.layers.BatchNormAct2d(5, act_layer=torch.nn.PReLU)
    mine = parallel.SharedBatchNorm.of(theirs)
    assert mine.state_dict().keys() == theirs.state_dict().keys()
    torch.testing.assert_close(mine(x), theirs(x))
    torch.testing.assert_close(mine.eval()(x), theirs.eval()(x))


@pytest.mark.slow
def test_several_processes_train_what_one_trains(tmp_path: Path) -> None:
    """For one epoch of two steps: in float64 the gradients agree to ten digits, but rounding grows fast in a network
    of many BatchNorm layers over few pixels."""
    settings = ["losses=pce+pcons", "data_train=15", "epochs=1", f"backbone={SMALL}"]
    for processes in (1, 2):
        call(processes, *settings, runs=tmp_path / str(processes))
    alone, together = (Store(tmp_path / name) for name in ("1", "2"))
    (key,) = alone.keys()
    assert together.keys() == alone.keys()
    for name in ("loss_pce", "loss_pcons"):
        assert together.curve(key)[0][name] == pytest.approx(alone.curve(key)[0][name], rel=1e-4)
