"""What the numbers say, in plain sentences: the verdict, and the likeliest causes of error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from hubel.events import EpochRow
from hubel.evidence import RunRecord
from hubel.records import Baselines, ClassScore, Finding, Scores, by_kind
from hubel.report.confusion import Pair, pairs, worst_first
from hubel.report.wording import NBSP, bare_percent, counted, named, percent, plain, points, whole

OVERFIT = 0.10
FEW_STEPS, FEW_IMAGES = 100, 20  # of a training, and of a class
RISING, GOOD = 0.02, 0.97  # gain in the last quarter of the epochs that is worth going on for, below that accuracy
# Parts of a finding's code that name a cause of wrong answers, rather than a file that was merely left out.
CAUSING = ("label", "conflict", "imbalance", "small", "few", "contradict", "shortcut", "blank", "slice")
MOST_PICTURES = 6


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One likely cause of wrong answers: a title, a sentence with its numbers, and images that show it.

    Attributes:
        images: indices of images. cell: (label, prediction) of the confusion cell with more of them.
    """

    title: str
    text: str
    images: tuple[int, ...] = ()
    cell: tuple[int, int] | None = None


def part_name(run: RunRecord) -> str:
    """How the reported images are called: ``test`` or ``validation``."""
    return "validation" if run.reported == "val" else run.reported


def best_epoch(history: tuple[EpochRow, ...]) -> EpochRow | None:
    """The epoch whose weights were kept: the last one that was marked as best."""
    return next((row for row in reversed(history) if row.best), None)


def verdict(run: RunRecord) -> list[str]:
    """The result in a few sentences: against the baselines, training against validation, the weakest class."""
    if not run.scores.n:
        return ["No image was measured, so nothing can be said about this network."]
    sentences = [against_baselines(run.scores, run.baselines, part_name(run))]
    gap = training_gap(run.history)
    more = [gap, divergence(run.history), weakest_class(run.scores), leaks(run), training_time(run), few_images(run)]
    return [*sentences, *(sentence for sentence in more if sentence)]


def advice(run: RunRecord) -> tuple[str, ...]:
    """What a friend would say at the end of a training: what went wrong, and what to do about it."""
    if not run.scores.n:
        return ()
    beside = against_baselines(run.scores, run.baselines, part_name(run))
    said = [beside if "worse than" in beside else "", divergence(run.history), training_time(run), few_images(run)]
    return tuple(sentence for sentence in said if sentence)


def training_time(run: RunRecord) -> str:
    """Say that the network was hardly trained, or was still getting better; empty otherwise."""
    rows = [row for row in run.history if row.epoch > 0]
    if not rows or not all(math.isfinite(row.val_loss) for row in rows):
        return ""
    last, minutes = rows[-1], max(1, math.ceil(2 * run.facts.seconds / 60))
    if last.step < FEW_STEPS and last.val_accuracy < GOOD and run.history[0].epoch > 0:
        steps = f"{counted(last.step, 'step')} in {whole(last.epoch)} of {counted(last.epochs, 'epoch')}"
        return f"It was hardly trained: {steps}. Give it more time, --minutes {minutes}, or a smaller --size."
    before = rows[-1 - max(len(rows) // 4, 1)] if len(rows) >= 4 else last
    gain = last.val_accuracy - before.val_accuracy
    if last.best and gain > RISING and last.val_accuracy < GOOD:
        return (
            f"It was still getting better at the end, by {points(gain)} in the last "
            f"{counted(last.epoch - before.epoch, 'epoch')}: give it --minutes {minutes}, or go on with "
            f"hubel resume {run.facts.folder} --extend {max(last.epoch // 2, 2)}."
        )
    return ""


def few_images(run: RunRecord) -> str:
    """Name the classes that were learned from very few images, the weakest first; empty if there are none."""
    trained = run.facts.counts.get("train", ())
    few = [(count, c) for count, c in zip(trained, run.scores.per_class, strict=False) if count < FEW_IMAGES]
    if not few:
        return ""
    count, weakest = min(few, key=lambda found: (found[1].recall, found[0]))
    others = f" and {counted(len(few) - 1, 'more class', 'more classes')}" if len(few) > 1 else ""
    return (
        f"{named(weakest.name)}{others} had very few training images ({counted(count, 'image')}): more of them would "
        "help most."
    )


def leaks(run: RunRecord) -> str | None:
    """Say how many of the measured images were, nearly, among those that were learned."""
    leaking = {path for f in run.findings if "leak" in f.code and not f.left_out for path in f.paths}
    known = len(leaking.intersection(run.paths))
    if not known:
        return None
    share = percent(known / len(run.paths), len(run.paths))
    return (
        f"{counted(known, 'measured image')} ({share}) {'is' if known == 1 else 'are'} also, or nearly, among the "
        "training images: the accuracy may flatter the network by as much."
    )


def against_baselines(scores: Scores, baselines: Baselines, part: str) -> str:
    """Say whether the interval lies above the better of the baselines."""
    low, high = scores.interval
    rivals = [(baselines.majority, "always answering the most frequent class")]
    if baselines.logistic is not None and math.isfinite(baselines.logistic):
        rivals.append((baselines.logistic, "logistic regression on small pixels"))
    best, name = max(rivals)
    told = f"{percent(scores.accuracy, scores.n)} of {counted(scores.n, f'{part} image')} are answered right"
    rival = f"{name} ({percent(best, scores.n)})"
    if not math.isfinite(scores.accuracy):
        return "The accuracy is not a number; the run has diverged, see the curves."
    if low > best:
        return f"{told}, {points(scores.accuracy - best)} above the best baseline, {rival}."
    if max(high, scores.accuracy) < best:  # of all right, the interval ends a rounding below 1
        return f"{told}, {points(best - scores.accuracy)} below {rival}: the network is worse than a simple method."
    return f"{told}: no clear difference from {rival}, which lies within the 95{NBSP}% interval."


def training_gap(history: tuple[EpochRow, ...]) -> str:
    """Compare training with validation accuracy at the best epoch; empty without finite numbers."""
    row = best_epoch(history) or (history[-1] if history else None)
    if row is None:
        return ""
    if not math.isfinite(row.train_accuracy) or not math.isfinite(row.val_accuracy):
        return ""
    train, val = row.train_accuracy, row.val_accuracy
    figures = f"{percent(train)} on training images against {percent(val)} on validation images at epoch {row.epoch}"
    if train - val > OVERFIT:
        return f"A sign of overfitting: {figures}; more images or stronger augmentation would help."
    if train >= val:
        return f"Training and validation stay close together: {figures}."
    return f"No sign of overfitting: {figures}; augmented training images are the harder ones."


def divergence(history: tuple[EpochRow, ...]) -> str:
    """Say from which epoch on the loss is not a finite number; empty if it always is."""
    bad = [row.epoch for row in history if not (math.isfinite(row.train_loss) and math.isfinite(row.val_loss))]
    if not bad:
        return ""
    kept = best_epoch(history)
    rest = f"the weights of epoch {kept.epoch} were kept" if kept is not None else "no epoch was better than the start"
    return f"The run diverged: from epoch {bad[0]} on the loss is not a finite number; {rest}."


def weakest_class(scores: Scores) -> str:
    """Name the class with the lowest recall and what it is taken for; empty if nothing is wrong."""
    weakest = weakest_index(scores)
    if weakest is None:
        return ""
    score, taken = scores.per_class[weakest], mistakes(scores, weakest)
    text = f"The weakest class is {named(score.name)}: {_found(score)}"
    if not taken:
        return text + "."
    other, count = taken[0]
    name = named(scores.per_class[other].name)
    return (
        f"{text}; it is most often taken for {name} ({whole(count)} of {counted(_missed(scores, weakest), 'error')})."
    )


def weakest_index(scores: Scores) -> int | None:
    """The class with the lowest recall among those that occur; None if every image is right."""
    present = [i for i, c in enumerate(scores.per_class) if c.support and c.recall < 1]
    return min(present, key=lambda i: (scores.per_class[i].recall, -scores.per_class[i].support), default=None)


def mistakes(scores: Scores, label: int) -> list[tuple[int, int]]:
    """The other classes that images of a class are predicted as, and how many, the most frequent first."""
    taken = [(j, count) for j, count in enumerate(scores.confusion[label]) if j != label and count]
    return sorted(taken, key=lambda found: -found[1])


def causes(run: RunRecord) -> list[Cause]:
    """The three likeliest causes of error: a confused pair, the weakest class, a fault of the data or of the fit."""
    matrix = np.asarray(run.scores.confusion, dtype=np.int64)
    wrong = int(matrix.sum() - np.trace(matrix)) if matrix.size else 0
    if not wrong:
        return []
    mixed = [_pair_cause(run, pair, wrong) for pair in pairs(matrix)[:3]]
    weak = _weak_cause(run)
    if weak is not None and weak.cell == mixed[0].cell:
        weak = None
    elif weak is not None:
        mixed = [mixed[0], *(pair for pair in mixed[1:] if pair.cell != weak.cell)]
    data = [_finding_cause(group) for group in _causing(run.findings)]
    fit = _overfit_cause(run.history)
    ranked = [mixed[0], *([weak] if weak else []), *data[:1], *fit, *mixed[1:2], *data[1:], *mixed[2:]]
    return ranked[:3]


def _pair_cause(run: RunRecord, pair: Pair, wrong: int) -> Cause:
    first, second = (named(run.card.classes[i]) for i in (pair.first, pair.second))
    back = f", {whole(pair.back)} the other way round" if pair.back else ""
    were = "was" if pair.there == 1 else "were"
    text = (
        f"{counted(pair.there, 'image')} of {first} {were} taken for {second}{back}: "
        f"{percent(pair.count / wrong, wrong)} of all {counted(wrong, 'error')}."
    )
    title = f"{first} and {second} are mixed up"
    images = _errors(run, pair.first, pair.second)
    return Cause(title=title, text=text, images=images, cell=(pair.first, pair.second))


def _weak_cause(run: RunRecord) -> Cause | None:
    weakest = weakest_index(run.scores)
    if weakest is None:
        return None
    score, missed = run.scores.per_class[weakest], _missed(run.scores, weakest)
    trained = run.facts.counts.get("train", ())
    seen = f", learned from {counted(trained[weakest], 'training image')}" if weakest < len(trained) else ""
    mean = f"the mean over the classes is {percent(run.scores.balanced_accuracy, run.scores.n)}"
    found = mistakes(run.scores, weakest)
    taken = ", ".join(f"{named(run.card.classes[j])} {whole(count)}" for j, count in found[:3])
    text = f"{_found(score)}{seen}; {mean}. Its {counted(missed, 'error')} went to: {taken}."
    cell = (weakest, found[0][0]) if found and 2 * found[0][1] > missed else None
    return Cause(title=f"{named(score.name)} is hard", text=text, images=_errors(run, weakest), cell=cell)


def _causing(findings: tuple[Finding, ...]) -> list[list[Finding]]:
    """Findings that explain errors, one group a kind, errors before warnings."""
    hits = [f for f in findings if f.severity != "note" and not f.left_out and any(c in f.code for c in CAUSING)]
    return by_kind(hits)


def _finding_cause(group: list[Finding]) -> Cause:
    files = len({path for finding in group for path in finding.paths})
    shown = f" ({counted(files, 'file')})" if files else ""
    title = f"The data: {plain(group[0].code).replace('_', ' ').replace('-', ' ')}{shown}"
    more = f" The audit found {whole(len(group))} of the kind." if len(group) > 1 else ""
    return Cause(title=title, text=plain(group[0].message) + more)


def _overfit_cause(history: tuple[EpochRow, ...]) -> list[Cause]:
    row = best_epoch(history)
    if row is None or not row.train_accuracy - row.val_accuracy > OVERFIT:
        return []
    text = (
        f"Training accuracy is {percent(row.train_accuracy)}, validation accuracy {percent(row.val_accuracy)}, "
        f"{points(row.train_accuracy - row.val_accuracy)} apart at epoch {row.epoch}: the network has learned things "
        "that hold for the training images only."
    )
    return [Cause(title="Too little carries over from the training images", text=text)]


def _errors(run: RunRecord, label: int, prediction: int | None = None) -> tuple[int, ...]:
    """The surest wrong answers to images of a class, with one prediction or with any."""
    order = worst_first(run)
    said = run.predictions[order]
    asked = (said != label) if prediction is None else (said == prediction)
    return tuple(order[(run.labels[order] == label) & asked][:MOST_PICTURES].tolist())


def _missed(scores: Scores, label: int) -> int:
    return sum(scores.confusion[label]) - scores.confusion[label][label]


def _found(score: ClassScore) -> str:
    found = bare_percent(score.recall, score.support)
    return f"{found}{NBSP}% of its {counted(score.support, 'image')} are found"
