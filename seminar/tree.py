"""Filtering along a minimum spanning tree of an image's colours: what the tree energy loss needs. In torch and scipy.

The tree is built on the CPU, so a GPU waits for it. The filter visits the tree level by level, twice: from the leaves
to the root and back. Its cost grows with the number of pixels and with the depth of the tree, not with their square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, minimum_spanning_tree
from torch import Tensor

NEVER = 1e9
"""Cost of an edge that only joins what must be joined: pixels of padding, and one image with the next."""


@dataclass(frozen=True)
class Tree:
    """The minimum spanning trees of a batch of images, joined to one; nodes are numbered breadth first from a root.

    `order` (N): the pixel, b H W + y W + x, of each node. `parent` (N): the node above; of the root itself. `affinity`
    (N): of the edge to the parent, 0..1. `levels`: where each level begins, and N.
    """

    order: Tensor
    parent: Tensor
    affinity: Tensor
    levels: list[int]

    def smooth(self, maps: Tensor) -> Tensor:
        """Return y_i = sum_j A_ij x_j for maps x (B, C, H, W), A_ij the product of the affinities on the path from i to
        j; A_ii = 1."""
        batch, channels, height, width = maps.shape
        x = maps.movedim(1, -1).reshape(-1, channels)[self.order]
        y: Tensor = _Smooth.apply(x, self)
        back = torch.empty_like(y).index_copy(0, self.order, y)
        return back.reshape(batch, height, width, channels).movedim(-1, 1)


class _Smooth(torch.autograd.Function):
    """The filter on nodes (N, C). A is symmetric, so the gradient is filtered in the same way."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, tree: Tree) -> Tensor:
        ctx.tree = tree
        return _smooth(x, tree)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _smooth(gradient, ctx.tree), None


def _smooth(x: Tensor, tree: Tree) -> Tensor:
    weight = tree.affinity[:, None].to(x.dtype)
    spans = [slice(start, stop) for start, stop in zip(tree.levels[1:], tree.levels[2:])]
    below = x.clone()  # of each node: what it and the nodes below it give
    for span in reversed(spans):
        below.index_add_(0, tree.parent[span], weight[span] * below[span])
    result = below.clone()
    for span in spans:  # what a parent has, without what came from the node itself, comes down
        down = weight[span]
        result[span] = below[span] * (1 - down**2) + down * result[tree.parent[span]]
    return result


def spanning_tree(image: Tensor, inside: Tensor, sigma: float) -> Tree:
    """Return the trees of images (B, 3, H, W), with the 4-neighbour edges of least |I_i - I_j|^2, and the affinity
    exp(-|I_i - I_j|^2 / sigma) of each. Padding, where `inside` (B, H, W) is False, has affinity 0 to everything."""
    batch, _, height, width = image.shape
    colours = image.detach().to("cpu", torch.float64).movedim(1, -1).numpy()
    known = inside.cpu().numpy()
    pixels = np.arange(batch * height * width).reshape(batch, height, width)
    ends: list[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]] = []
    for here, there in (
        (np.s_[:, :, :-1], np.s_[:, :, 1:]),
        (np.s_[:, :-1], np.s_[:, 1:]),
    ):
        squares = np.square(colours[here] - colours[there]).sum(-1)
        squares[~(known[here] & known[there])] = NEVER
        ends.append((pixels[here].ravel(), pixels[there].ravel(), squares.ravel()))
    first = pixels[:, 0, 0]
    ends.append((first[:-1], first[1:], np.full(batch - 1, 2 * NEVER)))
    one, other, square = (np.concatenate(parts) for parts in zip(*ends))
    # One is added to every cost, which changes no tree: scipy takes an edge of 0 for none.
    graph = coo_array((square + 1, (one, other)), shape=(pixels.size, pixels.size)).tocsr()
    order, above = breadth_first_order(minimum_spanning_tree(graph), 0, directed=False)
    place = np.empty(pixels.size, np.int64)
    place[order] = np.arange(pixels.size)
    parent = np.zeros(pixels.size, np.int64)
    parent[1:] = place[above[order[1:]]]
    levels = [0, 1]
    while levels[-1] < pixels.size:  # the nodes of a level have their parents in the level before, in its order
        levels.append(1 + int(np.searchsorted(parent[1:], levels[-1])))
    flat = colours.reshape(-1, 3)[order]
    apart = np.square(flat - flat[parent]).sum(-1)
    real = known.ravel()[order]
    image_of = order // (height * width)
    joined = real & real[parent] & (image_of == image_of[parent])
    affinity = np.where(joined, np.exp(-apart / sigma), 0.0)
    device = image.device
    return Tree(
        torch.from_numpy(order.astype(np.int64)).to(device),
        torch.from_numpy(parent).to(device),
        torch.from_numpy(affinity).to(device, torch.float32),
        levels,
    )
