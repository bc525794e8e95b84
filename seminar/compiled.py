"""The networks of a training step through torch.compile, where a stage wants it."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from seminar.spec import InputError


class Compiled:
    """Runs networks, compiled if `enabled`, on batches of `batch_size`."""

    def __init__(self, enabled: bool, batch_size: int) -> None:
        self.enabled, self.batch_size = enabled, batch_size
        self._nets: dict[nn.Module, Any] = {}
        if enabled:
            torch.compiler.reset()  # the networks of earlier trainings would count towards torch's limit of variants

    def run(self, net: nn.Module, *inputs: Any) -> Any:
        """Return what the network makes of `inputs`, batches first."""
        # Compiling once more for the smaller batch that ends an epoch takes longer than it saves.
        if not self.enabled or len(inputs[0]) < self.batch_size:
            return net(*inputs)
        if net not in self._nets:
            # Dropout as without the compiler: the two then differ by rounding only.
            self._nets[net] = torch.compile(net, dynamic=False, options={"fallback_random": True})
        return self._nets[net](*inputs)

    @contextmanager
    def naming_failure(self) -> Iterator[None]:
        """Raise `InputError` where torch.compile gives up: for want of a compiler, say."""
        if not self.enabled:
            yield
            return
        from torch._dynamo.exc import TorchDynamoException  # a second of importing

        try:
            yield
        except TorchDynamoException as error:
            reason = textwrap.shorten(str(error).strip().partition("\n\n")[0], 200)
            raise InputError(f"compile=true: torch.compile does not work here ({reason}); leave it out") from error
