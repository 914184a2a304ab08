"""Decoder and head, and the whole network, against torch with random weights.

The whole network has all or none of the options of `ModelConfig` switched that change the
function; decoder and head, on fixed taps, have one half or the other. Scores and all gradients:
ours in float32, torch in float64.
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
from reldepth_jax.models.cpu.winograd_network import fast_training
from reldepth_jax.models.decoder import Decoder
from reldepth_jax.models.head import HEADS
from reldepth_jax.models.network import build
from tests.references import torch_reldepth_net
from tests.references.torch_reldepth_net import Options, TorchRelDepthNet
from tests.references.transfer import as_torch, load, randomise

# Ten times what was measured: rounding of float32 (6e-8) over some seventy convolutions. Of
# gradients with Winograd convolutions, three times.
FORWARD = 2e-5
GRADIENT = 2e-5
# What two values of an option must differ by: far more than a tolerance.
DISTINCT = 1e-2

HALF: dict[str, Any] = {
    "transition": "every_block",
    "skip_relu": True,
    "fusion_align_corners": False,
}
OTHER_HALF: dict[str, Any] = {
    "decoder_norm": "batch",
    "head_relu": True,
    "head_align_corners": False,
}
MIRRORED: dict[str, Any] = {"mirrored": True}
ALL_OPTIONS = HALF | OTHER_HALF | MIRRORED
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
    "reassembly",
    "readout",
    "max_depth",
}

# The first of these inputs whose gradients meet no kink decides.
SEEDS = range(1, 6)
CHANNELS = (8, 12, 16, 20)
"""Of the fixed taps, for images of 32x96."""
WIDTH = 8


class DecoderAndHead(nnx.Module):
    def __init__(self, config: ModelConfig, *, rngs: nnx.Rngs):
        self.decoder = Decoder(config, CHANNELS, rngs=rngs)
        self.head = HEADS[config.head](config, rngs=rngs)

    def __call__(self, *taps: jax.Array) -> jax.Array:
        return self.head(self.decoder(list(taps)), (32, 96))


class TorchDecoderAndHead(torch.nn.Module):
    def __init__(self, options: Options):
        super().__init__()
        self.decoder = torch_reldepth_net.Decoder(options, CHANNELS)
        self.head = torch_reldepth_net.AdaptiveOutput(options)

    def forward(self, *taps: torch.Tensor) -> torch.Tensor:
        return self.head(self.decoder(list(taps)))[:, 0]


def fixed_taps(seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    shapes = [(1, 32 // s, 96 // s, c) for s, c in zip((4, 8, 16, 32), CHANNELS, strict=True)]
    return [rng.normal(size=shape).astype(np.float32) for shape in shapes]


def images(seed: int) -> list[np.ndarray]:
    return [np.random.default_rng(seed).uniform(size=(1, 32, 96, 3)).astype(np.float32)]


def double_precision(module: torch.nn.Module) -> torch.nn.Module:
    randomise(module, seed=0)
    return module.double().eval()


def to_torch(inputs: list[np.ndarray]) -> list[torch.Tensor]:
    return [torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64) for x in inputs]


@pytest.fixture
def compare(
    parity: Callable[..., None], gradient_parity: Callable[..., None]
) -> Callable[..., None]:
    """Return `compare(case, module, make, inputs)`, with Winograd convolutions if asked for."""

    def run(
        case: str,
        module: torch.nn.Module,
        make: Callable[[nnx.Rngs], nnx.Module],
        inputs: Callable[[int], list[np.ndarray]],
        *,
        winograd: bool = False,
    ) -> None:
        model = abstract_network(make)
        load(model, module)
        model = fast_training(model) if winograd else model
        graph, params, stats = nnx.split(
            nnx.view(model, use_running_average=True, raise_if_not_found=False),
            nnx.Param,
            nnx.BatchStat,
        )

        def projected(params, x, direction):
            score = nnx.merge(graph, params, stats, copy=True)(*x)
            return jnp.vdot(score, direction), score

        function = jax.jit(jax.grad(projected, (0, 1), has_aux=True))

        def attempts() -> Iterator[tuple[dict, dict]]:
            for seed in SEEDS:
                direction = np.random.default_rng(seed).normal(size=(1, 32, 96))
                module.zero_grad()
                xs = [x.requires_grad_() for x in to_torch(inputs(seed))]
                score = module(*xs)
                score.backward(torch.tensor(direction))
                expected = {name: _gradient(p) for name, p in module.named_parameters()}
                (by_params, by_inputs), got = function(
                    params, inputs(seed), direction.astype(np.float32)
                )
                if seed == SEEDS[0]:
                    target = score.detach().numpy()
                    parity(f"{case}: score", {"score": got}, {"score": target}, FORWARD)
                found = as_torch(by_params)
                for k, (x, gradient) in enumerate(zip(xs, by_inputs, strict=True)):
                    expected[f"input {k}"] = _gradient(x).transpose(0, 2, 3, 1)
                    found[f"input {k}"] = np.asarray(gradient)
                yield found, expected

        gradient_parity(f"{case}: gradients", attempts(), GRADIENT)

    return run


def _gradient(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.grad is not None
    return tensor.grad.numpy().copy()


@pytest.mark.parametrize("options", [HALF, OTHER_HALF], ids=["half", "other half"])
def test_decoder_and_head_agree(options: dict[str, Any], compare: Callable[..., None]):
    config = ModelConfig(decoder_width=WIDTH, **options)
    compare(
        f"decoder and head, {', '.join(options)} switched",
        double_precision(TorchDecoderAndHead(Options(decoder_width=WIDTH, **options))),
        lambda rngs: DecoderAndHead(config, rngs=rngs),
        fixed_taps,
    )


@pytest.mark.parametrize(
    ("encoder", "options"), [("resnet50", {}), ("resnet18", ALL_OPTIONS)], ids=["paper", "all"]
)
def test_whole_network_agrees(encoder: str, options: dict[str, Any], compare: Callable[..., None]):
    config = ModelConfig(encoder=Choice(encoder), **options)
    compare(
        f"network {encoder}, {'every option switched' if options else 'as in the paper'}",
        double_precision(TorchRelDepthNet(Options(encoder=encoder, **options))),
        lambda rngs: build(config, rngs=rngs),
        images,
    )


@pytest.mark.parametrize("encoder", ["resnet18", "resnet50"])
def test_network_trained_with_winograd_convolutions_agrees(
    encoder: str, take_winograd: None, compare: Callable[..., None]
):
    config = ModelConfig(encoder=Choice(encoder))
    compare(
        f"network {encoder}, Winograd",
        double_precision(TorchRelDepthNet(Options(encoder=encoder))),
        lambda rngs: build(config, rngs=rngs),
        images,
        winograd=True,
    )


def test_every_option_is_switched():
    fields = {field.name for field in dataclasses.fields(ModelConfig)}
    assert set(ALL_OPTIONS) | IN_PRESETS == fields - NO_SWITCH


@pytest.mark.parametrize(
    ("options", "name"),
    [(options, name) for options in (HALF, OTHER_HALF, HALF | OTHER_HALF) for name in options],
    ids=str,
)
def test_each_option_changes_what_is_compared(options: dict[str, Any], name: str):
    """If it did not, agreement would not show that an option is read."""
    others = {key: value for key, value in options.items() if key != name}
    switched = double_precision(TorchDecoderAndHead(Options(decoder_width=WIDTH, **options)))
    default = double_precision(TorchDecoderAndHead(Options(decoder_width=WIDTH, **others)))
    default.load_state_dict(switched.state_dict(), strict=False)
    with torch.no_grad():
        expected, got = (module(*to_torch(fixed_taps(1))) for module in (switched, default))
    assert (got - expected).abs().max() > DISTINCT * expected.abs().max()


def test_a_mirrored_network_prefers_no_side():
    model = build(
        ModelConfig(encoder=Choice("resnet18"), decoder_width=WIDTH, mirrored=True),
        rngs=nnx.Rngs(0),
    )
    (image,) = images(1)
    once, mirror = (
        np.asarray(model.raw(jax.numpy.asarray(seen))) for seen in (image, image[:, :, ::-1])
    )
    np.testing.assert_allclose(mirror[:, :, ::-1], once, rtol=0, atol=1e-5 * np.abs(once).max())
