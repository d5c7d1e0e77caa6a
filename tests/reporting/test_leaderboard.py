"""report.py --row: one row of docs/results.md against numbers computed here, and its refusals."""

from pathlib import Path

import numpy as np
import pytest
from records import result, runs, write
from scipy import stats

import report
from reporting.leaderboard import COLUMNS, heading

ROOT = Path(__file__).parents[2]
RETRAIN = [(5.2, 100.0, 94.3, 13.1), (5.6, 100.0, 94.5, 12.6), (4.9, 100.0, 94.4, 13.9)]
SALUN = [(2.9, 99.6, 94.0, 14.4), (7.8, 99.8, 93.6, 11.0), (5.0, 99.2, 94.2, 15.9)]


def row_of(capsys, folder, name):
    assert report.main([str(folder), "--row", name]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    cells = [cell.strip() for cell in captured.out.strip().strip("|").split(" | ")]
    return dict(zip(COLUMNS, cells, strict=True))


def refused(capsys, folder, *words):
    assert report.main([str(folder), *words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture
def folder(tmp_path):
    retrain = runs("retrain", "Retrain", RETRAIN)
    one = result("FT", "FT", (0.6, 99.9, 94.2, 2.7), warnings=["it fell"])
    return write(tmp_path, *retrain, *runs("RL", "SalUn", SALUN, mask=0.5), one)


def test_a_row_has_the_reports_numbers_and_their_origin(folder, capsys):
    row = row_of(capsys, folder, "salun")
    assert row["method"] == "SalUn"
    assert row["setting"].startswith("cifar10 (dddddddd), resnet18: forget 4500 training images")
    assert (row["seeds"], row["Retrains"]) == ("3 (1, 2, 3)", "3")
    for metric, values in zip(("UA", "RA", "TA", "MIA"), np.transpose(SALUN), strict=True):
        assert row[metric] == f"{values.mean():.2f}±{values.std(ddof=1):.2f}"
    gap = np.abs(np.mean(SALUN, 0) - np.mean(RETRAIN, 0)).mean()
    assert row["Avg. Gap"] == f"{gap:.2f}"
    assert (row["hardware"], row["commit"]) == ("cpu: test", "abc")
    assert row["command"] == "`python main_forget.py --unlearn RL`"


def test_the_interval_is_the_mean_of_the_metrics(folder, capsys):
    row = row_of(capsys, folder, "SalUn")
    pairs = zip(np.transpose(SALUN), np.transpose(RETRAIN), strict=True)
    errors = [np.hypot(stats.sem(ours), stats.sem(target)) for ours, target in pairs]
    half = stats.t.ppf(0.975, 2) * np.mean(errors)
    gap = np.abs(np.mean(SALUN, 0) - np.mean(RETRAIN, 0)).mean()
    assert row["interval"] == f"{max(gap - half, 0):.2f} to {gap + half:.2f}"


def test_an_interval_ends_at_a_hundred(tmp_path, capsys):
    far = [(98.0, 2.0, 3.0, 100.0), (2.0, 99.0, 95.0, 10.0)]
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), *runs("GA", "GA", far))
    assert row_of(capsys, tmp_path, "GA")["interval"] == "0.00 to 100.00"


def test_one_run_has_no_interval_and_a_warning_is_named(folder, capsys):
    row = row_of(capsys, folder, "FT")
    assert row["interval"] == "-"
    assert row["UA"] == "0.60"
    assert row["method"] == "FT, 1 run with a warning"


def test_seeds_are_in_order_and_the_command_is_the_firsts(tmp_path, capsys):
    records = runs("GA", "GA", SALUN)
    for seed, record in zip((10, 2, 9), records, strict=True):
        record["provenance"] |= {"seed": seed, "command": ["main_forget.py", "--seed", str(seed)]}
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), *records)
    row = row_of(capsys, tmp_path, "GA")
    assert row["seeds"] == "3 (2, 9, 10)"
    assert row["command"] == "`python main_forget.py --seed 2`"


@pytest.mark.parametrize("count", [0, 1, 2])
def test_fewer_than_three_retrains_are_refused(count, tmp_path, capsys):
    retrain = runs("retrain", "Retrain", RETRAIN[:count])
    write(tmp_path, *retrain, *runs("RL", "SalUn", SALUN, mask=0.5))
    message = refused(capsys, tmp_path, "--row", "SalUn")
    assert f"{count} Retrain run" in message
    assert "needs 3" in message


def test_a_name_of_no_or_several_rows_is_refused(folder, capsys):
    assert "there is Retrain, SalUn, FT" in refused(capsys, folder, "--row", "GA")
    write(folder, result("FT", "FT", lr=0.5))
    message = refused(capsys, folder, "--row", "ft")
    assert "'FT (unlearn_lr 0.01)'" in message
    assert row_of(capsys, folder, "FT (unlearn_lr 0.5)")["method"] == "FT (unlearn_lr 0.5)"


def test_a_bar_or_a_path_of_a_command_is_made_harmless(tmp_path, capsys):
    record = result("FT", "FT")
    record["provenance"]["command"] += ["--data", "/home/somebody/a|b"]
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), record)
    command = row_of(capsys, tmp_path, "FT")["command"]
    assert "somebody" not in command
    assert r"a\|b" in command


def test_other_formats_are_refused(folder, capsys):
    assert "prints Markdown" in refused(capsys, folder, "--row", "FT", "--format", "json")


def test_the_page_of_results_has_the_heading():
    assert "\n".join(heading()) in (ROOT / "docs/results.md").read_text()


def test_forget_sets_without_a_retrain_are_refused_and_several_are_named(tmp_path, capsys):
    records = runs("retrain", "Retrain", RETRAIN) + runs("RL", "SalUn", SALUN, mask=0.5)
    for place, record in enumerate(records):
        record["data"]["forget"] = record["data"]["forget"] | {"sha256": f"{place % 3}" * 64}
    write(tmp_path, *records)
    assert report.main([str(tmp_path), "--row", "SalUn", "--mixed"]) == 0
    assert "(10 %, random), 3 forget sets |" in capsys.readouterr().out
    other = result("RL", "SalUn", SALUN[0], seed=4, mask=0.5, forget="a" * 64)
    write(tmp_path, other)
    message = refused(capsys, tmp_path, "--row", "SalUn", "--mixed")
    assert "1 of its 4 forget sets have no Retrain" in message
    assert report.main([str(tmp_path), "--mixed"]) == 0
    said = capsys.readouterr().out
    assert "No Retrain is of the forget set of 1 run, in " in said
    assert "their gaps are to Retrains of other sets." in said
