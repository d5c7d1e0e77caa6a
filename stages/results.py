"""What a finished unlearning run is measured and judged by, writes and prints."""

import dataclasses
import functools
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from torch import nn

from datasets.splits import SCENARIOS
from engine import predict
from evaluation.accuracy import BEFORE, accuracies, accuracy
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
from runtime.files import hash_arrays, load_json, save, save_arrays, save_json
from runtime.provenance import provenance
from stages.curves import to_numpy
from stages.file_names import FORGOTTEN, REFERENCE_RESULT, RESULT
from stages.forgotten import forgotten_arrays
from stages.mask_files import LoadedMask
from stages.records import differences, recorded_recipe
from stages.requests import UnlearnRequest
from stages.task import Task, new_model
from unlearn.base import Method
from utils import RunFailed, UserError, warn

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


@dataclasses.dataclass(frozen=True)
class Run:
    """A method on a task: what it starts from, and where its files go.

    ``original_recipe`` is what Retrain would take over from the original; None where no record
    says.
    """

    task: Task
    method: Method
    mask: LoadedMask | None
    label: str
    files: dict[str, Path]
    original_recipe: dict | None

    @property
    def request(self) -> UnlearnRequest:
        return self.task.request

    def recorded_recipe(self) -> dict[str, object]:
        """The loop's recipe in the result; a part of the retain set makes a row of its own."""
        recipe = recorded_recipe(self.method, self.task.recipe)
        share = self.request.retain_fraction
        return recipe | ({"retain_fraction": share} if share < 1 else {})


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


def report(run: Run, clock: Stopwatch, extra: dict) -> dict:
    """Evaluate the finished model, write its results, print them by name; returns the result."""
    task = run.task
    outputs = {
        name: to_numpy(predict(task.model, loader)) for name, loader in task.data.evaluation.items()
    }
    if not all(np.isfinite(logits).all() for logits, _ in outputs.values()):
        weaker, _ = remedies(dataclasses.asdict(run.method))
        advice = f"; {weaker}" if weaker else ""
        raise RunFailed(f"{DESTROYED}: the model's logits are not finite{advice}")
    rule, drawn = task.attack()
    parts = (outputs["retain"], outputs["test"], {"forget": outputs["forget"]})
    draws = distributed.on_main(lambda: svc_draws(*parts, rule))
    attack = means(draws)["forget"]
    print(draws_line(drawn))
    before = OriginalOutputs(task)
    verdicts, standings = judge_run(run, outputs, before)
    warnings = alarms(run, extra) + verdicts + unlike_original(run)
    for message in warnings:
        warn(message)
    warn_of_standstill(clock.stopped)
    by_draw = [100 * share for share in draws["forget"]["confidence"].tolist()]
    result = {
        **run_record(run, clock),
        "metrics": measured(outputs, attack),
        "attack": {**drawn, "MIA": by_draw},
        "details": extra,
        "warnings": warnings,
        "data": task.data_record(),
        **standings,
    }
    percent = {name: accuracy(*output) for name, output in outputs.items()}
    reference_record = {"accuracy": percent, "SVC_MIA_forget_efficacy": attack}
    save(reference_record, run.files[REFERENCE_RESULT])
    said = {"after": outputs["forget"], "before": before.computed.get("forget")}
    save_arrays(forgotten_arrays(task, said), run.files[FORGOTTEN])
    save_json(result, run.files[RESULT])
    print_result(result, run.files[RESULT])
    return result


def measured(outputs: Splits, attack: dict[str, float]) -> dict:
    """The ``metrics`` of a result, in percent; ``attack`` holds rates in [0, 1] by feature."""
    entropy = distributed.on_main(
        lambda: entropy_member_rate(*(outputs[name][0] for name in ("retain", "test", "forget")))
    )
    earlier = outputs.get(BEFORE)
    return {
        **accuracies(outputs),
        **({BEFORE: accuracy(*earlier)} if earlier else {}),
        "MIA": 100 * attack["confidence"],
        ENTROPY: 100 * entropy,
        "SVC_MIA": {name: 100 * value for name, value in attack.items()},
    }


def run_record(run: Run, clock: Stopwatch) -> dict:
    """What a result says of the run itself: what it was asked for, its time, where it ran."""
    task, request, mask = run.task, run.request, run.mask
    mask_seconds = mask.seconds if mask else 0.0
    seeds = {"seed": request.seed, "forget_seed": request.draw_seed()}
    return {
        "schema": 1,
        "script": request.script,
        "method": request.unlearn,
        "label": run.label,
        "RTE": {
            "total": mask_seconds + clock.seconds,
            "mask": mask_seconds,
            "unlearn": clock.seconds,
            "stopped": clock.stopped,
        },
        "hyperparameters": dataclasses.asdict(run.method),
        "recipe": run.recorded_recipe(),
        "original_recipe": run.original_recipe,
        "preset": request.preset,
        "mask": mask.record() if mask else None,
        "provenance": {
            **provenance(task.device, task.recipe.precision, seeds),
            "original_sha256": task.original.sha256 if task.original else "",
            "mask_sha256": mask.sha256 if mask else "",
            "unlearned_sha256": hash_arrays(task.model.state_dict()),
        },
    }


def number(value: float | None) -> float:
    """A metric of a file, where null stands for one that is none."""
    return np.nan if value is None else value


def result_line(method: str, metrics: dict[str, float], seconds: float) -> str:
    """The last line of standard output, for grep; a metric that is none, such as VA without
    validation images, is left out.
    """
    known = {name: value for name, value in metrics.items() if np.isfinite(number(value))}
    shown = "".join(f" {name}={value:.2f}" for name, value in known.items())
    return f"RESULT method={method}{shown} RTE={seconds:.1f}"


def print_result(result: dict, file: Path) -> None:
    """A result's metrics by name; null in a file is a number that is none."""
    metrics = result["metrics"]
    known = {name: words for name, words in MEANING.items() if np.isfinite(number(metrics[name]))}
    shown = [f"{name} {metrics[name]:.2f} ({words})" for name, words in known.items()]
    print("  ".join(shown))
    if ENTROPY in metrics:  # not in older files
        rate = number(metrics[ENTROPY])
        print(f"{ENTROPY} {rate:.2f} (forget called member by the entropy attack)")
    if BEFORE in metrics:
        print(f"{BEFORE} {number(metrics[BEFORE]):.2f} (accuracy on what earlier requests forgot)")
    folder = shlex.quote(str(file.parent))
    print(f"compare with Retrain, not with 100: python report.py {folder}")
    four = {name: metrics[name] for name in AVERAGED}
    print(result_line(result["label"], four, result["RTE"]["total"]))


def alarms(run: Run, extra: dict) -> list[str]:
    """What a reader must know before trusting the numbers, one line each, besides the verdicts on
    them.
    """
    request, scenario = run.request, run.task.chosen.scenario
    lines = [extra["warning"]] if "warning" in extra else []
    if request.unlearn == "retrain" and request.retain_fraction < 1:
        lines.append(PARTIAL_RETRAIN)
    if scenario not in run.method.scenarios:
        meant = " or ".join(map(SCENARIOS.get, run.method.scenarios))
        lines.append(f"{request.unlearn} was designed to forget {meant}, not {SCENARIOS[scenario]}")
    if run.mask and not run.mask.density:
        lines.append("the mask freezes every weight")
    return lines


def unlike_original(run: Run) -> list[str]:
    """A warning where Retrain's recipe is not the original's."""
    if run.request.unlearn != "retrain" or not run.original_recipe:
        return []
    used = {**dataclasses.asdict(run.method), **run.recorded_recipe()}
    apart = differences(used, run.original_recipe)
    return [f"trained unlike the original: {apart}"] if apart else []


def judge_run(run: Run, outputs: Splits, before: "OriginalOutputs") -> tuple[list[str], dict]:
    """The verdicts on a finished model beside its original, of which ``before`` has the outputs,
    and what a report needs to judge it again beside Retrain.

    Retrain, which others are judged by, has no reference, and the original is none to itself.
    """
    own, task = standing(*outputs["retain"]), run.task
    record = {"standing": own._asdict()}
    if run.request.unlearn == "raw":
        return [say_at_chance("the original", own)] if at_chance(own) else [], record
    if task.original is None or not (run.method.needs_original or run.mask):
        return judge_alone(own, run.method.label), record
    weaker, stronger = remedies(dataclasses.asdict(run.method), run.method.breaks)
    # The retain set, the largest, is asked for where a verdict may hang on it: forget was trained
    # on like it.
    forgotten = Standing(accuracy(*before["forget"]), own.chance, None, len(before["forget"][1]))
    wanted = at_chance(forgotten) or needs_reference(own)
    start = standing(*before["retain"]) if wanted else None
    record["original_standing"] = start and start._asdict()
    if start and at_chance(start):
        return [say_at_chance("the original", start)], record
    moved = weights_moved(task)
    verdicts = judge(own, start, advice=weaker)
    verdicts += changed_nothing(outputs, before, weights_moved=moved, advice=stronger)
    return verdicts, record


class OriginalOutputs(Mapping):
    """Logits and labels of the original by evaluation split, each computed when it is first asked
    for.
    """

    def __init__(self, task: Task):
        self.task, self.loaders, self.computed = task, task.data.evaluation, {}

    @functools.cached_property
    def model(self) -> nn.Module:
        model = new_model(self.task.request, self.task.dataset, self.task.device)
        model.load_state_dict(self.task.original.state_dict, strict=True)
        return model

    def __getitem__(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        if name not in self.computed:
            self.computed[name] = to_numpy(predict(self.model, self.loaders[name]))
        return self.computed[name]

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
    before = {name: task.original.state_dict[name].float().numpy() for name in now}
    return relative_change(now, before)
