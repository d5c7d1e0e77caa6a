"""Devices, precision, threads and the generators of a device."""

import contextlib
import ctypes
import os
import sys
import warnings
from collections.abc import Iterator

import torch

from runtime import distributed
from runtime.file_checks import available_memory
from runtime.provenance import current_call
from utils import UserError, warn


def device_rng(device: torch.device) -> torch.Tensor | None:
    """The state of an accelerator's own generator, which dropout draws from; None for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.mps.get_rng_state() if device.type == "mps" else None


def set_device_rng(device: torch.device, state: torch.Tensor | None) -> None:
    """Restore what :func:`device_rng` returned; None (saved on the CPU) changes nothing."""
    if state is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    if state is not None and device.type == "mps":
        torch.mps.set_rng_state(state)


def pick_device(name: str, gpu: int) -> torch.device:
    """The device that ``--device`` names; ``auto`` takes CUDA, then MPS, then the CPU.

    Local rank i has GPU ``gpu`` + i; with SHARE_GPUS=1 the ranks go round the GPUs from ``gpu``.

    Raises:
        UserError: no such device, or too few GPUs for the ranks of this machine.
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
    count = torch.cuda.device_count()
    if distributed.shares_gpus() and 0 <= gpu < count:
        return torch.device("cuda", gpu + distributed.local_rank() % (count - gpu))
    last = gpu + distributed.local_world_size() - 1  # checked on every rank: all refuse alike
    if not 0 <= gpu <= last < count:
        raise UserError(f"--gpu {last}: this machine has GPUs 0 to {count - 1}")
    return torch.device("cuda", gpu + distributed.local_rank())


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; of the CPU, and of MPS which shares it, main memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return available_memory()


def has_native_bf16(device: torch.device) -> bool:
    """Whether the hardware has bf16 units; emulated on an AVX2 CPU it is ten times slower than
    fp32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type == "cpu":
        checks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
        return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return False


def pick_precision(name: str, device: torch.device) -> str:
    """``fp32`` or ``bf16`` for training; ``auto`` takes bf16 where the hardware has its units."""
    if name == "auto":
        return "bf16" if has_native_bf16(device) else "fp32"
    return name


def usable_cores() -> int:
    """The number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_threads(wanted: int | None, device: torch.device) -> None:
    """Set torch's number of CPU threads, unless ``wanted`` is None; warn where several threads
    would compute on cores that were busy before the script began.
    """
    if wanted is not None:
        torch.set_num_threads(wanted)
    if device.type != "cpu" or torch.get_num_threads() == 1:
        return
    call, cores = current_call.get(), usable_cores()
    if call and call.load is not None and call.load > cores:
        slow = "two torch processes on two busy cores are 15 to 60 times slower"
        warn(
            f"the machine's load is {call.load:.1f} on {cores} usable cores: {slow}; take"
            " --threads 1"
        )


def threads_of(device: torch.device) -> int | None:
    """Torch's number of CPU threads where the device is the CPU; else None."""
    return torch.get_num_threads() if device.type == "cpu" else None


def with_threads(device: torch.device) -> str:
    """A device and torch's number of CPU threads, such as ``cpu, 2 threads``."""
    count = torch.get_num_threads()
    return f"{device}, {count} thread{'s' if count > 1 else ''}"


def keep_freed_memory() -> None:
    """Let glibc reuse a freed block for the next tensor instead of returning it to the kernel.

    Each large CPU tensor is otherwise mapped, zeroed page by page and unmapped again: a sixth of
    an fp32 step of ResNet-18 at batch 256. Other C libraries are left alone.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block is a mapping of its own
        mallopt(-1, -1)  # M_TRIM_THRESHOLD: the top of the heap is never given back


def tune_cuda(device: torch.device, deterministic: bool = False) -> None:
    """Turn TF32 off, in training too, and let cuDNN time its convolutions for each shape and take
    the fastest.

    The fastest may differ from run to run, and with it the rounding; ``deterministic`` takes
    cuDNN's deterministic convolutions instead, without a search.
    """
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = not deterministic
        torch.backends.cudnn.deterministic = deterministic
        _set_tf32("highest", False)


@contextlib.contextmanager
def exact_fp32() -> Iterator[None]:
    """No TF32 in the block, whatever the caller has set: for masks, influence and evaluation.

    Autocast is left as it is, so this is not for ``losses``, which runs under autocast.
    """
    before = _set_tf32("highest", False)
    try:
        yield
    finally:
        _set_tf32(*before)


def _set_tf32(matmul: str, convolutions: bool) -> tuple[str, bool]:
    """Set the precision of fp32 matrix products ("highest" is no TF32) and whether convolutions use
    TF32; returns the previous pair.

    Uses the older of torch's two interfaces: ``fp32_precision`` came with 2.9, torch refuses to
    read one after the other was written, and torch.compile reads the older one.
    """
    with warnings.catch_warnings():
        # 2.9 and some later versions recommend the newer interface.
        warnings.filterwarnings("ignore", message=".*TF32")
        before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = convolutions
    return before
