"""`compare`: two trained models on the same images, image by image."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hubel.dataset.find import scanning
from hubel.errors import DataError, UsageError
from hubel.evaluation.paired import Comparison, compared
from hubel.events import Event, Note
from hubel.evidence import RunRecord
from hubel.jobs.answer import Answering, load_either
from hubel.jobs.evaluate import answering
from hubel.nn.loading import shared_classes
from hubel.nn.zoo import Builder

Array = npt.NDArray[Any]


def comparing(
    a: str | Answering, b: str | Answering, source: str | None, device: str = "auto", code: Builder | None = None
) -> Generator[Event, None, Comparison]:
    """Compare on a folder, a CSV or a set by name; or, without, on the images that two runs have both reported on.

    Where one model knows more classes, images and answers are those of the classes that both know.

    Args:
        code: the user's own network, for folders that were trained with one.

    Raises:
        DataError: they share no two classes, or no image. UsageError: without runs, images have to be named.
    """
    places = [None if isinstance(each, Answering) else Path(each) for each in (a, b)]
    names = (str(places[0] or "the first model"), str(places[1] or "the second model"))
    if source is not None:
        catalog = yield from scanning(source, to_learn=False)
        models = [each if isinstance(each, Answering) else load_either(Path(each), device, code) for each in (a, b)]
        classes = models[0].classes
        shared = _shared(classes, models[1].classes, names)
        _, paths, (labels, _), logits = yield from answering(catalog, models, places)
    else:
        if places[0] is None or places[1] is None:
            raise UsageError("Models without a run have reported on no images: say on which to compare them.")
        first, second = RunRecord.open(places[0]), RunRecord.open(places[1])
        classes = first.card.classes
        shared = _shared(classes, second.card.classes, names)
        rows, others = _same_images(first, second, shared, names)
        paths, labels = [first.paths[i] for i in rows], first.labels[rows]
        logits = [first.logits[rows], second.logits[others]]
    place = np.full(len(classes), -1)
    place[shared[:, 0]] = np.arange(len(shared))
    known = np.flatnonzero(place[labels] >= 0)
    if len(shared) < len(classes):
        yield Note(text=f"Compared on the {len(shared)} classes that both models know, {len(known):,} images.")
    right = [each[known][:, shared[:, k]].argmax(1) == place[labels[known]] for k, each in enumerate(logits)]
    return compared(names, right[0], right[1], [paths[i] for i in known], [classes[i] for i in labels[known]])


def _shared(a: Sequence[str], b: Sequence[str], names: Sequence[str]) -> Array:
    """(S, 2) indices of the classes that both know."""
    pairs = shared_classes(a, b) | {i: b.index(name) for i, name in enumerate(a) if name in b}
    if len(pairs) < 2:
        raise DataError(f"{names[0]} and {names[1]} don't share two classes, so there is nothing to compare them on.")
    return np.array(sorted(pairs.items()))


def _same_images(a: RunRecord, b: RunRecord, shared: Array, names: Sequence[str]) -> tuple[list[int], list[int]]:
    """Places in both reported parts of the images that are in both: by content where it is known, else by path."""
    ours, theirs = list[Any](a.paths), list[Any](b.paths)
    if a.images is not None and b.images is not None:
        ours, theirs = (list(map(bytes, images["digest"])) for images in (a.images, b.images))
    at, same = {key: j for j, key in enumerate(theirs)}, dict(shared.tolist())
    pairs = [(i, at[key]) for i, key in enumerate(ours) if key in at and same.get(a.labels[i]) == b.labels[at[key]]]
    if not pairs:
        raise DataError(f"{names[0]} and {names[1]} have reported on no image in common: say on which to compare them.")
    return [i for i, _ in pairs], [j for _, j in pairs]
