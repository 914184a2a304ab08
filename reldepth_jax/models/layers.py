"""Building blocks with torch's padding, momentum and initialisation. Axes: b h w c."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

Initializer = Callable[..., Any]

he_fan_out: Initializer = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Kaiming normal over fan-out: torchvision's initialisation of ResNets."""


def conv(
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    stride: int = 1,
    bias: bool = False,
    dtype: jnp.dtype,
    init: Initializer = he_fan_out,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Return a square convolution padded by `size // 2` on every side.

    Explicit, because "SAME" pads (0, 1) at stride 2 where torch pads (1, 1).
    """
    return nnx.Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=stride,
        padding=((size // 2, size // 2),) * 2,
        use_bias=bias,
        dtype=dtype,
        kernel_init=init,
        rngs=rngs,
    )


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation in float32 whatever the dtype of its input, which the output keeps.

    momentum 0.9 is torch's 0.1. The running variance is the biased one; torch keeps the unbiased,
    n / (n - 1) times as large.
    """

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        super().__init__(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:  # pyright: ignore[reportIncompatibleMethodOverride]: no mask here
        """Normalise over b, h and w."""
        return super().__call__(x.astype(jnp.float32)).astype(x.dtype)


def max_pool_3x3(x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w c"]:
    """Maximum over 3x3 windows at stride 2, padding 1, height and width even.

    As maxima of strided slices: the gradient is comparisons, several times faster on CPU than the
    select-and-scatter that XLA makes of `reduce_window`. Where values tie they share the gradient.
    """
    for axis in (1, 2):
        even = x[(slice(None),) * axis + (slice(0, None, 2),)]
        odd = x[(slice(None),) * axis + (slice(1, None, 2),)]
        # Output k covers inputs 2k-1, 2k, 2k+1; the first is absent for k = 0.
        before = jnp.concatenate(
            [
                even[(slice(None),) * axis + (slice(0, 1),)],
                odd[(slice(None),) * axis + (slice(0, -1),)],
            ],
            axis,
        )
        x = jnp.maximum(jnp.maximum(before, even), odd)
    return x
