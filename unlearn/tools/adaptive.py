"""A mean of losses in which large ones count less or more."""

import torch.nn.functional as F
from torch import Tensor

from runtime import distributed

TINY = 1e-15  # the loss of a sample that fp32 calls 0


def adaptive_weights(losses: Tensor, power: float) -> Tensor:
    """losses^-power (b,) without a gradient, of sum 1 over the batch of all ranks.

    A loss below 1e-15 counts as that, so that a saturated sample keeps the weights finite in fp32
    up to a power of 2. Every rank must call it.
    """
    weights = losses.detach().clamp(min=TINY) ** -power
    total = weights.sum()
    distributed.all_reduce([total])
    return weights / total


def adaptive_cross_entropy(logits: Tensor, labels: Tensor, power: float, share: float) -> Tensor:
    """sum_i w_i l_i over the whole batch, of which this rank has ``share``; the loop adds the
    ranks' parts by their numbers of images.
    """
    losses = F.cross_entropy(logits, labels, reduction="none")
    return (adaptive_weights(losses, power) * losses).sum() / share
