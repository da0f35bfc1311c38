"""The flags of the command line: one for each setting of a recipe, and those that several commands share."""

from __future__ import annotations

import argparse
import types
import typing
from typing import Any

from hubel.nn.config import parse_argument

MEASURES = ("accuracy", "validation accuracy", "training error", "seconds")  # of a comparison


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


def add_lab_flags(to: argparse.ArgumentParser) -> None:
    """What can be done in the lab, each with its own flags."""
    whats = to.add_subparsers(title="what", metavar="WHAT", dest="what", required=True)

    def what(name: str, text: str) -> argparse.ArgumentParser:
        return whats.add_parser(name, help=text, description=text, argument_default=argparse.SUPPRESS)

    one = what("compare", "train variants of a recipe with several seeds, and say what that shows")
    one.add_argument("source", metavar="DATA", help="folder, CSV, or a set's name such as cifar10")
    one.add_argument(
        "--vary",
        action="append",
        metavar="NAME=A,B",
        help="a setting, or an argument of the network's; repeated: all combinations (; divides values with commas)",
    )
    one.add_argument(
        "--variant",
        action="append",
        metavar="NAME=VALUE",
        help="what is special about one variant, beside the recipe as it is; may be repeated",
    )
    one.add_argument("--measure", choices=MEASURES, help="what the table is about (default accuracy)")
    one.add_argument("-c", "--recipe", metavar="FILE", help="recipe.yaml of settings that all have, or a run's folder")
    _add_trials(one)
    add_settings(one, sections={"", "data", "model", "train"})
    one = what("run", "try a claim of the textbooks")
    one.add_argument("claim", metavar="CLAIM", help="its name, as hubel lab list has it")
    one.add_argument("--data", dest="source", metavar="DATA", help="your own images (default: the claim's own)")
    one.add_argument("--short", action="store_true", help="in a minute, on so few images that it shows little")
    _add_trials(one)
    one = what("list", "the claims of the textbooks that can be tried")
    add_json(one)
    one = what("fault", "a training with a planted mistake beside a healthy one")
    one.add_argument("name", metavar="NAME", help="of the mistake, as hubel doctor --rules lists them")
    one.add_argument("--way", type=int, choices=(1, 2), help="how it is planted (default 1)")
    one.add_argument("--severity", type=int, choices=(1, 2, 3), help="how grave it is (default 2)")
    one.add_argument("--seed", type=int, metavar="N", help="of weights and order (default 0)")
    add_json(one)


def _add_trials(to: argparse.ArgumentParser) -> None:
    to.add_argument("--seeds", type=int, metavar="N", help="trainings of each variant (default 3)")
    to.add_argument("--images", type=int, metavar="N", help="train on so many, the same share of every class")
    to.add_argument("--workers", type=int, metavar="N", help="processes side by side (default: as many as cores)")
    to.add_argument("--on", metavar="ray|ADDRESS", help="a Ray cluster instead: one of this machine, or an address")
    add_output(to, "FOLDER", "the lab's folder (default runs/lab-NAME); what is finished there is not done again")
    to.add_argument("--overwrite", action="store_true", help="replace an earlier comparison in that folder")
    add_json(to)


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
