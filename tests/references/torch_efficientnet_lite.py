"""EfficientNet-Lite0 … 4 in torch, in the attribute names of timm's `tf_efficientnet_lite*`.

Written from Tan and Le, "EfficientNet", ICML 2019, Table 1, with the changes of the Lite variants:
no squeeze-and-excitation, ReLU6, stem and first and last stage's depth not scaled. As in
TensorFlow: SAME padding, epsilon 1e-3, momentum 0.99 (torch counts the rest). Axes: b c h w.
"""

import math

import torch
from torch import nn
from torch.nn import functional

# width and depth multipliers
SCALES = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
    "efficientnet_lite3": (1.2, 1.4),
    "efficientnet_lite4": (1.4, 1.8),
}
# channels, repeats, kernel, stride, expansion
STAGES = (
    (16, 1, 3, 1, 1),
    (24, 2, 3, 2, 6),
    (40, 2, 5, 2, 6),
    (80, 3, 3, 2, 6),
    (112, 3, 5, 1, 6),
    (192, 4, 5, 2, 6),
    (320, 1, 3, 1, 6),
)
STEM = 32
TAPS = (1, 2, 4, 6)


def scaled_channels(channels: int, multiplier: float) -> int:
    """Return the nearest multiple of 8 that is not below nine tenths of the product."""
    product = channels * multiplier
    nearest = max(8, int(product + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * product else nearest + 8


class SameConv2d(nn.Conv2d):
    """With SAME padding: ceil(n / stride) outputs, the odd row or column of zeros at the end.

    `same_padding` false: kernel // 2 zeros on all sides, as is usual in torch.
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int,
        *,
        groups: int = 1,
        same_padding: bool,
    ):
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups, bias=False)
        self.same_padding = same_padding

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        before_and_after = []
        # `pad` counts from the last axis.
        for size in (input.shape[3], input.shape[2]):
            total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
            same = [total // 2, total - total // 2]
            before_and_after += same if self.same_padding else [kernel // 2, kernel // 2]
        return super().forward(functional.pad(input, before_and_after))


class DepthwiseSeparable(nn.Module):
    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int,
        *,
        eps: float,
        same_padding: bool,
    ):
        super().__init__()
        self.has_skip = stride == 1 and channels_in == channels_out
        self.conv_dw = SameConv2d(
            channels_in, channels_in, kernel, stride, groups=channels_in, same_padding=same_padding
        )
        self.bn1 = nn.BatchNorm2d(channels_in, eps, momentum=0.01)
        self.conv_pw = nn.Conv2d(channels_in, channels_out, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels_out, eps, momentum=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = functional.relu6(self.bn1(self.conv_dw(x)))
        branch = self.bn2(self.conv_pw(branch))
        return x + branch if self.has_skip else branch


class InvertedResidual(nn.Module):
    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int,
        stride: int,
        expansion: int,
        *,
        eps: float,
        same_padding: bool,
    ):
        super().__init__()
        self.has_skip = stride == 1 and channels_in == channels_out
        inner = expansion * channels_in
        self.conv_pw = nn.Conv2d(channels_in, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner, eps, momentum=0.01)
        self.conv_dw = SameConv2d(
            inner, inner, kernel, stride, groups=inner, same_padding=same_padding
        )
        self.bn2 = nn.BatchNorm2d(inner, eps, momentum=0.01)
        self.conv_pwl = nn.Conv2d(inner, channels_out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels_out, eps, momentum=0.01)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branch = functional.relu6(self.bn1(self.conv_pw(x)))
        branch = functional.relu6(self.bn2(self.conv_dw(branch)))
        branch = self.bn3(self.conv_pwl(branch))
        return x + branch if self.has_skip else branch


class TorchEfficientNetLite(nn.Module):
    """Images (b, 3, h, w), already normalised -> features at strides 4, 8, 16 and 32.

    Without the last convolution and the classifier. `channels`: those of the features.
    """

    def __init__(self, name: str, *, eps: float = 1e-3, same_padding: bool = True):
        super().__init__()
        width, depth = SCALES[name]
        self.conv_stem = SameConv2d(3, STEM, 3, 2, same_padding=same_padding)
        self.bn1 = nn.BatchNorm2d(STEM, eps, momentum=0.01)
        channels_in, stages, ends = STEM, [], []
        for index, (channels, repeats, kernel, stride, expansion) in enumerate(STAGES):
            channels_out = scaled_channels(channels, width)
            if index not in (0, len(STAGES) - 1):
                repeats = math.ceil(repeats * depth)
            blocks = []
            for repeat in range(repeats):
                sizes = (channels_in, channels_out, kernel, stride if repeat == 0 else 1)
                blocks.append(
                    DepthwiseSeparable(*sizes, eps=eps, same_padding=same_padding)
                    if expansion == 1
                    else InvertedResidual(*sizes, expansion, eps=eps, same_padding=same_padding)
                )
                channels_in = channels_out
            stages.append(nn.Sequential(*blocks))
            ends.append(channels_out)
        self.blocks = nn.Sequential(*stages)
        self.channels = tuple(ends[stage] for stage in TAPS)

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        x = functional.relu6(self.bn1(self.conv_stem(images)))
        taps = []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index in TAPS:
                taps.append(x)
        return taps
