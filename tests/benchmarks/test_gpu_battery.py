"""The GPU battery's own parts: what is kept, what goes on, what is refused, and with which exit
code.
"""

import json

import pytest
import torch

from benchmarks.gpu import battery
from benchmarks.gpu.battery import FAILED, UNFINISHED, Battery, LeftOut, judged, make_parser, run


def begin(folder, *words):
    return Battery(
        "toy", make_parser("toy", "").parse_args(["--twin", "--out", str(folder), *words])
    )


def entries(folder):
    return json.loads((folder / "toy.json").read_text())["checks"]


def counted(found=None):
    """A check that counts its calls."""
    calls = []

    def action():
        calls.append(1)
        return found

    return action, calls


def test_what_is_found_is_kept_and_a_second_call_goes_on_after_it(tmp_path):
    first, calls = counted({"apart": 0.5, "same": True, "what": "a|b"})
    one = begin(tmp_path)
    assert one.check("first", first) == {"apart": 0.5, "same": True, "what": "a|b"}
    again = begin(tmp_path)
    assert again.check("first", first) == {"apart": 0.5, "same": True, "what": "a|b"}
    assert again.check("second", lambda: None) == {}
    assert len(calls) == 1
    assert again.finish() == 0
    assert [entry["ok"] for entry in entries(tmp_path).values()] == [True, True]
    table = (tmp_path / "toy.md").read_text()
    assert '| first | good | apart 0.5, same true, what "a\\|b" |' in table
    assert "| second | good |" in table


def test_again_repeats_what_is_done(tmp_path):
    action, calls = counted()
    for words in ([], ["--again"]):
        begin(tmp_path, *words).check("one", action)
    assert len(calls) == 2


def test_a_check_that_fails_costs_no_other_and_is_run_again(tmp_path):
    def breaks():
        print("half way")
        raise RuntimeError("no such kernel")

    stage = begin(tmp_path)
    assert stage.check("bad", breaks) is None
    assert stage.check("exits", lambda: exit(3)) is None
    assert stage.check("good", lambda: {"n": 1}) == {"n": 1}
    assert stage.finish() == FAILED
    log = (tmp_path / "toy.log").read_text()
    assert "half way" in log
    assert "Traceback" in log
    assert entries(tmp_path)["bad"]["error"] == "RuntimeError: no such kernel"
    mended = begin(tmp_path)
    assert mended.check("bad", lambda: {"n": 2}) == {"n": 2}
    assert mended.check("exits", lambda: {}) == {}
    assert mended.finish() == 0


def test_a_check_that_ends_the_process_is_known_to_the_next_one(tmp_path):
    def ends_it():
        print("method 7")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin(tmp_path).check("crash", ends_it)
    assert entries(tmp_path)["crash"]["error"] == "the process ended in it"
    assert "method 7" in next(tmp_path.glob("*.log")).read_text()
    again = begin(tmp_path)
    assert again.in_turn(["crash", "a", "b"]) == ["a", "b", "crash"]
    again.check("crash", lambda: {})
    assert again.in_turn(["crash", "a", "b"]) == ["crash", "a", "b"]


def test_a_lost_device_ends_the_stage_and_a_check_that_fails_on_a_sound_one_does_not(
    tmp_path, monkeypatch, capsys
):
    def breaks():
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def answers_no_more(device):
        breaks()

    stage = begin(tmp_path)
    stage.check("bad", breaks)
    assert stage.check("good", lambda: {"n": 1}) == {"n": 1}
    monkeypatch.setattr(battery, "synchronize", answers_no_more)
    stage.check("worse", breaks)
    action, calls = counted()
    assert stage.check("next", action) is None
    assert not calls
    assert stage.finish() == FAILED
    assert "the device answers no more since worse: next still to come" in capsys.readouterr().out


def test_numbers_that_are_wrong_are_kept_with_the_reason(tmp_path):
    assert judged({"apart": 0.1}, {"near": True}) == {"apart": 0.1}
    stage = begin(tmp_path)
    assert (
        stage.check(
            "far", lambda: judged({"apart": 9.0}, {"near": False, "finite": True, "equal": False})
        )
        is None
    )
    entry = entries(tmp_path)["far"]
    assert (entry["ok"], entry["error"], entry["found"]) == (
        False,
        "not so: near, equal",
        {"apart": 9.0},
    )
    assert stage.finish() == FAILED


def test_what_this_machine_cannot_run_is_left_out_and_no_failure(tmp_path, capsys):
    def cannot():
        raise LeftOut("no compiler")

    stage = begin(tmp_path)
    assert stage.check("compile", cannot) is None
    assert stage.finish() == 0
    assert "left out: no compiler" in capsys.readouterr().out


def test_when_the_time_is_over_no_check_begins(tmp_path, capsys):
    action, calls = counted()
    stage = begin(tmp_path, "--minutes", "0")
    assert stage.check("late", action) is None
    assert stage.finish() == UNFINISHED
    assert not calls
    assert "late still to come" in capsys.readouterr().out


def test_only_runs_the_named_checks_and_refuses_names_that_there_are_not(tmp_path):
    actions = {name: counted() for name in "abc"}
    stage = begin(tmp_path, "--only", "a,c")
    for name, (action, _) in actions.items():
        stage.check(name, action)
    assert [len(calls) for _, calls in actions.values()] == [1, 0, 1]
    assert stage.finish() == 0
    stage = begin(tmp_path, "--only", "a,d")
    for name, (action, _) in actions.items():
        stage.check(name, action)
    with pytest.raises(battery.UserError, match="--only d: no such check; the stage has a, b, c"):
        stage.finish()


def stage_main(argv):
    stage = Battery("toy", make_parser("toy", "").parse_args(argv))
    stage.check("one", lambda: {})
    return stage.finish()


def test_without_cuda_the_twin_s_command_is_named(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert run("toy", stage_main, ["--out", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "python benchmarks/gpu/toy.py --twin" in message
    assert len(message.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("first", [["--twin"], []], ids=["twin first", "device first"])
def test_a_folder_is_of_the_twin_or_of_a_device_and_never_of_both(
    tmp_path, monkeypatch, capsys, first
):
    here = battery.describe()
    monkeypatch.setattr(battery, "describe", lambda: here)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    second = [] if first else ["--twin"]
    assert run("toy", stage_main, [*first, "--out", str(tmp_path)]) == 0
    before = (tmp_path / "toy.json").read_bytes()
    assert run("toy", stage_main, [*second, "--out", str(tmp_path)]) == 2
    assert "give another --out" in capsys.readouterr().err
    assert (tmp_path / "toy.json").read_bytes() == before
