"""Batches of uint8 images on the device, shuffled, cropped and flipped from seeded streams.

The cost of a batch is one gather: no worker, no PIL, no per-sample Python.
"""

import copy
import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import torch

from datasets import ImageSet
from datasets.device_images import Augmentation, DeviceImages, place_images
from datasets.resized_crop import draw_boxes
from datasets.splits import ForgetSplit, Split, validation_halves
from runtime import distributed
from utils import UserError, generator

Batch = tuple[torch.Tensor, torch.Tensor]


def own_part(values: torch.Tensor) -> torch.Tensor:
    """This process's part of a batch (n, ...) that a method makes itself and all processes know."""
    start, end = distributed.rank_bounds(len(values))
    return values[start:end]


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values`` on ``device``; to CUDA from pinned memory, so that the copy does not wait."""
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


def _resident(values: np.ndarray, images: DeviceImages) -> torch.Tensor:
    """``values`` on the device of ``images``."""
    return torch.from_numpy(np.ascontiguousarray(values)).to(images.device)


class Loader:
    """One split's batches: images (b, 3, side, side) fp32 in [0, 1] channels_last, labels (b,)
    int64, on the device, in order and as they are.

    A :meth:`training` loader shuffles and augments; each pass over it has streams of its own, fixed
    by seed, name, epoch and pass, so what one split draws never shifts another. ``eval_view()`` is
    the same split in order, as it is.

    In a run of several processes all draw the same batches, and each is given its part of every
    training batch; ``share`` says which fraction of the batch at hand that is. Other loaders give
    every process everything, unless it asks for its batches by :meth:`shared`.
    """

    def __init__(
        self,
        images: DeviceImages,
        indices: np.ndarray,
        labels: np.ndarray,
        batch_size: int,
        *,
        name: str,
        seed: int = 0,
    ):
        self.images = images
        self.indices = _resident(indices, images)
        self.labels = _resident(labels[indices], images)
        self.batch_size, self.name, self.seed = batch_size, name, seed
        self.train = self.crop = self.flip = False
        self.tail, self.accumulate = "keep", 1
        self.epoch = self.passes = self.first_batch = 0
        self.share, self.own = 1.0, slice(None)

    @property
    def num_samples(self) -> int:
        return len(self.indices)

    def bounds(self) -> list[tuple[int, int]]:
        """Where batches begin and end.

        With ``tail`` "spread" all batches are of one size, give or take an image: a last batch of a
        few images gives BatchNorm statistics so far off that they cripple a training run. "drop"
        leaves such a batch out, "keep" takes it as it is; one of a single image then joins its
        neighbour, also one of fewer images than processes.
        """
        n, size = self.num_samples, self.batch_size
        if self.tail == "spread" and n:
            batches = self._number_of_batches()
            return list(itertools.pairwise(n * batch // batches for batch in range(batches + 1)))
        if self.tail == "drop" and self.train:
            n = n // size * size or n
        starts = list(range(0, n, size))
        if self.train and len(starts) > 1 and n - starts[-1] < max(2, distributed.world_size()):
            starts.pop()
        return list(itertools.pairwise([*starts, n]))

    def _number_of_batches(self) -> int:
        """As few as ``batch_size`` allows, and a multiple of ``accumulate`` where that leaves
        batches of half the size or more.

        With such a multiple the updates are those of batches ``accumulate`` times as large. Each of
        several processes gets an image of every batch, if there are enough.
        """
        n, size, group = self.num_samples, self.batch_size, self.accumulate
        batches = -(-n // (size * group)) * group
        if 2 * n < size * batches:
            batches = -(-n // size)
        return min(batches, max(1, n // distributed.world_size())) if self.train else batches

    def __len__(self) -> int:
        return len(self.bounds()[self.own])

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Choose the streams of this epoch, all that a resumed run needs to see the same batches.

        The first pass begins at ``first_batch``, and its batches are those of the whole pass.
        """
        self.epoch, self.passes, self.first_batch = epoch, 0, first_batch

    def generator(self, purpose: str) -> torch.Generator:
        return generator(self.images.device, self.seed, self.name, purpose, self.epoch, self.passes)

    def __iter__(self) -> Iterator[Batch]:
        for images, labels in self._views(self._augmentation("")):
            yield images[0], labels

    def two_views(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """One pass of (images, images, labels): a plain pass's images and a second augmentation."""
        for images, labels in self._views(self._augmentation(""), self._augmentation(" again")):
            yield *images, labels

    def cycled(self) -> Iterator[Batch]:
        """The batches again and again, each pass in its own seeded order."""
        while True:
            yield from self

    def _views(
        self, *augmentations: Augmentation
    ) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """One pass: each batch's images under each of ``augmentations``, and its labels."""
        order = self._order()
        self.passes += 1
        first, self.first_batch = self.first_batch, 0
        indices = self.indices if order is None else self.indices[order]
        labels = self.labels if order is None else self.labels[order]
        parts = [self._part(*whole) for whole in self.bounds()[first:][self.own]]
        batches = self.images.fetched(indices, [bounds for bounds, _ in parts])
        for ((start, end), share), pixels in zip(parts, batches, strict=True):
            self.share = share
            draws = [augmentation.part(start, end) for augmentation in augmentations]
            yield [self.images.augmented(pixels, part) for part in draws], labels[start:end]

    def check_parts(self) -> None:
        """Raise :class:`UserError` where a training batch has no image for one of the ranks."""
        for start, end in self.bounds():
            self._part(start, end)

    def _part(self, start: int, end: int) -> tuple[tuple[int, int], float]:
        """This process's part of a training batch and its share; all of any other batch."""
        if not self.train or distributed.world_size() == 1:
            return (start, end), 1.0
        size = end - start
        if size < distributed.world_size():
            raise UserError(
                f"a batch of {size} {self.name} images is too small for {distributed.world_size()}"
                " processes; start fewer or raise --batch_size"
            )
        low, high = distributed.rank_bounds(size)
        return (start + low, start + high), (high - low) / size

    def _order(self) -> torch.Tensor | None:
        """This pass's order (n,); None for the loader's own."""
        if not self.train:
            return None
        generator = self.generator("order")
        return torch.randperm(self.num_samples, generator=generator, device=self.images.device)

    def _augmentation(self, again: str) -> Augmentation:
        """A pass's crops and flips, all drawn at once. ``again`` names other streams."""
        n, pad, device = self.num_samples, self.images.pad, self.images.device
        rows = columns = flips = boxes = None
        if self.train and self.crop and self.images.resized:
            boxes = draw_boxes(n, self.images.held, self.generator("resized crop" + again))
        elif self.train and self.crop and pad:
            generator = self.generator("crop" + again)
            draw = torch.randint(0, 2 * pad + 1, (2, n), generator=generator, device=device)
            rows, columns = draw.unbind()
        if self.train and self.flip:
            generator = self.generator("flip" + again)
            flips = torch.randint(0, 2, (n,), generator=generator, device=device).bool()
        return Augmentation(rows, columns, flips, boxes)

    # A view keeps the epoch it was made in: those that train are made inside ``losses``.

    def training(
        self, *, crop: bool = False, flip: bool = False, tail: str = "keep", accumulate: int = 1
    ) -> "Loader":
        """The same images shuffled, cropped and flipped as told; see :meth:`bounds`."""
        return self._with(train=True, crop=crop, flip=flip, tail=tail, accumulate=accumulate)

    def eval_view(self) -> "Loader":
        """All of the images in order, neither shuffled nor augmented, whatever ``tail`` drops."""
        tail = "keep" if self.tail == "drop" else self.tail
        return self._with(train=False, accumulate=1, tail=tail)

    def shared(self) -> "Loader":
        """Every world_size-th whole batch, from this rank's on, of a loader that does not train."""
        assert not self.train, "training batches are shared out as they are"
        return self._with(own=slice(distributed.rank(), None, distributed.world_size()))

    def augments(self) -> bool:
        """Whether a pass crops or flips its images: if not, all passes show the same."""
        crops = self.crop and (self.images.resized or self.images.pad)
        return bool(self.train and (crops or self.flip))

    def unaugmented(self) -> "Loader":
        """The same images, shuffled the same way, neither cropped nor flipped."""
        return self._with(crop=False, flip=False)

    def relabelled(self, labels: torch.Tensor) -> "Loader":
        """The same images under other labels, (num_samples,) in this loader's order."""
        return self._with(labels=labels)

    def joined(self, other: "Loader") -> "Loader":
        """Both splits shuffled into one by a stream of its own, in batches like the other's."""
        return self._with(
            indices=torch.cat([self.indices, other.indices]),
            labels=torch.cat([self.labels, other.labels]),
            name=f"{self.name}+{other.name}",
            batch_size=other.batch_size,
        )

    def subset(self, count: int, purpose: str) -> "Loader":
        """A seeded draw of at most ``count`` images, the same at every epoch, in index order."""
        if count >= self.num_samples:
            return self
        return self._chosen(self._permutation(purpose)[:count].sort().values, purpose)

    def shuffled(self, purpose: str) -> "Loader":
        """The same images in one seeded order for all epochs; an ``eval_view()`` keeps it."""
        return self._chosen(self._permutation(purpose), purpose)

    def by_class(self) -> "Loader":
        """The images class by class, else in their order; an ``eval_view()`` keeps it."""
        return self._chosen(self.labels.sort(stable=True).indices, "by class")

    def _permutation(self, purpose: str) -> torch.Tensor:
        draws = generator("cpu", self.seed, self.name, purpose)
        return torch.randperm(self.num_samples, generator=draws)

    def _chosen(self, positions: torch.Tensor, purpose: str) -> "Loader":
        positions = to_device(positions, self.images.device)
        indices, labels = self.indices[positions], self.labels[positions]
        return self._with(indices=indices, labels=labels, name=f"{self.name}/{purpose}")

    def seeded(self, seed: int) -> "Loader":
        """The same images in other orders, crops and flips."""
        return self._with(seed=seed)

    def over(self, indices: np.ndarray, labels: np.ndarray, name: str) -> "Loader":
        """Batches like these of images ``indices`` (m,); ``labels`` (n,) are of the whole set."""
        chosen = _resident(indices, self.images), _resident(labels[indices], self.images)
        return self._with(indices=chosen[0], labels=chosen[1], name=name)

    def batches_of(self, batch_size: int) -> "Loader":
        """The same split in batches of another size."""
        return self._with(batch_size=batch_size)

    def evenly(self, batch_size: int) -> "Loader":
        """The same split in the fewest even batches of at most ``batch_size`` images."""
        return self._with(batch_size=batch_size, tail="spread", accumulate=1)

    def _with(self, **changes: object) -> "Loader":
        view = copy.copy(self)
        vars(view).update(changes)
        return view


@dataclasses.dataclass(frozen=True)
class Batches:
    """How training images come in batches: the fields of a :class:`recipe.Recipe` that say so."""

    batch_size: int
    forget_batch_size: int | None = None
    tail: str = "spread"
    accumulate: int = 1
    augment: bool = True


class Data:
    """What methods see: training loaders ``forget`` and ``retain``, classes, generators.

    The evaluation views of all four splits are in ``evaluation``; nothing that a method does can
    change them. Where ``retain`` gives the indices of a part of the retain set, methods see that
    part and evaluation sees all of it. ``store`` says where images are, "device" or "stream"
    (:mod:`datasets.device_images`). ``batches`` are the fields of :class:`Batches`.
    """

    def __init__(
        self,
        dataset: ImageSet,
        split: Split,
        chosen: ForgetSplit | None,
        *,
        device: torch.device,
        seed: int,
        retain: np.ndarray | None = None,
        store: str = "device",
        **batches: object,
    ):
        self.num_classes, self.seed, self.device = dataset.num_classes, seed, device
        self.dataset, self.split, self.chosen = dataset, split, chosen
        self.batches = Batches(**batches)
        pad = dataset.crop if self.batches.augment else 0
        self.store = store
        train_images = place_images(dataset.x_train, device, pad, store, dataset.side)
        parts = {"train": split.train}
        if chosen is not None:
            parts = {"forget": chosen.forget, "retain": chosen.retain}
        seen = parts if retain is None else parts | {"retain": retain}
        self.evaluation = self._held_out(train_images)
        self.loaders = []
        for name in parts:
            self.evaluation[name] = self._training(train_images, name, parts[name]).eval_view()
            loader = self._training(train_images, name, seen[name])
            setattr(self, name, loader)
            self.loaders.append(loader)
        if chosen is not None and len(chosen.before):
            before = self._training(train_images, "forgotten_before", chosen.before)
            self.evaluation["forgotten_before"] = before.eval_view()
        self.epoch = 0

    def _held_out(self, train_images: DeviceImages) -> dict[str, Loader]:
        """The validation and the test split, without a class that is forgotten as a whole."""
        dataset, chosen = self.dataset, self.chosen
        dropped = (*chosen.dropped_classes, *chosen.gone) if chosen else ()
        test_images = place_images(dataset.x_test, self.device, 0, self.store, dataset.side)
        val, test = self.split.val, np.arange(len(dataset.y_test))
        if dropped:
            val = val[~np.isin(dataset.y_train[val], dropped)]
            test = test[~np.isin(dataset.y_test, dropped)]
        size = self.batches.batch_size
        return {
            "val": Loader(train_images, val, dataset.y_train, size, name="val"),
            "test": Loader(test_images, test, dataset.y_test, size, name="test"),
        }

    def validation_half(self, half: int) -> Loader:
        """Half A (0) or B (1) of the validation images of ``evaluation``: in order, as they are."""
        val, indices = self.evaluation["val"], validation_halves(self.split, self.dataset.y_train)
        shown = np.intersect1d(indices[half], val.indices.cpu().numpy())
        return val.over(shown, self.dataset.y_train, f"val/{'AB'[half]}")

    def _training(self, images: DeviceImages, name: str, indices: np.ndarray) -> Loader:
        batches, size = self.batches, self.batches.batch_size
        if name == "forget":
            size = batches.forget_batch_size or size
        labels = self.dataset.y_train
        loader = Loader(images, np.sort(indices), labels, size, name=name, seed=self.seed)
        flip, tail = batches.augment and self.dataset.flip, batches.tail
        crop, accumulate = batches.augment, batches.accumulate
        return loader.training(crop=crop, flip=flip, tail=tail, accumulate=accumulate)

    def augment_retain(self) -> None:
        """Give ``retain`` the crops and flips of the data set, whatever ``augment`` is; crops by an
        eighth of the side where the data set has neither.
        """
        retain, dataset = self.retain, self.dataset
        eighth = max(1, retain.images.side // 8)
        retain.images = copy.copy(retain.images)
        retain.images.pad = dataset.crop or (0 if dataset.flip else eighth)
        retain.crop, retain.flip = True, dataset.flip

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Move every stream to ``epoch``, and each loader's next pass to ``first_batch``."""
        self.epoch = epoch
        for loader in self.loaders:
            loader.set_epoch(epoch, first_batch)

    def generator(self, purpose: str) -> torch.Generator:
        """The stream of a method's own draws, such as noise on weights, at this epoch."""
        return generator(self.device, self.seed, purpose, self.epoch)
