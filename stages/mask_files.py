"""Mask files as a run reads them, with what their record says of them."""

import dataclasses
from pathlib import Path

from masks.masks import Mask, check_mask, density
from masks.scores import SCORES
from runtime.files import hash_arrays, load_json, reading, require_file
from stages.file_names import MASK_RECORD, mask_name
from stages.requests import UnlearnRequest
from stages.task import Task
from utils import UserError, warn


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
        """What a result says of its mask: densities in [0, 1], also by layer, and how many weights
        each layer has.
        """
        layers = {name: density({name: value}) for name, value in self.mask.items()}
        return {
            "path": str(self.path),
            "density": self.density,
            "score": self.score,
            "layers": layers,
            "weights": {name: value.numel() for name, value in self.mask.items()},
        }


def mask_file(request: UnlearnRequest) -> Path | None:
    """The file that --mask_path and --mask_ratio name."""
    path, ratio = request.mask_path, request.mask_ratio
    if path is None:
        return None
    if path.is_dir():
        names = sorted(file.stem.removeprefix("with_") for file in path.glob("with_[0-9]*.pt"))
        available = ", ".join(names) or "no masks"
        if ratio is None:
            raise UserError(
                f"--mask_path {path} is a folder; add --mask_ratio (it holds {available})"
            )
        path = path / mask_name(ratio)
        if not path.is_file():
            raise UserError(f"--mask_ratio {ratio}: no {path}; its folder holds {available}")
    elif ratio is not None and path.is_file():
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
    record_file = path.with_name(MASK_RECORD)
    named = None
    if record_file.is_file():
        record = load_json(record_file, "mask record")
        remedy = "make the masks again with generate_mask.py, or move it away"
        with reading(record_file, "mask record", remedy):
            named = record["masks"].get(path.name, {}).get("sha256")
            if named == sha256:
                made_for = inputs_of(record)
                seconds, score = float(record["RTE"]["mask"]), recorded_score(record)
    if named is None:
        warn(
            f"mask {path} has no record of its model and forget set; it is used as it is, and its"
            " cost counts as 0"
        )
    elif named != sha256:
        raise UserError(
            f"mask {path} is not the one that {record_file} describes; make the masks again with"
            " generate_mask.py --overwrite"
        )
    else:
        check_inputs(path, made_for, task)
    return LoadedMask(mask, path, sha256, density(mask), seconds, score)


def inputs_of(record: dict) -> dict[str, str]:
    """Hashes of what the masks of a record were made for, by what each of them is."""
    data = record["data"]
    inputs = {
        "original model": str(record["provenance"]["original_sha256"]),
        "forget set": str(data["forget"]["sha256"]),
    }
    if "retain" in data:
        inputs["part of the retain set"] = str(data["retain"]["sha256"])
    return inputs


def check_inputs(path: Path, made_for: dict[str, str], task: Task) -> None:
    """Refuse a mask that was made for another model or other images than the task's."""
    ours = {
        "original model": task.original.sha256,
        "forget set": task.chosen.sha256(),
        "part of the retain set": task.retain_sha256(),
    }
    for what, sha256 in made_for.items():
        if sha256 != ours[what]:
            raise UserError(
                f"mask {path} belongs to {what} {sha256[:12]}, this run has {ours[what][:12]};"
                " make its masks with generate_mask.py"
            )


def recorded_score(record: dict) -> str:
    """The score in a mask's record, with the layers of a layer mask: what sets its runs apart from
    SalUn's.
    """
    score = record.get("score", "saliency")  # records without one were all made by saliency
    if score not in SCORES:
        raise ValueError(f"score is {score!r}")
    return f"{score}:{','.join(record['layers'])}" if score == "layers" else score
