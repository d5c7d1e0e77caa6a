"""Time every stage against the plain baseline, in turns, in one run.

    python benchmarks/bench.py            # all stages, about half an hour on two cores
    python benchmarks/bench.py --quick    # smaller, under ten minutes
    python benchmarks/bench.py --only train,gate --repeats 3

Each side runs in a process of its own, so that memory and settings are its own, and waits while
another is timed. First both sides compute the same thing (``check``), which warms them up or is
followed by an untimed run, then they are timed A B A B. A stage's result goes to results/STAGE.json
as soon as it is there; the table of all of them to results/table.md and, without --quick, to
docs/speed.md.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hardware import describe, hardware_line
from benchmarks.stages import (
    BATCH,
    DEVICE,
    STAGES,
    half_mask,
    network,
    optimizer_of,
    prepare,
)
from engine import Loop, Updater, train_epoch
from masks.gate import SaliencyGate
from runtime.clock import Stopwatch
from runtime.devices import pick_precision
from runtime.files import load_json, save_json
from unlearn.base import cross_entropy_steps

# Billions of multiply-adds of one 32x32 image's forward pass; a training step costs three times as
# many.
RESNET18_GMAC = 0.556


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--only", default=",".join([*STAGES, "gate"]), help="stages, by name: %(default)s"
    )
    parser.add_argument(
        "--repeats", type=int, help="timed turns of each side (default: 5, quick 2)"
    )
    parser.add_argument(
        "--results", type=Path, help="default: benchmarks/results, quick: runs/bench"
    )
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker, args.quick)
        return
    folder = args.results or (
        ROOT / "runs" / "bench" if args.quick else ROOT / "benchmarks" / "results"
    )
    repeats = args.repeats or (2 if args.quick else 5)
    for name in args.only.split(","):
        found = gate(args.quick) if name == "gate" else race(name, args.quick, repeats)
        save_json(
            {"stage": name, **found, "quick": args.quick, **describe()}, folder / f"{name}.json"
        )
        print(row(folder / f"{name}.json"), flush=True)
    table = tables(
        [file for name in [*STAGES, "gate"] if (file := folder / f"{name}.json").exists()]
    )
    (folder / "table.md").write_text(table + "\n")
    print(table)
    if not args.quick and not args.results:
        page = ROOT / "docs/speed.md"
        before, rest = page.read_text().split("<!-- bench -->")
        after = rest.split("<!-- /bench -->")[1]
        page.write_text(f"{before}<!-- bench -->\n{table}\n<!-- /bench -->{after}")


def tables(files: list[Path]) -> str:
    """One table for each machine that the files were taken on; a row names its own date and
    commit.
    """
    machines: dict[str, list[str]] = {}
    for file in files:
        machines.setdefault(hardware_line(load_json(file, "result")), []).append(row(file))
    head = [
        "| stage | plain | ours | plain / ours (min to max) | bar | memory, plain / ours | taken |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    return "\n\n".join("\n".join([machine, "", *head, *rows]) for machine, rows in machines.items())


def race(name: str, quick: bool, repeats: int) -> dict:
    """Check, warm up, then time the sides in turns."""
    stage = STAGES[name]
    sides = {side: Worker(name, side, quick) for side in stage.sides}
    try:
        checked = {side: worker.ask("check") for side, worker in sides.items()}
        differences = {
            side: compare(checked["plain"], checked[side], stage.tolerance, f"{name}/{side}")
            for side in sides
            if side != "plain"
        }
        for worker in sides.values() if stage.warm_up else ():
            worker.ask("run")
        seconds = {side: [] for side in sides}
        for _ in range(repeats):
            for side, worker in sides.items():
                seconds[side].append(worker.ask("run"))
        memory = {side: worker.ask("memory") for side, worker in sides.items()}
    finally:
        for worker in sides.values():
            worker.process.kill()
    ratios = {
        side: [p / o for p, o in zip(seconds["plain"], seconds[side], strict=True)]
        for side in sides
        if side != "plain"
    }
    title = f"{stage.title} (fewer)" if quick else stage.title
    return {
        "title": title,
        "bar": stage.bar,
        "seconds": seconds,
        "ratios": ratios,
        "memory_mb": memory,
        "difference": differences,
    }


class Worker:
    """One side in a process of its own; it does nothing until it is asked."""

    def __init__(self, stage: str, side: str, quick: bool):
        command = [
            sys.executable,
            __file__,
            "--worker",
            stage,
            side,
            *(["--quick"] if quick else []),
        ]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )

    def ask(self, what: str) -> object:
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("answer "):
                answer = json.loads(line.removeprefix("answer "))
                return torch.load(answer, weights_only=True) if what == "check" else answer
        raise SystemExit("a side of the benchmark failed; its message is above")


def work(stage: str, side: str, quick: bool) -> None:
    """The worker's end: answer each line of standard input. A side is made when it is first asked,
    so that none is made beside another.
    """
    made = None
    for line in sys.stdin:
        if made is None:
            prepare(side)
            made = STAGES[stage].make(side, quick)
        if line.strip() == "check":
            answer = tempfile.mkstemp(suffix=".pt")[1]
            torch.save(made.check(), answer)
        elif line.strip() == "run":
            answer = timed(made.run)
        else:
            answer = peak_memory()
        print("answer", json.dumps(answer), flush=True)


def timed(action: Callable[[], object]) -> float:
    """Seconds until the device has finished."""
    with Stopwatch(DEVICE) as clock:
        action()
    return clock.seconds


def peak_memory() -> float:
    """Megabytes: of the device's allocator on CUDA, else of the process."""
    if DEVICE.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # getrusage would begin at what the parent process held when it started this one
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def compare(plain: dict, ours: dict, tolerance: float, where: str) -> dict:
    """The relative differences, each in the l2 norm; larger ones than ``tolerance`` end the run.
    Percentages may differ by 0.05.
    """
    found = {}
    for name, wanted in plain.items():
        if isinstance(wanted, str):
            found[name] = f"{wanted} and {ours[name]}"
            continue
        a, b = (torch.as_tensor(value).double().cpu() for value in (wanted, ours[name]))
        found[name] = float(
            (a - b).abs().max()
            if name.endswith("%")
            else (a - b).norm() / a.norm().clamp_min(1e-30)
        )
        if not found[name] <= (0.05 if name.endswith("%") else tolerance):
            raise SystemExit(f"{where}: {name} differs by {found[name]:.2e}; nothing was timed")
    return found


def gate(quick: bool) -> dict:
    """Seconds of the gate beside those of the training step that it belongs to, at two batch
    sizes.
    """
    prepare("ours")
    model = network(True)
    optimizer, precision = optimizer_of(model, True), pick_precision("auto", DEVICE)
    mask_gate = SaliencyGate(model, half_mask(model))
    rate = product_rate(torch.bfloat16 if precision == "bf16" else torch.float32)
    shares, reached = {}, {}
    for size in (BATCH, 32):
        batch = [
            (
                torch.rand(size, 3, 32, 32).to(DEVICE, memory_format=torch.channels_last),
                torch.randint(0, 10, (size,)).to(DEVICE),
            )
        ]
        step = lambda b=batch: train_epoch(  # noqa: E731
            cross_entropy_steps(model, b), Updater(model, optimizer), Loop(precision=precision)
        )
        actions = {"step": step, "gate": mask_gate.restore}
        seconds = {name: [] for name in actions}
        for turn in range(4 if quick else 8):
            for name, action in actions.items():
                took = timed(action)
                if turn:
                    seconds[name].append(took)
        typical = {name: statistics.median(values) for name, values in seconds.items()}
        shares[size] = 100 * typical["gate"] / (typical["gate"] + typical["step"])
        reached[size] = 100 * 6 * RESNET18_GMAC * size / typical["step"] / rate
    return {
        "title": "gate's share of a step, ResNet-18",
        "bar": "under 3 %",
        "percent": shares,
        "precision": precision,
        "product_rate_gflops": rate,
        "percent_of_product_rate": reached,
    }


def product_rate(dtype: torch.dtype) -> float:
    """The best measured rate of a 2048 x 2048 matrix product, GFLOP/s."""
    a, b = (torch.randn(2048, 2048, device=DEVICE, dtype=dtype) for _ in range(2))
    best = min(timed(lambda: a @ b) for _ in range(10))
    return 2 * 2048**3 / best / 1e9


def row(file: Path) -> str:
    """A stage's line of the table."""
    found = load_json(file, "result")
    taken = f"{found['time'][:10]}, {found['git'][:9]}"
    if "percent" in found:
        shares = ", ".join(
            f"batch {size}: {share:.2f} %" for size, share in found["percent"].items()
        )
        reached = ", ".join(f"{share:.0f} %" for share in found["percent_of_product_rate"].values())
        rate = f"step at {reached} of the matrix-product rate, {found['precision']}"
        return f"| {found['title']} | | {shares} | {rate} | {found['bar']} | | {taken} |"
    lines = []
    for side, ratios in found["ratios"].items():
        middle = {name: statistics.median(found["seconds"][name]) for name in ("plain", side)}
        ratio = f"**{statistics.median(ratios):.1f}** ({min(ratios):.1f} to {max(ratios):.1f})"
        memory = f"{found['memory_mb']['plain']:.0f} / {found['memory_mb'][side]:.0f} MB"
        title, bar = (
            (found["title"], found["bar"]) if side == "ours" else (f"the same, {side}", 1.3)
        )
        lines.append(
            f"| {title} | {middle['plain']:.3g} s | {middle[side]:.3g} s | {ratio} | {bar} |"
            f" {memory} | {taken} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
