"""Every method after an equal search: the table of 10 % random images and that of a whole class.

    python benchmarks/methods.py                  # hours on one core; a second call goes on
    python benchmarks/methods.py --folder FOLDER  # instead of runs/methods_2026
    python benchmarks/methods.py --plan recipes/cifar10_cpu.toml  # another plan, as it stands

For each request, each entry of recipes/methods_2026.toml with a declared range has a grid of at
most four trials, judged by val_proxy on a forget set that no row is from. What was chosen is
written as a plan, FOLDER/random.json and FOLDER/class.json, whose runs are then made; sweep.py
takes these plans too (--status, --report). An entry without a trial that ended well keeps the
values of the recipe, and is named. The tables are in FOLDER/KIND/report. Another plan is one
request, FOLDER/table.json and FOLDER/table.
"""

import argparse
import copy
import os
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import sweep
from runtime.files import save_json
from sweeping.expansion import expand
from sweeping.plan import Plan, make_plan
from sweeping.progress import Progress
from sweeping.runs import DONE, Worker, work
from sweeping.search import SearchRequest, run_search, searchable
from utils import RunFailed, warn

PLAN = ROOT / "recipes" / "methods_2026.toml"
TRIALS = 4
# What each request has in the place of the recipe's: the table's forget set and the search's.
KINDS = {
    "random": {},
    "class": {"base": {"forget": "class:3"}, "search": {"forget": "class:5"}},
}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--plan", type=Path, default=PLAN, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="default: runs/NAME of the plan's file")
    args = parser.parse_args(argv)
    plan = args.plan.resolve()
    kinds = KINDS if plan == PLAN else ["table"]
    folder = (args.folder or ROOT / "runs" / plan.stem).resolve()
    os.chdir(ROOT)
    done = [make_table(content_of(plan, kind, folder), folder, kind) for kind in kinds]
    return 0 if all(done) else 1


def content_of(plan: Path, kind: str, folder: Path) -> dict:
    """A file's plan for one request."""
    content = tomllib.loads(plan.read_text()) | {"folder": str(folder / kind)}
    for stage in content["stages"].values():
        stage.setdefault("flags", {})
    for part, flags in KINDS.get(kind, {}).items():
        content[part] = content[part] | flags
    if kind == "class":  # all of its Retrains are of one forget set
        del content["stages"]["one_set"]
    return content


def make_table(content: dict, folder: Path, kind: str) -> bool:
    """Search, write the plan with what was chosen, and make its runs; whether all are done."""
    chosen = with_choices(content)
    save_json(chosen, folder / f"{kind}.json")
    plan = make_plan(chosen)
    runs = expand(plan, sweep.check)
    work(runs, plan.folder, Worker("methods", time.time(), plan.tries))
    progress = Progress(runs, plan.folder)
    progress.look()
    print(progress.table(1), flush=True)
    return progress.counts()[DONE] == len(runs)


def with_choices(content: dict) -> dict:
    """The plan's content with the best of its trials in each entry that was searched."""
    chosen = copy.deepcopy(content)
    compared = [name for name, stage in content["stages"].items() if is_compared(stage)]
    rest = {name: stage for name, stage in content["stages"].items() if is_needed(stage)}
    for name in compared:
        stage = chosen["stages"][name]
        for entry in stage.setdefault("list", [{}]):
            alone = content | {"stages": rest | {name: stage | {"list": [dict(entry)]}}}
            searched = entry.get("unlearn", name)  # a name that no other entry has
            if (stage["flags"] | entry)["unlearn"] in searchable():
                entry |= best_values(make_plan(alone), searched)
    return chosen


def is_compared(stage: dict) -> bool:
    """Whether it unlearns and is not one of Retrains."""
    unlearns = stage["script"] in ("main_forget", "main_random")
    return unlearns and stage["flags"].get("unlearn") != "retrain"


def is_needed(stage: dict) -> bool:
    """Whether a trial may refer to it: an original, masks, Retrains."""
    return not is_compared(stage) and stage["script"] not in ("evaluate", "report")


def best_values(plan: Plan, name: str) -> dict:
    """What val_proxy chose; nothing where no trial ended well."""
    try:
        found = run_search(plan, SearchRequest(name, TRIALS, "val_proxy", "grid"), sweep.check)
    except RunFailed as error:
        warn(f"{name} keeps the values of the recipe: {error}")
        return {}
    return found["best"]["values"]


if __name__ == "__main__":
    sys.exit(main())
