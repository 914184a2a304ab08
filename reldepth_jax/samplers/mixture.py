"""Pairs of several samplers together.

Source: Xian et al., CVPR 2020, Section 3.3: edge-guided, instance-guided and random pairs in one
loss; their code has three edge-guided pairs to one random one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from reldepth_jax.config import Choice
from reldepth_jax.errors import UserError
from reldepth_jax.registry import PAIR_SAMPLERS
from reldepth_jax.samplers.masked_draws import require_number
from reldepth_jax.types import Batch, Pairs, PairSampler


@PAIR_SAMPLERS.register("mixture")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedPairs:
    """`num_pairs[i]` pairs of `samplers[i]`.

    The pairs are interleaved: the first so many (`ops.pairs.limited`) have each sampler's share.
    """

    samplers: tuple[Choice, ...] = (Choice("uniform"), Choice("edge_guided"))
    """Different ones, each without its own `num_pairs`. On the command line
    `pairs.samplers=uniform,edge_guided`, `pairs.samplers.1.threshold=0.2`."""
    num_pairs: tuple[int, ...] = (1000, 2000)

    def __post_init__(self):
        names = ", ".join(sampler.name for sampler in self.samplers)
        if len(self.samplers) != len(self.num_pairs) or not self.samplers:
            raise UserError(
                f"pairs.num_pairs must have one number for each of pairs.samplers, got"
                f" {self.num_pairs} for {names or 'no sampler'}"
            )
        if len(set(self.samplers)) < len(self.samplers):
            raise UserError(f"pairs.samplers: all must be different, got {names}")
        for sampler, number in zip(self.samplers, self.num_pairs, strict=True):
            options = PAIR_SAMPLERS.lookup(sampler.name).options
            if options.get("num_pairs", ("",))[0] != "int":
                raise UserError(f"pairs.samplers: {sampler.name!r} cannot be part of a mixture")
            if "num_pairs" in sampler.options:
                raise UserError(
                    f"pairs.samplers: {sampler.name} gets its number from pairs.num_pairs"
                )
            require_number(number, of=sampler.name)
        _ = self.parts

    @functools.cached_property
    def parts(self) -> tuple[PairSampler, ...]:
        """The samplers."""
        parts = []
        for position, sampler in enumerate(self.samplers):
            options = {**sampler.options, "num_pairs": self.num_pairs[position]}
            try:
                parts.append(PAIR_SAMPLERS.create(sampler.name, **options))
            except UserError as error:
                where = f"pairs.samplers.{position}."
                raise UserError(where + str(error).removeprefix("pairs.")) from None
        return tuple(parts)

    @property
    def needs(self) -> tuple[str, ...]:
        """Keys of a batch that one of the samplers needs."""
        return tuple(need for part in self.parts for need in getattr(part, "needs", ()))

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Pairs:
        """Draw all pairs of each image, `sum(num_pairs)`; UserError as the samplers raise it."""
        keys = jax.random.split(key, len(self.parts))
        drawn = [part(keys[i], batch) for i, part in enumerate(self.parts)]
        places = np.concatenate([(np.arange(n) + 0.5) / n for n in self.num_pairs])
        order = np.argsort(places, kind="stable")
        first, second, valid = (
            jnp.concatenate(values, axis=1)[:, order]
            for values in zip(*(pairs[:3] for pairs in drawn), strict=True)
        )
        return Pairs(first, second, valid)
