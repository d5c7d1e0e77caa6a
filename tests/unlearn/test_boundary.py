"""Boundary shrink against per-sample gradients and closed forms; boundary expanding against a last
layer of K + 1 rows.
"""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    CLASSES,
    check_resume,
    make_data,
    make_model,
    random_mask,
    run,
    run_part,
    same,
    watch,
)
from torch import nn
from torch.func import functional_call, grad, vmap

from engine import predict
from unlearn import METHODS
from unlearn.boundary_expanding import BoundaryExpanding
from unlearn.boundary_shrink import BoundaryShrink, nearest_classes, step_away
from unlearn.finetune import FineTune
from utils import UserError

WHOLE_CLASS = {"count": None, "class_to_forget": 1}


@pytest.fixture(scope="module")
def network():
    return run(
        FineTune(unlearn_epochs=10, unlearn_lr=0.02),
        make_model(),
        make_data(count=4, batch_size=16, augment=False),
    )


@pytest.fixture
def trained(network):
    """A network that knows its classes, all images of them; of steps of 0.1, some cross the
    boundary and some do not.
    """
    return copy.deepcopy(network)


# ------------------------------------------------------------------------------------------- shrink


def by_sample(model, images, labels, eps):
    """Labels of single steps, image by image, from torch.func's gradients and NumPy."""
    parameters = {name: p.detach() for name, p in model.eval().named_parameters()}

    def loss(image, label):
        return F.cross_entropy(functional_call(model, parameters, image[None]), label[None])

    gradients = vmap(grad(loss))(images, labels).numpy()
    moved = np.rint(
        np.clip(images.numpy() + np.float32(eps) * np.sign(gradients), 0, 1) * np.float32(255)
    ) / np.float32(255)
    logits = model(torch.from_numpy(moved)).detach().numpy()
    first = logits.argmax(1)
    second = logits.argsort(1)[:, -2]
    return first, np.where(first == labels.numpy(), second, first)


@pytest.mark.parametrize(("eps", "least", "most"), [(0.0, 1, 1), (0.02, 0.9, 1), (0.1, 0.1, 0.9)])
def test_nearest_class_is_the_first_other_one_after_the_step(trained, eps, least, most):
    """Also where the step does not cross the boundary: there it is the runner-up."""
    forget = make_data(count=60, batch_size=16).forget.eval_view()
    images, labels = next(iter(forget.batches_of(1000)))
    first, expected = by_sample(trained, images, labels, eps)
    nearest = nearest_classes(trained, forget, eps)
    assert not (nearest == forget.labels).any()
    np.testing.assert_array_equal(nearest.numpy(), expected)
    assert least <= (first == labels.numpy()).mean() <= most


def test_moved_images_stay_in_the_ball_and_are_pixels(trained):
    """Rounding to the grid leaves the ball by half a pixel value at most."""
    images, labels = next(iter(make_data(count=60, batch_size=1000).forget.eval_view()))
    kept = images.clone()
    moved = step_away(trained, images, labels, 0.1)
    assert float((moved - kept).abs().max()) <= 0.1 + 0.5 / 255 + 1e-6
    assert float((moved - kept).abs().median()) > 0.09
    assert torch.equal(moved, (moved * 255).round().to(torch.uint8).float().div(255))
    assert torch.equal(images, kept)


def test_step_on_a_linear_model_is_the_sign_of_the_weight_difference():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    images, labels = torch.randint(60, 190, (9, 3, 8, 8)).float() / 255, torch.arange(9) % 2
    away = (
        torch.sign(model[1].weight[1 - labels] - model[1].weight[labels]).detach().view_as(images)
    )
    moved = step_away(model, images, labels, 0.2)  # 51 pixel values: on the grid without rounding
    torch.testing.assert_close(moved, images + 0.2 * away, rtol=0, atol=1e-6)


def test_shrink_trains_the_images_as_they_are_on_those_labels_in_a_new_order_each_epoch(trained):
    data, model = make_data(count=60, batch_size=16), copy.deepcopy(trained)
    forget = data.forget.eval_view()
    method = BoundaryShrink(eps=0.1)
    method.prepare(model, data, None)
    assert same(model, trained)
    wanted = dict(
        zip(map(bytes, pixels(forget)), nearest_classes(trained, forget, 0.1).tolist(), strict=True)
    )
    seen, orders = [], []
    model.register_forward_pre_hook(
        lambda module, inputs: seen.extend((inputs[0] * 255).round().to(torch.uint8).numpy())
    )
    for epoch in range(2):
        seen.clear()
        data.set_epoch(epoch)
        labels = torch.cat([step.labels for step in method.losses(model, data, epoch)]).tolist()
        orders.append(list(map(bytes, seen)))
        assert labels == [wanted[image] for image in orders[-1]]
        assert sorted(orders[-1]) == sorted(wanted)
    assert orders[0] != orders[1]


def pixels(loader):
    return torch.cat([(images * 255).round().to(torch.uint8) for images, _ in loader]).numpy()


def test_shrink_empties_the_class(trained):
    data = make_data(batch_size=16, **WHOLE_CLASS)
    assert bool((predict(trained, data.evaluation["forget"])[0].argmax(1) == 1).all())
    run(BoundaryShrink(unlearn_lr=0.05, unlearn_epochs=4), trained, data)
    assert not bool((predict(trained, data.evaluation["forget"])[0].argmax(1) == 1).any())


def test_shrink_resumes_bit_for_bit():
    """The labels are those of the original weights also where the run goes on from others."""
    check_resume(
        lambda: BoundaryShrink(unlearn_lr=0.05, unlearn_epochs=3),
        random_mask(make_model()),
        count=60,
        batch_size=16,
    )


def test_a_negative_step_is_refused():
    with pytest.raises(UserError, match="--eps"):
        BoundaryShrink(eps=-0.1)


# ---------------------------------------------------------------------------------------- expanding


def expanded(model, shadow):
    """The same network with a last layer of K + 1 rows."""
    wide = copy.deepcopy(model)
    wide.fc._forward_pre_hooks.clear()
    wide.fc = nn.Linear(model.fc.in_features, CLASSES + 1)
    wide.fc.weight.data = torch.cat([model.fc.weight, shadow.weight]).detach().clone()
    wide.fc.bias.data = torch.cat([model.fc.bias, shadow.bias]).detach().clone()
    return wide


def test_shadow_beside_the_model_trains_as_one_row_more_in_its_last_layer():
    """Against torch's SGD over the expanded network, weights, statistics and shadow."""
    data, model = make_data(count=60, batch_size=16), make_model()
    method = BoundaryExpanding(unlearn_lr=0.05, unlearn_epochs=3)
    start = BoundaryExpanding()
    start.prepare(make_model(), data, None)
    wide = expanded(model, start.shadow).train()
    run(method, model, data)
    optimizer = torch.optim.SGD(wide.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    loader = make_data(count=60, batch_size=16).forget
    for epoch in range(3):
        loader.set_epoch(epoch)
        for images, labels in loader:
            optimizer.zero_grad()
            F.cross_entropy(wide(images), torch.full_like(labels, CLASSES)).backward()
            optimizer.step()
    theirs = wide.state_dict()
    theirs["fc.weight"], shadow_weight = theirs["fc.weight"].split([CLASSES, 1])
    theirs["fc.bias"], shadow_bias = theirs["fc.bias"].split([CLASSES, 1])
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.shadow.weight.detach(), shadow_weight, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(method.shadow.bias.detach(), shadow_bias, rtol=1e-4, atol=1e-6)
    assert not torch.equal(method.shadow.weight, start.shadow.weight)


def test_expanding_loss_is_that_of_the_wide_layer():
    data, model = make_data(), make_model().eval()
    method = BoundaryExpanding()
    method.prepare(model, data, None)
    wide = expanded(model, method.shadow).eval()
    step = next(method.losses(model, data, 0))
    data.set_epoch(0)
    images, labels = next(iter(data.forget))
    logits = wide(images)
    torch.testing.assert_close(step.logits, logits)
    torch.testing.assert_close(step.loss, (logits.logsumexp(1) - logits[:, CLASSES]).mean())
    assert step.labels.tolist() == [CLASSES] * len(labels)


def test_model_keeps_its_shape_and_its_evaluation_and_loses_the_hook(trained):
    plain, data = copy.deepcopy(trained), make_data(batch_size=16, **WHOLE_CLASS)
    shapes = {name: value.shape for name, value in plain.state_dict().items()}
    looks, probe = [], torch.rand(5, 3, 8, 8)

    def look(epoch):
        looks.append(epoch)
        assert {name: value.shape for name, value in trained.state_dict().items()} == shapes
        plain.load_state_dict(trained.state_dict())
        assert trained.fc._forward_pre_hooks
        with torch.no_grad():
            assert torch.equal(trained.eval()(probe), plain.eval()(probe))
        trained.train()

    run(watch(BoundaryExpanding(unlearn_lr=0.05, unlearn_epochs=3), look), trained, data)
    assert set(looks) == {0, 1, 2}
    assert not any(module._forward_pre_hooks for module in trained.modules())
    logits, labels = predict(trained, data.evaluation["forget"])
    assert logits.shape == (len(labels), CLASSES)
    assert float((logits.argmax(1) == labels).float().mean()) < 0.5


def test_shadow_is_drawn_from_the_seed_as_pytorch_draws_and_from_no_global_stream():
    shadows = []
    for seed in (3, 3, 0):
        method = BoundaryExpanding()
        method.prepare(make_model(), make_data(seed=seed), None)
        shadows.append(torch.cat([p.detach().reshape(-1) for p in method.extra_parameters()]))
    model = make_model()
    state = torch.get_rng_state()
    BoundaryExpanding().prepare(model, make_data(), None)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(shadows[0], shadows[1])
    assert not torch.equal(shadows[0], shadows[2])
    assert 0.8 * 24**-0.5 < float(shadows[0].abs().max()) <= 24**-0.5


def test_masked_rows_stay_and_the_shadow_moves():
    model, original, data = make_model(), make_model(), make_data(**WHOLE_CLASS)
    mask = {
        name: torch.full_like(p, name.startswith("conv"), dtype=torch.bool)
        for name, p in model.named_parameters()
    }
    method, start = BoundaryExpanding(unlearn_lr=0.05, unlearn_epochs=2), BoundaryExpanding()
    start.prepare(make_model(), data, None)
    run(method, model, data, mask)
    for name in ("fc.weight", "fc.bias", "bn.weight"):
        assert torch.equal(model.get_parameter(name), original.get_parameter(name))
    assert not torch.equal(model.conv.weight, original.conv.weight)
    assert not torch.equal(method.shadow.weight, start.shadow.weight)


def test_expanding_resumes_bit_for_bit_with_its_shadow():
    def make():
        return BoundaryExpanding(unlearn_lr=0.05, unlearn_epochs=3)

    check_resume(make, random_mask(make_model()), count=60, batch_size=16)
    state = run_part(make(), make_model(), make_data(), until=1)
    assert state["method"]["shadow"]["weight"].shape == (1, 24)


@pytest.mark.parametrize("name", ["boundary_shrink", "boundary_expanding"])
def test_boundary_methods_were_made_for_a_class(name):
    assert METHODS[name].scenarios == ("class",)
