"""What is kept of a model once its weights are gone: the rounded original, and other models'
outputs for evaluate.py.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.gpu.archive import rounded
from runtime.files import hash_arrays, load, load_json, save, save_json
from stages.outputs import Subject
from stages.requests import AuditRequest
from stages.saved import Saved, read_saved

# Of a checkpoint, what later steps read.
OF_CHECKPOINT = (
    "arguments",
    "identity",
    "split",
    "forget",
    "retain",
    "label",
    "select",
    "best_sa",
    "epoch",
    "epochs",
    "seconds",
)


def keep_original(folder: Path) -> dict[str, object]:
    """Write ``folder/rounded.pth.tar``, the best model with its weights rounded to fp16; says how
    far that moved them.
    """
    content = load(folder / "0model_SA_best.pth.tar", "original")
    weights = rounded(content["state_dict"])
    moved = max(
        float((weights[name] - value).abs().max())
        for name, value in content["state_dict"].items()
        if value.is_floating_point()
    )
    before = hash_arrays(content["state_dict"])
    short = {name: content[name] for name in OF_CHECKPOINT if name in content}
    save({**short, "state_dict": weights, "rounded_from": before}, folder / "rounded.pth.tar")
    return {
        "rounded_from": before[:12],
        "sha256": hash_arrays(weights)[:12],
        "largest_change": moved,
    }


def keep_outputs(subject: Subject, checkpoint: Path, role: str, folder: Path) -> int:
    """Keep in ``folder`` what evaluate.py reads of a model: its outputs, and a checkpoint with the
    hash of its weights in their place.

    Returns:
        How many files of outputs there are.
    """
    content, saved = load(checkpoint, "checkpoint"), read_saved(checkpoint, role)
    subject.check(saved)
    stub = folder / checkpoint.name
    short = {name: content[name] for name in OF_CHECKPOINT if name in content}
    digest = torch.frombuffer(bytearray.fromhex(saved.sha256), dtype=torch.uint8)
    save({**short, "state_dict": {"sha256": digest}}, stub)
    # Outputs are filed under the hash of the stub's contents, so that evaluate.py finds them beside
    # the stub.
    return outputs_of(
        subject, dataclasses.replace(saved, path=stub, sha256=read_saved(stub, role).sha256)
    )


def outputs_of(subject: Subject, saved: Saved) -> int:
    """Logits on every split and the relearning curve, beside the model's file as evaluate.py's
    defaults ask for them.
    """
    found = subject.outputs(saved)
    flags = AuditRequest(models=())
    subject.relearn(
        saved, steps=flags.relearn_steps, lr=flags.relearn_lr, seeds=flags.relearn_seeds
    )
    return len(found) + 1


def name_true_weights(audit: Path, stubs: Sequence[Path]) -> None:
    """Put into audit.json the hashes of the models' weights in the place of those of the stubs."""
    true = {}
    for stub in stubs:
        digest = load(stub, "checkpoint")["state_dict"]["sha256"]
        true[read_saved(stub, "models").sha256] = bytes(digest.tolist()).hex()
    content = load_json(audit, "audit")
    for model in content["models"]:
        model["weights_sha256"] = true.get(model["weights_sha256"], model["weights_sha256"])
    save_json(content, audit)
