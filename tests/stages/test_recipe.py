"""Where a run's recipe comes from, which epoch is kept, and that both are recorded, compared and
said.
"""

import json

import numpy as np
import pytest
import torch
from helpers import settled

import engine
import evaluate
import main_forget
import main_train
import report
from arg_parser import train_request, unlearn_request
from evaluation.alarms import audit_alarms
from evaluation.gaps import noise_band, trained_unlike
from evaluation.intervals import Metric
from evaluation.rows import Judged
from runtime.files import save
from stages.records import differences
from stages.settings import settle_and_say, settle_training
from unlearn import METHODS
from utils import UserError

DIGITS = ["--dataset", "digits", "--arch", "resnet20s", "--device", "cpu", "--precision", "fp32"]
# Not one value of these is a default.
ODD = {
    "epochs": 3,
    "lr": 0.05,
    "batch_size": 48,
    "schedule": "cosine",
    "final_lr": 0.001,
    "warmup": 1,
    "momentum": 0.8,
    "weight_decay": 1e-4,
    "accumulate": 2,
    "clip_norm": 5.0,
    "tail": "drop",
    "select": "last",
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "bn": "train",
    "optimizer": "sgd",
}
RECORD = train_request([])


def call(main, *words):
    return main([str(word) for word in words])


def words(flags):
    return [f"--{name}={value}" for name, value in flags.items()]


def result(folder, name="retrain"):
    return json.loads((folder / f"{name}result.json").read_text())


def retrain(original, folder, *more):
    request = [
        "--unlearn",
        "retrain",
        "--num_indexes_to_replace",
        130,
        "--save_dir",
        folder,
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    return call(main_forget.main, *request, "--model_path", original, *more)


@pytest.fixture(scope="session")
def odd(tmp_path_factory):
    """An original whose recipe has nothing of the defaults."""
    folder = tmp_path_factory.mktemp("odd")
    assert call(main_train.main, *DIGITS, *words(ODD), "--no-aug", "--save_dir", folder) == 0
    return folder / "0model_SA_best.pth.tar"


# ----------------------------------------------------------------------------------- the last batch


def test_two_images_too_many_do_not_cripple_a_run(tmp_path):
    """514 images in batches of 64. With a last batch of two, three seeds ended at 63 to 68 % of the
    training images, with spread ones at 94 to 97: statistics of two images are so far off that what
    the other batches taught is lost.
    """
    rest = np.sort(np.random.RandomState(0).permutation(4500)[514:])
    np.save(tmp_path / "rest.npy", rest)
    train = [
        "--dataset",
        "fashion_mini",
        "--arch",
        "resnet20s",
        "--device",
        "cpu",
        "--leave_out",
        f"@{tmp_path}/rest.npy",
        "--no-aug",
    ]
    assert (
        call(main_train.main, *train, "--batch_size", 64, "--epochs", 24, "--save_dir", tmp_path)
        == 0
    )
    done = json.loads((tmp_path / "train_result.json").read_text())
    assert done["data"]["sizes"]["train"] == 514
    assert done["recipe"]["tail"] == "spread"
    assert json.loads((tmp_path / "0curve.jsonl").read_text().splitlines()[-1])["accuracy"] > 85


# --------------------------------------------------------------------------------------- precedence


def as_retrain(*typed, arguments=None):
    return settled("--unlearn", "retrain", *typed, arguments=arguments)


@pytest.mark.parametrize("name", sorted(set(ODD) - {"epochs", "lr"}))
def test_each_part_of_the_recipe_is_inherited_and_a_typed_one_wins(name):
    record = RECORD.record() | ODD
    args, taken = as_retrain(arguments=record)
    assert getattr(args, name) == taken[name] == ODD[name]
    usual = {"schedule": "multistep", "select": "best"}.get(name, getattr(RECORD, name))
    extra = ["--final_lr=0"] if name == "schedule" else []
    args, taken = as_retrain(f"--{name}={usual}", *extra, arguments=record)
    assert getattr(args, name) == usual
    assert name not in taken


def test_typed_unlearn_flags_stand_before_typed_training_flags_before_record_and_default():
    record = {"epochs": 12, "lr": 0.05}
    for typed, epochs, lr in (
        ([], 12, 0.05),
        (["--epochs", "7", "--lr", "0.2"], 7, 0.2),
        (["--epochs", "7", "--unlearn_epochs", "9", "--unlearn_lr", "0.3"], 9, 0.3),
    ):
        args, _ = as_retrain(*typed, arguments=record)
        assert (args.unlearn_epochs, args.unlearn_lr) == (epochs, lr)
    args, taken = as_retrain()
    assert (args.unlearn_epochs, args.unlearn_lr, args.batch_size, args.select, taken) == (
        182,
        0.1,
        256,
        "last",
        {},
    )


def test_augmentation_is_inherited_and_can_be_typed_both_ways():
    assert as_retrain(arguments={"no_aug": True})[0].no_aug
    assert not as_retrain("--aug", arguments={"no_aug": True})[0].no_aug
    assert as_retrain("--no-aug", arguments={"no_aug": False})[0].no_aug
    assert not as_retrain(arguments={"no_aug": False})[0].no_aug


def test_a_preset_takes_what_it_names_of_the_record(capsys):
    """EU-k in SCRUB's code trains as long as the original was; a typed number wins."""
    words, record = ["--unlearn", "EU_k", "--preset", "scrub_resnet18"], {"epochs": 12, "lr": 0.05}
    args, taken = settled(*words, arguments=record)
    assert (args.unlearn_epochs, args.unlearn_lr, args.batch_size) == (12, 0.01, 64)
    assert (args.momentum, args.weight_decay, args.k, args.classifier) == (0, 0, 2, "freeze")
    assert taken == {"unlearn_epochs": 12}
    assert settled(*words, "--unlearn_epochs", "3", arguments=record)[0].unlearn_epochs == 3
    assert settled("--unlearn", "EU_k", arguments=record)[0].unlearn_epochs == 10
    assert settled("--unlearn", "CF_k", *words[2:], arguments=record)[0].unlearn_epochs == 10
    settle_and_say(unlearn_request(words))
    assert "no record: --unlearn_epochs=10, the method's own" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["FT", "retrain"])
def test_the_seed_of_training_is_named_where_it_is_not_read(name, capsys):
    settle_and_say(unlearn_request(["--unlearn", name, "--train_seed", "3"]))
    assert f"{name} does not read --train_seed\n" in capsys.readouterr().err


def test_other_methods_take_nothing_from_the_record():
    args, taken = settled("--unlearn", "FT", arguments=ODD)
    assert taken == {}
    assert (args.unlearn_epochs, args.unlearn_lr, args.batch_size) == (10, 0.01, 256)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], None),
        (["--decreasing_lr", "2,3"], None),
        (["--decreasing_lr", "50,60"], "50,60: the run of 4 epochs does not reach 50, 60; by"),
        (["--decreasing_lr", "2,4"], "2,4: the run of 4 epochs does not reach 4; by default"),
        (["--decreasing_lr", "3,2"], "3,2: read in ascending order, 2,3"),
        (["--warmup", 3], None),
        (["--warmup", 9], "--warmup 9: none of the 4 epochs is left at the learning rate 0.1,"),
        (["--warmup", 4], "--warmup 4: none of the 4 epochs is left"),
    ],
)
def test_a_schedule_that_a_short_run_does_not_follow_is_named(words, said, capsys):
    words = [str(word) for word in words]
    settle_training(train_request(["--epochs", "4", *words]))
    trained = capsys.readouterr().err
    common = ["--unlearn_epochs", "4", "--unlearn_lr", "0.1", *words]
    settle_and_say(unlearn_request(["--unlearn", "FT", *common]))
    for err in (trained, capsys.readouterr().err):
        assert err.count("warning:") == (said is not None)
        assert (said or "") in err


def test_defaults_of_schedules_are_quiet(capsys):
    for epochs in (1, 4, 182):
        settle_training(train_request(["--epochs", str(epochs)]))
        for name in METHODS:
            settle_and_say(unlearn_request(["--unlearn", name, "--unlearn_epochs", str(epochs)]))
    assert "--decreasing_lr" not in capsys.readouterr().err


def test_inherited_milestones_move_with_the_epochs_and_typed_ones_do_not():
    record = {"epochs": 20, "lr": 0.1, "decreasing_lr": (10, 15)}
    assert as_retrain(arguments=record)[0].decreasing_lr == (10, 15)
    assert as_retrain("--unlearn_epochs", "8", arguments=record)[0].decreasing_lr == (4, 6)
    assert as_retrain("--unlearn_epochs", "8", "--decreasing_lr", "2,3", arguments=record)[
        0
    ].decreasing_lr == (2, 3)
    assert as_retrain("--schedule", "cosine", arguments=record)[0].decreasing_lr is None
    args, _ = as_retrain(
        "--decreasing_lr",
        "2,3",
        arguments={"epochs": 20, "lr": 0.1, "schedule": "cosine", "final_lr": 0.01},
    )
    assert (args.schedule, args.final_lr) == ("multistep", 0)


def test_a_cosine_ends_at_final_lr_and_nothing_else_reads_it(tmp_path, capsys):
    train = ["--epochs", 2, "--save_dir", tmp_path]
    assert (
        call(main_train.main, *DIGITS, *train, "--final_lr", 0.01, "--schedule", "multistep") == 2
    )
    assert "add --schedule cosine" in capsys.readouterr().err
    assert call(main_train.main, *DIGITS, *train, "--final_lr", 0.01) == 2
    assert "add --schedule cosine" in capsys.readouterr().err
    assert call(main_train.main, *DIGITS, *train, "--final_lr", 0.5, "--schedule", "cosine") == 2
    assert "at most the learning rate 0.1" in capsys.readouterr().err
    assert (
        call(
            main_train.main,
            *DIGITS,
            *train,
            "--final_lr",
            0.05,
            "--schedule",
            "cosine",
            "--no-aug",
            "--batch_size",
            512,
        )
        == 0
    )
    lines = [json.loads(line) for line in (tmp_path / "0curve.jsonl").read_text().splitlines()]
    # Three updates an epoch; the last of six stands at 11/12 of the run.
    assert lines[-1]["lr"] == pytest.approx(0.05 + 0.05 * 0.5 * (1 + np.cos(np.pi * 11 / 12)))


# -------------------------------------------------------------------------------- Retrain as a user


def test_retrain_trains_as_its_original_did_and_says_so(odd, tmp_path, capsys):
    assert retrain(odd, tmp_path) == 0
    out = capsys.readouterr().out
    assert f"retrain as {odd} was trained" in out
    assert "--epochs" not in out
    assert "--unlearn_epochs=3 " in out
    assert " --no-aug " in out
    done, trained = result(tmp_path), json.loads((odd.parent / "train_result.json").read_text())
    renamed = {"epochs": "unlearn_epochs", "lr": "unlearn_lr"}
    for name, value in trained["hyperparameters"].items():
        assert done["hyperparameters"][renamed.get(name, name)] == value, name
    assert done["recipe"] == trained["recipe"]
    assert not done["warnings"]
    assert done["details"] == {}, "the last epoch, as the original's was"


def test_a_retrain_of_another_recipe_is_named_by_the_run_and_by_the_report(odd, tmp_path, capsys):
    assert retrain(odd, tmp_path / "b", "--unlearn_epochs", 1, "--batch_size", 64) == 0
    said = "trained unlike the original: unlearn_epochs 1 (original 3), batch_size 64 (original 48)"
    assert said in capsys.readouterr().err
    # Without --model_path the run cannot know; beside a run that does, the report can.
    blind = [
        "--unlearn",
        "retrain",
        "--num_indexes_to_replace",
        130,
        "--save_dir",
        tmp_path / "a",
        "--epochs",
        1,
    ]
    assert call(main_forget.main, *DIGITS, *blind) == 0
    assert (
        "no --model_path whose recipe to take over: retrain trains 1 epochs at 0.1, batch size 256"
        in capsys.readouterr().out
    )
    request = [
        "--unlearn",
        "raw",
        "--num_indexes_to_replace",
        130,
        "--save_dir",
        tmp_path / "a",
        "--model_path",
        odd,
    ]
    assert call(main_forget.main, *DIGITS, *request) == 0
    capsys.readouterr()
    assert call(report.main, tmp_path / "a") == 0
    assert (
        "Retrain: trained unlike the original: unlearn_epochs 1 (original 3)"
        in capsys.readouterr().out
    )


def test_an_original_without_a_record_leaves_retrain_its_defaults_and_says_so(
    odd, tmp_path, capsys
):
    bare = tmp_path / "bare.pth.tar"
    save(torch.load(odd, weights_only=True)["state_dict"], bare)
    assert retrain(bare, tmp_path, *DIGITS, "--unlearn_epochs", 1) == 0
    assert (
        f"{bare} has no record of its recipe: retrain trains 1 epochs at 0.1, batch size 256"
        in capsys.readouterr().out
    )


def test_an_original_from_before_select_leaves_retrain_at_the_last_epoch_and_says_so(
    odd, tmp_path, capsys
):
    content = torch.load(odd, weights_only=True)
    for name in ("select", "tail", "final_lr", "label_smoothing", "optimizer"):
        content["arguments"].pop(name)
    save(content, tmp_path / "old.pth.tar")
    assert retrain(tmp_path / "old.pth.tar", tmp_path) == 0
    out = capsys.readouterr().out
    assert "not recorded there, so by default: " in out
    assert "--select=last" in out
    assert "--tail=spread" in out
    assert result(tmp_path)["recipe"]["select"] == "last"
    assert result(tmp_path)["recipe"]["tail"] == "spread"


def test_what_unlearned_a_model_is_no_recipe_and_what_retrained_it_is(odd, tmp_path, capsys):
    forget = [
        "--num_indexes_to_replace",
        130,
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--save_dir",
        tmp_path,
    ]
    assert (
        call(
            main_forget.main, "--unlearn", "FT", "--model_path", odd, *forget, "--unlearn_epochs", 1
        )
        == 0
    )
    assert retrain(odd, tmp_path, "--unlearn_epochs", 2) == 0
    capsys.readouterr()
    assert (
        retrain(
            tmp_path / "FTcheckpoint.pth.tar", tmp_path / "x", "--unlearn_epochs", 1, "--dry_run"
        )
        == 0
    )
    of_original = capsys.readouterr().out  # the recipe of the original, which FT began with
    assert "FTcheckpoint.pth.tar was trained: --unlearn_lr=0.05 " in of_original
    again = [
        "--unlearn",
        "retrain",
        "--model_path",
        tmp_path / "retraincheckpoint.pth.tar",
        "--indexes_to_replace",
        "5,6,7",
    ]
    call(main_forget.main, *again, "--device", "cpu", "--save_dir", tmp_path / "y", "--dry_run")
    out = capsys.readouterr().out
    assert "--unlearn_epochs=2 " in out
    assert "--unlearn_lr=0.05 " in out


def test_a_record_that_retrain_cannot_read_costs_other_methods_nothing(odd, tmp_path):
    content = torch.load(odd, weights_only=True)
    for number, changes in enumerate(
        ({"epochs": "x"}, {"epochs": None, "decreasing_lr": "2,3", "schedule": None})
    ):
        part = {
            name: value
            for name, value in {**content["arguments"], **changes}.items()
            if value is not None
        }
        save({**content, "arguments": part}, tmp_path / f"{number}.pth.tar")
        method = [
            "--unlearn",
            "raw",
            "--model_path",
            tmp_path / f"{number}.pth.tar",
            "--num_indexes_to_replace",
            130,
        ]
        assert (
            call(main_forget.main, *method, "--save_dir", tmp_path / str(number), "--device", "cpu")
            == 0
        )


def test_a_dry_run_refuses_what_the_run_would(odd, tmp_path, capsys):
    request = [
        "--model_path",
        odd,
        "--num_indexes_to_replace",
        130,
        "--save_dir",
        tmp_path,
        "--dry_run",
        "--device",
        "cpu",
    ]
    assert call(main_forget.main, "--unlearn", "GA", *request, "--forget_batch_size", 1) == 2
    assert "--forget_batch_size 1 is too small" in capsys.readouterr().err
    assert call(main_forget.main, "--unlearn", "GA", *request, "--batch_size", 1) == 2
    assert "--batch_size 1 is too small" in capsys.readouterr().err
    # A quarter of four is two, and what joins the forget set with the retain set has its batches.
    assert call(main_forget.main, "--unlearn", "scrub", *request, "--batch_size", 4) == 0
    assert call(main_forget.main, "--unlearn", "amnesiac", *request, "--forget_batch_size", 1) == 0


def test_what_a_preset_sets_of_the_loop_is_said_and_an_end_above_a_typed_rate_is_that_rate(
    odd, tmp_path, capsys
):
    request = [
        "--model_path",
        odd,
        "--num_indexes_to_replace",
        130,
        "--save_dir",
        tmp_path,
        "--dry_run",
        "--device",
        "cpu",
    ]
    assert call(main_forget.main, "--unlearn", "neggrad+", *request) == 0
    assert "--preset paper: --momentum=0.0 --no-aug" in capsys.readouterr().out
    assert (
        call(
            main_forget.main,
            "--unlearn",
            "FT",
            *request,
            "--preset",
            "long_budget",
            "--unlearn_lr",
            "1e-5",
        )
        == 0
    )
    assert "--preset long_budget: --schedule=cosine --final_lr=1e-05" in capsys.readouterr().out


def test_a_damaged_record_of_a_recipe_is_refused_in_one_line(odd, tmp_path, capsys):
    content = torch.load(odd, weights_only=True)
    for number, (name, value) in enumerate(
        {"epochs": -3, "batch_size": "many", "lr": [1, 2], "schedule": "spiral"}.items()
    ):
        broken = tmp_path / f"{number}.pth.tar"
        save({**content, "arguments": {**content["arguments"], name: value}}, broken)
        assert retrain(broken, tmp_path) == 2, name
        error = capsys.readouterr().err.splitlines()
        assert len(error) == 1, error


# -------------------------------------------------------------------------------------- which epoch


def accuracies(folder, name):
    return [json.loads(line)["val"] for line in (folder / name).read_text().splitlines()]


@pytest.mark.parametrize("select", ["best", "last"])
def test_the_kept_epoch_is_the_one_that_the_rule_says(select, tmp_path, odd, capsys):
    folder = tmp_path / select
    # A rate at which the accuracy jumps about, so that the best epoch is not the last one.
    options = [
        "--epochs",
        6,
        "--lr",
        0.6,
        "--batch_size",
        128,
        "--select",
        select,
        "--train_seed",
        2,
    ]
    assert call(main_train.main, *DIGITS, *options, "--save_dir", folder) == 0
    seen = accuracies(folder, "0curve.jsonl")
    wanted = int(np.argmax(seen)) + 1 if select == "best" else 6
    said = f"epoch {wanted} of 6, the best on" if wanted < 6 else "the last epoch"
    assert f"0model_SA_best.pth.tar is {said}" in capsys.readouterr().out
    kept = torch.load(folder / "0model_SA_best.pth.tar", weights_only=True)
    assert kept["epoch"] == wanted
    assert kept["select"] == kept["arguments"]["select"] == select
    assert kept["best_sa"] == max(seen[:wanted])
    assert (
        json.loads((folder / "train_result.json").read_text())["metrics"]["VA"] == seen[wanted - 1]
    )
    assert retrain(folder / "0model_SA_best.pth.tar", folder) == 0
    done = result(folder)
    assert done["recipe"]["select"] == select
    if select == "best":
        assert done["metrics"]["VA"] == done["details"]["selected_VA"]
        assert 1 <= done["details"]["selected_epoch"] <= 6
    else:
        assert done["details"] == {}


def test_retrain_keeps_its_best_epoch_and_resumes_bit_for_bit(odd, tmp_path, monkeypatch):
    """Stopped after each epoch in turn; validation accuracies are made up so that the best epoch is
    one before the stop.
    """

    def run(folder, *more):
        scores = {1: 20.0, 2: 90.0, 3: 90.0, 4: 50.0}
        look = engine.Selection.look

        def made_up(self, epoch):
            monkeypatch.setattr(engine, "accuracy", lambda *unused: scores[epoch])
            look(self, epoch)
            monkeypatch.undo()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine.Selection, "look", made_up)
            return retrain(odd, folder, "--unlearn_epochs", 4, "--select", "best", *more)

    assert run(tmp_path / "whole") == 0
    whole = torch.load(tmp_path / "whole/retraincheckpoint.pth.tar", weights_only=True)
    assert result(tmp_path / "whole")["details"] == {"selected_epoch": 2, "selected_VA": 90.0}
    for stop in (1, 2, 3):
        folder, keep = tmp_path / f"stop{stop}", engine.Trainer.state

        def state(self, epoch, meter=None, stop=stop, keep=keep):
            if epoch == stop + 1:
                raise KeyboardInterrupt
            return keep(self, epoch, meter)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(engine.Trainer, "state", state)
            assert run(folder) == 130
        assert run(folder, "--resume") == 0
        again = torch.load(folder / "retraincheckpoint.pth.tar", weights_only=True)
        assert all(
            torch.equal(value, again["state_dict"][name])
            for name, value in whole["state_dict"].items()
        )
        assert result(folder)["details"] == {"selected_epoch": 2, "selected_VA": 90.0}
    # The weights of the second epoch, and not of the last: those that a run of another selection
    # ends with.
    assert run(tmp_path / "last", "--select", "last") == 0
    last = torch.load(tmp_path / "last/retraincheckpoint.pth.tar", weights_only=True)
    assert any(
        not torch.equal(value, last["state_dict"][name])
        for name, value in whole["state_dict"].items()
    )


def test_without_validation_images_the_last_epoch_is_kept_and_that_is_said(tmp_path, capsys):
    rng = np.random.default_rng(0)
    images, labels = (
        rng.integers(0, 255, (36, 8, 8, 3), dtype=np.uint8),
        np.arange(36) % 4,
    )  # nine a class: a tenth of them is none
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    train = [
        "--dataset",
        "npz",
        "--data",
        tmp_path / "few.npz",
        "--arch",
        "resnet20s",
        "--device",
        "cpu",
        "--save_dir",
        tmp_path,
    ]
    assert call(main_train.main, *train, "--epochs", 2) == 0
    assert "no validation images: --select last" in capsys.readouterr().out
    kept = torch.load(tmp_path / "0model_SA_best.pth.tar", weights_only=True)
    assert (kept["epoch"], kept["select"]) == (2, "last")
    request = [
        "--unlearn",
        "retrain",
        "--num_indexes_to_replace",
        4,
        "--model_path",
        tmp_path / "0model_SA_best.pth.tar",
    ]
    assert call(main_forget.main, *request, "--save_dir", tmp_path, "--device", "cpu") == 0
    assert result(tmp_path)["recipe"]["select"] == "last"
    assert call(main_train.main, *train, "--epochs", 2, "--resume") == 0
    assert "finished already" in capsys.readouterr().out


def test_no_validation_is_asked_for_once_and_later_steps_take_it_from_the_original(
    tmp_path, capsys
):
    small = ["--dataset", "digits", "--arch", "resnet20s", "--device", "cpu", "--batch_size", 256]
    where = ["--save_dir", tmp_path]
    assert call(main_train.main, *small, "--epochs", 1, "--val_fraction", 0, *where) == 0
    out = capsys.readouterr().out
    assert "1438 images, 0 validation" in out
    assert "no validation images: --select last" in out
    assert "nan" not in out.lower()
    original = tmp_path / "0model_SA_best.pth.tar"
    for words in (
        ["--unlearn", "retrain", "--num_indexes_to_replace", "100"],
        ["--unlearn", "FT", "--unlearn_epochs", 1, "--class_to_replace", 3],
    ):
        task = [*words, "--model_path", original, "--device", "cpu", *where]
        assert call(main_forget.main, *task) == 0
        out = capsys.readouterr().out
        assert "--val_fraction 0" in out
        assert "val 0, " in out
        assert "nan" not in out.lower()
        assert "VA" not in out
    assert result(tmp_path)["recipe"]["select"] == "last"
    assert call(main_forget.main, *task, "--val_fraction", 0.1, "--overwrite") == 2
    assert "trained with --split_seed 1 --val_fraction 0 on 1438" in capsys.readouterr().err
    words = [
        "--models",
        tmp_path / "FTcheckpoint.pth.tar",
        "--original",
        original,
        "--device",
        "cpu",
    ]
    assert call(evaluate.main, *words, *where) == 0
    assert "MIA" in capsys.readouterr().out


# ---------------------------------------------------------------------------------- old checkpoints


def test_a_run_begun_before_the_tail_was_a_flag_goes_on_as_it_began(tmp_path, capsys):
    """A checkpoint without the newer entries is one of --tail keep; 1,298 images in batches of 54
    leave two over.
    """
    train = [*DIGITS, "--epochs", 2, "--batch_size", 54, "--no-aug"]
    assert call(main_train.main, *train, "--save_dir", tmp_path / "kept", "--tail", "keep") == 0
    assert call(main_train.main, *train, "--save_dir", tmp_path / "spread") == 0
    old = tmp_path / "old"
    half = torch.load(tmp_path / "kept/0model_SA_best.pth.tar", weights_only=True)
    assert half["epoch"] in (1, 2)
    old.mkdir()
    for file in ("0checkpoint.pth.tar", "0model_SA_best.pth.tar"):
        content = torch.load(tmp_path / f"kept/{file}", weights_only=True)
        for name in ("tail", "final_lr", "select", "label_smoothing", "optimizer"):
            del content["identity"][name]
        save(content, old / file)
    capsys.readouterr()
    assert call(main_train.main, *train, "--save_dir", old, "--resume") == 0
    assert "was begun before --tail; it goes on with --tail keep" in capsys.readouterr().out
    assert call(main_train.main, *train, "--save_dir", old, "--resume", "--tail", "spread") == 2
    assert "tail keep, this command says spread" in capsys.readouterr().err
    weights = [
        torch.load(tmp_path / name / "0checkpoint.pth.tar", weights_only=True)["state_dict"]
        for name in ("kept", "spread")
    ]
    assert any(not torch.equal(value, weights[1][name]) for name, value in weights[0].items())


# ------------------------------------------------------------------------------ unlike the original


def test_an_original_that_fits_the_retain_set_unlike_retrain_is_named():
    retrains = [99.0, 99.4, 98.8]
    band = noise_band(retrains, 1)
    mean = np.mean(retrains)
    assert not trained_unlike(mean - band + 0.01, retrains)
    assert trained_unlike(mean - band - 0.01, retrains)
    assert not trained_unlike(50.0, retrains[:2]), "two Retrains give no band"
    assert not trained_unlike(99.6, [100.0] * 5), "half a point is nothing"
    assert trained_unlike(99.4, [100.0] * 5)

    def model(role, accuracy):
        metrics = {"RA": Metric(accuracy), "loss_auc": Metric(0.9, chance=(0.4, 0.6))}
        return Judged(role, role, role, 1, {}, metrics)

    models = [model("original", 66.2), *(model("retrain", accuracy) for accuracy in retrains)]
    (found,) = audit_alarms(models)
    assert found.startswith("the original has 66.2 % accuracy on the retain set, Retrain 99.1 %")
    assert audit_alarms([model("original", 99.1), *models[1:]]) == []


def test_differences_are_named_and_what_follows_from_them_is_not():
    original = {"unlearn_epochs": 20, "milestones": [10, 15], "tail": "spread", "batch_size": 64}
    assert differences(original, original) == ""
    assert (
        differences({**original, "unlearn_epochs": 8, "milestones": [4, 6]}, original)
        == "unlearn_epochs 8 (original 20)"
    )
    assert (
        differences({**original, "milestones": [4, 6]}, original)
        == "milestones [4, 6] (original [10, 15])"
    )
    assert differences({"batch_size": 64}, original) == "", (
        "what an older result does not record is not compared"
    )


def test_a_typed_rate_of_training_is_refused_where_it_is_none():
    with pytest.raises(UserError, match="label_smoothing"):
        train_request(["--label_smoothing", "1"])
