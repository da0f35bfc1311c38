"""How hubel's pages look: one palette for paper and for dark screens, scales that are even to the eye, and templates.

Colours are mixed in OKLCH (lightness, chroma, hue; Ottosson 2020, "A perceptual color space for image processing"),
where equal steps of lightness look equal.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt

from hubel.report.wording import compact, counted, flat, loss, memory, percent, plain, shortened, sides, times, whole

Floats = npt.NDArray[np.float64]

# Roles in charts → (on paper, on a dark screen). Charts are drawn with the first; the page's style sheet finds these
# values in the SVG and puts the reader's ground in their place, so one drawing serves both. Blue and orange stay apart
# for every common kind of colour blindness.
ROLES: dict[str, tuple[str, str]] = {
    "ink": ("#1b1f24", "#e7e6e3"),
    "muted": ("#5b6570", "#a4acb6"),
    "line": ("#dce0e5", "#343a42"),
    "accent": ("#1a5fb4", "#7db2f0"),
    "second": ("#b45309", "#f0a04b"),
}
PAPER, NIGHT = "#ffffff", "#14171a"
DARK_TEXT, LIGHT_TEXT = "#0b0d10", "#ffffff"
LEVELS = 21
FILTERS = (compact, counted, flat, loss, memory, percent, shortened, sides, times, whole)  # of the templates

_LMS_FROM_LAB = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_RGB_FROM_LMS = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def from_oklch(lightness: Floats, chroma: Floats, hue: Floats) -> Floats:
    """Turn OKLCH (hue in degrees), three arrays of one shape, into sRGB in [0, 1] with a last axis of 3, clipped."""
    angle = np.deg2rad(hue)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
    linear = np.clip((lab @ _LMS_FROM_LAB.T) ** 3 @ _RGB_FROM_LMS.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.clip(encoded, 0.0, 1.0), dtype=np.float64)


def heat_table() -> npt.NDArray[np.uint8]:
    """The colours of Grad-CAM: (256, 3) uint8, from dark violet over red to light yellow, lightness rising evenly."""
    t = np.linspace(0.0, 1.0, 256)
    chroma = 0.07 + 0.13 * np.sin(np.pi * t**0.8)
    rgb = from_oklch(0.18 + 0.76 * t, chroma, 295.0 + 170.0 * t)
    return np.asarray(np.rint(rgb * 255), dtype=np.uint8)


def shades(*, dark: bool) -> list[tuple[str, str]]:
    """Ground and text colour of each of the `LEVELS` steps of the confusion matrix, from nothing to all."""
    t = np.linspace(0.0, 1.0, LEVELS)
    if dark:
        rgb = from_oklch(0.205 + 0.60 * t, 0.008 + 0.112 * t, np.full(LEVELS, 252.0))
    else:
        rgb = from_oklch(1.0 - 0.58 * t, 0.145 * t, np.full(LEVELS, 256.0))
    return [(hexed(colour), readable_on(colour)) for colour in rgb]


def hexed(colour: Floats) -> str:
    """Write sRGB in [0, 1] as ``#rrggbb``."""
    return "#" + "".join(f"{round(float(v) * 255):02x}" for v in colour)


def contrast(first: str, second: str) -> float:
    """WCAG 2 contrast ratio of two ``#rrggbb`` colours, 1 to 21."""
    low, high = sorted((_luminance(first), _luminance(second)))
    return (high + 0.05) / (low + 0.05)


def readable_on(colour: Floats) -> str:
    """The text colour that stands out more on this ground."""
    return max((DARK_TEXT, LIGHT_TEXT), key=lambda text: contrast(text, hexed(colour)))


def _luminance(colour: str) -> float:
    encoded = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    return float(linear @ np.array([0.2126, 0.7152, 0.0722]))


def asset(name: str) -> str:
    """Read one of the text files that come with this package."""
    return files("hubel.report").joinpath(name).read_text(encoding="utf-8")


def filled(template: str, **values: Any) -> str:
    """Fill one of the package's templates; text is made harmless (`plain`) and escaped, but for `markupsafe.Markup`."""
    import jinja2  # most commands write no page

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: plain(value) if type(value) is str else value,
    )
    environment.filters |= {words.__name__: words for words in FILTERS}
    return environment.from_string(asset(template)).render(values).lstrip()


def style_sheet(*, charts: bool = False) -> str:
    """The pages' CSS: the colours of both grounds as variables, then the rules.

    Args:
        charts: also put shades for a confusion matrix, and the reader's colours in the place of paper's in drawings.
    """

    def variables(column: int) -> str:
        roles = "".join(f"--{role}:{pair[column]};" for role, pair in ROLES.items())
        steps = enumerate(shades(dark=column == 1)) if charts else ()
        return f":root{{{roles}}}" + "".join(f".s{i}{{--g:{ground};--t:{text}}}" for i, (ground, text) in steps)

    drawn = "".join(
        f'.chart [{kind}="{pair[0]}"]{{{kind}:var(--{role})}}'
        for role, pair in ROLES.items()
        for kind in ("fill", "stroke")
    )
    dark = f"@media screen and (prefers-color-scheme: dark){{{variables(1)}}}"
    return "\n".join((variables(0), dark, *([drawn] if charts else []), asset("report.css")))
