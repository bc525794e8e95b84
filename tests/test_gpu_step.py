"""A whole training step on a CUDA device, without a card: torch's fake tensors carry shapes, types and devices.

A fake tensor refuses what needs its values, so a step that would have the CPU wait for the GPU fails here.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from seminar import cost, recipes
from seminar.spec import Scalar, Stage
from seminar.train import Trainer
from tests.cuda_standin import walk

PRECISIONS: tuple[str, ...] = get_args(Stage.model_fields["precision"].annotation)
RAMPED = 50
"""An epoch in which every loss of the profile has its full weight."""


@pytest.fixture
def mode(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Fake tensors for two CUDA devices. A network becomes fake when it is moved to its device."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    move = nn.Module.to

    def to(self: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        with mode:
            return move(self, *args, **kwargs)

    monkeypatch.setattr(nn.Module, "to", to)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(Tensor, "backward", walk.backward)
    monkeypatch.setattr(torch.autograd, "grad", walk.grad)
    # torch.autocast switches itself off where there is no card.
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    # `torch.random.fork_rng` reads and restores the random state of the device, which needs a driver.
    states = {name: torch.Generator().get_state() for name in ("cuda", "cuda:0", "cuda:1")}
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": states[str(torch.device(device))])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device="cuda": states[str(torch.device(device))])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")  # copy.deepcopy does
        warnings.filterwarnings("ignore", "'pin_memory' argument is set as true but no accelerator is found")
        yield mode


class Watched(TorchDispatchMode):
    """Checks every operation of a step as it is executed.

    All tensors are on `device`. Nothing is copied between CPU and GPU except with `non_blocking=True`. Convolutions
    compute in `dtype`, channels last, but for the last one, which gives the logits of `classes` in float32. `peak`: the
    most bytes of tensors that were alive at the same time.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype, classes: int) -> None:
        super().__init__()
        self.device, self.dtype, self.classes = device, dtype, classes
        self.convolutions = 0
        self.live = self.peak = 0
        self._storages: set[int] = set()

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = op(*args, **(kwargs or {}))
        given, made = ([x for x in tree_leaves(each) if isinstance(x, Tensor)] for each in ((args, kwargs), result))
        devices = {x.device for x in given if x.ndim}  # a number from the CPU goes to a kernel as an argument
        for x in made:
            assert x.device == self.device, f"{op} gives a tensor on {x.device}"
        if devices - {self.device}:
            assert op is torch.ops.aten._to_copy.default, f"{op} takes tensors on {devices}"
            assert (kwargs or {}).get("non_blocking"), "a copy that the CPU waits for"
        if op in (torch.ops.aten.convolution.default, torch.ops.aten.convolution_backward.default):
            self.convolutions += 1
            backward = op is not torch.ops.aten.convolution.default
            weight = given[1 + backward]
            dtype = torch.float32 if weight.shape[0] == self.classes else self.dtype
            for x in given[backward:]:  # cuDNN copies a gradient that comes in another layout
                assert x.dtype == dtype, f"{op} computes in {x.dtype}"
                assert x.ndim < 4 or x.is_contiguous(memory_format=torch.channels_last), f"{op}: {x.shape} is NCHW"
            # Without a card torch believes that cuDNN cannot do bfloat16, and plans a kernel that returns NCHW.
            result = tree_map_only(Tensor, _channels_last, result)
        tree_map_only(Tensor, self.count, result)
        return result

    def count(self, x: Tensor) -> None:
        """Count a tensor as memory until its storage is freed."""
        storage = x.untyped_storage()
        number, size = storage._cdata, storage.nbytes()
        if number not in self._storages:
            self._storages.add(number)
            self.live += size
            self.peak = max(self.peak, self.live)
            weakref.finalize(storage, self._freed, number, size)

    def _freed(self, number: int, size: int) -> None:
        self._storages.discard(number)
        self.live -= size


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def trainer_of(device: str, **settings: Scalar) -> tuple[Trainer, Mapping[str, Tensor]]:
    """A trainer of profile voc on generated images, with all losses and an untrained ancillary, and a batch for it."""
    small: dict[str, Scalar] = {"crop": 97, "batch_size": 3, **settings}
    data = {"data": "creatures", "data_size": 64, "data_train": small["batch_size"], "data_val": 2}
    # ImageNet's weights are a download. Loader processes take longer to start than they save here.
    host: dict[str, Scalar] = {"pretrained": "none", "loader_workers": 0, "device": device}
    cell = recipes.one({"profile": "voc", **data, **host, **small})
    assert [term.name for term in cell.stage.losses] == ["crf", "pce", "pcons", "pseudo"]
    trainer = cost.untrained(cell.stage, cell.host)
    trainer.student.train()
    (views,) = trainer.loader(0)
    return trainer, views


def step(mode: FakeTensorMode, trainer: Trainer, views: Mapping[str, Tensor], number: int = 0) -> Watched:
    """Run one optimiser step; check its operations, what the losses are given and what it returns."""
    device = torch.device(trainer.host.device)
    dtype = torch.bfloat16 if trainer.stage.precision == "bf16" else torch.float32
    watched = Watched(device, dtype, trainer.classes)
    collect = trainer.inputs

    def inputs(views: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        found = collect(views, step)
        for name, value in found.items():
            assert value.device == device, name
        assert found["student"].dtype == found["teacher"].dtype == found["image"].dtype == torch.float32
        assert found["student"].shape == (trainer.stage.batch_size, trainer.classes, *(2 * (trainer.stage.crop,)))
        assert found["labels"].dtype == found["pseudo"].dtype == torch.int64
        assert found["student"].requires_grad
        assert not found["teacher"].requires_grad
        return found

    with pytest.MonkeyPatch.context() as patch, mode, watched:
        patch.setattr(trainer, "inputs", inputs)
        for tensor in state(trainer):
            watched.count(tensor)
        facts = trainer.step(views, RAMPED, number)
    for name, value in facts.items():
        assert value.device == device, name
        assert value.shape == (), name
    assert {f"loss_{term.name}" for term in trainer.stage.losses} <= facts.keys()
    return watched


def state(trainer: Trainer) -> list[Tensor]:
    """Every tensor that lives from step to step: weights, running statistics, gradients, momentum, the teacher."""
    assert trainer.teacher is not None
    assert trainer.ancillary is not None
    nets = (trainer.student, trainer.teacher.net, trainer.ancillary)
    tensors = [tensor for net in nets for tensor in (*net.parameters(), *net.buffers())]
    gradients = [weight.grad for weight in trainer.student.parameters() if weight.grad is not None]
    momentum = [x for each in trainer.optimizer.state.values() for x in each.values() if isinstance(x, Tensor)]
    return [*tensors, *gradients, *momentum]


CASES = [
    pytest.param(backbone, precision, "cuda:0", marks=marks)
    for backbone, marks in (("resnet101", [pytest.mark.slow]), ("mobilenet_v2", []))
    for precision in PRECISIONS
]


@pytest.mark.parametrize(("backbone", "precision", "device"), [*CASES, ("mobilenet_v2", "fp32", "cuda:1")])
def test_a_step_stays_on_its_device(mode: FakeTensorMode, backbone: str, precision: str, device: str) -> None:
    trainer, views = trainer_of(device, backbone=backbone, precision=precision)
    before = len(state(trainer))
    watched = step(mode, trainer, views)
    assert watched.convolutions > 100
    weights = list(trainer.student.parameters())
    assert len(state(trainer)) == before + 2 * len(weights), "a gradient and a momentum for each weight"
    assert {str(tensor.device) for tensor in state(trainer)} == {device}
    for weight in weights:
        assert weight.dtype == torch.float32
        assert weight.is_contiguous(memory_format=torch.channels_last) or weight.ndim < 4
        assert weight.grad is not None
        assert weight.grad.stride() == weight.stride(), "else the optimiser is several times slower"


def test_a_second_step_needs_no_more_memory(mode: FakeTensorMode) -> None:
    trainer, views = trainer_of("cuda:0", backbone="small_resnet")
    step(mode, trainer, views, 0)
    second, third = (step(mode, trainer, views, number).peak for number in (1, 2))
    assert second == third


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "most"), [("resnet101", 15), ("mobilenet_v2", 11)])
def test_the_step_of_the_paper_fits_a_card(mode: FakeTensorMode, backbone: str, most: float) -> None:
    """513 pixels, 12 images, 7 classes instead of 21; `most` in GiB.

    Only tensors count: the work space of cuDNN and what the allocator caches come on top.
    """
    trainer, views = trainer_of("cuda:0", backbone=backbone, crop=513, batch_size=12)
    peak = step(mode, trainer, views).peak / 2**30
    assert 1 < peak < most


@pytest.mark.parametrize(
    ("mistake", "error"),
    [
        (lambda total: float(total), DataDependentOutputException),
        (lambda total: bool(total > 0), DataDependentOutputException),
        (lambda total: total.reshape(1).nonzero(), RuntimeError),
        (lambda total: total.cpu(), AssertionError),
        (lambda total: torch.ones(2).to(total.device), AssertionError),
        (lambda total: torch.tensor(2.0, device=total.device), AssertionError),
        (lambda total: torch.ones(3) + 1, AssertionError),
        (lambda total: total + torch.ones(2, device="cuda:1"), AssertionError),
        (lambda total: torch.ones(2, device="cuda:1"), AssertionError),
    ],
)
def test_what_makes_the_cpu_wait_is_noticed(mode: FakeTensorMode, mistake: Any, error: type[Exception]) -> None:
    trainer, views = trainer_of("cuda:0", backbone="small_resnet", crop=65, batch_size=2)
    right = trainer.objective

    def wrong(views: Mapping[str, Tensor], epoch: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        total, parts = right(views, epoch, step)
        mistake(total.detach())
        return total, parts

    trainer.objective = wrong  # type: ignore[method-assign]
    with pytest.raises(error):
        step(mode, trainer, views)
