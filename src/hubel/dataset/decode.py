"""The one image decoder: training, evaluation, explanation and serving all see a file through `decode`.

The road of one file: read (regular files only) → recognise by its first bytes → check the pixel count that the header
claims → decode the first frame → 8 bits → composite transparency → EXIF orientation → resize → channels. `upright` goes
as far as the orientation: an exported model does the rest itself.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import io
import math
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, features

from hubel.dataset.depth import Depth, depth_of, is_deep, to_bytes
from hubel.dataset.formats import (
    HEAD,
    fetch,
    gif_frames,
    inspect,
    open_regular,
    read_file,
    recognise,
    tiff_layout,
    tiff_pages,
)
from hubel.dataset.pillow_warnings import MUTED, QUIET
from hubel.errors import ImageError
from hubel.records import ImageFacts, Preprocess

Pixels: TypeAlias = npt.NDArray[np.uint8]
Source: TypeAlias = str | os.PathLike[str] | bytes

MAX_PIXELS = 80_000_000
LARGER = 4  # times as many pixels may be claimed by a JPEG that is decoded at a fraction
COLOUR_STEP = 8  # a pixel has colour when its channels differ by more; JPEG stores greys with small differences
COARSE = 8  # steps between the pixels that are asked for colour first

ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Of the filters, in pixels of the result or of the source, if these are wider
RADIUS = {"bilinear": 1.0, "bicubic": 2.0}


def decode(source: Source, preprocess: Preprocess, *, max_pixels: int | None = None) -> tuple[Pixels, ImageFacts]:
    """Decode one file, or its bytes, to exactly the pixels that a network sees before normalisation.

    Resampling is Pillow's, antialiased, with the filter that `preprocess` names; an image that has the wanted size
    already is not touched (unless ``crop_pct`` takes a margin away). JPEG files much larger than needed are decoded at
    a fraction of their size, never below twice the target.

    Values of more than 8 bits are scaled by ``preprocess.range``, if it says one. Otherwise 16-bit grey is divided by
    257; 32-bit integers stay if they lie in 0..255, are divided by 257 if they lie in 0..65535; floats in [0, 1] are
    multiplied by 255, floats in [0, 255] stay; anything else is stretched from its own minimum..maximum to 0..255. NaN
    becomes 0. A PGM says its range itself.

    Args:
        source: a path, or the file's bytes.
        max_pixels: more than these, as claimed by the header, are refused before anything is decoded; those of
            `preprocess` when None. Of a JPEG that is decoded at a fraction, the fraction counts.

    Returns:
        pixels (H, W, C) uint8 of ``preprocess.size`` and ``preprocess.channels``, and what was learned about the file.

    Raises:
        ImageError: the image can't be used.
    """
    max_pixels = preprocess.max_pixels if max_pixels is None else max_pixels
    data, kind = _recognised(source, max_pixels)
    with _blamed(kind):
        image, known = _upright(data, kind, preprocess, max_pixels)
        image = _fitted(image, preprocess)
        pixels = np.array(image)
        colour = image.mode == "RGB" and _has_colour(pixels)
        wanted = "L" if preprocess.channels == 1 else "RGB"
        if image.mode != wanted:
            pixels = np.array(image.convert(wanted))
    facts = replace(known, colour=colour, sha256=hashlib.sha256(data).hexdigest())
    return pixels.reshape(*preprocess.size, preprocess.channels), facts


def upright(source: Source, preprocess: Preprocess, *, max_pixels: int | None = None) -> Pixels:
    """Decode one file, or its bytes, as `decode` does, and stop before the resizing.

    `preprocess` decides the colour under transparency, and the fraction at which a JPEG much larger than needed is
    decoded: another decoder, at full size, leads to slightly different answers for such files, and only for them.

    Returns:
        pixels (H, W, 3) uint8, turned as EXIF says, grey repeated in all channels.

    Raises:
        ImageError: the image can't be used.
    """
    max_pixels = preprocess.max_pixels if max_pixels is None else max_pixels
    data, kind = _recognised(source, max_pixels)
    with _blamed(kind):
        return np.array(_upright(data, kind, preprocess, max_pixels)[0].convert("RGB"))


def examine(source: Source, *, max_pixels: int = MAX_PIXELS) -> ImageFacts:
    """Read one file's header only.

    ``colour`` and ``transparent`` are guessed from the mode, ``sha256`` stays empty, and the frames of GIF and TIFF
    files aren't counted.

    Raises:
        ImageError: the header says that the image can't be used, or there is none.
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)[0] as file:
        kind = recognise(fetch(file, HEAD))
        file.seek(0)
        with _blamed(kind):
            return _facts(_opened(file, kind, max_pixels), kind)


def measure(source: Source, *, max_pixels: int = MAX_PIXELS) -> Depth:
    """Decode one file whose mode has more than 8 bits, and say between which values its pixels lie.

    Raises:
        ImageError: the image can't be used.
    """
    data, kind = _recognised(source, max_pixels)
    with _blamed(kind):
        image = _opened(io.BytesIO(data), kind, max_pixels)
        _load(image, kind)
        return depth_of(image)


def readers() -> list[str]:
    """What reads images here, with versions: with another list, a file that was refused may be read."""
    heif = importlib.metadata.version("pillow_heif") if importlib.util.find_spec("pillow_heif") else None
    codecs = {name: features.version(name) for name in ("pil", "jpg", "zlib", "libtiff", "webp", "avif")}
    return [f"{name} {version}" for name, version in {**codecs, "heif": heif}.items()]


def _recognised(source: Source, max_pixels: int) -> tuple[bytes, str]:
    data = source if isinstance(source, bytes) else read_file(source, max_pixels)
    kind = recognise(data[:HEAD])
    inspect(data, kind)
    return data, kind


@contextmanager
def _blamed(kind: str) -> Iterator[None]:
    """Whatever Pillow raises on hostile bytes is the file's fault."""
    with QUIET:
        try:
            yield
        except ImageError:
            raise
        except Exception as error:
            raise ImageError(_reason(kind, error)) from error


def _opened(file: Any, kind: str, max_pixels: int) -> ImageFile.ImageFile:
    """Parse the header; Pillow's own check of sizes, a warning for the whole process, isn't involved."""
    plugin = {"WEBP": "WebP"}.get(kind, kind.capitalize())
    try:
        module = importlib.import_module("pillow_heif" if kind == "HEIF" else f"PIL.{plugin}ImagePlugin")
        reader = getattr(module, f"{plugin}ImageFile")
    except (ImportError, AttributeError) as error:
        remedy = "convert it to JPEG, or pip install 'hubel[heic]'" if kind == "HEIF" else "convert it to JPEG"
        raise ImageError(f"this installation can't read {kind}: {remedy}") from error
    try:
        image = cast(ImageFile.ImageFile, reader(file))
    except SyntaxError as error:
        if kind != "TIFF":
            raise
        raise ImageError(f"a kind of TIFF that is not supported ({tiff_layout(file)}): convert it to PNG") from error
    at_a_fraction = kind == "JPEG" and not image.info.get("progressive")  # which holds the whole picture in memory
    _check_pixels(image.size, image.size, max_pixels * LARGER if at_a_fraction else max_pixels)
    return image


def _check_pixels(claimed: tuple[int, int], decoded: tuple[int, int], max_pixels: int) -> None:
    if decoded[0] * decoded[1] > max_pixels:
        width, height = claimed
        raise ImageError(
            f"the header claims {width}x{height} pixels, {width * height / 1e6:.4g} megapixels; "
            f"allowed are {max_pixels / 1e6:.4g} (max_pixels)"
        )


def _load(image: ImageFile.ImageFile, kind: str) -> None:
    with MUTED if kind == "TIFF" else nullcontext():  # its library complains on standard error
        image.load()


def _reason(kind: str, error: Exception) -> str:
    """Put an exception of Pillow into a few words."""
    text = str(error).strip().splitlines()[0][:120] if str(error).strip() else type(error).__name__
    if isinstance(error, MemoryError):
        return f"not enough memory to decode this {kind}"
    if isinstance(error, Image.DecompressionBombError):
        return "the header claims more pixels than Pillow decodes"
    if "truncated" in text.lower() or isinstance(error, (EOFError, struct.error)):
        return f"truncated {kind}"
    return f"damaged {kind} ({text})"


# Decoding


def _upright(data: bytes, kind: str, preprocess: Preprocess, max_pixels: int) -> tuple[Image.Image, ImageFacts]:
    """Return the picture as ``L`` or ``RGB``, and what is known about the file by then."""
    opened = _opened(io.BytesIO(data), kind, max_pixels)
    facts = _facts(opened, kind)
    if kind == "JPEG":
        claimed = opened.size
        opened.draft(facts.mode, _draft_size(claimed, preprocess, facts.orientation >= 5))
        _check_pixels(claimed, opened.size, max_pixels)
    _load(opened, kind)
    left = _orientation(opened)  # of a PNG it may be known only now, of a TIFF it is done already
    image, transparent = _plain(opened, kind, preprocess)
    if left != 1:
        image = image.transpose(_UPRIGHT[left])
    count = {"GIF": gif_frames, "TIFF": tiff_pages}.get(kind)
    frames = facts.frames if count is None else count(data)
    return image, replace(facts, frames=frames, orientation=max(facts.orientation, left), transparent=transparent)


def _facts(image: ImageFile.ImageFile, kind: str) -> ImageFacts:
    """What the header alone tells."""
    orientation = _orientation(image)
    width, height = image.size[::-1] if kind == "TIFF" and orientation >= 5 else image.size  # it is given upright
    return ImageFacts(
        width=width,
        height=height,
        mode=image.mode,
        format=kind,
        frames=1 if kind in ("GIF", "TIFF") else int(getattr(image, "n_frames", 1)),
        orientation=orientation,
        transparent=_may_be_transparent(image),
        colour=image.mode not in ("1", "L", "LA", "La") and not is_deep(image.mode),
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 when there is none or the EXIF block is damaged."""
    if image.info.keys().isdisjoint(("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")) and not hasattr(
        image, "tag_v2"
    ):
        return 1
    try:
        value = Image.Image.getexif(image).get(ORIENTATION_TAG, 1)
    except Exception:  # damaged metadata is no reason to refuse a sound picture
        return 1
    return value if isinstance(value, int) and value in _UPRIGHT else 1


# From any mode to 8-bit grey or RGB


def _plain(image: Image.Image, kind: str, preprocess: Preprocess) -> tuple[Image.Image, bool]:
    """Turn any mode into ``L`` or ``RGB``; also says whether transparency was composited on the background."""
    mode = image.mode
    if mode in ("RGB", "L") and "transparency" not in image.info:
        return image, False
    if is_deep(mode):
        grey = Image.fromarray(to_bytes(image, kind, preprocess.range))
        if not isinstance(key := image.info.get("transparency"), int):
            return grey, False
        clear = np.asarray(image) == key
        filled = Image.new("RGB", grey.size, preprocess.background)
        return Image.composite(filled, grey.convert("RGB"), Image.fromarray(clear)), bool(clear.any())
    if _may_be_transparent(image):
        full = image.convert("RGBA")
        lowest, _ = cast(tuple[int, int], full.getchannel("A").getextrema())
        if lowest == 255:
            return full.convert("RGB"), False
        canvas = Image.new("RGB", full.size, preprocess.background)
        canvas.paste(full, mask=full)
        return canvas, True
    return image.convert("L" if mode == "1" else "RGB"), False


def _may_be_transparent(image: Image.Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info


def _has_colour(pixels: Pixels) -> bool:
    """Whether the channels of any pixel of (H, W, 3) differ by more than `COLOUR_STEP`."""
    for seen in (pixels[::COARSE, ::COARSE], pixels):  # a few pixels settle it for nearly every picture
        red, green, blue = seen[..., 0], seen[..., 1], seen[..., 2]
        spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
        if spread.max() > COLOUR_STEP:
            return True
    return False


# To the wanted size


def _draft_size(size: tuple[int, int], preprocess: Preprocess, turned: bool) -> tuple[int, int]:
    """The least size (width, height) a JPEG may be decoded at: twice what the network sees of it."""
    height, width = preprocess.size
    if turned:
        height, width = width, height
    across, down = width / size[0], height / size[1]
    if preprocess.fit == "crop":
        across = down = max(across, down) / preprocess.crop_pct
    elif preprocess.fit == "pad":
        across = down = min(across, down)
    return max(1, round(2 * across * size[0])), max(1, round(2 * down * size[1]))


def _fitted(image: Image.Image, preprocess: Preprocess) -> Image.Image:
    """Bring an upright ``L`` or ``RGB`` image to the wanted size."""
    height, width = preprocess.size
    if image.size == (width, height) and (preprocess.fit != "crop" or preprocess.crop_pct == 1):
        return image
    box_width, box_height, inner = float(image.width), float(image.height), (width, height)
    if preprocess.fit == "crop":
        box_width = min(image.width, image.height * width / height) * preprocess.crop_pct
        box_height = min(image.height, image.width * height / width) * preprocess.crop_pct
    elif preprocess.fit == "pad":
        scale = min(width / image.width, height / image.height)
        inner = (min(width, max(1, round(image.width * scale))), min(height, max(1, round(image.height * scale))))
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    small = _scaled(image, inner, (left, top, left + box_width, top + box_height), preprocess.interpolation)
    if inner == (width, height):
        return small
    grey = image.mode == "L" and len(set(preprocess.background)) == 1
    filling = preprocess.background[:1] if grey else preprocess.background
    canvas = Image.new("L" if grey else "RGB", (width, height), filling)
    canvas.paste(small, ((width - inner[0]) // 2, (height - inner[1]) // 2))
    return canvas


def _scaled(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float], interpolation: str
) -> Image.Image:
    """Bring the box to (width, height): the rows that are needed, first across, then down.

    Pillow would do both at once, but which one first differs between its versions, and the last bit with it.
    """
    left, top, right, bottom = box
    margin = RADIUS[interpolation] * max((bottom - top) / size[1], 1.0)
    above, below = max(math.floor(top - margin), 0), min(math.ceil(bottom + margin), image.height)
    if (above, below) != (0, image.height):
        image = image.crop((0, above, image.width, below))
    filtered = _FILTERS[interpolation]
    across = image.resize((size[0], image.height), filtered, box=(left, 0, right, image.height))
    return across.resize(size, filtered, box=(0, top - above, size[0], bottom - above))
