"""The device, its best number format, how fast it really trains, and what else a run was made with."""

from __future__ import annotations

import ctypes
import importlib.metadata
import math
import mmap
import os
import platform
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hubel
from hubel.dataset.loader import Loader
from hubel.errors import UsageError
from hubel.events import Step
from hubel.learning.config import Precision, TrainConfig
from hubel.learning.engine import TrainState, fit
from hubel.nn.dry_run import activations

WARM_UP = 2  # steps before the clock counts: the first ones choose kernels and fill caches
LEAST = 0.4  # seconds and
STEPS = 3  # steps that a measurement takes at least
MMAP_THRESHOLD, TRIM_THRESHOLD, MOST = -3, -1, 2**31 - 1  # of glibc's mallopt
COPIES = 48  # bytes that a number of a batch's images takes while they are changed (11 GB for 16 of 2048 pixels)
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors", "scikit-learn")
AHEAD, HUGE_PAGE = 2**31 - 2**27, 2**21  # bytes of the heap that are asked for in huge pages, and one of these


def find_device(name: str) -> torch.device:
    """Turn auto, cpu, cuda, cuda:N or mps into a device that is there.

    Raises:
        UsageError: no such device on this machine.
    """
    if name in ("auto", "cuda") and torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
        torch.cuda.set_device(device)
        return device
    if name == "auto":
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError(f"nothing is trained on {name}")
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"The device {name!r} is not there: use auto, cpu, cuda, cuda:N or mps.") from error
    return device


def check_memory(model: nn.Module, shape: tuple[int, int, int], batch: int, device: torch.device) -> None:
    """Refuse a training that can't fit into the memory, from shapes alone and before anything is made.

    At least weights, gradients, momentum and the best weights are needed in float32; `COPIES` of the images; for the
    backward pass half of the layers' outputs at two bytes a number (the other half is written in place).

    Args:
        model: may be without numbers. shape: (C, H, W) of the images.

    Raises:
        UsageError: it says what it would need.
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    needed, there = 16 * weights + COPIES * batch * math.prod(shape), memory_of(device)
    if needed <= there:  # or else the dry run itself would take long
        needed += batch * activations(model, shape)
    if needed > there:
        raise UsageError(
            f"A step on {batch} images of {shape[1]}x{shape[2]} pixels with {weights:,} weights takes at least "
            f"{needed / 2**30:,.0f} GiB of memory, {device.type} has {there / 2**30:,.0f}: lower --size, --width or "
            "--batch-size."
        )


def memory_of(device: torch.device) -> float:
    """Bytes of the device, or of the processor as far as this process may use them."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    limit = Path("/sys/fs/cgroup/memory.max")
    allowed = limit.read_text().strip() if limit.is_file() else "max"
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else math.inf
    return min(pages, math.inf if allowed == "max" else float(allowed))


def keep_freed_memory() -> None:
    """Let the C library keep the memory that tensors free, for the next step; without effect but on Linux's glibc.

    By default it returns each large block to the system, which then clears 60,000 pages anew in a step of ResNet-18: a
    seventh of the step's time. What the heap grows by next comes in huge pages, whose addresses are found faster: a
    step is 4 % shorter, and no memory is taken that isn't used. What was freed before goes back to the system first.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if not hasattr(library, "mallopt"):
        return
    assert library is not None
    library.malloc_trim(0)
    library.mallopt(MMAP_THRESHOLD, MOST)
    library.mallopt(TRIM_THRESHOLD, MOST)
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    library.madvise.argtypes, library.free.argtypes = (
        [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int],
        [ctypes.c_void_p],
    )
    if block := library.malloc(AHEAD):
        first = -(-block // HUGE_PAGE) * HUGE_PAGE
        library.madvise(first, (block + AHEAD - first) // HUGE_PAGE * HUGE_PAGE, mmap.MADV_HUGEPAGE)
        library.free(block)


def best_precision(device: torch.device) -> Precision:
    """Return the number format that the device multiplies fastest and that trains well."""
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return "bfloat16"
    return "float32"


def step_seconds(state: TrainState, loader: Loader, config: TrainConfig, size: int) -> float:
    """Measure one optimizer step in seconds, augmentation included: the median over steps of the real loop.

    The given state is trained along; hand in a throwaway.
    """
    steady = replace(config, epochs=1_000_000, schedule="constant", warmup=0.0, small_first=1.0, lr=1e-6)
    taken: list[float] = []
    began = 0.0
    for event in fit(state, loader, steady, size=size):
        if not isinstance(event, Step):
            continue
        event.loss.item()  # wait for the device
        now = time.perf_counter()
        if event.step > WARM_UP:
            taken.append(now - began)
        began = now
        if len(taken) >= STEPS and sum(taken) >= LEAST:
            break
    return sorted(taken)[len(taken) // 2]


def environment(device: torch.device) -> dict[str, Any]:
    """Return versions, processor, threads and the device's name."""
    return {
        "hubel": hubel.__version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _processor() -> str:
    if sys.platform == "linux":
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
