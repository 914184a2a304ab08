"""Ordinal error on fixed held-out pairs: WHDR and WKDR, with intervals over images.

Sources: WHDR with strict inequality as the official test code of DIW has it (Chen et al., NIPS
2016); the three-way WKDR, WKDR= and WKDR≠ with a threshold fitted on validation images (Zoran et
al., ICCV 2015; Chen et al.); relations by Eq. (1) of Xian et al., CVPR 2018.

Pairs: `heldout_pairs` draws them once, from (seed, index of the image) and the mask alone: the same
for every model, run and machine. They come in two kinds, uniform over the valid pixels and
"same-row" (rows less than `ROW_BAND` of the height apart), where the location rule "lower in the
image is nearer" (`location_rule`) is worth little.

Errors, all as shares of pairs pooled over images (not means of per-image shares, so an image
without equal pairs cannot poison the result):
  WHDR, over pairs of unequal depth: wrong unless sign(z_i - z_j) is the relation; a tie is wrong.
  WKDR, over all pairs: the prediction is "equal" where |z_i - z_j| <= tau, else that sign.
  WKDR= and WKDR≠: the same over the pairs of equal and of unequal depth.
A NaN score is wrong wherever it occurs.

Axes: h height, w width, n pairs, m images. Sign: score and depth grow with distance; infinite
depth is sky. All in NumPy, differences and products in float64.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Int8

ROW_BAND = 0.06
"""Points of a same-row pair are less than this share of the height apart."""

RULE = "lower is nearer"
"""Name of the location rule in tables and files."""


class PixelPairs(NamedTuple):
    """Pairs of one image as flat pixel indices (`row * w + column`), the two always distinct."""

    first: Int[np.ndarray, "n"]
    second: Int[np.ndarray, "n"]


def heldout_pairs(
    mask: Bool[np.ndarray, "h w"], *, seed: int, index: int, count: int, same_row: bool = False
) -> PixelPairs:
    """Draw `count` pairs of valid pixels of image number `index`; a function of its arguments.

    The first point is uniform over the valid pixels that have a partner, the second uniform over
    its partners: all other valid pixels or, with `same_row`, those of its band of rows. No pairs
    if no pixel has a partner.
    """
    height, width = mask.shape
    valid = np.flatnonzero(mask)
    rows = valid // width
    radius = _band_radius(height) if same_row else height
    # Valid pixels are sorted by row, so the partners of those of a row are one stretch of them.
    row = np.arange(height)
    start = np.searchsorted(rows, row - radius, side="left")
    stop = np.searchsorted(rows, row + radius, side="right")
    paired = np.flatnonzero((stop - start > 1)[rows])
    if not len(paired):
        return PixelPairs(np.zeros(0, np.int64), np.zeros(0, np.int64))

    # Raw bits: NumPy promises that these never change, which it does not for distributions.
    bits = np.random.Philox(np.random.SeedSequence((seed, index, int(same_row))))
    uniform = (bits.random_raw((2, count)) >> np.uint64(11)) * 2.0**-53
    first = paired[(uniform[0] * len(paired)).astype(np.int64)]
    start, stop = start[rows[first]], stop[rows[first]]
    second = start + (uniform[1] * (stop - start - 1)).astype(np.int64)
    second += second >= first
    return PixelPairs(valid[first], valid[second])


def _band_radius(height: int) -> int:
    """Return the largest difference of rows that is below `ROW_BAND` of the height."""
    return int(np.ceil(ROW_BAND * height)) - 1


def location_rule(height: int, width: int) -> Float64[np.ndarray, "h w"]:
    """Return the score of the rule "lower in the image is nearer": minus the row."""
    return np.broadcast_to(-np.arange(height, dtype=np.float64)[:, None], (height, width))


def relation(
    depth_i: Float[np.ndarray, "n"], depth_j: Float[np.ndarray, "n"], sigma: float
) -> Int8[np.ndarray, "n"]:
    """Eq. (1): +1 where g_i/g_j > 1 + sigma (first farther), -1 where g_j/g_i is, else 0.

    By products, so that zero depth is no special case; infinite (sky) equals itself only.
    """
    g_i, g_j = depth_i.astype(np.float64), depth_j.astype(np.float64)
    return (g_i > (1 + sigma) * g_j).astype(np.int8) - (g_j > (1 + sigma) * g_i).astype(np.int8)


def difference(score: Float[np.ndarray, "h w"], pairs: PixelPairs) -> Float[np.ndarray, "n"]:
    """Return z_i - z_j in float64: zero where both are the same infinity, NaN where one is NaN."""
    z = score.reshape(-1).astype(np.float64)
    z_i, z_j = z[pairs.first], z[pairs.second]
    with np.errstate(invalid="ignore"):
        return np.where(z_i == z_j, 0.0, z_i - z_j)


@dataclasses.dataclass(frozen=True, eq=False)
class ErrorCounts:
    """Wrong pairs and all pairs of each image; `merge` appends images, `rate` pools them."""

    wrong: Float[np.ndarray, "m"]
    total: Int[np.ndarray, "m"]

    @classmethod
    def of_image(cls, wrong: Bool[np.ndarray, "n"] | Float[np.ndarray, "n"]) -> "ErrorCounts":
        """Count the pairs of one image; `wrong` in [0, 1] for each pair."""
        return cls(np.array([wrong.sum()], np.float64), np.array([wrong.size], np.int64))

    @classmethod
    def merge(cls, parts: "Sequence[ErrorCounts]") -> "ErrorCounts":
        """Append images in the order given."""
        return cls(
            np.concatenate([np.zeros(0, np.float64), *(part.wrong for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.total for part in parts)]),
        )

    @classmethod
    def mean(cls, parts: "Sequence[ErrorCounts]") -> "ErrorCounts":
        """Average models (say, seeds of one recipe) that were counted on the same pairs.

        Raises ValueError if they were not.
        """
        if any(not np.array_equal(part.total, parts[0].total) for part in parts):
            raise ValueError("ErrorCounts.mean: the models were not counted on the same pairs")
        return cls(np.mean([part.wrong for part in parts], axis=0), parts[0].total)

    @property
    def rate(self) -> float:
        """Share of the pairs that is wrong, pooled over images; NaN without pairs."""
        return float(self.wrong.sum() / self.total.sum()) if self.total.sum() else float("nan")

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of `rate` over images."""
        return bootstrap_interval(self.wrong, self.total)

    def summary(self) -> dict[str, float | None]:
        """Return rate and interval for JSON."""
        low, high = self.interval
        return plain({"rate": self.rate, "low": low, "high": high})


def plain(numbers: dict[str, float]) -> dict[str, float | None]:
    """Replace NaN, which JSON does not have, by None."""
    return {name: None if np.isnan(value) else value for name, value in numbers.items()}


def strict_error(
    difference: Float[np.ndarray, "n"], relation: Int8[np.ndarray, "n"], *, tie: float = 1.0
) -> ErrorCounts:
    """WHDR of one image, over its pairs of unequal depth.

    `tie` is what z_i == z_j costs there: 1 by the rule of DIW; 0.5, what a coin would get, for
    a rule that cannot tell pixels of one row apart.
    """
    unequal = relation != 0
    # Comparing signs, a NaN differs from every relation.
    wrong = (np.sign(difference) != relation).astype(np.float64)
    return ErrorCounts.of_image(np.where(difference == 0, tie, wrong)[unequal])


def three_way_error(
    difference: Float[np.ndarray, "n"], relation: Int8[np.ndarray, "n"], tau: float
) -> tuple[ErrorCounts, ErrorCounts, ErrorCounts]:
    """WKDR, WKDR= and WKDR≠ of one image; `tau` >= 0 in units of the score."""
    predicted = np.where(np.abs(difference) <= tau, 0.0, np.sign(difference))
    wrong = predicted != relation
    return (
        ErrorCounts.of_image(wrong),
        ErrorCounts.of_image(wrong[relation == 0]),
        ErrorCounts.of_image(wrong[relation != 0]),
    )


def best_tau(difference: Float[np.ndarray, "n"], relation: Int8[np.ndarray, "n"]) -> float:
    """Return the smallest tau that minimises max(WKDR=, WKDR≠) over these pairs.

    Exact and free of scale: the candidates are 0 and every finite |z_i - z_j|. A kind of pairs that
    does not occur has error 0.
    """
    distance = np.abs(difference)
    equal = np.sort(distance[relation == 0])
    ordered = np.sort(distance[(relation != 0) & (np.sign(difference) == relation)])
    unequal = np.count_nonzero(relation)
    candidates = np.unique(np.append(distance[np.isfinite(distance)], 0.0))
    # NaN is sorted last, beyond every candidate: such pairs stay wrong.
    accepted = np.searchsorted(equal, candidates, side="right")
    lost = np.searchsorted(ordered, candidates, side="right")
    wrong_equal = (len(equal) - accepted) / max(1, len(equal))
    wrong_unequal = (unequal - len(ordered) + lost) / max(1, unequal)
    return float(candidates[np.argmin(np.maximum(wrong_equal, wrong_unequal))])


def bootstrap_interval(
    wrong: Float[np.ndarray, "m"],
    total: Int[np.ndarray, "m"],
    *,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of the pooled rate when the images are drawn again.

    (NaN, NaN) for fewer than two images: their spread is unknown. Images without pairs count as
    images; a resample without any pair is left out.
    """
    rates = resampled_rates([wrong], total, samples, seed)[0]
    return percentiles(rates)


def resampled_rates(
    wrongs: list[Float[np.ndarray, "m"]], total: Int[np.ndarray, "m"], samples: int, seed: int
) -> list[Float[np.ndarray, "samples"]]:
    """Return the pooled rates of each resample of the images, the same ones for all of `wrongs`."""
    images = len(total)
    if images < 2:
        return [np.zeros(0) for _ in wrongs]
    generator = np.random.Generator(np.random.Philox(seed))
    sums = np.empty((len(wrongs) + 1, samples))
    columns = np.stack([*wrongs, total.astype(np.float64)])
    # One resample at a time: all at once would need samples x images numbers.
    for k in range(samples):
        times = np.bincount(generator.integers(images, size=images), minlength=images)
        sums[:, k] = columns @ times
    sums = sums[:, sums[-1] > 0]
    return list(sums[:-1] / sums[-1])


def percentiles(values: Float[np.ndarray, "samples"]) -> tuple[float, float]:
    """Return the ends of the central 95 % of the values, NaN if there are none."""
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - 0.95) / 2, (1 + 0.95) / 2])
    return float(low), float(high)
