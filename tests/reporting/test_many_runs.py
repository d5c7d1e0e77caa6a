"""Tables of very many runs and rows: what the page draws of them is bounded by rows, and stays what
numpy and a plain loop say.
"""

import json
import re

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, browser
from records import NEAR, RETRAIN, result, runs, write

import report
from evaluation.intervals import bootstrap_mean, mean_interval
from reporting.curves import with_curves
from reporting.drawing import MOST_ROWS
from reporting.groups import grouped
from reporting.mask_plots import MOST_MASKS, mask_plot
from reporting.notes import warnings_of
from reporting.plots import as_svg, plots_of
from reporting.results import collect
from reporting.run_plots import MOST_SINGLE, band, compared_limits, epoch_figure
from reporting.table_plots import FEW_NAMES
from reporting.tables import scenarios


def curves_of(runs, epochs=4):
    """Epochs of so many runs, with values that differ by run and epoch."""
    values = np.random.default_rng(0).uniform(80, 90, (runs, epochs))
    return [
        [{"epoch": float(at), "val": float(value)} for at, value in enumerate(row, 1)]
        for row in values
    ], values


def read(folder):
    (scenario,) = scenarios(collect([folder]), [])
    return with_curves(scenario)


def settings(folder, count, **changes):
    """Three Retrains and a method with ``count`` rates, each further from Retrain than the last."""
    rows = [result("FT", None, (5 + i, 99.0, 93.0, 12.0), lr=i, **changes) for i in range(count)]
    write(folder, *runs("retrain", "Retrain", RETRAIN), *rows)
    return folder


def points(svg):
    """The points of all paths that are drawn."""
    return sum(len(re.findall(r"[MLCQ] ?[-\d]", path)) for path in re.findall(r' d="([^"]*)"', svg))


# --------------------------------------------------------------------------------------------- runs


def test_few_runs_are_lines_and_more_are_mean_and_range():
    for count in (1, MOST_SINGLE):
        (panel,) = epoch_figure({"FT": curves_of(count)[0]}, {"val": "C0"}, "").axes
        assert len(panel.lines) == count
        assert (len(panel.collections), panel.get_legend()) == (0, None)
    records, values = curves_of(MOST_SINGLE + 1)
    (panel,) = epoch_figure({"FT": records}, {"val": "C0"}, "").axes
    (line,) = panel.lines
    assert line.get_ydata() == pytest.approx(values.mean(0))
    (shaded,) = panel.collections
    corners = shaded.get_paths()[0].vertices
    for epoch, column in enumerate(values.T, 1):
        here = corners[corners[:, 0] == epoch, 1]
        assert (here.min(), here.max()) == pytest.approx((column.min(), column.max()))
    assert panel.get_legend().get_title().get_text() == f"n = {MOST_SINGLE + 1}"


def test_band_is_of_the_runs_that_recorded_the_epoch():
    """One run ended early, one has no number there, and one began before: as numpy's nan functions
    have it.
    """
    wanted = np.array([[1, 2, np.nan, np.nan], [np.nan, 5, 7, 9], [4, np.nan, 1, 2.5]])
    records = [
        [
            {"epoch": float(at), "val": None if np.isnan(value) else value}
            for at, value in enumerate(row)
        ]
        for row in wanted
    ]
    del records[0][3]
    found = np.array(band(records, "val"))
    assert found[:, 0].tolist() == [0, 1, 2, 3]
    for column, function in zip(found.T[1:], (np.nanmean, np.nanmin, np.nanmax), strict=True):
        assert column == pytest.approx(function(wanted, axis=0))
    assert band(records, "loss") == []


def test_points_of_a_drawing_do_not_grow_with_the_runs():
    drawn = []
    for count in (MOST_SINGLE + 1, 300):
        figure = epoch_figure({"FT": curves_of(count)[0]}, {"val": "#123456"}, "")
        drawn.append(points(as_svg(figure, "x")))
    assert 20 < drawn[1] <= drawn[0] + 5  # ticks may move with the range


def test_a_page_of_many_runs_is_as_large_as_one_of_few(tmp_path):
    """But for what one line says of the runs' facts: at most ten values of each."""
    sizes = []
    for count in (20, 80):
        folder = tmp_path / str(count)
        folder.mkdir()
        many = [
            result("FT", None, (5 + i % 7, 99.0, 93.0, 12.0), seed=100 + i) for i in range(count)
        ]
        write(folder, *runs("retrain", "Retrain", RETRAIN), *many)
        for file in folder.rglob("FTresult.json"):
            lines = [json.dumps({"epoch": at, "loss": at / 7, "val": 80 + at}) for at in range(9)]
            file.with_name("FTcurve.jsonl").write_text("\n".join(lines))
        assert report.main([str(folder), "--html", str(folder / "page.html")]) == 0
        text = (folder / "page.html").read_text()
        sizes.append((len(text), points(text)))
    assert sizes[1][0] < 1.02 * sizes[0][0]
    assert sizes[1][1] < 1.02 * sizes[0][1]


# --------------------------------------------------------------------------------------------- rows


def test_plots_show_the_first_rows_and_say_how_many_there_are(tmp_path):
    settings(tmp_path, MOST_ROWS + 3)
    for file in tmp_path.rglob("FTresult.json"):
        file.with_name("FTcurve.jsonl").write_text('{"epoch": 1, "loss": 1, "val": 80}\n')
    found = {plot.name: plot for plot in plots_of(read(tmp_path))}
    said = f"Drawn are the first {MOST_ROWS} of {MOST_ROWS + 3} rows by Avg. Gap"
    for name in ("gaps", "ua-ta", "epochs", "training-loss"):
        assert said in found[name].read, name
    labels = [label.get_text() for label in found["gaps"].figure().axes[0].get_yticklabels()]
    assert labels == [f"FT (unlearn_lr {i})" for i in range(MOST_ROWS)]
    names = [text.get_text() for panel in found["ua-ta"].figure().axes for text in panel.texts]
    assert sorted(names) == sorted(["Retrain", *labels[:FEW_NAMES]])
    assert f"Only the {FEW_NAMES} of least Avg. Gap are named" in found["ua-ta"].read
    assert [panel.get_title() for panel in found["epochs"].figure().axes] == labels


def test_plots_of_as_many_rows_as_fit_leave_none_out(tmp_path):
    settings(tmp_path, MOST_ROWS)
    assert not [plot.name for plot in plots_of(read(tmp_path)) if "Drawn are" in plot.read]


def test_many_masks_are_counted_and_the_first_rows_drawn(tmp_path):
    scenario = read(settings(tmp_path, MOST_MASKS + 1, mask=0.5))
    for i, name in enumerate(name for name in scenario.groups if name != "Retrain"):
        scenario.groups[name][0]["mask"]["layers"] = {"fc.weight": i / 100}
    plot = mask_plot(scenario)
    assert f"Drawn are {MOST_MASKS} of {MOST_MASKS + 1} masks" in plot.read
    (panel,) = plot.figure().axes
    assert len(panel.collections) == MOST_MASKS


def test_names_of_rows_tell_the_settings_in_which_any_of_them_differ():
    """As a comparison of every row with every other one finds them."""
    rng = np.random.default_rng(0)
    options = ({"a": 1}, {"a": 2}, {"b": 3, "c": [1]}, {"a": None, "c": [1]}, {"a": 1, "c": [2]})
    for _ in range(20):
        rows = [dict(options[i]) for i in rng.permutation(len(options))[: rng.integers(1, 5)]]
        wanted = []
        for row in rows:
            apart = [key for key in row if any(other.get(key) != row[key] for other in rows)]
            words = ", ".join(f"{key} {row[key]}" for key in apart)
            wanted.append(f"FT ({words})" if words else "FT")
        assert [re.sub(r" \[\d\]$", "", name) for name in grouped(["FT"] * len(rows), rows)] == (
            wanted
        )


# ------------------------------------------------------------------------------------------ numbers


def test_intervals_of_alternating_sizes_are_a_plain_bootstraps_to_the_bit():
    rng = np.random.default_rng(3)
    for count in (10, 50, 10, 11, 50):
        values = rng.normal(90, 1, count)
        picks = np.random.default_rng(0).integers(0, count, (10_000, count))
        ends = np.quantile(np.sort(values)[picks].mean(1), [0.025, 0.975])
        assert mean_interval(values) == tuple(ends)
    other = np.random.default_rng(1).integers(0, 11, (500, 11))
    values = np.sort(rng.normal(size=11))
    wanted = np.quantile(values[other].mean(1), [0.1, 0.9])
    assert bootstrap_mean(values, level=0.8, draws=500, seed=1) == pytest.approx(wanted, abs=0)


def test_each_run_of_a_row_keeps_its_own_warning():
    good, bad = result("FT"), result("FT", None, (90.0, 12.0, 12.0, 5.0))
    good["warnings"] = ["of its own"]
    for run in (good, bad):
        run["standing"] = {
            "accuracy": run["metrics"]["RA"],
            "chance": 10.0,
            "top_answer": 11.0,
            "count": 1000,
        }
    first, second = warnings_of([good, bad], runs("retrain", "Retrain", RETRAIN))
    assert first == ["of its own"]
    assert [line.split(":")[0] for line in second] == ["destroyed"]


# ------------------------------------------------------------------------------------------- search


@pytest.fixture(scope="module")
def searchable(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searchable")
    named = [result("own", name) for name in ("Alpha", "alpha two", "Beta", "<b>")]
    write(folder, *runs("retrain", "Retrain", RETRAIN), *runs("FT", "FT", NEAR), *named)
    assert report.main([str(folder), "--html", str(folder / "page.html")]) == 0
    return folder / "page.html"


def test_without_its_script_the_page_shows_no_search_and_every_row(searchable):
    text = searchable.read_text()
    assert len(re.findall(r'<p class="search" hidden="">.*?<input type="search"', text)) == 1
    rows = re.findall(r"<tr[^>]*><th scope=\"row\"", text)
    assert len(rows) == 1 + 1 + 5  # Retrain, Retrain again, five methods
    assert not re.search(r"<(tr|details)[^>]*hidden", text)


@pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium with chromedriver here (Debian: chromium, chromium-driver)",
)
def test_the_search_leaves_rows_and_commands_whose_name_holds_the_text(searchable):
    """In any case and as text, not as a pattern; Retrain stays; an empty field shows all again."""
    shown = """
        const names = (css) => [...document.querySelectorAll(css)]
            .filter((part) => part.offsetParent !== null && part.getClientRects().length)
            .map((part) => part.firstElementChild.textContent);
        return [names("tbody.fixed tr"), names("tbody:not(.fixed) tr"), names(".origins details"),
            document.querySelector(".search output").textContent];
        """
    with browser() as chromium:
        chromium.open(searchable)
        everything = chromium.run(shown)
        assert len(everything[1]) == 5
        assert len(everything[2]) == 6
        for text, wanted in (
            ("ALPHA", ["Alpha", "alpha two"]),
            ("<b>", ["<b>"]),
            (".*", []),
            ("a two ", ["alpha two"]),
        ):
            chromium.run(
                "const field = document.querySelector('.search input');"
                "field.value = arguments[0]; field.dispatchEvent(new Event('input'))",
                text,
            )
            fixed, rows, commands, count = chromium.run(shown)
            assert fixed == ["Retrain", "Retrain again"]
            assert sorted(rows) == sorted(wanted)
            ours = {f"{name} (1 run)" for name in wanted}
            assert {name for name in commands if not name.startswith("Retrain")} == ours
            assert len(commands) == len(wanted) + 1  # Retrain's stays as its row does
            assert count == f"{len(wanted)} of 5 rows"
        chromium.run("document.querySelector('.search input').value = ''")
        chromium.press(".search input", "\ue003")
        assert chromium.console() == []


def test_an_axis_cuts_first_epochs_of_retrain_and_never_its_last():
    def curve(*values):
        return [[{"epoch": i, "forget": value} for i, value in enumerate(values, 1)]]

    rows = {"FT": curve(90.0, 95.0), "Retrain": curve(20.0, 60.0)}
    assert compared_limits(rows, {"Retrain"}, ["forget"]) == pytest.approx((58.25, 96.75))
    rows["Retrain"] = curve(10.0)
    assert compared_limits(rows, {"Retrain"}, ["forget"]) is None  # all of it is on the axis
    rows["Retrain"] = curve(10.0, 93.0)
    assert compared_limits(rows, {"Retrain"}, ["forget"]) == pytest.approx((89.75, 95.25))
