"""One training on several processes, as `torchrun` starts them: each has its share of every batch and of the validation
images, and all have the same weights.

Means over a batch are means over all of it: of the losses (`batch_mean`), in BatchNorm and in dropout (`shared`), so a
training is the same as in one process up to rounding. Alone, everything here changes nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from seminar import timm_models

T = TypeVar("T")
N = TypeVar("N", bound=nn.Module)


@dataclass
class _Team:
    """The processes of this training. `control`: process group for messages between CPUs; `batch`: images of the batch
    that is trained on."""

    rank: int = 0
    size: int = 1
    control: dist.ProcessGroup | None = None
    batch: int = 0


_team = _Team()


def size() -> int:
    """Return how many processes train together."""
    return _team.size


def leads() -> bool:
    """Return whether this is the process that writes."""
    return _team.rank == 0


def requested() -> tuple[int, int, int]:
    """Return what `torchrun` has set: rank, number of processes, and rank among those of this machine."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    if not {*names, "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys():  # clusters set some of them for other ends
        return 0, 1, 0
    rank, count, local = (int(os.environ[name]) for name in names)
    return rank, count, local


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Be one of the processes that `torchrun` started, as long as the context lasts."""
    rank, count, _ = requested()
    if count == 1:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The first process saves and draws pictures while the others wait for its next gradients.
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(hours=2))
    # One of them may wait for hours while somebody else trains the stage.
    control: Any = dist.new_group(backend="gloo", timeout=timedelta(days=7))
    _team.rank, _team.size, _team.control = rank, count, control
    yield
    # Not where an error passes: the others may be waiting for this process, and `torchrun` then ends them.
    dist.destroy_process_group()
    _team.rank, _team.size, _team.control = 0, 1, None


def broadcast(message: T | None = None) -> T | None:
    """Return the message of the leading process; every process calls this at the same point."""
    box: list[T | None] = [message]
    if size() > 1:
        dist.broadcast_object_list(box, src=0, group=_team.control)
    return box[0]


def is_alone(error: RuntimeError) -> bool:
    """Return whether an error says that another process is gone, which has reported why."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def true_in_any_process(flag: bool) -> bool:
    """Return whether `flag` is true in any process; every process calls this at the same point."""
    return bool(total(torch.tensor(int(flag))))


def total(value: Tensor) -> Tensor:
    """Sum `value` over the processes, in place, and return it; every process calls this at the same point."""
    if size() > 1:
        dist.all_reduce(value, group=_team.control if value.device.type == "cpu" else None)
    return value


def own_share(batch: Sequence[T]) -> Sequence[T]:
    """Return the part of a batch for this process; the parts of all processes differ by one image at most."""
    return batch[_share(len(batch))]


def _share(batch: int) -> slice:
    return slice(batch * _team.rank // size(), batch * (_team.rank + 1) // size())


def begin_batch(batch: int) -> None:
    """Set the size of the whole batch, in images, from here on; this process works on its share of it."""
    _team.batch = batch


def batch_mean(sum_: Tensor, count: int | Tensor) -> Tensor:
    """Return `sum_ / count` over the whole batch, where both are of this process's share; 0 where nothing is counted.

    The mean of it over the processes, and so of its gradient, is that of the whole batch.
    """
    if size() == 1:
        return sum_ / (max(1, count) if isinstance(count, int) else count.clamp(min=1))
    everywhere = total(torch.as_tensor(count, dtype=torch.float32, device=sum_.device).clone())
    return sum_ * size() / everywhere.clamp(min=1)


def images(here: int) -> int:
    """Return the images of the whole batch, of which `here` are in this process."""
    return here if size() == 1 else _team.batch


def image_mean(mean: Tensor, here: int) -> Tensor:
    """Return the mean over the images of this process as its part of that over the whole batch (see `batch_mean`)."""
    return mean if size() == 1 else mean * (here * size() / _team.batch)


def shared(net: N) -> N:
    """Return `net` with BatchNorm and dropout over the whole batch; the names of its weights stay what they are."""
    if size() == 1:
        return net
    for name, child in net.named_children():
        if isinstance(child, nn.Dropout):
            setattr(net, name, _Dropout(child.p))
        elif isinstance(child, nn.BatchNorm2d):
            setattr(net, name, SharedBatchNorm.of(child))
        else:
            shared(child)
    return net


def replicated(net: nn.Module, device: torch.device) -> nn.Module:
    """Return `net` for the forward pass of training: its gradients are averaged over the processes."""
    if size() == 1:
        return net
    return DistributedDataParallel(net, [device] if device.type == "cuda" else None)


class _Dropout(nn.Module):
    """Dropout that draws for the whole batch and keeps its share, so that a sample meets the same draws in any process.

    The draws are those of `torch.nn.Dropout` on a CPU.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        whole = x.new_empty(images(len(x)), *x.shape[1:])
        if x.is_contiguous(memory_format=torch.channels_last):
            whole = whole.contiguous(memory_format=torch.channels_last)
        kept = whole.bernoulli_(1 - self.p).div_(1 - self.p)
        return x * (kept if size() == 1 else kept[_share(_team.batch)])


class SharedBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the whole batch, where torch's SyncBatchNorm knows GPUs only."""

    @staticmethod
    def of(layer: nn.BatchNorm2d) -> nn.Module:
        """Return the synchronised form of a layer; what the layer holds (timm's: dropout, an activation) follows it."""
        if layer.weight.device.type == "cuda":
            if list(layer.children()):
                return timm_models.synchronised(layer)
            synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(layer)  # type: ignore[no-untyped-call]
            return synchronised
        other = SharedBatchNorm(layer.num_features, layer.eps, layer.momentum)
        for name, child in layer.named_children():
            other.add_module(name, child)
        other.load_state_dict(layer.state_dict())
        for mine, theirs in zip(other.parameters(), layer.parameters(), strict=True):
            mine.requires_grad_(theirs.requires_grad)
        return other.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return self._follow(super().forward(x))
        channels, wide = (0, 2, 3), x.float()
        count = total(torch.tensor(x.numel() // x.shape[1]))
        mean = _Total.apply(wide.sum(channels)) / count
        centred = wide - mean[:, None, None]
        variance = _Total.apply(centred.square().sum(channels)) / count
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        normal: Tensor = centred * scale[:, None, None] + self.bias[:, None, None]
        return self._follow(normal.to(x.dtype))

    def _follow(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


class _Total(torch.autograd.Function):
    """`total` with a gradient, and not in place."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return total(value.clone())

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return total(grad.clone())
