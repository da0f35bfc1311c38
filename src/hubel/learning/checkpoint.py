"""Everything that training depends on, as tensors and JSON, and back again to the bit: on disk, or for a fork.

Weights, buffers, the average, optimizer state, random state, counters, and the sums of the epoch that is going on.
The order of images is a function of (seed, epoch) and their random changes of (seed, epoch, image), so that a position
is all that the loader needs. Tensors of the network are copied into those of a freshly built one; the optimizers' are
made anew with the strides that they had, since kernels chosen by strides add in another order.
"""

from __future__ import annotations

import copy
import hashlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hubel.errors import RunError
from hubel.learning.distributed import gathered, rank, summed
from hubel.learning.engine import Tally, TrainState

COUNTERS = ("epoch", "position", "step", "rate")
GENERATORS: tuple[tuple[Callable[[], Any], Callable[[Any], None]], ...] = (
    (torch.get_rng_state, torch.set_rng_state),
    (torch.cuda.get_rng_state_all, torch.cuda.set_rng_state_all),
    (np.random.get_state, np.random.set_state),
    (random.getstate, random.setstate),
)

KEPT_BY = {  # what an optimizer keeps of a parameter once it has changed it
    "SGD": {"momentum_buffer"},
    "Muon": {"momentum_buffer"},
    "Adam": {"step", "exp_avg", "exp_avg_sq"},
    "AdamW": {"step", "exp_avg", "exp_avg_sq"},
}


@dataclass(frozen=True, kw_only=True)
class Scaler:
    """The state of torch's GradScaler, by its own names."""

    scale: float
    growth_factor: float
    backoff_factor: float
    growth_interval: int
    _growth_tracker: int


@dataclass(frozen=True, kw_only=True)
class Loop:
    """What of a state is no tensor.

    Attributes:
        epoch, position, step, rate, images, seconds: of the state and of its tally. scaler: of float16's gradients.
        strides: of the optimizers' tensors, by name.
    """

    epoch: int
    position: int
    step: int
    images: int
    seconds: float
    scaler: Scaler | None
    strides: dict[str, tuple[int, ...]]
    rate: float = 1.0

    def __post_init__(self) -> None:
        if min(self.epoch, self.position, self.step, self.images, self.seconds, self.rate) < 0:
            raise ValueError("a counter is below zero")


def captured(state: TrainState, model: nn.Module) -> tuple[dict[str, Tensor], Loop]:
    """Return tensors and values that hold the state; with several processes, all of them have to call this.

    Args:
        model: the whole network, of which ``state.model`` may be a part.
    """
    device = next(model.parameters()).device
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    strides: dict[str, tuple[int, ...]] = {}
    for place, (optimizer, parameter) in _parameters(state).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, Tensor):
                name = f"optimizer.{place}.{key}"
                tensors[name], strides[name] = value, value.stride()
    generator, where = _generator(device)
    tensors["random"] = torch.stack(gathered(generator.get_rng_state(*where)[None].to(device))).squeeze(1)
    tensors["tally"] = summed(state.tally.sums.to(device, copy=True))
    said = Loop(
        epoch=state.epoch,
        position=state.position,
        step=state.step,
        rate=state.rate,
        images=state.tally.images,
        seconds=state.tally.seconds,
        scaler=Scaler(**state.scaler.state_dict()) if state.scaler.is_enabled() else None,
        strides=strides,
    )
    return tensors, said


@torch.no_grad()
def restore(state: TrainState, model: nn.Module, tensors: Mapping[str, Tensor], said: Loop) -> None:
    """Put what `captured` returned into a state that was built in the same way.

    Raises:
        RunError: it is of another network or optimizer, or no state at all.
    """
    device = next(model.parameters()).device
    _copy_into(model, "model.", tensors)
    if state.average is not None:
        _copy_into(state.average, "average.", tensors)
    parameters = _parameters(state)
    for optimizer in state.optimizers:
        optimizer.state.clear()
    for name, strides in said.strides.items():
        place, _, key = name.removeprefix("optimizer.").rpartition(".")
        if place not in parameters or name not in tensors:
            raise RunError(f"The stored optimizer is not this network's (there is no {name}): it is of another one.")
        optimizer, parameter = parameters[place]
        value = tensors[name]
        if not _is_dense(value.shape, strides) or (value.ndim and value.shape != parameter.shape):
            raise RunError(f"The stored optimizer is not this network's ({name} has another shape): restore a copy.")
        on = device if value.ndim else torch.device("cpu")  # step counts of Adam stay on the processor
        own = torch.empty_strided(value.shape, strides, dtype=value.dtype, device=on)
        optimizer.state[parameter][key] = own.copy_(value)
    for optimizer, parameter in parameters.values():
        keys = set(optimizer.state.get(parameter, {}))
        if keys not in (set(), KEPT_BY.get(type(optimizer).__name__, keys)):
            raise RunError(f"The stored optimizer holds {sorted(keys)} of a parameter: it is of another one.")
    for counter in COUNTERS:
        setattr(state, counter, getattr(said, counter))
    try:
        sums = tensors["tally"] if rank() == 0 else torch.zeros_like(tensors["tally"])
        state.tally = Tally(sums=sums.to(device).view(2), images=said.images, seconds=said.seconds)
        if said.scaler is not None:
            state.scaler = torch.amp.GradScaler(device.type)
            state.scaler.load_state_dict(asdict(said.scaler))
        generator, where = _generator(device)
        mine = tensors["random"][min(rank(), len(tensors["random"]) - 1)]
        generator.set_rng_state(
            mine.cpu().clone(), *where
        )  # torch 2.15 takes a row for the matrix's first, and crashes
    except (LookupError, RuntimeError, TypeError) as error:
        raise RunError(
            f"The stored state can't be used ({error}): restore a copy of the run.".replace("\n", " ")
        ) from error


def _is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether a tensor of such strides has a number in each place of its memory, and none in two."""
    expected = 1
    for stride, side in sorted(zip(strides, shape, strict=False)):
        if side != 1 and stride != expected:
            return False
        expected *= side
    return len(strides) == len(shape)


def digest(model: nn.Module) -> str:
    """Return the SHA-256 of a network's weights and buffers, in hexadecimal: equal where every bit is."""
    found = hashlib.sha256()
    for name, value in model.state_dict().items():
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return found.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A training at one moment, in memory; made by `snapshot`.

    Attributes:
        tensors, values: as `captured` returned them, the tensors copied. gradients, trainable: of each parameter.
        flags: train flag of each module. rates: learning rate of each group of each optimizer.
        generators: states of every random generator: torch's on each device, numpy's and Python's.
    """

    tensors: dict[str, Tensor]
    values: Loop
    pace: float
    gradients: tuple[Tensor | None, ...]
    trainable: tuple[bool, ...]
    flags: tuple[bool, ...]
    rates: tuple[tuple[float, ...], ...]
    generators: tuple[Any, ...]


def snapshot(state: TrainState, model: nn.Module | None = None) -> Snapshot:
    """Copy everything that a training depends on; the training goes on as if nothing had happened.

    Args:
        model: the whole network, where ``state.model`` is a part of it.
    """
    whole = state.model if model is None else model
    tensors, values = captured(state, whole)
    return Snapshot(
        tensors={name: value.detach().clone(memory_format=torch.preserve_format) for name, value in tensors.items()},
        values=copy.deepcopy(values),
        pace=state.pace,
        gradients=tuple(None if p.grad is None else p.grad.clone() for p in whole.parameters()),
        trainable=tuple(p.requires_grad for p in whole.parameters()),
        flags=tuple(module.training for module in whole.modules()),
        rates=tuple(tuple(group["lr"] for group in optimizer.param_groups) for optimizer in state.optimizers),
        generators=tuple(read() for read, _ in GENERATORS),
    )


@contextmanager
def forked(state: TrainState, start: Snapshot | None = None, model: nn.Module | None = None) -> Iterator[TrainState]:
    """Train a branch inside of the block; afterwards the training is what it was before, to the bit.

    Weights, buffers, the average, optimizer states, gradients, rates, train flags, counters and the states of all
    random generators are given back, so that the weights in the end are those of a training without the fork.

    Args:
        start: an earlier moment that the branch starts from; now, when None.
        model: the whole network, where ``state.model`` is a part of it.
    """
    before = snapshot(state, model)
    try:
        if start is not None:
            put_back(state, start, model)
        yield state
    finally:
        put_back(state, before, model)


@torch.no_grad()
def put_back(state: TrainState, kept: Snapshot, model: nn.Module | None = None) -> None:
    """Make a training what it was when the snapshot was taken, random generators included."""
    whole = state.model if model is None else model
    restore(state, whole, kept.tensors, kept.values)
    state.pace = kept.pace
    for parameter, gradient, trainable in zip(whole.parameters(), kept.gradients, kept.trainable, strict=True):
        parameter.requires_grad_(trainable)
        parameter.grad = None if gradient is None else gradient.clone()
    for module, flag in zip(whole.modules(), kept.flags, strict=True):
        module.training = flag
    for optimizer, rates in zip(state.optimizers, kept.rates, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
    for (_, write), generator in zip(GENERATORS, kept.generators, strict=True):
        write(generator)


def _copy_into(model: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    stored = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if own.keys() != stored.keys() or any(own[name].shape != value.shape for name, value in stored.items()):
        raise RunError("The stored weights are of another network than the recipe builds: resume it where it was made.")
    for name, value in stored.items():
        own[name].copy_(value)


def _parameters(state: TrainState) -> dict[str, tuple[torch.optim.Optimizer, nn.Parameter]]:
    """What the optimizers change, by the number of the optimizer and of the parameter in it."""
    return {
        f"{number}.{index}": (optimizer, parameter)
        for number, optimizer in enumerate(state.optimizers)
        for index, parameter in enumerate(p for group in optimizer.param_groups for p in group["params"])
    }


def _generator(device: torch.device) -> tuple[Any, tuple[torch.device, ...]]:
    """The module with the generator that dropout draws from, and what its functions want to be told."""
    if device.type == "cuda":
        return torch.cuda, (device,)
    return (torch.mps if device.type == "mps" else torch), ()
