"""Many runs from one plan: expanded, shared, run by many workers, resumed, searched.

    python sweep.py recipes/plan.toml --dry_run                     # the commands, to read or to
    paste into bash python sweep.py recipes/plan.toml --workers 4                   # do what is not
    done; after a crash the same again python sweep.py recipes/plan.toml --status
    # at any time, from anywhere python sweep.py recipes/plan.toml --search FT --trials 20       #
    hyper-parameters without a look at Retrain or test

A plan says which flags, seeds and stages; README.md has one. A run is a command, a folder and the
file that says it is done.
"""

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tqdm import tqdm

from arg_parser import (
    Parser,
    check_mask_wanted,
    evaluation_parser,
    make_parser,
    parse_with,
    words_of,
)
from evaluate import SUITES
from report import make_parser as report_parser
from reporting.formats import FORMATS
from reporting.results import collect
from reporting.tables import scenarios
from runtime.cli import script
from sweeping.inputs import check_inputs
from sweeping.launchers import LAUNCHERS, supervise, visible_gpus, worker_command
from sweeping.plan import SCRIPTS, Plan, Run, expand, read_plan
from sweeping.runs import DONE, FAILED, RECORD, Progress, clock_of, command, read_record, work
from sweeping.search import (
    OBJECTIVES,
    SAMPLERS,
    WARNING,
    Workplace,
    as_planned,
    default_sampler,
    make_trials,
    run_search,
    search_of,
    trial_files,
)
from utils import RunFailed, UserError, warn

WORKERS = ".workers"  # logs of the workers themselves, in the plan's folder


@script
def main(argv: list[str]) -> None:
    args = sweep_parser().parse_args(argv)
    plan = read_plan(args.plan)
    runs = expand(plan, check)
    if args.dry_run:
        for run in runs:
            print(command(run, plan.folder))
    elif args.status:
        progress = Progress(runs, plan.folder)
        progress.look()
        print(progress.table(args.workers or 1))
    elif args.report:
        table_of(plan, runs)
    elif args.search:
        check_inputs(runs, plan.folder)
        search(args, plan)
    elif args.worker:
        work(
            runs,
            plan.folder,
            sweep_id=args.sweep_id,
            tries=plan.tries,
            worker=args.worker,
            alive=launcher_lives(args),
        )
    else:
        check_inputs(runs, plan.folder)
        launch(args, plan, runs)


def launcher_lives(args: argparse.Namespace) -> Callable[[], bool]:
    """A worker whose launcher was killed ends after the run at hand."""
    parent = args.parent or os.getppid()
    return lambda: os.getppid() == parent


def sweep_parser() -> Parser:
    """The flags of this script."""
    parser = Parser(
        description=__doc__,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
        default=20,
        help="of a search, the same for every method (default: %(default)s)",
    )
    add(
        "--objective",
        default="val_proxy",
        choices=OBJECTIVES,
        help="of a search (default: %(default)s)",
    )
    add(
        "--sampler",
        choices=SAMPLERS,
        help="of a search (default: optuna where it is installed, else grid)",
    )
    add("--launcher", default="local", choices=LAUNCHERS, help="default: %(default)s")
    many = parser.add_mutually_exclusive_group()
    many.add_argument(
        "--workers",
        type=_positive,
        help="processes, jobs or tasks at a time (default: one for each GPU, else one)",
    )
    per_gpu = (
        "processes at a time on each GPU, of which a small network fills a part; their workers take"
        " the GPUs in turn"
    )
    many.add_argument("--per_gpu", type=_positive, metavar="N", help=per_gpu)
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
    return parser


def launch(args: argparse.Namespace, plan: Plan, runs: list[Run]) -> None:
    """Start workers, show how far they are, say how it ended."""
    workers = workers_of(args)
    launcher = launcher_of(args, plan, workers)
    progress, began = Progress(runs, plan.folder), time.time()
    before = sum(state == DONE for state in progress.look().values())
    print(
        f"{len(runs)} runs, {before} done; {workers} workers ({args.launcher}); python sweep.py"
        f" {args.plan} --status tells more"
    )
    words = worker_command([str(args.plan), f"--sweep_id={began!r}"])
    with tqdm(total=len(runs), initial=before, unit="run", disable=None) as bar:

        def show() -> None:
            bar.update(sum(state == DONE for state in progress.look().values()) - bar.n)
            bar.set_postfix_str(
                f"to go {clock_of(progress.remaining(workers))}, failed {progress.counts()[FAILED]}"
            )

        if before < len(runs):
            took = functools.partial(took_a_run, plan, sweep_id=began)
            supervise(launcher, words, min(workers, len(runs) - before), took_a_run=took, show=show)
    counts = progress.counts()
    print(progress.table(workers))
    print(
        f"RESULT sweep={plan.folder} runs={len(runs)} done={counts[DONE]}"
        f" seconds={time.time() - began:.1f}"
    )
    if counts[DONE] < len(runs):
        raise RunFailed(
            f"{len(runs) - counts[DONE]} of {len(runs)} runs are not done; the same command tries"
            " them again"
        )


def launcher_of(args: argparse.Namespace, plan: Plan, workers: int) -> object:
    """The launcher that --launcher names, its folder of logs made."""
    logs = plan.folder / WORKERS
    launcher = LAUNCHERS[args.launcher](workers, dict(map(_option, args.options)), logs)
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"folder {plan.folder} cannot be written: {error.strerror}") from None
    return launcher


def took_a_run(plan: Plan, worker: str, *, sweep_id: float) -> bool:
    """Whether a worker of this sweep started a run."""
    starts = [
        start
        for file in plan.folder.glob(f"*/*/{RECORD}")
        for start in read_record(file.parent).starts
    ]
    return any((start["worker"], start.get("sweep_id")) == (worker, sweep_id) for start in starts)


def search(args: argparse.Namespace, plan: Plan) -> None:
    """One worker's part of a search; or all of it, by workers where they are asked for, and its
    table.
    """
    args.search = as_planned(plan, args.search)
    how = {
        "trials": args.trials,
        "objective": args.objective,
        "check": check,
        "sampler": args.sampler or default_sampler(),
    }
    if args.worker:
        make_trials(
            plan,
            args.search,
            **how,
            workplace=Workplace(args.sweep_id, args.worker, launcher_lives(args)),
        )
        return
    if args.objective == "oracle_gap":
        warn(WARNING)
    began = time.time()
    if args.workers or args.per_gpu or args.launcher != "local":
        share_search(args, plan, how["sampler"], began)
    best = run_search(plan, args.search, **how, sweep_id=began)["best"]
    shown = " ".join(f"{flag}={value:.6g}" for flag, value in best["values"].items())
    print(f"RESULT search={args.search} {args.objective}={best['objective']:.4f} {shown}")


def share_search(args: argparse.Namespace, plan: Plan, sampler: str, began: float) -> None:
    """Let workers make the trials: a grid by the locks of its runs, Optuna's by its study."""
    search_of(
        plan, args.search
    )  # what cannot be searched is refused here, not in each worker's log
    workers = min(workers_of(args), args.trials)
    launcher = launcher_of(args, plan, workers)
    flags = [
        f"--search={args.search}",
        f"--trials={args.trials}",
        f"--objective={args.objective}",
        f"--sampler={sampler}",
    ]
    words = worker_command([str(args.plan), *flags, f"--sweep_id={began!r}"])
    with tqdm(total=args.trials, unit="trial", disable=None) as bar:

        def show() -> None:
            bar.update(len(trial_files(plan, args.search, args.objective)) - bar.n)

        supervise(
            launcher,
            words,
            workers,
            took_a_run=functools.partial(took_a_run, plan, sweep_id=began),
            show=show,
        )


def workers_of(args: argparse.Namespace) -> int:
    """How many at a time: as typed, else one for each GPU of this machine where the local launcher
    uses them, else one.
    """
    if args.workers:
        return args.workers
    if args.launcher != "local":
        if args.per_gpu:
            raise UserError(
                f"--per_gpu {args.per_gpu} is of --launcher local; give --workers, and --options"
                " for a worker's share of a GPU"
            )
        return 1
    gpus = len(visible_gpus())
    if args.per_gpu and not gpus:
        raise UserError(
            f"--per_gpu {args.per_gpu}: no GPU here; --workers {args.per_gpu} makes as many runs at"
            " a time on the CPU"
        )
    return max(1, gpus) * (args.per_gpu or 1)


def table_of(plan: Plan, runs: list[Run]) -> None:
    """report.py's table of this plan's finished unlearning runs, and of nothing else that lies in
    the folder.
    """
    files = [
        plan.folder / run.name / run.result
        for run in runs
        if run.checkpoint and run.script != "main_train"
    ]
    finished = [file for file in files if file.is_file()]
    if not finished:
        raise UserError(
            "--report: no unlearning run of this plan is done; --status says how far it is"
        )
    print(FORMATS["text"](scenarios(collect(finished), [])))


@functools.cache
def parser_of(name: str) -> Parser:
    """The parser of a script; a plan's thousand runs share it."""
    return evaluation_parser("", SUITES) if name == "evaluate" else make_parser("")


def check(name: str, values: dict) -> tuple[list[str], dict]:
    """The words for a script's flags, and their values as it reads them; what it would refuse is
    refused here.
    """
    many = {flag: value for flag, value in values.items() if flag in SCRIPTS[name].many}
    single = {flag: value for flag, value in values.items() if flag not in many}
    if name == "report":
        return _report_words(single, many)
    parser = parser_of(name)
    words = words_of(parser, single, name)
    if name == "evaluate":
        listed = [
            word
            for flag, value in many.items()
            for word in (f"--{flag}", *(value if isinstance(value, list) else [str(value)]))
        ]
        parser.parse_args([*listed, *words])
        return words, values
    read = parse_with(parser, words)
    if name in ("main_forget", "main_random"):
        check_mask_wanted(read)
    return words, {
        flag: str(value) if isinstance(value, Path) else value
        for flag, value in vars(read).items()
        if flag in read.typed
    }


def _report_words(single: dict, many: dict) -> tuple[list[str], dict]:
    """report.py's flags beside its folders."""
    if not many:
        raise UserError(
            'report: dirs is missing: which runs? such as dirs = ["{retrain}", "{methods}"]'
        )
    parser = report_parser()
    words = words_of(parser, single, "report")
    parser.parse_args(["runs", *words])
    return words, single | many


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UserError(f"--options {text}: NAME=VALUE is wanted")
    return name, value


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
