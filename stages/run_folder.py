"""Where a stage writes: names of files, what is there already, what --resume goes on from."""

import argparse
import itertools
import os
import shlex
from pathlib import Path

from runtime import distributed
from runtime.devices import pick_device
from runtime.files import require_file
from utils import UserError, warn

# What an unlearning run writes, after its stem.
PARTS = ("checkpoint.pth.tar", "eval_result.pth.tar", "result.json", "curve.jsonl")


def name_unread(args: argparse.Namespace, script: str, flags: tuple[str, ...]) -> None:
    """One warning for what was typed and belongs to another step."""
    if unread := sorted(args.typed & set(flags)):
        warn(f"{script} does not read {', '.join('--' + name for name in unread)}")


def folder_of(args: argparse.Namespace) -> Path:
    """--save_dir, or a default that is printed."""
    if args.save_dir is None:
        args.save_dir = Path("runs") / f"{args.dataset}_{args.arch}"
        print(f"--save_dir {args.save_dir}")
    return args.save_dir


def stem_of(args: argparse.Namespace, run: str | None) -> str:
    """What the names of an unlearning run's files begin with."""
    return f"{run}.{args.unlearn}" if run else args.unlearn


def free_run(args: argparse.Namespace, folder: Path) -> str:
    """A --run of this method that ``folder`` has no file of."""
    for number in itertools.count(1):
        run = f"s{args.seed}" + (f"_{number}" if number > 1 else "")
        if not any(os.path.lexists(folder / f"{stem_of(args, run)}{part}") for part in PARTS):
            return run


def free_folder(folder: Path) -> Path:
    """A folder that does not exist, beside ``folder``, or inside it where nothing may be written
    beside it.
    """
    beside = folder.name not in ("", "..") and os.access(folder.parent, os.W_OK | os.X_OK)
    first = folder if beside else folder / "run"
    for number in itertools.count(2):
        if not os.path.lexists(found := first.with_name(f"{first.name}_{number}")):
            return found


def ways_to_keep_both(args: argparse.Namespace, runs: bool) -> str:
    """The flags that leave what is in --save_dir alone; ``runs``: --run is read."""
    elsewhere = f"--save_dir {shlex.quote(str(free_folder(args.save_dir)))}"
    if (
        not runs or distributed.world_size() > 1
    ):  # torchrun takes --run for a flag of its own where no -- stands before the script
        return f"{elsewhere} keeps both"
    return f"--run {free_run(args, args.save_dir)} keeps both, or {elsewhere}"


def refuse_overwriting(args: argparse.Namespace, files: list[Path], *, runs: bool = False) -> None:
    """A result that exists is only replaced when asked to; a folder that cannot be written is
    refused before any work.
    """
    distributed.on_main(lambda: _refuse_overwriting(args, files, runs))


def _refuse_overwriting(args: argparse.Namespace, files: list[Path], runs: bool) -> None:
    parent = next(path for path in files[0].absolute().parents if os.path.exists(path))
    if not os.path.isdir(parent) or not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"--save_dir {args.save_dir} cannot be written")
    there = begun(files)
    if there and not (args.overwrite or args.resume):
        resume = "--resume goes on from it, " if is_resumable(there) else ""
        raise UserError(
            f"{there[0]} exists; {resume}--overwrite replaces it, {ways_to_keep_both(args, runs)}"
        )


def begun(files: list[Path]) -> list[Path]:
    """Those of a run's files that are there, checkpoint first. A curve alone says nothing: it is
    written before the first checkpoint.
    """
    return [
        file for file in files if not file.name.endswith("curve.jsonl") and os.path.exists(file)
    ]


def is_resumable(there: list[Path]) -> bool:
    """Whether --resume goes on from the first of a run's files that are there: a checkpoint, or
    masks.

    Or training's best model, if it is alone: it holds the same, and after the first epoch it is
    written before the checkpoint.
    """
    names = [file.name for file in there]
    return names[0].endswith(("checkpoint.pth.tar", ".pt", "mask_result.json")) or names == [
        "0model_SA_best.pth.tar"
    ]


def settle_resume(args: argparse.Namespace, files: list[Path], *, runs: bool = False) -> Path:
    """What --resume goes on from. Where nothing is begun it begins: ``args.resume`` is False from
    here on.
    """
    if not args.resume:
        return files[0]
    distributed.initialize(
        pick_device(args.device, args.gpu)
    )  # the processes take the first one's word for what is there
    source = distributed.on_main(lambda: _what_to_resume(args, files, runs))
    args.resume = source is not None
    return source or files[0]


def _what_to_resume(args: argparse.Namespace, files: list[Path], runs: bool) -> Path | None:
    if args.checkpoint is not None:
        require_file(args.checkpoint, "--checkpoint")
        return args.checkpoint
    there = begun(files)
    if not there:
        print(f"--resume: nothing in {args.save_dir} yet; beginning")
        return None
    if not is_resumable(there):
        keep = ways_to_keep_both(args, runs)
        raise UserError(
            f"--resume: {there[0]} exists, but no {files[0].name} to go on from; --overwrite starts"
            f" anew, {keep}"
        )
    return there[0]
