"""ResNets and ResNeXt-101 in torchvision's layout and names, without pooling and classifier.

Sources: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; Xie et al.,
"Aggregated Residual Transformations for Deep Neural Networks", CVPR 2017. The stride of a
bottleneck is on its 3x3 convolution as in torchvision ("v1.5"), not on the first 1x1 as in the
Caffe release that the paper's MatConvNet model descends from: the public weights are torchvision's.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from reldepth_jax.models.layers import BatchNorm, call, conv, max_pool_3x3
from reldepth_jax.public_files import PublicFile
from reldepth_jax.registry import ENCODERS


def _projection(
    channels_in: int, channels_out: int, stride: int, dtype: jnp.dtype, rngs: nnx.Rngs
) -> nnx.List | None:
    """Return the skip path's 1x1 convolution and BatchNorm where it changes size or channels."""
    if stride == 1 and channels_in == channels_out:
        return None
    return nnx.List(
        [
            conv(channels_in, channels_out, 1, stride=stride, dtype=dtype, rngs=rngs),
            BatchNorm(channels_out, rngs=rngs),
        ]
    )


def _skip(x: Float[Array, "b h w c"], downsample: nnx.List | None) -> Float[Array, "b _h _w _c"]:
    for layer in downsample or ():
        x = layer(x)
    return x


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and the skip."""

    expansion = 1

    def __init__(
        self, channels_in: int, width: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        self.conv1 = conv(channels_in, width, 3, stride=stride, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(width, rngs=rngs)
        self.conv2 = conv(width, width, 3, dtype=dtype, rngs=rngs)
        self.bn2 = BatchNorm(width, rngs=rngs)
        self.downsample = _projection(channels_in, width, stride, dtype, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply the block."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return jax.nn.relu(y + _skip(x, self.downsample))


class Bottleneck(nnx.Module):
    """1x1, 3x3 (with the stride), 1x1 to four times the width, and the skip."""

    expansion = 4
    groups = 1
    inner = 1
    """Channels of the 3x3 convolution, as a multiple of the width."""

    def __init__(
        self, channels_in: int, width: int, stride: int, *, dtype: jnp.dtype, rngs: nnx.Rngs
    ):
        channels_out = width * self.expansion
        inner = width * self.inner
        self.conv1 = conv(channels_in, inner, 1, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(inner, rngs=rngs)
        self.conv2 = conv(
            inner, inner, 3, stride=stride, groups=self.groups, dtype=dtype, rngs=rngs
        )
        self.bn2 = BatchNorm(inner, rngs=rngs)
        self.conv3 = conv(inner, channels_out, 1, dtype=dtype, rngs=rngs)
        self.bn3 = BatchNorm(channels_out, rngs=rngs)
        self.downsample = _projection(channels_in, channels_out, stride, dtype, rngs)

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b _h _w _c"]:
        """Apply the block."""
        y = jax.nn.relu(self.bn1(self.conv1(x)))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return jax.nn.relu(y + _skip(x, self.downsample))


class Bottleneck32x8d(Bottleneck):
    """ResNeXt's, in 32 groups of 8 channels at width 64."""

    groups = 32
    inner = 4


class ResNet(nnx.Module):
    """Stem and four stages; the taps are the ends of the stages (conv2_x … conv5_x)."""

    remat = False
    """Whether the gradient recomputes each block instead of keeping its values."""

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.conv1 = conv(3, 64, 7, stride=2, dtype=dtype, rngs=rngs)
        self.bn1 = BatchNorm(64, rngs=rngs)
        channels = 64
        for stage, depth in enumerate(depths):
            width = 64 * 2**stage
            blocks = []
            for index in range(depth):
                stride = 2 if stage > 0 and index == 0 else 1
                blocks.append(block(channels, width, stride, dtype=dtype, rngs=rngs))
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nnx.List(blocks))
        e = block.expansion
        self.channels = (64 * e, 128 * e, 256 * e, 512 * e)

    def __call__(self, images: Float[Array, "b h w 3"]) -> list[Float[Array, "b _h _w _c"]]:
        """Return the taps at strides 4, 8, 16 and 32; `images` as ImageNet weights expect them."""
        x = max_pool_3x3(jax.nn.relu(self.bn1(self.conv1(images))))
        taps = []
        for stage in range(1, 5):
            for block in getattr(self, f"layer{stage}"):
                x = call(block, x, remat=self.remat)
            taps.append(x)
        return taps


def _weights(
    file: str, sha256: str, *, name: str = "", size: int = 0, licence: str = "BSD-3"
) -> PublicFile:
    """Return where torchvision's ImageNet weights are; the file's name has the digest's begin."""
    return PublicFile(
        name=name or file,
        url=f"https://download.pytorch.org/models/{file}-{sha256[:8]}.pth",
        sha256=sha256,
        size=size,
        licence=licence,
    )


@ENCODERS.register(
    "resnet18",
    num_params=11_176_512,
    files=[
        _weights(
            "resnet18",
            "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
            size=46_830_571,
        ),
    ],
)
def resnet18(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> ResNet:
    """Basic blocks 2, 2, 2, 2."""
    return ResNet(BasicBlock, (2, 2, 2, 2), dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "resnet34",
    num_params=21_284_672,
    files=[
        _weights("resnet34", "b627a593bcbe140c234610266fe4f8ae95ea42fc881d091c9b6052e6b1d0590f"),
    ],
)
def resnet34(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> ResNet:
    """Basic blocks 3, 4, 6, 3."""
    return ResNet(BasicBlock, (3, 4, 6, 3), dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "resnet50",
    num_params=23_508_032,
    files=[
        _weights(
            "resnet50",
            "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
            size=102_530_333,
        ),
    ],
)
def resnet50(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> ResNet:
    """Bottlenecks 3, 4, 6, 3: the paper's encoder."""
    return ResNet(Bottleneck, (3, 4, 6, 3), dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "resnet101",
    num_params=42_500_160,
    files=[
        _weights("resnet101", "63fe2227b86e8f1f2063f43a75c84d195911b6a0eace650907dd3dc62dd49a0a"),
    ],
)
def resnet101(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> ResNet:
    """Bottlenecks 3, 4, 23, 3."""
    return ResNet(Bottleneck, (3, 4, 23, 3), dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "resnet152",
    num_params=58_143_808,
    files=[
        _weights("resnet152", "394f9c45966e3651a89bbb78a48410a6755854ce4a5ab64927cf1c7247f85e58"),
    ],
)
def resnet152(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> ResNet:
    """Bottlenecks 3, 8, 36, 3."""
    return ResNet(Bottleneck, (3, 8, 36, 3), dtype=dtype, rngs=rngs)


@ENCODERS.register(
    "resnext101_32x8d",
    num_params=86_742_336,
    files=[
        _weights("resnext101_32x8d", "8ba56ff5"),
        # WSL-Images: 940 million pictures with hashtags, then ImageNet. MiDaS started from these.
        _weights(
            "ig_resnext101_32x8", "c38310e5", name="resnext101_32x8d_wsl", licence="CC-BY-NC 4.0"
        ),
    ],
)
def resnext101_32x8d(*, dtype: jnp.dtype, rngs: nnx.Rngs) -> ResNet:
    """Bottlenecks 3, 4, 23, 3 in groups: the encoder of MiDaS v2 and v2.1."""
    return ResNet(Bottleneck32x8d, (3, 4, 23, 3), dtype=dtype, rngs=rngs)
