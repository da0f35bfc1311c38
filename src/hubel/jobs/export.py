"""`export`: a trained model as one file that runs without hubel, kept only if it answers as PyTorch does."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hubel.dataset.as_file import as_file
from hubel.dataset.decode import upright
from hubel.dataset.hard_cases import hard_cases
from hubel.errors import DataError, ModelError, UsageError
from hubel.evaluation.onnx import OnnxModel, needed, onnx_bytes, open_onnx
from hubel.events import Event, Note, Progress
from hubel.jobs.answer import Answer, Classifier, list_images, load_folder
from hubel.nn.zoo import Builder
from hubel.runs import Division, read_record, write_bytes

TOLERANCE = 1e-5  # between probabilities
MOST = 500  # of the run's own images that are compared
AT_ONCE = 32

File: TypeAlias = str | os.PathLike[str] | bytes
Named: TypeAlias = tuple[str, File]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how near its answers are to PyTorch's.

    Attributes:
        n: images compared. same: those with the same likeliest class.
        largest: the largest difference of a probability; of the image `worst`.
        left_out: images that can't be used.
    """

    path: str
    n: int
    same: int
    largest: float
    worst: str
    left_out: int


def exporting(
    run: str | Path,
    to: str = "onnx",
    output: str | Path | None = None,
    images: Iterable[File] | None = None,
    *,
    code: Builder | None = None,
) -> Generator[Event, None, Exported]:
    """Export the model of a run folder or model folder, and compare the file's answers with PyTorch's.

    They are compared on `images`; else on the run's own test images, where these are still in place; else on made-up
    ones. The default place is beside the run folder, ``runs/flowers.onnx``: a finished run stays as it was sealed. An
    earlier file is replaced when the new one has passed, and not before.

    Args:
        to: the format; only ``onnx``.
        output: the file, ending in .onnx.
        images: files and folders, or the bytes of files.
        code: the user's own network, for a run that was trained with one.

    Raises:
        UsageError: another format, a name that doesn't end in .onnx, or a folder that isn't there.
        ModelError: the network can't be exported, or the file answers differently (then it isn't written).
        DataError: none of the `images` can be used.
    """
    if to != "onnx":
        raise UsageError(f"There is no export to {to!r}: onnx is the one format.")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package)
    target = _target(Path(run), output)
    classifier = load_folder(run, device="cpu", code=code)
    if not isinstance(classifier, Classifier):
        raise UsageError(f"{run} is exported already: give the run folder.")
    given = None if images is None else [(_name(file), file) for file in map(as_file, list_images(images))]
    yield Progress(task="exporting", done=0, total=1)
    content = onnx_bytes(classifier.model, classifier.card)
    yield Progress(task="exporting", done=1, total=1)
    compared = yield from _compared(classifier, open_onnx(content), target, Path(run), given)
    write_bytes(target, content)
    yield Note(text=f"{target}: {len(content) / 1e6:.1f} MB, ONNX; it runs with onnxruntime alone, on raw pixels.")
    return compared


def _target(run: Path, output: str | Path | None) -> Path:
    if output is None:
        run = run.resolve() if run.name in ("", "..") else run
        return run.with_name(f"{run.name}.onnx")
    target = Path(output)
    if target.suffix.lower() != ".onnx" or target.is_dir():
        raise UsageError(f"The output {target} must be a file whose name ends in .onnx.")
    if not target.absolute().parent.is_dir():
        raise UsageError(f"The folder of {target} does not exist: create it first.")
    return target


def _name(file: File) -> str:
    return "(bytes)" if isinstance(file, bytes) else os.fspath(file)


# Comparing


def _compared(
    classifier: Classifier, exported: OnnxModel, target: Path, run: Path, given: Sequence[Named] | None
) -> Generator[Event, None, Exported]:
    """Compare on the best images there are."""
    files, made_up = list(given) if given is not None else _own_images(run), False
    if given is None and not files:
        files, made_up = list(hard_cases(classifier.card.preprocess.size).items()), True
    result = yield from _compare(classifier, exported, target, files)
    if result.n == 0:
        raise DataError(f"None of the {len(files)} images can be used: give others with --images.")
    what = "made-up images (the run's own aren't in place)" if made_up else "images"
    out = f"; {result.left_out:,} can't be used" if result.left_out else ""
    yield Note(
        text=f"Compared with PyTorch on {result.n:,} {what}, from their files' bytes: the same class for "
        f"{result.same:,}, largest difference of a probability {result.largest:.1e}{out}."
    )
    return result


def _own_images(run: Path) -> list[Named]:
    """Up to 500 files of the run's test part, evenly spread, as far as they are still there."""
    manifest = run / "split.json"
    if not manifest.exists():
        return []
    said = read_record(manifest, Division)
    files = [(name, Path(said.source) / name) for name in said.test]
    files = [(name, file) for name, file in files if file.is_file()]
    count = min(MOST, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def _compare(
    classifier: Classifier, exported: OnnxModel, target: Path, files: Sequence[Named]
) -> Generator[Event, None, Exported]:
    n = same = left_out = 0
    largest, worst = 0.0, ""
    for start in range(0, len(files), AT_ONCE):
        names, chunk = zip(*files[start : start + AT_ONCE], strict=True)
        for name, file, answer in zip(names, chunk, classifier.stream(chunk), strict=True):
            if answer.error is not None:
                left_out += 1
                continue
            probabilities, labels = exported.answer(upright(file, classifier.card.preprocess)[None])
            theirs = dict(zip(classifier.classes, probabilities[0].tolist(), strict=True))
            difference = max(abs(theirs[label] - p) for label, p in answer.probabilities.items())
            _check(name, answer, labels[0], theirs, difference, target)
            n, same = n + 1, same + (labels[0] == answer.label)
            if difference >= largest:
                largest, worst = difference, name
        yield Progress(task="comparing with PyTorch", done=start + len(chunk), total=len(files))
    return Exported(path=str(target), n=n, same=same, largest=largest, worst=worst, left_out=left_out)


def _check(name: str, answer: Answer, label: str, theirs: dict[str, float], difference: float, target: Path) -> None:
    """Refuse another probability, or another class: unless PyTorch itself holds both for equally likely."""
    assert answer.label is not None
    margin = answer.probabilities[answer.label] - answer.probabilities[label]
    if difference <= TOLERANCE and margin <= TOLERANCE:
        return
    raise ModelError(
        f"{target} was not written: for {name} PyTorch says {answer.label!r} ({answer.confidence:.6f}) and ONNX "
        f"Runtime {label!r} ({theirs[label]:.6f}), with a difference of {difference:.1e} where {TOLERANCE:g} is "
        "allowed: use the run folder itself, or try other versions of torch and onnxruntime."
    )
