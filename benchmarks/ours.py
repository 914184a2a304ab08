"""This project's calls, each through the entry that training or prediction uses."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.timing import Call
from reldepth_jax.config import Config
from reldepth_jax.data.images.preprocessing import Preprocessing
from reldepth_jax.inference import networks
from reldepth_jax.models import cost
from reldepth_jax.registry import LOSSES, PAIR_SAMPLERS
from reldepth_jax.training import state as states
from reldepth_jax.training import step as step_module
from reldepth_jax.training.state import TrainState
from reldepth_jax.types import Batch
from reldepth_jax.weights import arrays

Arrays = Mapping[str, np.ndarray]
Forward = Callable[[np.ndarray], np.ndarray]


def new_state(config: Config) -> TrainState:
    """Return the state before the first step."""
    return states.new_state(config)[1]


def weights(config: Config) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Return a new state, and copies of its weights under torch's names."""
    state = new_state(config)
    return state, arrays.from_state(state.params, state.stats)


def step(config: Config, state: TrainState, batch: Arrays) -> Call:
    """Return the training step, compiled when first called; it returns its loss."""
    function = step_module.step_function(config)
    on_device: Any = jax.device_put(dict(batch))

    def run() -> jax.Array:
        nonlocal state
        state, metrics = function(state, on_device)
        return metrics["loss"]

    return Call(run, jax.block_until_ready)


def forward(config: Config, *, fast: bool = False) -> Forward:
    """Return images, uint8 (b, h, w, 3) -> scores, both on the host; weights as `weights`."""
    state = new_state(config)
    model = networks.Model(config.model, state.params, state.stats, Preprocessing(), {}, fast)
    return lambda images: np.asarray(model(images))


def loss(config: Config, scores: np.ndarray, batch: Arrays) -> Call:
    """Return what draws pairs and gives loss and gradient by the scores."""
    function = LOSSES.create(config.loss.name, **config.loss.options)
    sampler = PAIR_SAMPLERS.create(config.pairs.name, **config.pairs.options)
    on_device, scores_there = jax.device_put((dict(batch), scores))

    @jax.jit
    def compute(number: jax.Array, scores: jax.Array, batch: Batch) -> tuple[jax.Array, ...]:
        key = jax.random.fold_in(jax.random.key(0), number)
        return number + 1, *jax.value_and_grad(function)(scores, batch, sampler(key, batch))

    # Each call waits for the one before, as steps do.
    number = jnp.zeros((), jnp.int32)

    def run() -> tuple[jax.Array, ...]:
        nonlocal number
        number, value, gradient = compute(number, scores_there, on_device)
        return value, gradient

    return Call(run, jax.block_until_ready)


def matmul(size: int, dtype: str) -> Call:
    """Return a product of two square matrices, for what the device reaches at most."""
    a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    product: Any = jax.jit(lambda a: a @ a)
    return Call(functools.partial(product, a), jax.block_until_ready)


def step_flops(config: Config) -> int:
    """Return the floating-point operations of a step: forward, and twice as many backward.

    Of the convolutions as they are written down, as is usual: what is computed anew, or spared by
    another algorithm, does not change it.
    """
    model, _ = states.new_state(config, abstract=True)
    return 3 * 2 * cost.multiply_adds(model, *config.data.crop) * config.data.batch_size
