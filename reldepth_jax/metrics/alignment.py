"""Relative maps brought to metric depth, the way two papers do before they measure errors.

Sources: scale and shift in inverse depth, Ranftl et al., "Towards Robust Monocular Depth
Estimation", TPAMI 2020, Section 6; mean and standard deviation of the training depths, Chen et al.,
NIPS 2016 (their script `test_model_on_NYU.lua`), as in Xian et al., CVPR 2018, Table 6.

Axes: h height, w width. Units: predictions have none; depth, and what is returned, is planar and in
the unit of the ground truth (metres). Sign: stated by each function. All in NumPy and float64.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64

NYU_MEAN = 2.8424594402
"""Mean depth of the training images of NYUDv2, metres; from `test_model_on_NYU.lua`."""
NYU_STD = 0.6148231626
"""Standard deviation of the same, metres; from the same script."""

_SMALLEST_INVERSE_DEPTH = 1e-100
_ABOVE_SMALLEST = 1e-5


def align_inverse_depth(
    prediction: Float[np.ndarray, "h w"],
    depth: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
    *,
    cap: float | int | None = None,
) -> Float64[np.ndarray, "h w"]:
    """Return the depth that `prediction`, an inverse depth up to scale and shift, stands for.

    Larger predictions are nearer. Scale and shift minimise the squared distance to 1/depth over the
    pixels that are valid: in the mask, depth finite and positive and at most `cap`, prediction
    finite. All pixels are then aligned, raised to 1/cap where they are below it, and inverted. The
    scale may come out negative: a map of the wrong sign is turned round, not punished.

    Without valid pixels all is NaN; if the prediction is the same at all of them (or there is one
    only), scale is 0 and the shift is the mean of 1/depth. Pixels whose prediction is NaN or
    infinite are NaN. Without `cap`, aligned values below 1e-100 are raised to that.

    Deviations from the sample code that the authors published for NYUDv2: there a constant
    prediction gets scale and shift 0, that is, the cap everywhere, and depth equal to the cap is
    not valid. Raises ValueError unless cap is positive.
    """
    limit = np.inf if cap is None else cap
    if not limit > 0:
        raise ValueError(f"align_inverse_depth: cap is {cap}, but must be positive, or None")
    p, g = prediction.astype(np.float64), depth.astype(np.float64)
    finite = np.isfinite(p)
    p[~finite] = np.nan
    valid = mask & finite & (g > 0) & (g <= limit) & np.isfinite(g)
    if not valid.any():
        return np.full(p.shape, np.nan)

    target = 1 / g[valid]
    low, high = p[valid].min(), p[valid].max()
    # In [0, 1] at valid pixels: no square overflows or vanishes, whatever unit the prediction has,
    # and "constant" needs no tolerance.
    x = (p - low) / (high - low if high > low else 1.0)
    x -= x[valid].mean()
    scale = x[valid] @ (target - target.mean()) / (x[valid] @ x[valid]) if high > low else 0.0
    # The square of the reciprocal is finite, too.
    floor = max(1 / limit, _SMALLEST_INVERSE_DEPTH)
    return 1 / np.maximum(scale * x + target.mean(), floor)


def align_mean_std(
    prediction: Float[np.ndarray, "h w"], *, mean: float, std: float
) -> Float64[np.ndarray, "h w"]:
    """Give the map, where larger is farther, the mean and standard deviation of training depths.

    Its own mean and sample standard deviation (n - 1) are removed first; no ground truth is used.
    Values that are not positive then become the smallest positive one + 1e-5.

    A constant map (or one pixel) becomes `mean` everywhere. Where no value is positive, which takes
    a `mean` <= 0, those that are not become NaN. Pixels that are NaN or infinite are left out of
    mean and deviation and are NaN.

    Deviations from the script: there zeros are kept (only negative values are replaced), and a
    constant map, or one NaN, makes all NaN.
    """
    z = prediction.astype(np.float64)
    finite = np.isfinite(z)
    z[~finite] = np.nan
    values = z[finite]
    # Compared, because rounding can leave a constant map with a deviation that is not quite 0.
    if values.size and values.min() < values.max():
        z = (z - values.mean()) / values.std(ddof=1) * std + mean
    else:
        z[finite] = mean
    positive = z[z > 0]
    z[z <= 0] = positive.min() + _ABOVE_SMALLEST if positive.size else np.nan
    return z
