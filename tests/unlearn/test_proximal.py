"""What acts on the weights beside the gradient: pulls to the original, soft thresholds, pruning."""

import copy
import itertools

import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from helpers import (
    check_resume,
    make_data,
    make_model,
    random_mask,
    run,
    run_part,
    same,
    settled,
    watch,
)
from torch import nn
from torch.nn.utils import prune

from models.normalize import Normalize
from unlearn.finetune import FineTune
from unlearn.gradient_ascent import GradientAscent
from unlearn.l1_sparse import NEAR_ZERO, L1Ascent, L1Sparse, soft_threshold
from unlearn.proximal import ProximalRandomLabel
from unlearn.pruning import GradualAscent, GradualFineTune, PrunedAscent
from unlearn.random_label import RandomLabel
from utils import UserError


def flat(named):
    return torch.cat([value.detach().reshape(-1) for _, value in named])


# --------------------------------------------------------------------------------------- SalUn-soft


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("order", ["mixed", "sequential"])
def test_pinned_weights_are_the_originals_and_their_share_falls_linearly_over_the_run(
    masked, order
):
    """Weight decay and noise move every weight at every step, so the count of untouched ones is
    exactly q_t.
    """
    data, model = make_data(count=40, batch_size=24), make_model()
    original, mask = (
        flat(copy.deepcopy(model).named_parameters()),
        random_mask(model) if masked else None,
    )
    may_change = flat(mask.items()) if masked else torch.ones_like(original, dtype=torch.bool)
    pinned = []
    method = ProximalRandomLabel(unlearn_epochs=3, unlearn_lr=0.05, order=order, rho=0.6)
    watch(
        method,
        lambda epoch: pinned.append(
            int((flat(model.named_parameters()) == original)[may_change].sum())
        ),
    )
    run(method, model, data, mask)
    total = 3 * method.steps(data, 0)
    assert total > 15
    assert pinned == [int(0.6 * (1 - t / total) * int(may_change.sum())) for t in range(total)]


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_the_pull_minimises_its_proximal_objective(masked):
    """Each coordinate against scipy's minimiser of (w - moved)^2 / 2 + tau |w - original|, tau
    against torch.kthvalue.
    """
    model, original = make_model(), make_model()
    mask = (
        random_mask(model)
        if masked
        else {name: torch.ones_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    )
    method = ProximalRandomLabel()
    method.prepare(model, make_data(), mask if masked else None)
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))
        moved, start = flat(model.named_parameters()), flat(original.named_parameters())
        pinned = int(flat(mask.items()).sum()) // 3
        tau = float((moved - start).abs()[flat(mask.items())].kthvalue(pinned).values)
        method.pull(pinned, 0.1)
    ours = flat(model.named_parameters())
    where = flat(mask.items()).nonzero()[::5, 0].tolist()
    assert len(where) > 20
    for i in where:

        def objective(w, i=i):
            return 0.5 * (w - float(moved[i])) ** 2 + tau * abs(w - float(start[i]))

        best = scipy.optimize.minimize_scalar(
            objective, bounds=(-3, 3), method="bounded", options={"xatol": 1e-9}
        )
        assert float(ours[i]) == pytest.approx(best.x, abs=2e-6)


@pytest.mark.parametrize("order", ["mixed", "sequential"])
def test_without_a_pull_it_is_random_labels_bit_for_bit(order):
    soft = run(
        ProximalRandomLabel(unlearn_epochs=2, rho=0.0, order=order), make_model(), make_data()
    )
    assert same(soft, run(RandomLabel(unlearn_epochs=2, order=order), make_model(), make_data()))


def test_weights_that_did_not_move_are_left_alone_by_a_pull_of_length_zero():
    """More pinned weights than have moved: tau is zero, and rounding must not touch the others."""
    model = make_model()
    method = ProximalRandomLabel()
    method.prepare(model, make_data(), None)
    with torch.no_grad():
        model.fc.weight.copy_(
            0.1 * torch.randn(model.fc.weight.shape, generator=torch.Generator().manual_seed(1))
        )
        before = copy.deepcopy(model)
        method.pull(100, 0.1)
    assert same(before, model)


def test_soft_run_resumes_bit_for_bit():
    check_resume(
        lambda: ProximalRandomLabel(unlearn_epochs=3, unlearn_lr=0.05), random_mask(make_model())
    )


def test_soft_run_under_a_mask_is_not_named_as_salun_with_its_hard_mask():
    assert ProximalRandomLabel.masked_label != RandomLabel.masked_label


@pytest.mark.parametrize("rho", [-0.1, 1.5])
def test_rho_is_a_share(rho):
    with pytest.raises(UserError, match="--rho"):
        ProximalRandomLabel(rho=rho)


# ----------------------------------------------------------------------------------------------- l1


def test_soft_threshold_minimises_its_proximal_objective():
    """Against scipy's minimiser of (w - v)^2 / 2 + lr alpha |w|, on both sides of the threshold, on
    it, and at zero.
    """
    values = torch.tensor([-2.0, -0.51, -0.5, -0.2, -0.0, 0.0, 1e-9, 0.49, 0.5, 0.500001, 3.0])
    weights = [values[:4].clone(), values[4:].clone().reshape(1, -1)]
    soft_threshold(weights, 5.0, 0.1)
    ours = torch.cat([w.reshape(-1) for w in weights])
    for v, w in zip(values.tolist(), ours.tolist(), strict=True):
        best = scipy.optimize.minimize_scalar(
            lambda x, v=v: 0.5 * (x - v) ** 2 + 0.5 * abs(x), bounds=(-4, 4), method="bounded"
        )
        assert w == pytest.approx(best.x, abs=1e-5)
        assert (w == 0) == (abs(v) <= 0.5)


@pytest.mark.parametrize("prox", [False, True])
@pytest.mark.parametrize(("penalised", "plain"), [(L1Sparse, FineTune), (L1Ascent, GradientAscent)])
def test_without_weight_the_penalty_changes_no_bit(penalised, plain, prox):
    common = {"unlearn_epochs": 2, "unlearn_lr": 0.01}
    ours = run(penalised(alpha=0.0, prox=prox, **common), make_model(), make_data())
    assert same(ours, run(plain(**common), make_model(), make_data()))


@pytest.mark.parametrize(("penalised", "plain"), [(L1Sparse, FineTune), (L1Ascent, GradientAscent)])
def test_prox_is_a_plain_loop_that_thresholds_at_the_rate_of_each_update(penalised, plain):
    """Written out for SGD under a cosine: plain update, then sign(w) max(|w| - lr alpha_e, 0)."""
    common = {"unlearn_epochs": 3, "unlearn_lr": 0.05}
    ours, theirs = make_model(), make_model()
    run_part(penalised(alpha=0.5, no_l1_epochs=1, prox=True, **common), ours, make_data())
    rates, data = [], make_data()
    per_epoch = plain(**common).steps(data, 0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.05)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * 3 * per_epoch)
    for _ in range(2 * 3 * per_epoch):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    rates = iter(rates[1::2])  # the schedule's value in the middle of each update

    def threshold(epoch):
        tau = next(rates) * 0.5 * (1 - epoch / 2) * (epoch < 2)
        with torch.no_grad():
            for p in theirs.parameters():
                p.copy_(p.sign() * (p.abs() - tau).clamp(min=0))

    run_part(watch(plain(**common), threshold), theirs, data)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_l1_ascent_adds_the_penalty_to_the_ascent_loss():
    data, model = make_data(), make_model().eval()
    plain = next(GradientAscent().losses(model, data, 0)).loss
    data.set_epoch(0)
    l1 = flat(model.named_parameters()).abs().sum()
    penalised = L1Ascent(alpha=0.01, unlearn_epochs=4)
    torch.testing.assert_close(next(penalised.losses(model, data, 0)).loss, plain + 0.01 * l1)
    data.set_epoch(0)
    torch.testing.assert_close(next(penalised.losses(model, data, 3)).loss, plain + 0.01 * l1 / 4)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_prox_reaches_exact_zeros_the_gradient_does_not_and_frozen_weights_keep_theirs(masked):
    reports, models = {}, {}
    for prox in (True, False):
        models[prox], data = make_model(), make_data()
        mask = random_mask(models[prox], density=0.3) if masked else None
        method = L1Sparse(unlearn_epochs=2, alpha=0.5, prox=prox)
        run_part(method, models[prox], data, mask)
        reports[prox] = method.finish(models[prox], data)
    named = [(name, p.detach()) for name, p in models[True].named_parameters()]
    free = flat(named)[flat(mask.items())] if masked else flat(named)
    assert reports[True]["sparsity"] == pytest.approx(
        100 * (free == 0).float().mean().item(), abs=1e-3
    )
    assert reports[True]["near_zero"] == pytest.approx(
        100 * (free.abs() < NEAR_ZERO).float().mean().item(), abs=1e-3
    )
    assert 5 < reports[True]["sparsity"] <= reports[True]["near_zero"] < 100
    assert reports[False]["sparsity"] < 1
    for (name, ours), original in zip(named, make_model().parameters(), strict=True):
        assert not masked or torch.equal(ours[~mask[name]], original[~mask[name]])


def test_thresholded_run_resumes_bit_for_bit():
    check_resume(lambda: L1Sparse(unlearn_epochs=3, alpha=0.1, prox=True))


def test_a_negative_penalty_is_refused():
    with pytest.raises(UserError, match="--alpha"):
        L1Sparse(alpha=-1e-4)


# ------------------------------------------------------------------------------------------ pruning


class Deep(nn.Module):
    """Three convolutions whose weights differ in scale, so that pruning all of them together is not
    pruning each.
    """

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        sizes = ((3, 8), (8, 8), (8, 6))
        self.normalize, self.bn, self.fc = Normalize(), nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.convs = nn.Sequential(*(nn.Conv2d(a, b, 3, padding=1) for a, b in sizes))
        for scale, layer in zip((1.0, 0.5, 2.0), self.convs, strict=True):
            layer.weight.data.mul_(scale)
        self.to(memory_format=torch.channels_last)

    def forward(self, images):
        return self.fc(torch.relu(self.bn(self.convs(self.normalize(images)))).mean((2, 3)))

    def flat(self):
        return torch.cat([layer.weight.detach().reshape(-1) for layer in self.convs])


def pruned_by_torch(model, rate, mask=None):
    """The library's own global pruning on a copy: the copy and, flat, which weights it keeps.
    Frozen ones are set aside first.
    """
    copied = copy.deepcopy(model).to(
        memory_format=torch.contiguous_format
    )  # the library cannot flatten another
    layers = [(layer, "weight") for layer in copied.convs]
    if mask:
        for index, layer in enumerate(copied.convs):
            prune.custom_from_mask(layer, "weight", mask[f"convs.{index}.weight"])
    prune.global_unstructured(layers, prune.L1Unstructured, amount=rate)
    return copied, torch.cat([layer.weight_mask.reshape(-1) for layer in copied.convs]).bool()


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.95])
def test_pruned_weights_are_those_of_torchs_global_pruning(rate, masked):
    model, data = Deep(), make_data()
    original, mask = model.flat(), random_mask(model) if masked else None
    free = (
        torch.cat([mask[f"convs.{i}.weight"].reshape(-1) for i in range(3)])
        if masked
        else torch.ones_like(original).bool()
    )
    kept = pruned_by_torch(model, rate, mask)[1] | ~free
    method = PrunedAscent(rate=rate)
    method.prepare(model, data, mask)
    next(method.losses(model.train(), data, 0))
    assert torch.equal(model.flat(), torch.where(kept, original, 0))
    assert int((model.flat() == 0).sum()) == round(rate * int(free.sum()))
    assert method.finish(model, data) == {
        "sparsity": pytest.approx(100 * round(rate * int(free.sum())) / int(free.sum()))
    }


def test_pruned_ascent_is_a_plain_loop_over_torchs_pruned_model():
    """torch's reparametrised copy under torch's SGD: what is kept takes the same steps, what is
    pruned is zero.
    """
    model, data = Deep(), make_data(count=40, batch_size=16)
    theirs, kept = pruned_by_torch(model, 0.6)
    run(PrunedAscent(rate=0.6, unlearn_epochs=2, unlearn_lr=0.01), model, data)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.01, momentum=0.9, weight_decay=5e-4)
    loader, theirs = make_data(count=40, batch_size=16).forget, theirs.train()
    for epoch in range(2):
        loader.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            (-F.cross_entropy(theirs(images), labels)).backward()
            optimizer.step()
    for layer in theirs.convs:
        prune.remove(layer, "weight")
    assert torch.equal(model.flat() != 0, kept)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [GradualAscent, GradualFineTune])
def test_gradual_pruning_keeps_the_same_part_each_epoch_and_the_rate_holds_once(kind):
    model, zeros = Deep(), []
    method = kind(rate=0.9, unlearn_epochs=4, unlearn_lr=1e-3)
    watch(method, lambda epoch: zeros.append((epoch, model.flat() == 0)))
    run(method, model, make_data(count=40, batch_size=16))
    size = len(model.flat())
    for epoch, zero in zeros:
        assert int(zero.sum()) == round((1 - 0.1 ** ((epoch + 1) / 4)) * size)
    assert int(zeros[-1][1].sum()) == round(0.9 * size)
    assert all(bool((later[1] >= sooner[1]).all()) for sooner, later in itertools.pairwise(zeros))


@pytest.mark.parametrize(
    ("kind", "plain"),
    [(PrunedAscent, GradientAscent), (GradualAscent, GradientAscent), (GradualFineTune, FineTune)],
)
def test_pruning_nothing_changes_no_bit(kind, plain):
    ours, theirs = Deep(), Deep()
    run(kind(rate=0.0, unlearn_epochs=2, unlearn_lr=0.01), ours, make_data())
    run(plain(unlearn_epochs=2, unlearn_lr=0.01), theirs, make_data())
    assert same(ours, theirs)


@pytest.mark.parametrize("kind", [PrunedAscent, GradualAscent, GradualFineTune])
def test_pruned_run_resumes_bit_for_bit(kind):
    check_resume(
        lambda: kind(unlearn_epochs=3, rate=0.7, unlearn_lr=0.01),
        random_mask(make_model()),
        count=40,
        batch_size=16,
    )


def test_ascent_keeps_its_own_epochs_and_rate_under_pruning_and_penalty():
    for kind in (PrunedAscent, GradualAscent, L1Ascent):
        assert (kind().unlearn_epochs, kind().unlearn_lr) == (
            GradientAscent().unlearn_epochs,
            GradientAscent().unlearn_lr,
        )


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rate_is_a_share_below_one(rate):
    with pytest.raises(UserError, match="--rate"):
        GradualFineTune(rate=rate)


def test_rate_is_read_and_no_longer_named_as_unread(capsys):
    assert settled("--unlearn", "GA_prune", "--rate", 0.5)[0].rate == 0.5
    assert settled("--unlearn", "GA_prune")[0].rate == 0.95
    assert not capsys.readouterr().err
