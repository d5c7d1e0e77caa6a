"""Devices, precision, threads and the generators of a device."""

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator

import torch

from runtime import distributed
from runtime.provenance import current_call
from utils import UserError, warn


def device_rng(device: torch.device) -> torch.Tensor | None:
    """The state of an accelerator's own generator, which dropout there draws from; None for the
    CPU.
    """
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def set_device_rng(device: torch.device, state: torch.Tensor | None) -> None:
    """Continue from what :func:`device_rng` gave; without a state (saved on the CPU) the generator
    is left alone.
    """
    if state is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    if state is not None and device.type == "mps":
        torch.mps.set_rng_state(state)


def pick_device(name: str, gpu: int) -> torch.device:
    """The device that ``--device`` names; ``auto`` takes CUDA, then MPS, then the CPU.

    Of several processes on a machine each has a GPU of its own, counted from ``gpu``; with
    SHARE_GPUS=1 they go round the GPUs from there.
    """
    available = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "cpu": lambda: True,
    }
    if name == "auto":
        name = next(kind for kind, ready in available.items() if ready())
    if not available[name]():
        raise UserError(f"--device {name}: not available here; use --device auto or cpu")
    if name == "mps" and distributed.world_size() > 1:
        raise UserError("--device mps: one process at a time; torchrun needs --device cuda or cpu")
    if name != "cuda":
        return torch.device(name)
    there = torch.cuda.device_count()
    if distributed.shares_gpus() and 0 <= gpu < there:
        return torch.device("cuda", gpu + distributed.local_rank() % (there - gpu))
    last = (
        gpu + distributed.local_world_size() - 1
    )  # every process refuses what one of them could not have
    if not 0 <= gpu <= last < there:
        raise UserError(f"--gpu {last}: this machine has GPUs 0 to {there - 1}")
    return torch.device("cuda", gpu + distributed.local_rank())


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 arithmetic has units of its own; emulated bf16 is ten times slower than fp32 on
    an AVX2 CPU.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def pick_precision(name: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` for training; ``auto`` takes bf16 where the hardware has
    native units.
    """
    if name == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    return name


def usable_cores() -> int:
    """The cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(wanted: int | None, device: torch.device) -> None:
    """Compute on the CPU with ``wanted`` threads, or as many as torch has; warn where the cores are
    busy with other work already.

    A thread that waits for its turn lets the others of an operation wait for it.
    """
    if wanted is not None:
        torch.set_num_threads(wanted)
    call, cores = current_call.get(), usable_cores()
    if (
        device.type == "cpu"
        and torch.get_num_threads() > 1
        and call
        and call.load is not None
        and call.load > cores
    ):
        slow = "two torch processes on two busy cores are 15 to 60 times slower"
        warn(
            f"the machine's load is {call.load:.1f} on {cores} usable cores: {slow}; take"
            " --threads 1"
        )


def with_threads(device: torch.device) -> str:
    """A device and how many CPU threads compute, such as ``cpu, 2 threads``."""
    count = torch.get_num_threads()
    return f"{device}, {count} thread{'s' if count > 1 else ''}"


def keep_freed_memory() -> None:
    """Let glibc hand a freed block to the next tensor instead of giving it back to the kernel.

    Each large tensor on the CPU is otherwise mapped, zeroed page by page and unmapped again: a
    sixth of an fp32 step of ResNet-18 at batch 256. Freed memory stays with the process. Other C
    libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the top of the heap is never given back


def tune_cuda(device: torch.device) -> None:
    """How CUDA computes in a script: fp32 is never TF32, in training neither, and cuDNN takes the
    fastest of its convolutions.

    cuDNN tries them once for each shape: batches have few. Another try may find another one, and
    with it other roundings.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        _set_tf32("highest", False)


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """Full fp32 for what is measured (masks, influence, evaluation): no TF32, whatever the caller
    has set.

    An autocast region stays what it is: not for ``losses``, whose forward passes the loop runs
    under autocast.
    """
    before = _set_tf32("highest", False)
    try:
        yield
    finally:
        _set_tf32(*before)


def _set_tf32(matmul: str, convolutions: bool) -> tuple[str, bool]:
    """Set the precision of fp32 matrix products ("highest" is no TF32) and whether convolutions use
    TF32; returns what was set.

    By the older of torch's two interfaces: the newer one, ``fp32_precision``, came with 2.9, one
    must not be read where the other one was written, and torch.compile reads the older one.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*TF32"
        )  # 2.9 and some later versions advise the newer one
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
    return before
