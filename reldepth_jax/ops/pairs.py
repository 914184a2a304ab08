"""Point pairs of a batch: values at their points, and which point is farther.

Source: Xian et al., CVPR 2018, Section 3.2, Eq. (1); annotated pairs as in Chen et al., "Single-
Image Depth Perception in the Wild", NIPS 2016. Axes: b h w, n sampled and g annotated pairs.
Sign: relation +1 means that the first point is farther.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from reldepth_jax.types import UNKNOWN, Batch, Pairs


def gather(
    values: Shaped[Array, "b h w"], pairs: Pairs
) -> tuple[Shaped[Array, "b n"], Shaped[Array, "b n"]]:
    """Return `values` at the first and at the second points."""
    flat = values.reshape(values.shape[0], -1)
    return (
        jnp.take_along_axis(flat, pairs.first, axis=1),
        jnp.take_along_axis(flat, pairs.second, axis=1),
    )


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

    An annotated relation stays as it is. For other pairs Eq. (1) decides, and the pair counts only
    if both points have ground truth.
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


def limited(pairs: Pairs, budget: int | Int[Array, ""]) -> Pairs:
    """Return the pairs with all but the first `budget` of each image invalid.

    The shapes stay, so one compiled step serves every budget (Xian et al., CVPR 2018, Figure 5a: 1,
    100, 1000, 3000, 6000 pairs); it costs what it costs for the largest. A smaller budget's pairs
    are among a larger one's.
    """
    first = (jnp.arange(pairs.valid.shape[1]) < budget).reshape(1, -1)
    return pairs._replace(valid=pairs.valid & first)
