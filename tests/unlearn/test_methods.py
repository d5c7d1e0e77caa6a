"""Every registered method on tiny data, masked and not; losses, labels and schedules against
formulas; reductions.
"""

import copy
import dataclasses
import typing

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from helpers import (
    first_batch,
    first_step,
    make_data,
    make_image_set,
    make_model,
    random_mask,
    run,
    same,
)

import unlearn
from datasets.splits import SCENARIOS
from models import initialise
from unlearn import METHODS, method_key, method_table, needs_mask
from unlearn.base import Iterative
from unlearn.finetune import FineTune
from unlearn.gradient_ascent import GradientAscent
from unlearn.l1_sparse import L1Sparse
from unlearn.random_label import RandomLabel
from unlearn.retrain import Retrain
from utils import stream

# -------------------------------------------------------------------------------------------- names


def in_any_case(name):
    return {name, name.lower(), name.upper(), name.swapcase()}


@pytest.mark.parametrize("key", METHODS)
def test_a_method_is_found_by_its_key_and_its_labels_in_any_case(key):
    method = METHODS[key]
    first = next(name for name, other in METHODS.items() if other is method)
    assert {method_key(name) for name in in_any_case(key)} == {key}
    assert {method_key(name) for name in in_any_case(method.label)} == {first}
    assert not any(needs_mask(name) for name in in_any_case(key) | in_any_case(method.label))
    if method.masked_label:
        assert {method_key(name) for name in in_any_case(method.masked_label)} == {first}
        assert all(needs_mask(name) for name in in_any_case(method.masked_label))


def test_names_that_users_know():
    wanted = {
        "salun": "RL",
        "L1-sparse": "FT_prune",
        "ft_l1": "FT_l1",
        "iu": "wfisher",
        "bs": "boundary_shrink",
        "be": "boundary_expanding",
        "neggrad+": "neggrad_plus",
        "scrub+r": "scrub_r",
        "cf-k": "CF_k",
        "salun-soft": "RL_proximal",
        "Original": "raw",
    }
    assert {name: method_key(name) for name in wanted} == wanted
    assert method_key("magic") is method_key("") is None


def test_a_key_goes_before_a_label_and_the_first_of_one_label_before_the_others(monkeypatch):
    named = [
        ("one", "TWO", "Four"),
        ("two", "Same", None),
        ("three", "same", "two"),
        ("four", "x", "y"),
    ]
    kinds = {
        key: type(key, (FineTune,), {"label": label, "masked_label": masked})
        for key, label, masked in named
    }
    monkeypatch.setattr(unlearn, "METHODS", kinds)
    assert {name: method_key(name) for name in ("two", "Same", "four", "y")} == {
        "two": "two",
        "Same": "two",
        "four": "four",
        "y": "four",
    }
    assert not needs_mask("two")
    assert not needs_mask("Four")


def test_the_table_shows_a_method_s_labels_beside_its_flag():
    rows = {
        row.split(" | ")[0].strip("| `"): row.split(" | ")[1]
        for row in method_table().splitlines()[2:]
    }
    assert rows.keys() == METHODS.keys()
    assert rows["RL"] == "RL; under a mask SalUn"
    for key, method in METHODS.items():
        assert rows[key] == method.label + (
            f"; under a mask {method.masked_label}" if method.masked_label else ""
        )


# --------------------------------------------------------------------------------- methods that run

REQUESTS = {"random": {"count": 16}, "class": {"count": None, "class_to_forget": 1}}


# Where a method's default changes nothing here: SSD's threshold is for trained models that forget a
# class.
SMALL = {
    "ssd": {"alpha": 0.5},
    "lfssd": {"alpha": 0.5},
    "sfron": {"gamma": 0.0},  # a mask file takes the place of its own mask
}
# SCRUB+R may go back to the original: tests/unlearn/test_scrub.py says when.
MAY_STAY = ("scrub_r",)
# SSD goes through the images class by class, in their order.
DRAWS_NOTHING = ("raw", "ssd", "lfssd")


def small(name, **fields):
    """The registered method with few epochs and samples."""
    known = {field.name for field in dataclasses.fields(METHODS[name])}
    options = (
        {"unlearn_epochs": 2, "unlearn_steps": 0, "unlearn_lr": 0.01, "samples": 30}
        | SMALL.get(name, {})
        | fields
    )
    return METHODS[name](**{key: value for key, value in options.items() if key in known})


# ----------------------------------------------------------------------------------------- registry


@pytest.mark.parametrize("scenario", REQUESTS)
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("name", METHODS)
def test_registered_method_runs_freezes_and_changes(name, masked, scenario):
    data, model = make_data(**REQUESTS[scenario]), make_model()
    original = copy.deepcopy(model)
    mask = (
        random_mask(model)
        if masked
        else {key: torch.ones_like(p, dtype=torch.bool) for key, p in model.named_parameters()}
    )
    run(small(name), model, data, mask if masked else None)
    ours, theirs = (
        [(k, v.shape, v.dtype) for k, v in m.state_dict().items()] for m in (model, original)
    )
    assert ours == theirs
    changed = False
    for (key, ours), theirs in zip(model.named_parameters(), original.parameters(), strict=True):
        assert torch.isfinite(ours).all()
        assert torch.equal(ours[~mask[key]], theirs[~mask[key]]), key
        changed |= not torch.equal(ours, theirs)
    assert changed == (name != "raw") or name in MAY_STAY


@pytest.mark.parametrize("name", METHODS)
def test_all_true_mask_equals_no_mask_bit_for_bit(name):
    free, gated = make_model(), make_model()
    run(small(name), free, make_data())
    mask = {key: torch.ones_like(p, dtype=torch.bool) for key, p in gated.named_parameters()}
    run(small(name), gated, make_data(), mask)
    assert same(free, gated)


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_weights_and_another_seed_others(name):
    models = [run(small(name), make_model(), make_data(seed=seed)) for seed in (3, 3, 0)]
    assert same(models[0], models[1])
    if name not in DRAWS_NOTHING:
        assert not same(models[0], models[2])


@pytest.mark.parametrize("name", METHODS)
def test_method_documents_itself(name):
    method = METHODS[name]
    assert method.__doc__
    assert method.label
    assert method.touches
    assert method.cost
    assert set(method.scenarios) <= SCENARIOS.keys()
    assert method.scenarios
    assert method.paper
    for field in dataclasses.fields(method):
        assert field.metadata["help"]
        hint = typing.get_type_hints(method)[field.name]
        assert hint in (int, float, bool) or typing.get_origin(hint) is typing.Literal


@pytest.mark.parametrize(
    "name", [name for name, method in METHODS.items() if issubclass(method, Iterative)]
)
def test_method_counts_its_steps(name):
    """Schedules and progress bars rely on the count."""
    data, model = make_data(), make_model().train()
    method = small(name)
    method.prepare(model, data, None)
    for epoch in range(method.unlearn_epochs):
        data.set_epoch(epoch)
        assert sum(1 for _ in method.losses(model, data, epoch)) == method.steps(data, epoch)


@pytest.mark.parametrize(
    "fields",
    [{"order": "mixed"}, {"retain_weight": 0.0}, {"order": "mixed", "retain_weight": 0.0}],
    ids=str,
)
def test_random_label_counts_its_steps_in_every_form(fields):
    data, model = make_data(count=40, batch_size=16), make_model().train()
    method = RandomLabel(**fields)
    assert sum(1 for _ in method.losses(model, data, 0)) == method.steps(data, 0)


# ------------------------------------------------------------------------------------------- losses


def test_first_losses_equal_their_formulas():
    data, model = make_data(), make_model().eval()
    images, labels = first_batch(data.retain)
    p = torch.softmax(model(images), 1)[torch.arange(len(labels)), labels]
    retain_loss = -p.log().mean()
    torch.testing.assert_close(first_step(FineTune(), data, model).loss, retain_loss)
    data = make_data()
    torch.testing.assert_close(first_step(Retrain(), data, model).loss, retain_loss)
    data = make_data()
    l1 = sum(p.abs().sum() for p in model.parameters())
    torch.testing.assert_close(
        first_step(L1Sparse(alpha=0.01), data, model).loss, retain_loss + 0.01 * l1
    )
    data = make_data()
    images, labels = first_batch(data.forget)
    p = torch.softmax(model(images), 1)
    torch.testing.assert_close(
        first_step(GradientAscent(), data, model).loss,
        p[torch.arange(len(labels)), labels].log().mean(),
    )
    step = first_step(RandomLabel(), make_data(), model)
    torch.testing.assert_close(step.loss, -p[torch.arange(len(labels)), step.labels].log().mean())
    assert not (step.labels == labels).any()


@pytest.mark.parametrize("no_l1_epochs", [0, 3])
def test_l1_weights_follow_the_formula(no_l1_epochs):
    method = L1Sparse(unlearn_epochs=10, alpha=5e-4, no_l1_epochs=no_l1_epochs)
    length = 10 - no_l1_epochs
    expected = [5e-4 * (1 - e / length) if e < length else 0 for e in range(10)]
    np.testing.assert_allclose([method.penalty(e) for e in range(10)], expected, rtol=1e-12)
    data, model = make_data(), make_model().eval()
    l1 = float(sum(p.detach().abs().sum() for p in model.parameters()))
    for epoch in (0, 4, 9):
        data.set_epoch(epoch)
        plain = next(FineTune().losses(model, data, epoch)).loss.item()
        data.set_epoch(epoch)
        assert next(method.losses(model, data, epoch)).loss.item() - plain == pytest.approx(
            expected[epoch] * l1, abs=2e-5
        )


def test_ascent_climbs_and_finetuning_descends():
    """The sign of one small full-batch step."""
    plain = {"unlearn_epochs": 1, "unlearn_lr": 1e-3, "weight_decay": 0.0, "bn": "freeze"}
    for method, split, sign in (
        (GradientAscent(**plain), "forget", 1),
        (FineTune(**plain), "retain", -1),
    ):
        data, model = make_data(batch_size=1000, augment=False), make_model()
        images, labels = next(iter(getattr(data, split).eval_view()))

        def loss(model=model, images=images, labels=labels):
            return F.cross_entropy(model.eval()(images), labels).item()

        before = loss()
        run(method, model, data, momentum=0.0)
        assert sign * (loss() - before) > 0


# ------------------------------------------------------------------------------------ random labels


def many_labels(**fields):
    data = make_data(make_image_set(train=4000), count=3000)
    return RandomLabel(**fields).random_labels(data), data.forget.labels, data


def test_random_labels_are_never_true_and_uniform_over_the_rest():
    drawn, true, data = many_labels()
    assert not (drawn == true).any()
    for c in range(4):
        counts = torch.bincount(drawn[true == c], minlength=4).tolist()
        assert counts.pop(c) == 0
        assert scipy.stats.chisquare(counts).pvalue > 1e-4
    assert set(drawn.tolist()) == set(range(data.num_classes))


def test_exclude_true_off_is_uniform_over_all_classes():
    drawn, true, _ = many_labels(exclude_true=False)
    assert scipy.stats.chisquare(torch.bincount(drawn, minlength=4).tolist()).pvalue > 1e-4
    assert (drawn == true).float().mean() == pytest.approx(0.25, abs=0.03)


def test_labels_are_drawn_anew_each_epoch_or_once():
    for relabel, differs in (("per_epoch", True), ("once", False)):
        data = make_data(count=100)
        first = RandomLabel(relabel=relabel).random_labels(data)
        data.set_epoch(1)
        assert (not torch.equal(first, RandomLabel(relabel=relabel).random_labels(data))) == differs


def test_sequential_order_is_forget_then_retain_and_mixed_is_one_shuffle():
    data, model = make_data(count=40, batch_size=16), make_model().eval()
    forget, retain = data.forget.num_samples, data.retain.num_samples
    sizes = [len(step.labels) for step in RandomLabel().losses(model, data, 0)]
    assert sum(sizes) == forget + retain
    assert sizes[:3] == [13, 13, 14]
    data.set_epoch(0)
    mixed = list(RandomLabel(order="mixed").losses(model, data, 0))
    labels = torch.cat([step.labels for step in mixed])
    assert len(labels) == forget + retain
    assert labels.min() >= 0
    drawn = RandomLabel(order="mixed").random_labels(data)
    expected = torch.bincount(torch.cat([drawn, data.retain.labels]), minlength=4)
    assert torch.equal(torch.bincount(labels, minlength=4), expected)


@pytest.mark.parametrize("order", ["sequential", "mixed"])
def test_without_retain_weight_no_retain_image_is_read(order):
    data, model = make_data(), make_model().eval()
    data.retain = None
    steps = list(RandomLabel(order=order, retain_weight=0.0).losses(model, data, 0))
    assert sum(len(step.labels) for step in steps) == data.forget.num_samples


def test_mixed_loss_weighs_each_sample_by_its_origin():
    data, model = make_data(batch_size=1000), make_model().eval()
    (step,) = RandomLabel(order="mixed", retain_weight=0.25).losses(model, data, 0)
    data.set_epoch(0)
    (plain,) = RandomLabel(order="mixed").losses(model, data, 0)
    each = F.cross_entropy(plain.logits, plain.labels, reduction="none")
    torch.testing.assert_close(plain.loss, each.mean())
    data.set_epoch(0)
    forget = data.forget.relabelled(-1 - data.forget.labels)
    is_forget = next(iter(forget.joined(data.retain.relabelled(data.retain.labels))))[1] < 0
    torch.testing.assert_close(step.loss, torch.where(is_forget, each, 0.25 * each).mean())


# --------------------------------------------------------------------------------------- reductions


def test_l1_at_alpha_zero_is_finetuning_bit_for_bit():
    a = run(L1Sparse(unlearn_epochs=2, alpha=0.0), make_model(), make_data())
    assert same(a, run(FineTune(unlearn_epochs=2), make_model(), make_data()))


def test_ft_l1_and_ft_prune_are_one_method():
    assert METHODS["FT_l1"] is METHODS["FT_prune"]


def test_retrain_is_training_from_scratch_on_the_retain_set_bit_for_bit():
    """Against a plain loop that knows nothing of the project's engine or methods: torch's SGD and
    MultiStepLR.
    """
    data, model = make_data(), make_model()
    run(Retrain(unlearn_epochs=4, unlearn_lr=0.1), model, data, schedule="multistep")
    scratch = make_model(seed=99)
    torch.manual_seed(stream(data.seed, "init"))
    initialise(scratch)
    optimizer = torch.optim.SGD(
        scratch.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, fused=True
    )
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3], gamma=0.1)
    loader = make_data().retain
    scratch.train()
    for epoch in range(4):
        loader.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(scratch(images), labels).backward()
            optimizer.step()
        scheduler.step()
    assert same(model, scratch)


def test_retrain_never_reads_the_forget_set_nor_the_original_weights():
    data = make_data()
    data.forget = None
    a = run(Retrain(unlearn_epochs=1, unlearn_lr=0.1), make_model(seed=1), data)
    data = make_data()
    data.forget = None
    assert same(a, run(Retrain(unlearn_epochs=1, unlearn_lr=0.1), make_model(seed=2), data))


def test_retrain_under_a_mask_starts_from_the_original_where_frozen():
    model, original = make_model(), make_model()
    mask = random_mask(model)
    run(Retrain(unlearn_epochs=1, unlearn_lr=0.0, weight_decay=0.0), model, make_data(), mask)
    fresh = make_model()
    torch.manual_seed(stream(make_data().seed, "init"))
    initialise(fresh)
    for (key, ours), kept, drawn in zip(
        model.named_parameters(), original.parameters(), fresh.parameters(), strict=True
    ):
        assert torch.equal(ours, torch.where(mask[key], drawn, kept)), key


def test_retain_stream_does_not_move_when_more_is_drawn_from_forget():
    data, other = make_data(), make_data()
    for _ in range(3):
        list(data.forget)
    assert all(torch.equal(a[0], b[0]) for a, b in zip(data.retain, other.retain, strict=True))
