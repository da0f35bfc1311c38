"""A complete recipe with what it was derived from, and the network that training starts with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from hubel.dataset.config import Augmentation
from hubel.dataset.loader import Loader
from hubel.dataset.tensors import normalise
from hubel.evaluation.baseline import FittedBaseline
from hubel.jobs.recipe import Recipe
from hubel.jobs.transfer import Start
from hubel.learning.transfer import Phase
from hubel.nn.pretrained import Fitted, load_into
from hubel.nn.quick import Quick
from hubel.nn.stages import Stages
from hubel.nn.zoo import build, outline
from hubel.records import ModelCard

SAMPLE = 2_000  # training images that mean, std and the first layer are measured on


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe with nothing left open, and what it was derived from.

    Attributes:
        size: final side of the training images; the card's size is what the model is judged at.
        rows: (what, value, why) for people. speed: the measurements behind it.
        reserve: seconds kept back for measuring and reporting.
        phases: the calls of the loop: one from scratch, several in fine-tuning. shares: of the time, for each.
        stages: how the network is divided, in fine-tuning. views: versions of each image (itself, mirrored) whose
            features are kept while the head alone is trained; 0 keeps none.
        notes: sentences that belong into the report.
    """

    recipe: Recipe
    card: ModelCard
    size: int
    device: torch.device
    loader: Loader
    augmentation: Augmentation
    fitted: FittedBaseline
    rows: tuple[tuple[str, str, str], ...]
    speed: dict[str, float]
    reserve: float
    start: Start
    phases: tuple[Phase, ...]
    shares: tuple[float, ...]
    stages: Stages | None = None
    views: int = 0
    notes: tuple[str, ...] = ()

    def initial_model(self) -> tuple[nn.Module, Fitted | None]:
        """Build the network with weights that depend on the seed, and on the data where it asks to see some."""
        return new_model(self.card, self.recipe, self.loader, self.device, self.start)


def new_model(
    card: ModelCard, recipe: Recipe, loader: Loader, device: torch.device, start: Start
) -> tuple[nn.Module, Fitted | None]:
    """Build a card's network and load what it starts from; `quick` is shown up to 2,000 training images instead."""
    torch.manual_seed(recipe.seed)
    size, channels = card.preprocess.size, card.preprocess.channels
    model = build(
        card.architecture,
        classes=len(card.classes),
        channels=channels,
        size=size,
        code=start.code,
        **card.arguments,
    )
    fitted = None
    if start.weights is not None:
        fitted = load_into(model, start.weights, shape=(channels, *size), classes=card.classes)
    elif isinstance(model, Quick):
        model.whiten(normalise(loader.sample(SAMPLE), card.preprocess))
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device), fitted


def check_model(recipe: Recipe, size: int, channels: int, classes: int, start: Start) -> None:
    """Build the network without weights now: a wrong name or size is refused before minutes of decoding."""
    name = recipe.model.model if start.weights is None else start.weights.architecture
    if name != "auto":
        outline(name, classes=classes, channels=channels, size=(size, size), code=start.code)
