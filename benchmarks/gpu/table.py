"""CIFAR-10, ResNet-18, 4,500 random images forgotten by the published protocol: one row a method,
in units of one model.

    DATA="--data cifar10.npz"
    python benchmarks/gpu/table.py $DATA --plan 30     # what is done, what fits into 30 minutes
    python benchmarks/gpu/table.py $DATA --minutes 8   # the same command goes on where it stopped
    python benchmarks/gpu/table.py $DATA --unpack PIECES --pieces PIECES2   # on another machine
    python benchmarks/gpu/table.py $DATA --only audit  # on what was kept; needs no GPU

A unit is a call of one of the project's scripts with --resume. A training that was stopped goes on
from its last epoch on the same machine, and begins anew on another one; what is finished is not run
again on any. FOLDER/table_pieces holds what another machine needs, in at most five files and 60 MB:
the original, one mask, the results, and each model's outputs for the audit. Weights of unlearned
models stay where they were made. Where data and pieces cannot travel together, unpack the data
first: ``cifar.py PACKED.npz FOLDER`` writes the plain npz that --data takes.

The original's weights are rounded to fp16 once, right after its training, and every method starts
from the rounded ones: so they travel in half the size and all rows start from the same weights, on
whatever machine they were made.

The data set is read by ``--dataset npz``: training images are cropped at random after zero padding
of 4 pixels and flipped, as CIFAR-10's are; mean and standard deviation are those of the file's
training images.
"""

import argparse
import dataclasses
import io
import os
import shutil
import signal
import sys
import time
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.gpu.archive import pack, unpack
from benchmarks.gpu.battery import Battery, make_parser, run
from benchmarks.gpu.cifar import unpacked
from benchmarks.gpu.jobs import POLL_SECONDS, Here, Process, epoch_seconds, last_line
from benchmarks.gpu.kept import (
    keep_original,
    keep_outputs,
    name_true_weights,
    outputs_of,
)
from benchmarks.gpu.planning import (
    BESIDE_EPOCHS,
    SLOWEST_EPOCH,
    Unit,
    at_once,
    choose,
    decide,
    expected_work,
    simulate,
)
from benchmarks.gpu.units import FORGET_SEED, TWIN, Recipe, training_flags, units_of
from runtime.files import load_json, save_arrays, save_bytes, save_text
from stages.outputs import Subject
from stages.requests import AuditRequest
from stages.saved import read_saved
from utils import UserError

STAGE = "table"
# Seconds that are kept for the report and the archive, and that the audit takes a model.
CLOSING, AUDIT_OF_A_MODEL = 20.0, 8.0
# Of the two checks before any unit.
CHECKS = {"epoch": 30.0, "at_once": 90.0}
TRIED_AT_ONCE = (2, 3)
# A result's numbers that a unit's line shows.
SHOWN = ("UA", "RA", "TA", "MIA", "train", "VA")


@dataclasses.dataclass
class Running:
    """A unit that runs: its job, the seconds of work that are left of it and that it has had,
    counted as if it were alone.
    """

    unit: Unit
    job: Process | Here
    left: float
    since: float  # when it was last looked at
    whole: bool  # it began in this call, so that what it had is all of its work
    had: float = 0.0

    def spend(self, slow: float) -> None:
        """Count the time since the last look, in which everything took ``slow`` times as long as
        alone.
        """
        now = time.monotonic()
        work, self.since = (now - self.since) / slow, now
        self.had, self.left = self.had + work, max(self.left - work, 0.0)


class Table(Battery):
    """The table's units, their order in time, and their files.

    FOLDER/table/UNIT holds a unit's files, FOLDER/table_pieces what another machine needs,
    FOLDER/table_results.zip the results.
    """

    def __init__(self, args: argparse.Namespace, *, needs_device: bool):
        super().__init__(STAGE, args, needs_device=needs_device)
        self.deadline, self.ends = (
            self.ends,
            float("inf"),
        )  # what was run is recorded, also after the end
        self.args, self.recipe = args, TWIN if self.twin else Recipe()
        self.work, self.pieces = self.folder / STAGE, args.pieces or self.folder / "table_pieces"
        self.data, self.subject, self.slow, self.most = "DATA", None, {1: 1.0}, 1
        self.read_decisions()
        self.drop_lost()

    def read_decisions(self) -> None:
        """Take over what the first two checks found, now or in an earlier call."""
        measured = self.found("epoch") or self.decision(0)
        self.decided = {name: measured[name] for name in ("epochs", "schedule", "compile")}
        self.epoch_seconds = measured.get("epoch_seconds")
        if self.args.at_once:
            self.most, self.slow = (
                self.args.at_once,
                {count: float(count) for count in range(1, self.args.at_once + 1)},
            )
        elif tried := self.found("at_once"):
            self.most, self.slow = (
                tried["used"],
                dict(zip(tried["units"], tried["slower"], strict=True)),
            )
        self.units = units_of(self.recipe, self.work, self.data, self.decided)

    def drop_lost(self) -> None:
        """Forget that a unit is done where a file that others start from is gone."""
        for name, file in {"original": "rounded.pth.tar", "masks": "with_0.5.pt"}.items():
            if self.found(name) and not (self.work / name / file).is_file():
                del self.checks[name]

    def make_anew(self) -> None:
        """--again: remove the units of --only, so that they are run once more.

        Raises:
            UserError: no unit is named, or one that others started from.
        """
        if not self.only:
            raise UserError("--again: name the units that are to be made anew, with --only")
        fixed = sorted({"original", *CHECKS} & set(self.only))
        if fixed and self.done():
            raise UserError(
                f"--again --only {fixed[0]}: the finished rows rest on it; give another --out"
            )
        for name in self.only:
            self.checks.pop(name, None)
            shutil.rmtree(self.work / name, ignore_errors=True)

    def finish(self) -> int:
        self.asked += (
            self.only or []
        )  # parse() knows the names; a unit that is done is no check of this call
        return super().finish()

    # -------------------------------------------------------------------------- what takes how long

    def done(self) -> set[str]:
        return {unit.name for unit in self.units if self.found(unit.name)}

    def expected(self, unit: Unit) -> float:
        """Seconds of work that are left of a unit."""
        works: dict[str, list[float]] = {}
        for each in self.units:
            if work := (self.found(each.name) or {}).get("work"):
                works.setdefault(each.kind, []).append(work)
        whole = expected_work(unit, self.epoch_seconds, works)
        if not unit.resumable:
            return whole
        beside = min(BESIDE_EPOCHS, whole)
        return beside + (whole - beside) * (1 - self.progress(unit) / self.decided["epochs"])

    def progress(self, unit: Unit) -> int:
        """Epochs of a training that are on disk."""
        curves = list((self.work / unit.name).glob("*curve.jsonl"))
        return len(curves[0].read_text().splitlines()) if curves else 0

    def time_left(self) -> float:
        """Seconds until report and archive have to be made."""
        return self.deadline - time.monotonic() - CLOSING

    def is_over(self) -> bool:
        return self.deadline <= time.monotonic()

    def plan(self, minutes: float) -> str:
        """Units with what they take, and which fit into ``minutes``."""
        chosen = [unit for unit in self.units if self.is_wanted(unit.name)]
        before = sum(
            seconds
            for name, seconds in CHECKS.items()
            if not (self.found(name) or self.is_given(name))
        )
        seconds = 60 * minutes - before - CLOSING
        when = simulate(chosen, self.done(), self.expected, seconds, self.most, self.slow)
        measured = "not measured yet" if self.epoch_seconds is None else "measured"
        seconds_each = (
            expected_work(Unit("", "", "", (), 1, ""), self.epoch_seconds, {}) - BESIDE_EPOCHS
        )
        lines = [
            (
                f"an epoch takes {seconds_each:.2f} s ({measured}); {self.decided['epochs']}"
                f" epochs, {self.decided['schedule']}; {self.most} at once; {before:.0f} s for"
                f" checks before, {CLOSING:.0f} s for report and archive after"
            ),
            f"{'unit':16} {'state':12} {'minutes':>7}  in {minutes:g} minutes",
        ]
        counts = {"done": 0, "fits": 0, "later": 0}
        for unit in chosen:
            if self.found(unit.name):
                counts["done"] += 1
                lines.append(
                    f"{unit.name:16} {'done':12} {self.found(unit.name).get('minutes', 0):7.1f}"
                )
                continue
            epochs = self.progress(unit) if unit.resumable else 0
            state = f"epoch {epochs}" if epochs else "to come"
            begin, end = when.get(unit.name, (0, float("inf")))
            fits = end <= seconds
            counts["fits" if fits else "later"] += 1
            part = "a part of it" if unit.name in when else "later"
            span = f"{(before + begin) / 60:.1f} to {(before + end) / 60:.1f}" if fits else part
            lines.append(f"{unit.name:16} {state:12} {self.expected(unit) / 60:7.1f}  {span}")
        words = " ".join(f"{name}={count}" for name, count in counts.items())
        return "\n".join([*lines, f"RESULT stage={STAGE} plan={minutes:g} {words}"])

    # ------------------------------------------------------------------------------------ measuring

    def is_wanted(self, name: str) -> bool:
        return not self.only or name in self.only

    def is_given(self, name: str) -> bool:
        """Whether a flag takes a check's place."""
        return name == "at_once" and self.args.at_once is not None

    def measure(self) -> bool:
        """The two checks that decide how the table is made; returns whether units can be run."""
        self.check("epoch", self.try_alone)
        if self.found("epoch") is None:
            print(f"{STAGE}: no unit begins before an epoch is measured: --only epoch")
            return False
        if not self.is_given("at_once"):
            self.check("at_once", self.try_together)
        self.read_decisions()
        return True

    def decision(self, epoch_seconds: float) -> dict[str, object]:
        """How trainings are made, given what an epoch takes: epochs, schedule, compiled or not."""
        decided = decide(epoch_seconds, self.recipe.epochs, self.args.epochs)
        return decided | {"compile": self.args.compile}

    def try_alone(self) -> dict[str, object]:
        seconds = self.trial(1)
        return {"epoch_seconds": seconds, **self.decision(seconds)}

    def try_together(self) -> dict[str, object]:
        alone = self.found("epoch")["epoch_seconds"]
        together, failures = {}, {}
        for count in TRIED_AT_ONCE[:1] if self.twin else TRIED_AT_ONCE:
            try:
                together[count] = self.trial(count)
            except RuntimeError as error:  # such as too little memory for so many
                failures["failure"] = str(error)
                break
        used, slow = at_once(alone, together)
        gains = {f"gain_of_{count}": count / slow[count] for count in together}
        return {
            "used": used,
            "units": list(slow),
            "slower": list(slow.values()),
            **gains,
            **failures,
        }

    def trial(self, count: int) -> float:
        """Seconds of an epoch with ``count`` trainings at once, in the mean; their files are
        removed.
        """
        epochs = 2 if self.twin else 4
        folder = self.work / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        decided = {"epochs": epochs, "schedule": "constant", "compile": self.args.compile}
        kind = Here if self.twin and count == 1 else Process
        logs = [folder / f"{number}.log" for number in range(count)]
        jobs = [
            kind(
                "main_train.py",
                training_flags(self.recipe, self.data, decided, folder / str(number)),
                log,
            )
            for number, log in enumerate(logs)
        ]
        try:
            while any(job.poll() is None for job in jobs):
                time.sleep(POLL_SECONDS)
        finally:
            for job in jobs:
                if job.poll() is None:
                    job.stop()
        for log, job in zip(logs, jobs, strict=True):
            if job.poll():
                raise RuntimeError(f"{count} trainings at once: {last_line(log)}")
        seconds = float(np.mean([epoch_seconds(log) for log in logs]))
        shutil.rmtree(folder)
        return seconds

    # -------------------------------------------------------------------------------------- running

    def run_units(self) -> None:
        """Run what fits, several at once where that pays; what is unfinished at the end is stopped
        and goes on next time.
        """
        running: list[Running] = []
        tried: set[str] = set()
        try:
            while True:
                self.begin(running, tried)
                if not running:
                    break
                ended = self.wait(running)
                for each in running:
                    each.spend(self.slow[len(running)])
                for each in ended:
                    running.remove(each)
                    self.record(each)
                if self.is_over():
                    break
        finally:
            for each in running:
                each.job.stop()
                print(
                    f"{STAGE} {each.unit.name}: stopped; it goes on where its last epoch ended",
                    flush=True,
                )
        wanted = [unit.name for unit in self.units if self.is_wanted(unit.name)]
        self.left += [
            name for name in wanted if name not in self.done() and name not in self.failed()
        ]

    def failed(self) -> set[str]:
        return {name for name, entry in self.checks.items() if entry["ok"] is False}

    def begin(self, running: list[Running], tried: set[str]) -> None:
        """Start what may begin beside what runs."""
        kind = Here if self.twin and self.most == 1 else Process
        while len(running) < self.most:
            done = self.done()
            waiting = [
                unit
                for unit in self.units
                if self.is_wanted(unit.name) and unit.name not in done | tried
            ]
            ready = [unit for unit in waiting if done.issuperset(unit.needs)]
            works = {unit.name: self.expected(unit) for unit in ready}
            unit = choose(
                ready, works, [each.left for each in running], self.time_left(), self.slow
            )
            if unit is None:
                return
            tried.add(unit.name)
            whole = not (self.work / unit.name).exists()
            beside = f" beside {', '.join(each.unit.name for each in running)}" if running else ""
            print(
                f"{STAGE} {unit.name} begins{beside}, about {works[unit.name] / 60:.1f} minutes of"
                " work",
                flush=True,
            )
            now = time.monotonic()
            job = kind(unit.script, unit.flags, self.log_of(unit))
            running.append(Running(unit, job, works[unit.name], now, whole))

    def log_of(self, unit: Unit) -> Path:
        return self.work / unit.name / "log.txt"

    def wait(self, running: list[Running]) -> list[Running]:
        """Those that ended; none where the time is over first."""
        while not (ended := [each for each in running if each.job.poll() is not None]):
            if self.is_over():
                break
            time.sleep(POLL_SECONDS)
        return ended

    def record(self, each: Running) -> None:
        """Keep what a unit found, and bring the archive up to date."""
        self.check(each.unit.name, lambda: self.finish_unit(each))
        self.write_pieces()

    def finish_unit(self, each: Running) -> dict[str, object]:
        unit, folder, started = each.unit, self.work / each.unit.name, time.monotonic()
        if code := each.job.poll():
            raise RuntimeError(f"exit code {code}: {last_line(self.log_of(unit))}")
        metrics = load_json(folder / f"{unit.stem}result.json", "result")["metrics"]
        found = {name: metrics[name] for name in SHOWN if name in metrics}
        if unit.name == "original":
            found |= keep_original(folder)
        if unit.audited:
            checkpoint = folder / f"{unit.stem}checkpoint.pth.tar"
            role = "retrain" if unit.kind == "retrain" else "models"
            if self.subject is None:
                flags = AuditRequest(models=())
                self.subject = Subject(
                    read_saved(checkpoint, role),
                    data=self.data,
                    device=self.device,
                    batch_size=flags.batch_size,
                )
            outputs_of(
                self.subject, read_saved(self.work / "original" / "rounded.pth.tar", "original")
            )
            found["outputs"] = keep_outputs(self.subject, checkpoint, role, folder / "kept")
        work = each.had + time.monotonic() - started
        return found | {"minutes": work / 60} | ({"work": work} if each.whole else {})

    # ------------------------------------------------------------------------------- what comes out

    def kept(self, kinds: bool | None = None) -> list[Path]:
        """The stubs that the audit reads, of Retrains alone (True), of methods alone (False) or
        all, where no file of outputs is lost.
        """
        found = []
        for unit in self.units:
            folder = self.work / unit.name / "kept"
            outputs = (self.found(unit.name) or {}).get("outputs")
            if (
                outputs
                and (kinds is None or kinds == (unit.kind == "retrain"))
                and len(list(folder.glob("logits/*.npz"))) >= outputs
            ):
                found.append(folder / f"{unit.stem}checkpoint.pth.tar")
        return found

    def audit(self) -> None:
        """evaluate.py --suite standard on the models that are kept; run again where there are
        others than last time.
        """
        retrains, methods = self.kept(True), self.kept(False)
        names = [path.parents[1].name for path in (*retrains, *methods)]
        if not self.is_wanted("audit"):
            return
        if not (retrains and methods):
            print(f"{STAGE} audit: needs the outputs of a Retrain and of a method")
            return
        if (self.found("audit") or {}).get("models") == names:
            return
        alone = self.only == ["audit"]
        if not alone and self.time_left() < AUDIT_OF_A_MODEL * len(names):
            print(f"{STAGE} audit: no time left; --only audit makes it, without a GPU")
            return
        self.checks.pop("audit", None)
        flags = [
            "--models",
            *map(str, methods),
            "--retrain",
            *map(str, retrains),
            "--suite",
            "standard",
            "--data",
            self.data,
        ]
        flags += [
            "--original",
            str(self.work / "original" / "rounded.pth.tar"),
            "--save_dir",
            str(self.work / "audit"),
            "--device",
            "cpu",
        ]

        def action() -> dict[str, object]:
            job = (Here if self.twin else Process)(
                "evaluate.py", flags, self.work / "audit" / "log.txt"
            )
            while job.poll() is None:
                time.sleep(POLL_SECONDS)
            if job.poll():
                raise RuntimeError(last_line(self.work / "audit" / "log.txt"))
            name_true_weights(self.work / "audit" / "audit.json", [*retrains, *methods])
            return {"models": names}

        self.check("audit", action)

    def report(self) -> None:
        """report.py's table of what is there."""
        import report

        text = io.StringIO()
        if any(
            self.found(unit.name) for unit in self.units if unit.name not in ("original", "masks")
        ):
            with redirect_stdout(text):
                code = report.main([str(self.work), "--format", "markdown"])
            if not code:
                save_text(text.getvalue(), self.work / "report.md")
        self.save()

    def table(self, here: dict) -> str:
        """The checks, and report.py's table."""
        made = self.work / "report.md"
        epochs = (
            f"{self.decided['epochs']} epochs, {self.decided['schedule']}, batch 256, learning"
            " rate 0.1"
        )
        notes = [
            (
                f"{self.recipe.arch}, {epochs}; {self.recipe.forget} random images forgotten"
                f" (forget seed {FORGET_SEED})."
            ),
            (
                "Images: --dataset npz, random crops after zero padding of an eighth of the side,"
                " flips, the training images' own mean and standard deviation. The original's"
                " weights are rounded to fp16 once, after its training; every row starts from the"
                " rounded ones, so going on from the archive changes nothing."
            ),
        ]
        if self.most > 1:
            notes.append(f"Up to {self.most} units ran at once: run times do not compare.")
        if self.decided["epochs"] != self.recipe.epochs:
            notes.append(
                f"These are not the published {self.recipe.epochs} epochs, multistep: fewer were"
                f" asked for, or an epoch took more than {SLOWEST_EPOCH:g} s."
            )
        return "\n\n".join(
            [" ".join(notes), super().table(here), made.read_text() if made.is_file() else ""]
        )

    def small_files(self) -> list[Path]:
        """Results, curves and logs of what is finished."""
        names = [unit.name for unit in self.units if self.found(unit.name)] + ["audit"] * bool(
            self.found("audit")
        )
        found = [self.folder / f"{STAGE}{ending}" for ending in (".json", ".md", ".log")] + [
            self.work / "report.md"
        ]
        for name in names:
            folder = self.work / name
            found += sorted(
                file
                for file in folder.glob("*")
                if file.suffix in (".json", ".jsonl") or file.name == "log.txt"
            )
        return [file for file in found if file.is_file()]

    def write_pieces(self) -> None:
        original, mask = self.work / "original", self.work / "masks" / "with_0.5.pt"
        groups = (
            [[original / "rounded.pth.tar", *sorted(original.glob("logits/*.npz"))]]
            if self.found("original")
            else []
        )
        groups += [[mask]] if self.found("masks") else []
        groups += [[stub, *sorted(stub.parent.glob("logits/*.npz"))] for stub in self.kept()]
        left_out = pack(self.folder, self.pieces, groups, small=self.small_files())
        if left_out:
            units = sorted({file.relative_to(self.work).parts[0] for file in left_out})
            print(
                f"{STAGE}: the pieces are full, without the outputs of {', '.join(units)}",
                flush=True,
            )

    def write_results(self) -> None:
        """The results alone, to keep."""
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in self.small_files():
                archive.write(file, file.relative_to(self.folder))
        save_bytes(content.getvalue(), self.folder / "table_results.zip")


# --------------------------------------------------------------------------------------------- main


def twin_data(folder: Path) -> Path:
    """scikit-learn's digits as a packed file of JPEG images, as CIFAR-10 may come."""
    from PIL import Image

    from datasets.sources import Reading, digits

    target = folder / "digits.npz"
    if target.is_file():
        return target
    arrays, packed = (
        digits(folder, Reading()),
        {"classes": np.array([str(digit) for digit in range(10)])},
    )
    for half in ("train", "test"):
        images = []
        for pixels in arrays[f"x_{half}"]:
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "JPEG", quality=95)
            images.append(file.getvalue())
        packed[f"jpeg_{half}"] = np.frombuffer(b"".join(images), np.uint8)
        packed[f"end_{half}"] = np.cumsum([len(image) for image in images])
        packed[f"y_{half}"] = arrays[f"y_{half}"].astype(np.int64)
    save_arrays(packed, target)
    return target


def parse(argv: list[str]) -> argparse.Namespace:
    parser = make_parser(STAGE, __doc__)
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FILE",
        help="CIFAR-10: an npz of arrays, or of packed JPEG images (cifar.py); --twin has its own",
    )
    add(
        "--plan",
        type=float,
        nargs="?",
        const=8.0,
        metavar="MINUTES",
        help="print what fits into so many minutes, start nothing",
    )
    add(
        "--at_once",
        type=int,
        metavar="N",
        help="units on the card at once (default: what a check finds best)",
    )
    add(
        "--epochs",
        type=int,
        metavar="N",
        help="train for fewer epochs, under a cosine (default: the published ones); the first call"
        " decides",
    )
    add(
        "--compile",
        action="store_true",
        help="compile the models for training; the first call decides",
    )
    add(
        "--pieces",
        type=Path,
        metavar="FOLDER",
        help="where to write what another machine needs (default: table_pieces in --out)",
    )
    add(
        "--unpack",
        type=Path,
        metavar="FOLDER",
        help="go on from these pieces, where --out has no table yet",
    )
    args = parser.parse_args(argv)
    args.out = args.out or ROOT / "runs" / ("gpu_twin" if args.twin else "gpu")
    if args.at_once is not None and args.at_once < 1:
        raise UserError(f"--at_once {args.at_once}: at least 1")
    if args.epochs is not None and args.epochs < 1:
        raise UserError(f"--epochs {args.epochs}: at least 1")
    if args.data is None and not args.twin and args.plan is None:
        raise UserError("--data is missing: CIFAR-10 as an npz of arrays or of packed JPEG images")
    known = {
        unit.name for unit in units_of(Recipe(), args.out, "", decide(0, 1) | {"compile": False})
    } | {*CHECKS, "audit"}
    if unknown := sorted(set((args.only or "").split(",")) - known - {""}):
        raise UserError(f"--only {unknown[0]}: there are {', '.join(sorted(known))}")
    return args


def main(argv: list[str]) -> int:
    args = parse(argv)
    if args.unpack and (args.out / f"{STAGE}.json").exists():
        print(f"--unpack is passed over: {args.out} has a table already")
    elif args.unpack:
        print(f"{len(unpack(args.unpack, args.out))} files from {args.unpack}")
    reads_only = args.plan is not None or args.only == "audit"
    table = Table(args, needs_device=not reads_only)
    if args.plan is not None:
        print(table.plan(args.plan))
        return 0
    if args.again:
        table.make_anew()
    file = unpacked(args.data or twin_data(table.work), table.work)
    table.data = os.path.relpath(file) if file.resolve().is_relative_to(Path.cwd()) else str(file)
    table.read_decisions()
    if args.only == "audit" or table.measure():
        if args.only != "audit":
            table.run_units()
        table.audit()
        table.report()
        table.write_pieces()
        table.write_results()
    return table.finish()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what runs is stopped, too
    sys.exit(run(STAGE, main))
