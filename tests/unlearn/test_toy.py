"""Every method on a problem with a known answer: points in the plane, ten of them mislabelled,
which are the forget set.

A network of two layers learns three blobs and the ten mistakes. To forget the mistakes is to give
these points their clean labels back and to lose nothing elsewhere (Goel et al., Corrective machine
unlearning, 2024). Each point is an image of one pixel.
"""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CPU, run
from torch import nn

from datasets import ImageSet
from datasets.loaders import Data
from datasets.splits import choose_forget, make_split
from models.normalize import Normalize
from unlearn import METHODS

SEED = 2
CENTRES = np.array([[0.3, 0.3], [0.7, 0.35], [0.5, 0.72]])

# Flags for so small a problem; a method without a line here runs for ten epochs at its own
# defaults. The comments are measured means over the seeds 0, 1 and 2: percent of the ten points
# restored, then accuracy on clean test points; doing nothing has 10, 92.
TEN = {"unlearn_epochs": 10}
SETTINGS = {
    "retrain": {"unlearn_epochs": 40, "unlearn_lr": 0.1},  # 100, 100
    "EU_k": TEN | {"unlearn_lr": 0.1, "k": 0},  # 100, 99
    "scrub": TEN | {"unlearn_lr": 0.1, "msteps": 5},  # 100, 99
    "sfron": TEN | {"unlearn_lr": 0.01, "unlearn_steps": 0, "alpha": 1.0},  # 100, 99
    "neggrad_plus": TEN | {"unlearn_lr": 0.1, "retain_share": 0.95},  # 100, 99
    "delete": TEN | {"unlearn_lr": 0.01},  # 90, 98
    "RL": TEN | {"unlearn_lr": 0.1},  # 93, 99
    "amnesiac": TEN | {"unlearn_lr": 0.01},  # 90, 94
    "wfisher": {"damping": 0.1},  # 83, 96
    "FT": TEN | {"unlearn_lr": 0.01},  # 73, 95
    "GA": TEN | {"unlearn_lr": 0.002},  # 70, 93
    "FT_prune": TEN | {"unlearn_lr": 0.01, "alpha": 1e-3},  # 67, 95
    "CF_k": TEN | {"unlearn_lr": 0.01, "k": 0},  # 60, 95
    "bad_teaching": TEN | {"unlearn_lr": 0.01, "retain_part": 1.0},  # 60, 91
    "amun": TEN | {"unlearn_lr": 0.01},  # 33, 94
    "scrub_r": (
        TEN
        | {
            "unlearn_lr": 0.1,
            "msteps": 5,
        }
    ),  # 10, 92: the held-out error is low, and so the original's the closest to it
}
NOT_APPLICABLE = {
    "FT_prune_bi": "prunes convolutions",
    "GA_prune": "prunes convolutions",
    "GA_prune_bi": "prunes convolutions",
    "not": "negates a convolution",
    "ct": "transposes convolutions",
    "msg": "draws weights of convolutions",
    "cfw": "adds noise to convolutions",
    "natmu": "blends images of two pixels a side or more",
    "ssd": (
        "made to forget a whole class: memorised mistakes are all that the forget set's gradient is"
        " made of"
    ),
    "unsir": (
        "made to forget a whole class: its noise would overwrite every class that a mistake is in"
    ),
}
# These must restore nearly all; the others must not do harm.
CORRECT = ("retrain", "sfron", "neggrad_plus", "scrub", "RL", "EU_k")


class MLP(nn.Module):
    """Two layers; (n, 3, 1, 1) to (n, 3)."""

    def __init__(self):
        super().__init__()
        self.normalize = Normalize()
        self.hidden, self.fc = nn.Linear(3, 256), nn.Linear(256, len(CENTRES))

    def forward(self, images):
        return self.fc(torch.relu(self.hidden(self.normalize(images).flatten(1))))


def construct():
    model = MLP()
    model.normalize.mean.fill_(0.5)
    model.normalize.std.fill_(0.25)
    return model


def points(count, rng):
    """(count, 1, 1, 3) uint8: the coordinates in two channels, the third constant; and the blob of
    each.
    """
    labels = np.arange(count) % len(CENTRES)
    plane = np.full((count, 1, 1, 3), 0.5)
    plane[:, 0, 0, :2] = CENTRES[labels] + rng.normal(0, 0.07, (count, 2))
    return (255 * plane.clip(0, 1)).round().astype(np.uint8), labels


def toy(seed=SEED):
    """A Data whose forget set is the ten mislabelled points, and the clean labels of those."""
    rng = np.random.default_rng(seed)
    (x_train, clean), (x_test, y_test) = points(180, rng), points(300, rng)
    split = make_split(clean, 1)
    wrong = np.sort(rng.choice(split.train, 10, replace=False))
    labels = clean.copy()
    labels[wrong] = (clean[wrong] + rng.integers(1, 3, 10)) % 3
    image_set = ImageSet(
        "toy", x_train, labels, x_test, y_test, tuple("abc"), (0.5,) * 3, (0.25,) * 3, 0, False
    )
    chosen = choose_forget(split, labels, positions=np.flatnonzero(np.isin(split.train, wrong)))
    return (
        Data(image_set, split, chosen, device=CPU, batch_size=32, seed=seed, augment=False),
        clean[wrong],
    )


def learn_everything(data, seed=SEED):
    """The original: fits the mistakes too, in a plain loop."""
    torch.manual_seed(seed)
    model = construct()
    model.construct = construct
    batches = [data.forget.eval_view().batches_of(1000), data.retain.eval_view().batches_of(1000)]
    images, labels = (
        torch.cat(parts) for parts in zip(*(next(iter(part)) for part in batches), strict=True)
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(1000):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model


@torch.no_grad()
def judge(model, data, clean):
    """Percent of the ten points that have their clean label back, and accuracy on clean test
    points.
    """

    def predictions(split):
        return torch.cat([model.eval()(images).argmax(1) for images, _ in data.evaluation[split]])

    restored, test = (
        predictions("forget") == torch.from_numpy(clean),
        predictions("test") == data.evaluation["test"].labels,
    )
    return 100 * restored.float().mean().item(), 100 * test.float().mean().item()


def unlearned(name, original, seed=SEED):
    known = {field.name for field in dataclasses.fields(METHODS[name])}
    settings = {key: value for key, value in SETTINGS.get(name, TEN).items() if key in known}
    return run(METHODS[name](**settings), copy.deepcopy(original), toy(seed)[0])


@pytest.fixture(scope="module")
def problem():
    data, clean = toy()
    original = learn_everything(data)
    return data, clean, original, judge(original, data, clean)


def test_the_original_has_learnt_the_mistakes(problem):
    data, _, original, (restored, _) = problem
    images, labels = next(iter(data.evaluation["forget"]))
    assert restored == 0
    assert torch.equal(original(images).argmax(1), labels)


@pytest.mark.parametrize("name", [name for name in METHODS if name not in NOT_APPLICABLE])
def test_a_method_corrects_the_mistakes_or_does_no_harm(problem, name):
    data, clean, original, (none_restored, none_test) = problem
    model = unlearned(name, original)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    restored, test = judge(model, data, clean)
    assert restored >= (90 if name in CORRECT else none_restored)
    assert test >= none_test - 5


def test_retraining_corrects_what_doing_nothing_does_not(problem):
    data, clean, original, nothing = problem
    retrained = judge(unlearned("retrain", original), data, clean)
    assert retrained[0] > nothing[0]
    assert retrained[1] > nothing[1]


def test_doing_harm_is_noticed(problem):
    """Ascent without a stop destroys the blobs, which the bound on the test accuracy must see."""
    data, clean, original, nothing = problem
    wrecked = run(
        METHODS["GA"](unlearn_epochs=10, unlearn_lr=0.1), copy.deepcopy(original), toy()[0]
    )
    assert judge(wrecked, data, clean)[1] < nothing[1] - 5


def test_methods_that_do_not_apply_are_registered():
    assert NOT_APPLICABLE.keys() <= METHODS.keys()
    assert set(CORRECT) <= METHODS.keys()
