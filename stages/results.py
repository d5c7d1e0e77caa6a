"""What a run prints and writes of itself while it goes on and at its end."""

import argparse
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from datasets.loaders import Data
from datasets.splits import (
    SCENARIOS,
)
from engine import EpochStats, predict
from evaluation.accuracy import accuracies, accuracy
from evaluation.attacks import entropy_member_rate
from evaluation.gaps import AVERAGED, ENTROPY
from evaluation.membership import draws_line, means, svc_draws
from evaluation.suites import Splits
from evaluation.verdicts import (
    DESTROYED,
    Standing,
    at_chance,
    changed_nothing,
    judge,
    judge_alone,
    needs_reference,
    relative_change,
    remedies,
    say_at_chance,
    standing,
)
from runtime import distributed
from runtime.clock import Stopwatch, warn_of_standstill
from runtime.files import hash_arrays, load_json, save, save_json, save_text
from runtime.provenance import provenance
from stages.checkpoints import load_weights
from stages.mask import LoadedMask
from stages.records import differences
from stages.task import Task, forget_seed, new_model
from unlearn import METHODS
from unlearn.base import Method
from utils import RunFailed, UserError, warn

# Images of each split that the line after an epoch is computed on; the result uses all of them.
MONITORED = 500
MEANING = {
    "UA": "forget error",
    "RA": "retain",
    "TA": "test",
    "VA": "validation",
    "MIA": "forget called non-member",
}
PARTIAL_RETRAIN = (
    "with --retain_fraction, retrain is no longer what the other methods are measured against"
)


def recorded(
    path: Path, hash_name: str, sha256: str, metrics: tuple[str, ...], test_sha256: str
) -> dict | None:
    """The result that a finished run wrote about the weights of this hash; None where it did not
    come to that, or it is damaged.

    None also where it was tested on other images than those of ``test_sha256``.
    """
    try:
        result = load_json(path, "result")
        numbers = {name: result["metrics"][name] for name in metrics}
        read = isinstance(result["label"], str) and type(result["RTE"]["total"]) in (int, float)
        read = read and all(type(value) in (int, float, type(None)) for value in numbers.values())
        read = read and result["data"].get("test_sha256", test_sha256) == test_sha256
        return result if read and result["provenance"][hash_name] == sha256 else None
    except (UserError, AttributeError, LookupError, TypeError):
        return None


def to_numpy(output: tuple[Tensor, Tensor]) -> tuple[np.ndarray, np.ndarray]:
    return output[0].numpy(), output[1].numpy()


def epoch_line(epoch: int, epochs: int, stats: EpochStats, seen: str, clock: Stopwatch) -> str:
    """What is printed after an epoch; ``seen`` is what it was evaluated to."""
    return (
        f"epoch {epoch + 1}/{epochs}  loss {stats.loss:.4f}  {seen}lr {stats.lr:.4g} "
        f" {clock.seconds:.1f} s"
    )


def number(value: float | None) -> float:
    """A metric of a file, where null stands for one that is none."""
    return np.nan if value is None else value


def result_line(method: str, metrics: dict[str, float], seconds: float) -> str:
    """The last line of standard output, for grep."""
    shown = " ".join(f"{name}={number(value):.2f}" for name, value in metrics.items())
    return f"RESULT method={method} {shown} RTE={seconds:.1f}"


class Monitor:
    """Accuracy on a fixed sample of forget, retain and val after each epoch, so that a collapse is
    seen when it happens.
    """

    def __init__(self, model: nn.Module, data: Data):
        self.model = model
        self.samples = {
            name: data.evaluation[name].subset(MONITORED, "monitor")
            for name in ("forget", "retain", "val")
        }

    def accuracies(self) -> dict[str, float]:
        """In percent; NaN for an empty split."""
        return {
            name: accuracy(*to_numpy(predict(self.model, loader)))
            for name, loader in self.samples.items()
        }


class Curve:
    """A run's training curve: one line of JSON per epoch beside its checkpoint, and with
    --tensorboard an event file.
    """

    def __init__(self, file: Path, start_epoch: int, tensorboard: bool):
        kept = file.read_text().splitlines()[:start_epoch] if start_epoch and file.is_file() else []
        self.file, self.lines = file, kept
        self.writer = None
        if tensorboard and distributed.rank() == 0:
            from torch.utils.tensorboard import SummaryWriter  # an extra

            self.writer = SummaryWriter(file.with_suffix(""))

    def add(self, epoch: int, stats: EpochStats, seen: dict[str, float], seconds: float) -> None:
        """The epoch's loss, accuracies in percent, learning rate and seconds so far."""
        found = {"loss": stats.loss, "accuracy": stats.accuracy, "lr": stats.lr, "seconds": seconds}
        found |= {
            name: value for name, value in seen.items() if math.isfinite(value)
        }  # an empty split has no accuracy
        self.lines.append(json.dumps({"epoch": epoch + 1, **found}))
        # Whole, like every file: a kill between two lines leaves the shorter curve.
        save_text("\n".join(self.lines) + "\n", self.file)
        if self.writer is not None:
            for name, value in found.items():
                self.writer.add_scalar(name, value, epoch + 1)
            self.writer.flush()


def report(
    args: argparse.Namespace,
    script: str,
    method: Method,
    label: str,
    task: Task,
    mask: LoadedMask | None,
    recipe: dict,
    original_recipe: dict | None,
    clock: Stopwatch,
    extra: dict,
    files: dict[str, Path],
) -> None:
    """Evaluate the finished model, write its results, print them by name."""
    outputs = {
        name: to_numpy(predict(task.model, loader)) for name, loader in task.data.evaluation.items()
    }
    if not all(np.isfinite(logits).all() for logits, _ in outputs.values()):
        raise RunFailed(
            f"{DESTROYED}: the model's logits are not finite; try a lower learning rate"
        )
    metrics = accuracies(outputs)
    rule, drawn = task.attack(args)
    parts = (outputs["retain"], outputs["test"], {"forget": outputs["forget"]})
    draws = distributed.on_main(lambda: svc_draws(*parts, rule))
    attack = means(draws)["forget"]
    print(draws_line(drawn))
    metrics["MIA"] = 100 * attack["confidence"]
    metrics[ENTROPY] = 100 * distributed.on_main(
        lambda: entropy_member_rate(*(outputs[name][0] for name in ("retain", "test", "forget")))
    )
    warnings = alarms(args, task, mask, extra)
    verdicts, standings = judge_run(args, method, task, mask, outputs)
    warnings += verdicts
    used = {**dataclasses.asdict(method), **recipe}
    if (
        args.unlearn == "retrain"
        and original_recipe
        and (apart := differences(used, original_recipe))
    ):
        warnings.append(f"trained unlike the original: {apart}")
    for message in warnings:
        warn(message)
    warn_of_standstill(clock.stopped)
    mask_seconds = mask.seconds if mask else 0.0
    result = {
        "schema": 1,
        "script": script,
        "method": args.unlearn,
        "label": label,
        "metrics": {**metrics, "SVC_MIA": {name: 100 * value for name, value in attack.items()}},
        "RTE": {
            "total": mask_seconds + clock.seconds,
            "mask": mask_seconds,
            "unlearn": clock.seconds,
            "stopped": clock.stopped,
        },
        "hyperparameters": dataclasses.asdict(method),
        "recipe": recipe,
        "original_recipe": original_recipe,
        "preset": args.preset,
        "mask": mask.record() if mask else None,
        "attack": {
            **drawn,
            "MIA": [100 * share for share in draws["forget"]["confidence"].tolist()],
        },
        "details": extra,
        "warnings": warnings,
        "data": task.data_record(args),
        **standings,
        "provenance": {
            **provenance(
                task.device,
                task.recipe.precision,
                {"seed": args.seed, "forget_seed": forget_seed(args)},
            ),
            "original_sha256": task.original.sha256 if task.original else "",
            "mask_sha256": mask.sha256 if mask else "",
            "unlearned_sha256": hash_arrays(task.model.state_dict()),
        },
    }
    percent = {name: accuracy(*output) for name, output in outputs.items()}
    save({"accuracy": percent, "SVC_MIA_forget_efficacy": attack}, files["eval_result.pth.tar"])
    save_json(result, files["result.json"])
    print_result(result, files["result.json"])


def print_result(result: dict, file: Path) -> None:
    """A result's metrics by name; null in a file is a number that is none."""
    metrics = result["metrics"]
    print(
        "  ".join(
            f"{name} {number(metrics[name]):.2f} ({words})" for name, words in MEANING.items()
        )
    )
    if ENTROPY in metrics:  # not in older files
        print(
            f"{ENTROPY} {number(metrics[ENTROPY]):.2f} (forget called member by the entropy attack)"
        )
    print(f"compare with Retrain, not with 100: python report.py {file.parent}")
    print(
        result_line(
            result["label"],
            {name: metrics[name] for name in AVERAGED},
            result["RTE"]["total"],
        )
    )


def alarms(args: argparse.Namespace, task: Task, mask: LoadedMask | None, extra: dict) -> list[str]:
    """What a reader must know before trusting the numbers, one line each, besides the verdicts on
    them.
    """
    found = [extra["warning"]] if "warning" in extra else []
    if args.unlearn == "retrain" and args.retain_fraction < 1:
        found.append(PARTIAL_RETRAIN)
    meant = METHODS[args.unlearn].scenarios
    if task.chosen.scenario not in meant:
        found.append(
            f"{args.unlearn} was designed to forget {' or '.join(map(SCENARIOS.get, meant))}, not"
            f" {SCENARIOS[task.chosen.scenario]}"
        )
    if mask and not mask.density:
        found.append("the mask freezes every weight")
    return found


def judge_run(
    args: argparse.Namespace, method: Method, task: Task, mask: LoadedMask | None, outputs: Splits
) -> tuple[list[str], dict]:
    """The verdicts on a finished model beside its original, and what a report needs to judge it
    again beside Retrain.

    Retrain, which others are judged by, has no reference, and the original is none to itself.
    """
    own = standing(*outputs["retain"])
    if args.unlearn == "raw":
        return [say_at_chance("the original", own)] if at_chance(own) else [], {
            "standing": own._asdict()
        }
    if task.original is None or not (method.needs_original or mask):
        return judge_alone(own, method.label), {"standing": own._asdict()}
    before, (weaker, stronger) = OriginalOutputs(args, task), remedies(dataclasses.asdict(method))
    # The retain set, the largest, is asked for where a verdict may hang on it: forget was trained
    # on like it.
    guesses = at_chance(
        Standing(accuracy(*before["forget"]), own.chance, None, len(before["forget"][1]))
    )
    start = standing(*before["retain"]) if guesses or needs_reference(own) else None
    if start and at_chance(start):
        found = [say_at_chance("the original", start)]
    else:
        moved = weights_moved(task)
        found = judge(own, start, advice=weaker) + changed_nothing(
            outputs, before, weights_moved=moved, advice=stronger
        )
    return found, {"standing": own._asdict(), "original_standing": start and start._asdict()}


class OriginalOutputs(Mapping):
    """Logits and labels of the original by evaluation split, each computed when it is first asked
    for.
    """

    def __init__(self, args: argparse.Namespace, task: Task):
        self.loaders, self.found = task.data.evaluation, {}
        self.model = new_model(args, task.dataset, task.device)
        load_weights(self.model, task.original, args.arch)

    def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self.found:
            self.found[name] = to_numpy(predict(self.model, self.loaders[name]))
        return self.found[name]

    def __contains__(self, name: object) -> bool:
        return name in self.loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self.loaders)

    def __len__(self) -> int:
        return len(self.loaders)


def weights_moved(task: Task) -> float:
    """How far the model's weights are from the original's; BatchNorm's statistics are
    no weights.
    """
    now = {
        name: value.detach().cpu().float().numpy() for name, value in task.model.named_parameters()
    }
    return relative_change(
        now, {name: task.original.state_dict[name].float().numpy() for name in now}
    )
