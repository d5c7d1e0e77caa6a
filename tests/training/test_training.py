"""Phases, edited gradients, clip and gate by step, a length in updates: methods of toys.py against
a plain loop, and stopped and resumed.
"""

import copy
import io

import pytest
import torch
from helpers import CPU, ITERATIVE, make_data, make_model, random_mask, same, small
from toys import Alternate, Pair, by_hand

from engine import Trainer, UnfitState, run
from masks.gate import SaliencyGate
from recipe import Recipe
from runtime.clock import Stopwatch


def started(method, model, data, mask=None, **recipe):
    gate = SaliencyGate(model, mask) if mask else None
    method.prepare(model, data, mask)
    return Trainer(model, method, data, Recipe(**recipe), Stopwatch(CPU), gate)


@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"edit": False},
        {"gated": False},
        {"own": False, "gated": False},
    ],
    ids=str,
)
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_two_phases_are_those_of_a_plain_loop(fields, masked, accumulate):
    """With one optimizer both phases share its momentum and a constant rate."""
    method = Alternate(**fields)
    model, reference, data = make_model(), make_model(), make_data(batch_size=30)
    assert len(data.retain) % accumulate == {1: 0, 2: 1, 3: 2}[accumulate], "an update is short"
    mask = random_mask(model) if masked else None
    schedule = "cosine" if method.own else "constant"
    recipe = Recipe(clip_norm=0.3, accumulate=accumulate, schedule=schedule)
    run(model, method, data, recipe, mask)
    by_hand(
        method,
        make_data(batch_size=30),
        reference,
        accumulate=accumulate,
        clip_norm=0.3,
        mask=mask,
    )
    moved = 0.0
    start = dict(make_model().named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter, reference.get_parameter(name), rtol=1e-3, atol=2e-5, msg=name
        )
        moved = max(moved, float((parameter - start[name]).abs().max().detach()))
        if masked:
            frozen = ~mask[name]
            kept = torch.equal(parameter[frozen], start[name][frozen])
            assert kept == method.gated, name
    assert moved > 0.01


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize(
    "make",
    [
        Alternate,
        lambda: Alternate(gated=False),
        lambda: Alternate(own=False),
        lambda: Alternate(unlearn_steps=15),
        Pair,
    ],
    ids=["phases", "not gated", "one optimizer", "by updates", "pair"],
)
def test_a_stopped_run_goes_on_bit_for_bit(make, masked, precision):
    """Stopped after the first epoch, and gone on in new objects from what a file holds."""
    recipe = {"accumulate": 2, "precision": precision, "schedule": "cosine", "clip_norm": 0.5}
    mask = random_mask(make_model()) if masked else None
    whole, first, resumed = make_model(), make_model(), make_model()
    started(make(), whole, make_data(batch_size=16), mask, **recipe).fit(lambda *unused: None)
    trainer = started(make(), first, make_data(batch_size=16), mask, **recipe)
    trainer.fit(lambda *unused: None, until=1)
    file = io.BytesIO()
    torch.save(trainer.state(1), file)
    file.seek(0)
    trainer = started(make(), resumed, make_data(batch_size=16), mask, **recipe)
    trainer.restore(torch.load(file, weights_only=True))
    trainer.fit(lambda *unused: None)
    assert same(whole, resumed)
    assert not same(whole, first)


def test_a_state_without_the_second_optimizer_does_not_fit():
    trainer = started(Alternate(own=False), make_model(), make_data())
    method = Alternate()
    with pytest.raises(UnfitState, match="forget"):
        run(make_model(), method, make_data(), Recipe(), state=trainer.state(1))


@pytest.mark.parametrize("wanted", [1, 8, 9, 13, 16, 17])
def test_a_run_of_so_many_updates_makes_them(wanted):
    """Eight updates an epoch. The rate is a cosine over the run, and the last epoch is the
    beginning of a whole one.
    """
    data, model, rates, stats = make_data(batch_size=32), make_model(), [], []
    method = Alternate(unlearn_steps=wanted, own=False)
    assert method.steps(data, 0) == 8
    trainer = started(method, model, data, schedule="cosine", momentum=0.0)
    trainer.optimizer.register_step_pre_hook(
        lambda optimizer, *unused: rates.append(optimizer.param_groups[0]["lr"])
    )
    trainer.fit(lambda epoch, each: stats.append(epoch))
    assert len(rates) == wanted
    assert trainer.epochs == len(stats) == -(-wanted // 8)
    cosine = torch.tensor([(i + 0.5) / wanted for i in range(wanted)]).mul(torch.pi).cos()
    assert rates == pytest.approx((0.05 * (1 + cosine) / 2).tolist(), rel=1e-5)


def test_updates_are_counted_and_not_steps():
    for wanted, epochs in ((3, 1), (4, 1), (5, 2)):
        model, seen = make_model(), []
        trainer = started(
            Alternate(unlearn_steps=wanted), model, make_data(batch_size=32), accumulate=2
        )
        update = trainer.updater.update_if_due
        trainer.updater.update_if_due = lambda phase, update=update, seen=seen: (
            seen.append(update(phase)) or seen[-1]
        )
        trainer.fit(lambda *unused: None)
        assert (sum(seen), trainer.epochs) == (wanted, epochs)


def test_steps_of_one_update_agree_in_clip_and_gate():
    class Odd(Alternate):
        def losses(self, model, data, epoch):
            for number, step in enumerate(super().losses(model, data, epoch)):
                yield step._replace(phase="retain", gated=number % 2 == 0)

    with pytest.raises(AssertionError, match="differ in clip or gated"):
        run(make_model(), Odd(), make_data(), Recipe(accumulate=2))
    run(make_model(), Odd(), make_data(), Recipe())


def test_frozen_weights_stay_where_steps_that_are_not_gated_left_them():
    """Whatever the last steps were: no gated step takes back what another has moved."""
    model, original = make_model(), make_model()
    mask = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in model.named_parameters()}
    seen = []

    class Watched(Alternate):
        def losses(self, model, data, epoch):
            for step in super().losses(model, data, epoch):
                before = copy.deepcopy(model)
                yield step
                seen.append((step.phase, same(before, model)))

    run(model, Watched(gated=False, own=False), make_data(), Recipe(momentum=0.0), mask)
    assert set(seen) == {("forget", False), ("retain", True)}
    assert not same(model, original)


@pytest.mark.parametrize("name", ITERATIVE)
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_without_weight_decay_it_is_one_run_which_weights_decay(name, masked):
    """``decay`` "weights" orders the optimizer's parameters otherwise than the model has them."""
    ends = []
    for decay in ("all", "weights"):
        method = small(name)
        method.weight_decay = 0.0
        model, data = make_model(), make_data(class_to_forget=1 if name == "unsir" else -1)
        mask = random_mask(model) if masked else None
        run(model, method, data, Recipe(clip_norm=0.5, decay=decay), mask)
        ends.append(model)
    assert same(*ends)
