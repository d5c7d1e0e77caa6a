"""report.py --published: the shipped numbers add up, verdicts and reasons, formats, refusals."""

import csv
import io
import json
import statistics
from pathlib import Path

import numpy as np
import pytest
from records import result, runs, write
from scipy import stats

import report
from datasets import DATASETS
from models import MODELS
from reporting.published import published
from unlearn import METHODS

ROOT = Path(__file__).parents[2]
TABLES = published()
# Of methods that published tables have and this project has not.
FOREIGN = {"CoUn", "NoT", "SFRon"}
RETRAIN = [(5.2, 100.0, 94.3, 13.1), (5.6, 100.0, 94.5, 12.6), (4.9, 100.0, 94.4, 13.9)]
SALUN = [(0.60, 99.99, 94.3, 14.4), (0.75, 99.98, 94.5, 15.9), (0.50, 99.99, 94.2, 15.0)]


def out(capsys, *words):
    assert report.main([str(word) for word in words]) == 0
    return capsys.readouterr().out


def refused(capsys, *words):
    assert report.main([str(word) for word in words]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def trained(record, **recipe):
    """The record with an original's budget: what Retrain is compared by."""
    record["hyperparameters"]["unlearn_epochs"] = recipe.pop("epochs", 182)
    record["recipe"] |= {"schedule": "multistep", **recipe}
    return record


@pytest.fixture
def folder(tmp_path):
    retrain = [trained(record) for record in runs("retrain", "Retrain", RETRAIN)]
    few = result("FT", "FT", (0.6, 99.9, 94.2, 2.7))
    return write(tmp_path, *retrain, *runs("RL", "SalUn", SALUN, mask=0.5), few)


def cells(capsys, folder, key="salun_cifar10_10", *more):
    text = out(capsys, folder, "--published", key, "--format", "json", *more)
    (table,) = json.loads(text)
    named = {}
    for cell in table["cells"]:
        named[cell["method"], cell["version"], cell["metric"]] = cell
    return table, named


# ------------------------------------------------------------------------------ the shipped numbers


@pytest.mark.parametrize("key", TABLES)
def test_every_average_gap_is_that_of_its_row(key):
    """Where all four numbers are printed: gaps of means, but for the rounding of the digits."""
    rows = TABLES[key]["rows"]
    (reference,) = [row for row in rows if row["label"] == "Retrain"] or [{"values": {}}]
    for row in rows:
        for end, attack in (("", "MIA"), ("_entropy", "MIA_entropy")):
            names = ("UA", "RA", "TA", attack)
            if row is reference or not set(names) <= row["values"].keys():
                continue
            ours, target = (
                [np.ravel(each["values"][name])[0] for name in names] for each in (row, reference)
            )
            gap = np.abs(np.subtract(ours, target)).mean()
            assert row["values"][f"avg_gap{end}"] == pytest.approx(gap, abs=0.0101), row


@pytest.mark.parametrize("key", TABLES)
def test_every_table_is_whole(key):
    """Source and tag of a number that was seen, a recipe that is there, known names."""
    table = TABLES[key]
    assert table["tag"] in ("P", "C", "T")
    assert table["source"]
    assert (ROOT / table["recipe"]).is_file()
    assert table.get("sd_of", key) in TABLES
    protocol = table["protocol"]
    assert protocol["dataset"] in DATASETS
    assert protocol["arch"] in MODELS
    labels = {method.label for method in METHODS.values()} | {"SalUn"} | FOREIGN
    known = {"UA", "RA", "TA", "MIA", "MIA_entropy", "avg_gap", "avg_gap_entropy"}
    for row in table["rows"]:
        assert row["label"] in labels
        assert row["values"].keys() <= known
    assert len({(row["label"], row.get("version")) for row in table["rows"]}) == len(table["rows"])


def test_no_number_that_was_not_seen_is_there():
    """SalUn's own tables are known for 10 and 50 % of CIFAR-10 alone."""
    own = [table["protocol"] for table in TABLES.values() if "SalUn, ICLR" in table["source"]]
    assert {(protocol["dataset"], protocol["kind"]) for protocol in own} == {("cifar10", "random")}
    assert sorted(protocol["share"] for protocol in own) == [10, 50]


def test_the_list_has_every_key(capsys):
    with pytest.raises(SystemExit) as stop:
        report.make_parser().parse_args(["--published", "list"])
    assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(TABLES)


# ----------------------------------------------------------------------------------------- verdicts


def test_a_cell_is_judged_by_welchs_test_with_the_reruns_deviation(folder, capsys):
    """Of the first table no SD is used: 0.42 and 0.14 are the rerun's."""
    _, found = cells(capsys, folder)
    for name, version, ours, there, sd in (
        ("Retrain", "", RETRAIN, 5.24, 0.42),
        ("SalUn", "April 2024", SALUN, 2.85, 0.14),
        ("SalUn", "March 2024", SALUN, 1.55, 0.14),
    ):
        values = [row[0] for row in ours]
        mean, own = statistics.fmean(values), statistics.stdev(values)
        test = stats.ttest_ind_from_stats(mean, own, 3, there, sd, 10, equal_var=False)
        cell = found[name, version, "UA"]
        assert cell["difference"] == pytest.approx(mean - there)
        wanted = f"differs by {abs(test.statistic):.1f} standard errors"
        assert cell["verdict"] == ("reproduced" if test.pvalue >= 0.05 else wanted)
    assert found["Retrain", "", "UA"]["verdict"] == "reproduced"
    assert found["SalUn", "April 2024", "UA"]["verdict"].startswith("differs by")


def test_an_average_gap_is_judged_by_the_mean_of_its_errors(folder, capsys):
    """The gap of the rows is 1.66 here and 1.15 there; its error by hand, from both rows."""
    _, found = cells(capsys, folder)
    deviations = {"SalUn": {"UA": 0.14, "MIA": 1.36}, "Retrain": {"UA": 0.42, "TA": 0.15}}
    deviations["Retrain"]["MIA"] = 0.68
    sizes, freedoms = [], []
    for place, metric in enumerate(("UA", "RA", "TA", "MIA")):
        squares = []
        for label, ours in (("SalUn", SALUN), ("Retrain", RETRAIN)):
            own = statistics.variance([row[place] for row in ours])
            if metric in deviations[label]:
                parts = own / 3, deviations[label][metric] ** 2 / 10
                squares.append(sum(parts))
                freedoms.append(sum(parts) ** 2 / (parts[0] ** 2 / 2 + parts[1] ** 2 / 9))
            else:
                squares.append(own * (1 / 3 + 1 / 10))
                freedoms.append(2)
        sizes.append(sum(squares) ** 0.5)
    cell = found["SalUn", "April 2024", "Avg. Gap"]
    bound = stats.t.ppf(0.975, min(freedoms)) * np.mean(sizes) + 0.005
    assert cell["verdict"] == "reproduced"
    assert abs(cell["difference"]) <= bound
    assert found["SalUn", "April 2024", "Avg. Gap"]["here"] == pytest.approx(
        np.abs(np.mean(SALUN, 0) - np.mean(RETRAIN, 0)).mean()
    )


def test_fewer_than_three_seeds_have_no_verdict(folder, capsys):
    _, found = cells(capsys, folder)
    assert found["FT", "", "UA"]["verdict"] == (
        "not comparable: 1 of the 3 seeds that a verdict needs"
    )


def test_an_average_gap_needs_three_retrains(tmp_path, capsys):
    retrain = [trained(record) for record in runs("retrain", "Retrain", RETRAIN[:2])]
    write(tmp_path, *retrain, *runs("RL", "SalUn", SALUN, mask=0.5))
    _, found = cells(capsys, tmp_path)
    assert "of Retrain" in found["SalUn", "April 2024", "Avg. Gap"]["verdict"]
    assert found["SalUn", "April 2024", "UA"]["verdict"].startswith("differs")


@pytest.mark.parametrize(
    ("changes", "epochs", "key", "reason"),
    [
        ({"dataset": "digits"}, 182, "salun_cifar10_10", "data set digits, there cifar10"),
        ({"count": 900}, 182, "salun_cifar10_10", "percent forgotten 2, there 10"),
        ({"count": 4600}, 182, "salun_cifar10_10", "images forgotten 4600, there 4500"),
        ({}, 30, "salun_cifar10_10", "epochs of Retrain 30, there 182"),
        ({}, 182, "matryoshka_cifar10_10", "schedule of Retrain multistep, there cosine"),
        ({}, 200, "dualoptim_cifar10_10", "training images 45000, there 50000"),
        ({}, 200, "dualoptim_cifar10_10", "forget sets one, there several"),
        ({}, 182, "coun_cifar100_10_vgg16", "architecture resnet18, there vgg16_bn"),
        (
            {"kind": "class", "forgotten_class": 3},
            182,
            "salun_cifar10_10",
            "what is forgotten class, there random",
        ),
    ],
)
def test_what_sets_a_table_apart_is_said_and_no_cell_is_judged(
    changes, epochs, key, reason, tmp_path, capsys
):
    retrain = runs("retrain", "Retrain", RETRAIN, **changes)
    write(
        tmp_path,
        *(trained(record, epochs=epochs) for record in retrain),
        *runs("RL", "SalUn", SALUN, mask=0.5, **changes),
    )
    table, found = cells(capsys, tmp_path, key)
    assert reason in table["reasons"]
    assert {cell["verdict"] for cell in found.values()} == {"not comparable"}
    text = out(capsys, tmp_path, "--published", key)
    assert f"Not comparable: {'; '.join(table['reasons'])}." in text


def test_another_budget_of_unlearning_sets_a_row_apart(folder, capsys):
    """Ten epochs here, fifty there; Retrain has no such budget."""
    _, found = cells(capsys, folder, "coun_cifar10_50".replace("50", "10"))
    words = "not comparable: 10 epochs of unlearning, there 50"
    assert found["SalUn", "", "Avg. Gap"]["verdict"] == words
    assert "epochs" not in found["Retrain", "", "UA"]["verdict"]


def test_the_other_attack_is_compared_with_its_own_number(tmp_path, capsys):
    """The published share of members stands beside ours, never beside the share of non-members."""
    records = [
        trained(run, epochs=200, schedule="cosine") for run in runs("retrain", "Retrain", RETRAIN)
    ]
    records += runs("RL", "SalUn", SALUN, mask=0.5)
    for place, record in enumerate(records):
        record["data"]["forget"] |= {"count": 5000, "sha256": f"{place % 3}" * 64}
        record["data"]["sizes"] |= {"forget": 5000, "retain": 45000}
        record["metrics"]["MIA_entropy"] = 76.0 + place % 3
    write(tmp_path, *records)
    table, found = cells(capsys, tmp_path, "dualoptim_cifar10_10", "--mixed")
    assert table["reasons"] == []
    assert found["Retrain", "", "MIA (entropy)"]["here"] == pytest.approx(77)
    assert found["Retrain", "", "MIA (entropy)"]["verdict"] == "reproduced"
    assert ("Retrain", "", "MIA") not in found
    assert found["SalUn", "", "Gap (entropy)"]["there"] == 3.47


def test_results_without_the_other_attack_say_so(tmp_path, capsys):
    records = [
        trained(run, epochs=200, schedule="cosine") for run in runs("retrain", "Retrain", RETRAIN)
    ]
    for place, record in enumerate(records):
        record["data"]["forget"] |= {"count": 5000, "sha256": f"{place}" * 64}
        record["data"]["sizes"] |= {"forget": 5000, "retain": 45000}
    write(tmp_path, *records)
    _, found = cells(capsys, tmp_path, "dualoptim_cifar10_10", "--mixed")
    assert "the entropy attack's share" in found["Retrain", "", "MIA (entropy)"]["verdict"]


def test_rows_that_only_one_side_has_are_named(folder, capsys):
    text = out(capsys, folder, "--published", "salun_cifar10_10")
    assert "Published and not run here: RL, GA, IU, BE, BS, l1-sparse, SalUn-soft." in text
    write(folder, result("GA_l1", "GA-l1", SALUN[0]))
    text = out(capsys, folder, "--published", "salun_cifar10_10")
    assert "Run here and not published there: GA-l1." in text


def test_without_retrain_the_original_s_recipe_is_what_sets_a_table_apart(tmp_path, capsys):
    """What Retrain would take over is recorded in each run."""
    for epochs, reasons in ((182, []), (30, ["epochs of Retrain 30, there 182"])):
        records = runs("RL", "SalUn", SALUN, mask=0.5)
        for record in records:
            record["original_recipe"] = {"unlearn_epochs": epochs, "schedule": "multistep"}
        folder = tmp_path / str(epochs)
        folder.mkdir()
        table, _ = cells(capsys, write(folder, *records))
        assert table["reasons"] == reasons


def test_an_attack_by_another_rule_than_retrains_is_not_compared(tmp_path, capsys):
    retrain = [trained(record) for record in runs("retrain", "Retrain", RETRAIN)]
    salun = runs("RL", "SalUn", SALUN, mask=0.5)
    for record in salun:
        record["attack"] = {"members": "first"}
    write(tmp_path, *retrain, *salun)
    _, found = cells(capsys, tmp_path)
    words = "not comparable: its MIA is by another rule than Retrain's"
    for metric, apart in (("UA", False), ("TA", False), ("MIA", True), ("Avg. Gap", True)):
        assert (found["SalUn", "April 2024", metric]["verdict"] == words) == apart
    assert found["Retrain", "", "MIA"]["verdict"] != words


def test_the_notes_of_our_own_table_are_there(folder, capsys):
    broken = result("GA_l1", "GA-l1", SALUN[0], warnings=["it fell"])
    table, _ = cells(capsys, write(folder, broken))
    assert "GA-l1: it fell" in table["notes"]
    assert "GA-l1: it fell" in out(capsys, folder, "--published", "salun_cifar10_10")


# ----------------------------------------------------------------------------- formats and refusals


def test_text_and_markdown_have_a_line_per_cell(folder, capsys):
    table, found = cells(capsys, folder)
    text = out(capsys, folder, "--published", "salun_cifar10_10")
    lines = [line for line in text.splitlines() if line.startswith(("Retrain ", "SalUn ", "FT "))]
    assert len(lines) == len(found)
    assert len({line.rindex("  ") for line in lines}) == 1  # the verdicts begin in one column
    text = out(capsys, folder, "--published", "salun_cifar10_10", "--format", "markdown")
    assert sum(line.startswith("|") for line in text.splitlines()) == len(found) + 2
    assert all(note[:20] in text for note in table["notes"])


def test_csv_has_a_line_per_cell(folder, capsys):
    _, found = cells(capsys, folder)
    text = out(capsys, folder, "--published", "salun_cifar10_10", "--format", "csv")
    lines = list(csv.DictReader(io.StringIO(text)))
    assert [line["verdict"] for line in lines] == [cell["verdict"] for cell in found.values()]


def test_wrong_requests_are_refused(folder, capsys):
    message = refused(capsys, folder, "--published", "salun")
    assert "no such table" in message
    assert all(key in message for key in TABLES)
    key = "salun_cifar10_10"
    assert "text, markdown" in refused(capsys, folder, "--published", key, "--format", "latex")
    assert "drop one" in refused(capsys, folder, "--published", key, "--row", "FT")
    for words in (["--filter", "SalUn"], ["--top", 1]):
        for printed in (["--published", key], ["--row", "FT"]):
            assert f"{words[0]} chooses rows" in refused(capsys, folder, *words, *printed)
