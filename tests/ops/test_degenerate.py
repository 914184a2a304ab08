import jax.numpy as jnp
import numpy as np
import pytest

from reldepth_jax.ops.degenerate import NEARLY_ALL, is_degenerate

RNG = np.random.default_rng(0)


def by_sorting(values: np.ndarray, mask: np.ndarray) -> list[bool]:
    """Return the same by counting every value."""
    found = []
    for each, valid in zip(values, mask, strict=True):
        counts = np.unique(each[valid], return_counts=True)[1]
        found.append(bool(valid.any() and counts.max() >= NEARLY_ALL * valid.sum()))
    return found


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.949, 0.951, 0.99, 1.0])
@pytest.mark.parametrize("value", [3.0, 0.0, np.inf])
def test_one_value_at_nearly_all_valid_pixels(share, value):
    values = RNG.uniform(1, 9, (6, 40, 50)).astype(np.float32)
    mask = RNG.random(values.shape) < 0.6
    for each, valid in zip(values, mask, strict=True):
        places = np.flatnonzero(valid)
        number = round(share * len(places))
        each.flat[RNG.permutation(places)[:number]] = value
        # What does not count may be anything.
        each[~valid] = RNG.choice([np.nan, value, 7.0])
    found = np.asarray(is_degenerate(jnp.asarray(values), jnp.asarray(mask))).tolist()
    assert found == by_sorting(values, mask)


def test_what_has_no_or_one_valid_pixel():
    values, mask = jnp.ones((3, 4, 5)), np.zeros((3, 4, 5), bool)
    mask[1, 2, 3] = True
    mask[2, 3, 4] = mask[2, 0, 0] = True
    two = values.at[2, 0, 0].set(5)
    assert is_degenerate(two, jnp.asarray(mask)).tolist() == [False, True, False]


def test_values_within_a_distance_are_one_value():
    values = RNG.uniform(0, 1e-3, (1, 40, 50)).astype(np.float32)
    values[0, 0, :10] = 1
    mask = jnp.ones(values.shape, bool)
    assert is_degenerate(jnp.asarray(values), mask, 1e-3).tolist() == [True]
    assert is_degenerate(jnp.asarray(values), mask, 1e-5).tolist() == [False]
