"""Pictures that are in memory already, as the bytes of a file: they take the one road that files take."""

from __future__ import annotations

import io
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from hubel.dataset.decode import Source
from hubel.dataset.depth import is_deep
from hubel.errors import ImageError

Picture: TypeAlias = Source | Image.Image | npt.NDArray[Any]
PLAIN = ("1", "L", "LA", "P", "RGB", "RGBA")  # Pillow's modes that a PNG holds


def as_file(picture: Picture) -> Source:
    """Return paths and bytes as they are, and Pillow's images and arrays as the bytes of a file without loss.

    Args:
        picture: an array is (H, W) or (H, W, 3) uint8.

    Raises:
        ImageError: it is none of them, or can't be read.
    """
    if isinstance(picture, (str, bytes)) or hasattr(picture, "__fspath__"):
        return cast(Source, picture)
    if not isinstance(picture, Image.Image):
        array = np.asarray(picture)
        if array.dtype != np.uint8 or not (array.ndim == 2 or array.shape[2:] == (3,)):
            raise ImageError(f"an array of {array.dtype} {array.shape}: expected is uint8, (H, W) or (H, W, 3)")
        picture = Image.fromarray(array)
    written = io.BytesIO()
    try:
        exif, kind = picture.getexif(), "TIFF" if is_deep(picture.mode) else "PNG"
        if kind == "PNG" and picture.mode not in PLAIN:
            picture = picture.convert("RGBA" if picture.mode in ("PA", "La", "RGBa") else "RGB")
        picture.save(written, kind, exif=exif, compress_level=1)
    except Exception as error:  # whatever Pillow raises on a file that it opened and reads only now
        raise ImageError(f"a picture that can't be read ({error})") from error
    return written.getvalue()
