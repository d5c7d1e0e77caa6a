"""Many runs from one plan: expanded, shared, run by many workers, resumed, searched.

    python sweep.py recipes/plan.toml --dry_run                 # the commands, to read or to paste
    python sweep.py recipes/plan.toml --workers 4               # do what is not done
    python sweep.py recipes/plan.toml --status                  # at any time, from anywhere
    python sweep.py recipes/plan.toml --search FT --trials 20   # without a look at Retrain or test

A plan says which flags, seeds and stages; docs/sweeps.md has one. A run is a command, a folder and
the file that says it is done. After a crash the same command goes on.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path

from arg_parser import Parser, evaluation_parser, make_parser, parse_with, words_of
from evaluate import SUITES
from report import check as check_report
from report import make_parser as report_parser
from runtime.cli import script
from stages.requests import MaskRequest, TrainRequest, UnlearnRequest
from sweeping import launch
from sweeping.expansion import expand
from sweeping.inputs import check_inputs
from sweeping.keep import Keeper, check_kept
from sweeping.launchers import LAUNCHERS
from sweeping.objectives import OBJECTIVES
from sweeping.plan import SCRIPTS, read_plan
from sweeping.progress import Progress, results_table
from sweeping.runs import Worker, command, work
from sweeping.samplers import SAMPLERS, default_sampler
from sweeping.search import SearchRequest, as_planned, make_trials
from utils import UserError

TRIALS = 20


@script
def main(argv: list[str]) -> None:
    args = sweep_parser().parse_args(argv)
    check_searched(args)
    plan = read_plan(args.plan)
    runs = expand(plan, check)
    on_gpus = [run.processes for run in runs if run.settings.get("device") != "cpu"]
    gpus = max(on_gpus, default=1)
    workers = launch.Workers(args.launcher, args.workers, args.per_gpu, args.options, gpus)
    worker = Worker(args.worker, args.sweep_id, plan.tries, launcher_lives(args.parent))
    if args.dry_run:
        for run in runs:
            print(command(run, plan.folder))
    elif args.status:
        progress = Progress(runs, plan.folder)
        progress.look()
        print(progress.table(args.workers or 1))
    elif args.report:
        print(results_table(runs, plan.folder))
    elif args.search:
        check_inputs(runs, plan.folder)
        name, sampler = as_planned(plan, args.search), args.sampler or default_sampler()
        trials, objective = args.trials or TRIALS, args.objective or OBJECTIVES[0]
        request = SearchRequest(name, trials, objective, sampler)
        if args.worker:
            make_trials(plan, request, check, worker)
        else:
            launch.search(plan, request, check, args.plan, workers)
    elif args.worker:
        work(runs, plan.folder, worker, Keeper(runs, plan.folder).finished)
    else:
        check_inputs(runs, plan.folder)
        check_kept(runs, plan.folder)
        launch.sweep(plan, runs, args.plan, workers)


def check_searched(args: argparse.Namespace) -> None:
    """Refuse flags of a search where nothing is searched."""
    given = [f"--{name}" for name in ("trials", "objective", "sampler") if getattr(args, name)]
    if given and not args.search:
        raise UserError(f"{', '.join(given)}: of a search; add --search METHOD, or drop it")


def launcher_lives(parent: int | None) -> Callable[[], bool]:
    """Whether ``parent``, or whichever process started this one, still is this one's parent."""
    parent = parent or os.getppid()
    return lambda: os.getppid() == parent


def sweep_parser() -> Parser:
    """The flags of this script."""
    parser = Parser(__doc__)
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="TOML or JSON file")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--dry_run", action="store_true", help="print the commands, do nothing")
    what.add_argument(
        "--status", action="store_true", help="how far each stage is, and what failed"
    )
    what.add_argument("--report", action="store_true", help="the table of what is done so far")
    what.add_argument(
        "--search",
        metavar="METHOD",
        help="search the method's declared ranges; a stage's name where a method has several",
    )
    add(
        "--trials",
        type=_positive,
        help=f"of a search, the same for every method (default: {TRIALS})",
    )
    add(
        "--objective",
        choices=OBJECTIVES,
        help=f"of a search (default: {OBJECTIVES[0]})",
    )
    add(
        "--sampler",
        choices=SAMPLERS,
        help="of a search (default: optuna where it is installed, else grid)",
    )
    _add_worker_flags(parser)
    return parser


def _add_worker_flags(parser: Parser) -> None:
    """Which workers; the flags without a help text are for the workers themselves."""
    add = parser.add_argument
    add("--launcher", default="local", choices=LAUNCHERS, help="default: %(default)s")
    many = parser.add_mutually_exclusive_group()
    many.add_argument(
        "--workers",
        type=_positive,
        help="processes, jobs or tasks at a time (default: one for each GPU, else one)",
    )
    many.add_argument(
        "--per_gpu",
        type=_positive,
        metavar="N",
        help="processes at a time on each GPU, of which a small network fills a part; their workers"
        " take the GPUs in turn",
    )
    add(
        "--options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="the launcher's: submitit's parameters, or Ray's address and resources",
    )
    add("--worker", help=argparse.SUPPRESS)
    add("--parent", type=int, help=argparse.SUPPRESS)
    add("--sweep_id", type=float, help=argparse.SUPPRESS)


# What each step of a plan is asked for.
REQUESTS = {
    "main_train": TrainRequest,
    "generate_mask": MaskRequest,
    "main_forget": UnlearnRequest,
    "main_random": UnlearnRequest,
}


@functools.cache
def parser_of(name: str) -> Parser:
    """The parser of a script; a plan's thousand runs share it."""
    return evaluation_parser("", SUITES) if name == "evaluate" else make_parser("")


def check(name: str, values: dict) -> tuple[list[str], dict]:
    """The words for a script's flags, and their parsed values; raises what the script would."""
    many = {flag: value for flag, value in values.items() if flag in SCRIPTS[name].many}
    single = {flag: value for flag, value in values.items() if flag not in many}
    if name == "report":
        return _report_words(single, many)
    parser = parser_of(name)
    words = words_of(parser, single, name)
    if name == "evaluate":
        listed = []
        for flag, value in many.items():
            listed += [f"--{flag}", *(value if isinstance(value, list) else [str(value)])]
        parser.parse_args([*listed, *words])
        return words, values
    request = parse_with(parser, words, REQUESTS[name])
    if isinstance(request, UnlearnRequest):
        request.check_mask_wanted()
    record = request.record()
    return words, {flag: record[flag] for flag in record["typed"]}


def _report_words(single: dict, many: dict) -> tuple[list[str], dict]:
    """report.py's flags beside its folders."""
    if not many:
        raise UserError(
            'report: dirs is missing: which runs? such as dirs = ["{retrain}", "{methods}"]'
        )
    parser = report_parser()
    words = words_of(parser, single, "report")
    check_report(parser.parse_args(["runs", *words]))
    return words, single | many


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
