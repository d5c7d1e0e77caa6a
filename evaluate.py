"""Audit saved models: every metric and attack, from logits that are computed once and kept beside
the models.

    python evaluate.py --models 'runs/c10/*checkpoint.pth.tar' \
        --retrain 'runs/retrain*/retraincheckpoint.pth.tar' \
        --original runs/c10/0model_SA_best.pth.tar --suite standard

Data set, architecture and who is forgotten come from the checkpoints; all must be about one forget
set. Two or more Retrain models (other --seed, same --forget_seed) give every metric its noise
floor, three its marks; of Retrains with unlike recipes --reference chooses one kind, and the others
are rows of their own. Suites: basic needs no other model; standard adds what Retrain gives (gaps,
distances, RMIA, LiRA, relearning); full adds the audits with many models: it trains shadow models
as the original was trained, runs every method on them (U-LiRA, memorisation), and goes on where it
was stopped.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from arg_parser import evaluation_parser
from evaluation.membership import draw_rule, draws_line
from evaluation.metrics import define, describe
from evaluation.relearn import relearn_ratio, steps_to_reach
from evaluation.rows import Judged, audit_alarms, distribution_gaps, make_rows, row_alarms
from evaluation.suites import (
    Splits,
    attack_by_draw,
    basic,
    class_accuracies,
    curves,
    folded,
    left_out,
    standard,
)
from evaluation.verdicts import relative_change
from reporting.attacks import ulira_cells
from runtime import distributed
from runtime.cli import script
from runtime.devices import pick_device, tune_cuda, use_threads, with_threads
from runtime.files import lock, save_arrays, save_json
from runtime.provenance import provenance
from stages.outputs import Request, Saved, expand, read_saved, with_reference
from stages.shadows import Pool
from utils import UserError, stream, warn

SUITES = ("basic", "standard", "full")
# Points of accuracy below the original's at which it counts as relearned.
RELEARNED = 1.0
# What BatchNorm keeps beside its weights; a pass over images in training mode renews it.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@script
def main(argv: list[str]) -> None:
    audit(evaluation_parser(__doc__, SUITES).parse_args(argv))


def audit(args: argparse.Namespace) -> None:
    """Outputs of every model, then the suite, then audit.json and one line for each row."""
    saved = find(args)
    if args.suite != "basic" and not any(each.role == "retrain" for each in saved):
        raise UserError(
            f"--suite {args.suite} compares with Retrain; give --retrain PATTERN, or take --suite"
            " basic"
        )
    if args.suite == "full" and args.original is None:
        raise UserError(
            "--suite full trains shadow models as the original was trained; give --original"
        )
    if args.suite == "full" and (args.shadows < 6 or args.shadows % 2):
        raise UserError(
            f"--shadows {args.shadows}: an even number of at least 6 is wanted, 16 to 32 are useful"
        )
    device = pick_device(args.device, args.gpu)
    use_threads(args.threads, device)
    tune_cuda(device)
    print(f"fp32 on {with_threads(device)}")
    distributed.initialize(device)
    request = Request(saved[0], data=args.data, device=device, batch_size=args.batch_size)
    for each in saved:
        request.check(each)
    folder = folder_of(args, saved)
    with lock(folder, "audit", [folder / "audit.json", folder / "per_image.npz"]):
        found = evaluate(args, request, saved)
        save_json(found, folder / "audit.json")
    for row in found["rows"]:
        print(line_of(row))
        if cells := ulira_cells(row):
            print("  " + ", ".join(f"{words} {cell}" for words, cell in cells.items()))
    for message in found["warnings"]:
        warn(message)
    print(draws_line(found["attack"]))
    print(
        f"RESULT audit={folder / 'audit.json'} suite={args.suite} models={len(saved)}"
        f" rows={len(found['rows'])}"
    )


def find(args: argparse.Namespace) -> list[Saved]:
    """The checkpoints: those of --models first, each file once; Retrain's and the original's also
    if --models names them too.
    """
    roles = dict.fromkeys(expand(args.models, "--models"), "models")
    roles |= dict.fromkeys(expand(args.retrain, "--retrain"), "retrain")
    if args.original is not None:
        roles[args.original] = "original"
    saved = [read_saved(path, role) for path, role in roles.items()]
    originals = [each for each in saved if each.role == "models" and each.forget is None]
    for each in originals:
        print(f"{each.path} forgot nothing and is left out; --original takes such a model")
    saved = with_reference([each for each in saved if each not in originals], args.reference)
    saved.sort(key=lambda each: ("models", "retrain", "unlike", "original").index(each.role))
    if not saved or saved[0].role != "models":
        raise UserError(
            f"--models {' '.join(args.models)} names no unlearned model; main_forget.py and"
            " main_random.py write them"
        )
    if twice := len(saved) - len({(each.role, each.sha256) for each in saved}):
        warn(
            f"{twice} of the {len(saved)} checkpoints hold weights that another one holds too:"
            " copies count as runs of their own"
        )
    return saved


def evaluate(args: argparse.Namespace, request: Request, saved: list[Saved]) -> dict:
    """All that audit.json holds."""
    rule = draw_rule(
        args.mia_members, request.split.split_seed, request.data_sha256, request.chosen.sha256()
    )  # as in result.json
    outputs = [request.outputs(each) for each in one_by_one(saved, "outputs")]

    def attacked() -> tuple[list[dict[str, float]], list[dict[str, np.ndarray]]]:
        models = zip(one_by_one(saved, "attacks"), outputs, strict=True)
        by_draw = [attack_by_draw(splits, rule) for _, splits in models]
        return [
            basic(splits, rule, draws) for splits, draws in zip(outputs, by_draw, strict=True)
        ], by_draw

    found, by_draw = distributed.on_main(attacked)
    extra: list[dict] = [{} for _ in saved]
    if args.suite != "basic":
        found, extra = beside_retrain(args, request, saved, outputs, found)
    moved = weights_moved(saved)
    models, judged = [], []
    for i, each in enumerate(saved):
        metrics, intervals, chance = folded(found[i])
        in_percent = {name: 100 * shares for name, shares in by_draw[i].items()}
        judged.append(
            Judged(
                each.label,
                each.role,
                each.key,
                each.seed,
                outputs[i],
                metrics,
                chance,
                in_percent,
                moved[i],
            )
        )
        models.append(
            {
                "label": each.label,
                "role": each.role,
                "path": str(each.path),
                "weights_sha256": each.sha256,
                "seed": each.seed,
                "hyperparameters": each.hyperparameters,
                "metrics": metrics,
                "intervals": intervals,
                "chance": chance,
                "per_class": class_accuracies(outputs[i], request.dataset.classes),
                "curves": curves(outputs[i], []) | extra[i],
            }
        )
    rows, floors = make_rows(judged)
    if args.suite != "basic":
        add_audits(args, request, saved, judged, rows)
    for position, row in enumerate(rows):
        row["warnings"] = row_alarms(row, judged)
        for i in row["models"]:
            models[i]["row"] = position
    names = sorted({name for row in rows for name in row["mean"]})
    return {
        "schema": 1,
        "script": "evaluate",
        "suite": args.suite,
        "data": request.record(),
        "attack": rule.record(outputs[0]["retain"][1], outputs[0]["test"][1]),
        "metrics": {name: describe(name) for name in names},
        "models": models,
        "rows": rows,
        "floors": floors,
        "warnings": (
            other_originals(saved)
            + audit_alarms(judged)
            + left_out(outputs[0], request.dataset.classes)
        ),
        "provenance": provenance(request.device, "fp32", {"seed": rule.seed}),
    }


def other_originals(saved: list[Saved]) -> list[str]:
    """What names the models that began with another original than the given one, which is none of
    theirs.
    """
    given = next((each.sha256 for each in saved if each.role == "original"), "")
    others = [
        str(each.path)
        for each in saved
        if each.role == "models" and given and each.original not in ("", given)
    ]
    return (
        [
            f"{len(others)} models were unlearned from another original than --original:"
            f" {', '.join(others)}"
        ]
        if others
        else []
    )


def weights_moved(saved: list[Saved]) -> list[float]:
    """For each model how far its weights are from the original's; 1 where no original is given.

    Also of a file that keeps a model's outputs and no weights, as benchmarks/gpu/table.py's do.
    """
    original = next((each for each in saved if each.role == "original"), None)
    if original is None:
        return [1.0] * len(saved)
    names = [name for name in original.weights if not name.endswith(STATISTICS)]
    before = {name: original.weights[name].float().numpy() for name in names}

    def moved(each: Saved) -> float:
        if not before.keys() <= each.weights.keys():
            return 1.0
        return relative_change({name: each.weights[name].float().numpy() for name in names}, before)

    return [moved(each) for each in saved]


def one_by_one(saved: list[Saved], stage: str) -> Iterator[Saved]:
    """The models in turn: a bar on a terminal, else a line for each as it begins."""
    if sys.stderr.isatty():
        yield from tqdm(saved, desc=stage, unit="model", disable=None, leave=False)
        return
    for number, each in enumerate(saved, start=1):
        print(f"{stage} {number}/{len(saved)}: {each.label}, {each.path}", flush=True)
        yield each


def beside_retrain(
    args: argparse.Namespace,
    request: Request,
    saved: list[Saved],
    outputs: list[Splits],
    found: list[dict[str, float]],
) -> tuple[list[dict[str, float]], list[dict]]:
    """What standard adds to each model's metrics and curves. A Retrain model is compared with the
    others of its kind.
    """
    retrain = [i for i, each in enumerate(saved) if each.role == "retrain"]
    metrics, extra = [], []
    for i, more in enumerate(relearn_all(args, request, saved)):
        others = [j for j in retrain if saved[j].sha256 != saved[i].sha256]
        references = [outputs[j] for j in others]
        metrics.append(
            found[i]
            | standard(outputs[i], found[i], references, [found[j] for j in others])
            | more["metrics"]
        )
        extra.append(
            {name: curve for name, curve in curves(outputs[i], references).items() if name == "roc"}
            | {"relearn": more["relearn"]}
        )
    return metrics, extra


def add_audits(
    args: argparse.Namespace,
    request: Request,
    saved: list[Saved],
    judged: list[Judged],
    rows: list[dict],
) -> None:
    """To rows of unlearned models, what many models say: the spread of margins and, with full, the
    audits and the pool of shadows.
    """
    retrain = [each for each in judged if each.role == "retrain"]
    pool = make_pool(args, request, saved) if args.suite == "full" else None
    per_image = {} if pool is None else pool.memorisation()
    for position, row in enumerate(rows):
        if row["role"] != "models":
            continue
        row["mean"] |= distribution_gaps(
            [judged[i] for i in row["models"]], retrain, audit=args.suite == "full"
        )
        if pool is not None and not without_record(first := saved[row["models"][0]]):
            found, per_image[f"auc_of_row_{position}"] = pool.audit(
                first, per_image["memorisation"]
            )
            metrics, intervals, row["chance"] = folded(found)
            row["mean"] |= metrics
            row["ci"] |= intervals
    if per_image:
        save_arrays(per_image, folder_of(args, saved) / "per_image.npz")


def without_record(saved: Saved) -> bool:
    """Whether a run's mask cannot be made again for shadow models, since no record says by what
    score it was made; says so.
    """
    unknown = saved.mask is not None and saved.mask_made_by is None
    if unknown:
        warn(
            f"{saved.path}: no record of its mask, by {saved.mask[0]}; --suite full goes without"
            f" U-LiRA for {saved.label}"
        )
    return unknown


def make_pool(args: argparse.Namespace, request: Request, saved: list[Saved]) -> Pool | None:
    """The shadow models; None for a whole class."""
    if request.chosen.dropped_class is not None:
        warn(
            "a whole class cannot be in half of the shadows: --suite full goes without U-LiRA here"
        )
        return None
    original = next(each for each in saved if each.role == "original")
    # Of the forget set's own seed, and of no order of files where it has none.
    flags = [each.arguments for each in saved if each.forget is not None]
    seed = (
        stream(
            min(
                each["seed"] if each["forget_seed"] is None else each["forget_seed"]
                for each in flags
            ),
            "attack",
        )
        % 2**32
    )
    where, data = folder_of(args, saved) / "shadows", args.data or original.arguments["data"]
    return Pool(request, original, where, shadows=args.shadows, seed=seed, data=data, gpu=args.gpu)


def folder_of(args: argparse.Namespace, saved: list[Saved]) -> Path:
    """Where results go."""
    return args.save_dir or saved[0].path.parent


def relearn_all(args: argparse.Namespace, request: Request, saved: list[Saved]) -> list[dict]:
    """For each model its relearn curve, and the steps that it takes back to the original's
    accuracy, beside Retrain's.
    """
    settings = {"steps": args.relearn_steps, "lr": args.relearn_lr, "seeds": args.relearn_seeds}
    arrays = [request.relearn(each, **settings) for each in one_by_one(saved, "relearning")]
    original = [
        each["accuracy"][0, 0]
        for each, model in zip(arrays, saved, strict=True)
        if model.role == "original"
    ]
    steps = [mean_steps(each, original[0] - RELEARNED) if original else math.nan for each in arrays]
    theirs = float(
        np.mean([n for n, each in zip(steps, saved, strict=True) if each.role == "retrain"])
    )
    found = []
    for each, n in zip(arrays, steps, strict=True):
        metrics = {"relearn_accuracy": float(each["accuracy"][:, -1].mean())} | (
            {"relearn_steps": n} if original else {}
        )
        if original and 0 < theirs < math.inf:
            metrics["relearn_ratio"] = relearn_ratio(n, theirs)
        spread = (
            each["accuracy"].std(0, ddof=1)
            if args.relearn_seeds > 1
            else np.zeros(len(each["steps"]))
        )
        curve = {
            "steps": each["steps"].tolist(),
            "accuracy": each["accuracy"].mean(0).tolist(),
            "sd": spread.tolist(),
            "never_seen": each["never_seen"].mean(0).tolist(),
        }
        found.append({"metrics": metrics, "relearn": curve})
    return found


def mean_steps(arrays: dict[str, np.ndarray], target: float) -> float:
    """Mean over seeds of the steps to ``target``; infinite where one seed does not get there."""
    return float(
        np.mean([steps_to_reach(arrays["steps"], row, target) for row in arrays["accuracy"]])
    )


def line_of(row: dict) -> str:
    """A row for the terminal; report.py has them all."""
    shown = {
        "UA": "UA",
        "RA": "RA",
        "TA": "TA",
        "svc_confidence_tnr": "MIA",
        "loss_auc": "AUC",
        "rmia_auc": "RMIA",
        "js_forget": "JS",
    }
    cells = [
        f"{short} {row['mean'][name]:.{2 if define(name).unit == 'percent' else 3}f}"
        for name, short in shown.items()
        if name in row["mean"]
    ]
    gap = (
        [f"Avg. Gap {row['gap_of_means']:.2f} (entropy {row['gap_of_means_entropy']:.2f})"]
        if "gap_of_means" in row
        else []
    )
    return "  ".join(
        [
            f"{row['label']} ({len(row['models'])})",
            *cells,
            *gap,
            *(f"[{text}]" for text in row["warnings"]),
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
