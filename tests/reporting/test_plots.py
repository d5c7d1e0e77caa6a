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

import numpy as np
import pytest
from records import HOSTILE, LAYERS, NEAR, RETRAIN, WEIGHTS, audit, everything, result, runs, write

import report
from reporting import plots
from reporting.attacks import named_rows
from reporting.audit_plots import relearn_figure, roc_figure
from reporting.audits import read_audits
from reporting.curves import with_curves
from reporting.mask_plots import mask_plot
from reporting.page import page
from reporting.results import collect
from reporting.rows import METRICS
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


def test_a_wide_band_of_retrain_does_not_press_the_dots_into_a_line(tmp_path):
    """Retrain's TA spreads by points, the methods' TA by tenths: the axis follows the methods, the
    band is cut, and the captions say how wide it is. UA's band is narrower than its gaps: whole.
    """
    spread = [(5.0, 99.9, 90.0, 13.0), (5.1, 99.9, 94.0, 13.1), (4.9, 99.9, 98.0, 12.9)]
    near = [
        result("own", f"method {i}", (5 + i, 99.9, 94 + ta, 13.0))
        for i, ta in enumerate((0.5, 0.7, -0.9))
    ]
    write(tmp_path, *runs("retrain", "Retrain", spread), *near)
    scenario = read(tmp_path)
    band = {name: scenario.table["rows"][1][f"{name}_band"] for name in ("UA", "TA")}
    assert band["TA"] > 10
    panels = dict(zip(METRICS, figure_of(scenario, "gaps").axes, strict=True))
    low, high = panels["TA"].get_xlim()
    assert -1.1 < low < -0.9
    assert 0.9 < high < 1.1
    low, high = panels["UA"].get_xlim()
    assert low < -band["UA"]
    assert 2 < high < 2.3
    gaps, ua_ta = plots.plots_of(scenario)[:2]
    assert f"wider than its panel: ±{band['TA']:.1f} in TA. " in gaps.read
    assert f"frame that cuts it: ±{band['TA']:.1f} in TA." in ua_ta.read
    for panel in ua_ta.figure().axes:
        low, high = panel.get_ylim()
        assert high - low < 2.6
        assert panel.patches[0].height == pytest.approx(2 * band["TA"])


def test_one_method_alone_is_shown_in_the_whole_band(tmp_path):
    """There are no dots to be told apart."""
    write(
        tmp_path, *runs("retrain", "Retrain", RETRAIN), result("FT", values=(5.0, 99.9, 94.1, 13))
    )
    scenario = read(tmp_path)
    band = scenario.table["rows"][1]["TA_band"]
    low, high = figure_of(scenario, "gaps").axes[2].get_xlim()
    assert low < -band < band < high


def test_a_band_that_fits_is_whole_and_no_caption_speaks_of_a_cut(tmp_path):
    everything(tmp_path)
    gaps, ua_ta = plots.plots_of(read(tmp_path))[:2]
    assert "wider than" not in gaps.read
    assert "cuts it" not in ua_ta.read


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


def test_retrains_first_epochs_do_not_flatten_the_methods(tmp_path):
    """The methods' accuracies set the axis, of which the caption tells; every panel has its own
    epochs, and in the plot of losses its own losses.
    """
    everything(tmp_path)
    for folder in tmp_path.glob("run*"):
        (file,) = folder.glob("*curve.jsonl")
        long = range(1, 31) if "retrain" in file.name else range(1, 4)
        lines = [
            {
                "epoch": epoch,
                "forget": 100 - (90 if len(long) > 3 else 5) / epoch,
                "loss": 9 * len(long),
            }
            for epoch in long
        ]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    scenario = read(tmp_path)
    panels = figure_of(scenario, "epochs").axes
    assert [panel.get_title() for panel in panels] == ["Retrain", "SalUn", "GA"]
    for panel in panels:
        low, high = panel.get_ylim()
        assert 94.5 < low < 95
        assert 98.3 < high < 101
    assert panels[0].get_xlim()[1] > 30
    assert panels[1].get_xlim()[1] < 4
    (caption,) = [plot.read for plot in plots.plots_of(scenario) if plot.name == "epochs"]
    assert "Retrain's first epochs" in caption
    losses = [panel.get_ylim() for panel in figure_of(scenario, "training-loss").axes]
    assert [low < value < high for (low, high), value in zip(losses, (270, 27, 27), strict=True)]
    assert losses[0][0] > losses[1][1]


def test_retrain_within_the_methods_axis_is_not_cut(tmp_path):
    everything(tmp_path)
    (caption,) = [plot.read for plot in plots.plots_of(read(tmp_path)) if plot.name == "epochs"]
    assert "first epochs" not in caption


def test_traces_of_a_move_to_other_bins_do_not_stretch_the_axis(tmp_path):
    """One image of 1000 in one of three seeds is the least that a mean can hold by itself."""
    results = everything(tmp_path)
    content = audit(*results)
    content["models"] = copy.deepcopy(content["models"])
    histogram = content["models"][0]["curves"]["histograms"]["loss"]
    histogram["edges"] = [0.0, 0.5, 1.0, 2.0001]
    histogram["forget"] = [0.9, 0.099, 0.001]
    (tmp_path / "audit.json").write_text(json.dumps(content))
    for panel in figure_of(read(tmp_path), "loss-histograms").axes:
        assert panel.get_ylim()[0] == pytest.approx(0.001 / 3 / 1.5)


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


def test_a_layer_of_a_mask_is_as_high_as_its_share_of_the_weights(tmp_path):
    """The area left of the line is then the density over all weights; a small layer has no name."""
    everything(tmp_path)
    (panel,) = figure_of(read(tmp_path), "masks").axes
    (bars,) = panel.collections
    x, y = np.array(bars.get_segments()).transpose(2, 0, 1)
    heights = y[:, 1] - y[:, 0]
    assert x[:, 0] == pytest.approx([75, 25, 50])
    assert heights == pytest.approx([49, 49, 2])
    assert (x[:, 0] * heights).sum() / 100 == pytest.approx(50)
    (line,) = panel.lines
    assert set(line.get_xdata()) == {50}
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["conv1.weight", "fc.weight"]
    assert panel.get_yticks() == pytest.approx([24.5, 73.5])


def test_older_masks_without_sizes_have_equal_layers_and_the_caption_says_so(tmp_path):
    everything(tmp_path)
    scenario = read(tmp_path)
    weighted = mask_plot(scenario)
    for record in scenario.groups["SalUn"]:
        del record["mask"]["weights"]
    equal = mask_plot(scenario)
    assert "All layers are equally high" in equal.read
    assert "All layers are equally high" not in weighted.read
    (panel,) = equal.figure().axes
    assert [label.get_text() for label in panel.get_yticklabels()] == list(LAYERS)
    assert np.diff(panel.get_yticks()) == pytest.approx([100 / 3, 100 / 3])


@pytest.mark.parametrize("count", [0, -1, 2.5, "x", True, None, 10**101])
def test_a_layer_without_a_number_of_weights_is_refused_by_file(tmp_path, capsys, count):
    record = result("RL", "SalUn", mask=0.5)
    record["mask"] |= {"layers": LAYERS, "weights": {**WEIGHTS, "fc.bias": count}}
    write(tmp_path, record)
    assert "fc.bias" in refused(capsys, tmp_path)


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


def test_sensitivity_has_the_density_of_masks_and_one_bad_value_does_not_flatten_it(tmp_path):
    """An Avg. Gap ten times another: a logarithmic axis."""
    errors = {0.3: 5.5, 0.5: 5.2, 0.7: 95.0}
    tried = [
        result("RL", "SalUn", (ua, 99.9, 94.0, 13.0), mask=density)
        for density, ua in errors.items()
    ]
    write(tmp_path, *runs("retrain", "Retrain", RETRAIN), *tried)
    (panel,) = figure_of(read(tmp_path), "sensitivity").axes
    dots, line = panel.get_lines()
    assert panel.get_title() == "SalUn: mask density"
    assert line.get_xdata().tolist() == list(errors)
    assert max(dots.get_ydata()) > 10 * min(dots.get_ydata())
    assert panel.get_yscale() == "log"
    assert (panel.get_xscale(), figure_of_rates(tmp_path / "even").get_yscale()) == ("linear",) * 2


def figure_of_rates(folder):
    folder.mkdir()
    tried = [result("FT", values=(ua, 90.0, 93.0, 12.0), lr=ua) for ua in (5.0, 6.0, 7.0)]
    write(folder, *runs("retrain", "Retrain", RETRAIN), *tried)
    (panel,) = figure_of(read(folder), "sensitivity").axes
    return panel


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
