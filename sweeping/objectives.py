"""What a search judges its trials by: val_proxy, without Retrain and test data, or oracle_gap."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from engine import predict
from evaluation.accuracy import accuracy
from evaluation.attacks import auc, class_weights, effective_size
from evaluation.gaps import AVERAGED, AVERAGED_ENTROPY, ENTROPY, gap_of_means
from evaluation.scores import member_scores
from evaluation.selection import val_proxy, val_proxy_class, val_proxy_noise
from runtime.devices import pick_device
from runtime.files import load_json, save_json
from stages.outputs import Subject
from stages.saved import Saved, read_saved
from sweeping.expansion import Run
from unlearn import METHODS
from utils import UserError

OBJECTIVES = ("val_proxy", "oracle_gap")
NO_VALIDATION = "--objective val_proxy needs validation images, {}; take --objective oracle_gap"
# The rates of originals that trials of this process were judged by.
_BEFORE: dict[tuple, dict[str, float]] = {}
WARNING = (
    "oracle_gap looks at the answer: it needs Retrain, which a user of unlearning does not have,"
    " and test images"
)


def judge(
    run: Run, root: Path, values: dict[str, float], objective: str, retrain: list[Path]
) -> dict:
    """A finished trial's objective, kept in its run's folder.

    ``val_proxy`` depends on the trial alone and is computed once; ``oracle_gap`` depends on
    ``retrain``, the results of Retrain.
    """
    folder = root / run.name
    file = folder / f"{objective}.json"
    trial = {"values": values, "objective": None, "noise": 0.0, "run": run.name}
    if objective == "oracle_gap":
        trial["objective"] = oracle_gap_score(folder / run.result, retrain)
        trial["entropy_gap"] = entropy_gap_score(folder / run.result, retrain)
    elif file.is_file():
        return load_json(file, "trial")
    else:
        device, gpu = run.settings.get("device", "auto"), run.settings.get("gpu", 0)
        retained = load_json(folder / run.result, "result")["metrics"]["RA"]
        trial["objective"], trial["noise"] = val_proxy_score(
            folder / run.checkpoint, _original_of(run), device, gpu, retained
        )
    save_json(trial, file)
    return trial


def check_validation(trial: Run, needed: Sequence[Run]) -> None:
    """Refuse val_proxy where the flags of a trial, or of a run that it needs, say that there are no
    validation images.
    """
    for run in (trial, *needed):
        if run.settings.get("val_fraction") == 0:
            raise UserError(NO_VALIDATION.format(f"{run.name} has --val_fraction 0"))


def check_original(trial: Run) -> None:
    """Refuse val_proxy where the original's checkpoint says the same."""
    original = _original_of(trial)
    if not len(read_saved(original, "original").split["val"]):
        raise UserError(NO_VALIDATION.format(f"{original} was trained without"))


def _original_of(trial: Run) -> Path:
    flag = "--model_path="
    return Path(next(word for word in trial.words if word.startswith(flag)).removeprefix(flag))


def val_proxy_score(
    checkpoint: Path, original: Path, device: str, gpu: int, retained: float | None = None
) -> tuple[float, float]:
    """(val_proxy, its noise) of an unlearned model, from forget, retain and validation images: of
    half B alone for a method that has learnt from half A.

    Args:
        retained: its RA in percent, where that is known, which saves most of the time.
    """
    unlearned, start = read_saved(checkpoint, "models"), read_saved(original, "original")
    subject = Subject(unlearned, data=None, device=pick_device(device, gpu), batch_size=256)
    subject.check(start)
    learns = METHODS[unlearned.arguments["unlearn"]].learns_from_validation
    half = learns is True or bool(unlearned.arguments.get(learns))
    if half:
        subject.loaders["val"] = subject.data.validation_half(1)
    outputs = _outputs(subject, unlearned, ["forget", "val"])
    if retained is None:
        retained = accuracy(*_outputs(subject, unlearned, ["retain"])["retain"])
    percent = {name: accuracy(*output) for name, output in outputs.items()}
    unlearned_rates = {"UA": 100 - percent["forget"], "RA": retained, "VA": percent["val"]}
    case = (start.sha256, subject.data_sha256, unlearned.forget.tobytes(), half, device, gpu)
    if case not in _BEFORE:
        seen = _outputs(subject, start, ["retain", "val"])
        _BEFORE[case] = {"RA": accuracy(*seen["retain"]), "VA": accuracy(*seen["val"])}
    original_rates = _BEFORE[case]
    if subject.chosen.dropped_classes:
        return val_proxy_class(unlearned_rates, original_rates), 0.0
    # Validation images are weighted to the class shares of forget, for the classes that they have.
    (forget, labels), (unseen, val_labels) = (
        (member_scores(*outputs[name])["loss"], outputs[name][1]) for name in ("forget", "val")
    )
    known = np.isin(labels, val_labels)
    weights = class_weights(labels[known], val_labels)
    value = val_proxy(unlearned_rates, original_rates, auc(forget[known], unseen, weights))
    return value, val_proxy_noise(known.sum(), effective_size(weights))


def _outputs(
    subject: Subject, saved: Saved, splits: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split: (logits (n, classes), labels (n,))}"""
    model = subject.build(saved)
    outputs = {}
    for name in splits:
        logits, labels = predict(model, subject.loaders[name])
        outputs[name] = logits.numpy(), labels.numpy()
    return outputs


def oracle_gap_score(result: Path, retrain: list[Path], metrics: Sequence[str] = AVERAGED) -> float:
    """Avg. Gap, in points, of one result to the mean of Retrain's."""
    sides = []
    for files in ([result], retrain):
        rates = [load_json(file, "result")["metrics"] for file in files]
        sides.append({name: [each[name] for each in rates] for name in metrics})
    return gap_of_means(*sides)


def entropy_gap_score(result: Path, retrain: list[Path]) -> float | None:
    """The same with the entropy attack's MIA; None where a result has none."""
    rates = [load_json(file, "result")["metrics"].get(ENTROPY) for file in (result, *retrain)]
    return None if None in rates else oracle_gap_score(result, retrain, AVERAGED_ENTROPY)
