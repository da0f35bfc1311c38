"""`inspect`: any network, trained or not, with every number about every layer."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import nn

from hubel.errors import UsageError
from hubel.geometry.rows import ForwardError
from hubel.geometry.summary import summarise
from hubel.geometry.trace import follow
from hubel.jobs.answer import Classifier, load_folder
from hubel.nn.dry_run import COMMON, answer
from hubel.nn.foreign import IMAGENET, code_name, is_code, load_code
from hubel.nn.zoo import Builder, build, native, outline
from hubel.records import ModelCard, Preprocess, Summary


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked about a network.

    Attributes:
        input: one number for a square side, or channels, height and width; None for the network's own.
        classes: of a network by name; None takes what it was published with.
        measure: take milliseconds too. object_size: pixels a side of what has to be recognised.
    """

    input: tuple[int, ...] | None = None
    classes: int | None = None
    measure: bool = False
    object_size: int | None = None


def inspecting(network: Any, asked: Asked, *, code: Builder | None = None) -> Summary:
    """Look into a network by name, a run folder, a model folder, or an nn.Module.

    Args:
        code: the user's own network, for a run that was trained with one.

    Raises:
        UsageError: no such network, or it can't take such an image (says the layer and the smallest size that works).
        ModelError: a folder that can't be used.
    """
    if isinstance(network, nn.Module):
        return _summary(network, code_name(network).rpartition(":")[2], asked, native="own")
    if not isinstance(network, str | os.PathLike):
        raise UsageError(
            f"{network!r} is no network: give a name, a folder, FILE.py:CLASS or an nn.Module such as Net()."
        )
    network = str(network)
    if os.path.isdir(network):
        classifier = load_folder(network, device="cpu", code=code)
        assert isinstance(classifier, Classifier)
        said = classifier.card.preprocess
        name = f"{classifier.card.architecture} in {network}"
        return _summary(classifier.model, name, asked, native=(said.channels, *said.size))
    own = native(network)
    shape = _shape(asked, own)
    code = load_code(network) if is_code(network) else None
    usual = None if code else 1000 if min(own[1:]) > 64 else 10
    classes = usual if asked.classes is None else asked.classes
    make = partial(build if asked.measure else outline, network, classes=classes, channels=shape[0], code=code)
    try:
        model = make(size=shape[1:])
    except UsageError as error:
        raise UsageError(f"{error}{_where(make, own, shape)}") from error
    return _summary(model, network, asked, native=own)


def untrained(name: str) -> Classifier:
    """The network of ``FILE.py:CLASS`` with new weights, always the same, as if it was trained on ten classes.

    It is made for images as `inspecting` takes them, or else for the first of the usual sizes that gets through it.

    Raises:
        UsageError: there is no such code, or it can't be built, or takes none of these.
    """
    if not is_code(name):
        raise UsageError(f"--model {name}: a network of your own is named as FILE.py:CLASS, such as net.py:Net.")
    code, refused = load_code(name), list[UsageError]()
    for channels, side in product((3, 1), (IMAGENET[1], 32, 64, 128, *COMMON)):
        asked: Any = {"classes": None, "channels": channels, "size": (side, side), "code": code}
        try:
            outline(name, **asked)
        except UsageError as error:
            refused.append(error)
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = build(name, **asked).eval()
        classes = tuple(f"class {index}" for index in range(answer(model, (channels, side, side)).shape[1]))
        half = (0.5,) * channels
        shown = Preprocess(size=(side, side), channels=channels, mean=half, std=half)
        return Classifier(model, ModelCard(architecture=name, arguments={}, classes=classes, preprocess=shown))
    raise refused[0]


def _summary(model: nn.Module, name: str, asked: Asked, native: Any) -> Summary:
    shape = _shape(asked, (3, 224, 224) if native == "own" else native)
    return summarise(model, shape, name=name, measure=asked.measure, object_size=asked.object_size)


def _shape(asked: Asked, own: tuple[int, int, int]) -> tuple[int, int, int]:
    """Channels, height and width as asked, or the network's own."""
    given = asked.input
    if given is None:
        return own
    if len(given) == 1:
        return own[0], given[0], given[0]
    if len(given) != 3 or min(given) < 1:
        raise UsageError(
            f"--input {','.join(map(str, given))}: expected channels,height,width such as 3,224,224, or one side."
        )
    return given[0], given[1], given[2]


def _where(make: Callable[..., nn.Module], own: tuple[int, int, int], shape: tuple[int, int, int]) -> str:
    """Say at which layer an image fails that a network refuses to be built for, as far as that can be tried."""
    try:
        follow(make(size=own[1:]), shape)
    except ForwardError as error:
        return f" An image of {'×'.join(map(str, shape))} fails at its layer {error.place} ({error.kind})."
    except UsageError:
        pass
    return ""
