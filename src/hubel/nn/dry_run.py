"""Running a model beside itself: on shapes alone, or on copies of its numbers. The model is neither moved nor changed.

Also: which sizes of image a model takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from hubel.errors import UsageError
from hubel.nn import meta, ops
from hubel.nn.hooks import evaluating, watch

# Sizes to try for a network that no power of two fits: those that networks are commonly made for.
COMMON = (28, 48, 96, 112, 160, 192, 224, 227, 240, 256, 260, 288, 299, 320, 384, 448, 480, 528, 600)
LARGEST = 1024  # pixels; the search for a size ends there


def bare(model: nn.Module) -> nn.Module:
    """Return the module inside of torch's wrappers (compiled, data-parallel), whose names users know.

    Raises:
        UsageError: it is TorchScript, which can't be looked into.
    """
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(model, "_orig_mod"):
        inside: Any = model._orig_mod if hasattr(model, "_orig_mod") else model.module
        model = inside
    if isinstance(model, torch.jit.ScriptModule):
        raise UsageError("a TorchScript module can't be looked into: give the nn.Module that it was made from.")
    return model


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run the block in eval mode without gradients, and give train flags and random state back."""
    with torch.no_grad(), evaluating(model), torch.random.fork_rng(devices=[]):
        yield


def copies(model: nn.Module, device: str) -> dict[str, Tensor]:
    """Parameters and buffers on another device, for `called_with`; parameters already there are not copied.

    What a module holds is named once, although the module may have two names; a tensor in two modules stays one.

    Raises:
        UsageError: a lazy layer has no shape yet.
    """
    found, made = {}, dict[int, Tensor]()
    for prefix, module in model.named_modules():
        for local, tensor in {**module._parameters, **module._buffers}.items():
            name = f"{prefix}.{local}" if prefix else local
            if isinstance(tensor, (UninitializedParameter, UninitializedBuffer)):
                raise UsageError(f"{name} has no shape yet: pass one batch of images through the model first.")
            if tensor is not None and id(tensor) not in made:
                copy = moved(tensor, device)  # of a buffer always one, as a forward may write into it
                made[id(tensor)] = copy.clone() if local in module._buffers else copy
            if tensor is not None:
                found[name] = made[id(tensor)]
    return found


def called_with(model: nn.Module, tensors: dict[str, Tensor], image: Tensor) -> Any:
    """Call a model with what `copies` returned in the place of its own tensors, which it gets back."""
    return functional_call(model, tensors, (image,), tie_weights=False)


def moved(tensor: Tensor, device: str) -> Tensor:
    """Return a tensor on another device; one without numbers gets zeros."""
    tensor = tensor.detach()
    return torch.zeros_like(tensor, device=device) if tensor.is_meta and device != "meta" else tensor.to(device)


def blank(model: nn.Module, size: tuple[int, int, int], device: str) -> Tensor:
    """Return an image (1, C, H, W) for the model, of its own floating type; with numbers, always the same noise."""
    floating = (p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    dtype = next(floating, torch.float32)
    if device == "meta":
        return torch.empty(1, *size, device="meta", dtype=dtype)
    noise = torch.randn(1, *size, generator=torch.Generator().manual_seed(0))
    return noise.to(device, dtype)


class Beside:
    """Brings constants that a model keeps outside of its parameters and buffers to the other tensors' device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.known: dict[int, tuple[Tensor, Tensor]] = {}  # the first is held so that its id stays its own

    def __call__(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments of an operation, all on one device; without the model's tensors they stay."""
        there = [t.device == self.device for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        moved: tuple[Any, Any] = (args, kwargs)
        return tree_map_only(Tensor, self._moved, moved) if any(there) and not all(there) else moved

    def _moved(self, tensor: Tensor) -> Tensor:
        if tensor.device == self.device:
            return tensor
        if id(tensor) not in self.known:
            self.known[id(tensor)] = (tensor, tensor.detach().to(self.device))
        return self.known[id(tensor)][1]


class Shapes(TorchDispatchMode):
    """Runs operations on meta tensors, the frequent ones by our own quick shapes."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.beside = Beside(device)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: torch would import its compiler, which takes seconds, to keep it from compiling this class."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = self.beside(args, kwargs or {})
        output = meta.output_of(func, ops.named(func, args, kwargs))
        return func(*args, **kwargs) if output is None else output


def answer(model: nn.Module, size: tuple[int, int, int]) -> Any:
    """Return what the model answers to one image (channels, height, width), on shapes where that is enough.

    Raises:
        Exception: whatever the model raises.
    """

    def on(device: str) -> Any:
        image, tensors = blank(model, size, device), copies(model, device)
        with undisturbed(model), Shapes(image.device):
            return called_with(model, tensors, image)

    try:
        return on("meta")
    except Exception as error:
        if not needs_numbers(error):
            raise
    return on("cpu")


def activations(model: nn.Module, size: tuple[int, int, int]) -> int:
    """Return how many numbers the layers give out for one image (channels, height, width), on shapes alone."""
    counts: list[int] = []

    def count(_name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and not any(True for _ in module.children()):
            counts.append(output.numel())

    with watch(model, count):
        answer(model, size)
    return sum(counts)


def learns_from_one(model: nn.Module, size: tuple[int, int, int]) -> bool:
    """Whether a step on a single image (channels, height, width) works: a batch norm needs two values a channel."""
    image, tensors = blank(model, size, "meta"), copies(model, "meta")
    try:
        with undisturbed(model), Shapes(image.device):
            model.train()
            called_with(model, tensors, image)
    except ValueError as error:
        return "more than 1 value per channel" not in str(error)
    except Exception:  # whatever else happens, happens without a batch, too
        return True
    return True


def takes(model: nn.Module, size: tuple[int, int, int]) -> bool:
    """Whether an image of that size (channels, height, width) gets through."""
    try:
        answer(model, size)
    except Exception:
        return False
    return True


def needs_numbers(error: Exception) -> bool:
    """Whether a pass on meta tensors failed because the code looks at numbers, which they don't have."""
    return isinstance(error, NotImplementedError) or "meta" in str(error).lower()


def smallest_square(model: nn.Module, channels: int) -> int | None:
    """Return the smallest side of a square image that the network takes; None if none up to `LARGEST` was found.

    Doubling finds a side that works and halving the smallest one. A network that takes a few sizes only (a flatten
    head, position embeddings) is tried at the common ones, and then the smallest of that neighbourhood is returned.
    """
    powers = [2**n for n in range(LARGEST.bit_length())]
    high: int | None = next((side for side in (*powers, *COMMON) if takes(model, (channels, side, side))), None)
    if high is None:
        return None
    low = max((side for side in (0, *powers) if side < high), default=0)  # refused, as all smaller powers were
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if takes(model, (channels, middle, middle)) else (middle, high)
    return high
