"""The noise of Retrain's seeds in the tables, and the tables in LaTeX, Markdown, CSV and JSON: read
back and recomputed here.
"""

import csv
import io
import itertools
import json
import math
import re
import statistics

import numpy as np
import pytest
from records import METRICS, audit, result, runs, with_shadows, write
from scipy.stats import t

import report
from reporting.latex import LATEX, as_latex, latex
from reporting.results import collect
from reporting.tables import scenarios

RETRAIN = [(5.0, 100.0, 94.0, 13.0), (6.0, 99.9, 94.5, 12.0), (4.0, 100.0, 93.5, 15.0)]
NEAR = [
    (5.5, 99.9, 94.1, 13.5),
    (5.2, 99.9, 94.3, 12.5),
]  # both seeds within what Retrain's seeds explain
FAR = [(0.5, 99.9, 80.0, 2.0), (0.7, 100.0, 81.0, 3.0)]  # RA alone is inside


def printed(capsys, folder, style):
    assert report.main([str(folder), "--format", style]) == 0
    return capsys.readouterr().out


def rows_of(capsys, folder):
    (table,) = json.loads(printed(capsys, folder, "json"))
    return {row["name"]: row for row in table["rows"]}, table


@pytest.fixture
def folder(tmp_path):
    """Three Retrain, a method inside the noise, one outside, one that warns and is the closest, and
    doing nothing.
    """
    return write(
        tmp_path,
        *runs("retrain", "Retrain", RETRAIN),
        *runs("RL", "SalUn", NEAR, mask=0.5),
        *runs("GA", "GA", FAR),
        result("FT", "FT", (5.0, 99.96, 94.0, 13.3), warnings=["it fell"]),
        result("raw", "Original", (5.0, 99.96, 94.0, 13.3)),
    )


# -------------------------------------------------------------------------------------------- noise


def test_floor_is_the_mean_difference_of_two_retrain_runs_shrunk_by_their_number(folder, capsys):
    """By all pairs, for 1 against 3 runs, as single runs are no rarer than other rows: sqrt((1 +
    1/3) / 2) of a pair's difference.
    """
    _, table = rows_of(capsys, folder)
    for index, metric in enumerate(METRICS):
        pairs = [abs(a[index] - b[index]) for a, b in itertools.combinations(RETRAIN, 2)]
        assert table["floor"][metric] == pytest.approx(statistics.mean(pairs) * math.sqrt(2 / 3))
    assert table["floor"]["avg_gap"] == pytest.approx(
        statistics.mean(table["floor"][metric] for metric in METRICS)
    )
    assert table["floor"]["runs"] == 1


def test_floor_is_of_as_many_runs_as_most_rows_average_over(tmp_path, capsys):
    methods = [run for name in ("RL", "GA") for run in runs(name, name, NEAR)]
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), *methods, result("raw", "Original"))
    _, table = rows_of(capsys, tmp_path)
    pairs = [abs(a[0] - b[0]) for a, b in itertools.combinations(RETRAIN, 2)]
    assert table["floor"]["runs"] == 2
    assert table["floor"]["UA"] == pytest.approx(
        statistics.mean(pairs) * math.sqrt((1 / 2 + 1 / 3) / 2)
    )
    assert "Retrain again: the gaps to expect of the mean of 2 more Retrain runs." in printed(
        capsys, tmp_path, "text"
    )


def test_band_is_students_and_marks_the_gaps_inside(folder, capsys):
    rows, _ = rows_of(capsys, folder)
    for name, values in (("SalUn", NEAR), ("GA", FAR), ("FT", [(5.0, 99.96, 94.0, 13.3)])):
        for index, metric in enumerate(METRICS):
            retrain = [run[index] for run in RETRAIN]
            band = t.ppf(0.975, 2) * statistics.stdev(retrain) * math.sqrt(1 / len(values) + 1 / 3)
            gap = statistics.mean(run[index] for run in values) - statistics.mean(retrain)
            assert rows[name][f"{metric}_band"] == pytest.approx(band)
            assert rows[name][f"{metric}_inside_noise"] == (abs(gap) <= band)
    assert [rows["GA"][f"{metric}_inside_noise"] for metric in METRICS] == [
        False,
        True,
        False,
        False,
    ]
    assert (
        rows["SalUn"]["inside_noise"],
        rows["GA"]["inside_noise"],
        rows["Retrain"]["inside_noise"],
    ) == (True, False, None)


def test_each_row_has_the_floor_of_its_own_number_of_runs(folder, capsys):
    rows, table = rows_of(capsys, folder)
    for name, count in (("FT", 1), ("GA", 2), ("Retrain", 3)):
        assert rows[name]["avg_gap_floor"] == pytest.approx(
            table["floor"]["avg_gap"] * math.sqrt((1 / count + 1 / 3) / (1 + 1 / 3))
        )


def test_one_retrain_run_has_no_floor(tmp_path, capsys):
    write(tmp_path, result("retrain", "Retrain"), result("FT"))
    rows, table = rows_of(capsys, tmp_path)
    assert table["floor"] is None
    assert all(
        rows["FT"][f"{metric}_{what}"] is None
        for metric in METRICS
        for what in ("band", "inside_noise")
    )
    for style in ("text", "markdown", "latex"):
        assert "again" not in printed(capsys, tmp_path, style)


@pytest.mark.parametrize("missing", [math.nan, None], ids=str)
def test_runs_without_an_attack_leave_the_rest_of_the_table_whole(tmp_path, capsys, missing):
    """MIA is no number in one Retrain: no floor, no mark on MIA, the other columns marked; and JSON
    that others can read.
    """
    write(
        tmp_path,
        *runs("retrain", "Retrain", [*RETRAIN[:2], (4.0, 100.0, 93.5, missing)]),
        *runs("RL", "SalUn", NEAR, mask=0.5),
    )
    json.loads(printed(capsys, tmp_path, "json"), parse_constant=pytest.fail)
    rows, table = rows_of(capsys, tmp_path)
    assert table["floor"] is None
    assert [rows["SalUn"][f"{metric}_inside_noise"] for metric in METRICS] == [
        True,
        True,
        True,
        None,
    ]
    for style in ("text", "markdown", "latex", "csv"):
        assert "SalUn" in printed(capsys, tmp_path, style)


def test_interval_of_few_seeds_is_students_and_of_one_there_is_none(folder, capsys):
    rows, _ = rows_of(capsys, folder)
    for index, metric in enumerate(METRICS):
        values = [run[index] for run in RETRAIN]
        wanted = np.clip(
            t.interval(0.95, 2, statistics.mean(values), statistics.stdev(values) / math.sqrt(3)),
            0,
            100,
        )
        assert [
            rows["Retrain"][f"{metric}_low"],
            rows["Retrain"][f"{metric}_high"],
        ] == pytest.approx(wanted)
        assert rows["FT"][f"{metric}_low"] is rows["FT"][f"{metric}_high"] is None


def test_text_says_what_retrain_scores_again_and_marks_what_is_inside(folder, capsys):
    lines = printed(capsys, folder, "text").splitlines()
    header, retrain, again, *_ = lines[1:]
    assert retrain.startswith("Retrain ")
    assert again.startswith("Retrain again ")
    assert re.findall(r"±(\d+\.\d\d)", again) == ["1.09", "0.05", "0.54", "1.63"]
    assert "Retrain again: the gaps to expect of one more Retrain run." in lines
    assert len({len(line) for line in (header, retrain, again)}) == 1
    by_name = {line.split("  ")[0].strip(): line for line in lines[2:8]}
    assert by_name["SalUn"].count("~") == 5  # four gaps, and Avg. Gap
    assert re.findall(r"\(([-+][\d.]+)\)~", by_name["GA"]) == ["-0.02"]


def test_mark_of_the_average_is_its_own_band_not_that_all_four_are_inside(tmp_path, capsys):
    """RA never varied: one run in 40,500 images off is outside by RA, and far within the mean band
    of the four.
    """
    retrain = [(5.0, 100.0, 94.0, 13.0), (6.0, 100.0, 94.5, 12.0), (4.0, 100.0, 93.5, 15.0)]
    write(
        tmp_path,
        *runs("retrain", "Retrain", retrain),
        result("RL", "SalUn", (5.0, 99.9975, 94.0, 13.0), mask=0.5),
    )
    rows, _ = rows_of(capsys, tmp_path)
    assert rows["SalUn"]["RA_inside_noise"] is False
    assert rows["SalUn"]["inside_noise"] is True
    bands = [
        t.ppf(0.975, 2) * statistics.stdev(run[i] for run in retrain) * math.sqrt(4 / 3)
        for i in range(4)
    ]
    assert rows["SalUn"]["avg_gap_band"] == pytest.approx(statistics.mean(bands))
    assert "at least 95 %" in printed(capsys, tmp_path, "text")


@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_retrains_mark_nothing_and_say_so(tmp_path, capsys, count):
    """In every format, on the page and in the plots: no mark, one line, no error."""
    write(
        tmp_path,
        *runs("retrain", "Retrain", RETRAIN[:count]),
        *runs("RL", "SalUn", NEAR),
        result("raw", "Original", RETRAIN[0]),
    )
    rows, table = rows_of(capsys, tmp_path)
    assert all(
        row[f"{name}_inside_noise"] is row[f"{name}_band"] is None
        for row in rows.values()
        for name in METRICS
    )
    assert all(row["inside_noise"] is row["avg_gap_band"] is None for row in rows.values())
    assert (table["floor"] is None) == (count == 1)
    for style in ("text", "markdown", "latex"):
        out = printed(capsys, tmp_path, style)
        assert out.count("needs 3 Retrain runs") == 1
        assert not re.search(r"[\d)]\s?\\?~|textsuperscript", out)
    assert not any(
        line["UA_inside_noise"]
        for line in csv.DictReader(io.StringIO(printed(capsys, tmp_path, "csv")))
    )
    assert (
        report.main(
            [
                str(tmp_path),
                "--html",
                str(tmp_path / "page.html"),
                "--plots",
                str(tmp_path / "plots"),
            ]
        )
        == 0
    )
    page = (tmp_path / "page.html").read_text()
    assert 'class="noise' not in page
    assert page.count("needs 3 Retrain runs") == 1


# --------------------------------------------------------------------------------- two average gaps


def with_entropy(results, rates):
    for made, rate in zip(results, rates, strict=True):
        made["metrics"]["MIA_entropy"] = rate
    return results


def test_both_average_gaps_stand_side_by_side(tmp_path, capsys):
    """MIA apart by 0.5, entropy rates by 8: the second gap has the latter in the place of the
    former; marks are of their own.
    """
    retrain = with_entropy(runs("retrain", "Retrain", RETRAIN), (75.0, 76.0, 77.0))
    method = with_entropy(runs("RL", "SalUn", NEAR, mask=0.5), (84.0, 84.0))
    write(tmp_path, *retrain, *method, result("FT", "FT", RETRAIN[0]))
    rows, table = rows_of(capsys, tmp_path)
    gaps = np.abs(np.mean(NEAR, 0) - np.mean(RETRAIN, 0))
    salun = rows["SalUn"]
    assert salun["avg_gap"] == pytest.approx(gaps.mean())
    assert salun["avg_gap_entropy"] == pytest.approx((gaps[:3].sum() + 8) / 4)
    assert (salun["MIA_entropy"], salun["MIA_entropy_gap"], salun["MIA_entropy_inside_noise"]) == (
        84,
        8,
        False,
    )
    assert salun["mean_paired_gap_entropy"] == pytest.approx(
        (np.abs(np.subtract(NEAR, RETRAIN[:2]))[:, :3].sum() + 9 + 8) / 8
    )
    spread = [
        statistics.stdev(column)
        for column in (*list(zip(*RETRAIN, strict=True))[:3], (75.0, 76.0, 77.0))
    ]
    band = t.ppf(0.975, 2) * math.sqrt(1 / 2 + 1 / 3) * statistics.mean(spread)
    assert salun["avg_gap_entropy_band"] == pytest.approx(band)
    assert salun["inside_noise_entropy"] == (salun["avg_gap_entropy"] <= band)
    assert (
        rows["FT"]["avg_gap_entropy"]
        is rows["FT"]["MIA_entropy"]
        is rows["FT"]["inside_noise_entropy"]
        is None
    )
    assert table["floor"]["avg_gap_entropy"] > 0
    for style in ("text", "markdown", "latex"):
        out = printed(capsys, tmp_path, style)
        assert "Gap (entropy)" in out
        assert f"{salun['avg_gap_entropy']:.2f}" in next(
            line for line in out.splitlines() if "SalUn" in line
        )
        assert re.search(
            r"(  -  |\| - \|| - &)",
            next(line for line in out.splitlines() if re.match(r"(\| |\\textbf{)?FT\b", line)),
        )


def test_older_results_have_the_first_gap_alone(folder, capsys):
    rows, table = rows_of(capsys, folder)
    assert all(
        row["avg_gap"] is not None
        and row["avg_gap_entropy"] is row["mean_paired_gap_entropy"] is None
        for row in rows.values()
    )
    assert table["floor"]["avg_gap_entropy"] is None
    for line in printed(capsys, folder, "text").splitlines()[2:8]:
        assert re.split(r" {2,}", line.strip())[6] == "-"


# --------------------------------------------------------------------------------------------- best


def test_best_is_the_closest_method_without_a_warning(folder, capsys):
    """FT is closer but warns; Original did nothing."""
    rows, _ = rows_of(capsys, folder)
    assert [name for name, row in rows.items() if row["is_best"]] == ["SalUn"]
    assert rows["FT"]["avg_gap"] < rows["SalUn"]["avg_gap"]
    assert rows["FT"]["warnings"] == 1


def test_without_retrain_nothing_is_best(tmp_path, capsys):
    rows, _ = rows_of(capsys, write(tmp_path, result("FT")))
    assert not rows["FT"]["is_best"]


# -------------------------------------------------------------------------------------------- LaTeX


def plain(cell):
    """A LaTeX cell as the text it shows."""
    cell = re.sub(r"\\textbf\{(.*)\}$", r"\1", cell.strip())
    cell = (
        cell.replace(r"\textsuperscript{$\sim$}", "~")
        .replace("$-$", "-")
        .replace("$+$", "+")
        .replace(r"$\pm$", "±")
    )
    for character, command in LATEX.items():
        cell = cell.replace(command, character) if len(command) > 1 and character != "±" else cell
    return cell


def latex_rows(text):
    body = text.split(r"\toprule")[1].split(r"\bottomrule")[0]
    lines = [line for line in body.strip().splitlines() if not line.startswith(r"\midrule")]
    assert all(line.endswith(r" \\") for line in lines)
    return [line.removesuffix(r" \\").split(" & ") for line in lines]


def test_latex_rows_are_those_of_the_text(folder, capsys):
    text = printed(capsys, folder, "text").splitlines()
    shown = [[cell.strip() for cell in re.split(r" {2,}", line.strip())] for line in text[1:8]]
    rows = latex_rows(printed(capsys, folder, "latex"))
    assert [[plain(cell) for cell in row] for row in rows] == shown


def test_latex_marks_the_best_in_bold_and_explains_every_mark(folder, capsys):
    out = printed(capsys, folder, "latex")
    bold = [row for row in latex_rows(out) if r"\textbf" in " ".join(row)]
    assert [(row[0], row[5].startswith(r"\textbf{")) for row in bold] == [(r"\textbf{SalUn}", True)]
    assert [out.count(rf"\{part}") for part in ("toprule", "midrule", "bottomrule")] == [1, 2, 1]
    caption = re.search(r"\\caption\{(.*)\}", out)[1]
    assert "Bold: " in caption
    assert r"$\sim$: a gap that" in caption
    assert "Retrain again: " in caption
    assert "FT: it fell" in out.splitlines()[-1]
    for opened, closed in (
        ("begin{table}", "end{table}"),
        ("begin{tabular}", "end{tabular}"),
        ("{", "}"),
    ):
        assert out.count(opened) == out.count(closed)


def test_latex_of_a_hostile_label_has_no_command_of_its_own(tmp_path):
    label = "\\input{/etc/passwd} & 50% $x_1^2$ #{}~ <b> |\n\\end{document}"
    (table,) = (as_latex(scenarios(collect([write(tmp_path, result("own", label))]), [])),)
    assert not re.search(r"\\(input|end\{document)", table)
    (row,) = latex_rows(table)[1:]
    assert len(row) == 9
    assert "%" not in re.sub(r"\\%", "", row[0])
    assert plain(row[0]).replace("\n", " ") == plain(latex(label))


# --------------------------------------------------------------------------- Markdown, CSV and JSON


def test_markdown_keeps_its_columns_whatever_a_label_holds(tmp_path, capsys):
    write(tmp_path, result("retrain", "Retrain"), result("own", "a|b"))
    lines = [
        line for line in printed(capsys, tmp_path, "markdown").splitlines() if line.startswith("|")
    ]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {10}


def test_markdown_has_no_markup_of_an_audits_labels(tmp_path, capsys):
    """The names of the rows stand in the header of the table of U-LiRA."""
    content = with_shadows(audit(result("own", "<img src=x>")))
    (tmp_path / "audit.json").write_text(json.dumps(content))
    out = printed(capsys, tmp_path, "markdown")
    assert "&lt;img" in out
    assert "<img" not in out


def test_csv_and_json_hold_the_same_numbers(folder, capsys):
    rows, _ = rows_of(capsys, folder)
    for line in csv.DictReader(io.StringIO(printed(capsys, folder, "csv"))):
        row = rows[line["name"]]
        assert set(line) == {"scenario", *row}
        for name, value in row.items():
            assert line[name] == ("" if value is None else str(value))


def test_json_has_the_audits_beside_their_table(tmp_path, capsys):
    results = [*runs("retrain", "Retrain", RETRAIN), *runs("FT", "FT", NEAR)]
    write(tmp_path, *results)
    (tmp_path / "audit.json").write_text(json.dumps(audit(*results)))
    _, table = rows_of(capsys, tmp_path)
    (found,) = table["audits"]
    assert [row["mean"]["loss_auc"] for row in found["rows"]] == [0.5, 0.51]
    assert found["rows"][1]["models"] == [
        result["provenance"]["unlearned_sha256"] for result in results[3:]
    ]
    assert found["metrics"]["loss_auc"]["good"] == 0.5


def test_two_rows_that_no_setting_tells_apart_have_names_of_their_own(tmp_path, capsys):
    """The second one lacks a setting that the first has, which shows in the first
    one's name only.
    """
    other = result("FT")
    del other["hyperparameters"]["unlearn_epochs"], other["hyperparameters"]["unlearn_lr"]
    third = result("FT")
    third["hyperparameters"] = {"other": None}
    rows, _ = rows_of(capsys, write(tmp_path, result("FT"), other, third))
    assert len(rows) == 3


@pytest.mark.parametrize("seed", range(3))
def test_marks_agree_with_a_direct_computation(tmp_path, capsys, seed):
    """Random runs: every mark in the text against numpy."""
    rng = np.random.default_rng(seed)
    retrain, method = rng.normal(50, 1, (4, 4)), rng.normal(50.5, 1, (3, 4))
    write(
        tmp_path, *runs("retrain", "Retrain", retrain.tolist()), *runs("FT", "FT", method.tolist())
    )
    line = next(
        line for line in printed(capsys, tmp_path, "text").splitlines() if line.startswith("FT")
    )
    band = t.ppf(0.975, 3) * retrain.std(0, ddof=1) * np.sqrt(1 / 3 + 1 / 4)
    inside = np.abs(method.mean(0) - retrain.mean(0)) <= band
    assert [mark == "~" for mark in re.findall(r"\([-+.\d]+\)(.)", line)] == inside.tolist()


def test_the_first_table_shows_rmia_beside_the_gaps_where_an_audit_has_it(tmp_path, capsys):
    """The mean of the row's models' chance intervals; a dash for the floor and for what was not
    audited; no column without an audit.
    """
    results = [*runs("retrain", "Retrain", RETRAIN), *runs("FT", "FT", NEAR), result("GA", seed=9)]
    write(tmp_path, *results)
    assert "RMIA" not in printed(capsys, tmp_path, "text")
    made = audit(*results[:-1])
    for row in made["rows"]:
        row["mean"] = row["mean"] | {"rmia_auc": 0.512}
    for number, model in enumerate(made["models"]):
        model["chance"] = {"rmia_auc": [0.44 + 0.01 * number, 0.55]}
    (tmp_path / "audit.json").write_text(json.dumps(made))
    for kind in ("text", "markdown"):
        table = printed(capsys, tmp_path, kind)
        assert "RMIA AUC (chance)" in table
        lines = {
            name: next(line for line in table.splitlines() if name in line.split("  ")[0])
            for name in ("Retrain", "FT", "GA", "again")
        }
        assert "0.512 (0.450 to 0.550)" in lines["Retrain"]
        assert "0.512 (0.475 to 0.550)" in lines["FT"]
        assert "0.512" not in lines["GA"] + lines["again"]
    latex_lines = {
        re.sub(r"\\textbf{(.*)}", r"\1", line.split(" & ")[0]): line
        for line in printed(capsys, tmp_path, "latex").splitlines()
        if " & " in line
    }
    assert latex_lines["FT"].endswith(r"0.512 (0.475 to 0.550) \\")
    assert latex_lines["GA"].endswith(r" & - \\")
    assert {line.count(" & ") for line in latex_lines.values()} == {9}
    numbers = {
        row["name"]: row for row in csv.DictReader(io.StringIO(printed(capsys, tmp_path, "csv")))
    }
    assert [numbers["FT"][f"rmia_auc{end}"] for end in ("", "_chance_low", "_chance_high")] == [
        "0.512",
        "0.475",
        "0.55",
    ]
    assert numbers["GA"]["rmia_auc"] == ""
    page = tmp_path / "page.html"
    assert report.main([str(tmp_path), "--html", str(page)]) == 0
    first = page.read_text().split("</table>")[0]
    assert '0.512<span class="gap">(0.475 to 0.550)</span>' in first
    beside = r">([^<]*)</th><td[^>]*>[^<]*</td><td>-</td>"
    assert re.findall(beside, first) == ["Retrain again", "GA"]
