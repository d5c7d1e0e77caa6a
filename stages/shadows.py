"""A pool of shadow models: each trained with a random half of some images, each made to forget
exactly that half.

One pool serves every image and every method: on image x, the shadows that were trained with it and
forgot it stand against those that never saw it. (U-LiRA: Hayes et al., "Inexact unlearning needs
more careful evaluations", 2024.)
"""

import contextlib
import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import numpy as np

from arg_parser import recorded_flags
from datasets.splits import VALIDATION_SHARE, make_split
from evaluation.intervals import Metric
from evaluation.metrics import measured
from evaluation.references import (
    memorisation_scores,
    per_sample_auc,
    ulira_by_memorisation,
    ulira_scores,
    ulira_summary,
)
from evaluation.scores import margin
from runtime import distributed
from runtime.files import load_json
from runtime.provenance import calling
from stages.file_names import BEST, CHECKPOINT, LAST, MASK_RECORD, RESULT, TRAIN_RESULT
from stages.mask import make_masks
from stages.outputs import Subject
from stages.requests import (
    OF_REFERENCE,
    MaskRequest,
    Request,
    TrainRequest,
    UnlearnRequest,
    as_words,
)
from stages.saved import Saved, read_saved
from stages.train import train
from stages.unlearn import unlearn
from unlearn import METHODS
from utils import RunFailed, UserError, stream

# Flags that a pool sets itself, and those that have no part in what a model becomes.
SET_BY_POOL = {
    *("save_dir", "model_path", "mask_path", "mask_ratio", "config", "resume", "overwrite"),
    *("checkpoint", "dry_run", "train_seed", "seed", "forget_seed", "unlearn", "leave_out"),
    *OF_REFERENCE,
    *("forget", "skip_val", "forget_copies", "retain_forgotten", "split_seed", "val_fraction"),
    "data",
    *("device", "gpu", "score", "layers", "tail", "run", "threads", "tensorboard", "print_freq"),
    *("workers", "num_workers", "cache", "store", "save_every_steps", "deterministic"),
}


def draw_pool(subject: Subject, shadows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (m,) of the pool and membership (shadows, m): the forget set and as many retained
    images of the same classes.

    Each image is in exactly half of the shadows, an even number: they come in pairs that part the
    pool.
    """
    rng = np.random.default_rng(stream(seed, "pool"))
    labels, forget, retain = subject.dataset.y_train, subject.chosen.forget, subject.chosen.retain
    same = [
        rng.permutation(retain[labels[retain] == c])[: np.sum(labels[forget] == c)]
        for c in np.unique(labels[forget])
    ]
    pool = np.sort(np.concatenate([forget, *same]))
    halves = rng.permuted(np.tile(np.arange(len(pool)) % 2 == 0, (shadows // 2, 1)), axis=1)
    return pool, np.stack([halves, ~halves], 1).reshape(shadows, -1)


def positions_of(
    whole: np.ndarray, train: np.ndarray, pool: np.ndarray, member: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For one shadow, the positions in ``whole`` that it leaves out, and those of its pool images
    in what is left.

    Args:
        whole: the training split (n,), ascending; ``train``: the part of it that the study uses
            (--leave_out).
        pool, member: images (m,), and which of them the shadow is trained on.
    """
    kept = np.isin(whole, train) & ~np.isin(whole, pool[~member])
    return np.flatnonzero(~kept), np.searchsorted(whole[kept], pool[member])


@dataclasses.dataclass(frozen=True)
class Step:
    """A stage's run on a shadow: what it is asked for, where it goes, and the files that say how
    far it is. ``lists`` are the files of the pool that it reads, by flag.
    """

    stage: Callable
    request: Request
    script: str
    where: str
    result: str
    checkpoint: str | None
    settings: list[str]
    lists: dict[str, Path]


class Pool:
    """Shadow models in ``folder``, trained as ``original`` was; what is there already is not made
    again.
    """

    def __init__(
        self,
        subject: Subject,
        original: Saved,
        folder: Path,
        *,
        shadows: int,
        seed: int,
        data: str,
        gpu: int,
    ):
        self.subject, self.folder, self.original = subject, folder, original
        self.indices, self.member = draw_pool(subject, shadows, seed)
        self.common = {
            "data": data,
            "device": subject.device.type,
            "gpu": gpu,
            "split_seed": subject.split.split_seed,
            "val_fraction": subject.split.val_fraction,
        }
        self.trained = [self._train(i) for i in range(shadows)]

    def memorisation(self) -> dict[str, np.ndarray]:
        """For each image of the pool its memorisation score and standard error: right more often by
        models that saw it.
        """
        correct = np.stack(
            [logits.argmax(1) == labels for logits, labels in map(self._outputs, self.trained)]
        )
        scores, errors = memorisation_scores(correct, self.member)
        return {"indices": self.indices, "memorisation": scores, "standard_error": errors}

    def audit(self, saved: Saved, memorisation: np.ndarray) -> tuple[dict[str, Metric], np.ndarray]:
        """U-LiRA's numbers for the method of a checkpoint with its runs' accuracy, and each image's
        AUC (m,) over the shadows.

        Args:
            memorisation: (m,), of :meth:`memorisation`.
        """
        files = [self._unlearn(saved, i) for i in range(len(self.trained))]
        margins = np.stack([margin(*self._outputs(file)) for file in files])
        scores = ulira_scores(margins, self.member)
        test = []
        for file in files:
            result = load_json(file.with_name(f"{saved.arguments['unlearn']}{RESULT}"), "result")
            test.append(result["metrics"]["TA"])
        found = ulira_summary(scores, margins, self.member)
        found |= ulira_by_memorisation(scores, self.member, memorisation)
        found["ulira_TA"] = Metric(float(np.mean(test)))
        return measured(found), per_sample_auc(margins, self.member)

    def _train(self, shadow: int) -> Path:
        recorded = self.original.arguments
        request = TrainRequest.of(
            **replayed(TrainRequest, recorded),
            **self.common,
            tail=tail_of(recorded),
            train_seed=shadow,
        )
        settings = [*recorded_words(recorded), "--train_seed", str(shadow)]
        lists = {"leave_out": self._list(shadow, "out")}
        files = (TRAIN_RESULT, LAST)
        where = f"shadow{shadow:02d}/train"
        step = Step(train, request, "main_train.py", where, *files, settings, lists)
        return self._run(step, f"train shadow {shadow}") / BEST

    def _unlearn(self, saved: Saved, shadow: int) -> Path:
        recorded, name = saved.arguments, saved.arguments["unlearn"]
        request = UnlearnRequest.of(
            **replayed(UnlearnRequest, recorded),
            **self.common,
            tail=tail_of(recorded),
            seed=shadow,
            unlearn=name,
        )
        settings = [*recorded_words(recorded), "--seed", str(shadow), "--unlearn", name]
        lists = self._model_and_forget_set(shadow)
        if saved.mask_made_by is not None:
            lists["mask_path"] = self._mask(saved.mask_made_by, shadow)
        files = (f"{name}{RESULT}", f"{name}{CHECKPOINT}")
        where = f"shadow{shadow:02d}/{name}"
        step = Step(unlearn, request, "main_forget.py", where, *files, settings, lists)
        return self._run(step, f"{saved.label} on shadow {shadow}") / step.checkpoint

    def _mask(self, made_by: dict, shadow: int) -> Path:
        """The mask of this shadow's own forget set, by the score that the audited run's mask was
        made by.
        """
        score, _, layers = made_by["score"].partition(":")
        arch = self.original.arguments["arch"]
        request = MaskRequest.of(**self.common, arch=arch, seed=shadow, score=score)
        settings = ["--seed", str(shadow), "--score", score]
        if layers:
            request = request.replace(layers=tuple(layers.split(",")))
            settings += ["--layers", layers]
        lists, where = self._model_and_forget_set(shadow), f"shadow{shadow:02d}/mask"
        files = (MASK_RECORD, None)
        step = Step(make_masks, request, "generate_mask.py", where, *files, settings, lists)
        return self._run(step, f"masks of shadow {shadow}") / made_by["file"]

    def _model_and_forget_set(self, shadow: int) -> dict[str, Path]:
        """The files of a shadow and of what it is to forget, by flag."""
        inside = self._list(shadow, "in")
        return {"model_path": self.trained[shadow], "indexes_to_replace": inside}

    def _run(self, step: Step, title: str) -> Path:
        """The folder of a step, which runs unless its result is there; it goes on from a checkpoint
        if there is one that it may.
        """
        split = self.subject.split
        settings = [*step.settings, "--split_seed", str(split.split_seed)]
        if split.val_fraction != VALIDATION_SHARE:
            settings += ["--val_fraction", str(split.val_fraction)]
        folder = self.folder / f"{step.where}-{self._digest(settings, step.lists)}"
        if distributed.on_main((folder / step.result).is_file):
            return folder
        checkpoint = step.checkpoint
        resume = checkpoint is not None and distributed.on_main((folder / checkpoint).is_file)
        print(title + (", going on" if resume else ""), flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        lists = {
            flag: f"@{file}" if file.suffix == ".npy" else file for flag, file in step.lists.items()
        }
        request = step.request.replace(**lists, save_dir=folder, overwrite=True)
        request = request.replace(typed=request.typed | lists.keys() | {"save_dir", "overwrite"})
        try:
            with open(folder / "log.txt", "a") as log:
                if not resume or not _resumed(step, request, log):
                    _call(step, request, log)
        except (UserError, RunFailed):
            raise RunFailed(f"{title} failed; {folder / 'log.txt'} says why") from None
        return folder

    def _digest(self, settings: list[str], lists: dict[str, Path]) -> str:
        """What a step is made of: the images, its flags, and its files, whose names and folders end
        with what they are made of.
        """
        places = [str(file.relative_to(self.folder)) for file in lists.values()]
        images = self.subject.data_sha256, self.subject.test_sha256  # a result holds TA
        return hashlib.sha256(" ".join([*images, *settings, *places]).encode()).hexdigest()[:8]

    def _list(self, shadow: int, which: str) -> Path:
        """A file of positions: what the shadow leaves out of the training split, or what of the
        rest it forgets.
        """
        ours = self.subject.split
        whole = make_split(self.subject.dataset.y_train, ours.split_seed, ours.val_fraction)
        out, inside = positions_of(whole.train, ours.train, self.indices, self.member[shadow])
        positions = out if which == "out" else inside
        file = (
            self.folder
            / f"{which}{shadow:02d}-{hashlib.sha256(positions.tobytes()).hexdigest()[:8]}.npy"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        distributed.on_main(lambda: np.save(file, positions))
        return file

    def _outputs(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        saved = read_saved(file, "shadow", self.original.arguments["arch"])
        return self.subject.outputs_on(saved, self.indices, "pool")


def tail_of(recorded: dict) -> str:
    """The tail of a run; ``keep`` is what runs did before there was the flag."""
    return recorded.get("tail", "keep")


def recorded_values(recorded: dict) -> dict[str, object]:
    """The typed values of a checkpoint's run that a shadow's run takes over."""
    return {name: recorded[name] for name in sorted({*recorded["typed"]} - SET_BY_POOL)}


def recorded_words(recorded: dict) -> list[str]:
    """The flags of a checkpoint's run in a fixed order: part of what names a shadow's folder."""
    return [*as_words(recorded_values(recorded)), "--tail", tail_of(recorded)]


def replayed(kind: type[Request], recorded: dict) -> dict[str, object]:
    """What :func:`recorded_values` gives a request of ``kind``, checked as typed values are."""
    known = {field.name for field in dataclasses.fields(kind)}
    if kind is UnlearnRequest:
        known |= {field.name for field in dataclasses.fields(METHODS[recorded["unlearn"]])}
    values = recorded_flags(recorded_values(recorded))
    return {name: value for name, value in values.items() if name in known}


def _resumed(step: Step, request: Request, log: TextIO) -> bool:
    """Whether a step went on to its end; not where its checkpoint is one of another precision."""
    try:
        _call(step, request.replace(overwrite=False, resume=True), log)
    except UserError:
        return False
    return True


def _call(step: Step, request: Request, log: TextIO) -> None:
    """Run a step, its output and the reason of a failure in ``log``."""
    with (
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
        calling(step.script, request.words()),
    ):
        try:
            step.stage(request)
        except (UserError, RunFailed) as error:
            print(f"{step.script}: {error}")
            raise
