"""No pairs but those that annotators gave, as in DIW and NYUDv2 (Chen et al., NIPS 2016)."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Key

from reldepth_jax.errors import UserError
from reldepth_jax.registry import PAIR_SAMPLERS
from reldepth_jax.types import Batch, Pairs


@PAIR_SAMPLERS.register("annotated")
@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedPairs:
    """Draws nothing: a step uses only its batch's annotated pairs (`ops.pairs.with_annotated`)."""

    needs = ("pairs",)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Pairs:
        """Return no pairs, n = 0; UserError if the batch has no annotated ones."""
        if "pairs" not in batch:
            raise UserError(
                "pairs: annotated needs a source with annotated pairs; draw them from depth with"
                " uniform, or train on another source"
            )
        shape = (batch["mask"].shape[0], 0)
        none = jnp.zeros(shape, jnp.int32)
        return Pairs(none, none, jnp.zeros(shape, bool))
