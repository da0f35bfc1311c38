"""The verbs: one function each, the same on the command line and in Python. Torch is imported where it is needed."""

from __future__ import annotations

import html
import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubel.dataset.config import DataConfig
from hubel.dataset.pack import cache_clear, cache_entries
from hubel.errors import RunError
from hubel.jobs.dataset import audited
from hubel.jobs.recipe import Recipe, read_recipe, settings, with_settings
from hubel.jobs.training import training
from hubel.records import (
    Baselines,
    DataSeen,
    Event,
    Finding,
    Finished,
    Measured,
    Planned,
    Scores,
    from_json,
)
from hubel.report.terminal import Show, baseline_words, headline, show, tracked
from hubel.runs import read_json, verify, write_json, write_text

if TYPE_CHECKING:
    from hubel.jobs.answering import Answer, Classifier

Source = str | os.PathLike[str]


@dataclass(frozen=True)
class Run:
    """A run folder, read from disk.

    Example:
        ``Run(Path("runs/flowers")).scores.accuracy``
    """

    path: Path

    @property
    def scores(self) -> Scores:
        """How good the model is on the reported part."""
        return from_json(Scores, self._measured["scores"])

    @property
    def baselines(self) -> Baselines:
        """What stands beside it."""
        return from_json(Baselines, self._measured["baselines"])

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the audit found."""
        return tuple(from_json(Finding, value) for value in read_json(self.path / "findings.json"))

    @property
    def report(self) -> Path:
        """The report's path."""
        return self.path / "report.html"

    @property
    def _measured(self) -> dict[str, Any]:
        said: dict[str, Any] = read_json(self.path / "scores.json")
        return said

    def load(self) -> Classifier:
        """Load the trained model."""
        return load(self.path)

    def verify(self) -> None:
        """Compare every file with the run's manifest; raises RunError for the first that differs."""
        verify(self.path)

    def _repr_html_(self) -> str:
        """Show the run in a notebook: accuracy, baselines, the curves, and where the report is."""
        part = str(self._measured["part"])
        curves = self.path / "pictures" / "curves.png"
        picture = ""
        if curves.exists():
            import base64

            picture = f'<img width="720" src="data:image/png;base64,{base64.b64encode(curves.read_bytes()).decode()}">'
        said = f"<b>{html.escape(headline(self.scores, part))}</b><br>{html.escape(baseline_words(self.baselines))}"
        return f"<div>{said}<br>{picture}<br>report: <code>{html.escape(str(self.report))}</code></div>"


def train(
    source: Source,
    *,
    recipe: Recipe | Source | None = None,
    output: Source | None = None,
    overwrite: bool = False,
    show_as: Show = "auto",
    started: float | None = None,
    **changes: Any,
) -> Run:
    """Train a classifier on a folder of images, a CSV or a set by name, and write a run folder.

    Args:
        recipe: a `Recipe`, or the path of a YAML file or of an earlier run.
        output: the run folder; ``runs/<name>[-N]`` when None.
        show_as: ``auto`` prints as the command line does, ``json`` one object per event, ``none`` nothing.
        changes: any setting by its name, as on the command line: ``minutes=3, model="resnet18", seed=1``.

    Raises:
        HubelError: in one sentence; nothing half-written is left behind.
    """
    chosen = (
        recipe if isinstance(recipe, Recipe) else read_recipe(os.fspath(recipe)) if recipe is not None else Recipe()
    )
    chosen = with_settings(chosen, changes)
    command = shlex.join(["hubel", "train", os.fspath(source), *as_flags(chosen)])
    events = training(
        os.fspath(source),
        chosen,
        output=None if output is None else os.fspath(output),
        overwrite=overwrite,
        started=started,
        command=command,
    )
    folder = None
    for event in show(events, show_as):
        if isinstance(event, (Planned, Finished)):
            folder = Path(event.folder)
    assert folder is not None
    return Run(folder)


def demo(*, output: Source | None = None, overwrite: bool = False, show_as: Show = "auto", **changes: Any) -> Run:
    """Train on scikit-learn's 1,797 handwritten digits: the whole road in well under a minute, without a download."""
    # Epochs rather than minutes: a busy machine then takes longer, and the result stays good.
    defaults: dict[str, Any] = {} if {"minutes", "model"} & changes.keys() else {"epochs": 12, "width": 16}
    return train("digits", output=output, overwrite=overwrite, show_as=show_as, **{**defaults, **changes})


def data(
    source: Source, *, output: Source | None = None, show_as: Show = "auto", **changes: Any
) -> tuple[Finding, ...]:
    """Audit a data set and change nothing; the findings can be given to ``train --exclude``.

    Args:
        output: where the findings are written as JSON.
        changes: settings of the data, by name.
    """
    config: DataConfig = with_settings(Recipe(), changes).data
    findings: list[Finding] = []
    for event in show(_audit(os.fspath(source), config), show_as):
        if isinstance(event, DataSeen):
            findings += event.findings
    if output is not None:
        if Path(output).is_dir():
            raise RunError(f"{os.fspath(output)} is a folder: give the name of a file, such as findings.json.")
        write_json(Path(output), findings)
    return tuple(findings)


def _audit(source: str, config: DataConfig) -> Iterator[Event]:
    dataset = yield from audited(source, config)
    yield dataset.seen(source)


def evaluate(
    run: Source, source: Source, *, output: Source | None = None, show_as: Show = "auto", device: str = "auto"
) -> Scores:
    """Measure a trained model on a folder, a CSV or a set by name.

    Args:
        output: where the scores are written as JSON.
    """
    from hubel.jobs.answering import evaluating

    for event in show(evaluating(os.fspath(run), os.fspath(source), device=device), show_as):
        if isinstance(event, Measured):
            measured = event
    if output is not None:
        write_json(Path(output), {"part": measured.part, "scores": measured.scores})
    return measured.scores


def predict(
    run: Source, images: Iterable[Source] | Source, *, output: Source | None = None, device: str = "auto"
) -> list[Answer]:
    """Answer for image files and folders of images; an unusable one has its `error` set and stops nothing.

    Args:
        output: where the answers are written as CSV.
    """
    sources = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    answers = list(predicting(run, sources, device=device))
    if output is not None:
        write_answers(answers, output)
    return answers


def predicting(run: Source, images: Iterable[Source], *, device: str = "auto") -> Iterator[Answer]:
    """Answer file by file, in order, as they are ready; a bar shows how far it has come."""
    from hubel.jobs.answering import list_images

    classifier, files = load(run, device=device), list_images(images)
    yield from tracked(classifier.stream(files), len(files), "predicting")


def write_answers(answers: Sequence[Answer], output: Source) -> None:
    """Write answers as CSV: file, label, confidence, error."""
    from hubel.jobs.answering import answers_csv

    write_text(Path(output), answers_csv(answers))


def load(path: Source, *, device: str = "auto") -> Classifier:
    """Load a trained model from its model folder or run folder; runs no code from it."""
    from hubel.jobs import answering

    return answering.load(os.fspath(path), device=device)


def cache(*, clear: bool = False) -> dict[str, int]:
    """Return name and bytes of what the cache holds; `clear` empties it first."""
    if clear:
        cache_clear()
    return dict(cache_entries())


def as_flags(recipe: Recipe) -> list[str]:
    """Return the command-line flags that differ from the defaults."""
    flags: list[str] = []
    for setting in settings():
        holder = getattr(recipe, setting.section) if setting.section else recipe
        value, name = getattr(holder, setting.name), setting.name.replace("_", "-")
        if value == setting.default:
            continue
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, tuple):
            flags += [f"--{name}", *map(str, value)]
        else:
            flags += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    return flags
