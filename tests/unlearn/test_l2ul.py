"""L2UL: its attack against a plain loop, in its sets; its loss by hand."""

import pytest
import torch
import torch.nn.functional as F
from helpers import check_resume, make_data, make_model, random_mask

from unlearn.l2ul import L2UL
from unlearn.tools.attack import random_start, running_statistics, targeted_l2
from utils import UserError


def by_hand(model, image, target, start, radius, step, steps):
    """One image, in numbers of one vector."""
    found = (image + start).clamp(0, 1)
    for _ in range(steps):
        found = found.detach().requires_grad_()
        loss = -model(found[None]).log_softmax(1)[0, target]
        (slope,) = torch.autograd.grad(loss, found)
        moved = found.detach() - step * slope / slope.pow(2).sum().sqrt()
        away = moved - image
        length = away.pow(2).sum().sqrt()
        if length > radius:
            away = away / length * radius
        found = (image + away).clamp(0, 1)
    return found.detach()


@pytest.mark.parametrize("radius", [0.05, 0.4, 5.0])
def test_the_attack_is_the_plain_loops(radius):
    model, draws = make_model().eval(), torch.Generator().manual_seed(0)
    images, targets = torch.rand(6, 3, 8, 8, generator=draws), torch.arange(6) % 4
    start = random_start(images.shape, radius, draws)
    found = targeted_l2(model, images, targets, radius=radius, step=0.1, steps=10, start=start)
    for i in range(6):
        expected = by_hand(model, images[i], targets[i], start[i], radius, 0.1, 10)
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-4)
    away = (found - images).flatten(1).norm(dim=1)
    assert (away <= radius + 1e-5).all()
    assert found.min() >= 0
    assert found.max() <= 1
    before = F.cross_entropy(model(images), targets)
    assert F.cross_entropy(model(found), targets) < before


def test_the_start_is_within_the_radius_and_fills_it():
    start = random_start(torch.Size((2000, 3, 4, 4)), 0.4, torch.Generator().manual_seed(0))
    lengths = start.flatten(1).norm(dim=1)
    assert lengths.max() <= 0.4 + 1e-6
    assert lengths.mean().item() == pytest.approx(0.2, abs=0.01)
    assert start.mean(0).abs().max() < 0.01


def prepared(data, **fields):
    method = L2UL(**fields)
    method.prepare(make_model(), data, None)
    return method


def test_images_are_the_originals_adversarial_ones_of_other_classes():
    data, model = make_data(count=100), make_model().eval()
    method = prepared(data)
    assert not (method.targets == data.forget.labels).any()
    assert set(method.targets.tolist()) == {0, 1, 2, 3}
    images = torch.cat([batch for batch, _ in data.forget.eval_view()])
    away = (method.images - images).flatten(1).norm(dim=1)
    assert 0.1 < away.mean() <= away.max() <= 0.4 + 1e-5
    after, before = (F.cross_entropy(model(x), method.targets) for x in (method.images, images))
    assert after < before


def test_the_loss_climbs_on_forget_and_descends_on_the_adversarial_images():
    """The adversarial images go through running statistics, and leave them alone."""
    data, model = make_data(batch_size=1000, augment=False), make_model(seed=5).train()
    method = prepared(data, adversarial_weight=0.3)
    other = make_model(seed=5).train()
    step = next(method.losses(model, data, 0))
    assert all(module.training for module in model.modules())
    images, labels = next(iter(make_data(batch_size=1000, augment=False).forget))
    assert torch.equal(labels, step.labels)
    climbed = F.cross_entropy(other(images), labels)
    assert torch.equal(other.bn.running_mean, model.bn.running_mean)
    kept = F.cross_entropy(other.eval()(method.images), method.targets)
    assert step.loss.item() == pytest.approx((0.3 * kept - climbed).item(), rel=1e-4)


def test_frozen_statistics_stay_frozen_after_the_block():
    model = make_model().train()
    model.bn.eval()
    with running_statistics(model):
        pass
    assert not model.bn.training


@pytest.mark.parametrize("name", ["attack_radius", "attack_step", "adversarial_weight"])
def test_impossible_values_are_refused(name):
    with pytest.raises(UserError, match=f"--{name} -1"):
        L2UL(**{name: -1.0})


@pytest.mark.parametrize("masked", [False, True])
def test_it_goes_on_bit_for_bit(masked):
    check_resume(lambda: L2UL(unlearn_epochs=2), random_mask(make_model()) if masked else None)
