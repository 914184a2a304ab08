"""Everything that a step changes, as one pytree."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from reldepth_jax.config import Config
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.network import RelDepthNet, build
from reldepth_jax.training.optimizer import (
    Trained,
    everything,
    make_optimizer,
    trainable,
    with_layer_decay,
)


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
    average: tuple[nnx.State, nnx.State] | None = None
    """Moving average of `params` and `stats` (`train.ema`)."""

    @property
    def result(self) -> tuple[nnx.State, nnx.State]:
        """Parameters and statistics that are validated and used: the averages, if there are any."""
        return self.average or (self.params, self.stats)

    def with_weights(self, params: nnx.State, stats: nnx.State) -> "TrainState":
        """Return this state with other weights to start from."""
        average = self.average and _copy((params, stats))
        return self._replace(params=params, stats=stats, average=average)


def create(
    params: nnx.State,
    stats: nnx.State,
    optimizer: optax.GradientTransformation,
    trained: Trained = everything,
    *,
    averaged: bool = False,
) -> TrainState:
    """Return the state before the first step; `trained` tells which parameters are not frozen."""
    zero = jnp.zeros((), jnp.int32)
    # Three buffers: a donated one must not be there twice.
    opt_state = optimizer.init(nnx.split_state(params, trained, ...)[0])
    average = _copy((params, stats)) if averaged else None
    return TrainState(zero, params, stats, opt_state, zero + 0, zero + 0, average)


def averaged(
    average: tuple[nnx.State, nnx.State],
    weights: tuple[nnx.State, nnx.State],
    step: Int[Array, ""],
    decay: float,
) -> tuple[nnx.State, nnx.State]:
    """Return the moving average after `weights`, those after step number `step` (from 0)."""
    kept = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda old, new: old + (1 - kept) * (new - old), average, weights)


def _copy(weights: tuple[nnx.State, nnx.State]) -> tuple[nnx.State, nnx.State]:
    # A donated buffer must not be there twice.
    return jax.tree.map(jnp.copy, weights)


def new_state(config: Config, *, abstract: bool = False) -> tuple[RelDepthNet, TrainState]:
    """Return the configured network and its state before the first step.

    With `abstract` both hold shapes and dtypes only: nothing is computed.
    """
    optim = with_layer_decay(config)
    rule = make_optimizer(optim, config.train.steps)

    def make(rngs: nnx.Rngs) -> RelDepthNet:
        return build(config.model, rngs=rngs)

    model = abstract_network(make) if abstract else make(nnx.Rngs(config.train.seed))
    _, params, stats = nnx.split(model, nnx.Param, nnx.BatchStat)
    make_state = functools.partial(
        create, optimizer=rule, trained=trainable(optim), averaged=config.train.ema > 0
    )
    return model, jax.eval_shape(make_state, params, stats) if abstract else make_state(
        params, stats
    )
