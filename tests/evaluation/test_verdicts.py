"""Verdicts against closed forms, SciPy, simulation under the null, hand-made outputs
and records.
"""

import json

import numpy as np
import pytest
from records import result, runs, write
from scipy.stats import binom, ttest_rel

import report
from evaluation.alarms import audit_alarms, row_alarms
from evaluation.intervals import Metric
from evaluation.rows import Judged, make_rows
from evaluation.verdicts import (
    Standing,
    at_chance,
    changed_nothing,
    judge,
    judge_alone,
    mean_standing,
    needs_reference,
    once_each,
    paired_error,
    remedies,
    same_accuracy,
    skill,
    standing,
    total_variation,
    verdict_of,
)


def kinds(lines):
    return [verdict_of(line) for line in lines]


def answering(labels, wrong, classes=4, seed=0, sure=8.0):
    """Logits that give the label, but another class on ``wrong`` of the images."""
    rng = np.random.default_rng(seed)
    answers = labels.copy()
    chosen = rng.permutation(len(labels))[:wrong]
    answers[chosen] = (labels[chosen] + 1) % classes
    return sure * np.eye(classes)[answers]


# ----------------------------------------------------------------------------- destroyed, at chance


@pytest.mark.parametrize(
    ("accuracy", "reference", "chance", "verdict"),
    [
        (95.7, 95.7, 50.4, []),  # two classes: "below twice chance" is below 100 %
        (60.0, 62.0, 33.5, []),  # three
        (22.8, 97.0, 11.2, ["destroyed"]),  # above twice chance
        (60.0, 97.0, 60.0, ["destroyed"]),  # one answer for all images where one class has 60 %
        (55.1, 100.0, 10.0, []),
        (54.9, 100.0, 10.0, ["destroyed"]),  # half of what is above chance is at 55
        (3.0, 97.0, 11.2, ["destroyed"]),
        (100.0, 99.0, 50.0, []),
        (float("nan"), 99.0, 50.0, ["destroyed"]),
    ],
)
def test_a_model_is_destroyed_that_has_less_than_half_of_the_reference_s_skill(
    accuracy, reference, chance, verdict
):
    own, other = (Standing(value, chance, 30.0, 5000) for value in (accuracy, reference))
    assert (
        kinds(judge(own, other))
        == kinds(judge(own, None, other))
        == kinds(judge(own, other, other))
        == verdict
    )
    if verdict and accuracy == accuracy:
        assert judge(own, other, advice="do this")[0].endswith(
            f"RA {accuracy:.1f} where the original has {reference:.1f} and chance is "
            f"{chance:.1f}; do this"
        )


def test_skill_is_one_for_the_reference_and_none_at_chance():
    assert (skill(97, 97, 11), skill(11, 97, 11), skill(54, 97, 11)) == (1, 0, 0.5)


def test_retrain_is_the_reference_where_it_is_there():
    own, original, retrain = (
        Standing(accuracy, 10.0, 12.0, 4000) for accuracy in (52.0, 100.0, 90.0)
    )
    assert kinds(judge(own, original)) == ["destroyed"]  # half of the way is at 55
    assert judge(own, original, retrain) == []  # and here at 50
    low = own._replace(accuracy=48.0)
    assert "Retrain has 90.0" in judge(low, original, retrain)[0]


def test_one_answer_for_all_is_destroyed_unless_the_reference_gives_it_too():
    """Of 1,000 images 900 are of class 0, and 8 of the others are found: skill 0.8, but the model
    hardly looks.
    """
    labels = np.repeat([0, 1], [900, 100])
    found = np.repeat([0, 1], [992, 8])
    own = standing(np.eye(2)[found], labels)
    assert own == Standing(pytest.approx(90.8), 90.0, pytest.approx(99.2), 1000)
    reference = Standing(91.0, 90.0, 95.0, 100_000)
    assert kinds(judge(own, reference)) == ["destroyed"]
    assert "99.2 % of the answers" in judge(own, reference)[0]
    assert judge(own, reference._replace(top_answer=99.3)) == []
    assert judge(own, reference._replace(top_answer=None)) == []  # an older result


def test_chance_is_the_largest_class_and_a_forgotten_class_is_none_of_them():
    labels = np.repeat([0, 1, 3], [10, 60, 30])
    constant = standing(np.eye(4)[np.full(100, 1)], labels)
    assert constant == Standing(60.0, 60.0, 100.0, 100)
    assert kinds(judge(constant, standing(answering(labels, 5), labels))) == ["destroyed"]


def test_chance_and_its_error_are_the_binomial_s():
    """A guess at chance is called that in all but the upper 2 standard errors: with SciPy,
    exactly.
    """
    count, chance = 1168, 11.4
    hits = np.arange(count + 1)
    called = np.array([at_chance(Standing(100 * hit / count, chance, None, count)) for hit in hits])
    missed = binom.pmf(hits, count, chance / 100)[~called].sum()
    assert 0.015 < missed < 0.03
    edge = hits[called].max() / count
    assert edge <= 0.114 + 2 * np.sqrt(0.114 * 0.886 / count) < edge + 1 / count
    assert called[: hits[called].max()].all(), "a model below chance knows nothing either"
    assert not at_chance(Standing(5.0)), "without a chance nothing is said"


def test_what_comes_from_a_reference_at_chance_is_not_blamed():
    poor, own = Standing(12.0, 11.4, 100.0, 1168), Standing(5.0, 11.4, 100.0, 1168)
    good = Standing(97.0, 11.4, 12.0, 1168)
    assert judge(own, poor) == judge(own, None, poor) == judge(own, poor, good) == []
    assert "the original has 97.0" in judge(own, good, poor)[0], (
        "a Retrain at chance is no reference"
    )
    assert kinds(judge(own._replace(accuracy=float("nan")), poor)) == ["destroyed"]


def test_of_one_class_no_accuracy_tells_anything():
    """What is retained where one of two classes is forgotten."""
    own = Standing(100.0, 100.0, 100.0, 50)
    assert judge(own, own) == judge_alone(own, "Retrain") == []


def test_retrain_is_judged_alone():
    assert judge_alone(Standing(97.0, 11.0, 12.0, 1000), "Retrain") == []
    assert kinds(judge_alone(Standing(11.0, 11.0, 100.0, 1000), "Retrain")) == ["at chance"]
    assert kinds(judge_alone(Standing(95.0, 30.0, 99.5, 1000), "Retrain")) == ["destroyed"]
    assert kinds(judge_alone(Standing(11.0, 11.0, 60.0, 1000), "Retrain")) == ["at chance"]
    assert kinds(judge_alone(Standing(float("nan")), "Retrain")) == ["destroyed"]


def test_mean_of_retrains_leaves_out_what_older_ones_lack():
    assert mean_standing([]) is None
    assert mean_standing([Standing(90.0), Standing(92.0, 11.0, 13.0, 500)]) == Standing(
        91.0, 11.0, 13.0, 500
    )


# ---------------------------------------------------------------------------------- changed nothing


@pytest.mark.parametrize(
    ("first", "second"), [(5, 5), (5, 9), (5, 14), (5, 25), (0, 3), (0, 5), (40, 40)]
)
def test_same_accuracy_is_a_paired_test_at_two_standard_errors(first, second):
    """Against SciPy's paired t statistic on which images are right."""
    labels = np.arange(400) % 4
    ours, theirs = answering(labels, first, seed=1), answering(labels, second, seed=2)
    right = [(logits.argmax(1) == labels).astype(float) for logits in (ours, theirs)]
    statistic = ttest_rel(*right).statistic if first != second else 0.0
    assert same_accuracy((ours, labels), (theirs, labels)) == (abs(statistic) <= 2)


def test_paired_error_by_hand():
    """3 images lost and 1 won of 100: mean -0.02, variance (4 - 100 * 0.02 ** 2) / 99."""
    differences = np.repeat([-1.0, 1.0, 0.0], [3, 1, 96])
    assert paired_error(differences) == pytest.approx(np.sqrt((4 - 0.04) / 99 / 100))
    assert paired_error(np.zeros(10)) == paired_error(np.ones(1)) == 0
    every = np.arange(4)
    assert not same_accuracy((np.eye(4), every), (np.eye(4), (every + 1) % 4)), (
        "no error, and all of the difference"
    )


def test_same_accuracy_of_models_that_differ_by_chance():
    """Simulated: 40 of 1,000 images flip either way; two standard errors hold in about 95 %."""
    rng = np.random.default_rng(0)
    labels, held = np.zeros(1000, int), 0
    for _ in range(2000):
        sides = np.eye(2)[np.zeros((2, 1000), int)]
        flipped = rng.permutation(1000)[:40]
        sides[rng.integers(0, 2, 40), flipped] = [0, 1]
        held += same_accuracy((sides[0], labels), (sides[1], labels))
    assert 0.93 < held / 2000 < 0.97


def test_total_variation_in_closed_form():
    """Of two classes it is the difference of a probability; of disjoint answers 1; and large logits
    do no harm.
    """
    p, q = np.array([0.9, 0.2]), np.array([0.6, 0.25])
    logits = [np.stack([np.log(each / (1 - each)), np.zeros(2)], 1) for each in (p, q)]
    assert total_variation(*logits) == pytest.approx(np.abs(p - q).mean())
    assert total_variation(np.eye(3) * 2000, np.eye(3)[[1, 2, 0]] * 2000) == 1
    many = np.random.default_rng(0).normal(size=(2, 40_000, 3))
    halves = [total_variation(*many[:, part]) for part in (slice(0, 20_000), slice(20_000, None))]
    assert total_variation(*many) == pytest.approx(np.mean(halves))


def splits_of(sure, wrong=(0, 20, 10, 20), seed=0):
    sizes = {"forget": 50, "retain": 4000, "val": 200, "test": 400}
    found = {}
    for (name, count), some in zip(sizes.items(), wrong, strict=True):
        labels = np.arange(count) % 4
        found[name] = (
            answering(labels, some, seed=seed, sure=sure[name] if isinstance(sure, dict) else sure),
            labels,
        )
    return found


def test_changed_nothing_does_not_ask_for_equal_bits():
    original = splits_of(8.0)
    assert kinds(changed_nothing(original, original)) == ["changed nothing"]
    assert kinds(changed_nothing(splits_of(8.001), original, advice="more")) == ["changed nothing"]
    assert changed_nothing(splits_of(8.001), original, advice="more")[0].endswith("; more")
    assert changed_nothing(splits_of(4.0), original) == [], "as right as before, and less sure"
    assert changed_nothing(splits_of(8.0, wrong=(0, 20, 10, 60)), original) == [], (
        "worse on one split"
    )
    assert changed_nothing({}, original) == []


def test_a_change_of_a_small_forget_set_is_a_change():
    """3 / (3 + e^3) less sure on the 50 forgotten images alone: 0.0014 averaged over images, 0.03
    over splits.
    """
    names = ("forget", "retain", "val", "test")
    assert (
        changed_nothing(
            splits_of({name: 3.0 if name == "forget" else 8.0 for name in names}), splits_of(8.0)
        )
        == []
    )


def test_large_splits_of_the_original_are_asked_for_only_until_it_is_decided():
    asked = []

    class Original(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    changed_nothing(splits_of(2.0), Original(splits_of(8.0)))
    assert set(asked) == {"forget"}
    changed_nothing(splits_of(8.0), Original(splits_of(8.0)))
    assert set(asked) == {"forget", "val", "test", "retain"}


def test_a_reference_is_asked_for_wherever_one_could_call_the_model_destroyed():
    """Over all accuracies of model and reference at three chances."""
    for chance in (10.0, 50.0, 90.0):
        for accuracy in np.linspace(0, 100, 101):
            own = Standing(accuracy, chance, 98.0, 10_000)
            destroyed = [
                judge(own, Standing(other, chance, 12.0, 10_000))
                for other in np.linspace(0, 100, 101)
            ]
            assert needs_reference(own) == any(destroyed)
            assert needs_reference(own._replace(top_answer=99.5))


def test_weights_that_did_not_move_changed_nothing_whatever_batch_norm_did():
    said = changed_nothing(splits_of(2.0), splits_of(8.0), weights_moved=1e-9)
    assert kinds(said) == ["changed nothing"]
    assert "BatchNorm's statistics are others, and moved the probabilities on forget by" in said[0]


@pytest.mark.parametrize("moved", [0.0, 1e-9])
def test_a_copy_of_the_original_is_not_said_to_have_other_statistics(moved):
    (line,) = changed_nothing(splits_of(8.0), splits_of(8.0), weights_moved=moved)
    assert line.startswith("changed nothing: the weights ")
    assert ("are the original's" in line) == (not moved)
    assert line.endswith("; the probabilities on forget did not move")
    assert "BatchNorm" not in line


def test_without_outputs_nothing_is_said_of_statistics():
    assert changed_nothing({}, {}, weights_moved=0.0) == [
        "changed nothing: the weights are the original's"
    ]


def test_an_empty_split_is_left_out():
    original = splits_of(8.0)
    original["val"] = np.zeros((0, 4)), np.zeros(0, int)
    assert kinds(changed_nothing(original, original)) == ["changed nothing"]


# -------------------------------------------------------------------------------------------- lines


def test_lines_are_told_by_their_beginning():
    assert kinds(["destroyed: x", "at chance: x", "changed nothing: x", "x is destroyed"]) == [
        "destroyed",
        "at chance",
        "changed nothing",
        None,
    ]
    assert (
        verdict_of(
            "accuracy fell to chance (RA 95.7, TA 94.0); the model is destroyed, try a lower"
            " learning rate"
        )
        == "destroyed"
    )
    assert once_each([["destroyed: a"], [], ["destroyed: b", "changed nothing: c"]]) == [
        "destroyed: a (2 of 3 runs)",
        "changed nothing: c (1 of 3 runs)",
    ]
    assert once_each([["destroyed: a"]]) == ["destroyed: a"]


def test_the_remedy_is_one_that_the_method_has():
    assert remedies({"unlearn_lr": 0.1, "alpha": 1}) == (
        "try a lower learning rate",
        "try a higher learning rate or more epochs",
    )
    assert remedies({"alpha": 1.0, "damping": 1.0})[0] == "try other values of --alpha, --damping"
    assert remedies({}) == ("", "")
    repairing = remedies({"unlearn_lr": 0.1, "noise": 0.6}, ("noise",))
    assert "more epochs, another learning rate, a smaller --noise" in repairing[0]
    assert repairing[1] == "try a higher learning rate or more epochs"


# -------------------------------------------------------------------------------------------- audit


def judged(role, splits, metrics=None, raw=False):
    percent = {"UA": 0.0, "RA": standing(*splits["retain"]).accuracy, "TA": 90.0, **(metrics or {})}
    found = {name: Metric(value) for name, value in percent.items()}
    label = {"models": "FT", "retrain": "Retrain", "original": "Original"}[role]
    return Judged(label, role, role, 1, splits, found, raw=raw)


def alarms_of(*models):
    rows, _ = make_rows(models)
    return row_alarms(rows[0], models)


def test_audit_judges_two_classes_and_a_real_collapse():
    labels = np.arange(2000) % 2

    def two(wrong, seed=0):
        return {
            "retain": (answering(labels, wrong, 2, seed), labels),
            "forget": (answering(labels[:50], 0, 2), labels[:50]),
        }

    original, retrain = judged("original", two(60)), judged("retrain", two(80, seed=1))
    assert alarms_of(judged("models", two(90, seed=2)), retrain, original) == []
    assert kinds(alarms_of(judged("models", two(700, seed=2)), retrain, original)) == ["destroyed"]
    assert "Retrain has 96.0" in alarms_of(judged("models", two(700, seed=2)), retrain, original)[0]
    assert "the original has 97.0" in alarms_of(judged("models", two(700, seed=2)), original)[0]


def test_audit_names_no_original_and_no_forgotten_class():
    original = judged("original", splits_of(8.0))
    assert alarms_of(original) == []
    assert alarms_of(judged("models", splits_of(8.0), raw=True), original) == []
    assert kinds(alarms_of(judged("models", splits_of(8.0)), original)) == ["changed nothing"]
    forgot = judged("models", splits_of(8.0, wrong=(50, 20, 10, 20)), {"UA": 100.0})
    assert alarms_of(forgot, original) == []


def test_audit_says_once_that_the_original_is_at_chance():
    labels = np.arange(2000) % 4
    blind = {"retain": (np.eye(4)[np.zeros(2000, int)], labels)}
    original = judged("original", blind)
    assert alarms_of(judged("models", blind), original) == []
    (line,) = [
        line for line in audit_alarms([judged("models", blind), original]) if verdict_of(line)
    ]
    assert line.startswith("at chance: the original has RA 25.0 where chance is 25.0")


# ------------------------------------------------------------------------------------------- report


def judged_result(*args, chance=10.0, top=12.0, original=(100.0, 11.0), **changes):
    found = result(*args, **changes)
    found["standing"] = Standing(found["metrics"]["RA"], chance, top, 40500)._asdict()
    if original:
        found["original_standing"] = Standing(original[0], chance, original[1], 40500)._asdict()
    return found


def retrains(*accuracies, **changes):
    return [
        judged_result(
            "retrain", "Retrain", (5.0, accuracy, 90.0, 12.0), seed=seed, original=None, **changes
        )
        for seed, accuracy in enumerate(accuracies, 1)
    ]


def table_of(capsys, folder, *results):
    write(folder, *results)
    assert report.main([str(folder), "--format", "json"]) == 0
    captured = capsys.readouterr()
    (table,) = json.loads(captured.out)
    # Fewer than three Retrains is said in another test.
    return {row["name"]: row for row in table["rows"]}, [
        note for note in table["notes"] if not note.startswith("~")
    ]


def test_report_judges_by_retrain_in_the_place_of_the_run(tmp_path, capsys):
    """FT was destroyed beside its original and is not beside Retrain; with GA it is the other way
    round. One line each, none twice.
    """
    own = (
        "destroyed: RA 52.0 where the original has 100.0 and chance is 10.0; try a lower learning"
        " rate"
    )
    rows, notes = table_of(
        capsys,
        tmp_path,
        *retrains(90.0, 90.0),
        judged_result("FT", values=(5.0, 52.0, 90.0, 12.0), warnings=[own]),
        judged_result(
            "GA", values=(5.0, 49.0, 90.0, 12.0), original=(80.0, 12.0), warnings=["other"]
        ),
        judged_result("RL", values=(5.0, 20.0, 90.0, 12.0), warnings=[own.replace("52", "20")]),
    )
    assert [note for note in notes if note.startswith("FT:")] == []
    assert (
        "GA: destroyed: RA 49.0 where Retrain has 90.0 and chance is 10.0; try a lower learning"
        " rate" in notes
    )
    assert [note for note in notes if note.startswith("RL:")] == [
        "RL: destroyed: RA 20.0 where Retrain has 90.0 and chance is 10.0; try a lower learning"
        " rate"
    ]
    assert "GA: other" in notes
    assert {name: row["warnings"] for name, row in rows.items()} == {
        "Retrain": 0,
        "FT": 0,
        "GA": 1,
        "RL": 1,
    }
    assert [name for name, row in rows.items() if row["is_best"]] == ["FT"]


def test_report_gives_the_best_to_no_destroyed_row_and_to_none_that_changed_nothing(
    tmp_path, capsys
):
    rows, _ = table_of(
        capsys,
        tmp_path,
        *retrains(30.0, 30.0),
        judged_result("GA", values=(5.0, 19.0, 90.0, 12.0)),
        judged_result("RL", values=(5.0, 30.0, 90.0, 12.0), warnings=["changed nothing: x"]),
        judged_result("FT", values=(50.0, 50.0, 50.0, 50.0)),
    )
    assert rows["RL"]["avg_gap"] < rows["GA"]["avg_gap"] < rows["FT"]["avg_gap"]
    assert [name for name, row in rows.items() if row["is_best"]] == ["FT"]


def test_report_of_two_classes_and_of_one_answer(tmp_path, capsys):
    two = {"chance": 50.5}
    _, notes = table_of(
        capsys,
        tmp_path,
        *retrains(95.9, 96.1, **two),
        judged_result("FT", values=(4.0, 95.7, 95.0, 5.0), **two),
        judged_result("raw", "Original", values=(4.0, 50.0, 50.0, 5.0), **two),
    )
    assert notes == []
    (tmp_path / "one").mkdir()
    _, notes = table_of(
        capsys,
        tmp_path / "one",
        *retrains(91.0, 91.0, chance=90.0),
        judged_result("FT", values=(4.0, 90.8, 95.0, 5.0), chance=90.0, top=99.5),
    )
    assert notes == [
        "FT: destroyed: 99.5 % of the answers on retain are one class, of Retrain 12.0 %; try a"
        " lower learning rate"
    ]


def test_report_says_once_and_of_no_row_that_the_original_is_at_chance(tmp_path, capsys):
    line = "at chance: the original has RA 10.1 where chance is 10.0, so"
    poor = {"original": (10.1, 100.0), "warnings": [line]}
    _, notes = table_of(
        capsys,
        tmp_path,
        *retrains(97.0, 97.0),
        judged_result("FT", values=(90.0, 10.0, 10.0, 5.0), **poor),
        judged_result("GA", values=(90.0, 9.0, 10.0, 5.0), **poor),
    )
    assert notes == [line]


def test_results_from_before_keep_their_own_words(tmp_path, capsys):
    old = (
        "accuracy fell to chance (RA 15.0, TA 15.0); the model is destroyed, try a lower learning"
        " rate"
    )
    _, notes = table_of(
        capsys,
        tmp_path,
        *runs("retrain", "Retrain", [(5.0, 97.0, 90.0, 12.0)] * 2),
        result("GA", values=(5.0, 15.0, 15.0, 1.0), warnings=[old]),
    )
    assert f"GA: {old}" in notes
    (tmp_path / "new").mkdir()
    _, notes = table_of(
        capsys,
        tmp_path / "new",
        *retrains(97.0, 97.0),
        result("GA", values=(5.0, 15.0, 15.0, 1.0), warnings=[old]),
    )
    assert notes == [
        "GA: destroyed: RA 15.0 where Retrain has 97.0 and chance is 10.0; try a lower learning"
        " rate"
    ]


@pytest.mark.parametrize(
    "odd", [{"accuracy": "x"}, {"accuracy": 1.0, "chance": "x"}, {"chance": 1.0}, [1], "x", 3]
)
@pytest.mark.parametrize("name", ["standing", "original_standing"])
def test_a_damaged_standing_is_refused_by_file(tmp_path, capsys, name, odd):
    write(tmp_path, result("FT") | {name: odd})
    assert report.main([str(tmp_path)]) == 2
    assert "FTresult.json" in capsys.readouterr().err
