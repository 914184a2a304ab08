"""Convolutions in the forms that were measured to be faster on CPU than XLA's own.

Two cores, jax 0.10, float32; CPU time.

- 1x1: products of matrices. A training step of ResNet-50 with the paper's decoder, batch 4 at
  256x256, takes 0.96 times as long on one core, 0.99 on two.
- To few channels, as in the head: every pixel times all cells of the kernel at once, then sums of
  shifted products. 128 channels to one, 3x3, one image at 192x192: 0.5 to 0.6 times as long, with
  gradients 0.12 to 0.14; others 0.3 to 0.7 with gradients.
- Biases: their gradient is a product with a row of ones (see `batch_norm`): 0.97 and 0.99.
- In groups, batch 8, images 96x128. All depthwise convolutions of EfficientNet-Lite0: XLA's own
  takes 15 times as long forward and 21 times backward, the whole train step of the encoder 3.6
  times (0.81 against 0.23 s; ResNet-18: 0.17 s). Those of ResNeXt-101 in 32 groups: as long
  forward, where XLA's own stays because it compiles faster, and 64 times backward. The price is
  compilation: 12 against 6 s for that train step.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from reldepth_jax.models.cpu.batch_norm import sum_of_rows

_Sides = tuple[tuple[int, int], ...]


class Conv(nnx.Conv):
    """`nnx.Conv` over images, by `convolve` and `add_bias`."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, conv_general_dilated=convolve, **options)

    def __call__(self, inputs: Float[Array, "b h w i"]) -> Float[Array, "b _h _w o"]:  # pyright: ignore[reportIncompatibleMethodOverride]: no sharding here
        """Convolve."""
        x, kernel = self.promote_dtype((inputs, self.kernel[...]), dtype=self.dtype)
        strides = (self.strides,) * 2 if isinstance(self.strides, int) else self.strides
        y = self.conv_general_dilated(
            x,
            kernel,
            strides,
            self.padding,
            feature_group_count=self.feature_group_count,
        )
        return y if self.bias is None else add_bias(y, self.bias[...].astype(y.dtype))


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k i o"],
    strides: tuple[int, int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int,
) -> Float[Array, "b _h _w o"]:
    """Return what `lax.conv_general_dilated` does, channels last."""
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, padding)
    sides = ((0, 0), *((int(low), int(high)) for low, high in padding), (0, 0))
    if feature_group_count > 1:
        return _grouped(x, kernel, strides, sides, feature_group_count)
    if kernel.shape[:2] == (1, 1) and not any(map(any, sides)):
        return _pointwise(x[:, :: strides[0], :: strides[1]], kernel)
    if strides == (1, 1) and _is_narrow(kernel):
        return _narrow(x, kernel, sides)
    return _lax_conv(x, kernel, strides, sides, 1)


@jax.custom_vjp
def add_bias(x: Float[Array, "b h w c"], bias: Float[Array, "c"]) -> Float[Array, "b h w c"]:
    """Return x + bias."""
    return x + bias.reshape(1, 1, 1, -1)


add_bias.defvjp(
    lambda x, bias: (add_bias(x, bias), None),
    lambda _, gradient: (gradient, sum_of_rows(gradient)),
)


def _pointwise(x: Array, kernel: Array) -> Array:
    return (x.reshape(-1, x.shape[-1]) @ kernel[0, 0]).reshape(*x.shape[:3], -1)


def _is_narrow(kernel: Array) -> bool:
    """Whether the cells of all outputs are fewer than the inputs; rounded to float32 at least."""
    height, width, inputs, outputs = kernel.shape
    return height * width * outputs < inputs and kernel.dtype != jnp.bfloat16


def _narrow(x: Array, kernel: Array, sides: _Sides) -> Array:
    """Multiply every pixel by all cells of the kernel at once, and add up what belongs together."""
    height, width, inputs, outputs = kernel.shape
    flat = jnp.moveaxis(kernel, 2, 0).reshape(1, 1, inputs, -1)
    cells = jnp.pad(_pointwise(x, flat), sides)
    return functools.reduce(
        jnp.add,
        (
            piece[..., outputs * (i * width + j) :][..., :outputs]
            for i, j, piece in _shifts(cells, (height, width), (1, 1))
        ),
    )


def _lax_conv(
    x: Array, kernel: Array, strides: tuple[int, int], sides: _Sides, groups: int
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        sides[1:3],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _grouped(
    x: Array, kernel: Array, strides: tuple[int, int], sides: _Sides, groups: int
) -> Array:
    if _is_depthwise(x, kernel, groups):
        return _shifted_conv(x, kernel, strides, sides, groups)
    return _lax_conv(x, kernel, strides, sides, groups)


def _grouped_backward(
    strides: tuple[int, int],
    sides: _Sides,
    groups: int,
    inputs: tuple[Array, Array],
    gradient: Array,
) -> tuple[Array, Array]:
    _, pull = jax.vjp(lambda x, w: _shifted_conv(x, w, strides, sides, groups), *inputs)
    return pull(gradient)


_grouped.defvjp(
    lambda x, kernel, *static: (_grouped(x, kernel, *static), (x, kernel)), _grouped_backward
)


def _is_depthwise(x: Array, kernel: Array, groups: int) -> bool:
    return x.shape[-1] == groups == kernel.shape[-1]


def _shifted_conv(
    x: Array,
    kernel: Array,
    strides: tuple[int, int],
    sides: _Sides,
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
