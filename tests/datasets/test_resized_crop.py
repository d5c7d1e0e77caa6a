"""Resized crops: torchvision's pixels and law, the same from either store, whole and resumed."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from helpers import CPU, check_resume, make_data, make_image_set
from test_stores import batches, equal, mapped
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from datasets import resized_crop
from datasets.device_images import DeviceImages
from datasets.resized_crop import by_products, draw_boxes, held_side, resized_crops
from unlearn import METHODS

IMAGES = dataclasses.replace(make_image_set(train=96, side=9, crop=0), side=8)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("resize", [resized_crops, by_products])
@pytest.mark.parametrize(
    ("held", "side"), [(73, 64), (256, 224), (37, 32), (40, 64), (90, 17), (9, 8)]
)
def test_pixels_are_torchvisions(resize, held, side):
    """Smooth images with noise on them, boxes of any place and shape, one pixel a side and more."""
    rng = np.random.default_rng(side)
    waves = np.sin(np.arange(held)[:, None, None] / 7 + rng.uniform(0, 6, (12, 1, 1, 3)))
    noise = rng.uniform(-100, 100, (12, held, held, 3))
    images = torch.from_numpy((128 + 90 * waves + noise).clip(0, 255).astype(np.uint8))
    sizes = rng.integers(1, held + 1, (12, 2))
    places = (rng.uniform(size=(12, 2)) * (held - sizes + 1)).astype(int)
    boxes = torch.from_numpy(np.hstack([places, sizes]))
    boxes[0] = torch.tensor([0, 0, held, held])
    found = resize(images, boxes, side)
    assert (found.dtype, found.shape) == (torch.uint8, (12, 3, side, side))
    planes = images.permute(0, 3, 1, 2)
    wanted = torch.stack(
        [
            tv.resized_crop(image, *box, [side, side], antialias=True)
            for image, box in zip(planes, boxes.tolist(), strict=True)
        ]
    )
    apart = (found.float() - wanted.float()).abs()
    assert apart.mean() < 1
    assert apart.max() < 4


@pytest.mark.parametrize("held", [9, 73, 256])
def test_boxes_have_torchvisions_law(held):
    """Two samples of each number are as far apart as two of one law (Kolmogorov and Smirnov)."""
    n, image = 3_000, torch.zeros(1, held, held)
    torch.manual_seed(held)
    transform = v2.RandomResizedCrop(1)
    # torchvision 0.20 and before have an underscore.
    draw = getattr(transform, "make_params", None) or transform._get_params
    given = [draw([image]) for _ in range(n)]
    wanted = np.array([[each[key] for key in ("top", "left", "height", "width")] for each in given])
    found = draw_boxes(n, held, seeded(held)).numpy()
    columns = [[*b.T, b[:, 2] * b[:, 3], b[:, 3] / b[:, 2]] for b in (found, wanted)]
    for ours, theirs in zip(*map(functools.partial(map, np.sort), columns), strict=True):
        at = np.union1d(ours, theirs)
        ranks = [np.searchsorted(each, at, "right") / n for each in (ours, theirs)]
        assert np.abs(ranks[0] - ranks[1]).max() < 1.95 * np.sqrt(2 / n)  # p = 0.001
    assert (found[:, :2] >= 0).all()
    assert (found[:, :2] + found[:, 2:] <= held).all()
    assert found[:, 2:].min() >= 1


def test_an_image_that_no_try_fits_is_taken_whole(monkeypatch):
    monkeypatch.setattr(resized_crop, "TRIES", 1)
    once = draw_boxes(4_000, 64, seeded())
    monkeypatch.setattr(resized_crop, "TRIES", 10)
    ten = draw_boxes(4_000, 64, seeded())
    whole = torch.tensor([0, 0, 64, 64])
    shares = [(boxes == whole).all(1).float().mean() for boxes in (once, ten)]
    # Area s and ratio r fit where s * max(r, 1 / r) <= 1: not for 7.0 % of the first draws.
    s, log_r = np.meshgrid(np.linspace(0.08, 1, 2001), np.linspace(0, np.log(4 / 3), 2001))
    unfit = np.mean(s * np.exp(log_r) > (64.5 / 64) ** 2)
    assert abs(float(shares[0]) - unfit) < 0.02
    assert shares[1] < 0.005


def test_evaluation_sees_the_middle_as_torchvision_cuts_it():
    for held, side in ((9, 8), (10, 7), (73, 64)):
        pixels = np.random.default_rng(0).integers(0, 256, (3, held, held, 3), np.uint8)
        images = DeviceImages(pixels, CPU, 0, side)
        found = images.batch(torch.arange(3), 0, 0)
        wanted = tv.center_crop(torch.from_numpy(pixels).permute(0, 3, 1, 2), [side, side])
        assert torch.equal(found, wanted)


def test_training_draws_new_parts_each_epoch_and_evaluation_none():
    data = make_data(IMAGES)
    first, again = (torch.cat([x for x, _ in data.retain]) for _ in range(2))
    assert first.shape[1:] == (3, 8, 8)
    assert not torch.equal(first, again)
    views = next(iter(data.retain.two_views()))
    assert not torch.equal(views[0], views[1])
    middle = torch.from_numpy(IMAGES.x_train[:, :8, :8]).permute(0, 3, 1, 2) / 255
    for loader in (data.evaluation["retain"], data.retain.unaugmented().eval_view()):
        indices = loader.indices
        assert torch.allclose(torch.cat([x for x, _ in loader]), middle[indices])
    plain = make_data(IMAGES, augment=False)
    held = torch.cat([x for x, _ in plain.retain])
    assert {tuple(x.flatten().tolist()) for x in held} <= {
        tuple(x.flatten().tolist()) for x in middle
    }


def test_the_pixels_are_those_of_the_drawn_boxes_flipped_as_drawn():
    data = make_data(IMAGES, batch_size=20)
    loader = data.retain
    order, draws = loader._order(), loader._augmentation("")
    seen = torch.cat([x for x, _ in loader])
    for i, at in enumerate(loader.indices[order].tolist()):
        image = torch.from_numpy(IMAGES.x_train[at]).permute(2, 0, 1)
        wanted = tv.resized_crop(image, *draws.boxes[i].tolist(), [8, 8], antialias=True)
        wanted = wanted.flip(-1) if draws.flips[i] else wanted
        assert (seen[i] * 255 - wanted).abs().max() < 1e-3


@pytest.mark.parametrize("kind", ["memory", "map"])
def test_either_store_gives_the_same_batches(tmp_path, kind):
    images = mapped(IMAGES, tmp_path) if kind == "map" else IMAGES
    device = make_data(IMAGES, batch_size=20)
    stream = make_data(images, batch_size=20, store="stream")
    for start in ((0,), (1,), (1, 2)):
        for data in (device, stream):
            data.set_epoch(*start)
        equal(batches(device.retain), batches(stream.retain))
        equal(batches(device.retain, views=True), batches(stream.retain, views=True))
    for name, loader in device.evaluation.items():
        equal(batches(loader), batches(stream.evaluation[name]))


@pytest.mark.parametrize("store", ["device", "stream"])
def test_a_run_that_was_killed_ends_as_a_whole_one(store):
    check_resume(lambda: METHODS["FT"](unlearn_epochs=3), image_set=IMAGES, store=store)


@pytest.mark.parametrize(("side", "held"), [(224, 256), (64, 73), (32, 37)])
def test_images_are_held_in_the_proportion_of_256_to_224(side, held):
    assert held_side(side) == held
