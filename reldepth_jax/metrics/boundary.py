"""Boundary F1: are the edges of the depth map where the ground truth has them?

Source: Bochkovskii et al., "Depth Pro", 2024, the scale-invariant boundary metric for depth maps,
and `eval/boundary_metrics.py` of its release.

Two neighbouring pixels, one beside or below the other, are an occluding contour at threshold t
where one is more than t times as deep as the other: that needs no scale. Which of the two is
farther counts, so there are four kinds of contours: farther right, left, below, above. For each
kind, recall is the share of the true contours that is predicted and precision the share of the
predicted ones that is true; a share of nothing is 0. Both are averaged over the four kinds, F1 is
their harmonic mean (0 if both are 0), and the value of an image is the mean of F1 over ten
thresholds from 1.05 to 1.25 with the thresholds as weights.

So it is in the release, and so the true depth itself gets less than 1 where a kind does not occur:
1/4 in an image with one straight edge. Values of different images, or sets, do not compare.

Deviations from the release: only pairs of valid pixels count; an image whose ground truth has no
contour is NaN, not 0, and left out of the mean; predictions are not raised to 1e-6.

Axes: h height, w width. Units: depth in any; F1 in [0, 1], larger is better. Sign: both
maps grow with distance; infinite depth is sky, a contour beside anything finite. All in NumPy and
float64.
"""

import numpy as np
from jaxtyping import Bool, Float, Float64

THRESHOLDS = np.linspace(1.05, 1.25, 10)


def boundary_f1(
    prediction: Float[np.ndarray, "h w"],
    depth: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
) -> float:
    """Return the boundary F1 of one image; NaN if its ground truth has no contour.

    Valid pixels are in the mask, with positive depth. A prediction that is NaN or not positive is
    no contour with any neighbour, so true ones there are missed.
    """
    valid = mask & (depth > 0)
    g = np.where(valid, depth.astype(np.float64), np.nan)
    p = np.where(valid & (prediction > 0), prediction.astype(np.float64), np.nan)
    if not any((far > THRESHOLDS[0] * near).any() for near, far in _neighbours(g)):
        return float("nan")
    scores = [_f1(p, g, threshold) for threshold in THRESHOLDS]
    return float(np.average(scores, weights=THRESHOLDS))


def _f1(
    prediction: Float64[np.ndarray, "h w"], depth: Float64[np.ndarray, "h w"], threshold: float
) -> float:
    """F1 at one threshold, over pairs of pixels that are not NaN."""
    precision = recall = 0.0
    for (p_near, p_far), (g_near, g_far) in zip(
        _neighbours(prediction), _neighbours(depth), strict=True
    ):
        # By products: infinite depth equals itself. Comparisons with NaN are False.
        said, true = p_far > threshold * p_near, g_far > threshold * g_near
        hits = np.count_nonzero(said & true)
        precision += hits / max(1, np.count_nonzero(said)) / 4
        recall += hits / max(1, np.count_nonzero(true)) / 4
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _neighbours(
    depth: Float64[np.ndarray, "h w"],
) -> list[tuple[Float64[np.ndarray, "_h _w"], Float64[np.ndarray, "_h _w"]]]:
    """Return the pairs that may be farther right, left, below, above: (nearer, farther) of each."""
    left, right, above, below = depth[:, :-1], depth[:, 1:], depth[:-1], depth[1:]
    return [(left, right), (right, left), (above, below), (below, above)]
