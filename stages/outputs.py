"""Saved models -> their outputs on every split of one forget request, computed once and kept in
``logits/``.
"""

import dataclasses
import glob
import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from datasets import load_dataset
from datasets.loaders import Data, DeviceImages, Loader
from datasets.splits import ForgetSplit, Split
from engine import predict, train_epoch
from evaluation.suites import Splits
from models import build_model, place
from recipe import make_optimizer
from reporting.groups import grouped, is_whole, pick_reference
from runtime import distributed
from runtime.files import hash_arrays, load, load_json, reading
from stages.cache import cached
from stages.mask import recorded_score
from stages.records import completed
from unlearn import label_today
from unlearn.base import cross_entropy_steps
from utils import UserError, printable, stream

REMEDY = "evaluate.py reads what main_train.py, main_forget.py and main_random.py write"
# Not part of what makes two runs one configuration: seeds, and the hashes of what differs with
# them.
OF_ONE_RUN = ("seed", "train_seed", "original", "mask", "forget", "retain", "data_sha256", "train")


@dataclasses.dataclass(frozen=True, eq=False)
class Saved:
    """A checkpoint: its weights and what it records of its data and its forget set.

    ``mask_made_by`` holds the file (with_0.5.pt) and the score of its mask; None without a mask, or
    where no record says; ``original`` the hash of the weights that it began with, empty where no
    record says.
    """

    path: Path
    role: str
    weights: dict[str, Tensor]
    sha256: str
    arguments: dict
    split: dict
    forget: np.ndarray | None
    retain: np.ndarray | None
    label: str
    key: str
    hyperparameters: dict
    mask: list | None = None
    mask_made_by: dict | None = None
    original: str = ""

    @property
    def seed(self) -> int:
        return self.arguments["seed"]


def expand(patterns: Sequence[str], flag: str) -> list[Path]:
    """The files of the patterns, each once, in order; a pattern that names none is refused."""
    files: dict[Path, None] = {}
    for pattern in patterns:
        matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(f"{flag} {pattern}: no such file")
        files |= dict.fromkeys(map(Path, matches))
    return list(files)


def read_saved(path: Path, role: str) -> Saved:
    """Read a checkpoint of main_train, main_forget or main_random.

    Raises:
        UserError: another kind of file, or one without a record of its data.
    """
    content = load(path, "checkpoint")
    with reading(path, "checkpoint", REMEDY):
        arguments, split, identity = (
            dict(content["arguments"]),
            dict(content["split"]),
            dict(content["identity"]),
        )
        weights = {
            name.removeprefix("module."): value for name, value in content["state_dict"].items()
        }
        forget, retain = (
            content[name].numpy() if name in content else None for name in ("forget", "retain")
        )
        masked = bool(identity.get("mask"))
        label = printable(
            str(content.get("label", identity.get("method", "Original") + "+mask" * masked))
        )
        if "method" in identity:
            label = label_today(arguments["unlearn"], label, masked)
            identity["method"] = label_today(arguments["unlearn"], identity["method"], masked=False)
        settings = {
            name: value
            for name, value in identity.items()
            if name not in OF_ONE_RUN and (name, value) != ("retain_fraction", 1)
        }
        mask = arguments["mask_path"] and [
            Path(arguments["mask_path"]).name,
            arguments["mask_ratio"],
        ]
        key = json.dumps([label, settings, mask], sort_keys=True)
        if (
            type(arguments["seed"]) is not int
            or not isinstance(split["train"], Tensor)
            or not isinstance(split["val"], Tensor)
        ):
            raise TypeError("its record is not that of a run")
        made_by = mask_made_by(content, arguments, str(identity.get("mask", ""))) if mask else None
        start = str(identity.get("original") or "")
        return Saved(
            path,
            role,
            weights,
            hash_arrays(weights),
            arguments,
            split,
            forget,
            retain,
            label,
            key,
            settings,
            mask,
            made_by,
            start,
        )


def mask_made_by(content: dict, arguments: dict, sha256: str) -> dict | None:
    """What made a checkpoint's mask: by its own record; of an older one by that beside the mask, if
    it is of this very mask.
    """
    if content.get("mask"):
        found = {name: content["mask"][name] for name in ("file", "score")}
        return found if None not in found.values() else None
    path, ratio = Path(arguments["mask_path"]), arguments["mask_ratio"]
    file = path if ratio is None else path / f"with_{ratio}.pt"
    record_file = file.with_name("mask_result.json")
    if not record_file.is_file():
        return None
    record = load_json(record_file, "mask record")
    with reading(
        record_file, "mask record", "make the masks again with generate_mask.py, or move it away"
    ):
        same = record["masks"].get(file.name, {}).get("sha256") == sha256
        return {"file": file.name, "score": recorded_score(record)} if same else None


def with_reference(saved: Sequence[Saved], reference: str | None) -> list[Saved]:
    """``saved`` with one kind of Retrain left in the role ``retrain``, and the others under their
    own names in the role ``unlike``.

    A kind is what was trained by one recipe; one under a mask, or on a part of the retain set, is
    no reference.

    Raises:
        UserError: several kinds and no choice, see :func:`pick_reference`.
    """
    retrain = [i for i, each in enumerate(saved) if each.role == "retrain"]
    settings = completed(
        [
            saved[i].hyperparameters | ({"mask": saved[i].mask} if saved[i].mask else {})
            for i in retrain
        ]
    )
    kinds = grouped([saved[i].label for i in retrain], settings)
    whole = {name: len(runs) for name, runs in kinds.items() if is_whole(settings[runs[0]])}
    chosen = pick_reference("--retrain", whole, reference)
    if others := [name for name in kinds if name != chosen]:
        print(f"gaps are to {chosen or 'no Retrain'}; a row of its own: {', '.join(others)}")
    found = list(saved)
    for name, runs in kinds.items():
        role = "retrain" if name == chosen else "unlike"
        for i in (retrain[run] for run in runs):
            found[i] = dataclasses.replace(saved[i], role=role, key=name, label=name)
    return found


class Request:
    """The images and the forget set that all models are about, taken from the first one, and their
    outputs on them.
    """

    def __init__(self, first: Saved, *, data: str | None, device: torch.device, batch_size: int):
        self.first, self.device = first, device
        flags = first.arguments
        with reading(first.path, "checkpoint", REMEDY):
            size = flags["input_size"] if "input_size" in flags["typed"] else None
            name, data = flags["dataset"], data or flags["data"]
        self.dataset = distributed.one_at_a_time(
            lambda: load_dataset(name, data, input_size=size, workers=0)
        )
        self.data_sha256, self.test_sha256 = self.dataset.sha256(), self.dataset.test_sha256()
        if self.data_sha256 != first.split["data_sha256"]:
            raise UserError(
                f"--models {first.path} was trained on other images than {name} in {data}; give its"
                " own with --data"
            )
        with reading(first.path, "checkpoint", REMEDY):
            self.chosen = forgotten(first, self.dataset.y_train)
            train = np.sort(np.concatenate([first.forget, first.retain]))
            self.split = Split(int(first.split["split_seed"]), train, first.split["val"].numpy())
        self.data = Data(
            self.dataset, self.split, self.chosen, device=device, batch_size=batch_size, seed=0
        )
        self.loaders = dict(self.data.evaluation)
        if self.chosen.dropped_class is not None:
            # Is the class forgotten, or only its training images?
            indices = np.flatnonzero(self.dataset.y_test == self.chosen.dropped_class)
            images = DeviceImages(self.dataset.x_test, device, 0)
            self.loaders["test_forgotten"] = Loader(
                images, indices, self.dataset.y_test, batch_size, name="test_forgotten"
            )

    def check(self, saved: Saved) -> None:
        """Refuse a model that saw other images or forgot others than the first one, or that cannot
        be judged by this split.
        """
        flag = f"--{saved.role} {saved.path}"
        trained = saved.split["train"].numpy()
        if saved.split["data_sha256"] != self.data_sha256:
            raise UserError(
                f"{flag} was trained on other images than {self.first.path}; evaluate them apart"
            )
        if saved.forget is not None and not np.array_equal(
            np.sort(saved.forget), np.sort(self.first.forget)
        ):
            raise UserError(
                f"{flag} forgot other images than {self.first.path}; evaluate them apart"
            )
        if saved.role == "retrain" and len(seen := np.intersect1d(trained, self.first.forget)):
            raise UserError(
                f"{flag} was trained on {len(seen)} of the {len(self.first.forget)} forgotten"
                " images; it is no Retrain"
            )
        if saved.role == "original" and len(unseen := np.setdiff1d(self.first.forget, trained)):
            raise UserError(
                f"{flag} never saw {len(unseen)} of the {len(self.first.forget)} forgotten images;"
                " it is not their original"
            )
        if leaked := len(np.intersect1d(trained, self.split.val)):
            raise UserError(
                f"{flag} was trained on {leaked} of {len(self.split.val)} validation images; use"
                " models of one --split_seed"
            )

    def outputs(self, saved: Saved) -> Splits:
        """{split: (logits (n, k), labels (n,))}, fp32, from the cache beside the model where it has
        them.
        """
        built: list[nn.Module] = []
        return {
            name: self._kept(saved, name, loader, built) for name, loader in self.loaders.items()
        }

    def outputs_on(
        self, saved: Saved, indices: np.ndarray, name: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits and labels of the training images at ``indices`` (m,), un-augmented, from the
        cache where it has them.
        """
        return self._kept(
            saved, name, self.data.forget.over(indices, self.dataset.y_train, name).eval_view(), []
        )

    def _kept(
        self, saved: Saved, name: str, loader: Loader, built: list[nn.Module]
    ) -> tuple[np.ndarray, np.ndarray]:
        indices = loader.indices.cpu().numpy()
        made_from = {
            "weights": saved.sha256,
            "data": self.data_sha256,
            "indices": hash_arrays({"indices": indices}),
            "split": name,
        }
        made_from |= {"test": self.test_sha256} if name.startswith("test") else {}
        shapes = {
            "logits": (len(indices), self.dataset.num_classes),
            "labels": (len(indices),),
            "indices": (len(indices),),
        }
        arrays = cached(
            saved.path.parent / "logits",
            name,
            made_from,
            shapes,
            lambda: self._predict(saved, built, loader),
        )
        if not np.isfinite(arrays["logits"]).all():
            raise UserError(
                f"--{saved.role} {saved.path}: its logits are not finite; the model has diverged,"
                " leave it out"
            )
        return arrays["logits"], arrays["labels"]

    def _predict(
        self, saved: Saved, built: list[nn.Module], loader: Loader
    ) -> dict[str, np.ndarray]:
        if not built:
            built.append(self.build(saved))
        logits, labels = predict(built[0], loader)
        logits = logits if len(labels) else logits.reshape(0, self.dataset.num_classes)
        return {
            "logits": logits.numpy(),
            "labels": labels.numpy(),
            "indices": loader.indices.cpu().numpy(),
        }

    def build(self, saved: Saved) -> nn.Module:
        """The model on the device."""
        flags, whole = saved.arguments, self.dataset
        with reading(saved.path, "checkpoint", REMEDY):
            model = build_model(
                flags["arch"],
                whole.num_classes,
                whole.mean,
                whole.std,
                image_size=whole.image_size,
                imagenet_stem=flags["imagenet_arch"],
            )
            model.load_state_dict(saved.weights, strict=True)
        return place(model, self.device)

    def relearn(self, saved: Saved, *, steps: int, lr: float, seeds: int) -> dict[str, np.ndarray]:
        """Accuracy, in percent, while the model is trained on what it forgot, and on as many
        validation images: see :func:`relearn_curve`.

        Returns ``steps`` (m,), ``accuracy`` (seeds, m) on forget and ``never_seen`` (1, m) on the
        validation images, from the cache where it has them.
        """
        flags = {
            "steps": steps,
            "lr": lr,
            "seeds": seeds,
            "batch_size": self.data.forget.batch_size,
            "kind": "relearn",
        }
        flags["tail"] = self.data.forget.tail
        flags |= (
            {"processes": distributed.world_size()} if distributed.world_size() > 1 else {}
        )  # on the CPU BatchNorm sees a process's part alone
        made_from = {
            **flags,
            "weights": saved.sha256,
            "data": self.data_sha256,
            "forget": self.chosen.sha256(),
        }
        shapes = {"steps": (None,), "accuracy": (seeds, None), "never_seen": (1, None)}
        return cached(
            saved.path.parent / "logits",
            "relearn",
            made_from,
            shapes,
            lambda: self._relearn(saved, steps, lr, seeds),
        )

    def _relearn(self, saved: Saved, steps: int, lr: float, seeds: int) -> dict[str, np.ndarray]:
        runs = {
            "accuracy": [self.data.forget.seeded(seed) for seed in range(seeds)],
            "never_seen": [self._never_seen()],
        }
        curves = {
            name: [
                relearn_curve(self.build(saved), loader, steps=steps, lr=lr) for loader in loaders
            ]
            for name, loaders in runs.items()
        }
        marks = curves["never_seen"][0][0]
        return {
            "steps": np.array(marks),
            **{name: np.array([accuracy for _, accuracy in rows]) for name, rows in curves.items()},
        }

    def _never_seen(self) -> Loader:
        """As many validation images as are forgotten, or all there are, of the same classes, to be
        trained on like them.
        """
        labels = self.dataset.y_train
        same = self.split.val[np.isin(labels[self.split.val], labels[self.chosen.forget])]
        rng = np.random.default_rng(stream(0, "never seen"))
        drawn = np.sort(rng.permutation(same)[: len(self.chosen.forget)])
        return self.data.forget.over(drawn, labels, "never_seen")

    def record(self) -> dict:
        """What was evaluated, for audit.json."""
        forget = {
            "kind": self.chosen.kind,
            "count": len(self.chosen.forget),
            "sha256": self.chosen.sha256(),
        }
        if self.chosen.kind == "class":
            forget["class"] = int(self.first.arguments["class_to_replace"])
        return {
            "dataset": self.dataset.name,
            "arch": self.first.arguments["arch"],
            "data_sha256": self.data_sha256,
            "test_sha256": self.test_sha256,
            "split_seed": self.split.split_seed,
            "scenario": self.chosen.scenario,
            "forget": forget,
            "sizes": {name: loader.num_samples for name, loader in self.loaders.items()},
        }


def forgotten(saved: Saved, labels: np.ndarray) -> ForgetSplit:
    """The checkpoint's forget split; a class is dropped where it was asked for and none of it is
    retained.
    """
    asked = int(saved.arguments["class_to_replace"])
    whole = asked != -1 and not np.any(labels[saved.retain] == asked)
    kind = (
        "class"
        if asked != -1
        else "random"
        if saved.arguments["indexes_to_replace"] is None
        else "indexes"
    )
    return ForgetSplit(kind, saved.forget, saved.retain, asked if whole else None)


def relearn_curve(
    model: nn.Module, loader: Loader, *, steps: int, lr: float
) -> tuple[list[int], list[float]]:
    """Accuracy on a loader's images, in percent, after 0, 1, 2, 4, ... up to ``steps`` updates on
    them; the model is changed.

    SGD with momentum 0.9, fp32, the loader's augmentation; the images are gone through as often as
    it takes.
    """
    marks = [0, *(2**i for i in range(steps.bit_length())), steps]
    marks = sorted({mark for mark in marks if mark <= steps})
    optimizer = make_optimizer(model.parameters(), lr, 0.9, 0.0)
    seen = loader.eval_view()
    batches = endless(loader)
    accuracy = []
    for before, mark in itertools.pairwise([0, *marks]):
        if mark > before:
            few = itertools.islice(batches, mark - before)
            train_epoch(
                model,
                cross_entropy_steps(model, few),
                optimizer,
                device=loader.images.device,
                title="relearn",
                one_image=True,
            )
        logits, labels = predict(model, seen)
        accuracy.append(100 * float((logits.argmax(1) == labels).double().mean()))
    return marks, accuracy


def endless(loader: Loader):  # noqa: ANN201
    """The loader's batches, epoch after epoch."""
    epoch = 0
    while True:
        loader.set_epoch(epoch)
        yield from loader
        epoch += 1
