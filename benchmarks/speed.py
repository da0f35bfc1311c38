"""CIFAR-10 from image files to an accuracy, against the loop that courses teach (P1, P2).

    python benchmarks/speed.py DATA/cifar10 --to 85 --seeds 5 --course-epochs 50 --output benchmarks/results/speed.json
    python benchmarks/speed.py DATA/cifar10 --to 94 --seeds 3

hubel's side is its own pack, loader, loop and network `speed`, with a cache that is empty at first; the clock runs from
the first file name that is read to the last prediction on the test part, and each seed is a process of its own. The
schedule is fixed before and was chosen on 5,000 of the training images (`--validate`); the test part is read once a
seed. The course's loop: three blocks of convolution, norm, ReLU and pooling, torchvision's ImageFolder and transforms,
two workers, batches of 128, Adam, a cosine over 50 epochs, all in float32; its test accuracy is taken after each epoch.
Where it never reaches the goal, the seconds of all its epochs are a lower bound. Nothing else should run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from measuring import environment, machine, matrix_gflops, training_flops, versions, write

SCHEDULES: dict[str, dict[str, Any]] = {
    "85": {"width": 32, "epochs": 2, "batch_size": 250, "lr": 0.15, "small_first": 0.75},
    "94": {
        "width": 64,
        "growth": (4, 4),
        "activation": "gelu",
        "moved": True,
        "epochs": 11,
        "batch_size": 250,
        "accumulate": 8,
        "lr": 0.24,
        "small_first": 1.0,
    },
}
VALIDATION, COURSE_EPOCHS = 5_000, 50


def ours(folder: Path, to: str, seed: int, validate: bool) -> dict[str, Any]:  # noqa: PLR0915
    """Read, train and judge once, in this process; the cache is wherever HUBEL_CACHE says."""
    import numpy as np
    import torch

    from hubel.dataset.config import PRESETS
    from hubel.dataset.find import scan
    from hubel.dataset.loader import Loader
    from hubel.dataset.pack import pack
    from hubel.dataset.tensors import normalise
    from hubel.evaluation.predict import predict
    from hubel.events import EpochEnd, outcome
    from hubel.jobs.hardware import best_precision, keep_freed_memory
    from hubel.jobs.planning import mean_area
    from hubel.learning.config import TrainConfig
    from hubel.learning.engine import PRECISIONS, TrainState, fit
    from hubel.learning.optim import optimizers
    from hubel.nn.quick import Quick
    from hubel.records import Preprocess

    began = time.perf_counter()
    keep_freed_memory()
    mean, std = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)
    preprocess = Preprocess(size=(32, 32), channels=3, mean=mean, std=std)
    catalog = scan(str(folder))
    images = outcome(pack(catalog.root, catalog.paths, preprocess)).images
    parts = np.array(catalog.parts)
    train, judged = (np.flatnonzero(parts == part) for part in ("train", "test"))
    if validate:
        train = np.random.default_rng(0).permutation(train)
        train, judged = train[VALIDATION:], train[:VALIDATION]
    read = time.perf_counter() - began

    plan = dict(SCHEDULES[to])
    shape = {name: plan.pop(name) for name in ("width", "growth", "activation", "moved") if name in plan}
    torch.manual_seed(seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    precision = best_precision(device)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    loader = Loader(
        images,
        catalog.labels,
        train,
        classes=10,
        batch_size=plan["batch_size"],
        preprocess=preprocess,
        augmentation=replace(PRESETS["small"], flip=True),
        seed=seed,
        device=device,
        dtype=dtype,
    )
    network = Quick(classes=10, channels=3, size=(32, 32), **shape, mirror=True, fixed=True)
    network.prepare(normalise(loader.sample(5_000), preprocess))
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    config = TrainConfig(
        optimizer="muon", momentum=0.6, schedule="linear", warmup=0.0, label_smoothing=0.2, weight_decay=0.0,
        precision=precision, **plan,
    )  # fmt: skip
    state = TrainState(model=network, optimizers=optimizers(network, config))
    steps, losses = 0, []
    for event in fit(state, loader, config, size=32):
        steps += not isinstance(event, EpochEnd)
        if isinstance(event, EpochEnd):
            losses.append(round(event.loss, 4))
    trained = time.perf_counter() - began - read
    logits = predict(network, images[judged], preprocess, batch_size=500, device=device, autocast=PRECISIONS[precision])
    right = (logits.argmax(1).numpy() == catalog.labels[judged]).mean()
    seconds = time.perf_counter() - began
    images_seen = steps * plan["batch_size"] * plan.get("accumulate", 1)
    operations = training_flops(network, 32) * images_seen * mean_area(plan["small_first"])
    return {
        "seed": seed,
        "accuracy": round(100 * float(right), 2),
        "n": len(judged),
        "seconds": round(seconds, 2),
        "reading": round(read, 2),
        "training": round(trained, 2),
        "teraflop": round(operations / 1e12, 2),
        "losses": losses,
    }


def course(folder: Path, epochs: int, goal: float) -> dict[str, Any]:
    """Train the course's loop, and return the seconds and test accuracy after each epoch."""
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import transforms as T
    from torchvision.datasets import ImageFolder

    began = time.perf_counter()
    torch.manual_seed(0)
    scaled = [T.ToTensor(), T.Normalize((0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616))]
    changed = [T.RandomCrop(32, padding=4), T.RandomHorizontalFlip(), *scaled]
    train = DataLoader(
        ImageFolder(str(folder / "train"), T.Compose(changed)), batch_size=128, shuffle=True, num_workers=2
    )
    test = DataLoader(ImageFolder(str(folder / "test"), T.Compose(scaled)), batch_size=128, num_workers=2)
    layers: list[nn.Module] = []
    for channels, width in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2)]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(2048, 256), nn.ReLU(), nn.Dropout(0.5), nn.Linear(256, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, COURSE_EPOCHS)
    rows: list[dict[str, float]] = []
    for epoch in range(1, epochs + 1):
        network.train()
        for images, labels in train:
            optimizer.zero_grad()
            F.cross_entropy(network(images), labels).backward()
            optimizer.step()
        schedule.step()
        network.eval()
        with torch.no_grad():
            right = sum(int((network(images).argmax(1) == labels).sum()) for images, labels in test)
        accuracy = 100 * right / len(test.dataset)  # type: ignore[arg-type]
        rows.append({"epoch": epoch, "accuracy": accuracy, "seconds": round(time.perf_counter() - began, 1)})
        print(rows[-1], file=sys.stderr, flush=True)
        if accuracy >= goal:
            break
    return {"reached": rows[-1]["accuracy"] >= goal, "best": max(row["accuracy"] for row in rows), "epochs": rows}


def against(epochs: list[dict[str, float]], seconds: float) -> dict[str, Any]:
    """Compare with all 50 epochs of the course's loop; where fewer were run, as many more as long as those were."""
    whole = epochs[-1]["seconds"] / len(epochs) * COURSE_EPOCHS
    ran = "run" if len(epochs) == COURSE_EPOCHS else f"{len(epochs)} were run, the others taken to be as long"
    return {"course's 50 epochs, seconds": round(whole), "those epochs": ran, "times faster": round(whole / seconds, 1)}


def _child(*arguments: str, cache: str) -> dict[str, Any]:
    """Run this file again for one side."""
    command = [sys.executable, __file__, *arguments]
    told = environment(HUBEL_CACHE=cache)
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=told)
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder", type=Path)
    ask.add_argument("--to", choices=list(SCHEDULES), default="85")
    ask.add_argument("--seeds", type=int, default=5)
    ask.add_argument("--course-epochs", type=int, default=0, help="of the course's loop; 0 leaves it out")
    ask.add_argument("--validate", action="store_true", help="judge 5,000 of the training images instead")
    ask.add_argument("--side", choices=("ours", "course", "peak"), help=argparse.SUPPRESS)
    ask.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    if given.side:
        sides = {
            "ours": lambda: ours(given.folder, given.to, given.seed, given.validate),
            "course": lambda: course(given.folder, given.course_epochs, float(given.to)),
            "peak": matrix_gflops,
        }
        print(json.dumps(sides[given.side]()))
        return
    folder, more = str(given.folder), ["--validate"] * given.validate
    results: dict[str, Any] = {"machine": machine(), "versions": versions()}
    results |= {"goal": given.to, "judged on": "validation" if given.validate else "test", **SCHEDULES[given.to]}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:
        results["matrix product, GFLOP/s"] = _child(folder, "--side", "peak", cache=cache)
    for seed in range(given.seeds):
        with tempfile.TemporaryDirectory() as cache:
            rows.append(_child(folder, "--side", "ours", "--to", given.to, "--seed", str(seed), *more, cache=cache))
        print(rows[-1], flush=True)
    accuracies, seconds = ([row[name] for row in rows] for name in ("accuracy", "seconds"))
    results |= {
        "runs": rows,
        "accuracy, mean": round(statistics.mean(accuracies), 2),
        "accuracy, sd": round(statistics.stdev(accuracies), 2) if len(rows) > 1 else None,
        "seconds, median": statistics.median(seconds),
        "share of the time that is training": round(statistics.median(r["training"] / r["seconds"] for r in rows), 2),
        "share of the matrix product's speed while training": round(
            statistics.median(r["teraflop"] / r["training"] for r in rows)
            / max(results["matrix product, GFLOP/s"].values())
            * 1000,
            2,
        ),
    }
    if given.course_epochs:
        with tempfile.TemporaryDirectory() as cache:
            arguments = ("--side", "course", "--to", given.to, "--course-epochs", str(given.course_epochs))
            results["course"] = _child(folder, *arguments, cache=cache)
        results |= against(results["course"]["epochs"], results["seconds, median"])
    write(given.output, results)


if __name__ == "__main__":
    main()
