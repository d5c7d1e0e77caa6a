"""A training step of the transformers and ConvNeXt beside a plain loop over the same torchvision
network, in fp32: results/architectures_speed.md.

    python benchmarks/architectures.py    # one thread, ten minutes

The sides take turns in one process: ``plain`` (contiguous, the normalisation done before, torch's
AdamW) and ours (the engine's loop, the fused AdamW, the normalisation inside) in either memory
format. All begin with the same weights, and their first losses must agree.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hardware import describe, hardware_line
from engine import Updater, train_epoch
from models import build_model
from recipe import make_optimizer
from runtime.clock import Stopwatch
from runtime.devices import keep_freed_memory
from runtime.files import save_text
from unlearn.base import cross_entropy_steps

ARCHS = ("vit_tiny", "vit_small", "swin_t", "convnext_t")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
LR, DECAY = 1e-4, 0.05
FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}
BAR = 0.9  # of the plain loop's rate
Step = Callable[[], float]


def network(arch: str, side: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(arch, 10, MEAN, STD, image_size=side).train()


def plain_step(arch: str, images: Tensor, labels: Tensor) -> Step:
    """A step of a plain loop; returns the loss."""
    model = network(arch, images.shape[-1])
    images = model.normalize(images)
    model.normalize = nn.Identity()
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=DECAY)

    def step() -> float:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step


def our_step(arch: str, images: Tensor, labels: Tensor, layout: torch.memory_format) -> Step:
    """A step of the engine's loop; returns the loss."""
    model = network(arch, images.shape[-1]).to(memory_format=layout)
    updater = Updater(model, make_optimizer(model.parameters(), LR, 0.9, DECAY, "adamw"))
    batches = [(images.to(memory_format=layout), labels)]
    return lambda: train_epoch(cross_entropy_steps(model, batches), updater).loss


def measured(arch: str, side: int, batch: int, turns: int) -> dict[str, list[float]]:
    """Seconds of each side's steps, in turns; the first step of each is not counted."""
    images, labels = torch.rand(batch, 3, side, side), torch.arange(batch) % 10
    steps = {"plain": plain_step(arch, images, labels)}
    steps |= {name: our_step(arch, images, labels, layout) for name, layout in FORMATS.items()}
    losses = []
    for step in steps.values():
        torch.manual_seed(1)  # stochastic depth
        losses.append(step())
    assert max(losses) - min(losses) < 1e-3 * max(losses), f"{arch}: first losses {losses}"
    seconds = {name: [] for name in steps}
    for _ in range(turns):
        for name, step in steps.items():
            with Stopwatch(torch.device("cpu")) as clock:
                step()
            seconds[name].append(clock.seconds)
    return seconds


def row(arch: str, batch: int, seconds: dict[str, list[float]]) -> str:
    """The median times, and the medians of the ratios turn by turn."""
    cells = [f"{1000 * statistics.median(seconds['plain']):.0f} ms"]
    for name in FORMATS:
        ratios = [p / o for p, o in zip(seconds["plain"], seconds[name], strict=True)]
        low, _, high = statistics.quantiles(ratios, n=4)
        cells.append(f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})")
    return f"| `{arch}` | {batch} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--archs", nargs="+", default=ARCHS)
    parser.add_argument("--input_size", type=int, default=32)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    lines = [
        f"A training step at {args.input_size}x{args.input_size}, fp32, one thread, {args.turns}"
        " turns of each side. Ratios are plain / ours, median (quartiles): above 1 ours is faster.",
        "",
        f"| `--arch` | batch | plain torchvision | channels_last (aim {BAR}) | contiguous |",
        "|---|---:|---:|---:|---:|",
    ]
    for arch in args.archs:
        seconds = measured(arch, args.input_size, args.batch_size, args.turns)
        lines.append(row(arch, args.batch_size, seconds))
        print(lines[-1], flush=True)
    taken = describe()
    title = "# A training step of today's architectures\n\n"
    title += "Made by `python benchmarks/architectures.py`. "
    machine = hardware_line(taken).rstrip(":")
    title += f"{machine}; {taken['time'][:10]}, {taken['git'][:9]}."
    text = "\n".join([title, "", *lines, ""])
    save_text(text, ROOT / "benchmarks/results/architectures_speed.md")


if __name__ == "__main__":
    main()
