"""Numbers chosen by counting: those that a stable sort of NumPy puts first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.ops import smallest as counting

smallest_mask, index_of_rank = jax.jit(counting.smallest_mask), jax.jit(counting.index_of_rank)
SPECIAL = (0.0, -0.0, np.inf, -np.inf, 3e38, -3e38, 1e-37, 1.0, 1.0, -1.0, np.nan, -np.nan)


def _first(numbers: np.ndarray, count: np.ndarray) -> np.ndarray:
    chosen = np.zeros(numbers.shape, bool)
    for row in np.ndindex(numbers.shape[:-1]):
        chosen[row][np.argsort(numbers[row], kind="stable")[: count[row]]] = True
    return chosen


def _few_values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Return numbers of which many are equal, of both signs."""
    return (np.random.default_rng(seed).integers(-9, 9, shape) / 4).astype(np.float32)


@pytest.mark.parametrize("shape", [(1,), (2,), (31,), (32,), (33,), (1000,), (3, 64), (2, 3, 65)])
def test_the_first_of_a_stable_sort_are_chosen(shape: tuple[int, ...]):
    every = np.random.default_rng(0).standard_normal(shape, np.float32)
    for numbers in (every, _few_values(shape, 1), np.zeros(shape, np.float32)):
        order = np.argsort(numbers, axis=-1, kind="stable")
        for count in {0, 1, shape[-1] // 4, shape[-1] - 1, shape[-1]}:
            counts = np.full(shape[:-1], count)
            found = smallest_mask(jnp.asarray(numbers), jnp.asarray(counts))
            np.testing.assert_array_equal(found, _first(numbers, counts))
            if count < shape[-1]:
                index = index_of_rank(jnp.asarray(numbers), jnp.asarray(counts))
                np.testing.assert_array_equal(index, order[..., count])


def test_every_array_has_its_own_count():
    numbers = _few_values((4, 50), 2)
    counts = np.array([0, 7, 49, 50])
    found = smallest_mask(jnp.asarray(numbers), jnp.asarray(counts))
    np.testing.assert_array_equal(found, _first(numbers, counts))


@pytest.mark.parametrize("count", range(len(SPECIAL) + 1))
def test_zeros_are_equal_and_nan_comes_last(count: int):
    numbers = np.array(SPECIAL, np.float32)
    found = smallest_mask(jnp.asarray(numbers), jnp.asarray(count))
    np.testing.assert_array_equal(found, _first(numbers, np.array(count)))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_numbers_of_half_the_width(dtype: jnp.dtype):
    numbers = jnp.asarray(np.random.default_rng(3).standard_normal((2, 500)), dtype)
    counts = np.array([100, 400])
    wanted = _first(np.asarray(numbers.astype(jnp.float32)), counts)
    np.testing.assert_array_equal(smallest_mask(numbers, jnp.asarray(counts)), wanted)


def test_numbers_that_differ_in_the_last_bit_of_float64():
    numbers = np.nextafter(1.0, 2.0) + np.arange(64)[::-1] * np.finfo(np.float64).eps
    with jax.enable_x64():
        found = smallest_mask(jnp.asarray(numbers), jnp.asarray(20))
    np.testing.assert_array_equal(found, _first(numbers, np.array(20)))


def test_what_is_chosen_is_a_constant_to_the_gradient():
    numbers = jnp.asarray(_few_values((40,), 4))

    def squares(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(smallest_mask(x, jnp.asarray(10)), x * x, 0.0))

    gradient = jax.grad(squares)(numbers)
    wanted = np.where(_first(np.asarray(numbers), np.array(10)), 2 * np.asarray(numbers), 0)
    np.testing.assert_array_equal(gradient, wanted)
