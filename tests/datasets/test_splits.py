"""Who is held out, forgotten and retained: against the reference's draw written anew, and every
request that is refused.
"""

import dataclasses
import itertools
import re

import numpy as np
import pytest
import torch
from helpers import make_image_set
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datasets.splits import (
    Split,
    check_lineage,
    choose_forget,
    leave_out,
    make_split,
    retain_part,
    split_record,
    validation_halves,
)
from utils import UserError

SEEDS = [0, 1, 2, 17, 2**32 - 1]


def labels_of(sizes, seed=5):
    """Labels with ``sizes[c]`` images of class c, in a shuffled order as in a real file."""
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


def reference_split(labels, seed):
    """The reference's hold-out draw, image by image: plain Python but for the draw itself."""
    rng = np.random.RandomState(seed)
    val = []
    for c in range(max(labels) + 1):
        members = [i for i, label in enumerate(labels) if label == c]
        val += rng.choice(members, int(0.1 * len(members)), replace=False).tolist()
    return [i for i in range(len(labels)) if i not in set(val)], val


# ----------------------------------------------------------------------------------------- hold-out


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("sizes", [(50, 50, 50, 50), (9, 10, 19, 20, 31), (100, 1)])
def test_validation_is_the_references_draw(sizes, seed):
    labels = labels_of(sizes)
    train, val = reference_split(labels.tolist(), seed)
    split = make_split(labels, seed)
    assert split.val.tolist() == val
    assert split.train.tolist() == train
    assert split.split_seed == seed


def test_validation_holds_ten_percent_of_each_class_rounded_down():
    labels = labels_of((9, 10, 19, 20, 31))
    split = make_split(labels, 1)
    assert np.bincount(labels[split.val], minlength=5).tolist() == [0, 1, 1, 2, 3]


@pytest.mark.parametrize(
    ("fraction", "held"),
    [(0.0, [0, 0, 0, 0, 0]), (0.25, [2, 2, 4, 5, 7]), (0.9, [8, 9, 17, 18, 27])],
)
def test_validation_holds_another_fraction_of_each_class_rounded_down(fraction, held):
    labels = labels_of((9, 10, 19, 20, 31))
    split = make_split(labels, 1, fraction)
    assert np.bincount(labels[split.val], minlength=5).tolist() == held
    assert sorted([*split.train, *split.val]) == list(range(len(labels)))


@pytest.mark.parametrize("percent", range(100))
def test_a_fraction_is_the_decimal_that_was_typed(percent):
    """0.57 of 5000 is 2850; as floats their product is below it."""
    labels = np.zeros(5000, np.int64)
    assert len(make_split(labels, 1, percent / 100).val) == 50 * percent


@pytest.mark.parametrize("sizes", [(200, 200, 200), (10, 30, 50, 70, 19), (9, 10)])
def test_the_halves_of_validation_part_it_evenly_in_every_class(sizes):
    labels = labels_of(sizes)
    split = make_split(labels, 1)
    a, b = validation_halves(split, labels)
    assert sorted([*a, *b]) == sorted(split.val)
    assert len(a) - len(b) in (0, 1)
    apart = np.bincount(labels[a], minlength=5) - np.bincount(labels[b], minlength=5)
    assert np.abs(apart).max() <= 1
    shuffled = dataclasses.replace(split, val=split.val[::-1])
    assert np.array_equal(validation_halves(shuffled, labels)[0], a)
    if len(a) > 5:
        other = dataclasses.replace(split, split_seed=2)
        assert not np.array_equal(validation_halves(other, labels)[0], a)


def test_training_positions_are_in_index_order_and_indices_are_int64():
    split = make_split(labels_of((40, 40)), 1)
    assert np.all(np.diff(split.train) > 0)
    assert split.train.dtype == split.val.dtype == np.int64


def test_another_split_seed_holds_out_other_images():
    labels = labels_of((200, 200))
    assert set(make_split(labels, 1).val) != set(make_split(labels, 2).val)


def test_the_split_neither_uses_nor_moves_numpys_global_generator():
    labels = labels_of((50, 50))
    drawn = []
    for seed in (3, 4):
        np.random.seed(seed)
        drawn.append(choose_forget(make_split(labels, 1), labels, count=7).forget.tolist())
        assert np.random.random() == np.random.RandomState(seed).random_sample()
    assert drawn[0] == drawn[1]


# -------------------------------------------------------------------------------------- forget draw


@pytest.mark.parametrize(
    ("forget_seed", "state"), [(0, 2**32 - 1), (1, 0), (2, 1), (10, 9), (2**32, 2**32 - 1)]
)
def test_random_forget_set_is_the_references_draw(forget_seed, state):
    labels = labels_of((60, 60, 60))
    split = make_split(labels, 1)
    wanted = np.random.RandomState(state).choice(split.train, 40, replace=False)
    chosen = choose_forget(split, labels, count=40, forget_seed=forget_seed)
    assert chosen.forget.tolist() == wanted.tolist()
    assert (chosen.kind, chosen.dropped_classes) == ("random", ())


@pytest.mark.parametrize(("forget_seed", "state"), [(0, 2**32 - 1), (1, 0), (2, 1)])
def test_part_of_a_class_is_the_references_draw_among_its_training_images(forget_seed, state):
    labels = labels_of((60, 60, 60))
    split = make_split(labels, 1)
    members = [i for i in split.train.tolist() if labels[i] == 2]
    wanted = np.random.RandomState(state).choice(members, 20, replace=False)
    chosen = choose_forget(split, labels, count=20, classes=(2,), forget_seed=forget_seed)
    assert chosen.forget.tolist() == wanted.tolist()
    assert (chosen.kind, chosen.dropped_classes) == ("class", ())


def test_drawing_training_positions_and_drawing_training_images_are_one_draw():
    """The reference draws positions in its training set; drawing our indices must choose the same
    images.
    """
    labels = labels_of((60, 60, 60))
    split = make_split(labels, 1)
    positions = np.random.RandomState(1).choice(np.arange(len(split.train)), 30, replace=False)
    assert (
        choose_forget(split, labels, count=30, forget_seed=2).forget.tolist()
        == split.train[positions].tolist()
    )


@pytest.mark.parametrize("count", [None, 54])
def test_a_whole_class_is_dropped_from_evaluation(count):
    labels = labels_of((60, 60, 60))
    split = make_split(labels, 1)
    chosen = choose_forget(split, labels, count=count, classes=(0,))
    assert sorted(chosen.forget) == [i for i in split.train if labels[i] == 0]
    assert chosen.dropped_classes == (0,)
    assert chosen.kind == "class"


def test_all_but_one_image_of_a_class_does_not_drop_it():
    labels = labels_of((60, 60, 60))
    chosen = choose_forget(make_split(labels, 1), labels, count=53, classes=(0,))
    assert chosen.dropped_classes == ()


def test_a_list_counts_positions_in_the_training_split():
    labels = labels_of((60, 60, 60))
    split = make_split(labels, 1)
    positions = [100, 0, 7, len(split.train) - 1]
    chosen = choose_forget(split, labels, positions=np.array(positions))
    assert chosen.forget.tolist() == [split.train.tolist()[p] for p in positions]
    assert chosen.kind == "indexes"
    assert sorted([*chosen.forget, *chosen.retain]) == split.train.tolist()


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 45), min_size=2, max_size=6),
    split_seed=st.integers(0, 2**32 - 1),
    forget_seed=st.integers(0, 2**32 - 1),
    share=st.floats(0, 1),
    how=st.sampled_from(["random", "class", "positions"]),
    drawn=st.data(),
)
def test_train_and_val_part_the_images_and_forget_and_retain_part_train(
    sizes, split_seed, forget_seed, share, how, drawn
):
    labels = labels_of(sizes)
    split = make_split(labels, split_seed)
    assert sorted([*split.train, *split.val]) == list(range(len(labels)))
    if how == "class":
        c = drawn.draw(st.integers(0, len(sizes) - 1))
        available = int(np.sum(labels[split.train] == c))
        chosen = choose_forget(
            split,
            labels,
            count=max(1, int(share * available)),
            classes=(c,),
            forget_seed=forget_seed,
        )
        assert set(labels[chosen.forget]) == {c}
        assert (chosen.dropped_classes == (c,)) == (len(chosen.forget) == available)
    else:
        count = max(1, int(share * len(split.train)))
        assume(count < len(split.train))
        positions = (
            np.random.default_rng(forget_seed).permutation(len(split.train))[:count]
            if how == "positions"
            else None
        )
        chosen = choose_forget(
            split, labels, count=count, positions=positions, forget_seed=forget_seed
        )
        assert len(chosen.forget) == count
    assert sorted([*chosen.forget, *chosen.retain]) == split.train.tolist()
    assert len(chosen.retain)
    assert not set(split.val) & {*chosen.forget, *chosen.retain}


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("request_", "facts"),
    [
        pytest.param({"count": 109}, ["109", "108"], id="more than there are"),
        pytest.param(
            {"count": 55, "classes": (1,)},
            ["55", "54", "class 1"],
            id="more than the class has",
        ),
        pytest.param({"count": 108}, ["108", "none to retain"], id="nothing left to retain"),
        pytest.param(
            {"positions": np.arange(108)},
            ["108", "none to retain"],
            id="a list that leaves nothing",
        ),
        pytest.param({"count": 0}, ["0", "at least 1|allowed 1"], id="none"),
        pytest.param({"count": -5}, ["-5"], id="a negative number"),
        pytest.param({"count": 0, "classes": (1,)}, ["0", "54"], id="none of a class"),
        pytest.param({"classes": (2,)}, ["2", "0 to 1"], id="an unknown class"),
        pytest.param({"classes": (-2,)}, ["-2", "0 to 1"], id="a negative class"),
        pytest.param(
            {"positions": np.array([3, 108])}, ["108", "0 to 107"], id="a position behind the last"
        ),
        pytest.param(
            {"positions": np.array([3, -1])}, ["-1", "0 to 107"], id="a negative position"
        ),
        pytest.param(
            {"positions": np.array([3, 41, 5, 41])}, ["41", "twice"], id="a position twice"
        ),
        pytest.param({"positions": np.array([], int)}, ["empty"], id="an empty list"),
        pytest.param({}, ["108", "none to retain"], id="everything"),
    ],
)
def test_an_impossible_request_is_refused_with_its_value(request_, facts):
    labels = labels_of((60, 60))
    with pytest.raises(UserError) as refusal:
        choose_forget(make_split(labels, 1), labels, **request_)
    message = str(refusal.value)
    for fact in facts:
        assert re.search(rf"(?<![\w-])({fact})\b", message), message
    assert "\n" not in message


def test_the_largest_possible_request_is_granted():
    labels = labels_of((60, 60))
    assert len(choose_forget(make_split(labels, 1), labels, count=107).retain) == 1


# -------------------------------------------------------------------------------------- retain part


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(2, 45), min_size=2, max_size=6),
    fraction=st.floats(1e-6, 1),
    forget_seed=st.integers(0, 2**32 - 1),
    share=st.floats(0.01, 0.95),
)
def test_a_retain_part_has_the_fraction_of_every_class_within_one_image_and_at_least_one(
    sizes, fraction, forget_seed, share
):
    labels = labels_of(sizes)
    split = make_split(labels, 1)
    chosen = choose_forget(
        split, labels, count=max(1, int(share * len(split.train))), forget_seed=forget_seed
    )
    part = retain_part(chosen, labels, fraction, forget_seed)
    assert set(part) <= set(chosen.retain)
    assert np.all(np.diff(part) > 0)
    assert part.dtype == np.int64
    for c in range(len(sizes)):
        available, kept = np.sum(labels[chosen.retain] == c), np.sum(labels[part] == c)
        assert abs(kept - fraction * available) <= 1
        assert bool(kept) == bool(available)


def test_a_smaller_retain_part_lies_inside_a_larger_one_and_all_of_it_is_the_retain_set():
    labels = labels_of((60, 9, 33))
    chosen = choose_forget(make_split(labels, 1), labels, count=20)
    parts = [
        set(retain_part(chosen, labels, fraction, 2))
        for fraction in (0.01, 0.1, 0.25, 0.5, 0.75, 0.99)
    ]
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(parts))
    assert [len(part) for part in parts] == sorted({len(part) for part in parts})
    np.testing.assert_array_equal(retain_part(chosen, labels, 1.0, 2), chosen.retain)


def test_a_retain_part_is_drawn_evenly_by_its_seed_alone():
    """Each of 36 images in 300 draws of a quarter: 75 times, standard deviation 7.5."""
    labels = labels_of((20, 20))
    chosen = choose_forget(make_split(labels, 1), labels, positions=np.array([0]))
    drawn = np.zeros(len(labels))
    for seed in range(300):
        np.random.seed(seed % 2)
        part = retain_part(chosen, labels, 0.25, seed)
        np.testing.assert_array_equal(part, retain_part(chosen, labels, 0.25, seed))
        drawn[part] += 1
    counts = drawn[chosen.retain]
    assert np.all((counts > 40) & (counts < 110)), counts
    assert not drawn[chosen.forget].any()


def test_a_dropped_class_has_no_retain_part():
    labels = labels_of((30, 30, 30))
    chosen = choose_forget(make_split(labels, 1), labels, classes=(1,))
    assert np.bincount(labels[retain_part(chosen, labels, 1 / 27, 2)]).tolist() == [1, 0, 1]


# ------------------------------------------------------------------------------------------ lineage


def original(image_set, split_seed=1):
    """The record of a model trained on ``image_set``, as a checkpoint returns it."""
    split = make_split(image_set.y_train, split_seed)
    return split, split_record(image_set.name, image_set.sha256(), split, split.train)


def test_a_record_survives_a_checkpoint_without_pickle(image_set, tmp_path):
    split, record = original(image_set)
    torch.save(record, tmp_path / "record.pt")
    loaded = torch.load(tmp_path / "record.pt", weights_only=True)
    assert loaded["train"].tolist() == split.train.tolist()
    assert loaded["val"].tolist() == split.val.tolist()
    assert (loaded["dataset"], loaded["split_seed"], loaded["data_sha256"]) == (
        "tiny",
        1,
        image_set.sha256(),
    )


@pytest.mark.parametrize(
    "request_", [{"count": 20}, {"classes": (3,)}, {"positions": np.array([5, 1])}, None]
)
def test_lineage_accepts_the_split_that_the_model_was_trained_on(image_set, request_):
    _, record = original(image_set)
    split = make_split(image_set.y_train, 1)
    chosen = None if request_ is None else choose_forget(split, image_set.y_train, **request_)
    check_lineage(record, image_set.sha256(), split, chosen)


@pytest.mark.parametrize("whole_split", [False, True])
def test_official_bug_split_seed_mismatch(image_set, whole_split):
    """The reference splits for unlearning by --seed and for training by 1: it forgets images that
    were never learnt.
    """
    trained, record = original(image_set, split_seed=1)
    other = make_split(image_set.y_train, 2)
    chosen = (
        None if whole_split else choose_forget(other, image_set.y_train, count=60, forget_seed=2)
    )
    with pytest.raises(UserError) as refusal:
        check_lineage(record, image_set.sha256(), other, chosen)
    message = str(refusal.value)
    parts = (
        {"training": other.train}
        if whole_split
        else {"forget": chosen.forget, "retain": chosen.retain}
    )
    for name, indices in parts.items():
        unseen = sum(i not in set(trained.train) for i in indices)
        assert f"{unseen} of {len(indices)} {name} images" in message
    leaked = len(set(other.val) & set(trained.train))
    assert leaked > 0
    assert f"{leaked} of its training images" in message
    assert f"on {len(trained.train)} images" in message
    assert "trained with --split_seed 1" in message
    assert "of --split_seed 2" in message


def test_lineage_refuses_a_forget_image_that_was_never_learnt(image_set):
    split, record = original(image_set)
    chosen = choose_forget(split, image_set.y_train, count=5)
    record["train"] = torch.from_numpy(np.setdiff1d(split.train, chosen.forget[:1]))
    with pytest.raises(UserError, match=r"1 of 5 forget images, 0 of \d+ retain images"):
        check_lineage(record, image_set.sha256(), split, chosen)


def test_lineage_refuses_validation_images_that_were_learnt(image_set):
    split, record = original(image_set)
    record["train"] = torch.arange(len(image_set.y_train))
    with pytest.raises(UserError, match=f"{len(split.val)} of its training images would validate"):
        check_lineage(record, image_set.sha256(), split, None)


@pytest.mark.parametrize(("theirs", "ours"), [(0.0, 0.1), (0.1, 0.0), (0.3, 0.1)])
def test_lineage_refuses_another_share_of_validation_and_names_both(image_set, theirs, ours):
    labels = image_set.y_train
    trained, split = make_split(labels, 1, theirs), make_split(labels, 1, ours)
    record = split_record(image_set.name, image_set.sha256(), trained, trained.train)
    check_lineage(record, image_set.sha256(), trained, None)
    with pytest.raises(UserError) as refusal:
        check_lineage(record, image_set.sha256(), split, None)
    for share in {theirs, ours} - {0.1}:
        assert f"--split_seed 1 --val_fraction {share:g}" in str(refusal.value)


def test_lineage_refuses_other_data_with_both_hashes(image_set):
    _, record = original(image_set)
    other = make_image_set(seed=1)
    split = make_split(other.y_train, 1)
    with pytest.raises(UserError) as refusal:
        check_lineage(record, other.sha256(), split, choose_forget(split, other.y_train, count=5))
    assert image_set.sha256()[:12] in str(refusal.value)
    assert other.sha256()[:12] in str(refusal.value)


# ------------------------------------------------------------------------------------------- hashes


def test_a_forget_sets_hash_does_not_depend_on_its_order():
    labels = labels_of((60, 60))
    split = make_split(labels, 1)
    hashes = {
        choose_forget(split, labels, positions=np.array(p)).sha256()
        for p in ([4, 9, 70], [70, 4, 9], [9, 70, 4])
    }
    assert len(hashes) == 1
    assert len(hashes.pop()) == 64


def test_another_forget_set_has_another_hash():
    labels = labels_of((60, 60))
    split = make_split(labels, 1)
    hashes = [
        choose_forget(split, labels, positions=np.array(p)).sha256()
        for p in ([4, 9], [4, 10], [4], [4, 9, 10])
    ]
    assert len(set(hashes)) == 4


def test_a_data_sets_hash_sees_every_training_pixel_label_and_their_order(image_set):
    hashes = {image_set.sha256()}
    for change in ("pixel", "label", "order"):
        other = make_image_set()
        if change == "pixel":
            other.x_train[-1, -1, -1, -1] ^= 1
        elif change == "label":
            other.y_train[-1] = (other.y_train[-1] + 1) % 4
        else:
            other.x_train[[0, 1]] = other.x_train[[1, 0]]
        hashes.add(other.sha256())
    assert len(hashes) == 4
    assert make_image_set().sha256() == image_set.sha256()


def test_a_split_is_frozen():
    split = Split(1, np.arange(3), np.arange(3, 5))
    with pytest.raises(AttributeError):
        split.train = np.arange(5)


# -------------------------------------------------------------------------------------- leaving out


def test_left_out_images_belong_to_nothing():
    labels = labels_of((50, 50, 50))
    whole = make_split(labels, 1)
    split = leave_out(whole, np.array([0, 7, 3]))
    gone = whole.train[[0, 3, 7]]
    assert not np.isin(gone, split.train).any()
    assert sorted([*split.train, *gone]) == whole.train.tolist()
    np.testing.assert_array_equal(split.val, whole.val)
    chosen = choose_forget(split, labels, count=len(split.train) - 1, forget_seed=3)
    assert not np.isin(gone, np.concatenate([chosen.forget, chosen.retain])).any()
    listed = choose_forget(split, labels, positions=np.array([0]))
    assert listed.forget.tolist() == [split.train[0]]  # positions count what is left


@pytest.mark.parametrize(
    ("positions", "said"),
    [([135], "out of range"), ([-1], "out of range"), ([3, 3], "twice"), (range(135), "names all")],
)
def test_what_cannot_be_left_out_is_refused(positions, said):
    split = make_split(labels_of((50, 50, 50)), 1)
    assert len(split.train) == 135
    with pytest.raises(UserError, match=f"--leave_out.*{said}"):
        leave_out(split, np.array(positions))
