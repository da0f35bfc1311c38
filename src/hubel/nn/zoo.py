"""Every network by name: one literal table of our own, and torchvision's beside it."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from hubel.errors import UsageError
from hubel.nn import courses, lenet, resnet
from hubel.nn.blocks import he_init
from hubel.nn.capture import evaluating
from hubel.nn.quick import quick

Builder = Callable[..., nn.Module]

NETWORKS: dict[str, Builder] = {
    "quick": quick,
    "simple-cnn": courses.simple_cnn,
    "simple-cnn-gap": courses.simple_cnn_gap,
    "two-block": courses.two_block,
    "lenet5": lenet.lenet5,
    "resnet18": resnet.resnet18,
    "resnet34": resnet.resnet34,
    "resnet50": resnet.resnet50,
    "resnet101": resnet.resnet101,
    "resnet152": resnet.resnet152,
    "resnet20": resnet.resnet20,
    "resnet32": resnet.resnet32,
    "resnet44": resnet.resnet44,
    "resnet56": resnet.resnet56,
    "resnet110": resnet.resnet110,
    "plain20": resnet.plain20,
    "plain32": resnet.plain32,
    "plain44": resnet.plain44,
    "plain56": resnet.plain56,
    "plain110": resnet.plain110,
}
PREFIX = "torchvision:"
SIZE_SEARCH_LIMIT = 1024  # pixels; no torchvision network needs as many
# Auxiliary outputs are for a loss that hubel doesn't compute; the initialisation is stated because torchvision warns.
TORCHVISION_ARGUMENTS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def build(
    name: str, *, classes: int, channels: int = 3, size: tuple[int, int] = (32, 32), **arguments: Any
) -> nn.Module:
    """Build a network by name, with new weights: (N, channels, H, W) → logits (N, classes).

    Args:
        name: a key of `NETWORKS`, or a torchvision classifier as ``torchvision:NAME`` or, where it is not one of ours,
            by its bare name.
        size: height and width in pixels of the images it will see.
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
    if name in NETWORKS:
        return _build_own(name, classes, channels, size, arguments)
    import torchvision  # slow to import, and our own networks don't need it

    bare = name.removeprefix(PREFIX)
    known = torchvision.models.list_models(module=torchvision.models)
    if bare in known:
        return _build_torchvision(bare, classes, channels, size, arguments)
    near = difflib.get_close_matches(bare.lower(), [*NETWORKS, *sorted(set(known) - set(NETWORKS))], n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"hubel's own are {', '.join(NETWORKS)}."
    raise UsageError(f"there is no network called {name!r}: {hint}")


def _build_own(name: str, classes: int, channels: int, size: tuple[int, int], arguments: dict[str, Any]) -> nn.Module:
    builder = NETWORKS[name]
    parameters = inspect.signature(builder).parameters
    unknown = [key for key in arguments if key not in parameters]
    if unknown:
        options = [key for key in parameters if key not in ("classes", "channels", "size")]
        raise UsageError(f"{name} has no argument {unknown[0]!r}: it takes {', '.join(options)}.")
    if "size" in parameters:
        arguments = {**arguments, "size": size}
    return builder(classes=classes, channels=channels, **arguments)


def _build_torchvision(
    name: str, classes: int, channels: int, size: tuple[int, int], arguments: dict[str, Any]
) -> nn.Module:
    import torchvision

    merged = {**TORCHVISION_ARGUMENTS.get(name, {}), **_size_arguments(name, size), **arguments}
    try:
        model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **merged)
    except (TypeError, ValueError) as error:
        why = str(error).splitlines()[0].rstrip(".:")
        raise UsageError(
            f"torchvision's {name} can't be built for {size[0]}x{size[1]} with {merged}: {why}."
        ) from error
    _check_size(model, name, size)
    if channels != 3:
        adapt_channels(model, channels)
    return model


def _size_arguments(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """The few networks that are made for one size have to be told it."""
    if name.startswith("maxvit"):
        return {"input_size": tuple(size)}
    return {"image_size": size[0]} if name.startswith("vit") and size[0] == size[1] else {}


def adapt_channels(model: nn.Module, channels: int) -> None:
    """Replace the model's first convolution, in place, by one with new weights for that many input channels."""
    name, old = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
    )
    model.set_submodule(name, he_init(new))


def _check_size(model: nn.Module, name: str, size: tuple[int, int]) -> None:
    """Refuse a size that the network can't take, and look for the smallest that it can."""
    if _accepts(model, size):
        return
    low, high = min(size), SIZE_SEARCH_LIMIT
    if not _accepts(model, (high, high)):
        raise UsageError(f"{name} can't take images of {size[0]}x{size[1]}: it needs other sizes, such as 224x224.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _accepts(model, (middle, middle)) else (middle, high)
    raise UsageError(f"images of {size[0]}x{size[1]} are too small for {name}: the smallest size is {high}x{high}.")


def _accepts(model: nn.Module, size: tuple[int, int]) -> bool:
    """Whether an RGB image of that size gets through, tried on shapes alone (meta tensors), so without arithmetic."""
    shapes = {name: tensor.to("meta") for name, tensor in [*model.named_parameters(), *model.named_buffers()]}
    try:
        with torch.no_grad(), evaluating(model):
            functional_call(model, shapes, (torch.empty(1, 3, *size, device="meta"),))
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True
