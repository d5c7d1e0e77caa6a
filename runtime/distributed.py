"""Rank, world size and collectives of a run under torchrun; without it they do nothing.

Every rank must call a collective. The main process is rank 0.
"""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor


def rank() -> int:
    """This process's number in the run, from 0."""
    return int(os.environ["RANK"]) if is_launched() else 0


def world_size() -> int:
    """How many processes make up the run."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def local_rank() -> int:
    """This process's number on its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_launched() else 0


def local_world_size() -> int:
    """How many of the run's processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_launched() else 1


def is_launched() -> bool:
    """Whether torchrun, or something that sets the same variables, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def environment_fault() -> str | None:
    """What is wrong with torchrun's variables, in words; None where they are valid or not set."""
    if not is_launched():
        return None
    shown = {
        name: os.environ[name]
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if name in os.environ
    }
    with contextlib.suppress(ValueError):
        if 0 <= rank() < world_size() and local_rank() >= 0 and local_world_size() > 0:
            return None
    words = " ".join(f"{name}={value}" for name, value in shown.items())
    return (
        f"{words}: 0 <= RANK < WORLD_SIZE is wanted; torchrun sets them, unset them for a run of"
        " one process"
    )


def shares_gpus() -> bool:
    """Whether ``SHARE_GPUS=1`` lets several ranks use one GPU; they use gloo, since NCCL needs a
    GPU for each rank.
    """
    return os.environ.get("SHARE_GPUS") == "1"


def backend(device: torch.device) -> str:
    """The process group's backend for a run on ``device``."""
    # Beside NCCL, gloo carries what is on the CPU: pickled objects and generator states.
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" and not shares_gpus() else "gloo"


def initialize(device: torch.device) -> None:
    """Initialise the process group, unless there is one already."""
    if world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend(device))


def is_initialized() -> bool:
    """Whether the process group is initialised."""
    return dist.is_initialized()


def destroy() -> None:
    """Destroy the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End this process without Python's shutdown, in which gloo's threads sometimes abort."""
    with contextlib.suppress(OSError, ValueError):  # a closed pipe must not change the exit code
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def only_main_prints() -> Iterator[None]:
    """Let only the main process print in the block; tracebacks of other ranks still show."""
    if rank() == 0:
        yield
        return
    with contextlib.redirect_stdout(_Silence()), contextlib.redirect_stderr(_Silence()):
        yield


class _Silence(io.TextIOBase):
    """A text file that keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def rank_bounds(total: int) -> tuple[int, int]:
    """(begin, end) of this rank's share of ``total`` items; shares differ by one item at most."""
    return total * rank() // world_size(), total * (rank() + 1) // world_size()


def all_reduce(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor by its sum over all ranks, in one flattened all_reduce.

    Every rank must call it. The tensors have one dtype and one device.
    """
    if world_size() == 1 or not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    dist.all_reduce(flat)
    parts = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(
        list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)]
    )


def all_reduce_min(value: Tensor) -> None:
    """Replace ``value`` by its minimum over all ranks; every rank must call it."""
    if world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MIN)


def all_reduce_max(value: int) -> int:
    """The maximum of ``value`` over all ranks; every rank must call it."""
    if world_size() == 1:
        return value
    largest = torch.tensor(value)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest)


@torch.no_grad()
def broadcast(tensors: Sequence[Tensor]) -> None:
    """Replace the tensors of every rank by those of rank 0; every rank must call it."""
    if world_size() > 1:
        for tensor in tensors:
            contiguous = tensor.contiguous()
            dist.broadcast(contiguous, 0)
            tensor.copy_(contiguous)


def all_gather(value: Tensor | None) -> Tensor | None:
    """Stack each rank's CPU tensor (n,) to (world_size, n); every rank must call it.

    A run of one process returns ``value`` itself.
    """
    if world_size() == 1 or value is None:
        return value
    gathered = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(gathered, value)
    return torch.stack(gathered)


def take_own(gathered: Tensor | None) -> Tensor | None:
    """This rank's row of what :func:`all_gather` returned, possibly under another world size.

    A clone: torch reads a generator's state from the start of the storage, whatever a view shows.
    """
    if gathered is None:
        return None
    own = gathered if gathered.dim() == 1 else gathered[rank() % len(gathered)]
    return own.clone()


def on_main(action: Callable[[], Any]) -> Any:
    """Call ``action`` on rank 0 only and return its result on every rank; every rank must call it.

    An exception is raised on every rank. The result is broadcast, so it must be picklable, and
    files that rank 0 wrote are on disk when any rank goes on. Without a process group each process
    calls ``action`` for itself.
    """
    if not dist.is_initialized():
        return action()
    outcome = _outcome(action) if rank() == 0 else [None, None]
    dist.broadcast_object_list(outcome, 0)
    result, error = outcome
    if error is not None:
        raise error
    return result


def main_first(action: Callable[[], Any]) -> Any:
    """Call ``action`` on rank 0, then on local rank 0 of the other machines, then on all other
    ranks, so that what the first call downloads is there for the next; every rank must call it.

    Returns this rank's own result. An exception on any rank is raised on every rank.
    """
    if not dist.is_initialized():
        return action()
    own_turn = 0 if rank() == 0 else 1 if local_rank() == 0 else 2
    result = None
    for turn in range(3):
        error = None
        if turn == own_turn:
            result, error = _outcome(action)
        errors: list[Exception | None] = [None] * world_size()
        dist.all_gather_object(errors, error)
        if error := next(filter(None, errors), None):
            raise error
    return result


def _outcome(action: Callable[[], Any]) -> list:
    """[result, None], or [None, exception]."""
    try:
        return [action(), None]
    except Exception as error:
        return [None, error]


def is_peer_lost(error: Exception) -> bool:
    """Whether gloo or NCCL raised ``error`` because another rank is gone."""
    signs = ("closed by peer", "reset by peer", "broken pipe", "remote process exited")
    return (
        world_size() > 1
        and isinstance(error, RuntimeError)
        and any(sign in str(error).lower() for sign in signs)
    )


def rank_prefix() -> str:
    """``process 3: `` for rank 3; empty in a run of one process."""
    return f"process {rank()}: " if world_size() > 1 else ""
