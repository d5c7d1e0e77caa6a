"""The plan of every method, and what benchmarks/methods.py makes of it."""

from pathlib import Path

import pytest

import sweep
from benchmarks import methods
from sweeping.expansion import expand
from sweeping.plan import make_plan
from sweeping.search import search_of
from unlearn import METHODS

BASELINES = {"FT", "FT_prune", "neggrad_plus", "not"}
ALIASES = {"FT_l1"}  # another name of FT_prune


@pytest.fixture(params=methods.KINDS)
def content(request, tmp_path):
    return methods.content_of(methods.PLAN, request.param, tmp_path)


def runs_of(content):
    return expand(make_plan(content), sweep.check)


def test_every_method_runs_on_every_forget_set_beside_a_retrain_of_it(content):
    seeds = {}
    for run in runs_of(content):
        if run.script in ("main_forget", "main_random") and run.stage != "one_set":
            seeds.setdefault((run.stage, run.settings["unlearn"]), []).append(run.seed)
    assert {name for _, name in seeds} == METHODS.keys() - ALIASES
    assert all(each == [2, 3, 4, 5, 6] for each in seeds.values())
    assert {name for stage, name in seeds if stage.startswith("long_")} == BASELINES


def test_the_report_reads_all_but_the_retrains_of_one_set(content):
    runs = runs_of(content)
    read = {word for run in runs if run.stage == "report" for word in run.words}
    for run in runs:
        if run.script in ("main_forget", "main_random"):
            folder = str(Path(content["folder"]) / run.name)
            assert (folder in read) == (run.stage != "one_set")


def test_a_search_sees_neither_a_forget_set_of_the_table_nor_another_entry(content, monkeypatch):
    """Each entry is searched by a plan in which its name means it alone, and takes the values."""
    searched = []

    def search(plan, request, check):
        found = methods_search(plan, request.name)
        searched.append((request.name, request.trials, found.plan.base, found.plan.seeds))
        return {"best": {"values": {flag: each.at(0.5) for flag, each in found.ranges.items()}}}

    methods_search = search_of
    monkeypatch.setattr(methods, "run_search", search)
    chosen = methods.with_choices(content)
    names = [name for name, *_ in searched]
    assert len(set(names)) == len(names) == len(METHODS) - 3 + 7  # not raw, Retrain, the alias
    for _, trials, base, seeds in searched:
        assert (trials, seeds) == (4, (2,))
        assert (base["forget"], base["forget_seed"]) in [("random:10%", 7), ("class:5", 7)]
    rates = {run.settings.get("forget_lr") for run in runs_of(chosen)}
    assert any(rate and rate not in (1.3e-4, 1e-4) for rate in rates)


def test_what_no_trial_of_ended_well_keeps_the_recipe_s_values(content, monkeypatch, capsys):
    def search(plan, request, check):
        raise methods.RunFailed(f"no trial of {request.name} ended well")

    monkeypatch.setattr(methods, "run_search", search)
    assert runs_of(methods.with_choices(content)) == runs_of(content)
    assert "munba keeps the values of the recipe" in capsys.readouterr().err


def test_another_plan_is_searched_and_run_as_one_request(tmp_path, monkeypatch):
    """The table of CIFAR-10: each method but raw is searched, on 10,000 images."""
    searched = []

    def search(plan, request, check):
        found = search_of(plan, request.name)
        searched.append(request.name)
        assert (found.plan.base["forget_seed"], found.plan.base["retain_fraction"]) == (7, 0.136)
        expand(found.plan, check)
        raise methods.RunFailed("none")

    monkeypatch.setattr(methods, "run_search", search)
    monkeypatch.setattr(methods, "work", lambda runs, folder, worker: ran.extend(runs))
    ran = []
    plan = methods.ROOT / "recipes" / "cifar10_cpu.toml"
    assert methods.main(["--plan", str(plan), "--folder", str(tmp_path)]) == 1  # nothing is done
    assert len(set(searched)) == len(searched) == 9
    assert len(ran) == 31
    assert (tmp_path / "table.json").exists()
