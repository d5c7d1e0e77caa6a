"""Training, validation, forget and retain sets: indices of one data set's training images."""

import dataclasses
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch

from runtime.files import hash_arrays
from utils import UserError, stream

VALIDATION_SHARE = 0.1
# What is forgotten, in words.
SCENARIOS = {"random": "chosen images", "class": "a whole class"}


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices (int64) of training images: ``train`` ascending, ``val`` in the draw's order, which
    is ``val_fraction`` of each class.
    """

    split_seed: int
    train: np.ndarray
    val: np.ndarray
    val_fraction: float = VALIDATION_SHARE


@dataclasses.dataclass(frozen=True)
class ForgetSplit:
    """A :class:`Split`'s training indices parted into ``forget`` and ``retain``.

    ``kind`` is random, class or indexes; ``classes`` are those that were asked for (kind class
    alone), and ``dropped_classes`` those of them that are forgotten as a whole, and therefore
    dropped from validation and test. ``before`` are images that the original model was made to
    forget by earlier requests, in neither part; ``gone`` are classes that it forgot as a whole,
    dropped like ``dropped_classes``.
    """

    kind: str
    forget: np.ndarray
    retain: np.ndarray
    classes: tuple[int, ...] = ()
    dropped_classes: tuple[int, ...] = ()
    before: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    gone: tuple[int, ...] = ()

    @property
    def scenario(self) -> str:
        """A key of :data:`SCENARIOS`."""
        return "class" if self.dropped_classes else "random"

    def sha256(self) -> str:
        """A hash of the sorted forget indices."""
        return hash_arrays({"forget": np.sort(self.forget)})

    def record(self, names: Sequence[str]) -> dict:
        """What a result says of it; ``names`` are those of all classes."""
        record = {"kind": self.kind, "count": len(self.forget), "sha256": self.sha256()}
        if self.classes:
            record["classes"] = [{"index": c, "name": names[c]} for c in self.classes]
        if len(self.classes) == 1:
            record["class"] = self.classes[0]
        if len(self.before):
            before = {"count": len(self.before), "sha256": hash_arrays({"forget": self.before})}
            record["before"] = before
        return record

    def said(self, names: Sequence[str]) -> str:
        """What was asked for, such as ``class 2 (cat)``."""
        if not self.classes:
            return self.kind
        shown = [str(c) if names[c] == str(c) else f"{c} ({names[c]})" for c in self.classes]
        return f"class{'es' if len(shown) > 1 else ''} {', '.join(shown)}"


def make_split(
    labels: np.ndarray, split_seed: int, val_fraction: float = VALIDATION_SHARE
) -> Split:
    """Hold out ``val_fraction`` of each class, rounded down, drawn in class order by
    ``RandomState(split_seed)`` (with 10 % the reference's draw).

    Args:
        labels: (n,) labels of all training images of the data set.
        val_fraction: at least 0 and below 1.
    """
    rng = np.random.RandomState(split_seed % 2**32)
    share, drawn = Fraction(str(val_fraction)), []  # 0.57 of 5000 is 2850; in floats it is less
    for c in range(labels.max() + 1):
        members = np.flatnonzero(labels == c)
        drawn.append(rng.choice(members, int(share * len(members)), replace=False))
    val = np.concatenate(drawn)
    return Split(split_seed, np.setdiff1d(np.arange(len(labels)), val), val, val_fraction)


def validation_halves(split: Split, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(A, B), indices of the validation images: half A is what methods may learn from, half B what
    such methods are chosen by.

    Each class is shuffled by a stream of ``split_seed`` and dealt out, so that the halves differ by
    one image of a class, and by one in all, at most.

    Args:
        labels: (n,) labels of all training images of the data set.
    """
    rng = np.random.RandomState(stream(split.split_seed, "validation halves") % 2**32)
    val = rng.permutation(np.sort(split.val))
    dealt = val[np.argsort(labels[val], kind="stable")]
    return np.sort(dealt[::2]), np.sort(dealt[1::2])


def leave_out(split: Split, positions: np.ndarray) -> Split:
    """The split without the training images at ``positions`` (m,) in ``split.train``; they are in
    no set then.

    Raises:
        UserError: a position out of range or twice, or nothing left.
    """
    check_places(positions, len(split.train), "--leave_out")
    train = np.delete(split.train, positions)
    if not len(train):
        raise UserError(f"--leave_out names all {len(split.train)} training images; leave some")
    return dataclasses.replace(split, train=train)


def choose_forget(
    split: Split,
    labels: np.ndarray,
    *,
    count: int | None = None,
    classes: Sequence[int] = (),
    positions: np.ndarray | None = None,
    forget_seed: int = 2,
    asked: str = "forget",
) -> ForgetSplit:
    """Choose the forget set among the training images.

    Args:
        labels: (n,) labels of all training images of the data set.
        count: how many; None takes all images of ``classes``.
        classes: draw from these only; none draws from all.
        positions: a list instead of a draw: positions in ``split.train``, as the reference counts
            them.
        forget_seed: the draw is ``RandomState((forget_seed - 1) mod 2^32).choice``, the reference's
            for its ``--seed``.
        asked: what messages begin with.

    Raises:
        UserError: more than there are, an unknown class, a position out of range or twice, nothing
            left to retain.
    """
    if positions is not None:
        kind = "indexes"
        check_places(positions, len(split.train), asked, "positions in the training split")
        forget = split.train[positions]
    else:
        kind = "class" if classes else "random"
        forget = _draw(split, labels, count, classes, forget_seed, asked)
    retain = np.setdiff1d(split.train, forget)
    if not len(retain):
        raise UserError(
            f"{asked}: forgetting {len(forget)} of {len(split.train)} training images leaves none"
            " to retain; ask for fewer"
        )
    if not len(forget):
        raise UserError(f"{asked}: the forget set is empty; ask for at least one image")
    classes = tuple(classes)
    return ForgetSplit(kind, forget, retain, classes, whole_classes(classes, labels[retain]))


def whole_classes(classes: Sequence[int], retained: np.ndarray) -> tuple[int, ...]:
    """Those of ``classes`` that none of the ``retained`` labels (n,) is of."""
    return tuple(c for c in classes if not np.any(retained == c))


def _draw(
    split: Split,
    labels: np.ndarray,
    count: int | None,
    classes: Sequence[int],
    forget_seed: int,
    asked: str,
) -> np.ndarray:
    candidates = split.train
    if unknown := [c for c in classes if not 0 <= c <= labels.max()]:
        raise UserError(f"{asked}: no class {unknown[0]}; classes run from 0 to {labels.max()}")
    if classes:
        candidates = candidates[np.isin(labels[candidates], classes)]
    if count is None:
        return candidates
    if not 1 <= count <= len(candidates):
        where = f" of class {', '.join(map(str, classes))}" if classes else ""
        raise UserError(
            f"{asked}: {count} images; allowed 1 to {len(candidates)}, the training images{where}"
        )
    return np.random.RandomState((forget_seed - 1) % 2**32).choice(candidates, count, replace=False)


def check_places(
    places: np.ndarray, available: int, asked: str, what: str = "positions in the training split"
) -> None:
    """Refuse places (m,) that are negative, too large or given twice, by the first of them."""
    outside = places[(places < 0) | (places >= available)]
    if len(outside):
        more = f" (and {len(outside) - 1} more)" if len(outside) > 1 else ""
        raise UserError(
            f"{asked}: {outside[0]} is out of range{more}, allowed 0 to {available - 1} ({what})"
        )
    _, first = np.unique(places, return_index=True)
    if len(first) < len(places):
        again = np.setdiff1d(np.arange(len(places)), first)
        mask = "; a mask is written as true and false" if not set(places.tolist()) - {0, 1} else ""
        raise UserError(
            f"{asked}: {places[again[0]]} is given twice ({len(places)} entries, {len(first)}"
            f" different){mask}"
        )


def leave_forgotten(chosen: ForgetSplit, before: np.ndarray, labels: np.ndarray) -> ForgetSplit:
    """The forget split without the images ``before`` (m,), ascending, in retain.

    Args:
        labels: (n,) of all training images of the data set.

    Raises:
        UserError: nothing is left to retain.
    """
    before = np.setdiff1d(before, chosen.forget)
    retain = np.setdiff1d(chosen.retain, before)
    if not len(retain):
        raise UserError(
            f"{len(chosen.forget)} images to forget and {len(before)} forgotten before leave none"
            " to retain; forget fewer"
        )
    gone = gone_classes(before, np.append(chosen.forget, retain), labels)
    return dataclasses.replace(chosen, retain=retain, before=before, gone=gone)


def gone_classes(before: np.ndarray, others: np.ndarray, labels: np.ndarray) -> tuple[int, ...]:
    """The classes of the images ``before`` that none of ``others`` is of."""
    return tuple(np.setdiff1d(labels[before], labels[others]).tolist())


def retain_part(
    chosen: ForgetSplit, labels: np.ndarray, fraction: float, forget_seed: int
) -> np.ndarray:
    """Sorted indices of a ``fraction`` of each class's retain images, at least one of each.

    Each class is shuffled by a stream of ``forget_seed`` and cut, so a smaller fraction is a subset
    of a larger one.

    Args:
        labels: (n,) labels of all training images of the data set.
    """
    rng = np.random.RandomState(stream(forget_seed, "retain part") % 2**32)
    kept = []
    for c in np.unique(labels[chosen.retain]):
        members = rng.permutation(chosen.retain[labels[chosen.retain] == c])
        kept.append(members[: max(1, round(fraction * len(members)))])
    return np.sort(np.concatenate(kept))


def split_record(dataset: str, data_sha256: str, split: Split, trained_on: np.ndarray) -> dict:
    """A checkpoint's record of the data set, the split, and the indices that it was trained on."""
    return {
        "dataset": dataset,
        "data_sha256": data_sha256,
        "split_seed": split.split_seed,
        "val_fraction": split.val_fraction,
        "train": torch.from_numpy(np.ascontiguousarray(trained_on)),
        "val": torch.from_numpy(np.ascontiguousarray(split.val)),
    }


def check_lineage(record: dict, data_sha256: str, split: Split, chosen: ForgetSplit | None) -> None:
    """Check that an original model was trained on all forget and retain images and on no
    validation image.

    Args:
        record: the original checkpoint's :func:`split_record`.
        chosen: the forget split; None checks the training split as a whole.

    Raises:
        UserError: it was trained on other data, or the split is another one.
    """
    if record["data_sha256"] != data_sha256:
        raise UserError(
            f"the original model was trained on other images: its {record['dataset']} has hash"
            f" {record['data_sha256'][:12]}, this data set {data_sha256[:12]}; use the data it was"
            " trained on"
        )
    trained = record["train"].numpy()
    used = {"training": split.train}
    if chosen is not None:
        used = {"forget": chosen.forget, "retain": chosen.retain}
    unseen = {name: len(np.setdiff1d(indices, trained)) for name, indices in used.items()}
    leaked = len(np.intersect1d(split.val, trained))
    if any(unseen.values()) or leaked:
        facts = ", ".join(
            f"{count} of {len(used[name])} {name} images" for name, count in unseen.items()
        )
        theirs = _draw_flags(record["split_seed"], recorded_fraction(record))
        raise UserError(
            f"the original model was trained with {theirs} on {len(trained)} images, and never saw"
            f" {facts} of {_draw_flags(split.split_seed, split.val_fraction)}, while {leaked} of"
            " its training images would validate it; use the original model and the --split_seed"
            " and --val_fraction that belong together"
        )


def recorded_fraction(record: dict) -> float:
    """The share of each class that is validation, of a :func:`split_record`; 10 % was all that
    there was before it was recorded.
    """
    return record.get("val_fraction", VALIDATION_SHARE)


def _draw_flags(split_seed: int, val_fraction: float) -> str:
    """The flags of a split; --val_fraction where it is not the default."""
    more = f" --val_fraction {val_fraction:g}" if val_fraction != VALIDATION_SHARE else ""
    return f"--split_seed {split_seed}{more}"
