"""Several processes on one training, started by torchrun: who is who, sums over all, and the network they share.

Without torchrun there is one process, and every function here is the identity.
"""

from __future__ import annotations

import datetime
import inspect
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import distributed_c10d as c10d
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from hubel.errors import RunError

SETTING_UP = datetime.timedelta(hours=1)  # processes wait so long for the first one to decode the images and to plan
PATIENCE = datetime.timedelta(seconds=60)  # and so long for each other in a step, before they give one up
ALIVE = 5.0  # seconds after which a process that gave no sign is named


class _Team:
    """The processes of this training; a module has one, since a process belongs to one."""

    group: dist.ProcessGroup | None = None
    store: c10d.Store | None = None
    alone = False  # while the first process does something that the others wait for


def rank() -> int:
    """Number of this process, from 0."""
    return 0 if _Team.group is None or _Team.alone else dist.get_rank()


def world_size() -> int:
    """Number of processes."""
    return 1 if _Team.group is None or _Team.alone else dist.get_world_size()


@contextmanager
def joined() -> Iterator[None]:
    """Join the other processes for a while, where there are any: by NCCL where there are GPUs, by gloo elsewhere.

    Raises:
        RunError: working together failed; it names the process that gave no sign of late.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:  # else torchrun started several
        yield
        return
    given, number, count = next(rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")  # the addresses of those that died are in the store yet
    store = c10d.PrefixStore(f"hubel/{attempt}", given)
    store.set_timeout(SETTING_UP)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=SETTING_UP)
    group = dist.new_group(timeout=PATIENCE)
    assert isinstance(group, dist.ProcessGroup)
    store.set_timeout(PATIENCE)
    _Team.store, _Team.group = store, group
    failed = False
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        failed = True
        what = str(error).splitlines()[0][:200]
        raise RunError(
            f"Of the {world_size()} processes, {lost()} died or hangs ({what}): look at its output; the state up to a "
            "short while ago is kept, and hubel resume RUN, started by torchrun in the same way, goes on."
        ) from error
    finally:
        _Team.store = _Team.group = None
        if not failed:  # taking leave of a process that hangs would hang
            dist.destroy_process_group()


@contextmanager
def alone() -> Iterator[None]:
    """Let the first process do something as if it were the only one."""
    _Team.alone = True
    try:
        yield
    finally:
        _Team.alone = False


def wait_for_all() -> None:
    """Wait until every process has come here, for up to an hour."""
    if world_size() > 1:
        dist.barrier()


def from_first(text: str | None) -> str:
    """Return the first process's text in all of them."""
    content = [text or ""]
    if world_size() > 1:
        dist.broadcast_object_list(content, 0, device=torch.device("cpu"))
    return content[0]


def summed(value: Tensor) -> Tensor:
    """Sum a tensor over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(value, group=_Team.group)
    return value


def largest(values: list[float]) -> list[float]:
    """Return the largest of each number over all processes: what one of them asks for, all of them do."""
    if world_size() == 1 or _Team.store is None:
        return values
    _Team.store.set(f"alive/{rank()}", str(time.time()))
    tensor = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=_Team.group)
    return [float(v) for v in tensor.tolist()]


def lost() -> str:
    """Say which processes gave no sign of late; for the message when working together has failed."""
    time.sleep(ALIVE)
    silent: list[int] = []
    asking = threading.Thread(target=lambda: silent.extend(_silent()), daemon=True)
    asking.start()
    asking.join(ALIVE)
    if asking.is_alive():  # the first process keeps the store, and hangs itself
        return "process 0"
    return f"process {' and '.join(map(str, silent))}" if silent else "a process"


def _silent() -> list[int]:
    """Ask the store which of the others gave no sign; where nobody answers, the first process is gone itself."""
    try:
        assert _Team.store is not None
        keys = {number: f"alive/{number}" for number in range(world_size()) if number != rank()}
        came = {number: _Team.store.check([key]) and float(_Team.store.get(key)) for number, key in keys.items()}
        return [number for number, when in came.items() if not when or time.time() - when > ALIVE]
    except (RuntimeError, AssertionError):
        return [0]


def gathered(part: Tensor) -> list[Tensor]:
    """Return the tensors of all processes, in their order; they may differ in length."""
    if world_size() == 1:
        return [part]
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, part.cpu().clone(), group=_Team.group)  # a clone, as a view would send its whole
    return [tensor.to(part.device) for tensor in parts]


def same_buffers(model: nn.Module) -> None:
    """Give every process the first one's buffers: each measured the statistics of its own part of the images."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0, group=_Team.group)


def wrapped(model: nn.Module, *, sync_norm: bool) -> nn.Module:
    """Return the network as the loop calls it: with several processes, gradients become the mean over all.

    Args:
        sync_norm: let batch norms take their statistics over all processes (GPUs only).
    """
    if world_size() == 1:
        return model
    if sync_norm:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    device = next(model.parameters()).device
    devices = [device.index] if device.type == "cuda" else None
    renamed = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters  # by torch 2.15
    options: dict[str, Any] = {"forward_sync_buffers" if renamed else "broadcast_buffers": False}
    return DistributedDataParallel(model, device_ids=devices, process_group=_Team.group, **options)
