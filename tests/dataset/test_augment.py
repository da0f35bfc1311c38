"""Augmentation against torchvision and hand-worked cases; the draws depend on seed, epoch and image alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torchvision.transforms.v2 import functional as TF

from hubel.dataset.augment import (
    BINS,
    DRAWS,
    MAGNITUDE,
    MIRROR,
    _policy,
    augment,
    describe,
    draws_for,
    is_mirrored,
    mix,
    uniform,
)
from hubel.dataset.config import PRESETS, Augmentation

IMAGES = torch.randint(0, 256, (6, 3, 20, 20), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def draws(n: int = 6, value: float | None = None) -> torch.Tensor:
    return uniform(0, 0, torch.arange(n)) if value is None else torch.full((n, DRAWS), value)


def test_draws_depend_on_seed_epoch_and_image_alone() -> None:
    ids = torch.arange(1000)
    whole = uniform(7, 3, ids)
    torch.testing.assert_close(uniform(7, 3, ids[[5, 900]]), whole[[5, 900]], rtol=0, atol=0)
    for other in (uniform(8, 3, ids), uniform(7, 4, ids), uniform(7, 3, ids + 1)):
        assert (other == whole).float().mean() < 0.001


def test_draws_are_uniform_and_uncorrelated() -> None:
    u = uniform(0, 1, torch.arange(20_000))
    assert u.min() >= 0
    assert u.max() < 1
    for column in (0, 11, 23):
        assert stats.kstest(u[:, column].numpy(), "uniform").pvalue > 1e-3
    correlation = torch.corrcoef(u.T) - torch.eye(DRAWS)
    assert correlation.abs().max() < 0.04


def test_no_augmentation_changes_nothing() -> None:
    torch.testing.assert_close(augment(IMAGES, Augmentation(), draws(), 20), IMAGES / 255)


@pytest.mark.parametrize("extra", [{}, {"rotate": 1e-9}], ids=["exact", "sampled"])
def test_a_flip_is_a_flip(extra: dict[str, float]) -> None:
    mirrored = augment(IMAGES, Augmentation(flip=True, **extra), draws(value=0.25), 20)
    torch.testing.assert_close(mirrored, IMAGES.flip(3) / 255, atol=1e-4, rtol=0)
    kept = augment(IMAGES, Augmentation(flip=True, **extra), draws(value=0.5), 20)
    torch.testing.assert_close(kept, IMAGES / 255, atol=1e-4, rtol=0)


def test_a_shift_is_a_crop_of_the_reflected_image() -> None:
    u = draws()
    shifted = augment(IMAGES, Augmentation(shift=0.2), u, 20)
    padded = F.pad(IMAGES.float() / 255, (4, 4, 4, 4), mode="reflect")
    for i in range(6):
        top, left = int(u[i, 4] * 9), int(u[i, 5] * 9)
        torch.testing.assert_close(shifted[i], padded[i, :, top : top + 20, left : left + 20])


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_rotation_equals_torchvisions(share: float) -> None:
    smooth = F.interpolate(torch.rand(1, 3, 5, 5), (41, 41), mode="bilinear")
    pixels = (smooth * 255).round().byte()
    turned = augment(pixels, Augmentation(rotate=30.0), draws(1, share), 41)
    angle = 30 * (2 * share - 1)
    expected = TF.rotate(pixels.float() / 255, angle, interpolation=TF.InterpolationMode.BILINEAR)
    inner = slice(10, 31)  # corners differ: torchvision fills them with black, hubel mirrors
    torch.testing.assert_close(turned[..., inner, inner], expected[..., inner, inner], atol=2e-3, rtol=0)


def test_a_whole_crop_of_the_same_size_is_the_image() -> None:
    torch.testing.assert_close(
        augment(IMAGES, Augmentation(scale=(1.0, 1.0)), draws(), 20), IMAGES / 255, atol=1e-5, rtol=0
    )


def test_crops_stay_inside_of_the_image() -> None:
    marked = torch.zeros(64, 1, 32, 32, dtype=torch.uint8)
    u = uniform(1, 1, torch.arange(64))
    how = Augmentation(scale=(0.3, 1.0), ratio=4 / 3)
    ramp = torch.arange(32).float().expand(64, 1, 32, 32)
    seen = augment((ramp * 8).byte(), how, u, 32)
    assert (seen.diff(dim=3) >= -1e-6).all(), "a mirrored border would make the ramp fall"
    assert augment(marked, how, u, 16).shape == (64, 1, 16, 16)


def test_brightness_multiplies() -> None:
    grey = torch.full((4, 3, 8, 8), 100, dtype=torch.uint8)
    brighter = augment(grey, Augmentation(brightness=0.5), draws(4, 1.0), 8)
    torch.testing.assert_close(brighter, torch.full_like(brighter, 150 / 255))


def test_cutout_blanks_its_share() -> None:
    white = torch.full((200, 1, 40, 40), 255, dtype=torch.uint8)
    cut = augment(white, Augmentation(cutout=0.5), uniform(0, 0, torch.arange(200)), 40)
    share = (cut == 0.5).float().mean((1, 2, 3))
    assert 0.05 < share.min() <= share.max() <= 0.26


def test_erasing_is_a_rectangle_of_noise_inside_the_image() -> None:
    """As often as asked, 2 to 33 % of the area, with a value of its own for each pixel, channel, image and epoch."""
    white, ids = torch.full((2000, 3, 32, 32), 255, dtype=torch.uint8), torch.arange(2000)
    erased = augment(white, Augmentation(erase=0.3), uniform(0, 0, ids), 32)
    hit = (erased < 1).any(1)
    some = hit.flatten(1).any(1)
    assert abs(some.float().mean() - 0.3) < 0.03
    rows, columns = hit.any(2), hit.any(1)
    assert torch.equal(hit, rows[:, :, None] & columns[:, None, :])
    area = hit[some].float().mean((1, 2))
    assert 0.018 < area.min() < 0.03
    assert 0.3 < area.max() < 0.345
    first, last = rows[some].float().mean(0)[[0, -1]].tolist()
    assert first == pytest.approx(last, abs=0.05), "placed evenly"
    noise = erased[hit[:, None].expand_as(erased)]
    assert stats.kstest(noise.numpy(), "uniform").pvalue > 1e-3
    inside = [image[:, mask] for image, mask in zip(erased[some], hit[some], strict=True)]
    assert all(len(values.unique()) > 0.99 * values.numel() for values in inside)
    corners = torch.stack([values[:, :12].flatten() for values in inside])
    assert torch.corrcoef(corners.T).sub(torch.eye(36)).abs().max() < 0.2, "neighbours and channels differ"
    always = Augmentation(erase=1.0)
    again, later = (augment(white[:9], always, uniform(0, epoch, ids[:9]), 32) for epoch in (0, 1))
    assert torch.equal(again[5:7], augment(white[:2], always, uniform(0, 0, ids[5:7]), 32))
    both = (again < 1) & (later < 1)
    assert (again[both] == later[both]).float().mean() < 0.001


def test_a_crop_is_counted_in_pixels() -> None:
    by_pixels = augment(IMAGES, Augmentation(crop=4, flip=True), draws(), 20)
    assert torch.equal(by_pixels, augment(IMAGES, Augmentation(shift=0.2, flip=True), draws(), 20))


def test_mixup_blends_images_and_targets_alike() -> None:
    images, targets = IMAGES.float() / 255, torch.eye(6)
    mixed, soft = mix(images, targets, Augmentation(mixup=1.0), 0, 0, 0)
    share = soft[0, 0]
    torch.testing.assert_close(soft, share * targets + (1 - share) * targets.roll(1, 0))
    torch.testing.assert_close(mixed, share * images + (1 - share) * images.roll(1, 0))
    assert 0 < share < 1


def test_cutmix_targets_are_the_shares_of_pixels() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 1, 20, 20).contiguous()
    for first in range(20):
        mixed, soft = mix(images, torch.eye(6), Augmentation(cutmix=1.0), 0, 0, first)
        own = (mixed[0] == 0).float().mean()
        torch.testing.assert_close(soft[0, 0], own)
        torch.testing.assert_close(soft.sum(1), torch.ones(6))


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_policies_use_every_operation_and_keep_the_range(policy: str) -> None:
    many = IMAGES.repeat(100, 1, 1, 1)
    changed = augment(many, Augmentation(policy=policy), uniform(0, 0, torch.arange(600)), 20)
    assert 0 <= changed.min() <= changed.max() <= 1
    same = (changed == many / 255).flatten(1).all(1).float().mean()
    assert same < 0.4


def sheared(x: torch.Tensor, across: float, down: float) -> torch.Tensor:
    degrees = [math.degrees(math.atan(slope)) for slope in (across, down)]
    return TF.affine(x, 0.0, [0, 0], 1.0, degrees, center=[0, 0])


# The fourteen operations in their order, of a magnitude m; then that magnitude by hand, for images of 40 x 24: the
# ninth step of thirty of RandAugment, the seventeenth of TrivialAugment, and whether its sign is drawn
OPERATIONS: dict[str, tuple[Callable[[torch.Tensor, float], torch.Tensor], float, float, bool]] = {
    "Identity": (lambda x, _: x, 0, 0, False),
    "ShearX": (lambda x, m: sheared(x, m, 0.0), 0.09, 0.561, True),
    "ShearY": (lambda x, m: sheared(x, 0.0, m), 0.09, 0.561, True),
    "TranslateX": (lambda x, m: TF.affine(x, 0.0, [int(m), 0], 1.0, [0.0, 0.0]), 3.26, 18.13, True),
    "TranslateY": (lambda x, m: TF.affine(x, 0.0, [0, int(m)], 1.0, [0.0, 0.0]), 5.44, 18.13, True),
    "Rotate": (TF.rotate, 9.0, 76.5, True),
    "Brightness": (lambda x, m: TF.adjust_brightness(x, 1 + m), 0.27, 0.561, True),
    "Color": (lambda x, m: TF.adjust_saturation(x, 1 + m), 0.27, 0.561, True),
    "Contrast": (lambda x, m: TF.adjust_contrast(x, 1 + m), 0.27, 0.561, True),
    "Sharpness": (lambda x, m: TF.adjust_sharpness(x, 1 + m), 0.27, 0.561, True),
    "Posterize": (lambda x, m: TF.posterize(x, int(m)), 7, 5, False),
    "Solarize": (lambda x, m: TF.solarize(x, 255 * m), 0.7, 13 / 30, False),
    "AutoContrast": (lambda x, _: TF.autocontrast(x), 0, 0, False),
    "Equalize": (lambda x, _: TF.equalize(x), 0, 0, False),
}


@pytest.mark.parametrize(("policy", "step"), [("rand", MAGNITUDE), ("trivial", 17)])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_and_magnitudes_are_the_papers(name: str, policy: str, step: int) -> None:
    """Each of the fourteen with either sign, in colour and in grey; RandAugment's second one is the identity."""
    operation, nine, seventeen, signed = OPERATIONS[name]
    size = nine if policy == "rand" else seventeen
    place = (list(OPERATIONS).index(name) + 0.5) / len(OPERATIONS)
    for images in (F.interpolate(IMAGES, (40, 24)), F.interpolate(IMAGES[:, :1], (40, 24))):
        for drawn, sign in ((0.75, 1), (0.25, -1 if signed else 1)):
            chosen = [place, drawn, 0.0, 0.0] if policy == "rand" else [place, (step + 0.5) / BINS, drawn, 0.0]
            changed = _policy(images, policy, torch.tensor([chosen] * len(images)))
            expected = operation(images, sign * size)
            assert changed.dtype == torch.uint8
            assert (changed.int() - expected.int()).abs().max() <= 1
            assert (changed != expected).float().mean() < 0.01


def test_every_image_gets_the_operation_that_it_drew() -> None:
    u = uniform(0, 0, torch.arange(600))[:, 16:22]
    many = IMAGES.repeat(100, 1, 1, 1)
    together = _policy(many, "trivial", u)
    alone = torch.cat([_policy(many[i : i + 1], "trivial", u[i : i + 1]) for i in range(40)])
    assert torch.equal(together[:40], alone)


def test_every_preset_says_what_it_does() -> None:
    assert describe(PRESETS["none"]) == "nothing is changed"
    said = {describe(how) for how in PRESETS.values()}
    assert len(said) == len(PRESETS)
    assert "MixUp" in describe(Augmentation(mixup=0.2))


def test_two_epochs_show_every_image_and_its_mirror_image() -> None:
    ids = torch.arange(1000)
    first, second, third = (is_mirrored(draws_for(3, epoch, ids)) for epoch in (0, 1, 2))
    assert torch.equal(first, ~second)
    assert torch.equal(first, third)
    assert first.float().mean().item() == pytest.approx(0.5, abs=0.05)
    others = [i for i in range(24) if i != MIRROR]
    assert torch.equal(draws_for(3, 1, ids)[:, others], uniform(3, 1, ids)[:, others])


UPRIGHT = [
    replace(PRESETS["photo"], flip=True),
    replace(PRESETS["photo"], shift=0.3),
    Augmentation(scale=(0.5, 1.6), shift=0.1, flip=True),
    Augmentation(shift=0.1, flip=True),
    replace(PRESETS["strong"], rotate=0.0, cutmix=0.0),
    PRESETS["strong"],
]


@pytest.mark.parametrize("how", UPRIGHT)
@pytest.mark.parametrize("size", [28, 32, 40, 12])
def test_bfloat16_shows_what_float32_shows(how: Augmentation, size: int) -> None:
    torch.manual_seed(0)
    rough = torch.randint(0, 256, (64, 3, 8, 8)).float()
    images = F.interpolate(rough, (32, 34), mode="bicubic").clamp(0, 255).byte()
    u = draws_for(1, 2, torch.arange(64))
    exact, fast = augment(images, how, u, size), augment(images, how, u, size, torch.bfloat16)
    assert fast.dtype == torch.bfloat16
    off = (exact - fast.float()).abs() * 255
    assert off.mean() < 0.6
    assert off.max() < 6
