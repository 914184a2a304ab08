"""Bilinear resizing against torch, both conventions of corners, values and gradients."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from reldepth_jax import runtime
from reldepth_jax.ops.resize import resize
from reldepth_jax.ops.upsample import upsample_2x

# A few roundings of float32; torch computes the positions in float32 as well.
TOLERANCE = 5e-6


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (7, 12), (33, 20)])
def test_enlargement_agrees(
    size: tuple[int, int], align_corners: bool, parity: Callable[..., None]
):
    check(size, (2 * size[0], 2 * size[1]), upsample_2x, align_corners, parity)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(
    ("size", "new"),
    [((5, 7), (13, 9)), ((9, 8), (4, 5)), ((1, 3), (4, 2)), ((6, 4), (6, 1)), ((3, 3), (6, 6))],
)
def test_any_size_agrees(
    size: tuple[int, int], new: tuple[int, int], align_corners: bool, parity: Callable[..., None]
):
    def ours(x: jax.Array, *, align_corners: bool) -> jax.Array:
        return resize(x, new, align_corners=align_corners)

    check(size, new, ours, align_corners, parity)


@pytest.mark.parametrize("align_corners", [True, False])
def test_what_was_traced_for_any_device_is_not_taken_here(align_corners: bool):
    x = jnp.zeros((1, 11, 13, 2))

    def is_by_taps() -> bool:
        traced = jax.make_jaxpr(lambda x: resize(x, (17, 19), align_corners=align_corners))(x)
        return "gather" in str(traced)

    with runtime.for_any_device():
        assert not is_by_taps()
    assert is_by_taps() == runtime.on_cpu()
    with runtime.for_any_device():
        assert not is_by_taps()


def check(
    size: tuple[int, int],
    new: tuple[int, int],
    ours: Callable[..., jax.Array],
    align_corners: bool,
    parity: Callable[..., None],
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *size, 3)).astype(np.float32)
    direction = rng.normal(size=(2, *new, 3)).astype(np.float32)
    tensor = torch.tensor(x.transpose(0, 3, 1, 2)).requires_grad_()
    output = torch.nn.functional.interpolate(
        tensor, new, mode="bilinear", align_corners=align_corners
    )
    output.backward(torch.tensor(direction.transpose(0, 3, 1, 2)))
    assert tensor.grad is not None

    @jax.jit
    def value_and_gradient(x: jax.Array) -> tuple:
        got, pull = jax.vjp(lambda x: ours(x, align_corners=align_corners), x)
        return got, *pull(jnp.asarray(direction))

    got, by_input = value_and_gradient(jnp.asarray(x))
    parity(
        f"{size[0]}x{size[1]} to {new[0]}x{new[1]}, align_corners={align_corners}",
        {"output": got, "gradient": by_input},
        {
            "output": output.detach().numpy().transpose(0, 2, 3, 1),
            "gradient": tensor.grad.numpy().transpose(0, 2, 3, 1),
        },
        TOLERANCE,
    )
