"""Settings of the data's road from folder to batches. An annotation's text is the flag's help."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from hubel.errors import UsageError
from hubel.records import Fit

Preset = Literal["auto", "none", "small", "upright", "photo", "strong", "trivial", "rand"]


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
    val: Annotated[float, "share of the training images held out for choosing"] = 0.1
    test: Annotated[float, "share held out for reporting, where the data has no test part of its own"] = 0.15
    folds: Annotated[int, "k of a k-fold split; 0 for a single split"] = 0
    fold: Annotated[int, "which of the folds is held out for reporting, counted from 0"] = 0
    strict: Annotated[bool, "end the run at the first unusable image instead of leaving it out"] = False
    exclude: Annotated[str | None, "findings.json or a text file of paths: these images are left out"] = None
    max_pixels: Annotated[int, "an image whose header claims more pixels is refused"] = 80_000_000
    augment: Annotated[Preset, "preset of random changes to the training images"] = "auto"
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
        if self.max_pixels < 1:
            raise UsageError(f"--max-pixels {self.max_pixels}: expected a number above zero.")
        for name, share in (("val", self.val), ("test", self.test)):
            if not 0 < share < 1:
                raise UsageError(f"--{name} {share}: a share of the images is expected, between 0 and 1 (0.1 is 10 %).")
        if self.val + self.test >= 1:
            raise UsageError(f"--val {self.val} and --test {self.test} leave nothing to train on: lower one of them.")
        if self.folds == 1 or self.folds < 0 or not 0 <= self.fold < max(self.folds, 1):
            raise UsageError(
                f"--folds {self.folds} --fold {self.fold}: use at least 2 folds and a fold from 0 to folds - 1."
            )


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes to training images; everything is drawn per image and 0 or None switches a change off.

    Attributes:
        flip: mirror left and right with probability 1/2.
        shift: move by up to this share of the side (crop with reflected padding).
        scale: random resized crop: smallest and largest share of the area that is kept.
        ratio: random resized crop: the aspect ratio lies between 1/ratio and ratio.
        rotate: up to this many degrees either way.
        brightness, contrast, saturation: factor drawn from [1 - x, 1 + x].
        cutout: side of one grey square as a share of the image's side.
        erase: probability of erasing a random rectangle of 2 to 33 % of the area with noise (random erasing).
        mixup, cutmix: alpha of the Beta distribution; when both are set, each batch takes one of them at random.
        policy: RandAugment with two operations of magnitude 9, or TrivialAugment (wide).
    """

    flip: bool = False
    shift: float = 0.0
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
