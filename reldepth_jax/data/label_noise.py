"""Errors of web-stereo labels, put on clean depth to study what they do to a loss.

Maps of web stereo (ReDWeb, HR-WSI, films) hold inverse depth with a scale and an offset that nobody
knows and that differ between images, in 8 bits, and whole regions of them are wrong where optical
flow failed; sky is segmented and set to infinity. The same here, in this order, on inverse depth u
divided by the largest of the image, so 0 < u <= 1:

1. x = gain (u + offset): log gain uniform in +-log(1 + `gain`), offset uniform in 0..`offset`. An
   offset is never negative, so that x stays positive and no order changes.
2. Rounding to `levels` values from 0 to the largest x. The lowest is sky's: what would be rounded
   to it takes the next one.
3. Four ellipses or rectangles of `wrong` / 4 of the area each, wholly inside the image; they may
   overlap. Each takes, with equal probability, x of an equal region elsewhere, or x of one pixel.

Depth becomes 1 / x: relative, with the scale of no other image. Sky and pixels without ground truth
stay as they are, neither are they carried elsewhere. Deviation from real maps: each use
of an image draws new errors, so that a network can average over them.

Axes: h w. Host side, NumPy, float64 inside.
"""

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from reldepth_jax.config import LabelNoise

REGIONS = 4


def noisy_depth(
    depth: Float[np.ndarray, "h w"],
    mask: Bool[np.ndarray, "h w"],
    noise: LabelNoise,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "h w"]:
    """Return depth as a map with such errors would give it; `rng` alone decides which."""
    shape = depth.shape
    # Every draw is made whether it is used or not: an option changes itself and no other.
    log_gain, offset = rng.uniform(-1, 1), rng.uniform(0, 1)
    regions = [_region(shape, noise.wrong / REGIONS, rng) for _ in range(REGIONS)]
    finite = mask & np.isfinite(depth) & (depth > 0)
    if not finite.any():
        return depth.astype(np.float32)
    x = np.zeros(shape)
    x[finite] = 1 / depth[finite].astype(np.float64)
    x[finite] = (1 + noise.gain) ** log_gain * (x[finite] / x.max() + noise.offset * offset)
    if noise.levels:
        step = x.max() / (noise.levels - 1)
        x[finite] = step * np.maximum(1, np.round(x[finite] / step))
    if noise.wrong:
        x = _with_wrong_regions(x, finite, regions)
    noisy = depth.astype(np.float32)
    noisy[finite] = 1 / x[finite]
    return noisy


_Region = tuple[Bool[np.ndarray, "_h _w"], tuple[int, int], tuple[int, int], float, float]


def _region(shape: tuple[int, int], area: float, rng: np.random.Generator) -> _Region:
    """Return shape, its corner, the corner of its copy, and two numbers in [0, 1) for the rest."""
    stretch = 2 ** rng.uniform(-1, 1)
    place, other = rng.uniform(size=2), rng.uniform(size=2)
    ellipse, constant, pixel = rng.uniform(size=3)
    # An ellipse fills pi / 4 of its box.
    side = np.sqrt(area * (4 / np.pi if ellipse < 0.5 else 1))
    shares = np.minimum(side * np.sqrt([stretch, 1 / stretch]), 1)
    height, width = (max(1, round(n * share)) for n, share in zip(shape, shares, strict=True))
    inside = np.ones((height, width), np.bool_)
    if ellipse < 0.5:
        rows = (2 * np.arange(height) + 1) / height - 1
        columns = (2 * np.arange(width) + 1) / width - 1
        inside = rows[:, None] ** 2 + columns**2 <= 1
    room = np.array([shape[0] - height + 1, shape[1] - width + 1])
    corner, source = (tuple((share * room).astype(int).tolist()) for share in (place, other))
    return inside, corner, source, float(constant), float(pixel)


def _with_wrong_regions(
    x: Float64[np.ndarray, "h w"], finite: Bool[np.ndarray, "h w"], regions: list[_Region]
) -> Float64[np.ndarray, "h w"]:
    wrong, values = x.copy(), x[finite]
    for inside, corner, source, constant, pixel in regions:
        here, there = (
            tuple(slice(start, start + n) for start, n in zip(begin, inside.shape, strict=True))
            for begin in (corner, source)
        )
        changed = inside & finite[here]
        if constant < 0.5:
            wrong[here][changed] = values[int(pixel * len(values))]
        else:
            changed &= finite[there]
            wrong[here][changed] = x[there][changed]
    return wrong
