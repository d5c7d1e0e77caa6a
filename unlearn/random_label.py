"""Random labels; under a saliency mask this is SalUn."""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader
from unlearn.base import Preset, Range, Step, Steps, cross_entropy_steps, option
from unlearn.tools.splits import mixed
from unlearn.tools.two_phase import TwoPhase, dualoptim_presets
from utils import UserError, generator

SCISSORHANDS = "rerun by Scissorhands' authors"
SCISSORHANDS_OLDER = f"{SCISSORHANDS}, in the older order: CIFAR-10"
MATRYOSHKA = "independent rerun (Matryoshka), chosen on validation: CIFAR-10"
README = "SalUn's README since April 2024: CIFAR-10"


def published(lr: float, order: str, source: str, density: float | None = None) -> Preset:
    """A run by SalUn's code or a fork of it, which draws labels from all classes.

    ``density`` is that of the mask, a file that --mask_path names.
    """
    values = {"unlearn_lr": lr, "unlearn_epochs": 10, "batch_size": 256, "order": order}
    mask = f", mask of density {density}, which no preset sets" if density else ""
    return Preset({**values, "exclude_true": False}, source + mask)


PRESETS = {
    "salun_readme": published(0.013, "sequential", f"{README}, 10 %", 0.5),
    "salun_scissorhands_10": published(5e-3, "mixed", f"{SCISSORHANDS_OLDER}, 10 %", 0.5),
    "salun_scissorhands_50": published(5e-2, "mixed", f"{SCISSORHANDS_OLDER}, 50 %", 0.2),
    "salun_scissorhands_svhn_class": published(
        5e-2, "sequential", f"{SCISSORHANDS}: SVHN, class 0", 0.5
    ),
    "salun_matryoshka_10": published(5e-3, "sequential", f"{MATRYOSHKA}, 10 %", 0.5),
    "salun_matryoshka_50": published(5e-3, "sequential", f"{MATRYOSHKA}, 50 %", 0.9),
    "rl_matryoshka_10": published(1e-3, "sequential", f"{MATRYOSHKA}, 10 %"),
    "rl_matryoshka_50": published(1e-2, "sequential", f"{MATRYOSHKA}, 50 %"),
    **dualoptim_presets(
        (1.3e-4, 5.5e-5, 1.9e-4, 2.5e-6),
        "SalUn, mask of density 0.5, which no preset sets",
        unlearn_epochs=10,
        order="sequential",
        exclude_true=False,
    ),
}

ORDER = "forget then retain, or both shuffled together"
RELABEL = "draw random labels anew each epoch, or once"


@dataclasses.dataclass
class RandomLabel(TwoPhase):
    """Fit the forget set to random labels and the retain set to its own.

    ``sequential`` is a pass over forget, then a pass over retain: the order of SalUn's code for
    CIFAR-10, since April 2024, and for SVHN. ``mixed`` shuffles both into one epoch, which is
    another algorithm: it keeps the wrong labels in the model. It is the order of that code for
    CIFAR-100 and Tiny-ImageNet, and was for CIFAR-10. The default follows the data set; on others
    it is sequential.
    """

    label = "RL"
    masked_label = "SalUn"
    touches = "forget + retain"
    cost = "E (n_f + n_r)"
    paper = "Golatkar et al., CVPR 2020; SalUn: Fan et al., ICLR 2024"
    source = (
        "SalUn's code: order (mixed on CIFAR-100 and Tiny-ImageNet), labels per epoch; its paper:"
        " no true label; rate: our choice"
    )
    by_dataset = {"cifar100": {"order": "mixed"}, "tiny_imagenet": {"order": "mixed"}}
    presets = PRESETS
    splits = ("forget", "retain")

    unlearn_lr: float = option(0.01, "learning rate of unlearning", Range(5e-4, 5e-2))
    order: Literal["sequential", "mixed"] = option("sequential", ORDER)
    relabel: Literal["per_epoch", "once"] = option("per_epoch", RELABEL)
    exclude_true: bool = option(True, "never draw the true label")
    retain_weight: float = option(1.0, "weight of the retain loss; 0 leaves the retain set out")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.forget_optimizer != "same" and not (
            self.order == "sequential" and self.retain_weight
        ):
            raise UserError(
                f"--forget_optimizer {self.forget_optimizer}: {self.label} in order {self.order}"
                f" with --retain_weight {self.retain_weight:g} has one phase; add --order"
                " sequential and a weight above 0, or drop it"
            )

    def random_labels(self, data: Data) -> Tensor:
        """(num_forget,) uniform labels, without the true one where ``exclude_true``."""
        true, classes = data.forget.labels, data.num_classes
        epoch = data.epoch if self.relabel == "per_epoch" else "once"
        stream = generator(true.device, data.seed, "random labels", epoch)
        number = classes - self.exclude_true
        draw = torch.randint(0, number, true.shape, device=true.device, generator=stream)
        return draw + (draw >= true) if self.exclude_true else draw

    def loaders(self, data: Data) -> list[Loader]:
        if not self.retain_weight:
            return [data.forget]
        return [data.forget.joined(data.retain)] if self.order == "mixed" else super().loaders(data)

    def steps(self, data: Data, epoch: int) -> int:
        return sum(map(len, self.loaders(data)))

    def forget_steps(self, data: Data, epoch: int) -> int:
        return len(data.forget) if self.forget_phase == "forget" else 0

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        forget = data.forget.relabelled(self.random_labels(data))
        if not self.retain_weight:
            yield from cross_entropy_steps(model, forget)
        elif self.order == "mixed":
            yield from self._mixed(model, forget, data.retain)
        else:
            for step in cross_entropy_steps(model, forget):
                yield step._replace(phase=self.forget_phase)
            for step in cross_entropy_steps(model, data.retain):
                yield step._replace(loss=self.retain_weight * step.loss)

    def _mixed(self, model: nn.Module, forget: Loader, retain: Loader) -> Steps:
        for images, labels, is_forget in mixed(forget, retain):
            logits = model(images)
            each = F.cross_entropy(logits, labels, reduction="none")
            weighted = torch.where(is_forget, each, self.retain_weight * each)
            yield Step(weighted.mean(), logits, labels)
