"""Scores other than SalUn's against torch.func and NumPy, layers that go first, how far two masks
agree.
"""

import copy
import dataclasses
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import (
    CPU,
    flatten,
    make_data,
    make_image_set,
    make_model,
    per_sample_gradients,
    run,
    whole,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from datasets.loaders import Data
from masks.masks import (
    RATIOS,
    belongs,
    check_layers,
    layers_mask,
    listed_first,
    overlap,
    read_mask,
    top_masks,
)
from masks.scores import SCORES, importance
from unlearn.finetune import FineTune
from utils import UserError

NAMES = ["conv.weight", "conv.bias", "bn.weight", "bn.bias", "fc.weight", "fc.bias"]


def gradients_of(model, loader):
    """(n, P) per-sample gradients in double precision, by torch.func."""
    images, labels = whole(loader.eval_view())
    return per_sample_gradients(copy.deepcopy(model).double(), images.double(), labels).numpy()


# ----------------------------------------------------------------------------------------- registry


@pytest.mark.parametrize("name", SCORES)
def test_every_score_fits_the_model_is_never_negative_and_leaves_the_model_as_it_was(
    name, model, data
):
    before = copy.deepcopy(model.state_dict())
    scores = SCORES[name](model, data)
    assert {key: value.shape for key, value in scores.items()} == {
        key: p.shape for key, p in model.named_parameters()
    }
    for value in scores.values():
        assert torch.isfinite(value).all()
        assert (value >= 0).all()
        assert not value.requires_grad
    assert torch.unique(torch.cat([value.reshape(-1) for value in scores.values()])).numel() > 50
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("name", SCORES)
def test_every_scores_masks_are_nested_bool_tensors_of_the_exact_counts(name, model, data):
    scores = SCORES[name](model, data)
    if name == "layers":
        scores = listed_first(scores, ["fc", "bn"])
    masks = {ratio: flatten(mask) for ratio, mask in top_masks(scores).items()}
    total = sum(p.numel() for p in model.parameters())
    for ratio in RATIOS:
        assert masks[ratio].dtype == bool
        assert masks[ratio].sum() == int(total * ratio)
    for smaller, larger in itertools.pairwise(RATIOS):
        assert not np.any(masks[smaller] & ~masks[larger])


@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_the_same_bit_for_bit_in_another_run_and_only_what_is_drawn_heeds_the_seed(
    name,
):
    again = make_data()
    again.set_epoch(3)  # scores know no epoch
    for batches in (again.forget, again.retain):
        list(batches)
    one, other = SCORES[name](make_model(), make_data()), SCORES[name](make_model(), again)
    assert all(torch.equal(one[key], other[key]) for key in one)
    seeded = SCORES[name](make_model(), make_data(seed=4))
    assert all(torch.equal(one[key], seeded[key]) for key in one) == (
        name not in ("random", "ratio")
    )


def test_scores_are_five_orders(model, data):
    """A name that is registered with another one's function would be an ablation of nothing."""
    chosen = {
        name: top_masks(score(model, data), [0.5])[0.5]
        for name, score in SCORES.items()
        if name != "layers"
    }
    for one, other in itertools.combinations(chosen, 2):
        assert any(not torch.equal(chosen[one][key], chosen[other][key]) for key in NAMES), (
            one,
            other,
        )


# ------------------------------------------------------------------------------------------ oracles


@pytest.mark.parametrize(
    ("name", "part"), [("saliency", "forget"), ("retain_gradient", "retain"), ("layers", "forget")]
)
def test_gradient_scores_are_the_absolute_mean_of_per_sample_gradients(name, part):
    model, data = make_model(), make_data(batch_size=7)
    expected = np.abs(gradients_of(model, getattr(data, part)).mean(0))
    np.testing.assert_allclose(
        flatten(SCORES[name](model, data)), expected, rtol=1e-3, atol=1e-6 * expected.max()
    )


def mean_square_of_batches(gradients, batch_size):
    """The importance from per-sample gradients (n, P): means of even batches first, then squares,
    then the plain mean over batches.
    """
    n, count = len(gradients), math.ceil(len(gradients) / batch_size)
    batches = [
        gradients[n * batch // count : n * (batch + 1) // count].mean(0) for batch in range(count)
    ]
    return np.mean(np.square(batches), 0)


@pytest.mark.parametrize("batch_size", [7, 16, 160])
def test_ratio_is_the_importance_to_forget_over_that_to_retain(batch_size):
    """16 shuffled forget images: batches of 5, 5 and 6, one full batch, one that is not full;
    --forget_batch_size is not read.
    """
    model, data = make_model(), make_data(batch_size=batch_size)
    data.forget = data.forget.batches_of(3)
    parts = [split.shuffled("importance") for split in (data.forget, data.retain)]
    forget, retain = (
        mean_square_of_batches(gradients_of(model, part), batch_size) for part in parts
    )
    expected = (forget + 1e-15) / (retain + 1e-15)
    np.testing.assert_allclose(
        flatten(SCORES["ratio"](model, data)), expected, rtol=5e-3, atol=1e-6 * expected.max()
    )


def sorted_by_class(data, batch_size):
    """The same images, split and forget set in the order of a folder with one class after the
    other.
    """
    images = data.dataset
    order = np.argsort(images.y_train, kind="stable")
    place = np.argsort(order)
    moved = dataclasses.replace(
        images, x_train=images.x_train[order], y_train=images.y_train[order]
    )
    split = dataclasses.replace(
        data.split, train=np.sort(place[data.split.train]), val=np.sort(place[data.split.val])
    )
    chosen = dataclasses.replace(
        data.chosen,
        forget=np.sort(place[data.chosen.forget]),
        retain=np.sort(place[data.chosen.retain]),
    )
    return Data(moved, split, chosen, device=CPU, batch_size=batch_size, seed=3)


def in_file_order(model, data):
    forget, retain = (importance(model, split.eval_view()) for split in (data.forget, data.retain))
    return {name: (forget[name] + 1e-15) / (retain[name] + 1e-15) for name in forget}


@pytest.mark.parametrize("batch_size", [16, 64])
def test_the_ratios_mask_hardly_knows_the_order_of_the_images(batch_size):
    """Where the batches follow the file, a file sorted by class gives another mask."""
    images = make_image_set(train=800)
    model = run(
        FineTune(unlearn_epochs=6, unlearn_lr=0.1), make_model(), make_data(images, count=1)
    )
    dealt = make_data(images, batch_size=batch_size, count=None, class_to_forget=1)
    ordered = sorted_by_class(dealt, batch_size)
    assert torch.equal(dealt.retain.labels.sort().values, ordered.retain.labels)
    agree = {}
    for score in (SCORES["ratio"], in_file_order):
        one, other = (top_masks(score(model, data), [0.2, 0.5]) for data in (dealt, ordered))
        agree[score] = [
            overlap(one[share].values(), other[share].values()).jaccard for share in one
        ]
    assert min(agree[SCORES["ratio"]]) > 0.95
    assert max(agree[in_file_order]) < 0.9


def test_importance_of_batches_of_one_is_the_fisher_diagonal(model, data):
    from unlearn.tools.per_sample import fisher_diagonal

    one = importance(model, data.forget.eval_view().batches_of(1))
    other = fisher_diagonal(model, data.forget.eval_view())
    np.testing.assert_allclose(flatten(one), flatten(other), rtol=1e-3, atol=1e-9)


def test_ratio_of_a_weight_that_neither_set_uses_is_one(model, data):
    with torch.no_grad():
        model.bn.weight[0] = 0.0
        model.bn.bias[0] = -9.0  # a dead channel: its ReLU never opens
    scores = SCORES["ratio"](model, data)
    assert (scores["conv.weight"][0] == 1).all()
    assert (scores["conv.weight"][1] != 1).any()


def test_magnitude_is_the_absolute_weight(model, data):
    expected = np.concatenate(
        [np.abs(value.detach().numpy()).reshape(-1) for value in model.parameters()]
    )
    np.testing.assert_array_equal(flatten(SCORES["magnitude"](model, data)), expected)


def test_random_scores_are_uniform_without_ties_and_blind():
    """By a Kolmogorov-Smirnov test (a fixed seed, so it passes always or never), and the same for
    any weights and images.
    """
    scores = SCORES["random"](make_model(), make_data())
    flat = flatten(scores)
    assert scipy.stats.kstest(flat, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(flat[:-1], flat[1:])[0, 1]) < 4 / math.sqrt(len(flat))
    assert len(np.unique(flat)) == len(flat)
    other = SCORES["random"](make_model(seed=1), make_data(count=5, batch_size=9))
    assert all(torch.equal(scores[key], other[key]) for key in scores)
    assert all(value.device.type == "cpu" for value in scores.values())


@pytest.mark.parametrize("name", ["random", "magnitude"])
def test_scores_that_need_no_images_read_none(name, model, data):
    data.forget = data.retain = None
    assert SCORES[name](model, data)


# ------------------------------------------------------------------------------------------- layers


def test_layers_hold_what_is_named_like_them_or_inside_them():
    inside = {
        "layer1": ["layer1.0.bn1.bias", "layer1.weight"],
        "layer1.0": ["layer1.0.bn1.bias"],
        "fc.bias": ["fc.bias"],
    }
    outside = {
        "layer1": ["layer10.weight", "conv1.weight", "my.layer1.weight"],
        "layer1.0": ["layer1.01.weight"],
        "fc.bias": ["fc.weight"],
    }
    for layer in inside:
        assert all(belongs(name, [layer]) for name in inside[layer])
        assert not any(belongs(name, [layer]) for name in outside[layer])
    assert belongs("fc.weight", ["conv1", "fc"])


@pytest.mark.parametrize(
    "layer", ["conv1", "f", "fc.", "fc.weight.0", "normalize", "bn.running_mean"]
)
def test_unknown_layers_are_refused_with_those_that_exist(layer):
    check_layers(["conv", "fc.bias"], NAMES)
    with pytest.raises(UserError, match=rf"{layer}.* has conv, bn, fc "):
        check_layers(["fc", layer], NAMES)


@given(
    st.lists(st.floats(0, width=32, allow_nan=False), min_size=2, max_size=60), st.integers(0, 60)
)
@settings(max_examples=60, deadline=None)
def test_listed_weights_go_first_and_nothing_is_rounded(values, cut):
    """Zeros, denormal and huge values, infinity: the order of NumPy's stable sort by group, score
    and position.
    """
    flat = np.abs(np.array(values, np.float32))
    cut = min(cut, len(flat))
    scores = {"a.weight": torch.tensor(flat[:cut]), "b.weight": torch.tensor(flat[cut:])}
    ranked = flatten(listed_first(scores, ["b"]))
    listed = np.arange(len(flat)) >= cut
    expected = np.lexsort((np.arange(len(flat)), -flat, ~listed))
    np.testing.assert_array_equal(np.argsort(-ranked, kind="stable"), expected)
    assert (ranked >= 0).all()


@pytest.mark.parametrize("layers", [["fc"], ["bn", "conv.bias"], ["conv", "bn", "fc"]])
def test_layer_masks_fill_the_listed_layers_first_by_saliency(layers, model, data):
    scores = SCORES["layers"](model, data)
    flat = flatten(scores)
    listed = np.concatenate(
        [
            np.full(scores[name].numel(), any(name.startswith(layer) for layer in layers))
            for name in NAMES
        ]
    )
    order = np.lexsort((np.arange(flat.size), -flat, ~listed))
    for ratio, mask in top_masks(listed_first(scores, layers)).items():
        wanted = np.zeros(flat.size, bool)
        wanted[order[: int(flat.size * ratio)]] = True
        np.testing.assert_array_equal(flatten(mask), wanted)
    exact = layers_mask(model, layers)
    np.testing.assert_array_equal(flatten(exact), listed)
    assert all(
        value.dtype == torch.bool and value.shape == scores[name].shape
        for name, value in exact.items()
    )


# ------------------------------------------------------------------------------------------ overlap


def random_mask(shapes, density, seed):
    g = torch.Generator().manual_seed(seed)
    return [torch.rand(shape, generator=g) < density for shape in shapes]


@pytest.mark.parametrize(("p", "q"), [(0.5, 0.5), (0.1, 0.9), (0.0, 0.3), (1.0, 0.2), (1.0, 1.0)])
def test_overlap_is_scikit_learns_jaccard_score(p, q):
    shapes = [(6, 3, 3, 3), (6,), (4, 24)]
    a, b = random_mask(shapes, p, 0), random_mask(shapes, q, 1)
    flat_a, flat_b = (torch.cat([value.reshape(-1) for value in mask]).numpy() for mask in (a, b))
    row = overlap(a, b)
    assert row.jaccard == pytest.approx(jaccard_score(flat_a, flat_b))
    assert row.weights == flat_a.size
    assert (row.share_a, row.share_b) == pytest.approx((flat_a.mean(), flat_b.mean()))


@pytest.mark.parametrize(("in_a", "in_b"), [(1, 3), (2, 2), (4, 1), (3, 0), (4, 4)])
def test_expected_overlap_is_the_mean_over_all_pairs_of_masks(in_a, in_b):
    """Every one of the 2^4 x 2^4 pairs, weighted by its probability, given that their union is not
    empty.
    """
    p, q = in_a / 4, in_b / 4
    total = mean = 0.0
    for a, b in itertools.product(itertools.product([0, 1], repeat=4), repeat=2):
        probability = math.prod(p if x else 1 - p for x in a) * math.prod(
            q if y else 1 - q for y in b
        )
        union = sum(x or y for x, y in zip(a, b, strict=True))
        if union:
            total += probability
            mean += probability * sum(x and y for x, y in zip(a, b, strict=True)) / union
    row = overlap([torch.arange(4) < in_a], [torch.arange(4) < in_b])
    assert row.expected == pytest.approx(mean / total, rel=1e-12)


def test_random_scores_masks_agree_as_much_as_expected():
    """Two seeds at densities .3 and .5 of 100,000 weights: expected 3/13, standard deviation of the
    index below .002.
    """
    model = torch.nn.Linear(1000, 100, bias=False)
    masks = [
        top_masks(SCORES["random"](model, make_data(seed=seed)), [ratio])[ratio]
        for seed, ratio in ((1, 0.3), (2, 0.5))
    ]
    row = overlap(*(mask.values() for mask in masks))
    assert row.expected == pytest.approx(3 / 13)
    assert row.jaccard == pytest.approx(3 / 13, abs=0.01)


def test_overlap_of_empty_masks_is_undefined_and_of_equal_ones_is_one():
    empty = [torch.zeros(5, dtype=torch.bool)]
    row = overlap(empty, empty)
    assert math.isnan(row.jaccard)
    assert math.isnan(row.expected)
    assert (row.share_a, row.share_b) == (0.0, 0.0)
    half = [torch.arange(10) < 5]
    assert overlap(half, half).jaccard == 1.0
    assert overlap(half, [~half[0]]).jaccard == 0.0


def test_read_mask_takes_integers_and_refuses_what_is_no_mask():
    integers = {"module.a": torch.tensor([0, 1, 1]), "b": torch.tensor([[1.0, 0.0]])}
    mask = read_mask(integers, "m.pt")
    assert mask["a"].tolist() == [False, True, True]
    assert mask["b"].dtype == torch.bool
    for bad in (
        [1],
        {"a": 3},
        {3: torch.ones(1)},
        {"a": torch.tensor([0, 2])},
        {"a": torch.tensor([math.nan])},
        {"a": torch.ones(2).to_sparse()},
    ):
        with pytest.raises(UserError, match=r"m\.pt"):
            read_mask(bad, "m.pt")
