"""A stand-in for `torch.cuda` with two devices, for tests of start-up order and placement on a machine without a card.

It keeps what torch documents of the order of calls: CUDA is not initialised until something needs it, statistics of a
device that is named before that are refused with torch's own error, seeds are kept until then. Everything in
`torch.cuda` that is not listed here raises `NotImplementedError`. Tensors are computed on the CPU: a mode that torch
asks before each of its functions replaces CUDA devices among the arguments and counts the bytes placed there.

What it does not cover: `tensor.device` says "cpu" for a tensor "on" a device, so a mix of devices goes unnoticed and
code that looks at the device of a tensor takes the way of the CPU; autocast, streams, events, graphs, `torch.compile`;
memory of results (only tensors that are placed on a device by name are counted); threads other than the one that
installed it. `tests/test_gpu_step.py` covers the step itself.

Events go as lines of JSON to the file in the environment variable CUDA_STANDIN_LOG, if it is set (see `Log`).
"""

from __future__ import annotations

import functools
import json
import multiprocessing.util
import os
import sys
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
import torch.distributed
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

DEVICES = 2
TOTAL = 8 * 2**30
"""Bytes of memory of a device."""
CONTEXT = 300 * 2**20
"""What a process takes of a device by its mere use."""
Name = torch.device | str | int | None


class Properties(NamedTuple):
    """The part of torch's device properties that the stand-in knows."""

    name: str = "Stand-in"
    major: int = 9
    minor: int = 0
    total_memory: int = TOTAL
    multi_processor_count: int = 1


class Memory:
    """Bytes of one device."""

    def __init__(self) -> None:
        self.current = self.peak = self.told = 0
        self.used = False
        self.storages: set[int] = set()


class Cuda:
    """The state of one process, with the functions of `torch.cuda` as methods of the same names."""

    def __init__(self) -> None:
        self._owner: int | None = None
        self._current = 0
        self._memory = [Memory() for _ in range(DEVICES)]
        self._waiting: list[Callable[[], None]] = []
        self.default_generators: tuple[torch.Generator, ...] = ()

    # Whether and when

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return DEVICES

    def is_initialized(self) -> bool:
        return self._owner == os.getpid()

    def _is_in_bad_fork(self) -> bool:
        return self._owner not in (None, os.getpid())

    def init(self) -> None:
        if self.is_initialized():
            return
        if self._is_in_bad_fork():
            raise RuntimeError(
                "Cannot re-initialize CUDA in forked subprocess. To use CUDA with multiprocessing, you must use the "
                "'spawn' start method"
            )
        self._owner = os.getpid()
        self.default_generators = tuple(torch.Generator() for _ in range(DEVICES))
        log("init", None)
        multiprocessing.util.Finalize(None, log, ("end", None), exitpriority=0)
        for call in self._waiting:
            call()
        self._waiting.clear()

    def _use(self, device: Name) -> int:
        """The index of a device that is used from now on; initialises CUDA."""
        self.init()
        index = self._index(device)
        if not self._memory[index].used:
            self._memory[index].used = True
            log("use", index)
            wait_for_others()
        return index

    def _index(self, device: Name) -> int:
        index = device if isinstance(device, int) else None
        if device is not None and index is None:
            named = torch.device(device)  # type: ignore[arg-type]
            if named.type != "cuda":
                raise ValueError(f"Expected a cuda device, but got: {named}")
            index = named.index
        if index is None:
            return self.current_device()
        if not 0 <= index < DEVICES:
            raise torch.AcceleratorError("CUDA error: invalid device ordinal")
        return index

    # Devices

    def current_device(self) -> int:
        self.init()
        return self._current

    def set_device(self, device: Name) -> None:
        self._current = self._use(device)

    def _set_device_index(self, device: Name) -> None:
        """As `set_device`, but the device that is current already is not touched."""
        if self._index(device) != self.current_device():
            self.set_device(device)

    def synchronize(self, device: Name = None) -> None:
        self._use(device)

    def get_device_properties(self, device: Name = None) -> Properties:
        self.init()
        self._index(device)
        return Properties()

    def get_device_name(self, device: Name = None) -> str:
        return self.get_device_properties(device).name

    def get_device_capability(self, device: Name = None) -> tuple[int, int]:
        properties = self.get_device_properties(device)
        return properties.major, properties.minor

    def is_bf16_supported(self, including_emulation: bool = True) -> bool:
        self.init()
        return True

    def is_current_stream_capturing(self) -> bool:
        return False

    # Memory

    def memory_stats(self, device: Name = None) -> dict[str, Any]:
        if not self.is_initialized():
            return {}
        memory = self._memory[self._index(device)]
        names = {"current": memory.current, "peak": memory.peak}
        kinds = ("allocated_bytes", "reserved_bytes", "active_bytes", "requested_bytes")
        return {f"{kind}.all.{name}": value for kind in kinds for name, value in names.items()}

    def memory_allocated(self, device: Name = None) -> int:
        return self.memory_stats(device).get("allocated_bytes.all.current", 0)

    def max_memory_allocated(self, device: Name = None) -> int:
        return self.memory_stats(device).get("allocated_bytes.all.peak", 0)

    def memory_reserved(self, device: Name = None) -> int:
        return self.memory_stats(device).get("reserved_bytes.all.current", 0)

    def max_memory_reserved(self, device: Name = None) -> int:
        return self.memory_stats(device).get("reserved_bytes.all.peak", 0)

    def reset_peak_memory_stats(self, device: Name = None) -> None:
        named = device if isinstance(device, int) or device is None else torch.device(device).index
        if not self.is_initialized() and named is not None:
            # torch prints the number as a character.
            raise RuntimeError(f"Invalid device argument {chr(named)}: did you call init?")
        memory = self._memory[self._index(device)]
        memory.peak = memory.current

    def mem_get_info(self, device: Name = None) -> tuple[int, int]:
        memory = self._memory[self._use(device)]
        return TOTAL - CONTEXT - memory.current, TOTAL

    def empty_cache(self) -> None:
        pass

    def _has(self, tensor: Tensor, index: int) -> bool:
        """Whether a tensor counts as one on this device."""
        return tensor.untyped_storage()._cdata in self._memory[index].storages

    def _place(self, tensor: Tensor, device: Name) -> Tensor:
        """Count a tensor as one on the device, for as long as its memory is in use."""
        index = self._use(device)
        memory = self._memory[index]
        if self._has(tensor, index):
            return tensor
        storage = tensor.untyped_storage()
        number, size = storage._cdata, storage.nbytes()
        memory.storages.add(number)
        memory.current += size
        memory.peak = max(memory.peak, memory.current)
        if memory.peak > 1.1 * memory.told:
            memory.told = memory.peak
            log("memory", index, bytes=CONTEXT + memory.peak)
        weakref.finalize(storage, self._freed, memory, number, size)
        return tensor

    @staticmethod
    def _freed(memory: Memory, number: int, size: int) -> None:
        memory.storages.discard(number)
        memory.current -= size

    # Random numbers. Seeds wait until CUDA is initialised.

    def _when_initialised(self, call: Callable[[], None]) -> None:
        if self.is_initialized():
            call()
        else:
            self._waiting.append(call)

    def manual_seed(self, seed: int) -> None:
        self._when_initialised(lambda: self._seed(seed, [self._current]))

    def manual_seed_all(self, seed: int) -> None:
        self._when_initialised(lambda: self._seed(seed, range(DEVICES)))

    def _seed(self, seed: int, devices: Any) -> None:
        for index in devices:
            self.default_generators[index].manual_seed(int(seed))

    def get_rng_state(self, device: Name = "cuda") -> Tensor:
        self.init()
        return self.default_generators[self._index(device)].get_state()

    def set_rng_state(self, new_state: Tensor, device: Name = "cuda") -> None:
        state = new_state.clone()
        self._when_initialised(lambda: self.default_generators[self._index(device)].set_state(state) and None)

    @property
    def functions(self) -> dict[str, Any]:
        """What to put into `torch.cuda`, by name."""
        names = [name for name, value in vars(Cuda).items() if not name.startswith("_") and callable(value)]
        return {name: getattr(self, name) for name in (*names, "_is_in_bad_fork")}

    @property
    def accelerator(self) -> dict[str, Any]:
        """What to put into `torch.accelerator`, by name: what loaders of data ask when they pin memory."""
        return {
            "is_available": self.is_available,
            "current_accelerator": lambda check_available=False: torch.device("cuda"),
            "current_device_index": self.current_device,
            "set_device_index": self._set_device_index,
        }


def log(event: str, device: int | None, **facts: Any) -> None:
    """Append a line to the log: `event`, `device`, `pid`, `argv`, `time`, and `where`: functions of seminar at work.

    Events: `init` CUDA is initialised; `use` a device is used for the first time; `memory` the peak of the process has
    grown to `bytes`, by a tenth or more; `end` the process ends in an orderly way.
    """
    path = os.environ.get("CUDA_STANDIN_LOG")
    if path is None:
        return
    where = [each.name for each in traceback.extract_stack() if "/seminar/" in each.filename]
    entry = {"event": event, "device": device, "pid": os.getpid(), "argv": sys.argv, "time": time.monotonic()}
    entry |= {"where": where, **facts}
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(file, (json.dumps(entry) + "\n").encode())
    os.close(file)


def wait_for_others() -> None:
    """Wait until as many workers of a sweep as CUDA_STANDIN_WORKERS says have begun to use a device.

    Each then has a cell, however long another took to start.
    """
    count = int(os.environ.get("CUDA_STANDIN_WORKERS", "0"))
    deadline = time.monotonic() + 180
    while "_work" in {each.name for each in traceback.extract_stack()} and time.monotonic() < deadline:
        lines = Path(os.environ["CUDA_STANDIN_LOG"]).read_text(encoding="utf-8").splitlines()
        entries = [json.loads(line) for line in lines]
        if len({each["pid"] for each in entries if each["event"] == "use" and "_work" in each["where"]}) >= count:
            return
        time.sleep(0.05)


class OnCpu(TorchFunctionMode):
    """Has torch's functions work on the CPU where they are asked to work on a CUDA device."""

    def __init__(self, cuda: Cuda) -> None:
        super().__init__()
        self.cuda = cuda

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked: list[torch.device] = []

        def to_cpu(value: Any) -> Any:
            if isinstance(value, str) and not value.startswith("cuda"):
                return value
            device = torch.device(value)
            if device.type != "cuda":
                return value
            asked.append(device)
            return torch.device("cpu")

        if function in (torch.device, torch._C._nn._parse_to):  # they name a device, and use none
            return function(*args, **kwargs)
        if function is Tensor.cuda:
            function, args = Tensor.to, (args[0], torch.device("cuda", *args[1:]))
        # A string is a device only as an argument of its own, never within a list.
        args = tuple(to_cpu(value) if isinstance(value, str | torch.device) else value for value in args)
        kwargs = {name: to_cpu(x) if isinstance(x, str | torch.device) else x for name, x in kwargs.items()}
        if not asked:
            return function(*args, **kwargs)
        index = self.cuda._use(asked[0])
        result = function(*args, **kwargs)
        if args and result is args[0] and not self.cuda._has(result, index):
            result = result.clone()  # `to` copies what comes from the CPU
        return tree_map_only(Tensor, lambda tensor: self.cuda._place(tensor, index), result)


def _unknown(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def refuse(*_: Any, **__: Any) -> Any:
        name = function.__name__
        raise NotImplementedError(f"torch.cuda.{name}: the stand-in does not know it; see tests/cuda_standin/device.py")

    return refuse


def _loading(original: Any, cuda: Cuda) -> Any:
    """`torch.load` onto a device: read on the CPU, then count it."""

    def load(*args: Any, map_location: Any = None, **kwargs: Any) -> Any:
        if not isinstance(map_location, str | torch.device) or torch.device(map_location).type != "cuda":
            return original(*args, map_location=map_location, **kwargs)
        index = cuda._use(map_location)
        result = original(*args, map_location="cpu", **kwargs)
        return tree_map_only(Tensor, lambda tensor: cuda._place(tensor, index), result)

    return load


def _gloo(original: Any, cuda: Cuda) -> Any:
    """`init_process_group` without NCCL, which needs cards."""

    def init_process_group(backend: str | None = None, *args: Any, device_id: Any = None, **kwargs: Any) -> None:
        if backend == "nccl":
            assert cuda.is_initialized(), "NCCL takes the current device: set it first"
            backend = "gloo"
        original(backend, *args, **kwargs)

    return init_process_group


def _replica(original: Any, cuda: Cuda) -> Any:
    """`DistributedDataParallel` of a network that is on the CPU, whatever device it is said to be on."""

    def __init__(self: Any, module: Any, device_ids: Any = None, *args: Any, **kwargs: Any) -> None:
        assert device_ids is None or [cuda._index(device) for device in device_ids] == [cuda.current_device()]
        original(self, module, None, *args, **kwargs)

    return __init__


def _pinned(original: Any, cuda: Cuda) -> Any:
    """`Tensor.pin_memory`, which asks the driver for memory."""

    def pin_memory(self: Tensor) -> Tensor:
        cuda.init()
        return self.clone()

    return pin_memory


@contextmanager
def installed() -> Iterator[Cuda]:
    """Replace `torch.cuda` in this process as long as the context lasts."""
    cuda = Cuda()
    changes: list[tuple[Any, str, Any]] = []
    for name in torch.cuda.__all__:
        value = getattr(torch.cuda, name, None)
        if callable(value) and not isinstance(value, type):
            changes.append((torch.cuda, name, _unknown(value)))
    changes += [(torch.cuda, name, value) for name, value in cuda.functions.items()]
    changes += [(torch.accelerator, name, value) for name, value in cuda.accelerator.items()]
    for owner, name, change in (
        (torch, "load", _loading),
        (torch.distributed, "init_process_group", _gloo),
        (torch.nn.parallel.DistributedDataParallel, "__init__", _replica),
        (Tensor, "pin_memory", _pinned),
    ):
        changes.append((owner, name, change(getattr(owner, name), cuda)))
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(OnCpu(cuda))
        yield cuda
