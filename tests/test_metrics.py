"""Confusion counts and what is computed from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seminar.metrics import Confusion


def scored(logits: Tensor, mask: Tensor) -> dict[str, object]:
    confusion = Confusion(logits.shape[1])
    confusion.add(logits, mask)
    return confusion.scores()


def one_hot(prediction: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(prediction, classes).movedim(-1, 1).float()


def test_hand_counted() -> None:
    truth = torch.tensor([[[0, 0, 0, 1], [1, 1, 2, 255]]])
    predicted = torch.tensor([[[0, 0, 1, 1], [1, 0, 1, 0]]])
    scores = scored(one_hot(predicted, 3), truth)
    # class 0: hits 2, union 2 + 1 missed + 1 wrong = 4; class 1: hits 2, union 3 + 2 = 5; class 2: hits 0, union 1
    assert scores["iou"] == pytest.approx([50, 40, 0])
    assert scores["miou"] == pytest.approx(30)
    assert scores["background_recall"] == pytest.approx(200 / 3)
    assert scores["foreground_recall"] == pytest.approx((200 / 3 + 0) / 2)


def test_absent_class_is_missing_not_zero() -> None:
    truth = torch.tensor([[[0, 1]]])
    scores = scored(one_hot(truth, 3), truth)
    assert scores["iou"] == [100, 100, None]
    assert scores["miou"] == 100
    empty = scored(one_hot(truth, 3), torch.full_like(truth, 255))
    assert empty["miou"] is None
    assert empty["miou_bias"] is None


def test_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 5, 6, 6, generator=generator)
    truth = torch.randint(0, 5, (4, 6, 6), generator=generator)
    confusion = Confusion(5)
    for i in range(4):
        confusion.add(logits[i : i + 1], truth[i : i + 1])
    assert confusion.scores() == scored(logits, truth)


def test_bias_is_the_best_of_a_brute_force_search() -> None:
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(2, 4, 16, 16, generator=generator)
    truth = torch.where(torch.rand(2, 16, 16, generator=generator) < 0.7, 0, logits.argmax(1))
    scores = scored(logits, truth)
    best = (-1.0, 0.0)
    for step in range(-60, 61):
        moved = logits.clone()
        moved[:, 0] += step / 10
        best = max(best, (float(scored(moved, truth)["miou"]), step / 10))  # type: ignore[arg-type]
    assert scores["miou_bias"] == pytest.approx(best[0], abs=0.2)
    assert scores["background_bias"] == pytest.approx(best[1], abs=0.2)
    assert scores["miou_bias"] >= scores["miou"]  # type: ignore[operator]


def test_bias_zero_is_plain_argmax_also_for_ties() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(0, 3, (2, 3, 8, 8), generator=generator).float()
    truth = torch.randint(0, 3, (2, 8, 8), generator=generator)
    predicted = logits.argmax(1)
    expected = [
        100 * ((truth == c) & (predicted == c)).sum() / ((truth == c) | (predicted == c)).sum() for c in range(3)
    ]
    assert scored(logits, truth)["iou"] == pytest.approx([float(value) for value in expected])
