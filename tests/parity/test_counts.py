"""Exact numbers of parameters: He et al. 2016 without classifier; Xian et al. 2018, Figure 4.

Reading A has transitional convolutions before the residual units of the encoder's taps, reading B
before every residual unit.
"""

import math

import jax.numpy as jnp
import pytest
import torch
from flax import nnx

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.models.reldepth_net import build
from reldepth_jax.registry import ENCODERS
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet

# encoder alone, reading A, reading B
COUNTS = {
    "resnet18": (11_176_512, 21_946_689, 23_716_929),
    "resnet34": (21_284_672, 32_054_849, 33_825_089),
    "resnet50": (23_508_032, 40_913_729, 42_683_969),
    "resnet101": (42_500_160, 59_905_857, 61_676_097),
    "resnet152": (58_143_808, 75_549_505, 77_319_745),
}


def count(state: nnx.State) -> int:
    return sum(math.prod(v.get_value().shape) for _, v in nnx.to_flat_state(state))


def network_count(**options) -> int:
    network = nnx.eval_shape(lambda: build(ModelConfig(**options), rngs=nnx.Rngs(0)))
    return count(nnx.state(network, nnx.Param))


def test_every_encoder_has_a_count():
    assert set(COUNTS) == set(ENCODERS.entries)


@pytest.mark.parametrize("name", COUNTS)
def test_encoder_count_is_exact(name: str):
    encoder = nnx.eval_shape(
        lambda: ENCODERS.create(name, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    )
    assert count(nnx.state(encoder, nnx.Param)) == COUNTS[name][0]
    assert ENCODERS.extras(name)["num_params"] == COUNTS[name][0]


@pytest.mark.parametrize("name", COUNTS)
def test_network_count_is_exact(name: str):
    encoder = Choice(name)
    assert network_count(encoder=encoder) == COUNTS[name][1]
    assert network_count(encoder=encoder, transition="every_block") == COUNTS[name][2]


def test_default_network_is_that_of_the_paper():
    assert network_count() == 40_913_729


def test_batch_norm_adds_scale_and_shift_to_seven_units_and_the_head():
    added = 7 * 2 * 256 + 2 * 128
    assert network_count(decoder_norm="batch") == 40_913_729 + added


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
