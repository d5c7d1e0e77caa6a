"""SFRon: weights, mask, step counts; and the whole run beside a plain loop in fp64."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    check_resume,
    make_data,
    make_model,
    per_sample_gradients,
    random_mask,
    run,
    settled,
    whole,
)

import engine
from recipe import Recipe
from unlearn.sfron import SFRon
from unlearn.tools.adaptive import adaptive_cross_entropy, adaptive_weights
from utils import UserError

# -------------------------------------------------------------------------------- weights of losses


@pytest.mark.parametrize("power", [0.0, 0.5, 0.6, 1.0, 2.0])
def test_weights_sum_to_one_and_are_floored_in_fp32(power):
    """Also with losses that fp32 calls 0: the floor is 1e-15."""
    losses = torch.tensor([0.0, 1e-30, 1e-15, 1e-7, 0.02, 2.3, 40.0])
    found = adaptive_weights(losses, power)
    assert found.dtype == torch.float32
    assert float(found.sum()) == pytest.approx(1, abs=1e-6)
    expected = np.maximum(losses.double().numpy(), 1e-15) ** -power
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-5)


def test_a_saturated_sample_leaves_the_loss_finite():
    logits = torch.tensor([[200.0, 0.0, 0.0], [1.0, 2.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0])
    assert F.cross_entropy(logits[:1], labels[:1]) == 0
    loss = adaptive_cross_entropy(logits, labels, 0.5, 1.0)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(logits.grad).all()


def test_the_gradient_takes_the_weights_as_constants():
    torch.manual_seed(0)
    logits, labels = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    logits.requires_grad_()
    adaptive_cross_entropy(logits, labels, 0.5, 1.0).backward()
    p = logits.detach().softmax(1)
    losses = -p[range(5), labels].log()
    weights = losses**-0.5 / (losses**-0.5).sum()
    expected = weights[:, None] * (p - F.one_hot(labels, 3))
    torch.testing.assert_close(logits.grad, expected)


# --------------------------------------------------------------------------------------------- mask


def kept_of(model, data, **fields):
    method = SFRon(**fields)
    method.prepare(model, data, None)
    names = [name for name, _ in model.named_parameters()]
    return dict(zip(names, method.kept, strict=True))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_forget_steps_may_change_what_matters_as_much_to_forget_as_to_retain(gamma):
    """In one batch a set, the importance is the square of its mean gradient."""
    data = make_data(batch_size=1000)
    f, r = (
        per_sample_gradients(make_model(), *whole(split.eval_view())).mean(0).numpy()
        for split in (data.forget, data.retain)
    )
    expected = (f**2 + 1e-15) / (r**2 + 1e-15)
    kept = kept_of(make_model(), data, gamma=gamma)
    found = torch.cat([value.flatten() for value in kept.values()]).numpy()
    assert set(found) == {0.0, 1.0}
    sure = np.abs(expected / gamma - 1) > 1e-3
    assert sure.mean() > 0.9
    np.testing.assert_array_equal(found[sure], expected[sure] >= gamma)


def test_a_weight_that_neither_set_uses_may_change():
    model = make_model()
    with torch.no_grad():
        model.bn.bias[2] = -100  # a channel that is zero on every image
    kept = kept_of(model, make_data())
    dead = slice(2 * 4, 3 * 4)
    assert kept["fc.weight"][:, dead].all()
    assert kept["conv.weight"][2].all()
    assert not kept["fc.weight"].all()
    assert not kept_of(model, make_data(), gamma=1.001)["fc.weight"][:, dead].any()


# ------------------------------------------------------------------------------------- a plain loop


@pytest.fixture
def double(monkeypatch):
    """The working precision becomes fp64; the code asks for it as ``float()``."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


UPDATES, EVERY, LR, CLIP = 22, 3, 0.02, 0.5
COMMON = {"unlearn_steps": UPDATES, "forget_every": EVERY, "unlearn_lr": LR, "alpha": 4.0}
ADAMW = {"forget_optimizer": "adamw", "forget_lr": 2e-3}


def ours(**fields):
    recipe = Recipe(momentum=0.9, schedule="cosine", clip_norm=CLIP)
    model = make_model()
    engine.run(model, SFRon(**COMMON, **fields), make_data(), recipe)
    return model


def plain(own=False, clipped=True, masked=True, always_clipped=False):
    """The published loop: retain steps t = 0 ... T-1, each third of them after a forget step."""
    model, data = make_model(), make_data()
    kept = kept_of(copy.deepcopy(model), data)
    model.train()
    retain = torch.optim.SGD(model.parameters(), LR, momentum=0.9, weight_decay=5e-4)
    forget = torch.optim.AdamW(model.parameters(), 2e-3, weight_decay=0.05) if own else retain
    total = UPDATES - math.ceil(UPDATES / (EVERY + 1))
    made = {"forget": 0, "retain": 0}
    t, epoch = 0, 0

    def descend(phase, loss, clip):
        """One update; the rate is a cosine over the phase's own updates, or over all."""
        optimizer = forget if phase == "forget" else retain
        loss.backward()
        if phase == "forget" and masked:
            for name, parameter in model.named_parameters():
                parameter.grad *= kept[name]
        if clip:
            torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        share = rate_share(made, phase, epoch, len(data.retain), own)
        optimizer.param_groups[0]["lr"] = (
            (2e-3 if own and phase == "forget" else LR) * (1 + math.cos(math.pi * share)) / 2
        )
        optimizer.step()
        model.zero_grad()
        made[phase] += 1

    while True:
        data.set_epoch(epoch)
        batches = data.forget.cycled()
        for images, labels in data.retain:
            if t % EVERY == 0:
                others, true = next(batches)
                losses = F.cross_entropy(model(others), true, reduction="none")
                weights = losses.detach() ** -0.5
                strength = 4.0 * (1 + math.cos(math.pi * t / total)) / 2
                loss = -strength * (weights / weights.sum() * losses).sum()
                descend("forget", loss, clipped)
                if sum(made.values()) == UPDATES:
                    return model
            descend("retain", F.cross_entropy(model(images), labels), always_clipped)
            t += 1
            if sum(made.values()) == UPDATES:
                return model
        epoch += 1


def rate_share(made, phase, epoch, length, own):
    """How much of the run an update has behind it: epochs, and the middle of its place in one."""
    of = {"retain": [length] * 9, "forget": []}
    for e in range(9):
        of["forget"].append(sum(t % EVERY == 0 for t in range(e * length, (e + 1) * length)))
    both = [r + f for r, f in zip(of["retain"], of["forget"], strict=True)]
    whole_epochs = 0
    while sum(both[: whole_epochs + 1]) < UPDATES:
        whole_epochs += 1
    run_length = whole_epochs + (UPDATES - sum(both[:whole_epochs])) / both[whole_epochs]
    counts = of[phase] if own else both
    number = made[phase] if own else sum(made.values())
    return (epoch + (number - sum(counts[:epoch]) + 0.5) / counts[epoch]) / run_length


def apart(a, b):
    """How far two models are apart, as a share of the way from the original to the second."""
    a, b, c = (
        torch.cat([p.detach().flatten() for p in model.parameters()])
        for model in (a, b, make_model())
    )
    return float((a - b).norm() / (b - c).norm())


def test_one_optimizer_is_a_plain_loop_that_shares_its_momentum(double):
    found = ours()
    assert apart(found, plain()) < 1e-9
    assert apart(found, plain(own=True)) > 0.01


def test_two_optimizers_are_a_plain_loop_of_two(double):
    found = ours(**ADAMW)
    assert apart(found, plain(own=True)) < 1e-7  # Adam scales rounding up
    assert apart(found, plain()) > 0.01


@pytest.mark.parametrize(
    "change", [{"clipped": False}, {"masked": False}, {"always_clipped": True}], ids=str
)
def test_the_plain_loop_tells_what_is_clipped_and_masked(change, double):
    """Were any of it another, the two would not agree."""
    assert apart(ours(), plain(**change)) > 1e-4


# --------------------------------------------------------------------------------------- run length


def test_the_default_run_has_1500_retain_steps_and_300_forget_steps():
    method, data = SFRon(), make_data()
    method.prepare(make_model(), data, None)
    assert method.total == 1500
    counts = engine.count_updates(method, data, 1)
    assert sum(map(sum, counts[:-1])) < 1800 <= sum(map(sum, counts))
    assert sum(forget for _, forget in counts) == math.ceil(len(counts) * len(data.retain) / 5)


def test_by_epochs_the_strength_falls_over_these():
    method, data = SFRon(unlearn_steps=0, unlearn_epochs=3), make_data()
    method.prepare(make_model(), data, None)
    assert method.total == 3 * len(data.retain)


def test_typed_epochs_go_before_the_default_number_of_updates():
    values = settled("--unlearn", "sfron")[0]
    assert (values.unlearn_steps, values.batch_size, values.clip_norm) == (1800, 128, 7.0)
    assert settled("--unlearn", "sfron", "--unlearn_epochs", 3)[0].unlearn_steps == 0
    tiny = settled("--unlearn", "sfron", "--preset", "tiny_imagenet")[0]
    assert (tiny.unlearn_steps, tiny.forget_every, tiny.optimizer) == (1000, 1, "adamw")
    with pytest.raises(UserError, match="both say how long"):
        settled("--unlearn", "sfron", "--unlearn_epochs", 3, "--unlearn_steps", 6)


@pytest.mark.parametrize("fields", [{"loss_power": 2.1}, {"forget_every": 0}], ids=str)
def test_what_is_out_of_range_is_refused(fields):
    with pytest.raises(UserError, match=f"--{next(iter(fields))}"):
        SFRon(**fields)


# --------------------------------------------------------------------------------- masks and resume


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("own", [{}, ADAMW], ids=["one optimizer", "two"])
def test_resumed_run_equals_the_uninterrupted_one(own, masked):
    mask = random_mask(make_model()) if masked else None
    check_resume(lambda: SFRon(unlearn_steps=0, unlearn_epochs=3, **own), mask)


def test_retain_steps_move_what_its_own_mask_keeps_from_forget_steps():
    """At a gamma that no weight reaches, with momentum and decay off, forget steps move nothing."""
    model = make_model()
    method = SFRon(unlearn_steps=0, unlearn_epochs=1, gamma=1e30, weight_decay=0.0)
    run(method, model, make_data(), momentum=0.0)
    assert not any(kept.any() for kept in method.kept)
    for now, before in zip(model.parameters(), make_model().parameters(), strict=True):
        assert (now != before).any()


def test_a_mask_file_takes_the_place_of_the_ratio_in_all_steps_and_says_so(capsys):
    method, model = SFRon(unlearn_steps=0, unlearn_epochs=2), make_model()
    mask = random_mask(model)
    run(method, model, make_data(), mask)
    assert not method.kept
    said = capsys.readouterr().out
    assert "--mask_path replaces --gamma's mask and freezes in retain steps too" in said
    for (name, ours), theirs in zip(
        model.named_parameters(), make_model().parameters(), strict=True
    ):
        assert torch.equal(ours[~mask[name]], theirs[~mask[name]])
