"""DELETE: teach each forget image the original's answer without its class."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import Iterative, Range, Step, Steps, option
from unlearn.tools.presets import preset
from unlearn.tools.teachers import ask, frozen_copy


@dataclasses.dataclass
class Delete(Iterative):
    """Teach each forget image the original's answer with its own class taken out.

    The target is the original's softmax for the same augmented image, zero on the true class and
    divided by the rest, so that the other classes keep their ratios; the loss is KL(target ||
    model). Made for a whole class: on random images it drives the forget accuracy to 0, which tells
    them from images that were never seen. BatchNorm then counts forget images alone: ``--bn
    freeze`` is the authors' option.
    """

    label = "DELETE"
    scenarios = ("class",)
    touches = "forget"
    cost = "E n_f, and as many forward passes of the original"
    paper = "Zhou et al., CVPR 2025"
    source = "the authors' code for a class of CIFAR-10"
    splits = ("forget",)
    recipe = {"batch_size": 128}
    by_dataset = {"cifar100": {"unlearn_lr": 5e-5}, "tiny_imagenet": {"unlearn_lr": 5e-5}}
    presets = {
        "script": preset("the authors' example script for CIFAR-10", unlearn_lr=1e-3),
    }

    unlearn_epochs: int = option(20, "epochs of unlearning")
    unlearn_lr: float = option(1e-4, "learning rate of unlearning", Range(1e-5, 1e-2))
    weight_decay: float = option(0.0, "weight decay")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.teacher = frozen_copy(model)

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for images, labels in data.forget:
            target, logits = without_class(ask(self.teacher, images), labels), model(images)
            # kl_div takes 0 log 0 for 0, where the logarithm of the target would be infinite.
            loss = F.kl_div(F.log_softmax(logits.float(), 1), target, reduction="batchmean")
            yield Step(loss, logits, labels)


def without_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Softmax (b, k) of ``logits`` in fp32 with no mass on the classes ``labels`` (b,)."""
    return logits.float().scatter(1, labels[:, None], -torch.inf).softmax(1)
