"""Everything that a step changes, as one pytree."""

from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from reldepth_jax.models.reldepth_net import RelDepthNet
from reldepth_jax.train.optim import Trained, everything


class TrainState(NamedTuple):
    """State after `step` steps. There is no key: randomness is a function of (seed, step)."""

    step: Int[Array, ""]
    params: nnx.State
    stats: nnx.State
    """Running statistics of BatchNorm."""
    opt_state: Any
    """Of the trained parameters only."""
    skipped: Int[Array, ""]
    """Steps so far that were not finite and not applied."""
    skipped_in_a_row: Int[Array, ""]
    """The last of them without a finite one in between."""


def create(
    params: nnx.State,
    stats: nnx.State,
    optimizer: optax.GradientTransformation,
    trained: Trained = everything,
) -> TrainState:
    """Return the state before the first step; `trained` tells which parameters are not frozen."""
    zero = jnp.zeros((), jnp.int32)
    # Three buffers: a donated one must not be there twice.
    opt_state = optimizer.init(nnx.split_state(params, trained, ...)[0])
    return TrainState(zero, params, stats, opt_state, zero + 0, zero + 0)


def graph_definition(
    model: RelDepthNet,
    *,
    training: bool,
    frozen_statistics: Literal["none", "encoder", "all"] = "none",
) -> nnx.GraphDef[RelDepthNet]:
    """Return the static part of the model, to `nnx.merge` with parameters and statistics.

    In training BatchNorm normalises with the statistics of the batch and updates its running ones,
    but where `frozen_statistics` are; otherwise it normalises with the running ones.
    """
    view = nnx.view(model, use_running_average=True)
    if training and frozen_statistics != "all":
        view = nnx.view(
            view,
            only=lambda path, _: frozen_statistics == "none" or path[:1] != ("encoder",),
            raise_if_not_found=False,
            use_running_average=False,
        )
    return nnx.split(view)[0]
