"""The training loop: one stage from initialisation to record.

All randomness of epoch e comes from (seed, e), that of a sample from (seed, e, index): continuing after a kill needs no
saved random state, the number of loader processes does not matter, and 2 + 2 epochs equal 4 bit for bit on CPU.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset
from torch.utils.data import Dataset as TorchDataset

from seminar import machine, networks, parallel, recipes
from seminar.catalogue import Host
from seminar.data import PADDING, Dataset, Example
from seminar.data.augment import TrainView, eval_view
from seminar.data.pictures import strip
from seminar.losses import defaults as loss_defaults
from seminar.losses import losses, needs
from seminar.metrics import Confusion, Scores
from seminar.recipes import pick_device
from seminar.schedules import poly_lr, ramped
from seminar.spec import InputError, Stage
from seminar.store import Interrupted, Record, append_line, read_lines, write_atomic
from seminar.teacher import Teacher

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SAMPLES = 12
"""Validation images, evenly spaced, whose predictions are kept."""
ORDER, TEACHER = -1, -2
"""Third numbers of the seeds of an epoch's order and of the teacher's dropout; those of samples are their indices."""


class Watch(Protocol):
    """Somebody who looks on: a progress bar, an experiment tracker. The loop knows nothing else of them."""

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None:
        """A training starts, or goes on after `epoch` finished epochs."""

    def step(self, stage: Stage, done: int, total: int) -> None:
        """`done` of `total` optimiser steps are over. May raise `Interrupted`."""

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None:
        """An epoch is over and saved; `line` is its line of metrics.jsonl."""

    def end(self, stage: Stage, body: Record | None) -> None:
        """The training is finished (`body` of the record), or it stopped or failed (None)."""


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
    asked = re.search(r"allocate (\S+ \S+?)\.", str(error))
    step = f" at a step that needs another {asked[1]}" if asked else ""
    smaller = device.type == "cuda" and stage.precision != "bf16" and machine.has(device, "bf16")
    precision = " precision=bf16," if smaller else ""
    return InputError(
        f"{device} ran out of memory{step}: batch_size={stage.batch_size} crop={stage.crop} "
        f"precision={stage.precision} backbone={stage.backbone}; "
        f"take{precision} a smaller batch_size or crop, or fewer --workers on one device"
    )


def _train(stage: Stage, host: Host, folder: Path, ancillary_folder: Path | None, watches: Sequence[Watch]) -> Record:
    trainer = Trainer(stage, host, ancillary_folder)
    trainer.resume(folder)
    for watch in watches:
        watch.begin(stage, folder, trainer.epochs_done)
    body: Record | None = None
    try:
        for epoch in range(trainer.epochs_done, stage.epochs):
            line = trainer.run_epoch(epoch, watches)
            if epoch + 1 == early_epoch(stage):
                trainer.predictions(folder / "samples", "early")
            trainer.save(folder, line)
            for watch in watches:
                watch.epoch(stage, line)
        body = trainer.finish(folder)
    finally:
        for watch in watches:
            watch.end(stage, body)
    return body


def follow(asked: Stage, host: Host, runs: Path, watches: Sequence[Watch]) -> int:
    """Train along with the leading process (`seminar.parallel`), whichever stages of the chain of `asked` it begins;
    returns the exit code."""
    stages = {stage.key: stage for stage in asked.chain}
    try:
        while (key := parallel.tell()) is not None:
            stage = stages[key]
            train(stage, host, runs / key, runs / stage.ancillary.key if stage.ancillary is not None else None, watches)
    except (Interrupted, FloatingPointError):
        return 1  # as the leading one, which tells why
    except RuntimeError as error:
        if not parallel.is_alone(error):
            raise
        return 1
    return 0


class Trainer:
    """Networks, optimiser and data of one stage."""

    def __init__(self, stage: Stage, host: Host, ancillary_folder: Path | None) -> None:
        self.stage, self.host = stage, host
        self.device = pick_device(host.device)
        machine.prepare(self.device, stage.precision)
        self.dataset: Dataset = recipes.open_data(stage, host)
        self.classes = len(self.dataset.classes)
        torch.manual_seed(mix(stage.seed))
        student = networks.build(stage.backbone, self.classes, stage.output_stride, stage.freeze)
        if stage.pretrained != "none":
            networks.load_pretrained(student, host.weights, stage.pretrained)
        student = student.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.student = parallel.shared(student)
        self.teacher: Teacher | None = None
        if stage.alpha is not None and stage.teacher_bn is not None and stage.teacher_mode is not None:
            self.teacher = Teacher(self.student, stage.alpha, stage.teacher_bn, stage.teacher_mode)
        self.ancillary = self._frozen(ancillary_folder) if ancillary_folder is not None else None
        self._compiled: dict[nn.Module, Any] = {}
        if stage.compile:
            torch.compiler.reset()  # the networks of earlier trainings would count towards torch's limit of variants
        if stage.self_generation != "none" and ancillary_folder is not None:
            self._continue(ancillary_folder)
        self.ancillary_shares = stage.ancillary is not None and _backbone(stage) == _backbone(stage.ancillary)
        self.optimizer = torch.optim.SGD(
            networks.parameter_groups(self.student, stage.lr, stage.head_lr_factor),
            lr=stage.lr,
            momentum=stage.momentum,
            weight_decay=stage.weight_decay,
        )
        self.learner = parallel.replicated(self.student, self.device)
        self.base_lrs = [float(group["lr"]) for group in self.optimizer.param_groups]
        self.train_examples, self.val_examples = self.dataset.split("train"), self.dataset.split("val")
        order = batches(len(self.train_examples), stage.batch_size, stage.seed, 0)
        self.steps_per_epoch = len(order)
        if self.steps_per_epoch == 0:
            raise InputError(
                f"data {stage.data.name!r}: {len(self.train_examples)} training image(s), at least 2 needed"
            )
        smallest = min(map(len, order))
        if smallest < parallel.size():
            raise InputError(
                f"{parallel.size()} processes: a batch of an epoch has {smallest} images; take at most so many "
                "processes, or another batch_size"
            )
        self.total_steps = self.steps_per_epoch * stage.epochs
        self.epochs_done, self.sessions, self.seconds = 0, 1, 0.0
        self.crop_scores: dict[str, Scores] | None = None
        """Scores after the epoch just trained, where it was evaluated."""

    def _frozen(self, folder: Path) -> nn.Module:
        """The student of a finished stage in eval mode, without gradients: the writer of pseudo-labels."""
        assert self.stage.ancillary is not None
        return finished_network(self.stage.ancillary, self.classes, folder / "student.pt", self.device)

    def _continue(self, folder: Path) -> None:
        """Start student and teacher from where the ancillary of `folder` ended; momentum starts anew."""
        self.student.load_state_dict(_weights(folder / "student.pt"))
        if self.teacher is not None:
            # An ancillary without a teacher hands over its student, of which the teacher is then the plain average.
            has_teacher = self.stage.ancillary is not None and self.stage.ancillary.has_teacher
            name = "teacher.pt" if has_teacher else "student.pt"
            self.teacher.net.load_state_dict(_weights(folder / name))
            if has_teacher:
                steps = json.loads((folder / "record.json").read_text(encoding="utf-8"))["steps"]
                self.teacher.t = steps * self.stage.budgets

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
            self._tell_of_step(watches, step)
        line: dict[str, Any] = {"epoch": epoch + 1, "step": step, "lr": self.optimizer.param_groups[0]["lr"]}
        parts = self.steps_per_epoch * parallel.size()
        line |= {name: float(parallel.total(value)) / parts for name, value in sums.items()}
        for name, value in line.items():
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value} in epoch {epoch + 1}: the training diverged")
        line |= {f"weight_{term.name}": weight for term, weight in self.weights(epoch)}
        if (epoch + 1) % self.stage.eval_every == 0 or epoch + 1 == self.stage.epochs:
            self.crop_scores = self.evaluate("crop")
            line |= {f"{role}_miou": scores["miou"] for role, scores in self.crop_scores.items()}
            if "teacher" in self.crop_scores:
                line["agreement"] = self.crop_scores["teacher"]["agreement"]
        self.epochs_done = epoch + 1
        self.seconds += time.monotonic() - started
        line["seconds"] = round(self.seconds, 3)
        return line

    def _tell_of_step(self, watches: Sequence[Watch], step: int) -> None:
        stopped: Interrupted | None = None
        try:
            for watch in watches:
                watch.step(self.stage, step, self.total_steps)
        except Interrupted as interrupted:
            stopped = interrupted
        if parallel.any_of(stopped is not None):  # all at the same step, for none can go on alone
            raise stopped or Interrupted

    def step(self, views: Mapping[str, Tensor], epoch: int, step: int) -> dict[str, Tensor]:
        """One optimiser step (0-based `step` over the whole training), then Eq. 1; returns the losses, detached."""
        factor = self.lr_factor(step)
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor
        with self._telling_of_compilers():
            total, parts = self.objective(views, epoch, step)
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.teacher is not None:
            self.teacher.update(self.student)
        return {"loss": total.detach(), **{name: value.detach() for name, value in parts.items()}}

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rate at `step` (0-based). `unchange` goes on in the ancillary's schedule, and stays at
        its last value once that is over."""
        steps = round(self.total_steps * self.stage.poly_horizon)
        if self.stage.self_generation == "unchange":
            step = min(step + self.stage.budgets * self.total_steps, steps - 1)
        return poly_lr(step, steps, self.stage.poly_power, self.stage.warmup_steps)

    def weights(self, epoch: int) -> list[tuple[Any, float]]:
        """The loss terms and their weights in `epoch` (0-based); a student that is trained on is past its ramps."""
        begun = 0 if self.stage.self_generation == "none" else self.stage.epochs
        return [(t, ramped(t.weight, epoch + begun, self.stage.epochs, t.ramp)) for t in self.stage.losses]

    def objective(self, views: Mapping[str, Tensor], epoch: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Eq. 5 or 7: the weighted sum of the losses of one batch, and each loss without its weight, with its facts."""
        inputs = self.inputs(views, step)
        parts: dict[str, Tensor] = {}
        total = torch.zeros((), device=self.device)
        for term, weight in self.weights(epoch):
            entry = losses[term.name]
            value = entry.make(*(inputs[name] for name in entry.inputs), **dict(term.settings))
            value, facts = value if isinstance(value, tuple) else (value, {})
            parts[f"loss_{term.name}"] = value
            parts |= {f"{term.name}_{name}": fact for name, fact in facts.items()}
            total = total + weight * value
        return total, parts

    def inputs(self, views: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Everything that a loss can ask for, from one batch of views; student, teacher and ancillary see the same
        crop. `step` (0-based) decides the teacher's dropout."""
        inputs = {name: view.to(self.device, non_blocking=True) for name, view in views.items()}
        inputs |= {name: inputs[name].long() for name in ("labels", "masks") if name in inputs}
        inputs["image"] = inputs["image"].float()
        network_input = normalise(inputs["image"])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
            features = self._frozen_features(network_input, self.forward)
            inputs["student"] = self.forward(self.learner, network_input, features)
            with torch.no_grad():
                if self.teacher is not None:
                    with self._teacher_randomness(step):
                        inputs["teacher"] = self.forward(self.teacher.net, network_input, features)
                if self.ancillary is not None:
                    known = features if self.ancillary_shares else None
                    labels = self.forward(self.ancillary, network_input, known).argmax(1)
                    inputs["pseudo"] = torch.where(inputs["inside"], labels, PADDING)
        return inputs

    @contextmanager
    def _teacher_randomness(self, step: int) -> Iterator[None]:
        """A random stream of the teacher's own, by seed and step: the student's dropout is the same with and without
        a teacher."""
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(mix(self.stage.seed, step, TEACHER))
            yield

    def forward(self, net: nn.Module, *inputs: Any) -> Any:
        """What `net` makes of the inputs of a training step, in its compiled form where the stage says so."""
        # Compiling once more for the smaller batch that ends an epoch takes longer than it saves.
        if not self.stage.compile or len(inputs[0]) < self.stage.batch_size:
            return net(*inputs)
        if net not in self._compiled:
            # Dropout as without the compiler: the two then differ by rounding only.
            self._compiled[net] = torch.compile(net, dynamic=False, options={"fallback_random": True})
        return self._compiled[net](*inputs)

    @contextmanager
    def _telling_of_compilers(self) -> Iterator[None]:
        """Raise `InputError` where torch.compile gives up: for want of a compiler, say."""
        if not self.stage.compile:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException  # a second of importing

        try:
            yield
        except TorchDynamoException as error:
            reason = textwrap.shorten(str(error).strip().partition("\n\n")[0], 200)
            raise InputError(f"compile=true: torch.compile does not work here ({reason}); leave it out") from error

    def _frozen_features(
        self, network_input: Tensor, forward: Callable[..., Any] = nn.Module.__call__
    ) -> tuple[Tensor, Tensor] | None:
        """What student and teacher both see of a batch where the backbone is frozen, computed once; else None."""
        if self.stage.freeze != "backbone":
            return None
        with torch.no_grad():
            features: tuple[Tensor, Tensor] = forward(self.student.encoder, network_input)
        return features

    def loader(self, epoch: int) -> Iterator[dict[str, Tensor]]:
        """Batches of training views of `epoch`, in the order that (seed, epoch) gives."""
        examples = _Views(self.stage, self.train_examples, epoch)
        order = batches(len(self.train_examples), self.stage.batch_size, self.stage.seed, epoch)
        own = [list(parallel.own_share(batch)) for batch in order]
        pinned = self.device.type == "cuda"
        loader = DataLoader(examples, batch_sampler=own, num_workers=self.host.loader_workers, pin_memory=pinned)
        for batch, views_here in zip(order, loader):
            parallel.begin_batch(len(batch))
            yield views_here

    @contextmanager
    def _evaluating(self) -> Iterator[dict[str, nn.Module]]:
        """Student and teacher by role, in eval mode and without gradients as long as the context lasts."""
        nets: dict[str, nn.Module] = {"student": self.student}
        if self.teacher is not None:
            nets["teacher"] = self.teacher.net
        modes = {role: net.training for role, net in nets.items()}
        for net in nets.values():
            net.eval()
        with torch.inference_mode():
            yield nets
        for role, net in nets.items():
            net.train(modes[role])

    def evaluate(self, protocol: str) -> dict[str, Scores]:
        """Scores over the validation set, by role (`student`, and `teacher` where there is one).

        Protocol `crop`: short side to the training crop, centre crop (the paper's). `full`: every image at its own
        size. The teacher's also tell its `agreement` with the student, in % of all pixels, which needs no mask.
        """
        size = self.stage.batch_size if protocol == "crop" else 1
        views = _EvalViews(self.val_examples, self.stage.crop if protocol == "crop" else None)
        own = Subset(views, parallel.own_share(range(len(views))))
        with self._evaluating() as nets:
            counts = {role: Confusion(self.classes) for role in nets}
            alike = torch.zeros(2, dtype=torch.int64)
            for images, masks in DataLoader(own, batch_size=size, num_workers=self.host.loader_workers):
                network_input = normalise(images.to(self.device).float())
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.stage.precision == "bf16"):
                    features = self._frozen_features(network_input)
                    logits = {role: net(network_input, features) for role, net in nets.items()}
                for role in nets:
                    counts[role].add(logits[role], masks.to(self.device))
                if self.teacher is not None:
                    labels, others = (logits[role].argmax(1) for role in ("student", "teacher"))
                    alike += torch.tensor([int((labels == others).sum()), labels.numel()])
        for confusion in counts.values():
            parallel.total(confusion.counts)
        scores = {role: confusion.scores() for role, confusion in counts.items()}
        if "teacher" in scores:
            equal, pixels = parallel.total(alike).tolist()
            scores["teacher"]["agreement"] = 100 * equal / pixels
        return scores

    def save(self, folder: Path, line: Mapping[str, Any]) -> None:
        """Append the epoch's line, then replace the checkpoint: a kill between the two repeats that epoch."""
        if not parallel.leads():
            return
        append_line(folder / "metrics.jsonl", line)
        state = {
            "epochs_done": self.epochs_done,
            "sessions": self.sessions,
            "seconds": self.seconds,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "teacher": None if self.teacher is None else self.teacher.net.state_dict(),
            "teacher_t": 0 if self.teacher is None else self.teacher.t,
        }
        write_atomic(folder / "checkpoint.pt", lambda file: torch.save(state, file))

    def resume(self, folder: Path) -> None:
        """Go on from `checkpoint.pt`, if there is one; lines of epochs that it does not hold are dropped."""
        path = folder / "checkpoint.pt"
        lines = []
        if path.exists():
            try:
                state = torch.load(path, weights_only=True, map_location="cpu")  # no second copy on a GPU
            except Exception as error:
                reason = str(error).splitlines()[0]
                raise InputError(f"{path}: damaged ({reason}); delete it to train from the start") from None
            self.student.load_state_dict(state["student"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.teacher is not None:
                self.teacher.net.load_state_dict(state["teacher"])
                self.teacher.t = state["teacher_t"]
            self.epochs_done, self.seconds = state["epochs_done"], state["seconds"]
            self.sessions = state["sessions"] + 1
            lines = [line for line in read_lines(folder / "metrics.jsonl") if line["epoch"] <= self.epochs_done]
        if parallel.leads():
            text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
            write_atomic(folder / "metrics.jsonl", lambda file: file.write(text.encode()))

    def finish(self, folder: Path) -> Record:
        """Evaluate both protocols, write weights and sample pictures, and return the body of the record."""
        crop = self.crop_scores or self.evaluate("crop")
        same = all(
            self.val_examples[i].image.shape[-2:] == (self.stage.crop,) * 2 for i in range(len(self.val_examples))
        )
        full = crop if same else self.evaluate("full")
        curve = read_lines(folder / "metrics.jsonl")
        if parallel.leads():
            write_atomic(folder / "student.pt", lambda file: torch.save(self.student.state_dict(), file))
            if self.teacher is not None:
                teacher_state = self.teacher.net.state_dict()
                write_atomic(folder / "teacher.pt", lambda file: torch.save(teacher_state, file))
        self.predictions(folder / "samples", "final")
        return {
            "seconds": round(self.seconds, 3),
            "peak_memory_mb": machine.peak_memory_mb(self.device),
            "steps": self.total_steps,
            "sessions": self.sessions,
            "classes": list(self.dataset.classes),
            "metrics": {role: {"crop": crop[role], "full": full[role]} for role in crop},
            "best": {role: _best(curve, role) for role in crop},
            "data": {"train_images": len(self.train_examples), "val_images": len(self.val_examples)},
            "environment": machine.environment(self.device),
            "notes": self.notes(curve),
        }

    def notes(self, curve: Sequence[Mapping[str, Any]]) -> list[str]:
        """What a reader of the result must know, of the training itself and of its losses by the lines of its curve."""
        alpha, steps = self.stage.alpha, self.total_steps * (1 + self.stage.budgets)
        found: list[str | None] = []
        if alpha is not None and alpha > 1 - 1 / steps:
            horizon = f"{1 / (1 - alpha):,.0f}"
            found.append(
                f"alpha={alpha:g} has no effect of its own: the teacher is a plain average for the first {horizon} "
                f"steps and the training has {steps:,}"
            )
        notes = [loss_defaults[term.name].note for term in self.stage.losses]
        return [text for text in (*found, *(note(curve) for note in notes if note is not None)) if text is not None]

    def predictions(self, folder: Path, when: Literal["early", "final"]) -> None:
        """Write what each network says of the sample images: `when`.npz, and at the end a picture for people of each.

        Arrays by number of the sample n and name: `n_image` (H, W, 3) uint8 RGB, `n_truth` (H, W) uint8, `n_clicks`
        (k, 3) float x, y, class; `n_student`, and where there is one `n_teacher` and `n_ancillary`, (H, W) uint8.
        """
        if not parallel.leads():
            return
        folder.mkdir(exist_ok=True)
        arrays: dict[str, np.ndarray[Any, Any]] = {}
        count = min(SAMPLES, len(self.val_examples))
        with self._evaluating() as trained:
            nets = trained if self.ancillary is None else {**trained, "ancillary": self.ancillary}
            for number in range(count):
                example = self.val_examples[number * len(self.val_examples) // count]
                network_input = normalise(example.image[None].to(self.device).float())
                said = {role: net(network_input).argmax(1)[0].to(torch.uint8).cpu() for role, net in nets.items()}
                arrays |= {f"{number}_{role}": labels.numpy() for role, labels in said.items()}
                arrays[f"{number}_image"] = example.image.permute(1, 2, 0).numpy()
                arrays[f"{number}_truth"] = example.mask.numpy()
                clicks = [(click.x, click.y, click.cls) for click in example.clicks]
                arrays[f"{number}_clicks"] = np.array(clicks, np.float32).reshape(-1, 3)
                if when == "final":
                    picture = strip(example, [said[role] for role in ("student", "teacher") if role in said])
                    write_atomic(folder / f"{number}.png", lambda file, p=picture: p.save(file, "PNG"))  # type: ignore[misc]
        write_atomic(folder / f"{when}.npz", lambda file: np.savez_compressed(file, **arrays))  # type: ignore[arg-type]


class _Views(TorchDataset[dict[str, Tensor]]):
    """Training views of one epoch; each is drawn from its own (seed, epoch, index)."""

    def __init__(self, stage: Stage, examples: Sequence[Example], epoch: int) -> None:
        self.view = training_view(stage)
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


def training_view(stage: Stage) -> TrainView:
    """What draws the training views of a stage, from torch's global generator."""
    return TrainView(
        stage.crop,
        stage.scale_min,
        stage.scale_max,
        stage.flip,
        stage.augment_noise,
        stage.click_size,
        stage.click_order,
        stage.annotation,
    )


class _EvalViews(TorchDataset[tuple[Tensor, Tensor]]):
    """Images and masks to evaluate on: centre crops of side `crop`, or whole (None)."""

    def __init__(self, examples: Sequence[Example], crop: int | None) -> None:
        self.examples, self.crop = examples, crop

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        example = self.examples[index]
        return (example.image, example.mask) if self.crop is None else eval_view(example, self.crop)


def _weights(path: Path) -> dict[str, Tensor]:
    """Weights of a finished training. Raises `InputError` where there are none, as after `seminar pull`."""
    if not path.exists():
        raise InputError(f"{path}: not there; move the folder {path.parent} away to train it again")
    state: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def finished_network(stage: Stage, classes: int, weights: Path, device: torch.device) -> nn.Module:
    """The network of a finished stage in eval mode, without gradients. Raises `InputError` where its weights are not
    there."""
    net = networks.build(stage.backbone, classes, stage.output_stride)
    net.load_state_dict(_weights(weights))
    net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return net.eval().requires_grad_(False)


def early_epoch(stage: Stage) -> int:
    """The epoch after which early predictions are kept: the paper's Fig. 3 shows the tenth of 60."""
    return max(1, round(stage.epochs / 6))


def _backbone(stage: Stage) -> tuple[object, ...]:
    """What decides the features of a frozen backbone."""
    return stage.freeze, stage.backbone, stage.pretrained, stage.output_stride


def batches(examples: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Indices of each batch of `epoch`. A last batch of one is dropped: BatchNorm cannot normalise a single image."""
    order = torch.randperm(examples, generator=torch.Generator().manual_seed(mix(seed, epoch, ORDER))).tolist()
    cut = [order[start : start + batch_size] for start in range(0, examples, batch_size)]
    return [batch for batch in cut if len(batch) > 1]


def mix(*numbers: int) -> int:
    """A 63-bit seed from several numbers; neighbouring inputs give unrelated seeds."""
    text = "/".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) >> 1


def normalise(image: Tensor) -> Tensor:
    """RGB in 0..255 (B, 3, H, W) to ImageNet's zero mean and unit variance, channels last."""
    # Numbers, since the CPU would wait for a GPU to take tensors of them.
    planes = [(plane / 255 - mean) / std for plane, mean, std in zip(image.unbind(1), IMAGENET_MEAN, IMAGENET_STD)]
    return torch.stack(planes, dim=1).contiguous(memory_format=torch.channels_last)


def _best(curve: Sequence[Mapping[str, Any]], role: str) -> dict[str, Any] | None:
    """The best evaluated epoch. For information only: what is reported is always the last epoch."""
    evaluated = [line for line in curve if line.get(f"{role}_miou") is not None]
    if not evaluated:
        return None
    line = max(evaluated, key=lambda line: float(line[f"{role}_miou"]))
    return {"epoch": line["epoch"], "miou": line[f"{role}_miou"]}


@dataclasses.dataclass(frozen=True)
class StopWhen:
    """A watch that raises `Interrupted` at the next step once `asked()` is true."""

    asked: Any

    def begin(self, stage: Stage, folder: Path, epoch: int) -> None: ...

    def step(self, stage: Stage, done: int, total: int) -> None:
        if self.asked():
            raise Interrupted

    def epoch(self, stage: Stage, line: Mapping[str, Any]) -> None: ...

    def end(self, stage: Stage, body: Record | None) -> None: ...
