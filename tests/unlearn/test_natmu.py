"""NatMU: its masks, classes and partners, its hybrids pixel by pixel, what an epoch shows."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import check_resume, make_data, make_image_set, make_model, random_mask, run, settled

from unlearn.natmu import NatMU
from unlearn.tools.hybrids import next_classes, partners, ramps
from utils import UserError


@pytest.mark.parametrize("side", [8, 32])
@pytest.mark.parametrize("delta", [0.0, -0.19, 0.3])
def test_masks_are_a_wave_over_rows_and_columns_and_its_complement(side, delta):
    b = side // 2
    masks = ramps(side, delta)
    assert masks.shape == (4, 1, side, side)
    for i in range(side):
        place = i % b
        wave = place / b if i < b else (b - 1) / b - place / b
        for share, mask in ((wave, 0), ((b - 1) / b - wave, 2)):
            expected = min(max(share + delta, 0), 1)
            assert masks[mask, 0, i].tolist() == pytest.approx([expected] * side)
            assert masks[mask + 1, 0, :, i].tolist() == pytest.approx([expected] * side)


def prepared(data, **fields):
    method = NatMU(**fields)
    method.prepare(make_model(), data, None)
    return method


def test_classes_are_the_originals_next_ones_and_partners_are_retain_images_of_them():
    data, model = make_data(count=40), make_model().eval()
    found = next_classes(model, data)
    images = torch.cat([batch for batch, _ in data.forget.eval_view()])
    for row, logits, label in zip(found.tolist(), model(images), data.forget.labels, strict=True):
        ranks = [c for c in logits.argsort(descending=True).tolist() if c != label]
        assert row == ranks[:4]
    chosen = partners(found.flatten(), data)
    assert np.array_equal(data.dataset.y_train[chosen], found.flatten().numpy())
    assert set(chosen) <= set(data.chosen.retain)


def test_no_retain_image_is_taken_twice_before_all_of_its_class_are():
    data = make_data(count=40)
    size = int((data.retain.labels == 2).sum())
    chosen = partners(torch.full((2 * size + 3,), 2), data)
    counts = np.unique(chosen, return_counts=True)[1]
    assert len(counts) == size
    assert set(counts) == {2, 3}


def test_a_class_without_retain_images_is_no_partner():
    data = make_data(count=None, class_to_forget=1)
    found = next_classes(make_model().eval(), data)
    assert found.shape == (data.forget.num_samples, 2)
    assert set(found.flatten().tolist()) <= {0, 2, 3}
    assert all(len(set(row)) == 2 for row in found.tolist())


def test_one_class_alone_is_refused():
    data = make_data()
    kept = data.chosen.retain[data.dataset.y_train[data.chosen.retain] == 0]
    data.chosen = dataclasses.replace(data.chosen, retain=kept)
    with pytest.raises(UserError, match="natmu blends images of several classes"):
        prepared(data)


def test_hybrids_are_the_blends_of_uint8_pixels():
    data = make_data(count=16)
    method = prepared(data, delta=0.1)
    classes = next_classes(make_model().eval(), data).T
    chosen = partners(classes.flatten(), data).reshape(classes.shape)
    masks = ramps(8, 0.1).double().numpy()
    forget = data.dataset.x_train[np.sort(data.chosen.forget)].transpose(0, 3, 1, 2)
    for i in range(len(classes)):
        other = data.dataset.x_train[chosen[i]].transpose(0, 3, 1, 2)
        exact = forget * masks[i] + other * (1 - masks[i])
        ours = method.hybrids[i * 16 : (i + 1) * 16].numpy()
        assert np.abs(ours - exact).max() < 1 + 1e-3
        assert (ours <= exact + 2e-3).all()


def test_an_epoch_shows_each_retain_image_and_each_hybrid_once():
    """Labels as counted, and hybrids un-augmented: their sums of pixels are found again."""
    data, seen = make_data(count=16, batch_size=20), []
    method, model = prepared(data), make_model().eval()
    forward = model.forward
    model.forward = lambda images: seen.append(images.clone()) or forward(images)
    steps = list(method.losses(model, data, 0))
    assert len(steps) == method.steps(data, 0)
    labels, images = torch.cat([step.labels for step in steps]), torch.cat(seen)
    assert torch.equal(labels.bincount(), method.labels.bincount())
    assert len(labels) == len(method.hybrids) + data.retain.num_samples
    hybrids = method.hybrids.float() / 255
    for hybrid, label in zip(hybrids, method.labels, strict=False):
        same = (images - hybrid).abs().flatten(1).amax(1) < 1e-6
        assert (labels[same] == label).any()
    step = steps[0]
    expected = F.cross_entropy(model(seen[0]), step.labels)
    torch.testing.assert_close(step.loss, expected)


def test_it_is_by_default_its_authors_setting():
    args, _ = settled("--unlearn", "natmu")
    assert (args.unlearn_lr, args.weight_decay, args.delta) == (1.1e-3, 5e-4, -0.03)
    assert (args.optimizer, args.schedule, args.batch_size) == ("adamw", "cosine", 128)


def test_it_forgets():
    data, model = make_data(make_image_set(400), count=40), make_model()
    images, labels = next(iter(data.forget.eval_view().batches_of(1000)))
    run(NatMU(unlearn_epochs=3, unlearn_lr=0.01), model, data)
    assert torch.isfinite(F.cross_entropy(model.eval()(images), labels))


@pytest.mark.parametrize("masked", [False, True])
def test_it_goes_on_bit_for_bit(masked):
    check_resume(lambda: NatMU(unlearn_epochs=2), random_mask(make_model()) if masked else None)


def test_images_of_one_pixel_are_refused():
    with pytest.raises(UserError, match="at least 2 pixels a side; these have 1"):
        ramps(1, 0.0)
