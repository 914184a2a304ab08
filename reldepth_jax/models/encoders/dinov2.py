"""DINOv2's vision transformers: the encoders of Depth Anything.

Source: Oquab et al., "DINOv2: Learning Robust Visual Features without Supervision", TMLR 2024; Yang
et al., "Depth Anything", CVPR 2024, and "Depth Anything V2", NeurIPS 2024, and the released code.
No register tokens. `mask_token` of the published files takes no part in the output.
"""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.models.transformer import PatchEmbed, Shape, VisionTransformer
from reldepth_jax.ops.resize import along, interpolation, numpy_for
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import ENCODERS
from reldepth_jax.types import MapSize

_A = -0.75


def positions(table: Float[Array, "1 h w c"], size: MapSize) -> Float[Array, "1 _h _w c"]:
    """Return the table for a grid of `size`: resampled along both axes unless it has that size.

    As torch's bicubic `interpolate` with scale factors of (n + 0.1) / 37, which the original gives
    it: pixel i is at (i + 0.5) * 37 / (n + 0.1) - 0.5.
    """
    if table.shape[1:3] == size:
        return table
    xp = numpy_for(*size)
    # Symbolic sizes may turn out to be those of the table.
    height, width = (xp.asarray(size[k]) == table.shape[1 + k] for k in (0, 1))
    for axis, new in ((1, size[0]), (2, size[1])):
        table = along(table, axis, _cubic(table.shape[axis], new, xp.where(height & width, 0, 1)))
    return table


def _cubic(old: int, new: Any, tenths: Any) -> Any:
    """Return the matrix (new, old) of four taps; `tenths` are added to the new size."""
    xp = numpy_for(new)
    # Where it is, as a fraction of whole numbers: exact, also in float32. One more, to be positive.
    below = 2 * (10 * new + tenths)
    above = (2 * xp.arange(new) + 1) * 10 * old + below // 2
    first = above // below
    share = (above - first * below) / below
    near, far = (
        lambda x: ((_A + 2) * x - (_A + 3)) * x * x + 1,
        lambda x: ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A,
    )
    weights = (far(1 + share), near(share), near(1 - share), far(2 - share))
    return interpolation(old, first - 2, weights)


def dinov2(
    shape: Shape, patch: int, taps: tuple[int, ...], *, dtype: jnp.dtype, rngs: nnx.Rngs
) -> VisionTransformer:
    """Return an encoder of any size, the outputs of whose blocks `taps` are given."""
    embed = PatchEmbed(patch, shape.width, dtype=dtype, rngs=rngs)
    return VisionTransformer(
        shape, embed, taps, positions, layer_scale=True, norm=True, dtype=dtype, rngs=rngs
    )


_LAST = {12: (8, 9, 10, 11), 24: (20, 21, 22, 23)}
_SPREAD = {12: (2, 5, 8, 11), 24: (4, 11, 17, 23)}


def _published(
    width: int, blocks: int, heads: int, taps: str, dtype: jnp.dtype, rngs: nnx.Rngs
) -> VisionTransformer:
    chosen = (_SPREAD if taps == "spread" else _LAST)[blocks]
    return dinov2(Shape(width, blocks, heads, grid=37), 14, chosen, dtype=dtype, rngs=rngs)


def _file(size: str) -> list[PublicFile]:
    name = f"dinov2_{size}"
    url = f"https://dl.fbaipublicfiles.com/dinov2/{name}/{name}_pretrain.pth"
    return [PublicFile(name=name, url=url, licence="Apache-2.0")]


@ENCODERS.register(
    "dinov2_vits14", num_params=22_056_192, patch=14, blocks=12, files=_file("vits14")
)
def dinov2_vits14(
    *, dtype: jnp.dtype, rngs: nnx.Rngs, taps: Literal["spread", "last"] = "spread"
) -> VisionTransformer:
    """ViT-S; `taps`: over the depth as in Depth Anything V2, or the last four blocks as in V1."""
    return _published(384, 12, 6, taps, dtype, rngs)


@ENCODERS.register(
    "dinov2_vitb14", num_params=86_579_712, patch=14, blocks=12, files=_file("vitb14")
)
def dinov2_vitb14(
    *, dtype: jnp.dtype, rngs: nnx.Rngs, taps: Literal["spread", "last"] = "spread"
) -> VisionTransformer:
    """ViT-B; `taps` as of ViT-S."""
    return _published(768, 12, 12, taps, dtype, rngs)


@ENCODERS.register(
    "dinov2_vitl14", num_params=304_367_616, patch=14, blocks=24, files=_file("vitl14")
)
def dinov2_vitl14(
    *, dtype: jnp.dtype, rngs: nnx.Rngs, taps: Literal["spread", "last"] = "spread"
) -> VisionTransformer:
    """ViT-L; `taps` as of ViT-S."""
    return _published(1024, 24, 16, taps, dtype, rngs)
