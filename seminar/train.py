"""The training loop: one stage from initialisation to record.

A step (`Trainer.step`) shows one batch of views to the student, its EMA teacher, and the frozen ancillary student that
writes pseudo-labels (`inputs`); takes the weighted sum of the losses, Eq. 5 for an ancillary and Eq. 7 for a primary
student (`objective`); moves the student down its gradient, and the teacher towards the student (Eq. 1).
2 + 2 epochs equal 4 bit for bit on a CPU (`seminar.views`).
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from seminar import checkpoint, machine, networks, parallel, pretrained, provenance, recipes, results, schema, weights
from seminar.catalogue import Host
from seminar.compiled import Compiled
from seminar.data import PADDING, Dataset, datasets
from seminar.data.grown import grower
from seminar.evaluation import evaluate
from seminar.losses import losses, needs
from seminar.metrics import Scores, metrics
from seminar.optimizers import optimizers
from seminar.recipes import pick_device
from seminar.samples import early_epoch, write_samples
from seminar.schedules import lr_factor, ramped, schedules
from seminar.spec import InputError, Stage
from seminar.store import AGAIN, Interrupted, Record, now
from seminar.strong_views import strong_view
from seminar.teacher import Teacher
from seminar.views import STRONG, TEACHER, TrainingViews, batches, loaded, mix, normalise
from seminar.watch import Watch


class Trainer:
    """Networks, optimiser and data of one stage."""

    def __init__(self, stage: Stage, host: Host, ancillary_folder: Path | None) -> None:
        self.stage, self.host = stage, host
        self.device = pick_device(host.device)
        machine.prepare(self.device, stage.precision)
        self.dataset: Dataset = recipes.open_data(stage, host)
        self.classes = len(self.dataset.classes)
        self.pretrained_sha256: str | None = None
        torch.manual_seed(mix(stage.seed))
        student = networks.build(stage.backbone, self.classes, stage.output_stride, stage.freeze)
        if stage.pretrained != "none":
            self.pretrained_sha256 = pretrained.load(student, host.weights, stage.pretrained)
        student = student.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student = parallel.shared(student)
        self.teacher: Teacher | None = None
        if stage.alpha is not None and stage.teacher_bn is not None and stage.teacher_mode is not None:
            self.teacher = Teacher(self.student, stage.alpha, stage.teacher_bn, stage.teacher_mode)
        self.ancillary = self._frozen(ancillary_folder) if ancillary_folder is not None else None
        self.compiled = Compiled(stage.compile, stage.batch_size)
        if stage.self_generation != "none" and ancillary_folder is not None:
            self._continue(ancillary_folder)
        self.ancillary_shares = stage.ancillary is not None and _backbone(stage) == _backbone(stage.ancillary)
        optimizer = optimizers[stage.optimizer.name]
        groups = networks.parameter_groups(self.student, stage.lr, stage.head_lr_factor)
        inputs = [getattr(stage, name) for name in optimizer.inputs[1:]]
        self.optimizer = optimizer.make(groups, *inputs, **dict(stage.optimizer.settings))
        self.learner = parallel.replicated(self.student, self.device)
        self.base_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.train_examples, self.val_examples = self.dataset.split("train"), self.dataset.split("val")
        order = batches(len(self.train_examples), stage.batch_size, stage.seed, 0)
        self.steps_per_epoch = len(order)
        if self.steps_per_epoch == 0:
            raise InputError(
                f"data {stage.data.name!r}: {len(self.train_examples)} training image(s), at least 2 needed; give it "
                "more images, or hold out fewer"
            )
        smallest = min(map(len, order))
        if smallest < parallel.size():
            raise InputError(
                f"{parallel.size()} processes: a batch of an epoch has {smallest} images; take at most so many "
                "processes, or another batch_size"
            )
        self.total_steps = self.steps_per_epoch * stage.epochs
        self.epochs_done, self.seconds = 0, 0.0
        self.curve: list[dict[str, Any]] = []
        """The lines of metrics.jsonl."""
        self.starts = [self._start()]
        """When, where and by which code this training was started, and every time that it went on."""
        self.crop_scores: dict[str, Scores] | None = None
        """Scores after the epoch just trained, where it was evaluated."""

    def step(self, views: Mapping[str, Tensor], epoch: int, step: int) -> dict[str, Tensor]:
        """Take one optimiser step (0-based `step` over the whole training), then Eq. 1; return the losses, detached."""
        factor = self.lr_factor(step)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        with self.compiled.naming_failure():
            total, parts = self.objective(views, epoch, step)
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.teacher is not None:
            self.teacher.update(self.student)
        return {"loss": total.detach(), **{name: value.detach() for name, value in parts.items()}}

    def objective(self, views: Mapping[str, Tensor], epoch: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses of one batch, and each loss without its weight, with its facts.

        Eq. 5, an ancillary:  L = lambda_pCE L_pCE + lambda_CRF L_CRF + lambda_pCons L_pCons
        Eq. 7, a primary:     the same + lambda_pseudo L_pseudo
        """
        inputs = self.inputs(views, step)
        compared = inputs if self.stage.strong_view == "none" else self.strong_inputs(inputs, step)
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for term, weight in self.loss_weights(epoch):
            entry = losses[term.name]
            given = compared if needs("teacher", entry) else inputs
            value = entry.make(*(given[name] for name in entry.inputs), **dict(term.settings))
            value, facts = value if isinstance(value, tuple) else (value, {})
            parts[f"loss_{term.name}"] = value
            parts |= {f"{term.name}_{name}": fact for name, fact in facts.items()}
            total = total + weight * value
        return total, parts

    def inputs(self, views: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return everything that a loss can need, from one batch of views; student, teacher and ancillary see the same
        crop. `step` (0-based) decides the teacher's dropout."""
        inputs = {name: view.to(self.device, non_blocking=True) for name, view in views.items()}
        inputs |= {name: inputs[name].long() for name in ("labels", "masks") if name in inputs}
        inputs["image"] = inputs["image"].float()
        network_input = normalise(inputs["image"])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
            features = self._frozen_features(network_input, self.compiled.run)
            inputs["student"] = self.compiled.run(self.learner, network_input, features)
            with torch.no_grad():
                if self.teacher is not None:
                    with self._randomness(step, TEACHER):
                        inputs["teacher"] = self.compiled.run(self.teacher.net, network_input, features)
                if self.ancillary is not None:
                    known = features if self.ancillary_shares else None
                    logits = self.compiled.run(self.ancillary, network_input, known)
                    inputs["pseudo"] = torch.where(inputs["inside"], logits.argmax(1), PADDING)
                    if any(needs("ancillary", losses[term.name]) for term in self.stage.losses):  # else memory is freed
                        inputs["ancillary"] = logits
        return inputs

    def strong_inputs(self, inputs: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return `inputs` for losses that compare with the teacher: the student sees a strong view of what the teacher
        saw, and everything else is mixed as that view is. `step` (0-based) decides the view."""
        with self._randomness(step, STRONG):
            image, mix = strong_view(inputs["image"], self.stage.strong_view)
        mixed = {name: mix(value) for name, value in inputs.items() if name != "student"}
        network_input = normalise(image)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
            features = self._frozen_features(network_input, self.compiled.run)
            student = self.compiled.run(self.learner, network_input, features)
        return mixed | {"image": image, "student": student}

    def loss_weights(self, epoch: int) -> list[tuple[Any, float]]:
        """Return the loss terms and their weights in `epoch` (0-based); a student trained on is past its ramps."""
        before = 0 if self.stage.self_generation == "none" else self.stage.epochs
        return [(t, ramped(t.weight, epoch + before, self.stage.epochs, t.ramp)) for t in self.stage.losses]

    def lr_factor(self, step: int) -> float:
        """Return the factor of the learning rate at `step` (0-based). `unchange` goes on in the ancillary's schedule,
        and stays at its last value once that is over."""
        steps = round(self.total_steps * self.stage.poly_horizon)
        if self.stage.self_generation == "unchange":
            step = min(step + self.stage.budgets * self.total_steps, steps - 1)
        return lr_factor(self.stage.schedule, step, steps, self.stage.warmup_steps, self.stage.poly_power)

    def run_epoch(self, epoch: int, watches: Sequence[Watch] = ()) -> dict[str, Any]:
        """Train one epoch (0-based) and evaluate where it is due; returns the line for metrics.jsonl."""
        started = time.monotonic()
        self.crop_scores = None
        self.student.train()
        torch.manual_seed(mix(self.stage.seed, epoch))
        sums: dict[str, Tensor] = {}
        step = epoch * self.steps_per_epoch
        for views in self.loader(epoch):
            for name, value in self.step(views, epoch, step).items():
                sums[name] = sums[name] + value if name in sums else value
            step += 1
            self._report_step(watches, step)
        line: dict[str, Any] = {"epoch": epoch + 1, "step": step, "lr": self.optimizer.param_groups[0]["lr"]}
        parts = self.steps_per_epoch * parallel.size()
        line |= {name: float(parallel.total(value)) / parts for name, value in sums.items()}
        for name, value in line.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} in epoch {epoch + 1}: the training diverged")
        line |= {f"weight_{term.name}": weight for term, weight in self.loss_weights(epoch)}
        if (epoch + 1) % self.stage.eval_every == 0 or epoch + 1 == self.stage.epochs:
            self.crop_scores = self.evaluate("crop")
            line |= {f"{role}_miou": scores["miou"] for role, scores in self.crop_scores.items()}
            if "teacher" in self.crop_scores:
                line["agreement"] = self.crop_scores["teacher"]["agreement"]
        self.epochs_done = epoch + 1
        self.seconds += time.monotonic() - started
        line["seconds"] = round(self.seconds, 3)
        return line

    def _report_step(self, watches: Sequence[Watch], step: int) -> None:
        stopped: Interrupted | None = None
        try:
            for watch in watches:
                watch.step(self.stage, step, self.total_steps)
        except Interrupted as interrupted:
            stopped = interrupted
        if parallel.true_in_any_process(stopped is not None):  # all at the same step, for none can go on alone
            raise stopped or Interrupted

    def loader(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Yield batches of training views of `epoch`, in the order that (seed, epoch) gives."""
        examples = TrainingViews(self.stage, self.train_examples, epoch, self.dataset.background)
        order = batches(len(self.train_examples), self.stage.batch_size, self.stage.seed, epoch)
        own = [list(parallel.own_share(batch)) for batch in order]
        pinned = self.device.type == "cuda"
        loader = DataLoader(examples, batch_sampler=own, num_workers=self.host.loader_workers, pin_memory=pinned)
        for batch, views_here in zip(order, loaded(loader)):
            parallel.begin_batch(len(batch))
            yield views_here

    @contextmanager
    def _randomness(self, step: int, stream: int) -> Iterator[None]:
        """Draw from a random stream apart (`TEACHER`, `STRONG`), by seed and step, so that the student's dropout is the
        same with and without a teacher."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(mix(self.stage.seed, step, stream))
            yield

    def _frozen_features(
        self, network_input: Tensor, forward: Callable[..., Any] = nn.Module.__call__
    ) -> tuple[Tensor, Tensor] | None:
        """Return what student and teacher both see of a batch where the backbone is frozen, computed once; else
        None."""
        if self.stage.freeze != "backbone":
            return None
        with torch.no_grad():
            features: tuple[Tensor, Tensor] = forward(self.student.encoder, network_input)
        return features

    @property
    def nets(self) -> dict[str, nn.Module]:
        """Student and teacher by role."""
        return (
            {"student": self.student}
            if self.teacher is None
            else {"student": self.student, "teacher": self.teacher.net}
        )

    def evaluate(self, protocol: str) -> dict[str, Scores]:
        """Return the scores over the validation set, by role (see `seminar.evaluation`)."""
        return evaluate(
            self.nets,
            self.val_examples,
            self.stage,
            self.classes,
            self.dataset.background,
            protocol=protocol,
            device=self.device,
            workers=self.host.loader_workers,
            features=self._frozen_features,
        )

    def predictions(self, folder: Path, when: Literal["early", "final"]) -> None:
        """Write what each network predicts for the sample images (see `seminar.samples`)."""
        if parallel.leads():
            nets = self.nets if self.ancillary is None else {**self.nets, "ancillary": self.ancillary}
            write_samples(nets, self.val_examples, self.dataset.background, folder, when, self.device)

    def _start(self) -> dict[str, Any]:
        return {
            "time": now(),
            "epoch": 0,
            "commit": provenance.COMMIT,
            "torch": str(torch.__version__),  # a subclass of str that checkpoints may not hold
            "device": machine.name(self.device),
            "parts": versions(self.stage),
        }

    def _frozen(self, folder: Path) -> nn.Module:
        """Return a network of a finished stage in eval mode, without gradients: the writer of pseudo-labels."""
        assert self.stage.ancillary is not None
        role = self.stage.pseudo_from
        return weights.finished_network(self.stage.ancillary, self.classes, folder, role, self.device)

    def _continue(self, folder: Path) -> None:
        """Start student and teacher from where the ancillary of `folder` ended; momentum starts anew."""
        self.student.load_state_dict(weights.read(folder, "student"))
        if self.teacher is not None:
            # An ancillary without a teacher hands over its student, of which the teacher is then the plain average.
            has_teacher = self.stage.ancillary is not None and self.stage.ancillary.has_teacher
            self.teacher.net.load_state_dict(weights.read(folder, "teacher" if has_teacher else "student"))
            if has_teacher:
                steps = (schema.read(folder / "record.json", schema.RECORD, AGAIN) or {})["steps"]
                self.teacher.t = steps * self.stage.budgets


def versions(stage: Stage) -> dict[str, str]:
    """Return a digest of the source of each part that a training of `stage` uses, by the name of the part: by these a
    training that an earlier version of a loss has made can be told from one of this version."""
    step = (
        Trainer.step,
        Trainer.objective,
        Trainer.inputs,
        Trainer.strong_inputs,
        Trainer.loss_weights,
        Trainer.lr_factor,
    )
    parts: dict[str, tuple[Callable[..., Any], ...]] = {
        **{f"loss {term.name}": (losses[term.name].make,) for term in stage.losses},
        f"data {stage.data.name}": (datasets[stage.data.name].make,),
        f"network {stage.backbone}": (networks.build, networks.find(stage.backbone).make),
        f"optimizer {stage.optimizer.name}": (optimizers[stage.optimizer.name].make, networks.parameter_groups),
        f"schedule {stage.schedule}": (schedules[stage.schedule].make,),
        **({f"annotation {grow.name}": (grow.make,)} if (grow := grower(stage.annotation)) else {}),
        **{f"metric {name}": (metrics[name].make, evaluate) for name in stage.metrics.split("+")},
        "training step": (*step, TrainingViews),
        **({"teacher": (Teacher,)} if stage.has_teacher else {}),
    }
    return {name: provenance.digest(*made_of) for name, made_of in parts.items()}


def train(
    stage: Stage, host: Host, folder: Path, ancillary_folder: Path | None, watches: Sequence[Watch] = ()
) -> Record:
    """Train `stage` in `folder`, going on from its checkpoint if there is one; returns the body of its record.

    Writes metrics.jsonl (a line per epoch), checkpoint.pt, and at the end student.pt, teacher.pt and samples/.
    """
    try:
        return _train(stage, host, folder, ancillary_folder, watches)
    except Exception as error:
        if not machine.is_out_of_memory(error):
            raise
        raise _too_large(stage, host, error) from None


def _too_large(stage: Stage, host: Host, error: Exception) -> InputError:
    device = pick_device(host.device)
    needed = re.search(r"allocate (\S+ \S+?)\.", str(error))
    step = f" at a step that needs another {needed[1]}" if needed else ""
    smaller = device.type == "cuda" and stage.precision != "bf16" and machine.has(device, "bf16")
    precision = " precision=bf16," if smaller else ""
    return InputError(
        f"{device} ran out of memory{step}: batch_size={stage.batch_size} crop={stage.crop} "
        f"precision={stage.precision} backbone={stage.backbone}; "
        f"take{precision} a smaller batch_size or crop, or fewer --workers on one device"
    )


def _train(stage: Stage, host: Host, folder: Path, ancillary_folder: Path | None, watches: Sequence[Watch]) -> Record:
    trainer = Trainer(stage, host, ancillary_folder)
    checkpoint.resume(trainer, folder)
    for watch in watches:
        watch.begin(stage, folder, trainer.epochs_done)
    body: Record | None = None
    try:
        for epoch in range(trainer.epochs_done, stage.epochs):
            line = trainer.run_epoch(epoch, watches)
            if epoch + 1 == early_epoch(stage):
                trainer.predictions(folder / "samples", "early")
            checkpoint.save(trainer, folder, line)
            for watch in watches:
                watch.epoch(stage, line)
        body = results.finish(trainer, folder, ancillary_folder)
        checkpoint.write_curve(trainer, folder)  # the checkpoint goes, and with it the only copy
    finally:
        for watch in watches:
            watch.end(stage, body)
    return body


def follow(last: Stage, host: Host, runs: Path, watches: Sequence[Watch]) -> int:
    """Train together with the leading process (`seminar.parallel`) each stage of the chain of `last` that it starts;
    returns the exit code."""
    stages = {stage.key: stage for stage in last.chain}
    try:
        while (key := parallel.broadcast()) is not None:
            stage = stages[key]
            train(stage, host, runs / key, runs / stage.ancillary.key if stage.ancillary is not None else None, watches)
    except (Interrupted, FloatingPointError):
        return 1  # as the leading process, which reports why
    except RuntimeError as error:
        if not parallel.is_alone(error):
            raise
        return 1
    return 0


def _backbone(stage: Stage) -> tuple[object, ...]:
    """Return what decides the features of a frozen backbone."""
    return stage.freeze, stage.backbone, stage.pretrained, stage.output_stride
