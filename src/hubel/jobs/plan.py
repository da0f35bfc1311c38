"""A complete recipe with what it was derived from, and the network that training starts with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from hubel.as_json import from_json, to_json
from hubel.dataset.augment import PRESETS
from hubel.dataset.config import Augmentation, DataConfig
from hubel.dataset.loader import Loader
from hubel.dataset.pack import Rows
from hubel.dataset.split import Split
from hubel.dataset.tensors import normalise
from hubel.evaluation.baseline import FittedBaseline, fit_baseline
from hubel.jobs.dataset import Dataset
from hubel.jobs.recipe import Recipe
from hubel.jobs.rules import some_of
from hubel.jobs.transfer import Start
from hubel.learning.distributed import rank, world_size
from hubel.learning.transfer import Phase
from hubel.nn.loading import LoadReport, load_into
from hubel.nn.stages import Stages, find_stages
from hubel.nn.zoo import Prepared, build, outline
from hubel.records import ModelCard, Preprocess

FITTED = 20_000  # training images that the baselines are fitted on
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

    def said(self) -> dict[str, Any]:
        """What of the plan is not in the recipe, as JSON: `plan_from` makes the plan again."""
        names = ("card", "size", "rows", "speed", "reserve", "phases", "shares", "views", "notes")
        return {name: to_json(getattr(self, name)) for name in names}

    def initial_model(self) -> tuple[nn.Module, LoadReport | None]:
        """Build the network with weights that depend on the seed, and on the data where it asks to see some."""
        return new_model(self.card, self.recipe, self.loader, self.device, self.start)


def new_model(
    card: ModelCard, recipe: Recipe, loader: Loader, device: torch.device, start: Start
) -> tuple[nn.Module, LoadReport | None]:
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
    elif isinstance(model, Prepared):
        model.prepare(normalise(loader.sample(SAMPLE), card.preprocess))
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device), fitted


def plan_from(
    said: Mapping[str, Any], recipe: Recipe, dataset: Dataset, division: Split, device: torch.device, start: Start
) -> Plan:
    """Make a plan again from what `Plan.said` returned, without measuring anything."""
    card = from_json(ModelCard, said["card"])
    augmentation = augmentation_for(recipe.data)
    loader = loader_for(dataset, division, recipe, card.preprocess, augmentation, device)
    plan = Plan(
        recipe=recipe,
        card=card,
        size=said["size"],
        device=device,
        loader=loader,
        augmentation=augmentation,
        fitted=baseline_for(dataset, division, recipe.seed),
        rows=tuple((what, value, why) for what, value, why in said["rows"]),
        speed=said["speed"],
        reserve=said["reserve"],
        start=start,
        phases=tuple(from_json(Phase, phase) for phase in said["phases"]),
        shares=tuple(said["shares"]),
        views=said["views"],
        notes=tuple(said["notes"]),
    )
    if start.weights is None:
        return plan
    shape = (card.preprocess.channels, *card.preprocess.size)
    return replace(plan, stages=find_stages(plan.initial_model()[0], shape))


def extended(plan: Plan, epochs: int, lr: float | None) -> Plan:
    """Add a last phase: so many more epochs, with a schedule of their own."""
    last = plan.phases[-1]
    phases = (*plan.phases, replace(last, epochs=epochs, lr=lr or last.lr))
    train = replace(plan.recipe.train, epochs=sum(phase.epochs for phase in phases))
    said = f"The run was finished once and then extended by {epochs} epochs: its reported part was measured before."
    return replace(
        plan,
        recipe=replace(plan.recipe, train=train),
        phases=phases,
        shares=(*plan.shares, 1.0),
        rows=(*plan.rows, ("extended", f"{epochs} epochs at {phases[-1].lr:.3g}", "as asked")),
        notes=(*plan.notes, said),
    )


def augmentation_for(data: DataConfig) -> Augmentation:
    """The random changes of a resolved recipe."""
    assert data.augment != "auto"
    preset = PRESETS[data.augment]
    return preset if data.augment == "none" else replace(preset, flip=bool(data.flip))


def baseline_for(dataset: Dataset, division: Split, seed: int) -> FittedBaseline:
    """Fit what stands beside the network, on some of the training images."""
    some = some_of(division.train, FITTED, seed)
    return fit_baseline(Rows(dataset.packed.images, some), dataset.catalog.labels[some], seed=seed)


def loader_for(
    dataset: Dataset,
    division: Split,
    recipe: Recipe,
    preprocess: Preprocess,
    augmentation: Augmentation,
    device: torch.device,
) -> Loader:
    """The training images as batches, as a recipe with a batch size asks for them."""
    assert recipe.train.batch_size is not None
    return Loader(
        dataset.packed.images,
        dataset.catalog.labels,
        division.train,
        classes=len(dataset.catalog.classes),
        batch_size=recipe.train.batch_size,
        preprocess=preprocess,
        augmentation=augmentation,
        seed=recipe.seed,
        device=device,
        sampler="balanced" if recipe.train.balance == "sampler" else "shuffle",
        part=(rank(), world_size()),
        dtype=torch.bfloat16 if recipe.train.precision == "bfloat16" else torch.float32,
    )


def check_model(recipe: Recipe, size: int, channels: int, classes: int, start: Start) -> None:
    """Build the network without weights now: a wrong name or size is refused before minutes of decoding."""
    name, given = recipe.model.model, recipe.model.given
    if start.weights is not None:
        name, given = start.weights.architecture, {**start.weights.arguments, **given}
    name = "quick" if name == "auto" else name
    outline(name, classes=classes, channels=channels, size=(size, size), code=start.code, **given)
