"""What the stages of the GPU battery share: their flags, the file of what is found, how long there
is.

A stage is a list of named checks. What a check finds is written as soon as it is there, so that a
stage that was stopped goes on where it stopped, and one check that fails costs no other. ``--twin``
runs the same checks through the same files on the CPU, small.
"""

import argparse
import io
import json
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.hardware import describe, hardware_line
from runtime.clock import synchronize
from runtime.files import load_json, save_json, save_text
from utils import UserError

FAILED, UNFINISHED = 1, 3  # exit codes: a check failed; some are still to come


class LeftOut(Exception):
    """Raised by a check that this machine cannot run; its message is the reason, and it counts as
    neither good nor bad.
    """


class Wrong(Exception):
    """Raised by a check whose numbers are there and not as they should be: the table shows them all
    the same.
    """

    def __init__(self, reason: str, found: Mapping[str, object]):
        super().__init__(reason)
        self.found = dict(found)


def judged(found: Mapping[str, object], expected: Mapping[str, bool]) -> Mapping[str, object]:
    """``found``, if all that is expected of it holds.

    Raises:
        Wrong: names what does not.
    """
    if missed := [what for what, holds in expected.items() if not holds]:
        raise Wrong(f"not so: {', '.join(missed)}", found)
    return found


def make_parser(stage: str, text: str) -> argparse.ArgumentParser:
    """The flags of every stage."""
    parser = argparse.ArgumentParser(
        prog=f"benchmarks/gpu/{stage}.py",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="folder of what is found; default: runs/gpu, with --twin runs/gpu_twin",
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=8.0,
        help="begin no check after this many; default: %(default)s",
    )
    parser.add_argument("--only", metavar="NAME,...", help="these checks alone")
    parser.add_argument("--again", action="store_true", help="also the checks that are done")
    parser.add_argument(
        "--twin", action="store_true", help="the same checks on the CPU, at toy size"
    )
    return parser


class Battery:
    """One stage's run: ``device``, ``twin``, ``folder``, and the checks in the order in which they
    are asked for.

    Files: FOLDER/STAGE.json (what is found), STAGE.md (the same as a table), STAGE.log (what the
    checks printed).

    ``needs_device`` is False for what only reads files, such as a plan.

    Raises:
        UserError: a device is needed, there is no CUDA and no --twin, or the folder is of the other
            kind.
    """

    def __init__(self, stage: str, args: argparse.Namespace, *, needs_device: bool = True):
        if needs_device and not (args.twin or torch.cuda.is_available()):
            raise UserError(
                f"no CUDA device here; python benchmarks/gpu/{stage}.py --twin runs the same checks"
                " on the CPU"
            )
        self.stage, self.twin, self.again = stage, args.twin, args.again
        self.device = torch.device("cpu" if args.twin else "cuda")
        self.folder = args.out or ROOT / "runs" / ("gpu_twin" if args.twin else "gpu")
        self.only = args.only and args.only.split(",")
        self.ends = time.monotonic() + 60 * args.minutes
        self.file = self.folder / f"{stage}.json"
        earlier = (
            load_json(self.file, "result")
            if self.file.exists()
            else {"twin": self.twin, "checks": {}}
        )
        if earlier["twin"] != self.twin:
            raise UserError(
                f"{self.file} is of a run {'with' if earlier['twin'] else 'without'} --twin; give"
                " another --out"
            )
        self.checks: dict[str, dict] = earlier["checks"]
        self.left: list[str] = []
        self.asked: list[str] = []
        self.lost_in: str | None = None

    def seconds_left(self) -> float:
        return self.ends - time.monotonic()

    def check(self, name: str, action: Callable[[], Mapping[str, object] | None]) -> dict | None:
        """Run ``action`` and keep what it returns (numbers, texts, booleans, lists of them); a
        finished check is not run again.

        An exception is kept as the check's error, its traceback goes to the log. Returns what was
        found, None where nothing was.
        """
        self.asked.append(name)
        if self.only and name not in self.only:
            return self.found(name)
        if not self.again and self.checks.get(name, {}).get("ok"):
            return self.found(name)
        if self.seconds_left() <= 0:
            self.left.append(name)
            return None
        print(f"{self.stage} {name} ...", flush=True)
        self._begin(name)
        started, printed = time.monotonic(), io.StringIO()
        entry: dict = {"ok": True, "found": {}}
        try:
            with redirect_stdout(printed), redirect_stderr(printed):
                entry["found"] = dict(action() or {})
        except LeftOut as reason:
            entry |= {"ok": None, "error": str(reason)}
        except Wrong as error:
            entry |= {"ok": False, "error": str(error), "found": error.found}
        except (Exception, SystemExit) as error:  # whatever goes wrong must cost no other check
            printed.write(traceback.format_exc())
            entry |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
        except KeyboardInterrupt:
            self._log(name, describe()["time"], time.monotonic() - started, printed)
            raise
        here = describe()
        entry |= {
            "seconds": round(time.monotonic() - started, 2),
            "git": here["git"],
            "time": here["time"],
        }
        self.checks[name] = entry
        self._log(name, here["time"], entry["seconds"], printed)
        self.save(here)
        print(f"{self.stage} {name}: {_in_words(entry)} ({entry['seconds']:.1f} s)", flush=True)
        if entry["ok"] is False and self._is_lost():
            self.lost_in, self.ends = name, float("-inf")
        return self.found(name)

    def postpone(self, name: str) -> bool:
        """Leave a check to the next call; False where this one would not have run it either."""
        self.asked.append(name)
        is_due = (not self.only or name in self.only) and (self.again or self.found(name) is None)
        self.left += [name] * is_due
        return is_due

    def in_turn(self, names: Iterable[str]) -> list[str]:
        """The checks' names, those behind that failed last time: what breaks or takes too long
        comes after what never ran.
        """
        return sorted(names, key=lambda name: self.checks.get(name, {}).get("ok") is False)

    def _begin(self, name: str) -> None:
        """Write down that a check runs: where the process ends in it, the next one knows."""
        here = describe()
        ended = {"ok": False, "found": {}, "error": "the process ended in it", "seconds": 0.0}
        self.checks[name] = ended | {"git": here["git"], "time": here["time"]}
        self.save(here)

    def _is_lost(self) -> bool:
        """Whether the device answers no more, as after a kernel that crashed: in this process
        nothing else can run on it.
        """
        try:
            synchronize(self.device)
        except RuntimeError:
            return True
        return False

    def _log(self, name: str, when: str, seconds: float, printed: io.StringIO) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / f"{self.stage}.log").open("a") as log:
            log.write(f"==== {name} ({when}, {seconds:.2f} s)\n{printed.getvalue()}\n")

    def found(self, name: str) -> dict | None:
        """What a check found, in this run or an earlier one; None where it failed or is still to
        come.
        """
        entry = self.checks.get(name)
        return entry["found"] if entry and entry["ok"] else None

    def save(self, here: dict | None = None) -> None:
        here = here or describe()
        save_json(
            {"stage": self.stage, "twin": self.twin, "hardware": here, "checks": self.checks},
            self.file,
        )
        save_text(self.table(here), self.folder / f"{self.stage}.md")

    def table(self, here: dict) -> str:
        """Every check as a line of Markdown."""
        lines = [
            f"| {name} | {_in_words(entry)} | {_cell(entry)} | {entry['seconds']:.1f} |"
            f" {entry['git'][:9]} |"
            for name, entry in self.checks.items()
        ]
        return "\n".join(
            [
                hardware_line(here),
                "",
                "| check | verdict | found | s | commit |",
                "|---|---|---|---:|---|",
                *lines,
                "",
            ]
        )

    def finish(self) -> int:
        """The last lines, and the exit code: 0, 1 where a check failed, 3 where some are still to
        come.

        Raises:
            UserError: --only names a check that the stage has not.
        """
        if unknown := sorted({*(self.only or ())} - {*self.asked}):
            raise UserError(
                f"--only {','.join(unknown)}: no such check; the stage has {', '.join(self.asked)}"
            )
        failed = [name for name, entry in self.checks.items() if entry["ok"] is False]
        good = sum(entry["ok"] is True for entry in self.checks.values())
        if self.left:
            over = "the time is over" if self.seconds_left() <= 0 else "not in this call"
            reason = f"the device answers no more since {self.lost_in}" if self.lost_in else over
            print(f"{reason}: {', '.join(self.left)} still to come; the same command goes on there")
        if failed:
            print(f"failed: {', '.join(failed)}; see {self.folder / self.stage}.log")
        print(
            f"RESULT stage={self.stage} good={good} failed={len(failed)} left={len(self.left)}"
            f" json={self.file}"
        )
        return FAILED if failed else UNFINISHED if self.left else 0


def _in_words(entry: dict) -> str:
    if entry["ok"] is None:
        return f"left out: {entry['error']}"
    return "good" if entry["ok"] else f"FAILED: {entry['error']}".splitlines()[0]


def _cell(entry: dict) -> str:
    """What a check found, in one line that a table can hold."""
    shown = {
        name: f"{value:.4g}" if isinstance(value, float) else json.dumps(value)
        for name, value in entry["found"].items()
    }
    return ", ".join(f"{name} {value}" for name, value in shown.items()).replace("|", r"\|")


def run(stage: str, main: Callable[[list[str]], int], argv: list[str] | None = None) -> int:
    """Call a stage's main; what is refused is one line and exit code 2."""
    try:
        return main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"benchmarks/gpu/{stage}.py: error: {error}", file=sys.stderr)
        return 2
