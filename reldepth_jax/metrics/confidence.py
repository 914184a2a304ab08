"""How sure a predicted order is, and whether it deserves it.

P(i is farther than j) = sigmoid((z_i - z_j) / T): the logistic model behind the ranking loss (Xian
et al., CVPR 2018, Eq. 3; RankNet, Burges et al., ICML 2005), with a temperature T fitted on
validation pairs (temperature scaling, Guo et al., ICML 2017). Which point is called "first" is
arbitrary, so all measures look at the confidence in the order that was said, sigmoid(|z_i - z_j|/T)
in [0.5, 1], against whether that order is right.

Only pairs of unequal depth count. A tie has confidence 0.5 and is half right, as a coin would be; a
NaN difference has confidence 0.5 and is wrong, as everywhere.

All in NumPy, and in float64 but for maps. Axes: h height, w width, n pairs, b bins. Sign: scores
grow with distance.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int8

BINS = 15
"""Bins of the calibration error (Guo et al.)."""
PARTNERS = 8
"""A confidence map compares every pixel with the centres of that many rows and columns of cells."""
BOUND = 1e3
"""T lies within this factor of the mean |z_i - z_j|, to either side."""

_STEPS = 60
_CHUNK = 2**14


def fit_temperature(difference: Float[np.ndarray, "n"], relation: Int8[np.ndarray, "n"]) -> float:
    """Return the T > 0 with the least negative log-likelihood over the pairs of unequal depth.

    It is convex in 1/T, so that bisection on log T finds it. Multiplied scores multiply T. Bounds
    (`BOUND`): the lower one if every order is right, for then less T is always better, the upper
    one if the score is no better than a coin. Differences that are not finite are left out; 1 if
    none is left that is not zero, where every T is the same.
    """
    margin = _margin(difference, relation)
    margin = margin[np.isfinite(margin)]
    scale = float(np.mean(np.abs(margin))) if len(margin) else 0.0
    if not scale:
        return 1.0
    margin = margin / scale

    def too_low(log_t: float) -> bool:
        """Whether the likelihood grows with T: the wrong pairs pull harder than the right ones."""
        return float(np.sum(margin * _sigmoid(-margin / math.exp(log_t)))) < 0

    low, high = -math.log(BOUND), math.log(BOUND)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if too_low(middle) else (low, middle)
    return scale * math.exp((low + high) / 2)


def confidence(difference: Float[np.ndarray, "n"], temperature: float) -> Float64[np.ndarray, "n"]:
    """Return sigmoid(|z_i - z_j| / T), in [0.5, 1]; 0.5 for NaN."""
    with np.errstate(over="ignore"):
        scaled = np.abs(difference.astype(np.float64)) / temperature
    return _sigmoid(np.nan_to_num(scaled, nan=0.0, posinf=np.inf))


def negative_log_likelihood(
    difference: Float[np.ndarray, "n"], relation: Int8[np.ndarray, "n"], temperature: float
) -> float:
    """Return the mean of -log P(true order), in nats; a coin has log 2 = 0.693.

    NaN without pairs of unequal depth, infinite if an infinite difference is wrong.
    """
    margin = np.nan_to_num(_margin(difference, relation), nan=0.0, posinf=np.inf, neginf=-np.inf)
    if not len(margin):
        return math.nan
    with np.errstate(over="ignore"):
        return float(np.mean(np.logaddexp(0.0, -margin / temperature)))


@dataclasses.dataclass(frozen=True, eq=False)
class Reliability:
    """Pairs in bins of rising confidence, about equally many in each."""

    count: Int[np.ndarray, "b"]
    confidence: Float64[np.ndarray, "b"]
    """Mean confidence of the pairs of a bin."""
    accuracy: Float64[np.ndarray, "b"]
    """Share of them that is right."""

    @property
    def ece(self) -> float:
        """Expected calibration error: mean of |accuracy - confidence| over pairs; NaN without."""
        if not len(self.count):
            return math.nan
        return float(np.average(np.abs(self.accuracy - self.confidence), weights=self.count))


def reliability(
    difference: Float[np.ndarray, "n"],
    relation: Int8[np.ndarray, "n"],
    temperature: float,
    *,
    bins: int = BINS,
) -> Reliability:
    """Sort the pairs of unequal depth by confidence into `bins` of equal mass.

    Pairs of one confidence share a bin, so that their order does not matter; there are fewer bins
    where that leaves some empty.
    """
    unequal = relation != 0
    difference, relation = difference[unequal], relation[unequal]
    right = np.where(difference == 0, 0.5, np.sign(difference) == relation)
    sure = confidence(difference, temperature)
    order = np.argsort(sure, kind="stable")
    sure, right = sure[order], right[order]
    if not len(sure):
        return Reliability(np.zeros(0, np.int64), np.zeros(0), np.zeros(0))
    cuts = len(sure) * np.arange(bins) // bins
    starts = np.unique(np.searchsorted(sure, sure[cuts], side="left"))
    count = np.diff(np.append(starts, len(sure)))
    sums = (np.add.reduceat(values, starts) for values in (sure, right))
    return Reliability(count, *(total / count for total in sums))


@dataclasses.dataclass(frozen=True, eq=False)
class Calibration:
    """Confidence of one score over pooled pairs, as it is (T = 1) and with its temperature."""

    temperature: float
    nll: tuple[float, float]
    """Negative log-likelihood before and after, in nats a pair."""
    bins: tuple[Reliability, Reliability]

    @classmethod
    def of_pairs(
        cls,
        difference: Float[np.ndarray, "n"],
        relation: Int8[np.ndarray, "n"],
        temperature: float,
    ) -> "Calibration":
        """Measure with `temperature`, which should have been fitted on other images."""
        both = (1.0, temperature)
        before, after = (negative_log_likelihood(difference, relation, t) for t in both)
        tables = (reliability(difference, relation, t) for t in both)
        return cls(temperature, (before, after), (next(tables), next(tables)))

    def to_json(self) -> dict[str, Any]:
        """Return plain values; null where there is no (finite) number."""
        sides = zip(("before", "after"), (1.0, self.temperature), self.nll, self.bins, strict=True)
        return {
            "temperature": self.temperature,
            **{
                side: {
                    "temperature": temperature,
                    "ece": None if math.isnan(table.ece) else table.ece,
                    "nll": nll if math.isfinite(nll) else None,
                    "bins": {key: each.tolist() for key, each in vars(table).items()},
                }
                for side, temperature, nll, table in sides
            },
        }


def confidence_map(
    score: Float32[np.ndarray, "h w"], temperature: float
) -> Float32[np.ndarray, "h w"]:
    """Return for each pixel its mean confidence against fixed partners, in [0.5, 1].

    Partners are the centres of 8x8 equal cells (`PARTNERS`; fewer in images with shorter sides):
    rows floor((k + 1/2) h / 8), columns likewise. A partner meets itself too, with 0.5. Memory
    beside the result does not grow with the image.
    """
    rows, columns = (
        np.unique((2 * np.arange(PARTNERS) + 1) * side // (2 * PARTNERS)) for side in score.shape
    )
    partners = score[np.ix_(rows, columns)].reshape(-1)
    # sigmoid(|x|) = (1 + |tanh(x / 2)|) / 2. In float32: a photograph has millions of pixels.
    limits = np.finfo(np.float32)
    scale = np.float32(np.clip(2 * temperature, limits.tiny, limits.max))
    values = score.reshape(-1)
    means = np.empty(values.size, np.float32)
    for start in range(0, values.size, _CHUNK):
        z = values[start : start + _CHUNK]
        total, term = np.zeros_like(z), np.empty_like(z)
        with np.errstate(over="ignore"):
            for partner in partners:
                np.subtract(z, partner, out=term)
                np.divide(term, scale, out=term)
                total += np.abs(np.tanh(term, out=term), out=term)
        means[start : start + _CHUNK] = 0.5 + 0.5 * total / partners.size
    return means.reshape(score.shape)


def _margin(
    difference: Float[np.ndarray, "n"], relation: Int8[np.ndarray, "n"]
) -> Float64[np.ndarray, "_n"]:
    """Return the differences of the unequal pairs, positive where the order is right."""
    unequal = relation != 0
    return difference[unequal].astype(np.float64) * relation[unequal]


def _sigmoid(x: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1.0 + small)
