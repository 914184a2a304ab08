"""The paper's network: encoder, decoder with multi-scale fusion, adaptive output.

Source: Xian et al., CVPR 2018, Section 3.3 and Figure 4. What the figure leaves open stands, with
the reason for each default, in `reldepth_jax.config.ModelConfig`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.config import ModelConfig
from reldepth_jax.conventions import Encoder
from reldepth_jax.models.fusion import FeatureFusionBlock, decoder_conv
from reldepth_jax.models.layers import BatchNorm
from reldepth_jax.ops.upsample import upsample_2x
from reldepth_jax.registry import ENCODERS

IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32).reshape(1, 1, 1, 3)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), np.float32).reshape(1, 1, 1, 3)


class AdaptiveOutput(nnx.Module):
    """Figure 4(d): 3x3 convolution to half the width, 3x3 convolution to one channel, times two."""

    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        width = config.decoder_width
        self.conv1 = decoder_conv(config, width, width // 2, rngs)
        batch = config.decoder_norm == "batch"
        self.bn1 = BatchNorm(width // 2, rngs=rngs) if batch else None
        self.conv2 = decoder_conv(config, width // 2, 1, rngs, last=True)
        self.relu = config.head_relu
        self.align_corners = config.head_align_corners

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w"]:
        """Return float32 scores at twice the size of `x`."""
        x = self.conv1(x)
        if self.bn1 is not None:
            x = self.bn1(x)
        if self.relu:
            x = jax.nn.relu(x)
        x = self.conv2(x).astype(jnp.float32)
        return upsample_2x(x, align_corners=self.align_corners)[..., 0]


class Decoder(nnx.Module):
    """Four fusion stages, applied from the coarsest to the finest tap."""

    def __init__(self, config: ModelConfig, channels: tuple[int, int, int, int], *, rngs: nnx.Rngs):
        last = len(channels) - 1
        self.fusion = nnx.List(
            [
                FeatureFusionBlock(config, c, coarsest=index == last, rngs=rngs)
                for index, c in enumerate(channels)
            ]
        )

    def __call__(self, taps: list[Float[Array, "b _h _w _c"]]) -> Float[Array, "b _h _w c"]:
        """Return features at half the resolution of the image; `taps` finest first."""
        x = None
        for fusion, tap in reversed(list(zip(self.fusion, taps, strict=True))):
            x = fusion(tap, x)
        assert x is not None
        return x


class RelDepthNet(nnx.Module):
    """Relative depth from one image: score grows with distance."""

    def __init__(self, config: ModelConfig, encoder: Encoder, *, rngs: nnx.Rngs):
        self.encoder = encoder
        self.decoder = Decoder(config, encoder.channels, rngs=rngs)
        self.head = AdaptiveOutput(config, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
        """Return float32 scores of RGB images in [0, 1].

        Raises ValueError unless height and width are multiples of 32.
        """
        height, width = images.shape[1:3]
        if height % 32 or width % 32:
            raise ValueError(f"height and width must be multiples of 32, got {height}x{width}")
        taps = self.encoder((images - IMAGENET_MEAN) / IMAGENET_STD)
        return self.head(self.decoder(taps))


def build(config: ModelConfig, *, rngs: nnx.Rngs) -> RelDepthNet:
    """Return the configured network with new parameters."""
    dtype = jnp.dtype(config.dtype)
    choice = config.encoder
    encoder = ENCODERS.create(choice.name, dtype=dtype, rngs=rngs, **choice.options)
    return RelDepthNet(config, encoder, rngs=rngs)
