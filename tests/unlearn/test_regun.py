"""ReGUn: its target is the original's mean softmax over held-out images; its loss by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import CLASSES, check_resume, first_batch, make_data, make_model, random_mask

from datasets.splits import validation_halves
from unlearn.regun import ReGUn
from utils import UserError


def held_out_softmax(data, model, classes=range(CLASSES)):
    """(n, k) of half A from the array of images, and its labels."""
    labels = data.dataset.y_train
    half = [i for i in validation_halves(data.split, labels)[0] if labels[i] in classes]
    images = torch.from_numpy(data.dataset.x_train[half]).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        return model.eval()(images).softmax(1), torch.from_numpy(labels[half])


def prepared(data, **fields):
    method = ReGUn(**fields)
    method.prepare(make_model(), data, None)
    return method


def test_the_target_of_a_batch_as_large_as_the_half_is_its_mean():
    data = make_data()
    softmax, _ = held_out_softmax(data, make_model())
    target = prepared(data).unseen.mean_softmax(1000, torch.Generator())
    torch.testing.assert_close(target, softmax.mean(0))
    assert target.sum().item() == pytest.approx(1)


def test_a_smaller_batch_is_drawn_uniformly_without_repetition():
    data, draws, batch = make_data(), torch.Generator().manual_seed(0), 3
    softmax, _ = held_out_softmax(data, make_model())
    method = prepared(data)
    found = [method.unseen.mean_softmax(batch, draws) for _ in range(4000)]
    means = {tuple((rows / batch).round(decimals=5).tolist()) for rows in triples(softmax)}
    assert {tuple(each.round(decimals=5).tolist()) for each in found[:50]} <= means
    mean, spread = torch.stack(found).mean(0), softmax.std(0) / (batch * len(found)) ** 0.5
    assert ((mean - softmax.mean(0)).abs() < 5 * spread).all()


def triples(rows):
    from itertools import combinations

    return [rows[list(chosen)].sum(0) for chosen in combinations(range(len(rows)), 3)]


def test_by_classes_each_forget_image_has_an_image_of_its_class():
    data, draws = make_data(), torch.Generator().manual_seed(0)
    softmax, classes = held_out_softmax(data, make_model())
    method, labels = prepared(data, held_out="classes"), torch.tensor([0, 0, 0, 2])
    found = torch.stack([method.unseen.mean_softmax(4, draws, labels) for _ in range(4000)])
    expected = (3 * softmax[classes == 0].mean(0) + softmax[classes == 2].mean(0)) / 4
    torch.testing.assert_close(found.mean(0), expected, atol=5e-3, rtol=0)
    ones = [method.unseen.mean_softmax(1, draws, torch.tensor([1])) for _ in range(50)]
    rows = softmax[classes == 1]
    assert all(any(torch.allclose(one, row) for row in rows) for one in ones)
    assert all(any(torch.allclose(one, row) for one in ones) for row in rows)


def test_a_forgotten_class_is_not_in_the_reference():
    data = make_data(count=None, class_to_forget=1)
    softmax, _ = held_out_softmax(data, make_model(), (0, 2, 3))
    target = prepared(data).unseen.mean_softmax(1000, torch.Generator())
    torch.testing.assert_close(target, softmax.mean(0))
    with pytest.raises(UserError, match="--held_out classes: no held-out image is of class 1"):
        prepared(data, held_out="classes")


def test_the_loss_is_the_weighted_sum_of_the_divergence_and_the_cross_entropy():
    """A batch of 1,000 takes the whole half; the student has moved from the original."""
    data, model = make_data(batch_size=1000, augment=False), make_model(seed=5).eval()
    q = held_out_softmax(data, make_model())[0].mean(0).double()
    forget, retain = first_batch(data.forget), first_batch(data.retain)
    p = model(forget[0]).softmax(1).double()
    apart = sum((q * (q / row).log()).sum() for row in p) / len(p)
    (step,) = prepared(data, forget_weight=0.3).losses(model, data, 0)
    expected = 0.3 * apart + 0.7 * F.cross_entropy(model(retain[0]), retain[1])
    assert step.loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert np.array_equal(step.labels, forget[1])


def test_an_epoch_is_a_pass_over_forget():
    data = make_data(count=40, batch_size=16)
    method = prepared(data)
    steps = list(method.losses(make_model(), data, 0))
    assert sorted(torch.cat([step.labels for step in steps]).tolist()) == sorted(
        data.forget.labels.tolist()
    )


def test_without_validation_images_it_is_refused():
    data = make_data()
    object.__setattr__(data.split, "val", data.split.val[:0])
    data.evaluation["val"] = data.evaluation["val"].over(data.split.val, data.dataset.y_train, "v")
    with pytest.raises(UserError, match="half of the 0 validation images"):
        prepared(data)


@pytest.mark.parametrize("weight", [-0.1, 1.5])
def test_a_weight_that_is_no_share_is_refused(weight):
    with pytest.raises(UserError, match="--forget_weight"):
        ReGUn(forget_weight=weight)


@pytest.mark.parametrize("masked", [False, True])
def test_it_goes_on_bit_for_bit(masked):
    mask = random_mask(make_model()) if masked else None
    check_resume(lambda: ReGUn(unlearn_epochs=2, held_out="classes"), mask)
