"""Scores and masks against NumPy and torch.func; the gate against bit equality and a
closed form.
"""

import copy
import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    flatten,
    make_data,
    make_model,
    per_sample_gradients,
    random_mask,
    train_epoch,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from masks.gate import SaliencyGate
from masks.masks import RATIOS, check_mask, top_masks
from masks.scores import mean_gradient, saliency_scores
from recipe import make_optimizer
from unlearn.base import Step
from utils import UserError


def test_mask_equals_numpy_argsort_of_summed_per_sample_gradients(model, data):
    gradients = per_sample_gradients(model, *whole(data.forget.eval_view()))
    expected = gradients.sum(0).abs().numpy()
    scores = saliency_scores(model, data.forget.eval_view())
    np.testing.assert_allclose(
        flatten(scores) * data.forget.num_samples, expected, rtol=2e-4, atol=1e-7
    )
    # The masks must be exactly those of a stable NumPy sort of the same scores ...
    flat = flatten(scores)
    order = np.argsort(-flat, kind="stable")
    for ratio, mask in top_masks(scores).items():
        wanted = np.zeros(flat.size, bool)
        wanted[order[: int(flat.size * ratio)]] = True
        np.testing.assert_array_equal(flatten(mask), wanted)
    # ... and of the per-sample ones up to near-ties in floating point.
    chosen = np.argsort(-expected, kind="stable")[: flat.size // 2]
    assert flatten(top_masks(scores)[0.5])[chosen].mean() > 0.995


@given(st.integers(1, 400), st.integers(0, 2**31), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_masks_have_exact_popcounts_nest_and_break_ties_by_position(size, seed, distinct):
    rng = np.random.default_rng(seed)
    flat = rng.integers(0, distinct, size).astype(
        np.float32
    )  # few distinct values: ties everywhere
    cut = size // 3
    scores = {"a": torch.tensor(flat[:cut]), "b": torch.tensor(flat[cut:]).reshape(1, -1)}
    masks = {ratio: flatten(mask) for ratio, mask in top_masks(scores).items()}
    order = np.lexsort((np.arange(size), -flat))
    for ratio in RATIOS:
        assert masks[ratio].dtype == bool
        assert masks[ratio].sum() == int(size * ratio)
        np.testing.assert_array_equal(
            np.flatnonzero(masks[ratio]), np.sort(order[: int(size * ratio)])
        )
    for smaller, larger in itertools.pairwise(RATIOS):
        assert not np.any(masks[smaller] & ~masks[larger])
    assert masks[1.0].all()


def test_popcount_is_the_float_product_of_the_reference():
    assert int(11173962 * 0.3) == 3352188
    assert int(top_masks({"w": torch.rand(100)}, (0.29,))[0.29]["w"].sum()) == int(100 * 0.29) == 28


def test_scores_ignore_batching_the_sign_and_the_scale_of_the_loss(model):
    one, many = (make_data(batch_size=size).forget.eval_view() for size in (16, 5))
    a, b = saliency_scores(model, one), saliency_scores(model, many)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-7)
    gradient = mean_gradient(model, one)
    for scaled in ({n: -g for n, g in gradient.items()}, {n: 8 * g for n, g in gradient.items()}):
        same = top_masks({n: g.abs() for n, g in scaled.items()})[0.3]
        assert all(torch.equal(same[n], m) for n, m in top_masks(a)[0.3].items())


def test_scoring_leaves_the_model_as_it_was(model, data):
    before = copy.deepcopy(model.state_dict())
    saliency_scores(model, data.forget.eval_view())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_check_mask_converts_the_reference_integers_and_refuses_the_rest(model):
    good = {name: torch.rand(p.shape) < 0.5 for name, p in model.named_parameters()}
    integers = {f"module.{name}": value.long() for name, value in good.items()}
    converted = check_mask(integers, model, "m.pt")
    assert all(
        value.dtype == torch.bool and torch.equal(value, good[name])
        for name, value in converted.items()
    )
    bad = {
        "missing": {name: value for name, value in good.items() if name != "fc.bias"},
        "shape": good | {"fc.bias": torch.ones(7, dtype=torch.bool)},
        "extra": good | {"head.bias": torch.ones(4, dtype=torch.bool)},
        "values": good | {"fc.bias": torch.tensor([0, 1, 2, 1])},
        "type": [1, 2],
    }
    for mask in bad.values():
        with pytest.raises(UserError, match=r"m\.pt"):
            check_mask(mask, model, "m.pt")


# --------------------------------------------------------------------------------------------- gate


def descend(model, optimizer, gate, steps=6, **options):
    """Train a few steps on fixed batches through the one loop."""
    g = torch.Generator().manual_seed(1)
    batches = [
        (torch.rand(16, 3, 8, 8, generator=g), torch.randint(0, 4, (16,), generator=g))
        for _ in range(steps)
    ]

    def losses():
        for images, labels in batches:
            logits = model(images)
            yield Step(F.cross_entropy(logits, labels), logits, labels)

    train_epoch(model, losses(), optimizer, gate=gate, **options)


OPTIMIZERS = {
    "sgd": lambda m: make_optimizer(m.parameters(), 0.1, 0.9, 5e-2),
    "adam": lambda m: torch.optim.Adam(m.parameters(), 0.01, weight_decay=0.1),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), 0.01, weight_decay=0.1),
}


@pytest.mark.parametrize(
    "options", [{}, {"clip_norm": 0.1}, {"precision": "bf16"}, {"freeze_bn": True}], ids=str
)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_weights_are_bit_identical_and_the_others_move(name, options):
    model = make_model()
    original = copy.deepcopy(dict(model.named_parameters()))
    mask = random_mask(model)
    gate = SaliencyGate(model, mask)
    descend(model, OPTIMIZERS[name](model), gate, **options)
    for key, parameter in model.named_parameters():
        frozen = ~mask[key]
        assert torch.equal(
            parameter[frozen].view(torch.int32), original[key][frozen].view(torch.int32)
        ), key
    moved = [
        not torch.equal(p[mask[key]], original[key][mask[key]])
        for key, p in model.named_parameters()
    ]
    assert all(moved)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.1}], ids=str)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_true_mask_is_no_mask_and_all_false_is_the_original_bit_for_bit(name, options):
    free, gated, frozen = make_model(), make_model(), make_model()
    descend(free, OPTIMIZERS[name](free), None, **options)
    gate = SaliencyGate(
        gated, {key: torch.ones_like(p, dtype=torch.bool) for key, p in gated.named_parameters()}
    )
    descend(gated, OPTIMIZERS[name](gated), gate, **options)
    assert all(
        torch.equal(a, b)
        for a, b in zip(free.state_dict().values(), gated.state_dict().values(), strict=True)
    )
    gate = SaliencyGate(
        frozen, {key: torch.zeros_like(p, dtype=torch.bool) for key, p in frozen.named_parameters()}
    )
    descend(frozen, OPTIMIZERS[name](frozen), gate, **options)
    assert all(
        torch.equal(a, b)
        for a, b in zip(frozen.parameters(), make_model().parameters(), strict=True)
    )


def test_kept_weights_step_as_if_the_frozen_gradients_had_been_zeroed_under_a_clip():
    """The clip must see the norm of what may change only: an independent plain loop says what comes
    out.
    """
    model, plain = make_model(), make_model()
    mask = random_mask(model)
    descend(
        model,
        torch.optim.SGD(model.parameters(), 0.1),
        SaliencyGate(model, mask),
        steps=1,
        clip_norm=0.05,
    )
    plain.train()
    g = torch.Generator().manual_seed(1)
    images, labels = torch.rand(16, 3, 8, 8, generator=g), torch.randint(0, 4, (16,), generator=g)
    F.cross_entropy(plain(images), labels).backward()
    with torch.no_grad():
        kept = {key: torch.where(mask[key], p.grad, 0.0) for key, p in plain.named_parameters()}
        norm = torch.sqrt(sum((value**2).sum() for value in kept.values()))
        assert norm > 0.05
        for key, p in plain.named_parameters():
            p -= 0.1 * kept[key] * (0.05 / (norm + 1e-6))
    for (key, ours), theirs in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7, msg=key)


def test_official_bug_masked_gradients_alone_leak_through_weight_decay():
    """What the gate prevents: the closed form of the published leak (lr .013, wd 5e-4, momentum .9,
    1,760 steps).
    """
    weight = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([weight], lr=0.013, momentum=0.9, weight_decay=5e-4)
    for _ in range(1760):
        weight.grad = torch.zeros_like(weight)
        optimizer.step()
    weight = float(weight.detach())
    assert weight == pytest.approx(np.exp(-0.013 * 5e-4 * 1760 / 0.1), abs=1e-3)
    assert weight == pytest.approx(0.892, abs=1e-3)


def test_gate_keeps_negative_zero_and_strides(model):
    with torch.no_grad():
        model.fc.bias.fill_(-0.0)
    strides = {name: p.stride() for name, p in model.named_parameters()}
    gate = SaliencyGate(
        model, {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    )
    assert {name: p.stride() for name, p in model.named_parameters()} == strides
    with torch.no_grad():
        model.fc.bias.fill_(float("nan"))
    gate.restore()
    assert torch.signbit(model.fc.bias).all()
    assert (model.fc.bias == 0).all()
