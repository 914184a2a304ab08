"""Errors of values on normalised depth: "L1" and "L2" of the paper's Table 3.

Source: Xian et al., CVPR 2018, Section 4.3 and Table 3. Axes: b h w. Units: none, see
`ops.normalise`. Sign: larger is farther.
Deviation: the paper does not say how depth is normalised; the default is what its 8-bit maps hold.
Invariant to the scale of depth, except for normalisation "none"; to nothing in the score.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.ops.normalise import Normalisation, normalise_depth
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Compares, Pairs


@LOSSES.register("mae")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanAbsoluteError:
    """|z - normalised depth|, averaged over all valid pixels of the batch."""

    normalisation: Literal[
        "inverse_minmax", "minmax", "inverse_median_mad", "median_mad", "none"
    ] = "inverse_minmax"
    """What the score is compared with, see `ops.normalise`; "none": depth in its own unit. The
    losses of `losses.ssi` align the score with the depth; this one does not."""

    @property
    def compares(self) -> tuple[Compares, ...]:
        """Depth or inverse depth."""
        return _compares(self.normalisation)

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. Pairs are not used."""
        return _mean(jnp.abs(_error(score, batch, self.normalisation)), batch)


@LOSSES.register("mse")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanSquaredError:
    """(z - normalised depth)^2, averaged over all valid pixels of the batch."""

    normalisation: Literal[
        "inverse_minmax", "minmax", "inverse_median_mad", "median_mad", "none"
    ] = "inverse_minmax"
    """As of `mae`."""

    @property
    def compares(self) -> tuple[Compares, ...]:
        """Depth or inverse depth."""
        return _compares(self.normalisation)

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. Pairs are not used."""
        return _mean(jnp.square(_error(score, batch, self.normalisation)), batch)


def _compares(normalisation: Normalisation) -> tuple[Compares, ...]:
    return ("inverse depth",) if normalisation.startswith("inverse_") else ("values",)


def _error(
    score: Float[Array, "b h w"], batch: Batch, normalisation: Normalisation
) -> Float[Array, "b h w"]:
    target = normalise_depth(batch["depth"], batch["mask"], normalisation)
    return jnp.where(batch["mask"], score - target, 0.0)


def _mean(error: Float[Array, "b h w"], batch: Batch) -> Float[Array, ""]:
    return jnp.sum(error) / jnp.maximum(jnp.sum(batch["mask"]), 1)
