"""`hubel train FOLDER --minutes M` over seeds, as a user would call it: accuracy and wall time from start to exit.

    python benchmarks/minutes.py DATA/cifar10=5 DATA/fashion-mnist=3 --seeds 3 --output benchmarks/results/minutes.json
    python benchmarks/minutes.py DATA/photos=3 --flags "--model resnet18 --weights imagenet"

Each run is a process of its own, one after the other; nothing else should run on the machine. The accuracy is that of
the reported part, which the run reads once; everything is chosen on the validation part.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hubel.jobs.run import Run
from hubel.runs import read_json


def measure(folder: Path, minutes: float, seed: int, more: str = "") -> dict[str, float | int | str]:
    """Train once, and return what the run measured."""
    with tempfile.TemporaryDirectory() as home:
        output = Path(home) / "run"
        flags = ["--minutes", f"{minutes:g}", "--seed", str(seed), "--output", str(output)]
        flags += shlex.split(more)
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "hubel", "train", str(folder), *flags], check=True)
        seconds = time.monotonic() - began
        run = Run(output)
        card = read_json(output / "model" / "config.json")["hubel"]
        return {
            "data": folder.name,
            "minutes": minutes,
            "seed": seed,
            "flags": more,
            "accuracy": run.scores.accuracy,
            "n": run.scores.n,
            "val_accuracy": card["metrics"]["val_accuracy"],
            "baseline": run.baselines.logistic or run.baselines.majority,
            "width": card["arguments"].get("width", 0),
            "seconds": round(seconds, 1),
        }


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("tasks", nargs="+", metavar="FOLDER=MINUTES")
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--flags", default="", help="more flags of hubel train, in one string")
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    rows = []
    for task in given.tasks:
        folder, minutes = task.rsplit("=", 1)
        for seed in range(given.seeds):
            rows.append(measure(Path(folder), float(minutes), seed, given.flags))
            print(json.dumps(rows[-1]), flush=True)
            if given.output:
                given.output.write_text(json.dumps(rows, indent=1) + "\n")
    print("\n| data | minutes | accuracy, mean ± sd (n seeds) | least | logistic on pixels | seconds |")
    print("|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["data"] for row in rows):
        group = [row for row in rows if row["data"] == name]
        accuracies = [float(row["accuracy"]) for row in group]
        spread = statistics.stdev(accuracies) if len(group) > 1 else 0.0
        seconds = ", ".join(str(row["seconds"]) for row in group)
        print(
            f"| {name} | {group[0]['minutes']:g} | {statistics.mean(accuracies):.2%} ± {spread:.2%} ({len(group)}) "
            f"| {min(accuracies):.2%} | {statistics.mean(float(r['baseline']) for r in group):.1%} | {seconds} |"
        )


if __name__ == "__main__":
    main()
