"""Audit saved models: every metric and attack, from logits that are computed once."""

import math
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from evaluation.accuracy import Splits
from evaluation.alarms import audit_alarms, row_alarms
from evaluation.distributions import distribution_gaps
from evaluation.intervals import Metric, chances_of, intervals_of, values_of
from evaluation.membership import DrawRule, attack_seed, draw_rule
from evaluation.metrics import describe, measured
from evaluation.relearn import relearn_ratio, steps_to_reach
from evaluation.rows import Judged, make_rows
from evaluation.suites import (
    attack_by_draw,
    basic,
    class_accuracies,
    curves,
    left_out,
    standard,
)
from runtime import distributed
from runtime.devices import pick_device, tune_cuda, use_threads, with_threads
from runtime.files import lock, save_arrays, save_json
from runtime.provenance import provenance
from stages.audit_record import finished, inputs_of, say
from stages.file_names import AUDIT, PER_IMAGE
from stages.outputs import Subject
from stages.requests import AuditRequest, recording
from stages.saved import Saved, expand, other_originals, read_all, weights_moved, with_reference
from stages.shadows import Pool
from stages.task import data_line
from unlearn.raw import Raw
from utils import UserError, warn

SUITES = ("basic", "standard", "full")
# Flags that are read from this suite on.
READ_FROM = {"standard": ("relearn_steps", "relearn_lr", "relearn_seeds"), "full": ("shadows",)}
# Points of accuracy below the original's at which it counts as relearned.
RELEARNED = 1.0


@recording
def audit(request: AuditRequest) -> dict:
    """Outputs of every model, then the suite, then audit.json, which is returned, and one line for
    each row.
    """
    saved = find(request)
    check_suite(request, saved)
    folder, inputs = folder_of(request, saved), inputs_of(request, saved)
    if done := finished(request, folder, inputs):
        return done
    device = pick_device(request.device, request.gpu)
    use_threads(request.threads, device)
    tune_cuda(device)
    print(f"fp32 on {with_threads(device)}")
    distributed.initialize(device)
    given = {"data": request.data, "cache": request.cache, "store": request.store}
    subject = Subject(saved[0], device=device, batch_size=request.batch_size, **given)
    for each in saved:
        subject.check(each)
    with lock(folder, "audit", [folder / AUDIT, folder / PER_IMAGE]):
        found = evaluate(request, subject, saved) | {"inputs": inputs}
        save_json(found, folder / AUDIT)
    say(request, found, folder / AUDIT)
    return found


def check_suite(request: AuditRequest, saved: list[Saved]) -> None:
    """Refuse a suite that lacks the models it compares with; one line on flags that it does not
    read.
    """
    suite, shadows = request.suite, request.shadows
    plain = AuditRequest(models=())
    flags = [name for kind in SUITES[SUITES.index(suite) + 1 :] for name in READ_FROM.get(kind, ())]
    if unread := [name for name in flags if getattr(request, name) != getattr(plain, name)]:
        warn(f"--suite {suite} does not read {', '.join('--' + name for name in unread)}")
    if suite != "basic" and not any(each.role == "retrain" for each in saved):
        raise UserError(
            f"--suite {suite} compares with Retrain; give --retrain PATTERN, or take --suite basic"
        )
    if suite == "full" and request.original is None:
        raise UserError(
            "--suite full trains shadow models as the original was trained; give --original"
        )
    if suite == "full" and (shadows < 6 or shadows % 2):
        raise UserError(
            f"--shadows {shadows}: an even number of at least 6 is wanted, 16 to 32 are useful"
        )


def find(request: AuditRequest) -> list[Saved]:
    """The checkpoints: those of --models first, each file once; Retrain's and the original's also
    if --models names them too.
    """
    named = {path: ("models", name) for path, name in expand(request.models, "--models").items()}
    retrain = expand(request.retrain, "--retrain").items()
    named |= {path: ("retrain", name) for path, name in retrain}
    if request.original is not None:
        named[request.original] = "original", None
    saved = read_all(named, request.arch)
    originals = [each for each in saved if each.role == "models" and each.forget is None]
    for each in originals:
        print(f"{each.path} forgot nothing and is left out; --original takes such a model")
    saved = with_reference([each for each in saved if each not in originals], request.reference)
    saved.sort(key=lambda each: ("models", "retrain", "unlike", "original").index(each.role))
    if not saved or saved[0].role != "models":
        raise UserError(none_left(request, saved))
    if twice := len(saved) - len({(each.role, each.sha256) for each in saved}):
        warn(
            f"{twice} of the {len(saved)} checkpoints hold weights that another one holds too:"
            " copies count as runs of their own"
        )
    return saved


def none_left(request: AuditRequest, saved: list[Saved]) -> str:
    """Why --models leaves no model to audit: it names none, or only those of the other flags."""
    given = f"--models {' '.join(request.models)}"
    models = expand(request.models, "--models")
    for each in saved:
        if each.path in models:
            flag = "--original" if each.role == "original" else "--retrain"
            return f"{given} leaves none: {each.path} is also given as {flag}; drop it from one"
    return f"{given} names no unlearned model; main_forget.py and main_random.py write them"


def evaluate(request: AuditRequest, subject: Subject, saved: list[Saved]) -> dict:
    """All that audit.json holds."""
    print(data_line(subject.data))
    forget = subject.chosen.sha256()
    # The rule that results of main_forget.py are made by.
    rule = draw_rule(request.mia_members, subject.split.split_seed, subject.data_sha256, forget)
    outputs = [subject.outputs(each) for each in one_by_one(saved, "outputs")]
    metrics, by_draw = distributed.on_main(lambda: attack(saved, outputs, rule))
    extra: list[dict] = [{} for _ in saved]
    if request.suite != "basic":
        metrics, extra = beside_retrain(request, subject, saved, outputs, metrics)
    judged = judge_all(saved, outputs, metrics, by_draw)
    models = [
        model_record(each, splits, values, subject, more)
        for each, splits, values, more in zip(saved, outputs, metrics, extra, strict=True)
    ]
    rows, floors = make_rows(judged)
    if request.suite != "basic":
        add_audits(request, subject, saved, judged, rows)
    for position, row in enumerate(rows):
        row["warnings"] = row_alarms(row, judged)
        for i in row["models"]:
            models[i]["row"] = position
    names = sorted({name for row in rows for name in row["mean"]})
    classes = subject.dataset.classes
    return {
        "schema": 1,
        "script": "evaluate",
        "suite": request.suite,
        "data": subject.record(),
        "attack": rule.record(outputs[0]["retain"][1], outputs[0]["test"][1]),
        "metrics": {name: describe(name) for name in names},
        "models": models,
        "rows": rows,
        "floors": floors,
        "warnings": other_originals(saved) + audit_alarms(judged) + left_out(outputs[0], classes),
        "provenance": provenance(subject.device, "fp32", {"seed": rule.seed}),
    }


def attack(
    saved: list[Saved], outputs: list[Splits], rule: DrawRule
) -> tuple[list[dict[str, Metric]], list[dict[str, np.ndarray]]]:
    """The metrics of the suite basic for each model, and its rates of the attack by draw."""
    by_draw = []
    for _, splits in zip(one_by_one(saved, "attacks"), outputs, strict=True):
        by_draw.append(attack_by_draw(splits, rule))
    metrics = [basic(splits, rule, draws) for splits, draws in zip(outputs, by_draw, strict=True)]
    return metrics, by_draw


def judge_all(
    saved: list[Saved],
    outputs: list[Splits],
    metrics: list[dict[str, Metric]],
    by_draw: list[dict[str, np.ndarray]],
) -> list[Judged]:
    """The models as rows are made of."""
    judged = []
    for i, (each, moved) in enumerate(zip(saved, weights_moved(saved), strict=True)):
        in_percent = {name: 100 * shares for name, shares in by_draw[i].items()}
        identity = (each.label, each.role, each.key, each.seed)
        raw = each.label == Raw.label
        judged.append(Judged(*identity, outputs[i], metrics[i], in_percent, moved, raw=raw))
    return judged


def model_record(
    saved: Saved, outputs: Splits, metrics: dict[str, Metric], subject: Subject, extra: dict
) -> dict:
    """What audit.json says of one model."""
    return {
        "label": saved.label,
        "role": saved.role,
        "path": str(saved.path),
        "weights_sha256": saved.sha256,
        "seed": saved.seed,
        "hyperparameters": saved.hyperparameters,
        "metrics": values_of(metrics),
        "intervals": intervals_of(metrics),
        "chance": chances_of(metrics),
        "per_class": class_accuracies(outputs, subject.dataset.classes),
        "curves": curves(outputs, []) | extra,
    }


def one_by_one(saved: list[Saved], stage: str) -> Iterator[Saved]:
    """The models in turn: a bar on a terminal, else a line for each as it begins."""
    if sys.stderr.isatty():
        yield from tqdm(saved, desc=stage, unit="model", disable=None, leave=False)
        return
    for number, each in enumerate(saved, start=1):
        print(f"{stage} {number}/{len(saved)}: {each.label}, {each.path}", flush=True)
        yield each


def beside_retrain(
    request: AuditRequest,
    subject: Subject,
    saved: list[Saved],
    outputs: list[Splits],
    found: list[dict[str, Metric]],
) -> tuple[list[dict[str, Metric]], list[dict]]:
    """What standard adds to each model's metrics and curves. A Retrain model is compared with the
    others of its kind.
    """
    retrain = [i for i, each in enumerate(saved) if each.role == "retrain"]
    metrics, extra = [], []
    for i, more in enumerate(relearn_all(request, subject, saved)):
        others = [j for j in retrain if saved[j].sha256 != saved[i].sha256]
        references = [outputs[j] for j in others]
        beside = standard(outputs[i], found[i], references, [found[j] for j in others])
        metrics.append(found[i] | beside | measured(more["metrics"]))
        beside_curves = curves(outputs[i], references)
        roc = {name: curve for name, curve in beside_curves.items() if name == "roc"}
        extra.append(roc | {"relearn": more["relearn"]})
    return metrics, extra


def add_audits(
    request: AuditRequest,
    subject: Subject,
    saved: list[Saved],
    judged: list[Judged],
    rows: list[dict],
) -> None:
    """To rows of unlearned models, what many models say: the spread of margins and, with full, the
    audits and the pool of shadows.
    """
    retrain = [each for each in judged if each.role == "retrain"]
    pool = make_pool(request, subject, saved) if request.suite == "full" else None
    per_image = {} if pool is None else pool.memorisation()
    for position, row in enumerate(rows):
        if row["role"] != "models":
            continue
        group, first = [judged[i] for i in row["models"]], saved[row["models"][0]]
        row["mean"] |= values_of(distribution_gaps(group, retrain, audit=request.suite == "full"))
        if pool is not None and not without_record(first):
            metrics, areas = pool.audit(first, per_image["memorisation"])
            per_image[f"auc_of_row_{position}"] = areas
            row["mean"] |= values_of(metrics)
            row["ci"] |= intervals_of(metrics)
            row["chance"] = chances_of(metrics)
    if per_image:
        save_arrays(per_image, folder_of(request, saved) / PER_IMAGE)


def without_record(saved: Saved) -> bool:
    """Whether a run's mask cannot be made again for shadow models, since no record says by what
    score it was made; says so.
    """
    if saved.foreign:
        warn(f"{saved.label} is of another project: --suite full goes without U-LiRA for it")
        return True
    unknown = saved.mask is not None and saved.mask_made_by is None
    if unknown:
        warn(
            f"{saved.path}: no record of its mask, by {saved.mask[0]}; --suite full goes without"
            f" U-LiRA for {saved.label}"
        )
    return unknown


def make_pool(request: AuditRequest, subject: Subject, saved: list[Saved]) -> Pool | None:
    """The shadow models; None for a whole class."""
    if subject.chosen.dropped_classes:
        warn(
            "a whole class cannot be in half of the shadows: --suite full goes without U-LiRA here"
        )
        return None
    original = next(each for each in saved if each.role == "original")
    # Of the forget set's own seed, and of no order of files where it has none.
    flags = [each.arguments for each in saved if each.forget is not None]
    seeds = [each["seed"] if each["forget_seed"] is None else each["forget_seed"] for each in flags]
    seed = attack_seed(min(seeds))
    where, data = folder_of(request, saved) / "shadows", request.data or original.arguments["data"]
    return Pool(
        subject, original, where, shadows=request.shadows, seed=seed, data=data, gpu=request.gpu
    )


def folder_of(request: AuditRequest, saved: list[Saved]) -> Path:
    """Where results go."""
    return request.save_dir or saved[0].path.parent


def relearn_all(request: AuditRequest, subject: Subject, saved: list[Saved]) -> list[dict]:
    """For each model its relearn curve, and the steps that it takes back to the original's
    accuracy, beside Retrain's.
    """
    steps, lr, seeds = request.relearn_steps, request.relearn_lr, request.relearn_seeds
    arrays = [
        subject.relearn(each, steps=steps, lr=lr, seeds=seeds)
        for each in one_by_one(saved, "relearning")
    ]
    by_role = list(zip((each.role for each in saved), arrays, strict=True))
    start = [each["accuracy"][0, 0] for role, each in by_role if role == "original"]
    target = start[0] - RELEARNED if start else math.nan
    of_retrain = [mean_steps(each, target) for role, each in by_role if role == "retrain"]
    reference = float(np.mean(of_retrain))
    found = []
    for each in arrays:
        metrics = {"relearn_accuracy": Metric(float(each["accuracy"][:, -1].mean()))}
        if start:
            metrics["relearn_steps"] = Metric(mean_steps(each, target))
        if start and 0 < reference < math.inf:
            ratio = relearn_ratio(metrics["relearn_steps"].value, reference)
            metrics["relearn_ratio"] = Metric(ratio)
        found.append({"metrics": metrics, "relearn": relearn_record(each)})
    return found


def relearn_record(arrays: dict[str, np.ndarray]) -> dict[str, list]:
    """A relearn curve for audit.json: accuracy in percent after so many steps, over seeds."""
    accuracy = arrays["accuracy"]
    spread = accuracy.std(0, ddof=1) if len(accuracy) > 1 else np.zeros(accuracy.shape[1])
    never_seen = arrays["never_seen"].mean(0)
    found = {
        "steps": arrays["steps"].tolist(),
        "accuracy": accuracy.mean(0).tolist(),
        "sd": spread.tolist(),
    }
    return found if np.isnan(never_seen).any() else found | {"never_seen": never_seen.tolist()}


def mean_steps(arrays: dict[str, np.ndarray], target: float) -> float:
    """Mean over seeds of the steps to ``target``; infinite where one seed does not get there, NaN
    without a target.
    """
    if math.isnan(target):
        return math.nan
    steps = [steps_to_reach(arrays["steps"], row, target) for row in arrays["accuracy"]]
    return float(np.mean(steps))
