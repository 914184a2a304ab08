"""Exact numbers of parameters: encoders without classifier; Xian et al. 2018, Figure 4.

Reading A has transitional convolutions before the residual units of the encoder's taps, reading B
before every residual unit.
"""

import functools
import math
from typing import Any

import pytest
import torch
from flax import nnx

from reldepth_jax.config import ModelConfig
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.decoder import Decoder
from reldepth_jax.models.head import AdaptiveOutput
from reldepth_jax.models.network import build
from reldepth_jax.registry import ENCODERS
from tests.references.torch_efficientnet_lite import TorchEfficientNetLite
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet

# encoder alone, reading A, reading B
COUNTS = {
    "resnet18": (11_176_512, 21_946_689, 23_716_929),
    "resnet34": (21_284_672, 32_054_849, 33_825_089),
    "resnet50": (23_508_032, 40_913_729, 42_683_969),
    "resnet101": (42_500_160, 59_905_857, 61_676_097),
    "resnet152": (58_143_808, 75_549_505, 77_319_745),
    "resnext101_32x8d": (86_742_336, 104_148_033, 105_918_273),
}
# channels and repeats of the seven stages
LITE = {
    "efficientnet_lite0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "efficientnet_lite1": ((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
    "efficientnet_lite2": ((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
    "efficientnet_lite3": ((24, 32, 48, 96, 136, 232, 384), (1, 3, 3, 5, 5, 6, 1)),
    "efficientnet_lite4": ((24, 32, 56, 112, 160, 272, 448), (1, 4, 4, 6, 6, 8, 1)),
}
LITE_KERNELS = (3, 3, 5, 3, 5, 5, 3)


def lite_count(channels: tuple[int, ...], repeats: tuple[int, ...]) -> int:
    """Sum over a stem of 32, one block without and all others with sixfold expansion."""
    total = 27 * 32 + 2 * 32
    previous = 32
    stages = zip(channels, repeats, LITE_KERNELS, strict=True)
    for stage, (width, depth, kernel) in enumerate(stages):
        for _ in range(depth):
            inner = previous if stage == 0 else 6 * previous
            expansion = 0 if stage == 0 else previous * inner + 2 * inner
            depthwise = kernel**2 * inner + 2 * inner
            total += expansion + depthwise + inner * width + 2 * width
            previous = width
    return total


def count(state: nnx.State) -> int:
    return sum(math.prod(v.get_value().shape) for _, v in nnx.to_flat_state(state))


def network_count(**options) -> int:
    network = abstract_network(lambda rngs: build(ModelConfig(**options), rngs=rngs))
    return count(nnx.state(network, nnx.Param))


def transformer_count(width: int, blocks: int, table: int, embed: int, dinov2: bool) -> int:
    """Sum over embedding, class token, table of positions, blocks, and DINOv2's scales and norm."""
    attention = 4 * width**2 + 4 * width
    mlp = 8 * width**2 + 5 * width
    block = attention + mlp + 4 * width + (2 * width if dinov2 else 0)
    return embed + (1 + table) * width + blocks * block + (2 * width if dinov2 else 0)


def resnet_v2_count() -> int:
    """Sum over stem and bottlenecks 3, 4, 9, with a scale and a shift behind each convolution."""
    total, channels = 3 * 49 * 64 + 2 * 64, 64
    for depth, width in ((3, 256), (4, 512), (9, 1024)):
        inner = width // 4
        for index in range(depth):
            total += channels * inner + 9 * inner**2 + inner * width + 4 * inner + 2 * width
            total += channels * width + 2 * width if index == 0 else 0
            channels = width
    return total


TRANSFORMERS = {
    f"dinov2_vit{letter}14": transformer_count(width, blocks, 1370, 589 * width, dinov2=True)
    for letter, width, blocks in (("s", 384, 12), ("b", 768, 12), ("l", 1024, 24))
} | {
    "vit_large_patch16_384": transformer_count(1024, 24, 577, 769 * 1024, dinov2=False),
    "vit_base_resnet50_384": transformer_count(
        768, 12, 577, resnet_v2_count() + 1025 * 768, dinov2=False
    ),
}
ENCODER_COUNTS = (
    {name: counts[0] for name, counts in COUNTS.items()}
    | {name: lite_count(*table) for name, table in LITE.items()}
    | TRANSFORMERS
)


def test_every_encoder_has_a_count():
    assert set(ENCODER_COUNTS) == set(ENCODERS.entries)


@pytest.mark.parametrize("name", ENCODER_COUNTS)
def test_encoder_count_is_exact(name: str):
    """`test_plugins` counts the parameters of each encoder: as many as it declares."""
    assert ENCODERS.extras(name)["num_params"] == ENCODER_COUNTS[name]


@functools.cache
def decoder_and_head_count(channels: tuple[int, int, int, int], transition: Any) -> int:
    config = ModelConfig(transition=transition)

    def make(rngs: nnx.Rngs) -> nnx.Module:
        return nnx.List([Decoder(config, channels, rngs=rngs), AdaptiveOutput(config, rngs=rngs)])

    return count(nnx.state(abstract_network(make), nnx.Param))


@pytest.mark.parametrize("name", COUNTS)
def test_network_count_is_exact(name: str):
    """The encoder's count, and decoder and head for its channels."""
    basic = name in ("resnet18", "resnet34")
    channels = (64, 128, 256, 512) if basic else (256, 512, 1024, 2048)
    for transition, expected in zip(("taps", "every_block"), COUNTS[name][1:], strict=True):
        assert COUNTS[name][0] + decoder_and_head_count(channels, transition) == expected


def test_lite3_has_the_count_of_the_encoder_of_midas_small():
    assert ENCODER_COUNTS["efficientnet_lite3"] == 6_422_016


def test_default_network_is_that_of_the_paper():
    assert network_count() == COUNTS["resnet50"][1] == 40_913_729


def test_batch_norm_adds_scale_and_shift_to_seven_units_and_the_head():
    added = 7 * 2 * 256 + 2 * 128
    assert network_count(decoder_norm="batch") == 40_913_729 + added


@pytest.mark.parametrize("name", LITE)
def test_torch_encoder_has_the_same_count(name: str):
    with torch.device("meta"):
        encoder = TorchEfficientNetLite(name)
    assert sum(p.numel() for p in encoder.parameters()) == ENCODER_COUNTS[name]


@pytest.mark.parametrize("name", COUNTS)
def test_torch_reference_has_the_same_counts(name: str):
    with torch.device("meta"):
        network = TorchRelDepthNet(Options(encoder=name))
        reading_b = TorchRelDepthNet(Options(encoder=name, transition="every_block"))
    counts = [
        sum(p.numel() for p in module.parameters())
        for module in (network.encoder, network, reading_b)
    ]
    assert tuple(counts) == COUNTS[name]
