"""The plain baseline is an oracle too: written without looking at the fast paths, it must find the
same.
"""

import numpy as np
import pytest
import torch
from helpers import make_data, make_model

from benchmarks import plain
from benchmarks.bench import compare
from engine import predict
from evaluation.accuracy import accuracies
from evaluation.membership import DrawRule, svc_attack
from masks.masks import top_masks
from unlearn.tools.per_sample import fisher_diagonal
from unlearn.wfisher import influence_vector


@pytest.fixture
def pieces():
    """Data, two copies of one model (channels_last and contiguous), and a plain loader of each
    split.
    """
    data = make_data(count=24)
    whole, chosen, split = data.dataset, data.chosen, data.split
    kept = {"forget": np.sort(chosen.forget), "retain": np.sort(chosen.retain), "val": split.val}
    pixels = {
        name: (whole.x_train[indices], whole.y_train[indices]) for name, indices in kept.items()
    }
    pixels["test"] = whole.x_test, whole.y_test
    loaders = {name: plain.loader(*part, 16, train=False) for name, part in pixels.items()}
    return data, make_model(), make_model().to(memory_format=torch.contiguous_format), loaders


def assert_close(found, wanted):
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-3, atol=1e-6)


def test_masks_equal_a_sort_of_a_sort(tmp_path):
    order = torch.randperm(
        600, generator=torch.Generator().manual_seed(0)
    ).float()  # no ties, which an unstable sort breaks as it likes
    scores = {"a": order[:100].reshape(10, 10), "b": order[100:]}
    plain.save_masks(scores, tmp_path)
    for ratio, mask in top_masks(scores).items():
        theirs = torch.load(tmp_path / f"with_{ratio}.pt")
        assert all(torch.equal(mask[name], theirs[name].bool()) for name in mask)


def test_influence_vector_and_fisher_diagonal(pieces):
    data, model, twin, loaders = pieces
    assert_close(
        influence_vector(model, data.forget.eval_view(), data.retain.eval_view()),
        plain.influence_vector(twin, loaders["forget"], loaders["retain"]),
    )
    images, labels = (torch.cat(part) for part in zip(*loaders["forget"], strict=True))
    assert_close(
        fisher_diagonal(model, data.forget.eval_view()), plain.fisher_diagonal(twin, images, labels)
    )


def test_evaluation(pieces):
    data, model, twin, loaders = pieces
    outputs = {
        name: tuple(part.numpy() for part in predict(model, loader))
        for name, loader in data.evaluation.items()
    }
    wanted = plain.evaluate(twin, loaders)
    attack = svc_attack(outputs["retain"], outputs["test"], outputs["forget"], DrawRule("first"))
    assert accuracies(outputs) | {"MIA": 100 * attack["confidence"]} == pytest.approx(wanted)


def test_nothing_is_timed_when_the_sides_differ():
    same = {"a": torch.ones(3), "share %": 10.0, "disk": "1 MB"}
    compare(same, {**same, "share %": 10.04, "disk": "2 MB"}, 0.0, "stage")
    with pytest.raises(SystemExit, match="a differs"):
        compare(same, {**same, "a": torch.full((3,), 1.1)}, 1e-3, "stage")
    with pytest.raises(SystemExit, match="share % differs"):
        compare(same, {**same, "share %": 11.0}, 1e-3, "stage")
    with pytest.raises(SystemExit, match="a differs"):
        compare(same, {**same, "a": torch.full((3,), float("nan"))}, 1e-3, "stage")
