"""Suites, rows and cache on made-up outputs: against scikit-learn, at chance, on a model that knows
its members, under symmetries.
"""

import dataclasses

import numpy as np
import pytest
import torch
from helpers import flat, make_data, make_image_set, make_model, within_chance
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score

from engine import predict
from evaluation import rows, suites
from evaluation.accuracy import accuracies
from evaluation.alarms import audit_alarms, row_alarms
from evaluation.attacks import class_weights
from evaluation.distributions import distribution_gaps
from evaluation.gaps import inside_noise
from evaluation.intervals import Metric, chances_of, intervals_of, values_of
from evaluation.membership import DrawRule, means, svc_attack, svc_draws
from evaluation.metrics import DEFINITIONS, define, definition_table
from evaluation.references import ulira_by_memorisation, ulira_summary
from evaluation.rows import Judged, make_rows
from evaluation.scores import margin
from evaluation.suites import basic, class_accuracies, curves, held_out, left_out, standard
from stages.cache import cached

SIZES = {"forget": 120, "retain": 400, "val": 120, "test": 300}
CLASSES = 4


def noise(rng, count):
    """Outputs that know nothing: logits that do not depend on the labels."""
    return rng.normal(0, 2, (count, CLASSES)), np.arange(count) % CLASSES


def outputs(seed=0, knows=()):
    """Splits of a model that is certain of the labels of the splits in ``knows`` and guesses the
    others.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for name, count in SIZES.items():
        logits, labels = noise(rng, count)
        if name in knows:
            logits[np.arange(count), labels] += 30
        found[name] = logits, labels
    return found


def test_attacks_know_nothing_of_a_model_that_knows_nothing():
    for seed in range(3):
        _all_at_chance(basic(outputs(seed)))


def _all_at_chance(found):
    """Within what all but one in a thousand draws give; the intervals of chance are for one in
    twenty.
    """
    assert len(chances_of(found)) > 8
    for name in chances_of(found):
        assert within_chance(found[name], 3.29 / 1.96), name


def test_attacks_know_nothing_of_a_network_that_never_trained():
    """Real images with a real signal in them, but no weight has seen one."""
    data = make_data(make_image_set(train=2000, test=400), count=200)
    model = make_model()
    _all_at_chance(
        basic(
            {
                name: tuple(part.numpy() for part in predict(model, loader))
                for name, loader in data.evaluation.items()
            }
        )
    )


def test_bf16_logits_would_falsify_an_attack():
    """Why evaluation stays in fp32: two logits of a forget image and of an unseen one that differ
    by 0.02 are one in bf16.
    """
    splits = outputs()
    rng = np.random.default_rng(0)
    for name in ("forget", "val"):
        logits, labels = splits[name]
        logits[:] = 0
        logits[np.arange(len(labels)), labels] = (
            12 + rng.uniform(0, 0.02, len(labels)) + 0.02 * (name == "forget")
        )
    rounded = {
        name: (torch.from_numpy(logits).bfloat16().double().numpy(), labels)
        for name, (logits, labels) in splits.items()
    }
    assert basic(splits)["loss_auc"].value == 1
    assert basic(rounded)["loss_auc"].value < 0.9


def test_attacks_know_all_of_a_model_that_knows_its_members_by_heart():
    found = values_of(basic(outputs(knows=("forget", "retain"))))
    assert found["loss_auc"] == found["m_entropy_auc"] == found["entropy_auc"] == 1
    assert found["loss_threshold_balanced_accuracy"] > 0.97
    assert found["loss_tpr_at_fpr_0.1"] == 1
    assert found["svc_margin_tnr"] < 3
    assert found["svc_margin_tnr_held_out"] > 97
    assert found["lr_loss_accuracy"] > 0.85  # one smooth threshold, and a guess in four is right
    assert found["lr_entropy_member_rate"] > 0.97


def test_without_validation_images_what_needs_none_is_still_there():
    """Retain and test teach MIA and the entropy attack, which find the same with validation."""
    splits = outputs(knows=("forget", "retain"))
    none = splits | {"val": (np.empty((0, 0), np.float32), np.empty(0, np.int64))}
    whole, found = values_of(basic(splits)), values_of(basic(none))
    taught = [name for name in whole if name.startswith("svc_") and not name.endswith("held_out")]
    assert len(taught) > 4
    for name in (*taught, "lr_entropy_member_rate", "UA", "RA", "TA", "loss_forget"):
        assert found[name] == whole[name], name
    assert not [name for name in found if "held_out" in name or "auc" in name]
    (said,) = left_out(none, [f"c{i}" for i in range(100)])
    assert "no held-out image is there" in said


def test_retrain_passes_its_own_audit():
    """Models that know retain and nothing else: forget is to them what val is, and RMIA and LiRA by
    others of them see nothing.
    """
    models = [outputs(seed, knows=("retain",)) for seed in range(4)]
    metrics = [basic(splits) for splits in models]
    found = standard(models[0], metrics[0], models[1:], metrics[1:])
    for name in ("rmia_auc", "lira_auc"):
        assert within_chance(found[name], 3.29 / 1.96)
    assert found["js_forget"].value > 0


def test_basic_equals_scikit_learn_and_the_functions_of_a_run():
    splits = outputs(3, knows=("retain",))
    metrics = basic(splits, DrawRule(seed=5))
    found, intervals, chance = values_of(metrics), intervals_of(metrics), chances_of(metrics)
    assert {name: found[name] for name in ("UA", "RA", "TA", "VA")} == accuracies(splits)
    for name, split in (("RA", "retain"), ("TA", "test")):
        logits, labels = splits[split]
        assert found[name] == pytest.approx(100 * accuracy_score(labels, logits.argmax(1)))
        assert intervals[name][0] <= found[name] <= intervals[name][1]
    assert intervals["UA"][0] <= found["UA"] <= intervals["UA"][1]
    wanted = svc_attack(splits["retain"], splits["test"], splits["forget"], DrawRule(seed=5))
    assert {name: found[f"svc_{name}_tnr"] for name in wanted} == {
        name: 100 * share for name, share in wanted.items()
    }
    losses = [
        -np.log(_softmax(splits[name][0])[np.arange(SIZES[name]), splits[name][1]])
        for name in ("forget", "val")
    ]
    truth = np.repeat([1, 0], [120, 120])
    assert found["loss_auc"] == pytest.approx(roc_auc_score(truth, -np.concatenate(losses)))
    assert found["loss_forget"] == pytest.approx(losses[0].mean())
    assert chance["loss_auc"][0] < 0.5 < chance["loss_auc"][1]


def _softmax(logits):
    p = np.exp(logits - logits.max(1, keepdims=True))
    return p / p.sum(1, keepdims=True)


def test_svc_of_several_splits_is_that_of_each():
    splits = outputs(1, knows=("retain",))
    parts = {
        "a": splits["forget"],
        "b": splits["val"],
        "none": (np.zeros((0, CLASSES)), np.zeros(0, np.int64)),
    }
    found = means(svc_draws(splits["retain"], splits["test"], parts, DrawRule(seed=2)))
    for name in ("a", "b"):
        assert found[name] == svc_attack(
            splits["retain"], splits["test"], parts[name], DrawRule(seed=2)
        )
    assert all(np.isnan(list(found["none"].values())))


def test_held_out_is_of_the_forgotten_classes():
    splits = outputs()
    splits["forget"] = splits["forget"][0], np.full(120, 2)
    logits, labels = held_out(splits)
    assert len(labels) == 30
    assert (labels == 2).all()
    np.testing.assert_array_equal(logits, splits["val"][0][splits["val"][1] == 2])
    splits["test_forgotten"] = splits["test"][0][:50], np.full(50, 2)
    assert len(held_out(splits)[1]) == 50
    assert "forgotten_class_accuracy" in basic(splits)


def skewed(seed, knows=()):
    """Splits of a model to which class 0 comes easily and the others hard; 82 % of the forget
    images are of class 0.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for name, count in {"forget": 200, "retain": 400, "val": 400, "test": 400}.items():
        labels = (
            np.where(np.arange(count) < 0.82 * count, 0, 1 + np.arange(count) % 3)
            if name == "forget"
            else np.arange(count) % CLASSES
        )
        logits = rng.normal(0, 1, (count, CLASSES))
        logits[np.arange(count), labels] += np.where(labels == 0, 4, 1) + 30 * (name in knows)
        found[name] = logits, labels
    return found


def test_a_true_retrain_is_at_chance_on_a_list_of_mostly_one_class():
    """Every attack that compares forget with held-out images, RMIA and LiRA among them; and a leak
    is still seen.
    """
    models = [skewed(seed) for seed in range(3)]
    metrics = [basic(splits) for splits in models]
    found = basic(models[0]) | standard(models[0], metrics[0], models[1:], metrics[1:])
    assert {"loss_auc", "rmia_auc", "lira_auc", "lr_loss_accuracy"} <= found.keys()
    _all_at_chance(found)
    truth = np.repeat([1, 0], [200, 400])
    weights = np.concatenate(
        [np.ones(200), class_weights(models[0]["forget"][1], models[0]["val"][1])]
    )
    losses = np.concatenate(
        [
            -np.log(_softmax(models[0][name][0])[np.arange(n), models[0][name][1]])
            for name, n in (("forget", 200), ("val", 400))
        ]
    )
    area = found["loss_auc"].value
    assert area == pytest.approx(roc_auc_score(truth, -losses, sample_weight=weights))
    line = curves(models[0], [])["roc"]["loss"]
    assert np.trapezoid(line["tpr"], line["fpr"]) == pytest.approx(area, abs=0.01)
    assert basic(skewed(0, knows=("forget",)))["loss_auc"].value > 0.99


def test_the_support_vector_attack_has_its_held_out_rate_of_the_forget_sets_classes():
    """82 % of one easy class: of a true Retrain the two rates agree; unweighted, they are up to 40
    points apart.
    """
    splits = skewed(0)
    found = values_of(basic(splits))
    weights = class_weights(splits["forget"][1], splits["val"][1])
    shares = {
        c: svc_attack(
            splits["retain"],
            splits["test"],
            tuple(part[splits["val"][1] == c] for part in splits["val"]),
        )["confidence"]
        for c in range(CLASSES)
    }
    by_class = [weights[splits["val"][1] == c].sum() * share for c, share in shares.items()]
    expected = 100 * sum(by_class) / weights.sum()
    assert found["svc_confidence_tnr_held_out"] == pytest.approx(expected)
    for feature in ("confidence", "margin"):
        apart = found[f"svc_{feature}_tnr"] - found[f"svc_{feature}_tnr_held_out"]
        assert abs(apart) < 12


def test_rmia_sees_a_whole_class_that_was_kept():
    """Retrain models never saw the class, so that each of its images is far above every test image
    of the others: a share of these is 1 for all.
    """

    def of_class(knows, seed):
        rng = np.random.default_rng(seed)
        found = {}
        for name, (count, height, known) in {
            "retain": (600, 9, True),
            "test": (300, 7, True),
            "val": (150, 7, True),
            "forget": (120, 9, knows),
            "test_forgotten": (60, 7, knows),
        }.items():
            own = name in ("forget", "test_forgotten")
            labels = np.full(count, 3) if own else np.arange(count) % 3
            logits = rng.normal(0, 1, (count, CLASSES))
            logits[np.arange(count), labels] += height if known else -6
            found[name] = logits, labels
        return found

    kept, *retrains = [of_class(seed == 0, seed) for seed in range(4)]
    found = standard(kept, basic(kept), retrains, [basic(each) for each in retrains])
    assert found["rmia_auc"].value > 0.8
    assert not within_chance(found["rmia_auc"])


def test_a_class_of_two_is_attacked_as_in_a_run():
    rng = np.random.default_rng(0)
    splits = {}
    for name, label in {"forget": 1, "retain": 0, "val": 0, "test": 0, "test_forgotten": 1}.items():
        logits = rng.normal(0, 1, (60, 2))
        logits[:, 0] += 2
        splits[name] = logits, np.full(60, label)
    found = values_of(basic(splits))
    wanted = svc_attack(splits["retain"], splits["test"], splits["forget"])
    assert found["svc_confidence_tnr"] == pytest.approx(100 * wanted["confidence"])


def test_few_held_out_images_are_said():
    splits = skewed(0)
    splits["val"] = tuple(part[:8] for part in splits["val"])
    (line,) = left_out(splits, "abcd")
    assert line.startswith("8 held-out images")


def test_a_forgotten_class_without_held_out_images_leaves_out_what_compares_with_them():
    """No AUC, no threshold; the papers' attacks stay, and the audit says it once."""
    splits = [skewed(seed) for seed in range(3)]
    for each in splits:
        logits, labels = each["val"]
        each["val"] = logits[labels != 2], labels[labels != 2]
    metrics = [basic(each) for each in splits]
    assert not [
        name for name in metrics[0] if "_auc" in name or "threshold" in name or "held_out" in name
    ]
    assert {"svc_confidence_tnr", "lr_entropy_member_rate"} <= metrics[0].keys()
    more = standard(splits[0], metrics[0], splits[1:], metrics[1:])
    assert {"tow", "tow_mia"} <= more.keys()
    assert not [name for name in more if "_auc" in name]
    assert curves(splits[0], splits[1:]) == {}
    models = [
        _judged(i, each, metrics[i], role)
        for i, (each, role) in enumerate(
            zip(splits, ("models", "retrain", "original"), strict=True)
        )
    ]
    assert not any("at chance" in line for line in audit_alarms(models))
    (line,) = left_out(splits[0], "abcd")
    assert "forgotten class c" in line
    assert left_out(skewed(0), "abcd") == []


def test_too_few_images_to_attack_leave_the_accuracies():
    splits = outputs()
    splits["val"] = splits["val"][0][:5], splits["val"][1][:5]
    assert "loss_auc" not in basic(splits)
    assert "UA" in basic(splits)
    assert curves(splits, []) == {}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_metrics_depend_on_no_order_no_shift_and_no_name_of_classes(seed):
    """But for the support-vector machines, whose members are drawn by position."""
    rng = np.random.default_rng(seed)
    splits = outputs(seed % 50, knows=("retain",))
    names = rng.permutation(CLASSES)
    moved = {}
    for name, (logits, labels) in splits.items():
        order = rng.permutation(len(labels))
        shifted = logits[order] + rng.normal(0, 5, (len(labels), 1))
        moved[name] = shifted[:, np.argsort(names)], names[labels[order]]
    before, after = flat(basic(splits)), flat(basic(moved))
    for name, value in before.items():
        if not name.startswith("svc_"):
            assert after[name] == pytest.approx(value, abs=1e-9), name


def test_class_accuracies_are_those_of_each_class():
    splits = outputs(2)
    found = class_accuracies(splits, ("a", "b", "c", "d"))
    logits, labels = splits["test"]
    assert found["test"]["c"] == pytest.approx(100 * np.mean(logits[labels == 2].argmax(1) == 2))
    assert set(found) == set(SIZES)


def test_a_model_is_at_no_distance_from_itself():
    splits = outputs(4)
    metrics = basic(splits)
    found = values_of(standard(splits, metrics, [splits], [metrics]))
    assert found["tow"] == found["tow_mia"] == 1
    for name in ("js", "activation_distance", "disagreement"):
        assert [found[f"{name}_{split}"] for split in suites.COMPARED_ON] == pytest.approx(
            [0, 0, 0], abs=1e-15
        )
    assert "lira_auc" not in found  # one reference has no spread
    assert standard(splits, metrics, [], []) == {}


def test_curves_add_up():
    found = curves(outputs(1, knows=("retain",)), [outputs(2, knows=("retain",))])
    for histogram in found["histograms"].values():
        assert len(histogram["edges"]) == suites.BINS + 1
        assert sum(histogram["forget"]) == pytest.approx(1)
        assert sum(histogram["held_out"]) == pytest.approx(1)
    for line in found["roc"].values():
        assert line["fpr"][0] == 0
        assert (line["fpr"][-1], line["tpr"][-1]) == (1, 1)
        assert (np.diff(line["fpr"]) >= 0).all()
        assert (np.diff(line["tpr"]) >= 0).all()
        assert len(line["fpr"]) <= suites.ROC_POINTS + 1
    assert set(found["roc"]) == {"loss", "rmia"}


def test_every_name_that_a_suite_gives_is_defined_and_every_definition_has_a_name():
    models = [outputs(seed, knows=("retain",)) for seed in range(3)]
    for splits in models:
        splits["test_forgotten"] = splits["forgotten_before"] = splits["val"]
    metrics = [basic(splits) for splits in models]
    judged = [_judged(i, splits, metrics[i]) for i, splits in enumerate(models)]
    others = [_judged(i, splits, metrics[i], "retrain") for i, splits in enumerate(models)]
    rng, member = np.random.default_rng(0), np.arange(54).reshape(6, 9) % 2 == 0
    margins = rng.normal(size=(6, 9))
    (row, _), floors = make_rows([*judged, *others])
    names = {
        *metrics[0],
        *standard(models[0], metrics[0], models[1:], metrics[1:]),
        *distribution_gaps(judged, others, audit=True),
        *ulira_summary(margins, margins, member),
        *ulira_by_memorisation(margins, member, np.arange(9)),
        *(name for name in row if "gap_" in name),
        *(name for name in floors if name != "runs"),
        *("ulira_TA", "relearn_steps", "relearn_ratio", "relearn_accuracy"),
    }
    used = {id(define(name)) for name in names}
    unused = [pattern for pattern, each in DEFINITIONS.items() if id(each) not in used]
    assert not unused
    for name in names:
        if (end := define(name).chance) is not None:
            assert name + end in names
    for pattern, definition in DEFINITIONS.items():
        assert definition.group
        assert definition.source != "-"
        assert f" | `{pattern.split('|')[0]}`" in definition_table()


def test_a_metric_without_a_definition_is_refused_where_it_is_computed(monkeypatch):
    losses = suites._losses
    monkeypatch.setattr(suites, "_losses", lambda splits: losses(splits) | {"odd": Metric(1.0)})
    with pytest.raises(LookupError, match="metric odd has no definition: add one to DEFINITIONS"):
        basic(outputs())


# --------------------------------------------------------------------------------------------- rows


def _judged(seed, splits, metrics, role="models", label="FT"):
    return Judged(label, role, label + role, seed, splits, metrics)


def _front(ua, ra=100.0, ta=90.0, mia=10.0, **more):
    numbers = {"UA": ua, "RA": ra, "TA": ta, "svc_confidence_tnr": mia, **more}
    chances = {"loss_auc": (0.45, 0.55)}
    return {name: Metric(value, None, chances.get(name)) for name, value in numbers.items()}


def test_noise_of_the_draws_is_in_the_marks_of_mia_and_in_a_quarter_of_the_average_s():
    """The same numbers and draws as test_report's: 6 points off, seeds of Retrain explain 4.97, the
    draws' own noise the rest.
    """
    splits, draws = outputs(), np.array([10, 20, 30, 40.0])
    retrain = [
        dataclasses.replace(
            _judged(seed, splits, _front(5.0, mia=25.0 + seed), "retrain", "Retrain"),
            by_draw={"svc_confidence_tnr": draws + seed},
        )
        for seed in (1, 2, 3)
    ]
    quiet = _judged(1, splits, _front(5.0, mia=33.0))
    noisy = dataclasses.replace(quiet, by_draw={"svc_confidence_tnr": draws + 2 + [4.0, 8, 4, 8]})
    for model, mark in ((quiet, False), (noisy, True)):
        (row, own), _ = make_rows([model, *retrain])
        assert row["inside_noise"]["svc_confidence_tnr"] is mark
        assert own["inside_noise"] == {}  # Retrain is not marked as being inside itself
    retrain = [
        dataclasses.replace(model, metrics=_front(5.0, mia=25.0 + model.seed / 10))
        for model in retrain
    ]
    marks = [
        make_rows([dataclasses.replace(model, metrics=_front(5.0, mia=28.0)), *retrain])[0][0]
        for model in (quiet, noisy)
    ]
    assert [row["inside_noise"]["gap_of_means"] for row in marks] == [False, True]


def test_a_model_whose_weights_did_not_move_changed_nothing_whatever_its_statistics_did():
    splits = {
        name: (logits + (name == "forget") * np.eye(logits.shape[1])[0], labels)
        for name, (logits, labels) in outputs().items()
    }
    models = [
        _judged(1, splits, _front(5.0)),
        _judged(1, outputs(), _front(5.0), "original", "Original"),
    ]
    for moved, said in ((1.0, []), (1e-9, ["changed nothing"])):
        models[0] = dataclasses.replace(models[0], weights_moved=moved)
        (row, _), _ = make_rows(models)
        assert [line.split(":")[0] for line in row_alarms(row, models) if "changed" in line] == said


def test_rows_by_hand():
    """Two runs against two Retrains, on numbers whose gaps are counted on fingers."""
    splits = outputs()
    ours = [_judged(2, splits, _front(3.0)), _judged(3, splits, _front(5.0))]
    retrain = [
        _judged(3, splits, _front(6.0), "retrain", "Retrain"),
        _judged(2, splits, _front(8.0, mia=14.0), "retrain", "Retrain"),
    ]
    rows, floors = make_rows([*ours, *retrain])
    assert [row["models"] for row in rows] == [[0, 1], [2, 3]]
    first = rows[0]
    assert first["gap"] == {"UA": -3.0, "RA": 0.0, "TA": 0.0, "svc_confidence_tnr": -2.0}
    assert first["gap_of_means"] == pytest.approx(5 / 4)
    assert first["mean_paired_gap"] == pytest.approx(
        ((8 - 3) + (6 - 5) + (14 - 10)) / 8
    )  # seed 2 with seed 2
    assert first["sd"]["UA"] == pytest.approx(2**0.5)
    # Student's t at one degree of freedom, times sqrt 2 / sqrt 2; a share ends at 0.
    assert first["ci"]["UA"] == pytest.approx((0, 4 + 12.706), abs=1e-3)
    assert floors["UA"] == pytest.approx(
        2 / 2**0.5
    )  # two runs differ by 2, means of two by sqrt 2 less
    assert floors["runs"] == 2
    assert rows[0]["inside_noise"] == rows[1]["inside_noise"] == {}  # two Retrains mark nothing
    assert "gap_of_means_entropy" not in first


def test_both_average_gaps_and_their_marks_by_hand():
    """Three Retrains, one run: UA is 2 off, the support-vector rate 4 points, the entropy rate 0.9
    of a share.
    """
    splits = outputs()
    retrain = [
        _judged(
            i,
            splits,
            _front(6.0 + i, mia=10.0 + i, lr_entropy_member_rate=0.5 + 0.01 * i),
            "retrain",
            "Retrain",
        )
        for i in range(3)
    ]
    rows, floors = make_rows(
        [_judged(1, splits, _front(9.0, mia=15.0, lr_entropy_member_rate=0.91)), *retrain]
    )
    row = rows[0]
    assert row["gap_of_means"] == pytest.approx((2 + 4) / 4)
    assert row["gap_of_means_entropy"] == pytest.approx((2 + 40) / 4)
    assert row["mean_paired_gap"] == pytest.approx((2 + 4) / 4)  # seed 1 has the mean values
    assert row["mean_paired_gap_entropy"] == pytest.approx((2 + 40) / 4)
    band = 4.3027 * (4 / 3) ** 0.5  # times a standard deviation of 1 for both, 0 for RA and TA
    assert 4 < band < 5 < 40
    assert row["inside_noise"] == {
        "UA": True,
        "RA": True,
        "TA": True,
        "svc_confidence_tnr": True,
        "lr_entropy_member_rate": False,
        "gap_of_means": True,
        "gap_of_means_entropy": False,
    }
    assert floors["runs"] == 1
    assert floors["gap_of_means"] == pytest.approx(floors["gap_of_means_entropy"])
    assert floors["mean_paired_gap"] == pytest.approx(2 * (1 + 1 + 2) / 3 / 4)


@pytest.mark.parametrize("name", ["js_forget", "kl_retrain_unlearned_test", "tow"])
def test_floor_of_a_distance_is_retrains_own_distance(name):
    """Two Retrains are at one distance from each other: that is the floor, not the 0 between two
    equal numbers; three make marks.
    """
    splits = outputs()

    def rows_of(ours, *theirs):
        retrain = [
            _judged(i, splits, _front(5.0, **{name: value}), "retrain", "Retrain")
            for i, value in enumerate(theirs)
        ]
        return make_rows([_judged(0, splits, _front(5.0, **{name: ours})), *retrain])

    rows, floors = rows_of(0.9, 0.5, 0.5)
    assert floors[name] == pytest.approx(0.5)
    assert name not in rows[0]["inside_noise"]
    rows, floors = rows_of(0.5, 0.4, 0.5, 0.625)
    assert floors[name] == pytest.approx(
        0.5 if name == "tow" else 1.525 / 3
    )  # by its logarithm the geometric mean
    assert rows[0]["inside_noise"][name]
    assert not rows_of(1e-9 if name == "tow" else 9.0, 0.4, 0.5, 0.625)[0][0]["inside_noise"][name]


def test_tow_is_judged_on_its_logarithm():
    """Mean -log ToW 1, 2 and 3: the band is 4.303 x 2 x sqrt(4/3) x 1 = 9.94 around 2, hence from 1
    down to e^-11.94; 0 is outside.
    """
    retrain = np.exp([-1.0, -2.0, -3.0])
    inside = [
        rows.inside("tow", np.array([value]), retrain)
        for value in (1.0, np.exp(-11.9), np.exp(-12.0), 0.0)
    ]
    assert inside == [True, True, False, False]
    assert rows.inside("tow", np.array([0.0]), retrain[:2]) is None
    assert rows.inside("tow", np.array([0.5]), np.array([0.5, 0.5, 0.0])) is None


def test_rows_leave_out_what_is_not_a_number():
    splits = outputs()
    rows, floors = make_rows([_judged(2, splits, _front(1.0, odd=float("nan"), none=float("inf")))])
    assert set(rows[0]["mean"]) == set(_front(1.0))
    assert floors == rows[0]["gap"] == rows[0]["inside_noise"] == {}
    assert "gap_of_means" not in rows[0]


def test_alarms_of_rows_by_hand():
    splits, other = outputs(), outputs(1)
    original = _judged(0, splits, _front(1.0, loss_auc=0.6), "original", "Original")
    retrain = [
        _judged(i, other, _front(9.0, loss_auc=0.5 + 0.001 * i), "retrain", "Retrain")
        for i in range(3)
    ]

    def of(metrics, splits=other):
        models = [_judged(2, splits, metrics), *retrain, original]
        return row_alarms(make_rows(models)[0][0], models)

    assert of(_front(9.0, loss_auc=0.5)) == []
    assert "changed nothing" in of(_front(1.0, loss_auc=0.5), splits)[0]
    assert "destroyed" in of(_front(70.0, ra=40.0, loss_auc=0.5))[0]
    assert "over-forgetting" in of(_front(30.0, loss_auc=0.3))[0]
    assert "under-forgetting" in of(_front(1.0, loss_auc=0.7))[0]


def test_alarms_of_an_audit():
    splits = outputs()
    powerless = _judged(0, splits, _front(1.0, loss_auc=0.5), "original", "Original")
    ours = _judged(2, splits, _front(1.0, loss_auc=0.7))
    retrain = [_judged(i, splits, _front(9.0, loss_auc=0.5), "retrain") for i in range(3)]
    assert "no Retrain" in audit_alarms([ours])[0]
    assert "one Retrain" in audit_alarms([ours, retrain[0]])[0]
    assert "needs 3 Retrain runs" in audit_alarms([ours, *retrain[:2]])[0]
    assert audit_alarms([ours, *retrain]) == []
    assert (
        "every attack is at chance on the original" in audit_alarms([ours, *retrain, powerless])[0]
    )


def test_distribution_gaps_of_one_distribution_are_at_their_floors():
    """20 models a side of one Gaussian; and far above them where one side is shifted."""
    rng = np.random.default_rng(0)

    def models(shift):
        found = []
        for seed in range(20):
            splits = {
                name: (rng.normal(0, 1, (count, 2)), np.zeros(count, np.int64))
                for name, count in SIZES.items()
            }
            splits["forget"][0][:, 0] += shift
            found.append(_judged(seed, splits, _front(0.0)))
        return found

    retrain, same, other = models(0), models(0), models(4)
    found = values_of(distribution_gaps(same, retrain, audit=True))
    assert found["gaussian_kl_forget"] == pytest.approx(found["gaussian_kl_floor"], rel=0.3)
    assert found["klom_forget"] == pytest.approx(found["klom_floor"], rel=0.1)
    assert found["epsilon"] == pytest.approx(found["epsilon_floor"], rel=0.15)
    assert found["forgetting_quality"] == pytest.approx(found["forgetting_quality_floor"], rel=0.3)
    shifted = values_of(distribution_gaps(other, retrain, audit=True))
    assert shifted["gaussian_kl_forget"] > 10 * found["gaussian_kl_forget"]
    assert shifted["epsilon"] > 2 * found["epsilon"]
    assert margin(*same[0].splits["forget"]).shape == (120,)
    assert distribution_gaps(same[:2], retrain[:2]) == {}


# -------------------------------------------------------------------------------------------- cache


def test_cache_keeps_what_was_made_from_the_same(tmp_path, capsys):
    made = []

    def compute():
        made.append(1)
        return {"x": np.arange(3.0) + len(made)}

    def get(**made_from):
        return cached(tmp_path, "part", made_from, {"x": (3,)}, compute)["x"][0]

    assert get(weights="a", lr=0.1) == get(lr=0.1, weights="a") == 1
    assert get(weights="b", lr=0.1) == 2
    assert get(weights="a", lr=0.2) == 3
    assert cached(tmp_path, "other", {"weights": "a", "lr": 0.1}, {"x": (3,)}, compute)["x"][0] == 4
    assert len(list(tmp_path.iterdir())) == 4
    assert cached(tmp_path, "part", {"weights": "a", "lr": 0.1}, {"x": (4,)}, compute)["x"][0] == 5
    assert "holds x of shape (3,)" in capsys.readouterr().err


def test_cache_refuses_objects(tmp_path, capsys):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("executed",)

    cached(tmp_path, "part", {}, {"x": (1,)}, lambda: {"x": np.zeros(1)})
    file = next(tmp_path.iterdir())
    with open(file, "wb") as out:
        np.savez(out, x=np.array([Bomb()], dtype=object))
    assert cached(tmp_path, "part", {}, {"x": (1,)}, lambda: {"x": np.ones(1)})["x"][0] == 1
    assert "damaged" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["rmia_auc", "lira_auc", "loss_auc"])
def test_an_attack_by_references_has_the_band_of_values_beside_all_retrains(name):
    """Retrain i is beside the m - 1 others, a run beside all m: what both have of their own is
    judged as if it stood beside all.
    """
    rng = np.random.default_rng(0)
    marks = set()
    for _ in range(60):
        own, method = rng.normal(size=4), 3 * rng.normal(size=2)
        if name == "loss_auc":  # beside none
            found = rows.inside(name, method, own)
        else:
            found = rows.inside(name, method - own.mean(), own - (own.sum() - own) / 3)
        assert found == inside_noise(method, own)
        marks.add(found)
    assert marks == {True, False}
