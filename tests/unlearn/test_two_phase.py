"""DualOptim: an optimizer of their own for the forget steps of RL and SCRUB, against plain loops
in fp64, where a bias before BatchNorm has no rounding for Adam to scale up.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import check_resume, make_data, make_model, random_mask, run, settled

from arg_parser import unlearn_request
from stages.records import unrecorded
from stages.settings import settle
from unlearn import METHODS, method_listing, method_table, presets_of
from unlearn.random_label import RandomLabel
from unlearn.scrub import Scrub
from unlearn.tools.two_phase import SETTINGS, TwoPhase
from utils import UserError

EPOCHS = 3
SHARED = {"unlearn_epochs": EPOCHS, "unlearn_lr": 0.02}
OWN = {
    "sgd": lambda p: torch.optim.SGD(p, 0.005, momentum=0.9, weight_decay=5e-4),
    "adam": lambda p: torch.optim.Adam(p, 0.005, weight_decay=5e-4),
    "adamw": lambda p: torch.optim.AdamW(p, 0.005, weight_decay=0.05),
}


@pytest.fixture
def double(monkeypatch):
    """The working precision becomes fp64; the code asks for it as ``float()``."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def sgd(parameters):
    return torch.optim.SGD(parameters, 0.02, momentum=0.9, weight_decay=5e-4)


def plain_random_labels(method, model, own, mask=None, cosine=False):
    """RL in sequential order in a plain loop; ``own`` makes the forget steps' optimizer, None: the
    retain steps' makes them too.
    """
    data, start = make_data(), {n: p.detach().clone() for n, p in model.named_parameters()}
    retain = sgd(model.parameters())
    forget = own(model.parameters()) if own else retain
    model.train()
    for epoch in range(EPOCHS):
        data.set_epoch(epoch)
        wrong = data.forget.relabelled(method.random_labels(data))
        for optimizer, loader, rate in ((forget, wrong, 0.005), (retain, data.retain, 0.02)):
            for number, (images, labels) in enumerate(loader):
                if cosine:
                    share = (epoch + (number + 0.5) / len(loader)) / EPOCHS
                    optimizer.param_groups[0]["lr"] = rate * (1 + math.cos(math.pi * share)) / 2
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
                with torch.no_grad():
                    for name, parameter in model.named_parameters() if mask else ():
                        parameter.copy_(torch.where(mask[name], parameter, start[name]))
    return model


def apart(a, b):
    """How far two models are apart, as a share of the way from the original to the second."""
    a, b, c = (
        torch.cat([p.detach().flatten() for p in model.parameters()])
        for model in (a, b, make_model())
    )
    return float((a - b).norm() / (b - c).norm())


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("kind", OWN)
def test_two_optimizers_are_a_plain_loop_of_two_and_not_of_one(kind, masked, double):
    mask = random_mask(make_model()) if masked else None
    method = RandomLabel(**SHARED, forget_optimizer=kind, forget_lr=0.005)
    ours = run(method, make_model(), make_data(), mask)
    assert apart(ours, plain_random_labels(method, make_model(), OWN[kind], mask)) < 1e-9
    assert apart(ours, plain_random_labels(method, make_model(), None, mask)) > 1e-2


def test_one_optimizer_shares_the_momentum_and_two_of_one_kind_do_not(double):
    """At the same rate and decay, momentum is all that is left to share."""
    one = run(RandomLabel(**SHARED), make_model(), make_data())
    two = RandomLabel(**SHARED, forget_optimizer="sgd", forget_lr=0.02)
    assert apart(one, plain_random_labels(two, make_model(), None)) < 1e-9
    assert apart(run(two, make_model(), make_data()), one) > 1e-2
    without = run(RandomLabel(**SHARED), make_model(), make_data(), momentum=0.0)
    own = run(two, make_model(), make_data(), momentum=0.0)
    assert apart(own, without) < 1e-9


def test_each_optimizer_follows_the_schedule_by_its_own_updates(double):
    method = RandomLabel(**SHARED, forget_optimizer="sgd", forget_lr=0.005)
    ours = run(method, make_model(), make_data(), schedule="cosine")
    assert apart(ours, plain_random_labels(method, make_model(), OWN["sgd"], cosine=True)) < 1e-9


def test_scrub_climbs_with_one_and_descends_with_the_other(double):
    common = {"unlearn_epochs": 2, "unlearn_lr": 0.01, "weight_decay": 0.05, "msteps": 1}
    values = {"temperature": 1.0, "gamma": 1.0, "alpha": 0.5, "optimizer": "adamw"}
    method = Scrub(**common, **values, forget_optimizer="adamw", forget_lr=0.005)
    ours = run(method, make_model(), make_data())
    data, model, teacher = make_data(), make_model().train(), make_model().eval()
    climb = torch.optim.AdamW(model.parameters(), 0.005, weight_decay=0.05)
    descend = torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.05)

    def distance(images, logits):
        with torch.no_grad():
            p = teacher(images).softmax(1)
        return (p * (p.log() - logits.log_softmax(1))).sum(1).mean()

    for epoch in range(2):
        data.set_epoch(epoch)
        for images, _ in data.forget if epoch < 1 else ():
            climb.zero_grad()
            (-distance(images, model(images))).backward()
            climb.step()
        for images, labels in data.retain:
            logits = model(images)
            descend.zero_grad()
            (F.cross_entropy(logits, labels) + 0.5 * distance(images, logits)).backward()
            descend.step()
    assert apart(ours, model) < 1e-7  # Adam scales rounding up


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("method", [RandomLabel, Scrub])
def test_a_resumed_run_has_both_optimizers_back(method, masked):
    mask = random_mask(make_model()) if masked else None
    own = {"forget_optimizer": "adamw", "forget_lr": 1e-3}
    check_resume(lambda: method(**SHARED, **own), mask)


def test_the_default_is_one_optimizer_in_one_phase():
    for method in (RandomLabel(), Scrub()):
        data, model = make_data(), make_model()
        method.prepare(model, data, None)
        assert {step.phase for step in method.losses(model, data, 0)} == {"retain"}
        assert method.forget_steps(data, 0) == 0
    record = unrecorded({})
    assert (record["forget_optimizer"], record["forget_lr"]) == ("same", 0.0)


def test_scrub_has_no_forget_phase_after_its_first_epochs():
    method, data = Scrub(forget_optimizer="adamw", forget_lr=1e-4, msteps=1), make_data()
    assert [method.forget_steps(data, epoch) for epoch in (0, 1)] == [len(data.forget), 0]


# ----------------------------------------------------------------------------------------- refusals


def method_of(*words):
    """The method that a command line makes."""
    return settle(unlearn_request([*words]), None)[0].method()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"forget_optimizer": "adamw"}, "--forget_optimizer adamw needs --forget_lr above 0"),
        ({"forget_lr": 1e-3}, "--forget_lr 0.001 is of --forget_optimizer"),
        (
            {"forget_optimizer": "adamw", "forget_lr": 1e-3, "order": "mixed"},
            "RL in order mixed with --retain_weight 1 has one phase; add --order sequential",
        ),
        (
            {"forget_optimizer": "sgd", "forget_lr": 1e-3, "retain_weight": 0.0},
            "--retain_weight 0 has one phase",
        ),
    ],
)
def test_halves_and_one_phase_orders_are_refused(fields, said):
    with pytest.raises(UserError, match=said):
        RandomLabel(**fields)


@pytest.mark.parametrize(("flag", "value"), [("forget_optimizer", "adamw"), ("forget_lr", "1e-4")])
def test_a_flag_of_the_forget_phase_is_refused_by_name_where_there_is_none(flag, value, capsys):
    for name in ("FT", "ct", "GA", "ssd"):
        words = ["--unlearn", name, f"--{flag}", value, "--class_to_replace", "1"]
        with pytest.raises(UserError, match=f"--{flag}: {name} has one phase; allowed with RL, "):
            settled(*words)


def test_mixed_order_by_data_set_is_refused_too_with_the_remedy():
    words = ["--unlearn", "RL", "--dataset", "cifar100", "--forget_optimizer", "adamw"]
    words += ["--forget_lr", "1e-4"]
    with pytest.raises(UserError, match="add --order sequential"):
        method_of(*words)
    assert method_of(*words, "--order", "sequential").order == "sequential"


# -------------------------------------------------------------------------------- presets and table


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["RL", "scrub"])
def test_the_published_rates_make_a_method(name, setting):
    preset = f"dualoptim_{setting}"
    assert "DualOptim" in presets_of(METHODS[name])[preset].source
    words = ["--unlearn", name, "--preset", preset, "--dataset", "cifar100"]
    assert method_of(*words).forget_optimizer == "adamw"
    values = settled(*words)[0]
    assert 2e-6 < values.forget_lr < 2e-4
    assert (values.batch_size, values.forget_batch_size, values.unlearn_epochs) == (128, 128, 10)


def test_the_plug_in_stands_below_the_table_and_in_no_row():
    listed, table = method_listing(), method_table()
    assert listed.startswith(table)
    assert "forget_optimizer" not in table
    below = listed[len(table) :]
    assert "--forget_optimizer" in below
    for name, method in METHODS.items():
        assert (f"`{name}`" in below) == issubclass(method, TwoPhase)
