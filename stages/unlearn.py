"""Step 3: unlearn, evaluate, write."""

import dataclasses
from collections.abc import Callable
from math import isnan

import torch

from datasets.splits import split_record
from engine import EpochStats, UnfitState, check_batch_norm, count_updates
from engine import run as run_method
from evaluation.membership import same_draws
from recipe import Recipe
from runtime import distributed
from runtime.clock import Stopwatch
from runtime.devices import threads_of
from runtime.files import hash_arrays, load, lock, reading, save
from stages.checkpoints import (
    RESTART,
    Original,
    adopt,
    adopt_tail,
    read_original,
    read_state,
    say_threads,
)
from stages.classifier import images_record
from stages.curves import MONITORED, Curve, Monitor, epoch_line
from stages.dry_run import say_files, say_work
from stages.file_names import CHECKPOINT, CURVE, FORGOTTEN, REFERENCE_RESULT, RESULT
from stages.initial import give_initial, read_initial
from stages.mask_files import mask_file, own_mask
from stages.records import recorded_recipe
from stages.requests import OF_METHODS, UnlearnRequest, recording
from stages.results import MEANING, PARTIAL_RETRAIN, Run, print_result, recorded, report
from stages.run_folder import (
    PARTS,
    name_unread,
    refuse_overwriting,
    settle_resume,
    stem_of,
    with_folder,
)
from stages.settings import (
    OF_TRAINING,
    recipe_of_method,
    recipe_of_original,
    settle_and_say,
)
from stages.task import check_request, known_sizes, open_task, set_up
from unlearn import METHODS, label_of
from unlearn.base import Iterative, Method
from utils import UserError, warn


@recording
def unlearn(request: UnlearnRequest) -> dict | None:
    """Unlearn, evaluate, write the checkpoint, the reference's dictionary and result.json.

    Returns:
        The result as its file has it; None for a dry run.
    """
    name_unread(request, passed_over=OF_METHODS | OF_TRAINING)
    request.check_mask_wanted()
    check_model_wanted(request)
    mask_path = mask_file(request)
    mask_content = None if mask_path is None else load(mask_path, "--mask_path")
    original = None if request.model_path is None else read_original(request.model_path)
    if original is not None:
        request = adopt(request, original)
    request, method = settle_and_say(request, original)
    original_recipe = recipe_of_original(original)
    check_request(request)
    request = with_folder(request)
    stem = stem_of(request, request.run)
    files = {part: request.save_dir / f"{stem}{part}" for part in PARTS}
    request, _ = settle_resume(request, list(files.values()))
    refuse_overwriting(request, list(files.values()))
    request = adopt_tail(request, files[CHECKPOINT])
    if original is not None and not request.resume:  # what was begun goes on
        check_size(request, original, method)
    device, precision = set_up(request)
    recipe = recipe_of_method(request, method, precision)
    initial = None if method.needs_original else read_initial(request, original)
    recipe = dataclasses.replace(recipe, init=initial.sha256 if initial else "")
    if request.resume and not request.dry_run:  # refused before data are read
        read_state(files[CHECKPOINT], request_identity(request, method, recipe, original))
    if request.unlearn == "retrain" and request.retain_fraction < 1:
        warn(PARTIAL_RETRAIN)
    task = open_task(request, original, device, recipe)
    if initial:
        give_initial(task.model, initial, request.arch)
    mask = None if mask_path is None else own_mask(mask_content, mask_path, task)
    label = label_of(type(method), (mask.score or "saliency") if mask else None)
    run = Run(task, method, mask, label, files, original_recipe)
    one_image = announce(run)
    if recipe.select == "best" and not task.data.evaluation["val"].num_samples:
        print("no validation images: --select last")
        last = dataclasses.replace(recipe, select="last")
        run = dataclasses.replace(run, task=dataclasses.replace(task, recipe=last))
    if request.dry_run:
        say_files(files.values())
        say_work(run.task.model, method, run.task.data, recipe)
        return None
    with lock(request.save_dir, stem, files.values()):
        refuse_overwriting(request, list(files.values()))  # another run may have finished since
        clock, extra = run_and_save(run, one_image=one_image)
        if request.resume and (done := finished(run)):
            print(f"finished already; {files[RESULT]} says")
            print_result(done, files[RESULT])
            return done
        return report(run, clock, extra)


def check_model_wanted(request: UnlearnRequest) -> None:
    """Refuse a run that lacks the original it starts from."""
    masked = request.mask_path is not None
    if request.model_path is None and (METHODS[request.unlearn].needs_original or masked):
        starts = f"{request.unlearn} starts from it"
        why = "a mask keeps the original's weights" if masked else starts
        raise UserError(f"--model_path is missing: {why}; give main_train's checkpoint")


def check_size(request: UnlearnRequest, original: Original, method: Method) -> None:
    """Refuse far more work than is meant before images are read, where the original's file tells
    how much it is.
    """
    if sizes := known_sizes(request, original):
        method.check_size(*sizes)


def announce(run: Run) -> bool:
    """Print what runs; returns whether BatchNorm will meet batches of one image."""
    request, method, mask = run.request, run.method, run.mask
    if request.script == "main_random" and mask is None:
        print(f"no --mask_path: {request.unlearn} runs unmasked")
    kept = f", mask {mask.path} keeps {100 * mask.density:.1f} % trainable" if mask else ""
    print(f"{run.label}: {method}{kept}")
    if not isinstance(method, Iterative):
        return False
    if run.task.recipe.forget_batch_size not in (None, request.batch_size):
        print(
            f"batches of {request.forget_batch_size} forget images and of {request.batch_size}"
            " retain images"
        )
    return check_batch_norm(run.task.model, method, run.task.data)


def request_identity(
    request: UnlearnRequest, method: Method, recipe: Recipe, original: Original | None
) -> dict:
    """What of a run's identity is known before data are read."""
    named = ("seed", "arch", "imagenet_arch", "split_seed", "val_fraction", "retain_fraction")
    return {
        "method": method.label,
        **dataclasses.asdict(method),
        **recorded_recipe(method, recipe),
        "original": original.sha256 if original else "",
        **{name: getattr(request, name) for name in named},
    }


def identity_of(run: Run, recipe: Recipe) -> dict:
    """What makes two runs the same: method, recipe, seeds, and the content of their inputs."""
    task = run.task
    return request_identity(run.request, run.method, recipe, task.original) | {
        "forget": task.chosen.sha256(),
        "data_sha256": task.data_sha256,
        "mask": run.mask.sha256 if run.mask else "",
        "retain": task.retain_sha256(),
    }


def finished(run: Run) -> dict | None:
    """The result of a run that has nothing left to do; None where there is something."""
    if not distributed.on_main(run.files[REFERENCE_RESULT].is_file):
        return None
    weights = hash_arrays(run.task.model.state_dict())
    tested_on = run.task.dataset.test_sha256()
    done = recorded(run.files[RESULT], "unlearned_sha256", weights, tuple(MEANING), tested_on)
    return done | {"label": run.label} if done and same_draws(done, run.task.attack()[1]) else None


def checkpoint_record(run: Run) -> dict:
    """What a checkpoint says beside the state of the run."""
    task, request = run.task, run.request
    # The record is of the recipe that was asked for, also where there is no validation image.
    asked = recipe_of_method(request, run.method, task.recipe.precision)
    asked = dataclasses.replace(asked, init=task.recipe.init)
    scratch = not run.method.needs_original and not run.mask
    trained_on = task.retain_indices() if scratch else task.split.train
    return {
        "label": run.label,
        "identity": identity_of(run, asked),
        "arguments": request.record(),
        "split": split_record(task.dataset.name, task.data_sha256, task.split, trained_on),
        "forget": torch.from_numpy(task.chosen.forget),
        "retain": torch.from_numpy(task.chosen.retain),
        "forgotten_before": torch.from_numpy(task.chosen.before),
        "trained_with": task.original.recipe if task.original else {},
        "forgotten": {"kind": task.chosen.kind, "classes": list(task.chosen.classes)},
        "mask": run.mask and run.mask.identity(),
        "threads": threads_of(task.device),
        **images_record(task.dataset),
    }


def run_and_save(run: Run, *, one_image: bool) -> tuple[Stopwatch, dict]:
    """Run the method to its end, saving as it goes; returns its time and what it reports of
    itself.
    """
    task, request, method = run.task, run.request, run.method
    checkpoint, common = run.files[CHECKPOINT], checkpoint_record(run)
    state = read_state(checkpoint, common["identity"]) if request.resume else None
    if state is not None and "extra" in state:
        with reading(checkpoint, "--resume: checkpoint", RESTART):
            task.model.load_state_dict(state["state_dict"])
            clock = Stopwatch(task.device, state["seconds"], state.get("stopped", 0.0))
            return clock, dict(state["extra"])
    if state is not None:
        say_threads(state, checkpoint, task.device)
    clock = Stopwatch(task.device)
    hooks = {}
    if isinstance(method, Iterative):
        hooks["after_epoch"] = saver(run, clock, common, state["epoch"] if state else 0)
    try:
        extra, run_state = run_method(
            task.model,
            method,
            task.data,
            task.recipe,
            run.mask and run.mask.mask,
            clock=clock,
            state=state,
            before_epochs=lambda: remove_earlier(run),
            **hooks,
            compile=request.compile,
            print_freq=request.print_freq,
            one_image=one_image,
        )
    except UnfitState as error:
        raise UserError(
            f"--resume: checkpoint {checkpoint} is damaged ({str(error)[:100]}); {RESTART}"
        ) from None
    done = {
        "state_dict": task.model.state_dict(),
        "seconds": clock.seconds,
        "stopped": clock.stopped,
        "extra": extra,
    }
    save({**common, "epoch": 0, "seconds": 0.0, **run_state, **done}, checkpoint)
    return clock, extra


def remove_earlier(run: Run) -> None:
    """A result must never stand beside the checkpoint of another run."""
    if not run.request.resume:
        for part in (REFERENCE_RESULT, RESULT, CURVE, FORGOTTEN):
            run.files[part].unlink(missing_ok=True)


def saver(
    run: Run, clock: Stopwatch, common: dict, begun: int
) -> Callable[[int, EpochStats, Callable[[], dict]], None]:
    """What is called after each epoch: looks at a sample of each split, says and saves it."""
    monitor = Monitor(run.task.model, run.task.data)
    curve = Curve(run.files[CURVE], begun, run.request.tensorboard)

    def after_epoch(epoch: int, stats: EpochStats, run_state: Callable[[], dict]) -> None:
        accuracies = monitor.accuracies()
        forget, retain, val = accuracies.values()
        validated = "" if isnan(val) else f"VA {val:.1f}  "
        shown = f"UA {100 - forget:.1f}  RA {retain:.1f}  {validated}(up to {MONITORED} each)  "
        epochs = len(count_updates(run.method, run.task.data, run.task.recipe.accumulate))
        print(epoch_line(epoch, epochs, stats, shown, clock), flush=True)
        curve.add(epoch, stats, accuracies, clock.seconds)
        save({**common, **run_state()}, run.files[CHECKPOINT])

    return after_epoch
