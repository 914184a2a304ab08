"""From features of a lower resolution to one map at the size of the image. Axes: b h w c."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.decoder import decoder_conv
from reldepth_jax.models.layers import BatchNorm
from reldepth_jax.ops.resize import resize
from reldepth_jax.types import MapSize


@dataclasses.dataclass(frozen=True)
class _Sigmoid:
    """From any number to a depth below `most`."""

    most: float

    def __call__(self, x: Array) -> Array:
        return self.most * jax.nn.sigmoid(x)


def _identity(x: Array) -> Array:
    return x


def _end(config: ModelConfig) -> Callable[[Array], Array]:
    """Return the last function of a head."""
    if config.max_depth:
        return _Sigmoid(config.max_depth)
    return jax.nn.relu if config.non_negative else _identity


class AdaptiveOutput(nnx.Module):
    """Figure 4(d): 3x3 convolutions to half the width and to one channel, to the size."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.decoder_width * config.widening[0]
        self.conv1 = decoder_conv(config, width, width // 2, rngs)
        batch = config.decoder_norm == "batch"
        self.bn1 = BatchNorm(width // 2, rngs=rngs) if batch else None
        self.conv2 = decoder_conv(config, width // 2, 1, rngs, last=True)
        self.relu = config.head_relu
        self.align_corners = config.head_align_corners
        self.end = _end(config)

    def __call__(self, x: Float[Array, "b h w c"], size: MapSize) -> Float[Array, "b _h _w"]:
        """Return float32 values at `size`."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = self.bn1(x)
        if self.relu:
            x = jax.nn.relu(x)
        x = self.conv2(x).astype(jnp.float32)
        return self.end(resize(x, size, align_corners=self.align_corners)[..., 0])


class MidasOutput(nnx.Module):
    """The head of MiDaS from v2 on: 3x3, to the size, 3x3 to 32 channels, ReLU, 1x1.

    Source: Ranftl et al., TPAMI 2020, and the released weights.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.decoder_width * config.widening[0]
        self.conv1 = decoder_conv(config, width, width // 2, rngs)
        self.conv2 = decoder_conv(config, width // 2, 32, rngs)
        self.conv3 = decoder_conv(config, 32, 1, rngs, size=1, last=True)
        self.align_corners = config.head_align_corners
        self.end = _end(config)

    def __call__(self, x: Float[Array, "b h w c"], size: MapSize) -> Float[Array, "b _h _w"]:
        """Return float32 values at `size`."""
        x = resize(self.conv1(x), size, align_corners=self.align_corners)
        return self.end(self.conv3(jax.nn.relu(self.conv2(x))).astype(jnp.float32)[..., 0])


HEADS = {"paper": AdaptiveOutput, "midas": MidasOutput}
"""By `ModelConfig.head`."""
