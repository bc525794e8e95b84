"""Accuracy and speed of the dense CRF loss, beside each other.

    python -m tests.bench_crf accuracy --root VOC_FOLDER     # against the exact kernel, per image
    python -m tests.bench_crf speed                          # ms per image for loss and gradient, memory, same run

Without --root the images are generated (`creatures`). Crops are the training views of the paper: random scale 0.5 to 2,
padding, flip, blur; the map is half the crop. Softmax maps stand for a training that has begun, is under way, and is
done: bilinear from a quarter of the map, the ground truth with noise at three strengths.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from seminar import crf, machine
from seminar.data import PADDING, Dataset
from seminar.data.augment import TrainView
from seminar.data.creatures import Creatures
from seminar.data.voc import Voc

CLASSES = 21
STRENGTHS = {"early": 1.0, "mid": 4.0, "late": 10.0}


@dataclass(frozen=True)
class Case:
    """One image at the size of the map: RGB (1, 3, H, W), inside (1, H, W), a softmax map (1, C, H, W) per stage."""

    image: Tensor
    inside: Tensor
    maps: dict[str, Tensor]
    sigma_xy: float

    def to(self, device: torch.device) -> Case:
        maps = {stage: p.to(device) for stage, p in self.maps.items()}
        return Case(self.image.to(device), self.inside.to(device), maps, self.sigma_xy)


def open_images(root: Path | None, crop: int) -> Dataset:
    if root is None:
        return Creatures(seed=7, train=16, val=2, size=crop)
    return Voc(root=root, clicks_outside="drop")


def cases(data: Dataset, crop: int, scale: float, limit: int | None) -> Iterator[Case]:
    """Training views of all images of `data`, each from a seed of its own."""
    view = TrainView(crop, 0.5, 2.0, True, "blur", None, None)
    examples = itertools.chain(data.split("train"), data.split("val"))
    for number, example in enumerate(itertools.islice(examples, limit)):
        torch.manual_seed(number)
        seen = view(example)
        image, inside, sigma_xy = crf.at_scale(seen["image"][None], seen["inside"][None] > 0, scale, sigma_xy=100)
        size = list(image.shape[-2:])
        masks = seen["masks"].long()
        truth = F.one_hot(torch.where(masks < PADDING, masks, 0), CLASSES).movedim(2, 0)[None].float()
        coarse = F.interpolate(truth, size=[crop // 4 + 1] * 2, mode="area")
        noise = torch.randn_like(coarse)
        maps = {
            stage: F.interpolate(
                (coarse * strength + noise).log_softmax(1).exp(), size=size, mode="bilinear", align_corners=False
            )
            for stage, strength in STRENGTHS.items()
        }
        yield Case(image, inside, maps, sigma_xy)


def run(case: Case, p: Tensor, operator: crf.Operator) -> tuple[float, Tensor, crf.Diagnostics]:
    """Loss, its gradient by `p`, and how it was computed."""
    p = p.clone().requires_grad_()
    image = case.image.to(p.dtype)
    loss, facts = crf.dense_crf(p, image, case.inside, sigma_rgb=15, sigma_xy=case.sigma_xy, operator=operator)
    loss.backward()
    assert p.grad is not None
    return float(loss.detach()), p.grad, facts


def at_logits(gradient: Tensor, p: Tensor) -> Tensor:
    """The gradient behind the softmax: what the network sees."""
    return p * (gradient - (p * gradient).sum(1, keepdim=True))


@dataclass(frozen=True)
class Errors:
    """Of one image and stage, against the exact kernel: relative L2 of W p, 1 - cosine of the gradient at softmax and
    logits, relative error of the loss."""

    l2: float
    softmax: float
    logits: float
    loss: float
    kappa: float
    landmarks: float


def references(case: Case, dtype: torch.dtype) -> dict[str, tuple[float, Tensor]]:
    """Loss and gradient of each softmax map by the exact kernel, which is computed once: W p of all maps together."""
    together = torch.cat(list(case.maps.values()), dim=1).to(dtype)
    _, gradient, facts = run(case, together, "exact")
    found = {}
    for (stage, p), part in zip(case.maps.items(), gradient.split(CLASSES, dim=1), strict=True):
        # The gradient is -2 * STRENGTH * W p / pairs: p' W p / pairs follows from it, and w' W w / pairs is 1 / kappa.
        found[stage] = (float(crf.STRENGTH / facts.kappa[0] + (part * p).sum() / 2), part)
    return found


def errors(case: Case, p: Tensor, quality: float, exact: tuple[float, Tensor]) -> Errors:
    loss, gradient, facts = run(case, p, quality)
    true_loss, truth = exact
    mine = gradient.to(truth.dtype)

    def off(one: Tensor, other: Tensor) -> float:
        return 1 - float(F.cosine_similarity(one.double().flatten(), other.double().flatten(), dim=0))

    wide = p.to(truth.dtype)
    return Errors(
        l2=float((mine - truth).norm() / truth.norm()),
        softmax=off(mine, truth),
        logits=off(at_logits(mine, wide), at_logits(truth, wide)),
        loss=abs(loss / true_loss - 1),
        kappa=float(facts.kappa[0]),
        landmarks=float(facts.landmarks[0]),
    )


def accuracy(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    dtype = torch.float64 if options.double else torch.float32
    found: dict[tuple[float, str], list[Errors]] = {}
    data = open_images(options.root, options.crop)
    quiet = not sys.stderr.isatty()
    for case in tqdm(cases(data, options.crop, options.scale, options.images), disable=quiet, unit="image"):
        exact = references(case, dtype)
        for (stage, p), quality in itertools.product(case.maps.items(), options.quality):
            found.setdefault((quality, stage), []).append(errors(case, p, quality, exact[stage]))
    first = next(iter(found.values()))
    kappas = sorted(e.kappa for e in first)
    side = round(options.crop * options.scale)
    print(f"{len(first)} images, crop {options.crop}, map {side} x {side}, reference: exact, {dtype}")
    printed = ", ".join(f"{name} {kappas[int(q * (len(kappas) - 1))]:.0f}" for name, q in QUANTILES.items())
    print(f"kappa: mean {statistics.mean(kappas):.0f}, {printed}")
    print("| M / kappa | stage | M mean | L2 of W p, mean / worst | 1 - cos, softmax | 1 - cos, logits | loss off |")
    print("|---|---|---|---|---|---|---|")
    for (quality, stage), items in found.items():
        cells = [
            f"{statistics.mean(values):.2%} / {max(values):.2%}"
            for values in ([getattr(e, name) for e in items] for name in ("l2", "softmax", "logits", "loss"))
        ]
        landmarks = statistics.mean(e.landmarks for e in items)
        print(f"| {quality:g} | {stage} | {landmarks:.0f} | {' | '.join(cells)} |")


QUANTILES = {"least": 0.0, "median": 0.5, "90 %": 0.9, "most": 1.0}


def speed(options: argparse.Namespace) -> None:
    machine.prepare(torch.device(options.device), "fp32")  # as in training
    device = torch.device(options.device)
    batch = [
        case.to(device) for case in cases(open_images(options.root, options.crop), options.crop, options.scale, 12)
    ]
    side = batch[0].image.shape[-1]
    print(f"{len(batch)} images, {CLASSES} classes, map {side} x {side}, {device}, loss and gradient, stage mid")
    torch.set_num_threads(max(options.threads_list))
    quiet = not sys.stderr.isatty()
    checked = tqdm(batch[: options.checked], disable=quiet, desc="exact", unit="image")
    exact = [references(case, torch.float32)["mid"] for case in checked]
    off = {q: [errors(c, c.maps["mid"], q, e).l2 for c, e in zip(batch, exact)] for q in options.quality}
    print(f"L2 of W p over the first {len(exact)}; memory beyond the inputs, with the gradient, of all together")
    print(
        "| operator | threads | ms per image, median (least to most) | M | kappa | L2 of W p, mean / worst | memory |"
    )
    print("|---|---|---|---|---|---|---|")
    for threads, operator in itertools.product(options.threads_list, (*options.quality, "exact")):
        torch.set_num_threads(threads)
        some = batch[:1] if operator == "exact" else batch
        times, facts = timed(some, operator, 1 if operator == "exact" else options.repeats)
        each = [1000 * t / len(some) for t in times]
        error = "0" if operator == "exact" else f"{statistics.mean(off[operator]):.1%} / {max(off[operator]):.1%}"
        name = "exact" if operator == "exact" else f"M = {operator:g} kappa"
        print(
            f"| {name} | {threads} | {statistics.median(each):.1f} ({min(each):.1f} to {max(each):.1f}) | "
            f"{float(facts.landmarks.mean()):.0f} | {float(facts.kappa.mean()):.0f} | {error} | "
            f"{memory(some, operator):.0f} MB |",
            flush=True,
        )


def once(batch: Sequence[Case], operator: crf.Operator) -> crf.Diagnostics:
    """Loss and gradient of a batch."""
    p = torch.cat([case.maps["mid"] for case in batch]).requires_grad_()
    image, inside = torch.cat([case.image for case in batch]), torch.cat([case.inside for case in batch])
    loss, facts = crf.dense_crf(p, image, inside, sigma_rgb=15, sigma_xy=batch[0].sigma_xy, operator=operator)
    loss.backward()
    if p.device.type == "cuda":
        torch.cuda.synchronize()
    return facts


def timed(batch: Sequence[Case], operator: crf.Operator, repeats: int) -> tuple[list[float], crf.Diagnostics]:
    facts = once(batch, operator)
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        facts = once(batch, operator)
        times.append(time.perf_counter() - started)
    return times, facts


def memory(batch: Sequence[Case], operator: crf.Operator) -> float:
    """Peak of memory of one call in MB beyond its inputs and their copy: includes the gradient, as large as p."""
    if batch[0].image.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once(batch, operator)
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    # The peak of a process never falls, so each call is measured in a process of its own.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
        return fresh.submit(_memory, batch, operator).result()


def _memory(batch: Sequence[Case], operator: crf.Operator) -> float:
    torch.set_num_threads(1)
    once(batch[:1], operator)  # libraries and their buffers are there
    # The high-water mark may lie above what is in use now: fill up to it, so that it counts from here.
    in_use = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    ballast = torch.ones(max(0, high_water() - in_use), dtype=torch.uint8)
    before = high_water()
    once(batch, operator)
    copies = sum(t.nbytes for case in batch for t in (case.image, case.inside, case.maps["mid"]))
    del ballast
    return (high_water() - before - copies) / 1e6


def high_water() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("accuracy", accuracy), ("speed", speed)):
        command = commands.add_parser(name)
        command.set_defaults(function=function)
        command.add_argument("--root", type=Path, help="a VOC-layout folder (default: generated images)")
        command.add_argument("--crop", type=int, default=513, help="side of the crop in pixels (default 513)")
        command.add_argument("--scale", type=float, default=0.5, help="side of the map as a fraction of the crop")
        command.add_argument("--quality", type=float, nargs="+", default=[2.5, 4.0, 5.0], help="values of M / kappa")
    accuracy_command, speed_command = commands.choices["accuracy"], commands.choices["speed"]
    accuracy_command.add_argument("--images", type=int, help="only the first so many")
    accuracy_command.add_argument("--double", action="store_true", help="reference in float64 (slow at full size)")
    accuracy_command.add_argument("--threads", type=int, default=1)
    speed_command.add_argument("--threads-list", type=int, nargs="+", default=[1, 2])
    speed_command.add_argument("--repeats", type=int, default=7)
    speed_command.add_argument("--checked", type=int, default=3, help="images whose error is measured (default 3)")
    speed_command.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.function(options)


if __name__ == "__main__":
    main()
