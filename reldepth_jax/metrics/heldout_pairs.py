"""Which pairs of a held-out sample are judged, and what model and rule say of them.

A sample with annotated pairs gives all of them, any other one random pairs of its depth. Sign:
scores and depth grow with distance.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int8, Int32

from reldepth_jax.config import EvalConfig
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import PixelPairs
from reldepth_jax.types import Sample

LabelledPairs = tuple[PixelPairs, Int8[np.ndarray, "_n"]]
"""Pairs of one image and their relations."""


def labelled_pairs(
    sample: Sample, index: int, config: EvalConfig, *, same_row: bool
) -> LabelledPairs:
    """Return the pairs of image number `index`; `same_row`: those of nearly one row."""
    if "pairs" in sample:
        return _annotated_pairs(sample, sample["pairs"], same_row=same_row)
    pairs = ordinal.heldout_pairs(
        sample["mask"],
        seed=config.seed,
        index=index,
        count=config.pairs_per_image,
        same_row=same_row,
    )
    depth = sample["depth"].reshape(-1)
    return pairs, ordinal.relation(depth[pairs.first], depth[pairs.second], config.sigma)


def rule_score(height: int, width: int) -> Float[np.ndarray, "h w"]:
    """Lower is nearer; in shares of the height, so that one threshold fits all image sizes."""
    return np.broadcast_to(-np.arange(height)[:, None] / height, (height, width))


def differences(
    score: Float[np.ndarray, "h w"], labelled: LabelledPairs
) -> Float[np.ndarray, "3 _n"]:
    """Return score differences of the model and of the rule, and the relations."""
    pairs, relation = labelled
    by_row = ordinal.difference(rule_score(*score.shape), pairs)
    return np.stack([ordinal.difference(score, pairs), by_row, relation.astype(np.float64)])


def pooled(
    judged: Sequence[Float[np.ndarray, "3 _n"]],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"], Int8[np.ndarray, "n"]]:
    """Join the images: differences of the model and of the rule, relations."""
    model, rule, relation = np.concatenate([np.zeros((3, 0)), *judged], axis=1)
    return model, rule, relation.astype(np.int8)


def _annotated_pairs(
    sample: Sample, rows: Int32[np.ndarray, "n 5"], *, same_row: bool
) -> LabelledPairs:
    height, width = sample["mask"].shape
    if same_row:
        rows = rows[np.abs(rows[:, 0] - rows[:, 2]) < ordinal.ROW_BAND * height]
    first, second = rows[:, 0] * width + rows[:, 1], rows[:, 2] * width + rows[:, 3]
    return PixelPairs(first, second), rows[:, 4].astype(np.int8)
