"""Mean squared error on normalised depth: "L2" in the paper's Table 3.

Source: Xian et al., CVPR 2018, Section 4.3 and Table 3. Axes: b h w. Units: none, see
`ops.normalise`. Sign: larger is farther.
Deviation: the paper does not say how depth is normalised; the default is what its 8-bit maps hold.
Invariant to the scale of depth, but for normalisation "none"; to nothing in the score.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.ops.normalise import normalise_depth
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Pairs


@LOSSES.register("mse")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanSquaredError:
    """(z - normalised depth)^2, averaged over all valid pixels of the batch."""

    normalisation: Literal[
        "inverse_minmax", "minmax", "inverse_median_mad", "median_mad", "none"
    ] = "inverse_minmax"
    """What the score is compared with, see `ops.normalise`; "none": depth in its own unit. The
    score is taken as it is: losses that align it with the depth are in `losses.ssi`."""

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. Pairs are not used."""
        target = normalise_depth(batch["depth"], batch["mask"], self.normalisation)
        error = jnp.square(jnp.where(batch["mask"], score - target, 0.0))
        return jnp.sum(error) / jnp.maximum(jnp.sum(batch["mask"]), 1)
