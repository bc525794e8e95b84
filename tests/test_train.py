"""The loop itself, on the toy profile."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import mobilenet_v2

from analysis.frame import frame
from seminar import crf, losses, machine, networks, recipes, results, samples, train, views, watch
from seminar.catalogue import Cell, Host
from seminar.data import PADDING, UNLABELLED
from seminar.data.augment import eval_view
from seminar.metrics import MeanIoU
from seminar.schedules import lr_factor
from seminar.spec import InputError, Stage
from seminar.store import Interrupted, Store
from seminar.train import Trainer
from seminar.views import normalise
from tests.records import line

MakeCell = Callable[..., Cell]


def run(cell: Cell, root: Path, watches: Any = ()) -> dict[str, Any]:
    return Store(root).ensure(cell.stage, lambda s, f, a: train.train(s, cell.host, f, a, watches))


def weights(folder: Path, name: str = "student.pt") -> dict[str, Tensor]:
    state: dict[str, Tensor] = torch.load(folder / name, weights_only=True)
    return state


def assert_equal_states(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


class KillAfter(watch.StopWhen):
    """Stops in the middle of the epoch that follows `steps` steps."""

    def __init__(self, steps: int) -> None:
        super().__init__(lambda: False)
        object.__setattr__(self, "steps", steps)

    def step(self, stage: Stage, done: int, total: int) -> None:
        if done > self.steps:  # type: ignore[attr-defined]
            raise Interrupted


def test_kill_and_continue_is_bit_identical(tmp_path: Path, cell: MakeCell) -> None:
    whole = cell(losses="pce+crf+pcons", epochs=4)
    record = run(whole, tmp_path / "whole")
    for steps in (3, 6):
        with pytest.raises(Interrupted):
            run(whole, tmp_path / "parts", [KillAfter(steps)])
    again = run(whole, tmp_path / "parts")
    key = whole.stage.key
    for name in ("student.pt", "teacher.pt"):
        assert_equal_states(weights(tmp_path / "whole" / key, name), weights(tmp_path / "parts" / key, name))
    assert again["metrics"] == record["metrics"]
    assert again["sessions"] == 3
    curves = [Store(tmp_path / folder).curve(key) for folder in ("whole", "parts")]
    for each in curves[0] + curves[1]:
        each.pop("seconds")
    assert curves[0] == curves[1]
    assert [line["epoch"] for line in curves[1]] == [1, 2, 3, 4]


def test_a_kill_between_line_and_checkpoint_leaves_no_double_line(tmp_path: Path, cell: MakeCell) -> None:
    stopped = cell(losses="pce", epochs=3)
    with pytest.raises(Interrupted):
        run(stopped, tmp_path, [KillAfter(3)])
    path = tmp_path / stopped.stage.key / "metrics.jsonl"
    path.write_text(path.read_text() + line(2) + '{"epo')
    run(stopped, tmp_path)
    assert [line["epoch"] for line in Store(tmp_path).curve(stopped.stage.key)] == [1, 2, 3]


def test_loader_processes_do_not_change_the_result(tmp_path: Path, cell: MakeCell) -> None:
    alone, helped = cell(losses="pce", epochs=1), cell(losses="pce", epochs=1, loader_workers=2)
    run(alone, tmp_path / "alone")
    run(helped, tmp_path / "helped")
    assert_equal_states(weights(tmp_path / "alone" / alone.stage.key), weights(tmp_path / "helped" / alone.stage.key))


def test_a_damaged_checkpoint_is_named(tmp_path: Path, cell: MakeCell) -> None:
    stopped = cell(losses="pce", epochs=3)
    with pytest.raises(Interrupted):
        run(stopped, tmp_path, [KillAfter(3)])
    path = tmp_path / stopped.stage.key / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"checkpoint\.pt: damaged"):
        run(stopped, tmp_path)


def test_the_record_tells_what_a_reader_needs(tmp_path: Path, cell: MakeCell) -> None:
    chain = cell(alpha=0.999)
    record = run(chain, tmp_path)
    assert record["metrics"].keys() == {"student", "teacher"}
    assert record["metrics"]["student"].keys() == {"crop", "full"}
    assert len(record["metrics"]["student"]["crop"]["iou"]) == len(record["classes"]) == 7
    assert record["best"]["teacher"]["epoch"] in (1, 2)
    assert record["steps"] == 4
    assert record["environment"]["torch"] == torch.__version__
    assert "plain average for the first 1,000 steps and the training has 4" in record["notes"][0]
    folder = tmp_path / chain.stage.key
    assert not (folder / "checkpoint.pt").exists()
    with Image.open(folder / "samples" / "0.png") as picture:
        assert picture.size == (4 * 128 + 3 * 4, 128)
    pictures = list((folder / "samples").glob("*.png"))
    assert len(pictures) == min(samples.SAMPLES, 8)
    line = Store(tmp_path).curve(chain.stage.key)[-1]
    assert {"loss_pce", "loss_crf", "loss_pcons", "loss_pseudo", "student_miou", "teacher_miou"} <= line.keys()
    total = sum(line[f"loss_{term}"] * line[f"weight_{term}"] for term in ("pce", "crf", "pcons", "pseudo"))
    assert line["loss"] == pytest.approx(total, rel=1e-4)
    assert line["student_miou"] == pytest.approx(record["metrics"]["student"]["crop"]["miou"])


@pytest.mark.slow
def test_predictions_are_kept_early_and_at_the_end(tmp_path: Path, cell: MakeCell) -> None:
    requested = cell(losses="pce+pcons+pseudo", epochs=6)
    assert samples.early_epoch(requested.stage) == 1
    run(requested, tmp_path)
    folder = tmp_path / requested.stage.key / "samples"
    with np.load(folder / "final.npz") as final, np.load(folder / "early.npz") as early:
        names = {name.split("_")[1] for name in final}
        assert names == {"image", "truth", "clicks", "student", "teacher", "ancillary"}
        assert set(early) == set(final)
        assert np.array_equal(final["3_ancillary"], early["3_ancillary"])
        assert any(not np.array_equal(final[f"{n}_student"], early[f"{n}_student"]) for n in range(8))
        example = recipes.open_data(requested.stage, requested.host).split("val")[3]
        assert np.array_equal(final["3_image"], example.image.permute(1, 2, 0).numpy())
        assert np.array_equal(final["3_truth"], example.mask.numpy())
        clicks = [(click.x, click.y, click.cls) for click in example.clicks]
        assert np.array_equal(final["3_clicks"], np.array(clicks, np.float32))
        student = networks.build(requested.stage.backbone, 7, requested.stage.output_stride).eval()
        student.load_state_dict(weights(tmp_path / requested.stage.key, "student.pt"))
        with torch.inference_mode():
            labels = student(normalise(example.image[None].float())).argmax(1)[0]
        assert np.array_equal(final["3_student"], labels.numpy())


@pytest.mark.parametrize("losses", ["pce+pcons+pseudo", "pce+pseudo"])
@pytest.mark.parametrize("kind", ["reset", "unchange"])
def test_self_generation_goes_on_with_the_same_student(tmp_path: Path, cell: MakeCell, kind: str, losses: str) -> None:
    requested = cell(losses=losses, epochs=2, self_generation=kind)
    stage = requested.stage
    assert stage.ancillary is not None
    assert stage.ancillary.key == cell(losses=losses, epochs=2).stage.ancillary.key, "the ancillary is shared"
    run(dataclasses.replace(requested, stage=stage.ancillary), tmp_path)
    folder = tmp_path / stage.ancillary.key
    trainer = Trainer(stage, requested.host, folder)
    assert_equal_states(weights(folder, "student.pt"), trainer.student.state_dict())
    assert trainer.ancillary is not None
    assert_equal_states(weights(folder, "student.pt"), trainer.ancillary.state_dict())
    if trainer.teacher is not None:
        assert_equal_states(weights(folder, "teacher.pt"), trainer.teacher.net.state_dict())
        assert trainer.teacher.t == trainer.total_steps == 4
    assert all(weight == term.weight for term, weight in trainer.loss_weights(0)), "ramps are over"
    last = lr_factor("poly", 3, 4, poly_power=stage.poly_power)
    falling = [lr_factor("poly", step, 4, poly_power=stage.poly_power) for step in range(4)]
    expected = [last] * 4 if kind == "unchange" else falling
    assert [trainer.lr_factor(step) for step in range(4)] == expected
    assert run(requested, tmp_path)["steps"] == 4


def test_unchange_goes_on_in_a_schedule_that_was_planned_longer(cell: MakeCell) -> None:
    """The paper's 90K steps are 1.7 trainings: the schedule of the first goes on in the second until it is over."""
    stage = cell(epochs=5, modules=1, self_generation="unchange", poly_horizon=1.7).stage
    trainer = Trainer(stage, Host(), None)
    first = Trainer(stage.chain[0], Host(), None)
    assert trainer.total_steps == 10

    def scheduled(step: int) -> float:
        return lr_factor("poly", step, 17, poly_power=stage.poly_power)

    assert [first.lr_factor(step) for step in range(10)] == [scheduled(step) for step in range(10)]
    expected = [scheduled(min(step, 16)) for step in range(10, 20)]
    assert [trainer.lr_factor(step) for step in range(10)] == expected


def test_a_teacher_leaves_the_dropout_of_its_student_alone(cell: MakeCell) -> None:
    """In the first epoch the weight of pCons is still 0: with and without a teacher the students are then one."""
    students = {}
    for terms in ("pce", "pce+pcons"):
        here = cell(losses=terms, data_train=48)
        trainer = Trainer(here.stage, here.host, None)
        line = trainer.run_epoch(0)
        assert line["step"] == 6
        students[terms] = trainer.student.state_dict()
    assert line["weight_pcons"] == 0
    assert_equal_states(students["pce"], students["pce+pcons"])


def test_the_dropout_of_the_teacher_is_its_own(cell: MakeCell) -> None:
    """With the weights of the student and without statistics in between, only dropout tells the two apart."""
    here = cell(losses="pce+pcons")
    trainer = Trainer(here.stage, here.host, None)
    assert trainer.teacher is not None
    trainer.teacher.net.load_state_dict(trainer.student.state_dict())
    views = next(trainer.loader(0))
    torch.manual_seed(3)
    first, again = trainer.inputs(views, 0), trainer.inputs(views, 0)
    assert not torch.equal(first["student"], first["teacher"])
    assert torch.equal(first["teacher"], again["teacher"]), "by seed and step, whatever was drawn before"
    assert not torch.equal(first["teacher"], trainer.inputs(views, 1)["teacher"])


def test_memory_that_runs_out_is_told_in_a_line(
    tmp_path: Path, cell: MakeCell, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(*_: object) -> None:
        raise torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of ..."
        )

    monkeypatch.setattr(Trainer, "step", step)
    here = cell(losses="pce")
    with pytest.raises(InputError) as caught:
        run(here, tmp_path)
    printed = str(caught.value)
    assert printed.startswith("cpu ran out of memory at a step that needs another 2.00 GiB: batch_size=8 crop=32 ")
    assert printed.endswith("take a smaller batch_size or crop, or fewer --workers on one device")
    assert "\n" not in printed
    assert Store(tmp_path).failure(here.stage.key)["error"] == printed  # type: ignore[index]


def test_a_row_without_consistency_has_no_teacher(tmp_path: Path, cell: MakeCell) -> None:
    plain = cell(losses="pce")
    record = run(plain, tmp_path)
    assert record["metrics"].keys() == {"student"}
    assert record["best"].keys() == {"student"}
    assert not (tmp_path / plain.stage.key / "teacher.pt").exists()
    assert "teacher_miou" not in Store(tmp_path).curve(plain.stage.key)[0]


def test_facts_of_a_loss_are_logged_beside_it(tmp_path: Path, cell: MakeCell) -> None:
    requested = cell(losses="pce+crf", epochs=1, crf_operator=2.0)
    run(requested, tmp_path)
    (line,) = Store(tmp_path).curve(requested.stage.key)
    assert 0 < line["crf_energy"] < 1
    assert line["crf_kappa"] > 1
    assert line["crf_landmarks"] >= 2.0 * crf.KAPPA_MIN
    # loss = 5 energy / kappa, image by image
    assert line["loss_crf"] == pytest.approx(crf.STRENGTH * line["crf_energy"] / line["crf_kappa"], rel=0.3)
    assert line["crf_ratio"] == pytest.approx(1, abs=0.1)


def test_eval_every(tmp_path: Path, cell: MakeCell) -> None:
    rare = cell(losses="pce", epochs=3, eval_every=2)
    run(rare, tmp_path)
    curve = Store(tmp_path).curve(rare.stage.key)
    assert ["student_miou" in line for line in curve] == [False, True, True]


def test_divergence_is_a_failure_with_its_cause(tmp_path: Path, cell: MakeCell) -> None:
    wild = cell(losses="pce", lr=1e30)
    with pytest.raises(FloatingPointError, match="diverged"):
        run(wild, tmp_path)
    failure = Store(tmp_path).failure(wild.stage.key)
    assert failure is not None
    assert "loss is nan in epoch" in failure["error"]


@pytest.fixture
def trainer(tmp_path: Path, cell: MakeCell) -> Trainer:
    """A primary at the toy size with all four losses, mid-way through its ramp."""
    primary = cell(scale_min=0.5, scale_max=0.6)  # small images on the crop: there is padding
    store = Store(tmp_path)
    assert primary.stage.ancillary is not None
    store.ensure(primary.stage.ancillary, lambda s, f, a: train.train(s, primary.host, f, a))
    return Trainer(primary.stage, primary.host, store.folder(primary.stage.ancillary.key))


@pytest.mark.parametrize("name", sorted(losses.losses))
def test_every_loss_reaches_the_student_through_the_loop(trainer: Trainer, cell: MakeCell, name: str) -> None:
    """A teacher that is the student, a detached softmax, a wrong name in the wiring: the gradient would be zero."""
    term = next(
        t for t in cell(losses=f"pce+{name}" if name.endswith("pseudo") else name).stage.losses if t.name == name
    )
    trainer.stage = trainer.stage.model_copy(update={"losses": (term,)})
    views = next(trainer.loader(0))
    views.setdefault("masks", torch.randint(0, 7, views["labels"].shape, dtype=torch.uint8))
    assert trainer.teacher is not None
    with torch.no_grad():  # EMA and student differ from the second step on
        for parameter in trainer.teacher.net.parameters():
            parameter.mul_(1.05)
    total, parts = trainer.objective(views, epoch=1, step=0)
    total.backward()
    norms = [float(p.grad.norm()) for p in trainer.student.parameters() if p.grad is not None]
    assert len(norms) == len(list(trainer.student.parameters()))
    assert max(norms) > 1e-6
    assert parts[f"loss_{name}"].item() > 0
    assert all(p.grad is None for p in trainer.teacher.net.parameters())
    assert trainer.ancillary is not None
    assert all(p.grad is None for p in trainer.ancillary.parameters())


def test_a_step_down_each_gradient_lowers_its_loss(trainer: Trainer, cell: MakeCell) -> None:
    """The sign of every loss, and of its place in the sum."""
    views = next(trainer.loader(0))
    for module in trainer.student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    start = copy.deepcopy(trainer.student.state_dict())
    for term in trainer.stage.losses:
        trainer.student.load_state_dict(start)
        assert trainer.teacher is not None
        for parameter, mine in zip(trainer.teacher.net.parameters(), trainer.student.parameters()):
            parameter.data.copy_(mine.detach() * 1.2)
        trainer.stage = trainer.stage.model_copy(update={"losses": (term,)})
        inputs = trainer.inputs(views, step=0)
        fixed = {name: value.detach() for name, value in inputs.items() if name != "student"}

        def value(student: Tensor, term: Any = term, fixed: Any = fixed) -> Tensor:
            entry = losses.losses[term.name]
            arguments = [student if name == "student" else fixed[name] for name in entry.inputs]
            result = entry.make(*arguments, **dict(term.settings))
            loss: Tensor = result[0] if isinstance(result, tuple) else result
            return loss

        logits = inputs["student"].detach().requires_grad_()
        before = value(logits)
        before.backward()
        assert logits.grad is not None
        after = value(logits.detach() - 1e-2 * logits.grad / logits.grad.norm() * logits.norm())
        assert after < before, term.name
        total, parts = trainer.objective(views, epoch=1, step=0)
        weight = {t.name: w for t, w in trainer.loss_weights(1)}[term.name]
        assert weight > 0
        assert total.item() == pytest.approx(weight * parts[f"loss_{term.name}"].item(), rel=1e-5)


def test_pseudo_labels_are_the_frozen_ancillary_on_the_same_crop(trainer: Trainer) -> None:
    views = next(trainer.loader(0))
    assert trainer.ancillary is not None
    before = copy.deepcopy(trainer.ancillary.state_dict())
    inputs = trainer.inputs(views, step=0)
    assert not trainer.ancillary.training
    expected = trainer.ancillary(normalise(views["image"].float())).argmax(1)
    inside = views["inside"]
    assert (~inside).any()
    assert torch.equal(inputs["pseudo"][inside], expected[inside])
    assert (inputs["pseudo"][~inside] == PADDING).all()
    trainer.step(views, 1, 0)
    assert_equal_states(before, trainer.ancillary.state_dict())


@pytest.mark.parametrize("same", [True, False])
def test_a_frozen_backbone_is_run_once_for_all(tmp_path: Path, cell: MakeCell, same: bool) -> None:
    """But for an ancillary whose backbone differs."""
    torch.save(mobilenet_v2(weights=None).state_dict(), tmp_path / "weights.pth")
    frozen = {"freeze": "backbone", "pretrained": "imagenet", "weights": str(tmp_path / "weights.pth")}
    primary, store = cell(backbone="mobilenet_v2_light", **frozen), Store(tmp_path / "runs")
    ancillary = primary.stage.ancillary
    assert ancillary is not None
    ancillary = ancillary if same else ancillary.model_copy(update={"output_stride": 16})
    run(dataclasses.replace(primary, stage=ancillary), tmp_path / "runs")
    stage = primary.stage.model_copy(update={"ancillary": ancillary})
    trainer = Trainer(stage, primary.host, store.folder(ancillary.key))
    assert trainer.teacher is not None
    assert trainer.ancillary is not None
    before = copy.deepcopy(trainer.student.encoder.state_dict())
    views = next(trainer.loader(0))
    for step in range(2):
        trainer.step(views, 1, step)
    assert_equal_states(before, trainer.student.encoder.state_dict())
    assert_equal_states(before, trainer.teacher.net.encoder.state_dict())
    calls: list[str] = []
    nets = {"student": trainer.student, "teacher": trainer.teacher.net, "ancillary": trainer.ancillary}
    for name, net in nets.items():
        net.eval().encoder.register_forward_hook(lambda *_, name=name: calls.append(name))
    inputs = trainer.inputs(views, step=0)
    assert calls == (["student"] if same else ["student", "ancillary"])
    logits = {name: net(normalise(views["image"].float())) for name, net in nets.items()}
    assert torch.equal(inputs["student"], logits["student"])
    assert torch.equal(inputs["teacher"], logits["teacher"])
    inside = views["inside"]
    assert torch.equal(inputs["pseudo"][inside], logits["ancillary"].argmax(1)[inside])


def test_frozen_statistics_leave_the_weights_to_train(cell: MakeCell) -> None:
    plain = cell(losses="pce", freeze="bn")
    trainer = Trainer(plain.stage, plain.host, None)
    total, _ = trainer.objective(next(trainer.loader(0)), 0, 0)
    total.backward()
    assert all(parameter.grad is not None for parameter in trainer.student.encoder.parameters())


def test_evaluation_scores_each_net_in_eval_mode_and_changes_none(trainer: Trainer) -> None:
    assert trainer.teacher is not None
    nets = {"student": trainer.student, "teacher": trainer.teacher.net}
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.teacher.net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    before = {role: copy.deepcopy(net.state_dict()) for role, net in nets.items()}
    scores = trainer.evaluate("crop")
    views = [eval_view(example, trainer.stage.crop) for example in trainer.val_examples]
    images, masks = (torch.stack(part) for part in zip(*views, strict=True))
    for role, net in nets.items():
        assert net.training
        assert_equal_states(before[role], net.state_dict())
        confusion = MeanIoU(trainer.classes, trainer.dataset.background)
        with torch.no_grad():
            confusion.add(net.eval()(normalise(images.float())), masks)
        assert scores[role]["iou"] == pytest.approx(confusion.scores()["iou"], abs=0.1)
    assert scores["student"] != scores["teacher"]


def test_the_optimiser_is_set_as_the_stage_says(cell: MakeCell) -> None:
    given = {"lr": 0.1, "poly_power": 0.5, "warmup_steps": 3, "momentum": 0.5, "weight_decay": 0.01}
    plain = cell(losses="pce", **given)
    trainer = Trainer(plain.stage, plain.host, None)
    assert trainer.total_steps == 4
    trainer.step(next(trainer.loader(0)), 0, 1)
    # (1 - 1/4)^0.5 of the way, and half way through the warm-up
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.75**0.5 * 0.5)
    groups = {(group["momentum"], group["weight_decay"]) for group in trainer.optimizer.param_groups}
    assert groups == {(0.5, 0.01)}


def test_a_ramp_starts_at_zero_in_the_first_epoch(cell: MakeCell) -> None:
    ramped = cell(losses="pce+pcons", epochs=3, pcons_ramp=2 / 3, lambda_pcons=200)
    trainer = Trainer(ramped.stage, ramped.host, None)
    found = [{term.name: weight for term, weight in trainer.loss_weights(epoch)}["pcons"] for epoch in range(3)]
    assert found == pytest.approx([0, 100, 200])


def test_views_are_drawn_as_the_stage_says(cell: MakeCell) -> None:
    plain = cell(losses="pce", flip=False, augment_noise="none", scale_min=1.0, scale_max=1.0, click_size=3)
    trainer = Trainer(plain.stage, plain.host, None)
    view, dataset = next(trainer.loader(0)), trainer.train_examples
    originals = {dataset[i].image.numpy().tobytes() for i in range(len(dataset))}
    assert all(image.contiguous().numpy().tobytes() in originals for image in view["image"])


def test_normalise_is_imagenets() -> None:
    image = torch.tensor([255 * 0.485, 255 * 0.456, 255.0])[None, :, None, None]
    assert normalise(image).flatten().tolist() == pytest.approx([0, 0, (1 - 0.406) / 0.225], abs=1e-6)


def test_the_teacher_follows_after_the_optimiser_step(trainer: Trainer) -> None:
    assert trainer.teacher is not None
    loader = trainer.loader(0)
    initial = [p.clone() for p in trainer.student.parameters()]
    trainer.step(next(loader), 1, 0)
    first = [p.clone() for p in trainer.student.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(initial, first))
    for mine, theirs in zip(trainer.teacher.net.parameters(), first):
        assert torch.equal(mine, theirs), "at t = 1 the teacher is the student after the step"
    trainer.step(next(loader), 1, 1)
    for mine, one, two in zip(trainer.teacher.net.parameters(), first, trainer.student.parameters()):
        torch.testing.assert_close(mine, (one + two) / 2, msg="alpha .5 at t = 2: keep 1/2")


def test_only_full_supervision_sees_masks(cell: MakeCell) -> None:
    plain, full = cell(losses="pce"), cell(losses="ce")
    assert next(Trainer(plain.stage, plain.host, None).loader(0)).keys() == {"image", "inside", "labels"}
    assert next(Trainer(full.stage, full.host, None).loader(0)).keys() == {"image", "inside", "masks"}


def test_scribbles_reach_the_loop(cell: MakeCell) -> None:
    counts = []
    for annotation in ("clicks", "scribbles"):
        requested = cell(losses="pce", annotation=annotation)
        views = next(Trainer(requested.stage, requested.host, None).loader(0))
        counts.append(int((views["labels"] < PADDING).sum()))
    assert counts[1] > 2 * counts[0] > 0


def test_clicks_reach_the_loop(cell: MakeCell) -> None:
    plain = cell(losses="pce", click_size=3)
    labels = next(Trainer(plain.stage, plain.host, None).loader(0))["labels"]
    assert ((labels < PADDING).sum((1, 2)) > 0).any()
    assert (labels == UNLABELLED).float().mean() > 0.5


def test_last_batch_of_one_is_dropped_and_order_depends_on_the_epoch() -> None:
    assert [len(batch) for batch in views.batches(9, 4, seed=0, epoch=0)] == [4, 4]
    assert [len(batch) for batch in views.batches(10, 4, seed=0, epoch=0)] == [4, 4, 2]
    assert sorted(i for batch in views.batches(10, 4, seed=0, epoch=0) for i in batch) == list(range(10))
    orders = {str(views.batches(10, 4, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_learning_rates(cell: MakeCell) -> None:
    trained = cell(losses="pce", head_lr_factor=10, lr=0.1, warmup_steps=0)
    trainer = Trainer(trained.stage, trained.host, None)
    trainer.step(next(trainer.loader(0)), 0, 2)
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([0.1 * 0.5**0.9, 0.5**0.9])


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "mps"])
def test_bad_devices(name: str) -> None:
    with pytest.raises(InputError, match=f"device='{name}'"):
        recipes.pick_device(name)


def test_data_that_changed_after_planning_is_refused(tmp_path: Path, cell: MakeCell) -> None:
    plain = cell(losses="pce")
    changed = plain.stage.model_copy(update={"data_fingerprint": "other"})
    with pytest.raises(InputError, match="has changed since"):
        Trainer(changed, plain.host, None)


def test_record_is_plain_json(tmp_path: Path, cell: MakeCell) -> None:
    plain = cell(losses="pce", epochs=1)
    run(plain, tmp_path)
    text = (tmp_path / plain.stage.key / "record.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["key"] == plain.stage.key


def test_peak_memory_is_that_of_this_training(tmp_path: Path, cell: Callable[..., Cell]) -> None:
    cpu = torch.device("cpu")
    if machine.peak_memory_mb(cpu) is None:
        pytest.skip("this system does not tell the peak memory of a process")
    before = torch.ones(100 * 2**20)  # 400 MB, of somebody else
    peak = machine.peak_memory_mb(cpu)
    del before
    printed = train.train(cell(losses="pce").stage, Host(), tmp_path, None)["peak_memory_mb"]
    assert peak is not None
    assert 50 < printed < peak - 200


def test_teacher_and_student_never_draw_from_one_seed(cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    plain = torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda seed: (seeds.append(seed), plain(seed))[1])
    for seed in (0, 1):
        here = cell(losses="pce+pcons", seed=seed)
        trainer = Trainer(here.stage, here.host, None)
        for epoch in range(2):
            trainer.run_epoch(epoch)
    # Of each training: the networks, two epochs, and the teacher in each step.
    assert len(seeds) == 2 * (1 + 2 + trainer.total_steps)
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_the_teacher_runs_in_the_mode_of_its_stage(cell: MakeCell, mode: str) -> None:
    here = cell(losses="pce+pcons", teacher_bn="copy", teacher_mode=mode)
    trainer = Trainer(here.stage, here.host, None)
    trainer.run_epoch(0)
    assert trainer.teacher is not None
    assert trainer.teacher.net.training is (mode == "train"), "also after an evaluation"
    views = next(trainer.loader(0))
    first, second = (trainer.inputs(views, step)["teacher"] for step in range(2))
    assert torch.equal(first, second) is (mode == "eval"), "dropout"


def test_a_record_holds_the_notes_of_its_losses(cell: MakeCell) -> None:
    here = cell(losses="pce+crf")
    trainer = Trainer(here.stage, here.host, None)
    assert results.notes(trainer.stage, trainer.total_steps, [{"crf_short": 0.0}]) == []
    (note,) = results.notes(trainer.stage, trainer.total_steps, [{"crf_short": 0.5}, {"crf_short": 0.0}])
    assert note.startswith("crf: 25.00% of the images ")


class Loud(Tensor):
    """A loss that tells when it is read."""

    events: list[str]

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.item, Tensor.tolist, Tensor.cpu, Tensor.__float__, Tensor.__bool__):
            cls.events.append("read")
        return super().__torch_function__(function, types, args, kwargs)


def test_losses_are_read_when_the_steps_of_an_epoch_are_over(cell: MakeCell, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU each reading waits for all that was asked of it."""
    here = cell(losses="pce")
    trainer = Trainer(here.stage, here.host, None)
    step, events = trainer.step, Loud.__dict__.get("events", [])

    def noted(*rest: Any) -> dict[str, Tensor]:
        events.append("step")
        return {name: value.as_subclass(Loud) for name, value in step(*rest).items()}

    Loud.events = events
    monkeypatch.setattr(trainer, "step", noted)
    trainer.run_epoch(0)
    assert events == ["step"] * trainer.steps_per_epoch + ["read"] * (len(events) - trainer.steps_per_epoch)
    assert "read" in events


def test_another_optimiser_schedule_and_metric_reach_the_record_and_the_table(tmp_path: Path, cell: MakeCell) -> None:
    chosen = cell(
        losses="pce", optimizer="adamw", schedule="cosine", metrics="miou+boundary", lr=0.001, adamw_beta1=0.8
    )
    trainer = Trainer(chosen.stage, chosen.host, None)
    assert isinstance(trainer.optimizer, torch.optim.AdamW)
    assert trainer.optimizer.param_groups[0]["betas"] == (0.8, 0.999)
    assert trainer.lr_factor(trainer.total_steps // 2) == pytest.approx(0.5)
    record = run(chosen, tmp_path)
    score = record["metrics"]["student"]["crop"]["boundary_iou"]
    assert 0 <= score <= 100
    assert run(cell(losses="pce"), tmp_path)["metrics"]["student"]["crop"].keys().isdisjoint({"boundary_iou"})
    data = frame(Store(tmp_path), [chosen])
    assert data["student_boundary_iou"].tolist() == [score]
    assert data["optimizer"].tolist() == ["adamw"]
