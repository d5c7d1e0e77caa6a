"""Step 3: unlearn, evaluate, write."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from arg_parser import check_mask_wanted
from datasets.splits import (
    split_record,
)
from engine import EpochStats, UnfitState, check_batch_norm, run
from evaluation.membership import same_draws
from runtime import distributed
from runtime.clock import Stopwatch
from runtime.devices import pick_device, pick_precision
from runtime.files import hash_arrays, load, lock, reading, save
from stages.checkpoints import (
    RESTART,
    Original,
    adopt,
    adopt_tail,
    plain_arguments,
    read_original,
    read_state,
)
from stages.mask import LoadedMask, mask_file, own_mask
from stages.records import recorded_recipe
from stages.results import (
    MEANING,
    MONITORED,
    PARTIAL_RETRAIN,
    Curve,
    Monitor,
    epoch_line,
    print_result,
    recorded,
    report,
)
from stages.run_folder import (
    PARTS,
    folder_of,
    name_unread,
    refuse_overwriting,
    settle_resume,
    stem_of,
)
from stages.settings import make_method, recipe_of_method, recipe_of_original
from stages.task import Task, check_request, open_task
from unlearn import METHODS, label_of
from unlearn.base import Iterative, Method
from utils import UserError, warn

OF_OTHER_STEPS = ("score", "layers", "compare", "per_tensor", "checkpoint", "save_every_steps")


def unlearn(args: argparse.Namespace, script: str) -> None:
    """Step 3: unlearn, evaluate, write the checkpoint, the reference's dictionary and
    result.json.
    """
    name_unread(args, script, OF_OTHER_STEPS)
    check_mask_wanted(args)
    if args.model_path is None and (
        METHODS[args.unlearn].needs_original or args.mask_path is not None
    ):
        why = (
            "a mask keeps the original's weights"
            if args.mask_path is not None
            else f"{args.unlearn} starts from it"
        )
        raise UserError(f"--model_path is missing: {why}; give main_train's checkpoint")
    mask_path = mask_file(args)
    mask_content = None if mask_path is None else load(mask_path, "--mask_path")
    original = None if args.model_path is None else read_original(args.model_path)
    if original is not None:
        adopt(args, original)
    method = make_method(args, original)
    original_recipe = recipe_of_original(original)
    check_request(args)
    folder, stem = folder_of(args), stem_of(args, args.run)
    files = {part: folder / f"{stem}{part}" for part in PARTS}
    settle_resume(args, list(files.values()), runs=True)
    refuse_overwriting(args, list(files.values()), runs=True)
    adopt_tail(args, files["checkpoint.pth.tar"])
    if args.resume and not args.dry_run:
        read_state(files["checkpoint.pth.tar"], identity_of_flags(args, method, original))
    if args.unlearn == "retrain" and args.retain_fraction < 1:
        warn(PARTIAL_RETRAIN)
    task = open_task(args, original, method)
    mask = None if mask_path is None else own_mask(mask_content, mask_path, task)
    if script == "main_random" and mask is None:
        print(f"no --mask_path: {args.unlearn} runs unmasked")
    label = label_of(type(method), (mask.score or "saliency") if mask else None)
    print(
        f"{label}: {method}"
        + (f", mask {mask.path} keeps {100 * mask.density:.1f} % trainable" if mask else "")
    )
    if isinstance(method, Iterative) and task.recipe.forget_batch_size not in (
        None,
        args.batch_size,
    ):
        print(
            f"batches of {args.forget_batch_size} forget images and of {args.batch_size} retain"
            " images"
        )
    one_image = isinstance(method, Iterative) and check_batch_norm(task.model, method, task.data)
    if task.recipe.select == "best" and not task.data.evaluation["val"].num_samples:
        print("no validation images: --select last")
        task = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, select="last"))
    if args.dry_run:
        return
    recipe = recorded_recipe(method, task.recipe)
    if args.retain_fraction < 1:
        recipe["retain_fraction"] = args.retain_fraction  # a row of its own in the report
    with lock(folder, stem, files.values()):
        refuse_overwriting(
            args, list(files.values()), runs=True
        )  # another run may have finished since
        clock, extra = run_method(args, method, label, task, mask, files, one_image=one_image)
        if args.resume and distributed.on_main(files["eval_result.pth.tar"].is_file):
            weights, tested_on = hash_arrays(task.model.state_dict()), task.dataset.test_sha256()
            done = recorded(
                files["result.json"], "unlearned_sha256", weights, tuple(MEANING), tested_on
            )
            if done and same_draws(done, task.attack(args)[1]):
                print(f"finished already; {files['result.json']} says")
                print_result(done | {"label": label}, files["result.json"])
                return
        report(
            args, script, method, label, task, mask, recipe, original_recipe, clock, extra, files
        )


def identity_of_flags(args: argparse.Namespace, method: Method, original: Original | None) -> dict:
    """What of a run's identity is known before data are read."""
    recipe = recipe_of_method(
        args, method, pick_precision(args.precision, pick_device(args.device, args.gpu))
    )
    return {
        "method": method.label,
        **dataclasses.asdict(method),
        **recorded_recipe(method, recipe),
        "seed": args.seed,
        "original": original.sha256 if original else "",
        "arch": args.arch,
        "imagenet_arch": args.imagenet_arch,
        "split_seed": args.split_seed,
        "retain_fraction": args.retain_fraction,
    }


def run_method(
    args: argparse.Namespace,
    method: Method,
    label: str,
    task: Task,
    mask: LoadedMask | None,
    files: dict[str, Path],
    *,
    one_image: bool,
) -> tuple[Stopwatch, dict]:
    """Run a method to its end, saving as it goes; returns its time and what it reports
    of itself.
    """
    model, data, checkpoint = task.model, task.data, files["checkpoint.pth.tar"]
    identity = identity_of_flags(args, method, task.original) | {
        "forget": task.chosen.sha256(),
        "data_sha256": task.data_sha256,
        "mask": mask.sha256 if mask else "",
        "retain": task.retain_sha256(),
    }
    trained_on = (
        task.retain_indices() if not method.needs_original and not mask else task.split.train
    )
    common = {
        "label": label,
        "identity": identity,
        "arguments": plain_arguments(args),
        "split": split_record(task.dataset.name, task.data_sha256, task.split, trained_on),
        "forget": torch.from_numpy(task.chosen.forget),
        "retain": torch.from_numpy(task.chosen.retain),
        "mask": mask and mask.identity(),
    }
    state = read_state(checkpoint, identity) if args.resume else None
    if state is not None and "extra" in state:
        with reading(checkpoint, "--resume: checkpoint", RESTART):
            model.load_state_dict(state["state_dict"])
            return Stopwatch(task.device, state["seconds"], state.get("stopped", 0.0)), dict(
                state["extra"]
            )

    def remove_earlier() -> None:
        """A result must never stand beside the checkpoint of another run."""
        for part in () if args.resume else ("eval_result.pth.tar", "result.json", "curve.jsonl"):
            files[part].unlink(missing_ok=True)

    clock, monitor = (
        Stopwatch(task.device),
        Monitor(model, data) if isinstance(method, Iterative) else None,
    )
    curve = (
        Curve(files["curve.jsonl"], state["epoch"] if state else 0, args.tensorboard)
        if monitor
        else None
    )

    def after_epoch(epoch: int, stats: EpochStats, run_state: Callable[[], dict]) -> None:
        seen = monitor.accuracies()
        shown = (
            "".join(f"{name} {value:.1f}  " for name, value in seen.items())
            + f"(up to {MONITORED} each)  "
        )
        print(epoch_line(epoch, method.unlearn_epochs, stats, shown, clock), flush=True)
        curve.add(epoch, stats, seen, clock.seconds)
        save({**common, **run_state()}, checkpoint)

    try:
        extra, run_state = run(
            model,
            method,
            data,
            task.recipe,
            mask and mask.mask,
            clock=clock,
            state=state,
            before_epochs=remove_earlier,
            after_epoch=after_epoch,
            compile=args.compile,
            print_freq=args.print_freq,
            one_image=one_image,
        )
    except UnfitState as error:
        raise UserError(
            f"--resume: checkpoint {checkpoint} is damaged ({str(error)[:100]}); {RESTART}"
        ) from None
    done = {
        "state_dict": model.state_dict(),
        "method": {},
        "seconds": clock.seconds,
        "stopped": clock.stopped,
        "extra": extra,
    }
    save({**common, "epoch": 0, "seconds": 0.0, **run_state, **done}, checkpoint)
    return clock, extra
