"""seminar.networks: shapes, strides, what trains, and what loads into a backbone."""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from seminar import networks, pretrained
from seminar.networks import (
    BACKBONES,
    Freeze,
    OutputStride,
    build,
    parameter_groups,
)
from seminar.spec import InputError

DATA = Path(os.environ.get("SEMINAR_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
IMAGENET = DATA / "weights" / "mobilenet_v2_features_torchvision_bnstats.pth"


@pytest.fixture(autouse=True)
def _one_thread_one_seed() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A torchvision state dict of a random MobileNetV2."""
    path = tmp_path / "weights.pth"
    torch.save(mobilenet_v2(weights=None).state_dict(), path)
    return path


def running(part: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in part.named_buffers() if "running" in name}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize("backbone", sorted(BACKBONES))
def test_shapes_and_strides(backbone: str, stride: OutputStride) -> None:
    net = build(backbone, 5, stride).eval()
    sizes = [(33, 50)] if backbone == "resnet101" else [(16, 16), (65, 65), (64, 96), (33, 50)]
    for height, width in sizes:
        image = torch.randn(1, 3, height, width)
        with torch.no_grad():
            low, high = net.encoder(image)
            logits = net(image)
        fine = 2 if backbone == "small_resnet_fine" else 4
        assert low.shape[2:] == (-(-height // fine), -(-width // fine))
        assert high.shape[2:] == (-(-height // stride), -(-width // stride))
        assert logits.shape == (1, 5, height, width)
        assert logits.dtype == torch.float32


@pytest.mark.parametrize(("stride", "step"), [(16, 2), (8, 4)])
def test_dilated_mobilenet_is_the_original_at_its_grid_points(weights: Path, stride: OutputStride, step: int) -> None:
    original = mobilenet_v2(weights=None)
    original.load_state_dict(torch.load(weights, weights_only=True))
    net = build("mobilenet_v2", 5, stride)
    pretrained.load(net, weights)
    image = torch.randn(2, 3, 70, 97)
    with torch.no_grad():
        low, high = net.eval().encoder(image)
        torch.testing.assert_close(low, original.eval().features[:4](image))
        torch.testing.assert_close(high[:, :, ::step, ::step], original.features[:18](image))


def test_small_resnets_are_small() -> None:
    assert 210_000 < sum(part.numel() for part in build("small_resnet_fine", 7, 8).parameters()) < 240_000
    assert 280_000 < sum(part.numel() for part in build("small_resnet", 7, 8).parameters()) < 340_000


@pytest.mark.parametrize("backbone", ["small_resnet", "mobilenet_v2"])
def test_parameter_groups_hold_each_parameter_once(backbone: str) -> None:
    net = build(backbone, 5, 16)
    groups = parameter_groups(net, 0.1, 10.0)
    torch.optim.SGD(groups)
    grouped = [id(part) for group in groups for part in group["params"]]
    assert sorted(grouped) == sorted(id(part) for part in net.parameters())
    assert [group["lr"] for group in groups] == [0.1, pytest.approx(1.0)]
    assert {id(part) for part in groups[0]["params"]} == {id(part) for part in net.encoder.parameters()}


@pytest.mark.parametrize("freeze", ["none", "bn", "backbone"])
def test_freeze_keeps_the_backbone_only(freeze: Freeze) -> None:
    net = build("small_resnet", 5, 8, freeze)
    parts = (net.encoder, net.aspp, net.decoder)
    before = [running(part) for part in parts]
    net.eval().train()(torch.randn(2, 3, 32, 32)).sum().backward()
    kept = [same(running(part), stats) for part, stats in zip(parts, before, strict=True)]
    assert kept == [freeze != "none", False, False]
    assert all((part.grad is not None) == (freeze != "backbone") for part in net.encoder.parameters())
    assert all(part.grad is not None for head in (net.aspp, net.decoder) for part in head.parameters())


def test_channels_last_gives_the_same_logits() -> None:
    net, image = build("small_resnet", 5, 8).eval(), torch.randn(2, 3, 40, 48)
    with torch.no_grad():
        expected = net(image)
        actual = net.to(memory_format=torch.channels_last)(image.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_bf16_autocast_returns_float32() -> None:
    net = build("small_resnet", 5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(torch.randn(2, 3, 32, 32))
    logits.sum().backward()
    assert logits.dtype == torch.float32


def test_build_is_seeded() -> None:
    def state(seed: int) -> dict[str, Tensor]:
        torch.manual_seed(seed)
        return dict(build("small_resnet", 5, 8).named_parameters())

    assert same(state(1), state(1))
    assert not same(state(1), state(2))


def test_unknown_backbone() -> None:
    with pytest.raises(InputError, match=r"backbone='resnet10'.*did you mean 'resnet101'"):
        build("resnet10", 5, 16)


def test_load_pretrained_fills_the_backbone_and_leaves_the_head(weights: Path) -> None:
    net = build("mobilenet_v2", 5, 16)
    head = {name: part.clone() for name, part in net.aspp.state_dict().items()}
    pretrained.load(net, weights)
    source = torch.load(weights, weights_only=True)
    loaded = {f"features.{name}": value for name, value in net.encoder.body.state_dict().items()}
    assert same(loaded, {name: source[name] for name in loaded})
    assert same(dict(net.aspp.state_dict()), head)


def test_load_pretrained_does_without_batch_counters(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    torch.save({name: value for name, value in state.items() if "num_batches" not in name}, weights)
    pretrained.load(build("mobilenet_v2", 5, 16), weights)


def test_wrong_layers_are_named(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["features.3.conv.0.0.weight"] = torch.zeros(2, 2)
    state["features.20.weight"] = torch.zeros(1)
    for name in [name for name in state if name.startswith("features.5.conv.0.1.")]:
        del state[name]
    torch.save(state, weights)
    net = build("mobilenet_v2", 5, 16)
    before = dict(net.encoder.state_dict())
    with pytest.raises(InputError) as caught:
        pretrained.load(net, weights)
    message = str(caught.value)
    assert f"weights={weights}: 6 layers do not fit mobilenet_v2" in message
    assert "features.20.weight is unexpected" in message
    assert "features.3.conv.0.0.weight is (2, 2) instead of (144, 24, 1, 1)" in message
    assert "features.5.conv.0.1.weight is missing, ..." in message
    assert "\n" not in message
    assert same(dict(net.encoder.state_dict()), before)


def test_unusable_weights(tmp_path: Path) -> None:
    net, path = build("mobilenet_v2", 5, 16), tmp_path / "weights.pth"
    for use in (lambda: pretrained.load(net, path), lambda: pretrained.identity("mobilenet_v2", path)):
        with pytest.raises(InputError, match="No such file"):
            use()
    path.write_bytes(b"<html>not found</html>")
    with pytest.raises(InputError, match="no state dict"):
        pretrained.load(net, path)
    for first in range(256):  # the first byte decides what its reader makes of it
        path.write_bytes(bytes([first]) + b"ext, and more of it\n.")
        with pytest.raises(InputError, match="no state dict"):
            pretrained.load(net, path)
    torch.save([1, 2], path)
    with pytest.raises(InputError, match="no state dict"):
        pretrained.load(net, path)


def test_weights_that_are_not_finite_are_named(weights: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["features.3.conv.0.0.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, weights)
    net = build("mobilenet_v2", 5, 16)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(
        InputError, match=r"1 layers do not fit mobilenet_v2: features\.3\.conv\.0\.0\.weight is not fin"
    ):
        pretrained.load(net, weights)
    assert same(dict(net.state_dict()), before)


@pytest.mark.parametrize("kind", ["sparse", "complex", "quantised", "beyond float32"])
def test_weights_of_another_kind_are_refused(weights: Path, kind: str) -> None:
    state = torch.load(weights, weights_only=True)
    name = "features.3.conv.0.0.weight"
    plain = state[name]
    other: dict[str, Callable[[], Any]] = {
        "sparse": plain.to_sparse,
        "complex": lambda: plain + 1j,
        "quantised": lambda: torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8),
        "beyond float32": lambda: plain.double() + 1e300,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch lets quantised tensors go
        state[name] = other[kind]()
        torch.save(state, weights)
    with pytest.raises(InputError, match="is not finite" if kind.startswith("beyond") else "no state dict"):
        pretrained.load(build("mobilenet_v2", 5, 16), weights)


def test_no_imagenet_weights_for_small_resnet(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="only for mobilenet_v2, mobilenet_v2_light, resnet101"):
        pretrained.load(build("small_resnet", 5, 8), tmp_path / "any.pth")
    with pytest.raises(InputError, match="only for mobilenet_v2, mobilenet_v2_light, resnet101"):
        pretrained.identity("small_resnet", None)


def test_no_network_asks_for_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(InputError, match=r"mobilenet_v2-b0353104.pth.*no route to host.*weights=PATH"):
        pretrained.load(build("mobilenet_v2", 5, 16), None)


def test_download_is_read_from_torchvisions_cache(
    monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    state = torch.load(weights, weights_only=True)
    expected = []
    urls = []
    for _ in range(2):
        state["features.0.0.weight"] = state["features.0.0.weight"] + 1
        torch.save(state, weights)
        digits = hashlib.sha256(weights.read_bytes()).hexdigest()[:8]
        shutil.copy(weights, cache / f"mobilenet_v2-{digits}.pth")
        urls.append(f"https://example.org/mobilenet_v2-{digits}.pth")
        expected.append(state["features.0.0.weight"])

    class Published(Enum):
        IMAGENET1K_V1, IMAGENET1K_V2 = urls

        @property
        def url(self) -> str:
            return str(self.value)

    entry = replace(networks.BACKBONES["mobilenet_v2"], imagenet=Published.IMAGENET1K_V1)
    monkeypatch.setitem(networks.BACKBONES, "mobilenet_v2", entry)
    for name, first in (("imagenet", expected[0]), ("IMAGENET1K_V1", expected[0]), ("IMAGENET1K_V2", expected[1])):
        net = build("mobilenet_v2", 5, 16)
        pretrained.load(net, None, pretrained.identity("mobilenet_v2", None, name))
        assert torch.equal(net.encoder.body.state_dict()["0.0.weight"], first), name


def test_another_file_in_torchvisions_cache_is_refused(
    monkeypatch: pytest.MonkeyPatch, weights: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / "mobilenet_v2-b0353104.pth"
    cached.parent.mkdir(parents=True)
    shutil.copy(weights, cached)
    with pytest.raises(InputError, match=r"b0353104\.pth: is not mobilenet_v2-b0353104 .*; delete it to download"):
        pretrained.load(build("mobilenet_v2", 5, 16), None, "mobilenet_v2-b0353104")


def test_a_file_replaced_after_planning_is_refused(weights: Path) -> None:
    identity = pretrained.identity("mobilenet_v2", weights)
    net = build("mobilenet_v2", 5, 16)
    assert pretrained.load(net, weights, identity) == hashlib.sha256(weights.read_bytes()).hexdigest()
    state = torch.load(weights, weights_only=True)
    state["features.0.0.weight"] += 1
    torch.save(state, weights)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(InputError, match="has changed since this training was planned"):
        pretrained.load(net, weights, identity)
    assert same(dict(net.state_dict()), before)


def test_identity_is_the_content(tmp_path: Path) -> None:
    one, copy, other = (tmp_path / name for name in ("one.pth", "copy.pth", "other.pth"))
    one.write_bytes(b"a")
    copy.write_bytes(b"a")
    other.write_bytes(b"b")
    assert pretrained.identity("resnet101", one) == "resnet101-ca978112"
    assert pretrained.identity("resnet101", copy) == pretrained.identity("resnet101", one)
    assert pretrained.identity("resnet101", other) != pretrained.identity("resnet101", one)
    with pytest.raises(InputError, match=r"is not IMAGENET1K_V2, whose file is resnet101-cd907fc2\.pth; leave out one"):
        pretrained.identity("resnet101", one, "IMAGENET1K_V2")
    assert pretrained.identity("mobilenet_v2", None) == "mobilenet_v2-b0353104"
    assert pretrained.identity("resnet101", None) == "resnet101-63fe2227"
    assert pretrained.identity("resnet101", None, "IMAGENET1K_V2") == "resnet101-cd907fc2"
    for name in ("DEFAULT", "IMAGENET1K_V3"):
        with pytest.raises(InputError, match="IMAGENET1K_V"):
            pretrained.identity("resnet101", None, name)


@pytest.mark.skipif(not IMAGENET.is_file(), reason=f"{IMAGENET.name} is not there")
def test_shared_imagenet_file_loads() -> None:
    net = build("mobilenet_v2", 21, 16, freeze="bn")
    pretrained.load(net, IMAGENET)
    with torch.no_grad():
        features = net.encoder(torch.randn(2, 3, 65, 65))[1]
    assert features.isfinite().all()
    assert 0.1 < features.std() < 10


def test_the_gradient_of_the_features_keeps_channels_last() -> None:
    """It takes the layout of the first branch to go backward; cuDNN would copy an NCHW one."""
    net = build("small_resnet", 5, 8).to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 64, 64).contiguous(memory_format=torch.channels_last)
    features = net.encoder(image)[1].detach().requires_grad_()
    (gradient,) = torch.autograd.grad(net.aspp(features).square().sum(), features)
    assert features.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


def test_logits_are_not_rounded_to_bfloat16() -> None:
    net = build("small_resnet", 5, 8)
    kinds: list[torch.dtype] = []
    net.decoder.classify.register_forward_hook(lambda _, __, logits: kinds.append(logits.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        net(torch.randn(2, 3, 32, 32))
    assert kinds == [torch.float32]
