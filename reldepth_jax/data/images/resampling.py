"""Resizing arrays with the kernels of published code: OpenCV, torch and torch7.

Unlike `geometry`, which averages whenever it shrinks, these do what the name of the kernel says.
Axes: h w c; old and new number of pixels on an axis, t taps of each.
"""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Real

from reldepth_jax.data.images.bands import bands

Kernel = Literal["linear", "linear_aligned", "cubic", "area"]

_A = -0.75
"""Keys' parameter, as OpenCV and torch have it (Pillow: -0.5)."""


class _Taps(NamedTuple):
    """Each new pixel of an axis as a weighted sum of old ones."""

    places: Int64[np.ndarray, "new t"]
    weights: Float64[np.ndarray, "new t"]


def resample(
    array: Real[np.ndarray, "h w *c"],
    size: tuple[int, int],
    kernel: Kernel,
    dtype: type[np.float64] | type[np.float32] = np.float64,
) -> Float[np.ndarray, "_h _w *c"]:
    """Return `array` with `size` (height, width), interpolated as `kernel` says.

    - `linear`: between the two nearest pixel centres, the outer edges of pixels aligned, without
      averaging when an axis shrinks. OpenCV's INTER_LINEAR, torch's `interpolate(mode="bilinear",
      align_corners=False)`.
    - `linear_aligned`: the same with the centres of the corner pixels aligned: torch's
      `align_corners=True`.
    - `cubic`: Keys' cubic convolution over four pixels, a = -0.75, placed as `linear`, not averaged
      either. It overshoots at edges. OpenCV's INTER_CUBIC, torch's `mode="bicubic"`.
    - `area`: OpenCV's INTER_AREA: the average over the covered stretch, partly covered pixels in
      proportion. As there, a side that shrinks while the other one grows is no average but
      interpolated between two pixels.

    Pixels beyond the edge repeat the last one. A NaN spreads only to the pixels that are computed
    from it. Computed in float64, of large results a band of rows at a time, and rounded to `dtype`.
    OpenCV has positions and weights in float32: its `linear` and
    `cubic` values of float images differ by up to longer side / 2^24 of the difference between
    neighbours, 2e-6 at 32 pixels and 3e-5 at 512.
    """
    grows = any(new > old for old, new in zip(array.shape, size, strict=False))
    # First the axis that leaves less: a strip must not become as large as its longer side squared.
    rows_first = size[0] * array.shape[1] <= array.shape[0] * size[1]
    axes = [axis for axis in ((0, 1) if rows_first else (1, 0)) if array.shape[axis] != size[axis]]
    if not axes:
        return array.astype(dtype, copy=False)
    taps = {axis: _taps(array.shape[axis], size[axis], kernel, grows) for axis in axes}
    for axis in axes[:-1]:
        array = _apply(array, axis, taps[axis])
    # What the last axis makes may be thousands of times as large.
    resized = np.empty((*size, *array.shape[2:]), dtype)
    for rows in bands(*size):
        if axes[-1] == 0:
            resized[rows] = _apply(array, 0, _Taps(*(each[rows] for each in taps[0])))
        else:
            resized[rows] = _apply(array[rows], 1, taps[1])
    return resized


def _apply(array: np.ndarray, axis: int, taps: _Taps) -> Float64[np.ndarray, "..."]:
    along = (1,) * axis + (-1,) + (1,) * (array.ndim - axis - 1)
    total = np.zeros((*array.shape[:axis], len(taps.places), *array.shape[axis + 1 :]))
    for places, weights in zip(taps.places.T, taps.weights.T, strict=True):
        # An unused tap must not bring a NaN in, as 0 * NaN would.
        used = weights != 0
        if used.all():
            total += weights.reshape(along) * array.take(places, axis)
        else:
            at = (slice(None),) * axis + (used,)
            total[at] += weights[used].reshape(along) * array.take(places[used], axis)
    return total


def _taps(old: int, new: int, kernel: Kernel, grows: bool) -> _Taps:
    centres = (np.arange(new) + 0.5) * (old / new) - 0.5
    if kernel == "linear":
        return _linear(centres, old)
    if kernel == "linear_aligned":
        return _linear(np.arange(new) * ((old - 1) / max(new - 1, 1)), old)
    if kernel == "cubic":
        return _cubic(centres, old)
    return _stretches(old, new) if grows else _box(old, new)


def _linear(where: Float64[np.ndarray, "new"], old: int) -> _Taps:
    """Interpolate between the two neighbours of `where`, held at the ends."""
    where = np.clip(where, 0, old - 1)
    below = np.floor(where).astype(np.int64)
    share = where - below
    return _Taps(
        np.stack([below, np.minimum(below + 1, old - 1)], axis=1),
        np.stack([1 - share, share], axis=1),
    )


def _cubic(where: Float64[np.ndarray, "new"], old: int) -> _Taps:
    """Keys 1981, "Cubic convolution interpolation for digital image processing"."""
    below = np.floor(where)
    places = below[:, None] + np.arange(-1, 3)
    x = np.abs(where[:, None] - places)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return _Taps(
        np.clip(places, 0, old - 1).astype(np.int64), np.where(x <= 1, near, far) * (x < 2)
    )


def _box(old: int, new: int) -> _Taps:
    """Average over the stretch of old pixels that a new one covers."""
    edges = np.arange(new + 1) * old / new
    places = np.floor(edges[:-1]).astype(np.int64)[:, None] + np.arange(old // new + 2)
    covered = np.minimum(edges[1:, None], places + 1) - np.maximum(edges[:-1, None], places)
    covered = np.maximum(covered, 0.0)
    return _Taps(np.minimum(places, old - 1), covered / covered.sum(axis=1, keepdims=True))


def _stretches(old: int, new: int) -> _Taps:
    """Return OpenCV's taps of `area` where a side grows: the average, if it is this one.

    A new pixel takes the old one that it begins in, and of the next one as much as it reaches over.
    """
    # In OpenCV's own floats: a quotient that should be whole and is not shifts it by a pixel.
    first = np.floor(np.arange(new) * (1 / (new / old))).astype(np.int64)
    share = (np.arange(1, new + 1) - (first + 1) * (new / old)).astype(np.float32)
    share = np.where(share > 0, share - np.floor(share), 0.0).astype(np.float64)
    return _Taps(
        np.stack([first, np.minimum(first + 1, old - 1)], axis=1),
        np.stack([1 - share, share], axis=1),
    )
