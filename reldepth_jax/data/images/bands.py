"""Large images a band of rows at a time, so that what is computed on the way stays small."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Shaped
from PIL import Image

_PIXELS = 1 << 17
"""Of a band: with all that is computed from it, it stays in the cache."""


def bands(height: int, width: int) -> Iterator[slice]:
    """Yield the rows of an image, one band after the other."""
    rows = max(1, _PIXELS // max(1, width))
    for start in range(0, height, rows):
        yield slice(start, min(start + rows, height))


def as_array(image: Image.Image) -> Shaped[np.ndarray, "h w *c"]:
    """Return the pixels of an image; beside image and array, no copy of all of them is made."""
    width, height = image.size
    array: np.ndarray | None = None
    for rows in bands(height, width):
        band = np.asarray(image.crop((0, rows.start, width, rows.stop)))
        if array is None:
            array = np.empty((height, *band.shape[1:]), band.dtype)
        array[rows] = band
    return np.asarray(image) if array is None else array
