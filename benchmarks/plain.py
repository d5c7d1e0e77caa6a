"""The baseline: each stage written in the straightforward way of this field's repositories. Slow on
purpose, and correct.

PIL transforms in a DataLoader (without workers unless asked for), a blocking copy of each batch to
the device, contiguous fp32, a loop over tensors for the mask with a restore per step, two argsorts
per threshold, int64 masks, scikit-learn's SVC on all points, one backward pass per sample for the
Fisher diagonal, separate passes for accuracy and for the attack, the loss read at every step.
"""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from evaluation.membership import attack_features

CPU = torch.device("cpu")


class Images(Dataset):
    """Images of a split, decoded and transformed one at a time."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray, augment: bool):
        self.pixels, self.labels = pixels, labels
        side = pixels.shape[1]
        moves = (
            [transforms.RandomCrop(side, padding=4), transforms.RandomHorizontalFlip()]
            if augment
            else []
        )
        self.transform = transforms.Compose([*moves, transforms.ToTensor()])

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), int(self.labels[index])


class Moved:
    """A DataLoader's batches, each copied to a device when the loop asks for it."""

    def __init__(self, batches: DataLoader, device: torch.device):
        self.batches, self.dataset, self.device = batches, batches.dataset, device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.batches:
            yield images.to(self.device), labels.to(self.device)


def batches_of(
    images: Images, batch_size: int, *, shuffle: bool, device: torch.device = CPU, workers: int = 0
) -> Moved:
    pin = device.type == "cuda"
    return Moved(
        DataLoader(images, batch_size, shuffle=shuffle, num_workers=workers, pin_memory=pin), device
    )


def loader(
    pixels: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    *,
    train: bool,
    augment: bool = True,
    device: torch.device = CPU,
    workers: int = 0,
) -> Moved:
    return batches_of(
        Images(pixels, labels, train and augment),
        batch_size,
        shuffle=train,
        device=device,
        workers=workers,
    )


def top1(logits: Tensor, labels: Tensor) -> float:
    _, predicted = logits.topk(1, 1, True, True)
    return predicted.t().eq(labels.view(1, -1)).float().sum().item() * 100 / len(labels)


def train_epoch(
    model: nn.Module, batches: Moved, optimizer: torch.optim.Optimizer
) -> list[tuple[float, float]]:
    """One epoch of cross-entropy; the loss and the accuracy of each step."""
    model.train()
    seen = []
    for images, labels in batches:
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append((loss.item(), top1(logits.data, labels)))
    return seen


def masked_step(
    model: nn.Module,
    mask: dict,
    original: dict,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> float:
    """A step on the masked gradient, after which the frozen weights are put back."""
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            parameter.grad *= mask[name]
    optimizer.step()
    restore(model, mask, original)
    return loss.item()


def restore(model: nn.Module, mask: dict, original: dict) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.data = parameter.data * mask[name] + original[name] * (1 - mask[name])


def salun_epoch(
    model: nn.Module,
    forget: Images,
    retain: Images,
    batch_size: int,
    classes: int,
    mask: dict,
    original: dict,
    optimizer: torch.optim.SGD,
    device: torch.device = CPU,
    workers: int = 0,
) -> None:
    """A pass over the forget set with random labels, then one over the retain set,
    under the mask.
    """
    relabelled = copy.copy(forget)
    relabelled.labels = np.random.randint(0, classes, len(forget))
    model.train()
    for part in (relabelled, retain):
        for images, labels in batches_of(
            part, batch_size, shuffle=True, device=device, workers=workers
        ):
            masked_step(model, mask, original, optimizer, images, labels)


def gradients(model: nn.Module, batches: Moved) -> dict[str, Tensor]:
    """The gradient of the mean loss, batch by batch."""
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    count = 0
    for images, labels in batches:
        model.zero_grad()
        F.cross_entropy(model(images), labels, reduction="sum").backward()
        count += len(labels)
        for name, parameter in model.named_parameters():
            total[name] += parameter.grad.data
    return {name: value / count for name, value in total.items()}


def influence_vector(model: nn.Module, forget: Moved, retain: Moved) -> dict[str, Tensor]:
    share = len(forget.dataset) / (len(forget.dataset) + len(retain.dataset))
    mean_forget, mean_retain = gradients(model, forget), gradients(model, retain)
    return {name: share * (mean_forget[name] - mean_retain[name]) for name in mean_forget}


def save_masks(scores: dict[str, Tensor], folder: Path) -> None:
    """Ten int64 masks, each from a sort of a sort."""
    folder.mkdir(parents=True, exist_ok=True)
    for ratio in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0):
        flat = -torch.cat([score.flatten() for score in scores.values()])
        threshold = int(len(flat) * ratio)
        ranks = torch.argsort(torch.argsort(flat))
        mask, start = {}, 0
        for name, score in scores.items():
            part = ranks[start : start + score.numel()]
            chosen = torch.zeros_like(part)
            chosen[part < threshold] = 1
            mask[name] = chosen.reshape(score.shape)
            start += score.numel()
        torch.save(mask, folder / f"with_{ratio}.pt")


def fisher_diagonal(model: nn.Module, pixels: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """One backward pass per sample."""
    model.eval()
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for image, label in zip(pixels, labels, strict=True):
        model.zero_grad()
        F.cross_entropy(model(image[None]), label[None]).backward()
        for name, parameter in model.named_parameters():
            total[name] += parameter.grad.data**2
    return {name: value / len(labels) for name, value in total.items()}


def accuracy(model: nn.Module, batches: Moved) -> float:
    model.eval()
    correct = count = 0
    with torch.no_grad():
        for images, labels in batches:
            correct += (model(images).argmax(1) == labels).sum().item()
            count += len(labels)
    return 100 * correct / count


def outputs(model: nn.Module, batches: Moved) -> tuple[np.ndarray, np.ndarray]:
    model.eval()
    with torch.no_grad():
        logits = [model(images).cpu() for images, _ in batches]
    return torch.cat(logits).numpy(), np.concatenate(
        [labels.cpu().numpy() for _, labels in batches]
    )


def svc_attack(retain: tuple, test: tuple, forget: tuple, tol: float = 1e-3) -> dict[str, float]:
    """Five support-vector machines on all points; the first len(test) of retain against test."""
    count = min(len(retain[1]), len(test[1]))
    inside, outside, audited = (
        attack_features(*part) for part in ((retain[0][:count], retain[1][:count]), test, forget)
    )
    shares = {}
    for name in inside:
        machine = SVC(C=3, gamma="auto", kernel="rbf", tol=tol)
        machine.fit(
            np.concatenate([inside[name], outside[name]]),
            np.repeat([1, 0], [len(inside[name]), len(outside[name])]),
        )
        shares[name] = float(1 - machine.predict(audited[name]).mean())
    return shares


def evaluate(model: nn.Module, splits: dict[str, Moved]) -> dict[str, float]:
    """Accuracy of each split, then the outputs of three of them again for the attack."""
    percent = {name: accuracy(model, batches) for name, batches in splits.items()}
    attack = svc_attack(*(outputs(model, splits[name]) for name in ("retain", "test", "forget")))
    metrics = {
        "UA": 100 - percent["forget"],
        "RA": percent["retain"],
        "TA": percent["test"],
        "VA": percent["val"],
    }
    return metrics | {"MIA": 100 * attack["confidence"]}
