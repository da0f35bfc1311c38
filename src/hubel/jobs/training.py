"""`train`: from a folder of images to a run folder with a model and its evidence, as a generator of events.

Torch is imported when the first lines about the data are out: importing it takes seconds.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from hubel.dataset.catalog import scan
from hubel.dataset.split import Split
from hubel.errors import HubelError, Interrupted, Terminated
from hubel.jobs.clock import Clock
from hubel.jobs.dataset import Dataset, look, prepare, preprocess_for
from hubel.jobs.recipe import Recipe, to_yaml
from hubel.jobs.signals import Stop, stopping
from hubel.records import EpochRow, Event, Finished, Note, Planned, Progress, event_json
from hubel.runs import RunFolder, csv_text

if TYPE_CHECKING:
    from hubel.jobs.plan import Plan
    from hubel.jobs.trainee import Trainee
    from hubel.nn.zoo import Builder


def training(
    source: str | Path,
    recipe: Recipe,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    started: float | None = None,
    command: str = "",
    code: Builder | None = None,
) -> Iterator[Event]:
    """Train a classifier on a folder, a CSV or a set by name; every event also goes to the run's log.jsonl.

    Args:
        started: `time.monotonic` at which the minutes begin; now, when None.
        code: the user's own network, where ``recipe.model.model`` only says what it is called.

    Raises:
        HubelError: in one sentence; nothing half-written is left behind.
        Interrupted, Terminated: after a signal, when everything worth keeping was written.
    """
    clock = Clock(time.monotonic() if started is None else started, recipe.budget)
    name = Path(str(source).rstrip("/\\")).stem or "run"
    folder = RunFolder.check(output, name, overwrite=overwrite)
    catalog = scan(source)
    yield Note(text=f"{source}: {len(catalog.paths):,} files in {len(catalog.classes)} classes")
    from hubel.jobs.hardware import find_device
    from hubel.jobs.plan import check_model
    from hubel.jobs.planning import make_plan
    from hubel.jobs.rules import choose_size
    from hubel.jobs.transfer import start_for

    device = find_device(recipe.device)
    view = look(catalog, recipe.data)
    start = start_for(recipe, code)
    weights = None if start.weights is None else start.weights.preprocess
    size = choose_size(view, recipe.data.size, weights)
    preprocess = preprocess_for(view, recipe.data, size, weights)
    check_model(recipe, size, preprocess.channels, len(catalog.classes), start)
    dataset = yield from prepare(catalog, preprocess, recipe.data, fixed=weights is not None)
    division = dataset.split(recipe.data, recipe.seed)
    seen = dataset.seen(str(source), division)
    yield seen
    plan = yield from make_plan(dataset, division, view, recipe, device, clock, start)
    run = RunFolder.create(folder, overwrite=overwrite)
    run.log(event_json(seen))
    try:
        yield from _recorded(run, _train_and_report(run, source, dataset, division, plan, clock, command))
    except (HubelError, KeyboardInterrupt):
        if not (run.model / "model.safetensors").exists():  # nothing worth keeping: leave no trace
            shutil.rmtree(run.path, ignore_errors=True)
        raise


def _recorded(run: RunFolder, events: Iterator[Event]) -> Iterator[Event]:
    for event in events:
        if not isinstance(event, Progress):
            run.log(event_json(event), sync=isinstance(event, EpochRow))
        if isinstance(event, Finished):
            run.seal()
        yield event


def _train_and_report(
    run: RunFolder,
    source: str | Path,
    dataset: Dataset,
    division: Split,
    plan: Plan,
    clock: Clock,
    command: str,
) -> Iterator[Event]:
    from hubel.jobs.environment import environment
    from hubel.jobs.evidence import report
    from hubel.jobs.trainee import Trainee

    manifest = {
        "source": str(Path(dataset.catalog.root).resolve()),
        **division.manifest(dataset.catalog.paths, dataset.left_out),
    }
    trainee = Trainee(run, dataset, division, plan, clock)
    run.write("recipe.yaml", to_yaml(trainee.recipe))
    run.write("plan.json", {"rows": plan.rows, "speed": plan.speed})
    run.write("env.json", environment(plan.device))
    run.write("split.json", manifest)
    run.write("findings.json", dataset.findings)
    yield Planned(rows=plan.rows, folder=str(run.path))
    for note in trainee.notes:
        yield Note(text=note)
    with stopping() as stop:
        yield from _epochs(run, trainee, plan, stop)
        if stop.signal == "SIGTERM":
            trainee.keep_something()
            raise Terminated(f"Stopped by SIGTERM; the best model so far is in {run.model}.")
        stopped = _why_stopped(stop, trainee)
        if hurried := trainee.hurried():
            trainee.notes.append(hurried)
            yield Note(text=hurried)
        yield from report(run, str(source), dataset, trainee, clock, command, stopped)
    if stop.signal:
        raise Interrupted(f"Stopped by Ctrl-C; the best model so far and its report are in {run.path}.")


def _epochs(run: RunFolder, trainee: Trainee, plan: Plan, stop: Stop) -> Iterator[Event]:
    """The loop: train, evaluate at each epoch's end, keep the best, stop when asked."""
    from hubel.learning.engine import EpochEnd, Step

    patience = plan.recipe.train.patience
    yield Progress(task="training", done=0, total=1)
    for event in trainee.fit():
        if not isinstance(event, EpochEnd):
            if isinstance(event, Step):
                trainee.watch(event)
                event = Progress(  # noqa: PLW2901
                    task=f"epoch {trainee.before + event.epoch} of {trainee.epochs}",
                    done=trainee.position,
                    total=trainee.per_epoch,
                )
            yield event
            if stop.signal:
                return
            continue
        row = trainee.evaluate(event)
        if not trainee.history[:-1]:
            run.append("results.csv", csv_text([trainee.columns]))
        run.append("results.csv", csv_text([trainee.cells(row)]), sync=True)
        yield row
        if stop.signal or not math.isfinite(row.train_loss):
            return
        if patience is not None and trainee.last_phase and row.epoch - trainee.best_epoch >= patience:
            trainee.stopped = f"no better validation accuracy for {patience} epochs (--patience)."
            return


def _why_stopped(stop: Stop, trainee: Trainee) -> str | None:
    if stop.signal:
        return f"stopped by Ctrl-C in epoch {min(trainee.state.epoch + 1, trainee.epochs)} of {trainee.epochs}."
    if trainee.history and not math.isfinite(trainee.history[-1].train_loss):
        lr = trainee.config.lr or 0.0
        return f"the training loss became {trainee.history[-1].train_loss}: try a lower rate, --lr {lr / 3:.2g}."
    return trainee.stopped
