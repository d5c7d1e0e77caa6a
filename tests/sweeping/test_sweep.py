"""Plans and their runs: expansion, names, refusals, commands for bash, who makes a run and how
often.
"""

import itertools
import json
import multiprocessing
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ORIGINAL, SMALL, content, finished, starts, tiny
from records import result

import sweep
from datasets import load_dataset
from runtime.files import lock
from sweeping import inputs, launch, launchers, runs
from sweeping.expansion import expand
from sweeping.inputs import check_inputs
from sweeping.plan import make_plan, read_plan
from sweeping.progress import Progress
from sweeping.runs import (
    DIED,
    DONE,
    FAILED,
    OPEN,
    RUNNING,
    Worker,
    attempt,
    command,
    read_record,
    state_of,
    work,
)
from utils import RunFailed, UserError

ROOT = Path(__file__).parents[2]


def runs_of(plan):
    return expand(make_plan(plan), sweep.check)


def stage_only(tmp_path, **stage):
    return runs_of(
        content(
            tmp_path,
            stages={"only": {"script": "main_forget", "flags": {"unlearn": "retrain"}} | stage},
        )
    )


# ---------------------------------------------------------------------------------------- expansion


def test_axes_list_and_seeds_are_their_product(tmp_path):
    axes = {"unlearn_lr": [0.1, 0.01], "batch_size": [32, 64, 128]}
    entries = [{"unlearn": "FT"}, {"unlearn": "GA"}]
    plan = content(tmp_path)
    plan["stages"] = {
        "original": plan["stages"]["original"],
        "grid": {"script": "main_forget", "flags": ORIGINAL, "axes": axes, "list": entries},
    }
    found = [run for run in runs_of(plan) if run.stage == "grid"]
    expected = {
        (
            f"--unlearn={entry['unlearn']}",
            f"--unlearn_lr={lr}",
            f"--batch_size={size}",
            f"--seed={seed}",
        )
        for entry, lr, size, seed in itertools.product(entries, *axes.values(), plan["seeds"])
    }
    assert len(found) == len(expected) == 36 == len({run.name for run in found})
    kept = [
        tuple(
            next(w for w in run.words if w.startswith(flag + "="))
            for flag in ("--unlearn", "--unlearn_lr", "--batch_size", "--seed")
        )
        for run in found
    ]
    assert set(kept) == expected


def test_what_is_common_is_made_once_and_what_is_random_per_seed(tmp_path):
    found = runs_of(content(tmp_path))
    count = {
        stage: sum(run.stage == stage for run in found) for stage in content(tmp_path)["stages"]
    }
    assert count == {
        "original": 1,
        "masks": 1,
        "retrain": 3,
        "methods": 6,
        "salun": 3,
        "evaluation": 1,
        "report": 1,
    }


def test_every_run_comes_after_those_it_needs_and_sees_only_its_seed(tmp_path):
    plan = content(
        tmp_path, base={name: value for name, value in SMALL.items() if name != "forget_seed"}
    )
    found = runs_of(
        plan
    )  # no --forget_seed: each seed has a forget set, so each has its mask and its evaluation
    earlier = {}
    for run in found:
        assert all(need in earlier for need in run.needs)
        assert all(
            earlier[need].seed in (None, run.seed) for need in run.needs if run.seed is not None
        )
        earlier[run.name] = run
    assert (
        sum(run.stage == "masks" for run in found)
        == sum(run.stage == "evaluation" for run in found)
        == 3
    )


@pytest.mark.parametrize(
    ("spec", "drawn"), [("random:130", True), ("class:3:50%", True), ("class:3", False)]
)
def test_a_forget_set_that_no_seed_draws_is_common_to_all_seeds(spec, drawn, tmp_path):
    left = {name: SMALL[name] for name in ("dataset", "arch", "device")}
    found = runs_of(content(tmp_path, base={**left, "forget": spec}))
    assert sum(run.stage == "masks" for run in found) == (3 if drawn else 1)
    assert not any(
        word.startswith("--forget")
        for run in found
        if run.stage == "original"
        for word in run.words
    )


def test_shared_axes_match(tmp_path):
    counts = {"num_indexes_to_replace": [50, 130]}
    base = {name: value for name, value in SMALL.items() if name != "num_indexes_to_replace"}
    plan = content(tmp_path, base=base)
    for stage in ("masks", "retrain", "methods", "salun", "evaluation"):
        plan["stages"][stage]["axes"] = counts
    found = {run.name: run for run in runs_of(plan)}
    salun = [run for run in found.values() if run.stage == "salun"]
    assert len(salun) == 6
    for run in salun:
        mask = next(found[need] for need in run.needs if found[need].stage == "masks")
        assert mask.axes == run.axes
    evaluations = [run for run in found.values() if run.stage == "evaluation"]
    assert len(evaluations) == 2
    for run in evaluations:
        assert all(found[need].axes == run.axes for need in run.needs)
        assert not any("num_indexes" in word for word in run.words)


def test_names_are_what_matters_and_nothing_else(tmp_path):
    names = {run.name for run in runs_of(content(tmp_path))}
    assert names == {
        run.name
        for run in runs_of(
            content(
                tmp_path / "elsewhere",
                base=SMALL | {"device": "auto", "precision": "auto", "gpu": 1},
            )
        )
    }
    same_data = [
        {run.name for run in runs_of(content(tmp_path, base=SMALL | {"data": data}))}
        for data in ("/a/data", "../data", "/a/other")
    ]
    assert same_data[0] == same_data[1] != same_data[2]
    for other in ({"precision": "fp32"}, {"arch": "resnet44s"}, {"batch_size": 32}):
        changed = {run.name for run in runs_of(content(tmp_path, base=SMALL | other))}
        assert not names & changed
    more = {run.name for run in runs_of(content(tmp_path, seeds=[2, 3, 4, 5]))}
    kept = {name for name in names if not name.startswith(("evaluation", "report"))}
    assert kept < more
    assert not (names - kept) & more  # a table over more runs is another table


def test_another_original_makes_other_runs(tmp_path):
    plan = content(tmp_path)
    plan["stages"]["original"]["flags"] = {"epochs": 2}
    before, after = (
        {run.name for run in runs_of(each) if run.stage != "retrain"}
        for each in (content(tmp_path), plan)
    )
    assert not before & after


def test_equal_entries_are_one_run(tmp_path):
    assert (
        len(stage_only(tmp_path, list=[{"batch_size": 32}, {"batch_size": 32}, {"batch_size": 64}]))
        == 6
    )


def test_toml_and_json_are_the_same_plan(tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps(
            {
                "folder": "r",
                "base": SMALL,
                "stages": {"o": {"script": "main_train", "flags": {"epochs": 1}}},
            }
        )
    )
    lines = "\n".join(f"{name} = {json.dumps(value)}" for name, value in SMALL.items())
    (tmp_path / "a.toml").write_text(
        f'folder = "r"\n[base]\n{lines}\n[stages.o]\nscript = "main_train"\nflags = {{ epochs = 1'
        " }\n"
    )
    assert read_plan(tmp_path / "a.json") == read_plan(tmp_path / "a.toml")


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sedes": [1]}, "sedes"),
        ({"folder": ""}, "folder"),
        ({"folder": "runs/*"}, "folder"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [1, 1]}, "seeds"),
        ({"seeds": [True]}, "seeds"),
        ({"tries": 0}, "tries"),
        ({"base": {"save_dir": "x"}}, "save_dir"),
        ({"base": {"run": "x"}}, "run is not for plans"),
        ({"base": {"data_set": "digits"}}, "data_set is no flag"),
        ({"base": {"batch_size": {"a": 1}}}, "batch_size"),
        ({"base": {"batch_size": -3}}, "batch_size"),
        ({"stages": {}}, "stages"),
        ({"stages": {"a/b": {"script": "main_train"}}}, "name"),
        ({"stages": {"a": {"script": "rm"}}}, "rm"),
        ({"stages": {"a": {"script": "main_train", "flag": {}}}}, "flag"),
        ({"stages": {"a": {"script": "main_train", "axes": {"lr": []}}}}, "lr"),
        ({"stages": {"a": {"script": "main_train", "list": []}}}, "list"),
        (
            {"stages": {"a": {"script": "main_train", "axes": {"lr": [1]}, "flags": {"lr": 2}}}},
            "lr is an axis",
        ),
        (
            {"stages": {"a": {"script": "main_forget", "flags": {"seed": 2}}}},
            "seed is set by seeds",
        ),
        ({"stages": {"a": {"script": "main_forget", "flags": {"unlearn": "F_T"}}}}, "F_T"),
        (
            {"stages": {"a": {"script": "main_forget", "flags": {"list_methods": True}}}},
            "list_methods",
        ),
        ({"stages": {"a": {"script": "main_forget", "flags": {"model_path": "{b}/x"}}}}, "'b'"),
        (
            {
                "stages": {
                    "a": {"script": "main_train", "needs": ["b"]},
                    "b": {"script": "main_train", "needs": ["a"]},
                }
            },
            "circle",
        ),
        ({"stages": {"a": {"script": "main_train", "needs": ["a"]}}}, "circle"),
        ({"stages": {"a": {"script": "report", "flags": {"dirs": ["x"], "format": "pdf"}}}}, "pdf"),
        ({"stages": {"a": {"script": "report"}}}, "dirs"),
        ({"stages": {"a": {"script": "evaluate"}}}, "--models"),
        ({"stages": {"a": {"script": "evaluate", "flags": {"models": "-x"}}}}, ""),
        (
            {"stages": {"a": {"script": "main_train", "axes": {"device": ["cpu", "auto"]}}}},
            "differ only in",
        ),
    ],
)
def test_impossible_plans_are_refused_in_one_line(tmp_path, capsys, change, said):
    (tmp_path / "plan.json").write_text(json.dumps(content(tmp_path) | change))
    assert sweep.main([str(tmp_path / "plan.json"), "--dry_run"]) == 2
    captured = capsys.readouterr()
    assert len(captured.err.splitlines()) == 1
    assert said in captured.err
    assert not captured.out


def test_threads_make_no_other_run(tmp_path):
    plan = content(tmp_path)
    names = [run.name for run in runs_of(plan)]
    plan["base"] = {**SMALL, "threads": 1}
    assert [run.name for run in runs_of(plan)] == names
    assert all("--threads=1" in run.words for run in runs_of(plan) if run.script != "report")


def test_one_folder_of_several_runs_is_refused(tmp_path):
    plan = content(tmp_path)
    plan["stages"]["original"]["axes"] = {"lr": [0.1, 0.2]}
    with pytest.raises(UserError, match="is 2 runs, one is wanted"):
        runs_of(plan)


@pytest.mark.parametrize(
    "text", ["x --unlearn=GA", "--overwrite", "$(touch hacked)", "a'b", "a b;c", "-1234567"]
)
def test_a_value_is_never_another_flag(tmp_path, text):
    run, *_ = stage_only(tmp_path, flags={"unlearn": "retrain", "data": text})
    assert [word for word in run.words if text in word] == [f"--data={text}"]
    assert shlex.split(command(run, tmp_path))[2:] == list(run.words)


def test_dry_run_is_bash_and_says_what_a_worker_would_call(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "plan.json").write_text(json.dumps(content(tmp_path)))
    assert sweep.main([str(tmp_path / "plan.json"), "--dry_run"]) == 0
    text = capsys.readouterr().out
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    lines = [shlex.split(line) for line in text.splitlines()]
    for run, words in zip(runs_of(content(tmp_path)), lines, strict=True):
        if run.script == "report":
            assert words[:2] == ["mkdir", "-p"]
            words = words[words.index("&&") + 1 : words.index(">")]
        assert words == ["python", f"{run.script}.py", *run.words]
    assert not (tmp_path / "runs").exists()


def test_a_plan_names_methods_as_the_scripts_do(tmp_path):
    flags = {**ORIGINAL, "unlearn": "salun", "mask_path": "x/with_0.5.pt", "model_path": "x.pt"}
    run, *_ = stage_only(tmp_path, flags=flags)
    same, *_ = stage_only(tmp_path, flags={**flags, "unlearn": "RL"})
    assert (run.result, run.checkpoint, run.name) == (
        "RLresult.json",
        "RLcheckpoint.pth.tar",
        same.name,
    )
    with pytest.raises(UserError, match=r"stages.only.*generate_mask.py"):
        stage_only(tmp_path, flags={"unlearn": "salun", "model_path": "x.pt"})


# ---------------------------------------------------------------------------- one run, many workers


class Fake:
    """Scripts that only write what a run is known by; each call is a line of one file, whichever
    process makes it.
    """

    def __init__(self, folder, codes=()):
        self.calls, self.codes = folder / "calls.txt", codes

    def __call__(self, script, words):
        folder = next(
            (word.removeprefix("--save_dir=") for word in words if word.startswith("--save_dir=")),
            "report",
        )
        with open(self.calls, "a") as file:
            file.write(
                f"{folder}"
                f" {' '.join(word for word in words if word in ('--resume', '--overwrite'))}\n"
            )
        print("said something")
        code = self.codes[len(self.lines()) - 1] if len(self.lines()) <= len(self.codes) else 0
        if code == 0 and folder != "report":
            method = next(
                (
                    word.removeprefix("--unlearn=")
                    for word in words
                    if word.startswith("--unlearn=")
                ),
                "retrain",
            )
            name = {"main_train": "train_", "generate_mask": "mask_"}.get(
                script, method
            ) + "result.json"
            (Path(folder) / ("audit.json" if script == "evaluate" else name)).write_text("{}")
        return code

    def lines(self):
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def fake(tmp_path, monkeypatch):
    def install(*codes):
        found = Fake(tmp_path, codes)
        monkeypatch.setattr(runs, "call", found)
        return found

    return install


def one(tmp_path):
    return stage_only(tmp_path)[0]


def do(run, tmp_path, sweep_id=0.0):
    return attempt(run, tmp_path / "runs", Worker("w", sweep_id, tries=2))


def test_a_run_leaves_its_command_its_log_and_its_record(tmp_path, fake):
    fake()
    run = one(tmp_path)
    folder = tmp_path / "runs" / run.name
    assert state_of(run, tmp_path / "runs") == OPEN
    assert do(run, tmp_path) == DONE == state_of(run, tmp_path / "runs")
    assert shlex.split((folder / "cmd.txt").read_text())[2:] == list(run.words)
    assert "said something" in (folder / "log.txt").read_text()
    record = read_record(folder)
    assert len(record.starts) == 1
    assert record.code == 0
    assert do(run, tmp_path) == DONE
    assert len(read_record(folder).starts) == 1


def test_an_impossible_run_is_not_tried_twice_by_a_worker_whose_clock_is_behind(
    tmp_path, fake, monkeypatch
):
    calls = fake(2, 2)
    run = one(tmp_path)
    sweep_id = time.time()
    monkeypatch.setattr(runs.time, "time", lambda: sweep_id - 3600)
    assert [do(run, tmp_path, sweep_id=sweep_id) for _ in range(2)] == [DIED, FAILED]
    assert len(calls.lines()) == 1
    assert do(run, tmp_path, sweep_id=sweep_id + 1) == DIED  # the next sweep asks again


def images(file, seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8), np.arange(40) % 4
    np.savez(file, x_train=x, y_train=y, x_test=x[:8], y_test=y[:8])


def test_finished_runs_of_other_images_are_refused_and_the_same_images_elsewhere_are_not(
    tmp_path, monkeypatch
):
    """The file is read again only where it looks other than before: touched, moved, or written
    anew.
    """
    file = tmp_path / "own.npz"
    images(file, 1)
    run = next(
        iter(
            stage_only(tmp_path, flags={"unlearn": "retrain", "dataset": "npz", "data": str(file)})
        )
    )
    root = tmp_path / "runs"
    check_inputs([run], root)
    folder = root / run.name
    folder.mkdir(parents=True)
    (folder / run.result).write_text(
        json.dumps({"data": {"data_sha256": load_dataset("npz", file).sha256()}})
    )
    reads = []
    monkeypatch.setattr(
        inputs,
        "load_dataset",
        lambda *args, **more: reads.append(args) or load_dataset(*args, **more),
    )
    check_inputs([run], root)
    assert not reads
    os.utime(file, (1, 1))
    check_inputs([run], root)
    check_inputs([run], root)
    assert len(reads) == 1
    images(file, 2)
    for _ in range(2):  # it stays refused
        with pytest.raises(UserError, match="holds other images now than 1 finished runs"):
            check_inputs([run], root)
    images(file, 1)
    check_inputs([run], root)


@pytest.mark.parametrize(
    ("flag", "value", "names_it"),
    [
        ("forget", "positions:@{}", True),
        ("forget", "indices:@{}:index", True),
        ("forget", "class:3", False),
        ("indexes_to_replace", "@{}", True),
        ("indexes_to_replace", "1,5", False),
        ("model_path", "{}", True),
    ],
)
def test_files_that_flags_name_are_watched(flag, value, names_it, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("index\n1\n")
    run = SimpleNamespace(settings={flag: value.format(listed)})
    assert inputs._by_file([run]) == ({str(listed): [run]} if names_it else {})


def test_files_that_no_stage_makes_must_be_there(tmp_path):
    root, there = tmp_path / "runs", tmp_path / "there.pt"
    there.write_text("")
    for flag in ("model_path", "mask_path"):
        run = SimpleNamespace(settings={flag: str(tmp_path / "gone.pt")})
        with pytest.raises(UserError, match=f"{flag} .*gone.pt: there is no such file, and no"):
            check_inputs([run], root)
        for fine in (there, root / "masks" / "later.pt"):
            inputs._check_presence([SimpleNamespace(settings={flag: str(fine)})], root)
    inputs._check_presence([SimpleNamespace(settings={"forget": "class:3"})], root)


def test_a_file_in_the_place_of_the_folder_is_refused_before_any_run(tmp_path):
    (tmp_path / "file").write_text("")
    plan = {"stages": {"a": {"script": "main_forget"}}, "folder": str(tmp_path / "file")}
    with pytest.raises(UserError, match="a file is there"):
        make_plan(plan)


def test_finished_runs_of_another_list_or_model_are_refused(tmp_path):
    """A list by its bytes, a model by its weights: saved again it is the same."""
    listed, model = tmp_path / "list.txt", tmp_path / "model.pth.tar"
    listed.write_text("1 2 3")
    torch.save({"state_dict": {"a": torch.zeros(3)}}, model)
    flags = {
        "unlearn": "FT",
        "dataset": "digits",
        "leave_out": f"@{listed}",
        "model_path": str(model),
    }
    run, root = next(iter(stage_only(tmp_path, flags=flags))), tmp_path / "runs"
    check_inputs([run], root)
    (root / run.name).mkdir(parents=True)
    (root / run.name / run.result).write_text("{}")
    torch.save({"epoch": 1, "state_dict": {"a": torch.zeros(3)}}, model)
    check_inputs([run], root)
    for file, change in (
        (listed, lambda: listed.write_text("1 2 4")),
        (model, lambda: torch.save({"a": torch.ones(3)}, model)),
    ):
        before = file.read_bytes()
        change()
        for _ in range(2):  # it stays refused
            with pytest.raises(
                UserError, match=f"{file.name} has another content now than 1 finished runs"
            ):
                check_inputs([run], root)
        file.write_bytes(before)
        check_inputs([run], root)


def test_a_failed_run_is_tried_the_stated_number_of_times_in_each_sweep(tmp_path, fake):
    calls = fake(1, 1, 1)
    run = one(tmp_path)
    assert [do(run, tmp_path) for _ in range(3)] == [DIED, DIED, FAILED]
    assert state_of(run, tmp_path / "runs") == FAILED
    assert "said something" in read_record(tmp_path / "runs" / run.name).tail
    assert do(run, tmp_path, sweep_id=time.time()) == DIED  # the next sweep has its own tries
    assert do(run, tmp_path, sweep_id=time.time() - 0.001) == DONE
    assert [line.split()[1:] for line in calls.lines()] == [
        [],
        ["--overwrite"],
        ["--overwrite"],
        ["--overwrite"],
    ]


def test_an_impossible_request_is_not_tried_again(tmp_path, fake):
    calls = fake(2)
    run = one(tmp_path)
    assert [do(run, tmp_path), do(run, tmp_path)] == [DIED, FAILED]
    assert len(calls.lines()) == 1


def test_what_is_half_done_is_resumed_and_a_refused_checkpoint_replaced(tmp_path, fake):
    calls = fake(1, 2, 0)
    run = one(tmp_path)
    do(run, tmp_path)
    (tmp_path / "runs" / run.name / "retraincheckpoint.pth.tar").write_text("")
    assert do(run, tmp_path) == DONE
    assert [line.split()[1:] for line in calls.lines()] == [[], ["--resume"], ["--overwrite"]]


def test_a_run_whose_result_is_removed_is_open_and_made_again(tmp_path, fake):
    fake(0, 0)
    run = one(tmp_path)
    do(run, tmp_path)
    (tmp_path / "runs" / run.name / run.result).unlink()
    assert state_of(run, tmp_path / "runs") == OPEN
    assert do(run, tmp_path) == DONE == state_of(run, tmp_path / "runs")


def test_a_script_that_leaves_no_result_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "call", lambda script, words: 0)
    assert do(one(tmp_path), tmp_path) == DIED
    assert state_of(one(tmp_path), tmp_path / "runs") == FAILED


def test_a_locked_run_is_somebody_elses(tmp_path, fake):
    calls, run = fake(), one(tmp_path)
    folder = tmp_path / "runs" / run.name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"starts": []}')
    with lock(folder, "run"):
        assert state_of(run, tmp_path / "runs") == RUNNING
        assert do(run, tmp_path) == RUNNING
    assert state_of(run, tmp_path / "runs") == DIED
    assert not calls.lines()


def test_an_interrupted_run_stops_the_worker_and_is_no_failure(tmp_path, fake):
    fake(130)
    with pytest.raises(KeyboardInterrupt):
        do(one(tmp_path), tmp_path)
    assert state_of(one(tmp_path), tmp_path / "runs") == DIED


def test_a_traceback_is_a_failure_with_its_last_lines(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.importlib, "import_module", lambda name: None)
    run = one(tmp_path)
    assert do(run, tmp_path) == DIED
    assert "AttributeError" in read_record(tmp_path / "runs" / run.name).tail[-1]


def test_runs_that_need_a_failed_one_are_left_and_the_others_made(tmp_path, fake):
    fake(0, 2)  # in order: the original, then one Retrain or the mask
    found = runs_of(content(tmp_path))
    work(found, tmp_path / "runs", Worker("w", 0.0, tries=2))
    progress = Progress(found, tmp_path / "runs")
    states = progress.look()
    failed = [run for run in found if states[run.name] == FAILED]
    assert len(failed) == 1
    blocked = [run for run in found if failed[0].name in run.needs]
    assert blocked
    assert all(states[run.name] == OPEN for run in blocked)
    assert all(
        states[run.name] == DONE
        for run in found
        if run not in failed and not {*run.needs} & {each.name for each in (*failed, *blocked)}
    )
    assert "failed: " in progress.table(1)


def test_three_workers_at_once_make_every_run_once(tmp_path, fake):
    calls = fake()
    found = runs_of(content(tmp_path, seeds=list(range(20))))
    fork = multiprocessing.get_context("fork")
    workers = [
        fork.Process(target=work, args=(found, tmp_path / "runs", Worker(str(i), 0.0, tries=1)))
        for i in range(3)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(calls.lines()) == len(found) == len({*calls.lines()})
    assert {*Progress(found, tmp_path / "runs").look().values()} == {DONE}


def test_a_worker_stops_when_its_launcher_is_gone(tmp_path, fake):
    calls = fake()
    left = iter([True, True, False])
    worker = Worker("w", 0.0, tries=1, alive=lambda: next(left))
    work(runs_of(content(tmp_path)), tmp_path / "runs", worker)
    assert len(calls.lines()) == 2


def test_time_to_go_is_each_stages_mean(tmp_path):
    found = runs_of(content(tmp_path))
    progress = Progress(found, tmp_path / "runs")
    assert progress.remaining(1) is None
    progress.seconds["retrain"], progress.seconds["methods"] = [10.0], [2.0, 4.0]
    for run in found:
        progress.states[run.name] = DONE if run.stage not in ("retrain", "methods") else OPEN
    assert progress.remaining(1) == 3 * 10 + 6 * 3
    assert progress.remaining(4) == (3 * 10 + 6 * 3) / 4


# ---------------------------------------------------------------------------------------- launchers


class Ended:
    """A worker that has ended with a code."""

    def __init__(self, code):
        self.code, self.stopped = code, False

    def poll(self):
        return self.code

    def stop(self):
        self.stopped = True


SWEEP_ID = 5.5


class Codes:
    """A launcher whose workers take a run of the sweep ``takes`` and end as a list says."""

    def __init__(self, folder, *codes, takes=SWEEP_ID):
        self.folder, self.codes, self.takes, self.commands = folder, list(codes), takes, []

    def start(self, commands):
        self.commands += commands.values()
        for *_, name in commands.values():
            run = self.folder / "stage" / name
            run.mkdir(parents=True)
            start = {"worker": name.removeprefix("--worker="), "sweep_id": self.takes}
            (run / "run.json").write_text(json.dumps({"starts": [start]}))
        return {slot: Ended(self.codes.pop(0)) for slot in commands}


def supervise(launcher, workers):
    launch.supervise(
        launcher, ["x"], workers, launcher.folder, SWEEP_ID, show=lambda: None, every=0
    )


def test_a_dead_worker_is_replaced_under_another_name(tmp_path):
    launcher = Codes(tmp_path, 0, -9, 0)
    supervise(launcher, 2)
    names = [words[-1] for words in launcher.commands]
    assert len(names) == 3 == len({*names})
    assert [name.split("=")[1].split("-")[0] for name in names] == ["0", "1", "1"]


def test_workers_that_take_a_run_may_die_more_often_than_idle_ones(tmp_path):
    launcher = Codes(tmp_path, *[1] * 5, 0)
    supervise(launcher, 1)
    assert len(launcher.commands) == 6 > launch.IDLE_DEATHS


@pytest.mark.parametrize("takes", [None, SWEEP_ID - 1])
def test_workers_that_take_no_run_of_their_sweep_end_it(tmp_path, takes):
    launcher = Codes(tmp_path, *[1] * 9, takes=takes)
    with pytest.raises(RunFailed, match="before they took a run"):
        supervise(launcher, 1)
    assert len(launcher.commands) == launch.IDLE_DEATHS


# --------------------------------------------------------------------------------------------- GPUs


@pytest.mark.parametrize(
    ("chosen", "words", "gpus"),
    [
        ("0", ["--per_gpu", "3"], ["0", "0", "0"]),
        ("0,1", ["--per_gpu", "2"], ["0", "1", "0", "1"]),
        ("3, GPU-5f,", ["--per_gpu", "2"], ["3", "GPU-5f", "3", "GPU-5f"]),
        ("2,0,-1,1", ["--per_gpu", "1"], ["2", "0"]),
        ("0,1", [], ["0", "1"]),
        ("0,1", ["--workers", "3"], ["0", "1", "0"]),
        ("-1", [], [None]),
        ("", ["--workers", "2"], [None, None]),
    ],
)
def test_workers_take_the_gpus_in_turn(tmp_path, monkeypatch, chosen, words, gpus):
    started = []

    def start(words, **options):
        started.append(options["env"])
        return SimpleNamespace(poll=lambda: 0, terminate=lambda: None, wait=lambda: None)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(launchers.subprocess, "Popen", start)
    monkeypatch.setattr(launchers.os, "cpu_count", lambda: 8)
    args = sweep.sweep_parser().parse_args(["plan.toml", *words])
    workers = launch.Workers(args.launcher, args.workers, args.per_gpu, args.options)
    launcher = launchers.Local(workers.count(), {}, tmp_path)
    slots = range(launcher.workers)
    launcher.start({slot: ["x"] for slot in slots})
    launcher.start({1: ["x"]} if len(slots) > 1 else {})  # a worker that is replaced
    again = gpus[1:2]
    assert [environment["CUDA_VISIBLE_DEVICES"] for environment in started] == [
        gpu if gpu else chosen for gpu in gpus + again
    ]
    assert {environment["OMP_NUM_THREADS"] for environment in started} == {str(8 // len(gpus))}


@pytest.mark.parametrize(
    ("chosen", "words", "reason"),
    [
        (
            "",
            ["--per_gpu", "2"],
            "no GPU here; --workers 2 makes as many runs at a time on the CPU",
        ),
        ("-1", ["--per_gpu", "2"], "no GPU here"),
        ("0", ["--per_gpu", "2", "--workers", "2"], "not allowed with"),
        ("0", ["--per_gpu", "2", "--launcher", "slurm"], "--per_gpu 2 is of --launcher local"),
        ("0", ["--per_gpu", "0"], "not at least 1"),
    ],
)
def test_per_gpu_without_a_gpu_or_beside_another_number_is_refused_in_one_line(
    tmp_path, capsys, monkeypatch, chosen, words, reason
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert sweep.main([str(tiny(tmp_path)), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not (tmp_path / "runs").exists()


def test_a_local_sweep_survives_the_death_of_its_worker(tmp_path, capsys):
    plan = tiny(tmp_path)
    launcher = subprocess.Popen(
        [sys.executable, ROOT / "sweep.py", plan], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    folder = read_plan(plan).folder
    deadline = time.time() + 120
    while not (begun := list(folder.glob("retrain/*/run.json"))) and time.time() < deadline:
        time.sleep(0.02)
    victim = json.loads(begun[0].read_text())["starts"][0]["pid"]
    os.kill(victim, signal.SIGKILL)
    out, _ = launcher.communicate(timeout=120)
    assert launcher.returncode == 0
    assert "done=3" in out
    counts = starts(plan)
    assert (
        sum(counts.values()) == len(counts) + 1
    )  # the run that the worker was at, and only it, twice
    for run in expand(read_plan(plan), sweep.check):
        if run.script == "main_forget":
            given = json.loads((folder / run.name / run.result).read_text())["provenance"][
                "command"
            ]
            assert given == [
                f"{run.script}.py",
                *run.words,
                *(["--overwrite"] if given[-1] == "--overwrite" else []),
            ]
    first = {path: path.read_bytes() for path in folder.rglob("*result.json")}
    assert sweep.main([str(plan)]) == 0  # all is done: nothing starts
    assert starts(plan) == counts
    assert first == {path: path.read_bytes() for path in folder.rglob("*result.json")}
    capsys.readouterr()
    assert sweep.main([str(plan), "--report"]) == 0
    assert (
        capsys.readouterr().out.strip()
        == next(folder.glob("report/*/report.txt")).read_text().strip()
    )
    assert sweep.main([str(plan), "--status"]) == 0
    assert "3        3        0" in capsys.readouterr().out


def test_report_before_anything_is_done(tmp_path, capsys):
    assert sweep.main([str(tiny(tmp_path)), "--report"]) == 2
    assert "no unlearning run of this plan is done" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "module"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_missing_launcher_is_one_line_that_says_how_to_install_it(
    tmp_path, capsys, monkeypatch, name, module
):
    real = launchers.importlib.util.find_spec
    monkeypatch.setattr(
        launchers.importlib.util,
        "find_spec",
        lambda asked: None if asked == module else real(asked),
    )
    assert sweep.main([str(tiny(tmp_path)), "--launcher", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install -r requirements-{name}.txt" in line
    assert (ROOT / f"requirements-{name}.txt").is_file()
    assert not (tmp_path / "runs").exists()


def test_no_launcher_is_imported_unless_asked_for():
    code = "import sweep, sys; sys.exit(bool({'submitit', 'ray', 'optuna'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_submitits_local_executor(tmp_path, capsys):
    pytest.importorskip("submitit", reason="pip install -r requirements-slurm.txt")
    finished(tiny(tmp_path), capsys, "--launcher", "slurm", "--options", "cluster=local")


def test_slurm_without_sbatch_is_refused(tmp_path, capsys, monkeypatch):
    pytest.importorskip("submitit", reason="pip install -r requirements-slurm.txt")
    monkeypatch.setattr(launchers.shutil, "which", lambda name: None)
    assert sweep.main([str(tiny(tmp_path)), "--launcher", "slurm"]) == 2
    assert "no sbatch here" in capsys.readouterr().err


def test_a_local_ray(tmp_path, capsys):
    ray = pytest.importorskip("ray", reason="pip install -r requirements-ray.txt")
    try:
        finished(tiny(tmp_path), capsys, "--launcher", "ray")
    finally:
        ray.shutdown()


@pytest.mark.parametrize(
    "words", [["--trials", "3"], ["--objective", "oracle_gap"], ["--sampler", "grid"]]
)
def test_flags_of_a_search_are_refused_where_nothing_is_searched(tmp_path, capsys, words):
    for more in ([], ["--status"], ["--dry_run"]):
        assert sweep.main([str(tiny(tmp_path)), *words, *more]) == 2
        assert f"{words[0]}: of a search; add --search METHOD" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"published": "salun"}, "no such table"),
        ({"published": "salun_cifar10_10", "format": "latex"}, "has no --format latex"),
        ({"row": "FT", "top": 3}, "--top chooses rows"),
        ({"plot_format": "pdf"}, "needs --plots FOLDER"),
    ],
)
def test_a_report_that_would_be_refused_is_so_before_any_run(tmp_path, capsys, flags, reason):
    plan = tiny(tmp_path)
    held = json.loads(plan.read_text())
    held["stages"]["report"]["flags"] |= flags
    plan.write_text(json.dumps(held))
    assert sweep.main([str(plan)]) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_the_table_of_unlike_retrains_names_whose_flag_chooses_one(tmp_path, capsys):
    plan = tiny(tmp_path)
    for run in expand(read_plan(plan), sweep.check):
        if run.checkpoint and run.script != "main_train":
            record = result("retrain", "Retrain", lr=len(run.name) + run.seed)
            folder = read_plan(plan).folder / run.name
            folder.mkdir(parents=True)
            (folder / run.result).write_text(json.dumps(record))
    assert sweep.main([str(plan), "--report"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--reference" in line
    assert f"a flag of report.py {read_plan(plan).folder}" in line


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "; the same command tries them again"), (2, ", 1 of them refused as above: mend that")],
)
def test_the_end_says_whether_the_same_command_can_help(tmp_path, code, words):
    found = runs_of(content(tmp_path))
    progress = Progress(found, tmp_path / "runs")
    folder = tmp_path / "runs" / found[0].name
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps({"code": code}))
    progress.look()
    assert words in launch._not_done(found, progress)
