"""Files that commit c523b69 wrote still serve every later step.

They are of ResNet-20s on digits, 130 images forgotten; all weights were set to zero so that they
pack to 60 kB. Made there by: main_train (2 epochs), generate_mask, main_random --unlearn RL,
main_forget --unlearn FT and retrain, evaluate --suite standard.
"""

import json
import tarfile
from pathlib import Path

import pytest
from helpers import SETUP, call, forget, result

import evaluate
import main_random
import main_train
import report

pytestmark = pytest.mark.slow
SMALL = [*SETUP, "--precision", "fp32"]
SEED = ["--forget_seed", 3]


@pytest.fixture
def older(tmp_path):
    """A run folder as c523b69 left it."""
    with tarfile.open(Path(__file__).parents[1] / "data/c523b69.tar.xz") as archive:
        archive.extractall(tmp_path / "run", filter="data")
    return tmp_path / "run"


def test_an_original_and_a_mask_serve_unlearning(older, tmp_path):
    words = [*SEED, "--unlearn", "RL", "--unlearn_epochs", 1]
    words += ["--mask_path", older / "with_0.5.pt", "--precision", "fp32"]
    original = older / "0model_SA_best.pth.tar"
    assert forget(original, tmp_path / "new", *words, main=main_random.main) == 0
    new = result(tmp_path / "new", "RL")
    assert new["label"] == "SalUn"
    assert new["mask"]["score"] == "saliency"
    assert new["RTE"]["mask"] == json.loads((older / "mask_result.json").read_text())["RTE"]["mask"]
    assert new["data"]["forget"] == result(older, "RL")["data"]["forget"]
    assert new["original_recipe"]["unlearn_epochs"] == 2


def test_retrain_inherits_the_recipe_of_an_original(older, tmp_path, capsys):
    original = older / "0model_SA_best.pth.tar"
    assert forget(original, tmp_path / "new", "--unlearn", "retrain", "--dry_run", *SEED) == 0
    assert "--unlearn_lr=0.05" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["FT", "RL"])
def test_a_finished_run_is_resumed_to_its_result(name, older):
    words = [*SEED, "--unlearn", name, "--weight_decay", 0, "--precision", "fp32", "--resume"]
    words += ["--unlearn_epochs", {"FT": 2, "RL": 1}[name]]
    words += ["--mask_path", older / "with_0.5.pt"] if name == "RL" else []
    before = result(older, name)
    assert forget(older / "0model_SA_best.pth.tar", older, *words) == 0
    after = result(older, name)
    for metric in ("UA", "RA", "TA", "VA"):
        assert after["metrics"][metric] == before["metrics"][metric]
    assert after["RTE"]["unlearn"] == before["RTE"]["unlearn"]


def test_a_training_run_is_resumed(older):
    words = ["--epochs", 2, "--lr", 0.05, "--save_dir", older, "--resume"]
    assert call(main_train.main, *SMALL, *words) == 0
    assert json.loads((older / "train_result.json").read_text())["recipe"]["tail"] == "keep"


def test_checkpoints_are_audited_and_results_reported(older, tmp_path, capsys):
    models = [older / "FTcheckpoint.pth.tar", older / "RLcheckpoint.pth.tar"]
    words = ["--models", *models, "--retrain", older / "retraincheckpoint.pth.tar"]
    words += ["--original", older / "0model_SA_best.pth.tar", "--device", "cpu"]
    words += ["--suite", "standard", "--relearn_steps", 1, "--relearn_seeds", 1]
    assert call(evaluate.main, *words, "--save_dir", tmp_path / "new") == 0
    new = json.loads((tmp_path / "new/audit.json").read_text())
    assert [row["label"] for row in new["rows"]] == ["FT", "SalUn", "Retrain", "Original"]
    capsys.readouterr()
    assert call(report.main, older) == 0
    shown = capsys.readouterr().out
    for words in ("SalUn", "FT", "Retrain", "Avg. Gap"):
        assert words in shown
