"""Looking into a model while it runs, and leaving it as it was."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from hubel.errors import UsageError

Before = Callable[[str, nn.Module, tuple[Any, ...]], None]
After = Callable[[str, nn.Module, tuple[Any, ...], Any], Any]


@contextmanager
def watch(
    model: nn.Module,
    after: After | None = None,
    names: Iterable[str] | None = None,
    *,
    before: Before | None = None,
) -> Iterator[None]:
    """Call functions as modules run, while the block does. Train flags are not touched, and all hooks go in the end.

    `inputs` are what a module was called with, its keyword arguments last. A module that runs twice is seen twice.

    Args:
        after: ``after(name, module, inputs, output)`` once a module has run; what it returns, unless that is None,
            takes the place of the output.
        names: as in ``model.named_modules()``; None is every module, the model itself (called "") included.
        before: ``before(name, module, inputs)`` when a module is called.

    Raises:
        UsageError: the model has no module of that name.

    >>> import torch
    >>> shapes = {}
    >>> model = nn.Sequential(nn.Linear(3, 2))
    >>> with watch(model, lambda name, module, inputs, output: shapes.update({name: output.shape}), ["0"]):
    ...     _ = model(torch.zeros(1, 3))
    >>> shapes
    {'0': torch.Size([1, 2])}
    """
    every = dict(model.named_modules())
    modules = every if names is None else {name: find_module(model, name) for name in names}

    def leave(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        return None if after is None else after(name, module, (*args, *kwargs.values()), output)

    def enter(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if before is not None:
            before(name, module, (*args, *kwargs.values()))

    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(enter, name), with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(partial(leave, name), with_kwargs=True).remove)
        yield


@contextmanager
def capture(model: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Tensor]]:
    """Keep the outputs of modules, as parts of the graph, while the block runs: by name, in the order they finished.

    Later modules receive a copy, so an in-place activation doesn't change what was kept. Of a module that runs several
    times, the last output is kept; outputs that are not tensors are left out. Errors are those of `watch`.
    """
    kept: dict[str, Tensor] = {}

    def keep(name: str, _module: nn.Module, _inputs: tuple[Any, ...], output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):
            return None
        kept.pop(name, None)  # so that the order is that of the last calls
        kept[name] = output
        return output.clone()

    with watch(model, keep, names):
        yield kept


def find_module(model: nn.Module, name: str) -> nn.Module:
    """Return the module of that name.

    Raises:
        UsageError: there is none; near names are given.
    """
    try:
        return model.get_submodule(name)
    except AttributeError as error:
        near = difflib.get_close_matches(name, [name for name, _ in model.named_modules()], n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "see model.named_modules()."
        raise UsageError(f"the model has no layer called {name!r}: {hint}") from error


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
