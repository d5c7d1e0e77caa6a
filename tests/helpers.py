"""What several test modules share: small data, a small network, scripts called in this process."""

import copy
import dataclasses
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, vmap

import engine
import main_forget
import sweep
from arg_parser import evaluation_parser, train_request, unlearn_request
from datasets import ImageSet
from datasets.loaders import Data
from datasets.splits import choose_forget, make_split
from engine import Loop, Trainer, Updater
from evaluate import SUITES
from masks.gate import SaliencyGate
from models.normalize import Normalize
from recipe import Recipe
from report import make_parser as make_report_parser
from runtime.clock import Stopwatch
from runtime.files import save
from stages.settings import settle
from sweep import sweep_parser
from sweeping.expansion import expand
from sweeping.plan import read_plan
from sweeping.runs import (
    read_record,
)
from unlearn import METHODS
from unlearn.base import Iterative

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")


CLASSES = 4


class TinyNet(nn.Module):
    """One convolution, BatchNorm, a linear layer; (n, 3, 8, 8) in [0, 1] to (n, 4)."""

    def __init__(self):
        super().__init__()
        self.normalize = Normalize()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6 * 4, CLASSES)

    def forward(self, images):
        x = torch.relu(self.bn(self.conv(self.normalize(images))))
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))


def make_image_set(train=160, test=60, side=8, seed=0, crop=1, flip=True):
    """Random uint8 images whose mean brightness tells their class."""
    rng = np.random.default_rng(seed)

    def half(count):
        labels = np.arange(count) % CLASSES
        images = rng.integers(0, 120, (count, side, side, 3)) + 40 * labels[:, None, None, None]
        return images.clip(0, 255).astype(np.uint8), labels.astype(np.int64)

    (x_train, y_train), (x_test, y_test) = half(train), half(test)
    names = tuple("abcd")
    return ImageSet(
        "tiny", x_train, y_train, x_test, y_test, names, (0.4,) * 3, (0.2,) * 3, crop, flip
    )


def make_data(
    image_set=None, count=16, batch_size=32, seed=3, class_to_forget=-1, augment=True, **batches
):
    """A Data with ``count`` forgotten images; ``batches`` are further arguments of Data."""
    image_set = image_set or make_image_set()
    split = make_split(image_set.y_train, 1)
    chosen = choose_forget(
        split,
        image_set.y_train,
        count=count,
        classes=() if class_to_forget == -1 else (class_to_forget,),
        forget_seed=1,
    )
    return Data(
        image_set,
        split,
        chosen,
        device=CPU,
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        **batches,
    )


def make_model(seed=0):
    """A TinyNet with seeded weights and BatchNorm statistics that are not the initial ones."""
    torch.manual_seed(seed)
    model = TinyNet()
    model.construct = TinyNet
    model.train()
    with torch.no_grad():
        model(torch.rand(64, 3, 8, 8))
    return model.to(memory_format=torch.channels_last)


SETUP = ["--dataset", "digits", "--arch", "resnet20s", "--device", "cpu", "--batch_size", "64"]


EPOCHS = ["--unlearn_epochs", "2"]


def call(main, *words):
    """Run a script's main in this process; every word becomes text."""
    return main([str(word) for word in words])


def forget(original, folder, *words, main=main_forget.main, setup=SETUP):
    return call(
        main,
        *setup,
        "--model_path",
        original,
        "--save_dir",
        folder,
        "--num_indexes_to_replace",
        130,
        *words,
    )


def weights(file):
    return torch.load(file, weights_only=True)["state_dict"]


def result(folder, name):
    return json.loads((folder / f"{name}result.json").read_text())


def refused(capsys, code, *said):
    """Exit code 2 and exactly one line on standard error that says all of ``said``."""
    lines = [
        line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning:")
    ]
    assert code == 2
    assert len(lines) == 1, lines
    for words in said:
        assert str(words) in lines[0]


def cut_short(monkeypatch, epochs):
    """Make the run end as if killed after so many saved epochs."""

    saved = []

    def save_and_count(state, path):
        save(state, path)
        saved.append(path)
        if "checkpoint" in path.name and sum("checkpoint" in p.name for p in saved) == epochs:
            raise KeyboardInterrupt

    patch_stages(monkeypatch, "save", save_and_count)


def spoilt(original, path, change):
    content = torch.load(original, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def per_sample_gradients(model, images, labels):
    """(n, P) gradients of each sample's loss in eval mode, by torch.func, parameters in order."""
    model.eval()
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, image, label):
        return F.cross_entropy(functional_call(model, parameters, image[None]), label[None])

    gradients = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    return torch.cat([gradients[name].flatten(1) for name in parameters], 1)


def whole(loader):
    images, labels = zip(*loader, strict=True)
    return torch.cat(images), torch.cat(labels)


def flatten(named):
    return np.concatenate([value.reshape(-1).numpy() for value in named.values()])


def random_mask(model, density=0.5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(p.shape, generator=g) < density for name, p in model.named_parameters()
    }


def run(method, model, data, mask=None, *, momentum=0.9, schedule="constant", **loop):
    """A method from start to end, with its own optimizer, weight decay and BatchNorm mode."""
    epochs = getattr(method, "unlearn_epochs", 0)
    recipe = Recipe(
        momentum=momentum, schedule=schedule, milestones=(epochs / 2, epochs * 136 / 182)
    )
    engine.run(model, method, data, recipe, mask, **loop)
    return model


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def first_batch(loader):
    return next(iter(copy.copy(loader)))


def first_step(method, data, model):
    return next(method.losses(model, data, 0))


def train_epoch(model, steps, optimizer, scheduler=None, **options):
    """One epoch of the loop; ``options`` are those of Updater, Loop and engine.train_epoch."""
    of_loop = {field.name for field in dataclasses.fields(Loop)}
    of_epoch = ("total", "forget_total", "limit", "title", "begun")
    loop = {name: options.pop(name) for name in [*options] if name in of_loop}
    epoch = {name: options.pop(name) for name in [*options] if name in of_epoch}
    updater = Updater(model, optimizer, scheduler, **options)
    return engine.train_epoch(steps, updater, Loop(**loop), **epoch)


def run_part(method, model, data, mask=None, state=None, until=None):
    """The epochs up to ``until`` from the start or from ``state``; returns the state as it comes
    back from a file.
    """
    gate = SaliencyGate(model, mask) if mask else None
    method.prepare(model, data, mask)
    if gate:
        gate.restore()
    trainer = Trainer(model, method, data, Recipe(schedule="cosine"), Stopwatch(CPU), gate)
    if state:
        trainer.restore(state)
    trainer.fit(lambda epoch, stats: None, until=until)
    file = io.BytesIO()
    torch.save(trainer.state(method.unlearn_epochs if until is None else until), file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def check_resume(make, mask=None, **data):
    """A run that stops after its first epoch and goes on in new objects ends bit for bit where an
    uninterrupted one does.
    """
    straight, resumed = make_model(), make_model()
    run_part(make(), straight, make_data(**data), mask)
    state = run_part(make(), make_model(), make_data(**data), mask, until=1)
    assert not same(straight, make_model())
    run_part(make(), resumed, make_data(**data), mask, state)
    assert same(straight, resumed)


def watch(method, look):
    """``method`` with ``look(epoch)`` called after each of its updates, projection and gate
    included.
    """
    losses = method.losses

    def watched(model, data, epoch):
        for step in losses(model, data, epoch):
            yield step
            look(epoch)

    method.losses = watched
    return method


def small(name):
    """A method for two epochs; SSD's default threshold chooses nothing here."""
    known = {field.name for field in dataclasses.fields(METHODS[name])}
    options = {
        "unlearn_epochs": 2,
        "unlearn_steps": 0,
        "unlearn_lr": 0.01,
        "pull": 0.1,
        "noise_batches": 4,
    }
    return METHODS[name](**{key: value for key, value in options.items() if key in known})


ITERATIVE = [name for name, method in METHODS.items() if issubclass(method, Iterative)]


ORIGINAL = {"model_path": "{original}/0model_SA_best.pth.tar"}


SMALL = {
    "dataset": "digits",
    "arch": "resnet20s",
    "device": "cpu",
    "num_indexes_to_replace": 130,
    "forget_seed": 2,
}


def content(tmp_path, **changes):
    """A plan with every kind of stage."""
    methods = [{"unlearn": "FT", "unlearn_lr": 0.1}, {"unlearn": "GA"}]
    stages = {
        "original": {"script": "main_train", "flags": {"epochs": 1}},
        "masks": {"script": "generate_mask", "flags": ORIGINAL},
        "retrain": {"script": "main_forget", "flags": {"unlearn": "retrain", "epochs": 1}},
        "methods": {"script": "main_forget", "flags": ORIGINAL, "list": methods},
        "salun": {
            "script": "main_random",
            "flags": {**ORIGINAL, "unlearn": "RL", "mask_path": "{masks}/with_0.5.pt"},
        },
        "evaluation": {
            "script": "evaluate",
            "flags": {
                "models": ["{methods}/*checkpoint.pth.tar"],
                "retrain": "{retrain}/retraincheckpoint.pth.tar",
            },
        },
        "report": {"script": "report", "flags": {"dirs": ["{retrain}", "{methods}", "{salun}"]}},
    }
    return {
        "folder": str(tmp_path / "runs"),
        "seeds": [2, 3, 4],
        "base": SMALL,
        "stages": stages,
    } | changes


def tiny(tmp_path, **changes):
    """A plan of two Retrain runs of an epoch and a report, on disk."""
    stages = {"retrain": {"script": "main_forget", "flags": {"unlearn": "retrain", "epochs": 1}}}
    stages["report"] = {"script": "report", "flags": {"dirs": "{retrain}"}}
    (tmp_path / "plan.json").write_text(
        json.dumps(content(tmp_path, seeds=[2, 3], stages=stages) | changes)
    )
    return tmp_path / "plan.json"


def starts(plan):
    return {
        run.name: len(read_record(read_plan(plan).folder / run.name).starts)
        for run in expand(read_plan(plan), sweep.check)
    }


def finished(plan, capsys, *words):
    assert sweep.main([str(plan), *words]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "RESULT sweep=" in out.splitlines()[-1]
    assert {*starts(plan).values()} == {1}
    return out


def patch_stages(monkeypatch, name, value):
    """Put ``value`` in the place of ``name`` in every module of stages that has it."""
    modules = [module for title, module in sys.modules.items() if title.startswith("stages.")]
    users = [module for module in modules if hasattr(module, name)]
    assert users
    for module in users:
        monkeypatch.setattr(module, name, value)


def settled(*words, arguments=None):
    """Every value in force of a command line by its flag, and what came from the original."""
    request = unlearn_request([str(word) for word in words])
    request, taken = settle(request, arguments)
    return SimpleNamespace(**request.values()), taken


# ------------------------------------------------------------------------------------------ metrics


def within_chance(metric, times=1.0):
    """Whether a metric lies where chance puts it, or within so many times that reach."""
    low, high = metric.chance
    return abs(metric.value - 0.5) <= times * (high - low) / 2


def flat(metrics):
    """Metrics as one dictionary of numbers, for pytest.approx."""
    found = {name: metric.value for name, metric in metrics.items()}
    for name, metric in metrics.items():
        for kind in ("interval", "chance"):
            for end, number in zip(("low", "high"), getattr(metric, kind) or (), strict=False):
                found[f"{name} {kind} {end}"] = number
    return found


def parse_command(script, *words):
    """A command of a page or a recipe through the parser of its script."""
    assert (ROOT / script).is_file()
    if script == "evaluate.py":
        evaluation_parser("", SUITES).parse_args(words)
    elif script == "sweep.py":
        assert (ROOT / sweep_parser().parse_args(words).plan).is_file()
    elif words[-2:] == ("--published", "list"):  # prints and ends the program
        with pytest.raises(SystemExit, match="0"):
            make_report_parser().parse_args(words)
    elif script == "report.py":
        assert make_report_parser().parse_args(words).dirs
    elif script == "main_train.py":
        train_request(list(words))
    elif "/" not in script:
        unlearn_request(list(words))
