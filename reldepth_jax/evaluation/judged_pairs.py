"""The point pairs of a held-out sample that are judged, with their true relations.

A sample with annotated pairs is judged on all of them, any other one on random pairs of its depth.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int8

from reldepth_jax.config import EvalConfig
from reldepth_jax.metrics import ordinal
from reldepth_jax.metrics.ordinal import PixelPairs
from reldepth_jax.types import NO_PAIRS, Sample


class LabelledPairs(NamedTuple):
    """Pairs of one image with their relations: +1 where the first point is farther."""

    pairs: PixelPairs
    relation: Int8[np.ndarray, "n"]


def labelled_pairs(
    sample: Sample, index: int, config: EvalConfig, *, same_row: bool
) -> LabelledPairs:
    """Return the judged pairs of image number `index`; `same_row`: those of nearly one row."""
    if "pairs" in sample:
        return annotated_pairs(sample, same_row=same_row)
    pairs = ordinal.heldout_pairs(
        sample["mask"],
        seed=config.seed,
        index=index,
        count=config.pairs_per_image,
        same_row=same_row,
    )
    depth = sample["depth"].reshape(-1)
    relation = ordinal.relation(depth[pairs.first], depth[pairs.second], config.sigma)
    return LabelledPairs(pairs, relation)


def annotated_pairs(sample: Sample, *, same_row: bool = False) -> LabelledPairs:
    """Return the annotated pairs of a sample; `same_row`: those of nearly one row."""
    height, width = sample["mask"].shape
    rows = sample.get("pairs", NO_PAIRS).astype(np.int64)
    if same_row:
        rows = rows[np.abs(rows[:, 0] - rows[:, 2]) < ordinal.ROW_BAND * height]
    pairs = PixelPairs(rows[:, 0] * width + rows[:, 1], rows[:, 2] * width + rows[:, 3])
    return LabelledPairs(pairs, rows[:, 4].astype(np.int8))
