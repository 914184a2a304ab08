"""The paper's network: encoder, decoder with multi-scale fusion, adaptive output.

Source: Xian et al., CVPR 2018, Section 3.3 and Figure 4. What the figure leaves open, and what its
published relatives changed, stands with its reason in `reldepth_jax.config.ModelConfig`.
"""

from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.decoder import FeatureFusionBlock
from reldepth_jax.models.head import HEADS
from reldepth_jax.models.layers import call
from reldepth_jax.registry import ENCODERS
from reldepth_jax.types import Encoder

Images = UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]

IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32).reshape(1, 1, 1, 3)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), np.float32).reshape(1, 1, 1, 3)
NORMALISATIONS = {
    "imagenet": lambda images: (images - IMAGENET_MEAN) / IMAGENET_STD,
    "none": lambda images: images,
    "tf": lambda images: (images * 255 - 127) / 128,
}
"""By `ModelConfig.normalisation`: RGB in [0, 1] -> what the encoder's weights expect."""


class Decoder(nnx.Module):
    """Four fusion stages, applied from the coarsest to the finest tap."""

    remat = False
    """Whether each stage is computed again for the gradient."""

    def __init__(self, config: ModelConfig, channels: tuple[int, int, int, int], *, rngs: nnx.Rngs):
        last = len(channels) - 1
        widths = [config.decoder_width * multiple for multiple in config.widening]
        self.fusion = nnx.List(
            [
                FeatureFusionBlock(config, c, width, finer_width, coarsest=index == last, rngs=rngs)
                for index, (c, width, finer_width) in enumerate(
                    zip(channels, widths, [widths[0], *widths[:-1]], strict=True)
                )
            ]
        )

    def __call__(self, taps: list[Float[Array, "b _h _w _c"]]) -> Float[Array, "b _h _w c"]:
        """Return features at half the resolution of the image; `taps` finest first."""
        x = None
        for fusion, tap in reversed(list(zip(self.fusion, taps, strict=True))):
            x = call(fusion, tap, x, remat=self.remat)
        assert x is not None
        return x


class RelDepthNet(nnx.Module):
    """Relative depth from one image."""

    def __init__(self, config: ModelConfig, encoder: Encoder, *, rngs: nnx.Rngs):
        self.encoder = encoder
        self.decoder = Decoder(config, encoder.channels, rngs=rngs)
        self.head = HEADS[config.head](config, rngs=rngs)
        self.normalisation = config.normalisation
        self.output = config.output

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
        """Return float32 scores of RGB images in [0, 1]; the score grows with distance.

        Raises ValueError unless height and width are multiples of 32.
        """
        output = self.raw(images)
        return -output if self.output == "disparity" else output

    def raw(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w"]:
        """Return what the head gives: `ModelConfig.output` tells the sign."""
        height, width = images.shape[1:3]
        if height % 32 or width % 32:
            raise ValueError(f"height and width must be multiples of 32, got {height}x{width}")
        return self.head(self.decoder(self.encoder(NORMALISATIONS[self.normalisation](images))))


def build(config: ModelConfig, *, rngs: nnx.Rngs) -> RelDepthNet:
    """Return the configured network with new parameters."""
    return RelDepthNet(config, build_encoder(config, rngs=rngs), rngs=rngs)


def build_encoder(config: ModelConfig, *, rngs: nnx.Rngs) -> Encoder:
    """Return the encoder alone, with new parameters."""
    choice = config.encoder
    return ENCODERS.create(choice.name, dtype=jnp.dtype(config.dtype), rngs=rngs, **choice.options)


def graph_definition(
    model: RelDepthNet,
    *,
    training: bool,
    frozen_statistics: Literal["none", "encoder", "all"] = "none",
) -> nnx.GraphDef[RelDepthNet]:
    """Return the static part of the model, to `nnx.merge` with parameters and statistics.

    In training BatchNorm normalises with the statistics of the batch and updates its running ones,
    but where `frozen_statistics` are; otherwise it normalises with the running ones.
    """
    view = nnx.view(model, use_running_average=True)
    if training and frozen_statistics != "all":
        view = nnx.view(
            view,
            only=lambda path, _: frozen_statistics == "none" or path[:1] != ("encoder",),
            raise_if_not_found=False,
            use_running_average=False,
        )
    return nnx.split(view)[0]


def make_forward(
    model: RelDepthNet,
) -> Callable[[nnx.State, nnx.State, Images], Float[Array, "b h w"]]:
    """Return `forward(params, stats, images) -> score`, with BatchNorm's running statistics."""
    graph = graph_definition(model, training=False)

    def forward(params: nnx.State, stats: nnx.State, images: Images) -> Float[Array, "b h w"]:
        return nnx.merge(graph, params, stats)(as_float(images))

    return forward


def as_float(images: Images) -> Float[Array, "b h w 3"]:
    """Return images in [0, 1]: bytes, as most travel to the device, as float32, others as is."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
