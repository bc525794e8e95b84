"""The paper's losses, one decorated function each.

A loss names the inputs it needs as positional parameters, out of

    student  (B, C, H, W) float   logits of the student
    teacher  (B, C, H, W) float   logits of the EMA teacher, without gradient; asking for it gives the stage a teacher
    labels   (B, H, W)    long    drawn clicks: class, 255 unlabelled, 254 padding
    masks    (B, H, W)    long    dense ground truth: class, 255 void, 254 padding
    pseudo   (B, H, W)    long    arg-max of the frozen ancillary student, 254 padding; asking for it gives an ancillary
    ancillary (B, C, H, W) float  its logits, without gradient; asking for them gives an ancillary as well
    image    (B, 3, H, W) float   RGB in 0..255, augmented as the network saw it
    inside   (B, H, W)    bool    False on padding

and its settings as keyword-only parameters with defaults. Everything else (the settings `lambda_NAME`, `NAME_SETTING`,
`NAME_ramp`, the key, the log columns) follows from the signature: adding a loss is adding a function here. It returns
a scalar, or a scalar and facts {name: scalar} that are logged beside it as `NAME_fact`.
All losses are means, so none depends on the batch or the crop, and all are computed in float32. Means over the
batch are those of `seminar.parallel`, for a batch may be spread over several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from seminar import crf as dense_crf
from seminar import pairwise
from seminar.data import PADDING, UNLABELLED
from seminar.parallel import batch_mean, image_mean, images
from seminar.parts import Entry, Registry
from seminar.pixel_sum import pixel_sum
from seminar.spec import Later
from seminar.tree import spanning_tree

Loss = Callable[..., Tensor | tuple[Tensor, dict[str, Tensor]]]
INPUTS = ("student", "teacher", "labels", "masks", "pseudo", "ancillary", "image", "inside")
IGNORED = -100
Positive = Annotated[float, Field(gt=0)]
Region = Literal["all", "unlabelled"]


Note = Callable[[Sequence[Mapping[str, Any]]], str | None]
"""A function that returns a warning for the record from the lines of metrics.jsonl, or None."""


@dataclass(frozen=True)
class Defaults:
    """The paper's weight (lambda) and ramp (fraction of the epochs over which the weight rises from 0) of a loss, and
    its note for the record, if it has one."""

    weight: float
    ramp: float
    note: Note | None = None


losses: Registry[Loss] = Registry("losses")
defaults: dict[str, Defaults] = {}


def term(name: str, weight: float = 1.0, ramp: float = 0.0, note: Note | None = None) -> Callable[[Loss], Loss]:
    """Decorator: register a loss under `name` with its default weight and ramp and its note."""

    def decorate(function: Loss) -> Loss:
        entry = losses.add(name, function)
        strange = set(entry.inputs) - set(INPUTS)
        if strange:
            raise TypeError(f"loss {name!r} asks for {sorted(strange)}; inputs are {INPUTS}")
        defaults[name] = Defaults(weight, ramp, note)
        return function

    return decorate


def needs_ancillary(entry: Entry[Loss]) -> bool:
    """Return whether the loss learns from another, finished student."""
    return needs("pseudo", entry) or needs("ancillary", entry)


def needs(name: str, entry: Entry[Loss]) -> bool:
    """Return whether the loss reads the input `name`."""
    return name in entry.inputs


@term("pce")
def partial_cross_entropy(
    student: Tensor, labels: Tensor, *, normalizer: Literal["batch", "rloss"] = "batch"
) -> Tensor:
    """L_pCE, Eq. 2: cross-entropy over the clicked pixels only.

    `normalizer="batch"`: mean over all labelled pixels of the batch. `"rloss"`: that mean divided once more by the
    batch size, as the base implementation does. No labelled pixel gives exactly 0 with a zero gradient.
    """
    labelled = labels < PADDING
    if student.device.type == "cpu":
        # Clicks are few: taking their pixels out first is several times faster than a masked loss over the whole map.
        pixels = student.movedim(1, -1)[labelled].float()
        mean = batch_mean(F.cross_entropy(pixels, labels[labelled], reduction="sum"), len(pixels))
    else:  # where it would have the CPU wait, to learn how many they are
        mean = batch_mean(_cross_entropy_sum(student, labels, labelled), labelled.sum())
    return mean / images(len(student)) if normalizer == "rloss" else mean


@term("ce")
def cross_entropy(student: Tensor, masks: Tensor) -> Tensor:
    """Full supervision: mean cross-entropy over all pixels of the dense masks, void and padding left out."""
    known = masks < PADDING
    return batch_mean(_cross_entropy_sum(student, masks, known), known.sum())


@term("pcons", weight=200.0, ramp=2 / 3)
def pixel_consistency(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    inside: Tensor,
    *,
    classes: Literal["mean", "sum"] = "mean",
    region: Region = "all",
    loss: Later[Literal["mse", "kl", "ce"]] = "mse",
) -> Tensor:
    """L_pCons, Eq. 3: mean over the pixels of the squared difference of the two softmaxes (>= 0; no gradient to the
    teacher).

    The printed minus sign is a misprint. `classes="mean"` averages over the C classes as well (lambda 200 then brings
    it to the size of L_pCE, as the text says), `"sum"` is the literal norm, C times larger. `region="unlabelled"`
    leaves the clicked pixels out (Eq. 8). `loss`: instead of the squared difference, the Kullback-Leibler divergence
    of the student from the teacher, sum_c q log(q / p), or the cross-entropy, -sum_c q log p; they have one gradient.
    """
    pixels = inside & (labels == UNLABELLED) if region == "unlabelled" else inside
    apart = {"mse": _squared_difference, "kl": _divergence, "ce": _soft_cross_entropy}[loss]
    mean = batch_mean(pixel_sum(apart, student, teacher, pixels), pixels.sum())
    return mean / student.shape[1] if classes == "mean" else mean


def _squared_difference(student: Tensor, teacher: Tensor, pixels: Tensor) -> Tensor:
    """Sum over `pixels` (B, H, W) of the squared difference of the softmaxes of two logits (B, C, H, W)."""
    p, q = F.softmax(student.float(), dim=1), F.softmax(teacher.float(), dim=1)
    return (F.mse_loss(p, q, reduction="none").sum(dim=1) * pixels).sum()


def _soft_cross_entropy(student: Tensor, teacher: Tensor, pixels: Tensor) -> Tensor:
    """Sum over `pixels` (B, H, W) of the cross-entropy of the softmaxes of two logits (B, C, H, W)."""
    return _weighted_cross_entropy(student, F.softmax(teacher.float(), dim=1), pixels)


def _divergence(student: Tensor, teacher: Tensor, pixels: Tensor) -> Tensor:
    """`_soft_cross_entropy` less the entropy of the teacher."""
    return _soft_cross_entropy(student, teacher, pixels) - _entropy(teacher, pixels)


def _entropy(logits: Tensor, pixels: Tensor) -> Tensor:
    """Sum over `pixels` (B, H, W) of the entropy of the softmax of logits (B, C, H, W), in nats."""
    log_p = F.log_softmax(logits.float(), dim=1)
    return -((log_p.exp() * log_p).sum(dim=1) * pixels).sum()


def _too_few_landmarks(curve: Sequence[Mapping[str, Any]]) -> str | None:
    shares = [float(line["crf_short"]) for line in curve if "crf_short" in line]
    if not any(shares):
        return None
    return (
        f"crf: {sum(shares) / len(shares):.2%} of the images needed more landmarks than they got, so their CRF gradient"
        f" is less exact; on a GPU crf_operator={dense_crf.QUALITY:g} gives every image what it needs, but waits for it"
    )


@term("crf", note=_too_few_landmarks)
def crf(
    student: Tensor,
    image: Tensor,
    inside: Tensor,
    labels: Tensor,
    *,
    sigma_rgb: Positive = 15.0,
    sigma_xy: Positive = 100.0,
    scale: Annotated[float, Field(gt=0, le=1)] = 0.5,
    region: Region = "all",
    operator: Literal["auto", "exact"] | Positive = "auto",
) -> tuple[Tensor, dict[str, Tensor]]:
    """L_CRF, Eq. 4: dense Gaussian-kernel regulariser over position and colour, in the units of `seminar.crf`.

    `sigma_rgb` in grey levels of 0..255. `sigma_xy` in pixels of a 513-pixel crop; it scales with the crop. The loss
    is computed on a map `scale` times the crop: image and padding by nearest neighbour, softmax bilinear.
    `region="unlabelled"` leaves the pairs of clicked pixels out. `operator`: the exact kernel, so many landmarks per
    kappa, or by rule. The facts are those of `seminar.crf.Diagnostics`, as means over the images.
    """
    pixels = inside & (labels == UNLABELLED) if region == "unlabelled" else inside
    small, keep, xy = dense_crf.at_scale(image, pixels, scale, sigma_xy)
    p = dense_crf.softmax_at(student, small.shape[-2:])
    loss, facts = dense_crf.dense_crf(p, small, keep, sigma_rgb=sigma_rgb, sigma_xy=xy, operator=operator)
    here = len(student)
    return image_mean(loss, here), {name: image_mean(values.mean(), here) for name, values in vars(facts).items()}


@term("pseudo")
def pseudo_cross_entropy(student: Tensor, pseudo: Tensor) -> Tensor:
    """L_pseudo, Eq. 6: mean cross-entropy over all pixels with the arg-max of the frozen ancillary student."""
    inside = pseudo < PADDING
    return batch_mean(_cross_entropy_sum(student, pseudo, inside), inside.sum())


@term("softpseudo")
def soft_pseudo(
    student: Tensor,
    ancillary: Tensor,
    labels: Tensor,
    inside: Tensor,
    *,
    kind: Literal["soft", "collision", "hard"] = "soft",
    threshold: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    clicks: Literal["keep", "overwrite"] = "keep",
) -> Tensor:
    """Pseudo-labels by another rule than the paper's: mean over the pixels of a distance of the student's softmax p
    from the ancillary's q.

    `kind="soft"`: -sum_c q log p. `"collision"`: -log sum_c q p, which asks only that the two could be one class
    (Zhang and Boykov, 2024). `"hard"`: -log p at the arg-max of q, as `pseudo`. `threshold`: pixels where max q is
    below it are left out. `clicks="overwrite"`: clicked pixels have the label of their click.
    """
    q = F.softmax(ancillary.float(), dim=1)
    sure = inside & (q.amax(1) >= threshold)
    if clicks == "overwrite":
        clicked = labels < PADDING
        named = F.one_hot(labels.where(clicked, 0), q.shape[1]).movedim(-1, 1).to(q.dtype)
        q = torch.where(clicked[:, None], named, q)
        sure = sure | clicked
    if kind == "hard":
        q = F.one_hot(q.argmax(1), q.shape[1]).movedim(-1, 1).to(q.dtype)
    apart = _collision if kind == "collision" else _weighted_cross_entropy
    return batch_mean(pixel_sum(apart, student, q, sure), sure.sum())


def _weighted_cross_entropy(student: Tensor, q: Tensor, pixels: Tensor) -> Tensor:
    """Sum over `pixels` (B, H, W) of the cross-entropy of the softmax of logits with q (B, C, H, W)."""
    return -((q * F.log_softmax(student.float(), dim=1)).sum(dim=1) * pixels).sum()


def _collision(student: Tensor, q: Tensor, pixels: Tensor) -> Tensor:
    """Sum over `pixels` (B, H, W) of -log of the probability that two draws, from p and from q, are of one class."""
    same = torch.logsumexp(F.log_softmax(student.float(), dim=1) + q.clamp(min=1e-12).log(), dim=1)
    return -(same * pixels).sum()


# ---- other regularisers, for comparison: what could stand in the place of the CRF and of L_pCons


@term("entropy")
def entropy(student: Tensor, inside: Tensor) -> Tensor:
    """Mean entropy of the softmax over all pixels, in nats (Grandvalet and Bengio, 2004): no pixel stays undecided."""
    return batch_mean(pixel_sum(_entropy, student, inside), inside.sum())


@term("imagelevel")
def image_level(student: Tensor, labels: Tensor, inside: Tensor) -> Tensor:
    """Image-level loss of What's the Point (Bearman et al., ECCV 2016, Eq. 2), of the classes that are clicked in the
    crop, wherever they are: present classes must be somewhere, absent ones nowhere.

        -mean over present c of log max_i p_ic  -  mean over absent c of log(1 - max_i p_ic)

    Mean over the images; one without a click says nothing about its classes, and counts 0.
    """
    p = F.softmax(student.float(), dim=1).masked_fill(~inside[:, None], 0.0)
    most = p.flatten(2).amax(2)  # (B, C)
    there = labels.where(labels < PADDING, student.shape[1])
    present = F.one_hot(there.flatten(1), student.shape[1] + 1).amax(1)[:, :-1].bool()
    known = present.any(1)
    tiny = torch.finfo(most.dtype).eps
    found = -(most.clamp(min=tiny).log() * present).sum(1) / present.sum(1).clamp(min=1)
    refused = -(torch.log1p(-most.clamp(max=1 - tiny)) * ~present).sum(1) / (~present).sum(1).clamp(min=1)
    return image_mean(((found + refused) * known).mean(), len(student))


@term("potts")
def potts(
    student: Tensor,
    image: Tensor,
    inside: Tensor,
    *,
    kind: Literal["quadratic", "bilinear"] = "quadratic",
    neighbours: Literal[4, 8] = 8,
    sigma_rgb: Annotated[float, Field(ge=0)] = 0.0,
    scale: Annotated[float, Field(gt=0, le=1)] = 0.5,
) -> Tensor:
    """Contrast-weighted Potts model on the nearest neighbours, relaxed to probabilities (see `seminar.pairwise.potts`):
    the regulariser of scribble-supervised segmentation since Boykov and Jolly (ICCV 2001).

    `kind`: |p - q|^2 / 2, or 1 - p.q, which also asks every pixel to decide. `sigma_rgb` in grey levels of 0..255, 0:
    the contrast of each image. Computed on a map `scale` times the crop.
    """
    small, keep, _ = dense_crf.at_scale(image, inside, scale, 1.0)
    p = dense_crf.softmax_at(student, small.shape[-2:])
    values = pairwise.potts(p, small, keep, neighbours=neighbours, sigma_rgb=sigma_rgb, quadratic=kind == "quadratic")
    return image_mean(values.mean(), len(student))


@term("gatedcrf", weight=0.1)
def gated_crf(
    student: Tensor,
    image: Tensor,
    inside: Tensor,
    labels: Tensor,
    *,
    radius: Annotated[int, Field(ge=1, le=20)] = 5,
    sigma_rgb: Positive = 0.1,
    sigma_xy: Positive = 6.0,
    scale: Annotated[float, Field(gt=0, le=1)] = 0.25,
    region: Region = "all",
) -> Tensor:
    """Gated CRF loss (Obukhov et al., 2019): the dense CRF's energy within a window (see `seminar.pairwise.gated_crf`).

    `sigma_rgb` of an image in 0..1; `radius` and `sigma_xy` in pixels of a map `scale` times the crop: of a
    DeepLab's output at 513 pixels, as published. Gates: padding is neither source nor destination;
    `region="unlabelled"` makes clicked pixels no sources.
    """
    small, keep, _ = dense_crf.at_scale(image, inside, scale, 1.0)
    _, sources, _ = dense_crf.at_scale(image, inside & (labels == UNLABELLED), scale, 1.0)
    p = dense_crf.softmax_at(student, small.shape[-2:])
    values = pairwise.gated_crf(
        p,
        small / 255,
        sources if region == "unlabelled" else keep,
        keep,
        radius=radius,
        sigma_rgb=sigma_rgb,
        sigma_xy=sigma_xy,
    )
    return image_mean(values.mean(), len(student))


@term("ncut")
def normalized_cut(
    student: Tensor,
    image: Tensor,
    inside: Tensor,
    *,
    sigma_rgb: Positive = 15.0,
    sigma_xy: Positive = 100.0,
    scale: Annotated[float, Field(gt=0, le=1)] = 0.5,
    operator: Literal["auto", "exact"] | Positive = "auto",
) -> Tensor:
    """Normalised cut (Tang et al., CVPR 2018), with the kernel and the settings of `crf` (see
    `seminar.crf.normalized_cut`); `ncut+crf` is their kernel cut."""
    small, keep, xy = dense_crf.at_scale(image, inside, scale, sigma_xy)
    p = dense_crf.softmax_at(student, small.shape[-2:])
    value = dense_crf.normalized_cut(p, small, keep, sigma_rgb=sigma_rgb, sigma_xy=xy, operator=operator)
    return image_mean(value, len(student))


@term("tree", weight=0.4)
def tree_energy(
    student: Tensor,
    image: Tensor,
    inside: Tensor,
    labels: Tensor,
    *,
    sigma: Positive = 0.002,
    scale: Annotated[float, Field(gt=0, le=1)] = 0.5,
) -> Tensor:
    """Tree energy loss (Liang et al., CVPR 2022): mean over the unlabelled pixels of sum_c |p - A p / A 1|.

    A_ij = exp(-D_ij / sigma), D_ij the sum of |I - I'|^2 along the path from i to j in the minimum spanning tree of
    the image's colours (see `seminar.tree`); I in 0..1 and divided by 0.226, the mean of ImageNet's standard
    deviations, which are the units of the published `sigma`. The gradient goes through both terms, as published.
    Published with a second tree, of the network's features; that one is left out: it would have to be built anew on
    the CPU in every step from what the GPU has just computed. Computed on a map `scale` times the crop.
    """
    small, keep, _ = dense_crf.at_scale(image, inside, scale, 1.0)
    _, open_, _ = dense_crf.at_scale(image, inside & (labels == UNLABELLED), scale, 1.0)
    p = dense_crf.softmax_at(student, small.shape[-2:])
    filtered = spanning_tree(small / (255 * 0.226), keep, sigma)
    counted = torch.cat([p, p.new_ones(len(p), 1, *p.shape[-2:])], dim=1)
    smooth = filtered.smooth(counted)
    apart = (p - smooth[:, :-1] / smooth[:, -1:].clamp(min=1e-6)).abs().sum(1) * open_
    values = apart.sum((1, 2)) / open_.sum((1, 2)).clamp(min=1)
    return image_mean(values.mean(), len(student))


def _cross_entropy_sum(logits: Tensor, target: Tensor, where: Tensor) -> Tensor:
    """Sum of the cross-entropy over the pixels where `where` is True."""
    return pixel_sum(_known_cross_entropy, logits, torch.where(where, target, IGNORED))


def _known_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(logits.float(), target, ignore_index=IGNORED, reduction="sum")
