"""The convolutional front of hybrid vision transformers: timm's ResNetV2. Axes: b h w c.

Source: Kolesnikov et al., "Big Transfer", ECCV 2020, for standardised weights and GroupNorm; timm's
names. Bottlenecks activate after the sum, unlike the paper's. Padding is TensorFlow's SAME.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jaxtyping import Array, Float

from reldepth_jax.models.layers import conv, max_pool_3x3

WIDTHS = (256, 512, 1024)
"""Channels of the three stages."""

_EPSILON = 1e-8
"""Added to the variance of weights, as timm does since 0.6 and MiDaS v3.1 with it; the first
release, with timm 0.4.5, added 1e-5 to the deviation: 1e-3 of the output's deviation."""


@dataclasses.dataclass(frozen=True)
class _Standardised:
    """Convolves with weights of mean 0 and variance 1 for each output."""

    convolve: Callable[..., Array]

    def __call__(self, x: Array, kernel: Array, *args: Any, **options: Any) -> Array:
        wide = kernel.astype(jnp.float32)
        mean, variance = (f(wide, (0, 1, 2), keepdims=True) for f in (jnp.mean, jnp.var))
        kernel = ((wide - mean) * lax.rsqrt(variance + _EPSILON)).astype(kernel.dtype)
        return self.convolve(x, kernel, *args, **options)


def _conv(
    channels_in: int,
    channels_out: int,
    size: int,
    *,
    stride: int = 1,
    dtype: jnp.dtype,
    rngs: nnx.Rngs,
) -> nnx.Conv:
    made = conv(
        channels_in, channels_out, size, stride=stride, padding="same", dtype=dtype, rngs=rngs
    )
    made.conv_general_dilated = _Standardised(made.conv_general_dilated)
    return made


class GroupNorm(nnx.GroupNorm):
    """32 groups, in float32; the output has the dtype of the input."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        super().__init__(
            channels,
            num_groups=32,
            epsilon=1e-5,
            use_fast_variance=False,
            dtype=jnp.float32,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:  # pyright: ignore[reportIncompatibleMethodOverride]: no mask here
        """Normalise each group of each image."""
        return super().__call__(x).astype(x.dtype)


class Projection(nnx.Module):
    """A 1x1 convolution, perhaps with a stride, and a norm."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.conv = _conv(channels_in, channels_out, 1, stride=stride, dtype=dtype, rngs=rngs)
        self.norm = GroupNorm(channels_out, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply both."""
        return self.norm(self.conv(x))


class Bottleneck(nnx.Module):
    """1x1 to a quarter of the channels, 3x3 (with the stride), 1x1, and the skip."""

    def __init__(
        self, channels_in: int, channels_out: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        inner = channels_out // 4
        self.downsample = (
            Projection(channels_in, channels_out, stride, dtype=dtype, rngs=rngs)
            if stride > 1 or channels_in != channels_out
            else None
        )
        self.conv1 = _conv(channels_in, inner, 1, dtype=dtype, rngs=rngs)
        self.norm1 = GroupNorm(inner, rngs=rngs)
        self.conv2 = _conv(inner, inner, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.norm2 = GroupNorm(inner, rngs=rngs)
        self.conv3 = _conv(inner, channels_out, 1, dtype=dtype, rngs=rngs)
        self.norm3 = GroupNorm(channels_out, rngs=rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply the block."""
        y = jax.nn.relu(self.norm1(self.conv1(x)))
        y = jax.nn.relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        return jax.nn.relu(y + (x if self.downsample is None else self.downsample(x)))


class Stem(nnx.Module):
    """7x7 at stride 2, norm, ReLU, maxima of 3x3 at stride 2."""

    def __init__(self, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv = _conv(3, 64, 7, stride=2, dtype=dtype, rngs=rngs)
        self.norm = GroupNorm(64, rngs=rngs)

    def __call__(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b _h _w c"]:
        """Apply the layers."""
        return max_pool_3x3(jax.nn.relu(self.norm(self.conv(images))), padding="same")


class Stage(nnx.Module):
    """Blocks, of which the first has the stride."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        depth: int,
        stride: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        blocks = []
        for index in range(depth):
            step = stride if index == 0 else 1
            blocks.append(Bottleneck(channels_in, channels_out, step, dtype=dtype, rngs=rngs))
            channels_in = channels_out
        self.blocks = nnx.List(blocks)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply the blocks."""
        for block in self.blocks:
            x = block(x)
        return x


class Backbone(nnx.Module):
    """Stem and three stages, at strides 4, 8 and 16."""

    def __init__(self, depths: tuple[int, int, int], *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.stem = Stem(dtype=dtype, rngs=rngs)
        stages, channels = [], 64
        for depth, width, stride in zip(depths, WIDTHS, (1, 2, 2), strict=True):
            stages.append(Stage(channels, width, depth, stride, dtype=dtype, rngs=rngs))
            channels = width
        self.stages = nnx.List(stages)

    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        """Return what each stage gives."""
        x, outputs = self.stem(images), []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        return outputs


class HybridEmbed(nnx.Module):
    """Patches of 16 pixels from the last of three stages, by a 1x1 convolution."""

    channels = WIDTHS[:2]
    """Of the maps beside the patches."""

    def __init__(
        self, depths: tuple[int, int, int], width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.backbone = Backbone(depths, dtype=dtype, rngs=rngs)
        self.proj = conv(WIDTHS[2], width, 1, bias=True, dtype=dtype, rngs=rngs)

    def __call__(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[list[Float[Array, "b _h _w _c"]], Float[Array, "b _h _w c"]]:
        """Return the maps of the first two stages, and the patches."""
        *maps, last = self.backbone(images)
        return maps, self.proj(last)
