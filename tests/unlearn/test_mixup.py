"""Mixup against a plain loop, against its own law and torchvision's, off, and stopped inside an
epoch.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, check_resume, make_data, make_model, same
from scipy.stats import beta, ks_2samp, kstest
from torchvision.transforms import v2

from engine import Trainer
from recipe import Recipe
from runtime.clock import Stopwatch
from stages.train import Train
from unlearn.retrain import Retrain
from unlearn.tools.mixup import mixed_steps, training_steps
from utils import generator, stream

ALPHA = 0.8


class Shown(torch.nn.Module):
    """Logits that are multiples of the mean pixel of each image; keeps what it was shown."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor([0.0, 9.0, -9.0, 30.0]))
        self.images = []

    def forward(self, images):
        self.images.append(images)
        return images.mean((1, 2, 3))[:, None] * self.scale


def shares_of(loader, epoch, alpha=ALPHA):
    """The shares of an epoch, as the loader's streams have them."""
    draws = np.random.default_rng(stream(loader.seed, loader.name, "mixup", epoch))
    return draws.beta(alpha, alpha, len(loader))


def test_a_step_is_that_of_a_plain_loop():
    data, model = make_data(batch_size=16), Shown()
    data.set_epoch(3)
    plain = [(images, labels) for images, labels in copy.copy(data.retain)]
    steps = list(mixed_steps(model, data.retain, ALPHA, 0.1))
    assert len(steps) == len(plain) > 3
    shares = shares_of(data.retain, 3)
    for number, (step, (images, labels)) in enumerate(zip(steps, plain, strict=True)):
        own = generator("cpu", data.retain.seed, "retain", "mixup", 3, number)
        partner, share = torch.randperm(len(labels), generator=own).tolist(), shares[number]
        assert sorted(partner) == list(range(len(labels)))
        loss = 0.0
        for i, j in enumerate(partner):
            blend = share * images[i] + (1 - share) * images[j]
            torch.testing.assert_close(model.images[number][i], blend)
            logits = blend.mean() * model.scale[None]
            for label, weight in ((labels[i], share), (labels[j], 1 - share)):
                loss += weight * F.cross_entropy(logits, label[None], label_smoothing=0.1)
        torch.testing.assert_close(step.loss, loss / len(labels), rtol=1e-5, atol=1e-6)
        larger = labels if share >= 0.5 else labels[partner]
        assert torch.equal(step.labels, larger)
    assert min(shares) < 0.5 < max(shares)


def test_the_loss_is_that_of_torchvisions_mixed_labels():
    """Their MixUp returns soft labels, share y + (1 - share) y of the other image."""
    torch.manual_seed(0)
    images, labels = torch.rand(8, 3, 4, 4), torch.arange(8) % 4
    mixup = v2.MixUp(alpha=ALPHA, num_classes=4)
    blended, soft = mixup(images, labels)
    share = float(soft[0].max() if soft[0, labels[0]] >= 0.5 else 1 - soft[0].max())
    torch.testing.assert_close(blended, share * images + (1 - share) * images.roll(1, 0))
    logits = torch.randn(8, 4)
    ours = share * F.cross_entropy(logits, labels)
    ours += (1 - share) * F.cross_entropy(logits, labels.roll(1, 0))
    torch.testing.assert_close(F.cross_entropy(logits, soft), ours)


@pytest.mark.parametrize("alpha", [0.2, 0.8, 4.0])
def test_shares_have_the_law_of_beta_as_torchvisions_have(alpha):
    """Of what the steps do: a batch of one black and one white image shows the share."""
    data = make_data(batch_size=16)
    ours = np.concatenate([shares_of(data.retain, epoch, alpha) for epoch in range(200)])
    assert len(np.unique(ours)) == len(ours) > 1000
    assert kstest(ours, beta(alpha, alpha).cdf).pvalue > 1e-3
    torch.manual_seed(1)
    mixup = v2.MixUp(alpha=alpha, num_classes=2)
    theirs = [mixup.make_params([])["lam"] for _ in range(1000)]
    assert ks_2samp(ours, theirs).pvalue > 1e-3


def test_without_alpha_a_run_is_one_without_mixup_bit_for_bit():
    ends = []
    for fields in ({}, {"mixup": 0.0}, {"mixup": ALPHA}):
        model, data = make_model(), make_data()
        method = Retrain(unlearn_epochs=1, **fields)
        trainer = Trainer(model, method, data, Recipe(), Stopwatch(CPU))
        trainer.fit(lambda *unused: None)
        ends.append(model)
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])
    assert next(training_steps(make_model(), make_data().retain)).loss.requires_grad


def test_a_stopped_retrain_goes_on_bit_for_bit():
    check_resume(lambda: Retrain(unlearn_epochs=2, unlearn_lr=0.05, mixup=ALPHA))


def test_an_epoch_that_goes_on_from_its_middle_mixes_as_a_whole_one():
    whole, half = Shown(), Shown()
    data = make_data(batch_size=16)
    data.set_epoch(1)
    list(mixed_steps(whole, data.retain, ALPHA))
    data.set_epoch(1, first_batch=2)
    list(mixed_steps(half, data.retain, ALPHA))
    assert len(half.images) == len(whole.images) - 2
    for one, other in zip(whole.images[2:], half.images, strict=True):
        assert torch.equal(one, other)


def test_main_train_and_retrain_have_the_field():
    assert Train(mixup=0.3).mixup == Retrain(mixup=0.3).mixup == 0.3
    assert Train().mixup == Retrain().mixup == 0
