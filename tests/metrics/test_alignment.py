"""Alignments against loops written from their definitions, closed forms and invariances."""

import math
import statistics

import numpy as np
import pytest

from reldepth_jax.metrics.alignment import NYU_MEAN, NYU_STD, align_inverse_depth, align_mean_std


def scene(seed, height=9, width=7):
    """Prediction, depth and mask with every kind of pixel that must not count."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(1, 20, (height, width))
    prediction = 3 / depth + 0.2 * rng.standard_normal(depth.shape) - 5
    mask = rng.random(depth.shape) < 0.8
    depth.flat[[3, 11, 20, 30]] = math.inf, 0, -2, math.nan
    prediction.flat[[5, 25, 40]] = math.nan, math.inf, -math.inf
    mask.flat[[3, 11, 20, 30, 5, 25, 40]] = True
    return prediction, depth, mask


def aligned_by_loop(prediction, depth, mask, cap):
    """Normal equations of scale and shift, summed pixel by pixel."""
    pp = p1 = n = pt = t1 = 0.0
    for p, g, counts in zip(prediction.flat, depth.flat, mask.flat, strict=True):
        if counts and math.isfinite(p) and math.isfinite(g) and g > 0 and (not cap or g <= cap):
            pp, p1, n, pt, t1 = pp + p * p, p1 + p, n + 1, pt + p / g, t1 + 1 / g
    scale = (n * pt - p1 * t1) / (n * pp - p1 * p1)
    shift = (pp * t1 - p1 * pt) / (n * pp - p1 * p1)
    result = np.full(depth.shape, math.nan)
    for i, p in enumerate(prediction.flat):
        if math.isfinite(p):
            result.flat[i] = 1 / max(scale * p + shift, 1 / cap if cap else 1e-100)
    return result


# --- scale and shift in inverse depth


@pytest.mark.parametrize("cap", [None, 10.0, 15])
@pytest.mark.parametrize("seed", range(4))
def test_scale_and_shift_agree_with_normal_equations(seed, cap):
    prediction, depth, mask = scene(seed)
    got = align_inverse_depth(prediction, depth, mask, cap=cap)
    expected = aligned_by_loop(prediction, depth, mask, cap)
    assert np.isfinite(got).sum() == got.size - 3
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_inverse_depth_up_to_scale_and_shift_is_recovered(dtype):
    depth = np.array([[1, 2, 4], [8, 16, 0.5]], dtype)
    prediction = (3 / depth - 7).astype(dtype)
    got = align_inverse_depth(prediction, depth, np.ones(depth.shape, bool), cap=16)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, depth, rtol=1e-12)


@pytest.mark.parametrize(
    ("scale", "shift"), [(7, 0), (1, -4), (-0.5, 3), (1e200, 1e199), (1e-200, 0)]
)
def test_affine_changes_of_the_prediction_change_nothing(scale, shift):
    prediction, depth, mask = scene(0)
    before = align_inverse_depth(prediction, depth, mask, cap=12.0)
    after = align_inverse_depth(scale * prediction + shift, depth, mask, cap=12.0)
    np.testing.assert_allclose(after, before, rtol=1e-9)


def test_pixels_that_are_not_valid_do_not_move_the_fit():
    prediction, depth, mask = scene(1)
    before = align_inverse_depth(prediction, depth, mask, cap=12.0)
    others = ~mask | ~np.isfinite(depth) | (depth <= 0) | (depth > 12)
    changed = np.where(others, 1e6, depth)
    changed[~mask] = math.nan
    after = align_inverse_depth(prediction, changed, mask, cap=12.0)
    np.testing.assert_array_equal(after, before)
    prediction[others] = 50
    moved = align_inverse_depth(prediction, depth, mask, cap=12.0)
    np.testing.assert_array_equal(moved[~others], before[~others])


def test_depth_equal_to_the_cap_is_valid():
    depth, mask = np.array([[1.0, 2.0, 4.0]]), np.ones((1, 3), bool)
    # Through the first two points alone the line 1/depth = p would give 1/3 for the third.
    prediction = np.array([[1.0, 0.5, 1 / 3]])
    within = align_inverse_depth(prediction, depth, mask, cap=4.0)
    beyond = align_inverse_depth(prediction, depth, mask, cap=3.9)
    np.testing.assert_allclose(beyond, [[1, 2, 3]])
    assert within[0, 2] > 3.1


def test_aligned_values_below_the_cap_are_the_cap():
    depth = np.array([[1.0, 2.0, math.inf, math.inf]])
    prediction = np.array([[1.0, 0.5, 0.1, -3.0]])
    mask = np.ones(depth.shape, bool)
    np.testing.assert_allclose(
        align_inverse_depth(prediction, depth, mask, cap=8.0), [[1, 2, 8, 8]]
    )
    np.testing.assert_allclose(align_inverse_depth(prediction, depth, mask), [[1, 2, 10, 1e100]])
    np.testing.assert_allclose(
        align_inverse_depth(prediction, depth, mask, cap=math.inf), [[1, 2, 10, 1e100]]
    )


def test_without_valid_pixels_all_is_nan():
    ones, mask = np.ones((2, 3)), np.ones((2, 3), bool)
    for prediction, depth, where, cap in (
        (ones, ones, ~mask, None),
        (ones, ones * math.inf, mask, None),
        (ones, ones * math.nan, mask, None),
        (ones, 0 * ones, mask, None),
        (ones * math.nan, ones, mask, None),
        (ones, 5 * ones, mask, 4.0),
        (np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), bool), None),
    ):
        got = align_inverse_depth(prediction, depth, where, cap=cap)
        assert got.shape == depth.shape
        assert np.isnan(got).all()


@pytest.mark.parametrize("value", [0.0, 0.1, -3.0, 1e30])
def test_constant_prediction_becomes_the_mean_of_inverse_depth(value):
    depth = np.array([[1.0, 2.0, 4.0], [math.inf, 0.0, 3.0]])
    mask = np.array([[True, True, True], [True, True, False]])
    got = align_inverse_depth(np.full(depth.shape, value), depth, mask)
    np.testing.assert_allclose(got, 1 / ((1 + 1 / 2 + 1 / 4) / 3))


def test_one_valid_pixel_fixes_the_shift_alone():
    depth, mask = np.full((2, 2), 5.0), np.zeros((2, 2), bool)
    mask[1, 0] = True
    prediction = np.array([[1.0, math.nan], [2.0, math.inf]])
    got = align_inverse_depth(prediction, depth, mask)
    np.testing.assert_allclose(got, [[5, math.nan], [5, math.nan]])
    one = align_inverse_depth(np.array([[9.0]]), np.array([[3.0]]), np.ones((1, 1), bool))
    np.testing.assert_allclose(one, [[3]])


@pytest.mark.parametrize("cap", [0.0, -1.0, math.nan])
def test_cap_must_be_positive(cap):
    with pytest.raises(ValueError, match="cap"):
        align_inverse_depth(np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1), bool), cap=cap)


def test_arguments_stay_as_they_were():
    arguments = scene(2)
    copies = [argument.copy() for argument in arguments]
    align_inverse_depth(*arguments, cap=10.0)
    align_mean_std(arguments[0], mean=NYU_MEAN, std=NYU_STD)
    for argument, copy in zip(arguments, copies, strict=True):
        np.testing.assert_array_equal(argument, copy)


# --- mean and standard deviation of the training set


def test_map_gets_mean_and_sample_deviation():
    z = np.random.default_rng(3).uniform(-40, 30, (11, 13)).astype(np.float32)
    got = align_mean_std(z, mean=NYU_MEAN, std=NYU_STD)
    own_mean, own_std = statistics.fmean(z.flat), statistics.stdev(map(float, z.flat))
    for before, after in zip(z.flat, got.flat, strict=True):
        expected = (float(before) - own_mean) / own_std * 0.6148231626 + 2.8424594402
        assert after == pytest.approx(expected, rel=1e-12)
    assert got.dtype == np.float64
    assert statistics.fmean(got.flat) == pytest.approx(2.8424594402)
    assert statistics.stdev(got.flat) == pytest.approx(0.6148231626)


@pytest.mark.parametrize(("scale", "shift"), [(3, 0), (1, 5), (1e-20, 1e-19), (1e25, -1e26)])
def test_map_may_have_any_positive_scale_and_any_shift(scale, shift):
    z = np.random.default_rng(4).standard_normal((6, 5))
    before = align_mean_std(z, mean=2.0, std=0.5)
    np.testing.assert_allclose(align_mean_std(scale * z + shift, mean=2.0, std=0.5), before)


def test_values_that_are_not_positive_become_the_smallest_positive_one():
    z = np.array([[0.0, 1.0, 2.0, 3.0, 4.0]])
    # Sample deviation sqrt(10 / 4): with that as `std`, the map is only shifted, to -1 ... 3.
    got = align_mean_std(z, mean=1.0, std=math.sqrt(2.5))
    np.testing.assert_allclose(got, [[1 + 1e-5, 1 + 1e-5, 1, 2, 3]], rtol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.0])
def test_constant_map_becomes_the_mean(value):
    got = align_mean_std(np.full((7, 3), value), mean=NYU_MEAN, std=NYU_STD)
    np.testing.assert_array_equal(got, 2.8424594402)
    one = align_mean_std(np.array([[value]]), mean=1.5, std=0.5)
    np.testing.assert_array_equal(one, [[1.5]])


def test_values_that_are_not_finite_are_left_out_and_nan():
    z = np.array([[math.nan, 1.0, math.inf, 2.0, -math.inf, 3.0]])
    got = align_mean_std(z, mean=5.0, std=2.0)
    np.testing.assert_allclose(got, [[math.nan, 3, math.nan, 5, math.nan, 7]])
    assert np.isnan(align_mean_std(np.full((2, 2), math.nan), mean=5.0, std=2.0)).all()
    assert align_mean_std(np.zeros((0, 4)), mean=5.0, std=2.0).shape == (0, 4)


def test_without_a_positive_value_all_is_nan():
    assert np.isnan(align_mean_std(np.array([[1.0, 2.0]]), mean=-9.0, std=1.0)).all()
    assert np.isnan(align_mean_std(np.ones((2, 2)), mean=0.0, std=1.0)).all()
