"""What a network costs: multiply-adds."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from reldepth_jax.models.reassemble import TransposedConv
from reldepth_jax.models.transformer import Attention


def multiply_adds(network: nnx.Module, height: int, width: int) -> int:
    """Return the multiply-adds of one image, padding included as usual in published counts.

    Counts convolutions, linear layers and the two products of attention, of the architecture,
    whatever computes them. Traced, not run: `network` may hold shapes only.
    """
    counts: list[int] = []

    def counted(
        function: Callable[..., jax.Array], cost: Callable[[jax.Array, jax.Array, jax.Array], int]
    ) -> Callable[..., jax.Array]:
        def count(first: jax.Array, second: jax.Array, *args: Any, **options: Any) -> jax.Array:
            y = function(first, second, *args, **options)
            counts.append(cost(first, second, y))
            return y

        return count

    network = nnx.clone(nnx.view(network, use_running_average=True, raise_if_not_found=False))
    for _, module in nnx.iter_modules(network):
        if isinstance(module, nnx.Conv):
            module.conv_general_dilated = counted(
                module.conv_general_dilated,
                lambda x, kernel, y: math.prod(y.shape) * kernel.size // kernel.shape[-1],
            )
        elif isinstance(module, nnx.Linear):
            module.dot_general = counted(
                module.dot_general, lambda x, kernel, y: math.prod(x.shape) * kernel.shape[-1]
            )
        elif isinstance(module, TransposedConv):
            module.product = counted(
                module.product, lambda x, kernel, y: math.prod(y.shape) * kernel.shape[-1]
            )
        elif isinstance(module, Attention):
            module.attend = counted(
                module.attend, lambda queries, keys, y: 2 * queries.size * keys.shape[1]
            )
    graph, state = nnx.split(network)
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, image)
    return sum(counts)
