"""MAE and L2 on normalised depth against loops over float64, their invariances and extremes."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Pairs
from tests.references import numpy_losses

# Float32 sums of some hundred terms against float64.
RELATIVE = 1e-5
# Of gradients that may be zero, relative to the largest.
ABSOLUTE = 1e-7

POWERS = {"mae": 1, "mse": 2}
SCALED = ("inverse_minmax", "minmax", "inverse_median_mad", "median_mad")
METHODS = (*SCALED, "none")
SHAPE = (3, 5, 7)

every_loss = pytest.mark.parametrize("name", POWERS)
every_method = pytest.mark.parametrize("method", METHODS)
every_scaling = pytest.mark.parametrize("method", SCALED)


def no_pairs() -> Pairs:
    nothing = jnp.zeros((SHAPE[0], 1), jnp.int32)
    return Pairs(nothing, nothing, nothing > 0)


def as_batch(depth, mask) -> Batch:
    return {
        "image": jnp.zeros((*SHAPE, 3), jnp.uint8),
        "depth": jnp.asarray(depth, jnp.float32),
        "mask": jnp.asarray(mask),
    }


@functools.cache
def compiled(name: str, method: str) -> Callable[..., tuple[jax.Array, jax.Array]]:
    return jax.jit(jax.value_and_grad(LOSSES.create(name, normalisation=method)))


def evaluate(name: str, method: str, score, depth, mask) -> tuple[jax.Array, jax.Array]:
    """Return the loss and its gradient."""
    return compiled(name, method)(jnp.asarray(score), as_batch(depth, mask), no_pairs())


def random_maps(seed: int, sky: bool = True) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.5, 9, size=SHAPE).astype(np.float32)
    if sky:
        depth[rng.uniform(size=SHAPE) < 0.15] = np.inf
    mask = rng.uniform(size=SHAPE) > 0.2
    depth[~mask] = np.nan
    return rng.normal(size=SHAPE).astype(np.float32), depth, mask


@every_loss
@every_method
@pytest.mark.parametrize("seed", range(3))
def test_loss_and_gradient_agree_with_the_definition(name: str, method: str, seed: int):
    score, depth, mask = random_maps(seed)
    value, gradient = numpy_losses.regression(score, depth, mask, method, POWERS[name])
    got, got_gradient = evaluate(name, method, score, depth, mask)
    np.testing.assert_allclose(got, value, rtol=RELATIVE)
    np.testing.assert_allclose(got_gradient, gradient, rtol=RELATIVE, atol=ABSOLUTE)


@every_loss
@every_method
def test_images_are_normalised_apart_and_averaged_by_pixel(name: str, method: str):
    """An image without ground truth and one of a single pixel change no other's target."""
    score, depth, mask = random_maps(3)
    mask[0] = False
    mask[1] = False
    mask[1, 2, 3], depth[1, 2, 3] = True, 5.0
    value, _ = numpy_losses.regression(score, depth, mask, method, POWERS[name])
    np.testing.assert_allclose(evaluate(name, method, score, depth, mask)[0], value, rtol=RELATIVE)


@every_loss
@every_scaling
def test_scale_of_depth_changes_nothing(name: str, method: str):
    score, depth, mask = random_maps(4)
    expected = evaluate(name, method, score, depth, mask)[0]
    got = evaluate(name, method, score, depth * 1000, mask)[0]
    np.testing.assert_allclose(got, expected, rtol=RELATIVE)


@every_loss
@every_method
def test_masked_pixels_may_hold_anything_and_get_no_gradient(name: str, method: str):
    score, depth, mask = random_maps(5)
    expected = evaluate(name, method, score, depth, mask)[0]
    for filler in (np.nan, np.inf, 0.0, -1.0):
        filled = np.where(mask, score, np.float32(filler))
        got, gradient = evaluate(name, method, filled, np.where(mask, depth, filler), mask)
        assert got == expected
        assert (gradient[~mask] == 0).all()
        assert jnp.isfinite(gradient).all()


@every_loss
@every_method
def test_farther_pixels_have_larger_targets(name: str, method: str):
    """Far too near everywhere pulls up; the targets, at which the loss vanishes, rank as depth."""
    _, depth, mask = random_maps(6, sky=False)
    score = np.zeros(SHAPE, np.float32)
    _, gradient = evaluate(name, method, score - 50, depth, mask)
    assert (gradient[mask] < 0).all()
    targets = np.array(numpy_losses.normalised(depth[0][mask[0]].tolist(), method))
    assert (np.diff(targets[np.argsort(depth[0][mask[0]])]) > 0).all()
    score[0][mask[0]] = targets
    only_first = mask & (np.arange(3) == 0)[:, None, None]
    assert evaluate(name, method, score, depth, only_first)[0] < 1e-5


@every_loss
@every_method
def test_sky_is_as_far_as_anything(name: str, method: str):
    """The score at which the loss vanishes is largest for the sky, and its opposite is not it."""
    depth = np.full(SHAPE, 2.0, np.float32)
    depth[:, 0, 0], depth[:, 1, 1] = 8.0, np.inf
    mask = np.ones(SHAPE, bool)
    expected = np.array(numpy_losses.normalised(depth[0].ravel().tolist(), method))
    score = np.broadcast_to(expected.reshape(1, *SHAPE[1:]), SHAPE).astype(np.float32)
    assert score[0, 1, 1] == score.max()
    assert evaluate(name, method, score, depth, mask)[0] < 1e-5
    assert evaluate(name, method, -score, depth, mask)[0] > 1e-3


@every_loss
@every_method
def test_nothing_valid_gives_zero_and_no_gradient(name: str, method: str):
    score, depth, mask = random_maps(7)
    value, gradient = evaluate(name, method, score, depth, mask & False)
    assert value == 0
    assert (gradient == 0).all()


@every_loss
@every_scaling
@pytest.mark.parametrize("depth", [0.0, 1e-30, 1.0, 1e30, np.inf])
def test_constant_depth_has_target_zero(name: str, method: str, depth: float):
    score, _, mask = random_maps(8)
    value, gradient = evaluate(name, method, score, np.full(SHAPE, depth), mask)
    expected = np.mean(np.abs(score[mask].astype(np.float64)) ** POWERS[name])
    np.testing.assert_allclose(value, expected, rtol=RELATIVE)
    assert jnp.isfinite(gradient).all()


@every_loss
def test_raw_depth_has_its_unit_and_images_of_sky_the_farthest_depth_of_the_batch(name: str):
    depth = np.full(SHAPE, 2.0, np.float32)
    depth[0, 0, 0], depth[1], depth[2, 1, 1] = 7.0, np.inf, 1e30
    expected = np.full(SHAPE, 2.0, np.float32)
    expected[0, 0, 0], expected[1], expected[2, 1, 1] = 7.0, 1e15, 1e15
    mask = np.ones(SHAPE, bool)
    assert evaluate(name, "none", expected, depth, mask)[0] == 0
    mask[2] = False
    expected[1] = 7.0
    assert evaluate(name, "none", expected, depth, mask)[0] == 0
    mask[0] = False
    assert evaluate(name, "none", expected * 0, depth, mask)[0] == 0


@every_loss
@every_scaling
def test_one_pixel_of_depth_zero_leaves_its_image_a_scale(name: str, method: str):
    depth = np.full(SHAPE, 2.0, np.float32)
    depth[:, 0, 0] = 0.0
    zero = evaluate(name, method, np.zeros(SHAPE), depth, np.ones(SHAPE, bool))[0]
    assert zero > 0.01


@every_loss
@every_method
@pytest.mark.parametrize("extremes", [(0.0, 1.0), (1e-30, 1e30), (0.0, np.inf), (1.0, np.inf)])
def test_extreme_depths_give_finite_loss_and_gradient(
    name: str, method: str, extremes: tuple[float, float]
):
    score, _, mask = random_maps(9)
    depth = np.random.default_rng(0).choice(extremes, size=SHAPE)
    for scale in (0.0, 1.0, 1e15):
        value, gradient = evaluate(name, method, score * np.float32(scale), depth, mask)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


@every_loss
def test_gradient_agrees_with_finite_differences(name: str):
    score, depth, mask = random_maps(10)
    method, step = "inverse_minmax", 1e-6
    _, gradient = evaluate(name, method, score, depth, mask)
    for pixel in np.ndindex(SHAPE):
        values = []
        for sign in (1, -1):
            moved = score.astype(np.float64)
            moved[pixel] += sign * step
            value, _ = numpy_losses.regression(moved, depth, mask, method, POWERS[name])
            values.append(value)
        slope = (values[0] - values[1]) / (2 * step)
        np.testing.assert_allclose(gradient[pixel], slope, rtol=1e-4, atol=1e-6)
