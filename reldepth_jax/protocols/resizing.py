"""How published evaluation code brings a score map to the size of its ground truth.

The ways differ by up to a pixel, which decides close pairs. A NaN spreads only to the pixels that
are computed from it. Axes: h w; old and new number of pixels on an axis, t taps of each.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64


class _Taps(NamedTuple):
    """Each new pixel of an axis as a weighted sum of old ones."""

    places: Int64[np.ndarray, "new t"]
    weights: Float64[np.ndarray, "new t"]


def scale_torch7(
    score: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float64[np.ndarray, "_h _w"]:
    """`image.scale` of torch7, as the official test code of DIW and NYUDv2 (Chen et al.) uses it.

    An axis that grows is interpolated with its corners aligned; one that shrinks is averaged over
    the covered stretch of pixels, partly covered ones in proportion.
    """
    return _scale(score, size, lambda old, new: _aligned(old, new) if new > old else _box(old, new))


def scale_half_pixel(
    score: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float64[np.ndarray, "_h _w"]:
    """Bilinear with the outer edges of pixels aligned and no averaging when an axis shrinks.

    `cv2.resize` and torch's `interpolate(align_corners=False)`.
    """
    return _scale(
        score, size, lambda old, new: _linear((np.arange(new) + 0.5) * (old / new) - 0.5, old)
    )


def scale_aligned_corners(
    score: Float[np.ndarray, "h w"], size: tuple[int, int]
) -> Float64[np.ndarray, "_h _w"]:
    """Bilinear with corners aligned: torch's `interpolate(align_corners=True)`."""
    return _scale(score, size, _aligned)


def _scale(
    score: np.ndarray, size: tuple[int, int], taps_of: Callable[[int, int], _Taps]
) -> Float64[np.ndarray, "_h _w"]:
    score = score.astype(np.float64)
    for axis in (0, 1):
        if score.shape[axis] == size[axis]:
            continue
        taps = taps_of(score.shape[axis], size[axis])
        rows = score if axis == 0 else score.T
        total = np.zeros((size[axis], rows.shape[1]))
        for places, weights in zip(taps.places.T, taps.weights.T, strict=True):
            # An unused tap must not bring a NaN in, as 0 * NaN would.
            used = weights > 0
            total[used] += weights[used, None] * rows[places[used]]
        score = total if axis == 0 else total.T
    return score


def _aligned(old: int, new: int) -> _Taps:
    return _linear(np.arange(new) * ((old - 1) / max(new - 1, 1)), old)


def _linear(where: Float64[np.ndarray, "new"], old: int) -> _Taps:
    """Interpolate between the two neighbours of `where`, held at the ends."""
    where = np.clip(where, 0, old - 1)
    below = np.floor(where).astype(np.int64)
    share = where - below
    return _Taps(
        np.stack([below, np.minimum(below + 1, old - 1)], axis=1),
        np.stack([1 - share, share], axis=1),
    )


def _box(old: int, new: int) -> _Taps:
    """Average over the stretch of old pixels that a new one covers."""
    edges = np.arange(new + 1) * old / new
    places = np.floor(edges[:-1]).astype(np.int64)[:, None] + np.arange(old // new + 2)
    covered = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    covered = np.maximum(covered, 0.0)
    return _Taps(np.minimum(places, old - 1), covered / covered.sum(axis=1, keepdims=True))
