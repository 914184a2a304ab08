"""Convolutions in groups, which have formulations of their own on CPU, against torch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from reldepth_jax.models.layers import conv_of_groups

# Sums of at most 72 products in float32.
TOLERANCE = 2e-6


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("channels", "outputs", "groups", "size"),
    [(12, 12, 12, 3), (12, 12, 12, 5), (32, 32, 4, 3), (16, 8, 4, 3)],
    ids=["depthwise 3x3", "depthwise 5x5", "groups of 8", "groups that narrow"],
)
def test_values_and_gradients_agree(
    channels: int,
    outputs: int,
    groups: int,
    size: int,
    stride: int,
    parity: Callable[..., None],
):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 8, 10, channels)).astype(np.float32)
    kernel = rng.normal(size=(size, size, channels // groups, outputs)).astype(np.float32)
    tensor = torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64, requires_grad=True)
    weight = torch.tensor(kernel.transpose(3, 2, 0, 1), dtype=torch.float64, requires_grad=True)
    output = torch.nn.functional.conv2d(
        tensor, weight, stride=stride, padding=size // 2, groups=groups
    )
    direction = rng.normal(size=output.shape).astype(np.float32)
    output.backward(torch.tensor(direction, dtype=torch.float64))
    assert tensor.grad is not None
    assert weight.grad is not None

    def ours(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv_of_groups(
            x,
            kernel,
            (stride, stride),
            ((size // 2, size // 2),) * 2,
            feature_group_count=groups,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    got, pull = jax.vjp(jax.jit(ours), jnp.asarray(x), jnp.asarray(kernel))
    by_input, by_kernel = pull(jnp.asarray(direction.transpose(0, 2, 3, 1)))
    parity(
        f"convolution of {groups} groups, {size}x{size}, stride {stride}",
        {"output": got, "input": by_input, "kernel": by_kernel},
        {
            "output": output.detach().numpy().transpose(0, 2, 3, 1),
            "input": tensor.grad.numpy().transpose(0, 2, 3, 1),
            "kernel": weight.grad.numpy().transpose(2, 3, 1, 0),
        },
        TOLERANCE,
    )
