"""Random point pairs, uniform over the valid pixels of each image.

Source: Xian et al., CVPR 2018, Section 4.1: "3K point pairs" an image, drawn in every
iteration. Axes: b h w, n pairs.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from reldepth_jax.errors import UserError
from reldepth_jax.ops.pairs import limited
from reldepth_jax.registry import PAIR_SAMPLERS
from reldepth_jax.samplers.masked_draws import nth_valid_pixel, pack_mask, require_number
from reldepth_jax.types import Batch, Pairs


@PAIR_SAMPLERS.register("uniform")
@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformPairs:
    """Both points uniform over the valid pixels, never the same pixel twice in a pair."""

    num_pairs: int = 3000
    padded_to: int = 0
    """Draw so many, of which the first `num_pairs` count: one compiled step serves several budgets
    (see `ops.pairs.limited`). 0: no padding."""

    def __post_init__(self):
        require_number(self.num_pairs)
        if self.padded_to and not self.num_pairs <= self.padded_to <= 10**8:
            raise UserError(
                f"pairs.padded_to must be 0, or from pairs.num_pairs ({self.num_pairs}) to 10**8,"
                f" got {self.padded_to}"
            )

    def shared(self) -> tuple["UniformPairs", int | None]:
        """Return the sampler that all budgets share, and how many of its pairs count."""
        if not self.padded_to:
            return self, None
        return UniformPairs(num_pairs=self.padded_to), self.num_pairs

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Pairs:
        """Draw `num_pairs` an image; all invalid in an image with fewer than two valid pixels."""
        mask = batch["mask"].reshape(batch["mask"].shape[0], -1)
        packed = pack_mask(mask)
        count = packed.total
        first_key, step_key = jax.random.split(key)
        shape = (mask.shape[0], self.padded_to or self.num_pairs)
        # Ranks among the valid pixels; a step of 1 … count-1 around the ring gives another one.
        first = jax.random.randint(first_key, shape, 0, jnp.maximum(count, 1))
        step = jax.random.randint(step_key, shape, 1, jnp.maximum(count, 2))
        second = (first + step) % jnp.maximum(count, 1)
        drawn = Pairs(
            first=nth_valid_pixel(packed, first, mask.shape[1]),
            second=nth_valid_pixel(packed, second, mask.shape[1]),
            valid=jnp.broadcast_to(count >= 2, shape),
        )
        return limited(drawn, self.num_pairs) if self.padded_to else drawn
