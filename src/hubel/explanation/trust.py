"""How far to trust a map: does what it points at matter more to the answer than what random maps point at?

Source of the random maps: Theiler et al. 1992, "Testing for nonlinearity in time series: the method of surrogate data".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.removal import area, remove, road

RANDOM = 10  # maps; each is its negative too, so that one of 22 maps that know nothing beats them all
ROAD_RANDOM, ROAD_SHARE = 3, 0.2  # imputing takes longer than the network
LIMIT = 7.0  # log-odds: nothing is told apart below 0.1 % and above 99.9 %
TIE = 1e-4  # of the map's deviation
BLOB = 0.25  # standard deviation of the centre blob, of the image's sides
RESAMPLES = 2_000  # of a bootstrap interval


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A figure of a map beside those of maps that know nothing: random ones, and a blob in the centre."""

    of_map: float
    of_random: tuple[float, ...]
    of_centre: float


@dataclass(frozen=True, kw_only=True)
class Trust:
    """Whether one map is faithful.

    Attributes:
        probability: of the class, for the image as it is. without: for the image without the map's brightest third.
        deletion: area under the probability as places are taken out, which a good map makes small. insertion: as they
            are put into an empty image, which it makes large.
        road: probability with the brightest fifth imputed, small for a good map.
        score: insertion less deletion in log-odds. A map's negative has the negative score, so each random map has two.
        above: share of the random maps' scores below the map's.
        red_flag: not all are below. Of 22 maps that know nothing, one has none.
        sentence: that for people.
    """

    probability: float
    without: Measured
    deletion: Measured
    insertion: Measured
    road: Measured
    score: Measured
    above: float
    red_flag: bool
    sentence: str


def trust(model: nn.Module, images: Tensor, maps: Tensor, targets: Tensor, *, seed: int = 0) -> tuple[Trust, ...]:
    """Compare each image's map with random ones that are as smooth, and with a blob in the centre.

    Args:
        images: (N, C, H, W) float32, normalised, on the model's device.
        maps: (N, H, W), with signs if the method gives any. targets: (N,) the classes that they explain.

    Raises:
        UsageError: no map or target for each image, a target that is no class, or outputs that are not (N, K).
    """
    if maps.shape != (len(images), *images.shape[2:]) or targets.shape != (len(images),):
        what = f"{tuple(images.shape)}, got {tuple(maps.shape)} and targets {tuple(targets.shape)}"
        raise UsageError(f"expected a map and a target for each image {what}.")
    generator = torch.Generator().manual_seed(seed)
    triples = zip(images, maps.detach().float().cpu(), targets.tolist(), strict=True)
    return tuple(_trust(model, image, one, int(target), generator) for image, one, target in triples)


def _trust(model: nn.Module, image: Tensor, one: Tensor, target: int, generator: torch.Generator) -> Trust:
    tie, *others = random_maps(one, 1 + RANDOM, generator)
    decided = one + tie * TIE  # where many places are equally bright, no corner should go first
    candidates = torch.stack([decided, centre_blob(one), *others])
    deletion, insertion = remove(model, image, candidates, target)
    score = _measured(area(insertion.clamp(-LIMIT, LIMIT)) - area(deletion.clamp(-LIMIT, LIMIT)))
    chance = np.outer((1, -1), score.of_random)
    flat = not bool(one.max() > one.min())  # or NaN
    red_flag = flat or not score.of_map > chance.max()
    deletion, insertion = deletion.sigmoid(), insertion.sigmoid()
    before, without = float(deletion[0, 0]), _measured(deletion[:, 1])
    imputed = road(model, image, candidates[: 2 + ROAD_RANDOM], target, shares=[ROAD_SHARE])
    return Trust(
        probability=before,
        without=without,
        deletion=_measured(area(deletion)),
        insertion=_measured(area(insertion)),
        road=_measured(imputed[:, 0]),
        score=score,
        above=float((chance < score.of_map).mean()),
        red_flag=red_flag,
        sentence=FLAT if flat else _sentence(before, without, red_flag=red_flag),
    )


def random_maps(one: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(H, W) → (count, H, W): maps with the same power at each spatial frequency, at other places.

    The phases of its mirrored continuation are random. So they are as smooth as it is, whatever grid it came from.
    """
    whole = torch.cat([one, one.flip(0)])
    whole = torch.cat([whole, whole.flip(1)], dim=1)
    noise = torch.fft.rfft2(torch.randn(count, *whole.shape, generator=generator))
    maps: Tensor = torch.fft.irfft2(torch.fft.rfft2(whole - whole.mean()) * noise / noise.abs(), s=whole.shape)
    return maps[:, : one.shape[0], : one.shape[1]]


def centre_blob(one: Tensor) -> Tensor:
    """(H, W) → (H, W): a Gaussian in the middle, where most photos show what they are of."""
    height, width = (torch.linspace(-0.5, 0.5, side).div(BLOB).square().div(-2).exp() for side in one.shape)
    return height[:, None] * width


def interval(values: Sequence[float], *, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of a mean, such as that of paired differences over images (Efron 1979).

    >>> interval([1.0, 1.0, 1.0])
    (1.0, 1.0)
    """
    drawn = np.random.default_rng(seed).choice(np.asarray(values, dtype=float), (RESAMPLES, len(values)))
    low, high = np.quantile(drawn.mean(axis=1), (0.025, 0.975)).tolist()
    return low, high


def _measured(values: Tensor) -> Measured:
    of_map, of_centre, *of_random = values.tolist()
    return Measured(of_map=of_map, of_random=tuple(of_random), of_centre=of_centre)


FLAT = "Not shown to matter: the map is the same everywhere, so it points at nothing."


def _sentence(before: float, without: Measured, *, red_flag: bool) -> str:
    least, most = (f"{bound(without.of_random):.0%}" for bound in (min, max))
    figures = (
        f"without its brightest third the class goes from {before:.0%} to {without.of_map:.0%}, without random thirds "
        f"to {least} to {most}"
    )
    if red_flag:
        return (
            f"Not shown to matter: what the map points at counts no more for the answer than random places ({figures})."
        )
    return f"The map points at what matters: {figures}."
