"""The dial: from a budget in minutes to a complete recipe, by `rules` over counts, sides and measured speed.

What was given in the recipe is kept; what is None is derived, and every derived value comes with its reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import nn

from hubel.dataset.augment import describe
from hubel.dataset.config import Augmentation
from hubel.dataset.loader import Loader
from hubel.dataset.pack import Rows
from hubel.dataset.split import Split
from hubel.dataset.tensors import normalise
from hubel.evaluation.baseline import FittedBaseline
from hubel.evaluation.mirror import MirrorTest, mirror_test
from hubel.evaluation.predict import predict
from hubel.jobs.clock import Clock
from hubel.jobs.dataset import Dataset, View
from hubel.jobs.hardware import best_precision, step_seconds
from hubel.jobs.plan import FITTED, SAMPLE, Plan, augmentation_for, baseline_for, loader_for, new_model
from hubel.jobs.recipe import Recipe
from hubel.jobs.rules import (
    MARGIN,
    NATIVE,
    WIDTHS,
    batch_size_for,
    mean_and_std,
    preset_for,
    rate_for,
    some_of,
    wanted_epochs,
)
from hubel.jobs.transfer import HEAD_EPOCHS, HEAD_SHARE, Start, phases_for
from hubel.learning.config import Optimizer
from hubel.learning.engine import PRECISIONS, TrainState
from hubel.learning.optim import optimizers
from hubel.learning.schedule import mean_area
from hubel.learning.transfer import CHUNK, FEATURE_LIMIT, Phase, depth_name, feature_bytes
from hubel.nn.loading import shared_classes
from hubel.nn.stages import Stages, features_are_enough, find_stages, set_trainable
from hubel.nn.weights import Weights
from hubel.nn.zoo import arguments_for, check_arguments
from hubel.records import Event, ModelCard, Preprocess, Progress

SMALL = ("quick", "speed")  # networks that whiten, and are as wide as the time allows
SAFETY = 0.97  # share of the time that is planned; the rest is for what measurements miss
SHORT = 5.0  # seconds: a budget that leaves less for training is worth a warning
LEAVING = 8.0  # seconds for explanations, the report and for ending the process
TUNED_LEAVING = 14.0  # the same for the larger networks that published weights are of
STEADY = 0.4  # share of a step that is as long for small images: overheads and the last stages
SAVING = 0.15  # seconds an epoch for evaluating and for writing the best weights
FORWARD = 3.0  # a training step costs about as much as three forward passes
TOGETHER = 0.8  # of their speeds added up is what several processes reach
FLOAT32 = 2.0  # and final predictions, made in float32, about twice the reduced precision


def make_plan(
    dataset: Dataset,
    division: Split,
    view: View,
    recipe: Recipe,
    device: torch.device,
    clock: Clock,
    start: Start,
    processes: int = 1,
) -> Generator[Event, None, Plan]:
    """Derive what the recipe leaves open; yields progress and returns the `Plan`.

    Args:
        processes: that will share each batch; one measures for all.
    """
    steps = 3 + len(WIDTHS)
    yield Progress(task="planning", done=0, total=steps)
    fitted = baseline_for(dataset, division, recipe.seed)
    yield Progress(task="planning", done=1, total=steps)
    some = some_of(division.train, FITTED, recipe.seed)
    images, labels = Rows(dataset.packed.images, some), dataset.catalog.labels[some]
    mirror = mirror_test(images, labels, dataset.catalog.classes, seed=recipe.seed)
    draft = _Draft(
        dataset=dataset,
        division=division,
        view=view,
        recipe=recipe,
        device=device,
        mirror=mirror,
        start=start,
        processes=processes,
    )
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
    start: Start
    processes: int = 1
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    speed: dict[str, float] = field(default_factory=dict)
    augmentation: Augmentation = field(default_factory=Augmentation)
    size: int = 0
    phases: tuple[Phase, ...] = ()
    stages: Stages | None = None
    views: int = 0
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
        self.preprocess = self._normalised(packed.preprocess)
        why = "as asked" if given.size else f"their typical shorter side is {self.view.side} pixels"
        self.say("images", f"{side}×{side} {'grey' if channels == 1 else 'RGB'}", why)
        flip = self.mirror.safe if given.flip is None else given.flip
        preset = preset_for(side, flip) if given.augment == "auto" else given.augment
        self.augmentation = augmentation_for(replace(given, augment=preset, flip=flip))
        zooms_in = self.augmentation.scale is not None and self.augmentation.scale[1] <= 1
        self.size = round(side * MARGIN / 8) * 8 if zooms_in and side >= NATIVE else side
        why = "as asked" if given.flip is not None else self.mirror.reason
        self.say("augmentation", f"{preset}: {describe(self.augmentation)}", f"mirror test: {why}")
        self.recipe = replace(
            self.recipe, data=replace(given, size=side, channels=1 if channels == 1 else 3, augment=preset, flip=flip)
        )

    def settle_training(self) -> None:
        """Network, optimizer, batch and rates: from counts alone."""
        name = self.recipe.model.model if self.start.weights is None else self.start.weights.architecture
        model = replace(self.recipe.model, model="quick" if name == "auto" else name)
        train, quick = self.recipe.train, model.model in SMALL
        tuned = self.start.weights is not None
        usual: Optimizer = "sgd" if model.model == "quick" else "muon" if model.model == "speed" else "adamw"
        optimizer = train.optimizer or ("adam" if train.stages == "course" else usual)
        fitting = batch_size_for(self.count, tuned=tuned, muon=optimizer == "muon")
        batch = min(train.batch_size or fitting, self.count)
        decay = {"sgd": 1.3e-3 if quick else 5e-4, "muon": 5e-4, "adam": 1e-4, "adamw": 0.01}[optimizer]
        momentum = {"sgd": 0.85 if quick else 0.9, "muon": 0.6}.get(optimizer, 0.9)
        resolved = replace(
            train,
            optimizer=optimizer,
            batch_size=batch,
            lr=train.lr if tuned else train.lr or rate_for(optimizer, batch, quick=quick),
            momentum=momentum if train.momentum is None else train.momentum,
            weight_decay=decay if train.weight_decay is None else train.weight_decay,
            label_smoothing=(0.2 if quick else 0.1) if train.label_smoothing is None else train.label_smoothing,
            small_first=train.small_first or (0.625 if quick and self.size > NATIVE else 1.0),
            precision=best_precision(self.device) if train.precision == "auto" else train.precision,
        )
        self.recipe = replace(self.recipe, model=model, train=resolved)
        self.loader = loader_for(
            self.dataset, self.division, self.recipe, self.preprocess, self.augmentation, self.device
        )

    def settle_width(self, clock: Clock) -> Generator[int, None, None]:
        """The widest network that still passes over the images often enough in the time that is left."""
        if self.recipe.model.model not in SMALL or "width" in self.recipe.model.given:
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
        if self.start.weights is not None:
            self._settle_phases(clock)
        else:
            epochs = train.epochs or max(1, int(self._affordable(clock)))
            self.phases = (Phase(depth=None, epochs=epochs, lr=train.lr or 0.0),)
        epochs = sum(phase.epochs for phase in self.phases)
        self.recipe = replace(self.recipe, train=replace(self.recipe.train, epochs=epochs))
        width = "" if model.width is None else f", {model.width} channels in the first stage"
        speed = f"{self.speed['images_per_second']:,.0f} images/s measured"
        self.say("network", f"{model.model}{width}", speed)
        why = "as asked" if train.epochs else f"what the {clock.left:.0f} s that are left hold"
        self.say("epochs", str(epochs), why)
        if self.start.weights is not None:
            self._say_phases(self.start.weights)
        rate = f"peak rate {self.phases[-1].lr:.3g}, {train.schedule}, weight decay {train.weight_decay:.3g}"
        rate = f"{train.optimizer}, {rate}"
        self.say("optimizer", rate, f"batches of {train.batch_size} out of {self.count:,} images")
        if (train.small_first or 1) < 1:
            first = round((train.small_first or 1) * self.size)
            self.say("progressive", f"from {first} to {self.size} pixels", "early epochs need no fine details")
        how = f"{train.precision} on {self.device.type}, label smoothing {train.label_smoothing:g}"
        self.say("computing", how, "fastest on this hardware")
        seconds = sum(self._phase_seconds())
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
        seconds = self._phase_seconds()
        return Plan(
            start=self.start,
            phases=self.phases,
            shares=tuple(each / sum(seconds[number:]) for number, each in enumerate(seconds)),
            stages=self.stages,
            views=self.views,
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
        given = check_arguments(model.model, model.given)
        suited = arguments_for(model.model, side=max(self.preprocess.size), flips=self.augmentation.flip)
        if self.start.weights is not None:
            suited = {**{k: v for k, v in suited.items() if k != "stem"}, **self.start.weights.arguments}
        given = {**suited, **given}
        classes = self.dataset.catalog.classes
        return ModelCard(architecture=model.model, arguments=given, classes=classes, preprocess=self.preprocess)

    def _measure(self) -> None:
        train = self.recipe.train
        model, _ = new_model(self._card(), self.recipe, self.loader, self.device, self.start)
        if self.start.weights is not None:
            self._divide(model)
        state = TrainState(model=model, optimizers=optimizers(model, replace(train, lr=train.lr or 1e-6)))
        seconds = step_seconds(state, self.loader, train, self.size) / self.loader.batch_size / train.accumulate
        seconds /= 1 if self.processes == 1 else self.processes * TOGETHER
        self.speed = {"images_per_second": 1 / seconds, "forward_per_second": FORWARD / seconds}
        if self.start.weights is not None:
            self.speed["forward_per_second"] = self._forward_speed(model)

    def _normalised(self, preprocess: Preprocess) -> Preprocess:
        """Mean and standard deviation as asked, of the weights, or measured on the training images."""
        given, weights, channels = self.recipe.data, self.start.weights, preprocess.channels
        if weights is not None and weights.preprocess.channels == channels:
            mean, std = weights.preprocess.mean, weights.preprocess.std
        else:
            rows = some_of(self.division.train, SAMPLE, self.recipe.seed)
            mean, std = mean_and_std(Rows(self.dataset.packed.images, rows))
        asked_mean, asked_std = given.mean, given.std
        return replace(
            preprocess,
            mean=mean if asked_mean is None else asked_mean[:channels],
            std=std if asked_std is None else asked_std[:channels],
        )

    @property
    def _knows_all(self) -> bool:
        """Whether the weights know every class by name."""
        weights, classes = self.start.weights, self.dataset.catalog.classes
        return weights is not None and len(shared_classes(classes, weights.classes or ())) == len(classes)

    def _divide(self, model: nn.Module) -> None:
        """Find the stages, decide whether features can be kept, and freeze what the deepest phase leaves frozen."""
        card = self._card()
        self.stages = find_stages(model, (card.preprocess.channels, *card.preprocess.size))
        head, flips = self.stages.head, 2 if self.augmentation.flip else 1
        image = normalise(self.loader.sample(2), card.preprocess).to(self.device)
        if features_are_enough(model, head, image):
            each = feature_bytes(model, head, card.preprocess, device=self.device)
            room = FEATURE_LIMIT // (each * (self.count + len(self.division.val)))
            self.views = min(flips, room)
        depths = [phase.depth for phase in phases_for(self.recipe, lambda: 1, known=self._knows_all)]
        set_trainable(model, self.stages, None if None in depths else max(d for d in depths if d is not None))

    def _forward_speed(self, model: nn.Module) -> float:
        """Measure images a second of a forward pass at the size that is judged: the better of two batches."""
        some = np.ascontiguousarray(self.loader.sample(CHUNK // 2).permute(0, 2, 3, 1).numpy())
        precision = PRECISIONS[self.recipe.train.precision]
        taken = []
        for _ in range(2):
            began = time.perf_counter()
            predict(model, some, self.preprocess, device=self.device, autocast=precision)
            taken.append(time.perf_counter() - began)
        return len(some) / min(taken)

    def _settle_phases(self, clock: Clock) -> None:
        def affordable() -> float:
            stages = self.recipe.train.stages or "auto"
            with_head = stages == "course" or (stages == "auto" and not self._knows_all)
            left = (clock.left - self._reserve()) * SAFETY - (self._head_seconds(HEAD_EPOCHS) if with_head else 0)
            return left / self._epoch_seconds()

        self.phases = phases_for(self.recipe, affordable, known=self._knows_all)
        text = ",".join(map(str, self.phases))
        self.recipe = replace(self.recipe, train=replace(self.recipe.train, stages=text, lr=self.phases[-1].lr))

    def _say_phases(self, weights: Weights) -> None:
        why = (
            "nothing is said about their images, so ImageNet's values are assumed" if weights.assumed else "their card"
        )
        self.say("weights", weights.name, f"{weights.numbers}: {why}")
        said = [f"{depth_name(p.depth)} {p.epochs} epochs at {p.lr:.2g}" for p in self.phases]
        kept = any(p.depth == 0 for p in self.phases) and self.views
        why = (
            "the head first, on features that are computed once" if kept else "frozen batch norms keep their statistics"
        )
        if self._knows_all:
            why = "the weights know all of the classes by name, so they are also measured as they are"
        self.say("phases", ", then ".join(said), why)

    def _phase_seconds(self) -> list[float]:
        return [
            self._head_seconds(phase.epochs)
            if phase.depth == 0 and self.start.weights is not None
            else phase.epochs * self._epoch_seconds()
            for phase in self.phases
        ]

    def _head_seconds(self, epochs: int) -> float:
        """Computing features once, or a forward pass an epoch where they aren't kept."""
        forward = (self.count + len(self.division.val)) / self.speed["forward_per_second"]
        return forward * (self.views + epochs * HEAD_SHARE) if self.views else forward * epochs

    def _epoch_seconds(self) -> float:
        """Training and validation; of a step, a part grows with the area of the images and a part doesn't."""
        area = mean_area(self.recipe.train.small_first or 1.0)
        seconds = self.count * (STEADY + (1 - STEADY) * area) / self.speed["images_per_second"]
        return seconds + len(self.division.val) / self.speed["forward_per_second"] + SAVING

    def _reserve(self) -> float:
        """Seconds after the last step: predictions in float32, explanations, report."""
        held = len(self.division.test) + len(self.division.val)
        return (LEAVING if self.start.weights is None else TUNED_LEAVING) + held / self.speed[
            "forward_per_second"
        ] * FLOAT32

    def _affordable(self, clock: Clock) -> float:
        """Epochs that fit into the time that is left."""
        return (clock.left - self._reserve()) * SAFETY / self._epoch_seconds()
