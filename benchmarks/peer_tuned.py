"""Peers that fine-tune the very weights that hubel starts from, for `peers.py --tuned`: three more recipes.

EfficientNet-Lite0 at 224 pixels, ImageNet's weights: a file of tensors in the order in which timm's network
names its own, so that no side gets others. The task's minutes, parts and choosing are those of `peer_recipes.py`.
"""

# mypy: disable-error-code="misc"
from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from peer_task import Images, Task
from torch import nn

NAME, SIDE, MEAN, STD = "tf_efficientnet_lite0", 224, (0.498,) * 3, (0.502,) * 3
WEIGHTS = "HUBEL_TUNED_WEIGHTS"  # the variable that names the file


def tuned_network(classes: int) -> nn.Module:
    """timm's network with the weights, and a new layer for the classes."""
    from safetensors.torch import load_file
    from timm import create_model

    whole = create_model(NAME, num_classes=1000)
    kept = load_file(os.environ[WEIGHTS])
    names = [name for name in whole.state_dict() if not name.endswith("num_batches_tracked")]
    whole.load_state_dict(dict(zip(names, (kept[key] for key in sorted(kept)), strict=True)), strict=False)
    whole.reset_classifier(classes)
    network: nn.Module = whole
    return network


def timm_tuned(job: Task) -> dict[str, Any]:
    """timm's loaders, AdamW at 3e-4, one warm-up epoch and cosine, all layers, label smoothing 0.1."""
    from peer_recipes import fitted
    from timm.data import create_loader
    from timm.loss import LabelSmoothingCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import create_scheduler_v2

    common: dict[str, Any] = {"input_size": (3, SIDE, SIDE), "num_workers": 2, "mean": MEAN, "std": STD}
    common |= {"device": torch.device("cpu"), "batch_size": min(32, len(job.parts["train"]))}

    def loaders() -> tuple[Any, Any, Any]:
        training = {"is_training": True, "color_jitter": 0.4, "interpolation": "random", "scale": (0.35, 1.0)}
        made = [create_loader(Images(job.root, job.parts["train"]), **common, **training)]
        for part in ("val", "test"):
            made.append(create_loader(Images(job.root, job.parts[part]), **common, interpolation="bicubic"))
        return made[0], made[1], made[2]

    def adamw(network: nn.Module) -> Any:
        return create_optimizer_v2(network, opt="adamw", lr=3e-4, weight_decay=0.01)

    def schedule(optimizer: Any, epochs: int, per_epoch: int) -> Callable[[int], None]:
        cosine, _ = create_scheduler_v2(
            optimizer,
            "cosine",
            epochs,
            warmup_epochs=int(epochs > 1),
            step_on_epochs=False,
            updates_per_epoch=per_epoch,
        )
        taken: Callable[[int], None] = cosine.step_update
        return taken

    model = tuned_network(len(job.classes))
    return fitted(job, model, loaders, adamw, schedule, LabelSmoothingCrossEntropy(0.1), fast=True)


def fastai_tuned(job: Task) -> dict[str, Any]:
    """fastai's own road for photos: vision_learner's body, head and groups, and fine_tune at its defaults."""
    import peer_fastai
    from fastai.vision import all as vision

    def made(loaders: Any) -> Any:
        learn = vision.vision_learner(loaders, NAME, pretrained=False, metrics=vision.accuracy, normalize=False)
        start = tuned_network(1).state_dict()
        body = learn.model[0].model
        body.load_state_dict({name: start[name] for name in body.state_dict()})
        learn.freeze()
        return learn

    return peer_fastai.fastai(job, make=made, side=SIDE, normal=(MEAN, STD), fine_tune=True)


def features(job: Task) -> dict[str, Any]:
    """Logistic regression on the frozen network's features; its penalty chosen on validation."""
    from peer_recipes import computes_bfloat16
    from sklearn.linear_model import LogisticRegression
    from torchvision import transforms

    model = tuned_network(0).eval().to(memory_format=torch.channels_last)
    steps = [
        transforms.Resize(SIDE),
        transforms.CenterCrop(SIDE),
        transforms.ToTensor(),
        transforms.Normalize(MEAN, STD),
    ]
    change, found = transforms.Compose(steps), {}
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=computes_bfloat16()):
        for part, rows in job.parts.items():
            loader = torch.utils.data.DataLoader(Images(job.root, rows, change), 32, num_workers=1)
            found[part] = torch.cat([model(x.contiguous(memory_format=torch.channels_last)).float() for x, _ in loader])
    labels = {part: [label for _, label in rows] for part, rows in job.parts.items()}
    tried = []
    for strength in (0.001, 0.01, 0.1, 1.0, 10.0):
        fit = LogisticRegression(C=strength, max_iter=300).fit(found["train"], labels["train"])
        tried.append((fit.score(found["val"], labels["val"]), strength, fit))
    best = max(tried, key=lambda each: each[0])
    return {"accuracy": best[2].score(found["test"], labels["test"]), "val_accuracy": best[0], "epochs": 0}


TUNED = {"fastai-tuned": fastai_tuned, "timm-tuned": timm_tuned, "features": features}
