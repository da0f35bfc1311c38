"""hubel: the whole life of a convolutional image classifier, from a folder of images to a classifier with evidence.

The public names below are imported when they are first used, so that ``import hubel`` is instant. Verbs are functions
here (`hubel.train`), and the packages they are made of have nouns for names (`hubel.learning`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hubel.errors import HubelError as HubelError
    from hubel.jobs.answering import Answer as Answer
    from hubel.jobs.answering import Classifier as Classifier
    from hubel.jobs.opening import load as load
    from hubel.jobs.recipe import Recipe as Recipe
    from hubel.jobs.result import Run as Run
    from hubel.jobs.training import training as training
    from hubel.jobs.verbs import cache as cache
    from hubel.jobs.verbs import data as data
    from hubel.jobs.verbs import demo as demo
    from hubel.jobs.verbs import evaluate as evaluate
    from hubel.jobs.verbs import export as export
    from hubel.jobs.verbs import inspect as inspect
    from hubel.jobs.verbs import predict as predict
    from hubel.jobs.verbs import resume as resume
    from hubel.jobs.verbs import train as train
    from hubel.learning.engine import fit as fit
    from hubel.nn.zoo import build as build
    from hubel.report.page import write_report as write_report

_HOMES = {
    "HubelError": "errors",
    "Answer": "jobs.answering",
    "Classifier": "jobs.answering",
    "Recipe": "jobs.recipe",
    "training": "jobs.training",
    "Run": "jobs.result",
    "cache": "jobs.verbs",
    "data": "jobs.verbs",
    "demo": "jobs.verbs",
    "evaluate": "jobs.verbs",
    "export": "jobs.verbs",
    "inspect": "jobs.verbs",
    "load": "jobs.opening",
    "predict": "jobs.verbs",
    "resume": "jobs.verbs",
    "train": "jobs.verbs",
    "fit": "learning.engine",
    "build": "nn.zoo",
    "write_report": "report.page",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"hubel has no {name!r}; it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(f"hubel.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOMES])
