"""One trial of the lab: a variant trained with one seed, from its last state on where it was interrupted."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubel.as_json import to_json
from hubel.errors import HubelError, Interrupted, Terminated
from hubel.evaluation.contrast import Trial
from hubel.events import outcome
from hubel.evidence import RunRecord
from hubel.jobs.recipe import Recipe
from hubel.jobs.train import prepared, resuming, training
from hubel.runs import STATE

if TYPE_CHECKING:
    from hubel.jobs.prepare import Dataset


@dataclass(frozen=True, kw_only=True)
class Task:
    """What one trial needs, for a process of its own."""

    variant: str
    source: str
    recipe: Recipe
    code: Any
    run: str


_shared: dict[str, Dataset] = {}  # the images that this process has prepared last, for the trials that follow


def trial(task: Task) -> Trial:
    """Train one variant with one seed; from its last state on, where it was interrupted."""
    run, code = Path(task.run), task.code
    try:
        if isinstance(task.recipe.model.model, str) and ".py:" in task.recipe.model.model and code is None:
            from hubel.jobs.answer import code_of

            code = code_of(task.recipe.model.model)
        if not (run / "manifest.json").exists():
            _train(task, run, code)
    except (Interrupted, Terminated):
        raise
    except HubelError as error:
        if (run / "scores.json").exists():  # it diverged; its last sound weights count
            return _measured(task, run, code, str(error))
        return failed(task, str(error))
    except Exception as error:  # of the user's own module, at whatever step
        return failed(task, f"{type(error).__name__}: {error}".splitlines()[0])
    return _measured(task, run, code)


def _train(task: Task, run: Path, code: Any) -> None:
    """To the end of a training, whose events nobody looks at."""
    if (run / STATE).exists():
        for _ in resuming(run, code=code, report=False):
            pass
        return
    for _ in training(prepared_for(task, code), task.recipe, output=run, overwrite=True, code=code, report=False):
        pass


def prepared_for(task: Task, code: Any = None) -> Dataset:
    """The images of a trial; those that the trial before had, where they are the same."""
    data = replace(task.recipe.data, augment="auto", flip=None)
    model = task.recipe.model if task.recipe.model.weights not in (None, "auto", "none") else None
    key = json.dumps(to_json([task.source, data, model]))
    if key not in _shared:
        _shared.clear()
        _shared[key] = outcome(prepared(task.source, task.recipe, code))
    return _shared[key]


def _measured(task: Task, run: Path, code: Any, error: str = "") -> Trial:
    from hubel.jobs.api import inspect

    record, network = RunRecord(run), inspect(run, model=code)
    last = record.history[-1] if record.history else None
    images = sum(record.facts.counts.get("train", ()))
    values: dict[str, float] = {
        "accuracy": record.scores.accuracy,
        "parameters": network.parameters,
        "macs": network.macs,
        "memory": network.activation_bytes,
        "seconds": sum(images / row.images_per_second for row in record.history if row.images_per_second),
    }
    if last is not None:
        values |= {"validation accuracy": last.val_accuracy, "training error": 1 - last.train_accuracy}
    place = run.relative_to(run.parents[1]).as_posix()
    return Trial(variant=task.variant, seed=task.recipe.seed, run=place, values=values, error=error)


def failed(task: Task, why: str) -> Trial:
    """A trial without values, and why."""
    return Trial(variant=task.variant, seed=task.recipe.seed, error=why)
