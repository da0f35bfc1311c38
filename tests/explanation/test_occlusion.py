"""Occlusion against numbers worked out by hand, and those of Captum's own example."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hubel.errors import UsageError
from hubel.explanation.pixels import occlusion

from .tiny import OneConv, counting, few


class Sum(nn.Module):
    """Logits are the sum of all pixels and minus that sum."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.sum(dim=(1, 2, 3))
        return torch.stack([total, -total], dim=1)


def test_single_pixels_of_a_sum_are_the_pixels() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    found = occlusion(Sum(), image, torch.tensor([0]), window=(1, 1))
    torch.testing.assert_close(found.maps, image[:, 0])
    hidden = occlusion(Sum(), image, torch.tensor([1]), window=(1, 1), baseline=2.0)
    torch.testing.assert_close(hidden.maps, 2 - image[:, 0])


def test_a_pixel_gets_the_mean_of_the_windows_over_it() -> None:
    image = torch.tensor([[[[1.0, 2.0, 4.0, 8.0, 16.0]]]])
    found = occlusion(Sum(), image, torch.tensor([0]), window=(1, 3), stride=(1, 2))
    torch.testing.assert_close(found.maps[0], torch.tensor([[7.0, 7.0, (7 + 28) / 2, 28.0, 28.0]]))
    cut = occlusion(Sum(), image, torch.tensor([0]), window=(1, 2), stride=(1, 2))
    torch.testing.assert_close(cut.maps[0], torch.tensor([[3.0, 3.0, 12.0, 12.0, 16.0]]))  # the last one is cut off


def test_all_channels_are_hidden_by_their_own_baseline() -> None:
    baseline = torch.tensor([1.0, -2.0]).view(2, 1, 1)
    found = occlusion(Sum(), few(torch.float32), torch.zeros(3, dtype=torch.int64), window=(1, 1), baseline=baseline)
    torch.testing.assert_close(found.maps, (few(torch.float32) - baseline).sum(dim=1), rtol=1e-4, atol=1e-5)


def test_the_windows_of_captums_example() -> None:
    class With(nn.Module):
        """Captum hides parts of one of two inputs; the other, all ones, is added here."""

        def __init__(self) -> None:
            super().__init__()
            self.inside = OneConv()

        def forward(self, x: Tensor) -> Tensor:
            return self.inside(x + 1)  # type: ignore[no-any-return]

    whole = occlusion(With(), counting(), torch.tensor([0]), window=(4, 4), stride=(4, 4))
    assert whole.maps.unique().tolist() == [67.0]
    assert whole.empty.all()  # the same everywhere
    found = occlusion(With(), counting(), torch.tensor([0]), window=(2, 3), stride=(2, 1))
    upper, lower = [17.0] * 4, [64.0, 65.5, 65.5, 67.0]
    assert found.maps.tolist() == [[upper, upper, lower, lower]]


def test_windows_are_a_seventh_of_the_image_and_run_in_batches() -> None:
    seen: list[int] = []

    class Counted(Sum):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(len(x))
            return super().forward(x)

    occlusion(Counted(), torch.randn(1, 1, 28, 28))
    assert sum(seen) == 1 + 13 * 13
    assert max(seen) <= 32


@pytest.mark.parametrize(
    "arguments", [{"window": (9, 2)}, {"window": (2, 2), "stride": (3, 1)}, {"stride": (0, 1)}, {"window": (0, 1)}]
)
def test_windows_that_leave_gaps_are_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="don't cover an image of 6x5: expected 1 ≤ stride ≤ window ≤ image"):
        occlusion(Sum(), few(), **arguments)
