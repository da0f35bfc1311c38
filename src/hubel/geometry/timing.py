"""How long a network and each of its layers take, measured on the processor."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.func import functional_call

from hubel.geometry.trace import leaves
from hubel.nn.dry_run import blank, copies, undisturbed

WARM_UP = 2  # passes before it counts: memory is allocated, kernels are chosen
PASSES = 5


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Medians over `PASSES` passes of one image, in milliseconds.

    Attributes:
        total: the whole pass, without hooks. layers: module name → its calls, in the order they ran.
    """

    total: float
    layers: dict[str, tuple[float, ...]]


def measure(model: nn.Module, size: tuple[int, int, int]) -> Timing:
    """Time one image of noise, of `size` (channels, height, width), in eval mode, with copies of the weights.

    Operations that no module does are in the total only.
    """
    image, tensors = blank(model, size, "cpu"), copies(model, "cpu")
    totals: list[float] = []
    passes: list[dict[str, list[float]]] = []
    with undisturbed(model):
        for number in range(WARM_UP + PASSES):
            began = time.perf_counter()
            functional_call(model, tensors, (image,))
            if number >= WARM_UP:
                totals.append(time.perf_counter() - began)
        with _clocks(model) as spent:
            for _ in range(PASSES):
                spent.clear()
                functional_call(model, tensors, (image,))
                passes.append({name: list(calls) for name, calls in spent.items()})
    layers = {
        name: tuple(1e3 * statistics.median(run) for run in zip(*(p[name] for p in passes), strict=False))
        for name in passes[0]
    }
    return Timing(total=1e3 * statistics.median(totals), layers=layers)


@contextlib.contextmanager
def _clocks(model: nn.Module) -> Iterator[dict[str, list[float]]]:
    """Time every call of a leaf module while the block runs: module name → seconds of each call."""
    spent: dict[str, list[float]] = {}
    begun: dict[str, float] = {}

    def start(name: str) -> Any:
        return lambda *_: begun.__setitem__(name, time.perf_counter())

    def stop(name: str) -> Any:
        return lambda *_: spent.setdefault(name, []).append(time.perf_counter() - begun[name])

    handles = []
    try:
        for name, module in leaves(model).items():
            handles += [module.register_forward_pre_hook(start(name)), module.register_forward_hook(stop(name))]
        yield spent
    finally:
        for handle in handles:
            handle.remove()
