"""The network released with "Structure-Guided Ranking Loss" in torch, its names and its quirks.

Written from Xian et al., "Structure-Guided Ranking Loss for Single Image Depth Prediction", CVPR
2020, and the layout of the released weights, without the prefix `module.`. Outputs are inverse
depth, larger is nearer. Axes: b c h w.

    FTB : h = conv3x3(x);  y = relu(relu(h) + branch(relu(h)))
    FFM : y = up2(FTB_2(FTB_1(lateral) + coarser))
    AO  : conv3x3, BatchNorm, ReLU, conv3x3 -> 1, up2

FTB has relu(h) on its skip path because the branch's first ReLU works in place.
"""

import torch
from torch import nn

from tests.references.torch_resnet import TorchResNet, imagenet_normalised


def _conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=True)


def _double(align_corners: bool) -> nn.Upsample:
    return nn.Upsample(scale_factor=2, mode="bilinear", align_corners=align_corners)


class FTB(nn.Module):
    def __init__(self, channels_in: int, channels: int, inplace_relu: bool):
        super().__init__()
        self.conv1 = _conv3x3(channels_in, channels)
        self.conv_branch = nn.Sequential(
            nn.ReLU(inplace=inplace_relu),
            _conv3x3(channels, channels),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            _conv3x3(channels, channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv1(x)
        return torch.relu(x + self.conv_branch(x))


class FFM(nn.Module):
    def __init__(self, channels_in: int, channels: int, inplace_relu: bool, align_corners: bool):
        super().__init__()
        self.ftb1 = FTB(channels_in, channels, inplace_relu)
        self.ftb2 = FTB(channels, channels, inplace_relu)
        self.upsample = _double(align_corners)

    def forward(self, lateral: torch.Tensor, coarser: torch.Tensor) -> torch.Tensor:
        return self.upsample(self.ftb2(self.ftb1(lateral) + coarser))


class AO(nn.Module):
    def __init__(self, channels: int, align_corners: bool):
        super().__init__()
        self.adapt_conv = nn.Sequential(
            _conv3x3(channels, channels // 2),
            nn.BatchNorm2d(channels // 2),
            nn.ReLU(),
            _conv3x3(channels // 2, 1),
            _double(align_corners),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.adapt_conv(x)


class Decoder(nn.Module):
    def __init__(
        self,
        channels: tuple[int, ...],
        features: int,
        *,
        inplace_relu: bool,
        fusion_align_corners: bool,
        head_align_corners: bool,
    ):
        super().__init__()
        c2, c3, c4, c5 = channels
        self.conv = FTB(c5, 2 * features, inplace_relu)
        self.conv1 = _conv3x3(2 * features, features)
        self.upsample = _double(fusion_align_corners)
        self.ffm2 = FFM(c4, features, inplace_relu, fusion_align_corners)
        self.ffm1 = FFM(c3, features, inplace_relu, fusion_align_corners)
        self.ffm0 = FFM(c2, features, inplace_relu, fusion_align_corners)
        self.outconv = AO(features, head_align_corners)

    def forward(self, taps: list[torch.Tensor]) -> torch.Tensor:
        c2, c3, c4, c5 = taps
        x = self.upsample(self.conv1(self.conv(c5)))
        x = self.ffm2(c4, x)
        x = self.ffm1(c3, x)
        x = self.ffm0(c2, x)
        return self.outconv(x)


class Sgrl(nn.Module):
    """RGB images in [0, 1], (b, 3, h, w) -> inverse depth (b, h, w), of either sign."""

    def __init__(
        self,
        encoder: str = "resnet50",
        *,
        depths: tuple[int, int, int, int] | None = None,
        features: int = 256,
        inplace_relu: bool = True,
        fusion_align_corners: bool = True,
        head_align_corners: bool = True,
    ):
        super().__init__()
        self.encoder = TorchResNet(encoder, depths)
        self.decoder = Decoder(
            self.encoder.channels,
            features,
            inplace_relu=inplace_relu,
            fusion_align_corners=fusion_align_corners,
            head_align_corners=head_align_corners,
        )

    @property
    def last_convolution(self) -> nn.Conv2d:
        last = self.decoder.outconv.adapt_conv[3]
        assert isinstance(last, nn.Conv2d)
        return last

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.decoder(self.encoder(imagenet_normalised(images)))[:, 0]
