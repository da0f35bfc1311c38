"""The commands as functions of Python, one each. Torch is imported where it is needed: it takes seconds."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hubel.dataset.cache import cache_clear, cache_entries
from hubel.dataset.config import DataConfig
from hubel.errors import RunError, UsageError
from hubel.events import DataSeen, Event, Finished, Measured, Planned
from hubel.jobs.prepare import Dataset, audited
from hubel.jobs.recipe import Recipe, as_flags, read_recipe, with_settings
from hubel.jobs.run import Run
from hubel.jobs.train import first_process, prepared, restarted, resuming, training
from hubel.records import Finding, Scores, Summary
from hubel.report.terminal import Show, show, shown, tracked
from hubel.runs import RunFolder, make_folder, write_json, write_text

if TYPE_CHECKING:
    from hubel.dataset.as_file import Picture
    from hubel.evaluation.paired import Comparison
    from hubel.jobs.answer import Answer, Answering
    from hubel.jobs.explain import Explanation
    from hubel.jobs.export import Exported

Source = str | os.PathLike[str]
Code = Any  # a network's name, an nn.Module, or what makes one; torch is not imported here to say so


def train(
    source: Source | Dataset,
    *,
    recipe: Recipe | Source | None = None,
    output: Source | None = None,
    overwrite: bool = False,
    report: bool = True,
    show_as: Show = "auto",
    started: float | None = None,
    **changes: Any,
) -> Run:
    """Train a classifier on a folder of images, a CSV or a set by name, and write a run folder.

    Args:
        source: the images; or what `prepare` returned, which many trainings can share.
        recipe: a `Recipe`, or the path of a YAML file or of an earlier run.
        output: the run folder; ``runs/<name>[-N]`` when None.
        report: whether the page is drawn; without, `report` draws it later.
        show_as: ``auto`` prints as the command line does, ``json`` one object per event, ``none`` nothing.
        changes: any setting by its name, as on the command line: ``minutes=3, model="resnet18", seed=1``. The model may
            also be your own nn.Module, or a class or function that makes one; hubel tells it the number of classes.

    Raises:
        HubelError: in one sentence; nothing half-written is left behind.
    """
    chosen, code = _chosen(recipe, changes)
    place = source.source if isinstance(source, Dataset) else os.fspath(source)
    command = shlex.join(["hubel", "train", place, *as_flags(chosen)])
    if output is not None and restarted() and (Path(output) / "recipe.yaml").exists():
        return _run_of(resuming(os.fspath(output), inexact=True, command=command, code=code), show_as)
    events = training(
        source if isinstance(source, Dataset) else place,
        chosen,
        output=None if output is None else os.fspath(output),
        overwrite=overwrite,
        started=started,
        command=command,
        code=code,
        report=report,
    )
    return _run_of(events, show_as)


def prepare(
    source: Source, *, recipe: Recipe | Source | None = None, show_as: Show = "auto", **changes: Any
) -> Dataset:
    """Decode and audit images once, for trainings of several recipes, or for a loop of your own.

    Args:
        recipe, changes: as for `train`; what they say of the images' size and of the weights counts.

    Raises:
        HubelError: in one sentence.
    """
    chosen, code = _chosen(recipe, changes)
    return shown(prepared(os.fspath(source), chosen, code), show_as)


def _chosen(recipe: Recipe | Source | None, changes: dict[str, Any]) -> tuple[Recipe, Any]:
    """The recipe with its changes, and the user's own network where it is an object."""
    chosen = recipe if isinstance(recipe, Recipe) else Recipe() if recipe is None else read_recipe(os.fspath(recipe))
    model = changes.pop("model", None)
    if model is None:
        return with_settings(chosen, changes), None
    if isinstance(model, str):
        chosen = with_settings(chosen, {**changes, "model": model})
        return chosen, _code_of(model) if ".py:" in model else None
    from hubel.nn.foreign import code_name

    return with_settings(chosen, {**changes, "model": code_name(model)}), model


def _run_of(events: Iterable[Event], show_as: Show) -> Run:
    folder = None
    for event in show(events, show_as if first_process() else "none"):
        if isinstance(event, (Planned, Finished)):
            folder = Path(event.folder)
    assert folder is not None
    return Run(folder)


def _code_of(model: Code) -> Any:
    """The user's own network for a run; torch is imported only where there is one."""
    if model is None:
        return None
    from hubel.jobs.answer import code_of

    return code_of(model)


def resume(
    run: Source,
    source: Source | None = None,
    *,
    extend: int | None = None,
    lr: float | None = None,
    inexact: bool = False,
    model: Code = None,
    show_as: Show = "auto",
) -> Run:
    """Go on with a run that was interrupted: it ends with the very weights that it would have ended with.

    Args:
        source: where the images are now, if they were moved.
        extend: train a finished run on for so many epochs, with a schedule of their own. lr: its peak rate.
        inexact: go on with another version of torch, another number of threads or other hardware, to other weights.
        model: the user's own network, for a run that was trained with one.

    Raises:
        HubelError: in one sentence; the run is as it was.
    """
    if extend is not None and extend < 1:
        raise UsageError(f"--extend {extend}: expected a number of epochs above zero.")
    if lr is not None and (extend is None or not lr > 0):
        raise UsageError(f"--lr {lr}: expected a rate above zero, and --extend beside it; a run keeps its own rate.")
    RunFolder.check_begun(Path(run))
    code = _code_of(model)
    events = resuming(
        os.fspath(run),
        source=None if source is None else os.fspath(source),
        extend=extend,
        lr=lr,
        inexact=inexact,
        command=shlex.join(["hubel", "resume", os.fspath(run)]),
        code=code,
    )
    return _run_of(events, show_as)


def rename(run: Source, names: Mapping[str, str]) -> tuple[str, ...]:
    """Give classes of a run other names, in its model, scores and report; its images stay as they are.

    Args:
        names: old name → new name, of the classes that change.

    Returns:
        The names of all classes.

    Raises:
        HubelError: in one sentence; the run is as it was.
    """
    from hubel.jobs.rename import renamed

    return renamed(Path(run), names)


def demo(*, output: Source | None = None, overwrite: bool = False, show_as: Show = "auto", **changes: Any) -> Run:
    """Train on scikit-learn's 1,797 handwritten digits: the whole road in well under a minute, without a download."""
    # Epochs rather than minutes: a busy machine then takes longer, and the result stays good.
    defaults: dict[str, Any] = {} if {"minutes", "model"} & changes.keys() else {"epochs": 12, "width": 16}
    return train("digits", output=output, overwrite=overwrite, show_as=show_as, **{**defaults, **changes})


def data(
    source: Source, *, labels: bool = False, output: Source | None = None, show_as: Show = "auto", **changes: Any
) -> tuple[Finding, ...]:
    """Audit a data set and change nothing; the findings can be given to ``train --exclude``.

    Args:
        labels: also look for labels that are probably wrong: of 5,000 small images, in a minute on two cores.
        output: where the findings are written as JSON.
        changes: settings of the data, by name.
    """
    config: DataConfig = with_settings(Recipe(), changes).data
    findings: list[Finding] = []
    for event in show(_audit(os.fspath(source), config, labels), show_as):
        if isinstance(event, DataSeen):
            findings += event.findings
    if output is not None:
        if Path(output).is_dir():
            raise RunError(f"{os.fspath(output)} is a folder: give the name of a file, such as findings.json.")
        write_json(Path(output), findings)
    return tuple(findings)


def examine(source: Source, arguments: Sequence[str] = (), *, show_as: Show = "auto") -> tuple[Finding, ...]:
    """Say what is wrong with a training, or with images.

    Args:
        source: a run folder; or a folder, table or set of images, which is audited; or a Python script that trains a
            network, which is run, and watched.
        arguments: of the script.

    Raises:
        HubelError: there is no such thing.
    """
    from hubel.jobs.examine import examining_run, examining_script

    path = Path(source)
    if path.suffix != ".py" and not (path / "plan.json").exists():
        return data(source, show_as=show_as)
    events = examining_script(path, arguments) if path.suffix == ".py" else examining_run(path)
    return tuple(event for event in show(events, show_as) if isinstance(event, Finding))


def _audit(source: str, config: DataConfig, labels: bool) -> Iterator[Event]:
    dataset = yield from audited(source, config)
    if labels:
        from hubel.jobs.labels import suspected

        found = yield from suspected(dataset)
        dataset = replace(dataset, findings=(*dataset.findings, *found))
    yield dataset.seen(source)


def evaluate(
    run: Source | None,
    source: Source,
    *,
    model: Code = None,
    weights: Source | None = None,
    output: Source | None = None,
    show_as: Show = "auto",
    device: str = "auto",
    **changes: Any,
) -> Scores:
    """Measure a trained model, or published weights, on a folder, a CSV or a set by name.

    Args:
        run: run folder or model folder; None where `weights` are given.
        model: a network's name beside `weights`; or the user's own network that a run was trained with.
        output: FILE.json for the scores alone; or a folder for these, an answer per image (predictions.csv), the surest
            errors as pictures, and a page.
        changes: settings of the data beside `weights`: size, fit, mean, std.
    """
    from hubel.jobs.answer import opened
    from hubel.jobs.evaluate import evaluating

    opener = partial(opened, run, model, weights, device, changes)
    path = None if run is None else Path(run)
    folder = None if output is None or Path(output).suffix == ".json" else Path(output)
    for event in show(evaluating(os.fspath(source), opener, path, folder), show_as):
        if isinstance(event, Measured):
            measured = event
    if output is not None and folder is None:
        write_json(Path(output), {"part": measured.part, "scores": measured.scores})
    return measured.scores


def predict(
    run: Source | None,
    images: Picture | Iterable[Picture],
    *,
    model: Code = None,
    weights: Source | None = None,
    output: Source | None = None,
    spreadsheet: bool = False,
    unsure: float | None = None,
    top: int = 1,
    probabilities: bool = False,
    device: str = "auto",
    **changes: Any,
) -> list[Answer]:
    """Answer for images, one or many; an unusable one has its `error` set and stops nothing.

    Args:
        images: as `Classifier.predict` takes them: paths, folders, bytes, Pillow's images, arrays, lists of these.
        run, model, weights, changes: as for `evaluate`; `run` may be an exported model.onnx.
        output: where the answers are written as CSV. spreadsheet: so that no text in it is taken for a formula.
        unsure: the share of errors that is accepted: less confident answers are marked as unsure.
        top: classes in it, the likeliest first. probabilities: whether a column for each class is added.
    """
    answers = list(predicting(run, images, model=model, weights=weights, unsure=unsure, device=device, **changes))
    if output is not None:
        columns: dict[str, Any] = {"spreadsheet": spreadsheet, "top": top, "probabilities": probabilities}
        write_answers(answers, output, **columns, unsure=unsure is not None)
    return answers


def predicting(
    run: Source | None,
    images: Picture | Iterable[Picture],
    *,
    model: Code = None,
    weights: Source | None = None,
    unsure: float | None = None,
    device: str = "auto",
    **changes: Any,
) -> Iterator[Answer]:
    """Answer file by file, in order, as they are ready; a bar shows how far it has come."""
    from hubel.jobs.answer import list_images, opened

    classifier, _ = opened(run, model, weights, device, changes, ())
    sure, files = classifier.sure(unsure), list_images(images)
    yield from tracked(classifier.stream(files, sure=sure), len(files), "predicting")


def explain(
    run: Source,
    images: Iterable[Picture] | Picture,
    *,
    method: str = "gradcam",
    layer: str | None = None,
    label: str | None = None,
    output: Source | None = None,
    model: Code = None,
    device: str = "auto",
) -> list[Explanation]:
    """Show which places of images speak for a class, how far to trust that, and the training images most alike.

    Args:
        run, model: a run or model folder, and the code that it was trained with, as for `evaluate`.
        method: gradcam, gradcam++, layercam, scorecam, eigencam, occlusion, saliency, smoothgrad,
            integrated-gradients or guided-backprop. layer: a module's name; the method chooses when None.
        label: the class to explain; each image's likeliest one when None.
        output: folder for a picture an image and explanations.json; nothing is written when None.
    """
    found = list(explaining(run, images, method=method, layer=layer, label=label, model=model, device=device))
    if output is not None:
        from hubel.jobs.explain import write_explanations

        write_explanations(found, output)
    return found


def explaining(
    run: Source,
    images: Iterable[Picture] | Picture,
    *,
    method: str = "gradcam",
    layer: str | None = None,
    label: str | None = None,
    model: Code = None,
    device: str = "auto",
) -> Iterator[Explanation]:
    """Explain image by image, as they are ready; a bar shows how far it has come."""
    from hubel.evidence import RunRecord
    from hubel.jobs.answer import list_images, opened
    from hubel.jobs.explain import explanations, inside

    classifier = inside(opened(run, model, None, device, {}, ())[0])
    files = list_images(images)
    record = RunRecord(Path(run)) if (Path(run) / "split.json").exists() else None
    found = explanations(classifier, record, files, method=method, layer=layer, label=label)
    yield from tracked(found, len(files), "explaining")


def write_answers(answers: Sequence[Answer], output: Source, **columns: Any) -> None:
    """Write answers as CSV, with the columns that `answers_csv` is told."""
    from hubel.jobs.answer import answers_csv

    write_text(Path(output), answers_csv(answers, **columns))


def compare(
    a: Source | Answering,
    b: Source | Answering,
    source: Source | None = None,
    *,
    model: Code = None,
    output: Source | None = None,
    device: str = "auto",
    show_as: Show = "auto",
) -> Comparison:
    """Compare two trained models on the same images: is B better than A, by how much, and on which?

    Args:
        a, b: run folders, model folders, or what `load` returned.
        source: the images; those that both runs have reported on when None.
        model: the user's own network, for folders that were trained with one.
        output: where the result is written as JSON, a file or a folder.
    """
    from hubel.jobs.compare import comparing

    sides = [os.fspath(each) if isinstance(each, (str, os.PathLike)) else each for each in (a, b)]
    place = None if source is None else os.fspath(source)
    found = shown(comparing(sides[0], sides[1], place, device, _code_of(model)), show_as)
    if output is not None:
        file = Path(output)
        write_json(file if file.suffix == ".json" else make_folder(file) / "comparison.json", found)
    return found


def inspect(
    network: Code,
    *,
    input: tuple[int, ...] | None = None,
    classes: int | None = None,
    time: bool = False,
    object_size: int | None = None,
    model: Code = None,
    output: Source | None = None,
) -> Summary:
    """Look into a network: a name, a run folder, a model folder, or your own nn.Module.

    Args:
        input: channels, height and width of an image, or one side; the network's own when None.
        classes: of a network by name; 1000 or 10, as it was published, when None.
        time: measure milliseconds, too.
        object_size: pixels a side of what has to be recognised, for the warnings.
        model: the user's own network, for a run that was trained with one.
        output: a file for the picture (.svg), the page (.html) or the numbers (.json).
    """
    from hubel.jobs.inspect import Asked, inspecting

    asked = Asked(input=input, classes=classes, measure=time, object_size=object_size)
    if output is not None and Path(output).suffix not in (".svg", ".html", ".json"):
        raise UsageError(f"The output {os.fspath(output)} must end in .svg (picture), .html (page) or .json (numbers).")
    summary = inspecting(network, asked, code=_code_of(model))
    if output is not None:
        _write_summary(summary, Path(output))
    return summary


def _write_summary(summary: Summary, file: Path) -> None:
    from hubel.report.layers import inspection_page
    from hubel.report.network import architecture_svg

    if file.suffix == ".json":
        write_json(file, summary)
    else:
        write_text(file, architecture_svg(summary) if file.suffix == ".svg" else inspection_page(summary))


def export(
    run: Source,
    *,
    to: str = "onnx",
    output: Source | None = None,
    images: Iterable[Source] | None = None,
    model: Code = None,
    show_as: Show = "auto",
) -> Exported:
    """Write a trained model as one ONNX file that takes raw pixels, if it answers as PyTorch does.

    Args:
        output: the file; beside the run folder, ``runs/flowers.onnx``, when None.
        images: what the answers are compared on; the run's own test images when None.
        model: the user's own network, for a run that was trained with one.

    Raises:
        ModelError: the file answers differently; then it isn't written.
    """
    from hubel.jobs.export import exporting

    path = None if output is None else os.fspath(output)
    return shown(exporting(os.fspath(run), to, path, images, code=_code_of(model)), show_as)


def report(run: Source) -> Path:
    """Draw a finished run's report again from the files in its folder, which may be a copy; returns the page's path."""
    from hubel.report.page import write_report

    return write_report(os.fspath(run))


def cache(*, clear: bool = False) -> dict[str, int]:
    """Return name and bytes of what the cache holds; `clear` empties it first."""
    if clear:
        cache_clear()
    return dict(cache_entries())
