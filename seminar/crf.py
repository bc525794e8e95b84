"""The dense CRF loss of Eq. 4, in plain torch: one code path for CPU and GPU.

    L = 5.0 * mean over all ordered pixel pairs (i, j) of W_ij (1 - p_i . p_j)
    W_ij = exp(-|f_i - f_j|^2 / 2),  f = (x / sigma_xy, y / sigma_xy, r / sigma_rgb, g / sigma_rgb, b / sigma_rgb)

mean over the images of the batch; padding is in no pair. This is Eq. 4 divided by the squared number of pixels: it is
>= 0 and does not change with the crop when sigma_xy is scaled with it. The factor 5.0 gives lambda_CRF = 1 the average
gradient strength of the base implementation at its published setting: weight 2e-9, 0.584 of the true sum returned by
its filter, 256^2 pixels: 2e-9 x 0.584 x (256^2)^2 = 5.0.

Since sum_k p_k = 1, the sum over pairs is w'Ww - sum_k p_k'W p_k, and its gradient is -2 W p_k: all that is needed is
W times a map, by one of two symmetric operators.

`exact`: the kernel itself, in chunks. O(N^2) time for N pixels.

`nystrom`: W on an image is of low rank, so W ~ C U C' with C a Gaussian bump per pixel and landmark. The M landmarks
are centres of a few weighted k-means steps (Zhang et al., 2008). Nystrom's method proper (Williams and Seeger, 2001)
takes U from the kernel among the landmarks. Here U is fitted by least squares to the kernel between two samples of
pixels (as in the prototype model of Wang and Zhang, 2013), which needs a third fewer landmarks for the same error and
leaves the shape of the bumps free. O(N M) time. Loss and gradient come from this one operator. What it misses is
measured between the same two samples (a control variate), and the value of the loss is corrected by the difference.
M = 2.5 kappa, or as requested, where kappa = 1 / (mean of W over all pairs) counts how many kernel widths the image
fills.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Operator = Literal["auto", "exact"] | float
"""How W is applied: exactly, through so many landmarks per kappa, or by whichever suits the image."""

STRENGTH = 5.0
QUALITY = 2.5
"""Landmarks per kappa of `auto`."""
EXACT_PIXELS = 1024
"""`auto` uses the exact kernel up to this many pixels: there it is the faster one."""
EXACT_FALLBACK_PIXELS = 20_000
"""`auto` also uses it up to this many where an image is too rich in colours for its number of landmarks."""
KAPPA_MIN = 24.0
"""An image counts as at least so many kernel widths."""
LANDMARKS_MAX, LANDMARKS_GPU = 1024, 320
"""Most landmarks; those of `auto` on a GPU, where M is fixed: to read kappa would make the CPU wait for it. They
suffice up to kappa = 128; photos of VOC have 6 to 96. What needs more is counted (`Diagnostics.short`)."""
LLOYD_STEPS = 3
WIDTH = 1.1
"""Of the bumps, in widths of the kernel. Errors are smallest near 1.1 (L2 at 2.5 per kappa: 1.0 2.8 %, 1.1 2.4 %, 1.2
2.8 %)."""
RIDGE, RIDGE_FLOOR = 1e-3, 1e-6
"""Added to the diagonal of the least squares: a share of its mean, and at least so much where nothing is inside."""
SAMPLES_KAPPA = 512
"""Pixels in each of the two samples behind kappa."""
SAMPLES_PER_LANDMARK, SAMPLES_MIN, SAMPLES_MAX = 8, 768, 2048
"""Those in each of the two behind the fit and the control variate: too few, and the fit would follow their chance."""
SEQUENCE = 3
"""How many times more pixels are drawn than are needed, so that there are enough where much of an image is padding."""
FLOOR = -87.0
"""2^ below it would come near the denormal floats, many times slower on CPU; 2^-87 adds nothing."""
CHUNK, CHUNK_EXACT, CHUNK_GPU = 2**18, 2**22, 2**26
"""Entries of C and of the kernel held at once: 1 MB of float32 stays near one core; the exact kernel has long rows."""
KEPT_GPU = 2**29
"""Entries of C that a GPU keeps from the loss to its gradient: 1 GB of bfloat16. A CPU computes them a second time, in
its cache, which is as fast as to fetch them from memory."""
AMPERE = (8, 0)
"""The compute capability of NVIDIA's first cards with bfloat16 and TF32."""
KMEANS_MIN, KMEANS_MAX = 2048, 4096
"""Pixels among which the landmarks are chosen: 8 M within these bounds."""


@dataclass(frozen=True)
class Diagnostics:
    """How the loss of one batch was computed, image by image: (B,) tensors on the device of the softmax.

    `kappa`: see above. `landmarks`: M, 0 for the exact kernel. `ratio`: exact over approximate sum of W_ij p_i . p_j
    over sampled pairs, 1 for the exact kernel; its distance from 1 estimates the error before correction. `energy`:
    mean W_ij (1 - p_i . p_j) / mean W_ij in [0, 1], the loss without the scale of the image. `short`: 1 where the image
    needs more landmarks than it got, so that its gradient is further off than the rule allows; else 0.
    """

    kappa: Tensor
    landmarks: Tensor
    ratio: Tensor
    energy: Tensor
    short: Tensor


def dense_crf(
    p: Tensor,
    image: Tensor,
    inside: Tensor,
    *,
    sigma_rgb: float,
    sigma_xy: float,
    operator: Operator = "auto",
) -> tuple[Tensor, Diagnostics]:
    """L_CRF of softmax maps `p` (B, C, H, W) on `image` (B, 3, H, W), RGB in 0..255, pixels where `inside` (B, H, W).

    `sigma_rgb` in grey levels, `sigma_xy` in pixels of this map. Returns a scalar >= 0 (up to the error of the
    operator) with gradient to `p` only, and how it was computed. An image without a pixel inside counts 0. Warns where
    an image would need more landmarks than there are.
    """
    precise = torch.promote_types(p.dtype, torch.float32)
    with torch.autocast(p.device.type, enabled=False):
        features = _features(image.detach().to(precise), sigma_rgb, sigma_xy)
        loss, *facts = _DenseCRF.apply(
            p.to(precise).flatten(2), features, inside.flatten(1), image.shape[-2:], operator
        )
    return loss, Diagnostics(*facts)


def normalized_cut(
    p: Tensor,
    image: Tensor,
    inside: Tensor,
    *,
    sigma_rgb: float,
    sigma_xy: float,
    operator: Operator = "auto",
) -> Tensor:
    """Return the normalised cut (Tang et al., CVPR 2018) of softmax maps, mean over the images, in 0..C - 1:

        sum over classes k of p_k' W (1 - p_k) / (d' p_k),   d = W 1

    with W, inputs and operators those of `dense_crf`; gradient to `p` only. A class without any probability, and an
    image without a pixel inside, count 0. What the low-rank operator misses is not corrected here: value and gradient
    are those of the operator.
    """
    precise = torch.promote_types(p.dtype, torch.float32)
    with torch.autocast(p.device.type, enabled=False):
        features = _features(image.detach().to(precise), sigma_rgb, sigma_xy)
        maps = p.to(precise).flatten(2) * inside.flatten(1)[:, None]
        with torch.no_grad():
            ones = inside.flatten(1)[:, None].to(precise)
            filtered = _filtered(
                torch.cat([maps, ones], dim=1), features, inside.flatten(1), image.shape[-2:], operator
            )
        association: Tensor = _Quadratic.apply(maps, filtered[:, :-1])
        degree = (maps * filtered[:, -1:]).sum(2)
        tiny = torch.finfo(precise).tiny
        return torch.where(degree > tiny, 1 - association / degree.clamp(min=tiny), 0.0).sum(1).mean()


class _Quadratic(torch.autograd.Function):
    """p_k' W p_k of maps (B, C, N), from W p (B, C, N), which is known: (B, C). W is symmetric."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, filtered: Tensor) -> Tensor:
        ctx.save_for_backward(filtered)
        return (maps * filtered).sum(2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (filtered,) = ctx.saved_tensors
        return 2 * grad[..., None] * filtered, None


def _filtered(maps: Tensor, features: Tensor, inside: Tensor, size: torch.Size, operator: Operator) -> Tensor:
    """Return W times maps (B, K, N), by the operator that suits each image."""
    result = torch.empty_like(maps)
    few = operator == "exact" or (operator == "auto" and maps.shape[2] <= EXACT_PIXELS)
    step = len(maps) if few or maps.device.type != "cpu" else 1
    apply = _exact if few else partial(_nystrom, index=_r2(size, maps.device), operator=operator)
    with _true_float32():
        for start in range(0, len(maps), step):
            part = slice(start, start + step)
            pixels = _Pixels(features[part], inside[part])
            apply(maps[part], pixels, torch.ones_like(pixels.pairs), result[part])
    return result


def at_scale(image: Tensor, inside: Tensor, scale: float, sigma_xy: float) -> tuple[Tensor, Tensor, float]:
    """Return `image` (B, 3, H, W) and `inside` (B, H, W) at `scale` times their size, by nearest neighbour, and
    `sigma_xy`, in pixels of a 513-pixel crop, in pixels of that map: it scales with the crop.
    """
    size = [max(1, round(edge * scale)) for edge in image.shape[-2:]]
    small = F.interpolate(image.float(), size=size, mode="nearest")
    keep = F.interpolate(inside[:, None].float(), size=size, mode="nearest")[:, 0] > 0
    return small, keep, sigma_xy * image.shape[-1] / 513 * scale


def softmax_at(logits: Tensor, size: torch.Size) -> Tensor:
    """Return the softmax over the classes of `logits` (B, C, H, W), bilinear at `size` (h, w): (B, C, h, w) float32.

    Where that is less than half as large, most pixels are not read, and a CPU computes only the others. On a GPU
    picking them out takes longer than the softmax of all.
    """
    if logits.device.type != "cpu" or any(2 * small >= edge for small, edge in zip(size, logits.shape[-2:])):
        return F.interpolate(F.softmax(logits.float(), dim=1), size=size, mode="bilinear", align_corners=False)
    maps = logits.movedim(1, -1)
    shares = []
    for axis, small in enumerate(size, start=1):
        edge = maps.shape[axis]
        at = (torch.arange(small, device=logits.device) + 0.5) * (edge / small) - 0.5
        maps = maps.index_select(axis, torch.cat([at.long(), at.long() + 1]))
        shares.append(at.frac())
    top, bottom = F.softmax(maps.movedim(-1, 1).float(), dim=1).chunk(2, dim=2)
    left, right = torch.lerp(top, bottom, shares[0][:, None]).chunk(2, dim=3)
    return torch.lerp(left, right, shares[1])


class _DenseCRF(torch.autograd.Function):
    """The loss of softmax maps (B, C, N), its gradient computed with it and kept until it is needed."""

    @staticmethod
    def forward(
        ctx: Any, p: Tensor, features: Tensor, inside: Tensor, size: torch.Size, operator: Operator
    ) -> tuple[Tensor, ...]:
        product = torch.empty_like(p) if ctx.needs_input_grad[0] else None
        few = operator == "exact" or (operator == "auto" and p.shape[2] <= EXACT_PIXELS)
        # Nystrom goes image by image on a CPU, each with the landmarks that it needs; a GPU takes all at once.
        step = len(p) if few or p.device.type != "cpu" else 1
        apply = _exact if few else partial(_nystrom, index=_r2(size, p.device), operator=operator)
        rows = []
        with _true_float32():
            for start in range(0, len(p), step):
                part = slice(start, start + step)
                pixels = _Pixels(features[part], inside[part])
                out = None if product is None else product[part]
                scale = -2 * STRENGTH / (pixels.pairs * len(p))
                rows.append(apply(p[part], pixels, scale, out))
        pairs, kappa, landmarks, ratio, short, all_pairs, like_pairs = (torch.cat(column) for column in zip(*rows))
        if product is not None:
            ctx.save_for_backward(product)
        value = STRENGTH * ((all_pairs - like_pairs) / pairs).mean()
        energy = (all_pairs - like_pairs) / all_pairs.clamp(min=torch.finfo(p.dtype).tiny)
        facts = (kappa, landmarks, ratio, energy, short)
        ctx.mark_non_differentiable(*facts)
        return value, *facts

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        (product,) = ctx.saved_tensors
        return product * grad, None, None, None, None


class _Pixels:
    """Pixels of some images as columns from which one matrix product gives the exponents of the kernel.

    -|f - g|^2 / 2 = f.g - |f|^2 / 2 - |g|^2 / 2, with f in units that make it an exponent of 2: on CPUs torch computes
    2^x several times faster than e^x. A pixel on padding has a distance to everything that no kernel reaches, so it
    needs no mask anywhere else.
    """

    def __init__(self, features: Tensor, inside: Tensor) -> None:
        self.features, self.inside = features, inside
        self.weights = inside.to(features.dtype)
        self.pairs = self.weights.sum(1).square().clamp(min=1)
        self._squares = torch.where(inside, features.square().sum(1) / -2, -1e4)[:, None]

    @cached_property
    def left(self) -> Tensor:
        """(B, 7, n): one side of the product."""
        return torch.cat([self.features, self._squares, torch.ones_like(self._squares)], dim=1)

    @cached_property
    def right(self) -> Tensor:
        """(B, 7, n): the other side."""
        return torch.cat([self.features, torch.ones_like(self._squares), self._squares], dim=1)

    def __len__(self) -> int:
        return self.features.shape[2]

    def pick(self, index: Tensor) -> _Pixels:
        """Return the pixels at `index` (B, n)."""
        return _Pixels(_pick(self.features, index), self.inside.gather(1, index))

    def chunks(self, entries_per_pixel: int, entries: int) -> Iterator[slice]:
        step = max(1, entries // entries_per_pixel)
        step -= step % 16 if step > 16 else 0  # whole cache lines
        return (slice(start, start + step) for start in range(0, len(self), step))


def _pick(rows: Tensor, index: Tensor) -> Tensor:
    """Return (B, K, n): the entries of `rows` (B, K, N) at `index` (B, n)."""
    return rows.gather(2, index[:, None].expand(-1, rows.shape[1], -1))


def _kernel(left: Tensor, right: Tensor) -> Tensor:
    """Return W (B, n, m) between the pixels of two slices of `_Pixels.left` (B, 7, n) and `_Pixels.right` (B, 7, m)."""
    return torch.bmm(left.transpose(1, 2), right).clamp_(FLOOR, 0).exp2_()


_Sums = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
"""Per image: number of pairs, kappa, landmarks, ratio, short, w'Ww and sum_k p_k'W p_k."""


def _exact(p: Tensor, pixels: _Pixels, scale: Tensor, out: Tensor | None) -> _Sums:
    """The kernel itself; writes `scale` W p to `out`."""
    all_pairs, like_pairs = torch.zeros_like(scale), torch.zeros_like(scale)
    chunk = CHUNK_EXACT if p.device.type == "cpu" else CHUNK_GPU
    for part in pixels.chunks(len(pixels) * len(p), chunk):
        kernel = _kernel(pixels.left[:, :, part], pixels.right)
        filtered = torch.bmm(p, kernel.transpose(1, 2))
        all_pairs += kernel.sum((1, 2))
        like_pairs += (filtered * p[:, :, part]).sum((1, 2))
        if out is not None:
            torch.mul(filtered, scale[:, None, None], out=out[:, :, part])
    kappa = pixels.pairs / all_pairs.clamp(min=torch.finfo(p.dtype).tiny)
    none = torch.zeros_like(scale)
    return pixels.pairs, kappa, none, torch.ones_like(scale), none, all_pairs, like_pairs


def _r2(size: torch.Size, device: torch.device) -> Tensor:
    """Return pixels at the points of the R2 sequence (Roberts, 2018), any stretch of which covers an image evenly."""
    steps = torch.arange(1, SEQUENCE * (2 * SAMPLES_MAX + KMEANS_MAX) + 1, dtype=torch.float64, device=device)
    height, width = size
    x, y = ((0.5 + steps * ratio).frac() for ratio in (0.7548776662466927, 0.5698402909980532))
    return (y * height).long() * width + (x * width).long()


def _inside_first(index: Tensor, inside: Tensor) -> Tensor:
    """Return `index` (B, n) with the pixels that are `inside` (B, n) first, otherwise in the same order.

    A stable sort by that alone, several times faster.
    """
    before = inside.cumsum(1)
    place = torch.where(inside, before, before[:, -1:] + (~inside).cumsum(1)) - 1
    return torch.empty_like(index).scatter_(1, place, index)


def _deal(index: Tensor, inside: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return two samples of `size` pixels of `index` (B, n), whose pixels inside come first.

    Where those are too few for both samples the two take turns, and where they are too few for one, both have all.
    """
    one, other, _ = index.tensor_split((size, 2 * size), dim=1)
    there = inside.gather(1, other)
    few, fewer = ~there[:, -1:], ~there[:, :1]
    turns = index[:, : 2 * size]
    first = torch.where(few & ~fewer, turns[:, ::2], one)
    return first, torch.where(fewer, one, torch.where(few, turns[:, 1::2], other))


def _per_kappa(operator: Operator) -> float:
    return operator if isinstance(operator, float) else QUALITY


def _landmarks(kappa: Tensor, pixels: _Pixels, operator: Operator) -> int:
    """Return M; 0 where the exact kernel must take over."""
    most = min(LANDMARKS_MAX, len(pixels))
    if kappa.device.type != "cpu" and operator == "auto":
        return min(LANDMARKS_GPU, most)
    wanted = _per_kappa(operator) * max(KAPPA_MIN, float(kappa.max()))
    if wanted > min(LANDMARKS_MAX, len(pixels) / 4) and operator == "auto" and len(pixels) <= EXACT_FALLBACK_PIXELS:
        return 0
    if wanted > LANDMARKS_MAX:
        warnings.warn(
            f"CRF: an image with kappa={float(kappa.max()):.0f} would need {wanted:.0f} landmarks and gets {most}; its "
            "loss is inexact (is it noise?)",
            RuntimeWarning,
            stacklevel=2,
        )
    return min(most, 8 * math.ceil(wanted / 8))


class _Samples:
    """Two samples of the pixels of some images and the kernel between them."""

    def __init__(self, index: Tensor, pixels: _Pixels, size: int) -> None:
        self.one, self.other = _deal(index, pixels.inside, size)
        self.first, self.second = pixels.pick(self.one), pixels.pick(self.other)
        self.kernel = _kernel(self.first.left, self.second.right)
        self.pairs = self.first.weights.sum(1) * self.second.weights.sum(1)


def _nystrom(
    p: Tensor,
    pixels: _Pixels,
    scale: Tensor,
    out: Tensor | None,
    *,
    index: Tensor,
    operator: Operator,
) -> _Sums:
    """The kernel through landmarks, or `_exact` where there would be too many; writes `scale` W p to `out`."""
    # Each image has a sample of its own, its pixels inside first and otherwise in the order of the sequence.
    index = _inside_first(index.expand(len(p), -1), pixels.inside[:, index])
    samples = _Samples(index, pixels, SAMPLES_KAPPA)
    tiny = torch.finfo(p.dtype).tiny
    kappa = samples.pairs / samples.kernel.sum((1, 2)).clamp(min=tiny)
    count = _landmarks(kappa, pixels, operator)
    if not count:
        return _exact(p, pixels, scale, out)
    samples = _Samples(index, pixels, min(SAMPLES_MAX, max(SAMPLES_MIN, SAMPLES_PER_LANDMARK * count)))
    # The pixels for k-means come after those of the samples, which it shares where few are inside.
    rest = index.roll(-2 * samples.one.shape[1], 1)
    rest = _inside_first(rest, pixels.inside.gather(1, rest))
    bumps = _Bumps(_kmeans(rest, pixels, count))
    here, there = (F.pad(_pick(p, at), (0, 0, 0, 1), value=1.0) for at in (samples.one, samples.other))
    ends = bumps(samples.first.right), bumps(samples.second.right)
    # One product serves the fit and, below, the control variate.
    crossed = torch.bmm(torch.cat([ends[0], here], dim=1), samples.kernel)
    core = _core(ends, torch.bmm(crossed[:, :count], ends[1].transpose(1, 2)))

    gpu = p.device.type != "cpu"
    # Such a GPU multiplies bfloat16 many times faster and adds up in float32 all the same. The error of the operator
    # grows from 1.16 to 1.17 % by it.
    rounded = gpu and p.dtype == torch.float32 and torch.cuda.get_device_capability(p.device) >= AMPERE
    kind = torch.bfloat16 if rounded else p.dtype
    added_up: dict[str, Any] = {"out_dtype": p.dtype} if kind != p.dtype else {}
    maps = p.to(kind)
    projected = p.new_zeros(len(p), p.shape[1], count)
    keep = gpu and out is not None and len(p) * len(pixels) * count <= KEPT_GPU
    kept = []
    for part in pixels.chunks(count * len(p), CHUNK_GPU if gpu else CHUNK):
        values = bumps(pixels.right[:, :, part], kind)
        projected += torch.bmm(maps[:, :, part], values.transpose(1, 2), **added_up)
        if keep:
            kept.append(values)
    solved = torch.bmm(projected, core)
    like_pairs = (projected * solved).sum((1, 2))
    all_pairs = (projected.sum(1) * solved.sum(1)).sum(1)

    # The control variate: what the operator misses, between the two samples, of p_i . p_j and, in a row of ones that
    # makes both sums of the same operations, of all pairs.
    exact = (crossed[:, count:] * there).sum(2)
    sums = [torch.bmm(q, end.transpose(1, 2)) for q, end in zip((here, there), ends)]
    approximate = (torch.bmm(sums[0], core) * sums[1]).sum(2)
    missed = (exact - approximate) * (pixels.pairs / samples.pairs.clamp(min=1))[:, None]
    like_pairs = like_pairs + missed[:, :-1].sum(1)
    all_pairs = all_pairs + missed[:, -1]
    alike = approximate[:, :-1].sum(1)
    ratio = torch.where(alike > tiny, exact[:, :-1].sum(1) / alike.clamp(min=tiny), 1.0)

    if out is not None:
        solved = (solved * scale[:, None, None]).to(kind)
        for number, part in enumerate(pixels.chunks(count * len(p), CHUNK_GPU if gpu else CHUNK)):
            values = kept[number] if keep else bumps(pixels.right[:, :, part], kind)
            torch.bmm(solved, values, **added_up, out=out[:, :, part])
    # A comparison on the device: to read kappa would make the CPU wait for a GPU. As many as there are pixels suffice.
    short = (_per_kappa(operator) * kappa > count) & (count < len(pixels))
    return pixels.pairs, kappa, torch.full_like(kappa, count), ratio, short.to(p.dtype), all_pairs, like_pairs


class _Bumps:
    """C' (B, M, n) at the pixels of a slice of `_Pixels.right` (B, 7, n): a Gaussian bump about each landmark.

    The fit does not need true Gaussians, and 2^x is expensive on a CPU. There x is written straight into the exponent
    bits of a floating-point number, and its fraction into the digits after them. The result is exact at whole x and a
    straight line between them (Schraudolph, 1999). The errors of the operator are the same.
    """

    def __init__(self, marks: _Pixels) -> None:
        self.left = marks.left.transpose(1, 2) / WIDTH**2
        self.bits = {torch.float32: (23, 127, torch.int32), torch.float64: (52, 1023, torch.int64)}[self.left.dtype]
        self.fast = self.left.device.type == "cpu"
        if self.fast:
            digits, bias, _ = self.bits
            self.left[:, :, 5] += bias  # meets the row of ones
            self.left *= 2.0**digits

    def __call__(self, right: Tensor, kind: torch.dtype | None = None) -> Tensor:
        """In the type `kind`, on a GPU only (default: that of the pixels); exponents need all digits of float32."""
        exponents = torch.bmm(self.left, right)
        if not self.fast:
            return torch.exp2(exponents, out=torch.empty_like(exponents, dtype=kind))
        digits, bias, whole = self.bits
        return exponents.clamp_(min=(bias + FLOOR) * 2.0**digits).to(whole).view(right.dtype)


def _core(ends: tuple[Tensor, Tensor], between: Tensor) -> Tensor:
    """Return U (B, M, M), symmetric: least squares of C_1 U C_2' - W between two samples, from C_1' and C_2' (B, M, n)
    and C_1' W C_2 (B, M, M)."""
    gram = torch.cat([torch.bmm(end, end.transpose(1, 2)) for end in ends])
    diagonal = gram.diagonal(dim1=1, dim2=2)
    diagonal += RIDGE * diagonal.mean(1, keepdim=True) + RIDGE_FLOOR
    # Not cholesky() and cholesky_solve(): both make the CPU wait for a GPU.
    factor = torch.linalg.cholesky_ex(gram).L
    identity = torch.eye(factor.shape[1], dtype=factor.dtype, device=factor.device).expand_as(factor)
    one, other = torch.linalg.solve_triangular(factor, identity, upper=False).chunk(2)
    # One factor at a time: with their products, the inverses of the two matrices, float32 would lose all digits.
    core = torch.bmm(torch.bmm(one, between), other.transpose(1, 2))
    core = torch.bmm(torch.bmm(one.transpose(1, 2), core), other)
    return (core + core.transpose(1, 2)) / 2


def _kmeans(index: Tensor, pixels: _Pixels, count: int) -> _Pixels:
    """Return `count` centres of the pixels at `index` (B, n), those inside first, by Lloyd's steps from the first of
    them."""
    points = pixels.pick(index[:, : min(KMEANS_MAX, max(KMEANS_MIN, 8 * count))])
    centres = _Pixels(points.features[:, :, :count], points.inside[:, :count])
    members = torch.cat([points.features, torch.ones_like(points.features[:, :1])], dim=1) * points.weights[:, None]
    for _ in range(LLOYD_STEPS):
        near = torch.bmm(points.left.transpose(1, 2), centres.right)
        # 1 where a point belongs to a centre. One that is as near to two of them counts with both, which does no harm.
        sums = torch.bmm(members, near.ge_(near.amax(2, keepdim=True)))
        means = torch.where(sums[:, -1:] > 0, sums[:, :-1] / sums[:, -1:].clamp(min=1), centres.features)
        centres = _Pixels(means, centres.inside)
    return centres


def _features(image: Tensor, sigma_rgb: float, sigma_xy: float) -> Tensor:
    """Return (B, 5, N) features, centred so that squares stay small in float32; times sqrt(log2 e), see `_Pixels`."""
    batch, _, height, width = image.shape
    ys = torch.arange(height, device=image.device, dtype=image.dtype) - (height - 1) / 2
    xs = torch.arange(width, device=image.device, dtype=image.dtype) - (width - 1) / 2
    grid = torch.stack(torch.meshgrid(ys, xs, indexing="ij")).expand(batch, 2, height, width) / sigma_xy
    return torch.cat([grid, (image - 127.5) / sigma_rgb], dim=1).flatten(2) * math.sqrt(math.log2(math.e))


@contextmanager
def _true_float32() -> Iterator[None]:
    """Matrix products in float32 also where the program allows TF32 or bfloat16: exponents need all digits."""
    mkldnn: Any = torch.backends.mkldnn
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
