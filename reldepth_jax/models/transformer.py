"""Vision transformers: blocks, and the encoder that taps them. Axes: b n c, n tokens.

Source: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; LayerScale: Touvron et al.,
"Going deeper with Image Transformers", ICCV 2021; stochastic depth: Huang et al., ECCV 2016. Names
are timm's, which DINOv2 shares. Sums, normalisation and softmax are in float32 whatever the dtype
of the products.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from reldepth_jax import runtime
from reldepth_jax.models.abstract import starting
from reldepth_jax.models.cpu import tokens
from reldepth_jax.models.layers import call, conv
from reldepth_jax.types import DropPath, MapSize, Tokens

_init = jax.nn.initializers.truncated_normal(0.02)

_attend = jax.jit(jax.nn.dot_product_attention)
"""A function with a name, which `reldepth_jax.export` translates as a whole."""

Positions = Callable[[Float[Array, "1 h w c"], MapSize], Float[Array, "1 _h _w c"]]
"""From the table of positions to that of another grid."""


class Shape(NamedTuple):
    """Sizes of a transformer."""

    width: int
    blocks: int
    heads: int
    grid: int
    """Side of the square table of positions."""


class LayerNorm(nnx.LayerNorm):
    """Over channels, in float32; the output has `dtype`."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        # The fast variance, a difference of squares, fails where channels are far from zero.
        super().__init__(width, epsilon=1e-6, use_fast_variance=False, dtype=jnp.float32, rngs=rngs)
        self.output = dtype

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:  # pyright: ignore[reportIncompatibleMethodOverride]: no mask here
        """Normalise every token."""
        if not runtime.on_cpu():
            return super().__call__(x).astype(self.output)
        assert self.scale is not None
        assert self.bias is not None
        wide = x.astype(jnp.float32)
        y = tokens.layer_norm(wide, self.scale[...], self.bias[...], self.epsilon)
        return y.astype(self.output)


def linear(channels_in: int, channels_out: int, *, dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Linear:
    """Return a linear layer with bias."""
    return nnx.Linear(
        channels_in, channels_out, dtype=dtype, kernel_init=starting(_init), rngs=rngs
    )


def gelu(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """Return the exact GELU, x (1 + erf(x / sqrt 2)) / 2, computed in float32.

    As torch does. The erfc of `jax.nn.gelu` takes two to three times as long on CPU.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 2**-0.5))).astype(x.dtype)


class Attention(nnx.Module):
    """Self-attention. `qkv` gives queries, keys and values, each with its heads one by one."""

    def __init__(self, width: int, heads: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.qkv = linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.proj = linear(width, width, dtype=dtype, rngs=rngs)
        self.heads = heads
        on_cpu = runtime.on_cpu() and dtype == jnp.float32
        self.attend: Callable[..., Array] = tokens.attend if on_cpu else _attend
        """Scales by the root of a head's width; softmax in float32."""

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Apply the layer."""
        queries, keys, values = jnp.split(self.qkv(x), 3, axis=-1)
        shape = (*x.shape[:2], self.heads, -1)
        y = self.attend(queries.reshape(shape), keys.reshape(shape), values.reshape(shape))
        return self.proj(y.reshape(x.shape))


class Mlp(nnx.Module):
    """Two linear layers with the exact GELU between them."""

    def __init__(self, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.fc1 = linear(width, 4 * width, dtype=dtype, rngs=rngs)
        self.fc2 = linear(4 * width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Apply the layers."""
        return self.fc2(gelu(self.fc1(x)))


class LayerScale(nnx.Module):
    """A factor for each channel."""

    def __init__(self, width: int):
        self.gamma = nnx.Param(jnp.ones(width))

    def __call__(self, x: Float[Array, "b n c"]) -> Float[Array, "b n c"]:
        """Return float32."""
        return x * self.gamma[...].reshape(1, 1, -1)


class Block(nnx.Module):
    """Attention, then the two linear layers, each behind a norm and added to its input."""

    def __init__(self, shape: Shape, *, layer_scale: bool, dtype: jnp.dtype, rngs: nnx.Rngs):
        width = shape.width
        self.norm1 = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.attn = Attention(width, shape.heads, dtype=dtype, rngs=rngs)
        self.ls1 = LayerScale(width) if layer_scale else None
        self.norm2 = LayerNorm(width, dtype=dtype, rngs=rngs)
        self.mlp = Mlp(width, dtype=dtype, rngs=rngs)
        self.ls2 = LayerScale(width) if layer_scale else None

    def __call__(
        self, x: Float[Array, "b n c"], key: Key[Array, ""] | None = None, *, share: float = 0.0
    ) -> Float[Array, "b n c"]:
        """Apply the block to float32; with a key, leave each branch out for a `share` of images."""
        branches = (self.norm1, self.attn, self.ls1), (self.norm2, self.mlp, self.ls2)
        for place, (norm, layer, scale) in enumerate(branches):
            y = layer(norm(x))
            y = y.astype(jnp.float32) if scale is None else scale(y)
            if key is not None and share:
                kept = jax.random.bernoulli(
                    jax.random.fold_in(key, place), 1 - share, (len(x), 1, 1)
                )
                y = jnp.where(kept, y / (1 - share), 0)
            x = x + y
        return x


class PatchEmbed(nnx.Module):
    """Patches, each made one token by a convolution that does not overlap."""

    def __init__(self, patch: int, width: int, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.proj = conv(
            3, width, patch, stride=patch, padding="same", bias=True, dtype=dtype, rngs=rngs
        )

    def __call__(
        self, images: Float[Array, "b h w 3"]
    ) -> tuple[list[Float[Array, "b _h _w _c"]], Float[Array, "b _h _w c"]]:
        """Return no maps, and the patches."""
        return [], self.proj(images)


class VisionTransformer(nnx.Module):
    """Tokens of patches and a class token through blocks, some of which are tapped.

    Maps that the embedding gives beside the patches are the first taps.
    """

    remat = False
    """Whether the gradient recomputes each block instead of keeping its values."""

    def __init__(
        self,
        shape: Shape,
        embed: nnx.Module,
        taps: tuple[int, ...],
        positions: Positions,
        *,
        maps: tuple[int, ...] = (),
        layer_scale: bool,
        norm: bool,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        """Make the encoder.

        Args:
          taps: the blocks, counted from 0, whose output is given.
          maps: channels of the maps that `embed` gives.
          layer_scale: whether blocks have it.
          norm: whether a last norm is applied to each tap.
        """
        width = shape.width
        self.cls_token = nnx.Param(_init(rngs.params(), (1, 1, width)))
        self.pos_embed = nnx.Param(_init(rngs.params(), (1, 1 + shape.grid**2, width)))
        self.patch_embed = embed
        self.blocks = nnx.List(
            [
                Block(shape, layer_scale=layer_scale, dtype=dtype, rngs=rngs)
                for _ in range(shape.blocks)
            ]
        )
        self.norm = LayerNorm(width, dtype=dtype, rngs=rngs) if norm else None
        self.taps = taps
        self.positions = positions
        self.grid = shape.grid
        self.dtype = dtype
        self.channels = (*maps, *[width] * len(taps))
        self.tokens = (*[False] * len(maps), *[True] * len(taps))

    def __call__(
        self, images: Float[Array, "b h w 3"], drop: DropPath | None = None
    ) -> list[Float[Array, "b _h _w _c"] | Tokens]:
        """Return the taps; `images` as the weights expect them.

        With `drop`, blocks are left out at random, up to its share in the last one.
        """
        taps, patches = self.patch_embed(images)
        batch, height, width, channels = patches.shape
        x = self._with_positions(patches.astype(jnp.float32))
        last = max(len(self.blocks) - 1, 1)
        for index, block in enumerate(self.blocks):
            key = None if drop is None else jax.random.fold_in(drop.key, index)
            share = 0.0 if drop is None else drop.share * index / last
            x = call(block, x, key, remat=self.remat, share=share)
            if index in self.taps:
                y = x.astype(self.dtype) if self.norm is None else self.norm(x)
                taps.append(
                    Tokens(
                        y[:, 1:].reshape(batch, height, width, channels),
                        y[:, :1].reshape(batch, 1, 1, channels),
                    )
                )
        return taps

    def _with_positions(self, patches: Float[Array, "b h w c"]) -> Float[Array, "b n c"]:
        batch, height, width, channels = patches.shape
        table = self.pos_embed[...]
        grid = table[:, 1:].reshape(1, self.grid, self.grid, channels)
        patches = patches + jnp.broadcast_to(self.positions(grid, (height, width)), patches.shape)
        first = jnp.broadcast_to(self.cls_token[...] + table[:, :1], (batch, 1, channels))
        return jnp.concatenate([first, patches.reshape(batch, -1, channels)], axis=1)
