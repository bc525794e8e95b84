"""Each loss: hand-derived values, gradients, padding, empty labels."""

from __future__ import annotations

import math
import textwrap

import pytest
import torch
from torch import Tensor

from seminar import losses, pixel_sum
from seminar.data import PADDING, UNLABELLED
from seminar.parts import Registry
from tests.conftest import ROOT


def logits(*probabilities: list[float]) -> Tensor:
    """One image, one row, one pixel for each list of class probabilities."""
    return torch.tensor(probabilities).log().T[None, :, None, :].clone().requires_grad_()


def row(*values: int) -> Tensor:
    return torch.tensor([[list(values)]])


def test_pce_is_the_mean_over_clicked_pixels_of_the_batch() -> None:
    student = logits([0.5, 0.5], [0.25, 0.75], [0.9, 0.1], [0.2, 0.8])
    labels = row(0, 1, UNLABELLED, PADDING)
    expected = -(math.log(0.5) + math.log(0.75)) / 2
    assert losses.partial_cross_entropy(student, labels).item() == pytest.approx(expected)
    assert losses.cross_entropy(student, labels).item() == pytest.approx(expected), "what a GPU computes"
    two = torch.cat([student, student])
    none = torch.full_like(labels, UNLABELLED)
    pair = losses.partial_cross_entropy(two, torch.cat([labels, none]))
    assert pair.item() == pytest.approx(expected), "an image without clicks does not dilute the others"
    halved = losses.partial_cross_entropy(two, torch.cat([labels, none]), normalizer="rloss")
    assert halved.item() == pytest.approx(expected / 2)


@pytest.mark.parametrize("normalizer", ["batch", "rloss"])
def test_pce_without_a_click_is_zero_with_a_zero_gradient(normalizer: str) -> None:
    student = logits([0.5, 0.5], [0.25, 0.75])
    loss = losses.partial_cross_entropy(student, row(UNLABELLED, PADDING), normalizer=normalizer)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert torch.equal(student.grad, torch.zeros_like(student))


def test_ce_and_pseudo_average_over_all_pixels_inside() -> None:
    student = logits([0.5, 0.5], [0.25, 0.75], [0.9, 0.1])
    expected = -(math.log(0.5) + math.log(0.25)) / 2
    assert losses.cross_entropy(student, row(0, 0, PADDING)).item() == pytest.approx(expected)
    assert losses.cross_entropy(student, row(0, 0, UNLABELLED)).item() == pytest.approx(expected)
    assert losses.pseudo_cross_entropy(student, row(0, 0, PADDING)).item() == pytest.approx(expected)


def test_pcons_is_positive_and_averages_over_pixels_and_classes() -> None:
    student = logits([0.5, 0.5], [0.25, 0.75], [0.9, 0.1])
    teacher = logits([0.7, 0.3], [0.25, 0.75], [0.1, 0.9])
    labels, inside = row(0, UNLABELLED, PADDING), torch.tensor([[[True, True, False]]])
    total = 0.2**2 + 0.2**2  # pixel 0, summed over classes; pixel 1 agrees; pixel 2 is padding
    by_class = losses.pixel_consistency(student, teacher, labels, inside)
    assert by_class.item() == pytest.approx(total / 2 / 2)
    summed = losses.pixel_consistency(student, teacher, labels, inside, classes="sum")
    assert summed.item() == pytest.approx(total / 2)
    unlabelled = losses.pixel_consistency(student, teacher, labels, inside, classes="sum", region="unlabelled")
    assert unlabelled.item() == pytest.approx(0, abs=1e-12), "Eq. 8 leaves the clicked pixel 0 out"
    by_class.backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad[..., 2].abs().max() == 0
    # Descent must bring the student nearer to the teacher: class 0 of pixel 0 is too low.
    assert student.grad[0, 0, 0, 0] < 0


def test_pcons_of_equal_networks_is_exactly_zero() -> None:
    student = torch.randn(2, 5, 4, 4)
    labels = torch.full((2, 4, 4), UNLABELLED)
    inside = torch.ones(2, 4, 4, dtype=torch.bool)
    assert losses.pixel_consistency(student, student.clone(), labels, inside).item() == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("piece", [pixel_sum.PIECE, 400, 60, 1])
@pytest.mark.parametrize("name", ["pcons", "pseudo"])
def test_pieces_add_up(monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format, piece: int, name: str) -> None:
    """Value and gradient of the plain formula, in one piece or in many, of some images or some rows, with padding."""
    monkeypatch.setattr(pixel_sum, "PIECE", piece)
    torch.manual_seed(0)
    student, teacher = (2 * torch.randn(3, 5, 7, 9).contiguous(memory_format=layout) for _ in range(2))
    inside, pseudo = torch.rand(3, 7, 9) > 0.2, torch.randint(5, (3, 7, 9))
    student.requires_grad_()
    if name == "pcons":
        expected = ((student.softmax(1) - teacher.softmax(1)) ** 2).sum(1)[inside].mean() / 5
        found = losses.pixel_consistency(student, teacher, inside.long(), inside)
    else:
        expected = -student.log_softmax(1).gather(1, pseudo[:, None])[:, 0][inside].mean()
        found = losses.pseudo_cross_entropy(student, pseudo.where(inside, PADDING))
    gradients = [torch.autograd.grad(3 * value, student)[0] for value in (expected, found)]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-5, atol=1e-9)
    assert gradients[1].is_contiguous(memory_format=layout), "as the network's"
    with torch.no_grad():
        assert losses.pixel_consistency(student, teacher, inside.long(), inside).isfinite()


def test_a_loss_is_one_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its words, settings and errors follow from the signature; unknown inputs are refused when it is defined."""
    monkeypatch.setattr(losses, "losses", Registry("losses"))
    monkeypatch.setattr(losses, "defaults", {})

    @losses.term("entropy", weight=0.1)
    def entropy(student: Tensor, *, temperature: float = 1.0) -> Tensor:
        return student.sum() * temperature

    entry = losses.losses["entropy"]
    assert entry.inputs == ("student",)
    assert entry.coerce("entropy_", {"temperature": "2"}) == (("temperature", 2.0),)
    with pytest.raises(TypeError, match="asks for"):

        @losses.term("odd")
        def odd(student: Tensor, depth: Tensor) -> Tensor:
            return student


def test_the_loss_in_the_readme_works(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "seminar" / "README.md").read_text(encoding="utf-8")
    code = next(part.partition("```")[0] for part in text.split("```python\n")[1:] if "@term(" in part)
    code = textwrap.dedent(code)
    monkeypatch.setattr(losses, "losses", Registry("losses"))
    monkeypatch.setattr(losses, "defaults", {})
    exec(code, {name: getattr(losses, name) for name in ("term", "batch_mean", "Tensor", "F")})
    doubt = losses.losses["doubt"]
    inside = torch.tensor([[[True, False]]])
    value = doubt.make(logits([0.7, 0.3], [0.9, 0.1]), inside, **dict(doubt.coerce("doubt_", {})))
    assert value.item() == pytest.approx(0.3)


def test_a_crf_that_lacked_landmarks_is_noted() -> None:
    note = losses.defaults["crf"].note
    assert note is not None
    assert note([{"crf_short": 0.0}, {"epoch": 2}]) is None
    printed = note([{"crf_short": 0.0}, {"crf_short": 0.05}])
    assert printed is not None
    assert printed.startswith("crf: 2.50% of the images needed more landmarks than they got")
