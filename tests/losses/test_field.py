"""Losses of later papers against loops over float64, and the invariances that they claim."""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.errors import UserError
from reldepth_jax.losses.plackett_luce import list_mle
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import UNKNOWN, Batch, Pairs
from tests.references import numpy_field_losses as reference

# Float32 against float64: sums of some hundred terms, of residuals after alignment.
RELATIVE = 2e-5

SHAPE, PAIRS = (3, 5, 9), 41

DENSE: dict[str, tuple[str, dict[str, Any], Callable[..., float], dict[str, Any]]] = {
    "ssi_mse": ("ssi_mse", {}, reference.ssi, {"alignment": "least_squares", "power": 2}),
    "ssi_mae": ("ssi_mae", {}, reference.ssi, {"alignment": "median_mad", "power": 1}),
    "ssi_trimmed": (
        "ssi_trimmed",
        {},
        reference.ssi,
        {"alignment": "median_mad", "power": 1, "trim": 0.2},
    ),
    "half trimmed": (
        "ssi_trimmed",
        {"trim": 0.5},
        reference.ssi,
        {"alignment": "median_mad", "power": 1, "trim": 0.5},
    ),
    "gradient_matching": (
        "gradient_matching",
        {},
        reference.gradient_matching,
        {"alignment": "median_mad", "scales": 4},
    ),
    "gradients, least squares": (
        "gradient_matching",
        {"alignment": "least_squares", "scales": 2},
        reference.gradient_matching,
        {"alignment": "least_squares", "scales": 2},
    ),
}
PAIRWISE: dict[str, tuple[str, dict[str, Any], Callable[..., float], dict[str, Any]]] = {
    "sgrl": ("sgrl", {}, reference.sgrl, {"sigma": 0.03, "alpha": 1.0}),
    "sgrl, other weights": (
        "sgrl",
        {"sigma": 0.2, "alpha": 3.0},
        reference.sgrl,
        {"sigma": 0.2, "alpha": 3.0},
    ),
    "youtube3d": ("youtube3d", {}, reference.youtube3d, {"sigma": 0.02, "keep": 0.75}),
    "youtube3d, a third": (
        "youtube3d",
        {"keep": 0.33, "sigma": 0.2},
        reference.youtube3d,
        {"keep": 0.33, "sigma": 0.2},
    ),
    "youtube3d, executed": (
        "youtube3d",
        {"selection": "none"},
        reference.youtube3d_executed,
        {"sigma": 0.02, "keep": 0.75},
    ),
    "plackett_luce": (
        "plackett_luce",
        {},
        reference.plackett_luce,
        {"ranking_size": 5, "tie": 0.03},
    ),
    "lists of three": (
        "plackett_luce",
        {"ranking_size": 3, "tie": 0.3},
        reference.plackett_luce,
        {"ranking_size": 3, "tie": 0.3},
    ),
}
EVERY = DENSE | PAIRWISE
EITHER_SIGN = ("ssi_mse", "gradients, least squares")

every = pytest.mark.parametrize("case", EVERY)
dense = pytest.mark.parametrize("case", DENSE)
pairwise = pytest.mark.parametrize("case", PAIRWISE)


@functools.cache
def compiled(case: str) -> Callable[..., tuple[jax.Array, jax.Array]]:
    name, options, _, _ = EVERY[case]
    return jax.jit(jax.value_and_grad(LOSSES.create(name, **options)))


def evaluate(case: str, score, depth, mask, pairs: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Return the loss and its gradient; `pairs` (b, n, 3): first, second, relation."""
    batch: Batch = {
        "image": jnp.zeros((*SHAPE, 3), jnp.uint8),
        "depth": jnp.asarray(depth, jnp.float32),
        "mask": jnp.asarray(mask),
    }
    first, second, relation = (jnp.asarray(pairs[..., k], jnp.int32) for k in range(3))
    # Index -1: a pair that the sampler could not draw.
    chosen = Pairs(jnp.maximum(first, 0), jnp.maximum(second, 0), first >= 0, relation)
    return compiled(case)(jnp.asarray(score, jnp.float32), batch, chosen)


def expected(case: str, score, depth, mask, pairs: np.ndarray) -> float:
    _, _, function, options = EVERY[case]
    if case in DENSE:
        return function(score, depth, mask, **options)
    if EVERY[case][0] == "plackett_luce":
        return function(score, depth, mask, pairs.tolist(), **options)
    drawn = [[pair for pair in image if pair[0] >= 0] for image in pairs.tolist()]
    return function(score, depth, mask, drawn, **options)


def random_maps(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores, depths with ties, sky and NaN where masked, mask; pairs, few of them annotated."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 9, size=SHAPE).astype(np.float32)
    depth[rng.uniform(size=SHAPE) < 0.15] = np.inf
    depth[rng.uniform(size=SHAPE) < 0.15] = 3.0
    mask = rng.uniform(size=SHAPE) > 0.2
    depth[~mask] = np.nan
    pairs = rng.integers(0, SHAPE[1] * SHAPE[2], size=(SHAPE[0], PAIRS, 3))
    annotated = rng.uniform(size=pairs.shape[:2]) < 0.1
    pairs[..., 2] = np.where(annotated, rng.integers(-1, 2, size=annotated.shape), UNKNOWN)
    pairs[rng.uniform(size=annotated.shape) < 0.1] = (-1, -1, UNKNOWN)
    return rng.normal(size=SHAPE).astype(np.float32), depth, mask, pairs


@every
@pytest.mark.parametrize("seed", range(3))
def test_loss_agrees_with_the_equations(case: str, seed: int):
    maps = random_maps(seed)
    value = expected(case, *maps)
    assert value > 0.01
    np.testing.assert_allclose(evaluate(case, *maps)[0], value, rtol=RELATIVE)


@every
def test_gradient_agrees_with_finite_differences(case: str):
    score, *truth = random_maps(4)
    _, gradient = evaluate(case, score, *truth)
    step = 1e-6
    slopes = np.zeros(SHAPE)
    for pixel in np.ndindex(SHAPE):
        values = []
        for sign in (1, -1):
            moved = score.astype(np.float64)
            moved[pixel] += sign * step
            values.append(expected(case, moved, *truth))
        slopes[pixel] = (values[0] - values[1]) / (2 * step)
    assert np.abs(slopes).max() > 1e-4
    np.testing.assert_allclose(gradient, slopes, rtol=1e-4, atol=1e-5 * np.abs(slopes).max())


@every
def test_images_without_ground_truth_change_no_others_loss(case: str):
    score, depth, mask, pairs = random_maps(5)
    mask[0], pairs[0, :, 2] = False, UNKNOWN
    value = expected(case, score, depth, mask, pairs)
    np.testing.assert_allclose(evaluate(case, score, depth, mask, pairs)[0], value, rtol=RELATIVE)


@dense
def test_images_of_one_depth_are_left_out(case: str):
    score, depth, mask, pairs = random_maps(6)
    mask[0] = False
    expected_value = evaluate(case, score, depth, mask, pairs)[0]
    for constant in (0.0, 3.0, np.inf):
        depth[0], mask[0] = constant, True
        value, gradient = evaluate(case, score, depth, mask, pairs)
        assert value == expected_value
        assert (gradient[0] == 0).all()
    depth[0], mask[0] = 3.0, False
    mask[0, 2, 2] = True
    assert evaluate(case, score, depth, mask, pairs)[0] == expected_value


@every
def test_masked_pixels_may_hold_anything_and_get_no_gradient(case: str):
    score, depth, mask, pairs = random_maps(7)
    pairs[..., 2] = UNKNOWN
    value = evaluate(case, score, depth, mask, pairs)[0]
    for filler in (np.nan, np.inf, 0.0, -1.0):
        filled = np.where(mask, score, filler)
        got, gradient = evaluate(case, filled, np.where(mask, depth, filler), mask, pairs)
        assert got == value
        assert (gradient[~mask] == 0).all()
        assert jnp.isfinite(gradient).all()


def per_image(*values: float) -> np.ndarray:
    return np.array(values, np.float32).reshape(3, 1, 1)


@every
def test_adding_a_constant_to_the_scores_of_an_image_changes_nothing(case: str):
    score, *truth = random_maps(8)
    value = evaluate(case, score, *truth)[0]
    got = evaluate(case, score + per_image(3, -20, 0.5), *truth)[0]
    np.testing.assert_allclose(got, value, rtol=RELATIVE)


@every
def test_scale_of_depth_changes_nothing(case: str):
    score, depth, mask, pairs = random_maps(9)
    value = evaluate(case, score, depth, mask, pairs)[0]
    got = evaluate(case, score, depth * per_image(1024, 1, 0.125), mask, pairs)[0]
    np.testing.assert_allclose(got, value, rtol=RELATIVE)


@dense
def test_scale_of_the_scores_of_an_image_changes_nothing(case: str):
    score, *truth = random_maps(10)
    value = evaluate(case, score, *truth)[0]
    for scales in ((2, 1000, 0.1), (1e15, 1e-15, 1)):
        got = evaluate(case, score * per_image(*scales), *truth)[0]
        np.testing.assert_allclose(got, value, rtol=RELATIVE)


@dense
def test_only_least_squares_turns_a_score_of_the_wrong_sign_round(case: str):
    score, *truth = random_maps(10)
    value, got = evaluate(case, score, *truth)[0], evaluate(case, -score, *truth)[0]
    assert bool(jnp.isclose(got, value, rtol=1e-3)) == (case in EITHER_SIGN)


@dense
def test_scale_and_shift_of_disparity_change_nothing(case: str):
    score, depth, mask, pairs = random_maps(11)
    value = evaluate(case, score, depth, mask, pairs)[0]
    moved = 1 / (per_image(2, 0.1, 1) / depth + per_image(0.5, 0.01, 3))
    np.testing.assert_allclose(evaluate(case, score, moved, mask, pairs)[0], value, rtol=RELATIVE)


@pytest.mark.parametrize("case", ["sgrl", "youtube3d"])
def test_swapping_the_points_changes_nothing(case: str):
    score, depth, mask, pairs = random_maps(12)
    pairs[..., 2] = UNKNOWN
    value = evaluate(case, score, depth, mask, pairs)[0]
    got = evaluate(case, score, depth, mask, pairs[..., [1, 0, 2]])[0]
    np.testing.assert_allclose(got, value, rtol=RELATIVE)


@pairwise
def test_scale_of_scores_counts_where_differences_do(case: str):
    score, *truth = random_maps(13)
    value, got = evaluate(case, score, *truth)[0], evaluate(case, 2 * score, *truth)[0]
    assert abs(float(got / value) - 1) > 0.05


@dense
def test_a_map_that_is_disparity_up_to_scale_and_shift_costs_nothing(case: str):
    _, depth, mask, pairs = random_maps(14)
    score = 5 - 3 / np.where(mask, depth, 1.0)
    assert evaluate(case, score, depth, mask, pairs)[0] < 1e-5
    assert evaluate(case, -score, depth, mask, pairs)[0] > 0.1 or case in EITHER_SIGN


@dense
def test_constant_scores_cost_what_the_ground_truth_spreads(case: str):
    """Of aligned residuals only the ground truth is left: its mean absolute deviation is 1."""
    score, depth, mask, pairs = random_maps(15)
    mask[1:] = False
    truth = (1 / depth[0][mask[0]]).astype(np.float64)
    for constant in (0.0, 0.1, -1e15):
        value, gradient = evaluate(case, np.full(SHAPE, constant), depth, mask, pairs)
        assert (gradient == 0).all()
        if case == "ssi_mae":
            np.testing.assert_allclose(value, 0.5, rtol=RELATIVE)
        if case == "ssi_mse":
            variance = np.var((truth - truth.min()) / (truth.max() - truth.min()))
            np.testing.assert_allclose(value, variance / 2, rtol=RELATIVE)


def test_trimming_leaves_out_the_outlier_but_not_its_share_of_the_divisor():
    score, depth, mask, pairs = random_maps(16)
    depth = np.where(mask, depth, 1.0)
    score = (-1 / depth).astype(np.float32)
    score[:, 2, 2] += 1e4
    assert evaluate("ssi_mae", score, depth, mask | True, pairs)[0] > 0.5
    # The outlier has all of the deviation; what it adds to the median of the rest is nothing.
    value = evaluate("ssi_trimmed", score, depth, mask | True, pairs)[0]
    np.testing.assert_allclose(
        value,
        reference.ssi(score, depth, mask | True, alignment="median_mad", power=1, trim=0.2),
        rtol=1e-4,
    )


def test_equal_pairs_are_dropped_as_well_by_youtube3d_and_by_sgrl_never():
    """Four pairs, the two easiest of them equal: one goes, int(0.75 * 4) stay."""
    depth, mask = np.ones(SHAPE, np.float32), np.ones(SHAPE, bool)
    depth[0, 0, 4:6] = 2.0
    score = np.zeros(SHAPE, np.float32)
    score[0, 0, :6] = (0.0, 0.001, 0.0, 0.1, 0.0, 1.0)
    pairs = np.full((*SHAPE[:1], PAIRS, 3), -1)
    pairs[..., 2] = UNKNOWN
    pairs[0, :4] = [(1, 0, 2), (3, 2, 2), (4, 6, 2), (5, 7, 2)]
    unequal = math.log(2) + math.log1p(math.exp(-1))
    value, gradient = evaluate("youtube3d", score, depth, mask, pairs)
    np.testing.assert_allclose(value, (0.1**2 + unequal) / 3, rtol=RELATIVE)
    assert gradient[0, 0, 1] == 0
    # As executed: nothing goes, and the sum is divided by 3.
    value, gradient = evaluate("youtube3d, executed", score, depth, mask, pairs)
    np.testing.assert_allclose(value, (0.1**2 + 0.001**2 + unequal) / 3, rtol=RELATIVE)
    assert gradient[0, 0, 1] > 0
    value, gradient = evaluate("sgrl", score, depth, mask, pairs)
    np.testing.assert_allclose(value, (0.1**2 + 0.001**2 + unequal) / 4, rtol=RELATIVE)
    assert gradient[0, 0, 1] > 0


@pytest.mark.parametrize(("far", "equal"), [(5e7, True), (2.5e7, False)])
def test_sgrl_adds_a_millionth_of_the_nearest_disparity(far: float, equal: bool):
    """Beside a point at infinity: (1 / far + 1e-6) / 1e-6 is 1.02 and 1.04; sigma is 0.03."""
    depth, mask = np.full(SHAPE, far, np.float32), np.ones(SHAPE, bool)
    depth[:, 0, 0], depth[:, 0, 1] = 1.0, np.inf
    pairs = np.full((*SHAPE[:1], PAIRS, 3), (1, 2, UNKNOWN))
    score = np.zeros(SHAPE, np.float32)
    score[:, 0, 1] = 3.0
    expected = 9.0 if equal else math.log1p(math.exp(-3))
    np.testing.assert_allclose(
        evaluate("sgrl", score, depth, mask, pairs)[0], expected, rtol=RELATIVE
    )


def test_sgrl_holds_far_points_beyond_a_millionth_of_the_nearest_disparity_equal():
    depth, mask = np.full(SHAPE, 1e9, np.float32), np.ones(SHAPE, bool)
    depth[:, 0, 0], depth[:, 0, 1] = 1.0, np.inf
    pairs = np.full((*SHAPE[:1], PAIRS, 3), (1, 2, UNKNOWN))
    score = np.zeros(SHAPE, np.float32)
    score[:, 0, 1] = 3.0
    assert evaluate("sgrl", score, depth, mask, pairs)[0] == 9.0
    np.testing.assert_allclose(
        evaluate("youtube3d", score, depth, mask, pairs)[0], math.log1p(math.exp(-3)), rtol=RELATIVE
    )


def test_likelihoods_of_all_orders_add_up_to_one():
    worths = np.random.default_rng(0).normal(size=4)
    orders = jnp.asarray([[worths[i] for i in order] for order in itertools.permutations(range(4))])
    losses = list_mle(orders, jnp.ones(orders.shape, bool))
    np.testing.assert_allclose(jnp.sum(jnp.exp(-losses)), 1, rtol=RELATIVE)


def test_all_orders_of_equal_scores_are_equally_likely():
    score, _, mask, _ = random_maps(17)
    depth = 1.1 ** np.arange(score.size, dtype=np.float32).reshape(SHAPE)
    pairs = np.full((SHAPE[0], PAIRS, 3), UNKNOWN)
    pairs[..., :2] = np.arange(PAIRS)[None, :, None]
    value = evaluate("plackett_luce", score * 0, depth, mask | True, pairs)[0]
    np.testing.assert_allclose(value, math.log(math.factorial(5)), rtol=RELATIVE)
    # Of 1 with 1.1 and 1.21, only those 1.3 times as far as the one before: none, and no list.
    assert evaluate("lists of three", score * 0, depth, mask | True, pairs)[0] == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ssi_trimmed", {"trim": 1.0}, r"loss.trim must be in \[0, 1\), got 1.0"),
        ("gradient_matching", {"scales": 0}, "loss.scales must be from 1 to 16, got 0"),
        ("sgrl", {"sigma": -0.1}, "loss.sigma must be at least 0, got -0.1"),
        ("sgrl", {"alpha": -1.0}, "loss.alpha must be at least 0, got -1.0"),
        ("youtube3d", {"sigma": -1.0}, "loss.sigma must be at least 0, got -1.0"),
        ("youtube3d", {"keep": 0.0}, r"loss.keep must be in \(0, 1\], got 0.0"),
        ("plackett_luce", {"ranking_size": 1}, "loss.ranking_size must be at least 2, got 1"),
        ("plackett_luce", {"tie": -0.1}, "loss.tie must be at least 0, got -0.1"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        LOSSES.create(name, **options)


def test_fewer_pairs_than_a_list_needs_are_refused():
    score, depth, mask, pairs = random_maps(18)
    with pytest.raises(UserError, match="loss.ranking_size is 5, but the sampler gives 4 pairs"):
        evaluate("plackett_luce", score, depth, mask, pairs[:, :4])
