"""What is left between prediction and ground truth, in disparity, once scale and shift are out.

Source: Ranftl et al. (MiDaS), TPAMI 2020, Eqs. (2)-(6). Axes: b h w. Units: none. Sign: disparity,
larger is nearer; the prediction is minus the score.
"""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reldepth_jax.ops.alignment import least_squares, median_mad, unit_range
from reldepth_jax.ops.normalise import relative_disparity
from reldepth_jax.types import Batch, with_polarity


def aligned_residual(
    score: Float[Array, "b h w"], batch: Batch, alignment: Literal["median_mad", "least_squares"]
) -> tuple[Float[Array, "b h w"], Bool[Array, "b h w"]]:
    """Return prediction minus ground truth, 0 where it does not count, and where it counts.

    It counts at the valid pixels of images with two different depths.

    Args:
      alignment: "median_mad": both sides by Eqs. (5), (6). "least_squares": the prediction by
        Eqs. (2)-(4) to the ground truth, which is scaled to [0, 1].
    """
    disparity = relative_disparity(batch["depth"], batch["mask"])
    target = unit_range(disparity, batch["mask"])
    mask = batch["mask"] & (jnp.max(target, axis=(1, 2), keepdims=True) > 0)
    prediction = with_polarity(score.astype(jnp.float32), "disparity")
    if alignment == "least_squares":
        return least_squares(prediction, target, mask) - target, mask
    return median_mad(prediction, mask) - median_mad(target, mask), mask


def mean_of_images(total: Float[Array, " b"], mask: Bool[Array, "b h w"]) -> Float[Array, ""]:
    """Return total / M, averaged over the images with M > 0 pixels in the mask; 0 if none has."""
    count = jnp.sum(mask, axis=(1, 2))
    return jnp.sum(total / jnp.maximum(count, 1)) / jnp.maximum(jnp.sum(count > 0), 1)
