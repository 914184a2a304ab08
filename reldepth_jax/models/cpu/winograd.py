"""3x3 convolutions by Winograd's minimal filtering, F(2x2, 3x3) and F(4x4, 3x3). Axes: b h w c.

Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, Sections 4.1
and 4.3: each tile of t x t outputs is A^T [(G g G^T) . (B^T d B)] A of the (t + 2) x (t + 2) inputs
d around it: 4/9 of the multiplications for t = 2, a quarter for t = 4. The products are one matrix
product for each of the (t + 2)^2 places in a tile. The gradients are the transposed steps. With e
the gradient of a tile's outputs, the kernel's is G^T [(B^T d B) . (A e A^T)] G, summed over tiles;
that of the inputs is B [(G g G^T) . (A e A^T)] B^T, added up where tiles overlap.

Largest error relative to the largest entry in float32, standard normal inputs and weights, with
AVX-512. t = 2 rounds about as a direct convolution: outputs 2e-7 from 16 channels, 4e-7 from 512,
8e-7 from 2048 (direct: 5e-7, 3e-7, 5e-7), gradients 5e-7. t = 4 loses about one digit: outputs 3e-6
from 16 channels, 8e-6 from 256, 1.2e-5 from 2048; gradients 3e-6 from 12x12 pixels, 8e-6 from
64x64. With AVX2 alone, whose products have longer sums, t = 4 gives outputs 3e-6, 1.1e-5 and 4e-5
(direct: 4e-7 to 1.1e-6), gradients the same.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float


class _Form(NamedTuple):
    """Matrices of a tile."""

    input: tuple[tuple[int, ...], ...]
    """B^T."""
    kernel: tuple[tuple[float, ...], ...]
    """G."""
    output: tuple[tuple[int, ...], ...]
    """A^T."""


_FORMS = {
    2: _Form(
        input=((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),
        kernel=((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1)),
        output=((1, 1, 1, 0), (0, 1, -1, -1)),
    ),
    4: _Form(
        input=(
            (4, 0, -5, 0, 1, 0),
            (0, -4, -4, 1, 1, 0),
            (0, 4, -4, -1, 1, 0),
            (0, -2, -1, 2, 1, 0),
            (0, 2, -1, -2, 1, 0),
            (0, 4, 0, -5, 0, 1),
        ),
        kernel=(
            (1 / 4, 0, 0),
            (-1 / 6, -1 / 6, -1 / 6),
            (-1 / 6, 1 / 6, -1 / 6),
            (1 / 24, 1 / 12, 1 / 6),
            (1 / 24, -1 / 12, 1 / 6),
            (0, 0, 1),
        ),
        output=((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1)),
    ),
}
"""By the side of a tile of outputs."""


def transform_kernel(kernel: Float[Array, "3 3 i o"], side: int) -> Float[Array, "p p i o"]:
    """Return G g G^T of every pair of channels, which `conv3x3` takes; p = `side` + 2 is 4 or 6."""
    matrix = np.kron(_FORMS[side].kernel, _FORMS[side].kernel)
    flat = kernel.reshape(9, -1)
    transformed = jnp.matmul(jnp.asarray(matrix, kernel.dtype), flat, precision="highest")
    return transformed.reshape(side + 2, side + 2, *kernel.shape[2:])


def tiles(shape: tuple[int, ...], side: int) -> int:
    """Return how many tiles a convolution of (b, h, w, c) takes."""
    return shape[0] * _along(shape[1], side) * _along(shape[2], side)


def _along(length: int, side: int) -> int:
    return -(-length // side)


def conv3x3(
    x: Float[Array, "b h w i"], transformed: Float[Array, "p p i o"]
) -> Float[Array, "b h w o"]:
    """Return the convolution at stride 1 with a border of one zero, of any height and width.

    Args:
      transformed: of `transform_kernel`.
    """
    side = len(transformed) - 2
    batch, height, width, _ = x.shape
    tall, wide = _along(height, side), _along(width, side)
    products = _products(_of_inputs(x, side), _flat(transformed), (2, 1))
    products = products.reshape(side + 2, side + 2, batch, tall, wide, -1)
    # By rows, then by columns: (p, b, n, t, m, o), (b, n, t, m, t, o).
    y = jnp.stack(_combine(_FORMS[side].output, list(products)), 3)
    y = jnp.stack(_combine(_FORMS[side].output, list(y)), 4)
    return y.reshape(batch, side * tall, side * wide, -1)[:, :height, :width]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def trained3x3(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"], side: int
) -> Float[Array, "b h w o"]:
    """Return `conv3x3` by tiles of `side`; its gradients take the same tiles, as cheaply.

    They transform inputs and kernel again instead of keeping what is (t + 2)^2 / t^2 and
    (t + 2)^2 / 9 times as large: a step of ResNet-50 takes 1.02 times as long, and two thirds of
    the memory.
    """
    return conv3x3(x, transform_kernel(kernel, side))


def _backward(side: int, inputs: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    # XLA would find that the forward pass has transformed them, and keep it until here.
    one = 1 + 0 * gradient[:, 0, 0, 0].sum()
    x, kernel = (one * each for each in inputs)
    transformed, pull = jax.vjp(functools.partial(transform_kernel, side=side), kernel)
    batch, height, width, _ = x.shape
    tall, wide = _along(height, side), _along(width, side)
    edges = (side * tall - height, side * wide - width)
    g = jnp.pad(gradient, ((0, 0), (0, edges[0]), (0, edges[1]), (0, 0)))
    # By columns, then by rows: (p, b, h, m, o), (p, p, b, n, m, o).
    transposed = list(zip(*_FORMS[side].output, strict=True))
    of_products = jnp.stack(_combine(transposed, [g[:, :, j::side] for j in range(side)]))
    of_products = jnp.stack(_combine(transposed, [of_products[:, :, i::side] for i in range(side)]))
    of_products = _flat(of_products)
    of_kernel = _products(_of_inputs(x, side), of_products, (1, 1))
    of_tiles = _products(of_products, _flat(transformed), (2, 2))
    of_tiles = of_tiles.reshape(side + 2, side + 2, batch, tall, wide, -1)
    # By rows, then by columns: (p, b, t n, m, i), (b, t n, t m, i).
    transposed = list(zip(*_FORMS[side].input, strict=True))
    of_x = _overlapping(_combine(transposed, list(of_tiles)), 2)
    of_x = _overlapping(_combine(transposed, list(of_x)), 2)
    return of_x[:, :height, :width], pull(of_kernel.reshape(transformed.shape))[0]


trained3x3.defvjp(lambda x, kernel, side: (trained3x3(x, kernel, side), (x, kernel)), _backward)


def _of_inputs(x: Array, side: int) -> Array:
    """Return B^T d B of all tiles: (p^2, b n m, i)."""
    matrix = _FORMS[side].input
    height, width = x.shape[1:3]
    n, m = _along(height, side), _along(width, side)
    x = jnp.pad(x, ((0, 0), (1, side * n + 1 - height), (1, side * m + 1 - width), (0, 0)))

    def taken(count: int, first: int) -> slice:
        return slice(first, first + side * (count - 1) + 1, side)

    # By columns, then by rows: (p, b, h, m, i), (p, p, b, n, m, i).
    v = jnp.stack(_combine(matrix, [x[:, :, taken(m, j)] for j in range(side + 2)]))
    v = jnp.stack(_combine(matrix, [v[:, :, taken(n, i)] for i in range(side + 2)]))
    return _flat(v)


def _flat(x: Array) -> Array:
    """Return (p^2, n, c) of (p, p, ..., c)."""
    return x.reshape(len(x) ** 2, -1, x.shape[-1])


def _products(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """Return a product of matrices for each place of a tile, over an axis of each."""
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
    """Return the sum of tiles that overlap by two, without what is outside of the image.

    Args:
      pieces: each of the places in a tile, all tiles of it along `axis`.
    """
    shape, side = pieces[0].shape, len(pieces) - 2

    def moved(piece: Array, by: int) -> Array:
        edges = [(0, 0, 0)] * len(shape)
        edges[axis] = (by, -by, 0)
        return lax.pad(piece, jnp.zeros((), piece.dtype), edges)

    first = pieces[1] + moved(pieces[-1], 1)
    last = pieces[-2] + moved(pieces[0], -1)
    joined = jnp.stack([first, *pieces[2:-2], last], axis + 1)
    return joined.reshape(*shape[:axis], side * shape[axis], *shape[axis + 1 :])
