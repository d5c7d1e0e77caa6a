"""The one table of metrics: what each name means, in what unit, what is good, what it costs and
where it comes from. The audit, the report, the page and the documentation take it from here.
"""

import dataclasses
import fnmatch
import operator
from collections.abc import Callable, Mapping

from evaluation import definition as scales
from evaluation.accuracy import BEFORE, Outputs, Splits, measured_accuracy, measured_error
from evaluation.definition import FLOOR, NATS, PERCENT, SHARE, Definition, Scale, markdown_table
from evaluation.intervals import Metric

JIA, FAN = "Jia et al., NeurIPS 2023", "Fan et al., ICLR 2024"
CARLINI, SONG = "Carlini et al., 2022", "Song & Mittal, USENIX Security 2021"
GOLATKAR, ZHAO = "Golatkar et al., CVPR 2020", "Zhao et al., NeurIPS 2024"
HAYES = "Hayes et al., 2024 (arXiv 2403.01218)"
LIRA_RMIA = f"{CARLINI} (LiRA); Zarifzadeh et al., 2024 (RMIA)"
BAD_TEACHING = "Chundawat et al., AAAI 2023; Foster et al., AAAI 2024"
GEORGIEV = "Georgiev et al., 2024 (arXiv 2410.23232)"
CHALLENGE = "NeurIPS 2023 unlearning challenge (arXiv 2406.09073)"

COUNTED, SIMULATED = "100 x right / images", "simulated, 2,000 images"
POOL, SORTING, FREE, FIT = "a pool of shadow models", "O(n log n)", "none beyond it", "milliseconds"
SVC_COST = "up to 3 s for 20,000 points of 10 classes, 20 s of 100"
RELEARN_COST = "relearn_steps x (relearn_seeds + 1) batches a model"


def _accuracy(
    split: str, source: str = JIA, measure: Callable[[Outputs], Metric] = measured_accuracy
) -> Definition:
    """Of one split, None without it."""

    def measure_split(splits: Splits) -> Metric | None:
        return measure(splits[split]) if split in splits else None

    return Definition(PERCENT, source=source, measure=measure_split)


def _two_sided(cost: str = POOL, source: str = HAYES) -> Definition:
    return Definition(scales.FROM_HALF, FLOOR, cost, source, chance="_floor")


def _to_retrain(scale: Scale, source: str) -> Definition:
    """Of a difference from Retrain, good at what Retrain models have among themselves."""
    return Definition(scale, FLOOR, "a Retrain model", source)


# An entry is a metric or a family: a name, or patterns of names between bars. The documentation's
# table has their order.

_ACCURACIES = {
    "UA": _accuracy("forget", measure=measured_error).means("100 - accuracy on the forget set"),
    "RA": _accuracy("retain").means("accuracy on the retain set"),
    "TA": _accuracy("test").means("accuracy on test, without a class that was forgotten"),
    "VA": _accuracy("val", COUNTED).means("accuracy on the validation images"),
    "forgotten_class_accuracy": _accuracy("test_forgotten", COUNTED).means(
        "accuracy on the forgotten class's test images: is the class gone, or only its training "
        "images?"
    ),
    BEFORE: _accuracy(BEFORE, COUNTED).means(
        "accuracy on the images that earlier requests made the model forget; Retrain never saw them"
    ),
    f"loss_forget|loss_retain|loss_val|loss_test|loss_test_forgotten|loss_{BEFORE}": Definition(
        NATS, source="mean of -log p_y"
    ).means("mean cross-entropy of a split"),
}

MEMORISED = "|".join(f"ulira_{third}_memorisation_auc" for third in ("low", "middle", "high"))
_ATTACKS = {
    "svc_*_tnr": Definition(
        PERCENT, cost=SVC_COST, source=f"{JIA}; {FAN}", chance="_held_out"
    ).means(
        "share of forget that a support-vector machine (C 3, RBF, gamma 1 / features), taught "
        "retain against test, calls non-member; the feature is correctness, confidence (the "
        "papers' MIA), entropy, m_entropy, prob or the standardised margin"
    ),
    "svc_*_tnr_held_out": Definition(PERCENT, cost=FREE, source="as svc_*_tnr").means(
        "the same machine's share of non-members among images that were never trained on"
    ),
    "lr_loss_accuracy": Definition(SHARE, 0.5, FIT, "NeurIPS 2023 unlearning challenge").means(
        "accuracy of a logistic regression on the loss, forget against as many test images, mean "
        "of 10 splits"
    ),
    "lr_entropy_member_rate": Definition(
        SHARE, cost=FIT, source=BAD_TEACHING, chance="_held_out"
    ).means(
        "share of forget that a logistic regression on the entropy, taught retain against test, "
        "calls member; good: its held-out rate"
    ),
    "lr_entropy_member_rate_held_out": Definition(
        SHARE, cost=FIT, source="as lr_entropy_member_rate"
    ).means("the same share among images that were never trained on"),
    "*_auc_two_sided_floor": Definition(scales.FROM_HALF, source="0.5 + SD sqrt(2 / pi)").means(
        "the mean of the two-sided AUC at chance"
    ),
    "*_auc_two_sided": _two_sided(SORTING, "max(AUC, 1 - AUC)").means(
        "max(AUC, 1 - AUC): conspicuous in either direction; good is its floor at chance"
    ),
    "*_worst_1_percent_auc": _two_sided().means(
        "99th percentile over samples of a sample's own two-sided AUC over shadow models; good is "
        "its floor"
    ),
    "ulira_sample_auc_median": _two_sided().means(
        "median over images of an image's own two-sided AUC over shadow models; good is its floor"
    ),
    "*_worst_1_percent_auc_floor|ulira_sample_auc_median_floor": Definition(
        scales.FROM_HALF, source="one shuffle of each image's shadows"
    ).means("these two with membership shuffled"),
    MEMORISED: Definition(SHARE, 0.5, POOL, ZHAO).means(
        "ulira_auc on the third of the pool's images that was memorised least, middling, most; "
        "low is the control: little to forget"
    ),
    "ulira_TA": Definition(PERCENT, "high", POOL, HAYES).means(
        "test accuracy of the method's runs on the shadow models"
    ),
    "*_auc": Definition(SHARE, 0.5, SORTING, LIRA_RMIA).means(
        "probability that a forget image looks more like a member than an unseen one (weighted to "
        "forget's mix of classes), by loss, entropy, m_entropy (modified entropy, Song & Mittal "
        "2021), rmia, lira or ulira; below 0.5 leaks too"
    ),
    "*_tpr_at_fpr_1": Definition(SHARE, 0.01, SORTING, CARLINI).means(
        "share of forget found with 1 % of unseen images called members"
    ),
    "*_tpr_at_fpr_0.1": Definition(SHARE, 0.001, SORTING, CARLINI).means(
        "share of forget found with 0.1 % of unseen images called members"
    ),
    "*_balanced_accuracy": Definition(SHARE, 0.5, SORTING, SONG).means(
        "(TPR + 1 - FPR) / 2 on forget and unseen images of the threshold best for retain against "
        "test, one for all or one per class"
    ),
    "*_threshold_tpr": Definition(SHARE, cost=FREE, source=SONG).means(
        "share of forget that this threshold calls member"
    ),
    "*_threshold_fpr": Definition(SHARE, cost=FREE, source=SONG).means(
        "share of unseen images that this threshold calls member"
    ),
}

_DISTANCES = {
    "tow": _to_retrain(SHARE, ZHAO).means(
        "tug of war: product over forget, retain and test of 1 - |accuracy - Retrain's| / 100; "
        "geometric mean over Retrain models"
    ),
    "tow_mia": _to_retrain(SHARE, ZHAO).means(
        "the same with svc_confidence_tnr in the place of forget's accuracy"
    ),
    "activation_distance_*": _to_retrain(scales.PROBABILITY, GOLATKAR).means(
        "mean l2 distance of the probability vectors to Retrain's"
    ),
    "js_*": _to_retrain(scales.JS_NATS, "Lin, IEEE Trans. Inf. Theory 1991").means(
        "mean Jensen-Shannon divergence of the probabilities from Retrain's"
    ),
    "kl_retrain_unlearned_*": _to_retrain(NATS, "Kullback & Leibler, 1951").means(
        "mean KL(Retrain || model) of the probabilities"
    ),
    "disagreement_*": _to_retrain(SHARE, "differing answers / images").means(
        "share of images on which model and Retrain predict different classes"
    ),
}

_RELEARNING = {
    "relearn_accuracy": Definition(
        PERCENT, cost=RELEARN_COST, source=f"{GOLATKAR}; Tarun et al., TNNLS 2023"
    ).means("accuracy on forget at the end of its relearn curve"),
    "relearn_steps": Definition(scales.UPDATES, cost=FREE, source="as relearn_accuracy").means(
        "updates on forget until its accuracy is within a point of the original's; left out where "
        "the curve is too short"
    ),
    "relearn_ratio": Definition(scales.RATIO, 1.0, FREE, "as relearn_accuracy").means(
        "relearn_steps over Retrain's; below 1 something was left behind"
    ),
}

_MARGINS = {
    "gaussian_kl_floor": Definition(
        NATS, source="(1/N + 1/M) / 2 x v / (v - 2), v = N + M - 2"
    ).means("its exact mean between two sets of Retrain models"),
    "gaussian_kl_*": Definition(
        NATS, "gaussian_kl_floor", "five models in all", f"after KLOM: {GEORGIEV}"
    ).means(
        "per image, divergence of a Gaussian of the models' margins from Retrain's with one "
        "variance; mean, median, 95th percentile"
    ),
    "klom_floor": Definition(scales.KLOM_NATS, source=SIMULATED).means(
        "its mean between two samples of one Gaussian"
    ),
    "klom_*": Definition(
        scales.KLOM_NATS, "klom_floor", "100 models a side to be sharp", GEORGIEV
    ).means("per image, KL of the histogram of margins (20 bins) from Retrain's"),
    "epsilon_floor": Definition(scales.EPSILON, source=SIMULATED).means(
        "its mean between two sets of Retrain models"
    ),
    "epsilon*": Definition(
        scales.EPSILON, "epsilon_floor", "three models a side, 512 in the challenge", CHALLENGE
    ).means(
        "per image, the least epsilon that a threshold on the margin, or an interval around the "
        "peaked side, leaves possible, delta 1e-5"
    ),
    "forgetting_quality_floor": Definition(SHARE, source=SIMULATED).means(
        "F between two sets of Retrain models: not 1"
    ),
    "forgetting_quality": Definition(
        SHARE, "forgetting_quality_floor", "as epsilon", CHALLENGE
    ).means(
        "F of the challenge: 2 / 2^n for an epsilon in the n-th bin of width 0.5, mean over images"
    ),
    "challenge_score": Definition(
        scales.UTILITY, "forgetting_quality_floor", "as epsilon", "arXiv 2406.09073"
    ).means("F x RA / Retrain's x TA / Retrain's"),
}

_AVERAGES = {
    "gap_of_means": _to_retrain(PERCENT, FAN).means(
        "Avg. Gap: mean over UA, RA, TA, svc_confidence_tnr of |mean - Retrain's mean|"
    ),
    "gap_of_means_entropy": _to_retrain(PERCENT, "as gap_of_means").means(
        "the same with lr_entropy_member_rate, in percent, for svc_confidence_tnr"
    ),
    "mean_paired_gap|mean_paired_gap_entropy": Definition(
        PERCENT, FLOOR, "a Retrain model of each seed", "mean of |run - Retrain's run of its seed|"
    ).means("these two, seed against equal seed before the mean"),
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
