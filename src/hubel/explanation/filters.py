"""The filters of a network's first convolution, which look at pixels and can therefore be shown as pictures."""

from __future__ import annotations

from torch import Tensor, nn


def first_filters(model: nn.Module) -> tuple[str, Tensor] | None:
    """Return the name and a copy of the weights (F, C, k, k) float32 of the first convolution, None if there is none.

    >>> first_filters(nn.Sequential(nn.Conv2d(3, 16, 5)))[1].shape
    torch.Size([16, 3, 5, 5])
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            return name, module.weight.detach().float().cpu().contiguous().clone()
    return None
