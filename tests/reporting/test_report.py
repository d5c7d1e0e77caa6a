"""The report against numbers computed here from the same result files: means, deviations, gaps,
formats, refusals.
"""

import copy
import csv
import io
import json
import math
import os
import shutil
import statistics

import numpy as np
import pytest
from records import audit, result, runs, with_shadows, write
from scipy import stats

import report
from reporting.results import collect, unless_gone
from reporting.tables import by_scenario, chosen_rows, scenarios
from utils import UserError

METRICS = ("UA", "RA", "TA", "MIA")
RETRAIN = [(5.2, 100.0, 94.1, 13.1), (5.6, 99.9, 94.5, 12.2), (4.9, 100.0, 93.8, 13.6)]
SALUN = [(2.9, 99.6, 94.0, 14.4), (7.8, 99.8, 93.6, 11.0), (5.0, 99.2, 94.2, 15.9)]


def run(capsys, *argv):
    """Run the script: standard output after exit code 0 and nothing on standard error."""
    assert report.main([str(word) for word in argv]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def tables(capsys, *argv):
    return json.loads(run(capsys, *argv, "--format", "json"))


def only_table(capsys, folder, *argv):
    (table,) = tables(capsys, folder, *argv)
    return {row["name"]: row for row in table["rows"]}, table


def refused(capsys, *argv):
    """The one line on standard error that a refused request leaves, after exit code 2."""
    assert report.main([str(word) for word in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def folder(tmp_path):
    """Three paired seeds of Retrain and SalUn, two of RL, one of FT."""
    results = [
        *runs("retrain", "Retrain", RETRAIN, rte=(0.0, 2500.0)),
        *runs("RL", "SalUn", SALUN, mask=0.5, rte=(4.0, 156.0)),
        *runs("RL", "RL", SALUN[:2], rte=(0.0, 150.0)),
        result("FT", "FT", (0.6, 99.9, 94.2, 2.7)),
    ]
    return write(tmp_path, *results)


# ------------------------------------------------------------------------------------------ numbers


def test_means_and_sample_deviations(folder, capsys):
    """Against statistics; a single run has no deviation."""
    rows, _ = only_table(capsys, folder)
    for name, values in (("Retrain", RETRAIN), ("SalUn", SALUN), ("RL", SALUN[:2])):
        assert rows[name]["runs"] == len(values)
        for metric, column in zip(METRICS, zip(*values, strict=True), strict=True):
            assert rows[name][metric] == pytest.approx(statistics.mean(column))
            assert rows[name][f"{metric}_std"] == pytest.approx(statistics.stdev(column))
    assert [rows["FT"][metric] for metric in METRICS] == [0.6, 99.9, 94.2, 2.7]
    assert all(rows["FT"][f"{name}_std"] is None for name in (*METRICS, "RTE"))


def test_rte_counts_the_mask(tmp_path, capsys):
    write(
        tmp_path,
        *(
            result("RL", "SalUn", seed=seed, rte=rte, mask=0.5)
            for seed, rte in ((1, (4.0, 156.0)), (2, (4.0, 166.0)))
        ),
    )
    rows, _ = only_table(capsys, tmp_path)
    assert rows["SalUn"]["RTE"] == pytest.approx(165)
    assert rows["SalUn"]["RTE_std"] == pytest.approx(50**0.5)


def test_gaps_are_signed_differences_of_means(folder, capsys):
    rows, _ = only_table(capsys, folder)
    for name, values in (
        ("SalUn", SALUN),
        ("RL", SALUN[:2]),
        ("FT", [(0.6, 99.9, 94.2, 2.7)]),
        ("Retrain", RETRAIN),
    ):
        gaps = np.mean(values, 0) - np.mean(RETRAIN, 0)
        assert [rows[name][f"{metric}_gap"] for metric in METRICS] == pytest.approx(gaps, abs=1e-9)
        assert rows[name]["avg_gap"] == pytest.approx(np.abs(gaps).mean(), abs=1e-9)
    assert rows["FT"]["UA_gap"] < 0 < rows["FT"]["TA_gap"]


def test_paired_gap_compares_seed_by_seed(folder, capsys):
    """The mean over seeds of mean absolute differences: for RL over its two seeds; never below the
    gap of means where all are paired.
    """
    rows, _ = only_table(capsys, folder)
    for name, values in (
        ("SalUn", SALUN),
        ("RL", SALUN[:2]),
        ("FT", [(0.6, 99.9, 94.2, 2.7)]),
        ("Retrain", RETRAIN),
    ):
        paired = np.abs(np.array(values) - np.array(RETRAIN)[: len(values)]).mean()
        assert rows[name]["mean_paired_gap"] == pytest.approx(paired, abs=1e-9)
    assert rows["SalUn"]["avg_gap"] < rows["SalUn"]["mean_paired_gap"] - 0.5
    assert rows["Retrain"]["avg_gap"] == rows["Retrain"]["mean_paired_gap"] == 0


@pytest.mark.parametrize("seed", range(5))
def test_gap_of_means_never_exceeds_the_mean_paired_gap(tmp_path, capsys, seed):
    """Jensen's inequality, on random paired runs."""
    rng = np.random.default_rng(seed)
    write(
        tmp_path,
        *runs("retrain", "Retrain", rng.uniform(0, 100, (4, 4)).tolist()),
        *runs("GA", "GA", rng.uniform(0, 100, (4, 4)).tolist()),
    )
    rows, _ = only_table(capsys, tmp_path)
    assert 0 < rows["GA"]["avg_gap"] <= rows["GA"]["mean_paired_gap"]


@pytest.mark.parametrize("partner", [{"seed": 9}, {"forget": "e" * 64}])
def test_runs_without_a_partner_have_no_paired_gap(tmp_path, capsys, partner):
    """A partner has the same seed and the same forget set."""
    write(
        tmp_path, result("retrain", "Retrain", RETRAIN[0], **partner), result("GA", "GA", SALUN[0])
    )
    rows, _ = only_table(capsys, tmp_path, "--mixed")
    assert rows["GA"]["mean_paired_gap"] is None
    assert rows["GA"]["avg_gap"] == pytest.approx(np.abs(np.subtract(SALUN[0], RETRAIN[0])).mean())


def test_published_average_gap(tmp_path, capsys):
    """SalUn at 10 % of CIFAR-10: gaps 2.39, 0.38, 0.33 and 1.51 average to the 1.15 of the paper's
    table.
    """
    write(
        tmp_path,
        result("retrain", "Retrain", (5.24, 100.0, 94.26, 12.88)),
        result("RL", "SalUn", (2.85, 99.62, 93.93, 14.39), mask=0.5),
    )
    rows, _ = only_table(capsys, tmp_path)
    assert round(rows["SalUn"]["avg_gap"], 2) == 1.15
    gaps = [round(rows["SalUn"][f"{metric}_gap"], 2) for metric in METRICS]
    assert gaps == [-2.39, -0.38, -0.33, 1.51]


# ---------------------------------------------------------------------------------- rows and tables


def test_rows_begin_with_retrain_and_go_by_average_gap(folder, capsys):
    """The order is computed here from the values."""
    _, table = only_table(capsys, folder)
    gap = {
        name: np.abs(np.mean(values, 0) - np.mean(RETRAIN, 0)).mean()
        for name, values in (("SalUn", SALUN), ("RL", SALUN[:2]))
    }
    gap["FT"] = np.abs(np.subtract((0.6, 99.9, 94.2, 2.7), np.mean(RETRAIN, 0))).mean()
    assert [row["name"] for row in table["rows"]] == ["Retrain", *sorted(gap, key=gap.get)]
    assert [row["is_retrain"] for row in table["rows"]] == [True, False, False, False]


def test_a_row_whose_average_gap_is_not_known_is_last(folder, capsys):
    write(folder, result("GA", "GA", (0.6, 99.9, 94.2, float("nan"))))
    _, table = only_table(capsys, folder)
    assert table["rows"][-1]["name"] == "GA"
    assert table["rows"][-1]["avg_gap"] is None


def test_salun_and_rl_are_separate_rows(folder, capsys):
    rows, _ = only_table(capsys, folder)
    assert set(rows) == {"Retrain", "SalUn", "RL", "FT"}
    assert (rows["SalUn"]["runs"], rows["RL"]["runs"]) == (3, 2)


def test_learning_rates_make_rows_and_names(tmp_path, capsys):
    """The two FT rows are told apart by what differs and nothing else; GA needs no addition."""
    write(
        tmp_path,
        result("FT", lr=0.01, seed=1),
        result("FT", lr=0.01, seed=2),
        result("FT", lr=0.05),
        result("GA", lr=0.0001),
    )
    rows, _ = only_table(capsys, tmp_path)
    assert set(rows) == {"FT (unlearn_lr 0.01)", "FT (unlearn_lr 0.05)", "GA"}
    assert rows["FT (unlearn_lr 0.01)"]["runs"] == 2


@pytest.mark.parametrize(
    ("rates", "named"),
    [
        ((0.11027602365547694, 0.0002720446295173432), ("0.1103", "0.000272")),
        ((0.110276, 0.110277), ("0.110276", "0.110277")),
    ],
)
def test_rates_of_a_search_are_named_by_the_digits_that_tell_them_apart(
    tmp_path, capsys, rates, named
):
    write(tmp_path, *(result("FT", lr=rate) for rate in rates))
    rows, _ = only_table(capsys, tmp_path)
    assert set(rows) == {f"FT (unlearn_lr {digits})" for digits in named}


@pytest.mark.parametrize(
    ("change", "names"),
    [
        (
            lambda run: run["recipe"].update(batch_size=64),
            {"FT+mask (batch_size 256)", "FT+mask (batch_size 64)"},
        ),
        (
            lambda run: run["attack"].update(members="first"),
            {"FT+mask (members balanced)", "FT+mask (members first)"},
        ),
        (
            lambda run: run.update(mask={"path": "m", "density": 0.3}),
            {"FT+mask (mask 0.5)", "FT+mask (mask 0.3)"},
        ),
    ],
)
def test_other_settings_make_rows_and_names(tmp_path, capsys, change, names):
    one = result("FT", "FT+mask", mask=0.5)
    other = copy.deepcopy(one)
    change(other)
    write(tmp_path, one, other)
    rows, _ = only_table(capsys, tmp_path)
    assert set(rows) == names


@pytest.mark.parametrize(
    ("method", "recorded", "mask", "shown"),
    [
        ("fisher", "FF", None, "FF-ref"),
        ("fisher_new", "FF-true", None, "FF"),
        ("fisher", "FF-ref", None, "FF-ref"),
        ("fisher", "FF+mask", {}, "FF-ref+mask"),
        ("fisher_new", "FF-true+random-mask", {}, "FF+random-mask"),
        ("fisher_new", "FF-true+mask", {"score": "magnitude"}, "FF+magnitude-mask"),
        ("RL", "SalUn", {"score": None}, "SalUn"),
        ("RL", "RL+layers:fc,layer3-mask", {}, "RL+layers:fc,layer3-mask"),
        ("scrub_r", "SCRUB+R", None, "SCRUB+R"),
        ("neggrad_plus", "NegGrad+", {"score": "saliency"}, "NegGrad++mask"),
        ("somebody's", "FF", None, "FF"),
    ],
)
def test_a_row_has_the_label_of_its_method_today_whatever_the_file_says(
    tmp_path, capsys, method, recorded, mask, shown
):
    run = result(method, recorded) | {
        "mask": None if mask is None else {"path": "m", "density": 0.5, **mask}
    }
    write(tmp_path, run)
    rows, _ = only_table(capsys, tmp_path)
    assert set(rows) == {shown}


def test_runs_from_before_and_after_a_new_label_stand_in_one_row(tmp_path, capsys):
    write(
        tmp_path,
        result("fisher", "FF", seed=1),
        result("fisher", "FF-ref", seed=2),
        result("fisher_new", "FF", seed=1),
    )
    rows, _ = only_table(capsys, tmp_path)
    assert {name: row["runs"] for name, row in rows.items()} == {"FF-ref": 2, "FF": 1}


DRAWN = {
    "members": "balanced",
    "draws": 4,
    "seeded_by": "split_seed, data, forget set",
    "points": [90, 90],
}


def drawn(run, *values):
    """The run, asked by four draws."""
    run["attack"] = {**DRAWN, "MIA": list(values)}
    run["metrics"]["MIA"] = float(np.mean(values))
    return run


def test_draws_that_move_a_method_alone_widen_its_band(tmp_path, capsys):
    """The SD of the difference by hand: 0 where the method follows Retrain, that of 4, 8, 4, 8
    where it does not.
    """
    retrain = [
        drawn(result("retrain", "Retrain", seed=seed), *(seed + np.array([10, 20, 30, 40.0])))
        for seed in (1, 2, 3)
    ]
    follows = drawn(result("FT"), 15, 25, 35, 45)
    alone = drawn(result("GA"), *(2 + np.array([10, 20, 30, 40]) + [4.0, 8, 4, 8]))
    write(tmp_path, *retrain, follows, alone)
    rows, _ = only_table(capsys, tmp_path)
    plain = stats.t.ppf(0.975, 2) * math.sqrt(1 + 1 / 3)  # Retrain's SD is 1
    noise = math.sqrt(4 * 2**2 / 3 / 4)
    assert rows["FT"]["MIA_draw_noise"] == pytest.approx(0, abs=1e-12)
    assert rows["FT"]["MIA_band"] == pytest.approx(plain)
    assert rows["GA"]["MIA_draw_noise"] == pytest.approx(noise)
    assert rows["GA"]["MIA_band"] == pytest.approx(math.hypot(plain, stats.t.ppf(0.975, 3) * noise))
    assert rows["GA"]["MIA_gap"] == pytest.approx(6)
    assert plain < 6 < rows["GA"]["MIA_band"]
    assert rows["GA"]["MIA_inside_noise"]


def test_average_gap_takes_a_quarter_of_what_the_draws_add_to_the_band_of_mia(tmp_path, capsys):
    retrain = [
        drawn(result("retrain", "Retrain", seed=seed), *(seed + np.array([10, 20, 30, 40.0])))
        for seed in (1, 2, 3)
    ]
    write(
        tmp_path, *retrain, drawn(result("FT"), 15, 25, 35, 45), drawn(result("GA"), 16, 30, 36, 50)
    )
    rows, _ = only_table(capsys, tmp_path)
    more = rows["GA"]["MIA_band"] - rows["FT"]["MIA_band"]
    assert more > 1
    assert rows["GA"]["avg_gap_band"] - rows["FT"]["avg_gap_band"] == pytest.approx(more / 4)
    for row in (rows["FT"], rows["GA"]):
        assert row["inside_noise"] == (row["avg_gap"] <= row["avg_gap_band"])


def test_draws_of_other_rules_or_without_a_number_are_not_compared(tmp_path, capsys):
    retrain = [
        drawn(result("retrain", "Retrain", seed=seed), *(seed + np.arange(4.0)))
        for seed in (1, 2, 3)
    ]
    old, without = result("FT"), drawn(result("GA"), 1, 2, 3, 4)
    without["attack"]["MIA"][0] = None
    write(tmp_path, *retrain, old, without)
    rows, _ = only_table(capsys, tmp_path)
    assert rows["FT"]["MIA_draw_noise"] is rows["GA"]["MIA_draw_noise"] is None


def test_a_result_by_another_rule_of_the_draw_is_named(tmp_path, capsys):
    """One of an older version, one of the reference's members; none where all are by one rule,
    whatever their values.
    """
    retrain = [drawn(result("retrain", "Retrain", seed=seed), 1, 2, 3, seed) for seed in (1, 2, 3)]
    old, first = result("FT", seed=7), result("GA", seed=8)
    first["attack"] = {
        "members": "first",
        "draws": 1,
        "seeded_by": None,
        "points": [90, 90],
        "MIA": [12.0],
    }
    write(tmp_path, *retrain, drawn(result("RL"), 4, 3, 2, 1))
    rows, table = only_table(capsys, tmp_path)
    assert rows["Retrain"]["runs"] == 3
    assert not any("another rule" in note for note in table["notes"])
    write(tmp_path, old, first)
    _, table = only_table(capsys, tmp_path)
    (note,) = [note for note in table["notes"] if "another rule" in note]
    assert "FT (1 run) by members balanced, 1 draw, seeded by forget seed" in note
    assert "GA (1 run) by members first, 1 draw" in note
    assert "RL" not in note


def test_the_members_that_are_asked_for_choose_the_retrain(tmp_path, capsys):
    retrain = [drawn(result("retrain", "Retrain", seed=seed), 1, 2, 3, 4) for seed in (1, 2, 3)]
    first = [result("retrain", "Retrain", (5.0, 99.0, 93.0, 50.0), seed=seed) for seed in (1, 2)]
    for run in first:
        run["attack"] = {
            "members": "first",
            "draws": 1,
            "seeded_by": None,
            "points": [90, 90],
            "MIA": [50.0],
        }
    write(tmp_path, *retrain, *first)
    for words, wanted, other in (
        ([], 2.5, "(2 runs) by members first"),
        (["--mia_members", "first"], 50, "by members balanced, 4 draws"),
    ):
        _, table = only_table(capsys, tmp_path, *words)
        (row,) = [row for row in table["rows"] if row["is_retrain"]]
        assert row["MIA"] == wanted
        assert any(other in note for note in table["notes"])


def test_members_that_no_retrain_was_asked_by_are_said_and_change_nothing(tmp_path, capsys):
    write(
        tmp_path,
        *(drawn(result("retrain", "Retrain", seed=seed), 1, 2, 3, 4) for seed in (1, 2, 3)),
    )
    _, plain = only_table(capsys, tmp_path)
    _, table = only_table(capsys, tmp_path, "--mia_members", "first")
    assert table["rows"] == plain["rows"]
    (note,) = [note for note in table["notes"] if note not in plain["notes"]]
    assert note.startswith(
        "No Retrain's MIA is by members first: gaps are by members balanced, 4 draws"
    )


def test_an_audit_to_other_retrains_or_by_another_rule_is_named(tmp_path, capsys):
    retrain = [drawn(result("retrain", "Retrain", seed=seed), 1, 2, 3, 4) for seed in (1, 2, 3)]
    write(tmp_path, *retrain, method := drawn(result("FT"), 1, 2, 3, 4))
    (tmp_path / "audit.json").write_text(json.dumps(audit(method, *retrain, attack=DRAWN)))
    assert not [note for note in only_table(capsys, tmp_path)[1]["notes"] if "audit" in note]
    (tmp_path / "audit.json").write_text(
        json.dumps(audit(method, *retrain[:2], attack={"members": "first", "draws": 1}))
    )
    rule, models = [note for note in only_table(capsys, tmp_path)[1]["notes"] if "audit" in note]
    assert "attacks by members first, 1 draw; the table by members balanced, 4 draws" in rule
    assert "gaps to 2 Retrain models, 2 of the table's 3 among them" in models


def test_a_warning_names_its_row_once_and_in_how_many_runs(tmp_path, capsys):
    """Of two settings of one method; what is said of an original is about no row."""
    above = "at chance: the original has RA 10.0 where chance is 10.0, so it has learned nothing"
    destroyed = ["destroyed: RA is 10.0", "destroyed: RA is 11.0"]
    runs = [
        result("GA", lr=0.1, seed=seed, warnings=[destroyed[seed - 1], above]) for seed in (1, 2)
    ]
    write(tmp_path, *runs, result("GA", lr=0.2, warnings=["the mask freezes every weight"]))
    notes = only_table(capsys, tmp_path)[1]["notes"]
    assert [note for note in notes if "destroyed" in note] == [
        "GA (unlearn_lr 0.1): destroyed: RA is 10.0 (2 of 2 runs)"
    ]
    assert "GA (unlearn_lr 0.2): the mask freezes every weight" in notes
    assert notes.count(above) == 1


def test_scenarios_have_separate_tables(tmp_path, capsys):
    """Data set, forgotten class and forget count each make a table, with gaps to the Retrain of
    that table.
    """
    scenarios = [
        {"dataset": "cifar10"},
        {"dataset": "svhn"},
        {"kind": "class", "forgotten_class": 0},
        {"kind": "class", "forgotten_class": 3},
        {"count": 22500},
    ]
    for offset, scenario in enumerate(scenarios):
        write(
            tmp_path,
            result("retrain", "Retrain", (10 * offset,) * 4, **scenario),
            result("FT", "FT", (10 * offset + 1 + offset,) * 4, **scenario),
        )
    got = tables(capsys, tmp_path)
    assert len({table["title"] for table in got}) == len(got) == 5
    found = {table["rows"][1]["UA"]: table for table in got}
    for offset, words in enumerate(
        [("cifar10", "10 %", "random"), ("svhn",), ("class 0",), ("class 3",), ("22500", "50 %")]
    ):
        table = found[10 * offset + 1 + offset]
        assert table["rows"][1]["avg_gap"] == pytest.approx(1 + offset)
        assert all(word in table["title"] for word in words)
        (note,) = table["notes"]
        assert "needs 3 Retrain runs" in note


@pytest.mark.parametrize("style", ["text", "markdown"])
def test_scenarios_have_separate_tables_in_print(tmp_path, capsys, style):
    write(tmp_path, result("FT", dataset="cifar10"), result("FT", dataset="svhn"))
    lines = run(capsys, tmp_path, "--format", style).splitlines()
    assert sum("svhn" in line for line in lines) == sum("cifar10" in line for line in lines) == 1
    assert sum(line.removeprefix("| ").startswith("FT ") for line in lines) == 2


# -------------------------------------------------------------------------------------------- notes


@pytest.mark.parametrize("style", ["text", "markdown", "json"])
def test_without_retrain_the_rest_is_printed_and_the_lack_named(tmp_path, capsys, style):
    write(
        tmp_path,
        result("FT", values=(1.25, 99.5, 94.75, 3.5)),
        result("GA", values=(8.25, 98.5, 92.75, 20.5)),
    )
    out = run(capsys, tmp_path, "--format", style)
    assert "No Retrain" in out
    assert "--unlearn retrain" in out
    assert "1.25" in out
    assert "8.25" in out
    rows, _ = only_table(capsys, tmp_path)
    gaps = ("avg_gap", "mean_paired_gap", *(f"{metric}_gap" for metric in METRICS))
    assert all(row[gap] is None for row in rows.values() for gap in gaps)


def test_different_forget_sets_are_refused_and_with_mixed_averaged_and_mentioned(tmp_path, capsys):
    write(tmp_path, result("retrain", "Retrain", forget="a" * 64), result("FT", forget="a" * 64))
    assert "forget sets" not in run(capsys, tmp_path)
    write(tmp_path, result("GA", forget="b" * 64))
    assert "2 different forget sets" in refused(capsys, tmp_path)
    assert "2 forget sets" in run(capsys, tmp_path, "--mixed")


@pytest.mark.parametrize(
    ("outcomes", "wanted"),
    [(["gone"], None), (["gone", "back"], "read"), (["damaged", "damaged"], UserError)],
    ids=str,
)
def test_a_file_that_vanishes_while_it_is_read_is_none_and_one_that_comes_back_is_read(
    outcomes, wanted, tmp_path
):
    file, left = tmp_path / "a.json", list(outcomes)
    file.touch()

    def read(path):
        if left.pop(0) == "back":
            return "read"
        path.unlink() if outcomes == ["gone"] else None
        raise UserError("no such file, or damaged")

    if wanted is UserError:
        with pytest.raises(UserError, match="damaged"):
            unless_gone(file, read)
    else:
        assert unless_gone(file, read) == wanted
    assert not left


def test_runs_on_other_test_images_are_named(tmp_path, capsys):
    """A result that does not say is taken as it is."""
    for seed, tested in enumerate(("a", "a", None, "b"), 1):
        if tested == "b":
            assert "test images" not in run(capsys, tmp_path)
        content = result(seed=seed)
        content["data"] |= {"test_sha256": tested} if tested else {}
        write(tmp_path, content)
    assert "2 sets of test images" in run(capsys, tmp_path)


def test_warnings_of_runs_are_repeated_once(tmp_path, capsys):
    runs = [result("GA", seed=seed, warnings=["accuracy fell to chance"]) for seed in (1, 2)]
    write(tmp_path, result("retrain", "Retrain"), *runs)
    assert run(capsys, tmp_path).count("GA: accuracy fell to chance") == 1


def test_two_kinds_of_retrain_are_refused_and_reference_chooses(tmp_path, capsys):
    """Neither pooled nor taken by number of runs: a choice, by the row's name or a part of it, and
    the other one is a row with a gap.
    """
    write(
        tmp_path,
        result("retrain", "Retrain", (9.0,) * 4, lr=0.5),
        *runs("retrain", "Retrain", [(4.0,) * 4, (6.0,) * 4], lr=0.1),
    )
    message = refused(capsys, tmp_path)
    assert "'Retrain (unlearn_lr 0.1)' (2 runs)" in message
    assert "'Retrain (unlearn_lr 0.5)' (1 run)" in message
    assert "--reference" in message
    rows, table = only_table(capsys, tmp_path, "--reference", "Retrain (unlearn_lr 0.1)")
    assert rows["Retrain (unlearn_lr 0.1)"]["is_retrain"]
    assert rows["Retrain (unlearn_lr 0.5)"]["avg_gap"] == pytest.approx(4)
    assert any("The gaps are to Retrain (unlearn_lr 0.1)" in note for note in table["notes"])
    rows, _ = only_table(capsys, tmp_path, "--reference", "0.5")
    assert rows["Retrain (unlearn_lr 0.5)"]["is_retrain"]
    assert rows["Retrain (unlearn_lr 0.1)"]["avg_gap"] == pytest.approx(4)
    for unclear in ("Retrain", "0.7"):
        assert "does not name one kind" in refused(capsys, tmp_path, "--reference", unclear)


def test_a_reference_that_no_table_has_is_refused(folder, capsys):
    assert "no Retrain is called so" in refused(capsys, folder, "--reference", "unlearn_lr 3")
    assert "Retrain" in run(capsys, folder, "--reference", "Retrain")


UNRECORDED = {
    "tail": "keep",
    "final_lr": 0.0,
    "select": "last",
    "forget_batch_size": 256,
    "label_smoothing": 0.0,
}


def with_recipe(run, **entries):
    run["recipe"] |= entries
    return run


@pytest.mark.parametrize(
    "now",
    [UNRECORDED, {**UNRECORDED, "tail": "spread", "select": "best"}],
    ids=["as then", "as now"],
)
def test_what_older_versions_did_not_record_parts_no_retrains(tmp_path, capsys, now):
    """A result of before --tail and the like pools with one that records them; so does one with the
    original's recipe beside it.
    """
    old, *new = runs("retrain", "Retrain", RETRAIN)
    new = [
        with_recipe(run, **now) | {"original_recipe": {"tail": "keep", "unlearn_lr": 0.01}}
        for run in new
    ]
    rows, _ = only_table(capsys, write(tmp_path, old, *new))
    assert rows["Retrain"]["runs"] == 3


def test_an_older_retrain_counts_as_what_it_did_where_the_others_disagree(tmp_path, capsys):
    old, keep, spread = runs("retrain", "Retrain", RETRAIN)
    write(tmp_path, old, with_recipe(keep, tail="keep"), with_recipe(spread, tail="spread"))
    rows, _ = only_table(capsys, tmp_path, "--reference", "tail keep")
    assert (rows["Retrain (tail keep)"]["runs"], rows["Retrain (tail spread)"]["runs"]) == (2, 1)


def test_a_retrain_on_a_part_of_the_retain_set_is_a_row_and_no_reference(tmp_path, capsys):
    part = with_recipe(result("retrain", "Retrain", (9.0,) * 4), retain_fraction=0.5)
    rows, _ = only_table(
        capsys, write(tmp_path, result("retrain", "Retrain", (5.0,) * 4, seed=2), part)
    )
    assert [row["is_retrain"] for row in rows.values()] == [True, False]
    assert rows["Retrain (retain_fraction 0.5)"]["avg_gap"] == 4


def test_a_masked_retrain_is_not_the_reference(tmp_path, capsys):
    write(tmp_path, result("retrain", "Retrain+mask", mask=0.5), result("FT"))
    rows, table = only_table(capsys, tmp_path)
    assert not any(row["is_retrain"] for row in rows.values())
    assert any("No Retrain" in note for note in table["notes"])


# ------------------------------------------------------------------------------------------ formats


def expected_cells(mark="~"):
    """The printed cells of the SalUn row, formatted here; 4.303 is the two-sided 95 % quantile of
    Student's t with 2 degrees of freedom.
    """
    cells = ["SalUn"]
    for column, reference in zip(zip(*SALUN, strict=True), zip(*RETRAIN, strict=True), strict=True):
        gap = statistics.mean(column) - statistics.mean(reference)
        inside = abs(gap) <= 4.303 * statistics.stdev(reference) * (2 / 3) ** 0.5
        cells.append(
            f"{statistics.mean(column):.2f}±{statistics.stdev(column):.2f}"
            f" ({gap:+.2f}){mark if inside else ''}"
        )
    gap = np.abs(np.mean(SALUN, 0) - np.mean(RETRAIN, 0)).mean()
    band = 4.303 * np.std(RETRAIN, 0, ddof=1).mean() * (2 / 3) ** 0.5
    return [*cells, f"{gap:.2f}{mark if gap <= band else ''}", "-", "160.0±0.0", "3"]


def test_markdown_has_one_line_per_method(folder, capsys):
    """A header, a rule, four rows and the noise floor, of as many cells; the Retrain row has no gap
    in brackets.
    """
    lines = [
        line
        for line in run(capsys, folder, "--format", "markdown").splitlines()
        if line.startswith("|")
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len(cells) == 2 + 5
    assert {len(row) for row in cells} == {9}
    assert cells[0][:7] == ["method", *METRICS, "Avg. Gap", "Gap (entropy)"]
    assert all(set(cell) <= set("-:") for cell in cells[1])
    assert cells[2][0] == "Retrain"
    assert not any("(" in cell for cell in cells[2])
    assert expected_cells(r"\~") in cells


def test_text_is_the_default_and_aligned(folder, capsys):
    out = run(capsys, folder)
    assert out == run(capsys, folder, "--format", "text")
    lines = out.splitlines()
    assert "cifar10" in lines[0]
    assert "4500" in lines[0]
    assert lines[1].split("  ")[0] == "method"
    assert len({len(line) for line in lines[1:7]}) == 1
    (salun,) = (line for line in lines if line.startswith("SalUn"))
    assert [cell.strip() for cell in salun.split("  ") if cell] == expected_cells()


def test_csv_has_every_number(folder, capsys):
    """By the csv module; an unknown number is an empty cell."""
    rows = {
        row["name"]: row
        for row in csv.DictReader(io.StringIO(run(capsys, folder, "--format", "csv")))
    }
    assert set(rows) == {"Retrain", "SalUn", "RL", "FT"}
    for index, metric in enumerate(METRICS):
        column = [values[index] for values in SALUN]
        gap = statistics.mean(column) - statistics.mean(values[index] for values in RETRAIN)
        got = [float(rows["SalUn"][name]) for name in (metric, f"{metric}_std", f"{metric}_gap")]
        assert got == pytest.approx(
            [statistics.mean(column), statistics.stdev(column), gap], abs=1e-9
        )
    assert float(rows["SalUn"]["RTE"]) == 160
    assert float(rows["SalUn"]["mean_paired_gap"]) == pytest.approx(
        np.abs(np.subtract(SALUN, RETRAIN)).mean()
    )
    assert rows["FT"]["UA_std"] == ""
    assert all("cifar10" in row["scenario"] for row in rows.values())


def test_csv_of_several_scenarios_has_one_header(tmp_path, capsys):
    write(
        tmp_path,
        result("FT", dataset="cifar10"),
        result("retrain", "Retrain", dataset="svhn"),
        result("FT", dataset="svhn"),
    )
    rows = list(csv.DictReader(io.StringIO(run(capsys, tmp_path, "--format", "csv"))))
    assert sorted((row["scenario"].split(" ")[0], row["name"]) for row in rows) == [
        ("cifar10", "FT"),
        ("svhn", "FT"),
        ("svhn", "Retrain"),
    ]


# ------------------------------------------------------------------------------- files and refusals


def test_a_file_is_counted_once(folder, capsys):
    """Given twice, and by its own path besides."""
    (file,) = folder.rglob("FTresult.json")
    assert tables(capsys, folder, folder, file) == tables(capsys, folder)
    assert tables(capsys, file)[0]["rows"][0]["name"] == "FT"


def test_results_of_several_folders_meet_in_one_table(tmp_path, capsys):
    for name, content in (("one", result("retrain", "Retrain")), ("two", result("FT"))):
        (tmp_path / name).mkdir()
        write(tmp_path / name, content)
    (table,) = tables(capsys, tmp_path / "one", tmp_path / "two")
    assert [row["name"] for row in table["rows"]] == ["Retrain", "FT"]


def test_records_of_training_and_masks_are_no_rows(folder, capsys):
    """train_result.json and mask_result.json lie in the same folders."""
    before = tables(capsys, folder)
    (folder / "train_result.json").write_text(
        json.dumps({"schema": 1, "method": "original", "metrics": {"TA": 94.0, "VA": 93.0}})
    )
    (folder / "mask_result.json").write_text(
        json.dumps({"schema": 1, "method": "saliency", "metrics": {}})
    )
    assert tables(capsys, folder) == before


def shadow_run(folder, shadow=0):
    """A result where evaluate.py --suite full leaves one: a run of a method on a shadow model,
    which forgot other images.
    """
    own = folder / f"shadows/shadow{shadow:02d}/FT-0123abcd"
    own.mkdir(parents=True)
    (own / "FTresult.json").write_text(json.dumps(result("FT", forget=str(shadow) * 64)))


def test_results_of_shadow_models_are_no_rows(folder, capsys):
    """At whatever depth they lie; a folder that a user called so is read."""
    before = tables(capsys, folder)
    shadow_run(folder), shadow_run(folder / "full", 1)
    assert tables(capsys, folder) == before
    own = folder / "shadows/mine"
    own.mkdir()
    write(own, result("FT", "FT", (1.6, 99.9, 94.2, 2.7), seed=2))
    assert only_table(capsys, folder)[0]["FT"]["runs"] == 2


def test_results_of_shadow_models_are_read_from_their_own_folder(tmp_path, capsys):
    shadow_run(tmp_path), shadow_run(tmp_path, 1)
    assert "no unlearning result" in refused(capsys, tmp_path)
    assert only_table(capsys, tmp_path / "shadows", "--mixed")[0]["FT"]["runs"] == 2
    assert only_table(capsys, tmp_path / "shadows/shadow00")[0]["FT"]["runs"] == 1


@pytest.mark.parametrize("results_too", [True, False])
@pytest.mark.parametrize("style", ["text", "markdown"])
def test_the_numbers_of_ulira_are_printed(tmp_path, capsys, style, results_too):
    """With what chance gives beside them; also from the folder of an audit, where no
    results lie.
    """
    results = [result("FT"), result("retrain", "Retrain")]
    if results_too:
        write(tmp_path, *results)
    (tmp_path / "audit.json").write_text(json.dumps(with_shadows(audit(*results))))
    shadow_run(tmp_path)
    out = run(capsys, tmp_path, "--format", style)
    assert "cifar10" in out.splitlines()[0]
    for words, cell in (
        ("U-LiRA AUC", "0.562 (chance 0.469 to 0.531)"),
        ("TPR at 1 % FPR", "0.031 (0.016 to 0.062)"),
        ("AUC of the median image", "0.625 (chance 0.594)"),
        ("AUC at high memorisation", "0.750"),
        ("TA on the shadow models", "71.25"),
    ):
        (line,) = (line for line in out.splitlines() if words in line)
        assert cell in line
    assert "worst 1 %" not in out  # what no row has is no line
    for other in ("latex", "csv", "json"):
        assert report.main([str(tmp_path), "--format", other]) == 0


def test_a_missing_folder_is_refused(folder, capsys):
    assert str(folder / "missing") in refused(capsys, folder, folder / "missing")


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    """Also where it holds other records only."""
    assert str(tmp_path) in refused(capsys, tmp_path)
    (tmp_path / "mask_result.json").write_text(json.dumps({"schema": 1, "metrics": {}}))
    assert str(tmp_path) in refused(capsys, tmp_path)


@pytest.mark.parametrize("damage", ["", "{", '{"metrics": {"UA": 1', "[1, 2]", "3", "\x00\x01"])
def test_a_damaged_file_is_refused_by_name(folder, capsys, damage):
    bad = folder / "GAresult.json"
    bad.write_text(damage)
    assert str(bad) in refused(capsys, folder)


def test_a_file_that_is_not_text_is_refused_by_name(folder, capsys):
    bad = folder / "GAresult.json"
    bad.write_bytes(b"\xff\xfe\x80 not text")
    assert str(bad) in refused(capsys, folder)


KEYS = [
    ("label",),
    ("method",),
    ("hyperparameters",),
    ("RTE", "total"),
    ("data",),
    ("data", "arch"),
    ("data", "forget"),
    ("data", "forget", "sha256"),
    ("data", "sizes", "retain"),
    ("provenance", "seed"),
]


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_a_result_that_lacks_a_part_is_refused_by_name(folder, capsys, path):
    """Instead of a traceback; the line says what is missing."""
    content = result("GA")
    part = content
    for key in path[:-1]:
        part = part[key]
    del part[path[-1]]
    bad = folder / "GAresult.json"
    bad.write_text(json.dumps(content))
    message = refused(capsys, folder)
    assert str(bad) in message
    assert path[-1] in message


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": None},
        {"metrics": [1]},
        {"data": "cifar10"},
        {"RTE": 3},
        {"metrics": {"UA": "5", "RA": 1, "TA": 1, "MIA": 1}},
    ],
    ids=str,
)
def test_a_result_with_a_part_of_another_kind_is_refused_by_name(folder, capsys, change):
    bad = folder / "GAresult.json"
    bad.write_text(json.dumps(result("GA") | change))
    assert str(bad) in refused(capsys, folder)


@pytest.mark.parametrize("words", [["--format", "xml"], ["--fromat", "csv"], []])
def test_a_wrong_command_line_is_refused(folder, capsys, words):
    """An unknown format, a mistyped flag, no folder at all."""
    refused(capsys, *([folder, *words] if words else []))


@pytest.mark.parametrize(
    "change",
    [
        {"hyperparameters": [1]},
        {"recipe": [1]},
        {"warnings": None},
        {"label": None},
        {"data": ("arch", None)},
        {"data": ("data_sha256", 1)},
        {"data": ("forget", {"kind": "random", "count": "x", "sha256": "f"})},
        {"data": ("sizes", {"retain": -4500})},
        {"provenance": {"seed": []}},
    ],
    ids=str,
)
def test_odd_entries_are_refused_by_file(tmp_path, capsys, change):
    odd, good = result(), result()
    for name, value in change.items():
        odd[name] = odd[name] | dict([value]) if name == "data" else value
    write(tmp_path, odd, good)
    assert report.main([str(tmp_path)]) == 2
    assert "run0" in capsys.readouterr().err


@pytest.mark.parametrize("draw", ["x", [1.0], 10**400, True], ids=["text", "list", "huge", "bool"])
def test_an_odd_draw_of_the_attack_is_refused_by_file(folder, capsys, draw):
    content = drawn(result("GA"), 1, 2, 3, 4)
    content["attack"]["MIA"][1] = draw
    (folder / "GAresult.json").write_text(json.dumps(content))
    assert str(folder / "GAresult.json") in refused(capsys, folder)


def test_runs_with_unlike_numbers_of_draws_get_no_noise_from_them(tmp_path, capsys):
    retrain = [drawn(result("retrain", "Retrain", seed=seed), 1, 2, 3, 4) for seed in (1, 2, 3)]
    write(tmp_path, *retrain, drawn(result("FT"), 1, 2, 3))
    rows, _ = only_table(capsys, tmp_path)
    assert rows["FT"]["MIA_draw_noise"] is None


def test_an_audited_row_without_models_adds_nothing_to_the_table(tmp_path, capsys):
    results = [result("FT"), result("retrain", "Retrain")]
    content = audit(*results)
    content["rows"][0] |= {"models": [], "mean": {"rmia_auc": 0.5}}
    write(tmp_path, *results)
    (tmp_path / "audit.json").write_text(json.dumps(content))
    assert "RMIA" not in run(capsys, tmp_path)


def test_runs_on_other_images_stand_in_another_table(tmp_path):
    other = result(seed=2)
    other["data"]["data_sha256"] = "e" * 64
    assert len(by_scenario(collect([write(tmp_path, result(), other)]))) == 2


def test_several_runs_without_an_attack_have_a_row(tmp_path, capsys):
    run(capsys, write(tmp_path, *runs("FT", "FT", [(5.0, 99.0, 93.0, float("nan"))] * 2)))


OLD_RULE = {"members": "balanced"}


def by_old_rule(run):
    run["attack"] = dict(OLD_RULE)
    return run


def test_two_recipes_of_retrain_are_refused_also_where_their_draws_differ_and_either_can_be_chosen(
    tmp_path, capsys
):
    new = [drawn(result("retrain", "Retrain", seed=seed), 1, 2, 3, 4) for seed in (1, 2)]
    old = [by_old_rule(result("retrain", "Retrain", seed=seed, lr=0.5)) for seed in (1, 2, 3)]
    write(tmp_path, *new, *old)
    assert report.main([str(tmp_path)]) == 2
    assert "2 kinds of Retrain" in capsys.readouterr().err
    for chosen, number in (("lr 0.01", 2), ("lr 0.5", 3)):
        rows, _ = only_table(capsys, tmp_path, "--reference", chosen)
        (row,) = [row for row in rows.values() if row["is_retrain"]]
        assert row["runs"] == number


@pytest.mark.parametrize("olds", [1, 3])
def test_of_one_recipe_the_retrain_is_taken_that_the_methods_are_asked_like(tmp_path, capsys, olds):
    """However many there are of the others, and whatever their folders are called."""
    old = [by_old_rule(result("retrain", "Retrain", seed=seed)) for seed in range(10, 10 + olds)]
    new = [drawn(result("retrain", "Retrain", seed=seed), 1, 2, 3, seed) for seed in (1, 2)]
    write(tmp_path, *old, *new, drawn(result("FT"), 1, 2, 3, 4))
    rows, _ = only_table(capsys, tmp_path)
    (row,) = [row for row in rows.values() if row["is_retrain"]]
    assert row["runs"] == 2


def test_a_row_by_another_rule_has_no_mark_on_its_mia_and_is_never_the_best(tmp_path, capsys):
    retrain = [
        drawn(
            result("retrain", "Retrain", (5.0, 99.0, 93.0 + seed, 0), seed=seed),
            10,
            12,
            14,
            8 + seed,
        )
        for seed in (1, 2, 3)
    ]
    old = by_old_rule(result("FT", values=(5.0, 99.0, 95.0, 11.5)))
    same = drawn(result("GA", values=(9.0, 95.0, 90.0, 0)), 20, 22, 24, 21)
    write(tmp_path, *retrain, old, same)
    rows, _ = only_table(capsys, tmp_path)
    assert rows["FT"]["avg_gap"] < rows["GA"]["avg_gap"]
    assert rows["FT"]["MIA_inside_noise"] is rows["FT"]["inside_noise"] is None
    assert rows["FT"]["TA_inside_noise"]
    assert [name for name, row in rows.items() if row["is_best"]] == ["GA"]


def test_a_destroyed_row_has_no_mark_beside_its_average(tmp_path, capsys):
    """Retrains that differ widely in MIA have a mean band that holds everything."""
    retrain = [
        result("retrain", "Retrain", (5.0, 99.0, 93.0, mia), seed=seed)
        for seed, mia in enumerate((1.0, 50.0, 99.0))
    ]
    for run in retrain:
        run["standing"] = {"accuracy": 99.0, "chance": 10.0, "top_answer": 11.0, "count": 1000}
    gone = result("GA", values=(90.0, 11.0, 10.0, 50.0))
    gone["standing"] = {"accuracy": 11.0, "chance": 10.0, "top_answer": 60.0, "count": 1000}
    write(tmp_path, *retrain, gone, result("FT", values=(60.0, 99.0, 93.0, 50.0)))
    rows, table = only_table(capsys, tmp_path)
    assert any(note.startswith("GA: destroyed") for note in table["notes"])
    assert rows["FT"]["inside_noise"], "the band is that wide"
    assert rows["GA"]["inside_noise"] is False


def test_filter_and_top_choose_rows_beside_retrain_and_say_how_many_are_left_out(tmp_path):
    records = runs("retrain", "Retrain", [(5.0, 99.0, 93.0, 12.0)])
    for lr, off in ((0.1, 3.0), (0.2, 1.0), (0.3, 2.0)):
        records += runs("FT", "FT", [(5.0 + off, 99.0, 93.0, 12.0)], lr=lr)
    records += runs("GA", "GA", [(5.5, 99.0, 93.0, 12.0)])
    (whole,) = scenarios(collect([write(tmp_path, *records)]), [])
    assert chosen_rows(whole, None, None) is whole
    for text, top, wanted, left in (
        ("ft", None, {"0.1", "0.2", "0.3"}, "1 of 4 rows"),
        ("ft", 2, {"0.2", "0.3"}, "2 of 4 rows"),
        (None, 1, {"GA"}, "3 of 4 rows"),
    ):
        chosen = chosen_rows(whole, text, top)
        names = [row["name"] for row in chosen.table["rows"]]
        assert names == list(chosen.groups)
        others = [name for name in names if "Retrain" not in name]
        assert len(others) == len(wanted) == len(names) - 1
        assert all(any(each in name for name in others) for each in wanted)
        assert left in chosen.table["notes"][-1]
    assert report.main([str(tmp_path), "--filter", "no such row"]) == 2


# ------------------------------------------------------------- what is not silently in a table


def test_copies_of_a_result_count_once_and_are_named(folder, capsys):
    """Three copies of one Retrain are no three Retrains."""
    for number in range(3):
        shutil.copytree(folder / "run0", folder / f"copy{number}")
    assert report.main([str(folder), "--format", "json"]) == 0
    captured = capsys.readouterr()
    (table,) = json.loads(captured.out)
    assert table["rows"][0]["runs"] == len(RETRAIN)
    assert "3 results are copies of others and count once" in captured.err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda made: made["metrics"].pop("MIA"), "lacks 'MIA'"),
        (lambda made: made.pop("metrics"), "lacks 'metrics'"),
        (lambda made: made["metrics"].update(UA=400), "UA is 400, a percentage"),
        (lambda made: made["metrics"].update(RA=-5), "RA is -5, a percentage"),
    ],
)
def test_a_result_without_a_metric_or_out_of_range_is_refused_by_name(folder, capsys, change, said):
    made = result("GA", "GA")
    change(made)
    write(folder, made)
    assert report.main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "GAresult.json" in error


def test_a_row_of_several_originals_is_named(folder, capsys):
    made = runs("GA", "GA", SALUN)
    for number, each in enumerate(made):
        each["provenance"]["original_sha256"] = str(number % 2)
    write(folder, *made)
    _, table = only_table(capsys, folder)
    assert "Runs of one row began with up to 2 originals: GA." in table["notes"]


@pytest.mark.parametrize("kind", ["part", "foreign", "whole"])
def test_only_an_audit_of_just_a_rows_weights_is_in_its_column(folder, capsys, kind):
    own = runs("GA", "GA", SALUN)
    write(folder, *own)
    audited = {"part": own[:1], "foreign": runs("GA", "GA", SALUN, lr=0.5), "whole": own}[kind]
    made = audit(*audited)
    made["rows"][0]["mean"] = made["rows"][0]["mean"] | {"rmia_auc": 0.512}
    for model in made["models"]:
        model["chance"] = {"rmia_auc": [0.45, 0.55]}
    (folder / "audit.json").write_text(json.dumps(made))
    assert report.main([str(folder)]) == 0
    text = capsys.readouterr().out
    assert ("0.512" in text) == (kind == "whole")
    words = {
        "part": "left out of the table: GA (1 of 3 models audited)",
        "foreign": "left out of the table: GA (3 of 3 audited models are of no run here)",
        "whole": "",
    }[kind]
    assert words in " ".join(text.split())
    assert ("left out of the table" in text) == bool(words)


@pytest.mark.parametrize("flag", ["--html", "--plots"])
def test_a_place_that_cannot_be_written_is_refused_first(tmp_path, capsys, monkeypatch, flag):
    """Below a file, or in a folder without the right to write, before any result is read."""
    monkeypatch.setattr(report, "collect", lambda dirs: pytest.fail("read"))
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refused(
        capsys, tmp_path, flag, str(tmp_path / "file" / "a" / "b")
    )
    monkeypatch.setattr(os, "access", lambda folder, mode: folder != tmp_path)
    message = refused(capsys, tmp_path, flag, str(tmp_path / "new" / "b"))
    assert "cannot be written; give another place" in message
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("style", ["text", "markdown"])
def test_a_folder_with_an_audit_alone_says_so(tmp_path, capsys, style):
    (tmp_path / "audit.json").write_text(json.dumps(audit(*runs("FT", "FT", [(5, 99, 93, 12)]))))
    assert "Only an audit: its numbers are in audit.json" in run(
        capsys, tmp_path, "--format", style
    )


def test_a_result_of_a_later_version_is_named(tmp_path, capsys):
    write(tmp_path, result() | {"schema": 2})
    assert "is of a later version of this project" in refused(capsys, tmp_path)


@pytest.mark.parametrize("content", [{"schema": 99}, {"schema": 2, "numbers": {}}])
def test_a_later_version_is_named_also_where_its_keys_are_others(tmp_path, capsys, content):
    (tmp_path / "FTresult.json").write_text(json.dumps(content))
    assert "is of a later version of this project" in refused(capsys, tmp_path)


def test_a_file_that_is_no_result_is_named(tmp_path, capsys):
    write(tmp_path, result())
    (tmp_path / "otherresult.json").write_text("{}")
    assert report.main([str(tmp_path)]) == 0
    assert "otherresult.json is no unlearning result and is left out\n" in capsys.readouterr().err


def test_a_page_replaces_a_page_and_nothing_else(tmp_path, capsys):
    write(tmp_path, result())
    page = tmp_path / "page.html"
    for _ in range(2):
        assert report.main([str(tmp_path), "--html", str(page)]) == 0
        capsys.readouterr()
    (written,) = tmp_path.rglob("*.json")
    for other in (written, tmp_path / "weights.html"):
        if not other.exists():
            other.write_bytes(b"PK\x03\x04")
        before = other.read_bytes()
        assert "this file is no page and stays" in refused(capsys, tmp_path, "--html", other)
        assert other.read_bytes() == before
