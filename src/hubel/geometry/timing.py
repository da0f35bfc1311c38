"""How long a network and each of its layers take, measured on the processor."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable

from torch import nn

from hubel.geometry.trace import leaves
from hubel.nn.dry_run import blank, called_with, copies, undisturbed

WARM_UP = 2  # passes before it counts: memory is allocated, kernels are chosen
PASSES = 5


def measure(model: nn.Module, size: tuple[int, int, int]) -> tuple[float, dict[str, list[float]]]:
    """Time one image of noise, of `size` (channels, height, width), in eval mode, with copies of the weights.

    Returns milliseconds, medians over `PASSES` passes: of the whole pass without hooks, and by module name of each of
    its calls, in the order they ran. Operations that no module does are in the total only.
    """
    image, tensors = blank(model, size, "cpu"), copies(model, "cpu")

    def milliseconds() -> float:
        began = time.perf_counter()
        called_with(model, tensors, image)
        return 1e3 * (time.perf_counter() - began)

    with undisturbed(model):
        total = statistics.median([milliseconds() for _ in range(WARM_UP + PASSES)][WARM_UP:])
        passes = [_calls(model, milliseconds) for _ in range(PASSES)]
    return total, {
        name: [statistics.median(call) for call in zip(*(spent[name] for spent in passes), strict=False)]
        for name in passes[0]
    }


def _calls(model: nn.Module, run: Callable[[], float]) -> dict[str, list[float]]:
    """Run once and time every call of a leaf module: module name → milliseconds of each call."""
    began: dict[nn.Module, float] = {}
    spent: dict[str, list[float]] = defaultdict(list)
    names = {module: name for name, module in leaves(model).items()}

    def start(module: nn.Module, _inputs: object) -> None:
        began[module] = time.perf_counter()

    def stop(module: nn.Module, _inputs: object, _output: object) -> None:
        spent[names[module]].append(1e3 * (time.perf_counter() - began[module]))

    handles = [module.register_forward_pre_hook(start) for module in names]
    handles += [module.register_forward_hook(stop) for module in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return spent
