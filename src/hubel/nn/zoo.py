"""Every network by name: one literal table of our own; all others come in by `foreign`."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from hubel.as_json import from_json
from hubel.errors import UsageError
from hubel.nn import convnext, courses, efficientnet, foreign, mobilenet, resnet, vgg
from hubel.nn.config import SET_BY_HUBEL, Defaults
from hubel.nn.dry_run import Shapes
from hubel.nn.quick import quick, speed
from hubel.records import Preprocess

Builder = Callable[..., nn.Module]
GENERAL = Defaults()


@runtime_checkable
class Prepared(Protocol):
    """A network that wants to see images before it is trained from scratch."""

    def prepare(self, images: Tensor) -> None:
        """Set first weights from training images, (N, C, H, W) float32, normalised."""


@dataclass(frozen=True)
class Network:
    """A function that builds a network, the images of its publication, and what it wants from its training.

    Attributes:
        size: height and width in pixels.
    """

    build: Builder
    size: tuple[int, int] = (224, 224)
    channels: int = 3
    defaults: Defaults = GENERAL


CIFAR = (32, 32)
SMALL = 64  # pixels; up to this side, networks that have a small stem take it
QUICK = Defaults(
    optimizer="sgd",
    sgd_rate=0.0015,
    sgd_momentum=0.85,
    sgd_weight_decay=1.3e-3,
    label_smoothing=0.2,
    small_first=0.625,
    widths=(16, 24, 32, 48, 64, 96, 128),
)
NETWORKS: dict[str, Network] = {
    "quick": Network(quick, CIFAR, defaults=QUICK),
    "speed": Network(speed, CIFAR, defaults=dataclasses.replace(QUICK, optimizer="muon", mirror=True)),
    "simple-cnn": Network(courses.simple_cnn, CIFAR),
    "simple-cnn-gap": Network(courses.simple_cnn_gap),
    "two-block": Network(courses.two_block, (28, 28), 1),
    "lenet5": Network(courses.lenet5, CIFAR, 1),
    **{name: Network(partial(vgg.vgg, depths)) for name, depths in vgg.DEPTHS.items()},
    **{f"{name}_bn": Network(partial(vgg.vgg, depths, norm="batch")) for name, depths in vgg.DEPTHS.items()},
    **{name: Network(network) for name, network in resnet.IMAGENET.items()},
    **{f"resnet{depth}": Network(resnet.cifar_resnet(depth), CIFAR) for depth in resnet.CIFAR_DEPTHS},
    **{f"plain{depth}": Network(resnet.cifar_resnet(depth, "none"), CIFAR) for depth in resnet.CIFAR_DEPTHS},
    "mobilenet_v1": Network(mobilenet.mobilenet_v1),
    "mobilenet_v2": Network(mobilenet.mobilenet_v2),
    "mobilenet_v3_small": Network(mobilenet.mobilenet_v3_small),
    "mobilenet_v3_large": Network(mobilenet.mobilenet_v3_large),
    **{
        name: Network(partial(efficientnet.efficientnet, scale), (scale.resolution, scale.resolution))
        for name, scale in efficientnet.SCALES.items()
    },
    "convnext_tiny": Network(convnext.convnext_tiny),
}


def build(
    name: str,
    *,
    classes: int | None,
    channels: int = 3,
    size: tuple[int, int] = (32, 32),
    code: Builder | None = None,
    **arguments: Any,
) -> nn.Module:
    """Build a network by name, with new weights: (N, channels, H, W) → logits (N, classes).

    Args:
        name: a key of `NETWORKS`; ``torchvision/NAME`` or ``timm/NAME``. torchvision's classifiers that are not among
            ours are found by their bare names too.
        classes: None, beside `code`, takes as many as its constructor does by default.
        size: height and width in pixels of the images it will see.
        code: the user's own class, function or module; `name` then only says what it is called, and runs nothing.
        arguments: passed on to the network's function.

    Raises:
        UsageError: an unknown name or argument, an impossible number, or images too small for the network.

    >>> build("resnet20", classes=7, size=(32, 32)).linear.out_features
    7
    """
    if (
        (classes is None and code is None)
        or (classes is not None and classes < 1)
        or channels < 1
        or len(size) != 2
        or min(size) < 1
    ):
        raise UsageError(
            "classes, channels and both sides of size must be at least 1, "
            f"got classes={classes}, channels={channels}, size={tuple(size)}."
        )
    if code is not None:
        return foreign.build_own(code, name, classes, channels, size, arguments)
    if foreign.is_code(name):
        raise UsageError(f"The network {foreign.UNTRUSTED.format(name=name)}")
    assert classes is not None
    if name in NETWORKS:
        arguments = check_arguments(name, arguments)
        if "size" in _parameters(name):
            arguments["size"] = size
        try:
            return NETWORKS[name].build(classes=classes, channels=channels, **arguments)
        except UsageError:
            raise
        except Exception as error:  # whatever torch and Python say to a stranger's numbers
            raise UsageError(f"{name} can't be built with {arguments} ({str(error).splitlines()[0]}).") from error
    if name.startswith(foreign.TIMM):
        return foreign.build_timm(name.removeprefix(foreign.TIMM), classes, channels, size, arguments)
    bare = name.removeprefix(foreign.TORCHVISION)
    known = foreign.torchvision_names()
    if bare in known:
        return foreign.build_torchvision(bare, classes, channels, size, arguments)
    near = difflib.get_close_matches(bare.lower(), [*NETWORKS, *sorted(set(known) - set(NETWORKS))], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"hubel's own are {', '.join(NETWORKS)}."
    raise UsageError(f"there is no network called {name!r}: {hint}")


def build_for(
    architecture: str,
    classes: int,
    images: Preprocess,
    arguments: Mapping[str, Any],
    code: Builder | None,
    *,
    outlined: bool = False,
) -> nn.Module:
    """Build a network as `build` does, or as `outline` does, for images that were prepared in that way."""
    make, channels, size = outline if outlined else build, images.channels, images.size
    return make(architecture, classes=classes, channels=channels, size=size, code=code, **arguments)


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


def defaults_of(name: str) -> Defaults:
    """Return what a network wants from its training: the general rules for those that are not ours."""
    return NETWORKS[name].defaults if name in NETWORKS else GENERAL


def arguments_for(name: str, *, side: int, flips: bool) -> dict[str, Any]:
    """Return the arguments that suit the images, of those that one of our networks takes.

    Args:
        side: the longer one, in pixels. flips: whether a mirror image means the same.

    >>> arguments_for("resnet18", side=32, flips=True), arguments_for("speed", side=32, flips=True)
    ({'stem': 'small'}, {'mirror': True})
    """
    small = {"stem": "small"} if "stem" in accepted(name) and side <= SMALL else {}
    return small | ({"mirror": True} if defaults_of(name).mirror and flips else {})


def accepted(name: str) -> set[str]:
    """Return the names of the arguments that one of our own networks takes; empty for others."""
    return set(_parameters(name)) - set(SET_BY_HUBEL) if name in NETWORKS else set()


def check_arguments(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return arguments of one of our networks as it takes them (a list as a tuple); those of others as they are.

    Raises:
        UsageError: an unknown name, with the known ones; a value of the wrong kind, with the right ones.

    >>> check_arguments("simple-cnn", {"norm": "group", "widths": [16, 32]})
    {'norm': 'group', 'widths': (16, 32)}
    """
    if name not in NETWORKS:
        return dict(arguments)
    if unknown := [key for key in arguments if key not in accepted(name)]:
        takes = ", ".join(sorted(accepted(name)))
        raise UsageError(f"{name} has no argument {unknown[0]!r}: it takes {takes}.")
    fields = [(key, kind, None) for key, kind in _parameters(name).items() if key in arguments]
    try:
        checked: Any = from_json(dataclasses.make_dataclass(name, fields), dict(arguments))
    except ValueError as error:
        raise UsageError(f"{error}.") from error
    return {key: getattr(checked, key) for key in arguments}


def _parameters(name: str) -> dict[str, Any]:
    """The keyword arguments of a network's function and their types."""
    signature = inspect.signature(NETWORKS[name].build, eval_str=True)
    return {key: parameter.annotation for key, parameter in signature.parameters.items()}
