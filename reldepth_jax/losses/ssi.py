"""Scale- and shift-invariant losses in disparity: MSE, MAE and trimmed MAE.

Source: Ranftl et al., "Towards Robust Monocular Depth Estimation: Mixing Datasets for Zero-Shot
Cross-Dataset Transfer" (MiDaS), TPAMI 2020, Eqs. (1)-(7): 1/(2M) sum rho(d_i - d*_i) over the M
valid pixels of an image, d the aligned prediction, d* the aligned ground truth; mean over images.
Axes: b h w. Units: none; disparity is inverse depth, 0 for sky. Sign: the prediction is minus the
score, so that the score grows with distance.
Deviations: (1) ground truth is scaled to [0, 1] per image, as the paper does in training: Eq. (2)
would depend on its unit. (2) An image whose valid depths are all the same has no scale to compare:
it is left out, of the mean as well. (3) A constant prediction aligns to a constant, without
gradient.
Invariant per image to scale and shift of the score and of the ground truth's disparity: scale a > 0
of both; `ssi_mse` also to a < 0 of the score.
"""

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.errors import UserError
from reldepth_jax.losses.aligned import aligned_residual, mean_of_images
from reldepth_jax.ops.smallest import smallest_mask
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Compares, Pairs


@LOSSES.register("ssi_mse", either_sign=True)
@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleShiftInvariantMSE:
    """Eqs. (1)-(4): rho(x) = x^2, scale and shift of the prediction by least squares.

    The scale may be negative, as published: **a score of the wrong sign costs nothing**. Beside
    another loss, as in `sum`, or from weights of the right sign it keeps to the sign it has.
    """

    compares: ClassVar[tuple[Compares, ...]] = ("inverse depth",)

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. Pairs are not used."""
        residual, mask = aligned_residual(score, batch, "least_squares")
        return mean_of_images(jnp.sum(jnp.square(residual), axis=(1, 2)) / 2, mask)


@LOSSES.register("ssi_mae")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleShiftInvariantMAE:
    """Eqs. (1), (5), (6): rho(x) = |x|, both sides by median and mean absolute deviation."""

    compares: ClassVar[tuple[Compares, ...]] = ("inverse depth",)

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. Pairs are not used."""
        residual, mask = aligned_residual(score, batch, "median_mad")
        return mean_of_images(jnp.sum(jnp.abs(residual), axis=(1, 2)) / 2, mask)


@LOSSES.register("ssi_trimmed")
@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleShiftInvariantTrimmedMAE:
    """Eq. (7): `ssi_mae` without the largest residuals of each image; the divisor stays 2M."""

    compares: ClassVar[tuple[Compares, ...]] = ("inverse depth",)

    trim: float = 0.2
    """Share of an image's valid pixels whose residuals are left out; what is kept is rounded
    down."""

    def __post_init__(self):
        if not 0 <= self.trim < 1:
            raise UserError(f"loss.trim must be in [0, 1), got {self.trim}")

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. Pairs are not used."""
        residual, mask = aligned_residual(score, batch, "median_mad")
        size = jnp.where(mask, jnp.abs(residual), jnp.inf).reshape(mask.shape[0], -1)
        number = jnp.floor((1 - self.trim) * jnp.sum(mask, axis=(1, 2))).astype(jnp.int32)
        total = jnp.sum(jnp.where(smallest_mask(size, number), size, 0.0), axis=1)
        return mean_of_images(total / 2, mask)
