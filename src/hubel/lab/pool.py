"""Work in several processes on this machine, or on the workers of a Ray cluster; one that dies is replaced."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from hubel.errors import UsageError

T = TypeVar("T")
R = TypeVar("R")
ATTEMPTS = 3  # at a task whose process is killed
NEED = 2 << 30  # bytes of memory that a training takes, roughly
KILLED = f"its process was killed {ATTEMPTS} times, perhaps since the memory was full"
RAY = "ray"


def workers_and_threads(tasks: int, workers: int | None) -> tuple[int, int]:
    """How many processes work side by side, and how many threads each has: these follow from cores and tasks alone.

    A training's weights depend on the number of threads, and so must not depend on that of the workers.
    """
    import torch

    from hubel.jobs.hardware import memory_of

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        return workers or 1, cores
    beside = max(1, min(tasks, cores))
    return workers or max(1, int(min(beside, memory_of(torch.device("cpu")) // NEED))), cores // beside


def spread(
    work: Callable[[T], R], tasks: Sequence[T], *, workers: int, threads: int, on: str = "here"
) -> Iterator[tuple[T, R | str]]:
    """Yield each task with its result, or with a sentence on what killed its process, as they are ready.

    Args:
        on: ``here``; ``ray``, a cluster of this machine; or the address of one.

    Raises:
        UsageError: Ray is not installed or not there.
    """
    if on != "here":
        yield from _on_ray(work, tasks, workers, threads, on)
    elif workers == 1:
        for task in tasks:
            yield task, with_threads(work, task, threads)
    else:
        yield from _here(work, tasks, workers, threads)


def _here(work: Callable[[T], R], tasks: Sequence[T], workers: int, threads: int) -> Iterator[tuple[T, R | str]]:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    left, failures = list(range(len(tasks))), 0
    while left:
        with parallel_config("loky", inner_max_num_threads=threads):
            results = Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1, pre_dispatch=workers)(
                delayed(_numbered)(number, work, tasks[number], threads) for number in left
            )
        try:
            for number, result in results:
                left.remove(number)
                failures = 0
                yield tasks[number], result
        except TerminatedWorkerError:  # and with it the others were ended: they go on from their last state
            failures += 1
            if failures == ATTEMPTS:
                for number in left[:workers]:
                    yield tasks[number], KILLED
                left, failures = left[workers:], 0
        finally:
            results.close()


def _numbered(number: int, work: Callable[[T], R], task: T, threads: int) -> tuple[int, R]:
    return number, with_threads(work, task, threads)


def with_threads(work: Callable[[T], R], task: T, threads: int) -> R:
    """Do a task here, with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return work(task)
    finally:
        torch.set_num_threads(before)


def _on_ray(
    work: Callable[[T], R], tasks: Sequence[T], workers: int, threads: int, on: str
) -> Iterator[tuple[T, R | str]]:
    try:
        import ray
    except ImportError as error:
        raise UsageError("--on needs the package ray: pip install 'hubel[ray]'.") from error
    import torch

    if on != RAY:
        _reach(on)
    own: dict[str, Any] = {"num_cpus": workers * threads} if on == RAY else {"address": on}
    if not ray.is_initialized():
        try:
            ray.init(**own, log_to_driver=False, include_dashboard=False if on == RAY else None)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UsageError(f"--on {on}: there is no Ray cluster ({str(error).splitlines()[0]}).") from error
    graphics = {"num_gpus": 1} if torch.cuda.is_available() else {}
    remote = ray.remote(num_cpus=threads, max_retries=ATTEMPTS - 1, **graphics)(with_threads)
    begun = {remote.remote(work, task, threads): task for task in tasks}
    try:
        while begun:
            (ready, *_), _ = ray.wait(list(begun), num_returns=1)
            task = begun.pop(ready)
            try:
                yield task, ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.as_instanceof_cause() from error
            except ray.exceptions.RayError:
                yield task, KILLED
    finally:
        for running in begun:
            ray.cancel(running, force=True)
        if on == RAY:
            ray.shutdown()


def _reach(address: str) -> None:
    """Look whether anything answers at an address: Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(
            f"--on {address}: no Ray cluster answers there; expected ray, or HOST:PORT ({error})."
        ) from error
