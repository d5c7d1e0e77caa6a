"""The pages: their commands parse and run, their links lead somewhere, their tables are those of
the code, and the code they show does what they say.
"""

import ast
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from helpers import EPOCHS, call, forget, parse_command

import evaluate
import generate_mask
import main_forget
import main_random
import main_train
import report
from arg_parser import prepare_request
from datasets import DATASETS
from datasets.forgetting import KINDS, spec_of
from evaluation.definition import markdown_line
from evaluation.metrics import definition_table
from masks.scores import SCORES
from models import MODELS
from reporting.leaderboard import heading, leaderboard_row
from reporting.results import collect
from reporting.tables import scenarios
from sweep import main as sweep_main
from unlearn import METHODS, method_listing

ROOT = Path(__file__).parent.parent
PAGES = [
    path
    for path in sorted(ROOT.rglob("*.md"))
    if not {".venv", "runs"} & set(path.relative_to(ROOT).parts)
    and not any(part.startswith(".") for part in path.relative_to(ROOT).parts)
]
HAND = [path for path in PAGES if path.parent in (ROOT, ROOT / "docs")]
DOCS = sorted((ROOT / "docs").glob("*.md"))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def page(name):
    return (ROOT / name).read_text()


def section(text, title):
    """What stands under a heading, up to the next one of its level or above."""
    found, level, in_code = [], None, False
    for line in text.splitlines(keepends=True):
        in_code ^= line.startswith("```")
        heading = None if in_code else re.match(r"(#+) (.*)\n", line)
        if heading and level is not None and len(heading[1]) <= level:
            break
        if level is not None:
            found.append(line)
        elif heading and heading[2] == title:
            level = len(heading[1])
    assert found, title
    return "".join(found)


def fences(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# ----------------------------------------------------------------------------------------- commands


def shell_lines(text):
    """The commands of a piece of bash as lists of words; a loop is run once, at its first value."""
    values = {}
    for line in text.replace("\\\n", " ").splitlines():
        line = line.strip()
        if loop := re.match(r"for (\w+) in (\S+)[^;]*; do *", line):
            values[loop[1]] = loop[2]
            line = line[loop.end() :].removesuffix("; done")
        line = re.sub(r"\$(\w+)", lambda found: values[found[1]], line)
        words = shlex.split(line, comments=True)
        if words and words != ["done"]:
            yield words


def page_commands(text):
    """Every line of a page's bash, and every command in its running text."""
    for block in fences(text, "bash"):
        yield from shell_lines(block)
    for inline in re.findall(r"`((?:\.venv/bin/)?python [^`]+)`", re.sub(r"```.*?```", "", text)):
        yield shlex.split(inline)


def recipe_commands(text):
    """Every command of a recipe that calls a script, shell variables replaced by their values."""
    values = dict(re.findall(r'^([A-Z]+)="?([^"\n]*)"?$', text, re.MULTILINE))
    starters = r"python (?:-u )?|torchrun (?:--\S+ )+"
    for line in re.findall(rf"^(?:run )?(?:{starters})(\w+\.py .*)$", text, re.MULTILINE):
        for _ in range(5):
            line = re.sub(
                r"\$\{(\w+):-([^}]*)\}|\$(\w+)",
                lambda m: m[2] or values.get(m[3] or m[1], "x"),
                line,
            )
        yield ["python", *shlex.split(line, comments=True)]


def scripts_of(command):
    """The words from the script on; None where no Python file is run."""
    places = [place for place, word in enumerate(command) if word.endswith(".py")]
    return command[places[0] :] if command[0] in ("python", "torchrun") and places else None


DOCUMENTED = [command for path in HAND for command in page_commands(path.read_text())]
DOCUMENTED += [
    c for recipe in sorted(ROOT.glob("recipes/*.sh")) for c in recipe_commands(recipe.read_text())
]
SCRIPTS = [words for command in DOCUMENTED if (words := scripts_of(command))]


@pytest.mark.parametrize("command", SCRIPTS, ids=" ".join)
def test_documented_script_parses(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.toml").write_text("seed = 1\n")
    parse_command(*command)


def names_what_is_there(command):
    """Whether a command that runs no script is of a known kind, about files that exist."""
    while re.match(r"[A-Z]+=", command[0]):
        command = command[1:]
    match command:
        case ["make", *words]:
            targets = re.findall(r"^([\w-]+):", page("Makefile"), re.MULTILINE)
            return all("=" in word or word in targets for word in words)
        case ["pip", "install", *words]:
            return all(word == "-r" or (ROOT / word).is_file() for word in words)
        case ["bash" | "sbatch", file]:
            return (ROOT / file).is_file()
        case [".", file]:
            return file == ".venv/bin/activate"
        case ["python" | "python3", "-m", "venv", ".venv"]:
            return True
        case ["python", "-m", "datasets.prepare", *words]:
            return bool(prepare_request(words, "").dataset)
        case ["python", "-c", code]:
            return bool(ast.parse(code))
        case [".venv/bin/python", "-m", "pytest", *words]:
            tests = [word.split("::") for word in words if word.startswith("tests/")]
            return bool(tests) and all(
                f"def {name}(" in page(file) if name else (ROOT / file).is_file()
                for file, name in [(*test, "")[:2] for test in tests]
            )
    return False


@pytest.mark.parametrize("command", [c for c in DOCUMENTED if not scripts_of(c)], ids=" ".join)
def test_documented_command_is_of_a_known_kind(command):
    assert names_what_is_there(command)


def test_unknown_commands_are_seen():
    wrong = ["make nothing", "pip install torch", "bash nowhere.sh", "rm -rf x"]
    wrong += [".venv/bin/python -m pytest tests/test_docs.py::test_of_nothing"]
    assert not any(names_what_is_there(line.split()) for line in wrong)


def test_documentation_has_every_script_and_the_contract_recipes():
    steps = {"main_train.py", "generate_mask.py", "main_random.py", "main_forget.py"}
    scripts = {words[0] for words in SCRIPTS}
    assert {name for name in scripts if "/" not in name} == steps | {
        "evaluate.py",
        "report.py",
        "sweep.py",
    }
    assert {"retrain", "FT", "GA", "wfisher", "FT_prune", "RL"} <= {
        words[words.index("--unlearn") + 1] for words in SCRIPTS if "--unlearn" in words
    }


def test_no_two_recipes_write_one_result():
    """A reader pastes a page from top to bottom; a second run in one folder would be refused."""
    for path in HAND:
        written = []
        for words in filter(None, map(scripts_of, page_commands(path.read_text()))):
            if "--save_dir" in words and "--unlearn" in words:
                place = [
                    words[words.index(f) + 1]
                    for f in ("--save_dir", "--unlearn", "--run")
                    if f in words
                ]
                if "--resume" not in words:
                    written.append(place)
        assert len(written) == len({tuple(place) for place in written}), path.name


def test_the_plans_that_are_shipped_are_plans(capsys):
    for plan in ROOT.glob("recipes/*.toml"):
        assert sweep_main([str(plan), "--dry_run"]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert all(line.startswith(("python ", "mkdir ")) for line in printed)
        assert len(printed) == int(re.search(r"(\d+) runs by one command", plan.read_text())[1])


# -------------------------------------------------------------------------- commands on little data

MAINS = {
    "main_train.py": main_train.main,
    "generate_mask.py": generate_mask.main,
    "main_random.py": main_random.main,
    "main_forget.py": main_forget.main,
    "evaluate.py": evaluate.main,
    "report.py": report.main,
}
SMALLER = {
    "4500": "130",
    "random:4500": "random:130",
    "class:3:450": "class:3:9",
    "182": "1",
    "60": "1",
    "resnet18": "resnet20s",
    "resnet50": "resnet20s",
    "cifar10": "digits",
    "layer4,fc": "layer3,fc",
    "runs/cifar10_random10/multistep": "runs/c10/seed2",  # what the recipe above it would leave
    "runs/stability": "runs/c10/seed2",
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working folder with what the pages call the reader's own."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    from PIL import Image

    for half, count in (("train", 40), ("test", 20)):
        for name in ("cat", "dog"):
            folder = tmp_path / "my_images" / half / name
            folder.mkdir(parents=True)
            for place in range(count):
                pixels = rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{place}.png")
    images = rng.integers(0, 255, (80, 8, 8), dtype=np.uint8)
    labels = np.arange(80) % 2
    np.savez("my_images.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    np.save("forget.npy", np.arange(5))
    Path("run.toml").write_text(
        'dataset = "digits"\narch = "resnet20s"\nnum_indexes_to_replace = 9\n'
    )
    return tmp_path


def run_all(text):
    """Run every script that a piece of a page calls, on smaller data and for an epoch."""
    commands = list(filter(None, map(scripts_of, page_commands(text))))
    assert len(commands) > 5
    for words in commands:
        script, *flags = [SMALLER.get(word, word) for word in words]
        if script == "sweep.py":  # its plan is worked out by another test
            continue
        if script == "main_train.py":
            given = [] if "--dataset" in flags else ["--dataset", "digits"]
            flags = [*given, *flags, "--epochs", "1"]
        elif script in ("main_random.py", "main_forget.py"):
            flags += ["--unlearn_epochs", "1", *(["--samples", "9"] if "wfisher" in flags else [])]
        assert MAINS[script](flags) == 0, words


@pytest.mark.slow
def test_the_readmes_four_steps_run(workplace):
    run_all(section(page("README.md"), "Four steps"))


@pytest.mark.slow
def test_the_recipes_run(workplace):
    run_all(page("docs/recipes.md"))


# --------------------------------------------------------------------------------- links and tables


def slug(heading):
    """The anchor that GitHub gives a heading."""
    plain = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return plain.replace(" ", "-")


@each_page
def test_every_link_leads_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", text):
        if target.startswith(("http:", "https:")):
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), f"{target}#{anchor}"


def test_the_table_of_contents_has_every_page():
    linked = set(re.findall(r"\]\((\w+\.md)\)", page("docs/README.md")))
    assert linked >= {path.name for path in DOCS} - {"README.md"}


@each_page
def test_every_markdown_table_has_one_number_of_cells(page):
    """A bar that is not escaped begins another cell, which Markdown then drops."""
    for table in re.findall(r"(?:^\|.*\|\n)+", page.read_text(), re.MULTILINE):
        assert len({len(re.split(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, (
            table.splitlines()[0]
        )


def test_the_metric_table_escapes_bars():
    assert markdown_line(["`a`", "|x - y|"]) == r"| `a` | \|x - y\| |"
    assert all(
        len(re.split(r"(?<!\\)\|", line)) == 8 + 2 for line in definition_table().splitlines()
    )


def test_the_generated_tables_are_the_registries():
    assert f"<!-- methods -->\n{method_listing()}\n<!-- /methods -->" in page("docs/methods.md")
    assert f"<!-- metrics -->\n{definition_table()}\n<!-- /metrics -->" in page("docs/metrics.md")


def test_the_table_of_speed_is_the_last_measurement():
    table = page("benchmarks/results/table.md")
    assert f"<!-- bench -->\n{table}<!-- /bench -->" in page("docs/speed.md")


@pytest.mark.parametrize(
    "registry", [DATASETS, MODELS, METHODS, SCORES], ids=["datasets", "models", "methods", "scores"]
)
def test_the_documentation_names_everything_registered(registry):
    text = "".join(path.read_text() for path in DOCS)
    assert all(f"`{name}`" in text for name in registry)


def test_the_source_tree_names_every_top_level_entry():
    tree = section(page("CONTRIBUTING.md"), "What is where").split("```")[1]
    named = set(re.findall(r"^(\S+)", tree, re.MULTILINE))
    scripts = {path.name for path in ROOT.glob("*.py")}
    folders = {
        f"{path.name}/"
        for path in ROOT.iterdir()
        if path.is_dir() and not path.name.startswith(".")
    } - {"runs/"}
    assert named >= scripts | {folder for folder in folders if not folder.startswith("__")}
    assert all((ROOT / name).exists() for name in named)


def test_the_rows_of_the_cpu_table_are_those_of_its_results():
    """All of them, in the report's order, as --row prints them."""
    results = ROOT / "benchmarks/results"
    (table,) = scenarios(collect([results / "models", results / "cifar10_cpu"]), [])
    rows = [leaderboard_row([table], row["name"]) for row in table.table["rows"]]
    text = section(page("docs/results.md"), "CIFAR-10 on one core")
    printed = [line for line in text.splitlines() if line.startswith("| ")]
    assert printed[: len(rows) + 1] == [heading()[0], *rows]


def test_the_audit_of_the_cpu_table_is_that_of_its_file():
    """Each row's mean and SD over its runs; the first screen repeats one column."""
    keys = {"rmia_auc": 3, "lira_auc": 3, "loss_auc": 3, "relearn_accuracy": 1}
    audit = json.loads((ROOT / "benchmarks/results/cifar10_cpu/audit.json").read_text())
    expected = Counter()
    for row in audit["rows"]:
        sd = row["sd"] if len(row["models"]) > 1 else {}
        cells = [
            f"{row['mean'][key]:.{digits}f}" + (f"±{sd[key]:.{digits}f}" if sd else "")
            for key, digits in keys.items()
        ]
        expected[row["label"], *cells] = 1  # the original is there in two roles
    lines = section(page("docs/results.md"), "CIFAR-10 on one core").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| method | RMIA"))
    table = itertools.takewhile(lambda line: line.startswith("| "), lines[start + 2 :])
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in table]
    assert Counter((row[0].split(",")[0], *row[1:]) for row in rows) == expected
    first = page("README.md").split("<!-- cifar10 -->")[1].split("<!-- /cifar10 -->")[0]
    repeated = [line.strip("| ").split(" | ")[-1] for line in first.splitlines() if "| " in line]
    assert repeated[1:] == [row[1] for row in rows]


# ------------------------------------------------------------------------------------------- README


def test_the_readme_stays_four_screens():
    text = page("README.md")
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 14_000
    assert (ROOT / "docs/demo.png").stat().st_size < 60_000


def test_the_readmes_first_commands_make_what_the_scripts_need():
    """In a new shell ``python`` has no torch until the environment is active."""
    commands = list(page_commands(page("README.md")))
    first = next(place for place, command in enumerate(commands) if scripts_of(command))
    assert [".", ".venv/bin/activate"] in commands[:first]
    assert any(command[:2] == ["pip", "install"] for command in commands[:first])


def test_the_demos_table_adds_up():
    """Each average is the mean of the four gaps beside it."""
    demo = page("README.md").split("<!-- demo -->")[1].split("<!-- /demo -->")[0]
    rows = re.findall(r"^(\S+) +\d.*$", demo, re.MULTILINE)
    assert rows == ["Retrain", "SalUn", "l1-sparse", "FT", "IU", "GA", "Original"]
    four = r"\(([+-][\d.]+)\).*?" * 3 + r"\(([+-][\d.]+)\)~? +([\d.]+)"
    numbers = re.findall(four, demo)
    assert len(numbers) == len(rows) - 1
    for *gaps, average in numbers:
        assert np.mean([abs(float(gap)) for gap in gaps]) == pytest.approx(
            float(average), abs=0.011
        )


# -------------------------------------------------------------------------------- code of the pages


def test_the_page_of_data_has_every_form_of_a_forget_set():
    text = section(page("docs/data.md"), "Who is forgotten")
    table = text[: text.index("### ")]
    for kind in KINDS:
        assert f"`{kind}:" in table
    for form in re.findall(r"`((?:random|class|classes|positions|indices|files):[^`]*)`", table):
        spec_of(form)


def test_the_page_of_files_has_the_arrays_of_a_forget_set(original, tmp_path):
    assert forget(original, tmp_path, "--unlearn", "GA", *EPOCHS) == 0
    names = first_column(section(page("docs/files.md"), "METHODforget.npz"))
    with np.load(tmp_path / "GAforget.npz", allow_pickle=False) as file:
        assert {*file.files, "files"} <= names | {"classes"}


def paste(code, tree):
    """Do with a block of extending.md what its first line says: a new file, or an import and an
    entry into a dictionary of an existing one.
    """
    name = re.match(r"# (\S+\.py)\n", code)[1]
    file = tree / name
    if not file.exists():
        file.write_text(code)
        return
    imports = re.findall(r"^from .*$", code, re.MULTILINE)
    table, entry = re.search(r"^(\w+) = \{\n(.*?)^\}$", code, re.MULTILINE | re.DOTALL).groups()
    text = file.read_text()
    assert text.count(f"\n{table} = {{\n") == 1
    head, rest = text.split(f"\n{table} = {{\n")
    file.write_text("\n".join([head, *imports, f"{table} = {{", entry + rest]))


# Scripts called one after the other by one process, as a script and its flags in each argument.
CALLS = """
import importlib, sys
for line in sys.argv[1:]:
    script, *flags = line.split()
    assert importlib.import_module(script).main(flags) == 0, line
"""


@pytest.mark.slow
def test_what_extending_shows_works_when_it_is_pasted(tmp_path):
    tree = tmp_path / "project"
    shutil.copytree(
        ROOT,
        tree,
        ignore=shutil.ignore_patterns(".*", "runs", "tests", "benchmarks", "docs", "__pycache__"),
    )
    for code in fences(page("docs/extending.md"), "python"):
        paste(code, tree)
    chosen = "--num_indexes_to_replace 130 --model_path r/0model_SA_best.pth.tar --save_dir r"
    lines = [
        "main_train --dataset digits --arch tiny --epochs 2 --save_dir r",
        f"main_forget {chosen} --unlearn confusion --strength 0.5 --unlearn_epochs 1",
        f"generate_mask {chosen}",
        f"main_random {chosen} --run masked --unlearn Confusion --mask_path r/with_0.5.pt",
        "evaluate --models r/*confusioncheckpoint.pth.tar --save_dir r",
        "main_forget --list_methods",
    ]
    done = subprocess.run(
        [sys.executable, "-c", CALLS, *lines],
        cwd=tree,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| `confusion` | Confusion | Push the forget set towards" in done.stdout
    record = json.loads((tree / "r/confusionresult.json").read_text())
    assert record["hyperparameters"]["strength"] == 0.5
    assert record["data"]["arch"] == "tiny"
    audit = json.loads((tree / "r/audit.json").read_text())
    assert [model["label"] for model in audit["models"]] == ["Confusion", "Confusion+mask"]
    assert all(0 <= model["metrics"]["forget_sure"] <= 1 for model in audit["models"])
    assert audit["metrics"]["forget_sure"]["unit"] == "share"


# ---------------------------------------------------------------------------------- what files hold


def first_column(text):
    """The names in the first cells of a table."""
    return {
        name
        for line in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", line)
    }


def test_the_page_of_files_has_the_keys_of_every_record(original, masks, tmp_path):
    text = page("docs/files.md")
    assert forget(original, tmp_path, "--unlearn", "GA", *EPOCHS) == 0
    retrain = tmp_path / "retrain"
    assert forget(original, retrain, "--unlearn", "retrain", *EPOCHS) == 0
    record = json.loads((tmp_path / "GAresult.json").read_text())
    assert record.keys() == first_column(section(text, "METHODresult.json"))
    models = ["--models", tmp_path / "GAcheckpoint.pth.tar", "--save_dir", tmp_path]
    reference = ["--retrain", retrain / "retraincheckpoint.pth.tar", "--original", original]
    light = ["--suite", "standard", "--relearn_steps", 1, "--relearn_seeds", 1]
    assert call(evaluate.main, *models, *reference, *light) == 0
    audit = json.loads((tmp_path / "audit.json").read_text())
    of_audit = section(text, "audit.json")
    assert audit.keys() == first_column(of_audit)
    for name in ("models", "rows"):
        (line,) = re.findall(rf"^\| `{name}` \| (.*)$", of_audit, re.MULTILINE)
        assert audit[name][0].keys() - {"gap_of_means_entropy", "mean_paired_gap_entropy"} <= set(
            re.findall(r"`(\w+)`", line)
        )
    for file, title in (
        (original.parent / "train_result.json", "train_result.json"),
        (masks / "mask_result.json", "mask_result.json"),
    ):
        assert json.loads(file.read_text()).keys() <= set(
            re.findall(r"`(\w+)`", section(text, title))
        )
    lines = (tmp_path / "GAcurve.jsonl").read_text().splitlines()
    lines += (original.parent / "0curve.jsonl").read_text().splitlines()
    told = set(re.findall(r"`(\w+)`", section(text, "Curves")))
    assert all(json.loads(line).keys() <= told for line in lines)


# ------------------------------------------------------------------------------------------- others


def test_what_is_said_to_be_proven_is_shown_by_a_test_that_is_there():
    proven = page("benchmarks/gpu/README.md").split("## What is proven where")[1]
    rows = [line for line in proven.splitlines() if " tests/" in line]
    assert len(rows) > 5
    assert all(
        (ROOT / name).is_file() for row in rows for name in re.findall(r"tests/[\w/]+\.py", row)
    )


def test_the_citation_is_of_this_project():
    text = page("CITATION.cff")
    fields = dict(re.findall(r'^([\w-]+):[ ]*"?(.*?)"?$', text, re.MULTILINE))
    assert fields["cff-version"] == "1.2.0"
    assert page("README.md").startswith(f"# {fields['title']}\n")
    assert {"message", "authors", "type", "license"} <= fields.keys()
    assert fields["license"] in page("LICENSE")
