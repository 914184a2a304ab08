"""The whole network against torch with random weights: scores and all parameter gradients.

Every option of `ModelConfig` that changes the function is switched once. Float32, images 64x96.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from reldepth_jax.config import Choice, ModelConfig
from reldepth_jax.models.reldepth_net import build
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet
from tests.references.transfer import as_torch, load, randomise

# Ten times what was measured. Rounding of float32 over some seventy convolutions.
FORWARD = 2e-5
# Besides, rounding may put a value on the other side of a ReLU, on another machine than here.
GRADIENT = 2e-4
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
NO_SWITCH = {"encoder", "decoder_width", "init", "dtype"}


def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(1, 64, 96, 3)).astype(np.float32)


def torch_network(**options: Any) -> TorchRelDepthNet:
    module = TorchRelDepthNet(Options(**options))
    randomise(module, seed=0)
    return module.eval()


def torch_score(module: TorchRelDepthNet) -> torch.Tensor:
    return module(torch.from_numpy(images().transpose(0, 3, 1, 2).copy()))


def compare(encoder: str, switch: dict[str, Any], parity: Callable[..., None]) -> None:
    module = torch_network(encoder=encoder, **switch)
    model = build(ModelConfig(encoder=Choice(encoder), **switch), rngs=nnx.Rngs(0))
    load(model, module)
    direction = np.random.default_rng(2).normal(size=(1, 64, 96)).astype(np.float32)

    expected = torch_score(module)
    expected.backward(torch.from_numpy(direction))
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}  # pyright: ignore[reportOptionalMemberAccess]

    graph, params, stats = nnx.split(
        nnx.view(model, use_running_average=True), nnx.Param, nnx.BatchStat
    )

    def projected(params: nnx.State, x: jax.Array):
        score = nnx.merge(graph, params, stats, copy=True)(x)
        return jnp.vdot(score, direction), score

    grad, score = jax.jit(jax.grad(projected, has_aux=True))(params, jnp.asarray(images()))
    case = ", ".join([f"network {encoder}", *(f"{k}={v}" for k, v in switch.items())])
    parity(f"{case}: score", {"score": score}, {"score": expected.detach().numpy()}, FORWARD)
    parity(f"{case}: gradients", as_torch(grad), gradients, GRADIENT)


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_network_agrees_for_every_option(switch: dict[str, Any], parity: Callable[..., None]):
    compare("resnet18", switch, parity)


def test_network_with_the_encoder_of_the_paper_agrees(parity: Callable[..., None]):
    compare("resnet50", {}, parity)


def test_all_options_together_agree(parity: Callable[..., None]):
    everything = {key: value for switch in SWITCHES for key, value in switch.items()}
    compare("resnet18", everything, parity)


def test_every_option_is_switched():
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert {key for switch in SWITCHES for key in switch} == fields - NO_SWITCH


@pytest.mark.parametrize("switch", SWITCHES[1:], ids=str)
def test_options_of_the_reference_are_different_functions(switch: dict[str, Any]):
    """Else agreement would not show that an option is read."""
    with torch.no_grad():
        default = torch_score(torch_network(encoder="resnet18"))
        switched = torch_network(encoder="resnet18", **switch)
        missing = switched.load_state_dict(
            torch_network(encoder="resnet18").state_dict(), strict=False
        )
        assert not missing.unexpected_keys
        difference = (torch_score(switched) - default).abs().max() / default.abs().max()
    assert difference > DISTINCT
