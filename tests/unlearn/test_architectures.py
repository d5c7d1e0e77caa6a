"""Every method on small networks of today's kinds: patches, attention, LayerNorm, raw parameters,
stochastic depth.
"""

import copy
import dataclasses
import functools

import pytest
import torch
import torch.nn.functional as F
from helpers import make_data, make_image_set, random_mask, run
from torch import nn

import engine
import models
from masks.masks import top_masks
from masks.scores import SCORES
from models import begin, blocks, build_model, classifier, parameters_of, part
from models.convnext import convnext
from models.swin import swin
from models.vit import vit
from recipe import Recipe
from training.batch_norm import check_batch_norm
from unlearn import METHODS
from unlearn.finetune import FineTune
from unlearn.last_blocks import FinetuneLastBlocks, RetrainLastBlocks
from unlearn.lotus import Lotus
from unlearn.retrain import Retrain
from unlearn.tools.per_sample import mean_gradient_sizes, own_label
from unlearn.wfisher import FisherProduct
from utils import stream

MEAN, STD = (0.4,) * 3, (0.2,) * 3
KINDS = {
    "small_vit": lambda n, image_size: vit("x", n, image_size, width=12, heads=2, depth=2),
    "small_swin": lambda n, image_size: swin(
        "x", n, image_size, width=8, depths=(1, 1), heads=(1, 2)
    ),
    "small_convnext": lambda n, image_size: convnext(
        "x", n, image_size, widths=(8, 16), depths=(1, 1)
    ),
}
OPTIONS = {"unlearn_epochs": 1, "unlearn_lr": 0.01, "samples": 8, "max_iterations": 3}
OPTIONS |= {"noise_batches": 2, "pull": 0.1}
SMALL = {"ssd": {"alpha": 0.5}, "lfssd": {"alpha": 0.5}}


@pytest.fixture(autouse=True)
def kinds(monkeypatch):
    for name, factory in KINDS.items():
        monkeypatch.setitem(models.MODELS, name, factory)


@functools.cache
def images():
    return make_image_set(train=48, test=16)


def make(arch, seed=0):
    torch.manual_seed(seed)
    model = build_model(arch, 4, MEAN, STD, image_size=8)
    with torch.no_grad():  # no layer's contribution is scaled to nothing
        for name, parameter in model.named_parameters():
            if name.endswith("layer_scale"):
                parameter.fill_(0.5)
    return model.to(memory_format=torch.channels_last)


def data(**options):
    return make_data(images(), count=8, batch_size=8, **options)


def small(name):
    known = {field.name for field in dataclasses.fields(METHODS[name])}
    chosen = OPTIONS | SMALL.get(name, {})
    return METHODS[name](**{key: value for key, value in chosen.items() if key in known})


@pytest.mark.slow
@pytest.mark.parametrize("arch", KINDS)
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_runs_and_what_is_frozen_stays_bit_for_bit(name, masked, arch, monkeypatch):
    monkeypatch.setattr(Lotus, "stopped", lambda self: False)  # the networks are untrained
    model = make(arch)
    before = copy.deepcopy(model.state_dict())
    mask = random_mask(model) if masked else None
    run(small(name), model, data(), mask)
    changed = False
    for key, value in model.named_parameters():
        assert torch.isfinite(value).all(), key
        changed |= not torch.equal(value, before[key])
        if mask:
            assert torch.equal(value[~mask[key]], before[key][~mask[key]]), key
    assert changed == (name != "raw") or name == "scrub_r"
    assert model.state_dict().keys() == before.keys()


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("arch", KINDS)
def test_masks_have_exact_counts(arch, score):
    model = make(arch)
    masks = top_masks(SCORES[score](model, data()))
    total = sum(p.numel() for p in model.parameters())
    for ratio, mask in masks.items():
        assert mask.keys() == dict(model.named_parameters()).keys()
        assert sum(int(value.sum()) for value in mask.values()) == int(total * ratio)


@pytest.mark.parametrize("arch", KINDS)
def test_nothing_of_the_original_survives_in_retrain_but_the_weights_it_began_with(arch):
    chosen, model = data(), make(arch)
    with torch.no_grad():
        for value in model.parameters():
            value.fill_(123)
    Retrain().prepare(model, chosen, None)
    fresh = make(arch, stream(chosen.seed, "init"))
    for (name, ours), theirs in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert name.endswith("layer_scale") or torch.equal(ours, theirs), name
        assert not bool((ours == 123).any()), name
    head = parameters_of(model, [classifier(model).name])
    model.initial = {n: torch.full_like(p, 7) for n, p in fresh.named_parameters() if n not in head}
    Retrain().prepare(model, chosen, None)
    for name, value in model.named_parameters():
        assert bool((value == 7).all()) == (name not in head), name
    with torch.no_grad():
        model.get_parameter(sorted(head)[0]).fill_(5)
    begin(model)
    assert bool((model.get_parameter(sorted(head)[0]) == 5).all())


@pytest.mark.parametrize("method", [FinetuneLastBlocks, RetrainLastBlocks])
@pytest.mark.parametrize("arch", KINDS)
def test_the_last_blocks_alone_change(arch, method):
    model = make(arch)
    before = copy.deepcopy(model.state_dict())
    run(method(k=1, unlearn_epochs=1, unlearn_lr=0.1), model, data())
    trained = parameters_of(model, [name for group in blocks(model)[-2:] for name in group])
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed <= trained
    assert len(changed) > len(trained) / 2
    assert all(p.requires_grad for p in model.parameters())


def test_a_parameter_outside_of_modules_is_frozen_and_drawn_with_its_block():
    model = make("small_vit")
    with torch.no_grad():
        model.encoder.pos_embedding.fill_(123)
    everything = len(blocks(model)) - 1
    RetrainLastBlocks(k=everything).prepare(model, data(), None)
    assert not bool((model.encoder.pos_embedding == 123).any())
    FinetuneLastBlocks(k=1).prepare(model, data(), None)
    assert not model.class_token.requires_grad
    assert isinstance(part(model, "class_token"), nn.Parameter)


@pytest.mark.parametrize("arch", KINDS)
def test_the_product_with_the_fisher_matrix_is_that_of_the_samples_gradients(arch):
    """Forward-mode derivatives, through attention too."""
    model, samples = make(arch).eval(), data().forget.eval_view()
    rows, parameters = [], dict(model.named_parameters())
    for image, label in samples.batches_of(1):
        loss = F.cross_entropy(model(image), label)
        gradient = torch.autograd.grad(loss, list(parameters.values()))
        rows.append(torch.cat([g.reshape(-1) for g in gradient]).double())
    jacobian = torch.stack(rows)
    generator = torch.Generator().manual_seed(1)
    u = {n: torch.randn(p.shape, generator=generator) for n, p in parameters.items()}
    flat = torch.cat([value.reshape(-1) for value in u.values()]).double()
    wanted = 0.5 * flat + jacobian.T @ (jacobian @ flat) / len(rows)
    found = FisherProduct(model, samples, 0.5)(u)
    found = torch.cat([found[name].reshape(-1) for name in parameters]).double()
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


class Mixer(nn.Module):
    """Layers that the fast Fisher pass knows, one of them linear over positions."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.mix, self.head = nn.Linear(6, 5), nn.Linear(5, 4)

    def forward(self, images):
        tokens = self.patches(images).flatten(2).transpose(1, 2)
        return self.head(torch.tanh(self.mix(tokens)).mean(1))


@pytest.mark.parametrize("size", [torch.square, torch.abs])
def test_a_linear_layer_over_positions_has_each_samples_sum_measured(size):
    torch.manual_seed(0)
    model, samples = Mixer().eval(), data().forget.eval_view()
    wanted = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image, label in samples.batches_of(1):
        loss = F.cross_entropy(model(image), label)
        gradient = torch.autograd.grad(loss, list(model.parameters()))
        for name, value in zip(wanted, gradient, strict=True):
            wanted[name] += size(value) / samples.num_samples
    found = mean_gradient_sizes(model, samples, own_label, size)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7)


def test_frozen_batch_norm_that_is_not_there_is_said(capsys):
    frozen = FineTune(bn="freeze")
    assert not check_batch_norm(make("small_vit"), frozen, data())
    assert "no BatchNorm, so nothing is frozen" in capsys.readouterr().out
    check_batch_norm(models.resnet20s(4), frozen, data())
    check_batch_norm(make("small_vit"), FineTune(), data())
    assert not capsys.readouterr().out


@pytest.mark.parametrize("arch", KINDS)
def test_without_decay_of_norms_a_run_repeats_itself_and_ends_elsewhere(arch):
    ends = []
    for decay in ("weights", "weights", "all"):
        method = FineTune(unlearn_epochs=1, optimizer="adamw", weight_decay=1.0)
        model, recipe = make(arch), Recipe(batch_size=8, decay=decay)
        engine.run(model, method, data(), recipe)
        ends.append(model.state_dict())
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    norm = next(
        name for name in ends[0] if "norm" in name or "ln" in name or "features.0.1" in name
    )
    assert not torch.equal(ends[0][norm], ends[2][norm])
