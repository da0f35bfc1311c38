"""The state of a training on disk, ``resume/state.safetensors`` in the run folder: one file, replaced whole.

It holds everything that the rest of the training depends on, and what it was made with. Where any of that is another
here, the rest of the training would end with other weights: then it is refused, unless asked for.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import hubel
from hubel.as_json import from_json, to_json
from hubel.errors import ModelError, RunError
from hubel.jobs.prepare import Dataset
from hubel.jobs.training import Record, Training, phase_seconds
from hubel.learning.checkpoint import Loop, captured, restore
from hubel.learning.distributed import rank, world_size
from hubel.learning.kernels.dispatch import has_matrix_units
from hubel.nn.tensor_file import check_tensors, read_tensors, tensor_writer
from hubel.runs import STATE, RunFolder

LAYOUT = 2  # raise it when readers must tell old from new
GROWING = ("log.jsonl", "results.csv")  # files that are cut back to what they were when the state was stored
WEIGHTS = re.compile(r"(model|average|best|optimizer)\.")  # begins the names of tensors that a network is made of
LEAST = 20.0  # seconds between two times of storing, at least
SHARE = 50  # and as many times as long as storing takes: 2 % of the time, if the training had to wait for it


@dataclass(frozen=True, kw_only=True)
class Values:
    """What a training's state holds beside tensors.

    Attributes:
        loop: counters of the loop, for `restore`. record: where the training stood.
        lengths: bytes of the files that grow, at that moment.
    """

    layout: int
    loop: Loop
    record: Record
    made_with: dict[str, Any]
    lengths: dict[str, int]

    def __post_init__(self) -> None:
        if set(self.lengths) != set(GROWING) or min(self.lengths.values()) < 0:
            raise ValueError(f"lengths of {', '.join(self.lengths)} are not those of {' and '.join(GROWING)}")


@dataclass(frozen=True, kw_only=True)
class State(Values):
    """A training's state as it was read, with its tensors by name."""

    tensors: dict[str, Tensor]

    @property
    def epochs(self) -> int:
        """Epochs that are complete, of all phases."""
        return self.record.epochs_before + self.loop.epoch

    def give(self, training: Training) -> None:
        """Hand the record, the best weights and the filters before training to a training that goes on."""
        record, own, shown = self.record, training.model.state_dict(), training.filters_before
        best = {name.removeprefix("best."): t for name, t in self.tensors.items() if name.startswith("best.")}
        try:
            check_tensors(best, own if best else {})
        except ModelError as error:
            raise RunError(f"The best weights are of another network than the recipe builds: {error}") from error
        filters = self.tensors.get("filters")
        if (None if filters is None else tuple(filters.shape)) != (None if shown is None else shown.shape):
            raise RunError(
                "The stored filters are of another network than the recipe builds: restore a copy of the run."
            )
        classes = len(training.classes)
        if (
            record.phase >= len(training.phases)
            or self.loop.epoch > training.phases[record.phase].epochs
            or bool(best) != (record.best_scores is not None)
            or any(len(row.recalls) != classes for row in record.history)
        ):
            raise RunError("The stored record does not fit the run's plan: restore a copy of the run, or train again.")
        training.record = replace(record)
        training.best, training.unsaved = best or None, True
        training.filters_before = None if filters is None else filters.numpy()

    def give_loop(self, training: Training) -> None:
        """Put weights, optimizers, random state and counters into the state that `begin_phase` made."""
        restore(training.state, training.model, self.tensors, self.loop)


class StateWriter:
    """Stores a training's state now and then.

    Args:
        made_with: what the numbers depend on beside the recipe.
    """

    def __init__(self, run: RunFolder, made_with: dict[str, Any]) -> None:
        self.run, self.made_with = run, made_with
        self._took, self._last = 0.0, time.monotonic()

    @property
    def due(self) -> bool:
        """Whether the last time is long enough ago; only the process that writes says so."""
        return rank() == 0 and time.monotonic() - self._last >= max(LEAST, SHARE * self._took)

    def cut_back(self, state: State | None) -> None:
        """Cut the growing files back to what they were when the state was stored: the rest comes again."""
        for name in GROWING if state is not None else ("results.csv",):
            if self.run.length(name):
                self.run.cut(name, 0 if state is None else state.lengths[name])

    def store(self, training: Training) -> None:
        """Write the state as it is now, behind the training; with several processes, all have to call this."""
        began = time.monotonic()
        tensors, loop = captured(training.state, training.model)
        if rank() == 0:
            tensors |= {f"best.{name}": value for name, value in (training.best or {}).items()}
            if training.filters_before is not None:
                tensors["filters"] = torch.from_numpy(training.filters_before)
            training.record.used = phase_seconds(training)
            training.record.seconds = training.clock.seconds
            values = Values(
                layout=LAYOUT,
                made_with=self.made_with,
                loop=loop,
                record=training.record,
                lengths={name: self.run.length(name) for name in GROWING},
            )
            (self.run.path / STATE).parent.mkdir(exist_ok=True)
            write = tensor_writer(self.run.path / STATE, tensors, {"values": json.dumps(to_json(values))})

            def write_and_time() -> None:
                write()
                self._took = time.monotonic() - began

            self.run.behind(write_and_time)
        self._last = time.monotonic()


def read_state(run: Path) -> State | None:
    """Read a run's state; None where it was interrupted before any was stored.

    Raises:
        RunError: it is damaged, or from another version of hubel.
    """
    file = run / STATE
    if not file.exists():
        return None
    remedy = f"Without a copy, train again; the best model so far is in {run / 'model'}."
    try:
        tensors, metadata = read_tensors(file)
    except ModelError as error:
        raise RunError(f"{error} {remedy}") from error
    try:
        said = json.loads(metadata.get("values", '{"layout": 1}'))
        if isinstance(said, dict) and said.get("layout") != LAYOUT:
            raise RunError(
                f"{file} is of layout {said.get('layout')}, this hubel reads {LAYOUT}: go on with the version that "
                "made it, or train again; models, results and reports of such runs can be used as they are."
            )
        values = from_json(Values, said)
        if broken := [name for name, value in tensors.items() if WEIGHTS.match(name) and not value.isfinite().all()]:
            raise ValueError(f"{broken[0]} is not finite")
        return State(tensors=tensors, **{entry.name: getattr(values, entry.name) for entry in fields(Values)})
    except (ValueError, RecursionError) as error:
        raise RunError(f"{file} can't be used ({error}): restore it from a copy. {remedy}") from error


def made_with(dataset: Dataset, device: torch.device) -> dict[str, Any]:
    """Return what the numbers of a training depend on, beside its recipe."""
    return {
        "hubel": hubel.__version__,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "processor": torch.backends.cpu.get_cpu_capability() + " with AMX" * has_matrix_units(),
        "processes": world_size(),
        "images": dataset.identity,
    }


def check_same(then: dict[str, Any], now: dict[str, Any]) -> None:
    """Compare what a training was begun with and what would go on with it.

    Raises:
        RunError: names the first difference.
    """
    for what, here in now.items():
        if then.get(what) != here:
            said = "the images changed" if what == "images" else f"{what} was {then.get(what)} and is {here} here"
            raise RunError(
                f"The rest of this training would not be what it would have been, since {said}: go on where it is the "
                "same, or with --inexact."
            )
