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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hubel.errors import RunError
from hubel.learning.distributed import gathered, rank, summed
from hubel.learning.engine import Tally, TrainState

COUNTERS = ("epoch", "position", "step")


def captured(state: TrainState, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and JSON values that hold the state; with several processes, all of them have to call this.

    Args:
        model: the whole network, of which ``state.model`` may be a part.
    """
    device = next(model.parameters()).device
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    if state.average is not None:
        tensors |= {f"average.{name}": value for name, value in state.average.state_dict().items()}
    strides: dict[str, list[int]] = {}
    for name, value in _optimizer_tensors(state).items():
        tensors[name], strides[name] = value, list(value.stride())
    tensors["random"] = torch.stack(gathered(_random(device)[None].to(device))).squeeze(1)
    tensors["tally"] = summed(state.tally.sums.to(device, copy=True))
    said = {
        **{name: getattr(state, name) for name in COUNTERS},
        "images": state.tally.images,
        "seconds": state.tally.seconds,
        "scaler": state.scaler.state_dict(),
        "strides": strides,
    }
    return tensors, said


@torch.no_grad()
def restore(state: TrainState, model: nn.Module, tensors: Mapping[str, Tensor], said: Mapping[str, Any]) -> None:
    """Put what `captured` returned into a state that was built in the same way.

    Raises:
        RunError: it is of another network or optimizer.
    """
    device = next(model.parameters()).device
    _copy_into(model, "model.", tensors)
    if state.average is not None:
        _copy_into(state.average, "average.", tensors)
    for number, optimizer in enumerate(state.optimizers):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        optimizer.state.clear()
        for name, value in tensors.items():
            if not name.startswith(f"optimizer.{number}."):
                continue
            index, key = name.split(".", 3)[2:]
            if int(index) >= len(parameters):
                raise RunError("The stored optimizer has more parameters than this network: it is of another one.")
            where = device if value.ndim else torch.device("cpu")  # step counts of Adam stay on the processor
            own = torch.empty_strided(value.shape, said["strides"][name], dtype=value.dtype, device=where)
            optimizer.state[parameters[int(index)]][key] = own.copy_(value)
    for counter in COUNTERS:
        setattr(state, counter, said[counter])
    sums = tensors["tally"] if rank() == 0 else torch.zeros_like(tensors["tally"])
    state.tally = Tally(sums=sums.to(device), images=said["images"], seconds=said["seconds"])
    if said["scaler"]:
        state.scaler = torch.amp.GradScaler(device.type)
        state.scaler.load_state_dict(said["scaler"])
    _set_random(tensors["random"][min(rank(), len(tensors["random"]) - 1)], device)


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
    values: dict[str, Any]
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
        generators=_generators(),
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
            _put_back(state, model, start)
        yield state
    finally:
        _put_back(state, model, before)


@torch.no_grad()
def _put_back(state: TrainState, model: nn.Module | None, kept: Snapshot) -> None:
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
    _set_generators(kept.generators)


def _generators() -> tuple[Any, ...]:
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), devices, np.random.get_state(), random.getstate()


def _set_generators(states: tuple[Any, ...]) -> None:
    torch.set_rng_state(states[0])
    if states[1]:
        torch.cuda.set_rng_state_all(states[1])
    np.random.set_state(states[2])
    random.setstate(states[3])


def _copy_into(model: nn.Module, prefix: str, tensors: Mapping[str, Tensor]) -> None:
    own = model.state_dict()
    stored = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if own.keys() != stored.keys() or any(own[name].shape != value.shape for name, value in stored.items()):
        raise RunError("The stored weights are of another network than the recipe builds: resume it where it was made.")
    for name, value in stored.items():
        own[name].copy_(value)


def _optimizer_tensors(state: TrainState) -> dict[str, Tensor]:
    found = {}
    for number, optimizer in enumerate(state.optimizers):
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for index, parameter in enumerate(parameters):
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, Tensor):
                    found[f"optimizer.{number}.{index}.{key}"] = value
    return found


def _random(device: torch.device) -> Tensor:
    """The state of the generator that dropout draws from, (n,) uint8."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    if device.type == "mps":
        return torch.mps.get_rng_state()
    return torch.get_rng_state()


def _set_random(state: Tensor, device: torch.device) -> None:
    state = state.cpu().clone()  # torch 2.15 takes a row of a matrix for its first row, and crashes
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    elif device.type == "mps":
        torch.mps.set_rng_state(state)
    else:
        torch.set_rng_state(state)
