"""From features at half the resolution to one map at the size of the image. Axes: b h w c."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.decoder import decoder_conv
from reldepth_jax.models.layers import BatchNorm
from reldepth_jax.ops.upsample import upsample_2x


class AdaptiveOutput(nnx.Module):
    """Figure 4(d): 3x3 convolution to half the width, 3x3 convolution to one channel, times two."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.decoder_width * config.widening[0]
        self.conv1 = decoder_conv(config, width, width // 2, rngs)
        batch = config.decoder_norm == "batch"
        self.bn1 = BatchNorm(width // 2, rngs=rngs) if batch else None
        self.conv2 = decoder_conv(config, width // 2, 1, rngs, last=True)
        self.relu = config.head_relu
        self.align_corners = config.head_align_corners
        self.non_negative = config.non_negative

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w"]:
        """Return float32 values at twice the size of `x`."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = self.bn1(x)
        if self.relu:
            x = jax.nn.relu(x)
        x = self.conv2(x).astype(jnp.float32)
        x = upsample_2x(x, align_corners=self.align_corners)[..., 0]
        return jax.nn.relu(x) if self.non_negative else x


class MidasOutput(nnx.Module):
    """The head of MiDaS from v2 on: 3x3, times two, 3x3 to 32 channels, ReLU, 1x1.

    Source: Ranftl et al., TPAMI 2020, and the released weights.
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.decoder_width * config.widening[0]
        self.conv1 = decoder_conv(config, width, width // 2, rngs)
        self.conv2 = decoder_conv(config, width // 2, 32, rngs)
        self.conv3 = decoder_conv(config, 32, 1, rngs, size=1, last=True)
        self.align_corners = config.head_align_corners
        self.non_negative = config.non_negative

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w"]:
        """Return float32 values at twice the size of `x`."""
        x = upsample_2x(self.conv1(x), align_corners=self.align_corners)
        x = self.conv3(jax.nn.relu(self.conv2(x))).astype(jnp.float32)[..., 0]
        return jax.nn.relu(x) if self.non_negative else x


HEADS = {"paper": AdaptiveOutput, "midas": MidasOutput}
"""By `ModelConfig.head`."""
