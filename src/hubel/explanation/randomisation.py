"""Does a map depend on what the network has learned? Its weights are made random, and the maps compared.

Sources: Adebayo et al. 2018, "Sanity Checks for Saliency Maps" (the cascade); Hedström et al. 2024, "A Fresh Look at
Sanity Checks for Saliency Maps" (Efficient MPRT); Wang et al. 2004 (SSIM).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.trust import interval

Explain = Callable[[nn.Module, Tensor, Tensor], Tensor]  # model, images, targets → (N, H, W) maps, signed if they can
Floats = npt.NDArray[np.float64]
STAGES = 8  # of the cascade
ALIKE = 0.4
BINS = 100  # of the entropy's histogram, as published
WINDOW = 7  # pixels of SSIM's square window
C1, C2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2  # SSIM's constants for values from -1 to 1
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """How alike maps are to the network's own once its last layers, down to `layer`, are random; means over images.

    Attributes:
        ssim: of maps scaled to [-1, 1]. spearman: rank correlation. spearman_absolute: that of the magnitudes.
    """

    layer: str
    ssim: float
    spearman: float
    spearman_absolute: float


@dataclass(frozen=True, kw_only=True)
class Randomisation:
    """Whether a method's maps depend on what a network has learned.

    Attributes:
        stages: the cascade, from the head downwards. similarity: mean of their rank correlations; below 0.4 the method
            passes. The papers name no limit: with a small network for digits it is at most 0.15 for gradients, their
            magnitudes and Grad-CAM, 0.8 for guided backprop and 0.5 for its magnitudes.
        rise: mean of (entropy with random weights / entropy - 1) of the maps' values, with its 95 % interval: Efficient
            MPRT. It is told and not judged by, see docs/decisions.md.
    """

    n: int
    stages: tuple[Stage, ...]
    similarity: float
    rise: float
    rise_interval: tuple[float, float]
    passes: bool
    sentence: str


def randomisation(
    model: nn.Module, images: Tensor, targets: Tensor, explain: Explain, *, seed: int = 0
) -> Randomisation:
    """Compare the maps of a network with those of copies that have random weights; the model is not touched.

    Args:
        images: (N, C, H, W) float32, normalised. targets: (N,) the classes that are explained.
        explain: the method. It gets copies in eval mode.

    Raises:
        UsageError: the model has no weights, or the method doesn't give one map an image.
    """
    layers = [name for name, module in model.named_modules() if list(module.parameters(recurse=False))][::-1]
    if not layers:
        raise UsageError("a model without weights can't be made random.")
    counts = sorted({max(1, round(share * len(layers))) for share in np.linspace(0, 1, STAGES)})
    own, *cascade = (
        explain(randomised(model, layers[:count], seed=seed), images, targets).detach().float().cpu()
        for count in (0, *counts)
    )
    if own.shape != (len(images), *images.shape[2:]):
        raise UsageError(f"expected a map for each image {tuple(images.shape)}, got {tuple(own.shape)}.")
    stages = tuple(
        Stage(
            layer=layers[count - 1],
            ssim=float(ssim(own, maps).mean()),
            spearman=float(spearman(own, maps).mean()),
            spearman_absolute=float(spearman(own.abs(), maps.abs()).mean()),
        )
        for count, maps in zip(counts, cascade, strict=True)
    )
    similarity = float(np.mean([stage.spearman for stage in stages]))
    before, after = entropy(own), entropy(cascade[-1])
    rises = (after / np.where(before > 0, before, np.inf) - 1)[before > 0].tolist() or [0.0]
    figures = f"rank correlation with random weights {similarity:.2f}, limit {ALIKE}"
    return Randomisation(
        n=len(images),
        stages=stages,
        similarity=similarity,
        rise=float(np.mean(rises)),
        rise_interval=interval(rises),
        passes=similarity < ALIKE,
        sentence=f"The maps depend on what the network has learned ({figures})."
        if similarity < ALIKE
        else f"Don't trust this method here: its maps hardly depend on what the network has learned ({figures}).",
    )


def randomised(model: nn.Module, layers: Sequence[str], *, seed: int) -> nn.Module:
    """Return a copy in eval mode in which these layers have random weights.

    Matrices and kernels are drawn as He et al. 2015 do, norms are reset, and other vectors are shuffled.
    """
    twin = copy.deepcopy(model).eval()
    generator = torch.Generator().manual_seed(seed)
    for module in map(twin.get_submodule, layers):
        if isinstance(module, NORMS):
            module.reset_parameters()
            continue
        for value in module.parameters(recurse=False):
            inputs = value[0].numel() if value.ndim > 1 else 1
            drawn = torch.randn(value.shape, generator=generator) * (2 / inputs) ** 0.5
            order = torch.randperm(value.numel(), generator=generator).to(value.device)
            value.data.copy_(drawn if inputs > 1 else value.data.flatten()[order].view_as(value))
    return twin


def entropy(maps: Tensor) -> Floats:
    """(N, H, W) → (N,) entropy in nats of each map's values in 100 equal bins: how complex it is."""
    shares = np.array([np.histogram(one, bins=BINS)[0] for one in maps.numpy()]) / maps[0].numel()
    return np.asarray(-(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1))


def spearman(one: Tensor, other: Tensor) -> Floats:
    """(N, H, W) twice → (N,) rank correlations; 1 where both maps are constant, 0 where one is."""
    from scipy.stats import rankdata  # a quarter of a second

    a, b = (rankdata(maps.flatten(1), axis=1) - (maps[0].numel() + 1) / 2 for maps in (one, other))
    size = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    return np.asarray(
        np.where(size > 0, (a * b).sum(axis=1) / np.where(size > 0, size, 1), ~(a.any(axis=1) | b.any(axis=1)))
    )


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """(N, H, W) twice → (N,) structural similarity in windows of 7x7, each map divided by its largest magnitude."""
    a, b = (maps[:, None] / maps.abs().amax(dim=(1, 2))[:, None, None, None].clamp(min=1e-30) for maps in (one, other))
    side = min(WINDOW, *one.shape[1:])
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = (F.avg_pool2d(x, side, stride=1) for x in (a, b, a * a, b * b, a * b))
    product, squares = mean_a * mean_b, mean_a**2 + mean_b**2
    structure = (2 * (mean_ab - product) + C2) / (mean_aa + mean_bb - squares + C2)
    return ((2 * product + C1) / (squares + C1) * structure).mean(dim=(1, 2, 3))
