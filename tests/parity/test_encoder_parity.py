"""Encoders against torch ResNets with random weights. Float32, images 64x96."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from reldepth_jax.models.layers import max_pool_3x3
from reldepth_jax.registry import ENCODERS
from tests.references.torch_resnet import RESNETS, TorchResNet
from tests.references.transfer import as_torch, load, randomise

# Ten times what was measured. Rounding of float32 (6e-8) over up to 150 convolutions, summed in
# another order.
FORWARD = 1e-5
# Besides, rounding may put a value on the other side of a ReLU, on another machine than here.
GRADIENT = 1e-4
# Batch statistics of the deepest stage are over 12 values only: their rounding is amplified.
TRAIN_FORWARD = 1e-4
TRAIN_GRADIENT = 5e-4
# Means and variances of activations. Biased and unbiased variance differ by 3e-5 at least.
STATISTICS = 1e-5
# Comparisons move values; sums of up to four of them are their gradients.
POOLING = 1e-6


def images(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 64, 96, 3)).astype(np.float32)


def make_pair(name: str) -> tuple[TorchResNet, nnx.Module]:
    module = TorchResNet(name)
    randomise(module, seed=0)
    model = ENCODERS.create(name, dtype=jnp.float32, rngs=nnx.Rngs(0))
    load(model, module)
    return module, model


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def to_torch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(x.transpose(0, 3, 1, 2).copy())


def named(taps: list) -> dict[str, np.ndarray]:
    return {f"tap {k}": np.asarray(tap) for k, tap in enumerate(taps)}


def projections(taps: list[np.ndarray]) -> list[np.ndarray]:
    """Random directions that make one number of all taps, each with equal say."""
    rng = np.random.default_rng(2)
    return [rng.normal(size=t.shape).astype(np.float32) / np.abs(t).max() for t in taps]


def torch_gradients(module: nn.Module, x: torch.Tensor, taps: list, directions: list) -> dict:
    sum((tap * to_torch(d)).sum() for tap, d in zip(taps, directions, strict=True)).backward()
    assert x.grad is not None
    gradients = {name: p.grad.numpy() for name, p in module.named_parameters()}  # pyright: ignore[reportOptionalMemberAccess]
    return {"images": channels_last(x.grad), **gradients}


def our_gradients(model: nnx.Module, x: np.ndarray, directions: list, *, training: bool):
    """Return taps, running statistics and gradients, the latter two under torch's names."""
    graph, params, stats = nnx.split(
        nnx.view(model, use_running_average=not training), nnx.Param, nnx.BatchStat
    )

    def projected(params, x):
        encoder = nnx.merge(graph, params, stats, copy=True)
        taps = encoder(x)
        total = sum(jnp.vdot(tap, d) for tap, d in zip(taps, directions, strict=True))
        return total, (taps, nnx.state(encoder, nnx.BatchStat))

    function = jax.jit(jax.grad(projected, argnums=(0, 1), has_aux=True))
    (gradients, by_image), (taps, new_stats) = function(params, jnp.asarray(x))
    return taps, as_torch(new_stats), {"images": by_image, **as_torch(gradients)}


def test_there_is_a_reference_for_every_encoder():
    assert set(RESNETS) == set(ENCODERS.entries)


@pytest.mark.parametrize("name", ["resnet34", "resnet101", "resnet152"])
def test_features_agree(name: str, parity: Callable[..., None]):
    module, model = make_pair(name)
    module.eval()
    with torch.no_grad():
        expected = [channels_last(tap) for tap in module(to_torch(images()))]
    graph, state = nnx.split(nnx.view(model, use_running_average=True))
    taps = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, images())
    parity(f"{name} features", named(taps), named(expected), FORWARD)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_features_and_gradients_agree(name: str, parity: Callable[..., None]):
    module, model = make_pair(name)
    module.eval()
    x = to_torch(images()).requires_grad_()
    outputs = module(x)
    expected = [channels_last(tap) for tap in outputs]
    directions = projections(expected)
    gradients = torch_gradients(module, x, outputs, directions)
    taps, _, got = our_gradients(model, images(), directions, training=False)
    parity(f"{name} features", named(taps), named(expected), FORWARD)
    parity(f"{name} gradients", got, gradients, GRADIENT)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_training_mode_agrees(name: str, parity: Callable[..., None]):
    """Features and gradients with batch statistics, and the running statistics afterwards."""
    module, model = make_pair(name)
    before = {key: value.numpy().copy() for key, value in module.named_buffers()}
    counts: dict[str, int] = {}
    for key, part in module.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_hook(
                lambda _, inputs, __, key=key: counts.update(
                    {key: inputs[0].numel() // inputs[0].shape[1]}
                )
            )
    module.train()
    x = to_torch(images()).requires_grad_()
    outputs = module(x)
    expected = [channels_last(tap) for tap in outputs]
    directions = projections(expected)
    gradients = torch_gradients(module, x, outputs, directions)
    statistics = {}
    for key, value in module.named_buffers():
        if key.endswith("running_mean"):
            statistics[key] = value.numpy()
        elif key.endswith("running_var"):
            # torch stores the unbiased variance of a batch of n values, Flax the biased one.
            n = counts[key.removesuffix(".running_var")]
            unbiased = value.numpy() - 0.9 * before[key]
            statistics[key] = 0.9 * before[key] + unbiased * (n - 1) / n
    taps, got_statistics, got = our_gradients(model, images(), directions, training=True)
    parity(f"{name} features, training", named(taps), named(expected), TRAIN_FORWARD)
    parity(f"{name} gradients, training", got, gradients, TRAIN_GRADIENT)
    parity(f"{name} running statistics", got_statistics, statistics, STATISTICS)


@pytest.mark.parametrize("offset", [0.0, -10.0], ids=["mixed", "negative"])
def test_max_pooling_agrees(offset: float, parity: Callable[..., None]):
    """All-negative input tells padding with -inf from padding with zeros."""
    x = images() + np.float32(offset)
    tensor = to_torch(x).requires_grad_()
    output = nn.functional.max_pool2d(tensor, 3, stride=2, padding=1)
    direction = np.random.default_rng(3).normal(size=(2, 32, 48, 3)).astype(np.float32)
    output.backward(to_torch(direction))
    assert tensor.grad is not None
    got, pull = jax.vjp(max_pool_3x3, jnp.asarray(x))
    parity(
        f"max pooling, offset {offset}",
        {"output": got, "gradient": pull(jnp.asarray(direction))[0]},
        {"output": channels_last(output), "gradient": channels_last(tensor.grad)},
        POOLING,
    )
