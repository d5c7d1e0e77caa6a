"""SSD, LFSSD and both Fisher methods: importances against loops and enumeration, edits against
formulas, noise against its law.
"""

import copy
from functools import partial

import numpy as np
import pytest
import scipy.stats
import torch
from helpers import CLASSES, CPU, TinyNet, make_data, make_image_set, make_model, train_epoch, whole
from torch import nn
from torch.func import functional_call, grad, vmap

from datasets.loaders import Data
from models import build_model
from recipe import make_optimizer
from unlearn.base import cross_entropy_steps
from unlearn.fisher import FisherForgetting
from unlearn.fisher_new import FisherScrubbing
from unlearn.ssd import LabelFreeDampening, SelectiveSynapticDampening, dampen
from unlearn.tools.noise import classifier_parameters
from unlearn.tools.per_sample import true_fisher_diagonal
from utils import UserError

DAMPENINGS = [SelectiveSynapticDampening, LabelFreeDampening]
WHOLE_CLASS = {"count": None, "class_to_forget": 1}


def edit(method, data=None, model=None):
    """(new model, report) of one edit; the default model and data are always the same."""
    model, data = make_model() if model is None else model, data or make_data()
    method.prepare(model, data, None)
    return model, method.edit(model, data)


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def relabelled(data):
    """The same images, each under the next class."""
    for name in ("forget", "retain"):
        split = getattr(data, name)
        setattr(data, name, split.relabelled((split.labels + 1) % CLASSES))
    return data


# ------------------------------------------------------------------------------------ SSD and LFSSD


def importance_by_loop(method, model, batches):
    """One backward pass a batch in fp64, with the losses written out; a batch counts
    by its size.
    """
    wide = copy.deepcopy(model).double().eval()
    total, count = {name: torch.zeros_like(p) for name, p in wide.named_parameters()}, 0
    for images, labels in batches:
        logits = wide(images.double())
        true = logits.softmax(1)[torch.arange(len(labels)), labels]
        loss = (
            -true.log().mean()
            if method is SelectiveSynapticDampening
            else torch.linalg.norm(logits, dim=1).pow(2).mean()
        )
        wide.zero_grad()
        loss.backward()
        for name, p in wide.named_parameters():
            total[name] += len(labels) * (
                p.grad**2 if method is SelectiveSynapticDampening else p.grad.abs()
            )
        count += len(labels)
    return {name: value / count for name, value in total.items()}


def in_class_order(data, parts, size):
    """Batches of (images, labels) of the named splits in turn, each sorted by class and then by
    index, in even consecutive cuts.
    """
    labels = data.dataset.y_train
    order = [
        index
        for part in parts
        for index in sorted(
            getattr(data.chosen, part).tolist(), key=lambda index: (labels[index], index)
        )
    ]
    images = torch.tensor(data.dataset.x_train).permute(0, 3, 1, 2).float() / 255
    count = -(-len(order) // size)
    for batch in range(count):
        chosen = order[len(order) * batch // count : len(order) * (batch + 1) // count]
        yield images[chosen], torch.tensor(labels[chosen])


# Of 16 forget images: every sample, batches of 4, a single batch; of all 144: and batches that
# straddle two classes.
@pytest.mark.parametrize("size", [1, 5, 16])
@pytest.mark.parametrize("method", DAMPENINGS)
def test_importances_equal_a_plain_loop_in_class_order(method, size, model, data):
    for parts in (["forget"], ["retain", "forget"]):
        found = method(importance_batch=size).importance(
            model, *(getattr(data, part) for part in parts)
        )
        for name, wanted in importance_by_loop(
            method, model, in_class_order(data, parts, size)
        ).items():
            torch.testing.assert_close(found[name].double(), wanted, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("size", [1, 5, 16])
@pytest.mark.parametrize("method", DAMPENINGS)
def test_shuffled_importances_equal_a_plain_loop(method, size, model, data):
    found = method(importance_batch=size, importance_order="shuffled").importance(
        model, data.forget
    )
    batches = data.forget.eval_view().shuffled("importance").evenly(size)
    for name, wanted in importance_by_loop(method, model, batches).items():
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-4, atol=1e-8)


def test_batches_of_the_class_order_hold_one_class_and_go_through_retain_before_forget():
    """16 batches of 9 images from 4 classes of 36, of which class 1 is forgotten; file order deals
    the classes out in turn.
    """
    data = make_data(**WHOLE_CLASS)
    batches = list(SelectiveSynapticDampening(importance_batch=9).batches(data.retain, data.forget))
    assert [set(labels.tolist()) for _, labels in batches] == [
        {c} for c in (0, 2, 3, 1) for _ in range(4)
    ]
    first = {len(set(labels.tolist())) for _, labels in data.retain.eval_view().evenly(9)}
    assert first == {3}
    mixed = SelectiveSynapticDampening(importance_batch=9, importance_order="shuffled").batches(
        data.retain, data.forget
    )
    assert max(len(set(labels.tolist())) for _, labels in mixed) == CLASSES


@pytest.mark.parametrize("order", ["class", "shuffled"])
def test_importance_batches_are_even_whatever_an_epochs_are(order):
    """--tail, --accumulate and --batch_size are of training; each image is in one batch."""
    data = make_data(**WHOLE_CLASS)
    options = {"device": CPU, "seed": 3, "augment": False}
    kinds = [
        {"batch_size": 32},
        {"batch_size": 10, "tail": "drop"},
        {"batch_size": 10, "tail": "keep"},
        {"batch_size": 32, "accumulate": 4},
    ]
    found = []
    for kind in kinds:
        loaded = Data(data.dataset, data.split, data.chosen, **options, **kind)
        batches = SelectiveSynapticDampening(importance_batch=50, importance_order=order).batches(
            loaded.retain, loaded.forget
        )
        found.append([labels.tolist() for _, labels in batches])
    assert [len(labels) for labels in found[0]] == [48, 48, 48]
    assert all(other == found[0] for other in found)


def test_importances_of_single_images_know_no_order(model):
    data = make_data(**WHOLE_CLASS)
    for method in DAMPENINGS:
        ordered, shuffled = (
            method(importance_batch=1, importance_order=order).importance(
                model, data.retain, data.forget
            )
            for order in ("class", "shuffled")
        )
        for name in ordered:
            torch.testing.assert_close(ordered[name], shuffled[name], rtol=1e-4, atol=1e-9)


@pytest.fixture(scope="module")
def taught():
    """A TinyNet that tells the classes apart, and its images."""
    images, model = make_image_set(train=800), make_model()
    data = make_data(images, count=1)
    optimizer = make_optimizer(model.parameters(), 0.1, 0.9, 5e-4)
    for epoch in range(6):
        data.set_epoch(epoch)
        train_epoch(model, cross_entropy_steps(model, data.retain), optimizer)
    return model, images


@pytest.mark.parametrize("method", DAMPENINGS)
def test_the_class_order_selects_fewer_weights_than_the_shuffled_one(method, taught):
    """A class's batches have large mean gradients, so that I_D is large; shuffled ones cancel. Over
    every class as the forgotten one.
    """
    model, images = taught
    selected = {
        order: sum(
            edit(
                method(alpha=2, importance_batch=16, importance_order=order),
                make_data(images, **request),
                copy.deepcopy(model),
            )[1]["selected"]
            for request in ({"count": None, "class_to_forget": c} for c in range(CLASSES))
        )
        for order in ("class", "shuffled")
    }
    assert 0 < selected["class"] < selected["shuffled"]


@pytest.mark.parametrize("method", DAMPENINGS)
def test_batches_of_one_class_select_nothing_from_the_inverse_share_of_forget_on(method, taught):
    """Where every batch holds one class, n I_D = n_f I_f + n_r I_r as for single images: 4 classes
    of 180, batches of 20.
    """
    model, images = taught
    data = make_data(images, count=None, class_to_forget=0)
    assert not edit(method(alpha=4.004, importance_batch=20), data, copy.deepcopy(model))[1][
        "selected"
    ]
    assert edit(
        method(alpha=4.004, importance_batch=20, importance_order="shuffled"),
        data,
        copy.deepcopy(model),
    )[1]["selected"]


@pytest.mark.parametrize("method", DAMPENINGS)
def test_the_edit_is_the_formula_with_both_importances(method):
    """theta min(lambda I_D / I_f, 1) where I_f > alpha I_D, by numpy; I_D over every image that may
    be seen, I_f over forget.
    """
    data, model = make_data(**WHOLE_CLASS), make_model()
    every = torch.cat([data.forget.indices, data.retain.indices])
    assert sorted(every.tolist()) == sorted(data.split.train.tolist())
    of_forget, of_all = (
        importance_by_loop(method, model, split.eval_view().batches_of(1))
        for split in (data.forget, data.forget.joined(data.retain))
    )
    original = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    model, report = edit(method(alpha=1.2, dampening=0.5, importance_batch=1), data, model)
    chosen = 0
    for name, p in model.named_parameters():
        forget, total = of_forget[name].numpy(), of_all[name].numpy()
        wanted = np.where(
            forget > 1.2 * total,
            original[name] * np.minimum(0.5 * total / np.maximum(forget, 1e-300), 1),
            original[name],
        )
        np.testing.assert_allclose(p.detach().numpy(), wanted, rtol=1e-3, atol=1e-7)
        chosen += int((forget > 1.2 * total).sum())
    assert 0 < chosen < sum(p.numel() for p in model.parameters())
    assert report["selected"] == chosen
    assert report["selected_share"] == chosen / sum(p.numel() for p in model.parameters())
    assert "warning" not in report


def one_weight_each(**values):
    return {name: torch.tensor([value]) for name, value in values.items()}


def test_dampening_by_hand():
    """Chosen and shrunk, chosen and held at one, on the threshold, and both ways in which an
    importance can vanish.
    """
    model = nn.Module()
    model.a, model.b, model.c, model.d, model.e = (
        nn.Parameter(torch.tensor([v])) for v in (2.0, -2.0, 2.0, 2.0, 2.0)
    )
    of_forget = one_weight_each(a=8.0, b=3.0, c=2.0, d=0.0, e=1.0)
    of_all = one_weight_each(a=1.0, b=1.0, c=1.0, d=0.0, e=0.0)
    assert dampen(model, of_forget, of_all, alpha=2.0, dampening=4.0) == 3
    assert {name: p.item() for name, p in model.named_parameters()} == {
        "a": 1.0,
        "b": -2.0,
        "c": 2.0,
        "d": 2.0,
        "e": 0.0,
    }


@pytest.mark.parametrize("alpha", [float("inf"), 1e30])
@pytest.mark.parametrize("method", DAMPENINGS)
def test_an_infinite_alpha_is_the_identity_and_says_so(method, alpha):
    model, report = edit(method(alpha=alpha, importance_batch=4), make_data(**WHOLE_CLASS))
    assert same(model, make_model().eval())
    assert report["selected"] == 0
    assert report["warning"].endswith("lower --alpha, or take --importance_order shuffled")
    _, report = edit(method(alpha=alpha, importance_order="shuffled"), make_data(**WHOLE_CLASS))
    assert report["warning"].endswith("lower --alpha")


@pytest.mark.parametrize("alpha", [0.0, 1.0, 1.2])
@pytest.mark.parametrize("method", DAMPENINGS)
def test_no_weight_grows_and_none_is_nan(method, alpha):
    model, report = edit(
        method(alpha=alpha, dampening=3.0, importance_batch=4), make_data(**WHOLE_CLASS)
    )
    assert report["selected"]
    for ours, original in zip(model.parameters(), make_model().parameters(), strict=True):
        assert (ours.abs() <= original.abs()).all()  # false for a NaN


@pytest.mark.parametrize("method", DAMPENINGS)
def test_without_dampening_constant_the_chosen_weights_vanish(method):
    model = make_model()
    nn.init.constant_(model.bn.bias, 0.1)  # no weight is zero before
    original = [p.detach().clone() for p in model.parameters()]
    model, report = edit(
        method(alpha=1.2, dampening=0.0, importance_batch=4), make_data(**WHOLE_CLASS), model
    )
    for ours, theirs in zip(model.parameters(), original, strict=True):
        assert torch.equal(ours, torch.where(ours == 0, 0, theirs))
    assert 0 < sum(int((p == 0).sum()) for p in model.parameters()) == report["selected"]


def dead(model):
    """No input reaches the classifier, so that only its bias has a gradient."""
    with torch.no_grad():
        model.bn.weight.zero_()
        model.bn.bias.fill_(-1)
    return model


@pytest.mark.parametrize("method", DAMPENINGS)
def test_weights_without_any_gradient_stay(method):
    model, _ = edit(method(alpha=0.0, dampening=0.0, importance_batch=4), model=dead(make_model()))
    assert torch.equal(model.conv.weight, make_model().conv.weight)
    assert torch.equal(model.fc.weight, make_model().fc.weight)
    assert not model.fc.bias.any()


def test_lfssd_reads_no_label_and_ssd_does():
    outcomes = [
        edit(method(alpha=1.0, importance_batch=4, importance_order="shuffled"), data)[0]
        for method in DAMPENINGS
        for data in (make_data(), relabelled(make_data()))
    ]
    assert not same(outcomes[0], outcomes[1])
    assert same(outcomes[2], outcomes[3])


@pytest.mark.parametrize("method", DAMPENINGS)
def test_exact_importances_select_nothing_from_the_inverse_share_of_forget_on(method):
    """n I_D = n_f I_f + n_r I_r, so that no weight has I_f > (n / n_f) I_D; far below,
    some have.
    """
    data = make_data(**WHOLE_CLASS)
    bound = len(data.split.train) / data.forget.num_samples
    assert not edit(method(alpha=1.001 * bound, importance_batch=1), data)[1]["selected"]
    assert edit(method(alpha=1.1, importance_batch=1), data)[1]["selected"]


@pytest.mark.parametrize(
    "fields", [{"alpha": -1.0}, {"dampening": -0.1}, {"importance_batch": 0}], ids=str
)
def test_impossible_dampening_is_refused(fields):
    with pytest.raises(UserError, match=f"--{next(iter(fields))}"):
        SelectiveSynapticDampening(**fields)


# ----------------------------------------------------------------------------- the Fisher diagonals


class Smooth(nn.Module):
    """25,220 weights, none of them without a gradient: the noise of each can be compared with its
    law.
    """

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(192, 128)
        self.fc = nn.Linear(128, CLASSES)

    def forward(self, images):
        return self.fc(torch.tanh(self.hidden(images.flatten(1))))


def smooth():
    torch.manual_seed(0)
    return Smooth().eval()


@pytest.mark.parametrize("classes", [3, 4])
def test_true_fisher_diagonal_equals_the_expectation_over_labels(classes, data):
    """E_x sum_y p(y|x) g_y^2 by torch.func in fp64, enumerating every label."""
    torch.manual_seed(1)
    model = TinyNet()
    model.fc = nn.Linear(24, classes)
    model.eval()
    images, _ = whole(data.retain.eval_view())
    wide = copy.deepcopy(model).double()
    parameters = {name: p.detach() for name, p in wide.named_parameters()}

    def log_p(parameters, image, one_hot):
        return functional_call(wide, parameters, image[None]).log_softmax(1)[0] @ one_hot

    labels = torch.eye(classes, dtype=torch.float64)
    squares = vmap(vmap(grad(log_p), (None, None, 0)), (None, 0, None))(
        parameters, images.double(), labels
    )
    p = wide(images.double()).softmax(1).detach()
    found = true_fisher_diagonal(model, data.retain.eval_view())
    for name, value in squares.items():
        wanted = torch.einsum("iy,iy...->...", p, value**2) / len(images)
        torch.testing.assert_close(found[name].double(), wanted, rtol=1e-4, atol=1e-10)


def test_true_fisher_diagonal_of_a_sure_model_is_finite(data):
    """Probabilities that are 0 in fp32 have no weight, and no infinite logarithm gets through."""
    model = smooth()
    with torch.no_grad():
        model.fc.weight.mul_(1e6)
    assert all(
        torch.isfinite(value).all()
        for value in true_fisher_diagonal(model, data.retain.eval_view()).values()
    )


# ---------------------------------------------------------------------------------------- the noise


def noise(method, data=None):
    """What a Smooth model's weights moved by, and the report."""
    model = smooth()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    report = method.edit(model, data or make_data())
    return {
        name: (p.detach() - before[name]).double() for name, p in model.named_parameters()
    }, report


def empirical_by_hand(data):
    """mean over retain of (d log p_y / d theta)^2, closed form of one hidden layer, in fp64."""
    model = smooth().double()
    images, labels = whole(data.retain.eval_view())
    x = images.flatten(1).double()
    h = torch.tanh(model.hidden(x)).detach()
    delta = torch.eye(CLASSES)[labels] - model.fc(h).softmax(1).detach()
    back = (delta @ model.fc.weight.detach()) * (1 - h**2)
    n = len(labels)
    return {
        "hidden.weight": (back**2).T @ x**2 / n,
        "hidden.bias": (back**2).mean(0),
        "fc.weight": (delta**2).T @ h**2 / n,
        "fc.bias": (delta**2).mean(0),
    }


def is_standard_normal(values):
    assert len(values) >= 10_000
    assert (
        scipy.stats.kstest(1.1 * values, "norm").pvalue < 1e-6
    )  # the test has the power to see 10 %
    return scipy.stats.kstest(values, "norm").pvalue > 1e-3


def test_fisher_noise_has_the_deviation_of_the_formula():
    """Kolmogorov-Smirnov over 25,220 weights against sqrt(alpha / F), ten times that in the
    classifier.
    """
    data = make_data()
    moved, report = noise(FisherForgetting(alpha=1e-5, noise_limit=1e9), data)
    z = [moved[name] / (1e-5 / value).sqrt() for name, value in empirical_by_hand(data).items()]
    z = [value / (10 if number > 1 else 1) for number, value in enumerate(z)]
    assert is_standard_normal(torch.cat([value.flatten() for value in z]).numpy())
    assert scipy.stats.kstest(z[2].flatten().numpy(), "norm").pvalue > 1e-3  # the classifier alone
    assert report == {"fisher_samples": data.retain.num_samples, "at_noise_limit": 0.0}


def test_the_noise_limit_is_exact_and_beyond_it_alpha_is_without_effect():
    moved, report = noise(FisherForgetting(alpha=1e9))
    assert report["at_noise_limit"] == 1
    again, _ = noise(FisherForgetting(alpha=1e12))
    assert all(torch.equal(moved[name], again[name]) for name in moved)
    scaled = torch.cat(
        [
            (value / (1e-2 if name.startswith("fc") else 1e-3)).flatten()
            for name, value in moved.items()
        ]
    )
    assert is_standard_normal(scaled.numpy())
    half = 0.5 * FisherForgetting.noise_limit
    fewer, report = noise(
        FisherForgetting(alpha=half**2 * empirical_by_hand(make_data())["hidden.bias"].min().item())
    )
    assert 0 < report["at_noise_limit"] < 1
    assert all((fewer[name].abs() <= moved[name].abs() + 1e-7).all() for name in moved)


def variances_by_hand(fisher, alpha):
    """v of the specification, by numpy; names tell the classifier."""
    result = {}
    for name, value in fisher.items():
        limit = 1e2 if name.startswith("fc") else 1e3
        v = alpha * np.minimum(1 / (value.double().numpy() + 1e-8), limit)
        if v.ndim > 1:
            v = np.broadcast_to(v.mean(1, keepdims=True), v.shape)
        result[name] = torch.tensor(v * (10 if name.startswith("fc") or v.ndim == 1 else 1))
    return result


def test_scrubbing_noise_has_the_deviation_of_the_formula():
    data = make_data()
    moved, report = noise(FisherScrubbing(alpha=1e-5), data)
    wanted = variances_by_hand(true_fisher_diagonal(smooth(), data.retain.eval_view()), 1e-5)
    z = torch.cat([(moved[name] / value.sqrt()).flatten() for name, value in wanted.items()])
    assert is_standard_normal(z.numpy())
    assert report == {"fisher_samples": data.retain.num_samples}


def test_scrubbing_variances_equal_numpy_for_kernels_matrices_and_vectors():
    """On a convolutional net, with entries on both sides of each limit."""
    torch.manual_seed(0)
    fisher = {
        name: 10 ** (6 * torch.rand(p.shape) - 6) for name, p in make_model().named_parameters()
    }
    for name, wanted in variances_by_hand(fisher, 1e-6).items():
        found = FisherScrubbing(alpha=1e-6).variance(fisher[name], name.startswith("fc"))
        torch.testing.assert_close(found.expand(wanted.shape).double(), wanted, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("request_", "blanked"),
    [(WHOLE_CLASS, True), ({"count": 16}, False), ({"count": 8, "class_to_forget": 1}, False)],
    ids=str,
)
def test_only_a_class_that_is_forgotten_as_a_whole_loses_its_row(request_, blanked):
    """Its variance is 10 * 1e-4 whatever alpha is; at alpha 0 nothing else moves."""
    model = smooth()
    with torch.no_grad():
        model.fc.weight.add_(100)
        model.fc.bias.add_(100)
    original = copy.deepcopy(model)
    FisherScrubbing(alpha=0.0).edit(model, make_data(**request_))
    row = torch.cat([model.fc.weight[1], model.fc.bias[1:2]]).detach()
    if blanked:
        assert scipy.stats.kstest((row / (10 * 1e-4) ** 0.5).numpy(), "norm").pvalue > 1e-3
        with torch.no_grad():
            original.fc.weight[1], original.fc.bias[1] = row[:-1], row[-1]
    assert same(model, original)


@pytest.mark.parametrize("method", [FisherForgetting, FisherScrubbing])
def test_alpha_zero_is_the_identity(method):
    """Also where a weight has no gradient at all, and sqrt(0 / 0) lurks."""
    assert same(edit(method(alpha=0.0), model=dead(make_model()))[0], dead(make_model()))


@pytest.mark.parametrize("method", [FisherForgetting, FisherScrubbing])
def test_noise_is_seeded(method):
    models = [edit(method(alpha=1e-6), make_data(seed=seed))[0] for seed in (3, 3, 4)]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


@pytest.mark.parametrize(
    "method",
    [partial(FisherForgetting, noise_limit=1.0), FisherScrubbing],
    ids=["fisher", "fisher_new"],
)
def test_fisher_methods_read_retain_alone_and_as_much_as_is_asked(method):
    data = make_data()
    data.forget = None
    full, report = edit(method(alpha=1e-6), data)
    assert report["fisher_samples"] == data.retain.num_samples
    part, report = edit(method(alpha=1e-6, fisher_samples=20), data)
    assert report["fisher_samples"] == 20
    assert not same(full, part)
    assert same(full, edit(method(alpha=1e-6, fisher_samples=10**6))[0])


def test_a_pass_for_each_of_many_classes_is_refused_unless_a_number_of_images_is_asked(monkeypatch):
    data = make_data()
    count = data.retain.num_samples
    monkeypatch.setattr("unlearn.fisher_new.MOST_PASSES", CLASSES * count - 1)
    with pytest.raises(UserError, match=f"--fisher_samples 2000 .*--fisher_samples {count} to"):
        edit(FisherScrubbing(), data)
    assert edit(FisherScrubbing(fisher_samples=20), data)[1] == {"fisher_samples": 20}
    assert edit(FisherScrubbing(fisher_samples=count), data)[1] == {"fisher_samples": count}


def test_scrubbing_reads_no_label_and_fisher_does():
    alike = [
        edit(FisherScrubbing(alpha=1e-6), data)[0]
        for data in (make_data(), relabelled(make_data()))
    ]
    assert same(*alike)
    unlike = [
        edit(FisherForgetting(alpha=1e-9, noise_limit=1.0), data)[0]
        for data in (make_data(), relabelled(make_data()))
    ]
    assert not same(*unlike)


def test_a_convolution_with_as_many_channels_as_classes_is_not_the_classifier():
    assert classifier_parameters(build_model("resnet20s", 16, (0.4,) * 3, (0.2,) * 3)) == {
        "fc.weight",
        "fc.bias",
    }
    assert classifier_parameters(build_model("vgg16_bn_lth", 64, (0.4,) * 3, (0.2,) * 3)) == {
        "classifier.weight",
        "classifier.bias",
    }


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        (FisherForgetting, {"alpha": -1.0}),
        (FisherForgetting, {"noise_limit": -1.0}),
        (FisherScrubbing, {"alpha": -1.0}),
    ],
)
def test_impossible_noise_is_refused(method, fields):
    with pytest.raises(UserError, match=f"--{next(iter(fields))}"):
        method(**fields)
