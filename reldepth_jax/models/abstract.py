"""Networks as shapes and dtypes, with nothing computed.

`nnx.eval_shape` alone takes time that grows with the square of the layers: Flax counts the keys it
gives, and each look at a traced count walks through all that was traced before (flax 0.12, jax
0.10). With the paper's decoder ResNet-50 takes 0.5 s instead of 1.7, ResNet-152 1.1 instead of 12.
"""

import contextvars
from collections.abc import Callable
from typing import Any, TypeVar

import jax
from flax import nnx

Network = TypeVar("Network")
_only_shapes = contextvars.ContextVar("only_shapes", default=False)


def starting(init: Callable[..., Any]) -> Callable[..., Any]:
    """Return how an array starts: by `init`, or at 0 where only its shape is wanted.

    Tracing draws of random numbers takes half the time of an abstract network.
    """
    return jax.nn.initializers.zeros if _only_shapes.get() else init


class _SameKey(nnx.RngStream):
    """Gives one key again and again: no shape depends on it."""

    def __call__(self) -> jax.Array:
        return self.key[...]


def abstract_network(make: Callable[[nnx.Rngs], Network]) -> Network:
    """Return the network that `make(rngs)` returns, its arrays as `jax.ShapeDtypeStruct`.

    All keys that `rngs` gives are the same one, so `make` must not let shapes depend on them.
    """

    def made() -> Network:
        rngs = nnx.Rngs(0)
        rngs.default = _SameKey(0, tag="default")  # pyright: ignore[reportAttributeAccessIssue]: streams are attributes
        return make(rngs)

    before = _only_shapes.set(True)
    try:
        return nnx.eval_shape(made)
    finally:
        _only_shapes.reset(before)
