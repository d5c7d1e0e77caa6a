"""How far a plan is: the states of its runs, the time to go, and the table of what is done."""

import shlex
from pathlib import Path

from reporting.formats import FORMATS
from reporting.results import collect
from reporting.tables import scenarios
from sweeping.expansion import Run
from sweeping.keep import words_of_space
from sweeping.runs import DIED, DONE, FAILED, OPEN, RUNNING, is_held, read_record, state_of
from utils import UserError


class Progress:
    """The states of a plan's runs, from their files; a finished run is looked at once."""

    def __init__(self, runs: list[Run], root: Path):
        self.runs, self.root = runs, root
        self.states = dict.fromkeys((run.name for run in runs), OPEN)
        self.seconds: dict[str, list[float]] = {run.stage: [] for run in runs}

    def look(self) -> dict[str, str]:
        """{run: state} as of now."""
        for run in self.runs:
            if self.states[run.name] == DONE:
                continue
            state = state_of(run, self.root)
            if state == DONE:
                seconds = read_record(self.root / run.name).seconds
                if seconds is not None:
                    self.seconds[run.stage].append(seconds)
                elif is_held(self.root / run.name):
                    state = RUNNING  # the result is written before the record
            self.states[run.name] = state
        return self.states

    def done(self) -> int:
        """The number of finished runs, as of now."""
        return sum(state == DONE for state in self.look().values())

    def remaining(self, workers: int) -> float | None:
        """Seconds to go at each stage's mean so far, else at that of all; None without any."""
        known = [value for values in self.seconds.values() for value in values]
        if not known:
            return None
        mean = {}
        for stage, values in self.seconds.items():
            mean[stage] = sum(values or known) / len(values or known)
        return sum(mean[run.stage] for run in self.runs if self.states[run.name] != DONE) / workers

    def counts(self, stage: str | None = None) -> dict[str, int]:
        """{state: number of runs} of a stage, or of all."""
        counts = dict.fromkeys((DONE, RUNNING, FAILED, DIED, OPEN), 0)
        for run in self.runs:
            counts[self.states[run.name]] += stage in (None, run.stage)
        return counts

    def table(self, workers: int) -> str:
        """A row for each stage, the time to go, and why runs failed."""
        stages = list(self.seconds)
        width = max(map(len, ["stage", "all", *stages]))
        rows = [["stage", "runs", *self.counts(), "mean (s)"]]
        for stage in (*stages, None):
            counts = self.counts(stage)
            of_stages = [stage] if stage else stages
            seconds = [value for name in of_stages for value in self.seconds[name]]
            mean = f"{sum(seconds) / len(seconds):.1f}" if seconds else "-"
            rows.append([stage or "all", sum(counts.values()), *counts.values(), mean])
        lines = [
            f"{name:{width}} " + " ".join(f"{cell:>8}" for cell in cells) for name, *cells in rows
        ]
        plural = "s" if workers > 1 else ""
        lines.append(f"to go: {clock(self.remaining(workers))} with {workers} worker{plural}")
        lines.append(words_of_space(self.runs, self.root))
        for run in self.runs:
            if self.states[run.name] == FAILED:
                lines += self._failure(run)
        return "\n".join(lines)

    def _failure(self, run: Run) -> list[str]:
        folder = self.root / run.name
        record = read_record(folder)
        head = f"failed: {folder} (exit {record.code}, start {len(record.starts)})"
        return [head, *(f"    {line}" for line in record.tail)]


def clock(seconds: float | None) -> str:
    """h:mm:ss, or ? for None."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def results_table(runs: list[Run], root: Path) -> str:
    """report.py's table of the plan's finished unlearning runs, and of no other file in the folder.

    Raises:
        UserError: none is done.
    """
    unlearning = [run for run in runs if run.checkpoint and run.script != "main_train"]
    finished = [file for run in unlearning if (file := root / run.name / run.result).is_file()]
    if not finished:
        raise UserError(
            "--report: no unlearning run of this plan is done; --status says how far it is"
        )
    try:
        return FORMATS["text"](scenarios(collect(finished), []))
    except UserError as error:  # of a choice that report.py has a flag for
        raise UserError(f"{error} (a flag of report.py {shlex.quote(str(root))})") from None
