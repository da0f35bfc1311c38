"""Removal and trust against figures known beforehand: a network that looks at one square, dense solves, literals."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hubel.as_json import from_json, to_json
from hubel.errors import UsageError
from hubel.explanation.removal import area, brightest, impute, log_odds, remove, road
from hubel.explanation.trust import Trust, centre_blob, interval, random_maps, trust
from trained_digits import enlarged, trained

SIDE = 24
SQUARE = (slice(5, 17), slice(7, 19))  # a quarter of the places


class LooksAtASquare(nn.Module):
    """The log-odds of class 0 are four times the mean of the square less two; nothing else matters."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(1, 1, SIDE, bias=False)
        self.weigh.weight.data.zero_()[..., SQUARE[0], SQUARE[1]] = 1 / 144
        self.head = nn.Linear(1, 2)
        self.head.weight.data.copy_(torch.tensor([[4.0], [0.0]]))
        self.head.bias.data.copy_(torch.tensor([-2.0, 0.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.weigh(images).flatten(1))  # type: ignore[no-any-return]


def scene(seed: int = 0) -> Tensor:
    """Noise with a bright square: the answer is 0.88 sure of class 0, and 0.12 sure where the square is dark."""
    image = torch.randn(1, SIDE, SIDE, generator=torch.Generator().manual_seed(seed)) / 4
    image[:, SQUARE[0], SQUARE[1]] = 1.0
    return image


def true_map() -> Tensor:
    found = torch.zeros(SIDE, SIDE)
    found[SQUARE] = 1.0
    return F.avg_pool2d(found[None], 3, 1, 1)[0] + found


def test_the_true_map_has_the_best_possible_areas_and_its_negative_the_worst() -> None:
    maps = torch.stack([true_map(), -true_map()])
    deletion, insertion = remove(LooksAtASquare(), scene(), maps, 0, empty=torch.zeros(1, SIDE, SIDE))
    sure, dark = torch.tensor(2.0).sigmoid(), torch.tensor(-2.0).sigmoid()
    # The square goes with the first third, or with the last: between shares, trapezoids.
    best, worst = (sure + 5 * dark) / 6, (5 * sure + dark) / 6
    torch.testing.assert_close(area(deletion.sigmoid()), torch.stack([best, worst]))
    torch.testing.assert_close(area(insertion.sigmoid()), torch.stack([worst, best]))


def test_the_literals_of_torch_cam() -> None:
    """Its tests have a model of scores (s, 1 - s) with s the sum of the image; here those are probabilities."""

    class Sum(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            score = images.flatten(1).double().sum(dim=1)
            return torch.stack([score, 1 - score], dim=1).clamp(min=0).log()

    image, nothing = torch.tensor([[[0.4, 0.3], [0.2, 0.1]]]), torch.zeros(1, 2, 2)
    deletion, insertion = (c.sigmoid() for c in remove(Sum(), image, image, 0, empty=nothing, shares=[0.5]))
    torch.testing.assert_close(deletion, torch.tensor([[1.0, 0.3, 0.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(insertion, torch.tensor([[0.0, 0.7, 1.0]]), atol=1e-6, rtol=0)
    assert (area(deletion, [0.5]).item(), area(insertion, [0.5]).item()) == pytest.approx((0.4, 0.6))

    image, nothing, shares = torch.tensor([[[0.3, 0.25, 0.2, 0.15, 0.1]]]), torch.zeros(1, 1, 5), [0.4, 0.8]
    deletion, insertion = (c.sigmoid() for c in remove(Sum(), image, image, 0, empty=nothing, shares=shares))
    torch.testing.assert_close(deletion, torch.tensor([[1.0, 0.45, 0.1, 0.0]]), atol=1e-6, rtol=0)
    torch.testing.assert_close(insertion, torch.tensor([[0.0, 0.55, 0.9, 1.0]]), atol=1e-6, rtol=0)
    assert (area(deletion, shares).item(), area(insertion, shares).item()) == pytest.approx((0.41, 0.59))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_a_negative_map_exchanges_deletion_and_insertion(seed: int) -> None:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(48, 5), nn.Tanh(), nn.Linear(5, 3))
    image, one = torch.randn(3, 4, 4), torch.randn(1, 4, 4)
    deletion, insertion = remove(model, image, one, 1, shares=[0.25, 0.75])
    other_deletion, other_insertion = remove(model, image, -one, 1, shares=[0.25, 0.75])
    torch.testing.assert_close(area(deletion, [0.25, 0.75]), area(other_insertion, [0.25, 0.75]))
    torch.testing.assert_close(area(insertion, [0.25, 0.75]), area(other_deletion, [0.25, 0.75]))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.floats(0.01, 0.99), st.integers(0, 3))
def test_the_brightest_places(height: int, width: int, share: float, levels: int) -> None:
    values = torch.randn(2, height, width) if levels == 0 else torch.randint(levels, (2, height, width)).float()
    for one, chosen in zip(values, brightest(values, [share])[:, 0], strict=True):
        assert chosen.sum() == max(1, round(share * one.numel()))
        assert chosen.all() or one[chosen].min() >= one[~chosen].max()


def test_log_odds_are_those_of_softmax() -> None:
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(12, 4)), torch.randn(50, 3, 2, 2)
    expected = model(images).softmax(dim=1).detach()
    for target in range(4):
        torch.testing.assert_close(log_odds(model, images, target).sigmoid(), expected[:, target])
    assert log_odds(nn.Sequential(nn.Flatten(), nn.Linear(12, 1)), images, 0).isposinf().all()


@pytest.mark.parametrize(
    ("height", "width", "share"), [(6, 7, 0.1), (6, 7, 0.9), (1, 9, 0.5), (9, 1, 0.5), (12, 5, 0.5)]
)
def test_imputed_pixels_solve_the_system_written_down_pixel_by_pixel(height: int, width: int, share: float) -> None:
    torch.manual_seed(height * width)
    image = torch.randn(3, height, width)
    gaps = brightest(torch.randn(1, height, width), [share])[0, 0]
    matrix, right = np.eye(height * width), image.numpy().reshape(3, -1).T.astype(float)
    for y in range(height):
        for x in range(width):
            if not gaps[y, x]:
                continue
            near = [(y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if i or j]
            near = [(i, j) for i, j in near if 0 <= i < height and 0 <= j < width]
            weights = np.array([1 / 6 if i == y or j == x else 1 / 12 for i, j in near])
            matrix[y * width + x, [i * width + j for i, j in near]] = -weights / weights.sum()
            right[y * width + x] = 0
    expected = torch.tensor(np.linalg.solve(matrix, right).T.reshape(3, height, width)).float()
    torch.testing.assert_close(impute(image, gaps, noise=0), expected, atol=1e-5, rtol=1e-5)
    noise = (impute(image, gaps) - expected)[:, gaps]
    assert 0 < noise.abs().max() < 0.06
    assert torch.equal(impute(image, gaps)[:, ~gaps], image[:, ~gaps])


def test_road_falls_with_the_square_and_stays_without_it() -> None:
    maps = torch.stack([true_map(), -true_map()])
    found = road(LooksAtASquare(), scene(), maps, 0, shares=[0.3, 0.5])
    assert (found[0] < 0.2).all()
    torch.testing.assert_close(found[1], torch.full((2,), torch.tensor(2.0).sigmoid().item()), atol=1e-3, rtol=0)


@pytest.mark.parametrize("grid", [4, 7, 24])
def test_random_maps_are_as_smooth_as_the_map(grid: int) -> None:
    generator = torch.Generator().manual_seed(0)
    low = torch.randn(100, 1, grid, grid, generator=generator)
    maps = F.interpolate(low, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    found = torch.cat([random_maps(one, 10, generator) for one in maps])

    def variogram(maps: Tensor, apart: int) -> Tensor:  # (width, height), of maps of deviation 1
        maps = (maps - maps.mean(dim=(1, 2), keepdim=True)) / maps.std(dim=(1, 2), keepdim=True)
        steps = maps[:, apart:] - maps[:, :-apart], maps[:, :, apart:] - maps[:, :, :-apart]
        return torch.stack([step.square().mean() for step in steps])

    for apart in (1, 3, 6):
        torch.testing.assert_close(variogram(found, apart), variogram(maps, apart), rtol=0.25, atol=0)
    spread = found.std(dim=0)  # no place is preferred
    assert spread.max() < 1.25 * spread.min()


def test_the_centre_blob_is_highest_in_the_middle() -> None:
    blob = centre_blob(torch.zeros(5, 9))
    assert blob.argmax() == 2 * 9 + 4
    torch.testing.assert_close(blob, blob.flip(0).flip(1))


def test_the_true_map_is_trusted_and_its_negative_and_a_constant_one_are_not() -> None:
    maps = torch.stack([true_map(), -true_map(), torch.ones(SIDE, SIDE), torch.full((SIDE, SIDE), float("nan"))])
    good, *bad = trust(LooksAtASquare(), scene().expand(4, 1, SIDE, SIDE), maps, torch.zeros(4, dtype=torch.int64))
    assert (good.red_flag, good.above) == (False, 1.0)
    assert good.probability == pytest.approx(torch.tensor(2.0).sigmoid().item(), abs=1e-6)
    assert good.deletion.of_map <= min(*good.deletion.of_random, good.deletion.of_centre)
    assert good.insertion.of_map >= max(*good.insertion.of_random, good.insertion.of_centre)
    assert good.sentence.startswith(
        "The map points at what matters: without its brightest third the class goes from 88%"
    )
    assert [one.red_flag for one in bad] == [True] * 3
    assert [one.sentence.startswith("Not shown to matter") for one in bad] == [True] * 3
    assert from_json(Trust, to_json(good)) == good


def test_maps_that_know_nothing_are_flagged_and_true_ones_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 true maps shuffled on a grid of 8x8, and of 200 smooth ones drawn at random, 95 % have to be flagged."""
    monkeypatch.setattr("hubel.explanation.trust.road", lambda *_, **__: torch.zeros(5, 1))  # has no say in it
    model, n = LooksAtASquare(), 200
    images = torch.stack([scene(seed) for seed in range(n)])
    generator = torch.Generator().manual_seed(0)
    cells = F.avg_pool2d(true_map()[None, None], 3)
    orders = torch.stack([torch.randperm(64, generator=generator) for _ in range(n)])
    to_image = partial(F.interpolate, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    shuffled = to_image(cells.flatten()[orders].view(n, 1, 8, 8))[:, 0]
    smooth = to_image(torch.randn(n, 1, 6, 6, generator=generator))[:, 0]
    targets = torch.zeros(n, dtype=torch.int64)

    def flagged(maps: Tensor) -> float:
        return float(np.mean([one.red_flag for one in trust(model, images, maps, targets)]))

    assert flagged(to_image(cells).expand(n, -1, -1, -1)[:, 0]) == 0
    assert flagged(shuffled) >= 0.95
    assert flagged(smooth) >= 0.95


def test_a_trained_network_is_left_as_it_was() -> None:
    model, images, _ = trained()
    model.train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    maps = torch.randn(2, 16, 16)
    first = trust(model, images[:2], maps, torch.tensor([0, 1]))
    assert trust(model, images[:2], maps, torch.tensor([0, 1])) == first
    assert [module.training for module in (model, model[0], model[1])] == [True, True, False]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    model.eval()


def test_a_map_of_a_trained_network_is_better_than_its_negative() -> None:
    model, images, labels = trained()
    maps = enlarged("gradcam", model, images[:50], labels[:50])
    found, turned = (trust(model, images[:50], sign * maps, labels[:50]) for sign in (1, -1))
    gains = [one.insertion.of_map - one.deletion.of_map for one in found]
    assert interval(gains)[0] > 0
    np.testing.assert_allclose([one.score.of_map for one in found], [-one.score.of_map for one in turned], atol=1e-5)
    assert all(one.red_flag for one in turned if one.score.of_map < 0)


def test_the_bootstrap_interval_is_that_of_normal_theory() -> None:
    values = np.random.default_rng(1).normal(2.0, 3.0, 400)
    half = 1.96 * values.std(ddof=1) / 20
    assert interval(values.tolist()) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


@pytest.mark.parametrize(
    ("maps", "targets", "message"),
    [
        (torch.zeros(2, 4, 4), torch.zeros(2), "expected a map and a target for each image"),
        (torch.zeros(2, SIDE, SIDE), torch.zeros(1), "expected a map and a target for each image"),
        (torch.zeros(2, SIDE, SIDE), torch.tensor([0, 2]), "a class 2"),
        (torch.zeros(2, SIDE, SIDE), torch.tensor([-1, 0]), "a class -1"),
    ],
)
def test_bad_input_is_refused(maps: Tensor, targets: Tensor, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        trust(LooksAtASquare(), scene().expand(2, 1, SIDE, SIDE), maps, targets)
