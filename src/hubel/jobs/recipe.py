"""The recipe: all settings of a run in one record, saved as YAML, and runnable from there. Imports no torch."""

from __future__ import annotations

import dataclasses
import os
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml

from hubel.as_json import from_json, to_json
from hubel.dataset.config import DataConfig
from hubel.errors import UsageError
from hubel.learning.config import TrainConfig
from hubel.nn.config import ModelConfig, argument_text

DEFAULT_MINUTES = 5.0
MOST_MINUTES = 366 * 24 * 60
NAMED: dict[str, dict[str, Any]] = {
    "speed": {
        "model": {"model": "speed"},
        "train": {
            "optimizer": "muon",
            "schedule": "linear",
            "warmup": 0.0,
            "label_smoothing": 0.2,
            "small_first": 0.75,
        },
    },
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a run does. ``minutes`` is the one dial: what is None below it is derived from it, and saved."""

    minutes: Annotated[float | None, "time for everything, from start to exit; 5 unless --epochs is given"] = None
    seed: Annotated[int, "of the split, the first weights, the order of images and their random changes"] = 0
    device: Annotated[str, "auto, cpu, cuda, cuda:N or mps"] = "auto"
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        if self.minutes is not None and not 0 < self.minutes <= MOST_MINUTES:
            raise UsageError(
                f"--minutes {self.minutes}: expected a number above zero, at most {MOST_MINUTES:,} (a year)."
            )
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"--seed {self.seed}: expected a whole number from 0 to 2147483647.")

    @property
    def budget(self) -> float | None:
        """Seconds for the whole run; None where epochs were given and minutes were not."""
        if self.minutes is None and self.train.epochs is not None:
            return None
        return 60 * (self.minutes or DEFAULT_MINUTES)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting: `section` is the recipe's attribute that holds it, empty for the recipe itself."""

    section: str
    name: str
    kind: Any
    help: str
    default: Any

    @property
    def flag(self) -> str:
        """What the command line calls it."""
        return "--arg" if self.name == "arguments" else f"--{self.name.replace('_', '-')}"


def settings() -> Iterator[Setting]:
    """Every setting of a recipe, in order; names are unique."""
    yield from _settings_of("", Recipe)
    for section in ("data", "model", "train"):
        yield from _settings_of(section, typing.get_type_hints(Recipe)[section])


def _settings_of(section: str, kind: Any) -> Iterator[Setting]:
    hints = typing.get_type_hints(kind, include_extras=True)
    for entry in dataclasses.fields(kind):
        hint = hints[entry.name]
        if typing.get_origin(hint) is Annotated:
            inner, text = typing.get_args(hint)[:2]
            default = {} if entry.default is dataclasses.MISSING else entry.default
            yield Setting(section=section, name=entry.name, kind=inner, help=text, default=default)


def with_settings(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """Replace settings by their names, wherever in the recipe they live.

    Raises:
        UsageError: no such setting, or an impossible value.
    """
    known = {setting.name: setting.section for setting in settings()}
    for name, value in changes.items():
        if name not in known:
            raise UsageError(f"There is no setting {name!r}; known are {', '.join(known)}.")
        section = known[name]
        if section:
            changed = _checked(getattr(recipe, section), {name: value})
            recipe = dataclasses.replace(recipe, **{section: changed})
        else:
            recipe = _checked(recipe, {name: value})
    return recipe


def _checked(record: Any, changes: dict[str, Any]) -> Any:
    try:
        return from_json(type(record), {**to_json(record), **to_json(changes)})
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"{error}.") from error


class _Loader(yaml.SafeLoader):
    """YAML 1.1 takes ``1e-3`` for text; everybody who writes it into a recipe means a number.

    References are refused: nested ones, of a few lines, stand for more values than any memory holds.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("references such as *name are not read: write the value itself")
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def to_yaml(recipe: Recipe) -> str:
    """Write a recipe as YAML."""
    text: str = yaml.safe_dump(to_json(recipe), sort_keys=False, allow_unicode=True)
    return text


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe from a YAML file, from a run folder, or by its name.

    Raises:
        UsageError: no such file, no YAML, an unknown setting or an impossible value.
    """
    file = Path(path)
    if str(path) in NAMED and not os.path.exists(file):
        return from_json(Recipe, NAMED[str(path)])
    file = file / "recipe.yaml" if os.path.isdir(file) else file
    if not os.path.isfile(file):
        raise UsageError(f"There is no recipe {path}: give a YAML file, a run's folder, or {', '.join(NAMED)}.")
    try:
        said = yaml.load(file.read_text("utf-8"), _Loader)
        return from_json(Recipe, said or {})
    except UsageError:
        raise
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        what = " ".join(str(error).split())
        raise UsageError(f"The recipe {file} can't be used: {what}.") from error


def found_anywhere(recipe: Recipe) -> Recipe:
    """Make the paths in a recipe absolute, so that it can be used from other folders."""

    def absolute(name: str | None) -> str | None:
        return os.path.abspath(name) if name is not None and os.path.exists(name) else name

    files: dict[str, Any] = {name: absolute(getattr(recipe.data, name)) for name in ("exclude", "relabel", "split")}
    data = dataclasses.replace(recipe.data, **files)
    model = dataclasses.replace(recipe.model, weights=absolute(recipe.model.weights))
    return dataclasses.replace(recipe, data=data, model=model)


def as_flags(recipe: Recipe) -> list[str]:
    """Return the command-line flags that differ from the defaults."""
    flags: list[str] = []
    for setting in settings():
        holder = getattr(recipe, setting.section) if setting.section else recipe
        value, flag = getattr(holder, setting.name), setting.flag
        if value == setting.default:
            continue
        if isinstance(value, bool):
            flags.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, dict):
            flags += [word for name, inner in value.items() for word in (flag, argument_text(name, inner))]
        elif isinstance(value, tuple):
            flags += [flag, *map(str, value)]
        else:
            flags += [flag, f"{value:g}" if isinstance(value, float) else str(value)]
    return flags
