"""What a network starts from, and the phases in which published weights are fitted to new images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hubel.errors import UsageError
from hubel.jobs.recipe import Recipe
from hubel.learning.transfer import COURSE, NAMED, Phase, parse_phases
from hubel.nn.foreign import UNTRUSTED, is_code
from hubel.nn.weights import Weights, read_weights
from hubel.nn.zoo import Builder

HEAD_EPOCHS = (
    20  # of the head alone: they cost little, and bring the rest of the network to a head that knows something
)
HEAD_RATE = 1e-3
RATE = 2e-4  # of the whole network afterwards
KNOWN_RATE = 2e-5  # of a network that knows all of the classes already: there is more to lose than to learn
COURSE_EPOCHS = 10  # a phase, where neither epochs nor minutes were given
HEAD_SHARE = 1 / 20  # cost of an epoch on kept features, as a share of a forward pass over the images


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a network starts from: published weights, or None for new ones; and the user's own code, or None."""

    weights: Weights | None = None
    code: Builder | None = None


def start_for(recipe: Recipe, code: Builder | None) -> Start:
    """Load what ``--weights`` names, beside the code that the call named.

    Raises:
        UsageError, ModelError: they can't be used, or a setting of fine-tuning stands alone.
    """
    model, train = recipe.model, recipe.train
    if code is None and is_code(model.model):
        raise UsageError(f"The recipe {UNTRUSTED.format(name=model.model)}")
    if model.weights is None:
        if train.stages is not None:
            raise UsageError(f"--stages {train.stages} divides fine-tuning into phases: it goes with --weights only.")
        return Start(code=code)
    if train.find_lr:
        raise UsageError("--find-lr is for training from scratch: with --weights, --stages and --lr set the rates.")
    return Start(weights=read_weights(model.weights, model.model, arguments=model.given, code=code), code=code)


def phases_for(recipe: Recipe, affordable: Callable[[], float], *, known: bool = False) -> tuple[Phase, ...]:
    """Turn ``--stages``, ``--epochs`` and ``--lr`` into phases.

    Args:
        affordable: epochs of the deepest phase that the time left holds; infinite without a budget.
        known: whether the weights know all of the classes by name, so that the head needs no phase of its own.

    Raises:
        UsageError: phases that are spelled out, and epochs or a rate beside them that say something else.
    """
    train = recipe.train
    text, lr = train.stages or "auto", train.lr
    if text not in NAMED:
        phases = parse_phases(text)
        total, last = sum(phase.epochs for phase in phases), phases[-1].lr
        if train.epochs not in (None, total) or lr not in (None, last):
            raise UsageError(
                f"--stages {text} says epochs and rates already ({total} epochs, {last:g} in the end): leave --epochs "
                "and --lr out."
            )
        return phases
    if text == "course":
        rates = {0: COURSE[0][1], 1: COURSE[1][1] if lr is None else lr}
        each = _whole(train.epochs / 2 if train.epochs else min(affordable(), COURSE_EPOCHS))
        return tuple(Phase(depth=depth, epochs=each, lr=rate) for depth, rate in rates.items())
    if text == "head":
        return (Phase(depth=0, epochs=train.epochs or HEAD_EPOCHS, lr=lr or HEAD_RATE),)
    rate = lr or (KNOWN_RATE if known else RATE)
    deep = Phase(depth=None, epochs=train.epochs or _whole(min(affordable(), 100)), lr=rate)
    return (deep,) if text == "all" or known else (Phase(depth=0, epochs=HEAD_EPOCHS, lr=HEAD_RATE), deep)


def _whole(epochs: float) -> int:
    return max(1, int(epochs))
