"""The paper's network: encoder, decoder with multi-scale fusion, adaptive output.

Source: Xian et al., CVPR 2018, Section 3.3 and Figure 4. `reldepth_jax.config.ModelConfig` explains
what the figure leaves open and what published networks changed. DPT and Depth Anything are a
transformer as encoder and the same decoder with other options.
"""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jaxtyping import Array, Float, UInt8

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.decoder import Decoder
from reldepth_jax.models.head import HEADS
from reldepth_jax.registry import ENCODERS
from reldepth_jax.types import DropPath, Encoder, Polarity, with_polarity

Images = UInt8[Array, "b h w 3"] | Float[Array, "b h w 3"]

IMAGENET_MEAN = np.array((0.485, 0.456, 0.406), np.float32).reshape(1, 1, 1, 3)
IMAGENET_STD = np.array((0.229, 0.224, 0.225), np.float32).reshape(1, 1, 1, 3)
NORMALISATIONS = {
    "imagenet": lambda images: (images - IMAGENET_MEAN) / IMAGENET_STD,
    "none": lambda images: images,
    "tf": lambda images: (images * 255 - 127) / 128,
    "half": lambda images: 2 * images - 1,
}
"""By `ModelConfig.normalisation`: RGB in [0, 1] -> what the encoder's weights expect."""


class RelDepthNet(nnx.Module):
    """Relative depth from one image."""

    def __init__(self, config: ModelConfig, encoder: Encoder, *, rngs: nnx.Rngs):
        self.encoder = encoder
        tokens = getattr(encoder, "tokens", (False,) * 4)
        self.decoder = Decoder(config, encoder.channels, tokens, rngs=rngs)
        self.head = HEADS[config.head](config, rngs=rngs)
        self.multiple = config.multiple
        self.normalisation = config.normalisation
        self.mirrored = config.mirrored
        self.output: Polarity = config.output

    def __call__(
        self, images: Float[Array, "b h w 3"], drop: DropPath | None = None
    ) -> Float[Array, "b h w"]:
        """Return float32 scores of RGB images in [0, 1]; the score grows with distance.

        `drop` is for transformers: blocks that a training step leaves out.

        Raises ValueError unless height and width are multiples of `ModelConfig.multiple`.
        """
        return with_polarity(self.raw(images, drop), self.output)

    def raw(
        self, images: Float[Array, "b h w 3"], drop: DropPath | None = None
    ) -> Float[Array, "b h w"]:
        """Return the head's output, whose sign is that of `ModelConfig.output`."""
        count, height, width = images.shape[:3]
        if height % self.multiple or width % self.multiple:
            raise ValueError(
                f"height and width must be multiples of {self.multiple}, got {height}x{width}"
            )
        if self.mirrored:
            images = jnp.concatenate([images, jnp.flip(images, 2)])
        inputs = (NORMALISATIONS[self.normalisation](images), *(() if drop is None else (drop,)))
        output = self.head(self.decoder(self.encoder(*inputs)), (height, width))
        if not self.mirrored:
            return output
        seen = lax.slice_in_dim(output, 0, count)
        mirror = lax.slice_in_dim(output, count, 2 * count)
        return (seen + jnp.flip(mirror, 2)) / 2


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
    frozen_batch_norm: Literal["none", "encoder", "all"] = "none",
) -> nnx.GraphDef[RelDepthNet]:
    """Return the static part of the model, to `nnx.merge` with parameters and statistics.

    In training BatchNorm normalises with the statistics of the batch and updates its running ones,
    except in the frozen part; otherwise it normalises with the running ones.
    """
    # Transformers have no BatchNorm.
    view = nnx.view(model, use_running_average=True, raise_if_not_found=False)
    if training and frozen_batch_norm != "all":
        view = nnx.view(
            view,
            only=lambda path, _: frozen_batch_norm == "none" or path[:1] != ("encoder",),
            raise_if_not_found=False,
            use_running_average=False,
        )
    return nnx.split(view)[0]


def as_float(images: Images) -> Float[Array, "b h w 3"]:
    """Return images in [0, 1]: uint8 as float32 over 255, others unchanged."""
    return images.astype(jnp.float32) / 255 if images.dtype == jnp.uint8 else images
