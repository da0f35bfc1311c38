"""One side of `photos.py`, in a process of its own: prints a JSON line for each epoch, with its images and seconds.

    PYTHON benchmarks/photo_sides.py SIDE DATA/photos --size 128 --epochs 3 --tuned

The epoch's seconds run from asking for its first batch to the end of its last step: reading, decoding, augmenting,
forward, backward and step, of whole epochs. SIDE is hubel, torchvision, timm, fastai or lightning; or hubel-loader and
torchvision-loader, the loaders alone. Without --tuned, a peer does what its documentation or its reference script does
by default; with it, what is known to be fastest on a processor: channels-last, workers that stay, bfloat16 autocast
where the processor has it.
"""

# mypy: disable-error-code="misc"
from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from measuring import computes_bfloat16
from photo_hubel import BATCH, MEAN, SMALL, STD, hubel, hubel_loader, say

PHOTO: dict[str, Any] = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3}  # as hubel's preset `photo`
WORKERS = 2


def loaded(given: argparse.Namespace, *, batch: int, jitter: bool = False, drop_last: bool = False) -> Any:
    """torchvision's ImageFolder behind a DataLoader; --tuned decodes to tensors and changes those (transforms v2)."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision import datasets, io, transforms
    from torchvision.transforms import v2

    colours = {"scale": (0.3, 1.0), "ratio": (1.3**-0.5, 1.3**0.5)} if jitter else {}
    moved = {"padding": given.size // 16, "padding_mode": "reflect"}  # as hubel's preset `small`
    small = given.size <= SMALL
    steps: list[Any]
    if given.tuned:
        crop = v2.RandomCrop(given.size, **moved) if small else v2.RandomResizedCrop(given.size, **colours)
        steps = [crop, v2.RandomHorizontalFlip(), *([v2.ColorJitter(**PHOTO)] if jitter and not small else [])]
        change = v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)])
        read = lambda path: io.decode_image(path, mode=io.ImageReadMode.RGB)  # noqa: E731
        data = datasets.ImageFolder(given.folder / "train", transform=change, loader=read)
    else:
        plain = transforms.RandomCrop(given.size, **moved) if small else None
        steps = [plain or transforms.RandomResizedCrop(given.size, **colours), transforms.RandomHorizontalFlip()]
        steps += [transforms.ColorJitter(**PHOTO)] if jitter and not small else []
        change = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        data = datasets.ImageFolder(given.folder / "train", transform=change)
    stay = given.tuned and given.workers > 0
    return DataLoader(
        data,
        batch_size=given.batch or batch,
        shuffle=True,
        num_workers=given.workers,
        persistent_workers=stay,
        drop_last=drop_last,
    )


def torchvision_loader(given: argparse.Namespace) -> None:
    """ImageFolder and DataLoader, with the changes of hubel's preset `photo`, of small images with those of `small`."""
    import torchvision.datasets  # noqa: F401  (imports don't count on either side)

    began = time.perf_counter()
    loader = loaded(given, batch=BATCH, jitter=True)
    for epoch in range(given.epochs):
        images = sum(len(labels) for _, labels in loader)
        say(epoch, images, time.perf_counter() - began)
        began = time.perf_counter()


def loop(
    given: argparse.Namespace, model: Any, loader: Iterable[Any], optimizer: Any, loss_of: Callable[[Any, Any], Any]
) -> Iterator[tuple[int, float]]:
    """The loop of torchvision's and timm's scripts: yields images and seconds of each epoch."""
    import torch

    layout = torch.channels_last if given.tuned else torch.contiguous_format
    model = model.to(memory_format=layout).train()
    for _ in range(given.epochs):
        began, count = time.perf_counter(), 0
        for images, labels in loader:
            images = images.contiguous(memory_format=layout)  # noqa: PLW2901
            with torch.autocast("cpu", torch.bfloat16, enabled=given.tuned and computes_bfloat16()):
                loss = loss_of(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            count += len(labels)
        yield count, time.perf_counter() - began


def torchvision_side(given: argparse.Namespace) -> None:
    """references/classification/train.py: batches of 32, SGD 0.1, momentum 0.9, weight decay 1e-4."""
    import torch
    import torchvision

    classes = sum(1 for entry in (given.folder / "train").iterdir() if entry.is_dir())
    model = getattr(torchvision.models, given.model)(num_classes=classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    loader = loaded(given, batch=BATCH if given.tuned else 32)
    for epoch, (images, seconds) in enumerate(loop(given, model, loader, optimizer, torch.nn.CrossEntropyLoss())):
        say(epoch, images, seconds)


def timm_side(given: argparse.Namespace) -> None:
    """timm's train.py: batches of 128, SGD, colour jitter 0.4, random interpolation, label smoothing 0.1."""
    import torch
    from timm import create_model
    from timm.data import create_dataset, create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2

    classes = sum(1 for entry in (given.folder / "train").iterdir() if entry.is_dir())
    model, batch = create_model(given.model, num_classes=classes), given.batch or 128
    loader = create_loader(
        create_dataset("", root=given.folder, split="train"),
        input_size=(3, given.size, given.size),
        batch_size=batch,
        is_training=True,
        color_jitter=0.4,
        interpolation="bilinear" if given.tuned else "random",
        num_workers=given.workers,
        device=torch.device("cpu"),
    )
    optimizer = create_optimizer_v2(model, opt="sgd", lr=0.1 * batch / 256, weight_decay=2e-5, momentum=0.9)
    for epoch, (images, seconds) in enumerate(loop(given, model, loader, optimizer, LabelSmoothingCrossEntropy(0.1))):
        say(epoch, images, seconds)


def fastai_side(given: argparse.Namespace) -> None:
    """fastai's quick start from scratch: RandomResizedCrop as item, fit_one_cycle; Normalize comes with the learner."""
    from fastai.vision.all import Callback, ImageDataLoaders, RandomResizedCrop, resnet18, resnet50, vision_learner

    class Timed(Callback):
        order = 90

        def before_train(self) -> None:
            self.began, self.count = time.perf_counter(), 0

        def after_batch(self) -> None:
            self.count += len(self.y) if self.training else 0

        def after_train(self) -> None:
            say(self.epoch, self.count, time.perf_counter() - self.began)

    loaders = ImageDataLoaders.from_folder(
        given.folder,
        valid="val",
        item_tfms=RandomResizedCrop(given.size),
        bs=given.batch or 64,
        num_workers=given.workers,
        persistent_workers=bool(given.tuned and given.workers),
    )
    architecture = {"resnet18": resnet18, "resnet50": resnet50}[given.model]
    learner = vision_learner(loaders, architecture, pretrained=False)
    if given.tuned:
        learner = learner.to_channelslast(use_amp=False)
        from peer_fastai import Bfloat16

        learner.add_cb(Bfloat16())
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(given.epochs, cbs=[Timed()])


def lightning_side(given: argparse.Namespace) -> None:
    """Lightning's Trainer on torchvision's loader; --tuned: bf16-mixed, channels-last, no logging and no bar."""
    import lightning
    import torch
    import torchvision

    classes = sum(1 for entry in (given.folder / "train").iterdir() if entry.is_dir())

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = getattr(torchvision.models, given.model)(num_classes=classes)

        def training_step(self, batch: Any, _: int) -> Any:
            images, labels = batch
            if given.tuned:
                images = images.contiguous(memory_format=torch.channels_last)
            return torch.nn.functional.cross_entropy(self.model(images), labels)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    class Timed(lightning.Callback):
        began = time.perf_counter()
        count = 0

        def on_train_batch_end(self, *arguments: Any) -> None:
            self.count += len(arguments[3][1])

        def on_train_epoch_end(self, trainer: Any, _: Any) -> None:
            now = time.perf_counter()
            say(trainer.current_epoch, self.count, now - self.began)
            self.began, self.count = now, 0

    module, timed = Module(), Timed()
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=given.epochs,
        accelerator="cpu",
        precision="bf16-mixed" if given.tuned and computes_bfloat16() else "32-true",
        callbacks=[timed],
        enable_model_summary=False,
        **quiet,
    )
    loader = loaded(given, batch=BATCH if given.tuned else 32)
    if given.tuned:
        module = module.to(memory_format=torch.channels_last)
    timed.began = time.perf_counter()
    trainer.fit(module, loader)


SIDES = {
    "hubel": hubel,
    "hubel-loader": hubel_loader,
    "torchvision": torchvision_side,
    "torchvision-loader": torchvision_loader,
    "timm": timm_side,
    "fastai": fastai_side,
    "lightning": lightning_side,
}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("side", choices=SIDES)
    ask.add_argument("folder", type=Path)
    ask.add_argument("--model", default="resnet18")
    ask.add_argument("--size", type=int, default=128)
    ask.add_argument("--epochs", type=int, default=3)
    ask.add_argument("--batch", type=int, default=0, help="images a step, instead of the side's own")
    ask.add_argument("--workers", type=int, default=WORKERS)
    ask.add_argument("--tuned", action="store_true")
    given = ask.parse_args()
    SIDES[given.side](given)


if __name__ == "__main__":
    main()
