"""Do all exercises in full, one after the other, and write exercises.json: results, n, seconds, machine.

python examples/run_all.py --sign-digits FOLDER --weights resnet56-cifar10.safetensors --model resnet56

What is finished is not done again, and what was interrupted goes on. Each exercise says in log.txt what it does.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hubel.jobs.hardware import environment, find_device

HERE = Path(__file__).parent
SETS = ("cifar10", "fashion-mnist", "sign-digits", "imagenette")
DATA = {  # of each exercise
    **dict.fromkeys(("x1_cifar10", "x7_augmentation", "x2_variants", "x3_filters", "x9_questions"), "cifar10"),
    **{
        "x5_signs": "sign-digits",
        "x6_fashion": "fashion-mnist",
        "x4_gradcam": "imagenette",
        "x8_finetune": "imagenette",
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", default=sorted(DATA), help="which ones, in this order (default: all)")
    parser.add_argument("--output", type=Path, default=Path("runs/exercises"), help="folder of all results")
    parser.add_argument("--short", action="store_true", help="a few seconds each, to see that they run")
    for name in SETS:
        parser.add_argument(f"--{name}", default=name, help="folder, table or name of the set")
    for name, default in (("model", "resnet18"), ("weights", "imagenet")):
        parser.add_argument(f"--{name}", default=default, help=f"of X8 (default: {default})")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        folder = given.output / name
        source = getattr(given, DATA[name].replace("-", "_"))
        extra = ["--model", given.model, "--weights", given.weights] if name == "x8_finetune" else []
        done = finish(name, folder, [source, *extra, *(["--short"] if given.short else [])])
        print(f"{name}: {'done' if done else 'FAILED, see ' + str(folder / 'log.txt')}", flush=True)
        found = [result(folder) for folder in sorted(given.output.glob("x*")) if (folder / "ended.json").exists()]
        (given.output / "exercises.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def finish(name: str, folder: Path, arguments: list[str]) -> bool:
    """Run an exercise unless it was; ended.json says that it ended well, how long its last run took, and where."""
    if (folder / "ended.json").exists():
        return True
    folder.mkdir(exist_ok=True)
    began = time.monotonic()
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments, "--output", str(folder)]
    with (folder / "log.txt").open("a", encoding="utf-8") as log:
        failed = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if not failed:
        ended = {"seconds": round(time.monotonic() - began), "machine": environment(find_device("auto"))}
        (folder / "ended.json").write_text(json.dumps(ended, indent=1), "utf-8")
    return not failed


def result(folder: Path) -> dict[str, Any]:
    """What an exercise found, how long it took and on which machine."""
    with (folder / "results.csv").open(encoding="utf-8", newline="") as table:
        rows = [{name: number(text) for name, text in row.items()} for row in csv.DictReader(table)]
    return {"exercise": folder.name, "results": rows, **json.loads((folder / "ended.json").read_text("utf-8"))}


def number(text: str) -> int | float | str:
    """What a cell of a table means."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


if __name__ == "__main__":
    main()
