"""What becomes of a class as the places that a map points at are taken out of the image, or put into an empty one.

Sources: Petsiuk et al. 2018, "RISE: Randomized Input Sampling for Explanation of Black-box Models" (deletion and
insertion); Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods" (ROAD).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.hooks import evaluating

SHARES = (1 / 3, 2 / 3)  # of the places, between none and all
ROAD_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
NOISE = 0.01  # standard deviation, as published
BATCH = 32  # pictures forwarded together


def remove(
    model: nn.Module,
    image: Tensor,
    maps: Tensor,
    target: int,
    *,
    empty: Tensor | None = None,
    shares: Sequence[float] = SHARES,
) -> tuple[Tensor, Tensor]:
    """Return deletion and insertion, each (M, S + 2) log-odds of the class at the shares 0, `shares` and 1.

    Deletion takes places out of the image, the brightest of a map first; insertion puts them into the empty one. Of
    equally bright places the upper left goes first.

    Args:
        image: (C, H, W) float32, normalised, on the model's device. maps: (M, H, W).
        empty: (C, H, W) what takes their place; None is the image's mean colour.
    """
    empty = image.mean(dim=(1, 2), keepdim=True) if empty is None else empty
    chosen = brightest(maps.to(image.device), shares)[:, :, None]
    pictures = torch.cat([torch.where(chosen, empty, image), torch.where(chosen, image, empty)]).flatten(0, 1)
    found = log_odds(model, torch.cat([image[None], empty.expand_as(image)[None], pictures]), target)
    inner, ends = found[2:].view(2, len(maps), -1), found[:2].expand(len(maps), 2)
    deletion = torch.cat([ends[:, :1], inner[0], ends[:, 1:]], dim=1)
    return deletion, torch.cat([ends[:, 1:], inner[1], ends[:, :1]], dim=1)


def area(curves: Tensor, shares: Sequence[float] = SHARES) -> Tensor:
    """(M, S + 2) → (M,) areas under curves over the shares 0, `shares` and 1, by trapezoids."""
    areas: Tensor = torch.trapezoid(curves, torch.tensor([0.0, *shares, 1.0]))
    return areas


def brightest(maps: Tensor, shares: Sequence[float]) -> Tensor:
    """(M, H, W) → (M, S, H, W) bool: those shares of each map's places, at least one place."""
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros(len(maps), len(shares), order.shape[1], dtype=torch.bool, device=maps.device)
    for number, share in enumerate(shares):
        chosen[:, number].scatter_(1, order[:, : max(1, round(share * order.shape[1]))], True)
    return chosen.view(len(maps), len(shares), *maps.shape[1:])


def log_odds(model: nn.Module, pictures: Tensor, target: int) -> Tensor:
    """(N, C, H, W) → (N,) log-odds of one class against all others, on the CPU; their sigmoid is its probability."""
    with torch.inference_mode(), evaluating(model):
        logits = torch.cat([model(some) for some in pictures.split(BATCH)]).float().cpu()
    if logits.ndim != 2 or not 0 <= target < logits.shape[1]:
        raise UsageError(f"expected logits (N, K) that have a class {target}, got {tuple(logits.shape)}.")
    others = torch.cat([logits[:, :target], logits[:, target + 1 :]], dim=1)
    return logits[:, target] - others.logsumexp(dim=1)


def road(
    model: nn.Module, image: Tensor, maps: Tensor, target: int, *, shares: Sequence[float] = ROAD_SHARES
) -> Tensor:
    """(M, S) probability of the class with these shares of the pixels imputed, the brightest first; see `remove`."""
    pictures = [impute(image.cpu(), gaps) for gaps in brightest(maps.cpu(), shares).flatten(0, 1)]
    return log_odds(model, torch.stack(pictures).to(image.device), target).sigmoid().view(len(maps), -1)


def impute(image: Tensor, gaps: Tensor, *, noise: float = NOISE) -> Tensor:
    """Fill in pixels by what their neighbours say, so that no edge tells where they were (noisy linear imputation).

    Each becomes the mean of its eight neighbours, those beside it counting twice, all in one linear system, plus noise
    that is the same for all calls.

    Args:
        image: (C, H, W) float32 on the CPU. gaps: (H, W) bool, not all.
    """
    from scipy import sparse  # a fifth of a second
    from scipy.sparse.linalg import spsolve

    missing, pixels = gaps.numpy().ravel(), image.flatten(1).numpy().astype("float64")
    down, across = (sparse.diags_array([1.0, 1.0], offsets=[-1, 1], shape=(side, side)) for side in gaps.shape)
    rows, columns = (sparse.eye_array(side) for side in gaps.shape)
    weights = (sparse.kron(down, columns) + sparse.kron(rows, across) + sparse.kron(down, across) / 2).tocsr()[missing]
    system = sparse.diags_array(weights.sum(axis=1)) - weights[:, missing]
    found = spsolve(system.tocsc(), weights[:, ~missing] @ pixels[:, ~missing].T, permc_spec="MMD_ATA")
    random = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))[:, missing]
    filled = image.flatten(1).clone()
    filled[:, missing] = torch.from_numpy(found.reshape(-1, len(image)).T).float() + noise * random
    return filled.view_as(image)
