"""What textbooks say of convolutional networks, as experiments: hypothesis, variants, and what would refute it.

A claim is *supported* where the 95 % intervals of all its differences are above their line, *refuted* where that of one
is below, and *undecided* at this number of seeds and images otherwise. Nothing of this is chosen after the trainings.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hubel.dataset.find import scanning
from hubel.errors import UsageError
from hubel.evaluation.contrast import ACCURACY, TRAINING_ERROR, Compared, Difference, Trial
from hubel.events import outcome
from hubel.jobs.recipe import Recipe
from hubel.lab.compare import comparing
from hubel.lab.trial import Task, prepared_for, trial
from hubel.lab.variants import base_of, grid
from hubel.report.terminal import Show, shown

if TYPE_CHECKING:
    from torch import nn

GRADIENT, BATCH = "first gradient", 32  # images that it is the mean over
SHORT = 600  # images of the short form
SMALL = {"model": "simple-cnn", "widths": [16, 32, 64], "batch_size": 128}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """An experiment that was fixed beforehand.

    Attributes:
        hypothesis: one sentence, as a textbook has it. differences: what must be above zero, or above their line.
        refuted: what would refute it. variants: name → settings. recipe: what they have in common.
        images: to train on. minutes: about as many on two cores. measure: of which the differences are.
        short: settings of the short form instead of four epochs. own: variant → network of `hubel.lab.networks`.
        work: does a trial, where it isn't a training.
    """

    hypothesis: str
    refuted: str
    variants: Mapping[str, Mapping[str, Any]]
    differences: tuple[Difference, ...]
    recipe: Mapping[str, Any]
    data: str = "cifar10"
    images: int | None = 10_000
    seeds: int = 5
    minutes: int = 10
    measure: str = ACCURACY
    short: Mapping[str, Any] = field(default_factory=dict)
    own: Mapping[str, str] = field(default_factory=dict)
    work: Callable[[Task], Trial] = trial


def first_gradient(task: Task) -> Trial:
    """The norm of the loss's gradient at the first convolution's weights, before any training, as its logarithm."""
    import torch
    import torch.nn.functional as F

    from hubel.dataset.tensors import normalise, to_tensor
    from hubel.nn.zoo import build_for

    data, model = prepared_for(task), task.recipe.model
    rows = data.split(task.recipe.data, task.recipe.seed).train[:BATCH]
    torch.manual_seed(task.recipe.seed)
    network: nn.Module = build_for(model.model, len(data.catalog.classes), data.packed.preprocess, model.given, None)
    images = normalise(to_tensor(data.packed.images[rows]), data.packed.preprocess)
    F.cross_entropy(network(images), torch.from_numpy(data.catalog.labels[rows])).backward()
    gradient = next(network.parameters()).grad
    assert gradient is not None
    values = {GRADIENT: math.log10(max(float(gradient.norm()), 1e-38)), "seconds": 0.0}
    return Trial(variant=task.variant, seed=task.recipe.seed, values=values)


def _than(words: str, better: str, worse: str, least: float = 0.0) -> Difference:
    return Difference(words=words, factors={better: 1.0, worse: -1.0}, least=least)


CLAIMS: dict[str, Claim] = {
    "degradation": Claim(
        hypothesis="A plain network gets harder to train with depth: at 56 layers its training error is higher than at "
        "20, and shortcuts take that away (He et al. 2016).",
        refuted="plain-56 has the lower training error, or loses no more by its depth than ResNet-56.",
        variants=grid(model=["plain20", "plain56", "resnet20", "resnet56"]),
        differences=(
            _than("plain-56 has the higher training error than plain-20", "plain56", "plain20"),
            Difference(
                words="depth costs the plain network more than the residual one",
                factors={"plain56": 1, "plain20": -1, "resnet56": -1, "resnet20": 1},
            ),
        ),
        recipe={"size": 16, "epochs": 10, "augment": "shift=0.06,flip"},
        seeds=3,
        minutes=25,
        measure=TRAINING_ERROR,
        short={"size": 16, "epochs": 2},
    ),
    "dense-or-convolution": Claim(
        hypothesis="With as many weights, convolutions tell images better than a fully connected network.",
        refuted="the fully connected network is better.",
        variants={"convolutions": SMALL, "fully connected": {"parameters": 290_000}},
        differences=(_than("convolutions are better", "convolutions", "fully connected"),),
        recipe={"epochs": 10, "augment": "none"},
        own={"fully connected": "dense"},
    ),
    "batch-norm": Claim(
        hypothesis="Batch norm makes training better, and the more so the higher the learning rate is.",
        refuted="training without is better, or its lag shrinks at the higher rate.",
        variants=grid(lr=[0.01, 0.1, 1.0], norm=["batch", "none"]),
        differences=(
            _than("with batch norm is better at a rate of 0.1", "lr=0.1, norm=batch", "lr=0.1, norm=none"),
            Difference(
                words="it gains more at a rate of 1 than at 0.01",
                factors={
                    "lr=1.0, norm=batch": 1,
                    "lr=1.0, norm=none": -1,
                    "lr=0.01, norm=batch": -1,
                    "lr=0.01, norm=none": 1,
                },
            ),
        ),
        recipe={**SMALL, "epochs": 5, "optimizer": "sgd", "augment": "none"},
        seeds=3,
        minutes=15,
    ),
    "first-gradient": Claim(
        hypothesis="Without shortcuts the gradient at the first layer vanishes with depth, with shortcuts it does not.",
        refuted="the gradient of the plain network does not shrink from 20 to 56 layers.",
        variants={
            f"{kind}-{depth}, {norm}": {"model": f"{kind}{depth}", "norm": norm}
            for norm in ("batch", "none")
            for kind in ("plain", "resnet")
            for depth in (20, 56, 110)
        },
        differences=(
            _than("plain, with batch norm: 20 layers have more gradient than 56", "plain-20, batch", "plain-56, batch"),
            _than("plain, without: 20 layers have more gradient than 56", "plain-20, none", "plain-56, none"),
        ),
        recipe={"augment": "none"},
        images=1_000,
        minutes=2,
        measure=GRADIENT,
        work=first_gradient,
    ),
    "pooling-or-stride": Claim(
        hypothesis="Max pooling is better than a strided convolution in its place.",
        refuted="the strided convolution is better.",
        variants=grid(down=["max", "stride"]),
        differences=(_than("max pooling is better", "max", "stride"),),
        recipe={**SMALL, "epochs": 10, "augment": "none"},
    ),
    "kernel-size": Claim(
        hypothesis="Kernels must be larger than a pixel, and 5x5 sees more than 3x3.",
        refuted="1x1 is better than 3x3, or 3x3 better than 5x5.",
        variants=grid(kernel=[1, 3, 5]),
        differences=(
            _than("3x3 is better than 1x1", "kernel=3", "kernel=1"),
            _than("5x5 is better than 3x3", "kernel=5", "kernel=3"),
        ),
        recipe={**SMALL, "epochs": 10, "augment": "none"},
        minutes=20,
    ),
    "two-small-kernels": Claim(
        hypothesis="Two convolutions of 3x3 are better than one of 5x5, which sees as far with more weights (VGG).",
        refuted="one of 5x5 is better.",
        variants={"two 3x3": {"kernel": 3, "repeats": 2}, "one 5x5": {"kernel": 5}},
        differences=(_than("two of 3x3 are better", "two 3x3", "one 5x5"),),
        recipe={**SMALL, "epochs": 10, "augment": "none"},
        minutes=20,
    ),
    "squeeze-and-excitation": Claim(
        hypothesis="Squeeze-and-excitation makes a network better for hardly any weights.",
        refuted="the network without is better.",
        variants={"with": {"se": True}, "without": {"se": False}},
        differences=(_than("with it is better", "with", "without"),),
        recipe={**SMALL, "epochs": 10, "augment": "none"},
    ),
    "flatten-or-pooling": Claim(
        hypothesis="Global average pooling overfits less than flattening and is better, with far fewer weights.",
        refuted="flattening is better.",
        variants=grid(head_kind=["gap", "flatten"]),
        differences=(_than("global average pooling is better", "gap", "flatten"),),
        recipe={**SMALL, "epochs": 10, "augment": "none"},
    ),
    "separable": Claim(
        hypothesis="Depthwise separable convolutions lose less than two points, for a fraction of the operations.",
        refuted="they lose more than two points.",
        variants={"separable": {"separable": True}, "standard": {"separable": False}},
        differences=(_than("separable loses less than two points", "separable", "standard", least=-0.02),),
        recipe={"epochs": 10, "augment": "none", "batch_size": 128, "width": 16},
        seeds=3,
        own={"separable": "blocks", "standard": "blocks"},
    ),
    "augmentation": Claim(
        hypothesis="On few images, random crops and mirror images make a network better.",
        refuted="training on the images as they are is better.",
        variants={"crops and mirror images": {"augment": "crop=4,flip"}, "as they are": {"augment": "none"}},
        differences=(_than("with augmentation is better", "crops and mirror images", "as they are"),),
        recipe={**SMALL, "epochs": 40},
        images=1_000,
    ),
    "transfer": Claim(
        hypothesis="On few images, a frozen network from ImageNet with a new head is better than training from "
        "scratch, and fine-tuning it is better still.",
        refuted="training from scratch is better than the frozen network, or that than fine-tuning.",
        variants={
            "frozen": {"weights": "imagenet", "stages": "head:10:0.003"},
            "fine-tuned": {"weights": "imagenet", "stages": "head:3:0.003,all:7:0.001"},
            "from scratch": {"weights": "none", "stem": "imagenet"},
        },
        differences=(
            _than("frozen is better than from scratch", "frozen", "from scratch"),
            _than("fine-tuned is better than frozen", "fine-tuned", "frozen"),
        ),
        recipe={"model": "efficientnet_lite0", "size": 64, "augment": "photo", "flip": True},
        data="imagenette",
        images=300,
        seeds=3,
        minutes=5,
        short={"size": 32, "images": 100},
    ),
    "coarse-details": Claim(
        hypothesis="Pooling too much too early loses fine details that no later layer brings back.",
        refuted="a network that sees the image four times as coarse is better.",
        variants=grid(pool=[1, 2, 4]),
        differences=(_than("the full picture is better than one four times as coarse", "pool=1", "pool=4"),),
        recipe={"epochs": 5, "augment": "none", "batch_size": 128, "width": 16},
        own=dict.fromkeys(("pool=1", "pool=2", "pool=4"), "coarse"),
        seeds=3,
        minutes=8,
    ),
}


def run(
    claim: str,
    source: str | os.PathLike[str] | None = None,
    *,
    short: bool = False,
    seeds: int | None = None,
    images: int | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    on: str = "here",
    show_as: Show = "auto",
) -> Compared:
    """Try a claim, on its own images or on yours, and say whether it is supported, refuted or undecided.

    Args:
        claim: its name, as `claims` has it. source: your images; the claim's own when None.
        short: in a minute, on 600 of the digits, with two seeds: to see how it goes, not whether it is true.
        seeds, images: others than the claim's own, which takes fewer images where there are not so many.
        The rest is as for `compare`.

    Raises:
        UsageError: there is no such claim.
    """
    if claim not in CLAIMS:
        raise UsageError(f"There is no claim {claim!r}: known are {', '.join(CLAIMS)}.")
    what = CLAIMS[claim]
    recipe = dict(what.recipe)
    if short:
        recipe |= what.short or {"epochs": 4}
        few = recipe.pop("images", SHORT)
        images = few if images is None else images
        seeds, source = seeds or 2, source or "digits"
    place = os.fspath(what.data if source is None else source)
    if images is None and what.images is not None:
        found = outcome(scanning(place))
        there = len(found.paths) if found.parts is None else found.parts.count("train")
        images = what.images if what.images < there else None
    work = comparing(
        place,
        variants={name: _settings(what, name) for name in what.variants},
        seeds=what.seeds if seeds is None else seeds,
        images=images,
        measure=what.measure,
        recipe=base_of(Recipe(), recipe),
        differences=what.differences,
        output=output,
        overwrite=overwrite,
        workers=workers,
        on=on,
        title=claim.replace("-", " "),
        text=(f"{what.hypothesis} It would be refuted if {what.refuted}",),
        work=what.work,
    )
    return shown(work, show_as)


def claims() -> list[dict[str, Any]]:
    """Every claim as plain values: its name, what it says, what would refute it, and what it takes."""
    return [
        {
            "claim": name,
            "hypothesis": claim.hypothesis,
            "refuted": claim.refuted,
            "variants": list(claim.variants),
            "differences": [each.words for each in claim.differences],
            "measure": claim.measure,
            "data": claim.data,
            "images": claim.images,
            "seeds": claim.seeds,
            "minutes": claim.minutes,
        }
        for name, claim in CLAIMS.items()
    ]


def claim_lines() -> Iterator[str]:
    """The list, for the terminal."""
    for each in claims():
        yield f"{each['claim']}  (about {each['minutes']} minutes on two cores)"
        yield f"    {each['hypothesis']}"
    yield "\nhubel lab run CLAIM tries one on its own images, --data FOLDER on yours; --short takes a minute."


def _settings(what: Claim, variant: str) -> dict[str, Any]:
    """The settings of a variant, with its network where that is one of the lab's own."""
    own = what.own.get(variant)
    if own is None:
        return dict(what.variants[variant])
    from hubel.lab import networks

    return {"model": getattr(networks, own), **what.variants[variant]}
