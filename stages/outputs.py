"""Saved models -> their outputs on every split of one forget set, computed once and kept in
``logits/``.
"""

from functools import partial

import numpy as np
import torch
from torch import nn

from datasets import load_dataset
from datasets.loaders import Data, Loader
from datasets.splits import Split, recorded_fraction
from engine import predict
from evaluation.suites import Splits
from models import place
from runtime import distributed
from runtime.files import hash_arrays, reading
from stages.cache import cached
from stages.classifier import restored
from stages.relearning import relearn_curve
from stages.saved import REMEDY, Saved, forgotten
from stages.task import store_of
from utils import UserError, printable, stream


class Subject:
    """The images and the forget set that all models are about, taken from the first one, and their
    outputs on them.
    """

    def __init__(
        self,
        first: Saved,
        *,
        data: str | None,
        device: torch.device,
        batch_size: int,
        cache: str | None = None,
        store: str = "auto",
    ):
        self.first, self.device = first, device
        flags = first.arguments
        with reading(first.path, "checkpoint", REMEDY):
            size = flags["input_size"] if "input_size" in flags["typed"] else None
            name, data, fit = flags["dataset"], data or flags["data"], flags.get("fit")
            cache = cache or flags.get("cache")
            augment = flags.get("augment", "crop")  # all that there was before the flag
        self.dataset = distributed.main_first(
            lambda: load_dataset(name, data, input_size=size, fit=fit, cache=cache, augment=augment)
        )
        for line in self.dataset.lines():
            print(printable(line))
        self.data_sha256, self.test_sha256 = self.dataset.sha256(), self.dataset.test_sha256()
        if self.data_sha256 != first.split["data_sha256"]:
            raise UserError(
                f"--models {first.path} was trained on other images than {name} in {data}; give its"
                " own with --data"
            )
        with reading(first.path, "checkpoint", REMEDY):
            self.chosen = forgotten(first, self.dataset.y_train)
            train = np.sort(np.concatenate([first.forget, first.retain]))
            seed, val = int(first.split["split_seed"]), first.split["val"].numpy()
            self.split = Split(seed, train, val, recorded_fraction(first.split))
        where = {"device": device, "store": store_of(store, self.dataset, device)}
        self.data = Data(
            self.dataset, self.split, self.chosen, batch_size=batch_size, seed=0, **where
        )
        self.loaders = dict(self.data.evaluation)
        if self.chosen.dropped_classes:
            # Is the class forgotten, or only its training images?
            indices = np.flatnonzero(np.isin(self.dataset.y_test, self.chosen.dropped_classes))
            test, labels = self.data.evaluation["test"], self.dataset.y_test
            self.loaders["test_forgotten"] = test.over(indices, labels, "test_forgotten")

    def check(self, saved: Saved) -> None:
        """Refuse a model that saw other images or forgot others than the first one, or that cannot
        be judged by this split.
        """
        flag, forget = f"--{saved.role} {saved.path}", self.first.forget
        trained = saved.split["train"].numpy()
        apart = f"images than {self.first.path}; evaluate them apart"
        if saved.split["data_sha256"] != self.data_sha256:
            raise UserError(f"{flag} was trained on other {apart}")
        earlier = np.append(self.chosen.before, forget) if len(self.chosen.before) else []
        # The model that a second request began with has forgotten the first one's images.
        parent = saved.role == "original" and np.isin(saved.forget, earlier).all()
        same = saved.forget is None or np.array_equal(np.sort(saved.forget), np.sort(forget))
        if not (same or parent):
            raise UserError(f"{flag} forgot other {apart}")
        if saved.role == "retrain" and len(seen := np.intersect1d(trained, forget)):
            raise UserError(
                f"{flag} was trained on {len(seen)} of the {len(forget)} forgotten images; it is no"
                " Retrain"
            )
        if saved.role == "original" and len(unseen := np.setdiff1d(forget, trained)):
            raise UserError(
                f"{flag} never saw {len(unseen)} of the {len(forget)} forgotten images; it is not"
                " their original"
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
        loader = self.data.forget.over(indices, self.dataset.y_train, name).eval_view()
        return self._kept(saved, name, loader, [])

    def _kept(
        self, saved: Saved, name: str, loader: Loader, built: list[nn.Module]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Logits and labels of a loader's images; the model is built, into ``built``, only where
        the cache lacks them.
        """
        indices = loader.indices.cpu().numpy()
        made_from = {
            "weights": saved.sha256,
            "data": self.data_sha256,
            "indices": hash_arrays({"indices": indices}),
            "split": name,
        }
        if name.startswith("test"):
            made_from["test"] = self.test_sha256
        shapes = {
            "logits": (len(indices), self.dataset.num_classes),
            "labels": (len(indices),),
            "indices": (len(indices),),
        }
        folder, compute = saved.path.parent / "logits", partial(self._predict, saved, built, loader)
        arrays = cached(folder, name, made_from, shapes, compute)
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
        indices = loader.indices.cpu().numpy()
        return {"logits": logits.numpy(), "labels": labels.numpy(), "indices": indices}

    def build(self, saved: Saved) -> nn.Module:
        """The model on the device."""
        classes, size = self.dataset.num_classes, self.dataset.image_size
        with reading(saved.path, "checkpoint", REMEDY):
            model = restored(saved.arguments, saved.weights, classes, size)
        return place(model, self.device)

    def relearn(self, saved: Saved, *, steps: int, lr: float, seeds: int) -> dict[str, np.ndarray]:
        """Accuracy, in percent, while the model is trained on what it forgot, and on as many
        validation images: see :func:`relearn_curve`.

        Returns ``steps`` (m,), ``accuracy`` (seeds, m) on forget and ``never_seen`` (1, m) on the
        validation images, NaN without any, from the cache where it has them.
        """
        made_from = {
            "steps": steps,
            "lr": lr,
            "seeds": seeds,
            "batch_size": self.data.forget.batch_size,
            "kind": "relearn",
            "tail": self.data.forget.tail,
            "weights": saved.sha256,
            "data": self.data_sha256,
            "forget": self.chosen.sha256(),
        }
        if (processes := distributed.world_size()) > 1:
            made_from["processes"] = processes  # on the CPU BatchNorm sees a rank's part alone
        shapes = {"steps": (None,), "accuracy": (seeds, None), "never_seen": (1, None)}
        folder = saved.path.parent / "logits"
        compute = partial(self._relearn, saved, steps, lr, seeds)
        return cached(folder, "relearn", made_from, shapes, compute)

    def _relearn(self, saved: Saved, steps: int, lr: float, seeds: int) -> dict[str, np.ndarray]:
        curve = partial(relearn_curve, steps=steps, lr=lr)
        forget = self.data.forget
        curves = [curve(self.build(saved), forget.seeded(seed)) for seed in range(seeds)]
        marks, _ = curves[0]
        never_seen, unseen = np.full(len(marks), np.nan), self._never_seen()
        if unseen.num_samples:
            _, never_seen = curve(self.build(saved), unseen)
        return {
            "steps": np.array(marks),
            "accuracy": np.array([accuracy for _, accuracy in curves]),
            "never_seen": np.array([never_seen]),
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
        return {
            "dataset": self.dataset.name,
            "arch": self.first.arguments["arch"],
            "data_sha256": self.data_sha256,
            "test_sha256": self.test_sha256,
            "split_seed": self.split.split_seed,
            "scenario": self.chosen.scenario,
            "forget": self.chosen.record(self.dataset.classes),
            "sizes": {name: loader.num_samples for name, loader in self.loaders.items()},
        }
