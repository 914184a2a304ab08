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

from reldepth_jax.errors import UserError
from reldepth_jax.registry import PAIR_SAMPLERS
from reldepth_jax.types import Batch, Pairs, PairSampler


@PAIR_SAMPLERS.register("mixture")
@dataclasses.dataclass(frozen=True, kw_only=True)
class MixedPairs:
    """`num_pairs[i]` pairs of `samplers[i]`, which has its default options otherwise.

    The pairs are interleaved: the first so many (`ops.pairs.limited`) have each sampler's share.
    """

    samplers: tuple[str, ...] = ("uniform", "edge_guided")
    """Names of samplers that take `num_pairs`; each at most once."""
    num_pairs: tuple[int, ...] = (1000, 2000)

    def __post_init__(self):
        if len(self.samplers) != len(self.num_pairs) or not self.samplers:
            raise UserError(
                f"pairs.num_pairs must have one number for each of pairs.samplers, got"
                f" {self.num_pairs} for {self.samplers}"
            )
        if len(set(self.samplers)) < len(self.samplers):
            raise UserError(f"pairs.samplers: each may occur only once, got {self.samplers}")
        for name, number in zip(self.samplers, self.num_pairs, strict=True):
            try:
                entry = PAIR_SAMPLERS.lookup(name)
            except ValueError as error:
                raise UserError(f"pairs.samplers: {error}") from None
            if entry.options.get("num_pairs", ("",))[0] != "int":
                raise UserError(f"pairs.samplers: {name!r} cannot be part of a mixture")
            if number < 1:
                raise UserError(f"pairs.num_pairs: {name} must have at least 1, got {number}")

    @functools.cached_property
    def parts(self) -> tuple[PairSampler, ...]:
        """The samplers."""
        chosen = zip(self.samplers, self.num_pairs, strict=True)
        return tuple(PAIR_SAMPLERS.create(name, num_pairs=number) for name, number in chosen)

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
