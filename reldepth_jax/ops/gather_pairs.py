"""Values of a map at both points of each pair."""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

from reldepth_jax.types import Pairs


def gather(
    values: Shaped[Array, "b h w"], pairs: Pairs
) -> tuple[Shaped[Array, "b n"], Shaped[Array, "b n"]]:
    """Return `values` at the first and at the second points."""
    flat = values.reshape(values.shape[0], -1)
    return (
        jnp.take_along_axis(flat, pairs.first, axis=1),
        jnp.take_along_axis(flat, pairs.second, axis=1),
    )
