"""What a search over hyper-parameters minimises when it may look neither at Retrain nor at test.

For a forget set drawn like the rest, perfect unlearning leaves the forget set looking like images
never seen, and validation images are such: same accuracy, same losses. For a whole class it leaves
nothing of the class.

Arguments are percentages: ``unlearned`` has UA (100 - acc_f), RA and VA, ``original`` RA and VA.
"""

import math
from collections.abc import Mapping


def val_proxy(unlearned: Mapping[str, float], original: Mapping[str, float], auc: float) -> float:
    """|acc_f - VA_o| + |VA_u - VA_o| + |RA_u - RA_o| + 100 |AUC - 1/2| in points; 0 is best.

    For forget sets drawn at random. Two settings closer than :func:`val_proxy_noise` are not told
    apart by it. VA_o is too high if the original's checkpoint was chosen on these validation
    images: take it on others.

    Args:
        auc: the probability, in [0, 1], that a forget image has a larger loss than a validation
            image under the unlearned model (ties count half), these weighted by the class shares of
            forget; either orientation gives the same value.
    """
    if not 0 <= auc <= 1:
        raise ValueError(f"an AUC is within [0, 1], not {auc}")
    from_unseen = abs(100 - unlearned["UA"] - original["VA"])
    return from_unseen + _drift(unlearned, original) + 100 * abs(auc - 0.5)


def val_proxy_noise(forget_count: float, val_count: float) -> float:
    """The points of 100 |AUC - 1/2| to expect of forget and validation losses that are alike.

    100 sqrt(2 / pi) sqrt((n + m + 1) / (12 n m)), the mean deviation of the Mann-Whitney statistic
    without ties in its normal limit: .47 for 4,500 and 5,000 images, 1.9 for 300 and 300. The
    accuracies add noise of their own. Of weighted images the effective number counts.
    """
    if forget_count < 1 or val_count < 1:
        raise ValueError(f"an AUC needs images on both sides, not {forget_count} and {val_count}")
    variance = (forget_count + val_count + 1) / (12 * forget_count * val_count)
    return 100 * math.sqrt(2 / math.pi * variance)


def val_proxy_class(unlearned: Mapping[str, float], original: Mapping[str, float]) -> float:
    """For a whole class: acc_f + |VA_u - VA_o| + |RA_u - RA_o| in points; 0 is best.

    Retrain never predicts a class that it has not seen, so the target is acc_f = 0. No AUC: the
    validation images of the class are to be left out, of VA_u and of VA_o.
    """
    return 100 - unlearned["UA"] + _drift(unlearned, original)


def _drift(unlearned: Mapping[str, float], original: Mapping[str, float]) -> float:
    """How far accuracy moved where it should stay."""
    percent = (
        unlearned["UA"],
        *(values[name] for values in (unlearned, original) for name in ("RA", "VA")),
    )
    if not all(0 <= value <= 100 for value in percent):  # False for NaN too
        raise ValueError(f"UA, RA and VA must be percentages within [0, 100], not {percent}")
    return abs(unlearned["VA"] - original["VA"]) + abs(unlearned["RA"] - original["RA"])
