"""Settings of the network. An annotation's text is the flag's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network is built. None means: derived from the images and the budget, and saved with the run."""

    model: Annotated[str, "a network's name, or auto: quick, as wide as the budget allows"] = "auto"
    width: Annotated[int | None, "channels of the first stage, for networks that have a width"] = None
    dropout: Annotated[float | None, "dropout before the last layer, for networks that have it"] = None
