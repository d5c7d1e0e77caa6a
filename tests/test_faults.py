"""What may happen to a run: kills, signals, full disks, other runs, bad files. The long trials are
in faults/; a few of each run here.
"""

import copy
import errno
import io
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import files, stops, tables
from helpers import SETUP, call, cut_short, forget, patch_stages, refused, result, spoilt, weights
from PIL import Image
from torch import nn

import engine
import generate_mask
import main_forget
import main_train
import models
from datasets import load_dataset, sources
from datasets.lists import read_list
from masks.scores import SCORES
from runtime import cli, file_checks
from runtime import files as runtime_files
from runtime.cli import script
from runtime.file_checks import FalseClaim, check_content, check_npy, check_npz, check_torch
from runtime.files import hash_arrays, load, load_json, lock, save, save_json
from stages.task import open_task
from utils import RunFailed, UserError

ROOT = Path(__file__).parent.parent
TRAIN = [*SETUP, "--epochs", "2", "--lr", "0.1"]


def forbidden(name):
    """What makes a test fail if it is called."""

    def called(*unused, **also_unused):
        raise AssertionError(f"{name} was called")

    return called


# -------------------------------------------------------------------------------------- the harness


SAMPLES = (
    (["kills=3", "disk=2", "crowd=1"], 20),
    (["corruption=38", "shrink=3", "hostile=40", "lines=100", "real_lines=6"], 20),
    (
        [
            "moved=2",
            "changed=4",
            "json=8",
            "beside=100",
            "every_write=3:wfisher",
            "pools=1:sweep",
            "environments=1:no stdout",
        ],
        92,
    ),
)


@pytest.mark.parametrize(
    ("kinds", "seed"), SAMPLES, ids=lambda value: value[0] if isinstance(value, list) else ""
)
def test_a_few_trials_of_each_kind_lose_nothing_execute_nothing_and_show_no_traceback(
    kinds, seed, tmp_path
):
    """In a process of its own: its children are forked, which a process that has trained must not
    do.
    """
    words = [*kinds, "--seed", str(seed), "--runs", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, str(ROOT / "tests/faults/harness.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    bad = [line for line in run.stdout.splitlines() if line.startswith("BAD")]
    assert run.returncode == 0, (bad or run.stderr)[-3000:]
    good = [line.split()[1] for line in run.stdout.splitlines() if line.startswith("ok")]
    for kind in kinds:
        name, count = kind.partition(":")[0].split("=")
        assert good.count(name) == int(count) / (100 if name == "beside" else 1)


def test_the_trials_see_faults_that_are_planted(tmp_path):
    command = [sys.executable, str(ROOT / "tests/faults/planted.py"), str(tmp_path)]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, f"not seen: {run.stdout}\n{run.stderr[-3000:]}"


def test_the_checks_of_the_six_formats_see_what_must_not_be_there():
    good = {
        "csv": "a,b\n'=1,-1.5\n",
        "markdown": r"| a \[x\](y) &lt;b&gt; |",
        "latex": "\\textbf{a}\\_\\%\n% \\input{x}",
        "json": "[1]",
        "text": "a\nb",
    }
    bad = {
        "csv": ("a,=1\n", '"@x"\n', "+1+1\n", "a\tb\x1b\n"),
        "markdown": ("<b>", "<!--", "[x](y)", "\u202e"),
        "json": ("[NaN]", "["),
        "latex": ("\\input{x}", "\\textbf{", "a % b", "\x0c"),
        "text": ("\x1b[2J", "a\rb", "\u2066"),
    }
    for name, text in good.items():
        assert not tables.wrong_with(name, 0, text, ""), name
    for name, texts in bad.items():
        assert all(tables.wrong_with(name, 0, text, "") for text in texts), name
    policy = "<meta content=\"default-src 'none'\">"
    page = f"{policy}<script>{(ROOT / 'reporting/page.js').read_text()}</script>"
    assert not tables.wrong_with("page", 0, page, "")
    for more in (
        "<script>1</script>",
        "<p onclick=1>",
        "<a href='javascript:1'>",
        "<img>",
        "<a href=http://a>",
    ):
        assert tables.wrong_with("page", 0, page + more, ""), more
    assert tables.wrong_with("page", 0, page.replace("none", "*"), "")
    assert tables.wrong_with("text", 2, "", "x: error: \x1b[2J")


def test_what_is_made_twice_or_left_behind_is_seen(tmp_path):
    before = {"a": (1, 1), "b": (2, 2)}
    assert not stops.made_twice(before, before | {"c": (3, 3)})
    assert len(stops.made_twice(before, {"a": (1, 2)})) == 2
    (tmp_path / "logits").mkdir()
    (tmp_path / "logits" / ".x.npz.7.tmp").touch()
    assert not stops.left_behind(tmp_path)
    (tmp_path / ".audit.json.7.tmp").touch()
    assert stops.left_behind(tmp_path)


def test_the_hostile_files_would_execute_and_the_corruption_check_would_see(tmp_path):
    """The trials can fail: each payload works when it is followed, and a changed number is another
    content.
    """
    trap = tmp_path / "trap"
    for name, payload in files.payloads(trap).items():
        if name in ("numpy", "torch.load", "torch.save"):
            continue  # they write or read another name
        trap.unlink(missing_ok=True)
        opened = pickle.loads(pickle.dumps(payload))
        assert trap.exists(), name
        if hasattr(opened, "close"):
            opened.close()
    contents = []
    for value in (1.0, 1.5):
        file = io.BytesIO()
        torch.save({"a": [torch.tensor(value)], "b": 1}, file)
        contents.append(file.getvalue())
    assert files.same_values(contents[0], contents[0])
    assert not files.same_values(*contents)
    assert files.complaints_about(1, "x: failed: y", (0, 2))
    assert files.complaints_about(2, "Traceback\nx: error: y", (0, 2))
    assert files.complaints_about(2, "", (0, 2))
    assert not files.complaints_about(2, "warning: z\nx: error: y", (0, 2))


# ---------------------------------------------------------------------------------- inside an epoch


def with_dropout(num_classes):
    model = models.resnet20s(num_classes)
    model.fc = nn.Sequential(nn.Dropout(0.3), model.fc)
    return model


def last_states(monkeypatch):
    """What each file last held with an optimizer, by its path, filled as runs save."""
    states = {}

    def save_and_keep(state, path):
        save(state, path)
        if "optimizer" in state:
            states[path] = copy.deepcopy(state)

    patch_stages(monkeypatch, "save", save_and_keep)
    return states


@pytest.mark.parametrize("saves", [2, 3, 5])
def test_training_resumed_inside_an_epoch_equals_an_uninterrupted_run_bit_for_bit(
    saves, tmp_path, monkeypatch, capsys
):
    """21 steps an epoch, saved every 8, with dropout, so that the global generator counts: the
    lines printed are equal too.
    """
    monkeypatch.setitem(models.MODELS, "resnet20s", with_dropout)
    words = [*TRAIN, "--save_every_steps", 8, "--save_dir"]
    states = last_states(monkeypatch)
    assert call(main_train.main, *words, tmp_path / "whole") == 0
    whole = [
        line.rsplit("  ", 1)[0]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("epoch")
    ]
    with monkeypatch.context() as patch:
        cut_short(patch, saves)
        assert call(main_train.main, *words, tmp_path / "cut") == 130
    at = load(tmp_path / "cut/0checkpoint.pth.tar", "checkpoint")
    assert (at["epoch"], at["meter"] and at["meter"]["steps"]) == {
        2: (0, 16),
        3: (1, None),
        5: (1, 16),
    }[saves]
    capsys.readouterr()
    assert call(main_train.main, *words, tmp_path / "cut", "--resume") == 0
    cut = [
        line.rsplit("  ", 1)[0]
        for line in capsys.readouterr().out.splitlines()
        if line.startswith("epoch")
    ]
    assert cut == whole[-len(cut) :]
    assert len(cut) == 2 - at["epoch"]
    for file in ("0checkpoint.pth.tar", "0model_SA_best.pth.tar"):
        a, b = (load(tmp_path / folder / file, "file") for folder in ("whole", "cut"))
        assert hash_arrays(a["state_dict"]) == hash_arrays(b["state_dict"])
    a, b = (states[tmp_path / folder / "0checkpoint.pth.tar"] for folder in ("whole", "cut"))
    for index, part in a["optimizer"]["state"].items():
        assert torch.equal(
            part["momentum_buffer"], b["optimizer"]["state"][index]["momentum_buffer"]
        )
    assert torch.equal(a["rng"], b["rng"])
    assert (
        load_json(tmp_path / "whole/train_result.json", "")["metrics"]
        == load_json(tmp_path / "cut/train_result.json", "")["metrics"]
    )


def test_saving_inside_epochs_changes_nothing(tmp_path):
    for folder, words in (("often", ["--save_every_steps", 3]), ("never", [])):
        assert call(main_train.main, *TRAIN, *words, "--save_dir", tmp_path / folder) == 0
    a, b = (
        hash_arrays(weights(tmp_path / folder / "0checkpoint.pth.tar"))
        for folder in ("often", "never")
    )
    assert a == b


# ------------------------------------------------------------------------------------ finished runs


def test_resuming_what_is_finished_returns_its_result_at_once(
    original, masks, tmp_path, monkeypatch, capsys
):
    assert call(main_train.main, *TRAIN, "--save_dir", tmp_path) == 0
    trained = capsys.readouterr().out.splitlines()[-1]
    rl = ["--unlearn", "RL", "--unlearn_epochs", 1, "--mask_path", masks / "with_0.5.pt"]
    assert forget(original, tmp_path, *rl) == 0
    unlearned = capsys.readouterr().out.splitlines()[-1]
    before = {
        file: file.read_bytes() for file in (*tmp_path.glob("*.json"), *tmp_path.glob("*.tar"))
    }
    for name in ("predict", "run_method", "svc_draws", "save", "save_json"):
        patch_stages(monkeypatch, name, forbidden(name))
    monkeypatch.setattr(engine.Trainer, "fit", forbidden("fit"))
    patch_stages(monkeypatch, "SCORES", dict.fromkeys(SCORES))
    assert call(main_train.main, *TRAIN, "--save_dir", tmp_path, "--resume") == 0
    assert capsys.readouterr().out.splitlines()[-1] == trained
    patch_stages(monkeypatch, "Monitor", lambda *unused: None)
    assert forget(original, tmp_path, *rl, "--resume") == 0
    assert capsys.readouterr().out.splitlines()[-1] == unlearned
    made = [
        "--model_path",
        original,
        "--save_dir",
        masks,
        "--num_indexes_to_replace",
        130,
        "--resume",
    ]
    assert call(generate_mask.main, *SETUP, *made) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("RESULT method=saliency masks=10")
    assert before == {file: file.read_bytes() for file in before}


def test_another_attack_or_a_damaged_result_is_evaluated_again(original, tmp_path, capsys):
    assert forget(original, tmp_path, "--unlearn", "raw") == 0
    metrics = result(tmp_path, "raw")["metrics"]
    assert forget(original, tmp_path, "--unlearn", "raw", "--resume", "--mia_members", "first") == 0
    assert result(tmp_path, "raw")["attack"]["members"] == "first"
    assert result(tmp_path, "raw")["attack"]["draws"] == 1
    (tmp_path / "rawresult.json").write_text('{"metrics": ')
    assert forget(original, tmp_path, "--unlearn", "raw", "--resume") == 0
    assert result(tmp_path, "raw")["metrics"] == metrics


def test_a_result_by_the_earlier_rule_of_the_draw_is_evaluated_again(original, tmp_path, capsys):
    """It says who were the members and nothing of how many draws there were, nor what
    seeded them.
    """
    assert forget(original, tmp_path, "--unlearn", "raw") == 0
    whole = result(tmp_path, "raw")
    assert len(whole["attack"]["MIA"]) == whole["attack"]["draws"] == 10
    assert np.mean(whole["attack"]["MIA"]) == pytest.approx(whole["metrics"]["MIA"])
    for attack in ({"members": "balanced"}, None, {**whole["attack"], "draws": 1}):
        old = {**whole, "attack": attack, "metrics": {**whole["metrics"], "MIA": -1.0}}
        (tmp_path / "rawresult.json").write_text(json.dumps(old))
        assert forget(original, tmp_path, "--unlearn", "raw", "--resume") == 0
        assert "finished already" not in capsys.readouterr().out
        again = result(tmp_path, "raw")
        assert (again["attack"], again["metrics"]) == (whole["attack"], whole["metrics"])
    assert forget(original, tmp_path, "--unlearn", "raw", "--resume") == 0
    assert "finished already" in capsys.readouterr().out


def test_results_on_other_test_images_are_evaluated_again(original, tmp_path, capsys):
    """Training's as well as unlearning's; the weights are those of before."""
    assert call(main_train.main, *TRAIN, "--save_dir", tmp_path) == 0
    assert forget(original, tmp_path, "--unlearn", "raw") == 0
    for name, again in (
        (
            "train_result.json",
            lambda: call(main_train.main, *TRAIN, "--save_dir", tmp_path, "--resume"),
        ),
        ("rawresult.json", lambda: forget(original, tmp_path, "--unlearn", "raw", "--resume")),
    ):
        whole = load_json(tmp_path / name, "")
        others = {
            "data": {**whole["data"], "test_sha256": "others"},
            "metrics": {**whole["metrics"], "TA": -1.0},
        }
        save_json({**whole, **others}, tmp_path / name)
        capsys.readouterr()
        assert again() == 0
        assert "finished already" not in capsys.readouterr().out
        mended = load_json(tmp_path / name, "")
        assert (mended["data"], mended["metrics"]) == (whole["data"], whole["metrics"])


def test_masks_resume_where_some_are_missing_and_refuse_another_request(original, tmp_path, capsys):
    made = ["--model_path", original, "--save_dir", tmp_path, "--num_indexes_to_replace", 130]
    assert call(generate_mask.main, *SETUP, *made) == 0
    before = (tmp_path / "with_0.5.pt").read_bytes()
    capsys.readouterr()
    refused(
        capsys,
        call(generate_mask.main, *SETUP, *made, "--resume", "--forget_seed", 7),
        "forget",
        "--overwrite",
    )
    refused(
        capsys,
        call(generate_mask.main, *SETUP, *made, "--resume", "--score", "magnitude"),
        "score saliency",
        "magnitude",
    )
    (tmp_path / "with_0.5.pt").unlink()
    assert call(generate_mask.main, *SETUP, *made, "--resume") == 0
    assert (tmp_path / "with_0.5.pt").read_bytes() == before


def test_ratio_masks_of_another_rule_seed_or_batch_size_are_not_finished(
    original, tmp_path, capsys
):
    """A record without the order of its batches was made in file order; those of training do not
    matter.
    """
    made = [
        "--model_path",
        original,
        "--save_dir",
        tmp_path,
        "--num_indexes_to_replace",
        130,
        "--score",
        "ratio",
        "--forget_seed",
        2,
    ]
    assert call(generate_mask.main, *SETUP, *made) == 0
    assert (
        call(
            generate_mask.main,
            *SETUP,
            *made,
            "--resume",
            "--tail",
            "keep",
            "--accumulate",
            2,
            "--forget_batch_size",
            9,
        )
        == 0
    )
    assert "finished already" in capsys.readouterr().out
    refused(capsys, call(generate_mask.main, *SETUP, *made, "--resume", "--seed", 7), "seed 2", "7")
    refused(
        capsys,
        call(generate_mask.main, *SETUP, *made, "--resume", "--batch_size", 32),
        "batch_size 64",
        "32",
    )
    record = json.loads((tmp_path / "mask_result.json").read_text())
    del record["batch_order"]
    (tmp_path / "mask_result.json").write_text(json.dumps(record))
    refused(
        capsys,
        call(generate_mask.main, *SETUP, *made, "--resume"),
        "batch_order None",
        "shuffled",
        "--overwrite",
    )


def test_other_flags_are_named_before_data_are_read(tmp_path, capsys):
    data = tmp_path / "own.npz"
    images = np.random.default_rng(0).integers(0, 255, (40, 8, 8), np.uint8)
    np.savez(
        data, x_train=images, y_train=np.arange(40) % 2, x_test=images, y_test=np.arange(40) % 2
    )
    words = [
        "--dataset",
        "npz",
        "--data",
        data,
        "--arch",
        "resnet20s",
        "--device",
        "cpu",
        "--save_dir",
        tmp_path,
    ]
    assert call(main_train.main, *words, "--epochs", 1) == 0
    of_retrain = ["--unlearn", "retrain", "--num_indexes_to_replace", 4, "--unlearn_epochs", 1]
    assert call(main_forget.main, *words, *of_retrain) == 0
    data.unlink()
    capsys.readouterr()
    refused(
        capsys,
        call(main_train.main, *words, "--epochs", 1, "--lr", 0.2, "--resume"),
        "lr 0.1",
        "0.2",
    )
    refused(
        capsys, call(main_forget.main, *words, *of_retrain, "--seed", 9, "--resume"), "seed 2", "9"
    )
    refused(
        capsys, call(main_forget.main, *words, *of_retrain, "--resume"), "own.npz", "no such file"
    )


def test_a_best_model_of_other_flags_is_not_taken_over(tmp_path, capsys):
    """A run under --overwrite that was killed between its two files leaves its best model beside
    the checkpoint of the run before.
    """
    assert call(main_train.main, *TRAIN, "--save_dir", tmp_path) == 0
    spoilt(
        tmp_path / "0model_SA_best.pth.tar",
        tmp_path / "0model_SA_best.pth.tar",
        lambda state: state["identity"].update(lr=0.5),
    )
    capsys.readouterr()
    refused(
        capsys,
        call(main_train.main, *TRAIN, "--save_dir", tmp_path, "--resume"),
        "0model_SA_best.pth.tar",
        "lr 0.5",
    )


def test_an_overwriting_training_that_is_stopped_leaves_no_record_of_the_run_before(
    tmp_path, monkeypatch
):
    assert call(main_train.main, *TRAIN, "--save_dir", tmp_path) == 0
    cut_short(monkeypatch, 1)
    assert call(main_train.main, *TRAIN, "--save_dir", tmp_path, "--lr", 0.05, "--overwrite") == 130
    assert not (tmp_path / "train_result.json").exists()


def test_a_method_that_refuses_its_flags_leaves_the_earlier_result(original, tmp_path, capsys):
    assert forget(original, tmp_path, "--unlearn", "CF_k", "--unlearn_epochs", 1) == 0
    before = {file: file.read_bytes() for file in tmp_path.glob("CF_k*")}
    capsys.readouterr()
    refused(
        capsys,
        forget(
            original, tmp_path, "--unlearn", "CF_k", "--unlearn_epochs", 1, "--k", 99, "--overwrite"
        ),
        "--k 99",
    )
    assert len(before) == 5
    assert before == {file: file.read_bytes() for file in tmp_path.glob("CF_k*")}


# ------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_signals_stop_with_130_and_say_how_to_go_on(
    name, original, tmp_path, monkeypatch, capsys, request
):
    number, real = getattr(signal, name), save
    # A job that a shell started in the background ignores SIGINT, and so would this test.
    outside = signal.signal(
        number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
    )
    request.addfinalizer(lambda: signal.signal(number, outside))
    before = signal.getsignal(number)

    def save_then_stop(state, path):
        real(state, path)
        os.kill(os.getpid(), number)

    with monkeypatch.context() as patch:
        patch_stages(patch, "save", save_then_stop)
        assert forget(original, tmp_path, "--unlearn", "GA", "--unlearn_epochs", 2) == 130
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "stopped" in line]
    assert name in line
    assert "--resume" in line
    assert signal.getsignal(number) == before
    assert load(tmp_path / "GAcheckpoint.pth.tar", "checkpoint")["epoch"] == 1
    assert forget(original, tmp_path, "--unlearn", "GA", "--unlearn_epochs", 2, "--resume") == 0


class Full(io.BytesIO):
    """A file on a disk that is full from its second write on."""

    writes = 0

    def write(self, content):
        self.writes += 1
        if self.writes > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content)


def test_a_full_disk_is_told_as_it_is_and_the_old_file_stays(tmp_path, monkeypatch):
    """torch would make a RuntimeError of its own of it, or abort the process."""
    file = tmp_path / "kept.pt"
    save({"a": 1}, file)
    before, real = file.read_bytes(), runtime_files._Steady
    monkeypatch.setattr(runtime_files, "_Steady", lambda file: real(Full()))
    with pytest.raises(RunFailed, match="No space left on device; earlier files are untouched"):
        save({"x": torch.zeros(1000)}, file)
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept.pt"]


class Stopped:
    """A signal comes while this is saved."""

    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return dict, ()


def test_a_signal_waits_for_the_file_that_is_being_written(tmp_path, capsys):
    reached = []

    @script
    def main(argv):
        save({"a": torch.ones(3), "b": Stopped()}, tmp_path / "x.pt")
        reached.append(1)

    assert main([]) == 130
    assert "stopped by SIGTERM" in capsys.readouterr().err
    assert not reached
    assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=False)["a"], torch.ones(3))


# -------------------------------------------------------------------------------------------- files


def test_what_a_killed_run_had_begun_to_write_is_removed_by_the_next_of_its_method(tmp_path):
    begun, others, own = (
        tmp_path / name
        for name in (".FTresult.json.77.tmp", ".FT_pruneresult.json.78.tmp", ".note.tmp")
    )
    for file in (begun, others, own):
        file.touch()
    with lock(tmp_path, "FT", [tmp_path / "FTresult.json", tmp_path / "FTcheckpoint.pth.tar"]):
        assert not begun.exists()
        assert others.exists()
        assert own.exists()


def test_a_run_that_another_one_overtook_does_not_write_over_its_result(
    original, tmp_path, monkeypatch, capsys
):
    """Both began in an empty folder; the other one has finished when this one gets the lock."""
    real = open_task

    def overtaken(*arguments):
        task = real(*arguments)
        tmp_path.joinpath("GAresult.json").write_text("theirs")
        return task

    patch_stages(monkeypatch, "open_task", overtaken)
    refused(
        capsys,
        forget(original, tmp_path, "--unlearn", "GA", "--unlearn_epochs", 1),
        "GAresult.json exists",
    )
    assert (tmp_path / "GAresult.json").read_text() == "theirs"


def test_json_has_null_for_numbers_that_are_none(tmp_path):
    save_json(
        {"a": [float("nan"), 1.5, {"b": float("-inf")}], "c": (1, "x", None)}, tmp_path / "x.json"
    )

    def forbidden(name):
        raise AssertionError(name)

    content = json.loads((tmp_path / "x.json").read_text(), parse_constant=forbidden)
    assert content == {"a": [None, 1.5, {"b": None}], "c": [1, "x", None]}


def test_a_mask_other_than_its_record_says_is_refused(original, masks, tmp_path, capsys):
    for name in ("with_0.5.pt", "mask_result.json"):
        (tmp_path / name).write_bytes(
            (masks / ("with_0.3.pt" if name.endswith("pt") else name)).read_bytes()
        )
    refused(
        capsys,
        forget(
            original,
            tmp_path / "out",
            "--unlearn",
            "FT",
            "--mask_path",
            tmp_path / "with_0.5.pt",
            "--dry_run",
        ),
        "describes",
    )


def test_changed_bytes_that_torch_itself_would_read_are_refused(tmp_path):
    """torch.load does not compare checksums; a changed weight would pass as one."""
    file = tmp_path / "x.pt"
    save({"a": torch.zeros(1000)}, file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert torch.load(file, weights_only=True)["a"].count_nonzero()
    with pytest.raises(UserError, match="checksum"):
        load(file, "checkpoint")


GREEDY = {
    name: write
    for name, write in files.greedy_files().items()
    if name.partition(",")[0] not in ("npy", "npz", "deep json", "long number")
}


@pytest.mark.parametrize("name", GREEDY)
def test_torch_files_that_claim_too_much_are_refused(name, tmp_path):
    file = tmp_path / "x.pt"
    GREEDY[name](file)
    assert file.stat().st_size < 10 * 2**20
    with pytest.raises(UserError, match=r"x\.pt is not a readable torch file"):
        load(file, "checkpoint")


def test_a_checkpoint_of_shared_parts_is_weighed_in_full():
    shared = torch.zeros(100_000)
    check_content({"a": shared, "b": [shared]}, 400_000)
    with pytest.raises(FalseClaim, match="larger"):
        check_content([shared] * 20, 400_000)
    cycle = []
    cycle.append(cycle)
    with pytest.raises(FalseClaim, match="larger"):
        check_content(cycle, 100)
    with pytest.raises(FalseClaim, match="holds a PosixPath"):
        check_content({"x": [Path("/")]}, 100)


@pytest.mark.parametrize("kind", ["npz", "npz, packed"])
def test_arrays_that_claim_too_much_are_refused_unread(kind, tmp_path, monkeypatch):
    file = tmp_path / "x.npz"
    files.greedy_files()[kind](file)
    monkeypatch.setattr(np, "load", forbidden("load"))
    with pytest.raises(UserError, match="claims"):
        sources.npz(file, sources.Reading())


def test_an_index_file_that_claims_too_much_is_refused_unread(tmp_path, monkeypatch):
    file = tmp_path / "x.npy"
    files.greedy_files()["npy"](file)
    monkeypatch.setattr(np, "load", forbidden("load"))
    with pytest.raises(UserError, match="claims 8000000000000 bytes"):
        read_list(f"@{file}", "--forget")


def test_honest_arrays_pass_and_objects_do_not(tmp_path):
    np.save(tmp_path / "a.npy", np.arange(12).reshape(3, 4))
    np.savez_compressed(
        tmp_path / "a.npz",
        x=np.zeros((100, 1000)),
        y=np.array(3),
        z=np.empty((0, 5)),
        names=np.array(["a", "bc"]),
    )
    check_npy(tmp_path / "a.npy")
    check_npz(tmp_path / "a.npz", ("x", "y", "z", "names"))
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FalseClaim, match="Python objects"):
        check_npy(tmp_path / "o.npy")


def test_data_larger_than_the_memory_are_refused(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((1000, 1000)))
    monkeypatch.setattr(file_checks, "memory", lambda: 10**6)
    with pytest.raises(FalseClaim, match="this machine has 1000000"):
        check_npz(tmp_path / "a.npz", ("x",))
    monkeypatch.setattr(sources, "available_memory", lambda: 10**6)
    with pytest.raises(UserError, match="--input_size 512"):
        sources.as_rgb(np.zeros((10, 8, 8), np.uint8), "x_train", 512)
    for half in ("train/a", "train/b", "test/a", "test/b"):
        (tmp_path / half).mkdir(parents=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / half / "x.png")
    with pytest.raises(
        UserError, match=r"4 images of 2147483647 pixels a side need .* smaller --input_size"
    ):
        load_dataset("folder", tmp_path, input_size=2**31 - 1)


def test_only_plain_containers_and_tensors_pass_the_list(tmp_path):
    """What torch's own list lets through and a checkpoint does not need is refused as well."""
    save(
        {
            "a": torch.zeros(2).bfloat16(),
            "b": nn.Parameter(torch.ones(1)),
            "c": torch.Size([2]),
            "d": {1, 2},
            "e": b"xy",
        },
        tmp_path / "good.pt",
    )
    check_torch(tmp_path / "good.pt")
    assert load(tmp_path / "good.pt", "file")["e"] == b"xy"
    torch.save({"a": torch.zeros(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert load(tmp_path / "old.pt", "file")["a"].shape == (2,)
    torch.save(torch.eye(3).to_sparse(), tmp_path / "sparse.pt")
    with pytest.raises(UserError, match="_rebuild_sparse_tensor"):
        load(tmp_path / "sparse.pt", "file")
    torch.save({"x": np.array([1.5])[0]}, tmp_path / "number.pt")
    assert load(tmp_path / "number.pt", "file")["x"] == 1.5


def test_hostile_pickles_inside_torchvisions_folders_are_not_read(tmp_path, monkeypatch):
    from torchvision.datasets import cifar

    def no_network(*unused, **also_unused):
        raise RuntimeError("no network")

    monkeypatch.setattr(cifar, "download_and_extract_archive", no_network)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in ("data_batch_1", "test_batch", "batches.meta"):
        (folder / name).write_bytes(pickle.dumps(files.payloads(tmp_path / "trap")["os.system"]))
    with pytest.raises(UserError, match="CIFAR10 is not under"):
        sources.cifar10(tmp_path, sources.Reading())
    assert not (tmp_path / "trap").exists()


# --------------------------------------------------------------------------- what a script's end is


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), 1, "--batch_size"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            1,
            "--batch_size",
        ),
        (
            RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
            1,
            "failed: out of memory",
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), 1, "failed: out of memory"),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            1,
            "failed: out of memory",
        ),
        (
            RuntimeError("FIND was unable to find an engine to execute this computation"),
            1,
            "smaller --batch_size",
        ),
        (MemoryError(), 1, "out of memory"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/data/x.npz"),
            1,
            "/data/x.npz: Permission denied",
        ),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 1, "nothing reads"),
        (KeyboardInterrupt(), 130, "SIGINT"),
        (RunFailed("the loss"), 1, "failed: the loss"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_errors_of_the_machine_end_in_one_line(error, code, said, capsys):
    @script
    def main(argv):
        raise error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli, "_discard_output", lambda: None)
        assert main([]) == code
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_mistakes_of_the_code_keep_their_traceback():
    @script
    def main(argv):
        raise RuntimeError("shapes (2,) and (3,)")

    with pytest.raises(RuntimeError, match="shapes"):
        main([])


def test_a_reader_that_goes_away_ends_a_script_without_a_traceback():
    words = [sys.executable, str(ROOT / "main_forget.py"), "--list_methods"]
    run = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    run.stdout.close()
    said = run.stderr.read()
    assert run.wait() == 1
    assert said == "main_forget.py: failed: nothing reads the output any more\n"


@pytest.mark.parametrize("name", ["main_train", "evaluate", "report", "sweep"])
def test_a_working_folder_that_is_gone_is_named_before_torch_is_imported(name, tmp_path):
    """As MKL is loaded without one, it ends the process with a line about its library."""
    gone = tmp_path / "gone"
    gone.mkdir()
    command = [sys.executable, str(ROOT / f"{name}.py"), "--help"]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: (os.chdir(gone), gone.rmdir()),
    )
    assert run.returncode == 2
    assert (
        run.stderr == f"{name}.py: error: the working folder is gone; change to one that exists\n"
    )


def test_flags_of_another_step_are_named_in_a_warning(original, tmp_path, capsys):
    assert (
        call(
            main_train.main,
            *TRAIN,
            "--save_dir",
            tmp_path,
            "--dry_run",
            "--unlearn",
            "FT",
            "--num_indexes_to_replace",
            5,
        )
        == 0
    )
    assert (
        "warning: main_train does not read --num_indexes_to_replace, --unlearn\n"
        in capsys.readouterr().err
    )
    assert call(main_train.main, *TRAIN, "--save_dir", tmp_path, "--dry_run", "--seed", 5) == 0
    assert (
        "warning: main_train does not read --seed; what it reads is --train_seed\n"
        in capsys.readouterr().err
    )
    assert call(main_train.main, *TRAIN, "--save_dir", tmp_path, "--dry_run") == 0
    assert "does not read" not in capsys.readouterr().err
    of_masks = ["--model_path", original, "--num_indexes_to_replace", 5, "--unlearn_epochs", 1]
    of_masks += ["--save_dir", tmp_path, "--dry_run"]
    unread = ["--unlearn", "FT", "--mask_path", tmp_path, "--mask_ratio", 0.5]
    assert call(generate_mask.main, *SETUP, *of_masks, *unread) == 0
    assert (
        "warning: generate_mask does not read --mask_path, --mask_ratio, --unlearn\n"
        in capsys.readouterr().err
    )
    assert call(generate_mask.main, *SETUP, *of_masks) == 0  # --unlearn_epochs is the reference's
    assert "does not read" not in capsys.readouterr().err
    assert forget(original, tmp_path, "--unlearn", "FT", "--dry_run", "--save_every_steps", 5) == 0
    assert "warning: main_forget does not read --save_every_steps\n" in capsys.readouterr().err
    # It is never begun where a checkpoint is typed, and what is in --save_dir goes on.
    there = ["--resume", "--checkpoint", original]
    said = f"--checkpoint {original}: this step goes on only from what is in --save_dir"
    refused(capsys, forget(original, tmp_path, "--unlearn", "FT", *there), said, tmp_path)
    refused(capsys, call(generate_mask.main, *SETUP, *of_masks, *there), said, tmp_path)
    assert forget(original, tmp_path, "--unlearn", "raw") == 0
    assert forget(original, tmp_path, "--unlearn", "raw", *there) == 0
    output = capsys.readouterr()
    assert "warning: main_forget does not read --checkpoint\n" in output.err
    assert "finished already" in output.out
    refused(
        capsys,
        call(main_train.main, *TRAIN, "--checkpoint", original),
        "--checkpoint",
        "add --resume",
    )


def test_batch_norm_on_one_pixel_is_refused_before_training(tmp_path, capsys):
    words = [
        "--dataset",
        "digits",
        "--arch",
        "resnet18",
        "--unlearn",
        "retrain",
        "--num_indexes_to_replace",
        1297,
        "--save_dir",
        tmp_path,
    ]
    refused(
        capsys, call(main_forget.main, *words, "--unlearn_epochs", 1), "BatchNorm", "--bn freeze"
    )
    assert not (tmp_path / "retrainresult.json").exists()


def test_records_name_the_hashes_of_all_that_they_were_made_from(original, masks, tmp_path):
    assert (
        forget(
            original,
            tmp_path,
            "--unlearn",
            "RL",
            "--unlearn_epochs",
            1,
            "--mask_path",
            masks / "with_0.5.pt",
        )
        == 0
    )
    unlearned, trained = (
        result(tmp_path, "RL"),
        load_json(original.parent / "train_result.json", ""),
    )
    made, images = (
        load_json(masks / "mask_result.json", ""),
        sources.digits(None, sources.Reading()),
    )
    state, start = load(tmp_path / "RLcheckpoint.pth.tar", "checkpoint"), load(original, "original")
    rgb = {split: sources.as_rgb(images[split], split, None) for split in ("x_train", "x_test")}
    labels = {split: images[split].astype(np.int64) for split in ("y_train", "y_test")}
    of = {
        half: hash_arrays({f"x_{half}": rgb[f"x_{half}"], f"y_{half}": labels[f"y_{half}"]})
        for half in ("train", "test")
    }
    for record in (unlearned, trained, made):
        assert (record["data"]["data_sha256"], record["data"]["test_sha256"]) == (
            of["train"],
            of["test"],
        )
        assert record["provenance"]["original_sha256"] == hash_arrays(start["state_dict"])
    assert trained["data"]["train_sha256"] == hash_arrays({"train": start["split"]["train"]})
    for record in (unlearned, made):
        assert record["data"]["forget"]["sha256"] == hash_arrays(
            {"forget": state["forget"].sort().values}
        )
    assert unlearned["data"]["retain"]["sha256"] == hash_arrays({"retain": state["retain"]})
    assert unlearned["provenance"]["mask_sha256"] == made["masks"]["with_0.5.pt"]["sha256"]
    assert unlearned["provenance"]["unlearned_sha256"] == hash_arrays(state["state_dict"])
