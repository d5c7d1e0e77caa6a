"""What the two methods of Fisher noise share: their images, the classifier, the noise."""

import torch
from torch import nn

from datasets.loaders import Data, Loader
from models.structure import classifier, parameters_of
from unlearn.tools.per_sample import Vector, samples_at_once


def retain_samples(data: Data, count: int) -> Loader:
    """``count`` seeded retain images (0: all), un-augmented, in batches for the Fisher pass."""
    retain = data.retain.eval_view()
    samples = retain.subset(count, "fisher") if count else retain
    return samples.batches_of(samples_at_once(samples))


def classifier_parameters(model: nn.Module) -> set[str]:
    """The parameters of the classifier layer, whichever shapes other layers have."""
    return parameters_of(model, [classifier(model).name])


@torch.no_grad()
def add_noise(model: nn.Module, deviations: Vector, data: Data) -> None:
    """Add seeded Gaussian noise; each parameter's standard deviations broadcast to its shape."""
    draw = data.generator("fisher noise")
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=draw, device=parameter.device)
        parameter.add_(deviations[name] * noise)
