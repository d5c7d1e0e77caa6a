"""A pool of shadow models: each trained with a random half of some images, each made to forget exactly that half.

One pool serves every image and every method: on image x, the shadows that were trained with it and forgot it stand
against those that never saw it. (U-LiRA: Hayes et al., "Inexact unlearning needs more careful evaluations", 2024.)
"""

import contextlib
import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

import generate_mask
import main_forget
import main_train
import parallel
from arg_parser import flags_of
from auditing import Request, Saved, read_saved
from datasets.splits import make_split
from evaluation.references import memorisation_scores, per_sample_auc, ulira_by_memorisation, ulira_scores, ulira_summary
from evaluation.scores import margin
from utils import RunFailed, load_json, stream

# Flags that a pool chooses itself.
OWN = {
    "save_dir", "model_path", "mask_path", "mask_ratio", "config", "resume", "overwrite", "checkpoint", "dry_run", "train_seed", "seed",
    "forget_seed", "unlearn", "num_indexes_to_replace", "class_to_replace", "indexes_to_replace", "leave_out", "split_seed", "data",
    "device", "gpu", "score", "layers", "tail", "run", "threads",
}  # fmt: skip


def draw_pool(request: Request, shadows: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (m,) of the pool and membership (shadows, m): the forget set and as many retained images of the same classes.

    Each image is in exactly half of the shadows, an even number: they come in pairs that part the pool.
    """
    rng = np.random.default_rng(stream(seed, "pool"))
    labels, forget, retain = request.dataset.y_train, request.chosen.forget, request.chosen.retain
    same = [rng.permutation(retain[labels[retain] == c])[: np.sum(labels[forget] == c)] for c in np.unique(labels[forget])]
    pool = np.sort(np.concatenate([forget, *same]))
    halves = rng.permuted(np.tile(np.arange(len(pool)) % 2 == 0, (shadows // 2, 1)), axis=1)
    return pool, np.stack([halves, ~halves], 1).reshape(shadows, -1)


def positions_of(whole: np.ndarray, train: np.ndarray, pool: np.ndarray, member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For one shadow, the positions in ``whole`` that it leaves out, and those of its pool images in what is left.

    Args:
        whole: the training split (n,), ascending; ``train``: the part of it that the study uses (--leave_out).
        pool, member: images (m,), and which of them the shadow is trained on.
    """
    kept = np.isin(whole, train) & ~np.isin(whole, pool[~member])
    return np.flatnonzero(~kept), np.searchsorted(whole[kept], pool[member])


class Pool:
    """Shadow models in ``folder``, trained as ``original`` was; what is there already is not made again."""

    def __init__(self, request: Request, original: Saved, folder: Path, *, shadows: int, seed: int, data: str, gpu: int):
        self.request, self.folder, self.original = request, folder, original
        self.indices, self.member = draw_pool(request, shadows, seed)
        self.common = ["--data", data, "--split_seed", str(request.split.split_seed), "--device", request.device.type]
        self.common += ["--gpu", str(gpu)]
        self.trained = [self._train(i) for i in range(shadows)]

    def memorisation(self) -> dict[str, np.ndarray]:
        """For each image of the pool its memorisation score and standard error: right more often by models that saw it."""
        correct = np.stack([logits.argmax(1) == labels for logits, labels in map(self._outputs, self.trained)])
        scores, errors = memorisation_scores(correct, self.member)
        return {"indices": self.indices, "memorisation": scores, "standard_error": errors}

    def audit(self, saved: Saved, memorisation: np.ndarray) -> tuple[dict[str, float], np.ndarray]:
        """U-LiRA's numbers for the method of a checkpoint with its runs' accuracy, and each image's AUC (m,) over the shadows.

        Args:
            memorisation: (m,), of :meth:`memorisation`.
        """
        files = [self._unlearn(saved, i) for i in range(len(self.trained))]
        margins = np.stack([margin(*self._outputs(file)) for file in files])
        scores = ulira_scores(margins, self.member)
        test = [load_json(file.with_name(f"{saved.arguments['unlearn']}result.json"), "result")["metrics"]["TA"] for file in files]
        found = ulira_summary(scores, margins, self.member) | ulira_by_memorisation(scores, self.member, memorisation)
        return found | {"ulira_TA": float(np.mean(test))}, per_sample_auc(margins, self.member)

    def _train(self, shadow: int) -> Path:
        argv = [
            *flags_of(self.original.arguments, OWN),
            *self.common,
            "--tail",
            self.original.arguments.get("tail", "keep"),  # what runs did before there was the flag
            "--train_seed",
            str(shadow),
            "--leave_out",
            self._list(shadow, "out"),
        ]
        where, title = f"shadow{shadow:02d}/train", f"train shadow {shadow}"
        return self._step(main_train.main, argv, where, "train_result.json", "0checkpoint.pth.tar", title) / "0model_SA_best.pth.tar"

    def _unlearn(self, saved: Saved, shadow: int) -> Path:
        model = ["--model_path", str(self.trained[shadow]), "--seed", str(shadow), "--indexes_to_replace", self._list(shadow, "in")]
        name, mask, ratio = (saved.arguments[flag] for flag in ("unlearn", "mask_path", "mask_ratio"))
        if mask is not None:
            file = Path(mask).name if ratio is None else f"with_{ratio}.pt"
            model = [*model, "--mask_path", str(self._mask(model, Path(mask), shadow) / file)]
        tail = ["--tail", saved.arguments.get("tail", "keep")]
        argv = [*flags_of(saved.arguments, OWN), *tail, *self.common, *model, "--unlearn", name]
        checkpoint, title = f"{name}checkpoint.pth.tar", f"{saved.label} on shadow {shadow}"
        return self._step(main_forget.main, argv, f"shadow{shadow:02d}/{name}", f"{name}result.json", checkpoint, title) / checkpoint

    def _mask(self, model: list[str], theirs: Path, shadow: int) -> Path:
        """Masks of this shadow's own forget set, by the score that the audited run's mask was made by."""
        record = (theirs if theirs.is_dir() else theirs.parent) / "mask_result.json"
        made = load_json(record, "mask record") if record.is_file() else {}
        score = ["--score", made.get("score", "saliency"), *(["--layers", ",".join(made["layers"])] if made.get("layers") else [])]
        where, title = f"shadow{shadow:02d}/mask", f"masks of shadow {shadow}"
        return self._step(generate_mask.main, [*self.common, *model, *score], where, "mask_result.json", None, title)

    def _step(self, main: Callable, argv: list[str], where: str, result: str, checkpoint: str | None, title: str) -> Path:
        """Run a script in a folder that its flags name, unless its result is there; go on from a checkpoint if there is one."""
        folder = self.folder / f"{where}-{hashlib.sha256(' '.join(argv).encode()).hexdigest()[:8]}"
        if parallel.by_first((folder / result).is_file):
            return folder
        resume = checkpoint is not None and parallel.by_first((folder / checkpoint).is_file)
        print(title + (", going on" if resume else ""), flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "log.txt", "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            code = main([*argv, "--save_dir", str(folder), "--resume" if resume else "--overwrite"])
        if code == 130:
            raise KeyboardInterrupt
        if code:
            raise RunFailed(f"{title} ended with exit code {code}; {folder / 'log.txt'} says why")
        return folder

    def _list(self, shadow: int, which: str) -> str:
        """A file of positions: what the shadow leaves out of the training split, or what of the rest it forgets."""
        split = make_split(self.request.dataset.y_train, self.request.split.split_seed)
        out, inside = positions_of(split.train, self.request.split.train, self.indices, self.member[shadow])
        positions = out if which == "out" else inside
        file = self.folder / f"{which}{shadow:02d}-{hashlib.sha256(positions.tobytes()).hexdigest()[:8]}.npy"
        self.folder.mkdir(parents=True, exist_ok=True)
        parallel.by_first(lambda: np.save(file, positions))
        return f"@{file}"

    def _outputs(self, file: Path) -> tuple[np.ndarray, np.ndarray]:
        return self.request.outputs_on(read_saved(file, "shadow"), self.indices, "pool")
