"""Scrubbing with the true Fisher information (Golatkar et al., CVPR 2020)."""

import dataclasses

import torch
from torch import Tensor, nn

from datasets.loaders import Data
from masks.masks import Mask
from unlearn.base import ALPHA, OneShot, Range, option
from unlearn.tools.noise import add_noise, classifier_parameters, retain_samples
from unlearn.tools.per_sample import Vector, true_fisher_diagonal
from unlearn.tools.presets import preset
from utils import UserError

FACTOR = 10  # on the variance of the classifier and of every vector
MOST_PASSES = 20_000_000  # backward passes of single images: four times those on CIFAR-100
ROW_VARIANCE = 1e-4  # of a forgotten class's row in the classifier, before the factor


@dataclasses.dataclass
class FisherScrubbing(OneShot):
    """Add noise by the true Fisher information of the retain set, and blank the row of a class that
    is forgotten.

    theta <- mu + sqrt(v) e with e ~ N(0, 1), v = alpha min(1 / (F + 1e-8), 1e3), 1e2 for the
    classifier, averaged over the second dimension of matrices and kernels, times ten for the
    classifier and for vectors (BatchNorm, biases). F_j = mean_x sum_y p(y|x) (d log p(y|x) / d
    theta_j)^2 sample by sample, without labels; the reference squares means over 32 samples, which
    is too small. mu is the original; where a whole class is forgotten, its row of the classifier
    has mu 0 and v 1e-4 times ten, whatever alpha is. The reference goes by the number of forgotten
    images and blanks the last class after random forgetting.

    This is the FF of the papers' tables. All retain images by default, as there, each with a
    backward pass per class: tens of times the cost of an epoch. ``fisher_samples`` takes a seeded
    draw.
    """

    label = "FF"
    touches = "retain"
    cost = "K n_r (K classes)"
    paper = "Golatkar et al., CVPR 2020"
    source = (
        "limits and factors: the authors' code; alpha: about 1e-9, as the reference's authors"
        " advise"
    )
    presets = {"ssd_class": preset("the SSD authors' comparison", alpha=1e-6)}

    alpha: float = option(1e-9, ALPHA, Range(1e-10, 1e-6))
    fisher_samples: int = option(0, "retain images of the Fisher diagonal; 0 takes all")

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise UserError(f"--alpha {self.alpha}: must be at least 0")

    def check_size(self, num_classes: int, retain: int) -> None:
        if not self.fisher_samples and num_classes * retain > MOST_PASSES:
            raise UserError(
                f"fisher_new takes a backward pass for each of {num_classes} classes of each of"
                f" {retain} retain images, {num_classes * retain:.1e} of them; give"
                f" --fisher_samples 2000 to draw so many images, or --fisher_samples {retain} to"
                " take all"
            )

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.check_size(data.num_classes, data.retain.num_samples)

    def edit(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        samples = retain_samples(data, self.fisher_samples)
        classifier = classifier_parameters(model)
        fisher = true_fisher_diagonal(model, samples)
        variances = {name: self.variance(fisher[name], name in classifier) for name in fisher}
        for row in data.chosen.dropped_classes:
            blank_row(model, variances, classifier, row)
        add_noise(model, {name: value.sqrt() for name, value in variances.items()}, data)
        return {"fisher_samples": samples.num_samples}

    def variance(self, fisher: Tensor, is_classifier: bool) -> Tensor:
        """v in the shape of a parameter, one entry along a second dimension."""
        limit = 1e2 if is_classifier else 1e3
        variance = self.alpha * (fisher + 1e-8).reciprocal().clamp(max=limit)
        if variance.ndim > 1:
            variance = variance.mean(1, keepdim=True)
        return FACTOR * variance if is_classifier or variance.ndim == 1 else variance


@torch.no_grad()
def blank_row(model: nn.Module, variances: Vector, classifier: set[str], row: int) -> None:
    """Mean 0 and a variance of its own for one class's row of the classifier."""
    for name in classifier:
        model.get_parameter(name)[row] = 0
        variances[name][row] = FACTOR * ROW_VARIANCE
