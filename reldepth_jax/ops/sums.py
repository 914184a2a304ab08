"""Sums over images and pixels."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def sum_of_rows(x: Float[Array, "*n c"]) -> Float[Array, "c"]:
    """Sum over all axes but the last, added in float32, in the dtype of `x`.

    A product with a row of ones. On CPU, XLA's own reduction over leading axes is several times
    slower (measured in `models.batch_norm`).
    """
    rows = x.reshape(-1, x.shape[-1])
    ones = jnp.ones((1, rows.shape[0]), x.dtype)
    return jnp.matmul(ones, rows, preferred_element_type=jnp.float32)[0].astype(x.dtype)
