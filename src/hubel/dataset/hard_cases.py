"""Pictures of every kind that the decoder treats in its own way, made up: to try two roads against each other."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from hubel.dataset.decode import ORIENTATION_TAG

SIDES = (150, 200)  # height and width of the plain ones, in pixels


def hard_cases(size: tuple[int, int] = (64, 64)) -> dict[str, bytes]:
    """Return name → a file's bytes: 16 bits, CMYK, transparency, EXIF, animation, floats, and extreme shapes.

    Args:
        size: height and width that one of them has exactly: the network's own.
    """
    photo = _photo(*SIDES)
    grey = photo.convert("L")
    clear = photo.convert("RGBA")
    clear.putalpha(grey)
    pale = grey.convert("LA")
    pale.putalpha(grey.rotate(180))
    ramp = np.linspace(0, 65535, grey.width * grey.height).reshape(SIDES)
    made = {
        "photo.jpg": _file(photo, "JPEG", quality=90),
        "large.jpg": _file(photo.resize((2400, 1800), Image.Resampling.BICUBIC), "JPEG", quality=80),
        "grey.png": _file(grey, "PNG"),
        "grey16.png": _file(Image.fromarray(ramp.astype(np.uint16)), "PNG"),
        "cmyk.jpg": _file(photo.convert("CMYK"), "JPEG"),
        "alpha.png": _file(clear, "PNG"),
        "grey-alpha.png": _file(pale, "PNG"),
        "palette.png": _file(photo.quantize(32), "PNG", transparency=3),
        "animated.gif": _file(photo, "GIF", save_all=True, append_images=[photo.rotate(180)]),
        "float.tiff": _file(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"),
        "one-bit.png": _file(photo.convert("1"), "PNG"),
        "one-pixel.png": _file(_photo(1, 1), "PNG"),
        "wide.png": _file(_photo(1, 10000), "PNG"),
        "tall.png": _file(_photo(3000, 20), "PNG"),
        "exact.png": _file(_photo(*size), "PNG"),
    }
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[ORIENTATION_TAG] = orientation
        made[f"exif{orientation}.jpg"] = _file(photo, "JPEG", exif=exif, quality=90)
    return made


def _photo(height: int, width: int) -> Image.Image:
    """Coarse colours under fine noise, so that every pixel counts; always the same."""
    rng = np.random.default_rng(height * 100_003 + width)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth // 2 + rng.integers(0, 128, smooth.shape)).astype(np.uint8))


def _file(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()
