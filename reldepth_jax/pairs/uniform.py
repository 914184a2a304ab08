"""Random point pairs, uniform over the valid pixels of each image.

Source: Xian et al., CVPR 2018, Section 4.1: "3K point pairs" an image, drawn anew in every
iteration. Axes: b h w, n pairs.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from reldepth_jax.conventions import Batch, Pairs
from reldepth_jax.errors import UserError
from reldepth_jax.registry import PAIR_SAMPLERS


@PAIR_SAMPLERS.register("uniform")
@dataclasses.dataclass(frozen=True, kw_only=True)
class UniformPairs:
    """Both points uniform over the valid pixels, never the same pixel twice in a pair."""

    num_pairs: int = 3000

    def __post_init__(self):
        if self.num_pairs < 1:
            raise UserError(f"pairs.num_pairs must be at least 1, got {self.num_pairs}")

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Pairs:
        """Draw `num_pairs` an image; all invalid in an image with fewer than two valid pixels."""
        mask = batch["mask"].reshape(batch["mask"].shape[0], -1)
        ends = jnp.cumsum(mask, axis=1)
        count = ends[:, -1:]
        first_key, step_key = jax.random.split(key)
        shape = (mask.shape[0], self.num_pairs)
        # Ranks among the valid pixels; a step of 1 … count-1 around the ring gives another one.
        first = jax.random.randint(first_key, shape, 0, jnp.maximum(count, 1))
        step = jax.random.randint(step_key, shape, 1, jnp.maximum(count, 2))
        second = (first + step) % jnp.maximum(count, 1)
        locate = jax.vmap(lambda e, rank: jnp.searchsorted(e, rank + 1))
        last = mask.shape[1] - 1
        return Pairs(
            first=jnp.minimum(locate(ends, first), last),
            second=jnp.minimum(locate(ends, second), last),
            valid=jnp.broadcast_to(count >= 2, shape),
        )
