"""A peer's own way from images to a measured classifier within a number of minutes: one run of `peers.py`.

    PEERS/bin/python benchmarks/peer_recipes.py fastai DATA/photos split.json --seed 0 --minutes 3

All weights start at random. The images of each part are those of split.json, which a run of hubel wrote: trained on
`train`, the best epoch chosen on `val`, `test` read once. A peer has no dial for minutes, so that what an experienced
user would do is done for it: a few steps are timed, and its schedule gets as many epochs as then fit (a share of the
images, where not even one does). Small images keep their size, as each peer's own examples for CIFAR and MNIST do;
larger ones are brought to at most 128 pixels. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from measuring import computes_bfloat16
from peer_task import NATIVE, Images, Pace, Task, task
from peer_tuned import TUNED
from torch import nn

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def accuracy(model: nn.Module, loader: Iterable[Any], *, fast: bool) -> float:
    """The share of images that are right."""
    right = total = 0
    model.eval()
    with torch.inference_mode():
        for images, labels in loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=fast and computes_bfloat16()):
                right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    model.train()
    return right / total


def train_step(
    model: nn.Module, images: Any, labels: Any, optimizer: Any, loss_of: Callable[[Any, Any], Any], *, fast: bool
) -> None:
    """One step as all of torch's examples take it; fast: channels-last, and bfloat16 where the processor has it."""
    if fast:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=fast and computes_bfloat16()):
        loss = loss_of(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def seconds_an_epoch(
    job: Task,
    model: nn.Module,
    train: Any,
    val: Iterable[Any],
    optimizer_of: Callable[[nn.Module], Any],
    loss_of: Callable[[Any, Any], Any],
    *,
    fast: bool,
) -> float:
    """Train a model that nobody needs for a while, validation included."""
    pace, optimizer = Pace(job.minutes), optimizer_of(model)
    while True:
        for number, (images, labels) in enumerate(train):
            train_step(model, images, labels, optimizer, loss_of, fast=fast)
            if pace.took(first=number == 0):
                return pace.epoch(len(train), len(job.parts["val"]) / len(labels) / 3)
        accuracy(model, val, fast=fast)


def fitted(
    job: Task,
    model: nn.Module,
    loaders: Callable[[], tuple[Any, Any, Any]],
    optimizer_of: Callable[[nn.Module], Any],
    schedule_of: Callable[[Any, int, int], Callable[[int], None]],
    loss_of: Callable[[Any, Any], Any],
    *,
    fast: bool,
) -> dict[str, Any]:
    """Time the loop, train as long as the time allows, and measure the best epoch.

    Args:
        loaders: makes those of train, val and test, from the parts as they are then.
        schedule_of: from optimizer, epochs and steps an epoch to what is called with the number of steps taken.
    """
    if fast:
        model = model.to(memory_format=torch.channels_last)
    train, val, test = loaders()
    epochs = job.plan(seconds_an_epoch(job, copy.deepcopy(model), train, val, optimizer_of, loss_of, fast=fast))
    train, val, test = loaders()
    optimizer, steps = optimizer_of(model), 0
    scheduled = schedule_of(optimizer, epochs, len(train))
    reserve = job.reserve
    best, weights, done = -1.0, copy.deepcopy(model.state_dict()), 0
    for _ in range(epochs):
        for images, labels in train:
            train_step(model, images, labels, optimizer, loss_of, fast=fast)
            steps += 1
            scheduled(steps)
            if job.left < reserve:
                break
        done += 1
        reached = accuracy(model, val, fast=fast)
        if reached > best:
            best, weights = reached, copy.deepcopy(model.state_dict())
        if job.left < reserve:
            break
    model.load_state_dict(weights)
    return {"accuracy": accuracy(model, test, fast=fast), "val_accuracy": best, "epochs": done}


def course(job: Task) -> dict[str, Any]:
    """The loop that courses teach: three conv blocks and a dense layer, Adam 1e-3, cosine, batches of 128."""
    from torch.utils.data import DataLoader
    from torchvision import transforms

    layers: list[nn.Module] = []
    for inside, out in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(inside, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(), nn.MaxPool2d(2)]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * (job.side // 8) ** 2, len(job.classes)))
    small = job.side <= NATIVE
    change = [transforms.RandomCrop(job.side, padding=4)] if small else [transforms.RandomResizedCrop(job.side)]
    fixed = [transforms.Resize(job.side), transforms.CenterCrop(job.side)]
    tail = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    before = fixed if small else []
    train = transforms.Compose([*before, *change, transforms.RandomHorizontalFlip(), *tail])
    plain = transforms.Compose([*fixed, *tail])

    def loaders() -> tuple[Any, Any, Any]:
        made = [DataLoader(Images(job.root, job.parts["train"], train), 128, shuffle=True, num_workers=2)]
        made += [DataLoader(Images(job.root, job.parts[part], plain), 128, num_workers=2) for part in ("val", "test")]
        return made[0], made[1], made[2]

    def schedule(optimizer: Any, epochs: int, per_epoch: int) -> Callable[[int], None]:
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
        return lambda steps: cosine.step() if steps % per_epoch == 0 else None

    def adam(network: nn.Module) -> Any:
        return torch.optim.Adam(network.parameters(), lr=1e-3)

    return fitted(job, model, loaders, adam, schedule, nn.CrossEntropyLoss(), fast=False)


def timm(job: Task) -> dict[str, Any]:
    """timm's train.py at its defaults; ResNet-18, --amp --amp-dtype bfloat16 --channels-last --sched-on-updates."""
    from timm import create_model
    from timm.data import create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    def loaders() -> tuple[Any, Any, Any]:
        common: dict[str, Any] = {"input_size": (3, job.side, job.side), "num_workers": 2}
        common |= {"device": torch.device("cpu"), "batch_size": min(128, len(job.parts["train"]))}
        training = {"is_training": True, "color_jitter": 0.4, "interpolation": "random"}
        train = create_loader(Images(job.root, job.parts["train"]), **common, **training)
        val, test = (
            create_loader(Images(job.root, job.parts[part]), **common, interpolation="bicubic", crop_pct=0.95)
            for part in ("val", "test")
        )
        return train, val, test

    def sgd(network: nn.Module) -> Any:
        return create_optimizer_v2(network, opt="sgd", lr=0.1 * 128 / 256, weight_decay=2e-5, momentum=0.9)

    def schedule(optimizer: Any, epochs: int, per_epoch: int) -> Callable[[int], None]:
        warmup = min(5, epochs // 5)  # 5 by default, which is more than a few minutes may hold
        cosine, _ = create_scheduler_v2(
            optimizer, "cosine", epochs, warmup_epochs=warmup, step_on_epochs=False, updates_per_epoch=per_epoch
        )
        taken: Callable[[int], None] = cosine.step_update
        return taken

    model = create_model("resnet18", num_classes=len(job.classes))
    return fitted(job, model, loaders, sgd, schedule, LabelSmoothingCrossEntropy(0.1), fast=True)


def fastai(job: Task) -> dict[str, Any]:
    """fastai, which is imported only where it is asked for."""
    import peer_fastai

    return peer_fastai.fastai(job)


RECIPES = {"fastai": fastai, "timm": timm, "course": course, **TUNED}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("recipe", choices=RECIPES)
    ask.add_argument("folder", type=Path)
    ask.add_argument("split", type=Path, help="split.json of a hubel run")
    ask.add_argument("--minutes", type=float, default=3.0)
    ask.add_argument("--seed", type=int, default=0)
    ask.add_argument("--began", type=float, default=time.monotonic(), help="time.monotonic() of the process's start")
    given = ask.parse_args()
    torch.manual_seed(given.seed)
    random.seed(given.seed)
    job = task(given)
    print(json.dumps({**RECIPES[given.recipe](job), "n": len(job.parts["test"]), **job.measured}), flush=True)


if __name__ == "__main__":
    main()
