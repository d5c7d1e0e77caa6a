"""Boundary expanding: a class of their own for the forget images, taken away in the end."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.loaders import Data
from masks.masks import Mask
from models.structure import linear_classifier
from unlearn.base import Iterative, Range, Step, Steps, option
from utils import generator


@dataclasses.dataclass
class BoundaryExpanding(Iterative):
    """Train the forget set into a shadow class beside the others, then take that class away.

    The loss is the cross-entropy over K + 1 logits with label K on forget images. The extra logit
    is a linear layer of its own, fed with the inputs of the model's last one and drawn as PyTorch
    draws such a row. Next to each other the two compute what one layer of K + 1 rows would; but the
    model keeps its shape, so that a mask fits, every epoch's checkpoint loads, and nothing has to
    be cut off in the end. The reference never cuts it off: predictions of the shadow class then
    count as forgetting, and the attack sees K + 1 probabilities. Default rate: the middle of 1e-6
    to 1e-4, where reruns search; at the lower end they saw no effect. Batches of forget images
    alone also move BatchNorm's statistics: ``--bn freeze``.
    """

    label = "BE"
    scenarios = ("class",)
    touches = "forget"
    cost = "E n_f"
    paper = "Chen et al., CVPR 2023"
    source = "10 epochs: the reference's code; rate: our choice"
    splits = ("forget",)

    unlearn_lr: float = option(1e-5, "learning rate of unlearning", Range(1e-6, 1e-3))

    def prepare(self, model: nn.Module, data: Data, mask: Mask | None) -> None:
        last = linear_classifier(model, "and boundary_expanding adds a row to one").layer
        self.shadow = nn.utils.skip_init(nn.Linear, last.in_features, 1)
        draws, bound = generator("cpu", data.seed, "shadow class"), last.in_features**-0.5
        for parameter in self.shadow.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=draws)
        self.shadow.to(data.device)
        self.hook = last.register_forward_pre_hook(self.remember)

    def remember(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        """Keep what the last layer is fed with; the next pass replaces it."""
        self.features = inputs[0]

    def extra_parameters(self) -> list[nn.Parameter]:
        return list(self.shadow.parameters())

    def state(self) -> dict:
        return {"shadow": self.shadow.state_dict()}

    def load_state(self, state: dict) -> None:
        self.shadow.load_state_dict(state["shadow"])

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        for images, labels in data.forget:
            logits = model(images)
            logits = torch.cat([logits, self.shadow(self.features)], 1)
            labels = torch.full_like(labels, data.num_classes)
            yield Step(F.cross_entropy(logits, labels), logits, labels)

    def finish(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        self.hook.remove()
        return {}
