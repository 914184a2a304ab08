"""This project's calls, each through the entry that training or prediction uses."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reldepth_jax.cli.benchmark import forward, loss, step
from reldepth_jax.cli.timing import Call
from reldepth_jax.config import Config
from reldepth_jax.models import cost
from reldepth_jax.training import state as states
from reldepth_jax.training.state import TrainState
from reldepth_jax.weights import arrays

__all__ = ["Forward", "forward", "loss", "matmul", "new_state", "step", "step_flops", "weights"]

Forward = Callable[[np.ndarray], np.ndarray]


def new_state(config: Config) -> TrainState:
    """Return the state before the first step."""
    return states.new_state(config)[1]


def weights(config: Config) -> tuple[TrainState, dict[str, np.ndarray]]:
    """Return a new state, and copies of its weights under torch's names."""
    state = new_state(config)
    return state, arrays.from_state(state.params, state.stats)


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
