"""New weights for old: nothing of a trained model may survive in what is drawn anew, whatever its
layers are.
"""

import copy
import itertools

import pytest
import torch
from helpers import make_data
from torch import nn

import models
from models import MODELS, blocks, build_model, initialise, redraw
from models.normalize import Normalize
from unlearn.bad_teaching import BadTeaching
from unlearn.last_blocks import FinetuneLastBlocks, RetrainLastBlocks
from unlearn.retrain import Retrain
from utils import UserError, stream

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
TRAINED = 123  # what training made of every weight here; no initial value is 123
ARCHITECTURES = [*MODELS, "every"]


class Layers(nn.Module):
    """Every kind of layer that has a state, raw parameters, and buffers that training changes, one
    of them in no checkpoint.
    """

    def __init__(self):
        super().__init__()
        self.token, self.scale = nn.Parameter(torch.randn(1, 64)), nn.Parameter(torch.zeros(4))
        self.register_buffer("centre", torch.rand(4))
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64), persistent=False)
        self.layers = nn.ModuleList(
            [
                nn.Conv1d(4, 4, 3),
                nn.Conv2d(4, 4, 3),
                nn.Conv3d(4, 4, 3),
                nn.ConvTranspose1d(4, 4, 3),
                nn.ConvTranspose2d(4, 4, 3),
                nn.ConvTranspose3d(4, 4, 3),
                nn.Linear(4, 4),
                nn.Bilinear(4, 4, 4),
                nn.Embedding(5, 4),
                nn.EmbeddingBag(5, 4),
                nn.PReLU(4),
                nn.BatchNorm1d(4),
                nn.BatchNorm2d(4),
                nn.BatchNorm3d(4),
                nn.LayerNorm(4),
                nn.GroupNorm(2, 4),
                nn.InstanceNorm2d(4, affine=True, track_running_stats=True),
                nn.MultiheadAttention(4, 2, add_bias_kv=True),
                nn.TransformerEncoderLayer(4, 2, 8),
                nn.RNN(4, 4),
                nn.LSTM(4, 4),
                nn.GRU(4, 4),
                nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
                nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)),
            ]
        )


class Every(nn.Module):
    """Never called: three blocks, one of them the classifier, and a parameter in none of them."""

    def __init__(self, num_classes):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 64))
        self.normalize = Normalize()
        self.first, self.last, self.fc = Layers(), Layers(), nn.Linear(4, num_classes)


@pytest.fixture(autouse=True)
def every(monkeypatch):
    monkeypatch.setitem(models.MODELS, "every", Every)


def build(arch, seed):
    torch.manual_seed(seed)
    return build_model(arch, 4, MEAN, STD)


def tensors(model):
    """All state, also the buffers that no checkpoint holds."""
    return dict(itertools.chain(model.named_parameters(), model.named_buffers()))


@torch.no_grad()
def trained(arch):
    model = build(arch, 0)
    for value in tensors(model).values():
        value.fill_(TRAINED)
    return model


def parts(model, *names):
    """The names of the tensors in these modules."""
    return {
        name for name in tensors(model) if name.startswith(tuple(f"{module}." for module in names))
    }


def check_new(model, fresh, names=None):
    """The named tensors (all by default) are the fresh model's, and all others are what training
    made of them.
    """
    theirs = tensors(fresh)
    assert tensors(model).keys() == theirs.keys()
    for name, value in tensors(model).items():
        if names is None or name in names:
            assert not (value == TRAINED).any(), name
            assert torch.equal(value, theirs[name]), name
        else:
            assert (value == TRAINED).all(), name


# ------------------------------------------------------------------------------------------- redraw


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_redrawn_model_is_one_built_under_the_seed_and_nothing_survives(arch):
    """A copy too, and one with SyncBatchNorm, which a run of several GPUs has: Retrain must not
    begin with the original's.
    """
    model, fresh = trained(arch), build(arch, 5)
    for one in (
        copy.deepcopy(model),
        nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model)),
    ):
        redraw(one, 5)
        check_new(one, fresh)
        assert one.normalize.mean.tolist() == pytest.approx(MEAN)
        assert one.normalize.std.tolist() == pytest.approx(STD)


@pytest.mark.parametrize("arch", MODELS)
def test_where_the_rule_of_initialisation_covers_all_layers_it_alone_decides_in_every_memory_format(
    arch,
):
    """A draw fills memory in order: the weights of a seed depend on the format, and the runs' is
    channels_last.
    """
    model = trained(arch).to(memory_format=torch.channels_last)
    if hasattr(model, "own_initialisation"):
        pytest.skip("the constructor alone decides")
    expected = copy.deepcopy(model)
    torch.manual_seed(5)
    initialise(expected)
    redraw(model, 5)
    for name, value in tensors(expected).items():
        if not name.startswith("normalize."):
            assert torch.equal(tensors(model)[name], value), name


def test_only_the_named_modules_are_redrawn():
    model = trained("every")
    redraw(model, 5, ["last.layers", "fc"])
    check_new(model, build("every", 5), parts(model, "last.layers", "fc"))


def test_a_seed_is_one_network_whatever_was_drawn_before_and_on_every_default_device():
    model, fresh = trained("every"), build("every", 5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.device("meta"):
        redraw(model, 5)
    assert torch.equal(torch.get_rng_state(), before)
    check_new(model, fresh)
    redraw(model, 6)
    assert not torch.equal(model.token, fresh.token)
    assert not torch.equal(model.fc.weight, fresh.fc.weight)


def test_what_a_constructor_draws_does_not_repeat_what_is_drawn_over_it():
    """From the same state of the generator a class token would be the first weights of the first
    convolution, to a factor.
    """
    model = build("every", 5)
    torch.manual_seed(5)
    assert not torch.isclose(model.token, torch.randn(1, 64)).any()


def test_a_model_that_does_not_know_how_it_was_made_is_refused():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(
        UserError,
        match=r"this Sequential does not know .*; set model.construct to .* lambda: MyNet",
    ):
        redraw(model, 1)
    model.construct = lambda: nn.Sequential(nn.Linear(2, 2))
    redraw(model, 1)


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (
            lambda: nn.Sequential(nn.Linear(1, 2)),
            r"0\.weight is \(2, 1\) in the new one and \(2, 2\) in the model",
        ),
        (
            lambda: nn.Sequential(nn.Linear(2, 2, bias=False)),
            r"0\.bias is missing in the new one and \(2,\) in the model",
        ),
    ],
)
def test_a_construct_of_another_network_is_refused_and_nothing_has_changed(other, difference):
    model = nn.Sequential(nn.Linear(2, 2))
    before = copy.deepcopy(model.state_dict())
    model.construct = other
    with pytest.raises(UserError, match=difference):
        redraw(model, 1)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# -------------------------------------------------------------------------- the methods that redraw


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_of_the_original_survives_in_retrain(arch):
    data, model = make_data(), trained(arch)
    Retrain().prepare(model, data, None)
    check_new(model, build(arch, stream(data.seed, "init")))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_eu_redraws_the_trained_blocks_whole_and_nothing_else(arch):
    data, model = make_data(), trained(arch)
    names = [name for group in blocks(model)[-2:] for name in group]
    RetrainLastBlocks(k=1).prepare(model, data, None)
    check_new(model, build(arch, stream(data.seed, "init")), parts(model, *names))


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_cf_redraws_nothing(arch):
    model = trained(arch)
    FinetuneLastBlocks(k=1).prepare(model, make_data(), None)
    check_new(model, model, ())


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_nothing_of_the_original_survives_in_the_bad_teacher(arch):
    data, model, method = make_data(), trained(arch), BadTeaching()
    method.prepare(model, data, None)
    check_new(method.bad, build(arch, stream(data.seed, "bad teacher")))
    assert not any(parameter.requires_grad for parameter in method.bad.parameters())
    for untouched in (method.good, model):
        check_new(untouched, untouched, ())
