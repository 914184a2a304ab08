"""Ranking loss for pairs that another network ordered, as sure as it was.

Source: the cross entropy of RankNet, Burges et al., "Learning to Rank using Gradient Descent", ICML
2005, Eq. (3). A teacher says that one point of a pair is farther, with probability p =
sigmoid(|z - z'| / T) for its scores z and its temperature T (`metrics.confidence`). With d, the
student's score of that point minus that of the other:

- "targets": -p log sigmoid(d) - (1 - p) log sigmoid(-d) = log(1 + exp(-d)) + (1 - p) d. This is
  what Eq. (3) of Xian et al. (CVPR 2018) is on average, if the teacher errs as often as it says.
  Least at d = |z - z'| / T: the student learns distances of scores too. There are no equal pairs.
- "weights": the loss of Xian et al., each pair weighed by 2 p - 1: 0 where the teacher would toss a
  coin, 1 where it is sure. The gradient of "targets" at a pair that the student has not ordered,
  d = 0, is -(2 p - 1) / 2, that of the weighed loss. Least at d = inf: the order alone counts.
  Equal pairs (of one place in the range of the map, within sigma) are weighed likewise.

Images whose depth was measured have p = 1, and so the loss of Xian et al. with nothing dropped.
Axes: b batch, n point pairs. Units: none. Sign: the score grows with distance.
The sum is divided by the sum of the weights.
Invariant to adding a constant to all scores of an image, and to scale and shift of the teacher's
scores if its temperature is scaled too.
"""

import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from reldepth_jax.errors import UserError
from reldepth_jax.losses.ranking import pair_loss
from reldepth_jax.ops.pairs import gather, label
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import UNKNOWN, Batch, Compares, Pairs


@LOSSES.register("distillation")
@dataclasses.dataclass(frozen=True, kw_only=True)
class DistillationLoss:
    """The ranking loss of the step's pairs, with what the teacher knows of its own errors."""

    compares: ClassVar[tuple[Compares, ...]] = ("relations",)
    needs: ClassVar[tuple[str, ...]] = ("certainty",)

    sigma: float = 0.02
    """Depths whose ratio is within 1 + sigma are equal; of a teacher's maps, with "weights" alone,
    values within that share of the range."""
    confidence: Literal["targets", "weights"] = "targets"

    def __post_init__(self):
        if self.sigma < 0:
            raise UserError(f"loss.sigma must be at least 0, got {self.sigma}")

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. Without `certainty` all was measured."""
        relation, counted = label(batch, pairs, sigma=self.sigma)
        score_i, score_j = (
            jnp.where(counted, each, 0.0) for each in gather(score.astype(jnp.float32), pairs)
        )
        log_odds = _log_odds(batch, pairs, counted)
        losses = pair_loss(score_i, score_j, relation)
        weights = counted.astype(jnp.float32)
        if self.confidence == "weights":
            weights *= jnp.tanh(jnp.abs(log_odds) / 2)
        else:
            difference = score_i - score_j
            # Of the first point, which is the same: p and d change for 1 - p and -d.
            wrong = jax.nn.sigmoid(-log_odds)
            soft = jax.nn.softplus(-difference) + wrong * difference
            losses = jnp.where(jnp.isinf(log_odds), losses, soft)
        total = jnp.sum(weights)
        mean = jnp.sum(weights * losses) / jnp.where(total > 0, total, 1.0)
        return jnp.where(total > 0, mean, 0.0)


def _log_odds(batch: Batch, pairs: Pairs, counted: Bool[Array, "b n"]) -> Float[Array, "b n"]:
    """Return the log odds that the first point is farther; inf where the relation is certain."""
    if "certainty" not in batch:
        return jnp.full(counted.shape, jnp.inf)
    depth_i, depth_j = (
        jnp.where(counted, each, 1.0) for each in gather(batch["depth"].astype(jnp.float32), pairs)
    )
    certainty = batch["certainty"][:, None]
    if pairs.relation is not None:
        # What annotators said is certain.
        certainty = jnp.where(pairs.relation == UNKNOWN, certainty, jnp.inf)
    # Two infinite depths, or two of zero, are equal.
    ratio = jnp.where(depth_i == depth_j, 0.0, jnp.log(depth_i) - jnp.log(depth_j))
    return jnp.where(jnp.isinf(certainty) | jnp.isinf(ratio), jnp.inf, certainty * ratio)
