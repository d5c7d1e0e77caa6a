"""UAM against a plain loop; its reductions."""

import pytest
import torch
import torch.nn.functional as F
from helpers import check_resume, make_data, make_model, random_mask, run, same

from unlearn.finetune import FineTune
from unlearn.uam import Uam
from utils import UserError


def by_hand(data, model, epochs, lr, radius, mask=None):
    """Autograd and SGD alone; the weights are moved in a copy."""
    named = dict(model.named_parameters())
    optimizer = torch.optim.SGD(named.values(), lr=lr, momentum=0.9, weight_decay=5e-4)
    start = {name: p.detach().clone() for name, p in named.items()}
    for epoch in range(epochs):
        data.set_epoch(epoch)
        model.train()
        forget = data.forget.cycled()
        for images, labels in data.retain:
            x, y = next(forget)
            up = torch.autograd.grad(F.cross_entropy(model(x), y), list(named.values()))
            up = dict(zip(named, up, strict=True))
            up = {name: g * mask[name] if mask else g for name, g in up.items()}
            length = torch.cat([g.flatten() for g in up.values()]).double().norm().float()
            there = {name: p.detach() + radius * up[name] / length for name, p in named.items()}
            there = {name: p.requires_grad_() for name, p in there.items()}
            state = {**there, **dict(model.named_buffers())}
            logits = torch.func.functional_call(model, state, (images,))
            found = torch.autograd.grad(F.cross_entropy(logits, labels), list(there.values()))
            for parameter, gradient in zip(named.values(), found, strict=True):
                parameter.grad = gradient
            optimizer.step()
            for name, parameter in named.items() if mask else ():
                parameter.data[~mask[name]] = start[name][~mask[name]]
    return model


@pytest.mark.parametrize("masked", [False, True])
def test_the_run_is_a_plain_loops(masked):
    mask = random_mask(make_model()) if masked else None
    method = Uam(unlearn_epochs=2, unlearn_lr=0.05, radius=0.5)
    ours = run(method, make_model(), make_data(), mask)
    theirs = by_hand(make_data(), make_model(), 2, 0.05, 0.5, mask)
    plain = run(FineTune(unlearn_epochs=2, unlearn_lr=0.05), make_model(), make_data(), mask)
    apart = []
    for a, b, c in zip(*(model.parameters() for model in (ours, theirs, plain)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
        apart.append((a - c).abs().max())
    assert max(apart) > 1e-3


def test_without_a_radius_it_is_finetuning_bit_for_bit():
    fields = {"unlearn_epochs": 2, "unlearn_lr": 0.05, "bn": "freeze"}
    ours = run(Uam(**fields, radius=0.0), make_model(), make_data())
    assert same(ours, run(FineTune(**fields), make_model(), make_data()))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gradient_is_applied_where_it_was_not_taken(accumulate):
    """At a rate of zero the weights end where they were, bit for bit."""
    import engine
    from recipe import Recipe

    model = make_model()
    method = Uam(unlearn_epochs=1, unlearn_lr=0.0, radius=0.5, bn="freeze")
    engine.run(model, method, make_data(batch_size=8), Recipe(accumulate=accumulate))
    assert same(model, make_model())


def test_a_zero_forget_gradient_moves_nothing():
    model = make_model()
    method = Uam()
    method.prepare(model, None, None)
    method.forget.sums = [torch.zeros_like(p) for p in model.parameters()]
    method.forget.labels = 1
    method.move()
    assert same(model, make_model())


def test_a_negative_radius_is_refused():
    with pytest.raises(UserError, match="--radius -1"):
        Uam(radius=-1.0)


@pytest.mark.parametrize("masked", [False, True])
def test_it_goes_on_bit_for_bit(masked):
    mask = random_mask(make_model()) if masked else None
    check_resume(lambda: Uam(unlearn_epochs=2), mask)
