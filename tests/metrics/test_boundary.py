"""Boundary F1 against a loop written from its definition, closed forms and invariances."""

import math

import numpy as np
import pytest

from reldepth_jax.metrics.boundary import boundary_f1

STEPS = ((0, 1), (0, -1), (1, 0), (-1, 0))


def scene(seed, height=14, width=17):
    """Prediction, depth and mask: blocks at different depths, noise, sky, holes."""
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(1, 3, (height // 3 + 1, width // 3 + 1))
    depth = np.kron(blocks, np.ones((3, 3)))[:height, :width]
    depth *= rng.uniform(1, 1.08, depth.shape)
    prediction = depth * rng.lognormal(0, 0.06, depth.shape)
    mask = rng.random(depth.shape) < 0.9
    depth[:2, 5:9] = math.inf
    depth.flat[[60, 90, 100]] = math.nan, 0, -1
    mask[0, :8] = True
    mask.flat[[60, 90, 100]] = True
    return prediction, depth, mask


def f1_by_loop(prediction, depth, mask):
    """One ordered pair of neighbours at a time."""
    height, width = depth.shape
    total = weights = 0.0
    for k in range(10):
        threshold = 1.05 + k * 0.2 / 9
        recalls, precisions = [], []
        for down, right in STEPS:
            true = said = both = 0
            for r in range(height):
                for c in range(width):
                    s, d = r + down, c + right
                    if not (0 <= s < height and 0 <= d < width and mask[r, c] and mask[s, d]):
                        continue
                    g, h = float(depth[r, c]), float(depth[s, d])
                    if not (g > 0 and h > 0):
                        continue
                    p, q = float(prediction[r, c]), float(prediction[s, d])
                    is_true = h > threshold * g
                    is_said = p > 0 and q > 0 and q > threshold * p
                    true += is_true
                    said += is_said
                    both += is_true and is_said
            recalls.append(both / true if true else 0)
            precisions.append(both / said if said else 0)
        recall, precision = sum(recalls) / 4, sum(precisions) / 4
        if recall + precision > 0:
            total += threshold * 2 * recall * precision / (recall + precision)
        weights += threshold
    return total / weights


def square(height=9, width=9, near=1.0, far=2.0):
    """A near square before a far wall: contours of all four kinds."""
    depth = np.full((height, width), far)
    depth[3:6, 3:6] = near
    return depth


def everywhere(depth):
    return np.ones(depth.shape, bool)


@pytest.mark.parametrize("seed", range(5))
def test_f1_agrees_with_a_loop(seed):
    one = scene(seed)
    got = boundary_f1(*one)
    assert 0.2 < got < 0.9
    assert got == pytest.approx(f1_by_loop(*one), rel=1e-12)


def test_predictions_that_are_no_depth_agree_with_a_loop():
    prediction, depth, mask = scene(5)
    junk = [math.nan, math.inf, -math.inf, 0, -3]
    prediction.flat[7::23] = np.resize(junk, len(prediction.flat[7::23]))
    assert boundary_f1(prediction, depth, mask) == pytest.approx(
        f1_by_loop(prediction, depth, mask), rel=1e-12
    )


def test_truth_is_perfect_where_all_four_kinds_occur():
    depth = square()
    assert boundary_f1(depth, depth, everywhere(depth)) == pytest.approx(1)
    assert boundary_f1(depth.astype(np.float16), depth, everywhere(depth)) == pytest.approx(1)


def test_truth_gets_a_quarter_for_each_kind_that_occurs():
    step = np.array([[1.0, 1.0, 2.0, 2.0]] * 3)
    ridge = np.array([[1.0, 2.0, 1.0]] * 3)
    for depth, expected in ((step, 1 / 4), (step.T, 1 / 4), (ridge, 1 / 2), (ridge.T, 1 / 2)):
        depth = np.ascontiguousarray(depth)
        assert boundary_f1(depth, depth, everywhere(depth)) == pytest.approx(expected)


def test_reversed_shifted_and_flat_predictions_find_nothing():
    depth = square()
    for prediction in (1 / depth, np.roll(depth, 4, axis=(0, 1)), np.ones(depth.shape)):
        assert boundary_f1(prediction, depth, everywhere(depth)) == 0


def test_precision_and_recall_have_a_closed_form():
    depth = square()
    prediction = depth.copy()
    prediction[0, 0] = 1  # two contours too many: farther right, farther below
    # The corner of the square: of their 3 contours, farther right and below miss one and say one
    # that is none; farther left and above lose nothing.
    prediction[5, 5] = 2
    right = below = (2 / 3, 2 / (2 + 1 + 1))
    left = above = (1, 1)
    recall, precision = (sum(pair[i] for pair in (right, below, left, above)) / 4 for i in (0, 1))
    expected = 2 * recall * precision / (recall + precision)
    assert boundary_f1(prediction, depth, everywhere(depth)) == pytest.approx(expected)


def test_thresholds_are_strict_and_are_the_weights():
    thresholds = [1.05 + k * 0.2 / 9 for k in range(10)]
    depth = square()
    # The predicted contours have a ratio between thresholds k - 1 and k: found below k only.
    for k in (1, 4, 9):
        ratio = (thresholds[k - 1] + thresholds[k]) / 2
        got = boundary_f1(square(far=ratio), depth, everywhere(depth))
        assert got == pytest.approx(sum(thresholds[:k]) / sum(thresholds))
    # 1.25 is the last threshold, and exact.
    got = boundary_f1(square(far=1.25), depth, everywhere(depth))
    assert got == pytest.approx(sum(thresholds[:9]) / sum(thresholds))


@pytest.mark.parametrize("scale", [1e-6, 0.37, 1e6])
def test_scale_of_either_map_changes_nothing(scale):
    prediction, depth, mask = scene(6)
    before = boundary_f1(prediction, depth, mask)
    assert boundary_f1(scale * prediction, depth, mask) == pytest.approx(before, rel=1e-12)
    assert boundary_f1(prediction, scale * depth, mask) == pytest.approx(before, rel=1e-12)


def test_turning_and_mirroring_the_image_changes_nothing():
    maps = scene(7)
    before = boundary_f1(*maps)
    for change in (np.transpose, np.fliplr, np.flipud, np.rot90):
        prediction, depth, mask = (np.ascontiguousarray(change(array)) for array in maps)
        assert boundary_f1(prediction, depth, mask) == pytest.approx(before, rel=1e-12)


def test_pairs_with_an_invalid_pixel_do_not_count():
    prediction, depth, mask = scene(8)
    before = boundary_f1(prediction, depth, mask)
    junk = np.resize([math.nan, 1e3, 1e-3, math.inf, 0, -2], mask.shape)
    hidden = ~(mask & (depth > 0))
    after = boundary_f1(np.where(hidden, junk, prediction), depth, mask)
    assert after == before
    assert boundary_f1(prediction, np.where(mask, depth, junk), mask) == before
    # A frame of invalid pixels hides all contours of the square.
    square_mask = np.ones((9, 9), bool)
    square_mask[2:7, 2:7] = False
    square_mask[3:6, 3:6] = True
    assert math.isnan(boundary_f1(square(), square(), square_mask))


def test_sky_is_farther_than_anything_and_equal_to_itself():
    sky = square(far=math.inf)
    assert boundary_f1(sky, sky, everywhere(sky)) == pytest.approx(1)
    assert boundary_f1(square(far=1e9), sky, everywhere(sky)) == pytest.approx(1)
    assert math.isnan(boundary_f1(sky, np.full(sky.shape, math.inf), everywhere(sky)))


def test_prediction_of_nan_misses_all_contours():
    depth = square()
    for nothing in (math.nan, 0.0, -1.0, math.inf):
        assert boundary_f1(np.full(depth.shape, nothing), depth, everywhere(depth)) == 0
    half = depth.copy()
    half[:, :4] = math.nan  # one of three columns of the square, with its left side
    # Farther left is never said; farther above and below find 2 of 3, farther right all.
    recall, precision = (0 + 1 + 2 / 3 + 2 / 3) / 4, 3 / 4
    expected = 2 * recall * precision / (recall + precision)
    assert boundary_f1(half, depth, everywhere(depth)) == pytest.approx(expected)


def test_ground_truth_without_contours_is_undefined():
    flat, depth = np.full((9, 9), 3.0), square()
    assert math.isnan(boundary_f1(depth, flat, everywhere(flat)))
    assert math.isnan(boundary_f1(depth, square(far=1.05), everywhere(depth)))
    assert math.isnan(boundary_f1(depth, depth, np.zeros((9, 9), bool)))
    for shape in ((1, 1), (0, 0), (0, 4)):
        assert math.isnan(boundary_f1(np.ones(shape), np.ones(shape), np.ones(shape, bool)))


def test_one_row_and_one_column():
    row = np.array([[1.0, 2.0, 1.0, 1.0]])
    assert boundary_f1(row, row, everywhere(row)) == pytest.approx(1 / 2)
    column = np.ascontiguousarray(row.T)
    assert boundary_f1(column, column, everywhere(column)) == pytest.approx(1 / 2)
