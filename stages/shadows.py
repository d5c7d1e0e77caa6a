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

import numpy as np

import generate_mask
import main_forget
import main_train
from arg_parser import flags_of
from datasets.splits import make_split
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
from stages.outputs import Request, Saved, read_saved
from utils import RunFailed, stream

# Flags that a pool chooses itself, and those that have no part in what a model becomes.
OWN = {
    "save_dir",
    "model_path",
    "mask_path",
    "mask_ratio",
    "config",
    "resume",
    "overwrite",
    "checkpoint",
    "dry_run",
    "train_seed",
    "seed",
    "forget_seed",
    "unlearn",
    "num_indexes_to_replace",
    "class_to_replace",
    "indexes_to_replace",
    "leave_out",
    "split_seed",
    "data",
    "device",
    "gpu",
    "score",
    "layers",
    "tail",
    "run",
    "threads",
    "tensorboard",
    "print_freq",
    "workers",
    "num_workers",
    "save_every_steps",
}


def draw_pool(request: Request, shadows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (m,) of the pool and membership (shadows, m): the forget set and as many retained
    images of the same classes.

    Each image is in exactly half of the shadows, an even number: they come in pairs that part the
    pool.
    """
    rng = np.random.default_rng(stream(seed, "pool"))
    labels, forget, retain = request.dataset.y_train, request.chosen.forget, request.chosen.retain
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
    """A script's run on a shadow: where it goes, the files that say how far it is, its flags, and
    the files of the pool that it reads.
    """

    main: Callable[[list[str]], int]
    where: str
    result: str
    checkpoint: str | None
    settings: list[str]
    files: dict[str, Path]


class Pool:
    """Shadow models in ``folder``, trained as ``original`` was; what is there already is not made
    again.
    """

    def __init__(
        self,
        request: Request,
        original: Saved,
        folder: Path,
        *,
        shadows: int,
        seed: int,
        data: str,
        gpu: int,
    ):
        self.request, self.folder, self.original = request, folder, original
        self.indices, self.member = draw_pool(request, shadows, seed)
        self.here = ["--data", data, "--device", request.device.type, "--gpu", str(gpu)]
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
        test = [
            load_json(file.with_name(f"{saved.arguments['unlearn']}result.json"), "result")[
                "metrics"
            ]["TA"]
            for file in files
        ]
        found = ulira_summary(scores, margins, self.member)
        found |= ulira_by_memorisation(scores, self.member, memorisation)
        found["ulira_TA"] = Metric(float(np.mean(test)))
        return measured(found), per_sample_auc(margins, self.member)

    def _train(self, shadow: int) -> Path:
        settings = [
            *flags_of(self.original.arguments, OWN),
            *self._tail(self.original),
            "--train_seed",
            str(shadow),
        ]
        files = {"--leave_out": self._list(shadow, "out")}
        step = Step(
            main_train.main,
            f"shadow{shadow:02d}/train",
            "train_result.json",
            "0checkpoint.pth.tar",
            settings,
            files,
        )
        return self._made(step, f"train shadow {shadow}") / "0model_SA_best.pth.tar"

    def _unlearn(self, saved: Saved, shadow: int) -> Path:
        name = saved.arguments["unlearn"]
        settings = [
            *flags_of(saved.arguments, OWN),
            *self._tail(saved),
            "--seed",
            str(shadow),
            "--unlearn",
            name,
        ]
        files = self._request_of(shadow)
        if saved.mask_made_by is not None:
            files |= {"--mask_path": self._mask(saved.mask_made_by, shadow)}
        step = Step(
            main_forget.main,
            f"shadow{shadow:02d}/{name}",
            f"{name}result.json",
            f"{name}checkpoint.pth.tar",
            settings,
            files,
        )
        return self._made(step, f"{saved.label} on shadow {shadow}") / step.checkpoint

    def _mask(self, made_by: dict, shadow: int) -> Path:
        """The mask of this shadow's own forget set, by the score that the audited run's mask was
        made by.
        """
        score, _, layers = made_by["score"].partition(":")
        settings = [
            "--seed",
            str(shadow),
            "--score",
            score,
            *(["--layers", layers] if layers else []),
        ]
        step = Step(
            generate_mask.main,
            f"shadow{shadow:02d}/mask",
            "mask_result.json",
            None,
            settings,
            self._request_of(shadow),
        )
        return self._made(step, f"masks of shadow {shadow}") / made_by["file"]

    def _request_of(self, shadow: int) -> dict[str, Path]:
        """A shadow and what it is to forget."""
        return {
            "--model_path": self.trained[shadow],
            "--indexes_to_replace": self._list(shadow, "in"),
        }

    def _tail(self, saved: Saved) -> list[str]:
        return [
            "--tail",
            saved.arguments.get("tail", "keep"),
        ]  # what runs did before there was the flag

    def _made(self, step: "Step", title: str) -> Path:
        """The folder of a step, which runs unless its result is there; it goes on from a checkpoint
        if there is one that it may.
        """
        settings = [*step.settings, "--split_seed", str(self.request.split.split_seed)]
        folder = self.folder / f"{step.where}-{self._digest(settings, step.files)}"
        if distributed.on_main((folder / step.result).is_file):
            return folder
        resume = step.checkpoint is not None and distributed.on_main(
            (folder / step.checkpoint).is_file
        )
        print(title + (", going on" if resume else ""), flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        files = [
            word
            for flag, file in step.files.items()
            for word in (flag, f"@{file}" if file.suffix == ".npy" else str(file))
        ]
        argv = [*settings, *self.here, *files, "--save_dir", str(folder)]
        for how in ["--resume", "--overwrite"] if resume else ["--overwrite"]:
            with (
                open(folder / "log.txt", "a") as log,
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
            ):
                code = step.main([*argv, how])
            if (
                code != 2
            ):  # a checkpoint that was begun in another precision is refused, and begun anew
                break
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise RunFailed(f"{title} ended with exit code {code}; {folder / 'log.txt'} says why")
        return folder

    def _digest(self, settings: list[str], files: dict[str, Path]) -> str:
        """What a step is made of: the images, its flags, and its files, whose names and folders end
        with what they are made of.
        """
        places = [str(file.relative_to(self.folder)) for file in files.values()]
        images = self.request.data_sha256, self.request.test_sha256  # a result holds TA
        return hashlib.sha256(" ".join([*images, *settings, *places]).encode()).hexdigest()[:8]

    def _list(self, shadow: int, which: str) -> Path:
        """A file of positions: what the shadow leaves out of the training split, or what of the
        rest it forgets.
        """
        split = make_split(self.request.dataset.y_train, self.request.split.split_seed)
        out, inside = positions_of(
            split.train, self.request.split.train, self.indices, self.member[shadow]
        )
        positions = out if which == "out" else inside
        file = (
            self.folder
            / f"{which}{shadow:02d}-{hashlib.sha256(positions.tobytes()).hexdigest()[:8]}.npy"
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        distributed.on_main(lambda: np.save(file, positions))
        return file

    def _outputs(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        return self.request.outputs_on(read_saved(file, "shadow"), self.indices, "pool")
