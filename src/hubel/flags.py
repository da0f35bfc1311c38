"""The flags of the command line: one for each setting of a recipe, and those that several commands share."""

from __future__ import annotations

import argparse
import types
import typing
from typing import Any

from hubel.nn.config import parse_argument


def add_weights(to: argparse.ArgumentParser) -> None:
    """Flags for published weights in the place of RUN."""
    add_settings(
        to, sections={"model", "data"}, only={"model", "weights", "size", "fit", "mean", "std", "range", "max_pixels"}
    )


def add_output(to: argparse.ArgumentParser, metavar: str, text: str) -> None:
    """The flag for where something is written."""
    to.add_argument("--output", metavar=metavar, help=text)


def add_places(to: argparse.ArgumentParser, metavar: str, text: str) -> None:
    """Files and folders, which may stand before, between and after the flags."""
    to.add_argument("places", metavar=metavar, nargs="*", help=text)


def add_device(to: argparse.ArgumentParser) -> None:
    """The flag for the hardware."""
    to.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")


def add_code(to: argparse.ArgumentParser) -> None:
    """The flag for the user's own network, without which no code is run."""
    to.add_argument("--model", metavar="FILE.py:CLASS", help="the code that the run was trained with")


def add_conv_flags(to: argparse.ArgumentParser) -> None:
    """Flags for one convolution or pooling."""
    pair: dict[str, Any] = {"nargs": "+", "type": int, "metavar": "N"}
    to.add_argument("--input", dest="size", required=True, help="height and width, or one number for both", **pair)
    to.add_argument("--kernel", required=True, help="of the window", **pair)
    to.add_argument("--stride", help="step of the window (default 1; the kernel for pooling)", **pair)
    to.add_argument("--padding", nargs="+", metavar="N", help="1, 2 or 4 numbers, same or valid (default 0)")
    to.add_argument("--dilation", help="step between the window's pixels (default 1)", **pair)
    to.add_argument("--channels", type=int, metavar="N", help="of the input (default 3)")
    to.add_argument("--filters", type=int, metavar="N", help="output channels (default 16)")
    to.add_argument("--groups", type=int, metavar="N", help="of channels that don't see each other (default 1)")
    operations = ("conv", "maxpool", "avgpool", "transposed")
    to.add_argument("--op", dest="operation", choices=operations, help="what it is (default conv)")
    to.add_argument("--ceil", action="store_true", help="pooling: round the size up")
    to.add_argument("--output-padding", help="transposed: rows and columns added at the end", **pair)
    to.add_argument("--no-bias", dest="bias", action="store_false", help="without one bias per filter")


def add_json(to: argparse.ArgumentParser) -> None:
    """The flag for output that machines read."""
    to.add_argument("--json", action="store_true", help="print one JSON object per event, for machines")


def add_run_flags(to: argparse.ArgumentParser) -> None:
    """Flags for where a run is written, and from which recipe."""
    add_output(to, "RUN", "the run folder; runs/<name>[-N] by default")
    to.add_argument("--overwrite", action="store_true", help="replace an earlier run in that folder")
    to.add_argument("-c", "--recipe", metavar="FILE", help="recipe.yaml of settings, an earlier run's folder, or speed")
    add_json(to)
    add_settings(to, sections={"", "data", "model", "train"})


def add_settings(to: argparse.ArgumentParser, sections: set[str], only: set[str] | None = None) -> None:
    """One flag per setting, grouped as in the recipe; of all settings, or only of those named."""
    from hubel.jobs.recipe import settings

    titles = {"": "the dial", "data": "data", "model": "network", "train": "training"}
    groups = {section: to.add_argument_group(title) for section, title in titles.items() if section in sections}
    for setting in settings():
        if setting.section in groups and (only is None or setting.name in only):
            default = "" if setting.default in (None, {}) else f" (default {_word(setting.default)})"
            help_ = (setting.help + default).replace("%", "%%")
            groups[setting.section].add_argument(setting.flag, dest=setting.name, help=help_, **_options(setting.kind))


class _AddArgument(argparse.Action):
    """Adds one NAME=VALUE to a mapping."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:  # noqa: ARG002
        name, value = parse_argument(values)
        setattr(namespace, self.dest, {**getattr(namespace, self.dest, {}), name: value})


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _options(kind: Any) -> dict[str, Any]:
    """Turn a type into argparse's options."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _options(next(k for k in inner if k is not type(None)))
    if origin is typing.Literal:
        return {"choices": inner, "type": type(inner[0])}
    if origin is dict:
        return {"action": _AddArgument, "metavar": "NAME=VALUE"}
    if origin is tuple:
        return {"nargs": len(inner), "type": inner[0], "metavar": "N"}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    return {"type": kind, "metavar": {int: "N", float: "X"}.get(kind, "NAME")}
