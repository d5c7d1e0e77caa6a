"""Which value a flag has: typed, a preset's, the original's, the method's own, the parser's; and
what presets say of themselves.
"""

import dataclasses
import json

import pytest
from helpers import SETUP, call, forget, refused, result, settled

import main_forget
from arg_parser import recorded_flags
from stages.settings import LOOP, recipe_of_method
from unlearn import METHODS, method_table, presets_of, values_of
from unlearn.base import Iterative, Preset

ALL = [(name, preset) for name, method in METHODS.items() for preset in presets_of(method)]
RECORD = {
    "epochs": 12,
    "lr": 0.2,
    "batch_size": 64,
    "momentum": 0.8,
    "schedule": "cosine",
    "select": "best",
    "typed": [],
}


# --------------------------------------------------------------------------------------- precedence

LONG = {"unlearn_epochs": 50, "schedule": "cosine", "final_lr": 1e-4, "unlearn_lr": 0.01}
CASES = {
    "the method's own": (
        "FT",
        [],
        {
            "unlearn_epochs": 10,
            "unlearn_lr": 0.01,
            "momentum": 0.9,
            "batch_size": 256,
            "no_aug": False,
        },
    ),
    "another method's own": ("GA", [], {"unlearn_epochs": 5, "unlearn_lr": 1e-4}),
    "the method's above the parser's": (
        "neggrad_plus",
        [],
        {"momentum": 0.0, "weight_decay": 0.0, "no_aug": True},
    ),
    "typed above the method's": (
        "neggrad_plus",
        ["--momentum", 0.5, "--aug"],
        {"momentum": 0.5, "weight_decay": 0.0, "no_aug": False},
    ),
    "a preset above the method's": (
        "neggrad_plus",
        ["--preset", "rum"],
        {"momentum": 0.9, "weight_decay": 5e-4, "retain_share": 0.9999},
    ),
    "typed above a preset": (
        "neggrad_plus",
        ["--preset", "rum", "--momentum", 0.5],
        {"momentum": 0.5, "weight_decay": 5e-4},
    ),
    "a preset for the loop": ("FT", ["--preset", "long_budget"], LONG),
    "typed above a preset for the loop": (
        "FT",
        ["--preset", "long_budget", "--unlearn_lr", 0.05],
        LONG | {"unlearn_lr": 0.05},
    ),
    "not the method's epochs": (
        "FT",
        ["--preset", "long_budget", "--epochs", 3, "--lr", 0.3],
        LONG,
    ),
    "not without a preset either": (
        "FT",
        ["--epochs", 3, "--lr", 0.3],
        {"unlearn_epochs": 10, "unlearn_lr": 0.01},
    ),
    "typed as the parser's default": (
        "GA",
        ["--unlearn_lr", 0.01],
        {"unlearn_lr": 0.01, "unlearn_epochs": 5},
    ),
    "a quarter of the batch": ("scrub", [], {"batch_size": 128, "forget_batch_size": 32}),
    "a quarter of a typed batch": (
        "scrub",
        ["--batch_size", 64],
        {"batch_size": 64, "forget_batch_size": 16},
    ),
    "a typed forget batch": (
        "scrub",
        ["--forget_batch_size", 7],
        {"batch_size": 128, "forget_batch_size": 7},
    ),
    "a preset's batches": (
        "scrub",
        ["--preset", "scrub_small"],
        {"batch_size": 32, "forget_batch_size": 64, "decreasing_lr": (3, 5, 9)},
    ),
    "a preset's forget batch": (
        "scrub",
        ["--preset", "scrub_small", "--batch_size", 8],
        {"batch_size": 8, "forget_batch_size": 64},
    ),
    "a schedule above a preset's": (
        "scrub",
        ["--preset", "scrub_small", "--schedule", "cosine"],
        {"decreasing_lr": None},
    ),
    "a schedule below which a preset's end is none": (
        "FT",
        ["--preset", "long_budget", "--schedule", "constant"],
        {"final_lr": 0.0},
    ),
    "retrain as its original": (
        "retrain",
        [],
        {
            "unlearn_epochs": 12,
            "unlearn_lr": 0.2,
            "batch_size": 64,
            "momentum": 0.8,
            "schedule": "cosine",
        },
    ),
    "typed above the original's": (
        "retrain",
        ["--unlearn_epochs", 4, "--momentum", 0.5],
        {"unlearn_epochs": 4, "momentum": 0.5},
    ),
    "training's flag above the original's": (
        "retrain",
        ["--epochs", 3, "--lr", 0.3],
        {"unlearn_epochs": 3, "unlearn_lr": 0.3},
    ),
    "unlearning's above training's": (
        "retrain",
        ["--epochs", 3, "--unlearn_epochs", 4],
        {"unlearn_epochs": 4, "unlearn_lr": 0.2},
    ),
    "a preset above the original's": (
        "retrain",
        ["--preset", "short"],
        {"unlearn_epochs": 2, "momentum": 0.0, "unlearn_lr": 0.2, "batch_size": 64},
    ),
    "training's flag above a preset": (
        "retrain",
        ["--preset", "short", "--epochs", 3],
        {"unlearn_epochs": 3, "momentum": 0.0},
    ),
    "unlearning's above all": (
        "retrain",
        ["--preset", "short", "--epochs", 3, "--unlearn_epochs", 4],
        {"unlearn_epochs": 4},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_precedence(case, monkeypatch):
    """Every method but retrain is given the original's record too, and takes nothing from it."""
    monkeypatch.setattr(
        METHODS["retrain"],
        "presets",
        {"short": Preset({"unlearn_epochs": 2, "momentum": 0.0}, "test")},
    )
    method, words, wanted = CASES[case]
    args, _ = settled("--unlearn", method, *words, arguments=RECORD)
    assert {name: getattr(args, name) for name in wanted} == wanted


def test_what_was_taken_from_the_original_is_said_and_nothing_else(monkeypatch):
    monkeypatch.setattr(
        METHODS["retrain"], "presets", {"short": Preset({"schedule": "constant"}, "test")}
    )
    words = ["--unlearn", "retrain", "--preset", "short", "--epochs", "3", "--momentum", "0.5"]
    assert settled(*words, arguments=RECORD)[1] == {
        "unlearn_lr": 0.2,
        "batch_size": 64,
        "select": "best",
    }
    assert settled("--unlearn", "FT", arguments=RECORD)[1] == {}


def test_a_configuration_file_counts_as_typed(tmp_path):
    (tmp_path / "run.toml").write_text(
        'unlearn = "FT"\npreset = "long_budget"\nunlearn_lr = 0.07\n'
    )
    assert settled("--config", tmp_path / "run.toml")[0].unlearn_lr == 0.07
    assert settled("--config", tmp_path / "run.toml")[0].unlearn_epochs == 50
    assert settled("--config", tmp_path / "run.toml", "--preset", "paper")[0].unlearn_epochs == 10


def test_without_a_record_retrain_has_its_own_values():
    args, _ = settled("--unlearn", "retrain")
    assert (args.unlearn_epochs, args.unlearn_lr, args.batch_size, args.schedule) == (
        182,
        0.1,
        256,
        None,
    )


# ------------------------------------------------------------------------------------- every preset


@pytest.mark.parametrize(("name", "preset"), ALL)
def test_a_preset_is_of_flags_that_parse_and_make_the_method(name, preset):
    method = METHODS[name]
    values, source, _ = presets_of(method)[preset]
    assert source.strip()
    assert values.keys() <= {field.name for field in dataclasses.fields(method)} | {*LOOP}
    if not issubclass(method, Iterative):
        assert not values.keys() & {*LOOP}
    whole = values_of(method, Preset(values, source))
    assert recorded_flags(whole) == whole
    args, _ = settled("--unlearn", name, "--preset", preset, "--dataset", "digits")
    assert {key: getattr(args, key) for key in whole} == whole
    made = method(**{field.name: getattr(args, field.name) for field in dataclasses.fields(method)})
    recipe_of_method(args, made, "fp32")


def test_a_method_that_is_built_on_another_does_not_claim_its_presets():
    """Nobody ran GA under an l1 penalty because somebody ran GA."""
    for name, base in [
        ("GA_l1", "GA"),
        ("GA_prune", "GA"),
        ("GA_prune_bi", "GA"),
        ("FT_prune_bi", "FT"),
    ]:
        assert issubclass(METHODS[name], METHODS[base])
        assert len(presets_of(METHODS[base])) > 1
        assert not presets_of(METHODS[base]).keys() & presets_of(METHODS[name]).keys() - {"paper"}
    assert presets_of(METHODS["scrub_r"]).keys() == presets_of(METHODS["scrub"]).keys()


@pytest.mark.parametrize("name", ["FT", "FT_l1", "FT_prune", "neggrad_plus", "not"])
def test_the_long_budget_is_fifty_epochs_under_a_cosine(name):
    args, _ = settled("--unlearn", name, "--preset", "long_budget")
    assert (args.unlearn_epochs, args.schedule, args.final_lr) == (50, "cosine", 1e-4)
    assert 0.01 <= args.unlearn_lr <= 0.1
    assert (args.momentum, args.weight_decay, args.no_aug) == (0.9, 5e-4, False)


def test_the_table_says_what_the_defaults_are_and_where_from():
    rows = {row.split("`")[1]: row for row in method_table().splitlines()[2:]}
    assert "unlearn_epochs 10, unlearn_lr 0.01 (the reference's README" in rows["FT"]
    for said in (
        "unlearn_lr 0.0005",
        "msteps 2",
        "no_aug True",
        "batch_size 128",
        "forget_batch_size 0.25 batch_size",
    ):
        assert said in rows["scrub"]
    assert "momentum 0.0" in rows["neggrad_plus"]
    assert "optimizer" not in rows["FT"]
    for name, method in METHODS.items():
        assert f"({method.source})" in rows[name] or not dataclasses.fields(method)


# -------------------------------------------------------------------------------------- the scripts


def test_all_presets_are_listed_with_their_sources(capsys):
    with pytest.raises(SystemExit) as ended:
        main_forget.main(["--preset", "list"])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    for name, preset in ALL:
        (line,) = (each for each in lines if each.startswith(f"| `{name}` | `{preset}` |"))
        assert presets_of(METHODS[name])[preset].source in line
    (line,) = (each for each in lines if each.startswith("| `scrub` | `scrub_small` |"))
    assert "optimizer adam" in line


def test_an_unknown_preset_is_refused_with_the_names(tmp_path, capsys):
    code = main_forget.main(["--unlearn", "FT", "--preset", "nope", "--save_dir", str(tmp_path)])
    refused(capsys, code, "--preset nope", *presets_of(METHODS["FT"]))
    code = main_forget.main(
        ["--unlearn", "GA", "--preset", "long_budget", "--save_dir", str(tmp_path)]
    )
    refused(capsys, code, "--preset long_budget", *presets_of(METHODS["GA"]))


def test_a_run_records_its_preset_and_the_values_in_force(original, tmp_path):
    assert (
        forget(
            original, tmp_path, "--unlearn", "FT", "--preset", "long_budget", "--unlearn_epochs", 1
        )
        == 0
    )
    found = result(tmp_path, "FT")
    assert found["preset"] == "long_budget"
    assert {"unlearn_epochs": 1, "unlearn_lr": 0.01}.items() <= found["hyperparameters"].items()
    assert {"schedule": "cosine", "final_lr": 1e-4, "batch_size": 64}.items() <= found[
        "recipe"
    ].items()
    (line,) = (tmp_path / "FTcurve.jsonl").read_text().splitlines()
    assert 1e-4 < json.loads(line)["lr"] < 1e-3  # the cosine's end


def test_a_run_of_scrub_says_and_records_its_two_batch_sizes(original, tmp_path, capsys):
    few = [
        "--num_indexes_to_replace",
        "130",
        "--model_path",
        original,
        "--save_dir",
        tmp_path,
        "--unlearn_epochs",
        "1",
    ]
    assert call(main_forget.main, *SETUP[:-2], "--unlearn", "scrub", *few) == 0
    assert "batches of 32 forget images and of 128 retain images" in capsys.readouterr().out
    found = result(tmp_path, "scrub")
    assert (found["preset"], found["recipe"]["augment"]) == ("paper", False)
    assert (found["recipe"]["batch_size"], found["recipe"]["forget_batch_size"]) == (128, 32)
    assert call(main_forget.main, *SETUP[:-2], "--unlearn", "neggrad_plus", *few, "--dry_run") == 0
    assert "batches of" not in capsys.readouterr().out
