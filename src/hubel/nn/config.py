"""Settings of the network. An annotation's text is the flag's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from hubel.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network is built. None means: derived from the images and the budget, and saved with the run."""

    model: Annotated[
        str, "a network: a name, torchvision/NAME, timm/NAME, FILE.py:CLASS, or auto: quick, as wide as time allows"
    ] = "auto"
    weights: Annotated[
        str | None,
        "start from published weights: imagenet, a file (.safetensors, .pth), a model folder or a run folder",
    ] = None
    width: Annotated[int | None, "channels of the first stage, for networks that have a width"] = None
    dropout: Annotated[float | None, "dropout before the last layer, for networks that have it"] = None

    def __post_init__(self) -> None:
        if self.width is not None and not 1 <= self.width <= 4096:
            raise UsageError(f"--width {self.width}: expected 1 to 4096 channels.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise UsageError(f"--dropout {self.dropout}: expected a number from 0 to below 1.")
