"""Several processes: who they are, and what they tell each other."""

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
    """This process's number, from 0."""
    return int(os.environ["RANK"]) if is_launched() else 0


def world_size() -> int:
    """How many processes make this run."""
    return int(os.environ["WORLD_SIZE"]) if is_launched() else 1


def local_rank() -> int:
    """This process's number on its machine: which GPU is its own."""
    return int(os.environ.get("LOCAL_RANK", "0")) if is_launched() else 0


def local_world_size() -> int:
    """How many of the run's processes are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if is_launched() else 1


def is_launched() -> bool:
    """Whether torchrun, or something that sets the same variables, started this process."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def environment_fault() -> str | None:
    """In words, what of torchrun's variables is no number of a process; None where they are in
    order, or were not set.
    """
    if not is_launched():
        return None
    shown = {
        name: os.environ[name]
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if name in os.environ
    }
    try:
        in_order = 0 <= rank() < world_size() and local_rank() >= 0 and local_world_size() > 0
    except ValueError:
        in_order = False
    if in_order:
        return None
    words = " ".join(f"{name}={value}" for name, value in shown.items())
    return (
        f"{words}: 0 <= RANK < WORLD_SIZE is wanted; torchrun sets them, unset them for a run of"
        " one process"
    )


def shares_gpus() -> bool:
    """Whether ``SHARE_GPUS=1`` lets several processes use one GPU. They talk through gloo: NCCL
    wants a GPU for each process.
    """
    return os.environ.get("SHARE_GPUS") == "1"


def backend(device: torch.device) -> str:
    """What the processes of a run on ``device`` talk through."""
    # gloo beside NCCL carries what is not on a GPU: outcomes, and the states of generators.
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" and not shares_gpus() else "gloo"


def initialize(device: torch.device) -> None:
    """Meet the other processes, once; does nothing in a run of one process."""
    if world_size() == 1 or dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(backend(device))


def is_initialized() -> bool:
    """Whether this process is in touch with the others."""
    return dist.is_initialized()


def destroy() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End this process at once: gloo's threads, now and then, abort an interpreter that is taken
    down around them.
    """
    with contextlib.suppress(
        OSError, ValueError
    ):  # nobody may be left to read it; the code says how it ended
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def only_main_prints() -> Iterator[None]:
    """Let only the first process print; tracebacks of the others still show."""
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
    """Where this process's part of ``total`` items begins and ends; parts differ by one item at
    most.
    """
    return total * rank() // world_size(), total * (rank() + 1) // world_size()


def all_reduce(tensors: Sequence[Tensor]) -> None:
    """Replace each tensor, all of one dtype and device, by its sum over the processes: one
    flattened all-reduce.
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
    """Replace ``value`` by the least of all processes'."""
    if world_size() > 1:
        dist.all_reduce(value, dist.ReduceOp.MIN)


def all_reduce_max(value: int) -> int:
    """The greatest of all processes' values."""
    if world_size() == 1:
        return value
    found = torch.tensor(value)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


@torch.no_grad()
def broadcast(tensors: Sequence[Tensor]) -> None:
    """Replace every process's tensors, weights among them, by the first one's."""
    if world_size() > 1:
        for tensor in tensors:
            whole = tensor.contiguous()
            dist.broadcast(whole, 0)
            tensor.copy_(whole)


def all_gather(value: Tensor | None) -> Tensor | None:
    """(processes, n) from each process's CPU tensor (n,); as it is in a run of one process."""
    if world_size() == 1 or value is None:
        return value
    found = [torch.empty_like(value) for _ in range(world_size())]
    dist.all_gather(found, value)
    return torch.stack(found)


def take_own(gathered: Tensor | None) -> Tensor | None:
    """This process's tensor of what :func:`all_gather` gave, also where there were other processes
    then.

    In memory of its own: torch reads a generator's state from where the memory begins, whichever
    part of it a view shows.
    """
    if gathered is None:
        return None
    mine = gathered if gathered.dim() == 1 else gathered[rank() % len(gathered)]
    return mine.clone()


def on_main(action: Callable[[], Any]) -> Any:
    """What ``action`` returns, or raises, in the first process; the others do not call it.

    All processes call this; the result is plain values. Whatever the first one wrote is on disk
    when the others go on. Before they have met, each does it for itself.
    """
    if not dist.is_initialized():
        return action()
    outcome = _outcome(action) if rank() == 0 else [None, None]
    dist.broadcast_object_list(outcome, 0)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def main_first(action: Callable[[], Any]) -> Any:
    """What ``action`` returns here: first the first process calls it, then the first one of every
    machine, then the others.

    So that what a first call downloads is there for the next. An error ends all.
    """
    if not dist.is_initialized():
        return action()
    mine = 0 if rank() == 0 else 1 if local_rank() == 0 else 2
    result = None
    for turn in range(3):
        result, error = _outcome(action) if turn == mine else (result, None)
        errors: list[Exception | None] = [None] * world_size()
        dist.all_gather_object(errors, error)
        if error := next(filter(None, errors), None):
            raise error
    return result


def _outcome(action: Callable[[], Any]) -> list:
    """[what it returned, None] or [None, what it raised]."""
    try:
        return [action(), None]
    except Exception as error:
        return [None, error]


def is_peer_lost(error: Exception) -> bool:
    """Whether an error says that another process of the run is gone: in the words of gloo's
    sockets, or of NCCL.
    """
    signs = ("closed by peer", "reset by peer", "broken pipe", "remote process exited")
    return (
        world_size() > 1
        and isinstance(error, RuntimeError)
        and any(sign in str(error).lower() for sign in signs)
    )


def rank_prefix() -> str:
    """``process 3: `` in a run of several, else nothing."""
    return f"process {rank()}: " if world_size() > 1 else ""
