"""Point pairs across the outlines of instances, and on either side of them.

Source: the idea of Xian et al., CVPR 2020, Section 3.3, "instance-guided sampling". What follows is
our definition; their code for it is not part of their release.
Anchors are the inner pixels of the image that have a neighbour of another instance (or of none).
The gradient at an anchor is Sobel's of its own instance's mask, so a, b | c, d lie as in
`edge_points`, c and d on the anchor's side. Of these pairs count only (b, c) of two instances, or
of one and its surroundings, and (a, b) and (c, d) within one instance or within the surroundings: a
point that overshoots a small thing makes no pair that is not what it is meant to be.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Key

from reldepth_jax.errors import UserError
from reldepth_jax.ops.pairs import gather
from reldepth_jax.registry import PAIR_SAMPLERS
from reldepth_jax.samplers.edge_points import (
    ACROSS,
    neighbours,
    pairs_across_edges,
    require_distances,
    sobel,
)
from reldepth_jax.samplers.masked_draws import require_number
from reldepth_jax.types import Batch, Pairs


@PAIR_SAMPLERS.register("instance_guided")
@dataclasses.dataclass(frozen=True, kw_only=True)
class InstanceGuidedPairs:
    """Pairs at instance outlines; needs `instances` in the batch.

    An image without instances has no valid pair: mix with others (sampler "mixture").
    """

    num_pairs: int = 3000
    distances: tuple[int, int] = (2, 30)
    """Pixels from the anchor to the nearest and to the farthest possible point."""

    needs = ("instances",)

    def __post_init__(self):
        require_number(self.num_pairs)
        require_distances(self.distances)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Pairs:
        """Draw `num_pairs` an image; UserError if the batch has no instances."""
        if "instances" not in batch:
            raise UserError(
                "pairs: instance_guided needs instance masks; use a source that has them, with its"
                " option instances=true"
            )
        ids = batch["instances"]
        at = neighbours(ids)
        own = at(0, 0)
        down, right = sobel(lambda row, column: (at(row, column) == own).astype(jnp.int32))
        pairs = pairs_across_edges(
            key,
            (down, right),
            (down != 0) | (right != 0),
            batch["mask"],
            num_pairs=self.num_pairs,
            distances=self.distances,
        )
        first, second = gather(ids, pairs)
        across = (jnp.arange(self.num_pairs) % 3 == ACROSS).reshape(1, -1)
        return pairs._replace(valid=pairs.valid & ((first != second) == across))
