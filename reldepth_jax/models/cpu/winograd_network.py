"""Networks with Winograd's algorithm for their 3x3 convolutions.

Prediction with `redweb` at 384x384 takes 0.52 times as long as with exact convolutions on one core,
0.57 on two, and about 3 s more to compile. `runtime.compiler_options()` is worth a tenth of it.

Largest error of the output against float64, relative to its scale, with random weights at 128x160:
`redweb` and `sgrl` 2.3e-6, `midas_v21_small` 5.8e-6; exact convolutions 1.8e-6, 1.5e-6 and 2.9e-6.
"""

from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from reldepth_jax import runtime
from reldepth_jax.models.cpu import winograd
from reldepth_jax.models.cpu.convolution import convolve

Network = TypeVar("Network", bound=nnx.Module)

_LEAST_CHANNELS = 32
"""In and out, from which a prediction gains. Measured on one core at 96x96: 16 to 16 channels take
1.2 times as long as directly, 24 to 24 1.4, 32 to 32 0.75, 64 to 64 0.5, 256 to 256 0.35."""
_LEAST_CHANNELS_TRAINED = 64
_LEAST_TILES_TRAINED = 32
_LEAST_MULTIPLICATIONS_TRAINED = 2**28
"""From which a convolution gains, with its gradients; tiles of 4x4 and products of the whole batch.
Measured on one core and on two: 32 to 32 channels take 0.7 to 1.3 times as long as directly, 64 to
64 0.6 to 0.8; of 256 to 512 channels, 16 tiles take 1.2 to 1.3 times as long, 32 0.7 to 1.1, 64 0.5
to 0.7, 1024 0.4 to 0.5. Smaller ones gain alone, but with what is around them they take 0.97 to
1.04, for 3 s more to compile."""


def fast_network(model: Network) -> Network:
    """Return the network that takes the parameters of `fast_params`, shapes and dtypes of `model`.

    3x3 convolutions at stride 1 become Winograd's. Those in groups, of few channels or not in
    float32 stay as they are, and so do all if the device is not a CPU.
    """
    network = nnx.clone(model)
    for conv in _replaceable(network, _LEAST_CHANNELS):
        conv.conv_general_dilated = _of_transformed
    return network


def fast_params(model: nnx.Module, params: nnx.State) -> nnx.State:
    """Return parameters of `model` with the kernels transformed, each 4 times as large."""
    network = nnx.clone(model)
    nnx.update(network, params)
    for conv in _replaceable(network, _LEAST_CHANNELS):
        conv.kernel.set_value(winograd.transform_kernel(conv.kernel.get_value()))
    return nnx.state(network, nnx.Param)


def fast_training(model: Network) -> Network:
    """Return the network that takes the parameters of `model` and transforms kernels itself.

    As `fast_network` otherwise. Its gradients take Winograd's algorithm too.
    """
    network = nnx.clone(model)
    for conv in _replaceable(network, _LEAST_CHANNELS_TRAINED):
        conv.conv_general_dilated = _convolve
    return network


def _replaceable(network: nnx.Module, least_channels: int) -> list[nnx.Conv]:
    if not runtime.on_cpu():
        return []
    modules = [module for _, module in nnx.iter_graph(network) if isinstance(module, nnx.Conv)]
    return [
        conv
        for conv in modules
        if _is_plain(conv) and min(conv.in_features, conv.out_features) >= least_channels
    ]


def _is_plain(conv: nnx.Conv) -> bool:
    return (
        conv.kernel_size == (3, 3)
        and conv.padding in ("SAME", ((1, 1), (1, 1)))
        and all(
            each in (1, (1, 1))
            for each in (conv.strides, conv.input_dilation, conv.kernel_dilation)
        )
        and conv.feature_group_count == 1
        and conv.mask is None
        and conv.dtype == jnp.float32
        # Nothing is done to its kernel before.
        and conv.conv_general_dilated in (convolve, lax.conv_general_dilated)
    )


def _of_transformed(
    x: Float[Array, "b h w i"], kernel: Float[Array, "6 6 i o"], *_: object, **__: object
) -> Float[Array, "b h w o"]:
    """Replace `lax.conv_general_dilated`, whose options `_is_plain` has checked."""
    return winograd.conv3x3(x, kernel)


def _convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"], *args: Any, **options: Any
) -> Float[Array, "b h w o"]:
    multiplications = x.size * 9 * kernel.shape[3]
    if (
        winograd.tiles(x.shape) < _LEAST_TILES_TRAINED
        or multiplications < _LEAST_MULTIPLICATIONS_TRAINED
    ):
        return convolve(x, kernel, *args, **options)
    return winograd.conv3x3(x, winograd.transform_kernel(kernel))
