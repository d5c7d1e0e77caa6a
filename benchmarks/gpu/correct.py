"""Is what the project computes on this GPU right? One check for each way in which a GPU may differ
from the CPU.

    python benchmarks/gpu/correct.py            # eight minutes; the same command goes on
    python benchmarks/gpu/correct.py --twin     # the same checks on the CPU, small
    python benchmarks/gpu/correct.py --only methods_fp32_1,compile --again

Results: correct.json, correct.md and correct.log in --out. A check's numbers are kept whether it is
good or not.
"""

import contextlib
import functools
import math
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from benchmarks.gpu.battery import Battery, LeftOut, judged, make_parser, run
from benchmarks.gpu.numerics import (
    PARTS,
    cpu_against_device,
    evaluated_logits,
    loader,
    methods,
)
from benchmarks.gpu.runs import (
    Bench,
    compared,
    flat,
    relative,
    same,
    weights,
)
from evaluation.accuracy import accuracy
from runtime.files import load, load_json

# Largest relative difference of a CUDA run from one in another process, which chooses its kernels
# anew, where two equal runs in one process are equal.
OTHER_KERNELS = 0.05
# How far, relative to the way from the original, two processes may end from one: a share of
# rounding that a few epochs amplify.
TWO_PROCESSES = 0.1
# The same for a compiled model beside the eager one after one epoch, relative to the eager one's
# weights.
COMPILED = 0.1
# Images of a split, in a thousand, that two devices may classify differently: near ties of fp32
# logits.
DIFFERENT_IMAGES = 2


# ------------------------------------------------------------------------- killed and repeated runs


def resume_training(bench: Bench) -> dict:
    """main_train.py, killed inside an epoch and resumed, beside a run that nothing stopped."""
    folder = bench.folder / "killed_training"
    words = bench.training(
        "--save_every_steps", 10, "--batch_size", bench.scale.batch // 2, epochs=bench.scale.long
    )
    checkpoint = folder / "0checkpoint.pth.tar"
    return killed_and_resumed(
        bench, "main_train", words, checkpoint, lambda state: state["epoch"] and state["meter"]
    )


def resume_salun(bench: Bench) -> dict:
    """RL under a mask by main_forget.py, killed after its first epoch and resumed, beside a run
    that nothing stopped.
    """
    checkpoint = bench.folder / "killed_salun" / "RLcheckpoint.pth.tar"
    return killed_and_resumed(
        bench,
        "main_forget",
        bench.salun(epochs=bench.scale.long),
        checkpoint,
        lambda state: state["epoch"],
    )


def killed_and_resumed(
    bench: Bench,
    script: str,
    words: list[object],
    checkpoint: Path,
    far_enough: Callable[[dict], object],
) -> dict:
    """Kill a script once its checkpoint is ``far_enough``, resume it, and compare the model with
    that of a run which nothing stopped.

    With --deterministic: rounding of a step in another process would not stay small for several
    epochs.
    """
    words = [*words, "--deterministic"]
    folder = checkpoint.parent
    shutil.rmtree(folder, ignore_errors=True)
    process = bench.start([f"{script}.py", *words, "--save_dir", folder])
    state, end = None, time.monotonic() + 120
    while process.poll() is None and not state and time.monotonic() < end:
        time.sleep(0.01)
        seen = checkpoint.exists() and load(checkpoint, "checkpoint")
        state = seen if seen and far_enough(seen) else None
    process.kill()
    printed, _ = process.communicate()
    if process.returncode != -9 or not state:
        raise RuntimeError(
            f"ended with {process.returncode} before it could be killed: {printed[-500:]}"
        )
    state = load(checkpoint, "checkpoint")
    steps = (state.get("meter") or {"steps": 0})["steps"]

    def whole() -> dict:
        shutil.rmtree(folder.with_name("whole"), ignore_errors=True)
        bench.call(script, *words, "--save_dir", folder.with_name("whole"))
        return weights(folder.with_name("whole") / checkpoint.name)

    bench.call(script, *words, "--save_dir", folder, "--resume")
    numbers, fits = compared(
        weights(checkpoint), whole(), whole, 0.0 if bench.twin else OTHER_KERNELS
    )
    found = {
        "killed_in_epoch": state["epoch"] + 1,
        "after_steps": steps,
        "of_epochs": state["epochs"],
        **numbers,
    }
    return judged(
        found,
        {
            "killed before the last epoch": state["epoch"] < state["epochs"],
            "the resumed run is as the whole one": fits,
        },
    )


def determinism(bench: Bench) -> dict:
    """Whether two runs of one command end in the same bits: said, and never a failure."""
    found = {}
    runs = {
        "training": (
            "main_train",
            bench.training(),
            bench.original.with_name("0checkpoint.pth.tar"),
        ),
        "salun": ("main_forget", bench.salun(), bench.unlearned),
    }
    for name, (script, words, checkpoint) in runs.items():
        folder = bench.folder / f"again_{name}"
        if bench.twin:
            bench.call(script, *words, "--save_dir", folder)
        else:  # a new process chooses its kernels anew
            bench.process([f"{script}.py", *words, "--save_dir", folder])
        first, second = weights(checkpoint), weights(folder / checkpoint.name)
        largest = float((flat(first) - flat(second)).abs().max())
        found |= {
            f"{name}_equal": same(first, second),
            f"{name}_largest": largest,
            f"{name}_apart": relative(second, first),
        }
    return found


# ------------------------------------------------------------------------------------ out of memory

# Runs a script; there is no memory left "at once" or "after" the first checkpoint. On CUDA the
# allocator's limit falls to a share of the card, on the CPU a loss raises what CUDA's would.
NO_MEMORY = """
import importlib, sys
import torch
import unlearn.base
from stages import train, unlearn as unlearning

def shrink(share):
    if {cuda}:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(share)
        return
    def refuse(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")
    unlearn.base.F.cross_entropy = refuse

def save_then_shrink(state, path, save=train.save):
    save(state, path)
    if path.name.endswith("checkpoint.pth.tar"):
        shrink(1e-6)

when, script, *words = sys.argv[1:]
if when == "after":
    train.save = unlearning.save = save_then_shrink
else:
    shrink(0.02)
sys.exit(importlib.import_module(script).main(words))
"""


def out_of_memory(bench: Bench) -> dict:
    """A batch that does not fit, beside files of an earlier run; and memory that ends after the
    first epoch.

    Each is one line that names --batch_size and exit code 1. Earlier files stay as they are, and
    --resume goes on from the epoch.
    """
    program = ["-c", NO_MEMORY.format(cuda=bench.device.type == "cuda")]
    earlier = bench.original.parent
    before = {
        file.name: file.read_bytes() for file in earlier.iterdir() if not file.name.startswith(".")
    }
    huge = [
        *bench.request(),
        "--unlearn",
        "FT",
        "--batch_size",
        100_000,
        "--precision",
        "fp32",
        "--save_dir",
        earlier,
    ]
    of_a_batch = bench.process([*program, "at once", "main_forget", *huge], code=1)
    after = {
        file.name: file.read_bytes() for file in earlier.iterdir() if not file.name.startswith(".")
    }
    folder = bench.folder / "no_memory"
    words = [*bench.training(), "--save_dir", folder]
    of_an_epoch = bench.process([*program, "after", "main_train", *words], code=1)
    kept = load(folder / "0checkpoint.pth.tar", "checkpoint")["epoch"]
    bench.call("main_train", *words, "--resume")
    whole = load(folder / "0checkpoint.pth.tar", "checkpoint")["epoch"]
    found = {
        "line_of_a_huge_batch": last_line(of_a_batch),
        "line_after_an_epoch": last_line(of_an_epoch),
        "kept_epochs": kept,
    }
    return judged(
        found,
        {
            "a huge batch: one line names --batch_size": names_batch_size(of_a_batch),
            "earlier files are as they were": before == after,
            "after an epoch: one line names --batch_size": names_batch_size(of_an_epoch),
            "the first epoch is kept": kept == 1,
            "--resume ends the run": whole == bench.scale.epochs,
        },
    )


def last_line(printed: str) -> str:
    return printed.strip().splitlines()[-1]


def names_batch_size(printed: str) -> bool:
    """Whether a run ended with one line that says what to do, and no traceback."""
    return (
        "memory" in last_line(printed)
        and "--batch_size" in last_line(printed)
        and "Traceback" not in printed
    )


# -------------------------------------------------------------------------------------- compilation


@contextlib.contextmanager
def compiler(bench: Bench) -> Iterator[str]:
    """Let --compile use what it uses on the device; on the CPU traced graphs run as they are, since
    C++ takes a minute to build.
    """
    if not bench.twin:
        try:
            torch.compile(lambda x: x.sin() + 1)(torch.ones(8, device=bench.device))
        except Exception as error:
            raise LeftOut(
                f"no compiler works here ({type(error).__name__}:"
                f" {str(error).strip().splitlines()[0][:200]})"
            ) from None
        yield "inductor"
        return
    compile_model = nn.Module.compile
    with mock.patch.object(
        nn.Module,
        "compile",
        lambda self, **options: compile_model(self, backend="aot_eager", **options),
    ):
        yield "aot_eager"


def compile_training(bench: Bench) -> dict:
    """One epoch of main_train.py with --compile and without, from one start; the compiled model's
    evaluation beside an eager model's.
    """
    found = {}
    words = bench.training("--precision", "fp32", "--lr", "0.01", epochs=1)
    bench.call("main_train", *words, "--save_dir", bench.folder / "eager")
    with compiler(bench) as backend:
        started = time.monotonic()
        bench.call("main_train", *words, "--compile", "--save_dir", bench.folder / "compiled")
        found |= {"backend": backend, "seconds": time.monotonic() - started}
        torch._dynamo.reset()
    folder = bench.folder / "compiled"
    eager, compiled = (
        weights(bench.folder / name / "0checkpoint.pth.tar") for name in ("eager", "compiled")
    )
    logits, labels = evaluated_logits(bench, folder / "0model_SA_best.pth.tar")
    reported, evaluated = (
        load_json(folder / "train_result.json", "result")["metrics"]["TA"],
        accuracy(logits.numpy(), labels.numpy()),
    )
    found |= {
        "weights_apart": relative(compiled, eager),
        "TA_of_the_run": reported,
        "TA_of_an_eager_model": evaluated,
    }
    return judged(
        found,
        {
            f"weights within {COMPILED} of the eager run's": found["weights_apart"] <= COMPILED,
            "the same evaluation": abs(reported - evaluated) < 1e-9,
        },
    )


# -------------------------------------------------------------------------------- several processes


def by_torchrun(
    bench: Bench, count: int, name: str, script: str, *words: object, **environment: str
) -> list[dict]:
    """Run a script in ``count`` processes, into the folder ``name``; returns what each process says
    of its end.
    """
    folder = bench.folder / name
    here = ["--master_addr", "127.0.0.1", "--local_addr", "127.0.0.1", "--master_port", free_port()]
    starter = ["-m", "torch.distributed.run", "--nproc_per_node", count, *here]
    # One machine: no other interface, and no long search for its name where no server knows it.
    alone = {
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
        "RES_OPTIONS": "timeout:1 attempts:1",
    }
    environment = {**alone, **environment}
    if bench.twin:
        environment["OMP_NUM_THREADS"] = "1"
    command = [
        *starter,
        ROOT / "benchmarks" / "gpu" / "ranks.py",
        folder,
        script,
        *words,
        "--save_dir",
        folder,
    ]
    bench.process(command, **environment)
    return [load_json(folder / f"rank{rank}.json", "record") for rank in range(count)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun_nccl(bench: Bench) -> dict:
    """torchrun with one process beside the plain script; then NCCL (gloo on the CPU) in a group of
    one.

    A script makes no group where there is one process. So the group of one is made by ranks.py,
    which calls the collectives and SyncBatchNorm's function itself.
    """
    words = bench.training("--deterministic", epochs=1)

    def plain() -> dict:
        shutil.rmtree(bench.folder / "plain", ignore_errors=True)
        bench.call("main_train", *words, "--save_dir", bench.folder / "plain")
        return weights(bench.folder / "plain" / "0checkpoint.pth.tar")

    (rank,) = by_torchrun(bench, 1, "torchrun", "main_train", *words)
    found = weights(bench.folder / "torchrun" / "0checkpoint.pth.tar")
    numbers, fits = compared(found, plain(), plain, 0.0 if bench.twin else OTHER_KERNELS)
    group = rank["group"]
    expected = {
        "torchrun's model is the plain run's": fits,
        "values come back": group["values_come_back"] and group["outcomes_come_back"],
        "three updates through the group are as without": group["three_steps_apart"] <= 1e-3,
    }
    if bench.device.type == "cuda":
        expected["NCCL carries what is on the GPU"] = "cuda:nccl" in group["talks_through"]
        expected["SyncBatchNorm is BatchNorm"] = group["sync_batch_norm"] <= 1e-4
    return judged(numbers | {f"group_{name}": value for name, value in group.items()}, expected)


def two_processes(bench: Bench) -> dict:
    """RL under a mask by two processes that share the device (SHARE_GPUS=1: gloo), beside one
    process.

    On CUDA BatchNorm is SyncBatchNorm and in training; on the CPU, where each process would
    normalise its part, it is frozen.
    """
    on_gpu = bench.device.type == "cuda"
    words = bench.salun("--precision", "fp32", "--bn", "train" if on_gpu else "freeze", epochs=1)
    ranks = by_torchrun(bench, 2, "two", "main_forget", *words, SHARE_GPUS="1")
    bench.call("main_forget", *words, "--save_dir", bench.folder / "one")
    two, one = (weights(bench.folder / name / "RLcheckpoint.pth.tar") for name in ("two", "one"))
    found = {
        "apart": relative(two, one, weights(bench.original)),
        "ranks_equal": ranks[0]["weights"] == ranks[1]["weights"],
    }
    found |= {
        name: [rank[name] for rank in ranks]
        for name in ("device", "talks_through", "sync_batch_norms", "batch_norms")
    }
    return judged(
        found,
        {
            "both processes end with one model": found["ranks_equal"],
            f"within {TWO_PROCESSES} of the way of one process": found["apart"] <= TWO_PROCESSES,
            "SyncBatchNorm on CUDA": (
                (ranks[0]["sync_batch_norms"] == ranks[0]["batch_norms"]) == on_gpu
            ),
        },
    )


# --------------------------------------------------------------------------------------- evaluation


def evaluation(bench: Bench) -> dict:
    """evaluate.py --suite standard on the device and on the CPU; of copies of the checkpoints, as
    logits are kept beside them.
    """
    retrained = bench.folder / "retrained"
    bench.call("main_forget", *bench.request(), "--unlearn", "retrain", "--save_dir", retrained)
    models = {
        "models": bench.unlearned,
        "retrain": retrained / "retraincheckpoint.pth.tar",
        "original": bench.original,
    }
    audits = []
    for name, device in (("audit", "cpu" if bench.twin else "auto"), ("audit_on_the_cpu", "cpu")):
        words: list[object] = [
            "--suite",
            "standard",
            "--relearn_steps",
            2,
            "--relearn_seeds",
            1,
            "--device",
            device,
        ]
        for role, checkpoint in models.items():
            there = bench.folder / name / role
            there.mkdir(parents=True, exist_ok=True)
            words += [f"--{role}", shutil.copy(checkpoint, there)]
        bench.call("evaluate", *words, *(["--threads", 1] if bench.twin else []))
        audits.append(load_json(bench.folder / name / "models" / "audit.json", "audit"))
    return compared_audits(*audits)


def compared_audits(ours: dict, theirs: dict) -> dict:
    """The largest difference over all models, in images for accuracies and in points for the
    attack.
    """
    sizes = {"UA": "forget", "RA": "retain", "TA": "test"}
    counts = {name: sizes_of(ours)[split] for name, split in sizes.items()}
    pairs = list(zip(ours["models"], theirs["models"], strict=True))
    apart = {
        name: max(abs(a["metrics"][name] - b["metrics"][name]) for a, b in pairs)
        for name in (*sizes, "svc_confidence_tnr", "loss_auc")
    }
    images = {name: round(apart[name] * count / 100) for name, count in counts.items()}
    allowed = {
        name: max(1, math.ceil(DIFFERENT_IMAGES * count / 1000)) for name, count in counts.items()
    }
    found = {f"{name}_images_apart": images[name] for name in sizes} | {
        f"{name}_images_allowed": allowed[name] for name in sizes
    }
    found |= {
        "MIA_points_apart": apart["svc_confidence_tnr"],
        "loss_AUC_apart": apart["loss_auc"],
        "models": len(pairs),
    }
    found["RL"] = {
        name: [a["metrics"][name] for a in (ours["models"][0], theirs["models"][0])]
        for name in sizes
    }
    return judged(
        found,
        {f"{name} within {allowed[name]} images": images[name] <= allowed[name] for name in sizes},
    )


def sizes_of(audit: dict) -> dict[str, int]:
    """How many images each split has."""
    return audit["data"]["sizes"]


# -------------------------------------------------------------------------------------------- stage


CHECKS: dict[str, Callable[[Bench], dict]] = {
    "cpu_against_device": cpu_against_device,
    "loader": loader,
    "resume_training": resume_training,
    "resume_salun": resume_salun,
    "determinism": determinism,
    "out_of_memory": out_of_memory,
    "evaluation": evaluation,
    "torchrun_nccl": torchrun_nccl,
    "two_processes": two_processes,
    "compile": compile_training,
    **{
        f"methods_{precision}_{part}": functools.partial(methods, precision=precision, part=part)
        for precision in ("fp32", "bf16")
        for part in range(1, PARTS + 1)
    },
}


def main(argv: list[str]) -> int:
    args = make_parser("correct", __doc__).parse_args(argv)
    battery = Battery("correct", args)
    if battery.twin:
        torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder
    ):  # hundreds of MB of checkpoints, which a later call makes again in seconds
        bench = Bench(Path(folder), battery.device, battery.twin)
        for name in battery.in_turn(CHECKS):
            battery.check(name, lambda action=CHECKS[name]: action(bench))
    return battery.finish()


if __name__ == "__main__":
    sys.exit(run("correct", main))
