"""engine.run: the order of a run, what a mask freezes whatever a method does, and that each field
of a recipe is consumed.
"""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import make_data, make_image_set, make_model

import engine
from arg_parser import train_request, unlearn_request
from engine import run
from recipe import Recipe
from stages.records import recorded_recipe
from stages.settings import recipe_of, recipe_of_method, settle
from unlearn.base import Iterative, OneShot, cross_entropy_steps
from unlearn.finetune import FineTune
from unlearn.random_label import RandomLabel


def half_mask(model):
    draw = torch.Generator().manual_seed(1)
    return {name: torch.rand(p.shape, generator=draw) < 0.5 for name, p in model.named_parameters()}


def weights_of(model):
    return {name: p.detach().clone() for name, p in model.named_parameters()}


@torch.no_grad()
def add_one(model):
    for parameter in model.parameters():
        parameter += 1


class Edit(OneShot):
    """Changes every weight at once."""

    def edit(self, model, data):
        add_one(model)
        return {"edited": 1}


@dataclasses.dataclass
class Everywhere(Iterative):
    """Changes every weight before, in and after its epochs, and notes the order of its calls."""

    splits = ("retain",)
    unlearn_epochs: int = 2
    unlearn_lr: float = 0.01

    def prepare(self, model, data, mask):
        self.calls = ["prepare"]
        add_one(model)

    def losses(self, model, data, epoch):
        self.calls.append(f"epoch {epoch}")
        yield from cross_entropy_steps(model, data.retain)

    def finish(self, model, data):
        self.calls.append("finish")
        add_one(model)
        return {"finished": 1}


@pytest.mark.parametrize("kind", [Edit, Everywhere])
def test_frozen_weights_keep_every_bit_whatever_a_method_does_before_in_and_after_its_epochs(kind):
    model, data = make_model(), make_data(count=20)
    before, mask = weights_of(model), half_mask(model)
    run(model, kind(), data, Recipe(), mask)
    for name, after in weights_of(model).items():
        assert torch.equal(after[~mask[name]], before[name][~mask[name]])
        assert (after[mask[name]] != before[name][mask[name]]).all()


def test_the_order_of_a_run_and_what_it_returns():
    method, model = Everywhere(), make_model()
    seen = []
    extra, state = run(
        model,
        method,
        make_data(count=20),
        Recipe(),
        after_epoch=lambda epoch, stats, state: seen.append(state()["epoch"]),
    )
    assert method.calls == ["prepare", "epoch 0", "epoch 1", "finish"]
    assert seen == [1, 2]
    assert extra == {"finished": 1}
    assert state["epoch"] == 2
    assert run(make_model(), Edit(), make_data(count=20), Recipe()) == ({"edited": 1}, {})


def test_a_state_that_does_not_fit_is_named():
    model, data = make_model(), make_data(count=20)
    _, state = run(model, FineTune(unlearn_epochs=1), data, Recipe())
    del state["scheduler"]
    with pytest.raises(engine.UnfitState, match="KeyError: 'scheduler'"):
        run(make_model(), FineTune(unlearn_epochs=2), data, Recipe(), state=state)


def test_a_run_that_goes_on_ends_where_one_that_never_stopped_does():
    data = {"count": 20, "batch_size": 16}
    straight, stopped, resumed = make_model(), make_model(), make_model()
    recipe = Recipe(schedule="cosine", batch_size=16)
    run(straight, FineTune(unlearn_epochs=3), make_data(**data), recipe)
    states = []
    run(
        stopped,
        FineTune(unlearn_epochs=3),
        make_data(**data),
        recipe,
        until=1,
        after_epoch=lambda *seen: states.append(seen[2]()),
    )
    run(resumed, FineTune(unlearn_epochs=3), make_data(**data), recipe, state=states[0])
    assert all(
        torch.equal(a, b)
        for a, b in zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True)
    )


# ------------------------------------------------------------------- every field of a recipe counts

# All but the hash of --init's file, which tests/stages/test_initial.py is about.
FIELDS = [field.name for field in dataclasses.fields(Recipe) if field.name != "init"]
# tests/models/test_drop_path.py has networks that read this one.
READ_BY_ALL = [name for name in FIELDS if name != "drop_path"]
# Two values of each field that end in other weights, beside the rest of the recipe that lets them.
OTHER = {
    "batch_size": ({}, 16, 24),
    "momentum": ({}, 0.9, 0.5),
    "schedule": ({}, "constant", "cosine"),
    "warmup": ({}, 0, 1),
    "milestones": ({"schedule": "multistep"}, (1,), (2,)),
    "final_lr": ({"schedule": "cosine"}, 0.0, 0.01),
    "clip_norm": ({}, 0.0, 0.1),
    "accumulate": ({}, 1, 2),
    "augment": ({}, True, False),
    "tail": ({}, "spread", "keep"),
    "select": ({}, "last", "best"),
    "decay": ({}, "all", "weights"),
    "precision": ({}, "fp32", "bf16"),
    "forget_batch_size": ({}, 16, 8),
}


def trained(recipe):
    """The weights that random labels end with by a recipe, on data that are read by it; the best
    epoch is made to be the first.
    """
    model = make_model()
    options = recipe.batches()
    data = make_data(make_image_set(90, flip=True), count=20, **options)
    with pytest.MonkeyPatch.context() as patch:
        scores = iter([90.0, 50.0])
        patch.setattr(engine, "accuracy", lambda *outputs: next(scores))
        run(model, RandomLabel(unlearn_epochs=2, unlearn_lr=0.05), data, recipe)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("field", READ_BY_ALL)
def test_every_field_of_a_recipe_is_consumed(field):
    rest, one, other = OTHER[field]
    plain = Recipe(**{"batch_size": 16, "forget_batch_size": 16} | rest)
    first, again, second = (
        trained(dataclasses.replace(plain, **{field: value})) for value in (one, one, other)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


# The words that set each field, and its value then.
TYPED = {
    "batch_size": (["--batch_size", "32"], 32),
    "momentum": (["--momentum", "0.5"], 0.5),
    "schedule": (["--schedule", "cosine"], "cosine"),
    "warmup": (["--warmup", "3"], 3),
    "milestones": (["--schedule", "multistep", "--decreasing_lr", "2,4"], (2, 4)),
    "final_lr": (["--schedule", "cosine", "--final_lr", "0.001"], 0.001),
    "clip_norm": (["--clip_norm", "2"], 2.0),
    "accumulate": (["--accumulate", "4"], 4),
    "augment": (["--no-aug"], False),
    "tail": (["--tail", "drop"], "drop"),
    "select": (["--select", "best"], "best"),
    "decay": (["--decay", "weights"], "weights"),
    "drop_path": (["--drop_path", "0.3"], 0.3),
    "precision": ([], "bf16"),
    "forget_batch_size": (["--forget_batch_size", "8"], 8),
}


@pytest.mark.parametrize("field", FIELDS)
def test_every_field_of_a_recipe_is_what_was_typed(field):
    words, wanted = TYPED[field]
    unlearning, _ = settle(unlearn_request(["--unlearn", "RL", *words]), None)
    method = RandomLabel()
    found = {
        "RL": recipe_of_method(unlearning, method, "bf16"),
        "training": recipe_of(train_request(words), 5, from_scratch=True, precision="bf16"),
    }
    if field == "select":  # an epoch is chosen where a model is trained from scratch
        assert getattr(found.pop("RL"), field) is None
    if field == "forget_batch_size":
        del found["training"]
    for recipe in found.values():
        assert np.array_equal(getattr(recipe, field), wanted)
    written = recorded_recipe(method, found.get("RL", found.get("training")))
    assert np.array_equal(written[field], wanted)
