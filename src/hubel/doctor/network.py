"""Rules on the network: its start, its outputs, its layers."""

from __future__ import annotations

import numpy as np

from hubel.doctor.rules import Seen, rule
from hubel.doctor.signs import Case, Look

DEAD, SATURATED = 0.5, 0.5
NEARLY = 0.9  # dead share that harms even where the network learns, or where units of a linear layer are meant
FRESH = 4  # lengths of memory after which running statistics hold nothing of the start
SLOW = 60  # steps after which something should be learned
STALE = 40  # steps after which running statistics have had their time


@rule("softmax-twice", 5, 0, "the network ends in a softmax, and cross-entropy takes another one", "return logits")
def softmax_twice(case: Case) -> Seen | None:
    """Probabilities as logits: the loss stays above ln(1 + (K - 1) / e). With a loss of logarithms they fit."""
    look = _first(case)
    if sum(step.twice for step in case.steps) >= 3:
        return Seen(words="the gradient at the outputs is that of a softmax on a softmax", strength=1.0)
    if look is None or not look.sums_to_one or not _paired(case) or sum(step.squared for step in case.steps) >= 3:
        return None
    return Seen(words="outputs are probabilities (each row sums to 1)", strength=1.0)


@rule(
    "head-and-loss",
    42,
    0,
    "outputs and loss don't fit each other",
    "take logits with cross-entropy, K outputs for K classes",
)
def head_and_loss(case: Case) -> Seen | None:
    """Sigmoid before cross-entropy; one output for argmax; logarithms expected; more outputs than classes."""
    look = case.looks[-1] if case.looks else None
    if look is None:
        return None
    if look.in_unit and not look.sums_to_one and look.outputs > 1 and _paired(case) and case.steps:
        return Seen(
            words="all outputs lie in 0 to 1, as from a sigmoid, and cross-entropy takes them for logits", strength=0.8
        )
    if look.clipped and _paired(case) and case.steps:
        return Seen(words="a ReLU cuts off all outputs below 0, and cross-entropy takes them for logits", strength=0.9)
    if sum(step.squared for step in case.steps) >= 3 and case.now >= SLOW and not case.learned():
        return Seen(words="the loss is the squared error of the outputs, which hardly moves a classifier", strength=0.5)
    if look.outputs == 1 and look.in_unit and sum(step.logit for step in case.steps) >= 3:
        words = "the output lies in 0 to 1, as from a sigmoid, and the loss takes it for a logit"
        return Seen(words=words, strength=0.9, remedy="take the sigmoid out, or take BCELoss")
    if sum(step.averaged for step in case.steps) >= 3:
        words = "every image is given the batch's mean label: outputs (N, 1) and labels (N,) are spread over each other"
        return Seen(words=words, strength=1.0, remedy="squeeze the outputs, or give the labels a second axis")
    norms = [step.norm for step in case.steps if step.norm is not None]
    if look.outputs == 1 and len(norms) >= 3 and max(norms) == 0:
        return Seen(words="one output for cross-entropy: its gradient is 0 whatever happens", strength=1.0)
    if sum(step.picked for step in case.steps) >= 3 and not look.log_sums:
        return Seen(words="the loss takes the outputs for logarithms of probabilities, which they aren't", strength=0.9)
    if look.sums_to_one and sum(step.binary for step in case.steps) >= 3:
        return Seen(words="outputs are probabilities, and binary cross-entropy takes them for logits", strength=0.9)
    used = len([count for count in case.counts if count])
    if used > 1 and sum(case.counts) > 200 * used and 2 * used < look.outputs and look.outputs > 4:
        return Seen(words=f"{look.outputs} outputs for {used} classes", strength=0.4)
    return None


@rule(
    "bad-head-start",
    6,
    1,
    "the head starts with far too large weights",
    "start it smaller, so that the first loss is about ln K",
)
def bad_head_start(case: Case) -> Seen | None:
    """An answer that knows nothing costs ln K."""
    look = _first(case)
    if look is None or look.outputs < 2 or look.inputs.size > 10 or not _paired(case):
        return None
    ratio = look.train_loss / case.chance
    layers = [layer for layer in look.layers if layer.kind != "norm"]
    if ratio < 2.5 or len(layers) < 2 or layers[-1].gain < 3 * float(np.median([layer.gain for layer in layers[:-1]])):
        return None
    return Seen(
        words=f"the first loss is {look.train_loss:.1f}, ln K is {case.chance:.2f}",
        strength=min(ratio / 20, 0.9),
        where=(layers[-1].name,),
    )


@rule(
    "constant-start",
    7,
    1,
    "all filters of a layer start equal, so they stay equal",
    "start with random weights (He et al. 2015)",
)
def constant_start(case: Case) -> Seen | None:
    """What is equal and gets equal gradients never differs."""
    look = _first(case)
    alike = [layer.name for layer in look.layers if layer.alike] if look else []
    hidden = [name for name in alike if look and name != look.layers[-1].name]  # a head of zeros is a usual start
    if len(hidden) == 1 and not any(layer.alike and layer.name in hidden for layer in case.looks[-1].layers):
        return None  # its neighbours have told its filters apart
    if not hidden:
        return None
    return Seen(words=f"all filters of {_list(hidden)} are the same", strength=1.0, where=tuple(hidden))


@rule("frozen", 8, 0, "layers are frozen that nobody declared frozen", "set requires_grad, or declare frozen=True")
def frozen(case: Case) -> Seen | None:
    """A prefix that carries trained weights counts as declared."""
    look = case.looks[-1] if case.looks else None
    if look is None or case.intent.frozen or not look.frozen:
        return None
    own = {name.rpartition(".")[0] for name in look.frozen}
    order = [layer.name for layer in look.layers]
    held = [name for name in order if name in own]
    if not held or (look.trained_before and own.issuperset(order[: len(held)])):
        return None
    return Seen(
        words=f"{len(look.frozen)} parameters want no gradient ({_list(held)})", strength=0.9, where=look.frozen
    )


@rule("not-in-optimizer", 9, 0, "parameters are in no optimizer", "make the optimizer after the network is complete")
def not_in_optimizer(case: Case) -> Seen | None:
    """A set difference."""
    look = case.looks[-1] if case.looks else None
    if look is None or not (look.missing or look.unknown):
        return None
    if look.unknown:
        words = f"the network uses weights that it doesn't list among its own, of sizes {_list(look.unknown)}"
        return Seen(words=words, strength=1.0)
    return Seen(words=f"no optimizer has {_list(look.missing)}", strength=1.0, where=look.missing)


@rule("detached", 43, 0, "the graph is cut in the forward pass", "take .detach(), .item(), .data and no_grad out of it")
def detached(case: Case) -> Seen | None:
    """A parameter that is used, wants a gradient and gets none."""
    if case.unreached >= 3 and not case.steps:
        words = f"in {case.unreached} steps, no gradient came back to the outputs: backward() isn't called"
        words += ", or on a loss that isn't made of them"
        return Seen(words=words, strength=1.0, remedy="call loss.backward(), and take .detach() out before it")
    look = case.looks[0] if case.looks else None
    if look is None or not look.cut:
        return None
    return Seen(words=f"{_list(look.cut)} are used and get no gradient", strength=0.95, where=look.cut)


@rule(
    "used-twice", 45, 0, "one module stands at several places with other inputs at each", "make a module for each place"
)
def used_twice(case: Case) -> Seen | None:
    """A norm has one set of statistics for all its places."""
    norms = [layer for look in case.looks for layer in look.named("norm") if layer.calls > 1]
    far = list(dict.fromkeys(layer.name for layer in norms if layer.apart > 0.1))
    if not far:
        return None
    return Seen(
        words=f"{_list(far)} runs several times in a pass, with other statistics each time",
        strength=0.7,
        where=tuple(far),
    )


@rule(
    "details-lost",
    16,
    2,
    "strides and pooling throw the details away before the last layers",
    "stride later, or dilate",
    known="suspected",
)
def details_lost(case: Case) -> Seen | None:
    """Two convolutions that see a map of four positions or fewer."""
    look = _first(case)
    convs = [layer for layer in look.named("conv") if layer.calls == 1] if look else []
    small = [layer.name for layer in convs[-2:] if max(layer.map) <= 2]
    if len(convs) < 3 or len(small) < 2 or convs[0].map == (1, 1):
        return None
    return Seen(
        words=f"the maps of {_list(small)} have {convs[-1].map[0]}×{convs[-1].map[1]} positions",
        strength=0.4,
        where=tuple(small),
    )


@rule("no-activation", 17, 0, "there is no non-linear function between the layers", "put a ReLU after each convolution")
def no_activation(case: Case) -> Seen | None:
    """Layers without one between them are one layer."""
    look = _first(case)
    if look is None or look.activations or len(look.named("conv")) + len(look.named("linear")) < 2:
        return None
    return Seen(words="the graph from images to outputs holds no activation", strength=1.0)


@rule("tiny-batches", 18, 2, "batch norm's statistics come from too few images", "take larger batches, or group norm")
def tiny_batches(case: Case) -> Seen | None:
    """Fewer than eight images."""
    look = case.looks[-1] if case.looks else None
    sizes = sorted(step.at_once or step.images for step in case.steps)
    if look is None or not sizes or sizes[len(sizes) // 2] >= 8 or all(n.momentum is None for n in look.named("norm")):
        return None
    return Seen(words=f"batch norm sees batches of {sizes[len(sizes) // 2]}", strength=0.8)


@rule(
    "stale-statistics", 27, 2, "running statistics of batch norm lag behind", "raise its momentum, or compute them anew"
)
def stale_statistics(case: Case) -> Seen | None:
    """The same images cost far more in eval mode than in train mode."""
    late = [c for c in case.checkups if c.step >= STALE][-2:]
    rates = [layer.momentum for layer in case.looks[-1].named("norm") if layer.momentum] if case.looks else []
    if len(late) < 2 or not rates or min(rates) * case.now > FRESH:
        return None
    usual = [float(np.median(case.losses()[max(c.step - STALE, 0) : c.step])) for c in late]
    learned = [max(case.chance - level, 0.2 * case.chance) for level in usual]
    if all(c.train_loss > level + 0.6 * gain for c, level, gain in zip(late, usual, learned, strict=True)):
        return Seen(
            words=f"training images cost {late[-1].train_loss:.2f} in eval mode and {usual[-1]:.2f} in train mode",
            strength=0.9,
        )
    return None


@rule(
    "dead-channels",
    30,
    3,
    "channels are dead: their ReLU lets nothing through for any image",
    "lower the rate, start anew, or use a leaky ReLU",
)
def dead_channels(case: Case) -> Seen | None:
    """Zero on every image, not just on most: sparse outputs are healthy."""
    if not case.looks or case.looks[-1].dropout > 0.6:  # so much is zero by chance
        return None
    before = {layer.name for layer in case.looks[-2:][0].layers if layer.dead > DEAD}
    lost = [layer for layer in case.looks[-1].layers[1:] if layer.dead > DEAD and layer.name in before]
    dead = [layer for layer in lost if layer.dead > NEARLY or (layer.kind != "linear" and not case.learned())]
    if not dead:
        return None
    worst = max(dead, key=lambda layer: layer.dead)
    return Seen(
        words=f"{worst.dead:.0%} of the channels that enter {worst.name} are zero on all images",
        strength=worst.dead,
        where=tuple(layer.name for layer in dead),
    )


@rule(
    "saturation",
    31,
    3,
    "activations lie at the ends of their range, where gradients vanish",
    "start with smaller weights, normalise, or use ReLU",
)
def saturation(case: Case) -> Seen | None:
    """Beyond 5 in front of a tanh or a sigmoid."""
    look = case.looks[-1] if case.looks else None
    full = [layer for layer in look.layers[1:] if layer.saturated > SATURATED] if look else []
    if not full:
        return None
    worst = max(full, key=lambda layer: layer.saturated)
    return Seen(
        words=f"{worst.saturated:.0%} of what enters {worst.name} lies at an end of its range",
        strength=0.8,
        where=tuple(layer.name for layer in full),
    )


@rule(
    "vanishing",
    28,
    3,
    "gradients vanish on the way to the first layers",
    "use ReLU, He initialisation, batch norm and shortcuts",
)
def vanishing(case: Case) -> Seen | None:
    """First convolution against last layer."""
    for look in case.looks[:3]:
        known = [
            (layer.name, layer.gradient) for layer in look.layers if layer.kind != "norm" and layer.gradient is not None
        ]
        if len(known) < 3:
            continue
        (name, first), (_, last) = known[0], known[-1]
        if first < 1e-4 and first < 1e-3 * last:
            return Seen(
                words=f"the gradient of {name} is {first:.1e}, that of the last layer {last:.1e}",
                strength=0.8,
                where=(name,),
            )
    return None


def _first(case: Case) -> Look | None:
    return case.looks[0] if case.looks else None


def _paired(case: Case) -> bool:
    """Whether the loss is cross-entropy on the outputs, by its gradient."""
    return not case.steps or sum(step.paired for step in case.steps) * 2 > len(case.steps)


def _list(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
