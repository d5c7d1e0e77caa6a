"""The one evaluation pass."""

import torch
from torch import Tensor, nn

from datasets.loaders import Loader
from runtime import distributed
from runtime.devices import exact_fp32


@torch.inference_mode()
def predict(model: nn.Module, batches: Loader) -> tuple[Tensor, Tensor]:
    """Logits (n, k) fp32 and labels (n,) of a split, on the CPU: one pass in eval mode, in order.

    fp32 whatever the training precision: attacks would measure the rounding of confidences.
    """
    model.eval()
    with exact_fp32():
        # forward() is the eager code also where --compile replaced the call: every run is
        # evaluated alike.
        logits = [model.forward(images).float() for images, _ in batches.shared()]
    if not batches.num_samples:
        return torch.empty(0, 0), torch.empty(0, dtype=torch.int64)
    whole = torch.cat(logits) if distributed.world_size() == 1 else _gather(logits, batches)
    return whole.cpu(), batches.labels.cpu()


def _gather(logits: list[Tensor], batches: Loader) -> Tensor:
    """The logits of all ranks' batches: each writes its rows into zeros, which are then summed."""
    classes = distributed.all_reduce_max(logits[0].shape[1] if logits else 0)
    whole = torch.zeros(batches.num_samples, classes, device=batches.labels.device)
    for (start, end), part in zip(batches.bounds()[batches.shared().own], logits, strict=True):
        whole[start:end] = part
    distributed.all_reduce([whole])
    return whole
