"""Every network by name: one literal table of our own; all others come in by `foreign`."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hubel.errors import UsageError
from hubel.nn import convnext, courses, efficientnet, foreign, lenet, mobilenet, resnet, vgg
from hubel.nn.dry_run import Shapes
from hubel.nn.quick import quick, speed

Builder = Callable[..., nn.Module]


@dataclass(frozen=True)
class Network:
    """A function that builds a network, and the images that its publication used: height and width, channels."""

    build: Builder
    size: tuple[int, int] = (224, 224)
    channels: int = 3


CIFAR = (32, 32)
NETWORKS: dict[str, Network] = {
    "quick": Network(quick, CIFAR),
    "speed": Network(speed, CIFAR),
    "simple-cnn": Network(courses.simple_cnn, CIFAR),
    "simple-cnn-gap": Network(courses.simple_cnn_gap),
    "two-block": Network(courses.two_block, (28, 28), 1),
    "lenet5": Network(lenet.lenet5, CIFAR, 1),
    "vgg11": Network(vgg.vgg11),
    "vgg13": Network(vgg.vgg13),
    "vgg16": Network(vgg.vgg16),
    "vgg19": Network(vgg.vgg19),
    "vgg11_bn": Network(vgg.vgg11_bn),
    "vgg13_bn": Network(vgg.vgg13_bn),
    "vgg16_bn": Network(vgg.vgg16_bn),
    "vgg19_bn": Network(vgg.vgg19_bn),
    "resnet18": Network(resnet.resnet18),
    "resnet34": Network(resnet.resnet34),
    "resnet50": Network(resnet.resnet50),
    "resnet101": Network(resnet.resnet101),
    "resnet152": Network(resnet.resnet152),
    "resnet20": Network(resnet.resnet20, CIFAR),
    "resnet32": Network(resnet.resnet32, CIFAR),
    "resnet44": Network(resnet.resnet44, CIFAR),
    "resnet56": Network(resnet.resnet56, CIFAR),
    "resnet110": Network(resnet.resnet110, CIFAR),
    "plain20": Network(resnet.plain20, CIFAR),
    "plain32": Network(resnet.plain32, CIFAR),
    "plain44": Network(resnet.plain44, CIFAR),
    "plain56": Network(resnet.plain56, CIFAR),
    "plain110": Network(resnet.plain110, CIFAR),
    "mobilenet_v1": Network(mobilenet.mobilenet_v1),
    "mobilenet_v2": Network(mobilenet.mobilenet_v2),
    "mobilenet_v3_small": Network(mobilenet.mobilenet_v3_small),
    "mobilenet_v3_large": Network(mobilenet.mobilenet_v3_large),
    "efficientnet_b0": Network(efficientnet.efficientnet_b0, efficientnet.B0.size),
    "efficientnet_b1": Network(efficientnet.efficientnet_b1, efficientnet.B1.size),
    "efficientnet_b2": Network(efficientnet.efficientnet_b2, efficientnet.B2.size),
    "efficientnet_b3": Network(efficientnet.efficientnet_b3, efficientnet.B3.size),
    "efficientnet_b4": Network(efficientnet.efficientnet_b4, efficientnet.B4.size),
    "efficientnet_b5": Network(efficientnet.efficientnet_b5, efficientnet.B5.size),
    "efficientnet_b6": Network(efficientnet.efficientnet_b6, efficientnet.B6.size),
    "efficientnet_b7": Network(efficientnet.efficientnet_b7, efficientnet.B7.size),
    "convnext_tiny": Network(convnext.convnext_tiny),
}


def build(
    name: str,
    *,
    classes: int,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    code: Builder | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build a network by name, with new weights: (N, channels, H, W) → logits (N, classes).

    Args:
        name: a key of `NETWORKS`; ``torchvision/NAME`` or ``timm/NAME``; or the user's own class as ``FILE.py:CLASS``.
            torchvision's classifiers that are not among ours are found by their bare names too.
        size: height and width in pixels of the images it will see.
        code: the user's own class, function or module, where it is at hand; `name` then only says what it is called.
        arguments: passed on to the network's function.

    Raises:
        UsageError: an unknown name or argument, an impossible number, or images too small for the network.

    >>> build("resnet20", classes=7, size=(32, 32)).linear.out_features
    7
    """
    if classes < 1 or channels < 1 or len(size) != 2 or min(size) < 1:
        raise UsageError(
            "classes, channels and both sides of size must be at least 1, "
            f"got classes={classes}, channels={channels}, size={tuple(size)}."
        )
    if code is not None or foreign.is_code(name):
        maker = foreign.load_code(name) if code is None else code
        return foreign.build_own(maker, name, classes, channels, size, arguments)
    if name in NETWORKS:
        return _build(name, classes, channels, size, arguments)
    if name.startswith(foreign.TIMM):
        return foreign.build_timm(name.removeprefix(foreign.TIMM), classes, channels, size, arguments)
    bare = name.removeprefix(foreign.TORCHVISION)
    known = foreign.torchvision_names()
    if bare in known:
        return foreign.build_torchvision(bare, classes, channels, size, arguments)
    near = difflib.get_close_matches(bare.lower(), [*NETWORKS, *sorted(set(known) - set(NETWORKS))], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"hubel's own are {', '.join(NETWORKS)}."
    raise UsageError(f"there is no network called {name!r}: {hint}")


def outline(name: str, **arguments: Any) -> nn.Module:
    """Build a network as `build` does, but without numbers (meta tensors) where its code allows that: in no time."""
    try:
        with torch.device("meta"), Shapes(torch.device("meta")):
            return build(name, **arguments)
    except NotImplementedError:  # a constructor that computes with tensors, such as regnet's
        return build(name, **arguments)


def native(name: str) -> tuple[int, int, int]:
    """Return (channels, height, width) of the images that a network was published with; 3, 224, 224 when unknown."""
    if name in NETWORKS:
        return (NETWORKS[name].channels, *NETWORKS[name].size)
    return foreign.native(name)


def accepted(name: str) -> set[str]:
    """Return the names of the arguments that one of our own networks takes; empty for others."""
    return set(inspect.signature(NETWORKS[name].build).parameters) if name in NETWORKS else set()


def _build(name: str, classes: int, channels: int, size: tuple[int, int], arguments: dict[str, Any]) -> nn.Module:
    parameters = accepted(name)
    unknown = [key for key in arguments if key not in parameters]
    if unknown:
        options = sorted(parameters - {"classes", "channels", "size"})
        raise UsageError(f"{name} has no argument {unknown[0]!r}: it takes {', '.join(options)}.")
    if "size" in parameters:
        arguments = {**arguments, "size": size}
    return NETWORKS[name].build(classes=classes, channels=channels, **arguments)
