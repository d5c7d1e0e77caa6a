"""The stage correct of the GPU battery: every check of its twin, and that its comparisons find what
is wrong.
"""

import json
import os
import signal
import time

import pytest
import torch
from helpers import make_data, make_model

from benchmarks.gpu import correct, numerics, runs
from benchmarks.gpu.battery import Wrong
from benchmarks.gpu.correct import CHECKS, compared_audits, names_batch_size
from benchmarks.gpu.numerics import compare_masks, near_ties, passes, tf32_seen
from benchmarks.gpu.runs import Bench, compared, relative
from masks.gate import SaliencyGate
from runtime.devices import exact_fp32
from unlearn.base import Iterative

pytestmark = pytest.mark.slow


# What one thread of the CPU finds for certain, by check.
KINDS = {*numerics.METHODS.values()}
TRAINED = sum(issubclass(kind, Iterative) for kind in KINDS)
CERTAIN = {
    "loader": {
        "order_and_augmentation_equal_those_of_the_cpu": True,
        "largest_difference_of_unaugmented_images": 0.0,
    },
    "resume_training": {"equal": True, "of_epochs": 4},
    "resume_salun": {"equal": True},
    "determinism": {
        "training_equal": True,
        "salun_equal": True,
        "training_largest": 0.0,
        "salun_largest": 0.0,
    },
    "out_of_memory": {"kept_epochs": 1},
    "evaluation": {"UA_images_apart": 0, "MIA_points_apart": 0.0, "models": 3},
    "torchrun_nccl": {
        "equal": True,
        "group_values_come_back": True,
        "group_outcomes_come_back": True,
    },
    "two_processes": {"ranks_equal": True, "device": ["cpu", "cpu"]},
    "compile": {"backend": "aot_eager"},
    **{
        f"methods_{precision}_{part}": {"methods": count, "all_true_mask_equals_none": count}
        for precision, whole in (("fp32", len(KINDS)), ("bf16", TRAINED))
        for part in range(1, numerics.PARTS + 1)
        for count in [len(range(part - 1, whole, numerics.PARTS))]
    },
}


@pytest.mark.parametrize("name", CHECKS)
def test_check_of_the_twin(name, tmp_path):
    """Each in a call of its own, so that the suite's workers share them."""
    code = correct.main(["--twin", "--out", str(tmp_path), "--only", name])
    entry = json.loads((tmp_path / "correct.json").read_text())["checks"][name]
    assert (code, entry["ok"]) == (0, True), (tmp_path / "correct.log").read_text()
    assert entry["found"]
    certain = CERTAIN.get(name, {})
    assert {key: entry["found"][key] for key in certain} == certain


# ---------------------------------------------------------------------------- what a check can find


def states(*values):
    return [{"w": torch.tensor([value, 1.0])} for value in values]


def test_unequal_models_are_excused_only_where_the_device_does_not_repeat_itself():
    one, near, far = states(1.0, 1.001, 2.0)
    assert compared(one, one, None) == ({"equal": True}, True)
    assert not compared(near, one, lambda: one)[1]
    assert compared(near, one, lambda: near)[1]
    assert not compared(far, one, lambda: near)[1]
    assert compared(near, one, lambda: one, allowed=1e-2)[1]
    assert relative(far, one, start=states(0.0)[0]) == pytest.approx(1.0)
    now_and_then = iter([one, near])
    assert compared(near, one, lambda: next(now_and_then))[1]


def test_near_ties_are_measured_from_the_threshold():
    scores = torch.tensor([4.0, 2.0, 1.99, 1.0])
    wanted = torch.tensor([True, True, False, False])
    assert near_ties(scores, wanted, wanted, 2) == (1.0, 0.0)
    assert near_ties(scores, torch.tensor([True, False, True, False]), wanted, 2) == (0.5, 0.0)
    assert near_ties(scores, torch.tensor([True, False, False, True]), wanted, 2) == (0.5, 0.25)


def test_a_gradient_that_is_off_gives_masks_that_are_off():
    draw = torch.Generator().manual_seed(0)
    exact = {"w": torch.randn(5000, generator=draw, dtype=torch.float64)}
    rounded = compare_masks(exact, {"w": exact["w"].float()})
    assert min(rounded["equal_bits"]) >= numerics.LEAST_EQUAL
    off = compare_masks(
        exact, {"w": exact["w"] + 0.1 * torch.randn(5000, generator=draw, dtype=torch.float64)}
    )
    assert min(off["equal_bits"]) < numerics.LEAST_EQUAL
    assert max(off["far_bits"]) > numerics.MOST_FAR


def test_tf32_is_seen_where_a_pass_is_not_exact():
    model, images = make_model(), torch.rand(2, 3, 8, 8)
    before = torch.get_float32_matmul_precision()
    with tf32_seen(model) as outside:
        model(images)
    with tf32_seen(model) as inside, exact_fp32():
        model(images)
    assert (outside, inside) == ({True}, {False})
    assert torch.get_float32_matmul_precision() == before


class ToyTask:
    def __init__(self):
        self.model = make_model()


@pytest.fixture
def checked(monkeypatch):
    """check_method of a method that is given as a function of the model and the mask."""

    def check(method):
        def run_once(bench, task, name, mask):
            model = make_model()
            method(model, mask)
            return {key: value.detach().clone() for key, value in model.state_dict().items()}

        monkeypatch.setattr(numerics, "run_once", run_once)
        return numerics.check_method(None, ToyTask(), "FT")

    return check


def add_one(model, mask):
    gate = SaliencyGate(model, mask) if mask else None
    with torch.no_grad():
        model.fc.weight += 1
    if gate:
        gate.restore()


def test_a_method_that_keeps_what_is_frozen_is_good(checked):
    assert checked(add_one) == ({"equal": True}, [])


def test_a_frozen_weight_that_moves_is_found(checked):
    _, wrong = checked(lambda model, mask: add_one(model, None))
    assert any("frozen weights that moved, fc.weight first" in each for each in wrong)


def test_a_mask_that_changes_more_than_it_freezes_is_found(checked):
    def rounds(model, mask):
        add_one(model, mask)
        if mask:
            with torch.no_grad():
                model.fc.weight[mask["fc.weight"]] += 1e-3

    assert checked(rounds)[1] == ["an all-true mask is not as no mask"]


def test_a_method_without_effect_is_found(checked):
    assert checked(lambda model, mask: None)[1] == [
        "changes nothing",
        "changes nothing under a mask",
    ]


def test_one_method_that_fails_hides_no_other(monkeypatch):
    broken = numerics.methods_of("fp32")[:: numerics.PARTS][:2]

    def check_method(bench, task, name):
        if name in broken:
            raise RuntimeError(f"{name} is broken")
        return {"equal": True}, []

    monkeypatch.setattr(numerics, "open_bench", lambda bench, precision: None)
    monkeypatch.setattr(numerics, "check_method", check_method)
    with pytest.raises(Wrong, match=f"{broken[1]} is broken") as caught:
        numerics.methods(None, "fp32", 1)
    failed = {name: f"RuntimeError: {name} is broken" for name in broken}
    assert caught.value.found["failed"] == failed


def test_passes_give_the_pixels_of_an_epoch():
    data = make_data(augment=False)
    data.train = data.retain
    pixels, labels = passes(data, 0)
    data.set_epoch(0)
    (images, wanted), *_ = data.retain
    assert torch.equal(pixels[: len(images)].float() / 255, images)
    assert torch.equal(labels[: len(images)], wanted)
    assert len(labels) == data.retain.num_samples


def test_only_one_line_that_names_the_flag_counts():
    line = (
        "main_train.py: failed: out of memory; try a smaller --batch_size, --precision bf16, or"
        " another --gpu\n"
    )
    assert names_batch_size("epoch 1/2\n" + line)
    assert not names_batch_size("Traceback (most recent call last)\n" + line)
    assert not names_batch_size(line + "RuntimeError: CUDA error\n")


def audit(ua):
    metrics = {"UA": ua, "RA": 99.0, "TA": 80.0, "svc_confidence_tnr": 12.0, "loss_auc": 0.5}
    return {
        "data": {"sizes": {"forget": 450, "retain": 4050, "test": 1000}},
        "models": [{"metrics": metrics}],
    }


def test_audits_are_apart_by_images():
    found = compared_audits(audit(100 * 45 / 450), audit(100 * 46 / 450))
    assert (found["UA_images_apart"], found["UA_images_allowed"], found["RA_images_allowed"]) == (
        1,
        1,
        9,
    )
    with pytest.raises(Wrong, match="UA within 1 images"):
        compared_audits(audit(100 * 45 / 450), audit(100 * 47 / 450))


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_a_run_that_ends_before_it_is_killed_is_no_proof(tmp_path, monkeypatch):
    bench = Bench(tmp_path, torch.device("cpu"), twin=True)
    short = "import sys; print('done already')"
    start = bench.start
    monkeypatch.setattr(bench, "start", lambda command: start(["-c", short]))
    with pytest.raises(RuntimeError, match="ended with 0 before it could be killed: done already"):
        correct.killed_and_resumed(
            bench, "main_train", [], tmp_path / "x" / "0checkpoint.pth.tar", lambda state: True
        )


def test_another_exit_code_or_no_end_is_an_error(tmp_path):
    bench = Bench(tmp_path, torch.device("cpu"), twin=True)
    assert bench.process(["-c", "print(3)"]) == "3\n"
    with pytest.raises(RuntimeError, match="exit code 4 in the place of 0"):
        bench.process(["-c", "import sys; sys.exit(4)"])
    with pytest.raises(RuntimeError, match="no end after 1 s"):
        bench.process(["-c", "import time; time.sleep(60)"], seconds=1)


def test_what_a_killed_process_leaves_behind_holds_nothing_up(tmp_path, monkeypatch):
    """As a process of torchrun's that hangs: it has the output open for as long as it lives."""
    monkeypatch.setattr(runs, "SECONDS_TO_STOP", 0.5)
    deaf = (
        "import os, signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    )
    child = deaf + "print(os.getpid(), flush=True); time.sleep(60)"
    parent = deaf + f"subprocess.run([sys.executable, '-c', {child!r}])"
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"no end after 2 s: \d+") as error:
        Bench(tmp_path, torch.device("cpu"), twin=True).process(["-c", parent], seconds=2)
    os.kill(int(str(error.value).split()[-1]), signal.SIGKILL)
    assert time.monotonic() - began < 20
