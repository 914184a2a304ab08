"""Which point of a pair is farther: from depth by Eq. (1), or as annotators said.

Source: Xian et al., CVPR 2018, Section 3.2, Eq. (1); annotated pairs as in Chen et al., "Single-
Image Depth Perception in the Wild", NIPS 2016. Axes: b h w, n sampled and g annotated pairs.
Sign: relation +1 means that the first point is farther.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from reldepth_jax.ops.gather_pairs import gather
from reldepth_jax.types import UNKNOWN, Batch, Pairs


def ordinal_relation(
    depth_i: Float[Array, "*b n"], depth_j: Float[Array, "*b n"], *, sigma: float = 0.02
) -> Int[Array, "*b n"]:
    """Eq. (1): +1 where g_i / g_j > 1 + sigma, -1 where g_j / g_i > 1 + sigma, else 0.

    Compares products, not ratios: zero depths need no guard, and two infinite ones are equal.
    Raises ValueError if sigma < 0.
    """
    if sigma < 0:
        raise ValueError(f"sigma must be at least 0, got {sigma}")
    farther = depth_i > (1 + sigma) * depth_j
    nearer = depth_j > (1 + sigma) * depth_i
    return farther.astype(jnp.int32) - nearer.astype(jnp.int32)


def label(
    batch: Batch, pairs: Pairs, *, sigma: float
) -> tuple[Int[Array, "b n"], Bool[Array, "b n"]]:
    """Return the relation of each pair, and which pairs count.

    An annotated relation stands as it is. Otherwise Eq. (1) decides, and the pair counts only if
    both points have ground truth.
    """
    depth_i, depth_j = gather(batch["depth"], pairs)
    mask_i, mask_j = gather(batch["mask"], pairs)
    measured = ordinal_relation(depth_i, depth_j, sigma=sigma)
    if pairs.relation is None:
        return measured, pairs.valid & mask_i & mask_j
    annotated = pairs.relation != UNKNOWN
    relation = jnp.where(annotated, pairs.relation, measured)
    return relation, pairs.valid & (annotated | (mask_i & mask_j))


def with_annotated(sampled: Pairs, batch: Batch) -> Pairs:
    """Return the sampled pairs followed by the annotated ones of the batch, if it has any."""
    if "pairs" not in batch:
        return sampled
    given = batch["pairs"]
    width = batch["mask"].shape[2]
    unknown = jnp.full(sampled.first.shape, UNKNOWN, given.dtype)
    return Pairs(
        first=jnp.concatenate([sampled.first, given[..., 0] * width + given[..., 1]], axis=1),
        second=jnp.concatenate([sampled.second, given[..., 2] * width + given[..., 3]], axis=1),
        valid=jnp.concatenate([sampled.valid, given[..., 4] != UNKNOWN], axis=1),
        relation=jnp.concatenate([unknown, given[..., 4]], axis=1),
    )
