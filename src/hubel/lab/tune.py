"""`tune`: look for a better recipe on validation images alone, and say on test images, once, whether it is better."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hubel.errors import HubelError, RunError, UsageError
from hubel.evaluation.contrast import Compared
from hubel.events import EpochRow, Event, Note, Planned, Progress
from hubel.jobs.recipe import Recipe, read_recipe, settings, to_yaml, with_settings
from hubel.jobs.train import training
from hubel.lab.compare import comparing
from hubel.lab.pool import spread, with_threads, workers_and_threads
from hubel.lab.trial import Task, prepared_for
from hubel.lab.variants import base_of
from hubel.report.terminal import Show, shown
from hubel.runs import make_folder, write_text

SEEDS = 3  # of the default and of the recipe that was found, in the end
TRAININGS = 20  # so many whole ones should fit into the search
RESERVE, LEAST = 6.0, 3  # seconds beside a training's epochs, and epochs that a training must have
PLANNING = 15.0  # seconds that a run keeps for measuring and its report
STARTS = 6  # recipes drawn by chance before the sampler learns from them
FIRST_SEED = 1_000  # of the search, so that the final trainings have others


@dataclass(frozen=True, kw_only=True)
class Search:
    """What one process of the search needs; several share a study.

    Attributes:
        storage: of the study, an SQLite file. fixed: settings that the user has given. until: `time.time` of the end.
    """

    task: Task
    storage: str
    fixed: tuple[str, ...]
    until: float
    number: int


def tune(
    source: str | os.PathLike[str],
    *,
    minutes: float = 30.0,
    recipe: Recipe | str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    on: str = "here",
    show_as: Show = "auto",
    **changes: Any,
) -> Compared:
    """Search for a better recipe, train it and the default with three seeds each, and compare them on the test images.

    Learning rate, weight decay, warmup, schedule, label smoothing, batch size and augmentation are searched, but for
    those that are given; by a tree-structured Parzen estimator (Bergstra et al. 2011) that ends hopeless trainings
    early. The search sees training and validation images only.

    Args:
        minutes: for everything. recipe, changes: as for `train`; what they set is not searched.
        output: folder for the study (study.db), recipe.yaml and the comparison; ``runs/tune-<name>`` when None. A
            search that is in it goes on.
        workers, on: as for `hubel.lab.compare`.

    Raises:
        UsageError: the package optuna is not installed, or the minutes are too few.
    """
    base = recipe if isinstance(recipe, Recipe) else Recipe() if recipe is None else read_recipe(os.fspath(recipe))
    default = {setting.name: setting.default for setting in settings()}
    flat = {name: value for part in (base.data, base.model, base.train) for name, value in vars(part).items()}
    fixed = tuple(name for name, value in {**flat, **changes}.items() if name in changes or value != default.get(name))
    folder = Path("runs") / f"tune-{Path(source).stem}" if output is None else Path(output)
    return shown(
        tuning(os.fspath(source), base_of(base, changes), fixed, minutes, folder, overwrite, workers, on), show_as
    )


def tuning(
    source: str,
    recipe: Recipe,
    fixed: tuple[str, ...],
    minutes: float,
    folder: Path,
    overwrite: bool,
    workers: int | None,
    on: str,
) -> Generator[Event, None, Compared]:
    """Do what `tune` says; yields progress."""
    optuna = _optuna()
    began = time.time()
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "study.db").exists():
            raise RunError(f"The output {folder} is not empty and holds no search: it is not replaced; give another.")
        if overwrite:
            shutil.rmtree(folder)
    workers, threads = workers_and_threads(2 * SEEDS, workers)
    each = 60 * minutes * workers / (TRAININGS + 2 * SEEDS)
    until = began + 60 * minutes - 2 * SEEDS / workers * (each + RESERVE)
    if until - began < each:
        raise UsageError(
            f"--minutes {minutes:g} hold no search beside the {2 * SEEDS} trainings at its end: give more."
        )
    task = Task(variant="search", source=source, recipe=recipe, code=None, run=str(make_folder(folder).absolute()))
    planned = folder / "default.yaml"
    if not planned.exists():
        yield Note(text=f"Planning trainings of {each:.0f} seconds, {workers} at a time with {threads} threads each")
        write_text(planned, to_yaml(with_threads(_planned, (task, each), threads)))
    found = read_recipe(planned)
    epochs = found.train.epochs or 0
    if epochs < LEAST:
        raise UsageError(
            f"--minutes {minutes:g}: a training would have {epochs} epochs, and a search needs {TRAININGS}: give more "
            "minutes, --size, or fewer images."
        )
    storage = f"sqlite:///{(folder / 'study.db').absolute()}"
    study = _study(optuna, storage)
    before = len(study.trials)
    if not before:
        study.enqueue_trial(_usual(found, fixed))
    yield Note(
        text=f"Searching until {time.strftime('%H:%M', time.localtime(until))}, {epochs} epochs a training; in {folder}"
    )
    jobs = [
        Search(task=replace(task, recipe=found), storage=storage, fixed=fixed, until=until, number=number)
        for number in range(workers)
    ]
    for done, (_, result) in enumerate(spread(search, jobs, workers=workers, threads=threads, on=on), 1):
        yield Progress(task="searching", done=done, total=workers)
        if isinstance(result, str):
            yield Note(text=f"A process of the search was lost: {result}")
    study = _study(optuna, storage)
    whole = [t for t in study.trials if t.state == optuna.trial.TrialState.COMPLETE]
    if not whole:
        raise RunError(f"No training of the search came to an end: see the messages in {folder / 'study.db'}.")
    cut = sum(t.state == optuna.trial.TrialState.PRUNED for t in study.trials)
    best = study.best_trial
    yield Note(
        text=f"{len(study.trials):,} recipes, {cut} of them ended early: the best has {best.value:.2%} of the "
        f"validation images right, the default {whole[0].value:.2%}: {_words(best.params)}"
    )
    changes = _as_settings(best.params, found)
    write_text(
        folder / "recipe.yaml", to_yaml(with_settings(replace(recipe, minutes=None), {**changes, "epochs": epochs}))
    )
    same = all(
        value == getattr(found.data if name == "augment" else found.train, name) for name, value in changes.items()
    )
    variants = {"default": {}} if same else {"default": {}, "found": changes}
    text = ("The recipe was chosen on validation images; the test images were read here, for the first time.",)
    return (
        yield from comparing(
            source,
            variants=variants,
            seeds=SEEDS,
            images=None,
            measure="accuracy",
            recipe=found,
            output=folder / "final",
            overwrite=True,
            workers=workers,
            on=on,
            title="Found against default",
            text=text,
        )
    )


def search(job: Search) -> int:
    """Try recipes until the time is up; returns how many."""
    optuna = _optuna()
    study, tried = _study(optuna, job.storage, job.number), 0
    dataset = prepared_for(job.task)

    def objective(trial: Any) -> float:
        recipe = with_settings(
            replace(job.task.recipe, seed=FIRST_SEED + trial.number), _as_settings(_drawn(trial, job), job.task.recipe)
        )
        place = tempfile.mkdtemp(dir=job.task.run, prefix="trial-")
        events = training(dataset, recipe, output=place, overwrite=True, report=False)
        best = 0.0
        try:
            for event in events:
                if isinstance(event, EpochRow):
                    best = max(best, event.val_accuracy)
                    trial.report(best, event.epoch)
                    if event.epoch == event.epochs:
                        return best  # before anything is measured on test images
                    late = tried > 0 and time.time() > job.until
                    if trial.number > 0 and (late or trial.should_prune()):
                        raise optuna.TrialPruned
        except HubelError as error:  # it diverged, or can't be built
            trial.set_user_attr("error", str(error))
            raise optuna.TrialPruned from error
        finally:
            events.close()  # type: ignore[attr-defined]
            shutil.rmtree(place, ignore_errors=True)
        return best

    while not tried or time.time() < job.until:
        study.optimize(objective, n_trials=1)
        tried += 1
    return tried


def _drawn(trial: Any, job: Search) -> dict[str, Any]:
    """A recipe's settings near the default's, by name; rates and sizes as factors of it."""
    drawn: dict[str, Any] = {}
    for name, (least, most) in {"lr": (0.2, 5.0), "weight_decay": (0.1, 10.0)}.items():
        if name not in job.fixed:
            drawn[name] = trial.suggest_float(name, least, most, log=True)
    for name, values in _choices(job.task.recipe).items():
        if name not in job.fixed:
            drawn[name] = trial.suggest_categorical(name, values)
    return drawn


def _choices(default: Recipe) -> dict[str, list[Any]]:
    now = default.train.label_smoothing or 0.0
    return {
        "augment": list(dict.fromkeys([default.data.augment, "none", "small", "upright", "photo"])),
        "batch_size": [0.5, 1.0, 2.0],
        "label_smoothing": sorted({now, 0.0, 0.1, 0.2}),
        "warmup": [0.1, 0.2, 0.4],
        "schedule": list(dict.fromkeys([default.train.schedule, "one-cycle", "cosine", "linear"])),
    }


def _usual(default: Recipe, fixed: tuple[str, ...]) -> dict[str, Any]:
    """What is drawn where the default is meant."""
    train = default.train
    usual = {"lr": 1.0, "weight_decay": 1.0, "batch_size": 1.0, "augment": default.data.augment}
    usual |= {"label_smoothing": train.label_smoothing or 0.0, "warmup": train.warmup, "schedule": train.schedule}
    return {name: value for name, value in usual.items() if name not in fixed}


def _as_settings(drawn: dict[str, Any], default: Recipe) -> dict[str, Any]:
    """Factors become numbers."""
    said = dict(drawn)
    for name in ("lr", "weight_decay", "batch_size"):
        if name in said:
            value = getattr(default.train, name) or 0.0
            said[name] = max(1, round(said[name] * value)) if name == "batch_size" else said[name] * value
    if said.get("augment") == "none":
        said["flip"] = None
    return said


def _planned(asked: tuple[Task, float]) -> Recipe:
    """The recipe that hubel makes of so many seconds, with everything derived."""
    task, seconds = asked
    dataset = prepared_for(task)
    with tempfile.TemporaryDirectory(dir=task.run) as place:
        recipe = replace(task.recipe, minutes=(seconds + PLANNING) / 60)
        events = training(dataset, recipe, output=place, overwrite=True, report=False)
        for event in events:
            if isinstance(event, Planned):
                break
        made = read_recipe(place)
        events.close()  # type: ignore[attr-defined]
    return replace(made, minutes=None, data=replace(made.data, split_seed=task.recipe.data.split_seed))


def _study(optuna: Any, storage: str, number: int = 0) -> Any:
    sampler = optuna.samplers.TPESampler(seed=number, n_startup_trials=STARTS, constant_liar=True)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTS, n_warmup_steps=1)
    database = optuna.storages.RDBStorage(storage)
    return optuna.create_study(
        study_name="hubel", storage=database, sampler=sampler, pruner=pruner, direction="maximize", load_if_exists=True
    )


def _words(drawn: dict[str, Any]) -> str:
    return ", ".join(
        f"{name} {f'{value:.2g} times' if name in ('lr', 'weight_decay', 'batch_size') else value}"
        for name, value in drawn.items()
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UsageError("hubel tune needs the package optuna: pip install 'hubel[tune]'.") from error
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
