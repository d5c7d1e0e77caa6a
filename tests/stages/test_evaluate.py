"""evaluate.py from checkpoints to audit.json, on the smallest real data."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import call, patch_stages

import evaluate
import main_forget
import main_random
import main_train
import report
from evaluation.accuracy import measured_error
from evaluation.definition import PERCENT, Definition
from evaluation.metrics import DEFINITIONS, define, definition_table
from evaluation.verdicts import verdict_of
from stages import audit as audit_stage
from stages import outputs
from stages import saved as saved_models
from stages.saved import mask_made_by
from stages.shadows import Pool, draw_pool, positions_of
from utils import UserError

SMALL = [
    "--dataset",
    "digits",
    "--arch",
    "resnet20s",
    "--batch_size",
    "128",
    "--device",
    "cpu",
    "--precision",
    "fp32",
]
FORGET = [
    "--num_indexes_to_replace",
    "60",
    "--forget_seed",
    "2",
    "--batch_size",
    "128",
    "--device",
    "cpu",
    "--precision",
    "fp32",
]


def run(main, *argv):
    assert main([str(word) for word in argv]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """An original, three Retrains, two FT runs and a GA run of one forget set; two runs of a
    forgotten class.
    """
    root = tmp_path_factory.mktemp("runs")
    original = root / "0model_SA_best.pth.tar"
    run(main_train.main, *SMALL, "--epochs", 3, "--save_dir", root)
    for seed in (2, 3, 4):
        run(
            main_forget.main,
            *SMALL,
            *FORGET,
            "--unlearn",
            "retrain",
            "--epochs",
            3,
            "--seed",
            seed,
            "--save_dir",
            root / f"seed{seed}",
        )
    for seed in (2, 3):
        FT = [
            "--unlearn",
            "FT",
            "--unlearn_epochs",
            1,
            "--seed",
            seed,
            "--save_dir",
            root / f"seed{seed}",
        ]
        run(main_forget.main, *FORGET, "--model_path", original, *FT)
    run(
        main_forget.main,
        *FORGET,
        "--model_path",
        original,
        "--unlearn",
        "raw",
        "--save_dir",
        root / "seed2",
    )
    a_class = ["--class_to_replace", 3, "--device", "cpu", "--batch_size", 128]
    run(
        main_forget.main,
        *a_class,
        "--model_path",
        original,
        "--unlearn",
        "FT",
        "--unlearn_epochs",
        1,
        "--save_dir",
        root / "class",
    )
    run(
        main_forget.main,
        *SMALL,
        *a_class,
        "--unlearn",
        "retrain",
        "--epochs",
        2,
        "--save_dir",
        root / "class",
    )
    return root


def audit(
    runs,
    tmp_path,
    *argv,
    models="seed*/FTcheckpoint.pth.tar",
    retrain="seed*/retraincheckpoint.pth.tar",
):
    words = ["--models", str(runs / models), "--save_dir", tmp_path, "--device", "cpu", *argv]
    if retrain:
        words += ["--retrain", str(runs / retrain), "--original", runs / "0model_SA_best.pth.tar"]
    run(evaluate.main, *words, "--overwrite")
    return json.loads((tmp_path / "audit.json").read_text(), parse_constant=pytest.fail)


@pytest.fixture(scope="module")
def standard(runs, tmp_path_factory):
    return audit(
        runs,
        tmp_path_factory.mktemp("audit"),
        "--suite",
        "standard",
        "--relearn_steps",
        2,
        "--relearn_seeds",
        2,
    )


def test_metrics_from_cached_logits_are_those_of_the_run_itself(runs, standard):
    """Bit for bit what main_forget measured on the live model, with the same members of the
    attack.
    """
    for model in standard["models"]:
        if model["role"] == "original":
            continue
        result = json.loads(
            Path(model["path"].replace("checkpoint.pth.tar", "result.json")).read_text()
        )
        assert model["weights_sha256"] == result["provenance"]["unlearned_sha256"]
        for name in ("UA", "RA", "TA", "VA"):
            assert model["metrics"][name] == result["metrics"][name]
        for feature, share in result["metrics"]["SVC_MIA"].items():
            assert model["metrics"][f"svc_{feature}_tnr"] == pytest.approx(share, abs=1e-9)
        assert 100 * model["metrics"]["lr_entropy_member_rate"] == result["metrics"]["MIA_entropy"]


def test_the_audit_and_the_report_have_one_average_gap(runs, standard, capsys):
    """From results of the scripts and from saved models: the same four numbers, the same draws."""
    argv = [str(runs / name) for name in ("seed2", "seed3", "seed4")]
    run(report.main, *argv, "--format", "json")
    (table,) = json.loads(capsys.readouterr().out)
    mine = {row["name"]: row["avg_gap"] for row in table["rows"]}
    theirs = {row["label"]: row["gap_of_means"] for row in standard["rows"]}
    assert mine["FT"] == pytest.approx(theirs["FT"], abs=1e-9)
    assert mine["FT"] > 0


def test_a_model_that_is_given_twice_is_named_with_both_flags(runs, tmp_path, capsys):
    retrain, original = runs / "seed2/retraincheckpoint.pth.tar", runs / "0model_SA_best.pth.tar"
    words = ["--device", "cpu", "--save_dir", tmp_path, "--models", retrain]
    capsys.readouterr()
    assert call(evaluate.main, *words, "--retrain", retrain) == 2
    assert f"{retrain} is also given as --retrain; drop it from one" in capsys.readouterr().err
    assert call(evaluate.main, *words[:-1], original, "--original", original) == 2
    assert f"{original} is also given as --original;" in capsys.readouterr().err
    assert call(evaluate.main, *words[:-1], original) == 2
    assert "names no unlearned model" in capsys.readouterr().err


def test_flags_that_an_audit_does_not_read_are_named(runs, tmp_path, capsys):
    file = runs / "seed2/FTcheckpoint.pth.tar"
    words = ["--device", "cpu", "--save_dir", tmp_path, "--overwrite", "--models"]
    unread = ["--arch", "gone.py:net", "--shadows", 8, "--relearn_steps", 3]
    capsys.readouterr()
    run(evaluate.main, *words, f"a={file}", *unread)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "does not read" in line] == [
        "warning: evaluate does not read --arch gone.py:net: the models say themselves that they"
        " are of resnet20s",
        f"warning: evaluate does not read the name of a={file}: it says itself that it is of FT",
        "warning: --suite basic does not read --relearn_steps, --shadows",
    ]
    audit = json.loads((tmp_path / "audit.json").read_text())
    assert [model["label"] for model in audit["models"]] == ["FT"]
    run(evaluate.main, *words, file)
    assert "does not read" not in capsys.readouterr().err
    retrain = ["--retrain", runs / "seed*/retraincheckpoint.pth.tar", "--suite", "standard"]
    run(evaluate.main, *words, file, *retrain, "--relearn_steps", 2, "--shadows", 8)
    assert "warning: --suite standard does not read --shadows\n" in capsys.readouterr().err


def test_the_order_of_the_models_changes_no_number(runs, tmp_path):
    """Neither does the seed of the model that comes first."""
    files = [runs / f"seed{seed}/FTcheckpoint.pth.tar" for seed in (2, 3)] + [
        runs / "seed2/rawcheckpoint.pth.tar"
    ]
    retrain = [runs / f"seed{seed}/retraincheckpoint.pth.tar" for seed in (2, 3, 4)]
    found = []
    for order in (slice(None), slice(None, None, -1)):
        words = [
            "--models",
            *files[order],
            "--retrain",
            *retrain[order],
            "--save_dir",
            tmp_path,
            "--device",
            "cpu",
        ]
        run(evaluate.main, *words, "--overwrite")
        found.append(json.loads((tmp_path / "audit.json").read_text()))
    ours, other = (
        {model["path"]: (model["metrics"], model["intervals"]) for model in each["models"]}
        for each in found
    )
    assert ours == other
    gaps, others = (
        {row["label"]: row.get("gap_of_means") for row in each["rows"]} for each in found
    )
    assert gaps == pytest.approx(others)
    assert found[0]["attack"] == found[1]["attack"]


def test_the_members_of_the_audits_attack_are_those_that_were_asked_for(runs, tmp_path, capsys):
    first = audit(
        runs, tmp_path, "--mia_members", "first", models="seed2/FTcheckpoint.pth.tar", retrain=None
    )
    assert (first["attack"]["members"], first["attack"]["draws"]) == ("first", 1)
    assert "one draw (first)" in capsys.readouterr().out
    balanced = audit(runs, tmp_path, models="seed2/FTcheckpoint.pth.tar", retrain=None)
    recorded = json.loads((runs / "seed2/FTresult.json").read_text())["attack"]
    assert balanced["attack"] == {name: value for name, value in recorded.items() if name != "MIA"}
    assert "the mean of 10 draws" in capsys.readouterr().out
    argv = [
        "--model_path",
        runs / "0model_SA_best.pth.tar",
        "--unlearn",
        "FT",
        "--unlearn_epochs",
        1,
        "--seed",
        2,
        "--save_dir",
        tmp_path,
    ]
    run(main_forget.main, *FORGET, *argv, "--mia_members", "first")
    wanted = json.loads((tmp_path / "FTresult.json").read_text())["metrics"]["SVC_MIA"]
    assert {
        name: first["models"][0]["metrics"][f"svc_{name}_tnr"] for name in wanted
    } == pytest.approx(wanted, abs=1e-9)


def test_rows_are_configurations_over_seeds(standard):
    assert [(row["label"], row["role"], len(row["models"])) for row in standard["rows"]] == [
        ("FT", "models", 2),
        ("Retrain", "retrain", 3),
        ("Original", "original", 1),
    ]
    for row in standard["rows"]:
        mine = [standard["models"][i]["metrics"]["UA"] for i in row["models"]]
        assert row["mean"]["UA"] == pytest.approx(np.mean(mine))
        assert all(
            standard["models"][i]["row"] == standard["rows"].index(row) for i in row["models"]
        )


def test_retrain_is_at_no_distance_from_itself_on_average_and_has_floors(standard):
    retrain = next(row for row in standard["rows"] if row["role"] == "retrain")
    assert retrain["gap_of_means"] == 0
    assert all(retrain["inside_noise"].values())
    assert standard["floors"]["UA"] > 0
    assert standard["floors"]["mean_paired_gap"] > 0


def test_every_metric_of_a_standard_audit_is_defined(standard):
    for row in standard["rows"]:
        for name in row["mean"]:
            assert standard["metrics"][name]["text"] == define(name).text


def test_one_definition_adds_a_metric_to_the_audit_the_report_and_the_documentation(
    runs, tmp_path, monkeypatch, capsys
):
    toy = Definition(
        PERCENT,
        source="100 - RA",
        text="100 - RA, a toy",
        group="accuracy",
        measure=lambda splits: measured_error(splits["retain"]),
    )
    monkeypatch.setitem(DEFINITIONS, "toy", toy)
    found = audit(runs, tmp_path, "--suite", "basic")
    for model in found["models"]:
        low, high = model["intervals"]["toy"]
        assert low <= model["metrics"]["toy"] <= high
        assert model["metrics"]["toy"] == pytest.approx(100 - model["metrics"]["RA"])
    (row,) = [row for row in found["rows"] if row["label"] == "FT"]
    assert row["mean"]["toy"] == pytest.approx(100 - row["mean"]["RA"])
    assert row["gap"]["toy"] == pytest.approx(-row["gap"]["RA"])
    assert all("toy" in row[kind] for kind in ("sd", "ci", "inside_noise"))
    assert found["floors"]["toy"] == pytest.approx(found["floors"]["RA"])
    capsys.readouterr()
    assert report.main([str(tmp_path), "--format", "json"]) == 0
    (table,) = json.loads(capsys.readouterr().out)
    (shown,) = table["audits"]
    assert shown["metrics"]["toy"] == {"unit": "percent", "good": "retrain", "text": toy.text}
    (line,) = [row for row in shown["rows"] if row["label"] == "FT"]
    assert line["mean"]["toy"] == row["mean"]["toy"]
    assert "| accuracy | `toy` | 100 - RA, a toy | percent, 0 to 100 |" in definition_table()


def test_the_original_needs_no_steps_to_know_again_what_it_knows(standard):
    original = next(row for row in standard["rows"] if row["role"] == "original")
    assert original["mean"]["relearn_steps"] == 0
    for model in standard["models"]:
        curve = model["curves"]["relearn"]
        assert curve["steps"] == [0, 1, 2]
        assert len(curve["accuracy"]) == len(curve["sd"]) == len(curve["never_seen"]) == 3
        assert curve["accuracy"][0] == pytest.approx(100 - model["metrics"]["UA"])
        assert curve["accuracy"][-1] == pytest.approx(model["metrics"]["relearn_accuracy"])


def test_a_second_audit_asks_no_model(runs, standard, tmp_path, monkeypatch):
    """Everything comes from the cache, and to the same numbers."""
    for name in ("predict", "train_epoch", "build_model"):
        patch_stages(monkeypatch, name, lambda *args, **kwargs: pytest.fail("a model was run"))
    again = audit(runs, tmp_path, "--suite", "standard", "--relearn_steps", 2, "--relearn_seeds", 2)
    assert again["models"] == standard["models"]
    assert again["rows"] == standard["rows"]


def test_a_damaged_cache_file_is_made_again(runs, standard, tmp_path, capsys):
    file = sorted((runs / "seed2" / "logits").glob("forget-*.npz"))[0]
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"", b"no zip at all"):
        file.write_bytes(damage)
        again = audit(runs, tmp_path)
        assert f"{file} is damaged" in capsys.readouterr().err
        metrics = standard["models"][0]["metrics"]
        assert again["models"][0]["metrics"] == {
            name: metrics[name] for name in again["models"][0]["metrics"]
        }
        with np.load(file) as arrays:
            assert arrays["logits"].dtype == np.float32


def test_a_forgotten_class_has_a_split_of_its_own(runs, tmp_path):
    found = audit(
        runs,
        tmp_path,
        models="class/FTcheckpoint.pth.tar",
        retrain="class/retraincheckpoint.pth.tar",
    )
    assert found["data"]["scenario"] == "class"
    assert found["data"]["sizes"]["test_forgotten"] > 10
    retrain = next(row for row in found["rows"] if row["role"] == "retrain")
    assert retrain["mean"]["forgotten_class_accuracy"] == 0
    assert retrain["mean"]["UA"] == 100
    assert "one Retrain model" in found["warnings"][0]


def test_alarms(runs, tmp_path):
    """Doing nothing is named as that, but not of the original; no Retrain is said to be missing; a
    destroyed model is called destroyed.
    """
    found = audit(runs, tmp_path, models="seed2/rawcheckpoint.pth.tar")
    assert not any(map(verdict_of, found["rows"][0]["warnings"]))
    found = audit(runs, tmp_path, retrain=None)
    assert "no Retrain" in found["warnings"][0]
    idle = runs / "idle" / "FTcheckpoint.pth.tar"
    idle.parent.mkdir(exist_ok=True)
    content = torch.load(runs / "seed2" / "FTcheckpoint.pth.tar", weights_only=True)
    content["state_dict"] = torch.load(runs / "0model_SA_best.pth.tar", weights_only=True)[
        "state_dict"
    ]
    content["state_dict"]["fc.bias"] += 1e-4  # all logits alike
    torch.save(content, idle)
    found = audit(runs, tmp_path, models="idle/FTcheckpoint.pth.tar")
    assert found["rows"][0]["warnings"][0].startswith("changed nothing: ")
    shutil.rmtree(idle.parent)
    broken = runs / "broken" / "FTcheckpoint.pth.tar"
    broken.parent.mkdir(exist_ok=True)
    content = torch.load(runs / "seed2" / "FTcheckpoint.pth.tar", weights_only=True)
    last = list(content["state_dict"])[-2:]
    assert content["state_dict"][last[1]].shape == (10,)
    content["state_dict"] |= {
        name: torch.zeros_like(content["state_dict"][name]) for name in last
    }  # one answer for all images
    torch.save(content, broken)
    found = audit(runs, tmp_path, models="broken/FTcheckpoint.pth.tar")
    assert any(warning.startswith("destroyed: RA") for warning in found["rows"][0]["warnings"])
    shutil.rmtree(broken.parent)


def test_a_pattern_that_also_names_the_original_leaves_it_out(runs, tmp_path, capsys):
    for name in ("0checkpoint.pth.tar", "FTcheckpoint.pth.tar"):
        shutil.copy(runs / ("" if name[0] == "0" else "seed2") / name, tmp_path / name)
    run(evaluate.main, "--models", tmp_path / "*checkpoint.pth.tar", "--device", "cpu")
    found = json.loads((tmp_path / "audit.json").read_text())
    assert [row["label"] for row in found["rows"]] == ["FT"]
    assert "0checkpoint.pth.tar forgot nothing and is left out" in capsys.readouterr().out


def refused(capsys, *argv):
    assert evaluate.main([str(word) for word in argv]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def test_unlike_retrains_are_refused_and_reference_chooses(runs, tmp_path, capsys):
    """Other epochs, or a part of the retain set: never pooled. What is no reference is a row of its
    own.
    """
    other, part = tmp_path / "other", tmp_path / "part"
    run(
        main_forget.main,
        *SMALL,
        *FORGET,
        "--unlearn",
        "retrain",
        "--epochs",
        1,
        "--save_dir",
        other,
    )
    run(
        main_forget.main,
        *SMALL,
        *FORGET,
        "--unlearn",
        "retrain",
        "--epochs",
        3,
        "--retain_fraction",
        0.5,
        "--save_dir",
        part,
    )
    whole, other, part = (
        runs / "seed*/retraincheckpoint.pth.tar",
        other / "retraincheckpoint.pth.tar",
        part / "retraincheckpoint.pth.tar",
    )
    command = [
        "--models",
        runs / "seed2/FTcheckpoint.pth.tar",
        "--device",
        "cpu",
        "--save_dir",
        tmp_path,
        "--retrain",
        whole,
    ]

    def gaps(*more):
        capsys.readouterr()
        run(evaluate.main, *command, *more, "--overwrite")
        rows = json.loads((tmp_path / "audit.json").read_text())["rows"]
        return {
            row["label"]: (row["role"], len(row["models"]), row["gap"]["RA"]) for row in rows
        }, capsys.readouterr().out

    alone, _ = gaps()
    message = refused(capsys, *command, other)
    assert "2 kinds of Retrain" in message
    assert "unlearn_epochs 3" in message
    assert "(3 runs)" in message
    assert "unlearn_epochs 1" in message
    assert "--reference" in message
    chosen, printed = gaps(other, "--reference", "unlearn_epochs 3")
    (name,) = (label for label, (role, _, _) in chosen.items() if role == "retrain")
    assert chosen["FT"] == alone["FT"]
    assert chosen[name] == ("retrain", 3, 0)
    assert f"gaps are to {name}" in printed
    assert {role: count for role, count, _ in chosen.values()} == {
        "models": 1,
        "retrain": 3,
        "unlike": 1,
    }
    beside, _ = gaps(part)
    assert beside["FT"] == alone["FT"]
    assert beside["Retrain (retain_fraction 0.5)"][:2] == ("unlike", 1)
    assert beside["Retrain"][:2] == ("retrain", 3)
    only = [*command[:-1], part, "--suite", "standard"]
    assert "give --retrain" in refused(capsys, *only)


def test_a_masked_retrain_is_a_row_of_its_own_and_no_reference(runs, capsys):
    """By records made up from one of a run."""
    saved = saved_models.read_saved(runs / "seed2/retraincheckpoint.pth.tar", "retrain")
    masked = dataclasses.replace(saved, mask=["with_0.5.pt", None], label="Retrain+mask")
    found = saved_models.with_reference([saved, masked, saved], None)
    assert [(each.role, each.label) for each in found] == [
        ("retrain", "Retrain"),
        ("unlike", "Retrain+mask"),
        ("retrain", "Retrain"),
    ]
    assert found[0].key == found[2].key != found[1].key
    assert "gaps are to Retrain; a row of its own: Retrain+mask" in capsys.readouterr().out
    assert saved_models.with_reference([masked], None)[0].role == "unlike"
    with pytest.raises(UserError, match="does not name one kind"):
        saved_models.with_reference([masked], "Retrain")


def test_an_older_retrain_pools_with_a_newer_one(runs, tmp_path):
    """One that lacks what is recorded today is no other kind."""
    content = torch.load(runs / "seed2/retraincheckpoint.pth.tar", weights_only=True)
    for name in ("tail", "final_lr", "select", "label_smoothing"):
        del content["identity"][name]
    torch.save(content, tmp_path / "old.pth.tar")
    words = [
        "--models",
        runs / "seed2/FTcheckpoint.pth.tar",
        "--device",
        "cpu",
        "--save_dir",
        tmp_path,
    ]
    run(
        evaluate.main,
        *words,
        "--retrain",
        tmp_path / "old.pth.tar",
        runs / "seed3/retraincheckpoint.pth.tar",
    )
    rows = json.loads((tmp_path / "audit.json").read_text())["rows"]
    assert [(row["label"], row["role"], len(row["models"])) for row in rows] == [
        ("FT", "models", 1),
        ("Retrain", "retrain", 2),
    ]


def test_an_audit_that_is_there_is_kept_resumed_or_replaced(runs, tmp_path, capsys):
    words = ["--models", runs / "seed2/FTcheckpoint.pth.tar", "--device", "cpu"]
    words += ["--save_dir", tmp_path]
    run(evaluate.main, *words, "--resume")
    file = tmp_path / "audit.json"
    kept, shown = file.read_bytes(), capsys.readouterr().out.splitlines()[-1]
    assert call(evaluate.main, *words) == 2
    assert re.search("exists; --resume keeps .* --overwrite .* --save_dir", capsys.readouterr().err)
    run(evaluate.main, *words, "--resume")
    assert capsys.readouterr().out.splitlines()[-1] == shown
    assert file.read_bytes() == kept
    more = ["--models", runs / "seed2/FTcheckpoint.pth.tar", runs / "seed2/rawcheckpoint.pth.tar"]
    assert call(evaluate.main, *more, *words[2:], "--resume") == 2
    assert "was made with other models" in capsys.readouterr().err
    assert file.read_bytes() == kept
    run(evaluate.main, *more, *words[2:], "--overwrite")
    assert len(json.loads(file.read_text())["models"]) == 2


def test_a_model_of_another_project_is_audited_beside_ours(runs, tmp_path, capsys):
    """Its numbers are those of our own file with these weights."""
    ours = runs / "seed2/FTcheckpoint.pth.tar"
    weights = torch.load(ours, weights_only=True)["state_dict"]
    theirs = tmp_path / "theirs=x.pth"
    torch.save({"net": {f"module.{name}": value for name, value in weights.items()}}, theirs)
    retrain = sorted(runs.glob("seed?/retraincheckpoint.pth.tar"))
    words = ["--retrain", *retrain, "--original", runs / "0model_SA_best.pth.tar"]
    words += ["--suite", "standard", "--relearn_steps", 1, "--relearn_seeds", 1]
    words += ["--save_dir", tmp_path, "--device", "cpu"]
    run(evaluate.main, "--models", ours, f"Other lab={theirs}", *words)
    models = json.loads((tmp_path / "audit.json").read_text())["models"]
    found = {each["label"]: each for each in models}
    assert found["Other lab"]["metrics"] == found["FT"]["metrics"]
    assert found["Other lab"]["path"] == str(theirs)
    capsys.readouterr()
    for models, more, said in (
        ([theirs], words, "--models NAME="),
        ([f"x={theirs}"], words[-4:], "add --retrain"),
        ([f"x={tmp_path / 'no=thing'}"], words, f"named 'x', there is no file '{tmp_path}/no=th"),
        ([f"x={tmp_path}/*heirs*"], words, "heirs* is not one file"),
        ([f"={theirs}"], words, f"no name before '=' to take it for NAME={theirs}"),
    ):
        assert call(evaluate.main, "--models", *models, *more) == 2
        assert said in capsys.readouterr().err


def test_threads_are_set_and_said(runs, tmp_path, capsys):
    found = audit(runs, tmp_path, "--threads", 2, models="seed2/FTcheckpoint.pth.tar", retrain=None)
    assert "fp32 on cpu, 2 threads\n" in capsys.readouterr().out
    assert found["provenance"]["threads"] == 2
    assert torch.get_num_threads() == 1


def test_what_does_not_belong_together_is_refused(runs, tmp_path, capsys):
    ft, original = runs / "seed2/FTcheckpoint.pth.tar", runs / "0model_SA_best.pth.tar"
    assert "no such file" in refused(capsys, "--models", tmp_path / "none*")
    assert "forgot other images" in refused(
        capsys, "--models", ft, "--retrain", runs / "class/retraincheckpoint.pth.tar"
    )
    assert "it is no Retrain" in refused(
        capsys, "--models", ft, "--retrain", runs / "seed3/FTcheckpoint.pth.tar"
    )
    retrained = runs / "seed2/retraincheckpoint.pth.tar"
    assert "never saw 60 of the 60" in refused(capsys, "--models", ft, "--original", retrained)
    assert "names no unlearned model" in refused(capsys, "--models", original)
    assert "give --retrain" in refused(capsys, "--models", ft, "--suite", "standard")
    assert "give --original" in refused(
        capsys,
        "--models",
        ft,
        "--retrain",
        runs / "seed2/retraincheckpoint.pth.tar",
        "--suite",
        "full",
    )
    full = ["--retrain", retrained, "--original", original, "--suite", "full"]
    for odd in (4, 7):
        assert "even number of at least 6" in refused(
            capsys, "--models", ft, *full, "--shadows", odd
        )
    (tmp_path / "x.pth.tar").write_bytes(b"nothing")
    assert "not a readable torch file" in refused(capsys, "--models", tmp_path / "x.pth.tar")
    torch.save({"state_dict": {}}, tmp_path / "y.pth.tar")
    assert "no state dictionary" in refused(capsys, "--models", tmp_path / "y.pth.tar")
    content = torch.load(ft, weights_only=True)
    content["split"]["train"] = torch.cat([content["split"]["train"], content["split"]["val"][:5]])
    torch.save(content, tmp_path / "z.pth.tar")
    assert "5 of" in refused(capsys, "--models", tmp_path / "z.pth.tar")


def test_full_suite_trains_a_pool_once_and_audits_each_method(runs, tmp_path, capsys):
    """Six shadows; SalUn as the audited method, so that masks are made for each shadow too. A
    second call makes nothing anew.

    The folder with the shadows' runs in it can be reported, and shows what U-LiRA found.
    """
    mask = runs / "mask"
    if not mask.exists():
        import generate_mask

        run(
            generate_mask.main,
            *FORGET,
            "--model_path",
            runs / "0model_SA_best.pth.tar",
            "--save_dir",
            mask,
        )
        salun = [
            "--unlearn",
            "RL",
            "--unlearn_epochs",
            1,
            "--unlearn_lr",
            0.001,
            "--mask_path",
            mask / "with_0.5.pt",
        ]
        salun += ["--run", "s2", "--save_dir", runs / "salun"]
        run(main_random.main, *FORGET, "--model_path", runs / "0model_SA_best.pth.tar", *salun)
    argv = ["--suite", "full", "--shadows", 6, "--relearn_steps", 1, "--relearn_seeds", 1]
    found = audit(runs, tmp_path, *argv, models="salun/*checkpoint.pth.tar")
    row = found["rows"][0]
    assert row["label"] == "SalUn"
    assert 0 <= row["mean"]["ulira_auc"] <= 1
    assert row["mean"]["ulira_TA"] > 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "U-LiRA AUC" in line)
    assert report.main([str(tmp_path)]) == 0
    reported = capsys.readouterr().out
    for cell in (
        f"{row['mean']['ulira_auc']:.3f} (chance ",
        f"{row['mean']['ulira_low_memorisation_auc']:.3f} (chance ",
    ):
        assert cell in line
        assert cell in reported
    assert f"{row['mean']['ulira_TA']:.2f}" in reported
    with np.load(tmp_path / "per_image.npz") as arrays:
        assert {len(values) for values in arrays.values()} == {120}
        areas = arrays["auc_of_row_0"]
        assert row["mean"]["ulira_sample_auc_median"] == pytest.approx(
            np.median(np.maximum(areas, 1 - areas))
        )
        assert np.abs(arrays["memorisation"]).max() <= 1
        assert np.isin(
            np.load(sorted((tmp_path / "shadows").glob("in00-*.npy"))[0]), np.arange(2000)
        ).all()
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / "shadows").rglob("*.pth.tar")}
    assert len([file for file in made if file.name == "RLcheckpoint.pth.tar"]) == 6
    for step, name in (
        ("train", "main_train.py"),
        ("mask", "generate_mask.py"),
        ("RL", "main_forget.py"),
    ):
        for file in (tmp_path / "shadows").glob(f"shadow*/{step}-*/*result.json"):
            command = json.loads(file.read_text())["provenance"]["command"]
            assert command[0] == name
            assert f"--save_dir={file.parent}" in command
    assert found["provenance"]["command"][:2] == ["evaluate.py", "--models"]
    again = audit(runs, tmp_path, *argv, models="salun/*checkpoint.pth.tar")
    assert again["rows"] == found["rows"]
    assert {file: file.stat().st_mtime_ns for file in made} == made
    for shadow in range(
        6
        # A shadow was trained on no image that it leaves out, and forgot only what it was trained
        # on
    ):
        train = next((tmp_path / "shadows").glob(f"shadow{shadow:02d}/train-*/0checkpoint.pth.tar"))
        forgot = next((tmp_path / "shadows").glob(f"shadow{shadow:02d}/RL-*/RLcheckpoint.pth.tar"))
        trained_on = torch.load(train, weights_only=True)["split"]["train"].numpy()
        content = torch.load(forgot, weights_only=True)
        assert np.isin(content["forget"].numpy(), trained_on).all()
        assert len(content["forget"]) == 60
        assert set(content["forget"].tolist()) | set(content["retain"].tolist()) == set(
            trained_on.tolist()
        )


def test_a_pool_holds_the_forget_set_and_as_many_others_of_its_classes(runs):
    saved = saved_models.read_saved(runs / "seed2/FTcheckpoint.pth.tar", "models")
    request = outputs.Subject(saved, data=None, device=torch.device("cpu"), batch_size=128)
    indices, member = draw_pool(request, 8, seed=1)
    labels = request.dataset.y_train
    assert np.isin(saved.forget, indices).all()
    rest = np.setdiff1d(indices, saved.forget)
    np.testing.assert_array_equal(
        np.bincount(labels[rest], minlength=10), np.bincount(labels[saved.forget], minlength=10)
    )
    assert (member.sum(0) == 4).all()  # each image in half of the shadows
    assert (member.sum(1) == 60).all()  # each shadow forgets half of the pool


def test_a_shadow_leaves_out_what_the_study_does_too():
    whole = np.array(
        [2, 3, 5, 7, 11, 13]
    )  # the study goes without 3; of 5, 7, 13 the shadow sees 5 and 13
    out, inside = positions_of(
        whole, np.array([2, 5, 7, 11, 13]), np.array([5, 7, 13]), np.array([True, False, True])
    )
    assert whole[out].tolist() == [3, 7]
    assert np.delete(whole, out)[inside].tolist() == [5, 13]


def test_an_original_without_some_images_hands_that_on(runs, tmp_path, capsys):
    """What is left out by training is left out of every later step; typing another choice is
    refused by the record.
    """
    original = tmp_path / "0model_SA_best.pth.tar"
    run(main_train.main, *SMALL, "--epochs", 1, "--leave_out", "0,5,9", "--save_dir", tmp_path)
    trained = torch.load(original, weights_only=True)["split"]["train"]
    whole = torch.load(runs / "0model_SA_best.pth.tar", weights_only=True)["split"]["train"]
    assert np.setdiff1d(whole, trained).tolist() == whole[[0, 5, 9]].tolist()
    run(
        main_forget.main,
        *FORGET,
        "--model_path",
        original,
        "--unlearn",
        "raw",
        "--save_dir",
        tmp_path,
    )
    content = torch.load(tmp_path / "rawcheckpoint.pth.tar", weights_only=True)
    assert sorted(content["forget"].tolist() + content["retain"].tolist()) == trained.tolist()
    capsys.readouterr()
    other = [
        *FORGET,
        "--model_path",
        str(original),
        "--unlearn",
        "raw",
        "--save_dir",
        str(tmp_path),
        "--overwrite",
        "--leave_out",
        "1",
    ]
    assert main_forget.main(other) == 2
    assert "never saw" in capsys.readouterr().err
    assert (
        main_train.main(
            [*SMALL, "--epochs", "1", "--leave_out", "5", "--resume", "--save_dir", str(tmp_path)]
        )
        == 2
    )
    assert "was made with train" in capsys.readouterr().err


def test_a_mask_s_score_is_in_its_checkpoint_and_of_an_older_one_beside_the_mask_of_that_hash(
    tmp_path,
):
    """Never guessed: a checkpoint whose mask's record is away, or of another mask, says nothing."""
    record = {"score": "random", "layers": None, "masks": {"with_0.5.pt": {"sha256": "right"}}}
    (tmp_path / "mask_result.json").write_text(json.dumps(record))
    folder, file = (
        {"mask_path": str(tmp_path), "mask_ratio": 0.5},
        {"mask_path": str(tmp_path / "with_0.5.pt"), "mask_ratio": None},
    )
    away = {"mask_path": str(tmp_path / "elsewhere" / "with_0.5.pt"), "mask_ratio": None}
    known = {"file": "with_0.5.pt", "score": "random"}
    for arguments in (folder, file):
        assert mask_made_by({}, arguments, "right") == known
        assert mask_made_by({}, arguments, "another") is None
    assert mask_made_by({}, away, "right") is None
    for score, wanted in (("random", known), (None, None)):
        assert (
            mask_made_by(
                {"mask": known | {"score": score, "sha256": "right", "density": 0.5}}, away, "right"
            )
            == wanted
        )


def test_shadows_of_a_mask_without_a_record_are_refused_for_its_row_alone(capsys):
    saved = SimpleNamespace(
        path="a/RLcheckpoint.pth.tar",
        mask=["mine.pt", None],
        mask_made_by=None,
        label="SalUn",
        foreign=False,
    )
    assert audit_stage.without_record(saved)
    assert (
        "no record of its mask, by mine.pt; --suite full goes without U-LiRA for SalUn"
        in capsys.readouterr().err
    )
    assert not audit_stage.without_record(
        SimpleNamespace(mask=None, mask_made_by=None, foreign=False)
    )
    assert not audit_stage.without_record(
        SimpleNamespace(
            mask=["with_0.5.pt", None], mask_made_by={"score": "saliency"}, foreign=False
        )
    )


def test_a_shadow_s_folder_is_named_by_images_flags_and_lists_and_by_no_place(tmp_path):
    def digest(folder, data="d" * 64, settings=("--lr", "1"), name="out00-1.npy"):
        pool = Pool.__new__(Pool)
        pool.folder, pool.subject = folder, SimpleNamespace(data_sha256=data, test_sha256="t")
        return pool._digest([*settings], {"--leave_out": folder / name})

    here = digest(tmp_path / "here")
    assert digest(tmp_path / "there") == here
    others = [
        digest(tmp_path, data="e" * 64),
        digest(tmp_path, settings=("--lr", "2")),
        digest(tmp_path, name="out00-2.npy"),
    ]
    assert len({here, *others}) == 4
