"""The decoder: every kind of file comes out right, or is refused with a reason."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from hubel.dataset import decode as decoder
from hubel.dataset.decode import decode, examine, upright
from hubel.dataset.hard_cases import hard_cases
from hubel.dataset.pack import _key
from hubel.errors import ImageError
from hubel.records import Fit, ImageFacts, Interpolation, Preprocess

GREY = Preprocess(size=(32, 48), channels=1, fit="squash")
COLOUR = Preprocess(size=(32, 48), channels=3, fit="squash")


def photo(height: int = 32, width: int = 48, seed: int = 0) -> Image.Image:
    """A smooth colourful picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def file_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def ramp16() -> npt.NDArray[np.uint16]:
    """(32, 48) from 0 to 65535."""
    return np.linspace(0, 65535, 32 * 48).reshape(32, 48).astype(np.uint16)


def reason_of(source: Any, preprocess: Preprocess = COLOUR, **options: Any) -> str:
    with pytest.raises(ImageError) as caught:
        decode(source, preprocess, **options)
    return caught.value.reason


def close(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8], mean: float, most: float = 255) -> bool:
    difference = np.abs(a.astype(float) - b)
    return bool(difference.mean() <= mean and difference.max() <= most)


# What comes out


def test_png_is_returned_untouched_with_its_facts(tmp_path: Path) -> None:
    image = photo()
    image.save(tmp_path / "a.png")
    pixels, facts = decode(tmp_path / "a.png", COLOUR)
    assert np.array_equal(pixels, np.asarray(image))
    assert pixels.dtype == np.uint8
    assert pixels.flags.writeable
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    assert facts == ImageFacts(width=48, height=32, mode="RGB", format="PNG", sha256=digest)


def test_path_text_and_bytes_agree(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    path.write_bytes(file_of(photo(), "JPEG"))  # the wrong extension is fine
    pixels = [decode(source, COLOUR)[0] for source in (path, str(path), path.read_bytes())]
    assert np.array_equal(pixels[0], pixels[1])
    assert np.array_equal(pixels[0], pixels[2])
    assert decode(path, COLOUR)[1].format == "JPEG"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_every_format_shows_the_same_picture(kind: str) -> None:
    module = "AvifImagePlugin" if kind == "AVIF" else "Image"
    pytest.importorskip(f"PIL.{module}")
    pixels, facts = decode(file_of(photo(), kind), COLOUR)
    assert close(pixels, np.asarray(photo()), mean=12 if kind == "GIF" else 6)
    assert facts.format == kind
    assert facts.colour


def test_heic_needs_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    heif = pytest.importorskip("pillow_heif")
    stream = io.BytesIO()
    heif.from_pillow(photo(64, 64)).save(stream)
    preprocess = Preprocess(size=(64, 64))
    pixels, facts = decode(stream.getvalue(), preprocess)
    assert close(pixels, np.asarray(photo(64, 64)), mean=8)
    assert facts.format == "HEIF"
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "hubel[heic]" in reason_of(stream.getvalue(), preprocess)


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_colour_agree_with_pillow(channels: int) -> None:
    pixels, _ = decode(file_of(photo(), "PNG"), Preprocess(size=(32, 48), channels=channels))
    expected = np.asarray(photo().convert("L") if channels == 1 else photo())
    assert np.array_equal(pixels.squeeze(), expected)
    assert pixels.shape == (32, 48, channels)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_ramp_keeps_its_mean(kind: str) -> None:
    pixels, facts = decode(file_of(Image.fromarray(ramp16()), kind), GREY)
    assert facts.mode.startswith("I;16")
    assert not facts.colour
    assert abs(pixels.mean() - 127.5) < 0.1
    assert pixels.min() == 0
    assert pixels.max() == 255


def test_sixteen_bit_big_endian_tiff_and_pgm() -> None:
    body = ramp16().astype(">u2").tobytes()
    pgm, facts = decode(b"P5 48 32 65535\n" + body, GREY)
    assert facts.mode in ("I", "I;16", "I;16B")
    tags = [(256, 48), (257, 32), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 32), (279, len(body))]
    directory = struct.pack(">H", len(tags)) + b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in tags)
    tiff = b"MM\0*" + struct.pack(">I", 8 + len(body)) + body + directory + struct.pack(">I", 0)
    pixels, facts = decode(tiff, GREY)
    assert facts.mode == "I;16B"
    assert np.array_equal(pixels, pgm)
    assert abs(pixels.mean() - 127.5) < 0.1


def test_sixteen_bit_colour_png() -> None:
    plain = np.asarray(photo()).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in plain)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 48, 32, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.array_equal(decode(data, COLOUR)[0], np.asarray(photo()))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(0, 1, 1536), np.linspace(0, 255, 1536)),
        (np.linspace(0, 255, 1536), np.linspace(0, 255, 1536)),
        (np.linspace(-500, 3000, 1536), np.linspace(0, 255, 1536)),
        (np.full(1536, 0.5), np.full(1536, 127.5)),
        (np.full(1536, 7000.0), np.zeros(1536)),
    ],
    ids=["unit", "bytes", "stretched", "constant", "constant-outside"],
)
def test_float_tiff_follows_the_rule(values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    image = Image.fromarray(values.reshape(32, 48).astype(np.float32))
    pixels, facts = decode(file_of(image, "TIFF"), GREY)
    assert facts.mode == "F"
    assert np.abs(pixels.ravel() - expected).max() <= 0.51


def test_float_tiff_with_nan_and_infinity() -> None:
    values = np.linspace(0, 1, 1536).reshape(32, 48).astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = np.nan, np.inf, -np.inf
    pixels, _ = decode(file_of(Image.fromarray(values), "TIFF"), GREY)
    assert pixels[0, :3, 0].tolist() == [0, 255, 0]
    assert abs(pixels.mean() - 127.5) < 1
    assert "NaN" in reason_of(file_of(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"))


@pytest.mark.parametrize(("top", "expected"), [(255, 255), (65535, 255), (2_000_000, 255)])
def test_32_bit_integers_follow_the_rule(top: int, expected: int) -> None:
    values = np.linspace(0, top, 1536).reshape(32, 48).astype(np.int32)
    pixels, facts = decode(file_of(Image.fromarray(values), "TIFF"), GREY)
    assert facts.mode == "I"
    assert abs(pixels.mean() - 127.5) < 1
    assert pixels.max() == expected


def test_a_range_that_is_given_holds_for_all_of_more_than_8_bits() -> None:
    view = Preprocess(size=(32, 48), channels=1, range=(1000, 3040))
    values = np.linspace(0, 4095, 32 * 48).reshape(32, 48)
    expected = np.rint((values.astype(np.uint16).clip(1000, 3040) - 1000.0) / 8)
    for kind, stored in (("PNG", np.uint16), ("TIFF", np.uint16), ("TIFF", np.int32), ("TIFF", np.float32)):
        image = Image.fromarray(values.astype(np.uint16).astype(stored))
        np.testing.assert_array_equal(decode(file_of(image, kind), view)[0][..., 0], expected)
    pgm = file_of(Image.fromarray(ramp16()), "PPM")
    np.testing.assert_array_equal(decode(pgm, view)[0], decode(pgm, GREY)[0])  # it says its range itself


def test_white_is_zero_in_a_tiff_of_16_bits() -> None:
    plain = decode(file_of(Image.fromarray(ramp16()), "TIFF"), GREY)[0]
    turned = decode(file_of(Image.fromarray(ramp16()), "TIFF", tiffinfo={262: 0}), GREY)[0]
    np.testing.assert_array_equal(turned, 255 - plain)


@pytest.mark.parametrize("background", [(255, 255, 255), (0, 90, 0)])
def test_a_transparent_colour_among_16_bits_of_grey(background: tuple[int, int, int]) -> None:
    values = ramp16()
    pixels, facts = decode(
        file_of(Image.fromarray(values), "PNG", transparency=int(values[5, 7])),
        Preprocess(size=(32, 48), background=background),
    )
    assert facts.transparent
    assert pixels[5, 7].tolist() == list(background)
    assert pixels[5, 9].tolist() == [round(int(values[5, 9]) / 257)] * 3


def tiff(samples: int, bits: int, *, numbers: int = 1, compression: int = 1, photometric: int = 1) -> bytes:
    """A sound TIFF of 4x4 zeros with any layout of its pixels."""
    tags = {256: 4, 257: 4, 258: bits, 259: compression, 262: photometric, 273: 8, 277: samples, 278: 4, 339: numbers}
    pixels = bytes(2 * samples * bits)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in sorted(tags.items()))
    entries += struct.pack("<HHII", 279, 4, 1, len(pixels))
    body = struct.pack("<H", len(tags) + 1) + b"".join(sorted(entries[i : i + 12] for i in range(0, len(entries), 12)))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + body + bytes(4)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (tiff(1, 16, numbers=3), "1 × 16-bit float, compression 1"),
        (tiff(5, 8), "5 × 8-bit integer, compression 1"),
        (tiff(2, 16), "2 × 16-bit integer, compression 1"),
        (tiff(1, 64, numbers=6), "1 × 64-bit complex number, compression 1"),
        (tiff(1, 8, compression=34712), "1 × 8-bit integer, compression 34712"),
    ],
)
def test_kinds_of_tiff_that_nothing_here_reads(data: bytes, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert reason_of(data) == f"a kind of TIFF that is not supported ({words}): convert it to PNG"
    assert capfd.readouterr().err == ""


def test_the_library_of_tiffs_complains_to_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    assert decode(tiff(1, 8), GREY)[0].max() == 0
    packed = file_of(photo(), "TIFF", compression="tiff_lzw")
    assert "TIFF" in reason_of(packed.replace(packed[8:200], bytes(192), 1))
    os.write(2, b"said")
    assert capfd.readouterr().err == "said"


def test_cmyk_and_the_inverted_cmyk_of_adobe() -> None:
    inks = photo().convert("CMYK")
    tiff, facts = decode(file_of(inks, "TIFF"), COLOUR)
    assert facts.mode == "CMYK"
    assert close(tiff, np.asarray(photo()), mean=2)
    jpeg = file_of(inks, "JPEG", quality=95)  # Pillow writes the Adobe marker and inverts
    assert b"Adobe" in jpeg
    assert close(decode(jpeg, COLOUR)[0], np.asarray(photo()), mean=8)


def test_transparency_is_composited_on_the_background() -> None:
    clear = photo().convert("RGBA")
    clear.putalpha(0)
    for colour in ((255, 255, 255), (10, 20, 30)):
        pixels, facts = decode(file_of(clear, "PNG"), Preprocess(size=(32, 48), background=colour))
        assert facts.transparent
        assert (pixels == np.array(colour)).all()
    half = photo().convert("RGBA")
    half.putalpha(128)
    pixels, _ = decode(file_of(half, "PNG"), Preprocess(size=(32, 48), background=(0, 0, 0)))
    assert close(pixels, (np.asarray(photo()) * (128 / 255)).astype(np.uint8), mean=1, most=2)


def test_an_opaque_alpha_channel_changes_nothing() -> None:
    pixels, facts = decode(file_of(photo().convert("RGBA"), "PNG"), COLOUR)
    assert not facts.transparent
    assert np.array_equal(pixels, np.asarray(photo()))


def test_grey_with_alpha() -> None:
    image = Image.new("LA", (48, 32), (100, 0))
    pixels, facts = decode(file_of(image, "PNG"), GREY)
    assert facts.transparent
    assert (pixels == 255).all()


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"], ids=["index", "table"])
def test_palette_transparency(transparency: int | bytes) -> None:
    image = Image.new("P", (48, 32), 0)
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.paste(1, (0, 0, 24, 32))
    pixels, facts = decode(file_of(image, "PNG", transparency=transparency), COLOUR)
    assert facts.mode == "P"
    assert facts.transparent
    assert pixels[0, 0].tolist() == [0, 0, 200]
    assert pixels[0, 40].tolist() == [255, 255, 255]


def test_palette_with_alpha_in_a_tiff() -> None:
    image = photo().quantize(16)
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(decode(file_of(image.convert("PA"), "TIFF"), COLOUR)[0], expected)


@pytest.mark.parametrize(("mode", "key", "value"), [("RGB", (9, 9, 9), (9, 9, 9)), ("L", 9, 9)])
def test_a_transparent_colour(mode: str, key: Any, value: Any) -> None:
    data = file_of(Image.new(mode, (48, 32), value), "PNG", transparency=key)
    pixels, facts = decode(data, COLOUR)
    assert facts.transparent
    assert (pixels == 255).all()


def test_one_bit() -> None:
    image = Image.fromarray(np.indices((32, 48)).sum(0) % 2 == 0)
    for kind in ("PNG", "TIFF", "PPM"):
        pixels, facts = decode(file_of(image, kind), GREY)
        assert facts.mode == "1"
        assert np.array_equal(pixels[..., 0] > 127, np.asarray(image))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_eight_orientations_give_one_tensor(kind: str, orientation: int) -> None:
    upright = photo(30, 45)
    back = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
    stored = upright if orientation == 1 else upright.transpose(decoder._UPRIGHT[back[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    if kind == "JPEG":
        options = {"quality": 98, "subsampling": 0}
    preprocess = Preprocess(size=(20, 20))
    pixels, facts = decode(file_of(stored, kind, exif=exif, **options), preprocess)
    expected, _ = decode(file_of(upright, kind, **options), preprocess)
    assert facts.orientation == orientation
    assert (facts.width, facts.height) == stored.size
    if kind == "JPEG":
        assert close(pixels, expected, mean=1)  # the compression itself differs between turned images
    else:
        assert np.array_equal(pixels, expected)


def test_a_damaged_exif_block_is_no_reason_to_refuse_or_warn() -> None:
    for exif in (
        b"Exif\0\0garbage",
        b"Exif\0\0II*\0\xff\xff\xff\x7f",
        b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01" * 30,
    ):
        pixels, facts = decode(file_of(photo(), "JPEG", exif=exif), COLOUR)
        assert facts.orientation == 1
        assert close(pixels, np.asarray(photo()), mean=6)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_used_and_they_are_counted(kind: str) -> None:
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    rest = [photo(seed=1), photo(seed=2)]
    data = file_of(photo(), kind, save_all=True, append_images=rest, **options)
    pixels, facts = decode(data, COLOUR)
    assert facts.frames == 3
    assert close(pixels, decode(file_of(photo(), kind, **options), COLOUR)[0], mean=0)


def test_extreme_shapes_stay_small() -> None:
    for size in ((1, 1), (10000, 1), (1, 10000), (3, 7)):
        data = file_of(Image.new("RGB", size, (10, 200, 30)), "PNG")
        for fit in ("crop", "squash", "pad"):
            background = (10, 200, 30)
            pixels, facts = decode(data, Preprocess(size=(24, 24), fit=fit, background=background))
            assert pixels.shape == (24, 24, 3)
            assert (pixels == np.array([10, 200, 30])).all()
            assert (facts.width, facts.height) == size


def test_crop_takes_the_middle_and_pad_keeps_everything() -> None:
    stripes = Image.new("RGB", (300, 100), (255, 0, 0))
    stripes.paste((0, 255, 0), (100, 0, 200, 100))
    data = file_of(stripes, "PNG")
    cropped, _ = decode(data, Preprocess(size=(50, 50), fit="crop"))
    assert (cropped[:, 2:-2] == np.array([0, 255, 0])).all()
    padded, _ = decode(data, Preprocess(size=(50, 50), fit="pad", background=(7, 8, 9)))
    assert (padded[:16] == np.array([7, 8, 9])).all()
    assert (padded[25, 2] == np.array([255, 0, 0])).all()
    grey, _ = decode(file_of(Image.new("L", (300, 100), 50), "PNG"), Preprocess(size=(50, 50), fit="pad", channels=1))
    assert grey[0, 0, 0] == 255
    assert grey[25, 25, 0] == 50


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(224, 224), (40, 100), (100, 40)])
def test_the_box_is_pillows_own(interpolation: Interpolation, size: tuple[int, int]) -> None:
    """Pillow scales both ways in one call, in an order of its own: the rounding in between may differ."""
    image, share = photo(300, 170), 0.875
    width, height = min(170, 300 * size[1] / size[0]) * share, min(300, 170 * size[0] / size[1]) * share
    box = ((170 - width) / 2, (300 - height) / 2, (170 + width) / 2, (300 + height) / 2)
    expected = image.resize(size[::-1], Image.Resampling[interpolation.upper()], box=box)
    pixels, _ = decode(file_of(image, "PNG"), Preprocess(size=size, crop_pct=share, interpolation=interpolation))
    assert close(pixels, np.asarray(expected), mean=0.3, most=2)


def test_crop_pct_is_to_resize_and_then_cut() -> None:
    image = photo(300, 300, seed=1)
    expected = image.resize((32, 32), Image.Resampling.BICUBIC).crop((2, 2, 30, 30))
    preprocess = Preprocess(size=(28, 28), crop_pct=28 / 32, interpolation="bicubic")
    assert close(decode(file_of(image, "PNG"), preprocess)[0], np.asarray(expected), mean=0.05, most=1)
    large = Preprocess(size=(300, 300), crop_pct=0.5)
    enlarged = image.resize((300, 300), Image.Resampling.BILINEAR, box=(75, 75, 225, 225))
    assert close(decode(file_of(image, "PNG"), large)[0], np.asarray(enlarged), mean=0.05, most=1)
    for fit in ("pad", "squash"):
        pixels, _ = decode(file_of(image, "PNG"), Preprocess(size=(300, 300), fit=fit, crop_pct=0.5))
        assert np.array_equal(pixels, np.asarray(image))


def test_a_jpeg_is_scaled_to_no_less_than_twice_what_is_seen() -> None:
    whole, half = (Preprocess(size=(64, 64), crop_pct=share) for share in (1.0, 0.5))
    assert decoder._draft_size((1600, 1200), whole, False) == (171, 128)
    assert decoder._draft_size((1600, 1200), half, False) == (341, 256)


def test_a_pack_of_other_pixels_is_not_taken(tmp_path: Path) -> None:
    ways = [
        Preprocess(size=(8, 8)),
        Preprocess(size=(8, 8), crop_pct=0.875),
        Preprocess(size=(8, 8), interpolation="bicubic"),
        Preprocess(size=(8, 8), fit="pad"),
        Preprocess(size=(8, 8), range=(0, 4095)),
        Preprocess(size=(8, 8), max_pixels=1000),
    ]
    assert len({_key(tmp_path, [], way) for way in ways}) == len(ways)
    assert _key(tmp_path, [], Preprocess(size=(8, 8), mean=(0.1, 0.2, 0.3))) == _key(tmp_path, [], ways[0])


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_upright_is_the_first_half_of_decode(fit: Fit) -> None:
    preprocess = Preprocess(size=(20, 30), fit=fit, background=(200, 100, 0), crop_pct=0.9)
    for name, data in hard_cases().items():
        pixels = upright(data, preprocess)
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 3
        second, _ = decode(file_of(Image.fromarray(pixels), "BMP"), preprocess)
        assert np.array_equal(second, decode(data, preprocess)[0]), name


def test_upright_refuses_what_decode_refuses() -> None:
    for data, words in ((b"words, not pixels", "text"), (file_of(photo(), "PNG")[:200], "PNG")):
        with pytest.raises(ImageError, match=words):
            upright(data, COLOUR)
    with pytest.raises(ImageError, match="megapixels"):
        upright(file_of(photo(100, 100), "PNG"), COLOUR, max_pixels=9_999)


def test_a_scaled_jpeg_is_close_to_the_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data = file_of(photo(1200, 1600), "JPEG", quality=92)
    preprocess = Preprocess(size=(64, 64))
    fast, facts = decode(data, preprocess)
    assert (facts.width, facts.height) == (1600, 1200)
    monkeypatch.setattr(decoder, "_draft_size", lambda size, *_: size)
    slow, _ = decode(data, preprocess)
    assert close(fast, slow, mean=0.6, most=4)


def test_colour_is_measured_on_the_pixels() -> None:
    grey = photo().convert("L").convert("RGB")
    for kind in ("PNG", "JPEG"):
        for channels in (1, 3):
            preprocess = Preprocess(size=(32, 48), channels=channels)
            assert not decode(file_of(grey, kind), preprocess)[1].colour
            assert decode(file_of(photo(), kind), preprocess)[1].colour


# What is refused


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty file"),
        (b"\0" * 500, "zeros"),
        (b"this is no picture at all, just words", "text"),
        (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "export it as PNG"),
        (b"  <svg width='3'></svg>", "export it as PNG"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"%PDF-1.7 ....", "PDF"),
        (b"8BPS\0\1......", "Photoshop"),
        (b"\0\0\1\0\1\0......", "convert it to JPEG or PNG"),
        (b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "video"),
        (b"\x80\x04\x95garbage\xff\xfe", "not an image"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\0\1\1\0\0\1\0\1\0\0", "header without a picture"),
        (png_header(32, 32), "header without a picture"),
        (png_header(32, 32) + chunk(b"IEND", b""), "no picture inside"),
        (b"GIF89a", "GIF"),
        (b"BM\0\0", "BMP"),
        (b"II*\0\x08\0\0\0", "TIFF"),
        (b"MM\0*\0\0\0\0", "TIFF"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "WEBP"),
        (b"P6 10 10", "PPM"),
        (b"P5 8 8 255\n123", "truncated"),
        (b"P3 1 1 255 1 2 3", "written as text"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    assert words in reason_of(data)
    assert words in reason_of(tmp_path / "a.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_half_a_file_is_refused(kind: str, share: float) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8))
    data = file_of(noise, kind)
    reason = reason_of(data[: int(len(data) * share)])
    assert kind in reason
    assert "truncated" in reason or "damaged" in reason


def test_a_flipped_bit_in_a_png_is_found() -> None:
    data = bytearray(file_of(photo(), "PNG"))
    data[data.index(b"IDAT") + 20] ^= 1
    assert "CRC" in reason_of(bytes(data))


@pytest.mark.parametrize(("width", "height"), [(10000, 9000), (15000, 12000), (2**31 - 1, 2**31 - 1)])
def test_pixel_bombs_are_refused_before_decoding(width: int, height: int) -> None:
    bomb = png_header(width, height) + chunk(b"IDAT", zlib.compress(b"\0" * 100000)) + chunk(b"IEND", b"")
    assert "megapixels" in reason_of(bomb)
    with pytest.raises(ImageError, match="megapixels"):
        examine(bomb)


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "BMP", "TIFF", "WEBP", "AVIF", "PNG", "PPM"])
def test_the_limit_holds_for_every_format(kind: str) -> None:
    data = file_of(photo(100, 100), kind)
    assert "100x100 pixels" in reason_of(data, max_pixels=9_999)
    assert decode(data, COLOUR, max_pixels=10_000)[1].width == 100


def test_a_jpeg_that_is_decoded_at_a_fraction_may_be_larger() -> None:
    large = photo(400, 400)
    limited = Preprocess(size=(32, 32), max_pixels=50_000)
    assert decode(file_of(large, "JPEG"), limited)[1].width == 400
    assert upright(file_of(large, "JPEG"), limited).shape == (100, 100, 3)
    assert examine(file_of(large, "JPEG"), max_pixels=50_000).width == 400
    assert "400x400" in reason_of(file_of(large, "JPEG"), Preprocess(size=(300, 300), max_pixels=50_000))
    assert "400x400" in reason_of(file_of(large, "JPEG"), limited, max_pixels=39_999)
    for data in (file_of(large, "JPEG", progressive=True), file_of(large, "PNG")):
        assert "400x400" in reason_of(data, limited)


def test_slow_progressive_jpeg_is_refused() -> None:
    data = file_of(photo(), "JPEG")
    assert "passes" in reason_of(data + b"\xff\xda" * 1000)


def test_png_of_countless_chunks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubel.dataset.formats.MAX_CHUNKS", 50)
    data = file_of(photo(), "PNG")
    assert "50 pieces" in reason_of(data[:33] + chunk(b"tEXt", b"a\0b") * 60 + data[33:])


def test_endless_frames_are_counted_up_to_a_limit() -> None:
    gif = file_of(photo(), "GIF")
    body = gif[gif.index(b"\x2c\0\0\0\0") : -1]
    _, facts = decode(gif[:-1] + body * 3000 + b";", COLOUR)
    assert facts.frames == 1000


def test_a_tiff_whose_pages_form_a_loop() -> None:
    data = bytearray(file_of(photo(), "TIFF"))
    first = int.from_bytes(data[4:8], "little")
    link = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[link : link + 4] = data[4:8]
    assert decode(bytes(data), COLOUR)[1].frames == 1


def test_what_is_no_regular_file_does_not_block(tmp_path: Path) -> None:
    assert "folder" in reason_of(tmp_path)
    assert "vanished" in reason_of(tmp_path / "gone.png")
    assert "NUL" in reason_of("a\0b.png")
    assert "can't be read" in reason_of("a" * 5000)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        assert "not a regular file" in reason_of(tmp_path / "pipe.png")
        assert "not a regular file" in reason_of("/dev/zero")
        (tmp_path / "dangling.png").symlink_to("nowhere")
        assert "leads nowhere" in reason_of(tmp_path / "dangling.png")
        (tmp_path / "loop.png").symlink_to("loop.png")
        assert "can't be read" in reason_of(tmp_path / "loop.png")


def test_no_permission_and_input_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(file_of(photo(), "PNG"))

    class Broken(io.BytesIO):
        def read(self, _: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    def refuse(*_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", lambda *_, **__: Broken())
    assert "Input/output error" in reason_of(tmp_path / "a.png")
    monkeypatch.setattr("builtins.open", refuse)
    assert "no permission" in reason_of(tmp_path / "a.png")


def test_huge_files_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    assert "zeros" in reason_of(path)
    with path.open("r+b") as file:
        file.write(png_header(10, 10))
    assert "MB" in reason_of(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
def test_mutated_files_decode_or_are_refused(kind: str) -> None:
    rng = np.random.default_rng(7)
    whole = file_of(photo(), kind)
    shapes, reasons = set(), []
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(len(data))] = rng.integers(256)
        try:
            shapes.add(decode(bytes(data), COLOUR, max_pixels=1_000_000)[0].shape)
        except ImageError as error:
            reasons.append(error.reason)
    assert shapes <= {(32, 48, 3)}
    assert all(reasons)
    assert reasons or kind == "PPM"  # nearly every byte of a PPM is a pixel


# Headers, warnings, threads


def test_examine_reads_the_header_alone(tmp_path: Path) -> None:
    data = file_of(photo(), "PNG")
    (tmp_path / "a.png").write_bytes(data[: data.index(b"IDAT") + 20])
    for source in (tmp_path / "a.png", data):
        facts = examine(source)
        assert (facts.width, facts.height, facts.mode, facts.format, facts.sha256) == (48, 32, "RGB", "PNG", "")
    assert not examine(file_of(photo().convert("L"), "JPEG")).colour
    assert examine(file_of(photo().convert("RGBA"), "PNG")).transparent
    exif = Image.Exif()
    exif[0x0112] = 6
    facts = examine(file_of(photo(), "TIFF", exif=exif))
    assert (facts.width, facts.height, facts.orientation) == (48, 32, 6)
    for bad in (b"", b"words", b"BM"):
        with pytest.raises(ImageError):
            examine(bad)


def test_warnings_of_pillow_stay_inside_and_the_filters_are_restored() -> None:
    before = list(warnings.filters)
    apng = file_of(photo(), "PNG")
    broken = apng[:33] + chunk(b"acTL", struct.pack(">II", 0, 0)) + apng[33:]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decode(broken, COLOUR)[1].frames == 1
    assert list(warnings.filters) == before


def test_threads_leave_the_warning_filters_as_they_were() -> None:
    before = list(warnings.filters)
    data, broken = file_of(photo(), "PNG"), b"nothing"
    answers: list[int] = []

    def work() -> None:
        for _ in range(40):
            answers.append(decode(data, COLOUR)[1].width)
            with pytest.raises(ImageError):
                decode(broken, COLOUR)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [48] * 160
    assert list(warnings.filters) == before
