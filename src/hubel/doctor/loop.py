"""Rules on the loop around the network: what the user's own code does, or forgets."""

from __future__ import annotations

import re

import numpy as np

from hubel.doctor.rules import Seen, rule
from hubel.doctor.signs import Case

EARLY = 3  # steps after which a missing line shows
IDLE = 32  # backward passes without a step that nobody would accumulate undeclared
STARVED, HUNGRY, WARM = 0.5, 0.75, 5  # shares of the time; steps


@rule(
    "not-cleared",
    23,
    0,
    "gradients are not cleared, so each step repeats all earlier ones",
    "call optimizer.zero_grad() in each step, or declare accumulate=",
)
def not_cleared(case: Case) -> Seen | None:
    """Those of the step before are still there when the next backward pass begins."""
    late = case.steps[1:][-20:]
    carried = sum(step.carried for step in late)
    if len(late) < EARLY or carried * 2 < len(late):
        return None
    return Seen(
        words=f"in {carried} of the last {len(late)} steps, gradients of the step before were still there", strength=1.0
    )


@rule(
    "no-step",
    24,
    0,
    "the optimizer never changes the network",
    "call optimizer.step() after loss.backward(), with this network's parameters",
)
def no_step(case: Case) -> Seen | None:
    """Backward passes without a step; steps without a gradient; or steps that leave every weight as it is."""
    if case.idle >= max(IDLE, 2 * case.intent.accumulate):
        return Seen(words=f"{case.idle} backward passes without a step", strength=1.0)
    has = any(layer.gradient for look in case.looks for layer in look.layers)
    norms = [step.norm for step in case.steps if step.norm is not None]
    if has and len(norms) >= EARLY and not any(norms):
        words = "in no step was a gradient left when the optimizer came to it"
        return Seen(words=words, strength=1.0, remedy="clear gradients before backward(), not between it and step()")
    known, rates = case.updates(), [step.lr for step in case.steps]
    if len(known) >= EARLY and max(known) == 0 and max(rates[-EARLY:]) > 0:
        return Seen(words=f"{len(known)} steps changed no weight", strength=1.0)
    return None


@rule(
    "eval-while-training", 25, 0, "the network is trained in eval mode", "call model.train() at the start of each epoch"
)
def eval_while_training(case: Case) -> Seen | None:
    """Norms and dropout are off; frozen norms are declared as frozen."""
    known = [step.learning for step in case.steps[-20:] if step.learning is not None]
    if len(known) < EARLY or case.intent.frozen or (case.looks and case.looks[-1].frozen):
        return None
    off = sum(share == 0 for share in known)
    if off * 2 < len(known):
        return None
    return Seen(words=f"norms and dropout were in eval mode in {off} of the last {len(known)} steps", strength=0.9)


@rule("train-while-evaluating", 26, 0, "the network is evaluated in train mode", "call model.eval() before evaluating")
def train_while_evaluating(case: Case) -> Seen | None:
    """Answers then depend on the batch and on chance, and evaluation changes the statistics of norms."""
    wrong = [each for each in case.evaluations if each.in_train_mode]
    if case.looks and case.looks[0].unsteady:
        words = "the same images get other answers each time, even in eval mode"
        return Seen(words=words, strength=0.8, remedy="give F.dropout training=self.training, or make it an nn.Dropout")
    if not wrong:
        return None
    return Seen(
        words=f"norms or dropout were in train mode in {len(wrong)} of {len(case.evaluations)} evaluations",
        strength=0.9,
    )


@rule("evaluation-with-gradients", 41, 0, "evaluation records gradients", "wrap it in torch.no_grad()")
def evaluation_with_gradients(case: Case) -> Seen | None:
    """Time and memory for nothing."""
    passes = sum(each.with_graph for each in case.evaluations)
    if passes < 2:
        return None
    return Seen(words=f"{passes} passes recorded gradients which nobody asked for", strength=0.7)


@rule(
    "growing-memory",
    39,
    0,
    "graphs of earlier batches are kept alive",
    "add up float(loss) or loss.detach(), and evaluate under no_grad",
)
def growing_memory(case: Case) -> Seen | None:
    """Outputs of many passes whose graphs are still held."""
    if case.alive <= 8:
        return None
    return Seen(words=f"the graphs of {case.alive} passes are still in memory", strength=0.8)


@rule("schedule", 22, 2, "the schedule is stepped wrongly", "step it once a batch or once an epoch, as it was planned")
def schedule(case: Case) -> Seen | None:
    """A rate of zero, or of a thousandth, for a tenth of the steps."""
    rates = np.array([step.lr for step in case.steps])
    if len(rates) < 20 or rates.max() <= 0:
        return None
    peak = np.quantile(rates, 0.95)  # a few larger ones are a spike
    gone = float((rates[int((rates >= peak).argmax()) :] <= 1e-3 * peak).sum() / len(rates))
    if gone < 0.1:
        return None
    return Seen(words=f"the rate is below a thousandth of its peak in {gone:.0%} of the steps", strength=0.8)


@rule(
    "broken-numbers",
    32,
    3,
    "numbers have stopped being finite",
    "go back to the last sound weights, halve the rate, leave the image out",
)
def broken_numbers(case: Case) -> Seen | None:
    """A loss that is infinite or none."""
    bad = next((n for n, step in enumerate(case.steps, 1) if not np.isfinite(step.loss)), 0)
    if not bad and not case.broken:
        return None
    return Seen(
        words=f"in step {bad or case.now} {case.broken or 'the loss is no longer finite'}",
        strength=1.0 if "image" in case.broken else 0.7,
    )


@rule("starved", 37, 2, "the network waits for its images", "take more workers, or keep decoded images in a cache")
def starved(case: Case) -> Seen | None:
    """More than half of the time."""
    late = case.steps[WARM:]
    seconds = sum(step.seconds for step in late)
    if len(late) < 20 or seconds <= 0.5:
        return None
    share = sum(step.waited for step in late) / seconds
    if share < STARVED:
        return None
    return Seen(words=f"{share:.0%} of the time goes by until images are there", strength=share, note=share < HUNGRY)


@rule(
    "shapes",
    0,
    0,
    "a layer is given another shape than it takes",
    "make the layer for the shape that it is given",
    severity="error",
)
def shapes(case: Case) -> Seen | None:
    """What PyTorch says when it refuses, in words that say which number to change."""
    multiplied = re.search(r"shapes cannot be multiplied \(\d+x(\d+) and (\d+)x(\d+)\)", case.raised)
    if multiplied:
        given, wanted, width = multiplied.groups()
        words = f"a linear layer takes {wanted} numbers for each image and is given {given}"
        return Seen(words=f"{words} (it has to be nn.Linear({given}, {width}))", strength=1.0)
    channels = re.search(r"to have (\d+) channels, but got (\d+) channels", case.raised)
    if channels:
        return Seen(words="a convolution takes {} channels and is given {}".format(*channels.groups()), strength=1.0)
    return None


@rule(
    "out-of-memory",
    38,
    0,
    "memory does not suffice",
    "halve the batch and accumulate twice as many, or train in bfloat16",
    severity="error",
)
def out_of_memory(case: Case) -> Seen | None:
    """The exception says so."""
    if "out of memory" not in case.raised.lower() and "can't allocate memory" not in case.raised.lower():
        return None
    return Seen(words="the training ended out of memory", strength=1.0)
