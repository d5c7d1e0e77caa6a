"""Does training in bf16 change what unlearning reports? Retrain and SalUn in both precisions, five
seeds each, two data sets.

    python benchmarks/precision.py --cifar10 cifar10.npz    # about two hours on two cores; a second
    call goes on

Runs the project's own scripts, one process at a time, and writes results/precision.json and
results/precision.md. ``--cifar10`` is an npz with x_train, y_train, x_test, y_test; the first 5,000
and 2,000 images of a seeded shuffle are used. Each seed draws its own initialisation, order and
forget set, the same ones in both precisions.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.hardware import describe, hardware_line
from evaluation.gaps import AVERAGED as METRICS
from runtime.files import load_json, save_json

METHODS = {"Retrain": "retrainresult.json", "SalUn": "RLresult.json"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--runs",
        type=Path,
        default=ROOT / "runs" / "precision",
        help="what is there already is kept",
    )
    args = parser.parse_args()
    subset = args.runs / "cifar10_5000.npz"
    if not subset.exists():
        cut(args.cifar10, subset)
    tasks = {
        "fashion_mini": ["--dataset", "fashion_mini", "--input_size", "16", "--epochs", "12"],
        "CIFAR-10, 5,000 images": ["--dataset", "npz", "--data", str(subset), "--epochs", "15"],
    }
    rows = {}
    for seed in range(1, args.seeds + 1):
        for task, flags in tasks.items():
            for precision in ("fp32", "bf16"):
                folder = args.runs / f"{task.split(',')[0]}_{precision}_{seed}"
                story(folder, flags, precision, seed)
                for method, file in METHODS.items():
                    metrics = load_json(folder / file, "result")["metrics"]
                    rows.setdefault(f"{task}/{method}/{precision}", []).append(
                        [metrics[name] for name in METRICS]
                    )
    results = ROOT / "benchmarks" / "results"
    here = describe()
    save_json(
        {"command": "python benchmarks/precision.py", **here, "metrics": METRICS, "rows": rows},
        results / "precision.json",
    )
    table = (
        f"{here['time'][:10]}, commit {here['git'][:9]}, {hardware_line(here)}\n\n{render(rows)}"
    )
    (results / "precision.md").write_text(table)
    print(table)


def cut(source: Path, target: Path) -> None:
    """5,000 training and 2,000 test images of a seeded shuffle."""
    target.parent.mkdir(parents=True, exist_ok=True)
    arrays, rng = np.load(source, allow_pickle=False), np.random.default_rng(0)
    chosen = {"train": 5000, "test": 2000}
    order = {
        half: rng.permutation(len(arrays[f"y_{half}"]))[:count] for half, count in chosen.items()
    }
    np.savez(
        target,
        **{
            f"{kind}_{half}": arrays[f"{kind}_{half}"][order[half]]
            for half in chosen
            for kind in "xy"
        },
    )


def story(folder: Path, flags: list[str], precision: str, seed: int) -> None:
    """Train, retrain, mask and SalUn in one folder; what is there already is kept."""
    original = folder / "0model_SA_best.pth.tar"
    recipe = [
        *flags,
        "--arch",
        "resnet20s",
        "--batch_size",
        "64",
        "--schedule",
        "cosine",
        "--warmup",
        "1",
        "--lr",
        "0.1",
    ]
    unlearn = ["--model_path", original, "--num_indexes_to_replace", "450", "--seed", seed]
    run(
        "main_train.py",
        folder / "train_result.json",
        *recipe,
        "--train_seed",
        seed,
        precision=precision,
    )
    run(
        "main_forget.py",
        folder / METHODS["Retrain"],
        "--unlearn",
        "retrain",
        *recipe,
        *unlearn,
        precision=precision,
    )
    run("generate_mask.py", folder / "mask" / "mask_result.json", *unlearn)
    salun = [
        "--unlearn",
        "RL",
        "--unlearn_epochs",
        "5",
        "--unlearn_lr",
        "0.025",
        "--batch_size",
        "128",
    ]
    mask = ["--mask_path", folder / "mask" / "with_0.5.pt"]
    run("main_random.py", folder / METHODS["SalUn"], *salun, *unlearn, *mask, precision=precision)


def run(script: str, result: Path, *flags: object, precision: str | None = None) -> None:
    if result.exists():
        return
    command = [sys.executable, ROOT / script, *flags, "--save_dir", result.parent, "--overwrite"]
    command += ["--precision", precision] if precision else []
    subprocess.run([str(part) for part in command], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    print(result, flush=True)


def render(rows: dict[str, list[list[float]]]) -> str:
    """Mean and standard deviation over the seeds, and the mean difference between bf16 and fp32 of
    the same seed.
    """
    lines = [
        "| data, method | precision | " + " | ".join(METRICS) + " |",
        "|---|---|" + "---:|" * len(METRICS),
    ]
    for name in [key.removesuffix("/fp32") for key in rows if key.endswith("/fp32")]:
        values = {
            precision: np.array(rows[f"{name}/{precision}"]) for precision in ("fp32", "bf16")
        }
        for precision, seen in values.items():
            cells = [
                f"{mean:.2f} ± {std:.2f}"
                for mean, std in zip(seen.mean(0), seen.std(0, ddof=1), strict=True)
            ]
            lines.append(f"| {name.replace('/', ', ')} | {precision} | " + " | ".join(cells) + " |")
        paired = values["bf16"] - values["fp32"]
        error = paired.std(0, ddof=1) / len(paired) ** 0.5
        cells = [f"{mean:+.2f} ± {e:.2f}" for mean, e in zip(paired.mean(0), error, strict=True)]
        lines.append("| | bf16 - fp32 | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
