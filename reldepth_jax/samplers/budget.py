"""Fewer pairs in arrays of the same shape: one compiled step for every budget.

A runner that compares budgets (Xian et al., CVPR 2018, Figure 5a: 1, 100, 1000, 3000, 6000 pairs)
compiles one step for the largest and gives the budget as an argument:

    largest = PAIR_SAMPLERS.create("uniform", num_pairs=6000)

    @jax.jit
    def step(state, batch, budget):
        sampler = lambda key, batch: limited(largest(key, batch), budget)
        return make_train_step(model, loss, sampler, optimizer, …)(state, batch)

The step costs what it costs for the largest budget; the network dwarfs the pairs. The run of a
configuration that draws the very same pairs has `uniform` with `num_pairs` the budget and
`padded_to` the largest one.
"""

import jax.numpy as jnp
from jaxtyping import Array, Int

from reldepth_jax.types import Pairs


def limited(pairs: Pairs, budget: int | Int[Array, ""]) -> Pairs:
    """Return the pairs with all but the first `budget` of each image invalid.

    A smaller budget's pairs are among a larger one's. Of invalid pairs among the first ones there
    are as many less.
    """
    first = (jnp.arange(pairs.valid.shape[1]) < budget).reshape(1, -1)
    return pairs._replace(valid=pairs.valid & first)
