"""The machine a training runs on: its settings, its memory, and its description for records."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
import torchvision

from seminar import parallel, provenance
from seminar.crf import AMPERE
from seminar.spec import InputError

Precision = Literal["fp32", "tf32", "bf16"]
"""Arithmetic of the networks. `fp32`: float32 in every digit. `tf32`: convolutions on a GPU round their inputs to 10
bits of mantissa (NVIDIA since Ampere; elsewhere the same as fp32). `bf16`: autocast to bfloat16. Losses, weights and
logits are float32 in each, but for two products of the CRF (see `crf._nystrom`)."""


def prepare(device: torch.device, precision: Precision) -> None:
    """Set this process up to train on `device`, and count its peak memory from here.

    On a CPU: one thread. Trainings are then bit-identical wherever they are continued, and several threads only wait
    for each other on small networks: a sweep uses the cores with one process each. On a GPU: make it the current one,
    so that nothing (pinned memory, say) reserves memory on another. cuDNN's trials (`cudnn.benchmark`) stay off: on an
    H200 they took 11 to 16 s at every start; the step of ResNet-101 gained 9 % by them, that of MobileNetV2 lost 17 %.

    Raises `InputError` for a precision that the GPU does not have.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
        _keep_freed_memory()
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)  # give back what earlier trainings of this process left (glibc only)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # see proc(5)
        return
    # Before this, torch takes an explicit index (cuda:0) for an invalid device.
    torch.cuda.init()  # type: ignore[no-untyped-call]
    if device.index is not None:
        torch.cuda.set_device(device)
    if not has(device, precision):
        raise InputError(
            f"precision={precision}: {torch.cuda.get_device_name(device)} is older than Ampere and has no {precision}; "
            "take precision=fp32"
        )
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    free_memory(device)
    torch.cuda.reset_peak_memory_stats(device)


def has(device: torch.device, precision: Precision) -> bool:
    """Return whether the device computes in this precision by itself: older cards emulate bfloat16, very slowly."""
    return precision == "fp32" or device.type == "cpu" or torch.cuda.get_device_capability(device) >= AMPERE


def free_memory(device: torch.device) -> None:
    """Hand back the GPU memory of trainings that nothing refers to any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def peak_memory_mb(device: torch.device) -> int | None:
    """Return the most memory, in MB of 2^20 bytes, since `prepare`; None where the system does not say.

    On a GPU: what torch reserved on the card. Elsewhere (Linux): the whole process with its libraries, without loader
    processes.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) >> 20
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]  # in kB
    return int(found[0]) >> 10 if found else None


def is_out_of_memory(error: Exception) -> bool:
    """Return whether `error` means that the GPU or the machine ran out of memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # From the CPU's allocator, and from CUDA and its libraries when they start on a card that is full.
    texts = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def name(device: torch.device) -> str:
    """Return the GPU's or the CPU's name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu()


def environment(device: torch.device) -> dict[str, Any]:
    """Return what ran this training: versions, hardware, commit."""
    gpu: dict[str, Any] = {}
    if device.type == "cuda":
        gpu = {
            "gpu_memory_mb": torch.cuda.get_device_properties(device).total_memory >> 20,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        }
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "platform": platform.platform(),
        "device": name(device) if device.type == "cuda" else "cpu",
        **gpu,
        "cpu": _cpu(),
        "threads": torch.get_num_threads(),
        "processes": parallel.size(),
        "commit": provenance.COMMIT,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def _keep_freed_memory() -> None:
    """Have malloc keep freed blocks instead of handing large ones back to the kernel.

    Every step needs the same blocks again, and fresh pages cost up to 40 % of a step on CPU (257 px, frozen backbone).
    """
    with suppress(OSError, AttributeError):  # glibc only; elsewhere nothing changes
        libc = ctypes.CDLL(None)
        mmap_max, trim_threshold = -4, -1  # M_MMAP_MAX and M_TRIM_THRESHOLD of malloc.h
        libc.mallopt(mmap_max, 0)
        libc.mallopt(trim_threshold, 2**31 - 1)


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
