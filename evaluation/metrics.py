"""What each metric's name means: formula, range, which way is good, what it costs, where it comes
from.
"""

import dataclasses
import fnmatch
import math
from collections.abc import Sequence

RETRAIN, FLOOR = "retrain", "floor"


@dataclasses.dataclass(frozen=True)
class Definition:
    """One metric, or a family of them.

    ``good`` is a number, ``retrain`` (Retrain's own value), ``floor`` (what Retrain models have
    among themselves: 0 where there is no noise), another metric's name, or ``high``. ``cost`` is
    beyond the one forward pass over all splits.
    """

    text: str
    unit: str
    range: str
    good: str | float = RETRAIN
    cost: str = "none"
    source: str = "-"

    @property
    def ends(self) -> tuple[float, float]:
        """The least and the largest value: what ``range`` says."""
        low, high = self.range.split(" to ")
        return float(low), NAMED_ENDS.get(high) or float(high)


NAMED_ENDS = {
    "infinity": math.inf,
    "ln 2": math.log(2),
    "about 1": math.inf,
    "sqrt 2": math.sqrt(2),
}
_PERCENT, _SHARE, _NATS = "percent", "share", "nats"
_ATTACK = "loss, entropy, m_entropy (modified entropy, Song & Mittal 2021), rmia, lira or ulira"

# Names, or patterns of names, in the order of the README's table. The first one that matches
# counts.
DEFINITIONS: dict[str, Definition] = {
    "UA": Definition(
        "100 - accuracy on the forget set", _PERCENT, "0 to 100", source="Jia et al., NeurIPS 2023"
    ),
    "RA": Definition(
        "accuracy on the retain set", _PERCENT, "0 to 100", source="Jia et al., NeurIPS 2023"
    ),
    "TA": Definition(
        "accuracy on test, without a class that was forgotten",
        _PERCENT,
        "0 to 100",
        source="Jia et al., NeurIPS 2023",
    ),
    "VA": Definition("accuracy on the validation images", _PERCENT, "0 to 100"),
    "forgotten_class_accuracy": Definition(
        "accuracy on the forgotten class's test images: is the class gone, or only its training"
        " images?",
        _PERCENT,
        "0 to 100",
    ),
    "loss_forget|loss_retain|loss_val|loss_test|loss_test_forgotten": Definition(
        "mean cross-entropy of a split", _NATS, "0 to infinity"
    ),
    "svc_*_tnr": Definition(
        "share of forget that a support-vector machine (C 3, RBF, gamma 1 / features), taught"
        " retain against test, calls non-member; the feature is correctness, confidence (the"
        " papers' MIA), entropy, m_entropy, prob or the standardised margin",
        _PERCENT,
        "0 to 100",
        RETRAIN,
        "up to 3 s for 20,000 points of 10 classes, 20 s of 100",
        "Jia et al., NeurIPS 2023; Fan et al., ICLR 2024",
    ),
    "svc_*_tnr_held_out": Definition(
        "the same machine's share of non-members among images that were never trained on",
        _PERCENT,
        "0 to 100",
        RETRAIN,
        "none beyond it",
    ),
    "lr_loss_accuracy": Definition(
        "accuracy of a logistic regression on the loss, forget against as many test images, mean of"
        " 10 splits",
        _SHARE,
        "0 to 1",
        0.5,
        "milliseconds",
        "NeurIPS 2023 unlearning challenge",
    ),
    "lr_entropy_member_rate": Definition(
        "share of forget that a logistic regression on the entropy, taught retain against test,"
        " calls member; good: its held-out rate",
        _SHARE,
        "0 to 1",
        RETRAIN,
        "milliseconds",
        "Chundawat et al., AAAI 2023; Foster et al., AAAI 2024",
    ),
    "lr_entropy_member_rate_held_out": Definition(
        "the same share among images that were never trained on",
        _SHARE,
        "0 to 1",
        RETRAIN,
        "milliseconds",
    ),
    "*_auc_two_sided_floor": Definition(
        "the mean of the two-sided AUC at chance", _SHARE, "0.5 to 1"
    ),
    "*_auc_two_sided": Definition(
        "max(AUC, 1 - AUC): conspicuous in either direction; good is its floor at chance",
        _SHARE,
        "0.5 to 1",
        FLOOR,
        "O(n log n)",
    ),
    "*_worst_1_percent_auc_floor": Definition(
        "the same with membership shuffled", _SHARE, "0.5 to 1"
    ),
    "*_worst_1_percent_auc": Definition(
        "99th percentile over samples of a sample's own two-sided AUC over shadow models; good is"
        " its floor",
        _SHARE,
        "0.5 to 1",
        FLOOR,
        "a pool of shadow models",
        "Hayes et al., 2024 (arXiv 2403.01218)",
    ),
    "ulira_sample_auc_median_floor": Definition(
        "the same with membership shuffled", _SHARE, "0.5 to 1"
    ),
    "ulira_sample_auc_median": Definition(
        "median over images of an image's own two-sided AUC over shadow models; good is its floor",
        _SHARE,
        "0.5 to 1",
        FLOOR,
        "a pool of shadow models",
    ),
    "|".join(f"ulira_{third}_memorisation_auc" for third in ("low", "middle", "high")): Definition(
        "ulira_auc on the third of the pool's images that was memorised least, middling, most; low"
        " is the control: little to forget",
        _SHARE,
        "0 to 1",
        0.5,
        "a pool of shadow models",
        "Zhao et al., NeurIPS 2024",
    ),
    "ulira_TA": Definition(
        "test accuracy of the method's runs on the shadow models",
        _PERCENT,
        "0 to 100",
        "high",
        "a pool of shadow models",
    ),
    "*_auc": Definition(
        "probability that a forget image looks more like a member than an unseen one (weighted to"
        f" forget's mix of classes), by {_ATTACK}; below 0.5 leaks too",
        _SHARE,
        "0 to 1",
        0.5,
        "O(n log n)",
        "Carlini et al., 2022 (LiRA); Zarifzadeh et al., 2024 (RMIA)",
    ),
    "*_tpr_at_fpr_1": Definition(
        "share of forget found with 1 % of unseen images called members",
        _SHARE,
        "0 to 1",
        0.01,
        "O(n log n)",
        "Carlini et al., 2022",
    ),
    "*_tpr_at_fpr_0.1": Definition(
        "share of forget found with 0.1 % of unseen images called members",
        _SHARE,
        "0 to 1",
        0.001,
        "O(n log n)",
        "Carlini et al., 2022",
    ),
    "*_balanced_accuracy": Definition(
        "(TPR + 1 - FPR) / 2 on forget and unseen images of the threshold best for retain against"
        " test, one for all or one per class",
        _SHARE,
        "0 to 1",
        0.5,
        "O(n log n)",
        "Song & Mittal, USENIX Security 2021",
    ),
    "*_threshold_tpr": Definition(
        "share of forget that this threshold calls member",
        _SHARE,
        "0 to 1",
        RETRAIN,
        "none beyond it",
    ),
    "*_threshold_fpr": Definition(
        "share of unseen images that this threshold calls member",
        _SHARE,
        "0 to 1",
        RETRAIN,
        "none beyond it",
    ),
    "tow": Definition(
        "tug of war: product over forget, retain and test of 1 - |accuracy - Retrain's| / 100;"
        " geometric mean over Retrain models",
        _SHARE,
        "0 to 1",
        FLOOR,
        "a Retrain model",
        "Zhao et al., NeurIPS 2024",
    ),
    "tow_mia": Definition(
        "the same with svc_confidence_tnr in the place of forget's accuracy",
        _SHARE,
        "0 to 1",
        FLOOR,
        "a Retrain model",
        "Zhao et al., NeurIPS 2024",
    ),
    "activation_distance_*": Definition(
        "mean l2 distance of the probability vectors to Retrain's",
        "probability",
        "0 to sqrt 2",
        FLOOR,
        "a Retrain model",
        "Golatkar et al., CVPR 2020",
    ),
    "js_*": Definition(
        "mean Jensen-Shannon divergence of the probabilities from Retrain's",
        _NATS,
        "0 to ln 2",
        FLOOR,
        "a Retrain model",
    ),
    "kl_retrain_unlearned_*": Definition(
        "mean KL(Retrain || model) of the probabilities",
        _NATS,
        "0 to infinity",
        FLOOR,
        "a Retrain model",
    ),
    "disagreement_*": Definition(
        "share of images on which model and Retrain predict different classes",
        _SHARE,
        "0 to 1",
        FLOOR,
        "a Retrain model",
    ),
    "relearn_accuracy": Definition(
        "accuracy on forget at the end of its relearn curve",
        _PERCENT,
        "0 to 100",
        RETRAIN,
        "relearn_steps x (relearn_seeds + 1) batches a model",
        "Golatkar et al., CVPR 2020; Tarun et al., TNNLS 2023",
    ),
    "relearn_steps": Definition(
        "updates on forget until its accuracy is within a point of the original's; left out where"
        " the curve is too short",
        "updates",
        "0 to infinity",
        RETRAIN,
        "none beyond it",
    ),
    "relearn_ratio": Definition(
        "relearn_steps over Retrain's; below 1 something was left behind",
        "ratio",
        "0 to infinity",
        1.0,
        "none beyond it",
    ),
    "gaussian_kl_floor": Definition(
        "its exact mean between two sets of Retrain models", _NATS, "0 to infinity"
    ),
    "gaussian_kl_*": Definition(
        "per image, divergence of a Gaussian of the models' margins from Retrain's with one"
        " variance; mean, median, 95th percentile",
        _NATS,
        "0 to infinity",
        "gaussian_kl_floor",
        "five models in all",
        "after KLOM: Georgiev et al., 2024 (arXiv 2410.23232)",
    ),
    "klom_floor": Definition("its mean between two samples of one Gaussian", _NATS, "0 to 11.5"),
    "klom_*": Definition(
        "per image, KL of the histogram of margins (20 bins) from Retrain's",
        _NATS,
        "0 to 11.5",
        "klom_floor",
        "100 models a side to be sharp",
        "Georgiev et al., 2024 (arXiv 2410.23232)",
    ),
    "epsilon_floor": Definition(
        "its mean between two sets of Retrain models", "epsilon", "0 to 50"
    ),
    "epsilon*": Definition(
        "per image, the least epsilon that a threshold on the margin, or an interval around the"
        " peaked side, leaves possible, delta 1e-5",
        "epsilon",
        "0 to 50",
        "epsilon_floor",
        "three models a side, 512 in the challenge",
        "NeurIPS 2023 unlearning challenge (arXiv 2406.09073)",
    ),
    "forgetting_quality_floor": Definition(
        "F between two sets of Retrain models: not 1", _SHARE, "0 to 1"
    ),
    "forgetting_quality": Definition(
        "F of the challenge: 2 / 2^n for an epsilon in the n-th bin of width 0.5, mean over images",
        _SHARE,
        "0 to 1",
        "forgetting_quality_floor",
        "as epsilon",
        "NeurIPS 2023 unlearning challenge (arXiv 2406.09073)",
    ),
    "challenge_score": Definition(
        "F x RA / Retrain's x TA / Retrain's",
        _SHARE,
        "0 to about 1",
        "forgetting_quality_floor",
        "as epsilon",
        "arXiv 2406.09073",
    ),
    "gap_of_means": Definition(
        "Avg. Gap: mean over UA, RA, TA, svc_confidence_tnr of |mean - Retrain's mean|",
        _PERCENT,
        "0 to 100",
        FLOOR,
        "a Retrain model",
        "Fan et al., ICLR 2024",
    ),
    "gap_of_means_entropy": Definition(
        "the same with lr_entropy_member_rate, in percent, for svc_confidence_tnr",
        _PERCENT,
        "0 to 100",
        FLOOR,
        "a Retrain model",
    ),
    "mean_paired_gap|mean_paired_gap_entropy": Definition(
        "these two, seed against equal seed before the mean",
        _PERCENT,
        "0 to 100",
        FLOOR,
        "a Retrain model of each seed",
    ),
}


def define(name: str) -> Definition:
    """The definition of a metric.

    Raises:
        KeyError: the name has none.
    """
    for pattern, definition in DEFINITIONS.items():
        if any(fnmatch.fnmatchcase(name, part) for part in pattern.split("|")):
            return definition
    raise KeyError(name)


def describe(name: str) -> dict[str, str | float]:
    """A metric's definition as plain values."""
    return dataclasses.asdict(define(name))


def definition_table() -> str:
    """All definitions as Markdown: the README's table."""
    head = [
        "name",
        "what it is",
        "unit, range",
        "good is",
        "cost beyond the forward pass",
        "source",
    ]
    lines = [
        [
            ", ".join(f"`{part}`" for part in pattern.split("|")),
            d.text,
            f"{d.unit}, {d.range}",
            str(d.good),
            d.cost,
            d.source,
        ]
        for pattern, d in DEFINITIONS.items()
    ]
    return "\n".join([markdown_line(head), "|---" * len(head) + "|", *map(markdown_line, lines)])


def markdown_line(cells: Sequence[str]) -> str:
    """One row of a Markdown table; a bar inside a cell is escaped."""
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"
