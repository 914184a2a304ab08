"""Scale and shift taken out of maps, with gradients that stay finite.

Source: Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2020, Eqs. (2)-(6).
Axes: b h w; each image for itself. Units: none. Sign: kept, but for `least_squares`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reldepth_jax.ops.smallest import index_of_rank

_CONSTANT = 1e-30
"""A map whose values differ by no more counts as constant: 1 over it, a gradient, is finite."""


def unit_range(value: Float[Array, "b h w"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Return each image shifted and scaled to [0, 1] over the masked pixels.

    0 where `mask` is False, and everywhere in a constant or empty image. To the gradient shift and
    scale are constants; so what is invariant to both has its exact gradient through this.
    """
    fixed = jax.lax.stop_gradient(value)
    low = jnp.min(jnp.where(mask, fixed, jnp.inf), axis=(1, 2), keepdims=True)
    high = jnp.max(jnp.where(mask, fixed, -jnp.inf), axis=(1, 2), keepdims=True)
    varies = high - low > _CONSTANT
    return jnp.where(mask & varies, value - low, 0.0) / jnp.where(varies, high - low, 1.0)


def median_mad(value: Float[Array, "b h w"], mask: Bool[Array, "b h w"]) -> Float[Array, "b h w"]:
    """Eqs. (5), (6): minus the median, divided by the mean absolute deviation from it.

    The upper one of two medians. 0 where `mask` is False, and everywhere in a constant or empty
    image; the gradient is 0 there, too.
    """
    # No sum overflows or vanishes in [0, 1], and "constant" is exact there.
    x = unit_range(value, mask)
    centred = jnp.where(mask, x - _masked_median(x, mask), 0.0)
    spread = _masked_mean(jnp.abs(centred), mask)
    return centred / jnp.where(spread > 0, spread, 1.0)


def least_squares(
    value: Float[Array, "b h w"], target: Float[Array, "b h w"], mask: Bool[Array, "b h w"]
) -> Float[Array, "b h w"]:
    """Eqs. (2)-(4): s * value + t with the s and t that bring it closest to `target`.

    s may be negative, as published: a map of the wrong sign is turned round. Where `value` is
    constant s is 0, and its gradient as well. 0 where `mask` is False.
    """
    x = unit_range(value, mask)
    # The 2x2 system in centred coordinates, where it is diagonal.
    x = jnp.where(mask, x - _masked_mean(x, mask), 0.0)
    mean = _masked_mean(jnp.where(mask, target, 0.0), mask)
    variance = _masked_mean(jnp.square(x), mask)
    covariance = _masked_mean(x * jnp.where(mask, target - mean, 0.0), mask)
    scale = covariance / jnp.where(variance > 0, variance, 1.0)
    return jnp.where(mask, scale * x + mean, 0.0)


def _masked_mean(value: Array, mask: Array) -> Array:
    """Return each image's mean; `value` is 0 where masked."""
    count = jnp.maximum(jnp.sum(mask, axis=(1, 2), keepdims=True), 1)
    return jnp.sum(value, axis=(1, 2), keepdims=True) / count


def _masked_median(value: Array, mask: Array) -> Array:
    """Return the (upper) median over the masked pixels of each image, 0 where there are none."""
    flat = jnp.where(mask, value, jnp.inf).reshape(value.shape[0], -1)
    middle = jnp.sum(mask, axis=(1, 2)) // 2
    median = jnp.take_along_axis(flat, index_of_rank(flat, middle)[:, None], axis=1)
    return jnp.where(jnp.isfinite(median), median, 0.0)[..., None]
