"""Residual convolution units and multi-scale fusion.

Source: Xian et al., CVPR 2018, Section 3.3 and Figure 4, after RefineNet. Axes: b h w c.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.layers import BatchNorm, Initializer, conv, he_fan_out
from reldepth_jax.ops.upsample import upsample_2x

_gaussian: Initializer = jax.nn.initializers.normal(0.01)


def decoder_conv(
    config: ModelConfig, channels_in: int, channels_out: int, rngs: nnx.Rngs, *, last: bool = False
) -> nnx.Conv:
    """Return a 3x3 convolution with bias, initialised as the configuration says.

    The `last` one of a residual unit or of the head starts small with He initialisation too:
    without normalisation each unit would otherwise double the variance.
    """
    init = he_fan_out if config.init == "he" and not last else _gaussian
    dtype = jnp.dtype(config.dtype)
    return conv(channels_in, channels_out, 3, bias=True, dtype=dtype, init=init, rngs=rngs)


class ResidualConvUnit(nnx.Module):
    """Figure 4(c): x + conv(relu(conv(relu(x)))), two 3x3 convolutions of equal width.

    `decoder_norm="batch"` normalises after the first convolution; `skip_relu` adds relu(x).
    """

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.decoder_width
        self.conv1 = decoder_conv(config, width, width, rngs)
        self.bn1 = BatchNorm(width, rngs=rngs) if config.decoder_norm == "batch" else None
        self.conv2 = decoder_conv(config, width, width, rngs, last=True)
        self.skip_relu = config.skip_relu

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply the unit."""
        activated = jax.nn.relu(x)
        y = self.conv1(activated)
        if self.bn1 is not None:
            y = self.bn1(y)
        y = self.conv2(jax.nn.relu(y))
        return (activated if self.skip_relu else x) + y


class FeatureFusionBlock(nnx.Module):
    """One stage of progressive refinement: lateral unit, sum, second unit, enlargement by two.

    The coarsest stage has no coarser input: it is the lateral unit and the enlargement.
    """

    def __init__(self, config: ModelConfig, channels: int, *, coarsest: bool, rngs: nnx.Rngs):
        width = config.decoder_width
        self.transition = decoder_conv(config, channels, width, rngs)
        self.lateral = ResidualConvUnit(config, rngs=rngs)
        everywhere = config.transition == "every_block" and not coarsest
        self.post_transition = decoder_conv(config, width, width, rngs) if everywhere else None
        self.post = None if coarsest else ResidualConvUnit(config, rngs=rngs)
        self.align_corners = config.fusion_align_corners

    def __call__(
        self, tap: Float[Array, "b h w _c"], coarser: Float[Array, "b h w c"] | None
    ) -> Float[Array, "b _h _w c"]:
        """Merge an encoder tap with the output of the next coarser stage (of the same size)."""
        x = self.lateral(self.transition(tap))
        if coarser is not None:
            x = x + coarser
        if self.post_transition is not None:
            x = self.post_transition(x)
        if self.post is not None:
            x = self.post(x)
        return upsample_2x(x, align_corners=self.align_corners)
