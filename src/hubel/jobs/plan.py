"""The dial: from a budget in minutes to a complete recipe, by rules over counts, sides and measured speed.

No rule knows the name of a data set or of its classes. What was given in the recipe is kept; what is None is derived,
and every derived value comes with its reason. The constants were chosen on validation parts; see benchmarks/README.md.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from hubel.dataset.augment import PRESETS, describe
from hubel.dataset.config import Augmentation, Preset
from hubel.dataset.loader import Loader
from hubel.dataset.split import Split
from hubel.dataset.tensors import normalise
from hubel.errors import UsageError
from hubel.evaluation.baseline import FittedBaseline, fit_baseline
from hubel.evaluation.mirror import MirrorTest, mirror_test
from hubel.jobs.clock import Clock
from hubel.jobs.dataset import Dataset, View
from hubel.jobs.hardware import best_precision, step_seconds
from hubel.jobs.recipe import Recipe
from hubel.learning.engine import TrainState
from hubel.learning.optim import optimizers
from hubel.learning.schedule import mean_area
from hubel.nn.quick import Quick
from hubel.nn.zoo import NETWORKS, build
from hubel.records import Event, ModelCard, Preprocess, Progress

NATIVE = 64  # images up to this side are used as they are
TINY = 24  # smaller images are enlarged
PHOTO = 112  # side that larger images are brought to
MARGIN = 6 / 7  # a random crop is trained on at this share of the side it is judged at (Touvron et al. 2019)
WIDTHS = (16, 24, 32, 48, 64, 96, 128)  # of the first stage of `quick`
SAFETY = 0.97  # share of the time that is planned; the rest is for what measurements miss
SHORT = 5.0  # seconds: a budget that leaves less for training is worth a warning
LEAVING = 8.0  # seconds for explanations, the report and for ending the process
STEADY = 0.4  # share of a step that is as long for small images: overheads and the last stages
SAVING = 0.15  # seconds an epoch for evaluating and for writing the best weights
FORWARD = 3.0  # a training step costs about as much as three forward passes
FLOAT32 = 2.0  # and final predictions, made in float32, about twice the reduced precision
SAMPLE = 2_000  # training images that mean, std and the first layer are measured on


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe with nothing left open, and what it was derived from.

    Attributes:
        size: final side of the training images; the card's size is what the model is judged at.
        rows: (what, value, why) for people. speed: the measurements behind it.
        reserve: seconds kept back for measuring and reporting.
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
    notes: tuple[str, ...] = ()

    def initial_model(self) -> nn.Module:
        """Build the network with weights that depend on the seed, and on the data where it asks to see some."""
        return new_model(self.card, self.recipe, self.loader, self.device)


def new_model(card: ModelCard, recipe: Recipe, loader: Loader, device: torch.device) -> nn.Module:
    """Build a card's network; `quick` is shown up to 2,000 training images first."""
    torch.manual_seed(recipe.seed)
    size, channels = card.preprocess.size, card.preprocess.channels
    model = build(card.architecture, classes=len(card.classes), channels=channels, size=size, **card.arguments)
    if isinstance(model, Quick):
        model.whiten(normalise(loader.sample(SAMPLE), card.preprocess))
    if recipe.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model.to(device)


def check_model(recipe: Recipe, size: int, classes: int) -> None:
    """Build the network without weights now: a wrong name or size is refused before minutes of decoding."""
    if recipe.model.model != "auto":
        with torch.device("meta"):
            build(recipe.model.model, classes=classes, size=(size, size))


def choose_size(view: View, recipe: Recipe) -> int:
    """Return the side that images are brought to, in pixels.

    Small images stay as they are, tiny ones are enlarged by a whole factor, since a network halves them three times.
    Large ones are reduced: objects that fill a photo are known at that side, and every doubling costs four times the
    work.
    """
    if recipe.data.size is not None:
        return recipe.data.size
    if view.side > NATIVE:
        return min(PHOTO, view.side // 8 * 8)
    return view.side * math.ceil(TINY / view.side)


def make_plan(
    dataset: Dataset, division: Split, view: View, recipe: Recipe, device: torch.device, clock: Clock
) -> Generator[Event, None, Plan]:
    """Derive what the recipe leaves open; yields progress and returns the `Plan`."""
    steps = 3 + len(WIDTHS)
    yield Progress(task="planning", done=0, total=steps)
    images, labels = dataset.packed.images, dataset.catalog.labels
    some = _some(division.train, 20_000, recipe.seed)
    images, labels = images[some], labels[some]
    fitted = fit_baseline(images, labels, seed=recipe.seed)
    yield Progress(task="planning", done=1, total=steps)
    mirror = mirror_test(images, labels, dataset.catalog.classes, seed=recipe.seed)
    draft = _Draft(dataset=dataset, division=division, view=view, recipe=recipe, device=device, mirror=mirror)
    draft.settle_data()
    draft.settle_training()
    for done in draft.settle_width(clock):
        yield Progress(task="planning", done=2 + done, total=steps)
    draft.settle_epochs(clock)
    yield Progress(task="planning", done=steps, total=steps)
    return draft.finish(fitted)


@dataclass(kw_only=True)
class _Draft:
    """A plan in the making: each `settle` decides some settings and writes down why."""

    dataset: Dataset
    division: Split
    view: View
    recipe: Recipe
    device: torch.device
    mirror: MirrorTest
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    speed: dict[str, float] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)
    size: int = 0
    loader: Loader = field(init=False)
    preprocess: Preprocess = field(init=False)

    @property
    def count(self) -> int:
        return len(self.division.train)

    def say(self, what: str, value: str, why: str) -> None:
        self.rows.append((what, value, why))

    def settle_data(self) -> None:
        """Normalisation, size, flips and augmentation."""
        given, packed = self.recipe.data, self.dataset.packed
        side, channels = packed.preprocess.size[0], packed.preprocess.channels
        mean, std = mean_and_std(packed.images[_some(self.division.train, SAMPLE, self.recipe.seed)])
        self.preprocess = replace(packed.preprocess, mean=mean, std=std)
        why = "as asked" if given.size else f"their typical shorter side is {self.view.side} pixels"
        self.say("images", f"{side}×{side} {'grey' if channels == 1 else 'RGB'}", why)
        flip = self.mirror.safe if given.flip is None else given.flip
        preset = _preset(side, flip) if given.augment == "auto" else given.augment
        self.augmentation = PRESETS[preset] if preset == "none" else replace(PRESETS[preset], flip=flip)
        zooms_in = self.augmentation.scale is not None and self.augmentation.scale[1] <= 1
        self.size = round(side * MARGIN / 8) * 8 if zooms_in and side >= NATIVE else side
        why = "as asked" if given.flip is not None else self.mirror.reason
        self.say("augmentation", f"{preset}: {describe(self.augmentation)}", f"mirror test: {why}")
        self.recipe = replace(
            self.recipe, data=replace(given, size=side, channels=1 if channels == 1 else 3, augment=preset, flip=flip)
        )

    def settle_training(self) -> None:
        """Network, optimizer, batch and rates: from counts alone."""
        name = self.recipe.model.model
        model = replace(self.recipe.model, model="quick" if name == "auto" else name)
        train, quick = self.recipe.train, model.model == "quick"
        optimizer = train.optimizer or ("sgd" if quick else "adamw")
        batch = min(train.batch_size or batch_size_for(self.count), self.count)
        decay = {"sgd": 1.3e-3 if quick else 5e-4, "adam": 1e-4, "adamw": 0.01}[optimizer]
        momentum = 0.85 if quick and optimizer == "sgd" else 0.9
        resolved = replace(
            train,
            optimizer=optimizer,
            batch_size=batch,
            lr=train.lr or rate_for(optimizer, batch, quick=quick),
            momentum=momentum if train.momentum is None else train.momentum,
            weight_decay=decay if train.weight_decay is None else train.weight_decay,
            label_smoothing=(0.2 if quick else 0.1) if train.label_smoothing is None else train.label_smoothing,
            small_first=train.small_first or (0.625 if quick and self.size > NATIVE else 1.0),
            precision=best_precision(self.device) if train.precision == "auto" else train.precision,
        )
        self.recipe = replace(self.recipe, model=model, train=resolved)
        self.loader = Loader(
            self.dataset.packed.images,
            self.dataset.catalog.labels,
            self.division.train,
            classes=len(self.dataset.catalog.classes),
            batch_size=batch,
            preprocess=self.preprocess,
            augmentation=self.augmentation,
            seed=self.recipe.seed,
            device=self.device,
            sampler="balanced" if train.balance == "sampler" else "shuffle",
        )

    def settle_width(self, clock: Clock) -> Generator[int, None, None]:
        """The widest network that still passes over the images often enough in the time that is left."""
        if self.recipe.model.model != "quick" or self.recipe.model.width is not None:
            self._measure()
            return
        wanted = self.recipe.train.epochs or wanted_epochs(self.count)
        for done, width in enumerate(WIDTHS, 1):
            before, speed = self.recipe, self.speed
            self.recipe = replace(before, model=replace(before.model, width=width))
            self._measure()
            if done > 1 and self._affordable(clock) < wanted:
                self.recipe, self.speed = before, speed
                return
            yield done
            if math.isinf(clock.left) and width >= 64:
                return

    def settle_epochs(self, clock: Clock) -> None:
        """As many epochs as the budget holds."""
        train, model = self.recipe.train, self.recipe.model
        epochs = train.epochs or max(1, int(self._affordable(clock)))
        self.recipe = replace(self.recipe, train=replace(train, epochs=epochs))
        width = "" if model.width is None else f", {model.width} channels in the first stage"
        speed = f"{self.speed['images_per_second']:,.0f} images/s measured"
        self.say("network", f"{model.model}{width}", speed)
        why = "as asked" if train.epochs else f"what the {clock.left:.0f} s that are left hold"
        self.say("epochs", str(epochs), why)
        rate = f"{train.optimizer}, peak rate {train.lr:.3g}, {train.schedule}, weight decay {train.weight_decay:.3g}"
        self.say("optimizer", rate, f"batches of {train.batch_size} out of {self.count:,} images")
        if (train.small_first or 1) < 1:
            first = round((train.small_first or 1) * self.size)
            self.say("progressive", f"from {first} to {self.size} pixels", "early epochs need no fine details")
        how = f"{train.precision} on {self.device.type}, label smoothing {train.label_smoothing:g}"
        self.say("computing", how, "fastest on this hardware")
        seconds = epochs * self._epoch_seconds()
        self.say("time", f"about {seconds:.0f} s of training", f"and {self._reserve():.0f} s to measure and report")
        if clock.left - self._reserve() < SHORT:
            self.say("warning", "hardly any time is left to train", "give more --minutes, or fewer images")

    def finish(self, fitted: FittedBaseline) -> Plan:
        """Put the plan together."""
        notes = []
        if self.division.reported == "val":
            notes.append("The data came without a test part: its val part is reported, and was not used for choosing.")
        if self.division.unmeasured:
            notes.append(f"Too few images to measure: {', '.join(self.division.unmeasured[:5])}.")
        return Plan(
            recipe=self.recipe,
            card=self._card(),
            size=self.size,
            device=self.device,
            loader=self.loader,
            augmentation=self.augmentation,
            fitted=fitted,
            rows=tuple(self.rows),
            speed=self.speed,
            reserve=self._reserve(),
            notes=tuple(notes),
        )

    def _card(self) -> ModelCard:
        model = self.recipe.model
        given: dict[str, Any] = {n: v for n in ("width", "dropout") if (v := getattr(model, n)) is not None}
        accepted = inspect.signature(NETWORKS[model.model]).parameters if model.model in NETWORKS else {}
        for name in given:
            if name not in accepted:
                raise UsageError(f"The network {model.model} has no {name}: leave --{name} out.")
        if "stem" in accepted and max(self.preprocess.size) <= NATIVE:
            given["stem"] = "small"  # without it, five halvings would leave one pixel of a small image
        classes = self.dataset.catalog.classes
        return ModelCard(architecture=model.model, arguments=given, classes=classes, preprocess=self.preprocess)

    def _measure(self) -> None:
        train = self.recipe.train
        model = new_model(self._card(), self.recipe, self.loader, self.device)
        state = TrainState(model=model, optimizers=optimizers(model, train))
        seconds = step_seconds(state, self.loader, train, self.size) / self.loader.batch_size / train.accumulate
        self.speed = {"images_per_second": 1 / seconds}

    def _epoch_seconds(self) -> float:
        """Training and validation; of a step, a part grows with the area of the images and a part doesn't."""
        area = mean_area(self.recipe.train.small_first or 1.0)
        images = self.count * (STEADY + (1 - STEADY) * area) + len(self.division.val) / FORWARD
        return images / self.speed["images_per_second"] + SAVING

    def _reserve(self) -> float:
        """Seconds after the last step: predictions in float32, explanations, report."""
        held = len(self.division.test) + len(self.division.val)
        return LEAVING + held / self.speed["images_per_second"] / FORWARD * FLOAT32

    def _affordable(self, clock: Clock) -> float:
        """Epochs that fit into the time that is left."""
        return (clock.left - self._reserve()) * SAFETY / self._epoch_seconds()


def batch_size_for(count: int) -> int:
    """About 24 steps an epoch at first, a power of two from 16 to 512: small sets need many steps."""
    return int(min(512, max(16, 2 ** round(math.log2(max(count, 1) / 24)))))


def rate_for(optimizer: str, batch: int, *, quick: bool) -> float:
    """Peak rate: proportional to the batch for SGD (Goyal et al. 2017), to its root for Adam."""
    if optimizer == "sgd":
        return (0.0015 if quick else 0.0004) * batch
    return 2e-3 * math.sqrt(batch / 128)


def wanted_epochs(count: int) -> float:
    """Passes that a network should get before a wider one pays: 8 for 45,000 images, 49 for 1,200."""
    return min(100.0, 8 * math.sqrt(45_000 / max(count, 1)))


def mean_and_std(images: npt.NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Per channel, for values in [0, 1], of (N, H, W, C) uint8; a std of zero becomes 1/255."""
    pixels = images.reshape(-1, images.shape[-1])
    mean = pixels.mean(0, dtype=np.float64) / 255
    std = np.maximum(pixels.std(0, dtype=np.float64) / 255, 1 / 255)
    return tuple(round(float(v), 4) for v in mean), tuple(round(float(v), 4) for v in std)


def _preset(side: int, flip: bool) -> Preset:
    """Small images are only moved; in larger ones, a crop keeps the meaning where a mirror does."""
    if side <= NATIVE:
        return "small"
    return "photo" if flip else "upright"


def _some(rows: npt.NDArray[np.int64], limit: int, seed: int) -> npt.NDArray[np.int64]:
    if len(rows) <= limit:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False))
