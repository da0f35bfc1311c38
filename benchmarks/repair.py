"""What does `train --heal` win back? Sick recipes in hubel's own loop, against healthy ones and random search.

    python benchmarks/repair.py --rows repair.jsonl --output benchmarks/results/repair.json

For each fault and seed, one budget of epochs: the healthy recipe, the sick one, the sick one with --heal, and, for the
same number of steps, two recipes drawn by chance, of which validation chooses. Regained is what lies between sick and
healthy; where a fault does less harm than ten points, it says nothing and isn't counted.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, versions, write
from torch import nn

import hubel
from hubel.doctor import planting as p
from hubel.doctor import specimens
from hubel.errors import RunError
from hubel.events import EpochRow, Note
from hubel.jobs.recipe import Recipe, with_settings

Plant = Callable[[nn.Module], Any]
STARTS: dict[str, tuple[Callable[..., nn.Module], Plant]] = {  # how a network of the user's own may begin
    "constant-start": (specimens.two_blocks, lambda model: p.filled(model, 0.05)),
    "bad-head-start": (specimens.plain, lambda model: p.of(model, nn.Linear)[-1].weight.data.mul_(60)),
    "dead-channels": (specimens.plain, lambda model: p.biased(model, -5.0)),
    "saturation": (partial(specimens.plain, act=nn.Tanh), lambda model: specimens.he(model, 10)),
    "vanishing": (specimens.plain, lambda model: specimens.he(model, 0.02)),
    "exploding": (specimens.plain, lambda model: specimens.he(model, 12)),
}
SGD = {"optimizer": "sgd", "schedule": "constant", "lr": 0.05, "momentum": 0.9, "model": "two-block"}
SICK: dict[str, dict[str, Any]] = {
    "rate-too-low": {"lr": 1e-6},
    "rate-too-high": {"lr": 30.0},
    "oscillation": {"momentum": 0.995, "lr": 0.2},
    "over-regularised": {"weight_decay": 3.0},
    "over-regularised-dropout": {"dropout": 0.97},
    "destructive-augmentation": {"augment": "zoom=0.01,erase=1,rotate=180"},
}


def trained(data: str, code: Any = None, **settings: Any) -> tuple[float, float, list[str], float]:
    """Validation and test accuracy, what was healed, and seconds; a training that is lost is right in nothing."""
    events, began = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        try:
            recipe = with_settings(Recipe(), settings)
            events += hubel.training(data, recipe, output=output, code=code, report=False)
            accuracy = hubel.Run(output).scores.accuracy
        except RunError:
            accuracy = 0.0
    best = max((event.val_accuracy for event in events if isinstance(event, EpochRow)), default=0.0)
    notes = [event.text for event in events if isinstance(event, Note) and event.text.startswith(("Healed", "The rem"))]
    return best if accuracy else 0.0, accuracy, notes, time.perf_counter() - began


def _made(build: Callable[..., nn.Module], change: Plant) -> Callable[..., nn.Module]:
    def mine(channels: int = 1, classes: int = 10) -> nn.Module:
        model = build(channels, classes)
        change(model)
        return model

    return mine


def drawn(rng: random.Random, fault: str) -> dict[str, Any]:
    """A recipe by chance; dropout only where the network has one."""
    more = {} if fault in STARTS else {"dropout": rng.choice([0.0, 0.3, 0.6, 0.9])}
    return {
        **more,
        "lr": 10 ** rng.uniform(-5, 1),
        "momentum": rng.choice([0.0, 0.9, 0.99]),
        "weight_decay": 10 ** rng.uniform(-5, 0),
        "augment": rng.choice(["none", "small", "strong"]),
    }


def cell(fault: str, seed: int, data: str, epochs: int) -> dict[str, Any]:
    """One fault, four ways."""
    settings = {**SGD, "weights": "none", "epochs": epochs, "batch_size": 32, "seed": seed}
    sick, base = {**settings, **SICK.get(fault, {})}, settings
    codes: dict[str, Any] = {"well": None, "ill": None}
    if fault in STARTS:
        build, plant = STARTS[fault]
        sick = base = {**sick, "model": "mine"}
        codes = {"well": _made(build, specimens.he), "ill": _made(build, plant)}
    rng = random.Random(f"{fault} {seed}")
    well, ill = trained(data, codes["well"], **base), trained(data, codes["ill"], **sick)
    healed = trained(data, codes["ill"], **sick, heal=True)
    tries = [trained(data, codes["ill"], **{**sick, **drawn(rng, fault), "epochs": epochs // 2}) for _ in range(2)]
    chosen = max(tries, key=lambda each: each[0])
    return {
        "fault": fault,
        "seed": seed,
        "healthy": round(well[1], 4),
        "sick": round(ill[1], 4),
        "healed": round(healed[1], 4),
        "random": round(chosen[1], 4),
        "notes": healed[2],
        "cost": round(healed[3] / well[3], 3),
    }


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How many regain nine tenths, how many are harmed, by fault and in all."""
    harmed = [row for row in rows if row["healthy"] - row["sick"] >= 0.1]

    def regained(row: dict[str, Any], by: str) -> float:
        return float((row[by] - row["sick"]) / (row["healthy"] - row["sick"]))

    return {
        "n": len(rows),
        "harmful_faults": len(harmed),
        "regained_nine_tenths": sum(regained(row, "healed") >= 0.9 for row in harmed),
        "random_search_nine_tenths": sum(regained(row, "random") >= 0.9 for row in harmed),
        "better_than_random_search": sum(row["healed"] >= row["random"] for row in harmed),
        "worse_than_unhealed": sum(row["healed"] < row["sick"] - 0.02 for row in rows),
        "cost": {"median": float(np.median([row["cost"] for row in rows])), "most": max(row["cost"] for row in rows)},
        "by_fault": {
            fault: [
                [row["healthy"], row["sick"], row["healed"], row["random"]] for row in rows if row["fault"] == fault
            ]
            for fault in sorted({row["fault"] for row in rows})
        },
    }


def main() -> None:
    """Run what is missing, then print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("data", nargs="?", default="digits")
    flags.add_argument("--seeds", type=int, default=3)
    flags.add_argument("--epochs", type=int, default=14)
    flags.add_argument("--only", nargs="*")
    flags.add_argument("--rows", type=Path, required=True)
    flags.add_argument("--output", type=Path)
    asked = flags.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in asked.rows.read_text().splitlines()] if asked.rows.exists() else []
    done = {(row["fault"], row["seed"]) for row in rows}
    for seed in range(asked.seeds):
        for fault in asked.only or [*SICK, *STARTS]:
            if (fault, seed) in done:
                continue
            row = cell(fault, seed, asked.data, asked.epochs)
            rows.append(row)
            with asked.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
            print({name: row[name] for name in row if name != "notes"}, *row["notes"], flush=True)
    write(asked.output, {"machine": machine(), "versions": versions(), "data": Path(asked.data).name, **table(rows)})


if __name__ == "__main__":
    main()
