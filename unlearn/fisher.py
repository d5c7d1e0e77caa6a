"""Fisher forgetting: noise on the weights that the retain set does not need."""

import dataclasses

from torch import nn

from datasets.loaders import Data
from unlearn.base import ALPHA, OneShot, Range, option
from unlearn.tools.noise import add_noise, classifier_parameters, retain_samples
from unlearn.tools.per_sample import fisher_diagonal
from utils import UserError

CLASSIFIER_NOISE = 10  # the reference's factor on the classifier's noise


@dataclasses.dataclass
class FisherForgetting(OneShot):
    """Add noise to every weight, the more the less the retain set's Fisher information holds it.

    theta_j <- theta_j + min(sqrt(alpha / F_j), noise_limit) e_j with e_j ~ N(0, 1), ten times that
    in the classifier, and F_j = (1/N) sum_i g_ij^2 + 1e-16 the empirical Fisher diagonal of retain,
    un-augmented, in eval mode. This is the reference's variant; what papers call FF is
    ``fisher_new``. Where nearly all weights reach the limit (the result says how many), the limit
    is the strength and alpha is without effect. The reference meant the factor ten for the
    classifier, and its test of a tensor's last dimension finds the bias alone.

    All retain images by default, as in the papers: two to three times the cost of an epoch.
    ``fisher_samples`` takes a seeded draw.
    """

    label = "FF-ref"
    touches = "retain"
    cost = "n_r"
    paper = "Golatkar et al., CVPR 2020; as in SalUn: Fan et al., ICLR 2024"
    source = "limit and factor: the reference's code; alpha: about 1e-9, as its authors advise"

    alpha: float = option(1e-9, ALPHA, Range(1e-10, 1e-6))
    noise_limit: float = option(
        1e-3, "largest standard deviation of the noise on a weight", Range(1e-4, 0.1)
    )
    fisher_samples: int = option(0, "retain images of the Fisher diagonal; 0 takes all")

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.noise_limit < 0:
            raise UserError(
                f"--alpha {self.alpha} --noise_limit {self.noise_limit}: both must be at least 0"
            )

    def edit(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        samples = retain_samples(data, self.fisher_samples)
        fisher = fisher_diagonal(model, samples)
        wanted = {name: (self.alpha / (each + 1e-16)).sqrt() for name, each in fisher.items()}
        limited = sum((value >= self.noise_limit).sum() for value in wanted.values())
        boosted = classifier_parameters(model)
        deviations = {name: value.clamp(max=self.noise_limit) for name, value in wanted.items()}
        for name in boosted:
            deviations[name] *= CLASSIFIER_NOISE
        add_noise(model, deviations, data)
        count = sum(value.numel() for value in wanted.values())
        return {"fisher_samples": samples.num_samples, "at_noise_limit": float(limited) / count}
