"""demo.ipynb: its cells run in order in a kernel, on an epoch each, and what is kept in it of a
whole run is of these cells.
"""

import copy
import json
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent
NOTEBOOK = nbformat.read(ROOT / "demo.ipynb", as_version=4)
FASTER = {'"epochs": 12': '"epochs": 1', '"unlearn_epochs": 5': '"unlearn_epochs": 1'}
FASTER |= {'"unlearn_epochs": 3': '"unlearn_epochs": 1', "relearn_steps=8": "relearn_steps=1"}
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]

pytestmark = pytest.mark.slow


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def cell_with(cells, words):
    (found,) = [cell for cell in cells if words in cell.source]
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The code cells after a run on an epoch each, and its folder."""
    folder, faster = tmp_path_factory.mktemp("notebook"), copy.deepcopy(NOTEBOOK)
    for slow, fast in FASTER.items():
        cell = cell_with(faster.cells, slow)
        cell.source = cell.source.replace(slow, fast)
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        NotebookClient(faster, timeout=300, resources={"metadata": {"path": folder}}).execute()
    return [cell for cell in faster.cells if cell.cell_type == "code"], folder / "runs/notebook"


def test_the_table_is_of_the_files(run):
    cells, folder = run
    table = printed(cell_with(cells, "as_text"))
    for name, file in {"SalUn": "RLresult.json", "FT": "FTresult.json"}.items():
        metrics = json.loads((folder / file).read_text())["metrics"]
        (row,) = [line for line in table.splitlines() if line.startswith(name)]
        assert row.split()[1] == f"{metrics['UA']:.2f}"
    assert "RMIA AUC" in table


def test_each_picture_is_drawn(run):
    drawn = [
        output
        for cell in run[0]
        for output in cell.outputs
        if "image/png" in output.get("data", ())
    ]
    assert len(drawn) == 2


def test_what_is_kept_is_a_whole_run():
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    assert not [output for cell in CODE for output in cell.outputs if output.output_type == "error"]
    assert "epoch 12/12" in printed(cell_with(CODE, "TrainRequest.of("))
    assert (ROOT / "demo.ipynb").stat().st_size < 150_000
