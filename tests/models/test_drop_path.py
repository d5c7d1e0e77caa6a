"""--drop_path: the rates of stochastic depth are torchvision's linear ones, a branch is dropped
with their probability, and Retrain inherits them; architectures without it are refused.
"""

from functools import partial

import pytest
import torch
from helpers import CPU, call, make_data, refused, result
from torch import nn
from torchvision import models as tv
from torchvision.ops import StochasticDepth

import main_forget
import main_train
from arg_parser import train_request, unlearn_request
from engine import Trainer
from models import MODELS, skeleton
from models.structure import set_drop_path, stochastic_depths
from recipe import Recipe
from runtime.clock import Stopwatch
from stages.settings import settle
from unlearn.finetune import FineTune
from utils import UserError

HAVE = ("vit_tiny", "vit_small", "swin_t", "convnext_t")
# A network of 3 ConvNeXt blocks, in a file of a user's.
SMALL = """
from functools import partial
from torch import nn
from torchvision.models.convnext import CNBlock
from torchvision.ops import StochasticDepth

def make(classes):
    norm = partial(nn.LayerNorm, eps=1e-6)
    blocks = [CNBlock(8, 1.0, 0.0, norm) for _ in range(3)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)]
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), *blocks, *head)
"""


def rates(model):
    return [getattr(layer, name) for layer, name in stochastic_depths(model)]


SWIN = partial(tv.SwinTransformer, [4, 4], 96, [2, 2, 6, 2], [3, 6, 12, 24], [7, 7])


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize(("arch", "theirs"), [("swin_t", SWIN), ("convnext_t", tv.convnext_tiny)])
def test_rates_are_those_that_torchvision_builds(arch, theirs, rate):
    model = skeleton(arch, 10, 32)
    set_drop_path(model, rate)
    with torch.device("meta"):
        wanted = theirs(stochastic_depth_prob=rate)
    wanted = [layer.p for layer in wanted.modules() if isinstance(layer, StochasticDepth)]
    assert rates(model) == pytest.approx(wanted)
    assert len(wanted) == {"swin_t": 12, "convnext_t": 18}[arch]


def test_what_an_architecture_is_made_with():
    own = {arch: max(rates(skeleton(arch, 10, 32)), default=None) for arch in MODELS}
    wanted = {"swin_t": 0.2, "convnext_t": 0.1, "vit_tiny": 0.0, "vit_small": 0.0}
    assert own == {arch: wanted.get(arch) for arch in MODELS}


def test_both_branches_of_a_vits_block_are_dropped_with_the_rate_of_the_block():
    """A block whose branches are dropped gives its input back; an image keeps or loses a whole
    branch.
    """
    torch.manual_seed(0)
    model = MODELS["vit_tiny"](10, 8).train()
    set_drop_path(model, 0.4)
    assert rates(model) == pytest.approx([0.4 * block / 11 for block in range(12)])
    block, n = model.encoder.layers[-1], 4000
    tokens = torch.randn(1, 5, 192).expand(n, 5, 192)
    with torch.no_grad():
        out = block(tokens)
    kept = (out != tokens).flatten(1).any(1)
    # Both branches are gone with probability 0.4^2; five standard errors.
    assert abs(1 - float(kept.float().mean()) - 0.16) < 5 * (0.16 * 0.84 / n) ** 0.5
    attention_gone = torch.isclose(block.eval()(tokens[:1]) - tokens[:1], out - tokens).flatten(1)
    assert not attention_gone.all(), "what is kept is scaled by 1 / 0.6"
    first = model.encoder.layers[0].train()
    assert torch.equal(first(tokens[:9]), first.eval()(tokens[:9]))


@pytest.mark.parametrize("arch", HAVE)
def test_the_branches_of_a_block_are_torchvisions_operation_at_its_rate(arch):
    """Zero with the probability of the rate, else scaled, for each image."""
    model = skeleton(arch, 10, 32)
    set_drop_path(model, 0.5)
    layer, name = stochastic_depths(model)[-1]
    assert (getattr(layer, name), layer.mode) == (0.5, "row")
    torch.manual_seed(0)
    dropped = layer.train()(torch.ones(2000, 3, 2))
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert abs(float((dropped[:, 0, 0] == 0).float().mean()) - 0.5) < 5 * (0.25 / 2000) ** 0.5


def test_a_recipe_sets_the_rates_and_its_default_leaves_them():
    torch.manual_seed(0)
    for rate, wanted in (("own", 0.2), (0.0, 0.0), (0.4, 0.4)):
        model = MODELS["swin_t"](4, 8)
        Trainer(model, FineTune(), make_data(), Recipe(drop_path=rate), Stopwatch(CPU))
        assert max(rates(model)) == pytest.approx(wanted)


def test_timms_layers_are_found_by_their_name():
    class DropPath(nn.Module):
        def __init__(self):
            super().__init__()
            self.drop_prob = 0.0

    model = nn.Sequential(DropPath(), DropPath(), DropPath())
    set_drop_path(model, 0.2)
    assert [layer.drop_prob for layer in model] == pytest.approx([0, 0.1, 0.2])
    with pytest.raises(UserError, match=r"--drop_path 0.2: this architecture has no stochastic"):
        set_drop_path(nn.Linear(2, 2), 0.2)


@pytest.mark.parametrize("arch", ["resnet20s", "torchvision:vit_b_16"])
def test_an_architecture_without_it_is_refused_before_any_work(arch, tmp_path, capsys):
    words = ["--dataset", "digits", "--arch", arch, "--save_dir", tmp_path, "--drop_path", 0.1]
    code = call(main_train.main, *words, "--input_size", 32)
    refused(
        capsys,
        code,
        f"--drop_path 0.1: --arch {arch} has no stochastic depth",
        "give --drop_path own",
    )
    assert not list(tmp_path.iterdir())


def test_methods_that_do_not_train_so_refuse_both_by_name():
    for name, words, said in (
        ("fisher", ["--drop_path", "0.1"], "fisher edits the weights once"),
        ("FT", ["--mixup", "0.1"], "FT does not mix images"),
    ):
        with pytest.raises(UserError, match=said):
            settle(unlearn_request(["--unlearn", name, *words]), None)
    settle(unlearn_request(["--unlearn", "FT", "--drop_path", "0.1"]), None)
    for wrong in ("1", "-0.1", "much"):
        with pytest.raises(UserError, match="drop_path"):
            train_request(["--drop_path", wrong])


def test_retrain_inherits_both_and_says_so(tmp_path, capsys):
    (tmp_path / "small.py").write_text(SMALL)
    arch = ["--arch", f"{tmp_path}/small.py:make", "--device", "cpu", "--save_dir", tmp_path]
    train = ["--dataset", "digits", "--epochs", 1, "--mixup", 0.4, "--drop_path", 0.3]
    assert call(main_train.main, *arch, *train) == 0
    original = ["--model_path", tmp_path / "0model_SA_best.pth.tar", "--forget", "random:130"]
    capsys.readouterr()
    assert call(main_forget.main, *arch, *original, "--unlearn", "retrain") == 0
    said = capsys.readouterr().out
    assert "--mixup=0.4 --drop_path=0.3" in said
    done = result(tmp_path, "retrain")
    assert done["recipe"]["drop_path"] == 0.3
    assert done["hyperparameters"]["mixup"] == 0.4
    assert not [line for line in done["warnings"] if "unlike" in line]
