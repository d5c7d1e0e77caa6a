"""Influence unlearning: one damped Newton step away from the forget set."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, jvp, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from datasets.loaders import Data, Loader
from masks.scores import mean_gradient
from runtime import distributed
from runtime.devices import exact_fp32
from unlearn.base import OneShot, Range, option
from unlearn.tools.per_sample import Vector, per_sample_gradients
from utils import UserError

# A forward-mode pass through a CIFAR ResNet-18 holds about 20 MB per 32x32 sample: batches of this
# many pixels (64 such samples) keep it under 2 GB, and larger images come in smaller batches.
FISHER_PIXELS = 64 * 32 * 32


@dataclasses.dataclass
class InfluenceUnlearning(OneShot):
    """One damped Newton step away from the forget set.

    theta + alpha F^-1 v with v = (1/n) sum_forget g - n_f/(n n_r) sum_retain g and F = damping I +
    (1/N) sum g g^T, the empirical Fisher matrix of N seeded retain samples. ``exact`` solves F k =
    v by conjugate gradients on Jacobian products, O(P) memory. ``one_vector`` is the recursion of
    the reference, which keeps a single direction and so returns v minus a multiple of the first
    sample's gradient. There it runs on augmented images and on the first 1,002 of the retain set,
    here on the seeded samples as they are: a published ``alpha`` does not carry over.
    """

    label = "IU"
    touches = "forget + retain"
    cost = "n_f + n_r, then 2 per sample and iteration (about 20)"
    paper = "Izzo et al., AISTATS 2021; WoodFisher: Singh & Alistarh, NeurIPS 2020"
    source = "number of samples and damping: the reference's code; the rest: our choice"

    solver: Literal["exact", "one_vector"] = option(
        "exact",
        "how the inverse Fisher product is computed: by conjugate gradients, or by the reference's"
        " recursion, on other images",
    )
    alpha: float = option(1.0, "weight of the penalty or of the step", Range(0.1, 20))
    samples: int = option(1000, "retain samples of the Fisher matrix")
    damping: float = option(1.0, "lambda, added to the Fisher matrix's diagonal")
    tolerance: float = option(1e-4, "relative residual at which the exact solver stops")
    max_iterations: int = option(200, "iterations after which the exact solver stops")

    def __post_init__(self) -> None:
        if self.damping <= 0 or self.samples < 1:
            raise UserError(
                f"--damping {self.damping} --samples {self.samples}: both must be above 0"
            )

    def edit(self, model: nn.Module, data: Data) -> dict[str, float | str]:
        model.eval()
        v = influence_vector(model, data.forget.eval_view(), data.retain.eval_view())
        batch_size = max(1, FISHER_PIXELS // data.dataset.image_size**2)
        chosen = data.retain.eval_view().subset(self.samples, "fisher").batches_of(batch_size)
        with exact_fp32():
            if self.solver == "exact":
                fisher = FisherProduct(model, chosen, self.damping)
                limits = self.tolerance, self.max_iterations
                solution, report = conjugate_gradients(fisher, v, *limits)
                count, residual = report["iterations"], report["residual"]
                print(f"wfisher: {count} iterations, relative residual {residual:.1e}")
                # The residual is computed afresh: rounding may lift a converged one a little.
                if residual > 2 * self.tolerance:
                    report["warning"] = (
                        "the influence solver did not converge: raise --max_iterations or --damping"
                    )
            else:
                gradients = per_sample_gradients(model, chosen)
                solution, report = one_vector_recursion(gradients, v, chosen.num_samples), {}
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.add_(solution[name], alpha=self.alpha)
        return {**report, "fisher_samples": chosen.num_samples}


def influence_vector(model: nn.Module, forget: Loader, retain: Loader) -> Vector:
    """v = (n_f / n) (mean forget gradient - mean retain gradient), the step to retain alone."""
    share = forget.num_samples / (forget.num_samples + retain.num_samples)
    mean_forget, mean_retain = mean_gradient(model, forget), mean_gradient(model, retain)
    return {name: share * (mean_forget[name] - mean_retain[name]) for name in mean_forget}


class FisherProduct:
    """u -> damping u + (1/N) J^T J u, J the (N, P) per-sample gradients: one jvp and one vjp."""

    def __init__(self, model: nn.Module, samples: Loader, damping: float):
        self.model, self.samples, self.damping = model, samples, damping
        self.parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def __call__(self, u: Vector) -> Vector:
        result = {
            name: self.damping * value if distributed.rank() == 0 else torch.zeros_like(value)
            for name, value in u.items()
        }
        for images, labels in self.samples.shared():

            def losses(
                parameters: Vector, images: Tensor = images, labels: Tensor = labels
            ) -> Tensor:
                logits = functional_call(self.model, parameters, images)
                return F.cross_entropy(logits, labels, reduction="none")

            with warnings.catch_warnings(), plain_attention():
                # torch's own first use of forward mode announces a deprecation inside torch.
                warnings.filterwarnings("ignore", message=".*torch.jit.script.*")
                _, along_u = jvp(losses, (self.parameters,), (u,))
            _, pull_back = vjp(losses, self.parameters)
            (gradient,) = pull_back(along_u / self.samples.num_samples)
            torch._foreach_add_(
                [result[name] for name in result], [gradient[name] for name in result]
            )
        distributed.all_reduce(list(result.values()))
        return result


@contextlib.contextmanager
def plain_attention() -> Iterator[None]:
    """Inside the block attention is computed operation by operation: neither its fused kernels nor
    ``nn.MultiheadAttention``'s shortcut in evaluation has a forward-mode derivative.
    """
    shortcut = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(shortcut)


def dot(a: Vector, b: Vector) -> Tensor:
    """The inner product over all parameters, accumulated in fp64 where the device has it."""
    wide = torch.float32 if next(iter(a.values())).device.type == "mps" else torch.float64
    return torch.stack([(a[name].to(wide) * b[name].to(wide)).sum() for name in a]).sum()


def axpy(scale: Tensor, x: Vector, y: Vector) -> Vector:
    """scale * x + y."""
    return {name: torch.add(y[name], x[name] * scale.to(x[name].dtype)) for name in y}


def conjugate_gradients(
    product: Callable[[Vector], Vector], v: Vector, tolerance: float, max_iterations: int
) -> tuple[Vector, dict[str, float]]:
    """Solve ``product(k) = v`` for a positive definite product (Hestenes & Stiefel 1952).

    Returns:
        k, and {"iterations": count, "residual": ||product(k) - v|| / ||v||} with the residual
        computed afresh.
    """
    solution = {name: torch.zeros_like(value) for name, value in v.items()}
    residual, direction = v, v
    squared = start = dot(v, v)
    iterations = 0
    progress = tqdm(total=None, desc="wfisher", unit="iteration", disable=None, leave=False)
    while iterations < max_iterations and float(squared) > float(start) * tolerance**2:
        image = product(direction)
        step = squared / dot(direction, image)
        solution, residual = axpy(step, direction, solution), axpy(-step, image, residual)
        previous, squared = squared, dot(residual, residual)
        # All ranks stop at the same iteration, also on GPUs that round differently.
        distributed.broadcast([squared])
        direction = axpy(squared / previous, direction, residual)
        iterations += 1
        progress.update()
    progress.close()
    if not float(start):
        return solution, {"iterations": 0, "residual": 0.0}
    off = axpy(torch.tensor(-1.0), product(solution), v)
    return solution, {"iterations": iterations, "residual": float((dot(off, off) / start).sqrt())}


def one_vector_recursion(gradients: Iterator[Vector], v: Vector, count: int) -> Vector:
    """The reference's shortcut: o_i is a multiple of g_1, so the result is v - c g_1."""
    o, k = None, v
    bar = {"desc": "wfisher", "unit": "sample", "disable": None, "leave": False}
    for gradient in tqdm(gradients, total=count, **bar):
        if o is None:
            o = gradient
            continue
        overlap = dot(o, gradient)
        k = axpy(-dot(k, gradient) / (count + overlap), o, k)
        o = axpy(-overlap / (count + overlap), o, o)
    return k
