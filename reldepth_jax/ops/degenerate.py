"""Ground truth from which nothing can be learnt: one value nearly everywhere.

Axes: b batch, h height, w width. Nothing has a gradient.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

NEARLY_ALL = 0.95
"""Share of the pixels with ground truth from which on one value holds nearly all."""
_CANDIDATES = 8


def is_degenerate(
    values: Float[Array, "b h w"], mask: Bool[Array, "b h w"], within: float = 0.0
) -> Bool[Array, "b"]:
    """Return for each image whether nearly all valid values lie within `within` of one of them.

    The value is sought among 8 valid ones, evenly spaced in the order of pixels: one that holds
    95 % of them is missed about once in 10^10 images. inf equals inf; no valid pixel is not
    degenerate.
    """
    values, mask = jax.lax.stop_gradient(values), mask.reshape(len(mask), -1)
    flat = values.astype(jnp.float32).reshape(len(mask), -1)
    rank = jnp.cumsum(mask, axis=1)
    count = rank[:, -1]
    wanted = jnp.arange(_CANDIDATES)[None] * count[:, None] // _CANDIDATES + 1
    places = jax.vmap(jnp.searchsorted)(rank, wanted)
    places = jnp.minimum(places, flat.shape[1] - 1)
    candidates = jnp.take_along_axis(flat, places, axis=1)

    def holds(candidate: Float[Array, "b"]) -> Array:
        each = candidate[:, None]
        near = (flat == each) | (jnp.abs(flat - each) <= within)
        return jnp.sum(mask & near, axis=1)

    most = jnp.max(jnp.stack([holds(candidates[:, k]) for k in range(_CANDIDATES)]), axis=0)
    return (count > 0) & (most >= NEARLY_ALL * count)
