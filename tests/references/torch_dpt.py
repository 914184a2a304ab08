"""Depth Anything V1 and V2, DPT-Large and DPT-Hybrid in torch, with the names of the originals.

Written from the papers (Oquab et al. 2024; Yang et al. 2024; Ranftl et al. 2021; Kolesnikov et al.
2020) and the layout of the published weights. `quirks` switch off, one by one, what their code does
beyond the papers. Outputs are inverse depth, larger is nearer; metric ones depth in metres. Axes:
b c h w; tokens b n c, the class token first.
"""

import dataclasses
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from tests.references.torch_resnet import imagenet_normalised


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quirks:
    """As the originals have it; every other value is a mistake that one could make."""

    position_offset: float = 0.1
    position_mode: str = "bicubic"
    """Of Depth Anything; DPT: bilinear."""
    position_antialias: bool = False
    position_align_corners: bool = False
    gelu: str = "none"
    readout_gelu: str | None = "none"
    layer_scale: bool = True
    tap_norm: str = "all"
    """Depth Anything: all; DPT: none."""
    fusion_align_corners: bool = True
    head_align_corners: bool = True
    head_doubles_first: bool = False
    inplace_relu: bool = False
    heads_outermost: bool = False
    scale_by_width: bool = False
    mirrored: bool = False
    class_token: str = "whole"
    class_position: bool = True
    readout_class: str = "second"
    standardised: str = "variance"
    same_padding: bool = True
    pool_same_padding: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a network; the defaults are those of the tests, no published ones."""

    width: int = 48
    blocks: int = 4
    heads: int = 2
    patch: int = 14
    grid: int = 5
    taps: tuple[int, ...] = (0, 1, 2, 3)
    channels: tuple[int, int, int, int] = (6, 12, 24, 48)
    features: int = 8
    depths: tuple[int, int, int] = (1, 1, 1)
    """Of the convolutional stages of a hybrid."""
    max_depth: float = 0.0


VITS = Sizes(
    width=384,
    blocks=12,
    heads=6,
    grid=37,
    taps=(2, 5, 8, 11),
    channels=(48, 96, 192, 384),
    features=64,
)
VITB = dataclasses.replace(VITS, width=768, heads=12, channels=(96, 192, 384, 768), features=128)
VITL = dataclasses.replace(
    VITS,
    width=1024,
    blocks=24,
    heads=16,
    taps=(4, 11, 17, 23),
    channels=(256, 512, 1024, 1024),
    features=256,
)
DPT_LARGE = dataclasses.replace(VITL, patch=16, grid=24, taps=(5, 11, 17, 23))
DPT_HYBRID = Sizes(
    width=768,
    blocks=12,
    heads=12,
    patch=16,
    grid=24,
    taps=(8, 11),
    channels=(256, 512, 768, 768),
    features=256,
    depths=(3, 4, 9),
)


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, quirks: Quirks):
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.heads, self.quirks = heads, quirks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, count, width = x.shape
        inner = width // self.heads
        if self.quirks.heads_outermost:
            qkv = self.qkv(x).reshape(batch, count, self.heads, 3, inner).permute(3, 0, 2, 1, 4)
        else:
            qkv = self.qkv(x).reshape(batch, count, 3, self.heads, inner).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv
        scale = (width if self.quirks.scale_by_width else inner) ** -0.5
        weights = ((queries * scale) @ keys.transpose(-2, -1)).softmax(-1)
        return self.proj((weights @ values).transpose(1, 2).reshape(batch, count, width))


class Mlp(nn.Module):
    def __init__(self, width: int, quirks: Quirks):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)
        self.approximate = quirks.gelu

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc2(functional.gelu(self.fc1(x), approximate=self.approximate))


class LayerScale(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gamma


class Block(nn.Module):
    def __init__(self, sizes: Sizes, quirks: Quirks, *, layer_scale: bool):
        super().__init__()
        width = sizes.width
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, sizes.heads, quirks)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Mlp(width, quirks)
        if layer_scale:
            self.ls1, self.ls2 = LayerScale(width), LayerScale(width)
        self.scaled = layer_scale and quirks.layer_scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.attn(self.norm1(x))
        x = x + (self.ls1(y) if self.scaled else y)
        y = self.mlp(self.norm2(x))
        return x + (self.ls2(y) if self.scaled else y)


class PatchEmbed(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.proj = nn.Conv2d(3, sizes.width, sizes.patch, stride=sizes.patch)

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        return [], self.proj(images)


class Transformer(nn.Module):
    """What DINOv2 and timm's networks share: tokens, blocks, and the last norm."""

    def __init__(self, sizes: Sizes, quirks: Quirks, embed: nn.Module, *, layer_scale: bool):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + sizes.grid**2, sizes.width))
        if layer_scale:
            self.mask_token = nn.Parameter(torch.zeros(1, sizes.width))
        self.patch_embed = embed
        self.blocks = nn.ModuleList(
            [Block(sizes, quirks, layer_scale=layer_scale) for _ in range(sizes.blocks)]
        )
        self.norm = nn.LayerNorm(sizes.width, eps=1e-6)
        if not layer_scale:
            self.head = nn.Linear(sizes.width, 1000)
        self.sizes, self.quirks, self.is_dinov2 = sizes, quirks, layer_scale

    def positions(self, height: int, width: int) -> torch.Tensor:
        grid, quirks = self.sizes.grid, self.quirks
        table = self.pos_embed[:, 1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
        if (height, width) != (grid, grid):
            options: dict[str, Any] = {"mode": quirks.position_mode}
            if quirks.position_mode != "nearest":
                options["antialias"] = quirks.position_antialias
                options["align_corners"] = quirks.position_align_corners
            if self.is_dinov2 and quirks.position_offset:
                options["scale_factor"] = tuple(
                    (n + quirks.position_offset) / grid for n in (height, width)
                )
            else:
                options["size"] = (height, width)
            table = functional.interpolate(table, **options)
        return table.flatten(2).transpose(1, 2)

    def forward(
        self, images: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor], tuple[int, int]]:
        """Return the maps of a convolutional front, the tapped tokens and the size of the grid."""
        maps, x = self.patch_embed(images)
        size = (x.shape[2], x.shape[3])
        x = x.flatten(2).transpose(1, 2) + self.positions(*size)
        first = self.cls_token * (self.quirks.class_token != "zero")
        if self.quirks.class_position:
            first = first + self.pos_embed[:, :1]
        x = torch.cat([first.expand(len(x), -1, -1), x], 1)
        taps = []
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in self.sizes.taps:
                taps.append(x)
        where = self.quirks.tap_norm
        return (
            maps,
            [
                self.norm(tap) if where == "all" or (where == "last" and tap is x) else tap
                for tap in taps
            ],
            size,
        )


class StandardisedConv2d(nn.Conv2d):
    def __init__(self, *args: Any, quirks: Quirks, **options: Any):
        super().__init__(*args, bias=False, **options)
        self.quirks = quirks

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]: torch calls it input
        weight, how = self.weight, self.quirks.standardised
        if how != "none":
            variance, mean = torch.var_mean(weight, (1, 2, 3), keepdim=True, unbiased=False)
            if how == "deviation":  # timm 0.4.5
                weight = (weight - mean) / (variance.sqrt() + 1e-5)
            else:
                weight = (weight - mean) / (variance + 1e-8).sqrt()
        size, stride = self.kernel_size[0], self.stride[0]
        if self.quirks.same_padding:
            x = functional.pad(x, same_sides(x, size, stride))
            return functional.conv2d(x, weight, None, self.stride)
        return functional.conv2d(x, weight, None, self.stride, size // 2)


def same_sides(x: torch.Tensor, size: int, stride: int) -> list[int]:
    """Return TensorFlow's SAME padding: left, right, top, bottom, the odd pixel last."""
    sides = []
    for length in (x.shape[3], x.shape[2]):
        total = max((-(-length // stride) - 1) * stride + size - length, 0)
        sides += [total // 2, total - total // 2]
    return sides


class ConvNorm(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, size: int, stride: int, quirks: Quirks):
        super().__init__()
        self.conv = StandardisedConv2d(
            channels_in, channels_out, size, stride=stride, quirks=quirks
        )
        self.norm = nn.GroupNorm(32, channels_out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


class Stem(ConvNorm):
    def __init__(self, quirks: Quirks):
        super().__init__(3, 64, 7, 2, quirks)
        self.quirks = quirks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(super().forward(x))
        if self.quirks.pool_same_padding:
            x = functional.pad(x, same_sides(x, 3, 2), value=-torch.inf)
            return functional.max_pool2d(x, 3, 2)
        return functional.max_pool2d(x, 3, 2, padding=1)


class Bottleneck(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, stride: int, quirks: Quirks):
        super().__init__()
        inner = channels_out // 4
        sizes = ((channels_in, inner, 1, 1), (inner, inner, 3, stride), (inner, channels_out, 1, 1))
        for k, (before, after, size, step) in enumerate(sizes, 1):
            conv = StandardisedConv2d(before, after, size, stride=step, quirks=quirks)
            self.add_module(f"conv{k}", conv)
            self.add_module(f"norm{k}", nn.GroupNorm(32, after))
        if stride > 1 or channels_in != channels_out:
            self.downsample = ConvNorm(channels_in, channels_out, 1, stride, quirks)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        part: Any = dict(self.named_children())
        skip = part["downsample"](x) if "downsample" in part else x
        x = torch.relu(part["norm1"](part["conv1"](x)))
        x = torch.relu(part["norm2"](part["conv2"](x)))
        return torch.relu(part["norm3"](part["conv3"](x)) + skip)


class HybridEmbed(nn.Module):
    """Three stages of a ResNetV2, and a 1x1 convolution of the last one."""

    def __init__(self, sizes: Sizes, quirks: Quirks):
        super().__init__()
        stages, channels = [], 64
        for depth, width, stride in zip(sizes.depths, (256, 512, 1024), (1, 2, 2), strict=True):
            blocks = []
            for index in range(depth):
                blocks.append(Bottleneck(channels, width, 1 if index else stride, quirks))
                channels = width
            stages.append(nn.ModuleDict({"blocks": nn.Sequential(*blocks)}))
        self.backbone = nn.ModuleDict({"stem": Stem(quirks), "stages": nn.ModuleList(stages)})
        self.proj = nn.Conv2d(1024, sizes.width, 1)

    def forward(self, images: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        x, maps = self.backbone["stem"](images), []
        stages: Any = self.backbone["stages"]
        for stage in stages:
            x = stage["blocks"](x)
            maps.append(x)
        return maps[:2], self.proj(x)


class ResidualConvUnit(nn.Module):
    def __init__(self, features: int, quirks: Quirks):
        super().__init__()
        self.conv1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv2 = nn.Conv2d(features, features, 3, padding=1)
        self.relu = nn.ReLU(inplace=quirks.inplace_relu)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.conv1(self.relu(x))
        return self.conv2(self.relu(out)) + x


class Fusion(nn.Module):
    def __init__(self, features: int, quirks: Quirks):
        super().__init__()
        self.resConfUnit1 = ResidualConvUnit(features, quirks)
        self.resConfUnit2 = ResidualConvUnit(features, quirks)
        self.out_conv = nn.Conv2d(features, features, 1)
        self.align_corners = quirks.fusion_align_corners

    def forward(
        self, x: torch.Tensor, lateral: torch.Tensor | None, size: tuple[int, int]
    ) -> torch.Tensor:
        if lateral is not None:
            x = x + self.resConfUnit1(lateral)
        x = self.resConfUnit2(x)
        x = functional.interpolate(x, size, mode="bilinear", align_corners=self.align_corners)
        return self.out_conv(x)


class Enlargement(nn.ConvTranspose2d):
    def __init__(self, channels: int, size: int, quirks: Quirks):
        super().__init__(channels, channels, size, stride=size)
        self.mirrored = quirks.mirrored

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]: torch calls it input
        weight = self.weight.flip(2, 3) if self.mirrored else self.weight
        return functional.conv_transpose2d(x, weight, self.bias, self.stride)


def resizing(channels: int, place: int, quirks: Quirks) -> nn.Module | None:
    """Return what gives the map at a place, finest first, its size."""
    if place == 2:
        return None
    if place == 3:
        return nn.Conv2d(channels, channels, 3, stride=2, padding=1)
    return Enlargement(channels, (4, 2)[place], quirks)


def scratch(sizes: Sizes, quirks: Quirks) -> dict[str, nn.Module]:
    parts: dict[str, nn.Module] = {}
    for k in (1, 2, 3, 4):
        parts[f"layer{k}_rn"] = nn.Conv2d(
            sizes.channels[k - 1], sizes.features, 3, padding=1, bias=False
        )
        parts[f"refinenet{k}"] = Fusion(sizes.features, quirks)
    return parts


def fused(parts: nn.ModuleDict, maps: list[torch.Tensor]) -> torch.Tensor:
    """Return what the four fusion stages give, at twice the size of the first map."""
    laterals = [parts[f"layer{k}_rn"](x) for k, x in enumerate(maps, 1)]
    height, width = laterals[0].shape[2:]
    sizes = [(2 * height, 2 * width), *(tuple(x.shape[2:]) for x in laterals[:3])]
    x = parts["refinenet4"](laterals[3], None, sizes[3])
    for k in (3, 2, 1):
        x = parts[f"refinenet{k}"](x, laterals[k - 1], sizes[k - 1])
    return x


class DepthAnything(nn.Module):
    """RGB images in [0, 1], (b, 3, h, w) -> inverse depth (b, h, w), at least 0, or metres."""

    def __init__(self, sizes: Sizes = Sizes(), **quirks: Any):
        super().__init__()
        self.sizes, self.quirks = sizes, Quirks(**quirks)
        embed = PatchEmbed(sizes)
        self.pretrained = Transformer(sizes, self.quirks, embed, layer_scale=True)
        parts = scratch(sizes, self.quirks)
        features = sizes.features
        parts["output_conv1"] = nn.Conv2d(features, features // 2, 3, padding=1)
        parts["output_conv2"] = nn.Sequential(
            nn.Conv2d(features // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.Sigmoid() if sizes.max_depth else nn.ReLU(),
        )
        resize = [resizing(c, place, self.quirks) for place, c in enumerate(sizes.channels)]
        self.depth_head = nn.ModuleDict(
            {
                "projects": nn.ModuleList([nn.Conv2d(sizes.width, c, 1) for c in sizes.channels]),
                "resize_layers": nn.ModuleList([layer or nn.Identity() for layer in resize]),
                "scratch": nn.ModuleDict(parts),
            }
        )

    @property
    def example_size(self) -> tuple[int, int]:
        return 4 * self.sizes.patch, 6 * self.sizes.patch

    @property
    def last_convolution(self) -> nn.Module:
        head: Any = self.depth_head
        return head["scratch"]["output_conv2"][2]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        _, taps, grid = self.pretrained(imagenet_normalised(images))
        head: Any = self.depth_head
        maps = []
        for project, resize, tap in zip(head["projects"], head["resize_layers"], taps, strict=True):
            x = tap[:, 1:].transpose(1, 2).unflatten(2, grid)
            maps.append(resize(project(x)))
        parts, quirks = head["scratch"], self.quirks
        x = parts["output_conv1"](fused(parts, maps))
        size = tuple(self.sizes.patch * n for n in grid)
        if quirks.head_doubles_first:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
        x = functional.interpolate(
            x, size, mode="bilinear", align_corners=quirks.head_align_corners
        )
        return parts["output_conv2"](x)[:, 0] * (self.sizes.max_depth or 1)


class Readout(nn.Module):
    def __init__(self, width: int, quirks: Quirks):
        super().__init__()
        self.project = nn.Sequential(nn.Linear(2 * width, width))
        self.quirks = quirks

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        patches, first = tokens[:, 1:], tokens[:, :1].expand(-1, tokens.shape[1] - 1, -1)
        if self.quirks.readout_class == "zero":
            first = torch.zeros_like(first)
        pair = [first, patches] if self.quirks.readout_class == "first" else [patches, first]
        x = self.project(torch.cat(pair, -1))
        how = self.quirks.readout_gelu
        return x if how is None else functional.gelu(x, approximate=how)


class Interpolate(nn.Module):
    def __init__(self, align_corners: bool):
        super().__init__()
        self.align_corners = align_corners

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(
            x, scale_factor=2, mode="bilinear", align_corners=self.align_corners
        )


class Dpt(nn.Module):
    """RGB images in [0, 1], (b, 3, h, w) -> inverse depth (b, h, w), at least 0.

    A hybrid if the transformer has two taps.
    """

    def __init__(self, sizes: Sizes, **quirks: Any):
        super().__init__()
        defaults: dict[str, Any] = {"position_mode": "bilinear", "tap_norm": "none"}
        self.sizes, self.quirks = sizes, Quirks(**(defaults | quirks))
        hybrid = len(sizes.taps) == 2
        embed = HybridEmbed(sizes, self.quirks) if hybrid else PatchEmbed(sizes)
        model = Transformer(sizes, self.quirks, embed, layer_scale=False)
        self.pretrained = nn.ModuleDict({"model": model})
        self.first = 3 if hybrid else 1
        for k in range(self.first, 5):
            channels = sizes.channels[k - 1]
            parts = [
                Readout(sizes.width, self.quirks),
                nn.Identity(),
                nn.Identity(),
                nn.Conv2d(sizes.width, channels, 1),
                resizing(channels, k - 1, self.quirks),
            ]
            post = nn.Sequential(*(part for part in parts if part is not None))
            self.pretrained[f"act_postprocess{k}"] = post
        parts = scratch(sizes, self.quirks)
        parts["output_conv"] = nn.Sequential(
            nn.Conv2d(sizes.features, sizes.features // 2, 3, padding=1),
            Interpolate(self.quirks.head_align_corners),
            nn.Conv2d(sizes.features // 2, 32, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 1, 1),
            nn.ReLU(),
        )
        self.scratch = nn.ModuleDict(parts)

    @property
    def example_size(self) -> tuple[int, int]:
        return 4 * self.sizes.patch, 6 * self.sizes.patch

    @property
    def last_convolution(self) -> nn.Module:
        parts: Any = self.scratch
        return parts["output_conv"][4]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps, taps, grid = self.pretrained["model"]((images - 0.5) / 0.5)
        for k, tap in enumerate(taps, self.first):
            post = list(self.pretrained[f"act_postprocess{k}"].children())
            x = post[0](tap).transpose(1, 2).unflatten(2, grid)
            for part in post[3:]:
                x = part(x)
            maps.append(x)
        return self.scratch["output_conv"](fused(self.scratch, maps))[:, 0]
