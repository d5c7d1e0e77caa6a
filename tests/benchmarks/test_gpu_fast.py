"""The speed stage of the GPU battery, run whole on the CPU at toy size, through the files and
checks that a GPU gets.
"""

import functools
import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import fast
from benchmarks.gpu.battery import Battery, make_parser, run
from unlearn.base import Step, cross_entropy_steps

pytestmark = pytest.mark.slow
AIMS = {"loop_waits", "gate", "ten_masks", "evaluation", "attack", "script_eager", "script_compile"}


def stage(*flags):
    return run("fast", fast.main, [str(flag) for flag in flags])


def test_the_twin_runs_every_check(tmp_path, capsys):
    assert stage("--twin", "--out", tmp_path) == 0
    found = json.loads((tmp_path / "fast.json").read_text())
    checks = found["checks"]
    assert {name for name, entry in checks.items() if entry["ok"] is None} <= {
        "train_vit_16_8_bf16"
    }
    assert all(entry["ok"] is not False for entry in checks.values())
    aimed = {name for name, entry in checks.items() if "aim" in entry["found"]}
    assert aimed >= AIMS | {
        "train_resnet20s_8_32_bf16",
        "against_plain_train",
        "against_plain_salun",
    }
    assert all(isinstance(checks[name]["found"]["met"], bool) for name in aimed)

    train = checks["train_resnet20s_8_32_bf16"]["found"]
    assert train["images_per_s_min"] <= train["images_per_s"] <= train["images_per_s_max"]
    assert train["images_per_s"] * train["epoch_s"] == pytest.approx(
        180
    )  # 200 images but for 10 % validation
    rate = checks["ceilings"]["found"]["bf16_tflops"] * 1e3
    assert train["percent_of_bf16_rate"] == pytest.approx(
        100 * train["images_per_s"] * train["gflop_per_image"] / rate
    )
    waits, others = checks["loop_waits"]["found"], checks["other_profiles"]["found"]
    assert (waits["train_waits"], waits["salun_waits"]) == (0, 0)
    assert waits["train_device_idle_percent"] >= 0
    timed = {
        name for name in checks if name.startswith("train_resnet20s") and "compile" not in name
    }
    assert {name for name in others if name.startswith("train")} == timed - {
        "train_resnet20s_8_32_bf16"
    }
    assert all(
        found["device_ms_per_step"] > 0 and "device_idle_percent" in found
        for name, found in others.items()
    )
    assert checks["evaluation"]["found"]["images"] == 240
    assert "aten::convolution_backward" in (tmp_path / "fast_profile.txt").read_text()
    assert not [file for file in tmp_path.iterdir() if file.is_dir()]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 100_000

    times = {name: entry["time"] for name, entry in checks.items()}
    capsys.readouterr()
    assert (
        stage("--twin", "--out", tmp_path, "--only", "gate") == 0
    )  # what is done is not run again
    assert "gate ..." not in capsys.readouterr().out
    assert {
        n: e["time"] for n, e in json.loads((tmp_path / "fast.json").read_text())["checks"].items()
    } == times


def test_a_loop_that_waits_fails_and_says_where(tmp_path, monkeypatch):
    def reading(model, batches):
        for step in cross_entropy_steps(model, batches):
            step.loss.item()
            yield Step(*step)

    monkeypatch.setattr(fast, "cross_entropy_steps", reading)
    assert stage("--twin", "--out", tmp_path, "--only", "loop_waits") == 1
    entry = json.loads((tmp_path / "fast.json").read_text())["checks"]["loop_waits"]
    assert entry["ok"] is False
    assert (
        "HostWaits: train, 2 steps, aten::_local_scalar_dense: 2 under aten::item" in entry["error"]
    )


def test_on_a_device_nothing_is_timed_after_a_profile_of_the_same_process(
    tmp_path, monkeypatch, capsys
):
    def call(*flags):
        seen = []
        battery = Battery(
            "fast", make_parser("fast", "").parse_args(["--twin", "--out", str(tmp_path), *flags])
        )
        battery.device = torch.device("cuda")
        names = ("first", "loop_waits", "later", "where_time_goes", "last")
        fast.run_in_turn(
            battery,
            {name: functools.partial(lambda name: seen.append(name) or {}, name) for name in names},
        )
        return seen, battery.finish()

    monkeypatch.setattr(fast, "clean", lambda device, action: action())
    assert call() == (["first", "loop_waits"], 3)
    assert "not in this call: later, where_time_goes, last still to come" in capsys.readouterr().out
    assert call() == (["later", "where_time_goes"], 3)
    assert call() == (["last"], 0)
    assert call("--again", "--only", "first,last") == (["first", "last"], 0)


def test_images_of_a_file_and_what_is_refused(tmp_path, capsys):
    images = fast.random_images(120, 40, 8)
    file = tmp_path / "images.npz"
    fast.save_arrays(
        {name: getattr(images, name) for name in ("x_train", "y_train", "x_test", "y_test")}, file
    )
    only = ("--twin", "--out", tmp_path / "out", "--only", "evaluation")
    assert stage(*only, "--data", file) == 0
    assert (
        json.loads((tmp_path / "out/fast.json").read_text())["checks"]["evaluation"]["found"][
            "images"
        ]
        == 160
    )
    assert stage(*only, "--data", tmp_path / "none.npz") == 2
    assert "no such file" in capsys.readouterr().err
    if not torch.cuda.is_available():
        assert stage("--out", tmp_path / "gpu") == 2
        assert "--twin" in capsys.readouterr().err
        assert not (tmp_path / "gpu").exists()


def test_full_size_takes_the_shapes_that_the_aims_are_about(tmp_path):
    size, names = (
        fast.FULL,
        set(
            fast.checks_of(
                type("Fast", (fast.Fast,), {"__init__": lambda self: None, "size": fast.FULL})()
            )
        ),
    )
    wanted = {f"train_resnet18_32_{batch}_bf16" for batch in (128, 256, 512, 1024)}
    assert wanted | {"train_resnet18_32_256_fp32", "train_resnet50_224_128_bf16"} <= names
    # A profile lies before the loop's first look at the device, and inside of every epoch.
    assert sum(size.window) < 50
    assert sum(size.window) <= 0.9 * size.images // max(size.other_batches)
    assert sum(size.window) <= 0.9 * size.large[2] // size.large[3]


def test_the_command_itself_starts(tmp_path):
    import subprocess

    command = [
        sys.executable,
        Path(fast.__file__),
        "--twin",
        "--out",
        tmp_path,
        "--only",
        "ceilings",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "RESULT stage=fast good=1 failed=0 left=0" in done.stdout
