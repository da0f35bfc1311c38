"""Settings of the network, and what a network wants from its training. Imports no torch.

An annotation's text is the flag's help.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from hubel.errors import UsageError

SET_BY_HUBEL = ("name", "code", "classes", "channels", "size")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network is built. None means: derived from the images and the budget, and saved with the run."""

    model: Annotated[
        str,
        "a network: a name, torchvision/NAME, timm/NAME, FILE.py:CLASS, or auto: the weights' or else quick",
    ] = "auto"
    weights: Annotated[
        str | None,
        "start from published weights: auto (those installed, where they answer better), none, imagenet, a file "
        "(.safetensors, .pth), a model folder or a run folder",
    ] = "auto"
    width: Annotated[int | None, "channels of the first stage, for networks that have a width"] = None
    dropout: Annotated[float | None, "dropout before the last layer, for networks that have it"] = None
    arguments: Annotated[dict[str, Any], "an argument of the network's own, such as norm=group; may be repeated"] = (
        field(default_factory=dict)
    )

    def __post_init__(self) -> None:
        if self.width is not None and not 1 <= self.width <= 4096:
            raise UsageError(f"--width {self.width}: expected 1 to 4096 channels.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout {self.dropout}: expected a number from 0 to below 1.")
        if not isinstance(self.arguments, dict) or not all(isinstance(name, str) for name in self.arguments):
            raise UsageError(f"arguments: expected a mapping such as {{norm: group}}, got {self.arguments!r}.")
        for name in self.arguments:
            if name in SET_BY_HUBEL:
                raise UsageError(f"--arg {name}=…: it follows from the data and other settings, so leave it out.")
            if getattr(self, name, None) is not None and name in ("width", "dropout"):
                raise UsageError(f"--arg {name}=… and --{name} say the same: give one of them.")

    @property
    def given(self) -> dict[str, Any]:
        """The keyword arguments for the network that were asked for: `arguments`, width and dropout."""
        flags = {name: value for name in ("width", "dropout") if (value := getattr(self, name)) is not None}
        return {**self.arguments, **flags}


def parse_argument(text: str) -> tuple[str, Any]:
    """Read ``NAME=VALUE``; the value is JSON where it can be, and text otherwise.

    Raises:
        UsageError: there is no NAME=.

    >>> parse_argument("norm=group"), parse_argument("se=true"), parse_argument("widths=[16, 32]")
    (('norm', 'group'), ('se', True), ('widths', [16, 32]))
    """
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise UsageError(f"--arg {text}: expected NAME=VALUE, such as norm=group.")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def argument_text(name: str, value: Any) -> str:
    """Write what `parse_argument` reads."""
    plain = f"{name}={value}"
    return plain if parse_argument(plain) == (name, value) else f"{name}={json.dumps(value)}"


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What a network wants when it is trained from scratch and nothing else was asked for; None is the general rule.

    Attributes:
        optimizer: name of the usual one.
        sgd_rate: peak rate of SGD for each image of a batch. sgd_momentum, sgd_weight_decay: with SGD only.
        label_smoothing: share of a label that is spread over all classes.
        small_first: side of the first epochs' images as a share of the last ones', where images are photos.
        widths: channels of the first stage to choose from by the time there is, from narrow to wide; empty for none.
        mirror: whether it should judge mirror images, too, where they mean the same.
    """

    optimizer: str | None = None
    sgd_rate: float | None = None
    sgd_momentum: float | None = None
    sgd_weight_decay: float | None = None
    label_smoothing: float | None = None
    small_first: float | None = None
    widths: tuple[int, ...] = ()
    mirror: bool = False
