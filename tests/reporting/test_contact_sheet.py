"""The contact sheet: what runs saved of the forgotten images is what the page shows."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from records import HOSTILE, result, write

import report
from reporting.contact_sheet import contact_sheet
from runtime.files import hash_arrays
from utils import UserError

CLASSES = ["ant", "bee", "cat"]


def arrays(count=100, after=0, before=None, classes=CLASSES, shown=64, side=8):
    """A run's file: labels 0, 1, 2, 0, ..., each answer ``after`` classes further."""
    rng, labels = np.random.default_rng(0), np.arange(count) % 3
    found = {
        "indices": np.arange(count) * 7,
        "positions": np.arange(count) * 6,
        "labels": labels,
        "classes": np.array(classes),
        "shown": np.arange(min(count, shown)),
        "images": rng.integers(0, 256, (min(count, shown), side, side, 3), dtype=np.uint8),
        "said_after": (labels + after) % 3,
    }
    return found if before is None else found | {"said_before": (labels + before) % 3}


def saved(folder, label, content, method="FT", **changes):
    """A result in ``folder`` with its file, as report.py has read it."""
    sha256 = hash_arrays({"forget": content["indices"]})
    record = result(method, label, forget=sha256, count=len(content["indices"]), **changes)
    own = folder / label
    own.mkdir(parents=True)
    np.savez(own / f"{method}forget.npz", **content)
    (own / f"{method}result.json").write_text(json.dumps(record))
    return record | {"file": own / f"{method}result.json"}


def images_of(markup):
    found = re.findall(r'src="data:image/png;base64,([^"]*)"', markup)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each)))) for each in found]


def cards_of(markup):
    return re.findall(r"<figcaption>(.*?)</figcaption>", markup)


def test_the_sheet_shows_pixels_labels_and_answers(tmp_path):
    groups = {
        "Retrain": [saved(tmp_path, "Retrain", arrays(after=1), method="retrain")],
        "FT": [saved(tmp_path, "FT", arrays(after=0, before=0))],
        "GA": [saved(tmp_path, "GA", arrays(after=1), method="GA")],
    }
    sheet = contact_sheet(groups)
    assert np.array_equal(images_of(sheet), arrays()["images"])
    cards = cards_of(sheet)
    assert len(cards) == 64
    for card, label in zip(cards, arrays()["labels"], strict=False):
        name, other = CLASSES[label], CLASSES[(label + 1) % 3]
        assert f"<strong>{name}</strong>" in card
        assert f'before: <span class="right">{name}' in card
        assert f'Retrain, GA: <span class="other">{other}' in card
        assert f'FT: <span class="right">{name}' in card
    assert "64 of 100 forgotten images" in sheet
    assert 'alt="forgotten image 7, bee"' in sheet


def test_one_answer_of_all_models_is_said_once(tmp_path):
    groups = {name: [saved(tmp_path, name, arrays(after=2), method=name)] for name in ("FT", "GA")}
    card = cards_of(contact_sheet(groups))[0]
    assert 'after, all: <span class="other">cat' in card
    assert "before" not in card


def test_the_row_that_does_nothing_says_what_was_said_before(tmp_path):
    groups = {
        "Original": [saved(tmp_path, "Original", arrays(after=1), method="raw")],
        "FT": [saved(tmp_path, "FT", arrays(after=2))],
    }
    card = cards_of(contact_sheet(groups))[0]
    assert 'before: <span class="other">bee' in card
    assert "Original" not in card


def test_models_of_one_forget_set_are_shown_together(tmp_path):
    other = arrays(count=30, after=1)
    groups = {
        "A": [saved(tmp_path / "a", "A", other)],
        "B": [saved(tmp_path / "a", "B", other), saved(tmp_path / "b", "B", arrays(after=2))],
        "C": [saved(tmp_path, "C", arrays(after=2))],
    }
    sheet = contact_sheet(groups)
    assert "30 of 30 forgotten images" in sheet
    assert "C:" not in sheet


def test_a_row_of_several_seeds_shows_its_first_run(tmp_path):
    runs = [saved(tmp_path / str(after), "FT", arrays(after=after)) for after in (1, 2)]
    assert 'FT: <span class="other">bee' in cards_of(contact_sheet({"FT": runs}))[0]


def test_without_files_there_is_no_sheet(tmp_path):
    record = saved(tmp_path, "FT", arrays())
    record["file"].with_name("FTforget.npz").unlink()
    assert contact_sheet({"FT": [record]}) is None
    elsewhere = saved(tmp_path, "GA", arrays())
    elsewhere["data"]["forget"]["sha256"] = "0" * 64
    assert contact_sheet({"GA": [elsewhere]}) is None


DAMAGE = {
    "labels": np.zeros(5, np.int64),
    "said_after": np.full(100, 3),
    "said_before": np.full(100, -1),
    "classes": np.array([1, 2, 3]),
    "shown": np.full(64, 100),
    "images": np.zeros((64, 8, 8), np.uint8),
    "indices": np.zeros(100, np.float32),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_refused_by_its_name(name, tmp_path):
    record = saved(tmp_path, "FT", arrays())
    file = record["file"].with_name("FTforget.npz")
    np.savez(file, **{**arrays(), name: DAMAGE[name]})
    with pytest.raises(UserError, match=r"FTforget\.npz is damaged .* delete the file"):
        contact_sheet({"FT": [record]})
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"FTforget\.npz is damaged"):
        contact_sheet({"FT": [record]})


def test_the_page_has_the_sheet_and_may_show_it(tmp_path, capsys):
    content = arrays(classes=[HOSTILE, "bee", "cat"])
    saved(tmp_path, "FT", content)
    write(tmp_path, result("GA"))
    assert report.main([str(tmp_path), "--mixed", "--html", str(tmp_path / "page.html")]) == 0
    page = (tmp_path / "page.html").read_text()
    assert "Forgotten images</h3>" in page
    assert "img-src data:;" in page
    assert len(images_of(page)) == 64
    assert HOSTILE not in page


def test_of_many_rows_the_first_are_asked_and_the_original(tmp_path, monkeypatch):
    """Each row costs a file and a line below each image."""
    monkeypatch.setattr("reporting.contact_sheet.MOST_ROWS", 2)
    groups = {name: [saved(tmp_path, name, arrays(), method=name)] for name in ("A", "B", "C")}
    groups["Original"] = [saved(tmp_path, "Original", arrays(after=1), method="raw")]
    sheet = contact_sheet(groups)
    assert "Only the first 2 of 4 rows are asked." in sheet
    card = cards_of(sheet)[0]
    assert 'after, all: <span class="right">ant' in card
    assert 'before: <span class="other">bee' in card
    (tmp_path / "C" / "Cforget.npz").write_text("never read")
    assert contact_sheet(groups) == sheet
