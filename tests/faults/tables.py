"""report.py on hostile records in six formats, and beside runs that write, overwrite and delete
theirs.
"""

import contextlib
import csv
import html.parser
import io
import json
import os
import random
import re
import shutil
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import records
from faults.files import complaints_about

import report
from reporting.audits import read_audits
from reporting.curves import with_curves
from reporting.formats import FORMATS
from reporting.results import collect
from reporting.tables import scenarios
from runtime.cli import script
from runtime.files import save_json, save_text

SECONDS = 10  # of processor time that a format may take
SIX = (*FORMATS, "page")
TEXTS = (
    "=1+1",
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    " =1",
    "a\n=1,2",
    '"=1"',
    ";=1",
    "\x1b[2J\x1b]0;title\x07",
    "a\rb",
    "a\x00b",
    "\x08\x08\x08",
    "\u202egpj.exe",
    "\u2066x\u2069",
    "\ufeff",
    "\u200b",
    "\u2028line",
    "\x85next",
    "\x9b31m",
    "\ud800",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</script><script>1</script>",
    "</svg><iframe>",
    "<!--",
    "]]>",
    "&lt;b&gt;",
    "javascript:alert(1)",
    "[x](javascript:1)",
    "![x](http://a/b)",
    "`code`",
    "**bold**",
    "|",
    "a|b|c",
    "\\|",
    "# title",
    "<http://a.b>",
    "\\input{/etc/passwd}",
    "\\write18{id}",
    "\\end{table}",
    "%",
    "$x$",
    "$\\frac{",
    "^^M\\input",
    "\x0c\\input{x}",
    "{",
    "}}}",
    "\\",
    "~",
    "Retrain",
    "",
    " ",
    "x" * 100_000,
    "é" * 300,
    "ﷺ" * 50,
    "../../etc/passwd",
    "%s%n{0}",
    "{row}",
    "a\u0301" * 200,
    "👩‍👩‍👧",
    "nan",
    "inf",
    "-",
    "None",
)
COMMANDS = (
    "begin",
    "end",
    "centering",
    "caption",
    "toprule",
    "midrule",
    "bottomrule",
    "textbf",
    "textsuperscript",
    "sim",
    "pm",
    "textbackslash",
    "textasciitilde",
    "textasciicircum",
    "textless",
    "textgreater",
    "textbar",
)
DEEP, DEEP_TABLE, LONG = (
    "[" * 100_000 + "]" * 100_000,
    '{"a":' * 50_000 + "1" + "}" * 50_000,
    "9" * 6000,
)
RAW = {
    f"\ue000{number}": text
    for number, text in enumerate(
        (DEEP, DEEP_TABLE, LONG, "1e999", "-0", "NaN", "-Infinity", "1e-400")
    )
}
VALUES = (
    1e308,
    -1e308,
    1e200,
    1e101,
    1e99,
    -1e99,
    10**400,
    -(10**400),
    2**63,
    float("nan"),
    float("inf"),
    True,
    False,
    None,
    [],
    {},
    [[]],
    [1, 2],
    {"a": 1},
    "",
    "x",
    -1,
    0,
    5e-324,
    [None],
    *RAW,
)


# ---------------------------------------------------------------------------------- hostile records


def parts_of(content: object) -> list[tuple[dict | list, object]]:
    """(container, key) of everything inside a nested value."""
    found, left = [], [content]
    while left:
        item = left.pop()
        keys = (
            list(item)
            if isinstance(item, dict)
            else range(len(item))
            if isinstance(item, list)
            else ()
        )
        found += [(item, key) for key in keys]
        left += [item[key] for key in keys]
    return found


def spoil(content: dict, how: str, rng: random.Random) -> None:
    """Change a record: some texts, some values, or its structure."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        parts = parts_of(content)
        texts = [(box, key) for box, key in parts if isinstance(box[key], str)]
        box, key = rng.choice(texts if how == "texts" and texts else parts)
        if how == "texts":
            box[key] = rng.choice(TEXTS)
        elif how == "names" and isinstance(box, dict):
            box[rng.choice(TEXTS)] = box.pop(key)
        elif how == "structure":
            box[key] = rng.choice(
                [[box[key]], {"a": box[key]}, [box[key]] * 3, list(box), str(box[key])]
            )
        else:
            box[key] = rng.choice(VALUES)


def hostile_world(folder: Path, rng: random.Random) -> str:
    """Results, an audit and a curve in ``folder``, some of them spoilt; returns how."""
    how = rng.choice(
        [
            "labels",
            "labels",
            "texts",
            "texts",
            "names",
            "values",
            "values",
            "values",
            "structure",
            "bytes",
            "many",
        ]
    )
    drawn = lambda: rng.choice(TEXTS) if how == "labels" else "FT"  # noqa: E731
    results = [
        records.result("retrain", "Retrain", (5.0 + seed, 99.0, 93.0 - seed, 12.0), seed=seed)
        for seed in (1, 2, 3)
    ]
    results += [
        records.result(name, drawn() or "x", lr=0.01 * number, mask=0.5, warnings=[drawn()])
        for number, name in enumerate("ab", 1)
    ]
    if how == "labels":
        results[3]["hyperparameters"] |= {drawn(): 1, "unlearn_lr": drawn()}
        results[3]["provenance"] |= {"command": [drawn(), drawn()], "device": drawn()}
        results[4]["data"]["dataset"] = drawn() if rng.random() < 0.3 else "cifar10"
    if how == "many":
        results += [
            records.result("FT", "FT", (rng.random(), 99.0, 93.0, 12.0), seed=seed)
            for seed in range(rng.choice([10, 200]))
        ]
    audit = records.with_shadows(records.audit(*results))
    if how == "labels":
        audit["warnings"], audit["rows"][0]["label"] = [drawn()], drawn()
        audit["metrics"][drawn()] = {"unit": drawn(), "good": "retrain", "text": drawn()}
        audit["models"][0]["per_class"]["forget"][drawn()] = 1.0
        if rng.random() < 0.5:  # models of no result: the audit's own labels are shown
            for model in audit["models"]:
                model["weights_sha256"] = "other"
    if how == "many":
        more = rng.choice([10, 3000])
        audit["models"] += [audit["models"][-1]] * more
        audit["rows"][-1]["models"] += range(len(audit["models"]) - more, len(audit["models"]))
    spoilt = rng.choice([audit, *results])
    if how in ("texts", "names", "values", "structure"):
        spoil(spoilt, how, rng)
    for number, content in enumerate([*results, audit]):
        own = folder / f"run{number}"
        own.mkdir()
        text = json.dumps(content)
        for name, raw in RAW.items():
            text = text.replace(json.dumps(name), raw)
        if how == "bytes" and content is spoilt:
            text = rng.choice(
                [
                    "",
                    "[]",
                    "null",
                    "\ufeff{}",
                    text[: rng.randrange(len(text))],
                    text + text,
                    DEEP,
                    f'{{"metrics": {DEEP_TABLE}}}',
                ]
            )
        (own / ("audit.json" if content is audit else "FTresult.json")).write_text(text)
    records.write_curve(folder / "run0", "FT")
    if how == "bytes" and rng.random() < 0.5:
        (folder / "run0" / "FTcurve.jsonl").write_text(
            rng.choice(["{", "[1]\n", '{"epoch": "x"}\n', '{"epoch": 1e400}\n', DEEP])
        )
    return how


# -------------------------------------------------------------------------------------- six formats


def printed(
    argv: list[str], main: Callable[[list[str]], int] = report.main
) -> tuple[int | str, str, str]:
    """report.py in this process: its exit code, or what escaped, and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(argv)
        except BaseException:
            code = traceback.format_exc()
    return code, out.getvalue(), err.getvalue()


def json_trial(world: Path, seed: int) -> dict:
    """Hostile records through all six formats, in a child that may not take longer
    than it should.
    """
    rng, folder = random.Random(f"json/{seed}"), world / "hostile_json"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "in").mkdir(parents=True)
    how = hostile_world(folder / "in", rng)
    child = os.fork()
    if not child:
        found = []
        with contextlib.suppress(BaseException):
            for name in SIX:
                began = time.process_time()
                words = (
                    ["--html", str(folder / "page.html")] if name == "page" else ["--format", name]
                )
                code, out, err = printed([str(folder / "in"), *words])
                text = (folder / "page.html").read_text() if name == "page" and code == 0 else out
                took = time.process_time() - began
                slow = [f"{name}: {took:.0f} s"] if took > SECONDS else []
                found.append(
                    [
                        code,
                        [
                            *slow,
                            *(f"{name}: {words}" for words in wrong_with(name, code, text, err)),
                        ],
                    ]
                )
            (folder / "found.json").write_text(json.dumps(found))
        os._exit(0)
    os.waitpid(child, 0)
    complaints, codes = ["it did not come to an end"], []
    if (folder / "found.json").exists():
        found = json.loads((folder / "found.json").read_text())
        codes, complaints = (
            [code for code, _ in found],
            [line for _, lines in found for line in lines],
        )
    return {
        "case": how,
        "seed": seed,
        "code": max(map(str, codes), default="-")[:20],
        "complaints": complaints,
        "ok": not complaints,
    }


def wrong_with(name: str, code: int | str, text: str, err: str) -> list[str]:
    """What is wrong with what a format printed."""
    found = complaints_about(code, err, (0, 2))
    found += [f"standard error holds {odd(err)}"] if odd(err) else []
    if code != 0:
        return found
    if name in ("text", "markdown", "latex", "csv") and odd(text):
        found.append(f"it holds {odd(text)}")
    return found + {
        "csv": wrong_cells,
        "markdown": wrong_markdown,
        "latex": wrong_latex,
        "json": wrong_json,
        "page": wrong_page,
    }.get(name, lambda text: [])(text)


def odd(text: str) -> str:
    """The characters of a text that no terminal should get."""
    return ascii(
        "".join(
            sorted(
                {
                    character
                    for character in text
                    if not character.isprintable() and character != "\n"
                }
            )
        )
    )[1:-1]


def wrong_cells(text: str) -> list[str]:
    """Cells that a spreadsheet would compute; a number may begin with its sign."""

    def is_number(cell: str) -> bool:
        with contextlib.suppress(ValueError):
            float(cell)
            return True
        return False

    csv.field_size_limit(10**9)
    cells = [cell for line in csv.reader(io.StringIO(text)) for cell in line]
    return [
        f"the cell {cell[:40]!r}"
        for cell in cells
        if cell.startswith(("=", "+", "-", "@", "\t", "\r")) and not is_number(cell)
    ]


def wrong_markdown(text: str) -> list[str]:
    """Tags, links and pictures: a table has none of its own."""
    found = re.findall(r"<[A-Za-z/!?][^\n]{0,30}", text) + re.findall(
        r"(?<!\\)\]\([^\n]{0,30}", text
    )
    return [f"the tag or link {words!r}" for words in found]


def wrong_latex(text: str) -> list[str]:
    """Commands that a table has not, and braces that do not pair, outside of comments."""
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    found = [
        f"the command {word!r}"
        for line in lines
        for word in re.findall(r"\\([A-Za-z]+)", line)
        if word not in COMMANDS
    ]
    bare = re.sub(r"\\[\\{}%&#_$]", "", "\n".join(lines))
    return (
        found
        + (["its braces do not pair"] if bare.count("{") != bare.count("}") else [])
        + (["a comment inside"] if "%" in bare else [])
    )


def wrong_json(text: str) -> list[str]:
    """Words that JSON does not have."""

    def forbidden(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(text, parse_constant=forbidden)
    except (ValueError, RecursionError) as error:
        return [f"no JSON: {error}"]
    return []


class _Tags(html.parser.HTMLParser):
    """What a page has that could run or fetch something."""

    def __init__(self) -> None:
        super().__init__()
        self.found, self.scripts = [], []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += [""] if tag == "script" else []
        if tag in (
            "iframe",
            "object",
            "embed",
            "link",
            "base",
            "img",
            "form",
            "audio",
            "video",
            "foreignobject",
            "animate",
            "set",
        ):
            self.found.append(f"the tag {tag}")
        for name, value in attrs:
            if (
                name.startswith("on")
                or (name.endswith("href") and not (value or "").startswith("#"))
                or name in ("src", "srcdoc", "action")
            ):
                self.found.append(f"{tag} {name}={(value or '')[:40]!r}")

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script" and self.scripts:
            self.scripts[-1] += data


def wrong_page(text: str) -> list[str]:
    """A script other than the page's own, and whatever fetches or runs something."""
    tags = _Tags()
    tags.feed(text)
    own = (Path(report.__file__).parent / "reporting" / "page.js").read_text().strip()
    scripts = [script.strip() for script in tags.scripts]
    inside = re.search(r"<script>(.*?)</script>", text, re.DOTALL)
    is_ours = (
        len(scripts) == 1
        and inside is not None
        and inside[1].strip() == own
        and "default-src 'none'" in html.unescape(text)
    )
    return tags.found + ([] if is_ours else [f"{len(scripts)} scripts, or not the page's own"])


# ------------------------------------------------------------------------------ beside running runs


@script
def read_all(argv: list[str]) -> None:
    """What report.py reads, curves included, without drawing."""
    folder = [Path(argv[0])]
    found = [with_curves(scenario) for scenario in scenarios(collect(folder), read_audits(folder))]
    print(FORMATS[argv[2]](found))


def writer(folder: Path, seed: int) -> None:
    """Write, overwrite and delete results, audits and curves for ever, as runs do."""
    rng = random.Random(f"writer/{seed}")
    for number in range(10**9):
        own = folder / f"run{rng.randrange(6)}"
        retrain = own.name in ("run0", "run1", "run2")
        content = (
            records.result("retrain", "Retrain", seed=number)
            if retrain
            else records.result("FT", "FT", (rng.random(), 99.0, 93.0, 12.0))
        )
        draw = rng.random()
        with contextlib.suppress(OSError):
            if draw < 0.5:
                save_json(content, own / f"{content['method']}result.json")
                save_text('{"epoch": 1, "loss": 0.5}\n', own / f"{content['method']}curve.jsonl")
            elif draw < 0.7:
                save_json(records.with_shadows(records.audit(content)), own / "audit.json")
            elif draw < 0.9:
                for file in own.iterdir():  # as --overwrite begins
                    file.unlink(missing_ok=True)
            else:
                shutil.rmtree(own)


def beside_trial(
    world: Path, seed: int, reads: int, write: Callable[[Path, int], None] = writer
) -> dict:
    """Read a folder ``reads`` times beside a process that writes there: a table or one line, each
    time.
    """
    rng, folder = random.Random(f"beside/{seed}"), world / "beside"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "runs").mkdir(parents=True)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            write(folder / "runs", seed)
        os._exit(0)
    codes, complaints = {0: 0, 2: 0}, []
    try:
        for _ in range(reads):
            main = rng.choice([report.main, read_all])
            code, _, err = printed(
                [str(folder / "runs"), "--format", rng.choice(list(FORMATS))], main
            )
            complaints += complaints_about(code, err, (0, 2)) + (
                [f"a torn file: {err}"] if "damaged" in err or "not readable" in err else []
            )
            codes[code] = codes.get(code, 0) + 1
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    found = {
        "case": "beside",
        "seed": seed,
        "reads": reads,
        "tables": codes[0],
        "complaints": complaints[:5],
    }
    return found | {"ok": not complaints}
