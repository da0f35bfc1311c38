"""The state of a training on disk, ``resume/state.safetensors`` in the run folder: one file, replaced whole.

It holds everything that the rest of the training depends on, and what it was made with. Where any of that is another
here, the rest of the training would end with other weights: then it is refused, unless asked for.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

import hubel
from hubel.errors import ModelError, RunError
from hubel.jobs.dataset import Dataset
from hubel.learning.checkpoint import captured
from hubel.learning.distributed import rank, world_size
from hubel.learning.kernels.dispatch import has_matrix_units
from hubel.nn.tensor_file import read_tensors, tensor_writer
from hubel.runs import STATE, RunFolder

if TYPE_CHECKING:
    from hubel.jobs.trainee import Trainee

LAYOUT = 1  # raise it when readers must tell old from new
LEAST = 20.0  # seconds between two times of storing, at least
SHARE = 50  # and as many times as long as storing takes: 2 % of the time, if the training had to wait for it


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A training's state as it was read: tensors by name, and JSON values."""

    tensors: dict[str, Tensor]
    said: dict[str, Any]


class Keeper:
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

    def cut_back(self, stored: Stored | None) -> None:
        """Cut the growing files back to what they were when the state was stored: the rest comes again."""
        lengths = {"results.csv": 0} if stored is None else stored.said["lengths"]
        for name, length in lengths.items():
            if self.run.length(name):
                self.run.cut(name, length)

    def store(self, trainee: Trainee) -> None:
        """Write the state as it is now, behind the training; with several processes, all have to call this."""
        began = time.monotonic()
        tensors, said = captured(trainee.state, trainee.model)
        if rank() == 0:
            tensors |= {f"best.{name}": value for name, value in (trainee.best_weights or {}).items()}
            if trainee.filters_before is not None:
                tensors["filters"] = torch.from_numpy(trainee.filters_before)
            lengths = {"log.jsonl": self.run.length("log.jsonl"), "results.csv": self.run.length("results.csv")}
            all_said = {
                "layout": LAYOUT,
                "made_with": self.made_with,
                "state": said,
                "trainee": trainee.said(),
                "lengths": lengths,
            }
            (self.run.path / STATE).parent.mkdir(exist_ok=True)
            write = tensor_writer(self.run.path / STATE, tensors, {"said": json.dumps(all_said)})

            def write_and_time() -> None:
                write()
                self._took = time.monotonic() - began

            self.run.behind(write_and_time)
        self._last = time.monotonic()


def read(run: Path) -> Stored | None:
    """Read a run's state; None where it was interrupted before any was stored.

    Raises:
        RunError: it is damaged, or from a newer hubel.
    """
    file = run / STATE
    if not file.exists():
        return None
    try:
        tensors, said = read_tensors(file)
    except ModelError as error:
        raise RunError(f"{error} Without a copy, train again; the best model so far is in {run / 'model'}.") from error
    everything = json.loads(said["said"])
    if everything["layout"] != LAYOUT:
        raise RunError(
            f"{file} is of layout {everything['layout']}, this hubel reads {LAYOUT}: use the one that made it."
        )
    return Stored(tensors=tensors, said=everything)


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
    for what, before in then.items():
        if before != now.get(what):
            said = "the images changed" if what == "images" else f"{what} was {before} and is {now.get(what)} here"
            raise RunError(
                f"The rest of this training would not be what it would have been, since {said}: go on where it is the "
                "same, or with --inexact."
            )
