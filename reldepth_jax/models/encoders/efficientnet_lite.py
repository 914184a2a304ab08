"""EfficientNet-Lite0 … 4 in the layout and names of timm's `tf_efficientnet_lite*`.

Source: Tan and Le, "EfficientNet", ICML 2019, Table 1 and Equation 3, as changed for the Lite
variants: no squeeze-and-excitation, ReLU6, and neither the stem nor the depths of the first and
last stage scaled. Without last convolution, pooling and classifier. As in TensorFlow: SAME padding,
epsilon 1e-3, momentum 0.99.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.models.layers import BatchNorm, call, conv
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import ENCODERS

_STEM = 32
# channels, repeats, kernel, stride, expansion
_STAGES = (
    (16, 1, 3, 1, 1),
    (24, 2, 3, 2, 6),
    (40, 2, 5, 2, 6),
    (80, 3, 3, 2, 6),
    (112, 3, 5, 1, 6),
    (192, 4, 5, 2, 6),
    (320, 1, 3, 1, 6),
)
_TAPS = (1, 2, 4, 6)


_conv = functools.partial(conv, padding="same")
_norm = functools.partial(BatchNorm, epsilon=1e-3, momentum=0.99)


class DepthwiseSeparable(nnx.Module):
    """A depthwise convolution (with the stride) and a linear 1x1."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        stride: int,
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        make = functools.partial(_conv, dtype=dtype, rngs=rngs)
        self.conv_dw = make(channels_in, channels_in, size, stride=stride, groups=channels_in)
        self.bn1 = _norm(channels_in, rngs=rngs)
        self.conv_pw = make(channels_in, channels_out, 1)
        self.bn2 = _norm(channels_out, rngs=rngs)
        self.has_skip = stride == 1 and channels_in == channels_out

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply the block."""
        y = jax.nn.relu6(self.bn1(self.conv_dw(x)))
        y = self.bn2(self.conv_pw(y))
        return x + y if self.has_skip else y


class InvertedResidual(nnx.Module):
    """1x1 to more channels, a depthwise convolution (with the stride), a linear 1x1."""

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        size: int,
        stride: int,
        *,
        expansion: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        inner = expansion * channels_in
        make = functools.partial(_conv, dtype=dtype, rngs=rngs)
        self.conv_pw = make(channels_in, inner, 1)
        self.bn1 = _norm(inner, rngs=rngs)
        self.conv_dw = make(inner, inner, size, stride=stride, groups=inner)
        self.bn2 = _norm(inner, rngs=rngs)
        self.conv_pwl = make(inner, channels_out, 1)
        self.bn3 = _norm(channels_out, rngs=rngs)
        self.has_skip = stride == 1 and channels_in == channels_out

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply the block."""
        y = jax.nn.relu6(self.bn1(self.conv_pw(x)))
        y = jax.nn.relu6(self.bn2(self.conv_dw(y)))
        y = self.bn3(self.conv_pwl(y))
        return x + y if self.has_skip else y


class EfficientNetLite(nnx.Module):
    """Stem and seven stages; the taps are the ends of stages 1, 2, 4 and 6, counted from 0.

    `width` and `depth` multiply channels and repeats: the former to the nearest multiple of 8 that
    is not below nine tenths, the latter rounded up.
    """

    remat = False
    """Whether the gradient recomputes each block instead of keeping its values."""

    def __init__(self, width: float, depth: float, *, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.conv_stem = _conv(3, _STEM, 3, stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = _norm(_STEM, rngs=rngs)
        channels, stages, ends = _STEM, [], []
        for stage, (base, repeats, size, stride, expansion) in enumerate(_STAGES):
            channels_out = _rounded(base * width)
            if 0 < stage < len(_STAGES) - 1:
                repeats = math.ceil(repeats * depth)
            blocks = []
            for index in range(repeats):
                step = stride if index == 0 else 1
                make = (
                    DepthwiseSeparable
                    if expansion == 1
                    else functools.partial(InvertedResidual, expansion=expansion)
                )
                blocks.append(make(channels, channels_out, size, step, dtype=dtype, rngs=rngs))
                channels = channels_out
            stages.append(nnx.List(blocks))
            ends.append(channels)
        self.blocks = nnx.List(stages)
        self.channels = tuple(ends[stage] for stage in _TAPS)

    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        """Return the taps at strides 4, 8, 16 and 32; `images` as the weights expect them."""
        x = jax.nn.relu6(self.bn1(self.conv_stem(images)))
        taps = []
        for stage, blocks in enumerate(self.blocks):
            for block in blocks:
                x = call(block, x, remat=self.remat)
            if stage in _TAPS:
                taps.append(x)
        return taps


def _rounded(channels: float) -> int:
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8


def _weights(name: str, digits: str) -> PublicFile:
    """Return where timm's conversion of Google's ImageNet weights is."""
    releases = "https://github.com/rwightman/pytorch-image-models/releases/download"
    url = f"{releases}/v0.1-weights/tf_{name}-{digits}.pth"
    return PublicFile(name=name, url=url, sha256=digits)


@ENCODERS.register(
    "efficientnet_lite0",
    num_params=2_958_848,
    files=[_weights("efficientnet_lite0", "0aa007d2")],
)
def efficientnet_lite0(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> EfficientNetLite:
    """Width 1.0, depth 1.0: for images of about 224x224."""
    return EfficientNetLite(1.0, 1.0, dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "efficientnet_lite1",
    num_params=3_723_520,
    files=[_weights("efficientnet_lite1", "bde8b488")],
)
def efficientnet_lite1(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> EfficientNetLite:
    """Width 1.0, depth 1.1: for images of about 240x240."""
    return EfficientNetLite(1.0, 1.1, dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "efficientnet_lite2",
    num_params=4_357_952,
    files=[_weights("efficientnet_lite2", "dcccb7df")],
)
def efficientnet_lite2(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> EfficientNetLite:
    """Width 1.1, depth 1.2: for images of about 260x260."""
    return EfficientNetLite(1.1, 1.2, dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "efficientnet_lite3",
    num_params=6_422_016,
    files=[_weights("efficientnet_lite3", "b733e338")],
)
def efficientnet_lite3(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> EfficientNetLite:
    """Width 1.2, depth 1.4: for images of about 280x280; the encoder of MiDaS small."""
    return EfficientNetLite(1.2, 1.4, dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "efficientnet_lite4",
    num_params=11_149_568,
    files=[_weights("efficientnet_lite4", "741542c3")],
)
def efficientnet_lite4(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> EfficientNetLite:
    """Width 1.4, depth 1.8: for images of about 300x300."""
    return EfficientNetLite(1.4, 1.8, dtype=dtype, rngs=rngs)
