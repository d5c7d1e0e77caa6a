"""Step 2: masks of a forget set, and how far two of them agree."""

import argparse
import dataclasses
from pathlib import Path

import torch
from torch import nn

from masks.masks import (
    RATIOS,
    Mask,
    check_layers,
    check_mask,
    density,
    layers_mask,
    listed_first,
    overlap,
    read_mask,
    top_masks,
)
from masks.scores import RATIO_ORDER, READ_RETAIN, SCORES
from models import blocks, build_model
from runtime import distributed
from runtime.clock import Stopwatch, warn_of_standstill
from runtime.files import hash_arrays, load, load_json, lock, reading, require_file, save, save_json
from runtime.provenance import provenance
from stages.checkpoints import OTHER_FLAGS, RESTART, adopt, read_original
from stages.run_folder import folder_of, name_unread, refuse_overwriting, settle_resume
from stages.task import Task, check_request, open_task
from utils import UserError, warn


def make_masks(args: argparse.Namespace) -> None:
    """Step 2: ten nested masks by --score, with_0.1.pt to with_1.0.pt; with --layers an eleventh of
    exactly those layers.
    """
    name_unread(args, "generate_mask", ("run",))
    if args.compare is not None:
        return compare_masks(*map(Path, args.compare))
    if args.model_path is None:
        raise UserError(
            "--model_path is missing: the masks of which model? give main_train's checkpoint"
        )
    original = read_original(args.model_path)
    adopt(args, original)
    check_request(args)
    if args.layers is not None:
        check_layers(args.layers, parameter_names(args))
    folder = folder_of(args)
    files = [folder / f"with_{name}.pt" for name in (*RATIOS, "layers")]
    record_file = folder / "mask_result.json"
    settle_resume(args, [*files, record_file])
    refuse_overwriting(args, [*files, record_file])
    task = open_task(args, original)
    if args.dry_run:
        return
    with lock(folder, "mask", [*files, record_file]):
        refuse_overwriting(args, [*files, record_file])  # another run may have finished since
        if args.resume and (
            done := distributed.on_main(lambda: finished_masks(args, task, record_file))
        ):
            print(f"finished already; {record_file} says")
            print(
                f"RESULT method={args.score} masks={len(done['masks'])}"
                f" RTE={done['RTE']['total']:.1f}"
            )
            return
        clock = Stopwatch(task.device)
        with clock:
            scores = SCORES[args.score](task.model, task.data)
            masks = top_masks(scores if args.layers is None else listed_first(scores, args.layers))
        print_shares(masks, mask_rows(task.model, args.per_tensor))
        named = {f"with_{ratio}.pt": mask for ratio, mask in masks.items()}
        if args.layers is not None:
            named["with_layers.pt"] = layers_mask(task.model, args.layers)
        for file in files:
            if file.name in named:
                save(named[file.name], file)
            else:
                file.unlink(missing_ok=True)  # --overwrite leaves nothing of other masks
        save_json(mask_record(args, task, named, clock), record_file)
    warn_of_standstill(clock.stopped)
    print(
        f"{len(named)} masks in {folder}; use them with main_random.py --mask_path"
        f" {folder / 'with_0.5.pt'}"
    )
    print(f"RESULT method={args.score} masks={len(named)} RTE={clock.seconds:.1f}")


def parameter_names(args: argparse.Namespace) -> list[str]:
    """The names of the architecture's weights, which no data is needed for."""
    with torch.device("meta"):
        model = build_model(args.arch, 2, (0.0,) * 3, (1.0,) * 3, imagenet_stem=args.imagenet_arch)
    return [name for name, _ in model.named_parameters()]


def mask_record(
    args: argparse.Namespace, task: Task, masks: dict[str, Mask], clock: Stopwatch
) -> dict:
    """mask_result.json: by what score the masks of these files were made, for which original model
    and which data.
    """
    data = task.data_record(args)
    if args.score not in READ_RETAIN:
        del data["retain"]  # the masks are the same whatever part of the retain set there is
    return {
        "schema": 1,
        "script": "generate_mask",
        "method": args.score,
        "label": "mask",
        "score": args.score,
        "layers": args.layers,
        "batch_size": args.batch_size,
        "batch_order": RATIO_ORDER if args.score == "ratio" else None,
        "metrics": {},
        "RTE": {"total": clock.seconds, "mask": clock.seconds, "stopped": clock.stopped},
        "data": data,
        "masks": {
            name: {"density": density(mask), "sha256": hash_arrays(mask)}
            for name, mask in masks.items()
        },
        "provenance": {
            **provenance(task.device, "fp32", {"seed": args.seed}),
            "original_sha256": task.original.sha256,
        },
    }


def finished_masks(args: argparse.Namespace, task: Task, record_file: Path) -> dict | None:
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
        theirs, ours = (
            mask_identity(made)
            for made in (record, mask_record(args, task, {}, Stopwatch(task.device)))
        )
        for name, value in ours.items():
            if theirs[name] != value:
                raise UserError(
                    f"--resume: {record_file} was made with {name} {theirs[name]}, this command"
                    f" says {value}; {OTHER_FLAGS}"
                )
        found = {name: record_file.with_name(name) for name in record["masks"]}
        whole = all(
            path.is_file()
            and hash_arrays(read_mask(load(path, "--resume: mask"), str(path)))
            == record["masks"][name]["sha256"]
            for name, path in found.items()
        )
        record["RTE"]["total"] = float(record["RTE"]["total"])
        return (
            record if whole and {f"with_{ratio}.pt" for ratio in RATIOS} <= found.keys() else None
        )


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
    """The rows of the table of shares: parameters by block, those outside of every block by
    themselves, or each by itself.
    """
    names = [name for name, _ in model.named_parameters()]
    if per_tensor:
        return {name: [name] for name in names}
    rows = {
        " + ".join(group): [
            name for name in names if any(name.startswith(f"{part}.") for part in group)
        ]
        for group in blocks(model)
    }
    inside = {name for group in rows.values() for name in group}
    return {name: [name] for name in names if name not in inside} | rows


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
        name = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))[0][0]
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
    print(f"RESULT method=compare jaccard={total.jaccard:.4f} expected={total.expected:.4f}")


@dataclasses.dataclass(frozen=True)
class LoadedMask:
    """A mask, where it came from, how dense it is, what it cost to make (0 where no record says)
    and by what it was scored.

    ``score`` is a key of SCORES, with the layers of a layer mask; None where no record says.
    """

    mask: Mask
    path: Path
    sha256: str
    density: float
    seconds: float
    score: str | None

    def identity(self) -> dict:
        """What a checkpoint says of its mask, so that it can be made again for other models without
        its file.
        """
        return {
            "file": self.path.name,
            "sha256": self.sha256,
            "density": self.density,
            "score": self.score,
        }

    def record(self) -> dict:
        """What a result says of its mask; densities in [0, 1], also by layer."""
        layers = {name: density({name: value}) for name, value in self.mask.items()}
        return {
            "path": str(self.path),
            "density": self.density,
            "score": self.score,
            "layers": layers,
        }


def mask_file(args: argparse.Namespace) -> Path | None:
    """The file that --mask_path and --mask_ratio name."""
    path = args.mask_path
    if path is None:
        return None
    if path.is_dir():
        available = sorted(file.stem.removeprefix("with_") for file in path.glob("with_[0-9]*.pt"))
        if args.mask_ratio is None:
            raise UserError(
                f"--mask_path {path} is a folder; add --mask_ratio (it holds"
                f" {', '.join(available) or 'no masks'})"
            )
        path = path / f"with_{args.mask_ratio}.pt"
        if not path.is_file():
            raise UserError(
                f"--mask_ratio {args.mask_ratio}: no {path}; its folder holds"
                f" {', '.join(available) or 'no masks'}"
            )
    elif args.mask_ratio is not None and path.is_file():
        raise UserError(
            f"--mask_path {path} is a file already; drop --mask_ratio or give the folder"
        )
    require_file(path, "--mask_path")
    return path


def own_mask(content: object, path: Path, task: Task) -> LoadedMask:
    """Check what a mask file held; its record, if there is one, must name this original model and
    this forget set.
    """
    mask = check_mask(content, task.model, str(path))
    sha256, seconds, score = hash_arrays(mask), 0.0, None
    record_file = path.with_name("mask_result.json")
    record = load_json(record_file, "mask record") if record_file.is_file() else {}
    with reading(
        record_file, "mask record", "make the masks again with generate_mask.py, or move it away"
    ):
        named = record["masks"].get(path.name, {}).get("sha256") if record_file.is_file() else None
        belongs = named == sha256
        if belongs:
            data = record["data"]
            theirs = {
                "original model": str(record["provenance"]["original_sha256"]),
                "forget set": str(data["forget"]["sha256"]),
            }
            if "retain" in data:
                theirs["part of the retain set"] = str(data["retain"]["sha256"])
            seconds, score = float(record["RTE"]["mask"]), recorded_score(record)
    if not belongs and named is not None:
        raise UserError(
            f"mask {path} is not the one that {record_file} describes; make the masks again with"
            " generate_mask.py --overwrite"
        )
    if belongs:
        ours = {
            "original model": task.original.sha256,
            "forget set": task.chosen.sha256(),
            "part of the retain set": task.retain_sha256(),
        }
        for what, made_for in theirs.items():
            if made_for != ours[what]:
                raise UserError(
                    f"mask {path} belongs to {what} {made_for[:12]}, this run has"
                    f" {ours[what][:12]}; make its masks with generate_mask.py"
                )
    else:
        warn(
            f"mask {path} has no record of its model and forget set; it is used as it is, and its"
            " cost counts as 0"
        )
    return LoadedMask(mask, path, sha256, density(mask), seconds, score)


def recorded_score(record: dict) -> str:
    """The score in a mask's record, with the layers of a layer mask: what sets its runs apart from
    SalUn's.
    """
    score = record.get("score", "saliency")  # records without one were all made by saliency
    if score not in SCORES:
        raise ValueError(f"score is {score!r}")
    return f"{score}:{','.join(record['layers'])}" if score == "layers" else score
