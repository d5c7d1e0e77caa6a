"""Step 1: train the original model."""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import nn

from datasets.loaders import Data
from datasets.splits import (
    split_record,
)
from engine import EpochStats, Trainer, check_batch_norm, predict
from evaluation.accuracy import accuracy
from evaluation.verdicts import (
    at_chance,
    say_at_chance,
    standing,
)
from runtime.clock import Stopwatch, warn_of_standstill
from runtime.devices import with_threads
from runtime.files import hash_arrays, lock, reading, save, save_json
from runtime.provenance import provenance
from stages.checkpoints import RESTART, adopt_tail, plain_arguments, read_original, read_state
from stages.results import Curve, epoch_line, recorded, result_line, to_numpy
from stages.run_folder import folder_of, name_unread, refuse_overwriting, settle_resume
from stages.settings import check_final_lr, recipe_of
from stages.task import load_data, new_model, set_up, split_of
from unlearn.base import Iterative, cross_entropy_steps, option
from utils import UserError, stream, warn

# Flags that a step would ignore although they ask for something: of training, and of unlearning.
OF_LATER_STEPS = (
    "model_path",
    "unlearn",
    "num_indexes_to_replace",
    "class_to_replace",
    "indexes_to_replace",
    "forget_seed",
    "retain_fraction",
    "mask_path",
    "mask_ratio",
    "score",
    "layers",
    "compare",
    "per_tensor",
    "preset",
    "forget_batch_size",
    "run",
)


@dataclasses.dataclass
class Train(Iterative):
    """Training on the whole training split, as a method of the shared loop."""

    splits = ("train",)
    needs_original = False

    label_smoothing: float = option(
        0.0, "share of the target that is spread over all classes, 0 to 1"
    )

    def losses(self, model: nn.Module, data: Data, epoch: int):  # noqa: ANN201
        return cross_entropy_steps(model, data.train, self.label_smoothing)


def train(args: argparse.Namespace) -> None:
    """Step 1: train the original model; the best epoch by un-augmented validation accuracy is kept
    beside the last.
    """
    name_unread(args, "main_train", OF_LATER_STEPS)
    if not args.epochs:
        raise UserError("--epochs 0 trains nothing; give at least 1")
    check_final_lr(args, args.lr)
    device, precision = set_up(args)
    folder = folder_of(args)
    files = {
        name: folder / name
        for name in (
            "0checkpoint.pth.tar",
            "0model_SA_best.pth.tar",
            "train_result.json",
            "0curve.jsonl",
        )
    }
    resumed = settle_resume(args, list(files.values()))
    refuse_overwriting(args, list(files.values()))
    best_so_far = resumed.with_name("0model_SA_best.pth.tar")
    adopt_tail(args, resumed)
    args.select = args.select or "best"
    hyperparameters = {
        name: getattr(args, name)
        for name in ("epochs", "lr", "optimizer", "weight_decay", "label_smoothing", "bn")
    }
    recipe = recipe_of(args, args.epochs, from_scratch=True, precision=precision)
    identity = {
        "arch": args.arch,
        "imagenet_arch": args.imagenet_arch,
        "dataset": args.dataset,
        "split_seed": args.split_seed,
        "train_seed": args.train_seed,
        **hyperparameters,
        **recipe.record(),
    }
    if args.resume:
        read_state(resumed, identity)
    dataset = load_data(args)
    split = split_of(args, dataset.y_train)
    seed = stream(args.train_seed, "train")
    data = Data(dataset, split, None, device=device, seed=seed, **recipe.batches())
    record = split_record(dataset.name, dataset.sha256(), split, split.train)
    method = Train(
        args.epochs, args.lr, args.optimizer, args.weight_decay, args.bn, args.label_smoothing
    )
    identity |= {"data_sha256": record["data_sha256"], "train": hash_arrays({"train": split.train})}
    torch.manual_seed(stream(seed, "init"))
    model = new_model(args, dataset, device)
    trainer = Trainer(model, method, data, recipe, Stopwatch(device))
    sizes = f"{len(split.train)} images, {len(split.val)} validation"
    print(f"train {args.arch} on {dataset.name}: {sizes}, {precision} on {with_threads(device)}")
    one_image = check_batch_norm(model, method, data)
    if recipe.select == "best" and not len(split.val):
        print("no validation images: --select last")
        recipe = dataclasses.replace(recipe, select="last")
    if args.dry_run:
        return
    with lock(folder, "0", files.values()):
        refuse_overwriting(args, list(files.values()))  # another run may have finished since
        best = -1.0
        if args.resume:
            state = read_state(resumed, identity)
            with reading(resumed, "--resume: checkpoint", RESTART):
                trainer.restore(state)
                best = float(state["best_sa"])
            if trainer.start_epoch:
                kept = read_state(best_so_far, identity)
                if best_so_far != files["0model_SA_best.pth.tar"]:
                    save(kept, files["0model_SA_best.pth.tar"])
            if resumed == files["0model_SA_best.pth.tar"]:
                save(
                    state, files["0checkpoint.pth.tar"]
                )  # also where no epoch is left that would write it
            if trainer.start_epoch == args.epochs:
                best_sha256 = hash_arrays(kept["state_dict"])
                result = (
                    files["train_result.json"],
                    "original_sha256",
                    best_sha256,
                    ("train", "VA", "TA"),
                )
                if done := recorded(*result, dataset.test_sha256()):
                    print(f"finished already; {files['train_result.json']} says")
                    print(result_line("original", done["metrics"], done["RTE"]["total"]))
                    return
        else:  # a result must never stand beside the checkpoint of another run
            files["train_result.json"].unlink(missing_ok=True)
        curve = Curve(files["0curve.jsonl"], trainer.start_epoch, args.tensorboard)
        arguments = plain_arguments(args) | {"select": recipe.select}
        common = {
            "identity": identity,
            "split": record,
            "arguments": arguments,
            "select": recipe.select,
        }

        def keep(epoch: int, meter: dict) -> None:
            state = {**trainer.state(epoch, meter), "best_sa": best, **common}
            save(state, files["0checkpoint.pth.tar"])

        def after_epoch(epoch: int, stats: EpochStats) -> None:
            nonlocal best
            val = accuracy(*to_numpy(predict(model, data.evaluation["val"])))
            print(
                epoch_line(
                    epoch,
                    args.epochs,
                    stats,
                    f"train {stats.accuracy:.2f}  val {val:.2f}  ",
                    trainer.clock,
                ),
                flush=True,
            )
            curve.add(epoch, stats, {"val": val}, trainer.clock.seconds)
            is_best, best = recipe.select == "last" or val > best, max(val, best)
            state = {**trainer.state(epoch + 1), "best_sa": best, **common}
            # The best model first: a kill between the two writes repeats this epoch and writes both
            # again.
            if is_best:
                save(state, files["0model_SA_best.pth.tar"])
            save(state, files["0checkpoint.pth.tar"])

        trainer.fit(
            after_epoch,
            compile=args.compile,
            print_freq=args.print_freq,
            keep=keep,
            save_every=args.save_every_steps,
            one_image=one_image,
        )
        metrics = train_report(
            args,
            model,
            data,
            record,
            hyperparameters,
            recipe.record(),
            precision,
            trainer.clock,
            files,
        )
    rule = (
        "the epoch with the best validation accuracy"
        if recipe.select == "best"
        else "the last epoch"
    )
    print(f"{files['0model_SA_best.pth.tar']} is {rule}")
    print(result_line("original", metrics, trainer.clock.seconds))


def train_report(
    args: argparse.Namespace,
    model: nn.Module,
    data: Data,
    record: dict,
    hyperparameters: dict,
    recipe: dict,
    precision: str,
    clock: Stopwatch,
    files: dict[str, Path],
) -> dict[str, float]:
    """Evaluate the best epoch's model and write train_result.json; returns its accuracies in
    percent.
    """
    kept = read_original(files["0model_SA_best.pth.tar"])
    model.load_state_dict(kept.state_dict)
    outputs = {name: to_numpy(predict(model, loader)) for name, loader in data.evaluation.items()}
    percent, trained = (
        {name: accuracy(*output) for name, output in outputs.items()},
        standing(*outputs["train"]),
    )
    metrics = {"train": percent["train"], "VA": percent["val"], "TA": percent["test"]}
    warnings = (
        [say_at_chance("the original", trained, "a training accuracy of")]
        if at_chance(trained)
        else []
    )
    for message in warnings:
        warn(message)
    warn_of_standstill(clock.stopped)
    result = {
        "schema": 1,
        "script": "main_train",
        "method": "original",
        "label": "Original",
        "metrics": metrics,
        "RTE": {"total": clock.seconds, "stopped": clock.stopped},
        "hyperparameters": hyperparameters,
        "recipe": recipe,
        "warnings": warnings,
        "data": {
            "dataset": record["dataset"],
            "arch": args.arch,
            "split_seed": args.split_seed,
            "data_sha256": record["data_sha256"],
            "test_sha256": data.dataset.test_sha256(),
            "train_sha256": hash_arrays({"train": record["train"]}),
            "sizes": {name: loader.num_samples for name, loader in data.evaluation.items()},
        },
        "provenance": {
            **provenance(data.device, precision, {"train_seed": args.train_seed}),
            "original_sha256": kept.sha256,
        },
    }
    save_json(result, files["train_result.json"])
    return metrics
