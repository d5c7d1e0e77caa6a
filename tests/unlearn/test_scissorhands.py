"""Scissorhands: what is drawn anew, the projection against SciPy's QP, its pairs."""

import copy
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
import torch.nn.functional as F
from helpers import check_resume, make_data, make_image_set, make_model, random_mask, run
from torch import nn

from models import build_model
from stages.records import unrecorded
from unlearn.scissorhands import Scissorhands
from unlearn.tools.snip import RIDGE, forget_gradient, last_stages, project, redraw_salient
from utils import UserError


def build(arch):
    torch.manual_seed(0)
    model = build_model(arch, 4, (0.4,) * 3, (0.2,) * 3, image_size=32)
    return model.to(memory_format=torch.channels_last)


# --------------------------------------------------------------------------------- what is redrawn


def test_the_last_stages_of_each_kind_of_architecture():
    def roots(arch):
        return sorted({name.partition(".")[0] for name in last_stages(build(arch))})

    assert roots("resnet18") == roots("resnet50") == ["fc", "layer3", "layer4"]
    assert roots("resnet20s") == ["fc", "layer2", "layer3"]
    assert last_stages(build("vgg16_bn")) == ["classifier.0", "classifier.2", "classifier.4"]
    assert last_stages(make_model()) == ["conv", "bn", "fc"]


def fixed_by_type(model):
    """The parameters of BatchNorm layers outside of shortcuts."""
    return {
        f"{name}.{own}"
        for name, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d) and "downsample" not in name
        for own in ("weight", "bias")
    }


@pytest.mark.parametrize("arch", ["resnet18", "vgg16_bn", "torchvision:mobilenet_v2"])
def test_all_that_is_salient_in_the_last_stages_is_redrawn_and_nothing_else(arch):
    """At a share of 1 all of it, as the authors' code draws: weights within Kaiming's bound 1 /
    sqrt(fan in), with a fan-in of 1 for a shortcut's BatchNorm; biases zero. The main path's
    BatchNorm stays, whatever its name.
    """
    model = build(arch)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(2.0)
    before = copy.deepcopy(model.state_dict())
    inside = tuple(f"{name}." for name in last_stages(model))
    redraw_salient(model, list(model.parameters()), 1.0, inside, 0)
    for name, now in model.named_parameters():
        if not name.startswith(inside) or name in fixed_by_type(model):
            assert torch.equal(now, before[name]), name
        elif name.endswith("bias"):
            assert not now.any()
        else:
            bound = 1 / math.sqrt(now[0].numel()) if now.dim() > 1 else 1.0
            assert 0.9 * bound < now.abs().max() <= bound
            assert now.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_the_shortcut_s_batch_norm_is_among_what_is_drawn():
    """The authors unsqueeze its weight, so that the fan-in is 1 and the draw U(-1, 1)."""
    model = build("resnet18")
    weight, bias = (getattr(model.layer4[0].downsample[1], own) for own in ("weight", "bias"))
    with torch.no_grad():
        bias.fill_(1.0)
    inside = tuple(f"{name}." for name in last_stages(model))
    redraw_salient(model, list(model.parameters()), 1.0, inside, 0)
    assert not bias.any()
    assert scipy.stats.kstest(weight.detach().numpy(), "uniform", (-1, 2)).pvalue > 0.01


@pytest.mark.parametrize("share", [0.0, 0.03, 0.5])
def test_the_share_is_of_all_weights_and_only_the_last_stages_are_drawn(share):
    """Against a numpy argsort of the scores."""
    model = build("resnet20s")
    before = copy.deepcopy(dict(model.named_parameters()))
    rng = torch.Generator().manual_seed(1)
    scores = [torch.rand(p.shape, generator=rng) for p in model.parameters()]
    inside = tuple(f"{name}." for name in last_stages(model))
    redraw_salient(model, scores, share, inside, 0)
    flat = np.concatenate([score.flatten().numpy() for score in scores])
    count = round(share * len(flat))
    least = np.sort(flat)[len(flat) - count] if count else np.inf
    for (name, now), score in zip(model.named_parameters(), scores, strict=True):
        drawn = name.startswith(("layer2.", "layer3.", "fc.")) and "bn" not in name
        expected = (score >= least) & drawn
        assert torch.equal(now != before[name], expected), name


def test_the_score_is_the_weight_times_the_gradient_of_one_forget_batch(monkeypatch):
    import unlearn.scissorhands

    given = {}
    monkeypatch.setattr(
        unlearn.scissorhands,
        "redraw_salient",
        lambda model, scores, *rest: given.update(scores=scores),
    )
    data, model = make_data(batch_size=1000), make_model()
    Scissorhands().prepare(model, data, None)
    images = torch.from_numpy(data.dataset.x_train[data.chosen.forget]).permute(0, 3, 1, 2) / 255
    labels = torch.from_numpy(data.dataset.y_train[data.chosen.forget])
    loss = F.cross_entropy(model.eval()(images), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    for score, gradient, weight in zip(given["scores"], gradients, model.parameters(), strict=True):
        torch.testing.assert_close(score, (gradient * weight).abs(), rtol=1e-3, atol=1e-6)


def test_one_batch_is_a_seeded_draw_and_another_for_another_purpose():
    data, model = make_data(count=60, batch_size=10), make_model().train()
    first, again, other = (forget_gradient(model, data, name) for name in ("a", "a", "b"))
    assert all(torch.equal(x, y) for x, y in zip(first, again, strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(first, other, strict=True))
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_a_mask_keeps_what_it_freezes():
    model, mask = make_model(), random_mask(make_model())
    run(Scissorhands(unlearn_epochs=1, redraw_share=1.0), model, make_data(), mask)
    for name, before in make_model().named_parameters():
        now = dict(model.named_parameters())[name]
        assert torch.equal(now[~mask[name]], before[~mask[name]])


# ------------------------------------------------------------------------------------- projection


@pytest.mark.parametrize("seed", range(8))
def test_the_projection_is_the_qps(seed):
    """SciPy minimises v^2 (m.m + 1e-3) / 2 + v g.m over v >= 0.5, where g.m < 0."""
    g, m = torch.randn(2, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    m = m * 10.0 ** (seed - 4)
    ours = [g[:3].clone(), g[3:].clone()]
    project(ours, [m[:3], m[3:]])
    product, square = float(g @ m), float(m @ m) + RIDGE
    found = scipy.optimize.minimize(
        lambda v: (0.5 * v * v * square + v * product) / square,
        [1.0],
        bounds=[(0.5, None)],
        tol=1e-14,
    )
    expected = g + found.x[0] * m if product < 0 else g
    np.testing.assert_allclose(torch.cat(ours).numpy(), expected.numpy(), rtol=1e-5, atol=1e-7)


def test_both_cases_of_the_bound_occur_and_the_result_does_not_oppose_the_memory():
    for g, dual in ((torch.tensor([-9.0, 0.0]), 9 / 1.001), (torch.tensor([-0.1, 0.0]), 0.5)):
        ours, m = [g.clone()], [torch.tensor([1.0, 0.0])]
        project(ours, m)
        assert ours[0][0].item() == pytest.approx(g[0].item() + dual, abs=1e-5)
        assert ours[0][0] > -0.01


# ------------------------------------------------------------------------------------- the epochs


@pytest.mark.parametrize(("pair_every", "project_every"), [(1, 1), (1, 3), (3, 1)])
def test_an_epoch_s_losses_are_the_pairs_then_plain_training(pair_every, project_every):
    data, model = make_data(count=50, batch_size=12), make_model()
    method = Scissorhands(pair_every=pair_every, project_every=project_every, forget_weight=0.2)
    method.prepare(model, data, None)
    model.eval()
    steps = list(method.losses(model, data, 0))
    data = make_data(count=50, batch_size=12)
    forget, paired = [*data.forget], 0
    for number, ((images, labels), step) in enumerate(zip(data.retain, steps, strict=True)):
        expected = F.cross_entropy(model(images), labels)
        is_pair = number % pair_every == 0 and paired < len(forget)
        if is_pair:
            expected = expected - 0.2 * F.cross_entropy(model(forget[paired][0]), forget[paired][1])
            paired += 1
        torch.testing.assert_close(step.loss, expected)
        assert (step.phase == "forget") == is_pair
        projected = is_pair and (number + 1) % project_every == 0
        assert (step.edit_gradients is not None) == projected
    assert paired == method.forget_steps(data, 0)
    assert len(steps) == method.steps(data, 0)


def test_the_authors_preset_for_half_of_the_images_climbs_every_forget_batch():
    """SHs_0.5_cifar10.py zips both loaders and projects where i % 10 == 0, i counted from 1."""
    data = make_data(make_image_set(train=800), count=300, batch_size=16)
    method, model = Scissorhands(**Scissorhands.presets["cifar10_50"].values), make_model()
    method.prepare(model, data, None)
    steps = list(method.losses(model.train(), data, 0))
    pairs = min(len(data.forget), len(data.retain))
    assert [step.phase for step in steps].count("forget") == pairs == method.forget_steps(data, 0)
    projected = [i for i, step in enumerate(steps, 1) if step.edit_gradients is not None]
    assert projected == list(range(10, pairs + 1, 10))
    assert projected


def test_a_run_of_before_the_flag_projected_every_pair():
    assert unrecorded({})["project_every"] == Scissorhands().project_every == 1


def test_a_pair_s_gradient_is_held_to_the_epoch_s_first_model_in_the_last_stages_alone():
    data, model = make_data(), make_model()
    method = Scissorhands(redraw_share=0.0)
    method.prepare(model, data, None)
    method.memory.which = [4, 5]  # the classifier, as in an architecture with more stages
    memory = [-g for g in forget_gradient(model, data, "memory 0", [4, 5])]
    model.train()
    step = next(method.losses(model, data, 0))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        for i, m in zip((4, 5), memory, strict=True):
            list(model.parameters())[i].grad = -m.clone()
        step.edit_gradients(list(model.parameters()))
    grads = [p.grad for p in model.parameters()]
    assert all((g == 1).all() for g in grads[:4])
    square = sum(float(m.double().square().sum()) for m in memory)
    dual = max(0.5, square / (square + RIDGE))
    for g, m in zip(grads[4:], memory, strict=True):
        torch.testing.assert_close(g, (dual - 1) * m, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "fields", [{"redraw_share": 1.5}, {"pair_every": 0}, {"project_every": 0}], ids=str
)
def test_impossible_values_are_refused(fields):
    with pytest.raises(UserError, match=f"--{next(iter(fields))}"):
        Scissorhands(**fields)


@pytest.mark.parametrize("masked", [False, True])
def test_it_goes_on_bit_for_bit(masked):
    mask = random_mask(make_model()) if masked else None
    check_resume(lambda: Scissorhands(unlearn_epochs=2, redraw_share=0.3), mask)
