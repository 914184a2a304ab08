"""Whether one recipe errs less than another, of which a few networks each were trained.

Two things vary if all is done again: the images, and the networks (their seeds). Both are drawn
again together, as in a hierarchical bootstrap (Davison and Hinkley, Bootstrap Methods and their
Application, 1997, Section 3.8). A few seeds say little of their own spread, which a bootstrap alone
would not admit: of three it sees 2/3 of the variance, and its percentiles are those of a normal
distribution. So deviations of k seeds are taken sqrt(k / (k - 1)) times, and the interval is as
much wider as Student's t is, with the degrees of freedom of Satterthwaite (Biometrics 2, 1946).
Beside it stands the test of Welch (Biometrika 34, 1947) over the seeds' errors alone.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from reldepth_jax.metrics.ordinal import ErrorCounts, percentiles, resampled_rates

_TAIL = 0.975


class Difference(NamedTuple):
    """Error of one recipe minus that of another, on the same pairs; NaN: there is no number."""

    value: float
    low: float
    high: float
    """Ends of the 95 % interval; over images alone if a recipe has one network."""
    seeds_p: float
    """Welch's test over seeds: how often a difference as large as this arises between networks of
    one recipe. NaN if a recipe has one network."""

    @property
    def decided(self) -> bool:
        """Whether it is below or above zero by both: interval and seeds, where there are some."""
        clear = self.low > 0 or self.high < 0
        return clear and not self.seeds_p >= 2 * (1 - _TAIL)


def difference(
    one: Sequence[ErrorCounts], other: Sequence[ErrorCounts], *, samples: int = 2000, seed: int = 0
) -> Difference:
    """Compare two recipes by the counts of their networks; each resample of images is for all.

    Raises ValueError if they were not counted on the same pairs.
    """
    total = one[0].total
    if any(not np.array_equal(counts.total, total) for counts in (*one, *other)):
        raise ValueError("recipes.difference: the networks were not counted on the same pairs")
    groups = [[counts.rate for counts in group] for group in (one, other)]
    value = float(np.mean(groups[0]) - np.mean(groups[1]))
    wrongs = [counts.wrong for counts in (*one, *other)]
    rates = resampled_rates(wrongs, total, samples, seed)
    by_seed = np.array(rates[: len(one)]), np.array(rates[len(one) :])
    if not by_seed[0].size:
        return Difference(value, math.nan, math.nan, math.nan)
    resampled = by_seed[0].mean(axis=0) - by_seed[1].mean(axis=0)
    if min(map(len, groups)) == 1:
        return Difference(value, *percentiles(resampled), math.nan)
    # Variance of the difference and degrees of freedom, from each recipe's seeds and from images.
    parts = [(float(np.var(group, ddof=1)) / len(group), len(group) - 1) for group in groups]
    generator = np.random.Generator(np.random.Philox((seed, 1)))
    both = (_redrawn(group, generator) for group in by_seed)
    spread = np.subtract(*both)
    wider = _widening([*parts, (float(np.var(resampled)), len(total) - 1)])
    low, high = (value + wider * (end - value) for end in percentiles(spread))
    return Difference(value, low, high, _welch(value, parts))


def _redrawn(
    rates: Float[np.ndarray, "k samples"], generator: np.random.Generator
) -> Float[np.ndarray, "samples"]:
    """Return the mean of as many seeds, drawn again for each resample of images."""
    k, samples = rates.shape
    drawn = np.take_along_axis(rates, generator.integers(k, size=(k, samples)), axis=0)
    centre = rates.mean(axis=0)
    return centre + math.sqrt(k / (k - 1)) * (drawn.mean(axis=0) - centre)


def _freedom(parts: Sequence[tuple[float, int]]) -> float:
    """Return Satterthwaite's degrees of freedom of a sum of variances with such degrees."""
    whole = sum(variance for variance, _ in parts)
    return whole**2 / sum(variance**2 / degrees for variance, degrees in parts)


def _widening(parts: Sequence[tuple[float, int]]) -> float:
    # Imported late: it takes as long as all of a small comparison.
    from scipy import special

    if not any(variance for variance, _ in parts):
        return 1.0
    return float(special.stdtrit(_freedom(parts), _TAIL) / special.ndtri(_TAIL))


def _welch(value: float, parts: Sequence[tuple[float, int]]) -> float:
    from scipy import special

    whole = sum(variance for variance, _ in parts)
    if not whole:
        return float(value == 0)
    return float(2 * special.stdtr(_freedom(parts), -abs(value) / math.sqrt(whole)))
