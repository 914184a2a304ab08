"""MiDaS v1, v2.1 (also v2) and v2.1 small in torch, with the names and quirks of the originals.

Written from Ranftl et al., "Towards Robust Monocular Depth Estimation", TPAMI 2022, and the layout
of the published weights. Outputs are inverse depth, larger is nearer. Axes: b c h w.

The originals compute relu(x) + branch(relu(x)) where they say x + branch(relu(x)): v1's and v2.1's
ReLU works in place, on the very tensor that is added later.
"""

import torch
from torch import nn
from torch.nn import functional

from tests.references.torch_efficientnet_lite import TorchEfficientNetLite
from tests.references.torch_resnet import TorchResNet, imagenet_normalised

Depths = tuple[int, int, int, int]


def _double(x: torch.Tensor, align_corners: bool) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=align_corners)


class Interpolate(nn.Module):
    def __init__(self, align_corners: bool):
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _double(x, self.align_corners)


class ResidualConvUnit(nn.Module):
    def __init__(self, features: int, *, inplace_relu: bool, second_bias: bool):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1, bias=True)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1, bias=second_bias)
        self.relu = nn.ReLU(inplace=inplace_relu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu(x)
        out = self.conv1(out)
        out = self.relu(out)
        out = self.conv2(out)
        return out + x


class SharedFusion(nn.Module):
    """v1: one residual unit, applied to the lateral input and again to the sum."""

    def __init__(self, features: int, *, inplace_relu: bool, align_corners: bool):
        super().__init__()
        self.resConfUnit = ResidualConvUnit(features, inplace_relu=inplace_relu, second_bias=False)
        self.align_corners = align_corners

    def forward(self, *xs: torch.Tensor) -> torch.Tensor:
        output = xs[0]
        if len(xs) == 2:
            output += self.resConfUnit(xs[1])
        output = self.resConfUnit(output)
        return _double(output, self.align_corners)


class Fusion(nn.Module):
    """v2.1, and small with `features_out`. With one input `resConfUnit1` is without effect."""

    def __init__(
        self,
        features: int,
        features_out: int | None = None,
        *,
        inplace_relu: bool,
        align_corners: bool,
    ):
        super().__init__()
        self.resConfUnit1 = ResidualConvUnit(features, inplace_relu=inplace_relu, second_bias=True)
        self.resConfUnit2 = ResidualConvUnit(features, inplace_relu=inplace_relu, second_bias=True)
        self.out_conv = None if features_out is None else nn.Conv2d(features, features_out, 1)
        self.align_corners = align_corners

    def forward(self, *xs: torch.Tensor) -> torch.Tensor:
        output = xs[0]
        if len(xs) == 2:
            output = output + self.resConfUnit1(xs[1])
        output = self.resConfUnit2(output)
        output = _double(output, self.align_corners)
        return output if self.out_conv is None else self.out_conv(output)


class _Midas(nn.Module):
    """Encoder stages under `pretrained`, everything else under `scratch`.

    Subclasses put `layer1` … `layer4` into the first, `layer1_rn` … `layer4_rn`, `refinenet1` …
    `refinenet4` and `output_conv` into the second.
    """

    pretrained: nn.ModuleDict
    scratch: nn.ModuleDict

    @property
    def last_convolution(self) -> nn.Conv2d:
        head = self.scratch["output_conv"].children()
        return [part for part in head if isinstance(part, nn.Conv2d)][-1]

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        return imagenet_normalised(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x, laterals = self.normalised(images), []
        for k in (1, 2, 3, 4):
            x = self.pretrained[f"layer{k}"](x)
            laterals.append(self.scratch[f"layer{k}_rn"](x))
        path = self.scratch["refinenet4"](laterals[3])
        for k in (3, 2, 1):
            path = self.scratch[f"refinenet{k}"](path, laterals[k - 1])
        return self.scratch["output_conv"](path)[:, 0]


def _resnet_stages(encoder: TorchResNet) -> nn.ModuleDict:
    stem = (encoder.conv1, encoder.bn1, nn.ReLU(), encoder.maxpool)
    return nn.ModuleDict(
        {
            "layer1": nn.Sequential(*stem, encoder.layer1),
            "layer2": encoder.layer2,
            "layer3": encoder.layer3,
            "layer4": encoder.layer4,
        }
    )


def _laterals(channels: tuple[int, ...], features: list[int]) -> dict[str, nn.Module]:
    return {
        f"layer{k}_rn": nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False)
        for k, (channels_in, channels_out) in enumerate(zip(channels, features, strict=True), 1)
    }


def _nonnegative_head(features: int, inner: int, align_corners: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(features, features // 2, 3, padding=1),
        Interpolate(align_corners),
        nn.Conv2d(features // 2, inner, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(inner, 1, 1),
        nn.ReLU(),
    )


class MidasV1(_Midas):
    """RGB images in [0, 1], (b, 3, h, w) -> inverse depth (b, h, w), of either sign."""

    def __init__(
        self,
        encoder: str = "resnet50",
        *,
        depths: Depths | None = None,
        features: int = 256,
        inplace_relu: bool = True,
        fusion_align_corners: bool = True,
        head_align_corners: bool = False,
    ):
        super().__init__()
        resnet = TorchResNet(encoder, depths)
        self.pretrained = _resnet_stages(resnet)
        self.scratch = nn.ModuleDict(_laterals(resnet.channels, [features] * 4))
        for k in (4, 3, 2, 1):
            self.scratch[f"refinenet{k}"] = SharedFusion(
                features, inplace_relu=inplace_relu, align_corners=fusion_align_corners
            )
        self.scratch["output_conv"] = nn.Sequential(
            nn.Conv2d(features, features // 2, 3, padding=1),
            nn.Conv2d(features // 2, 1, 3, padding=1),
            Interpolate(head_align_corners),
        )

    def normalised(self, images: torch.Tensor) -> torch.Tensor:
        return images


class MidasV21(_Midas):
    """RGB images in [0, 1], (b, 3, h, w) -> inverse depth (b, h, w), at least 0."""

    def __init__(
        self,
        encoder: str = "resnext101_32x8d",
        *,
        depths: Depths | None = None,
        features: int = 256,
        inplace_relu: bool = True,
        fusion_align_corners: bool = True,
        head_align_corners: bool = False,
    ):
        super().__init__()
        resnet = TorchResNet(encoder, depths)
        self.pretrained = _resnet_stages(resnet)
        self.scratch = nn.ModuleDict(_laterals(resnet.channels, [features] * 4))
        for k in (4, 3, 2, 1):
            self.scratch[f"refinenet{k}"] = Fusion(
                features, inplace_relu=inplace_relu, align_corners=fusion_align_corners
            )
        self.scratch["output_conv"] = _nonnegative_head(features, 32, head_align_corners)


class MidasV21Small(_Midas):
    """RGB images in [0, 1], (b, 3, h, w) -> inverse depth (b, h, w), at least 0.

    `features`: those of the finest stage; each coarser one has twice as many.
    """

    def __init__(
        self,
        encoder: str = "efficientnet_lite3",
        *,
        features: int = 64,
        eps: float = 1e-3,
        same_padding: bool = True,
        inplace_relu: bool = False,
        fusion_align_corners: bool = True,
        head_align_corners: bool = False,
    ):
        super().__init__()
        lite = TorchEfficientNetLite(encoder, eps=eps, same_padding=same_padding)
        stages = list(lite.blocks.children())
        self.pretrained = nn.ModuleDict(
            {
                "layer1": nn.Sequential(lite.conv_stem, lite.bn1, nn.ReLU6(), *stages[0:2]),
                "layer2": nn.Sequential(*stages[2:3]),
                "layer3": nn.Sequential(*stages[3:5]),
                "layer4": nn.Sequential(*stages[5:7]),
            }
        )
        widths = [features * factor for factor in (1, 2, 4, 8)]
        self.scratch = nn.ModuleDict(_laterals(lite.channels, widths))
        for k in (4, 3, 2, 1):
            self.scratch[f"refinenet{k}"] = Fusion(
                widths[k - 1],
                widths[max(k - 2, 0)],
                inplace_relu=inplace_relu,
                align_corners=fusion_align_corners,
            )
        self.scratch["output_conv"] = _nonnegative_head(features, 32, head_align_corners)
