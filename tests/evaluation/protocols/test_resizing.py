"""Resizing as published evaluation code does it, against loops and torch."""

import numpy as np
import pytest
import torch

from reldepth_jax.evaluation.protocols.resizing import (
    scale_aligned_corners,
    scale_half_pixel,
    scale_torch7,
)

SIZES = [
    ((6, 8), (12, 16)),
    ((6, 8), (13, 9)),
    ((24, 32), (7, 31)),
    ((5, 9), (5, 30)),
    ((9, 4), (3, 4)),
]
RNG = np.random.default_rng(0)


def line_torch7(line: np.ndarray, new: int) -> list[float]:
    """One axis of torch7's `image.scale`, pixel by pixel from its definition."""
    old = len(line)
    if new == old:
        return list(line)
    out = []
    for k in range(new):
        if new > old:
            place = k * (old - 1) / (new - 1)
            below = min(int(place), old - 2)
            out.append(line[below] + (place - below) * (line[below + 1] - line[below]))
            continue
        start, stop = k * old / new, (k + 1) * old / new
        total = weight = 0.0
        for pixel in range(old):
            covered = max(0.0, min(stop, pixel + 1) - max(start, pixel))
            total, weight = total + covered * line[pixel], weight + covered
        out.append(total / weight)
    return out


@pytest.mark.parametrize(("old", "new"), SIZES)
def test_torch7_scale_agrees_with_its_definition(old: tuple[int, int], new: tuple[int, int]):
    score = RNG.normal(size=old)
    tall = np.stack([line_torch7(column, new[0]) for column in score.T], axis=1)
    expected = np.stack([line_torch7(row, new[1]) for row in tall])
    np.testing.assert_allclose(scale_torch7(score, new), expected, atol=1e-12)


@pytest.mark.parametrize(("old", "new"), SIZES)
@pytest.mark.parametrize("align", [True, False])
def test_bilinear_agrees_with_torch(old: tuple[int, int], new: tuple[int, int], align: bool):
    score = RNG.normal(size=old)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(score)[None, None], new, mode="bilinear", align_corners=align
    )[0, 0].numpy()
    ours = (scale_aligned_corners if align else scale_half_pixel)(score, new)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


def test_the_three_ways_differ():
    score = RNG.normal(size=(6, 8))
    ways = [way(score, (12, 20)) for way in (scale_torch7, scale_half_pixel)]
    assert np.abs(ways[0] - ways[1]).max() > 0.1
    small = [way(score, (3, 4)) for way in (scale_torch7, scale_half_pixel, scale_aligned_corners)]
    # Halving: averages of 2x2 either way with half-pixel centres, not so with aligned corners.
    np.testing.assert_allclose(small[0], small[1], atol=1e-12)
    assert np.abs(small[0] - small[2]).max() > 0.1


@pytest.mark.parametrize("way", [scale_torch7, scale_half_pixel, scale_aligned_corners])
@pytest.mark.parametrize("new", [(30, 21), (4, 3), (10, 7)])
def test_a_nan_stays_near_its_place_and_constants_stay_constant(way, new: tuple[int, int]):
    score = np.ones((10, 7))
    np.testing.assert_allclose(way(score, new), np.ones(new), atol=1e-12)
    score[0, 0] = np.nan
    resized = way(score, new)
    assert np.isnan(resized[0, 0])
    assert not np.isnan(resized[new[0] // 2 :, new[1] // 2 :]).any()


def test_one_pixel_can_be_enlarged():
    for way in (scale_torch7, scale_half_pixel, scale_aligned_corners):
        np.testing.assert_array_equal(way(np.full((1, 1), 3.0), (4, 5)), np.full((4, 5), 3.0))
