"""Ranking loss of YouTube3D: the hardest three quarters of all pairs of an image.

Source: the code published with Chen et al., "Learning Single-Image Depth from Videos using Quality
Assessment Networks", CVPR 2019 (`RelativeLoss` with `b_sort=True`), which names the loss of Xian et
al., CVPR 2018, but differs: equal and unequal pairs are sorted together, per image and not per
batch, and equal pairs are dropped as well. The sum is divided by the number kept in the batch.
Axes: b batch, n point pairs. Units: none. Sign: relation +1 means that the first point is farther.
Deviations from that code: softplus in place of log(1 + exp(x)), which overflows; of equal losses
the later pair is dropped; the ratio test compares products and needs no 1e-11.
Invariant to adding a constant to the scores of an image and to the scale of depth.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.errors import UserError
from reldepth_jax.losses.ranking import labelled_pair_losses, mean_of_kept
from reldepth_jax.ops.smallest import smallest_mask
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Compares, Pairs


@LOSSES.register("youtube3d")
@dataclasses.dataclass(frozen=True, kw_only=True)
class YouTube3DLoss:
    """Mean over the largest losses of each image, whatever the relation."""

    compares: ClassVar[tuple[Compares, ...]] = ("relations",)

    sigma: float = 0.02
    keep: float = 0.75
    """Share of an image's valid pairs that are kept, rounded down: of a single pair none."""

    def __post_init__(self):
        if self.sigma < 0:
            raise UserError(f"loss.sigma must be at least 0, got {self.sigma}")
        if not 0 < self.keep <= 1:
            raise UserError(f"loss.keep must be in (0, 1], got {self.keep}")

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol."""
        losses, _, counted = labelled_pair_losses(score, batch, pairs, sigma=self.sigma)
        number = jnp.floor(self.keep * jnp.sum(counted, axis=1)).astype(jnp.int32)
        kept = smallest_mask(jnp.where(counted, -losses, jnp.inf), number)
        return mean_of_kept(losses, kept, "pairs")
