"""GA's end before the cliff: which epoch is undone, what is left, resuming."""

import copy

import pytest
import torch
from helpers import make_data, make_model, run, run_part, same

from datasets.splits import validation_halves
from unlearn.finetune import FineTune
from unlearn.gradient_ascent import GradientAscent
from unlearn.l1_sparse import L1Ascent
from unlearn.pruning import GradualAscent, PrunedAscent
from utils import UserError

FIELDS = {"unlearn_epochs": 6, "unlearn_lr": 0.05}


@pytest.fixture(scope="module")
def trained():
    """A model that knows the classes."""
    return run(FineTune(unlearn_epochs=8, unlearn_lr=0.1), make_model(), make_data(count=1))


def forgetting():
    """Data whose forget set is large enough to break a model in six epochs."""
    return make_data(count=64)


def accuracy(model, data):
    """On half A of the validation images, from the arrays, in percent."""
    half = validation_halves(data.split, data.dataset.y_train)[0]
    images = torch.from_numpy(data.dataset.x_train[half]).permute(0, 3, 1, 2) / 255
    right = copy.deepcopy(model).eval()(images).argmax(1).numpy() == data.dataset.y_train[half]
    return 100 * right.mean()


def after(trained, epochs, **fields):
    """The model after some epochs of a run of all, its report and its data."""
    data, model = forgetting(), copy.deepcopy(trained)
    method = GradientAscent(**FIELDS | {"unlearn_epochs": epochs} | fields)
    run(method, model, data)
    return model, method.finish(model, data), data


@pytest.fixture(scope="module")
def path(trained):
    """The model after 0 to all epochs without a stop, and its validation accuracies."""
    models = [trained, *(after(trained, epochs)[0] for epochs in range(1, 7))]
    return models, [accuracy(model, forgetting()) for model in models]


def test_the_first_epoch_below_is_undone_and_the_last(trained, path):
    """Whatever the bound: the weights are those before the first epoch that ends below it."""
    models, reached = path
    assert max(reached) - min(reached) > 10
    seen = set()
    for bound in {*(value + 0.01 for value in reached if value < 100), *reached} - {0.0}:
        model, report, _ = after(trained, 6, stop_below=bound)
        below = [epoch for epoch in range(1, 7) if reached[epoch] < bound]
        kept = below[0] - 1 if below else 6
        assert same(model, models[kept])
        assert report == ({"stopped_after_epoch": kept} if below else {})
        seen.add(kept)
    assert len(seen) > 2


def test_it_looks_at_validation_images_alone(trained, path):
    data = forgetting()
    looks = []
    method = GradientAscent(**FIELDS, stop_below=0.5)
    method.prepare(model := copy.deepcopy(trained), data, None)
    seen = method.held_out.indices.tolist()
    assert seen == validation_halves(data.split, data.dataset.y_train)[0].tolist()
    monitored = method.look
    method.look = lambda model, epoch: looks.append(epoch) or monitored(model, epoch)
    run(method, model, data)
    assert looks == list(range(6))


@pytest.mark.parametrize("until", [1, 3, 5])
@pytest.mark.parametrize("make", [GradientAscent, GradualAscent, L1Ascent])
def test_it_goes_on_bit_for_bit_before_and_after_the_end(trained, make, until):
    fields = FIELDS | {"stop_below": 90.0}
    straight, resumed = copy.deepcopy(trained), copy.deepcopy(trained)
    whole, part, rest = make(**fields), make(**fields), make(**fields)
    run_part(whole, straight, forgetting(), None)
    state = run_part(part, copy.deepcopy(trained), forgetting(), None, until=until)
    run_part(rest, resumed, forgetting(), None, state)
    assert same(straight, resumed)
    reports = [method.finish(straight, forgetting()) for method in (whole, rest)]
    assert reports[0] == reports[1]
    assert "stopped_after_epoch" in reports[0]


def test_a_run_without_it_goes_on_from_a_state_of_before_the_flag(trained):
    method = GradientAscent()
    method.prepare(copy.deepcopy(trained), forgetting(), None)
    method.load_state({})
    assert not method.stopped()


@pytest.mark.parametrize("make", [GradualAscent, PrunedAscent, L1Ascent])
def test_what_is_built_on_it_stops_too(trained, make):
    data, model = forgetting(), copy.deepcopy(trained)
    method = make(**FIELDS | {"unlearn_lr": 0.2}, stop_below=100.0)
    run(method, model, data)
    assert same(model, trained)
    report = method.finish(model, data)
    assert report["stopped_after_epoch"] == 0
    assert report["sparsity"] == 0


@pytest.mark.parametrize("make", [GradientAscent, GradualAscent, PrunedAscent, L1Ascent])
@pytest.mark.parametrize("bound", [-1.0, 100.5])
def test_impossible_bounds_are_refused(make, bound):
    with pytest.raises(UserError, match="--stop_below"):
        make(stop_below=bound)
