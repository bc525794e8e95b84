"""A backward pass for fake CUDA tensors on a machine without a card.

torch's own engine asks the CUDA driver for streams before it starts, so it fails on such a machine. The functions here
visit the same graph in Python and call the same derivative formulas. They know what this project needs: gradients of a
scalar with respect to leaves, and no hooks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def backward(loss: Tensor) -> None:
    """Accumulate the gradient of the scalar `loss` in `.grad` of its leaves, like `loss.backward()`."""
    for leaf, gradient in _gradients(loss):
        leaf(gradient)


def grad(loss: Tensor, inputs: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the gradients of the scalar `loss` with respect to leaves, like `torch.autograd.grad`."""
    found = {id(leaf.variable): gradient for leaf, gradient in _gradients(loss)}
    wanted = [inputs] if isinstance(inputs, Tensor) else inputs
    return tuple(found[id(each)] for each in wanted)


def _gradients(loss: Tensor) -> list[tuple[Any, Tensor]]:
    """The nodes of the graph that accumulate gradients of leaves, each with its gradient."""
    root: Any = loss.grad_fn
    missing = _edges_into(root)
    collected: defaultdict[Any, dict[int, Tensor]] = defaultdict(dict)
    collected[root][loss.output_nr] = torch.ones_like(loss)
    ready, found = [root], []
    with torch.no_grad():
        while ready:
            # torch's order: what was computed last comes first. The layout of a sum depends on it.
            ready.sort(key=lambda node: node._sequence_nr())
            node = ready.pop()
            gradients = collected.pop(node, {})
            if gradients and hasattr(node, "variable"):
                found.append((node, gradients[0]))
                continue
            for (after, number), gradient in zip(node.next_functions, _apply(node, gradients)):
                if after is None:
                    continue
                if gradient is not None:
                    earlier = collected[after].get(number)
                    collected[after][number] = gradient if earlier is None else earlier + gradient
                missing[after] -= 1
                if missing[after] == 0:
                    ready.append(after)
    return found


def _edges_into(root: Any) -> defaultdict[Any, int]:
    """How many edges of the graph below `root` lead into each node."""
    edges: defaultdict[Any, int] = defaultdict(int)
    seen, stack = {root}, [root]
    while stack:
        for after, _ in stack.pop().next_functions:
            if after is None:
                continue
            edges[after] += 1
            if after not in seen:
                seen.add(after)
                stack.append(after)
    return edges


def _apply(node: Any, gradients: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """What a node makes of the gradients of its outputs."""
    if not gradients:
        return (None,) * len(node.next_functions)
    # A node has one entry of metadata for each of its outputs.
    given = [gradients.get(number) for number in range(len(node._input_metadata))]
    # Functions written in Python (torch.autograd.Function) are called through `apply`.
    result = node.apply(*given) if hasattr(node, "apply") else node(*given)
    return result if isinstance(result, tuple) else (result,)
