"""Networks with Winograd's algorithm for their 3x3 convolutions.

Exact prediction computes large convolutions by F(2,3), which rounds as direct convolutions do; fast
prediction and training take F(4,3), which loses digits. With `redweb` at 384x384 on one core, exact
prediction takes 0.74 times as long as with direct convolutions alone, and 0.5 s more to compile;
fast prediction 0.48 times, and 4 s more.

Error of the output against float64, relative to its scale, with random weights at 128x160, two
inputs; F(2,3) in all 3x3 convolutions at stride 1:

              torch             direct            F(2,3)            F(4,3)
              most     rms      most     rms      most     rms      most     rms
redweb        1.8e-6   3.9e-7   1.9e-6   4.5e-7   1.9e-6   5.3e-7   3.1e-6   8.0e-7
sgrl          1.5e-6   2.7e-7   1.8e-6   4.0e-7   1.5e-6   3.6e-7   3.0e-6   7.8e-7
midas_v21_s.  3.2e-6   7.8e-7   3.5e-6   7.5e-7   2.7e-6   6.8e-7   5.3e-6   1.1e-6
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from reldepth_jax import runtime
from reldepth_jax.models.cpu import winograd
from reldepth_jax.models.cpu.convolution import convolve

Network = TypeVar("Network", bound=nnx.Module)

_EXACT, _FAST = 2, 4
"""Sides of tiles: F(2,3) in exact prediction, F(4,3) in fast prediction and in training."""

_LEAST_CHANNELS_EXACT = 128
_LEAST_MULTIPLICATIONS_EXACT = 2**32
"""From which exact prediction gains; channels in and out, products of one image. Measured on one
core: 64 to 64 channels take 0.75 to 0.9 times as long as directly, 128 to 128 0.6, 256 to 256 0.55.
Each takes 0.14 s to compile, for which 256 to 256 channels save 21 ms at 96x96, 5 ms at 48x48."""
_LEAST_CHANNELS = 32
"""In and out, from which a fast prediction gains. Measured on one core at 96x96: 16 to 16 channels
take 1.2 times as long as directly, 24 to 24 1.4, 32 to 32 0.75, 64 to 64 0.5, 256 to 256 0.35."""
_LEAST_CHANNELS_TRAINED = 64
_LEAST_TILES_TRAINED = 32
_LEAST_MULTIPLICATIONS_TRAINED = 2**28
"""From which a convolution gains, with its gradients; tiles of 4x4 and products of the whole batch.
Measured on one core and on two: 32 to 32 channels take 0.7 to 1.3 times as long as directly, 64 to
64 0.6 to 0.8; of 256 to 512 channels, 16 tiles take 1.2 to 1.3 times as long, 32 0.7 to 1.1, 64 0.5
to 0.7, 1024 0.4 to 0.5. Smaller ones gain alone, but with what is around them they take 0.97 to
1.04, for 3 s more to compile."""


def exact_network(model: Network) -> Network:
    """Return the network that takes the parameters of `model`, with large convolutions by F(2,3).

    Its rounding errors are those of direct convolutions (above). What stays as it is: as in
    `fast_network`.
    """
    return _replaced(model, _LEAST_CHANNELS_EXACT, _convolve_exactly)


def fast_network(model: Network) -> Network:
    """Return the network that takes the parameters of `fast_params`, shapes and dtypes of `model`.

    3x3 convolutions at stride 1 become Winograd's. Those in groups, of few channels or not in
    float32 stay as they are, and so do all if the device is not a CPU.
    """
    return _replaced(model, _LEAST_CHANNELS, _of_transformed)


def fast_params(model: nnx.Module, params: nnx.State) -> nnx.State:
    """Return parameters of `model` with the kernels transformed, each 4 times as large."""
    network = nnx.clone(model)
    nnx.update(network, params)
    for conv in _replaceable(network, _LEAST_CHANNELS):
        conv.kernel.set_value(winograd.transform_kernel(conv.kernel.get_value(), _FAST))
    return nnx.state(network, nnx.Param)


def fast_training(model: Network) -> Network:
    """Return the network that takes the parameters of `model` and transforms kernels itself.

    As `fast_network` otherwise. Its gradients take Winograd's algorithm too.
    """
    return _replaced(model, _LEAST_CHANNELS_TRAINED, _convolve)


def _replaced(model: Network, least_channels: int, how: Callable[..., Array]) -> Network:
    if not _replaceable(model, least_channels):
        return model
    network = nnx.clone(model)
    for conv in _replaceable(network, least_channels):
        conv.conv_general_dilated = how
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


def _convolve_exactly(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"], *args: Any, **options: Any
) -> Float[Array, "b h w o"]:
    # Of one image: its map must not depend on how many are beside it.
    if x[0].size * 9 * kernel.shape[3] < _LEAST_MULTIPLICATIONS_EXACT:
        return convolve(x, kernel, *args, **options)
    return winograd.conv3x3(x, winograd.transform_kernel(kernel, _EXACT))


def _convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"], *args: Any, **options: Any
) -> Float[Array, "b h w o"]:
    multiplications = x.size * 9 * kernel.shape[3]
    if (
        winograd.tiles(x.shape, _FAST) < _LEAST_TILES_TRAINED
        or multiplications < _LEAST_MULTIPLICATIONS_TRAINED
    ):
        return convolve(x, kernel, *args, **options)
    return winograd.trained3x3(x, kernel, _FAST)
