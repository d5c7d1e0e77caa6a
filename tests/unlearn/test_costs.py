"""How many images pass through the network, against what a method's mathematics needs."""

import pytest
import torch
from helpers import TinyNet, make_data, run

from unlearn import METHODS
from unlearn.tools.adversarial import nearest_misclassified

EPOCHS = 2


class Counted(TinyNet):
    """Counts images that pass forward, and among them those whose pass can go back; also in what
    is copied from it.
    """

    seen = {"forward": 0, "with gradient": 0}

    def forward(self, images):
        self.seen["forward"] += len(images)
        self.seen["with gradient"] += len(images) * torch.is_grad_enabled()
        return super().forward(images)


def passes(action):
    """(forward, with gradient): images that ``action`` sends through a fresh model."""
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
    attack, _ = passes(
        lambda model: nearest_misclassified(model, make_data().forget.eval_view(), 0.04, 50)
    )
    method, data = METHODS["amun"](), make_data()
    torch.manual_seed(0)
    method.prepare(Counted(), data, None)
    trained = EPOCHS * (n_f + n_r + len(method.images))
    return attack + trained, attack + trained


def of_sfron(n_f, n_r):
    """The ratio, and a forget batch before each fifth retain step: here one batch holds F."""
    batches = len(make_data().retain)
    climbs = -(-EPOCHS * batches // 5)
    total = n_f + n_r + EPOCHS * n_r + climbs * n_f
    return total, total


NEEDED = {
    **dict.fromkeys(("not", "ct", "cfw"), lambda n_f, n_r: (EPOCHS * n_r,) * 2),
    "msg": lambda n_f, n_r: (2 * n_f + EPOCHS * n_r,) * 2,
    "delete": lambda n_f, n_r: (2 * EPOCHS * n_f, EPOCHS * n_f),
    "sfron": of_sfron,
    "amun": of_amun,
}


@pytest.mark.parametrize("name", NEEDED)
def test_no_pass_is_made_twice(name):
    n_f, n_r = sizes()
    data = make_data()
    method = METHODS[name](**{"unlearn_epochs": EPOCHS, **OWN.get(name, {})})
    forward, with_gradient = passes(lambda model: run(method, model, data))
    wanted = NEEDED[name](n_f, n_r)
    assert (forward, with_gradient) == wanted
