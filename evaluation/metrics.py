"""The one table of metrics: what each name means, in what unit, what is good, what it costs and
where it comes from. The audit, the report, the page and the documentation take it from here.
"""

import dataclasses
import fnmatch
import operator
from collections.abc import Callable, Mapping

from evaluation.accuracy import Splits, measured_accuracy, measured_error
from evaluation.definition import (
    EPSILON,
    FLOOR,
    FROM_HALF,
    JS_NATS,
    KLOM_NATS,
    NATS,
    PERCENT,
    PROBABILITY,
    RATIO,
    SHARE,
    UPDATES,
    UTILITY,
    Definition,
    Scale,
    markdown_table,
)
from evaluation.intervals import Metric

JIA, FAN = "Jia et al., NeurIPS 2023", "Fan et al., ICLR 2024"
CARLINI, SONG = "Carlini et al., 2022", "Song & Mittal, USENIX Security 2021"
GOLATKAR, ZHAO = "Golatkar et al., CVPR 2020", "Zhao et al., NeurIPS 2024"
HAYES = "Hayes et al., 2024 (arXiv 2403.01218)"
GEORGIEV = "Georgiev et al., 2024 (arXiv 2410.23232)"
CHALLENGE = "NeurIPS 2023 unlearning challenge (arXiv 2406.09073)"

POOL, SORTING, FREE, FIT = "a pool of shadow models", "O(n log n)", "none beyond it", "milliseconds"


def _accuracy_on(split: str) -> Callable[[Splits], Metric | None]:
    return lambda splits: measured_accuracy(splits[split]) if split in splits else None


def _to_retrain(text: str, scale: Scale, source: str) -> Definition:
    """Of a difference from Retrain, good at what Retrain models have among themselves."""
    return Definition(text, scale, FLOOR, "a Retrain model", source)


# An entry is a metric or a family: a name, or patterns of names between bars. The documentation's
# table has their order.

_ACCURACIES = {
    "UA": Definition(
        "100 - accuracy on the forget set",
        PERCENT,
        source=JIA,
        measure=lambda splits: measured_error(splits["forget"]),
    ),
    "RA": Definition(
        "accuracy on the retain set", PERCENT, source=JIA, measure=_accuracy_on("retain")
    ),
    "TA": Definition(
        "accuracy on test, without a class that was forgotten",
        PERCENT,
        source=JIA,
        measure=_accuracy_on("test"),
    ),
    "VA": Definition(
        "accuracy on the validation images",
        PERCENT,
        source="100 x right / images",
        measure=_accuracy_on("val"),
    ),
    "forgotten_class_accuracy": Definition(
        "accuracy on the forgotten class's test images: is the class gone, or only its training "
        "images?",
        PERCENT,
        source="100 x right / images",
        measure=_accuracy_on("test_forgotten"),
    ),
    "loss_forget|loss_retain|loss_val|loss_test|loss_test_forgotten": Definition(
        "mean cross-entropy of a split", NATS, source="mean of -log p_y"
    ),
}

_ATTACKS = {
    "svc_*_tnr": Definition(
        "share of forget that a support-vector machine (C 3, RBF, gamma 1 / features), taught "
        "retain against test, calls non-member; the feature is correctness, confidence (the "
        "papers' MIA), entropy, m_entropy, prob or the standardised margin",
        PERCENT,
        cost="up to 3 s for 20,000 points of 10 classes, 20 s of 100",
        source=f"{JIA}; {FAN}",
        chance="_held_out",
    ),
    "svc_*_tnr_held_out": Definition(
        "the same machine's share of non-members among images that were never trained on",
        PERCENT,
        cost=FREE,
        source="as svc_*_tnr",
    ),
    "lr_loss_accuracy": Definition(
        "accuracy of a logistic regression on the loss, forget against as many test images, mean "
        "of 10 splits",
        SHARE,
        0.5,
        FIT,
        "NeurIPS 2023 unlearning challenge",
    ),
    "lr_entropy_member_rate": Definition(
        "share of forget that a logistic regression on the entropy, taught retain against test, "
        "calls member; good: its held-out rate",
        SHARE,
        cost=FIT,
        source="Chundawat et al., AAAI 2023; Foster et al., AAAI 2024",
        chance="_held_out",
    ),
    "lr_entropy_member_rate_held_out": Definition(
        "the same share among images that were never trained on",
        SHARE,
        cost=FIT,
        source="as lr_entropy_member_rate",
    ),
    "*_auc_two_sided_floor": Definition(
        "the mean of the two-sided AUC at chance", FROM_HALF, source="0.5 + SD sqrt(2 / pi)"
    ),
    "*_auc_two_sided": Definition(
        "max(AUC, 1 - AUC): conspicuous in either direction; good is its floor at chance",
        FROM_HALF,
        FLOOR,
        SORTING,
        "max(AUC, 1 - AUC)",
        chance="_floor",
    ),
    "*_worst_1_percent_auc": Definition(
        "99th percentile over samples of a sample's own two-sided AUC over shadow models; good is "
        "its floor",
        FROM_HALF,
        FLOOR,
        POOL,
        HAYES,
        chance="_floor",
    ),
    "ulira_sample_auc_median": Definition(
        "median over images of an image's own two-sided AUC over shadow models; good is its floor",
        FROM_HALF,
        FLOOR,
        POOL,
        HAYES,
        chance="_floor",
    ),
    "*_worst_1_percent_auc_floor|ulira_sample_auc_median_floor": Definition(
        "these two with membership shuffled",
        FROM_HALF,
        source="one shuffle of each image's shadows",
    ),
    "|".join(f"ulira_{third}_memorisation_auc" for third in ("low", "middle", "high")): Definition(
        "ulira_auc on the third of the pool's images that was memorised least, middling, most; "
        "low is the control: little to forget",
        SHARE,
        0.5,
        POOL,
        ZHAO,
    ),
    "ulira_TA": Definition(
        "test accuracy of the method's runs on the shadow models", PERCENT, "high", POOL, HAYES
    ),
    "*_auc": Definition(
        "probability that a forget image looks more like a member than an unseen one (weighted to "
        "forget's mix of classes), by loss, entropy, m_entropy (modified entropy, Song & Mittal "
        "2021), rmia, lira or ulira; below 0.5 leaks too",
        SHARE,
        0.5,
        SORTING,
        "Carlini et al., 2022 (LiRA); Zarifzadeh et al., 2024 (RMIA)",
    ),
    "*_tpr_at_fpr_1": Definition(
        "share of forget found with 1 % of unseen images called members",
        SHARE,
        0.01,
        SORTING,
        CARLINI,
    ),
    "*_tpr_at_fpr_0.1": Definition(
        "share of forget found with 0.1 % of unseen images called members",
        SHARE,
        0.001,
        SORTING,
        CARLINI,
    ),
    "*_balanced_accuracy": Definition(
        "(TPR + 1 - FPR) / 2 on forget and unseen images of the threshold best for retain against "
        "test, one for all or one per class",
        SHARE,
        0.5,
        SORTING,
        SONG,
    ),
    "*_threshold_tpr": Definition(
        "share of forget that this threshold calls member", SHARE, cost=FREE, source=SONG
    ),
    "*_threshold_fpr": Definition(
        "share of unseen images that this threshold calls member", SHARE, cost=FREE, source=SONG
    ),
}

_DISTANCES = {
    "tow": _to_retrain(
        "tug of war: product over forget, retain and test of 1 - |accuracy - Retrain's| / 100; "
        "geometric mean over Retrain models",
        SHARE,
        ZHAO,
    ),
    "tow_mia": _to_retrain(
        "the same with svc_confidence_tnr in the place of forget's accuracy", SHARE, ZHAO
    ),
    "activation_distance_*": _to_retrain(
        "mean l2 distance of the probability vectors to Retrain's", PROBABILITY, GOLATKAR
    ),
    "js_*": _to_retrain(
        "mean Jensen-Shannon divergence of the probabilities from Retrain's",
        JS_NATS,
        "Lin, IEEE Trans. Inf. Theory 1991",
    ),
    "kl_retrain_unlearned_*": _to_retrain(
        "mean KL(Retrain || model) of the probabilities", NATS, "Kullback & Leibler, 1951"
    ),
    "disagreement_*": _to_retrain(
        "share of images on which model and Retrain predict different classes",
        SHARE,
        "differing answers / images",
    ),
}

_RELEARNING = {
    "relearn_accuracy": Definition(
        "accuracy on forget at the end of its relearn curve",
        PERCENT,
        cost="relearn_steps x (relearn_seeds + 1) batches a model",
        source=f"{GOLATKAR}; Tarun et al., TNNLS 2023",
    ),
    "relearn_steps": Definition(
        "updates on forget until its accuracy is within a point of the original's; left out where "
        "the curve is too short",
        UPDATES,
        cost=FREE,
        source="as relearn_accuracy",
    ),
    "relearn_ratio": Definition(
        "relearn_steps over Retrain's; below 1 something was left behind",
        RATIO,
        1.0,
        FREE,
        "as relearn_accuracy",
    ),
}

_MARGINS = {
    "gaussian_kl_floor": Definition(
        "its exact mean between two sets of Retrain models",
        NATS,
        source="(1/N + 1/M) / 2 x v / (v - 2), v = N + M - 2",
    ),
    "gaussian_kl_*": Definition(
        "per image, divergence of a Gaussian of the models' margins from Retrain's with one "
        "variance; mean, median, 95th percentile",
        NATS,
        "gaussian_kl_floor",
        "five models in all",
        f"after KLOM: {GEORGIEV}",
    ),
    "klom_floor": Definition(
        "its mean between two samples of one Gaussian", KLOM_NATS, source="simulated, 2,000 images"
    ),
    "klom_*": Definition(
        "per image, KL of the histogram of margins (20 bins) from Retrain's",
        KLOM_NATS,
        "klom_floor",
        "100 models a side to be sharp",
        GEORGIEV,
    ),
    "epsilon_floor": Definition(
        "its mean between two sets of Retrain models", EPSILON, source="simulated, 2,000 images"
    ),
    "epsilon*": Definition(
        "per image, the least epsilon that a threshold on the margin, or an interval around the "
        "peaked side, leaves possible, delta 1e-5",
        EPSILON,
        "epsilon_floor",
        "three models a side, 512 in the challenge",
        CHALLENGE,
    ),
    "forgetting_quality_floor": Definition(
        "F between two sets of Retrain models: not 1", SHARE, source="simulated, 2,000 images"
    ),
    "forgetting_quality": Definition(
        "F of the challenge: 2 / 2^n for an epsilon in the n-th bin of width 0.5, mean over images",
        SHARE,
        "forgetting_quality_floor",
        "as epsilon",
        CHALLENGE,
    ),
    "challenge_score": Definition(
        "F x RA / Retrain's x TA / Retrain's",
        UTILITY,
        "forgetting_quality_floor",
        "as epsilon",
        "arXiv 2406.09073",
    ),
}

_AVERAGES = {
    "gap_of_means": _to_retrain(
        "Avg. Gap: mean over UA, RA, TA, svc_confidence_tnr of |mean - Retrain's mean|",
        PERCENT,
        FAN,
    ),
    "gap_of_means_entropy": _to_retrain(
        "the same with lr_entropy_member_rate, in percent, for svc_confidence_tnr",
        PERCENT,
        "as gap_of_means",
    ),
    "mean_paired_gap|mean_paired_gap_entropy": Definition(
        "these two, seed against equal seed before the mean",
        PERCENT,
        FLOOR,
        "a Retrain model of each seed",
        "mean of |run - Retrain's run of its seed|",
    ),
}

GROUPS = {
    "accuracy": _ACCURACIES,
    "membership attack": _ATTACKS,
    "distance to Retrain": _DISTANCES,
    "relearning": _RELEARNING,
    "margins over models": _MARGINS,
    "average gap": _AVERAGES,
}
# A name that is listed counts before any pattern, and then the first pattern that matches.
DEFINITIONS: dict[str, Definition] = {
    pattern: dataclasses.replace(definition, group=group)
    for group, definitions in GROUPS.items()
    for pattern, definition in definitions.items()
}


def define(name: str) -> Definition:
    """The definition of a metric.

    Raises:
        LookupError: the name has none.
    """
    for matches in (operator.eq, fnmatch.fnmatchcase):
        for pattern, definition in DEFINITIONS.items():
            if any(matches(name, part) for part in pattern.split("|")):
                return definition
    raise LookupError(
        f"metric {name} has no definition: add one to DEFINITIONS in evaluation/metrics.py"
    )


def describe(name: str) -> dict[str, str | float]:
    """A metric's definition as audit.json has it."""
    found = define(name)
    return {
        "text": found.text,
        "unit": found.scale.unit,
        "range": found.scale.range,
        "good": found.good,
        "cost": found.cost,
        "source": found.source,
    }


def measured(found: Mapping[str, Metric]) -> dict[str, Metric]:
    """``found``, of which every name has a definition.

    Raises:
        LookupError: one has none.
    """
    for name in found:
        define(name)
    return dict(found)


def definition_table() -> str:
    """All definitions as Markdown: the documentation's table."""
    return markdown_table(DEFINITIONS)
