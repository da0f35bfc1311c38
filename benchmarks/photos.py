"""P3 and P4: images per second over whole epochs on a folder of photos, hubel against its peers; and the loaders alone.

    python benchmarks/photos.py DATA/imagenette-2000 --peers-python PEERS/bin/python \\
        --output benchmarks/results/photos.json
    python benchmarks/photos.py DATA/cifar10 --only loaders --size 32 --peers-python PEERS/bin/python \\
        --output benchmarks/results/loaders-small.json

ResNet-18 at crops of 128 pixels. Each side runs in a process of its own (`photo_sides.py`), one after the other, and
that --rounds times in turn, so that a slower minute of the machine meets all of them. An epoch is everything: reading,
decoding, augmenting, forward, backward, step. hubel's first epoch includes decoding all images into a pack, its own
cache being empty; the files are in the system's page cache on all sides. Each peer runs twice, at its documented
defaults and with the best settings known for a processor; it counts with the better of the two, which alone goes on
after the first round with --faster-settings. hubel is shown twice, too: trained on crops of 128 pixels as the peers
are, which counts, and as `--size 128` says it (crops of 112, judged at 128). Model FLOP utilisation is the network's
own operations in later epochs over those of the fastest matrix product that was measured in the same run. Goals: 1.5
times the best peer; for the loaders 1.5 (first epoch) and 8 times (later epochs) torchvision's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from measuring import environment, machine, matrix_gflops, said, summary, training_flops, versions, write

SIDES = Path(__file__).with_name("photo_sides.py")
PEERS = ("torchvision", "timm", "fastai", "lightning")
Key = tuple[str, bool]  # a side, and whether it is tuned
Epochs = list[dict[str, float]]


def run(key: Key, given: argparse.Namespace) -> Epochs:
    """Run a side once, hubel with an empty cache, and return its epochs."""
    side, tuned = key
    python = sys.executable if side.startswith("hubel") else given.peers_python
    with tempfile.TemporaryDirectory(dir=given.home) as cache:
        flags = ["--model", given.model, "--size", str(given.size), "--epochs", str(given.epochs)]
        flags += ["--tuned"] if tuned else []
        done = subprocess.run(
            [python, SIDES, side, given.folder, *flags],
            env=environment(HUBEL_CACHE=cache),
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    epochs = list(said(done.stdout))
    print(name(key), [f"{epoch['images'] / epoch['seconds']:.0f}/s" for epoch in epochs], flush=True)
    return epochs


def slower(key: Key, runs: dict[Key, list[Epochs]]) -> bool:
    """Whether a side is hubel's that doesn't count, or a peer with the settings that were slower in the first round."""
    side, tuned = key
    if side == "hubel":
        return tuned
    took = {
        settings: min(epoch["seconds"] / epoch["images"] for epoch in rounds[0]) for settings, rounds in runs.items()
    }
    return took[key] > took.get((side, not tuned), took[key])


def name(key: Key) -> str:
    """What a side is called in the results."""
    side, tuned = key
    if side == "hubel":
        return "hubel, --size taken literally" if tuned else "hubel"
    return side if side == "hubel-loader" else f"{side}, {'best settings' if tuned else 'defaults'}"


def speeds(rounds: list[Epochs]) -> dict[str, Any]:
    """Images per second of the first and of later epochs, and the seconds until the first epoch had ended."""
    first = [epochs[0]["images"] / epochs[0]["seconds"] for epochs in rounds]
    later = [statistics.median(e["images"] / e["seconds"] for e in epochs[1:]) for epochs in rounds]
    whole = [sum(e["images"] for e in epochs) / sum(e["seconds"] for e in epochs) for epochs in rounds]
    return {
        "first epoch, images/s": summary(first, 1),
        "later epochs, images/s": summary(later, 1),
        "all epochs, images/s": summary(whole, 1),
        "seconds from start to the end of the first epoch": summary([epochs[0]["since_start"] for epochs in rounds], 1),
    }


def ratios(found: dict[str, Any], ours: str, theirs: str) -> dict[str, Any]:
    """How many times faster `ours` is than the fastest of the sides whose names begin with one of `theirs`."""
    said: dict[str, Any] = {}
    for when in ("first epoch", "later epochs", "all epochs"):
        rates = {
            side: figures[f"{when}, images/s"]["median"]
            for side, figures in found.items()
            if side.startswith(tuple(theirs.split()))
        }
        best = max(rates, key=lambda side: rates[side])
        said[when] = {"times": round(found[ours][f"{when}, images/s"]["median"] / rates[best], 2), "than": best}
    return said


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("folder", help="of photos, with train/ and val/")
    ask.add_argument("--peers-python", required=True, help="a Python with torchvision, timm, fastai and lightning")
    ask.add_argument("--model", default="resnet18")
    ask.add_argument("--size", type=int, default=128)
    ask.add_argument("--epochs", type=int, default=4, help="of each run; the first one is shown apart")
    ask.add_argument("--rounds", type=int, default=3)
    ask.add_argument("--faster-settings", action="store_true", help="of each side, from the second round on")
    ask.add_argument("--sides", nargs="+", default=["hubel", *PEERS], choices=["hubel", *PEERS])
    ask.add_argument("--only", choices=["training", "loaders"])
    ask.add_argument("--home", help="folder for the caches that come and go")
    ask.add_argument("--output", type=Path)
    given = ask.parse_args()
    keys: list[Key] = []
    if given.only != "loaders":
        keys += [(side, tuned) for side in given.sides for tuned in (False, True)]
    if given.only != "training":
        keys += [("hubel-loader", False), ("torchvision-loader", False), ("torchvision-loader", True)]
    from torchvision import models

    products = [matrix_gflops()]
    runs: dict[Key, list[Epochs]] = {key: [] for key in keys}
    for number in range(given.rounds):
        for key in keys:
            if not (number and given.faster_settings and slower(key, runs)):
                runs[key].append(run(key, given))
        products.append(matrix_gflops())
    found = {name(key): speeds(rounds) for key, rounds in runs.items()}
    flops = training_flops(getattr(models, given.model)(num_classes=10), given.size)
    peak = max(statistics.median(product[dtype] for product in products) for dtype in products[0]) * 1e9
    for key in keys:
        if "loader" not in key[0] and key != ("hubel", True):  # whose crops are smaller
            rate = found[name(key)]["later epochs, images/s"]["median"]
            found[name(key)]["model FLOP utilisation"] = round(rate * flops / peak, 3)
    result: dict[str, Any] = {
        "machine": machine(),
        "versions": {"hubel": versions(), "peers": peers_versions(given.peers_python)},
        "work": {"data": Path(given.folder).name, "model": given.model, "size": given.size, "rounds": given.rounds},
        "matrix product, GFLOP/s": {t: summary([p[t] for p in products], 0) for t in products[0]},
        "GFLOP an image, forward and backward": round(flops / 1e9, 2),
        "sides": found,
    }
    if "hubel" in found and len(given.sides) > 1 and given.only != "loaders":
        theirs = " ".join(side + "," for side in given.sides if side != "hubel")
        result["hubel against the best peer"] = ratios(found, "hubel", theirs)
    if given.only != "training":
        result["hubel's loader against torchvision's"] = ratios(found, "hubel-loader", "torchvision-loader")
    write(given.output, result)


def peers_versions(python: str) -> Any:
    """The versions in the peers' environment."""
    code = "import json, measuring; print(json.dumps(measuring.versions()))"
    done = subprocess.run([python, "-c", code], cwd=SIDES.parent, stdout=subprocess.PIPE, text=True, check=True)
    return next(said(done.stdout))


if __name__ == "__main__":
    main()
