"""P9: two processes under torchrun with one thread each, against one process with one thread: images per second.

    python benchmarks/processes.py DATA/cifar10 --output benchmarks/results/processes.json
    python benchmarks/processes.py DATA/imagenette-2000 --flags "--model resnet18 --size 128 --batch-size 64"

The same data, seed, plan and batch of the whole on both sides, in turn, --rounds times; later epochs count, as their
rows in log.jsonl say. A number of epochs and not of minutes is given, so that both take the same steps. Goal: 1.8
times, which the exit code says. The accuracies are shown beside it: batch norm sees half a batch in each process, so
that they differ a little; that the steps are the same without it is a test (tests/learning/test_distributed.py).
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import environment, machine, summary, versions, write

GOAL = 1.8


def train(given: argparse.Namespace, processes: int, home: Path) -> list[dict[str, Any]]:
    """Train, and return the rows of the epochs."""
    output = home / "run"
    launch = ["-m", "hubel"]
    if processes > 1:
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "hubel"]
    flags = ["--epochs", str(given.epochs), "--output", str(output), "--overwrite", *shlex.split(given.flags)]
    subprocess.run(
        [sys.executable, *launch, "train", given.folder, *flags],
        env=environment(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", HUBEL_CACHE=str(home / "cache")),
        stdout=subprocess.DEVNULL,
        check=True,
    )
    events = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    return [event for event in events if event["event"] == "epoch_row"]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder")
    ask.add_argument("--epochs", type=int, default=3, help="the first one doesn't count")
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--flags", default="--width 64", help="more flags of hubel train, in one string")
    ask.add_argument("--home", help="folder for what comes and goes")
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    speeds: dict[int, list[float]] = {1: [], 2: []}
    accuracies: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(dir=given.home) as home:
        for _ in range(given.rounds):
            for count, found in speeds.items():
                rows = train(given, count, Path(home))
                found.append(statistics.median(row["images_per_second"] for row in rows[1:]))
                accuracies[count].append(rows[-1]["val_accuracy"])
                print(f"{count} processes: {found[-1]:,.0f} images/s", flush=True)
    ratios = [two / one for one, two in zip(speeds[1], speeds[2], strict=True)]
    result = {
        "machine": machine(),
        "versions": versions(),
        "work": {"data": Path(given.folder).name, "flags": given.flags, "epochs": given.epochs},
        "one process, images/s": summary(speeds[1], 1),
        "two processes, images/s": summary(speeds[2], 1),
        "times": summary(ratios, 2),
        "last validation accuracy, one and two": [[round(v, 4) for v in values] for values in accuracies.values()],
    }
    write(given.output, result)
    raise SystemExit(statistics.median(ratios) < GOAL)


if __name__ == "__main__":
    main()
