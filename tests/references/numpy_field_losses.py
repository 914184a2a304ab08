"""Losses of later papers as loops over Python floats (float64), written from the equations.

Sources: see each function. Maps are (b, h, w). Pairs are lists of (first, second, relation) for
each image, flat indices. Larger depth and score are farther; depth inf is sky.
"""

import math

import numpy as np

from tests.references.numpy_losses import phi, relation

UNKNOWN = 2


def valid_pixels(mask: np.ndarray) -> list[tuple[int, int]]:
    return [(r, c) for r in range(mask.shape[0]) for c in range(mask.shape[1]) if mask[r, c]]


def robust(values: list[float]) -> list[float]:
    """MiDaS Eqs. (5), (6): median and mean absolute deviation."""
    shift = sorted(values)[len(values) // 2]
    scale = sum(abs(v - shift) for v in values) / len(values)
    return [(v - shift) / scale for v in values]


def fitted(values: list[float], targets: list[float]) -> list[float]:
    """MiDaS Eqs. (2)-(4): h = (sum d d^T)^-1 sum d t with d = (value, 1)."""
    a00 = sum(v * v for v in values)
    a01 = sum(values)
    a11 = len(values)
    b0 = sum(v * t for v, t in zip(values, targets, strict=True))
    b1 = sum(targets)
    determinant = a00 * a11 - a01 * a01
    scale = (a11 * b0 - a01 * b1) / determinant
    shift = (a00 * b1 - a01 * b0) / determinant
    return [scale * v + shift for v in values]


def residuals(
    score: np.ndarray, depth: np.ndarray, mask: np.ndarray, alignment: str
) -> dict[tuple[int, int], float]:
    """Aligned prediction minus ground truth at the valid pixels of one image, in disparity."""
    pixels = valid_pixels(mask)
    truth = [1 / float(depth[p]) for p in pixels]
    if len(set(truth)) < 2:
        return {}
    guess = [-float(score[p]) for p in pixels]
    if alignment == "least_squares":
        low, high = min(truth), max(truth)
        truth = [(t - low) / (high - low) for t in truth]
        guess = fitted(guess, truth)
    else:
        guess, truth = robust(guess), robust(truth)
    return {p: g - t for p, g, t in zip(pixels, guess, truth, strict=True)}


def mean_of_images(totals: list[float]) -> float:
    return sum(totals) / max(len(totals), 1)


def ssi(score, depth, mask, *, alignment: str, power: int, trim: float = 0.0) -> float:
    """MiDaS Eqs. (1) and (7)."""
    losses = []
    for image in range(len(score)):
        found = residuals(score[image], depth[image], mask[image], alignment)
        if found:
            sizes = sorted(abs(r) ** power for r in found.values())
            losses.append(sum(sizes[: int((1 - trim) * len(sizes))]) / (2 * len(sizes)))
    return mean_of_images(losses)


def gradient_matching(score, depth, mask, *, alignment: str, scales: int) -> float:
    """MiDaS Eq. (11) with strides 1, 2, 4, ... and the number of pixels of the finest scale."""
    losses = []
    for image in range(len(score)):
        found = residuals(score[image], depth[image], mask[image], alignment)
        total = 0.0
        for step in (2**k for k in range(scales)):
            for (row, column), here in found.items():
                if row % step == 0 and column % step == 0:
                    for neighbour in ((row + step, column), (row, column + step)):
                        total += abs(found.get(neighbour, here) - here)
        if found:
            losses.append(total / len(found))
    return mean_of_images(losses)


def pair_losses(
    score: np.ndarray, depths: list[float], mask: np.ndarray, pairs: list, sigma: float
) -> list[tuple[int, float]]:
    """Label and loss of the pairs of one image that count; `pairs`: first, second, relation."""
    flat, known = score.ravel(), mask.ravel()
    found = []
    for i, j, said in pairs:
        if said == UNKNOWN and not (known[i] and known[j]):
            continue
        label = relation(depths[i], depths[j], sigma) if said == UNKNOWN else int(said)
        found.append((label, phi(float(flat[i]), float(flat[j]), label)[0]))
    return found


def sgrl(score, depth, mask, pairs, *, sigma: float, alpha: float) -> float:
    """Two means over all valid pairs of an image; relations of (disparity + 1e-6)."""
    losses = []
    for image in range(len(score)):
        g = [float(x) for x in depth[image].ravel()]
        nearest = min((d for d, m in zip(g, mask[image].ravel(), strict=True) if m), default=1.0)
        capped = [1 / (nearest / d + 1e-6) for d in g]
        found = pair_losses(score[image], capped, mask[image], pairs[image], sigma)
        if found:
            equal = sum(loss for label, loss in found if label == 0) / len(found)
            unequal = sum(loss for label, loss in found if label != 0) / len(found)
            losses.append(alpha * equal + unequal)
    return mean_of_images(losses)


def youtube3d(score, depth, mask, pairs, *, sigma: float, keep: float) -> float:
    """All pairs of an image sorted together, the largest int(keep * n) kept."""
    total, count = 0.0, 0
    for image in range(len(score)):
        g = [float(x) for x in depth[image].ravel()]
        found = pair_losses(score[image], g, mask[image], pairs[image], sigma)
        hardest = sorted((loss for _, loss in found), reverse=True)[: int(keep * len(found))]
        total += sum(hardest)
        count += len(hardest)
    return total / max(count, 1)


def youtube3d_executed(score, depth, mask, pairs, *, sigma: float, keep: float) -> float:
    """RelativeLoss(b_sort=True) as it is executed: rows of a (1, n) array are cut, not pairs."""
    losses, points = [], 0
    for image in range(len(score)):
        g = [float(x) for x in depth[image].ravel()]
        found = pair_losses(score[image], g, mask[image], pairs[image], sigma)
        row = np.array([[loss for _, loss in found]])
        kept = int(row.shape[1] * keep)
        points += kept
        losses.append(np.sum(-np.sort(-row, axis=1)[:kept]))
    return float(sum(losses) / points)


def negative_log_likelihood(worths: list[float]) -> float:
    """Plackett-Luce: the first is drawn from all, the second from the rest, ..."""
    total = 0.0
    for place in range(len(worths)):
        rest = worths[place:]
        total -= math.log(math.exp(worths[place]) / sum(math.exp(w) for w in rest))
    return total


def plackett_luce(score, depth, mask, pairs, *, ranking_size: int, tie: float) -> float:
    """Lists of consecutive first points, nearest first; who ties with the one before abstains."""
    losses = []
    for image in range(len(score)):
        z, g, m = score[image].ravel(), depth[image].ravel(), mask[image].ravel()
        firsts = [int(i) for i, _, _ in pairs[image]]
        for start in range(0, len(firsts) - ranking_size + 1, ranking_size):
            points = [i for i in firsts[start : start + ranking_size] if i >= 0 and m[i]]
            points.sort(key=lambda i: float(g[i]))
            order = [
                point
                for place, point in enumerate(points)
                if place == 0 or relation(float(g[point]), float(g[points[place - 1]]), tie) == 1
            ]
            if len(order) >= 2:
                losses.append(negative_log_likelihood([-float(z[i]) for i in order]))
    return mean_of_images(losses)
