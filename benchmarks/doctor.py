"""Does the doctor see planted faults, name the cause first, and stay silent on healthy loops?

    python benchmarks/doctor.py calibration DATA/fashion-mnist --rows calibration.jsonl
    python benchmarks/doctor.py reporting DATA/cifar10 DATA/sign-digits --rows reporting.jsonl \
        --output benchmarks/results/doctor.json

Cells (fault × network × data × severity × seed) are drawn beforehand. Thresholds are set on the calibration part: the
first way of planting, its networks and seeds. The reporting part has the second way, data and seeds that no threshold
has seen, and for half of its networks kinds that none has seen. Rows are kept as they come, so that it can be stopped
and taken up again.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine, versions, write
from torch import Tensor, nn

import doctor_networks as kinds  # isort: skip
from hubel.dataset.find import scan
from hubel.dataset.pack import pack
from hubel.doctor import specimens
from hubel.doctor.faults import FAULTS
from hubel.doctor.healthy import HEALTHY
from hubel.doctor.lesson import Lesson, run
from hubel.events import outcome
from hubel.records import Preprocess

SEEN = [specimens.two_blocks, specimens.plain, specimens.resnet, specimens.gelu, specimens.leaky]
SEEN += [kinds.dropping, kinds.separable, kinds.convnext]
NEW = [kinds.dense, kinds.fire, kinds.excited, kinds.preact]
NETWORKS: dict[str, dict[str, Callable[..., nn.Module]]] = {
    "calibration": {each.__name__: each for each in SEEN},
    "reporting": {each.__name__: each for each in (*NEW, *SEEN[:4])},
}
CODE = ("not-cleared", "evaluation-with-gradients", "train-while-evaluating", "unshuffled", "leak", "raw-inputs")
CODE += ("other-validation", "softmax-twice", "broken-numbers", "growing-memory")
START = ("bad-head-start", "constant-start", "frozen", "detached", "no-activation", "dead-channels", "vanishing")
START += ("saturation", "tiny-batches", "rate-too-low", "rate-too-high", "over-regularised", "schedule")
SEEDS = {"calibration": range(100), "reporting": range(1000, 1100)}
POOL, TRAIN, HELD_OUT = 2000, 1000, 256  # images
LEARNED = 0.16  # accuracy above which ten classes aren't guessed: chance and three standard errors of 256 images
Images = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run: `fault` is a rule's code, two with a plus, or ``healthy:`` and what is odd; `way` 0 is the first."""

    fault: str
    way: int
    network: str
    data: str
    severity: int
    seed: int


def cells(part: str, data: list[str], each: int, healthy: int, pairs: int, draws: int) -> list[Cell]:
    """Draw the cells: `each` of every fault, `healthy` of every healthy kind, `pairs` of faults, in any order."""
    rng, found = random.Random(draws), []
    both = [f"{rng.choice(CODE)}+{rng.choice(START)}" for _ in range(pairs)]
    for name in [*FAULTS, *(f"healthy:{odd}" for odd in HEALTHY), *both]:
        for _ in range(1 if "+" in name else healthy if ":" in name else each):
            network, where = rng.choice(sorted(NETWORKS[part])), rng.choice(data)
            way, severity, seed = int(part == "reporting"), rng.randrange(3), rng.choice(SEEDS[part])
            found.append(Cell(fault=name, way=way, network=network, data=where, severity=severity, seed=seed))
    rng.shuffle(found)
    return found


@cache
def pool(data: str) -> Images:
    """Images (N, C, H, W) in [0, 1] and labels: digits of 12 pixels, others of 14."""
    catalog = scan(data)
    rows = np.random.default_rng(0).permutation(len(catalog.paths))[:POOL]
    grey = data == "digits" or "mnist" in data
    size = 12 if data == "digits" else 14
    preprocess = Preprocess(
        size=(size, size), channels=1 if grey else 3, mean=(0.0,) * (1 if grey else 3), std=(1.0,) * (1 if grey else 3)
    )
    packed = outcome(pack(catalog.root, [catalog.paths[row] for row in rows], preprocess))
    images = torch.from_numpy(np.array(packed.images)).float() / 255
    if images.shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2).contiguous()
    return images, torch.from_numpy(catalog.labels[rows].copy()).long()


def lesson_of(cell: Cell, part: str) -> Lesson:
    """The healthy loop of a cell, normalised by its training images."""
    images, labels = pool(cell.data)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(cell.seed))
    train, held_out = order[HELD_OUT : HELD_OUT + TRAIN], order[:HELD_OUT]
    mean, std = images[train].mean((0, 2, 3), keepdim=True), images[train].std((0, 2, 3), keepdim=True)
    return Lesson(
        network=partial(NETWORKS[part][cell.network], images.shape[1], int(labels.max()) + 1),
        train=(images[train], labels[train]),
        held_out=(images[held_out], labels[held_out]),
        scale=lambda x: (x - mean) / std,
        seed=cell.seed,
    )


def measured(cell: Cell, part: str) -> dict[str, Any]:
    """Run a cell."""
    lesson = lesson_of(cell, part)
    kind, _, odd = cell.fault.partition(":")
    planted = HEALTHY[odd](lesson) if odd else lesson
    for fault in () if odd else reversed(kind.split("+")):  # what builds another network comes first
        planted = FAULTS[fault][cell.way](planted, cell.severity)
    learned = run(planted)
    found = [[finding.code, finding.severity, finding.step] for finding in learned.doctor.said()]
    return {
        **asdict(cell),
        "found": found,
        "words": [finding.message for finding in learned.doctor.said()],
        "accuracy": round(learned.accuracy, 3),
        "seconds": round(learned.seconds, 2),
        "spent": round(learned.doctor.spent, 2),
        "steps": learned.doctor.step,
    }


def wilson(k: int, n: int, z: float = 1.96) -> dict[str, Any]:
    """A share with its 95 % interval."""
    if not n:
        return {"share": None, "n": 0}
    p, half = k / n, z * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n))
    low, high = ((p + z * z / (2 * n) + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {
        "share": round(p, 3),
        "of": f"{k}/{n}",
        "low": round(max(low, 0), 3),
        "high": round(min(high, 1), 3),
        "n": n,
    }


def table(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Detection, ranking, false alarms, and what watching costs."""
    rows = list(rows)
    planted = [row for row in rows if ":" not in row["fault"] and "+" not in row["fault"]]
    pairs = [row for row in rows if "+" in row["fault"]]
    sound = [row for row in rows if row["fault"].startswith("healthy:")]
    healthy = [row for row in sound if row["accuracy"] > LEARNED]  # what learned nothing isn't healthy
    alarms = {
        id(row): [code for code, severity, _ in row["found"] if severity != "note" or code == row["fault"]]
        for row in rows
    }

    def judged(some: list[dict[str, Any]]) -> dict[str, Any]:
        places = [alarms[id(row)].index(row["fault"]) if row["fault"] in alarms[id(row)] else 99 for row in some]
        n, steps = len(places), [step for row in some for code, _, step in row["found"] if code == row["fault"]]
        return {
            "any_finding": wilson(sum(bool(alarms[id(row)]) for row in some), n),
            "cause_found": wilson(sum(place < 99 for place in places), n),
            "first": wilson(sum(place == 0 for place in places), n),
            "in_first_three": wilson(sum(place < 3 for place in places), n),
            "step": [int(np.median(steps)), max(steps)] if steps else None,
        }

    new = {each.__name__ for each in NEW}
    costs = [row["spent"] / max(row["seconds"] - row["spent"], 0.1) for row in rows]
    return {
        "faults": judged(planted),
        "by_kind": {
            name: judged([row for row in planted if (row["network"] in new) == flag])
            for name, flag in (("networks never seen", True), ("networks seen", False))
        },
        "two_faults": {
            "both_in_first_three": wilson(
                sum(set(row["fault"].split("+")) <= set(alarms[id(row)][:3]) for row in pairs), len(pairs)
            ),
            "one_in_first_three": wilson(
                sum(bool(set(row["fault"].split("+")) & set(alarms[id(row)][:3])) for row in pairs), len(pairs)
            ),
        },
        "healthy_that_learned_nothing": len(sound) - len(healthy),
        "healthy_alarmed": wilson(sum(bool(alarms[id(row)]) for row in healthy), len(healthy)),
        "false_alarms": dict(Counter(code for row in healthy for code in alarms[id(row)])),
        "cost": {"median": round(float(np.median(costs)), 3), "most": round(max(costs), 3)} if costs else {},
        "by_fault": {
            name: judged(some) for name in FAULTS if (some := [row for row in planted if row["fault"] == name])
        },
    }


def main() -> None:
    """Run what is missing, then print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("part", choices=list(NETWORKS))
    flags.add_argument("data", nargs="*", help="folders of images")
    flags.add_argument("--each", type=int, default=3, help="cells of every fault")
    flags.add_argument("--healthy", type=int, default=3, help="cells of every healthy kind")
    flags.add_argument("--pairs", type=int, default=0, help="cells of two faults at once")
    flags.add_argument("--draws", type=int, default=0, help="the seed that cells are drawn with")
    flags.add_argument("--only", nargs="*", help="faults, in place of all")
    flags.add_argument("--minutes", type=float, default=240)
    flags.add_argument("--rows", type=Path, required=True)
    flags.add_argument("--output", type=Path)
    asked = flags.parse_args()
    torch.set_num_threads(1)
    data = [*(["digits"] if asked.part == "calibration" or not asked.data else []), *asked.data]
    known = [json.loads(line) for line in asked.rows.read_text().splitlines()] if asked.rows.exists() else []
    done = {tuple(row[name] for name in Cell.__annotations__) for row in known}
    until = time.monotonic() + 60 * asked.minutes
    for cell in cells(asked.part, data, asked.each, asked.healthy, asked.pairs, asked.draws):
        if (asked.only and cell.fault not in asked.only) or tuple(asdict(cell).values()) in done:
            continue
        if time.monotonic() > until:
            break
        row = measured(cell, asked.part)
        known.append(row)
        with asked.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        named = [code for code, severity, _ in row["found"] if severity != "note"]
        print(f"{row['seconds']:5.1f} s {cell.fault:26} {cell.network:11} {named} {row['accuracy']}", file=sys.stderr)
    result = {"part": asked.part, "draws": asked.draws, "data": [Path(each).name for each in data], **table(known)}
    write(asked.output, {"machine": machine(), "versions": versions(), **result})


if __name__ == "__main__":
    main()
