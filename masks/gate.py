"""The gate: frozen weights keep their values bit for bit."""

import torch
from torch import Tensor, nn

from masks.masks import Mask


class SaliencyGate:
    """Keeps every frozen weight bit for bit at the original's, or where an ungated step moved it.

    The parameters are moved into one flat buffer that they view, so that :meth:`restore` is one
    ``where`` over contiguous memory and needs neither a loop over tensors nor a word from the
    device. Elementwise optimizers treat the weights that may change exactly as without a gate, so
    an all-True mask changes nothing. BatchNorm statistics are buffers, not weights: see ``--bn``.
    """

    def __init__(self, model: nn.Module, mask: Mask):
        """``model`` holds the original weights; ``mask`` comes from :func:`check_mask`."""
        named = dict(model.named_parameters())
        sizes = [parameter.numel() for parameter in named.values()]
        first = next(iter(named.values()))
        self.flat = torch.empty(sum(sizes), dtype=first.dtype, device=first.device)
        self.mask = torch.empty_like(self.flat, dtype=torch.bool)
        self.kept = torch.empty_like(self.flat)
        self.frozen_grads = []
        offset = 0
        for (name, parameter), size in zip(named.items(), sizes, strict=True):
            # Strides are kept: a channels_last weight stays channels_last inside the buffer.
            def view(buffer: Tensor, like: Tensor = parameter, offset: int = offset) -> Tensor:
                return buffer.as_strided(like.shape, like.stride(), offset)

            view(self.mask).copy_(mask[name])
            view(self.kept).copy_(parameter.detach())
            view(self.flat).copy_(parameter.detach())
            parameter.data = view(self.flat)
            self.frozen_grads.append((parameter, ~view(self.mask)))
            offset += size

    @torch.no_grad()
    def restore(self) -> None:
        """Put the frozen weights back; call after every update."""
        torch.where(self.mask, self.flat, self.kept, out=self.flat)

    @torch.no_grad()
    def keep_current(self) -> None:
        """Take the weights as they are now for those to keep."""
        self.kept.copy_(self.flat)

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Zero the frozen weights' gradients, which a clip by global norm must not count."""
        for parameter, frozen in self.frozen_grads:
            if parameter.grad is not None:
                parameter.grad.masked_fill_(frozen, 0)
