"""Settings of the data's road from folder to batches. An annotation's text is the flag's help."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from hubel.errors import UsageError
from hubel.records import Fit


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to training images; everything is drawn per image and 0 or None switches a change off.

    Attributes:
        flip: mirror left and right with probability 1/2.
        shift: move by up to this share of the side (crop with reflected padding). crop: and by so many pixels.
        scale: random resized crop: smallest and largest share of the area that is kept.
        ratio: random resized crop: the aspect ratio lies between 1/ratio and ratio.
        rotate: up to this many degrees either way.
        brightness, contrast, saturation: factor drawn from [1 - x, 1 + x].
        cutout: side of one grey square as a share of the image's side.
        erase: probability of filling a rectangle of 2 to 33 % of the area with noise (random erasing).
        mixup, cutmix: alpha of the Beta distribution; when both are set, each batch takes one of them at random.
        policy: RandAugment with two operations of magnitude 9, or TrivialAugment (wide), as torchvision has them.
    """

    flip: bool = False
    shift: float = 0.0
    crop: int = 0
    scale: tuple[float, float] | None = None
    ratio: float = 1.0
    rotate: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: float = 0.0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    policy: Literal["none", "rand", "trivial"] = "none"


PRESETS: dict[str, Augmentation] = {
    "none": Augmentation(),
    "small": Augmentation(shift=1 / 16),
    "upright": Augmentation(shift=0.08, scale=(0.65, 1.3), rotate=15.0, brightness=0.3, contrast=0.3, saturation=0.3),
    "photo": Augmentation(scale=(0.3, 1.0), ratio=1.3, brightness=0.3, contrast=0.3, saturation=0.3),
    "strong": Augmentation(
        scale=(0.2, 1.0), ratio=1.4, rotate=15.0, erase=0.25, cutmix=1.0, brightness=0.3, contrast=0.3, saturation=0.3
    ),
    "trivial": Augmentation(shift=1 / 8, policy="trivial", erase=0.25),
    "rand": Augmentation(shift=1 / 8, policy="rand"),
}

AUGMENT = f"random changes to the training images: auto, {', '.join(PRESETS)}, or changes such as rotate=15,flip"
# Single changes as --augment names them: what their number means, which numbers it may be, and what it sets
CHANGES: dict[str, tuple[str, float, float, Callable[[float], dict[str, Any]]]] = {
    "crop": ("PIXELS", 1, 512, lambda x: {"crop": round(x)}),
    "shift": ("SHARE", 0, 1, lambda x: {"shift": x}),
    "zoom": ("LEAST", 0.01, 1, lambda x: {"scale": (x, 1.0), "ratio": 4 / 3}),
    "rotate": ("DEGREES", 0, 180, lambda x: {"rotate": x}),
    "jitter": ("AMOUNT", 0, 1, lambda x: {"brightness": x, "contrast": x, "saturation": x}),
    "brightness": ("AMOUNT", 0, 1, lambda x: {"brightness": x}),
    "contrast": ("AMOUNT", 0, 1, lambda x: {"contrast": x}),
    "saturation": ("AMOUNT", 0, 1, lambda x: {"saturation": x}),
    "cutout": ("SHARE", 0, 1, lambda x: {"cutout": x}),
    "erase": ("PROBABILITY", 0, 1, lambda x: {"erase": x}),
    "mixup": ("ALPHA", 0, 10, lambda x: {"mixup": x}),
    "cutmix": ("ALPHA", 0, 10, lambda x: {"cutmix": x}),
}


def parse_augmentation(text: str, flip: bool = False) -> Augmentation:
    """Read a preset, single changes, or a preset and changes to it: ``photo``, ``rotate=15,flip``, ``small,mixup=0.2``.

    Args:
        flip: whether a preset mirrors; without one (and with ``none``), only ``flip`` among the changes does.

    Raises:
        UsageError: an unknown name or an impossible number.

    >>> parse_augmentation("rotate=15,flip").rotate
    15.0
    """
    first, *changes = (change.strip() for change in text.split(","))
    if first in PRESETS:
        how = replace(PRESETS[first], flip=flip and first != "none")
    else:
        how, changes = Augmentation(), [first, *changes]
    for change in changes:
        how = replace(how, **_fields(text, change))
    return how


def _fields(text: str, change: str) -> dict[str, Any]:
    """What one change sets."""
    name, _, value = change.partition("=")
    if change == "flip":
        return {"flip": True}
    try:
        _, least, most, fields = CHANGES[name]
        if least <= float(value) <= most:
            return fields(float(value))
        wrong = f"{value} is not from {least:g} to {most:g}"
    except (KeyError, ValueError):
        wrong = f"{name} wants a number" if name in CHANGES else f"there is no {change!r}"
    known = ", ".join(f"{name}={unit}" for name, (unit, *_) in CHANGES.items())
    raise UsageError(
        f"--augment {text}: {wrong}; expected auto, a preset ({', '.join(PRESETS)}), or changes, with commas between "
        f"them and also after a preset (flip, {known})."
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images are used, how they are split, and what the network gets to see of them.

    None means: derived from the images and the budget, printed, and saved with the run.
    """

    size: Annotated[int | None, "side of the square that images are brought to, in pixels"] = None
    channels: Annotated[Literal[1, 3] | None, "1 grey, 3 colour"] = None
    fit: Annotated[Fit, "crop the centre, pad the rest, or squash the image to a square"] = "crop"
    mean: Annotated[
        tuple[float, float, float] | None, "of red, green and blue in 0 to 1, subtracted; measured, or of the weights"
    ] = None
    std: Annotated[tuple[float, float, float] | None, "that they are divided by; measured, or of the weights"] = None
    background: Annotated[tuple[int, int, int], "RGB that transparency and padding are filled with"] = (255, 255, 255)
    range: Annotated[
        tuple[float, float] | None, "values of images with more than 8 bits that become black and white; measured"
    ] = None
    val: Annotated[float, "share of the training images held out for choosing"] = 0.1
    test: Annotated[float, "share held out for reporting, where the data has no test part of its own"] = 0.15
    folds: Annotated[int, "k of a k-fold split; 0 for a single split"] = 0
    fold: Annotated[int, "which of the folds is held out for reporting, counted from 0"] = 0
    strict: Annotated[bool, "end the run at the first unusable image instead of leaving it out"] = False
    exclude: Annotated[str | None, "findings.json or a text file of paths: these images are left out"] = None
    relabel: Annotated[str | None, "CSV of path,label: what these images really are"] = None
    max_pixels: Annotated[int, "an image whose header claims more pixels is refused"] = 80_000_000
    split_seed: Annotated[int | None, "of the split alone; the run's seed when not given"] = None
    split: Annotated[str | None, "RUN or split.json: divide the images as it does, and new ones by the rule"] = None
    augment: Annotated[str, AUGMENT] = "auto"
    flip: Annotated[bool | None, "mirror left and right; by default only where a test says that labels survive it"] = (
        None
    )

    def __post_init__(self) -> None:
        if self.size is not None and not 4 <= self.size <= 2048:
            raise UsageError(f"--size {self.size}: expected 4 to 2048 pixels.")
        if not all(0 <= value <= 255 for value in self.background):
            raise UsageError(f"--background {' '.join(map(str, self.background))}: expected three numbers 0 to 255.")
        for name, triple in (("mean", self.mean), ("std", self.std)):
            if triple is not None and not all(-5 < value < 5 for value in triple):
                raise UsageError(f"--{name} {' '.join(map(str, triple))}: expected numbers for pixels in 0 to 1.")
        if self.std is not None and min(self.std) <= 0:
            raise UsageError(f"--std {' '.join(map(str, self.std))}: expected three numbers above zero.")
        if self.range is not None and not -math.inf < self.range[0] < self.range[1] < math.inf:
            raise UsageError(f"--range {self.range[0]} {self.range[1]}: expected two numbers, the smaller one first.")
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels {self.max_pixels}: expected a number above zero.")
        for name, share in (("val", self.val), ("test", self.test)):
            if not 0 < share < 1:
                raise UsageError(f"--{name} {share}: a share of the images is expected, between 0 and 1 (0.1 is 10 %).")
        if self.val + self.test >= 1:
            raise UsageError(f"--val {self.val} and --test {self.test} leave nothing to train on: lower one of them.")
        if self.split_seed is not None and not 0 <= self.split_seed < 2**31:
            raise UsageError(f"--split-seed {self.split_seed}: expected a whole number from 0 to 2147483647.")
        if self.split is not None and self.folds:
            raise UsageError(
                f"--split {self.split} and --folds {self.folds} exclude each other: leave one of them out."
            )
        if self.augment != "auto":
            mirrors = parse_augmentation(self.augment, self.flip or False).flip
            if self.flip not in (None, mirrors) and self.augment != "none":
                raise UsageError(f"--augment {self.augment} says itself what is mirrored: leave --[no-]flip out.")
        if self.folds == 1 or self.folds < 0 or not 0 <= self.fold < max(self.folds, 1):
            raise UsageError(
                f"--folds {self.folds} --fold {self.fold}: use at least 2 folds and a fold from 0 to folds - 1."
            )
