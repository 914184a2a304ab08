"""The torch references have the keys, shapes and sizes of the published weights.

Random weights on them give outputs of order one, which every quirk changes.
"""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tests.references.torch_efficientnet_lite import SCALES, SameConv2d, TorchEfficientNetLite
from tests.references.torch_midas import MidasV1, MidasV21, MidasV21Small, ResidualConvUnit
from tests.references.torch_resnet import RESNETS, TorchResNet
from tests.references.torch_sgrl import Sgrl
from tests.references.transfer import randomise

NETWORKS = {
    "midas_v1": MidasV1,
    "midas_v21": MidasV21,
    "midas_v21_small": MidasV21Small,
    "sgrl": Sgrl,
}

# Entries of the published state dict without `fc`, and SHA-256 of its lines "key shape" (shape as
# Python prints the tuple; without the prefix `module.`), sorted and joined by newlines.
PUBLISHED = {
    "midas_v1": (338, "86f90c84dbd976f927b39ad1b6ddf0f64a919b8ee97a9bf7135b3427295d979b"),
    "midas_v21": (666, "bfc75ffcc5d78752bd0ea56fc95d0a5168b3d9f9793c265de9262ae96ab26d1e"),
    "midas_v21_small": (482, "596d1ee871701acb6ab44af418fb5245caf166df7b4ba20ece4a6019e84c80c4"),
    "sgrl": (406, "0a85e1dfa7b1753fa23f199a8a134f54183adc6132bb4f17e66d0de3b3a8f86a"),
    "resnet18": (120, "504739f3083bec5ee0755e2a89f10f73ea11987f4523e1732347283251361313"),
    "resnet34": (216, "44a0fd3c2ef0c9ed6b3728fcbd3cf972f7f37fb30d16328203db128a281b9f9a"),
    "resnet50": (318, "c1f7fd3808aa49e7afb0ec26ebebafda398d447a68e9547c34a3d6fc8945c74c"),
    "resnet101": (624, "a36254db3e8fffb450c31dd6b494ba0ab8b688950ec8119a20d04d4406f2c20d"),
    "resnet152": (930, "5f18e10ce34a015b61df540ecfe924328025794c5b0fe2ce1a588311d85e823f"),
    "resnext101_32x8d": (624, "f5adcf7f13cae77c7884263e36fc97a42c47299e16568d5cd6bbf97ab43e51a7"),
}
PARAMETERS = {
    "midas_v1": 37_371_201,
    "midas_v21": 105_362_945,
    "midas_v21_small": 21_320_545,
    "sgrl": 52_126_529,
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
    "resnext101_32x8d": 86_742_336,
    "efficientnet_lite3": 6_422_016,
}
# Millions with the last convolution (1280) and the classifier (1000), as the authors list them.
LITE_MILLIONS = {
    "efficientnet_lite0": 4.7,
    "efficientnet_lite1": 5.4,
    "efficientnet_lite2": 6.1,
    "efficientnet_lite3": 8.2,
    "efficientnet_lite4": 13.0,
}

# What leaving out a quirk must change, by the largest score: parity is held to 1e-4 of it.
DISTINCT = 5e-3
FAST = {
    "midas_v1": {"depths": (1, 1, 1, 1), "features": 32},
    "midas_v21": {"depths": (1, 1, 1, 1), "features": 32},
    "midas_v21_small": {"encoder": "efficientnet_lite0", "features": 16},
    "sgrl": {"depths": (1, 1, 1, 1), "features": 32},
}
LEFT_OUT: list[tuple[str, dict[str, Any]]] = [
    *((name, {"inplace_relu": False}) for name in ("midas_v1", "midas_v21", "sgrl")),
    ("midas_v21_small", {"inplace_relu": True}),
    *((name, {"fusion_align_corners": False}) for name in NETWORKS),
    *((name, {"head_align_corners": name != "sgrl"}) for name in NETWORKS),
    ("midas_v21_small", {"same_padding": False}),
    ("midas_v21_small", {"eps": 1e-5}),
]


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """Without memory and initial values."""
    with torch.device("meta"):
        return build()


def reference(name: str) -> nn.Module:
    if name in NETWORKS:
        return on_meta(NETWORKS[name])
    if name in RESNETS:
        return on_meta(lambda: TorchResNet(name))
    return on_meta(lambda: TorchEfficientNetLite(name))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def images() -> torch.Tensor:
    return torch.rand((2, 3, 64, 96), generator=torch.Generator().manual_seed(1))


def scores(module: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return module.eval()(images())


def test_every_reference_is_checked():
    assert set(PUBLISHED) == {*NETWORKS, *RESNETS}
    assert set(LITE_MILLIONS) == set(SCALES)


@pytest.mark.parametrize("name", PUBLISHED)
def test_keys_and_shapes_are_those_of_the_published_weights(name: str):
    entries = reference(name).state_dict().items()
    lines = sorted(f"{key} {tuple(value.shape)}" for key, value in entries)
    assert (len(lines), hashlib.sha256("\n".join(lines).encode()).hexdigest()) == PUBLISHED[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts_are_those_of_the_originals(name: str):
    assert count(reference(name)) == PARAMETERS[name]


@pytest.mark.parametrize("name", LITE_MILLIONS)
def test_efficientnet_lites_have_the_published_sizes(name: str):
    module = reference(name)
    features = list(module.parameters())[-1].numel()
    head = features * 1280 + 2 * 1280 + 1280 * 1000 + 1000
    assert round((count(module) + head) / 1e6, 1) == LITE_MILLIONS[name]


@pytest.mark.parametrize("size", [32, 33, 34])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_same_padding_puts_the_odd_zero_last(size: int, kernel: int, stride: int):
    """A row of ones under weights 1, 2, …, kernel: the sums at its ends tell what is padded."""
    conv = SameConv2d(1, 1, kernel, stride, same_padding=True)
    weights = torch.arange(1.0, kernel + 1)
    with torch.no_grad():
        conv.weight.copy_(weights.repeat(kernel, 1)[None, None] / kernel)
        row = conv(torch.ones(1, 1, 64, size))[0, 0, 16]
    outputs = -(-size // stride)
    zeros = max((outputs - 1) * stride + kernel - size, 0)
    assert row.shape == (outputs,)
    torch.testing.assert_close(row[0], weights[zeros // 2 :].sum())
    torch.testing.assert_close(row[-1], weights[: kernel - (zeros - zeros // 2)].sum())


@pytest.mark.parametrize("name", NETWORKS)
def test_random_weights_give_scores_of_order_one(name: str):
    module = reference(name).to_empty(device="cpu")
    randomise(module, seed=0)
    score = scores(module)
    assert score.shape == (2, 64, 96)
    assert 0.3 < score.std() < 1
    assert 0.5 < score.mean() < 2
    # By the image, not only by the place.
    assert (score[0] - score[1]).std() > 0.02
    if name in ("midas_v21", "midas_v21_small"):
        assert (score > 0).float().mean() > 0.9
        assert score.min() >= 0


@pytest.mark.parametrize(("name", "switch"), LEFT_OUT, ids=str)
def test_leaving_out_a_quirk_changes_the_function(name: str, switch: dict[str, Any]):
    build: Any = NETWORKS[name]
    original = build(**FAST[name])
    randomise(original, seed=0)
    without = build(**FAST[name], **switch)
    without.load_state_dict(original.state_dict())
    expected = scores(original)
    assert (scores(without) - expected).abs().max() > DISTINCT * expected.abs().max()


def test_in_place_relu_is_the_skip_of_the_rectified_input():
    """Of v1's unit: relu(x) + branch, where the plain one has x + branch."""
    units = [ResidualConvUnit(8, inplace_relu=flag, second_bias=False) for flag in (True, False)]
    units[1].load_state_dict(units[0].state_dict())
    x = torch.randn((1, 8, 6, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        in_place, plain = (unit(x.clone()) for unit in units)
    torch.testing.assert_close(in_place - plain, torch.relu(x) - x)


@pytest.mark.parametrize("name", ["midas_v21", "midas_v21_small"])
def test_first_unit_of_the_coarsest_fusion_is_dead(name: str):
    build: Any = NETWORKS[name]
    module = build(**FAST[name])
    randomise(module, seed=0)
    module.eval()(images()).sum().backward()
    dead = {key for key, parameter in module.named_parameters() if parameter.grad is None}
    unit = "scratch.refinenet4.resConfUnit1"
    assert dead == {f"{unit}.conv{k}.{leaf}" for k in (1, 2) for leaf in ("weight", "bias")}
