"""Training, validation, forget and retain sets: indices of one data set's training images."""

import dataclasses

import numpy as np
import torch

from runtime.files import hash_arrays
from utils import UserError, stream

VALIDATION_SHARE = 0.1
# What is forgotten, in words.
SCENARIOS = {"random": "chosen images", "class": "a whole class"}


@dataclasses.dataclass(frozen=True)
class Split:
    """Indices (int64) of training images: ``train`` ascending, ``val`` in the draw's order."""

    split_seed: int
    train: np.ndarray
    val: np.ndarray


@dataclasses.dataclass(frozen=True)
class ForgetSplit:
    """A :class:`Split`'s training indices parted into ``forget`` and ``retain``.

    ``kind`` is random, class or indexes; ``dropped_class`` is a class that is forgotten as a whole,
    and therefore dropped from validation and test, or None.
    """

    kind: str
    forget: np.ndarray
    retain: np.ndarray
    dropped_class: int | None

    @property
    def scenario(self) -> str:
        """A key of :data:`SCENARIOS`."""
        return "random" if self.dropped_class is None else "class"

    def sha256(self) -> str:
        """A hash of the sorted forget indices."""
        return hash_arrays({"forget": np.sort(self.forget)})


def make_split(labels: np.ndarray, split_seed: int) -> Split:
    """Hold out 10 % of each class, drawn in class order by ``RandomState(split_seed)`` (the
    reference's draw).

    Args:
        labels: (n,) labels of all training images of the data set.
    """
    rng = np.random.RandomState(split_seed % 2**32)
    drawn = []
    for c in range(labels.max() + 1):
        members = np.flatnonzero(labels == c)
        drawn.append(rng.choice(members, int(VALIDATION_SHARE * len(members)), replace=False))
    val = np.concatenate(drawn)
    return Split(split_seed, np.setdiff1d(np.arange(len(labels)), val), val)


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
    train = np.delete(split.train, _checked(positions, len(split.train), "--leave_out"))
    if not len(train):
        raise UserError(f"--leave_out names all {len(split.train)} training images; leave some")
    return dataclasses.replace(split, train=train)


def choose_forget(
    split: Split,
    labels: np.ndarray,
    *,
    count: int | None = None,
    class_to_forget: int = -1,
    positions: np.ndarray | None = None,
    forget_seed: int = 2,
) -> ForgetSplit:
    """Choose the forget set among the training images.

    Args:
        labels: (n,) labels of all training images of the data set.
        count: how many; None takes the whole class.
        class_to_forget: draw from this class only; -1 draws from all.
        positions: a list instead of a draw: positions in ``split.train``, as the reference counts
            them.
        forget_seed: the draw is ``RandomState((forget_seed - 1) mod 2^32).choice``, the reference's
            for its ``--seed``.

    Raises:
        UserError: more than there are, an unknown class, a position out of range or twice, nothing
            left to retain.
    """
    if positions is not None:
        kind = "indexes"
        forget = split.train[_checked(positions, len(split.train), "--indexes_to_replace")]
    else:
        kind = "random" if class_to_forget == -1 else "class"
        forget = _draw(split, labels, count, class_to_forget, forget_seed)
    retain = np.setdiff1d(split.train, forget)
    if not len(retain):
        raise UserError(
            f"forgetting {len(forget)} of {len(split.train)} training images leaves none to retain"
        )
    if not len(forget):
        raise UserError("the forget set is empty; ask for at least one image")
    whole_class = kind == "class" and not np.any(labels[retain] == class_to_forget)
    return ForgetSplit(kind, forget, retain, class_to_forget if whole_class else None)


def _draw(
    split: Split, labels: np.ndarray, count: int | None, class_to_forget: int, forget_seed: int
) -> np.ndarray:
    candidates = split.train
    if class_to_forget != -1:
        if not 0 <= class_to_forget <= labels.max():
            raise UserError(
                f"--class_to_replace {class_to_forget}: classes run from 0 to {labels.max()} (-1:"
                " all of them)"
            )
        candidates = candidates[labels[candidates] == class_to_forget]
    if count is None:
        return candidates
    if not 1 <= count <= len(candidates):
        where = "" if class_to_forget == -1 else f" of class {class_to_forget}"
        raise UserError(
            f"--num_indexes_to_replace {count}: allowed 1 to {len(candidates)}, the training"
            f" images{where}"
        )
    return np.random.RandomState((forget_seed - 1) % 2**32).choice(candidates, count, replace=False)


def _checked(positions: np.ndarray, available: int, flag: str) -> np.ndarray:
    outside = positions[(positions < 0) | (positions >= available)]
    if len(outside):
        allowed = f"allowed 0 to {available - 1} (positions in the training split)"
        raise UserError(f"{flag}: {outside[0]} is out of range, {allowed}")
    unique, counts = np.unique(positions, return_counts=True)
    if len(unique) < len(positions):
        raise UserError(f"{flag}: {unique[counts > 1][0]} is given twice")
    return positions


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
        raise UserError(
            f"the original model was trained with --split_seed {record['split_seed']} on"
            f" {len(trained)} images, and never saw {facts} of --split_seed {split.split_seed},"
            f" while {leaked} of its training images would validate it; use the original model and"
            " the --split_seed that belong together"
        )
