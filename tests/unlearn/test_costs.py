"""How many images pass through the network and back, against what a method's mathematics needs."""

import pytest
import torch
from helpers import TinyNet, make_data, run

from datasets.splits import validation_halves
from unlearn import METHODS
from unlearn.tools.adversarial import nearest_misclassified
from unlearn.tools.hybrids import partner_count

EPOCHS = 2


class Counted(TinyNet):
    """Counts images that pass forward and gradients that pass back; also in what is copied from
    it.
    """

    seen = {"forward": 0, "backward": 0}

    def forward(self, images):
        self.seen["forward"] += len(images)
        logits = super().forward(images)
        if logits.requires_grad:
            logits.register_hook(self.count_backward)
        return logits

    def count_backward(self, gradient):
        self.seen["backward"] += len(gradient)


def passes(action):
    """(forward, backward): images that ``action`` sends through a fresh model."""
    torch.manual_seed(0)
    model = Counted()
    model.construct = Counted
    Counted.seen.update(dict.fromkeys(Counted.seen, 0))
    action(model)
    return tuple(Counted.seen.values())


def sizes():
    data = make_data()
    return data.forget.num_samples, data.retain.num_samples


OWN = {"sfron": {"unlearn_steps": 0}}


def of_amun(n_f, n_r):
    """The attack sees each image once per iterate of its path."""
    forward, backward = passes(
        lambda model: nearest_misclassified(model, make_data().forget.eval_view(), 0.04, 50)
    )
    method, data = METHODS["amun"](), make_data()
    torch.manual_seed(0)
    method.prepare(Counted(), data, None)
    trained = EPOCHS * (n_f + n_r + len(method.images))
    return forward + trained, backward + trained


def of_sfron(n_f, n_r):
    """The ratio, and a forget batch before each fifth retain step: here one batch holds F."""
    batches = len(make_data().retain)
    climbs = -(-EPOCHS * batches // 5)
    total = n_f + n_r + EPOCHS * n_r + climbs * n_f
    return total, total


def batches_of(loader, count):
    """Images in the first ``count`` batches of a loader that goes on from its start at its end."""
    sizes = [len(labels) for _, labels in loader]
    return sum(sizes[number % len(sizes)] for number in range(count))


def held_out_images():
    data = make_data()
    return len(validation_halves(data.split, data.dataset.y_train)[0])


def of_regun(n_f, n_r):
    """Beside each forget batch one of retain; the original answers the held-out images once."""
    data = make_data()
    trained = EPOCHS * (n_f + batches_of(data.retain, len(data.forget)))
    return held_out_images() + trained, trained


def of_lotus(n_f, n_r):
    """The original answers each batch; an epoch's temperature takes a pass over forget."""
    trained = EPOCHS * (n_f + int(0.3 * n_r))
    return held_out_images() + EPOCHS * n_f + 2 * trained, trained


def of_scissorhands(n_f, n_r):
    """A forget batch for SNIP's score and for each epoch's memory: here it holds F."""
    return (EPOCHS * (n_f + n_r) + (1 + EPOCHS) * n_f,) * 2


def of_uam(n_f, n_r):
    """Each retain batch has one of forget."""
    data = make_data()
    return (EPOCHS * (n_r + batches_of(data.forget, len(data.retain))),) * 2


def of_natmu(n_f, n_r):
    """As many hybrids of each forget image as it has partners; the original ranks F's classes."""
    trained = EPOCHS * (partner_count(make_data()) * n_f + n_r)
    return n_f + trained, trained


NEEDED = {
    **dict.fromkeys(("not", "ct", "cfw"), lambda n_f, n_r: (EPOCHS * n_r,) * 2),
    "msg": lambda n_f, n_r: (2 * n_f + EPOCHS * n_r,) * 2,
    "delete": lambda n_f, n_r: (2 * EPOCHS * n_f, EPOCHS * n_f),
    "sfron": of_sfron,
    "amun": of_amun,
    "regun": of_regun,
    "munba": lambda n_f, n_r: (EPOCHS * (n_f + n_r),) * 2,
    "coun": lambda n_f, n_r: (2 * EPOCHS * n_r,) * 2,
    "lotus": of_lotus,
    "scissorhands": of_scissorhands,
    "negmerge": lambda n_f, n_r: (EPOCHS * n_f,) * 2,
    "uam": of_uam,
    "l2ul": lambda n_f, n_r: ((2 * EPOCHS + 10) * n_f,) * 2,
    "natmu": of_natmu,
}
RECENT = list(METHODS)[list(METHODS).index("not") :]


def test_every_recent_method_is_counted():
    assert {*NEEDED} == {*RECENT}


@pytest.mark.parametrize("name", NEEDED)
def test_no_pass_is_made_twice(name):
    n_f, n_r = sizes()
    data = make_data()
    method = METHODS[name](**{"unlearn_epochs": EPOCHS, **OWN.get(name, {})})
    found = passes(lambda model: run(method, model, data))
    assert found == NEEDED[name](n_f, n_r)


@pytest.mark.parametrize("own", [{}, {"forget_optimizer": "adamw", "forget_lr": 1e-4}], ids=str)
def test_a_second_optimizer_costs_no_pass(own):
    n_f, n_r = sizes()
    method, data = METHODS["RL"](unlearn_epochs=EPOCHS, **own), make_data()
    assert passes(lambda model: run(method, model, data)) == (EPOCHS * (n_f + n_r),) * 2
