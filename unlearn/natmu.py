"""NatMU: train on forget images that show more and more of retain images, as those."""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from datasets.loaders import Data, Loader
from masks.masks import Mask
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.tools.hybrids import blend, next_classes, partner_count, partners, ramps
from unlearn.tools.presets import preset
from unlearn.tools.teachers import frozen_copy


@dataclasses.dataclass
class NatMU(Iterative):
    """Fine-tune on the retain set and on hybrids of each forget image with four retain images,
    labelled as these.

    The i-th hybrid is m_i forget + (1 - m_i) retain with m_i a ramp over rows or columns, moved by
    ``delta``, and a retain image of the class that the original ranks i-th beside the image's own.
    Hybrids are made once, un-augmented, and shuffled with the augmented retain images. Of a class
    with fewer images than hybrids some are taken again; the authors' code turns to other classes.
    """

    label = "NatMU"
    touches = "forget + retain"
    cost = "E (4 n_f + n_r), and a forward pass of the original over forget"
    paper = "He et al., 2024 (arXiv 2405.15495)"
    source = "the authors: 1 % of CIFAR-100, ResNet-18; batches of 128: their code"
    splits = ("forget", "retain")
    recipe = {"schedule": "cosine", "batch_size": 128}
    presets = {
        "cifar10_1": preset(
            "the authors: 1 % of CIFAR-10, VGG-16",
            unlearn_lr=1e-3,
            weight_decay=2e-3,
            delta=-0.19,
        )
    }

    unlearn_epochs: int = option(5, "epochs of unlearning")
    unlearn_lr: float = option(1.1e-3, "learning rate of unlearning", Range(1e-4, 1e-2))
    optimizer: Literal["sgd", "adam", "adamw"] = option("adamw", "what the steps descend with")
    delta: float = option(
        -0.03, "added to the forget image's share of each pixel", Range(-0.3, 0.3, log=False)
    )

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        classes = next_classes(frozen_copy(model), data).T
        shares = ramps(data.dataset.image_size, self.delta).to(data.device)
        indices = partners(classes.flatten(), data).reshape(classes.shape)
        pairs = zip(indices, shares[: len(indices)], strict=True)
        self.hybrids = torch.cat([blend(data, *pair) for pair in pairs])
        self.labels = torch.cat([classes.flatten(), data.retain.labels])

    def loaders(self, data: Data) -> list[Loader]:
        both = data.retain
        for _ in range(partner_count(data)):
            both = data.forget.joined(both)  # its images give way to the hybrids
        return [both]

    def steps(self, data: Data, epoch: int) -> int:
        return len(self.loaders(data)[0])

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        (both,), last = self.loaders(data), len(self.hybrids) - 1
        for images, chosen in both.relabelled(torch.arange(both.num_samples, device=data.device)):
            mixed = self.hybrids[chosen.clamp(max=last)].to(images.dtype) / 255
            images = torch.where((chosen <= last)[:, None, None, None], mixed, images)
            labels, logits = self.labels[chosen], model(images)
            yield Step(F.cross_entropy(logits, labels), logits, labels)
