"""Parts: Depth Anything V2 with ViT-S from bytes to depth, and the layers of its transformer alone.

The peer in torch is the module that the tests compare with (`tests.references.torch_dpt`), with the
same random weights; ONNX Runtime and OpenVINO run what this package exports, since torch's older
exporter refuses the module.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import exports, networks, ours
from benchmarks.context import TORCH, Context
from benchmarks.report import OURS, Part, Row, timed
from reldepth_jax import runtime
from reldepth_jax.cli.timing import Call, interleave
from reldepth_jax.export import onnx_file, traced
from reldepth_jax.inference.networks import Model
from reldepth_jax.models.reassemble import TransposedConv
from reldepth_jax.models.transformer import Attention, LayerNorm, gelu
from reldepth_jax.weights import presets
from reldepth_jax.weights.facts import facts

NAME = "depth_anything_v2_vits"
SIZES = ((252, 336), (518, 518))
"""A small photograph, and the square that the network was trained with."""


def transformer(context: Context) -> Part:
    """Time one image of each size, from bytes on the host to the map on the host."""
    models = {OURS: exports.with_random_weights(NAME)}
    if not context.gpu:
        models[networks.FAST] = exports.with_random_weights(NAME, fast=True)
    rows: list[Row] = []
    file = functools.cache(functools.partial(_exported, models[OURS]))
    for height, width in SIZES[:1] if context.quick else SIZES:
        images = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
        functions: dict[str, ours.Forward] = {
            who: functools.partial(_map, model) for who, model in models.items()
        }
        functions |= networks.in_torch(context, lambda: _module(models[OURS]), images)
        functions |= networks.in_runtimes(context, file, images, _planes)
        rows += networks.compared(context, f"{height}x{width}", functions, images)
    context.say(
        "Random weights. Torch's attention is written out, as in the original; ONNX Runtime and"
        " OpenVINO run what `reldepth export` writes."
    )
    return Part("transformer", f"Forward: {NAME}, batch 1, float32", rows, context.taken_notes())


def _map(model: Model, images: np.ndarray) -> np.ndarray:
    return np.asarray(model(images))


def _exported(model: Model) -> bytes:
    """Return what `reldepth export` writes, without its check: errors are in the table."""
    with runtime.for_any_device():
        program = traced.function(model).trace(traced.image(model.config.multiple))
    return onnx_file.assemble(program.jaxpr, facts(model.weights(), NAME))


def _planes(images: np.ndarray) -> np.ndarray:
    """Return what an exported file takes."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / np.float32(255)


def _module(model: Model) -> Any:
    """Return the network in torch, for bytes, with the weights of ours."""
    import torch

    from benchmarks.peer_network import OfBytes
    from tests.references.torch_dpt import VITS, DepthAnything

    preset = presets.get(NAME)
    held = {preset.key_maps[0](key): value for key, value in model.weights().arrays.items()}
    held |= {key: np.zeros(shape, np.float32) for key, shape in preset.dead.items()}
    module = DepthAnything(VITS)
    module.load_state_dict({str(key): torch.tensor(value) for key, value in held.items()})
    return OfBytes(module)


def layers(context: Context) -> Part:
    """Time the layers that only transformers have, at both sizes, beside torch's own."""
    calls: dict[tuple[str, str], Call] = {}
    rng = np.random.default_rng(0)
    for height, width in SIZES:
        h, w = height // 14, width // 14
        tokens = rng.normal(size=(1, h * w + 1, 384)).astype(np.float32)
        hidden = rng.normal(size=(1, h * w + 1, 4 * 384)).astype(np.float32)
        maps = {size: rng.normal(size=(1, h, w, c)).astype(np.float32) for size, c in _SIZES}
        options: dict[str, Any] = {"dtype": jnp.dtype("float32"), "rngs": nnx.Rngs(0)}
        init = jax.nn.initializers.normal(0.02)
        made = {
            "attention": (Attention(384, 6, **options), tokens),
            "LayerNorm": (LayerNorm(384, **options), tokens),
            "GELU": (gelu, hidden),
        } | {
            f"transposed convolution, {size}x": (
                TransposedConv(channels, size, init=init, **options),
                maps[size],
            )
            for size, channels in _SIZES
        }
        for name, (layer, x) in made.items():
            what = f"{name}, {height}x{width}"
            calls[what, OURS] = _compiled(layer, x)
            if context.torch is not None:
                calls[what, TORCH] = _torch_layer(name, x)
    with context.bar("layers") as progress:
        seconds = interleave(calls, context.rounds, progress=progress, window=0.1)
    rows = [timed(*key, taken) for key, taken in seconds.items()]
    return Part("layers", "Layers of ViT-S and its decoder, float32", rows, context.taken_notes())


_SIZES = ((4, 48), (2, 96))
"""Of the transposed convolutions, with their channels."""


def _compiled(layer: Any, x: np.ndarray) -> Call:
    graph, state = nnx.split(layer) if isinstance(layer, nnx.Module) else (None, None)

    def apply(state: Any, x: jax.Array) -> jax.Array:
        return layer(x) if graph is None else nnx.merge(graph, state)(x)

    compiled: Any = jax.jit(apply, compiler_options=runtime.compiler_options())
    return Call(functools.partial(compiled, state, jnp.asarray(x)), jax.block_until_ready)


def _torch_layer(name: str, x: np.ndarray) -> Call:
    """Return the layer in torch, with weights of its own: its time does not depend on them."""
    import torch
    from torch import nn

    from tests.references import torch_dpt

    tensor = torch.from_numpy(x)
    if name.startswith("transposed"):
        tensor = tensor.permute(0, 3, 1, 2)
        channels, size = tensor.shape[1], int(name[-2])
        layer = nn.ConvTranspose2d(channels, channels, size, stride=size)
        layer = layer.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]: not among its overloads
    else:
        layer = {
            "attention": lambda: torch_dpt.Attention(384, 6, torch_dpt.Quirks()),
            "LayerNorm": lambda: nn.LayerNorm(384, eps=1e-6),
            "GELU": nn.GELU,
        }[name]()
    layer.eval()

    def run() -> Any:
        with torch.no_grad():
            return layer(tensor)

    return Call(run)
