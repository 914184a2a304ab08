"""What a network costs: multiply-adds of its convolutions."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from reldepth_jax.models.cpu.convolution import Conv, convolve


def multiply_adds(network: nnx.Module, height: int, width: int) -> int:
    """Return the multiply-adds of one image, padding included as usual in published counts.

    Of the convolutions as they are written down, whatever they are computed by. Traced, not run:
    `network` may hold shapes only.
    """
    counts: list[int] = []

    def counted(x: jax.Array, kernel: jax.Array, *args: Any, **options: Any) -> jax.Array:
        y = convolve(x, kernel, *args, **options)
        counts.append(math.prod(y.shape) * kernel.size // kernel.shape[-1])
        return y

    network = nnx.clone(nnx.view(network, use_running_average=True))
    for _, module in nnx.iter_modules(network):
        if isinstance(module, Conv):
            module.conv_general_dilated = counted
    graph, state = nnx.split(network)
    image = jax.ShapeDtypeStruct((1, height, width, 3), jnp.float32)
    jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, image)
    return sum(counts)
