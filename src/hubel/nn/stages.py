"""The stages of any network, from the image to the head: what is frozen and unfrozen in transfer learning.

A stage is everything that gives out maps of one size; the head is the part of the network that holds the layer which
gives the logits. Both are found by running the network on meta tensors, so that no network has to declare them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.nn.dry_run import answer
from hubel.nn.hooks import evaluating, find_module, watch

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
Shapes = dict[str, tuple[int, ...]]  # module name → shape of its output, in the order in which they finish


@dataclass(frozen=True, kw_only=True)
class Stages:
    """How a network is divided.

    Attributes:
        groups: names of the modules of each stage, in the order in which an image meets them; the last is the head.
        head: name of the module that the head is. final: name of the layer in it that gives the logits.
    """

    groups: tuple[tuple[str, ...], ...]
    head: str
    final: str

    def behind(self, depth: int) -> tuple[str, ...]:
        """Return the modules of the head and of the `depth` stages before it."""
        first = max(len(self.groups) - 1 - depth, 0)
        return tuple(name for group in self.groups[first:] for name in group)


def find_stages(model: nn.Module, shape: tuple[int, int, int]) -> Stages:
    """Divide a network for images of (C, H, W) into stages.

    Raises:
        UsageError: no layer gives the logits, so that no head can be told.

    >>> from hubel.nn.zoo import build
    >>> find_stages(build("resnet18", classes=5), (3, 224, 224)).groups
    (('conv1', 'bn1'), ('layer1',), ('layer2',), ('layer3',), ('layer4',), ('fc',))
    """
    outputs: Shapes = {}

    def look(name: str, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> None:
        outputs.pop(name, None)  # a module that runs twice counts where it ran last
        outputs[name] = tuple(output.shape) if isinstance(output, Tensor) else ()

    with watch(model, look):
        logits = answer(model, shape)
    outputs.pop("", None)
    final = _final(model, outputs, logits)
    units = [unit for unit in _units(model, "", outputs, final) if [*find_module(model, unit).parameters()]]
    head = next(unit for unit in units if final == unit or final.startswith(unit + "."))
    before = units[: units.index(head)]
    groups = [tuple(group) for _, group in groupby(before, key=lambda unit: outputs.get(unit, ())[2:])]
    return Stages(groups=(*groups, tuple(units[len(before) :])), head=head, final=final)


def set_trainable(model: nn.Module, stages: Stages, depth: int | None) -> None:
    """Freeze everything but the head and the `depth` stages before it; None freezes nothing.

    What is frozen gets no gradients and is put into eval mode, so that batch norms keep their statistics and dropout is
    off: a frozen batch norm in train mode would go on following the new images.
    """
    model.train(depth is None).requires_grad_(depth is None)
    for name in () if depth is None else stages.behind(depth):
        find_module(model, name).train().requires_grad_(True)


def features_are_enough(model: nn.Module, head: str, images: Tensor) -> bool:
    """Whether the head alone, given what it was given, makes the logits again: then features can be kept."""
    with torch.no_grad(), evaluating(model):
        given, logits = _given_and_logits(model, head, images)
        if len(given) != 1 or len(given[0]) != 1 or not isinstance(given[0][0], Tensor):
            return False
        again = answer_from_features(model, head, given[0][0])
        return again.shape == logits.shape and torch.allclose(again, logits, rtol=1e-3, atol=1e-4)


def features_of(model: nn.Module, head: str, images: Tensor) -> Tensor:
    """Return what the head is given for images (N, C, H, W): (N, …) of the model's type."""
    features: Tensor = _given_and_logits(model, head, images)[0][0][0]
    return features


def answer_from_features(model: nn.Module, head: str, features: Tensor) -> Tensor:
    """Return the logits (N, K) that the head makes of features."""
    logits: Tensor = find_module(model, head)(features)
    return logits.flatten(1)


def _given_and_logits(model: nn.Module, head: str, images: Tensor) -> tuple[list[tuple[Any, ...]], Tensor]:
    """What each call of the head was given, and what the network answers."""
    given: list[tuple[Any, ...]] = []
    with watch(model, names=[head], before=lambda _name, _module, inputs: given.append(inputs)):
        logits: Tensor = model(images)
    return given, logits


def _final(model: nn.Module, outputs: Shapes, answer: Any) -> str:
    """The last layer with weights that gives as many numbers as the network answers with."""
    classes = answer.shape[1] if isinstance(answer, Tensor) and answer.ndim == 2 else None
    for name in reversed(outputs):
        module = find_module(model, name)
        if isinstance(module, nn.Linear) and module.out_features == classes:
            return name
        if isinstance(module, nn.Conv2d) and module.out_channels == classes and set(module.kernel_size) == {1}:
            return name
    raise UsageError(
        "no dense layer or 1x1 convolution of this network gives one number a class, so its head can't be told: "
        "train it without --weights."
    )


def _units(model: nn.Module, prefix: str, outputs: Shapes, final: str) -> Iterator[str]:
    """Names of the largest modules that don't mix stages, in the order in which they finish."""
    when: dict[str, int] = {}  # of a module that isn't called itself, when the last one inside of it finished
    for number, name in enumerate(outputs):
        when |= {name[:dot]: number for dot, letter in enumerate(name) if letter == "." and name[:dot] not in outputs}
        when[name] = number
    names = [f"{prefix}{name}" for name, _ in model.named_children()]
    for name in sorted((name for name in names if name in when), key=when.__getitem__):
        module = find_module(model, name.removeprefix(prefix))
        if _mixes(module, name, outputs, final):
            yield from _units(module, f"{name}.", outputs, final)
        else:
            yield name


def _mixes(module: nn.Module, name: str, outputs: Shapes, final: str) -> bool:
    """Whether a module holds more than one stage: its children give out maps of several sizes, or maps and logits."""
    sizes = {
        child: outputs[f"{name}.{child}"][2:] for child, _ in module.named_children() if f"{name}.{child}" in outputs
    }
    maps = {size for size in sizes.values() if _is_map(size)}
    holds_final = final.startswith(name + ".")
    if holds_final and maps and any(not _is_map(size) for size in sizes.values()):
        before = [
            part for child, size in sizes.items() if _is_map(size) for part in module.get_submodule(child).modules()
        ]
        return any(isinstance(part, nn.Conv2d) and set(part.kernel_size) != {1} for part in before)
    return len(maps) > (1 if isinstance(module, CONTAINERS) else 2) or (holds_final and len(maps) > 1)


def _is_map(size: tuple[int, ...]) -> bool:
    """Whether a height and width are those of a map of more than one position."""
    return bool(size) and max(size) > 1
