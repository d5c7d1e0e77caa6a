"""benchmarks/methods_table.py: gaps by hand from made-up results, and what is inside noise."""

import statistics

import pytest
import scipy.stats

from benchmarks import methods, methods_table
from benchmarks.methods_table import BASELINE, Results
from runtime.files import save_json
from sweeping.plan import make_plan

SPREAD = {2: 0.0, 3: 1.0, 4: 2.0, 5: 3.0, 6: 4.0, 7: 0.5, 8: 1.0, 9: 1.5}  # by seed


def metrics_of(run):
    """Retrain's UA varies by seed; doing nothing is 8 points off in each metric, others 4 in UA."""
    ua = 10 + SPREAD[run.seed or run.axes["seed"]]
    apart = {"retrain": (0, 0), "raw": (8, 8)}.get(run.settings["unlearn"], (4, 0))
    if run.stage == "salun":
        apart = (0, 0)
    return {
        "UA": ua + apart[0],
        "RA": 90.0 - apart[1],
        "TA": 80.0 - apart[1],
        "MIA": 20.0 - apart[1],
        "MIA_entropy": 60.0,
    }


@pytest.fixture(params=methods.KINDS)
def results(request, tmp_path):
    content = methods.content_of(methods.PLAN, request.param, tmp_path / request.param)
    found = Results(make_plan(content))
    for run in found.runs:
        if run.script in ("main_forget", "main_random"):
            label = {"raw": "Original"}.get(run.settings["unlearn"], run.settings["unlearn"])
            found.file(run).parent.mkdir(parents=True, exist_ok=True)
            label = "SalUn" if "mask_path" in run.settings else label
            made = {"label": label, "metrics": metrics_of(run), "provenance": {"git": "a" * 40}}
            save_json(made, found.file(run))
    return found


def test_gaps_are_to_retrain_on_the_same_forget_set(results):
    entries = {entry.name: entry for entry in results.entries()}
    assert entries["Original"].gaps == dict.fromkeys(range(2, 7), 8.0)


def test_the_mark_is_students_on_the_retrains_of_one_forget_set(results):
    """Five differences of two Retrains each have the variance 2 s^2; four runs are less certain."""
    alone = (0, 1, 2, 3, 4) if results.one_class else (0, 0.5, 1, 1.5)
    quantile = scipy.stats.t.ppf(0.975, len(alone) - 1)
    for count in (4, 5):
        half = quantile * statistics.stdev(alone) * (2 / count) ** 0.5
        assert results.bound(("UA",), count) == pytest.approx(half)
        assert results.bound(("UA", "RA"), count) == pytest.approx(half / 2)


def test_a_row_s_marks_and_differences(results):
    found = {row[0]: row for row in methods_table.rows(results)}
    assert "~" in found["SalUn"][5]  # it is Retrain
    assert "~" not in found["Original"][5]
    assert found[BASELINE][7] == found["Original"][8] == ""
    assert found["Original"][7].startswith("**+")
    assert next(iter(found)) == "Retrain"


def test_a_row_without_all_its_runs_says_so(results):
    run = next(run for run in results.runs if run.settings.get("unlearn") == "munba")
    results.file(run).unlink()
    assert any(row[0] == "munba (4 of 5 runs)" for row in methods_table.rows(results))
    for run in results.runs:
        if run.settings.get("unlearn") == "munba" and run.seed != 6:
            results.file(run).unlink(missing_ok=True)
    (row,) = (row for row in methods_table.rows(results) if row[0] == "munba (1 of 5 runs)")
    assert "±" not in row[5]
    assert row[7].endswith("(-inf to +inf)")


def test_the_page_names_what_the_runs_record_and_wants_the_baseline(results):
    assert "commit aaaaaaaaa, " in methods_table.page({"random": results})
    for run in results.runs:
        if run.stage == "long_FT":
            results.file(run).unlink()
    with pytest.raises(SystemExit, match="no result of FT, long budget"):
        methods_table.page({"random": results})
