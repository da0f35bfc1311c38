"""The dial: from a budget in minutes to a complete recipe, by `rules` over counts, sides and measured speed.

What was given in the recipe is kept; what is None is derived, and every derived value comes with its reason.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import nn

from hubel.dataset.augment import describe
from hubel.dataset.config import parse_augmentation
from hubel.dataset.pack import Rows
from hubel.dataset.split import Split
from hubel.dataset.tensors import normalise
from hubel.evaluation.metrics import score
from hubel.evaluation.mirror import MirrorTest, mirror_test
from hubel.evaluation.predict import predict
from hubel.events import Event, Progress
from hubel.jobs.clock import Clock
from hubel.jobs.hardware import best_precision, step_seconds
from hubel.jobs.phases import HEAD_EPOCHS, HEAD_SHARE, Start, phases_for
from hubel.jobs.plan import FITTED, SAMPLE, Plan
from hubel.jobs.prepare import Dataset, mean_and_std
from hubel.jobs.recipe import Recipe
from hubel.jobs.rules import (
    MARGIN,
    NATIVE,
    batch_size_for,
    preset_for,
    rate_for,
    some_of,
    wanted_epochs,
)
from hubel.learning.config import Optimizer
from hubel.learning.engine import PRECISIONS, TrainState
from hubel.learning.head import FittedHead, head_from, is_linear
from hubel.learning.optim import optimizers
from hubel.learning.schedule import mean_area
from hubel.learning.transfer import CHUNK, FEATURE_LIMIT, Phase, depth_name, feature_bytes
from hubel.nn.loading import shared_classes
from hubel.nn.stages import features_are_enough, find_stages, set_trainable
from hubel.nn.weights import Weights
from hubel.nn.zoo import defaults_of
from hubel.records import ModelCard, Preprocess

COIN = 100  # validation images below which epochs are compared by their loss
STEPS = 10  # of planning, for the progress bar
WIDE = 64  # channels of the first stage that are enough where there is no budget
SAFETY = 0.97  # share of the time that is planned; the rest is for what measurements miss
SHORT = 5.0  # seconds: a budget that leaves less for training is worth a warning
LEAVING = 8.0  # seconds for explanations, the report and for ending the process
TUNED_LEAVING = 14.0  # the same for the larger networks that published weights are of
STEADY = 0.4  # share of a step that is as long for small images: overheads and the last stages
SAVING = 0.15  # seconds an epoch for evaluating and for writing the best weights
LOOKING = 0.5  # share of the time that is left after which a head makes do with the features that are there
KNOWN = 128  # training images on which it is measured whether the weights know the classes
FITTING = 2.0  # seconds to fit a head to features
FORWARD = 3.0  # a training step costs about as much as three forward passes
TOGETHER = 0.8  # of their speeds added up is what several processes reach
FLOAT32 = 2.0  # and final predictions, made in float32, about twice the reduced precision


def make_plan(
    dataset: Dataset,
    division: Split,
    recipe: Recipe,
    device: torch.device,
    clock: Clock,
    start: Start,
    processes: int = 1,
    like: Plan | None = None,
) -> Generator[Event, None, Plan]:
    """Derive what the recipe leaves open; yields progress and returns the `Plan`.

    Args:
        processes: that will share each batch; one measures for all.
        like: a plan for the same images, whose baseline and mirror test hold for this one, too.
    """
    yield Progress(task="planning", done=0, total=STEPS)
    card = ModelCard(
        architecture="auto", arguments={}, classes=dataset.catalog.classes, preprocess=dataset.packed.preprocess
    )
    plan = Plan(
        dataset=dataset,
        division=division,
        recipe=recipe,
        device=device,
        start=start,
        card=card,
        processes=processes,
    )
    if like is None:
        plan.settle_baseline()
        yield Progress(task="planning", done=1, total=STEPS)
        some = some_of(division.train, FITTED, recipe.seed)
        images, labels = Rows(dataset.packed.images, some), dataset.catalog.labels[some]
        plan.mirror = mirror_test(images, labels, dataset.catalog.classes, seed=recipe.seed)
    else:
        plan.baseline, plan.mirror = like.baseline, like.mirror
    settle_data(plan, plan.mirror)
    settle_training(plan)
    settle_known(plan)
    for done in settle_width(plan, clock):
        yield Progress(task="planning", done=2 + done, total=STEPS)
    if processes == 1 and plan.linear and _phases(plan, lambda _: math.inf)[0].fitted:
        until = clock.seconds + LOOKING * clock.left
        head = yield from fitted_head(plan, plan.initial_model()[0], lambda: clock.seconds > until)
        plan.start = replace(plan.start, head=head)
    settle_phases(plan, clock)
    yield Progress(task="planning", done=STEPS, total=STEPS)
    if division.reported == "val":
        plan.notes += ("The data came without a test part: its val part is reported, and was not used for choosing.",)
    if len(division.val) < COIN:
        plan.notes += (f"With {len(division.val)} validation images, epochs are compared by loss: accuracy is a coin.",)
    if division.unmeasured:
        plan.notes += (f"Too few images to measure: {', '.join(division.unmeasured[:5])}.",)
    return plan


def settle_data(plan: Plan, mirror: MirrorTest) -> None:
    """Normalisation, size, flips and augmentation."""
    given, side, channels = plan.recipe.data, plan.preprocess.size[0], plan.preprocess.channels
    plan.card = replace(plan.card, preprocess=_normalised(plan))
    why = "as asked" if given.size else f"their typical shorter side is {plan.dataset.side} pixels"
    plan.say("images", f"{side}×{side} {'grey' if channels == 1 else 'RGB'}", why)
    flip = mirror.safe if given.flip is None else given.flip
    text = preset_for(side, flip) if given.augment == "auto" else given.augment
    plan.augmentation = parse_augmentation(text, flip)
    zooms_in = plan.augmentation.scale is not None and plan.augmentation.scale[1] <= 1
    plan.size = round(side * MARGIN / 8) * 8 if zooms_in and side >= NATIVE else side
    why = "as asked" if given.flip is not None else mirror.reason
    plan.say("augmentation", f"{text}: {describe(plan.augmentation)}", f"mirror test: {why}")
    data = replace(given, size=side, channels=1 if channels == 1 else 3, augment=text, flip=plan.augmentation.flip)
    plan.recipe = replace(plan.recipe, data=data)


def settle_training(plan: Plan) -> None:
    """Network, optimizer, batch and rates: from counts, and from what the network wants."""
    train, tuned, count = plan.recipe.train, plan.start.weights is not None, len(plan.division.train)
    name = plan.recipe.model.model if plan.start.weights is None else plan.start.weights.architecture
    model = replace(plan.recipe.model, model="quick" if name == "auto" else name)
    wants = defaults_of(model.model)
    wanted = "adamw" if tuned else wants.optimizer or "adamw"  # the rates of fine-tuning are Adam's
    usual = "adam" if train.stages == "course" else cast(Optimizer, wanted)
    optimizer: Optimizer = train.optimizer or usual
    fitting = batch_size_for(count, tuned=tuned, muon=optimizer == "muon")
    batch = min(train.batch_size or fitting, count)
    decay = {"sgd": wants.sgd_weight_decay or 5e-4, "muon": 5e-4, "adam": 1e-4, "adamw": 0.01}[optimizer]
    momentum = {"sgd": wants.sgd_momentum or 0.9, "muon": 0.6}.get(optimizer, 0.9)
    small_first = wants.small_first if plan.size > NATIVE else None
    resolved = replace(
        train,
        optimizer=optimizer,
        batch_size=batch,
        lr=train.lr if tuned else train.lr or rate_for(optimizer, batch, sgd_rate=wants.sgd_rate),
        momentum=momentum if train.momentum is None else train.momentum,
        weight_decay=decay if train.weight_decay is None else train.weight_decay,
        label_smoothing=(wants.label_smoothing or 0.1) if train.label_smoothing is None else train.label_smoothing,
        small_first=train.small_first or small_first or 1.0,
        precision=best_precision(plan.device) if train.precision == "auto" else train.precision,
    )
    plan.recipe = replace(plan.recipe, model=model, train=resolved)
    plan.settle_card()
    plan.settle_loader()


def settle_known(plan: Plan) -> None:
    """Whether the weights' own layer for the classes is taken over: names alone may mean other things.

    All of the classes have to be known, and to be told apart better than by chance, which is how often answers like
    these would be right if they had nothing to do with the images (Cohen 1960).
    """
    weights, classes = plan.start.weights, plan.card.classes
    plan.known = weights is not None and len(shared_classes(classes, weights.classes or ())) == len(classes)
    if not plan.known:
        return
    rows = some_of(plan.division.train, KNOWN, plan.recipe.seed)
    images, labels = Rows(plan.dataset.packed.images, rows), plan.dataset.catalog.labels[rows]
    scores = score(predict(plan.initial_model()[0], images, plan.preprocess, device=plan.device), labels, classes)
    answers, truth = np.array(scores.confusion).sum(0), [each.support for each in scores.per_class]
    chance = float(answers @ truth) / scores.n**2
    plan.known = scores.interval[0] > chance
    if not plan.known:
        found = f"{scores.accuracy:.1%} of {scores.n} training images are answered right, {chance:.1%} by chance"
        plan.say("classes", "start anew", f"the weights know them by name, but only {found}")


def fitted_head(plan: Plan, model: nn.Module, enough: Callable[[], bool]) -> Generator[Progress, None, FittedHead]:
    """Fit a head to the features of the training images, or of as many as there is time for.

    Args:
        model: as the plan makes it. enough: whether the time is up.
    """
    assert plan.stages is not None
    images, labels = plan.dataset.packed.images, torch.from_numpy(plan.dataset.catalog.labels)
    rows, val = np.random.default_rng(plan.recipe.seed).permutation(plan.division.train), plan.division.val
    return (
        yield from head_from(
            model,
            plan.stages.final,
            (Rows(images, rows), labels[rows]),
            (Rows(images, val), labels[val]),
            plan.preprocess,
            device=plan.device,
            autocast=PRECISIONS[plan.recipe.train.precision],
            mirrored=plan.augmentation.flip,
            class_weights=plan.class_weights(),
            enough=enough,
        )
    )


def settle_width(plan: Plan, clock: Clock) -> Generator[int, None, None]:
    """The widest network that still passes over the images often enough in the time that is left."""
    model, widths = plan.recipe.model, defaults_of(plan.recipe.model.model).widths
    if not widths or "width" in model.given or plan.start.weights is not None:
        _measure(plan)
        return
    wanted = plan.recipe.train.epochs or wanted_epochs(len(plan.division.train))
    for done, width in enumerate(widths, 1):
        before = plan.recipe, plan.card, plan.speed
        plan.recipe = replace(plan.recipe, model=replace(model, width=width))
        plan.settle_card()
        _measure(plan)
        if done > 1 and _affordable(plan, clock) < wanted:
            plan.recipe, plan.card, plan.speed = before
            return
        yield done
        if math.isinf(clock.left) and width >= WIDE:
            return


def settle_phases(plan: Plan, clock: Clock) -> None:
    """As many epochs as the budget holds, in one phase from scratch and in several from published weights."""
    given = plan.recipe.train
    plan.reserve = _reserve(plan)
    plan.open_ended = given.epochs is None and given.stages in (None, "auto")
    if plan.start.weights is None:
        epochs = given.epochs or max(1, int(_affordable(plan, clock)))
        phases: tuple[Phase, ...] = (Phase(depth=None, epochs=epochs, lr=given.lr or 0.0),)
    else:
        phases = _phases(plan, lambda depth: _affordable_tuned(plan, clock, depth))
    plan.take(phases, ())
    seconds = _phase_seconds(plan)
    plan.shares = tuple(each / sum(seconds[number:]) for number, each in enumerate(seconds))
    width = plan.recipe.model.width
    network = plan.recipe.model.model + ("" if width is None else f", {width} channels in the first stage")
    network += "".join(f", {name} {value}" for name, value in plan.recipe.model.arguments.items())
    plan.say("network", network, f"{_training_speed(plan, None):,.0f} images/s measured")
    plan.say(
        "epochs",
        str(plan.recipe.train.epochs or 0),
        "as asked" if given.epochs else f"what the {clock.left:.0f} s that are left hold",
    )
    if plan.start.weights is not None:
        _say_phases(plan, plan.start.weights)
    elif plan.start.reason:
        plan.say("weights", "none, from scratch", plan.start.reason)
    _say_training(plan)
    plan.say("time", f"about {sum(seconds):.0f} s of training", f"and {plan.reserve:.0f} s to measure and report")
    if clock.left - plan.reserve < SHORT:
        plan.say("warning", "hardly any time is left to train", "give more --minutes, or fewer images")


def _say_training(plan: Plan) -> None:
    train = plan.recipe.train
    rate = f"peak rate {plan.phases[-1].lr:.3g}, {train.schedule}, weight decay {train.weight_decay:.3g}"
    why = f"batches of {train.batch_size} out of {len(plan.division.train):,} images"
    plan.say("optimizer", f"{train.optimizer}, {rate}", why)
    if (train.small_first or 1) < 1:
        first = round((train.small_first or 1) * plan.size)
        plan.say("progressive", f"from {first} to {plan.size} pixels", "early epochs need no fine details")
    how = f"{train.precision} on {plan.device.type}, label smoothing {train.label_smoothing:g}"
    plan.say("computing", how, "fastest on this hardware")


def _say_phases(plan: Plan, weights: Weights) -> None:
    why = "nothing is said about their images, so ImageNet's values are assumed" if weights.assumed else "their card"
    plan.say("weights", weights.name, f"{weights.numbers}: {why}")
    head = plan.start.head
    if head is not None:
        shown = f"{head.val_accuracy:.1%} of {len(plan.division.val):,} validation images with its head alone"
        plan.say("start", "from these weights", plan.start.reason or shown)
    phases = [
        "the head fitted" if p.fitted else f"{depth_name(p.depth)} {p.epochs} epochs at {p.lr:.2g}" for p in plan.phases
    ]
    kept = any(p.depth == 0 for p in plan.phases) and plan.views
    why = "the head first, on features that are computed once" if kept else "frozen batch norms keep their statistics"
    if plan.known:
        why = "the weights know all of the classes, so they are also measured as they are"
    plan.say("phases", ", then ".join(phases), why)


def _normalised(plan: Plan) -> Preprocess:
    """Mean and standard deviation as asked, of the weights, or measured on the training images."""
    given, weights, channels = plan.recipe.data, plan.start.weights, plan.preprocess.channels
    if weights is not None and weights.preprocess.channels == channels:
        mean, std = weights.preprocess.mean, weights.preprocess.std
    else:
        rows = some_of(plan.division.train, SAMPLE, plan.recipe.seed)
        mean, std = mean_and_std(Rows(plan.dataset.packed.images, rows))
    return replace(
        plan.preprocess,
        mean=mean if given.mean is None else given.mean[:channels],
        std=std if given.std is None else given.std[:channels],
    )


def _measure(plan: Plan) -> None:
    """Measure how fast the network trains, to each depth that a phase may have, and answers."""
    train = plan.recipe.train
    depths: set[int | None] = {None}
    model, _ = plan.initial_model()
    if plan.start.weights is not None:
        _divide(plan, model)
        depths = {phase.depth for phase in _phases(plan, lambda _: math.inf) if not phase.fitted} or {None}
    for depth in depths:
        if plan.stages is not None:
            set_trainable(model, plan.stages, depth)
        state = TrainState(model=model, optimizers=optimizers(model, replace(train, lr=train.lr or 1e-6)))
        seconds = step_seconds(state, plan.loader, train, plan.size) / plan.loader.batch_size / train.accumulate
        seconds /= 1 if plan.processes == 1 else plan.processes * TOGETHER
        plan.speed[depth_name(depth)] = 1 / seconds
    forward = FORWARD * _training_speed(plan, None) if plan.start.weights is None else _forward_speed(plan, model)
    plan.speed["forward"] = forward


def _phases(plan: Plan, affordable: Callable[[int | None], float]) -> tuple[Phase, ...]:
    return phases_for(plan.recipe, affordable, known=plan.known, linear=plan.linear)


def _divide(plan: Plan, model: nn.Module) -> None:
    """Find the stages, decide whether features can be kept, and freeze what the deepest phase leaves frozen."""
    plan.stages = find_stages(model, plan.shape)
    head, flips = plan.stages.head, 2 if plan.augmentation.flip else 1
    image = normalise(plan.loader.sample(2), plan.preprocess).to(plan.device)
    if features_are_enough(model, head, image):
        each = feature_bytes(model, head, plan.preprocess, device=plan.device)
        plan.views = min(flips, FEATURE_LIMIT // (each * (len(plan.division.train) + len(plan.division.val))))
    plan.linear = is_linear(model, plan.stages.final, image)


def _forward_speed(plan: Plan, model: nn.Module) -> float:
    """Measure images a second of a forward pass at the size that is judged: the better of two batches."""
    some = np.ascontiguousarray(plan.loader.sample(CHUNK).permute(0, 2, 3, 1).numpy())
    precision = PRECISIONS[plan.recipe.train.precision]
    taken = []
    for _ in range(2):
        began = time.perf_counter()
        predict(model, some, plan.preprocess, device=plan.device, autocast=precision)
        taken.append(time.perf_counter() - began)
    return len(some) / min(taken)


def _phase_seconds(plan: Plan) -> list[float]:
    tuned = plan.start.weights is not None
    return [
        _fit_seconds(plan)
        if phase.fitted
        else _head_seconds(plan, phase.epochs)
        if phase.depth == 0 and tuned
        else phase.epochs * _epoch_seconds(plan, phase.depth)
        for phase in plan.phases
    ]


def _fit_seconds(plan: Plan) -> float:
    """Features of all images, mirrored ones too, and the fit; next to nothing where the head was fitted before."""
    if plan.start.head is not None:
        return SAVING
    return _head_seconds(plan, 0) + FITTING


def _head_seconds(plan: Plan, epochs: int) -> float:
    """Computing features once, or a forward pass an epoch where they aren't kept."""
    forward = (len(plan.division.train) + len(plan.division.val)) / plan.speed["forward"]
    return forward * (plan.views + epochs * HEAD_SHARE) if plan.views else forward * epochs


def _training_speed(plan: Plan, depth: int | None) -> float:
    """Images a second when that depth is trained, or the least that was measured where it wasn't."""
    return plan.speed.get(depth_name(depth)) or min(v for name, v in plan.speed.items() if name != "forward")


def _epoch_seconds(plan: Plan, depth: int | None = None) -> float:
    """Training and validation; of a step, a part grows with the area of the images and a part doesn't."""
    area = mean_area(plan.recipe.train.small_first or 1.0)
    seconds = len(plan.division.train) * (STEADY + (1 - STEADY) * area) / _training_speed(plan, depth)
    return seconds + len(plan.division.val) / plan.speed["forward"] + SAVING


def _reserve(plan: Plan) -> float:
    """Seconds after the last step: predictions in float32, explanations, report."""
    held = len(plan.division.test) + len(plan.division.val)
    leaving = LEAVING if plan.start.weights is None else TUNED_LEAVING
    return leaving + held / plan.speed["forward"] * FLOAT32


def _affordable(plan: Plan, clock: Clock) -> float:
    """Epochs that fit into the time that is left."""
    return (clock.left - _reserve(plan)) * SAFETY / _epoch_seconds(plan)


def _affordable_tuned(plan: Plan, clock: Clock, depth: int | None) -> float:
    """Epochs of that depth that fit in after the head."""
    stages = plan.recipe.train.stages or "auto"
    head = 0.0
    if plan.linear and stages == "auto":
        head = _fit_seconds(plan)
    elif stages == "course" or (stages == "auto" and not plan.known):
        head = _head_seconds(plan, HEAD_EPOCHS)
    return ((clock.left - _reserve(plan)) * SAFETY - head) / _epoch_seconds(plan, depth)
