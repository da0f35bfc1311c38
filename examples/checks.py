"""The checks behind X9: each measures, and returns a sentence with the numbers and whether the answer holds."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hubel

Said = tuple[str, bool]
Labelled = tuple[Tensor, Tensor]
Train = Callable[..., tuple[hubel.Run, float]]  # trains the notes' network, and returns its last training accuracy too


def bars(columns: range, n: int) -> Labelled:
    """Bars of three pixels centred in these columns, (N, 1, 16, 16), and whether each stands, (N,)."""
    lies = torch.tensor([[0.0, 0, 0], [1, 1, 1], [0, 0, 0]])
    stands, centres = torch.randint(2, (n,)), torch.zeros(n, 2, 16, 16)
    column = torch.tensor(columns)[torch.randint(len(columns), (n,))]
    centres[torch.arange(n), stands, torch.randint(1, 15, (n,)), column] = 1
    return F.conv2d(centres, torch.stack([lies, lies.T])[None], padding=1), stands


def learned(net: nn.Module, batch: Labelled, optimizer: torch.optim.Optimizer, steps: int) -> float:
    """Take steps on the same images, and return the last loss."""
    for _ in range(steps):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def right(net: nn.Module, seen: Labelled, new: Labelled) -> float:
    """Train on some images, and return the accuracy on others."""
    learned(net, seen, torch.optim.Adam(net.parameters(), 0.02), 120)
    return float((net(new[0]).argmax(1) == new[1]).float().mean())


def one_kernel(first: nn.Module) -> nn.Module:
    """A convolution of eight filters whose strongest response anywhere decides."""
    layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    return nn.Sequential(first, *layers)


def shared_kernel() -> Said:
    seen, new = bars(range(1, 7), 256), bars(range(9, 15), 1000)
    conv = right(one_kernel(nn.Identity()), seen, new)
    dense = right(nn.Sequential(nn.Flatten(), nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 2)), seen, new)
    said = f"trained on the left half alone: {conv:.1%} right on the right half, dense layers {dense:.1%} (n = 1,000)"
    return said, conv > 0.95 and dense < 0.8


def doubled_channels() -> Said:
    three, six = (hubel.conv(32, kernel=3, filters=16, channels=channels) for channels in (3, 6))
    said = f"{three.weights} + {three.biases} become {six.weights} + {six.biases}: weights double, biases stay"
    return said, six.weights == 2 * three.weights and six.biases == three.biases


def stride_two() -> Said:
    shape = tuple(nn.Conv2d(3, 16, 3, stride=2, padding=1)(torch.zeros(8, 3, 64, 64)).shape)
    by_formula = hubel.conv(64, kernel=3, stride=2, padding=1, filters=16).shape
    return f"(8, 3, 64, 64) becomes {shape}: floor((64 + 2 - 2 - 1) / 2) + 1 = 32", shape == (8, *by_formula)


def without_bias() -> Said:
    conv, norm, images = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), torch.rand(8, 3, 32, 32)
    bias = conv.bias.detach()
    apart = float((norm(conv(images)) - norm(conv(images) - bias[:, None, None])).detach().abs().max())
    return f"{len(bias)} of 448 parameters; batch norm subtracts them: outputs differ by {apart:.0e}", apart < 1e-5


def downsampling(train: Train) -> Said:
    (pool, _), (stride, _) = train("max"), train("stride", down="stride")
    a, b, n = pool.scores.accuracy, stride.scores.accuracy, pool.scores.n
    work = hubel.inspect(pool.path).macs / hubel.inspect(stride.path).macs
    said = f"pooling {a:.1%}, stride {b:.1%} (n = {n:,}); the stride takes {work:.1f} times fewer multiply-adds"
    return said, a > b and work > 1


def fine_details() -> Said:
    sizes = (1, 2, 4, 8)
    seen, new = bars(range(1, 15), 512), bars(range(1, 15), 1000)
    found = [right(one_kernel(nn.AvgPool2d(size)), seen, new) for size in sizes]
    said = ", ".join(f"{size}: {accuracy:.0%}" for size, accuracy in zip(sizes, found, strict=True))
    return f"bars of 3 pixels, averaged over windows of {said} right (n = 1,000)", found[0] > 0.95 and found[-1] < 0.8


def flat_or_global(train: Train) -> Said:
    (flat, _), (pooled, _) = train("max"), train("gap", head_kind="gap")
    more, fewer = (hubel.inspect(run.path).parameters for run in (flat, pooled))
    a, b, n = flat.scores.accuracy, pooled.scores.accuracy, flat.scores.n
    return f"flatten {a:.1%} with {more:,} parameters, global pooling {b:.1%} with {fewer:,} (n = {n:,})", fewer < more


def batch_norm(batch: Labelled, rates: tuple[float, ...] = (0.01, 0.1, 1.0)) -> Said:
    losses: dict[str, list[float]] = {}
    classes, channels, size = int(batch[1].max()) + 1, batch[0].shape[1], batch[0].shape[2:]
    for norm in ("batch", "none"):
        for rate in rates:
            torch.manual_seed(0)
            net = hubel.build("simple-cnn", classes=classes, channels=channels, size=size, norm=norm, dropout=0.0)
            loss = learned(net, batch, torch.optim.SGD(net.parameters(), rate), 40)
            losses.setdefault(norm, []).append(loss if math.isfinite(loss) else math.inf)
    with_norm, without = (", ".join(f"{loss:.2f}" for loss in found) for found in losses.values())
    said = f"loss after 40 steps on {len(batch[0])} images at rates {rates}: {with_norm} with it, {without} without"
    return said, max(losses["batch"]) < max(losses["none"])


def augmentation_or_capacity(train: Train) -> Said:
    (_, strong), (_, plain), (_, tiny) = train("strong", "strong"), train("max"), train("tiny", widths=(4, 8, 16))
    said = (
        f"training accuracy {strong:.1%} under strong augmentation; without, the same network fits {plain:.1%}: "
        f"augment less; one of 4-8-16 filters fits {tiny:.1%} even so: it lacks capacity"
    )
    return said, plain > strong + 0.1 and tiny < plain - 0.1
