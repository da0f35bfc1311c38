"""What does watching cost? The same plain loop with and without `hubel.doctor.watch`, on made images.

    python benchmarks/doctor_cost.py [--pairs 4] [--output benchmarks/results/doctor_cost.json]

Both loops of a pair run at once and take turns, a few steps each, since a machine's speed changes from one minute to
the next by more than what is measured. SimpleCNN on 32 pixels as courses train it, and ResNet-18 on 128 pixels; weights
are compared by SHA-256.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measuring import machine, versions, write

import hubel
import hubel.doctor
from hubel.nn.zoo import build

LOOPS = {"simple-cnn, 32 px": ("simple-cnn", 32, 64, 2000, 20), "resnet18, 128 px": ("resnet18", 128, 32, 90, 3)}


def loop(network: str, side: int, batch: int, steps: int, *, watching: bool) -> Generator[None, None, str]:
    """Train, with an evaluation after each third; yields after each step, returns the digest of the weights."""
    torch.manual_seed(0)
    images, labels = torch.randn(batch * 20, 3, side, side), torch.randint(10, (batch * 20,))
    model = build(network, classes=10, size=(side, side))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    with hubel.doctor.watch(model, optimizer, tell=lambda _finding: None) if watching else nullcontext():
        for step in range(steps):
            model.train()
            part = slice(step % 20 * batch, (step % 20 + 1) * batch)
            optimizer.zero_grad()
            F.cross_entropy(model(images[part]), labels[part]).backward()
            optimizer.step()
            if (step + 1) % (steps // 3) == 0:
                model.eval()
                with torch.no_grad():
                    for chunk in images[: 4 * batch].split(batch):
                        model(chunk)
            yield
    return hubel.digest(model)


def pair(network: str, side: int, batch: int, steps: int, turn: int) -> tuple[dict[bool, list[float]], dict[bool, str]]:
    """Seconds of the first and the second half, and digests, by whether the loop was watched.

    Each has random numbers of its own.
    """
    loops = {watching: loop(network, side, batch, steps, watching=watching) for watching in (False, True)}
    random, digests = dict.fromkeys(loops, torch.get_rng_state()), {}
    seconds = {watching: [0.0, 0.0] for watching in loops}
    turns = 0
    while loops:
        turns += 1
        for watching in sorted(loops, reverse=bool(turns % 2)):  # neither is always the first
            torch.set_rng_state(random[watching])
            began = time.perf_counter()
            try:
                for _ in range(turn):
                    next(loops[watching])
            except StopIteration as ended:
                digests[watching] = ended.value
                del loops[watching]
            seconds[watching][2 * turn * turns > steps] += time.perf_counter() - began
            random[watching] = torch.get_rng_state()
    return seconds, digests


def main() -> None:
    """Run the pairs, and print ratios."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--pairs", type=int, default=4)
    flags.add_argument("--only", nargs="*", default=list(LOOPS))
    flags.add_argument("--output", type=Path)
    asked = flags.parse_args()
    result: dict[str, Any] = {}
    for name in asked.only:
        ratios, late, same, plain = [], [], [], []
        for _ in range(asked.pairs):
            seconds, digests = pair(*LOOPS[name])
            ratios.append(sum(seconds[True]) / sum(seconds[False]))
            late.append(seconds[True][1] / seconds[False][1])
            plain.append(sum(seconds[False]))
            same.append(digests[True] == digests[False])
            print(name, round(ratios[-1], 4), round(late[-1], 4), round(plain[-1], 1), flush=True)
        result[name] = {
            "steps": LOOPS[name][3],
            "seconds": round(float(np.median(plain)), 1),
            "ratio": round(float(np.median(ratios)), 3),
            "ratios": [round(each, 3) for each in ratios],
            "second_half": [round(each, 3) for each in late],
            "same_weights": all(same),
        }
    write(asked.output, {"machine": machine(), "versions": versions(), "loops": result})


if __name__ == "__main__":
    main()
