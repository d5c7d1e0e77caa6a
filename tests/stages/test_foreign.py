"""Models from elsewhere: files as other tools save them, and a user's own architecture."""

import sys

import pytest
import torch
from helpers import SETUP, call, forget, refused, result, weights

import evaluate
import generate_mask
import main_forget
import main_train
from models import build_model
from stages import outputs
from stages.classifier import load_classifier
from stages.state_dicts import Misfit, fitted, weights_in

NET = """
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, images):
        return self.head(self.model(images).mean((2, 3)))


def net(classes):
    return Net(classes)


def chain(classes):
    pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), *pooled)


def fails(classes):
    raise ValueError("no weights")


def number(classes):
    return classes


def leaves(classes):
    raise SystemExit(0)


def lazy(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def image(classes):
    return nn.Conv2d(3, classes, 3)
"""

WIDE = """

def wide(classes):
    net = Net(classes)
    net.head = nn.Sequential(nn.Linear(8, 9), nn.Linear(9, classes))
    return net
"""


def weights_of(content):
    (weights,) = weights_in(content).values()
    return weights


def plain_weights():
    model = build_model("resnet20s", 10, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    return model.state_dict()


@pytest.mark.parametrize(
    "prefix",
    ["", "module.", "_orig_mod.", "module._orig_mod.", "model.module.", "_orig_mod.model."],
)
@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "net", "model_state_dict"])
def test_wrappers_and_prefixes_are_taken_off(prefix, wrapper):
    wanted = plain_weights()
    content = {prefix + name: value.clone() for name, value in wanted.items()}
    content = {wrapper: content, "epoch": 3} if wrapper else content
    found, unnormalised = fitted(weights_of(content), wanted)
    assert not unnormalised
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_models_own_names_may_begin_like_a_wrapper():
    wanted = {"model.0.weight": torch.ones(2), "model.1.weight": torch.zeros(2)}
    found, _ = fitted({f"module.{name}": value for name, value in wanted.items()}, wanted)
    assert found.keys() == wanted.keys()


def test_counters_and_normalisation_may_be_missing_and_nothing_else():
    wanted = plain_weights()
    less = {name: value for name, value in wanted.items() if "num_batches" not in name}
    found, unnormalised = fitted(less, wanted)
    assert (found.keys(), unnormalised) == (wanted.keys(), False)
    bare = {name: value for name, value in less.items() if "normalize" not in name}
    found, unnormalised = fitted(bare, wanted)
    assert unnormalised
    assert torch.equal(found["normalize.mean"], wanted["normalize.mean"])
    with pytest.raises(
        Misfit, match=r"layer1.0.bn1.running_var is missing in the file and \(16,\)"
    ):
        fitted({name: bare[name] for name in bare if name != "layer1.0.bn1.running_var"}, wanted)
    with pytest.raises(Misfit, match=r"fc.bias is \(4,\) in the file and \(10,\) in the model"):
        fitted(bare | {"fc.bias": torch.zeros(4), "fc.weight": torch.zeros(4, 64)}, wanted)
    for content in ([], {"model": 3}, {"state_dict": {}}, {"a": torch.zeros(1), "b": 2}):
        assert not weights_in(content)


def test_a_file_with_several_state_dictionaries_says_which_is_taken(original, tmp_path, capsys):
    kept = weights(original)
    torch.save({"model": {"state_dict": kept}}, tmp_path / "nested.pt")
    torch.save({"net": kept, "model": kept}, tmp_path / "two.pt")
    torch.save({**kept, **{f"module.{name}": kept[name] for name in kept}}, tmp_path / "twice.pt")
    torch.save({name: kept[name].half() for name in kept}, tmp_path / "half.pt")
    said = {}
    for name in ("nested", "two", "half"):
        assert forget(tmp_path / f"{name}.pt", tmp_path / name, "--unlearn", "raw") == 0
        said[name] = capsys.readouterr().out
    first, second = (result(tmp_path / name, "raw")["metrics"] for name in ("nested", "two"))
    assert first == second
    assert "holds weights under model, net: those under model are taken" in said["two"]
    assert "holds float16 weights: converted to float32" in said["half"]
    assert "holds float" not in said["nested"]
    twice = forget(tmp_path / "twice.pt", tmp_path / "x", "--unlearn", "raw")
    refused(capsys, twice, "twice, with module.")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original")
    assert call(main_train.main, *SETUP, "--epochs", 1, "--save_dir", folder) == 0
    return folder / "0model_SA_best.pth.tar"


def test_a_file_without_normalisation_gets_the_data_sets_or_what_is_typed(
    original, tmp_path, capsys
):
    kept = weights(original)
    bare = {name: value for name, value in kept.items() if not name.startswith("normalize.")}
    torch.save(bare, tmp_path / "bare.pt")
    assert forget(tmp_path / "bare.pt", tmp_path / "own", "--unlearn", "raw") == 0
    assert "bare.pt holds no normalisation: its images are normalised by mean" in (
        capsys.readouterr().out
    )
    assert forget(original, tmp_path / "ours", "--unlearn", "raw") == 0
    own, ours = (result(tmp_path / name, "raw")["metrics"] for name in ("own", "ours"))
    assert own == ours
    typed = ["--mean", "0.1,0.2,0.3", "--std", "0.5"]
    assert forget(tmp_path / "bare.pt", tmp_path / "typed", "--unlearn", "raw", *typed) == 0
    saved = weights(tmp_path / "typed/rawcheckpoint.pth.tar")
    assert saved["normalize.mean"].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert saved["normalize.std"].tolist() == [0.5] * 3
    refused(
        capsys,
        forget(original, tmp_path / "no", "--unlearn", "raw", *typed),
        "holds its own normalisation",
        "drop the flags",
    )
    for wrong in ("--mean=1,2", "--std=0", "--std=a,b,c"):
        refused(capsys, forget(original, tmp_path / "no", "--unlearn", "raw", wrong), wrong[:5])


def test_safetensors_are_read_or_the_install_command_is_said(
    original, tmp_path, monkeypatch, capsys
):
    from safetensors.torch import save_file

    packed = {name: value.contiguous() for name, value in weights(original).items()}
    save_file(packed, tmp_path / "a.safetensors")
    assert forget(tmp_path / "a.safetensors", tmp_path / "x", "--unlearn", "raw") == 0
    assert forget(original, tmp_path / "y", "--unlearn", "raw") == 0
    first, second = (result(tmp_path / name, "raw")["metrics"] for name in "xy")
    assert first == second
    (tmp_path / "b.safetensors").write_bytes(b"PK not that")
    refused(
        capsys, forget(tmp_path / "b.safetensors", tmp_path / "z", "--unlearn", "raw"), "readable"
    )
    monkeypatch.setitem(sys.modules, "safetensors", None)
    refused(
        capsys,
        forget(tmp_path / "a.safetensors", tmp_path / "z", "--unlearn", "raw"),
        "pip install safetensors",
    )


@pytest.mark.parametrize("name", ["net", "chain"])
def test_a_users_architecture_goes_through_the_steps(name, tmp_path, capsys):
    file = tmp_path / "own.py"
    file.write_text(NET)
    own = ["--dataset", "digits", "--device", "cpu", "--arch", f"{file}:{name}"]
    assert call(main_train.main, *own, "--epochs", 1, "--save_dir", tmp_path) == 0
    model = tmp_path / "0model_SA_best.pth.tar"
    task = [*own[2:], "--model_path", model, "--num_indexes_to_replace", 100]
    task += ["--save_dir", tmp_path]
    assert call(generate_mask.main, *task) == 0
    mask = ["--mask_path", tmp_path / "with_0.5.pt", "--unlearn_epochs", 1]
    assert call(main_forget.main, *task, "--unlearn", "salun", *mask) == 0
    assert call(main_forget.main, *task, "--unlearn", "retrain", "--epochs", 1) == 0
    before, after = weights(model), weights(tmp_path / "RLcheckpoint.pth.tar")
    frozen = {k: ~v for k, v in torch.load(tmp_path / "with_0.5.pt", weights_only=True).items()}
    assert all(torch.equal(before[k][keep], after[k][keep]) for k, keep in frozen.items())
    assert any(not torch.equal(before[k], after[k]) for k in frozen)
    capsys.readouterr()
    without = [*own[2:4], *task[4:]]
    refused(
        capsys, call(main_forget.main, *without, "--unlearn", "FT"), f"type --arch {file}:{name}"
    )
    with pytest.raises(Exception, match="type --arch"):
        load_classifier(model)
    classifier = load_classifier(model, arch=f"{file}:{name}")
    digits = torch.rand(2, 3, 8, 8)
    assert classifier.model(digits).shape == (2, 10)
    mean = classifier.model.normalize.mean
    torch.testing.assert_close(mean, before["normalize.mean"])
    shifted = classifier.model(digits)
    classifier.model.normalize.mean += 1  # it is what the images pass through
    assert not torch.equal(classifier.model(digits), shifted)


def test_an_audit_with_another_architecture_names_the_first_difference(
    tmp_path, capsys, monkeypatch
):
    (tmp_path / "own.py").write_text(NET + WIDE)
    own = ["--dataset", "digits", "--device", "cpu", "--arch", f"{tmp_path}/own.py:net"]
    words = ["--unlearn", "retrain", "--forget", "random:100", "--unlearn_epochs", 1]
    assert call(main_forget.main, *own, *words, "--save_dir", tmp_path) == 0
    file = tmp_path / "retraincheckpoint.pth.tar"
    named = ["--models", file, "--device", "cpu", "--save_dir", tmp_path, "--arch"]
    capsys.readouterr()
    monkeypatch.setattr(outputs, "load_dataset", None)  # refused before data are read
    for name, first in (("wide", "head.0.bias"), ("chain", "0.bias")):
        arch = f"{tmp_path}/own.py:{name}"
        said = f"--models {file} does not fit --arch {arch}: {first} is "
        refused(capsys, call(evaluate.main, *named, arch), said, "--arch it was trained with")
    monkeypatch.undo()
    assert call(evaluate.main, *named, f"{tmp_path}/own.py:net") == 0


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("own.py:fails", "ValueError: no weights"),
        ("own.py:number", "returns a int; an nn.Module is wanted"),
        ("own.py:image", "logits of shape (2, 10) are wanted"),
        ("own.py:nothing", "has no function nothing; it has Net, net"),
        ("gone.py:net", "there is no file"),
        ("broken.py:net", "SyntaxError"),
        ("own.py:leaves", "SystemExit"),
        ("own.py:lazy", "has lazy layers"),
    ],
)
def test_an_architecture_that_is_none_is_refused_by_its_reason(spec, said, tmp_path, capsys):
    (tmp_path / "own.py").write_text(NET)
    (tmp_path / "broken.py").write_text("def net(:")
    words = ["--dataset", "digits", "--arch", f"{tmp_path}/{spec}", "--save_dir", tmp_path / "out"]
    refused(capsys, call(main_train.main, *words, "--device", "cpu"), said)
    assert not (tmp_path / "out").exists()


def test_no_record_runs_a_file(original, tmp_path, capsys):
    """Of a checkpoint that names one, as an attacker's would."""
    evil = tmp_path / "evil.py"
    evil.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef net(classes): pass\n")
    content = torch.load(original, weights_only=True)
    content["arguments"]["arch"] = f"{evil}:net"
    torch.save(content, tmp_path / "model.pth.tar")
    model = tmp_path / "model.pth.tar"
    words = ["--unlearn", "raw", "--num_indexes_to_replace", 9, "--model_path", model]
    refused(capsys, call(main_forget.main, *words, "--save_dir", tmp_path), "which runs that file")
    with pytest.raises(Exception, match="which runs that file"):
        load_classifier(model)
    assert not (tmp_path / "ran").exists()
