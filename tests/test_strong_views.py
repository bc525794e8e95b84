"""Strong views, and pseudo-labels of the ancillary's teacher."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from seminar import recipes, train, weights
from seminar.catalogue import Cell
from seminar.spec import InputError
from seminar.store import Store
from seminar.strong_views import strong_view

MakeCell = Callable[..., Cell]


def test_without_one_nothing_is_drawn() -> None:
    image = 255 * torch.rand(2, 3, 8, 8)
    state = torch.get_rng_state()
    view, mix = strong_view(image, "none")
    assert view is image
    assert mix(image) is image
    assert torch.equal(torch.get_rng_state(), state)


def test_colours_change_and_places_do_not() -> None:
    image = torch.zeros(16, 3, 8, 8)
    image[:, 0, :4], image[:, 1, 4:] = 200.0, 120.0
    torch.manual_seed(1)
    view, mix = strong_view(image, "colour")
    assert mix(image) is image
    assert 0 <= float(view.min()) <= float(view.max()) <= 255
    changed = [not torch.allclose(new, old) for new, old in zip(view, image)]
    assert 8 <= sum(changed) < 16
    for each in view:  # halves stay halves, of one colour each
        assert len(each.flatten(1).round().unique(dim=1).T) <= 2
        assert torch.allclose(each[:, :4], each[:, :1, :1])


def test_boxes_come_from_the_next_image() -> None:
    maps = torch.arange(12.0).reshape(12, 1, 1, 1).expand(12, 3, 32, 32).contiguous()
    torch.manual_seed(2)
    view, mix = strong_view(maps, "cutmix")
    assert torch.equal(view[:, 0], mix(maps[:, 0])), "maps of any shape are mixed at the same places"
    shares = [float((one[0] != number).float().mean()) for number, one in enumerate(view)]
    pasted = [share for share in shares if share]
    assert 2 <= len(pasted) <= 10
    assert all(0.01 < share < 0.45 for share in pasted)
    for number, one in enumerate(view):
        assert set(one.unique().tolist()) <= {float(number), float((number - 1) % 12)}


def trainer(found: Cell, runs: Path) -> train.Trainer:
    folder = Store(runs).folder(found.stage.ancillary.key) if found.stage.ancillary is not None else None
    return train.Trainer(found.stage, found.host, folder)


def test_only_losses_that_compare_see_the_strong_view(cell: MakeCell, tmp_path: Path) -> None:
    plain, strong = (trainer(cell(losses="pce+pcons", strong_view=kind), tmp_path) for kind in ("none", "both"))
    values = []
    for each in (plain, strong):
        each.student.train()
        torch.manual_seed(0)
        values.append(each.objective(next(each.loader(0)), 3, 0)[1])
    assert torch.equal(values[0]["loss_pce"], values[1]["loss_pce"])
    assert not torch.equal(values[0]["loss_pcons"], values[1]["loss_pcons"])


def test_the_teacher_is_mixed_as_the_image_is(cell: MakeCell, tmp_path: Path) -> None:
    owner = trainer(cell(losses="pce+pcons", strong_view="cutmix"), tmp_path)
    seen = owner.inputs(next(owner.loader(0)), 0)
    found = owner.strong_inputs(seen, 0)
    again = owner.strong_inputs(seen, 0)
    assert torch.equal(found["image"], again["image"]), "by seed and step"
    moved = (found["image"] != seen["image"]).any(1)
    assert moved.any()
    for name in ("teacher", "labels", "inside"):
        rolled = seen[name].roll(1, 0)
        where = moved[:, None] if seen[name].dim() == 4 else moved
        assert torch.equal(found[name].where(where, seen[name]), rolled.where(where, seen[name])), name
    assert "strong_view" not in cell(losses="pce+pcons").stage.canonical(), "keys of before stay valid"


def test_the_ancillarys_teacher_may_write_the_labels(cell: MakeCell, tmp_path: Path) -> None:
    found = cell(losses="pce+pcons+pseudo", pseudo_from="teacher")
    assert "pseudo_from" not in cell(losses="pce+pcons+pseudo").stage.canonical()
    ancillary = found.stage.ancillary
    assert ancillary is not None
    Store(tmp_path).ensure(ancillary, lambda stage, folder, path: train.train(stage, found.host, folder, path, []))
    writer = trainer(found, tmp_path).ancillary
    assert writer is not None
    kept = weights.read(Store(tmp_path).folder(ancillary.key), "teacher")
    assert all(torch.equal(value, kept[name]) for name, value in writer.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"losses": "pce+pseudo", "pseudo_from": "teacher"}, "the ancillary has no teacher; add pcons to its losses"),
        ({"losses": "pce", "strong_view": "colour"}, "strong_view"),
        ({"losses": "pce+pcons", "strong_view": "color"}, "'colour', 'cutmix' or 'both'"),
    ],
)
def test_what_cannot_be_is_refused(cell: MakeCell, settings: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        recipes.one({"profile": "toy", **settings})
