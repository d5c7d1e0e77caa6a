"""Audits and curves as they are read, refusals by file, and the plots: what they draw, their files,
the same bytes each time.
"""

import copy
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from records import HOSTILE, LAYERS, NEAR, RETRAIN, audit, everything, result, runs, write

import report
from reporting import plots
from reporting.attacks import named_rows
from reporting.audit_plots import relearn_figure, roc_figure
from reporting.audits import read_audits
from reporting.curves import with_curves
from reporting.page import page
from reporting.results import collect
from reporting.tables import scenarios


def read(folder):
    (scenario,) = scenarios(collect([folder]), read_audits([folder]))
    return with_curves(scenario)


def figure_of(scenario, name):
    return next(plot for plot in plots.plots_of(scenario) if plot.name == name).figure()


def refused(capsys, folder):
    assert report.main([str(folder), "--html", str(folder / "page.html")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not (folder / "page.html").exists()
    return captured.err


# ------------------------------------------------------------------------------------------ reading


def test_audited_rows_have_the_names_of_the_table_by_their_weights(tmp_path):
    """Two FT rows of one label in the audit are told apart as in the table; a model without a
    result keeps its label, last.
    """
    results = [result("FT", lr=0.1), result("FT", lr=0.2), result("retrain", "Retrain")]
    write(tmp_path, *results)
    content = audit(*results, result("GA", "Elsewhere", lr=9))
    content["rows"] = [
        {**content["rows"][0], "models": [index], "label": "x"} for index in range(4)
    ]
    (tmp_path / "audit.json").write_text(json.dumps(content))
    scenario = read(tmp_path)
    assert list(named_rows(scenario.audits[0], scenario.groups)) == [
        "Retrain",
        "FT (unlearn_lr 0.1)",
        "FT (unlearn_lr 0.2)",
        "x",
    ]


def test_original_is_one_row_of_an_audit_that_has_it_twice(tmp_path):
    """As raw's checkpoint and as --original: the same weights. An original that no raw has, and a
    method that ended at the original's weights, keep rows of their own.
    """
    raw, still = result("raw", "Original"), result("GA", lr=0.0)
    still["provenance"]["unlearned_sha256"] = raw["provenance"]["unlearned_sha256"]
    write(tmp_path, raw, still, result("retrain", "Retrain"))

    def audited_as(*results):
        write_audit_with_original(tmp_path, raw, results)
        scenario = read(tmp_path)
        return list(named_rows(scenario.audits[0], scenario.groups))

    assert sorted(audited_as(raw, result("GA", lr=9))) == ["GA", "Original"]
    assert sorted(audited_as(raw, still)) == ["GA", "Original"]
    assert sorted(audited_as(still)) == ["GA", "Original"]
    assert sorted(audited_as(result("FT"))) == ["FT", "Original"]


def write_audit_with_original(folder, original, results):
    """An audit of ``results`` and, in the role of --original, of one more model."""
    content = audit(*results, {**original, "label": "its own"})
    content["rows"][-1] |= {"label": "Original", "role": "original"}
    (folder / "audit.json").write_text(json.dumps(content))


def test_original_is_once_on_the_page_of_several_folders_and_seeds(tmp_path):
    """Two originals, two seeds each, older records of raw with a recipe: one row, one panel."""
    originals = [
        result("raw", "Original", seed=seed, lr=lr) for seed in (1, 2) for lr in (0.1, 0.2)
    ]
    write(tmp_path, *originals, *runs("retrain", "Retrain", RETRAIN))
    write_audit_with_original(tmp_path, originals[0], [*originals, result("retrain", "Retrain")])
    scenario = read(tmp_path)
    assert [(row["name"], row["runs"]) for row in scenario.table["rows"]] == [
        ("Retrain", 3),
        ("Original", 4),
    ]
    for name in ("relearn", "roc-rmia", "loss-histograms"):
        panels = [panel.get_title() for panel in figure_of(scenario, name).axes]
        assert sorted(panels) == ["Original", "Retrain"]
    html = page([scenario])
    tables = re.findall(r"<table.*?</table>", html)
    assert [len(re.findall(">Original[^<]*</th>", table)) for table in tables] == [1] * 7
    assert "Original [2]" not in html


def test_an_audit_of_other_images_is_a_scenario_of_its_own(tmp_path):
    write(tmp_path, result("FT"))
    (tmp_path / "audit.json").write_text(json.dumps(audit(result("FT", dataset="svhn"))))
    tables = scenarios(collect([tmp_path]), read_audits([tmp_path]))
    assert [(len(scenario.table["rows"]), len(scenario.audits)) for scenario in tables] == [
        (1, 0),
        (0, 1),
    ]


def test_an_audit_file_can_be_named_and_is_read_once(tmp_path):
    write(tmp_path, result("FT"))
    file = tmp_path / "audit.json"
    file.write_text(json.dumps(audit(result("FT"))))
    assert len(read_audits([file, tmp_path])) == 1
    assert len(collect([file, tmp_path])) == 1


DAMAGE = [
    ("models", 0),
    ("models", [{}]),
    ("rows", {}),
    ("metrics", []),
    ("metrics", {"UA": 3}),
    ("metrics", {"UA": {"unit": "x", "good": []}}),
    ("floors", {"UA": "x"}),
    ("floors", {"UA": True}),
    ("warnings", "x"),
    ("warnings", [1]),
    ("provenance", None),
    ("data", {}),
    ("rows", [{"label": "x", "role": "models", "models": [99]}]),
    ("rows", [{"label": "x", "role": "models", "models": [-1]}]),
    ("rows", [{"label": "\ud800", "role": "models", "models": [0]}]),
    ("rows", [{"label": None, "role": "models", "models": [0]}]),
    ("rows", [{"label": "x", "role": "models", "models": [0], "mean": {"UA": "5"}}]),
    ("rows", [{"label": "x", "role": "models", "models": [0], "ci": {"UA": [1]}}]),
    ("rows", [{"label": "x", "role": "models", "models": [0], "inside_noise": {"UA": 1}}]),
]


@pytest.mark.parametrize(("key", "value"), DAMAGE, ids=lambda value: repr(value)[:40])
def test_a_damaged_audit_is_refused_by_name(tmp_path, capsys, key, value):
    write(tmp_path, result("FT"))
    file = tmp_path / "audit.json"
    file.write_text(json.dumps(audit(result("FT"), **{key: value})))
    assert str(file) in refused(capsys, tmp_path)


@pytest.mark.parametrize("key", ["models", "rows", "metrics", "data", "provenance"])
def test_an_audit_that_lacks_a_part_is_refused_by_name(tmp_path, capsys, key):
    content = audit(result("FT"))
    del content[key]
    write(tmp_path, result("FT"))
    (tmp_path / "audit.json").write_text(json.dumps(content))
    assert str(tmp_path / "audit.json") in refused(capsys, tmp_path)


CURVES = [
    {"histograms": {"loss": {"edges": [0, 1], "forget": [1], "held_out": [0.5, 0.5]}}},
    {"histograms": {"loss": {}}},
    {"histograms": 3},
    {"histograms": {"loss": {"edges": [0], "forget": [], "held_out": []}}},
    {"roc": {"loss": {"fpr": [0, 1], "tpr": [1]}}},
    {"roc": {"loss": {"fpr": [0, None], "tpr": [1, 1]}}},
    {"relearn": {"steps": [0, 1], "accuracy": [1]}},
    {"relearn": {"steps": [0]}},
    {"relearn": {"steps": [0], "accuracy": [1], "sd": "x"}},
    {"relearn": 3},
    [1],
]


@pytest.mark.parametrize("curves", CURVES, ids=lambda value: repr(value)[:40])
def test_damaged_curves_of_an_audit_are_refused_by_name(tmp_path, capsys, curves):
    content = audit(result("FT"))
    content["models"][0]["curves"] = curves
    write(tmp_path, result("FT"))
    (tmp_path / "audit.json").write_text(json.dumps(content))
    assert str(tmp_path / "audit.json") in refused(capsys, tmp_path)


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"loss": 1}',
        '{"epoch": "x"}',
        '{"epoch": null}',
        '{"epoch": 1e99}',
        '{"epoch": 1, "loss": []}',
        "\x00",
    ],
)
def test_a_damaged_curve_is_refused_by_name(tmp_path, capsys, line):
    everything(tmp_path)
    file = next(tmp_path.rglob("GAcurve.jsonl"))
    file.write_text(file.read_text() + line + "\n")
    assert str(file) in refused(capsys, tmp_path)


def test_numbers_that_are_not_known_leave_gaps(tmp_path):
    """NaN stands as null in these files: a curve goes on behind it, and an empty file
    is no curve.
    """
    everything(tmp_path)
    file = next(tmp_path.rglob("GAcurve.jsonl"))
    file.write_text(
        '{"epoch": 1, "loss": null, "forget": 5}\n{"epoch": 2, "loss": 0.5, "forget": 6}\n'
    )
    next(tmp_path.rglob("run3/RLcurve.jsonl")).write_text("")
    scenario = read(tmp_path)
    assert [len(scenario.curves[name]) for name in ("Retrain", "SalUn", "GA")] == [3, 1, 1]
    line = figure_of(scenario, "training-loss").axes[2].lines[0]
    assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([2], [0.5])


# ------------------------------------------------------------------------------------------ drawing


def test_results_alone_have_the_two_plots_of_the_table(tmp_path):
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), *runs("FT", "FT", NEAR))
    assert [plot.name for plot in plots.plots_of(read(tmp_path))] == ["gaps", "ua-ta"]


def test_without_retrain_there_is_nothing_to_draw(tmp_path):
    write(tmp_path, result("FT"))
    assert plots.plots_of(read(tmp_path)) == []


def test_everything_has_every_plot(tmp_path):
    everything(tmp_path)
    names = [
        "gaps",
        "ua-ta",
        "loss-histograms",
        "confidence-histograms",
        "roc-loss",
        "roc-rmia",
        "relearn",
        "epochs",
        "training-loss",
        "masks",
    ]
    assert [plot.name for plot in plots.plots_of(read(tmp_path))] == names


def test_two_audits_of_one_scenario_have_plots_of_their_own(tmp_path):
    results = everything(tmp_path)
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "audit.json").write_text(json.dumps(audit(*results)))
    names = [plot.name for plot in plots.plots_of(read(tmp_path))]
    assert len(names) == len(set(names)) == 2 + 2 * 5 + 3


def test_gap_plot_shows_the_gaps_and_hollow_dots_inside_the_noise(tmp_path):
    everything(tmp_path)
    scenario = read(tmp_path)
    rows = [row for row in scenario.table["rows"] if not row["is_retrain"]]
    panels = figure_of(scenario, "gaps").axes
    assert [panel.get_title() for panel in panels] == ["UA gap", "RA gap", "TA gap", "MIA gap"]
    for metric, panel in zip(("UA", "RA", "TA", "MIA"), panels, strict=True):
        dots = [line for line in panel.lines if line.get_marker() == "o"]
        assert [line.get_xdata()[0] for line in dots] == pytest.approx(
            [row[f"{metric}_gap"] for row in rows]
        )
        assert [line.get_markerfacecolor() == "none" for line in dots] == [
            row[f"{metric}_inside_noise"] for row in rows
        ]
        assert [bar.get_width() / 2 for bar in panel.patches] == pytest.approx(
            [row[f"{metric}_band"] for row in rows]
        )
    assert [label.get_text() for label in panels[0].get_yticklabels()] == ["SalUn", "GA"]


def test_ellipse_is_centred_on_retrain_and_spans_its_noise(tmp_path):
    everything(tmp_path)
    scenario = read(tmp_path)
    retrain, nearest = scenario.table["rows"][:2]
    for panel in figure_of(scenario, "ua-ta").axes:
        ellipse = panel.patches[0]
        assert ellipse.get_center() == pytest.approx((retrain["UA"], retrain["TA"]))
        assert (ellipse.width / 2, ellipse.height / 2) == pytest.approx(
            (nearest["UA_band"], nearest["TA_band"])
        )


def test_every_method_is_named_once_in_the_plot_of_ua_and_ta(tmp_path):
    """Also where a crowd stands in one place, and names stay inside the panel that has them."""
    crowd = [
        result("own", f"method {index}", (5 + index / 50, 99.0, 94.0 + index % 3 / 10, 12.0))
        for index in range(26)
    ]
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), *crowd)
    figure = figure_of(read(tmp_path), "ua-ta")
    names = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert sorted(names) == sorted(["Retrain", *(f"method {index}" for index in range(26))])


def test_histograms_are_means_over_seeds(tmp_path):
    results = everything(tmp_path)
    content = audit(*results)
    content["models"][0] = copy.deepcopy(content["models"][0])
    content["models"][0]["curves"]["histograms"]["loss"]["forget"] = [0.8, 0.1, 0.1]
    (tmp_path / "audit.json").write_text(json.dumps(content))
    held_out, forget = (
        patch.get_data().values.tolist()
        for patch in figure_of(read(tmp_path), "loss-histograms").axes[0].patches
    )
    assert forget == pytest.approx(
        [(0.8 + 0.5 + 0.5) / 3, (0.1 + 0.25 + 0.25) / 3, (0.1 + 0.25 + 0.25) / 3]
    )
    assert held_out == pytest.approx([0.25, 0.25, 0.5])


def test_histograms_in_other_bins_are_brought_into_the_same_ones(tmp_path):
    """One seed reaches from 0 to 6 in three bins: all panels then have three from 0 to 6, and
    shares still sum to 1.

    The other seeds' shares 0.5, 0.25, 0.25 over 0, 0.5, 1, 2 all fall into the first of them.
    """
    results = everything(tmp_path)
    content = audit(*results)
    content["models"][0]["curves"] = {
        "histograms": {
            "loss": {"edges": [0, 2, 4, 6], "forget": [0.25, 0.25, 0.5], "held_out": [0, 0, 1]}
        }
    }
    (tmp_path / "audit.json").write_text(json.dumps(content))
    for panel, first in zip(
        figure_of(read(tmp_path), "loss-histograms").axes,
        ([2.25 / 3, 0.25 / 3, 0.5 / 3], [1, 0, 0], [1, 0, 0]),
        strict=True,
    ):
        values, edges, _ = panel.patches[1].get_data()
        assert edges.tolist() == [0, 2, 4, 6]
        assert values.tolist() == pytest.approx(first)


def test_roc_is_logarithmic_and_has_retrain_in_every_panel(tmp_path):
    everything(tmp_path)
    panels = figure_of(read(tmp_path), "roc-loss").axes
    assert [panel.get_title() for panel in panels] == ["Retrain", "SalUn", "GA"]
    for panel, own in zip(panels, (3, 2, 1), strict=True):
        assert (panel.get_xscale(), panel.get_yscale()) == ("log", "log")
        assert len(panel.lines) == 1 + 3 + own


def test_masks_show_each_layer_once_per_different_mask(tmp_path):
    everything(tmp_path)
    (panel,) = figure_of(read(tmp_path), "masks").axes
    marks, line = panel.lines
    assert marks.get_xdata().tolist() == [75, 25, 50]
    assert [label.get_text() for label in panel.get_yticklabels()] == list(LAYERS)
    assert set(line.get_xdata()) == {50}


# -------------------------------------------------------------------------------------------- files


def svgs(scenario):
    return {plot.name: plots.as_svg(plot.figure(), plot.name) for plot in plots.plots_of(scenario)}


def test_sensitivity_has_a_panel_for_each_number_with_three_values(tmp_path):
    rates = {0.001: 20.0, 0.01: 6.0, 0.1: 30.0}
    tried = [result("FT", values=(ua, 99.0, 93.0, 12.0), lr=lr) for lr, ua in rates.items()]
    two = [result("GA", values=(9.0, 99.0, 93.0, 12.0), lr=lr) for lr in (0.1, 0.2)]
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), *tried, *two)
    (panel,) = figure_of(read(tmp_path), "sensitivity").axes
    dots, line = panel.get_lines()
    gap_of = {row["name"]: row["avg_gap"] for row in read(tmp_path).table["rows"]}
    expected = [gap_of[f"FT (unlearn_lr {lr:g})"] for lr in rates]
    assert panel.get_title() == "FT: unlearn_lr"
    assert line.get_xdata().tolist() == list(rates)
    assert line.get_ydata().tolist() == expected
    assert sorted(dots.get_ydata().tolist()) == sorted(expected)
    assert panel.get_xscale() == "log"


def test_a_value_that_no_axis_can_hold_is_not_plotted(tmp_path):
    tried = [result("FT", lr=lr) for lr in (0.1, 0.2, 0.3)]
    huge = result("FT")
    huge["hyperparameters"]["unlearn_lr"] = 10**400
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), *tried, huge)
    dots, _ = figure_of(read(tmp_path), "sensitivity").axes[0].get_lines()
    assert dots.get_xdata().tolist() == [0.1, 0.2, 0.3]


def test_svg_is_wellformed_undated_and_in_the_colour_of_the_page(tmp_path):
    everything(tmp_path, HOSTILE)
    found = svgs(read(tmp_path))
    ids = []
    for name, text in found.items():
        root = ElementTree.fromstring(text)
        ids += [element.get("id") for element in root.iter() if element.get("id")]
        assert "currentColor" in text
        assert plots.INK not in text
        assert "<dc:date>" not in text
        assert not [element for element in root.iter() if element.tag.endswith("script")], name
        known = {f"#{element.get('id')}" for element in root.iter()}
        assert {
            element.get("{http://www.w3.org/1999/xlink}href")
            for element in root.iter("{http://www.w3.org/2000/svg}use")
        } <= known
    assert len(set(ids)) == len(ids)
    assert "</script><script>" not in "".join(found.values())


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_the_same_inputs_give_the_same_bytes(tmp_path, kind):
    everything(tmp_path)
    one, other = (
        [plots.as_file(figure_of(read(tmp_path), name), kind) for name in ("gaps", "masks")]
        for _ in range(2)
    )
    assert one == other


@pytest.mark.parametrize(("kind", "start"), [("png", b"\x89PNG"), ("pdf", b"%PDF")])
def test_plots_are_written_as_files(tmp_path, capsys, kind, start):
    everything(tmp_path)
    folder = tmp_path / "new" / "plots"
    assert report.main([str(tmp_path), "--plots", str(folder), "--plot_format", kind]) == 0
    files = sorted(folder.iterdir())
    assert len(files) == 10
    assert all(file.suffix == f".{kind}" and file.read_bytes().startswith(start) for file in files)
    assert files[0].name.startswith(
        "cifar10-dddddddd-resnet18-forget-4500-training-images-10-random-"
    )
    assert "wrote 10 plots" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ["--html", "."],
        ["--plots", "README.md"],
        ["--plot_format", "pdf"],
        ["--plots", "x", "--plot_format", "svg"],
    ],
)
def test_what_cannot_be_written_is_refused_before_any_work(tmp_path, capsys, monkeypatch, words):
    monkeypatch.chdir(Path(__file__).parents[2])
    assert report.main([str(tmp_path / "missing"), *words]) == 2
    error = capsys.readouterr().err
    assert words[-2] in error
    assert "missing" not in error


def test_matplotlib_is_asked_for_by_name_and_only_where_it_draws(tmp_path):
    """In a fresh interpreter that cannot import it."""
    everything(tmp_path)
    code = """
import sys
sys.modules["matplotlib"] = None
import report
folder, page = sys.argv[1:]
codes = [report.main([folder, "--format", style]) for style in ("text", "latex", "json")]
print(codes, report.main([folder, "--html", page]))
"""
    command = [sys.executable, "-c", code, str(tmp_path), str(tmp_path / "page.html")]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[0, 0, 0] 2"
    assert done.stderr.count("\n") == 1
    assert "pip install matplotlib" in done.stderr
    assert not (tmp_path / "page.html").exists()


def test_a_panel_of_thousands_of_runs_draws_the_first_hundred():
    """A page of them would take minutes."""
    curve = {
        "steps": [0, 1, 2],
        "accuracy": [90, 95, 97],
        "sd": [1, 1, 1],
        "fpr": [0.1, 1.0],
        "tpr": [0.2, 1.0],
    }
    for draw, lines in ((relearn_figure, 200), (roc_figure, 201)):
        (panel,) = [
            panel for panel in draw({"FT": [curve] * 3000}, [curve] * 3000).axes if panel.lines
        ]
        assert len(panel.lines) == lines
