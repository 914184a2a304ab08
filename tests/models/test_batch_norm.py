"""Batch normalisation of many values far from zero, against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from reldepth_jax import runtime
from reldepth_jax.models.layers import BatchNorm

FORMS = {"cpu": True, "plain": False}
# Rounding of the mean, in deviations, grows with the offset. XLA's own reductions on CPU, in the
# plain form, add one value after the other; those of GPUs do not.
TOLERANCE = {"cpu": 2e-6, "plain": 1e-4}


def normalised(
    images: np.ndarray, form: str, monkeypatch: pytest.MonkeyPatch, dtype: str = "float32"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return output, mean and variance as a layer in training computes them."""
    monkeypatch.setattr(runtime, "on_cpu", lambda: FORMS[form])
    layer = BatchNorm(images.shape[-1], momentum=0.0, rngs=nnx.Rngs(0))
    layer.train()
    graph, state = nnx.split(layer)

    @jax.jit
    def run(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        layer = nnx.merge(graph, state, copy=True)
        output = layer(images)
        return output, layer.mean[...], layer.var[...]

    output, mean, variance = run(jnp.asarray(images, dtype))
    assert output.dtype == dtype
    return np.asarray(output, np.float64), np.asarray(mean), np.asarray(variance)


def check(images: np.ndarray, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with float64, for which the input is what float32 holds."""
    images = images.astype(np.float32)
    output, mean, variance = normalised(images, form, monkeypatch)
    exact = images.astype(np.float64)
    centre, square = exact.mean((0, 1, 2)), exact.var((0, 1, 2))
    deviation = np.sqrt(square)
    tolerance = TOLERANCE[form] * (1 + (abs(centre) / deviation).max() / 8)
    np.testing.assert_array_less(abs(mean - centre) / deviation, tolerance)
    np.testing.assert_array_less(abs(variance / square - 1), TOLERANCE[form])
    expected = (exact - centre) / np.sqrt(square + 1e-5)
    np.testing.assert_array_less(abs(output - expected) / (1 + abs(expected)), tolerance)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offset", [0, 10, 30, -300])
def test_statistics_of_150000_values_hold_at_any_offset(
    form: str, offset: float, monkeypatch: pytest.MonkeyPatch
):
    check(np.random.default_rng(0).normal(offset, 1, (1, 388, 388, 4)), form, monkeypatch)


def photographs() -> np.ndarray:
    """Return four images (4, 196, 196, 3): shades, edges and grain."""
    rng = np.random.default_rng(1)
    row, column = np.mgrid[:196, :196] / 196
    made = []
    for _ in range(4):
        a, b, angle = rng.uniform(0.2, 0.8, 3)
        shade = 0.6 * row + 0.4 * np.sin(5 * column + 9 * angle)
        edge = (row * np.cos(angle) + column * np.sin(angle) > a) * b
        colour = rng.uniform(0.5, 1, 3)
        made.append((shade + edge)[..., None] * colour + rng.normal(0, 0.05, (196, 196, 3)))
    images = np.array(made)
    return (images - images.min()) / np.ptp(images)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("contrast", [1.0, 0.02])
def test_photographs_of_any_contrast_are_normalised(
    form: str, contrast: float, monkeypatch: pytest.MonkeyPatch
):
    images = 0.8 + contrast * (photographs() - 0.5)
    colours = (images - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    # A convolution adds them up with weights of any sign, and may have a bias.
    features = colours @ np.random.default_rng(2).normal(size=(3, 8))
    check(features, form, monkeypatch)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("offset", [0, 10])
def test_half_precision_is_normalised_in_float32(
    form: str, offset: float, monkeypatch: pytest.MonkeyPatch
):
    drawn = np.random.default_rng(0).normal(offset, 1, (1, 388, 388, 4))
    images = np.asarray(jnp.asarray(drawn, jnp.bfloat16), np.float64)
    output, mean, variance = normalised(images, form, monkeypatch, "bfloat16")
    centre, square = images.mean((0, 1, 2)), images.var((0, 1, 2))
    np.testing.assert_allclose(mean, centre, atol=TOLERANCE[form] * (1 + offset / 8))
    np.testing.assert_allclose(variance, square, rtol=TOLERANCE[form])
    # The last bit of bfloat16.
    expected = (images - centre) / np.sqrt(square + 1e-5)
    np.testing.assert_allclose(output, expected, rtol=2**-8, atol=1e-3)
