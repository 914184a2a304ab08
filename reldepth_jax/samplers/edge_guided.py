"""Point pairs across the edges of the image.

Source: Xian et al., CVPR 2020, Section 3.3, "edge-guided sampling"; see `samplers.edge_points`
for how points are placed, and for deviations.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Key

from reldepth_jax.errors import UserError
from reldepth_jax.registry import PAIR_SAMPLERS
from reldepth_jax.samplers.edge_points import (
    neighbours,
    pairs_across_edges,
    require_distances,
    sobel,
)
from reldepth_jax.samplers.masked_draws import require_number
from reldepth_jax.types import Batch, Pairs


@PAIR_SAMPLERS.register("edge_guided")
@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeGuidedPairs:
    """Anchors are the pixels whose Sobel gradient is at least `threshold` of the image's largest.

    An image of one colour has no edge and no valid pair: mix with "uniform" (sampler "mixture"), as
    the authors do, a random pair to three of these. Their code takes as many anchors as there are
    edge pixels; here the number is fixed.
    """

    num_pairs: int = 3000
    distances: tuple[int, int] = (2, 30)
    """Pixels from the anchor to the nearest and to the farthest possible point."""
    threshold: float = 0.1
    channel: Literal["gray", "red"] = "gray"
    """Gray (Rec. 601) sees edges between colours of equal red; the authors' code takes the red
    channel of normalised images, which has the edges of this "red"."""

    def __post_init__(self):
        require_number(self.num_pairs)
        if not 0 < self.threshold <= 1:
            raise UserError(f"pairs.threshold must be above 0 and at most 1, got {self.threshold}")
        require_distances(self.distances)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Pairs:
        """Draw `num_pairs` an image."""
        red, green, blue = (batch["image"][..., c].astype(jnp.int32) for c in range(3))
        # Whole numbers (256ths): a surface of one colour has a gradient of exactly 0.
        values = red if self.channel == "red" else 77 * red + 150 * green + 29 * blue
        gradient = sobel(neighbours(values))
        strength = jnp.hypot(*gradient)
        strongest = jnp.max(strength, axis=(1, 2), keepdims=True)
        edge = (strength > 0) & (strength >= self.threshold * strongest)
        return pairs_across_edges(
            key,
            gradient,
            edge,
            batch["mask"],
            num_pairs=self.num_pairs,
            distances=self.distances,
        )
