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


def create(
    params: nnx.State, stats: nnx.State, optimizer: optax.GradientTransformation
) -> TrainState:
    """Return the state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params))


def graph_definition(model: RelDepthNet, *, training: bool) -> nnx.GraphDef[RelDepthNet]:
    """Return the static part of the model, to `nnx.merge` with parameters and statistics.

    In training BatchNorm uses and updates from the batch, otherwise its running statistics.
    """
    return nnx.split(nnx.view(model, use_running_average=not training))[0]
