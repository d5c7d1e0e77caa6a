"""Checkpoints of finished runs: weights and records, and nothing that only --resume of an
unfinished run needs.
"""

import numpy as np
import pytest
import torch
from helpers import (
    EPOCHS,
    SETUP,
    call,
    cut_short,
    forget,
    patch_stages,
    refused,
    result,
    weights,
)

import engine
import evaluate
import main_train
from engine import OF_UNFINISHED
from runtime.files import hash_arrays, load_json, save
from stages import train
from stages.checkpoints import read_original
from stages.saved import read_saved

LAST, BEST = "0checkpoint.pth.tar", "0model_SA_best.pth.tar"
TRAIN = [*SETUP, "--epochs", 2, "--lr", 0.1, "--save_dir"]
TWO_OPTIMIZERS = ["--unlearn", "RL", "--forget_optimizer", "sgd", "--forget_lr", 0.01]


def read(file):
    return torch.load(file, weights_only=True)


def bytes_of(state_dict):
    return sum(value.numel() * value.element_size() for value in state_dict.values())


def check_slim(file):
    """No entry of an unfinished run, and a file little larger than the weights."""
    content = read(file)
    assert not OF_UNFINISHED & content.keys()
    if "optimizer" in content:  # not in that of a one-shot method
        assert content["optimizer"]["state"] == {}
        assert {"scheduler", "rng", "epoch"} <= content.keys()
    assert file.stat().st_size < 1.05 * bytes_of(content["state_dict"]) + 100_000
    return content


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("GA", []),
        ("FT", ["--optimizer", "adamw"]),
        ("retrain", ["--select", "best"]),
        ("wfisher", []),
        ("RL", TWO_OPTIMIZERS[2:]),
    ],
)
def test_an_unlearned_checkpoint_drops_the_state_when_it_is_finished(
    name, flags, original, tmp_path, monkeypatch, capsys
):
    epochs = [] if name == "wfisher" else EPOCHS
    words = ["--unlearn", name, *epochs, *flags]
    file = tmp_path / "run" / f"{name}checkpoint.pth.tar"
    if epochs:
        with monkeypatch.context() as patch:
            cut_short(patch, 1)
            assert forget(original, tmp_path / "run", *words) == 130
        assert {"optimizer", "rng", "state_dict", "forget"} <= read(file).keys()
        assert isinstance(read(file)["forget"], torch.Tensor)
    assert forget(original, tmp_path / "run", *words, "--resume") == 0
    content = check_slim(file)
    assert len(content["forget"]) == 130
    before = {each: each.read_bytes() for each in (tmp_path / "run").glob("*.*")}
    capsys.readouterr()
    assert forget(original, tmp_path / "run", *words, "--resume") == 0
    assert "finished already" in capsys.readouterr().out
    assert before == {each: each.read_bytes() for each in before}


def saved_files(monkeypatch, stop_at=None):
    """The names that are saved, in order; the run ends as if killed before number ``stop_at``."""
    names = []

    def save_until(state, path):
        if len(names) == stop_at:
            raise KeyboardInterrupt
        names.append(path.name)
        save(state, path)

    patch_stages(monkeypatch, "save", save_until)
    return names


def test_training_killed_before_any_of_its_writes_ends_equal_and_slim(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        names = saved_files(patch)
        assert call(main_train.main, *TRAIN, tmp_path / "whole") == 0
    assert names[-2:] == [BEST, LAST]
    whole = {name: check_slim(tmp_path / "whole" / name) for name in (BEST, LAST)}
    for number in range(1, len(names)):
        folder = tmp_path / f"cut{number}"
        with monkeypatch.context() as patch:
            saved_files(patch, number)
            assert call(main_train.main, *TRAIN, folder) == 130
        assert call(main_train.main, *TRAIN, folder, "--resume") == 0
        for name, content in whole.items():
            again = check_slim(folder / name)
            assert hash_arrays(again["state_dict"]) == hash_arrays(content["state_dict"])
            assert (again["epoch"], again["best_sa"]) == (content["epoch"], content["best_sa"])
        metrics = [
            load_json(each / "train_result.json", "result")["metrics"]
            for each in (folder, tmp_path / "whole")
        ]
        assert metrics[0] == metrics[1]


def as_before(monkeypatch):
    """Finished runs keep what they ran with, as they did before 2026-11-27."""
    monkeypatch.setattr(train, "of_finished", lambda state: state)
    monkeypatch.setattr(engine, "of_finished", lambda state: state)


def test_finished_runs_of_before_are_finished_and_stay_as_they_are(
    original, tmp_path, monkeypatch, capsys
):
    words = ["--unlearn", "FT", *EPOCHS]
    with monkeypatch.context() as patch:
        as_before(patch)
        assert call(main_train.main, *TRAIN, tmp_path) == 0
        assert forget(original, tmp_path, *words) == 0
    files = [tmp_path / name for name in (BEST, LAST, "FTcheckpoint.pth.tar")]
    before = {file: file.read_bytes() for file in files}
    assert all("optimizer" in read(file) for file in files)
    capsys.readouterr()
    assert call(main_train.main, *TRAIN, tmp_path, "--resume") == 0
    assert forget(original, tmp_path, *words, "--resume") == 0
    assert capsys.readouterr().out.count("finished already") == 2
    assert before == {file: file.read_bytes() for file in files}


def test_nothing_goes_on_from_an_earlier_epoch_of_a_finished_run(tmp_path, capsys):
    assert call(main_train.main, *TRAIN, tmp_path / "run") == 0
    early = tmp_path / "early" / BEST
    early.parent.mkdir()
    save({**read(tmp_path / "run" / BEST), "epoch": 1}, early)
    capsys.readouterr()
    refused(
        capsys,
        call(main_train.main, *TRAIN, tmp_path / "new", "--resume", "--checkpoint", early),
        "is epoch 1 of a run that has finished, without the optimizer's state",
        "--overwrite",
    )


def test_a_finished_run_is_copied_whole_into_another_folder(tmp_path, capsys):
    assert call(main_train.main, *TRAIN, tmp_path / "run") == 0
    more = ["--resume", "--checkpoint", tmp_path / "run" / LAST]
    assert call(main_train.main, *TRAIN, tmp_path / "new", *more) == 0
    for name in (BEST, LAST):
        content = check_slim(tmp_path / "new" / name)
        assert hash_arrays(content["state_dict"]) == hash_arrays(weights(tmp_path / "run" / name))
    assert call(main_train.main, *TRAIN, tmp_path / "new", "--resume") == 0
    assert "finished already" in capsys.readouterr().out


# ------------------------------------------------------------- two optimizers, before 2026-11-27


@pytest.fixture
def of_before(original, tmp_path):
    """A finished run whose state of --forget_optimizer took the place of its forget set."""
    assert forget(original, tmp_path, *TWO_OPTIMIZERS, *EPOCHS) == 0
    file = tmp_path / "RLcheckpoint.pth.tar"
    chosen = np.sort(read(file)["forget"].numpy())
    save({**read(file), "forget": [{"state": {}}, {"last_epoch": 2}]}, file)
    return file, chosen


def test_the_forget_set_of_a_run_with_two_optimizers_is_read(of_before, tmp_path):
    file, chosen = of_before
    assert np.array_equal(read_saved(file, "models").forget, chosen)
    assert np.array_equal(read_original(file).forgotten, chosen)
    words = ["--models", file, "--suite", "basic", "--save_dir", tmp_path / "audit"]
    assert call(evaluate.main, *words, "--device", "cpu") == 0


def test_a_run_with_two_optimizers_that_was_begun_before_goes_on(original, tmp_path, monkeypatch):
    words = [*TWO_OPTIMIZERS, *EPOCHS]
    assert forget(original, tmp_path / "whole", *words) == 0
    with monkeypatch.context() as patch:
        cut_short(patch, 1)
        assert forget(original, tmp_path / "cut", *words) == 130
    file = tmp_path / "cut/RLcheckpoint.pth.tar"
    content = read(file)
    content["forget"] = content.pop("forget_descent")
    save(content, file)
    assert forget(original, tmp_path / "cut", *words, "--resume") == 0
    whole = tmp_path / "whole" / file.name
    assert hash_arrays(weights(file)) == hash_arrays(weights(whole))
    assert torch.equal(read(file)["forget"], read(whole)["forget"])
    assert result(tmp_path / "cut", "RL")["metrics"] == result(tmp_path / "whole", "RL")["metrics"]
