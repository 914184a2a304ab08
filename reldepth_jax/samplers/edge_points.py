"""Point pairs across an edge: four points on the normal of an anchor, two on each side.

Source: Xian et al., "Structure-Guided Ranking Loss for Single Image Depth Prediction", CVPR 2020,
Section 3.3, Eq. (5) and Algorithm 1, and the authors' code. Of the points a, b | c, d the pairs are
(a, b), (b, c) and (c, d): one on each side, and one across.
Axes: b h w, n pairs, k anchors. Gradients are in pixels, the row one grows downwards.
Deviations from the code: (1) it divides indices without rounding, which under current PyTorch puts
every anchor into the first column; here anchors are where the edges are. (2) Its row gradient
grows upwards while its rows grow downwards, so that the points of a slanted edge lie along
its mirror image; here they lie across the edge. (3) A pair whose points coincide (equal distances,
rounding, the border of the image) is invalid; there it counts as an equal pair without loss.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from reldepth_jax.errors import UserError
from reldepth_jax.samplers.masked_draws import draw_pixels
from reldepth_jax.types import Pairs

ACROSS = 1
"""Pair number `i` is across the edge where `i % 3` is this; other pairs are on one side of it."""


def sobel(
    neighbour: Callable[[int, int], Int[Array, "b _h _w"]],
) -> tuple[Float[Array, "b h w"], Float[Array, "b h w"]]:
    """Return the row and the column gradient of Sobel's operator; 0 on the border of the image.

    Args:
      neighbour: (rows, columns) -> the values so far down and to the right of each inner pixel.
    """

    def line(row: int, column: int) -> Array:
        """Sum the three neighbours in a direction, the middle one twice."""
        sides = [(row, 1), (row, -1)] if row else [(1, column), (-1, column)]
        return 2 * neighbour(row, column) + neighbour(*sides[0]) + neighbour(*sides[1])

    gradients = line(1, 0) - line(-1, 0), line(0, 1) - line(0, -1)
    down, right = (
        jnp.pad(gradient, ((0, 0), (1, 1), (1, 1))).astype(jnp.float32) for gradient in gradients
    )
    return down, right


def neighbours(values: Int[Array, "b h w"]) -> Callable[[int, int], Int[Array, "b _h _w"]]:
    """Return what `sobel` takes for a map of numbers."""
    height, width = values.shape[1:]
    return lambda row, column: values[
        :, 1 + row : height - 1 + row, 1 + column : width - 1 + column
    ]


def pairs_across_edges(
    key: Key[Array, ""],
    gradient: tuple[Float[Array, "b h w"], Float[Array, "b h w"]],
    edge: Bool[Array, "b h w"],
    mask: Bool[Array, "b h w"],
    *,
    num_pairs: int,
    distances: tuple[int, int],
) -> Pairs:
    """Return `num_pairs` pairs an image, those of one anchor after those of another.

    Args:
      gradient: row and column gradient, not 0 where there is an edge; c and d lie up the gradient.
      edge: where anchors may lie; all are equally likely and drawn with replacement.
      mask: pixels with ground truth; pairs with another point are invalid.
      distances: smallest and largest distance of a point from its anchor, both included; the four
        are drawn independently and not sorted. Points outside the image are moved to its border.

    Of the last anchor there are fewer than three pairs if `num_pairs` is no multiple of 3. An image
    without edges has no valid pair.
    """
    images, height, width = mask.shape
    number = -(-num_pairs // 3)
    anchor_key, distance_key = jax.random.split(key)
    anchor, found = draw_pixels(anchor_key, edge.reshape(images, -1), number)
    down, right = (
        jnp.take_along_axis(g.reshape(images, -1), anchor, axis=1)[..., None] for g in gradient
    )
    low, high = distances
    distance = jax.random.randint(distance_key, (images, number, 4), low, high + 1)
    distance *= jnp.array([-1, -1, 1, 1]).reshape(1, 1, 4)
    # Gradients are whole numbers: the smallest length but 0 is 1.
    step = distance / jnp.maximum(jnp.hypot(down, right), 1)
    row = anchor[..., None] // width + jnp.round(step * down).astype(jnp.int32)
    column = anchor[..., None] % width + jnp.round(step * right).astype(jnp.int32)
    point = jnp.clip(row, 0, height - 1) * width + jnp.clip(column, 0, width - 1)
    first = point[..., :3].reshape(images, -1)[:, :num_pairs]
    second = point[..., 1:].reshape(images, -1)[:, :num_pairs]
    measured = jnp.take_along_axis(mask.reshape(images, -1), first, axis=1)
    measured &= jnp.take_along_axis(mask.reshape(images, -1), second, axis=1)
    return Pairs(first, second, found & measured & (first != second))


def require_distances(distances: tuple[int, int]) -> None:
    """Raise UserError unless these are a smallest and a largest distance."""
    low, high = distances
    if not 1 <= low <= high <= 2**15:
        raise UserError(
            f"pairs.distances must be 1 <= smallest <= largest <= {2**15}, got {low}, {high}"
        )
