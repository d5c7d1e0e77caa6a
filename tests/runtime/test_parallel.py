"""Two gloo processes on the CPU beside one: the same masks, gradients, weights, numbers; also
killed and resumed.
"""

import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_data, make_image_set, make_model

import main_forget
from datasets.loaders import DeviceImages, Loader
from engine import check_batch_norm, predict
from runtime import distributed
from runtime.devices import pick_device
from unlearn import METHODS
from unlearn.base import Iterative
from utils import UserError

ROOT = Path(__file__).resolve().parents[2]


# ------------------------------------------------------------------------- parts, without processes


@pytest.fixture
def as_process(monkeypatch):
    """Pretend to be one of several processes that have not met."""

    def become(rank, count):
        values = {
            "RANK": rank,
            "WORLD_SIZE": count,
            "LOCAL_RANK": rank,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": 1,
        }
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))

    return become


def batches_of(loader):
    return [(images.clone(), labels.clone()) for images, labels in loader]


@pytest.mark.parametrize("count", [2, 3])
def test_the_parts_of_every_training_batch_make_the_batch(as_process, count):
    whole = batches_of(make_data(batch_size=17).retain)
    parts, shares = [], []
    for rank in range(count):
        as_process(rank, count)
        loader = make_data(batch_size=17).retain
        parts.append([])
        shares.append([])
        for images, labels in loader:
            parts[-1].append((images.clone(), labels.clone()))
            shares[-1].append(loader.share)
    for i, (images, labels) in enumerate(whole):
        assert torch.equal(torch.cat([part[i][0] for part in parts]), images)
        assert torch.equal(torch.cat([part[i][1] for part in parts]), labels)
        assert sum(share[i] for share in shares) == pytest.approx(1)
        assert [share[i] for share in shares] == [len(part[i][1]) / len(labels) for part in parts]


@pytest.mark.parametrize("count", [2, 3, 7])
def test_shared_batches_are_whole_and_each_is_one_processes(as_process, count):
    whole = [labels.tolist() for _, labels in make_data(batch_size=17).evaluation["retain"]]
    found = []
    for rank in range(count):
        as_process(rank, count)
        view = make_data(batch_size=17).evaluation["retain"]
        found += [
            (i, labels.tolist())
            for i, (_, labels) in zip(range(rank, 99, count), view.shared(), strict=False)
        ]
        assert [labels.tolist() for _, labels in view] == whole, "what is not shared is everybody's"
    assert [labels for _, labels in sorted(found)] == whole


def test_a_last_batch_with_too_few_images_joins_its_neighbour(as_process):
    as_process(0, 4)
    images = DeviceImages(make_image_set(train=19).x_train, torch.device("cpu"), 0)
    loader = Loader(images, np.arange(19), np.zeros(19, dtype=np.int64), 8, name="few").training()
    assert loader.bounds() == [(0, 8), (8, 19)]


def test_fewer_images_than_processes_are_refused_before_any_work(as_process):
    as_process(1, 8)
    data = make_data(count=5)
    with pytest.raises(UserError, match="a batch of 5 forget images is too small for 8 processes"):
        check_batch_norm(make_model(), METHODS["GA"](), data)
    check_batch_norm(make_model(), METHODS["FT"](), data)  # does not read them


def test_before_they_meet_each_process_acts_for_itself(as_process):
    as_process(1, 2)
    assert distributed.on_main(lambda: 3) == 3
    assert distributed.main_first(lambda: 4) == 4


def test_only_the_first_process_speaks(as_process, capsys):
    for rank in (0, 1):
        as_process(rank, 2)
        with distributed.only_main_prints():
            print(f"out {rank}")
            print(f"err {rank}", file=sys.stderr)
        assert main_forget.main(["--unlearn", "FT", "--num_indexes_to_replace", "3"]) == 2
    found = capsys.readouterr()
    assert found.out == "out 0\n"
    assert "err 0" in found.err
    assert "err 1" not in found.err
    assert found.err.count("--model_path is missing") == 1


@pytest.mark.parametrize(
    ("gpu", "gpus", "used"),
    [(0, 1, [0, 0, 0]), (0, 2, [0, 1, 0]), (1, 3, [1, 2, 1]), (2, 3, [2, 2, 2])],
)
def test_processes_share_gpus_only_where_they_are_told_to(as_process, monkeypatch, gpu, gpus, used):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    cuda = torch.device("cuda")
    as_process(0, 3)
    assert distributed.backend(cuda) == "cpu:gloo,cuda:nccl"
    with pytest.raises(UserError, match=f"--gpu {gpu + 2}: this machine has GPUs 0 to {gpus - 1}"):
        pick_device("cuda", gpu)
    monkeypatch.setenv("SHARE_GPUS", "1")
    assert distributed.backend(cuda) == distributed.backend(torch.device("cpu")) == "gloo"
    for rank, index in enumerate(used):
        as_process(rank, 3)
        assert pick_device("cuda", gpu) == torch.device("cuda", index)
    with pytest.raises(UserError, match=f"this machine has GPUs 0 to {gpus - 1}"):
        pick_device("cuda", gpus)


def test_generators_of_other_processes_are_kept():
    states = torch.arange(6, dtype=torch.uint8).reshape(2, 3)
    assert torch.equal(distributed.take_own(states), states[0])
    assert torch.equal(distributed.take_own(states[1]), states[1])
    assert distributed.take_own(None) is None


# ------------------------------------------------------------------------------------ two processes


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def processes(words, count=2):
    """Start ``words`` as torchrun would."""
    common = {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": free_port(),
        "OMP_NUM_THREADS": "1",
    }
    common["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests'}"
    environments = [
        {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(count)
    ]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return [
        subprocess.Popen([sys.executable, *words], env=each, cwd=ROOT, **piped)
        for each in environments
    ]


def ended(made, codes=(0, 0)):
    """Their outputs, once they have ended as expected."""
    outputs = [process.communicate(timeout=600)[0] for process in made]
    assert tuple(process.returncode for process in made) == tuple(codes), "\n--\n".join(outputs)
    return outputs


def in_parallel(script, argv, codes=(0, 0)):
    return ended(processes([f"{script}.py", *argv]), codes)


def alone(script, argv):
    assert importlib.import_module(script).main(argv) == 0


FAST = ["--device", "cpu", "--precision", "fp32", "--bn", "freeze", "--batch_size", "101"]
FORGET = ["--num_indexes_to_replace", "61"]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A trained original and masks of it, by one process."""
    folder = tmp_path_factory.mktemp("original")
    argv = [
        "--dataset",
        "digits",
        "--arch",
        "resnet20s",
        "--lr",
        "0.05",
        "--epochs",
        "2",
        *FAST[:4],
    ]
    alone("main_train", [*argv, "--save_dir", str(folder)])
    return folder / "0model_SA_best.pth.tar"


def weights(file):
    return torch.load(file, weights_only=True)["state_dict"]


def apart(a, b):
    """How far two state dictionaries are apart, buffers included."""
    assert a.keys() == b.keys()
    return float(sum((a[name].double() - b[name].double()).square().sum() for name in a)) ** 0.5


# In fp64, where rounding in a run of many steps is far below what a wrong weight or a lost image
# does: in fp32 two runs of one process, with one thread and with two, end up to 7 % of a method's
# way apart.
IN_DOUBLE = """
import importlib, json, sys
import torch
from runtime import distributed

torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
torch.Tensor.float = torch.Tensor.double
distributed.initialize(torch.device("cpu"))
for script, argv in json.loads(sys.argv[1]):
    assert importlib.import_module(script).main(argv) == 0, argv
distributed.destroy()
distributed.exit_process(0)
"""
OPTIONS = {
    "wfisher": ["--samples", "50"],
    "fisher": ["--fisher_samples", "50"],
    "fisher_new": ["--fisher_samples", "20"],
    "neggrad_plus": ["--retain_share", "0.9"],
    "GA": ["--accumulate", "2"],
    "unsir": ["--unlearn_lr", "1e-3"],
    "ssd": ["--alpha", "2"],
    "lfssd": ["--alpha", "1"],
    "FT": ["--clip_norm", "0.1"],
    "FT_l1": ["--contrast", "0.5"],
    "regun": ["--held_out", "classes"],
    "munba": ["--accumulate", "2"],
}
FORGET_OF = {"lotus": ["--class_to_replace", "3"]}  # LoTUS stops at once on images little fitted
SCORED = ("saliency", "ratio")


def of_method(method, original, folder):
    """Two epochs at a small rate, or the one edit."""
    epochs = (
        ["--unlearn_epochs", "2", "--unlearn_lr", "0.002"]
        if issubclass(METHODS[method], Iterative)
        else []
    )
    common = [
        "--model_path",
        str(original),
        *FAST,
        *FORGET_OF.get(method, FORGET),
        "--retain_fraction",
        "0.2",
        "--save_dir",
        str(folder),
    ]
    return ["--unlearn", method, *epochs, *common, *OPTIONS.get(method, [])]


def test_training_masks_and_every_method_are_those_of_one_process(original, tmp_path):
    """One test, so that workers of the suite do not all make these runs; and all in two calls, as
    imports would take the most time.
    """
    folders = [tmp_path / name for name in ("one", "two")]
    for count, folder in enumerate(folders, 1):
        digits = [
            "--dataset",
            "digits",
            "--arch",
            "resnet20s",
            "--lr",
            "0.01",
            "--epochs",
            "2",
            *FAST,
        ]
        commands = [("main_train", [*digits, "--save_dir", str(folder)])]
        for score in SCORED:
            argv = [
                "--model_path",
                str(original),
                "--score",
                score,
                *FAST,
                *FORGET,
                "--save_dir",
                str(folder / score),
            ]
            commands.append(("generate_mask", argv))
        commands += [("main_forget", of_method(method, original, folder)) for method in METHODS]
        ended(processes(["-c", IN_DOUBLE, json.dumps(commands)], count), (0,) * count)
    training_agrees(folders, original)
    for score in SCORED:
        masks_agree(folders, score)
    for method in METHODS:
        method_agrees(folders, method, original)


def training_agrees(both_ways, original):
    one, two = (weights(folder / "0checkpoint.pth.tar") for folder in both_ways)
    assert apart(one, two) <= 1e-8 * apart(one, weights(original))
    one, two = (json.loads((folder / "train_result.json").read_text()) for folder in both_ways)
    assert two["metrics"] == pytest.approx(one["metrics"])
    assert (one["provenance"]["processes"], two["provenance"]["processes"]) == (1, 2)
    one, two = (
        [json.loads(line) for line in (folder / "0curve.jsonl").read_text().splitlines()]
        for folder in both_ways
    )
    for a, b in zip(one, two, strict=True):
        assert (b["loss"], b["accuracy"], b["val"]) == pytest.approx(
            (a["loss"], a["accuracy"], a["val"])
        )


def masks_agree(both_ways, score):
    for ratio in ("0.1", "0.5", "1.0"):
        a, b = (
            torch.load(folder / score / f"with_{ratio}.pt", weights_only=True)
            for folder in both_ways
        )
        a, b = (torch.cat([value.flatten() for value in mask.values()]) for mask in (a, b))
        assert a.sum() == b.sum()
        assert (a & b).sum() / (a | b).sum() > 0.999


def method_agrees(both_ways, method, original):
    one, two = (weights(folder / f"{method}checkpoint.pth.tar") for folder in both_ways)
    moved = apart(one, weights(original))
    assert (moved > 0) == (method != "raw"), method
    assert apart(one, two) <= 1e-8 * moved, method
    one, two = (
        json.loads((folder / f"{method}result.json").read_text())["metrics"] for folder in both_ways
    )
    assert two.pop("SVC_MIA") == pytest.approx(one.pop("SVC_MIA"))
    assert two == pytest.approx(one)


# A script whose processes of the given numbers are sent a signal right after the n-th checkpoint.
STOPPED = """
import importlib, os, signal, sys
from runtime import distributed
from stages import train, unlearn

script, count, name, ranks = sys.argv[1:5]
saved, left = train.save, int(count)

def save(content, path):
    global left
    saved(content, path)
    left -= path.name.endswith("checkpoint.pth.tar")
    if left == 0 and str(distributed.rank()) in ranks:
        os.kill(os.getpid(), getattr(signal, name))

train.save = unlearn.save = save
distributed.exit_process(importlib.import_module(script).main(sys.argv[5:]))
"""


def test_a_masked_run_keeps_what_is_frozen_and_goes_on_where_it_was_killed(original, tmp_path):
    """Kill one process inside the run: the other ends too, and --resume gives what an undisturbed
    run gives, bit for bit.
    """
    alone(
        "generate_mask",
        [
            "--model_path",
            str(original),
            *FORGET,
            "--device",
            "cpu",
            "--save_dir",
            str(tmp_path / "mask"),
        ],
    )
    mask_file = tmp_path / "mask/with_0.5.pt"
    # BatchNorm learns its statistics here: they are averaged after each update, so that the
    # processes stay one model.
    argv = [
        "--unlearn",
        "RL",
        "--unlearn_epochs",
        "4",
        "--model_path",
        str(original),
        "--mask_path",
        str(mask_file),
        *FORGET,
    ]
    argv += [*FAST[:4], "--batch_size", "101", "--retain_fraction", "0.5"]
    in_parallel("main_random", [*argv, "--save_dir", str(tmp_path / "whole")])
    killed = tmp_path / "killed"
    made = processes(
        ["-c", STOPPED, "main_random", "2", "SIGKILL", "1", *argv, "--save_dir", str(killed)]
    )
    outputs = ended(made, (1, -signal.SIGKILL))
    assert "another process of this run is gone" in outputs[0]
    assert "Traceback" not in outputs[0]
    assert torch.load(killed / "RLcheckpoint.pth.tar", weights_only=True)["epoch"] == 2
    shutil.copytree(killed, tmp_path / "fewer")
    in_parallel("main_random", [*argv, "--save_dir", str(killed), "--resume"])
    alone(
        "main_random", [*argv, "--save_dir", str(tmp_path / "fewer"), "--resume"]
    )  # other statistics of BatchNorm from here on
    assert (
        json.loads((tmp_path / "fewer/RLresult.json").read_text())["provenance"]["processes"] == 1
    )
    once, again = (
        weights(folder / "RLcheckpoint.pth.tar") for folder in (tmp_path / "whole", killed)
    )
    assert all(torch.equal(once[name], again[name]) for name in once)
    mask, before = torch.load(mask_file, weights_only=True), weights(original)
    for name, may_change in mask.items():
        assert torch.equal(once[name][~may_change], before[name][~may_change]), name
    assert any(not torch.equal(once[name], before[name]) for name in mask)


def test_saving_inside_an_epoch_goes_on_in_both_processes(tmp_path):
    argv = [
        "--dataset",
        "digits",
        "--arch",
        "resnet20s",
        "--lr",
        "0.05",
        "--epochs",
        "2",
        *FAST,
        "--save_every_steps",
        "3",
    ]
    argv += ["--save_dir", str(tmp_path / "killed")]
    ended(processes(["-c", STOPPED, "main_train", "2", "SIGTERM", "0,1", *argv]), (130, 130))
    checkpoint = tmp_path / "killed/0checkpoint.pth.tar"
    meter = torch.load(checkpoint, weights_only=True)["meter"]
    assert meter["steps"] == 6
    assert meter["samples"] == 1298 * 6 // 13, (
        "six of thirteen batches, and the sums are of both processes"
    )
    in_parallel("main_train", [*argv, "--resume"])
    in_parallel("main_train", [*argv[:-1], str(tmp_path / "whole")])
    once, again = (weights(tmp_path / part / "0checkpoint.pth.tar") for part in ("whole", "killed"))
    assert all(torch.equal(once[name], again[name]) for name in once)
    lines = [
        (tmp_path / part / "0curve.jsonl").read_text().splitlines() for part in ("whole", "killed")
    ]
    for a, b in zip(*(map(json.loads, each) for each in lines), strict=True):
        assert b["loss"] == pytest.approx(
            a["loss"], rel=1e-6
        )  # its parts are summed in another order
        assert b["accuracy"] == a["accuracy"]


# A script whose second process does not see checkpoints, as where a network file system is late.
BLIND = """
import importlib, os, sys
from runtime import distributed

if distributed.rank():
    exists = os.path.exists
    os.path.exists = lambda path: not str(path).endswith("checkpoint.pth.tar") and exists(path)
distributed.exit_process(importlib.import_module(sys.argv[1]).main(sys.argv[2:]))
"""


def test_resume_begins_or_goes_on_by_what_the_first_process_sees(original, tmp_path):
    argv = [
        "--unlearn",
        "FT",
        "--unlearn_epochs",
        "1",
        "--model_path",
        str(original),
        *FORGET,
        *FAST,
        "--save_dir",
        str(tmp_path / "new"),
    ]
    for said in (f"--resume: nothing in {tmp_path / 'new'} yet; beginning", "finished already"):
        outputs = ended(processes(["-c", BLIND, "main_forget", *argv, "--resume"]))
        assert outputs[0].count(said) == 1
        assert outputs[1] == ""
    assert ("beginning" in outputs[0]) is False


def test_an_impossible_request_ends_all_processes_with_one_line(original, tmp_path):
    argv = [
        "--unlearn",
        "FT",
        "--model_path",
        str(original),
        "--num_indexes_to_replace",
        "999999",
        "--device",
        "cpu",
    ]
    outputs = in_parallel("main_forget", [*argv, "--save_dir", str(tmp_path)], (2, 2))
    assert "main_forget.py: error:" in outputs[0]
    assert len(outputs[0].splitlines()) < 5
    assert outputs[1] == ""


def test_a_file_that_cannot_be_written_ends_all_processes(original, tmp_path):
    argv = [
        "--unlearn",
        "raw",
        "--model_path",
        str(original),
        *FORGET,
        "--device",
        "cpu",
        "--save_dir",
        str(tmp_path),
    ]
    (tmp_path / "rawcheckpoint.pth.tar").mkdir()
    outputs = in_parallel("main_forget", [*argv, "--overwrite"], (1, 1))
    assert "cannot write" in outputs[0]
    assert outputs[1] == ""


def test_a_loss_that_is_not_finite_in_one_process_ends_both():
    outputs = ended(processes(["-c", ONE_BAD_LOSS]))
    assert all("RunFailed the loss was not finite at step 2" in output for output in outputs)


ONE_BAD_LOSS = """
import torch
from runtime import distributed
from helpers import CPU, make_data, make_model, train_epoch
from recipe import make_optimizer
from unlearn.base import cross_entropy_steps
from utils import RunFailed

distributed.initialize(CPU)
model, data = make_model(), make_data()

def steps():
    for number, step in enumerate(cross_entropy_steps(model, data.retain)):
        bad = number == distributed.rank() == 1
        yield step._replace(loss=step.loss * (float("nan") if bad else 1))

try:
    optimizer = make_optimizer(model.parameters(), 0.1, 0.9, 0.0)
    train_epoch(model, steps(), optimizer, print_freq=3)
except RunFailed as error:
    print("RunFailed", error)
distributed.destroy()
distributed.exit_process(0)
"""


TOYS = """
import sys
import torch
from helpers import CPU, make_data, make_model, random_mask
from engine import run
from recipe import Recipe
from runtime import distributed
from toys import Alternate, Pair

torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
distributed.initialize(CPU)
ended = {}
for name, method in (("alternate", Alternate), ("ungated", lambda: Alternate(gated=False)),
                     ("by updates", lambda: Alternate(unlearn_steps=11)), ("pair", Pair)):
    for accumulate in (1, 2):
        for masked in (False, True):
            model, data = make_model().double(), make_data(count=20, batch_size=13)
            mask = random_mask(model) if masked else None
            run(model, method(), data, Recipe(accumulate=accumulate, clip_norm=0.5), mask)
            ended[f"{name} {accumulate} {masked}"] = model.state_dict()
torch.save(ended, f"{sys.argv[1]}/{distributed.world_size()}.{distributed.rank()}")
distributed.destroy()
distributed.exit_process(0)
"""


def test_phases_edits_and_pairs_are_those_of_one_process(tmp_path):
    """Batches of odd sizes, whose parts differ; the edit of gradients is not linear."""
    for count in (1, 2):
        ended(processes(["-c", TOYS, str(tmp_path)], count), (0,) * count)
    one, two, other = (
        torch.load(tmp_path / name, weights_only=True) for name in ("1.0", "2.0", "2.1")
    )
    start = make_model().double().state_dict()
    for name in one:
        assert apart(one[name], two[name]) <= 1e-8 * apart(one[name], start), name
        assert apart(two[name], other[name]) == 0, name


def test_predictions_are_gathered_in_order(tmp_path):
    model, data = make_model(), make_data(batch_size=7)
    wanted = {name: predict(model, loader)[0] for name, loader in data.evaluation.items()}
    torch.save(wanted, tmp_path / "wanted.pt")
    ended(processes(["-c", PREDICTIONS, str(tmp_path / "wanted.pt")], count=3), (0, 0, 0))


PREDICTIONS = """
import sys
import torch
from runtime import distributed
from helpers import CPU, make_data, make_model
from engine import check_batch_norm, predict

distributed.initialize(CPU)
model, data = make_model(), make_data(batch_size=7)
wanted = torch.load(sys.argv[1], weights_only=True)
for name, loader in data.evaluation.items():
    assert torch.equal(predict(model, loader)[0], wanted[name]), name
few = data.evaluation["val"].batches_of(1000)  # one batch for three processes
torch.testing.assert_close(predict(model, few)[0], wanted["val"])
distributed.destroy()
distributed.exit_process(0)
"""


def test_the_audit_of_two_processes_is_that_of_one(original, tmp_path):
    argv = ["--model_path", str(original), *FORGET, *FAST[:4]]
    alone(
        "main_forget",
        ["--unlearn", "FT", "--unlearn_epochs", "1", *argv, "--save_dir", str(tmp_path)],
    )
    for seed in ("5", "6"):
        seeds = ["--seed", seed, "--forget_seed", "2", "--save_dir", f"{tmp_path}/{seed}"]
        alone("main_forget", ["--unlearn", "retrain", "--epochs", "1", *argv, *seeds])
    words = [
        "--models",
        f"{tmp_path}/FTcheckpoint.pth.tar",
        "--retrain",
        f"{tmp_path}/?/retraincheckpoint.pth.tar",
    ]
    words += [
        "--original",
        str(original),
        "--suite",
        "standard",
        "--relearn_steps",
        "2",
        "--relearn_seeds",
        "1",
        "--device",
        "cpu",
    ]
    words += [
        "--relearn_lr",
        "0.001",
    ]  # BatchNorm sees half a batch in each of two: a small step keeps that difference small
    alone("evaluate", [*words, "--save_dir", str(tmp_path / "one")])
    for cache in tmp_path.glob("**/logits"):
        cache.rename(cache.with_name("of_one"))
    outputs = in_parallel("evaluate", [*words, "--save_dir", str(tmp_path / "two")])
    assert "RESULT audit" in outputs[0]
    assert outputs[1] == ""
    one, two = (json.loads((tmp_path / part / "audit.json").read_text()) for part in ("one", "two"))
    for a, b in zip(one["models"], two["models"], strict=True):
        for name, value in a["metrics"].items():
            if value is not None:
                assert b["metrics"][name] == pytest.approx(
                    value, abs=2.0 if "relearn" in name else 1e-6
                ), name


def test_the_recipe_for_two_machines(tmp_path):
    """recipes/two_nodes.sh with srun and scontrol stood in for: each srun starts its command twice
    here, as two machines would.
    """
    tools = tmp_path / "bin"
    tools.mkdir()
    srun = '"$@" & first=$!\n"$@" & second=$!\nwait $first && wait $second\n'
    for name, body in (("srun", srun), ("scontrol", "echo 127.0.0.1\n")):
        (tools / name).write_text(f"#!/usr/bin/env bash\n{body}")
        (tools / name).chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "PROCESSES": "1",
        "SLURM_JOB_NODELIST": "here[1-2]",
        "SLURM_NNODES": "2",
        "SLURM_JOB_ID": "1",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "PORT": free_port(),
        "DIR": str(tmp_path / "runs"),
        "DATA": "--dataset digits --device cpu",
        "TRAIN": "--arch resnet20s --batch_size 256 --lr 0.05 --epochs 1",
        "FORGET": "--num_indexes_to_replace 61 --unlearn_epochs 1",
    }
    found = subprocess.run(
        ["bash", ROOT / "recipes/two_nodes.sh"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "RESULT method=SalUn" in found.stdout
    assert "Avg. Gap" in found.stdout, "the table comes last"
    assert json.loads((tmp_path / "runs/RLresult.json").read_text())["provenance"]["processes"] == 2


def test_batches_that_do_not_train_are_as_small_as_they_are_asked_to_be(as_process):
    as_process(0, 3)
    whole = make_data().retain
    assert [len(labels) for _, labels in whole.eval_view().batches_of(1)] == [1] * whole.num_samples
