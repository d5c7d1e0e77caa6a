"""State dictionaries as other tools save them: wrapped, prefixed, without some buffers of ours."""

from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor

from utils import first_difference

# Where training scripts keep the weights, and what wrappers of a model put before its names.
WRAPPERS = ("state_dict", "model", "net", "model_state_dict")
PREFIXES = ("module.", "_orig_mod.", "model.")
NORMALISATION = ("normalize.mean", "normalize.std")


class Misfit(Exception):
    """The first difference between a file's weights and a model's."""


def weights_in(content: object) -> dict[str, Mapping[str, Tensor]]:
    """The state dictionaries that a file holds by where they stand: bare (""), in one of
    ``WRAPPERS``, or in one inside another (``model.state_dict``).
    """
    if _is_state_dict(content):
        return {"": content}
    if not isinstance(content, Mapping):
        return {}
    inside = [(name, content[name]) for name in WRAPPERS if name in content]
    found = {name: value for name, value in inside if _is_state_dict(value)}
    if not found:
        found = {
            f"{name}.{deeper}": value[deeper]
            for name, value in inside
            if isinstance(value, Mapping)
            for deeper in WRAPPERS
            if _is_state_dict(value.get(deeper))
        }
    return found


def _is_state_dict(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(map(_is_weight, value.items()))


def _is_weight(item: tuple) -> bool:
    name, value = item
    return (
        isinstance(name, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and not value.is_complex()
    )


def fitted(
    weights: Mapping[str, Tensor], wanted: Mapping[str, Tensor], head: Collection[str] = ()
) -> tuple[dict[str, Tensor], bool]:
    """``weights`` under the names of a model whose own state is ``wanted``, and whether its
    normalisation was taken from there.

    Prefixes that all names share are taken off. BatchNorm's count of batches, which is not read in
    evaluation nor under a momentum, and a missing normalisation are the model's own, and so are all
    tensors of ``head`` where one of them is missing or of another shape.

    Raises:
        Misfit: names or shapes differ.
    """
    candidates = list(_without_prefixes(weights))
    found = max(candidates, key=lambda named: len(named.keys() & wanted.keys()))
    missing = wanted.keys() - found.keys()
    unnormalised = missing.issuperset(NORMALISATION)
    own = {name for name in missing if name.endswith(".num_batches_tracked")}
    own |= set(NORMALISATION) if unnormalised else set()
    if any(name not in found or found[name].shape != wanted[name].shape for name in head):
        own |= set(head)
    found |= {name: wanted[name] for name in own}
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    model_shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    if shapes != model_shapes:
        name = first_difference(model_shapes, shapes)
        raise Misfit(
            f"{name} is {shapes.get(name, 'missing')} in the file and"
            f" {model_shapes.get(name, 'missing')} in the model"
        )
    return {name: found[name] for name in wanted}, unnormalised


def normalisation_words(weights: Mapping[str, Tensor]) -> str:
    """The mean and the deviation that a model normalises by."""
    mean, std = (" ".join(f"{x:.4g}" for x in weights[name].tolist()) for name in NORMALISATION)
    return f"mean {mean}, std {std}"


def _without_prefixes(weights: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """``weights`` as they are, then without one more prefix after the other."""
    named = dict(weights)
    while True:
        yield named
        shared = [p for p in PREFIXES if all(name.startswith(p) for name in named)]
        if not shared:
            return
        named = {name.removeprefix(shared[0]): value for name, value in named.items()}
