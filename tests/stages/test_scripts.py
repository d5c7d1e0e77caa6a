"""The scripts as users call them: every command of the contract, resuming, refusals, files, exit
codes.
"""

import io
import json
import os
import re
import shutil
import sys
import zipfile
from collections import Counter
from pathlib import Path

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
    spoilt,
    weights,
)

import evaluate
import generate_mask
import main_forget
import main_random
import main_train
import report
from engine import Updater, predict
from evaluation.verdicts import verdict_of
from masks.scores import SCORES
from runtime import cli, devices, provenance
from runtime.files import hash_arrays, save
from stages import run_folder
from unlearn import METHODS
from unlearn.base import Iterative

# -------------------------------------------------------------------------- the contract's commands


def contract_commands(model, folder, masks):
    """The contract's commands as written, with small numbers for what is in braces; the first one
    is tested below.
    """
    there, few = f"--save_dir {folder} --model_path {model}", "--num_indexes_to_replace 130"
    return [
        (
            main_train,
            f"--arch resnet20s --dataset digits --epochs 1 --lr 0.1 --save_dir {folder}/train",
        ),
        (generate_mask, f"{there} {few} --unlearn_epochs 1"),
        (
            main_random,
            (
                f"--unlearn RL --unlearn_epochs 1 --unlearn_lr 0.013 {few} {there} --mask_path"
                f" {masks}/with_0.5.pt"
            ),
        ),
        (main_forget, f"{there} --unlearn retrain {few} --unlearn_epochs 1 --unlearn_lr 0.1"),
        (main_forget, f"{there} --unlearn FT {few} --unlearn_epochs 1 --unlearn_lr 0.01"),
        (
            main_forget,
            (
                f"{there} --unlearn GA --num_indexes_to_replace 4500 {few} --unlearn_epochs 1"
                " --unlearn_lr 0.0001"
            ),
        ),
        (main_forget, f"{there} --unlearn wfisher {few} --alpha 1"),
        (
            main_forget,
            f"{there} --unlearn FT_prune {few} --alpha 0.0005 --unlearn_epochs 1 --unlearn_lr 0.01",
        ),
    ]


def test_contract_commands_run_into_one_folder_and_make_one_table(
    original, masks, tmp_path, capsys
):
    for script, command in contract_commands(original, tmp_path, masks):
        assert (
            call(script.main, *command.split(), "--dataset", "digits", "--arch", "resnet20s") == 0
        ), command
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("RESULT method=")
    assert call(report.main, tmp_path) == 0
    table = capsys.readouterr().out
    assert all(label in table for label in ("Retrain", "SalUn", "FT", "GA", "IU", "l1-sparse"))


def test_first_command_works_without_save_dir(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert (
        call(
            main_train.main,
            "--arch",
            "resnet20s",
            "--dataset",
            "digits",
            "--lr",
            0.1,
            "--epochs",
            1,
        )
        == 0
    )
    assert "--save_dir runs/digits_resnet20s" in capsys.readouterr().out
    assert (tmp_path / "runs/digits_resnet20s/0model_SA_best.pth.tar").is_file()


def test_retrain_needs_no_model_path_and_takes_epochs_and_lr(tmp_path):
    command = [
        *SETUP,
        "--unlearn",
        "retrain",
        "--num_indexes_to_replace",
        130,
        "--save_dir",
        tmp_path,
        "--epochs",
        1,
        "--lr",
        0.05,
    ]
    assert call(main_forget.main, *command) == 0
    assert {"unlearn_epochs": 1, "unlearn_lr": 0.05}.items() <= result(tmp_path, "retrain")[
        "hyperparameters"
    ].items()
    assert call(main_forget.main, *command, "--unlearn_lr", 0.02, "--overwrite") == 0
    assert {"unlearn_epochs": 1, "unlearn_lr": 0.02}.items() <= result(tmp_path, "retrain")[
        "hyperparameters"
    ].items()
    assert result(tmp_path, "retrain")["recipe"]["schedule"] == "multistep"


def test_official_bug_main_random_without_a_mask_runs_unmasked_and_says_so(
    original, tmp_path, capsys
):
    assert (
        forget(original, tmp_path, "--unlearn", "RL", "--unlearn_epochs", 1, main=main_random.main)
        == 0
    )
    assert "runs unmasked" in capsys.readouterr().out
    assert result(tmp_path, "RL")["label"] == "RL"


# ------------------------------------------------------------------------------------------ results


@pytest.mark.parametrize(
    "main", [main_forget.main, main_random.main], ids=["main_forget", "main_random"]
)
def test_salun_by_its_name_is_rl_under_a_mask_and_asks_for_one(
    main, original, masks, tmp_path, capsys
):
    for name in ("salun", "SALUN"):
        refused(
            capsys,
            forget(original, tmp_path, "--unlearn", name, main=main),
            "--mask_path",
            "generate_mask.py",
            "SalUn",
        )
    command = [
        "--unlearn",
        "salun",
        "--unlearn_epochs",
        1,
        "--mask_path",
        masks,
        "--mask_ratio",
        0.5,
    ]
    assert forget(original, tmp_path, *command, main=main) == 0
    record, saved = (
        result(tmp_path, "RL"),
        torch.load(tmp_path / "RLcheckpoint.pth.tar", weights_only=True),
    )
    assert (record["method"], record["label"]) == ("RL", "SalUn")
    assert (saved["arguments"]["unlearn"], saved["identity"]["method"]) == ("RL", "RL")
    assert (
        forget(original, tmp_path, *command, "--unlearn", "RL", "--resume", main=main) == 0
    )  # the same run by its other name
    assert capsys.readouterr().out.splitlines()[-1].startswith("RESULT method=SalUn UA=")


def test_a_step_that_makes_masks_or_trains_does_not_ask_salun_for_one(original, tmp_path):
    (tmp_path / "study.json").write_text(
        json.dumps({"unlearn": "SalUn", "num_indexes_to_replace": 130})
    )
    command = [
        *SETUP,
        "--config",
        tmp_path / "study.json",
        "--save_dir",
        tmp_path / "out",
        "--dry_run",
    ]
    assert call(generate_mask.main, *command, "--model_path", original) == 0
    assert call(main_train.main, *command) == 0


def test_a_method_by_its_label_leaves_the_files_of_its_flag(original, tmp_path):
    assert forget(original, tmp_path, "--unlearn", "L1-Sparse", "--unlearn_epochs", 1) == 0
    assert (result(tmp_path, "FT_prune")["method"], result(tmp_path, "FT_prune")["label"]) == (
        "FT_prune",
        "l1-sparse",
    )
    assert (tmp_path / "FT_prunecheckpoint.pth.tar").is_file()


def test_result_has_the_contract_form_and_agrees_with_the_reference_dictionary(
    original, masks, tmp_path, capsys
):
    assert (
        forget(
            original,
            tmp_path,
            "--unlearn",
            "RL",
            *EPOCHS,
            "--mask_path",
            masks,
            "--mask_ratio",
            0.5,
            main=main_random.main,
        )
        == 0
    )
    line = capsys.readouterr().out.splitlines()[-1]
    record, old = (
        result(tmp_path, "RL"),
        torch.load(tmp_path / "RLeval_result.pth.tar", weights_only=True),
    )
    assert record["schema"] == 1
    assert (record["script"], record["method"], record["label"]) == ("main_random", "RL", "SalUn")
    metrics, accuracy, attack = record["metrics"], old["accuracy"], old["SVC_MIA_forget_efficacy"]
    assert set(attack) == {"correctness", "confidence", "entropy", "m_entropy", "prob"}
    assert all(type(value) is float for value in (*accuracy.values(), *attack.values()))
    assert metrics["UA"] == pytest.approx(100 - accuracy["forget"])
    assert (metrics["RA"], metrics["TA"], metrics["VA"]) == (
        accuracy["retain"],
        accuracy["test"],
        accuracy["val"],
    )
    assert metrics["MIA"] == pytest.approx(100 * attack["confidence"])
    assert metrics["SVC_MIA"]["prob"] == pytest.approx(100 * attack["prob"])
    assert record["RTE"]["total"] == pytest.approx(record["RTE"]["mask"] + record["RTE"]["unlearn"])
    assert (
        record["RTE"]["mask"]
        == json.loads((masks / "mask_result.json").read_text())["RTE"]["mask"]
        > 0
    )
    assert record["data"]["forget"]["count"] == 130
    assert record["data"]["sizes"] == {"val": 140, "test": 359, "forget": 130, "retain": 1168}
    assert (
        len(record["provenance"]["original_sha256"])
        == len(record["provenance"]["mask_sha256"])
        == 64
    )
    mask = torch.load(masks / "with_0.5.pt", weights_only=True)
    assert record["mask"]["layers"] == pytest.approx(
        {name: float(value.double().mean()) for name, value in mask.items()}
    )
    assert record["mask"]["weights"] == {name: value.numel() for name, value in mask.items()}
    shown = " ".join(f"{name}={metrics[name]:.2f}" for name in ("UA", "RA", "TA", "MIA"))
    assert line == f"RESULT method=SalUn {shown} RTE={record['RTE']['total']:.1f}"


# Fewer samples for speed; SSD's own threshold is for a forgotten class and would select nothing
# here.
OWN = {
    "wfisher": ["--samples", 40],
    "fisher": ["--fisher_samples", 40],
    "fisher_new": ["--fisher_samples", 10],
    "ssd": ["--alpha", 0.5],
    "lfssd": ["--alpha", 0.5],
}


@pytest.mark.parametrize("name", METHODS)
def test_masked_run_freezes_in_the_saved_checkpoint(name, original, masks, tmp_path):
    options = [*EPOCHS, "--mask_path", masks / "with_0.3.pt", "--unlearn", name, *OWN.get(name, [])]
    assert forget(original, tmp_path, *options) == 0
    mask, before = torch.load(masks / "with_0.3.pt", weights_only=True), weights(original)
    after = weights(tmp_path / f"{name}checkpoint.pth.tar")
    assert [(k, v.shape) for k, v in after.items()] == [(k, v.shape) for k, v in before.items()]
    assert all(torch.equal(after[key][~mask[key]], before[key][~mask[key]]) for key in mask)
    moved = any(not torch.equal(after[key], before[key]) for key in mask)
    assert moved == (name != "raw")


def test_a_run_records_the_words_it_was_given_also_inside_another_script(
    original, tmp_path, monkeypatch
):
    """Also where it fails, and whatever the process itself was started with."""
    monkeypatch.setattr(sys, "argv", ["/somewhere/pytest", "-x"])
    outer = []

    @cli.script
    def main(argv):
        outer.append(commanded())
        assert forget(original, tmp_path, "--unlearn", "raw") == 0
        outer.append(commanded())
        assert forget(original, tmp_path, "--unlearn", "raw") == 2
        outer.append(commanded())

    def commanded():
        return provenance.provenance(torch.device("cpu"), "fp32", {})["command"]

    assert main(["--outer", "1"]) == 0
    assert outer == [["test_scripts.py", "--outer", "1"]] * 3
    words = [
        *SETUP,
        "--model_path",
        original,
        "--save_dir",
        tmp_path,
        "--num_indexes_to_replace",
        130,
        "--unlearn",
        "raw",
    ]
    assert result(tmp_path, "raw")["provenance"]["command"] == ["main_forget.py", *map(str, words)]
    assert commanded() == ["pytest", "-x"]
    monkeypatch.setattr(sys, "argv", ["/somewhere/main.py", "--typed"])
    assert cli.script(lambda argv: outer.append(commanded()))() == 0
    assert outer[-1] == ["test_scripts.py", "--typed"]


def test_masks_are_ten_nested_bool_files_with_a_record(masks, original):
    record = json.loads((masks / "mask_result.json").read_text())
    total, previous = 269722, None
    for tenth in range(1, 11):
        file = masks / f"with_{tenth / 10}.pt"
        mask = torch.load(file, weights_only=True)
        assert sum(int(value.sum()) for value in mask.values()) == int(total * (tenth / 10))
        assert all(value.dtype == torch.bool for value in mask.values())
        assert previous is None or not any((previous[name] & ~mask[name]).any() for name in mask)
        assert file.stat().st_size < 2 * total
        assert record["masks"][file.name]["sha256"] == hash_arrays(mask)
        previous = mask
    assert record["provenance"]["original_sha256"] == hash_arrays(weights(original))


def test_original_checkpoint_records_its_split_and_the_best_epoch(original):
    best = torch.load(original, weights_only=True)
    last = torch.load(original.with_name("0checkpoint.pth.tar"), weights_only=True)
    parts = {"state_dict", "optimizer", "scheduler", "epoch", "best_sa", "rng", "split"}
    assert parts | {"arguments"} <= last.keys()
    assert len(best["split"]["train"]) == 1298
    assert len(np.intersect1d(best["split"]["train"], best["split"]["val"])) == 0
    train_result = json.loads(original.with_name("train_result.json").read_text())
    assert train_result["metrics"]["VA"] == pytest.approx(last["best_sa"])


# ----------------------------------------------------------------------------- seeds and repetition


def test_same_command_same_weights_and_seed_zero_is_a_seed(original, tmp_path):
    for folder, seed in (("a", 2), ("b", 2), ("c", 0)):
        assert (
            forget(
                original,
                tmp_path / folder,
                "--unlearn",
                "RL",
                "--unlearn_epochs",
                1,
                "--seed",
                seed,
                "--forget_seed",
                1,
            )
            == 0
        )
    a, b, c = (weights(tmp_path / folder / "RLcheckpoint.pth.tar") for folder in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)
    sets = [result(tmp_path / folder, "RL")["data"]["forget"]["sha256"] for folder in "abc"]
    assert len(set(sets)) == 1


def test_forget_seed_defaults_to_seed(original, tmp_path):
    for folder, words in (
        ("a", ["--seed", 5]),
        ("b", ["--seed", 6, "--forget_seed", 5]),
        ("c", ["--seed", 6]),
    ):
        assert forget(original, tmp_path / folder, "--unlearn", "raw", *words) == 0
    a, b, c = (result(tmp_path / folder, "raw")["data"]["forget"]["sha256"] for folder in "abc")
    assert a == b != c


@pytest.mark.parametrize("name", [name for name in METHODS if name != "FT_l1"])
def test_resumed_unlearning_equals_an_uninterrupted_run_bit_for_bit(
    original, masks, tmp_path, monkeypatch, name
):
    words = [
        "--unlearn",
        name,
        "--unlearn_epochs",
        3,
        "--unlearn_lr",
        0.01,
        "--samples",
        40,
        "--schedule",
        "cosine",
    ]
    words += ["--mask_path", masks / "with_0.5.pt"]
    assert forget(original, tmp_path / "whole", *words) == 0
    with monkeypatch.context() as patch:
        cut_short(patch, 1)
        assert forget(original, tmp_path / "cut", *words) == 130
    assert forget(original, tmp_path / "cut", *words) == 2  # never silently anew
    assert forget(original, tmp_path / "cut", *words, "--resume") == 0
    a, b = (
        torch.load(tmp_path / folder / f"{name}checkpoint.pth.tar", weights_only=True)
        for folder in ("whole", "cut")
    )
    assert all(torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"])
    assert result(tmp_path / "whole", name)["metrics"] == result(tmp_path / "cut", name)["metrics"]


def test_resumed_training_equals_an_uninterrupted_run_bit_for_bit(tmp_path, monkeypatch):
    words = [*SETUP, "--epochs", 3, "--lr", 0.1, "--warmup", 1]
    assert call(main_train.main, *words, "--save_dir", tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        cut_short(patch, 2)
        assert call(main_train.main, *words, "--save_dir", tmp_path / "cut") == 130
    assert call(main_train.main, *words, "--save_dir", tmp_path / "cut", "--resume") == 0
    for file in ("0checkpoint.pth.tar", "0model_SA_best.pth.tar"):
        a, b = (
            torch.load(tmp_path / folder / file, weights_only=True) for folder in ("whole", "cut")
        )
        assert all(
            torch.equal(a["state_dict"][key], b["state_dict"][key]) for key in a["state_dict"]
        )
        assert a["epoch"] == b["epoch"]


def test_a_run_that_goes_on_with_other_threads_says_so(original, tmp_path, monkeypatch, capsys):
    """Bit for bit is promised with the threads that it began with."""

    def lines():
        return [line for line in capsys.readouterr().err.splitlines() if "CPU threads" in line]

    def train(folder, *words):
        rest = ("--epochs", 3, "--lr", 0.1, "--save_dir", folder)
        return call(main_train.main, *SETUP, *rest, *words)

    def unlearn(folder, *words):
        rest = ("--unlearn", "FT", "--unlearn_epochs", 3)
        return forget(original, folder, *rest, *words)

    for step in (train, unlearn):
        for threads, said in ((1, 0), (2, 1)):
            folder = tmp_path / f"{step.__name__}{threads}"
            with monkeypatch.context() as patch:
                cut_short(patch, 1)
                assert step(folder, "--threads", 1) == 130
            assert not lines()
            assert step(folder, "--resume", "--threads", threads) == 0
            found = lines()
            assert len(found) == said
            assert all("1 CPU threads, this run has 2" in line for line in found)
            assert step(folder, "--resume", "--threads", threads) == 0
            assert not lines()  # nothing was left to compute


def same_weights(one, two):
    one, two = weights(one), weights(two)
    return all(torch.equal(one[name], two[name]) for name in one)


def test_resume_begins_where_there_is_nothing_and_says_so(original, tmp_path, capsys):
    ft = ["--unlearn", "FT", "--unlearn_epochs", 1]
    assert forget(original, tmp_path / "plain", *ft) == 0
    folder = tmp_path / "resumed"
    of_mask = ["--model_path", original, "--num_indexes_to_replace", 130, "--score", "random"]
    commands = [
        (main_forget, [*ft, *of_mask[:-2]]),
        (main_random, [*ft, *of_mask[:-2], "--run", "x"]),
        (generate_mask, of_mask),
        (main_train, ["--epochs", 1]),
    ]
    for script, words in commands:
        for more in (["--dry_run"], []):
            command = [*SETUP, *words, "--save_dir", folder / script.__name__, "--resume"]
            capsys.readouterr()
            assert call(script.main, *command, *more) == 0
            said = capsys.readouterr().out.splitlines()
            assert (
                said.count(f"--resume: nothing in {folder / script.__name__} yet; beginning") == 1
            )
            assert (folder / script.__name__).exists() == (not more)
        assert call(script.main, *command) == 0
        said = capsys.readouterr().out
        assert "finished already" in said
        assert "beginning" not in said
    assert same_weights(
        tmp_path / "plain/FTcheckpoint.pth.tar", folder / "main_forget/FTcheckpoint.pth.tar"
    )


def test_resume_of_a_typed_checkpoint_never_begins(original, tmp_path, capsys):
    resume = ["--resume", "--save_dir", tmp_path / "out", "--checkpoint", tmp_path / "none.pt"]
    refused(
        capsys, call(main_train.main, *SETUP, "--epochs", 1, *resume), "none.pt", "no such file"
    )
    refused(
        capsys,
        forget(original, tmp_path / "out", "--unlearn", "FT", *resume[-2:], "--resume"),
        "none.pt",
        "no such file",
    )
    refused(
        capsys,
        forget(original, tmp_path / "out", *resume[-2:], "--resume", main=generate_mask.main),
        "none.pt",
        "no such file",
    )
    assert not (tmp_path / "out").exists()


def test_a_result_without_its_checkpoint_is_kept_and_the_reason_true(original, tmp_path, capsys):
    ft, train = (
        ["--unlearn", "FT", "--unlearn_epochs", 1],
        [*SETUP, "--epochs", 1, "--save_dir", tmp_path],
    )
    assert forget(original, tmp_path, *ft) == 0
    assert call(main_train.main, *train) == 0
    for name in ("FTcheckpoint.pth.tar", "0checkpoint.pth.tar"):
        (tmp_path / name).unlink()
    before = {file: file.read_bytes() for file in tmp_path.glob("*.*")}
    capsys.readouterr()
    unlearn = [
        *SETUP,
        "--model_path",
        original,
        "--save_dir",
        tmp_path,
        "--num_indexes_to_replace",
        130,
        *ft,
    ]
    for main, command, first in (
        (main_forget.main, unlearn, "FTeval_result"),
        (main_train.main, train, "0model_SA_best"),
    ):
        assert call(main, *command) == 2
        said = capsys.readouterr().err
        assert f"{first}.pth.tar exists; --overwrite replaces it" in said
        assert "--resume" not in said
        missing = f"no {'FT' if 'FT' in first else '0'}checkpoint.pth.tar to go on from"
        refused(
            capsys,
            call(main, *command, "--resume"),
            f"--resume: {tmp_path / first}",
            missing,
            "--overwrite",
            "--save_dir",
        )
    assert before == {file: file.read_bytes() for file in before}


def stop_before(monkeypatch, name):
    """Make the run end as if stopped right before it would have written its first file of that
    name.
    """

    def save_unless(state, path):
        if path.name == name:
            raise KeyboardInterrupt
        save(state, path)

    patch_stages(monkeypatch, "save", save_unless)


@pytest.mark.parametrize("more", [[], ["--resume"]], ids=str)
def test_a_curve_alone_is_nothing_begun(more, original, tmp_path, monkeypatch):
    """What a stop between the first epoch's curve and its checkpoint leaves."""
    ft, train = ["--unlearn", "FT", *EPOCHS], [*SETUP, "--epochs", 2, "--save_dir"]
    for folder, words in (("whole", []), ("cut", more)):
        if folder == "cut":
            with monkeypatch.context() as patch:
                stop_before(patch, "FTcheckpoint.pth.tar")
                assert forget(original, tmp_path / folder, *ft) == 130
                stop_before(patch, "0model_SA_best.pth.tar")
                assert call(main_train.main, *train, tmp_path / folder) == 130
            assert {file.name for file in (tmp_path / folder).glob("[!.]*")} == {
                "FTcurve.jsonl",
                "0curve.jsonl",
            }
        assert forget(original, tmp_path / folder, *ft, *words) == 0
        assert call(main_train.main, *train, tmp_path / folder, *words) == 0
    for file in ("FTcheckpoint.pth.tar", "0checkpoint.pth.tar", "0model_SA_best.pth.tar"):
        assert same_weights(tmp_path / "whole" / file, tmp_path / "cut" / file)
    for file in ("FTcurve.jsonl", "0curve.jsonl"):
        curves = [
            [json.loads(line) for line in (tmp_path / folder / file).read_text().splitlines()]
            for folder in ("whole", "cut")
        ]
        assert [[epoch["loss"] for epoch in curve] for curve in curves] == [
            [epoch["loss"] for epoch in curves[0]]
        ] * 2


@pytest.mark.parametrize("epochs", [1, 2])
def test_training_that_was_stopped_between_its_first_two_files_goes_on(
    epochs, tmp_path, monkeypatch, capsys
):
    train = [*SETUP, "--epochs", epochs, "--save_dir"]
    assert call(main_train.main, *train, tmp_path / "whole") == 0
    with monkeypatch.context() as patch:
        stop_before(patch, "0checkpoint.pth.tar")
        assert call(main_train.main, *train, tmp_path / "cut") == 130
    capsys.readouterr()
    refused(
        capsys,
        call(main_train.main, *train, tmp_path / "cut"),
        "0model_SA_best.pth.tar exists; --resume goes on from it",
    )
    assert call(main_train.main, *train, tmp_path / "cut", "--resume") == 0
    said = capsys.readouterr().out
    assert "beginning" not in said
    assert f"epoch 1/{epochs}" not in said
    for file in ("0checkpoint.pth.tar", "0model_SA_best.pth.tar"):
        assert same_weights(tmp_path / "whole" / file, tmp_path / "cut" / file)


def test_resume_under_other_flags_names_the_difference(original, tmp_path, capsys):
    assert forget(original, tmp_path, "--unlearn", "FT", *EPOCHS) == 0
    capsys.readouterr()
    refused(
        capsys,
        forget(original, tmp_path, "--unlearn", "FT", *EPOCHS, "--resume", "--weight_decay", 0),
        "weight_decay",
        "0.0005",
    )
    refused(
        capsys,
        forget(original, tmp_path, "--unlearn", "FT", "--unlearn_epochs", 3, "--resume"),
        "unlearn_epochs 2",
        "3",
    )


# ------------------------------------------------------------------------------ foreign checkpoints


def test_checkpoints_of_the_reference_load_bare_wrapped_and_with_module(original, tmp_path, capsys):
    state = weights(original)
    forms = {
        "bare": state,
        "wrapped": {
            "state_dict": state,
            "best_sa": 97.5,
            "epoch": 3,
            "result": {"train_ta": [1.0]},
        },
        "module": {"state_dict": {f"module.{name}": value for name, value in state.items()}},
    }
    hashes = set()
    for form, content in forms.items():
        torch.save(content, tmp_path / f"{form}.pt")
        assert forget(tmp_path / f"{form}.pt", tmp_path / form, "--unlearn", "raw") == 0
        assert "no record of its training images" in capsys.readouterr().out
        hashes.add(result(tmp_path / form, "raw")["provenance"]["original_sha256"])
    assert len(hashes) == 1


def test_official_bug_mask_of_random_weights(original, masks, tmp_path):
    """A bare state dictionary gives the same masks as the wrapped one, not those of an untrained
    network.
    """
    torch.save(weights(original), tmp_path / "bare.pt")
    command = [
        "--save_dir",
        tmp_path,
        "--model_path",
        tmp_path / "bare.pt",
        "--num_indexes_to_replace",
        130,
    ]
    assert call(generate_mask.main, *SETUP, *command) == 0
    ours, theirs = (
        torch.load(folder / "with_0.5.pt", weights_only=True) for folder in (tmp_path, masks)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_int64_masks_of_the_reference_work_and_a_missing_record_is_said(
    original, masks, tmp_path, capsys
):
    mask = torch.load(masks / "with_0.5.pt", weights_only=True)
    torch.save({name: value.long() for name, value in mask.items()}, tmp_path / "with_0.5.pt")
    for folder, path in (("ours", masks / "with_0.5.pt"), ("theirs", tmp_path / "with_0.5.pt")):
        assert (
            forget(
                original,
                tmp_path / folder,
                "--unlearn",
                "RL",
                "--unlearn_epochs",
                1,
                "--mask_path",
                path,
            )
            == 0
        )
        assert ("no record" in capsys.readouterr().err) == (folder == "theirs")
    a, b = (weights(tmp_path / folder / "RLcheckpoint.pth.tar") for folder in ("ours", "theirs"))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_flags_that_were_not_typed_come_from_the_original(original, tmp_path, capsys):
    assert forget(original, tmp_path, "--unlearn", "raw", setup=["--device", "cpu"]) == 0
    assert "--dataset digits --arch resnet20s" in capsys.readouterr().out


# ----------------------------------------------------------------------------------------- refusals


def test_wrong_originals_are_refused(original, tmp_path, capsys):
    def other_split(content):
        content["split"]["split_seed"] = 9
        content["split"]["train"] = content["split"]["train"][100:]

    def other_data(content):
        content["split"]["data_sha256"] = "0" * 64

    def missing_key(content):
        del content["state_dict"]["fc.bias"]

    def not_finite(content):
        content["state_dict"]["fc.bias"][0] = float("nan")

    raw = ["--unlearn", "raw"]
    cases = [
        (other_split, "--split_seed", ["9", "never saw"]),
        (other_data, "other images", ["000000000000"]),
        (missing_key, "fc.bias", ["missing", "resnet20s"]),
        (not_finite, "not finite", ["fc.bias"]),
    ]
    for change, first, rest in cases:
        path = spoilt(original, tmp_path / f"{change.__name__}.pt", change)
        refused(capsys, forget(path, tmp_path / "out", *raw, "--split_seed", 1), first, *rest)
    (tmp_path / "text.pt").write_text("no torch file")
    for path, words in (
        (tmp_path / "text.pt", "text.pt"),
        (tmp_path / "none.pt", "no such file"),
        (tmp_path, "a folder"),
    ):
        refused(capsys, forget(path, tmp_path / "out", *raw), words)
    refused(
        capsys,
        forget(original, tmp_path / "out", *raw, setup=["--device", "cpu", "--arch", "resnet44s"]),
        "resnet44s",
        "layer1",
    )
    refused(
        capsys,
        forget(original, tmp_path / "out", *raw, "--split_seed", 3),
        "--split_seed 1",
        "--split_seed 3",
    )
    assert not (tmp_path / "out").exists()


def test_pickles_execute_nothing(original, tmp_path, capsys):
    trap = tmp_path / "executed"

    class Malicious:
        def __reduce__(self):
            return trap.touch, ()

    torch.save({"state_dict": Malicious()}, tmp_path / "bad.pt")
    refused(capsys, forget(tmp_path / "bad.pt", tmp_path / "out", "--unlearn", "raw"), "bad.pt")
    refused(
        capsys,
        forget(original, tmp_path / "out", "--unlearn", "RL", "--mask_path", tmp_path / "bad.pt"),
        "bad.pt",
    )
    assert not trap.exists()


IMPOSSIBLE = {
    "too many": (["--num_indexes_to_replace", "1299"], ["1299", "1298"]),
    "all": (["--num_indexes_to_replace", "1298"], ["none to retain"]),
    "zero": (["--num_indexes_to_replace", "0"], ["num_indexes_to_replace"]),
    "unknown class": (["--class_to_replace", "10"], ["10", "9"]),
    "negative class": (["--class_to_replace", "-2"], ["-2"]),
    "nothing": ([], ["nothing to forget"]),
    "index twice": (["--indexes_to_replace", "5,7,5"], ["5", "twice"]),
    "index outside": (["--indexes_to_replace", "5,1298"], ["1298", "1297"]),
    "index no number": (["--indexes_to_replace", "5,x"], ["5,x"]),
    "index file": (["--indexes_to_replace", "@none.npy"], ["none.npy"]),
    "two requests": (
        ["--indexes_to_replace", "5", "--num_indexes_to_replace", "1"],
        ["--indexes_to_replace"],
    ),
    "class count": (["--num_indexes_to_replace", "10", "--num_classes", "100"], ["100", "10"]),
    "mask ratio alone": (
        ["--num_indexes_to_replace", "10", "--mask_ratio", "0.5"],
        ["--mask_path"],
    ),
    "no mask": (["--num_indexes_to_replace", "10", "--mask_path", "none.pt"], ["none.pt"]),
    "abbreviation": (["--num_indexes_to_replace", "10", "--mask", "x.pt"], ["--mask"]),
    "unknown method": (
        ["--num_indexes_to_replace", "10", "--unlearn", "magic"],
        ["magic", "wfisher (IU)", "RL (SalUn)"],
    ),
    "vgg on small images": (
        ["--num_indexes_to_replace", "10", "--arch", "vgg16_bn"],
        ["vgg16_bn", "--input_size"],
    ),
    "imagenet stem": (
        ["--num_indexes_to_replace", "10", "--imagenet_arch"],
        ["resnet20s", "resnet18"],
    ),
    "both": (["--num_indexes_to_replace", "10", "--resume", "--overwrite"], ["--resume"]),
    "nothing to resume": (
        ["--num_indexes_to_replace", "10", "--resume", "--checkpoint", "none.pt"],
        ["none.pt", "no such file"],
    ),
    "no damping": (
        ["--num_indexes_to_replace", "10", "--unlearn", "wfisher", "--damping", "0"],
        ["--damping"],
    ),
    "file as folder": (["--num_indexes_to_replace", "10", "--save_dir", __file__], ["--save_dir"]),
    "negative rate": (["--num_indexes_to_replace", "10", "--unlearn_lr=-1"], ["unlearn_lr"]),
    "rate no number": (["--num_indexes_to_replace", "10", "--unlearn_lr", "nan"], ["unlearn_lr"]),
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_requests_end_in_one_line_and_code_2(name, original, tmp_path, capsys):
    words, said = IMPOSSIBLE[name]
    command = [
        *SETUP,
        "--unlearn",
        "FT",
        "--model_path",
        original,
        "--save_dir",
        tmp_path / "out",
        *words,
    ]
    refused(capsys, call(main_forget.main, *command), *said)
    assert not (tmp_path / "out").exists()


def test_masks_of_another_request_or_model_are_refused(original, masks, tmp_path, capsys):
    rl = ["--unlearn", "RL", "--unlearn_epochs", 1]
    refused(
        capsys,
        forget(
            original, tmp_path / "a", *rl, "--mask_path", masks / "with_0.5.pt", "--forget_seed", 9
        ),
        "forget set",
    )
    refused(
        capsys, forget(original, tmp_path / "a", *rl, "--mask_path", masks), "--mask_ratio", "0.5"
    )
    refused(
        capsys,
        forget(original, tmp_path / "a", *rl, "--mask_path", masks, "--mask_ratio", 0.55),
        "0.55",
    )
    other = spoilt(
        original, tmp_path / "other.pt", lambda content: content["state_dict"]["fc.bias"].add_(1)
    )
    refused(
        capsys,
        forget(other, tmp_path / "a", *rl, "--mask_path", masks / "with_0.5.pt"),
        "original model",
    )
    mask = torch.load(masks / "with_0.5.pt", weights_only=True)
    mask["fc.weight"] = mask["fc.weight"][:5]
    torch.save(mask, tmp_path / "cut.pt")
    refused(
        capsys,
        forget(original, tmp_path / "a", *rl, "--mask_path", tmp_path / "cut.pt"),
        "fc.weight",
    )


def test_results_are_not_overwritten_unless_asked(original, masks, tmp_path, capsys):
    assert forget(original, tmp_path, "--unlearn", "FT", "--unlearn_epochs", 1) == 0
    before = (tmp_path / "FTresult.json").read_bytes()
    capsys.readouterr()
    refused(
        capsys, forget(original, tmp_path, "--unlearn", "FT", "--unlearn_epochs", 1), "--overwrite"
    )
    assert (tmp_path / "FTresult.json").read_bytes() == before
    assert forget(original, tmp_path, "--unlearn", "FT", "--unlearn_epochs", 1, "--overwrite") == 0
    refused(
        capsys,
        call(main_train.main, *SETUP, "--epochs", 1, "--save_dir", original.parent),
        "--overwrite",
    )
    refused(
        capsys,
        forget(original, masks, main=generate_mask.main),
        "--overwrite",
        f"--save_dir {masks}_2 keeps both",
    )


@pytest.mark.parametrize(
    "second", [["--seed", 3], ["--unlearn_lr", 0.002], ["--mask_ratio", 0.3]], ids=str
)
def test_a_second_run_in_one_folder_is_named_and_never_costs_the_first(
    second, original, masks, tmp_path, capsys
):
    folder = tmp_path / "runs"
    rl = [
        "--unlearn",
        "RL",
        "--unlearn_epochs",
        1,
        "--forget_seed",
        2,
        "--mask_path",
        masks,
        "--mask_ratio",
        0.5,
    ]
    assert forget(original, folder, *rl) == 0
    first = {file: file.read_bytes() for file in folder.glob("RL*")}
    assert {file.name for file in first} == {f"RL{part}" for part in run_folder.PARTS}
    (tmp_path / "runs_2").mkdir()
    capsys.readouterr()
    seed = dict([second]).get("--seed", 2)
    refused(
        capsys,
        forget(original, folder, *rl, *second),
        "RLcheckpoint.pth.tar exists",
        f"--run s{seed} keeps both",
        f"{folder}_3",
    )
    assert forget(original, folder, *rl, *second, "--run", f"s{seed}") == 0
    assert {file.name for file in folder.glob("s*")} == {
        f"s{seed}.RL{part}" for part in run_folder.PARTS
    }
    refused(
        capsys,
        forget(original, folder, *rl, *second, "--run", f"s{seed}"),
        f"s{seed}.RL",
        f"--run s{seed}_2 keeps both",
    )
    refused(
        capsys,
        forget(original, folder, *rl, *second, "--resume"),
        "made with",
        "another --save_dir",
    )
    assert forget(original, folder, *rl, *second, "--run", f"s{seed}", "--resume") == 0
    assert "finished already" in capsys.readouterr().out
    assert forget(original, folder, *rl, *second, "--run", f"s{seed}", "--overwrite") == 0
    assert first == {file: file.read_bytes() for file in first}


def test_reports_see_named_runs_and_their_curves(original, tmp_path, capsys):
    from reporting.curves import with_curves
    from reporting.results import collect
    from reporting.tables import scenarios

    for words in ([], ["--seed", 3, "--run", "s3"], ["--seed", 4, "--run", "a.b-C_9"]):
        assert (
            forget(original, tmp_path, "--unlearn", "FT", *EPOCHS, "--forget_seed", 2, *words) == 0
        )
    assert call(report.main, tmp_path) == 0
    assert re.search(r"^FT .* 3$", capsys.readouterr().out, re.MULTILINE)
    (scenario,) = scenarios(collect([tmp_path]), [])
    assert [len(curve) for curve in with_curves(scenario).curves["FT"]] == [2, 2, 2]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "...", ".a", "a..b", "a/b", "/a", "a\\b", "a b", "a\n", "é", "*", "x" * 101],
)
def test_a_name_of_a_run_is_no_path(name, original, tmp_path, capsys):
    refused(
        capsys,
        forget(original, tmp_path / "out", "--unlearn", "raw", f"--run={name}"),
        "--run",
        "letters, digits",
    )
    assert not (tmp_path / "out").exists()


def test_commands_that_are_printed_can_be_pasted(original, tmp_path, capsys):
    folder = tmp_path / "a b $c"
    assert forget(original, folder, "--unlearn", "raw") == 0
    assert f"python report.py '{folder}'\n" in capsys.readouterr().out
    assert forget(original, folder, main=generate_mask.main) == 0
    assert f"main_random.py --mask_path '{folder}/with_0.5.pt'\n" in capsys.readouterr().out
    bare = folder / "bare.pth"
    torch.save(weights(original), bare)
    words = ["--models", bare, "--device", "cpu", "--save_dir", tmp_path]
    refused(capsys, call(evaluate.main, *words), f"--models 'NAME={bare}'")


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_a_mask_is_no_model(kind, masks, tmp_path, capsys):
    """Refused before data are looked for, of which there are none here."""
    mask = torch.load(masks / "with_0.5.pt", weights_only=True)
    file = tmp_path / "with_0.5.pt"
    torch.save({name: value.to(kind) for name, value in mask.items()}, file)
    none = ["--dataset", "cifar10", "--data", tmp_path, "--device", "cpu", "--save_dir", tmp_path]
    said = f"{file} is a mask ({str(kind).removeprefix('torch.')} tensors), a model is wanted"
    request = [*none, "--forget", "random:10", "--model_path", file]
    refused(capsys, call(main_forget.main, *request, "--unlearn", "FT"), f"--model_path {said}")
    refused(capsys, call(generate_mask.main, *request), f"--model_path {said}")
    models = ["--models", f"a={file}", "--device", "cpu", "--save_dir", tmp_path]
    refused(capsys, call(evaluate.main, *models), said)


def test_steps_without_named_runs_say_so(original, tmp_path, capsys):
    command = [*SETUP, "--run", "s3", "--dry_run", "--save_dir", tmp_path]
    for script, words in (
        (main_train, []),
        (generate_mask, ["--model_path", original, "--num_indexes_to_replace", 130]),
    ):
        assert call(script.main, *command, *words) == 0
        assert f"warning: {script.__name__} does not read --run\n" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".", "runs", "runs/", "..", "/"])
def test_a_folder_that_is_named_instead_is_free_and_can_be_written(name, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "runs").mkdir()
    (here / "run_2").touch()
    found = run_folder.free_folder(Path(name))
    assert not found.exists()
    assert found.parent.is_dir()
    assert str(found) == {".": "run_3", "..": "../run_2", "/": "/run_2"}.get(name, "runs_2")
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != Path("."))
    assert (
        str(run_folder.free_folder(Path("runs"))) == "runs/run_2"
    )  # beside it nothing may be written


def test_two_runs_of_one_method_cannot_share_a_folder(original, tmp_path, capsys):
    from runtime.files import lock

    with lock(tmp_path, "FT"):
        refused(
            capsys,
            forget(original, tmp_path, "--unlearn", "FT", "--unlearn_epochs", 1),
            "another run",
        )
        assert forget(original, tmp_path, "--unlearn", "raw") == 0


def test_dry_run_checks_and_writes_nothing(original, tmp_path, capsys):
    assert forget(original, tmp_path / "out", "--unlearn", "FT", "--dry_run") == 0
    said = capsys.readouterr().out
    assert "FineTune(unlearn_epochs=10, unlearn_lr=0.01, " in said
    assert f"writes to {tmp_path / 'out'}: FTcheckpoint.pth.tar, FTeval_result.pth.tar, " in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_dry_run_counts_the_updates_that_the_run_makes(name, original, tmp_path, capsys):
    words = ["--unlearn", name, "--class_to_replace", 3, "--retain_fraction", 0.3]
    if issubclass(METHODS[name], Iterative):
        words += ["--unlearn_epochs", 2, "--accumulate", 2]
    made, descend = [], Updater._descend
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Updater, "_descend", lambda *of: (made.append(1), descend(*of)))
        run = [*SETUP, "--model_path", original, "--save_dir"]
        assert call(main_forget.main, *run, tmp_path / "run", *words) == 0
    capsys.readouterr()
    assert call(main_forget.main, *run, tmp_path / "dry", *words, "--dry_run") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{len(made)} updates in 2 epochs: roughly " if made else "no updates")


def load_of(monkeypatch, load):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)


def test_threads_are_set_said_recorded_and_given_back(original, tmp_path, monkeypatch, capsys):
    load_of(monkeypatch, 0.0)
    for folder, words, threads in (("a", ["--threads", 3], 3), ("b", [], 1)):
        assert forget(original, tmp_path / folder, "--unlearn", "raw", *words) == 0
        assert re.search(
            f"^resnet20s, (fp32|bf16) on cpu, {threads} thread{'s' * (threads > 1)}$",
            capsys.readouterr().out,
            re.MULTILINE,
        )
        assert result(tmp_path / folder, "raw")["provenance"]["threads"] == threads
        assert torch.get_num_threads() == 1  # as conftest.py has it
    assert call(main_train.main, *SETUP, "--threads", 2, "--dry_run") == 0
    assert re.search(r" on cpu, 2 threads$", capsys.readouterr().out, re.MULTILINE)
    for words in ("0", "-1", "x", "1025"):
        refused(
            capsys,
            forget(original, tmp_path, "--unlearn", "raw", f"--threads={words}"),
            "--threads",
            words,
        )


def test_a_busy_machine_is_told_once_where_threads_would_fight(
    original, tmp_path, monkeypatch, capsys
):
    def warnings(*words):
        assert forget(original, tmp_path, "--unlearn", "FT", "--dry_run", *words) == 0
        return [line for line in capsys.readouterr().err.splitlines() if "--threads 1" in line]

    cores = devices.usable_cores()
    load_of(monkeypatch, cores + 0.1)
    (line,) = warnings("--threads", 2)
    assert f"load is {cores + 0.1:.1f}" in line
    assert "15 to 60 times slower" in line
    assert not warnings("--threads", 1)
    assert not warnings()  # one thread in this suite
    load_of(monkeypatch, cores)
    assert not warnings("--threads", 2)
    monkeypatch.delattr(os, "getloadavg")  # as on Windows
    assert not warnings("--threads", 2)


def test_the_load_is_that_of_before_the_run_and_gpus_do_not_care(monkeypatch, capsys):
    """What a run, or a script inside it, adds to the load itself is no reason for a warning."""

    @cli.script
    def inner(argv):
        devices.use_threads(2, torch.device(argv[0]))

    @cli.script
    def outer(argv):
        load_of(monkeypatch, 1e6)
        inner(argv)

    load_of(monkeypatch, 0.0)
    outer(["cpu"])
    assert not capsys.readouterr().err
    inner(["cuda"])
    assert not capsys.readouterr().err
    inner(["cpu"])
    assert "--threads 1" in capsys.readouterr().err


def test_exploding_run_fails_loudly_with_code_1_and_keeps_nothing_bad(original, tmp_path, capsys):
    assert (
        forget(original, tmp_path, "--unlearn", "GA", "--unlearn_lr", 1e30, "--unlearn_epochs", 3)
        == 1
    )
    assert "not finite" in capsys.readouterr().err
    assert not (tmp_path / "GAresult.json").exists()


# ------------------------------------------------------------------------------- requests and flags


def test_whole_class_is_forgotten_and_leaves_test(original, tmp_path):
    command = [
        *SETUP,
        "--model_path",
        original,
        "--save_dir",
        tmp_path,
        "--unlearn",
        "raw",
        "--class_to_replace",
        3,
    ]
    assert call(main_forget.main, *command) == 0
    data = result(tmp_path, "raw")["data"]
    assert data["forget"]["kind"] == "class"
    assert data["forget"]["class"] == 3
    assert data["sizes"]["forget"] + data["sizes"]["retain"] == 1298
    assert data["sizes"]["test"] < 359


@pytest.mark.parametrize("suffix", ["npy", "txt", "json", None])
def test_listed_images_are_positions_in_the_training_split(original, tmp_path, suffix):
    positions = [1, 5, 9]
    text = "1,5,9"
    if suffix:
        file = tmp_path / f"forget.{suffix}"
        text = f"@{file}"
        if suffix == "npy":
            np.save(file, np.array(positions))
        else:
            file.write_text(json.dumps(positions) if suffix == "json" else "1\n5, 9\n")
    command = [
        *SETUP,
        "--model_path",
        original,
        "--save_dir",
        tmp_path,
        "--unlearn",
        "raw",
        "--indexes_to_replace",
        text,
    ]
    assert call(main_forget.main, *command) == 0
    saved = torch.load(tmp_path / "rawcheckpoint.pth.tar", weights_only=True)
    train = torch.load(original, weights_only=True)["split"]["train"]
    assert torch.equal(saved["forget"], train[positions])


def test_config_file_sets_flags_and_the_command_line_wins(original, tmp_path):
    config = tmp_path / "run.toml"
    config.write_text(
        'unlearn = "RL"\nunlearn_epochs = 1\nunlearn_lr = 0.5\nexclude_true ='
        " false\nnum_indexes_to_replace = 130\n"
    )
    command = [
        *SETUP,
        "--model_path",
        original,
        "--save_dir",
        tmp_path,
        "--config",
        config,
        "--unlearn_lr",
        0.001,
    ]
    assert call(main_forget.main, *command) == 0
    parameters = result(tmp_path, "RL")["hyperparameters"]
    assert (parameters["unlearn_epochs"], parameters["unlearn_lr"], parameters["exclude_true"]) == (
        1,
        0.001,
        False,
    )


@pytest.mark.parametrize(
    "text",
    ["nonsense = 1", "unlearn_lr = true", "[data]\nseed = 1", "= broken", 'config = "x.toml"'],
)
def test_bad_config_is_refused(text, tmp_path, capsys):
    (tmp_path / "run.toml").write_text(text)
    refused(capsys, call(main_forget.main, "--config", tmp_path / "run.toml"), "run.toml")


def test_flags_that_nothing_reads_are_named_once(original, tmp_path, capsys):
    assert (
        forget(
            original,
            tmp_path,
            "--unlearn",
            "raw",
            "--pruning_times",
            2,
            "--prune",
            "omp",
            "--alpha",
            3,
        )
        == 0
    )
    lines = capsys.readouterr().err.splitlines()
    assert [
        line
        for line in lines
        if "--prune" in line and "--pruning_times" in line and "nothing" in line
    ]
    assert [line for line in lines if "raw does not read --alpha" in line]


def test_alarms_for_a_destroyed_and_an_untouched_model(original, tmp_path, capsys):
    assert (
        forget(
            original,
            tmp_path / "a",
            "--unlearn",
            "FT",
            "--unlearn_epochs",
            1,
            "--unlearn_lr",
            0,
            "--bn",
            "freeze",
        )
        == 0
    )
    assert "changed nothing: " in capsys.readouterr().err
    assert [verdict_of(line) for line in result(tmp_path / "a", "FT")["warnings"]] == [
        "changed nothing"
    ]
    assert (
        forget(
            original, tmp_path / "b", "--unlearn", "GA", "--unlearn_epochs", 3, "--unlearn_lr", 0.3
        )
        == 0
    )
    assert "chance" in capsys.readouterr().err
    (line,) = result(tmp_path / "b", "GA")["warnings"]
    assert re.match(
        r"destroyed: RA \d.* where the original has 9.* and chance is 11.4; try a lower learning"
        r" rate",
        line,
    )
    assert report.main([str(tmp_path / "b")]) == 0
    assert f"GA: {line}" in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("bn", ["train", "freeze"])
def test_a_rate_at_which_nothing_happens_is_named_without_equal_bits(original, tmp_path, bn):
    """At a rate of 1e-9 some weights move in their last bits, and with --bn train the running
    statistics do.
    """
    assert (
        forget(
            original,
            tmp_path,
            "--unlearn",
            "FT",
            "--unlearn_epochs",
            1,
            "--unlearn_lr",
            1e-9,
            "--bn",
            bn,
        )
        == 0
    )
    before, after = weights(original), weights(tmp_path / "FTcheckpoint.pth.tar")
    assert any(not torch.equal(value, after[name]) for name, value in before.items())
    assert [verdict_of(line) for line in result(tmp_path, "FT")["warnings"]] == ["changed nothing"]


def test_a_verdict_costs_no_pass_over_the_retain_set_that_it_does_not_need(
    original, tmp_path, monkeypatch
):
    """FT that changes much and stays good: the original answers on the smaller splits, until that
    is seen.
    """
    seen = []
    patch_stages(
        monkeypatch,
        "predict",
        lambda model, loader: seen.append(loader.name) or predict(model, loader),
    )
    assert (
        forget(original, tmp_path, "--unlearn", "FT", "--unlearn_epochs", 1, "--unlearn_lr", 0.02)
        == 0
    )
    found = result(tmp_path, "FT")
    assert (found["warnings"], found["original_standing"], found["standing"]["accuracy"]) == (
        [],
        None,
        found["metrics"]["RA"],
    )
    assert Counter(seen)["retain"] == 1
    assert Counter(seen)["forget"] == 3  # after the epoch, at the end, and by the original


def test_training_that_ends_at_chance_says_so_and_no_method_is_blamed_for_it(tmp_path, capsys):
    """At a rate of 1e-9 the network stays as it was drawn."""
    assert call(main_train.main, *SETUP, "--epochs", 1, "--lr", 1e-9, "--save_dir", tmp_path) == 0
    line = "at chance: the original has a training accuracy of"
    assert line in capsys.readouterr().err
    assert json.loads((tmp_path / "train_result.json").read_text())["warnings"][0].startswith(line)
    for words in (
        ["FT", "--unlearn_lr", 1e-4],
        ["FT", "--unlearn_lr", 1e-9, "--bn", "freeze"],
        ["GA", "--unlearn_lr", 1e-4],
        ["raw"],
    ):
        words += [] if words == ["raw"] else ["--unlearn_epochs", 1]
        model = tmp_path / "0model_SA_best.pth.tar"
        assert forget(model, tmp_path, "--unlearn", *words, "--overwrite") == 0
        assert [verdict_of(line) for line in result(tmp_path, words[0])["warnings"]] == [
            "at chance"
        ]
        assert "lower learning rate" not in capsys.readouterr().err


def test_two_classes_are_not_destroyed(tmp_path):
    """Their accuracy cannot be twice chance. Bright against dark images, of which one in twenty has
    the wrong label.
    """
    rng = np.random.default_rng(0)
    arrays = {}
    for half, count in (("train", 400), ("test", 100)):
        arrays[f"y_{half}"] = np.arange(count) % 2
        bright = 80 * arrays[f"y_{half}"][:, None, None, None]
        arrays[f"x_{half}"] = (rng.integers(0, 120, (count, 8, 8, 3)) + bright).astype(np.uint8)
        arrays[f"y_{half}"][rng.permutation(count)[: count // 20]] ^= 1
    np.savez(tmp_path / "two.npz", **arrays)
    own = [
        "--dataset",
        "npz",
        "--data",
        tmp_path / "two.npz",
        "--arch",
        "resnet20s",
        "--device",
        "cpu",
        "--batch_size",
        32,
    ]
    assert call(main_train.main, *own, "--epochs", 3, "--lr", 0.05, "--save_dir", tmp_path) == 0
    assert json.loads((tmp_path / "train_result.json").read_text())["warnings"] == []
    rest = [
        "--num_indexes_to_replace",
        20,
        "--model_path",
        tmp_path / "0model_SA_best.pth.tar",
        "--save_dir",
        tmp_path,
    ]
    for method in (["raw"], ["retrain"], ["FT", "--unlearn_epochs", 3, "--unlearn_lr", 0.05]):
        assert call(main_forget.main, *own, "--unlearn", *method, *rest) == 0
        found = result(tmp_path, method[0])
        assert 85 < found["metrics"]["RA"] < 100
        assert "destroyed" not in " ".join(found["warnings"])


@pytest.mark.parametrize(
    ("words", "unread"),
    [
        ("wfisher --schedule cosine --warmup 3 --clip_norm 2", "--clip_norm, --schedule, --warmup"),
        ("wfisher --momentum 0 --accumulate 2", "--accumulate, --momentum"),
        ("FT --forget_batch_size 10", "--forget_batch_size"),
        ("GA --forget_batch_size 10 --schedule cosine --warmup 1", ""),
        ("retrain --unlearn_epochs 1 --epochs 2", "--epochs"),
        ("retrain --unlearn_lr 0.1 --lr 0.2 --mixup 0.5", "--lr"),
    ],
)
def test_flags_of_the_loop_that_a_method_does_not_read_are_named(
    original, tmp_path, capsys, words, unread
):
    assert forget(original, tmp_path, "--dry_run", "--unlearn", *words.split()) == 0
    said = capsys.readouterr().err
    assert f"does not read {unread}\n" in said if unread else "does not read" not in said


def test_flags_of_unlearning_are_named_where_the_original_is_trained(tmp_path, capsys):
    words = [*SETUP, "--dry_run", "--unlearn_lr", 3, "--unlearn_epochs", 3, "--save_dir", tmp_path]
    assert call(main_train.main, *words) == 0
    assert "main_train does not read --unlearn_epochs, --unlearn_lr\n" in capsys.readouterr().err


def test_flags_of_training_are_named_where_masks_are_made(original, tmp_path, capsys):
    words = ["--model_path", original, "--forget", "random:20", "--save_dir", tmp_path]
    words += ["--resume", "--checkpoint", original, "--epochs", 3, "--unlearn_epochs", 1]
    assert call(generate_mask.main, *SETUP, *words) == 2  # nothing of --save_dir to go on from
    assert "generate_mask does not read --checkpoint, --epochs\n" in capsys.readouterr().err


def test_an_unlearning_run_does_not_read_a_checkpoint_to_go_on_from(original, tmp_path, capsys):
    words = ("--unlearn", "raw", "--resume", "--checkpoint", original)
    assert forget(original, tmp_path, *words) == 2  # nothing of --save_dir to go on from
    assert "main_forget does not read --checkpoint\n" in capsys.readouterr().err


def test_flags_of_training_that_a_method_does_not_read_are_named(original, tmp_path, capsys):
    assert forget(original, tmp_path, "--unlearn", "FT", "--unlearn_epochs", 1, "--lr", 0.5) == 0
    assert "FT does not read --lr" in capsys.readouterr().err
    assert forget(original, tmp_path, "--unlearn", "retrain", "--epochs", 1, "--lr", 0.05) == 0
    assert "does not read" not in capsys.readouterr().err


def test_unconverged_influence_and_a_freezing_mask_are_alarms_in_the_result(
    original, masks, tmp_path
):
    frozen = {
        name: torch.zeros_like(value)
        for name, value in torch.load(masks / "with_0.5.pt", weights_only=True).items()
    }
    torch.save(frozen, tmp_path / "frozen.pt")
    words = [
        "--unlearn",
        "wfisher",
        "--samples",
        20,
        "--max_iterations",
        1,
        "--mask_path",
        tmp_path / "frozen.pt",
    ]
    assert forget(original, tmp_path, *words) == 0
    said = " ".join(result(tmp_path, "wfisher")["warnings"])
    assert all(
        words in said for words in ("did not converge", "freezes every weight", "changed nothing")
    )


def test_overwriting_run_that_fails_leaves_no_result_of_the_run_before(original, tmp_path):
    assert forget(original, tmp_path, "--unlearn", "GA", "--unlearn_epochs", 1) == 0
    assert (
        forget(
            original,
            tmp_path,
            "--unlearn",
            "GA",
            "--unlearn_lr",
            1e30,
            "--unlearn_epochs",
            3,
            "--overwrite",
        )
        == 1
    )
    assert not (tmp_path / "GAresult.json").exists()


def test_retrain_checkpoint_says_what_it_was_trained_on(original, tmp_path):
    assert forget(original, tmp_path, "--unlearn", "retrain", "--unlearn_epochs", 1) == 0
    saved = torch.load(tmp_path / "retraincheckpoint.pth.tar", weights_only=True)
    assert torch.equal(saved["split"]["train"], saved["retain"])
    assert len(np.intersect1d(saved["forget"], saved["retain"])) == 0


def test_npz_data_set_trains_and_unlearns(tmp_path, original):
    """The whole path on a user's own arrays, with an architecture of the large kind."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{x}_{s}": v
        for s, n in (("train", 60), ("test", 20))
        for x, v in (
            ("x", rng.integers(0, 255, (n, 8, 8, 3)).astype(np.uint8)),
            ("y", np.arange(n) % 3),
        )
    }
    np.savez(tmp_path / "own.npz", **arrays)
    own = [
        "--dataset",
        "npz",
        "--data",
        tmp_path / "own.npz",
        "--arch",
        "resnet18",
        "--device",
        "cpu",
    ]
    assert call(main_train.main, *own, "--epochs", 1, "--save_dir", tmp_path) == 0
    rest = [
        "--num_indexes_to_replace",
        5,
        "--model_path",
        tmp_path / "0model_SA_best.pth.tar",
        "--save_dir",
        tmp_path,
    ]
    assert call(main_forget.main, *own, "--unlearn", "FT", "--unlearn_epochs", 1, *rest) == 0
    own[3] = shutil.copy(
        tmp_path / "own.npz", tmp_path / "copy.npz"
    )  # the same images under another name are the same data
    assert call(main_forget.main, *own, "--unlearn", "raw", *rest) == 0


# ------------------------------------------------------------------------------- masks for ablation


def make_masks(original, folder, score, *words):
    words = [*(["--layers", "layer3,fc"] if score == "layers" else []), *words]
    return forget(original, folder, "--score", score, *words, main=generate_mask.main)


@pytest.mark.parametrize("score", SCORES)
def test_every_score_writes_ten_masks_like_salun_s_and_a_record(score, original, tmp_path, capsys):
    assert make_masks(original, tmp_path, score) == 0
    out = capsys.readouterr().out
    record = json.loads((tmp_path / "mask_result.json").read_text())
    files = {f"with_{tenth / 10}.pt" for tenth in range(1, 11)} | (
        {"with_layers.pt"} if score == "layers" else set()
    )
    assert {file.name for file in tmp_path.glob("*.pt")} == set(record["masks"]) == files
    assert (record["method"], record["score"], record["label"]) == (score, score, "mask")
    assert record["layers"] == (["fc", "layer3"] if score == "layers" else None)
    assert ("retain" in record["data"]) == (score in ("retain_gradient", "ratio"))
    assert out.splitlines()[-1].startswith(f"RESULT method={score} masks={len(files)} RTE=")
    assert [line.split()[-1] for line in out.splitlines() if line.startswith("fc ")] == ["100.0"]
    previous = None
    for tenth in range(1, 11):
        mask = torch.load(tmp_path / f"with_{tenth / 10}.pt", weights_only=True)
        assert all(value.dtype == torch.bool for value in mask.values())
        assert sum(int(value.sum()) for value in mask.values()) == int(269722 * (tenth / 10))
        assert previous is None or not any((previous[name] & ~mask[name]).any() for name in mask)
        assert record["masks"][f"with_{tenth / 10}.pt"]["sha256"] == hash_arrays(mask)
        previous = mask
    if score == "layers":
        exact = torch.load(tmp_path / "with_layers.pt", weights_only=True)
        assert all(
            value.dtype == torch.bool and value.all() == value.any() for value in exact.values()
        )
        assert {name for name in exact if exact[name].all()} == {
            name for name in exact if name.split(".")[0] in ("layer3", "fc")
        }
        assert record["masks"]["with_layers.pt"]["sha256"] == hash_arrays(exact)


@pytest.mark.parametrize(
    ("score", "file", "label"),
    [
        ("saliency", "with_0.5.pt", "SalUn"),
        ("random", "with_0.5.pt", "RL+random-mask"),
        ("layers", "with_layers.pt", "RL+layers:fc,layer3-mask"),
    ],
)
def test_only_a_saliency_mask_or_one_of_unknown_origin_makes_salun(
    score, file, label, original, tmp_path, capsys
):
    assert make_masks(original, tmp_path / "mask", score) == 0
    rl = ["--unlearn", "RL", "--unlearn_epochs", 1]
    assert (
        forget(
            original, tmp_path, *rl, "--mask_path", tmp_path / "mask" / file, main=main_random.main
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"RESULT method={label} UA=")
    ours = result(tmp_path, "RL")
    assert (ours["label"], ours["mask"]["score"]) == (
        label,
        label.removeprefix("RL+").removesuffix("-mask").replace("SalUn", "saliency"),
    )
    mask = torch.load(tmp_path / "mask" / file, weights_only=True)
    before, after = weights(original), weights(tmp_path / "RLcheckpoint.pth.tar")
    assert all(torch.equal(after[name][~mask[name]], before[name][~mask[name]]) for name in mask)
    (tmp_path / "mask" / "mask_result.json").unlink()
    assert (
        forget(
            original,
            tmp_path,
            *rl,
            "--mask_path",
            tmp_path / "mask" / file,
            "--overwrite",
            "--dry_run",
        )
        == 0
    )
    assert "SalUn: RandomLabel" in capsys.readouterr().out


def test_methods_without_a_name_for_masked_runs_say_which_mask(original, masks, tmp_path, capsys):
    assert make_masks(original, tmp_path / "mask", "magnitude") == 0
    for folder, label in ((masks, "FT+mask"), (tmp_path / "mask", "FT+magnitude-mask")):
        assert (
            forget(
                original,
                tmp_path,
                "--unlearn",
                "FT",
                "--mask_path",
                folder,
                "--mask_ratio",
                0.1,
                "--dry_run",
            )
            == 0
        )
        assert f"{label}: FineTune" in capsys.readouterr().out


def test_a_mask_record_without_a_score_is_saliency_s_and_one_with_an_unknown_score_is_refused(
    original, masks, tmp_path, capsys
):
    shutil.copy(masks / "with_0.5.pt", tmp_path)
    record = json.loads((masks / "mask_result.json").read_text())
    command = ["--unlearn", "RL", "--dry_run", "--mask_path", tmp_path / "with_0.5.pt"]
    for changes, code in (
        ({}, 0),
        ({"score": "magic"}, 2),
        ({"score": ["random"]}, 2),
        ({"score": "layers", "layers": None}, 2),
    ):
        text = json.dumps(
            {name: value for name, value in record.items() if name != "score"} | changes
        )
        (tmp_path / "mask_result.json").write_text(text)
        capsys.readouterr()
        if code:
            refused(
                capsys, forget(original, tmp_path / "out", *command), "mask_result.json", "damaged"
            )
        else:
            assert forget(original, tmp_path / "out", *command) == 0
            assert "SalUn: RandomLabel" in capsys.readouterr().out


def test_masks_of_another_score_replace_every_file_of_the_old_ones(original, tmp_path, capsys):
    assert make_masks(original, tmp_path, "layers") == 0
    (tmp_path / "with_0.3.pt").unlink()
    capsys.readouterr()
    refused(capsys, make_masks(original, tmp_path, "magnitude"), "--overwrite")
    refused(
        capsys,
        forget(original, tmp_path, "--unlearn", "FT", "--mask_path", tmp_path, "--dry_run"),
        "(it holds 0.1, 0.2, 0.4, ",
        "0.9, 1.0)",
    )
    assert make_masks(original, tmp_path, "magnitude", "--overwrite") == 0
    assert not (tmp_path / "with_layers.pt").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--score", "layers"], ["--layers"]),
        (["--layers", "fc"], ["--layers fc", "--score layers", "saliency"]),
        (["--layers", "fc", "--score", "random"], ["--layers fc", "--score random"]),
        (["--layers", "fc,", "--score", "layers"], ["fc,"]),
        (
            ["--layers", "fc,layer", "--score", "layers"],
            ["'layer'", "conv1, bn1, layer1, layer2, layer3, fc"],
        ),
        (["--score", "magic"], ["magic", "ratio"]),
        (["--compare", "a.pt"], ["--compare"]),
        *(
            (["--retain_fraction", value], ["retain_fraction", value])
            for value in ("0", "-0.5", "1.01", "nan", "half")
        ),
    ],
    ids=" ".join,
)
def test_impossible_masks_and_parts_are_refused_before_data_are_read(
    words, said, original, tmp_path, capsys
):
    setup = [
        "--dataset",
        "npz",
        "--data",
        tmp_path / "none.npz",
        "--arch",
        "resnet20s",
        "--device",
        "cpu",
    ]
    refused(
        capsys,
        forget(original, tmp_path / "out", *words, main=generate_mask.main, setup=setup),
        *said,
    )
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------- comparing masks


def test_compare_prints_each_layer_the_total_and_a_line_to_grep(masks, tmp_path, capsys):
    """Numbers by scikit-learn; B as the reference saves it, in another order of names."""
    from sklearn.metrics import jaccard_score

    a, b = (torch.load(masks / f"with_{ratio}.pt", weights_only=True) for ratio in (0.3, 0.8))
    b["fc.bias"] = ~b["fc.bias"]
    torch.save({f"module.{name}": b[name].long() for name in reversed(b)}, tmp_path / "b.pt")
    assert call(generate_mask.main, "--compare", masks / "with_0.3.pt", tmp_path / "b.pt") == 0
    out = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line.split()[1:] for line in out if line.split()[0] in a}
    assert list(rows) == list(a)
    for name, (count, in_a, in_b, jaccard, expected) in rows.items():
        p, q = (float(mask[name].float().mean()) for mask in (a, b))
        assert (count, in_a, in_b) == (str(a[name].numel()), f"{100 * p:.1f}", f"{100 * q:.1f}")
        assert float(jaccard) == pytest.approx(
            jaccard_score(a[name].reshape(-1), b[name].reshape(-1)), abs=5.1e-4
        )
        assert float(expected) == pytest.approx(p * q / (p + q - p * q), abs=5.1e-4)
    flat_a, flat_b = (torch.cat([mask[name].reshape(-1) for name in a]) for mask in (a, b))
    p, q = float(flat_a.double().mean()), float(flat_b.double().mean())
    (total,) = (line for line in out if line.startswith("in total"))
    assert total.split()[2:5] == ["269722", "30.0", "80.0"]
    assert (
        out[-1] == f"RESULT method=compare jaccard={jaccard_score(flat_a, flat_b):.4f}"
        f" expected={p * q / (p + q - p * q):.4f}"
    )


def test_masks_that_do_not_fit_each_other_are_refused_in_one_line(masks, tmp_path, capsys):
    good = torch.load(masks / "with_0.5.pt", weights_only=True)
    bad = {
        "shape": (
            good | {"fc.bias": torch.ones(3, dtype=torch.bool)},
            ["fc.bias", "(10,)", "(3,)"],
        ),
        "missing": (
            {name: value for name, value in good.items() if name != "fc.weight"},
            ["fc.weight", "missing"],
        ),
        "values": (good | {"fc.bias": torch.full((10,), 2)}, ["fc.bias", "0 and 1"]),
        "list": ([1, 2], ["dictionary"]),
    }
    for name, (content, said) in bad.items():
        torch.save(content, tmp_path / f"{name}.pt")
        refused(
            capsys,
            call(generate_mask.main, "--compare", masks / "with_0.5.pt", tmp_path / f"{name}.pt"),
            f"{name}.pt",
            *said,
        )
    torch.save({}, tmp_path / "empty.pt")
    refused(
        capsys,
        call(generate_mask.main, "--compare", tmp_path / "empty.pt", tmp_path / "empty.pt"),
        "empty.pt",
        "without weights",
    )
    refused(
        capsys,
        call(generate_mask.main, "--compare", masks / "with_0.5.pt", tmp_path / "none.pt"),
        "none.pt",
    )


# ------------------------------------------------------------------------- a part of the retain set


def test_retain_fraction_changes_what_methods_see_and_not_what_is_evaluated(
    original, tmp_path, capsys
):
    """Two seeds see one part; fraction 1 is no flag, bit for bit; each fraction has its own row in
    the report.
    """
    ft = ["--unlearn", "FT", "--unlearn_epochs", 1, "--forget_seed", 1]
    runs = {
        "none": [],
        "one": ["--retain_fraction", 1],
        "a": ["--retain_fraction", 0.25],
        "b": ["--retain_fraction", 0.25, "--seed", 5],
    }
    for folder, words in runs.items():
        assert forget(original, tmp_path / folder, *ft, *words) == 0
        assert ("methods see" in capsys.readouterr().out) == (folder in "ab")
    records = {folder: result(tmp_path / folder, "FT") for folder in runs}
    kept = {folder: record["data"]["retain"] for folder, record in records.items()}
    assert kept["none"] == kept["one"]
    assert (kept["none"]["fraction"], kept["none"]["count"]) == (1.0, 1168)
    assert kept["a"] == kept["b"]
    assert kept["a"]["fraction"] == 0.25
    assert abs(kept["a"]["count"] - 292) <= 10
    assert len({kept[folder]["sha256"] for folder in runs}) == 2
    assert all(record["data"]["sizes"]["retain"] == 1168 for record in records.values())
    saved = {folder: weights(tmp_path / folder / "FTcheckpoint.pth.tar") for folder in runs}
    assert all(torch.equal(saved["none"][name], saved["one"][name]) for name in saved["none"])
    assert records["none"]["metrics"] == records["one"]["metrics"]
    assert any(not torch.equal(saved["none"][name], saved["a"][name]) for name in saved["none"])
    assert call(report.main, tmp_path, "--format", "json") == 0
    (table,) = json.loads(capsys.readouterr().out)
    assert {row["name"]: row["runs"] for row in table["rows"]} == {
        "FT": 2,
        "FT (retain_fraction 0.25)": 2,
    }
    refused(
        capsys, forget(original, tmp_path / "a", *ft, "--resume"), "retain_fraction 0.25", "1.0"
    )


@pytest.mark.parametrize(
    "request_", [["--class_to_replace", 3], ["--indexes_to_replace", "1,5,9"]], ids=str
)
def test_a_listed_forget_set_has_one_retain_part_under_every_seed(request_, original, tmp_path):
    for folder, words in (
        ("a", ["--seed", 1]),
        ("b", ["--seed", 2]),
        ("c", ["--seed", 1, "--forget_seed", 8]),
    ):
        command = [
            *SETUP,
            "--model_path",
            original,
            "--unlearn",
            "raw",
            "--save_dir",
            tmp_path / folder,
            *request_,
        ]
        assert call(main_forget.main, *command, "--retain_fraction", 0.1, *words) == 0
    a, b, c = (result(tmp_path / folder, "raw")["data"]["retain"]["sha256"] for folder in "abc")
    assert a == b != c


def test_retrain_on_a_part_is_warned_about_and_no_gap_is_measured_to_it(original, tmp_path, capsys):
    command = ["--unlearn", "retrain", "--unlearn_epochs", 1, "--retain_fraction", 0.1]
    assert forget(original, tmp_path, *command) == 0
    assert "no longer" in capsys.readouterr().err
    assert [
        message
        for message in result(tmp_path, "retrain")["warnings"]
        if "--retain_fraction" in message
    ]
    saved = torch.load(tmp_path / "retraincheckpoint.pth.tar", weights_only=True)
    assert (
        len(saved["split"]["train"])
        == result(tmp_path, "retrain")["data"]["retain"]["count"]
        < 0.2 * len(saved["retain"])
    )
    assert call(report.main, tmp_path) == 0
    assert "No Retrain result" in capsys.readouterr().out


def test_masks_that_read_the_retain_set_belong_to_their_part_of_it(original, tmp_path, capsys):
    part = ["--retain_fraction", 0.1]
    for score in ("ratio", "magnitude"):
        assert make_masks(original, tmp_path / score, score, *part) == 0
    assert (
        json.loads((tmp_path / "ratio/mask_result.json").read_text())["data"]["retain"]["fraction"]
        == 0.1
    )
    for score, words, code in (("ratio", part, 0), ("ratio", [], 2), ("magnitude", [], 0)):
        command = ["--unlearn", "RL", "--dry_run", "--mask_path", tmp_path / score / "with_0.5.pt"]
        capsys.readouterr()
        if code:
            refused(
                capsys,
                forget(original, tmp_path / "out", *command, *words),
                "part of the retain set",
            )
        else:
            assert forget(original, tmp_path / "out", *command, *words) == 0


# ---------------------------------------------------------------------------------------- odd files


def with_changes(original, file, **changes):
    torch.save({**torch.load(original, weights_only=True), **changes}, file)
    return file


def test_official_checkpoint_with_numpy_numbers_and_a_counter_loads(original, tmp_path):
    odd = {
        "best_sa": np.float64(93.5),
        "top1": [np.float32(1)],
        "scheduler": {"milestones": Counter([91, 136])},
    }
    bare = {"state_dict": weights(original), **odd}
    torch.save(bare, tmp_path / "new.pt")
    archived = io.BytesIO()
    with zipfile.ZipFile(tmp_path / "new.pt") as source, zipfile.ZipFile(archived, "w") as target:
        for name in source.namelist():  # the same file as numpy 1 writes it
            target.writestr(
                name, source.read(name).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
            )
    (tmp_path / "old.pt").write_bytes(archived.getvalue())
    for name in ("new", "old"):
        assert forget(tmp_path / f"{name}.pt", tmp_path / name, "--unlearn", "raw") == 0


def test_bfloat16_weights_load(original, tmp_path):
    half = {
        name: value.bfloat16() if value.is_floating_point() else value
        for name, value in weights(original).items()
    }
    torch.save(half, tmp_path / "half.pt")
    assert forget(tmp_path / "half.pt", tmp_path / "out", "--unlearn", "raw") == 0


@pytest.mark.parametrize(
    "changes",
    [
        {"split": [1]},
        {"split": {}},
        {"split": {"split_seed": "x"}},
        {"arguments": [1]},
        {"arguments": {"dataset": "magic"}},
        {"arguments": {"arch": None}},
        {"arguments": {"input_size": "x"}},
        {"state_dict": {1: torch.ones(1)}},
    ],
    ids=str,
)
def test_originals_with_an_odd_record_are_refused_in_one_line(changes, original, tmp_path, capsys):
    file = with_changes(original, tmp_path / "odd.pt", **changes)
    refused(capsys, forget(file, tmp_path / "out", "--unlearn", "raw"), file)


@pytest.mark.parametrize(
    "change",
    [
        {"masks": [1]},
        {"masks": {"with_0.5.pt": 3}},
        {"provenance": None},
        {"data": {"forget": "x"}},
        {"RTE": {}},
        {"RTE": {"mask": "x"}},
        {"RTE": {"mask": None}},
    ],
    ids=str,
)
def test_a_damaged_mask_record_is_refused_in_one_line(change, original, masks, tmp_path, capsys):
    shutil.copy(masks / "with_0.5.pt", tmp_path)
    record = json.loads((masks / "mask_result.json").read_text())
    (tmp_path / "mask_result.json").write_text(json.dumps({**record, **change}))
    code = forget(
        original,
        tmp_path / "out",
        "--unlearn",
        "RL",
        *EPOCHS,
        "--mask_path",
        tmp_path / "with_0.5.pt",
    )
    refused(capsys, code, "mask_result.json", "damaged")


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": None},
        {"optimizer": {}},
        {"scheduler": 3},
        {"rng": [1]},
        {"state_dict": {}},
        {"identity": [1]},
        {"epoch": "x"},
        {"seconds": None},
    ],
    ids=str,
)
def test_resuming_from_a_damaged_checkpoint_is_refused_in_one_line(
    change, original, tmp_path, monkeypatch, capsys
):
    with monkeypatch.context() as patch:
        cut_short(patch, 1)
        assert forget(original, tmp_path, "--unlearn", "GA", "--unlearn_epochs", 1) == 130
    capsys.readouterr()
    with_changes(tmp_path / "GAcheckpoint.pth.tar", tmp_path / "GAcheckpoint.pth.tar", **change)
    refused(
        capsys,
        forget(original, tmp_path, "--unlearn", "GA", "--unlearn_epochs", 1, "--resume"),
        "--resume",
        "--overwrite",
    )


def test_resuming_training_into_another_folder_takes_the_best_model_along(
    original, tmp_path, capsys
):
    source = original.parent / "0checkpoint.pth.tar"
    command = [*SETUP, "--epochs", 3, "--lr", 0.1, "--resume", "--save_dir", tmp_path / "new"]
    assert call(main_train.main, *command, "--checkpoint", source) == 0
    assert hash_arrays(weights(tmp_path / "new" / original.name)) == hash_arrays(weights(original))
    capsys.readouterr()
    shutil.copy(source, tmp_path)
    refused(
        capsys,
        call(main_train.main, *command, "--checkpoint", tmp_path / source.name),
        original.name,
    )


def test_resuming_with_another_stem_names_the_difference(tmp_path, capsys):
    command = [
        "--unlearn",
        "retrain",
        "--dataset",
        "digits",
        "--arch",
        "resnet18",
        "--num_indexes_to_replace",
        9,
        "--save_dir",
        tmp_path,
    ]
    assert call(main_forget.main, *command, "--unlearn_epochs", 0) == 0
    capsys.readouterr()
    refused(
        capsys,
        call(main_forget.main, *command, "--unlearn_epochs", 0, "--resume", "--imagenet_arch"),
        "imagenet_arch",
    )


def test_an_image_size_that_was_typed_is_inherited_even_if_it_is_the_flags_default(tmp_path):
    assert (
        call(
            main_train.main,
            *SETUP,
            "--input_size",
            32,
            "--epochs",
            1,
            "--no-aug",
            "--save_dir",
            tmp_path,
        )
        == 0
    )
    assert forget(tmp_path / "0model_SA_best.pth.tar", tmp_path, "--unlearn", "raw") == 0


@pytest.mark.parametrize(
    "words",
    [
        ["--warmup", "9" * 400],
        ["--schedule", "cosine", "--decreasing_lr", "1"],
        ["--model_path", "."],
        ["--config", "null.json"],
        ["--indexes_to_replace", "@deep.json"],
    ],
    ids=lambda words: words[0],
)
def test_more_impossible_requests(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "null.json").write_text('{"save_dir": null}')
    (tmp_path / "deep.json").write_text("[" * 100_000)
    refused(capsys, call(main_forget.main, *SETUP, "--unlearn", "retrain", *words), words[0])


def test_a_class_that_leaves_no_test_image_ends_without_an_attack(tmp_path, capsys):
    labels = {"y_train": np.arange(40) % 2, "y_test": np.zeros(6, int)}
    images = {f"x{name[1:]}": np.zeros((len(y), 8, 8), np.uint8) for name, y in labels.items()}
    np.savez(tmp_path / "data.npz", **images, **labels)
    command = [
        "--dataset",
        "npz",
        "--data",
        tmp_path / "data.npz",
        "--arch",
        "resnet20s",
        "--save_dir",
        tmp_path,
    ]
    assert (
        call(
            main_forget.main,
            *command,
            "--unlearn",
            "retrain",
            "--unlearn_epochs",
            1,
            "--class_to_replace",
            0,
        )
        == 0
    )
    assert result(tmp_path, "retrain")["metrics"]["MIA"] is None  # JSON has no NaN
    assert "MIA" not in capsys.readouterr().out.splitlines()[-1]


def test_accumulated_unlearning_is_that_of_the_large_batch(original, tmp_path):
    """The same weights but for rounding with BatchNorm frozen; and a row of its own, which --resume
    does not mix up.
    """
    words = [
        "--unlearn",
        "FT",
        "--unlearn_epochs",
        2,
        "--bn",
        "freeze",
        "--schedule",
        "cosine",
        "--precision",
        "fp32",
    ]
    assert forget(original, tmp_path / "large", *words, "--batch_size", 64) == 0
    assert forget(original, tmp_path / "small", *words, "--batch_size", 16, "--accumulate", 4) == 0
    before = weights(original)
    large, small = (
        weights(tmp_path / name / "FTcheckpoint.pth.tar") for name in ("large", "small")
    )
    moved, apart = (
        sum((a[name].double() - b[name].double()).square().sum() for name in a)
        for a, b in ((large, before), (large, small))
    )
    assert apart < 1e-2 * moved  # squares: a tenth of the way, by rounding alone
    assert result(tmp_path / "small", "FT")["recipe"]["accumulate"] == 4
    assert forget(original, tmp_path / "small", *words, "--batch_size", 16, "--resume") == 2
