"""What happens inside a network: its maps, the patches that excite a channel, and what stays when an image moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.attribution import BATCH, NO_MAP, check_images, logits_of, map_of
from hubel.geometry.effective import Box, Place, box_of, locate
from hubel.nn.hooks import capture, evaluating, watch
from hubel.nn.stages import find_stages

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))


@dataclass(frozen=True)
class Activations:
    """What a layer gives out for some images: maps (N, K, h, w) float32 on the CPU, and their range.

    Dead channels, (K,) bool, are nowhere positive on any of the images: nothing is left of them after a ReLU.
    """

    maps: Tensor
    minimum: float
    maximum: float
    dead: Tensor
    dead_share: float


@dataclass(frozen=True)
class Patch:
    """What excites a channel: the image's index, (row, column) in the map, its value there, and what it sees.

    The box is ((top, bottom), (left, right)) in pixels inside of the image, all included.
    """

    image: int
    position: Place
    value: float
    box: Box


@dataclass(frozen=True)
class Shift:
    """What changes when images are moved by some pixels, as a mean over images and the four directions.

    changed: share of predictions that become another class. probability: absolute change of that of the class predicted
    before. features: L2 distance of the last features, relative to their length.
    """

    pixels: int
    changed: float
    probability: float
    features: float


def activations(model: nn.Module, images: Tensor, layer: str) -> Activations:
    """Look at the maps that a layer gives out for images (N, C, H, W), in eval mode.

    Raises:
        UsageError: the model has no such layer, or it gives out no map.
    """
    return measured(torch.cat([_maps(model, part, layer).float().cpu() for part in check_images(images).split(BATCH)]))


def measured(maps: Tensor) -> Activations:
    """Look at maps (N, K, h, w) float32 on the CPU."""
    dead = maps.amax(dim=(0, 2, 3)) <= 0
    return Activations(maps, float(maps.min()), float(maps.max()), dead, float(dead.float().mean()))


def strongest_patches(model: nn.Module, images: Tensor, layer: str, channel: int, count: int = 9) -> tuple[Patch, ...]:
    """Return the patches that excite a channel most, strongest first, of each image at most one. Zeiler & Fergus 2014.

    Raises:
        UsageError: the model has no such layer or channel, it gives out no map, or each position sees the whole image.
    """
    channels, height, width = check_images(images).shape[1:]
    _, field = locate(model, (channels, height, width), layer)
    maps = torch.cat([_maps(model, part, layer, channel)[:, channel] for part in images.split(BATCH)])
    values, places = maps.flatten(1).max(dim=1)
    patches = []
    for image in values.argsort(descending=True)[:count].tolist():
        position = divmod(int(places[image]), maps.shape[2])
        (top, bottom), (left, right) = box_of(field, position)
        box = ((max(top, 0), min(bottom, height - 1)), (max(left, 0), min(right, width - 1)))
        patches.append(Patch(image, position, float(values[image]), box))
    return tuple(patches)


def last_features(model: nn.Module, images: Tensor) -> Tensor:
    """Return what the layer that gives the logits is given, (N, D) float32 on the CPU; of maps the mean."""
    final = _final(model, images)
    return torch.cat([_answer(model, final, part)[1].cpu() for part in images.split(BATCH)])


def most_alike(features: Tensor, among: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return which k of `among` (M, D) are most alike each of the features (N, D), and their cosines; both (N, k)."""
    if not 1 <= k <= len(among):
        raise UsageError(f"{k} of {len(among)} images can't be the most alike: expected 1 to {len(among)}.")
    nearest = (F.normalize(features, dim=1) @ F.normalize(among, dim=1).T).topk(k, dim=1)
    return nearest.indices, nearest.values


def shift_sensitivity(model: nn.Module, images: Tensor, pixels: int) -> tuple[Shift, ...]:
    """Measure how the answer and the last features change when images (N, C, H, W) are moved by 1 to `pixels` pixels.

    Raises:
        UsageError: images no larger than the shift, or no layer gives the logits.
    """
    if not 1 <= pixels < min(check_images(images).shape[2:]):
        raise UsageError(f"images of {images.shape[2]}x{images.shape[3]} can be moved by less than that, not {pixels}.")
    final = _final(model, images)
    total = torch.zeros(pixels, 3, dtype=torch.float64)
    for part in images.split(BATCH):
        before, features = _answer(model, final, part)
        winner, length = before.argmax(dim=1), features.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
        for step in range(1, pixels + 1):
            for down, right in DIRECTIONS:
                after, moved = _answer(model, final, shifted(part, step * down, step * right))
                change = (after - before).gather(1, winner[:, None]).abs().sum()
                distance = ((moved - features).norm(dim=1) / length).sum()
                total[step - 1] += torch.stack([(after.argmax(dim=1) != winner).sum(), change, distance]).cpu()
    means = (total / (len(images) * len(DIRECTIONS))).tolist()
    return tuple(Shift(step, *mean) for step, mean in enumerate(means, 1))


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Move images (N, C, H, W) by whole pixels; what comes in at the edge is their reflection."""
    height, width = images.shape[2:]
    padded = F.pad(images, (max(right, 0), max(-right, 0), max(down, 0), max(-down, 0)), mode="reflect")
    return padded[:, :, max(-down, 0) :, max(-right, 0) :][:, :, :height, :width]


def _maps(model: nn.Module, images: Tensor, layer: str, channel: int = 0) -> Tensor:
    with torch.no_grad(), evaluating(model), capture(model, [layer]) as kept:
        model(images)
    maps = map_of(kept.get(layer), images)
    if maps is None:
        raise UsageError(NO_MAP.format(name=layer))
    if not 0 <= channel < maps.shape[1]:
        raise UsageError(f"layer {layer!r} has the channels 0..{maps.shape[1] - 1}, not {channel}.")
    return maps


def _final(model: nn.Module, images: Tensor) -> str:
    """The layer that gives the logits."""
    channels, height, width = check_images(images).shape[1:]
    try:
        return find_stages(model, (channels, height, width)).final
    except UsageError as error:
        raise UsageError("no layer of this network gives one number a class, so it has no last features.") from error


def _answer(model: nn.Module, final: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (N, K) and last features (N, D), both float32; of several passes, those of the last."""
    given: list[Tensor] = []

    def keep(_name: str, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        given.append(inputs[0].float().flatten(2).mean(dim=2) if inputs[0].ndim > 2 else inputs[0].float())

    with torch.no_grad(), evaluating(model), watch(model, names=[final], before=keep):
        return logits_of(model, images).float().softmax(dim=1), given[-1]
