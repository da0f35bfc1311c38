"""Everything that training depends on, as tensors and JSON, and back again to the bit.

Weights, buffers, the average, optimizer state, random state, counters, and the sums of the epoch that is going on.
The order of images is a function of (seed, epoch) and their random changes of (seed, epoch, image), so that a position
is all that the loader needs. Tensors of the network are copied into those of a freshly built one; the optimizers' are
made anew with the strides that they had, since kernels chosen by strides add in another order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
