"""A network's arrays under the names and in the axes that torch would give them.

Names are the attribute paths of our modules with torch's leaves: `encoder.bn1.running_mean`.
Kernels are (out, in / groups, height, width), ours (height, width, in / groups, out); those of
linear layers (out, in), ours (in, out).
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from reldepth_jax import kept, runtime
from reldepth_jax.config import ModelConfig
from reldepth_jax.errors import printable
from reldepth_jax.registry import ENCODERS

if TYPE_CHECKING:
    from flax import nnx

Arrays = dict[str, np.ndarray]
Variables = dict[str, jax.Array | np.ndarray]
"""The arrays of a network as it takes them: names of torch, but our own axes."""
_MOST_SHOWN = 20
Part = Literal["network", "encoder"]
COUNTER = "num_batches_tracked"
"""Last part of the keys of torch's batch counters, which our networks do not have."""
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0)}
_FROM_TORCH = {4: (2, 3, 1, 0), 2: (1, 0)}
"""By the number of axes: all arrays of two are matrices of linear layers."""


def abstract(config: ModelConfig, part: Part) -> "nnx.Module":
    """Return the network, or its encoder alone, as shapes and dtypes; do not change it.

    It has the form for this device, or under `runtime.for_any_device` that for any.
    """
    return _abstract(config, part, runtime.on_cpu())


@functools.cache
def _abstract(config: ModelConfig, part: Part, on_cpu: bool) -> "nnx.Module":
    # Imported late: a program that is kept needs neither Flax nor our layers.
    from flax import nnx

    from reldepth_jax.models.abstract import abstract_network
    from reldepth_jax.models.network import build, build_encoder

    make = build if part == "network" else build_encoder

    def module(rngs: nnx.Rngs) -> nnx.Module:
        made = make(config, rngs=rngs)
        assert isinstance(made, nnx.Module)
        return made

    return abstract_network(module)


def is_of_package(config: ModelConfig) -> bool:
    """Return whether all of the network's code is that of this package, and none a plug-in's."""
    return ENCODERS.lookup(config.encoder.name).module.startswith("reldepth_jax.models.")


def shapes(config: ModelConfig, part: Part) -> dict[str, tuple[int, ...]]:
    """Return name -> shape in torch's axes."""
    if not is_of_package(config):
        return _shapes(config, part)
    found = kept.numbers(f"shapes of {part} {config}", lambda: _shapes(config, part))
    return {name: tuple(shape) for name, shape in found.items()}


def _shapes(config: ModelConfig, part: Part) -> dict[str, tuple[int, ...]]:
    from flax import nnx

    state = nnx.state(abstract(config, part), (nnx.Param, nnx.BatchStat))
    found = {}
    for path, variable in nnx.to_flat_state(state):
        shape = variable.get_value().shape
        found[_name(path)] = tuple(
            shape[axis] for axis in _TO_TORCH.get(len(shape), range(len(shape)))
        )
    return found


def variables(arrays: Mapping[str, np.ndarray]) -> Variables:
    """Return arrays in torch's axes as float32 in ours, where JAX computes."""
    ours = {}
    for name, value in arrays.items():
        axes = _FROM_TORCH.get(value.ndim, range(value.ndim))
        ours[name] = value.transpose(axes).astype(np.float32, order="C")
    # All at once: JAX would compile a conversion for each shape.
    return jax.device_put(ours)


def of_states(*states: "nnx.State") -> Variables:
    """Return the arrays of parameters and statistics."""
    from flax import nnx

    return {
        _name(path): variable.get_value()
        for state in states
        for path, variable in nnx.to_flat_state(state)
    }


def states(config: ModelConfig, part: Part, variables: Variables) -> "tuple[nnx.State, nnx.State]":
    """Return parameters and statistics; `variables` must hold all of them in the right shapes."""
    from flax import nnx

    found = []
    for kind in (nnx.Param, nnx.BatchStat):
        flat = nnx.to_flat_state(nnx.state(abstract(config, part), kind))
        filled = [(path, variable.replace(variables[_name(path)])) for path, variable in flat]
        found.append(nnx.from_flat_state(filled))
    return found[0], found[1]


def in_torch_axes(variables: Mapping[str, jax.Array | np.ndarray]) -> Arrays:
    """Return what `variables` was given, as float32."""
    arrays = {}
    for name, variable in variables.items():
        value = np.asarray(variable, np.float32)
        value = value.transpose(_TO_TORCH.get(value.ndim, range(value.ndim)))
        arrays[name] = np.ascontiguousarray(value)
    return arrays


def from_state(*states: "nnx.State") -> Arrays:
    """Return the arrays of parameters and statistics in torch's axes, float32."""
    return in_torch_axes(of_states(*states))


def to_states(
    config: ModelConfig, part: Part, arrays: Mapping[str, np.ndarray]
) -> "tuple[nnx.State, nnx.State]":
    """Return parameters and statistics; `arrays` must hold all of them in the right shapes."""
    return states(config, part, variables(arrays))


class Mismatch(NamedTuple):
    """What keeps tensors from being the weights of a network; False if nothing does."""

    missing: list[str]
    unexpected: list[str]
    misshaped: list[str]

    def __bool__(self) -> bool:
        return any(self)

    def __str__(self) -> str:
        return "\n  ".join(
            f"{len(keys)} {what}: {_listed(keys)}" for what, keys in self._asdict().items() if keys
        )


def _listed(keys: list[str]) -> str:
    shown = ", ".join(printable(key[:200]) for key in keys[:_MOST_SHOWN])
    return shown + (f" and {len(keys) - _MOST_SHOWN} more" if len(keys) > _MOST_SHOWN else "")


@runtime_checkable
class _Shaped(Protocol):
    """A tensor, or what is known of one before it is read."""

    @property
    def shape(self) -> tuple[int, ...]: ...


def compare(
    tensors: Mapping[str, _Shaped],
    expected: Mapping[str, Sequence[int]],
    optional: Mapping[str, Sequence[int]] | None = None,
    ignored: Sequence[str] = (),
) -> Mismatch:
    """Return how keys and shapes differ from those expected.

    Batch counters do not matter, nor keys that begin as one of `ignored`.
    """
    known = {**expected, **(optional or {})}
    unexpected = [
        key
        for key in tensors
        if key not in known
        and key.rsplit(".", 1)[-1] != COUNTER
        and not key.startswith(tuple(ignored))
    ]
    misshaped = [
        f"{key} {tensors[key].shape}, expected {tuple(shape)}"
        for key, shape in known.items()
        if key in tensors and tensors[key].shape != tuple(shape)
    ]
    return Mismatch([key for key in expected if key not in tensors], unexpected, misshaped)


def _name(path: tuple[object, ...]) -> str:
    *modules, leaf = map(str, path)
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])
