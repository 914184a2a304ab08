"""Listwise ranking by the Plackett-Luce model (ListMLE).

Source: Lienen et al., "Monocular Depth Estimation via Listwise Ranking using the Plackett-Luce
Model", CVPR 2021, and its published code. Of points in order of distance, the nearest first, with
d = -score: sum_i [log sum_{j >= i} exp(d_j) - d_i], the negative log-likelihood of that order; mean
over lists.
Axes: b batch, n point pairs, k points of a list. Units: none. Sign: d is minus the score, so that
the score grows with distance. The model is not symmetric: to draw the nearest point first is what
the published code does with ground truth in disparity.
Deviations: (1) lists are `ranking_size` consecutive first points of the step's pairs; what is left
over is not used, nor are annotated relations. (2) The model knows no ties: the published sampler
draws more lists than it needs and puts those with points within 3 % last; here a point within 3 %
of the one before it abstains, and the list gets shorter. (3) Lists with fewer than two points left
are not counted. As published, a list is not divided by its length.
Invariant to adding a constant to the scores of an image and to the scale of depth.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reldepth_jax.errors import UserError
from reldepth_jax.ops.pairs import gather
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Compares, Pairs

_ABSENT = -1e30
"""In place of minus infinity, whose differences are not defined; below any score that counts."""


def list_mle(worth: Float[Array, "*l k"], where: Bool[Array, "*l k"]) -> Float[Array, "*l"]:
    """Return minus the log-likelihood of each list's order, over the points in `where`.

    sum_i [log sum_{j >= i} exp(worth_j) - worth_i]; 0 for fewer than two points.
    """
    present = jnp.where(where, worth, _ABSENT)
    rest = jax.lax.cumlogsumexp(present, axis=present.ndim - 1, reverse=True)
    return jnp.sum(jnp.where(where, rest - present, 0.0), axis=-1)


@LOSSES.register("plackett_luce")
@dataclasses.dataclass(frozen=True, kw_only=True)
class PlackettLuceLoss:
    """`list_mle` of lists of points, nearest first, averaged over the lists of the batch."""

    compares: ClassVar[tuple[Compares, ...]] = ("order",)

    ranking_size: int = 5
    """Points of a list."""
    tie: float = 0.03
    """Depths whose ratio is within 1 + tie have no order."""

    def __post_init__(self):
        if self.ranking_size < 2:
            raise UserError(f"loss.ranking_size must be at least 2, got {self.ranking_size}")
        if self.tie < 0:
            raise UserError(f"loss.tie must be at least 0, got {self.tie}")

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. UserError if no list is full."""
        size, available = self.ranking_size, pairs.first.shape[1]
        if available < size:
            raise UserError(
                f"loss.ranking_size is {size}, but the sampler gives {available} pairs an image"
            )

        def lists(values: Array) -> Array:
            return values[:, : available // size * size].reshape(-1, size)

        valid = lists(pairs.valid & gather(batch["mask"], pairs)[0])
        depth = jnp.where(valid, lists(gather(batch["depth"], pairs)[0]), jnp.inf)
        worth = jnp.where(valid, -lists(gather(score.astype(jnp.float32), pairs)[0]), 0.0)
        # Not by depth alone: the sky is as far as what is left out.
        order = jnp.lexsort((depth, ~valid), axis=1)
        valid, depth, worth = (
            jnp.take_along_axis(values, order, axis=1) for values in (valid, depth, worth)
        )
        apart = depth[:, 1:] > (1 + self.tie) * depth[:, :-1]
        where = valid & jnp.pad(apart, ((0, 0), (1, 0)), constant_values=True)
        counted = jnp.sum(where, axis=1) >= 2
        total = jnp.sum(jnp.where(counted, list_mle(worth, where), 0.0))
        return total / jnp.maximum(jnp.sum(counted), 1)
