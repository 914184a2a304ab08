"""From sources to batches, by grain.

Which sample stands where, and how it is augmented, is a function of (seed, step, slot) alone:
threads, workers and prefetch change nothing, and a run continues at any step without saved state.
"""

from collections.abc import Iterator, Sequence
from typing import cast

import grain
import numpy as np
from absl import flags

from reldepth_jax.config import Choice, Config, Degradation
from reldepth_jax.data import workers
from reldepth_jax.data.cropping import Opened, OpenedSamples
from reldepth_jax.data.degradation import DegradeImage
from reldepth_jax.data.selection import ORDER, Subset, has_certainty, has_instances, stage_seed
from reldepth_jax.data.transforms import TrainTransform
from reldepth_jax.errors import UserError
from reldepth_jax.registry import SOURCES
from reldepth_jax.types import Source, Split


def make_source(config: Config, split: Split) -> Source:
    """Return the configured source of a split; validation may have one of its own."""
    if split == "val" and config.data.validation is not None:
        return _create(config, config.data.validation, split)
    return _create(config, config.data.source, split)


def train_sources(config: Config) -> list[Source]:
    """Return the sources that training draws from, `data.source` (its subset) before `data.mix`.

    Raises UserError if the source has fewer samples than `data.subset` asks for.
    """
    first = make_source(config, "train")
    if config.data.subset:
        if config.data.subset > len(first):
            raise UserError(
                f"data.subset is {config.data.subset}, but the training split has"
                f" {len(first)} samples; to hold none out set data.source.validation=0 and validate"
                " on another source, data.validation"
            )
        first = Subset(first, config.data.subset)
    return [first, *(_create(config, mixed.source, "train") for mixed in config.data.mix)]


def train_batches(
    config: Config,
    sources: Sequence[Source],
    *,
    start: int,
    share: tuple[int, int] = (0, 1),
    order: int = ORDER,
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the batches of steps `start`, `start + 1`, … without end.

    Args:
      sources: those of `train_sources`. Every source has its own endless shuffled sequence, and
        their examples alternate as `data.mix` states the shares.
      share: (p, n) reads and yields only slots b p / n to b (p + 1) / n of each batch of size b,
        which n must divide.
      order: that of the run, as in `selection.ORDER`.

    Keys and shapes are those of `types.Batch`. Seeds are given to each stage explicitly, so
    that inserting a stage does not reshuffle the others.
    """
    data, seed = config.data, config.train.seed
    pairs_per_image = max(source.pairs_per_image for source in sources)
    transform = TrainTransform(
        data.crop,
        data.zoom,
        data.flip,
        data.color_jitter,
        pairs_per_image,
        any(map(has_instances, sources)),
        any(map(has_certainty, sources)),
        data.gamma_jitter,
        data.label_noise,
    )
    shuffled = [
        grain.MapDataset.source(
            cast(grain.sources.RandomAccessDataSource[Opened], OpenedSamples(source))
        )
        .shuffle(seed=stage_seed(seed, number + 1, order))
        .repeat()
        for number, source in enumerate(sources)
    ]
    shares = [mixed.share for mixed in data.mix]
    mixture = grain.MapDataset.mix(shuffled, [1 - sum(shares), *shares]) if shares else shuffled[0]
    process, processes = share
    examples = mixture.random_map(transform, seed=stage_seed(seed, 0, order))
    if data.degradation != Degradation():
        stage = stage_seed(seed, len(sources) + 1, order)
        examples = examples.random_map(DegradeImage(data.degradation), seed=stage)
    # Parts of batches, one after another: part p of step s is number s n + p.
    dataset = examples.batch(data.batch_size // processes, drop_remainder=True)
    # By default grain prefetches 500 batches.
    options = grain.ReadOptions(num_threads=data.threads, prefetch_buffer_size=data.prefetch)
    batches = dataset[start * processes + process :: processes].to_iter_dataset(options)
    if data.workers:
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # grain's workers read absl flags
        options = grain.MultiprocessingOptions(num_workers=data.workers)
        batches = batches.mp_prefetch(options, worker_init_fn=workers.end_with_parent)
    return iter(batches)


def _create(config: Config, choice: Choice, split: Split) -> Source:
    return SOURCES.create(choice.name, split=split, size=config.data.crop, **choice.options)
