"""Building blocks with torch's padding, momentum and initialisation. Axes: b h w c.

On CPU they compute in the forms of `models.cpu`.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from reldepth_jax import runtime
from reldepth_jax.models.abstract import starting
from reldepth_jax.models.cpu.batch_norm import batch_norm
from reldepth_jax.models.cpu.convolution import Conv

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
    return (Conv if runtime.on_cpu() else nnx.Conv)(
        channels_in,
        channels_out,
        (size, size),
        strides=stride,
        padding="SAME" if padding == "same" else ((size // 2, size // 2),) * 2,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=starting(
            init or jax.nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal")
        ),
        rngs=rngs,
    )


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation in float32; the output has the dtype of the input.

    Source: Ioffe and Szegedy, ICML 2015. momentum 0.9 is torch's 0.1. The running variance is the
    biased one; torch keeps the unbiased, n / (n - 1) times as large.
    """

    def __init__(
        self, channels: int, *, epsilon: float = 1e-5, momentum: float = 0.9, rngs: nnx.Rngs
    ):
        super().__init__(
            channels,
            momentum=momentum,
            epsilon=epsilon,
            # E[x^2] - E[x]^2 loses digits where the mean is many deviations.
            use_fast_variance=False,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:  # pyright: ignore[reportIncompatibleMethodOverride]: no mask here
        """Normalise over b, h and w."""
        wide = x.astype(jnp.float32)
        if self.use_running_average or not runtime.on_cpu():
            return super().__call__(wide).astype(x.dtype)
        assert self.scale is not None
        assert self.bias is not None
        y, mean, var = batch_norm(wide, self.scale[...], self.bias[...], self.epsilon)
        for running, new in ((self.mean, mean), (self.var, var)):
            running[...] = self.momentum * running[...] + (1 - self.momentum) * new
        return y.astype(x.dtype)


def call(block: Callable[..., Array], *inputs: Array | None, remat: bool, **options: Any) -> Array:
    """Return what the block returns; with `remat` its gradient recomputes it."""
    if not remat:
        return block(*inputs, **options)
    return nnx.remat(lambda block, *inputs: block(*inputs, **options))(block, *inputs)


def max_pool_3x3(
    x: Float[Array, "b h w c"], padding: Literal["torch", "same"] = "torch"
) -> Float[Array, "b _h _w c"]:
    """Maximum over 3x3 windows at stride 2, height and width even; `padding` as of `conv`.

    Maxima of strided slices, on every device: the gradient is comparisons, several times faster on
    CPU than XLA's select-and-scatter for `reduce_window`. Equal values share the gradient.
    """
    for axis in (1, 2):
        even, odd = (lax.slice_in_dim(x, start, None, 2, axis) for start in (0, 1))
        # Output k covers inputs 2k-1, 2k, 2k+1; the first is absent for k = 0. With "same" it
        # covers 2k, 2k+1, 2k+2; the last is absent at the end. One of the others takes its place.
        first, others = ((even, 0, 1), (odd, 0, -1)), (even, odd)
        if padding == "same":
            first = ((even, 1, None), (odd, -1, None))
        third = jnp.concatenate(
            [lax.slice_in_dim(side, start, stop, axis=axis) for side, start, stop in first], axis
        )
        x = functools.reduce(jnp.maximum, others, third)
    return x
