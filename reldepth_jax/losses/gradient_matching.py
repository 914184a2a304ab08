"""Multi-scale gradient matching in disparity.

Source: Ranftl et al. (MiDaS), TPAMI 2020, Eq. (11): 1/M sum_k sum_i |grad_x R_i^k| + |grad_y R_i^k|
over 4 scales, R the aligned residual, M the valid pixels of an image; mean over images. Their total
is `ssi_trimmed` + 0.5 times this, the default of `sum`.
Axes: b h w. Units: none. Sign: the prediction is minus the score.
Deviations: (1) a coarser scale takes every 2**k-th pixel (k = 0, 1, ...), as published code does;
the paper says that the resolution is halved. (2) As printed, all scales share the M of the finest;
published code divides each by its own number of pixels, which weighs coarse ones more. (3) Images
with one depth only, and constant predictions, as in `losses.ssi`.
Invariant per image to scale a > 0 and shift of the score and of the ground truth's disparity; with
alignment "least_squares" also to a < 0 of the score.
"""

import dataclasses
from typing import ClassVar, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from reldepth_jax.errors import UserError
from reldepth_jax.losses.aligned import aligned_residual, mean_of_images
from reldepth_jax.registry import LOSSES
from reldepth_jax.types import Batch, Compares, Pairs


@LOSSES.register("gradient_matching")
@dataclasses.dataclass(frozen=True, kw_only=True)
class GradientMatching:
    """Eq. (11); a difference counts where both of its pixels do."""

    compares: ClassVar[tuple[Compares, ...]] = ("inverse depth",)

    alignment: Literal["median_mad", "least_squares"] = "median_mad"
    """That of the loss beside it: "least_squares" for `ssi_mse`."""
    scales: int = 4

    def __post_init__(self):
        # No image has more halves.
        if not 1 <= self.scales <= 16:
            raise UserError(f"loss.scales must be from 1 to 16, got {self.scales}")

    def __call__(
        self, score: Float[Array, "b h w"], batch: Batch, pairs: Pairs
    ) -> Float[Array, ""]:
        """Return the loss of a batch; `Loss` protocol. Pairs are not used."""
        residual, mask = aligned_residual(score, batch, self.alignment)
        total = jnp.zeros(score.shape[0])
        for scale in range(self.scales):
            step = 2**scale
            r, m = residual[:, ::step, ::step], mask[:, ::step, ::step]
            across = jnp.where(m[:, :, 1:] & m[:, :, :-1], r[:, :, 1:] - r[:, :, :-1], 0.0)
            down = jnp.where(m[:, 1:] & m[:, :-1], r[:, 1:] - r[:, :-1], 0.0)
            total += jnp.sum(jnp.abs(across), axis=(1, 2)) + jnp.sum(jnp.abs(down), axis=(1, 2))
        return mean_of_images(total, mask)
