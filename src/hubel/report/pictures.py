"""The report's pictures: thumbnails, Grad-CAM overlays, filters, augmented images, and contact sheets of them."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt
from PIL import Image

from hubel.report.colour import ROLES, heat_table
from hubel.report.evidence import Floats, Pixels
from hubel.report.wording import shortened

FONTS = "Roboto, Helvetica Neue, Arial, sans-serif"
INK, MUTED = ROLES["ink"][0], ROLES["muted"][0]
MOST_FILTERS = 64
MOST_ROWS = 6


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


def enlarged(image: Image.Image, shortest: int) -> Image.Image:
    """The image with each pixel repeated until its longer side has about `shortest` pixels; never shrunk."""
    times = max(1, round(shortest / max(image.size)))
    return image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)


def data_uri(image: Image.Image, *, exact: bool = False) -> str:
    """Pack an image into a data URI: PNG when `exact` or when it is small and grey, else WebP."""
    out = io.BytesIO()
    if exact or (image.mode == "L" and max(image.size) <= 40):
        image.save(out, "PNG", optimize=False, compress_level=9)
        return f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode()}"
    image.save(out, "WEBP", quality=84, method=2)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"


def overlay(pixels: Pixels, heat: Floats) -> Image.Image:
    """Lay a heat map (H, W) in [0, 1] over its image: the image in grey, the more heat the more colour."""
    grey = np.asarray(picture(pixels).convert("L"), dtype=np.float32)
    level = np.clip(np.nan_to_num(np.asarray(heat, dtype=np.float32)), 0.0, 1.0)
    if level.shape != grey.shape:
        resized = Image.fromarray(level).resize((grey.shape[1], grey.shape[0]), Image.Resampling.BILINEAR)
        level = np.asarray(resized, dtype=np.float32)
    colour = heat_table()[np.rint(level * 255).astype(np.intp)]
    share = (0.2 + 0.5 * level)[..., None]
    return Image.fromarray(np.rint(grey[..., None] * (1 - share) + colour * share).astype(np.uint8))


def filters(weights: Floats, *, side: int = 40) -> Image.Image:
    """Draw first-layer filters (F, C, k, k) as a transparent-ground sheet, zero at middle grey.

    Three channels are shown as colour; otherwise the first channel in grey. Each filter has its own scale.
    """
    shown = np.nan_to_num(np.asarray(weights, dtype=np.float32)[:MOST_FILTERS])
    shown = shown if shown.shape[1] == 3 else shown[:, :1]
    peak = np.maximum(np.abs(shown).max(axis=(1, 2, 3), keepdims=True), 1e-12)
    tiles = np.rint(127.5 + 127.5 * shown / peak).astype(np.uint8).transpose(0, 2, 3, 1)
    tiles = np.broadcast_to(tiles, (*tiles.shape[:3], 3))
    times = max(1, side // tiles.shape[1])
    tiles = tiles.repeat(times, axis=1).repeat(times, axis=2)
    opaque = np.concatenate([tiles, np.full((*tiles.shape[:3], 1), 255, np.uint8)], axis=3)
    columns = 8 if len(opaque) > 4 else len(opaque)
    rows = [list(opaque[i : i + columns]) for i in range(0, len(opaque), columns)]
    return Image.fromarray(_tiled(rows, gap=4))


def augmentation(augmented: Pixels, *, side: int = 96) -> Image.Image:
    """Draw augmented images (rows, columns, H, W, C) as a transparent-ground sheet; the originals stand apart."""
    rows = []
    for line in augmented[:MOST_ROWS]:
        tiles = [enlarged(shrunk(picture(tile), side), side) for tile in line]
        rows.append([np.asarray(tile.convert("RGBA")) for tile in tiles])
    return Image.fromarray(_tiled(rows, gap=4, first=14))


def on_white(image: Image.Image) -> bytes:
    """A picture with transparency as a PNG on white."""
    ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
    out = io.BytesIO()
    Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB").save(out, "PNG")
    return out.getvalue()


def _tiled(rows: list[list[npt.NDArray[np.uint8]]], *, gap: int, first: int | None = None) -> npt.NDArray[np.uint8]:
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    extra = 0 if first is None else first - gap
    shape = (len(rows) * (height + gap) - gap, columns * (width + gap) - gap + (extra if columns > 1 else 0), 4)
    sheet = np.zeros(shape, np.uint8)
    for i, row in enumerate(rows):
        for j, tile in enumerate(row):
            y, x = i * (height + gap), j * (width + gap) + (extra if j else 0)
            sheet[y : y + height, x : x + width] = tile
    return sheet


@dataclass(frozen=True, kw_only=True)
class Card:
    """Pictures side by side with lines of text under them, the first line in full ink."""

    pictures: tuple[Image.Image, ...]
    lines: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A contact sheet before it is drawn: its lettering as SVG, and pictures with place and side in its pixels."""

    lettering: str
    pictures: tuple[tuple[Image.Image, int, int, int], ...]


def contact_sheet(cards: Sequence[Card], *, side: int, columns: int) -> Sheet:
    """Arrange cards in a grid, each picture `side` pixels wide and high at most."""
    columns = max(1, min(columns, len(cards)))
    width = max(len(card.pictures) for card in cards) * (side + 4) - 4
    height = side + 10 + 15 * max(len(card.lines) for card in cards)
    parts: list[str] = []
    placed: list[tuple[Image.Image, int, int, int]] = []
    for k, card in enumerate(cards):
        x, y = 16 + (k % columns) * (width + 20), 16 + (k // columns) * (height + 14)
        placed += [(image, x + i * (side + 4), y, side) for i, image in enumerate(card.pictures)]
        parts += [_line(text, i, x, y + side + 15 * (i + 1), width) for i, text in enumerate(card.lines)]
    total = (32 + columns * (width + 20) - 20, 32 + -(-len(cards) // columns) * (height + 14) - 14)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="{total[0]}" height="{total[1]}">{"".join(parts)}</svg>'
    return Sheet(lettering=svg, pictures=tuple(placed))


def pasted(sheet: Sheet, drawn: bytes) -> bytes:
    """Put a sheet's pictures onto its drawn lettering, a PNG of any scale; returns a PNG.

    They stay out of the SVG because drawing them there takes several times as long.
    """
    canvas = Image.open(io.BytesIO(drawn)).convert("RGB")
    width = re.search(r'width="(\d+)"', sheet.lettering)
    scale = canvas.width / int(width[1]) if width else 1.0
    for image, x, y, side in sheet.pictures:
        longest = round(side * scale)
        shown = shrunk(enlarged(shrunk(image, longest), longest), longest).convert("RGBA")
        below = round((y + side) * scale) - shown.height
        canvas.paste(shown, (round(x * scale), below), shown)
    out = io.BytesIO()
    canvas.save(out, "PNG", compress_level=3)
    return out.getvalue()


def _line(text: str, place: int, x: int, y: int, width: int) -> str:
    size, colour = (12, INK) if place == 0 else (11, MUTED)
    shown = escape(shortened(text, int(width / (0.5 * size))))
    lettering = f'<text y="{size}" font-family="{FONTS}" font-size="{size}" fill="{colour}">{shown}</text>'
    # A nested drawing cuts off what a fallback font made too wide.
    return f'<svg x="{x}" y="{y - size}" width="{width + 10}" height="{size + 4}">{lettering}</svg>'
