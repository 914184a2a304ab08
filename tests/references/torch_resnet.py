"""ResNets in torch, in torchvision's layout and attribute names, as an oracle for the encoders.

Written from He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, Table 1, with the
stride of a bottleneck on its 3x3 convolution ("v1.5"), and Xie et al., "Aggregated Residual
Transformations for Deep Neural Networks", CVPR 2017, for the groups. Axes: b c h w.
"""

import torch
from torch import nn


def _downsample(channels_in: int, channels_out: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels_in == channels_out:
        return None
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 1, stride=stride, bias=False),
        nn.BatchNorm2d(channels_out),
    )


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels_in: int, width: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _downsample(channels_in, width, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = torch.relu(self.bn1(self.conv1(x)))
        branch = self.bn2(self.conv2(branch))
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(skip + branch)


class Bottleneck(nn.Module):
    expansion = 4
    groups = 1
    # Channels of the 3x3 convolution per `width`.
    inner = 1

    def __init__(self, channels_in: int, width: int, stride: int):
        super().__init__()
        channels_out = 4 * width
        inner, groups = self.inner * width, self.groups
        self.conv1 = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.conv3 = nn.Conv2d(inner, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out)
        self.downsample = _downsample(channels_in, channels_out, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = torch.relu(self.bn1(self.conv1(x)))
        branch = torch.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        skip = x if self.downsample is None else self.downsample(x)
        return torch.relu(skip + branch)


class Bottleneck32x8d(Bottleneck):
    """32 groups, in the first stage of 8 channels each: 256 where `width` is 64."""

    groups = 32
    inner = 4


RESNETS: dict[str, tuple[type[BasicBlock] | type[Bottleneck], tuple[int, int, int, int]]] = {
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
    "resnet101": (Bottleneck, (3, 4, 23, 3)),
    "resnet152": (Bottleneck, (3, 8, 36, 3)),
    "resnext101_32x8d": (Bottleneck32x8d, (3, 4, 23, 3)),
}


def imagenet_normalised(images: torch.Tensor) -> torch.Tensor:
    """RGB in [0, 1], (b, 3, h, w) -> minus ImageNet's mean, by its deviation."""
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=images.dtype).view(1, 3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=images.dtype).view(1, 3, 1, 1)
    return (images - mean) / std


class TorchResNet(nn.Module):
    """Images (b, 3, h, w), already normalised -> the ends of layer1 … layer4.

    `depths`: blocks per stage, instead of the published ones.
    """

    def __init__(self, name: str, depths: tuple[int, int, int, int] | None = None):
        super().__init__()
        block, published = RESNETS[name]
        depths = depths or published
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        widths = (64, 128, 256, 512)
        self.channels = tuple(width * block.expansion for width in widths)
        inputs = (64, *self.channels[:3])
        self.layer1, self.layer2, self.layer3, self.layer4 = (
            nn.Sequential(
                block(channels_in, width, stride),
                *(block(width * block.expansion, width, 1) for _ in range(depth - 1)),
            )
            for channels_in, width, stride, depth in zip(
                inputs, widths, (1, 2, 2, 2), depths, strict=True
            )
        )

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        c1 = self.maxpool(torch.relu(self.bn1(self.conv1(images))))
        c2 = self.layer1(c1)
        c3 = self.layer2(c2)
        c4 = self.layer3(c3)
        c5 = self.layer4(c4)
        return [c2, c3, c4, c5]
