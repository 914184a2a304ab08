"""Improved ranking loss for relative depth.

Source: Xian et al., "Monocular Relative Depth Perception with Web Stereo Data Supervision", CVPR
2018, Section 3.2, Eqs. (1)-(3); with `drop_easiest=0` that of Chen et al., "Single-Image
Depth Perception in the Wild", NIPS 2016.
Axes: *b batch, n point pairs. Units: depth positive, up to scale; score unitless.
Sign: relation +1 means that the first point is farther; score grows with distance.
Deviations: (1) Eq. (2) is a plain sum; here it is divided by the sum of the weights, so that the
value depends neither on n nor on the share of valid pixels (see `average`). (2) "At each iteration"
is read as: the losses of the whole batch are ranked together. (3) A quarter of the pairs is rounded
down.
Invariant to adding a constant to all scores of an image and to the scale of depth. Not to the scale
of scores, nor to other monotone maps of them: the differences count.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from reldepth_jax.errors import UserError
from reldepth_jax.ops.pairs import gather, label
from reldepth_jax.ops.smallest import smallest_mask
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Compares, Pairs


def pair_loss(
    score_i: Float[Array, "*b n"], score_j: Float[Array, "*b n"], relation: Int[Array, "*b n"]
) -> Float[Array, "*b n"]:
    """Eq. (3): log(1 + exp(-(z_i - z_j) l)) where l != 0, (z_i - z_j)^2 where l == 0."""
    difference = score_i - score_j
    # Not log(1 + exp(x)): that is inf from x = 89 in float32. Each branch sees a zero where the
    # other one counts, so that an overflow in it cannot reach the gradient.
    unequal = relation != 0
    logistic = jax.nn.softplus(-jnp.where(unequal, difference, 0.0) * relation)
    square = jnp.square(jnp.where(unequal, 0.0, difference))
    return jnp.where(unequal, logistic, square)


def labelled_pair_losses(
    score: Float[Array, "b h w"], batch: Batch, pairs: Pairs, *, sigma: float
) -> tuple[Float[Array, "b n"], Int[Array, "b n"], Bool[Array, "b n"]]:
    """Return `pair_loss` and relation of each pair, and which count; see `ops.pairs.label`."""
    relation, counted = label(batch, pairs, sigma=sigma)
    score_i, score_j = gather(score.astype(jnp.float32), pairs)
    losses = pair_loss(jnp.where(counted, score_i, 0.0), jnp.where(counted, score_j, 0.0), relation)
    return losses, relation, counted


def ranking_loss(
    score_i: Float[Array, "*b n"],
    score_j: Float[Array, "*b n"],
    relation: Int[Array, "*b n"],
    *,
    where: Bool[Array, "*b n"],
    drop_easiest: float = 0.25,
    average: Literal["pairs", "images"] = "pairs",
) -> Float[Array, ""]:
    """Eq. (2) over the valid pairs of the batch, as the mean over the kept ones.

    Args:
      where: pairs with ground truth at both points; others get no loss and no gradient.
      drop_easiest: share of the valid unequal pairs, smallest loss first, that get weight 0 ("we
        empirically set the smallest 25 %"). Of equal losses the earlier pair is dropped.
      average: "pairs": every kept pair counts the same. "images": every image (all axes but the
        last) that kept a pair counts the same, whether it has one annotated pair or 3000.

    Returns: 0 if no pair is kept. Raises ValueError if drop_easiest is outside [0, 1).
    """
    if not 0 <= drop_easiest < 1:
        raise ValueError(f"drop_easiest must be in [0, 1), got {drop_easiest}")
    losses = pair_loss(jnp.where(where, score_i, 0.0), jnp.where(where, score_j, 0.0), relation)
    kept = where
    if drop_easiest > 0:
        unequal = where & (relation != 0)
        dropped = jnp.floor(drop_easiest * jnp.sum(unequal)).astype(jnp.int32)
        easiest = smallest_mask(jnp.where(unequal, losses, jnp.inf).ravel(), dropped)
        kept &= ~easiest.reshape(losses.shape)
    return mean_of_kept(losses, kept, average)


def mean_of_kept(
    losses: Float[Array, "*b n"], kept: Bool[Array, "*b n"], average: Literal["pairs", "images"]
) -> Float[Array, ""]:
    """Return the mean over the kept pairs, or over the images that kept any; 0 if none is kept."""
    axis = -1 if average == "images" else None
    total = jnp.sum(jnp.where(kept, losses, 0.0), axis=axis)
    count = jnp.sum(kept, axis=axis)
    return jnp.sum(total / jnp.maximum(count, 1)) / jnp.maximum(jnp.sum(count > 0), 1)


@LOSSES.register("ranking")
@dataclasses.dataclass(frozen=True, kw_only=True)
class RankingLoss:
    """`ranking_loss` of the step's pairs, labelled by `ops.pairs.label`."""

    compares: ClassVar[tuple[Compares, ...]] = ("relations",)

    sigma: float = 0.02
    drop_easiest: float = 0.25
    average: Literal["pairs", "images"] = "pairs"

    def __post_init__(self):
        if self.sigma < 0:
            raise UserError(f"loss.sigma must be at least 0, got {self.sigma}")
        if not 0 <= self.drop_easiest < 1:
            raise UserError(f"loss.drop_easiest must be in [0, 1), got {self.drop_easiest}")

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol."""
        relation, counted = label(batch, pairs, sigma=self.sigma)
        score_i, score_j = gather(score.astype(jnp.float32), pairs)
        return ranking_loss(
            score_i,
            score_j,
            relation,
            where=counted,
            drop_easiest=self.drop_easiest,
            average=self.average,
        )
