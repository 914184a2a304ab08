"""Errors of metric depth: state per image, merge, compute.

Sources: abs rel, sq rel, RMSE, RMSE of logarithms, deltas and the scale-invariant error as Eigen et
al., NIPS 2014, have them; log10 as Laina et al., 3DV 2016; the three ways to average under
`DepthErrors.compute`.

With prediction p, ground truth g and d = ln p - ln g, over the pixels that count:
  abs_rel: mean of |p - g| / g.                 sq_rel: mean of (p - g)^2 / g.
  rmse:    root of the mean of (p - g)^2.       rmse_log: root of the mean of d^2.
  log10:   mean of |log10 p - log10 g|.
  si_rmse: root of the mean of d^2 less the square of the mean of d.
  delta1, delta2, delta3: share of pixels with max(p/g, g/p) < 1.25, 1.25^2, 1.25^3. These are
           accuracies, larger is better; MiDaS prints 100 (1 - delta1).

Pixels that count: in the mask, ground truth finite and positive, so no sky. A prediction that is
NaN, infinite or not positive has no error but must not vanish: it makes all measures but the deltas
NaN for its image, and every average with that image; for the deltas it is off. `invalid` counts
such pixels.

Axes: h height, w width, m images. Units: metres in, so rmse and sq_rel are in metres; the others
have none. Sign: depth grows with distance. All in NumPy and float64.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, assert_never

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64

from reldepth_jax.metrics.ordinal import bootstrap_interval

Reduction = Literal["image", "pooled", "chen"]

MEASURES = (
    "abs_rel",
    "sq_rel",
    "rmse",
    "rmse_log",
    "log10",
    "si_rmse",
    "delta1",
    "delta2",
    "delta3",
)
_IS_ROOT = np.array([name in ("rmse", "rmse_log", "si_rmse") for name in MEASURES])


@dataclasses.dataclass(frozen=True, eq=False)
class DepthErrors:
    """Sums over the pixels of each image; `merge` appends images, `compute` averages."""

    sums: Float64[np.ndarray, "m 9"]
    """In the order of `MEASURES`, sums of what the measure is the mean, or root of the mean, of."""
    pixels: Int64[np.ndarray, "m"]
    """Pixels that count."""
    invalid: Int64[np.ndarray, "m"]
    """Those among them whose prediction is NaN, infinite or not positive."""

    @classmethod
    def of_image(
        cls,
        prediction: Float[np.ndarray, "h w"],
        depth: Float[np.ndarray, "h w"],
        mask: Bool[np.ndarray, "h w"],
    ) -> "DepthErrors":
        """Judge one image; both maps are depth in one unit."""
        counted = mask & np.isfinite(depth) & (depth > 0)
        p, g = prediction[counted].astype(np.float64), depth[counted].astype(np.float64)
        invalid = ~(np.isfinite(p) & (p > 0))
        p[invalid] = np.nan
        # An error beyond the largest number is infinite: visible in the result.
        with np.errstate(over="ignore"):
            error, d = p - g, np.log(p) - np.log(g)
            ratio = np.maximum(p / g, g / p)
            terms = {
                "abs_rel": np.abs(error) / g,
                "sq_rel": error**2 / g,
                "rmse": error**2,
                "rmse_log": d**2,
                "log10": np.abs(d) / np.log(10),
                # About the mean: the difference of two large sums would be rounding errors.
                "si_rmse": (d - d.mean()) ** 2 if d.size else d,
                "delta1": ratio < 1.25,
                "delta2": ratio < 1.25**2,
                "delta3": ratio < 1.25**3,
            }
            sums = np.array([[terms[name].sum() for name in MEASURES]], np.float64)
        return cls(sums, np.array([g.size], np.int64), np.array([invalid.sum()], np.int64))

    @classmethod
    def merge(cls, parts: "Sequence[DepthErrors]") -> "DepthErrors":
        """Append images in the order given: however they were split, the result is the same."""
        return cls(
            np.concatenate([np.zeros((0, len(MEASURES))), *(part.sums for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.pixels for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.invalid for part in parts)]),
        )

    @property
    def num_images(self) -> int:
        """Images that were judged, those without a pixel that counts among them."""
        return len(self.pixels)

    def compute(self, reduction: Reduction) -> dict[str, float]:
        """Return `MEASURES`; all NaN if no pixel counts.

        Images without a pixel that counts are left out. The reductions:
          image: the measure of each image, averaged over images (MiDaS, and most since).
          pooled: over the pixels of all images; but si_rmse takes the mean of d away per image.
          chen: as image, but of rmse, rmse_log and si_rmse the squares are averaged and the root
            is taken last (the script of Chen et al., NIPS 2016, that Xian et al. used).
        """
        used = self.pixels > 0
        if not used.any():
            return dict.fromkeys(MEASURES, float("nan"))
        match reduction:
            case "image":
                values = self._of_each_image().mean(axis=0)
            case "pooled":
                values = _rooted(self.sums.sum(axis=0) / self.pixels.sum())
            case "chen":
                values = _rooted((self.sums[used] / self.pixels[used, None]).mean(axis=0))
            case _:
                assert_never(reduction)
        return dict(zip(MEASURES, values.tolist(), strict=True))

    def interval(self, measure: str) -> tuple[float, float]:
        """95 % percentile bootstrap interval of the reduction "image" over images with pixels.

        (NaN, NaN) for fewer than two such images, and where one has no finite value. Raises
        ValueError if `measure` is none of `MEASURES`.
        """
        if measure not in MEASURES:
            expected = ", ".join(MEASURES)
            raise ValueError(f"DepthErrors.interval: got {measure!r}, expected one of {expected}")
        values = self._of_each_image()[:, MEASURES.index(measure)]
        if not np.isfinite(values).all():
            return float("nan"), float("nan")
        return bootstrap_interval(values, np.ones(len(values), np.int64))

    def _of_each_image(self) -> Float64[np.ndarray, "_images 9"]:
        """Return the measures of the images that have a pixel that counts."""
        used = self.pixels > 0
        return _rooted(self.sums[used] / self.pixels[used, None])


def _rooted(means: Float64[np.ndarray, "*m 9"]) -> Float64[np.ndarray, "*m 9"]:
    return np.where(_IS_ROOT, np.sqrt(means), means)
