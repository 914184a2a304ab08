"""Draws from the pixels that a mask marks, with static shapes: no list of them is ever made.

Axes: b images, p pixels, n draws.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key


def choose(
    key: Key[Array, ""], among: Bool[Array, "b p"], number: int
) -> tuple[Int[Array, "b {number}"], Bool[Array, "b 1"]]:
    """Return pixels of each image, drawn with replacement, each marked one equally likely.

    The second value says which images have a marked pixel; in others any pixel is returned.
    """
    ends = jnp.cumsum(among, axis=1)
    count = ends[:, -1:]
    rank = jax.random.randint(key, (among.shape[0], number), 0, jnp.maximum(count, 1))
    return marked(ends, rank), count > 0


def marked(ends: Int[Array, "b p"], rank: Int[Array, "b n"]) -> Int[Array, "b n"]:
    """Return which pixel is the marked one of this rank, from 0; `ends` counts them up to each.

    A rank that is too large gives the last pixel.
    """
    pixel = jax.vmap(lambda e, r: jnp.searchsorted(e, r + 1))(ends, rank)
    return jnp.minimum(pixel, ends.shape[1] - 1)
