"""`train` and `resume`: from images to a run folder with a model and its evidence, as a generator of events.

`story` is the loop. Torch is imported when the first lines about the data are out: importing it takes seconds.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hubel.dataset.find import Catalog, scanning
from hubel.dataset.split import Split
from hubel.errors import HubelError, Interrupted, RunError, Terminated, UsageError
from hubel.events import EpochEnd, EpochRow, Event, Finished, Note, Planned, Progress, Sampled, Step, event_json
from hubel.jobs.clock import Clock
from hubel.jobs.prepare import Dataset, View, look, prepare, preprocess_for
from hubel.jobs.recipe import Recipe, found_anywhere, read_recipe, to_yaml
from hubel.jobs.signals import Stop, stopping
from hubel.records import PARTS, Finding
from hubel.runs import Division, RunFolder, read_record
from hubel.text import csv_text

PATTERN = r"[*?{\[]"  # begins what stands for several tar files
KEPT = {"exclude": "excluded.txt", "relabel": "relabelled.csv"}  # copied, so that the run can go on without the files

if TYPE_CHECKING:
    from hubel.jobs.phases import Start
    from hubel.jobs.plan import Plan
    from hubel.jobs.state_file import State, StateWriter
    from hubel.jobs.training import Training
    from hubel.nn.zoo import Builder


def training(
    source: str | Path | Dataset,
    recipe: Recipe,
    *,
    output: str | Path | None = None,
    overwrite: bool = False,
    started: float | None = None,
    command: str = "",
    code: Builder | None = None,
    report: bool = True,
) -> Iterator[Event]:
    """Train a classifier on a folder, a CSV or a set by name; every event also goes to the run's log.jsonl.

    Args:
        source: the images; or a `Dataset` that `prepared` made, which many recipes can share.
        started: `time.monotonic` at which the minutes begin; now, when None.
        code: the user's own network, where ``recipe.model.model`` only says what it is called.
        report: whether the report is drawn; without, the run still holds everything that it is drawn from.

    Raises:
        HubelError: in one sentence; nothing half-written is left behind.
        Interrupted, Terminated: after a signal, when everything worth keeping was written.
    """
    recipe = found_anywhere(recipe)
    clock = Clock(time.monotonic() if started is None else started, recipe.budget)
    place = source.source if isinstance(source, Dataset) else str(source)
    stem = Path(place.rstrip("/\\")).stem
    name = (stem if os.path.exists(place) else re.split(PATTERN, stem)[0].rstrip("-_. ")) or "run"
    folder = RunFolder.check(output, name, overwrite=overwrite) if first_process() else Path()
    made = isinstance(source, Dataset)
    catalog = source.catalog if isinstance(source, Dataset) else (yield from scanning(source))
    yield Note(text=f"{place}: {len(catalog.paths):,} files in {len(catalog.classes)} classes")
    from hubel.jobs.choice import chosen, from_scratch, opening
    from hubel.jobs.hardware import find_device, keep_freed_memory
    from hubel.jobs.phases import start_for
    from hubel.jobs.plan import plan_from
    from hubel.jobs.planning import make_plan
    from hubel.jobs.processes import planned, shared_folder
    from hubel.learning.distributed import joined

    device, given, undecided = find_device(recipe.device), recipe, False
    with joined():
        view = look(catalog, recipe.data)
        if isinstance(source, Dataset):
            dataset = _fits(source, recipe)
            recipe = from_scratch(recipe) if recipe.model.weights == "auto" else recipe
            start = start_for(recipe, code)
        else:
            first = opening(recipe, code, view, len(catalog.paths), device, clock)
            recipe, start, undecided = first.recipe, first.start, first.undecided
            dataset = yield from _prepared(place, catalog, recipe, start, view, first.size)
        division = dataset.split(recipe.data, recipe.seed, recipe.model.weights)
        seen = dataset.seen(place, division)
        yield seen
        if not made:
            keep_freed_memory()  # not before: what reading and auditing took goes back to the system

        def make(processes: int) -> Generator[Event, None, Plan]:
            plan = yield from make_plan(dataset, division, recipe, device, clock, start, processes)
            return (yield from chosen(plan, catalog, view, given, clock)) if undecided else plan

        plan = yield from planned(
            make,
            lambda values, complete: plan_from(values, complete, dataset, division, device, start),
        )
        run = shared_folder(lambda: RunFolder.create(folder, overwrite=overwrite))
        run.log(event_json(seen))
        try:
            events = _train_and_report(run, place, plan.dataset, division, plan, clock, command, report)
            yield from _recorded(run, events)
        except (HubelError, KeyboardInterrupt):
            if not run.worth_keeping and first_process():  # leave no trace
                shutil.rmtree(run.path, ignore_errors=True)
            raise


def prepared(source: str, recipe: Recipe, code: Builder | None = None) -> Generator[Event, None, Dataset]:
    """Decode and audit images as a recipe asks for them, to be shared by several trainings; yields progress."""
    from hubel.jobs.phases import start_for

    catalog = yield from scanning(source)
    return (yield from _prepared(source, catalog, recipe, start_for(recipe, code), look(catalog, recipe.data)))


def _prepared(
    source: str, catalog: Catalog, recipe: Recipe, start: Start, view: View, size: int | None = None
) -> Generator[Event, None, Dataset]:
    from hubel.jobs.plan import check_model
    from hubel.jobs.processes import shared
    from hubel.jobs.rules import choose_size

    weights = None if start.weights is None else start.weights.preprocess
    size = size or choose_size(view.side, recipe.data.size, weights)
    preprocess = preprocess_for(view, recipe.data, size, weights)
    shape = (preprocess.channels, *preprocess.size)
    check_model(recipe, shape, len(catalog.classes), len(catalog.paths), start)
    dataset = yield from shared(prepare(catalog, preprocess, recipe.data, fixed=weights is not None))
    return replace(dataset, source=source, side=view.side)


def _fits(dataset: Dataset, recipe: Recipe) -> Dataset:
    """A dataset that was prepared holds images of one size: a recipe can't ask for another."""
    side = dataset.packed.preprocess.size[0]
    if recipe.data.size not in (None, side):
        raise UsageError(f"The images were prepared at {side} pixels: prepare them anew for --size {recipe.data.size}.")
    return dataset


def resuming(
    folder: str | Path,
    *,
    source: str | Path | None = None,
    extend: int | None = None,
    lr: float | None = None,
    inexact: bool = False,
    command: str = "",
    code: Builder | None = None,
    report: bool = True,
) -> Iterator[Event]:
    """Go on with an interrupted run, to the weights that it would have ended with; or with a finished one.

    Args:
        source: where the images are now, where they were moved.
        extend: epochs to train on for, with a schedule of their own. lr: their peak rate; the last one's when None.
        inexact: go on although something is another here than it was. report: whether the page is drawn.

    Raises:
        HubelError: in one sentence; the run is as it was.
    """
    path = Path(folder)
    RunFolder.check_begun(path)
    recipe, where = read_recipe(path), str(source or read_record(path / "plan.json", str, "source"))
    if (
        source is None
        and not any(mark in where for mark in "{*?[")
        and os.path.isabs(where)
        and not os.path.exists(where)
    ):
        raise UsageError(
            f"The images of {path} are no longer at {where!r}: hubel resume {path} DATA says where they are."
        )
    if not (path / "split.json").exists():  # it ended before there was anything to go on from
        yield from training(where, recipe, output=path, overwrite=True, command=command, code=code, report=report)
        return
    catalog = yield from scanning(where)
    yield Note(text=f"{path}: a run on {where}, {len(catalog.paths):,} files in {len(catalog.classes)} classes")
    from hubel.jobs.hardware import find_device, keep_freed_memory
    from hubel.jobs.phases import start_for
    from hubel.jobs.plan import StoredPlan, check_model, extended, plan_from
    from hubel.jobs.processes import shared, shared_folder
    from hubel.jobs.state_file import check_same, made_with, read_state
    from hubel.learning.distributed import joined

    state = read_state(path)
    planned = read_record(path / "plan.json", StoredPlan)
    catalog = replace(catalog, classes=planned.named(catalog.classes))
    _check_end(path, state, sum(phase.epochs for phase in planned.phases), extend)
    clock = Clock.going_on(0.0 if state is None else state.record.seconds, None if extend else recipe.budget)
    device, start = find_device(recipe.device), start_for(recipe, code)
    planned.check_recipe(recipe)
    shape = (planned.card.preprocess.channels, *planned.card.preprocess.size)
    check_model(recipe, shape, len(catalog.classes), len(catalog.paths), start)
    kept: dict[str, Any] = {setting: str(path / name) for setting, name in KEPT.items() if (path / name).exists()}
    data = replace(recipe.data, **kept)
    with joined():
        dataset = yield from shared(prepare(catalog, planned.card.preprocess, data, fixed=True))
        division = dataset.split(replace(recipe.data, split=str(path)), recipe.seed)
        if state is not None and not inexact:
            check_same(state.made_with, made_with(dataset, device))
        _check_division(path, division.manifest(catalog.paths, {}))
        keep_freed_memory()
        plan = plan_from(planned, recipe, dataset, division, device, start)
        run = shared_folder(lambda: RunFolder.open(path))
        if extend and state is not None:
            plan.cut(state.record.phase, state.loop.epoch, ended=True)
            state = replace(state, record=replace(state.record, stopped=None))
            plan = extended(plan, extend, lr)
        events = _train_and_report(run, where, dataset, division, plan, clock, command, report, state, begun=True)
        yield from _recorded(run, events)


def _check_end(path: Path, state: State | None, total: int, extend: int | None) -> None:
    """Only a run that is not at its end goes on, and only one that is can be extended."""
    done, stopped = (0, None) if state is None else (state.epochs, state.record.stopped)
    at_end = state is not None and (done >= total or stopped is not None)
    if at_end and not extend and (path / "manifest.json").exists():
        why = f", {stopped}" if stopped else ""
        raise RunError(f"{path} is finished ({done} of {total} epochs{why}): --extend N trains on for N epochs.")
    if extend and not at_end:
        raise RunError(f"{path} is not finished ({done} of {total} epochs): resume it first, without --extend.")


def _check_division(path: Path, now: dict[str, object]) -> None:
    said = read_record(path / "split.json", Division)
    for part in PARTS:
        then = getattr(said, part)
        if list(then) != now[part]:
            raise RunError(
                f"The images are divided otherwise than when {path} was begun ({part} has {len(then):,} images "
                "in its split.json): bring the same files back, or train a new run."
            )


def _recorded(run: RunFolder, events: Iterator[Event]) -> Iterator[Event]:
    """Log events as they pass: of the steps about two a second, and everything else but progress."""
    steps = Sampled()
    try:
        for event in events:
            if isinstance(event, Step):
                for step in steps.taken(event):
                    run.log(event_json(step))
            elif not isinstance(event, Progress):
                run.log(event_json(event), sync=isinstance(event, EpochRow))
            if isinstance(event, Finished):
                run.seal()
            yield event
    finally:
        run.release()


def _train_and_report(
    run: RunFolder,
    source: str,
    dataset: Dataset,
    division: Split,
    plan: Plan,
    clock: Clock,
    command: str,
    drawn: bool,
    state: State | None = None,
    *,
    begun: bool = False,
) -> Iterator[Event]:
    """Train and report.

    Args:
        drawn: whether the report is drawn. begun: whether the run's first files are written already.
        state: what it goes on from, if anything.
    """
    from hubel.evidence import RunRecord
    from hubel.jobs.hardware import environment
    from hubel.jobs.judging import restore_best
    from hubel.jobs.measure import measure
    from hubel.jobs.state_file import StateWriter, made_with
    from hubel.jobs.training import begin
    from hubel.learning.distributed import rank
    from hubel.report.page import write_report
    from hubel.report.story import advice

    training = begin(run, dataset, division, plan, clock, Stop())
    writer = StateWriter(run, made_with(dataset, plan.device))
    plan.source = _place(source)
    write_settings(training)
    if begun:
        writer.cut_back(state)
    else:
        for setting, name in KEPT.items():
            if file := getattr(plan.recipe.data, setting):
                run.write(name, Path(file).read_text("utf-8"))
        run.write("env.json", environment(plan.device))
        manifest = division.manifest(dataset.catalog.paths, dataset.left_out)
        seen = dataset.digests[np.concatenate([division.train, division.val])].tolist()
        run.write("split.json", {"source": str(Path(dataset.catalog.root).resolve()), **manifest, "seen": seen})
        run.write("findings.json", dataset.findings)
    yield Planned(rows=plan.rows, folder=str(run.path))
    if state is not None:
        yield Note(text=f"Going on after {state.loop.step:,} steps of this phase.")
    for note in training.record.notes:
        yield Note(text=note)
    with stopping() as stop:
        training.stop = stop
        yield from story(training, writer, state)
        if stop.signal == "SIGTERM":
            run.settle()
            raise Terminated(f"Stopped by SIGTERM; nothing is lost: hubel resume {run.path} goes on.")
        model = restore_best(training)
        run.settle()
        if rank() > 0:
            return
        stop.at_once = True  # from here on everything can be made again
        stopped = _why_stopped(training)
        yield from measure(training, model, source, command, stopped)
        page = str(write_report(run.path)) if drawn else None
        said = advice(RunRecord(run.path))
        yield Finished(folder=str(run.path), report=page, seconds=clock.seconds, stopped=stopped, advice=said)
    if training.diverged:
        raise RunError(
            f"The training was lost, since {stopped} In {run.path} are the last sound weights and their report."
        )
    if stop.signal:
        raise Interrupted(
            f"Stopped by Ctrl-C; the best model so far and its report are in {run.path}, and hubel resume {run.path} "
            "goes on."
        )


def write_settings(training: Training) -> None:
    """Write what a resumed run needs: the plan, and the recipe."""
    training.run.write("plan.json", training.plan.stored())
    training.run.write("recipe.yaml", to_yaml(training.plan.recipe))


def story(training: Training, writer: StateWriter, state: State | None) -> Iterator[Event]:
    """Train phase by phase: let the doctor see every step, judge every epoch, keep the best, store the state."""
    import torch

    from hubel.jobs.attend import attended
    from hubel.jobs.judging import judge, judge_start, write_best
    from hubel.jobs.training import (
        begin_phase,
        counted_in_all,
        cut_short,
        fit_head,
        go_on,
        keep_pace,
        why_no_deeper,
    )
    from hubel.learning.distributed import rank

    torch.manual_seed(training.plan.recipe.seed + rank())  # of dropout; the finder may have drawn before
    if state is not None:
        state.give(training)
    elif training.plan.known:
        yield judge_start(training)
    number = training.record.phase
    while number < len(training.phases):
        if state is None and (why := why_no_deeper(training, number)):
            training.record.stopped = why
            if training.plan.cut(training.record.phase, training.state.epoch, ended=True):
                write_settings(training)
            break
        batches, config = yield from begin_phase(training, number, going_on=state is not None)
        if state is not None:
            state.give_loop(training)
            state = None
        fitted = training.phases[number].fitted
        events = attended(training, batches, config)
        for event in fit_head(training) if fitted else events:
            store = False
            if isinstance(event, Step):
                yield counted_in_all(training, event)
                store = keep_pace(training, event, due=writer.due)
            elif isinstance(event, EpochEnd) and (row := judge(training, event)):
                _write_results(training, row)
                yield row
            elif isinstance(event, (Progress, Finding, Note)):
                yield event
            if (store or training.ended) and not training.diverged:
                writer.store(training)
            if training.ended:
                break
        write_best(training)
        if training.ended:
            return
        number += 1
        notes = [cut_short(training), go_on(training) if number == len(training.phases) else None]
        if any(notes):
            write_settings(training)
            yield from filter(None, notes)
    writer.store(training)


def _write_results(training: Training, row: EpochRow) -> None:
    from hubel.jobs.judging import results_cells, results_columns

    if len(training.record.history) == 1:
        training.run.append("results.csv", csv_text([results_columns(training.classes)]))
    training.run.append("results.csv", csv_text([results_cells(row)]), sync=True)


def _why_stopped(training: Training) -> str | None:
    if training.asked:
        epoch = min(training.state.epoch + 1, training.epochs)
        return f"stopped by Ctrl-C in epoch {epoch} of {training.epochs}."
    return training.record.stopped


def first_process() -> bool:
    """Whether this process is the only one, or the first of those that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def restarted() -> bool:
    """Whether torchrun started this process anew after a failure (``--max-restarts``)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def _place(source: str | Path) -> str:
    """A path, or a pattern of paths, that is good from other folders too; a set's name as it is."""
    named = os.path.exists(source) or re.search(PATTERN, Path(source).name)
    return str(Path(source).resolve()) if named else str(source)
