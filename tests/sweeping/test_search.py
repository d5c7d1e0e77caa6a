"""The search over hyper-parameters: declared ranges, the grid, what the objectives read, and one
search for real.
"""

import dataclasses
import json
import math
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import engine
import sweep
from evaluation.selection import val_proxy_noise
from runtime.files import save_json
from sweeping import objectives, samplers, search_table
from sweeping.objectives import entropy_gap_score, judge, oracle_gap_score, val_proxy_score
from sweeping.plan import make_plan
from sweeping.samplers import grid, try_grid, try_optuna
from sweeping.search import as_planned, search_of, searchable
from sweeping.search_table import as_markdown, sensitivity
from unlearn import METHODS, presets_of
from unlearn.base import Range
from utils import RunFailed, UserError

# What a method is given for two optimizers.
TWO = {"forget_optimizer": "adamw"}
ORIGINAL = {"model_path": "{original}/0model_SA_best.pth.tar"}


def content(folder, **changes):
    stages = {
        "original": {"script": "main_train", "flags": {"epochs": 3, "lr": 0.1}},
        "masks": {"script": "generate_mask", "flags": ORIGINAL},
        "retrain": {"script": "main_forget", "flags": {"unlearn": "retrain", "epochs": 1}},
        "methods": {
            "script": "main_forget",
            "flags": ORIGINAL,
            "list": [{"unlearn": "GA", "unlearn_epochs": 1}, {"unlearn": "RL"}],
        },
        "salun": {
            "script": "main_random",
            "flags": {**ORIGINAL, "unlearn": "RL", "mask_path": "{masks}/with_0.5.pt"},
        },
    }
    base = {
        "dataset": "digits",
        "arch": "resnet20s",
        "device": "cpu",
        "num_indexes_to_replace": 130,
        "forget_seed": 2,
    }
    return {
        "folder": str(folder),
        "seeds": [2, 3],
        "base": base,
        "stages": stages,
        "search": {"forget_seed": 7},
    } | changes


@pytest.mark.parametrize("name", METHODS)
def test_declared_ranges_hold_the_default_and_make_the_method(name):
    for field in dataclasses.fields(METHODS[name]):
        if found := field.metadata.get("range"):
            assert field.type is float  # levels and samplers know nothing else
            needed = TWO if field.metadata["needs"] else {}
            if needed and hasattr(METHODS[name], "order"):
                needed = {**TWO, "order": "sequential"}
            assert needed or found.low <= field.default <= found.high
            assert found.low < found.high
            assert found.low > 0 or not found.log
            for share in (0, 0.5, 1):
                method = METHODS[name](**needed, **{field.name: found.at(share)})
                assert math.isclose(getattr(method, field.name), found.at(share))


def test_the_field_s_common_methods_can_be_searched():
    assert {"RL", "FT", "GA", "FT_l1", "neggrad_plus"} <= {*searchable()}


def test_what_has_a_strength_can_be_searched_and_retrain_cannot():
    assert {*METHODS} - {*searchable()} == {"raw", "retrain"}


@pytest.mark.parametrize(
    "name", ["amnesiac", "bad_teaching", "unsir", "boundary_shrink", "boundary_expanding"]
)
def test_a_rate_of_another_scale_is_not_searched_where_sgd_s_is(name):
    rates = METHODS[name].__dataclass_fields__["unlearn_lr"].metadata["range"]
    assert rates.high < METHODS["FT"].__dataclass_fields__["unlearn_lr"].metadata["range"].high


def test_a_range_is_even_in_its_scale():
    assert np.allclose(
        [Range(1e-4, 1).at(share) for share in (0, 0.25, 0.5, 1)], [1e-4, 1e-3, 1e-2, 1]
    )
    assert np.allclose([Range(0.8, 1, log=False).at(share) for share in (0, 0.5, 1)], [0.8, 0.9, 1])


def test_a_range_near_one_is_even_in_the_logarithm_of_the_rest():
    assert np.allclose(
        [1 - Range(0.9, 0.99999, rest=True).at(share) for share in (0, 0.25, 0.5, 1)],
        [1e-1, 1e-2, 1e-3, 1e-5],
    )


def test_neggrad_plus_s_published_shares_are_within_reach_of_few_trials():
    """0.95 and 0.9999: both are inside, and the next of eight levels has a forget weight at most
    twice as far.
    """
    name, found = (
        "retain_share",
        METHODS["neggrad_plus"].__dataclass_fields__["retain_share"].metadata["range"],
    )
    levels = [1 - point[name] for point in grid({name: found}, 8)]
    for share in (0.95, 0.9999):
        assert found.low <= share <= found.high
        assert min(abs(math.log((1 - share) / level)) for level in levels) <= math.log(2)


@pytest.mark.parametrize(
    ("dimensions", "trials"), [(1, 1), (1, 7), (2, 7), (2, 20), (3, 20), (3, 1)]
)
def test_a_grid_is_within_the_ranges_and_the_budget(dimensions, trials):
    ranges = {f"x{i}": Range(1e-3, 1) for i in range(dimensions)}
    points = grid(ranges, trials)
    levels = [len({point[name] for point in points}) for name in ranges]
    assert math.prod(levels) == len(points) <= trials
    assert max(levels) - min(levels) <= 1
    assert (
        math.prod(sorted(levels)[1:]) * (min(levels) + 1) > trials
    )  # one more level would not fit
    assert all(1e-3 <= value <= 1 for point in points for value in point.values())


def test_a_search_has_a_request_of_its_own_and_what_it_searches_is_not_fixed(tmp_path):
    found = search_of(make_plan(content(tmp_path)), "salun")
    run, needed = found.run_of({"unlearn_lr": 0.05}, sweep.check)
    assert {"--forget_seed=7", "--unlearn_lr=0.05", "--seed=2"} <= {*run.words}
    assert [each.stage for each in needed] == ["original", "masks"]
    assert "--forget_seed=7" in needed[1].words
    assert {each.script for each in found.plan.stages.values()} == {
        "main_train",
        "generate_mask",
        "main_forget",
        "main_random",
    }
    assert found.run_of({"unlearn_lr": 0.1}, sweep.check)[0].name != run.name


def test_a_search_takes_a_method_by_any_of_its_names(tmp_path):
    plan = content(tmp_path)
    plan["stages"]["retrain"]["flags"]["unlearn"] = "Retrain"
    plan["stages"]["methods"]["list"] += [{"unlearn": "L1-Sparse"}, {"unlearn": "IU"}]
    plan = make_plan(plan)
    names = {
        name: as_planned(plan, name)
        for name in ("ga", "GA", "salun", "FT_prune", "l1-sparse", "wfisher", "scrap")
    }
    assert names == {
        "ga": "GA",
        "GA": "GA",
        "salun": "salun",
        "FT_prune": "L1-Sparse",
        "l1-sparse": "L1-Sparse",
        "wfisher": "IU",
        "scrap": "scrap",
    }
    assert search_of(plan, "L1-Sparse").ranges.keys() == {"alpha", "unlearn_lr"}
    assert (
        "retrain" in search_of(plan, "GA").plan.stages
    )  # which a search keeps as what it is measured against


@pytest.mark.parametrize(
    "flags",
    [
        {"forget_optimizer": "adamw", "forget_lr": 1e-4},
        {"forget_optimizer": "sgd"},  # the rate comes from the search
        {"preset": "dualoptim_cifar10_10"},
    ],
)
def test_the_rate_of_forget_steps_is_searched_where_they_have_their_own_optimizer(tmp_path, flags):
    plan = content(tmp_path)
    plan["stages"]["salun"]["flags"] |= flags
    found = search_of(make_plan(plan), "salun")
    assert found.ranges.keys() == {"unlearn_lr", "forget_lr"}
    run, _ = found.run_of({"unlearn_lr": 0.05, "forget_lr": 3e-4}, sweep.check)
    assert "--forget_lr=0.0003" in run.words


@pytest.mark.parametrize("flags", [{}, {"forget_optimizer": "same"}, {"preset": "salun_readme"}])
def test_the_rate_of_forget_steps_is_not_searched_where_one_optimizer_makes_all(tmp_path, flags):
    plan = content(tmp_path)
    plan["stages"]["salun"]["flags"] |= flags
    assert search_of(make_plan(plan), "salun").ranges.keys() == {"unlearn_lr"}


def test_dualoptim_s_own_rates_are_within_the_range_of_the_forget_steps():
    for name, method in METHODS.items():
        for preset, (values, *_) in presets_of(method).items():
            if rate := values.get("forget_lr"):
                found = method.__dataclass_fields__["forget_lr"].metadata["range"]
                assert found.low < rate < found.high, (name, preset)


@pytest.mark.parametrize("name", ["RL", "scrap", "retrain2"])
def test_what_cannot_be_searched_is_refused(tmp_path, name):
    with pytest.raises(UserError, match="--search"):
        search_of(make_plan(content(tmp_path)), name)  # RL stands in two stages


def test_oracle_gap_is_the_mean_of_four_gaps_to_the_mean_retrain(tmp_path):
    values = [
        {"UA": 5, "RA": 99, "TA": 90, "MIA": 10},
        {"UA": 4, "RA": 100, "TA": 92, "MIA": 20},
        {"UA": 6, "RA": 100, "TA": 90, "MIA": 22},
    ]
    files = [tmp_path / f"{i}.json" for i in range(3)]
    for file, metrics in zip(files, values, strict=True):
        file.write_text(json.dumps({"metrics": metrics}))
    assert oracle_gap_score(files[0], files[1:]) == pytest.approx((0 + 1 + 1 + 11) / 4)
    assert entropy_gap_score(files[0], files[1:]) is None  # results of before the attack
    for file, metrics, rate in zip(files, values, (80, 70, 76), strict=True):
        file.write_text(json.dumps({"metrics": metrics | {"MIA_entropy": rate}}))
    assert entropy_gap_score(files[0], files[1:]) == pytest.approx((0 + 1 + 1 + 7) / 4)


def test_a_search_by_the_answer_shows_both_gaps():
    found = {
        "search": "GA",
        "objective": "oracle_gap",
        "sampler": "grid",
        "budget": 2,
        "noise": 0.0,
        "ranges": {"a": None},
        "trials": [
            {"values": {"a": 1.0}, "objective": 1.5, "entropy_gap": gap, "run": "x"}
            for gap in (2.5, None)
        ],
    }
    text = as_markdown(found | {"best": found["trials"][0]})
    for words in (
        "oracle_gap 1.500, under the entropy MIA 2.500.",
        "| a | oracle_gap | entropy MIA | run |",
        "| 1.500 | 2.500 |",
        "| 1.500 | - |",
    ):
        assert words in text
    assert "entropy" not in as_markdown(
        {
            **found,
            "trials": [{"values": {"a": 1.0}, "objective": 1.5, "run": "x"}],
            "best": {"values": {"a": 1.0}, "objective": 1.5},
        }
    )


def test_sensitivity_covers_every_trial_once():
    trials = [
        {"values": {"a": float(i), "b": -float(i)}, "objective": float(i % 4)} for i in range(13)
    ]
    rows = sensitivity({"ranges": {"a": None, "b": None}, "trials": trials})
    assert len(rows) == 2 * search_table.LEVELS
    assert sum(int(row.split("|")[4]) for row in rows) == 2 * 13
    assert rows[0].split("|")[5:7] == [" 0.000 ", " 0.500 "]


def test_a_grid_leaves_what_others_are_at_for_later_and_what_failed_alone(monkeypatch):
    monkeypatch.setattr(samplers.time, "sleep", lambda seconds: None)
    tried = []

    def score(point, *, wait):
        assert not wait
        tried.append(point)
        if point == "held" and tried.count("held") < 3:
            raise samplers.Busy
        if point == "bad":
            raise RunFailed("x")

    try_grid(["held", "bad", "good"], score, lambda: True)
    assert tried == ["held", "bad", "good", "held", "held"]
    try_grid(["held", "bad", "good"], score, lambda: len(tried) < 6)
    assert len(tried) == 6  # ended with its launcher


def test_a_trial_is_judged_by_val_proxy_once(tmp_path, monkeypatch):
    judging = []
    monkeypatch.setattr(
        objectives, "val_proxy_score", lambda *where: judging.append(where) or (1.5, 0.2)
    )
    found = search_of(make_plan(content(tmp_path)), "GA")
    run, _ = found.run_of({"unlearn_lr": 0.001}, sweep.check)
    save_json({"metrics": {"RA": 97.5}}, tmp_path / run.name / run.result)
    for _ in range(2):
        trial = judge(run, tmp_path, {"unlearn_lr": 0.001}, "val_proxy", [])
        assert trial == {
            "values": {"unlearn_lr": 0.001},
            "objective": 1.5,
            "noise": 0.2,
            "run": run.name,
        }
    assert [(where[0].name, where[-1]) for where in judging] == [("GAcheckpoint.pth.tar", 97.5)]


@pytest.mark.parametrize("shared", [[], ["--workers", "1"]])
def test_val_proxy_without_validation_images_is_refused_before_anything_is_run(
    shared, tmp_path, capsys
):
    base = content(tmp_path)["base"] | {"val_fraction": 0}
    plan, words = tmp_path / "plan.json", ["--search", "GA", "--trials", "2"]
    plan.write_text(json.dumps(content(tmp_path / "runs", base=base)))
    assert sweep.main([str(plan), *words, *shared]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "val_proxy needs validation images" in line
    assert "has --val_fraction 0; take --objective oracle_gap" in line
    assert not (tmp_path / "runs").exists()


def test_val_proxy_of_an_original_without_validation_images_is_refused(tmp_path, monkeypatch):
    run, _ = search_of(make_plan(content(tmp_path)), "GA").run_of({}, sweep.check)
    original = SimpleNamespace(split={"val": torch.arange(1)})
    monkeypatch.setattr(objectives, "read_saved", lambda path, role: original)
    objectives.check_original(run)
    original.split["val"] = torch.arange(0)
    with pytest.raises(UserError, match=r"0model_SA_best.pth.tar was trained without; take"):
        objectives.check_original(run)


def test_workers_share_a_search(tmp_path, capsys):
    (tmp_path / "plan.json").write_text(
        json.dumps(content(tmp_path / "runs", base=content(tmp_path)["base"] | {"batch_size": 512}))
    )
    words = [str(tmp_path / "plan.json"), "--search", "GA", "--trials", "3", "--sampler", "grid"]
    assert sweep.main([*words, "--workers", "2"]) == 0
    shared = capsys.readouterr().out
    assert "RESULT search=GA val_proxy=" in shared
    records = [json.loads(file.read_text()) for file in (tmp_path / "runs").glob("*/*/run.json")]
    assert len(records) == 4  # the original and three trials
    assert all(
        len(record["starts"]) == 1 and "-" in record["starts"][0]["worker"] for record in records
    )  # by workers, each once
    logs = "".join(file.read_text() for file in (tmp_path / "runs/.workers").iterdir())
    table = json.loads((tmp_path / "runs/search/GA-val_proxy.json").read_text())
    assert all(f"{trial['objective']:.3f}" in logs for trial in table["trials"])
    assert sweep.main(words) == 0  # by this process alone: the same
    assert json.loads((tmp_path / "runs/search/GA-val_proxy.json").read_text()) == table


def test_a_search_that_is_none_starts_no_workers(tmp_path, capsys):
    (tmp_path / "plan.json").write_text(json.dumps(content(tmp_path / "runs")))
    assert sweep.main([str(tmp_path / "plan.json"), "--search", "retrain", "--workers", "2"]) == 2
    assert "declares no range" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_optuna_draws_from_every_kind_of_range(tmp_path):
    pytest.importorskip("optuna", reason="pip install -r requirements-search.txt")
    ranges = {
        "rate": Range(1e-4, 1),
        "share": Range(0.1, 0.9, log=False),
        "close": Range(0.8, 0.99999, rest=True),
    }
    points = []
    try_optuna(
        ranges, 30, tmp_path, "study", lambda point: points.append(point) or 0.0, lambda: True
    )
    assert len(points) == 30
    assert all(
        ranges[name].low <= value <= ranges[name].high
        for point in points
        for name, value in point.items()
    )
    assert (
        3 <= sum(point["close"] > 0.998 for point in points) <= 27
    )  # half of the range, in its scale


@pytest.mark.parametrize("sampler", ["grid", "optuna"])
def test_a_search_for_real_without_retrain_or_test(tmp_path, capsys, monkeypatch, sampler):
    if sampler == "optuna":
        pytest.importorskip("optuna", reason="pip install -r requirements-search.txt")
    seen = []
    monkeypatch.setattr(
        objectives,
        "predict",
        lambda model, loader: seen.append(loader.name) or engine.predict(model, loader),
    )
    (tmp_path / "plan.json").write_text(json.dumps(content(tmp_path / "runs")))
    words = [str(tmp_path / "plan.json"), "--search", "GA", "--trials", "2", "--sampler", sampler]
    assert sweep.main(words) == 0
    out = capsys.readouterr().out
    found = json.loads((tmp_path / "runs/search/GA-val_proxy.json").read_text())
    assert len(found["trials"]) == 2
    assert found["sampler"] == sampler
    assert f"RESULT search=GA val_proxy={found['best']['objective']:.4f}" in out
    assert found["best"]["objective"] == min(trial["objective"] for trial in found["trials"])
    # The original once for all trials, and of a trial what its result does not tell.
    assert Counter(seen) == {"forget": 2, "retain": 1, "val": 3}
    for trial in found["trials"]:
        checkpoint = tmp_path / "runs" / trial["run"] / "GAcheckpoint.pth.tar"
        original = next((tmp_path / "runs/original").rglob("0model_SA_best.pth.tar"))
        judged = val_proxy_score(checkpoint, original, "cpu", 0)
        assert judged == pytest.approx((trial["objective"], trial["noise"]), rel=1e-12)
    assert not (tmp_path / "runs/retrain").exists()
    runs = [file.read_text() for file in (tmp_path / "runs").glob("*/*/run.json")]
    assert sweep.main(words) == 0  # the same search again has nothing to do
    assert sorted(runs) == sorted(
        file.read_text() for file in (tmp_path / "runs").glob("*/*/run.json")
    )
    capsys.readouterr()
    if sampler == "grid":  # the same trials, judged by the answer
        assert sweep.main([*words, "--objective", "oracle_gap"]) == 0
        assert "looks at the answer" in capsys.readouterr().err
        text = (tmp_path / "runs/search/GA-oracle_gap.md").read_text()
        assert text.count("Warning") == text.count("under the entropy MIA") == 1
        assert len([*(tmp_path / "runs").glob("search-GA/*/run.json")]) == 2


def test_oracle_gap_refuses_retrains_of_several_kinds(tmp_path, capsys):
    plan = content(tmp_path / "runs")
    plan["stages"]["longer"] = {
        "script": "main_forget",
        "flags": {"unlearn": "retrain", "epochs": 2},
    }
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    words = [
        str(tmp_path / "plan.json"),
        "--search",
        "GA",
        "--trials",
        "2",
        "--sampler",
        "grid",
        "--objective",
        "oracle_gap",
    ]
    assert sweep.main(words) == 2
    assert "unlike Retrains are never pooled" in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("*result.json"))


def test_val_proxy_weights_validation_images_by_the_class_shares_of_forget(monkeypatch):
    """Losses that differ by class alone: with the classes' shares made equal nothing is to be
    found, AUC 1/2.
    """
    rng = np.random.default_rng(0)

    def outputs(counts):
        labels = np.repeat([0, 1], counts)
        logits = np.where(labels, 3.0, 0.5)[:, None] * np.eye(2)[labels] + rng.normal(
            0, 1e-3, (len(labels), 2)
        )
        return logits.astype(np.float32), labels

    splits = {
        "forget": outputs([900, 100]),
        "retain": outputs([100, 100]),
        "val": outputs([200, 800]),
    }
    saved = SimpleNamespace(arguments={"unlearn": "FT"}, forget=np.arange(3), sha256="0")
    chosen = SimpleNamespace(dropped_classes=())
    request = SimpleNamespace(check=lambda saved: None, chosen=chosen, data_sha256="1")
    monkeypatch.setattr(objectives, "read_saved", lambda path, role: saved)
    monkeypatch.setattr(objectives, "Subject", lambda *args, **kwargs: request)
    monkeypatch.setattr(objectives, "_outputs", lambda request, saved, names: splits)
    value, noise = val_proxy_score("a", "b", "cpu", 0)
    assert (
        value < 3
    )  # every image is classified rightly: what is left is 100 |AUC - 1/2|, 32 without weights
    assert noise > val_proxy_noise(1000, 1000)


@pytest.mark.parametrize(
    ("flags", "half"),
    [
        ({"unlearn": "FT"}, False),
        ({"unlearn": "scrub_r"}, True),
        ({"unlearn": "GA"}, False),
        ({"unlearn": "GA", "stop_below": 0.0}, False),
        ({"unlearn": "GA", "stop_below": 50.0}, True),
    ],
)
def test_a_method_that_learns_from_validation_is_judged_by_the_other_half(monkeypatch, flags, half):
    class Judged(Exception):
        pass

    def outputs(subject, saved, names):
        raise Judged(subject.loaders["val"])

    data = SimpleNamespace(validation_half=lambda number: f"half {number}")
    subject = SimpleNamespace(check=lambda saved: None, data=data, loaders={"val": "all"})
    saved = SimpleNamespace(arguments=flags)
    monkeypatch.setattr(objectives, "read_saved", lambda path, role: saved)
    monkeypatch.setattr(objectives, "Subject", lambda *args, **kwargs: subject)
    monkeypatch.setattr(objectives, "_outputs", outputs)
    with pytest.raises(Judged, match="half 1" if half else "all"):
        val_proxy_score("a", "b", "cpu", 0)
