"""UNSIR: learn noise that the original calls anything but the class, teach it as the class, repair."""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import parallel
from datasets.loaders import Data, Loader
from unlearn.bad_teaching import check_part, part_of
from unlearn.base import Iterative, Range, Step, Steps, cross_entropy_steps, option
from unlearn.saliency import Mask
from utils import exact_fp32, generator


@dataclasses.dataclass
class Unsir(Iterative):
    """Overwrite a class with noise that maximises the original's error for it, then repair on a part of the retain set.

    Noise N ~ N(0, 1), one batch in units of the data set's normalisation, is learnt on the frozen original: ``noise_steps`` of Adam
    at ``noise_lr`` on -CE(N, class) + ``noise_decay`` * mean ||N||^2. The first ``impair_epochs`` train on that batch, labelled as
    the class and shown ``noise_batches`` times, mixed with the retain part; the other epochs repair on the retain part alone at
    ``repair_lr``. With several classes in the forget set the noise is shared among them; for random images that means little.

    Defaults are the authors' notebook's: Adam at 0.02, then 0.01, one epoch each; 40 steps at 0.1 and decay 0.1; 20 noise
    batches; 1,000 of each class's 5,000 images. The notebook adds only the first three images of each noise batch (it
    counts channels), and learns the noise in train mode; we add whole batches and learn it in eval mode. Its model was trained
    by Adam at 0.01: one trained by SGD, or with few images to repair it, needs far lower rates (the SSD authors take 1e-4 for both).
    """

    label = "UNSIR"
    scenarios = ("class",)
    touches = "forget labels + retain"
    cost = "0.2 E n_r, and 60 batches of noise"
    paper = "Tarun et al., TNNLS 2023"
    splits = ("retain",)

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
    noise_batches: int = option(20, "how often an impairing epoch shows the batch of noise")

    def __post_init__(self) -> None:
        check_part(self.retain_part)

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        classes = data.forget.labels.unique()
        count = max(data.forget.batch_size, len(classes))
        self.labels = classes[torch.arange(count, device=data.device) % len(classes)]
        self.noise = self._learn_noise(model, data)

    def _learn_noise(self, model: nn.Module, data: Data) -> Tensor:
        """Images (b, 3, side, side) in the model's own scale, one for each of ``self.labels``."""
        side, device = data.dataset.image_size, data.device
        mean, std = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (data.dataset.mean, data.dataset.std))
        draw = torch.randn(len(self.labels), 3, side, side, generator=generator(device, data.seed, "noise"), device=device)
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
        """The retain part in batches so small that the noise fills each of them up, in the epoch's proportion of both."""
        retain, size = self._retain(data), data.retain.batch_size
        share = retain.num_samples / (retain.num_samples + self.noise_batches * size)
        return retain.batches_of(max(1, round(share * size)))

    def rate_factor(self, epoch: int) -> float:
        return self.repair_lr / self.unlearn_lr if self.unlearn_lr and epoch >= self.impair_epochs else 1.0

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        if epoch >= self.impair_epochs:
            yield from cross_entropy_steps(model, self._retain(data))
            return
        batches, position = self._impairing(data), 0
        room = data.retain.batch_size - batches.batch_size
        for images, labels in batches:
            chosen = (position + torch.arange(*parallel.part(room), device=data.device)) % len(self.labels)
            position += room
            images, labels = torch.cat([images, self.noise[chosen]]), torch.cat([labels, self.labels[chosen]])
            logits = model(images)
            yield Step(F.cross_entropy(logits, labels), logits, labels)
