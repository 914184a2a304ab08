"""Ground truth on a common scale, for losses that compare values. Axes: b h w."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Normalisation = Literal["inverse_minmax", "minmax", "inverse_median_mad"]


def normalise_depth(
    depth: Float[Array, "b h w"], mask: Bool[Array, "b h w"], method: Normalisation
) -> Float[Array, "b h w"]:
    """Return each image's depth on a scale of its own; larger stays farther, sky is finite.

    Args:
      depth: positive, inf is sky; anything where `mask` is False.
      method: "inverse_minmax": inverse depth from 0 to 1, reversed, so that 0 is the nearest and 1
        the farthest valid pixel: up to 8-bit rounding what the maps of ReDWeb hold, which come from
        disparity. "minmax": the same with depth; sky is 1 like the farthest finite pixel.
        "inverse_median_mad": minus inverse depth, shifted by its median and divided by its mean
        absolute deviation from it (MiDaS, TPAMI, Eq. 5).

    Returns: float32, 0 where `mask` is False; 0 everywhere in a constant or empty image.
    """
    if method == "minmax":
        value = jnp.where(mask & jnp.isfinite(depth), depth, -jnp.inf)
        largest = jnp.max(value, axis=(1, 2), keepdims=True)
        value = jnp.where(mask, jnp.minimum(depth, largest), 0.0)
    else:
        safe = jnp.where(mask, depth, 1.0)
        value = jnp.where(mask, -1.0 / jnp.maximum(safe, jnp.finfo(jnp.float32).tiny), 0.0)
    if method == "inverse_median_mad":
        shift = _masked_median(value, mask)
        count = jnp.maximum(jnp.sum(mask, axis=(1, 2), keepdims=True), 1)
        deviation = jnp.where(mask, jnp.abs(value - shift), 0.0)
        spread = jnp.sum(deviation, axis=(1, 2), keepdims=True) / count
    else:
        shift = jnp.min(jnp.where(mask, value, jnp.inf), axis=(1, 2), keepdims=True)
        top = jnp.max(jnp.where(mask, value, -jnp.inf), axis=(1, 2), keepdims=True)
        spread = top - shift
    usable = mask & jnp.isfinite(spread) & (spread > 0)
    return jnp.where(usable, value - shift, 0.0) / jnp.where(spread > 0, spread, 1.0)


def _masked_median(value: Array, mask: Array) -> Array:
    """Return the (upper) median over the masked pixels of each image, 0 where there are none."""
    flat = jnp.where(mask, value, jnp.inf).reshape(value.shape[0], -1)
    middle = jnp.sum(mask, axis=(1, 2)) // 2
    median = jnp.take_along_axis(jnp.sort(flat, axis=1), middle[:, None], axis=1)
    return jnp.where(jnp.isfinite(median), median, 0.0)[..., None]
