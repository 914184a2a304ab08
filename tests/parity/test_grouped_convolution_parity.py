"""Convolutions in groups against torch: odd and even sizes, both paddings, output and gradients."""

import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.nn import functional

from reldepth_jax.models.layers import conv

# Rounding of float32 and bfloat16 (4e-3) in sums of up to 100 products.
FLOAT32 = 2e-6
BFLOAT16 = 1e-2


def make(
    case: tuple[int, int, int, int, int], padding: Literal["torch", "same"], dtype: str
) -> nnx.Conv:
    channels_in, channels_out, groups, size, stride = case
    return conv(
        channels_in,
        channels_out,
        size,
        stride=stride,
        groups=groups,
        padding=padding,
        dtype=jnp.dtype(dtype),
        rngs=nnx.Rngs(0),
    )


def torch_conv(
    x: torch.Tensor, weight: torch.Tensor, stride: int, groups: int, padding: str
) -> torch.Tensor:
    size = weight.shape[-1]
    sides = []
    for n in (x.shape[3], x.shape[2]):
        same = max((math.ceil(n / stride) - 1) * stride + size - n, 0)
        sides += [same // 2, same - same // 2] if padding == "same" else [size // 2, size // 2]
    return functional.conv2d(functional.pad(x, sides), weight, stride=stride, groups=groups)


# channels in, channels out, groups, kernel, stride
CASES = {
    "depthwise 3x3": (6, 6, 6, 3, 1),
    "depthwise 3x3, stride 2": (6, 6, 6, 3, 2),
    "depthwise 5x5": (6, 6, 6, 5, 1),
    "depthwise 5x5, stride 2": (6, 6, 6, 5, 2),
    "groups": (6, 12, 3, 3, 1),
    "groups, stride 2": (12, 6, 3, 3, 2),
    "as many groups as inputs": (4, 8, 4, 3, 2),
}


# At stride 1 the paddings are the same.
COMPARED = [
    *((name, "same", "float32") for name in CASES),
    *((name, "torch", "float32") for name in CASES if name.endswith("stride 2")),
    *((name, "same", "bfloat16") for name in ("depthwise 5x5, stride 2", "groups, stride 2")),
]


@pytest.mark.parametrize(("name", "padding", "dtype"), COMPARED)
def test_convolution_in_groups_agrees(
    name: str, padding: Literal["torch", "same"], dtype: str, parity: Callable[..., None]
):
    layer = make(CASES[name], padding, dtype)
    channels_in, _, groups, _, stride = CASES[name]
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(2, 7, 10, channels_in)), dtype)
    # What bfloat16 holds, so that only the convolution rounds.
    kernel = jnp.asarray(layer.kernel[...], dtype)
    x, weight = (
        torch.tensor(np.asarray(a, np.float64).transpose(axes)).requires_grad_()
        for a, axes in ((images, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1)))
    )
    expected = torch_conv(x, weight, stride, groups, padding)
    direction = jnp.asarray(rng.normal(size=expected.permute(0, 2, 3, 1).shape), dtype)
    expected.backward(torch.tensor(np.asarray(direction, np.float64).transpose(0, 3, 1, 2)))

    graph, state = nnx.split(layer)

    def apply(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return nnx.merge(graph, jax.tree.map(lambda _: kernel, state))(x)

    @jax.jit
    def value_and_gradients(x: jax.Array, kernel: jax.Array) -> tuple:
        got, pull = jax.vjp(apply, x, kernel)
        return got, *pull(direction)

    got, by_images, by_kernel = value_and_gradients(images, kernel)
    assert got.dtype == by_images.dtype == by_kernel.dtype == dtype
    assert x.grad is not None
    assert weight.grad is not None
    parity(
        f"{name}, {padding}, {dtype}",
        {
            "output": np.asarray(got, np.float64),
            "by images": np.asarray(by_images, np.float64),
            "by kernel": np.asarray(by_kernel, np.float64),
        },
        {
            "output": expected.detach().numpy().transpose(0, 2, 3, 1),
            "by images": x.grad.numpy().transpose(0, 2, 3, 1),
            "by kernel": weight.grad.numpy().transpose(2, 3, 1, 0),
        },
        FLOAT32 if dtype == "float32" else BFLOAT16,
    )


@pytest.mark.parametrize(("channels", "groups"), [(256, 1), (256, 32), (256, 256)])
def test_weights_start_with_hes_deviation_over_the_fan_out_of_a_group(channels: int, groups: int):
    layer = make((channels, channels, groups, 3, 1), "torch", "float32")
    deviation = float(jnp.std(layer.kernel[...]))
    assert deviation == pytest.approx(math.sqrt(2 / (9 * channels / groups)), rel=0.05)
