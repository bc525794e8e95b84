"""Eq. 1 and the schedules, against values derived by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from seminar.schedules import lr_factor, ramped
from seminar.teacher import Teacher


def student_with(value: float) -> nn.Sequential:
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    set_to(net, value)
    return net


def set_to(net: nn.Sequential, value: float) -> None:
    with torch.no_grad():
        net[0].weight.fill_(value)
        net[1].running_mean.fill_(value)
        net[1].num_batches_tracked.fill_(int(value))


def test_first_update_copies_then_plain_average_then_ema() -> None:
    student = student_with(8.0)
    teacher = Teacher(student, alpha=0.5, bn="own")
    weights = []
    for value in (2.0, 4.0, 10.0):
        set_to(student, value)
        teacher.update(student)
        weights.append(teacher.net[0].weight.item())
    # t=1: keep 0, copies 2. t=2: keep min(.5, 1/2): (2 + 4) / 2 = 3. t=3: keep min(.5, 2/3) = .5: (3 + 10) / 2.
    assert weights == pytest.approx([2.0, 3.0, 6.5])


def test_high_alpha_is_the_plain_average_of_all_students() -> None:
    student = student_with(0.0)
    teacher = Teacher(student, alpha=0.999, bn="own")
    for value in (1.0, 2.0, 6.0):
        set_to(student, value)
        teacher.update(student)
    assert teacher.net[0].weight.item() == pytest.approx(3.0)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize(("bn", "mean", "count"), [("own", 8, 8), ("copy", 4, 4), ("ema", 3, 4)])
def test_batchnorm_statistics_and_mode_are_two_settings(bn: Any, mean: float, count: int, mode: Any) -> None:
    student = student_with(8.0)
    if (bn, mode) == ("own", "eval"):
        with pytest.raises(ValueError, match="gathers no BatchNorm statistics"):
            Teacher(student, alpha=0.5, bn=bn, mode=mode)
        return
    teacher = Teacher(student, alpha=0.5, bn=bn, mode=mode)
    for value in (2.0, 4.0):
        set_to(student, value)
        teacher.update(student)
    assert teacher.net[1].running_mean.item() == pytest.approx(mean)
    assert teacher.net[1].num_batches_tracked.item() == count, "integers are copied, never averaged"
    assert teacher.net.training is (mode == "train")


@pytest.mark.parametrize(("bn", "moves"), [("own", True), ("copy", False), ("ema", False)])
def test_in_train_mode_only_own_statistics_move(bn: Any, moves: bool) -> None:
    """A teacher in train mode normalises by its batch, whoever keeps the running statistics."""
    teacher = Teacher(student_with(1.0), alpha=0.5, bn=bn, mode="train")
    out = teacher.net(torch.tensor([[0.0], [4.0]]))
    assert out.flatten().tolist() == pytest.approx([-1, 1], abs=1e-4), "zero mean and unit variance of the batch"
    assert (teacher.net[1].running_mean.item() != 1.0) is moves


def test_teacher_is_a_copy_without_gradient() -> None:
    student = student_with(1.0)
    teacher = Teacher(student, alpha=0.9, bn="own")
    assert not any(parameter.requires_grad for parameter in teacher.net.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())
    set_to(student, 5.0)
    assert teacher.net[0].weight.item() == 1.0


def test_poly_schedule() -> None:
    assert lr_factor("poly", 0, 100, poly_power=0.9) == 1
    assert lr_factor("poly", 50, 100, poly_power=0.9) == pytest.approx(0.5**0.9)
    assert lr_factor("poly", 99, 100, poly_power=1.0) == pytest.approx(0.01)
    warmed = [lr_factor("poly", step, 10**9, warmup=3, poly_power=0.9) for step in range(5)]
    assert warmed == pytest.approx([0.25, 0.5, 0.75, 1, 1])
    # half a cosine: 1 at the start, a half in the middle, 1/4 of the way down at a third of its angle
    assert [lr_factor("cosine", step, 6) for step in (0, 2, 3)] == pytest.approx([1, 0.75, 0.5])


def test_ramp_of_the_paper() -> None:
    """40 of 60 epochs to 200: 0 in the first epoch, half at epoch 20, all of it from epoch 40 on."""
    values = [ramped(200.0, epoch, 60, 2 / 3) for epoch in (0, 1, 20, 40, 59)]
    assert values == pytest.approx([0, 5, 100, 200, 200])
    assert ramped(3.0, 0, 60, 0.0) == 3.0
