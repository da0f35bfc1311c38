"""What is compared: variants as settings of a recipe, from the command line or from Python, and how they are kept."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hubel.errors import UsageError
from hubel.jobs.recipe import Recipe, settings, with_settings
from hubel.nn.config import parse_argument
from hubel.runs import sha256

Settings = Mapping[str, Any]
BASE, EPOCHS = "as it is", 5  # where nothing else was said


def grid(**axes: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """All combinations of values of settings, by their names.

    >>> grid(model=["plain20", "resnet20"])
    {'plain20': {'model': 'plain20'}, 'resnet20': {'model': 'resnet20'}}
    >>> list(grid(norm=["batch", "none"], lr=[0.1, 1]))
    ['norm=batch, lr=0.1', 'norm=batch, lr=1', 'norm=none, lr=0.1', 'norm=none, lr=1']
    """
    found = {}
    for values in itertools.product(*axes.values()):
        chosen = dict(zip(axes, values, strict=True))
        alone = len(axes) == 1 and isinstance(values[0], str)
        found[values[0] if alone else ", ".join(f"{name}={_short(value)}" for name, value in chosen.items())] = chosen
    return found


def parsed(vary: Sequence[str], variant: Sequence[str]) -> dict[str, dict[str, Any]]:
    """The variants of the command line.

    Args:
        vary: ``NAME=VALUE,VALUE``, all combinations; ``;`` divides values in which commas stand.
        variant: ``NAME=VALUE``, or several with a space between them, of one variant beside the recipe as it is.
    """
    if bool(vary) == bool(variant):
        raise UsageError("Say what is compared: --vary NAME=VALUE,VALUE for all combinations, or --variant NAME=VALUE.")
    if variant:
        pairs = (dict(parse_argument(part) for part in text.split(" ")) for text in variant)
        return {BASE: {}} | dict(zip(variant, pairs, strict=True))
    axes = {}
    for text in vary:
        name, _, values = text.partition("=")
        if not values:
            raise UsageError(f"--vary {text}: expected NAME=VALUE,VALUE such as model=plain20,resnet20.")
        axes[name] = [parse_argument(f"{name}={value}")[1] for value in values.split(";" if ";" in values else ",")]
    return grid(**axes)


def base_of(recipe: Recipe, changes: Settings) -> Recipe:
    """What all variants have in common, with the same split for every seed."""
    recipe = _changed(recipe, changes)[0]
    if recipe.data.split_seed is None and not recipe.data.folds:
        recipe = with_settings(recipe, {"split_seed": recipe.seed})
    return recipe


def recipe_of(recipe: Recipe, changes: Settings) -> tuple[Recipe, Any]:
    """A variant's whole recipe, with an end that can be compared, and the user's own network."""
    made, code = _changed(recipe, changes)
    if made.minutes is None and made.train.epochs is None and made.train.stages is None:
        made = with_settings(made, {"epochs": EPOCHS})
    return made, code


def _changed(recipe: Recipe, changes: Settings) -> tuple[Recipe, Any]:
    """A recipe with its changes, of settings or else of the network's own arguments; and the user's own network."""
    known, code = {setting.name for setting in settings()}, None
    own = {name: value for name, value in changes.items() if name not in known}
    named = {name: value for name, value in changes.items() if name in known}
    if "model" in named and not isinstance(named["model"], str):
        from hubel.nn.foreign import code_name

        code = named["model"]
        named["model"] = code_name(code)
    if own:
        named["arguments"] = {**recipe.model.arguments, **named.get("arguments", {}), **own}
    return with_settings(recipe, named), code


def told(changes: Settings) -> dict[str, Any]:
    """Changes as JSON: code is told by its name, and by what is written in it, so that another one is another."""
    return {name: _as_json(value) for name, value in changes.items()}


def _as_json(value: Any) -> Any:
    if isinstance(value, str) and ".py:" in value and os.path.exists(value.rpartition(":")[0]):
        return f"{value} {sha256(Path(value.rpartition(':')[0]))[:8]}"
    if value is None or isinstance(value, (str, int, float, bool, list, dict)):
        return value
    try:
        written = inspect.getsource(value if hasattr(value, "__name__") else type(value))
    except (OSError, TypeError):
        return _short(value)
    return f"{_short(value)} {hashlib.sha256(written.encode()).hexdigest()[:8]}"


def _short(value: Any) -> str:
    return (
        value.__name__
        if hasattr(value, "__name__")
        else type(value).__name__
        if hasattr(value, "forward")
        else str(value)
    )
