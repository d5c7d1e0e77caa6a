"""The report's page: well-formed, escaped, the same bytes each time; and in a real browser, where
one is installed.
"""

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from browser import CHROMIUM, DRIVER, browser
from records import HOSTILE, audit, everything, result, with_shadows, write

import report
from reporting.audits import read_audits
from reporting.cells import HEADER, RMIA
from reporting.markup import Html, escape, tag
from reporting.page_audit import class_table, metric_table
from reporting.page_results import TEXTS

ROOT = Path(__file__).parents[2]
VOID = {"meta", "wbr"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of everything a report can show, with a row whose name tries to become markup."""
    folder = tmp_path_factory.mktemp("page")
    results = everything(folder, HOSTILE)
    content = with_shadows(audit(*results, warnings=[HOSTILE]))
    content["metrics"][HOSTILE] = {"unit": HOSTILE, "good": HOSTILE, "text": HOSTILE}
    for row in content["rows"]:
        row["mean"] = {**row["mean"], HOSTILE: 0.25}
    content["provenance"]["command"] = ["evaluate.py", HOSTILE]
    (folder / "audit.json").write_text(json.dumps(content))
    assert report.main([str(folder), "--html", str(folder / "page.html")]) == 0
    return folder / "page.html"


class Reader(HTMLParser):
    """Every element in order, with the text of headers and cells; complains about elements that are
    not closed in turn.
    """

    def __init__(self, text):
        super().__init__()
        self.stack, self.elements, self.text = [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        assert len(attributes) == len(dict(attributes)), f"twice the same attribute in {tag}"
        if tag not in VOID:
            self.stack.append((tag, len(self.elements) - 1))

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.stack.pop()[0] == tag

    def handle_data(self, data):
        for _, index in self.stack:
            self.text[index] = self.text.get(index, "") + data

    def all(self, tag):
        return [
            (attributes, self.text.get(i, ""))
            for i, (name, attributes) in enumerate(self.elements)
            if name == tag
        ]


# ------------------------------------------------------------------------------------------- markup


def test_page_is_wellformed_with_unique_names_and_links_that_lead_somewhere(page):
    reader = Reader(page.read_text())
    assert reader.stack == []
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    links = [attributes["href"] for attributes, _ in reader.all("a")]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)


def test_page_asks_for_nothing_and_allows_only_its_own_script(page):
    text = page.read_text()
    reader = Reader(text)
    loads = {
        name: value
        for _, attributes in reader.elements
        for name, value in attributes.items()
        if name in ("src", "srcset", "data", "action")
    }
    assert loads == {}
    assert not re.search(r"@import|url\((?!#)", text)
    (script,) = reader.all("script")
    assert script[1] == (ROOT / "reporting/page.js").read_text()
    policy = next(
        attributes["content"] for attributes, _ in reader.all("meta") if "http-equiv" in attributes
    )
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-inline" not in policy.split("style-src")[0]
    assert not [
        name for _, attributes in reader.elements for name in attributes if name.startswith("on")
    ]


def test_hostile_names_are_shown_as_text(page):
    reader = Reader(page.read_text())
    shown = HOSTILE.replace("\x07", "\ufffd")
    assert len(reader.all("script")) == 1
    assert any(shown in text for _, text in reader.all("th"))
    assert any(shown in text for _, text in reader.all("button"))
    assert any(shown in text for _, text in reader.all("dd"))
    assert any(shown in (attributes.get("title") or "") for attributes, _ in reader.all("button"))
    assert not re.search(r"<script>alert|\x07", page.read_text())


def test_the_hash_in_a_title_is_explained_in_a_tooltip_and_in_words(page):
    """The heading still reads as the title does."""
    reader = Reader(page.read_text())
    ((attributes, shown),) = reader.all("abbr")
    assert shown == "dddddddd"
    assert attributes["title"].endswith(f"training images and labels: {'d' * 64}")
    assert any("SHA-256 hash of its training images and labels" in t for _, t in reader.all("p"))
    ((_, heading),) = reader.all("h2")
    assert heading == "cifar10 (dddddddd), resnet18: forget 4500 training images (10 %, random)"


def test_the_numbers_of_ulira_stand_in_a_table_of_their_own(page):
    """With what chance gives beside them."""
    reader = Reader(page.read_text())
    (table,) = (text for attributes, text in reader.all("table") if "U-LiRA" in text)
    assert "0.562(chance 0.469 to 0.531)" in table
    assert "71.25" in table


def test_tables_say_what_they_are_to_those_who_do_not_see_them(page):
    reader = Reader(page.read_text())
    assert len(reader.all("table")) == len(reader.all("caption")) > 2
    headers = reader.all("th")
    assert {attributes["scope"] for attributes, _ in headers} == {"col", "row"}
    assert all(
        attributes["aria-sort"] in ("none", "ascending")
        for attributes, _ in headers
        if attributes["scope"] == "col"
    )
    assert len(reader.all("button")) == sum(
        attributes["scope"] == "col" for attributes, _ in headers
    )
    plots = [attributes for attributes, _ in reader.all("div") if attributes.get("role") == "img"]
    assert len(plots) == len(reader.all("svg")) == 10
    assert all(attributes["aria-label"] for attributes in plots)


def test_page_shows_the_noise_the_best_the_warnings_and_the_origin(page):
    reader = Reader(page.read_text())
    marked = {
        attributes["class"]: text for attributes, text in reader.all("tr") if "class" in attributes
    }
    assert set(marked) == {"best", "warned"}
    assert marked["best"].startswith("SalUn")
    assert marked["warned"].startswith("</script>")
    text = page.read_text()
    for words in (
        "Retrain is the target, not 0 and not 100",
        "Retrain again: the gaps to expect of one more Retrain run.",
        "Green and ~: a gap that Retrain&#x27;s own seeds explain",
        "Bold: the lowest Avg. Gap",
        "Two Retrain runs differ by",
        "python main_forget.py --unlearn RL",
        "cpu: test",
        "python evaluate.py",
        ": it fell",
        "few images",
        "gap_of_means",
        "Averages over metrics",
        "area under the ROC curve of the loss (probability, target: 0.5)",
        "Jensen-Shannon divergence to Retrain (nats, target: as low as between two Retrain runs)",
    ):
        assert words in text, words


def test_audit_says_of_how_many_runs_its_floors_are_and_marks_averages():
    """Differences have a sign, distances none; audits of before do not say of how many runs."""
    marks = {"gap_of_means": True, "js_forget": True}
    mean = {"gap_of_means": 1.5, "js_forget": 0.02, "UA": 5.0}
    row = {
        "role": "models",
        "mean": mean,
        "sd": {},
        "gap": {"js_forget": 0.01},
        "ci": {},
        "chance": {},
        "inside_noise": marks,
    }
    audited = {
        "metrics": {},
        "floors": {"runs": 1.0, "UA": 0.75, "js_forget": 0.0125, "gap_of_means": 0.5},
    }
    reader = Reader(metric_table("t", ["UA", "js_forget", "gap_of_means"], audited, {"FT": row}))
    assert [text for attributes, text in reader.all("th") if attributes["scope"] == "row"] == [
        "Retrain again (1 run)",
        "FT",
    ]
    assert [text for _, text in reader.all("td")] == [
        "±0.750",
        "0.013",
        "0.500",
        "5.000",
        "0.020(+0.010) ~",
        "1.500 ~",
    ]
    assert [attributes.get("class") for attributes, _ in reader.all("td")][3:] == [
        None,
        "noise",
        "noise",
    ]
    del audited["floors"]["runs"]
    assert "Two Retrain runs differ by" in metric_table("t", ["UA"], audited, {"FT": row})


@pytest.mark.parametrize(("retrains", "kept"), [(2, {}), (3, {"UA": True, "loss_auc": False})])
def test_marks_of_an_older_audit_with_two_retrains_are_not_shown(tmp_path, retrains, kept):
    content = audit(
        *(result("retrain", "Retrain", seed=seed) for seed in range(retrains)), result("FT")
    )
    (tmp_path / "audit.json").write_text(json.dumps(content))
    (found,) = read_audits([tmp_path])
    assert found["rows"][1]["inside_noise"] == kept


def test_columns_with_gaps_are_sorted_by_their_size_and_others_by_the_mean():
    """An audited row without the gap stays last; a metric without any gap is sorted as before."""
    empty = {"role": "models", "sd": {}, "ci": {}, "chance": {}, "inside_noise": {}}
    rows = {
        "far": {**empty, "mean": {"UA": 1.0, "js": 0.3}, "gap": {"UA": -4.0}},
        "near": {**empty, "mean": {"UA": 7.0, "js": 0.2}, "gap": {"UA": 2.0}},
        "unknown": {**empty, "mean": {"UA": 5.0, "js": 0.1}, "gap": {}},
        "Retrain": {**empty, "role": "retrain", "mean": {"UA": 5.0, "js": 0.4}, "gap": {"UA": 0.0}},
    }
    table = metric_table("t", ["UA", "js"], {"metrics": {}, "floors": {}}, rows)
    places = [attributes.get("data-value") for attributes, _ in Reader(table).all("td")][2:]
    assert places == ["4.0", "0.3", "2.0", "0.2", None, "0.1"]
    titles = [attributes["title"] or "" for attributes, _ in Reader(table).all("button")[1:]]
    assert ["absolute gap" in title for title in titles] == [True, False]


def test_accuracy_by_class_is_the_mean_over_a_rows_models():
    rows = {
        "Retrain": {
            "role": "retrain",
            "models": [{"per_class": {"forget": {"cat": 90.0, "dog": 70.0}}}],
        },
        "FT": {
            "role": "models",
            "models": [
                {"per_class": {"forget": {"cat": a, "dog": b}}}
                for a, b in ((80.0, None), (90.0, 60.0))
            ],
        },
    }
    reader = Reader(class_table("forget", "forget set", rows))
    assert [text for _, text in reader.all("td")] == ["90.0", "70.0", "85.0", "60.0"]
    assert [text for _, text in reader.all("button")] == ["method", "cat", "dog"]
    assert class_table("test", "test images", rows) is None


def test_of_a_thousand_classes_the_table_shows_those_in_which_rows_differ_most():
    names = [f"c{i}" for i in range(1000)]
    moved = {"c7": 12.0, "c900": 30.0} | {f"c{i}": 50.0 for i in range(100, 138)}
    models = [dict.fromkeys(names, 90.0), {name: 90.0 - moved.get(name, 1) for name in names}]
    rows = {
        role: {"role": role, "models": [{"per_class": {"forget": each}}]}
        for role, each in zip(("retrain", "method"), models, strict=True)
    }
    table = str(class_table("forget", "forget set", rows))
    assert "the 40 of 1000 classes in which rows differ most" in table
    shown = [name for name in names if f"class {name}<" in table or f">{name}<" in table]
    assert sorted(shown) == sorted(moved)


def test_the_page_has_the_columns_of_the_other_formats():
    assert sorted(TEXTS) == sorted([*HEADER[1:], RMIA])


def test_rmia_with_chance_stands_beside_avg_gap_in_the_first_table(tmp_path):
    """Behind the method's name; where no audit attacked, the column is not there."""
    results = everything(tmp_path)
    assert columns_of(tmp_path)[:4] == ["method", "Avg. Gap", "UA", "RA"]
    content = audit(*results)
    for model in content["models"]:
        model["chance"] = {"rmia_auc": [0.4375, 0.5625]}
    for row in content["rows"]:
        row["mean"] = {**row["mean"], "rmia_auc": 0.625}
    (tmp_path / "audit.json").write_text(json.dumps(content))
    assert columns_of(tmp_path)[:4] == ["method", "Avg. Gap", RMIA, "UA"]
    first = re.search(r"<table.*?</table>", (tmp_path / "page.html").read_text()).group()
    rows = re.findall(r"<tr.*?</tr>", first)
    assert len(rows) == 1 + 4  # header; Retrain, Retrain again, SalUn, GA
    for row in rows[1:]:
        cells = Reader(row).all("td")
        again = "Retrain again" in row
        assert cells[1][1] == ("-" if again else "0.625(0.438 to 0.562)")
        assert len(cells) == len(TEXTS)


def columns_of(folder):
    assert report.main([str(folder), "--html", str(folder / "page.html")]) == 0
    table = re.search(r"<table.*?</table>", (folder / "page.html").read_text()).group()
    return [text for _, text in Reader(table).all("button")]


def test_results_alone_make_a_page(tmp_path):
    """One row, no Retrain, no audit: the table, the note and the command."""
    write(tmp_path, result("FT"))
    assert report.main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert Reader(text).all("svg") == []
    for words in ("No Retrain result", "python main_forget.py --unlearn FT", "93.00"):
        assert words in text


def test_the_table_is_printed_beside_the_page(tmp_path, capsys):
    write(tmp_path, result("FT"))
    assert (
        report.main([str(tmp_path), "--format", "csv", "--html", str(tmp_path / "page.html")]) == 0
    )
    captured = capsys.readouterr()
    assert captured.out.startswith("scenario,name,")
    assert captured.err == f"wrote {tmp_path / 'page.html'}\n"


def test_another_process_writes_the_same_bytes(page):
    """With another order of sets, in the same folder."""
    again = page.with_name("again.html")
    words = [sys.executable, "report.py", str(page.parent), "--html", str(again)]
    subprocess.run(
        words, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": "7"}, capture_output=True, check=True
    )
    assert again.read_bytes() == page.read_bytes()


def test_only_finished_markup_passes_unescaped():
    assert (
        tag("p", "<b>", Html("<i></i>"), title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<i></i></p>'
    )
    assert escape("a\x00\x1b\u2028b") == "a\ufffd\ufffd\ufffdb"


# ------------------------------------------------------------------------------------------ browser


needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no chromium with chromedriver here (Debian: chromium, chromium-driver)",
)


@pytest.fixture(scope="module")
def chromium():
    with browser() as opened:
        yield opened


def methods(chromium):
    """The names in the first table's last body, as they stand now."""
    script = (
        "return [...[...document.querySelector('table.sortable').tBodies].pop().rows].map((row) =>"
        " row.cells[0].textContent)"
    )
    return chromium.run(script)


@pytest.fixture(scope="module")
def sortable(tmp_path_factory):
    """A page with six methods whose orders by name, gap of UA and Avg. Gap differ; one has no MIA
    and so no Avg. Gap. Retrain's UA is 5: e lies 2 below it, nearer than b, 4 above.
    """
    folder = tmp_path_factory.mktemp("sortable")
    values = {"b": 9.0, "A": 30.0, "c": 100.0, "f": 5.5, "e": 3.0}
    rows = [result("own", name, (ua, 99.0, 93.0, 12.0)) for name, ua in values.items()]
    write(
        folder,
        result("retrain", "Retrain"),
        *rows,
        result("own", "d", (6.0, 99.0, 93.0, float("nan"))),
    )
    assert report.main([str(folder), "--html", str(folder / "page.html")]) == 0
    return folder / "page.html"


@needs_browser
def test_a_press_on_a_header_sorts_and_a_second_one_turns_the_order(chromium, sortable):
    """Gaps by their size without the sign, not as text; names as a reader would; unknown numbers
    last in both orders; Retrain stays on top.
    """
    chromium.open(sortable)
    chromium.size(1200, 900)
    orders = {
        1: ("Abcdef", "fedcbA"),
        2: (".{5}d", ".{5}d"),
        3: ("fdebAc", "cAbedf"),
        6: (".{5}d", ".{5}d"),
    }
    for place, (up, down) in orders.items():
        header = f"table.sortable thead th:nth-child({place})"
        for expected, state in ((up, "ascending"), (down, "descending")):
            chromium.click(f"{header} button")
            assert (
                chromium.run("return document.querySelector(arguments[0]).ariaSort", header)
                == state
            )
            assert re.fullmatch(expected, "".join(methods(chromium)))
        assert (
            chromium.run(
                "return document.querySelectorAll('table.sortable th[aria-sort$=scending]').length"
            )
            == 1
        )
    assert chromium.run(
        "return document.querySelector('table.sortable tbody').textContent"
    ).startswith("Retrain")
    assert chromium.console() == []


@needs_browser
def test_the_keyboard_sorts(chromium, sortable):
    """Enter and the space bar on a header's button, which Tab reaches."""
    chromium.open(sortable)
    for key, state, order in (("\ue007", "ascending", "fdebAc"), (" ", "descending", "cAbedf")):
        chromium.press("table.sortable thead th:nth-child(3) button", key)
        assert chromium.run("return document.querySelectorAll('th')[2].ariaSort") == state
        assert "".join(methods(chromium)) == order
    assert chromium.run("return document.querySelectorAll('th')[2].firstChild.tabIndex") == 0


@needs_browser
def test_a_phone_shows_avg_gap_first_and_tables_scroll_in_their_own_box(chromium, page):
    """At 360 pixels the first table's Avg. Gap is whole in view beside the method's name."""
    chromium.size(360, 800)
    chromium.open(page)
    right_of_name, left, right, box, wide = chromium.run("""
        const [name, gap] = document.querySelectorAll("table thead th");
        const box = document.querySelector(".box");
        return [name.getBoundingClientRect().right, gap.getBoundingClientRect().left,
            gap.getBoundingClientRect().right, box.getBoundingClientRect().right,
            box.scrollWidth > box.clientWidth];
        """)
    assert (
        chromium.run("return document.querySelectorAll('thead th')[1].innerText")[:8] == "Avg. Gap"
    )
    assert left == pytest.approx(right_of_name, abs=1)
    assert right <= box <= 360
    assert wide
    chromium.run("document.querySelector('.box').scrollLeft = 500; window.scrollTo(500, 0)")
    assert chromium.run(
        "return [document.querySelector('.box').scrollLeft > 0, window.scrollX]"
    ) == [True, 0]


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1200])
def test_page_opens_without_a_complaint_and_fits(chromium, page, scheme, width):
    """No error, no violation of the policy, no sideways scrolling of the page, and letters that
    stand out from their ground.
    """
    chromium.scheme(scheme)
    chromium.size(width, 800)
    chromium.open(page)
    assert chromium.console() == []
    assert chromium.run("return document.documentElement.scrollWidth <= window.innerWidth")
    assert chromium.run("return document.querySelectorAll('svg').length") == 10
    colours = chromium.run("""
        const of = (css, name) => getComputedStyle(document.querySelector(css))[name];
        return [of("body", "backgroundColor"), of("body", "color"), of("svg text", "fill"),
            of("figcaption", "color"), of("a", "color")];
        """)
    ground, *letters = [luminance(colour) for colour in colours]
    assert (ground < 0.2) == (scheme == "dark")
    assert letters[0] == pytest.approx(letters[1])  # a plot is drawn in the colour of the text
    for letter in letters:
        assert (max(letter, ground) + 0.05) / (min(letter, ground) + 0.05) >= 4.5


def luminance(colour):
    """Relative luminance of ``rgb(r, g, b)`` (WCAG 2)."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@needs_browser
def test_a_script_that_slipped_through_would_not_run(chromium, page, tmp_path):
    """The policy behind the escaping: markup put into the file by hand stays dead, and the console
    says so.
    """
    broken = tmp_path / "broken.html"
    broken.write_text(
        page.read_text().replace("</main>", "<script>document.title = 'run'</script></main>")
    )
    chromium.open(broken)
    assert chromium.run("return document.title") != "run"
    assert any("Content Security Policy" in line for line in chromium.console())


def test_absolute_paths_of_commands_are_cut_to_their_last_part(tmp_path, capsys):
    """Names of users and machines are in them; relative ones stay, and the JSON keeps the command
    whole.
    """
    run = result("FT")
    run["provenance"]["command"] = [
        "main_forget.py",
        "--save_dir=/home/zoe/runs/x",
        "/data/zoe/m.pt",
        "@/home/zoe/l.npy",
        "runs/a/b",
    ]
    write(tmp_path, run)
    assert report.main([str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    (command,) = re.findall(
        "<pre>(python main_forget.*?)</pre>", (tmp_path / "page.html").read_text()
    )
    assert (
        command.replace("&#x27;", "")
        == "python main_forget.py --save_dir=…/x …/m.pt @…/l.npy runs/a/b"
    )
