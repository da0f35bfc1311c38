"""How many wrong labels `hubel data --labels` finds, and how many right ones it suspects.

    python benchmarks/labels.py DATA/fashion-mnist --output benchmarks/results/labels.json

Of the training images, `--images` are taken, evenly by class; a share of their labels is exchanged for another class's,
any one (uniform) or always the next one (pair). Each audit is a process of its own: seconds from start to exit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measuring import machine, versions, write


def planted(data: Path, to: Path, images: int, share: float, pair: bool, seed: int) -> set[str]:
    """Link images into folders of classes, some of them wrong ones; returns the paths of those."""
    rng = np.random.default_rng(seed)
    root = data / "train" if (data / "train").is_dir() else data
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    files = [(k, file) for k, name in enumerate(names) for file in some(root / name, images // len(names), rng)]
    flipped = set(rng.choice(len(files), round(share * len(files)), replace=False).tolist())
    wrong = set()
    for i, (label, file) in enumerate(files):
        given = (label + (1 if pair else int(rng.integers(1, len(names))))) % len(names) if i in flipped else label
        path = Path(names[given]) / f"{i:06d}{file.suffix}"
        (to / path.parent).mkdir(parents=True, exist_ok=True)
        os.symlink(file.resolve(), to / path)
        wrong |= {path.as_posix()} if i in flipped else set()
    return wrong


def some(folder: Path, count: int, rng: np.random.Generator) -> list[Path]:
    """As many of a folder's files, or all."""
    files = sorted(folder.iterdir())
    return [files[i] for i in sorted(rng.permutation(len(files))[:count])]


def audited(folder: Path, findings: Path) -> tuple[set[str], float]:
    """The paths that the audit would leave out as wrongly labelled, and its seconds."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "hubel", "data", str(folder), "--labels", "--output", str(findings)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    found = [each for each in json.loads(findings.read_text()) if each["code"] == "label-suspect"]
    return {path for each in found for path in each["exclude"]}, seconds


def main() -> None:
    """Plant, audit, count."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("data", type=Path, nargs="+")
    flags.add_argument("--images", type=int, default=5_000)
    flags.add_argument("--shares", type=float, nargs="+", default=[0.2])
    flags.add_argument("--kinds", nargs="+", default=["uniform", "pair"])
    flags.add_argument("--seeds", type=int, default=3)
    flags.add_argument("--output", type=Path)
    asked = flags.parse_args()
    rows: list[dict[str, Any]] = []
    for data in asked.data:
        for kind, share, seed in [(k, p, s) for k in asked.kinds for p in asked.shares for s in range(asked.seeds)]:
            with tempfile.TemporaryDirectory() as place:
                wrong = planted(data, Path(place) / "data", asked.images, share, kind == "pair", seed)
                found, seconds = audited(Path(place) / "data", Path(place) / "findings.json")
            hits = len(found & wrong)
            row = {"data": data.name, "images": asked.images, "share": share, "kind": kind, "seed": seed}
            row |= {"wrong": len(wrong), "suspects": len(found), "found": hits, "seconds": round(seconds, 1)}
            row |= {"precision": round(hits / max(len(found), 1), 4), "recall": round(hits / max(len(wrong), 1), 4)}
            rows.append(row)
            print(row, flush=True)
    write(asked.output, {"machine": machine(), "versions": versions(), "rows": rows})


if __name__ == "__main__":
    main()
