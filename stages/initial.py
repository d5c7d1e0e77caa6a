"""``--init``: weights of a file that training begins with, the original's and Retrain's."""

from pathlib import Path
from typing import NamedTuple

from torch import Tensor, nn

from models.structure import classifier, parameters_of
from runtime.files import hash_arrays
from stages.checkpoints import Original, not_finite, read_checkpoint
from stages.requests import LoopRequest
from stages.state_dicts import Misfit, fitted, normalisation_words
from utils import UserError


class Initial(NamedTuple):
    """The weights of a file, and their hash."""

    path: Path
    weights: dict[str, Tensor]
    sha256: str


def read_initial(request: LoopRequest, original: Original | None = None) -> Initial | None:
    """What ``--init`` names; None where the request has none.

    Raises:
        UserError: the file holds no weights, or, where it was not typed, others than those that the
            original began with.
    """
    if request.init is None:
        return None
    weights = read_checkpoint(request.init, "--init")["state_dict"]
    if bad := not_finite(weights):
        raise UserError(f"--init {request.init}: {bad} holds values that are not finite")
    sha256 = hash_arrays(weights)
    began = original.recipe.get("init_sha256", "") if original else ""
    if original and "init" not in request.typed and began != sha256:
        raise UserError(
            f"--init {request.init}: {original.path} began with other weights than this file holds"
            " now; give the file it began with by --init"
        )
    return Initial(request.init, weights, sha256)


def give_initial(model: nn.Module, initial: Initial, arch: str) -> None:
    """Let ``model.initial``, which :func:`models.begin` loads, be what of the file fits; says what
    of the model is not from the file.

    Raises:
        UserError: the file is of another architecture; the first difference is named.
    """
    own, head = model.state_dict(), classifier(model)
    try:
        weights, unnormalised = fitted(
            initial.weights, own, sorted(parameters_of(model, [head.name]))
        )
    except Misfit as error:
        raise UserError(
            f"--init {initial.path} does not fit --arch {arch}: {error}; give the --arch and the"
            " --input_size it was made for"
        ) from None
    model.initial = {name: value for name, value in weights.items() if value is not own[name]}
    print(f"--init {initial.path}: {len(model.initial)} of {len(own)} tensors are from the file")
    if f"{head.name}.weight" not in model.initial:
        classes = len(head.layer.weight)
        print(f"--init: the classifier {head.name} is made anew, for {classes} classes")
    if unnormalised:
        print(
            f"--init: the file holds no normalisation: images are normalised by"
            f" {normalisation_words(weights)}; --mean and --std give others"
        )
