"""The whole network against torch with random weights: scores and all parameter gradients.

Every option of `ModelConfig` that changes the function is switched once. Ours in float32, torch in
float64, images 32x96.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.cpu import winograd_network
from reldepth_jax.models.network import build
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet
from tests.references.transfer import as_torch, load, randomise

# Ten times what was measured: rounding of float32 (6e-8) over some seventy convolutions. Of
# gradients by Winograd's algorithm, three times.
FORWARD = 2e-5
GRADIENT = 2e-5
# What two values of an option must differ by: far more than a tolerance.
DISTINCT = 1e-2

SWITCHES: list[dict[str, Any]] = [
    {},
    {"transition": "every_block"},
    {"decoder_norm": "batch"},
    {"skip_relu": True},
    {"head_relu": True},
    {"fusion_align_corners": False},
    {"head_align_corners": False},
]
# Fields of `ModelConfig` that do not change the function of given weights, and the sizes.
NO_SWITCH = {"encoder", "decoder_width", "init", "dtype", "output"}
# Switched by published networks, which test_preset_parity compares.
IN_PRESETS = {
    "widening",
    "narrowing",
    "transition_bias",
    "shared_units",
    "unit_last_bias",
    "unit_relu",
    "head",
    "non_negative",
    "normalisation",
}


SEEDS = range(1, 6)


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(1, 32, 96, 3)).astype(np.float32)


def torch_network(**options: Any) -> TorchRelDepthNet:
    module = TorchRelDepthNet(Options(**options))
    randomise(module, seed=0)
    return module.double().eval()


def torch_score(module: TorchRelDepthNet, seed: int) -> torch.Tensor:
    return module(torch.tensor(images(seed).transpose(0, 3, 1, 2), dtype=torch.float64))


def torch_gradients(module: TorchRelDepthNet) -> dict[str, np.ndarray]:
    gradients = {}
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        gradients[name] = parameter.grad.numpy().copy()
    return gradients


@pytest.fixture
def compare(
    parity: Callable[..., None], gradient_parity: Callable[..., None]
) -> Callable[..., None]:
    """Return `compare(encoder, options)`, with Winograd's convolutions if told so."""

    def run(encoder: str, options: dict[str, Any], *, winograd: bool = False) -> None:
        module = torch_network(encoder=encoder, **options)
        config = ModelConfig(encoder=Choice(encoder), **options)
        model = abstract_network(lambda rngs: build(config, rngs=rngs))
        load(model, module)
        model = winograd_network.fast_training(model) if winograd else model
        graph, params, stats = nnx.split(
            nnx.view(model, use_running_average=True), nnx.Param, nnx.BatchStat
        )

        def projected(params, x, direction):
            score = nnx.merge(graph, params, stats, copy=True)(x)
            return jnp.vdot(score, direction), score

        function = jax.jit(jax.grad(projected, has_aux=True))
        case = ", ".join([f"network {encoder}", *(f"{k}={v}" for k, v in options.items())])
        case += ", Winograd" if winograd else ""

        def attempts() -> Iterator[tuple[dict, dict]]:
            for seed in SEEDS:
                direction = np.random.default_rng(seed).normal(size=(1, 32, 96))
                module.zero_grad()
                score = torch_score(module, seed)
                score.backward(torch.tensor(direction))
                gradients, got = function(params, images(seed), direction.astype(np.float32))
                if seed == SEEDS[0]:
                    expected = score.detach().numpy()
                    parity(f"{case}: score", {"score": got}, {"score": expected}, FORWARD)
                yield as_torch(gradients), torch_gradients(module)

        gradient_parity(f"{case}: gradients", attempts(), GRADIENT)

    return run


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_network_agrees_for_every_option(switch: dict[str, Any], compare: Callable[..., None]):
    compare("resnet18", switch)


def test_network_with_the_encoder_of_the_paper_agrees(compare: Callable[..., None]):
    compare("resnet50", {})


def test_all_options_together_agree(compare: Callable[..., None]):
    compare("resnet18", {key: value for switch in SWITCHES for key, value in switch.items()})


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_network_trained_by_winograds_algorithm_agrees(
    encoder: str, take_winograd: None, compare: Callable[..., None]
):
    compare(encoder, {}, winograd=True)


def test_every_option_is_switched():
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    switched = {key for switch in SWITCHES for key in switch}
    assert switched | IN_PRESETS == fields - NO_SWITCH


@pytest.mark.parametrize("switch", SWITCHES[1:], ids=str)
def test_options_of_the_reference_are_different_functions(switch: dict[str, Any]):
    """Else agreement would not show that an option is read."""
    default = torch_network(encoder="resnet18", decoder_width=16)
    switched = torch_network(encoder="resnet18", decoder_width=16, **switch)
    keys = switched.load_state_dict(default.state_dict(), strict=False)
    assert not keys.unexpected_keys
    with torch.no_grad():
        expected = torch_score(default, 1)
        difference = (torch_score(switched, 1) - expected).abs().max() / expected.abs().max()
    assert difference > DISTINCT
