"""What faults are planted with: changes to a lesson, to its network, its images and its labels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hubel.doctor.lesson import Change, Lesson, sgd
from hubel.doctor.specimens import Residual, block, he, head

CONVS, ACTS = (nn.Conv2d,), (nn.ReLU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Card:
    """Mean and deviation that weights expect."""

    def __init__(self, channels: int) -> None:
        self.mean, self.std = MEAN[:channels], STD[:channels]


class Between(nn.Module):
    """Do something to what passes."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        """Do it."""
        return self.function(x)


class Without(nn.Module):
    """Run a module without recording gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """Run it."""
        with torch.no_grad():
            return self.inner(x)  # type: ignore[no-any-return]


def of(model: nn.Module, *kinds: type[nn.Module]) -> list[Any]:
    """The modules of some kinds, in their order."""
    return [module for module in model.modules() if isinstance(module, kinds)]


def put(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in another one's place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if child is old and parent is not new:
                setattr(parent, name, new)


def ended(model: nn.Module, *more: nn.Module) -> None:
    """Run more modules behind the last linear layer."""
    last = of(model, nn.Linear)[-1]
    put(model, last, nn.Sequential(last, *more))


def changed(lesson: Lesson, *changes: Change) -> Lesson:
    """Change the network before it is trained."""
    return replace(lesson, changes=(*lesson.changes, *changes))


def size(lesson: Lesson) -> tuple[int, int]:
    """Channels and classes."""
    return lesson.train[0].shape[1], int(lesson.train[1].max()) + 1


def built(lesson: Lesson, builder: Callable[..., nn.Module], **arguments: Any) -> Lesson:
    """Another network."""
    return replace(lesson, network=partial(builder, *size(lesson), **arguments), changes=())


def kept(lesson: Lesson, images: int) -> Lesson:
    """Train on the first images only."""
    return replace(lesson, train=(lesson.train[0][:images], lesson.train[1][:images]))


def labelled(lesson: Lesson, labels: Tensor, held_out: Tensor | None = None) -> Lesson:
    """Other labels."""
    others = lesson.held_out[1] if held_out is None else held_out
    return replace(lesson, train=(lesson.train[0], labels), held_out=(lesson.held_out[0], others))


def normalised(x: Tensor, mean: tuple[float, ...] = MEAN, std: tuple[float, ...] = STD) -> Tensor:
    """Subtract ImageNet's mean, divide by its deviation."""
    given = torch.tensor([mean, std])[:, : x.shape[1], None, None]
    return (x - given[0]) / given[1]


def draw(lesson: Lesson, *shape: int) -> Tensor:
    """Even numbers in 0 to 1 that belong to a lesson."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(lesson.seed + 1))


def noisy(labels: Tensor, share: float, draws: Tensor, classes: int) -> Tensor:
    """Any other class, for a share of the labels."""
    return torch.where(
        draws < share, (labels + 1 + (draws / share * (classes - 1)).long().clamp(max=classes - 2)) % classes, labels
    )


def confused(labels: Tensor, share: float, draws: Tensor, classes: int) -> Tensor:
    """Each even class taken for the next one, the other way round, too."""
    other = torch.where(labels % 2 == 0, labels + 1, labels - 1).clamp(max=classes - 1)
    return torch.where(draws < share, other, labels)


def mislabelled(lesson: Lesson, share: float, way: Callable[[Tensor, float, Tensor, int], Tensor]) -> Lesson:
    """Wrong labels in both parts, as they come from one source."""
    classes = size(lesson)[1]
    made = [way(y, share, draw(lesson, len(y)), classes) for y in (lesson.train[1], lesson.held_out[1])]
    return labelled(lesson, *made)


def leaked(lesson: Lesson, share: float, alter: Callable[[Tensor], Tensor]) -> Lesson:
    """Held-out images among those for training."""
    number = max(int(share * len(lesson.held_out[0])), 2)
    images = torch.cat([alter(lesson.held_out[0][:number]), lesson.train[0][number:]])
    return replace(lesson, train=(images, torch.cat([lesson.held_out[1][:number], lesson.train[1][number:]])))


def sorted_by(lesson: Lesson, key: Tensor) -> Lesson:
    """In a certain order, not shuffled."""
    order = key.argsort(stable=True)
    return replace(lesson, train=(lesson.train[0][order], lesson.train[1][order]), shuffle=False)


def rare(lesson: Lesson, shares: Iterable[float]) -> Lesson:
    """Keep a share of each class."""
    share = torch.tensor(list(shares))[lesson.train[1]]
    keep = draw(lesson, len(share)) < share
    return replace(lesson, train=(lesson.train[0][keep], lesson.train[1][keep]))


def spiked(count: int, _model: nn.Module, optimizer: torch.optim.Optimizer, *, factor: float, first: int = 3) -> None:
    """A rate far too high for a few steps."""
    for group in optimizer.param_groups:
        group.setdefault("usual", group["lr"])
        group["lr"] = group["usual"] * (factor if first <= count < first + 4 else 1)


def biased(model: nn.Module, bias: float) -> None:
    """The same bias in whatever stands in front of activations."""
    norms = of(model, nn.BatchNorm2d, nn.GroupNorm)
    for module in norms or of(model, *CONVS):
        nn.init.constant_(module.bias, bias)


def filled(model: nn.Module, value: float) -> None:
    """All weights the same."""
    for module in of(model, *CONVS, nn.Linear):
        nn.init.constant_(module.weight, value)


def copied(model: nn.Module) -> None:
    """Each layer's filters are copies of its first one."""
    for module in of(model, *CONVS, nn.Linear):
        module.weight.data.copy_(module.weight.data[:1].clone())


def replaced(model: nn.Module, kinds: tuple[type[nn.Module], ...], make: Callable[[], nn.Module]) -> None:
    """Other modules for all of some kinds."""
    for module in of(model, *kinds):
        put(model, module, make())


def one_norm(channels: int, classes: int, width: int = 16, convs: int = 1) -> nn.Module:
    """Blocks of one width that share a norm, and a convolution where `convs` is 1."""
    norm, conv = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1)
    each = [conv if convs == 1 else nn.Conv2d(width, width, 3, padding=1) for _ in range(3)]
    parts = [m for c in each for m in (c, norm, nn.ReLU())]
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), norm, nn.ReLU(), *parts, *head(width, classes))


def strided(channels: int, classes: int, width: int = 16, pool: int = 0) -> nn.Module:
    """Details go at once: by strides, or by one large pooling."""
    if pool:
        made = [*block(channels, width, norm=nn.BatchNorm2d), nn.AdaptiveAvgPool2d(pool)]
        return nn.Sequential(
            *made, *(m for _ in range(3) for m in block(width, width, norm=nn.BatchNorm2d)), *head(width, classes)
        )
    made = [m for n in range(5) for m in block(channels if n == 0 else width, width, norm=nn.BatchNorm2d, stride=2)]
    return nn.Sequential(*made, *head(width, classes))


def unscaled(channels: int, classes: int, gain: float, width: int = 16) -> nn.Module:
    """Shortcuts that add up, without a norm."""
    parts = [Residual(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(12)]
    model = nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), *parts, *head(width, classes))
    return he(model, gain)


def narrow(channels: int, classes: int, width: int, stride: int = 1) -> nn.Module:
    """Hardly any filters."""
    return nn.Sequential(*block(channels, width, norm=nn.BatchNorm2d, stride=stride), *head(width, classes))


def sleeping(seconds: float, each: int, count: int) -> None:
    """Take time for a batch, or for each of its images."""
    for _ in range(count if each else 1):
        time.sleep(seconds / (count if each else 1))


def short_of_memory(x: Tensor, most: int) -> Tensor:
    """Refuse large batches."""
    if len(x) > most and torch.is_grad_enabled():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    return x


def greedy(x: Tensor) -> Tensor:
    """Ask for more memory than there is."""
    return x + torch.empty(2**47) if torch.is_grad_enabled() else x


def standardised(x: Tensor) -> Tensor:
    """Each image by its own deviation."""
    return x / x.std((1, 2, 3), keepdim=True)


def one_bad(lesson: Lesson, value: float, share: float) -> Lesson:
    """One value for all pixels of some images; one pixel where it isn't finite."""
    images = lesson.train[0].clone()
    number = max(int(share * len(images)), 1)
    if math.isfinite(value):
        images[:number] = value
    else:
        images[:number, :, 0, 0] = value
    return replace(lesson, train=(images, lesson.train[1]))


def windows(x: Tensor, share: float, least: int = 1) -> Iterator[tuple[int, slice, slice]]:
    """For each image, a square of so large a share of its side, at a place that is drawn."""
    side = max(int(x.shape[3] * share), least)
    for n, (row, column) in enumerate(torch.randint(0, x.shape[3] - side + 1, (len(x), 2)).tolist()):
        yield n, slice(row, row + side), slice(column, column + side)


def erased(x: Tensor, share: float) -> Tensor:
    """A square of each image covered."""
    x = x.clone()
    for n, rows, columns in windows(x, share):
        x[n, :, rows, columns] = 0
    return x


def magnified(x: Tensor, share: float) -> Tensor:
    """A square of each image enlarged to the whole."""
    parts = [x[n : n + 1, :, rows, columns] for n, rows, columns in windows(x, share, 2)]
    return F.interpolate(torch.cat(parts), x.shape[2:], mode="bilinear")


def channels_last(x: Tensor, severity: int) -> Tensor:
    """(N, H, W, C) taken for (N, C, H, W)."""
    if severity == 2:
        return x.permute(0, 3, 2, 1).reshape(x.shape)
    return x.permute(0, 2, 3, 1).reshape(x.shape)


def detached_behind(model: nn.Module, severity: int) -> None:
    """Cut the graph behind a convolution."""
    convs = of(model, *CONVS)
    at = convs[min(severity, len(convs) - 2)]
    put(model, at, nn.Sequential(at, Between(torch.Tensor.detach)))


def listed(model: nn.Module, severity: int) -> None:
    """Layers in a plain list, which registers none."""
    convs = of(model, *CONVS)
    for conv in convs[: severity + 1]:
        hidden = [conv]
        put(model, conv, Between(lambda x, hidden=hidden: hidden[0](x)))  # type: ignore[misc]


def hard(lesson: Lesson, noise: float) -> Lesson:
    """Images with noise that stays the same, which can be learned by heart only."""
    parts = [(x + noise * (draw(lesson, *x.shape) - 0.5), y) for x, y in (lesson.train, lesson.held_out)]
    return replace(lesson, train=parts[0], held_out=parts[1])


def by_heart(lesson: Lesson, images: int, repeats: int = 1, noise: float = 1.0) -> Lesson:
    """So few images that they are learned by heart."""
    few = hard(kept(lesson, images), noise)
    x, y = few.train
    long = replace(few, train=(x.repeat(repeats, 1, 1, 1), y.repeat(repeats)), every=25, steps=450)
    return replace(long, batch=20, optimizer=sgd(0.03, decay=0))


def milestone(every: int, factor: float) -> Callable[[torch.optim.Optimizer], Any]:
    """Divide the rate after so many steps."""
    return lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, every, factor)


def pick(severity: int, *values: Any) -> Any:
    """The value for a severity."""
    return values[severity]
