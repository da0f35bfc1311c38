"""The report's pictures: thumbnails, Grad-CAM overlays, filters, augmented images, and contact sheets of them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from hubel.evidence import Floats, Pixels, RunRecord
from hubel.report.confusion import Grid
from hubel.report.style import PAPER, ROLES, heat_table
from hubel.report.wording import certainty, plain

SMALL = 64  # pixels of the longer side: below it, the pixels themselves are worth seeing, and nothing is smoothed
LARGE = 280  # pixels of a picture's longer side: twice what the page shows at most
CELL_SIDE, CELL_BUDGET = 160, 1_500_000  # pixels, and bytes for all pictures behind the confusion matrix
OVERHEAD = 450  # bytes of markup and path that come with each thumbnail
MOST_FILTERS = 64
EXPLAINED = ("Wrong answers", "Right answers")
FILTERS = {"Before training": "filters.before", "After training": "filters.after"}
TILE = 192  # pixels of an augmented image's side, twice what the page shows


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture on the page, its size there in pixels, and what is said about it; without one, `uri` is empty."""

    uri: str
    alt: str
    width: int
    height: int
    pixelated: bool
    path: str = ""
    label: str = ""
    prediction: str = ""
    confidence: str = ""
    wrong: bool = False


def picture(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    """Turn (H, W, C) uint8 into a Pillow image: RGB for three channels, else grey from the first."""
    pixels = np.ascontiguousarray(pixels)
    return Image.fromarray(pixels if pixels.shape[-1] == 3 else pixels[..., 0])


def shrunk(image: Image.Image, longest: int) -> Image.Image:
    """The image with its longer side at most `longest` pixels; never enlarged."""
    if max(image.size) <= longest:
        return image
    scale = longest / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.BOX if scale < 0.5 else Image.Resampling.LANCZOS)


def enlarged(image: Image.Image, longest: int) -> Image.Image:
    """The image with each pixel repeated until its longer side has about `longest` pixels; never shrunk."""
    times = max(1, round(longest / max(image.size)))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def encoded(image: Image.Image, *, exact: bool = False) -> bytes:
    """Pack an image: as PNG when `exact` or when it is small and grey, else as WebP."""
    out = io.BytesIO()
    if exact or (image.mode == "L" and max(image.size) <= 40):
        image.save(out, "PNG", optimize=False, compress_level=9)
    else:
        image.save(out, "WEBP", quality=84, method=2)
    return out.getvalue()


def opened(content: bytes) -> Image.Image:
    """Read an encoded picture."""
    return Image.open(io.BytesIO(content))


def data_uri(content: bytes) -> str:
    """Write an encoded picture as the address of an image on a page."""
    kind = "png" if content.startswith(b"\x89PNG") else "webp"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def thumbnail(pixels: Pixels) -> bytes:
    """Encode one measured image, (H, W, C) uint8, as the run folder keeps it: small ones exactly."""
    image = picture(pixels)
    return encoded(shrunk(image, LARGE), exact=max(image.size) <= SMALL)


def plain_shot(image: Image.Image, alt: str, *, pixelated: bool, density: int = 1) -> Shot:
    """A picture of the page that is not one of the measured images.

    Args:
        density: pixels of the picture for each one on the page.
    """
    uri, width, height = data_uri(encoded(image, exact=pixelated)), image.width // density, image.height // density
    return Shot(uri=uri, alt=alt, width=width, height=height, pixelated=pixelated)


def measured_shot(run: RunRecord, index: int, *, side: int = LARGE) -> Shot:
    """One of the measured images with its path, label, prediction and confidence, its longer side at most `side`."""
    label, prediction = (plain(run.card.classes[int(i)]) for i in (run.labels[index], run.predictions[index]))
    path = plain(run.paths[index])
    content, size = run.thumbnails.get(index, b""), (1, 1)
    if content:
        image = opened(content)
        size = image.size
        if max(size) > side or (side == CELL_SIDE and image.format == "PNG" and image.mode != "L"):
            small = shrunk(image, side)
            content, size = encoded(small), small.size
    return Shot(
        uri=data_uri(content) if content else "",
        alt=f"{path}: label {label}, answered {prediction}",
        width=size[0],
        height=size[1],
        pixelated=max(size) <= SMALL,
        path=path,
        label=label,
        prediction=prediction,
        confidence=certainty(float(run.confidence[index])),
        wrong=bool(run.labels[index] != run.predictions[index]),
    )


def cell_shots(run: RunRecord, grid: Grid) -> dict[tuple[int, int], list[Shot]]:
    """Pictures for the cells of the confusion matrix, (label, prediction) → shots, within `CELL_BUDGET` bytes."""
    shots: dict[tuple[int, int], list[Shot]] = {}
    left = CELL_BUDGET
    for cell, index in grid.cells_in_turn():
        if left > 0 and (index in run.thumbnails or not run.thumbnails):
            shot = measured_shot(run, index, side=CELL_SIDE)
            left -= len(shot.uri) + OVERHEAD + len(shot.path)
            shots.setdefault((cell.row, cell.column), []).append(shot)
    return shots


def overlay(pixels: Pixels, heat: Pixels) -> Image.Image:
    """Lay a heat map (H, W) uint8 over its image: the image in grey, the more heat the more colour."""
    grey = np.asarray(picture(pixels).convert("L"), dtype=np.float32)
    if heat.shape != grey.shape:
        heat = np.asarray(Image.fromarray(heat).resize((grey.shape[1], grey.shape[0]), Image.Resampling.BILINEAR))
    share = (0.2 + 0.5 / 255 * heat.astype(np.float32))[..., None]
    return Image.fromarray(np.rint(grey[..., None] * (1 - share) + heat_table()[heat] * share).astype(np.uint8))


def filters(weights: Floats, *, side: int = 40) -> Image.Image:
    """Draw first-layer filters (F, C, k, k) as a transparent-ground sheet, zero at middle grey.

    Three channels are shown as colour; otherwise the first channel in grey. Each filter has its own scale.
    """
    shown = np.nan_to_num(np.asarray(weights, dtype=np.float32)[:MOST_FILTERS])
    shown = shown if shown.shape[1] == 3 else shown[:, :1]
    peak = np.maximum(np.abs(shown).max(axis=(1, 2, 3), keepdims=True), 1e-12)
    tiles = np.rint(127.5 + 127.5 * shown / peak).astype(np.uint8).transpose(0, 2, 3, 1)
    drawn = [enlarged(picture(np.broadcast_to(tile, (*tile.shape[:2], 3))), side) for tile in tiles]
    columns = 8 if len(drawn) > 4 else len(drawn)
    return _tiled([drawn[i : i + columns] for i in range(0, len(drawn), columns)], gap=4)


def augmentation(augmented: Pixels, *, side: int = TILE) -> Image.Image:
    """Draw augmented images (rows, columns, H, W, C) as a transparent-ground sheet; the originals stand apart."""
    rows = [[enlarged(shrunk(picture(tile), side), side) for tile in line] for line in augmented]
    return _tiled(rows, gap=max(1, side // 24), first=max(1, side // 7))


def _tiled(rows: list[list[Image.Image]], *, gap: int, first: int | None = None) -> Image.Image:
    """Put equal tiles into rows; `first` is the gap after the first column."""
    width, height = rows[0][0].size
    columns = max(map(len, rows))
    extra = 0 if first is None or columns == 1 else first - gap
    sheet = Image.new("RGBA", (columns * (width + gap) - gap + extra, len(rows) * (height + gap) - gap))
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            sheet.paste(tile, (j * (width + gap) + (extra if j else 0), i * (height + gap)))
    return sheet


def on_white(image: Image.Image) -> bytes:
    """A picture with transparency as a PNG on white."""
    ground = Image.new("RGBA", image.size, PAPER)
    return encoded(Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB"), exact=True)


def contact_sheet(
    cards: Sequence[tuple[Sequence[Image.Image], Sequence[str]]], *, side: int, columns: int
) -> Image.Image:
    """Arrange cards in a grid: pictures side by side, each at most `side` pixels, with lines of text under them."""
    columns = max(1, min(columns, len(cards)))
    width = max(len(pictures) for pictures, _ in cards) * (side + 8) - 8
    height = side + 20 + 30 * max(len(lines) for _, lines in cards)
    size = (64 + columns * (width + 40) - 40, 64 + -(-len(cards) // columns) * (height + 28) - 28)
    sheet = Image.new("RGBA", size, PAPER)
    pen = ImageDraw.Draw(sheet)
    for k, (pictures, lines) in enumerate(cards):
        x, y = 32 + (k % columns) * (width + 40), 32 + (k // columns) * (height + 28)
        for i, image in enumerate(pictures):
            shown = shrunk(enlarged(shrunk(image, side), side), side).convert("RGBA")
            sheet.paste(shown, (x + i * (side + 8), y + side - shown.height), shown)
        for i, line in enumerate(lines):
            role, font = ("muted", ImageFont.load_default(22)) if i else ("ink", ImageFont.load_default(24))
            pen.text((x, y + side + 8 + 30 * i), _fitting(line, font, width), fill=ROLES[role][0], font=font)
    return sheet


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Cut the start off a text that is wider than `width` pixels."""
    text = plain(text).replace("\u00a0", " ")
    if font.getlength(text) <= width:
        return text
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def explained(run: RunRecord, which: str) -> list[dict[str, Any]]:
    """The images with heat maps whose answers are right, or wrong: picture, overlay, and what is said about them."""
    shown: list[dict[str, Any]] = []
    for place, example in enumerate(run.facts.explained if "explained.heat" in run.pictures else ()):
        shot = measured_shot(run, example.index)
        pixels, heat = run.pictures["explained.images"][place], run.pictures["explained.heat"][place]
        original, warm, small = picture(pixels), overlay(pixels, heat), max(heat.shape) <= SMALL
        shown.append(
            {
                "shot": shot,
                "original": plain_shot(original, shot.alt, pixelated=small),
                "overlay": plain_shot(warm, f"Grad-CAM of {shot.prediction} on {shot.path}", pixelated=small),
                "pictures": (original, warm),
                "note": example.note,
            }
        )
    return [one for one in shown if one["shot"].wrong == (which == EXPLAINED[0])]


def filter_sheets(run: RunRecord) -> dict[str, Image.Image]:
    """First-layer filters as pictures by their heading."""
    return {name: filters(run.pictures[key]) for name, key in FILTERS.items() if key in run.pictures}


def augmented_shot(run: RunRecord) -> Shot | None:
    """What augmentation does, if that was kept."""
    if "augmented" not in run.pictures:
        return None
    small = max(run.pictures["augmented"].shape[2:4]) <= SMALL
    sheet = augmentation(run.pictures["augmented"], side=TILE // 2 if small else TILE)
    return plain_shot(sheet, "Images and augmented versions of them", pixelated=small, density=1 if small else 2)


def picture_files(run: RunRecord, worst: Sequence[int]) -> Iterator[tuple[str, bytes]]:
    """The pictures that become PNG files beside the charts, each only if there is something to show."""
    shots = {i: measured_shot(run, i) for i in worst if i in run.thumbnails}
    errors = [((opened(run.thumbnails[i]),), _lines(shot)) for i, shot in shots.items()]
    examples = [(e["pictures"], _lines(e["shot"])) for name in EXPLAINED for e in explained(run, name)]
    weights = [((sheet,), (name,)) for name, sheet in filter_sheets(run).items()]
    if errors:
        yield "worst", on_white(contact_sheet(errors, side=264, columns=6))
    if examples:
        yield "gradcam", on_white(contact_sheet(examples, side=256, columns=4))
    if weights:
        yield "filters", on_white(contact_sheet(weights, side=720, columns=2))
    if "augmented" in run.pictures:
        yield "augmentation", on_white(augmentation(run.pictures["augmented"]))


def _lines(shot: Shot) -> tuple[str, str, str]:
    return f"{shot.prediction} {shot.confidence}", f"label: {shot.label}" if shot.wrong else "right", shot.path
