"""Building blocks with torch's padding, momentum and initialisation. Axes: b h w c."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.models.cpu.convolution import Conv, convolve

Initializer = Callable[..., Any]

he_fan_out: Initializer = jax.nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""Kaiming normal over fan-out: torchvision's initialisation of ResNets."""


def conv(
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    stride: int = 1,
    groups: int = 1,
    padding: Literal["torch", "same"] = "torch",
    bias: bool = False,
    dtype: jnp.dtype,
    init: Initializer | None = None,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    """Return a square convolution.

    `padding` "torch": `size // 2` on every side; "same": TensorFlow's, which at stride 2 pads an
    even size by (0, 1) where torch pads (1, 1). `init` None: He over the fan-out of one group, the
    channels that an input reaches, as in TensorFlow's EfficientNet; torch counts all groups.
    """
    return Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=stride,
        padding="SAME" if padding == "same" else ((size // 2, size // 2),) * 2,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=init or jax.nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal"),
        conv_general_dilated=convolve,
        rngs=rngs,
    )


def call(block: Callable[..., Array], *inputs: Array | None, remat: bool) -> Array:
    """Return what the block returns; with `remat` it is computed again for the gradient."""
    if not remat:
        return block(*inputs)
    return nnx.remat(lambda block, *inputs: block(*inputs))(block, *inputs)


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
