"""What every benchmark says beside its figures: hardware, versions, the speed of a matrix product, medians and spread.

    python benchmarks/measuring.py

Imports nothing of hubel, so that the peers' Python can run it too.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "torchvision", "timm", "fastai", "lightning", "numpy", "pillow")
ENOUGH = 20.0  # seconds for the products of one number format


def machine() -> dict[str, Any]:
    """Name the processor, its cores, the memory, and the versions of Python and torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": models[0] if models else platform.processor(),
        "bf16": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in flags],
        "cores": cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def cores() -> int:
    """Count the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@functools.cache  # peers ask at every step
def computes_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16; others imitate it, three hundred times slower than float32."""
    return bool(machine()["bf16"])


def versions() -> dict[str, str]:
    """Name the versions of those packages that this Python has."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def summary(values: Sequence[float], digits: int = 3) -> dict[str, Any]:
    """Median, smallest, largest and number of some values."""
    return {
        "median": round(statistics.median(values), digits),
        "least": round(min(values), digits),
        "most": round(max(values), digits),
        "n": len(values),
    }


def matrix_gflops(side: int = 2048, repeats: int = 15) -> dict[str, float]:
    """Median GFLOP/s of the product of two square matrices, in float32 and, where it isn't imitated, bfloat16."""
    import torch

    found: dict[str, float] = {}
    for dtype in (torch.float32, torch.bfloat16)[: 1 + computes_bfloat16()]:
        a, b = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
        taken: list[float] = []
        while len(taken) < 3 + repeats and sum(taken) < ENOUGH:
            began = time.perf_counter()
            a @ b
            taken.append(time.perf_counter() - began)
        speed = 2 * side**3 / statistics.median(taken[3:] or taken) / 1e9
        found[str(dtype).removeprefix("torch.")] = round(speed, 0 if speed > 10 else 2)
    return found


def training_flops(model: Any, size: int) -> float:
    """Floating-point operations of forward and backward for one RGB image of `size` pixels a side, by torch's count."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(2, 3, size, size, device=next(model.parameters()).device)
    with FlopCounterMode(display=False) as counter:
        model.train()(images).sum().backward()
    return float(counter.get_total_flops()) / 2


def environment(**more: str) -> dict[str, str]:
    """The environment of a process that is measured: bytecode is cached, on all sides, as it is by default."""
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}, **more}


def said(text: str) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects among the lines of a process's output."""
    for line in text.splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def write(output: Path | None, result: dict[str, Any]) -> None:
    """Print a result, and write it where asked."""
    print(json.dumps(result, indent=1), flush=True)
    if output is not None:
        output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    write(None, {"machine": machine(), "versions": versions(), "matrix_gflops": matrix_gflops()})
    sys.exit(0)
