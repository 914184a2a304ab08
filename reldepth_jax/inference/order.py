"""Which of two points of a photograph is nearer, and how sure that is."""

import math
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float32

from reldepth_jax.errors import UserError
from reldepth_jax.metrics.confidence import confidence

Point = tuple[int | float, int | float]
"""x to the right and y down, in pixels of the photograph as it is displayed: (0.0, 0.0) is the
corner at the top left, and all of the first pixel is x and y from 0 up to, not including, 1."""


class Order(NamedTuple):
    """The answer for two points."""

    nearer: Literal["first", "second"] | None
    """None: both have the same score."""
    confidence: float | None
    """Probability in [0.5, 1] that this is right, as fitted on validation pairs
    (docs/evaluation.md); None if no temperature was fitted for the network."""


def order(
    score: Float32[np.ndarray, "h w"], first: Point, second: Point, temperature: float | None
) -> Order:
    """Compare two points of a map that grows with distance.

    Raises UserError for a point outside, or for what is none.
    """
    difference = float(_at(score, first)) - float(_at(score, second))
    nearer = None if not difference else "first" if difference < 0 else "second"
    sure = None
    if temperature is not None:
        sure = float(confidence(np.array([difference]), temperature)[0])
    return Order(nearer, sure)


def _at(score: Float32[np.ndarray, "h w"], point: Point) -> np.float32:
    height, width = score.shape
    try:
        x, y = map(float, point)
    except (TypeError, ValueError):
        raise UserError(f"a point is (x, y) in pixels of the photograph, got {point!r}") from None
    if not (0 <= x < width and 0 <= y < height):
        raise UserError(
            f"the point ({x:g}, {y:g}) is outside the photograph of {width}x{height}: x is from 0"
            f" to {width - 1}, y from 0 to {height - 1}"
        )
    return score[math.floor(y), math.floor(x)]
