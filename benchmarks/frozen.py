"""An epoch of the head alone: forwarding the frozen layers each time, against features that are computed once.

    python benchmarks/frozen.py DATA/photos --model torchvision/squeezenet1_0 --weights FILE --size 224

Both sides run in one process, on the same batches, with the same loop; the images are decoded beforehand. Without
augmentation on both sides, which the features can't have; with it the forwarding side would be slower still.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from hubel.dataset.config import Augmentation
from hubel.dataset.find import scan
from hubel.dataset.loader import Loader
from hubel.dataset.pack import pack
from hubel.events import EpochEnd, outcome
from hubel.jobs.hardware import best_precision
from hubel.learning.config import TrainConfig
from hubel.learning.engine import PRECISIONS, TrainState, fit
from hubel.learning.optim import optimizers
from hubel.learning.transfer import Features, HeadOnly, backbone_features
from hubel.nn.loading import load_into
from hubel.nn.stages import find_stages, set_trainable
from hubel.nn.weights import read_weights
from hubel.nn.zoo import build
from hubel.records import Preprocess


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder")
    ask.add_argument("--model", required=True)
    ask.add_argument("--weights", required=True)
    ask.add_argument("--size", type=int, default=224)
    ask.add_argument("--epochs", type=int, default=3)
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    catalog, weights = scan(given.folder), read_weights(given.weights, given.model)
    side, device = (given.size, given.size), torch.device("cpu")
    preprocess = Preprocess(size=side, mean=weights.preprocess.mean, std=weights.preprocess.std)
    packed = outcome(pack(catalog.root, catalog.paths, preprocess))
    rows = np.flatnonzero(packed.usable & (np.array(catalog.parts or ["train"] * len(catalog.paths)) == "train"))
    loader = Loader(
        packed.images,
        catalog.labels,
        rows,
        classes=len(catalog.classes),
        batch_size=32,
        preprocess=preprocess,
        augmentation=Augmentation(),
        seed=0,
        device=device,
    )
    torch.manual_seed(0)
    model = build(given.model, classes=len(catalog.classes), size=side)
    load_into(model, weights, shape=(3, *side))
    model = model.to(memory_format=torch.channels_last)
    stages = find_stages(model, (3, *side))
    set_trainable(model, stages, 0)
    precision = best_precision(device)
    config = TrainConfig(epochs=given.epochs, lr=1e-3, optimizer="adam", precision=precision)

    def seconds(network: torch.nn.Module, batches: Loader | Features) -> list[float]:
        taken, began = [], time.perf_counter()
        for event in fit(
            TrainState(model=network, optimizers=optimizers(network, config)), batches, config, size=given.size
        ):
            if isinstance(event, EpochEnd):
                taken.append(time.perf_counter() - began)
                began = time.perf_counter()
        return taken

    forwarding = seconds(model, loader)
    began = time.perf_counter()
    kept = backbone_features(
        model, stages.head, packed.images[rows], preprocess, device=device, autocast=PRECISIONS[precision]
    )
    once = time.perf_counter() - began
    features = seconds(HeadOnly(model, stages.head), Features(loader, [kept]))
    said = {
        "images": len(rows),
        "size": given.size,
        "precision": precision,
        "forwarding_seconds": [round(s, 3) for s in forwarding],
        "kept_seconds": [round(s, 3) for s in features],
        "computing_once_seconds": round(once, 3),
        "ratio_of_medians": round(statistics.median(forwarding) / statistics.median(features), 1),
    }
    print(json.dumps(said, indent=1))
    if given.output:
        given.output.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
