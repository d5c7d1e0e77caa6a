"""The convolutions of a model, for methods that disturb these alone."""

from torch import nn

from utils import UserError


def convolutions(model: nn.Module, label: str) -> dict[str, nn.Conv2d]:
    """{name: convolution} in the order of the modules, which is that of their use.

    Raises:
        UserError: there is none; ``label`` is the method that asks.
    """
    layers = model.named_modules()
    found = {name: layer for name, layer in layers if isinstance(layer, nn.Conv2d)}
    if not found:
        raise UserError(
            f"{label} changes convolutions, and this model has none; take a method that does not,"
            " such as FT"
        )
    return found
