"""hubel: the whole life of a convolutional image classifier, from a folder of images to a classifier with evidence.

The public names below are imported when they are first used, so that ``import hubel`` is instant. Each command of the
command line is a function here (`hubel.train`); the packages they are made of have nouns for names (`hubel.learning`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hubel.verbs import VERBS

__version__ = "0.1.0"

if TYPE_CHECKING:
    from hubel.dataset.loader import Loader as Loader
    from hubel.errors import HubelError as HubelError
    from hubel.events import EpochEnd as EpochEnd
    from hubel.events import Step as Step
    from hubel.geometry.layer import conv as conv
    from hubel.jobs.answer import Answer as Answer
    from hubel.jobs.answer import Classifier as Classifier
    from hubel.jobs.answer import load as load
    from hubel.jobs.api import cache as cache
    from hubel.jobs.api import compare as compare
    from hubel.jobs.api import data as data
    from hubel.jobs.api import demo as demo
    from hubel.jobs.api import evaluate as evaluate
    from hubel.jobs.api import examine as examine
    from hubel.jobs.api import explain as explain
    from hubel.jobs.api import export as export
    from hubel.jobs.api import inspect as inspect
    from hubel.jobs.api import predict as predict
    from hubel.jobs.api import prepare as prepare
    from hubel.jobs.api import rename as rename
    from hubel.jobs.api import resume as resume
    from hubel.jobs.api import train as train
    from hubel.jobs.recipe import Recipe as Recipe
    from hubel.jobs.run import Run as Run
    from hubel.jobs.train import training as training
    from hubel.lab.tune import tune as tune
    from hubel.learning.checkpoint import digest as digest
    from hubel.learning.checkpoint import forked as forked
    from hubel.learning.checkpoint import snapshot as snapshot
    from hubel.learning.config import TrainConfig as TrainConfig
    from hubel.learning.engine import TrainState as TrainState
    from hubel.learning.engine import fit as fit
    from hubel.learning.optim import optimizers as optimizers
    from hubel.nn.zoo import build as build
    from hubel.records import Finding as Finding
    from hubel.records import Preprocess as Preprocess
    from hubel.report.page import write_report as write_report

_HOMES = {
    **{
        name: verb.home for name, verb in VERBS.items() if name not in ("doctor", "lab", "report", "studio")
    },  # packages, so:
    "examine": "jobs.api",
    "write_report": "report.page",
    "prepare": "jobs.api",
    "load": "jobs.answer",
    "training": "jobs.train",
    "Answer": "jobs.answer",
    "Classifier": "jobs.answer",
    "Recipe": "jobs.recipe",
    "Run": "jobs.run",
    "build": "nn.zoo",
    "Loader": "dataset.loader",
    "TrainConfig": "learning.config",
    "TrainState": "learning.engine",
    "optimizers": "learning.optim",
    "fit": "learning.engine",
    "snapshot": "learning.checkpoint",
    "forked": "learning.checkpoint",
    "digest": "learning.checkpoint",
    "Preprocess": "records",
    "Step": "events",
    "EpochEnd": "events",
    "Finding": "records",
    "HubelError": "errors",
}
__all__ = sorted(["__version__", *_HOMES])  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in ("doctor", "lab"):  # hubel.doctor.watch, for anyone's loop; hubel.lab.compare
        return importlib.import_module(f"hubel.{name}")
    if name not in _HOMES:
        raise AttributeError(f"hubel has no {name!r}; it has {', '.join(_HOMES)}")
    return getattr(importlib.import_module(f"hubel.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
