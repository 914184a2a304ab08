"""Vision transformers on patches of 16 pixels, as timm has them: the encoders of DPT.

Source: Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, and the released code.
The norm and the classifier behind the last block are not there: DPT does not use them.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.models.resnet_v2 import HybridEmbed
from reldepth_jax.models.transformer import PatchEmbed, Shape, VisionTransformer
from reldepth_jax.ops.resize import resize
from reldepth_jax.registry import ENCODERS
from reldepth_jax.types import MapSize


def positions(table: Float[Array, "1 h w c"], size: MapSize) -> Float[Array, "1 _h _w c"]:
    """Return the table for a grid of `size`, bilinearly, the outer edges of the grids aligned."""
    return resize(table, size, align_corners=False)


def vit(
    shape: Shape, patch: int, taps: tuple[int, ...], *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> VisionTransformer:
    """Return an encoder of any size, the outputs of whose blocks `taps` are given."""
    embed = PatchEmbed(patch, shape.width, dtype=dtype, rngs=rngs)
    return VisionTransformer(
        shape, embed, taps, positions, layer_scale=False, norm=False, dtype=dtype, rngs=rngs
    )


def hybrid(
    shape: Shape,
    depths: tuple[int, int, int],
    taps: tuple[int, int],
    *,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> VisionTransformer:
    """Return a transformer on the last stage of a convolutional network.

    The first two stages are the first two taps.
    """
    embed = HybridEmbed(depths, shape.width, dtype=dtype, rngs=rngs)
    return VisionTransformer(
        shape,
        embed,
        taps,
        positions,
        maps=embed.channels,
        layer_scale=False,
        norm=False,
        dtype=dtype,
        rngs=rngs,
    )


@ENCODERS.register("vit_large_patch16_384", num_params=303_688_704, patch=16, blocks=24)
def vit_large_patch16_384(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> VisionTransformer:
    """ViT-L: the encoder of DPT-Large."""
    return vit(Shape(1024, 24, 16, grid=24), 16, (5, 11, 17, 23), dtype=dtype, rngs=rngs)


@ENCODERS.register("vit_base_resnet50_384", num_params=98_180_416, patch=16, blocks=12)
def vit_base_resnet50_384(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> VisionTransformer:
    """ViT-B on the first three stages of a ResNet-50: the encoder of DPT-Hybrid."""
    return hybrid(Shape(768, 12, 12, grid=24), (3, 4, 9), (8, 11), dtype=dtype, rngs=rngs)
