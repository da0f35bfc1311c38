"""Rules on how the training goes: rate, fit, and what came of it."""

from __future__ import annotations

import math

import numpy as np

from hubel.doctor.network import bad_head_start, dead_channels, saturation
from hubel.doctor.rules import Seen, rule
from hubel.doctor.signs import Case

SLOW, FAST = 1e-5, 0.1  # shares of the weights that a step changes
HEAVY = 0.97  # momentum
SHRINKING = 5e-3  # share of the weights that decay takes in a step, momentum counted in
MILD = 0.02  # weight decay that is usual
UNEVEN = 30.0  # times as much as usual, that an image counts
HUGE = 30.0  # deviation of outputs at the start
SEEN = 50  # steps after which the course of a training can be judged


@rule(
    "rate-too-low",
    19,
    2,
    "the learning rate is far too low",
    "raise it tenfold until the loss falls (hubel train --find-lr finds one)",
    known="suspected",
)
def rate_too_low(case: Case) -> Seen | None:
    """Weights hardly move, and the loss doesn't either."""
    known = [u for u in case.updates() if u > 0]
    if case.now < 20 or len(known) < 3 or float(np.median(known)) > 3 * SLOW or case.learned():
        return None
    return Seen(words=f"a step changes the weights by {float(np.median(known)):.1e} of their size", strength=0.7)


@rule("rate-too-high", 20, 2, "the learning rate is far too high", "divide it by 10, and warm up", known="suspected")
def rate_too_high(case: Case) -> Seen | None:
    """Steps as large as a tenth of the weights, or a loss that climbs far above its least."""
    losses, known = case.losses(), case.updates()
    if len(losses) < 10 or over_regularised(case) or oscillation(case):
        return None
    learned, dead = case.ever_learned(), dead_channels(case)
    rate = case.steps[-1].lr if learned else math.inf  # what an earlier, larger rate did is no fault of this one
    jumps = [step.update for step in case.steps if step.update and step.update > FAST and step.lr < 3 * rate]
    if learned and not (dead and max(jumps, default=0.0) > 3 * FAST):
        return None
    low, late = min(losses), [x if math.isfinite(x) else math.inf for x in losses[-10:]]
    climbs = float(np.median(late)) > max(1.5 * low, 1.3 * case.chance)
    start = losses[0]
    exploded = max((x for x in losses if math.isfinite(x)), default=0.0) > 3 * max(start, case.chance)
    if len(jumps) >= 2 or (climbs and exploded):
        words = f"steps change the weights by up to {max(known, default=0.0):.0%}"
        came = dead.words if dead else f"the loss went from {low:.2f} to {float(np.median(late)):.3g}"
        summed = any(step.summed for step in case.steps)
        more = " (the loss adds up over the batch: reduction='mean' is usual)" if summed else ""
        return Seen(words=f"{words}, and {came}{more}", strength=0.7)
    return None


@rule(
    "oscillation",
    21,
    2,
    "the training swings around instead of settling",
    "divide the rate by 3, or let it decay",
    known="suspected",
)
def oscillation(case: Case) -> Seen | None:
    """The loss of late steps moves up and down by its own size, and gets nowhere."""
    heavy = bool(case.looks) and case.looks[-1].momentum > HEAVY
    if case.now < SEEN or not (heavy or case.ever_learned()):
        return None
    width = int(np.clip(256 / max(case.steps[-1].images, 1), 8, 64))  # batches that make a steady mean
    smooth = np.convolve(case.losses(), np.ones(width) / width, "valid")
    smooth = smooth[np.isfinite(smooth)]
    if not len(smooth):
        return None
    least = np.minimum.accumulate(smooth)
    most, high = (smooth - least).max(), (smooth > 1.25 * least + 0.1 * case.chance).mean() > 0.15
    if heavy and (most > 0.1 * case.chance or not case.ever_learned()):
        words = f"with momentum {case.looks[-1].momentum:.3g}, the loss swings up by {most:.2f} from {least[-1]:.2f}"
        return Seen(words=words, strength=0.8)
    if most > 0.25 * case.chance and high:
        return Seen(words=f"the loss fell to {least[-1]:.2f} and swings up by {most:.2f} again", strength=0.6)
    return None


@rule("exploding", 29, 3, "gradients explode", "clip them, warm the rate up, normalise layers", known="measured")
def exploding(case: Case) -> Seen | None:
    """Far above what is usual for this run; or growing by orders of magnitude from the last layer to the first."""
    first = case.looks[0] if case.looks else None
    if first and first.spread > HUGE and max(first.inputs.size, 1) < 10 and not bad_head_start(case):
        return Seen(words=f"outputs reach {first.spread:.1e} before the first step", strength=0.9, depth=1)
    for look in case.looks[:2]:
        known = [layer.gradient for layer in look.layers if layer.kind != "norm" and layer.gradient is not None]
        grown = len(known) > 4 and known[0] > 1e3 * known[-1] and known[0] > 1
        if grown or (known and not math.isfinite(max(known)) and not case.broken.startswith("image")):
            words = f"the gradient grows from {known[-1]:.1e} in the last layer to {known[0]:.1e} in the first"
            return Seen(words=words, strength=0.8)
    norms = np.array([step.norm for step in case.steps if step.norm is not None and math.isfinite(step.norm)])
    for n in 8 + np.flatnonzero(norms[8:] > 30 * max(norms[:8].min(initial=np.inf), 0.1)):
        usual = float(np.median(norms[:n]))
        if norms[n] > 30 * max(usual, 0.1) and not case.learned():
            return Seen(words=f"gradients reach {norms[n]:.1e}, usual were {usual:.1e}", strength=0.6)
    return None


@rule(
    "constant-answer",
    33,
    3,
    "the network gives the same answer to nearly every image",
    "look at the causes named with it: imbalance, dead channels, the head's bias",
    known="suspected",
)
def constant_answer(case: Case) -> Seen | None:
    """While labels differ, and after steps enough."""
    look = case.looks[0] if case.looks else None
    tilted = look is not None and look.favourite > 0.95 and look.tilt > max(3 * case.chance, 3 * look.spread)
    if look and tilted and look.inputs.size < 10 and not bad_head_start(case) and not saturation(case):
        words = (
            f"from the start, {look.favourite:.0%} of the answers are the same, its output lies {look.tilt:.0f} above"
        )
        return Seen(words=f"{words} the others' mean: look at the head's bias", strength=0.9, depth=1)
    uneven = max((step.uneven for step in case.steps[:20]), default=1.0)
    if uneven > UNEVEN and any(each.favourite > 0.95 for each in case.looks[1:]):
        words = f"one image counts {uneven:,.0f} times as much as the usual one for the loss: look at its class weights"
        return Seen(words=words, strength=0.9, depth=1)
    late = case.looks[-2:]  # who knows nothing yet may answer so, and running statistics lag behind at first
    if len(late) < 2 or late[-1].step < 2 * SEEN:
        return None
    if any(look.favourite < max(0.95, look.of_labels + 0.2) or look.eval_loss < 1.1 * case.chance for look in late):
        return None
    look = late[-1]
    return Seen(words=f"{look.favourite:.0%} of the answers are the same class", strength=0.6)


@rule(
    "stuck",
    0,
    5,
    "the training loss stays at that of chance",
    "check the learning rate, try another block, verify labels",
    known="suspected",
)
def stuck(case: Case) -> Seen | None:
    """The course's first row: what a look can't explain yet."""
    if case.now < 2 * SEEN or case.learned():
        return None
    late, early = float(np.median(case.losses(30))), float(np.median(case.losses()[:10]))
    usual = max(case.counts, default=0) / max(sum(case.counts), 1)
    n = sum(step.images for step in case.steps[-30:])
    right = float(np.mean([step.accuracy for step in case.steps[-30:]]))
    if late < 0.95 * min(early, case.chance) or right > usual + 3 * math.sqrt(usual * (1 - usual) / max(n, 1)) + 0.02:
        return None
    return Seen(words=f"after {case.now} steps the loss is {late:.2f}, ln K is {case.chance:.2f}", strength=0.3)


@rule(
    "overfitting",
    34,
    4,
    "the network learns its images by heart",
    "keep the best weights, augment, drop out, or start from pretrained weights",
)
def overfitting(case: Case) -> Seen | None:
    """Held-out loss above its least, while the training loss falls."""
    c = case.checkups
    if len(c) < 4:
        return None
    least = min(range(len(c)), key=lambda i: c[i].loss)
    learning = min(each.train_loss for each in c[-2:]) < 0.8 * c[least].train_loss
    most = max(1.2 * c[least].loss, c[least].loss + 0.1 * case.chance)
    if least > len(c) - 3 or c[-1].loss < most or not learning:
        return None
    if max(each.accuracy for each in c[-2:]) > max(each.accuracy for each in c[:-2]) + 0.02:
        return None  # surer, but not worse
    return Seen(
        words=f"held-out loss rose from {c[least].loss:.2f} to {c[-1].loss:.2f} while the training loss fell to "
        f"{c[-1].train_loss:.2f}",
        strength=0.6,
    )


@rule(
    "worse-from-the-start",
    40,
    4,
    "held-out images are answered worse from the start",
    "augment, drop out, bring more data or pretrained weights; look whether they are prepared alike",
    known="measured",
)
def worse_from_the_start(case: Case) -> Seen | None:
    """A gap at the first evaluations in which anything was learned."""
    known = [c for c in case.checkups if c.train_accuracy > 1 / case.classes + 0.15][:3]
    if len(known) < 3 or min(c.n for c in known) < 40 or known[-1].train_accuracy < 0.5:
        return None
    gaps = [c.train_accuracy - c.accuracy for c in known]
    if min(gaps) < 0.08 or sum(gaps) < 0.6 or gaps[-1] < 0.3 or known[-1].loss < 1.3 * known[-1].train_loss:
        return None
    return Seen(
        words=f"training images are right in {known[-1].train_accuracy:.0%}, held-out ones in {known[-1].accuracy:.0%}",
        strength=0.4,
    )


@rule("underfitting", 35, 4, "the network is too small for the task", "more filters, more layers", known="suspected")
def underfitting(case: Case) -> Seen | None:
    """A plateau on training images, with hardly a gap to held-out ones."""
    c = case.checkups
    if len(c) < 3 or not case.looks or case.now < 2 * SEEN:
        return None
    hidden = case.looks[0].named("conv")  # what weighs channels may be narrow
    narrow = min(hidden, key=lambda layer: layer.width, default=None)
    if narrow is None or narrow.width > max(0.45 * case.classes, 2) or c[-1].train_accuracy > 0.85:
        return None
    if max(c[-1].train_accuracy - c[-1].accuracy, 0) > 0.1:
        return None
    return Seen(
        words=f"training accuracy stays at {c[-1].train_accuracy:.0%}, and {narrow.name} has {narrow.width} filters "
        f"for {case.classes} classes",
        strength=0.4,
        where=(narrow.name,),
    )


@rule("over-regularised", 36, 2, "regularisation outweighs the images", "lower weight decay or dropout")
def over_regularised(case: Case) -> Seen | None:
    """Decay pulls more than the gradient; or so much is dropped that training images cost far more in train mode."""
    look = case.looks[-1] if case.looks else None
    if look is None or case.now < 20:
        return None
    poor = look.eval_loss > 0.3 * case.chance and not case.learned()  # what learns on is not outweighed
    usual = look.shrink < MILD * case.steps[-1].lr / max(1 - look.momentum, 1e-3)  # then the rate is what is too high
    if (
        look.shrink > SHRINKING
        and not usual
        and max(case.updates()[:3], default=0.0) < max(FAST, 2 * look.shrink)
        and poor
    ):
        return Seen(words=f"weight decay takes {look.shrink:.1%} of the weights in each step", strength=0.9)
    if look.decay > 1 and len([1 for each in case.looks if each.decay > 1]) >= 2 and poor and case.ever_learned():
        return Seen(
            words=f"weight decay pulls {look.decay:.1f} times as much as the gradient",
            strength=min(look.decay / 10, 0.8),
        )
    stuck = case.now >= SEEN and not case.learned()
    if look.dropout >= 0.8 and (stuck or look.eval_loss < 0.8 * look.train_loss):
        return Seen(
            words=f"{look.dropout:.0%} is dropped: the same images cost {look.train_loss:.2f} with it "
            f"and {look.eval_loss:.2f} without",
            strength=0.7,
        )
    return None
