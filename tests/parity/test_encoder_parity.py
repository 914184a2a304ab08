"""Encoders against torch ones with random weights: ours in float32, torch in float64.

Images 64x96.
"""

import copy
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

from reldepth_jax.models.abstract import abstract_network
from reldepth_jax.models.encoders.efficientnet_lite import InvertedResidual
from reldepth_jax.models.layers import max_pool_3x3
from reldepth_jax.registry import ENCODERS
from tests.references.torch_efficientnet_lite import SCALES, TorchEfficientNetLite
from tests.references.torch_efficientnet_lite import InvertedResidual as TorchBlock
from tests.references.torch_resnet import RESNETS, TorchResNet
from tests.references.transfer import as_torch, load, randomise

# Each about ten times what was measured.
# Rounding of float32 (6e-8) over up to 150 convolutions.
FORWARD = 1e-5
GRADIENT = 2e-5
# Batch statistics of the deepest stage are over 12 values only: their rounding is amplified.
TRAIN_FORWARD = 1e-4
TRAIN_GRADIENT = 5e-5
# Means and variances of activations. Biased and unbiased variance differ by 3e-5 at least.
STATISTICS = 1e-5
# Comparisons move values; sums of up to four of them are their gradients.
POOLING = 1e-6

SEEDS = range(1, 6)


def images(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, 64, 96, 3)).astype(np.float32)


@functools.cache
def make_pair(name: str) -> tuple[nn.Module, nnx.Module]:
    module = TorchResNet(name) if name in RESNETS else TorchEfficientNetLite(name)
    randomise(module, seed=0)
    model = abstract_network(
        lambda rngs: ENCODERS.create(name, dtype=jnp.dtype("float32"), rngs=rngs)
    )
    load(model, module)
    return module.double(), model


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy().transpose(0, 2, 3, 1)


def to_torch(x: np.ndarray) -> torch.Tensor:
    return torch.tensor(x.transpose(0, 3, 1, 2), dtype=torch.float64)


def named(taps: list) -> dict[str, np.ndarray]:
    return {f"tap {k}": np.asarray(tap) for k, tap in enumerate(taps)}


def torch_gradients(
    module: nn.Module, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray], dict[str, np.ndarray]]:
    """Return taps, random directions that make one number of them, and that number's gradients."""
    x = to_torch(images(seed)).requires_grad_()
    module.zero_grad()
    outputs = module(x)
    taps = [channels_last(tap) for tap in outputs]
    rng = np.random.default_rng(seed)
    directions = [rng.normal(size=t.shape).astype(np.float32) / np.abs(t).max() for t in taps]
    torch.autograd.backward(outputs, [to_torch(d) for d in directions])
    gradients = {"images": channels_last(_gradient(x))}
    for name, parameter in module.named_parameters():
        gradients[name] = _gradient(parameter).numpy().copy()
    return taps, directions, gradients


def _gradient(tensor: torch.Tensor) -> torch.Tensor:
    assert tensor.grad is not None
    return tensor.grad


def our_gradients(model: nnx.Module, *, training: bool) -> Callable[..., tuple]:
    """Return `f(images, directions) -> (taps, statistics, gradients)`, arrays by torch's names."""
    graph, params, stats = nnx.split(
        nnx.view(model, use_running_average=not training), nnx.Param, nnx.BatchStat
    )

    def projected(params, x, directions):
        encoder = nnx.merge(graph, params, stats, copy=True)
        taps = encoder(x)
        total = sum(jnp.vdot(tap, d) for tap, d in zip(taps, directions, strict=True))
        return total, (taps, nnx.state(encoder, nnx.BatchStat))

    function = jax.jit(jax.grad(projected, argnums=(0, 1), has_aux=True))

    def named_gradients(x: np.ndarray, directions: list[np.ndarray]) -> tuple:
        narrow = [np.float32(d) for d in directions]
        (by_parameter, by_image), (taps, statistics) = function(params, x, narrow)
        return taps, as_torch(statistics), {"images": by_image, **as_torch(by_parameter)}

    return named_gradients


def test_there_is_a_reference_for_every_encoder():
    """Transformers have theirs in `test_transformer_parity`."""
    convolutional = {name for name, entry in ENCODERS.entries.items() if "patch" not in entry.facts}
    assert set(RESNETS) | set(SCALES) == convolutional
    assert set(FEATURES) | set(GRADIENTS) | set(ELSEWHERE) == convolutional


GRADIENTS = ("resnet18", "resnet50", "efficientnet_lite0")
FEATURES = ("resnet34", "resnet101", "resnet152", "efficientnet_lite4")
ELSEWHERE = {
    "resnext101_32x8d": "test_preset_parity, in midas_v21",
    "efficientnet_lite3": "test_preset_parity, in midas_v21_small",
    "efficientnet_lite1": "test_imagenet_weights, with the real weights",
    "efficientnet_lite2": "test_imagenet_weights, with the real weights",
}


@pytest.mark.parametrize("name", FEATURES)
def test_features_agree(name: str, parity: Callable[..., None]):
    module, model = make_pair.__wrapped__(name)  # Each is used once: not kept.
    module.eval()
    x = images(1)[:1]
    with torch.no_grad():
        expected = [channels_last(tap) for tap in module(to_torch(x))]
    graph, state = nnx.split(nnx.view(model, use_running_average=True))
    taps = jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, x)
    parity(f"{name}: features", named(taps), named(expected), FORWARD)


@pytest.mark.parametrize("name", [name for name in SCALES if name in ELSEWHERE])
def test_blocks_are_those_of_the_reference(name: str):
    """What each block is, without compiling it; what such blocks compute is compared above."""
    module, model = make_pair.__wrapped__(name)
    ours = dict(nnx.iter_modules(model))
    theirs = {path.replace(".", "/"): part for path, part in module.named_modules() if path}
    found = {"/".join(map(str, path)): part for path, part in ours.items() if path}
    compared = 0
    for path, part in theirs.items():
        if isinstance(part, nn.Conv2d):
            conv = found[path]
            assert isinstance(conv, nnx.Conv)
            assert (conv.kernel_size, conv.strides) == (part.kernel_size, part.stride[0]), path
            assert (conv.feature_group_count, conv.bias) == (part.groups, None), path
            assert conv.padding == "SAME"
        elif isinstance(part, nn.BatchNorm2d):
            norm = found[path]
            assert isinstance(norm, nnx.BatchNorm)
            assert part.momentum is not None
            assert (norm.epsilon, norm.momentum) == (part.eps, 1 - part.momentum), path
        elif hasattr(part, "has_skip"):
            assert getattr(found[path], "has_skip") == part.has_skip, path  # noqa: B009
        else:
            continue
        compared += 1
    assert compared > 100


@pytest.mark.parametrize(
    ("size", "stride", "height", "width"), [(5, 2, 8, 10), (3, 2, 7, 8), (3, 1, 6, 5)]
)
def test_a_block_has_the_padding_and_the_epsilon_of_tensorflow(
    size: int, stride: int, height: int, width: int, parity: Callable[..., None]
):
    rng = np.random.default_rng(size)
    x = rng.normal(size=(2, height, width, 6)).astype(np.float32)
    block = InvertedResidual(
        6, 6, size, stride, expansion=2, dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0)
    )

    def reference(**quirks: Any) -> np.ndarray:
        sizes = (6, 6, size, stride, 2)
        module = TorchBlock(*sizes, **{"eps": 1e-3, "same_padding": True} | quirks)
        randomise(module, seed=1)
        # Small variances, beside which epsilon counts.
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(0.02)
        load(block, module)
        with torch.no_grad():
            return channels_last(module.double().eval()(to_torch(x)))

    others = [reference(eps=1e-5)]
    if stride == 2:
        others.append(reference(same_padding=False))
    expected = reference()
    graph, state = nnx.split(nnx.view(block, use_running_average=True))
    got = np.asarray(jax.jit(lambda state, x: nnx.merge(graph, state)(x))(state, x))
    parity(f"block {size}x{size}, stride {stride}", {"y": got}, {"y": expected}, FORWARD)
    # The quirks can be seen.
    for other in others:
        assert np.abs(other - expected).max() > 100 * FORWARD * np.abs(expected).max()


@pytest.mark.parametrize("name", GRADIENTS)
def test_features_and_gradients_agree(
    name: str, parity: Callable[..., None], gradient_parity: Callable[..., None]
):
    module, model = make_pair(name)
    module.eval()
    ours = our_gradients(model, training=False)

    def attempts() -> Iterator[tuple[dict, dict]]:
        for seed in SEEDS:
            expected, directions, gradients = torch_gradients(module, seed)
            taps, _, got = ours(images(seed), directions)
            if seed == SEEDS[0]:
                parity(f"{name}: features", named(taps), named(expected), FORWARD)
            yield got, gradients

    gradient_parity(f"{name}: gradients", attempts(), GRADIENT)


@pytest.mark.parametrize("name", ["resnet50", "efficientnet_lite0"])
def test_training_mode_agrees(name: str, parity: Callable[..., None]):
    """Features with batch statistics, and the running statistics afterwards."""
    module, model = make_pair(name)
    module = copy.deepcopy(module).train()
    before, counts = running_statistics(module), count_batch_values(module)
    with torch.no_grad():
        expected = [channels_last(tap) for tap in module(to_torch(images(1)))]
    graph, state = nnx.split(nnx.view(model, use_running_average=False))

    def forward(state: nnx.State, x: jax.Array) -> tuple[list[jax.Array], nnx.State]:
        encoder = nnx.merge(graph, state, copy=True)
        return encoder(x), nnx.state(encoder, nnx.BatchStat)

    taps, got = jax.jit(forward)(state, jnp.asarray(images(1)))
    statistics = biased_statistics(module, before, counts)
    parity(f"{name}, training: features", named(taps), named(expected), TRAIN_FORWARD)
    parity(f"{name}, training: running statistics", as_torch(got), statistics, STATISTICS)


def test_training_mode_agrees_with_its_gradients(
    parity: Callable[..., None], gradient_parity: Callable[..., None]
):
    """The shallowest only: with ResNet-50 most inputs put some value within rounding of a ReLU.

    In EfficientNet-Lite many gradients are zero: biases whose sum goes into another BatchNorm only.
    """
    original, model = make_pair("resnet18")
    ours = our_gradients(model, training=True)

    def attempts() -> Iterator[tuple[dict, dict]]:
        for seed in SEEDS:
            module = copy.deepcopy(original).train()
            before, counts = running_statistics(module), count_batch_values(module)
            expected, directions, gradients = torch_gradients(module, seed)
            taps, got, ours_by_name = ours(images(seed), directions)
            if seed == SEEDS[0]:
                statistics = biased_statistics(module, before, counts)
                parity("resnet18, training: features", named(taps), named(expected), TRAIN_FORWARD)
                parity("resnet18, training: running statistics", got, statistics, STATISTICS)
            yield ours_by_name, gradients

    gradient_parity("resnet18, training: gradients", attempts(), TRAIN_GRADIENT)


def running_statistics(module: nn.Module) -> dict[str, np.ndarray]:
    return {key: value.numpy().copy() for key, value in module.named_buffers()}


def count_batch_values(module: nn.Module) -> dict[str, int]:
    """Return a dictionary that forward passes fill: values per channel by BatchNorm's name."""
    counts: dict[str, int] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor]) -> None:
            counts[name] = inputs[0].numel() // inputs[0].shape[1]

        return hook

    for name, part in module.named_modules():
        if isinstance(part, nn.BatchNorm2d):
            part.register_forward_pre_hook(note(name))
    return counts


def biased_statistics(
    module: nn.Module, before: dict[str, np.ndarray], counts: dict[str, int]
) -> dict[str, np.ndarray]:
    """Return torch's running statistics after one batch, as if kept with the biased variance.

    torch adds the momentum's share of the unbiased variance of the batch's n values, Flax of the
    biased one, (n - 1) / n of it.
    """
    statistics = {}
    for key, value in module.named_buffers():
        if key.endswith("running_mean"):
            statistics[key] = value.numpy().copy()
        elif key.endswith("running_var"):
            name = key.removesuffix(".running_var")
            n = counts[name]
            norm = module.get_submodule(name)
            assert isinstance(norm, nn.BatchNorm2d)
            assert norm.momentum is not None
            kept = (1 - norm.momentum) * before[key]
            statistics[key] = kept + (value.numpy() - kept) * (n - 1) / n
    return statistics


@pytest.mark.parametrize("offset", [0.0, -10.0], ids=["mixed", "negative"])
def test_max_pooling_agrees(offset: float, parity: Callable[..., None]):
    """All-negative input tells padding with -inf from padding with zeros."""
    x = images(1) + np.float32(offset)
    tensor = to_torch(x).requires_grad_()
    output = nn.functional.max_pool2d(tensor, 3, stride=2, padding=1)
    direction = np.random.default_rng(3).normal(size=(2, 32, 48, 3)).astype(np.float32)
    output.backward(to_torch(direction))
    got, pull = jax.vjp(max_pool_3x3, jnp.asarray(x))
    parity(
        f"max pooling, offset {offset}",
        {"output": got, "gradient": pull(jnp.asarray(direction))[0]},
        {"output": channels_last(output), "gradient": channels_last(_gradient(tensor))},
        POOLING,
    )
