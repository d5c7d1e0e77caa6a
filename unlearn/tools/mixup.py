"""Mixup (Zhang et al., ICLR 2018): each image of a batch is blended with another one, and so are
the losses of their labels.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from datasets.loaders import Loader
from unlearn.base import Step, Steps, cross_entropy_steps
from utils import generator, stream


def training_steps(
    model: nn.Module, batches: Loader, label_smoothing: float = 0.0, mixup: float = 0.0
) -> Steps:
    """Training from scratch: a cross-entropy step per batch, under mixup unless its alpha is 0."""
    if mixup:
        return mixed_steps(model, batches, mixup, label_smoothing)
    return cross_entropy_steps(model, batches, label_smoothing)


def mixed_steps(
    model: nn.Module, batches: Loader, alpha: float, label_smoothing: float = 0.0
) -> Steps:
    """A step per batch of images x and labels y: of share x + (1 - share) x[order], with the loss
    share CE(y) + (1 - share) CE(y[order]).

    ``share`` is drawn from Beta(alpha, alpha) and ``order`` is one permutation, both anew for each
    batch. A step's labels, which the accuracy is of, are those of the larger share. Every share of
    an epoch is drawn at once on the host, and each batch's order has a stream of its own on the
    device: nothing waits, and an epoch that goes on from its middle draws as a whole one does. Each
    of several processes mixes its own part of a batch.
    """
    first, epoch = batches.first_batch, batches.epoch
    seed, name, device = batches.seed, batches.name, batches.images.device
    draws = np.random.default_rng(stream(seed, name, "mixup", epoch))
    shares = draws.beta(alpha, alpha, len(batches)).tolist()[first:]
    for number, (images, labels) in enumerate(batches, start=first):
        share = shares[number - first]
        own = generator(device, seed, name, "mixup", epoch, number)
        order = torch.randperm(len(labels), generator=own, device=device)
        others = labels[order]
        logits = model(share * images + (1 - share) * images[order])
        own_loss, others_loss = (
            F.cross_entropy(logits, each, label_smoothing=label_smoothing)
            for each in (labels, others)
        )
        loss = share * own_loss + (1 - share) * others_loss
        yield Step(loss, logits, labels if share >= 0.5 else others)
