"""The dense CRF loss: Eq. 4 by hand, and the accuracy contract of the Nystrom operator against the exact kernel."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from seminar import crf, losses
from seminar.crf import STRENGTH, dense_crf
from seminar.data import UNLABELLED
from tests import bench_crf
from tests.conftest import ROOT

VOC = Path(os.environ.get("SEMINAR_TEST_DATA", ROOT.parent / "shared" / "data")) / "voc145"
PHOTOS = pytest.param(VOC, marks=pytest.mark.skipif(not VOC.is_dir(), reason="voc145 is not there"), id="photos")


def loss_of(p: Tensor, image: Tensor, inside: Tensor, **options: Any) -> Tensor:
    return dense_crf(p, image, inside, **options)[0]


def brute_force_crf(p: Tensor, image: Tensor, inside: Tensor, sigma_rgb: float, sigma_xy: float) -> float:
    """Eq. 4 pair by pair in plain Python floats."""
    values = []
    for b in range(len(p)):
        pixels = [(y, x) for y in range(p.shape[2]) for x in range(p.shape[3]) if inside[b, y, x]]
        total = 0.0
        for y, x in pixels:
            for v, u in pixels:
                colour = float((image[b, :, y, x] - image[b, :, v, u]).square().sum()) / sigma_rgb**2
                place = ((y - v) ** 2 + (x - u) ** 2) / sigma_xy**2
                total += math.exp(-(colour + place) / 2) * (1 - float(p[b, :, y, x] @ p[b, :, v, u]))
        values.append(total / max(1, len(pixels)) ** 2)
    return STRENGTH * sum(values) / len(values)


@pytest.fixture
def crf_case() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(2, 3, 4, 5, generator=generator, dtype=torch.float64).softmax(1)
    image = torch.rand(2, 3, 4, 5, generator=generator, dtype=torch.float64) * 60
    inside = torch.ones(2, 4, 5, dtype=torch.bool)
    inside[1, :, 3:] = False
    return p, image, inside


def test_crf_is_eq_4(crf_case: tuple[Tensor, Tensor, Tensor]) -> None:
    p, image, inside = crf_case
    expected = brute_force_crf(p, image, inside, 15, 2.0)
    assert expected > 0.1
    value = loss_of(p, image, inside, sigma_rgb=15, sigma_xy=2.0)
    assert value.item() == pytest.approx(expected, rel=1e-9)
    single = loss_of(p.float(), image.float(), inside, sigma_rgb=15, sigma_xy=2.0)
    assert single.item() == pytest.approx(expected, rel=1e-5)


def test_crf_in_chunks_is_the_same(crf_case: tuple[Tensor, Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    p, image, inside = crf_case
    whole = loss_of(p, image, inside, sigma_rgb=15, sigma_xy=2.0)
    monkeypatch.setattr("seminar.crf.CHUNK_EXACT", 3 * 20 * 2)
    assert loss_of(p, image, inside, sigma_rgb=15, sigma_xy=2.0).item() == pytest.approx(whole.item(), rel=1e-12)


def test_crf_gradient(crf_case: tuple[Tensor, Tensor, Tensor]) -> None:
    p, image, inside = crf_case
    p.requires_grad_()
    assert torch.autograd.gradcheck(lambda q: loss_of(q, image, inside, sigma_rgb=15, sigma_xy=2.0), (p,))


def test_crf_of_one_class_everywhere_is_zero_and_of_padding_only_too() -> None:
    p = torch.zeros(1, 3, 4, 4)
    p[:, 1] = 1
    image = torch.rand(1, 3, 4, 4) * 255
    inside = torch.ones(1, 4, 4, dtype=torch.bool)
    assert loss_of(p, image, inside, sigma_rgb=15, sigma_xy=3).item() == pytest.approx(0, abs=1e-6)
    assert loss_of(p, image, ~inside, sigma_rgb=15, sigma_xy=3).item() == 0


def test_crf_of_a_constant_image_does_not_depend_on_the_crop() -> None:
    values = []
    for side in (16, 32):
        p = torch.full((1, 2, side, side), 0.5)
        image, inside = torch.full((1, 3, side, side), 99.0), torch.ones(1, side, side, dtype=torch.bool)
        values.append(loss_of(p, image, inside, sigma_rgb=15, sigma_xy=0.2 * side).item())
    assert values[0] == pytest.approx(values[1], rel=0.02)


@pytest.mark.slow
def test_crf_term_scales_sigma_with_the_crop() -> None:
    student, image = torch.randn(1, 3, 32, 32), torch.rand(1, 3, 32, 32) * 255
    inside = torch.ones(1, 32, 32, dtype=torch.bool)
    inside[:, :, 24:] = False
    labels = torch.full((1, 32, 32), UNLABELLED)
    labels[:, 8:10] = 1
    value = losses.crf(student, image, inside, labels, sigma_rgb=20.0, sigma_xy=100.0, scale=0.5)[0]
    p = torch.nn.functional.interpolate(student.softmax(1), size=(16, 16), mode="bilinear", align_corners=False)
    expected = brute_force_crf(p, image[:, :, ::2, ::2], inside[:, ::2, ::2], 20, 100 * 32 / 513 / 2)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value, facts = losses.crf(
        student, image, inside, labels, sigma_rgb=20.0, sigma_xy=100.0, scale=0.5, region="unlabelled"
    )
    free = (inside & (labels == UNLABELLED))[:, ::2, ::2]
    expected = brute_force_crf(p, image[:, :, ::2, ::2], free, 20, 100 * 32 / 513 / 2)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    # energy = loss / (5 mean W) and kappa = 1 / mean W
    assert facts["energy"].item() == pytest.approx(expected / STRENGTH * facts["kappa"].item(), rel=1e-4)
    assert facts["landmarks"] == 0
    assert facts["ratio"] == 1
    assert facts["short"] == 0


@pytest.mark.parametrize(
    ("edges", "size"), [((64, 64), (16, 16)), ((97, 131), (41, 32)), ((65, 65), (32, 32)), ((9, 65), (5, 8))]
)
def test_the_softmax_at_another_size(edges: tuple[int, int], size: tuple[int, int]) -> None:
    """Taken only where it is read, or everywhere: the same map and gradient."""
    logits = torch.randn(2, 5, *edges, requires_grad=True)
    whole = functional.interpolate(logits.softmax(1), size=size, mode="bilinear", align_corners=False)
    found, weight = crf.softmax_at(logits, torch.Size(size)), torch.randn(2, 5, *size)
    torch.testing.assert_close(found, whole)
    gradients = [torch.autograd.grad((weight * each).sum(), logits)[0] for each in (whole, found)]
    torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.slow
@pytest.mark.parametrize("root", [pytest.param(None, id="generated"), PHOTOS])
def test_the_accuracy_contract(root: Path | None) -> None:
    """Per image and without rescaling, against the exact kernel in float64."""
    losses_off: list[float] = []
    for case in bench_crf.cases(bench_crf.open_images(root, 129), 129, 0.5, 6):
        exact = bench_crf.references(case, torch.float64)
        for stage, p in case.maps.items():
            found = bench_crf.errors(case, p, crf.QUALITY, exact[stage])
            assert found.l2 <= 0.05
            assert found.softmax <= 1e-3
            assert found.logits <= 5e-3
            assert found.loss <= 0.015
            losses_off.append(found.loss)
    assert sum(losses_off) / len(losses_off) <= 0.005


@pytest.fixture
def picture() -> tuple[Tensor, Tensor, Tensor]:
    """Softmax maps, image and inside (a corner is padding) of two creatures at 48 x 56."""
    (one, two) = list(bench_crf.cases(bench_crf.open_images(None, 56), 112, 0.5, 2))
    p = torch.cat([one.maps["mid"], two.maps["late"]])[:, :, :48]
    image = torch.cat([one.image, two.image])[:, :, :48]
    inside = torch.ones(2, 48, 56, dtype=torch.bool)
    inside[1, 30:, 20:] = False
    return p, image, inside


def nystrom(p: Tensor, image: Tensor, inside: Tensor) -> Tensor:
    return loss_of(p, image, inside, sigma_rgb=15, sigma_xy=10, operator=crf.QUALITY)


def test_nystrom_gradient_is_that_of_its_value(picture: tuple[Tensor, Tensor, Tensor]) -> None:
    """Up to the control variate, which is held constant: the pairs are nearly those of the operator itself."""
    p, image, inside = (part.double() if part.is_floating_point() else part for part in picture)
    p.requires_grad_()
    nystrom(p, image, inside).backward()
    assert p.grad is not None
    torch.manual_seed(0)
    direction = torch.nn.functional.interpolate(torch.randn(*p.shape[:2], 6, 7).double(), p.shape[2:], mode="bilinear")
    direction = direction - direction.mean(1, keepdim=True)  # stays on the simplex
    with torch.no_grad():
        ends = [nystrom(p + step * direction, image, inside).item() for step in (1e-5, -1e-5)]
    slope = (ends[0] - ends[1]) / 2e-5
    expected = float((p.grad * direction).sum())
    assert abs(slope - expected) <= 1e-3 * float(p.grad.norm() * direction.norm())
    assert slope == pytest.approx(expected, rel=0.02)


def test_nystrom_repeats_bit_for_bit_and_does_not_see_padding(picture: tuple[Tensor, Tensor, Tensor]) -> None:
    p, image, inside = picture
    results = []
    for scribble in (0.0, 0.0, 99.0):
        leaf = p.clone().requires_grad_()
        value = nystrom(leaf, image + scribble * ~inside[:, None], inside)
        value.backward()
        assert leaf.grad is not None
        results.append((value.detach(), leaf.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert torch.equal(results[0][0], results[2][0])
    assert torch.equal(results[0][1], results[2][1])
    gradient = results[0][1]
    outside = gradient.movedim(1, 3)[~inside]
    assert outside.abs().max() < 1e-12 * gradient.abs().max()


@pytest.mark.parametrize("rows", [1, 2, 5, 20])
def test_a_map_that_is_mostly_padding(rows: int) -> None:
    """The few pixels inside serve both samples and the landmarks: loss and gradient stay those of the kernel."""
    (case,) = list(bench_crf.cases(bench_crf.open_images(None, 96), 96, 1.0, 1))
    inside = torch.zeros_like(case.inside)
    inside[:, :rows] = True
    p = case.maps["mid"].double()
    found = []
    for operator in ("exact", crf.QUALITY):
        leaf = p.clone().requires_grad_()
        loss = loss_of(leaf, case.image.double(), inside, sigma_rgb=15, sigma_xy=case.sigma_xy, operator=operator)
        loss.backward()
        assert leaf.grad is not None
        found.append((loss.item(), leaf.grad))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.03)
    assert (found[1][1] - found[0][1]).norm() <= 0.06 * found[0][1].norm()


def test_an_image_is_the_same_alone_and_in_a_batch(picture: tuple[Tensor, Tensor, Tensor]) -> None:
    p, image, inside = picture
    whole = dense_crf(p, image, inside, sigma_rgb=15, sigma_xy=10, operator=crf.QUALITY)[1]
    parts = [
        dense_crf(p[i : i + 1], image[i : i + 1], inside[i : i + 1], sigma_rgb=15, sigma_xy=10, operator=crf.QUALITY)[1]
        for i in range(2)
    ]
    assert torch.equal(whole.energy, torch.cat([part.energy for part in parts]))
    assert torch.equal(whole.landmarks, torch.cat([part.landmarks for part in parts]))
    assert len(set(whole.landmarks.tolist())) == 2, "each image has as many landmarks as it needs"


@pytest.mark.parametrize("allowed", ["bf16", "ieee"])
def test_exponents_are_float32_whatever_the_program_allows(
    picture: tuple[Tensor, Tensor, Tensor], allowed: str
) -> None:
    expected, backend = nystrom(*picture), torch.backends.mkldnn.matmul
    before = backend.fp32_precision
    try:
        backend.fp32_precision = allowed
        with torch.autocast("cpu", torch.bfloat16):
            value = nystrom(*picture)
        assert backend.fp32_precision == allowed, "the program's own choice is put back"
    finally:
        backend.fp32_precision = before
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


@pytest.fixture(scope="module")
def generated() -> bench_crf.Case:
    return next(bench_crf.cases(bench_crf.open_images(None, 129), 129, 0.5, 1))


@pytest.mark.parametrize(("operator", "per_kappa"), [(0.5, 0.5), (2.0, 2.0), (4.0, 4.0), ("auto", crf.QUALITY)])
def test_landmarks_are_so_many_per_kappa(generated: bench_crf.Case, operator: crf.Operator, per_kappa: float) -> None:
    _, _, facts = bench_crf.run(generated, generated.maps["mid"], operator)
    assert float(facts.kappa) > crf.KAPPA_MIN
    assert float(facts.landmarks) == 8 * math.ceil(per_kappa * float(facts.kappa) / 8)
    assert float(facts.short) == 0


def test_the_control_variate_corrects_the_loss(generated: bench_crf.Case) -> None:
    p = generated.maps["mid"]
    true_loss, exact, _ = bench_crf.run(generated, p, "exact")
    loss, coarse, facts = bench_crf.run(generated, p, 0.5)
    # The gradient is -2 W p per pair. The ratio tells how much of the sum of p' W p half a landmark per kappa misses.
    missed = float((exact * p).sum() / (coarse * p).sum())
    assert 1.01 < missed < 1.1
    assert float(facts.ratio) == pytest.approx(missed, abs=0.02)
    uncorrected = loss + float(((coarse - exact) * p).sum()) / 2
    assert abs(loss / true_loss - 1) < 0.3 * abs(uncorrected / true_loss - 1)


def test_the_fit_finds_the_operator_that_made_the_kernel() -> None:
    generator = torch.Generator().manual_seed(0)
    ends = (torch.rand(1, 4, 50, generator=generator).double(), torch.rand(1, 4, 60, generator=generator).double())
    core = torch.tensor([[[3.0, 1, 0, -1], [1, 2, 1, 0], [0, 1, 2, 0], [-1, 0, 0, 1]]]).double()
    kernel = ends[0].mT @ core @ ends[1]
    found = crf._core(ends, ends[0] @ kernel @ ends[1].mT)
    torch.testing.assert_close(found, core, atol=0.05, rtol=0)  # the ridge
    torch.testing.assert_close(found, found.mT, atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_bump_is_a_gaussian_to_a_sixteenth(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    features, everywhere = torch.randn(1, 5, 300, dtype=dtype) * 3, torch.ones(1, 300, dtype=torch.bool)
    inside = everywhere.clone()
    inside[:, 200:] = False
    marks, pixels = crf._Pixels(features[:, :, :9], everywhere[:, :9]), crf._Pixels(features, inside)
    distances = (features[:, :, :9, None] - features[:, :, None, :200]).square().sum(1)
    exponents = (-distances / 2 / crf.WIDTH**2).clamp(min=crf.FLOOR)
    whole = exponents.floor()
    found = crf._Bumps(marks)(pixels.right)
    line = 2**whole * (1 + exponents - whole)
    torch.testing.assert_close(found[:, :, :200], line, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=0)
    assert (exponents == crf.FLOOR).any()
    assert ((line / 2**exponents - 1).abs() < 1 / 16).all()
    assert (found[:, :, 200:] == 2.0**crf.FLOOR).all(), "padding is in no bump"


def test_pixels_inside_come_first_in_their_order() -> None:
    torch.manual_seed(0)
    index, inside = torch.randperm(40).repeat(3, 1), torch.rand(3, 40) < 0.3
    inside[1], inside[2] = False, True
    expected = [[*row[keep].tolist(), *row[~keep].tolist()] for row, keep in zip(index, inside, strict=True)]
    assert crf._inside_first(index, inside).tolist() == expected


@pytest.mark.parametrize(
    ("inside", "one", "other"),
    [
        (9, [10, 11, 12], [13, 14, 15]),
        (6, [10, 11, 12], [13, 14, 15]),
        (5, [10, 12, 14], [11, 13, 15]),
        (4, [10, 12, 14], [11, 13, 15]),
        (3, [10, 11, 12], [10, 11, 12]),
        (2, [10, 11, 12], [10, 11, 12]),
    ],
)
def test_two_samples_share_what_is_inside(inside: int, one: list[int], other: list[int]) -> None:
    """Three pixels each, of nine of which so many are inside."""
    dealt = crf._deal(torch.arange(10, 19)[None], torch.arange(19)[None] < 10 + inside, 3)
    assert [sample[0].tolist() for sample in dealt] == [one, other]


@pytest.mark.parametrize(("count", "short"), [(64, 1.0), (80, 0.0)])
def test_an_image_with_too_few_landmarks_is_reported(
    generated: bench_crf.Case, monkeypatch: pytest.MonkeyPatch, count: int, short: float
) -> None:
    """As on a GPU, where their number does not depend on the image."""
    monkeypatch.setattr(crf, "_landmarks", lambda *_: count)
    _, _, facts = bench_crf.run(generated, generated.maps["mid"], "auto")
    assert 64 < crf.QUALITY * float(facts.kappa) < 80
    assert float(facts.landmarks) == count
    assert float(facts.short) == short
    _, _, facts = bench_crf.run(generated, generated.maps["mid"], 2 * count / float(facts.kappa))
    assert float(facts.short) == 1, "it asked for twice as many"


def test_operators_are_chosen_by_size_and_content() -> None:
    def landmarks(image: Tensor, short: float = 0, **options: crf.Operator) -> float:
        side = image.shape[-1]
        p = torch.full((1, 2, side, side), 0.5)
        inside = torch.ones(1, side, side, dtype=torch.bool)
        facts = dense_crf(p, image, inside, sigma_rgb=15, sigma_xy=10, **options)[1]
        assert facts.short.tolist() == [short]
        return float(facts.landmarks)

    torch.manual_seed(0)
    plain, small = torch.full((1, 3, 48, 48), 80.0), torch.full((1, 3, 16, 16), 80.0)
    noise = torch.rand(1, 3, 48, 48) * 255
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert landmarks(small) == 0, "few pixels: exact"
        assert landmarks(plain) == 8 * math.ceil(crf.QUALITY * crf.KAPPA_MIN / 8)
        assert landmarks(plain, operator="exact") == 0
        assert landmarks(noise) == 0, "nearly full rank: exact while that is affordable"
    with pytest.warns(RuntimeWarning, match=r"kappa=\d+ would need \d+ landmarks and gets 1024; its loss is inexact"):
        assert landmarks(noise, short=1, operator=crf.QUALITY) == crf.LANDMARKS_MAX


@pytest.mark.parametrize("classes", [1, 2, 150])
@pytest.mark.parametrize("size", [(1, 1), (3, 400), (40, 52)])
@pytest.mark.parametrize("content", ["constant", "padding", "half"])
def test_odd_shapes_and_contents(classes: int, size: tuple[int, int], content: str) -> None:
    torch.manual_seed(1)
    p = (torch.randn(2, classes, *size) * 3).softmax(1).requires_grad_()
    image = torch.full((2, 3, *size), 40.0)
    inside = torch.ones(2, *size, dtype=torch.bool)
    if content == "padding":
        inside[:] = False
    elif content == "half":
        image[..., size[1] // 2 :] = 200.0
    both = []
    for operator in ("exact", crf.QUALITY):
        p.grad = None
        value = loss_of(p, image, inside, sigma_rgb=15, sigma_xy=20, operator=operator)
        value.backward()
        assert p.grad is not None
        both.append((value.item(), p.grad.clone()))
    (exact, slope), (value, other) = both
    assert torch.isfinite(other).all()
    # A difference of two float32 sums of about 5 each.
    assert value == pytest.approx(exact, rel=0.015, abs=5e-5)
    if content == "padding":
        assert [value, exact] == pytest.approx([0, 0], abs=1e-12)
    elif classes == 1:
        assert value == pytest.approx(0, abs=5e-5)
    assert (other - slope).norm() <= 0.05 * slope.norm() + 1e-12


def test_the_fit_keeps_its_digits_in_float32(generated: bench_crf.Case) -> None:
    """With many landmarks the least squares are nearly singular."""
    gradients = []
    for dtype in (torch.float64, torch.float32):
        p = generated.maps["mid"].to(dtype).requires_grad_()
        options = {"sigma_rgb": 15, "sigma_xy": generated.sigma_xy, "operator": 16.0}
        loss = dense_crf(p, generated.image.to(dtype), generated.inside, **options)[0]
        gradients += [part.double() for part in torch.autograd.grad(loss, p)]
    assert (gradients[1] - gradients[0]).norm() <= 2e-3 * gradients[0].norm()


def test_the_width_of_the_bumps_is_near_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = list(bench_crf.cases(bench_crf.open_images(None, 129), 129, 0.5, 6))
    exact = [bench_crf.run(case, case.maps["mid"], "exact")[1] for case in cases]
    errors = []
    for width in (1.0, crf.WIDTH, 1.2):
        monkeypatch.setattr(crf, "WIDTH", width)
        found = [bench_crf.run(case, case.maps["mid"], crf.QUALITY)[1] for case in cases]
        errors.append(sum(float((one - other).norm() / other.norm()) for one, other in zip(found, exact)) / len(cases))
    assert errors[1] < 0.97 * min(errors[0], errors[2])
