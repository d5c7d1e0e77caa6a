"""What a stage is asked for, as values: made by arg_parser.py from a command line, or by hand.

    UnlearnRequest.of(unlearn="RL", model_path="0model_SA_best.pth.tar", save_dir="run")

A field has the name and the default of its flag; ``--help`` says what each of them is. ``typed``
holds the names of what was asked for, which stands before every default.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Self, TypeVar

from datasets.forgetting import FORMS, ForgetSpec, spec_of, spec_of_reference
from datasets.splits import VALIDATION_SHARE
from runtime.provenance import calling, current_call
from unlearn import METHODS, flag_of, known_methods, method_key, needs_mask
from unlearn.base import Method
from utils import UserError

# The reference's flags of what is forgotten; --forget says the same and more.
OF_REFERENCE = ("num_indexes_to_replace", "class_to_replace", "indexes_to_replace")
# The hyper-parameters of all methods.
OF_METHODS = {field.name for kind in METHODS.values() for field in dataclasses.fields(kind)}
PATHS = ("save_dir", "checkpoint", "model_path", "mask_path", "init")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What every stage is asked: which data and model, where the files go, on which device."""

    dataset: str = "cifar10"
    data: str = "../data"
    input_size: int = 32
    fit: str | None = None
    augment: str | None = None
    num_classes: int | None = None
    workers: int = 4
    cache: str | None = None
    store: str = "auto"
    split_seed: int = 1
    val_fraction: float = VALIDATION_SHARE
    leave_out: str | None = None
    arch: str = "resnet18"
    imagenet_arch: bool = False
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    batch_size: int = 256
    tail: str = "spread"
    seed: int = 2
    save_dir: Path | None = None
    overwrite: bool = False
    resume: bool = False
    checkpoint: Path | None = None
    dry_run: bool = False
    device: str = "auto"
    gpu: int = 0
    threads: int | None = None
    deterministic: bool = False
    precision: str = "auto"
    typed: frozenset[str] = frozenset()

    @classmethod
    def of(cls, **values: object) -> Self:
        """A request of these values, all of which count as typed; paths may be text."""
        paths = {name: Path(values[name]) for name in PATHS if isinstance(values.get(name), str)}
        return cls(**values | paths, typed=frozenset(values))

    def replace(self, **values: object) -> Self:
        """The request with other values; what counts as typed stays."""
        return dataclasses.replace(self, **values)

    def values(self) -> dict[str, object]:
        """Every value by the name of its flag."""
        names = [field.name for field in dataclasses.fields(self) if field.name != "typed"]
        return {name: getattr(self, name) for name in names}

    def words(self) -> list[str]:
        """The words of a command line that asks for what was typed. A switch that is off has no
        word.
        """
        off = {
            field.name
            for field in dataclasses.fields(self)
            if field.default is False and field.name != "no_aug" and not getattr(self, field.name)
        }
        asked = self.typed - off
        return as_words(
            {
                name: value
                for name, value in self.values().items()
                if name in asked and value is not None
            }
        )

    def record(self) -> dict[str, object]:
        """Plain values for a checkpoint; ``typed`` lists those that were typed."""
        plain = {
            name: str(value) if isinstance(value, Path) else value
            for name, value in self.values().items()
        }
        return plain | {"typed": sorted(self.typed & plain.keys())}


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopRequest(Request):
    """What the training loop is asked besides the method: training and unlearning share it."""

    no_aug: bool = False
    select: str | None = None
    lr: float = 0.1
    epochs: int = 182
    optimizer: str = "sgd"
    momentum: float = 0.9
    label_smoothing: float = 0.0
    mixup: float = 0.0
    drop_path: float | str = "own"
    weight_decay: float = 5e-4
    decay: str = "all"
    init: Path | None = None
    schedule: str | None = None
    decreasing_lr: tuple[float, ...] | None = None
    final_lr: float = 0.0
    warmup: int = 0
    bn: str = "train"
    accumulate: int = 1
    clip_norm: float = 0.0
    compile: bool = False
    tensorboard: bool = False
    print_freq: int = 50


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainRequest(LoopRequest):
    """Step 1: train the original model."""

    script: ClassVar[str] = "main_train"

    preset: str = "paper"
    train_seed: int = 1
    save_every_steps: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class ForgetRequest(Request):
    """What is forgotten, of which model."""

    model_path: Path | None = None
    forget: str | None = None
    skip_val: bool = False
    num_indexes_to_replace: int | str | None = None
    class_to_replace: int | str = -1
    indexes_to_replace: str | None = None
    forget_copies: bool = False
    retain_forgotten: bool = False
    forget_seed: int | None = None
    retain_fraction: float = 1.0
    forget_batch_size: int | None = None

    def draw_seed(self) -> int:
        """The seed that draws who is forgotten."""
        return self.seed if self.forget_seed is None else self.forget_seed

    def forget_spec(self) -> ForgetSpec:
        """What is asked to be forgotten, by --forget or by the reference's three flags.

        Raises:
            UserError: nothing is, or two flags ask for it.
        """
        typed = [flag for flag in OF_REFERENCE if flag in self.typed]
        if self.forget is not None and typed:
            raise UserError(
                f"--forget {self.forget[:60]} says what is forgotten; drop it, or"
                f" {' and '.join('--' + flag for flag in typed)}"
            )
        if self.indexes_to_replace is not None and set(typed) - {"indexes_to_replace"}:
            raise UserError(
                "--indexes_to_replace names the images; drop --num_indexes_to_replace and"
                " --class_to_replace, or drop it"
            )
        if self.forget is not None:
            return spec_of(self.forget)
        spec = spec_of_reference(
            self.num_indexes_to_replace, self.class_to_replace, self.indexes_to_replace
        )
        if spec is None:
            raise UserError(f"nothing to forget: give --forget as one of {FORMS}")
        return spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskRequest(ForgetRequest):
    """Step 2: masks of a forget set, or how far two mask files agree (``compare``)."""

    script: ClassVar[str] = "generate_mask"

    score: str = "saliency"
    layers: tuple[str, ...] | None = None
    per_tensor: bool = False
    compare: tuple[str, str] | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class UnlearnRequest(ForgetRequest, LoopRequest):
    """Step 3: run a method, with a mask or without one.

    ``hyperparameters`` holds the values of the method's own fields that no field here has: those
    that were typed, or all of them once :func:`stages.settings.settle` has settled them.
    """

    unlearn: str = "retrain"
    script: str = "main_forget"
    preset: str = "paper"
    unlearn_lr: float = 0.01
    unlearn_epochs: int = 10
    run: str | None = None
    mask_path: Path | None = None
    mask_ratio: float | None = None
    mia_members: str = "balanced"
    wants_mask: bool = False
    hyperparameters: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, **values: object) -> Self:
        """A request of these values, a method's own fields among them; all count as typed.

        ``unlearn`` is a method's name or label in any case, such as ``salun``.
        """
        typed = frozenset(values)
        if "unlearn" in values:
            key = method_key(name := values["unlearn"])
            if key is None:
                raise UserError(f"{name!r} is no method; known are {', '.join(known_methods())}")
            values |= {"unlearn": key, "wants_mask": needs_mask(name)}
        known = {field.name for field in dataclasses.fields(cls)}
        own = {name: values.pop(name) for name in sorted(values.keys() - known)}
        if unknown := sorted(own.keys() - OF_METHODS):
            raise UserError(f"no method reads {', '.join(unknown)}")
        return super().of(**values, hyperparameters=own).replace(typed=typed)

    def settled(self, values: Mapping[str, object]) -> Self:
        """The request with these values, each a field here or one of the method's own."""
        known = {field.name for field in dataclasses.fields(self)}
        shared = {name: value for name, value in values.items() if name in known}
        own = {name: value for name, value in values.items() if name not in known}
        return self.replace(**shared, hyperparameters={**self.hyperparameters, **own})

    def check_mask_wanted(self) -> None:
        """Refuse a method's name of runs under a mask where there is none."""
        if self.wants_mask and self.mask_path is None:
            raise UserError(
                f"--unlearn {METHODS[self.unlearn].masked_label} is {self.unlearn} under a mask;"
                " make one with generate_mask.py and give it by --mask_path"
            )

    def values(self) -> dict[str, object]:
        """Every value by the name of its flag, the method's own among them."""
        values = super().values()
        for name in ("script", "wants_mask", "hyperparameters"):
            del values[name]
        return values | self.hyperparameters

    def method(self) -> Method:
        """The method with the values in force of its fields."""
        kind, values = METHODS[self.unlearn], self.values()
        return kind(**{field.name: values[field.name] for field in dataclasses.fields(kind)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class AuditRequest:
    """What evaluate.py is asked: saved models, what they are compared with, and how far."""

    script: ClassVar[str] = "evaluate"

    models: tuple[str, ...]
    retrain: tuple[str, ...] = ()
    reference: str | None = None
    original: Path | None = None
    arch: str | None = None
    suite: str = "basic"
    save_dir: Path | None = None
    mia_members: str = "balanced"
    data: str | None = None
    cache: str | None = None
    store: str = "auto"
    batch_size: int = 256
    relearn_steps: int = 16
    relearn_lr: float = 0.01
    relearn_seeds: int = 3
    shadows: int = 16
    device: str = "auto"
    gpu: int = 0
    threads: int | None = None
    overwrite: bool = False
    resume: bool = False

    def words(self) -> list[str]:
        """The words of a command line that ask for what differs from the defaults."""
        values = vars(self).copy()
        lists = [
            word
            for name in ("models", "retrain")
            if values.pop(name)
            for word in (flag_of(name), *getattr(self, name))
        ]
        plain = type(self)(models=())
        asked = {name: value for name, value in values.items() if value != getattr(plain, name)}
        return lists + as_words(asked)


AnyRequest = TypeVar("AnyRequest", bound=Request | AuditRequest)


def recording(stage: Callable[[AnyRequest], object]) -> Callable[[AnyRequest], object]:
    """A stage whose results record the command of the running script or, where a program of one's
    own called it, the words that ask for the same.
    """

    @functools.wraps(stage)
    def recorded(request: AnyRequest) -> object:
        if current_call.get() is not None:
            return stage(request)
        with calling(f"{request.script}.py", request.words()):
            return stage(request)

    return recorded


def as_words(values: Mapping[str, object]) -> list[str]:
    """The words of a command line that give flags these values, to print."""
    words = []
    for name, value in values.items():
        if name == "no_aug":
            words.append("--no-aug" if value else "--aug")
        elif isinstance(value, bool):
            words.append(flag_of(name) if value else flag_of(name).replace("--", "--no-", 1))
        else:
            text = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            words.append(f"{flag_of(name)}={text}")
    return words
