"""What a network costs: multiply-adds of its convolutions."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def multiply_adds(network: nnx.Module, height: int, width: int) -> int:
    """Return the multiply-adds of one image, padding included as usual in published counts.

    Counts the convolutions of the architecture, whatever computes them. Traced, not run: `network`
    may hold shapes only.
    """
    counts: list[int] = []

    def counted(convolve: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
        def count(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
            y = convolve(x, kernel, *args, **options)
            counts.append(math.prod(y.shape) * kernel.size // kernel.shape[-1])
            return y

        return count

    network = nnx.clone(nnx.view(network, use_running_average=True))
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = counted(module.conv_general_dilated)
    graph, state = nnx.split(network)
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, image)
    return sum(counts)
