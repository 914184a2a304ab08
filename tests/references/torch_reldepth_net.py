"""The network of Xian et al., CVPR 2018, Figure 4, in torch, as an oracle for `RelDepthNet`.

    U : y = up2(RCU(T5(c5)))
    F : y = up2(RCU_post(RCU_lat(Tk(ck)) + y))     k = 4, 3, 2
    A : conv3x3 width -> width/2, conv3x3 -> 1, up2

T are the transitional 3x3 convolutions, RCU(x) = x + conv3x3(relu(conv3x3(relu(x)))). The options
are those that the paper leaves open, named as in `reldepth_jax.config.ModelConfig`. Axes: b c h w.
"""

import dataclasses

import torch
from torch import nn
from torch.nn import functional

from tests.references.torch_resnet import TorchResNet


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    encoder: str = "resnet50"
    decoder_width: int = 256
    transition: str = "taps"
    decoder_norm: str = "none"
    skip_relu: bool = False
    head_relu: bool = False
    fusion_align_corners: bool = True
    head_align_corners: bool = True
    mirrored: bool = False


def _conv3x3(channels_in: int, channels_out: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels_out, kernel_size=3, padding=1, bias=True)


class ResidualConvUnit(nn.Module):
    def __init__(self, options: Options):
        super().__init__()
        width = options.decoder_width
        self.conv1 = _conv3x3(width, width)
        if options.decoder_norm == "batch":
            self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = _conv3x3(width, width)
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = self.conv1(functional.relu(x))
        if self.options.decoder_norm == "batch":
            branch = self.bn1(branch)
        branch = self.conv2(functional.relu(branch))
        return branch + (functional.relu(x) if self.options.skip_relu else x)


class Stage(nn.Module):
    """U where there is nothing coarser, else F."""

    def __init__(self, options: Options, channels: int, coarsest: bool):
        super().__init__()
        width = options.decoder_width
        self.transition = _conv3x3(channels, width)
        self.lateral = ResidualConvUnit(options)
        if not coarsest:
            if options.transition == "every_block":
                self.post_transition = _conv3x3(width, width)
            self.post = ResidualConvUnit(options)
        self.options = options

    def forward(self, tap: torch.Tensor, coarser: torch.Tensor | None) -> torch.Tensor:
        y = self.lateral(self.transition(tap))
        if coarser is not None:
            y = y + coarser
            if self.options.transition == "every_block":
                y = self.post_transition(y)
            y = self.post(y)
        return functional.interpolate(
            y, scale_factor=2, mode="bilinear", align_corners=self.options.fusion_align_corners
        )


class Decoder(nn.Module):
    def __init__(self, options: Options, channels: tuple[int, ...]):
        super().__init__()
        self.fusion = nn.ModuleList(
            Stage(options, count, coarsest=count == channels[-1]) for count in channels
        )

    def forward(self, taps: list[torch.Tensor]) -> torch.Tensor:
        c2, c3, c4, c5 = taps
        f2, f3, f4, u = self.fusion
        return f2(c2, f3(c3, f4(c4, u(c5, None))))


class AdaptiveOutput(nn.Module):
    def __init__(self, options: Options):
        super().__init__()
        width = options.decoder_width
        self.conv1 = _conv3x3(width, width // 2)
        if options.decoder_norm == "batch":
            self.bn1 = nn.BatchNorm2d(width // 2)
        self.conv2 = _conv3x3(width // 2, 1)
        self.options = options

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        y = self.conv1(y)
        if self.options.decoder_norm == "batch":
            y = self.bn1(y)
        if self.options.head_relu:
            y = functional.relu(y)
        y = self.conv2(y)
        return functional.interpolate(
            y, scale_factor=2, mode="bilinear", align_corners=self.options.head_align_corners
        )


class TorchRelDepthNet(nn.Module):
    """RGB images in [0, 1], (b, 3, h, w) -> score (b, h, w), growing with distance."""

    def __init__(self, options: Options):
        super().__init__()
        self.encoder = TorchResNet(options.encoder)
        self.decoder = Decoder(options, self.encoder.channels)
        self.head = AdaptiveOutput(options)
        self.options = options

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.options.mirrored:
            return (self.score(images) + self.score(images.flip(3)).flip(2)) / 2
        return self.score(images)

    def score(self, images: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=images.dtype).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], dtype=images.dtype).view(1, 3, 1, 1)
        return self.head(self.decoder(self.encoder((images - mean) / std)))[:, 0]
