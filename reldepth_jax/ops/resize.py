"""Resampling maps along their axes by small matrices. Axes: b h w c."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from reldepth_jax.ops.upsample import upsample_2x


def resize(
    x: Float[Array, "b h w c"], size: tuple[int, int], *, align_corners: bool
) -> Float[Array, "b _h _w c"]:
    """Return maps of `size` (height, width), as torch's bilinear `interpolate(size=...)` does.

    Nothing is averaged where an axis shrinks. `align_corners` as in `upsample_2x`.
    """
    height, width = x.shape[1:3]
    if size == (2 * height, 2 * width):
        return upsample_2x(x, align_corners=align_corners)
    for axis, new in ((1, size[0]), (2, size[1])):
        if x.shape[axis] != new:
            x = along(x, axis, _linear(x.shape[axis], new, align_corners))
    return x


def along(
    x: Float[Array, "b h w c"], axis: int, matrix: Float32[np.ndarray, "new old"]
) -> Float[Array, "b _h _w c"]:
    """Multiply axis 1 or 2 by a matrix, in float32; the output has the dtype of the input."""
    equation = "nh,bhwc->bnwc" if axis == 1 else "nw,bhwc->bhnc"
    # Accelerators would round the weights to fewer bits.
    y = jnp.einsum(equation, matrix, x.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    return y.astype(x.dtype)


def _linear(old: int, new: int, align_corners: bool) -> Float32[np.ndarray, "new old"]:
    """Return the weights of the two neighbours of each new pixel, held at the ends."""
    if align_corners:
        where = np.arange(new) * ((old - 1) / max(new - 1, 1))
    else:
        where = (np.arange(new) + 0.5) * old / new - 0.5
    where = np.clip(where, 0, old - 1)
    below = np.floor(where).astype(int)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (np.arange(new), below), 1 - (where - below))
    np.add.at(matrix, (np.arange(new), np.minimum(below + 1, old - 1)), where - below)
    return matrix.astype(np.float32)
