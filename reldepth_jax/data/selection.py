"""Fixed choices of samples: held-out ones, and smaller training sets.

A choice depends on the number of samples alone, so it is the same in every run, on every machine
and for a folder as for its prepared shards.
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Int64

from reldepth_jax.data.cropping import Opened, open_sample
from reldepth_jax.types import DepthIs, Sample, Source


def fixed_order(count: int) -> Int64[np.ndarray, "count"]:
    """Return a permutation of 0 … count - 1 that never changes."""
    # Raw bits: NumPy promises that these stay as they are, which it does not for `permutation`.
    return np.argsort(np.random.Philox(0).random_raw(count), kind="stable").astype(np.int64)


ORDER = 2
"""How the seeds of a run's stages follow from its seed, for runs that begin now.

1, up to November 2026: seeds counted on. Grain's shuffle counts epochs on from there too, so that
epoch e + 1 of seed s was epoch e of seed s + 1.
"""


def stage_seed(seed: int, stage: int, order: int = ORDER) -> int:
    """Return the seed of augmentation (stage 0), or of the order of source n (stage n + 1).

    The stage after those of all sources is that of `data.degradation`.
    """
    if order == 1:
        return seed + 1000 * (stage - 1) if stage else seed + 1
    return int(np.random.SeedSequence((seed, stage)).generate_state(1)[0])


def held_out(count: int, size: int) -> Int64[np.ndarray, "_size"]:
    """Return which `size` of `count` samples validate, sorted: the first of `fixed_order`."""
    return np.sort(fixed_order(count)[:size])


def not_held_out(count: int, size: int) -> Int64[np.ndarray, "_rest"]:
    """Return the samples that `held_out` leaves, sorted."""
    return np.sort(fixed_order(count)[size:])


def has_instances(source: Source) -> bool:
    """Return whether the samples of a source have `instances`."""
    return bool(getattr(source, "instances", False))


def has_certainty(source: Source) -> bool:
    """Return whether the samples of a source have a `certainty`."""
    return temperature_of(source) > 0


def temperature_of(source: Source) -> float:
    """Return the temperature of the network that labelled a source, 0 if none is known."""
    return getattr(source, "temperature", 0.0)


def names_of(source: Source) -> list[str] | None:
    """Return the names of the samples of a source, None if it has none."""
    names = getattr(source, "names", None)
    return None if names is None else names()


@dataclasses.dataclass(frozen=True)
class Subset:
    """The first `size` samples of a source in `fixed_order`: a smaller one lies in a larger one.

    Source: the training-set sizes of Xian et al., CVPR 2018, Figure 5b.
    """

    source: Source
    size: int

    @property
    def pairs_per_image(self) -> int:
        """As the whole source has it."""
        return self.source.pairs_per_image

    @property
    def depth_is(self) -> DepthIs:
        """As the whole source has it."""
        return getattr(self.source, "depth_is", "depth")

    @property
    def depth_hint(self) -> str:
        """As the whole source has it."""
        return getattr(self.source, "depth_hint", "")

    @property
    def instances(self) -> bool:
        """As the whole source has it."""
        return has_instances(self.source)

    @property
    def temperature(self) -> float:
        """As the whole source has it."""
        return temperature_of(self.source)

    def __len__(self) -> int:
        """Return how many samples are left."""
        return self.size

    def __getitem__(self, index: int) -> Sample:
        """Return one of the chosen samples; IndexError outside."""
        return self.open(index).read()

    def open(self, index: int) -> Opened:
        """Open one of the chosen samples; IndexError outside."""
        return open_sample(self.source, self._position(index))

    def names(self) -> list[str] | None:
        """Return the names of the chosen samples, if the source has names."""
        names = names_of(self.source)
        return names and [names[index] for index in self.order[: self.size]]

    def _position(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(f"sample {index} of {self.size}")
        return int(self.order[index])

    @functools.cached_property
    def order(self) -> Int64[np.ndarray, "count"]:
        """Return the samples of the source in the order in which subsets take them."""
        return fixed_order(len(self.source))
