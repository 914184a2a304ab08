"""The decoder: residual convolution units and multi-scale fusion.

Source: Xian et al., CVPR 2018, Section 3.3 and Figure 4, after RefineNet. Axes: b h w c.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.layers import BatchNorm, Initializer, call, conv, he_fan_out
from reldepth_jax.models.reassemble import Reassemble
from reldepth_jax.ops.resize import resize
from reldepth_jax.types import MapSize, Tokens

_gaussian: Initializer = jax.nn.initializers.normal(0.01)


def initializer(config: ModelConfig) -> Initializer:
    """Return how new layers start."""
    return he_fan_out if config.init == "he" else _gaussian


def decoder_conv(
    config: ModelConfig,
    channels_in: int,
    channels_out: int,
    rngs: nnx.Rngs,
    *,
    size: int = 3,
    bias: bool = True,
    last: bool = False,
) -> nnx.Conv:
    """Return a convolution initialised as the configuration says.

    The `last` one of a residual unit or of the head starts small with He initialisation too:
    without normalisation each unit would otherwise double the variance.
    """
    init = _gaussian if last else initializer(config)
    dtype = jnp.dtype(config.dtype)
    return conv(channels_in, channels_out, size, bias=bias, dtype=dtype, init=init, rngs=rngs)


class ResidualConvUnit(nnx.Module):
    """Figure 4(c): x + conv(relu(conv(relu(x)))), two 3x3 convolutions of equal width.

    `decoder_norm="batch"` normalises after the first convolution; `skip_relu` adds relu(x);
    `unit_relu` ends with a ReLU.
    """

    def __init__(self, config: ModelConfig, width: int, *, rngs: nnx.Rngs):
        self.conv1 = decoder_conv(config, width, width, rngs)
        self.bn1 = BatchNorm(width, rngs=rngs) if config.decoder_norm == "batch" else None
        self.conv2 = decoder_conv(config, width, width, rngs, bias=config.unit_last_bias, last=True)
        self.skip_relu = config.skip_relu
        self.unit_relu = config.unit_relu

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Apply the unit."""
        activated = jax.nn.relu(x)
        y = self.conv1(activated)
        if self.bn1 is not None:
            y = self.bn1(y)
        y = self.conv2(jax.nn.relu(y))
        y = (activated if self.skip_relu else x) + y
        return jax.nn.relu(y) if self.unit_relu else y


class FeatureFusionBlock(nnx.Module):
    """One stage of progressive refinement: lateral unit, sum, second unit, enlargement.

    The coarsest stage has no coarser input: it is the lateral unit and the enlargement.
    """

    def __init__(
        self,
        config: ModelConfig,
        channels: int,
        width: int,
        finer_width: int,
        *,
        coarsest: bool,
        rngs: nnx.Rngs,
    ):
        """Make the stage of a tap with `channels`; it works in `width`, gives `finer_width`."""
        self.transition = decoder_conv(config, channels, width, rngs, bias=config.transition_bias)
        self.lateral = ResidualConvUnit(config, width, rngs=rngs)
        everywhere = config.transition == "every_block" and not coarsest
        self.post_transition = (
            decoder_conv(config, width, width, rngs, bias=config.transition_bias)
            if everywhere
            else None
        )
        own_post = not coarsest and not config.shared_units
        self.post = ResidualConvUnit(config, width, rngs=rngs) if own_post else None
        differs = config.narrowing == "conv3x3" and width != finer_width
        self.narrow_before = decoder_conv(config, width, finer_width, rngs) if differs else None
        everywhere = config.narrowing == "conv1x1"
        self.narrow_after = (
            decoder_conv(config, width, finer_width, rngs, size=1) if everywhere else None
        )
        self.align_corners = config.fusion_align_corners

    def __call__(
        self,
        tap: Float[Array, "b h w _c"],
        coarser: Float[Array, "b h w c"] | None,
        *,
        size: MapSize,
    ) -> Float[Array, "b _h _w _d"]:
        """Merge a tap with the output of the next coarser stage (of the same size).

        The output has `size`, that of the next finer tap.
        """
        x = self.lateral(self.transition(tap))
        if coarser is not None:
            x = x + coarser
            if self.post_transition is not None:
                x = self.post_transition(x)
            unit = self.lateral if self.post is None else self.post
            x = unit(x)
        if self.narrow_before is not None:
            x = self.narrow_before(x)
        x = resize(x, size, align_corners=self.align_corners)
        return x if self.narrow_after is None else self.narrow_after(x)


class Decoder(nnx.Module):
    """Four fusion stages, applied from the coarsest to the finest tap.

    Taps that are tokens become maps first.
    """

    remat = False
    """Whether the gradient recomputes each stage instead of keeping its values."""

    def __init__(
        self,
        config: ModelConfig,
        channels: tuple[int, int, int, int],
        tokens: Sequence[bool] = (False,) * 4,
        *,
        rngs: nnx.Rngs,
    ):
        """Make the stages for taps of these channels, some of which are `tokens`."""
        init = initializer(config)
        maps = [
            Reassemble(config, width, place, init=init, rngs=rngs) if made else None
            for place, (width, made) in enumerate(zip(channels, tokens, strict=True))
        ]
        self.reassemble = nnx.List(maps) if any(tokens) else None
        widths_in = [
            width if made is None else made.channels
            for width, made in zip(channels, maps, strict=True)
        ]
        last = len(channels) - 1
        widths = [config.decoder_width * multiple for multiple in config.widening]
        self.fusion = nnx.List(
            [
                FeatureFusionBlock(config, c, width, finer_width, coarsest=index == last, rngs=rngs)
                for index, (c, width, finer_width) in enumerate(
                    zip(widths_in, widths, [widths[0], *widths[:-1]], strict=True)
                )
            ]
        )

    def __call__(
        self, taps: Sequence[Float[Array, "b _h _w _c"] | Tokens]
    ) -> Float[Array, "b _h _w c"]:
        """Return features at twice the resolution of the first map; `taps` finest first."""
        maps: list[Array] = []
        for place, tap in enumerate(taps):
            if isinstance(tap, Tokens):
                assert self.reassemble is not None
                make = self.reassemble[place]
                assert make is not None
                tap = make(tap)
            maps.append(tap)
        height, width = maps[0].shape[1:3]
        sizes = [(2 * height, 2 * width), *(each.shape[1:3] for each in maps[:-1])]
        x = None
        for fusion, tap, size in reversed(list(zip(self.fusion, maps, sizes, strict=True))):
            x = call(fusion, tap, x, remat=self.remat, size=size)
        assert x is not None
        return x
