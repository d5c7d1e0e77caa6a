"""What the sources of the methods did: their recipes, presets and orders, as the flags of a run
have them.
"""

import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from helpers import CLASSES, make_data, make_model

import main_forget
import main_train
from arg_parser import unlearn_request
from engine import Trainer
from recipe import Recipe
from runtime.clock import Stopwatch
from stages.saved import read_saved
from stages.settings import LOOP, settle_and_say
from unlearn import METHODS, label_of, label_today
from unlearn.random_label import RandomLabel


def settled(*words):
    """(method, every value of the run) of a command line."""
    request, method = settle_and_say(unlearn_request([str(word) for word in words]))
    return method, SimpleNamespace(**request.values())


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A model of digits, trained for an epoch."""
    folder = tmp_path_factory.mktemp("original")
    setup = ["--dataset", "digits", "--arch", "resnet20s", "--device", "cpu", "--batch_size", "256"]
    assert main_train.main([*setup, "--epochs", "1", "--save_dir", str(folder)]) == 0
    return folder / "0model_SA_best.pth.tar"


def forget(original, folder, *words):
    known = [
        "--model_path",
        str(original),
        "--num_indexes_to_replace",
        "130",
        "--save_dir",
        str(folder),
    ]
    return main_forget.main([*known, *words])


# ------------------------------------------------------------------------------------------ presets


# ------------------------------------------------------------------------------------------ recipes


@pytest.mark.parametrize("name", ["bad_teaching", "amnesiac", "unsir"])
def test_what_was_published_without_augmentation_runs_without_unless_it_is_asked_for(name):
    assert settled("--unlearn", name)[1].no_aug
    assert not settled("--unlearn", name, "--aug")[1].no_aug
    assert not settled("--unlearn", "RL")[1].no_aug


def test_amnesiac_is_the_comparison_of_ssd_s_authors():
    method, args = settled("--unlearn", "amnesiac")
    assert (args.batch_size, args.forget_batch_size) == (128, 128)
    assert (method.unlearn_epochs, method.unlearn_lr, method.optimizer, method.weight_decay) == (
        3,
        1e-4,
        "adam",
        0.0,
    )
    assert (method.order, method.relabel, method.exclude_true) == ("mixed", "once", True)
    assert settled("--unlearn", "amnesiac", "--batch_size", 64)[1].batch_size == 64


def test_bad_teaching_of_sfron_makes_the_updates_of_a_loss_divided_by_the_classes():
    """A plain loop whose divergence is the mean over samples and classes, at K times the rate; here
    K is 4 instead of 10.
    """
    method, args = settled(
        "--unlearn",
        "bad_teaching",
        "--preset",
        "sfron_cifar10",
        "--unlearn_epochs",
        3,
        "--batch_size",
        32,
    )
    assert (10 * method.unlearn_lr, method.weight_decay / 10, method.retain_part) == pytest.approx(
        (0.02, 5e-4, 1.0)
    )
    assert (args.schedule, args.no_aug) == ("cosine", False)
    data, ours, theirs = make_data(count=40), make_model(), make_model().train()
    method.prepare(ours, data, None)
    recipe = Recipe(momentum=args.momentum, schedule=args.schedule)
    trainer, rates = Trainer(ours, method, data, recipe, Stopwatch(data.device)), []
    losses = method.losses

    def watched(*arguments):
        for step in losses(*arguments):
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            yield step

    method.losses = watched
    trainer.fit(lambda *unused: None)
    plain = torch.optim.SGD(
        theirs.parameters(),
        CLASSES * method.unlearn_lr,
        momentum=0.9,
        weight_decay=method.weight_decay / CLASSES,
    )
    good, bad = method.good, method.bad
    data, rates = make_data(count=40), iter(rates)
    for epoch in range(3):
        data.set_epoch(epoch)
        marked = data.forget.joined(data.retain.relabelled(-1 - data.retain.labels))
        for images, labels in marked:
            plain.param_groups[0]["lr"] = CLASSES * next(rates)
            with torch.no_grad():
                teacher = torch.where(
                    labels[:, None] < 0, good(images).softmax(1), bad(images).softmax(1)
                )
            plain.zero_grad()
            (
                F.kl_div(theirs(images).log_softmax(1), teacher, reduction="sum") / teacher.numel()
            ).backward()
            plain.step()
    for a, b, start in zip(
        ours.parameters(), theirs.parameters(), make_model().parameters(), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
        assert not torch.equal(a, start)


# ----------------------------------------------------------------------- the order of random labels


@pytest.mark.parametrize(
    ("dataset", "order"),
    [
        ("cifar10", "sequential"),
        ("svhn", "sequential"),
        ("cifar100", "mixed"),
        ("fashion_mini", "sequential"),
        ("npz", "sequential"),
    ],
)
def test_the_order_of_random_labels_follows_the_data_set(dataset, order):
    method, args = settled("--unlearn", "RL", "--dataset", dataset)
    assert (method.order, args.order, method.relabel) == (order, order, "per_epoch")
    assert (
        settled("--unlearn", "RL", "--dataset", dataset, "--order", "sequential")[0].order
        == "sequential"
    )
    assert settled("--unlearn", "RL", "--dataset", dataset, "--order", "mixed")[0].order == "mixed"
    assert (
        settled("--unlearn", "RL", "--dataset", dataset, "--preset", "salun_readme")[0].order
        == "sequential"
    )
    assert settled("--unlearn", "RL_proximal", "--dataset", dataset)[0].order == "mixed"
    assert settled("--unlearn", "amnesiac", "--dataset", dataset)[0].order == "mixed"


def test_tiny_imagenet_has_the_mixed_order_too():
    assert RandomLabel.by_dataset["tiny_imagenet"] == {"order": "mixed"}


@pytest.mark.parametrize("name", METHODS)
def test_what_a_data_set_changes_is_a_field_and_takes_the_value(name):
    fields = {field.name for field in dataclasses.fields(METHODS[name])}
    for values in METHODS[name].by_dataset.values():
        assert values.keys() <= fields | {*LOOP}
        METHODS[name](**{key: value for key, value in values.items() if key in fields})


def test_help_says_on_which_data_sets_the_order_is_another(capsys):
    with pytest.raises(SystemExit):
        unlearn_request(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        "(RL: sequential; RL on cifar100, RL on tiny_imagenet, RL_proximal, amnesiac: mixed)"
        in shown
    )
    assert re.search("default: 256;.*amnesiac[^;:]*: 128", shown)


def test_a_result_says_which_order_its_data_set_gave(monkeypatch, original, tmp_path):
    monkeypatch.setitem(RandomLabel.by_dataset, "digits", {"order": "mixed"})
    assert (
        forget(original, tmp_path, "--unlearn", "RL", "--unlearn_epochs", "1") == 0
    )  # the data set is the checkpoint's
    assert (
        json.loads((tmp_path / "RLresult.json").read_text())["hyperparameters"]["order"] == "mixed"
    )


@pytest.mark.parametrize(
    "preset", [preset for preset in RandomLabel.presets if preset.startswith("salun_")]
)
def test_presets_of_salun_name_the_density_that_they_cannot_set(preset):
    values, source, _ = RandomLabel.presets[preset]
    assert "mask of density 0." in source
    assert settled("--unlearn", "RL", "--preset", preset)[0].unlearn_lr == values["unlearn_lr"]


# ------------------------------------------------------------------------------------------- labels


def test_the_label_of_the_papers_is_on_the_method_that_they_call_so():
    assert (METHODS["fisher"].label, METHODS["fisher_new"].label) == ("FF-ref", "FF")


@pytest.mark.parametrize(
    ("name", "score", "label"),
    [
        ("RL", None, "RL"),
        ("RL", "saliency", "SalUn"),
        ("RL", "random", "RL+random-mask"),
        ("FT", "saliency", "FT+mask"),
        ("RL", "layers:fc,layer3", "RL+layers:fc,layer3-mask"),
        ("amnesiac", "saliency", "Amnesiac+mask"),
    ],
)
def test_a_label_follows_the_mask(name, score, label):
    assert label_of(METHODS[name], score) == label
    assert label_today(name, label, score is not None) == label
    assert label_today(name, "another", score is not None, score) == label


def test_a_checkpoint_from_before_a_label_is_audited_and_resumed_under_the_new_one(
    original, tmp_path, capsys
):
    words = ["--unlearn", "fisher", "--fisher_samples", "20"]
    assert forget(original, tmp_path, *words) == 0
    file = tmp_path / "fishercheckpoint.pth.tar"
    fresh, content = read_saved(file, "models"), torch.load(file, weights_only=True)
    torch.save(
        {**content, "label": "FF", "identity": {**content["identity"], "method": "FF"}}, file
    )
    older = read_saved(file, "models")
    assert fresh.label == older.label == "FF-ref"
    assert fresh.key == older.key
    capsys.readouterr()
    assert forget(original, tmp_path, *words, "--resume") == 0
    assert "finished already" in capsys.readouterr().out
    assert read_saved(original, "original").label == "Original"


# ------------------------------------------------------------------------------------------- claims


def test_nothing_claims_that_the_one_vector_solver_reproduces_published_rows():
    """It runs on other images than the reference's; whoever takes over an alpha is told."""
    root = Path(__file__).parents[2]
    pages = "".join(page.read_text() for page in [root / "README.md", *root.glob("docs/*.md")])
    told = METHODS["wfisher"].__doc__
    assert "reproduc" not in told
    paragraphs = [part for part in pages.split("\n\n") if "one_vector" in part]
    assert paragraphs
    assert not [part for part in paragraphs if "reproduc" in part]
    for text in (pages, told):
        assert "first 1,002 of the" in " ".join(text.split())
        assert "does not carry over" in " ".join(text.split())


@pytest.mark.parametrize(
    "name", ["RL_proximal", "amnesiac", "FT_prune_bi", "GA_prune", "GA_prune_bi", "lfssd"]
)
def test_a_method_made_from_another_has_presets_and_data_sets_of_its_own(name):
    """Those of the other ran something else."""
    method = METHODS[name]
    for base in set(METHODS.values()) & set(method.__mro__[1:]):
        assert not base.presets.keys() & method.presets.keys()
        assert not base.by_dataset.keys() & method.by_dataset.keys()
