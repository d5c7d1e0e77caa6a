"""--compile: the model as compiled programs, on CUDA as graphs."""

import torch
from torch import nn

from runtime import distributed


def compile_model(model: nn.Module, device: torch.device, accumulate: int = 1) -> bool:
    """Compile ``model`` in place for training; returns whether the loop has to mark its steps.

    On CUDA each batch size is compiled for itself: a loader has two at most, whatever its ``tail``,
    and torch keeps eight. There the launches of a forward pass are one CUDA graph and those of a
    backward pass another, and steps have to be marked. Three parts of a step stay outside of the
    graphs:

    * Crops and flips. A graph of their own would end where the model's begins, and its memory with
      it: the images would be gone.
    * Teachers. They are copies that a method makes before the model is compiled.
    * Loss, meter and update. They read the graphs' memory on the same stream before the next replay
      overwrites it, and keep nothing of it, so that nothing has to be cloned.

    No graphs where ``accumulate`` is above 1, since a gradient is the graph's memory, which the
    next replay overwrites before the update; nor in a run of several processes, whose BatchNorm
    talks to the others.
    """
    if device.type != "cuda":
        model.compile()
        return False
    graphs = accumulate == 1 and distributed.world_size() == 1
    model.compile(mode="reduce-overhead" if graphs else "default", dynamic=False)
    return graphs
