"""Result files -> tables, plots and a page: how close did each method come to Retrain?

    python report.py DIR... [--format {text,markdown,latex,csv,json}] [--html FILE] [--plots FOLDER
    [--plot_format {png,pdf}]]

Reads every *result.json below each DIR, but for the shadow models' (give their own folder to see
those), and every audit.json of evaluate.py. A row is a method with its hyper-parameters, averaged
over its runs (mean and sample standard deviation where there are several). Beside each metric
stands its signed gap to Retrain; Avg. Gap is the mean of the four absolute gaps between means, in
percentage points: lower is better; Gap (entropy) is the same under the other membership attack in
use. With two or more Retrain runs the table also says what other seeds of Retrain would score, and
with three it marks the gaps that they explain. Retrains of unlike recipes are never pooled:
--reference chooses one.
"""

import sys
from pathlib import Path

from flag_types import Parser
from reporting.audits import read_audits, with_curves
from reporting.formats import FORMATS
from reporting.tables import Scenario, collect, scenarios
from runtime.cli import script
from runtime.files import save_bytes, save_text
from utils import UserError


@script
def main(argv: list[str]) -> None:
    args = make_parser().parse_args(argv)
    check(args.html, args.plots, args.plot_format)
    if args.html or args.plots:
        from reporting import (
            plots,
        )  # matplotlib is wanted for these two alone: a missing one is named before any work

        plots.require()
    found = scenarios(collect(args.dirs), read_audits(args.dirs), args.reference, args.mia_members)
    if not found:
        where = ", ".join(map(str, args.dirs))
        raise UserError(
            f"no unlearning result and no audit in {where}; main_forget.py, main_random.py and"
            " evaluate.py write them"
        )
    if args.reference is not None and not any(
        row["is_retrain"] and args.reference in row["name"]
        for each in found
        for row in each.table["rows"]
    ):
        raise UserError(f"--reference '{args.reference}': no Retrain is called so in any table")
    for scenario in found:
        check_forget_sets(scenario, args.mixed)
    if args.html or args.plots:
        found = [with_curves(scenario) for scenario in found]
    text = FORMATS[args.format](found)
    if args.html:
        from reporting.page import page

        save_text(page(found), args.html)
        print(f"wrote {args.html}", file=sys.stderr)
    if args.plots:
        kind = args.plot_format or "png"
        files = {args.plots / f"{name}.{kind}": plot for name, plot in plots.named(found).items()}
        for file, plot in files.items():
            save_bytes(plots.as_file(plot.figure(), kind), file)
        print(f"wrote {len(files)} plots to {args.plots}", file=sys.stderr)
    print(text)


def make_parser() -> Parser:
    parser = Parser(__doc__)
    parser.add_argument(
        "dirs",
        metavar="DIR",
        nargs="+",
        type=Path,
        help="folders to search for *result.json and audit.json",
    )
    parser.add_argument(
        "--format", default="text", choices=FORMATS, help="of what is printed; default: %(default)s"
    )
    parser.add_argument(
        "--html",
        metavar="FILE",
        type=Path,
        help="also write one page with tables and plots, readable without a network",
    )
    parser.add_argument(
        "--plots", metavar="FOLDER", type=Path, help="also write each plot as a file of its own"
    )
    parser.add_argument(
        "--plot_format", choices=("png", "pdf"), help="of the files of --plots; default: png"
    )
    members = (
        "the rule of the attack that gaps are taken by: Retrain's of these members; a result by"
        " another rule is named"
    )
    parser.add_argument("--mia_members", choices=("balanced", "first"), help=members)
    mixed = "average rows over several forget sets; without it such results are refused"
    reference = (
        "the Retrain that gaps are to, where several kinds lie in DIR: its row's name or a part"
        " that no other has"
    )
    parser.add_argument("--reference", metavar="NAME", help=reference)
    parser.add_argument("--mixed", action="store_true", help=mixed)
    return parser


def check_forget_sets(scenario: Scenario, mixed: bool) -> None:
    """Refuse a table whose rows forgot different images: their gap to Retrain would be one of the
    images, too.
    """
    sets = {run["data"]["forget"]["sha256"] for runs in scenario.groups.values() for run in runs}
    if len(sets) > 1 and not mixed:
        raise UserError(
            f"{scenario.table['title']}: {len(sets)} different forget sets; give the folders of"
            " one, or --mixed to average over them (a run without --forget_seed draws its own)"
        )


def check(html: Path | None, folder: Path | None, kind: str | None) -> None:
    """Refuse what cannot be written, before any work."""
    if html and html.is_dir():
        raise UserError(f"--html {html}: a folder, a file is wanted")
    if folder and folder.exists() and not folder.is_dir():
        raise UserError(f"--plots {folder}: a file, a folder is wanted")
    if kind and not folder:
        raise UserError(f"--plot_format {kind}: needs --plots FOLDER")


if __name__ == "__main__":
    sys.exit(main())
