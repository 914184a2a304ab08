"""How published evaluation code brings a score map to the size of its ground truth.

The ways differ by up to a pixel, which decides close pairs. A NaN spreads only to the pixels that
are computed from it.
"""

import numpy as np
from jaxtyping import Float, Float64

from reldepth_jax.data.images.resampling import Kernel, resample


def scale_torch7(
    score: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float64[np.ndarray, "_h _w"]:
    """`image.scale` of torch7, as the official test code of DIW and NYUDv2 (Chen et al.) uses it.

    An axis that grows is interpolated with its corners aligned; one that shrinks is averaged over
    the covered stretch of pixels, partly covered ones in proportion.
    """
    height, width = score.shape
    return _rows_then_columns(
        score,
        size,
        "linear_aligned" if size[0] > height else "area",
        "linear_aligned" if size[1] > width else "area",
    )


def scale_half_pixel(
    score: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float64[np.ndarray, "_h _w"]:
    """Bilinear with the outer edges of pixels aligned and no averaging when an axis shrinks.

    `cv2.resize` and torch's `interpolate(align_corners=False)`.
    """
    return _rows_then_columns(score, size, "linear", "linear")


def scale_aligned_corners(
    score: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float64[np.ndarray, "_h _w"]:
    """Bilinear with corners aligned: torch's `interpolate(align_corners=True)`."""
    return _rows_then_columns(score, size, "linear_aligned", "linear_aligned")


def _rows_then_columns(
    score: np.ndarray, size: tuple[int, int], rows: Kernel, columns: Kernel
) -> Float64[np.ndarray, "_h _w"]:
    """Resize in this order whatever the sizes: ties of pairs depend on the last bits of a score."""
    return resample(resample(score, (size[0], score.shape[1]), rows), size, columns)
