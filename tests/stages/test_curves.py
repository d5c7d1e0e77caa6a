"""Training curves: one line per epoch, whole after a resume, the same in TensorBoard."""

import json
import sys
import types

import torch

import arg_parser
import main_forget
import main_train
from engine import EpochStats
from runtime.clock import Stopwatch
from stages.curves import Curve, epoch_line

SMALL = ["--dataset", "digits", "--arch", "resnet20s", "--batch_size", "256", "--device", "cpu"]


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_training_and_unlearning_leave_a_line_per_epoch(tmp_path):
    original = tmp_path / "0model_SA_best.pth.tar"
    assert main_train.main([*SMALL, "--epochs", "2", "--save_dir", str(tmp_path)]) == 0
    trained = lines(tmp_path / "0curve.jsonl")
    assert [line["epoch"] for line in trained] == [1, 2]
    assert set(trained[0]) == {"epoch", "loss", "accuracy", "lr", "first_lr", "seconds", "val"}
    assert trained[0]["seconds"] < trained[1]["seconds"]
    forget = [
        "--model_path",
        str(original),
        "--num_indexes_to_replace",
        "50",
        "--unlearn",
        "FT",
        "--save_dir",
        str(tmp_path),
    ]
    assert main_forget.main([*SMALL, *forget, "--unlearn_epochs", "2"]) == 0
    unlearned = lines(tmp_path / "FTcurve.jsonl")
    assert [line["epoch"] for line in unlearned] == [1, 2]
    assert {"val", "forget", "retain"} <= set(unlearned[0])
    assert (
        main_forget.main([*SMALL, *forget, "--unlearn_epochs", "2", "--resume"]) == 0
    )  # finished: nothing is added
    assert lines(tmp_path / "FTcurve.jsonl") == unlearned
    assert main_forget.main([*SMALL, *forget, "--unlearn_epochs", "1", "--overwrite"]) == 0
    assert [line["epoch"] for line in lines(tmp_path / "FTcurve.jsonl")] == [1]


def test_a_resumed_curve_drops_what_is_computed_again(tmp_path):
    file, stats = tmp_path / "FTcurve.jsonl", EpochStats(0.5, 90.0, 0.1, 0.2)
    first = Curve(file, 0, tensorboard=False)
    for epoch in range(3):
        first.add(epoch, stats, {"val": 80.0 + epoch, "forget": float("nan")}, 1.0)
    assert "forget" not in lines(file)[0]  # an empty split has no accuracy, and JSON no NaN
    again = Curve(file, 2, tensorboard=False)
    again.add(2, stats, {"val": 99.0}, 1.0)
    assert [(line["epoch"], line["val"]) for line in lines(file)] == [
        (1, 80.0),
        (2, 81.0),
        (3, 99.0),
    ]
    Curve(file, 0, tensorboard=False).add(0, stats, {}, 1.0)
    assert len(lines(file)) == 1


def test_an_epochs_line_names_the_rate_it_began_and_ended_with():
    def rates(first, last):
        line = epoch_line(
            0, 2, EpochStats(0.5, 90.0, last, first), "", Stopwatch(torch.device("cpu"))
        )
        return line.split("lr ")[1].rsplit(maxsplit=2)[0]

    assert rates(0.1, 0.0986) == "0.1 to 0.0986"
    assert rates(0.01, 0.01) == "0.01"


def test_tensorboard_gets_the_same_numbers(tmp_path, monkeypatch):
    seen = []

    class SummaryWriter:
        def __init__(self, folder):
            seen.append(folder)

        def add_scalar(self, name, value, epoch):
            seen.append((name, value, epoch))

        def flush(self):
            seen.append("flush")

    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard", types.SimpleNamespace(SummaryWriter=SummaryWriter)
    )
    Curve(tmp_path / "FTcurve.jsonl", 0, tensorboard=True).add(
        0, EpochStats(0.5, 90.0, 0.1, 0.2), {"val": 80.0}, 2.0
    )
    assert seen[0] == tmp_path / "FTcurve"
    assert {name: value for name, value, epoch in seen[1:-1]} == {
        "loss": 0.5,
        "accuracy": 90.0,
        "lr": 0.1,
        "first_lr": 0.2,
        "seconds": 2.0,
        "val": 80.0,
    }
    assert seen[-1] == "flush"


def test_tensorboard_that_is_not_installed_is_one_line_before_any_work(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(arg_parser.importlib.util, "find_spec", lambda name: None)
    assert main_train.main([*SMALL, "--tensorboard", "--save_dir", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == "main_train.py: error: --tensorboard needs an extra: pip install tensorboard\n"
    )
    assert not list(tmp_path.iterdir())
