"""A network as one function of an image, with symbolic sizes and in the form for any device."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export

from reldepth_jax.inference.networks import Model
from reldepth_jax.models.network import RelDepthNet, graph_definition
from reldepth_jax.weights import arrays


def in_float32(model: Model) -> Model:
    """Return the network that computes in float32, whatever it was trained in, and exactly."""
    config = dataclasses.replace(model.config, dtype="float32")
    return dataclasses.replace(model, config=config, fast=False)


def function(model: Model) -> Any:
    """Return the network under `jax.jit`: float32 RGB in [0, 1] (b, h, w, 3) -> (b, h, w).

    The output has the sign of `model.larger_is`. To be traced under `runtime.for_any_device`.
    """
    network = arrays.abstract(model.config, "network")
    assert isinstance(network, RelDepthNet)
    network = nnx.merge(graph_definition(network, training=False), *model.states())
    return jax.jit(network.raw)


def image(multiple: int, *, channels_first: bool = False) -> jax.ShapeDtypeStruct:
    """Return images of symbolic sizes: b of them, of multiple * h by multiple * w."""
    batch, height, width = export.symbolic_shape("b, h, w")
    sides = (multiple * height, multiple * width)
    shape = (batch, 3, *sides) if channels_first else (batch, *sides, 3)
    return jax.ShapeDtypeStruct(shape, jnp.float32)
