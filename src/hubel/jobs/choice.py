"""Published weights or from scratch, where nothing was asked for: what the validation images say.

The weights that came with the installation are tried where there is time to look at every image; where they leave
more than a few errors, a small network is trained from scratch for a short time, and the better of the two goes on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch

from hubel.dataset.find import Catalog
from hubel.dataset.pack import Rows, pack
from hubel.evaluation.predict import predict
from hubel.events import Event, Progress, Step
from hubel.jobs.clock import Clock
from hubel.jobs.hardware import best_precision
from hubel.jobs.phases import Start, start_for
from hubel.jobs.plan import Plan
from hubel.jobs.planning import LEAVING, TUNED_LEAVING, make_plan, settle_phases
from hubel.jobs.prepare import Dataset, View, preprocess_for
from hubel.jobs.recipe import Recipe
from hubel.jobs.rules import choose_size
from hubel.learning.distributed import from_first
from hubel.learning.engine import PRECISIONS, TrainState, fit
from hubel.learning.optim import optimizers
from hubel.nn.foreign import is_code
from hubel.nn.weights import IMAGENET, Weights, installed_weights
from hubel.nn.zoo import Builder, build_for

AUTO, NONE = "auto", "none"
LEAST_SIDE = 32  # pixels: of smaller images, a network that halves them five times sees nothing
SIZES = (224, 192, 160, 128)  # that weights for photos are tried at, as the time allows,
ENLARGED = 160  # and small photos are enlarged to
LOOKING = 0.3  # share of the time that looking at every image may take
PROBED = 32  # images that the speed is measured on
FEW = 5_000  # images: so few are too few for a start from scratch, and some of them are enough for a head
PROBING, LEAST_PROBES = 1.0, 5  # seconds that measuring it takes, and times at least
TRIAL, LONGEST = 0.12, 60.0  # share of the time, and seconds at most, for trying from scratch
WITHOUT_BUDGET = 15.0  # seconds for it where there is no limit
FEW_ERRORS = 0.03  # share of validation images below which nothing else is tried


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How the images are decoded first: for published weights, or for a start from scratch.

    Attributes:
        recipe: with its weights settled. size: side of the images in pixels, where weights and time decide it.
        undecided: whether starting from scratch may turn out better.
    """

    recipe: Recipe
    start: Start
    size: int | None = None
    undecided: bool = False


def opening(
    recipe: Recipe, code: Builder | None, view: View, count: int, device: torch.device, clock: Clock
) -> Opening:
    """Settle ``--weights auto`` as far as it can be settled before the images are decoded.

    Args:
        view: what the headers say. count: of images.
    """
    if recipe.model.weights != AUTO:
        return Opening(recipe=recipe, start=start_for(recipe, code))
    candidates = installed_weights()
    reason = _why_from_scratch(recipe, code, view, candidates)
    if not reason:
        network = recipe.model.model if recipe.model.model in candidates else candidates[0]
        tuned = replace(recipe, model=replace(recipe.model, model=network, weights=IMAGENET))
        start = start_for(tuned, code)
        assert start.weights is not None
        size = recipe.data.size or _affordable_size(start.weights, view.side, count, device, clock)
        if size := int(from_first(str(size or 0))):  # each process may have measured something else
            return Opening(recipe=tuned, start=start, size=size, undecided=recipe.model.model == AUTO)
        reason = f"looking at {count:,} images through an ImageNet network would take too much of the time"
    scratch = from_scratch(recipe)
    return Opening(recipe=scratch, start=replace(start_for(scratch, code), reason=reason))


def _why_from_scratch(recipe: Recipe, code: Builder | None, view: View, candidates: tuple[str, ...]) -> str:
    model, train = recipe.model, recipe.train
    if code is not None or is_code(model.model) or model.model not in (AUTO, *candidates):
        return "--weights imagenet starts from published ones, where there are any for this network"
    if model.given or train.find_lr or train.small_first is not None or recipe.data.channels not in (None, 3):
        return "as the settings that were given ask for it"
    if not candidates:
        return "no weights are installed"
    if view.side < LEAST_SIDE:
        return f"images of {view.side} pixels are too small for a network that was trained on photos"
    return ""


def from_scratch(recipe: Recipe) -> Recipe:
    """Return the recipe without published weights."""
    return replace(recipe, model=replace(recipe.model, weights=NONE))


def _affordable_size(weights: Weights, side: int, count: int, device: torch.device, clock: Clock) -> int | None:
    """The largest side at which all images can be looked at in a share of the time; None where they are too many."""
    images, precision = weights.preprocess, PRECISIONS[best_precision(device)]
    model = build_for(weights.architecture, 2, images, weights.arguments, None).to(device)
    pixels = np.zeros((PROBED, SIZES[-1], SIZES[-1], images.channels), np.uint8)
    small = replace(images, size=pixels.shape[1:3])
    taken: list[float] = []
    while sum(taken) < PROBING or len(taken) < LEAST_PROBES:
        began = time.perf_counter()
        predict(model, pixels, small, device=device, autocast=precision)
        taken.append(time.perf_counter() - began)
    each = min(taken) / PROBED
    most = max(images.size[0] if side >= ENLARGED else ENLARGED, choose_size(side, None, images))
    for size in SIZES:
        if size <= most and count * each * (size / SIZES[-1]) ** 2 <= LOOKING * (clock.left - TUNED_LEAVING):
            return size
    return SIZES[-1] if count <= FEW else None


def chosen(plan: Plan, catalog: Catalog, view: View, recipe: Recipe, clock: Clock) -> Generator[Event, None, Plan]:
    """Go on with a plan of fine-tuning, or with one from scratch that answers better on validation images.

    Args:
        recipe: as it was given.
    """
    head = plan.start.head
    if head is None or 1 - head.val_accuracy <= FEW_ERRORS or clock.left < 2 * max(plan.reserve, LEAVING):
        return plan
    preprocess = preprocess_for(view, recipe.data, choose_size(view.side, recipe.data.size, None))
    preprocess = replace(preprocess, range=plan.dataset.packed.preprocess.range)
    packed = yield from pack(catalog.root, catalog.paths, preprocess)
    dataset, scratch = replace(plan.dataset, packed=packed), from_scratch(recipe)
    seconds = WITHOUT_BUDGET if math.isinf(clock.left) else min(TRIAL * clock.left, LONGEST)
    accuracy = yield from _trial(plan, dataset, scratch, seconds)
    found = f"{head.val_accuracy:.1%} of {len(plan.division.val):,} validation images with its head alone"
    against = f"{accuracy:.1%} from scratch after {seconds:.0f} s"
    if accuracy > head.val_accuracy:
        start = Start(reason=f"{against}, {found} of {plan.card.architecture}")
        return (yield from make_plan(dataset, plan.division, scratch, plan.device, clock, start, like=plan))
    plan.start = replace(plan.start, reason=f"{found}, {against}")
    asked = recipe.train
    train = replace(plan.recipe.train, epochs=asked.epochs, stages=asked.stages, lr=asked.lr)
    plan.recipe = replace(plan.recipe, train=train)
    settle_phases(plan, clock)
    return plan


def _trial(tuned: Plan, dataset: Dataset, recipe: Recipe, seconds: float) -> Generator[Event, None, float]:
    """Train from scratch for so many seconds, and return the accuracy on the validation images."""
    division, device, clock = tuned.division, tuned.device, Clock(time.monotonic(), seconds + LEAVING)
    unreported = replace(division, test=division.test[:0])
    plan = yield from make_plan(dataset, unreported, recipe, device, clock, Start(), like=tuned)
    model, _ = plan.initial_model()
    state = TrainState(model=model, optimizers=optimizers(model, plan.recipe.train))
    began, allowed = clock.seconds, max(clock.left - LEAVING, seconds / 2)
    for event in fit(state, plan.loader, plan.recipe.train, size=plan.size):
        if isinstance(event, Step):
            used = (clock.seconds - began) / allowed
            state.pace = used if used > event.step / event.steps else 0.0
            yield Progress(task="trying from scratch", done=event.step, total=event.steps)
    images, labels = Rows(dataset.packed.images, division.val), dataset.catalog.labels[division.val]
    precision = PRECISIONS[plan.recipe.train.precision]
    logits = predict(model, images, plan.card.preprocess, device=device, autocast=precision)
    return float(np.mean(logits.argmax(1).cpu().numpy() == labels))
