"""Write a data folder with planted defects: four classes of shapes that can be learned, and what may go wrong there.

``python tests/defects.py FOLDER`` makes one to look at.
"""

from __future__ import annotations

import io
import math
import os
import struct
import sys
import unicodedata
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

SHAPES = {"circle": 0, "square": 4, "<script>": 3, "=cmd": 6}  # class: corners; the names are data, nothing more
HEALTHY = 60  # images of each class


def shape(kind: str, seed: int, side: int = 0) -> Image.Image:
    """A coloured shape on a clouded ground, with noise, 32 to 64 pixels wide; no corners make a circle, 6 a star."""
    rng = np.random.default_rng([SHAPES[kind], seed])
    side = side or int(rng.integers(32, 65))
    ink = rng.integers(150, 256, 3)
    clouds = Image.fromarray(rng.integers(0, 140, (6, 6, 3), dtype=np.uint8))
    image = clouds.resize((side, side), Image.Resampling.BICUBIC)
    radius, turn = side * rng.uniform(0.25, 0.4), rng.uniform(0, math.tau)
    x, y = side / 2 + rng.uniform(-0.1, 0.1, 2) * side
    draw = ImageDraw.Draw(image)
    if SHAPES[kind] == 0:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tuple(ink.tolist()))
    else:
        corners = 2 * SHAPES[kind] if SHAPES[kind] == 6 else SHAPES[kind]
        reach = [radius * (0.4 if SHAPES[kind] == 6 and i % 2 else 1) for i in range(corners)]
        angles = [turn + math.tau * i / corners for i in range(corners)]
        points = [(x + r * math.cos(a), y + r * math.sin(a)) for r, a in zip(reach, angles, strict=True)]
        draw.polygon(points, fill=tuple(ink.tolist()))
    noise = rng.normal(0, 8, (side, side, 3))
    return Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header claims many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(bytes(1_000_000), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def plant(root: Path) -> dict[str, str]:
    """Write the folder; returns path → ``code: what``, where the code is the finding's, or ``fine`` if none is due.

    Paths are relative and as findings write them.
    """
    for kind in SHAPES:
        (root / kind).mkdir(parents=True)
        for number in range(HEALTHY):
            shape(kind, number).save(root / kind / f"{number:03d}.png")
    planted = {}
    for path, (data, what) in {**_unusable(), **_unusual(), **_copies(root)}.items():
        (root / path).write_bytes(data)
        planted[path] = what
    return {**planted, **_names(root), **_tree(root)}


def _unusable() -> dict[str, tuple[bytes, str]]:
    """Files that are to be named with a reason."""
    sound = shape("circle", 500, 64)
    jpeg, png, gif, webp = (encoded(sound, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP"))
    wrong = bytearray(png)
    wrong[png.index(b"IDAT") + 30] ^= 4
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><circle r="9"/></svg>'
    files: dict[str, tuple[bytes, str]] = {
        "empty.jpg": (b"", "empty file"),
        "words.jpg": (b"These are only words, although the name promises a photograph of something.", "text"),
        "half.jpg": (jpeg[: len(jpeg) // 2], "half a JPEG"),
        "header.jpg": (jpeg[:200], "a JPEG's header only"),
        "slow.jpg": (jpeg + b"\xff\xda" * 3000, "thousands of passes"),
        "half.png": (png[: len(png) // 2], "half a PNG"),
        "header.png": (png[:33], "a PNG's header only"),
        "flipped.png": (bytes(wrong), "a wrong checksum"),
        "half.gif": (gif[: len(gif) // 2], "half a GIF"),
        "half.webp": (webp[: len(webp) // 2], "half a WEBP"),
        "bomb90.png": (bomb(10000, 9000), "90 megapixels claimed"),
        "bomb180.png": (bomb(15000, 12000), "180 megapixels claimed"),
        "drawing.svg": (svg, "a vector drawing"),
        "drawing.png": (svg, "a vector drawing called PNG"),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", "an error page saved as an image"),
        "document.jpg": (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n1 0 obj", "a PDF"),
        "layers.psd": (b"8BPS\0\1" + bytes(60), "a Photoshop file"),
        "icon.ico": (b"\0\0\1\0\1\0\x10\x10" + bytes(60), "a Windows icon"),
        "film.jpg": (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(60), "a video"),
        "archive.png": (b"PK\x03\x04" + bytes(60), "an archive"),
        "zeros.png": (bytes(4096), "zeros"),
        "nameless": (np.random.default_rng(0).bytes(3000), "random bytes without an ending"),
        "nan.tif": (encoded(Image.fromarray(np.full((40, 40), np.nan, np.float32)), "TIFF"), "nothing but NaN"),
    }
    return {f"circle/{name}": (data, f"unreadable: {what}") for name, (data, what) in files.items()}


def _unusual() -> dict[str, tuple[bytes, str]]:
    """Files that are to be decoded rightly, most with a note."""
    square = [shape("square", 600 + i, 48) for i in range(24)]
    grey = [np.asarray(image.convert("L")) for image in square]
    deep = Image.fromarray(np.linspace(0, 65535, 48 * 48).reshape(48, 48).astype(np.uint16))
    clear = square[0].convert("RGBA")
    clear.putalpha(Image.fromarray(np.where(grey[0] > 120, 255, 0).astype(np.uint8)))
    pair = Image.merge("LA", (Image.fromarray(grey[1]), Image.linear_gradient("L").resize((48, 48))))
    files = {
        "deep.png": (encoded(deep, "PNG"), "deep: 16-bit grey"),
        "deep.tif": (encoded(deep.transpose(Image.Transpose.ROTATE_90), "TIFF"), "deep: 16-bit grey TIFF"),
        "float.tif": (encoded(Image.fromarray(grey[2].astype(np.float32) / 255), "TIFF"), "deep: floats"),
        "inks.jpg": (encoded(square[3].convert("CMYK"), "JPEG"), "cmyk: inverted as Adobe does"),
        "inks.tif": (encoded(square[4].convert("CMYK"), "TIFF"), "cmyk: TIFF"),
        "clear.png": (encoded(clear, "PNG"), "transparent: RGBA"),
        "pair.png": (encoded(pair, "PNG"), "transparent: LA"),
        "palette.png": (encoded(square[5].quantize(8), "PNG", transparency=0), "transparent: a colour of the palette"),
        "animated.gif": (encoded(square[6], "GIF", save_all=True, append_images=square[7:9]), "frames: GIF"),
        "animated.png": (encoded(square[9], "PNG", save_all=True, append_images=square[10:12]), "frames: APNG"),
        "pages.tif": (encoded(square[12], "TIFF", save_all=True, append_images=square[13:15]), "frames: TIFF"),
        "one.png": (encoded(square[15].resize((1, 1)), "PNG"), "tiny: 1x1"),
        "ribbon.png": (encoded(Image.linear_gradient("L").resize((10000, 1)), "PNG"), "aspect: 10000x1"),
        "black.png": (encoded(Image.new("RGB", (48, 48)), "PNG"), "one-colour: black"),
        "grey.jpg": (encoded(Image.fromarray(grey[16]), "JPEG"), "grey-among-colour: one grey image"),
        "two.bmp": (encoded(square[17].convert("1"), "BMP"), "grey-among-colour: one bit"),
        "wrong.gif": (encoded(square[18], "JPEG"), "fine: a JPEG called GIF"),
        "UPPER.JPEG": (encoded(square[19], "JPEG"), "fine: an ending in capitals"),
        "trailing.jpg": (encoded(square[20], "JPEG") + b"trailing bytes", "fine: bytes after the end"),
    }
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # how to store it so that the orientation puts it upright
    for orientation, turn in back.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = shape("square", 650 + orientation, 48).transpose(Image.Transpose(turn))
        files[f"turned{orientation}.jpg"] = (
            encoded(stored, "JPEG", exif=exif),
            f"rotated: EXIF orientation {orientation}",
        )
    return {f"square/{name}": entry for name, entry in files.items()}


def _copies(root: Path) -> dict[str, tuple[bytes, str]]:
    kinds = list(SHAPES)
    again = shape("circle", 7, 0)
    smaller = shape("circle", 9, 0)
    smaller = smaller.resize((smaller.width * 3 // 4, smaller.height * 3 // 4))
    return {
        "circle/copy.png": ((root / "circle/003.png").read_bytes(), "duplicate: the same bytes"),
        f"{kinds[2]}/copy.png": ((root / kinds[3] / "005.png").read_bytes(), "label-conflict: one image, two labels"),
        "circle/again.jpg": (encoded(again, "JPEG", quality=90), "near-duplicate: saved again as JPEG"),
        "circle/smaller.png": (encoded(smaller, "PNG"), "near-duplicate: at three quarters of the size"),
    }


def _names(root: Path) -> dict[str, str]:
    """Names that are unusual, and names that collide."""
    accented = "caf\u00e9.png"
    long = "n" * 251 + ".png"
    fine = {
        f"circle/{long}": "a name of 255 bytes",
        "circle/new\nline.png": "a line break in the name",
        "circle/'quoted' & $(echo).png": "a name that a shell would run",
        "circle/\u5713.png": "a Chinese name",
    }
    for number, path in enumerate([*fine, "circle/Twin.png", "circle/twin.png"]):
        shape("circle", 700 + number).save(root / path)
    shape("circle", 720).save(root / "circle" / accented)
    shape("circle", 721).save(root / "circle" / unicodedata.normalize("NFD", accented))
    shape("circle", 730).save(os.fsencode(root) + b"/circle/latin-\xe9.png")
    return {
        **{path: f"fine: {what}" for path, what in fine.items()},
        "circle/twin.png": "name-collision: only the case differs",
        f"circle/{accented}": "name-collision: only the Unicode form differs",
        "circle/latin-\\xe9.png": "name-encoding: not UTF-8",
    }


def _tree(root: Path) -> dict[str, str]:
    """Links, pipes, junk and folders."""
    (root / "empty").mkdir()
    (root / "square/more/deeper").mkdir(parents=True)
    shape("square", 750).save(root / "square/more/deeper/nested.png")
    shape("square", 751).save(root / "stray.png")
    for junk in ("circle/.DS_Store", "circle/Thumbs.db", "circle/._000.png"):
        (root / junk).write_bytes(b"\0\0\0\1Bud1")
    (root / "circle/notes.txt").write_text("bought in March")
    (root / "circle/labels.json").write_text("{}")
    (root / "__MACOSX").mkdir()
    os.mkfifo(root / "circle/pipe.png")
    (root / "circle/nowhere.png").symlink_to("missing.png")
    (root / "circle/self.png").symlink_to("self.png")
    (root / "circle/out").symlink_to(root.parent)
    (root / "circle/loop").symlink_to("..")
    (root / "square/linked.png").symlink_to("001.png")
    return {
        "empty": "empty-class: no image inside",
        "square/more/deeper/nested.png": "fine: folders inside a class",
        "stray.png": "stray-files: beside the classes",
        "circle/.DS_Store": "hidden: left by a system",
        "circle/Thumbs.db": "hidden: left by a system",
        "circle/._000.png": "hidden: left by a system",
        "__MACOSX": "hidden: left by an archive",
        "circle/notes.txt": "other-files: a text",
        "circle/labels.json": "other-files: a table",
        "circle/pipe.png": "special-file: a pipe",
        "circle/nowhere.png": "broken-link: to a missing file",
        "circle/self.png": "broken-link: to itself",
        "circle/out": "outside-link: to the folder above",
        "circle/loop": "link-loop: to the data's folder",
        "square/linked.png": "duplicate: a link to another image",
    }


if __name__ == "__main__":
    for place, planted_what in plant(Path(sys.argv[1])).items():
        print(f"{place!r}: {planted_what}")
