"""Step 1: train the original model."""

import dataclasses
from math import isnan
from pathlib import Path

import torch
from torch import nn

from datasets.loaders import Data
from datasets.splits import split_record
from engine import EpochStats, Trainer, check_batch_norm, is_finished, of_finished, predict
from evaluation.accuracy import accuracy
from evaluation.verdicts import at_chance, say_at_chance, standing
from models import begin
from recipe import Recipe
from runtime.clock import Stopwatch, warn_of_standstill
from runtime.devices import threads_of, with_threads
from runtime.files import hash_arrays, load, lock, reading, save, save_json
from runtime.provenance import provenance
from stages.checkpoints import RESTART, adopt_tail, read_original, read_state, say_threads
from stages.classifier import images_record
from stages.curves import Curve, epoch_line
from stages.dry_run import say_files, say_work
from stages.file_names import BEST, LAST, TRAIN_CURVE, TRAIN_RESULT
from stages.initial import give_initial, read_initial
from stages.requests import TrainRequest, recording
from stages.results import recorded, result_line, to_numpy
from stages.run_folder import name_unread, refuse_overwriting, settle_resume, with_folder
from stages.settings import check_final_lr, recipe_of, settle_training
from stages.task import load_data, new_model, set_up, split_of, store_of
from unlearn.base import Iterative, Steps, option
from unlearn.tools.mixup import training_steps
from utils import UserError, stream, warn


@dataclasses.dataclass
class Train(Iterative):
    """Training on the whole training split, as a method of the shared loop."""

    splits = ("train",)
    needs_original = False

    label_smoothing: float = option(0.0, "share of the target that is spread over all classes")
    mixup: float = option(0.0, "alpha of mixup")

    def losses(self, model: nn.Module, data: Data, epoch: int) -> Steps:
        return training_steps(model, data.train, self.label_smoothing, self.mixup)


@dataclasses.dataclass
class Training:
    """A training run on loaded data: what it saves as it goes, and the best accuracy so far."""

    request: TrainRequest
    files: dict[str, Path]
    source: Path
    identity: dict
    split_record: dict
    recipe: Recipe
    data: Data
    trainer: Trainer
    select: str
    best: float = -1.0

    def resume(self) -> None:
        """Go on from the checkpoint, and have both files of models in this folder."""
        state = read_state(self.source, self.identity)
        if state["epoch"] < self.request.epochs and is_finished(state):
            raise UserError(
                f"--resume: {self.source} is epoch {state['epoch']} of a run that has finished,"
                f" without the optimizer's state, and nothing goes on from it; {RESTART}"
            )
        with reading(self.source, "--resume: checkpoint", RESTART):
            self.trainer.restore(state)
            self.best = float(state["best_sa"])
        if state["epoch"] < self.request.epochs:
            say_threads(state, self.source, self.trainer.clock.device)
        beside = self.source.with_name(BEST)
        if self.trainer.start_epoch:
            kept = read_state(beside, self.identity)
            if beside != self.files[BEST]:
                save(kept, self.files[BEST])
        if self.source != self.files[LAST]:
            save(state, self.files[LAST])  # also where no epoch is left that would write it

    def finished(self) -> dict | None:
        """The result of a run that has nothing left to do; None where there is something."""
        if self.trainer.start_epoch < self.request.epochs:
            return None
        sha256 = read_original(self.files[BEST]).sha256
        metrics, tested_on = ("train", "VA", "TA"), self.data.dataset.test_sha256()
        return recorded(self.files[TRAIN_RESULT], "original_sha256", sha256, metrics, tested_on)

    def fit(self, one_image: bool) -> None:
        """All epochs that are left; each is validated, shown and saved."""
        request, files, trainer = self.request, self.files, self.trainer
        curve = Curve(files[TRAIN_CURVE], trainer.start_epoch, request.tensorboard)
        common = {
            "identity": self.identity,
            "split": self.split_record,
            "arguments": request.replace(select=self.select).record(),
            "select": self.select,
            "threads": threads_of(self.trainer.clock.device),
            **images_record(self.data.dataset),
        }

        def keep(epoch: int, meter: dict) -> None:
            save({**trainer.state(epoch, meter), "best_sa": self.best, **common}, files[LAST])

        def after_epoch(epoch: int, stats: EpochStats) -> None:
            val = accuracy(*to_numpy(predict(trainer.model, self.data.evaluation["val"])))
            shown = f"train {stats.accuracy:.2f}  " + ("" if isnan(val) else f"val {val:.2f}  ")
            print(epoch_line(epoch, request.epochs, stats, shown, trainer.clock), flush=True)
            curve.add(epoch, stats, {"val": val}, trainer.clock.seconds)
            is_best = self.select == "last" or val > self.best
            self.best = max(self.best, val)  # which is NaN without validation images
            state = {**trainer.state(epoch + 1), "best_sa": self.best, **common}
            # The best model first: a kill between the two writes repeats this epoch and writes both
            # again.
            if is_best:
                save(state, files[BEST])
            save(state, files[LAST])

        trainer.fit(
            after_epoch,
            compile=request.compile,
            print_freq=request.print_freq,
            keep=keep,
            save_every=request.save_every_steps,
            one_image=one_image,
        )

    def drop_state(self) -> int:
        """Leave in both files of models what is needed when no epoch is left; returns the epoch
        that is kept.
        """
        states = {name: load(self.files[name], "checkpoint") for name in (BEST, LAST)}
        for name, state in states.items():
            save(of_finished(state), self.files[name])
        return states[BEST]["epoch"]

    def words_of(self, epoch: int) -> str:
        """Which epoch the original is."""
        if epoch == self.request.epochs:
            return "the last epoch"
        images = len(self.data.split.val)
        return f"epoch {epoch} of {self.request.epochs}, the best on {images} validation images"

    def report(self) -> dict[str, float]:
        """Evaluate the selected model and write the result; returns its accuracies in percent."""
        data, clock, model = self.data, self.trainer.clock, self.trainer.model
        kept = read_original(self.files[BEST])
        model.load_state_dict(kept.state_dict)
        outputs = {
            name: to_numpy(predict(model, loader)) for name, loader in data.evaluation.items()
        }
        percent = {name: accuracy(*output) for name, output in outputs.items()}
        trained = standing(*outputs["train"])
        warnings = []
        if at_chance(trained):
            warnings = [say_at_chance("the original", trained, "a training accuracy of")]
        for message in warnings:
            warn(message)
        warn_of_standstill(clock.stopped)
        metrics = {"train": percent["train"], "VA": percent["val"], "TA": percent["test"]}
        result = {
            "schema": 1,
            "script": "main_train",
            "method": "original",
            "label": "Original",
            "metrics": metrics,
            "RTE": {"total": clock.seconds, "stopped": clock.stopped},
            "hyperparameters": hyperparameters(self.request),
            "recipe": self.recipe.record() | {"select": self.select},
            "preset": self.request.preset,
            "warnings": warnings,
            "data": self.data_record(),
            "provenance": {
                **provenance(
                    data.device, self.recipe.precision, {"train_seed": self.request.train_seed}
                ),
                "original_sha256": kept.sha256,
            },
        }
        save_json(result, self.files[TRAIN_RESULT])
        return metrics

    def data_record(self) -> dict:
        """The ``data`` entry of the result."""
        dataset, split = self.data.dataset, self.data.split
        return {
            "dataset": dataset.name,
            "arch": self.request.arch,
            "split_seed": self.request.split_seed,
            "data_sha256": self.split_record["data_sha256"],
            "test_sha256": dataset.test_sha256(),
            "train_sha256": hash_arrays({"train": split.train}),
            "sizes": {name: loader.num_samples for name, loader in self.data.evaluation.items()},
        }


def method_of(request: TrainRequest) -> Train:
    """The training that is asked for."""
    values = hyperparameters(request)
    epochs, lr = values.pop("epochs"), values.pop("lr")
    return Train(unlearn_epochs=epochs, unlearn_lr=lr, **values)


def hyperparameters(request: TrainRequest) -> dict[str, object]:
    """What is recorded of the run besides its recipe."""
    names = ("epochs", "lr", "optimizer", "weight_decay", "label_smoothing", "mixup", "bn")
    return {name: getattr(request, name) for name in names}


@recording
def train(request: TrainRequest) -> dict[str, float] | None:
    """Train the original model; the best epoch by un-augmented validation accuracy is kept beside
    the last.

    Returns:
        Accuracies in percent on train, val (VA) and test (TA); None for a dry run.
    """
    name_unread(request)
    if "seed" in request.typed:
        warn("main_train does not read --seed; what it reads is --train_seed")
    if not request.epochs:
        raise UserError("--epochs 0 trains nothing; give at least 1")
    request = settle_training(request)
    check_final_lr(request, request.lr)
    device, precision = set_up(request)
    request = with_folder(request)
    files = {name: request.save_dir / name for name in (LAST, BEST, TRAIN_RESULT, TRAIN_CURVE)}
    request, source = settle_resume(request, list(files.values()))
    refuse_overwriting(request, list(files.values()))
    request = adopt_tail(request, source)
    request = request.replace(select=request.select or "best")
    recipe = recipe_of(request, request.epochs, from_scratch=True, precision=precision)
    run, one_image = open_training(request, files, source, recipe, device)
    if request.dry_run:
        say_files(files.values())
        say_work(run.trainer.model, run.trainer.method, run.data, recipe)
        return None
    with lock(request.save_dir, "0", files.values()):
        refuse_overwriting(request, list(files.values()))  # another run may have finished since
        if request.resume:
            run.resume()
            if done := run.finished():
                print(f"finished already; {files[TRAIN_RESULT]} says")
                print(result_line("original", done["metrics"], done["RTE"]["total"]))
                return done["metrics"]
        else:  # a result must never stand beside the checkpoint of another run
            files[TRAIN_RESULT].unlink(missing_ok=True)
        run.fit(one_image)
        kept = run.drop_state()
        metrics = run.report()
    print(f"{files[BEST]} is {run.words_of(kept)}")
    print(result_line("original", metrics, run.trainer.clock.seconds))
    return metrics


def open_training(
    request: TrainRequest,
    files: dict[str, Path],
    source: Path,
    recipe: Recipe,
    device: torch.device,
) -> tuple[Training, bool]:
    """Data, model and trainer, and whether BatchNorm will meet batches of one image."""
    initial = read_initial(request)
    recipe = dataclasses.replace(recipe, init=initial.sha256 if initial else "")
    named = ("arch", "imagenet_arch", "dataset", "split_seed", "val_fraction", "train_seed")
    identity = {
        **{name: getattr(request, name) for name in named},
        **hyperparameters(request),
        **recipe.record(),
    }
    if request.resume:
        read_state(source, identity)  # refused before data are read
    dataset = load_data(request)
    split = split_of(request, dataset.y_train)
    seed = stream(request.train_seed, "train")
    store = store_of(request.store, dataset, device)
    data = Data(dataset, split, None, device=device, seed=seed, store=store, **recipe.batches())
    record = split_record(dataset.name, dataset.sha256(), split, split.train)
    identity["data_sha256"] = record["data_sha256"]
    identity["resized_crop"] = dataset.side is not None
    identity["train"] = hash_arrays({"train": split.train})
    torch.manual_seed(stream(seed, "init"))
    model = new_model(request, dataset, device)
    if initial:
        give_initial(model, initial, request.arch)
        begin(model)
    method = method_of(request)
    trainer = Trainer(model, method, data, recipe, Stopwatch(device))
    sizes = f"{len(split.train)} images, {len(split.val)} validation"
    where = f"{recipe.precision} on {with_threads(device)}"
    print(f"train {request.arch} on {dataset.name}: {sizes}, {where}")
    one_image = check_batch_norm(model, method, data)
    select = recipe.select
    if select == "best" and not len(split.val):
        print("no validation images: --select last")
        select = "last"
    run = Training(request, files, source, identity, record, recipe, data, trainer, select)
    return run, one_image
