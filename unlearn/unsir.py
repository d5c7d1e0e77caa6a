"""UNSIR: learn noise that the original misclassifies, teach it as the class, repair."""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data, Loader, own_part
from masks.masks import Mask
from runtime.devices import exact_fp32
from unlearn.base import Iterative, Range, Step, Steps, cross_entropy_steps, option
from unlearn.tools.presets import preset
from unlearn.tools.splits import check_part, part_of
from utils import UserError, generator


@dataclasses.dataclass
class Unsir(Iterative):
    """Overwrite a class with noise that maximises the original's error for it, then repair on a
    part of the retain set.

    Noise N ~ N(0, 1), ``noise_images`` for each forgotten class in units of the data set's
    normalisation, is learnt on the frozen original: ``noise_steps`` of Adam at ``noise_lr`` on
    -CE(N, class) + ``noise_decay`` * mean ||N||^2. The first ``impair_epochs`` train on it,
    labelled as the class and shown ``noise_batches`` times, evenly among the retain part; the other
    epochs repair on the retain part alone at ``repair_lr``, with an optimizer that begins anew.
    With several classes in the forget set each has noise of its own; for random images that means
    little.

    Defaults are the authors' notebook's: Adam at 0.02, then a new one at 0.01, one epoch each,
    without augmentation; 40 steps at 0.1 and decay 0.1; 1,000 of each class's 5,000 images. Their
    later code shows 80 batches of noise, of which both take the first three images alone (they
    count channels): 240 images, three of them different. Both learn a whole batch of noise in train
    mode; in eval mode, which we take, no image depends on the others, so that three are enough. The
    notebook's model was trained by Adam at 0.01: one trained by SGD, or with few images to repair
    it, needs far lower rates.
    """

    label = "UNSIR"
    scenarios = ("class",)
    touches = "forget labels + retain"
    cost = "0.2 E n_r, and 360 for the noise of a class"
    paper = "Tarun et al., TNNLS 2023"
    source = (
        "the authors' notebook (CIFAR-10, ResNet-18, batches of 256); 80 batches of noise: their"
        " later code"
    )
    presets = {
        "ssd_cifar20": preset(
            "the SSD authors' comparison: Adam at 1e-4 in both phases, 25 steps of noise, 500 of a"
            " class's 2,500 images; they impair in batches of 32 and repair in batches of 128, one"
            " size for both is our choice",
            unlearn_lr=1e-4,
            repair_lr=1e-4,
            noise_steps=25,
            batch_size=32,
        )
    }
    splits = ("retain",)
    recipe = {"no_aug": True}

    unlearn_epochs: int = option(2, "epochs of unlearning")
    unlearn_lr: float = option(0.02, "learning rate of unlearning", Range(1e-4, 0.05))
    optimizer: Literal["sgd", "adam", "adamw"] = option("adam", "what the steps descend with")
    weight_decay: float = option(0.0, "weight decay")
    retain_part: float = option(0.2, "fraction of the retain images that is used, drawn once")
    impair_epochs: int = option(1, "first epochs that train on noise; the others repair")
    repair_lr: float = option(0.01, "learning rate of the epochs that repair", Range(1e-4, 0.05))
    noise_steps: int = option(40, "steps that learn the noise")
    noise_lr: float = option(0.1, "learning rate of the noise")
    noise_decay: float = option(0.1, "weight of the noise's squared norm")
    noise_images: int = option(3, "images of noise for each forgotten class")
    noise_batches: int = option(80, "how often an impairing epoch shows the noise")

    def __post_init__(self) -> None:
        check_part(self.retain_part)
        if self.noise_images < 1:
            raise UserError(f"--noise_images {self.noise_images}: at least 1 is wanted")

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        self.labels = data.forget.labels.unique().repeat(self.noise_images)
        self.noise = self._learn_noise(model, data)

    def _learn_noise(self, model: nn.Module, data: Data) -> Tensor:
        """Images (n, 3, side, side) in the model's own scale, one for each of ``self.labels``."""
        side, device = data.dataset.image_size, data.device
        mean = torch.tensor(data.dataset.mean, device=device).view(1, 3, 1, 1)
        std = torch.tensor(data.dataset.std, device=device).view(1, 3, 1, 1)
        shape, draws = (len(self.labels), 3, side, side), generator(device, data.seed, "noise")
        draw = torch.randn(shape, generator=draws, device=device)
        noise = draw.contiguous(memory_format=torch.channels_last).requires_grad_()
        adam = torch.optim.Adam([noise], lr=self.noise_lr)
        model.eval()
        with exact_fp32():
            for _ in range(self.noise_steps):
                error = F.cross_entropy(model(noise * std + mean), self.labels)
                loss = self.noise_decay * noise.square().sum((1, 2, 3)).mean() - error
                (noise.grad,) = torch.autograd.grad(loss, [noise])
                adam.step()
        return (noise.detach() * std + mean).contiguous(memory_format=torch.channels_last)

    def steps(self, data: Data, epoch: int) -> int:
        return len(self._impairing(data) if epoch < self.impair_epochs else self._retain(data))

    def _retain(self, data: Data) -> Loader:
        return part_of(data.retain, self.retain_part)

    def _impairing(self, data: Data) -> Loader:
        """The retain part in as many batches as it and the noise fill together."""
        retain = self._retain(data)
        shown = retain.num_samples + self.noise_batches * len(self.labels)
        batches = -(-shown // retain.batch_size)
        return retain.batches_of(-(-retain.num_samples // batches))

    def rate_factor(self, epoch: int) -> float:
        repairs = self.unlearn_lr and epoch >= self.impair_epochs
        return self.repair_lr / self.unlearn_lr if repairs else 1.0

    def resets(self, epoch: int) -> bool:
        return epoch == self.impair_epochs

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if epoch >= self.impair_epochs:
            yield from cross_entropy_steps(model, self._retain(data))
            return
        batches = self._impairing(data)
        count, shown = len(batches), self.noise_batches * len(self.labels)
        for number, (images, labels) in enumerate(batches):
            first, last = shown * number // count, shown * (number + 1) // count
            chosen = own_part(torch.arange(first, last, device=data.device) % len(self.labels))
            images = torch.cat([images, self.noise[chosen]])
            labels = torch.cat([labels, self.labels[chosen]])
            logits = model(images)
            yield Step(F.cross_entropy(logits, labels), logits, labels)
