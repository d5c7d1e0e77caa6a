"""Exact copies: found as by comparing all pairs, counted, and forgotten on request."""

import numpy as np
import pytest

from datasets.copies import copies_line, copies_of, image_hashes, settle_copies
from datasets.splits import Split, choose_forget, make_split
from tests.helpers import call, make_image_set
from utils import UserError

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 4, 4, 3), np.uint8)
IMAGES[[31, 32, 33]] = IMAGES[[1, 2, 2]]
IMAGES[34, 0, 0, 0] = IMAGES[3, 0, 0, 0]
LABELS = np.arange(40) % 2


def test_hashes_are_equal_where_all_pixels_are():
    hashes = image_hashes(IMAGES)
    for i in range(40):
        for j in range(40):
            assert (hashes[i] == hashes[j]) == np.array_equal(IMAGES[i], IMAGES[j])


def test_the_hash_is_of_the_pixels_not_of_their_place_in_memory():
    assert np.array_equal(image_hashes(IMAGES[::-1]), image_hashes(IMAGES)[::-1])


def test_copies_are_those_of_all_pairs():
    hashes, chosen = image_hashes(IMAGES), np.array([2, 5, 31])
    among = np.setdiff1d(np.arange(40), chosen)
    wanted = [i for i in among if any(np.array_equal(IMAGES[i], IMAGES[c]) for c in chosen)]
    assert copies_of(hashes, chosen, among).tolist() == wanted == [1, 32, 33]


def test_copies_within_and_across_halves_are_counted():
    train, test = image_hashes(IMAGES), image_hashes(IMAGES[[1, 1, 9, 34]])
    assert copies_line(train, test) == (
        "exact copies: 3 of 40 training images repeat another one, 4 of 4 test images are also in"
        " training, 1 repeat another test image"
    )
    assert copies_line(image_hashes(IMAGES[:20]), image_hashes(IMAGES[20:31])) is None


def split_of(forget):
    whole = Split(1, np.arange(40), np.empty(0, np.int64))
    return choose_forget(whole, LABELS, positions=np.array(forget))


def test_a_copy_that_stays_is_said_once_with_the_count_and_the_remedy(capsys):
    chosen = split_of([1, 2, 5])
    assert settle_copies(image_hashes(IMAGES), chosen, forget_them=False) is chosen
    said = capsys.readouterr().err
    assert said.startswith("warning: 2 of 3 forgotten images keep an exact copy among the 37")
    assert "--forget_copies" in said
    assert said.count("\n") == 1


def test_copies_are_forgotten_too(capsys):
    chosen = settle_copies(image_hashes(IMAGES), split_of([1, 2, 5]), forget_them=True)
    assert chosen.forget.tolist() == [1, 2, 5, 31, 32, 33]
    assert chosen.retain.tolist() == sorted({*range(40)} - {1, 2, 5, 31, 32, 33})
    assert "3 exact copies are forgotten with the 3 images" in capsys.readouterr().out


@pytest.mark.parametrize("forget_them", [False, True])
def test_without_copies_nothing_is_said_or_changed(capsys, forget_them):
    chosen = split_of([5, 34])
    assert settle_copies(image_hashes(IMAGES), chosen, forget_them=forget_them) is chosen
    assert capsys.readouterr() == ("", "")


def test_a_copy_among_the_validation_images_is_no_copy_in_retain(capsys):
    split = make_split(LABELS, 1)
    images = IMAGES.copy()
    images[split.val[0]] = images[split.train[0]]
    chosen = choose_forget(split, LABELS, positions=np.array([0]))
    hashes = image_hashes(images)
    kept = copies_of(hashes, chosen.forget, chosen.retain)
    assert settle_copies(hashes, chosen, forget_them=True).forget.tolist() == [0, *kept]


def test_nothing_left_to_retain_is_refused():
    same = image_hashes(np.zeros((40, 4, 4, 3), np.uint8))
    with pytest.raises(UserError, match="1 forgotten images and their 39 copies leave none"):
        settle_copies(same, split_of([1]), forget_them=True)


def test_a_data_sets_hashes_are_made_once():
    data = make_image_set()
    assert data.train_hashes is data.train_hashes
    assert np.array_equal(data.train_hashes, image_hashes(data.x_train))


def test_the_flag_reaches_the_result(tmp_path, capsys):
    """Each training image exists twice; so the forget set doubles, and Retrain sees no copy."""
    import main_forget
    from tests.helpers import result

    rng = np.random.default_rng(0)
    half = rng.integers(0, 256, (40, 8, 8), np.uint8)
    np.savez(
        tmp_path / "a.npz",
        x_train=np.concatenate([half, half]),
        y_train=np.tile(np.arange(40) % 2, 2),
        x_test=rng.integers(0, 256, (10, 8, 8), np.uint8),
        y_test=np.arange(10) % 2,
    )
    words = ["--dataset", "npz", "--data", tmp_path / "a.npz", "--arch", "resnet20s"]
    words += ["--unlearn", "retrain", "--unlearn_epochs", 1, "--batch_size", 16]
    words += ["--num_indexes_to_replace", 6, "--device", "cpu", "--precision", "fp32"]
    counts = {}
    for flag in ([], ["--forget_copies"]):
        folder = tmp_path / f"run{len(flag)}"
        assert call(main_forget.main, *words, *flag, "--save_dir", folder) == 0
        counts[len(flag)] = result(folder, "retrain")["data"]["forget"]["count"]
    said = capsys.readouterr()
    assert "forgotten images keep an exact copy" in said.err
    assert counts[0] == 6
    assert 6 < counts[1] <= 12
    assert "40 of 80 training images repeat another one" in said.out
