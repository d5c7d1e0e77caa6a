"""Step 2: masks of a forget set, and how far two of them agree."""

import math
import shlex
from pathlib import Path

from torch import nn

from masks.masks import (
    RATIOS,
    Mask,
    check_layers,
    density,
    layers_mask,
    listed_first,
    overlap,
    read_mask,
    top_masks,
)
from masks.scores import RATIO_ORDER, READ_RETAIN, SCORES
from models import blocks, parameters_of, skeleton
from recipe import Recipe
from runtime import distributed
from runtime.clock import Stopwatch, warn_of_standstill
from runtime.files import hash_arrays, load, load_json, lock, reading, save, save_json
from runtime.provenance import provenance
from stages.checkpoints import OTHER_FLAGS, RESTART, adopt, read_original
from stages.dry_run import say_files
from stages.file_names import MASK_RECORD, mask_name
from stages.requests import MaskRequest, recording
from stages.run_folder import name_unread, refuse_overwriting, settle_resume, with_folder
from stages.task import Task, check_request, open_task, set_up
from utils import UserError, first_difference


@recording
def make_masks(request: MaskRequest) -> dict | None:
    """Ten nested masks by ``score``, with_0.1.pt to with_1.0.pt; with ``layers`` an eleventh of
    exactly those layers. With ``compare`` only print how far two files agree.

    Returns:
        The record of the masks; None where none were asked for.
    """
    # The reference's commands give --unlearn_epochs to this step.
    name_unread(request, passed_over={"unlearn_epochs"})
    if request.compare is not None:
        compare_masks(*map(Path, request.compare))
        return None
    if request.model_path is None:
        raise UserError(
            "--model_path is missing: the masks of which model? give main_train's checkpoint"
        )
    original = read_original(request.model_path)
    request = adopt(request, original)
    check_request(request)
    if request.layers is not None:
        check_layers(request.layers, parameter_names(request))
    request = with_folder(request)
    folder = request.save_dir
    masks = [folder / mask_name(name) for name in (*RATIOS, "layers")]
    record_file = folder / MASK_RECORD
    files = [*masks, record_file]
    request, _ = settle_resume(request, files)
    refuse_overwriting(request, files)
    device, precision = set_up(request)
    recipe = Recipe(
        batch_size=request.batch_size,
        forget_batch_size=request.forget_batch_size,
        tail=request.tail,
        precision=precision,
    )
    task = open_task(request, original, device, recipe)
    if request.dry_run:
        say_files(files if request.layers else [*masks[:-1], record_file])
        return None
    with lock(folder, "mask", files):
        refuse_overwriting(request, files)  # another run may have finished since
        if request.resume and (done := distributed.on_main(lambda: finished(task, record_file))):
            print(f"finished already; {record_file} says")
            print_result_line(done)
            return done
        record = score_and_save(task, masks, record_file)
    warn_of_standstill(record["RTE"]["stopped"])
    half = shlex.quote(str(folder / mask_name(0.5)))
    count = len(record["masks"])
    print(f"{count} masks in {folder}; use them with main_random.py --mask_path {half}")
    print_result_line(record)
    return record


def print_result_line(record: dict) -> None:
    """The last line of standard output, for grep."""
    masks, seconds = len(record["masks"]), record["RTE"]["total"]
    print(f"RESULT method={record['score']} masks={masks} RTE={seconds:.1f}")


def score_and_save(task: Task, files: list[Path], record_file: Path) -> dict:
    """Make the masks, write each to its file, then their record, which is returned."""
    request, clock = task.request, Stopwatch(task.device)
    with clock:
        scores = SCORES[request.score](task.model, task.data)
        if request.layers is not None:
            scores = listed_first(scores, request.layers)
        masks = top_masks(scores)
    print_shares(masks, mask_rows(task.model, request.per_tensor))
    named = {mask_name(ratio): mask for ratio, mask in masks.items()}
    if request.layers is not None:
        named[mask_name("layers")] = layers_mask(task.model, request.layers)
    for file in files:
        if file.name in named:
            save(named[file.name], file)
        else:
            file.unlink(missing_ok=True)  # --overwrite leaves nothing of other masks
    record = mask_record(task, named, clock)
    save_json(record, record_file)
    return record


def parameter_names(request: MaskRequest) -> list[str]:
    """The names of the architecture's weights, which no data is needed for."""
    model = skeleton(request.arch, 2, imagenet_stem=request.imagenet_arch)
    return [name for name, _ in model.named_parameters()]


def mask_record(task: Task, masks: dict[str, Mask], clock: Stopwatch) -> dict:
    """mask_result.json: by what score the masks of these files were made, for which original model
    and which data.
    """
    request, data = task.request, task.data_record()
    if request.score not in READ_RETAIN:
        del data["retain"]  # the masks are the same whatever part of the retain set there is
    seconds, device = clock.seconds, task.device
    return {
        "schema": 1,
        "script": "generate_mask",
        "method": request.score,
        "label": "mask",
        "score": request.score,
        "layers": request.layers,
        "batch_size": request.batch_size,
        "batch_order": RATIO_ORDER if request.score == "ratio" else None,
        "metrics": {},
        "RTE": {"total": seconds, "mask": seconds, "stopped": clock.stopped},
        "data": data,
        "masks": {
            name: {"density": density(mask), "sha256": hash_arrays(mask)}
            for name, mask in masks.items()
        },
        "provenance": {
            **provenance(device, "fp32", {"seed": request.seed}),
            "original_sha256": task.original.sha256,
        },
    }


def finished(task: Task, record_file: Path) -> dict | None:
    """The record of --resume's folder where all of its masks are there; None where they are still
    to be made.

    Raises:
        UserError: the record is damaged, or of masks that this command does not make; the first
            difference is named.
    """
    if not record_file.is_file():
        return None
    record = load_json(record_file, "--resume: mask record")
    with reading(record_file, "--resume: mask record", RESTART):
        recorded = mask_identity(record)
        for name, value in mask_identity(mask_record(task, {}, Stopwatch(task.device))).items():
            if recorded[name] != value:
                raise UserError(
                    f"--resume: {record_file} was made with {name} {recorded[name]}, this command"
                    f" says {value}; {OTHER_FLAGS}"
                )
        for name, made in record["masks"].items():
            path = record_file.with_name(name)
            if not path.is_file():
                return None
            mask = read_mask(load(path, "--resume: mask"), str(path))
            if hash_arrays(mask) != made["sha256"]:
                return None
        record["RTE"]["total"] = float(record["RTE"]["total"])
        return record if {mask_name(ratio) for ratio in RATIOS} <= record["masks"].keys() else None


def mask_identity(record: dict) -> dict:
    """What of a mask's record decides about the masks."""
    data, made = record["data"], record["provenance"]
    identity = {
        "score": record["score"],
        "layers": list(record["layers"] or []),
        "original": made["original_sha256"],
        "arch": data["arch"],
    }
    identity |= {
        "data_sha256": data["data_sha256"],
        "forget": data["forget"]["sha256"],
        "retain": data.get("retain", {}).get("sha256"),
    }
    seed = {"seed": made["seed"]}
    drawn = {
        "random": seed,
        "ratio": {**seed, **{name: record.get(name) for name in ("batch_order", "batch_size")}},
    }
    return identity | drawn.get(record["score"], {})


def mask_rows(model: nn.Module, per_tensor: bool) -> dict[str, list[str]]:
    """The rows of the table of shares: parameters by block, or each by itself."""
    names = [name for name, _ in model.named_parameters()]
    if per_tensor:
        return {name: [name] for name in names}
    rows = {}
    for group in blocks(model):
        inside = parameters_of(model, group)
        rows[" + ".join(group)] = [name for name in names if name in inside]
    return rows


def print_shares(masks: dict[float, Mask], rows: dict[str, list[str]]) -> None:
    """What share of the weights may change, in percent, per row and mask."""
    width = max(map(len, [*rows, "% that may change"]))
    print(
        f"{'% that may change':{width}} {'weights':>9}  "
        + " ".join(f"{ratio:>5}" for ratio in masks)
    )
    for title, names in rows.items():
        weights = sum(masks[RATIOS[0]][name].numel() for name in names)
        shares = " ".join(
            f"{100 * density({name: mask[name] for name in names}):5.1f}" for mask in masks.values()
        )
        print(f"{title:{width}} {weights:>9}  {shares}")


def compare_masks(*files: Path) -> None:
    """How far two mask files agree, layer by layer and in total, beside what two random masks of
    their densities would.
    """
    a, b = (read_mask(load(file, "--compare"), str(file)) for file in files)
    shapes = [{name: tuple(value.shape) for name, value in mask.items()} for mask in (a, b)]
    if shapes[0] != shapes[1]:
        name = first_difference(*shapes)
        theirs = " and ".join(
            f"{shape.get(name, 'missing')} in {file}"
            for shape, file in zip(shapes, files, strict=True)
        )
        raise UserError(
            f"--compare: the masks do not fit each other: {name} is {theirs}; give two masks of one"
            " architecture"
        )
    if not sum(value.numel() for value in a.values()):
        raise UserError(f"--compare {files[0]}: a mask without weights")
    rows = {name: overlap([a[name]], [b[name]]) for name in a}
    total = rows["in total"] = overlap(a.values(), (b[name] for name in a))
    width = max(map(len, rows))
    print(
        f"A {files[0]}\nB {files[1]}\n{'':{width}} {'weights':>9} {'% in A':>7} {'% in B':>7}"
        f" {'Jaccard':>8} {'if random':>10}"
    )
    for name, row in rows.items():
        print(
            f"{name:{width}} {row.weights:>9} {100 * row.share_a:7.1f} {100 * row.share_b:7.1f}"
            f" {row.jaccard:8.3f} {row.expected:10.3f}"
        )
    print("Jaccard: weights in both masks over weights in either; nan where both are empty")
    values = {"jaccard": total.jaccard, "expected": total.expected}
    shown = "".join(f" {name}={x:.4f}" for name, x in values.items() if math.isfinite(x))
    print(f"RESULT method=compare{shown}")
