"""Everything that a step changes, as one pytree."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from reldepth_jax.models.reldepth_net import RelDepthNet


class TrainState(NamedTuple):
    """State after `step` steps. There is no key: randomness is a function of (seed, step)."""

    step: Int[Array, ""]
    params: nnx.State
    stats: nnx.State
    """Running statistics of BatchNorm."""
    opt_state: Any
    skipped: Int[Array, ""]
    """Steps so far that were not finite and not applied."""
    skipped_in_a_row: Int[Array, ""]
    """The last of them without a finite one in between."""


def create(
    params: nnx.State, stats: nnx.State, optimizer: optax.GradientTransformation
) -> TrainState:
    """Return the state before the first step."""
    zero = jnp.zeros((), jnp.int32)
    # Three buffers: a donated one must not be there twice.
    return TrainState(zero, params, stats, optimizer.init(params), zero + 0, zero + 0)


def graph_definition(model: RelDepthNet, *, training: bool) -> nnx.GraphDef[RelDepthNet]:
    """Return the static part of the model, to `nnx.merge` with parameters and statistics.

    In training BatchNorm uses and updates from the batch, otherwise its running statistics.
    """
    return nnx.split(nnx.view(model, use_running_average=not training))[0]
