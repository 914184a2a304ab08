"""3x3 convolutions by Winograd's minimal filtering F(4x4, 3x3). Axes: b h w c.

Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, Section 4.3:
each tile of 4x4 outputs is A^T [(G g G^T) . (B^T d B)] A of the 6x6 inputs d around it, a quarter
of the multiplications. The products are one matrix product for each of the 36 places in a tile.
The gradients are the transposed steps. With e the gradient of a tile's outputs, the kernel's is
G^T [(B^T d B) . (A e A^T)] G, summed over tiles; that of the inputs is
B [(G g G^T) . (A e A^T)] B^T, added up where tiles overlap.

float32 loses about one digit against a direct convolution. Largest error relative to the largest
entry, standard normal inputs and weights: outputs 3e-6 from 16 channels, 8e-6 from 256, 1.2e-5 from
2048 (direct: 4e-7 to 6e-7); gradients 3e-6 from 12x12 pixels, 8e-6 from 64x64. So with AVX-512;
with AVX2 alone, whose products have longer sums, outputs 3e-6, 1.1e-5 and 4e-5 (direct: 4e-7 to
1.1e-6), gradients the same.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_INPUT = (
    (4, 0, -5, 0, 1, 0),
    (0, -4, -4, 1, 1, 0),
    (0, 4, -4, -1, 1, 0),
    (0, -2, -1, 2, 1, 0),
    (0, 2, -1, -2, 1, 0),
    (0, 4, 0, -5, 0, 1),
)
"""B^T."""
_KERNEL = np.array(
    (
        (1 / 4, 0, 0),
        (-1 / 6, -1 / 6, -1 / 6),
        (-1 / 6, 1 / 6, -1 / 6),
        (1 / 24, 1 / 12, 1 / 6),
        (1 / 24, -1 / 12, 1 / 6),
        (0, 0, 1),
    )
)
"""G."""
_OUTPUT = (
    (1, 1, 1, 1, 1, 0),
    (0, 1, -1, 2, -2, 0),
    (0, 1, 1, 4, 4, 0),
    (0, 1, -1, 8, -8, 1),
)
"""A^T."""


def transform_kernel(kernel: Float[Array, "3 3 i o"]) -> Float[Array, "6 6 i o"]:
    """Return G g G^T of every pair of channels: what `conv3x3` takes."""
    matrix = jnp.asarray(np.kron(_KERNEL, _KERNEL), kernel.dtype)
    transformed = jnp.matmul(matrix, kernel.reshape(9, -1), precision="highest")
    return transformed.reshape(6, 6, *kernel.shape[2:])


def tiles(shape: tuple[int, ...]) -> int:
    """Return how many tiles a convolution of (b, h, w, c) takes."""
    return shape[0] * _along(shape[1]) * _along(shape[2])


def _along(side: int) -> int:
    return -(-side // 4)


@jax.custom_vjp
def conv3x3(
    x: Float[Array, "b h w i"], transformed: Float[Array, "6 6 i o"]
) -> Float[Array, "b h w o"]:
    """Return the convolution at stride 1 with a border of one zero, of any height and width.

    Its gradients take the same tiles, and a quarter of the multiplications too.

    Args:
      transformed: of `transform_kernel`.
    """
    batch, height, width, _ = x.shape
    tall, wide = _along(height), _along(width)
    products = _products(_of_inputs(x), _flat(transformed), (2, 1))
    products = products.reshape(6, 6, batch, tall, wide, -1)
    # By rows, then by columns: (6, b, n, 4, m, o), (b, n, 4, m, 4, o).
    y = jnp.stack(_combine(_OUTPUT, list(products)), 3)
    y = jnp.stack(_combine(_OUTPUT, list(y)), 4)
    return y.reshape(batch, 4 * tall, 4 * wide, -1)[:, :height, :width]


def _backward(inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, transformed = inputs
    batch, height, width, _ = x.shape
    tall, wide = _along(height), _along(width)
    g = jnp.pad(gradient, ((0, 0), (0, 4 * tall - height), (0, 4 * wide - width), (0, 0)))
    # By columns, then by rows: (6, b, h, m, o), (6, 6, b, n, m, o).
    transposed = list(zip(*_OUTPUT, strict=True))
    of_products = jnp.stack(_combine(transposed, [g[:, :, j::4] for j in range(4)]))
    of_products = jnp.stack(_combine(transposed, [of_products[:, :, i::4] for i in range(4)]))
    of_products = _flat(of_products)
    of_kernel = _products(_of_inputs(x), of_products, (1, 1))
    of_tiles = _products(of_products, _flat(transformed), (2, 2))
    of_tiles = of_tiles.reshape(6, 6, batch, tall, wide, -1)
    # By rows, then by columns: (6, b, 4n, m, i), (b, 4n, 4m, i).
    transposed = list(zip(*_INPUT, strict=True))
    of_x = _overlapping(_combine(transposed, list(of_tiles)), 2)
    of_x = _overlapping(_combine(transposed, list(of_x)), 2)
    return of_x[:, :height, :width], of_kernel.reshape(transformed.shape)


conv3x3.defvjp(lambda *inputs: (conv3x3(*inputs), inputs), _backward)


def _of_inputs(x: Array) -> Array:
    """Return B^T d B of all tiles: (36, b n m, i)."""
    height, width = x.shape[1:3]
    n, m = _along(height), _along(width)
    x = jnp.pad(x, ((0, 0), (1, 4 * n + 1 - height), (1, 4 * m + 1 - width), (0, 0)))
    # By columns, then by rows: (6, b, h, m, i), (6, 6, b, n, m, i).
    v = jnp.stack(_combine(_INPUT, [x[:, :, j : j + 4 * m - 3 : 4] for j in range(6)]))
    v = jnp.stack(_combine(_INPUT, [v[:, :, i : i + 4 * n - 3 : 4] for i in range(6)]))
    return _flat(v)


def _flat(x: Array) -> Array:
    """Return (36, n, c) of (6, 6, ..., c)."""
    return x.reshape(36, -1, x.shape[-1])


def _products(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """Return a product of matrices for each of the 36 places, over an axis of each."""
    return lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((0,), (0,))))


def _combine(matrix: Sequence[Sequence[int]], pieces: Sequence[Array]) -> list[Array]:
    """Return the products of the matrix and the pieces."""
    return [
        functools.reduce(
            jnp.add, (factor * x for factor, x in zip(row, pieces, strict=True) if factor)
        )
        for row in matrix
    ]


def _overlapping(pieces: Sequence[Array], axis: int) -> Array:
    """Return the sum of tiles of six that lie four apart, without what is outside of the image.

    Args:
      pieces: each of the six places, all tiles of it along `axis`.
    """
    shape = pieces[0].shape

    def moved(piece: Array, by: int) -> Array:
        edges = [(0, 0, 0)] * len(shape)
        edges[axis] = (by, -by, 0)
        return lax.pad(piece, jnp.zeros((), piece.dtype), edges)

    first = pieces[1] + moved(pieces[5], 1)
    last = pieces[4] + moved(pieces[0], -1)
    joined = jnp.stack([first, pieces[2], pieces[3], last], axis + 1)
    return joined.reshape(*shape[:axis], 4 * shape[axis], *shape[axis + 1 :])
