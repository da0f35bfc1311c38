"""What does watching cost? A plain loop with and without `hubel.doctor.watch`, in turns, on made images.

    python benchmarks/doctor_cost.py [--pairs 4] [--output benchmarks/results/doctor_cost.json]

SimpleCNN on 32 pixels as courses train it, and ResNet-18 on 128 pixels; weights are compared by SHA-256.
"""

from __future__ import annotations

import argparse
import time
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

LOOPS = {"simple-cnn, 32 px": ("simple-cnn", 32, 64, 400), "resnet18, 128 px": ("resnet18", 128, 32, 30)}


def trained(network: str, side: int, batch: int, steps: int, *, watching: bool) -> tuple[float, str]:
    """Seconds of so many steps, with an evaluation after each third, and the digest of the weights."""
    torch.manual_seed(0)
    images, labels = torch.randn(batch * 20, 3, side, side), torch.randint(10, (batch * 20,))
    model = build(network, classes=10, size=(side, side))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    began = time.perf_counter()
    watched = hubel.doctor.watch(model, optimizer, tell=lambda _finding: None) if watching else nullcontext()
    with watched:
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
    return time.perf_counter() - began, hubel.digest(model)


def main() -> None:
    """Run the pairs, and print ratios."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--pairs", type=int, default=4)
    flags.add_argument("--only", nargs="*", default=list(LOOPS))
    flags.add_argument("--output", type=Path)
    asked = flags.parse_args()
    result: dict[str, Any] = {}
    for name in asked.only:
        network, side, batch, steps = LOOPS[name]
        trained(network, side, batch, 3, watching=False)
        ratios, digests, seconds = [], set(), []
        for pair in range(asked.pairs):
            order = (True, False) if pair % 2 else (False, True)  # neither is always the first
            found = {watching: trained(network, side, batch, steps, watching=watching) for watching in order}
            ratios.append(found[True][0] / found[False][0])
            seconds.append(found[False][0])
            digests |= {found[True][1], found[False][1]}
        result[name] = {
            "steps": steps,
            "seconds": round(float(np.median(seconds)), 1),
            "ratio": round(float(np.median(ratios)), 3),
            "ratios": [round(each, 3) for each in ratios],
            "same_weights": len(digests) == 1,
        }
        print(name, result[name], flush=True)
    write(asked.output, {"machine": machine(), "versions": versions(), "loops": result})


if __name__ == "__main__":
    main()
