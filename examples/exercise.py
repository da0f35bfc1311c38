"""What the exercises share: their arguments, trainings that go on where they were stopped, tables and pictures."""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

import hubel

Row = dict[str, Any]
TILE = 192  # pixels of a picture's side on a sheet


def asked(about: str, data: str, **options: str) -> argparse.Namespace:
    """Read DATA, --output, --short and further options, given with their defaults, from the command line."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("data", nargs="?", default=data, help=f"folder, table or name of a set (default: {data})")
    parser.add_argument("--output", type=Path, default=Path("runs", Path(sys.argv[0]).stem), help="folder of results")
    parser.add_argument("--short", action="store_true", help="a few seconds, to see that it runs")
    for name, default in options.items():
        parser.add_argument(f"--{name}", default=default, help=f"(default: {default})")
    given = parser.parse_args()
    said, note = {name: value for name, value in vars(given).items() if name != "output"}, given.output / "asked.json"
    if note.exists() and json.loads(note.read_text("utf-8")) != said:  # what is finished there would be read as this
        parser.error(f"{given.output} holds results of other arguments, see {note}: give another --output.")
    given.output.mkdir(parents=True, exist_ok=True)
    note.write_text(json.dumps(said, indent=1), "utf-8")
    return given


def trained(folder: Path, data: Any, **settings: Any) -> hubel.Run:
    """Train as `hubel.train` does; go on with what was interrupted, and read what is finished."""
    if (folder / "manifest.json").exists():
        return hubel.Run(folder)
    if (folder / "recipe.yaml").exists():
        code = settings.get("model")
        return hubel.resume(folder, model=None if isinstance(code, str) else code)
    return hubel.train(data, output=folder, overwrite=True, **settings)


def row(what: str, run: hubel.Run) -> Row:
    """The figures of a run as a line of a table: accuracy on n images with its 95 % interval, and what it took."""
    facts, epochs = json.loads((run.path / "evidence" / "facts.json").read_text("utf-8")), history(run)
    low, high = run.scores.interval
    took = {"parameters": facts["parameters"], "epochs": len(epochs), "seconds": round(facts["seconds"])}
    return {"what": what, "accuracy": run.scores.accuracy, "low": low, "high": high, "n": run.scores.n, **took}


def history(run: hubel.Run) -> list[dict[str, str]]:
    """One row per epoch: train_loss, train_accuracy, val_loss, val_accuracy and more."""
    return _table(run.path / "results.csv")


def write(rows: list[Row], file: Path) -> None:
    """Keep a table as CSV and as Markdown, and print it."""
    with file.with_suffix(".csv").open("w", encoding="utf-8", newline="") as csv_file:
        table = csv.DictWriter(csv_file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    lines = [list(rows[0]), ["---"] * len(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    file.with_suffix(".md").write_text(text + "\n", "utf-8")
    print(f"\n{text}\n")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def keep(run: hubel.Run, output: Path, *names: str) -> Image.Image:
    """Copy pictures that a run has drawn, by their names; returns the first, which a notebook shows."""
    for name in names:
        shutil.copyfile(run.path / "pictures" / f"{name}.png", output / f"{name}.png")
    with Image.open(output / f"{names[0]}.png") as first:
        return first.copy()


def answers(run: hubel.Run) -> list[dict[str, str]]:
    """What the network said of each reported image: file_name (with its folder), label, prediction, confidence."""
    root = Path(json.loads((run.path / "split.json").read_text("utf-8"))["source"])
    said = _table(run.path / "predictions.csv")
    return [{**answer, "file_name": str(root / answer["file_name"])} for answer in said]


def _table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def overlay(file: str, heat: np.ndarray) -> Image.Image:
    """An image under its heat map, (H, W) uint8, from blue (nothing) over red to yellow (most)."""
    warm = Image.fromarray(heat).resize((TILE, TILE), Image.Resampling.BICUBIC)
    return Image.blend(tile(file).convert("L").convert("RGB"), ImageOps.colorize(warm, "navy", "yellow", "red"), 0.45)


def tile(file: str) -> Image.Image:
    """An image file as a square of `TILE` pixels, its centre where it is none; small pixels stay visible."""
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened).convert("RGB")
    small = max(image.size) < TILE
    return ImageOps.fit(image, (TILE, TILE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def sheet(rows: list[list[Image.Image]], file: Path, gap: int = 8) -> Image.Image:
    """Write equal pictures in rows and columns as one PNG; returns it, so that a notebook shows it."""
    width, height = rows[0][0].size
    made = Image.new("RGB", (len(rows[0]) * (width + gap) + gap, len(rows) * (height + gap) + gap), "white")
    for i, line in enumerate(rows):
        for j, image in enumerate(line):
            made.paste(image, (gap + j * (width + gap), gap + i * (height + gap)))
    made.save(file)
    return made
