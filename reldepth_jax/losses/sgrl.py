"""Ranking loss of structure-guided sampling (SGRL).

Source: Xian et al., "Structure-Guided Ranking Loss for Single Image Depth Prediction", CVPR 2020,
and its published code: per image alpha * mean([l = 0] (z_i - z_j)^2) + mean([l != 0] log(1 +
exp(-(z_i - z_j) l))), both means over all valid pairs, those of the other kind as zeros. So equal
pairs weigh by their share, and no easy pair is dropped. Labels: ratio of (disparity + 1e-6) over
1 + sigma, sigma = 0.03.
Axes: b batch, n point pairs. Units: none. Sign: relation +1 means that the first point is farther.
Deviations from the published code: (1) it draws its own pairs; here they are those of the
configured sampler, edge-guided or not, and annotated relations are kept. (2) Its means run
over pairs without ground truth, too; here over the valid ones, and over the images that have any.
(3) Disparity is relative to the nearest valid pixel of the image, whatever the unit of the map.
(4) A ratio of exactly 1 + sigma is unequal there, equal here. (5) Its masks of consistent optical
flow are the batch's mask. (6) No gradient term: it is commented out there; `sum` adds
`gradient_matching`. (7) softplus, where log(1 + exp(x)) overflows.
Invariant to adding a constant to the scores of an image and to the scale of depth.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.errors import UserError
from reldepth_jax.losses.ranking import labelled_pair_losses, mean_of_kept
from reldepth_jax.ops.normalise import relative_disparity
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Compares, Pairs

_SMALLEST_DISPARITY = 1e-6


@LOSSES.register("sgrl")
@dataclasses.dataclass(frozen=True, kw_only=True)
class StructureGuidedRankingLoss:
    """Two means over all valid pairs of an image, averaged over images."""

    compares: ClassVar[tuple[Compares, ...]] = (
        "relations",
        "inverse depth",
    )

    sigma: float = 0.03
    alpha: float = 1.0
    """Weight of the equal pairs."""

    def __post_init__(self):
        for name, value in (("sigma", self.sigma), ("alpha", self.alpha)):
            if value < 0:
                raise UserError(f"loss.{name} must be at least 0, got {value}")

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol."""
        disparity = relative_disparity(batch["depth"], batch["mask"])
        capped: Batch = {**batch, "depth": 1 / (disparity + _SMALLEST_DISPARITY)}
        losses, relation, counted = labelled_pair_losses(score, capped, pairs, sigma=self.sigma)
        weighted = jnp.where(relation == 0, self.alpha * losses, losses)
        return mean_of_kept(weighted, counted, "images")
