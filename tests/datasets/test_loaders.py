"""Batches: what they hold, against windows cut by numpy, and that no stream depends on another."""

import itertools
import math

import numpy as np
import pytest
import torch
from helpers import CPU, make_data, make_image_set
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.loaders import Data, DeviceImages, Loader
from datasets.splits import choose_forget, make_split
from engine import predict

IMAGES = make_image_set(train=96, test=24, side=5)


def windows(image, pad):
    """{(row, column, flip): bytes} of every window of a zero-padded image (side, side, 3)."""
    side = len(image)
    padded = np.zeros((side + 2 * pad, side + 2 * pad, 3), np.uint8)
    padded[pad : pad + side, pad : pad + side] = image
    cut = {}
    for row, column in itertools.product(range(2 * pad + 1), repeat=2):
        window = padded[row : row + side, column : column + side]
        cut[row, column, False] = window.tobytes()
        cut[row, column, True] = window[:, ::-1].tobytes()
    return cut


def sources(images, pad):
    """{bytes of an augmented image: (index, row, column, flip)}, for random images free of double
    meanings.
    """
    found = {}
    for index, image in enumerate(images):
        for how, content in windows(image, pad).items():
            assert content not in found
            found[content] = (index, *how)
    return found


def to_uint8(images):
    """(b, 3, side, side) in [0, 1] back to (b, side, side, 3) uint8, asserting that nothing was
    lost.
    """
    pixels = images.permute(0, 2, 3, 1).numpy()
    whole = np.round(pixels * 255).astype(np.uint8)
    assert np.array_equal(pixels, whole.astype(np.float32) / np.float32(255))
    return whole


def visited(loader, image_set=IMAGES, pad=None):
    """[(index, row, column, flip)] and labels of one pass over a training loader."""
    where = sources(image_set.x_train, image_set.crop if pad is None else pad)
    seen, seen_labels = [], []
    for images, labels in loader:
        seen += [where[image.tobytes()] for image in to_uint8(images)]
        seen_labels += labels.tolist()
    return seen, seen_labels


def make_loader(
    count=40,
    batch_size=16,
    *,
    image_set=IMAGES,
    name="retain",
    seed=3,
    train=True,
    crop=True,
    flip=True,
    **options,
):
    pad = image_set.crop if crop else 0
    images = DeviceImages(image_set.x_train, CPU, pad)
    loader = Loader(images, np.arange(count), image_set.y_train, batch_size, name=name, seed=seed)
    return loader.training(crop=crop, flip=flip, **options) if train else loader


def a_pass(loader):
    return [(images.clone(), labels.clone()) for images, labels in loader]


def same(one, other):
    """Whether two passes are equal bit for bit."""
    return len(one) == len(other) and all(
        torch.equal(a, b)
        for x, y in zip(one, other, strict=True)
        for a, b in zip(x, y, strict=True)
    )


# --------------------------------------------------------------------------------- evaluation views


def expected(images, labels, indices):
    """(n, 3, side, side) fp32 in [0, 1] and labels, by numpy."""
    return np.moveaxis(images[indices], 3, 1).astype(np.float32) / np.float32(255), labels[indices]


@pytest.mark.parametrize("trained_before", [False, True])
def test_official_bug_validation_is_augmented(trained_before):
    """The reference's validation set is a copy of the training set with its random crops and
    flips.
    """
    data = make_data(IMAGES)
    if trained_before:
        for epoch in range(2):
            data.set_epoch(epoch)
            for loader in (data.forget, data.retain, data.forget):
                a_pass(loader)
    split = make_split(IMAGES.y_train, 1)
    parts = {
        "val": (IMAGES.x_train, IMAGES.y_train, split.val),
        "test": (IMAGES.x_test, IMAGES.y_test, np.arange(24)),
        "forget": (IMAGES.x_train, IMAGES.y_train, np.sort(data.chosen.forget)),
        "retain": (IMAGES.x_train, IMAGES.y_train, np.sort(data.chosen.retain)),
    }
    assert set(data.evaluation) == set(parts)
    for name, part in parts.items():
        pixels, labels = expected(*part)
        for _ in range(2):
            batches = a_pass(data.evaluation[name])
            assert np.array_equal(torch.cat([images for images, _ in batches]).numpy(), pixels), (
                name
            )
            assert np.array_equal(torch.cat([y for _, y in batches]).numpy(), labels), name


def test_batches_are_fp32_channels_last_with_int64_labels():
    data = make_data(IMAGES)
    for loader in (data.retain, data.forget, *data.evaluation.values()):
        for images, labels in loader:
            assert images.dtype == torch.float32
            assert images.shape[1:] == (3, 5, 5)
            assert images.is_contiguous(memory_format=torch.channels_last)
            assert labels.dtype == torch.int64
            assert labels.shape == (len(images),)


def test_without_a_forget_request_there_is_one_training_split():
    split = make_split(IMAGES.y_train, 1)
    data = Data(IMAGES, split, None, device=CPU, batch_size=32, seed=0)
    seen, _ = visited(data.train)
    assert sorted(index for index, *_ in seen) == split.train.tolist()
    assert set(data.evaluation) == {"train", "val", "test"}
    assert np.array_equal(data.evaluation["train"].indices.numpy(), split.train)


@pytest.mark.parametrize("count", [None, 5])
def test_only_whole_class_forgetting_drops_the_class_from_val_and_test(count):
    data = make_data(IMAGES, class_to_forget=2, count=count)
    left = [0, 1, 3] if count is None else [0, 1, 2, 3]
    for name, labels in (("val", IMAGES.y_train[data.split.val]), ("test", IMAGES.y_test)):
        shown = torch.cat([y for _, y in data.evaluation[name]]).tolist()
        assert shown == [y for y in labels.tolist() if y in left]
    pixels = torch.cat([images for images, _ in data.evaluation["test"]]).numpy()
    assert np.array_equal(
        pixels, expected(IMAGES.x_test, IMAGES.y_test, np.isin(IMAGES.y_test, left))[0]
    )
    assert set(data.evaluation["forget"].labels.tolist()) == {2}
    assert (2 in data.evaluation["retain"].labels.tolist()) == (count is not None)


def test_an_empty_validation_split_yields_no_batches():
    """Nine images a class leave none to hold out."""
    data = make_data(make_image_set(train=36))
    val = data.evaluation["val"]
    assert (val.num_samples, len(val), list(val)) == (0, 0, [])
    logits, labels = predict(torch.nn.Identity(), val)
    assert len(logits) == len(labels) == 0


def data_with_part(part):
    split = make_split(IMAGES.y_train, 1)
    chosen = choose_forget(split, IMAGES.y_train, count=16, forget_seed=1)
    return Data(
        IMAGES,
        split,
        chosen,
        device=CPU,
        batch_size=32,
        seed=3,
        retain=None if part is None else chosen.retain[part],
    )


def test_a_part_of_the_retain_set_is_what_methods_see_and_no_change_to_what_is_evaluated():
    whole, half = data_with_part(None), data_with_part(slice(None, None, 2))
    assert half.retain.indices.tolist() == sorted(whole.chosen.retain)[::2]
    seen, labels = visited(half.retain)
    assert sorted(index for index, *_ in seen) == sorted(whole.chosen.retain)[::2]
    assert labels == [IMAGES.y_train[index] for index, *_ in seen]
    assert half.retain.eval_view().num_samples == half.retain.num_samples == len(labels)
    for name in ("forget", "retain", "val", "test"):
        assert same(a_pass(whole.evaluation[name]), a_pass(half.evaluation[name])), name
    assert same(a_pass(whole.forget), a_pass(half.forget))


def test_all_of_the_retain_set_is_the_same_data_bit_for_bit():
    none, all_of_it = data_with_part(None), data_with_part(slice(None))
    for epoch in range(2):
        for data in (none, all_of_it):
            data.set_epoch(epoch)
        assert same(a_pass(none.retain), a_pass(all_of_it.retain))
    assert same(a_pass(none.evaluation["retain"]), a_pass(all_of_it.evaluation["retain"]))


# ------------------------------------------------------------------------------------- augmentation


@pytest.mark.parametrize(("pad", "flip"), [(1, True), (1, False), (2, True)])
def test_every_training_image_is_a_window_of_its_padded_self_and_all_windows_occur(pad, flip):
    image_set = make_image_set(train=96, side=5, crop=pad, flip=flip)
    data = make_data(image_set)
    kinds = set()
    for epoch in range(4 * pad):
        data.set_epoch(epoch)
        seen, labels = visited(data.retain, image_set)
        assert sorted(index for index, *_ in seen) == sorted(data.chosen.retain)
        assert labels == [image_set.y_train[index] for index, *_ in seen]
        kinds |= {tuple(how) for _, *how in seen}
    assert kinds == set(
        itertools.product(
            range(2 * pad + 1), range(2 * pad + 1), [False, True] if flip else [False]
        )
    )


def test_windows_and_flips_are_drawn_evenly_and_per_image():
    image_set = make_image_set(train=400, side=5)
    loader = make_loader(400, 400, image_set=image_set)
    counts = dict.fromkeys(itertools.product(range(3), range(3), [False, True]), 0)
    for epoch in range(9):
        loader.set_epoch(epoch)
        seen, _ = visited(loader, image_set)
        assert (
            len({tuple(how) for _, *how in seen}) == 18
        )  # in one batch, so not drawn once per batch
        for _, *how in seen:
            counts[tuple(how)] += 1
    # 3600 draws over 18 kinds: 200 each, standard deviation 13.7
    assert all(130 < count < 270 for count in counts.values()), counts


@pytest.mark.parametrize("how", ["a set without augmentation", "augmentation switched off"])
def test_unaugmented_training_images_are_as_they_are(how):
    image_set = (
        make_image_set(train=96, side=5, crop=0, flip=False) if how.startswith("a set") else IMAGES
    )
    data = make_data(image_set, augment=how.startswith("a set"))
    seen, labels = visited(data.retain, image_set, pad=0)
    assert {tuple(rest) for _, *rest in seen} == {(0, 0, False)}
    assert labels == [image_set.y_train[index] for index, *_ in seen]
    assert sorted(index for index, *_ in seen) == sorted(data.chosen.retain)
    assert [index for index, *_ in seen] != sorted(data.chosen.retain)


def test_training_leaves_the_resident_images_unchanged():
    images = DeviceImages(IMAGES.x_train, CPU, 1)
    before = images.pixels.clone()
    loader = Loader(images, np.arange(40), IMAGES.y_train, 16, name="retain")
    loader = loader.training(crop=True, flip=True)
    for batch, _ in loader:
        batch.zero_()
    for batch, _ in loader.eval_view():
        batch.zero_()
    assert torch.equal(images.pixels, before)


@pytest.mark.parametrize("name", ["crop", "flip"])
def test_the_first_of_two_views_is_that_of_a_plain_pass_and_the_second_another(name):
    """The same images in the same order, crops and flips of their own, in every pass others."""
    other = {"crop": "flip", "flip": "crop"}[name]
    loader, plain = (make_loader(**{other: False}) for _ in range(2))
    bare = make_loader(crop=False, flip=False, image_set=IMAGES)
    seen = []
    for _ in range(2):
        pairs, batches = list(loader.two_views()), a_pass(plain)
        assert same([(one, labels) for one, _, labels in pairs], batches)
        again = torch.cat([images for _, images, _ in pairs])
        first, unchanged = (torch.cat([x for x, _ in each]) for each in (batches, a_pass(bare)))
        if name == "flip":
            flipped = (again != unchanged).flatten(1).any(1)
            assert torch.equal(again[flipped], unchanged[flipped].flip(-1))
            assert 5 < flipped.sum() < 35
        assert 5 < (again != first).flatten(1).any(1).sum() < 40
        seen.append(again)
    assert not torch.equal(*seen)
    pairs = list(make_loader(crop=False, flip=False).two_views())
    assert all(torch.equal(one, other) for one, other, _ in pairs)


# ------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("train", [True, False])
@settings(max_examples=80, deadline=None)
@given(count=st.integers(0, 96), batch_size=st.integers(2, 100))
def test_an_epoch_visits_each_index_once_in_full_batches(train, count, batch_size):
    loader = make_loader(count, batch_size, train=train)
    sizes = [len(labels) for _, labels in loader]
    assert sum(sizes) == count == loader.num_samples
    assert len(sizes) == len(loader)
    wanted = [batch_size] * (count // batch_size) + [count % batch_size] * (count % batch_size > 0)
    if train and len(wanted) > 1 and wanted[-1] == 1:
        wanted = [*wanted[:-2], batch_size + 1]
    assert sizes == wanted
    if count:
        numbered = loader.relabelled(torch.arange(count))
        assert sorted(torch.cat([labels for _, labels in numbered]).tolist()) == list(range(count))


def test_a_last_batch_of_one_joins_its_neighbour_in_training_only():
    loader = make_loader(33, 16)
    assert [len(labels) for _, labels in loader] == [16, 17]
    assert [len(labels) for _, labels in loader.eval_view()] == [16, 16, 1]
    assert [len(labels) for _, labels in make_loader(1, 16)] == [1]


# ------------------------------------------------------------------------------------------ streams


@pytest.mark.parametrize(
    "disturbance",
    ["passes over forget", "broken-off pass", "evaluation", "views", "joined", "own draws"],
)
def test_what_retain_yields_does_not_depend_on_what_else_is_read(disturbance):
    quiet, data = make_data(IMAGES), make_data(IMAGES)
    if disturbance == "passes over forget":
        for _ in range(3):
            a_pass(data.forget)
    elif disturbance == "broken-off pass":
        next(iter(data.forget))
    elif disturbance == "evaluation":
        for loader in data.evaluation.values():
            a_pass(loader)
        a_pass(data.retain.eval_view())
    elif disturbance == "views":
        a_pass(data.retain.subset(10, "members"))
        a_pass(data.retain.batches_of(7))
        a_pass(data.retain.relabelled(torch.zeros_like(data.retain.labels)))
    elif disturbance == "joined":
        a_pass(data.forget.joined(data.retain))
        a_pass(data.retain.joined(data.forget))
    else:
        torch.randint(0, 4, (100,), generator=data.generator("labels"))
        torch.rand(100)
    assert same(a_pass(data.retain), a_pass(quiet.retain))


def test_the_same_seed_and_epoch_give_the_same_batches_in_another_run():
    one, other = make_data(IMAGES), make_data(IMAGES)
    for epoch in range(3):
        one.set_epoch(epoch)
        other.set_epoch(epoch)
        assert same(a_pass(one.retain), a_pass(other.retain))
        assert same(a_pass(one.forget), a_pass(other.forget))


def test_a_resumed_run_sees_the_batches_of_its_epoch():
    through, resumed = make_data(IMAGES), make_data(IMAGES)
    for epoch in range(4):
        through.set_epoch(epoch)
        last = a_pass(through.forget), a_pass(through.retain), a_pass(through.forget)
    resumed.set_epoch(3)
    assert all(
        same(a, b)
        for a, b in zip(
            last,
            (a_pass(resumed.forget), a_pass(resumed.retain), a_pass(resumed.forget)),
            strict=True,
        )
    )


def order(loader):
    return [index for index, *_ in visited(loader)[0]]


def test_another_epoch_seed_name_or_pass_has_another_order_and_other_crops():
    streams = {}
    for label, loader in {
        "first": make_loader(),
        "seed": make_loader(seed=4),
        "name": make_loader(name="forget"),
        "epoch": make_loader(),
    }.items():
        loader.set_epoch(label == "epoch")
        streams[label] = visited(loader)[0]
    again = make_loader()
    visited(again)
    streams["pass"] = visited(again)[0]
    for one, other in itertools.combinations(streams, 2):
        first, second = streams[one], streams[other]
        assert [index for index, *_ in first] != [index for index, *_ in second], (one, other)
        crops = [{index: tuple(how) for index, *how in seen} for seen in (first, second)]
        assert sum(crops[0][index] == crops[1][index] for index in crops[0]) < 20, (
            one,
            other,
        )  # 2 of 40 by chance


def test_order_crops_and_flips_have_streams_of_their_own():
    loader = make_loader()
    assert (
        len({loader.generator(purpose).initial_seed() for purpose in ("order", "crop", "flip")})
        == 3
    )
    assert order(make_loader(crop=True)) == order(make_loader(flip=False))
    seen = visited(make_loader())[0]
    unflipped = visited(make_loader(flip=False))[0]
    assert [(index, row) for index, row, *_ in unflipped] == [
        (index, row) for index, row, *_ in seen
    ]


def test_setting_the_epoch_rewinds_to_its_first_pass():
    loader = make_loader()
    loader.set_epoch(2)
    first, second = a_pass(loader), a_pass(loader)
    assert not same(first, second)
    loader.set_epoch(2)
    assert same(a_pass(loader), first)
    assert same(a_pass(loader), second)


def test_a_methods_own_draws_depend_on_seed_purpose_and_epoch_only():
    def draw(data, purpose, epoch):
        data.set_epoch(epoch)
        return torch.randint(0, 1000, (20,), generator=data.generator(purpose)).tolist()

    one, other = make_data(IMAGES), make_data(IMAGES)
    a_pass(other.forget)
    assert draw(one, "labels", 1) == draw(one, "labels", 1) == draw(other, "labels", 1)
    different = [
        draw(one, "labels", 1),
        draw(one, "labels", 2),
        draw(one, "noise", 1),
        draw(make_data(IMAGES, seed=4), "labels", 1),
    ]
    assert all(a != b for a, b in itertools.combinations(different, 2))


# -------------------------------------------------------------------------------------------- views


def test_a_relabelled_split_gives_each_image_its_own_new_label():
    data = make_data(IMAGES)
    new = torch.arange(data.forget.num_samples) + 100
    seen, labels = visited(data.forget.relabelled(new))
    rank = {index: place for place, index in enumerate(sorted(data.chosen.forget))}
    assert labels == [100 + rank[index] for index, *_ in seen]
    assert visited(data.forget)[1] == [
        IMAGES.y_train[index] for index in order(make_data(IMAGES).forget)
    ]


def test_joined_splits_are_shuffled_into_one():
    data = make_data(IMAGES, count=40, batch_size=20)
    forget, retain = set(data.chosen.forget), set(data.chosen.retain)
    joined = data.forget.relabelled(torch.full((40,), 9)).joined(data.retain)
    assert joined.num_samples == len(forget | retain)
    seen, labels = visited(joined)
    indices = [index for index, *_ in seen]
    assert sorted(indices) == sorted(forget | retain)
    assert labels == [9 if index in forget else IMAGES.y_train[index] for index in indices]
    for start in range(0, len(indices) - 19, 20):
        batch = set(indices[start : start + 20])
        assert batch & forget
        assert batch & retain
    assert order(joined) != indices


def test_a_joined_split_draws_apart_from_its_parts():
    """All of them with 40 images: equal streams would give equal permutations."""
    half = make_loader(20, name="forget")
    joined = half.joined(make_loader(20))
    twenty = joined.relabelled(torch.arange(40))
    plain = make_loader(40, name="forget").relabelled(torch.arange(40))
    assert torch.cat([y for _, y in twenty]).tolist() != torch.cat([y for _, y in plain]).tolist()


def test_a_shuffled_split_is_a_seeded_order_that_does_not_change_with_the_epoch():
    """Every image once under its label; an evaluation view keeps the order, which a data set sorted
    by class needs.
    """
    loader = make_loader(60)
    shuffled = loader.eval_view().shuffled("importance")
    order = shuffled.indices.tolist()
    assert sorted(order) == loader.indices.tolist() != order
    assert torch.equal(shuffled.labels, torch.tensor(IMAGES.y_train[order]))
    seen = torch.cat([images for images, _ in shuffled])
    in_order = torch.cat([images for images, _ in loader.eval_view()])
    assert torch.equal(seen, in_order[torch.searchsorted(loader.indices, shuffled.indices)])
    loader.set_epoch(5)
    assert loader.shuffled("importance").indices.tolist() == order
    for other in (
        make_loader(60, seed=4).shuffled("importance"),
        loader.shuffled("members"),
        make_loader(60, name="forget").shuffled("importance"),
    ):
        assert other.indices.tolist() != order


def test_a_subset_is_a_seeded_draw_that_does_not_change_with_the_epoch():
    loader = make_loader(60)
    subset = loader.subset(12, "members")
    members = subset.indices.tolist()
    assert len(set(members)) == 12
    assert members == sorted(members)
    assert set(members) <= set(range(60))
    for epoch in range(3):
        loader.set_epoch(epoch)
        a_pass(loader)
        view = loader.subset(12, "members")
        assert view.indices.tolist() == members
        seen, labels = visited(view)
        assert sorted(index for index, *_ in seen) == members
        assert labels == [IMAGES.y_train[index] for index, *_ in seen]
    assert loader.eval_view().subset(12, "members").indices.tolist() == members
    others = [
        make_loader(60, seed=4).subset(12, "members"),
        loader.subset(12, "shadow"),
        make_loader(60, name="forget").subset(12, "members"),
    ]
    assert all(other.indices.tolist() != members for other in others)


@pytest.mark.parametrize("count", [60, 61, 10**9])
def test_a_subset_as_large_as_the_split_is_the_split(count):
    loader = make_loader(60)
    assert loader.subset(count, "members").indices.tolist() == list(range(60))


def test_a_subset_draws_evenly():
    drawn = np.zeros(20)
    for seed in range(300):
        drawn[make_loader(20, seed=seed).subset(5, "members").indices] += 1
    assert drawn.sum() == 1500
    assert np.all((drawn > 45) & (drawn < 105)), drawn  # 75 each, standard deviation 7.5


def test_batches_of_another_size_leave_the_split_and_the_original_alone():
    loader = make_loader(40, 16)
    view = loader.batches_of(10)
    assert [len(labels) for _, labels in view] == [10] * 4
    assert [len(labels) for _, labels in loader] == [16, 16, 8]
    assert order(make_loader(40, 16).batches_of(10)) == order(make_loader(40, 16))


def test_images_class_by_class_keep_their_order_within_a_class():
    loader = make_loader(60)
    found = loader.by_class()
    assert found.indices.tolist() == sorted(
        range(60), key=lambda index: (IMAGES.y_train[index], index)
    )
    assert found.labels.tolist() == sorted(IMAGES.y_train[:60].tolist())
    assert visited(found.eval_view())[1] == found.labels.tolist()
    assert loader.indices.tolist() == list(range(60))


@pytest.mark.parametrize("tail", ["spread", "keep", "drop"])
def test_an_evaluation_view_has_every_image_whatever_training_drops(tail):
    loader = make_loader(40, 16, tail=tail)
    view = loader.eval_view()
    assert sum(len(labels) for _, labels in loader) == (32 if tail == "drop" else 40)
    assert (
        sum(len(labels) for _, labels in view)
        == sum(end - start for start, end in view.bounds())
        == 40
    )


@pytest.mark.parametrize(
    "options",
    [{}, {"tail": "drop"}, {"tail": "keep", "accumulate": 4}, {"tail": "spread", "accumulate": 4}],
    ids=str,
)
def test_even_batches_are_the_same_whatever_an_epochs_are(options):
    loader = make_loader(40, 16, **options)
    assert [len(labels) for _, labels in loader.evenly(12)] == [10] * 4
    assert [len(labels) for _, labels in loader.eval_view().evenly(39)] == [20, 20]


def test_an_evaluation_view_does_not_train_and_leaves_its_loader_training():
    loader = make_loader()
    view = loader.eval_view()
    assert visited(view) == (
        [(index, 1, 1, False) for index in range(40)],
        IMAGES.y_train[:40].tolist(),
    )
    assert order(loader) != list(range(40))


# ----------------------------------------------------------------------------------- the last batch


def sizes_of(n, batch_size, **options):
    loader = Loader(
        DeviceImages(IMAGES.x_train, CPU, 0),
        np.arange(n) % len(IMAGES.y_train),
        IMAGES.y_train,
        batch_size,
        name="some",
    ).training(**options)
    sizes = [len(labels) for _, labels in loader]
    assert len(loader) == len(sizes)
    return sizes


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16, 64])
def test_spread_batches_are_as_few_as_can_be_and_differ_by_one_image_at_most(batch_size):
    for n in range(1, 200):
        sizes = sizes_of(n, batch_size, tail="spread")
        assert sum(sizes) == n
        assert len(sizes) == math.ceil(n / batch_size)
        assert max(sizes) - min(sizes) <= 1


def test_the_other_tails_are_kept_or_dropped():
    assert sizes_of(132, 64, tail="keep") == [64, 64, 4]
    assert sizes_of(129, 64, tail="keep") == [64, 65], "BatchNorm cannot train on one image"
    assert sizes_of(132, 64, tail="drop") == [64, 64]
    assert sizes_of(128, 64, tail="drop") == [64, 64]
    assert sizes_of(40, 64, tail="drop") == [40], "all there is"
    loader = Loader(
        DeviceImages(IMAGES.x_train, CPU, 0),
        np.arange(70),
        IMAGES.y_train,
        32,
        name="some",
    ).training(tail="drop")
    assert sum(len(labels) for _, labels in loader.eval_view()) == 70, "what is evaluated is whole"
    assert sizes_of(132, 64) == [
        64,
        64,
        4,
    ], "a loader's own default, which evaluation takes, cuts as ever"


@pytest.mark.parametrize("accumulate", [2, 3, 4])
def test_accumulated_batches_make_the_updates_of_a_batch_as_large_as_all_of_them(accumulate):
    for n in range(1, 200):
        sizes = sizes_of(n, 8, tail="spread", accumulate=accumulate)
        updates = [
            sum(sizes[start : start + accumulate]) for start in range(0, len(sizes), accumulate)
        ]
        assert updates == sizes_of(n, 8 * accumulate, tail="spread")
        assert max(sizes) - min(sizes) <= 1
        assert max(sizes) <= 8
        assert min(sizes) >= min(n, 4), "never far below the batch size"


def test_every_image_of_a_spread_epoch_is_seen_once_in_every_loader_of_a_data_set():
    data = make_data(IMAGES, batch_size=50)
    for loader in (data.forget, data.retain, data.forget.joined(data.retain)):
        seen, _ = visited(loader)
        assert sorted(index for index, *_ in seen) == sorted(loader.indices.tolist())
        sizes = [len(labels) for _, labels in loader]
        assert max(sizes) - min(sizes) <= 1


def test_the_forget_set_has_batches_of_its_own_and_joined_ones_are_like_retain():
    split = make_split(IMAGES.y_train, 1)
    chosen = choose_forget(split, IMAGES.y_train, count=16, forget_seed=1)
    data = Data(IMAGES, split, chosen, device=CPU, batch_size=32, forget_batch_size=8, seed=3)
    assert [len(labels) for _, labels in data.forget] == [8, 8]
    assert data.forget.joined(data.retain).batch_size == data.retain.batch_size == 32
