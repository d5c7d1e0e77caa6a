"""docs/python.md: its blocks run in order, on one epoch, and give what the page says."""

import contextlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from arg_parser import unlearn_request
from datasets import load_dataset
from evaluation.membership import PLAIN
from models import build_model

PAGE = (Path(__file__).parent.parent / "docs/python.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
FASTER = {"epochs=10,": "epochs=1,", 'unlearn="salun",': 'unlearn="salun", unlearn_epochs=1,'}
FOUR = ("UA", "RA", "TA", "MIA")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Every block, run in one session: its folder, its variables, and what each block printed."""
    folder, variables, printed = tmp_path_factory.mktemp("page"), {}, {}
    torch.manual_seed(0)
    with contextlib.chdir(folder):
        for block in BLOCKS:
            code = block
            for slow, fast in FASTER.items():
                code = code.replace(slow, fast)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, "docs/python.md", "exec"), variables)
            printed[block] = out.getvalue()
    return folder / "runs/python", variables, printed


def printed_by(page, words):
    """What the block that contains ``words`` printed."""
    (block,) = [block for block in BLOCKS if words in block]
    return page[2][block]


def test_every_block_has_at_most_ten_lines():
    assert len(BLOCKS) > 10
    assert max(len(block.splitlines()) for block in BLOCKS) <= 10
    for slow in FASTER:
        assert PAGE.count(slow) == 1


def test_stages_return_what_their_files_say(page):
    folder, variables, _ = page
    train = json.loads((folder / "train_result.json").read_text())
    assert variables["metrics"] == train["metrics"]
    assert variables["salun"] == json.loads((folder / "RLresult.json").read_text())
    assert variables["salun"]["label"] == "SalUn"


def test_a_result_records_the_command_that_makes_it(page):
    script, *words = printed_by(page, "shlex.join").split()
    assert script == "main_forget.py"
    request = unlearn_request(words)
    assert (request.unlearn, request.forget) == ("RL", "random:130")
    assert request.mask_path == Path("runs/python/with_0.5.pt")
    commands = {
        name: json.loads((page[0] / name).read_text())["provenance"]["command"]
        for name in ("train_result.json", "mask_result.json")
    }
    assert commands["train_result.json"][0] == "main_train.py"
    assert "--epochs=1" in commands["train_result.json"]
    assert commands["mask_result.json"][0] == "generate_mask.py"


def test_the_image_file_is_classified_as_the_image_is(page):
    """By a network that is built here."""
    folder, variables, _ = page
    digits = load_dataset("digits", "")
    model = build_model("resnet20s", 10, digits.mean, digits.std).eval()
    saved = torch.load(folder / "RLcheckpoint.pth.tar", weights_only=True)
    model.load_state_dict(saved["state_dict"])
    with torch.inference_mode():
        pixels = torch.tensor(digits.x_test[:1]).permute(0, 3, 1, 2).float() / 255
        expected = model(pixels).softmax(1)[0]
    torch.testing.assert_close(variables["probabilities"], expected)
    assert printed_by(page, "load_classifier").split()[0] == str(int(expected.argmax()))
    assert variables["classes"] == digits.classes


def test_the_forget_set_moved_and_frozen_weights_did_not(page):
    variables = page[1]
    before, mask = dict(variables["model"].named_parameters()), variables["mask"]
    frozen = trained = 0
    for name, weight in variables["unlearned"].named_parameters():
        changed = weight != before[name]
        assert not (changed & ~mask[name]).any()
        frozen, trained = frozen + int((~mask[name]).sum()), trained + int(changed.sum())
    assert frozen
    assert trained
    forget = variables["data"].evaluation["forget"]
    assert forget.indices.tolist() == list(range(120))
    right = {}
    for name in ("model", "unlearned"):
        logits, labels = variables["predict"](variables[name], forget)
        right[name] = float((logits.argmax(1) == labels).float().mean())
    assert right["unlearned"] < right["model"] - 0.02


def test_retrain_saw_no_forgotten_image(page):
    data = page[1]["data"]
    assert data.retain.indices.tolist() == list(range(120, 1200))
    assert data.evaluation["val"].indices.tolist() == list(range(1200, 1438))
    logits, labels = page[1]["theirs"]["retain"]
    assert np.mean(logits.argmax(1) == labels) > 0.9


def svc_non_members(splits):
    """The papers' MIA by scikit-learn, in percent: the mean over the same draws."""
    from sklearn.svm import SVC

    def confidence(name, at=slice(None)):
        logits, labels = (part[at] for part in splits[name])
        p = torch.tensor(logits).double().softmax(1).numpy()
        return p[np.arange(len(labels)), labels][:, None]

    shares = []
    for members, others in PLAIN.draws(splits["retain"][1], splits["test"][1]):
        points = np.concatenate([confidence("retain", members), confidence("test", others)])
        machine = SVC(C=3, gamma="auto", kernel="rbf", tol=1e-6)
        machine.fit(points, np.arange(len(points)) < len(members))
        shares.append(np.mean(machine.predict(confidence("forget")) == 0))
    return 100 * np.mean(shares)


def test_the_audit_is_what_its_definitions_say(page):
    by_hand = []
    for name in ("ours", "theirs"):
        splits = page[1][name]
        percent = {part: 100 * np.mean(x.argmax(1) == y) for part, (x, y) in splits.items()}
        attack = svc_non_members(splits)
        by_hand.append([100 - percent["forget"], percent["retain"], percent["test"], attack])
    numbers = list(page[1]["pairs"][0].values())
    assert np.ravel(numbers) == pytest.approx(by_hand[0], abs=0.5)  # at ties of the machine
    gap = np.mean(np.abs(np.subtract(*by_hand)))
    printed = printed_by(page, "gap_of_means")
    assert float(printed.split()[-1]) == pytest.approx(gap, abs=0.25)
    shown = [line.split()[0] for line in printed_by(page, "rmia_auc").splitlines()]
    assert shown == ["loss_auc", "rmia_auc", "js_forget"]


def test_the_table_has_the_numbers_of_the_files(page):
    folder, variables, _ = page
    files = {"SalUn": "RLresult.json", "Retrain": "retrainresult.json"}
    written = {label: json.loads((folder / file).read_text()) for label, file in files.items()}
    assert {row["label"] for row in variables["table"]} == written.keys()
    for row in variables["table"]:
        result = written[row["label"]]
        assert {name: row[name] for name in result["metrics"]} == result["metrics"]
        assert row["seconds"] == result["RTE"]["total"]
    rows = dict(line.split(maxsplit=1) for line in printed_by(page, "scenarios").splitlines())
    gaps = [
        abs(written["SalUn"]["metrics"][name] - written["Retrain"]["metrics"][name])
        for name in FOUR
    ]
    assert float(rows["SalUn"].split()[-1]) == pytest.approx(np.mean(gaps))
