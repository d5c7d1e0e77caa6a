"""SalUn, SCRUB, SSD, NegGrad+, l1-sparse and GA beside plain loops that know nothing of the
project, in fp64.

Forget and retain are one batch each, un-augmented, so that both sides see the same batches whatever
the order of the images. Momentum and weight decay are on; BatchNorm trains where the method says
so. What is left between the two is rounding: 1e-12 of the way moved.
"""

import copy
import math

import numpy as np
import pytest
import torch
from helpers import TinyNet, make_data, make_image_set, run

from masks.masks import top_masks
from masks.scores import saliency_scores
from unlearn.gradient_ascent import GradientAscent
from unlearn.l1_sparse import L1Sparse
from unlearn.neggrad_plus import NegGradPlus
from unlearn.random_label import RandomLabel
from unlearn.scrub import Scrub
from unlearn.ssd import SelectiveSynapticDampening

LR, MOMENTUM, DECAY, EPOCHS = 0.02, 0.9, 5e-4, 4
COMMON = {"unlearn_lr": LR, "weight_decay": DECAY, "unlearn_epochs": EPOCHS}


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """The working precision becomes fp64; the code asks for it as ``float()``."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Problem:
    """An original that has learnt its data, these as plain tensors, and a fresh Data for ours."""

    def __init__(self):
        data = self.data()
        split, labels = data.dataset, torch.from_numpy(data.dataset.y_train)
        images = torch.from_numpy(split.x_train).permute(0, 3, 1, 2) / torch.tensor(255.0)
        self.forget, self.retain = (
            (images[part], labels[part])
            for part in map(np.sort, (data.chosen.forget, data.chosen.retain))
        )
        torch.manual_seed(0)
        self.original = TinyNet().train()
        optimizer = torch.optim.Adam(self.original.parameters(), lr=0.01)
        for _ in range(60):
            for images, labels in (self.forget, self.retain):
                step(optimizer, cross_entropy(self.original(images), labels))

    @staticmethod
    def data():
        return make_data(
            make_image_set(crop=0, flip=False), count=40, batch_size=1000, augment=False
        )

    def start(self):
        return copy.deepcopy(self.original).train()


@pytest.fixture
def problem():
    return Problem()


def cross_entropy(logits, labels):
    return (logits.logsumexp(1) - logits[torch.arange(len(labels)), labels]).mean()


def step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def sgd(model, lr=LR):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=MOMENTUM, weight_decay=DECAY)


def agree(ours, plain, original):
    """Weights, and what BatchNorm counts, up to 1e-12 of the way that the plain loop's went."""
    for parts in ("parameters", "buffers"):
        a, b, start = (
            torch.cat([value.detach().double().flatten() for value in getattr(m, parts)()])
            for m in (ours, plain, original)
        )
        way = (b - start).norm()
        assert parts == "buffers" or way > 1e-2
        assert (a - b).norm() <= 1e-12 * way, (parts, float((a - b).norm() / way))


# ------------------------------------------------------------------------------------------ oracles


def test_salun(problem):
    """A mask of half of the weights by the forget gradient; forget with wrong labels, then retain;
    frozen weights as they were.
    """
    images, labels = problem.forget
    model = problem.start().eval()
    gradients = torch.autograd.grad(cross_entropy(model(images), labels), list(model.parameters()))
    size = torch.cat([g.abs().flatten() for g in gradients])
    chosen = torch.zeros(len(size), dtype=torch.bool)
    chosen[size.argsort(descending=True)[: len(size) // 2]] = True
    masks = [
        part.view_as(p)
        for part, p in zip(
            chosen.split([p.numel() for p in model.parameters()]), model.parameters(), strict=True
        )
    ]
    mask = top_masks(saliency_scores(problem.start(), problem.data().forget.eval_view()), [0.5])[
        0.5
    ]
    assert all(
        torch.equal(mask[name], other)
        for (name, _), other in zip(model.named_parameters(), masks, strict=True)
    )

    drawn, data = [], problem.data()
    for epoch in range(EPOCHS):
        data.set_epoch(epoch)
        drawn.append(RandomLabel().random_labels(data))
        assert not (drawn[-1] == labels).any()
    assert not torch.equal(drawn[0], drawn[1])

    plain = problem.start()
    optimizer = sgd(plain)
    for wrong in drawn:
        for x, y in ((images, wrong), problem.retain):
            step(optimizer, cross_entropy(plain(x), y))
            with torch.no_grad():
                for p, start, free in zip(
                    plain.parameters(), problem.original.parameters(), masks, strict=True
                ):
                    p.copy_(torch.where(free, p, start))
    ours = run(RandomLabel(**COMMON), problem.start(), problem.data(), mask, momentum=MOMENTUM)
    agree(ours, plain, problem.original)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_scrub(problem, optimizer):
    """Two epochs that first climb T^2 KL on forget; each descends gamma CE + alpha T^2 KL on
    retain.
    """
    temperature, gamma, alpha, msteps = 3.0, 0.8, 0.3, 2
    # A bias before BatchNorm has no gradient but its decay's; Adam would blow rounding up beside a
    # smaller one.
    rate, decay = (LR, DECAY) if optimizer == "sgd" else (1e-3, 0.1)
    plain, teacher = problem.start(), problem.start().eval()

    def distance(images, logits):
        with torch.no_grad():
            wanted = (teacher(images) / temperature).log_softmax(1)
        found = (logits / temperature).log_softmax(1)
        return temperature**2 * (wanted.exp() * (wanted - found)).sum(1).mean()

    update = (
        sgd(plain)
        if optimizer == "sgd"
        else torch.optim.Adam(plain.parameters(), lr=rate, weight_decay=decay)
    )
    for epoch in range(EPOCHS):
        if epoch < msteps:
            images, _ = problem.forget
            step(update, -distance(images, plain(images)))
        images, labels = problem.retain
        logits = plain(images)
        step(update, gamma * cross_entropy(logits, labels) + alpha * distance(images, logits))
    fields = COMMON | {"unlearn_lr": rate, "optimizer": optimizer, "weight_decay": decay}
    method = Scrub(**fields, temperature=temperature, gamma=gamma, alpha=alpha, msteps=msteps)
    agree(run(method, problem.start(), problem.data(), momentum=MOMENTUM), plain, problem.original)


@pytest.mark.parametrize("bound", [0.7, 1.3])
@pytest.mark.parametrize("batch", [1, 1000], ids=["samples", "one batch"])
def test_ssd(problem, batch, bound):
    """theta min(lambda I_D / I_f, 1) where I_f > alpha I_D; I the mean square of the batches' mean
    gradients, D both sets.
    """
    alpha = 0.9 if batch == 1 else 20.0
    dampening = (
        bound * alpha
    )  # a chosen weight's factor is below the bound, and below 1 whatever the bound
    plain = problem.start().eval()

    def importance(images, labels):
        squares = 0
        for x, y in zip(images.split(batch), labels.split(batch), strict=True):
            gradients = torch.autograd.grad(cross_entropy(plain(x), y), list(plain.parameters()))
            squares = squares + torch.cat([g.flatten() for g in gradients]) ** 2 * len(y)
        return squares / len(labels)

    both = (torch.cat(parts) for parts in zip(problem.forget, problem.retain, strict=True))
    of_forget, of_all = importance(*problem.forget), importance(*both)
    selected = of_forget > alpha * of_all
    assert 0.01 < selected.double().mean() < 0.99
    factor = dampening * of_all / of_forget
    assert (factor[selected] > 1).any() == (bound > 1)
    factor = torch.where(selected, factor.clamp(max=1), 1.0)
    with torch.no_grad():
        for p, part in zip(
            plain.parameters(), factor.split([p.numel() for p in plain.parameters()]), strict=True
        ):
            p.mul_(part.view_as(p))
    method = SelectiveSynapticDampening(alpha=alpha, dampening=dampening, importance_batch=batch)
    agree(run(method, problem.start(), problem.data()), plain, problem.original)


@pytest.mark.parametrize("pull", [0.0, 0.1])
@pytest.mark.parametrize("clip_forget", [False, True])
def test_neggrad_plus(problem, clip_forget, pull):
    """a (CE(retain) + pull / 2 |theta - theta_o|^2) - (1 - a) CE(forget) in one step, BatchNorm on
    retain and then on forget.
    """
    a, rate = 0.4, 0.3
    plain = problem.start()
    optimizer = sgd(plain, rate)
    (images, labels), (forget_images, forget_labels) = problem.retain, problem.forget
    clipped = 0
    for _ in range(EPOCHS):
        logits, forget_logits = plain(images), plain(forget_images)
        each = (
            forget_logits.logsumexp(1)
            - forget_logits[torch.arange(len(forget_labels)), forget_labels]
        )
        clipped += int((each > math.log(4)).sum())
        climbed = (
            torch.where(each > math.log(4), math.log(4), each).mean()
            if clip_forget
            else each.mean()
        )
        away = torch.cat(
            [
                (p - q.detach()).flatten()
                for p, q in zip(plain.parameters(), problem.original.parameters(), strict=True)
            ]
        )
        step(
            optimizer,
            a * (cross_entropy(logits, labels) + pull / 2 * away.dot(away)) - (1 - a) * climbed,
        )
    assert clipped
    method = NegGradPlus(
        **COMMON | {"unlearn_lr": rate},
        retain_share=a,
        clip_forget=clip_forget,
        pull=pull,
        bn="train",
    )
    agree(run(method, problem.start(), problem.data(), momentum=MOMENTUM), plain, problem.original)


def test_l1_sparse(problem):
    """CE(retain) + alpha (1 - e / (E - E0)) ||theta||_1 over all parameters, the last E0 = 2 of
    four epochs without.
    """
    alpha = 2e-3
    plain = problem.start()
    optimizer = sgd(plain)
    for weight in (alpha, alpha / 2, 0.0, 0.0):
        images, labels = problem.retain
        size = torch.cat([p.flatten() for p in plain.parameters()]).abs().sum()
        step(optimizer, cross_entropy(plain(images), labels) + weight * size)
    method = L1Sparse(**COMMON, alpha=alpha, no_l1_epochs=2)
    agree(run(method, problem.start(), problem.data(), momentum=MOMENTUM), plain, problem.original)


def test_gradient_ascent(problem):
    plain = problem.start()
    optimizer = sgd(plain)
    for _ in range(EPOCHS):
        images, labels = problem.forget
        step(optimizer, -cross_entropy(plain(images), labels))
    agree(
        run(GradientAscent(**COMMON), problem.start(), problem.data(), momentum=MOMENTUM),
        plain,
        problem.original,
    )
