"""Pictures for people: depth in colours, contact sheets.

Colours show order, not amount: they depend on the rank of a value among the values of its image. So
ground truth and predictions look the same exactly where they order the scene in the same way,
whatever their units. Near is bright and warm, far is dark. `SKY` marks +inf (infinitely far),
`INVALID` pixels without a value.
"""

import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont

from reldepth_jax.data.images import io
from reldepth_jax.data.images.bands import bands

SKY = (150, 196, 232)
"""Light blue, a hue that the colour map does not have."""
INVALID = (128, 128, 128)

_LEVELS = 256
_MIN_WIDTH = 192
_GAP = 6
_FONT_SIZE = 14


@functools.cache
def colors() -> UInt8[np.ndarray, "256 3"]:
    """Colours from near to far, equally spaced to the eye.

    A polygon through lightness, chroma and hue (degrees) in OKLab (Ottosson, "A perceptual color
    space for image processing", 2020), walked at constant speed.
    """
    corners = np.array(
        [
            [0.97, 0.06, 105],
            [0.84, 0.15, 78],
            [0.70, 0.18, 45],
            [0.56, 0.19, 12],
            [0.42, 0.17, -25],
            [0.30, 0.12, -65],
            [0.16, 0.05, -90],
        ]
    )
    lightness, chroma, hue = corners.T
    angle = np.deg2rad(hue)
    lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=1)
    walked = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(lab, axis=0), axis=1))])
    even = np.linspace(0, walked[-1], _LEVELS)
    lab = np.stack([np.interp(even, walked, channel) for channel in lab.T], axis=1)

    to_cone = [
        [1, 0.3963377774, 0.2158037573],
        [1, -0.1055613458, -0.0638541728],
        [1, -0.0894841775, -1.2914855480],
    ]
    to_linear = [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
    linear = np.clip((lab @ np.transpose(to_cone)) ** 3 @ np.transpose(to_linear), 0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(255 * srgb).astype(np.uint8)


def colorize(
    array: Float[np.ndarray, "h w"], mask: Bool[np.ndarray, "h w"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """Colour a score or depth map (larger is farther) by rank; constant maps get one colour.

    +inf becomes `SKY`; NaN, -inf and pixels outside `mask` become `INVALID`.
    """
    finite = np.isfinite(array) if mask is None else mask & np.isfinite(array)
    values = array.ravel() if finite.all() else array[finite]
    # A sample settles the quantiles: 256 colours do not show the difference. The stride is odd so
    # that it does not walk along single columns.
    sample = values[:: values.size // 2**18 | 1]
    edges = np.empty(0, array.dtype)
    if sample.size:
        edges = np.quantile(sample, np.arange(1, _LEVELS) / _LEVELS, method="nearest")
    picture = np.empty((*array.shape, 3), np.uint8)
    for rows in bands(*array.shape):
        below = np.searchsorted(edges, array[rows], side="left")
        up_to = np.searchsorted(edges, array[rows], side="right")
        picture[rows] = colors()[(below + up_to) // 2]
        sky = array[rows] == np.inf
        picture[rows][sky] = SKY
        picture[rows][~(finite[rows] | (sky if mask is None else sky & mask[rows]))] = INVALID
    return picture


def colors_at(position: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
    """Return the colours of positions from 0, near, to 1, far; beyond them those of the ends."""
    picture = np.empty((*position.shape, 3), np.uint8)
    for rows in bands(*position.shape):
        picture[rows] = colors()[(_LEVELS * position[rows]).clip(0, _LEVELS - 1).astype(np.uint8)]
    return picture


def thumbnail(array: Shaped[np.ndarray, "h w *_c"], side: int = 384) -> Shaped[np.ndarray, "..."]:
    """Take every k-th row and column of a picture or map, so that no side exceeds `side`."""
    # Not averaged: depths across an edge, or of invalid pixels, must not mix.
    step = -(-max(array.shape[:2]) // side)
    return np.ascontiguousarray(array[::step, ::step])


def enlarge(picture: UInt8[np.ndarray, "_h _w 3"]) -> UInt8[np.ndarray, "_H _W 3"]:
    """Repeat pixels until the picture is at least 192 wide, so that a person can see it."""
    factor = -(-_MIN_WIDTH // picture.shape[1])
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def contact_sheet(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_h _w 3"] | Float[np.ndarray, "_h _w"]]],
    column_titles: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> UInt8[np.ndarray, "h w 3"]:
    """Return pictures in rows on white: titles above the columns, a caption below each row.

    Maps (h, w) are coloured by `colorize`, small pictures enlarged. Columns are as wide as their
    widest picture or title, and a caption may have several lines.

    Raises ValueError if titles or captions do not match the pictures in number.
    """
    rows = [[enlarge(p if p.ndim == 3 else colorize(p)) for p in row] for row in rows]
    columns = max((len(row) for row in rows), default=0)
    if not columns:
        raise ValueError("a contact sheet needs at least one picture")
    if len(column_titles) not in (0, columns) or len(captions) not in (0, len(rows)):
        raise ValueError(
            f"{len(rows)} rows and {columns} columns do not go with {len(captions)} captions and"
            f" {len(column_titles)} column titles"
        )
    font = ImageFont.load_default(_FONT_SIZE)
    ruler = ImageDraw.Draw(Image.new("RGB", (1, 1)))

    def extent(text: str) -> tuple[int, int]:
        _, _, right, bottom = ruler.multiline_textbbox((0, 0), text, font=font)
        return int(np.ceil(right)), int(np.ceil(bottom))

    titles = [extent(title) for title in column_titles] or [(0, 0)] * columns
    notes = [extent(caption) for caption in captions] or [(0, 0)] * len(rows)
    widths = [
        max(titles[c][0], *(row[c].shape[1] for row in rows if c < len(row)))
        for c in range(columns)
    ]
    heights = [max(picture.shape[0] for picture in row) if row else 0 for row in rows]
    head = max(height for _, height in titles)
    lines = [(_GAP + height if height else 0) for _, height in notes]

    width = max(_GAP + sum(widths) + _GAP * columns, *(2 * _GAP + note[0] for note in notes))
    height = _GAP + (head + _GAP if head else 0) + sum(heights) + sum(lines) + _GAP * len(rows)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)

    lefts = _GAP + np.cumsum([0, *(w + _GAP for w in widths[:-1])])
    for left, title in zip(lefts, column_titles, strict=False):
        draw.multiline_text((int(left), _GAP), title, fill="black", font=font)
    top = _GAP + (head + _GAP if head else 0)
    for number, row in enumerate(rows):
        for left, picture in zip(lefts, row, strict=False):
            sheet.paste(Image.fromarray(picture), (int(left), top))
        top += heights[number]
        if captions:
            below = (_GAP, top + _GAP // 2)
            draw.multiline_text(below, captions[number], fill="black", font=font)
        top += lines[number] + _GAP
    return np.array(sheet)


def save_picture(path: str | os.PathLike[str], picture: UInt8[np.ndarray, "h w 3"]) -> None:
    """Write a picture as PNG; makes its folder."""
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    io.write_png(path, picture)
