"""From what a caller gives for a model (a run, a folder, a name, code and weights) to a classifier."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hubel.errors import UsageError
from hubel.jobs.recipe import Recipe, with_settings

if TYPE_CHECKING:
    from hubel.jobs.answering import Classifier, OnnxClassifier


Source = str | os.PathLike[str]
Code = Any  # a network's name, an nn.Module, or what makes one; torch is not imported here to say so


def load(
    path: Source | None = None,
    *,
    model: Code = None,
    weights: Source | None = None,
    device: str = "auto",
    **changes: Any,
) -> Classifier | OnnxClassifier:
    """Load a trained model from its model folder, run folder or model.onnx; or a network with published weights.

    No code in a folder is run. A folder that was trained with the user's own network asks for it by `model`: an
    nn.Module, its class, or ``"FILE.py:CLASS"``.
    """
    return opened(path, model, weights, device, changes, ())[0]


def opened(
    run: Source | None,
    model: Code,
    weights: Source | None,
    device: str,
    changes: dict[str, Any],
    classes: Sequence[str],
) -> tuple[Classifier | OnnxClassifier, list[str]]:
    """Make the classifier that run, model and weights name; `classes` are those of the data it is for."""
    from hubel.jobs import answering
    from hubel.nn.foreign import is_code, load_code

    if weights is not None:
        if run is not None:
            raise UsageError(f"{os.fspath(run)} brings its own weights: leave --weights out, or give no run.")
        name, code = name_of(model or "auto")
        data = with_settings(Recipe(), changes).data
        code = load_code(name) if code is None and is_code(name) else code
        return answering.from_weights(os.fspath(weights), name, device=device, code=code, data=data, classes=classes)
    if run is None:
        raise UsageError("Which model? Give a run folder, or --model NAME with --weights FILE.")
    if changes:
        raise UsageError(f"A trained model knows its own {next(iter(changes))}: that setting goes with --weights.")
    return answering.load(os.fspath(run), device=device, code=code_of(model)), []


def code_of(model: Code) -> Any:
    """The user's own network for a run: an object as it is, ``FILE.py:CLASS`` loaded."""
    from hubel.nn.foreign import is_code, load_code

    if isinstance(model, str) and not is_code(model):
        raise UsageError(f"--model {model}: a run knows its network; with --weights, or as FILE.py:CLASS, it is named.")
    return load_code(model) if isinstance(model, str) else model


def name_of(model: Any) -> tuple[str, Any]:
    """A network's name and, where it is the user's own object, the object."""
    if isinstance(model, str):
        return model, None
    from hubel.nn.foreign import code_name

    return code_name(model), model
