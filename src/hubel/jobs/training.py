"""`train` and `resume`: from images to a run folder with a model and its evidence, as a generator of events.

Torch is imported when the first lines about the data are out: importing it takes seconds.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hubel.as_json import from_json
from hubel.dataset.catalog import scan
from hubel.dataset.split import Split
from hubel.errors import HubelError, Interrupted, RunError, Terminated
from hubel.jobs.clock import Clock
from hubel.jobs.dataset import Dataset, look, prepare, preprocess_for
from hubel.jobs.recipe import Recipe, read_recipe, to_yaml
from hubel.jobs.signals import Stop, stopping
from hubel.records import PARTS, EpochRow, Event, Finished, ModelCard, Note, Planned, Progress, event_json
from hubel.runs import RunFolder, csv_text, read_json

if TYPE_CHECKING:
    from hubel.jobs.plan import Plan
    from hubel.jobs.stored import Keeper, Stored
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
    folder = RunFolder.check(output, name, overwrite=overwrite) if first_process() else Path()
    catalog = scan(source)
    yield Note(text=f"{source}: {len(catalog.paths):,} files in {len(catalog.classes)} classes")
    from hubel.jobs.hardware import find_device, keep_freed_memory
    from hubel.jobs.plan import check_model, plan_from
    from hubel.jobs.planning import make_plan
    from hubel.jobs.rules import choose_size
    from hubel.jobs.together import planned, shared, shared_folder
    from hubel.jobs.transfer import start_for
    from hubel.learning.distributed import joined

    device = find_device(recipe.device)
    view = look(catalog, recipe.data)
    start = start_for(recipe, code)
    weights = None if start.weights is None else start.weights.preprocess
    size = choose_size(view, recipe.data.size, weights)
    preprocess = preprocess_for(view, recipe.data, size, weights)
    check_model(recipe, size, preprocess.channels, len(catalog.classes), start)
    with joined():
        dataset = yield from shared(prepare(catalog, preprocess, recipe.data, fixed=weights is not None))
        division = dataset.split(recipe.data, recipe.seed)
        seen = dataset.seen(str(source), division)
        yield seen
        keep_freed_memory()  # not before: what reading and auditing took goes back to the system
        plan = yield from planned(
            lambda processes: make_plan(dataset, division, view, recipe, device, clock, start, processes),
            lambda said, complete: plan_from(said, complete, dataset, division, device, start),
        )
        run = shared_folder(lambda: RunFolder.create(folder, overwrite=overwrite))
        run.log(event_json(seen))
        try:
            yield from _recorded(run, _train_and_report(run, source, dataset, division, plan, clock, command))
        except (HubelError, KeyboardInterrupt):
            if not run.worth_keeping and first_process():  # leave no trace
                shutil.rmtree(run.path, ignore_errors=True)
            raise


def resuming(
    folder: str | Path,
    *,
    source: str | Path | None = None,
    extend: int | None = None,
    lr: float | None = None,
    inexact: bool = False,
    command: str = "",
    code: Builder | None = None,
) -> Iterator[Event]:
    """Go on with an interrupted run, to the weights that it would have ended with; or with a finished one.

    Args:
        source: where the images are now, where they were moved.
        extend: epochs to train on for, with a schedule of their own. lr: their peak rate; the last one's when None.
        inexact: go on although something is another here than it was.

    Raises:
        HubelError: in one sentence; the run is as it was.
    """
    path = Path(folder)
    RunFolder.check_begun(path)
    recipe, said = read_recipe(path), read_json(path / "plan.json")
    where = str(said["source"] if source is None else source)
    catalog = scan(where)
    yield Note(text=f"{path}: a run on {where}, {len(catalog.paths):,} files in {len(catalog.classes)} classes")
    from hubel.jobs.hardware import find_device, keep_freed_memory
    from hubel.jobs.plan import extended, plan_from
    from hubel.jobs.stored import check_same, made_with, read
    from hubel.jobs.together import shared, shared_folder
    from hubel.jobs.transfer import start_for
    from hubel.learning.distributed import joined

    stored = read(path)
    _check_end(path, stored, recipe, extend)
    used = 0.0 if stored is None else stored.said["trainee"]["seconds"]
    clock = Clock.going_on(used, None if extend else recipe.budget)
    device = find_device(recipe.device)
    start = start_for(recipe, code)
    preprocess = from_json(ModelCard, said["card"]).preprocess
    with joined():
        dataset = yield from shared(prepare(catalog, preprocess, recipe.data, fixed=True))
        division = dataset.split(recipe.data, recipe.seed)
        if stored is not None and not inexact:
            check_same(stored.said["made_with"], made_with(dataset, device))
        _check_division(path, division.manifest(catalog.paths, {}))
        keep_freed_memory()
        plan = plan_from(said, recipe, dataset, division, device, start)
        run = shared_folder(lambda: RunFolder.open(path))
        if extend:
            plan = extended(plan, extend, lr)
        events = _train_and_report(run, where, dataset, division, plan, clock, command, stored, begun=True)
        yield from _recorded(run, events)


def _check_end(path: Path, stored: Stored | None, recipe: Recipe, extend: int | None) -> None:
    """Only a run that is not at its end goes on, and only one that is can be extended."""
    total = recipe.train.epochs
    done = 0 if stored is None else stored.said["trainee"]["before"] + stored.said["state"]["epoch"]
    stopped = None if stored is None else stored.said["trainee"]["stopped"]
    at_end = done >= (total or 0) or stopped is not None
    if at_end and not extend and (path / "manifest.json").exists():
        why = f", {stopped}" if stopped else ""
        raise RunError(f"{path} is finished ({done} of {total} epochs{why}): --extend N trains on for N epochs.")
    if extend and not at_end:
        raise RunError(f"{path} is not finished ({done} of {total} epochs): resume it first, without --extend.")


def _check_division(path: Path, now: dict[str, object]) -> None:
    then = read_json(path / "split.json")
    for part in PARTS:
        if then[part] != now[part]:
            raise RunError(
                f"The images are divided otherwise than when {path} was begun ({part} has {len(then[part]):,} images "
                "in its split.json): bring the same files back, or train a new run."
            )


def _recorded(run: RunFolder, events: Iterator[Event]) -> Iterator[Event]:
    try:
        for event in events:
            if not isinstance(event, Progress):
                run.log(event_json(event), sync=isinstance(event, EpochRow))
            if isinstance(event, Finished):
                run.seal()
            yield event
    finally:
        run.release()


def _train_and_report(
    run: RunFolder,
    source: str | Path,
    dataset: Dataset,
    division: Split,
    plan: Plan,
    clock: Clock,
    command: str,
    stored: Stored | None = None,
    *,
    begun: bool = False,
) -> Iterator[Event]:
    """Train and report.

    Args:
        begun: whether the run's first files are written already. stored: the state that it goes on from, if any.
    """
    from hubel.jobs.environment import environment
    from hubel.jobs.measure import Trained, measure
    from hubel.jobs.stored import Keeper, made_with
    from hubel.jobs.trainee import Trainee
    from hubel.learning.distributed import rank
    from hubel.report.page import write_report

    trainee = Trainee(run, dataset, division, plan, clock)
    keeper = Keeper(run, made_with(dataset, plan.device))
    run.write("recipe.yaml", to_yaml(trainee.recipe))
    run.write("plan.json", {"source": _place(source), **replace(plan, phases=trainee.phases).said()})
    if begun:
        keeper.cut_back(stored)
    else:
        run.write("env.json", environment(plan.device))
        manifest = division.manifest(dataset.catalog.paths, dataset.left_out)
        run.write("split.json", {"source": str(Path(dataset.catalog.root).resolve()), **manifest})
        run.write("findings.json", dataset.findings)
    yield Planned(rows=plan.rows, folder=str(run.path))
    if stored is not None:
        yield Note(text=f"Going on after {stored.said['state']['step']:,} steps of this phase.")
    for note in trainee.notes:
        yield Note(text=note)
    with stopping() as stop:
        trainee.asked = stop
        yield from _epochs(run, trainee, keeper, stored)
        if stop.signal == "SIGTERM":
            trainee.write_best()
            run.settle()
            raise Terminated(f"Stopped by SIGTERM; nothing is lost: hubel resume {run.path} goes on.")
        stopped = _why_stopped(stop, trainee)
        if hurried := trainee.hurried():
            trainee.notes.append(hurried)
            yield Note(text=hurried)
        trainee.keep_something()
        run.settle()
        if rank() > 0:
            return
        stop.at_once = True  # from here on everything can be made again
        model, best = trainee.restore_best(), trainee.best_scores
        assert best is not None
        trained = Trained(
            source=str(source),
            command=command,
            best=best,
            epoch=trainee.best_epoch,
            notes=trainee.notes,
            stopped=stopped,
            filters_before=trainee.filters_before,
        )
        yield from measure(run, model, dataset, division, plan, trained, clock)
        page = write_report(run.path)
        yield Finished(folder=str(run.path), report=str(page), seconds=clock.seconds, stopped=stopped)
    if stop.signal:
        raise Interrupted(
            f"Stopped by Ctrl-C; the best model so far and its report are in {run.path}, and hubel resume {run.path} "
            "goes on."
        )


def first_process() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def restarted() -> bool:
    """Whether torchrun started this process anew after a failure (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _place(source: str | Path) -> str:
    """A path that is good from other folders too; a set's name as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else str(source)


def _epochs(run: RunFolder, trainee: Trainee, keeper: Keeper, stored: Stored | None) -> Iterator[Event]:
    """The loop: train, evaluate at each epoch's end, keep the best, store the state, stop when asked."""
    from hubel.jobs.trainee import StoppedHere
    from hubel.learning.engine import EpochEnd, Step

    stop, patience = trainee.asked, trainee.plan.recipe.train.patience
    yield Progress(task="training", done=0, total=1)
    for event in trainee.fit(stored):
        if not isinstance(event, EpochEnd):
            if isinstance(event, Step):
                if trainee.watch(event, due=keeper.due) or stop.signal:
                    keeper.store(trainee)
                event = Progress(  # noqa: PLW2901
                    task=f"epoch {trainee.before + event.epoch} of {trainee.epochs}",
                    done=trainee.position,
                    total=trainee.per_epoch,
                )
            yield event
            if stop.signal:
                return
            continue
        try:
            row = trainee.evaluate(event)
        except StoppedHere:
            keeper.store(trainee)
            return
        if not trainee.history[:-1]:
            run.append("results.csv", csv_text([trainee.columns]))
        run.append("results.csv", csv_text([trainee.cells(row)]), sync=True)
        yield row
        if not math.isfinite(row.train_loss):
            lr = trainee.config.lr or 0.0
            trainee.stopped = f"the training loss became {row.train_loss}: try a lower rate, --lr {lr / 3:.2g}."
        elif patience is not None and trainee.last_phase and row.epoch - trainee.best_epoch >= patience:
            trainee.stopped = f"no better validation accuracy for {patience} epochs (--patience)."
        if stop.signal or trainee.stopped:
            keeper.store(trainee)
            return
    keeper.store(trainee)


def _why_stopped(stop: Stop, trainee: Trainee) -> str | None:
    if stop.signal:
        return f"stopped by Ctrl-C in epoch {min(trainee.state.epoch + 1, trainee.epochs)} of {trainee.epochs}."
    return trainee.stopped
