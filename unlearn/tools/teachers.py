"""Frozen networks to learn from or to leave, and how far a student is from one."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy in eval mode that shares no memory with ``model`` and takes no gradient."""
    return copy.deepcopy(model).eval().requires_grad_(False)


@torch.no_grad()
def ask(teacher: nn.Module, images: Tensor) -> Tensor:
    """The teacher's logits (b, k)."""
    return teacher(images)


def divergence(teacher: Tensor, student: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) of each sample (b,), from logits (b, k) / ``temperature``, in fp32.

    Its mean is torch's ``batchmean``, without a division by the class count.
    """
    log_p = F.log_softmax(teacher.float() / temperature, dim=1)
    log_q = F.log_softmax(student.float() / temperature, dim=1)
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
