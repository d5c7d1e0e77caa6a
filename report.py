"""Result files -> tables, plots and a page: how close did each method come to Retrain?

    python report.py DIR... [--format {text,markdown,latex,csv,json}] [--html FILE] [--plots FOLDER
    [--plot_format {png,pdf}]]
    python report.py DIR... --published KEY [--format {text,markdown,csv,json}]
    python report.py DIR... --row METHOD

Reads every *result.json below each DIR, but for the shadow models' (give their own folder to see
those), and every audit.json of evaluate.py. A row is a method with its hyper-parameters, averaged
over its runs (mean and sample standard deviation where there are several). Beside each metric
stands its signed gap to Retrain; Avg. Gap is the mean of the four absolute gaps between means, in
percentage points: lower is better; Gap (entropy) is the same under the other membership attack in
use. With two or more Retrain runs the table also says what other seeds of Retrain would score, and
with three it marks the gaps that they explain. Retrains of unlike recipes are never pooled:
--reference chooses one.

--published prints the rows beside those of a paper with a verdict for each number; --published list
names the papers' tables. --row prints one row for docs/results.md.
"""

import argparse
import sys
from pathlib import Path

import flag_types as types
from reporting import plots
from reporting.audits import read_audits
from reporting.comparison import COMPARISON_FORMATS
from reporting.curves import with_curves
from reporting.formats import FORMATS
from reporting.groups import forget_sets
from reporting.leaderboard import leaderboard_row
from reporting.page import page
from reporting.published import compare, published, published_list
from reporting.results import collect
from reporting.tables import Scenario, chosen_rows, scenarios
from runtime.cli import script
from runtime.files import is_writable, save_bytes, save_text
from utils import UserError


@script
def main(argv: list[str]) -> None:
    args = make_parser().parse_args(argv)
    check(args)
    found = scenarios(collect(args.dirs), read_audits(args.dirs), args.reference, args.mia_members)
    if not found:
        where = ", ".join(map(str, args.dirs))
        raise UserError(
            f"no unlearning result and no audit in {where}; main_forget.py, main_random.py and"
            " evaluate.py write them"
        )
    if args.reference is not None:
        check_reference(found, args.reference)
    for scenario in found:
        check_forget_sets(scenario, args.mixed)
    check_filter(found, args.filter)
    found = [chosen_rows(scenario, args.filter, args.top) for scenario in found]
    if args.html or args.plots:
        found = [with_curves(scenario) for scenario in found]
    if args.row is not None:
        text = leaderboard_row(found, args.row)
    elif args.published is not None:
        text = COMPARISON_FORMATS[args.format](beside(found, args.published))
    else:
        text = FORMATS[args.format](found)
    if args.html:
        save_text(page(found), args.html)
        print(f"wrote {args.html}", file=sys.stderr)
    if args.plots:
        kind, named = args.plot_format or "png", plots.named(found)
        for name, plot in named.items():
            save_bytes(plots.as_file(plot.figure(), kind), args.plots / f"{name}.{kind}")
        print(f"wrote {len(named)} plots to {args.plots}", file=sys.stderr)
    print(text)


def make_parser() -> types.Parser:
    parser = types.Parser(__doc__)
    add = parser.add_argument
    folders = "folders to search for *result.json and audit.json"
    add("dirs", metavar="DIR", nargs="+", type=Path, help=folders)
    printed = "of what is printed; default: %(default)s"
    add("--format", default="text", choices=FORMATS, help=printed)
    html = "also write one page with tables and plots, readable without a network"
    add("--html", metavar="FILE", type=Path, help=html)
    files = "also write each plot as a file of its own"
    add("--plots", metavar="FOLDER", type=Path, help=files)
    add("--plot_format", choices=("png", "pdf"), help="of the files of --plots; default: png")
    members = (
        "the rule of the attack that gaps are taken by: Retrain's of these members; a result by"
        " another rule is named"
    )
    add("--mia_members", choices=("balanced", "first"), help=members)
    reference = (
        "the Retrain that gaps are to, where several kinds lie in DIR: its row's name or a part"
        " that no other has"
    )
    add("--reference", metavar="NAME", help=reference)
    beside = "print the rows beside published ones, with a verdict for each; list prints the keys"
    listed = {"action": types.ChooseOrList, "table": published_list, "metavar": "KEY"}
    add("--published", help=beside, **listed)
    part = "only rows whose name holds TEXT, in any case, beside Retrain and the original"
    add("--filter", metavar="TEXT", help=part)
    least = "only the N rows of least Avg. Gap of each table, beside Retrain and the original"
    add("--top", metavar="N", type=types.explained(types.positive, "--top"), help=least)
    row = "print one row for docs/results.md; needs three Retrains"
    add("--row", metavar="METHOD", help=row)
    mixed = "average rows over several forget sets; without it such results are refused"
    add("--mixed", action="store_true", help=mixed)
    return parser


def beside(found: list[Scenario], key: str) -> list[dict]:
    """The comparison of each table that has results."""
    compared = [compare(scenario, key) for scenario in found if scenario.groups]
    if not compared:
        raise UserError(f"--published {key}: no unlearning result, only audits")
    return compared


def check_reference(found: list[Scenario], reference: str) -> None:
    """Refuse a reference that is in no table."""
    rows = [row for scenario in found for row in scenario.table["rows"]]
    if not any(row["is_retrain"] and reference in row["name"] for row in rows):
        raise UserError(f"--reference '{reference}': no Retrain is called so in any table")


def check_filter(found: list[Scenario], text: str | None) -> None:
    """Refuse a text that no row's name holds."""
    names = [row["name"].lower() for scenario in found for row in scenario.table["rows"]]
    if text is not None and not any(text.lower() in name for name in names):
        raise UserError(f"--filter '{text}': no row's name in any table holds it")


def check_forget_sets(scenario: Scenario, mixed: bool) -> None:
    """Refuse a table over unlike forget sets: its gaps would hold that difference, too."""
    runs = [run for group in scenario.groups.values() for run in group]
    sets = forget_sets(runs)
    if len(sets) > 1 and not mixed:
        where = {run["data"]["forget"]["sha256"]: Path(run["file"]).parent for run in runs}
        named = ", ".join(f"{sha256[:8]} in {path}" for sha256, path in sorted(where.items()))
        raise UserError(
            f"{scenario.table['title']}: {len(sets)} different forget sets ({named}); give the"
            " folders of one, or --mixed to average over them (a run without --forget_seed draws"
            " its own by --seed)"
        )


def check_published(key: str | None, row: str | None, kind: str) -> None:
    """Refuse an unknown key, and what --published and --row cannot be combined with."""
    if key is not None and key not in published():
        raise UserError(f"--published {key}: no such table; there is {', '.join(published())}")
    if key is not None and row is not None:
        raise UserError("--published and --row print different things; drop one of them")
    if key is not None and kind not in COMPARISON_FORMATS:
        raise UserError(
            f"--published has no --format {kind}; it takes {', '.join(COMPARISON_FORMATS)}"
        )
    if row is not None and kind not in ("text", "markdown"):
        raise UserError(f"--row prints Markdown; drop --format {kind}")


def check(args: argparse.Namespace) -> None:
    """Refuse what the flags alone tell, before any work."""
    check_files(args.html, args.plots, args.plot_format)
    check_published(args.published, args.row, args.format)
    printed = "published" if args.published is not None else "row"
    for name in ("filter", "top"):
        if getattr(args, printed) is not None and getattr(args, name) is not None:
            raise UserError(
                f"--{name} chooses rows of the table, which --{printed} does not print; drop one"
            )


def is_page(path: Path) -> bool:
    """Whether a file may be replaced by a page: it is one, is empty, or is not there."""
    try:
        with open(path, "rb") as file:
            return b"<!doctype html>".startswith(file.read(15).lower())
    except FileNotFoundError:
        return True
    except OSError:
        return False


def check_files(html: Path | None, folder: Path | None, kind: str | None) -> None:
    """Refuse what cannot be written."""
    if html and html.is_dir():
        raise UserError(f"--html {html}: a folder, a file is wanted")
    if folder and folder.exists() and not folder.is_dir():
        raise UserError(f"--plots {folder}: a file, a folder is wanted")
    if kind and not folder:
        raise UserError(f"--plot_format {kind}: needs --plots FOLDER")
    for flag, path in (("html", html), ("plots", folder and folder / "any")):
        if path and not is_writable(path.parent):
            raise UserError(f"--{flag}: {path.parent} cannot be written; give another place")
    if html and not is_page(html):
        raise UserError(f"--html {html}: this file is no page and stays; give another name")
    if html or folder:
        plots.require()


if __name__ == "__main__":
    sys.exit(main())
