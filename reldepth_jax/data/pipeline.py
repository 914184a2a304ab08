"""From a source to batches, by grain.

Which sample stands where, and how it is augmented, is a function of (seed, step, slot) alone:
threads, workers and prefetch change nothing, and a run continues at any step without saved state.
"""

from collections.abc import Iterator
from typing import cast

import grain
import numpy as np
from absl import flags

from reldepth_jax.config import Config
from reldepth_jax.conventions import Sample, Source, Split
from reldepth_jax.data.transforms import TrainTransform
from reldepth_jax.registry import SOURCES


def make_source(config: Config, split: Split) -> Source:
    """Return the configured source of a split."""
    choice = config.data.source
    return SOURCES.create(choice.name, split=split, size=config.data.crop, **choice.options)


def train_batches(config: Config, source: Source, *, start: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of steps `start`, `start + 1`, … without end.

    Keys and shapes are those of `conventions.Batch`. Seeds are given to each stage explicitly, so
    that inserting a stage does not reshuffle the others.
    """
    data, seed = config.data, config.train.seed
    transform = TrainTransform(data.crop, data.zoom, data.flip, data.color_jitter)
    dataset = (
        grain.MapDataset.source(cast(grain.sources.RandomAccessDataSource[Sample], source))
        .shuffle(seed=seed)
        .repeat()
        .random_map(transform, seed=seed + 1)
        .batch(data.batch_size, drop_remainder=True)
    )
    # grain prefetches 500 batches unless told otherwise.
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch)
    batches = dataset[start:].to_iter_dataset(options)
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
        batches = batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=data.workers))
    return iter(batches)
