"""Batches of device-resident uint8 images: shuffled, cropped and flipped as whole batches, from
seeded streams.

The cost of a batch is one gather on the device; there is no worker, no PIL and no per-sample
Python.
"""

import copy
import itertools
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from datasets import ImageSet
from datasets.splits import ForgetSplit, Split
from runtime import distributed
from utils import UserError, generator, stream

Batch = tuple[torch.Tensor, torch.Tensor]


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the host on ``device``. On CUDA from pinned memory, since other copies wait for
    all that the device has to do.
    """
    if device.type == "cuda":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


class DeviceImages:
    """uint8 images (n, side, side, 3) on the device, zero-padded once so that a random crop is a
    shifted window.
    """

    def __init__(self, images: np.ndarray, device: torch.device, pad: int):
        resident = torch.from_numpy(images).to(device)
        self.padded = F.pad(resident, (0, 0, pad, pad, pad, pad))
        self.pad, self.side, self.device = pad, images.shape[1], device
        self.windows = self.padded.unfold(1, self.side, 1).unfold(
            2, self.side, 1
        )  # (n, 2p+1, 2p+1, 3, side, side), a view

    def batch(
        self, indices: torch.Tensor, rows: torch.Tensor | int, columns: torch.Tensor | int
    ) -> torch.Tensor:
        """uint8 windows (b, 3, side, side) of ``indices`` at the given offsets in 0..2*pad."""
        # The pixel layout stays (row, column, channel), which is what channels_last means for the
        # permuted view.
        windows = self.windows.permute(0, 1, 2, 4, 5, 3)
        return windows[indices, rows, columns].permute(0, 3, 1, 2)


class Loader:
    """One split's batches: images (b, 3, side, side) fp32 in [0, 1] channels_last, labels (b,)
    int64, on the device.

    A training loader shuffles and augments; each pass over it has streams of its own, fixed by
    seed, name, epoch and pass, so what one split draws never shifts another. ``eval_view()`` is the
    same split in order, as it is.

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
        train: bool = False,
        crop: bool = False,
        flip: bool = False,
        tail: str = "keep",
        accumulate: int = 1,
    ):
        self.images = images
        self.indices = torch.from_numpy(np.ascontiguousarray(indices)).to(images.device)
        self.labels = torch.from_numpy(np.ascontiguousarray(labels[indices])).to(images.device)
        self.batch_size, self.name, self.seed = batch_size, name, seed
        self.train, self.crop, self.flip = train, crop, flip
        self.tail, self.accumulate = tail, accumulate
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
        """Choose the streams of this epoch; a resumed run needs nothing else to see the same
        batches.

        The first pass begins at ``first_batch``: an epoch's draws are made at once, so that the
        later batches do not change.
        """
        self.epoch, self.passes, self.first_batch = epoch, 0, first_batch

    def generator(self, purpose: str) -> torch.Generator:
        return generator(self.images.device, self.seed, self.name, purpose, self.epoch, self.passes)

    def __iter__(self) -> Iterator[Batch]:
        order, rows, columns, flips = self._draws()
        self.passes += 1
        first, self.first_batch = self.first_batch, 0
        for start, end in self.bounds()[first:][self.own]:
            start, end = self._part(start, end)
            chosen = slice(start, end) if order is None else order[start:end]
            offsets = (
                (self.images.pad,) * 2 if rows is None else (rows[start:end], columns[start:end])
            )
            pixels = self.images.batch(self.indices[chosen], *offsets)
            if flips is not None:
                pixels = torch.where(flips[start:end, None, None, None], pixels.flip(-1), pixels)
            yield (
                pixels.float().div_(255).contiguous(memory_format=torch.channels_last),
                self.labels[chosen],
            )

    def check_parts(self) -> None:
        """Raise :class:`UserError` where a training batch has no image for one of several
        processes.
        """
        for start, end in self.bounds():
            self._part(start, end)

    def _part(self, start: int, end: int) -> tuple[int, int]:
        """This process's part of a training batch; all of any other batch."""
        if not self.train or distributed.world_size() == 1:
            return start, end
        size = end - start
        if size < distributed.world_size():
            raise UserError(
                f"a batch of {size} {self.name} images is too small for {distributed.world_size()}"
                " processes; start fewer or raise --batch_size"
            )
        low, high = distributed.rank_bounds(size)
        self.share = (high - low) / size
        return start + low, start + high

    def _draws(self) -> tuple[torch.Tensor | None, ...]:
        """This pass's order, crop offsets and flips, all at once: four small tensors, no draw
        inside the loop.
        """
        n, device = self.num_samples, self.images.device
        if not self.train:
            return None, None, None, None
        order = torch.randperm(n, generator=self.generator("order"), device=device)
        rows = columns = flips = None
        if self.crop and self.images.pad:
            draw = torch.randint(
                0, 2 * self.images.pad + 1, (2, n), generator=self.generator("crop"), device=device
            )
            rows, columns = draw.unbind()
        if self.flip:
            flips = torch.randint(
                0, 2, (n,), generator=self.generator("flip"), device=device
            ).bool()
        return order, rows, columns, flips

    # Views. A view keeps the epoch it was made in: make those that train inside ``losses``, once an
    # epoch.

    def eval_view(self) -> "Loader":
        """The same images in order, neither shuffled nor augmented, and all of them, also where
        training drops the last batch.
        """
        return self._with(
            train=False, accumulate=1, tail="keep" if self.tail == "drop" else self.tail
        )

    def shared(self) -> "Loader":
        """Of a loader that does not train, every n-th batch, for this one of n processes: whole
        batches, so that each is as it was.
        """
        assert not self.train, "training batches are shared out as they are"
        return self._with(own=slice(distributed.rank(), None, distributed.world_size()))

    def unaugmented(self) -> "Loader":
        """The same images, shuffled the same way, neither cropped nor flipped."""
        return self._with(crop=False, flip=False)

    def relabelled(self, labels: torch.Tensor) -> "Loader":
        """The same images under other labels, (num_samples,) in this loader's order."""
        return self._with(labels=labels)

    def joined(self, other: "Loader") -> "Loader":
        """Both splits shuffled into one, drawing from a stream of their own, in batches like the
        other's.
        """
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
        """The same images in a seeded order, the same at every epoch; an
        ``eval_view()`` keeps it.
        """
        return self._chosen(self._permutation(purpose), purpose)

    def by_class(self) -> "Loader":
        """The same images class by class, in their order within a class; an ``eval_view()`` keeps
        it.
        """
        return self._chosen(self.labels.sort(stable=True).indices, "by class")

    def _permutation(self, purpose: str) -> torch.Tensor:
        return torch.randperm(
            self.num_samples,
            generator=torch.Generator().manual_seed(stream(self.seed, self.name, purpose)),
        )

    def _chosen(self, positions: torch.Tensor, purpose: str) -> "Loader":
        positions = to_device(positions, self.images.device)
        return self._with(
            indices=self.indices[positions],
            labels=self.labels[positions],
            name=f"{self.name}/{purpose}",
        )

    def seeded(self, seed: int) -> "Loader":
        """The same images in other orders, crops and flips."""
        return self._with(seed=seed)

    def over(self, indices: np.ndarray, labels: np.ndarray, name: str) -> "Loader":
        """Other images of the same set, by ``indices`` (m,) into it and ``labels`` (n,) of all of
        it, in batches like these.
        """
        device = self.images.device
        chosen = torch.from_numpy(np.ascontiguousarray(labels[indices])).to(device)
        return self._with(
            indices=torch.from_numpy(np.ascontiguousarray(indices)).to(device),
            labels=chosen,
            name=name,
        )

    def batches_of(self, batch_size: int) -> "Loader":
        """The same split in batches of another size."""
        return self._with(batch_size=batch_size)

    def evenly(self, batch_size: int) -> "Loader":
        """The same split in the fewest batches of at most ``batch_size``, their sizes within one
        image, whatever an epoch's batches are.
        """
        return self._with(batch_size=batch_size, tail="spread", accumulate=1)

    def _with(self, **changes: object) -> "Loader":
        view = copy.copy(self)
        vars(view).update(changes)
        return view


class Data:
    """What methods see: training loaders ``forget`` and ``retain``, the class count, and seeded
    generators.

    The evaluation views of all four splits are in ``evaluation``; nothing that a method does can
    change them. Where ``retain`` gives the indices of a part of the retain set, methods see that
    part and evaluation sees all of it.
    """

    def __init__(
        self,
        dataset: ImageSet,
        split: Split,
        chosen: ForgetSplit | None,
        *,
        device: torch.device,
        batch_size: int,
        seed: int,
        augment: bool = True,
        retain: np.ndarray | None = None,
        forget_batch_size: int | None = None,
        tail: str = "spread",
        accumulate: int = 1,
    ):
        self.num_classes, self.seed, self.device = dataset.num_classes, seed, device
        self.dataset, self.split, self.chosen = dataset, split, chosen
        train_images = DeviceImages(dataset.x_train, device, dataset.crop if augment else 0)
        test_images = DeviceImages(dataset.x_test, device, 0)
        judges = {
            "val": (train_images, split.val, dataset.y_train),
            "test": (test_images, np.arange(len(dataset.y_test)), dataset.y_test),
        }
        dropped = None if chosen is None else chosen.dropped_class
        self.evaluation = {
            name: Loader(
                images,
                kept[labels[kept] != dropped] if dropped is not None else kept,
                labels,
                batch_size,
                name=name,
            )
            for name, (images, kept, labels) in judges.items()
        }
        parts = (
            {"train": split.train}
            if chosen is None
            else {"forget": chosen.forget, "retain": chosen.retain}
        )
        seen = parts if retain is None else parts | {"retain": retain}
        for name in parts:
            size = forget_batch_size or batch_size if name == "forget" else batch_size
            whole, part = (
                Loader(
                    train_images,
                    np.sort(indices),
                    dataset.y_train,
                    size,
                    name=name,
                    seed=seed,
                    train=True,
                    crop=augment,
                    flip=augment and dataset.flip,
                    tail=tail,
                    accumulate=accumulate,
                )
                for indices in (parts[name], seen[name])
            )
            setattr(self, name, part)
            self.evaluation[name] = whole.eval_view()
        self.loaders = [getattr(self, name) for name in parts]
        self.epoch = 0

    def set_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Move every stream to ``epoch``, and each loader's next pass to ``first_batch``."""
        self.epoch = epoch
        for loader in self.loaders:
            loader.set_epoch(epoch, first_batch)

    def generator(
        self, purpose: str, *, device: torch.device | str | None = None
    ) -> torch.Generator:
        """The stream of a method's own draws, such as random labels, at this epoch."""
        return generator(device or self.device, self.seed, purpose, self.epoch)
