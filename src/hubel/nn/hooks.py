"""Looking into a model while it runs, and leaving it as it was."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from hubel.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Activations:
    """What the chosen modules gave out, in the order they finished.

    Attributes:
        outputs: module name → its output, as part of the graph; of a module that ran several times, the last.
        gradients: module name → gradient of what was differentiated with respect to that output, once a backward pass
            has run; empty unless asked for.
    """

    outputs: dict[str, Tensor] = field(default_factory=dict)
    gradients: dict[str, Tensor] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Tensor:
        return self.outputs[name]


@contextmanager
def capture(model: nn.Module, names: Iterable[str], *, gradients: bool = False) -> Iterator[Activations]:
    """Keep the outputs of modules, and on request their gradients, while the block runs.

    Later modules receive a copy, so an in-place activation doesn't change what was kept. Outputs that are not tensors
    are left out. Train flags are not touched, and the hooks go even when the block raises.

    Args:
        names: as in ``model.named_modules()``.

    Raises:
        UsageError: the model has no module of that name.

    >>> with capture(nn.Sequential(nn.ReLU()), ["0"]) as activations:
    ...     pass
    """
    modules = {name: find_module(model, name) for name in names}
    activations = Activations()
    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(_keeper(activations, name, gradients)))
        yield activations
    finally:
        for handle in handles:
            handle.remove()


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module of that name.

    Raises:
        UsageError: there is none; near names are given.
    """
    modules: dict[str, nn.Module] = dict(model.named_modules())
    if name not in modules:
        near = difflib.get_close_matches(name, list(modules), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see model.named_modules()."
        raise UsageError(f"the model has no layer called {name!r}: {hint}")
    return modules[name]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode for the block, then give every module its own train flag back."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


def _keeper(activations: Activations, name: str, gradients: bool) -> Callable[[nn.Module, Any, Any], Tensor | None]:
    def keep(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:  # noqa: ARG001
        if not isinstance(output, Tensor):
            return None
        activations.outputs.pop(name, None)  # so that the order is that of the last calls
        activations.outputs[name] = output
        if gradients and output.requires_grad:
            remember = partial(activations.gradients.__setitem__, name)
            output.register_hook(remember)
        return output.clone()

    return keep
