"""What a network starts from, and the phases in which published weights are fitted to new images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from hubel.errors import UsageError
from hubel.jobs.recipe import Recipe
from hubel.learning.head import FittedHead
from hubel.learning.transfer import COURSE, HEAD_FITTED, NAMED, Phase, parse_phases
from hubel.nn.foreign import UNTRUSTED, is_code
from hubel.nn.weights import Weights, read_weights
from hubel.nn.zoo import Builder

HEAD_EPOCHS = (
    20  # of the head alone: they cost little, and bring the rest of the network to a head that knows something
)
HEAD_RATE = 1e-3
RATE = 2e-4  # of the whole network afterwards
DEEP, DEEP_EPOCHS, DEEP_RATE = 2, 8, 5e-4  # after a fitted head: the last stages first,
MOST_EPOCHS = 30  # then everything, so many epochs at most
LEAST_EPOCHS = 2  # and each of them only where there is time for an eighth of so many: the clock paces what is slower
HOPE = 1.5  # times the epochs that the measured speed allows are planned: others may have used the machine just then
KNOWN_RATE = 2e-5  # of a network that knows all of the classes already: there is more to lose than to learn
COURSE_EPOCHS = 10  # a phase, where neither epochs nor minutes were given
HEAD_SHARE = 1 / 20  # cost of an epoch on kept features, as a share of a forward pass over the images


@dataclass(frozen=True, kw_only=True)
class Start:
    """What a network starts from: published weights, or None for new ones; and the user's own code, or None.

    Attributes:
        head: the last layer, where it was fitted before the training. reason: why these weights, or why none.
    """

    weights: Weights | None = None
    code: Builder | None = None
    head: FittedHead | None = None
    reason: str = ""


def start_for(recipe: Recipe, code: Builder | None) -> Start:
    """Load what ``--weights`` names, beside the code that the call named.

    Raises:
        UsageError, ModelError: they can't be used, or a setting of fine-tuning stands alone.
    """
    model, train = recipe.model, recipe.train
    if code is None and is_code(model.model):
        raise UsageError(f"The recipe {UNTRUSTED.format(name=model.model)}")
    if model.weights in (None, "auto", "none"):
        if train.stages is not None:
            raise UsageError(f"--stages {train.stages} divides fine-tuning into phases: it goes with --weights only.")
        return Start(code=code)
    if train.find_lr:
        raise UsageError("--find-lr is for training from scratch: with --weights, --stages and --lr set the rates.")
    return Start(weights=read_weights(model.weights, model.model, arguments=model.given, code=code), code=code)


def phases_for(
    recipe: Recipe, affordable: Callable[[int | None], float], *, known: bool = False, linear: bool = False
) -> tuple[Phase, ...]:
    """Turn ``--stages``, ``--epochs`` and ``--lr`` into phases.

    Args:
        affordable: epochs of a phase of that depth that the time after the head holds; infinite without a budget.
        known: whether the weights know all of the classes by name, so that the head needs no phase of its own.
        linear: whether the network ends in one dense layer, which can be fitted.

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
        each = _whole(train.epochs / 2 if train.epochs else min(affordable(1), COURSE_EPOCHS))
        return tuple(Phase(depth=depth, epochs=each, lr=rate) for depth, rate in rates.items())
    if text == "head":
        return (Phase(depth=0, epochs=train.epochs or HEAD_EPOCHS, lr=lr or HEAD_RATE),)
    if text == "auto" and linear:
        return (HEAD_FITTED, *_deepening(train.epochs, lr or DEEP_RATE, affordable))
    rate = lr or (KNOWN_RATE if known else RATE)
    deep = Phase(depth=None, epochs=train.epochs or _whole(min(affordable(None), 100)), lr=rate)
    return (deep,) if text == "all" or known else (Phase(depth=0, epochs=HEAD_EPOCHS, lr=HEAD_RATE), deep)


def _deepening(epochs: int | None, lr: float, affordable: Callable[[int | None], float]) -> Iterator[Phase]:
    """The last stages, and then everything, as far as epochs or time go."""
    if epochs:
        last = min(DEEP_EPOCHS, -(-epochs // 2))
        rest = epochs - last
    else:
        last = _hoped(affordable(DEEP), DEEP_EPOCHS)
        rest = _hoped(affordable(None) * (1 - last / max(affordable(DEEP), last, 1)), MOST_EPOCHS) if last else 0
    if last:
        yield Phase(depth=DEEP, epochs=last, lr=lr)
    if rest:
        yield Phase(depth=None, epochs=rest, lr=lr)


def _hoped(epochs: float, most: int) -> int:
    """So many epochs as there may be time for, or none."""
    return 0 if epochs < LEAST_EPOCHS / 8 else int(min(max(HOPE * epochs, LEAST_EPOCHS), most))


def _whole(epochs: float) -> int:
    return max(1, int(epochs))
