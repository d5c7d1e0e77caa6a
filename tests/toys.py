"""Methods that no paper has, for what the engine offers and few registered methods use."""

import dataclasses

import torch
import torch.nn.functional as F

from recipe import Descent, learning_rate_factor
from unlearn.base import Iterative, Step, joint_loss


def shrink(parameters):
    """An edit of gradients that is not linear: the edit of a mean is not the mean of edits."""
    for parameter in parameters:
        if parameter.grad is not None:
            parameter.grad.copy_(parameter.grad.sign() * parameter.grad.abs().sqrt() / 10)


@dataclasses.dataclass
class Alternate(Iterative):
    """Climb on a forget batch, then descend on a retain batch; two phases, each with its own
    optimizer, gradient, clip and gate.
    """

    splits = ("forget", "retain")
    unlearn_epochs: int = 2
    unlearn_lr: float = 0.05
    bn: str = "freeze"
    own: bool = True
    edit: bool = True
    gated: bool = True
    unlearn_steps: int = 0

    def steps(self, data, epoch):
        return 2 * len(data.retain)

    def forget_steps(self, data, epoch):
        return len(data.retain)

    def forget_descent(self, retain):
        factor = learning_rate_factor("cosine", self.unlearn_epochs)
        return Descent(0.003, "adam", weight_decay=0.01, rate_factor=factor) if self.own else None

    def losses(self, model, data, epoch):
        forget = data.forget.cycled()
        for images, labels in data.retain:
            forget_images, forget_labels = next(forget)
            logits = model(forget_images)
            yield Step(
                -F.cross_entropy(logits, forget_labels),
                logits,
                forget_labels,
                phase="forget",
                edit_gradients=shrink if self.edit else None,
                clip=False,
                gated=self.gated,
            )
            logits = model(images)
            yield Step(F.cross_entropy(logits, labels), logits, labels)


@dataclasses.dataclass
class Pair(Iterative):
    """One step of a retain and a forget batch, whose sizes no number of processes divides alike;
    the retain batch in two views.
    """

    splits = ("forget", "retain")
    unlearn_epochs: int = 2
    unlearn_lr: float = 0.05
    bn: str = "freeze"

    def steps(self, data, epoch):
        return len(data.retain)

    def losses(self, model, data, epoch):
        forget = data.forget.cycled()
        for one, other, labels in data.retain.two_views():
            forget_images, forget_labels = next(forget)
            logits, climbed = model(one), F.cross_entropy(model(forget_images), forget_labels)
            apart = (logits.softmax(1) - model(other).softmax(1)).square().sum(1).mean()
            descended = F.cross_entropy(logits, labels) + apart
            loss = joint_loss((descended, data.retain), (-0.5 * climbed, data.forget))
            yield Step(loss, logits, labels)


def by_hand(method, data, model, *, accumulate=1, clip_norm=0.0, mask=None, factor=None):
    """What Alternate does, in a plain loop: torch's own optimizers, gradients by autograd.grad."""
    named = dict(model.train().named_parameters())
    model.bn.eval()
    parameters = list(named.values())
    adam = torch.optim.Adam(parameters, 0.003, weight_decay=0.01)
    sgd = torch.optim.SGD(parameters, method.unlearn_lr, 0.9, weight_decay=method.weight_decay)
    optimizers = {"forget": adam if method.own else sgd, "retain": sgd}
    cosine = learning_rate_factor("cosine", method.unlearn_epochs)
    rates = {"forget": (0.003, cosine), "retain": (method.unlearn_lr, factor or cosine)}
    for epoch in range(method.unlearn_epochs):
        data.set_epoch(epoch)
        forget, waiting, made = data.forget.cycled(), {"forget": [], "retain": []}, [0, 0]
        for number, batch in enumerate(data.retain, start=1):
            for place, (phase, sign) in enumerate((("forget", -1), ("retain", 1))):
                images, labels = next(forget) if phase == "forget" else batch
                loss = sign * F.cross_entropy(model(images), labels, reduction="sum")
                waiting[phase].append((torch.autograd.grad(loss, parameters), len(labels)))
                if len(waiting[phase]) < accumulate and number < len(data.retain):
                    continue
                count = sum(labels for _, labels in waiting[phase])
                for i, parameter in enumerate(parameters):
                    parameter.grad = sum(gradients[i] for gradients, _ in waiting[phase]) / count
                waiting[phase].clear()
                gated = phase == "retain" or method.gated
                if phase == "forget" and method.edit:
                    shrink(parameters)
                elif clip_norm and phase == "retain":
                    for name, parameter in named.items() if mask else ():
                        parameter.grad *= mask[name]
                    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
                before = {name: p.detach().clone() for name, p in named.items()}
                if method.own:
                    rate, at = rates[phase]
                    updates = -(-len(data.retain) // accumulate)
                    optimizers[phase].param_groups[0]["lr"] = rate * at(
                        epoch + (made[place] + 0.5) / updates
                    )
                made[place] += 1
                optimizers[phase].step()
                for name, parameter in named.items() if mask and gated else ():
                    parameter.data[~mask[name]] = before[name][~mask[name]]
    return model
