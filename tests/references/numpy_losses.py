"""The losses as loops over Python floats (float64), written from the equations.

Source: Xian et al., CVPR 2018, Eqs. (1)-(3) and Section 4.3. Sign: larger is farther.
"""

import math
from collections.abc import Sequence

import numpy as np


def relation(depth_i: float, depth_j: float, sigma: float) -> int:
    """Eq. (1); equal depths are equal also where the ratio is 0/0 or inf/inf."""
    if depth_i == depth_j:
        return 0
    if depth_j == 0 or depth_i == math.inf:
        return +1
    if depth_i == 0 or depth_j == math.inf:
        return -1
    if depth_i / depth_j > 1 + sigma:
        return +1
    if depth_j / depth_i > 1 + sigma:
        return -1
    return 0


def phi(score_i: float, score_j: float, label: int) -> tuple[float, float]:
    """Eq. (3) and its derivative by `score_i` (that by `score_j` is the opposite)."""
    difference = score_i - score_j
    if label == 0:
        return difference**2, 2 * difference
    x = -difference * label
    # log(1 + e^x) = x + log(1 + e^-x): the exponential never overflows.
    value = x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))
    logistic = 1 / (1 + math.exp(-x)) if x > 0 else math.exp(x) / (1 + math.exp(x))
    return value, -label * logistic


def ranking(
    score_i: np.ndarray,
    score_j: np.ndarray,
    labels: np.ndarray,
    where: np.ndarray,
    drop_easiest: float,
) -> tuple[float, np.ndarray, np.ndarray]:
    """Eq. (2) over the kept pairs, and its gradients by `score_i` and `score_j`.

    Weight 0 for the floor(drop_easiest * number) valid unequal pairs of the whole batch with the
    smallest loss, the earlier of equal ones. The sum is divided by the number of kept pairs.
    """
    values: dict[tuple[int, ...], tuple[float, float]] = {}
    for index in np.ndindex(labels.shape):
        if where[index]:
            values[index] = phi(float(score_i[index]), float(score_j[index]), int(labels[index]))
    unequal = [index for index in values if labels[index] != 0]
    unequal.sort(key=lambda index: values[index][0])
    for index in unequal[: math.floor(drop_easiest * len(unequal))]:
        del values[index]
    gradient_i, gradient_j = np.zeros(labels.shape), np.zeros(labels.shape)
    total = 0.0
    for index, (value, slope) in values.items():
        total += value
        gradient_i[index] = slope / len(values)
        gradient_j[index] = -slope / len(values)
    return total / max(len(values), 1), gradient_i, gradient_j


def ranking_of_maps(
    score: np.ndarray,
    depth: np.ndarray,
    mask: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    valid: np.ndarray,
    *,
    sigma: float,
    drop_easiest: float,
) -> tuple[float, np.ndarray]:
    """The ranking loss of maps (b, h, w) at flat indices (b, n), and its gradient by `score`."""
    batch, count = first.shape
    z, g, m = (x.reshape(batch, -1) for x in (score, depth, mask))
    labels, where = np.zeros((batch, count), int), np.zeros((batch, count), bool)
    score_i, score_j = np.zeros((batch, count)), np.zeros((batch, count))
    for b, n in np.ndindex(batch, count):
        i, j = first[b, n], second[b, n]
        where[b, n] = valid[b, n] and m[b, i] and m[b, j]
        score_i[b, n], score_j[b, n] = z[b, i], z[b, j]
        if where[b, n]:
            labels[b, n] = relation(float(g[b, i]), float(g[b, j]), sigma)
    value, gradient_i, gradient_j = ranking(score_i, score_j, labels, where, drop_easiest)
    gradient = np.zeros(z.shape)
    for b, n in np.ndindex(batch, count):
        gradient[b, first[b, n]] += gradient_i[b, n]
        gradient[b, second[b, n]] += gradient_j[b, n]
    return value, gradient.reshape(score.shape)


def distillation_of_maps(
    score: np.ndarray,
    depth: np.ndarray,
    mask: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    valid: np.ndarray,
    certainty: np.ndarray,
    *,
    sigma: float,
    confidence: str,
) -> tuple[float, np.ndarray]:
    """The distillation loss of maps (b, h, w), and its gradient by `score`.

    Per pair, seen from the point that the teacher has farther: its probability p of being right,
    then the cross entropy p (-log s(d)) + (1 - p) (-log s(-d)), or 2 p - 1 times the ranking loss.
    """
    total = weights = 0.0
    shape, batch = score.shape, len(score)
    score, depth, mask = (each.reshape(batch, -1) for each in (score, depth, mask))
    gradient = np.zeros(score.shape)
    for b, n in np.ndindex(first.shape):
        i, j = int(first[b, n]), int(second[b, n])
        if not (valid[b, n] and mask[b, i] and mask[b, j]):
            continue
        if depth[b, j] > depth[b, i]:
            i, j = j, i
        far, near = float(depth[b, i]), float(depth[b, j])
        label = relation(far, near, sigma)
        z_i, z_j, weight = float(score[b, i]), float(score[b, j]), 1.0
        value, slope = phi(z_i, z_j, label)
        if certainty[b] != math.inf:
            if far == near:
                p = 0.5
            elif near == 0 or far == math.inf:
                p = 1.0
            else:
                p = 1 / (1 + (near / far) ** float(certainty[b]))
            if confidence == "weights":
                weight = 2 * p - 1
            else:
                (right, up), (wrong, down) = phi(z_i, z_j, 1), phi(z_i, z_j, -1)
                value, slope = p * right + (1 - p) * wrong, p * up + (1 - p) * down
        total += weight * value
        weights += weight
        gradient[b, i] += weight * slope
        gradient[b, j] -= weight * slope
    scale = 1 / weights if weights else 0.0
    return total * scale, (gradient * scale).reshape(shape)


def normalised(depths: Sequence[float], method: str) -> list[float]:
    """Ground truth of one image's valid pixels: nearest 0, or median 0, or as it is."""
    if method in ("minmax", "median_mad", "none"):
        finite = [d for d in depths if d != math.inf]
        values = [max(finite, default=0.0) if d == math.inf else d for d in depths]
    else:
        values = [-1 / d for d in depths]
    if not values or method == "none":
        return values
    if method in ("inverse_median_mad", "median_mad"):
        shift = sorted(values)[len(values) // 2]
        spread = sum(abs(v - shift) for v in values) / len(values)
    else:
        shift = min(values)
        spread = max(values) - shift
    return [(v - shift) / spread if spread > 0 else 0.0 for v in values]


def regression(
    score: np.ndarray, depth: np.ndarray, mask: np.ndarray, method: str, power: int
) -> tuple[float, np.ndarray]:
    """Mean of |z - target|^power over the batch's valid pixels, and its gradient by `score`."""
    total, gradient = 0.0, np.zeros(score.shape)
    count = int(mask.sum())
    for b in range(len(score)):
        pixels = [pixel for pixel in np.ndindex(*mask[b].shape) if mask[b][pixel]]
        targets = normalised([float(depth[b][pixel]) for pixel in pixels], method)
        for pixel, target in zip(pixels, targets, strict=True):
            error = float(score[b][pixel]) - target
            total += abs(error) ** power
            slope = 2 * error if power == 2 else math.copysign(1, error)
            gradient[b][pixel] = slope / count
    return total / max(count, 1), gradient
