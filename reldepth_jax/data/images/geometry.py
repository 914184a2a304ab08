"""Sizes of images and maps: how they are fitted, resized and padded without being distorted.

Sizes are (height, width). Pixel centres lie at half-integers, so that resizing keeps the outer
edges of an image where they are. Image, depth and mask stay registered under the same call.
"""

import math

import numpy as np
from jaxtyping import Float32, Shaped, UInt8
from PIL import Image

from reldepth_jax.data.images.bands import as_array

STRIDE = 32
"""Sides that the network accepts are multiples of this."""


def fit_size(
    height: int, width: int, short_side: int, max_area_factor: float = 4.0
) -> tuple[int, int]:
    """Return the (height, width) with the same aspect ratio whose shorter side is `short_side`.

    An elongated image gets a smaller one, so that its area, counting a side below `STRIDE` as
    `STRIDE`, is at most `max_area_factor * short_side**2`. Sides are rounded to whole pixels and
    are at least 1.
    """
    if min(height, width, short_side) < 1 or max_area_factor < 1:
        raise ValueError(
            f"sides must be at least 1 and max_area_factor at least 1, got {height}x{width},"
            f" {short_side} and {max_area_factor}"
        )
    wanted = short_side / min(height, width)
    affordable = affordable_scale(height, width, short_side, STRIDE, max_area_factor)
    if wanted <= affordable:
        return max(1, round(height * wanted)), max(1, round(width * wanted))
    return max(1, int(height * affordable)), max(1, int(width * affordable))


def affordable_scale(
    height: int, width: int, short_side: int, least: int, max_area_factor: float = 4.0
) -> float:
    """Return the enlargement to an area of `max_area_factor * short_side**2`.

    A side below `least` counts as that.
    """
    area = max_area_factor * short_side**2
    return min(math.sqrt(area / (height * width)), area / (least * max(height, width)))


def resize_image(
    image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "_h _w 3"]:
    """Resize bilinearly to `size`, averaging over the covered area when shrinking."""
    return _resize(image, size)


def resize_score(
    score: Float32[np.ndarray, "h w"], size: tuple[int, int]
) -> Float32[np.ndarray, "_h _w"]:
    """Resize a finite map as `resize_image` does. Not for ground truth: it blends across edges."""
    return _resize(score, size)


def _resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if array.shape[:2] == size:
        return array
    height, width = size
    return as_array(Image.fromarray(array).resize((width, height), Image.Resampling.BILINEAR))


def resize_map_nearest(
    array: Shaped[np.ndarray, "h w"], size: tuple[int, int]
) -> Shaped[np.ndarray, "_h _w"]:
    """Resize to `size` taking the value at the nearest pixel centre: no new values appear."""
    if array.shape == size:
        return array
    rows, columns = (
        (2 * np.arange(new) + 1) * old // (2 * new)
        for old, new in zip(array.shape, size, strict=True)
    )
    return array[rows[:, None], columns]


def pad_to_multiple(
    image: Shaped[np.ndarray, "h w 3"], multiple: int = STRIDE
) -> Shaped[np.ndarray, "_h _w 3"]:
    """Repeat the last row and column until both sides are multiples of `multiple`."""
    height, width = image.shape[:2]
    return np.pad(image, ((0, -height % multiple), (0, -width % multiple), (0, 0)), mode="edge")
