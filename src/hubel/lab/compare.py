"""Variants of a recipe, each trained with several seeds on the same images, and what that shows."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hubel.dataset.find import Catalog, scanning
from hubel.errors import Interrupted, RunError, UsageError
from hubel.evaluation.contrast import ACCURACY, Compared, Difference, Effect, Question, Row, Trial, effect
from hubel.events import Event, Note, Progress
from hubel.evidence import RunRecord
from hubel.jobs.recipe import Recipe, read_recipe, to_yaml
from hubel.jobs.train import PATTERN
from hubel.lab.pool import spread, workers_and_threads
from hubel.lab.trial import Task, failed, trial
from hubel.lab.variants import Settings, base_of, recipe_of, told
from hubel.report.lab import lab_lines, write_page
from hubel.report.terminal import Show, shown
from hubel.runs import make_folder, read_record, write_json, write_text
from hubel.text import csv_text

MOST_REPORTED = 10_000  # images, where the data has no test part of its own


def compare(
    source: str | os.PathLike[str],
    variants: Mapping[str, Settings],
    *,
    seeds: int = 3,
    images: int | None = None,
    measure: str = ACCURACY,
    differences: Iterable[Difference] = (),
    recipe: Recipe | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    on: str = "here",
    show_as: Show = "auto",
    **changes: Any,
) -> Compared:
    """Train variants of a recipe with several seeds on the same images, and say what that shows.

    Example:
        ``compare("cifar10", grid(model=["plain20", "resnet20"]), seeds=3, epochs=10)``

    Args:
        variants: name → what is special about it: settings by their names (the model may be your own module or what
            makes one), and arguments of the network's own.
        seeds: trainings of each variant; the order of images and the first weights follow from the seed.
        images: how many are trained on, the same share of every class; all when None.
        measure: ``accuracy`` of the reported part, ``validation accuracy``, ``training error`` or ``seconds``.
        differences: what is asked; every variant against the first one by default.
        recipe, changes: what all have in common, as for `train`; without epochs or minutes, five epochs.
        output: the lab's folder, ``runs/lab-<name>`` when None. What is finished there is not done again.
        workers: processes side by side; as many as there are cores when None. on: ``here``, ``ray``, or the address of
            a Ray cluster, whose machines must see images and folder under the same paths.

    Raises:
        HubelError: in one sentence; trials that are finished are kept.
    """
    base = recipe if isinstance(recipe, Recipe) else Recipe() if recipe is None else read_recipe(os.fspath(recipe))
    work = comparing(
        os.fspath(source),
        variants=variants,
        seeds=seeds,
        images=images,
        measure=measure,
        recipe=base_of(base, changes),
        differences=tuple(differences),
        output=output,
        overwrite=overwrite,
        workers=workers,
        on=on,
    )
    return shown(work, show_as)


def comparing(
    source: str,
    *,
    variants: Mapping[str, Settings],
    seeds: int,
    images: int | None,
    measure: str,
    recipe: Recipe,
    differences: Sequence[Difference] = (),
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    on: str = "here",
    title: str = "",
    text: Sequence[str] = (),
    work: Callable[[Task], Trial] = trial,
) -> Generator[Event, None, Compared]:
    """Do what `compare` says; yields progress.

    Args:
        title, text: of a claim, for the page. work: what does a trial, where it isn't a training.
    """
    if len(variants) < 1 or seeds < 1 or (workers or 1) < 1:
        raise UsageError("There must be a variant, a seed and a worker at least.")
    catalog = yield from scanning(source)
    place = str(Path(source).absolute()) if os.path.exists(source) else source
    question = Question(
        source=place,
        files=len(catalog.paths),
        variants={each: told(changes) for each, changes in variants.items()},
        seeds=seeds,
        images=images,
        measure=measure,
        recipe=to_yaml(recipe),
    )
    name = title.replace(" ", "-") or Path(re.split(PATTERN, source)[0].rstrip("/\\")).stem
    folder = _folder(question, name, output, overwrite)
    if images is not None:
        place = str(_some(catalog, images, folder / "images.csv"))
    order = [(variant, seed) for seed in range(recipe.seed, recipe.seed + seeds) for variant in variants]
    done = {(each.variant, each.seed): each for each in kept(folder) if each.values}
    if done:
        yield Note(text=f"{len(done)} of {len(order)} trainings in {folder} are finished, and aren't done again.")
    tasks = [_task(folder, place, recipe, variants, *each) for each in order if each not in done]
    timed = recipe.minutes is not None  # side by side, they would take each other's time
    workers, threads = workers_and_threads(1 if timed else len(order), 1 if timed else workers)
    if tasks:
        yield Note(text=f"{len(tasks)} trainings, {workers} at a time with {threads} threads each, in {folder}")
        yield Progress(task="trainings", done=len(done), total=len(order))
    try:
        for task, result in spread(work, tasks, workers=workers, threads=threads, on=on):
            ended = result if isinstance(result, Trial) else failed(task, result)
            done[task.variant, task.recipe.seed] = ended
            write_json(folder / "trials.json", [done[each] for each in order if each in done])
            yield Note(text=_line(ended, measure))
            yield Progress(task="trainings", done=len(done), total=len(order))
    except (KeyboardInterrupt, Interrupted) as error:
        raise Interrupted(
            f"Stopped by Ctrl-C; {len(done)} trainings are in {folder}, and the same command goes on."
        ) from error
    trials = tuple(done[each] for each in order)
    if not any(each.values for each in trials):
        raise RunError(f"No training came to an end: {trials[0].error}")
    found = summed(folder, question, trials, differences or _against_first(tuple(variants), measure))
    _write(folder, found, title, text)
    yield Note(text="\n".join(lab_lines(found)))
    return found


def _task(folder: Path, place: str, recipe: Recipe, variants: Mapping[str, Settings], variant: str, seed: int) -> Task:
    made, code = recipe_of(recipe, variants[variant])
    slug = re.sub(r"[^\w.=-]+", "-", variant).strip("-")[:60]
    run = folder.absolute() / "trials" / f"{list(variants).index(variant)}-{slug}-seed-{seed}"
    return Task(variant=variant, source=place, recipe=replace(made, seed=seed), code=code, run=str(run))


def summed(folder: Path, question: Question, trials: Sequence[Trial], asked: Sequence[Difference]) -> Compared:
    """Put trials into a table, and look at the differences that were asked for."""
    counted, rows = [each for each in trials if question.measure == ACCURACY and each.values], []
    right = {(each.variant, each.seed): _right(folder, each) for each in counted}
    for variant, changes in question.variants.items():
        own = [each for each in trials if each.variant == variant and each.values]
        failed = [each.error for each in trials if each.variant == variant and each.error]
        means = {
            name: float(np.mean([each.values[name] for each in own if name in each.values]))
            for name in {name for each in own for name in each.values}
        }
        rows.append(
            Row(
                variant=variant,
                settings=changes,
                trials=len(own),
                value=_effect({variant: 1.0}, trials, right, question.measure),
                parameters=means.get("parameters", 0),
                macs=means.get("macs", 0),
                memory=means.get("memory", 0),
                seconds=means.get("seconds", 0),
                error=failed[0] if failed else "",
            )
        )
    values = [_effect(each.factors, trials, right, question.measure) for each in asked]
    found = tuple(each.judged(value) for each, value in zip(asked, values, strict=True))
    return Compared(
        folder=str(folder),
        question=question,
        rows=tuple(rows),
        differences=found,
        trials=tuple(trials),
        hardware=_hardware(folder, trials),
    )


def _effect(
    factors: Mapping[str, float], trials: Sequence[Trial], right: Mapping[Any, Any], measure: str
) -> Effect | None:
    """The sum of variants' values, by the seeds with which all of them came to an end."""
    at = {(each.variant, each.seed): each for each in trials if measure in each.values}
    seeds = [s for s in sorted({seed for _, seed in at}) if all((variant, s) in at for variant in factors)]
    if not seeds:
        return None
    by_seed = [sum(f * at[variant, s].values[measure] for variant, f in factors.items()) for s in seeds]
    ours = [(f, *right[variant, s]) for s in seeds for variant, f in factors.items() if (variant, s) in right]
    same = len(ours) == len(seeds) * len(factors) and len({paths for _, paths, _ in ours}) == 1
    return effect(by_seed, sum(f * hits for f, _, hits in ours) / len(seeds) if same else None)


def _right(folder: Path, done: Trial) -> tuple[tuple[str, ...], Any]:
    """The reported images, and (N,) 1.0 for each that was answered right."""
    record = RunRecord(folder / done.run)
    return record.paths, (record.predictions == record.labels).astype(float)


def kept(folder: Path) -> tuple[Trial, ...]:
    """The trials that a lab's folder holds."""
    file = folder / "trials.json"
    return read_record(file, tuple[Trial, ...]) if file.exists() else ()


def _against_first(variants: Sequence[str], measure: str) -> tuple[Difference, ...]:
    first, *others = variants
    words = "{} is better than {}" if "accuracy" in measure else "{} is above {}"
    return tuple(Difference(words=words.format(other, first), factors={other: 1.0, first: -1.0}) for other in others)


def _folder(question: Question, name: str, output: str | os.PathLike[str] | None, overwrite: bool) -> Path:
    """The lab's folder; one that holds the same question is gone on with."""
    number, folder = 1, Path("runs") / f"lab-{name}" if output is None else Path(output)
    stem = folder
    while folder.exists() and any(folder.iterdir()) and not overwrite:
        file = folder / "lab.json"
        if file.exists() and read_record(file, Question) == question:
            return folder
        if output is not None:
            held = "another comparison" if file.exists() else "something else"
            raise RunError(f"The output {folder} holds {held}: give another --output, or --overwrite to replace it.")
        number += 1
        folder = stem.with_name(f"{stem.name}-{number}")
    if folder.exists() and any(folder.iterdir()) and not (folder / "lab.json").exists():
        raise RunError(f"The output {folder} is not empty and holds no comparison: it is not replaced; give another.")
    (folder / "trials.json").unlink(missing_ok=True)
    shutil.rmtree(folder / "trials", ignore_errors=True)
    write_json(make_folder(folder) / "lab.json", question)
    make_folder(folder / "trials")
    return folder


def _some(catalog: Catalog, images: int, file: Path) -> Path:
    """Write a table of so many images to train and choose on, the same share of every class, and of others to report.

    Where the data doesn't say which these are, all others are, up to `MOST_REPORTED`.
    """
    if catalog.groups is not None:
        raise UsageError("--images: images that belong together can't be drawn one by one; leave it out.")
    parts = np.array(catalog.parts or ["train"] * len(catalog.paths))
    given = np.flatnonzero(parts == "train")
    if not 0 < images <= len(given):
        raise UsageError(f"--images {images}: there are {len(given):,} to train on.")
    order = np.random.default_rng(0).permutation(given)
    of, rank = catalog.labels[order], np.empty(len(order))
    for label in np.unique(of):
        rank[of == label] = (np.arange((of == label).sum()) + 0.5) / (of == label).sum()
    order = order[np.argsort(rank, kind="stable")]
    if catalog.parts is None and images < len(order):
        parts[order[images:]] = "test"
        taken = order[: images + MOST_REPORTED]
    else:
        taken = np.concatenate([order[:images], np.flatnonzero(parts != "train")])
    root = catalog.root.absolute()
    rows = [
        [str(root / catalog.paths[i]), catalog.classes[catalog.labels[i]], parts[i]] for i in sorted(taken.tolist())
    ]
    write_text(file, csv_text([("file_name", "label", "split"), *rows]))
    return file


def _line(done: Trial, measure: str) -> str:
    who = f"{done.variant}, seed {done.seed}"
    if not done.values:
        return f"{who}: failed, {done.error}"
    value = done.values.get(measure, float("nan"))
    said = f"{value:.1f} s" if measure == "seconds" else f"{measure} {value:.2%}"
    return f"{who}: {said} ({done.values['seconds']:.0f} s of training){f', {done.error}' if done.error else ''}"


def _hardware(folder: Path, trials: Sequence[Trial]) -> str:
    """What the first trial that left a run folder was trained on."""
    here = next((RunRecord(folder / each.run).environment for each in trials if each.run), None)
    if here is None:
        return ""
    what = here["processor"] if here["device"] == "cpu" else here["device"]
    return f"{what}, {here['cores']} cores, {here['threads']} of them a training, torch {here['torch']}"


def _write(folder: Path, found: Compared, title: str, text: Sequence[str]) -> None:
    write_json(folder / "results.json", found)
    names = ("variant", "trials", "value", "low", "high", "parameters", "macs", "memory", "seconds", "error")
    rows = [names, *([*_cells(row)] for row in found.rows)]
    write_text(folder / "results.csv", csv_text(rows))
    write_page(folder, found, title, text)


def _cells(row: Row) -> tuple[Any, ...]:
    ends = ("", "", "") if row.value is None else (row.value.value, row.value.low, row.value.high)
    return row.variant, row.trials, *ends, row.parameters, row.macs, row.memory, f"{row.seconds:.1f}", row.error
