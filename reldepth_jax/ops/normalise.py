"""Ground truth on a common scale, for losses that compare values. Axes: b h w."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reldepth_jax.ops.alignment import median_mad, unit_range
from reldepth_jax.types import with_polarity

Normalisation = Literal["inverse_minmax", "minmax", "inverse_median_mad", "median_mad", "none"]

_LARGEST_RAW_DEPTH = 1e15
"""Its square, summed over a batch, is finite in float32."""


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
        absolute deviation from it (MiDaS, TPAMI, Eq. 5). "median_mad": the same with depth, sky
        like the farthest finite pixel. "none": depth as it is, in its own unit; sky like the
        farthest finite pixel of the image (of the batch, where an image is all sky), nothing above
        1e15.

    Returns: float32, 0 where `mask` is False; but for "none", 0 everywhere in a constant or empty
      image.
    """
    match method:
        case "none":
            return _without_sky(depth, mask)
        case "minmax":
            return unit_range(_without_sky(depth, mask), mask)
        case "median_mad":
            return median_mad(_without_sky(depth, mask), mask)
        case "inverse_minmax":
            return unit_range(with_polarity(relative_disparity(depth, mask), "disparity"), mask)
        case "inverse_median_mad":
            return median_mad(with_polarity(relative_disparity(depth, mask), "disparity"), mask)


def relative_disparity(
    depth: Float[Array, "b h w"], mask: Bool[Array, "b h w"]
) -> Float[Array, "b h w"]:
    """Return inverse depth as a share of that of the image's nearest valid pixel.

    Larger is nearer: 1 at the nearest pixel, 0 for sky and where `mask` is False. float32; depths
    below 1e-38 count as 1e-38.
    """
    safe = jnp.maximum(jnp.where(mask, depth, jnp.inf), jnp.finfo(jnp.float32).tiny)
    nearest = jnp.min(safe, axis=(1, 2), keepdims=True)
    return jnp.where(jnp.isfinite(nearest), nearest, 0.0) / safe


def _without_sky(depth: Array, mask: Array) -> Array:
    """Return depth with sky as far as the farthest finite pixel, 0 where masked."""
    finite = jnp.where(mask & jnp.isfinite(depth), depth, -jnp.inf)
    largest = jnp.max(finite, axis=(1, 2), keepdims=True)
    largest = jnp.where(jnp.isfinite(largest), largest, jnp.maximum(jnp.max(finite), 0.0))
    largest = jnp.minimum(largest, _LARGEST_RAW_DEPTH)
    return jnp.where(mask, jnp.minimum(jnp.where(mask, depth, 0.0), largest), 0.0)
