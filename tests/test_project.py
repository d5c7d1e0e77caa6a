"""The project about itself: flags are read, the house rules hold in the source."""

import ast
import codecs
import dataclasses
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from arg_parser import (
    UNREAD,
    evaluation_parser,
    make_parser,
    train_request,
)
from stages.requests import AuditRequest, MaskRequest, TrainRequest, UnlearnRequest
from sweep import sweep_parser
from unlearn import METHODS
from utils import UserError

ROOT = Path(__file__).parent.parent
SOURCES = [
    path
    for path in ROOT.rglob("*.py")
    if not {".venv", "tests", "benchmarks"} & set(path.relative_to(ROOT).parts)
]
PACKAGES = [path for path in SOURCES if path.parent != ROOT]


def test_every_flag_of_evaluate_is_read():
    flags = {action.dest for action in evaluation_parser("", ())._actions} - {"help"}
    assert flags == {field.name for field in dataclasses.fields(AuditRequest)}
    files = ("stages/audit.py", "stages/audit_record.py")
    code = "".join((ROOT / file).read_text() for file in files)
    assert flags <= set(re.findall(r"request\.(\w+)", code))


def test_every_flag_of_a_sweep_is_read():
    flags = {action.dest for action in sweep_parser()._actions} - {"help"}
    assert flags <= set(re.findall(r"args\.(\w+)", (ROOT / "sweep.py").read_text()))


# -------------------------------------------------------------------------------------------- flags

REFERENCE_DEFAULTS = {
    "data": "../data",
    "dataset": "cifar10",
    "input_size": 32,
    "data_dir": "./tiny-imagenet-200",
    "num_workers": 4,
    "arch": "resnet18",
    "imagenet_arch": False,
    "seed": 2,
    "train_seed": 1,
    "gpu": 0,
    "workers": 4,
    "resume": False,
    "checkpoint": None,
    "save_dir": None,
    "model_path": None,
    "batch_size": 256,
    "lr": 0.1,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "epochs": 182,
    "warmup": 0,
    "print_freq": 50,
    "no_aug": False,
    "prune": "omp",
    "pruning_times": 1,
    "rate": 0.95,
    "prune_type": "rewind_lt",
    "random_prune": False,
    "rewind_epoch": 0,
    "rewind_pth": None,
    "unlearn": "retrain",
    "unlearn_lr": 0.01,
    "unlearn_epochs": 10,
    "num_indexes_to_replace": None,
    "class_to_replace": -1,
    "indexes_to_replace": None,
    "mask_path": None,
    # Derived: the reference's one value harms every other data set, run length or method.
    "num_classes": None,
    "decreasing_lr": None,
    "alpha": None,
    "no_l1_epochs": None,
}


def test_reference_flags_have_their_names_and_defaults():
    args = vars(make_parser("").parse_args([]))
    assert {name: args[name] for name in REFERENCE_DEFAULTS} == REFERENCE_DEFAULTS
    assert {"train_y_file", "val_y_file"} <= args.keys()


def test_every_method_field_is_a_flag_and_every_flag_is_read():
    flags = {action.dest for action in make_parser("")._actions}
    fields = {field.name for method in METHODS.values() for field in dataclasses.fields(method)}
    assert fields <= flags
    asked = {
        field.name
        for kind in (TrainRequest, MaskRequest, UnlearnRequest)
        for field in dataclasses.fields(kind)
    }
    stages = "".join(file.read_text() for file in ROOT.glob("stages/*.py"))
    read = {name for name in asked if re.search(rf"request\.{name}\b|\"{name}\"", stages)}
    assert asked - read == set()
    read |= fields | UNREAD.keys() | {"help", "config", "list_methods"}
    assert flags <= read


def test_flags_cannot_be_abbreviated_and_the_last_repetition_wins():
    with pytest.raises(UserError, match="--mask"):
        train_request(["--mask", "x.pt"])
    assert train_request(["--epochs", "3", "--epochs", "5"]).epochs == 5


def test_typed_flags_are_told_from_defaults():
    assert train_request(["--lr", "0.1", "--no-aug"]).typed == {"lr", "no_aug"}


# -------------------------------------------------------------------------------------- house rules


def lines_with(pattern, paths):
    return [
        f"{path.relative_to(ROOT)}: {line.strip()}"
        for path in paths
        for line in path.read_text().splitlines()
        if re.search(pattern, line)
    ]


def test_the_only_update_is_in_the_loop():
    assert [line.split(":")[0] for line in lines_with(r"optimizer\.step\(", SOURCES)] == [
        "training/loop.py"
    ]
    assert {line.split(":")[0] for line in lines_with(r"\.backward\(", SOURCES)} == {
        "training/loop.py",
        "masks/scores.py",
    }


def test_argparse_ends_in_the_files_of_flags():
    """A namespace goes no further: stages take values, see stages/requests.py."""
    parsers = {"arg_parser.py", "parsers.py", "flags.py", "flag_types.py", "report.py", "sweep.py"}
    users = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if "argparse" in names or getattr(node, "attr", "") == "Namespace":
                users.add(str(path.relative_to(ROOT)))
    assert users <= parsers
    assert not lines_with(r"\bargs\b", PACKAGES)


def functions():
    """(where, definition) of every function of the product."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                yield f"{path.relative_to(ROOT)} {node.name}", node


def depth(node, level=0):
    """How deep blocks stand in each other; an ``elif`` is no deeper than its ``if``."""
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            continue
        chained = isinstance(node, ast.If) and [child] == node.orelse and isinstance(child, ast.If)
        block = isinstance(child, ast.If | ast.For | ast.While | ast.With | ast.Try)
        deepest = max(deepest, depth(child, level + (block and not chained)))
    return deepest


def test_files_and_functions_are_small():
    long_files = [str(path) for path in SOURCES if len(path.read_text().splitlines()) > 400]
    assert not long_files
    lengths = {where: node.end_lineno - node.lineno + 1 for where, node in functions()}
    assert {where: length for where, length in lengths.items() if length > 60} == {}
    assert sorted(lengths.values())[int(0.9 * len(lengths))] <= 25
    assert [where for where, node in functions() if depth(node) > 4] == []
    for where, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        assert len([a for a in arguments if a.arg not in ("self", "cls")]) <= 8, where


def test_no_line_is_kept_from_the_formatter():
    assert not lines_with(r"# fmt: s", SOURCES)


def test_branches_on_the_data_set_live_in_datasets():
    assert not lines_with(
        r"if .*dataset(\.name)? ==", [path for path in SOURCES if path.parent.name != "datasets"]
    )


def test_devices_are_not_hard_coded_and_errors_not_swallowed():
    assert not lines_with(r"\.cuda\(|except\s*:|strict=False\)", SOURCES)


def unsafe(source):
    """What a reader of files must not do: every call and import in ``source`` that could run what a
    file says.
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [alias.name for alias in node.names]
            )
            found += [
                name
                for name in names
                if name.split(".")[0]
                in ("pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "yaml")
            ]
        if not isinstance(node, ast.Call):
            continue
        name, given = (
            ast.unparse(node.func),
            {word.arg: ast.unparse(word.value) for word in node.keywords},
        )
        needed = {
            "torch.load": ("weights_only", "True"),
            "np.load": ("allow_pickle", "False"),
            "numpy.load": ("allow_pickle", "False"),
        }
        if name in needed and given.get(needed[name][0]) != needed[name][1]:
            found.append(ast.unparse(node))
        if (
            name
            in (
                "eval",
                "exec",
                "os.system",
                "os.popen",
                "torch.jit.load",
                "torch.hub.load",
                "pd.read_pickle",
            )
            or "shell" in given
        ):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "path",
    SOURCES + sorted(ROOT.glob("benchmarks/*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_file_that_is_read_can_run_code(path):
    assert unsafe(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "np.load(x)",
        "np.load(x, allow_pickle=True)",
        "import pickle",
        "eval(x)",
        "from joblib import load",
        "import os\nos.system(x)",
        "subprocess.run(x, shell=True)",
    ],
)
def test_the_scan_for_unsafe_reading_sees(source):
    assert unsafe(source)


ADDED = """
import torch
before = set(torch.serialization.get_safe_globals())
import runtime.files
for entry in set(torch.serialization.get_safe_globals()) - before:
    print(f"{entry.__module__}.{entry.__qualname__}")
"""


def test_only_plain_numbers_are_added_to_what_torch_allows_in_files():
    assert [line.split(":")[0] for line in lines_with(r"add_safe_globals\(", SOURCES)] == [
        "runtime/files.py",
        "runtime/files.py",
    ]
    # What we add is seen in a process of its own: torch's other parts, and other packages, add
    # entries where they are imported.
    own = subprocess.run(
        [sys.executable, "-c", ADDED], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    added = [
        entry
        for entry in torch.serialization.get_safe_globals()
        if f"{entry.__module__}.{entry.__qualname__}" in own
    ]
    assert len(added) == len(own)
    scalar, _ = (entry for entry in added if entry.__name__ == "scalar")
    assert all(
        entry is codecs.encode or issubclass(entry, np.dtype)
        for entry in added
        if entry.__name__ != "scalar"
    )
    assert scalar(np.dtype("<f8"), np.float64(1.5).tobytes()) == 1.5
    with pytest.raises(ValueError, match="object"):
        scalar(np.dtype("O"), b"")


def test_embedded_data_is_small():
    assert (ROOT / "datasets/fashion_mini.npz").stat().st_size < 4 * 2**20
    assert "Zalando" in (ROOT / "datasets/fashion_mini.LICENSE").read_text()


def test_no_two_test_files_have_one_name():
    """Pytest imports them by it, and then collects only the first."""
    names = [path.name for path in sorted((ROOT / "tests").rglob("test_*.py"))]
    assert len(names) == len(set(names))
