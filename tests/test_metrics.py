"""MeanIoU counts and what is computed from them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seminar.metrics import MeanIoU, metrics


def scored(logits: Tensor, mask: Tensor) -> dict[str, object]:
    confusion = MeanIoU(logits.shape[1], 0)
    confusion.add(logits, mask)
    return confusion.scores()


def best_bias(logits: Tensor, truth: Tensor, background: int) -> tuple[float, float]:
    """The mIoU and the bias that a search over all biases finds."""
    best = (-1.0, 0.0)
    for step in range(-60, 61):
        moved = logits.clone()
        moved[:, background] += step / 10
        predicted, classes = moved.argmax(1), logits.shape[1]
        ious = []
        for cls in range(classes):
            mine, true = predicted == cls, truth == cls
            if (mine | true).any():
                ious.append(100 * float((mine & true).sum() / (mine | true).sum()))
        score = sum(ious) / len(ious)
        if score > best[0] + 1e-9 or (abs(score - best[0]) < 1e-9 and abs(step / 10) < abs(best[1])):
            best = (score, step / 10)
    return best


@pytest.mark.parametrize("background", [0, 1, 3])
def test_the_background_may_be_any_class(background: int) -> None:
    """Logits of few values, so that there are many ties, which arg-max gives to the first class."""
    generator = torch.Generator().manual_seed(11)
    logits = torch.randint(-3, 4, (2, 4, 12, 12), generator=generator) / 2
    truth = torch.where(torch.rand(2, 12, 12, generator=generator) < 0.6, background, logits.argmax(1))
    metric = MeanIoU(4, background)
    metric.add(logits, truth)
    scores = metric.scores()
    predicted = logits.argmax(1)
    recalls = [100 * float((predicted[truth == cls] == cls).double().mean()) for cls in range(4)]
    assert scores["recall"] == pytest.approx(recalls)
    assert scores["background_recall"] == pytest.approx(recalls[background])
    others = [recall for cls, recall in enumerate(recalls) if cls != background]
    assert scores["foreground_recall"] == pytest.approx(sum(others) / 3)
    assert (scores["miou_bias"], scores["background_bias"]) == pytest.approx(best_bias(logits, truth, background))


def test_without_a_background_there_is_no_bias() -> None:
    generator = torch.Generator().manual_seed(12)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    truth = torch.randint(0, 3, (2, 8, 8), generator=generator)
    metric = MeanIoU(3, None)
    metric.add(logits, truth)
    assert metric.counts.sum() == truth.numel()
    scores = metric.scores()
    assert set(scores) == {"miou", "iou", "recall", "confusion"}
    with_one = MeanIoU(3, 0)
    with_one.add(logits, truth)
    assert scores == {name: with_one.scores()[name] for name in scores}


def one_hot(prediction: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(prediction, classes).movedim(-1, 1).float()


def test_hand_counted() -> None:
    truth = torch.tensor([[[0, 0, 0, 1], [1, 1, 2, 255]]])
    predicted = torch.tensor([[[0, 0, 1, 1], [1, 0, 1, 0]]])
    scores = scored(one_hot(predicted, 3), truth)
    assert scores["confusion"] == [[2, 1, 0], [1, 2, 0], [0, 1, 0]], "by true class: pixels of each predicted class"
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
    confusion = MeanIoU(5, 0)
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


def border(mask: list[list[bool]], distance: int) -> set[tuple[int, int]]:
    """The pixels of a mask that have one outside it, or the end of the image, within `distance` along x and y."""
    height, width = len(mask), len(mask[0])
    steps = range(-distance, distance + 1)

    def outside(y: int, x: int) -> bool:
        return not (0 <= y < height and 0 <= x < width and mask[y][x])

    inside = ((y, x) for y in range(height) for x in range(width) if mask[y][x])
    return {(y, x) for y, x in inside if any(outside(y + dy, x + dx) for dy in steps for dx in steps)}


def test_boundary_iou_by_hand_and_by_brute_force() -> None:
    """On 60 x 80 pixels the diagonal is 100, so the border is 2 pixels wide."""
    generator = torch.Generator().manual_seed(3)
    truth = torch.zeros(2, 60, 80, dtype=torch.long)
    truth[0, 10:40, 20:60], truth[1, 5:30, 5:30] = 1, 2
    predicted = truth.roll((1, 2), (1, 2))
    noise = torch.randint(0, 60, truth.shape, generator=generator)
    truth = torch.where(noise == 0, 255, truth)
    metric = metrics["boundary"].make(3, 0)
    metric.add(one_hot(predicted, 3), truth)
    expected = []
    for cls in range(3):
        overlap = union = 0
        for known, true, found in zip(truth < 3, truth == cls, (predicted == cls) & (truth < 3)):
            a, b = border((true & known).tolist(), 2), border(found.tolist(), 2)
            overlap, union = overlap + len(a & b), union + len(a | b)
        expected.append(100 * overlap / union)
    assert metric.scores()["boundary_iou"] == pytest.approx(sum(expected) / 3)
    exact = metrics["boundary"].make(3, 0)
    exact.add(one_hot(predicted, 3), predicted)
    assert exact.scores()["boundary_iou"] == 100
    # Boundaries see a shift that the whole mask hardly does.
    assert expected[1] < scored(one_hot(predicted, 3), truth)["iou"][1] - 20  # type: ignore[index]
    assert metrics["boundary"].make(3, 0).scores()["boundary_iou"] is None
