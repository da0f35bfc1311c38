"""Two sets of pictures that were made after the rule behind `--minutes` had been frozen (P5), and camera-sized photos.

    python benchmarks/made_sets.py --to FOLDER
    python benchmarks/made_sets.py --to FOLDER --enlarge DATA/imagenette-2000

`figures`: ten figures in any colour, size, place and angle on clouds of colour, half hidden by bars, with noise: 250
PNG files of 80×80 pixels each. `textures`: twelve surfaces, warped, in any colours, scale and angle, lit from a side:
120 JPEG files of 128×96 pixels each. The same on every machine, but for how Pillow draws and compresses. With
`--enlarge`, only `camera`: thirty photos of each class in PHOTOS/train as JPEG files of 12 megapixels, with noise
like a sensor's, 2 MB each, as phones store them (for the loaders of `photos.py`: time, not accuracy).
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

CAMERA, GRAIN, EACH = (4032, 3024), 3.0, 30  # pixels, standard deviation of the noise (of 255), photos of each class

Random = np.random.Generator
Field = npt.NDArray[np.float64]


def clouds(random: Random, width: int, height: int, cells: int) -> Field:
    """(height, width, 3) of smooth colours in 0 to 255."""
    small = Image.fromarray(random.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)


def corners(count: int, reach: list[float], turn: float = 0.0) -> list[tuple[float, float]]:
    """Points round the middle, whose distances from it are those of `reach` in turn."""
    angles = [turn + 2 * math.pi * i / count for i in range(count)]
    return [(reach[i % len(reach)] * math.cos(a), reach[i % len(reach)] * math.sin(a)) for i, a in enumerate(angles)]


def bar(width: float) -> list[tuple[float, float]]:
    return [(-1, -width), (1, -width), (1, width), (-1, width)]


FIGURES: dict[str, list[list[tuple[float, float]]]] = {  # polygons; the second of a pair is a hole or an addition
    "triangle": [corners(3, [1])],
    "square": [corners(4, [1])],
    "pentagon": [corners(5, [1])],
    "disc": [corners(60, [1])],
    "ring": [corners(60, [1]), corners(60, [0.55])],
    "star": [corners(10, [1, 0.45])],
    "flower": [corners(72, [0.65 + 0.35 * math.cos(6 * 2 * math.pi * i / 72) for i in range(72)])],
    "plus": [bar(0.3), [(y, x) for x, y in bar(0.3)]],
    "ell": [[(-0.8, -0.9), (-0.3, -0.9), (-0.3, 0.4), (0.8, 0.4), (0.8, 0.9), (-0.8, 0.9)]],
    "arrow": [[(-1, -0.2), (0.1, -0.2), (0.1, -0.7), (1, 0), (0.1, 0.7), (0.1, 0.2), (-1, 0.2)]],
}


def figure(random: Random, name: str, side: int = 80) -> Image.Image:
    """Draw one of `FIGURES`."""
    scale = 4
    size, angle = random.uniform(0.18, 0.42) * side, random.uniform(0, 2 * math.pi)
    centre = random.uniform(size, side - size, 2)
    stretch = random.uniform(0.75, 1.0)
    mask = Image.new("L", (side * scale, side * scale))
    for number, polygon in enumerate(FIGURES[name]):
        points = [
            (
                scale * float(centre[0] + size * (x * math.cos(angle) - stretch * y * math.sin(angle))),
                scale * float(centre[1] + size * (x * math.sin(angle) + stretch * y * math.cos(angle))),
            )
            for x, y in polygon
        ]
        ImageDraw.Draw(mask).polygon(points, fill=0 if name == "ring" and number else 255)
    pixels = clouds(random, side, side, 5)
    share = np.asarray(mask.resize((side, side), Image.Resampling.BOX), dtype=np.float64)[:, :, None] / 255
    pixels = pixels * (1 - share) + clouds(random, side, side, 2) * share
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(random.integers(0, 3))):
        ends = random.uniform(0, side, 4).tolist()
        draw.line(ends, fill=tuple(random.integers(0, 256, 3).tolist()), width=int(random.integers(3, 10)))
    noisy = np.asarray(picture, dtype=np.float64) + random.normal(0, random.uniform(5, 30), (side, side, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def cells(random: Random, x: Field, y: Field) -> Field:
    """Distance to the nearest of scattered points, less that to the second."""
    points = random.uniform(-9, 9, (220, 2))
    distances = np.sort(np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]), axis=-1)
    return np.tanh(4 * (distances[..., 1] - distances[..., 0] - 0.25))


def bricks(_: Random, x: Field, y: Field) -> Field:
    shifted = x + 0.5 * (np.floor(2 * y) % 2)
    return np.where((shifted % 1 < 0.12) | (2 * y % 1 < 0.2), -1.0, 1.0)


SURFACES: dict[str, Callable[[Random, Field, Field], Field]] = {  # of places about -4 to 4, values about -1 to 1
    "stripes": lambda _, x, y: np.sin(6 * x) + 0 * y,
    "thin lines": lambda _, x, y: np.where(x % 0.8 < 0.12, 1.0, -1.0) + 0 * y,
    "checks": lambda _, x, y: np.sign(np.sin(4 * x) * np.sin(4 * y)),
    "dots": lambda _, x, y: np.sign(np.sin(5 * x) + np.sin(5 * y) - 0.9),
    "rings": lambda _, x, y: np.sin(6 * np.hypot(x, y)),
    "spiral": lambda _, x, y: np.sin(5 * np.hypot(x, y) + 2 * np.arctan2(y, x)),
    "rays": lambda _, x, y: np.sin(12 * np.arctan2(y, x)),
    "waves": lambda _, x, y: np.sin(6 * y + 1.5 * np.sin(3 * x)),
    "zigzag": lambda _, x, y: np.sign(np.sin(6 * (y + np.abs(x % 1 - 0.5)))),
    "net": lambda _, x, y: np.maximum(np.cos(5 * (x + y)), np.cos(5 * (x - y))) ** 3 * 2 - 1,
    "bricks": bricks,
    "cells": cells,
}


def surface(random: Random, name: str, width: int = 128, height: int = 96) -> Image.Image:
    """Draw one of `SURFACES`."""
    angle, scale = random.uniform(0, 2 * math.pi), random.uniform(0.02, 0.06)
    x, y = np.meshgrid(np.arange(width) - random.uniform(0.2, 0.8) * width, np.arange(height) - height / 2)
    bent = [(clouds(random, width, height, 4)[:, :, 0] / 255 - 0.5) * random.uniform(0, 0.8) for _ in range(2)]
    u = scale * (x * math.cos(angle) - y * math.sin(angle)) + bent[0]
    v = scale * (x * math.sin(angle) + y * math.cos(angle)) + bent[1]
    share = ((SURFACES[name](random, u, v) + 1) / 2).clip(0, 1)[:, :, None]
    pixels = clouds(random, width, height, 2) * share + clouds(random, width, height, 2) * (1 - share)
    light = np.linspace(random.uniform(0.4, 1.0), random.uniform(0.6, 1.2), width)[None, :, None]
    pixels = pixels * light + random.normal(0, random.uniform(2, 20), pixels.shape)
    picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    return picture.filter(ImageFilter.GaussianBlur(float(random.uniform(0, 1.2))))


def enlarged(photo: Path, random: Random) -> Image.Image:
    """A photo as a camera of 12 megapixels would have stored it, in size and in noise."""
    image = Image.open(photo).convert("RGB")
    size = CAMERA if image.width >= image.height else CAMERA[::-1]
    pixels = np.asarray(image.resize(size, Image.Resampling.BICUBIC), np.float32)
    pixels = pixels + random.normal(0, GRAIN, pixels.shape[:2]).astype(np.float32)[..., None]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def enlarge(source: Path, to: Path) -> None:
    """Write the set `camera`."""
    for kind in sorted(folder for folder in (source / "train").iterdir() if folder.is_dir()):
        folder = to / "train" / kind.name
        folder.mkdir(parents=True, exist_ok=True)
        for index, photo in enumerate(sorted(kind.iterdir())[:EACH]):
            enlarged(photo, np.random.default_rng(index)).save(folder / f"{index:03d}.jpg", quality=90)
    print(f"{to}: {len(list(to.rglob('*.jpg')))} photos of {CAMERA[0]}×{CAMERA[1]} pixels")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--to", type=Path, required=True)
    ask.add_argument("--enlarge", type=Path, metavar="PHOTOS", help="make camera-sized photos of these, and only these")
    given = ask.parse_args()
    if given.enlarge:
        enlarge(given.enlarge, given.to / "camera")
        return
    sets: list[tuple[str, Any, Callable[..., Image.Image], int, str]] = [
        ("figures", FIGURES, figure, 250, "png"),
        ("textures", SURFACES, surface, 120, "jpg"),
    ]
    for number, (title, kinds, draw, each, ending) in enumerate(sets):
        for kind, name in enumerate(kinds):
            folder = given.to / title / name
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(each):
                draw(np.random.default_rng((number, kind, index)), name).save(folder / f"{index:03d}.{ending}")
        print(f"{given.to / title}: {len(kinds)} classes of {each} pictures")


if __name__ == "__main__":
    main()
