"""The regularisers that stand beside the paper's losses: each against its formula, pair by pair, in float64."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from seminar import crf, losses, pairwise, recipes, train
from seminar.data import PADDING, UNLABELLED
from seminar.store import Store

H, W, C = 6, 7, 3


@pytest.fixture
def scene() -> dict[str, Tensor]:
    """Two small images with padding on their right, logits, clicks; the second image has no click."""
    generator = torch.Generator().manual_seed(4)
    inside = torch.ones(2, H, W, dtype=torch.bool)
    inside[0, :, 5:] = False
    inside[1, 4:] = False
    labels = torch.full((2, H, W), UNLABELLED)
    labels[~inside] = PADDING
    labels[0, 1, 1], labels[0, 3, 2] = 0, 2
    return {
        "student": torch.randn(2, C, H, W, generator=generator, dtype=torch.float64).requires_grad_(),
        "teacher": torch.randn(2, C, H, W, generator=generator, dtype=torch.float64),
        "image": 255 * torch.rand(2, 3, H, W, generator=generator, dtype=torch.float64),
        "inside": inside,
        "labels": labels,
    }


def value(name: str, scene: dict[str, Tensor], **settings: Any) -> Tensor:
    entry = losses.losses[name]
    given = dict(entry.coerce(f"{name}_", settings))
    found = entry.make(*(scene[each] for each in entry.inputs), **given)
    return found[0] if isinstance(found, tuple) else found


def pixels(inside: Tensor) -> list[tuple[int, int]]:
    return [(y, x) for y, x in itertools.product(range(H), range(W)) if inside[y, x]]


def check(found: Tensor, expected: Tensor, student: Tensor, tolerance: float = 1e-5) -> None:
    """Value and gradient. The losses work in float32."""
    gradients = [torch.autograd.grad(each, student, retain_graph=True)[0] for each in (found, expected)]
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=1e-7)
    torch.testing.assert_close(
        gradients[0], gradients[1], rtol=tolerance, atol=tolerance * float(gradients[1].abs().max())
    )


def test_entropy(scene: dict[str, Tensor]) -> None:
    p = scene["student"].softmax(1)
    each = -(p * p.log()).sum(1)
    check(value("entropy", scene), each[scene["inside"]].mean(), scene["student"])


@pytest.mark.parametrize("loss", ["kl", "ce"])
@pytest.mark.parametrize("classes", ["sum", "mean"])
def test_consistency_by_other_distances(scene: dict[str, Tensor], loss: str, classes: str) -> None:
    p, q = scene["student"].softmax(1), scene["teacher"].softmax(1)
    each = q * (q.log() - p.log()) if loss == "kl" else -q * p.log()
    expected = each.sum(1)[scene["inside"]].mean() / (C if classes == "mean" else 1)
    check(value("pcons", scene, loss=loss, classes=classes), expected, scene["student"])


@pytest.mark.parametrize("kind", ["soft", "collision", "hard"])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
@pytest.mark.parametrize("clicks", ["keep", "overwrite"])
def test_pseudo_labels_by_other_rules(scene: dict[str, Tensor], kind: str, threshold: float, clicks: str) -> None:
    """Pixel by pixel."""
    scene["ancillary"] = scene["teacher"]
    p, q = scene["student"].softmax(1), scene["ancillary"].softmax(1)
    terms = []
    for b in range(2):
        for y, x in pixels(scene["inside"][b]):
            target, label = q[b, :, y, x], int(scene["labels"][b, y, x])
            clicked = clicks == "overwrite" and label < PADDING
            if clicked:
                target = F.one_hot(torch.tensor(label), C).double()
            elif float(target.max()) < threshold:
                continue
            if kind == "hard":
                target = F.one_hot(target.argmax(), C).double()
            here = p[b, :, y, x]
            terms.append(-(target * here).sum().log() if kind == "collision" else -(target * here.log()).sum())
    found = value("softpseudo", scene, kind=kind, threshold=threshold, clicks=clicks)
    check(found, torch.stack(terms).mean(), scene["student"])


def test_soft_pseudo_labels_without_a_sure_pixel_count_nothing(scene: dict[str, Tensor]) -> None:
    scene["ancillary"] = torch.zeros_like(scene["teacher"])
    assert float(value("softpseudo", scene, threshold=0.9).detach()) == 0


def test_soft_pseudo_labels_get_an_ancillary(tmp_path: Path) -> None:
    """The hard ones without a threshold are the paper's: the same training but for rounding."""
    hard, soft = (
        recipes.one({"profile": "toy", "losses": f"pce+{name}", "epochs": 1, "seed": 2, **more})
        for name, more in (("pseudo", {}), ("softpseudo", {"softpseudo_kind": "hard"}))
    )
    assert soft.stage.ancillary == hard.stage.ancillary is not None
    assert [cell.stage.modules for cell in (hard, soft)] == [1, 1]
    store = Store(tmp_path)
    curves = []
    for cell in (hard, soft):
        store.ensure(cell.stage, lambda s, f, a, cell=cell: train.train(s, cell.host, f, a))
        curves.append(store.curve(cell.stage.key))
    assert curves[1][-1]["loss_softpseudo"] == pytest.approx(curves[0][-1]["loss_pseudo"], rel=1e-4)


def test_the_distance_of_consistency_is_in_no_key_at_its_default() -> None:
    entry = losses.losses["pcons"]
    assert "loss" not in dict(entry.coerce("pcons_", {}))
    assert dict(entry.coerce("pcons_", {"loss": "kl"}))["loss"] == "kl"


def test_image_level(scene: dict[str, Tensor]) -> None:
    """Classes 0 and 2 are clicked in the first image; the second says nothing."""
    p = scene["student"].softmax(1)
    most = [max(p[0, c, y, x] for y, x in pixels(scene["inside"][0])) for c in range(C)]
    first = -(most[0].log() + most[2].log()) / 2 - (1 - most[1]).log()
    check(value("imagelevel", scene), first / 2, scene["student"])


def test_image_level_of_a_class_that_is_certain_is_finite() -> None:
    student = torch.zeros(1, 2, 2, 2)
    student[:, 1] = 200
    student.requires_grad_()
    labels = torch.full((1, 2, 2), UNLABELLED)
    labels[0, 0, 0] = 0
    found = losses.image_level(student, labels, torch.ones(1, 2, 2, dtype=torch.bool))
    found.backward()
    assert found.isfinite() and found > 10
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["quadratic", "bilinear"])
@pytest.mark.parametrize("neighbours", [4, 8])
@pytest.mark.parametrize("sigma_rgb", [0.0, 40.0])
def test_potts(scene: dict[str, Tensor], kind: str, neighbours: int, sigma_rgb: float) -> None:
    p, image = scene["student"].softmax(1), scene["image"]
    total = torch.zeros((), dtype=torch.float64)
    for b in range(2):
        near = [
            (i, j)
            for i, j in itertools.combinations(pixels(scene["inside"][b]), 2)
            if (d := (abs(i[0] - j[0]), abs(i[1] - j[1]))) in ((0, 1), (1, 0)) or (neighbours == 8 and d == (1, 1))
        ]
        squares = [float(((image[b, :, i[0], i[1]] - image[b, :, j[0], j[1]]) ** 2).sum()) for i, j in near]
        variance = sigma_rgb**2 or sum(squares) / len(squares)
        for (i, j), square in zip(near, squares):
            a, c = p[b, :, i[0], i[1]], p[b, :, j[0], j[1]]
            apart = ((a - c) ** 2).sum() / 2 if kind == "quadratic" else 1 - (a * c).sum()
            weight = math.exp(-square / (2 * variance)) / math.dist(i, j)
            total = total + weight * apart / len(near) / 2
    found = value("potts", scene, kind=kind, neighbours=neighbours, sigma_rgb=sigma_rgb, scale=1.0)
    check(found, total, scene["student"])


@pytest.mark.parametrize("region", ["all", "unlabelled"])
@pytest.mark.parametrize("radius", [1, 3, 9])
def test_gated_crf(scene: dict[str, Tensor], region: str, radius: int) -> None:
    p, image = scene["student"].softmax(1), scene["image"] / 255
    total = torch.zeros((), dtype=torch.float64)
    for b in range(2):
        inside = pixels(scene["inside"][b])
        sources = [at for at in inside if region == "all" or scene["labels"][b][at] == UNLABELLED]
        for i, j in itertools.product(sources, inside):
            if i != j and max(abs(i[0] - j[0]), abs(i[1] - j[1])) <= radius:
                near = math.dist(i, j) ** 2 / (2 * 2.0**2)
                alike = float(((image[b, :, i[0], i[1]] - image[b, :, j[0], j[1]]) ** 2).sum()) / (2 * 0.5**2)
                apart = 1 - (p[b, :, i[0], i[1]] * p[b, :, j[0], j[1]]).sum()
                total = total + math.exp(-near - alike) * apart / len(sources) / 2
    found = value("gatedcrf", scene, radius=radius, sigma_rgb=0.5, sigma_xy=2.0, scale=1.0, region=region)
    check(found, total, scene["student"])


def kernel(image: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """W between all pixels of one image (3, H, W)."""
    ys, xs = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    f = torch.cat([torch.stack([xs, ys]).double() / sigma_xy, image / sigma_rgb]).flatten(1)
    return torch.exp(-(torch.cdist(f.T, f.T) ** 2) / 2)


def test_normalised_cut(scene: dict[str, Tensor]) -> None:
    """sigma_xy is in pixels of a 513-pixel crop."""
    p = scene["student"].softmax(1)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(2):
        inside = scene["inside"][b].flatten().double()
        w = kernel(scene["image"][b], 60.0, 3.0) * inside[:, None] * inside
        for c in range(C):
            s = p[b, c].flatten() * inside
            total = total + (s @ w @ (inside - s)) / (w.sum(1) @ s) / 2
    found = value("ncut", scene, sigma_rgb=60.0, sigma_xy=3.0 * 513 / W, scale=1.0, operator="exact")
    check(found, total, scene["student"])


def test_normalised_cut_through_landmarks() -> None:
    """The low-rank operator gives the value and the direction of the exact one."""
    generator = torch.Generator().manual_seed(0)
    coarse = 255 * torch.rand(1, 3, 6, 6, generator=generator)
    image = F.interpolate(coarse, size=(48, 48), mode="bilinear")
    student = F.interpolate(3 * torch.randn(1, 4, 6, 6, generator=generator), size=(48, 48), mode="bilinear")
    inside = torch.ones(1, 48, 48, dtype=torch.bool)
    found = []
    for operator in ("exact", 2.5):
        p = student.softmax(1).requires_grad_()
        cut = crf.normalized_cut(p, image, inside, sigma_rgb=30.0, sigma_xy=12.0, operator=operator)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(cut, p)
        found.append((float(cut.detach()), gradient.flatten()))
    assert found[1][0] == pytest.approx(found[0][0], rel=0.05)
    assert F.cosine_similarity(found[0][1], found[1][1], dim=0) > 0.98


NAMES = ("entropy", "imagelevel", "potts", "gatedcrf", "ncut")


@pytest.mark.parametrize("name", NAMES)
def test_padding_takes_part_in_nothing(scene: dict[str, Tensor], name: str) -> None:
    """Neither its logits nor its colours change anything, and it gets no gradient."""
    found = value(name, scene)
    (gradient,) = torch.autograd.grad(found, scene["student"])
    out = ~scene["inside"][:, None].expand_as(gradient)
    other = dict(scene)
    other["student"] = scene["student"].detach().where(~out, 9.0).requires_grad_()
    other["image"] = scene["image"].where(scene["inside"][:, None], 3.0)
    if name not in ("potts", "gatedcrf", "ncut"):  # these are resized, so that a border pixel mixes with its neighbour
        assert (gradient[out] == 0).all()
        torch.testing.assert_close(value(name, other), found)
    else:
        whole = {"scale": 1.0}
        (gradient,) = torch.autograd.grad(value(name, scene, **whole), scene["student"])
        assert (gradient[out] == 0).all()
        torch.testing.assert_close(value(name, other, **whole), value(name, scene, **whole))


@pytest.mark.parametrize("name", NAMES)
def test_images_without_a_pixel_or_a_click_count_nothing(scene: dict[str, Tensor], name: str) -> None:
    empty = {**scene, "inside": torch.zeros_like(scene["inside"]), "labels": torch.full_like(scene["labels"], PADDING)}
    found = value(name, empty)
    assert float(found.detach()) == 0
    (gradient,) = torch.autograd.grad(found, scene["student"])
    assert (gradient == 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_one_step_downhill_lowers_it(scene: dict[str, Tensor], name: str) -> None:
    before = value(name, scene)
    (gradient,) = torch.autograd.grad(before, scene["student"])
    after = value(name, {**scene, "student": (scene["student"] - 0.01 * gradient / gradient.abs().max()).detach()})
    assert after < before


def test_each_pair_of_a_window_is_visited_once() -> None:
    for radius in (1, 2, 5):
        half = list(pairwise._half_window(radius))
        assert len(half) == len(set(half)) == ((2 * radius + 1) ** 2 - 1) / 2
        assert not {(-y, -x) for y, x in half} & set(half)


def affinities_along_a_tree(image: Tensor, inside: Tensor, sigma: float) -> Tensor:
    """A (H W, H W) of one image, by Kruskal's algorithm and a walk from every pixel; 0 on padding."""
    near = [((y, x), other) for y, x in pixels(inside) for other in ((y, x + 1), (y + 1, x)) if other in pixels(inside)]
    costs = {edge: float((image[:, *edge[0]] - image[:, *edge[1]]).square().sum()) for edge in near}
    group = {place: {place} for place in pixels(inside)}
    neighbours: dict[tuple[int, int], list[tuple[tuple[int, int], float]]] = {place: [] for place in group}
    for (one, other), cost in sorted(costs.items(), key=lambda item: item[1]):
        if group[one] is not group[other]:
            joined = group[one] | group[other]
            group |= dict.fromkeys(joined, joined)
            neighbours[one].append((other, cost))
            neighbours[other].append((one, cost))
    found = torch.zeros(H * W, H * W, dtype=torch.float64)
    for start in neighbours:
        reached, open_ = {start: 0.0}, [start]
        while open_:
            here = open_.pop()
            for there, cost in neighbours[here]:
                if there not in reached:
                    reached[there] = reached[here] + cost
                    open_.append(there)
        for (y, x), cost in reached.items():
            found[start[0] * W + start[1], y * W + x] = math.exp(-cost / sigma)
    return found


@pytest.mark.parametrize("sigma", [0.5, 20.0])
def test_tree_energy(scene: dict[str, Tensor], sigma: float) -> None:
    p = scene["student"].softmax(1)
    each = []
    for number in range(2):
        inside = scene["inside"][number]
        a = affinities_along_a_tree(scene["image"][number] / (255 * 0.226), inside, sigma)
        flat = p[number].flatten(1)
        filtered = (flat @ a.T) / a.sum(1).clamp(min=1e-12)
        free = (inside & (scene["labels"][number] == UNLABELLED)).flatten()
        each.append((flat - filtered).abs().sum(0)[free].mean())
    found = value("tree", scene, sigma=str(sigma), scale="1")
    check(found, torch.stack(each).mean(), scene["student"], tolerance=1e-4)


def test_tree_energy_of_one_colour_and_of_nothing(scene: dict[str, Tensor]) -> None:
    """Where all pixels have one colour the filter is the mean over the image; padding alone gives 0."""
    p = scene["student"].softmax(1)
    inside = torch.ones(2, H, W, dtype=torch.bool)
    plain = scene | {"image": torch.full((2, 3, H, W), 90.0), "inside": inside, "labels": torch.full((2, H, W), 255)}
    expected = (p - p.mean((2, 3), keepdim=True)).abs().sum(1).mean()
    check(value("tree", plain, scale="1"), expected, scene["student"], tolerance=1e-4)
    nothing = value("tree", plain | {"inside": ~inside}, scale="1")
    assert float(nothing.detach()) == 0
    assert not torch.autograd.grad(nothing, scene["student"])[0].any()
