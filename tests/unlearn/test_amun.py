"""AMUN: the attack against a plain walk and a closed form; what the epochs are made of."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import check_resume, make_data, make_image_set, make_model, random_mask, settled
from torch import nn

from unlearn.amun import Amun
from unlearn.tools.adversarial import nearest_misclassified
from utils import UserError


def trained():
    """A model that gets most of the images right."""
    model, data = make_model(), make_data(augment=False, batch_size=1000)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(60):
        for part in (data.forget, data.retain):
            for images, labels in part:
                optimizer.zero_grad()
                F.cross_entropy(model(images), labels).backward()
                optimizer.step()
    return model.eval()


def walk(model, image, label, eps, steps):
    """The path of one image (3, h, w) as published: all iterates, and the radius of each."""
    path, radii, radius, at = [image], [eps], eps, image.clone()
    while radius <= 10:
        for _ in range(steps):
            if model(at[None]).argmax() != label:
                return path, radii
            x = at.clone().requires_grad_()
            F.cross_entropy(model(x[None]), label[None]).backward()
            way = at + radius / 10 * x.grad / x.grad.norm() - image
            if way.norm() > radius:
                way *= radius / way.norm()
            at = (image + way).clamp(0, 1)
            path.append(at)
            radii.append(radius)
        radius *= 2
    return path, radii


@pytest.fixture(scope="module")
def found():
    """A model, the forget images with their labels, of which it gets one wrong, and what was found
    for them.
    """
    model, data = trained(), make_data(count=40)
    labels = data.forget.labels.clone()
    labels[5] = (labels[5] + 1) % 4
    view = data.forget.eval_view().batches_of(16).relabelled(labels)
    images, labels = (torch.cat(parts) for parts in zip(*view, strict=True))
    return model, images, labels, nearest_misclassified(model, view, 0.04, 10)


def test_each_example_is_the_end_of_a_plain_walk_and_no_earlier_iterate_is_misclassified(found):
    model, images, labels, examples = found
    assert examples.found.all()
    lengths = set()
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        path, radii = walk(model, image, label, 0.04, 10)
        answers = model(torch.stack(path)).argmax(1)
        assert (answers[:-1] == label).all()
        assert answers[-1] != label
        torch.testing.assert_close(examples.images[i], path[-1], rtol=0, atol=1e-4)
        assert examples.classes[i] == answers[-1]
        assert float(examples.eps[i]) == pytest.approx(radii[-1])
        lengths.add(len(path))
    assert 1 in lengths, "an image that is misclassified as it is"
    assert max(lengths) > 12, "a path whose radius doubled"


def test_examples_are_misclassified_images_within_their_radius(found):
    model, images, labels, examples = found
    assert torch.equal(model(examples.images).argmax(1), examples.classes)
    assert not (examples.classes == labels).any()
    distance = (examples.images - images).double().flatten(1).norm(dim=1)
    assert (distance <= examples.eps + 1e-6).all()
    assert examples.images.min() >= 0
    assert examples.images.max() <= 1
    wrong = model(images).argmax(1) != labels
    assert torch.equal(examples.images[wrong], images[wrong])


class Plane(nn.Module):
    """Two classes on two sides of a plane at a known distance from every image."""

    def __init__(self, distances):
        super().__init__()
        torch.manual_seed(1)
        self.normal = nn.Parameter(F.normalize(torch.randn(3 * 8 * 8), dim=0))
        self.distances = distances

    def forward(self, images):
        side = self.distances - (images - 0.5).flatten(1) @ self.normal
        return torch.stack([side, -side], 1)


@pytest.mark.parametrize("distance", [0.001, 0.01, 0.039, 0.05, 0.3, 1.7])
def test_the_path_to_a_plane_is_known(distance):
    """Straight on in tenths of the radius, until the radius stops it."""
    image_set = make_image_set(train=40)
    image_set.x_train[:], image_set.y_train[:] = 128, 0
    at, radius, steps = 0.0, 0.04, 0
    start = 128 / 255 - 0.5
    while at < distance:
        at, steps = min(at + radius / 10, radius), steps + 1
        radius *= 2 if steps % 50 == 0 else 1
    model = Plane(0.0)
    offset = start * float(model.normal.detach().sum())
    model.distances = offset + distance
    data = make_data(image_set, count=4)
    examples = nearest_misclassified(model, data.forget.eval_view(), 0.04, 50)
    image = next(iter(data.forget.eval_view()))[0][:1]
    found = (examples.images - image).double().flatten(1).norm(dim=1)
    assert examples.found.all()
    np.testing.assert_allclose(found, at, rtol=1e-3, atol=1e-5)


class Far(Plane):
    """Dark images keep their class, and have no gradient."""

    def forward(self, images):
        logits = super().forward(images)
        dark = images.flatten(1).mean(1) < 0.1
        return torch.where(dark[:, None], logits * 0 + torch.tensor([50.0, 0.0]), logits)


def test_images_that_are_never_misclassified_are_left_out_and_counted(capsys):
    image_set = make_image_set(train=160)
    image_set.y_train[:] = 0
    data = make_data(image_set, count=10, augment=False)
    far = data.forget.indices[[3, 7]]
    image_set.x_train[far.numpy()] = 0
    data = make_data(image_set, count=10, augment=False)
    model, method = Far(0.3), Amun()
    method.prepare(model, data, None)
    assert method.report == {"examples": 8, "without_example": 2}
    said = capsys.readouterr().out
    assert "2 of 10 forget images keep their answer up to the attack's last radius" in said
    assert f"the first is {far[0]}" in said
    assert not set(far.tolist()) & set(method.moved[0].indices.tolist())
    total = sum(len(step.labels) for step in method.losses(model, data, 0))
    assert total == 10 + 8 + data.retain.num_samples


def test_where_no_image_is_ever_misclassified_the_run_is_refused():
    image_set = make_image_set(train=160)
    image_set.y_train[:] = 0
    model = Plane(1e4)
    with pytest.raises(UserError, match="keeps its answer to all 16 forget images"):
        Amun().prepare(model, make_data(image_set), None)


# -------------------------------------------------------------------------------------- the epochs


class Watched(nn.Module):
    """A model that remembers which images it was shown."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def forward(self, images):
        self.seen.append(images.detach().clone())
        return self.model(images)


@pytest.mark.parametrize("use_retain", [True, False])
def test_an_epoch_is_all_images_and_the_examples_un_augmented(use_retain):
    """Un-augmented, it is a multiset of known images; the labels go with them."""
    data, method = make_data(augment=False), Amun(use_retain=use_retain)
    method.prepare(trained(), data, None)
    model = Watched(trained())
    steps = list(method.losses(model, data, 0))
    shown, labels = torch.cat(model.seen), torch.cat([step.labels for step in steps])
    parts = [data.forget, data.retain] if use_retain else [data.forget]
    whole = [next(iter(part.eval_view().batches_of(1000))) for part in parts]
    expected = torch.cat([*(images for images, _ in whole), method.images])
    true = torch.cat([*(own for _, own in whole), method.classes])
    joined = torch.cat([shown.flatten(1), labels[:, None]], 1)
    wanted = torch.cat([expected.flatten(1), true[:, None]], 1)
    assert sorted(joined.tolist()) == sorted(wanted.tolist())
    assert not torch.equal(labels, true), "shuffled"


def test_augmentation_leaves_the_examples_as_they_are():
    data, method = make_data(make_image_set(crop=2)), Amun()
    method.prepare(trained(), data, None)
    model = Watched(trained())
    list(method.losses(model, data, 0))
    shown = set(map(tuple, torch.cat(model.seen).flatten(1).tolist()))
    examples = set(map(tuple, method.images.flatten(1).tolist()))
    forget = next(iter(data.forget.eval_view().batches_of(1000)))[0]
    assert examples <= shown
    assert not set(map(tuple, forget.flatten(1).tolist())) <= shown


def test_the_rate_falls_tenfold_every_epoch():
    values = settled("--unlearn", "amun")[0]
    assert (values.schedule, values.decreasing_lr) == ("multistep", tuple(range(1, 10)))
    assert (values.unlearn_lr, values.batch_size, values.unlearn_epochs) == (0.01, 128, 10)


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_resumed_run_equals_the_uninterrupted_one(masked):
    mask = random_mask(make_model()) if masked else None
    check_resume(lambda: Amun(unlearn_epochs=3), mask)


def test_the_attack_leaves_the_model_as_it_is():
    model, before = trained(), trained()
    nearest_misclassified(model, make_data().forget.eval_view(), 0.04, 5)
    for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fields", [{"attack_eps": 0.0}, {"attack_eps": 11.0}, {"attack_steps": 0}])
def test_what_is_out_of_range_is_refused(fields):
    with pytest.raises(UserError, match=f"--{next(iter(fields))}"):
        Amun(**fields)
