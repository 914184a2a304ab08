"""The same network in PyTorch.

Written from the papers that `reldepth_jax.models` names, with torchvision's attribute names, so
that `reldepth_jax.weights.arrays` fills it. Only what the default `ModelConfig` is: the decoder of
Xian et al., CVPR 2018, Figure 4, on a ResNet. Axes: b c h w inside, images b h w 3 as ours.
Scores grow with distance.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from reldepth_jax.config import ModelConfig

RESNETS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
"""Blocks of each stage; two 3x3 convolutions a block in the first two, else bottlenecks."""


def _normed(inputs: int, outputs: int, size: int, stride: int = 1) -> list[nn.Module]:
    padding = size // 2
    conv = nn.Conv2d(inputs, outputs, size, stride=stride, padding=padding, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """A residual block; `widths` are the channels after each convolution."""

    def __init__(self, inputs: int, widths: tuple[int, ...], stride: int):
        super().__init__()
        sizes = (1, 3, 1) if len(widths) == 3 else (3, 3)
        # The stride is on the first 3x3 convolution.
        strides = [stride if place == sizes.index(3) else 1 for place in range(len(sizes))]
        self.count = len(widths)
        for place, parts in enumerate(zip((inputs, *widths), widths, sizes, strides, strict=False)):
            conv, norm = _normed(*parts)
            setattr(self, f"conv{place + 1}", conv)
            setattr(self, f"bn{place + 1}", norm)
        changes = stride != 1 or inputs != widths[-1]
        self.downsample = (
            nn.Sequential(*_normed(inputs, widths[-1], 1, stride)) if changes else None
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the block."""
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.count:
                y = functional.relu(y)
        return functional.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """He et al., CVPR 2016: normalised images -> the outputs of the four stages."""

    def __init__(self, name: str):
        super().__init__()
        self.conv1, self.bn1 = _normed(3, 64, 7, 2)
        basic = name in ("resnet18", "resnet34")
        self.channels = [width * (1 if basic else 4) for width in (64, 128, 256, 512)]
        inputs = 64
        for stage, (blocks, outputs) in enumerate(zip(RESNETS[name], self.channels, strict=True)):
            widths = (outputs, outputs) if basic else (outputs // 4, outputs // 4, outputs)
            made = [Block(inputs, widths, 2 if stage else 1)]
            made += [Block(outputs, widths, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*made))
            inputs = outputs

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the taps, finest first."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = functional.max_pool2d(x, 3, stride=2, padding=1)
        taps = []
        for stage in range(1, 5):
            x = getattr(self, f"layer{stage}")(x)
            taps.append(x)
        return taps


def _conv3x3(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


class Unit(nn.Module):
    """Figure 4(c)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = _conv3x3(width, width), _conv3x3(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the unit."""
        return x + self.conv2(functional.relu(self.conv1(functional.relu(x))))


def _enlarged(x: torch.Tensor) -> torch.Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


class Fusion(nn.Module):
    """Figure 4(b), and 4(a) where there is nothing coarser."""

    def __init__(self, channels: int, width: int, coarsest: bool):
        super().__init__()
        self.transition, self.lateral = _conv3x3(channels, width), Unit(width)
        if not coarsest:
            self.post = Unit(width)

    def forward(self, tap: torch.Tensor, coarser: torch.Tensor | None) -> torch.Tensor:
        """Merge a tap with the output of the next coarser stage."""
        x = self.lateral(self.transition(tap))
        return _enlarged(x if coarser is None else self.post(x + coarser))


class Decoder(nn.Module):
    """Four stages, from the coarsest tap to the finest."""

    def __init__(self, channels: list[int], width: int):
        super().__init__()
        stages = [Fusion(count, width, stage == 3) for stage, count in enumerate(channels)]
        self.fusion = nn.ModuleList(stages)

    def forward(self, taps: list[torch.Tensor]) -> torch.Tensor:
        """Return features at half the resolution of the image."""
        x = None
        for fusion, tap in zip(reversed(self.fusion), reversed(taps), strict=True):
            x = fusion(tap, x)
        assert x is not None
        return x


class Head(nn.Module):
    """Figure 4(d)."""

    def __init__(self, width: int):
        super().__init__()
        self.conv1, self.conv2 = _conv3x3(width, width // 2), _conv3x3(width // 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float32 scores at twice the size."""
        return _enlarged(self.conv2(self.conv1(x)).float())[:, 0]


class Network(nn.Module):
    """RGB uint8 (b, h, w, 3), as they come -> float32 scores (b, h, w)."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, encoder: str, width: int):
        super().__init__()
        self.encoder = ResNet(encoder)
        self.decoder, self.head = Decoder(self.encoder.channels, width), Head(width)
        for name, values in (("mean", (0.485, 0.456, 0.406)), ("std", (0.229, 0.224, 0.225))):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return scores; a permuted (b, h, w, 3) is channels-last."""
        x = images.permute(0, 3, 1, 2).float() / 255
        return self.head(self.decoder(self.encoder((x - self.mean) / self.std)))


def network(
    config: ModelConfig, arrays: Mapping[str, np.ndarray] | None, device: torch.device
) -> Network:
    """Return it with weights from `reldepth_jax.weights.arrays.from_state`; None: its own."""
    made = Network(config.encoder.name, config.decoder_width)
    if arrays is not None:
        # Without a version, BatchNorm does not ask for its counter of batches.
        made.load_state_dict({name: torch.tensor(array) for name, array in arrays.items()})
    made = made.to(device)
    # Not among the overloads that torch declares.
    made.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return made


class OfBytes(nn.Module):
    """RGB uint8 (b, h, w, 3) -> what a network of (b, 3, h, w) in [0, 1] returns of them."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the network's output."""
        return self.network(images.permute(0, 3, 1, 2).float() / 255)
