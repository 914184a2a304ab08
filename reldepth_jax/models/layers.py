"""Building blocks with torch's padding, momentum and initialisation. Axes: b h w c."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
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
    return nnx.Conv(
        channels_in,
        channels_out,
        (size, size),
        strides=stride,
        padding="SAME" if padding == "same" else ((size // 2, size // 2),) * 2,
        feature_group_count=groups,
        use_bias=bias,
        dtype=dtype,
        kernel_init=init or jax.nn.initializers.variance_scaling(2.0 * groups, "fan_out", "normal"),
        conv_general_dilated=lax.conv_general_dilated if groups == 1 else conv_of_groups,
        rngs=rngs,
    )


def conv_of_groups(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k i o"],
    strides: tuple[int, int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int,
    **options: Any,
) -> Float[Array, "b _h _w o"]:
    """Return `lax.conv_general_dilated` in groups; on CPU by shifted inputs where those are faster.

    Measured on two cores, batch 8, images 96x128. All depthwise convolutions of EfficientNet-Lite0:
    XLA's own takes 15 times as long forward and 21 times backward, the whole train step of the
    encoder 3.6 times (0.81 against 0.23 s; ResNet-18: 0.17 s). Those of ResNeXt-101 in 32 groups:
    as long forward, where XLA's own stays because it compiles faster, and 64 times backward.
    The price is compilation: 12 against 6 s for that train step. Accelerators, where nothing was
    measured, keep XLA's own.
    """
    if jax.default_backend() != "cpu":
        return lax.conv_general_dilated(
            x, kernel, strides, padding, feature_group_count=feature_group_count, **options
        )
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    sides = ((0, 0), *((int(low), int(high)) for low, high in padding), (0, 0))
    return _cpu_conv(x, kernel, strides, sides, feature_group_count)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _cpu_conv(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    sides: tuple[tuple[int, int], ...],
    groups: int,
) -> Array:
    if _is_depthwise(x, kernel, groups):
        return _shifted_conv(x, kernel, strides, sides, groups)
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        sides[1:3],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def _forward(x: Array, kernel: Array, *static: Any) -> tuple[Array, tuple[Array, Array]]:
    return _cpu_conv(x, kernel, *static), (x, kernel)


def _backward(
    strides: tuple[int, int],
    sides: tuple[tuple[int, int], ...],
    groups: int,
    inputs: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    _, pull = jax.vjp(lambda x, w: _shifted_conv(x, w, strides, sides, groups), *inputs)
    return pull(gradient)


_cpu_conv.defvjp(_forward, _backward)


def _is_depthwise(x: Array, kernel: Array, groups: int) -> bool:
    return x.shape[-1] == groups == kernel.shape[-1]


def _shifted_conv(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    sides: tuple[tuple[int, int], ...],
    groups: int,
) -> Array:
    """Sum over the cells of the kernel: shifted input times weights, in float32 or wider."""
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    padded, weights = jnp.pad(x.astype(dtype), sides), kernel.astype(dtype)
    if _is_depthwise(x, kernel, groups):
        weights = weights.reshape(*kernel.shape[:2], 1, 1, 1, groups)
        product = jnp.multiply
    else:
        # Groups first: products of matrices, one a group.
        padded = jnp.moveaxis(padded.reshape(*padded.shape[:3], groups, -1), 3, 0)
        weights = jnp.moveaxis(weights.reshape(*kernel.shape[:3], groups, -1), 3, 2)
        product = functools.partial(jnp.einsum, "gbhwi,gio->gbhwo")
    shifts = _shifts(padded, kernel.shape[:2], strides)
    total = functools.reduce(jnp.add, (product(piece, weights[i, j]) for i, j, piece in shifts))
    if total.ndim == 5:
        total = jnp.moveaxis(total, 0, 3)
        total = total.reshape(*total.shape[:3], -1)
    return total.astype(x.dtype)


def _shifts(
    padded: Array, size: tuple[int, ...], strides: tuple[int, int]
) -> Iterator[tuple[int, int, Array]]:
    """Yield every cell (i, j) of the kernel with the inputs that it meets."""
    height, width = padded.shape[-3:-1]
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(i, height - size[0] + i + 1, strides[0])
            columns = slice(j, width - size[1] + j + 1, strides[1])
            yield i, j, padded[..., rows, columns, :]


class BatchNorm(nnx.BatchNorm):
    """Batch normalisation in float32 whatever the dtype of its input, which the output keeps.

    momentum 0.9 is torch's 0.1. The running variance is the biased one; torch keeps the unbiased,
    n / (n - 1) times as large.
    """

    def __init__(
        self, channels: int, *, epsilon: float = 1e-5, momentum: float = 0.9, rngs: nnx.Rngs
    ):
        super().__init__(channels, momentum=momentum, epsilon=epsilon, rngs=rngs)

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
