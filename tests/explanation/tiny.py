"""A network and images made of sines, so the same with every version of torch, and the example of Captum's tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def sines(*shape: int, step: float, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers between -1 and 1."""
    count = torch.Size(shape).numel()
    return torch.sin(step * torch.arange(1, count + 1, dtype=torch.float64)).reshape(shape).to(dtype)


def tiny(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """(N, 2, 6, 5) → (N, 3), with a map (N, 4, 4, 3) behind its last ReLU."""
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
    )
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(sines(*parameter.shape, step=1.7 + number))
    return model.to(dtype).eval()


def few(dtype: torch.dtype = torch.float64) -> Tensor:
    """Three images for `tiny`."""
    return 2 * sines(3, 2, 6, 5, step=0.9, dtype=dtype)


class OneConv(nn.Module):
    """What Captum's tests call BasicModel_ConvNet_One_Conv: (N, 1, 4, 4) → (N, 4)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1, self.fc1, self.relu2 = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()
        with torch.no_grad():
            self.conv1.weight.fill_(1.0)
            self.conv1.bias.copy_(torch.tensor([-50.0, -75.0]))
            self.fc1.weight.copy_(torch.tensor([1.0] * 5 + [-1.0] * 3).expand(4, 8))
            self.fc1.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.conv1(x)).view(-1, 8)
        return self.relu2(self.fc1(x))  # type: ignore[no-any-return]


def counting() -> Tensor:
    """The image of Captum's tests: 0 to 15 as (1, 1, 4, 4)."""
    return torch.arange(16.0).view(1, 1, 4, 4)
