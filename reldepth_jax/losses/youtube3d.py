"""Ranking loss of YouTube3D: the hardest three quarters of all pairs of an image, or all of them.

Source: the code published with Chen et al., "Learning Single-Image Depth from Videos using Quality
Assessment Networks", CVPR 2019 (`RelativeLoss` with `b_sort=True`), which names the loss of Xian et
al., CVPR 2018, but differs. As it is written ("sort and take the top 75 percent"), equal and
unequal pairs are sorted together, per image and not per batch, equal pairs are dropped as well, and
the sum is divided by the number kept in the batch: selection "hardest". As it is executed, nothing
is dropped: it takes the first three quarters of the rows of an array of one row. The sum over all
pairs is divided by the number that would have been kept, 4/3 of the mean: selection "none".
Axes: b batch, n point pairs. Units: none. Sign: relation +1 means that the first point is farther.
Deviations from that code: softplus in place of log(1 + exp(x)), which overflows; of equal losses
the later pair is dropped; the ratio test compares products and needs no 1e-11; 0, where it divides
by zero, if no pair would have been kept.
Invariant to adding a constant to the scores of an image and to the scale of depth.
"""

import dataclasses
from typing import ClassVar, Literal

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
    """Mean over the largest losses of each image, or a multiple of that over all of them."""

    compares: ClassVar[tuple[Compares, ...]] = ("relations",)

    sigma: float = 0.02
    keep: float = 0.75
    """Share of an image's valid pairs that are kept, rounded down: of a single pair none."""
    selection: Literal["hardest", "none"] = "hardest"
    """hardest: the others are dropped, what the published code is written to do. none: nothing is
    dropped and the sum divided by the number that `keep` gives, what it does."""

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
        if self.selection == "none":
            total, kept = jnp.sum(jnp.where(counted, losses, 0.0)), jnp.sum(number)
            return jnp.where(kept > 0, total / jnp.maximum(kept, 1), 0.0)
        kept = smallest_mask(jnp.where(counted, -losses, jnp.inf), number)
        return mean_of_kept(losses, kept, "pairs")
