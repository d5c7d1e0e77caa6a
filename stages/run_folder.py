"""Where a stage writes: names of files, what is there already, what --resume goes on from."""

import dataclasses
import itertools
import os
import shlex
from collections.abc import Set
from pathlib import Path

from runtime import distributed
from runtime.devices import pick_device
from runtime.files import is_writable, require_file
from stages.file_names import (
    BEST,
    CHECKPOINT,
    CURVE,
    FORGOTTEN,
    MASK_RECORD,
    REFERENCE_RESULT,
    RESULT,
)
from stages.requests import (
    OF_METHODS,
    AnyRequest,
    MaskRequest,
    Request,
    TrainRequest,
    UnlearnRequest,
)
from utils import UserError, warn

# What an unlearning run writes, after its stem.
PARTS = (CHECKPOINT, REFERENCE_RESULT, RESULT, CURVE, FORGOTTEN)


def fields_of(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def name_unread(request: Request, passed_over: Set[str] = frozenset()) -> None:
    """One warning for what was typed and belongs to another step."""
    steps = (TrainRequest, MaskRequest, UnlearnRequest)
    every = OF_METHODS.union(*map(fields_of, steps))
    read = fields_of(type(request)) | passed_over
    if not isinstance(request, TrainRequest):
        read -= {"checkpoint"}  # they go on from what is in --save_dir
    if unread := sorted(every & request.typed - read):
        warn(f"{request.script} does not read {', '.join('--' + name for name in unread)}")


def with_folder(request: AnyRequest) -> AnyRequest:
    """The request with its --save_dir, or with a default that is printed."""
    if request.save_dir is not None:
        return request
    folder = Path("runs") / f"{request.dataset}_{request.arch}"
    print(f"--save_dir {folder}")
    return request.replace(save_dir=folder)


def stem_of(request: UnlearnRequest, run: str | None) -> str:
    """What the names of an unlearning run's files begin with."""
    return f"{run}.{request.unlearn}" if run else request.unlearn


def free_run(request: UnlearnRequest) -> str:
    """A --run of this method that --save_dir has no file of."""
    for number in itertools.count(1):
        run = f"s{request.seed}" + (f"_{number}" if number > 1 else "")
        if not any(
            os.path.lexists(request.save_dir / f"{stem_of(request, run)}{part}") for part in PARTS
        ):
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


def ways_to_keep_both(request: Request) -> str:
    """The flags that leave what is in --save_dir alone."""
    elsewhere = f"--save_dir {shlex.quote(str(free_folder(request.save_dir)))}"
    # torchrun takes --run for a flag of its own where no -- stands before the script.
    if not isinstance(request, UnlearnRequest) or distributed.world_size() > 1:
        return f"{elsewhere} keeps both"
    return f"--run {free_run(request)} keeps both, or {elsewhere}"


def refuse_overwriting(request: Request, files: list[Path]) -> None:
    """A result that exists is only replaced when asked to; a folder that cannot be written is
    refused before any work.
    """
    distributed.on_main(lambda: _refuse_overwriting(request, files))


def _refuse_overwriting(request: Request, files: list[Path]) -> None:
    if not is_writable(files[0].parent):
        raise UserError(f"--save_dir {request.save_dir} cannot be written")
    there = begun(files)
    if there and not (request.overwrite or request.resume):
        resume = "--resume goes on from it, " if is_resumable(there) else ""
        keep = ways_to_keep_both(request)
        raise UserError(f"{there[0]} exists; {resume}--overwrite replaces it, {keep}")


def begun(files: list[Path]) -> list[Path]:
    """Those of a run's files that are there, checkpoint first. A curve alone says nothing: it is
    written before the first checkpoint.
    """
    return [file for file in files if not file.name.endswith(CURVE) and os.path.exists(file)]


def is_resumable(there: list[Path]) -> bool:
    """Whether --resume goes on from the first of a run's files that are there: a checkpoint, or
    masks.

    Or training's best model, if it is alone: it holds the same, and after the first epoch it is
    written before the checkpoint.
    """
    names = [file.name for file in there]
    return names[0].endswith((CHECKPOINT, ".pt", MASK_RECORD)) or names == [BEST]


def settle_resume(request: AnyRequest, files: list[Path]) -> tuple[AnyRequest, Path]:
    """What --resume goes on from. Where nothing is begun it begins: the request then has no
    ``resume``.
    """
    if not request.resume:
        return request, files[0]
    # All ranks take rank 0's word for what is there.
    distributed.initialize(pick_device(request.device, request.gpu))
    source = distributed.on_main(lambda: _what_to_resume(request, files))
    return request.replace(resume=source is not None), source or files[0]


def _what_to_resume(request: Request, files: list[Path]) -> Path | None:
    if request.checkpoint is not None:
        require_file(request.checkpoint, "--checkpoint")
        if isinstance(request, TrainRequest):
            return request.checkpoint
    there = begun(files)
    if not there and request.checkpoint is not None:
        raise UserError(
            f"--checkpoint {request.checkpoint}: this step goes on only from what is in --save_dir,"
            f" and {request.save_dir} holds nothing yet; give the folder of the run, or drop"
            " --checkpoint to begin"
        )
    if not there:
        print(f"--resume: nothing in {request.save_dir} yet; beginning")
        return None
    if not is_resumable(there):
        raise UserError(
            f"--resume: {there[0]} exists, but no {files[0].name} to go on from; --overwrite starts"
            f" anew, {ways_to_keep_both(request)}"
        )
    return there[0]
