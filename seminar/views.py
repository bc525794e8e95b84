"""What the networks see: batches of training views, evaluation views, and the randomness behind them.

All randomness of epoch e comes from (seed, e), that of a sample from (seed, e, index): continuing after a kill needs no
saved random state, and the number of loader processes does not matter.
"""

from __future__ import annotations

import errno
import functools
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from seminar.colours import IMAGENET_MEAN, IMAGENET_STD
from seminar.data import Example
from seminar.data.augment import TrainView, eval_view
from seminar.data.grown import grower, labels_of
from seminar.losses import losses, needs
from seminar.spec import InputError, Stage

ORDER, TEACHER, STRONG = -1, -2, -3
"""Third numbers of the seeds of an epoch's order, of the teacher's dropout and of strong views; those of samples are
their indices."""


def batches(examples: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the indices of each batch of `epoch`. A last batch of one is dropped: BatchNorm needs two images."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(mix(seed, epoch, ORDER))).tolist()
    cut = [order[start : start + batch_size] for start in range(0, examples, batch_size)]
    return [batch for batch in cut if len(batch) > 1]


def mix(*numbers: int) -> int:
    """Return a 63-bit seed from several numbers; neighbouring inputs give unrelated seeds."""
    text = "/".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def normalise(image: Tensor) -> Tensor:
    """Turn RGB in 0..255 (B, 3, H, W) into ImageNet's zero mean and unit variance, channels last."""
    # Numbers, since the CPU would wait for a GPU to take tensors of them.
    planes = [(plane / 255 - mean) / std for plane, mean, std in zip(image.unbind(1), IMAGENET_MEAN, IMAGENET_STD)]
    return torch.stack(planes, dim=1).contiguous(memory_format=torch.channels_last)


class TrainingViews(TorchDataset[dict[str, Tensor]]):
    """Training views of one epoch; each is drawn from its own (seed, epoch, index)."""

    def __init__(self, stage: Stage, examples: Sequence[Example], epoch: int, background: int | None) -> None:
        self.view = training_view(stage, background)
        self.examples, self.seed, self.epoch = examples, stage.seed, epoch
        self.masks = any(needs("masks", losses[term.name]) for term in stage.losses)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        state = torch.get_rng_state()
        torch.default_generator.manual_seed(mix(self.seed, self.epoch, index))
        views = self.view(self.examples[index])
        torch.set_rng_state(state)
        # Only a fully supervised loss ever gets to see a dense mask.
        return views if self.masks else {name: view for name, view in views.items() if name != "masks"}


def training_view(stage: Stage, background: int | None) -> TrainView:
    """Return what draws the training views of a stage, from torch's global generator; `background`: see `TrainView`."""
    grow = None
    if (found := grower(stage.annotation)) is not None:
        grow = functools.partial(
            labels_of,
            annotation=found.name,
            settings=stage.annotation_settings,
            size=stage.click_size,
            background=background,
        )
    return TrainView(
        stage.crop,
        stage.scale_min,
        stage.scale_max,
        stage.flip,
        stage.augment_noise,
        stage.click_size,
        stage.click_order,
        stage.annotation,
        background,
        grow,
    )


def loaded(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of a loader. Raises `InputError` where its processes have no room to hand them over."""
    try:
        yield from loader
    except (RuntimeError, OSError) as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC and loader.num_workers > 0
        if not full and "shared memory" not in str(error) and "Bus error" not in str(error):
            raise
        raise InputError(
            f"loader_workers={loader.num_workers}: /dev/shm is too small to hand batches over between processes; take "
            "loader_workers=0, or give it more room (docker run --shm-size=8g)"
        ) from None


def no_label(count: int) -> str:
    """Return what is noted where none of `count` training views holds a label."""
    return (
        f"none of {count} training views holds a label: crops are small against the images, or labels are few; make "
        "the crop larger (crop=) or the images smaller (scale_max=, data_max_side=)"
    )


class EvaluationViews(TorchDataset[tuple[Tensor, Tensor]]):
    """Images and masks to evaluate on: centre crops of side `crop`, or whole (None)."""

    def __init__(self, examples: Sequence[Example], crop: int | None) -> None:
        self.examples, self.crop = examples, crop

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        example = self.examples[index]
        return (example.image, example.mask) if self.crop is None else eval_view(example, self.crop)
