"""What of finished runs stays on disk, when it goes, and what is said of it afterwards."""

import glob
import json
import multiprocessing
import shlex
from pathlib import Path

import pytest
from helpers import ORIGINAL, content, refused

import sweep
from sweeping import runs
from sweeping.expansion import expand
from sweeping.keep import Keeper, check_kept, files_of, removed, words_of_space
from sweeping.plan import make_plan
from sweeping.progress import Progress
from sweeping.runs import DONE, Worker, read_record, work
from utils import UserError

MADE = {
    "main_train": ("train_result.json", "0curve.jsonl", "0checkpoint.pth.tar")
    + ("0model_SA_best.pth.tar",),
    "generate_mask": ("mask_result.json", "with_0.1.pt", "with_0.5.pt"),
    "evaluate": ("audit.json", "shadows/shadow00/train-a/0checkpoint.pth.tar")
    + ("shadows/shadow00/FT-b/FTcheckpoint.pth.tar",),
}
UNLEARNED = (
    "result.json",
    "eval_result.pth.tar",
    "forget.npz",
    "curve.jsonl",
    "checkpoint.pth.tar",
)


def values_of(words):
    for word in words:
        yield word.partition("=")[2] if word.startswith("--") else word


def fake_call(script, words):
    """A script that refuses to begin without the files that it names, and writes what it would."""
    given = dict(word[2:].split("=", 1) for word in words if "=" in word)
    target = given.get("save_dir", "")
    for value in values_of(words):
        if value.startswith("/") and value != target and not glob.glob(value):
            print(f"{value} is gone")
            return 2
    if script == "report":
        return 0
    names = MADE.get(script, [given.get("unlearn", "") + name for name in UNLEARNED])
    for name in [*names, "logits/a.npz"] if script != "evaluate" else names:
        file = Path(target) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}" + "x" * len(name) if "result.json" not in name else "{}")
    return 0


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(runs, "call", fake_call)


def runs_of(tmp_path, **changes):
    return expand(make_plan(content(tmp_path, **changes)), sweep.check)


def make(found, root, name="w", sweep_id=0.0):
    work(found, root, Worker(name, sweep_id, tries=1), Keeper(found, root).finished)
    return Progress(found, root).look()


def models_in(root):
    return sorted(
        str(file.relative_to(root))
        for pattern in ("*checkpoint.pth.tar", "0model*", "with_*.pt", "a.npz")
        for file in root.rglob(pattern)
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"keep": "some"}, "plan: keep is 'some'; allowed are all, weights, none"),
        ({"keep": True}, "plan: keep is True; wanted is a str"),
        (
            {"stages": {"a": {"script": "main_train", "keep": "best"}}},
            "plan: [stages.a]: keep is 'best'",
        ),
    ],
)
def test_another_keep_is_refused_in_one_line(tmp_path, capsys, change, said):
    (tmp_path / "plan.json").write_text(json.dumps(content(tmp_path) | change))
    refused(capsys, sweep.main([str(tmp_path / "plan.json"), "--dry_run"]), said)


def test_keep_makes_no_other_run(tmp_path):
    names = [[run.name for run in runs_of(tmp_path, keep=keep)] for keep in ("all", "none")]
    assert names[0] == names[1]


def test_a_stage_has_the_plans_keep_or_its_own(tmp_path):
    plan = content(tmp_path, keep="none")
    plan["stages"]["retrain"]["keep"] = "weights"
    kept = {run.stage: run.keep for run in expand(make_plan(plan), sweep.check)}
    assert kept.pop("retrain") == "weights"
    assert {*kept.values()} == {"none"}


@pytest.mark.parametrize("keep", ["all", "weights", "none"])
def test_what_stays_is_what_keep_says(keep, tmp_path, fake):
    root = tmp_path / "runs"
    assert {*make(runs_of(tmp_path), root).values()} == {DONE}
    before = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    found = runs_of(tmp_path, keep=keep)
    assert {*make(found, root).values()} == {DONE}
    gone = before - {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    training = {name for name in before if Path(name).name == "0checkpoint.pth.tar"}
    assert len(training) == 2  # the original's and a shadow's
    models = {name for name in before if name in models_in_names(before)}
    assert gone == {"all": set(), "weights": training, "none": models}[keep]
    named = {f"{run.name}/{name}" for run in found for name in removed(root / run.name)}
    assert named == gone


def models_in_names(names):
    ends = ("checkpoint.pth.tar", "0model_SA_best.pth.tar", ".pt", "logits/a.npz")
    return {name for name in names if name.endswith(ends)}


def test_nothing_goes_that_another_run_needs(tmp_path, fake):
    """Each script refuses to begin without its files, whichever of three workers calls it."""
    found, root = runs_of(tmp_path, keep="none", seeds=list(range(8))), tmp_path / "runs"
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=make, args=(found, root, str(i))) for i in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert {*Progress(found, root).look().values()} == {DONE}
    assert all(len(read_record(root / run.name).starts) == 1 for run in found)
    make(found, root)  # what two workers saw done at the same time
    assert not models_in(root)


def test_what_a_run_that_is_not_done_needs_stays(tmp_path, monkeypatch):
    def call(script, words):
        return 2 if "--unlearn=GA" in words else fake_call(script, words)

    monkeypatch.setattr(runs, "call", call)
    found, root = runs_of(tmp_path, keep="none"), tmp_path / "runs"
    make(found, root)
    left = models_in(root)
    assert [name for name in left if name.startswith("original/")]
    assert [name for name in left if name.startswith("methods/FT")]  # the audit is not made
    assert not [name for name in left if name.startswith(("masks/", "salun/"))]
    monkeypatch.setattr(runs, "call", fake_call)
    make(found, root, sweep_id=1.0)
    assert not models_in(root)


def test_a_report_holds_no_model_back(tmp_path, fake):
    found, root = runs_of(tmp_path, keep="none"), tmp_path / "runs"
    make([run for run in found if run.script != "report"], root)
    keeper = Keeper(found, root)
    for run in found:
        if run.script != "report":
            keeper.finished(run)
    assert not models_in(root)


def test_a_literal_path_into_the_folder_is_a_need_too(tmp_path, fake):
    original = next(run for run in runs_of(tmp_path) if run.stage == "original")
    plan = content(tmp_path, keep="none")
    file = tmp_path / "runs" / original.name / "0model_SA_best.pth.tar"
    late = {"unlearn": "FT", "model_path": str(file)}
    plan["stages"]["late"] = {"script": "main_forget", "flags": late, "needs": ["report"]}
    states = make(expand(make_plan(plan), sweep.check), tmp_path / "runs")
    assert {*states.values()} == {DONE}
    assert not file.exists()


def test_a_worker_killed_while_it_removes_leaves_the_rest_to_the_next(tmp_path, fake, monkeypatch):
    found, root = runs_of(tmp_path, keep="none"), tmp_path / "runs"
    unlink, left = Path.unlink, iter([True] * 3)

    def killed(path, missing_ok=False):
        if path.match("*checkpoint.pth.tar") and not next(left, False):
            raise KeyboardInterrupt
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            make(found, root)
    make(found, root)
    assert not models_in(root)
    assert all(len(read_record(root / run.name).starts) == 1 for run in found)


def grown(tmp_path):
    plan = content(tmp_path, keep="none")
    plan["stages"]["more"] = {
        "script": "main_random",
        "flags": {
            **ORIGINAL,
            "unlearn": "RL",
            "unlearn_lr": 0.5,
            "mask_path": "{masks}/with_0.5.pt",
        },
    }
    return plan


def test_a_later_run_that_needs_what_is_gone_is_refused_with_what_to_type(tmp_path, fake, capsys):
    root = tmp_path / "runs"
    make(runs_of(tmp_path, keep="none"), root)
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(grown(tmp_path)))
    assert sweep.main([str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "keep has removed files of 2 finished runs that" in line
    names = shlex.split(line.partition(" type ")[2].partition(" and then")[0])
    assert names[0] == "rm"
    assert sorted(Path(name).name for name in names[1:]) == [
        "mask_result.json",
        "train_result.json",
    ]
    for name in names[1:]:
        Path(name).unlink()
    found = expand(make_plan(grown(tmp_path)), sweep.check)
    check_kept(found, root)
    assert {*make(found, root, sweep_id=1.0).values()} == {DONE}
    assert not models_in(root)
    again = [run for run in found if len(read_record(root / run.name).starts) > 1]
    assert {run.stage for run in again} == {"original", "masks"}


def test_what_makes_a_lacking_run_again_is_lacking_too(tmp_path, fake):
    """A new audit wants the unlearned models, which are made of the original and the masks."""
    root = tmp_path / "runs"
    make(runs_of(tmp_path, keep="none"), root)
    plan = content(tmp_path, keep="none")
    models = "{salun}/RLcheckpoint.pth.tar"
    plan["stages"]["late"] = {"script": "evaluate", "flags": {"models": [models]}}
    with pytest.raises(UserError, match="of 5 finished runs") as error:
        check_kept(expand(make_plan(plan), sweep.check), root)
    assert str(error.value).count("RLresult.json") == 3


def test_a_later_run_that_needs_what_is_left_is_not_refused(tmp_path, fake):
    root = tmp_path / "runs"
    make(runs_of(tmp_path, keep="weights"), root)
    found = expand(make_plan(grown(tmp_path) | {"keep": "weights"}), sweep.check)
    check_kept(found, root)
    assert {*make(found, root).values()} == {DONE}


def test_a_search_that_needs_what_is_gone_is_refused(tmp_path, fake, capsys):
    make(runs_of(tmp_path, keep="none"), tmp_path / "runs")
    (tmp_path / "plan.json").write_text(json.dumps(content(tmp_path, keep="none")))
    code = sweep.main([str(tmp_path / "plan.json"), "--search", "GA", "--sampler", "grid"])
    refused(capsys, code, "keep has removed files of 1 finished runs", "train_result.json")


def test_what_a_trial_of_a_search_refers_to_stays(tmp_path, fake):
    found, root = runs_of(tmp_path, keep="none"), tmp_path / "runs"
    original = next(run for run in found if run.stage == "original")
    trial = root / "search-GA" / "GA-s2-0"
    trial.mkdir(parents=True)
    model = root / original.name / "0model_SA_best.pth.tar"
    (trial / "cmd.txt").write_text(f"python main_forget.py --model_path={model}\n")
    make(found, root)
    assert model.exists()
    assert {Path(name).parts[0] for name in models_in(root)} == {"original"}


def test_status_says_how_much_is_kept(tmp_path, fake):
    found, root = runs_of(tmp_path), tmp_path / "runs"
    make(found, root)
    sizes = [(root / name).stat().st_size for name in models_in(root)]
    said = f"models, masks and outputs: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"
    assert words_of_space(found, root) == said
    progress = Progress(found, root)
    progress.look()
    assert said in progress.table(1)
    none = runs_of(tmp_path, keep="none")
    make(none, root)
    gone = f"removed by keep: {len(sizes)} files, {sum(sizes) / 1e6:.1f} MB"
    assert words_of_space(none, root) == f"models, masks and outputs: 0 files, 0.0 MB; {gone}"
    assert not files_of(root / "nowhere")
