"""Bilinear enlargement against torch, both conventions of corners, values and gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from reldepth_jax.ops.upsample import upsample_2x

# A few roundings of float32; torch computes the positions in float32 as well.
TOLERANCE = 5e-6


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (7, 12), (33, 20)])
def test_enlargement_agrees(
    size: tuple[int, int], align_corners: bool, parity: Callable[..., None]
):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    direction = rng.normal(size=(2, 2 * size[0], 2 * size[1], 3)).astype(np.float32)
    tensor = torch.tensor(x.transpose(0, 3, 1, 2)).requires_grad_()
    output = torch.nn.functional.interpolate(
        tensor, scale_factor=2, mode="bilinear", align_corners=align_corners
    )
    output.backward(torch.tensor(direction.transpose(0, 3, 1, 2)))
    assert tensor.grad is not None

    @jax.jit
    def value_and_gradient(x: jax.Array) -> tuple:
        got, pull = jax.vjp(lambda x: upsample_2x(x, align_corners=align_corners), x)
        return got, *pull(jnp.asarray(direction))

    got, by_input = value_and_gradient(jnp.asarray(x))
    parity(
        f"enlargement of {size[0]}x{size[1]}, align_corners={align_corners}",
        {"output": got, "gradient": by_input},
        {
            "output": output.detach().numpy().transpose(0, 2, 3, 1),
            "gradient": tensor.grad.numpy().transpose(0, 2, 3, 1),
        },
        TOLERANCE,
    )
