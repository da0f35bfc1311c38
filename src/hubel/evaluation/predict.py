"""The one way from stored images to logits, the same in training, evaluation and serving."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from hubel.dataset.pack import Images
from hubel.dataset.tensors import normalise, to_tensor
from hubel.errors import UsageError
from hubel.nn.hooks import evaluating
from hubel.records import Preprocess

AT_ONCE, ON_PROCESSOR = 2**27, 2**22  # numbers of a batch, at most: a network's first layers make 30 times as many


def predict(
    model: nn.Module,
    images: Images,
    preprocess: Preprocess,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """(N, H, W, C) uint8 images, in memory or not → (N, K) float32 logits on the CPU, in the same order.

    The model runs in eval mode, and every module gets its train flag back. Batches are always cut the same way and
    nothing is autocast unless asked for, so that another process with the same settings gets the same bits.

    Args:
        preprocess: what the model was trained with; the images have its size and channels already.
        device: where the model's weights are.
        autocast: compute in this type where torch thinks it safe, such as ``torch.bfloat16``.
        progress: called with the number of images done, after each batch.

    Raises:
        UsageError: no images, an impossible batch size, or a model that doesn't return (N, K).
    """
    if len(images) == 0 or batch_size < 1:
        raise UsageError(f"nothing to predict: got {len(images)} images in batches of {batch_size}.")
    target = torch.device(device)
    most = ON_PROCESSOR if target.type == "cpu" else AT_ONCE
    batch_size = min(batch_size, max(most // math.prod(images.shape[1:]), 1))
    layout = torch.channels_last if is_channels_last(model) else torch.contiguous_format
    precision = nullcontext() if autocast is None else torch.autocast(target.type, autocast)
    logits: list[Tensor] = []
    with evaluating(model), torch.inference_mode(), precision:
        for start in range(0, len(images), batch_size):
            batch = normalise(to_tensor(images[start : start + batch_size]).to(target), preprocess)
            answer = model(batch.contiguous(memory_format=layout))
            if not isinstance(answer, Tensor) or answer.ndim != 2 or len(answer) != len(batch):
                got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
                raise UsageError(f"the model must return logits (N, K) for {len(batch)} images, but returned {got}.")
            logits.append(answer.float().cpu())
            if progress is not None:
                progress(start + len(batch))
    return torch.cat(logits)


def is_channels_last(model: nn.Module) -> bool:
    """Whether the convolution weights lie in channels-last order (where the two orders differ at all)."""
    filters = [p for p in model.parameters() if p.ndim == 4 and not p.is_contiguous()]
    return any(p.is_contiguous(memory_format=torch.channels_last) for p in filters)
