"""The project about itself: README commands parse, its tables are true, the house rules hold in the
source.
"""

import ast
import codecs
import dataclasses
import re
import shlex
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
    unlearn_request,
)
from datasets import DATASETS
from evaluate import SUITES
from evaluation.definition import markdown_line
from evaluation.metrics import definition_table
from masks.scores import SCORES
from models import MODELS
from report import make_parser as make_report_parser
from stages.requests import AuditRequest, MaskRequest, TrainRequest, UnlearnRequest
from sweep import main as sweep_main
from sweep import sweep_parser
from unlearn import METHODS, method_table
from utils import UserError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SOURCES = [
    path
    for path in ROOT.rglob("*.py")
    if not {".venv", "tests", "benchmarks"} & set(path.relative_to(ROOT).parts)
]
PACKAGES = [path for path in SOURCES if path.parent != ROOT]


def commands(text):
    """Every ``python SCRIPT ...`` line of a README or a recipe, shell variables replaced by their
    values.
    """
    values = dict(re.findall(r'^([A-Z]+)="?([^"\n]*)"?$', text, re.MULTILINE))
    starters = r"python (?:-u )?|torchrun (?:--\S+ )+"
    for line in re.findall(rf"^(?:run )?(?:{starters})(\w+\.py .*)$", text, re.MULTILINE):
        for _ in range(5):
            line = re.sub(
                r"\$\{(\w+):-([^}]*)\}|\$(\w+)",
                lambda m: m[2] or values.get(m[3] or m[1], "x"),
                line,
            )
        yield shlex.split(line, comments=True)


SWEEPS = (ROOT / "sweeping/README.md").read_text()
GPU = (ROOT / "benchmarks/gpu/README.md").read_text()
DOCUMENTED = [
    *commands(README),
    *commands(SWEEPS),
    *(c for recipe in sorted(ROOT.glob("recipes/*.sh")) for c in commands(recipe.read_text())),
]


@pytest.mark.parametrize("command", [c for c in DOCUMENTED if c[0] != "report.py"], ids=" ".join)
def test_documented_command_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text("seed = 1\n")
    assert (ROOT / command[0]).is_file()
    if command[0] == "evaluate.py":
        evaluation_parser("", SUITES).parse_args(command[1:])
    elif command[0] == "sweep.py":
        assert (ROOT / sweep_parser().parse_args(command[1:]).plan).is_file()
    else:
        unlearn_request(command[1:])


@pytest.mark.parametrize("command", [c for c in DOCUMENTED if c[0] == "report.py"], ids=" ".join)
def test_documented_report_parses(command):
    assert make_report_parser().parse_args(command[1:]).dirs


def test_documentation_has_every_script_and_the_contract_recipes():
    scripts = {command[0] for command in DOCUMENTED}
    steps = {"main_train.py", "generate_mask.py", "main_random.py", "main_forget.py"}
    assert scripts == steps | {"evaluate.py", "report.py", "sweep.py"}
    assert {"retrain", "FT", "GA", "wfisher", "FT_prune"} <= {
        c[c.index("--unlearn") + 1] for c in DOCUMENTED if "--unlearn" in c
    }


def test_readme_method_table_is_the_registry():
    assert f"<!-- methods -->\n{method_table()}\n<!-- /methods -->" in README


def test_readme_metric_table_is_the_registry():
    assert f"<!-- metrics -->\n{definition_table()}\n<!-- /metrics -->" in README


@pytest.mark.parametrize(
    "text",
    [README, SWEEPS, GPU],
    ids=["README.md", "sweeping/README.md", "benchmarks/gpu/README.md"],
)
def test_every_markdown_table_has_one_number_of_cells(text):
    """A bar that is not escaped begins another cell, which Markdown then drops."""
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert text is SWEEPS or len(tables) > 1
    for table in tables:
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, (
            table.splitlines()[0]
        )


def test_what_is_said_to_be_proven_is_shown_by_a_test_that_is_there():
    rows = [
        line for line in GPU.split("## What is proven where")[1].splitlines() if " tests/" in line
    ]
    assert len(rows) > 5
    assert all(
        (ROOT / name).is_file() for row in rows for name in re.findall(r"tests/\w+\.py", row)
    )


def test_the_metric_table_escapes_bars():
    assert markdown_line(["`a`", "|x - y|"]) == r"| `a` | \|x - y\| |"
    assert all(
        len(re.split(r"(?<!\\)\|", line)) == 8 + 2 for line in definition_table().splitlines()
    )


def test_every_flag_of_evaluate_is_read():
    flags = {action.dest for action in evaluation_parser("", ())._actions} - {"help"}
    assert flags == {field.name for field in dataclasses.fields(AuditRequest)}
    assert flags <= set(re.findall(r"request\.(\w+)", (ROOT / "stages/audit.py").read_text()))


def test_every_flag_of_a_sweep_is_read():
    flags = {action.dest for action in sweep_parser()._actions} - {"help"}
    assert flags <= set(re.findall(r"args\.(\w+)", (ROOT / "sweep.py").read_text()))


def test_the_plans_that_are_shipped_are_plans(capsys):
    for plan in ROOT.glob("recipes/*.toml"):
        assert sweep_main([str(plan), "--dry_run"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert all(line.startswith(("python ", "mkdir ")) for line in printed)
        assert len(printed) == int(re.search(r"(\d+) runs by one command", plan.read_text())[1])


def test_readme_tree_names_every_top_level_entry():
    tree = README.split("## What is where")[1].split("```")[1]
    named = set(re.findall(r"^(\S+)", tree, re.MULTILINE))
    scripts = {path.name for path in ROOT.glob("*.py")}
    folders = {
        f"{path.name}/"
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    } - {"runs/"}
    assert named >= scripts | {folder for folder in folders if not folder.startswith("__")}
    assert all((ROOT / name).exists() for name in named)


@pytest.mark.parametrize(
    "registry", [DATASETS, MODELS, METHODS, SCORES], ids=["datasets", "models", "methods", "scores"]
)
def test_readme_names_everything_registered(registry):
    assert all(f"`{name}`" in README for name in registry)


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
    parsers = {"arg_parser.py", "flags.py", "flag_types.py", "report.py", "sweep.py"}
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


def test_the_readmes_own_method_runs(model, data):
    """The example under "Adding your own", executed as it stands there."""
    source = README.split("### Adding your own")[1].split("```python\n")[1].split("```")[0]
    space = {"__name__": "example"}
    exec(compile(source, "example", "exec"), space)
    method = space["Confusion"]()
    steps = list(method.losses(model, data, 0))
    assert len(steps) == method.steps(data, 0)
    assert all(step.loss.requires_grad for step in steps)
