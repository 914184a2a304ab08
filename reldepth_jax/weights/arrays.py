"""A network's arrays under the names and in the axes that torch would give them.

Names are the attribute paths of our modules with torch's leaves: `encoder.bn1.running_mean`.
Kernels are (out, in / groups, height, width), ours (height, width, in / groups, out).
"""

import functools
from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.network import build, build_encoder

Arrays = dict[str, np.ndarray]
Part = Literal["network", "encoder"]
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}


@functools.cache
def abstract(config: ModelConfig, part: Part) -> nnx.Module:
    """Return the network, or its encoder alone, as shapes and dtypes only; not to be changed."""
    make = build if part == "network" else build_encoder

    def module(rngs: nnx.Rngs) -> nnx.Module:
        made = make(config, rngs=rngs)
        assert isinstance(made, nnx.Module)
        return made

    return abstract_network(module)


def shapes(config: ModelConfig, part: Part) -> dict[str, tuple[int, ...]]:
    """Return name -> shape in torch's axes."""
    state = nnx.state(abstract(config, part), (nnx.Param, nnx.BatchStat))
    found = {}
    for path, variable in nnx.to_flat_state(state):
        shape = tuple(variable.get_value().shape)
        found[_name(path)] = (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape
    return found


def from_state(*states: nnx.State) -> Arrays:
    """Return the arrays of parameters and statistics, float32."""
    arrays = {}
    for state in states:
        for path, variable in nnx.to_flat_state(state):
            value = np.asarray(variable.get_value(), np.float32)
            axes = (3, 2, 0, 1) if value.ndim == 4 else tuple(range(value.ndim))
            arrays[_name(path)] = np.ascontiguousarray(value.transpose(axes))
    return arrays


def to_states(
    config: ModelConfig, part: Part, arrays: Mapping[str, np.ndarray]
) -> tuple[nnx.State, nnx.State]:
    """Return parameters and statistics; `arrays` must hold all of them in the right shapes."""
    states = []
    for kind in (nnx.Param, nnx.BatchStat):
        filled = []
        for path, variable in nnx.to_flat_state(nnx.state(abstract(config, part), kind)):
            value = arrays[_name(path)]
            axes = (2, 3, 1, 0) if value.ndim == 4 else tuple(range(value.ndim))
            filled.append((path, variable.replace(jnp.array(value.transpose(axes), jnp.float32))))
        states.append(nnx.from_flat_state(filled))
    return states[0], states[1]


def _name(path: tuple[object, ...]) -> str:
    *modules, leaf = map(str, path)
    return ".".join([*modules, _LEAVES[leaf]])
