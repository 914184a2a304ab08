"""Bilinear enlargement by two, in both conventions of where the corners lie.

Written as shifts and an interleave instead of a gather or interpolation matrices: the gradient is
then shifts too, which XLA fuses. Axes: b h w c.
"""

import functools

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def upsample_2x(x: Float[Array, "b h w c"], *, align_corners: bool) -> Float[Array, "b _h _w c"]:
    """Double height and width, as torch's bilinear `interpolate(scale_factor=2)` does.

    Args:
      align_corners: True puts the first and last samples of both grids on each other; False aligns
        the outer edges of their pixels (torch's default, and what images are resized with).
    """
    for axis in (1, 2):
        x = _double(x, axis, align_corners)
    return x


def _double(x: Array, axis: int, align_corners: bool) -> Array:
    """Interpolate along one axis: output 2k lies between k-1 and k, output 2k+1 between k and k+1.

    With corners aligned, output i reads position i(n-1)/(2n-1), that is k - k/(2n-1) for i = 2k;
    otherwise i/2 - 1/4, held at the ends.
    """
    n = x.shape[axis]
    k = jnp.arange(n, dtype=x.dtype)
    share = k / (2 * n - 1) if align_corners else jnp.full(n, 0.25, x.dtype)
    before = share.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    after = jnp.flip(before, axis)
    take = functools.partial(lax.slice_in_dim, x, axis=axis)
    previous = jnp.concatenate([take(0, 1), take(0, n - 1)], axis)
    following = jnp.concatenate([take(1, n), take(n - 1, n)], axis)
    even = x + (previous - x) * before
    odd = x + (following - x) * after
    shape = x.shape[:axis] + (2 * n,) + x.shape[axis + 1 :]
    return jnp.stack([even, odd], axis + 1).reshape(shape)
