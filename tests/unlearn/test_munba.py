"""MUNBa: the weights against their equation and SciPy, the update against a plain loop."""

import numpy as np
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F
from helpers import check_resume, make_data, make_model, random_mask, run, same

from unlearn.finetune import FineTune
from unlearn.munba import Munba
from unlearn.tools import gradients
from unlearn.tools.gradients import bargain, inner

NORMS = [1e-6, 3e-3, 1.0, 1e6]


def gram(first, second, cosine):
    return [
        torch.tensor(x, dtype=torch.float64) for x in (first**2, second**2, first * second * cosine)
    ]


@pytest.mark.parametrize("cosine", [-0.999, -0.9, -0.2, 0.0, 0.5, 1.0])
@pytest.mark.parametrize("second", NORMS)
@pytest.mark.parametrize("first", NORMS)
def test_the_weights_solve_the_bargaining_equation(first, second, cosine):
    """K a = 1 / a, each relative residual below 1e-10; symmetric in the two."""
    aa, bb, ab = gram(first, second, cosine)
    a = bargain(aa, bb, ab).numpy()
    k = np.array([[aa, ab], [ab, bb]])
    assert (a > 0).all()
    assert np.abs(a * (k @ a) - 1).max() < 1e-10
    assert np.array_equal(bargain(bb, aa, ab).numpy(), a[::-1])
    assert a @ k @ a == pytest.approx(2, rel=1e-10)  # the step is sqrt(2) long


def test_scipy_finds_the_same_weights():
    aa, bb, ab = gram(0.3, 2.0, -0.4)
    k = np.array([[aa, ab], [ab, bb]])
    found = scipy.optimize.root(lambda a: k @ a - 1 / a, [3.0, 0.4], tol=1e-13)
    assert found.success
    np.testing.assert_allclose(bargain(aa, bb, ab).numpy(), found.x, rtol=1e-9)


def test_where_the_authors_constant_breaks_the_weights_are_exact():
    """|g_r| = .003, cos = -.2: 0.37 for a gradient of length 3."""
    a = bargain(*gram(3e-3, 3.0, -0.2))
    assert a[1].item() == pytest.approx(1 / (3 * 0.8**0.5))


def test_opposed_gradients_have_floored_weights_and_a_zero_gradient_leaves_the_other_alone():
    opposed = bargain(*gram(2.0, 5.0, -1.0))
    np.testing.assert_allclose(opposed.numpy(), [500, 200])
    for zero in (gram(0.0, 5.0, 0.0), gram(5.0, 0.0, 0.0), gram(0.0, 0.0, 0.0)):
        assert bargain(*zero).tolist() == [1, 1]


def test_inner_products_are_summed_in_double_precision():
    a = [torch.full((10**6,), 1e-3), torch.tensor([[1e4, -1e4]])]
    b = [torch.full((10**6,), 1e-3), torch.tensor([[1e4, 1e4]])]
    assert inner(a, b).item() == pytest.approx(1.0, rel=1e-7)


def by_hand(data, model, epochs, lr, mask=None):
    """Autograd and SGD alone, in one process, gradients as one vector in double precision."""
    named = dict(model.named_parameters())
    parameters = list(named.values())
    optimizer = torch.optim.SGD(parameters, lr=lr, momentum=0.9, weight_decay=5e-4)
    start = {name: p.detach().clone() for name, p in named.items()}
    for epoch in range(epochs):
        data.set_epoch(epoch)
        model.train()
        draws = torch.Generator().manual_seed(data.generator("random labels").initial_seed())
        random = torch.randint(4, (data.forget.num_samples,), generator=draws)
        forget = list(data.forget.relabelled(random))
        for number, (images, labels) in enumerate(data.retain):
            found = []
            pair = forget[number : number + 1]
            for x, y in [*pair, (images, labels)]:
                gradient = torch.autograd.grad(F.cross_entropy(model(x), y), parameters)
                found.append(torch.cat([g.flatten() for g in gradient]).double())
            total = found[-1]
            if pair:
                keep = torch.cat([mask[name].flatten() for name in named]) if mask else 1.0
                u, r = (gradient * keep for gradient in found)
                cosine = u @ r / (u.norm() * r.norm())
                total = (u / u.norm() + r / r.norm()) / (1 + cosine).sqrt()
                total = total / total.norm()
            at = 0
            for parameter in parameters:
                size = parameter.numel()
                parameter.grad = total[at : at + size].view_as(parameter).float()
                at += size
            optimizer.step()
            for name, parameter in named.items() if mask else ():
                parameter.data[~mask[name]] = start[name][~mask[name]]
    return model


@pytest.mark.parametrize("masked", [False, True])
def test_the_run_is_a_plain_loops(masked):
    """The first batches are paired, the others are plain and not clipped; SGD's momentum is one."""
    mask = random_mask(make_model()) if masked else None
    common = {"count": 24, "batch_size": 12}
    method = Munba(unlearn_epochs=2, unlearn_lr=0.05)
    data = make_data(**common)
    assert 0 < method.forget_steps(data, 0) < method.steps(data, 0)
    ours = run_clipped(method, data, mask)
    theirs = by_hand(make_data(**common), make_model(), 2, 0.05, mask)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    moved = [
        (a - b).abs().max()
        for a, b in zip(ours.parameters(), make_model().parameters(), strict=True)
    ]
    assert max(moved) > 0.01


def run_clipped(method, data, mask):
    import engine
    from recipe import Recipe

    model = make_model()
    engine.run(model, method, data, Recipe(clip_norm=1.0), mask)
    return model


def test_labels_are_of_all_classes_and_anew_each_epoch(monkeypatch):
    seen = []
    data = make_data(count=100)
    monkeypatch.setattr(
        type(data.forget), "relabelled", lambda self, labels: seen.append(labels) or []
    )
    for epoch in range(2):
        data.set_epoch(epoch)
        next(iter(Munba().losses(make_model(), data, epoch)))
    assert not torch.equal(*seen)
    assert set(seen[0].tolist()) == {0, 1, 2, 3}
    assert 0.1 < (seen[0] == data.forget.labels).float().mean() < 0.45


def test_with_more_forget_than_retain_batches_every_step_is_a_pair():
    data = make_data(count=130, batch_size=8)
    method = Munba()
    assert method.forget_steps(data, 0) == method.steps(data, 0) == len(data.retain)


def test_without_a_forget_gradient_it_is_finetuning(monkeypatch):
    """All weights of zero gradient: the bargain leaves retain's alone."""
    monkeypatch.setattr(gradients, "bargain", lambda *products: torch.tensor([1.0, 0.0]))
    fields = {"unlearn_epochs": 2, "unlearn_lr": 0.05, "bn": "freeze"}
    ours = run(Munba(**fields), make_model(), make_data())
    theirs = run(FineTune(**fields), make_model(), make_data())
    assert same(ours, theirs)


@pytest.mark.parametrize("masked", [False, True])
def test_it_goes_on_bit_for_bit(masked):
    mask = random_mask(make_model()) if masked else None
    check_resume(lambda: Munba(unlearn_epochs=2), mask)
