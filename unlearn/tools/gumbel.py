"""Samples of what a teacher answers: soft ones at a temperature, and classes, by Gumbel noise."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from unlearn.tools.teachers import ask


def gumbel(shape: tuple[int, ...], data: Data) -> Tensor:
    """Standard Gumbel noise of this epoch: argmax(log p + noise) is a class drawn from p."""
    waits = torch.empty(shape, device=data.device)
    return waits.exponential_(generator=data.generator("gumbel")).log().neg()


def sampled(
    teacher: nn.Module, both: Loader, tau: float, data: Data
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One pass over the forget set and what is joined to it: images, labels (b,), targets (b, k).

    The target of a forget image is softmax((log softmax(teacher) + noise) / tau), that of another
    is 1 at the class of the largest of log softmax(teacher) + noise.
    """
    noise = gumbel((both.num_samples, data.num_classes), data)
    classes = torch.eye(data.num_classes, device=data.device)
    for batch, chosen in both.relabelled(torch.arange(len(noise), device=data.device)):
        noisy = F.log_softmax(ask(teacher, batch).float(), 1) + noise[chosen]
        is_forget = (chosen < data.forget.num_samples)[:, None]
        targets = torch.where(is_forget, (noisy / tau).softmax(1), classes[noisy.argmax(1)])
        yield batch, both.labels[chosen], targets
