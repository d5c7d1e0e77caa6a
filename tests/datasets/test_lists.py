"""Lists as other tools write them: read, or refused with the remedy."""

import json
import re

import numpy as np
import pytest

from datasets.lists import file_and_column, read_list
from utils import UserError

CHOSEN = [7, 0, 42, 1313]


def written(folder, name, content):
    path = folder / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def values(text, **options):
    return read_list(text, "--forget", **options).values.tolist()


READ = {
    "npy": ("a.npy", np.array(CHOSEN)),
    "small unsigned npy": ("a.npy", np.array(CHOSEN, dtype=np.uint16)),
    "large unsigned npy": ("a.npy", np.array(CHOSEN, dtype=np.uint64)),
    "upper case": ("a.JSON", CHOSEN),
    "lines": ("a.txt", "7\n0\n42\n1313\n"),
    "commas": ("a.txt", "7, 0,42,\n1313"),
    "no suffix": ("a", "7 0 42 1313"),
    "byte order mark": ("a.txt", b"\xef\xbb\xbf7\r\n0\r\n42\r\n1313"),
    "utf-16 as PowerShell writes it": ("a.txt", "7\r\n0\r\n42\r\n1313\r\n".encode("utf-16")),
    "json": ("a.json", CHOSEN),
    "json with a byte order mark": ("a.json", b"\xef\xbb\xbf[7, 0, 42, 1313]"),
    "json under forget": ("a.json", {"retain": [1, 2], "forget": CHOSEN}),
    "json under its only list": ("a.json", {"seed": 3, "indices": CHOSEN}),
    "csv": ("a.csv", "7\n0\n42\n1313\n"),
    "csv with a header": ("a.csv", "index\n7\n0\n42\n1313\n"),
    "csv with blank rows": ("a.csv", "7\n\n0\n42\n1313\n\n"),
    "csv with quotes": ("a.csv", '"7"\n"0"\n"42"\n"1313"\n'),
}


@pytest.mark.parametrize("name", READ)
def test_lists_of_other_tools_are_read(name, tmp_path):
    assert values(f"@{written(tmp_path, *READ[name])}") == CHOSEN


TABLE = "row,index,why\n0,7,a\n1,0,b\n2,42,c\n3,1313,d\n"
COLUMNS = {
    "by header": (TABLE, "index"),
    "by number": (TABLE, "1"),
    "without a header": ("0,7\n1,0\n2,42\n3,1313\n", "1"),
    "semicolons": ("row;index\n0;7\n1;0\n2;42\n3;1313\n", "index"),
    "tabs": ("row\tindex\n0\t7\n1\t0\n2\t42\n3\t1313\n", "1"),
    "row numbers of pandas": (",0\n0,7\n1,0\n2,42\n3,1313\n", "1"),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_of_a_csv_is_chosen_by_header_or_number(name, tmp_path):
    content, column = COLUMNS[name]
    path = written(tmp_path, "a.csv", content)
    assert values(f"@{path}:{column}") == CHOSEN


def test_what_was_passed_over_is_said(tmp_path):
    path = written(tmp_path, "a.csv", "index\n7\n")
    assert read_list(f"@{path}", "x").note == "header 'index' of a.csv"
    path = written(tmp_path, "b.json", {"forget": [7], "retain": []})
    assert read_list(f"@{path}", "x").note == "entry 'forget' of b.json"
    assert read_list(f"@{written(tmp_path, 'c.json', [7])}", "x").note == ""


def test_a_file_whose_name_has_a_colon_wins(tmp_path):
    written(tmp_path, "a.csv", "7,1\n")
    path = written(tmp_path, "a.csv:0", "5\n")
    assert file_and_column(f"@{path}") == (path, None)
    path.unlink()
    assert file_and_column(f"@{path}") == (tmp_path / "a.csv", "0")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.npy", np.array([True, False, True])),
        ("a.json", [True, False, True]),
        ("a.csv", "keep\nTrue\nFalse\nTrue\n"),
        ("a.txt", "true false true"),
    ],
)
def test_masks_are_read_as_masks(name, content, tmp_path):
    found = read_list(f"@{written(tmp_path, name, content)}", "--forget").values
    assert found.dtype == bool
    assert found.tolist() == [True, False, True]


FILES = ["train/cat/a b.png", "train/dog/1.png"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "train/cat/a b.png\ntrain/dog/1.png\n"),
        ("a.csv", "train/cat/a b.png\ntrain/dog/1.png\n"),
        ("a.csv", "file\ntrain/cat/a b.png\ntrain/dog/1.png\n"),
        ("a.json", FILES),
        ("a.npy", np.array(FILES)),
    ],
)
def test_file_names_are_read(name, content, tmp_path):
    assert values(f"@{written(tmp_path, name, content)}", names=True) == FILES


def test_a_column_of_file_names_is_chosen(tmp_path):
    content = "label,path\n2,train/cat/a b.png\n3,train/dog/1.png\n"
    path = written(tmp_path, "a.csv", content)
    assert values(f"@{path}:path", names=True) == values(f"@{path}:1", names=True) == FILES


REFUSED = {
    "two columns": ("a.csv", "0,66\n1,175\n", "", ["2 columns", "'66'", "a.csv:1"]),
    "no such header": ("a.csv", TABLE, ":idx", ["'idx'", "'index'"]),
    "no such column": ("a.csv", TABLE, ":3", ["column 3", "3"]),
    "header twice": ("a.csv", "i,i\n1,2\n", ":i", ["2 columns", "'i'"]),
    "number that is another header": ("a.csv", ",0\n0,7\n", ":0", ["column 0", "a.csv:1"]),
    "a field without end": ("a.csv", "index\n" + "9" * 200_000 + "\n", "", ["field"]),
    "ragged": ("a.csv", "1,2\n3\n", ":1", ["row 2", "1 columns"]),
    "no integer in a row": ("a.csv", "1\n2\nx\n", "", ["row 3", "'x'"]),
    "point": ("a.csv", "1.0\n2.0\n", "", ["row 1", "'1.0'", "without a point"]),
    "nan": ("a.csv", "1\nnan\n", "", ["row 2", "'nan'"]),
    "file names": ("a.csv", "cat/1.png\ncat/2.png\n", "", ["row 2", "files:@FILE"]),
    "only a header": ("a.csv", "index\n", "", ["empty"]),
    "empty": ("a.txt", "", "", ["empty"]),
    "empty json": ("a.json", [], "", ["empty"]),
    "several lists": ("a.json", {"a": [1], "b": [2]}, "", ["'a', 'b'", "a.json:a"]),
    "no list": ("a.json", {"a": 1}, "", ["no entry of it is a list"]),
    "no such entry": ("a.json", {"a": [1]}, ":c", ["'c'", "'a'"]),
    "text in json": ("a.json", [1, "cat/2.png"], "", ["entry 2", "files:@FILE"]),
    "nested": ("a.json", [[1, 2]], "", ["entry 1", "[1, 2]"]),
    "truth among numbers": ("a.json", [1, True], "", ["entry 2", "true"]),
    "a float array": ("a.npy", np.array([1.0]), "", ["float64", "astype(int)"]),
    "two dimensions": ("a.npy", np.array([[1], [2]]), "", ["(2, 1)", "reshape(-1)"]),
    "too large": ("a.json", [1, 2**70], "", [str(2**70), "out of range"]),
    "too large unsigned": ("a.npy", np.array([2**63], np.uint64), "", ["out of range"]),
    "no text": ("a.bin", bytes(range(256)), "", ["no text", ".npy", ".json"]),
    "no column": ("a.txt", "1 2", ":0", [":0", ".csv"]),
    "damaged": ("a.json", "[1, 2", "", ["a.json"]),
    "a range": ("a.txt", "3-5", "", ["'3-5'", "3,4,5"]),
    "a power": ("a.txt", "1e3", "", ["'1e3'", "in digits"]),
    "a comment": ("a.txt", "# these\n1\n", "", ["entry 1 is '#'", "comments are not read"]),
    "brackets in text": ("a.txt", "[1, 2]", "", ["'[1'", "without brackets"]),
    "lines of json": ("a.jsonl", '{"index": 1}\n', "", ["a list of plain numbers"]),
    "objects": ("a.json", [{"index": 1}], "", ['{"index": 1}', "a list of plain numbers"]),
    "a zip archive": ("a.npz", b"PK\x03\x04abc", "", ["no text", ".npy"]),
    "latin-1": ("a.csv", b"index\n1\n# gr\xf6\n", "", ["byte 12 is not UTF-8", "in UTF-8"]),
    "half of utf-16": ("a.txt", b"\xff\xfe1\x00\x00\xd8", "", ["is not UTF-16"]),
    "a likely header": ("a.csv", TABLE, "", ["1 ('index')", "such as @a.csv:index"]),
    "an id": ("a.csv", "Id,score\n1,2\n", "", ["such as @a.csv:Id"]),
    "no likely header": ("a.csv", "one,two\n1,2\n", "", ["0 ('one')", "such as @a.csv:HEADER"]),
    "half a place": ("a.txt", "1 2.5", "", ["entry 2", "'2.5'", "is a whole number"]),
    "half a place in json": ("a.json", [1, 2.5], "", ["entry 2 is 2.5", "is a whole number"]),
    "a whole float in json": ("a.json", [1.0], "", ["entry 1 is 1.0", "without a point"]),
    "half places in an array": ("a.npy", np.array([1.0, 2.5]), "", ["entry 2 is 2.5, no whole"]),
    "nan in an array": ("a.npy", np.array([1.0, np.nan]), "", ["entry 2 is nan, no whole"]),
    "text in an array": ("a.npy", np.array(["1"]), "", ["<U1", "integers or booleans"]),
}


def test_an_array_of_halves_is_not_told_to_drop_them(tmp_path):
    with pytest.raises(UserError) as refusal:
        read_list(f"@{written(tmp_path, 'a.npy', np.array([1.0, 2.5]))}", "--forget")
    assert "astype" not in str(refusal.value)


def test_a_table_with_file_names_names_their_column(tmp_path):
    path = written(tmp_path, "a.csv", "index,path,label\n0,cat/1.png,cat\n")
    with pytest.raises(UserError, match=r"such as @a\.csv:path$"):
        read_list(f"@{path}", "--forget", names=True)
    with pytest.raises(UserError, match=r"such as @a\.csv:index$"):
        read_list(f"@{path}", "--forget")


ONCE = {
    "no such file": ("none.csv", None, ""),
    "a folder": ("", None, ""),
    "several columns": ("a.csv", TABLE, ""),
    "several lists": ("a.json", {"a": [1], "b": [2]}, ""),
    "another header": ("a.csv", ",0\n0,7\n", ":0"),
    "no array": ("a.npy", "text", ""),
    "a folder for the text": ("folder.csv", None, ""),
}


@pytest.mark.parametrize("name", ONCE)
def test_the_path_of_a_list_stands_once_in_a_refusal(name, tmp_path):
    file, content, column = ONCE[name]
    (tmp_path / "folder.csv").mkdir()
    path = tmp_path / file if content is None else written(tmp_path, file, content)
    text = f"positions:@{path}{column}"
    with pytest.raises(UserError) as refusal:
        read_list(text.partition(":")[2], f"--forget {text}")
    assert str(refusal.value).count(str(tmp_path)) == 1
    with pytest.raises(UserError) as refusal:
        read_list(text.partition(":")[2], "--forget (cut)")
    assert str(refusal.value).startswith("--forget (cut): ")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_with_the_remedy(name, tmp_path):
    file, content, column, said = REFUSED[name]
    text = f"@{written(tmp_path, file, content)}{column}"
    with pytest.raises(UserError) as refusal:
        read_list(text, f"--forget positions:{text}")
    for words in said:
        assert words in str(refusal.value)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("text", ["1,,5", "", "1;5", "@none.csv", "5,x", "@", "0-5", "[1,2]"])
def test_an_odd_list_in_words_is_refused(text):
    with pytest.raises(UserError, match=re.escape("--forget")):
        read_list(text, "--forget")
