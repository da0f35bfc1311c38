"""P5: accuracy of plain `hubel train FOLDER --minutes M`, and of what its peers reach in the same minutes.

    python benchmarks/peers.py DATA/cifar10 DATA/imagenette-2000 --peers-python PEERS/bin/python --minutes 3 \\
        --seeds 3 --output benchmarks/results/peers.json

From scratch on all sides; a run is a process of its own, one after the other on an otherwise idle machine, and its
minutes run from start to exit. The peers (`peer_recipes.py`) get the very division of the images that hubel's run with
that seed made, choose their best epoch on the same validation part, and read the reported part once. Exit code 1 where
hubel isn't best on average, or a run took more than a tenth longer than it was given. With --tuned, all start from
the same ImageNet weights instead (`peer_tuned.py`), and logistic regression on their features stands beside.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import environment, machine, said, versions, write
from photos import peers_versions

RECIPES = Path(__file__).with_name("peer_recipes.py")
PEERS = ("fastai", "timm", "course")
TUNED = ("fastai-tuned", "timm-tuned", "features")
MOST = 1.1  # times the minutes


def hubel(folder: Path, minutes: float, seed: int, output: Path) -> dict[str, Any]:
    """Train as a user would, and read what the run says about itself."""
    flags = ["--minutes", f"{minutes:g}", "--seed", str(seed), "--output", str(output)]
    began = time.monotonic()
    subprocess.run(
        [sys.executable, "-m", "hubel", "train", str(folder), *flags],
        env=environment(HUBEL_CACHE=str(output.with_suffix(".cache"))),  # empty: decoding is in the minutes
        stdout=subprocess.DEVNULL,
        check=True,
    )
    seconds = time.monotonic() - began
    scores = json.loads((output / "scores.json").read_text())["scores"]
    card = json.loads((output / "model" / "config.json").read_text())["hubel"]
    epochs = sum('"event": "epoch_row"' in line for line in (output / "log.jsonl").read_text().splitlines())
    found = {"accuracy": scores["accuracy"], "val_accuracy": card["metrics"]["val_accuracy"], "n": scores["n"]}
    return {**found, "epochs": epochs, "seconds": seconds}


def peer(name: str, folder: Path, minutes: float, seed: int, split: Path, python: str) -> dict[str, Any]:
    """Train a peer on the division that is in `split`."""
    began = time.monotonic()
    done = subprocess.run(
        [python, RECIPES, name, folder, split, "--minutes", f"{minutes:g}", "--seed", str(seed), "--began", str(began)],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return {**list(said(done.stdout))[-1], "seconds": time.monotonic() - began}


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folders", nargs="+", type=Path)
    ask.add_argument("--peers-python", required=True, help="a Python with torchvision, timm and fastai")
    ask.add_argument("--minutes", type=float, default=3.0)
    ask.add_argument("--seeds", type=int, default=3)
    ask.add_argument("--sides", nargs="+", choices=["hubel", *PEERS, *TUNED])
    ask.add_argument("--tuned", action="store_true")
    ask.add_argument("--home", help="folder for what comes and goes")
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    given.sides = given.sides or ["hubel", *(TUNED if given.tuned else PEERS)]
    rows: list[dict[str, Any]] = []
    result: dict[str, Any] = {
        "machine": machine(),
        "versions": {"hubel": versions(), "peers": peers_versions(given.peers_python)},
        "minutes": given.minutes,
        "runs": rows,
    }
    with tempfile.TemporaryDirectory(dir=given.home) as home:
        if given.tuned:
            os.environ["HUBEL_TUNED_WEIGHTS"] = str(lite0(Path(home) / "lite0.safetensors"))
        for folder in given.folders:
            for seed in range(given.seeds):
                output = Path(home) / f"{folder.name}-{seed}"
                for side in ["hubel", *[side for side in given.sides if side != "hubel"]]:
                    if side == "hubel":
                        made = hubel(folder, given.minutes, seed, output)
                    else:
                        made = peer(side, folder, given.minutes, seed, output / "split.json", given.peers_python)
                    rows.append({"data": folder.name, "side": side, "seed": seed, **made})
                    rows[-1]["seconds"] = round(rows[-1]["seconds"], 1)
                    print(json.dumps(rows[-1]), flush=True)
                    if given.output:
                        given.output.write_text(json.dumps(result, indent=1) + "\n")
                shutil.rmtree(output)
                shutil.rmtree(output.with_suffix(".cache"))
    result["accuracy, mean and sd"] = means(rows)
    write(given.output, result)
    late = [row for row in rows if row["side"] == "hubel" and row["seconds"] > MOST * 60 * given.minutes]
    for row in late:
        print(f"TOO LATE: {row}", file=sys.stderr)
    behind = [data for data, sides in result["accuracy, mean and sd"].items() if next(iter(sides)) != "hubel"]
    if behind:
        print(f"hubel is not best on {', '.join(behind)}", file=sys.stderr)
    raise SystemExit(bool(behind or late))


def lite0(file: Path) -> Path:
    """Write the weights that hubel starts from, numbered in the order of the network."""
    from safetensors.torch import save_file

    from hubel.nn.weights import read_weights

    tensors = read_weights("imagenet", "efficientnet_lite0").state.items()
    kept = [tensor for name, tensor in tensors if not name.endswith("num_batches_tracked")]
    save_file({f"{number:04d}": tensor.contiguous() for number, tensor in enumerate(kept)}, file)
    return file


def means(rows: list[dict[str, Any]]) -> dict[str, dict[str, str]]:
    """For each data set, the sides from best to worst."""
    found: dict[str, dict[str, str]] = {}
    for data in dict.fromkeys(row["data"] for row in rows):
        groups: dict[str, list[float]] = {}
        for row in rows:
            if row["data"] == data:
                groups.setdefault(row["side"], []).append(row["accuracy"])
        ranked = sorted(groups, key=lambda side: -statistics.mean(groups[side]))
        found[data] = {
            side: f"{statistics.mean(groups[side]):.2%} ± {spread(groups[side]):.2%} (n = {len(groups[side])})"
            for side in ranked
        }
    return found


def spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


if __name__ == "__main__":
    main()
