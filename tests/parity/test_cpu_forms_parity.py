"""Convolutions of one group, norms, attention and GELU against torch in float64."""

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional

from reldepth_jax.models.cpu import tokens
from reldepth_jax.models.cpu.batch_norm import batch_norm
from reldepth_jax.models.layers import BatchNorm, conv
from reldepth_jax.models.transformer import gelu

# Rounding of float32 in sums of up to 700 products, and of means of up to 200 numbers.
TOLERANCE = 3e-6

# channels in, channels out, kernel, stride, height, width
CONVOLUTIONS = {
    "1x1": (6, 5, 1, 1, 7, 9),
    "1x1, stride 2": (6, 5, 1, 2, 7, 10),
    "3x3": (6, 5, 3, 1, 7, 9),
    "3x3, stride 2": (6, 5, 3, 2, 7, 10),
    "3x3 to few channels": (20, 2, 3, 1, 7, 9),
    "5x5 to few channels": (26, 1, 5, 1, 7, 9),
    "7x7, stride 2": (3, 4, 7, 2, 12, 14),
}


def nchw(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.asarray(x, np.float64).transpose(0, 3, 1, 2)).requires_grad_()


def nhwc(x: torch.Tensor | None) -> np.ndarray:
    assert x is not None
    return x.detach().numpy().transpose(0, 2, 3, 1)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_agree_in_value_and_gradients(name: str, parity: Callable[..., None]):
    channels_in, channels_out, size, stride, height, width = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    layer = conv(
        channels_in,
        channels_out,
        size,
        stride=stride,
        bias=True,
        dtype=jnp.dtype("float32"),
        rngs=nnx.Rngs(0),
    )
    assert layer.bias is not None
    layer.bias[...] = jnp.asarray(rng.normal(size=channels_out), jnp.float32)
    images = rng.normal(size=(2, height, width, channels_in)).astype(np.float32)

    x = nchw(images)
    kernel = np.array(layer.kernel[...], np.float64).transpose(3, 2, 0, 1).copy()
    weight, bias = (
        torch.tensor(np.asarray(a, np.float64)).requires_grad_() for a in (kernel, layer.bias[...])
    )
    expected = functional.conv2d(x, weight, bias, stride=stride, padding=size // 2)
    direction = rng.normal(size=expected.permute(0, 2, 3, 1).shape).astype(np.float32)
    expected.backward(nchw(direction).detach())

    graph, state = nnx.split(layer)

    @jax.jit
    def value_and_gradients(state: nnx.State, images: jax.Array) -> tuple:
        got, pull = jax.vjp(lambda state, images: nnx.merge(graph, state)(images), state, images)
        return got, *pull(jnp.asarray(direction))

    got, of_state, of_images = value_and_gradients(state, jnp.asarray(images))
    assert weight.grad is not None
    assert bias.grad is not None
    parity(
        name,
        {
            "output": got,
            "of x": of_images,
            "of kernel": of_state["kernel"].get_value(),
            "of bias": of_state["bias"].get_value(),
        },
        {
            "output": nhwc(expected),
            "of x": nhwc(x.grad),
            "of kernel": weight.grad.numpy().transpose(2, 3, 1, 0),
            "of bias": bias.grad.numpy(),
        },
        TOLERANCE,
    )


# The rounding of a mean of 30 deviations is 30 times that of one deviation.
@pytest.mark.parametrize(("mean", "tolerance"), [(0.3, TOLERANCE), (30.0, 10 * TOLERANCE)])
def test_batch_normalisation_agrees_in_value_gradients_and_statistics(
    mean: float, tolerance: float, parity: Callable[..., None]
):
    rng = np.random.default_rng(0)
    images = (mean + rng.normal(size=(3, 6, 8, 5))).astype(np.float32)
    scale, bias = rng.uniform(0.5, 2, 5), rng.normal(size=5)
    layer = BatchNorm(5, rngs=nnx.Rngs(0))
    layer.train()
    assert layer.scale is not None
    assert layer.bias is not None
    layer.scale[...], layer.bias[...] = (jnp.asarray(a, jnp.float32) for a in (scale, bias))

    x = nchw(images)
    # What float32 holds of them.
    weight, offset = (
        torch.tensor(a.astype(np.float32).astype(np.float64)).requires_grad_()
        for a in (scale, bias)
    )
    centre = x.mean((0, 2, 3), keepdim=True)
    variance = ((x - centre) ** 2).mean((0, 2, 3), keepdim=True)
    expected = (x - centre) / torch.sqrt(variance + 1e-5) * weight.view(1, -1, 1, 1) + offset.view(
        1, -1, 1, 1
    )
    direction = rng.normal(size=images.shape).astype(np.float32)
    expected.backward(nchw(direction).detach())
    assert weight.grad is not None
    assert offset.grad is not None

    graph, params, stats = nnx.split(layer, nnx.Param, ...)

    def run(params: nnx.State, images: jax.Array) -> tuple[jax.Array, Any]:
        network = cast(BatchNorm, nnx.merge(graph, params, stats, copy=True))
        return network(images), nnx.state(network, nnx.BatchStat)

    @jax.jit
    def value_and_gradients(params: nnx.State, images: jax.Array) -> tuple:
        got, pull, new = jax.vjp(run, params, images, has_aux=True)
        return got, new, *pull(jnp.asarray(direction))

    got, new, of_params, of_images = value_and_gradients(params, jnp.asarray(images))
    parity(
        f"mean {mean}",
        {
            "output": got,
            "of x": of_images,
            "of scale": of_params["scale"].get_value(),
            "of bias": of_params["bias"].get_value(),
            "running mean": new["mean"].get_value(),
            "running variance": new["var"].get_value(),
        },
        {
            "output": nhwc(expected),
            "of x": nhwc(x.grad),
            "of scale": weight.grad.numpy(),
            "of bias": offset.grad.numpy(),
            "running mean": 0.1 * centre.detach().numpy().reshape(-1),
            "running variance": 0.9 + 0.1 * variance.detach().numpy().reshape(-1),
        },
        tolerance,
    )


def test_a_constant_channel_keeps_finite_values_and_gradients():
    x, one = jnp.full((2, 4, 4, 2), 1234.5), jnp.ones(2)

    def square(x: jax.Array) -> jax.Array:
        return jnp.sum(jnp.square(batch_norm(x, one, one, 1e-5)[0]))

    value, of_x = jax.jit(jax.value_and_grad(square))(x)
    assert np.isfinite(value)
    assert np.isfinite(of_x).all()


def with_gradients(
    function: Callable[..., jax.Array], inputs: list[np.ndarray], direction: np.ndarray
) -> dict[str, Any]:
    got, pull = jax.vjp(jax.jit(function), *map(jnp.asarray, inputs))
    return {"output": got} | {
        f"of {k}": each for k, each in enumerate(pull(jnp.asarray(direction)))
    }


def torch_with_gradients(
    function: Callable[..., torch.Tensor], inputs: list[np.ndarray], direction: np.ndarray
) -> dict[str, Any]:
    leaves = [torch.tensor(x.astype(np.float64)).requires_grad_() for x in inputs]
    output = function(*leaves)
    gradients = torch.autograd.grad(output, leaves, torch.tensor(direction.astype(np.float64)))
    named = {f"of {k}": each.numpy() for k, each in enumerate(gradients)}
    return {"output": output.detach().numpy()} | named


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(3)
    return (weights @ v).transpose(1, 2)


# By name: ours, torch's, shapes of the inputs, deviation of the first.
FORMS: dict[str, tuple[Callable[..., Any], Callable[..., Any], list[tuple[int, ...]], float]] = {
    "LayerNorm": (
        lambda x, scale, bias: tokens.layer_norm(x, scale, bias, 1e-6),
        lambda x, scale, bias: functional.layer_norm(x, (48,), scale, bias, 1e-6),
        [(2, 7, 48), (48,), (48,)],
        1.0,
    ),
    "attention": (tokens.attend, attention, [(2, 5, 3, 8), (2, 7, 3, 8), (2, 7, 3, 8)], 1.0),
    # Logits in the hundreds, whose exponentials overflow unless the largest is subtracted.
    "sharp attention": (tokens.attend, attention, [(1, 5, 2, 8), (1, 7, 2, 8), (1, 7, 2, 8)], 99.0),
    "GELU": (gelu, functional.gelu, [(300,)], 2.0),
}


@pytest.mark.parametrize("name", FORMS)
def test_layers_of_transformers_agree_in_value_and_gradients(
    name: str, parity: Callable[..., None]
):
    form, reference, shapes, deviation = FORMS[name]
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    inputs[0] *= np.float32(deviation)
    direction = rng.normal(size=shapes[0]).astype(np.float32)
    parity(
        name,
        with_gradients(form, inputs, direction),
        torch_with_gradients(reference, inputs, direction),
        # A logit of 300 is rounded by 2e-5.
        TOLERANCE if deviation < 10 else 1e-4,
    )
