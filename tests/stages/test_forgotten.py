"""--forget from the command line to the files: the chosen set whole, with what models say of it."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers import SETUP, call, refused, result

import evaluate
import generate_mask
import main_forget
import main_random
import main_train
from datasets import load_dataset
from datasets.splits import make_split
from stages.forgotten import MOST_SHOWN, evenly, thumbnails
from stages.saved import forgotten, read_saved

DIGITS = load_dataset("digits", "nowhere")
SPLIT = make_split(DIGITS.y_train, 1)


def unlearn(original, folder, *words, main=main_forget.main):
    given = ["--model_path", original, "--device", "cpu", "--batch_size", 64]
    return call(main, *given, "--save_dir", folder, *words)


def sets(folder, method):
    with np.load(folder / f"{method}forget.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.fixture(scope="module")
def raw(original, tmp_path_factory):
    """A run that changes nothing, and a method, on the same list of the data set's images."""
    folder = tmp_path_factory.mktemp("raw")
    listed = [*SPLIT.val[:2], *SPLIT.train[100:230]]
    (folder / "list.csv").write_text("".join(f"{i},{p}\n" for i, p in enumerate(listed)))
    spec = ["--forget", f"indices:@{folder / 'list.csv'}:1", "--skip_val"]
    assert unlearn(original, folder, "--unlearn", "raw", *spec) == 0
    assert unlearn(original, folder, "--unlearn", "GA", "--unlearn_epochs", 1, *spec) == 0
    return folder


def test_the_chosen_set_is_written_whole(raw):
    arrays, record = sets(raw, "raw"), result(raw, "raw")["data"]["forget"]
    assert arrays["indices"].tolist() == SPLIT.train[100:230].tolist()
    assert arrays["positions"].tolist() == list(range(100, 230))
    assert arrays["labels"].tolist() == DIGITS.y_train[SPLIT.train[100:230]].tolist()
    assert arrays["classes"].tolist() == list(DIGITS.classes)
    assert (record["kind"], record["count"]) == ("indexes", 130)
    assert "files" not in arrays
    shown = arrays["indices"][arrays["shown"]]
    assert np.array_equal(arrays["images"], DIGITS.x_train[shown])
    assert len(shown) == len(set(shown)) == MOST_SHOWN


@pytest.mark.parametrize("method", ["raw", "GA"])
def test_answers_are_those_that_the_metrics_count(method, raw):
    arrays = sets(raw, method)
    wrong = 100 * np.mean(arrays["said_after"] != arrays["labels"])
    assert wrong == pytest.approx(result(raw, method)["metrics"]["UA"])
    # What did nothing has nothing to be compared with; another method's original is that model.
    assert ("said_before" in arrays) == (method == "GA")
    if method == "GA":
        assert arrays["said_before"].tolist() == sets(raw, "raw")["said_after"].tolist()


def test_a_spec_and_the_references_flag_choose_one_set(original, tmp_path, capsys):
    hashes = []
    for words in (["--forget", "random:130"], ["--num_indexes_to_replace", 130]):
        capsys.readouterr()
        assert unlearn(original, tmp_path, "--unlearn", "raw", *words, "--dry_run") == 0
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "forget 130" in line]
        hashes.append(line.split()[-1])
    assert hashes[0] == hashes[1]


def test_the_references_list_says_what_it_counts(original, tmp_path, capsys):
    words = ["--unlearn", "raw", "--indexes_to_replace", "5,7", "--dry_run"]
    assert unlearn(original, tmp_path, *words) == 0
    assert "counts the 1298 training images, validation left out" in capsys.readouterr().out


SCRIPTS = {"main_forget": main_forget, "main_random": main_random, "generate_mask": generate_mask}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    "words",
    [["--class_to_replace", -1], ["--indexes_to_replace", "5"], ["--num_indexes_to_replace", 9]],
    ids=lambda words: words[0],
)
def test_a_spec_beside_one_of_the_references_flags_is_refused(
    script, words, original, tmp_path, capsys
):
    command = ["--forget", "class:3", *words]
    code = unlearn(original, tmp_path / "out", *command, main=SCRIPTS[script].main)
    refused(capsys, code, "--forget class:3", f"or {words[0]}")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--class_to_replace", "cat"], ["no class cat", "0 to 9"]),
        (["--class_to_replace", "3,10"], ["no class 10", "0 to 9"]),
        (["--num_indexes_to_replace", "0%"], ["0%", "above 0"]),
        (["--forget", "class:3", "--skip_val"], ["--skip_val", "indices:@FILE"]),
        (["--forget", "positions:@none.npy"], ["none.npy", "no such file"]),
        (["--forget", "files:a.png"], ["digits is read from arrays"]),
        (["--leave_out", "5,5", "--forget", "random:9"], ["--leave_out", "5 is given twice"]),
        (["--leave_out", "5,x", "--forget", "random:9"], ["--leave_out", "'x'"]),
    ],
    ids=lambda part: " ".join(part),
)
def test_requests_that_cannot_be_meant_end_in_one_line(words, said, original, tmp_path, capsys):
    refused(capsys, unlearn(original, tmp_path / "out", "--unlearn", "raw", *words), *said)
    assert not (tmp_path / "out").exists()


def test_training_warns_of_what_only_later_steps_read(tmp_path, capsys):
    words = ["--forget", "class:3", "--skip_val", "--save_dir", tmp_path, "--dry_run"]
    assert call(main_train.main, *SETUP, *words) == 0
    assert "main_train does not read --forget, --skip_val" in capsys.readouterr().err


@pytest.fixture(scope="module")
def two_classes(original, tmp_path_factory):
    """Two whole classes forgotten by a mask's method and by Retrain."""
    folder = tmp_path_factory.mktemp("classes")
    spec = ["--forget", "classes:3,5"]
    assert unlearn(original, folder / "mask", *spec, main=generate_mask.main) == 0
    salun = ["--unlearn", "salun", "--unlearn_epochs", 1]
    mask = ["--mask_path", folder / "mask/with_0.5.pt"]
    assert unlearn(original, folder, *salun, *mask, *spec, main=main_random.main) == 0
    retrain = ["--unlearn", "retrain", "--unlearn_epochs", 1]
    assert unlearn(original, folder, *retrain, "--class_to_replace", "5,3") == 0
    return folder


def test_several_classes_leave_validation_and_test(two_classes):
    data = result(two_classes, "RL")["data"]
    assert data["sizes"]["test"] == int(np.sum(~np.isin(DIGITS.y_test, (3, 5))))
    assert data["sizes"]["val"] == int(np.sum(~np.isin(DIGITS.y_train[SPLIT.val], (3, 5))))
    assert data["forget"]["classes"] == [{"index": 3, "name": "3"}, {"index": 5, "name": "5"}]
    assert data["forget"] == result(two_classes, "retrain")["data"]["forget"]
    assert "said_before" not in sets(two_classes, "retrain")


def test_several_classes_are_evaluated_as_they_were_forgotten(two_classes, original, capsys):
    words = ["--models", two_classes / "RLcheckpoint.pth.tar", "--original", original]
    more = ["--retrain", two_classes / "retraincheckpoint.pth.tar", "--device", "cpu"]
    assert call(evaluate.main, *words, *more) == 0
    audit = json.loads((two_classes / "audit.json").read_text())
    recorded = result(two_classes, "RL")["data"]["forget"]
    recorded.pop("forget_seed")
    assert audit["data"]["forget"] == recorded
    assert audit["data"]["scenario"] == "class"
    assert audit["data"]["sizes"]["test_forgotten"] == int(np.sum(np.isin(DIGITS.y_test, (3, 5))))
    assert "forget classes 3, 5" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "kind", "classes"),
    [
        ({"class_to_replace": 3}, "class", (3,)),
        ({"indexes_to_replace": "1,2"}, "indexes", ()),
        ({"num_indexes_to_replace": 9}, "random", ()),
    ],
)
def test_a_checkpoint_from_before_the_record_is_read_by_its_flags(flags, kind, classes, raw):
    saved = read_saved(raw / "GAcheckpoint.pth.tar", "models")
    assert saved.forgotten == {"kind": "indexes", "classes": []}
    none = {"class_to_replace": -1, "indexes_to_replace": None, "num_indexes_to_replace": None}
    older = dataclasses.replace(saved, forgotten={}, arguments=none | flags)
    found = forgotten(older, DIGITS.y_train)
    assert (found.kind, found.classes, found.dropped_classes) == (kind, classes, ())
    assert torch.equal(torch.from_numpy(found.forget), torch.from_numpy(saved.forget))


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "class", "classes": [10]},
        {"kind": "class", "classes": [-1]},
        {"kind": "class", "classes": []},
        {"kind": "random", "classes": [3]},
        {"kind": "magic", "classes": []},
    ],
    ids=str,
)
def test_a_record_that_cannot_be_is_damaged(record, raw):
    saved = read_saved(raw / "GAcheckpoint.pth.tar", "models")
    with pytest.raises(ValueError, match="it forgot"):
        forgotten(dataclasses.replace(saved, forgotten=record), DIGITS.y_train)


@pytest.mark.parametrize(("count", "most"), [(1, 64), (5, 64), (64, 64), (65, 64), (4500, 64)])
def test_shown_images_are_spread_evenly(count, most):
    places = evenly(count, most)
    assert len(set(places.tolist())) == min(count, most)
    assert (places[0], places[-1]) == (0, count - 1)
    assert len(set(np.diff(places).tolist())) <= 2


def test_large_images_become_small_ones():
    grey = np.full((2, 224, 224, 3), 90, np.uint8)
    assert thumbnails(grey, 64).shape == (2, 64, 64, 3)
    assert np.all(thumbnails(grey, 64) == 90)
    assert thumbnails(grey, 224) is grey
