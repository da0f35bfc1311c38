"""Rules on images and labels."""

from __future__ import annotations

import math

import numpy as np

from hubel.doctor.rules import Seen, rule
from hubel.doctor.signs import Case, Inputs

RAW, TWICE, FLAT = 10.0, 3.0, 0.05  # root mean square of raw values; deviations after two normalisations
LESS = 0.15  # correlation of neighbouring pixels, by which training images differ from validation images
STUCK, USUAL = 200, (1e-4, 0.03)  # steps in which something should have been learned; shares that a step changes
APART = 0.5  # deviations between training and validation images
LEAST = 200  # held-out images that say something about shares


@rule(
    "raw-inputs", 1, 1, "images reach the network as raw values", "divide by 255 and subtract the training images' mean"
)
def raw_inputs(case: Case) -> Seen | None:
    """Values of hundreds make first gradients of hundreds."""
    x = _inputs(case)
    if x is None or x.size < RAW:
        return None
    return Seen(words=f"inputs reach {max(x.high):.0f} (root mean square {x.size:.0f})", strength=1.0)


@rule(
    "normalised-twice",
    2,
    1,
    "images are normalised twice, or not at all",
    "bring them to mean 0 and deviation 1 once, after dividing by their largest value",
)
def normalised_twice(case: Case) -> Seen | None:
    """Dividing by 255 twice leaves hardly any deviation; subtracting and dividing twice leaves far too much."""
    x = _inputs(case)
    if x is None or x.size >= RAW:
        return None
    if max(x.std) < FLAT and max(x.high) - min(x.low) < 0.2:
        return Seen(words=f"inputs hardly differ (standard deviation {max(x.std):.2g})", strength=0.9)
    if max(x.std) > TWICE or (max(x.high) < -0.5 and max(x.std) < 1):
        return Seen(words=f"inputs have mean {x.mean[0]:.1f} and standard deviation {max(x.std):.1f}", strength=0.8)
    return None


@rule(
    "other-statistics", 3, 1, "the pretrained weights expect another mean and deviation", "normalise as their card says"
)
def other_statistics(case: Case) -> Seen | None:
    """Black and white have known values after the right normalisation."""
    x, mean, std = _inputs(case), case.intent.mean, case.intent.std
    if x is None or len(mean) != len(x.mean) or x.size >= RAW:
        return None
    black = [(0 - m) / s for m, s in zip(mean, std, strict=True)]
    white = [(1 - m) / s for m, s in zip(mean, std, strict=True)]
    spans = [w - b for b, w in zip(black, white, strict=True)]
    off = max(
        max(abs(low - b), abs(high - w)) / span
        for low, b, high, w, span in zip(x.low, black, x.high, white, spans, strict=True)
    )
    if off < 0.12:
        return None
    return Seen(
        words=f"inputs lie in {min(x.low):.2f} to {max(x.high):.2f}, the weights expect "
        f"{min(black):.2f} to {max(white):.2f}",
        strength=0.9,
    )


@rule("other-validation", 4, 0, "validation images are prepared otherwise than training images", "share the transform")
def other_validation(case: Case) -> Seen | None:
    """Augmentation moves the mean of a channel by far less than a missing normalisation does."""
    x = _inputs(case)
    for there in (e.inputs for e in case.evaluations if e.images >= 16):
        if x is None or len(there.mean) != len(x.mean):
            continue
        off = max(abs(a - b) / max(s, t, 1e-6) for a, b, s, t in zip(x.mean, there.mean, x.std, there.std, strict=True))
        ratio = max(max(s, t) / max(min(s, t), 1e-6) for s, t in zip(x.std, there.std, strict=True))
        span = max(b - a for a, b in zip(x.low, x.high, strict=True))
        ends = zip((*x.low, *x.high), (*there.low, *there.high), strict=True)
        moved = (
            max(abs(a - b) for a, b in ends) > 0.25 * span
        )  # augmentation that covers or cuts leaves black and white
        if moved and (off > APART or ratio > 1.7):
            return Seen(
                words=f"validation images have mean {there.mean[0]:.2f} and deviation {there.std[0]:.2f}, training "
                f"images {x.mean[0]:.2f} and {x.std[0]:.2f}",
                strength=0.9,
            )
        if abs(x.near - there.near) > LESS and _unknown_alone(case):
            return Seen(
                words=f"neighbouring pixels of validation images are alike to {there.near:.2f}, of training images to "
                f"{x.near:.2f}, and only training images are recognised"
            )
    return None


@rule(
    "labels-unpaired",
    10,
    0,
    "labels don't belong to their images",
    "look at some images with their labels",
    known="suspected",
)
def labels_unpaired(case: Case) -> Seen | None:
    """What is learned by heart helps no held-out image."""
    agree = [step.agree for step in case.steps if step.agree is not None and math.isfinite(step.loss)][:10]
    if len(agree) >= 10 and case.classes > 2 and float(np.mean(agree)) < 0.5:
        return Seen(words=f"the loss gets the labels that the loader gave for {np.mean(agree):.0%} of the images only")
    if _unknown_alone(case) and not other_validation(case):
        c = case.checkups[-1]
        return Seen(
            words=f"training images are right in {c.train_accuracy:.0%}, held-out ones in {c.accuracy:.0%} (chance)",
            strength=0.7,
        )
    if case.telling is None or case.now < STUCK or case.learned():
        return None
    (right, n), moved = case.telling, float(np.median(case.updates() or [0.0]))
    usual = max(max(case.counts, default=0) / max(sum(case.counts), 1), 1 / case.classes)
    if not USUAL[0] < moved < USUAL[1] or n < LEAST or right > usual + 1.64 * math.sqrt(usual * (1 - usual) / n):
        return None
    words = f"the loss stays at ln K, and the nearest class mean of small copies is right in {right:.0%} of {n} images"
    return Seen(words=words, strength=0.4, depth=2)


def _unknown_alone(case: Case) -> bool:
    """Whether training images are recognised, and held-out ones not at all."""
    late = [c for c in case.checkups if c.n >= 50][-3:]
    for c in late:
        chance, common = max(max(c.shares, default=0.0), 1 / case.classes), max(case.counts, default=0)
        bound = chance + 2.6 * math.sqrt(chance * (1 - chance) / c.n)
        least = max(bound, common / max(sum(case.counts), 1)) + 0.15
        if c.accuracy > bound or c.train_accuracy < least or not c.train_loss < 0.9 * case.chance < c.loss:
            return False
    return len(late) == 3


@rule(
    "label-noise",
    11,
    4,
    "some labels are wrong",
    "look at the suspects (hubel data FOLDER --labels), correct or leave them out",
)
def label_noise(case: Case) -> Seen | None:
    """Hard images are answered with doubt; wrong labels contradict the surest answers, too."""
    late, losses = case.checkups[-2:], case.losses(60)
    if len(late) < 2 or case.now < 100 or min(c.n for c in late) < LEAST:
        return None
    if (
        float(np.median(losses[30:])) < 0.9 * float(np.median(losses[:30]))
        or late[-1].accuracy < max(2.5 / case.classes, 0.5)  # else doubt is no wonder
        or other_validation(case)
    ):
        return None
    if all(
        c.accuracy < 0.9 and c.surest < 0.88 and c.surest - c.accuracy < 0.25 * (1 - c.accuracy) + 0.02 for c in late
    ):
        c = late[-1]
        return Seen(
            words=f"even the surest fifth of the held-out answers is right in {c.surest:.0%} only "
            f"(all: {c.accuracy:.0%})",
            strength=0.5,
        )
    return None


@rule(
    "destructive-augmentation",
    15,
    2,
    "augmentation destroys what the classes differ in",
    "soften it, and look at some augmented images",
    known="suspected",
)
def destructive_augmentation(case: Case) -> Seen | None:
    """Training images, as the network was given them, are far harder than held-out ones."""
    x, there = _inputs(case), [each.inputs for each in case.evaluations if each.images >= 16]
    if x and there and case.now >= 100 and not case.ever_learned():
        flat, detail = x.flat - there[-1].flat, (1 - x.near) / max(1 - there[-1].near, 1e-6)
        if flat > 0.35:
            return Seen(words=f"{flat:.0%} more of each training image is one colour than of validation images")
        if detail < 0.45:
            return Seen(words=f"training images hold {detail:.0%} of the detail that validation images have")
    known, chance = [c for c in case.checkups if c.step >= 20 and c.n >= 50][-2:], 1 / case.classes
    if len(known) < 2:
        return None
    c = known[-1]
    risen = max(c.train_accuracy - known[0].train_accuracy, 0)  # what was counted while learning lags behind
    far = min(each.accuracy - each.train_accuracy for each in known) - risen > 0.2
    twice = all(each.accuracy - chance > 2.5 * max(each.train_accuracy - chance, 0.02) for each in known)
    if not far and not (twice and c.accuracy - chance > 0.1 + risen):
        return None
    return Seen(
        words=f"training images are right in {c.train_accuracy:.0%} as they are augmented, "
        f"held-out ones in {c.accuracy:.0%}",
        strength=0.6,
    )


@rule("leak", 12, 0, "images of the validation part are trained on", "divide again, by groups that belong together")
def leak(case: Case) -> Seen | None:
    """The same image on both sides."""
    if case.compared < 32 or case.doubles <= max(1, 0.01 * case.compared):
        return None
    return Seen(words=f"{case.doubles} of {case.compared} validation images were met in training", strength=0.9)


@rule("imbalance", 13, 2, "rare classes are hardly learned", "weight the loss, or draw classes equally often")
def imbalance(case: Case) -> Seen | None:
    """Few images alone do no harm: the rarest class has to be recognised worse, too."""
    total, checkup = sum(case.counts), case.checkups[-1] if case.checkups else None
    if total < 200 or checkup is None or checkup.accuracy < 1.2 / case.classes:
        return None
    known = [(n / total, r) for n, r in zip(case.counts, checkup.recalls, strict=False) if math.isfinite(r)]
    rare, usual = ([r for share, r in known if (share < 0.3 / case.classes) == side] for side in (True, False))
    share = min((share for share, _ in known), default=1.0)
    if share > 0.2 / case.classes or not rare or not usual:
        return None
    gap = float(np.mean(usual) - np.mean(rare))
    if gap < 0.3:
        return None
    return Seen(words=f"the rarest class has {share:.1%} of the images, and recalls are {gap * 100:.0f} points apart")


@rule("unshuffled", 14, 0, "batches are not shuffled", "shuffle the training images (DataLoader(..., shuffle=True))")
def unshuffled(case: Case) -> Seen | None:
    """A shuffled batch holds its share of the classes, as many as chance gives it."""
    if any(step.averaged for step in case.steps):  # then nothing is known of labels
        return None
    rows, counts = [step.labels for step in case.steps[:60] if sum(step.labels) > 1], case.counts
    if len(rows) < 3 or sum(count > 0 for count in counts) < 2:
        return None
    draw, shares = np.random.default_rng(0), np.array(counts) / sum(counts)
    found = float(np.median([_entropy(np.array(row)) for row in rows]))
    usual = float(np.mean([_entropy(draw.multinomial(sum(row), shares)) for row in rows]))
    if usual < 0.1 or found > 0.5 * usual:
        return None
    return Seen(
        words=f"the labels of a batch have {found:.2f} nats of entropy, shuffled ones would have {usual:.2f}",
        strength=1.0,
    )


@rule(
    "axes",
    44,
    0,
    "the axes of the images are mixed up (view where permute was meant)",
    "bring them to (N, C, H, W) with permute",
)
def axes(case: Case) -> Seen | None:
    """In an image the nearest pixels are most alike; in interleaved channels, the third ones are."""
    x = _inputs(case)
    if x is None or len(x.mean) != 3:
        return None
    near, third = max((x.near, x.third), (x.below, x.third_below), key=lambda pair: pair[1] - pair[0])
    if third < near + 0.02:
        return None
    return Seen(words=f"pixels three apart are more alike ({third:.2f}) than neighbours ({near:.2f})", strength=1.0)


@rule("labels-range", 47, 0, "labels are shifted or scaled", "number the classes from 0 to K - 1, as whole numbers")
def labels_range(case: Case) -> Seen | None:
    """One class alone, or the first never and all others often."""
    if "out of bounds" in case.raised or "out-of-bounds" in case.raised:
        return Seen(words="a label is larger than the number of outputs allows", strength=1.0)
    total = sum(case.counts)
    single = case.classes == 1 and not any(step.norm for step in case.steps)
    if (total < 64 * case.classes and total < 400) or single or any(step.averaged for step in case.steps):
        return None
    used = [k for k, count in enumerate(case.counts) if count]
    if len(used) == 1:
        return Seen(words=f"all labels are {used[0]}", strength=1.0)
    if used and used[0] > 0 and len(used) == case.classes - used[0] and case.classes <= 20:
        return Seen(words=f"no label is {', '.join(map(str, range(used[0])))}, every other number occurs", strength=0.6)
    return None


def _inputs(case: Case) -> Inputs | None:
    return case.looks[0].inputs if case.looks and case.looks[0].inputs.finite else None


def _entropy(counts: np.ndarray) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())
