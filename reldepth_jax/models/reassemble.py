"""From the tokens of a transformer to maps that a decoder takes. Axes: b h w c.

Source: Ranftl et al., "Vision Transformers for Dense Prediction", ICCV 2021, Section 3.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.layers import Initializer, conv
from reldepth_jax.models.transformer import gelu
from reldepth_jax.types import Tokens

_SCALES = (4, 2, 1, -2)
"""Of the four maps, finest first: enlarged by, or (negative) reduced by."""


class TransposedConv(nnx.Module):
    """A transposed convolution whose stride is its size: no two inputs reach one output."""

    def __init__(
        self, channels: int, size: int, *, dtype: jnp.dtype, init: Initializer, rngs: nnx.Rngs
    ):
        # The axes that a kernel has everywhere, with outputs before inputs.
        self.kernel = nnx.Param(init(rngs.params(), (size, size, channels, channels)))
        self.bias = nnx.Param(jnp.zeros(channels))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b _h _w o"]:
        """Enlarge the maps."""
        y = self.product(x.astype(self.dtype), self.kernel[...].astype(self.dtype))
        batch, height, rows, width, columns, channels = y.shape
        y = y.reshape(batch, height * rows, width * columns, channels)
        return y + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)

    def product(self, x: Array, kernel: Array) -> Float[Array, "b h u w v o"]:
        """Multiply every pixel by all cells of the kernel."""
        return jnp.einsum("bhwi,uvoi->bhuwvo", x, kernel)


class Reassemble(nnx.Module):
    """Tokens of one tap to a map, by its place finest first.

    The class token is left out, or read with every patch (`ModelConfig.readout`).
    """

    def __init__(
        self, config: ModelConfig, width: int, place: int, *, init: Initializer, rngs: nnx.Rngs
    ):
        """Make the layers for tokens of `width` channels."""
        dtype = jnp.dtype(config.dtype)
        self.channels = config.reassembly[place] * width // 8
        self.readout = (
            nnx.Linear(2 * width, width, dtype=dtype, kernel_init=init, rngs=rngs)
            if config.readout == "project"
            else None
        )
        self.project = conv(width, self.channels, 1, bias=True, dtype=dtype, init=init, rngs=rngs)
        self.resize = self._resizing(_SCALES[place], dtype, init, rngs)

    def _resizing(
        self, scale: int, dtype: jnp.dtype, init: Initializer, rngs: nnx.Rngs
    ) -> TransposedConv | nnx.Conv | None:
        if scale > 1:
            return TransposedConv(self.channels, scale, dtype=dtype, init=init, rngs=rngs)
        if scale == 1:
            return None
        return conv(
            self.channels,
            self.channels,
            3,
            stride=-scale,
            bias=True,
            dtype=dtype,
            init=init,
            rngs=rngs,
        )

    def __call__(self, tokens: Tokens) -> Float[Array, "b _h _w _c"]:
        """Return the map."""
        x = tokens.patches
        if self.readout is not None:
            both = [x, jnp.broadcast_to(tokens.summary, x.shape)]
            x = gelu(self.readout(jnp.concatenate(both, -1)))
        x = self.project(x)
        return x if self.resize is None else self.resize(x)
