"""recipes/: each published setting's commands, as bash hands them to Python, parse, agree with the
presets and the published numbers that their headers name, never share a file, and run.
"""

import importlib
import os
import re
import subprocess

import numpy as np
import pytest
from helpers import ROOT, parse_command

from arg_parser import unlearn_request
from reporting.published import published
from unlearn import METHODS, presets_of

TABLES = published()
NAMES = sorted({table["recipe"] for table in TABLES.values()})
UNLEARNING = ("main_forget.py", "main_random.py")
# The others set variables and hand over to one of these.
COMPLETE = [name for name in NAMES if "\nexec bash" not in (ROOT / name).read_text()]
each_recipe = pytest.mark.parametrize("name", NAMES)
# Notes each call, one word a line, and does nothing.
RECORDER = """#!/usr/bin/env bash
printf '%s\\n' "$@" '<end>' >> "$CALLS"
"""


@pytest.fixture
def calls(tmp_path):
    """A function from a recipe to the commands that it gives Python."""
    (tmp_path / "python").write_text(RECORDER)
    (tmp_path / "python").chmod(0o755)

    def listed(name, **variables):
        log = tmp_path / "calls"
        log.unlink(missing_ok=True)
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        environment = {"PATH": path, "CALLS": str(log), **variables}
        subprocess.run(["bash", ROOT / name], env=environment, check=True)
        return [call.splitlines() for call in log.read_text().split("<end>\n")[:-1]]

    return listed


def header(name):
    """The comment above a recipe's commands, unwrapped."""
    lines = (ROOT / name).read_text().split("set -euo")[0].splitlines()[1:]
    return " ".join(line.removeprefix("#").strip() for line in lines)


def named_presets(name):
    return set(re.findall(r"preset (\w+)", header(name)))


def unlearning(commands):
    return [unlearn_request(words) for script, *words in commands if script in UNLEARNING]


@each_recipe
@pytest.mark.parametrize("fast", ["0", "1"])
def test_every_command_parses(name, fast, calls):
    for script, *words in calls(name, FAST=fast):
        parse_command(script, *words)


@each_recipe
def test_the_setting_is_that_of_the_published_table(name, calls):
    """Data, architecture, number of images and epochs of the table that is compared with first."""
    commands = calls(name)
    key = next(words[-1] for words in commands if "--published" in words)
    assert TABLES[key]["recipe"] == name
    protocol = TABLES[key]["protocol"]
    training = unlearn_request(commands[0][1:])
    assert (training.dataset, training.arch) == (protocol["dataset"], protocol["arch"])
    assert training.epochs == protocol.get("epochs", 182)
    if "schedule" in protocol:
        assert (training.schedule or "multistep") == protocol["schedule"]
    for request in unlearning(commands):
        if protocol["kind"] == "class":
            assert request.class_to_replace >= 0
        elif protocol["dataset"] != "svhn":
            assert request.num_indexes_to_replace == 45000 * protocol["share"] // 100
        forget_set = request.seed if "forget_sets" in protocol else 2
        assert request.forget_seed == (None if protocol["kind"] == "class" else forget_set)


@each_recipe
def test_presets_are_those_that_the_header_names(name, calls):
    """Every one is of its method, and no typed value takes its place."""
    used = set()
    for request in unlearning(calls(name)):
        if request.preset != "paper" or "preset" in request.typed:
            used.add(request.preset)
            preset = presets_of(METHODS[request.unlearn])[request.preset]
            assert not preset.values.keys() & request.typed
    assert used == named_presets(name)


@each_recipe
def test_no_two_runs_share_a_file(name, calls):
    written = []
    for script, *words in calls(name):
        if script != "report.py":
            request = unlearn_request(words)
            method = request.unlearn if script in UNLEARNING else script
            written.append((request.save_dir, request.run, method))
    assert len(written) == len(set(written))


@each_recipe
def test_the_header_has_what_a_reader_needs(name):
    text = header(name)
    for words in ("EXPECTED", "Tolerance", "this recipe has not run on a GPU", "FAST=1"):
        assert words.lower() in text.lower(), words


@each_recipe
def test_expected_numbers_are_the_published_ones(name):
    """A line of the header: label, four numbers with their SDs, key."""
    pattern = r"^#   (\S+) +(\S+) (\S+) (\S+) (\S+) +(\w+)$"
    lines = re.findall(pattern, (ROOT / name).read_text(), re.MULTILINE)
    for label, *cells, key in lines:
        row = next(row for row in TABLES[key]["rows"] if row["label"] == label)
        published_cells = list(row["values"].values())[:4]
        assert len(published_cells) == 4
        for cell, wanted in zip(cells, published_cells, strict=True):
            assert [float(part) for part in cell.split("±")] == list(np.ravel(wanted))
    assert lines or "no row of four numbers was seen" in header(name)


@each_recipe
def test_gaps_in_a_header_are_the_published_ones(name):
    """``0.65 (FT)``: an average gap of the table that the recipe is named by."""
    gaps = re.findall(r"(\d+\.\d\d) \(([\w+-]+)\)", header(name))
    rows = [row for table in TABLES.values() if table["recipe"] == name for row in table["rows"]]
    for gap, label in gaps:
        known = [row["values"] for row in rows if row["label"] == label]
        assert any(float(gap) in (v.get("avg_gap"), v.get("avg_gap_entropy")) for v in known)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPLETE)
def test_a_recipe_runs_fast(name, calls, tmp_path, capsys):
    folder = tmp_path / "runs"
    for script, *words in calls(name, FAST="1", DIR=str(folder)):
        main = importlib.import_module(script.removesuffix(".py")).main
        assert main(words) == 0, words
    assert "Not comparable: data set digits" in capsys.readouterr().out
