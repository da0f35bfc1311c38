"""Read a file's bytes without being blocked or flooded, name its format, and find damage that Pillow passes over."""

from __future__ import annotations

import os
import stat
import zlib
from typing import Any, BinaryIO

from hubel.dataset.tar import open_entry
from hubel.errors import ImageError

ACCEPTED = "JPEG, PNG, GIF, BMP, TIFF, WEBP, PPM, AVIF and, with pip install 'hubel[heic]', HEIC"
HEAD = 64  # bytes that are read before the rest of a file
MAX_SCANS = 200  # a progressive JPEG has about ten; thousands of them are a way to block a server
MAX_CHUNKS = 200_000  # of a PNG
OF_A_KIND = ("a kind of", "this installation can't read")  # begin what is said of a kind of files, not of one
FRAMES_COUNTED = 1000  # frames beyond are not counted

# The first bytes of files: of images that are accepted, and of others, with what these are called
_ACCEPTED: dict[str, tuple[bytes, ...]] = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
    "PPM": tuple(b"P%d%c" % (number, space) for number in (4, 5, 6) for space in b" \t\n\r\v\f"),
}
_FOREIGN: dict[str, tuple[bytes, ...]] = {
    "a PDF document": (b"%PDF",),
    "a Photoshop drawing": (b"8BPS",),
    "a GIMP drawing": (b"gimp xcf",),
    "a Windows icon": (b"\x00\x00\x01\x00",),
    "a JPEG 2000 file": (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51"),
    "a JPEG XL file": (b"\xff\x0a", b"\x00\x00\x00\x0cJXL "),
    "an archive": (b"PK\x03\x04", b"\x1f\x8b"),
    "a NumPy array": (b"\x93NUMPY",),
    "an OpenEXR file": (b"v/1\x01",),
    "a Radiance file": (b"#?RADIANCE",),
    "a DirectDraw texture": (b"DDS ",),
    "a QOI file": (b"qoif",),
    "a bitmap written as text": (b"P1", b"P2", b"P3"),
}


def open_regular(path: str | os.PathLike[str]) -> tuple[BinaryIO, int]:
    """Open a regular file, or an image inside a tar file; returns it with its size in bytes.

    A FIFO would block on open, so it is looked at first.
    """
    try:
        status = os.stat(path)
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("not a regular file (a pipe, socket or device)")
        return open(path, "rb"), status.st_size
    except (FileNotFoundError, NotADirectoryError) as error:
        if entry := open_entry(path):
            return entry
        raise ImageError("the link leads nowhere" if os.path.islink(path) else "the file has vanished") from error
    except PermissionError as error:
        raise ImageError("no permission to read the file") from error
    except ValueError as error:
        raise ImageError("the name contains a NUL character") from error
    except OSError as error:
        raise ImageError(f"the file can't be read ({error.strerror})") from error


def read_file(path: str | os.PathLike[str], max_pixels: int) -> bytes:
    file, size = open_regular(path)
    with file:
        limit = max(8 * max_pixels, 1 << 26)  # 8 bytes a pixel: uncompressed 16-bit RGBA
        head = fetch(file, HEAD)
        recognise(head)  # a huge file that is no image is refused before it is read
        if size > limit:
            raise ImageError(f"the file has {size / 1e6:.0f} MB, more than {max_pixels / 1e6:.0f} megapixels need")
        return head + fetch(file, size - len(head))


def fetch(file: Any, size: int) -> bytes:
    """Read up to `size` bytes; an input error becomes an ImageError."""
    try:
        return bytes(file.read(size))
    except OSError as error:
        raise ImageError(f"the file can't be read ({error.strerror})") from error


# Recognising: by the first bytes, never by the name


def recognise(head: bytes) -> str:
    """Name the format of a file that begins with `head`, or say why it isn't accepted."""
    for kind, beginnings in _ACCEPTED.items():
        if head.startswith(beginnings):
            return kind
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] != b"ftyp":
        raise ImageError(_stranger(head))
    brands = head[8 : min(int.from_bytes(head[:4], "big"), HEAD)]  # of an ISO media file
    if b"avif" in brands or b"avis" in brands:
        return "AVIF"
    if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")):
        return "HEIF"
    raise ImageError("a video or another media file, not an image")


def _stranger(head: bytes) -> str:
    """Say in a few words what a file is that isn't an accepted image."""
    if not head:
        return "empty file"
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"html" not in text):
        return "an SVG or another XML file; SVG is a vector drawing: export it as PNG"
    if text.startswith((b"<!doctype html", b"<html")):
        return "a web page, not an image"
    for name, beginnings in _FOREIGN.items():
        if head.startswith(beginnings):
            return f"{name}, which isn't accepted: convert it to JPEG or PNG (accepted are {ACCEPTED})"
    if not head.strip(b"\0"):
        return "not an image (the file begins with zeros only)"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in head):
        return "not an image (the file is text)"
    return f"not an image, or a format that isn't accepted: convert it to JPEG or PNG (accepted are {ACCEPTED})"


def inspect(data: bytes, kind: str) -> None:
    """Find damage that Pillow passes over, and pictures made to be slow."""
    if kind == "PNG":
        _check_chunks(data)
    elif kind == "JPEG":
        scans = data.count(b"\xff\xda")
        if scans == 0:
            raise ImageError("truncated JPEG: a header without a picture")
        if scans > MAX_SCANS:
            raise ImageError(f"a JPEG in {scans} passes, which only serves to be slow")


def _check_chunks(data: bytes) -> None:
    """Compare the checksums of a PNG's critical chunks; Pillow skips those of the picture itself."""
    position, pictures = 8, 0
    for _ in range(MAX_CHUNKS):
        if position + 12 > len(data):
            raise ImageError("truncated PNG" if pictures else "truncated PNG: a header without a picture")
        length = int.from_bytes(data[position : position + 4], "big")
        name, end = data[position + 4 : position + 8], position + 8 + length
        if end + 4 > len(data):
            raise ImageError("truncated PNG")
        if not name[0] & 0x20:  # an upper-case first letter marks a critical chunk
            if zlib.crc32(memoryview(data)[position + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
                raise ImageError(f"damaged PNG: wrong checksum (CRC) in chunk {name.decode('latin-1')!r}")
            pictures += name == b"IDAT"
            if name == b"IEND":
                if not pictures:
                    raise ImageError("damaged PNG: no picture inside")
                return
        position = end + 4
    raise ImageError(f"a PNG of more than {MAX_CHUNKS} pieces, which only serves to be slow")


# Counting frames: by the file's structure and with a limit, which Pillow's own counts don't have


def gif_frames(data: bytes) -> int:
    """Count the frames of a GIF by its block structure, within the first 16 MB; Pillow's count has no limit."""
    position = 13 + ((2 << (data[10] & 7)) * 3 if data[10] & 0x80 else 0)
    frames, end = 0, min(len(data), 1 << 24)
    while position + 10 < end and frames < FRAMES_COUNTED and data[position] in (0x2C, 0x21):
        if data[position] == 0x2C:
            frames += 1
            flags = data[position + 9]
            position += 11 + ((2 << (flags & 7)) * 3 if flags & 0x80 else 0)
        else:
            position += 2
        while position < end and data[position]:
            position += data[position] + 1
        position += 1
    return max(frames, 1)


def tiff_pages(data: bytes) -> int:
    """Count the pages of a TIFF by its chain of directories."""
    order: Any = "little" if data[:2] == b"II" else "big"
    big = int.from_bytes(data[2:4], order) == 43
    count_size, entry_size, word = (8, 20, 8) if big else (2, 12, 4)
    position = int.from_bytes(data[8:16] if big else data[4:8], order)
    seen: set[int] = set()
    while 0 < position < len(data) and position not in seen and len(seen) < FRAMES_COUNTED:
        seen.add(position)
        entries = int.from_bytes(data[position : position + count_size], order)
        link = position + count_size + entries * entry_size
        position = int.from_bytes(data[link : link + word], order)
    return max(len(seen), 1)


def tiff_layout(file: Any) -> str:
    """Say in a few words how the pixels of a TIFF are stored, such as ``5 × 8-bit integer, compression 1``."""
    file.seek(0)
    head = fetch(file, 16)
    order: Any = "little" if head[:2] == b"II" else "big"
    big = int.from_bytes(head[2:4], order) == 43
    count_size, entry_size, word = (8, 20, 8) if big else (2, 12, 4)

    def number(place: int, size: int) -> int:
        file.seek(place)
        return int.from_bytes(fetch(file, size), order)

    start = int.from_bytes(head[8:16] if big else head[4:8], order)
    values = {277: 1, 258: 1, 259: 1, 339: 1}  # samples, bits, compression, and how numbers are written
    for place in range(min(number(start, count_size), 100)):
        entry = start + count_size + place * entry_size
        tag, length = number(entry, 2), number(entry + 4, word)
        if tag in values:  # shorts, of which the first is looked at
            at = entry + 4 + word
            values[tag] = number(at if 2 * length <= word else number(at, word), 2)
    samples, bits, compression, written = values.values()
    kind = {2: "signed integer", 3: "float", 5: "complex integer", 6: "complex number"}.get(written, "integer")
    return f"{samples} × {bits}-bit {kind}, compression {compression}"
