"""Depth Anything and DPT against torch modules of their layout, small and with random weights.

Ours in float32, torch in float64. Each of the mistakes that `QUIRKS` lists is beyond the bar; the
published networks, at full size, show even the mildest of them, a tanh GELU, by 1e-3.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.encoders import dinov2, vit
from reldepth_jax.models.network import RelDepthNet
from reldepth_jax.models.transformer import Shape
from reldepth_jax.types import Encoder
from reldepth_jax.weights import presets
from reldepth_jax.weights.presets import Preset
from tests.references.torch_dpt import DepthAnything, Dpt, Sizes, StandardisedConv2d
from tests.references.transfer import as_torch, load, randomise

BAR = 3e-5
"""Of the output's deviation."""
GRADIENT = 1e-4
"""Of each gradient's largest entry: ten times what was measured."""

SMALL = Sizes()
LARGE = dataclasses.replace(SMALL, patch=16, grid=4, channels=(12, 24, 48, 48))
HYBRID = dataclasses.replace(LARGE, taps=(1, 3), channels=(256, 512, 48, 48))
SIZES = {"depth_anything_v2_vits": SMALL, "dpt_large": LARGE, "dpt_hybrid": HYBRID}
METRIC = "depth_anything_v2_metric_hypersim_vits"


def reference(name: str, **quirks: Any) -> nn.Module:
    """Return the small torch network with random weights, in double precision."""
    if name == METRIC:
        module: nn.Module = DepthAnything(dataclasses.replace(SMALL, max_depth=20.0), **quirks)
    elif name in ("dpt_large", "dpt_hybrid"):
        module = Dpt(SIZES[name], **quirks)
    else:
        module = DepthAnything(SMALL, **quirks)
    randomise(module, seed=1)
    generator = torch.Generator().manual_seed(2)
    for part in module.modules():
        if isinstance(part, StandardisedConv2d):
            # Outputs of different scale: a common one is lost in the norm, whatever is done to it.
            scale = 10 ** -(3 * torch.rand((len(part.weight), 1, 1, 1), generator=generator))
            part.weight.data.mul_(scale)
    return module.double().eval()


def ours(name: str, module: nn.Module) -> tuple[RelDepthNet, Preset]:
    """Return our network of the same size, with the weights of the torch module."""
    preset = presets.get(name)
    sizes: Sizes = module.sizes  # pyright: ignore[reportAssignmentType]: an attribute
    shape = Shape(sizes.width, sizes.blocks, sizes.heads, sizes.grid)
    config = dataclasses.replace(preset.model, decoder_width=sizes.features)

    def make(rngs: nnx.Rngs) -> RelDepthNet:
        options: dict[str, Any] = {"dtype": jnp.dtype("float32"), "rngs": rngs}
        if name == "dpt_large":
            encoder = vit.vit(shape, sizes.patch, sizes.taps, **options)
        elif name == "dpt_hybrid":
            encoder = vit.hybrid(shape, sizes.depths, (1, 3), **options)
        else:
            encoder = dinov2.dinov2(shape, sizes.patch, sizes.taps, **options)
        return RelDepthNet(config, cast(Encoder, encoder), rngs=rngs)

    model = abstract_network(make)
    load(model, module, preset.key_maps[0], preset.dead)
    return model, preset


def images(size: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(1, *size, 3)).astype(np.float32)


def to_torch(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64)


def expected(module: nn.Module, size: tuple[int, int]) -> np.ndarray:
    with torch.no_grad():
        return module(to_torch(images(size))).numpy()


CASES = [
    # Odd numbers of patches either way: 4x5, of which the coarsest map has 2x3.
    ("depth_anything_v2_vits", (56, 70)),
    # The size of the table.
    ("depth_anything_v2_vits", (70, 70)),
    (METRIC, (28, 56)),
    ("dpt_large", (48, 80)),
    ("dpt_hybrid", (48, 32)),
]


@pytest.mark.parametrize(("name", "size"), CASES, ids=str)
def test_outputs_agree(name: str, size: tuple[int, int], parity: Callable[..., None]):
    module = reference(name)
    target = expected(module, size)
    model, _ = ours(name, module)
    graph, state = nnx.split(model)
    got = jax.jit(lambda state, x: nnx.merge(graph, state).raw(x))(state, images(size))
    assert target.std() > 0.1
    bar = float(BAR * target.std() / np.abs(target).max())
    parity(f"small {name} at {size[0]}x{size[1]}", {"output": got}, {"output": target}, bar)


def test_gradients_agree(gradient_parity: Callable[..., None]):
    """Also where blocks are computed again for the gradient."""
    name = "depth_anything_v2_vits"
    module = reference(name)
    model, preset = ours(name, module)
    model.encoder.remat = model.decoder.remat = True  # pyright: ignore[reportAttributeAccessIssue]: of transformers
    graph, params = nnx.split(model)
    size = (28, 42)

    def projected(params: nnx.State, x: jax.Array, direction: jax.Array) -> jax.Array:
        return jnp.vdot(nnx.merge(graph, params, copy=True).raw(x), direction)

    gradient = jax.jit(jax.grad(projected))

    def attempts() -> Iterator[tuple[dict, dict]]:
        for seed in range(1, 6):
            direction = np.random.default_rng(seed).normal(size=(1, *size))
            module.zero_grad()
            module(to_torch(images(size, seed))).backward(torch.tensor(direction))
            found = gradient(params, images(size, seed), direction.astype(np.float32))
            wanted = {
                key: parameter.grad.numpy().copy()
                for key, parameter in module.named_parameters()
                if parameter.grad is not None
            }
            yield as_torch(found, preset.key_maps[0]), wanted

    gradient_parity(f"small {name}: gradients", attempts(), GRADIENT)


DA, LARGE_, HYBRID_ = "depth_anything_v2_vits", "dpt_large", "dpt_hybrid"
QUIRKS: list[tuple[str, dict[str, Any]]] = [
    (DA, {"position_offset": 0}),
    (DA, {"position_offset": 0, "position_antialias": True}),
    (DA, {"position_mode": "bilinear"}),
    (DA, {"position_mode": "nearest"}),
    (DA, {"gelu": "tanh"}),
    (DA, {"layer_scale": False}),
    (DA, {"tap_norm": "none"}),
    (DA, {"tap_norm": "last"}),
    (DA, {"fusion_align_corners": False}),
    (DA, {"head_align_corners": False}),
    (DA, {"head_doubles_first": True}),
    (DA, {"inplace_relu": True}),
    (DA, {"heads_outermost": True}),
    (DA, {"scale_by_width": True}),
    (DA, {"mirrored": True}),
    (DA, {"class_token": "zero"}),
    (DA, {"class_position": False}),
    (LARGE_, {"position_mode": "bicubic"}),
    (LARGE_, {"position_align_corners": True}),
    (LARGE_, {"position_antialias": True}),
    (LARGE_, {"gelu": "tanh"}),
    (LARGE_, {"readout_gelu": "tanh"}),
    (LARGE_, {"readout_gelu": None}),
    (LARGE_, {"tap_norm": "all"}),
    (LARGE_, {"readout_class": "zero"}),
    (LARGE_, {"readout_class": "first"}),
    (LARGE_, {"fusion_align_corners": False}),
    (LARGE_, {"head_align_corners": False}),
    (LARGE_, {"inplace_relu": True}),
    (HYBRID_, {"standardised": "none"}),
    (HYBRID_, {"standardised": "deviation"}),
    (HYBRID_, {"same_padding": False}),
    (HYBRID_, {"pool_same_padding": False}),
]


@functools.cache
def small_output(name: str) -> np.ndarray:
    return expected(reference(name), SMALL_SIZES[name])


SMALL_SIZES = {DA: (56, 42), LARGE_: (48, 32), HYBRID_: (48, 32)}


@pytest.mark.parametrize(("name", "quirk"), QUIRKS, ids=str)
def test_each_quirk_left_out_is_beyond_the_bar(name: str, quirk: dict[str, Any]):
    original = reference(name)
    without = reference(name, **quirk)
    without.load_state_dict(original.state_dict())
    target = small_output(name)
    difference = np.abs(expected(without, SMALL_SIZES[name]) - target).max() / target.std()
    assert difference > 2 * BAR, f"{difference:.1e}"
